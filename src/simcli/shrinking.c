/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A failing run made small. What was never begun goes; every operation gets the time at which it
 * was begun, and every fault a name that does not depend on what else there is (relax.h); then VMs,
 * faults and operations go (sim/shrink.h), what they wait for, and the schedule. A part counts when
 * the same invariant breaks. Each attempt is a process of its own, so that crashes are made small,
 * too, and is cut when it takes much longer than what is known to fail.
 */
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/shrink.h"
#include "simcli/attempt.h"
#include "simcli/jobs.h"
#include "simcli/relax.h"
#include "simcli/simcli.h"

#define SHRINKING_BIRTH_WORD " birth="
#define SHRINKING_RULE_WORD "=>"
#define SHRINKING_WORD_BYTES_MAX 32u
#define SHRINKING_RULES_MAX 64u /* more are not worth a run each */
#define SHRINKING_GOOD_SIZE 10u /* of faults and operations: small enough to be understood */
#define SHRINKING_ROUNDS_MAX 4u
#define SHRINKING_CALLS_MORE 3000u
#define SHRINKING_TIMED_RUNS (SIM_SHRINK_RUNS_MAX / 5 * 3) /* at most, of all */
#define SHRINKING_TIMED_NS (SIM_SHRINK_TIME_NS / 5 * 3)    /* likewise */

struct shrinking {
    struct simcli *simcli;
    struct simcli_attempts attempts;
    struct sim_case *own;                /* as small as it is so far */
    const struct sim_run_result *failed; /* what it has to do */
    struct sim_operation *tried;         /* owned: room for as many as the case has */
    uint32_t *chosen;                    /* owned: likewise */
    uint32_t *groups;                    /* owned: likewise */
    int64_t *begun_ns;                   /* owned: likewise */
    struct sim_shrink_budget budget;
    uint32_t runs_max;
    uint32_t runs;
    /* of the last run that failed the same */
    uint64_t calls;
    int64_t last_ns;
    char last_reason[SIM_RUN_REASON_BYTES_MAX];
};

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

/* A change of the case that stays when it fails the same. */
static bool try_change(struct shrinking *shrinking, const struct sim_case *changed) {
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
    if (is_spent(shrinking)) {
        return;
    }
    set_rest(shrinking);
    kelpie__ignore(
        kelpie__sim_shrink_plan(shrinking->own->plan, plan_fails, shrinking, &shrinking->budget));
}

/* ---- whose a fault is ------------------------------------------------------------------------ */

static uint32_t count_rules(const char *plan, const char *word) {
    uint32_t count = 0;
    for (const char *at = strstr(plan, word); at != NULL; at = strstr(at + 1, word)) {
        count += 1;
    }
    return count;
}

/* Takes the plan; it stays when the case fails so. */
static bool try_plan(struct shrinking *shrinking, char *plan) {
    struct sim_case changed = *shrinking->own;
    changed.plan = plan;
    bool is_same = plan != NULL && try_change(shrinking, &changed);
    KELPIE_ASSERT(plan != shrinking->own->plan);
    free(is_same ? shrinking->own->plan : plan);
    shrinking->own->plan = is_same ? plan : shrinking->own->plan;
    return is_same;
}

/* All rules at once, as far as it goes. True: none names a call by its number any more. */
static bool relax_all(struct shrinking *shrinking) {
    for (uint32_t how = 0; how < SIMCLI_RELAXED_COUNT; how += 1) {
        kelpie__ignore(try_plan(shrinking, kelpie__simcli_relax_plan(shrinking->own->plan, how)));
    }
    return count_rules(shrinking->own->plan, SHRINKING_BIRTH_WORD) == 0;
}

/* The plan with the line of `length` bytes behind the first `before` replaced; NULL: no memory. */
static char *with_line(const char *plan, size_t before, size_t length, const char *line) {
    size_t added = strlen(line);
    size_t rest = strlen(plan) - before - length;
    char *changed = malloc(before + added + rest + 1);
    KELPIE_ASSERT(before + length <= strlen(plan));
    if (changed != NULL) {
        memcpy(changed, plan, before);
        memcpy(changed + before, line, added);
        memcpy(changed + before + added, plan + before + length, rest + 1);
    }
    return changed;
}

/* Each rule alone. */
static void relax_rules(struct shrinking *shrinking) {
    size_t before = 0;
    uint32_t rules = 0;
    while (shrinking->own->plan[before] != '\0' && rules < SHRINKING_RULES_MAX) { /* bound: lines */
        char line[SIMCLI_RELAX_LINE_MAX];
        size_t length = strcspn(shrinking->own->plan + before, "\n");
        bool is_relaxed = false;
        for (uint32_t how = 0; how < SIMCLI_RELAXED_COUNT && !is_relaxed; how += 1) {
            const char *plan = shrinking->own->plan;
            is_relaxed = kelpie__simcli_relax_line(plan + before, length, how, line) &&
                         try_plan(shrinking, with_line(plan, before, length, line));
        }
        rules += 1;
        before += strcspn(shrinking->own->plan + before, "\n");
        before += shrinking->own->plan[before] == '\n' ? 1 : 0;
    }
}

/* ---- times -----------------------------------------------------------------------------------
 */

/* The operations that were begun, of which `begun_ns` tells, alone. */
static void drop_unbegun(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case changed = *own;
    changed.operations = shrinking->tried;
    changed.operation_count = 0;
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        if (shrinking->begun_ns[i] > 0) {
            shrinking->tried[changed.operation_count] = own->operations[i];
            changed.operation_count += 1;
        }
    }
    KELPIE_ASSERT(changed.operation_count <= own->operation_count);
    if (changed.operation_count < own->operation_count && try_change(shrinking, &changed)) {
        memcpy(own->operations, shrinking->tried,
               changed.operation_count * sizeof(*own->operations));
        own->operation_count = changed.operation_count;
    }
}

/* Every operation at the time at which it was begun, so that leaving one out moves no other. */
static void fix_times(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case fixed = *own;
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
    if (try_change(shrinking, &fixed)) {
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

/* ---- whole VMs ------------------------------------------------------------------------------- */

/* The plan's lines but those about this VM. NULL: no memory. */
static char *plan_without_vm(const char *plan, uint32_t vm) {
    char word[SHRINKING_WORD_BYTES_MAX];
    char *left = malloc(strlen(plan) + 1);
    size_t length = 0;
    bool fits = kelpie__text_format(word, sizeof(word), " vm=vm-%u ", vm);
    KELPIE_ASSERT(fits);
    while (left != NULL && *plan != '\0') { /* bound: the text */
        size_t taken = strcspn(plan, "\n");
        taken += plan[taken] == '\n' ? 1 : 0;
        const char *found = strstr(plan, word);
        if (found == NULL || found >= plan + taken) {
            memcpy(left + length, plan, taken);
            length += taken;
        }
        plan += taken;
    }
    if (left != NULL) {
        left[length] = '\0';
    }
    return left;
}

/* A VM and what happens to it, at once: of these two each may hold the other up. */
static void drop_vms(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    for (uint32_t vm = 0; vm < SIM_SWARM_VM_MAX; vm += 1) {
        struct sim_case changed = *own;
        changed.operations = shrinking->tried;
        changed.operation_count = 0;
        for (uint32_t i = 0; i < own->operation_count; i += 1) {
            if (own->operations[i].vm != vm) {
                shrinking->tried[changed.operation_count] = own->operations[i];
                changed.operation_count += 1;
            }
        }
        if (changed.operation_count == own->operation_count || changed.operation_count == 0) {
            continue;
        }
        changed.plan = plan_without_vm(own->plan, vm);
        bool is_same = changed.plan != NULL && try_change(shrinking, &changed);
        free(is_same ? own->plan : changed.plan);
        if (is_same) {
            own->plan = changed.plan;
            own->operation_count = changed.operation_count;
            memcpy(own->operations, shrinking->tried,
                   own->operation_count * sizeof(*own->operations));
        }
    }
}

/* ---- who sees it ----------------------------------------------------------------------------- */

/* "... on vm-3 (value 7)": the VM that a failure is about; false: none is named so. */
static bool vm_of_reason(const char *reason, uint32_t *out) {
    static const char word[] = " on vm-";
    char number[SHRINKING_WORD_BYTES_MAX] = "";
    uint64_t vm = 0;
    const char *at = strstr(reason, word);
    size_t digits = at == NULL ? 0 : strspn(at + sizeof(word) - 1, "0123456789");
    if (digits == 0 || digits >= sizeof(number)) {
        return false;
    }
    memcpy(number, at + sizeof(word) - 1, digits);
    bool is_vm = kelpie__text_u64(number, &vm) && vm < SIM_SWARM_VM_MAX;
    *out = (uint32_t)vm;
    return is_vm;
}

/* Whoever looks at all VMs now and then has to come by while it can be seen: what else there is may
 * do nothing but make him late. A look of the case's own, where he saw it, takes his place. */
static bool add_look(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case changed = *own;
    uint32_t vm = 0;
    KELPIE_ASSERT(own->operation_count > 0);
    if (own->operation_count == SIM_OPERATION_MAX || !vm_of_reason(shrinking->last_reason, &vm)) {
        return false;
    }
    const struct sim_operation look = {
        .is_look = true,
        .kind = SIM_LOOK_INSPECT,
        .client = SIM_SWARM_CLIENT_MAX - 1,
        .vm = (uint8_t)vm,
        .at_ns = shrinking->last_ns,
    };
    memcpy(shrinking->tried, own->operations, own->operation_count * sizeof(*own->operations));
    shrinking->tried[own->operation_count] = look;
    changed.operations = shrinking->tried;
    changed.operation_count += 1;
    bool is_same = try_change(shrinking, &changed);
    if (is_same) {
        own->operations[own->operation_count] = look;
        own->operation_count += 1;
    }
    return is_same;
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
    kelpie__ignore(simplify(shrinking, without_time));
    kelpie__ignore(simplify(shrinking, without_rest));
    kelpie__ignore(simplify(shrinking, without_herd));
    kelpie__ignore(simplify(shrinking, by_one_client));
    kelpie__ignore(make_plain(shrinking));
}

static uint32_t size_of(const struct sim_case *measured) {
    return count_rules(measured->plan, SHRINKING_RULE_WORD) + measured->operation_count;
}

static void shrink_rest(struct shrinking *shrinking) {
    uint32_t size = size_of(shrinking->own) + 1;
    for (uint32_t i = 0; i < SHRINKING_ROUNDS_MAX && size_of(shrinking->own) < size; i += 1) {
        size = size_of(shrinking->own);
        drop_vms(shrinking);
        simplify_all(shrinking);
        shrink_parts(shrinking, false);
    }
}

/* False: it does not fail as it should. */
static bool shrink_once(struct shrinking *shrinking, bool has_times) {
    shrinking->calls = 0;
    if (try_timed(shrinking, shrinking->own, shrinking->begun_ns) != SIM_SHRINK_FAILS_THE_SAME) {
        return false;
    }
    drop_unbegun(shrinking);
    kelpie__ignore(make_plain(shrinking));
    if (has_times) {
        fix_times(shrinking);
    }
    bool is_relaxed = has_times && relax_all(shrinking);
    if (!is_relaxed) {
        /* Most faults go while all operations are there: the rest can be told whose it is. */
        shrink_rules(shrinking);
        is_relaxed = has_times && relax_all(shrinking);
    }
    if (!is_relaxed) {
        relax_rules(shrinking);
    }
    shrink_parts(shrinking, is_relaxed);
    relax_rules(shrinking); /* what was in the way may have gone */
    shrink_rest(shrinking);
    KELPIE_ASSERT(shrinking->own->operation_count > 0);
    return true;
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

/* The smaller of the two is the one to go on with. */
static void keep_smaller(struct shrinking *shrinking, struct sim_case *own,
                         struct sim_case *other) {
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

/* From what is left: seen by a look of its own; then with no fixed times, which keeps the calls'
 * numbers. */
static void shrink_again(struct shrinking *shrinking, struct sim_case *own) {
    struct sim_case other;
    for (uint32_t way = 0; way < 2 && !is_good(shrinking, own); way += 1) {
        if (!copy_case(&other, own)) {
            return;
        }
        shrinking->own = &other;
        if (way == 0 && try_change(shrinking, &other) && add_look(shrinking)) {
            shrink_rest(shrinking);
        } else if (way == 1) {
            kelpie__ignore(shrink_once(shrinking, false));
        }
        keep_smaller(shrinking, own, &other);
        kelpie__sim_case_release(&other);
    }
}

/* With the times fixed, which keeps races; where that leaves much, from there in other ways, and at
 * last from the beginning without. The smallest one counts. */
static bool shrink_all(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case other;
    int64_t deadline_ns = shrinking->budget.deadline_ns;
    if (!copy_case(&other, own)) {
        return false;
    }
    shrinking->runs_max = SHRINKING_TIMED_RUNS;
    shrinking->budget.deadline_ns -= SIM_SHRINK_TIME_NS - SHRINKING_TIMED_NS;
    bool is_confirmed = shrink_once(shrinking, true);
    shrinking->runs_max = SIM_SHRINK_RUNS_MAX;
    shrinking->budget.deadline_ns = deadline_ns;
    if (is_confirmed) {
        shrink_again(shrinking, own);
    }
    if (is_confirmed && !is_good(shrinking, own)) {
        shrinking->own = &other;
        kelpie__ignore(shrink_once(shrinking, false));
        keep_smaller(shrinking, own, &other);
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
        .begun_ns = calloc(SIM_OPERATION_MAX, sizeof(*shrinking.begun_ns)),
        .budget = {.os = simcli->os, .deadline_ns = begun_ns + SIM_SHRINK_TIME_NS}};
    bool is_small = kelpie__simcli_attempts_open(&shrinking.attempts);
    is_small = is_small && shrinking.tried != NULL && shrinking.chosen != NULL &&
               shrinking.groups != NULL && shrinking.begun_ns != NULL && own_operations(inout) &&
               shrink_all(&shrinking);
    kelpie__simcli_attempts_close(&shrinking.attempts);
    free(shrinking.tried);
    free(shrinking.chosen);
    free(shrinking.groups);
    free(shrinking.begun_ns);
    KELPIE_ASSERT(inout->operation_count <= SIM_OPERATION_MAX);
    *out = (struct simcli_shrunk){.faults = count_rules(inout->plan, SHRINKING_RULE_WORD),
                                  .operations = inout->operation_count,
                                  .runs = shrinking.runs,
                                  .real_ns = kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC) -
                                             begun_ns};
    return is_small;
}
