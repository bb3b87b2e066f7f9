/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The commands of a workload: what is run in the guest, and what it has to answer.
 */
#ifndef KELPIE_SIM_CLIENT_COMMAND_H
#define KELPIE_SIM_CLIENT_COMMAND_H

#include "sim/workload.h"

struct kelpie_error;
struct kelpie_vm;
struct sim_world;

#define SIM_COMMAND_LEFT ".75" /* the end of an argument of those that are left behind */

/* Runs the command of an EXEC, PUT or GET, and compares its answer byte by byte: what is wrong
 * fails the world. Gives the library's status, or CANCELLED when the command was ended from
 * outside; *out_result is the exit code, or the value that was read. */
int kelpie__sim_command_run(struct sim_world *world, struct kelpie_vm *vm,
                            const struct sim_operation *operation, uint64_t *out_result,
                            struct kelpie_error *error);
/* Begins a command that does not go when its guest is asked to. */
void kelpie__sim_command_stay(struct kelpie_vm *vm);
/* The code that is its only success: 0, or of an EXEC what it has to fail with (EXEC_TIMEOUT,
 * EXEC_NOT_FOUND). */
int kelpie__sim_command_must_fail(const struct sim_operation *operation);
/* Its own timeout; 0: it is not one that meets it. */
uint64_t kelpie__sim_command_timeout_ms(const struct sim_operation *operation);
/* A status that only the guest can give: how a command ended, or why it did not begin. */
bool kelpie__sim_command_is_end(int status);
/* A PUT that has synced its file when it is done. */
bool kelpie__sim_command_is_synced(const struct sim_operation *operation);
/* The exit code that it has to give. */
uint64_t kelpie__sim_command_code(const struct sim_operation *operation);

#endif
