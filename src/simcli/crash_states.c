/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim crash-states: the power fails after each call that changes the disk, and every state
 * that the disk may legally be in is met by a fresh client: the VM is there whole, or not at all;
 * what was acknowledged is there; recovering twice leaves what recovering once left; it can be
 * started, over all layers of its disk, and restored from its snapshot. Then the same with a second
 * power loss after each such call of the recovery, in every state again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "simcli/sweep.h"

#define CRASH_PLACES_MAX 4096u /* of one scenario */
#define CRASH_STATES_MAX (1u << 20)

struct crash_state {
    uint32_t place; /* of `places` */
    uint64_t index;
};

/* Of a place with more states than `limit`, so many are met; likewise of a place within recovery,
 * which is looked into after one state in `again_of`. What has many calls has small ones, so that
 * all of them are a part of CI. */
struct crash_subject {
    const char *scenario;
    uint32_t limit;
    uint32_t again_limit;
    uint32_t again_of;
};

struct crash_search {
    struct simcli *simcli;
    const struct crash_subject *subject;
    struct sim_search search;
    enum sim_disk_profile profile;
    uint32_t places[CRASH_PLACES_MAX]; /* calls at whose entry the power fails */
    uint32_t place_count;
    uint32_t counts[CRASH_PLACES_MAX]; /* of states */
    struct crash_state *states;        /* owned */
    uint32_t state_count;
    uint64_t runs;
    uint32_t stride;  /* of the campaign: one state in so many */
    uint64_t limited; /* places with more states than are met */
};

static const struct crash_subject subjects[] = {
    {"create", 512, 2, 32},       {"delete", 512, 2, 32},
    {"start", 16, 2, 16},         {"pause", 16, 2, 16},
    {"stop", 16, 2, 16},          {"kill", 16, 2, 16},
    {"owner", 32, 4, 8},          {"recover", 8, 2, 32},
    {"snapshot", 8, 1, 32},       {"snapshot-disk", 8, 1, 32},
    {"restore", 8, 1, 32},        {"restore-disk", 8, 1, 32},
    {"fork", 8, 1, 32},           {"create-from", 8, 1, 32},
    {"import", 8, 1, 32},         {"snapshot-remove", 16, 2, 16},
    {"delete-running", 32, 2, 8},
};

static void crash_check(const struct crash_search *crash) {
    kelpie__simcli_check(crash->simcli);
    KELPIE_ASSERT(crash->subject != NULL && crash->subject->limit > 0);
    KELPIE_ASSERT(crash->place_count <= CRASH_PLACES_MAX);
    KELPIE_ASSERT(crash->state_count <= CRASH_STATES_MAX);
    KELPIE_ASSERT(crash->states != NULL || crash->state_count == 0);
}

static const char *profile_name(enum sim_disk_profile profile) {
    return profile == SIM_DISK_EXT4 ? "ext4" : "posix";
}

static void rule_of(const struct sim_search *search, uint32_t call,
                    char out[SIM_SEARCH_RULE_BYTES_MAX]) {
    kelpie__sim_search_rule(search, &(struct sim_search_case){call, SIM_SEARCH_POWER_LOSS}, out);
}

static void options_of(const struct crash_search *crash, const char *plan, const uint64_t *indexes,
                       uint32_t count, struct sim_scenario_options *out) {
    crash_check(crash);
    *out = (struct sim_scenario_options){.scenario = crash->search.scenario,
                                         .seed = crash->search.seed,
                                         .plan = plan,
                                         .disk_profile = crash->profile,
                                         .crash_indexes = indexes,
                                         .crash_index_count = count,
                                         .crash_limit = crash->subject->limit,
                                         .is_recovery = true};
}

/* "posix 12 3: RULE; RULE": the disk's profile, which state each power loss leaves, the plan. */
static void write_at(const struct sim_scenario_options *options, char out[SIMCLI_AT_BYTES_MAX]) {
    char second[24] = "";
    KELPIE_ASSERT(options->crash_index_count == 1 || options->crash_index_count == 2);
    if (options->crash_index_count == 2) {
        kelpie__ignore(kelpie__text_format(second, sizeof(second), " %llu",
                                           (unsigned long long)options->crash_indexes[1]));
    }
    bool fits = kelpie__text_format(
        out, SIMCLI_AT_BYTES_MAX, "%s %llu%s: %s", profile_name(options->disk_profile),
        (unsigned long long)options->crash_indexes[0], second, options->plan);
    KELPIE_ASSERT(fits);
}

static void run_options(const struct sim_scenario_options *options, struct simcli_outcome *out,
                        struct sim_scenario_result *result) {
    kelpie__sim_scenario_run(options, result);
    out->flags |= result->run.faults_fired > 0 ? SIMCLI_RUN_FIRED : 0u;
    if (result->run.verdict != KELPIE_SIM_PASS && out->verdict == KELPIE_SIM_PASS) {
        out->verdict = result->run.verdict;
        memcpy(out->reason, result->run.reason, sizeof(out->reason));
        write_at(options, out->at);
    }
    kelpie__sim_scenario_release(result);
}

/* The calls after which the disk may be another one than before: the entry of whichever call is the
 * next. */
static uint32_t list_places(const struct sim_search *search, bool is_of_looking, uint32_t *out) {
    uint32_t count = 0;
    uint32_t birth = 0; /* of the first that looks: what it left, the second compares */
    bool is_changed = true;
    KELPIE_ASSERT(search->call_count == 0 || search->calls != NULL);
    for (uint32_t i = 0; i < search->call_count && count < CRASH_PLACES_MAX; i += 1) {
        const struct sim_search_call *call = &search->calls[i];
        bool is_ours = is_of_looking ? call->is_of_looking : call->is_of_operation;
        birth = is_ours && birth == 0 ? call->birth : birth;
        bool is_other = is_of_looking && call->birth != birth;
        if (!is_ours || is_other || strcmp(call->role, "agent") == 0) {
            continue;
        }
        if (is_changed) {
            out[count] = i;
            count += 1;
        }
        is_changed = kelpie__sim_search_is_mutating(call->op);
    }
    return count;
}

/* ---- one power loss -------------------------------------------------------------------------- */

/* Nothing that is pending survives; says how many states there are. */
static void probe(void *context, uint64_t index, struct sim_nursery *nursery,
                  struct simcli_outcome *out) {
    const struct crash_search *crash = context;
    const uint64_t first = 0;
    char rule[SIM_SEARCH_RULE_BYTES_MAX];
    struct sim_scenario_options options;
    struct sim_scenario_result result;
    crash_check(crash);
    rule_of(&crash->search, crash->places[index], rule);
    options_of(crash, rule, &first, 1, &options);
    options.nursery = nursery;
    run_options(&options, out, &result);
    out->value = (uint32_t)result.crash_counts[0];
}

static void meet(void *context, uint64_t index, struct sim_nursery *nursery,
                 struct simcli_outcome *out) {
    const struct crash_search *crash = context;
    char rule[SIM_SEARCH_RULE_BYTES_MAX];
    struct sim_scenario_options options;
    struct sim_scenario_result result;
    crash_check(crash);
    rule_of(&crash->search, crash->places[crash->states[index].place], rule);
    options_of(crash, rule, &crash->states[index].index, 1, &options);
    options.nursery = nursery;
    run_options(&options, out, &result);
}

/* ---- and another one during recovery --------------------------------------------------------- */

static void meet_again(const struct sim_scenario_options *options, uint64_t first, uint32_t limit,
                       struct simcli_outcome *out) {
    KELPIE_ASSERT(options->is_recovery && options->crash_limit > 1);
    uint64_t indexes[2] = {first, 0};
    struct sim_scenario_options again = *options;
    struct sim_scenario_result result;
    uint64_t count = 1;
    again.crash_indexes = indexes;
    again.crash_index_count = 2;
    for (uint64_t i = 0; i < count && out->verdict == KELPIE_SIM_PASS; i += 1) {
        indexes[1] = i;
        run_options(&again, out, &result);
        out->value += 1;
        if (i == 0) { /* as many as there are, at most so many */
            count = kelpie__min_u64(result.crash_counts[1], limit);
        }
    }
}

static void recover(void *context, uint64_t index, struct sim_nursery *nursery,
                    struct simcli_outcome *out) {
    const struct crash_search *crash = context;
    char first[SIM_SEARCH_RULE_BYTES_MAX];
    char second[SIM_SEARCH_RULE_BYTES_MAX];
    char plan[2 * SIM_SEARCH_RULE_BYTES_MAX + 8];
    crash_check(crash);
    index *= crash->stride;
    KELPIE_ASSERT(index < crash->state_count);
    struct sim_search recovery;
    struct sim_scenario_options options;
    const struct crash_state *state = &crash->states[index];
    uint32_t *places = calloc(CRASH_PLACES_MAX, sizeof(*places));
    rule_of(&crash->search, crash->places[state->place], first);
    options_of(crash, first, &state->index, 1, &options);
    options.nursery = nursery;
    out->verdict = kelpie__sim_search_begin(&recovery, &options, out->reason);
    bool is_good = out->verdict == KELPIE_SIM_PASS && places != NULL;
    uint32_t count = is_good ? list_places(&recovery, true, places) : 0;
    for (uint32_t i = 0; i < count && out->verdict == KELPIE_SIM_PASS; i += 1) {
        rule_of(&recovery, places[i], second);
        kelpie__ignore(snprintf(plan, sizeof(plan), "%s; %s", first, second));
        options.plan = plan;
        meet_again(&options, state->index, crash->subject->again_limit, out);
    }
    kelpie__sim_search_end(&recovery);
    free(places);
}

/* ---- a scenario ------------------------------------------------------------------------------ */

/* One whose process has ended could not say which state it was. */
static void tell_place(void *context, const struct simcli_failure *first, uint32_t count) {
    const struct crash_search *crash = context;
    char rule[SIM_SEARCH_RULE_BYTES_MAX];
    char at[SIMCLI_AT_BYTES_MAX];
    bool is_probe = crash->state_count == 0;
    uint64_t index = first->index * crash->stride;
    crash_check(crash);
    KELPIE_ASSERT(count > 0 && index < (is_probe ? crash->place_count : crash->state_count));
    uint32_t place = is_probe ? (uint32_t)index : crash->states[index].place;
    uint64_t state = is_probe ? 0 : crash->states[index].index;
    struct sim_scenario_options options;
    rule_of(&crash->search, crash->places[place], rule);
    options_of(crash, rule, &state, 1, &options);
    write_at(&options, at);
    kelpie__simcli_tell_failure("crash-states", crash->search.scenario,
                                first->outcome.at[0] != '\0' ? first->outcome.at : at,
                                &first->outcome, count);
}

/* 0 or the verdict of the first that failed. */
static int campaign(struct crash_search *crash, const char *what, uint64_t count, simcli_work work,
                    struct simcli_campaign *out) {
    crash_check(crash);
    *out = (struct simcli_campaign){.name = what, .count = count, .work = work, .context = crash};
    if (!kelpie__simcli_campaign_run(crash->simcli, out)) {
        return KELPIE_SIM_CRASHED;
    }
    return kelpie__simcli_campaign_tell(out, tell_place, crash);
}

static bool list_states(struct crash_search *crash, const struct simcli_campaign *probes) {
    crash_check(crash);
    crash->states = calloc(CRASH_STATES_MAX, sizeof(*crash->states));
    for (uint32_t i = 0; crash->states != NULL && i < crash->place_count; i += 1) {
        crash->counts[i] = probes->notes[i].value;
        crash->limited += crash->counts[i] >= crash->subject->limit ? 1 : 0;
        for (uint32_t j = 0; j < crash->counts[i] && crash->state_count < CRASH_STATES_MAX;
             j += 1) {
            crash->states[crash->state_count] = (struct crash_state){i, j};
            crash->state_count += 1;
        }
    }
    return crash->states != NULL;
}

static int search_states(struct crash_search *crash) {
    struct simcli_campaign probes;
    struct simcli_campaign met = {0};
    struct simcli_campaign again = {0};
    uint64_t recovered = 0;
    crash_check(crash);
    crash->place_count = list_places(&crash->search, false, crash->places);
    int code = campaign(crash, "places", crash->place_count, probe, &probes);
    if (code == 0 && !list_states(crash, &probes)) {
        code = KELPIE_SIM_CRASHED;
    }
    if (code == 0) {
        code = campaign(crash, "states", crash->state_count, meet, &met);
    }
    if (code == 0) {
        uint32_t of = crash->subject->again_of;
        crash->stride = of;
        code = campaign(crash, "states, then a crash in recovery",
                        (crash->state_count + of - 1) / of, recover, &again);
    }
    for (uint64_t i = 0; again.notes != NULL && i < again.count; i += 1) {
        recovered += again.notes[i].value;
    }
    printf("%-14s %-5s %4u places, %6u states, %7llu states after a crash in recovery%s: %s\n",
           crash->search.scenario->name, profile_name(crash->profile), crash->place_count,
           crash->state_count, (unsigned long long)recovered,
           crash->limited > 0 ? " (some places have more than are met)" : "",
           code == 0 ? "pass" : "FAIL");
    fflush(stdout);
    crash->runs += probes.done + met.done + recovered;
    kelpie__simcli_campaign_release(&probes);
    kelpie__simcli_campaign_release(&met);
    kelpie__simcli_campaign_release(&again);
    return code;
}

static int search_scenario(struct simcli *simcli, const struct crash_subject *subject,
                           enum sim_disk_profile profile) {
    const struct sim_scenario *scenario = kelpie__sim_scenario_find(subject->scenario);
    char reason[SIM_RUN_REASON_BYTES_MAX];
    const struct sim_scenario_options options = {
        .scenario = scenario, .seed = simcli->seed_first, .disk_profile = profile, .is_calm = true};
    struct crash_search *crash = calloc(1, sizeof(*crash));
    kelpie__simcli_check(simcli);
    if (crash == NULL) {
        return KELPIE_SIM_CRASHED;
    }
    crash->simcli = simcli;
    crash->subject = subject;
    crash->stride = 1;
    crash->profile = profile;
    int code = (int)kelpie__sim_search_begin(&crash->search, &options, reason);
    if (code == 0) {
        code = search_states(crash);
    } else {
        printf("%-14s FAIL without any crash: %s\n", scenario->name, reason);
    }
    kelpie__sim_search_end(&crash->search);
    free(crash->states);
    free(crash);
    return code;
}

/* ---- one state again ------------------------------------------------------------------------- */

static bool read_number(const char **inout, uint64_t *out) {
    char number[24] = "";
    size_t digits = strspn(*inout, "0123456789");
    if (digits == 0 || digits >= sizeof(number)) {
        return false;
    }
    memcpy(number, *inout, digits);
    *inout += digits;
    KELPIE_ASSERT(number[digits] == '\0');
    return kelpie__text_u64(number, out);
}

/* What write_at wrote. */
static bool read_at(const char *text, uint64_t indexes[2], struct sim_scenario_options *out) {
    const char *at = text;
    bool is_ext4 = kelpie__text_has_prefix(at, "ext4 ");
    KELPIE_ASSERT(out->scenario != NULL && out->crash_index_count == 0);
    if (!is_ext4 && !kelpie__text_has_prefix(at, "posix ")) {
        return false;
    }
    at += strcspn(at, " ");
    out->disk_profile = is_ext4 ? SIM_DISK_EXT4 : SIM_DISK_POSIX;
    for (uint32_t i = 0; i < 2 && *at == ' '; i += 1) {
        at += 1;
        if (!read_number(&at, &indexes[i])) {
            return false;
        }
        out->crash_index_count += 1;
    }
    out->crash_indexes = indexes;
    out->plan = at + 2;
    return out->crash_index_count > 0 && kelpie__text_has_prefix(at, ": ") && at[2] != '\0';
}

static int run_at(struct simcli *simcli, const struct sim_scenario *only) {
    uint64_t indexes[2] = {0};
    struct sim_scenario_options options = {
        .scenario = only, .seed = simcli->seed_first, .is_recovery = true};
    for (size_t i = 0; only != NULL && i < KELPIE_ARRAY_COUNT(subjects); i += 1) {
        bool is_it = strcmp(subjects[i].scenario, only->name) == 0;
        options.crash_limit = is_it ? subjects[i].limit : options.crash_limit;
    }
    kelpie__simcli_check(simcli);
    if (only == NULL || options.crash_limit == 0 || !read_at(simcli->at, indexes, &options)) {
        fprintf(stderr,
                "kelpie-sim: --at \"%s\" is not understood; expected kelpie-sim "
                "crash-states SCENARIO --at 'ext4 STATE: RULE', or posix; with two "
                "power losses 'ext4 STATE STATE: RULE; RULE'\n",
                simcli->at);
        return KELPIE_SIM_USAGE;
    }
    return kelpie__simcli_run_at(simcli, &options);
}

int kelpie__simcli_crash_states(struct simcli *simcli) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    const struct sim_scenario *only = NULL;
    int code = 0;
    uint32_t count = 0;
    kelpie__simcli_check(simcli);
    if (!kelpie__simcli_scenario(simcli, &only)) {
        return KELPIE_SIM_USAGE;
    }
    if (simcli->at != NULL) {
        return run_at(simcli, only);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(subjects); i += 1) {
        const struct sim_scenario *scenario = kelpie__sim_scenario_find(subjects[i].scenario);
        for (size_t j = 0; j < KELPIE_ARRAY_COUNT(profiles); j += 1) {
            if (only == NULL || only == scenario) {
                int one = search_scenario(simcli, &subjects[i], profiles[j]);
                code = code == 0 ? one : code;
                count += 1;
            }
        }
    }
    if (count == 0) {
        fprintf(stderr, "kelpie-sim: scenario %s changes nothing on the disk\n", only->name);
        return KELPIE_SIM_USAGE;
    }
    return code;
}
