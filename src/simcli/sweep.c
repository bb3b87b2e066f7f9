/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim sweep, pairs: every call of a scenario (sim/scenario.h) with every fault that fits it,
 * and pairs of those. What is run is complete, so what matters is told: which sites (role,
 * operation, label or path) there are, and how often a fault hit each.
 */
#include "simcli/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/trace.h"
#include "sim/world.h"

#define SWEEP_SITES_MAX 4096u
#define SWEEP_UNREACHED_BYTES_MAX 65536u
#define SWEEP_PAIR_BYTES_MAX (2 * SIM_SEARCH_RULE_BYTES_MAX + 8)

struct site {
    char text[SIM_SEARCH_SITE_BYTES_MAX];
    uint64_t hits;
    uint64_t reached;
};

struct sweep {
    struct simcli *simcli;
    struct sim_search search;
    struct site *sites; /* owned */
    uint32_t site_count;
    uint64_t runs;
    uint64_t hits;
    uint64_t failed;
};

static int64_t real_now(const struct simcli *simcli) {
    return kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
}

static void sweep_check(const struct sweep *sweep) {
    kelpie__simcli_check(sweep->simcli);
    KELPIE_ASSERT(sweep->site_count <= SWEEP_SITES_MAX);
    KELPIE_ASSERT(sweep->sites != NULL || sweep->site_count == 0);
    KELPIE_ASSERT(sweep->failed <= sweep->runs);
}

/* ---- sites ----------------------------------------------------------------------------------- */

static struct site *site_of(struct sweep *sweep, const struct sim_search_call *call) {
    char text[SIM_SEARCH_SITE_BYTES_MAX];
    sweep_check(sweep);
    kelpie__sim_search_site(call, text);
    for (uint32_t i = 0; i < sweep->site_count; i += 1) {
        if (strcmp(sweep->sites[i].text, text) == 0) {
            return &sweep->sites[i];
        }
    }
    if (sweep->site_count == SWEEP_SITES_MAX) {
        return NULL;
    }
    struct site *site = &sweep->sites[sweep->site_count];
    sweep->site_count += 1;
    memcpy(site->text, text, sizeof(site->text));
    return site;
}

static uint32_t count_sites(struct sweep *sweep, const struct simcli_campaign *campaign) {
    const struct sim_search *search = &sweep->search;
    sweep_check(sweep);
    KELPIE_ASSERT(campaign->count == search->case_count);
    uint8_t *is_seen = calloc(SWEEP_SITES_MAX, 1);
    uint32_t count = 0;
    for (uint32_t i = 0; is_seen != NULL && i < search->call_count; i += 1) {
        bool has_case = kelpie__sim_search_has_case(&search->calls[i]);
        struct site *site = has_case ? site_of(sweep, &search->calls[i]) : NULL;
        if (site != NULL) {
            site->reached += 1;
            size_t index = (size_t)(site - sweep->sites);
            count += search->calls[i].is_of_operation && is_seen[index] == 0 ? 1 : 0;
            is_seen[index] |= search->calls[i].is_of_operation ? 1 : 0;
        }
    }
    for (uint32_t i = 0; i < campaign->count; i += 1) {
        bool did_fire = (campaign->notes[i].flags & SIMCLI_RUN_FIRED) != 0;
        struct site *site = did_fire ? site_of(sweep, &search->calls[search->cases[i].call]) : NULL;
        if (site != NULL) {
            site->hits += 1;
            sweep->hits += 1;
        }
    }
    free(is_seen);
    return count;
}

/* A line of tests/sim/unreached-sites.txt begins with the site, two blanks, then the reason. */
static bool is_excused(const char *list, const char *site) {
    size_t length = strlen(site);
    KELPIE_ASSERT(site[0] != '\0');
    for (const char *line = list; line != NULL && *line != '\0';) { /* bound: the text */
        const char *end = strchr(line, '\n');
        if (strncmp(line, site, length) == 0 && strncmp(line + length, "  ", 2) == 0 &&
            line[length + 2] != '\0' && line[length + 2] != '\n') {
            return true;
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return false;
}

/* Sites that were seen in some scenario, and in none hit. Gives how many have no excuse. */
static uint32_t tell_unreached(const struct sweep *sweep) {
    char list[SWEEP_UNREACHED_BYTES_MAX] = "";
    uint32_t missing = 0;
    uint32_t excused = 0;
    const char *path = sweep->simcli->unreached_path;
    sweep_check(sweep);
    if (path != NULL && kelpie__small_file_read(sweep->simcli->os, path, list, sizeof(list)) < 0) {
        fprintf(stderr, "kelpie-sim: cannot read \"%s\"\n", path);
        return 1;
    }
    for (uint32_t i = 0; i < sweep->site_count; i += 1) {
        if (sweep->sites[i].hits > 0) {
            continue;
        }
        if (is_excused(list, sweep->sites[i].text)) {
            excused += 1;
        } else {
            missing += 1;
            printf("never hit: %s\n", sweep->sites[i].text);
        }
    }
    printf("%u sites, %llu hits; %u never hit, with a reason; %u without one\n", sweep->site_count,
           (unsigned long long)sweep->hits, excused, missing);
    return missing;
}

static void tell_sites(const struct sweep *sweep) {
    sweep_check(sweep);
    for (uint32_t i = 0; i < sweep->site_count; i += 1) {
        printf("  %6llu hits  %s\n", (unsigned long long)sweep->sites[i].hits,
               sweep->sites[i].text);
    }
}

/* ---- one run --------------------------------------------------------------------------------- */

static void run_plan(const struct sweep *sweep, const char *plan, struct sim_nursery *nursery,
                     struct simcli_outcome *out) {
    const struct sim_scenario_options options = {.scenario = sweep->search.scenario,
                                                 .seed = sweep->search.seed,
                                                 .plan = plan,
                                                 .nursery = nursery};
    struct sim_scenario_result result;
    KELPIE_ASSERT(sweep->search.scenario != NULL && plan[0] != '\0');
    kelpie__sim_scenario_run(&options, &result);
    out->verdict = result.run.verdict;
    out->flags = (result.run.faults_fired > 0 ? SIMCLI_RUN_FIRED : 0u) |
                 (result.is_played ? SIMCLI_RUN_PLAYED : 0u);
    memcpy(out->reason, result.run.reason, sizeof(out->reason));
    kelpie__sim_scenario_release(&result);
}

static void sweep_work(void *context, uint64_t index, struct sim_nursery *nursery,
                       struct simcli_outcome *out) {
    const struct sweep *sweep = context;
    char rule[SIM_SEARCH_RULE_BYTES_MAX];
    sweep_check(sweep);
    KELPIE_ASSERT(index < sweep->search.case_count);
    kelpie__sim_search_rule(&sweep->search, &sweep->search.cases[index], rule);
    run_plan(sweep, rule, nursery, out);
}

static void tell(void *context, const char *text, size_t length) {
    fwrite(text, 1, length, context);
}

int kelpie__simcli_run_at(struct simcli *simcli, const struct sim_scenario_options *at) {
    const struct sim_scenario *scenario = at->scenario;
    struct sim_scenario_options options = *at;
    struct sim_trace *trace = kelpie__sim_trace_create(
        simcli->log == SIMCLI_LOG_FULL ? SIM_TRACE_CALLS : SIM_TRACE_EVENTS);
    struct sim_scenario_result result;
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(scenario != NULL && at->plan != NULL);
    options.trace = trace;
    kelpie__sim_scenario_run(&options, &result);
    if (result.run.verdict == KELPIE_SIM_USAGE) {
        fprintf(stderr, "kelpie-sim: --at: %s\n", result.run.reason);
    } else if (simcli->log != SIMCLI_LOG_NONE) {
        kelpie__simcli_log_end(simcli, trace);
    } else {
        kelpie__sim_trace_story(trace, tell, stdout);
    }
    if (result.run.verdict != KELPIE_SIM_USAGE) {
        printf("%s: %s%s%s, %u fault%s, hash %016llx\n", scenario->name,
               result.run.verdict == KELPIE_SIM_PASS ? "pass" : "FAIL",
               result.run.verdict == KELPIE_SIM_PASS ? "" : ": ", result.run.reason,
               result.run.faults_fired, result.run.faults_fired == 1 ? "" : "s",
               (unsigned long long)result.run.hash);
    }
    int code = (int)result.run.verdict;
    kelpie__sim_scenario_release(&result);
    kelpie__sim_trace_destroy(trace);
    return code;
}

/* ---- a scenario ------------------------------------------------------------------------------ */

void kelpie__simcli_tell_failure(const char *verb, const struct sim_scenario *scenario,
                                 const char *at, const struct simcli_outcome *outcome,
                                 uint32_t count) {
    KELPIE_ASSERT(outcome->verdict != KELPIE_SIM_PASS && count > 0);
    KELPIE_ASSERT(at[0] != '\0');
    printf("  FAIL %s (verdict %d, %u run%s)\n    kelpie-sim %s %s --at '%s'\n", outcome->reason,
           (int)outcome->verdict, count, count == 1 ? "" : "s", verb, scenario->name, at);
}

static void tell_case(void *context, const struct simcli_failure *first, uint32_t count) {
    const struct sim_search *search = context;
    KELPIE_ASSERT(first->index < search->case_count && count > 0);
    char rule[SIM_SEARCH_RULE_BYTES_MAX];
    kelpie__sim_search_rule(search, &search->cases[first->index], rule);
    kelpie__simcli_tell_failure("sweep", search->scenario, rule, &first->outcome, count);
}

/* 0, or the verdict of the run without faults. */
static int search_begin(struct sweep *sweep, const struct sim_scenario *scenario) {
    const struct sim_scenario_options options = {
        .scenario = scenario, .seed = sweep->simcli->seed_first, .is_calm = true};
    char reason[SIM_RUN_REASON_BYTES_MAX];
    enum kelpie_sim_verdict verdict = kelpie__sim_search_begin(&sweep->search, &options, reason);
    sweep_check(sweep);
    if (verdict != KELPIE_SIM_PASS) {
        printf("%-14s FAIL without any fault: %s\n", scenario->name, reason);
        kelpie__sim_search_end(&sweep->search);
    }
    return (int)verdict;
}

static int sweep_scenario(struct sweep *sweep, const struct sim_scenario *scenario) {
    struct simcli_campaign campaign = {.name = scenario->name, .work = sweep_work};
    int64_t begun_ns = real_now(sweep->simcli);
    int code = search_begin(sweep, scenario);
    sweep_check(sweep);
    if (code != 0) {
        return code;
    }
    campaign.count = sweep->search.case_count;
    campaign.context = sweep;
    if (!kelpie__simcli_campaign_run(sweep->simcli, &campaign)) {
        kelpie__sim_search_end(&sweep->search);
        return KELPIE_SIM_CRASHED;
    }
    uint64_t hits_before = sweep->hits;
    uint32_t sites = count_sites(sweep, &campaign);
    printf("%-14s %5llu runs, %4u sites, %5llu hits, %llu failed, %lld ms\n", scenario->name,
           (unsigned long long)campaign.done, sites,
           (unsigned long long)(sweep->hits - hits_before), (unsigned long long)campaign.failed,
           (long long)((real_now(sweep->simcli) - begun_ns) / KELPIE_NS_PER_MS));
    code = kelpie__simcli_campaign_tell(&campaign, tell_case, &sweep->search);
    fflush(stdout);
    sweep->runs += campaign.done;
    sweep->failed += campaign.failed;
    kelpie__simcli_campaign_release(&campaign);
    kelpie__sim_search_end(&sweep->search);
    return code;
}

bool kelpie__simcli_scenario(const struct simcli *simcli, const struct sim_scenario **out) {
    kelpie__simcli_check(simcli);
    *out = simcli->word != NULL ? kelpie__sim_scenario_find(simcli->word) : NULL;
    if (simcli->word == NULL || *out != NULL) {
        return true;
    }
    fprintf(stderr, "kelpie-sim: there is no scenario \"%s\"; there are", simcli->word);
    for (uint32_t i = 0; kelpie__sim_scenario(i) != NULL; i += 1) {
        fprintf(stderr, " %s", kelpie__sim_scenario(i)->name);
    }
    fprintf(stderr, "\n");
    return false;
}

int kelpie__simcli_sweep(struct simcli *simcli) {
    const struct sim_scenario *only = NULL;
    struct sweep sweep = {.simcli = simcli};
    int code = 0;
    kelpie__simcli_check(simcli);
    if (!kelpie__simcli_scenario(simcli, &only)) {
        return KELPIE_SIM_USAGE;
    }
    if (simcli->at != NULL && only == NULL) {
        fprintf(stderr, "kelpie-sim: --at is about one scenario: kelpie-sim sweep SCENARIO --at\n");
        return KELPIE_SIM_USAGE;
    }
    if (simcli->at != NULL) {
        const struct sim_scenario_options at = {
            .scenario = only, .seed = simcli->seed_first, .plan = simcli->at};
        return kelpie__simcli_run_at(simcli, &at);
    }
    sweep.sites = calloc(SWEEP_SITES_MAX, sizeof(*sweep.sites));
    if (sweep.sites == NULL) {
        return KELPIE_SIM_CRASHED;
    }
    for (uint32_t i = 0; kelpie__sim_scenario(i) != NULL; i += 1) {
        if (only == NULL || only == kelpie__sim_scenario(i)) {
            int one = sweep_scenario(&sweep, kelpie__sim_scenario(i));
            code = code == 0 ? one : code;
        }
    }
    if (simcli->log != SIMCLI_LOG_NONE) {
        tell_sites(&sweep);
    }
    if (only == NULL && tell_unreached(&sweep) > 0 && code == 0) {
        code = KELPIE_SIM_VACUOUS;
    }
    printf("%llu runs, %llu failed\n", (unsigned long long)sweep.runs,
           (unsigned long long)sweep.failed);
    free(sweep.sites);
    return code;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

#define PAIRS_RUNS_MAX (UINT64_C(64) << 20)

struct pairs {
    struct sweep sweep;
    uint32_t count;
    struct sim_search_case *chosen; /* owned */
};

/* The index-th pair with first < second: the rest of a triangle's row. */
static void pair_of(uint64_t index, uint32_t count, uint32_t *out_first, uint32_t *out_second) {
    uint32_t first = 0;
    KELPIE_ASSERT(count > 1 && index < (uint64_t)count * (count - 1) / 2);
    while (index >= count - 1 - first) { /* bound: the rows */
        index -= count - 1 - first;
        first += 1;
    }
    *out_first = first;
    *out_second = first + 1 + (uint32_t)index;
    KELPIE_ASSERT(*out_second < count);
}

static void pair_plan(const struct pairs *pairs, uint64_t index, char out[SWEEP_PAIR_BYTES_MAX]) {
    uint32_t first = 0;
    uint32_t second = 0;
    char rules[2][SIM_SEARCH_RULE_BYTES_MAX];
    pair_of(index, pairs->count, &first, &second);
    KELPIE_ASSERT(first < second && second < pairs->count);
    kelpie__sim_search_rule(&pairs->sweep.search, &pairs->chosen[first], rules[0]);
    kelpie__sim_search_rule(&pairs->sweep.search, &pairs->chosen[second], rules[1]);
    kelpie__ignore(snprintf(out, SWEEP_PAIR_BYTES_MAX, "%s; %s", rules[0], rules[1]));
}

static void tell_pair(void *context, const struct simcli_failure *first, uint32_t count) {
    const struct pairs *pairs = context;
    char plan[SWEEP_PAIR_BYTES_MAX];
    sweep_check(&pairs->sweep);
    pair_plan(pairs, first->index, plan);
    kelpie__simcli_tell_failure("sweep", pairs->sweep.search.scenario, plan, &first->outcome,
                                count);
}

static void pairs_work(void *context, uint64_t index, struct sim_nursery *nursery,
                       struct simcli_outcome *out) {
    const struct pairs *pairs = context;
    char plan[SWEEP_PAIR_BYTES_MAX];
    KELPIE_ASSERT(pairs->chosen != NULL);
    pair_plan(pairs, index, plan);
    run_plan(&pairs->sweep, plan, nursery, out);
}

static bool choose(struct pairs *pairs, bool wants_kills) {
    const struct sim_search *search = &pairs->sweep.search;
    KELPIE_ASSERT(pairs->chosen == NULL);
    pairs->chosen = calloc(search->case_count + 1, sizeof(*pairs->chosen));
    pairs->count = 0;
    for (uint32_t i = 0; pairs->chosen != NULL && i < search->case_count; i += 1) {
        enum sim_search_kind kind = search->cases[i].kind;
        if (wants_kills ? kind == SIM_SEARCH_KILL : kind == SIM_SEARCH_FAIL) {
            pairs->chosen[pairs->count] = search->cases[i];
            pairs->count += 1;
        }
    }
    return pairs->count > 1;
}

static int pairs_kind(struct pairs *pairs, bool wants_kills, int64_t end_ns) {
    char name[64];
    const struct sim_scenario *scenario = pairs->sweep.search.scenario;
    int code = 0;
    int64_t begun_ns = real_now(pairs->sweep.simcli);
    sweep_check(&pairs->sweep);
    KELPIE_ASSERT(pairs->sweep.search.scenario != NULL);
    kelpie__ignore(snprintf(name, sizeof(name), "%s, pairs of %s", scenario->name,
                            wants_kills ? "kills" : "failures"));
    struct simcli_campaign campaign = {
        .name = name, .work = pairs_work, .context = pairs, .end_ns = end_ns};
    if (choose(pairs, wants_kills)) {
        campaign.count =
            kelpie__min_u64((uint64_t)pairs->count * (pairs->count - 1) / 2, PAIRS_RUNS_MAX);
        if (!kelpie__simcli_campaign_run(pairs->sweep.simcli, &campaign)) {
            code = KELPIE_SIM_CRASHED;
        }
    }
    printf("%-32s %7llu of %7llu runs, %llu failed, %lld ms%s\n", name,
           (unsigned long long)campaign.done, (unsigned long long)campaign.count,
           (unsigned long long)campaign.failed,
           (long long)((real_now(pairs->sweep.simcli) - begun_ns) / KELPIE_NS_PER_MS),
           campaign.done < campaign.count ? ": the time was up" : "");
    int told = kelpie__simcli_campaign_tell(&campaign, tell_pair, pairs);
    code = code == 0 ? told : code;
    fflush(stdout);
    pairs->sweep.runs += campaign.done;
    pairs->sweep.failed += campaign.failed;
    kelpie__simcli_campaign_release(&campaign);
    free(pairs->chosen);
    pairs->chosen = NULL;
    return code;
}

int kelpie__simcli_pairs(struct simcli *simcli) {
    const struct sim_scenario *only = NULL;
    struct pairs pairs = {.sweep = {.simcli = simcli}};
    int code = 0;
    kelpie__simcli_check(simcli);
    if (!kelpie__simcli_scenario(simcli, &only)) {
        return KELPIE_SIM_USAGE;
    }
    int64_t end_ns = simcli->minutes == 0
                         ? 0
                         : real_now(simcli) + (int64_t)simcli->minutes * 60 * KELPIE_NS_PER_S;
    for (uint32_t kind = 0; kind < 2; kind += 1) { /* all kills first: they are asked for */
        for (uint32_t i = 0; kelpie__sim_scenario(i) != NULL; i += 1) {
            const struct sim_scenario *scenario = kelpie__sim_scenario(i);
            if (only != NULL && only != scenario) {
                continue;
            }
            int one = search_begin(&pairs.sweep, scenario);
            if (one == 0) {
                one = pairs_kind(&pairs, kind == 0, end_ns);
                kelpie__sim_search_end(&pairs.sweep.search);
            }
            code = code == 0 ? one : code;
        }
    }
    printf("%llu runs, %llu failed\n", (unsigned long long)pairs.sweep.runs,
           (unsigned long long)pairs.sweep.failed);
    return code;
}
