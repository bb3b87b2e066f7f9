/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: processes of the simulated world are born, told, stopped and ended as a kernel does it, and
 * leave nothing behind. Method: small_world.h; one of them is killed at each of its calls.
 */
#include "small_world.h"

/* ---- processes ------------------------------------------------------------------------------- */

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
    printf("the hash of a family: %016llx\n",
           (unsigned long long)run_family(1, SIM_SCHEDULE_UNIFORM)); /* equal in every build */
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

/* ---- signals and death ----------------------------------------------------------------------- */

static void test_kill_takes_children_that_die_with_it(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    struct sim_machine *host = kelpie__sim_world_host(world);
    kelpie__ignore(state != NULL);
    kelpie__sim_world_observe(world, observe_deaths, &notes);
    kelpie__sim_program_add(world, false, PATH_CHILD, "middle", middle_main, 0);
    kelpie__sim_program_add(world, false, "/usr/bin/leaf", "leaf", forever_main, 0);
    struct sim_process *top = start(world, "top", top_main);
    struct sim_process *other = start(world, "other", forever_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(host->process_count, 4);
    assert_ptr_equal(kelpie__sim_process_find(host, notes.result)->parent, top);
    kelpie__sim_process_signal(top, SIGKILL);
    assert_int_equal(host->process_count, 1);
    assert_string_equal(notes.log, "top:signal 009 middle:signal 009 leaf:signal 009 ");
    kelpie__sim_process_signal(other, SIGCHLD);
    kelpie__sim_process_signal(other, SIGWINCH);
    assert_int_equal(host->process_count, 1);
    kelpie__sim_process_signal(other, SIGTERM);
    assert_int_equal(host->process_count, 0);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    kelpie__sim_world_destroy(world);
}

static int orphan_parent_main(struct kelpie_os *os, int argc, char **argv) {
    int32_t pid = 0;
    kelpie__ignore(argc > 0 && argv != NULL);
    kelpie__ignore(spawn(os, KELPIE_OS_SPAWN_ORPHAN | KELPIE_OS_SPAWN_NEW_SESSION, &pid));
    notes_of(os)->result = pid;
    int process = kelpie__os_open_process(os, pid);
    struct kelpie_os_exit exit;
    assert_true(process >= 0);
    assert_int_equal(kelpie__os_reap(os, process, &exit), -ECHILD);
    return 0; /* its end does not touch the orphan */
}

static void test_orphan_outlives_its_parent_and_vanishes(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    struct sim_machine *host = kelpie__sim_world_host(world);
    kelpie__ignore(state != NULL);
    kelpie__sim_world_observe(world, observe_deaths, &notes);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
    start(world, "parent", orphan_parent_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, SECOND + 10 * MS), SIM_RUN_DEADLINE);
    const struct sim_process *orphan = kelpie__sim_process_find(host, notes.result);
    assert_non_null(orphan);
    assert_null(orphan->parent);
    assert_int_equal(orphan->session, orphan->pid);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "parent:code 000 child child:code 042 ");
    assert_int_equal(host->process_count, 0);
    kelpie__sim_world_destroy(world);
}

static void test_stopped_process_runs_no_more_until_continued(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    struct sim_process *sleeper = start(world, "sleeper", sleeper_main);
    kelpie__sim_process_signal(sleeper, SIGSTOP);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, 2 * SECOND), SIM_RUN_IDLE);
    kelpie__sim_process_signal(sleeper, SIGCONT);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, 2 * SECOND), SIM_RUN_DEADLINE);
    kelpie__sim_process_signal(sleeper, SIGSTOP); /* in its second wait */
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_true(kelpie__sim_now(world) >= 3600 * SECOND);
    assert_string_equal(notes.log, "");
    kelpie__sim_process_signal(sleeper, SIGCONT);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "slept");
    kelpie__sim_world_destroy(world);
}

static int suicide_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_os_identity identity;
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_identity(os, &identity), 0);
    int self = kelpie__os_open_process(os, identity.pid);
    assert_true(self >= 0);
    note(os, "before ");
    kelpie__ignore(kelpie__os_signal(os, self, SIGKILL));
    note(os, "after ");
    return 0;
}

static void test_process_that_kills_itself_returns_from_no_call(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    kelpie__sim_world_observe(world, observe_deaths, &notes);
    start(world, "suicide", suicide_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "before suicide:signal 009 ");
    kelpie__sim_world_destroy(world);
}

/* The family, with its parent killed at its n-th call; false: it made no more calls than that. */
static bool run_family_with_kill(unsigned nth, size_t *out_live) {
    struct notes notes;
    char plan[64];
    kelpie__ignore(snprintf(plan, sizeof(plan), "* role=parent nth=%u => kill", nth));
    const struct sim_options options = {.seed = 5, .cost_factor = 1, .plan = plan};
    char problem[256];
    struct sim_world *world = kelpie__sim_world_create(&options, problem);
    assert_non_null(world);
    put_programs(world);
    memset(&notes, 0, sizeof(notes));
    kelpie__sim_world_set_context(world, &notes);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
    start(world, "parent", parent_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(kelpie__sim_world_host(world)->process_count, 0);
    *out_live = kelpie__sim_heap_live_bytes(kelpie__sim_world_host(world)->heap);
    kelpie__sim_world_destroy(world);
    return strstr(notes.log, "parent") == NULL;
}

static void test_kill_at_each_call_leaves_nothing(void **state) {
    size_t first = 0;
    size_t live = 0;
    unsigned nth = 1;
    kelpie__ignore(state != NULL);
    while (nth < 100 && run_family_with_kill(nth, &live)) {
        first = first == 0 ? live : first;
        nth += 1;
    }
    assert_true(nth > 8 && nth < 30);
    for (unsigned again = 2; again < nth; again += 1) {
        assert_true(run_family_with_kill(again, &live));
        assert_true(live <= first + 2048); /* the machine's timers may have grown */
    }
}

static int many_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_os_event event;
    struct kelpie_os_exit exit;
    size_t live = 0;
    const struct sim_heap *heap = kelpie__sim_process_of(os)->machine->heap;
    kelpie__ignore(argc > 0 && argv != NULL);
    for (unsigned i = 0; i < 10000; i += 1) {
        int process = spawn(os, 0, NULL);
        assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
        assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
        assert_int_equal(kelpie__sim_handle_close(kelpie__sim_process_of(os), process), 0);
        live = i == 10 ? kelpie__sim_heap_extent(heap) : live;
    }
    assert_int_equal(kelpie__sim_heap_extent(heap), live);
    note(os, "done");
    return 0;
}

static int short_main(struct kelpie_os *os, int argc, char **argv) {
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_non_null(kelpie__alloc(os, 1000)); /* left to the end of the process */
    return 0;
}

static void test_ten_thousand_processes_need_no_more_memory(void **state) {
    struct notes notes;
    struct timespec begin;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", short_main, 0);
    start(world, "many", many_main);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    printf("a process from spawn to reap: %.0f ns\n", seconds_since(&begin) * 1e9 / 10000);
    assert_string_equal(notes.log, "done");
    kelpie__sim_world_destroy(world);
}

/* ---- the memory of a process ----------------------------------------------------------------- */

static int memory_main(struct kelpie_os *os, int argc, char **argv) {
    char *block = kelpie__alloc(os, 100);
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(block[0] | block[99], 0);
    memset(block, 'x', 100);
    block = kelpie__resize(os, block, 100, 5000);
    assert_int_equal(block[99], 'x');
    block = kelpie__resize(os, block, 5000, 10);
    assert_int_equal(block[9], 'x');
    assert_int_equal(kelpie__sim_process_of(os)->memory_bytes, 10);
    char *other = kelpie__alloc(os, 70000);
    kelpie__free(os, block, 10);
    kelpie__free(os, other, 70000);
    assert_int_equal(kelpie__sim_process_of(os)->memory_bytes, 0);
    uint8_t bytes[11] = {0};
    assert_int_equal(kelpie__os_random(os, bytes, sizeof(bytes)), 0);
    memcpy(&notes_of(os)->times[0], bytes, 8);
    note(os, "done");
    return 0;
}

static void test_memory_and_random(void **state) {
    struct notes first;
    struct notes second;
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 2; seed += 1) {
        struct notes *notes = seed == 1 ? &first : &second;
        struct sim_world *world = world_new(seed, SIM_SCHEDULE_FIFO, notes);
        start(world, "memory", memory_main);
        assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
        assert_string_equal(notes->log, "done");
        kelpie__sim_world_destroy(world);
    }
    assert_true(first.times[0] != second.times[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spawn_reap_and_hash),
        cmocka_unit_test(test_spawn_that_fails_names_its_step),
        cmocka_unit_test(test_kill_takes_children_that_die_with_it),
        cmocka_unit_test(test_orphan_outlives_its_parent_and_vanishes),
        cmocka_unit_test(test_stopped_process_runs_no_more_until_continued),
        cmocka_unit_test(test_process_that_kills_itself_returns_from_no_call),
        cmocka_unit_test(test_kill_at_each_call_leaves_nothing),
        cmocka_unit_test(test_ten_thousand_processes_need_no_more_memory),
        cmocka_unit_test(test_memory_and_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
