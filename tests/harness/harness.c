/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See harness.h. The order of a test: make its directory, fork, wait for its end or its limit, wait
 * for what it started to end by itself (a monitor outlives its last client by moments), then look
 * for leftovers and remove them. Tests are run by workers, processes that take the next test each
 * until there is none; every worker is the subreaper of its own tests alone, so that what one of
 * them leaves is never laid to another one's door.
 */
#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "leftovers.h"

enum {
    EXIT_SKIP = 77,
    SETTLE_MS = 5000, /* what a test started may take this long to end after it */
    JOBS_MAX = 16,
    PATH_BYTES = 512,
};

struct harness_options {
    const char *backend;
    uint64_t seed;
    uint32_t scale;
    uint32_t limit_factor;
    uint32_t jobs;
    bool keeps_directory;
};

struct harness_totals {
    _Atomic unsigned passed;
    _Atomic unsigned failed;
    _Atomic unsigned skipped;
};

/* What the workers share; in memory that they have in common. */
struct harness_run {
    const struct harness_suite *suite;
    const struct harness_options *options;
    int token[2];                      /* a pipe with one byte in it: who has it prints */
    char shared_directory[PATH_BYTES]; /* harness.h */
    struct harness_totals totals;
    _Atomic size_t next; /* of those below */
    size_t count;
    size_t chosen[]; /* places in the suite */
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

/* The test's own, below TMPDIR; told as a failure of the test when it cannot be made. */
static bool directory_make(const char *name, char out[PATH_BYTES]) {
    const char *base = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(out, PATH_BYTES, "%s/kelpie-test-XXXXXX", base);
    if (mkdtemp(out) == NULL) {
        printf("not ok %s: cannot make a directory in %s: %s\n", name, base, strerror(errno));
        return false;
    }
    return true;
}

static void test_run(const struct harness_test *test, struct harness_run *run) {
    const struct harness_options *options = run->options;
    char root[PATH_BYTES];
    char state[sizeof(root) + 16];
    char runtime[sizeof(root) + 16];
    if (!directory_make(test->name, root)) {
        run->totals.failed++;
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
        .shared_directory = run->shared_directory,
        .cache_directory = getenv("KELPIE_TEST_CACHE"),
        .libexec_directory = getenv("KELPIE_LIBEXEC"),
        .seed = options->seed,
        .scale = options->scale,
        .limit_factor = options->limit_factor,
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
    leftovers_settle(root, run->shared_directory, SETTLE_MS, leftovers, sizeof(leftovers));
    bool is_good = status == 0 && leftovers[0] == '\0';
    test_report(test, status, leftovers, took_ms, &run->totals);
    if (is_good || !options->keeps_directory) {
        leftovers_remove(root);
    } else {
        printf("# kept %s\n", root);
    }
    fflush(NULL);
}

/* ---- workers --------------------------------------------------------------------------------- */

/* What a test printed, as one piece. Whatever fails here costs its text, and so its row. */
static void output_pass_on(const struct harness_run *run, int file, int out) {
    static char bytes[65536];
    char token = 0;
    ssize_t count = 0;
    off_t place = 0;
    if (read(run->token[0], &token, 1) != 1) {
        return;
    }
    while ((count = pread(file, bytes, sizeof(bytes), place)) > 0) {
        ssize_t written = write(out, bytes, (size_t)count);
        place += written > 0 ? written : count;
    }
    if (write(run->token[1], &token, 1) != 1) {
        _exit(1);
    }
}

/* Never returns. With others beside it, what each test prints is kept until the test has ended. */
static void worker_run(struct harness_run *run, bool is_alone) {
    int out = is_alone ? -1 : dup(STDOUT_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (size_t i = run->next++; i < run->count; i = run->next++) {
        int file = is_alone ? -1 : memfd_create("output", MFD_CLOEXEC);
        if (file >= 0) {
            dup2(file, STDOUT_FILENO);
            dup2(file, STDERR_FILENO);
        }
        test_run(&run->suite->tests[run->chosen[i]], run);
        if (file >= 0) {
            output_pass_on(run, file, out);
            close(file);
        }
    }
    fflush(NULL);
    _exit(0);
}

/* All that are chosen, by so many workers; false when one of these did not end as it should. */
static bool workers_run(struct harness_run *run, uint32_t jobs) {
    bool is_good = true;
    uint32_t worker_count = jobs < run->count ? jobs : (uint32_t)run->count;
    run->next = 0;
    fflush(NULL);
    for (uint32_t i = 0; i < worker_count; i++) {
        pid_t worker = fork();
        if (worker == 0) {
            worker_run(run, worker_count == 1);
        }
        is_good = is_good && worker > 0;
    }
    for (uint32_t i = 0; i < worker_count; i++) {
        int status = 0;
        is_good = wait(&status) > 0 && status == 0 && is_good;
    }
    return is_good;
}

/* ---- what is run ----------------------------------------------------------------------------- */

static bool test_is_chosen(const char *name, int argc, char **argv, int first_name) {
    for (int i = first_name; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return true;
        }
    }
    return first_name >= argc;
}

static bool test_is_alone(const struct harness_suite *suite, const char *name) {
    const char *const *alone = suite->alone;
    while (alone != NULL && *alone != NULL && strcmp(*alone, name) != 0) {
        alone++;
    }
    return alone != NULL && *alone != NULL;
}

/* Those of one kind: that run beside others, or alone. */
static void tests_choose(struct harness_run *run, int argc, char **argv, int first_name,
                         bool are_alone) {
    run->count = 0;
    for (size_t i = 0; i < run->suite->test_count; i++) {
        const char *name = run->suite->tests[i].name;
        bool is_alone = run->options->jobs > 1 && test_is_alone(run->suite, name);
        if (is_alone == are_alone && test_is_chosen(name, argc, argv, first_name)) {
            run->chosen[run->count] = i;
            run->count++;
        }
    }
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
        } else if (strcmp(argv[i], "--jobs") == 0) {
            out->jobs = (uint32_t)strtoul(value, NULL, 0);
            i++;
        } else if (strcmp(argv[i], "--backend") == 0) {
            out->backend = value;
            i++;
        } else {
            return -1;
        }
    }
    bool is_in_range = out->scale > 0 && out->limit_factor > 0 && out->jobs > 0;
    return is_in_range && out->jobs <= JOBS_MAX ? i : -1;
}

static struct harness_run *run_create(const struct harness_suite *suite,
                                      const struct harness_options *options) {
    size_t bytes = sizeof(struct harness_run) + suite->test_count * sizeof(size_t);
    struct harness_run *run =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run == MAP_FAILED) {
        return NULL;
    }
    run->suite = suite;
    run->options = options;
    bool is_made = pipe2(run->token, O_CLOEXEC) == 0 && write(run->token[1], "", 1) == 1;
    return is_made && directory_make(suite->name, run->shared_directory) ? run : NULL;
}

static int usage(const char *program) {
    fprintf(stderr,
            "usage: %s [--list] [--seed N] [--scale N] [--limit-factor N] [--backend NAME] "
            "[--jobs N] [--keep] [TEST...]\n",
            program);
    return 2;
}

int harness_main(int argc, char **argv, const struct harness_suite *suite) {
    struct harness_options options = {
        .backend = "qemu", .seed = seed_default(), .scale = 10, .limit_factor = 1, .jobs = 1};
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < suite->test_count; i++) {
            puts(suite->tests[i].name);
        }
        return 0;
    }
    int first_name = options_parse(argc, argv, &options);
    if (first_name < 0) {
        return usage(argv[0]);
    }
    struct harness_run *run = run_create(suite, &options);
    if (run == NULL) {
        return 1;
    }
    const struct harness_totals *totals = &run->totals;
    signal(SIGPIPE, SIG_IGN);
    printf("# suite %s backend %s seed %llu scale %u jobs %u\n", suite->name, options.backend,
           (unsigned long long)options.seed, options.scale, options.jobs);
    tests_choose(run, argc, argv, first_name, false);
    bool is_good = workers_run(run, options.jobs);
    tests_choose(run, argc, argv, first_name, true);
    is_good = workers_run(run, 1) && is_good;
    leftovers_remove(run->shared_directory);
    printf("# %s: %u passed, %u failed, %u skipped\n", suite->name, totals->passed, totals->failed,
           totals->skipped);
    bool has_run = totals->passed + totals->failed + totals->skipped > 0;
    return is_good && totals->failed == 0 && has_run ? 0 : 1;
}
