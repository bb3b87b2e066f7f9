/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A failing run made small: first faults, then VMs, then operations, each at the time at which it
 * was begun, then what they wait for and the schedule; once more what that made superfluous. A part
 * counts when the same invariant breaks.
 */
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/shrink.h"
#include "simcli/simcli.h"

#define SHRINKING_BIRTH_WORD " birth="
#define SHRINKING_TIME_WORD " # "
#define SHRINKING_NUMBER_BYTES_MAX 24u
#define SHRINKING_WINDOW_BYTES_MAX 96u
#define SHRINKING_WINDOW_MS 1000u
#define SHRINKING_RULES_MAX 64u /* more are not worth a run each */
#define SHRINKING_GOOD_SIZE 10u /* of faults and operations: small enough to be understood */

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

static bool plan_fails(void *context, const char *plan) {
    struct shrinking *shrinking = context;
    struct sim_case changed = *shrinking->own;
    changed.plan = (char *)(uintptr_t)plan; /* only read */
    return try_case(shrinking, &changed) == SIM_SHRINK_FAILS_THE_SAME;
}

/* ---- whose a fault is ------------------------------------------------------------------------ */

/* The plan with `old_length` bytes after the first `before` replaced; false: it does not fail so.
 */
static bool try_rule(struct shrinking *shrinking, size_t before, size_t old_length,
                     const char *text) {
    struct sim_case changed = *shrinking->own;
    const char *rest = changed.plan + before + old_length;
    size_t length = strlen(text);
    KELPIE_ASSERT(before + old_length <= strlen(changed.plan));
    char *plan = malloc(before + length + strlen(rest) + 1);
    if (plan == NULL) {
        return false;
    }
    memcpy(plan, changed.plan, before);
    memcpy(plan + before, text, length);
    memcpy(plan + before + length, rest, strlen(rest) + 1);
    changed.plan = plan;
    bool is_same = try_change(shrinking, &changed);
    free(is_same ? shrinking->own->plan : plan);
    shrinking->own->plan = is_same ? plan : shrinking->own->plan;
    return is_same;
}

/* The milliseconds of the rule's comment, " # 7.204 s in read()"; false: it has none. */
static bool rule_time(const char *rule, uint64_t *out_ms) {
    const char *comment = strstr(rule, SHRINKING_TIME_WORD);
    char text[SHRINKING_NUMBER_BYTES_MAX] = "";
    if (comment == NULL || comment > rule + strcspn(rule, "\n")) {
        return false;
    }
    comment += strlen(SHRINKING_TIME_WORD);
    size_t seconds = strspn(comment, "0123456789");
    if (seconds + 4 >= sizeof(text) || comment[seconds] != '.') {
        return false;
    }
    memcpy(text, comment, seconds);
    memcpy(text + seconds, comment + seconds + 1, 3);
    return kelpie__text_u64(text, out_ms);
}

/* " birth=12 nth=217" names a call by its number, which is another one as soon as an operation is
 * left out. Where it may be the first call of its role from that time on, or any process's of its
 * role that has this number, it is. */
static void relax_rules(struct shrinking *shrinking, bool has_times) {
    size_t from = 0;
    for (uint32_t i = 0; i < SHRINKING_RULES_MAX; i += 1) {
        const char *found = strstr(shrinking->own->plan + from, SHRINKING_BIRTH_WORD);
        char window[SHRINKING_WINDOW_BYTES_MAX];
        uint64_t time_ms = 0;
        if (found == NULL) {
            break;
        }
        size_t before = (size_t)(found - shrinking->own->plan);
        size_t birth = 1 + strcspn(found + 1, " \n");
        size_t whole = found[birth] == ' ' ? birth + 1 + strcspn(found + birth + 1, " \n") : birth;
        bool is_timed = has_times && rule_time(found, &time_ms) &&
                        kelpie__text_format(window, sizeof(window), " window=%llums..%llums max=1",
                                            (unsigned long long)time_ms,
                                            (unsigned long long)time_ms + SHRINKING_WINDOW_MS) &&
                        try_rule(shrinking, before, whole, window);
        if (!is_timed) {
            kelpie__ignore(try_rule(shrinking, before, birth, ""));
        }
        from = before + 1;
    }
}

/* ---- times -----------------------------------------------------------------------------------
 */

/* Every operation at the time at which it was begun, so that leaving one out moves no other. */
static void fix_times(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    int64_t *begun_ns = calloc(own->operation_count, sizeof(*begun_ns));
    struct sim_run_options options;
    struct sim_run_result result;
    struct sim_case fixed = *own;
    if (begun_ns == NULL || is_spent(shrinking)) {
        free(begun_ns);
        return;
    }
    kelpie__sim_case_options(own, &options);
    options.nursery = shrinking->simcli->nursery;
    options.begun_ns = begun_ns;
    kelpie__sim_run(&options, &result);
    kelpie__sim_run_release(&result);
    shrinking->runs += 1;
    fixed.operations = shrinking->tried;
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        shrinking->tried[i] = own->operations[i];
        shrinking->tried[i].at_ns = begun_ns[i];
    }
    if (try_change(shrinking, &fixed)) {
        memcpy(own->operations, shrinking->tried, own->operation_count * sizeof(*own->operations));
    }
    free(begun_ns);
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

/* False: it does not fail as it should. */
static bool shrink_once(struct shrinking *shrinking, bool has_times) {
    struct sim_case first = *shrinking->own;
    if (try_case(shrinking, &first) != SIM_SHRINK_FAILS_THE_SAME) {
        return false;
    }
    kelpie__ignore(make_plain(shrinking));
    if (has_times) {
        fix_times(shrinking);
    }
    /* Most faults go while all operations are there, so that the rest can be told whose it is. */
    shrinking->budget.runs_max = SIM_SHRINK_RUNS_MAX - shrinking->runs;
    kelpie__ignore(
        kelpie__sim_shrink_plan(shrinking->own->plan, plan_fails, shrinking, &shrinking->budget));
    relax_rules(shrinking, has_times);
    kelpie__ignore(shrink_parts(shrinking)); /* what does not fail is left as it is */
    kelpie__ignore(simplify(shrinking, without_time));
    kelpie__ignore(simplify(shrinking, without_rest));
    kelpie__ignore(simplify(shrinking, without_herd));
    kelpie__ignore(simplify(shrinking, by_one_client));
    kelpie__ignore(make_plain(shrinking));
    kelpie__ignore(shrink_parts(shrinking));
    return true;
}

static uint32_t size_of(const struct sim_case *measured) {
    return count_rules(measured->plan) + measured->operation_count;
}

static bool copy_case(struct sim_case *out, const struct sim_case *from) {
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

/* With the times fixed, which keeps races; where that leaves much, without, which keeps the calls'
 * numbers. The smaller one counts. */
static bool shrink_all(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case other;
    if (!copy_case(&other, own)) {
        return false;
    }
    bool is_confirmed = shrink_once(shrinking, true);
    if (is_confirmed && size_of(own) > SHRINKING_GOOD_SIZE && !is_spent(shrinking)) {
        shrinking->own = &other;
        kelpie__ignore(shrink_once(shrinking, false));
        if (size_of(&other) < size_of(own)) {
            struct sim_case larger = *own;
            *own = other;
            other = larger;
        }
    }
    kelpie__sim_case_release(&other);
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
