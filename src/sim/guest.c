/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A guest's life: see guest.h. It is born halted, boots when it runs, and ends by itself, or with
 * the last handle of its owner's to its events object, so that a killed QEMU takes its guest along.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "core/text.h"
#include "sim/guest_state.h"

#define GUEST_BOOT_NS (900 * KELPIE_NS_PER_MS) /* of the kernel, to its first process */
#define GUEST_PORT_NS (12 * KELPIE_NS_PER_MS)  /* of the driver, to the port's name */
#define GUEST_DISK_BYTES_OF_MIB (512u * 1024u) /* the root is memory: half of it */
#define GUEST_TICK_NS KELPIE_NS_PER_MS
#define GUEST_WALL_NS 1735689600000000000 /* 2025-01-01: what its RTC says */

/* ---- the owner's object ---------------------------------------------------------------------- */

struct guest_events {
    struct sim_object object;
    struct sim_guest *guest; /* NULL: destroyed */
};

static uint32_t events_ready(struct sim_object *object) {
    const struct guest_events *events = KELPIE_CONTAINER_OF(object, struct guest_events, object);
    const struct sim_guest *guest = events->guest;
    if (guest == NULL) {
        return KELPIE_OS_HANGUP;
    }
    bool is_readable = guest->has_output || guest->end != SIM_GUEST_LIVES;
    return (is_readable ? (uint32_t)KELPIE_OS_READABLE : 0) |
           (guest->has_room ? (uint32_t)KELPIE_OS_WRITABLE : 0);
}

static void events_close(struct sim_object *object) {
    struct guest_events *events = KELPIE_CONTAINER_OF(object, struct guest_events, object);
    struct sim_guest *guest = events->guest;
    if (guest != NULL) {
        guest->events = NULL;
        kelpie__sim_guest_destroy(guest);
    }
    kelpie__sim_heap_free(object->machine->heap, events, sizeof(*events));
}

static const struct sim_object_operations events_operations = {
    .kind = "guest",
    .ready = events_ready,
    .close = events_close,
};

/* The owner's own handle is the only reference: it dies with the owner. */
static bool guest_open_events(struct sim_guest *guest) {
    struct sim_machine *host = guest->owner->machine;
    struct guest_events *events = kelpie__sim_heap_alloc(host->heap, sizeof(*events));
    if (events == NULL) {
        return false;
    }
    kelpie__sim_object_init(&events->object, host, &events_operations);
    events->guest = guest;
    int handle = kelpie__sim_handle_install(guest->owner, &events->object);
    if (handle < 0) {
        events->guest = NULL;
    } else {
        guest->events = &events->object;
        guest->events_handle = handle;
    }
    kelpie__sim_object_unref(&events->object);
    return handle >= 0;
}

struct sim_object *kelpie__sim_guest_events(struct sim_guest *guest) {
    KELPIE_ASSERT(guest->events != NULL);
    return guest->events;
}

void kelpie__sim_guest_look(struct sim_guest *guest) {
    const struct sim_kernel *kernel = guest->kernel;
    KELPIE_ASSERT(guest->slot->resident == guest);
    guest->has_output = kernel->vsock == SIM_VSOCK_DIALLING ||
                        kelpie__sim_queue_count(&kernel->to_host) > 0 ||
                        kelpie__sim_queue_count(&kernel->console) > 0;
    guest->has_room = kelpie__sim_queue_room(&kernel->to_guest) > 0 || kernel->is_deaf;
}

void kelpie__sim_guest_tell(struct sim_guest *guest) {
    kelpie__sim_guest_look(guest);
    if (guest->events != NULL) {
        kelpie__sim_object_changed(guest->events);
    }
}

static void guest_emit(struct sim_guest *guest, const char *detail) {
    const struct sim_event event = {
        .type = SIM_EVENT_GUEST, .process = guest->owner, .guest = guest, .detail = detail};
    kelpie__sim_world_emit(guest->world, &event);
}

/* ---- time ------------------------------------------------------------------------------------ */

int64_t kelpie__sim_guest_now(const struct sim_guest *guest) {
    return guest->is_running ? kelpie__sim_now(guest->world) + guest->offset_ns : guest->frozen_ns;
}

static bool guest_may_run(const struct sim_guest *guest) {
    return guest->is_running && guest->end == SIM_GUEST_LIVES && !guest->owner->is_stopped;
}

bool kelpie__sim_guest_is_ready(const struct sim_guest *guest) {
    return guest->has_ready && guest_may_run(guest);
}

int64_t kelpie__sim_guest_deadline(const struct sim_guest *guest) {
    return guest_may_run(guest) ? guest->deadline_ns : -1;
}

#define GUEST_WORDS_MAX 8u

/* The kernel gives to process 1 what it does not know of its command line: our own words. `text` is
 * a copy of that line, and is cut up. */
static void guest_environment(char *text, const char *out[GUEST_WORDS_MAX]) {
    uint32_t count = 2;
    out[0] = "HOME=/";
    out[1] = "TERM=linux";
    for (char *word = strstr(text, "KELPIE_"); word != NULL && count < GUEST_WORDS_MAX - 1;) {
        size_t length = strcspn(word, " ");
        char *next = word[length] == '\0' ? NULL : word + length + 1;
        word[length] = '\0';
        out[count] = word;
        count += 1;
        word = next == NULL ? NULL : strstr(next, "KELPIE_");
    }
    KELPIE_ASSERT(count < GUEST_WORDS_MAX);
    out[count] = NULL;
}

/* The first process, /init, as the kernel starts it. */
static void guest_start_init(struct sim_guest *guest) {
    static const char *const argv[] = {"/init", NULL};
    const char *environment[GUEST_WORDS_MAX];
    char words[sizeof(guest->kernel->command_line)];
    struct sim_kernel *kernel = guest->kernel;
    memcpy(words, kernel->command_line, sizeof(words));
    guest_environment(words, environment);
    KELPIE_ASSERT(!kernel->is_booted);
    kernel->is_booted = true;
    kernel->port_named_ns = kelpie__sim_guest_now(guest) +
                            kelpie__sim_about(guest->world, SIM_STREAM_GUEST, GUEST_PORT_NS);
    if (!kernel->has_init) {
        kelpie__sim_guest_panic(guest, "No working init found.  Try passing init= option to "
                                       "kernel.");
        return;
    }
    const struct sim_start start = {.path = "/init",
                                    .role = "agent",
                                    .main = kelpie_agent_main,
                                    .stack_bytes = SIM_GUEST_AGENT_STACK_BYTES,
                                    .argv = argv,
                                    .environment = environment};
    struct sim_process *process = kelpie__sim_process_start(guest->machine, &start);
    if (process == NULL || kelpie__sim_guest_adopt_init(process) < 0) {
        kelpie__sim_guest_panic(guest, "Out of memory: no process for init");
        return;
    }
    KELPIE_ASSERT(process->pid == 1);
}

/* A guest from a damaged image: its memory is not what it was. It says something wild, then dies.
 */
static void guest_suffer(struct sim_guest *guest) {
    struct sim_kernel *kernel = guest->kernel;
    uint64_t hash = kernel->damage;
    uint8_t garbage[64];
    kernel->damage = 0;
    for (size_t i = 0; i < sizeof(garbage); i += 1) {
        hash = hash * 6364136223846793005u + 1442695040888963407u;
        garbage[i] = (uint8_t)(hash >> 56);
    }
    if (hash % 2 == 0) {
        kelpie__ignore((int64_t)kelpie__sim_queue_put(&kernel->to_host, garbage, sizeof(garbage)));
        kernel->is_hung = true;
        kelpie__sim_guest_tell(guest);
        return;
    }
    kelpie__sim_guest_panic(guest, "Fatal exception in interrupt");
}

struct sim_machine *kelpie__sim_guest_enter(struct sim_guest *guest) {
    kelpie__sim_guest_slot_enter(guest);
    struct sim_kernel *kernel = guest->kernel;
    KELPIE_ASSERT(guest->machine->guest == guest);
    if (!guest_may_run(guest) || kernel->is_hung) {
        return guest->machine;
    }
    int64_t now_ns = kelpie__sim_guest_now(guest);
    if (kernel->damage != 0) {
        guest_suffer(guest);
    } else if (!kernel->is_booted && now_ns >= kernel->boot_ns) {
        guest_start_init(guest);
    }
    kelpie__sim_machine_expire(guest->machine);
    return guest->machine;
}

bool kelpie__sim_guest_is_silent(const struct sim_guest *guest) {
    int64_t deadline_ns = kelpie__sim_guest_deadline(guest);
    bool is_due = kelpie__sim_guest_is_ready(guest) ||
                  (deadline_ns >= 0 && deadline_ns <= kelpie__sim_now(guest->world));
    return guest->slot->resident != guest && !guest->has_output && !is_due;
}

/* In its own time; -1: nobody waits for a time. */
static int64_t guest_next(const struct sim_guest *guest) {
    if (guest->kernel->damage != 0) {
        return kelpie__sim_guest_now(guest);
    }
    if (!guest->kernel->is_booted) {
        return guest->kernel->boot_ns;
    }
    return kelpie__sim_machine_deadline(guest->machine);
}

void kelpie__sim_guest_update(struct sim_guest *guest) {
    bool may_run = guest->is_running && guest->end == SIM_GUEST_LIVES;
    KELPIE_ASSERT(!may_run || guest->slot->resident == guest);
    guest->has_ready = false;
    guest->deadline_ns = -1;
    if (may_run && !guest->kernel->is_hung) {
        int64_t next_ns = guest_next(guest);
        int64_t world_ns = next_ns - guest->machine->monotonic_offset_ns;
        guest->has_ready = kelpie__sim_machine_is_ready(guest->machine);
        guest->deadline_ns = next_ns < 0 ? -1 : world_ns < 0 ? 0 : world_ns;
    }
    kelpie__sim_world_guest_changed(guest->world, guest);
}

void kelpie__sim_guest_run(struct sim_guest *guest) {
    if (guest->is_running || guest->end != SIM_GUEST_LIVES) {
        return;
    }
    kelpie__sim_guest_slot_enter(guest);
    guest->offset_ns = guest->frozen_ns - kelpie__sim_now(guest->world);
    guest->machine->monotonic_offset_ns = guest->offset_ns;
    guest->is_running = true;
    KELPIE_ASSERT(kelpie__sim_guest_now(guest) == guest->frozen_ns);
    guest_emit(guest, "runs");
    kelpie__sim_guest_update(guest);
}

void kelpie__sim_guest_halt(struct sim_guest *guest) {
    if (!guest->is_running) { /* wherever its memory is now */
        return;
    }
    guest->frozen_ns = kelpie__sim_guest_now(guest);
    guest->is_running = false;
    guest_emit(guest, "halted");
    kelpie__sim_guest_update(guest);
}

/* libkrun's guest is paused by stopping its process: there it stands still by our will. */
bool kelpie__sim_guest_is_running(const struct sim_guest *guest) {
    bool is_frozen = guest->owner->is_stopped && strcmp(guest->owner->role, "krun") == 0;
    KELPIE_ASSERT(guest->owner->role[0] != '\0');
    return guest->is_running && !is_frozen;
}

enum sim_guest_end kelpie__sim_guest_end(const struct sim_guest *guest) {
    return guest->end;
}

void kelpie__sim_guest_finish(struct sim_guest *guest, enum sim_guest_end end) {
    KELPIE_ASSERT(end != SIM_GUEST_LIVES);
    if (guest->end != SIM_GUEST_LIVES) {
        return;
    }
    kelpie__sim_guest_slot_enter(guest);
    guest->frozen_ns = kelpie__sim_guest_now(guest);
    guest->is_running = false;
    guest->end = end;
    guest_emit(guest, end == SIM_GUEST_RESET ? "reset" : "powered off");
    kelpie__sim_guest_tell(guest);
    kelpie__sim_guest_update(guest);
}

/* ---- birth and death ------------------------------------------------------------------------- */

static struct sim_guest *guest_new(struct sim_process *owner) {
    KELPIE_ASSERT(owner->machine->guest == NULL);
    struct sim_guest *guest = calloc(1, sizeof(*guest));
    if (guest == NULL) {
        return NULL;
    }
    guest->world = owner->machine->world;
    guest->owner = owner;
    guest->deadline_ns = -1;
    guest->id = kelpie__sim_guest_number(guest->world);
    return guest;
}

static void guest_copy_text(char *out, size_t capacity, const char *text) {
    size_t length = text == NULL ? 0 : strnlen(text, capacity - 1);
    if (length > 0) {
        memcpy(out, text, length);
    }
    out[length] = '\0';
}

static void guest_draw(struct sim_world *world, uint8_t *out, size_t count) {
    KELPIE_ASSERT(count % sizeof(uint64_t) == 0);
    for (size_t i = 0; i < count; i += sizeof(uint64_t)) {
        uint64_t word = kelpie__sim_draw(world, SIM_STREAM_GUEST);
        for (size_t j = 0; j < sizeof(word); j += 1) {
            out[i + j] = (uint8_t)(word >> (8 * j));
        }
    }
}

static void guest_name_boot(struct sim_guest *guest) {
    uint8_t id[16];
    guest_draw(guest->world, id, sizeof(id));
    id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
    id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
    char *at = guest->machine->boot_id;
    for (size_t i = 0; i < sizeof(id); i += 1) {
        bool has_dash = i == 4 || i == 6 || i == 8 || i == 10;
        *at = '-';
        at += has_dash ? 1 : 0;
        kelpie__text_hex(at, 3, &id[i], 1);
        at += 2;
    }
    KELPIE_ASSERT(strlen(guest->machine->boot_id) == 36);
}

static bool guest_make_kernel(struct sim_guest *guest, const struct sim_guest_config *config) {
    struct sim_heap *heap =
        kelpie__sim_heap_init(guest->slot->base, SIM_GUEST_SLOT_BYTES, SIM_RANGE_KEPT_BYTES);
    struct sim_kernel *kernel = kelpie__sim_heap_alloc(heap, sizeof(*kernel));
    if (kernel == NULL || config->disk_count > SIM_KERNEL_DISK_MAX) {
        return false;
    }
    guest->kernel = kernel;
    guest_draw(guest->world, kernel->nonce, sizeof(kernel->nonce));
    kernel->lineage = guest->id;
    kernel->memory_mib = config->memory_mib;
    kernel->cpu_count = config->cpu_count;
    kernel->has_init = config->has_init;
    kernel->vsock = config->has_vsock ? SIM_VSOCK_IDLE : SIM_VSOCK_NONE;
    kernel->disk_count = config->disks == NULL ? 0 : config->disk_count;
    kernel->boot_ns = kelpie__sim_about(guest->world, SIM_STREAM_GUEST, GUEST_BOOT_NS);
    guest_copy_text(kernel->port_name, sizeof(kernel->port_name), config->port_name);
    guest_copy_text(kernel->command_line, sizeof(kernel->command_line), config->command_line);
    kernel->reboots_on_panic = strstr(kernel->command_line, "panic=-1") != NULL;
    for (uint32_t i = 0; i < kernel->disk_count; i += 1) {
        struct sim_kernel_disk *disk = &kernel->disks[i];
        guest_copy_text(disk->serial, sizeof(disk->serial), config->disks[i].serial);
        guest_copy_text(disk->path, sizeof(disk->path), config->disks[i].path);
        disk->is_read_only = config->disks[i].is_read_only;
    }
    return kelpie__sim_queue_init(&kernel->to_guest, heap, SIM_KERNEL_QUEUE_BYTES) &&
           kelpie__sim_queue_init(&kernel->to_host, heap, SIM_KERNEL_QUEUE_BYTES) &&
           kelpie__sim_queue_init(&kernel->console, heap, SIM_KERNEL_CONSOLE_BYTES);
}

static bool guest_make_machine(struct sim_guest *guest, const struct sim_guest_config *config) {
    struct sim_heap *heap = guest->slot->base;
    struct sim_machine *machine = kelpie__sim_machine_create(guest->world, heap);
    if (machine == NULL) {
        return false;
    }
    machine->guest = guest;
    guest->machine = machine;
    machine->tsc_khz = config->tsc_khz;
    machine->wall_offset_ns = GUEST_WALL_NS;
    machine->pid_next = 1;
    guest_copy_text(machine->hostname, sizeof(machine->hostname), "(none)");
    guest_draw(guest->world, (uint8_t *)machine->random_state, sizeof(machine->random_state));
    guest_name_boot(guest);
    return kelpie__sim_guest_lay_out(guest,
                                     (uint64_t)config->memory_mib * GUEST_DISK_BYTES_OF_MIB) == 0;
}

static struct sim_guest *guest_give_up(struct sim_guest *guest) {
    if (guest->slot != NULL) {
        kelpie__sim_guest_slot_leave(guest);
    }
    free(guest);
    return NULL;
}

struct sim_guest *kelpie__sim_guest_create(struct sim_process *owner,
                                           const struct sim_guest_config *config) {
    KELPIE_ASSERT(config->memory_mib > 0);
    struct sim_guest *guest = guest_new(owner);
    if (guest == NULL) {
        return NULL;
    }
    guest->lineage = guest->id;
    if (!kelpie__sim_guest_slot_take(guest) || !guest_make_kernel(guest, config) ||
        !guest_make_machine(guest, config) || !guest_open_events(guest)) {
        return guest_give_up(guest);
    }
    kelpie__sim_world_add_guest(guest->world, guest);
    guest_emit(guest, "created");
    kelpie__sim_guest_tell(guest);
    kelpie__sim_guest_update(guest);
    return guest;
}

struct sim_guest *kelpie__sim_guest_load(struct sim_process *owner, const void *image,
                                         size_t count) {
    struct sim_guest *guest = guest_new(owner);
    if (guest == NULL) {
        return NULL;
    }
    if (!kelpie__sim_guest_image_apply(guest, image, count) || !guest_open_events(guest)) {
        return guest_give_up(guest);
    }
    kelpie__sim_world_add_guest(guest->world, guest);
    guest_emit(guest, "loaded");
    kelpie__sim_guest_tell(guest);
    kelpie__sim_guest_update(guest);
    return guest;
}

void kelpie__sim_guest_destroy(struct sim_guest *guest) {
    if (guest == NULL) {
        return;
    }
    if (guest->events != NULL) {
        struct guest_events *events =
            KELPIE_CONTAINER_OF(guest->events, struct guest_events, object);
        KELPIE_ASSERT(events->guest == guest);
        events->guest = NULL;
        kelpie__sim_object_changed(guest->events);
        if (kelpie__sim_handle_object(guest->owner, guest->events_handle) == guest->events) {
            kelpie__ignore(kelpie__sim_handle_close(guest->owner, guest->events_handle));
        }
        guest->events = NULL;
    }
    guest_emit(guest, "destroyed");
    kelpie__sim_world_remove_guest(guest->world, guest);
    kelpie__sim_guest_slot_leave(guest);
    free(guest);
}
