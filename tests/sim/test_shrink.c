/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Shrinking. Goal: the cause is found, and nothing but the cause; only the same failure counts; the
 * budget is kept. Method: failures that are functions of the parts: of one, two and three elements
 * among 500, alone and with a workload; another failure in the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"
#include "sim/shrink.h"

#define ELEMENTS 500u

struct cause {
    uint32_t count;
    uint32_t elements[3];
    uint32_t other; /* without this one, with the cause: another failure; 0: none */
    uint32_t runs;
    uint32_t largest; /* part that was tried after the first */
};

static bool holds(const uint32_t *list, uint32_t count, uint32_t element) {
    for (uint32_t i = 0; i < count; i += 1) {
        if (list[i] == element) {
            return true;
        }
    }
    return false;
}

static enum sim_shrink_verdict run_cause(void *context, const uint32_t *chosen, uint32_t count) {
    struct cause *cause = context;
    bool fails = true;
    cause->runs += 1;
    for (uint32_t i = 1; i < count; i += 1) {
        assert_true(chosen[i] > chosen[i - 1]);
    }
    for (uint32_t i = 0; i < cause->count; i += 1) {
        fails = fails && holds(chosen, count, cause->elements[i]);
    }
    if (fails && cause->other != 0 && !holds(chosen, count, cause->other)) {
        return SIM_SHRINK_FAILS_OTHERWISE;
    }
    return fails ? SIM_SHRINK_FAILS_THE_SAME : SIM_SHRINK_PASSES;
}

static uint64_t draw(uint64_t *seed, uint64_t bound) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % bound;
}

static void fill(uint32_t chosen[ELEMENTS]) {
    for (uint32_t i = 0; i < ELEMENTS; i += 1) {
        chosen[i] = i;
    }
}

static void test_causes_of_one_two_and_three(void **state) {
    static const uint32_t runs_max[4] = {0, 40, 250, 450};
    struct sim_shrink_budget budget = {0};
    uint64_t seed = 5;
    (void)state;
    for (uint32_t round = 0; round < 300; round += 1) {
        uint32_t chosen[ELEMENTS];
        struct cause cause = {.count = 1 + round % 3};
        struct sim_shrink_result result;
        for (uint32_t i = 0; i < cause.count; i += 1) {
            cause.elements[i] = (uint32_t)draw(&seed, ELEMENTS / 3) + i * (ELEMENTS / 3);
        }
        fill(chosen);
        uint32_t left =
            kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result);
        assert_int_equal(left, cause.count);
        assert_memory_equal(chosen, cause.elements, cause.count * sizeof(*chosen));
        assert_true(result.is_minimal && result.is_confirmed);
        assert_int_equal(result.runs, cause.runs);
        assert_true(result.runs <= runs_max[cause.count]);
    }
}

static void test_only_the_same_failure_counts(void **state) {
    struct sim_shrink_budget budget = {0};
    uint32_t chosen[ELEMENTS];
    struct cause cause = {.count = 1, .elements = {77}, .other = 400};
    struct sim_shrink_result result;
    (void)state;
    fill(chosen);
    uint32_t left = kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result);
    assert_int_equal(left, 2);
    assert_true(chosen[0] == 77 && chosen[1] == 400);
    assert_true(result.others > 0);
}

static void test_what_does_not_fail_is_left_alone(void **state) {
    struct sim_shrink_budget budget = {0};
    uint32_t chosen[ELEMENTS];
    struct cause cause = {.count = 1, .elements = {ELEMENTS}};
    struct sim_shrink_result result;
    (void)state;
    fill(chosen);
    assert_int_equal(kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result),
                     ELEMENTS);
    assert_false(result.is_confirmed || result.is_minimal);
    assert_int_equal(result.runs, 1);
    cause.count = 0; /* fails by itself: nothing is needed */
    assert_int_equal(kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result),
                     0);
    assert_true(result.is_minimal);
    assert_int_equal(kelpie__sim_shrink_list(chosen, 0, run_cause, &cause, &budget, &result), 0);
}

static void test_budgets_are_kept(void **state) {
    struct sim_shrink_budget budget = {.runs_max = 25};
    uint32_t chosen[ELEMENTS];
    struct cause cause = {.count = 3, .elements = {3, 250, 499}};
    struct sim_shrink_result result;
    (void)state;
    fill(chosen);
    uint32_t left = kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result);
    assert_true(left < ELEMENTS && left > 3);
    assert_int_equal(result.runs, 25);
    assert_false(result.is_minimal);
    assert_int_equal(run_cause(&cause, chosen, left), SIM_SHRINK_FAILS_THE_SAME); /* still good */
    struct kelpie_os *os = kelpie__os_linux_create();
    budget = (struct sim_shrink_budget){.os = os, .deadline_ns = 1}; /* over already */
    fill(chosen);
    left = kelpie__sim_shrink_list(chosen, ELEMENTS, run_cause, &cause, &budget, &result);
    assert_int_equal(left, ELEMENTS);
    assert_int_equal(result.runs, 0);
    kelpie__os_linux_destroy(os);
}

/* ---- plans ----------------------------------------------------------------------------------- */

static bool plan_fails(void *context, const char *plan) {
    uint32_t *runs = context;
    *runs += 1;
    assert_int_equal(strncmp(plan, "kelpie-plan 1 seed=42\n", 22), 0);
    return strstr(plan, "nth=17 => EIO") != NULL && strstr(plan, "nth=333 => kill") != NULL;
}

static void test_plan_shrinks_in_place(void **state) {
    static char plan[65536];
    struct sim_shrink_budget budget = {0};
    uint32_t runs = 0;
    size_t length = (size_t)snprintf(plan, sizeof(plan), "kelpie-plan 1 seed=42\n# found; today\n");
    (void)state;
    for (uint32_t i = 1; i <= ELEMENTS; i += 1) {
        length += (size_t)snprintf(plan + length, sizeof(plan) - length,
                                   "sync role=monitor birth=2 nth=%u => %s # 1.0 s in sync(a;b)%s",
                                   i, i % 3 == 0 ? "kill" : "EIO", "\n");
    }
    assert_int_equal(kelpie__sim_shrink_plan(plan, plan_fails, &runs, &budget), 2);
    assert_string_equal(plan, "kelpie-plan 1 seed=42\n# found; today\n"
                              "sync role=monitor birth=2 nth=17 => EIO # 1.0 s in sync(a;b)\n"
                              "sync role=monitor birth=2 nth=333 => kill # 1.0 s in sync(a;b)\n");
    assert_true(runs < 300);
    snprintf(plan, sizeof(plan),
             "kelpie-plan 1 seed=42\na nth=1 => EIO; a nth=17 => EIO;b nth=333 "
             "=> kill");
    assert_int_equal(kelpie__sim_shrink_plan(plan, plan_fails, &runs, &budget), 2);
    assert_string_equal(plan, "kelpie-plan 1 seed=42\n a nth=17 => EIO\nb nth=333 => kill\n");
}

/* ---- plans with workloads -------------------------------------------------------------------- */

struct workload {
    uint32_t runs;
    uint32_t needs[2]; /* operations, of one client */
};

/* Fails when both operations run and the fault is there; a fault of `nth=5` is needed only while
 * operation 10 runs, too. */
static enum sim_shrink_verdict run_workload(void *context, const char *plan,
                                            const uint32_t *operations, uint32_t count) {
    struct workload *workload = context;
    workload->runs += 1;
    bool has_all = holds(operations, count, workload->needs[0]) &&
                   holds(operations, count, workload->needs[1]);
    bool has_fault = strstr(plan, "nth=60 => kill") != NULL;
    bool is_hidden = holds(operations, count, 10) && strstr(plan, "nth=5 => EIO") == NULL;
    return has_all && has_fault && !is_hidden ? SIM_SHRINK_FAILS_THE_SAME : SIM_SHRINK_PASSES;
}

static void test_faults_and_operations_together(void **state) {
    static char plan[16384];
    uint32_t operations[200];
    uint32_t groups[200];
    struct workload workload = {.needs = {101, 186}};
    struct sim_shrink_budget budget = {0};
    struct sim_shrink_result result;
    size_t length = (size_t)snprintf(plan, sizeof(plan), "kelpie-plan 1 seed=1\n");
    (void)state;
    for (uint32_t i = 1; i <= 100; i += 1) {
        length += (size_t)snprintf(plan + length, sizeof(plan) - length, "sync nth=%u => %s\n", i,
                                   i == 60 ? "kill" : "EIO");
    }
    for (uint32_t i = 0; i < 200; i += 1) {
        operations[i] = i;
        groups[i] = i % 5;
    }
    struct sim_shrink_case shrunk = {plan, operations, 200, groups, false};
    kelpie__sim_shrink_case(&shrunk, run_workload, &workload, &budget, &result);
    assert_string_equal(plan, "kelpie-plan 1 seed=1\nsync nth=60 => kill\n");
    assert_int_equal(shrunk.operation_count, 2);
    assert_true(operations[0] == 101 && operations[1] == 186);
    assert_true(result.is_minimal && result.is_confirmed);
    assert_int_equal(result.runs, workload.runs);
    assert_true(result.runs < 150);
    budget.runs_max = 10;
    workload.runs = 0;
    kelpie__sim_shrink_case(&shrunk, run_workload, &workload, &budget, &result);
    assert_true(workload.runs <= 10 + 1);
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool at_least(void *context, uint64_t value) {
    return value >= *(const uint64_t *)context;
}

static void test_values(void **state) {
    struct sim_shrink_budget budget = {0};
    uint64_t limit = 1234;
    (void)state;
    assert_int_equal(kelpie__sim_shrink_value(1000000, 1, at_least, &limit, &budget), 1234);
    limit = 1;
    assert_int_equal(kelpie__sim_shrink_value(1000000, 1, at_least, &limit, &budget), 1);
    limit = 1000000;
    assert_int_equal(kelpie__sim_shrink_value(1000000, 1, at_least, &limit, &budget), 1000000);
    assert_int_equal(kelpie__sim_shrink_value(5, 5, at_least, &limit, &budget), 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_causes_of_one_two_and_three),
        cmocka_unit_test(test_only_the_same_failure_counts),
        cmocka_unit_test(test_what_does_not_fail_is_left_alone),
        cmocka_unit_test(test_budgets_are_kept),
        cmocka_unit_test(test_plan_shrinks_in_place),
        cmocka_unit_test(test_faults_and_operations_together),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
