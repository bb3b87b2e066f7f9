/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The reference model. Goal: it allows what the contract allows and nothing else; what is unknown
 * is settled by the next look; overlapping calls are explained exactly when an order exists.
 * Method: the contract's table, state by state; histories by hand; random histories of a real VM,
 * spoilt.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "sim/model.h"

static char text[SIM_MODEL_TEXT_MAX];

/* A call that nothing overlaps. */
static bool call(struct sim_model *model, enum sim_model_op op, int status, uint64_t result,
                 uint32_t snapshot) {
    struct sim_model_call made = {.op = op, .vm = 3, .target = 4, .snapshot = snapshot};
    if (op == SIM_MODEL_PUT) {
        made.value = result;
    }
    return kelpie__sim_model_end(model, kelpie__sim_model_begin(model, &made), status, result,
                                 text);
}

static bool see(struct sim_model *model, enum kelpie_vm_state state) {
    return kelpie__sim_model_observe(model, 3, 0, state, text);
}

#define MUST(condition)                                                                            \
    do {                                                                                           \
        text[0] = '\0';                                                                            \
        if (!(condition)) {                                                                        \
            fail_msg("%s: %s", #condition, text);                                                  \
        }                                                                                          \
    } while (0)

/* A model whose VM 3 is in that state, for certain. */
static struct sim_model *model_in(bool is_calm, enum kelpie_vm_state state) {
    struct sim_model *model = kelpie__sim_model_create(is_calm);
    assert_non_null(model);
    MUST(call(model, SIM_MODEL_CREATE, 0, 0, 0));
    if (state != KELPIE_VM_CREATED) {
        MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    }
    if (state == KELPIE_VM_PAUSED) {
        MUST(call(model, SIM_MODEL_PAUSE, 0, 0, 0));
    } else if (state == KELPIE_VM_STOPPED) {
        MUST(call(model, SIM_MODEL_STOP, 0, 0, 0));
    } else if (state == KELPIE_VM_CRASHED) {
        MUST(see(model, KELPIE_VM_CRASHED));
    }
    MUST(see(model, state));
    return model;
}

/* The contract's table: where each is done, and where to it leads; elsewhere it is refused. */
static void test_table_of_the_contract(void **state) {
    static const enum kelpie_vm_state states[] = {KELPIE_VM_CREATED, KELPIE_VM_RUNNING,
                                                  KELPIE_VM_PAUSED, KELPIE_VM_STOPPED,
                                                  KELPIE_VM_CRASHED};
    static const struct {
        enum sim_model_op op;
        const char *allowed; /* of the five states: c r p s x */
        int next;            /* -1: as before */
    } rows[] = {
        {SIM_MODEL_START, "csx", KELPIE_VM_RUNNING},
        {SIM_MODEL_STOP, "rp", KELPIE_VM_STOPPED},
        {SIM_MODEL_PAUSE, "r", KELPIE_VM_PAUSED},
        {SIM_MODEL_RESUME, "p", KELPIE_VM_RUNNING},
        {SIM_MODEL_EXEC, "r", -1},
        {SIM_MODEL_SNAPSHOT, "rp", -1},
        {SIM_MODEL_DELETE, "csx", -2},
        {SIM_MODEL_DELETE_FORCE, "crpsx", -2},
    };
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rows); i += 1) {
        for (size_t j = 0; j < KELPIE_ARRAY_COUNT(states); j += 1) {
            bool is_allowed = strchr(rows[i].allowed, "crpsx"[j]) != NULL;
            bool is_second_start =
                rows[i].op == SIM_MODEL_START &&
                (states[j] == KELPIE_VM_RUNNING || states[j] == KELPIE_VM_PAUSED);
            int code = is_second_start ? KELPIE_E_ALREADY_RUNNING : KELPIE_E_STATE;
            struct sim_model *model = model_in(false, states[j]);
            text[0] = '\0';
            /* refused where it is allowed, or done where it is not: wrong */
            bool wrong = call(model, rows[i].op, is_allowed ? code : 0, 0, 9);
            bool may_crash = states[j] == KELPIE_VM_RUNNING || states[j] == KELPIE_VM_PAUSED;
            bool is_excused = may_crash && (is_allowed || rows[i].op == SIM_MODEL_START ||
                                            rows[i].op == SIM_MODEL_DELETE);
            if (wrong && !is_excused) { /* (a VM that crashed before it was asked explains both) */
                fail_msg("%s in %s", kelpie__sim_model_op_name(rows[i].op),
                         kelpie_vm_state_name(states[j]));
            }
            kelpie__sim_model_destroy(model);
            if (states[j] == KELPIE_VM_CRASHED) {
                continue; /* no calm run has it */
            }
            model = model_in(true, states[j]);
            assert_false(call(model, rows[i].op, is_allowed ? code : 0, 0, 9));
            kelpie__sim_model_destroy(model);
            model = model_in(true, states[j]);
            MUST(call(model, rows[i].op, is_allowed ? 0 : code, 0, 9));
            int next = !is_allowed || rows[i].next == -1 ? (int)states[j] : rows[i].next;
            uint32_t expected = next == -2 ? SIM_MODEL_GONE : 1u << next;
            assert_int_equal(kelpie__sim_model_states(model, 3), expected);
            kelpie__sim_model_destroy(model);
        }
    }
}

static void test_failures_leave_what_the_contract_says(void **state) {
    static const struct {
        enum kelpie_vm_state from;
        enum sim_model_op op;
        int code;
    } rows[] = {
        {KELPIE_VM_CREATED, SIM_MODEL_START, KELPIE_E_BOOT},
        {KELPIE_VM_STOPPED, SIM_MODEL_START, KELPIE_E_BOOT_TIMEOUT},
        {KELPIE_VM_RUNNING, SIM_MODEL_PAUSE, KELPIE_E_PAUSE},
        {KELPIE_VM_PAUSED, SIM_MODEL_RESUME, KELPIE_E_RESUME},
        {KELPIE_VM_RUNNING, SIM_MODEL_EXEC, KELPIE_E_EXEC_TIMEOUT},
        {KELPIE_VM_PAUSED, SIM_MODEL_SNAPSHOT, KELPIE_E_SNAPSHOT_TOO_LARGE},
        {KELPIE_VM_RUNNING, SIM_MODEL_SNAPSHOT, KELPIE_E_MEMORY},
    };
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rows); i += 1) {
        struct sim_model *model = model_in(false, rows[i].from);
        MUST(call(model, rows[i].op, rows[i].code, 0, 9));
        MUST(see(model, rows[i].from));
        assert_false(kelpie__sim_model_may_have_snapshot(model, 3, 9));
        kelpie__sim_model_destroy(model);
        model = model_in(true, rows[i].from); /* in a calm run nothing fails */
        assert_false(call(model, rows[i].op, rows[i].code, 0, 9));
        kelpie__sim_model_destroy(model);
        model = model_in(false, rows[i].from); /* and no failure is another's */
        assert_false(call(model, rows[i].op, KELPIE_E_INTERNAL, 0, 9));
        kelpie__sim_model_destroy(model);
    }
}

static void test_files_and_snapshots(void **state) {
    struct sim_model *model = model_in(true, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_GET, 0, 0, 0));
    MUST(call(model, SIM_MODEL_PUT, 0, 11, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 7));
    MUST(call(model, SIM_MODEL_PUT, 0, 12, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 12, 0));
    MUST(kelpie__sim_model_observe_snapshot(model, 3, 7, true, text));
    MUST(call(model, SIM_MODEL_STOP, 0, 0, 0));
    MUST(call(model, SIM_MODEL_RESTORE, 0, 0, 7)); /* works when Stopped */
    MUST(call(model, SIM_MODEL_GET, 0, 11, 0));
    MUST(call(model, SIM_MODEL_PAUSE, 0, 0, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 8));
    MUST(call(model, SIM_MODEL_RESUME, 0, 0, 0));
    MUST(call(model, SIM_MODEL_RESTORE, 0, 0, 8)); /* was taken paused */
    MUST(see(model, KELPIE_VM_PAUSED));
    MUST(call(model, SIM_MODEL_FORGET, 0, 0, 7));
    MUST(kelpie__sim_model_observe_snapshot(model, 3, 7, false, text));
    MUST(call(model, SIM_MODEL_RESTORE, KELPIE_E_NOT_FOUND, 0, 7));
    MUST(call(model, SIM_MODEL_STOP, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0)); /* its files were in memory */
    MUST(call(model, SIM_MODEL_GET, 0, 0, 0));
    assert_false(call(model, SIM_MODEL_GET, 0, 11, 0));
    assert_string_equal(text, "VM 3 was running; this answer is not allowed: get of file 0 by "
                              "client 0: done, 11");
    assert_true(kelpie__sim_model_checked(model) > 20);
    assert_int_equal(kelpie__sim_model_lost(model), 0);
    kelpie__sim_model_destroy(model);
}

static void test_forks(void **state) {
    struct sim_model *model = model_in(true, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_PUT, 0, 5, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 1));
    MUST(call(model, SIM_MODEL_PUT, 0, 6, 0));
    MUST(call(model, SIM_MODEL_FORK, 0, 0, 1));
    assert_int_equal(kelpie__sim_model_states(model, 4), 1u << KELPIE_VM_RUNNING);
    struct sim_model_call get = {.op = SIM_MODEL_GET, .vm = 4};
    MUST(kelpie__sim_model_end(model, kelpie__sim_model_begin(model, &get), 0, 5, text));
    MUST(call(model, SIM_MODEL_GET, 0, 6, 0)); /* the source is untouched */
    MUST(call(model, SIM_MODEL_FORK, KELPIE_E_EXISTS, 0, 1));
    assert_false(call(model, SIM_MODEL_FORK, KELPIE_E_NOT_FOUND, 0, 1));
    kelpie__sim_model_destroy(model);
    model = model_in(true, KELPIE_VM_RUNNING);
    MUST(call(model, SIM_MODEL_FORK, KELPIE_E_NOT_FOUND, 0, 1));
    assert_false(call(model, SIM_MODEL_FORK, 0, 0, 1));
    kelpie__sim_model_destroy(model);
}

static void test_must_fail(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_STOPPED);
    struct sim_model_call restore = {.op = SIM_MODEL_RESTORE,
                                     .vm = 3,
                                     .snapshot = 5,
                                     .must_fail = KELPIE_E_SNAPSHOT_INCOMPATIBLE};
    (void)state;
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 5));
    MUST(kelpie__sim_model_end(model, kelpie__sim_model_begin(model, &restore),
                               KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0, text));
    MUST(see(model, KELPIE_VM_RUNNING));
    assert_false(
        kelpie__sim_model_end(model, kelpie__sim_model_begin(model, &restore), 0, 0, text));
    kelpie__sim_model_destroy(model);
}

static void test_unknown_is_settled_by_looking(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_PAUSE, SIM_MODEL_NO_ANSWER, 0, 0));
    assert_int_equal(kelpie__sim_model_states(model, 3),
                     1u << KELPIE_VM_RUNNING | 1u << KELPIE_VM_PAUSED | 1u << KELPIE_VM_CRASHED);
    MUST(see(model, KELPIE_VM_PAUSED));
    MUST(call(model, SIM_MODEL_RESUME, 0, 0, 0));
    MUST(see(model, KELPIE_VM_RUNNING)); /* it was done: it is not done again */
    assert_false(see(model, KELPIE_VM_PAUSED));
    kelpie__sim_model_destroy(model);
    /* it may come late, too */
    model = model_in(false, KELPIE_VM_RUNNING);
    MUST(call(model, SIM_MODEL_STOP, KELPIE_E_TIMEOUT, 0, 0));
    MUST(see(model, KELPIE_VM_RUNNING));
    MUST(call(model, SIM_MODEL_EXEC, 0, 0, 0));
    MUST(see(model, KELPIE_VM_STOPPED));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    assert_false(see(model, KELPIE_VM_STOPPED));
    kelpie__sim_model_destroy(model);
    /* but not after all is settled */
    model = model_in(false, KELPIE_VM_RUNNING);
    MUST(call(model, SIM_MODEL_STOP, KELPIE_E_TIMEOUT, 0, 0));
    kelpie__sim_model_settle(model, 3);
    MUST(see(model, KELPIE_VM_RUNNING));
    assert_false(see(model, KELPIE_VM_STOPPED));
    kelpie__sim_model_destroy(model);
    /* a value that may or may not have been written is one of the two from then on */
    model = model_in(false, KELPIE_VM_RUNNING);
    MUST(call(model, SIM_MODEL_PUT, 0, 1, 0));
    MUST(call(model, SIM_MODEL_PUT, KELPIE_E_EXEC_TIMEOUT, 2, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 2, 0));
    assert_false(call(model, SIM_MODEL_GET, 0, 1, 0));
    kelpie__sim_model_destroy(model);
}

static void test_snapshot_without_an_answer(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_SNAPSHOT, KELPIE_E_IO, 0, 2));
    assert_true(kelpie__sim_model_may_have_snapshot(model, 3, 2));
    MUST(kelpie__sim_model_observe_snapshot(model, 3, 2, true, text));
    assert_false(kelpie__sim_model_observe_snapshot(model, 3, 2, false, text)); /* it stays */
    kelpie__sim_model_destroy(model);
}

static void test_crashes_power_and_owners(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_EXEC, KELPIE_E_CRASHED, 0, 0));
    assert_int_equal(kelpie__sim_model_states(model, 3), 1u << KELPIE_VM_CRASHED);
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 2));
    kelpie__sim_model_power_loss(model, SIM_MODEL_DISK_SOUND);
    assert_int_equal(kelpie__sim_model_states(model, 3), /* an older record may be found */
                     1u << KELPIE_VM_CREATED | 1u << KELPIE_VM_STOPPED | 1u << KELPIE_VM_CRASHED);
    MUST(kelpie__sim_model_observe_snapshot(model, 3, 2, true, text)); /* it was acknowledged */
    kelpie__sim_model_owner_gone(model, 3);
    MUST(see(model, KELPIE_VM_CRASHED));
    MUST(kelpie__sim_model_observe(model, 3, KELPIE_E_NOT_FOUND, 0, text));
    assert_false(see(model, KELPIE_VM_CRASHED));
    kelpie__sim_model_destroy(model);
    model = kelpie__sim_model_create(false);
    kelpie__sim_model_configure(model, 3, true, false);
    MUST(call(model, SIM_MODEL_CREATE, 0, 0, 0));
    kelpie__sim_model_power_loss(model, SIM_MODEL_DISK_SOUND);
    assert_int_equal(kelpie__sim_model_states(model, 3), SIM_MODEL_GONE);
    kelpie__sim_model_configure(model, 4, false, false);
    kelpie__sim_model_power_loss(model, SIM_MODEL_DISK_LIES);
    MUST(kelpie__sim_model_observe(model, 4, 0, KELPIE_VM_STOPPED, text));
    kelpie__sim_model_power_loss(model, SIM_MODEL_DISK_LOST);
    assert_int_equal(kelpie__sim_model_states(model, 4), SIM_MODEL_GONE);
    kelpie__sim_model_destroy(model);
}

static void test_files_that_outlive_a_stop(void **state) {
    struct sim_model *model = kelpie__sim_model_create(false);
    (void)state;
    kelpie__sim_model_configure(model, 3, false, true);
    MUST(call(model, SIM_MODEL_CREATE, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_PUT, 0, 3, 0));
    MUST(call(model, SIM_MODEL_STOP, 0, 0, 0));
    MUST(see(model, KELPIE_VM_STOPPED));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 3, 0));
    MUST(call(model, SIM_MODEL_PUT, 0, 4, 0));
    MUST(call(model, SIM_MODEL_KILL, 0, 0, 0)); /* what was not synced may be lost */
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 3, 0));
    assert_false(call(model, SIM_MODEL_GET, 0, 4, 0)); /* but it does not come back */
    kelpie__sim_model_destroy(model);
}

static bool put_synced(struct sim_model *model, uint64_t value, uint64_t code) {
    const struct sim_model_call put = {
        .op = SIM_MODEL_PUT, .vm = 3, .value = value, .is_synced = true};
    uint64_t ticket = kelpie__sim_model_begin(model, &put);
    return kelpie__sim_model_end(model, ticket, 0, code, text);
}

/* What was synced outlives a kill, and the host; a restore brings back what was there then, on the
 * disk, too. */
static void test_files_that_were_synced(void **state) {
    struct sim_model *model = kelpie__sim_model_create(false);
    (void)state;
    kelpie__sim_model_configure(model, 3, false, true);
    MUST(call(model, SIM_MODEL_CREATE, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(put_synced(model, 3, 0));
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 7));
    MUST(put_synced(model, 4, 0));
    MUST(call(model, SIM_MODEL_KILL, 0, 0, 0));
    kelpie__sim_model_power_loss(model, SIM_MODEL_DISK_SOUND);
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 4, 0));
    MUST(call(model, SIM_MODEL_RESTORE, 0, 0, 7));
    MUST(call(model, SIM_MODEL_KILL, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 3, 0));
    MUST(put_synced(model, 5, 1)); /* it could not be synced */
    MUST(call(model, SIM_MODEL_KILL, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 0, 0));
    MUST(put_synced(model, 6, 0));
    MUST(call(model, SIM_MODEL_KILL, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    assert_false(call(model, SIM_MODEL_GET, 0, 5, 0));
    kelpie__sim_model_destroy(model);
}

static void test_overlapping_calls(void **state) {
    struct sim_model *model = model_in(true, KELPIE_VM_RUNNING);
    struct sim_model_call pause = {.op = SIM_MODEL_PAUSE, .vm = 3, .client = 1};
    struct sim_model_call exec = {.op = SIM_MODEL_EXEC, .vm = 3, .client = 2};
    struct sim_model_call put = {.op = SIM_MODEL_PUT, .vm = 3, .client = 3, .value = 4};
    (void)state;
    /* both answers to a command beside a pause */
    for (uint32_t i = 0; i < 2; i += 1) {
        uint64_t one = kelpie__sim_model_begin(model, &pause);
        uint64_t other = kelpie__sim_model_begin(model, &exec);
        MUST(kelpie__sim_model_end(model, one, 0, 0, text));
        MUST(kelpie__sim_model_end(model, other, i == 0 ? 0 : KELPIE_E_STATE, 0, text));
        MUST(call(model, SIM_MODEL_RESUME, 0, 0, 0));
    }
    /* two pauses: one is refused, or finds the VM busy */
    uint64_t one = kelpie__sim_model_begin(model, &pause);
    uint64_t other = kelpie__sim_model_begin(model, &pause);
    MUST(kelpie__sim_model_end(model, other, 0, 0, text));
    MUST(kelpie__sim_model_end(model, one, KELPIE_E_BUSY, 0, text));
    MUST(call(model, SIM_MODEL_RESUME, 0, 0, 0));
    /* both done: no order */
    one = kelpie__sim_model_begin(model, &pause);
    other = kelpie__sim_model_begin(model, &pause);
    MUST(kelpie__sim_model_end(model, other, 0, 0, text));
    assert_false(kelpie__sim_model_end(model, one, 0, 0, text));
    assert_non_null(strstr(text, "no order of these answers is allowed: "));
    kelpie__sim_model_destroy(model);
    /* what was read before a write that came later cannot be its value */
    model = model_in(true, KELPIE_VM_RUNNING);
    struct sim_model_call get = {.op = SIM_MODEL_GET, .vm = 3, .client = 2};
    uint64_t long_exec = kelpie__sim_model_begin(model, &exec);
    uint64_t read = kelpie__sim_model_begin(model, &get);
    MUST(kelpie__sim_model_end(model, read, 0, 4, text));
    uint64_t write = kelpie__sim_model_begin(model, &put);
    MUST(kelpie__sim_model_end(model, write, 0, 0, text));
    assert_false(kelpie__sim_model_end(model, long_exec, 0, 0, text));
    assert_non_null(strstr(text, "(?) get of file 0 by client 2: done, 4"));
    kelpie__sim_model_destroy(model);
}

/* In any state; without effect where nothing runs. */
static void test_kill_is_never_refused(void **state) {
    static const enum kelpie_vm_state states[] = {KELPIE_VM_CREATED, KELPIE_VM_RUNNING,
                                                  KELPIE_VM_PAUSED, KELPIE_VM_STOPPED};
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(states); i += 1) {
        bool runs = states[i] == KELPIE_VM_RUNNING || states[i] == KELPIE_VM_PAUSED;
        struct sim_model *model = model_in(true, states[i]);
        MUST(call(model, SIM_MODEL_KILL, 0, 0, 0));
        MUST(see(model, runs ? KELPIE_VM_STOPPED : states[i]));
        assert_false(call(model, SIM_MODEL_KILL, KELPIE_E_STATE, 0, 0));
        kelpie__sim_model_destroy(model);
    }
}

/* A monitor that dies takes the answer with it. */
static void test_crash_of_a_monitor(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_STOPPED);
    (void)state;
    MUST(call(model, SIM_MODEL_START, KELPIE_E_CRASHED, 0, 0));
    MUST(see(model, KELPIE_VM_STOPPED));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_STOP, KELPIE_E_CRASHED, 0, 0));
    assert_int_equal(kelpie__sim_model_states(model, 3),
                     1u << KELPIE_VM_STOPPED | 1u << KELPIE_VM_CRASHED);
    MUST(see(model, KELPIE_VM_CRASHED));
    assert_false(see(model, KELPIE_VM_STOPPED));
    kelpie__sim_model_destroy(model);
}

static void test_start_that_is_killed(void **state) {
    struct sim_model *model = model_in(true, KELPIE_VM_CREATED);
    struct sim_model_call start = {.op = SIM_MODEL_START, .vm = 3};
    struct sim_model_call kill = {.op = SIM_MODEL_KILL, .vm = 3};
    (void)state;
    uint64_t one = kelpie__sim_model_begin(model, &start);
    MUST(see(model, KELPIE_VM_STARTING));
    uint64_t other = kelpie__sim_model_begin(model, &kill);
    MUST(kelpie__sim_model_end(model, other, 0, 0, text));
    MUST(kelpie__sim_model_end(model, one, KELPIE_E_BOOT, 0, text));
    assert_int_equal(kelpie__sim_model_states(model, 3), 1u << KELPIE_VM_CREATED);
    assert_false(see(model, KELPIE_VM_STARTING)); /* nobody starts it */
    kelpie__sim_model_destroy(model);
}

/* Its VM is ended before anybody has looked for the snapshot, and found that there is none. */
static void test_restore_of_nothing_that_is_ended(void **state) {
    struct sim_model *model = model_in(true, KELPIE_VM_CREATED);
    struct sim_model_call restore = {.op = SIM_MODEL_RESTORE, .vm = 3, .snapshot = 9};
    struct sim_model_call end = {.op = SIM_MODEL_DELETE_FORCE, .vm = 3};
    (void)state;
    uint64_t one = kelpie__sim_model_begin(model, &restore);
    uint64_t other = kelpie__sim_model_begin(model, &end);
    MUST(kelpie__sim_model_end(model, one, KELPIE_E_CANCELLED, 0, text));
    MUST(kelpie__sim_model_end(model, other, 0, 0, text));
    assert_int_equal(kelpie__sim_model_states(model, 3), SIM_MODEL_GONE);
    kelpie__sim_model_destroy(model);
    model = model_in(true, KELPIE_VM_CREATED); /* nobody has ended it */
    assert_false(call(model, SIM_MODEL_RESTORE, KELPIE_E_CANCELLED, 0, 9));
    kelpie__sim_model_destroy(model);
}

static uint64_t draw(uint64_t *seed, uint64_t bound) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % bound;
}

/* A VM that does what it should, for five clients whose calls overlap all the time. spoil_at: that
 * answer is wrong (a value that nobody has written). True: the model found nothing. */
static bool run_clients(uint64_t seed, uint32_t spoil_at) {
    struct sim_model *model = model_in(true, KELPIE_VM_RUNNING);
    struct {
        uint64_t ticket;
        struct sim_model_call call;
        uint64_t result;
        bool is_done; /* had its effect */
    } clients[5] = {{0, {0}, 0, false}};
    uint64_t value = 0;
    uint32_t answers = 0;
    bool is_good = true;
    for (uint32_t step = 0; step < 2000 && is_good; step += 1) {
        uint32_t i = (uint32_t)draw(&seed, 5);
        if (clients[i].ticket == 0) {
            clients[i].call =
                (struct sim_model_call){.op = draw(&seed, 2) == 0 ? SIM_MODEL_GET : SIM_MODEL_PUT,
                                        .vm = 3,
                                        .client = i,
                                        .value = step + 1};
            clients[i].ticket = kelpie__sim_model_begin(model, &clients[i].call);
            clients[i].is_done = false;
        } else if (!clients[i].is_done) {
            value = clients[i].call.op == SIM_MODEL_PUT ? clients[i].call.value : value;
            clients[i].result = clients[i].call.op == SIM_MODEL_GET ? value : 0;
            clients[i].is_done = true;
        } else {
            bool is_get = clients[i].call.op == SIM_MODEL_GET;
            answers += is_get ? 1 : 0;
            uint64_t result = is_get && answers == spoil_at ? 1000000 : clients[i].result;
            is_good = kelpie__sim_model_end(model, clients[i].ticket, 0, result, text);
            clients[i].ticket = 0;
        }
    }
    assert_int_equal(kelpie__sim_model_lost(model), 0);
    kelpie__sim_model_destroy(model);
    return is_good;
}

static void test_histories_that_never_rest(void **state) {
    uint32_t found = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed += 1) {
        MUST(run_clients(seed, 0));
        found += run_clients(seed, 40) ? 0 : 1;
    }
    assert_true(found >= 34); /* but for calls that a cut goes through */
}

/* A deletion that was given up has ended the guest; the rest comes when its monitor goes on, which
 * nobody is told. One of a fork that was given up likewise; a new VM of that name is another. */
static void test_deletion_that_goes_on_later(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
    (void)state;
    MUST(call(model, SIM_MODEL_DELETE_FORCE, KELPIE_E_TIMEOUT, 0, 0));
    MUST(see(model, KELPIE_VM_STOPPED));
    MUST(call(model, SIM_MODEL_GET, KELPIE_E_NOT_FOUND, 0, 0));
    MUST(call(model, SIM_MODEL_CREATE, 0, 0, 0));
    MUST(see(model, KELPIE_VM_CREATED));
    assert_false(kelpie__sim_model_observe(model, 3, KELPIE_E_NOT_FOUND, 0, text));
    kelpie__sim_model_destroy(model);

    model = model_in(false, KELPIE_VM_RUNNING);
    MUST(call(model, SIM_MODEL_SNAPSHOT, 0, 0, 7));
    MUST(call(model, SIM_MODEL_FORK, KELPIE_E_TIMEOUT, 0, 7));
    MUST(kelpie__sim_model_observe(model, 4, 0, KELPIE_VM_RUNNING, text));
    MUST(kelpie__sim_model_observe(model, 4, KELPIE_E_NOT_FOUND, 0, text));
    assert_false(kelpie__sim_model_observe(model, 4, 0, KELPIE_VM_RUNNING, text));
    kelpie__sim_model_destroy(model);
}

/* Who was saved may be unable to go on, and who asked for that has given up before he was told. */
static void test_pause_that_nobody_was_told(void **state) {
    static const enum sim_model_op ops[] = {SIM_MODEL_SNAPSHOT, SIM_MODEL_CLONE};
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(ops); i += 1) {
        struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
        MUST(call(model, ops[i], KELPIE_E_TIMEOUT, 0, 7));
        MUST(see(model, KELPIE_VM_PAUSED));
        kelpie__sim_model_destroy(model);
        model = model_in(false, KELPIE_VM_RUNNING);
        MUST(call(model, ops[i], 0, 7, 7));
        assert_false(see(model, KELPIE_VM_PAUSED)); /* it was told that all is well */
        kelpie__sim_model_destroy(model);
    }
}

/* Forty calls side by side whose effects all can be in any order: too many, and said so. */
static void test_too_much_is_counted(void **state) {
    struct sim_model *model = model_in(false, KELPIE_VM_RUNNING);
    uint64_t tickets[36];
    (void)state;
    for (uint32_t i = 0; i < 36; i += 1) {
        struct sim_model_call put = {.op = SIM_MODEL_PUT, .vm = 3, .file = i % 8, .value = i + 1};
        tickets[i] = kelpie__sim_model_begin(model, &put);
    }
    for (uint32_t i = 0; i < 36; i += 1) {
        MUST(kelpie__sim_model_end(model, tickets[i], 0, 0, text));
    }
    assert_int_equal(kelpie__sim_model_lost(model), 1);
    MUST(see(model, KELPIE_VM_RUNNING)); /* it goes on from what is seen */
    MUST(call(model, SIM_MODEL_STOP, 0, 0, 0));
    MUST(call(model, SIM_MODEL_START, 0, 0, 0));
    MUST(call(model, SIM_MODEL_GET, 0, 0, 0));
    kelpie__sim_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_of_the_contract),
        cmocka_unit_test(test_failures_leave_what_the_contract_says),
        cmocka_unit_test(test_files_and_snapshots),
        cmocka_unit_test(test_forks),
        cmocka_unit_test(test_must_fail),
        cmocka_unit_test(test_unknown_is_settled_by_looking),
        cmocka_unit_test(test_snapshot_without_an_answer),
        cmocka_unit_test(test_crashes_power_and_owners),
        cmocka_unit_test(test_files_that_outlive_a_stop),
        cmocka_unit_test(test_files_that_were_synced),
        cmocka_unit_test(test_overlapping_calls),
        cmocka_unit_test(test_kill_is_never_refused),
        cmocka_unit_test(test_crash_of_a_monitor),
        cmocka_unit_test(test_start_that_is_killed),
        cmocka_unit_test(test_restore_of_nothing_that_is_ended),
        cmocka_unit_test(test_histories_that_never_rest),
        cmocka_unit_test(test_too_much_is_counted),
        cmocka_unit_test(test_deletion_that_goes_on_later),
        cmocka_unit_test(test_pause_that_nobody_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
