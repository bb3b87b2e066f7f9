/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Stop, kill and delete: see lifecycle.h. What comes of them is decided where a VMM ends.
 */
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define LIFECYCLE_STOP_MARGIN_PART 4u /* of the stop's timeout, for sync and power-off */

static bool waiter_add(struct kelpie_reply *waiters, struct kelpie_reply reply) {
    KELPIE_ASSERT(reply.client != 0);
    for (uint32_t i = 0; i < KELPIE_LIFECYCLE_WAITER_COUNT; i += 1) {
        if (waiters[i].client == 0) {
            waiters[i] = reply;
            return true;
        }
    }
    return false;
}

/* ---- stop, kill, delete ---------------------------------------------------------------------- */

void kelpie__lifecycle_kill_now(struct kelpie_lifecycle *lifecycle) {
    KELPIE_ASSERT(kelpie__state_is_live(lifecycle->state));
    kelpie__lifecycle_check(lifecycle);
    lifecycle->is_kill_wanted = true;
    if (lifecycle->vmm != NULL) {
        kelpie__vmm_kill(lifecycle->vmm);
        return;
    }
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the start was ended by a kill"));
    KELPIE_REACHED(lifecycle->monitor->os, "a start was killed before there was a VMM");
    kelpie__lifecycle_start_failed(lifecycle, &error);
}

static void lifecycle_stop_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->is_stopping);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_REACHED(lifecycle->monitor->os, "a guest did not stop in time");
    kelpie__event_log_write(lifecycle->monitor, "notice",
                            "the guest did not stop in time and is killed");
    kelpie__lifecycle_kill_now(lifecycle);
}

static void lifecycle_stop_answered(void *context, const struct kelpie_error *error,
                                    const char *result, size_t length) {
    struct kelpie_lifecycle *lifecycle = context;
    kelpie__ignore(result != NULL && length > 0);
    if (error != NULL && lifecycle->is_stopping && lifecycle->vmm != NULL) {
        KELPIE_REACHED(lifecycle->monitor->os, "a guest refused to stop");
        kelpie__lifecycle_kill_now(lifecycle); /* it refuses to go */
    }
}

void kelpie__lifecycle_ask_to_go(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    char params[64];
    KELPIE_ASSERT(lifecycle->is_stopping && lifecycle->vmm != NULL);
    KELPIE_ASSERT(lifecycle->vmm->state != KELPIE_VMM_PAUSED);
    int64_t left_ms = (lifecycle->stop_deadline_ns - monitor->loop->now_ns + KELPIE_NS_PER_MS - 1) /
                      KELPIE_NS_PER_MS;
    uint64_t timeout_ms = left_ms > 0 ? (uint64_t)left_ms : 0;
    uint64_t guest_ms = timeout_ms - timeout_ms / LIFECYCLE_STOP_MARGIN_PART;
    KELPIE_ASSERT(timeout_ms <= KELPIE_STOP_TIMEOUT_MS_MAX);
    kelpie__ignore(kelpie__text_format(params, sizeof(params), "{\"timeout_ms\":%llu}",
                                       (unsigned long long)guest_ms));
    if (wire == NULL || kelpie__wire_call(wire, "guest.shutdown", params, KELPIE_TIMEOUT_NONE,
                                          lifecycle_stop_answered, lifecycle, NULL, NULL) < 0) {
        KELPIE_REACHED(monitor->os, "a guest could not be asked to stop");
        kelpie__lifecycle_kill_now(lifecycle);
    }
}

static void lifecycle_ask_to_stop(struct kelpie_lifecycle *lifecycle, uint64_t timeout_ms) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(!lifecycle->is_stopping);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(timeout_ms > 0);
    KELPIE_ASSERT(timeout_ms <= KELPIE_STOP_TIMEOUT_MS_MAX);
    lifecycle->is_stopping = true;
    lifecycle->stop_deadline_ns = kelpie__loop_deadline(monitor->loop, timeout_ms);
    kelpie__timer_arm(monitor->loop, &lifecycle->stop_timer, lifecycle->stop_deadline_ns,
                      lifecycle_stop_timed_out, lifecycle);
    kelpie__pause_release(&monitor->pause); /* a guest that stands still cannot shut down */
}

void kelpie__lifecycle_stop(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            uint64_t timeout_ms) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    struct kelpie_error error = {0};
    uint64_t chosen_ms = timeout_ms != 0 ? timeout_ms : KELPIE_STOP_TIMEOUT_MS_DEFAULT;
    if (kelpie__state_allow(lifecycle->state, KELPIE_VERB_STOP, monitor->config.name, &error) < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    if (!waiter_add(lifecycle->stop_replies, reply)) {
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_BUSY,
                                  "stop: %u clients wait for this VM to stop already",
                                  KELPIE_LIFECYCLE_WAITER_COUNT);
        return;
    }
    KELPIE_SOMETIMES(monitor->os, "a second client waits for a stop", lifecycle->is_stopping);
    KELPIE_SOMETIMES(monitor->os, "a stop met a kill", lifecycle->is_kill_wanted);
    if (!lifecycle->is_stopping && !lifecycle->is_kill_wanted) {
        lifecycle_ask_to_stop(lifecycle, kelpie__min_u64(chosen_ms, KELPIE_STOP_TIMEOUT_MS_MAX));
    }
}

void kelpie__lifecycle_kill(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    if (!kelpie__state_is_live(lifecycle->state)) {
        KELPIE_REACHED(monitor->os, "a kill of a VM that did not live");
        kelpie__reply_result(monitor, &reply, "{}"); /* kill never fails */
        return;
    }
    if (!waiter_add(lifecycle->kill_replies, reply)) {
        kelpie__reply_result(monitor, &reply, "{}"); /* it is being killed */
    }
    KELPIE_SOMETIMES(monitor->os, "a kill met a stop", lifecycle->is_stopping);
    kelpie__lifecycle_kill_now(lifecycle);
}

void kelpie__lifecycle_delete(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                              bool is_forced) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    struct kelpie_error error = {0};
    int status =
        kelpie__state_allow(lifecycle->state, KELPIE_VERB_DELETE, monitor->config.name, &error);
    if (lifecycle->is_deleting) {
        KELPIE_REACHED(monitor->os, "a delete met another delete");
        status = kelpie__fail(&error, KELPIE_E_BUSY, 0, "delete: VM \"%s\" is being deleted",
                              monitor->config.name);
    } else if (status < 0 && is_forced) {
        KELPIE_SOMETIMES(monitor->os, "a VM was deleted by force while it started",
                         lifecycle->state == KELPIE_VM_STARTING);
        KELPIE_SOMETIMES(monitor->os, "a VM was deleted by force while it was paused",
                         lifecycle->state == KELPIE_VM_PAUSED);
        KELPIE_ASSERT(kelpie__state_is_live(lifecycle->state));
        lifecycle->is_deleting = true;
        lifecycle->delete_reply = reply;
        kelpie__lifecycle_kill_now(lifecycle);
        return;
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    KELPIE_ASSERT(!kelpie__state_is_live(lifecycle->state));
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    lifecycle->is_deleting = true;
    kelpie__monitor_delete(monitor, &reply);
}

void kelpie__lifecycle_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    bool is_start = lifecycle->start_reply.client == client &&
                    lifecycle->start_reply.request == request && client != 0;
    if (is_start && lifecycle->state == KELPIE_VM_STARTING) {
        KELPIE_REACHED(monitor->os, "a start was cancelled");
        kelpie__lifecycle_kill_now(lifecycle);
    }
}

void kelpie__lifecycle_owner_gone(struct kelpie_monitor *monitor, const char *why) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    if (lifecycle->is_ending) {
        return;
    }
    lifecycle->is_ending = true;
    KELPIE_ASSERT(why[0] != '\0');
    kelpie__event_log_write(monitor, "notice", "the VM ends: %s", why);
    kelpie__template_hurry(&monitor->template);
    if (kelpie__state_is_live(lifecycle->state)) {
        KELPIE_SOMETIMES(monitor->os, "an owner went while its VM started",
                         lifecycle->state == KELPIE_VM_STARTING);
        KELPIE_SOMETIMES(monitor->os, "an owner went while its VM ran",
                         lifecycle->state == KELPIE_VM_RUNNING);
        KELPIE_SOMETIMES(monitor->os, "an owner went while its VM was paused",
                         lifecycle->state == KELPIE_VM_PAUSED);
        kelpie__lifecycle_kill_now(lifecycle);
    }
}

int kelpie__lifecycle_check_ending(const struct kelpie_monitor *monitor, const char *operation,
                                   struct kelpie_error *error) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(operation[0] != '\0');
    if (lifecycle->is_stopping || lifecycle->is_kill_wanted) {
        KELPIE_REACHED(monitor->os, "something was asked of a VM that was ending");
        return kelpie__fail(error, KELPIE_E_STATE, 0, "%s: VM \"%s\" is ending", operation,
                            monitor->config.name);
    }
    /* It is to crash, and its state is still another one: to say that it has crashed would be to
     * contradict who looks. */
    if (lifecycle->has_failure || kelpie__guest_wire(&monitor->guest) == NULL) {
        KELPIE_REACHED(monitor->os, "something was asked of a VM that was failing");
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            "%s: VM \"%s\" is failing; its end is known in a moment", operation,
                            monitor->config.name);
    }
    return 0;
}

int kelpie__lifecycle_check_exec(const struct kelpie_monitor *monitor, const char *operation,
                                 struct kelpie_error *error) {
    int status = kelpie__state_allow(monitor->lifecycle.state, KELPIE_VERB_EXEC,
                                     monitor->config.name, error);
    return status < 0 ? status : kelpie__lifecycle_check_ending(monitor, operation, error);
}
