/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files about pools share, the keeper's among them. See docs/pools.md.
 */
#ifndef KELPIE_LIB_POOL_H
#define KELPIE_LIB_POOL_H

#include "lib/internal.h"
#include "store/pool.h"

struct kelpie_pool {
    struct kelpie *kelpie; /* borrowed: until close */
    struct kelpie_pool *next;
    struct kelpie_pool_store store;
    struct kelpie_pool_directory directory;
    struct kelpie_claim *claims; /* list: those that are under way */
    int owner; /* lock, owned: this handle owns the pool; KELPIE_OS_NO_HANDLE: it does not */
};

static_assert(KELPIE_CALL_TIMEOUT_MS >= KELPIE_RESUME_TIMEOUT_MS,
              "a member that wakes up for its claimer has the time");

/* What holds of a handle from its opening to its closing. */
void kelpie__pool_handle_check(const struct kelpie_pool *pool);

/* ---- pool_keeper.c --------------------------------------------------------------------------- */

/* A connection to the keeper, over which nothing is said. Its beginning tells the keeper to look
 * whether there is something to do; its end tells us that something has changed. A negative errno
 * value: nobody keeps the pool. */
KELPIE_MUST_CHECK int kelpie__pool_poke(const struct kelpie_pool_directory *directory);
/* When nobody keeps the pool, a keeper is started: it gets the lock that this process takes.
 * Errors: NOT_FOUND (it was removed), UNAVAILABLE, IO. */
KELPIE_MUST_CHECK int kelpie__pool_ensure_keeper(struct kelpie_pool *pool,
                                                 struct kelpie_error *error);
/* With the lock, which the keeper has from then on. */
KELPIE_MUST_CHECK int kelpie__pool_start_keeper(struct kelpie_pool *pool,
                                                struct kelpie_error *error);
/* Waits for a change, over a connection that kelpie__pool_poke gave and that is taken; or until the
 * deadline (-1: none). */
KELPIE_MUST_CHECK int kelpie__pool_wait(struct kelpie *kelpie, int connection, int64_t deadline_ns,
                                        struct kelpie_error *error);

/* ---- pool_end.c ------------------------------------------------------------------------------ */

/* Ends every member that still waits. With the pool's lock. */
void kelpie__pool_end_members(struct kelpie *kelpie, const struct kelpie_pool_directory *directory);
/* The whole end of a pool; what another has begun is finished. Errors: NOT_FOUND, BUSY, IO. */
KELPIE_MUST_CHECK int kelpie__pool_end(struct kelpie *kelpie,
                                       struct kelpie_pool_directory *directory,
                                       struct kelpie_error *error);
/* Removes what dead processes left of pools: half made, half removed, and those whose owner and
 * keeper are both gone. */
void kelpie__pools_prune(struct kelpie *kelpie);

/* ---- pool_claim.c ---------------------------------------------------------------------------- */

/* They end without a callback. */
void kelpie__claims_drop(struct kelpie_pool *pool);

/* ---- pool.c ---------------------------------------------------------------------------------- */

/* MISUSE: it is NULL, or this is a callback. */
KELPIE_MUST_CHECK int kelpie__pool_check_call(const struct kelpie_pool *pool, const char *what,
                                              struct kelpie_error *error);
void kelpie__pool_describe(const struct kelpie_pool_directory *directory,
                           const struct kelpie_config_values *config, struct kelpie_pool_info *out);

#endif
