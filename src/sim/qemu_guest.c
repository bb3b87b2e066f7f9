/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest of a simulated QEMU and the two streams that it has with the host: the agent's
 * virtio-serial port, both ways, and the console's output. A stream whose reader is slow holds the
 * guest's bytes back; one whose peer has gone swallows them.
 */
#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

#define GUEST_POLL_NS (5 * KELPIE_NS_PER_MS) /* while a reader is slow */
#define GUEST_PIECES_MAX 32u                 /* moved in one turn */
#define GUEST_INITRAMFS_BYTES_MAX 65536u
#define GUEST_INITRAMFS_END "TRAILER!!!"

static void guest_channel_check(const struct sim_qemu_channel *channel) {
    KELPIE_ASSERT(channel->out_start + channel->out_count <= sizeof(channel->out));
    KELPIE_ASSERT(channel->in_start + channel->in_count <= sizeof(channel->in));
    if (channel->is_watched) {
        KELPIE_ASSERT(channel->handle != KELPIE_OS_NO_HANDLE);
    }
}

/* The peer has gone: from now on the guest writes into nothing. */
static void guest_channel_close(struct sim_qemu *qemu, struct sim_qemu_channel *channel) {
    if (channel->is_watched) {
        kelpie__loop_unwatch(qemu->loop, channel->watch);
        channel->is_watched = false;
    }
    if (channel->handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(qemu->os, channel->handle));
        channel->handle = KELPIE_OS_NO_HANDLE;
    }
    channel->out_count = 0;
    guest_channel_check(channel);
}

/* Writes what is there. True: nothing is left of it. */
static bool guest_channel_flush(struct sim_qemu *qemu, struct sim_qemu_channel *channel) {
    guest_channel_check(channel);
    if (channel->held_until_ns > qemu->loop->now_ns) {
        return false;
    }
    while (channel->out_count > 0 && channel->handle != KELPIE_OS_NO_HANDLE) { /* bound: it */
        int64_t count = kelpie__os_write(qemu->os, channel->handle,
                                         channel->out + channel->out_start, channel->out_count);
        if (count == -EAGAIN || count == -EINTR) {
            return false;
        }
        if (count <= 0) {
            guest_channel_close(qemu, channel);
            return true;
        }
        KELPIE_ASSERT((uint64_t)count <= channel->out_count);
        channel->out_start += (size_t)count;
        channel->out_count -= (size_t)count;
    }
    channel->out_count = 0;
    return true;
}

static void guest_look(struct sim_qemu *qemu, bool is_out, const char *bytes, size_t count) {
    if (!qemu->options.is_incoming) {
        kelpie__sim_credit_look(&qemu->credit, qemu->process->machine->world, is_out, bytes, count);
    }
}

/* What the guest has printed or sent. True: all of it is with the host. */
static bool guest_pump_out(struct sim_qemu *qemu, struct sim_qemu_channel *channel, bool is_port) {
    for (uint32_t i = 0; i < GUEST_PIECES_MAX; i += 1) {
        if (!guest_channel_flush(qemu, channel)) {
            return false;
        }
        size_t count =
            is_port
                ? kelpie__sim_guest_port_take(qemu->guest, channel->out, sizeof(channel->out) / 2)
                : kelpie__sim_guest_console_take(qemu->guest, channel->out, sizeof(channel->out));
        if (count == 0) {
            return true;
        }
        channel->out_start = 0;
        channel->out_count = channel->handle == KELPIE_OS_NO_HANDLE ? 0 : count;
        if (is_port && channel->out_count > 0) {
            guest_look(qemu, true, channel->out, channel->out_count);
            kelpie__sim_qemu_fault_frame(qemu, channel);
        }
    }
    return false; /* a guest that talks without end: the others get their turn */
}

/* What the host has for the guest. True: the port is full. While the processor stands still, what
 * comes stays in the stream: it is no part of what is saved. */
static bool guest_pump_in(struct sim_qemu *qemu) {
    struct sim_qemu_channel *channel = &qemu->agent;
    bool has_more = true;
    if (qemu->state != SIM_QEMU_RUNNING) {
        return false;
    }
    for (uint32_t i = 0; i < GUEST_PIECES_MAX; i += 1) {
        if (channel->in_count > 0) {
            size_t taken = kelpie__sim_guest_port_put(qemu->guest, channel->in + channel->in_start,
                                                      channel->in_count);
            KELPIE_ASSERT(taken <= channel->in_count);
            channel->in_start += taken;
            channel->in_count -= taken;
            if (channel->in_count > 0) {
                return true;
            }
        }
        if (channel->handle == KELPIE_OS_NO_HANDLE || !has_more) {
            return false;
        }
        int64_t count =
            kelpie__os_read(qemu->os, channel->handle, channel->in, sizeof(channel->in));
        if (count == -EAGAIN || count == -EINTR) {
            return false;
        }
        if (count <= 0) {
            guest_channel_close(qemu, channel);
            return false;
        }
        channel->in_start = 0;
        channel->in_count = (size_t)count;
        has_more = channel->in_count == sizeof(channel->in); /* else we are woken when it comes */
        guest_look(qemu, false, channel->in, channel->in_count);
    }
    return false;
}

static void guest_ended(struct sim_qemu *qemu) {
    enum sim_guest_end end = kelpie__sim_guest_end(qemu->guest);
    KELPIE_ASSERT(end != SIM_GUEST_LIVES);
    /* Without -no-reboot it would boot again; the driver always asks for it. */
    kelpie__sim_qemu_shutdown(qemu, true,
                              end == SIM_GUEST_POWER_OFF ? "guest-shutdown" : "guest-reset");
}

static void guest_pump_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(!qemu->is_hung);
    kelpie__sim_qemu_pump(qemu);
}

static void guest_watch_for(struct sim_qemu *qemu, uint32_t bits) {
    KELPIE_ASSERT(qemu->is_guest_watched);
    kelpie__loop_watch_change(qemu->loop, qemu->guest_watch, bits);
}

void kelpie__sim_qemu_pump(struct sim_qemu *qemu) {
    if (qemu->guest == NULL || qemu->is_hung || qemu->state == SIM_QEMU_SHUTDOWN) {
        return;
    }
    /* Looked at first: a guest that ends has said all it will, but perhaps not before the calls
     * below. */
    bool has_ended = kelpie__sim_guest_end(qemu->guest) != SIM_GUEST_LIVES;
    bool is_console_empty = guest_pump_out(qemu, &qemu->console, false);
    bool is_port_empty = guest_pump_out(qemu, &qemu->agent, true);
    bool is_full = guest_pump_in(qemu);
    if (qemu->is_hung || qemu->is_ended) {
        return; /* by a fault */
    }
    bool is_behind = !is_console_empty || !is_port_empty;
    if (has_ended && is_console_empty) {
        guest_ended(qemu);
        return;
    }
    /* Whoever is behind is looked after by the clock: its readiness would wake us for ever. */
    guest_watch_for(qemu, (is_behind ? 0u : (uint32_t)KELPIE_OS_READABLE) |
                              (is_full ? (uint32_t)KELPIE_OS_WRITABLE : 0u));
    if (qemu->agent.is_watched) {
        bool is_reading = !is_full && qemu->state == SIM_QEMU_RUNNING;
        kelpie__loop_watch_change(qemu->loop, qemu->agent.watch,
                                  is_reading ? (uint32_t)KELPIE_OS_READABLE : 0u);
    }
    if (is_behind && !kelpie__timer_is_armed(&qemu->pump_timer)) {
        kelpie__timer_arm(qemu->loop, &qemu->pump_timer, qemu->loop->now_ns + GUEST_POLL_NS,
                          guest_pump_due, qemu);
    }
    guest_channel_check(&qemu->agent);
    guest_channel_check(&qemu->console);
}

static void guest_ready(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    kelpie__sim_qemu_pump(context);
}

/* ---- the start ------------------------------------------------------------------------------- */

/* tsc_early_khz= of the kernel's command line, else the host's own. */
static uint64_t guest_tsc_khz(const struct sim_qemu *qemu) {
    static const char key[] = "tsc_early_khz=";
    const char *append = qemu->options.append == NULL ? "" : qemu->options.append;
    const char *place = strstr(append, key);
    char digits[24];
    uint64_t khz = 0;
    if (place != NULL) {
        place += sizeof(key) - 1;
        size_t length = strspn(place, "0123456789");
        if (length > 0 && length < sizeof(digits)) {
            memcpy(digits, place, length);
            digits[length] = '\0';
            if (kelpie__text_u64(digits, &khz) && khz > 0) {
                return khz;
            }
        }
    }
    KELPIE_ASSERT(qemu->process->machine->tsc_khz > 0);
    return qemu->process->machine->tsc_khz;
}

/* Whether the initramfs is whole, and has an /init: else the kernel will panic. */
static bool guest_has_init(struct sim_qemu *qemu) {
    const char *path = qemu->options.initrd;
    struct kelpie_os_stat stat;
    int file = path == NULL ? -ENOENT
                            : kelpie__os_open(qemu->os, KELPIE_OS_CWD, path,
                                              KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return false;
    }
    char head[128] = "";
    char tail[sizeof(GUEST_INITRAMFS_END)] = "";
    size_t wanted = sizeof(tail) - 1;
    bool is_whole =
        kelpie__os_stat(qemu->os, file, "", false, &stat) == 0 && stat.size_bytes > sizeof(head) &&
        kelpie__os_pread(qemu->os, file, head, sizeof(head) - 1, 0) > 0 &&
        kelpie__os_pread(qemu->os, file, tail, wanted, stat.size_bytes - wanted - 1) > 0;
    kelpie__ignore(kelpie__os_close(qemu->os, file)); /* it was only read */
    /* "newc" puts a name after its header of 110 bytes; kelpie-pack puts "init" first. */
    return is_whole && memcmp(head, "070701", 6) == 0 && strcmp(head + 110, "init") == 0 &&
           strcmp(tail, GUEST_INITRAMFS_END) == 0;
}

static bool guest_channel_open(struct sim_qemu *qemu, struct sim_qemu_channel *channel,
                               const char *id, const char *label) {
    const struct sim_qemu_chardev *chardev = kelpie__sim_qemu_chardev(&qemu->options, id);
    if (chardev == NULL) {
        return true;
    }
    channel->handle = chardev->handle;
    kelpie__os_label(qemu->os, channel->handle, label);
    channel->is_watched =
        kelpie__loop_watch(qemu->loop, channel->handle, 0, guest_ready, qemu, &channel->watch) == 0;
    return channel->is_watched;
}

static struct sim_guest_disk guest_disk(const struct sim_qemu_options *options, uint32_t index) {
    const struct sim_qemu_disk *disk = &options->disks[index];
    const struct sim_qemu_block *block = kelpie__sim_qemu_block(options, disk->drive);
    KELPIE_ASSERT(index < options->disk_count);
    const struct sim_qemu_block *file =
        block->path != NULL ? block : kelpie__sim_qemu_block(options, block->file);
    return (struct sim_guest_disk){.serial = disk->serial,
                                   .path = file->path == NULL ? "" : file->path,
                                   .is_read_only = block->is_read_only};
}

void kelpie__sim_qemu_guest_move_disks(struct sim_qemu *qemu, struct sim_guest *guest) {
    for (uint32_t i = 0; i < qemu->options.disk_count; i += 1) {
        struct sim_guest_disk disk = guest_disk(&qemu->options, i);
        kelpie__sim_guest_move_disk(guest, disk.serial, disk.path);
    }
}

struct sim_guest *kelpie__sim_qemu_guest_create(struct sim_qemu *qemu) {
    const struct sim_qemu_options *options = &qemu->options;
    struct sim_guest_disk disks[SIM_QEMU_DISKS_MAX];
    for (uint32_t i = 0; i < options->disk_count; i += 1) {
        disks[i] = guest_disk(options, i);
    }
    const struct sim_guest_config config = {
        .memory_mib = kelpie__to_u32(options->memory_mib),
        .cpu_count = kelpie__to_u32(options->cpu_count),
        .kernel = options->kernel == NULL ? "" : options->kernel,
        .command_line = options->append == NULL ? "" : options->append,
        .port_name = options->port_name == NULL ? "" : options->port_name,
        .disks = disks,
        .disk_count = options->disk_count,
        .tsc_khz = guest_tsc_khz(qemu),
        .has_init = options->is_incoming || guest_has_init(qemu),
    };
    return kelpie__sim_guest_create(qemu->process, &config);
}

void kelpie__sim_qemu_guest_unwatch(struct sim_qemu *qemu) {
    struct sim_qemu_channel *channels[] = {&qemu->agent, &qemu->console};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(channels); i += 1) {
        guest_channel_check(channels[i]);
        if (channels[i]->is_watched) {
            kelpie__loop_watch_change(qemu->loop, channels[i]->watch, 0);
        }
    }
    if (qemu->is_guest_watched) {
        kelpie__loop_unwatch(qemu->loop, qemu->guest_watch);
        qemu->is_guest_watched = false;
    }
    kelpie__timer_disarm(qemu->loop, &qemu->pump_timer);
}

bool kelpie__sim_qemu_guest_attach(struct sim_qemu *qemu, struct sim_guest *guest) {
    KELPIE_ASSERT(qemu->guest == NULL && !qemu->is_guest_watched);
    qemu->guest = guest;
    qemu->memory.lineage = kelpie__sim_guest_lineage(guest);
    qemu->guest_handle = kelpie__sim_handle_install(qemu->process, kelpie__sim_guest_events(guest));
    if (qemu->guest_handle < 0) {
        qemu->guest_handle = KELPIE_OS_NO_HANDLE;
        return false;
    }
    qemu->is_guest_watched = kelpie__loop_watch(qemu->loop, qemu->guest_handle, KELPIE_OS_READABLE,
                                                guest_ready, qemu, &qemu->guest_watch) == 0;
    return qemu->is_guest_watched;
}

bool kelpie__sim_qemu_guest_start(struct sim_qemu *qemu) {
    const struct sim_qemu_options *options = &qemu->options;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_STARTING);
    bool is_good = guest_channel_open(qemu, &qemu->agent, options->port, "agent") &&
                   guest_channel_open(qemu, &qemu->console, options->serial, "console");
    if (is_good && !options->is_incoming) { /* else it comes with its state */
        struct sim_guest *guest = kelpie__sim_qemu_guest_create(qemu);
        is_good = guest != NULL && kelpie__sim_qemu_guest_attach(qemu, guest);
    }
    if (!is_good) {
        kelpie__sim_qemu_say(qemu, "%s: cannot set up guest memory '%s': Cannot allocate memory\n",
                             SIM_QEMU_PROGRAM,
                             options->memory_id == NULL ? "microvm.ram" : options->memory_id);
        kelpie__sim_qemu_exit(qemu, 1);
    }
    return is_good;
}

void kelpie__sim_qemu_guest_stop(struct sim_qemu *qemu) {
    kelpie__sim_qemu_guest_unwatch(qemu);
    if (qemu->guest_handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(qemu->os, qemu->guest_handle));
        qemu->guest_handle = KELPIE_OS_NO_HANDLE;
    }
    kelpie__sim_guest_destroy(qemu->guest);
    qemu->guest = NULL;
}
