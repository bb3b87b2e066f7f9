/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands whose output is read as it comes: slowly, and by one who lets go and comes back.
 */
#ifndef KELPIE_SIM_CLIENT_STREAM_H
#define KELPIE_SIM_CLIENT_STREAM_H

#include "sim/workload.h"

struct kelpie_error;
struct kelpie_vm;
struct sim_world;

/* Runs `source COUNT` of a SLOW or ATTACH, and compares each byte: a wrong one fails the world.
 * Gives the library's status; the exit code is 0. */
int kelpie__sim_stream_run(struct sim_world *world, struct kelpie_vm *vm,
                           const struct sim_operation *operation, size_t count,
                           struct kelpie_error *error);

#endif
