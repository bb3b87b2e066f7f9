/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pause and resume: one QMP command each, and the opposite one when it was not answered in time.
 *
 * | the command | the opposite one | the guest | done with |
 * | --- | --- | --- | --- |
 * | is carried out | | is as wanted | 0 |
 * | is refused | | is as before | QEMU's words |
 * | is late | is carried out | is as before | TIMEOUT |
 * | is late | is refused, late, or cannot be sent | is killed: nobody knows | CRASHED, at QEMU's
 * end | | QMP closes | | is going | CRASHED, at QEMU's end |
 */
#include "os/os_call.h"
#include "os/os_mark.h"
#include "vmm/qemu/instance.h"

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
    KELPIE_ASSERT(qemu->vmm.is_changing);
    KELPIE_REACHED(qemu->os, "QEMU answered neither a pause or resume nor its undoing");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, 0,
                                "QEMU answered neither \"%s\" nor \"%s\" within %u ms each",
                                qemu->is_pausing ? "stop" : "cont",
                                qemu->is_pausing ? "cont" : "stop", KELPIE_QEMU_TIMEOUT_MS));
    kelpie__qemu_give_up(qemu, &error, 0);
}

static void pause_undone(void *context, int status, const struct kelpie_json_value *result,
                         const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(qemu->change_error.code < 0);
    KELPIE_ASSERT(status == 0 ? result != NULL : error != NULL);
    if (status == 0) {
        KELPIE_REACHED(qemu->os, "a pause or resume without an answer was undone");
        pause_note(qemu, !qemu->is_pausing);
        kelpie__vmm_emit_done(&qemu->vmm, qemu->change_error.code, &qemu->change_error);
    } else if (!pause_is_left_to_end(status)) {
        pause_give_up(qemu);
    }
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
        if (kelpie__qemu_execute(qemu, qemu->is_pausing ? "cont" : "stop", NULL, pause_undone,
                                 NULL) < 0) {
            pause_give_up(qemu);
        }
        return;
    }
    if (status == 0) {
        pause_note(qemu, qemu->is_pausing);
    }
    kelpie__vmm_emit_done(&qemu->vmm, status, error);
}

int kelpie__qemu_pause(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    qemu->is_pausing = true;
    return kelpie__qemu_execute(qemu, "stop", NULL, pause_done, error);
}

int kelpie__qemu_resume(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    qemu->is_pausing = false;
    return kelpie__qemu_execute(qemu, "cont", NULL, pause_done, error);
}
