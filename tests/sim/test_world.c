/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: time, waiting, chance, embedders and the end of the power are as docs/simulation.md says,
 * and the same seed gives the same world. Method: small_world.h.
 */
#include "small_world.h"

/* ---- time ------------------------------------------------------------------------------------ */

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

/* ---- waiting --------------------------------------------------------------------------------- */

/* A token that is ready for whoever's turn it is. */
struct token {
    struct sim_object object; /* first */
    bool is_there;
};

static uint32_t token_ready(struct sim_object *object) {
    return ((struct token *)(void *)object)->is_there ? (uint32_t)KELPIE_OS_READABLE : 0;
}

static void token_close(struct sim_object *object) {
    kelpie__sim_heap_free(object->machine->heap, object, sizeof(struct token));
}

static const struct sim_object_operations token_operations = {
    .kind = "token", .ready = token_ready, .close = token_close};

static struct token *token_new(struct sim_machine *machine) {
    struct token *token = kelpie__sim_heap_alloc(machine->heap, sizeof(*token));
    kelpie__sim_object_init(&token->object, machine, &token_operations);
    return token;
}

struct table {
    struct notes notes; /* first */
    struct token *tokens[2];
    unsigned rounds;
};

static int player_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct table *table = (struct table *)(void *)notes_of(os);
    unsigned self = strcmp(process->role, "ping") == 0 ? 0 : 1;
    struct token *mine = table->tokens[self];
    struct token *other = table->tokens[1 - self];
    struct kelpie_os_event event;
    kelpie__ignore(argc > 0 && argv != NULL);
    int handle = kelpie__sim_handle_install(process, &mine->object);
    assert_int_equal(kelpie__os_watch(os, handle, KELPIE_OS_READABLE, self + 5), 0);
    for (unsigned i = 0; i < table->rounds; i += 1) {
        assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
        assert_int_equal(event.cookie, self + 5);
        mine->is_there = false;
        other->is_there = true;
        kelpie__sim_object_changed(&other->object);
    }
    return 0;
}

static uint64_t ping_pong(enum sim_schedule schedule, uint32_t preempt_billionth, unsigned rounds,
                          uint64_t *out_calls) {
    struct table table = {.rounds = rounds};
    const struct sim_options options = {
        .seed = 1, .schedule = schedule, .cost_factor = 1, .preempt_billionth = preempt_billionth};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    struct sim_machine *host = kelpie__sim_world_host(world);
    kelpie__sim_world_set_context(world, &table);
    table.tokens[0] = token_new(host);
    table.tokens[1] = token_new(host);
    table.tokens[0]->is_there = true;
    start(world, "ping", player_main);
    start(world, "pong", player_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(host->process_count, 0);
    kelpie__sim_object_unref(&table.tokens[0]->object);
    kelpie__sim_object_unref(&table.tokens[1]->object);
    uint64_t hash = kelpie__sim_world_hash(world);
    *out_calls = kelpie__sim_world_calls(world);
    kelpie__sim_world_destroy(world);
    return hash;
}

static void test_two_processes_take_turns(void **state) {
    struct timespec begin;
    uint64_t calls = 0;
    kelpie__ignore(state != NULL);
    uint64_t hash = ping_pong(SIM_SCHEDULE_FIFO, 0, 1000, &calls);
    assert_true(hash == ping_pong(SIM_SCHEDULE_FIFO, 0, 1000, &calls));
    assert_true(hash != ping_pong(SIM_SCHEDULE_FIFO, 500000000, 1000, &calls));
    kelpie__ignore(ping_pong(SIM_SCHEDULE_UNIFORM, 500000000, 1000, &calls) > 0);
    kelpie__ignore(ping_pong(SIM_SCHEDULE_PCT, 500000000, 1000, &calls) > 0);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    kelpie__ignore(ping_pong(SIM_SCHEDULE_FIFO, 0, 300000, &calls) > 0);
    printf("a wait with a switch of processes: %.0f ns\n",
           seconds_since(&begin) * 1e9 / (double)calls);
}

static int busy_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_os_identity identity;
    kelpie__ignore(argc > 0 && argv != NULL);
    for (unsigned i = 0; i < 400000; i += 1) {
        assert_int_equal(kelpie__os_identity(os, &identity), 0);
    }
    note(os, "done");
    return 0;
}

static void test_call_is_cheap(void **state) {
    struct notes notes;
    struct timespec begin;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "busy", busy_main);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    printf("a call: %.0f ns\n", seconds_since(&begin) * 1e9 / 400000);
    assert_string_equal(notes.log, "done");
    kelpie__sim_world_destroy(world);
}

static int spin_main(struct kelpie_os *os, int argc, char **argv) {
    kelpie__ignore(argc > 0 && argv != NULL);
    while (now(os) > 0) { /* bound: the scheduler finds it out */
    }
    return 0;
}

static void test_spinning_process_is_found_out(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "spin", spin_main);
    start(world, "sleeper", sleeper_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_SPIN);
    assert_true(kelpie__sim_world_calls(world) < 1100000);
    kelpie__sim_world_destroy(world);
}

static int level_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct kelpie_os_event events[3];
    struct token *tokens[3];
    int handles[3];
    kelpie__ignore(argc > 0 && argv != NULL);
    for (unsigned i = 0; i < 3; i += 1) {
        tokens[i] = token_new(process->machine);
        tokens[i]->is_there = true;
        handles[i] = kelpie__sim_handle_install(process, &tokens[i]->object);
        kelpie__sim_object_unref(&tokens[i]->object);
        assert_int_equal(kelpie__os_watch(os, handles[i], KELPIE_OS_READABLE, i), 0);
    }
    /* busy ones take turns, and stay ready until they are not */
    assert_int_equal(kelpie__os_wait(os, events, 2, -1), 2);
    assert_int_equal(events[0].cookie * 10 + events[1].cookie, 1);
    assert_int_equal(kelpie__os_wait(os, events, 2, -1), 2);
    assert_int_equal(events[0].cookie * 10 + events[1].cookie, 20);
    tokens[0]->is_there = false;
    assert_int_equal(kelpie__os_wait(os, events, 3, -1), 2);
    assert_int_equal(events[0].cookie * 10 + events[1].cookie, 12);
    assert_int_equal(kelpie__os_watch(os, handles[1], 0, 0), 0);
    assert_int_equal(kelpie__os_watch(os, handles[1], 0, 0), -ENOENT);
    assert_int_equal(kelpie__os_watch(os, handles[2], KELPIE_OS_WRITABLE, 9), 0);
    assert_int_equal(kelpie__os_wait(os, events, 3, 0), 0);
    assert_int_equal(kelpie__os_watch(os, handles[2], KELPIE_OS_READABLE, 8), 0);
    assert_int_equal(kelpie__os_wait(os, events, 3, -1), 1);
    assert_int_equal(events[0].cookie, 8);
    assert_int_equal(kelpie__os_watch(os, 0, KELPIE_OS_READABLE, 1), -EPERM); /* /dev/null */
    assert_int_equal(kelpie__os_watch(os, 99, KELPIE_OS_READABLE, 1), -EBADF);
    assert_int_equal(kelpie__sim_handle_close(process, handles[2]), 0);
    assert_int_equal(kelpie__os_watch(os, handles[2], 0, 0), -EBADF);
    assert_int_equal(kelpie__os_wait(os, events, 3, now(os) + MS), 0);
    note(os, "done");
    return 0;
}

static void test_watches_are_level_triggered_and_fair(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "level", level_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "done");
    kelpie__sim_world_destroy(world);
}

static int tables_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct kelpie_os *other = kelpie__sim_table_create(process);
    struct kelpie_os_event event;
    struct token *tokens[2];
    int handles[2];
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_ptr_equal(kelpie__sim_process_of(other), process);
    for (unsigned i = 0; i < 2; i += 1) {
        tokens[i] = token_new(process->machine);
        handles[i] = kelpie__sim_handle_install(process, &tokens[i]->object);
        kelpie__sim_object_unref(&tokens[i]->object);
        assert_int_equal(kelpie__os_watch(i == 0 ? os : other, handles[i], KELPIE_OS_READABLE, i),
                         0);
    }
    tokens[1]->is_there = true;
    kelpie__sim_object_changed(&tokens[1]->object);
    assert_int_equal(kelpie__os_wait(os, &event, 1, now(os) + MS), 0);
    assert_int_equal(kelpie__os_wait(other, &event, 1, -1), 1);
    assert_int_equal(event.cookie, 1);
    assert_true(kelpie__os_wait_handle(os) != kelpie__os_wait_handle(other));
    kelpie__sim_table_destroy(other);
    assert_int_equal(kelpie__os_watch(os, handles[1], KELPIE_OS_READABLE, 3), 0);
    assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
    assert_int_equal(event.cookie, 3);
    assert_non_null(kelpie__sim_table_create(process)); /* left to the end of the process */
    note(os, "done");
    return 0;
}

static void test_two_tables_wait_for_their_own(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "tables", tables_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "done");
    kelpie__sim_world_destroy(world);
}

static int standing_main(struct kelpie_os *os, int argc, char **argv) {
    int64_t begin = now(os);
    kelpie__ignore(argc > 0 && argv != NULL);
    kelpie__sim_process_sleep(kelpie__sim_process_of(os), 7 * MS);
    notes_of(os)->times[0] = now(os) - begin;
    return 0;
}

static void test_process_sleeps_inside_a_call(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    struct sim_process *process = start(world, "standing", standing_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, SECOND + MS), SIM_RUN_DEADLINE);
    kelpie__sim_process_wake(process); /* nothing but time wakes it */
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_true(notes.times[0] >= 7 * MS && notes.times[0] < 8 * MS);
    kelpie__sim_world_destroy(world);
}

/* ---- embedders, power, worlds ---------------------------------------------------------------- */

static void test_embedder_drives_the_world_in_its_wait(void **state) {
    struct notes notes;
    struct kelpie_os_event event;
    struct kelpie_os_exit exit;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
    struct sim_process *embedder = kelpie__sim_process_adopt(world, "embedder");
    struct kelpie_os *os = &embedder->os;
    int process = spawn(os, 0, NULL);
    assert_int_equal(kelpie__os_wait(os, &event, 1, now(os) + 5 * MS), 0);
    assert_int_equal(kelpie__os_wait(os, &event, 1, -1), 1);
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    assert_int_equal(exit.value, 42);
    assert_int_equal(kelpie__os_watch(os, process, 0, 0), 0);
    assert_int_equal(kelpie__os_wait(os, &event, 1, -1), -EDEADLK);
    process = spawn(os, 0, NULL);
    int steps = 0;
    while (steps < 100 && kelpie__os_wait(os, &event, 1, 0) == 0) { /* as an event loop does */
        steps += 1;
    }
    assert_true(steps > 0 && steps < 20);
    assert_int_equal(kelpie__os_reap(os, process, &exit), 0);
    kelpie__sim_process_signal(embedder, SIGKILL); /* it is not ours to end */
    assert_true(now(os) > SECOND);
    kelpie__sim_world_destroy(world);
}

static int power_main(struct kelpie_os *os, int argc, char **argv) {
    kelpie__ignore(argc > 0 && argv != NULL);
    note(os, "before ");
    kelpie__sim_world_power_loss(kelpie__sim_process_of(os)->machine->world);
    kelpie__ignore(now(os) > 0);
    note(os, "after ");
    return 0;
}

static void test_power_loss_ends_everybody_unseen(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    struct sim_machine *host = kelpie__sim_world_host(world);
    size_t live = kelpie__sim_heap_live_bytes(host->heap);
    kelpie__ignore(state != NULL);
    kelpie__sim_world_observe(world, observe_deaths, &notes);
    kelpie__sim_program_add(world, false, PATH_CHILD, "middle", middle_main, 0);
    kelpie__sim_program_add(world, false, "/usr/bin/leaf", "leaf", forever_main, 0);
    start(world, "top", top_main);
    start(world, "parent", parent_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(host->process_count, 6);
    start(world, "power", power_main);
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "before ");
    assert_int_equal(host->process_count, 0);
    assert_true(kelpie__sim_heap_live_bytes(host->heap) <= live + 1024);
    start(world, "sleeper", sleeper_main); /* the machine is on again */
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
    assert_string_equal(notes.log, "before sleptsleeper:code 003 ");
    kelpie__sim_world_destroy(world);
}

static void test_worlds_know_nothing_of_each_other(void **state) {
    struct notes notes[2];
    struct sim_world *worlds[2];
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        worlds[i] = world_new(1, SIM_SCHEDULE_UNIFORM, &notes[i]);
        kelpie__sim_program_add(worlds[i], false, PATH_CHILD, "child", child_main, 0);
        start(worlds[i], "parent", parent_main);
        start(worlds[i], "sleeper", sleeper_main);
    }
    assert_int_equal(kelpie__sim_world_run(worlds[0], NULL, NULL, SECOND + 3 * MS),
                     SIM_RUN_DEADLINE);
    assert_int_equal(kelpie__sim_world_run(worlds[1], NULL, NULL, -1), SIM_RUN_IDLE);
    assert_int_equal(kelpie__sim_world_run(worlds[0], NULL, NULL, -1), SIM_RUN_IDLE);
    assert_true(kelpie__sim_world_hash(worlds[0]) == kelpie__sim_world_hash(worlds[1]));
    kelpie__sim_world_destroy(worlds[0]);
    kelpie__sim_world_destroy(worlds[1]);
}

/* What an earlier world has left in its memory is seen by nobody. */
static void test_worlds_in_one_nursery_are_as_by_themselves(void **state) {
    struct notes notes;
    uint64_t hashes[4];
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 4; i += 1) {
        const struct sim_options options = {
            .seed = 1 + i % 2, .cost_factor = 1, .nursery = i < 2 ? NULL : nursery};
        struct sim_world *world = kelpie__sim_world_create(&options, NULL);
        assert_non_null(world);
        put_programs(world);
        memset(&notes, 0, sizeof(notes));
        kelpie__sim_world_set_context(world, &notes);
        kelpie__sim_program_add(world, false, PATH_CHILD, "child", child_main, 0);
        start(world, "parent", parent_main);
        start(world, "sleeper", sleeper_main);
        start(world, "forever", forever_main);
        assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
        hashes[i] = kelpie__sim_world_hash(world);
        kelpie__sim_world_destroy(world);
    }
    assert_true(hashes[0] == hashes[2] && hashes[1] == hashes[3]);
    kelpie__sim_nursery_destroy(nursery);
}

static void test_failure_ends_the_run(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(1, SIM_SCHEDULE_FIFO, &notes);
    kelpie__ignore(state != NULL);
    start(world, "sleeper", sleeper_main);
    kelpie__sim_world_fail(world, "invariant %d", 7);
    kelpie__sim_world_fail(world, "another");
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_FAILED);
    assert_string_equal(kelpie__sim_world_failure(world), "invariant 7");
    kelpie__sim_world_destroy(world);
}

static void test_streams_of_chance(void **state) {
    struct notes notes;
    struct sim_world *world = world_new(9, SIM_SCHEDULE_FIFO, &notes);
    int64_t below = 0;
    int64_t sum = 0;
    unsigned hits = 0;
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 10000; i += 1) {
        int64_t value = kelpie__sim_about(world, SIM_STREAM_QEMU, 1000000);
        assert_true(value >= 250000 && value <= 8000000);
        below += value < 1000000 ? 1 : 0;
        sum += value;
        hits += kelpie__sim_chance(world, SIM_STREAM_USER, 10000000) ? 1 : 0;
        assert_true(kelpie__sim_below(world, SIM_STREAM_USER, 3) < 3);
    }
    assert_true(below > 4800 && below < 5200); /* the median */
    assert_true(sum / 10000 > 1000000 && sum / 10000 < 1150000);
    assert_true(hits > 60 && hits < 140);
    assert_true(kelpie__sim_about(world, SIM_STREAM_QEMU, 0) == 0);
    kelpie__sim_world_destroy(world);
}

static void test_world_is_cheap(void **state) {
    struct timespec begin;
    struct notes notes;
    kelpie__ignore(state != NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    for (uint64_t seed = 0; seed < 100; seed += 1) {
        struct sim_world *world = world_new(seed, SIM_SCHEDULE_FIFO, &notes);
        start(world, "sleeper", sleeper_main);
        assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, -1), SIM_RUN_IDLE);
        kelpie__sim_world_destroy(world);
    }
    printf("a world: %.0f us\n", seconds_since(&begin) * 1e6 / 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wait_until_deadline_moves_time),
        cmocka_unit_test(test_run_until_deadline_stops_there),
        cmocka_unit_test(test_timers_fire_in_order_of_time_then_arming),
        cmocka_unit_test(test_two_processes_take_turns),
        cmocka_unit_test(test_call_is_cheap),
        cmocka_unit_test(test_spinning_process_is_found_out),
        cmocka_unit_test(test_watches_are_level_triggered_and_fair),
        cmocka_unit_test(test_two_tables_wait_for_their_own),
        cmocka_unit_test(test_process_sleeps_inside_a_call),
        cmocka_unit_test(test_embedder_drives_the_world_in_its_wait),
        cmocka_unit_test(test_power_loss_ends_everybody_unseen),
        cmocka_unit_test(test_worlds_know_nothing_of_each_other),
        cmocka_unit_test(test_worlds_in_one_nursery_are_as_by_themselves),
        cmocka_unit_test(test_failure_ends_the_run),
        cmocka_unit_test(test_streams_of_chance),
        cmocka_unit_test(test_world_is_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
