/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a fault plan can do to a simulated QEMU and its guest (the words are in os_fault_words.c).
 */
#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "sim/fault.h"
#include "sim/qemu.h"

/* All points are of role "qemu":
 *
 * qemu.start    fail: exit 1 with words on stderr; die: a failed assertion; hang; flood: stderr;
 *               late
 * qemu.kvm      KVM was asked for. hang: no Linux gets through its boot; die: an assertion
 * qmp.greeting  hang; late; torn: half of it, then death; die
 * qmp.COMMAND   fail: refused; hang: the main loop stands before its effect; die: before its
 *               effect or before its answer; after the effect, late: the answer; drop: no answer;
 *               swap: the answer before its events
 * qmp.event     drop; late; swap: after the answer
 * qmp.xen-save-devices-state, besides: short: a part of it; huge: more than anybody takes; corrupt:
 *               a bit; each with a good answer
 * qmp.migrate-incoming, besides: short: nothing is loaded, the guest begins anew; corrupt: a bit is
 *               read wrong
 * guest.load    what is loaded goes wrong when it runs: hang; panic; deaf; corrupt: a bit
 * guest.boot    hang; panic; reset: a triple fault; deaf: the port; late: begins later
 * agent.frame   a piece that comes out of the port. mutate: a bit; drop; duplicate; torn: half of
 *               it, the rest never; late; flood: with nonsense behind it
 *
 * A main loop that stands reads and writes nothing, while the guest runs on. SIGKILL, SIGSTOP and
 * failing calls are faults of calls (fault.h), not here. Arguments of "late" are microseconds. */

#define FAULT_STDERR 2
#define FAULT_EPOCH_KEY "\"epoch\":\""
#define FAULT_SIGNAL_ABORT 6
/* After the kernel began, and always before the agent can be up: a boot that fails, not a guest
 * that dies. */
#define FAULT_BOOT_NS (20 * KELPIE_NS_PER_MS)
#define FAULT_FLOOD_PIECE_BYTES 2048u
#define FAULT_DELAY_US_MAX INT64_C(3600000000)
#define FAULT_FLOOD_BYTES (UINT64_C(256) << 10)

const char *kelpie__sim_qemu_fault(struct sim_qemu *qemu, const char *point,
                                   uint64_t *out_argument) {
    struct sim_faults *faults = kelpie__sim_world_faults(qemu->process->machine->world);
    KELPIE_ASSERT(point[0] != '\0');
    return faults == NULL ? NULL
                          : kelpie__sim_faults_point(faults, qemu->process, point, out_argument);
}

bool kelpie__sim_qemu_fault_is(const char *action, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    return action != NULL && strcmp(action, name) == 0;
}

void kelpie__sim_qemu_die(struct sim_qemu *qemu, int signal) {
    KELPIE_ASSERT(signal > 0);
    kelpie__sim_process_signal(qemu->process, signal);
}

int64_t kelpie__sim_qemu_fault_delay(uint64_t argument) {
    return argument < (uint64_t)FAULT_DELAY_US_MAX ? (int64_t)argument * 1000
                                                   : FAULT_DELAY_US_MAX * 1000;
}

/* ---- stderr ---------------------------------------------------------------------------------- */

static void fault_flood_ready(void *context, uint32_t bits) {
    struct sim_qemu *qemu = context;
    char text[FAULT_FLOOD_PIECE_BYTES];
    KELPIE_ASSERT(bits != 0 && qemu->is_stderr_watched);
    memset(text, 'w', sizeof(text));
    text[sizeof(text) - 1] = '\n';
    uint64_t wanted = qemu->flood_bytes < sizeof(text) ? qemu->flood_bytes : sizeof(text);
    int64_t count = kelpie__os_write(qemu->os, FAULT_STDERR, text, (size_t)wanted);
    qemu->flood_bytes -= count > 0 ? (uint64_t)count : 0;
    bool is_over = qemu->flood_bytes == 0 || (count < 0 && count != -EAGAIN && count != -EINTR);
    if (is_over) {
        qemu->flood_bytes = 0;
        kelpie__loop_unwatch(qemu->loop, qemu->stderr_watch);
        qemu->is_stderr_watched = false;
    }
}

static void fault_flood(struct sim_qemu *qemu, uint64_t bytes) {
    KELPIE_ASSERT(!qemu->is_stderr_watched);
    qemu->flood_bytes = bytes;
    qemu->is_stderr_watched = kelpie__loop_watch(qemu->loop, FAULT_STDERR, KELPIE_OS_WRITABLE,
                                                 fault_flood_ready, qemu, &qemu->stderr_watch) == 0;
}

/* ---- the start ------------------------------------------------------------------------------- */

static void fault_abort(struct sim_qemu *qemu) {
    kelpie__sim_qemu_say(qemu,
                         "%s: ../../target/i386/kvm/kvm.c:3029: kvm_buf_set_msrs: Assertion "
                         "`ret == cpu->kvm_msr_buf->nmsrs' failed.\n",
                         SIM_QEMU_PROGRAM);
    kelpie__sim_qemu_die(qemu, FAULT_SIGNAL_ABORT);
}

void kelpie__sim_qemu_fault_start(struct sim_qemu *qemu) {
    uint64_t argument = 0;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_STARTING);
    const char *fault = kelpie__sim_qemu_fault(qemu, "qemu.start", &argument);
    if (qemu->options.is_kvm) {
        qemu->kvm_fault = kelpie__sim_qemu_fault(qemu, "qemu.kvm", &argument);
    }
    if (kelpie__sim_qemu_fault_is(fault, "fail")) {
        kelpie__sim_qemu_say(qemu, "%s: Failed to initialize io_uring: Cannot allocate memory\n",
                             SIM_QEMU_PROGRAM);
        kelpie__sim_qemu_exit(qemu, 1);
    } else if (kelpie__sim_qemu_fault_is(fault, "die") ||
               kelpie__sim_qemu_fault_is(qemu->kvm_fault, "die")) {
        fault_abort(qemu);
    } else if (kelpie__sim_qemu_fault_is(fault, "hang")) {
        kelpie__sim_qemu_hang(qemu);
    } else if (kelpie__sim_qemu_fault_is(fault, "flood")) {
        fault_flood(qemu, FAULT_FLOOD_BYTES);
    } else if (kelpie__sim_qemu_fault_is(fault, "late")) {
        kelpie_timer_callback callback = qemu->start_timer.callback;
        kelpie__timer_arm(qemu->loop, &qemu->start_timer,
                          qemu->loop->now_ns + kelpie__sim_qemu_fault_delay(argument), callback,
                          qemu);
    }
}

/* ---- the guest ------------------------------------------------------------------------------- */

void kelpie__sim_qemu_fault_guest(struct sim_qemu *qemu, const char *fault) {
    KELPIE_ASSERT(qemu->guest != NULL);
    if (kelpie__sim_qemu_fault_is(fault, "hang")) {
        kelpie__sim_guest_hang(qemu->guest);
    } else if (kelpie__sim_qemu_fault_is(fault, "panic")) {
        kelpie__sim_guest_panic(qemu->guest, "Fatal exception in interrupt");
    } else if (kelpie__sim_qemu_fault_is(fault, "deaf")) {
        kelpie__sim_guest_deafen(qemu->guest);
    } else if (kelpie__sim_qemu_fault_is(fault, "reset")) {
        kelpie__sim_qemu_shutdown(qemu, true, "guest-reset");
    }
}

static void fault_boot_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(qemu->fault != NULL);
    if (qemu->state == SIM_QEMU_SHUTDOWN || qemu->guest == NULL) {
        return;
    }
    kelpie__sim_qemu_fault_guest(qemu, qemu->fault);
    if (kelpie__sim_qemu_fault_is(qemu->fault, "late") && qemu->state == SIM_QEMU_RUNNING) {
        kelpie__sim_guest_run(qemu->guest);
    }
}

/* What a kernel makes of a machine that is not made for it (findings.md, "Boot"): by ACPI alone it
 * finds its devices; and under TCG, on a host that has other work, it never learns how fast its
 * clock is when nobody tells it. A KVM may not carry a Linux at all. */
static bool boot_is_hopeless(struct sim_qemu *qemu) {
    struct sim_world *world = qemu->process->machine->world;
    const struct sim_qemu_options *options = &qemu->options;
    const char *append = options->append == NULL ? "" : options->append;
    KELPIE_ASSERT(qemu->guest != NULL);
    if (options->is_kvm) {
        return !kelpie__sim_world_options(world)->has_kvm || !options->has_acpi ||
               kelpie__sim_qemu_fault_is(qemu->kvm_fault, "hang");
    }
    return !options->has_acpi || (strstr(append, "tsc_early_khz=") == NULL &&
                                  kelpie__sim_below(world, SIM_STREAM_QEMU, 2) == 0);
}

/* Gives whether the guest may run at once. */
bool kelpie__sim_qemu_fault_boot(struct sim_qemu *qemu) {
    uint64_t argument = 0;
    KELPIE_ASSERT(qemu->guest != NULL);
    const char *fault = kelpie__sim_qemu_fault(qemu, "guest.boot", &argument);
    fault = boot_is_hopeless(qemu) ? "hang" : fault;
    if (fault == NULL) {
        return true;
    }
    bool is_late = kelpie__sim_qemu_fault_is(fault, "late");
    int64_t delay_ns = is_late ? kelpie__sim_qemu_fault_delay(argument)
                               : kelpie__sim_qemu_about(qemu, FAULT_BOOT_NS);
    qemu->fault = fault;
    kelpie__timer_arm(qemu->loop, &qemu->fault_timer, qemu->loop->now_ns + delay_ns, fault_boot_due,
                      qemu);
    return !is_late;
}

/* An answer to hello with a wrong epoch is none: whoever believes it has not been greeted. */
static void fault_note_epoch(struct sim_qemu *qemu, const struct sim_qemu_channel *channel,
                             size_t at) {
    static const char key[] = FAULT_EPOCH_KEY;
    size_t length = strlen(key);
    for (size_t i = 0; i + length <= channel->out_count; i += 1) {
        if (memcmp(channel->out + i, key, length) == 0 && at >= i + length &&
            at < i + length + 2 * (size_t)KELPIE_EPOCH_BYTES) {
            kelpie__sim_guest_ungreet(qemu->guest);
        }
    }
}

void kelpie__sim_qemu_fault_frame(struct sim_qemu *qemu, struct sim_qemu_channel *channel) {
    uint64_t argument = 0;
    struct sim_world *world = qemu->process->machine->world;
    size_t count = channel->out_count;
    KELPIE_ASSERT(count > 0 && count <= sizeof(channel->out) / 2 && channel->out_start == 0);
    const char *fault = kelpie__sim_qemu_fault(qemu, "agent.frame", &argument);
    if (fault == NULL) {
        return;
    }
    uint64_t drawn = kelpie__sim_draw(world, SIM_STREAM_QEMU);
    if (kelpie__sim_qemu_fault_is(fault, "mutate")) {
        size_t at = (size_t)(drawn % count);
        fault_note_epoch(qemu, channel, at);
        channel->out[at] = (char)(channel->out[at] ^ (char)(1 << (drawn >> 61)));
    } else if (kelpie__sim_qemu_fault_is(fault, "drop")) {
        channel->out_count = 0;
    } else if (kelpie__sim_qemu_fault_is(fault, "torn")) {
        channel->out_count = count / 2;
    } else if (kelpie__sim_qemu_fault_is(fault, "duplicate")) {
        memcpy(channel->out + count, channel->out, count);
        channel->out_count = 2 * count;
    } else if (kelpie__sim_qemu_fault_is(fault, "flood")) {
        for (; channel->out_count < sizeof(channel->out); channel->out_count += 1) {
            channel->out[channel->out_count] = (char)kelpie__sim_draw(world, SIM_STREAM_QEMU);
        }
    } else if (kelpie__sim_qemu_fault_is(fault, "late")) {
        channel->held_until_ns = qemu->loop->now_ns + kelpie__sim_qemu_fault_delay(argument);
    }
}
