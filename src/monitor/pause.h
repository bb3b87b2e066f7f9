/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pause and resume of the whole VM by its VMM. A resume has succeeded only when the guest's agent
 * answered a fresh nonce; one that did not is undone. What the VMM does by itself is shown too.
 */
#ifndef KELPIE_MONITOR_PAUSE_H
#define KELPIE_MONITOR_PAUSE_H

#include "core/error.h"
#include "core/loop.h"
#include "core/state.h"
#include "monitor/reply.h"

struct kelpie_lifecycle;

#define KELPIE_PAUSE_NONCE_BYTES 16u

enum kelpie_pause_phase {
    KELPIE_PAUSE_IDLE,
    KELPIE_PAUSE_QUIETING,  /* the guest was asked to be quiet */
    KELPIE_PAUSE_PAUSING,   /* the VMM was asked to stop the guest */
    KELPIE_PAUSE_RESUMING,  /* it was asked to let it run */
    KELPIE_PAUSE_PROVING,   /* the guest runs, and was asked for a sign of life */
    KELPIE_PAUSE_SETTING,   /* it gave one, and is told what time it is */
    KELPIE_PAUSE_UNDOING,   /* it gave none, and is stopped again */
    KELPIE_PAUSE_RELEASING, /* it has to run to shut down */
    KELPIE_PAUSE_TAKEN,     /* another operation pauses and resumes the VMM as it needs */
};

struct kelpie_pause {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_pause_phase phase;
    struct kelpie_reply reply;
    int64_t deadline_ns; /* of the proof */
    uint64_t call;       /* the guest's answer that is awaited; 0: none */
    struct kelpie_timer retry_timer;
    struct kelpie_error failure; /* of the resume that is being undone */
    char nonce[2 * KELPIE_PAUSE_NONCE_BYTES + 1];
};

void kelpie__pause_init(struct kelpie_pause *pause, struct kelpie_monitor *monitor);

/* Requests of clients. */
void kelpie__pause_pause(struct kelpie_monitor *monitor, struct kelpie_reply reply);
void kelpie__pause_resume(struct kelpie_monitor *monitor, struct kelpie_reply reply);

/* For an operation that pauses and resumes the VMM by itself, such as a snapshot: until it gives
 * this back, requests to pause and resume are refused with BUSY, a stop waits, and the VM's state
 * stays what it is. Errors: STATE (it neither runs nor is paused, or is ending), BUSY, UNSUPPORTED.
 */
KELPIE_MUST_CHECK int kelpie__pause_take(struct kelpie_monitor *monitor, const char *operation,
                                         struct kelpie_error *error);
/* The VMM should be as it was found, and the guest heard or as quiet as it was; what is not is
 * shown. After the VM's end: without effect. */
void kelpie__pause_give_back(struct kelpie_pause *pause);

/* The VMM's state has changed, or the VM's: commands' deadlines stand still with the guest, and a
 * change that nobody asked for is shown. */
void kelpie__pause_changed(struct kelpie_pause *pause);

/* The VM is being stopped: what is under way is refused; when the guest runs,
 * kelpie__lifecycle_ask_to_go is called, and when it cannot be made to, the VMM is killed. */
void kelpie__pause_release(struct kelpie_pause *pause);

/* The VMM is going to be destroyed: whoever waits is refused with this. */
void kelpie__pause_end(struct kelpie_pause *pause, const struct kelpie_error *why);

/* ---- for pause.c and resume.c only ----------------------------------------------------------- */

/* The VM's life; the invariants hold. */
struct kelpie_lifecycle *kelpie__pause_lifecycle(const struct kelpie_pause *pause);
/* Changes the phase by its table. */
void kelpie__pause_enter(struct kelpie_pause *pause, enum kelpie_pause_phase next);
/* Nothing is awaited any more. */
void kelpie__pause_idle(struct kelpie_pause *pause);
/* The guest runs: what waited for it goes. A restored one is greeted instead. */
void kelpie__pause_wake(struct kelpie_pause *pause);
/* An operation that failed, with its own code unless the VM has died of it. */
void kelpie__pause_refuse(struct kelpie_pause *pause, int code, const struct kelpie_error *why);
/* A step has ended with `status`. True: the VM does, too, and nothing more is to be done for the
 * step: it has given way, or the VMM has answered with its own end, which follows at once and
 * refuses the request. */
bool kelpie__pause_gave_way(struct kelpie_pause *pause, int status);
/* 0 when this may begin now. Errors: STATE, BUSY, UNSUPPORTED. */
KELPIE_MUST_CHECK int kelpie__pause_allow(struct kelpie_pause *pause, enum kelpie_vm_verb verb,
                                          struct kelpie_error *error);

#endif
