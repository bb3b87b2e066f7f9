/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The monitor's own count of a command's timeout. The guest counts too, and ends the command; a
 * guest that does not in time is ended instead. Neither counts while the guest stands still.
 */
#include "monitor/exec.h"
#include "monitor/monitor.h"
#include "os/os_mark.h"

static void exec_backstop(void *context) {
    struct kelpie_relay_exec *exec = context;
    struct kelpie_error error = {0};
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->timeout_ms > 0 && !exec->relay->is_frozen);
    KELPIE_REACHED(exec->relay->monitor->os, "a guest did not end a command in time");
    kelpie__ignore(kelpie__fail(
        &error, KELPIE_E_CRASHED, 0,
        "the guest did not end command \"%s\" within %u ms after its timeout of %llu ms",
        exec->command, KELPIE_EXEC_BACKSTOP_MS, (unsigned long long)exec->timeout_ms));
    kelpie__lifecycle_fail(exec->relay->monitor, &error);
}

static void backstop_arm(struct kelpie_relay_exec *exec, int64_t left_ns) {
    struct kelpie_loop *loop = exec->relay->monitor->loop;
    KELPIE_ASSERT(!kelpie__timer_is_armed(&exec->backstop));
    KELPIE_ASSERT(left_ns >= 0);
    if (exec->relay->is_frozen) {
        exec->backstop_left_ns = left_ns;
    } else {
        kelpie__timer_arm(loop, &exec->backstop, loop->now_ns + left_ns, exec_backstop, exec);
    }
}

void kelpie__relay_exec_arm_backstop(struct kelpie_relay_exec *exec) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->timeout_ms <= KELPIE_EXEC_TIMEOUT_MS_MAX);
    if (exec->timeout_ms > 0) {
        backstop_arm(exec,
                     (int64_t)(exec->timeout_ms + KELPIE_EXEC_BACKSTOP_MS) * KELPIE_NS_PER_MS);
    }
}

void kelpie__relay_freeze(struct kelpie_relay *relay, bool is_frozen) {
    struct kelpie_loop *loop = relay->monitor->loop;
    if (relay->is_frozen == is_frozen) {
        return;
    }
    relay->is_frozen = is_frozen;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        bool is_counted = exec != NULL && exec->phase == KELPIE_RELAY_LIVE && exec->timeout_ms > 0;
        if (is_counted && is_frozen) {
            int64_t left_ns =
                exec->backstop.deadline_ns - loop->now_ns; /* it may just have fired */
            KELPIE_REACHED(relay->monitor->os, "a command's timeout stood still");
            kelpie__timer_disarm(loop, &exec->backstop);
            exec->backstop_left_ns = left_ns > 0 ? left_ns : 0;
        } else if (is_counted) {
            backstop_arm(exec, exec->backstop_left_ns);
        }
    }
}
