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
    };
    return cmocka_run_group_tests(tests, make, end);
}
