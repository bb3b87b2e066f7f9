/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The VM's life: start, stop, kill, delete, and every way in which it can end. The state changes
 * here only, by the table of core/state.h; state.json is written before anybody is told.
 */
#ifndef KELPIE_MONITOR_LIFECYCLE_H
#define KELPIE_MONITOR_LIFECYCLE_H

#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "core/state.h"
#include "monitor/reply.h"
#include "store/record.h"
#include "vmm/vmm.h"

#define KELPIE_LIFECYCLE_WAITER_COUNT 16u /* clients that wait for the same end */

struct kelpie_lifecycle {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_vm_state state;
    struct kelpie_vm_record record; /* what state.json says */
    struct kelpie_vmm *vmm;         /* owned; NULL: none */
    struct kelpie_vmm_spec spec;
    struct kelpie_vmm_disk disks[KELPIE_VMM_DISK_COUNT_MAX];
    struct kelpie_vmm_share shares[KELPIE_VMM_SHARE_COUNT_MAX];
    int64_t start_ns;
    int64_t boot_deadline_ns;
    int64_t stop_deadline_ns; /* while is_stopping */
    struct kelpie_timer boot_timer;
    struct kelpie_timer trial_timer; /* of an accelerator that was never seen to work */
    struct kelpie_timer stop_timer;
    struct kelpie_timer closed_timer; /* the agent's connection ended; the VMM should follow */
    struct kelpie_timer save_timer;   /* while is_unsaved */
    int64_t silence_end_ns;           /* while is_unsaved: until then nobody is told */
    int doubt; /* owned; see kelpie__vm_directory_doubt; KELPIE_OS_NO_HANDLE: could not be had */
    struct kelpie_reply start_reply;
    struct kelpie_reply stop_replies[KELPIE_LIFECYCLE_WAITER_COUNT];
    struct kelpie_reply kill_replies[KELPIE_LIFECYCLE_WAITER_COUNT];
    struct kelpie_reply delete_reply;
    bool is_stopping;    /* the guest was asked to go */
    bool is_kill_wanted; /* somebody wants it dead: the end is Stopped */
    bool is_trial;
    uint64_t trial_said_bytes; /* of the console, when the trial was looked at last */
    bool is_vmm_up;            /* the VMM said that its guest runs */
    bool is_trial_lost;        /* start again, with the other accelerator */
    bool is_deleting;
    bool is_ending;   /* the monitor goes as soon as nothing lives */
    bool is_unsaved;  /* state.json still says what was before */
    bool is_doubted;  /* and whoever reads it is told so */
    bool has_failure; /* we ended the VMM for this: */
    struct kelpie_error failure;
};

KELPIE_MUST_CHECK int kelpie__lifecycle_init(struct kelpie_lifecycle *lifecycle,
                                             struct kelpie_monitor *monitor,
                                             struct kelpie_error *error);
void kelpie__lifecycle_deinit(struct kelpie_lifecycle *lifecycle);

/* Requests of clients. */
void kelpie__lifecycle_start(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             uint64_t timeout_ms);
/* The same, made from a snapshot. */
void kelpie__lifecycle_start_from(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                                  const char *snapshot, uint64_t timeout_ms);
void kelpie__lifecycle_stop(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            uint64_t timeout_ms);
void kelpie__lifecycle_kill(struct kelpie_monitor *monitor, struct kelpie_reply reply);
void kelpie__lifecycle_delete(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                              bool is_forced);
/* The client no longer wants its start. */
void kelpie__lifecycle_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request);
/* An owned VM's owner is gone: so is the VM. */
void kelpie__lifecycle_owner_gone(struct kelpie_monitor *monitor, const char *why);

/* STATE unless the VM runs and is not being stopped. */
KELPIE_MUST_CHECK int kelpie__lifecycle_check_exec(const struct kelpie_monitor *monitor,
                                                   const char *operation,
                                                   struct kelpie_error *error);

/* What the parts of the monitor report. */
void kelpie__lifecycle_prepared(struct kelpie_monitor *monitor, const struct kelpie_error *error);
void kelpie__lifecycle_guest_greeted(struct kelpie_monitor *monitor);
void kelpie__lifecycle_guest_live(struct kelpie_monitor *monitor);
void kelpie__lifecycle_guest_closed(struct kelpie_monitor *monitor,
                                    const struct kelpie_error *error);
/* Ends the VMM for this reason: a failed start, or a crash. */
void kelpie__lifecycle_fail(struct kelpie_monitor *monitor, const struct kelpie_error *error);

/* There is nothing to be written any more: it was, or the file is gone. */
void kelpie__lifecycle_settle(struct kelpie_lifecycle *lifecycle);

/* Nothing lives, nobody waits, and the monitor may go. */
bool kelpie__lifecycle_is_over(const struct kelpie_monitor *monitor);

#endif
