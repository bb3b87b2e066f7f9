/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-keeper: keeps one pool full (docs/pools.md). It makes members one after the other, or as
 * many at once as the pool says, offers each, and sees when one is claimed or dies. It is a client
 * of monitors like any other: should it die, members that wait go on waiting, those that are being
 * made go with it, and the next user of the pool starts another keeper.
 *
 * Its argv:
 *     kelpie-keeper --state-dir D --runtime-dir D --cache-dir D --libexec-dir D --name N
 * and its descriptors: 2 its log, 3 the pool's directory with its lock, 4 the listener.
 */
#ifndef KELPIE_KEEPER_KEEPER_H
#define KELPIE_KEEPER_KEEPER_H

#include "lib/pool.h"

static_assert(KELPIE_POOL_CONCURRENCY_MAX <= KELPIE_POOL_SIZE_MAX, "each one made has a slot");
static_assert(KELPIE_POOL_SIZE_MAX + KELPIE_POOL_WAITER_COUNT_MAX < KELPIE_LIB_HANDLE_MAX,
              "members and those who wait for them fit a loop");

enum kelpie_keeper_handle {
    KELPIE_KEEPER_HANDLE_LOCK = 3,
    KELPIE_KEEPER_HANDLE_LISTENER = 4,
};

/* What a member is at; each but the first and the last is one request to its monitor. */
enum kelpie_keeper_phase {
    KELPIE_KEEPER_EMPTY,
    KELPIE_KEEPER_STARTING,
    KELPIE_KEEPER_WAKING,  /* it stood still: after a rehearsal, or as the snapshot's VM did */
    KELPIE_KEEPER_WARMING, /* commands: what the guest has never run is slow */
    KELPIE_KEEPER_PAUSING,
    KELPIE_KEEPER_OFFERING,
    KELPIE_KEEPER_READY, /* it waits */
    KELPIE_KEEPER_PHASE_COUNT,
};

struct kelpie_keeper;

struct kelpie_keeper_slot {
    struct kelpie_keeper *keeper; /* borrowed: for ever */
    struct kelpie_vm *vm;         /* owned; NULL in Empty */
    enum kelpie_keeper_phase phase;
    bool is_done; /* the phase's request was answered: */
    struct kelpie_error error;
    struct kelpie_exec_result result; /* of a command in Warming */
    uint32_t round_count;             /* how often its life was rehearsed */
    uint32_t warm_count;              /* commands of this round */
    uint32_t offer_count;
    struct kelpie_timer offer_timer; /* armed: the offer is made again */
};

struct kelpie_keeper {
    struct kelpie_os *os;              /* borrowed: until the process ends */
    struct kelpie *kelpie;             /* owned */
    struct kelpie_pool_store store;    /* owned */
    struct kelpie_pool_directory pool; /* owned, with the lock */
    struct kelpie_config *config;      /* owned: what members are */
    struct kelpie_pool_status status;  /* what keeper.json says */
    int listener;                      /* owned */
    uint32_t listener_watch;
    int owner; /* handle of a process, owned; KELPIE_OS_NO_HANDLE: it has none */
    uint32_t owner_watch;
    bool is_owner_gone;
    bool is_changed;  /* something that others may wait for */
    int64_t retry_ns; /* no member is begun before */
    uint32_t failures_in_a_row;
    uint32_t waiter_count;
    int waiters[KELPIE_POOL_WAITER_COUNT_MAX]; /* owned: connections of those who wait */
    struct kelpie_keeper_slot slots[KELPIE_POOL_SIZE_MAX];
};

/* The program: gives the process's exit code. */
int kelpie_keeper_main(struct kelpie_os *os, int argc, char **argv);

/* ---- slot.c ---------------------------------------------------------------------------------- */

void kelpie__keeper_slot_check(const struct kelpie_keeper_slot *slot);
/* Begins a new member in an empty slot. On failure it is empty still. */
void kelpie__keeper_slot_begin(struct kelpie_keeper_slot *slot);
/* A member that waits already, of a keeper before. False: it is not there any more. */
KELPIE_MUST_CHECK bool kelpie__keeper_slot_adopt(struct kelpie_keeper_slot *slot, const char *name);
/* Outside of every callback: goes on to the next phase, or empties the slot of a member that was
 * claimed, has died, or could not be made. */
void kelpie__keeper_slot_look(struct kelpie_keeper_slot *slot);
/* Lets go of it: one that waits goes on waiting, one that is being made goes. */
void kelpie__keeper_slot_empty(struct kelpie_keeper_slot *slot);
bool kelpie__keeper_slot_is_making(const struct kelpie_keeper_slot *slot);

/* ---- keeper.c: for slot.c -------------------------------------------------------------------- */

uint32_t kelpie__keeper_ready_count(const struct kelpie_keeper *keeper);
/* A member has gone, mostly to a claimer: while others wait, the next one is made in a moment. */
void kelpie__keeper_stand_back(struct kelpie_keeper *keeper);
void kelpie__keeper_made(struct kelpie_keeper *keeper);
void kelpie__keeper_failed(struct kelpie_keeper *keeper, const struct kelpie_error *why);

#endif
