/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See pause.h; resume.c has the way back. One request at a time; the VMM's answer decides, and the
 * VM's state changes only when all of it is done. While a request is under way the state is the one
 * before it.
 */
#include "monitor/pause.h"

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* From a row's phase to those after it; all of them end in Idle, whoever ends them. */
#define BIT(phase) (1u << (KELPIE_PAUSE_##phase))
static const uint32_t pause_next[] = {
    [KELPIE_PAUSE_IDLE] = BIT(QUIETING) | BIT(PAUSING) | BIT(RESUMING) | BIT(UNDOING) |
                          BIT(RELEASING) | BIT(TAKEN) | BIT(IDLE),
    [KELPIE_PAUSE_QUIETING] = BIT(PAUSING) | BIT(IDLE),
    [KELPIE_PAUSE_PAUSING] = BIT(IDLE),
    [KELPIE_PAUSE_RESUMING] = BIT(PROVING) | BIT(IDLE),
    [KELPIE_PAUSE_PROVING] = BIT(SETTING) | BIT(IDLE),
    [KELPIE_PAUSE_SETTING] = BIT(IDLE),
    [KELPIE_PAUSE_UNDOING] = BIT(IDLE),
    [KELPIE_PAUSE_RELEASING] = BIT(IDLE),
    [KELPIE_PAUSE_TAKEN] = BIT(IDLE),
};
static_assert(KELPIE_ARRAY_COUNT(pause_next) == KELPIE_PAUSE_TAKEN + 1,
              "the table has a row for every phase");
#undef BIT

static void pause_check(const struct kelpie_pause *pause) {
    const struct kelpie_lifecycle *lifecycle = &pause->monitor->lifecycle;
    KELPIE_ASSERT(pause->failure.code <= 0);
    if (pause->call != 0) {
        KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PROVING || pause->phase == KELPIE_PAUSE_SETTING);
    }
    switch (pause->phase) {
    case KELPIE_PAUSE_IDLE:
        return;
    case KELPIE_PAUSE_QUIETING:
    case KELPIE_PAUSE_PAUSING:
        KELPIE_ASSERT(lifecycle->state == KELPIE_VM_RUNNING);
        break;
    case KELPIE_PAUSE_UNDOING:
        KELPIE_ASSERT(pause->failure.code < 0);
        KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
        break;
    case KELPIE_PAUSE_RESUMING:
    case KELPIE_PAUSE_PROVING:
    case KELPIE_PAUSE_SETTING:
        KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
        break;
    case KELPIE_PAUSE_RELEASING:
        KELPIE_ASSERT(lifecycle->is_stopping);
        break;
    case KELPIE_PAUSE_TAKEN:
        KELPIE_ASSERT(pause->reply.client == 0);
        break;
    }
    KELPIE_ASSERT(lifecycle->vmm != NULL);
}

void kelpie__pause_enter(struct kelpie_pause *pause, enum kelpie_pause_phase next) {
    KELPIE_ASSERT(next <= KELPIE_PAUSE_TAKEN);
    KELPIE_ASSERT((pause_next[pause->phase] & (1u << next)) != 0);
    pause->phase = next;
    pause_check(pause);
}

struct kelpie_lifecycle *kelpie__pause_lifecycle(const struct kelpie_pause *pause) {
    pause_check(pause);
    return kelpie__lifecycle_of(pause->monitor);
}

void kelpie__pause_wake(struct kelpie_pause *pause) {
    struct kelpie_guest *guest = &pause->monitor->guest;
    if (guest->phase != KELPIE_GUEST_RESTORED) {
        kelpie__guest_unquiesce(guest);
    }
}

void kelpie__pause_init(struct kelpie_pause *pause, struct kelpie_monitor *monitor) {
    *pause = (struct kelpie_pause){.monitor = monitor, .phase = KELPIE_PAUSE_IDLE};
    KELPIE_ASSERT(pause->reply.client == 0);
}

void kelpie__pause_idle(struct kelpie_pause *pause) {
    struct kelpie_guest *guest = &pause->monitor->guest;
    pause_check(pause);
    if (pause->call != 0 && guest->wire != NULL) {
        kelpie__wire_forget(guest->wire, pause->call);
    }
    if (pause->phase == KELPIE_PAUSE_QUIETING) {
        kelpie__guest_unquiesce(guest);
    } else if (pause->phase == KELPIE_PAUSE_PROVING) {
        kelpie__guest_stop_greeting(guest);
    }
    pause->call = 0;
    kelpie__pause_enter(pause, KELPIE_PAUSE_IDLE);
    kelpie__timer_disarm(pause->monitor->loop, &pause->retry_timer);
}

void kelpie__pause_refuse(struct kelpie_pause *pause, int code, const struct kelpie_error *why) {
    struct kelpie_error error = *why;
    KELPIE_ASSERT(code == KELPIE_E_PAUSE || code == KELPIE_E_RESUME);
    KELPIE_ASSERT(why->code < 0);
    error.code = why->code == KELPIE_E_CRASHED || why->code == KELPIE_E_STATE ? why->code : code;
    kelpie__fail_prefix(&error, "%s: VM \"%s\"", code == KELPIE_E_PAUSE ? "pause" : "resume",
                        pause->monitor->config.name);
    kelpie__reply_refuse(pause->monitor, &pause->reply, &error);
}

static bool pause_is_ending(const struct kelpie_lifecycle *lifecycle) {
    return lifecycle->is_stopping || lifecycle->is_kill_wanted || lifecycle->has_failure;
}

/* What is under way ends because the VM does. A VM that is killed or has failed is about to end,
 * and its end refuses the request with the cause. */
static void pause_abandon(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(pause_is_ending(lifecycle));
    KELPIE_ASSERT(pause->phase != KELPIE_PAUSE_IDLE);
    bool is_pause = pause->phase == KELPIE_PAUSE_QUIETING || pause->phase == KELPIE_PAUSE_PAUSING;
    int code = is_pause ? KELPIE_E_PAUSE : KELPIE_E_RESUME;
    KELPIE_SOMETIMES(pause->monitor->os, "a pause met the end of its VM", is_pause);
    KELPIE_SOMETIMES(pause->monitor->os, "a resume met the end of its VM", !is_pause);
    kelpie__pause_idle(pause);
    if (!lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_STATE, 0, "it is being stopped"));
        kelpie__pause_refuse(pause, code, &error);
    }
}

/* ---- what the VMM does ----------------------------------------------------------------------- */

void kelpie__pause_changed(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    bool is_paused = lifecycle->vmm->state == KELPIE_VMM_PAUSED;
    kelpie__relay_freeze(&pause->monitor->relay, is_paused);
    if (pause->phase != KELPIE_PAUSE_IDLE || pause_is_ending(lifecycle)) {
        return; /* who asked for it sees to the state */
    }
    if (is_paused && lifecycle->state == KELPIE_VM_RUNNING) {
        KELPIE_REACHED(pause->monitor->os, "a VMM paused its guest by itself");
        kelpie__lifecycle_change(lifecycle, KELPIE_VM_PAUSED, "the VMM paused the guest by itself");
    } else if (!is_paused && lifecycle->state == KELPIE_VM_PAUSED) {
        kelpie__pause_wake(pause);
        KELPIE_REACHED(pause->monitor->os, "a VMM resumed its guest by itself");
        kelpie__lifecycle_change(lifecycle, KELPIE_VM_RUNNING,
                                 "the VMM resumed the guest by itself");
    }
}

/* ---- making way for a stop ------------------------------------------------------------------- */

static void pause_clock_answered(void *context, const struct kelpie_error *error,
                                 const char *result, size_t length) {
    (void)context;
    (void)error; /* it shuts down with a clock that is behind */
    (void)result;
    (void)length;
}

static void pause_released(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_wire *wire = kelpie__guest_wire(&pause->monitor->guest);
    char params[64];
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RELEASING);
    KELPIE_ASSERT(lifecycle->is_stopping);
    kelpie__pause_idle(pause);
    if (lifecycle->is_kill_wanted || lifecycle->has_failure) {
        return; /* its end is on the way */
    }
    if (status < 0) {
        KELPIE_REACHED(pause->monitor->os, "a paused VM could not be resumed to be stopped");
        kelpie__event_log_write(pause->monitor, "notice", "resume it to stop it: %s",
                                error->message);
        kelpie__lifecycle_kill_now(lifecycle);
        return;
    }
    kelpie__ignore(
        kelpie__text_format(params, sizeof(params), "{\"wall_ns\":%lld}",
                            (long long)kelpie__os_now(pause->monitor->os, KELPIE_OS_CLOCK_WALL)));
    kelpie__guest_unquiesce(
        &pause->monitor->guest); /* also a restored one: it is heard as it was */
    if (wire != NULL) {          /* what it writes last should bear the right time */
        kelpie__ignore(kelpie__wire_call(wire, "guest.clock", params, KELPIE_TIMEOUT_NONE,
                                         pause_clock_answered, NULL, NULL, NULL));
    }
    KELPIE_REACHED(pause->monitor->os, "a paused VM was resumed to be stopped");
    kelpie__lifecycle_ask_to_go(lifecycle);
}

void kelpie__pause_release(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(lifecycle->is_stopping);
    switch (pause->phase) {
    case KELPIE_PAUSE_QUIETING:
    case KELPIE_PAUSE_PROVING:
    case KELPIE_PAUSE_SETTING:
        pause_abandon(pause);
        break;
    case KELPIE_PAUSE_PAUSING:
    case KELPIE_PAUSE_RESUMING:
    case KELPIE_PAUSE_UNDOING:
    case KELPIE_PAUSE_RELEASING:
    case KELPIE_PAUSE_TAKEN:
        KELPIE_REACHED(pause->monitor->os, "a stop waited for a pause or resume");
        return; /* comes back here when the VMM has answered, or when it is given back */
    case KELPIE_PAUSE_IDLE:
        break;
    }
    if (lifecycle->vmm->state != KELPIE_VMM_PAUSED) {
        kelpie__guest_unquiesce(&pause->monitor->guest);
        kelpie__lifecycle_ask_to_go(lifecycle);
    } else if (kelpie__vmm_resume(lifecycle->vmm, pause_released, pause, &error) == 0) {
        kelpie__pause_enter(pause, KELPIE_PAUSE_RELEASING);
    } else {
        kelpie__lifecycle_kill_now(lifecycle);
    }
}

bool kelpie__pause_gave_way(struct kelpie_pause *pause, int status) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(status <= 0);
    if (!pause_is_ending(lifecycle)) {
        return status == KELPIE_E_CRASHED;
    }
    pause_abandon(pause);
    if (lifecycle->is_stopping && !lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__pause_release(pause);
    }
    return true;
}

/* ---- pause ----------------------------------------------------------------------------------- */

static void pause_paused(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PAUSING);
    if (kelpie__pause_gave_way(pause, status)) {
        return;
    }
    kelpie__pause_idle(pause);
    if (status < 0) {
        KELPIE_REACHED(pause->monitor->os, "a VMM did not pause");
        kelpie__pause_wake(pause);
        kelpie__pause_refuse(pause, KELPIE_E_PAUSE, error);
        kelpie__pause_changed(pause); /* it should run; if it does not, that is shown */
        return;
    }
    KELPIE_ASSERT(lifecycle->vmm->state == KELPIE_VMM_PAUSED);
    kelpie__lifecycle_change(lifecycle, KELPIE_VM_PAUSED, "paused on request");
    kelpie__reply_result(pause->monitor, &pause->reply, "{}");
}

/* Whether the VMM may be paused or resumed now by whoever asks, the state apart. */
static int pause_check_free(struct kelpie_pause *pause, const char *operation,
                            struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    int status = kelpie__lifecycle_check_ending(pause->monitor, operation, error);
    if (status < 0) {
        return status;
    }
    if ((lifecycle->vmm->operations->capabilities & KELPIE_VMM_CAN_PAUSE) == 0) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "%s: the backend \"%s\" cannot pause a VM", operation,
                            lifecycle->vmm->operations->name);
    }
    if (pause->phase != KELPIE_PAUSE_IDLE || lifecycle->vmm->is_changing ||
        pause->monitor->guest.done != NULL) {
        KELPIE_REACHED(pause->monitor->os, "a pause or resume met another");
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "%s: VM \"%s\" is being %s", operation,
                            pause->monitor->config.name,
                            pause->phase == KELPIE_PAUSE_TAKEN ? "saved" : "paused or resumed");
    }
    return 0;
}

int kelpie__pause_allow(struct kelpie_pause *pause, enum kelpie_vm_verb verb,
                        struct kelpie_error *error) {
    int status = kelpie__state_allow(kelpie__pause_lifecycle(pause)->state, verb,
                                     pause->monitor->config.name, error);
    return status < 0 ? status : pause_check_free(pause, kelpie__verb_name(verb), error);
}

int kelpie__pause_take(struct kelpie_monitor *monitor, const char *operation,
                       struct kelpie_error *error) {
    struct kelpie_pause *pause = &monitor->pause;
    enum kelpie_vm_state state = kelpie__pause_lifecycle(pause)->state;
    /* Starting: for a template, of a guest that is there and not yet anybody's. */
    bool has_guest = monitor->guest.phase == KELPIE_GUEST_LIVE;
    if (state != KELPIE_VM_RUNNING && state != KELPIE_VM_PAUSED &&
        !(state == KELPIE_VM_STARTING && has_guest)) {
        return kelpie__fail(error, KELPIE_E_STATE, 0,
                            "%s: VM \"%s\" is %s, and has to be running or paused", operation,
                            monitor->config.name, kelpie_vm_state_name(state));
    }
    int status = pause_check_free(pause, operation, error);
    if (status == 0) {
        KELPIE_ASSERT(pause->reply.client == 0);
        kelpie__pause_enter(pause, KELPIE_PAUSE_TAKEN);
    }
    return status;
}

void kelpie__pause_give_back(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    if (pause->phase != KELPIE_PAUSE_TAKEN) {
        return; /* the VM has ended */
    }
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(pause->reply.client == 0);
    kelpie__pause_idle(pause);
    if (!pause_is_ending(lifecycle)) {
        kelpie__pause_changed(pause);
    } else if (lifecycle->is_stopping && !lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__pause_release(pause);
    }
}

static void pause_stop(struct kelpie_pause *pause) {
    KELPIE_ASSERT(pause->reply.client != 0);
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_error error = {0};
    kelpie__pause_enter(pause, KELPIE_PAUSE_PAUSING);
    int status = 0;
    if (lifecycle->vmm->state != KELPIE_VMM_RUNNING) { /* it has paused by itself, or hangs */
        KELPIE_REACHED(pause->monitor->os, "a pause came to a VMM that was not running");
        status = kelpie__fail(&error, KELPIE_E_PAUSE, 0,
                              "its VMM has not answered yet; try again, or kill the VM");
    } else {
        status = kelpie__vmm_pause(lifecycle->vmm, pause_paused, pause, &error);
    }
    if (status < 0) {
        kelpie__pause_idle(pause);
        kelpie__pause_wake(pause);
        kelpie__pause_refuse(pause, KELPIE_E_PAUSE, &error);
        kelpie__pause_changed(pause);
    }
}

static void pause_quieted(void *context, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_QUIETING);
    if (kelpie__pause_gave_way(pause, 0)) {
        return;
    }
    if (error != NULL) { /* paused it can be, only not saved like this */
        KELPIE_REACHED(pause->monitor->os, "a guest was paused unprepared");
        kelpie__event_log_write(pause->monitor, "notice", "the guest is paused unprepared: %s",
                                error->message);
    }
    pause_stop(pause);
}

/* The guest is quiet first: whoever saves it while it is paused cannot ask it any more. */
void kelpie__pause_pause(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_pause *pause = &monitor->pause;
    struct kelpie_error error = {0};
    if (kelpie__pause_allow(pause, KELPIE_VERB_PAUSE, &error) < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    KELPIE_ASSERT(reply.client != 0);
    KELPIE_ASSERT(pause->reply.client == 0);
    pause->reply = reply;
    if (kelpie__guest_quiesce(&monitor->guest, pause_quieted, pause, &error) < 0) {
        pause_stop(pause);
        return;
    }
    kelpie__pause_enter(pause, KELPIE_PAUSE_QUIETING);
}

/* ---- the end --------------------------------------------------------------------------------- */

void kelpie__pause_end(struct kelpie_pause *pause, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    kelpie__pause_idle(pause);
    KELPIE_SOMETIMES(pause->monitor->os, "a VM ended with a pause or resume under way",
                     pause->reply.client != 0);
    kelpie__reply_refuse(pause->monitor, &pause->reply, why);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_IDLE);
    KELPIE_ASSERT(pause->reply.client == 0);
}
