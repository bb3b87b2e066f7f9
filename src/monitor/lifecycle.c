/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See lifecycle.h. Whatever happens, a VMM's end comes through lifecycle_ended, which finds out
 * what it meant: a start that failed, a stop or kill that was asked for, the guest's own wish, or a
 * crash.
 */
#include "monitor/lifecycle.h"

#include <string.h>

#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* a VMM outlives its agent's connection for so long */
#define LIFECYCLE_CLOSED_NS (5 * KELPIE_NS_PER_S)
#define LIFECYCLE_STOP_MARGIN_PART 4u /* of the stop's timeout, for sync and power-off */

static struct kelpie_lifecycle *lifecycle_of(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    KELPIE_ASSERT(lifecycle->monitor == monitor);
    KELPIE_ASSERT(lifecycle->vmm == NULL || kelpie__state_is_live(lifecycle->state));
    return lifecycle;
}

/* ---- the record ------------------------------------------------------------------------------ */

static int lifecycle_save(struct kelpie_lifecycle *lifecycle, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_vm_record *record = &lifecycle->record;
    record->state = lifecycle->state;
    record->changed_ms = kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    record->monitor_pid = kelpie__state_is_live(lifecycle->state) ? monitor->identity.pid : 0;
    record->vmm_pid = lifecycle->vmm != NULL ? lifecycle->vmm->pid : 0;
    return kelpie__record_write(monitor->os, monitor->directory.vm, record, false, error);
}

/* A state that cannot be written is not fatal: the file then still says that the VM lives, and
 * whoever finds the lock free makes it Crashed. */
static void lifecycle_change(struct kelpie_lifecycle *lifecycle, enum kelpie_vm_state next,
                             const char *reason) {
    struct kelpie_error error = {0};
    kelpie__state_change(&lifecycle->state, next);
    kelpie__ignore(
        kelpie__text_copy(lifecycle->record.reason, sizeof(lifecycle->record.reason), reason));
    if (lifecycle_save(lifecycle, &error) < 0) {
        kelpie__event_log_write(lifecycle->monitor, "notice", "%s", error.message);
    }
    kelpie__event_log_write(lifecycle->monitor, "state", "%s", reason);
}

int kelpie__lifecycle_init(struct kelpie_lifecycle *lifecycle, struct kelpie_monitor *monitor,
                           struct kelpie_error *error) {
    lifecycle->monitor = monitor;
    int status = kelpie__record_read(monitor->os, monitor->directory.vm, &lifecycle->record, error);
    if (status < 0) {
        return status;
    }
    lifecycle->state = lifecycle->record.state;
    if (kelpie__state_is_live(lifecycle->state)) { /* whoever started us has recovered it */
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0, "the VM is %s without a monitor",
                            kelpie_vm_state_name(lifecycle->state));
    }
    return 0;
}

static void lifecycle_disarm(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_loop *loop = lifecycle->monitor->loop;
    kelpie__timer_disarm(loop, &lifecycle->boot_timer);
    kelpie__timer_disarm(loop, &lifecycle->trial_timer);
    kelpie__timer_disarm(loop, &lifecycle->stop_timer);
    kelpie__timer_disarm(loop, &lifecycle->closed_timer);
}

void kelpie__lifecycle_deinit(struct kelpie_lifecycle *lifecycle) {
    lifecycle_disarm(lifecycle);
    kelpie__vmm_destroy(lifecycle->vmm);
    lifecycle->vmm = NULL;
}

/* ---- who waits ------------------------------------------------------------------------------- */

static bool waiter_add(struct kelpie_reply *waiters, struct kelpie_reply reply) {
    for (uint32_t i = 0; i < KELPIE_LIFECYCLE_WAITER_COUNT; i += 1) {
        if (waiters[i].client == 0) {
            waiters[i] = reply;
            return true;
        }
    }
    return false;
}

static void waiters_result(struct kelpie_monitor *monitor, struct kelpie_reply *waiters,
                           const char *result) {
    for (uint32_t i = 0; i < KELPIE_LIFECYCLE_WAITER_COUNT; i += 1) {
        if (waiters[i].client != 0) {
            kelpie__reply_result(monitor, &waiters[i], result);
        }
    }
}

/* ---- the end of a VMM, and of everything in it ----------------------------------------------- */

static void lifecycle_end_vmm(struct kelpie_lifecycle *lifecycle, const struct kelpie_error *why) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    lifecycle_disarm(lifecycle);
    kelpie__guest_detach(&monitor->guest, why);
    kelpie__relay_fail_all(&monitor->relay, why);
    kelpie__console_log_detach(&monitor->console);
    kelpie__vmm_destroy(lifecycle->vmm);
    lifecycle->vmm = NULL;
    lifecycle->is_stopping = false;
    lifecycle->is_trial = false;
    lifecycle->is_trial_lost = false;
    lifecycle->has_failure = false;
}

/* What ends a VM's run when nothing else is known: the VMM's cause and the console's last lines. */
static void lifecycle_describe(struct kelpie_lifecycle *lifecycle, const struct kelpie_vmm_end *end,
                               struct kelpie_error *error) {
    const struct kelpie_console_log *console = &lifecycle->monitor->console;
    char tail[700];
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
    lifecycle->is_kill_wanted = false;
    waiters_result(monitor, lifecycle->stop_replies,
                   was_graceful ? "{\"graceful\":true}" : "{\"graceful\":false}");
    waiters_result(monitor, lifecycle->kill_replies, "{}");
    if (lifecycle->is_deleting) {
        kelpie__monitor_delete(monitor, &lifecycle->delete_reply);
    }
}

/* Starting -> the state before it. */
static void lifecycle_start_failed(struct kelpie_lifecycle *lifecycle,
                                   const struct kelpie_error *given) {
    struct kelpie_error error = *given;
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(error.code < 0);
    kelpie__prepare_cancel(&lifecycle->monitor->prepare);
    lifecycle_end_vmm(lifecycle, &error);
    lifecycle_change(lifecycle, lifecycle->record.previous, error.message);
    kelpie__reply_refuse(lifecycle->monitor, &lifecycle->start_reply, &error);
    lifecycle_after_end(lifecycle, false);
}

static void lifecycle_ended_starting(struct kelpie_lifecycle *lifecycle,
                                     const struct kelpie_vmm_end *end) {
    struct kelpie_error error = {0};
    if (lifecycle->is_kill_wanted) {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the start was ended by a kill"));
    } else if (lifecycle->has_failure) {
        error = lifecycle->failure;
        lifecycle_describe(lifecycle, NULL, &error);
    } else {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_BOOT, 0, "the VM ended before its agent said hello"));
        lifecycle_describe(lifecycle, end, &error);
    }
    lifecycle_start_failed(lifecycle, &error);
}

/* The state of a VM that ran, and why. */
static enum kelpie_vm_state lifecycle_judge(struct kelpie_lifecycle *lifecycle,
                                            const struct kelpie_vmm_end *end,
                                            struct kelpie_error *out) {
    bool said_goodbye = lifecycle->monitor->guest.has_said_goodbye;
    if (lifecycle->has_failure) {
        *out = lifecycle->failure;
        return KELPIE_VM_CRASHED;
    }
    if (lifecycle->is_kill_wanted || lifecycle->is_stopping) {
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the VM was %s",
                                    lifecycle->is_kill_wanted ? "killed" : "stopped"));
        return KELPIE_VM_STOPPED;
    }
    /* With panic=-1 a panic is a reset too: the console tells it from an orderly restart. */
    const struct kelpie_console_log *console = &lifecycle->monitor->console;
    bool is_restart = end->kind == KELPIE_VMM_END_RESET && !console->is_panic &&
                      (said_goodbye || console->is_reboot);
    if (is_restart || end->kind == KELPIE_VMM_END_POWER_OFF) {
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the guest %s itself",
                                    is_restart ? "restarted" : "switched off"));
        return KELPIE_VM_STOPPED;
    }
    kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0, "the VM died"));
    lifecycle_describe(lifecycle, end, out);
    return KELPIE_VM_CRASHED;
}

static void lifecycle_ended_running(struct kelpie_lifecycle *lifecycle,
                                    const struct kelpie_vmm_end *end) {
    struct kelpie_error why = {0};
    bool was_graceful = lifecycle->is_stopping && !lifecycle->is_kill_wanted &&
                        lifecycle->monitor->guest.has_said_goodbye;
    enum kelpie_vm_state next = lifecycle_judge(lifecycle, end, &why);
    lifecycle_end_vmm(lifecycle, &why);
    lifecycle_change(lifecycle, next, why.message);
    lifecycle_after_end(lifecycle, was_graceful);
}

static void lifecycle_launch(struct kelpie_lifecycle *lifecycle,
                             enum kelpie_vmm_accelerator accelerator);

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
static void lifecycle_lost_trial(struct kelpie_lifecycle *lifecycle, const char *cause) {
    struct kelpie_error why = {0};
    kelpie__ignore(kelpie__fail(&why, KELPIE_E_BOOT, 0, "KVM did not boot a guest on this host"));
    kelpie__event_log_write(lifecycle->monitor, "notice",
                            "KVM did not boot a guest on this host, TCG takes over from now on "
                            "(kelpie doctor tries again): %s",
                            cause);
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
    lifecycle_launch(lifecycle, KELPIE_VMM_ACCELERATOR_TCG);
    if (lifecycle->vmm != NULL) { /* the driver only knows that it was asked for TCG */
        lifecycle_note_reason(lifecycle, "KVM was tried on this host just now: ", cause);
    }
}

static void lifecycle_ended(struct kelpie_lifecycle *lifecycle, const struct kelpie_vmm_end *end) {
    bool has_lost_trial =
        lifecycle->is_trial && lifecycle->state == KELPIE_VM_STARTING && !lifecycle->is_kill_wanted;
    /* What the guest said last is still in the stream, and may be the cause. */
    kelpie__console_log_detach(&lifecycle->monitor->console);
    if (has_lost_trial) {
        char cause[KELPIE_VMM_TEXT_BYTES_MAX] = "no hello within the time of the trial";
        if (!lifecycle->is_trial_lost) { /* it died by itself, before its time */
            memcpy(cause, end->text, sizeof(cause));
        }
        kelpie__vmm_settle(lifecycle->vmm, false, cause);
        lifecycle_lost_trial(lifecycle, cause);
    } else if (lifecycle->state == KELPIE_VM_STARTING) {
        lifecycle_ended_starting(lifecycle, end);
    } else {
        lifecycle_ended_running(lifecycle, end);
    }
}

static void lifecycle_vmm_event(void *context, const struct kelpie_vmm_event *event) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    switch (event->type) {
    case KELPIE_VMM_EVENT_STARTED:
    case KELPIE_VMM_EVENT_PAUSED:
    case KELPIE_VMM_EVENT_RESUMED:
        break;
    case KELPIE_VMM_EVENT_ENDED:
        lifecycle_ended(lifecycle, event->end);
        break;
    }
}

void kelpie__lifecycle_fail(struct kelpie_monitor *monitor, const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    KELPIE_ASSERT(error->code < 0);
    if (!lifecycle->has_failure && !lifecycle->is_kill_wanted) { /* the first cause counts */
        lifecycle->has_failure = true;
        lifecycle->failure = *error;
    }
    if (lifecycle->vmm != NULL) {
        kelpie__vmm_kill(lifecycle->vmm);
    }
}

/* ---- start ----------------------------------------------------------------------------------- */

static void lifecycle_boot_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    kelpie__ignore(kelpie__fail(
        &error, KELPIE_E_BOOT_TIMEOUT, 0,
        "the guest did not say hello within its boot timeout of %lld ms; give a longer one",
        (long long)((lifecycle->boot_deadline_ns - lifecycle->start_ns) / KELPIE_NS_PER_MS)));
    if (lifecycle->vmm == NULL) {
        lifecycle_start_failed(lifecycle, &error);
        return;
    }
    lifecycle->is_trial = false; /* no time is left for the other accelerator */
    kelpie__lifecycle_fail(lifecycle->monitor, &error);
}

static void lifecycle_trial_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->is_trial && lifecycle->vmm != NULL);
    lifecycle->is_trial_lost = true;
    kelpie__vmm_kill(lifecycle->vmm);
}

/* Gives the started VMM's streams to their parts. */
static int lifecycle_attach(struct kelpie_lifecycle *lifecycle,
                            const struct kelpie_vmm_started *started, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    int status = kelpie__console_log_attach(&monitor->console, started->console, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, started->console));
        kelpie__ignore(kelpie__os_close(monitor->os, started->agent));
        return status;
    }
    kelpie__os_label(monitor->os, started->agent, "agent");
    status = kelpie__guest_attach(&monitor->guest, started->agent, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, started->agent));
    }
    return status;
}

static void lifecycle_launched(struct kelpie_lifecycle *lifecycle,
                               const struct kelpie_vmm_started *started) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_vm_record *record = &lifecycle->record;
    kelpie__ignore(kelpie__text_copy(record->accelerator, sizeof(record->accelerator),
                                     kelpie__vmm_accelerator_name(started->accelerator)));
    kelpie__ignore(kelpie__text_copy(record->accelerator_reason, sizeof(record->accelerator_reason),
                                     started->accelerator_reason));
    kelpie__ignore(kelpie__text_copy(record->backend, sizeof(record->backend),
                                     lifecycle->vmm->operations->name));
    kelpie__ignore(
        kelpie__text_copy(record->kernel, sizeof(record->kernel), monitor->prepare.kernel_found));
    kelpie__ignore(kelpie__text_copy(record->origin, sizeof(record->origin), "boot"));
    lifecycle->is_trial = started->trial_ns != 0;
    if (lifecycle->is_trial) {
        kelpie__timer_arm(monitor->loop, &lifecycle->trial_timer,
                          monitor->loop->now_ns + started->trial_ns, lifecycle_trial_timed_out,
                          lifecycle);
    }
    kelpie__relay_begin(&monitor->relay);
}

static void lifecycle_launch(struct kelpie_lifecycle *lifecycle,
                             enum kelpie_vmm_accelerator accelerator) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_error error = {0};
    struct kelpie_vmm_started started;
    const struct kelpie_vmm_create create = {.os = monitor->os,
                                             .loop = monitor->loop,
                                             .callback = lifecycle_vmm_event,
                                             .context = lifecycle};
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    kelpie__prepare_spec(&monitor->prepare, &lifecycle->spec, lifecycle->disks);
    lifecycle->spec.accelerator = accelerator;
    int status = kelpie__vmm_create(kelpie__vmm_driver(0), &create, &lifecycle->vmm, &error);
    if (status == 0) {
        status = kelpie__vmm_start(lifecycle->vmm, &lifecycle->spec, &started, &error);
    }
    if (status == 0) {
        status = lifecycle_attach(lifecycle, &started, &error);
    }
    if (status < 0) {
        lifecycle_start_failed(lifecycle, &error);
        return;
    }
    lifecycle_launched(lifecycle, &started);
}

static enum kelpie_vmm_accelerator lifecycle_accelerator(enum kelpie_accelerator wanted) {
    return wanted == KELPIE_ACCELERATOR_KVM   ? KELPIE_VMM_ACCELERATOR_KVM
           : wanted == KELPIE_ACCELERATOR_TCG ? KELPIE_VMM_ACCELERATOR_TCG
                                              : KELPIE_VMM_ACCELERATOR_AUTO;
}

void kelpie__lifecycle_prepared(struct kelpie_monitor *monitor, const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    if (error != NULL) {
        lifecycle_start_failed(lifecycle, error);
        return;
    }
    /* The boot's time begins here: what was packed once is not part of it. */
    int64_t boot_ns = lifecycle->boot_deadline_ns - lifecycle->start_ns;
    lifecycle->start_ns = monitor->loop->now_ns;
    lifecycle->boot_deadline_ns = lifecycle->start_ns + boot_ns;
    kelpie__timer_arm(monitor->loop, &lifecycle->boot_timer, lifecycle->boot_deadline_ns,
                      lifecycle_boot_timed_out, lifecycle);
    lifecycle_launch(lifecycle, lifecycle_accelerator(monitor->config.accelerator));
}

void kelpie__lifecycle_start(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             uint64_t timeout_ms) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    struct kelpie_error error = {0};
    uint64_t chosen_ms = timeout_ms != 0 ? timeout_ms : monitor->config.boot_timeout_ms;
    int status =
        kelpie__state_allow(lifecycle->state, KELPIE_VERB_START, monitor->config.name, &error);
    if (status == 0 && (lifecycle->is_deleting || lifecycle->is_ending)) {
        status = kelpie__fail(&error, KELPIE_E_STATE, 0, "start: VM \"%s\" is being deleted",
                              monitor->config.name);
    }
    if (status == 0) {
        status = kelpie__prepare_check_memory(monitor, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    lifecycle->record.previous = lifecycle->state;
    lifecycle->record.boot_us = 0;
    lifecycle->start_reply = reply;
    lifecycle->start_ns = monitor->loop->now_ns;
    lifecycle->boot_deadline_ns = kelpie__loop_deadline(
        monitor->loop, kelpie__min_u64(chosen_ms, KELPIE_BOOT_TIMEOUT_MS_MAX));
    kelpie__state_change(&lifecycle->state, KELPIE_VM_STARTING);
    lifecycle->record.reason[0] = '\0';
    if (lifecycle_save(lifecycle, &error) < 0) { /* nothing is spawned that no file knows of */
        lifecycle_start_failed(lifecycle, &error);
        return;
    }
    kelpie__event_log_write(monitor, "state", "starting");
    kelpie__prepare_start(&monitor->prepare, monitor);
}

void kelpie__lifecycle_guest_greeted(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    if (lifecycle->is_trial && !lifecycle->is_trial_lost) {
        kelpie__timer_disarm(monitor->loop, &lifecycle->trial_timer);
        kelpie__vmm_settle(lifecycle->vmm, true, "it booted a guest on this host");
        lifecycle->is_trial = false;
    }
}

void kelpie__lifecycle_guest_live(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    if (lifecycle->has_failure || lifecycle->is_kill_wanted) {
        return; /* its end is on the way */
    }
    kelpie__timer_disarm(monitor->loop, &lifecycle->boot_timer);
    lifecycle->record.boot_us =
        (uint64_t)((monitor->loop->now_ns - lifecycle->start_ns) / KELPIE_NS_PER_US);
    lifecycle_change(lifecycle, KELPIE_VM_RUNNING, "the guest's agent answered");
    kelpie__reply_result(monitor, &lifecycle->start_reply, "{}");
}

/* ---- stop, kill, delete ---------------------------------------------------------------------- */

static void lifecycle_kill_now(struct kelpie_lifecycle *lifecycle) {
    KELPIE_ASSERT(kelpie__state_is_live(lifecycle->state));
    lifecycle->is_kill_wanted = true;
    if (lifecycle->vmm != NULL) {
        kelpie__vmm_kill(lifecycle->vmm);
        return;
    }
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the start was ended by a kill"));
    lifecycle_start_failed(lifecycle, &error);
}

static void lifecycle_stop_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->is_stopping);
    kelpie__event_log_write(lifecycle->monitor, "notice",
                            "the guest did not stop in time and is killed");
    lifecycle_kill_now(lifecycle);
}

static void lifecycle_stop_answered(void *context, const struct kelpie_error *error,
                                    const char *result, size_t length) {
    struct kelpie_lifecycle *lifecycle = context;
    kelpie__ignore(result != NULL && length > 0);
    if (error != NULL && lifecycle->is_stopping && lifecycle->vmm != NULL) {
        lifecycle_kill_now(lifecycle); /* it refuses to go */
    }
}

static void lifecycle_ask_to_stop(struct kelpie_lifecycle *lifecycle, uint64_t timeout_ms) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    char params[64];
    uint64_t guest_ms = timeout_ms - timeout_ms / LIFECYCLE_STOP_MARGIN_PART;
    kelpie__ignore(kelpie__text_format(params, sizeof(params), "{\"timeout_ms\":%llu}",
                                       (unsigned long long)guest_ms));
    lifecycle->is_stopping = true;
    kelpie__timer_arm(monitor->loop, &lifecycle->stop_timer,
                      kelpie__loop_deadline(monitor->loop, timeout_ms), lifecycle_stop_timed_out,
                      lifecycle);
    if (wire == NULL || kelpie__wire_call(wire, "guest.shutdown", params, KELPIE_TIMEOUT_NONE,
                                          lifecycle_stop_answered, lifecycle, NULL, NULL) < 0) {
        lifecycle_kill_now(lifecycle);
    }
}

void kelpie__lifecycle_stop(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            uint64_t timeout_ms) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    struct kelpie_error error = {0};
    uint64_t chosen_ms = timeout_ms != 0 ? timeout_ms : KELPIE_STOP_TIMEOUT_MS_DEFAULT;
    if (kelpie__state_allow(lifecycle->state, KELPIE_VERB_STOP, monitor->config.name, &error) < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    if (!waiter_add(lifecycle->stop_replies, reply)) {
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_BUSY,
                                  "stop: %u clients wait for this VM to stop already",
                                  KELPIE_LIFECYCLE_WAITER_COUNT);
        return;
    }
    if (!lifecycle->is_stopping && !lifecycle->is_kill_wanted) {
        lifecycle_ask_to_stop(lifecycle, kelpie__min_u64(chosen_ms, KELPIE_BOOT_TIMEOUT_MS_MAX));
    }
}

void kelpie__lifecycle_kill(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    if (!kelpie__state_is_live(lifecycle->state)) {
        kelpie__reply_result(monitor, &reply, "{}"); /* kill never fails */
        return;
    }
    if (!waiter_add(lifecycle->kill_replies, reply)) {
        kelpie__reply_result(monitor, &reply, "{}"); /* it is being killed */
    }
    lifecycle_kill_now(lifecycle);
}

void kelpie__lifecycle_delete(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                              bool is_forced) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    struct kelpie_error error = {0};
    int status =
        kelpie__state_allow(lifecycle->state, KELPIE_VERB_DELETE, monitor->config.name, &error);
    if (lifecycle->is_deleting) {
        status = kelpie__fail(&error, KELPIE_E_BUSY, 0, "delete: VM \"%s\" is being deleted",
                              monitor->config.name);
    } else if (status < 0 && is_forced) {
        lifecycle->is_deleting = true;
        lifecycle->delete_reply = reply;
        lifecycle_kill_now(lifecycle);
        return;
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    lifecycle->is_deleting = true;
    kelpie__monitor_delete(monitor, &reply);
}

void kelpie__lifecycle_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    bool is_start = lifecycle->start_reply.client == client &&
                    lifecycle->start_reply.request == request && client != 0;
    if (is_start && lifecycle->state == KELPIE_VM_STARTING) {
        lifecycle_kill_now(lifecycle);
    }
}

void kelpie__lifecycle_owner_gone(struct kelpie_monitor *monitor, const char *why) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    if (lifecycle->is_ending) {
        return;
    }
    lifecycle->is_ending = true;
    kelpie__event_log_write(monitor, "notice", "the VM ends: %s", why);
    if (kelpie__state_is_live(lifecycle->state)) {
        lifecycle_kill_now(lifecycle);
    }
}

int kelpie__lifecycle_check_exec(const struct kelpie_monitor *monitor, const char *operation,
                                 struct kelpie_error *error) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    int status =
        kelpie__state_allow(lifecycle->state, KELPIE_VERB_EXEC, monitor->config.name, error);
    if (status < 0) {
        return status;
    }
    if (lifecycle->is_stopping || lifecycle->is_kill_wanted || lifecycle->has_failure ||
        kelpie__guest_wire(&monitor->guest) == NULL) {
        return kelpie__fail(error, KELPIE_E_STATE, 0, "%s: VM \"%s\" is ending", operation,
                            monitor->config.name);
    }
    return 0;
}

/* ---- the agent's connection ------------------------------------------------------------------ */

static void lifecycle_closed_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, 0,
                                "the agent's connection ended and the VM ran on without it"));
    kelpie__lifecycle_fail(lifecycle->monitor, &error);
}

void kelpie__lifecycle_guest_closed(struct kelpie_monitor *monitor,
                                    const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = lifecycle_of(monitor);
    if (lifecycle->vmm == NULL) {
        return;
    }
    if (error->code == KELPIE_E_PROTOCOL) {
        struct kelpie_error broken = *error;
        broken.code = lifecycle->state == KELPIE_VM_STARTING ? KELPIE_E_BOOT : KELPIE_E_PROTOCOL;
        kelpie__fail_prefix(&broken, "the guest's agent");
        kelpie__lifecycle_fail(monitor, &broken);
        return;
    }
    /* The VMM is going, and its own end tells why. */
    kelpie__timer_arm(monitor->loop, &lifecycle->closed_timer,
                      monitor->loop->now_ns + LIFECYCLE_CLOSED_NS, lifecycle_closed_timed_out,
                      lifecycle);
}

bool kelpie__lifecycle_is_over(const struct kelpie_monitor *monitor) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    return !kelpie__state_is_live(lifecycle->state) &&
           (monitor->clients.count == 0 || lifecycle->is_ending || monitor->is_deleted);
}
