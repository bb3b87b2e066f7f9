/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The state table against docs: contract.md, 1, written down here a second time. Every pair of
 * states, every pair of state and operation; what is refused names operation, state and need.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/state.h"

#define STATE_COUNT 6

/* A row for each state, in the order of enum kelpie_vm_state; columns: the operations, the states.
 */
static const char *const allowed[STATE_COUNT] = {
    /* start stop kill pause resume exec delete snapshot restore */
    [KELPIE_VM_CREATED] = "y-----y-y", [KELPIE_VM_STARTING] = "--y------",
    [KELPIE_VM_RUNNING] = "-yyy-y-yy", [KELPIE_VM_PAUSED] = "-yy-y--yy",
    [KELPIE_VM_STOPPED] = "y-----y-y", [KELPIE_VM_CRASHED] = "y-----y-y",
};

static const char *const reached[STATE_COUNT] = {
    /* created starting running paused stopped crashed */
    [KELPIE_VM_CREATED] = "-y----", [KELPIE_VM_STARTING] = "y-yyyy", [KELPIE_VM_RUNNING] = "---yyy",
    [KELPIE_VM_PAUSED] = "--y-yy",  [KELPIE_VM_STOPPED] = "-y----",  [KELPIE_VM_CRASHED] = "-y----",
};

static void test_operations_are_allowed_as_the_contract_says(void **unused) {
    (void)unused;
    assert_int_equal(strlen(allowed[0]), KELPIE_VERB_COUNT);
    for (int state = 0; state < STATE_COUNT; state += 1) {
        for (int verb = 0; verb < KELPIE_VERB_COUNT; verb += 1) {
            struct kelpie_error error = {0};
            enum kelpie_vm_state from = (enum kelpie_vm_state)state;
            int status = kelpie__state_allow(from, (enum kelpie_vm_verb)verb, "box", &error);
            assert_int_equal(status == 0, allowed[state][verb] == 'y');
            if (status == 0) {
                assert_int_equal(error.code, 0);
                continue;
            }
            bool runs = from == KELPIE_VM_RUNNING || from == KELPIE_VM_PAUSED;
            bool is_running_already = verb == KELPIE_VERB_START && runs;
            assert_int_equal(status,
                             is_running_already ? KELPIE_E_ALREADY_RUNNING : KELPIE_E_STATE);
            assert_int_equal(error.code, status);
            const char *name = kelpie__verb_name((enum kelpie_vm_verb)verb);
            assert_int_equal(strncmp(error.message, name, strlen(name)), 0);
            assert_non_null(strstr(error.message, "\"box\""));
            assert_non_null(strstr(error.message, kelpie_vm_state_name(from)));
        }
    }
}

static void test_refusals_say_the_way_out(void **unused) {
    (void)unused;
    static const struct {
        enum kelpie_vm_state state;
        enum kelpie_vm_verb verb;
        const char *remedy;
    } cases[] = {
        {KELPIE_VM_STOPPED, KELPIE_VERB_EXEC, "start it first"},
        {KELPIE_VM_CRASHED, KELPIE_VERB_PAUSE, "start it first"},
        {KELPIE_VM_PAUSED, KELPIE_VERB_EXEC, "resume it first"},
        {KELPIE_VM_STARTING, KELPIE_VERB_EXEC, "wait until its start has ended"},
        {KELPIE_VM_STARTING, KELPIE_VERB_START, "wait until its start has ended"},
        {KELPIE_VM_RUNNING, KELPIE_VERB_DELETE, "stop it first"},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(cases); i += 1) {
        struct kelpie_error error = {0};
        assert_true(kelpie__state_allow(cases[i].state, cases[i].verb, "box", &error) < 0);
        if (strstr(error.message, cases[i].remedy) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", error.message, cases[i].remedy);
        }
    }
}

/* In a child: the assertion of a transition that is not in the table ends the process. */
static bool change_aborts(enum kelpie_vm_state from, enum kelpie_vm_state next) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        enum kelpie_vm_state state = from;
        kelpie__ignore(close(STDERR_FILENO)); /* the assertion's text would look like a failure */
        signal(SIGABRT, SIG_DFL);
        kelpie__state_change(&state, next);
        _exit(state == next ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void test_transitions_are_those_of_the_contract(void **unused) {
    (void)unused;
    for (int from = 0; from < STATE_COUNT; from += 1) {
        for (int next = 0; next < STATE_COUNT; next += 1) {
            bool aborts = change_aborts((enum kelpie_vm_state)from, (enum kelpie_vm_state)next);
            assert_int_equal(!aborts, reached[from][next] == 'y');
        }
    }
}

static void test_names_there_and_back(void **unused) {
    (void)unused;
    for (int state = 0; state < STATE_COUNT; state += 1) {
        enum kelpie_vm_state parsed = KELPIE_VM_CREATED;
        const char *name = kelpie_vm_state_name((enum kelpie_vm_state)state);
        assert_true(kelpie__state_parse(name, &parsed));
        assert_int_equal(parsed, state);
        assert_int_equal(kelpie__state_is_live(parsed), allowed[state][KELPIE_VERB_KILL] == 'y');
    }
    enum kelpie_vm_state untouched = KELPIE_VM_PAUSED;
    assert_false(kelpie__state_parse("Running", &untouched));
    assert_false(kelpie__state_parse("", &untouched));
    assert_int_equal(untouched, KELPIE_VM_PAUSED);
    assert_string_equal(kelpie_vm_state_name((enum kelpie_vm_state)99), "unknown");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_are_allowed_as_the_contract_says),
        cmocka_unit_test(test_refusals_say_the_way_out),
        cmocka_unit_test(test_transitions_are_those_of_the_contract),
        cmocka_unit_test(test_names_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
