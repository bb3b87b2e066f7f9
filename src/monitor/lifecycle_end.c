/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of a VMM: see lifecycle.h. Whatever happens, it comes through kelpie__lifecycle_ended,
 * which finds out what it meant: a start that failed, a stop or kill that was asked for, the
 * guest's own wish, or a crash.
 */
#include <string.h>

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"

/* a VMM outlives its agent's connection for so long */
#define LIFECYCLE_CLOSED_NS (5 * KELPIE_NS_PER_S)

static void waiters_result(struct kelpie_monitor *monitor, struct kelpie_reply *waiters,
                           const char *result) {
    KELPIE_ASSERT(result[0] == '{');
    for (uint32_t i = 0; i < KELPIE_LIFECYCLE_WAITER_COUNT; i += 1) {
        if (waiters[i].client != 0) {
            kelpie__reply_result(monitor, &waiters[i], result);
        }
    }
}

/* ---- the end of a VMM, and of everything in it ----------------------------------------------- */

void kelpie__lifecycle_end_machine(struct kelpie_lifecycle *lifecycle,
                                   const struct kelpie_error *why) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(why->code < 0);
    kelpie__lifecycle_check(lifecycle);
    kelpie__lifecycle_disarm(lifecycle);
    kelpie__capture_vmm_gone(&monitor->capture, why);
    kelpie__capture_vmm_gone(&monitor->template.capture, why);
    kelpie__guest_detach(&monitor->guest, why);
    kelpie__relay_fail_all(&monitor->relay, why);
    kelpie__console_log_detach(&monitor->console);
    kelpie__vmm_destroy(lifecycle->vmm);
    lifecycle->vmm = NULL;
}

static void lifecycle_end_vmm(struct kelpie_lifecycle *lifecycle, const struct kelpie_error *why) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(why->code < 0);
    kelpie__pause_end(&monitor->pause, why);
    kelpie__restore_vmm_gone(&monitor->restore, why);
    kelpie__member_vmm_gone(&monitor->member, why);
    kelpie__lifecycle_end_machine(lifecycle, why);
    lifecycle->is_stopping = false;
    lifecycle->is_trial = false;
    lifecycle->is_trial_lost = false;
    lifecycle->has_failure = false;
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    KELPIE_ASSERT(monitor->pause.phase == KELPIE_PAUSE_IDLE);
    KELPIE_ASSERT(monitor->restore.source == NULL);
}

/* What ends a VM's run when nothing else is known: the VMM's cause and the console's last lines. */
static void lifecycle_describe(struct kelpie_lifecycle *lifecycle, const struct kelpie_vmm_end *end,
                               struct kelpie_error *error) {
    const struct kelpie_console_log *console = &lifecycle->monitor->console;
    char tail[700];
    KELPIE_ASSERT(error->code < 0);
    KELPIE_ASSERT(console->panic_length <= sizeof(console->panic));
    if (console->is_panic) {
        kelpie__fail_append(error, ": the guest's kernel panicked: %.*s",
                            (int)console->panic_length, console->panic);
    }
    if (end != NULL && end->text[0] != '\0') {
        kelpie__fail_append(error, ": %s", end->text);
    }
    kelpie__tail_text(&console->tail, tail, sizeof(tail));
    kelpie__fail_append(error, "; the console ends with: %s",
                        tail[0] != '\0' ? tail : "(it printed nothing)");
}

static void lifecycle_after_end(struct kelpie_lifecycle *lifecycle, bool was_graceful) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(!kelpie__state_is_live(lifecycle->state));
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    lifecycle->is_kill_wanted = false;
    waiters_result(monitor, lifecycle->stop_replies,
                   was_graceful ? "{\"graceful\":true}" : "{\"graceful\":false}");
    waiters_result(monitor, lifecycle->kill_replies, "{}");
    if (lifecycle->is_deleting) {
        KELPIE_REACHED(monitor->os, "a VM was deleted after its kill");
        kelpie__monitor_delete(monitor, &lifecycle->delete_reply);
    }
}

/* Starting -> the state before it. */
void kelpie__lifecycle_start_failed(struct kelpie_lifecycle *lifecycle,
                                    const struct kelpie_error *given) {
    struct kelpie_error error = *given;
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(error.code < 0);
    kelpie__lifecycle_check(lifecycle);
    kelpie__prepare_cancel(&lifecycle->monitor->prepare);
    kelpie__restore_drop(&lifecycle->monitor->restore);
    KELPIE_ASSERT(kelpie__restore_is_idle(&lifecycle->monitor->restore));
    lifecycle_end_vmm(lifecycle, &error);
    kelpie__lifecycle_change(lifecycle, lifecycle->record.previous, error.message);
    kelpie__reply_refuse(lifecycle->monitor, &lifecycle->start_reply, &error);
    lifecycle_after_end(lifecycle, false);
}

static void lifecycle_ended_starting(struct kelpie_lifecycle *lifecycle,
                                     const struct kelpie_vmm_end *end) {
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->vmm->state == KELPIE_VMM_ENDED);
    struct kelpie_error error = {0};
    if (lifecycle->is_kill_wanted) {
        KELPIE_REACHED(lifecycle->monitor->os, "a start was ended by a kill");
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the start was ended by a kill"));
    } else if (lifecycle->has_failure) {
        KELPIE_REACHED(lifecycle->monitor->os, "a start failed for a known cause");
        error = lifecycle->failure;
        lifecycle_describe(lifecycle, lifecycle->is_vmm_up ? NULL : end, &error);
    } else {
        bool is_host = end->code == KELPIE_E_UNAVAILABLE; /* which lacks something */
        int code = is_host ? KELPIE_E_UNAVAILABLE : KELPIE_E_BOOT;
        KELPIE_REACHED(lifecycle->monitor->os, "a VMM ended before hello");
        kelpie__ignore(kelpie__fail(&error, code, 0, "the VM ended before its agent said hello"));
        lifecycle_describe(lifecycle, end, &error);
    }
    kelpie__lifecycle_start_failed(lifecycle, &error);
}

/* The state of a VM that ran, and why. */
static enum kelpie_vm_state lifecycle_judge(struct kelpie_lifecycle *lifecycle,
                                            const struct kelpie_vmm_end *end,
                                            struct kelpie_error *out) {
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_RUNNING || lifecycle->state == KELPIE_VM_PAUSED);
    bool said_goodbye = lifecycle->monitor->guest.has_said_goodbye;
    /* Whatever happens to a VM that is being stopped: stop always ends with Stopped. */
    if (lifecycle->is_kill_wanted || lifecycle->is_stopping) {
        KELPIE_SOMETIMES(lifecycle->monitor->os, "a VM that was to stop was killed",
                         lifecycle->is_kill_wanted && lifecycle->is_stopping);
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the VM was %s",
                                    lifecycle->is_kill_wanted ? "killed" : "stopped"));
        if (lifecycle->has_failure) {
            kelpie__fail_append(out, ": %s", lifecycle->failure.message);
        }
        return KELPIE_VM_STOPPED;
    }
    if (lifecycle->has_failure) {
        KELPIE_REACHED(lifecycle->monitor->os, "a VM that ran failed for a known cause");
        *out = lifecycle->failure;
        return KELPIE_VM_CRASHED;
    }
    /* With panic=-1 a panic is a reset too: the console tells it from an orderly restart. */
    const struct kelpie_console_log *console = &lifecycle->monitor->console;
    bool is_restart = end->kind == KELPIE_VMM_END_RESET && !console->is_panic &&
                      (said_goodbye || console->is_reboot);
    if (is_restart || end->kind == KELPIE_VMM_END_POWER_OFF) {
        KELPIE_REACHED(lifecycle->monitor->os, "a guest ended itself");
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the guest %s itself",
                                    is_restart ? "restarted" : "switched off"));
        return KELPIE_VM_STOPPED;
    }
    KELPIE_SOMETIMES(lifecycle->monitor->os, "a guest's kernel panicked", console->is_panic);
    KELPIE_SOMETIMES(lifecycle->monitor->os, "a VMM died of itself", !console->is_panic);
    kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the VM died"));
    lifecycle_describe(lifecycle, end, out);
    return KELPIE_VM_CRASHED;
}

static void lifecycle_ended_running(struct kelpie_lifecycle *lifecycle,
                                    const struct kelpie_vmm_end *end) {
    struct kelpie_error why = {0};
    /* A guest that has said goodbye may still panic, or be killed, before it has gone. */
    bool was_killed = end->has_exit && end->exit.is_signalled &&
                      end->kind != KELPIE_VMM_END_RESET && end->kind != KELPIE_VMM_END_POWER_OFF;
    bool has_gone = !was_killed && !lifecycle->monitor->console.is_panic;
    bool was_graceful = lifecycle->is_stopping && !lifecycle->is_kill_wanted && has_gone &&
                        !lifecycle->has_failure && lifecycle->monitor->guest.has_said_goodbye;
    enum kelpie_vm_state next = lifecycle_judge(lifecycle, end, &why);
    KELPIE_ASSERT(next == KELPIE_VM_STOPPED || next == KELPIE_VM_CRASHED);
    KELPIE_ASSERT(why.code < 0);
    KELPIE_SOMETIMES(lifecycle->monitor->os, "a stop was graceful", was_graceful);
    lifecycle_end_vmm(lifecycle, &why);
    kelpie__lifecycle_change(lifecycle, next, why.message);
    lifecycle_after_end(lifecycle, was_graceful);
}

static void lifecycle_note_reason(struct kelpie_lifecycle *lifecycle, const char *before,
                                  const char *reason) {
    struct kelpie_vm_record *record = &lifecycle->record;
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(record->accelerator[0] != '\0');
    kelpie__text_format(record->accelerator_reason, sizeof(record->accelerator_reason), "%s%s",
                        before, reason);
}

/* KVM never brought the guest to its hello: the other accelerator takes over within the same start.
 */
static void lifecycle_lost_trial(struct kelpie_lifecycle *lifecycle,
                                 const struct kelpie_vmm_end *end, const char *cause) {
    struct kelpie_error why = {0};
    bool is_lasting = kelpie__vmm_settle(lifecycle->vmm, end, cause);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->is_trial);
    kelpie__ignore(kelpie__fail(&why, KELPIE_E_BOOT, 0, "KVM did not boot a guest on this host"));
    kelpie__event_log_write(lifecycle->monitor, "notice",
                            "KVM did not boot a guest on this host, TCG takes over %s: %s",
                            is_lasting ? "from now on (kelpie doctor tries again)"
                                       : "for this start (the next one tries KVM again)",
                            cause);
    KELPIE_REACHED(lifecycle->monitor->os, "TCG took over from KVM");
    kelpie__timer_disarm(lifecycle->monitor->loop, &lifecycle->trial_timer);
    kelpie__guest_detach(&lifecycle->monitor->guest, &why);
    kelpie__console_log_detach(&lifecycle->monitor->console);
    kelpie__vmm_destroy(lifecycle->vmm);
    lifecycle->vmm = NULL;
    /* Armed when KVM's VMM took its agent's connection along; it must not end the next one. */
    kelpie__timer_disarm(lifecycle->monitor->loop, &lifecycle->closed_timer);
    lifecycle->is_trial = false;
    lifecycle->is_trial_lost = false;
    lifecycle->has_failure = false;
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    kelpie__lifecycle_launch(lifecycle, KELPIE_VMM_ACCELERATOR_TCG);
    if (lifecycle->vmm != NULL) { /* the driver only knows that it was asked for TCG */
        lifecycle_note_reason(lifecycle, "KVM was tried on this host just now: ", cause);
    }
}

/* A guest that was there, and then was lost to the template that was made of it. */
static void lifecycle_boot_again(struct kelpie_lifecycle *lifecycle,
                                 const struct kelpie_vmm_end *end) {
    struct kelpie_error why = {0};
    const char *cause = lifecycle->has_failure ? lifecycle->failure.message : end->text;
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(!lifecycle->is_kill_wanted);
    kelpie__ignore(kelpie__fail(&why, KELPIE_E_SNAPSHOT, 0, "the VM ended: %s", cause));
    kelpie__event_log_write(lifecycle->monitor, "notice",
                            "booting again, for the VM ended while a template was made of it: %s",
                            cause);
    lifecycle_end_vmm(lifecycle, &why);
    lifecycle->record.boot_us = 0;
    kelpie__lifecycle_boot(lifecycle);
}

void kelpie__lifecycle_ended(struct kelpie_lifecycle *lifecycle, const struct kelpie_vmm_end *end) {
    bool has_lost_trial =
        lifecycle->is_trial && lifecycle->state == KELPIE_VM_STARTING && !lifecycle->is_kill_wanted;
    kelpie__lifecycle_check(lifecycle);
    KELPIE_ASSERT(lifecycle->vmm->state == KELPIE_VMM_ENDED);
    /* What the guest said last is still in the stream, and may be the cause. */
    kelpie__console_log_detach(&lifecycle->monitor->console);
    if (has_lost_trial) {
        char cause[KELPIE_VMM_TEXT_BYTES_MAX] = "no hello within the time of the trial";
        if (!lifecycle->is_trial_lost) { /* it died by itself, before its time */
            memcpy(cause, end->text, sizeof(cause));
        }
        lifecycle_lost_trial(lifecycle, end, cause);
    } else if (lifecycle->state == KELPIE_VM_STARTING &&
               kelpie__template_takes_blame(&lifecycle->monitor->template) &&
               !lifecycle->is_kill_wanted) {
        lifecycle_boot_again(lifecycle, end);
    } else if (lifecycle->state == KELPIE_VM_STARTING) {
        lifecycle_ended_starting(lifecycle, end);
    } else {
        lifecycle_ended_running(lifecycle, end);
    }
}

void kelpie__lifecycle_fail(struct kelpie_monitor *monitor, const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    KELPIE_ASSERT(error->code < 0);
    KELPIE_SOMETIMES(monitor->os, "a second cause of death came", lifecycle->has_failure);
    if (!lifecycle->has_failure && !lifecycle->is_kill_wanted) { /* the first cause counts */
        lifecycle->has_failure = true;
        lifecycle->failure = *error;
    }
    if (lifecycle->vmm != NULL) {
        kelpie__vmm_kill(lifecycle->vmm);
    }
}

/* ---- the agent's connection ------------------------------------------------------------------ */

static void lifecycle_closed_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_REACHED(lifecycle->monitor->os, "an agent's connection ended and its VM ran on");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, 0,
                                "the agent's connection ended and the VM ran on without it"));
    kelpie__lifecycle_fail(lifecycle->monitor, &error);
}

void kelpie__lifecycle_guest_closed(struct kelpie_monitor *monitor,
                                    const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    KELPIE_ASSERT(error->code < 0);
    if (lifecycle->vmm == NULL) {
        return;
    }
    if (error->code == KELPIE_E_PROTOCOL) {
        KELPIE_REACHED(monitor->os, "a guest broke the protocol");
        struct kelpie_error broken = *error;
        broken.code = lifecycle->state == KELPIE_VM_STARTING ? KELPIE_E_BOOT : KELPIE_E_PROTOCOL;
        kelpie__lifecycle_fail(monitor, &broken);
        return;
    }
    KELPIE_REACHED(monitor->os, "an agent's connection ended before its VMM");
    /* The VMM is going, and its own end tells why. */
    kelpie__timer_arm(monitor->loop, &lifecycle->closed_timer,
                      monitor->loop->now_ns + LIFECYCLE_CLOSED_NS, lifecycle_closed_timed_out,
                      lifecycle);
}
