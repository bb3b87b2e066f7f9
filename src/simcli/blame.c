/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim blame SEED: when was the failure of a seed decided? From a time T on, everything is
 * drawn from another seed; how many of such runs fail, over T, says so: where the rate jumps lies
 * the cause.
 */
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "sim/world.h"
#include "simcli/jobs.h"
#include "simcli/simcli.h"

#define BLAME_TIMES 12u
#define BLAME_RUNS 50u
#define BLAME_BAR_MAX 40u
#define BLAME_BEGIN_NS KELPIE_NS_PER_S /* where virtual time begins */
#define BLAME_SEED_STEP UINT64_C(0x9e3779b97f4a7c15)

struct blame {
    struct simcli *simcli;
    uint64_t seed;
    int64_t end_ns;
};

struct turn {
    int64_t time_ns;
    uint64_t seed;
};

static void reseed(struct sim_world *world, void *context, uint64_t argument) {
    KELPIE_ASSERT(context == NULL);
    kelpie__sim_world_reseed(world, argument);
}

static void begun(void *context, struct sim_world *world) {
    const struct turn *turn = context;
    kelpie__sim_at(world, turn->time_ns, reseed, NULL, turn->seed);
}

static int64_t time_of(const struct blame *blame, uint64_t index) {
    KELPIE_ASSERT(index < BLAME_TIMES);
    int64_t span = blame->end_ns - BLAME_BEGIN_NS;
    return BLAME_BEGIN_NS + span / (BLAME_TIMES - 1) * (int64_t)index;
}

static void blame_work(void *context, uint64_t index, struct sim_nursery *nursery,
                       struct simcli_outcome *out) {
    const struct blame *blame = context;
    struct turn turn = {.time_ns = time_of(blame, index / BLAME_RUNS),
                        .seed = blame->seed + (index % BLAME_RUNS + 1) * BLAME_SEED_STEP};
    struct sim_run_options options;
    struct sim_run_result result;

    kelpie__simcli_run_options(blame->simcli, blame->seed, &options);
    options.begun = begun;
    options.begun_context = &turn;
    options.nursery = nursery;
    kelpie__sim_run(&options, &result);
    out->value = result.verdict != KELPIE_SIM_PASS ? 1 : 0;
    kelpie__sim_run_release(&result);
}

static void tell_rates(const struct blame *blame, const struct simcli_campaign *campaign) {
    uint32_t before = 0;
    uint32_t jump = 0;
    uint32_t jump_at = 0;
    KELPIE_ASSERT(campaign->count == (uint64_t)BLAME_TIMES * BLAME_RUNS);
    KELPIE_ASSERT(campaign->notes != NULL);
    for (uint32_t i = 0; i < BLAME_TIMES; i += 1) {
        char bar[BLAME_BAR_MAX + 1];
        uint32_t failed = 0;
        for (uint32_t j = 0; j < BLAME_RUNS; j += 1) {
            const struct simcli_note *note = &campaign->notes[i * BLAME_RUNS + j];
            bool is_crash = (note->flags & SIMCLI_RUN_CRASHED) != 0;
            failed += note->value != 0 || is_crash ? 1 : 0;
        }
        memset(bar, '#', sizeof(bar));
        bar[failed * BLAME_BAR_MAX / BLAME_RUNS] = '\0';
        printf("other draws from %10lld ms on: %3u %% fail  %s\n",
               (long long)(time_of(blame, i) / KELPIE_NS_PER_MS), failed * 100 / BLAME_RUNS, bar);
        if (failed > before + jump) {
            jump = failed - before;
            jump_at = i;
        }
        before = failed;
    }
    if (jump_at > 0) {
        printf("the cause lies between %lld and %lld ms\n",
               (long long)(time_of(blame, jump_at - 1) / KELPIE_NS_PER_MS),
               (long long)(time_of(blame, jump_at) / KELPIE_NS_PER_MS));
    } else {
        printf("no time stands out: it fails whatever is drawn, or hardly ever\n");
    }
}

int kelpie__simcli_blame(struct simcli *simcli) {
    struct blame blame = {.simcli = simcli};
    struct sim_run_options options;
    struct sim_run_result result;
    kelpie__simcli_check(simcli);
    if (simcli->word == NULL || !kelpie__text_u64(simcli->word, &blame.seed)) {
        fprintf(stderr, "kelpie-sim: blame what? Expected the number of a seed that fails\n");
        return KELPIE_SIM_USAGE;
    }
    kelpie__simcli_run_options(simcli, blame.seed, &options);
    kelpie__sim_run(&options, &result);
    blame.end_ns = result.virtual_ns;
    bool has_failed = result.verdict != KELPIE_SIM_PASS;
    printf("seed %llu: %s, after %lld virtual ms\n", (unsigned long long)blame.seed,
           has_failed ? result.reason : "pass: there is nothing to blame",
           (long long)(blame.end_ns / KELPIE_NS_PER_MS));
    int code = (int)result.verdict;
    kelpie__sim_run_release(&result);
    struct simcli_campaign campaign = {.name = "blame",
                                       .count = (uint64_t)BLAME_TIMES * BLAME_RUNS,
                                       .work = blame_work,
                                       .context = &blame};
    if (has_failed && code != KELPIE_SIM_USAGE) {
        if (!kelpie__simcli_campaign_run(simcli, &campaign)) {
            return KELPIE_SIM_CRASHED;
        }
        tell_rates(&blame, &campaign);
        kelpie__simcli_campaign_release(&campaign);
    }
    return code;
}
