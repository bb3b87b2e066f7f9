/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Invariant 30: what is promised to outlive the host's death would, from the moment on at which it
 * is acknowledged: a durable VM, the layers of its disk, a pool. Looked up on the durable side of
 * the disk, so that no power loss is needed.
 */
#ifndef KELPIE_SIM_LASTING_H
#define KELPIE_SIM_LASTING_H

#include "sim/world.h"

/* After each rename: a list of layers is in force, and what it names is to be whole. */
void kelpie__sim_lasting_renamed(struct sim_world *world, const char *path);
/* A VM of this name has been made, and is durable; nobody else does anything with it. */
void kelpie__sim_lasting_vm(struct sim_world *world, const char *name);
/* It runs: so is its disk, of which there is no list yet. */
void kelpie__sim_lasting_disk(struct sim_world *world, const char *name);
/* A pool of this name has been made; nobody else does anything with it. */
void kelpie__sim_lasting_pool(struct sim_world *world, const char *name);

#endif
