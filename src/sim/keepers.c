/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See keepers.h.
 */
#include "sim/keepers.h"

#include <string.h>

#include "core/text.h"
#include "sim/install.h"
#include "sim/world.h"

#define KEEPERS_POOLS SIM_STATE_DIRECTORY "/pools/"
#define KEEPERS_TAIL "/keeper.json"

static bool is_of_a_keeper(const char *path) {
    size_t length = strlen(path);
    size_t tail = strlen(KEEPERS_TAIL);
    return strncmp(path, KEEPERS_POOLS, strlen(KEEPERS_POOLS)) == 0 && length > tail &&
           strcmp(path + length - tail, KEEPERS_TAIL) == 0;
}

/* NULL: more pools than are watched. */
static struct sim_keepers_pool *pool_of(struct sim_keepers *keepers, const char *path) {
    KELPIE_ASSERT(keepers->count <= SIM_KEEPERS_POOL_MAX);
    for (uint32_t i = 0; i < keepers->count; i += 1) {
        if (strcmp(keepers->pools[i].path, path) == 0) {
            return &keepers->pools[i];
        }
    }
    if (keepers->count == SIM_KEEPERS_POOL_MAX) {
        return NULL;
    }
    struct sim_keepers_pool *pool = &keepers->pools[keepers->count];
    *pool = (struct sim_keepers_pool){0};
    if (!kelpie__text_copy(pool->path, sizeof(pool->path), path)) {
        return NULL;
    }
    keepers->count += 1;
    return pool;
}

/* A pool that is removed and made anew has a new keeper, and the old one may live a little longer,
 * but writes no more: not under this name. */
void kelpie__sim_keepers_renamed(struct sim_keepers *keepers, struct sim_world *world,
                                 const struct sim_process *process, const char *path) {
    if (process == NULL || !is_of_a_keeper(path)) {
        return;
    }
    KELPIE_ASSERT(process->birth > 0);
    struct sim_keepers_pool *pool = pool_of(keepers, path);
    if (pool == NULL || pool->last == process->birth) {
        return;
    }
    if (pool->before == process->birth) {
        kelpie__sim_world_fail(world, "invariant 23: two keepers keep %s, one is pid %d",
                               pool->path, process->pid);
    }
    pool->before = pool->last;
    pool->last = process->birth;
}
