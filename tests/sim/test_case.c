/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Cases as texts. Goal: what is written is read as the same run; what is not understood is told
 * with its line. Method: the operations of many seeds, there and back; a run and the run of its
 * text; bad lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "sim/case.h"

#define SEEDS 50u
#define TEXT_BYTES_MAX 262144u

struct text {
    size_t length;
    char bytes[TEXT_BYTES_MAX];
};

static void text_write(void *context, const char *bytes, size_t length) {
    struct text *text = context;
    assert_true(text->length + length < sizeof(text->bytes));
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

static struct sim_case drawn_case(uint64_t seed, const char *plan) {
    struct sim_case drawn = {.seed = seed, .faults = SIM_RUN_FAULTS_SWARM, .canary = 3};
    struct sim_run_options options;
    struct sim_swarm swarm;
    drawn.plan = strdup(plan);
    kelpie__sim_case_options(&drawn, &options);
    kelpie__sim_run_swarm(&options, &swarm);
    drawn.operations = calloc(SIM_OPERATION_MAX, sizeof(*drawn.operations));
    drawn.operation_count = kelpie__sim_workload_draw(&swarm, drawn.operations, SIM_OPERATION_MAX);
    return drawn;
}

static void test_what_is_written_is_read(void **state) {
    static struct text text;
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed += 1) {
        char problem[SIM_CASE_PROBLEM_MAX] = "";
        struct sim_case drawn = drawn_case(seed, "kelpie-plan 1 seed=9\n* nth=7 => kill # why\n");
        struct sim_case read;
        text.length = 0;
        kelpie__sim_case_write(&drawn, text_write, &text);
        if (!kelpie__sim_case_read(text.bytes, &read, problem)) {
            fail_msg("%s", problem);
        }
        assert_int_equal(read.seed, seed);
        assert_int_equal(read.faults, SIM_RUN_FAULTS_SWARM);
        assert_int_equal(read.canary, 3);
        assert_false(read.is_plain);
        assert_int_equal(read.operation_count, drawn.operation_count);
        assert_memory_equal(read.operations, drawn.operations,
                            drawn.operation_count * sizeof(*drawn.operations));
        assert_non_null(strstr(read.plan, "\n* nth=7 => kill # why\n"));
        assert_null(strstr(read.plan, "do op="));
        kelpie__sim_case_release(&read);
        kelpie__sim_case_release(&drawn);
    }
}

/* Hashes are of everything that happened. */
static void test_a_text_replays_its_run(void **state) {
    static struct text text;
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed += 1) {
        char problem[SIM_CASE_PROBLEM_MAX] = "";
        struct sim_case drawn = drawn_case(seed, "* role=qemu nth=90 => kill\n");
        struct sim_case read;
        struct sim_run_options options;
        struct sim_run_result first;
        struct sim_run_result second;
        drawn.is_plain = seed % 2 == 0;
        text.length = 0;
        kelpie__sim_case_write(&drawn, text_write, &text);
        assert_true(kelpie__sim_case_read(text.bytes, &read, problem));
        kelpie__sim_case_options(&drawn, &options);
        kelpie__sim_run(&options, &first);
        kelpie__sim_case_options(&read, &options);
        kelpie__sim_run(&options, &second);
        assert_true(first.hash == second.hash && first.calls > 0);
        kelpie__sim_run_release(&first);
        kelpie__sim_run_release(&second);
        kelpie__sim_case_release(&read);
        kelpie__sim_case_release(&drawn);
    }
}

static void test_without_operations_the_seed_draws(void **state) {
    char problem[SIM_CASE_PROBLEM_MAX] = "";
    struct sim_case read;
    (void)state;
    assert_true(
        kelpie__sim_case_read("kelpie-plan 1 seed=83\nsync nth=1 => EIO\n", &read, problem));
    assert_null(read.operations);
    assert_int_equal(read.faults, SIM_RUN_FAULTS_PLAN);
    kelpie__sim_case_release(&read);
}

static void test_bad_lines_are_told(void **state) {
    static const struct {
        const char *text;
        const char *problem;
    } bad[] = {
        {"sync nth=1 => EIO\n", "names a seed"},
        {"kelpie-plan 2 seed=1\n", "plan of version 1"},
        {"kelpie-plan 1 seed=1 options=quick\n", "option of faults="},
        {"kelpie-plan 1 seed=1 options=faults=many\n", "faults=none, calm"},
        {"kelpie-plan 1 seed=1 options=canary=x\n", "canary=NUMBER"},
        {"kelpie-plan 1 seed=1\ndo op=fly\n",
         "line 2, column 4: expected the name of an operation"},
        {"kelpie-plan 1 seed=1\n\ndo look=away\n", "line 3, column 4: expected the name of a look"},
        {"kelpie-plan 1 seed=1\ndo op=exec kind=what\n", "the name of a command"},
        {"kelpie-plan 1 seed=1\ndo op=start vm=20\n", "vm= and a number that fits"},
        {"kelpie-plan 1 seed=1\ndo op=start vm=-1\n", "vm= and a number that fits"},
        {"kelpie-plan 1 seed=1\ndo op=start client=5\n", "client= and a number"},
        {"kelpie-plan 1 seed=1\ndo op=start when=5\n", "not \"when=5\""},
    };
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        char problem[SIM_CASE_PROBLEM_MAX] = "";
        struct sim_case read = {0};
        assert_false(kelpie__sim_case_read(bad[i].text, &read, problem));
        if (strstr(problem, bad[i].problem) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", problem, bad[i].problem);
        }
        assert_null(read.plan);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_a_text_replays_its_run),
        cmocka_unit_test(test_without_operations_the_seed_draws),
        cmocka_unit_test(test_bad_lines_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
