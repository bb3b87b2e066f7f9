/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The clients of a run: simulated processes that use the library as its users do, each doing its
 * operations one after the other, and comparing every byte that they get.
 */
#ifndef KELPIE_SIM_CLIENT_H
#define KELPIE_SIM_CLIENT_H

#include "sim/judge.h"
#include "sim/workload.h"
#include "sim/world.h"

#define SIM_CLIENT_PATH "/usr/bin/client-" /* and its number */
#define SIM_CLIENT_PLACE "vm"              /* PLACE in the environment of each VM that is made */

struct sim_pools;

struct sim_clients {
    struct sim_world *world;                /* borrowed */
    struct sim_judge *judge;                /* borrowed */
    const struct sim_swarm *swarm;          /* borrowed */
    const struct sim_operation *operations; /* borrowed */
    uint32_t operation_count;
    int64_t *begun_ns;                   /* borrowed: when each was begun; NULL: nobody asks */
    uint32_t next[SIM_SWARM_CLIENT_MAX]; /* the operation that each does next */
    uint32_t lives[SIM_SWARM_CLIENT_MAX];
    struct sim_pools *pools;       /* borrowed */
    int64_t herd_ns[SIM_HERD_MAX]; /* when they meet; 0: nobody of it has come yet */
};

/* Starts all clients that are not there and have something left to do, again after a fault has
 * killed them, or the machine has lost its power; and one more that does nothing but resume what
 * has stood still for long: a command in a paused VM has no deadline, so that its client would wait
 * for ever when nobody is left to resume it. The world's context is this structure from then on.
 * Gives how many clients, or -errno. */
int kelpie__sim_clients_start(struct sim_clients *clients);
/* The process of a client that lives, or NULL. */
struct sim_process *kelpie__sim_clients_process(const struct sim_clients *clients, uint32_t index);
/* No client is left. */
bool kelpie__sim_clients_have_ended(const struct sim_clients *clients);

#endif
