/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim canaries: does the swarm find bugs? Each of the planted ones (os/os_mark.h,
 * docs/simulation.md) is switched on alone; the number of seeds until a run fails for it is what
 * counts. It counts only when it fails in the way that this bug has to, and when the same seed
 * passes without it.
 */
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "simcli/crew.h"
#include "simcli/simcli.h"

#define CANARIES_SEEDS_MAX 1000u
#define CANARIES_MEDIAN_MAX 10u
#define CANARIES_REASON_BYTES_MAX 128u

struct canary {
    uint32_t number;
    const char *what;
    const char *expected; /* numbers of invariants, each with a comma behind it; NULL: pending */
};

static const struct canary canaries[] = {
    {1, "Running on QMP's \"running\"", "1,"},
    {2, "hello's nonce is not compared", "1,18,"},
    {3, "the parent directory is not synced after a rename", "16,"},
    {4, "the manifest is written before the memory is synced", "16,17,"},
    {5, "\"completed\" is believed without a check of the length", "16,"},
    {6, "checksums are not verified at a restore", "17,18,"},
    {7, "a timeout kills the leader only", "12,"},
    {8, "a short write is ignored", "11,"},
    {9, "a slow client's buffer is overwritten", "11,14,"},
    {10, "a VMM without die_with_parent", "4,"},
    {11, "a deadline from the wall clock", "27,"},
    {12, "a restore stops the VM before it looks at the snapshot", "19,"},
    {13, "the lock is taken after the check", "6,"},
    {14, "QMP's ids are not matched", "29,"},
    {15, "a fork without new entropy", "21,"},
    {16, "fsync again after EIO", "16,"},
};

#define CANARIES_COUNT (sizeof(canaries) / sizeof(canaries[0]))

enum hunt_end {
    HUNT_NOT_RUN,
    HUNT_PASSED,
    HUNT_FOUND,
    HUNT_OTHERWISE, /* failed, but not as this bug has to */
    HUNT_WITHOUT,   /* failed as it has to, and so it does without the bug */
    HUNT_CRASHED,
    HUNT_END_COUNT,
};

struct hunt {
    struct simcli *simcli;
    const struct canary *canary;
    struct {
        enum hunt_end end;
        char reason[CANARIES_REASON_BYTES_MAX];
    } seeds[CANARIES_SEEDS_MAX];
};

/* "invariant 11: ..." is expected by "4,11,". */
static bool is_expected(const struct canary *canary, const char *reason) {
    char number[16];
    const char *prefix = "invariant ";
    KELPIE_ASSERT(canary->expected != NULL);
    if (!kelpie__text_has_prefix(reason, prefix)) {
        return false;
    }
    int length = (int)strcspn(reason + strlen(prefix), ":");
    bool fits =
        kelpie__text_format(number, sizeof(number), "%.*s,", length, reason + strlen(prefix));
    const char *found = fits ? strstr(canary->expected, number) : NULL;
    return found != NULL && (found == canary->expected || found[-1] == ',');
}

static void hunt_work(void *context, uint64_t task) {
    struct hunt *hunt = context;
    struct sim_run_options options;
    struct sim_run_result result;
    kelpie__simcli_run_options(hunt->simcli, task, &options);
    options.canary = hunt->canary->number;
    KELPIE_ASSERT(task < CANARIES_SEEDS_MAX && options.canary > 0);
    kelpie__sim_run(&options, &result);
    enum hunt_end end = result.verdict == KELPIE_SIM_PASS          ? HUNT_PASSED
                        : is_expected(hunt->canary, result.reason) ? HUNT_FOUND
                                                                   : HUNT_OTHERWISE;
    kelpie__ignore(
        snprintf(hunt->seeds[task].reason, CANARIES_REASON_BYTES_MAX, "%.120s", result.reason));
    kelpie__sim_run_release(&result);
    if (end == HUNT_FOUND) {
        options.canary = 0;
        kelpie__sim_run(&options, &result);
        end = result.verdict == KELPIE_SIM_PASS ? HUNT_FOUND : HUNT_WITHOUT;
        kelpie__sim_run_release(&result);
    }
    hunt->seeds[task].end = end;
}

static void hunt_crashed(void *context, uint64_t task) {
    struct hunt *hunt = context;
    KELPIE_ASSERT(task < CANARIES_SEEDS_MAX);
    KELPIE_ASSERT(hunt->seeds[task].end == HUNT_NOT_RUN);
    hunt->seeds[task].end = HUNT_CRASHED;
}

static bool hunt_is_enough(const void *context) {
    const struct hunt *hunt = context;
    for (uint32_t i = 0; i < CANARIES_SEEDS_MAX; i += 1) {
        if (hunt->seeds[i].end == HUNT_FOUND) {
            return true;
        }
    }
    return false;
}

static void hunt_print(const struct hunt *hunt, uint32_t seeds) {
    uint32_t counts[HUNT_END_COUNT] = {0};
    const struct canary *canary = hunt->canary;
    KELPIE_ASSERT(seeds <= CANARIES_SEEDS_MAX);
    for (uint32_t i = 0; i < (seeds > 0 ? seeds : CANARIES_SEEDS_MAX); i += 1) {
        counts[hunt->seeds[i].end] += 1;
    }
    if (seeds > 0) {
        printf("canary %2u  found in %u seed%s: %s [%s]\n", canary->number, seeds,
               seeds == 1 ? "" : "s", canary->what, hunt->seeds[seeds - 1].reason);
    } else {
        printf("canary %2u  NOT FOUND: %s\n", canary->number, canary->what);
    }
    printf("           before: %u passed, %u failed otherwise, %u fail without it, %u crashed\n",
           counts[HUNT_PASSED], counts[HUNT_OTHERWISE], counts[HUNT_WITHOUT], counts[HUNT_CRASHED]);
    fflush(stdout);
}

/* Seeds until one fails, from 1; 0: none did. */
static uint32_t hunt_run(struct hunt *hunt) {
    uint64_t limit = hunt->simcli->has_seeds ? hunt->simcli->seed_count : CANARIES_SEEDS_MAX;
    const struct simcli_crew crew = {.jobs = hunt->simcli->jobs,
                                     .task_count = kelpie__min_u64(limit, CANARIES_SEEDS_MAX),
                                     .context = hunt,
                                     .work = hunt_work,
                                     .crashed = hunt_crashed,
                                     .is_enough = hunt_is_enough};
    memset(hunt->seeds, 0, sizeof(hunt->seeds));
    KELPIE_ASSERT(crew.task_count > 0);
    if (!kelpie__simcli_crew_run(&crew)) {
        fprintf(stderr, "kelpie-sim: no processes\n");
        return 0;
    }
    uint32_t seed = 0;
    while (seed < CANARIES_SEEDS_MAX && hunt->seeds[seed].end != HUNT_FOUND) {
        seed += 1;
    }
    return seed < CANARIES_SEEDS_MAX ? seed + 1 : 0;
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
    kelpie__simcli_check(simcli);
#ifndef KELPIE_SIMULATION
    fprintf(stderr, "kelpie-sim: this build has no canaries; build with -Dsimulation=true\n");
    return KELPIE_SIM_USAGE;
#endif
    struct hunt *hunt = kelpie__simcli_crew_memory(sizeof(*hunt));
    if (hunt == NULL) {
        fprintf(stderr, "kelpie-sim: no memory\n");
        return KELPIE_SIM_USAGE;
    }
    hunt->simcli = simcli;
    for (uint32_t i = 0; i < CANARIES_COUNT; i += 1) {
        hunt->canary = &canaries[i];
        if (simcli->canary != 0 && simcli->canary != canaries[i].number) {
            continue;
        }
        if (canaries[i].expected == NULL) {
            printf("canary %2u  pending: %s\n", canaries[i].number, canaries[i].what);
            continue;
        }
        uint32_t seeds = hunt_run(hunt);
        hunt_print(hunt, seeds);
        missed += seeds == 0;
        found[count] = seeds;
        count += seeds > 0;
    }
    sort(found, count);
    uint32_t median = count > 0 ? (found[(count - 1) / 2] + found[count / 2]) / 2 : 0;
    printf("%u found, %u missed, median %u seeds\n", count, missed, median);
    return missed == 0 && median <= CANARIES_MEDIAN_MAX ? 0 : KELPIE_SIM_BROKEN;
}
