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
    const char *problem = NULL;
    (void)state;
    assert_true(
        kelpie__fault_plan_parse("qmp.read role=monitor nth=7 => EIO; * p=0.02 max=3 => kill\n"
                                 "open path=*/x window=1s..2500ms => delay:40",
                                 &plan, &problem));
    assert_int_equal(plan.count, 3);
    assert_string_equal(plan.rules[0].point, "qmp.read");
    assert_string_equal(plan.rules[0].role, "monitor");
    assert_int_equal(plan.rules[0].value, 7);
    assert_int_equal(plan.rules[0].argument, EIO);
    assert_int_equal(plan.rules[1].value, 20000000);
    assert_int_equal(plan.rules[1].max, 3);
    assert_int_equal(plan.rules[2].value, 1000000000);
    assert_int_equal(plan.rules[2].end, UINT64_C(2500000000));
    assert_int_equal(plan.rules[2].argument, 40);
}

static void test_bad_plans_are_refused(void **state) {
    static const char *const bad[] = {
        "read",
        "read => EIO",
        "read nth=0 => EIO",
        "read nth=x => EIO",
        "read p=2 => EIO",
        "read nth=1 =>",
        "read nth=1 => explode",
        "read colour=red nth=1 => EIO",
        "read window=2s..1s => EIO",
        "read nth=1 => EIO and more",
    };
    struct kelpie_fault_plan plan;
    const char *problem = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i += 1) {
        assert_false(kelpie__fault_plan_parse(bad[i], &plan, &problem));
    }
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
    struct kelpie_fault_plan plan;
    const char *problem = NULL;
    (void)state;
    int file = mkstemp(path);
    setenv("KELPIE_FAULT_LOG", path, 1);
    failing_reads("read p=0.01 max=1 => EIO", "7", bits);
    unsetenv("KELPIE_FAULT_LOG");
    unlink(path);
    assert_int_equal(count_set(bits), 1);
    assert_true(read(file, text, sizeof(text) - 1) > 0);
    close(file);
    assert_true(kelpie__fault_plan_parse(text, &plan, &problem));
    assert_int_equal(plan.rules[0].trigger, KELPIE_FAULT_NTH);
    assert_true(bits[plan.rules[0].value - 1]);
    assert_int_equal(plan.rules[0].argument, EIO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_read),
        cmocka_unit_test(test_bad_plans_are_refused),
        cmocka_unit_test(test_glob),
        cmocka_unit_test(test_triggers),
        cmocka_unit_test(test_probability_follows_the_seed),
        cmocka_unit_test(test_bytes_are_changed_cut_and_dropped),
        cmocka_unit_test(test_delay_comes_late),
        cmocka_unit_test(test_log_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
