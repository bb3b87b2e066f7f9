/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See pause.h. One request at a time; the VMM's answer decides, and the VM's state changes only
 * when all of it is done. While a request is under way the state is the one before it.
 */
#include "monitor/pause.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* what clients wrote to a guest that stood still may fill its connection for a moment */
#define PAUSE_RETRY_NS (10 * KELPIE_NS_PER_MS)

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

static void pause_enter(struct kelpie_pause *pause, enum kelpie_pause_phase next) {
    KELPIE_ASSERT(next <= KELPIE_PAUSE_TAKEN);
    KELPIE_ASSERT((pause_next[pause->phase] & (1u << next)) != 0);
    pause->phase = next;
    pause_check(pause);
}

static struct kelpie_lifecycle *pause_lifecycle(const struct kelpie_pause *pause) {
    pause_check(pause);
    return kelpie__lifecycle_of(pause->monitor);
}

/* The guest runs: what waited for it goes. A restored one is greeted instead. */
static void pause_wake(struct kelpie_pause *pause) {
    struct kelpie_guest *guest = &pause->monitor->guest;
    if (guest->phase != KELPIE_GUEST_RESTORED) {
        kelpie__guest_unquiesce(guest);
    }
}

void kelpie__pause_init(struct kelpie_pause *pause, struct kelpie_monitor *monitor) {
    *pause = (struct kelpie_pause){.monitor = monitor, .phase = KELPIE_PAUSE_IDLE};
    KELPIE_ASSERT(pause->reply.client == 0);
}

/* Nothing is awaited any more. */
static void pause_idle(struct kelpie_pause *pause) {
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
    pause_enter(pause, KELPIE_PAUSE_IDLE);
    kelpie__timer_disarm(pause->monitor->loop, &pause->retry_timer);
}

/* An operation that failed, with its own code unless the VM has died of it. */
static void pause_refuse(struct kelpie_pause *pause, int code, const struct kelpie_error *why) {
    struct kelpie_error error = *why;
    KELPIE_ASSERT(code == KELPIE_E_PAUSE || code == KELPIE_E_RESUME);
    KELPIE_ASSERT(why->code < 0);
    error.code = why->code == KELPIE_E_CRASHED || why->code == KELPIE_E_STATE ? why->code : code;
    kelpie__fail_prefix(&error, code == KELPIE_E_PAUSE ? "pause" : "resume");
    kelpie__reply_refuse(pause->monitor, &pause->reply, &error);
}

/* What the VMM answers when it ends over the request: its end, which follows at once, refuses it.
 */
static bool pause_is_left_to_end(int status) {
    return status == KELPIE_E_CRASHED;
}

static bool pause_is_ending(const struct kelpie_lifecycle *lifecycle) {
    return lifecycle->is_stopping || lifecycle->is_kill_wanted || lifecycle->has_failure;
}

/* What is under way ends because the VM does. A VM that is killed or has failed is about to end,
 * and its end refuses the request with the cause. */
static void pause_abandon(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(pause_is_ending(lifecycle));
    KELPIE_ASSERT(pause->phase != KELPIE_PAUSE_IDLE);
    bool is_pause = pause->phase == KELPIE_PAUSE_QUIETING || pause->phase == KELPIE_PAUSE_PAUSING;
    int code = is_pause ? KELPIE_E_PAUSE : KELPIE_E_RESUME;
    KELPIE_SOMETIMES(pause->monitor->os, "a pause met the end of its VM", is_pause);
    KELPIE_SOMETIMES(pause->monitor->os, "a resume met the end of its VM", !is_pause);
    pause_idle(pause);
    if (!lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_STATE, 0, "VM \"%s\" is being stopped",
                                    pause->monitor->config.name));
        pause_refuse(pause, code, &error);
    }
}

/* ---- what the VMM does ----------------------------------------------------------------------- */

void kelpie__pause_changed(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
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
        pause_wake(pause);
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
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    struct kelpie_wire *wire = kelpie__guest_wire(&pause->monitor->guest);
    char params[64];
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RELEASING);
    KELPIE_ASSERT(lifecycle->is_stopping);
    pause_idle(pause);
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
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
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
        pause_enter(pause, KELPIE_PAUSE_RELEASING);
    } else {
        kelpie__lifecycle_kill_now(lifecycle);
    }
}

/* A step has ended in a VM that is being ended meanwhile. */
static void pause_give_way(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    pause_abandon(pause);
    if (lifecycle->is_stopping && !lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__pause_release(pause);
    }
}

/* ---- pause ----------------------------------------------------------------------------------- */

static void pause_paused(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PAUSING);
    if (pause_is_ending(lifecycle)) {
        pause_give_way(pause);
        return;
    }
    if (pause_is_left_to_end(status)) {
        return;
    }
    pause_idle(pause);
    if (status < 0) {
        KELPIE_REACHED(pause->monitor->os, "a VMM did not pause");
        pause_wake(pause);
        pause_refuse(pause, KELPIE_E_PAUSE, error);
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
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
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

/* 0 when this may begin now. */
static int pause_allow(struct kelpie_pause *pause, enum kelpie_vm_verb verb,
                       struct kelpie_error *error) {
    int status = kelpie__state_allow(pause_lifecycle(pause)->state, verb,
                                     pause->monitor->config.name, error);
    return status < 0 ? status : pause_check_free(pause, kelpie__verb_name(verb), error);
}

int kelpie__pause_take(struct kelpie_monitor *monitor, const char *operation,
                       struct kelpie_error *error) {
    struct kelpie_pause *pause = &monitor->pause;
    enum kelpie_vm_state state = pause_lifecycle(pause)->state;
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
        pause_enter(pause, KELPIE_PAUSE_TAKEN);
    }
    return status;
}

void kelpie__pause_give_back(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    if (pause->phase != KELPIE_PAUSE_TAKEN) {
        return; /* the VM has ended */
    }
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(pause->reply.client == 0);
    pause_idle(pause);
    if (!pause_is_ending(lifecycle)) {
        kelpie__pause_changed(pause);
    } else if (lifecycle->is_stopping && !lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        kelpie__pause_release(pause);
    }
}

static void pause_stop(struct kelpie_pause *pause) {
    KELPIE_ASSERT(pause->reply.client != 0);
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    struct kelpie_error error = {0};
    pause_enter(pause, KELPIE_PAUSE_PAUSING);
    int status = 0;
    if (lifecycle->vmm->state != KELPIE_VMM_RUNNING) { /* it has paused by itself, or hangs */
        KELPIE_REACHED(pause->monitor->os, "a pause came to a VMM that was not running");
        status = kelpie__fail(&error, KELPIE_E_PAUSE, 0, "the VMM has not answered yet");
    } else {
        status = kelpie__vmm_pause(lifecycle->vmm, pause_paused, pause, &error);
    }
    if (status < 0) {
        pause_idle(pause);
        pause_wake(pause);
        pause_refuse(pause, KELPIE_E_PAUSE, &error);
        kelpie__pause_changed(pause);
    }
}

static void pause_quieted(void *context, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_QUIETING);
    if (pause_is_ending(lifecycle)) {
        pause_give_way(pause);
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
    if (pause_allow(pause, KELPIE_VERB_PAUSE, &error) < 0) {
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
    pause_enter(pause, KELPIE_PAUSE_QUIETING);
}

/* ---- resume ---------------------------------------------------------------------------------- */

static void pause_undone(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_UNDOING);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (pause_is_ending(lifecycle)) {
        pause_give_way(pause);
        return;
    }
    if (pause_is_left_to_end(status)) {
        return;
    }
    if (status < 0) { /* it would run, and be Paused to everybody: its end refuses the request */
        struct kelpie_error dead = pause->failure;
        KELPIE_REACHED(pause->monitor->os,
                       "a guest that gave no sign of life could not be paused again");
        dead.code = KELPIE_E_CRASHED;
        kelpie__fail_append(&dead, "; nor could it be paused again: %s", error->message);
        kelpie__lifecycle_fail(pause->monitor, &dead);
        return;
    }
    pause_idle(pause);
    pause_refuse(pause, KELPIE_E_RESUME, &pause->failure);
}

/* The guest runs and gives no sign of life: it is stopped again, so that a later resume finds what
 * this one found. */
static void pause_undo(struct kelpie_pause *pause, const struct kelpie_error *why) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(why->code < 0);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (pause_is_ending(lifecycle)) {
        pause_give_way(pause);
        return;
    }
    KELPIE_REACHED(pause->monitor->os, "a resume was undone");
    pause->failure = *why;
    pause_idle(pause);
    bool runs = lifecycle->vmm->state == KELPIE_VMM_RUNNING;
    pause_enter(pause, KELPIE_PAUSE_UNDOING);
    if (!runs || kelpie__vmm_pause(lifecycle->vmm, pause_undone, pause, &error) < 0) {
        pause_undone(pause, runs ? error.code : 0, runs ? &error : NULL);
    }
}

static uint64_t pause_left_ms(const struct kelpie_pause *pause) {
    int64_t left_ms = (pause->deadline_ns - pause->monitor->loop->now_ns) / KELPIE_NS_PER_MS;
    KELPIE_ASSERT(left_ms <= KELPIE_RESUME_TIMEOUT_MS);
    return left_ms > 0 ? (uint64_t)left_ms : 1;
}

static void pause_resumed(struct kelpie_pause *pause) {
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_SETTING);
    KELPIE_ASSERT(pause->call == 0);
    pause_idle(pause);
    kelpie__lifecycle_change(lifecycle, KELPIE_VM_RUNNING, "resumed on request");
    kelpie__reply_result(pause->monitor, &pause->reply, "{}");
    kelpie__pause_changed(pause); /* the VMM may have stopped it meanwhile */
}

static void pause_clock_set(void *context, const struct kelpie_error *error, const char *result,
                            size_t length) {
    struct kelpie_pause *pause = context;
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_SETTING);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    pause->call = 0;
    if (error != NULL && (error->code == KELPIE_E_TIMEOUT || error->code == KELPIE_E_PROTOCOL)) {
        pause_undo(pause, error);
        return;
    }
    if (error != NULL) { /* it lives, with a clock that is behind */
        KELPIE_REACHED(pause->monitor->os, "a resumed guest's clock could not be set");
        kelpie__event_log_write(pause->monitor, "notice", "set the guest's clock: %s",
                                error->message);
    }
    pause_resumed(pause);
}

static void pause_proved(void *context, const struct kelpie_error *error, const char *result,
                         size_t length);

/* Asks the guest, or tries again in a moment. */
static void pause_ask(void *context) {
    struct kelpie_pause *pause = context;
    struct kelpie_monitor *monitor = pause->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    struct kelpie_error error = {0};
    char params[96];
    bool is_ping = pause->phase == KELPIE_PAUSE_PROVING;
    KELPIE_ASSERT(is_ping || pause->phase == KELPIE_PAUSE_SETTING);
    KELPIE_ASSERT(pause->call == 0);
    bool is_whole =
        is_ping ? kelpie__text_format(params, sizeof(params), "{\"nonce\":\"%s\"}", pause->nonce)
                : kelpie__text_format(params, sizeof(params), "{\"wall_ns\":%lld}",
                                      (long long)kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL));
    KELPIE_ASSERT(is_whole);
    int status = wire == NULL ? kelpie__fail(&error, KELPIE_E_IO, 0, "the agent's connection ended")
                              : kelpie__wire_call(wire, is_ping ? "ping" : "guest.clock", params,
                                                  pause_left_ms(pause),
                                                  is_ping ? pause_proved : pause_clock_set, pause,
                                                  &pause->call, &error);
    if (status == KELPIE_E_LIMIT && monitor->loop->now_ns < pause->deadline_ns) {
        KELPIE_REACHED(monitor->os, "a proof of life had to wait for room");
        kelpie__timer_arm(monitor->loop, &pause->retry_timer,
                          monitor->loop->now_ns + PAUSE_RETRY_NS, pause_ask, pause);
    } else if (status < 0) {
        pause_undo(pause, &error);
    }
}

static void pause_proved(void *context, const struct kelpie_error *error, const char *result,
                         size_t length) {
    struct kelpie_pause *pause = context;
    char nonce[sizeof(pause->nonce)];
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PROVING);
    pause->call = 0;
    if (error != NULL) {
        KELPIE_SOMETIMES(pause->monitor->os, "a resume raced the death of the VMM",
                         error->code != KELPIE_E_TIMEOUT);
        KELPIE_SOMETIMES(pause->monitor->os, "a resumed guest gave no sign of life",
                         error->code == KELPIE_E_TIMEOUT);
        struct kelpie_error silent = *error;
        kelpie__fail_prefix(&silent, "the guest runs, but its agent does not answer");
        pause_undo(pause, &silent);
        return;
    }
    if (kelpie__json_find_string(result, length, "nonce", nonce, sizeof(nonce)) < 0 ||
        strcmp(nonce, pause->nonce) != 0) {
        kelpie__guest_break(&pause->monitor->guest, "R22: ping was answered with another nonce");
        return; /* the VM's end refuses the request */
    }
    pause_enter(pause, KELPIE_PAUSE_SETTING);
    pause_ask(pause);
}

static void pause_greeted(void *context, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PROVING);
    if (error != NULL) {
        pause_undo(pause, error);
        return;
    }
    pause_enter(pause, KELPIE_PAUSE_SETTING); /* its clock was set with its identity */
    pause_resumed(pause);
}

static void pause_prove(struct kelpie_pause *pause) {
    struct kelpie_guest *guest = &pause->monitor->guest;
    struct kelpie_error error = {0};
    uint8_t nonce[KELPIE_PAUSE_NONCE_BYTES];
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RESUMING);
    KELPIE_ASSERT(pause->call == 0);
    if (guest->phase == KELPIE_GUEST_RESTORED) { /* its answer to hello proves more */
        pause_enter(pause, KELPIE_PAUSE_PROVING);
        kelpie__guest_greet(guest, pause_greeted, pause);
        return;
    }
    pause_wake(pause);
    int status = kelpie__os_random(pause->monitor->os, nonce, sizeof(nonce));
    if (status < 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_RESUME, -status, "draw a nonce"));
        pause_undo(pause, &error);
        return;
    }
    kelpie__text_hex(pause->nonce, sizeof(pause->nonce), nonce, sizeof(nonce));
    pause_enter(pause, KELPIE_PAUSE_PROVING);
    pause->deadline_ns = kelpie__loop_deadline(pause->monitor->loop, KELPIE_RESUME_TIMEOUT_MS);
    pause_ask(pause);
}

static void pause_runs(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RESUMING);
    KELPIE_ASSERT(status <= 0);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (pause_is_ending(lifecycle)) {
        pause_give_way(pause);
        return;
    }
    if (pause_is_left_to_end(status)) {
        return;
    }
    if (status < 0) {
        KELPIE_REACHED(pause->monitor->os, "a VMM did not resume");
        pause_idle(pause);
        pause_refuse(pause, KELPIE_E_RESUME, error);
        kelpie__pause_changed(pause); /* it should stand still; if it does not, that is shown */
        return;
    }
    pause_prove(pause);
}

void kelpie__pause_resume(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_pause *pause = &monitor->pause;
    struct kelpie_lifecycle *lifecycle = pause_lifecycle(pause);
    struct kelpie_error error = {0};
    if (pause_allow(pause, KELPIE_VERB_RESUME, &error) < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    KELPIE_ASSERT(reply.client != 0);
    KELPIE_ASSERT(pause->reply.client == 0);
    pause->reply = reply;
    pause_enter(pause, KELPIE_PAUSE_RESUMING);
    if (kelpie__vmm_resume(lifecycle->vmm, pause_runs, pause, &error) < 0) {
        pause_idle(pause);
        pause_refuse(pause, KELPIE_E_RESUME, &error);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

void kelpie__pause_end(struct kelpie_pause *pause, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    pause_idle(pause);
    KELPIE_SOMETIMES(pause->monitor->os, "a VM ended with a pause or resume under way",
                     pause->reply.client != 0);
    kelpie__reply_refuse(pause->monitor, &pause->reply, why);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_IDLE);
    KELPIE_ASSERT(pause->reply.client == 0);
}
