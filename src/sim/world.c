/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The world's record: its life, virtual time and its timers, stacks, programs, guests, observers,
 * the rolling hash.
 */
#include "sim/world.h"
#include "os/os_mark.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "sim/core.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/heap.h"
#include "sim/install.h"
#include "sim/told.h"
#include "sim/trace.h"

#define WORLD_START_NS INT64_C(1000000000)
#define WORLD_WALL_NS INT64_C(1767225600000000000) /* 2026-01-01 */
#define WORLD_DISK_BYTES (UINT64_C(64) << 30)
#define WORLD_EVENTS_FIRST 64u
#define WORLD_TSC_KHZ 2400000u

/* ---- time ------------------------------------------------------------------------------------ */

int64_t kelpie__sim_now(const struct sim_world *world) {
    return world->now_ns;
}

static bool event_precedes(const struct sim_event_at *a, const struct sim_event_at *b) {
    return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->order < b->order;
}

void kelpie__sim_at(struct sim_world *world, int64_t time_ns, sim_timer_callback callback,
                    void *context, uint64_t argument) {
    if (world->event_count == world->event_capacity) {
        uint32_t capacity =
            world->event_capacity == 0 ? WORLD_EVENTS_FIRST : 2 * world->event_capacity;
        struct sim_event_at *events = realloc(world->events, capacity * sizeof(*events));
        KELPIE_ASSERT(events != NULL); /* the simulator's own memory is not what is tested */
        world->events = events;
        world->event_capacity = capacity;
    }
    world->event_order += 1;
    const struct sim_event_at event = {.time_ns = time_ns,
                                       .order = world->event_order,
                                       .callback = callback,
                                       .context = context,
                                       .argument = argument};
    uint32_t index = world->event_count;
    world->event_count += 1;
    while (index > 0 && event_precedes(&event, &world->events[(index - 1) / 2])) {
        world->events[index] = world->events[(index - 1) / 2];
        index = (index - 1) / 2;
    }
    world->events[index] = event;
}

static struct sim_event_at event_pop(struct sim_world *world) {
    struct sim_event_at first = world->events[0];
    KELPIE_ASSERT(world->event_count > 0);
    world->event_count -= 1;
    struct sim_event_at moved = world->events[world->event_count];
    uint32_t count = world->event_count;
    uint32_t index = 0;
    uint32_t child = 1;
    while (child < count) { /* bound: the heap's depth */
        if (child + 1 < count && event_precedes(&world->events[child + 1], &world->events[child])) {
            child += 1;
        }
        if (!event_precedes(&world->events[child], &moved)) {
            break;
        }
        world->events[index] = world->events[child];
        index = child;
        child = 2 * index + 1;
    }
    world->events[index] = moved;
    return first;
}

static int64_t host_deadline(const struct sim_world *world) {
    int64_t deadline_ns = kelpie__sim_machine_deadline(world->host);
    return deadline_ns < 0 ? -1 : deadline_ns - world->host->monotonic_offset_ns;
}

static int64_t earlier(int64_t a, int64_t b) { /* -1: never */
    if (a < 0 || b < 0) {
        return a < 0 ? b : a;
    }
    return a < b ? a : b;
}

int64_t kelpie__sim_world_next(const struct sim_world *world) {
    int64_t next_ns = world->event_count > 0 ? world->events[0].time_ns : -1;
    next_ns = earlier(earlier(next_ns, host_deadline(world)), world->guest_deadline_ns);
    return next_ns >= 0 && next_ns < world->now_ns ? world->now_ns : next_ns;
}

static void fire_guests(struct sim_world *world) {
    for (uint32_t i = 0; i < world->guest_count; i += 1) {
        struct sim_guest_entry *entry = &world->guests[i];
        if (entry->deadline_ns >= 0 && entry->deadline_ns <= world->now_ns) {
            kelpie__sim_machine_expire(kelpie__sim_guest_enter(entry->guest));
            kelpie__sim_guest_update(entry->guest);
        }
    }
}

void kelpie__sim_world_fire(struct sim_world *world) {
    for (uint32_t budget = world->event_count;
         budget > 0 && world->event_count > 0 && world->events[0].time_ns <= world->now_ns;
         budget -= 1) {
        struct sim_event_at event = event_pop(world);
        event.callback(world, event.context, event.argument);
    }
    int64_t deadline_ns = host_deadline(world);
    if (deadline_ns >= 0 && deadline_ns <= world->now_ns) {
        kelpie__sim_machine_expire(world->host);
    }
    if (world->guest_deadline_ns >= 0 && world->guest_deadline_ns <= world->now_ns) {
        fire_guests(world);
    }
}

void kelpie__sim_jump_wall(struct sim_world *world, int64_t delta_ns) {
    world->host->wall_offset_ns += delta_ns;
    kelpie__sim_world_mix(world, &delta_ns, sizeof(delta_ns));
}

/* ---- life ------------------------------------------------------------------------------------ */

#ifdef KELPIE_SIMULATION
static void world_mark(struct kelpie_os *os, const struct kelpie_mark *mark) {
    struct sim_process *process = kelpie__sim_process_of(os);
    if (mark->told != NULL) {
        kelpie__sim_told(process, mark);
        return;
    }
    kelpie__sim_marks_add(&process->machine->world->marks, mark);
    kelpie__sim_world_emit(
        process->machine->world,
        &(struct sim_event){.type = SIM_EVENT_MARK, .process = process, .detail = mark->name});
}
#endif

static void world_fill_tables(struct sim_world *world) {
    struct kelpie_os *const tables[] = {&world->table_host, &world->table_guest};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(tables); i += 1) {
        tables[i]->context = world; /* a process puts itself there */
        kelpie__sim_os_fill(tables[i]);
        kelpie__sim_os_fill_streams(tables[i]);
        kelpie__sim_os_fill_files(tables[i]);
#ifdef KELPIE_SIMULATION
        tables[i]->canary = world->options.canary;
        tables[i]->mark = world_mark;
#endif
    }
    kelpie__sim_os_fill_guest(&world->table_guest);
}

static void world_seed(struct sim_world *world) {
    for (unsigned i = 0; i < SIM_STREAM_COUNT; i += 1) {
        kelpie__sim_random_seed(world->streams[i], world->options.seed, i);
    }
    for (unsigned i = 0; i < SIM_PCT_CHANGES; i += 1) {
        world->pct_changes[i] = 1 + kelpie__sim_below(world, SIM_STREAM_SCHEDULER, SIM_PCT_STEPS);
    }
    world->hash = XXH3_64bits(&world->options.seed, sizeof(world->options.seed));
}

/* Of its own for each boot of the host. */
static void world_name_boot(struct sim_world *world) {
    world->host_boots += 1;
    uint64_t id =
        kelpie__sim_fault_hash(world->options.seed, "boot-id", "host", 0, world->host_boots);
    kelpie__ignore(snprintf(world->host->boot_id, sizeof(world->host->boot_id),
                            "%08x-0000-4000-8000-%012llx", world->host_boots,
                            (unsigned long long)(id >> 16)));
}

static bool world_make_host(struct sim_world *world) {
    world->nursery = world->options.nursery;
    if (world->nursery == NULL) {
        world->nursery = kelpie__sim_nursery_create();
    }
    if (world->nursery == NULL) {
        return false;
    }
    struct sim_heap *heap = kelpie__sim_nursery_heap(world->nursery);
    world->host = kelpie__sim_machine_create(world, heap);
    if (world->host == NULL) {
        return false;
    }
    world->host->wall_offset_ns = WORLD_WALL_NS;
    world->host->tsc_khz = WORLD_TSC_KHZ;
    world_name_boot(world);
    world->host->pid_next = 1000;
    kelpie__ignore(snprintf(world->host->hostname, sizeof(world->host->hostname), "host"));
    uint64_t bytes = world->options.disk_bytes == 0 ? WORLD_DISK_BYTES : world->options.disk_bytes;
    world->host->disk = kelpie__sim_disk_create(world->host, world->options.disk_profile, bytes);
    return world->host->disk != NULL;
}

struct sim_world *kelpie__sim_world_create(const struct sim_options *options,
                                           char out_problem[256]) {
    char problem[256] = "";
    struct sim_world *world = calloc(1, sizeof(*world));
    if (world == NULL) {
        return NULL;
    }
    world->options = *options;
    world->now_ns = WORLD_START_NS;
    world->guest_deadline_ns = -1;
    world->cost_span = (uint64_t)options->cost_factor * (SIM_COST_NS_MAX + 1);
    world_seed(world);
    world_fill_tables(world);
    bool is_made = world_make_host(world);
    if (is_made) {
        world->faults = kelpie__sim_faults_create(world, options->plan, problem);
        is_made = world->faults != NULL && kelpie__sim_install(world) == 0;
    }
    if (out_problem != NULL) {
        memcpy(out_problem, problem, sizeof(problem));
    }
    if (!is_made) {
        kelpie__sim_world_destroy(world);
        return NULL;
    }
    world->options.plan = NULL; /* borrowed until here */
    return world;
}

static void world_destroy_guests(struct sim_world *world) {
    while (world->guest_count > 0) { /* bound: each leaves the list */
        kelpie__sim_guest_destroy(world->guests[world->guest_count - 1].guest);
    }
    kelpie__sim_guest_slots_destroy(world);
}

void kelpie__sim_world_destroy(struct sim_world *world) {
    if (world == NULL) {
        return;
    }
    KELPIE_ASSERT(!world->is_running);
    world_destroy_guests(world);
    kelpie__sim_faults_destroy(world->faults);
    if (world->options.nursery == NULL) {
        kelpie__sim_nursery_destroy(world->nursery);
    } else {
        kelpie__sim_nursery_give(world->nursery);
    }
    for (unsigned i = 0; i < SIM_PROGRAM_BUCKETS; i += 1) {
        struct sim_program *program = world->programs[i];
        while (program != NULL) { /* bound: the list */
            struct sim_program *next = program->next;
            free(program);
            program = next;
        }
    }
    free(world->events);
    free(world);
}

void kelpie__sim_world_power_loss(struct sim_world *world) {
    struct sim_process *current = world->current;
    if (current != NULL && !current->is_embedder) { /* on its stack: the scheduler does the rest */
        world->is_power_lost = true;
        current->is_ending = true;
        return;
    }
    world->is_power_lost = true; /* nothing that ends now is seen by anybody */
    kelpie__sim_machine_clear(world->host);
    while (world->guest_count > 0) { /* those whose owner did not take them along */
        kelpie__sim_guest_destroy(world->guests[world->guest_count - 1].guest);
    }
    if (world->crash != NULL) {
        world->crash(world->crash_context, world->host->disk);
    } else {
        kelpie__sim_disk_crash(world->host->disk);
    }
    world->is_power_lost = false;
    world_name_boot(world);
    kelpie__sim_world_emit(world, &(struct sim_event){.type = SIM_EVENT_POWER_LOSS, .detail = ""});
}

void kelpie__sim_world_reseed(struct sim_world *world, uint64_t seed) {
    for (uint64_t i = 0; i < SIM_STREAM_COUNT; i += 1) {
        kelpie__sim_random_seed(world->streams[i], seed, i);
    }
    world->options.seed = seed;
    kelpie__sim_faults_reseed(world->faults, seed);
}

void kelpie__sim_world_set_crash(struct sim_world *world,
                                 void (*crash)(void *context, struct sim_disk *disk),
                                 void *context) {
    KELPIE_ASSERT(crash != NULL && world->crash == NULL);
    world->crash = crash;
    world->crash_context = context;
}

void kelpie__sim_world_fail(struct sim_world *world, const char *format, ...) {
    if (world->has_failed) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(world->failure, sizeof(world->failure), format, arguments));
    va_end(arguments);
    world->has_failed = true;
}

const char *kelpie__sim_world_failure(const struct sim_world *world) {
    return world->has_failed ? world->failure : NULL;
}

/* ---- programs -------------------------------------------------------------------------------- */

static unsigned program_bucket(bool is_guest, const char *path) {
    return (unsigned)(XXH3_64bits_withSeed(path, strlen(path), is_guest ? 1 : 0) %
                      SIM_PROGRAM_BUCKETS);
}

void kelpie__sim_program_add(struct sim_world *world, bool is_guest, const char *path,
                             const char *role, sim_main main, uint32_t stack_bytes) {
    KELPIE_ASSERT(strlen(path) < sizeof(world->programs[0]->path));
    KELPIE_ASSERT(strlen(role) < SIM_NAME_BYTES_MAX);
    struct sim_program **bucket = &world->programs[program_bucket(is_guest, path)];
    struct sim_program *program = calloc(1, sizeof(*program));
    KELPIE_ASSERT(program != NULL);
    program->is_guest = is_guest;
    program->stack_bytes = stack_bytes;
    program->main = main;
    memcpy(program->role, role, strlen(role) + 1);
    memcpy(program->path, path, strlen(path) + 1);
    program->next = *bucket; /* the last that was added is found */
    *bucket = program;
}

const struct sim_program *kelpie__sim_program_find(const struct sim_world *world, bool is_guest,
                                                   const char *path) {
    const struct sim_program *program = world->programs[program_bucket(is_guest, path)];
    while (program != NULL && (program->is_guest != is_guest || strcmp(program->path, path) != 0)) {
        program = program->next;
    }
    return program;
}

/* ---- guests ---------------------------------------------------------------------------------- */

/* Sums up what the scheduler looks at in every step. */
static void guests_summarise(struct sim_world *world) {
    world->guest_ready_count = 0;
    world->guest_deadline_ns = -1;
    for (uint32_t i = 0; i < world->guest_count; i += 1) {
        world->guest_ready_count += world->guests[i].is_ready ? 1 : 0;
        world->guest_deadline_ns = earlier(world->guest_deadline_ns, world->guests[i].deadline_ns);
    }
}

void kelpie__sim_world_add_guest(struct sim_world *world, struct sim_guest *guest) {
    KELPIE_ASSERT(world->guest_count < SIM_GUESTS_MAX);
    world->guests[world->guest_count] = (struct sim_guest_entry){.guest = guest, .deadline_ns = -1};
    world->guest_count += 1;
}

static uint32_t guest_index(const struct sim_world *world, const struct sim_guest *guest) {
    uint32_t index = 0;
    while (index < world->guest_count && world->guests[index].guest != guest) {
        index += 1;
    }
    return index;
}

void kelpie__sim_world_remove_guest(struct sim_world *world, struct sim_guest *guest) {
    uint32_t index = guest_index(world, guest);
    KELPIE_ASSERT(index < world->guest_count);
    world->guest_count -= 1;
    memmove(&world->guests[index], &world->guests[index + 1],
            (world->guest_count - index) * sizeof(world->guests[0]));
    guests_summarise(world);
}

void kelpie__sim_world_guest_changed(struct sim_world *world, struct sim_guest *guest) {
    uint32_t index = guest_index(world, guest);
    if (index == world->guest_count) {
        return; /* it is being made, or has gone */
    }
    struct sim_guest_entry *entry = &world->guests[index];
    bool is_ready = kelpie__sim_guest_is_ready(guest);
    int64_t deadline_ns = kelpie__sim_guest_deadline(guest);
    if (is_ready != entry->is_ready || deadline_ns != entry->deadline_ns) {
        entry->is_ready = is_ready;
        entry->deadline_ns = deadline_ns;
        guests_summarise(world);
    }
}

void kelpie__sim_world_guests_refresh(struct sim_world *world) {
    for (uint32_t i = 0; i < world->guest_count; i += 1) {
        kelpie__sim_world_guest_changed(world, world->guests[i].guest);
    }
}

struct sim_guest *kelpie__sim_world_guest(struct sim_world *world, uint32_t index) {
    return index < world->guest_count ? world->guests[index].guest : NULL;
}

void **kelpie__sim_world_guest_slots(struct sim_world *world) {
    return &world->guest_slots;
}

/* ---- looking --------------------------------------------------------------------------------- */

uint64_t kelpie__sim_world_hash(const struct sim_world *world) {
    return world->hash;
}

uint64_t kelpie__sim_world_calls(const struct sim_world *world) {
    return world->calls;
}

struct sim_machine *kelpie__sim_world_host(struct sim_world *world) {
    return world->host;
}

struct sim_disk *kelpie__sim_world_disk(struct sim_world *world) {
    return world->host->disk;
}

struct sim_faults *kelpie__sim_world_faults(struct sim_world *world) {
    return world->faults;
}

const struct sim_marks *kelpie__sim_world_marks(const struct sim_world *world) {
    return &world->marks;
}

struct sim_trace *kelpie__sim_world_trace(struct sim_world *world) {
    return world->options.trace;
}

const struct sim_options *kelpie__sim_world_options(const struct sim_world *world) {
    return &world->options;
}

struct sim_process *kelpie__sim_world_current(struct sim_world *world) {
    return world->current;
}

void kelpie__sim_world_set_context(struct sim_world *world, void *context) {
    world->context = context;
}

void *kelpie__sim_world_context(const struct sim_world *world) {
    return world->context;
}

void kelpie__sim_world_observe(struct sim_world *world, sim_observer observer, void *context) {
    KELPIE_ASSERT(world->observer_count < SIM_OBSERVERS_MAX);
    world->observers[world->observer_count].callback = observer;
    world->observers[world->observer_count].context = context;
    world->observer_count += 1;
}

void kelpie__sim_world_emit(struct sim_world *world, const struct sim_event *event) {
    KELPIE_ASSERT(event->detail != NULL);
    const uint64_t head[3] = {(uint64_t)world->now_ns, (uint64_t)event->type,
                              event->process != NULL ? event->process->birth : 0};
    kelpie__sim_world_mix(world, head, sizeof(head));
    kelpie__sim_world_mix(world, event->detail, strlen(event->detail));
    if (world->options.trace != NULL) {
        kelpie__sim_trace_event(world->options.trace, world->now_ns, event);
    }
    for (uint32_t i = 0; i < world->observer_count; i += 1) {
        world->observers[i].callback(world->observers[i].context, world, event);
    }
}

void kelpie__sim_world_mix(struct sim_world *world, const void *bytes, size_t count) {
    world->hash = XXH3_64bits_withSeed(bytes, count, world->hash);
}
