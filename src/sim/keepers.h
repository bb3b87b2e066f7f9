/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Who keeps a pool: one keeper at a time (23).
 */
#ifndef KELPIE_SIM_KEEPERS_H
#define KELPIE_SIM_KEEPERS_H

#include "sim/machine.h"

#define SIM_KEEPERS_POOL_MAX 8u

struct sim_keepers_pool {
    char path[SIM_PATH_BYTES_MAX]; /* of the file that a keeper writes about it */
    uint64_t last;                 /* birth of who wrote it last */
    uint64_t before;               /* of whoever wrote it last before that one; 0: nobody */
};

struct sim_keepers {
    uint32_t count;
    struct sim_keepers_pool pools[SIM_KEEPERS_POOL_MAX];
};

/* A file got this name; of those that keepers write, two keepers do not take turns. */
void kelpie__sim_keepers_renamed(struct sim_keepers *keepers, struct sim_world *world,
                                 const struct sim_process *process, const char *path);

#endif
