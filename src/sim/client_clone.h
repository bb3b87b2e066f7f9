/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Forks of VMs that live, and of such forks: the VMs that they make are nobody else's, and are gone
 * when their maker is done with them. That each is its source's guest with an identity of its own
 * is looked at when it is published (snapshot_truth.c: 18, 21), that the source goes on by the
 * judge (20); here, that each of them works, that one that waited is given once, and that those
 * that wait go when the run ends that they wait for.
 */
#ifndef KELPIE_SIM_CLIENT_CLONE_H
#define KELPIE_SIM_CLIENT_CLONE_H

#include "sim/workload.h"

struct kelpie;
struct kelpie_error;
struct kelpie_vm;
struct sim_clients;
struct sim_process;

/* Gives the status of the first fork. Where nothing goes wrong, all that its VMs are asked
 * succeeds. `process`: the client's. */
int kelpie__sim_clone(const struct sim_clients *clients, struct sim_process *process,
                      struct kelpie *kelpie, struct kelpie_vm *vm,
                      const struct sim_operation *operation, struct kelpie_error *error);

#endif
