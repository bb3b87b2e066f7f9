/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A VM made from a snapshot: the first start of one that was created from it, and vm.restore in
 * place. The new machine, a VMM with its guest and their commands, is made beside the one that the
 * VM has, if it has one; that stands still meanwhile. When the new guest has proved that it is the
 * one that was saved, and only then, it takes the place: one rename of state.json decides. Whatever
 * fails before leaves the VM as it was, and nothing behind.
 */
#ifndef KELPIE_MONITOR_RESTORE_H
#define KELPIE_MONITOR_RESTORE_H

#include "core/error.h"
#include "core/loop.h"
#include "monitor/child.h"
#include "monitor/exec_relay.h"
#include "monitor/guest.h"
#include "monitor/reply.h"
#include "monitor/source.h"

enum kelpie_restore_phase {
    KELPIE_RESTORE_IDLE,
    KELPIE_RESTORE_CHECKING,  /* a child compares the snapshot's files */
    KELPIE_RESTORE_LOADING,   /* the new VMM was started */
    KELPIE_RESTORE_STILLING,  /* the old one was asked to stand still */
    KELPIE_RESTORE_WAKING,    /* the new one was asked to run */
    KELPIE_RESTORE_GREETING,  /* its guest is asked who it is */
    KELPIE_RESTORE_QUIETING,  /* it was saved paused: it is asked to be quiet */
    KELPIE_RESTORE_PAUSING,   /* the new VMM was asked to stand still */
    KELPIE_RESTORE_ARRIVING,  /* the next step puts it into its place */
    KELPIE_RESTORE_ENDING,    /* it failed, and the new VMM is about to end */
    KELPIE_RESTORE_RETURNING, /* the old VMM was asked to run again */
};

/* A machine on its way. */
struct kelpie_candidate {
    struct kelpie_vmm *vmm; /* owned; NULL: none */
    struct kelpie_vmm_spec spec;
    struct kelpie_guest guest;
    struct kelpie_relay relay;
    int console;                  /* owned: what it says is read when it has arrived */
    struct kelpie_source *source; /* owned */
    char accelerator_reason[256];
};

struct kelpie_restore {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_restore_phase phase;
    struct kelpie_reply reply;          /* of vm.restore; a start's is the lifecycle's */
    struct kelpie_candidate *candidate; /* owned; NULL: none */
    struct kelpie_child child;
    struct kelpie_timer timer; /* the whole of it, from the new VMM's start */
    struct kelpie_timer step_timer;
    struct kelpie_timer keep_timer; /* what can be done once its arrival is told */
    int64_t begun_ns;
    uint64_t timeout_ms;
    bool is_in_place;            /* the VM has a machine */
    bool is_template;            /* the snapshot is one */
    bool is_old_stilled;         /* and it was made to stand still */
    bool is_stilling;            /* it was asked to, and has not answered */
    struct kelpie_error failure; /* code 0: none */
    /* What the VM lives on, owned; NULL: it was booted, or does not live. */
    struct kelpie_source *source;
};

void kelpie__restore_init(struct kelpie_restore *restore, struct kelpie_monitor *monitor);
void kelpie__restore_deinit(struct kelpie_restore *restore);

/* A start of the VM, which is Starting: from this snapshot. It ends in the lifecycle's hands. */
void kelpie__restore_start(struct kelpie_monitor *monitor, const char *snapshot,
                           uint64_t timeout_ms);
/* The same, from a template, which has less time; when it fails, kelpie__template_failed goes on.
 */
void kelpie__restore_start_template(struct kelpie_monitor *monitor, const char *key);
/* vm.restore. */
void kelpie__restore_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length);
void kelpie__restore_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request);

bool kelpie__restore_is_idle(const struct kelpie_restore *restore);
/* The start that it is part of ends: nothing is left of it. */
void kelpie__restore_drop(struct kelpie_restore *restore);
/* The VM's VMM has ended: what it lived on is let go, and a restore in place fails with it. */
void kelpie__restore_vmm_gone(struct kelpie_restore *restore, const struct kelpie_error *why);
/* The new guest's connection has ended. */
void kelpie__restore_guest_closed(struct kelpie_monitor *monitor, const struct kelpie_error *error);

/* ---- restore_end.c: for restore.c ------------------------------------------------------------ */

void kelpie__restore_check(const struct kelpie_restore *restore);
/* Changes the phase by its table. */
void kelpie__restore_enter(struct kelpie_restore *restore, enum kelpie_restore_phase next);
/* Nothing of it fires any more. */
void kelpie__restore_disarm(struct kelpie_restore *restore);
/* It is over, however it ended. */
void kelpie__restore_idle(struct kelpie_restore *restore);
/* Whoever asked is told of the failure; the VM is what it was. There is no candidate. */
void kelpie__restore_refuse(struct kelpie_restore *restore);
/* Nothing is left of the new machine: the old one goes on. */
void kelpie__restore_return(struct kelpie_restore *restore);
/* Gives the new machine up; the first cause counts. */
void kelpie__restore_fail(struct kelpie_restore *restore, const struct kelpie_error *why);
/* The same, with a code of a restore and with what was being done; NULL: that is said already. */
void kelpie__restore_fail_as(struct kelpie_restore *restore, const struct kelpie_error *why,
                             const char *doing);
/* Whether the VM is being ended meanwhile; the restore has then failed. */
KELPIE_MUST_CHECK bool kelpie__restore_gives_way(struct kelpie_restore *restore);
/* The new VMM has ended. */
void kelpie__restore_vmm_ended(struct kelpie_restore *restore, const struct kelpie_vmm_end *end);

/* ---- restore_place.c ------------------------------------------------------------------------- */

/* NULL: no memory. */
struct kelpie_candidate *kelpie__candidate_create(struct kelpie_monitor *monitor);
/* From the loop, or at the end of its VMM; never inside another callback of its parts. */
void kelpie__candidate_destroy(struct kelpie_monitor *monitor, struct kelpie_candidate *candidate,
                               const struct kelpie_error *why);
/* What the VM lives on from here, taken: its memory lies over a file that a snapshot of it needs,
 * too. NULL: nothing. */
void kelpie__restore_set_source(struct kelpie_restore *restore, struct kelpie_source *source);
/* Writes the record, which decides; then the old machine ends, and the new one is the VM's. On
 * failure nothing has changed. */
KELPIE_MUST_CHECK int kelpie__restore_take_place(struct kelpie_restore *restore,
                                                 struct kelpie_error *error);

#endif
