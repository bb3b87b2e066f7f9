/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A row of the contract in a simulated world of its own.
 */
#ifndef KELPIE_SIM_CONTRACT_RUN_H
#define KELPIE_SIM_CONTRACT_RUN_H

#include "sim/contract.h"
#include "sim/run.h"

struct sim_contract_result {
    enum kelpie_sim_verdict verdict;
    char reason[SIM_RUN_REASON_BYTES_MAX];
    uint64_t hash;
    int64_t virtual_ns;
    uint32_t outcome_count;
    int16_t outcomes[SIM_CONTRACT_OUTCOME_MAX];
};

/* The row must not be pending. On libkrun, or on QEMU. `nursery` (world.h) may be NULL. With a
 * schedule and timings drawn from the seed; afterwards everything has to come to rest. Never fails
 * but by its verdict. */
void kelpie__sim_contract_run(const struct sim_contract_row *row, uint64_t seed, bool is_krun,
                              struct sim_nursery *nursery, struct sim_contract_result *out);

#endif
