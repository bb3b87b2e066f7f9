/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A failing run made small: first faults, then VMs, then operations and what they wait for, then
 * the schedule; once more what that made superfluous. A part counts when the same invariant breaks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "sim/shrink.h"
#include "simcli/simcli.h"

#define SHRINKING_BIRTH_WORD " birth="

struct shrinking {
    struct simcli *simcli;
    struct sim_case *own;                /* as small as it is so far */
    const struct sim_run_result *failed; /* what it has to do */
    struct sim_operation *tried;         /* owned: room for as many as the case has */
    uint32_t *chosen;                    /* owned: likewise */
    uint32_t *groups;                    /* owned: likewise */
    struct sim_shrink_budget budget;
    uint32_t runs;
};

/* "invariant 4: ..." is the same failure whoever it happened to. */
static size_t kind_length(const char *reason) {
    const char *colon = strchr(reason, ':');
    return colon == NULL ? strlen(reason) : (size_t)(colon - reason);
}

static bool is_the_same(const struct sim_run_result *one, const struct sim_run_result *other) {
    return one->verdict == other->verdict &&
           kind_length(one->reason) == kind_length(other->reason) &&
           strncmp(one->reason, other->reason, kind_length(one->reason)) == 0;
}

static enum sim_shrink_verdict try_case(struct shrinking *shrinking, const struct sim_case *tried) {
    struct sim_run_options options;
    struct sim_run_result result;
    KELPIE_ASSERT(tried->operations != NULL && tried->plan != NULL);
    if (tried->operation_count == 0) {
        return SIM_SHRINK_PASSES; /* as a text it would stand for those that the seed draws */
    }
    kelpie__sim_case_options(tried, &options);
    options.nursery = shrinking->simcli->nursery;
    kelpie__sim_run(&options, &result);
    shrinking->runs += 1;
    enum sim_shrink_verdict verdict =
        is_the_same(&result, shrinking->failed) ? SIM_SHRINK_FAILS_THE_SAME
        : result.verdict == KELPIE_SIM_PASS     ? SIM_SHRINK_PASSES
                                                : SIM_SHRINK_FAILS_OTHERWISE;
    kelpie__sim_run_release(&result);
    return verdict;
}

static bool is_spent(const struct shrinking *shrinking) {
    return shrinking->runs >= SIM_SHRINK_RUNS_MAX ||
           kelpie__os_now(shrinking->budget.os, KELPIE_OS_CLOCK_MONOTONIC) >=
               shrinking->budget.deadline_ns;
}

/* A change of the case that stays when it fails the same. */
static bool try_change(struct shrinking *shrinking, const struct sim_case *changed) {
    return !is_spent(shrinking) && try_case(shrinking, changed) == SIM_SHRINK_FAILS_THE_SAME;
}

/* ---- faults and operations ------------------------------------------------------------------- */

static enum sim_shrink_verdict run_part(void *context, const char *plan, const uint32_t *operations,
                                        uint32_t operation_count) {
    struct shrinking *shrinking = context;
    struct sim_case part = *shrinking->own;
    KELPIE_ASSERT(operation_count <= shrinking->own->operation_count);
    for (uint32_t i = 0; i < operation_count; i += 1) {
        shrinking->tried[i] = shrinking->own->operations[operations[i]];
    }
    part.operations = shrinking->tried;
    part.operation_count = operation_count;
    part.plan = (char *)(uintptr_t)plan; /* only read */
    return try_case(shrinking, &part);
}

/* False: the whole does not fail as it should. */
static bool shrink_parts(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_shrink_case shrunk = {own->plan, shrinking->chosen, own->operation_count,
                                     shrinking->groups};
    struct sim_shrink_result result = {0};
    if (is_spent(shrinking)) {
        return true;
    }
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        shrinking->chosen[i] = i;
        shrinking->groups[i] = own->operations[i].vm;
    }
    shrinking->budget.runs_max = SIM_SHRINK_RUNS_MAX - shrinking->runs;
    kelpie__sim_shrink_case(&shrunk, run_part, shrinking, &shrinking->budget, &result);
    for (uint32_t i = 0; i < shrunk.operation_count; i += 1) {
        KELPIE_ASSERT(shrinking->chosen[i] >= i);
        own->operations[i] = own->operations[shrinking->chosen[i]];
    }
    KELPIE_ASSERT(shrunk.operation_count <= own->operation_count);
    own->operation_count = shrunk.operation_count;
    return result.is_confirmed;
}

/* A fault of "the world's 12th process" is another's as soon as a VM is left out: where it may be
 * every process's of its role, it is. */
static void relax_births(struct shrinking *shrinking) {
    char *plan = malloc(strlen(shrinking->own->plan) + 1);
    size_t from = 0;
    while (plan != NULL) { /* bound: `from` rises to the end of the plan */
        const char *found = strstr(shrinking->own->plan + from, SHRINKING_BIRTH_WORD);
        if (found == NULL) {
            break;
        }
        size_t before = (size_t)(found - shrinking->own->plan);
        const char *rest = found + 1 + strcspn(found + 1, " \n");
        KELPIE_ASSERT(rest > found);
        memcpy(plan, shrinking->own->plan, before);
        memcpy(plan + before, rest, strlen(rest) + 1);
        struct sim_case changed = *shrinking->own;
        changed.plan = plan;
        if (try_change(shrinking, &changed)) {
            memcpy(shrinking->own->plan, plan, strlen(plan) + 1);
        }
        from = before + 1;
    }
    free(plan);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void without_rest(struct sim_operation *operation) {
    operation->rest_ms = 0;
}

static void without_herd(struct sim_operation *operation) {
    operation->herd = 0;
}

static void by_one_client(struct sim_operation *operation) {
    operation->client = 0;
}

/* Each operation alone. */
static bool simplify(struct shrinking *shrinking, void (*change)(struct sim_operation *operation)) {
    bool has_changed = false;
    KELPIE_ASSERT(shrinking->own->operations != NULL);
    for (uint32_t i = 0; i < shrinking->own->operation_count; i += 1) {
        struct sim_operation *operation = &shrinking->own->operations[i];
        const struct sim_operation before = *operation;
        change(operation);
        if (memcmp(&before, operation, sizeof(before)) == 0) {
            continue;
        }
        if (try_change(shrinking, shrinking->own)) {
            has_changed = true;
        } else {
            *operation = before;
        }
    }
    return has_changed;
}

static bool make_plain(struct shrinking *shrinking) {
    struct sim_case changed = *shrinking->own;
    changed.is_plain = true;
    bool has_changed = !shrinking->own->is_plain && try_change(shrinking, &changed);
    shrinking->own->is_plain = shrinking->own->is_plain || has_changed;
    return has_changed;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The operations that the seed draws, as a list of the case's own. */
static bool own_operations(struct sim_case *own) {
    struct sim_run_options options;
    struct sim_swarm swarm;
    if (own->operations != NULL) {
        return true;
    }
    kelpie__sim_case_options(own, &options);
    kelpie__sim_run_swarm(&options, &swarm);
    own->operations = calloc(SIM_OPERATION_MAX, sizeof(*own->operations));
    if (own->operations == NULL) {
        return false;
    }
    own->operation_count = kelpie__sim_workload_draw(&swarm, own->operations, SIM_OPERATION_MAX);
    KELPIE_ASSERT(own->operation_count > 0);
    return true;
}

static uint32_t count_rules(const char *plan) {
    uint32_t count = 0;
    for (const char *at = strstr(plan, "=>"); at != NULL; at = strstr(at + 1, "=>")) {
        count += 1;
    }
    return count;
}

static bool shrink_all(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case first = *own;
    if (try_case(shrinking, &first) != SIM_SHRINK_FAILS_THE_SAME) {
        return false;
    }
    /* Most faults go while all operations are there, so that the rest can be told whose it is. */
    uint32_t operation_count = own->operation_count;
    KELPIE_ASSERT(operation_count > 0);
    kelpie__ignore(make_plain(shrinking));
    if (!shrink_parts(shrinking)) {
        return false;
    }
    relax_births(shrinking);
    bool has_changed = simplify(shrinking, without_rest);
    has_changed = simplify(shrinking, without_herd) || has_changed;
    has_changed = simplify(shrinking, by_one_client) || has_changed;
    has_changed = make_plain(shrinking) || has_changed;
    KELPIE_ASSERT(own->operation_count <= operation_count);
    return shrink_parts(shrinking);
}

bool kelpie__simcli_shrink_case(struct simcli *simcli, struct sim_case *inout,
                                const struct sim_run_result *failed, struct simcli_shrunk *out) {
    int64_t begun_ns = kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
    struct shrinking shrinking = {
        .simcli = simcli,
        .own = inout,
        .failed = failed,
        .tried = calloc(SIM_OPERATION_MAX, sizeof(*shrinking.tried)),
        .chosen = calloc(SIM_OPERATION_MAX, sizeof(*shrinking.chosen)),
        .groups = calloc(SIM_OPERATION_MAX, sizeof(*shrinking.groups)),
        .budget = {.os = simcli->os, .deadline_ns = begun_ns + SIM_SHRINK_TIME_NS}};
    bool is_small = shrinking.tried != NULL && shrinking.chosen != NULL &&
                    shrinking.groups != NULL && own_operations(inout) && shrink_all(&shrinking);
    free(shrinking.tried);
    free(shrinking.chosen);
    free(shrinking.groups);
    KELPIE_ASSERT(inout->operation_count <= SIM_OPERATION_MAX);
    *out = (struct simcli_shrunk){.faults = count_rules(inout->plan),
                                  .operations = inout->operation_count,
                                  .runs = shrinking.runs,
                                  .real_ns = kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC) -
                                             begun_ns};
    return is_small;
}
