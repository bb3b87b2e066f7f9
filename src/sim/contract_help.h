/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the contract's rows share. After the first failure nothing is asked any more.
 */
#ifndef KELPIE_SIM_CONTRACT_HELP_H
#define KELPIE_SIM_CONTRACT_HELP_H

#include "core/base.h"
#include "sim/contract.h"

KELPIE_PRINTF(2, 3)
void kelpie__row_fail(struct sim_contract *contract, const char *format, ...);
/* Each fails the row when it is not so. */
bool kelpie__row_is_ok(struct sim_contract *contract, const char *what, int status,
                       const struct kelpie_error *error);
bool kelpie__row_is_code(struct sim_contract *contract, const char *what, int status, int code);
bool kelpie__row_state_is(struct sim_contract *contract, struct kelpie_vm *vm,
                          enum kelpie_vm_state state);
/* `sh -c script` ends with 0 and has this output. */
void kelpie__row_says(struct sim_contract *contract, struct kelpie_vm *vm, const char *script,
                      const char *output);

uint32_t kelpie__row_scaled(const struct sim_contract *contract, uint32_t full);
/* Keeps what a call gave, for row 10. */
void kelpie__row_note(struct sim_contract *contract, int status);

/* A VM of 1 CPU and 256 MiB, owned; NULL: the row has failed. */
struct kelpie_vm *kelpie__row_make(struct sim_contract *contract);
struct kelpie_vm *kelpie__row_make_running(struct sim_contract *contract);
/* Deletes and closes it; takes NULL. */
void kelpie__row_end(struct sim_contract *contract, struct kelpie_vm *vm);
/* With status 0 *out_code is the exit code, and `out` holds the output. */
int kelpie__row_sh(struct kelpie_vm *vm, const char *script, uint64_t timeout_ms, int *out_code,
                   char out[256], struct kelpie_error *error);

/* contract_snapshot.c */
void kelpie__row_snapshot_restore_basic(struct sim_contract *contract);
void kelpie__row_snapshot_with_corruption_faults(struct sim_contract *contract);
void kelpie__row_stress_many_operations(struct sim_contract *contract);
void kelpie__row_snapshot_state_requirements(struct sim_contract *contract);
void kelpie__row_snapshot_arch_mismatch(struct sim_contract *contract);
void kelpie__row_snapshot_memory_mismatch(struct sim_contract *contract);

#endif
