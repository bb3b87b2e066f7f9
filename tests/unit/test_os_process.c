/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Processes behind the seam. Goal: a child gets what the spawn says and nothing else, its end is
 * told, and no embedder's wait() ever sees one of the library's. Method: small shell commands that
 * print what they find.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_call.h"

static int make(void **state) {
    *state = kelpie__os_linux_create();
    return *state == NULL ? -1 : 0;
}

static int end(void **state) {
    kelpie__os_linux_destroy(*state);
    return 0;
}

static void wait_readable(int handle) {
    struct pollfd entry = {.fd = handle, .events = POLLIN};
    assert_int_equal(poll(&entry, 1, 10000), 1);
}

/* Runs `sh -c script` as the spawn says; its stdout, up to 1 KiB, and its end. */
static struct kelpie_os_exit run(struct kelpie_os *os, struct kelpie_os_spawn *spawn,
                                 const char *script, char out[1024]) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    struct kelpie_os_exit exit = {0};
    int handles[3] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    int pipe[2];
    int process = -1;
    size_t used = 0;
    int64_t count = 1;
    assert_int_equal(kelpie__os_pipe(os, pipe), 0);
    handles[1] = pipe[1];
    spawn->path = "/bin/sh";
    spawn->argv = argv;
    spawn->handles = handles;
    spawn->handle_count = 3;
    spawn->cgroup = KELPIE_OS_NO_HANDLE;
    assert_int_equal(kelpie__os_spawn(os, spawn, &process, NULL, NULL), 0);
    kelpie__os_close(os, pipe[1]);
    while (count > 0 && used < 1023) {
        wait_readable(pipe[0]);
        count = kelpie__os_read(os, pipe[0], out + used, 1023 - used);
        used += count > 0 ? (size_t)count : 0;
    }
    out[used] = '\0';
    kelpie__os_close(os, pipe[0]);
    wait_readable(process); /* a process handle is readable at its end */
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    kelpie__os_close(os, process);
    return exit;
}

static void test_child_has_only_its_handles(void **state) {
    struct kelpie_os_spawn spawn = {0};
    char out[1024];
    int extra = open("/dev/null", 0);
    struct kelpie_os_exit exit = run(
        *state, &spawn,
        "for f in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$f && echo $f; done; exit 3", out);
    assert_string_equal(out, "0\n1\n2\n");
    assert_int_equal(exit.value, 3);
    assert_false(exit.is_signalled);
    close(extra);
}

static void test_child_is_as_the_spawn_says(void **state) {
    const struct kelpie_os_limit limits[] = {{RLIMIT_NOFILE, 77, 88}};
    const char *const environment[] = {"ONLY=this", NULL};
    struct kelpie_os_spawn spawn = {.directory = "/proc",
                                    .environment = environment,
                                    .limits = limits,
                                    .limit_count = 1,
                                    .flags = KELPIE_OS_SPAWN_NEW_SESSION |
                                             KELPIE_OS_SPAWN_NO_NEW_PRIVILEGES};
    char out[1024];
    signal(SIGHUP,
           SIG_DFL); /* what is ignored here stays ignored there: this may be run by nohup */
    run(*state, &spawn,
        "pwd; echo $ONLY; ulimit -n; "
        "read -r _ _ _ _ _ s _ </proc/$$/stat; test $s = $$ && echo session; "
        "grep NoNewPrivs /proc/$$/status; grep SigIgn /proc/$$/status",
        out);
    assert_string_equal(out,
                        "/proc\nthis\n77\nsession\nNoNewPrivs:\t1\nSigIgn:\t0000000000000000\n");
}

static void test_credentials(void **state) {
    const uint32_t groups[] = {7, 9};
    struct kelpie_os_spawn spawn = {.flags = KELPIE_OS_SPAWN_CREDENTIALS,
                                    .uid = 12,
                                    .gid = 34,
                                    .groups = groups,
                                    .group_count = 2};
    char out[1024];
    if (geteuid() != 0) {
        skip();
    }
    run(*state, &spawn, "id -u; id -g; id -G", out);
    assert_string_equal(out, "12\n34\n34 7 9\n");
}

static void test_handles_that_collide(void **state) {
    struct kelpie_os *os = *state;
    int pipes[3][2];
    for (unsigned i = 0; i < 3; i += 1) {
        assert_int_equal(kelpie__os_pipe(os, pipes[i]), 0);
    }
    /* The child's 3, 4 and 5 are this process's in another order, and may have these very numbers.
     */
    const int handles[6] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE,
                            pipes[1][1],         pipes[2][1],         pipes[0][1]};
    const char *const argv[] = {"sh", "-c", "printf a >&3; printf b >&4; printf c >&5", NULL};
    const struct kelpie_os_spawn spawn = {.path = "/bin/sh",
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 6,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    int process = -1;
    char wanted[3] = {'c', 'a', 'b'};
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, NULL, NULL), 0);
    for (unsigned i = 0; i < 3; i += 1) {
        char byte = 0;
        wait_readable(pipes[i][0]);
        assert_int_equal(kelpie__os_read(os, pipes[i][0], &byte, 1), 1);
        assert_int_equal(byte, wanted[i]);
        kelpie__os_close(os, pipes[i][0]);
        kelpie__os_close(os, pipes[i][1]);
    }
    struct kelpie_os_exit exit;
    wait_readable(process);
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    kelpie__os_close(os, process);
}

static void fails(struct kelpie_os *os, const char *path, const char *directory, uint32_t flags,
                  int status, const char *step) {
    const char *const argv[] = {path, NULL};
    const char *found = "";
    const struct kelpie_os_spawn spawn = {.path = path,
                                          .argv = argv,
                                          .directory = directory,
                                          .flags = flags,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    int process = -1;
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, NULL, &found), status);
    assert_string_equal(found, step);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* and is reaped */
    assert_int_equal(errno, ECHILD);
}

static void test_failures_name_their_step(void **state) {
    fails(*state, "/no/such/program", NULL, 0, -ENOENT, "exec");
    fails(*state, "no-such-program", NULL, KELPIE_OS_SPAWN_SEARCH_PATH, -ENOENT, "exec");
    fails(*state, "/tmp", NULL, 0, -EACCES, "exec");
    fails(*state, "/bin/true", "/no/such/directory", 0, -ENOENT, "working directory");
}

static void test_signal_ends_it(void **state) {
    struct kelpie_os *os = *state;
    const char *const argv[] = {"sleep", "100", NULL};
    const struct kelpie_os_spawn spawn = {.path = "sleep",
                                          .argv = argv,
                                          .flags = KELPIE_OS_SPAWN_SEARCH_PATH,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    struct kelpie_os_exit exit;
    int process = -1;
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, NULL, NULL), 0);
    assert_int_equal(kelpie__os_reap(os, process, &exit), -EAGAIN);
    assert_int_equal(kelpie__os_signal(os, process, SIGTERM), 0);
    wait_readable(process);
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    assert_true(exit.is_signalled);
    assert_int_equal(exit.value, SIGTERM);
    kelpie__os_close(os, process);
}

static void test_orphan_is_never_seen(void **state) {
    struct kelpie_os *os = *state;
    const char *const argv[] = {"sleep", "0.3", NULL};
    const struct kelpie_os_spawn spawn = {.path = "/bin/sleep",
                                          .argv = argv,
                                          .flags = KELPIE_OS_SPAWN_ORPHAN,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    int32_t pid = 0;
    assert_int_equal(kelpie__os_spawn(os, &spawn, NULL, &pid, NULL), 0);
    assert_true(pid > 0);
    assert_int_equal(waitpid(-1, NULL, __WALL), -1);
    assert_int_equal(errno, ECHILD);
    int process = kelpie__os_open_process(os, pid);
    assert_true(process >= 0);
    wait_readable(process);
    kelpie__os_close(os, process);
}

/* A middle process spawns a child that dies with it, tells its number, and is killed. */
static void test_child_dies_with_its_parent(void **state) {
    struct kelpie_os *os = *state;
    int told[2];
    int32_t pid = 0;
    assert_int_equal(pipe(told), 0);
    pid_t middle = fork();
    if (middle == 0) {
        const char *const argv[] = {"sleep", "100", NULL};
        const struct kelpie_os_spawn spawn = {.path = "/bin/sleep",
                                              .argv = argv,
                                              .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                              .cgroup = KELPIE_OS_NO_HANDLE};
        int process = -1;
        int status = kelpie__os_spawn(os, &spawn, &process, &pid, NULL);
        _exit(status == 0 && write(told[1], &pid, sizeof(pid)) == (ssize_t)sizeof(pid) ? pause()
                                                                                       : 1);
    }
    assert_int_equal(read(told[0], &pid, sizeof(pid)), sizeof(pid));
    int process = kelpie__os_open_process(os, pid);
    assert_true(process >= 0);
    kill(middle, SIGKILL);
    waitpid(middle, NULL, 0);
    wait_readable(process);
    kelpie__os_close(os, process);
    close(told[0]);
    close(told[1]);
}

/* ---- a child in advance ---------------------------------------------------------------------- */

/* One that waits, with a pipe for each of its streams: these are their other ends. */
struct ready {
    struct kelpie_os *os; /* a guest's */
    int32_t pid;
    int ours[3];
};

static struct ready ready_make(void) {
    struct ready ready = {.os = kelpie__os_linux_create_guest()};
    int theirs[3];
    assert_non_null(ready.os);
    for (int i = 0; i < 3; i += 1) {
        int ends[2];
        assert_int_equal(kelpie__os_pipe(ready.os, ends), 0);
        ready.ours[i] = ends[i == 0 ? 1 : 0];
        theirs[i] = ends[i == 0 ? 0 : 1];
    }
    const struct kelpie_os_spawn spawn = {
        .handles = theirs, .handle_count = 3, .cgroup = KELPIE_OS_NO_HANDLE};
    int status = kelpie__os_make_ready(ready.os, &spawn, &ready.pid);
    for (int i = 0; i < 3; i += 1) {
        kelpie__os_close(ready.os, theirs[i]);
    }
    if (status == -ENOSYS) { /* a processor for which it is not there */
        skip();
    }
    assert_int_equal(status, 0);
    return ready;
}

static int ready_run(const struct ready *ready, struct kelpie_os_spawn *spawn, const char *script,
                     bool has_input, const char **out_step) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    const int handles[3] = {has_input ? 0 : KELPIE_OS_NO_HANDLE, 1, 2};
    spawn->path = spawn->path != NULL ? spawn->path : "/bin/sh";
    spawn->argv = argv;
    spawn->handles = handles;
    spawn->handle_count = 3;
    spawn->cgroup = KELPIE_OS_NO_HANDLE;
    return kelpie__os_run_ready(ready->os, ready->pid, spawn, out_step);
}

static void ready_read(const struct ready *ready, int stream, char out[1024]) {
    size_t used = 0;
    int64_t count = 1;
    while (count > 0 && used < 1023) {
        wait_readable(ready->ours[stream]);
        count = kelpie__os_read(ready->os, ready->ours[stream], out + used, 1023 - used);
        used += count > 0 ? (size_t)count : 0;
    }
    assert_int_equal(count, 0); /* nobody else has the other end */
    out[used] = '\0';
}

static void ready_close(struct ready *ready) {
    for (int i = 0; i < 3; i += 1) {
        kelpie__os_close(ready->os, ready->ours[i]);
    }
    kelpie__os_linux_destroy(ready->os);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* it is reaped */
    assert_int_equal(errno, ECHILD);
}

static void ready_ends(struct ready *ready, int wanted) {
    int status = 0;
    assert_int_equal(waitpid(ready->pid, &status, 0), ready->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), wanted);
    ready_close(ready);
}

static void ready_says(struct ready *ready, struct kelpie_os_spawn *spawn, const char *script,
                       const char *wanted) {
    const char *step = NULL;
    char out[1024];
    assert_int_equal(ready_run(ready, spawn, script, false, &step), 0);
    ready_read(ready, 1, out);
    assert_string_equal(out, wanted);
    ready_ends(ready, 0);
}

/* Nothing of what it is told is older than its orders, but for its streams. */
static void test_ready_is_as_its_orders_say(void **state) {
    const struct kelpie_os_limit limits[] = {{RLIMIT_NOFILE, 77, 88}};
    const char *environment[] = {"ONLY=before", NULL};
    struct kelpie_os_spawn spawn = {.directory = "/proc",
                                    .environment = environment,
                                    .limits = limits,
                                    .limit_count = 1,
                                    .flags = KELPIE_OS_SPAWN_NEW_SESSION};
    const char *step = NULL;
    char out[1024];
    assert_non_null(*state);
    signal(SIGHUP, SIG_DFL); /* as above */
    struct ready ready = ready_make();
    environment[0] = "ONLY=this";
    /* Without grep: a shell has its signals blocked while it starts a program. */
    int status =
        ready_run(&ready, &spawn,
                  "pwd; echo $ONLY; ulimit -n; read -r line; echo \"$line\";"
                  "read -r _ _ _ _ _ s _ </proc/$$/stat; test $s = $$ && echo session;"
                  "for f in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$f && echo $f;"
                  "done; while read -r l; do case $l in SigBlk*|SigIgn*) echo \"$l\";; esac;"
                  "done </proc/$$/status; echo wrong >&2; exit 3",
                  true, &step);
    assert_int_equal(status, 0);
    assert_int_equal(kelpie__os_write(ready.os, ready.ours[0], "given\n", 6), 6);
    ready_read(&ready, 1, out);
    assert_string_equal(out, "/proc\nthis\n77\ngiven\nsession\n0\n1\n2\n"
                             "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    ready_read(&ready, 2, out);
    assert_string_equal(out, "wrong\n");
    ready_ends(&ready, 3);
}

static void test_ready_without_input(void **state) {
    struct kelpie_os_spawn spawn = {.flags = KELPIE_OS_SPAWN_NEW_SESSION};
    assert_non_null(*state);
    struct ready ready = ready_make();
    ready_says(&ready, &spawn, "readlink /proc/$$/fd/0; cat", "/dev/null\n");
}

static void test_ready_as_another_user(void **state) {
    const uint32_t groups[] = {7, 9};
    struct kelpie_os_spawn spawn = {.flags = KELPIE_OS_SPAWN_CREDENTIALS,
                                    .uid = 12,
                                    .gid = 34,
                                    .groups = groups,
                                    .group_count = 2};
    assert_non_null(*state);
    if (geteuid() != 0) {
        skip();
    }
    struct ready ready = ready_make();
    ready_says(&ready, &spawn, "id -u; id -g; id -G", "12\n34\n34 7 9\n");
}

/* It is used up all the same. */
static void test_ready_fails_as_a_spawn(void **state) {
    static const struct {
        const char *path;
        const char *directory;
        int status;
        const char *step;
    } cases[] = {{"/no/such/program", NULL, -ENOENT, "exec"},
                 {"/tmp", NULL, -EACCES, "exec"},
                 {"/bin/sh", "/no/such/directory", -ENOENT, "working directory"}};
    assert_non_null(*state);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1) {
        struct kelpie_os_spawn spawn = {.path = cases[i].path, .directory = cases[i].directory};
        const char *step = "";
        char out[1024];
        struct ready ready = ready_make();
        assert_int_equal(ready_run(&ready, &spawn, "echo never", false, &step), cases[i].status);
        assert_string_equal(step, cases[i].step);
        ready_read(&ready, 1, out);
        assert_string_equal(out, "");
        ready_close(&ready);
    }
}

static int64_t now_ms(struct kelpie_os *os) {
    return kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) / 1000000;
}

/* By anybody, before it has its orders. One that stands still is waited for 200 ms. */
static void ready_is_gone(int signal, int64_t from_ms, int64_t to_ms) {
    struct kelpie_os_spawn spawn = {.flags = 0};
    const char *step = NULL;
    char out[1024];
    struct ready ready = ready_make();
    assert_int_equal(kill(ready.pid, signal), 0);
    int64_t begin_ms = now_ms(ready.os);
    assert_int_equal(ready_run(&ready, &spawn, "echo never", false, &step), -ESRCH);
    int64_t took_ms = now_ms(ready.os) - begin_ms;
    assert_true(took_ms >= from_ms && took_ms < to_ms);
    ready_read(&ready, 1, out);
    assert_string_equal(out, "");
    ready_close(&ready);
}

static void test_ready_was_killed(void **state) {
    assert_non_null(*state);
    ready_is_gone(SIGKILL, 0, 5000);
    ready_is_gone(SIGTERM, 0, 5000); /* it has its default effect */
}

static void test_ready_was_stopped(void **state) {
    assert_non_null(*state);
    ready_is_gone(SIGSTOP, 200, 5000);
}

/* What stood still and goes on is as good as before. */
static void test_ready_goes_on(void **state) {
    struct kelpie_os_spawn spawn = {.flags = 0};
    int status = 0;
    assert_non_null(*state);
    struct ready ready = ready_make();
    assert_int_equal(kill(ready.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(ready.pid, &status, WUNTRACED), ready.pid);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(kill(ready.pid, SIGCONT), 0);
    ready_says(&ready, &spawn, "echo here", "here\n");
}

/* One at a time; and when it is gone, the next. */
static void test_ready_is_one_at_a_time(void **state) {
    const struct kelpie_os_spawn other = {.cgroup = KELPIE_OS_NO_HANDLE};
    struct kelpie_os_spawn spawn = {.flags = 0};
    const char *step = NULL;
    int32_t pid = 0;
    assert_non_null(*state);
    struct ready ready = ready_make();
    assert_int_equal(kelpie__os_make_ready(ready.os, &other, &pid), -EBUSY);
    assert_int_equal(ready_run(&ready, &spawn, "exit 5", false, &step), 0);
    int status = 0;
    assert_int_equal(waitpid(ready.pid, &status, 0), ready.pid);
    assert_int_equal(WEXITSTATUS(status), 5);
    assert_int_equal(kelpie__os_make_ready(ready.os, &other, &ready.pid), 0);
    assert_int_equal(kill(ready.pid, SIGKILL), 0);
    assert_int_equal(ready_run(&ready, &spawn, "exit 5", false, &step), -ESRCH);
    ready_close(&ready);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_child_has_only_its_handles),
        cmocka_unit_test(test_child_is_as_the_spawn_says),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_handles_that_collide),
        cmocka_unit_test(test_failures_name_their_step),
        cmocka_unit_test(test_signal_ends_it),
        cmocka_unit_test(test_orphan_is_never_seen),
        cmocka_unit_test(test_child_dies_with_its_parent),
        cmocka_unit_test(test_ready_is_as_its_orders_say),
        cmocka_unit_test(test_ready_without_input),
        cmocka_unit_test(test_ready_as_another_user),
        cmocka_unit_test(test_ready_fails_as_a_spawn),
        cmocka_unit_test(test_ready_was_killed),
        cmocka_unit_test(test_ready_was_stopped),
        cmocka_unit_test(test_ready_goes_on),
        cmocka_unit_test(test_ready_is_one_at_a_time),
    };
    return cmocka_run_group_tests(tests, make, end);
}
