/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What belongs to nobody any more, and is still there: of a process that ends by itself (25), of a
 * VM whose owner is gone (5), of an agent that has nothing to do (25).
 */
#ifndef KELPIE_SIM_BELONGINGS_H
#define KELPIE_SIM_BELONGINGS_H

#include "sim/machine.h"

/* At the end of a process: memory and handles that it has never given back. */
void kelpie__sim_belongings_at_end(struct sim_world *world, const struct sim_process *ended);
/* When all clients have gone and nothing happens any more. */
void kelpie__sim_belongings_at_rest(struct sim_world *world);

#endif
