/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest of a simulated libkrun: its console goes to a pipe, its vsock to who listens at a
 * socket, which is connected to when the guest dials. A host that does not listen refuses the
 * guest; one that has gone swallows what comes, without a word. One thread of libkrun's writes to
 * the host and waits there: while the host does not read, nothing else of the VM comes out, its end
 * included.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "sim/krun.h"

#define GUEST_POLL_NS (5 * KELPIE_NS_PER_MS) /* while the host is slow */
#define GUEST_PIECES_MAX 32u                 /* moved in one turn */

static void guest_close_stream(struct sim_krun *krun) {
    if (krun->stream != KELPIE_OS_NO_HANDLE) {
        kelpie__loop_unwatch(krun->loop, krun->stream_watch);
        kelpie__ignore(kelpie__os_close(krun->os, krun->stream));
        krun->stream = KELPIE_OS_NO_HANDLE;
    }
    krun->out.count = 0;
    KELPIE_ASSERT(krun->has_dialled);
}

/* Writes what is there. True: nothing is left of it; a reader that has gone takes it all. */
static bool guest_flush(struct sim_krun *krun, struct sim_krun_piece *piece, int handle) {
    KELPIE_ASSERT(piece->start + piece->count <= sizeof(piece->bytes));
    while (piece->count > 0 && handle != KELPIE_OS_NO_HANDLE) { /* bound: it */
        int64_t count =
            kelpie__os_write(krun->os, handle, piece->bytes + piece->start, piece->count);
        if (count == -EAGAIN || count == -EINTR) {
            return false;
        }
        if (count <= 0) {
            break;
        }
        piece->start += (size_t)count;
        piece->count -= (size_t)count;
    }
    piece->count = 0;
    return true;
}

/* The guest's words, to the host. True: it has them all. */
static bool guest_pump_out(struct sim_krun *krun) {
    for (uint32_t i = 0; i < GUEST_PIECES_MAX; i += 1) {
        if (!guest_flush(krun, &krun->out, krun->stream)) {
            return false;
        }
        krun->out.start = 0;
        krun->out.count =
            kelpie__sim_guest_port_take(krun->guest, krun->out.bytes, sizeof(krun->out.bytes));
        if (krun->out.count == 0) {
            return true;
        }
    }
    return false;
}

static bool guest_pump_console(struct sim_krun *krun) {
    for (uint32_t i = 0; i < GUEST_PIECES_MAX; i += 1) {
        if (!guest_flush(krun, &krun->console, KELPIE_KRUN_CONSOLE)) {
            return false;
        }
        krun->console.start = 0;
        krun->console.count = kelpie__sim_guest_console_take(krun->guest, krun->console.bytes,
                                                             sizeof(krun->console.bytes));
        if (krun->console.count == 0) {
            return true;
        }
    }
    return false;
}

/* What the host has for the guest. True: the guest takes no more. */
static bool guest_pump_in(struct sim_krun *krun) {
    struct sim_krun_piece *in = &krun->in;
    for (uint32_t i = 0; i < GUEST_PIECES_MAX; i += 1) {
        size_t taken =
            in->count == 0
                ? 0
                : kelpie__sim_guest_port_put(krun->guest, in->bytes + in->start, in->count);
        KELPIE_ASSERT(taken <= in->count);
        in->start += taken;
        in->count -= taken;
        if (in->count > 0) {
            return true;
        }
        if (krun->stream == KELPIE_OS_NO_HANDLE) {
            return false;
        }
        int64_t count = kelpie__os_read(krun->os, krun->stream, in->bytes, sizeof(in->bytes));
        if (count == -EAGAIN || count == -EINTR) {
            return false;
        }
        if (count <= 0) {
            guest_close_stream(krun);
            return false;
        }
        in->start = 0;
        in->count = (size_t)count;
    }
    return false;
}

static void guest_ready(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    kelpie__sim_krun_pump(context);
}

/* The guest has dialled: libkrun connects for it. */
static void guest_dial(struct sim_krun *krun) {
    KELPIE_ASSERT(krun->stream == KELPIE_OS_NO_HANDLE);
    int stream = kelpie__os_connect(krun->os, KELPIE_KRUN_DIRECTORY, KELPIE_KRUN_SOCKET_NAME);
    if (stream >= 0 && kelpie__loop_watch(krun->loop, stream, KELPIE_OS_READABLE, guest_ready, krun,
                                          &krun->stream_watch) < 0) {
        kelpie__ignore(kelpie__os_close(krun->os, stream));
        stream = -ENOMEM;
    }
    krun->has_dialled = stream >= 0;
    krun->stream = stream >= 0 ? stream : KELPIE_OS_NO_HANDLE;
    bool is_awaited = kelpie__sim_guest_vsock_answer(krun->guest, stream >= 0);
    if (!is_awaited && stream >= 0) { /* the guest ran meanwhile, and has hung up */
        guest_close_stream(krun);
        krun->has_dialled = false;
    }
}

static void guest_pump_due(void *context) {
    struct sim_krun *krun = context;
    KELPIE_ASSERT(!krun->is_hung);
    kelpie__sim_krun_pump(krun);
}

void kelpie__sim_krun_pump(struct sim_krun *krun) {
    if (krun->guest == NULL || krun->is_hung || krun->is_ended) {
        return;
    }
    /* Looked at first: a guest that ends has said all it will, but perhaps not before the calls
     * below. */
    enum sim_guest_end end = kelpie__sim_guest_end(krun->guest);
    if (!krun->has_dialled && kelpie__sim_guest_vsock_is_dialling(krun->guest)) {
        guest_dial(krun);
    }
    bool is_written = guest_pump_out(krun) && guest_pump_console(krun);
    bool is_full = guest_pump_in(krun);
    if (end == SIM_GUEST_RESET && is_written) {
        kelpie__sim_krun_exit(krun, 0);
        return;
    }
    bool is_off = end == SIM_GUEST_POWER_OFF && is_written; /* and nothing tells libkrun */
    kelpie__loop_watch_change(krun->loop, krun->guest_watch,
                              (is_written && !is_off ? (uint32_t)KELPIE_OS_READABLE : 0u) |
                                  (is_full ? (uint32_t)KELPIE_OS_WRITABLE : 0u));
    if (krun->stream != KELPIE_OS_NO_HANDLE) {
        kelpie__loop_watch_change(krun->loop, krun->stream_watch,
                                  is_full ? 0u : (uint32_t)KELPIE_OS_READABLE);
    }
    if (!is_written && !kelpie__timer_is_armed(&krun->pump_timer)) {
        kelpie__timer_arm(krun->loop, &krun->pump_timer, krun->loop->now_ns + GUEST_POLL_NS,
                          guest_pump_due, krun);
    }
}

/* As libkrun writes it, and with what the agent is told (krun/configure.c). */
static void guest_command_line(const struct sim_krun *krun, char *out, size_t capacity) {
    int used = snprintf(out, capacity,
                        "reboot=k panic=-1 console=hvc0 rw quiet KELPIE_PORT=1024 KELPIE_DISKS=");
    for (uint32_t i = 0; i < krun->options.disk_count; i += 1) {
        KELPIE_ASSERT(used > 0 && (size_t)used < capacity);
        used += snprintf(out + used, capacity - (size_t)used, "%s%s", i > 0 ? "," : "",
                         krun->options.serials[i]);
    }
    KELPIE_ASSERT((size_t)used < capacity);
}

bool kelpie__sim_krun_guest_start(struct sim_krun *krun) {
    char command_line[256];
    struct kelpie_os_stat stat;
    char agent[512];
    const struct sim_krun_options *options = &krun->options;
    guest_command_line(krun, command_line, sizeof(command_line));
    /* Its root, from which process 1 is started; else the kernel panics. */
    int length = snprintf(agent, sizeof(agent), "%s/agent", options->staging);
    bool has_init = length > 0 && (size_t)length < sizeof(agent) &&
                    kelpie__os_stat(krun->os, KELPIE_OS_CWD, agent, false, &stat) == 0;
    const struct sim_guest_config config = {
        .memory_mib = options->memory_mib,
        .cpu_count = options->cpu_count,
        .kernel = "libkrunfw.so.5",
        .command_line = command_line,
        .port_name = "",
        .disks = options->disks,
        .disk_count = options->disk_count,
        .tsc_khz = krun->process->machine->tsc_khz,
        .has_init = has_init,
        .has_vsock = true,
    };
    KELPIE_ASSERT(krun->guest == NULL);
    krun->guest = kelpie__sim_guest_create(krun->process, &config);
    if (krun->guest == NULL) {
        return false;
    }
    int handle = kelpie__sim_handle_install(krun->process, kelpie__sim_guest_events(krun->guest));
    krun->guest_handle = handle < 0 ? KELPIE_OS_NO_HANDLE : handle;
    krun->is_guest_watched =
        handle >= 0 && kelpie__loop_watch(krun->loop, handle, KELPIE_OS_READABLE, guest_ready, krun,
                                          &krun->guest_watch) == 0;
    return krun->is_guest_watched;
}

void kelpie__sim_krun_guest_stop(struct sim_krun *krun) {
    kelpie__timer_disarm(krun->loop, &krun->pump_timer);
    if (krun->is_guest_watched) {
        kelpie__loop_unwatch(krun->loop, krun->guest_watch);
        krun->is_guest_watched = false;
    }
    if (krun->guest_handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(krun->os, krun->guest_handle));
        krun->guest_handle = KELPIE_OS_NO_HANDLE;
    }
    kelpie__sim_guest_destroy(krun->guest);
    krun->guest = NULL;
}
