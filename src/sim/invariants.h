/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What has to hold at every moment of every run (docs/simulation.md lists them by number). Ground
 * truth is read from the simulated world: processes, guests, files; never from what the product
 * says of itself.
 */
#ifndef KELPIE_SIM_INVARIANTS_H
#define KELPIE_SIM_INVARIANTS_H

#include "sim/judge.h"
#include "sim/world.h"

struct sim_invariants;

/* Registers itself as an observer: after each event the cheap ones. A broken one fails the world:
 * "invariant N: ...". NULL without memory. */
struct sim_invariants *kelpie__sim_invariants_create(struct sim_world *world,
                                                     struct sim_judge *judge);
/* What "vm-INDEX" is published as. */
bool kelpie__sim_invariants_is_paused(const struct sim_invariants *invariants, uint32_t index);
void kelpie__sim_invariants_destroy(struct sim_invariants *invariants); /* takes NULL */

#endif
