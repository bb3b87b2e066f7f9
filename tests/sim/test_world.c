/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulated world's core does what a kernel does with processes and time, and the same
 * seed gives the same world. Method: programs of a few lines run in worlds of their own; each
 * writes down what it saw.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "os/os_call.h"
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

static struct notes *notes_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

static void note(struct kelpie_os *os, const char *text) {
    struct notes *notes = notes_of(os);
    size_t length = strlen(notes->log);
    assert_true(length + strlen(text) + 2 < sizeof(notes->log));
    memcpy(notes->log + length, text, strlen(text) + 1);
}

static struct sim_world *world_new(uint64_t seed, enum sim_schedule schedule, struct notes *notes) {
    const struct sim_options options = {.seed = seed, .schedule = schedule, .cost_factor = 1};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    assert_non_null(world);
    memset(notes, 0, sizeof(*notes));
    kelpie__sim_world_set_context(world, notes);
    return world;
}

static struct sim_process *start(struct sim_world *world, const char *role, sim_main main) {
    const struct sim_start start = {.path = "/test", .role = role, .main = main};
    struct sim_process *process = kelpie__sim_process_start(kelpie__sim_world_host(world), &start);
    assert_non_null(process);
    return process;
}

static int64_t now(struct kelpie_os *os) {
    return kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
}

static void sleep_until(struct kelpie_os *os, int64_t deadline_ns) {
    struct kelpie_os_event event;
    for (int budget = 100; budget > 0 && now(os) < deadline_ns; budget -= 1) {
        assert_int_equal(kelpie__os_wait(os, &event, 1, deadline_ns), 0);
    }
    assert_true(now(os) >= deadline_ns);
}

/* Spawns PATH_CHILD, watches it. */
static int spawn(struct kelpie_os *os, uint32_t flags, int32_t *out_pid) {
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

/* ---- time ------------------------------------------------------------------------------------ */

static int sleeper_main(struct kelpie_os *os, int argc, char **argv) {
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

static void test_wait_until_deadline_moves_time(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "sleeper", sleeper_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "slept");
    assert_true(notes.times[0] >= 5 * MS && notes.times[0] < 6 * MS);
    assert_true(notes.times[1] >= 3600 * SECOND && notes.times[1] < 3600 * SECOND + MS);
    assert_true(kelpie__sim_now(world) >= 3600 * SECOND);
    assert_int_equal(kelpie__sim_world_host(world)->process_count, 0);
    kelpie__sim_world_destroy(world);
}

static void test_run_until_deadline_stops_there(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "sleeper", sleeper_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, 10 * SECOND), SIM_RUN_DEADLINE);
    assert_int_equal(kelpie__sim_now(world), 10 * SECOND);
    assert_string_equal(notes.log, "");
    kelpie__sim_world_destroy(world);
}

static void timer_fired(struct sim_world *world, void *context, uint64_t argument) {
    struct notes *notes = context;
    notes->times[argument] = kelpie__sim_now(world);
    notes->result = notes->result * 10 + (int)argument;
}

static void test_timers_fire_in_order_of_time_then_arming(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    kelpie__sim_at(world, 3 * SECOND, timer_fired, &notes, 3);
    kelpie__sim_at(world, 2 * SECOND, timer_fired, &notes, 1);
    kelpie__sim_at(world, 2 * SECOND, timer_fired, &notes, 2);
    kelpie__sim_at(world, 0, timer_fired, &notes, 4);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(notes.result, 4123);
    assert_int_equal(notes.times[3], 3 * SECOND);
    kelpie__sim_world_destroy(world);
}

/* ---- processes ------------------------------------------------------------------------------- */

static int child_main(struct kelpie_os *os, int argc, char **argv) {
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

static int parent_main(struct kelpie_os *os, int argc, char **argv) {
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

static uint64_t run_family(uint64_t seed, enum sim_schedule schedule) {
    struct notes notes;
    struct sim_world *world = world_new(seed, schedule, &notes);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
    start(world, "parent", parent_main);
    start(world, "sleeper", sleeper_main);
    start(world, "parent", parent_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log + strlen(notes.log) - 5, "slept");
    size_t live = kelpie__sim_heap_live_bytes(kelpie__sim_world_host(world)->heap);
    assert_true(live < 100000);
    assert_int_equal(kelpie__sim_world_host(world)->process_count, 0);
    uint64_t hash = kelpie__sim_world_hash(world);
    kelpie__sim_world_destroy(world);
    return hash;
}

static void test_spawn_reap_and_hash(void **state) {
    kelpie__ignore(state != NULL);
    for (int schedule = SIM_SCHEDULE_FIFO; schedule <= SIM_SCHEDULE_PCT; schedule += 1) {
        uint64_t first = run_family(1, (enum sim_schedule)schedule);
        assert_true(first == run_family(1, (enum sim_schedule)schedule));
        assert_true(first != run_family(2, (enum sim_schedule)schedule));
    }
    assert_true(run_family(3, SIM_SCHEDULE_FIFO) != run_family(3, SIM_SCHEDULE_UNIFORM));
}

static int failing_main(struct kelpie_os *os, int argc, char **argv) {
    static const char *const words[] = {"child", NULL};
    const int bad[] = {77};
    struct kelpie_os_spawn spawn = {
        .path = "/nowhere", .argv = words, .cgroup = KELPIE_OS_NO_HANDLE};
    int process = -1;
    int32_t pid = 0;
    const char *step = "";
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, &pid, &step), -ENOENT);
    assert_string_equal(step, "exec");
    spawn.path = PATH_CHILD;
    spawn.handles = bad;
    spawn.handle_count = 1;
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, &pid, &step), -EBADF);
    assert_string_equal(step, "pass handles");
    spawn.handle_count = 0;
    spawn.path = "child";
    assert_int_equal(kelpie__os_spawn(os, &spawn, &process, &pid, &step), -ENOENT);
    spawn.flags = KELPIE_OS_SPAWN_SEARCH_PATH | KELPIE_OS_SPAWN_NEW_SESSION |
                  KELPIE_OS_SPAWN_CONTROLLING_TERMINAL;
    assert_true(kelpie__os_spawn(os, &spawn, &process, &pid, &step) < 0);
    assert_string_equal(step, "terminal");
    assert_int_equal(process, -1);
    note(os, "done");
    return 0;
}

static void test_spawn_that_fails_names_its_step(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
    start(world, "failing", failing_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "done");
    kelpie__sim_world_destroy(world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wait_until_deadline_moves_time),
        cmocka_unit_test(test_run_until_deadline_stops_there),
        cmocka_unit_test(test_timers_fire_in_order_of_time_then_arming),
        cmocka_unit_test(test_spawn_reap_and_hash),
        cmocka_unit_test(test_spawn_that_fails_names_its_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
