/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the clients of a run do with pools (docs/pools.md), and how their answers are judged: a
 * member goes to one taker, healthy, never used before (invariant 23); a lease ends its VM. The
 * model of the VMs does not know of them: nobody but their taker uses these.
 */
#ifndef KELPIE_SIM_CLIENT_POOL_H
#define KELPIE_SIM_CLIENT_POOL_H

#include "sim/workload.h"

struct kelpie;
struct kelpie_pool;
struct sim_process;
struct sim_world;

#define SIM_POOL_COUNT 2u /* "pool-0", ... */
#define SIM_POOL_TAKEN_MAX 1024u
#define SIM_POOL_LEASED_MAX 16u

/* Of a whole run: it outlives its clients. */
struct sim_pools {
    uint32_t maker_count; /* how many make a pool just now, or died over it */
    uint32_t taken_count;
    char taken[SIM_POOL_TAKEN_MAX][33]; /* ids of the VMs that were claimed */
    uint32_t leased_count;
    struct sim_pool_lease { /* a ring */
        char name[65];
        int64_t end_ns; /* virtual time */
    } leased[SIM_POOL_LEASED_MAX];
};

struct sim_pool_client {
    const struct sim_swarm *swarm; /* borrowed */
    struct sim_pools *pools;       /* borrowed */
    struct sim_process *process;   /* borrowed */
    struct kelpie *kelpie;         /* borrowed */
    /* This client's handles, which go with the library; NULL: none. */
    struct kelpie_pool *handles[SIM_POOL_COUNT];
};

/* A VM with this id was given to a client: no other may have been before (invariant 23). */
void kelpie__sim_pool_note_taken(struct sim_pools *pools, struct sim_world *world, const char *id);
bool kelpie__sim_pool_is_operation(const struct sim_operation *operation);
/* What is wrong fails the world. */
void kelpie__sim_pool_do(struct sim_pool_client *client, const struct sim_operation *operation);

#endif
