/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a process of the product tells of itself where no call shows what it does (KELPIE_TELL of
 * os/os_mark.h, in a build with -Dsimulation=true alone), against what the world knows.
 *
 * "qmp-answer": what has just come from QEMU through this handle counts as the answer to the
 * request of this id. Invariant 29: QEMU has answered that request.
 */
#ifndef KELPIE_SIM_TOLD_H
#define KELPIE_SIM_TOLD_H

#include "os/os_mark.h"
#include "sim/machine.h"

#ifdef KELPIE_SIMULATION
void kelpie__sim_told(struct sim_process *process, const struct kelpie_mark *mark);
#endif

#endif
