/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What has to be true when the clients of a run have gone: nobody wakes up while nothing is asked
 * (25), and after a power loss the next who opens the library finishes or undoes all that was
 * begun, and the one after finds nothing to do (24).
 */
#ifndef KELPIE_SIM_RECOVERY_H
#define KELPIE_SIM_RECOVERY_H

#include "sim/world.h"

/* Of all names and bytes in the directories of VMs and snapshots, two levels deep. */
uint64_t kelpie__sim_recovery_trees(struct sim_world *world);
/* Cuts the power, and opens the library twice. False: the world has failed, or somebody waits for
 * ever. No more faults fire from now on. */
KELPIE_MUST_CHECK bool kelpie__sim_recovery(struct sim_world *world);
/* Lets some minutes pass in which nobody asks for anything. False: the world has failed. Likewise.
 */
KELPIE_MUST_CHECK bool kelpie__sim_idle(struct sim_world *world);

#endif
