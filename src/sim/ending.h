/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How the guests of a workload's VMs have ended, in truth: whether the request to go has reached
 * the last one of each, and whether it went by itself.
 */
#ifndef KELPIE_SIM_ENDING_H
#define KELPIE_SIM_ENDING_H

#include "sim/swarm.h"

struct sim_ending {
    uint64_t guest;  /* its number; 0: the VM never had one */
    bool is_over;    /* what follows holds */
    bool was_asked;  /* its agent had read the request to go */
    bool went;       /* it reset or switched off its machine, in order */
    int64_t time_ns; /* when */
    int64_t went_ns; /* when a guest of this VM last went as it was asked to; 0: none has */
};

struct sim_endings {
    struct sim_ending vms[SIM_SWARM_VM_MAX];
};

/* Follows the world from now on; the structure outlives it. */
void kelpie__sim_endings_observe(struct sim_endings *endings, struct sim_world *world);

#endif
