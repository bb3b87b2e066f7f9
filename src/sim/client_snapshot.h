/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The operations of a workload that are about snapshots, asked of the library.
 */
#ifndef KELPIE_SIM_CLIENT_SNAPSHOT_H
#define KELPIE_SIM_CLIENT_SNAPSHOT_H

#include "sim/workload.h"

struct kelpie;
struct kelpie_config;
struct kelpie_error;
struct kelpie_vm;

#define SIM_SNAPSHOT_NAME_BYTES 24u
#define SIM_SNAPSHOT_PREFIX "snapshot-" /* and its number */

/* It survives the machine's death, whatever its VM is. */
bool kelpie__sim_snapshot_is_synced(const struct sim_operation *operation);
void kelpie__sim_snapshot_name(uint32_t snapshot, char out[SIM_SNAPSHOT_NAME_BYTES]);
/* SNAPSHOT, RESTORE of a VM. `timeout_ms`: of a RESTORE; 0: the library's own. */
int kelpie__sim_snapshot_ask(struct kelpie_vm *vm, const struct sim_operation *operation,
                             uint64_t timeout_ms, struct kelpie_error *error);
/* FORGET: every other one is verified before. */
int kelpie__sim_snapshot_forget(struct kelpie *kelpie, const struct sim_operation *operation,
                                struct kelpie_error *error);
/* FORK, CREATE_FROM: makes a VM of that name. `config` borrows, and is another afterwards. Gives
 * *out (kelpie_vm_close). */
int kelpie__sim_snapshot_make(struct kelpie *kelpie, struct kelpie_config *config, const char *name,
                              const struct sim_operation *operation, struct kelpie_vm **out,
                              struct kelpie_error *error);

#endif
