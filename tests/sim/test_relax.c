/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Rules that name a call by its number, as rules that stay when operations are left out. Goal: each
 * form is the rule that its name says, is understood by the reader of plans, and keeps the comment,
 * so that it can be changed again; what has no such form is left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "simcli/relax.h"

#define KILL "* role=monitor birth=12 nth=217 => kill # 7.204 s in read(agent) for vm-3"

static void check_line(const char *line, enum simcli_relaxed how, const char *expected) {
    char out[SIMCLI_RELAX_LINE_MAX];
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    assert_true(kelpie__simcli_relax_line(line, strlen(line), how, out));
    assert_string_equal(out, expected);
    assert_true(kelpie__fault_reader_open(&reader, out));
    assert_int_equal(kelpie__fault_reader_next(&reader, &rule), 1);
}

static bool has_form(const char *line, enum simcli_relaxed how) {
    char out[SIMCLI_RELAX_LINE_MAX];
    return kelpie__simcli_relax_line(line, strlen(line), how, out);
}

static void test_each_form(void **state) {
    kelpie__ignore(state == NULL);
    check_line(KILL, SIMCLI_RELAXED_TIME_OF_VM,
               "* role=monitor vm=vm-3 window=7204ms..8204ms max=1 => kill"
               " # 7.204 s in read(agent) for vm-3");
    check_line(KILL, SIMCLI_RELAXED_NUMBER_OF_VM,
               "* role=monitor vm=vm-3 nth=217 max=1 => kill # 7.204 s in read(agent) for vm-3");
    check_line(KILL, SIMCLI_RELAXED_NEAR_OF_VM,
               "* role=monitor vm=vm-3 window=5204ms..9204ms nth=217 max=1 => kill"
               " # 7.204 s in read(agent) for vm-3");
    check_line(KILL, SIMCLI_RELAXED_TIME,
               "* role=monitor window=7204ms..8204ms max=1 => kill"
               " # 7.204 s in read(agent) for vm-3");
    check_line(KILL, SIMCLI_RELAXED_NUMBER,
               "* role=monitor nth=217 => kill # 7.204 s in read(agent) for vm-3");
}

static void test_without_a_vm(void **state) {
    static const char line[] = "sync role=client birth=2 nth=3 => EIO:lie # 0.900 s in sync()";
    kelpie__ignore(state == NULL);
    assert_false(has_form(line, SIMCLI_RELAXED_TIME_OF_VM));
    assert_false(has_form(line, SIMCLI_RELAXED_NUMBER_OF_VM));
    check_line(line, SIMCLI_RELAXED_NEAR, /* no time is before the beginning */
               "sync role=client window=0s..2900ms nth=3 max=1 => EIO:lie # 0.900 s in sync()");
}

static void test_what_is_left_alone(void **state) {
    static const char *const lines[] = {
        "kelpie-plan 1 seed=4",
        "",
        "# a comment",
        "* role=monitor birth=12 nth=217 => kill", /* when, nobody knows */
        "disk window=7s..8s => full:3s # 7.170 s in its window",
        "do op=create value=1",
        "* role=monitor p=0.1 => kill # 7.204 s in read()",
    };
    kelpie__ignore(state == NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(lines); i += 1) {
        for (uint32_t how = 0; how < SIMCLI_RELAXED_COUNT; how += 1) {
            assert_false(has_form(lines[i], (enum simcli_relaxed)how));
        }
    }
}

/* A number near a time, and a mark's number, become a time. */
static void test_again(void **state) {
    kelpie__ignore(state == NULL);
    check_line("rename role=client window=124ms..4124ms nth=7 max=1 => EIO # 2.124 s in rename(x)",
               SIMCLI_RELAXED_TIME,
               "rename role=client window=2124ms..3124ms max=1 => EIO # 2.124 s in rename(x)");
    check_line("disk after=mark:*/snapshots/* nth=6 => rot # 5.775 s after /a/snapshots/b",
               SIMCLI_RELAXED_TIME,
               "disk after=mark:*/snapshots/* window=5775ms..6775ms max=1 => rot"
               " # 5.775 s after /a/snapshots/b");
}

static void test_numbers(void **state) {
    static const char near[] = "read role=qemu window=1s..2s nth=9 max=1 => short:1 # 1.500 s in x";
    char out[SIMCLI_RELAX_LINE_MAX];
    kelpie__ignore(state == NULL);
    assert_int_equal(kelpie__simcli_line_number(near, strlen(near)), 9);
    assert_int_equal(kelpie__simcli_line_number(KILL, strlen(KILL)), 0); /* of a birth */
    assert_true(kelpie__simcli_renumber_line(near, strlen(near), 4, out));
    assert_string_equal(out, "read role=qemu window=1s..2s nth=4 max=1 => short:1 # 1.500 s in x");
}

/* The last " for " names the VM: a path may hold one. */
static void test_a_path_with_the_word(void **state) {
    kelpie__ignore(state == NULL);
    check_line("open role=monitor birth=3 nth=1 => EMFILE # 1.000 s in open(a for b) for vm-0",
               SIMCLI_RELAXED_NUMBER_OF_VM,
               "open role=monitor vm=vm-0 nth=1 max=1 => EMFILE"
               " # 1.000 s in open(a for b) for vm-0");
}

static void test_a_plan(void **state) {
    kelpie__ignore(state == NULL);
    char *relaxed =
        kelpie__simcli_relax_plan("kelpie-plan 1 seed=4\n" KILL "\nhost window=1s..2s => "
                                  "power-loss # 1.200 s in its window\n",
                                  SIMCLI_RELAXED_NUMBER_OF_VM);
    assert_non_null(relaxed);
    assert_string_equal(relaxed, "kelpie-plan 1 seed=4\n"
                                 "* role=monitor vm=vm-3 nth=217 max=1 => kill"
                                 " # 7.204 s in read(agent) for vm-3\n"
                                 "host window=1s..2s => power-loss # 1.200 s in its window\n");
    free(relaxed);
    assert_null(kelpie__simcli_relax_plan("kelpie-plan 1 seed=4\n", SIMCLI_RELAXED_TIME));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_form),
        cmocka_unit_test(test_without_a_vm),
        cmocka_unit_test(test_what_is_left_alone),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_a_path_with_the_word),
        cmocka_unit_test(test_a_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
