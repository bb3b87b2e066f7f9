/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A world for tests of the simulator's core, and programs of a few lines that write down what they
 * see.
 */
#ifndef KELPIE_TESTS_SIM_SMALL_WORLD_H
#define KELPIE_TESTS_SIM_SMALL_WORLD_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/heap.h"
#include "sim/machine.h"

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)
#define PATH_CHILD "/usr/bin/child"
#define LOG_BYTES 4096u

struct notes {
    char log[LOG_BYTES];
    int64_t times[64];
    int result;
};

static inline struct notes *notes_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

static inline void note(struct kelpie_os *os, const char *text) {
    struct notes *notes = notes_of(os);
    size_t length = strlen(notes->log);
    assert_true(length + strlen(text) + 2 < sizeof(notes->log));
    memcpy(notes->log + length, text, strlen(text) + 1);
}

/* The files of the programs that the tests register. */
static inline void put_programs(struct sim_world *world) {
    static const char *const paths[] = {PATH_CHILD, "/usr/bin/leaf"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(paths); i += 1) {
        assert_int_equal(
            kelpie__sim_disk_put(kelpie__sim_world_disk(world), paths[i], 0755, "x", 1), 0);
    }
}

static inline struct sim_world *world_new(uint64_t seed, enum sim_schedule schedule,
                                          struct notes *notes) {
    const struct sim_options options = {.seed = seed, .schedule = schedule, .cost_factor = 1};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    assert_non_null(world);
    put_programs(world);
    memset(notes, 0, sizeof(*notes));
    kelpie__sim_world_set_context(world, notes);
    return world;
}

static inline struct sim_process *start(struct sim_world *world, const char *role, sim_main main) {
    const struct sim_start start = {.path = "/test", .role = role, .main = main};
    struct sim_process *process = kelpie__sim_process_start(kelpie__sim_world_host(world), &start);
    assert_non_null(process);
    return process;
}

static inline int64_t now(struct kelpie_os *os) {
    return kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
}

static inline void sleep_until(struct kelpie_os *os, int64_t deadline_ns) {
    struct kelpie_os_event event;
    for (int budget = 100; budget > 0 && now(os) < deadline_ns; budget -= 1) {
        assert_int_equal(kelpie__os_wait(os, &event, 1, deadline_ns), 0);
    }
    assert_true(now(os) >= deadline_ns);
}

/* Spawns PATH_CHILD, watches it. */
static inline int spawn(struct kelpie_os *os, uint32_t flags, int32_t *out_pid) {
    static const char *const argv[] = {"child", "one", NULL};
    static const char *const environment[] = {"A=1", NULL};
    const struct kelpie_os_spawn spawn = {.path = PATH_CHILD,
                                          .argv = argv,
                                          .environment = environment,
                                          .flags = flags,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    bool is_orphan = (flags & KELPIE_OS_SPAWN_ORPHAN) != 0;
    int process = KELPIE_OS_NO_HANDLE;
    const char *step = "";
    int status = kelpie__os_spawn(os, &spawn, is_orphan ? NULL : &process, out_pid, &step);
    assert_int_equal(status, 0);
    if (!is_orphan) {
        assert_int_equal(kelpie__os_watch(os, process, KELPIE_OS_READABLE, 7), 0);
    }
    return process;
}

static inline int sleeper_main(struct kelpie_os *os, int argc, char **argv) {
    struct notes *notes = notes_of(os);
    kelpie__ignore(argc > 0 && argv != NULL);
    int64_t begin = now(os);
    sleep_until(os, begin + 5 * MS);
    notes->times[0] = now(os) - begin;
    sleep_until(os, begin + 3600 * SECOND);
    notes->times[1] = now(os) - begin;
    note(os, "slept");
    return 3;
}

static inline int child_main(struct kelpie_os *os, int argc, char **argv) {
    const char *value = kelpie__os_environment(os, "A");
    assert_int_equal(argc, 2);
    assert_string_equal(argv[1], "one");
    assert_null(argv[2]);
    assert_string_equal(value, "1");
    assert_null(kelpie__os_environment(os, "B"));
    sleep_until(os, now(os) + 20 * MS);
    note(os, "child ");
    return 42;
}

static inline int parent_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_os_event event = {0};
    struct kelpie_os_exit exit = {0};
    int32_t pid = 0;
    kelpie__ignore(argc > 0 && argv != NULL);
    int process = spawn(os, 0, &pid);
    assert_int_equal(kelpie__os_reap(os, process, &exit), -EAGAIN);
    assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
    assert_int_equal(event.cookie, 7);
    assert_int_equal(event.bits, KELPIE_OS_READABLE);
    int second = kelpie__os_open_process(os, pid);
    assert_true(second > process);
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    assert_false(exit.is_signalled);
    assert_int_equal(exit.value, 42);
    assert_int_equal(kelpie__os_reap(os, second, &exit), -ECHILD);
    assert_int_equal(kelpie__os_signal(os, second, SIGTERM), -ESRCH);
    assert_int_equal(kelpie__os_open_process(os, pid), -ESRCH);
    assert_int_equal(kelpie__sim_handle_close(kelpie__sim_process_of(os), second), 0);
    note(os, "parent ");
    return 0;
}

static inline int forever_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_os_event event;
    kelpie__ignore(argc > 0 && argv != NULL);
    while (kelpie__os_wait(os, &event, 1, -1) >= 0) { /* bound: its death */
    }
    note(os, "survived ");
    return 1;
}

/* A parent that has a child which dies with it, and waits. */
static inline int top_main(struct kelpie_os *os, int argc, char **argv) {
    int32_t pid = 0;
    kelpie__ignore(argc > 0 && argv != NULL);
    kelpie__ignore(spawn(os, KELPIE_OS_SPAWN_DIE_WITH_PARENT, &pid));
    notes_of(os)->result = pid;
    return forever_main(os, argc, argv);
}

static inline int middle_main(struct kelpie_os *os, int argc, char **argv) {
    static const char *const words[] = {"leaf", NULL};
    const struct kelpie_os_spawn spawn = {.path = "/usr/bin/leaf",
                                          .argv = words,
                                          .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    int process = -1;
    const char *step = "";
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, NULL, &step), 0);
    return forever_main(os, argc, argv);
}

static inline void observe_deaths(void *context, struct sim_world *world,
                                  const struct sim_event *event) {
    struct notes *notes = context;
    char line[96];
    kelpie__ignore(world != NULL);
    if (event->type == SIM_EVENT_PROCESS_ENDED) {
        int length = snprintf(line, sizeof(line), "%s:%s ", event->process->role, event->detail);
        assert_true(strlen(notes->log) + (size_t)length < sizeof(notes->log));
        memcpy(notes->log + strlen(notes->log), line, (size_t)length + 1);
    }
}

static inline double seconds_since(const struct timespec *begin) {
    struct timespec end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    return (double)(end.tv_sec - begin->tv_sec) + (double)(end.tv_nsec - begin->tv_nsec) / 1e9;
}

#endif
