/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Faults of the simulated world. Goal: what a plan says is what fires, for the process that it
 * names; the same seed fires the same; what fired replays alone; taking one rule away moves no
 * other. Method: a world that only remembers (fake_world.h), and calls made by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "fake_world.h"
#include "os/os_fault_plan.h"
#include "sim/fault.h"

struct fixture {
    struct sim_world world;
    struct sim_process processes[4];
    struct sim_faults *faults;
};

static void add_process(struct fixture *fixture, uint32_t index, const char *role,
                        struct sim_process *parent) {
    struct sim_process *process = &fixture->processes[index];
    *process = (struct sim_process){.machine = &fixture->world.host,
                                    .pid = (int32_t)index + 100,
                                    .birth = index + 1,
                                    .parent = parent,
                                    .next = fixture->world.host.processes};
    snprintf(process->role, sizeof(process->role), "%s", role);
    snprintf(process->path, sizeof(process->path), "/usr/bin/%s", role);
    fixture->world.host.processes = process;
}

static char *monitor_argv[] = {(char *)"kelpie-monitor", (char *)"--name", (char *)"a1", NULL};

static struct fixture *make(uint64_t seed, const char *plan) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    char problem[256] = "";
    assert_non_null(fixture);
    fixture->world.options.seed = seed;
    fixture->world.now_ns = 1000000000;
    fixture->world.host.world = &fixture->world;
    add_process(fixture, 0, "monitor", NULL);
    add_process(fixture, 1, "qemu", &fixture->processes[0]);
    add_process(fixture, 2, "cli", NULL);
    add_process(fixture, 3, "monitor", NULL);
    fixture->processes[0].argc = 3;
    fixture->processes[0].argv = monitor_argv;
    fixture->faults = kelpie__sim_faults_create(&fixture->world, plan, problem);
    if (fixture->faults == NULL) {
        fail_msg("%s", problem);
    }
    return fixture;
}

static void unmake(struct fixture *fixture) {
    kelpie__sim_faults_destroy(fixture->faults);
    free(fixture);
}

static struct sim_call call(struct fixture *fixture, uint32_t process, enum sim_op op,
                            const char *label, const char *path) {
    struct sim_call made = {
        .process = &fixture->processes[process], .op = op, .label = label, .path = path};
    kelpie__sim_faults_call(fixture->faults, &made);
    return made;
}

static void test_rules_find_their_calls(void **state) {
    struct fixture *fixture =
        make(1, "sync role=monitor path=*/snapshots/* nth=2 => EIO:lie; qmp.read nth=1 => short:3;"
                "agent.read every=2 => mutate; write vm=a1 nth=1 => drop; open birth=4 nth=1 => "
                "ENOSPC; sync nth=3 => lie");
    (void)state;
    assert_int_equal(call(fixture, 0, SIM_OP_sync, NULL, "/a/snapshots/b").fault_errno, 0);
    assert_int_equal(call(fixture, 3, SIM_OP_sync, NULL, "/a/snapshots/b").fault_errno, 0);
    assert_int_equal(call(fixture, 0, SIM_OP_sync, NULL, "/a/other").fault_errno, 0);
    struct sim_call third = call(fixture, 0, SIM_OP_sync, NULL, "/a/snapshots/b");
    assert_int_equal(third.fault_errno, EIO);
    assert_true(third.fault_lie);
    assert_int_equal(call(fixture, 2, SIM_OP_read, "qmp", NULL).fault_short, 3);
    assert_int_equal(call(fixture, 2, SIM_OP_read, "qmp", NULL).fault_short, 0);
    assert_true(call(fixture, 1, SIM_OP_read, "agent", NULL).fault_mutate == 0);
    assert_true(call(fixture, 1, SIM_OP_read, "agent", NULL).fault_mutate != 0);
    assert_false(call(fixture, 2, SIM_OP_write, NULL, NULL).fault_drop);
    assert_true(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_drop);
    assert_true(call(fixture, 1, SIM_OP_write, NULL, NULL).fault_drop); /* its monitor's child */
    assert_int_equal(call(fixture, 0, SIM_OP_open, NULL, "/x").fault_errno, 0);
    assert_int_equal(call(fixture, 3, SIM_OP_open, NULL, "/x").fault_errno, ENOSPC);
    assert_false(call(fixture, 3, SIM_OP_sync, NULL, "/y").fault_lie);
    assert_true(call(fixture, 3, SIM_OP_sync, NULL, "/y").fault_lie);
    unmake(fixture);
}

static void test_bad_plans_are_refused(void **state) {
    static const struct {
        const char *plan;
        const char *problem;
    } bad[] = {
        {"sync nth=1 => EIO\nsnyc nth=1 => EIO", "line 2, column 1: expected an operation"},
        {"disk nth=1 => full", "line 1, column 1: expected window= or after="},
        {"disk window=1s..2s => rot", "line 1, column 1: expected after=, whose file rots,"},
        {"clock window=1s..2s => full", "line 1, column 24: expected an action that \"clock\""},
        {"host after=mark:x => power-loss:posix", "the disk of this world has another profile"},
        {"kelpie-plan 9", "line 1, column 13: expected a plan of version 1, not \"9\""},
    };
    struct fixture *fixture = make(1, NULL);
    char problem[256];
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        assert_null(kelpie__sim_faults_create(&fixture->world, bad[i].plan, problem));
        if (strncmp(problem, bad[i].problem, strlen(bad[i].problem)) != 0) {
            fail_msg("\"%s\": \"%s\", expected \"%s\"", bad[i].plan, problem, bad[i].problem);
        }
    }
    unmake(fixture);
}

/* Which of 400 calls of two processes fail, as bits. */
static uint32_t failing(struct fixture *fixture, bool out[400]) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < 400; i += 1) {
        out[i] = call(fixture, i % 2 == 0 ? 0 : 3, SIM_OP_write, NULL, NULL).fault_errno == EIO;
        count += out[i] ? 1 : 0;
    }
    return count;
}

static void test_chance_follows_the_seed_alone(void **state) {
    static const char *const plans[] = {
        "write p=0.3 => EIO",
        "write p=0.3 => EIO; write p=0.2 => short; * p=0.1 => delay:1; read p=1 => EIO",
        "write p=0.1 => EIO",
    };
    bool fired[3][400];
    uint32_t count[3];
    (void)state;
    for (uint32_t i = 0; i < 3; i += 1) {
        struct fixture *fixture = make(42, plans[i]);
        count[i] = failing(fixture, fired[i]);
        unmake(fixture);
    }
    assert_memory_equal(fired[0], fired[1], sizeof(fired[0])); /* other rules move nothing */
    assert_true(count[0] > 80 && count[0] < 160);
    assert_true(count[2] > 15 && count[2] < count[0]);
    for (uint32_t i = 0; i < 400; i += 1) {
        assert_true(!fired[2][i] || fired[0][i]); /* a higher chance fires more, never others */
    }
    struct fixture *fixture = make(43, plans[0]);
    kelpie__ignore(failing(fixture, fired[1]));
    assert_memory_not_equal(fired[0], fired[1], sizeof(fired[0]));
    unmake(fixture);
}

/* The concrete plan fires the same calls, whatever its own seed; and one line less, one less. */
static void test_concrete_plan_replays_alone(void **state) {
    static char plan[65536];
    bool first[400];
    bool second[400];
    struct fixture *fixture = make(7, "write p=0.05 => EIO");
    (void)state;
    uint32_t count = failing(fixture, first);
    size_t length = kelpie__sim_faults_concrete(fixture->faults, plan, sizeof(plan));
    assert_true(length < sizeof(plan) && strlen(plan) == length);
    assert_int_equal(kelpie__sim_faults_fired(fixture->faults), count);
    assert_int_equal(strncmp(plan, "kelpie-plan 1 seed=7\nwrite role=monitor birth=", 45), 0);
    assert_null(strstr(plan, "p="));
    assert_non_null(strstr(plan, " => EIO # 1.000 s in write()\n"));
    unmake(fixture);
    fixture = make(99, plan);
    assert_int_equal(failing(fixture, second), count);
    assert_memory_equal(first, second, sizeof(first));
    unmake(fixture);
    char *last = strrchr(plan, '\n');
    *last = '\0';
    last = strrchr(plan, '\n');
    *last = '\0';
    fixture = make(99, plan);
    assert_int_equal(failing(fixture, second), count - 1);
    unmake(fixture);
}

static void test_signals_delays_and_classes(void **state) {
    struct fixture *fixture = make(
        1, "* role=monitor birth=1 nth=3 => kill; wait role=cli nth=1 => stop:10s;"
           "wait role=monitor path=*qemu* nth=1 => kill-child; read role=qemu nth=1 => delay:5;"
           "memory nth=1 => ENOMEM; now nth=1 => EIO; read role=cli nth=1 => power-loss");
    (void)state;
    kelpie__ignore(call(fixture, 0, SIM_OP_now, NULL, NULL).fault_errno);
    kelpie__ignore(call(fixture, 0, SIM_OP_wait, NULL, NULL).fault_errno);
    assert_int_equal(call(fixture, 0, SIM_OP_memory, NULL, NULL).fault_errno, 0);
    kelpie__ignore(call(fixture, 2, SIM_OP_wait, NULL, NULL).fault_errno);
    kelpie__ignore(call(fixture, 1, SIM_OP_read, NULL, NULL).fault_errno);
    kelpie__ignore(call(fixture, 2, SIM_OP_read, NULL, NULL).fault_errno);
    assert_int_equal(call(fixture, 3, SIM_OP_memory, NULL, NULL).fault_errno, ENOMEM);
    fake_pass(&fixture->world, INT64_C(12000000000));
    assert_string_equal(fixture->world.log,
                        "fault wait role=monitor birth=1 path=*qemu* nth=1 => kill-child 0\n"
                        "signal qemu 9\n"
                        "fault * role=monitor birth=1 nth=3 => kill 0\n"
                        "signal monitor 9\n"
                        "fault wait role=cli birth=3 nth=1 => stop:10s 0\n"
                        "signal cli 19\n"
                        "fault read role=qemu birth=2 nth=1 => delay:5 0\n"
                        "sleep qemu 5000000\n"
                        "fault read role=cli birth=3 nth=1 => power-loss 0\n"
                        "power loss 0\n"
                        "fault memory role=monitor birth=4 nth=1 => ENOMEM 0\n"
                        "signal cli 18\n");
    uint32_t total = 0;
    for (uint32_t i = 0; i < kelpie__sim_faults_class_count(); i += 1) {
        const char *name = kelpie__sim_faults_class_name(i);
        uint32_t fired = kelpie__sim_faults_class_fired(fixture->faults, i);
        total += fired;
        assert_int_equal(fired, strcmp(name, "kill") == 0     ? 2
                                : strcmp(name, "stop") == 0   ? 1
                                : strcmp(name, "delay") == 0  ? 1
                                : strcmp(name, "power") == 0  ? 1
                                : strcmp(name, "memory") == 0 ? 1
                                                              : 0);
    }
    assert_int_equal(total, kelpie__sim_faults_fired(fixture->faults));
    unmake(fixture);
}

static void emit(struct fixture *fixture, enum sim_event_type type, const char *detail) {
    struct sim_event event = {.type = type, .detail = detail};
    kelpie__sim_world_emit(&fixture->world, &event);
}

static void test_marks(void **state) {
    struct fixture *fixture =
        make(1, "disk after=mark:manifest_renamed nth=2 => power-loss:ext4;"
                "snapshot corrupted nth=1; write after=mark:begun nth=2 => EIO;"
                "read after=mark:begun => short; clock after=mark:begun => jump:-3s");
    (void)state;
    emit(fixture, SIM_EVENT_MARK, "manifest_renamed");
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, 0);
    emit(fixture, SIM_EVENT_MARK, "begun");
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, 0);
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, EIO);
    assert_int_equal(call(fixture, 2, SIM_OP_read, NULL, NULL).fault_short, 1);
    assert_int_equal(call(fixture, 2, SIM_OP_read, NULL, NULL).fault_short, 0); /* once a mark */
    emit(fixture, SIM_EVENT_RENAME, "/state/snapshots/directory");
    emit(fixture, SIM_EVENT_RENAME, "/state/vm/manifest_renamed"); /* the last name counts too */
    assert_null(strstr(fixture->world.log, "power"));
    fake_pass(&fixture->world, fixture->world.now_ns);
    assert_non_null(strstr(fixture->world.log, "jump wall -3000000000\n"));
    assert_non_null(strstr(fixture->world.log, "rot /state/snapshots/directory/m"));
    assert_non_null(strstr(
        fixture->world.log,
        "fault disk after=mark:manifest_renamed nth=2 => power-loss:ext4 0\npower loss 0\n"));
    /* counted from its birth, not from the mark: replays without it */
    assert_non_null(
        strstr(fixture->world.log, "fault write role=monitor birth=1 nth=3 => EIO 0\n"));
    unmake(fixture);
}

static void test_windows_swizzle_and_the_end(void **state) {
    struct fixture *fixture =
        make(5, "clock window=5s..6s => jump:-86400s; write window=2s..3s => EIO;"
                "host window=2s..2001ms => swizzle:1s; disk window=3s..3001ms => full:500ms;"
                "disk window=7s..8s => read-only; * role=cli nth=2 => stop");
    (void)state;
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, 0);
    fake_pass(&fixture->world, INT64_C(2500000000));
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, EIO);
    fake_pass(&fixture->world, INT64_C(7999999999));
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, 0);
    assert_non_null(strstr(fixture->world.log, "jump wall -86400000000000\n"));
    assert_non_null(strstr(fixture->world.log, "quota bytes 77\n"));
    assert_non_null(strstr(fixture->world.log, "quota bytes 68719476736\n"));
    assert_non_null(strstr(fixture->world.log, "read-only disk 1\n"));
    uint32_t stops = 0;
    uint32_t conts = 0;
    for (const char *at = fixture->world.log; at != NULL; at = strchr(at, '\n')) {
        at += *at == '\n' ? 1 : 0;
        stops += strncmp(at, "signal", 6) == 0 && strncmp(strchr(at + 7, ' '), " 19", 3) == 0;
        conts += strncmp(at, "signal", 6) == 0 && strncmp(strchr(at + 7, ' '), " 18", 3) == 0;
    }
    assert_true(stops >= 1);
    assert_int_equal(stops, conts);
    kelpie__ignore(call(fixture, 2, SIM_OP_wait, NULL, NULL).fault_errno);
    kelpie__ignore(call(fixture, 2, SIM_OP_wait, NULL, NULL).fault_errno);
    fixture->world.log_length = 0;
    kelpie__sim_faults_off(fixture->faults);
    assert_string_equal(fixture->world.log,
                        "signal cli 18\nquota bytes 68719476736\nread-only disk 0\n");
    assert_true(kelpie__sim_faults_are_off(fixture->faults));
    unmake(fixture);
}

static void test_points_of_inhabitants(void **state) {
    struct fixture *fixture =
        make(3, "pause fails nth=2; qmp.migrate p=1 max=1 => short:9; guest.boot nth=1 => late:40;"
                "qmp.cont nth=1 => kill; * nth=1 => delay");
    uint64_t argument = 0;
    (void)state;
    struct sim_process *qemu = &fixture->processes[1];
    assert_null(kelpie__sim_faults_point(fixture->faults, qemu, "qmp.stop", &argument));
    assert_string_equal(kelpie__sim_faults_point(fixture->faults, qemu, "qmp.stop", &argument),
                        "fail");
    assert_string_equal(kelpie__sim_faults_point(fixture->faults, qemu, "qmp.migrate", &argument),
                        "short");
    assert_int_equal(argument, 9);
    assert_null(kelpie__sim_faults_point(fixture->faults, qemu, "qmp.migrate", &argument));
    assert_string_equal(kelpie__sim_faults_point(fixture->faults, qemu, "guest.boot", &argument),
                        "late");
    assert_int_equal(argument, 40000); /* microseconds */
    assert_null(kelpie__sim_faults_point(fixture->faults, qemu, "qmp.cont", &argument));
    assert_non_null(strstr(fixture->world.log, "signal qemu 9\n"));
    char text[512];
    uint64_t fired = 0;
    assert_true(kelpie__sim_faults_rule_fired(fixture->faults, 1, text, &fired));
    assert_string_equal(text, "qmp.migrate p=1.000000000 max=1 => short:9");
    assert_int_equal(fired, 1);
    assert_false(kelpie__sim_faults_rule_fired(fixture->faults, 5, text, &fired));
    unmake(fixture);
}

static void test_pending_writes_and_alias_names(void **state) {
    struct fixture *fixture = make(3, "* while=pending p=1 max=1 => kill");
    char text[128];
    (void)state;
    kelpie__ignore(call(fixture, 0, SIM_OP_wait, NULL, NULL).fault_errno);
    assert_int_equal(fixture->world.log_length, 0);
    fixture->world.pending = 3;
    kelpie__ignore(call(fixture, 0, SIM_OP_wait, NULL, NULL).fault_errno);
    assert_non_null(strstr(fixture->world.log, "fault * role=monitor birth=1 nth=2 => kill 0\n"));
    unmake(fixture);
    assert_true(kelpie__sim_faults_alias("snapshot corrupted", text, sizeof(text)));
    assert_string_equal(text, "disk after=mark:*/snapshots/* => rot");
    assert_true(kelpie__sim_faults_alias("boot fails", text, sizeof(text)));
    assert_false(kelpie__sim_faults_alias("boot", text, sizeof(text)));
}

/* Rules that come later count from then on; what they fire replays from the beginning. */
static void test_rules_are_added(void **state) {
    struct fixture *fixture = make(3, "write nth=1 => EIO");
    char problem[256] = "";
    char plan[1024];
    (void)state;
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, EIO);
    assert_int_equal(kelpie__sim_faults_add(fixture->faults, "read nth=1 => short; raed", problem),
                     -EINVAL);
    assert_int_equal(strncmp(problem, "line 1, column 22: expected an operation", 40), 0);
    assert_int_equal(call(fixture, 0, SIM_OP_read, NULL, NULL).fault_short, 0);
    assert_int_equal(kelpie__sim_faults_add(fixture->faults,
                                            "write nth=2 => ENOSPC; clock after=mark:m => jump:1s",
                                            problem),
                     0);
    assert_int_equal(call(fixture, 0, SIM_OP_write, NULL, NULL).fault_errno, 0);
    struct sim_call made = {.process = &fixture->processes[0], .op = SIM_OP_write, .nth = 9};
    kelpie__sim_faults_call(fixture->faults, &made);
    assert_int_equal(made.fault_errno, ENOSPC);
    emit(fixture, SIM_EVENT_MARK, "m");
    fake_pass(&fixture->world, fixture->world.now_ns);
    kelpie__ignore((int64_t)kelpie__sim_faults_concrete(fixture->faults, plan, sizeof(plan)));
    assert_non_null(strstr(plan, "write role=monitor birth=1 nth=1 => EIO #"));
    assert_non_null(strstr(plan, "* role=monitor birth=1 nth=9 => ENOSPC #"));
    assert_non_null(strstr(plan, "clock after=mark:m nth=1 => jump:1s #"));
    unmake(fixture);
}

/* What the seam can do, the plan can name. */
static void test_every_operation_is_a_point(void **state) {
    (void)state;
    for (uint32_t op = 0; op < SIM_OP_COUNT; op += 1) {
        assert_int_equal(kelpie__fault_point_kind(kelpie__sim_op_name((enum sim_op)op)),
                         KELPIE_FAULT_POINT_CALL);
    }
}

static void test_decisions_are_spread(void **state) {
    uint32_t buckets[16] = {0};
    (void)state;
    for (uint64_t nth = 0; nth < 16000; nth += 1) {
        buckets[kelpie__sim_fault_hash(1, "read", "monitor", nth % 7, nth) % 16] += 1;
    }
    for (uint32_t i = 0; i < 16; i += 1) {
        assert_true(buckets[i] > 850 && buckets[i] < 1150);
    }
    assert_true(kelpie__sim_fault_hash(1, "ab", "c", 1, 1) !=
                kelpie__sim_fault_hash(1, "a", "bc", 1, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_find_their_calls),
        cmocka_unit_test(test_bad_plans_are_refused),
        cmocka_unit_test(test_chance_follows_the_seed_alone),
        cmocka_unit_test(test_concrete_plan_replays_alone),
        cmocka_unit_test(test_signals_delays_and_classes),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_windows_swizzle_and_the_end),
        cmocka_unit_test(test_points_of_inhabitants),
        cmocka_unit_test(test_pending_writes_and_alias_names),
        cmocka_unit_test(test_rules_are_added),
        cmocka_unit_test(test_every_operation_is_a_point),
        cmocka_unit_test(test_decisions_are_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
