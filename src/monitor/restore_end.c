/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See restore.h: every way in which a restore ends but one, that it arrives. What may not be
 * destroyed inside a callback of its own is killed, and goes when its VMM has ended; then the old
 * machine is let go on, and whoever asked is told.
 */
#include "monitor/restore.h"

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* From a row's phase to those after it. A start that ends leaves from anywhere, and so does a VM
 * whose VMM has ended. */
#define BIT(phase) (1u << (KELPIE_RESTORE_##phase))
#define GIVEN_UP (BIT(ENDING) | BIT(IDLE))
static const uint32_t restore_next[] = {
    [KELPIE_RESTORE_IDLE] = BIT(CHECKING),
    [KELPIE_RESTORE_CHECKING] = BIT(LOADING) | GIVEN_UP,
    [KELPIE_RESTORE_LOADING] = BIT(STILLING) | BIT(WAKING) | GIVEN_UP,
    [KELPIE_RESTORE_STILLING] = BIT(WAKING) | GIVEN_UP,
    [KELPIE_RESTORE_WAKING] = BIT(GREETING) | GIVEN_UP,
    [KELPIE_RESTORE_GREETING] = BIT(QUIETING) | BIT(ARRIVING) | GIVEN_UP,
    [KELPIE_RESTORE_QUIETING] = BIT(PAUSING) | GIVEN_UP,
    [KELPIE_RESTORE_PAUSING] = BIT(ARRIVING) | GIVEN_UP,
    [KELPIE_RESTORE_ARRIVING] = GIVEN_UP,
    [KELPIE_RESTORE_ENDING] = BIT(RETURNING) | BIT(IDLE),
    /* the old VMM, which was told to stand still, has to answer that first */
    [KELPIE_RESTORE_RETURNING] = BIT(RETURNING) | BIT(IDLE),
};
static_assert(KELPIE_ARRAY_COUNT(restore_next) == KELPIE_RESTORE_RETURNING + 1,
              "the table has a row for every phase");
#undef BIT
#undef GIVEN_UP

void kelpie__restore_check(const struct kelpie_restore *restore) {
    bool needs_candidate =
        restore->phase >= KELPIE_RESTORE_LOADING && restore->phase <= KELPIE_RESTORE_ENDING;
    KELPIE_ASSERT(restore->monitor != NULL);
    KELPIE_ASSERT(restore->phase <= KELPIE_RESTORE_RETURNING);
    KELPIE_ASSERT(restore->failure.code <= 0);
    if (restore->phase == KELPIE_RESTORE_IDLE) {
        KELPIE_ASSERT(restore->candidate == NULL);
        KELPIE_ASSERT(restore->reply.client == 0);
        KELPIE_ASSERT(restore->failure.code == 0);
        KELPIE_ASSERT(!restore->is_in_place);
    }
    if (needs_candidate) {
        KELPIE_ASSERT(restore->candidate != NULL);
    }
    if (restore->is_in_place) { /* what takes the place of a machine is no first start */
        KELPIE_ASSERT(!restore->is_template);
    } else {
        KELPIE_ASSERT(!restore->is_old_stilled);
        KELPIE_ASSERT(!restore->is_stilling);
    }
    if (kelpie__child_is_running(&restore->child)) {
        KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_CHECKING);
    }
}

void kelpie__restore_enter(struct kelpie_restore *restore, enum kelpie_restore_phase next) {
    KELPIE_ASSERT(next <= KELPIE_RESTORE_RETURNING);
    KELPIE_ASSERT((restore_next[restore->phase] & (1u << next)) != 0);
    if (next >= KELPIE_RESTORE_LOADING && next <= KELPIE_RESTORE_ARRIVING) {
        KELPIE_ASSERT(restore->failure.code == 0);
        KELPIE_ASSERT(restore->candidate->source != NULL);
    } else if (next != KELPIE_RESTORE_CHECKING && next != KELPIE_RESTORE_IDLE) {
        KELPIE_ASSERT(restore->failure.code < 0);
    }
    restore->phase = next;
}

void kelpie__restore_disarm(struct kelpie_restore *restore) {
    kelpie__timer_disarm(restore->monitor->loop, &restore->timer);
    kelpie__timer_disarm(restore->monitor->loop, &restore->step_timer);
    kelpie__child_cancel(&restore->child);
}

void kelpie__restore_idle(struct kelpie_restore *restore) {
    kelpie__restore_enter(restore, KELPIE_RESTORE_IDLE);
    restore->is_in_place = false;
    restore->is_template = false;
    restore->is_old_stilled = false;
    restore->is_stilling = false;
    restore->failure = (struct kelpie_error){0};
}

/* ---- the old machine goes on ----------------------------------------------------------------- */

void kelpie__restore_refuse(struct kelpie_restore *restore) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_error why = restore->failure;
    bool is_in_place = restore->is_in_place;
    bool is_template = restore->is_template;
    KELPIE_ASSERT(why.code < 0 && restore->candidate == NULL);
    kelpie__restore_idle(restore);
    if (is_template) {
        kelpie__template_failed(&monitor->template, &why);
        return;
    }
    kelpie__event_log_write(monitor, "notice", "restore: %s", why.message);
    if (is_in_place) {
        kelpie__ignore(kelpie__fail_prefix(&why, "restore"));
        kelpie__reply_refuse(monitor, &restore->reply, &why);
        kelpie__pause_give_back(&monitor->pause);
    } else {
        restore->reply = (struct kelpie_reply){0};
        kelpie__lifecycle_start_failed(&monitor->lifecycle, &why);
    }
    kelpie__restore_check(restore);
}

static void restore_clock_answered(void *context, const struct kelpie_error *error,
                                   const char *result, size_t length) {
    (void)context;
    (void)error; /* it lives with a clock that is behind */
    (void)result;
    (void)length;
}

static void restore_returned(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_restore *restore = context;
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    char params[64];
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_RETURNING);
    if (status < 0) { /* giving it back shows that it is paused */
        kelpie__event_log_write(monitor, "notice", "let the VM go on after a failed restore: %s",
                                error->message);
    }
    bool runs =
        monitor->lifecycle.vmm != NULL && monitor->lifecycle.vmm->state == KELPIE_VMM_RUNNING;
    if (status < 0 && status != KELPIE_E_CRASHED && !runs) { /* what has to be known first */
        restore->failure.code = KELPIE_E_RESUME;
    }
    bool is_whole =
        kelpie__text_format(params, sizeof(params), "{\"wall_ns\":%lld}",
                            (long long)kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL));
    KELPIE_ASSERT(is_whole);
    if (wire != NULL && status == 0) {
        kelpie__ignore(kelpie__wire_call(wire, "guest.clock", params, KELPIE_TIMEOUT_NONE,
                                         restore_clock_answered, NULL, NULL, NULL));
    }
    kelpie__restore_refuse(restore);
}

void kelpie__restore_return(struct kelpie_restore *restore) {
    struct kelpie_lifecycle *lifecycle = &restore->monitor->lifecycle;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(restore->candidate == NULL);
    if (restore->is_stilling && lifecycle->vmm != NULL) { /* it will be told to go on */
        kelpie__restore_enter(restore, KELPIE_RESTORE_RETURNING);
        return;
    }
    bool is_alive = restore->is_old_stilled && lifecycle->vmm != NULL &&
                    lifecycle->vmm->state == KELPIE_VMM_PAUSED && !lifecycle->vmm->is_changing &&
                    !lifecycle->is_kill_wanted && !lifecycle->has_failure;
    if (!is_alive) {
        kelpie__restore_refuse(restore);
        return;
    }
    kelpie__restore_enter(restore, KELPIE_RESTORE_RETURNING);
    KELPIE_ASSERT(restore->is_in_place);
    int status = kelpie__vmm_resume(lifecycle->vmm, restore_returned, restore, &error);
    if (status < 0) {
        restore_returned(restore, status, &error);
    }
}

static void restore_undo(void *context) {
    struct kelpie_restore *restore = context;
    struct kelpie_candidate *candidate = restore->candidate;
    KELPIE_ASSERT(restore->failure.code < 0);
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_ENDING);
    restore->candidate = NULL;
    kelpie__candidate_destroy(restore->monitor, candidate, &restore->failure);
    kelpie__restore_return(restore);
}

/* ---- a step fails ---------------------------------------------------------------------------- */

void kelpie__restore_fail(struct kelpie_restore *restore, const struct kelpie_error *why) {
    struct kelpie_loop *loop = restore->monitor->loop;
    KELPIE_ASSERT(why->code < 0);
    if (restore->phase == KELPIE_RESTORE_ENDING || restore->phase == KELPIE_RESTORE_IDLE) {
        return; /* the first cause counts */
    }
    KELPIE_ASSERT(restore->phase < KELPIE_RESTORE_ENDING);
    KELPIE_ASSERT(restore->candidate != NULL);
    restore->failure = *why;
    kelpie__restore_enter(restore, KELPIE_RESTORE_ENDING);
    kelpie__restore_disarm(restore);
    struct kelpie_vmm *vmm = restore->candidate->vmm;
    if (vmm != NULL && vmm->state != KELPIE_VMM_NEW && vmm->state != KELPIE_VMM_ENDED) {
        kelpie__vmm_kill(vmm); /* its end comes, and restore_undo with it */
    } else {
        kelpie__timer_arm(loop, &restore->step_timer, loop->now_ns, restore_undo, restore);
    }
}

/* The code of a restore, unless what happened has one that says more. */
static int restore_code(int code) {
    bool is_known = code == KELPIE_E_SNAPSHOT_CORRUPTED || code == KELPIE_E_SNAPSHOT_INCOMPATIBLE ||
                    code == KELPIE_E_NOT_FOUND || code == KELPIE_E_BUSY ||
                    code == KELPIE_E_CANCELLED || code == KELPIE_E_STATE ||
                    code == KELPIE_E_LIMIT || code == KELPIE_E_MEMORY ||
                    code == KELPIE_E_UNAVAILABLE;
    return is_known ? code : KELPIE_E_RESTORE;
}

void kelpie__restore_fail_as(struct kelpie_restore *restore, const struct kelpie_error *why,
                             const char *doing) {
    struct kelpie_error error = *why;
    error.code = restore_code(why->code);
    if (doing != NULL) {
        kelpie__ignore(kelpie__fail_prefix(&error, "%s", doing));
    }
    kelpie__restore_fail(restore, &error);
}

bool kelpie__restore_gives_way(struct kelpie_restore *restore) {
    const struct kelpie_lifecycle *lifecycle = &restore->monitor->lifecycle;
    struct kelpie_error error = {0};
    if (!lifecycle->is_stopping && !lifecycle->is_kill_wanted && !lifecycle->has_failure) {
        return false;
    }
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_STATE, 0, "VM \"%s\" is being stopped",
                                restore->monitor->config.name));
    kelpie__restore_fail(restore, &error);
    return true;
}

void kelpie__restore_vmm_ended(struct kelpie_restore *restore, const struct kelpie_vmm_end *end) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(restore->candidate->vmm->state == KELPIE_VMM_ENDED);
    kelpie__ignore(kelpie__fail(&error, restore_code(end->code), 0,
                                "the VMM ended before the saved VM was back: %s", end->text));
    if (restore->phase == KELPIE_RESTORE_ENDING) {
        restore_undo(restore);
        return;
    }
    kelpie__restore_disarm(restore);
    restore->failure = error;
    kelpie__restore_enter(restore, KELPIE_RESTORE_ENDING);
    restore_undo(restore);
}

/* ---- what ends around it --------------------------------------------------------------------- */

void kelpie__restore_guest_closed(struct kelpie_monitor *monitor,
                                  const struct kelpie_error *error) {
    struct kelpie_restore *restore = &monitor->restore;
    /* Nothing was said yet: the VMM is going, and its own end tells why. */
    bool is_told = restore->phase == KELPIE_RESTORE_LOADING && error->code != KELPIE_E_PROTOCOL;
    if (restore->candidate != NULL && !is_told) {
        kelpie__restore_fail_as(restore, error, "the restored guest's agent");
    }
}

void kelpie__restore_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request) {
    struct kelpie_restore *restore = &monitor->restore;
    struct kelpie_error error = {0};
    bool is_mine = restore->is_in_place && client != 0 && restore->reply.client == client &&
                   restore->reply.request == request;
    if (is_mine && restore->phase < KELPIE_RESTORE_ENDING) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "it was cancelled"));
        kelpie__restore_fail(restore, &error);
    }
}

void kelpie__restore_drop(struct kelpie_restore *restore) {
    struct kelpie_candidate *candidate = restore->candidate;
    struct kelpie_error error = {0};
    if (restore->phase == KELPIE_RESTORE_IDLE) {
        return;
    }
    KELPIE_ASSERT(!restore->is_in_place);
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "its start has ended"));
    kelpie__restore_disarm(restore);
    restore->candidate = NULL;
    kelpie__restore_idle(restore);
    if (candidate != NULL) {
        kelpie__candidate_destroy(restore->monitor, candidate, &error);
    }
    kelpie__restore_check(restore);
}

void kelpie__restore_vmm_gone(struct kelpie_restore *restore, const struct kelpie_error *why) {
    struct kelpie_candidate *candidate = restore->candidate;
    KELPIE_ASSERT(why->code < 0);
    kelpie__restore_set_source(restore, NULL);
    if (!restore->is_in_place) {
        return;
    }
    kelpie__restore_disarm(restore);
    restore->candidate = NULL;
    if (candidate != NULL) {
        kelpie__candidate_destroy(restore->monitor, candidate, why);
    }
    struct kelpie_error error = restore->failure.code < 0 ? restore->failure : *why;
    kelpie__ignore(kelpie__fail_prefix(&error, "restore"));
    kelpie__reply_refuse(restore->monitor, &restore->reply, &error);
    kelpie__restore_idle(restore);
}

void kelpie__restore_deinit(struct kelpie_restore *restore) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the VM's monitor ends"));
    kelpie__restore_disarm(restore);
    kelpie__timer_disarm(restore->monitor->loop, &restore->keep_timer);
    if (restore->candidate != NULL) {
        kelpie__candidate_destroy(restore->monitor, restore->candidate, &error);
        restore->candidate = NULL;
    }
    kelpie__restore_set_source(restore, NULL);
}
