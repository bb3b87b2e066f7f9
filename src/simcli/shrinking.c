/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A failing run made small. What was never begun goes; every operation gets the time at which it
 * was begun, and every fault a name that does not depend on what else there is (relax.h); then VMs,
 * faults and operations go (sim/shrink.h), what they wait for, and the schedule. A part counts when
 * the same invariant breaks. Each attempt is a process of its own, so that crashes are made small,
 * too, and is cut when it takes much longer than what is known to fail.
 */
#include "simcli/shrinking.h"

#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "simcli/jobs.h"

#define SHRINKING_RULE_WORD "=>"
#define SHRINKING_GOOD_SIZE 10u /* of faults and operations: small enough to be understood */
#define SHRINKING_ROUNDS_MAX 4u
#define SHRINKING_CALLS_MORE 3000u
#define SHRINKING_TIMED_RUNS (SIM_SHRINK_RUNS_MAX / 5 * 3) /* at most, of all */
#define SHRINKING_TIMED_NS (SIM_SHRINK_TIME_NS / 5 * 3)    /* likewise */

/* "invariant 4: ..." is the same failure whoever it happened to; one without a colon is told by its
 * words, but for numbers; a crash by its assertion. */
static bool is_the_same(const struct sim_run_result *one, const struct sim_run_result *other) {
    const char *colon = strchr(one->reason, ':');
    size_t length = colon == NULL ? 0 : (size_t)(colon - one->reason) + 1;
    KELPIE_ASSERT(length < sizeof(one->reason));
    if (one->verdict != other->verdict) {
        return false;
    }
    return length > 0 && one->verdict != KELPIE_SIM_CRASHED
               ? strncmp(one->reason, other->reason, length) == 0
               : kelpie__simcli_is_same_kind(one->reason, other->reason);
}

/* begun_ns: when its operations were begun; NULL: nobody asks. */
static enum sim_shrink_verdict try_timed(struct shrinking *shrinking, const struct sim_case *tried,
                                         int64_t *begun_ns) {
    struct simcli_attempt attempt = {.begun_ns = begun_ns};
    struct sim_run_result result;
    KELPIE_ASSERT(tried->operations != NULL && tried->plan != NULL);
    if (tried->operation_count == 0) {
        return SIM_SHRINK_PASSES; /* as a text it would stand for those that the seed draws */
    }
    kelpie__sim_case_options(tried, &attempt.options);
    attempt.options.nursery = shrinking->simcli->nursery;
    attempt.calls_max = shrinking->calls == 0 ? 0 : shrinking->calls * 5 / 4 + SHRINKING_CALLS_MORE;
    kelpie__simcli_attempt(&shrinking->attempts, &attempt, &result);
    shrinking->runs += 1;
    enum sim_shrink_verdict verdict =
        is_the_same(&result, shrinking->failed) ? SIM_SHRINK_FAILS_THE_SAME
        : result.verdict == KELPIE_SIM_PASS || result.verdict == KELPIE_SIM_VACUOUS
            ? SIM_SHRINK_PASSES
            : SIM_SHRINK_FAILS_OTHERWISE;
    if (verdict == SIM_SHRINK_FAILS_THE_SAME) {
        shrinking->calls = result.calls;
        shrinking->last_ns = result.virtual_ns;
        memcpy(shrinking->last_reason, result.reason, sizeof(shrinking->last_reason));
    }
    kelpie__sim_run_release(&result);
    return verdict;
}

static enum sim_shrink_verdict try_case(struct shrinking *shrinking, const struct sim_case *tried) {
    return try_timed(shrinking, tried, NULL);
}

static bool is_spent(const struct shrinking *shrinking) {
    return shrinking->runs >= shrinking->runs_max ||
           kelpie__os_now(shrinking->budget.os, KELPIE_OS_CLOCK_MONOTONIC) >=
               shrinking->budget.deadline_ns;
}

bool kelpie__simcli_shrinking_try_change(struct shrinking *shrinking,
                                         const struct sim_case *changed) {
    return !is_spent(shrinking) && try_case(shrinking, changed) == SIM_SHRINK_FAILS_THE_SAME;
}

static void set_rest(struct shrinking *shrinking) {
    KELPIE_ASSERT(!is_spent(shrinking) || shrinking->runs_max > 0);
    shrinking->budget.runs_max =
        shrinking->runs < shrinking->runs_max ? shrinking->runs_max - shrinking->runs : 1;
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

static void shrink_parts(struct shrinking *shrinking, bool has_groups_first) {
    struct sim_case *own = shrinking->own;
    struct sim_shrink_case shrunk = {own->plan, shrinking->chosen, own->operation_count,
                                     shrinking->groups, has_groups_first};
    struct sim_shrink_result result = {0};
    kelpie__simcli_shrinking_check(shrinking);
    if (is_spent(shrinking)) {
        return;
    }
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        shrinking->chosen[i] = i;
        shrinking->groups[i] = own->operations[i].vm;
    }
    set_rest(shrinking);
    kelpie__sim_shrink_case(&shrunk, run_part, shrinking, &shrinking->budget, &result);
    for (uint32_t i = 0; i < shrunk.operation_count; i += 1) {
        KELPIE_ASSERT(shrinking->chosen[i] >= i);
        own->operations[i] = own->operations[shrinking->chosen[i]];
    }
    KELPIE_ASSERT(shrunk.operation_count <= own->operation_count);
    own->operation_count = shrunk.operation_count;
}

static bool plan_fails(void *context, const char *plan) {
    struct shrinking *shrinking = context;
    struct sim_case changed = *shrinking->own;
    changed.plan = (char *)(uintptr_t)plan; /* only read */
    return try_case(shrinking, &changed) == SIM_SHRINK_FAILS_THE_SAME;
}

static void shrink_rules(struct shrinking *shrinking) {
    kelpie__simcli_shrinking_check(shrinking);
    if (is_spent(shrinking)) {
        return;
    }
    set_rest(shrinking);
    kelpie__ignore(
        kelpie__sim_shrink_plan(shrinking->own->plan, plan_fails, shrinking, &shrinking->budget));
}

/* ---- whose a fault is ------------------------------------------------------------------------ */

uint32_t kelpie__simcli_shrinking_count_rules(const char *plan, const char *word) {
    uint32_t count = 0;
    for (const char *at = strstr(plan, word); at != NULL; at = strstr(at + 1, word)) {
        count += 1;
    }
    return count;
}

/* ---- times -----------------------------------------------------------------------------------
 */

/* The operations that were begun, of which `begun_ns` tells, alone. */
static void drop_unbegun(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case changed = *own;
    kelpie__simcli_shrinking_check(shrinking);
    changed.operations = shrinking->tried;
    changed.operation_count = 0;
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        if (shrinking->begun_ns[i] > 0) {
            shrinking->tried[changed.operation_count] = own->operations[i];
            changed.operation_count += 1;
        }
    }
    KELPIE_ASSERT(changed.operation_count <= own->operation_count);
    if (changed.operation_count < own->operation_count &&
        kelpie__simcli_shrinking_try_change(shrinking, &changed)) {
        memcpy(own->operations, shrinking->tried,
               changed.operation_count * sizeof(*own->operations));
        own->operation_count = changed.operation_count;
    }
}

/* Every operation at the time at which it was begun, so that leaving one out moves no other. */
static void fix_times(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case fixed = *own;
    kelpie__simcli_shrinking_check(shrinking);
    KELPIE_ASSERT(own->operation_count <= SIM_OPERATION_MAX);
    if (is_spent(shrinking) ||
        try_timed(shrinking, own, shrinking->begun_ns) != SIM_SHRINK_FAILS_THE_SAME) {
        return;
    }
    fixed.operations = shrinking->tried;
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        shrinking->tried[i] = own->operations[i];
        shrinking->tried[i].at_ns = shrinking->begun_ns[i];
    }
    if (kelpie__simcli_shrinking_try_change(shrinking, &fixed)) {
        memcpy(own->operations, shrinking->tried, own->operation_count * sizeof(*own->operations));
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

static void without_time(struct sim_operation *operation) {
    operation->at_ns = 0;
}

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
        if (kelpie__simcli_shrinking_try_change(shrinking, shrinking->own)) {
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
    bool has_changed =
        !shrinking->own->is_plain && kelpie__simcli_shrinking_try_change(shrinking, &changed);
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

/* What nothing waits for, one client does, and comes as it comes. */
static void simplify_all(struct shrinking *shrinking) {
    kelpie__simcli_shrinking_check(shrinking);
    kelpie__ignore(simplify(shrinking, without_time));
    kelpie__ignore(simplify(shrinking, without_rest));
    kelpie__ignore(simplify(shrinking, without_herd));
    kelpie__ignore(simplify(shrinking, by_one_client));
    kelpie__ignore(make_plain(shrinking));
}

static uint32_t size_of(const struct sim_case *measured) {
    return kelpie__simcli_shrinking_count_rules(measured->plan, SHRINKING_RULE_WORD) +
           measured->operation_count;
}

/* As long as it becomes smaller; `has_values`: also by what operations wait for and who does them,
 * which ties them to each other where they had times. */
static void shrink_round(struct shrinking *shrinking, bool has_values) {
    uint32_t size = size_of(shrinking->own) + 1;
    kelpie__simcli_shrinking_check(shrinking);
    for (uint32_t i = 0; i < SHRINKING_ROUNDS_MAX && size_of(shrinking->own) < size; i += 1) {
        size = size_of(shrinking->own);
        kelpie__simcli_shrinking_relax_rules(shrinking); /* what was in the way may have gone */
        kelpie__simcli_shrinking_drop_vms(shrinking);
        if (has_values) {
            simplify_all(shrinking);
        }
        shrink_parts(shrinking, false);
    }
}

static void shrink_rest(struct shrinking *shrinking) {
    kelpie__simcli_shrinking_check(shrinking);
    shrink_round(shrinking, false);
    if (size_of(shrinking->own) > SHRINKING_GOOD_SIZE &&
        kelpie__simcli_shrinking_keep_one_vm(shrinking)) {
        shrink_round(shrinking, false);
    }
    shrink_round(shrinking, true);
}

/* False: it does not fail as it should. */
static bool shrink_once(struct shrinking *shrinking, bool has_times) {
    kelpie__simcli_shrinking_check(shrinking);
    shrinking->calls = 0;
    if (try_timed(shrinking, shrinking->own, shrinking->begun_ns) != SIM_SHRINK_FAILS_THE_SAME) {
        return false;
    }
    drop_unbegun(shrinking);
    kelpie__ignore(make_plain(shrinking));
    if (has_times) {
        fix_times(shrinking);
    }
    bool is_relaxed = has_times && kelpie__simcli_shrinking_relax_all(shrinking);
    if (!is_relaxed) {
        /* Most faults go while all operations are there: the rest can be told whose it is. */
        shrink_rules(shrinking);
        is_relaxed = has_times && kelpie__simcli_shrinking_relax_all(shrinking);
    }
    if (!is_relaxed) {
        kelpie__simcli_shrinking_relax_rules(shrinking);
    }
    shrink_parts(shrinking, is_relaxed);
    shrink_rest(shrinking);
    KELPIE_ASSERT(shrinking->own->operation_count > 0);
    return true;
}

static bool copy_case(struct sim_case *out, const struct sim_case *from) {
    KELPIE_ASSERT(from->plan != NULL && from->operation_count <= SIM_OPERATION_MAX);
    *out = *from;
    out->plan = malloc(strlen(from->plan) + 1);
    out->operations = calloc(SIM_OPERATION_MAX, sizeof(*out->operations));
    if (out->plan == NULL || out->operations == NULL) {
        kelpie__sim_case_release(out);
        return false;
    }
    memcpy(out->plan, from->plan, strlen(from->plan) + 1);
    memcpy(out->operations, from->operations, from->operation_count * sizeof(*out->operations));
    return true;
}

/* The smaller of the two is the one to go on with. */
static void keep_smaller(struct shrinking *shrinking, struct sim_case *own,
                         struct sim_case *other) {
    kelpie__simcli_shrinking_check(shrinking);
    shrinking->own = own;
    if (size_of(other) < size_of(own)) {
        const struct sim_case larger = *own;
        *own = *other;
        *other = larger;
    }
    KELPIE_ASSERT(size_of(own) <= size_of(other));
}

static bool is_good(const struct shrinking *shrinking, const struct sim_case *own) {
    return size_of(own) <= SHRINKING_GOOD_SIZE || is_spent(shrinking);
}

/* From what is left: one VM alone; seen by a look of its own; then with no fixed times, which keeps
 * the calls' numbers. */
static void shrink_again(struct shrinking *shrinking, struct sim_case *own) {
    struct sim_case other;
    kelpie__simcli_shrinking_check(shrinking);
    for (uint32_t way = 0; way < 3 && !is_good(shrinking, own); way += 1) {
        if (!copy_case(&other, own)) {
            return;
        }
        shrinking->own = &other;
        bool is_changed = way == 0   ? kelpie__simcli_shrinking_keep_one_vm(shrinking)
                          : way == 1 ? kelpie__simcli_shrinking_try_change(shrinking, &other) &&
                                           kelpie__simcli_shrinking_add_look(shrinking)
                                     : false;
        if (is_changed) {
            shrink_rest(shrinking);
        } else if (way == 2) {
            kelpie__ignore(shrink_once(shrinking, false));
        }
        keep_smaller(shrinking, own, &other);
        kelpie__sim_case_release(&other);
    }
}

/* From the beginning, on a copy of the case. */
static void shrink_anew(struct shrinking *shrinking, struct sim_case *own,
                        const struct sim_case *first, bool has_times) {
    struct sim_case other;
    if (is_good(shrinking, own) || !copy_case(&other, first)) {
        return;
    }
    shrinking->own = &other;
    if (shrink_once(shrinking, has_times)) {
        keep_smaller(shrinking, own, &other);
    }
    shrinking->own = own;
    kelpie__sim_case_release(&other);
}

/* With the times fixed, which keeps races, and faults by their times; where that leaves much,
 * faults by their numbers; then from there in other ways, and at last from the beginning without
 * times. The smallest one counts. */
static bool shrink_all(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case first;
    int64_t deadline_ns = shrinking->budget.deadline_ns;
    KELPIE_ASSERT(shrinking->runs == 0);
    if (!copy_case(&first, own)) {
        return false;
    }
    shrinking->runs_max = SHRINKING_TIMED_RUNS;
    shrinking->budget.deadline_ns -= SIM_SHRINK_TIME_NS - SHRINKING_TIMED_NS;
    bool is_confirmed = shrink_once(shrinking, true);
    shrinking->runs_max = SIM_SHRINK_RUNS_MAX;
    shrinking->budget.deadline_ns = deadline_ns;
    if (is_confirmed) {
        shrinking->is_by_number = true;
        shrink_anew(shrinking, own, &first, true);
        shrink_again(shrinking, own);
        shrink_anew(shrinking, own, &first, false);
    }
    kelpie__sim_case_release(&first);
    return is_confirmed;
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
        .begun_ns = calloc(SIM_OPERATION_MAX, sizeof(*shrinking.begun_ns)),
        .budget = {.os = simcli->os, .deadline_ns = begun_ns + SIM_SHRINK_TIME_NS}};
    bool is_small = kelpie__simcli_attempts_open(&shrinking.attempts);
    kelpie__simcli_check(simcli);
    is_small = is_small && shrinking.tried != NULL && shrinking.chosen != NULL &&
               shrinking.groups != NULL && shrinking.begun_ns != NULL && own_operations(inout) &&
               shrink_all(&shrinking);
    kelpie__simcli_attempts_close(&shrinking.attempts);
    free(shrinking.tried);
    free(shrinking.chosen);
    free(shrinking.groups);
    free(shrinking.begun_ns);
    KELPIE_ASSERT(inout->operation_count <= SIM_OPERATION_MAX);
    *out = (struct simcli_shrunk){
        .faults = kelpie__simcli_shrinking_count_rules(inout->plan, SHRINKING_RULE_WORD),
        .operations = inout->operation_count,
        .runs = shrinking.runs,
        .real_ns = kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC) - begun_ns};
    return is_small;
}
