/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See harness.h. The order of a test: make its directory, fork, wait for its end or its limit, wait
 * for what it started to end by itself (a monitor outlives its last client by moments), then look
 * for leftovers and remove them.
 */
#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "leftovers.h"

enum {
    EXIT_SKIP = 77,
    SETTLE_MS = 5000, /* what a test started may take this long to end after it */
};

struct harness_options {
    const char *backend;
    uint64_t seed;
    uint32_t scale;
    uint32_t limit_factor;
    bool keeps_directory;
};

struct harness_totals {
    unsigned passed;
    unsigned failed;
    unsigned skipped;
};

uint64_t harness_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint32_t harness_count(const struct harness *harness, uint32_t full_count) {
    uint32_t count = full_count / harness->scale;
    return count < 3 ? 3 : count;
}

uint64_t harness_random(const struct harness *harness, const char *stream, uint64_t index) {
    uint64_t value = harness->seed ^ 0x9e3779b97f4a7c15u;
    for (const char *character = stream; *character != '\0'; character++) {
        value = (value ^ (unsigned char)*character) * 0x100000001b3u;
    }
    value += index * 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

void harness_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "# %s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    fflush(NULL);
    _exit(1);
}

void harness_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *may_not = getenv("KELPIE_TEST_MAY_NOT_SKIP"); /* what it needs was made for it */
    fputs(may_not != NULL ? "# may not be skipped: " : "# skipped: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    fflush(NULL);
    _exit(may_not != NULL ? 1 : EXIT_SKIP);
}

/* Waits until `child` has ended or the limit is reached; then it is killed. Returns waitpid's
 * status, or -1. */
static int test_wait(pid_t child, uint32_t timeout_s) {
    int process = (int)syscall(SYS_pidfd_open, child, 0);
    struct pollfd poll_process = {.fd = process, .events = POLLIN};
    int ready = process < 0 ? -1 : poll(&poll_process, 1, (int)(timeout_s * 1000));
    if (ready <= 0) {
        kill(child, SIGKILL);
    }
    if (process >= 0) {
        close(process);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return ready > 0 ? status : -1;
}

static void test_child(const struct harness_test *test, const struct harness *harness) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    test->run(harness);
    fflush(NULL);
    _exit(0);
}

static void test_report(const struct harness_test *test, int status, const char *leftovers,
                        uint64_t took_ms, struct harness_totals *totals) {
    const char *name = test->name;
    if (status == -1) {
        printf("not ok %s: still running after its limit of %u s\n", name, test->timeout_s);
    } else if (WIFSIGNALED(status)) {
        printf("not ok %s: killed by signal %d\n", name, WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != EXIT_SKIP) {
        printf("not ok %s: see above (exit code %d)\n", name, WEXITSTATUS(status));
    } else if (leftovers[0] != '\0') {
        printf("not ok %s: left behind: %s\n", name, leftovers);
    } else if (WEXITSTATUS(status) == EXIT_SKIP) {
        printf("skip %s: see above\n", name);
        totals->skipped++;
        return;
    } else {
        printf("ok %s (%llu ms)\n", name, (unsigned long long)took_ms);
        totals->passed++;
        return;
    }
    totals->failed++;
}

static void test_run(const struct harness_test *test, const struct harness_options *options,
                     struct harness_totals *totals) {
    const char *base = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    char root[512];
    char state[sizeof(root) + 16];
    char runtime[sizeof(root) + 16];
    snprintf(root, sizeof(root), "%s/kelpie-test-XXXXXX", base);
    if (mkdtemp(root) == NULL) {
        printf("not ok %s: cannot make a directory in %s: %s\n", test->name, base, strerror(errno));
        totals->failed++;
        return;
    }
    snprintf(state, sizeof(state), "%s/state", root);
    snprintf(runtime, sizeof(runtime), "%s/run", root);
    struct harness harness = {
        .test = test->name,
        .backend = options->backend,
        .root_directory = root,
        .state_directory = state,
        .runtime_directory = runtime,
        .cache_directory = getenv("KELPIE_TEST_CACHE"),
        .libexec_directory = getenv("KELPIE_LIBEXEC"),
        .seed = options->seed,
        .scale = options->scale,
    };
    uint64_t started_ms = harness_now_ms();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        test_child(test, &harness);
    }
    int status = child < 0 ? -1 : test_wait(child, test->timeout_s * options->limit_factor);
    uint64_t took_ms = harness_now_ms() - started_ms;
    char leftovers[1024] = "";
    leftovers_settle(root, SETTLE_MS, leftovers, sizeof(leftovers));
    bool is_good = status == 0 && leftovers[0] == '\0';
    test_report(test, status, leftovers, took_ms, totals);
    if (is_good || !options->keeps_directory) {
        leftovers_remove(root);
    } else {
        printf("# kept %s\n", root);
    }
    fflush(NULL);
}

static bool test_is_chosen(const char *name, int argc, char **argv, int first_name) {
    for (int i = first_name; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return true;
        }
    }
    return first_name >= argc;
}

static uint64_t seed_default(void) {
    const char *given = getenv("DST_SEED");
    return given != NULL ? (uint64_t)strtoull(given, NULL, 0)
                         : (uint64_t)time(NULL) ^ (uint64_t)getpid();
}

/* Returns the index of the first test name, or -1 when an option is not understood. */
static int options_parse(int argc, char **argv, struct harness_options *out) {
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--keep") == 0) {
            out->keeps_directory = true;
        } else if (strcmp(argv[i], "--seed") == 0) {
            out->seed = strtoull(value, NULL, 0);
            i++;
        } else if (strcmp(argv[i], "--scale") == 0) {
            out->scale = (uint32_t)strtoul(value, NULL, 0);
            i++;
        } else if (strcmp(argv[i], "--limit-factor") == 0) {
            out->limit_factor = (uint32_t)strtoul(value, NULL, 0);
            i++;
        } else if (strcmp(argv[i], "--backend") == 0) {
            out->backend = value;
            i++;
        } else {
            return -1;
        }
    }
    return out->scale > 0 && out->limit_factor > 0 ? i : -1;
}

int harness_main(int argc, char **argv, const char *suite, const struct harness_test *tests,
                 size_t test_count) {
    struct harness_options options = {
        .backend = "qemu", .seed = seed_default(), .scale = 10, .limit_factor = 1};
    struct harness_totals totals = {0};
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < test_count; i++) {
            puts(tests[i].name);
        }
        return 0;
    }
    int first_name = options_parse(argc, argv, &options);
    if (first_name < 0) {
        fprintf(stderr,
                "usage: %s [--list] [--seed N] [--scale N] [--limit-factor N] [--backend NAME] "
                "[--keep] [TEST...]\n",
                argv[0]);
        return 2;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGPIPE, SIG_IGN);
    printf("# suite %s backend %s seed %llu scale %u\n", suite, options.backend,
           (unsigned long long)options.seed, options.scale);
    for (size_t i = 0; i < test_count; i++) {
        if (test_is_chosen(tests[i].name, argc, argv, first_name)) {
            test_run(&tests[i], &options, &totals);
        }
    }
    printf("# %s: %u passed, %u failed, %u skipped\n", suite, totals.passed, totals.failed,
           totals.skipped);
    bool has_run = totals.passed + totals.failed + totals.skipped > 0;
    return totals.failed == 0 && has_run ? 0 : 1;
}
