/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Does everything come to rest once nothing goes wrong any more? The second half of every run:
 * faults off, stopped processes go on, a full disk has room again; then within 120 virtual seconds
 * nothing may be left half-done, and a fresh VM must start, run a command and vanish; when
 * something stays broken, beside it.
 */
#ifndef KELPIE_SIM_LIVENESS_H
#define KELPIE_SIM_LIVENESS_H

#include "sim/swarm.h"

#define SIM_PENDING_BYTES_MAX 512u
#define SIM_LIVENESS_NS (INT64_C(120) * 1000000000)
#define SIM_LIVENESS_DISK_BYTES (UINT64_C(64) << 30)

/* The first thing that has not come to rest: a process between two states, one that nobody reaped,
 * a lock held by the dead, a temporary file, a VM without an owner that should be gone. False:
 * nothing; else *out names it. */
bool kelpie__sim_pending(struct sim_world *world, char out[SIM_PENDING_BYTES_MAX]);

/* Runs the world until nothing is pending and the fresh VM is gone. False: *out says what never
 * ended. */
bool kelpie__sim_liveness(struct sim_world *world, enum sim_swarm_damage damage,
                          char out[SIM_PENDING_BYTES_MAX]);

#endif
