/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What stays broken when the faults end (swarm.h), and whether the rest gets on with it: a guest
 * that changes what it says, a QEMU that stands still, or a client that never reads again, for
 * good.
 */
#ifndef KELPIE_SIM_DAMAGE_H
#define KELPIE_SIM_DAMAGE_H

#include "sim/swarm.h"

#define SIM_DAMAGE_NAME_BYTES 64u

struct kelpie;

#define SIM_DAMAGE_LOST_ROLE "lost" /* of the client that never comes back */

/* Strikes one of the VMs that run, and gives its name; a client is lost with a VM of its own, whose
 * command it no longer reads. False: none runs, or nothing of this kind is to be struck. */
bool kelpie__sim_damage_strike(struct sim_world *world, enum sim_swarm_damage damage,
                               char out_vm[SIM_DAMAGE_NAME_BYTES]);

/* From a client (`process`): commands in the VM that was struck, or its stop. They may end in any
 * way that is true, within their deadlines; what does not fails the world. */
void kelpie__sim_damage_probe(struct kelpie *kelpie, struct sim_process *process,
                              enum sim_swarm_damage damage, const char *vm);

#endif
