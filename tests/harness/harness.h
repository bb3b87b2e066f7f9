/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The test harness for suites that use real VMs. Every test runs in a process of its own, under a
 * time limit, with a state directory of its own. When it has ended, however it ended, the harness
 * proves that it left nothing: no process (the harness is the subreaper of everything a test
 * starts), no mount, no unix socket, no file. Prints one line a test: "ok NAME (N ms)", "not ok
 * NAME: why", "skip NAME: why"; scripts/check counts them. With --jobs several run at once.
 */
#ifndef KELPIE_TESTS_HARNESS_H
#define KELPIE_TESTS_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct harness {
    const char *test;            /* its name */
    const char *backend;         /* "qemu", "vsock" (QEMU, with that channel) or "krun" */
    const char *root_directory;  /* the test's own; everything below belongs to it */
    const char *state_directory; /* root_directory/state */
    const char *runtime_directory;
    const char *shared_directory;  /* of all tests of this run, and removed with its end */
    const char *cache_directory;   /* shared by all runs: packed kernels and images */
    const char *libexec_directory; /* NULL: found beside the program */
    uint64_t seed;
    uint32_t scale;        /* counts of the contract are divided by it, never below 3 */
    uint32_t limit_factor; /* of every time limit: an emulated KVM is slow */
};

struct harness_test {
    const char *name;
    void (*run)(const struct harness *);
    uint32_t timeout_s;
};

struct harness_suite {
    const char *name;
    const struct harness_test *tests;
    size_t test_count;
    /* Names, then NULL: tests that measure, or take the whole machine. They run one by one, after
     * all others. NULL: there are none. */
    const char *const *alone;
};

/* Runs the tests named by the arguments, or all; returns the program's exit code. Options: --list,
 * --seed N (else DST_SEED, else drawn and printed), --scale N, --backend NAME, --jobs N (so many
 * tests at once, 1 by default), --keep (leave the directory of a failed test). */
int harness_main(int argc, char **argv, const struct harness_suite *suite);

/* A contract's count, divided by the run's scale, at least 3. */
uint32_t harness_count(const struct harness *harness, uint32_t full_count);

/* A deterministic stream of numbers from the run's seed; `stream` names an independent one. */
uint64_t harness_random(const struct harness *harness, const char *stream, uint64_t index);

/* Milliseconds of the monotonic clock. */
uint64_t harness_now_ms(void);

__attribute__((format(printf, 3, 4), noreturn)) void harness_fail(const char *file, int line,
                                                                  const char *format, ...);
__attribute__((format(printf, 1, 2), noreturn)) void harness_skip(const char *format, ...);

/* A check may do without a text; -Wpedantic of clang 14 would not have it. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wgnu-zero-variadic-macro-arguments"
#endif
#define HARNESS_CHECK(condition, ...)                                                              \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            harness_fail(__FILE__, __LINE__, #condition ": " __VA_ARGS__);                         \
        }                                                                                          \
    } while (0)

#endif
