/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the simulated QEMU would make of a snapshot's files, looked at from outside.
 */
#ifndef KELPIE_SIM_QEMU_SAVED_H
#define KELPIE_SIM_QEMU_SAVED_H

#include "sim/guest.h"

struct sim_disk;

/* The guest that was saved there. False: memory and device state do not make one, or are not of one
 * moment. */
bool kelpie__sim_qemu_saved(struct sim_disk *disk, const char *directory,
                            struct sim_guest_truth *out);

#endif
