/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands of a workload that are told something while they run: listed, sent a signal, killed, or
 * that no more input comes.
 */
#ifndef KELPIE_SIM_CLIENT_TOLD_H
#define KELPIE_SIM_CLIENT_TOLD_H

#include "sim/workload.h"

struct kelpie_error;
struct kelpie_vm;
struct sim_world;

/* Of the operations with SIM_COMMAND_SLEEP, those whose command is told something. */
bool kelpie__sim_told_is_one(const struct sim_operation *operation);
/* As kelpie__sim_command_run: the result is 0 when the command ended as it was told to. */
int kelpie__sim_told_run(struct sim_world *world, struct kelpie_vm *vm,
                         const struct sim_operation *operation, uint64_t *out_result,
                         struct kelpie_error *error);

#endif
