/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The contract's 21 tests (docs/simulation.md, "The contract"), one source for every backend: they
 * know the public header and this structure, nothing of what is below. In the simulator a row is a
 * program of the simulated host; on real backends tests/contract runs it.
 */
#ifndef KELPIE_SIM_CONTRACT_H
#define KELPIE_SIM_CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kelpie.h"

#define SIM_CONTRACT_ROW_COUNT 21u
#define SIM_CONTRACT_OUTCOME_MAX 4096u

struct sim_contract {
    struct kelpie *kelpie;
    uint64_t seed;
    uint32_t scale;     /* counts are divided by it, never below 3 */
    bool has_templates; /* VMs may come from one: where boots cost, and the row is not about them */
    /* From now on calls go wrong in this way: "boot fails", "crash", "pause fails", ..., each with
     * this chance in a thousand. False: this backend cannot make it happen, and the row draws it by
     * itself or checks less. */
    bool (*fault)(struct sim_contract *contract, const char *name, uint32_t thousandth);
    /* The first failure ends the row. */
    void (*fail)(struct sim_contract *contract, const char *text);
    uint64_t (*random)(struct sim_contract *contract);
    /* One byte of a snapshot's files changes. NULL: the backend cannot. */
    bool (*damage)(struct sim_contract *contract, const char *snapshot);
    /* The snapshot says that it was made on this architecture. */
    bool (*relabel)(struct sim_contract *contract, const char *snapshot, const char *architecture);
    void *context;
    enum kelpie_backend backend;  /* AUTO: what the host has */
    uint32_t boot_timeout_factor; /* where an emulated KVM is slow; 0: as 1 */
    bool lacks_snapshots; /* the backend has none: what needs them is refused, and says so */
    bool has_failed;
    /* What the calls gave, in order: row 10 compares it between two runs of a seed. */
    uint32_t outcome_count;
    int16_t outcomes[SIM_CONTRACT_OUTCOME_MAX];
};

struct sim_contract_row {
    uint32_t number; /* of the contract */
    const char *name;
    void (*run)(struct sim_contract *contract); /* NULL: pending */
    const char *pending; /* the issue that brings what it needs; NULL: none */
    uint32_t seeds_max;  /* of a long list of seeds, for what takes long; 0: all */
};

extern const struct sim_contract_row kelpie__sim_contract_rows[SIM_CONTRACT_ROW_COUNT];

#endif
