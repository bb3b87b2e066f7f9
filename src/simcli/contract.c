/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim contract: the contract's 21 tests on the simulator, each under every seed asked for.
 * Row 10 runs twice: the same seed has to give the same outcomes, and the same hash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "sim/contract_run.h"
#include "simcli/simcli.h"

/* The contract's own seeds; they run first when no seeds were asked for. */
static const uint64_t contract_seeds[] = {42, 123, 456, 789, 1000};

static void run_row(const struct simcli *simcli, const struct sim_contract_row *row, uint64_t seed,
                    struct sim_contract_result *result) {
    bool is_krun = kelpie__simcli_is_krun(simcli, seed);
    kelpie__sim_contract_run(row, seed, is_krun, simcli->nursery, result);
    if (row->number != 10 || result->verdict != KELPIE_SIM_PASS) {
        return;
    }
    struct sim_contract_result *again = malloc(sizeof(*again));
    if (again == NULL) {
        result->verdict = KELPIE_SIM_CRASHED;
        return;
    }
    kelpie__sim_contract_run(row, seed, is_krun, NULL, again); /* other memory, too */
    bool is_same = again->hash == result->hash && again->outcome_count == result->outcome_count &&
                   memcmp(again->outcomes, result->outcomes,
                          result->outcome_count * sizeof(result->outcomes[0])) == 0;
    if (!is_same) {
        result->verdict = KELPIE_SIM_NOT_THE_SAME;
        bool fits = kelpie__text_format(
            result->reason, sizeof(result->reason),
            "hash %016llx, then %016llx; %u outcomes, then %u", (unsigned long long)result->hash,
            (unsigned long long)again->hash, result->outcome_count, again->outcome_count);
        KELPIE_ASSERT(fits);
    }
    free(again);
}

static uint64_t seed_at(const struct simcli *simcli, uint64_t index, bool is_default) {
    if (!is_default) {
        return simcli->seed_first + index;
    }
    return index < KELPIE_ARRAY_COUNT(contract_seeds) ? contract_seeds[index]
                                                      : index - KELPIE_ARRAY_COUNT(contract_seeds);
}

/* Prints the row's line; gives its verdict. */
static int contract_row(const struct simcli *simcli, const struct sim_contract_row *row,
                        struct sim_contract_result *result) {
    bool is_default = !simcli->has_seeds;
    uint64_t count = is_default ? KELPIE_ARRAY_COUNT(contract_seeds) : simcli->seed_count;
    if (row->seeds_max > 0 && count > row->seeds_max && simcli->word == NULL) {
        count = row->seeds_max;
    }
    uint64_t hash = 0;
    for (uint64_t i = 0; i < count; i += 1) {
        uint64_t seed = seed_at(simcli, i, is_default);
        run_row(simcli, row, seed, result);
        if (result->verdict != KELPIE_SIM_PASS) {
            printf("not ok %s: seed %llu: %s\n", row->name, (unsigned long long)seed,
                   result->reason);
            return (int)result->verdict;
        }
        hash = hash * 31 + result->hash;
    }
    printf("ok %s\n", row->name);
    if (!simcli->is_quiet) {
        printf("# row %u: %llu seed%s, hash %016llx\n", row->number, (unsigned long long)count,
               count == 1 ? "" : "s", (unsigned long long)hash);
    }
    fflush(stdout);
    return 0;
}

/* Told when it is none. NULL: all of them. */
static bool is_row(const char *name) {
    bool is_known = name == NULL;
    for (uint32_t i = 0; i < SIM_CONTRACT_ROW_COUNT && !is_known; i += 1) {
        is_known = strcmp(name, kelpie__sim_contract_rows[i].name) == 0;
    }
    if (!is_known) {
        fprintf(stderr, "kelpie-sim: there is no row \"%s\"; there are", name);
        for (uint32_t i = 0; i < SIM_CONTRACT_ROW_COUNT; i += 1) {
            fprintf(stderr, " %s", kelpie__sim_contract_rows[i].name);
        }
        fputc('\n', stderr);
    }
    return is_known;
}

int kelpie__simcli_contract(struct simcli *simcli) {
    int worst = 0;
    uint32_t passed = 0;
    uint32_t failed = 0;
    uint32_t pending = 0;
    if (!is_row(simcli->word)) {
        return KELPIE_SIM_USAGE;
    }
    struct sim_contract_result *result = malloc(sizeof(*result));
    kelpie__simcli_check(simcli);
    if (result == NULL) {
        return KELPIE_SIM_CRASHED;
    }
    printf("# seeds %s%llu\n", simcli->has_seeds ? "from " : "42 123 456 789 ",
           simcli->has_seeds ? (unsigned long long)simcli->seed_first : 1000ull);
    for (uint32_t i = 0; i < SIM_CONTRACT_ROW_COUNT; i += 1) {
        const struct sim_contract_row *row = &kelpie__sim_contract_rows[i];
        if (simcli->word != NULL && strcmp(simcli->word, row->name) != 0) {
            continue;
        }
        if (row->run == NULL) {
            /* Counted as failed with --all: nothing is skipped in silence. */
            printf("# pending %s: %s\n", row->name, row->pending);
            pending += 1;
            continue;
        }
        int code = contract_row(simcli, row, result);
        passed += code == 0;
        failed += code != 0;
        worst = code != 0 ? code : worst;
    }
    free(result);
    if (simcli->is_all) {
        failed += pending;
        worst = worst == 0 && pending > 0 ? KELPIE_SIM_BROKEN : worst;
    }
    printf("# %u passed, %u failed, %u pending\n", passed, failed, pending);
    return passed + failed == 0 ? KELPIE_SIM_USAGE : worst;
}
