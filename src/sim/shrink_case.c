/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Shrinking of plans, and of plans with their workloads: lists of lines and of operations for
 * shrink.c. Faults go first, since each of them hides what the operations do without it; then whole
 * clients or VMs, then single operations, then once more faults.
 */
#include <stdlib.h>
#include <string.h>

#include "os/os_call.h"
#include "sim/shrink.h"

#define GROUP_MAX 64u
#define ROUNDS_MAX 4u

/* ---- a plan as lines ------------------------------------------------------------------------- */

struct plan_lines {
    char *text; /* owned: a copy, with a zero after each line */
    uint32_t count;
    uint32_t *starts; /* of each line */
    bool *is_rule;
};

/* Rules that ';' separates stand on lines of their own afterwards; comments keep theirs. */
static void one_rule_a_line(char *text) {
    bool is_comment = false;
    for (char *at = text; *at != '\0'; at += 1) {
        is_comment = *at != '\n' && (is_comment || *at == '#');
        if (*at == ';' && !is_comment) {
            *at = '\n';
        }
    }
}

static void lines_free(struct plan_lines *lines) {
    free(lines->text);
    free(lines->starts);
    free(lines->is_rule);
    *lines = (struct plan_lines){0};
}

static bool lines_split(struct plan_lines *lines, const char *plan) {
    size_t bytes = strlen(plan) + 1;
    uint32_t count = 1;
    for (const char *at = plan; *at != '\0'; at += 1) {
        count += *at == '\n' || *at == ';' ? 1 : 0;
    }
    lines->text = malloc(bytes);
    lines->starts = calloc(count, sizeof(*lines->starts));
    lines->is_rule = calloc(count, sizeof(*lines->is_rule));
    if (lines->text == NULL || lines->starts == NULL || lines->is_rule == NULL) {
        lines_free(lines);
        return false;
    }
    memcpy(lines->text, plan, bytes);
    one_rule_a_line(lines->text);
    size_t start = 0;
    while (start < bytes - 1) { /* bound: the text */
        size_t length = strcspn(lines->text + start, "\n");
        char *line = lines->text + start;
        line[length] = '\0';
        const char *word = line + strspn(line, " \t");
        lines->starts[lines->count] = (uint32_t)start;
        lines->is_rule[lines->count] =
            *word != '\0' && *word != '#' && strncmp(word, "kelpie-plan", 11) != 0;
        lines->count += 1;
        start += length + 1;
    }
    KELPIE_ASSERT(lines->count <= count);
    return true;
}

/* The plan with only these rules (indexes of lines, ascending). `out` has room for the whole. */
static void lines_join(const struct plan_lines *lines, const uint32_t *chosen, uint32_t count,
                       char *out) {
    uint32_t next = 0;
    for (uint32_t i = 0; i < lines->count; i += 1) {
        bool is_chosen = next < count && chosen[next] == i;
        next += is_chosen ? 1 : 0;
        if (is_chosen || !lines->is_rule[i]) {
            const char *line = lines->text + lines->starts[i];
            size_t length = strlen(line);
            memcpy(out, line, length);
            out[length] = '\n';
            out += length + 1;
        }
    }
    KELPIE_ASSERT(next == count);
    *out = '\0';
}

/* ---- plans and workloads --------------------------------------------------------------------- */

struct shrink_case {
    struct sim_shrink_case *own;
    enum sim_shrink_verdict (*run)(void *context, const char *plan, const uint32_t *operations,
                                   uint32_t operation_count);
    void *context;
    struct plan_lines lines;
    char *joined;    /* the plan that is tried */
    uint32_t *rules; /* lines that are kept */
    uint32_t rule_count;
    uint32_t *operations; /* those that are tried */
    uint32_t groups[GROUP_MAX];
    uint32_t group_count;
};

static enum sim_shrink_verdict try_rules(void *context, const uint32_t *chosen, uint32_t count) {
    struct shrink_case *shrink = context;
    lines_join(&shrink->lines, chosen, count, shrink->joined);
    return shrink->run(shrink->context, shrink->joined, shrink->own->operations,
                       shrink->own->operation_count);
}

static enum sim_shrink_verdict try_operations(void *context, const uint32_t *chosen,
                                              uint32_t count) {
    struct shrink_case *shrink = context;
    lines_join(&shrink->lines, shrink->rules, shrink->rule_count, shrink->joined);
    return shrink->run(shrink->context, shrink->joined, chosen, count);
}

/* The operations that are kept of these groups. */
static uint32_t of_groups(const struct shrink_case *shrink, const uint32_t *chosen, uint32_t count,
                          uint32_t *out) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < shrink->own->operation_count; i += 1) {
        uint32_t operation = shrink->own->operations[i];
        for (uint32_t j = 0; j < count; j += 1) {
            if (shrink->groups[chosen[j]] == shrink->own->groups[operation]) {
                out[kept] = operation;
                kept += 1;
                break;
            }
        }
    }
    return kept;
}

static enum sim_shrink_verdict try_groups(void *context, const uint32_t *chosen, uint32_t count) {
    struct shrink_case *shrink = context;
    uint32_t kept = of_groups(shrink, chosen, count, shrink->operations);
    return try_operations(context, shrink->operations, kept);
}

static void add_result(struct sim_shrink_result *sum, const struct sim_shrink_result *one) {
    sum->runs += one->runs;
    sum->others += one->others;
    sum->is_minimal = one->is_minimal;
}

static struct sim_shrink_budget rest_of(const struct sim_shrink_budget *budget,
                                        const struct sim_shrink_result *spent) {
    struct sim_shrink_budget rest = *budget;
    uint32_t most = budget->runs_max == 0 ? SIM_SHRINK_RUNS_MAX : budget->runs_max;
    rest.runs_max = most > spent->runs ? most - spent->runs : 1;
    return rest;
}

static bool is_spent(const struct sim_shrink_budget *budget,
                     const struct sim_shrink_result *spent) {
    uint32_t most = budget->runs_max == 0 ? SIM_SHRINK_RUNS_MAX : budget->runs_max;
    return spent->runs >= most ||
           (budget->os != NULL &&
            kelpie__os_now(budget->os, KELPIE_OS_CLOCK_MONOTONIC) >= budget->deadline_ns);
}

/* Whether the rules became fewer. */
static bool shrink_rules(struct shrink_case *shrink, const struct sim_shrink_budget *budget,
                         struct sim_shrink_result *sum) {
    struct sim_shrink_budget rest = rest_of(budget, sum);
    struct sim_shrink_result one;
    uint32_t before = shrink->rule_count;
    if (is_spent(budget, sum)) {
        return false;
    }
    shrink->rule_count =
        kelpie__sim_shrink_list(shrink->rules, before, try_rules, shrink, &rest, &one);
    sum->is_confirmed = sum->is_confirmed || one.is_confirmed;
    add_result(sum, &one);
    return shrink->rule_count < before;
}

static bool shrink_operations(struct shrink_case *shrink, const struct sim_shrink_budget *budget,
                              struct sim_shrink_result *sum) {
    struct sim_shrink_budget rest = rest_of(budget, sum);
    struct sim_shrink_result one;
    uint32_t before = shrink->own->operation_count;
    if (is_spent(budget, sum)) {
        return false;
    }
    shrink->own->operation_count = kelpie__sim_shrink_list(shrink->own->operations, before,
                                                           try_operations, shrink, &rest, &one);
    add_result(sum, &one);
    return shrink->own->operation_count < before;
}

static void shrink_groups(struct shrink_case *shrink, const struct sim_shrink_budget *budget,
                          struct sim_shrink_result *sum) {
    uint32_t chosen[GROUP_MAX];
    struct sim_shrink_result one;
    for (uint32_t i = 0; i < shrink->own->operation_count && shrink->own->groups != NULL; i += 1) {
        uint32_t group = shrink->own->groups[shrink->own->operations[i]];
        bool is_known = false;
        for (uint32_t j = 0; j < shrink->group_count; j += 1) {
            is_known = is_known || shrink->groups[j] == group;
        }
        if (!is_known && shrink->group_count == GROUP_MAX) {
            return; /* more than are worth it: operations are tried one by one */
        }
        if (!is_known) {
            chosen[shrink->group_count] = shrink->group_count;
            shrink->groups[shrink->group_count] = group;
            shrink->group_count += 1;
        }
    }
    if (shrink->group_count < 2 || is_spent(budget, sum)) {
        return;
    }
    struct sim_shrink_budget rest = rest_of(budget, sum);
    uint32_t left =
        kelpie__sim_shrink_list(chosen, shrink->group_count, try_groups, shrink, &rest, &one);
    add_result(sum, &one);
    uint32_t kept = of_groups(shrink, chosen, left, shrink->operations);
    memcpy(shrink->own->operations, shrink->operations, kept * sizeof(*shrink->operations));
    shrink->own->operation_count = kept;
}

void kelpie__sim_shrink_case(struct sim_shrink_case *inout,
                             enum sim_shrink_verdict (*run)(void *context, const char *plan,
                                                            const uint32_t *operations,
                                                            uint32_t operation_count),
                             void *context, const struct sim_shrink_budget *budget,
                             struct sim_shrink_result *out_result) {
    struct shrink_case shrink = {.own = inout, .run = run, .context = context};
    struct sim_shrink_result sum = {0};
    bool is_good = lines_split(&shrink.lines, inout->plan);
    shrink.joined = malloc(strlen(inout->plan) + 2);
    shrink.rules = calloc(shrink.lines.count + 1u, sizeof(*shrink.rules));
    shrink.operations = calloc(inout->operation_count + 1u, sizeof(*shrink.operations));
    if (is_good && shrink.joined != NULL && shrink.rules != NULL && shrink.operations != NULL) {
        for (uint32_t i = 0; i < shrink.lines.count; i += 1) {
            shrink.rules[shrink.rule_count] = i;
            shrink.rule_count += shrink.lines.is_rule[i] ? 1 : 0;
        }
        if (inout->has_groups_first) {
            shrink_groups(&shrink, budget, &sum);
        }
        bool is_smaller = shrink_rules(&shrink, budget, &sum) || sum.is_confirmed;
        if (sum.is_confirmed && !inout->has_groups_first) {
            shrink_groups(&shrink, budget, &sum);
        }
        for (uint32_t round = 0; round < ROUNDS_MAX && sum.is_confirmed && is_smaller; round += 1) {
            is_smaller = shrink_operations(&shrink, budget, &sum);
            is_smaller = is_smaller && shrink_rules(&shrink, budget, &sum);
        }
        sum.is_minimal = sum.is_minimal && !is_spent(budget, &sum);
        lines_join(&shrink.lines, shrink.rules, shrink.rule_count, shrink.joined);
        size_t length = kelpie__min_u64(strlen(shrink.joined), strlen(inout->plan));
        memcpy(inout->plan, shrink.joined, length); /* a last newline too many is left out */
        inout->plan[length] = '\0';
    }
    lines_free(&shrink.lines);
    free(shrink.joined);
    free(shrink.rules);
    free(shrink.operations);
    if (out_result != NULL) {
        *out_result = sum;
    }
}

/* ---- plans alone ----------------------------------------------------------------------------- */

struct plan_only {
    bool (*fails_the_same)(void *context, const char *plan);
    void *context;
};

static enum sim_shrink_verdict try_plan(void *context, const char *plan, const uint32_t *operations,
                                        uint32_t operation_count) {
    const struct plan_only *only = context;
    KELPIE_ASSERT(operation_count == 0);
    kelpie__ignore(operations == NULL);
    return only->fails_the_same(only->context, plan) ? SIM_SHRINK_FAILS_THE_SAME
                                                     : SIM_SHRINK_PASSES;
}

uint32_t kelpie__sim_shrink_plan(char *inout_plan,
                                 bool (*fails_the_same)(void *context, const char *plan),
                                 void *context, const struct sim_shrink_budget *budget) {
    struct plan_only only = {fails_the_same, context};
    uint32_t none[1] = {0};
    struct sim_shrink_case shrunk = {.plan = inout_plan, .operations = none};
    struct plan_lines lines = {0};
    uint32_t left = 0;
    kelpie__sim_shrink_case(&shrunk, try_plan, &only, budget, NULL);
    if (lines_split(&lines, inout_plan)) {
        for (uint32_t i = 0; i < lines.count; i += 1) {
            left += lines.is_rule[i] ? 1 : 0;
        }
    }
    lines_free(&lines);
    return left;
}
