/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Fault plans. Goal: what is written is what fires, the same seed fires the same, and what is not
 * understood is an error. Method: a wrapped real table and a pipe.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/os_call.h"
#include "os/os_fault_plan.h"

static void test_plan_is_read(void **state) {
    struct kelpie_fault_plan plan;
    char problem[KELPIE_FAULT_PROBLEM_MAX] = "";
    (void)state;
    assert_true(kelpie__fault_plan_parse(
        "qmp.read role=monitor nth=7 => EIO; * p=0.02 max=3 => kill\n"
        "open path=*/x window=1s..2500ms => delay:40 # 1.204 s in open(/x); kill",
        &plan, problem));
    assert_int_equal(plan.count, 3);
    assert_string_equal(plan.rules[0].point, "qmp.read");
    assert_string_equal(plan.rules[0].role, "monitor");
    assert_int_equal(plan.rules[0].value, 7);
    assert_int_equal(plan.rules[0].argument, EIO);
    assert_int_equal(plan.rules[1].value, 20000000);
    assert_int_equal(plan.rules[1].max, 3);
    assert_true(plan.rules[2].has_window);
    assert_int_equal(plan.rules[2].window_begin_ns, 1000000000);
    assert_int_equal(plan.rules[2].window_end_ns, UINT64_C(2500000000));
    assert_int_equal(plan.rules[2].argument, 40);
}

/* Where each is wrong, and what was expected there. */
static void test_bad_plans_are_refused(void **state) {
    static const struct {
        const char *plan;
        const char *problem;
    } bad[] = {
        {"read", "line 1, column 5: expected \"=> ACTION\" at the rule's end"},
        {"read => EIO", "line 1, column 1: expected p=, nth=, every=, window= or after= for this"},
        {"read nth=0 => EIO", "line 1, column 10: expected a number from 1, not \"0\""},
        {"read nth=x => EIO", "line 1, column 10: expected a number from 1, not \"x\""},
        {"read p=2 => EIO", "line 1, column 8: expected a probability from 0 to 1, not \"2\""},
        {"read p=1.5 => EIO", "line 1, column 8: expected a probability from 0 to 1"},
        {"read p=-1 => EIO", "line 1, column 8: expected a probability from 0 to 1"},
        {"read nth=1 =>", "line 1, column 14: expected an action"},
        {"read nth=1 p=0.1 => EIO", "line 1, column 14: expected one of p=, nth=, every= only"},
        {"read nth=1 => explode", "line 1, column 15: expected an action, not \"explode\""},
        {"read nth=1 => EIO\nreed nth=1 => EIO",
         "line 2, column 1: expected an operation, a point or an alias, not \"reed\""},
        {"read colour=red nth=1 => EIO", "line 1, column 6: expected p=, nth=,"},
        {"read window=2s..1s => EIO", "line 1, column 13: expected a window as 10s..12s"},
        {"read nth=1 => EIO and more", "line 1, column 19: expected the rule's end, not \"and\""},
        {"read nth=1 => EIO:5x", "line 1, column 19: expected \"lie\", not \"5x\""},
        {"read nth=1 => kill:5", "line 1, column 20: expected no argument of this action"},
        {"read nth=1 => panic", "line 1, column 15: expected an action that \"read\" knows"},
        {"kelpie-plan 2\nread nth=1 => EIO",
         "line 1, column 13: expected a plan of version 1, not \"2\""},
        {"kelpie-plan 1 seed=abc\n", "line 1, column 20: expected a seed, a number, not \"abc\""},
        {"kelpie-plan 1 sed=4\n", "line 1, column 15: expected seed=, commit= or options="},
        {"qmp.stop nth=1 => fail", "line 1, column 1: expected no rule that needs the simulator"},
        {"boot fails p=0.5", "line 1, column 1: expected no rule that needs the simulator (point "},
        {"read vm=a nth=1 => EIO", "line 1, column 1: expected no rule that needs the simulator"},
        {"sync nth=1 => lie", "line 1, column 1: expected no rule that needs the simulator"},
        {"sync nth=1 => EIO:lie", "line 1, column 1: expected no rule that needs the simulator"},
        {"* nth=1 => stop:5s", "line 1, column 1: expected no rule that needs the simulator"},
    };
    static struct kelpie_fault_plan plan;
    char problem[KELPIE_FAULT_PROBLEM_MAX] = "";
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i += 1) {
        assert_false(kelpie__fault_plan_parse(bad[i].plan, &plan, problem));
        if (strncmp(problem, bad[i].problem, strlen(bad[i].problem)) != 0) {
            fail_msg("\"%s\": \"%s\", expected \"%s\"", bad[i].plan, problem, bad[i].problem);
        }
    }
}

/* What the simulator reads, and writes again in the same words. */
static void test_rules_are_written_as_they_are_read(void **state) {
    static const char *const lines[] = {
        "sync role=monitor path=*/snapshots/* nth=3 => EIO:lie",
        "* role=monitor birth=12 nth=217 => kill",
        "qmp.migrate p=0.100000000 => short:1",
        "agent.frame vm=a1 p=0.010000000 max=4 => mutate:0",
        "disk after=mark:manifest_renamed => power-loss:posix",
        "clock window=5s..6001ms => jump:-86400s",
        "* role=monitor window=1s..1000000001ns while=pending every=2 => stop:1500ms",
        "agent.read nth=9 => delay:40",
        "host window=1s..2s => swizzle:250ms",
        "guest.boot p=0.500000000 => panic",
        "disk after=mark:*/snapshots/* p=0.200000000 => rot",
    };
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    char text[KELPIE_FAULT_LINE_MAX];
    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i += 1) {
        assert_true(kelpie__fault_reader_open(&reader, lines[i]));
        if (kelpie__fault_reader_next(&reader, &rule) != 1) {
            fail_msg("\"%s\": %s", lines[i], reader.problem);
        }
        assert_int_equal(kelpie__fault_rule_format(&rule, text), strlen(lines[i]));
        assert_string_equal(text, lines[i]);
        assert_int_equal(kelpie__fault_reader_next(&reader, &rule), 0);
    }
}

static void test_header_comments_and_aliases(void **state) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    char text[KELPIE_FAULT_LINE_MAX];
    (void)state;
    assert_true(kelpie__fault_reader_open(
        &reader, "kelpie-plan 1 seed=0xff commit=0123abc options=disk=ext4,cost=1\n# found today\n"
                 "boot fails p=0.5; exec times out nth=2 # in a test\n\nsnapshot corrupted p=0.2"));
    assert_true(reader.header.is_given && reader.header.has_seed);
    assert_int_equal(reader.header.seed, 255);
    assert_string_equal(reader.header.commit, "0123abc");
    assert_string_equal(reader.header.options, "disk=ext4,cost=1");
    static const char *const expected[] = {
        "guest.boot p=0.500000000 => panic",
        "guest.exec nth=2 => hang",
        "disk after=mark:*/snapshots/* p=0.200000000 => rot",
    };
    for (size_t i = 0; i < 3; i += 1) {
        assert_int_equal(kelpie__fault_reader_next(&reader, &rule), 1);
        kelpie__ignore((int64_t)kelpie__fault_rule_format(&rule, text));
        assert_string_equal(text, expected[i]);
        assert_true(rule.is_simulated);
    }
    assert_int_equal(kelpie__fault_reader_next(&reader, &rule), 0);
    assert_true(kelpie__fault_reader_open(&reader, "boot fails p=0.5 => panic"));
    assert_int_equal(kelpie__fault_reader_next(&reader, &rule), -1);
    assert_string_equal(reader.problem,
                        "line 1, column 18: expected no action for an alias, not \"=>\"");
    assert_true(kelpie__fault_reader_open(&reader, "boot fails"));
    assert_int_equal(kelpie__fault_reader_next(&reader, &rule), -1);
}

/* Every action at every point that the simulator's words name can be read. */
static void test_every_point_and_action_is_read(void **state) {
    const char *point = NULL;
    const char *actions = NULL;
    uint32_t count = 0;
    (void)state;
    for (uint32_t i = 0; kelpie__fault_point(i, &point, &actions); i += 1) {
        for (uint32_t j = 0; j < kelpie__fault_word_count(); j += 1) {
            char plan[256];
            struct kelpie_fault_reader reader;
            struct kelpie_fault_rule rule;
            const struct kelpie_fault_word *word = kelpie__fault_word(j);
            enum kelpie_fault_point_kind kind = kelpie__fault_point_kind(point);
            const char *when = kind == KELPIE_FAULT_POINT_WORLD ? "after=mark:x" : "nth=1";
            snprintf(plan, sizeof(plan), "%s %s => %s", point, when, word->name);
            assert_true(kelpie__fault_reader_open(&reader, plan));
            bool knows = kelpie__fault_point_knows(point, kind, word);
            assert_int_equal(kelpie__fault_reader_next(&reader, &rule), knows ? 1 : -1);
            count += knows ? 1 : 0;
        }
    }
    assert_true(count > 200);
}

static void test_glob(void **state) {
    (void)state;
    assert_true(kelpie__fault_glob("*/snapshots/*", "/a/snapshots/b"));
    assert_true(kelpie__fault_glob("*qemu*", "/usr/bin/qemu-system-x86_64"));
    assert_false(kelpie__fault_glob("*/x", "/x/y"));
    assert_true(kelpie__fault_glob("*", ""));
}

/* Which of 200 reads of a byte fail, as bits, under this plan and seed. */
static void failing_reads(const char *plan, const char *seed, bool out[200]) {
    struct kelpie_os *inner = kelpie__os_linux_create();
    setenv("KELPIE_FAULT_SEED", seed, 1);
    struct kelpie_os *os = kelpie__os_fault_wrap(inner, "test", plan);
    int pipe[2];
    char byte = 0;
    assert_non_null(os);
    assert_int_equal(kelpie__os_pipe(os, pipe), 0);
    kelpie__os_label(os, pipe[0], "labelled");
    for (unsigned i = 0; i < 200; i += 1) {
        assert_int_equal(kelpie__os_write(os, pipe[1], "x", 1), 1);
        out[i] = kelpie__os_read(os, pipe[0], &byte, 1) == -EIO;
        if (out[i]) {
            assert_int_equal(kelpie__os_read(inner, pipe[0], &byte, 1), 1);
        }
    }
    kelpie__os_close(os, pipe[0]);
    kelpie__os_close(os, pipe[1]);
    kelpie__os_fault_unwrap(os);
    kelpie__os_linux_destroy(inner);
}

static unsigned count_set(const bool bits[200]) {
    unsigned count = 0;
    for (unsigned i = 0; i < 200; i += 1) {
        count += bits[i] ? 1 : 0;
    }
    return count;
}

static void test_triggers(void **state) {
    bool bits[200];
    (void)state;
    failing_reads("read nth=7 => EIO", "1", bits);
    assert_int_equal(count_set(bits), 1);
    assert_true(bits[6]);
    failing_reads("labelled.read every=50 => EIO", "1", bits);
    assert_int_equal(count_set(bits), 4);
    failing_reads("other.read every=1 => EIO", "1", bits);
    assert_int_equal(count_set(bits), 0);
    failing_reads("read every=1 max=3 => EIO", "1", bits);
    assert_int_equal(count_set(bits), 3);
    failing_reads("read role=nobody every=1 => EIO", "1", bits);
    assert_int_equal(count_set(bits), 0);
}

static void test_probability_follows_the_seed(void **state) {
    bool first[200];
    bool second[200];
    (void)state;
    failing_reads("read p=0.3 => EIO", "42", first);
    failing_reads("read p=0.3 => EIO", "42", second);
    assert_memory_equal(first, second, sizeof(first));
    assert_true(count_set(first) > 30 && count_set(first) < 90);
    failing_reads("read p=0.3 => EIO", "43", second);
    assert_memory_not_equal(first, second, sizeof(first));
}

static void test_bytes_are_changed_cut_and_dropped(void **state) {
    struct kelpie_os *inner = kelpie__os_linux_create();
    struct kelpie_os *os = kelpie__os_fault_wrap(
        inner, "test", "a.read nth=1 => mutate:3; b.read nth=1 => short:2; c.read nth=1 => drop");
    char bytes[8];
    (void)state;
    assert_non_null(os);
    const char *labels[3] = {"a", "b", "c"};
    for (unsigned i = 0; i < 3; i += 1) {
        int pipe[2];
        assert_int_equal(kelpie__os_pipe(os, pipe), 0);
        kelpie__os_label(os, pipe[0], labels[i]);
        assert_int_equal(kelpie__os_write(os, pipe[1], "12345678", 8), 8);
        int64_t got = kelpie__os_read(os, pipe[0], bytes, 8);
        assert_int_equal(got, i == 0 ? 8 : i == 1 ? 2 : -EAGAIN);
        assert_true(i != 0 || bytes[2] != '3');
        assert_true(i != 0 || (memcmp(bytes, "12", 2) == 0 && memcmp(bytes + 3, "45678", 5) == 0));
        kelpie__os_close(os, pipe[0]);
        kelpie__os_close(os, pipe[1]);
    }
    kelpie__os_fault_unwrap(os);
    kelpie__os_linux_destroy(inner);
}

/* A late reply wakes the loop when its time has come. */
static void test_delay_comes_late(void **state) {
    struct kelpie_os *inner = kelpie__os_linux_create();
    struct kelpie_os *os = kelpie__os_fault_wrap(inner, "test", "read nth=1 => delay:50");
    struct kelpie_os_event event;
    int pipe[2];
    char byte = 0;
    (void)state;
    assert_int_equal(kelpie__os_pipe(os, pipe), 0);
    assert_int_equal(kelpie__os_watch(os, pipe[0], KELPIE_OS_READABLE, 5), 0);
    assert_int_equal(kelpie__os_write(os, pipe[1], "x", 1), 1);
    assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
    int64_t start_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
    assert_int_equal(kelpie__os_read(os, pipe[0], &byte, 1), -EAGAIN);
    int count = 0;
    for (unsigned turn = 0; turn < 100 && count == 0; turn += 1) {
        count = kelpie__os_wait(os, &event, 1, start_ns + INT64_C(5000000000));
    }
    assert_int_equal(count, 1);
    assert_true(kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) - start_ns >= 50000000);
    assert_int_equal(kelpie__os_read(os, pipe[0], &byte, 1), 1);
    kelpie__os_close(os, pipe[0]);
    kelpie__os_close(os, pipe[1]);
    kelpie__os_fault_unwrap(os);
    kelpie__os_linux_destroy(inner);
}

/* What fired is written as a plan that fires it again. */
static void test_log_replays(void **state) {
    char path[] = "/tmp/kelpie-fault-XXXXXX";
    char text[256] = "";
    bool bits[200];
    static struct kelpie_fault_plan plan;
    char problem[KELPIE_FAULT_PROBLEM_MAX] = "";
    (void)state;
    int file = mkstemp(path);
    setenv("KELPIE_FAULT_LOG", path, 1);
    failing_reads("read p=0.01 max=1 => EIO", "7", bits);
    unsetenv("KELPIE_FAULT_LOG");
    unlink(path);
    assert_int_equal(count_set(bits), 1);
    assert_true(read(file, text, sizeof(text) - 1) > 0);
    close(file);
    assert_true(kelpie__fault_plan_parse(text, &plan, problem));
    assert_int_equal(plan.rules[0].trigger, KELPIE_FAULT_NTH);
    assert_true(bits[plan.rules[0].value - 1]);
    assert_int_equal(plan.rules[0].argument, EIO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_read),
        cmocka_unit_test(test_bad_plans_are_refused),
        cmocka_unit_test(test_rules_are_written_as_they_are_read),
        cmocka_unit_test(test_header_comments_and_aliases),
        cmocka_unit_test(test_every_point_and_action_is_read),
        cmocka_unit_test(test_glob),
        cmocka_unit_test(test_triggers),
        cmocka_unit_test(test_probability_follows_the_seed),
        cmocka_unit_test(test_bytes_are_changed_cut_and_dropped),
        cmocka_unit_test(test_delay_comes_late),
        cmocka_unit_test(test_log_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
