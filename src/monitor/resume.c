/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The resume of pause.h: the VMM lets the guest run, its agent proves that it lives, and is told
 * what time it is. One that gives no sign of life is stopped again.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "monitor/pause.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* what clients wrote to a guest that stood still may fill its connection for a moment */
#define PAUSE_RETRY_NS (10 * KELPIE_NS_PER_MS)

static void pause_undone(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_UNDOING);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (kelpie__pause_gave_way(pause, status)) {
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
    kelpie__pause_idle(pause);
    kelpie__pause_refuse(pause, KELPIE_E_RESUME, &pause->failure);
}

/* The guest runs and gives no sign of life: it is stopped again, so that a later resume finds what
 * this one found. */
static void pause_undo(struct kelpie_pause *pause, const struct kelpie_error *why) {
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(why->code < 0);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (kelpie__pause_gave_way(pause, 0)) {
        return;
    }
    KELPIE_REACHED(pause->monitor->os, "a resume was undone");
    pause->failure = *why;
    kelpie__pause_idle(pause);
    bool runs = lifecycle->vmm->state == KELPIE_VMM_RUNNING;
    kelpie__pause_enter(pause, KELPIE_PAUSE_UNDOING);
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
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_SETTING);
    KELPIE_ASSERT(pause->call == 0);
    kelpie__pause_idle(pause);
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
    kelpie__pause_enter(pause, KELPIE_PAUSE_SETTING);
    pause_ask(pause);
}

static void pause_greeted(void *context, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_PROVING);
    if (error != NULL) {
        pause_undo(pause, error);
        return;
    }
    kelpie__pause_enter(pause, KELPIE_PAUSE_SETTING); /* its clock was set with its identity */
    pause_resumed(pause);
}

static void pause_prove(struct kelpie_pause *pause) {
    struct kelpie_guest *guest = &pause->monitor->guest;
    struct kelpie_error error = {0};
    uint8_t nonce[KELPIE_PAUSE_NONCE_BYTES];
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RESUMING);
    KELPIE_ASSERT(pause->call == 0);
    if (guest->phase == KELPIE_GUEST_RESTORED) { /* its answer to hello proves more */
        kelpie__pause_enter(pause, KELPIE_PAUSE_PROVING);
        kelpie__guest_greet(guest, pause_greeted, pause);
        return;
    }
    kelpie__pause_wake(pause);
    int status = kelpie__os_random(pause->monitor->os, nonce, sizeof(nonce));
    if (status < 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_RESUME, -status, "draw a nonce"));
        pause_undo(pause, &error);
        return;
    }
    kelpie__text_hex(pause->nonce, sizeof(pause->nonce), nonce, sizeof(nonce));
    kelpie__pause_enter(pause, KELPIE_PAUSE_PROVING);
    pause->deadline_ns = kelpie__loop_deadline(pause->monitor->loop, KELPIE_RESUME_TIMEOUT_MS);
    pause_ask(pause);
}

static void pause_runs(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_pause *pause = context;
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    KELPIE_ASSERT(pause->phase == KELPIE_PAUSE_RESUMING);
    KELPIE_ASSERT(status <= 0);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_PAUSED);
    if (kelpie__pause_gave_way(pause, status)) {
        return;
    }
    if (status < 0) {
        KELPIE_REACHED(pause->monitor->os, "a VMM did not resume");
        kelpie__pause_idle(pause);
        kelpie__pause_refuse(pause, KELPIE_E_RESUME, error);
        kelpie__pause_changed(pause); /* it should stand still; if it does not, that is shown */
        return;
    }
    pause_prove(pause);
}

void kelpie__pause_resume(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_pause *pause = &monitor->pause;
    struct kelpie_lifecycle *lifecycle = kelpie__pause_lifecycle(pause);
    struct kelpie_error error = {0};
    if (kelpie__pause_allow(pause, KELPIE_VERB_RESUME, &error) < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    KELPIE_ASSERT(reply.client != 0);
    KELPIE_ASSERT(pause->reply.client == 0);
    pause->reply = reply;
    kelpie__pause_enter(pause, KELPIE_PAUSE_RESUMING);
    if (kelpie__vmm_resume(lifecycle->vmm, pause_runs, pause, &error) < 0) {
        kelpie__pause_idle(pause);
        kelpie__pause_refuse(pause, KELPIE_E_RESUME, &error);
    }
}
