/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What stays broken when the faults end (swarm.h), and whether the rest gets on with it: a guest
 * that changes what it says, or a QEMU that stands still, for good.
 */
#ifndef KELPIE_SIM_DAMAGE_H
#define KELPIE_SIM_DAMAGE_H

#include "sim/swarm.h"

#define SIM_DAMAGE_NAME_BYTES 64u

struct kelpie;

/* Strikes one of the VMs that run, and gives its name. False: none runs, or nothing of this kind is
 * to be struck. */
bool kelpie__sim_damage_strike(struct sim_world *world, enum sim_swarm_damage damage,
                               char out_vm[SIM_DAMAGE_NAME_BYTES]);

/* From a client: a command in the VM that was struck. It may end in any way that is true, within
 * its deadlines; what does not fails the world. */
void kelpie__sim_damage_probe(struct kelpie *kelpie, struct sim_world *world,
                              enum sim_swarm_damage damage, const char *vm);

#endif
