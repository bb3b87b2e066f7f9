/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What fork.c and fork_waiting.c share: several VMs on their way, as one operation.
 */
#ifndef KELPIE_LIB_FORK_H
#define KELPIE_LIB_FORK_H

#include "core/limits.h"
#include "lib/internal.h"
#include "store/snapshot.h"

/* the answer of vm.base: a path, which JSON may make longer, and some words */
#define KELPIE_FORK_BASE_BYTES_MAX (2u * KELPIE_PATH_BYTES_MAX)

/* The snapshot that VMs are forked from: its name ends with random bytes in hexadecimal. */
#define KELPIE_FORK_PREFIX "fork-"
#define KELPIE_FORK_NAME_BYTES 8u
#define KELPIE_FORK_LABEL "made by fork"

/* One of the VMs. */
struct kelpie_fork_child {
    struct kelpie_fork *fork;
    struct kelpie_vm *vm;                 /* owned until it is given; NULL: not made */
    struct kelpie_operation *operation;   /* its start, while that is under way */
    char name[KELPIE_NAME_BYTES_MAX + 1]; /* "": drawn */
    bool has_waited;                      /* it was made in advance */
    bool is_deleting;
    bool is_gone;
};

struct kelpie_fork {
    struct kelpie_operation operation; /* what its caller has to cancel it */
    struct kelpie *kelpie;             /* borrowed: until it ends */
    struct kelpie_fork *next;
    struct kelpie_vm *source;        /* borrowed: until it ends; NULL: made of a snapshot */
    struct kelpie_operation *taking; /* the snapshot, or the base, while it is being asked for */
    struct kelpie_snapshot_result taken;
    struct kelpie_config *config; /* owned */
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot held; /* so that the first that needs it no longer does not remove it */
    bool is_held;
    bool may_take_waiting;              /* nothing was given that those that wait lack */
    bool is_waiting;                    /* the VMs are made to wait: fork_waiting.c */
    bool is_confirmed;                  /* and the source was asked for its base again */
    char *base;                         /* owned; what it says of that, and said before */
    char *base_before;                  /* owned */
    struct kelpie_fork_child *children; /* owned */
    size_t count;
    size_t made_count;
    size_t started_count;
    size_t pending;
    int64_t busy_deadline_ns;
    int64_t delete_deadline_ns;
    struct kelpie_timer timer;
    int status; /* of the first that failed */
    struct kelpie_error error;
    struct kelpie_vm **out; /* borrowed: until it ends; NULL: they wait */
    kelpie_done_callback callback;
    void *context;
};

/* ---- fork.c ---------------------------------------------------------------------------------- */

/* Ends it with this, if it has not failed before. */
void kelpie__fork_fail(struct kelpie_fork *fork, const struct kelpie_error *error);
/* Makes and starts its VMs, in the loop's next step. */
void kelpie__fork_plan(struct kelpie_fork *fork);
/* All that was asked of its VMs was answered. */
void kelpie__fork_started_all(struct kelpie_fork *fork);

/* ---- fork_waiting.c -------------------------------------------------------------------------- */

/* Asks the source over what it lies; the rest follows. */
KELPIE_MUST_CHECK int kelpie__fork_ask_base(struct kelpie_fork *fork, struct kelpie_error *error);
/* Asks a VM that was just made to wait. */
KELPIE_MUST_CHECK int kelpie__fork_wait(struct kelpie_fork_child *child,
                                        kelpie_done_callback callback, struct kelpie_error *error);
/* They wait, and are the source's. */
void kelpie__fork_keep_waiting(struct kelpie_fork *fork);
/* One that waits for this source, and is the caller's from then on; NULL: none does. */
struct kelpie_vm *kelpie__fork_take_waiting(struct kelpie_vm *source);
/* Starts it from the snapshot that was just taken. */
KELPIE_MUST_CHECK int kelpie__fork_start_waiting(struct kelpie_fork_child *child,
                                                 kelpie_done_callback callback,
                                                 struct kelpie_error *error);

#endif
