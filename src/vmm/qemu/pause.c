/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pause and resume: one QMP command each, and the opposite one when it was not answered in time.
 *
 * | the command | the opposite one | done with | the guest |
 * | --- | --- | --- | --- |
 * | is carried out | | 0 | is as wanted |
 * | is refused | | QEMU's words | is as before |
 * | is late | is carried out | TIMEOUT | is as before |
 * | is late | is late, too | TIMEOUT | stands still with QEMU, and is as before once QEMU goes on |
 * | is late | is refused, or cannot be sent | CRASHED, at QEMU's end | nobody knows: QEMU is killed
 * | | QMP closes | | CRASHED, at QEMU's end | is going |
 */
#include "core/limits.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "vmm/qemu/instance.h"

/* QMP has room for few commands at a time: one that was lost may not keep its place for ever. */
#define PAUSE_UNDO_MS (2 * KELPIE_QEMU_TIMEOUT_MS)
#define PAUSE_UNDO_AGAIN_MS 250u
/* Who asked has waited for the command already: one that QEMU did not answer it will most often not
 * undo either, and what comes of it later is heard all the same. */
#define PAUSE_UNDO_PATIENCE_MS 1000u

static_assert(PAUSE_UNDO_PATIENCE_MS < PAUSE_UNDO_MS, "a late answer is still heard");

/* QEMU's own event comes before its answer; it is missing when QEMU was there already. */
static void pause_note(struct kelpie_qemu *qemu, bool is_paused) {
    enum kelpie_vmm_state wanted = is_paused ? KELPIE_VMM_PAUSED : KELPIE_VMM_RUNNING;
    KELPIE_ASSERT(qemu->vmm.is_changing);
    if (qemu->vmm.state != wanted) {
        kelpie__vmm_emit(&qemu->vmm,
                         &(struct kelpie_vmm_event){.type = is_paused ? KELPIE_VMM_EVENT_PAUSED
                                                                      : KELPIE_VMM_EVENT_RESUMED});
    }
}

/* QMP has closed, and QEMU's end is on the way: it says why, and is not to be seen later than the
 * answer to who asked for this. */
static bool pause_is_left_to_end(int status) {
    return status == KELPIE_E_CRASHED || status == KELPIE_E_PROTOCOL;
}

/* Whether the guest runs cannot be found out: what is published would be a guess. */
static void pause_give_up(struct kelpie_qemu *qemu) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(!qemu->is_unsettled);
    KELPIE_REACHED(qemu->os, "a pause or resume could not be undone");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, 0,
                                "QEMU did not answer \"%s\" within %u ms, and did not undo it",
                                qemu->is_pausing ? "stop" : "cont", KELPIE_QEMU_TIMEOUT_MS));
    kelpie__qemu_give_up(qemu, &error, 0);
}

/* It is as it was before, for all that can be seen from here. */
static void pause_finish_undone(struct kelpie_qemu *qemu) {
    KELPIE_ASSERT(qemu->change_error.code < 0);
    pause_note(qemu, !qemu->is_pausing);
    kelpie__vmm_emit_done(&qemu->vmm, qemu->change_error.code, &qemu->change_error);
}

static void pause_undone(void *context, int status, const struct kelpie_json_value *result,
                         const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    bool is_told = qemu->is_unsettled;
    KELPIE_ASSERT(status == 0 ? result != NULL : error != NULL);
    if (!is_told && !qemu->vmm.is_changing) {
        return; /* it was settled by one that was sent later */
    }
    if (status == KELPIE_E_TIMEOUT) { /* after pause_undo_is_late: settled since, or still to be */
        return;
    }
    kelpie__timer_disarm(qemu->loop, &qemu->change_timer);
    qemu->is_unsettled = false;
    if (pause_is_left_to_end(status)) {
        return;
    }
    if (status < 0) {
        pause_give_up(qemu);
    } else if (!is_told) {
        KELPIE_REACHED(qemu->os, "a pause or resume without an answer was undone");
        pause_finish_undone(qemu);
    }
}

/* Who asked is told; both commands are before QEMU, which takes them in order when it goes on. What
 * it says of them then changes nothing, and until then nothing else is asked of it. */
static void pause_undo_is_late(void *context) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(qemu->vmm.is_changing && !qemu->is_unsettled);
    KELPIE_REACHED(qemu->os, "QEMU answered neither a pause or resume nor its undoing");
    qemu->is_unsettled = true;
    pause_finish_undone(qemu);
}

static bool pause_send_undo(struct kelpie_qemu *qemu) {
    const struct kelpie_qmp_command command = {.name = qemu->is_pausing ? "cont" : "stop",
                                               .handle = KELPIE_OS_NO_HANDLE,
                                               .timeout_ms = PAUSE_UNDO_MS};
    if (kelpie__qmp_execute(qemu->qmp, &command, pause_undone, qemu, NULL) < 0) {
        return false;
    }
    kelpie__timer_arm(qemu->loop, &qemu->change_timer,
                      qemu->loop->now_ns + (int64_t)PAUSE_UNDO_PATIENCE_MS * KELPIE_NS_PER_MS,
                      pause_undo_is_late, qemu);
    return true;
}

/* A command that was not answered in time may still be carried out, or have been: the opposite one
 * behind it puts things right, as QEMU takes commands in order. */
static void pause_done(void *context, int status, const struct kelpie_json_value *result,
                       const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(qemu->vmm.is_changing);
    KELPIE_ASSERT(status < 0 || result != NULL);
    if (pause_is_left_to_end(status)) {
        return;
    }
    if (status == KELPIE_E_TIMEOUT) {
        KELPIE_REACHED(qemu->os, "a pause or resume was not answered in time");
        qemu->change_error = *error;
        kelpie__fail_append(&qemu->change_error, "; it may hang, or its machine be overloaded: try "
                                                 "again, or kill the VM");
        if (!pause_send_undo(qemu)) {
            pause_give_up(qemu);
        }
        return;
    }
    if (status == 0) {
        pause_note(qemu, qemu->is_pausing);
    }
    kelpie__vmm_emit_done(&qemu->vmm, status, error);
}

static void pause_undone_again(void *context, int status, const struct kelpie_json_value *result,
                               const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(status == 0 ? result != NULL : error != NULL);
    if (status == 0) {
        qemu->is_unsettled = false;
    }
}

/* The undoing may have been lost on its way, not only be late: it does no harm twice. Who asks is
 * told BUSY all the same, and may find it settled next time. */
static int pause_check_settled(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    int status = kelpie__qemu_check_settled(qemu, error);
    KELPIE_ASSERT(status <= 0);
    if (status < 0) {
        const struct kelpie_qmp_command command = {.name = qemu->is_pausing ? "cont" : "stop",
                                                   .handle = KELPIE_OS_NO_HANDLE,
                                                   .timeout_ms = PAUSE_UNDO_AGAIN_MS};
        kelpie__ignore(kelpie__qmp_execute(qemu->qmp, &command, pause_undone_again, qemu, NULL));
    }
    return status;
}

int kelpie__qemu_check_settled(const struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(!qemu->is_unsettled || qemu->qmp != NULL);
    if (!qemu->is_unsettled) {
        return 0;
    }
    KELPIE_REACHED(qemu->os, "something was asked of a QEMU that had not answered");
    return kelpie__fail(
        error, KELPIE_E_BUSY, 0,
        "QEMU (process %d) has not answered yet what was asked before: it hangs, is "
        "stopped, or its machine overloaded; try again, or kill the VM",
        qemu->vmm.pid);
}

int kelpie__qemu_pause(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    int status = pause_check_settled(qemu, error);
    if (status < 0) {
        return status;
    }
    qemu->is_pausing = true;
    return kelpie__qemu_execute(qemu, "stop", NULL, pause_done, error);
}

int kelpie__qemu_resume(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    int status = pause_check_settled(qemu, error);
    if (status < 0) {
        return status;
    }
    kelpie__qemu_save_forget(qemu); /* of a save that did not come to be */
    qemu->is_pausing = false;
    return kelpie__qemu_execute(qemu, "cont", NULL, pause_done, error);
}
