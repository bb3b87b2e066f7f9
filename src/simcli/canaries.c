/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim canaries: does the swarm find bugs? Each of the planted ones (os/os_mark.h,
 * docs/simulation.md) is switched on alone; the number of seeds until a run fails is what counts.
 * Without any, the same seeds have to pass.
 */
#include <stdio.h>
#include <string.h>

#include "simcli/simcli.h"

#define CANARIES_SEEDS_MAX 1000u
#define CANARIES_MEDIAN_MAX 10u

struct canary {
    uint32_t number;
    const char *what;
    const char *pending; /* the issue that brings its feature; NULL: it is there */
};

static const struct canary canaries[] = {
    {1, "Running on QMP's \"running\"", NULL},
    {2, "hello's nonce is not compared", NULL},
    {3, "the parent directory is not synced after a rename", "issue 4"},
    {4, "the manifest is written before the memory is synced", "issue 4"},
    {5, "\"completed\" is believed without a check of the length", "issue 4"},
    {6, "checksums are not verified at a restore", "issue 4"},
    {7, "a timeout kills the leader only", NULL},
    {8, "a short write is ignored", NULL},
    {9, "a slow client's buffer is overwritten", NULL},
    {10, "a VMM without die_with_parent", NULL},
    {11, "a deadline from the wall clock", NULL},
    {12, "a restore stops the VM before it looks at the snapshot", "issue 4"},
    {13, "the lock is taken after the check", NULL},
    {14, "QMP's ids are not matched", NULL},
    {15, "a fork without new entropy", "issue 4"},
    {16, "fsync again after EIO", "issue 4"},
};

#define CANARIES_COUNT (sizeof(canaries) / sizeof(canaries[0]))

/* Seeds until one fails, from 1; 0: none did. */
static uint32_t hunt(struct simcli *simcli, const struct canary *canary, char reason[128]) {
    for (uint32_t seed = 0; seed < CANARIES_SEEDS_MAX; seed += 1) {
        struct sim_run_options options;
        struct sim_run_result result;
        kelpie__simcli_run_options(simcli, seed, &options);
        options.canary = canary->number;
        kelpie__sim_run(&options, &result);
        bool is_found = result.verdict != KELPIE_SIM_PASS;
        kelpie__ignore(snprintf(reason, 128, "%.120s", result.reason));
        kelpie__sim_run_release(&result);
        if (is_found) {
            return seed + 1;
        }
    }
    return 0;
}

static void sort(uint32_t *values, uint32_t count) {
    for (uint32_t i = 1; i < count; i += 1) {
        for (uint32_t j = i; j > 0 && values[j] < values[j - 1]; j -= 1) {
            uint32_t value = values[j];
            values[j] = values[j - 1];
            values[j - 1] = value;
        }
    }
}

int kelpie__simcli_canaries(struct simcli *simcli) {
    uint32_t found[CANARIES_COUNT];
    uint32_t count = 0;
    uint32_t missed = 0;
#ifndef KELPIE_SIMULATION
    fprintf(stderr, "kelpie-sim: this build has no canaries; build with -Dsimulation=true\n");
    return KELPIE_SIM_USAGE;
#endif
    for (uint32_t i = 0; i < CANARIES_COUNT; i += 1) {
        const struct canary *canary = &canaries[i];
        char reason[128] = "";
        if (canary->pending != NULL) {
            printf("canary %2u  pending (%s): %s\n", canary->number, canary->pending, canary->what);
            continue;
        }
        uint32_t seeds = hunt(simcli, canary, reason);
        if (seeds == 0) {
            printf("canary %2u  NOT FOUND in %u seeds: %s\n", canary->number, CANARIES_SEEDS_MAX,
                   canary->what);
            missed += 1;
            continue;
        }
        printf("canary %2u  seed %4u  %s [%s]\n", canary->number, seeds - 1, canary->what, reason);
        fflush(stdout);
        found[count] = seeds;
        count += 1;
    }
    sort(found, count);
    uint32_t median = count > 0 ? found[count / 2] : 0;
    printf("%u found, %u missed, median %u seeds\n", count, missed, median);
    return missed == 0 && median <= CANARIES_MEDIAN_MAX ? 0 : KELPIE_SIM_BROKEN;
}
