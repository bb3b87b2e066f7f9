/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See contract.h. A row stops at its first failure; VMs that it leaves go with the library's
 * handle.
 */
#include "sim/contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/contract_help.h"

#define CONTRACT_TASK_MAX 16u
#define CONTRACT_ECHO_BYTES (100u * 1024u)
#define CONTRACT_TURNS_MAX 1000000u

/* ---- 1, 2, 3: lifecycle ---------------------------------------------------------------------- */

static void lifecycle_basic(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_stop_result stopped = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    if (vm == NULL || !kelpie__row_state_is(contract, vm, KELPIE_VM_CREATED)) {
        return;
    }
    if (kelpie__row_is_ok(contract, "start", kelpie_vm_start(vm, 0, &error), &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_RUNNING) &&
        kelpie__row_is_ok(contract, "stop", kelpie_vm_stop(vm, 0, &stopped, &error), &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_STOPPED) && !stopped.was_graceful) {
        kelpie__row_fail(contract, "the guest had to be killed");
    }
    kelpie__row_end(contract, vm);
}

static void lifecycle_with_boot_faults(struct sim_contract *contract) {
    uint32_t count = kelpie__row_scaled(contract, 20);
    uint32_t good = 0;
    uint32_t bad = 0;
    bool has_faults = contract->fault(contract, "boot fails", 500);
    for (uint32_t i = 0; i < count && !contract->has_failed; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm *vm = kelpie__row_make(contract);
        int status = vm == NULL ? -1 : kelpie_vm_start(vm, 0, &error);
        good += status == 0;
        bad += status != 0;
        if (vm != NULL && status < 0 &&
            (kelpie__row_is_code(contract, "start", status, KELPIE_E_BOOT) || true) &&
            kelpie__row_state_is(contract, vm, KELPIE_VM_CREATED)) {
            /* A failed one is startable again; with this chance of failure, in 40 tries. */
            for (uint32_t j = 0; j < 40 && status < 0; j += 1) {
                status = kelpie_vm_start(vm, 0, &error);
            }
            kelpie__ignore(kelpie__row_is_ok(contract, "start again", status, &error));
        }
        kelpie__row_end(contract, vm);
    }
    bool is_enough = count >= 20; /* few tries may all go one way */
    if (!contract->has_failed && has_faults && is_enough && (good == 0 || bad == 0)) {
        kelpie__row_fail(contract, "%u starts succeeded, %u failed: both were to be seen", good,
                         bad);
    }
}

static void lifecycle_with_crash_faults(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    uint32_t count = kelpie__row_scaled(contract, 50);
    kelpie__ignore(contract->fault(contract, "crash", 100));
    for (uint32_t i = 0; vm != NULL && i < count && !contract->has_failed; i += 1) {
        char out[256] = "";
        int code = -1;
        int status = kelpie__row_sh(vm, "echo alive", 0, &code, out, &error);
        kelpie__row_note(contract, status);
        if (status == 0) {
            if (code != 0 || strcmp(out, "alive\n") != 0) {
                kelpie__row_fail(contract, "a success with code %d and \"%s\"", code, out);
            }
        } else if (kelpie__row_is_code(contract, "exec", status, KELPIE_E_CRASHED) &&
                   kelpie__row_state_is(contract, vm, KELPIE_VM_CRASHED)) {
            kelpie__ignore(
                kelpie__row_is_ok(contract, "start again", kelpie_vm_start(vm, 0, &error), &error));
        }
    }
    kelpie__row_end(contract, vm);
}

/* ---- 4, 5: pause and resume ------------------------------------------------------------------ */

static void pause_resume_basic(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm != NULL && kelpie__row_is_ok(contract, "pause", kelpie_vm_pause(vm, &error), &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_PAUSED) &&
        kelpie__row_is_ok(contract, "resume", kelpie_vm_resume(vm, &error), &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_RUNNING)) {
        kelpie__row_says(contract, vm, "echo works", "works\n");
    }
    kelpie__row_end(contract, vm);
}

/* A resume that fails leaves Paused, and a later one succeeds. */
static void resume_at_last(struct sim_contract *contract, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    int status = kelpie_vm_resume(vm, &error);
    for (uint32_t i = 0; i < 40 && status < 0 && !contract->has_failed; i += 1) {
        kelpie__row_note(contract, status);
        if (kelpie__row_is_code(contract, "resume", status, KELPIE_E_RESUME) &&
            kelpie__row_state_is(contract, vm, KELPIE_VM_PAUSED)) {
            status = kelpie_vm_resume(vm, &error);
        }
    }
    kelpie__ignore(kelpie__row_is_ok(contract, "resume at last", status, &error));
}

static void pause_resume_with_faults(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    kelpie__ignore(contract->fault(contract, "pause fails", 300));
    kelpie__ignore(contract->fault(contract, "resume fails", 300));
    for (uint32_t i = 0;
         vm != NULL && i < kelpie__row_scaled(contract, 20) && !contract->has_failed; i += 1) {
        int status = kelpie_vm_pause(vm, &error);
        kelpie__row_note(contract, status);
        if (status == 0) {
            resume_at_last(contract, vm);
        } else if (kelpie__row_is_code(contract, "pause", status, KELPIE_E_PAUSE)) {
            kelpie__ignore(kelpie__row_state_is(contract, vm, KELPIE_VM_RUNNING));
        }
    }
    if (vm != NULL) {
        kelpie__row_says(contract, vm, "echo works", "works\n");
    }
    kelpie__row_end(contract, vm);
}

/* ---- 8, 9: commands with faults -------------------------------------------------------------- */

static void exec_with_timeout_faults(struct sim_contract *contract) {
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    bool has_faults = contract->fault(contract, "exec times out", 300);
    for (uint32_t i = 0;
         vm != NULL && i < kelpie__row_scaled(contract, 30) && !contract->has_failed; i += 1) {
        struct kelpie_error error = {0};
        char out[256] = "";
        int code = -1;
        /* Without the fault the test makes commands that take too long. */
        bool is_slow = !has_faults && contract->random(contract) % 10 < 3;
        int status =
            kelpie__row_sh(vm, is_slow ? "sleep 100" : "echo in time", 1000, &code, out, &error);
        kelpie__row_note(contract, status);
        if (status < 0 && kelpie__row_is_code(contract, "exec", status, KELPIE_E_EXEC_TIMEOUT) &&
            strstr(error.message, "1000 ms") == NULL) {
            kelpie__row_fail(contract, "the timeout is not named: %.200s", error.message);
        } else if (status == 0 && strcmp(out, "in time\n") != 0) {
            kelpie__row_fail(contract, "a success that says \"%s\"", out);
        }
    }
    if (vm != NULL) {
        kelpie__ignore(kelpie__row_state_is(contract, vm, KELPIE_VM_RUNNING));
    }
    kelpie__row_end(contract, vm);
}

static void exec_with_failure_faults(struct sim_contract *contract) {
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    bool has_faults = contract->fault(contract, "exec fails", 300);
    uint32_t count = kelpie__row_scaled(contract, 30);
    uint32_t failed = 0;
    for (uint32_t i = 0; vm != NULL && i < count && !contract->has_failed; i += 1) {
        struct kelpie_error error = {0};
        const char *const argv[] = {"no-such-command", NULL};
        const struct kelpie_exec_options missing = {.struct_size = sizeof(missing), .argv = argv};
        struct kelpie_exec_result result = {.struct_size = sizeof(result)};
        char out[256] = "";
        int code = -1;
        bool is_bad = !has_faults && contract->random(contract) % 10 < 3;
        int status = is_bad ? kelpie_vm_exec(vm, &missing, &result, &error)
                            : kelpie__row_sh(vm, "echo ran", 0, &code, out, &error);
        int wanted = is_bad ? KELPIE_E_EXEC_NOT_FOUND : KELPIE_E_EXEC;
        kelpie__row_note(contract, status);
        failed += status < 0;
        if (status < 0) {
            kelpie__ignore(kelpie__row_is_code(contract, "exec", status, wanted));
        } else if (strcmp(out, "ran\n") != 0) {
            kelpie__row_fail(contract, "a success that says \"%s\"", out);
        }
    }
    if (vm != NULL && !contract->has_failed && count >= 30 && (failed == 0 || failed == count)) {
        kelpie__row_fail(contract, "%u of %u failed: both were to be seen", failed, count);
    }
    kelpie__row_end(contract, vm);
}

/* ---- 10: the same seed, the same outcomes ---------------------------------------------------- */

static void determinism(struct sim_contract *contract) {
    kelpie__ignore(contract->fault(contract, "boot fails", 200));
    kelpie__ignore(contract->fault(contract, "exec fails", 200));
    for (uint32_t i = 0; i < kelpie__row_scaled(contract, 10) && !contract->has_failed; i += 1) {
        struct kelpie_error error = {0};
        char out[256] = "";
        int code = -1;
        struct kelpie_vm *vm = kelpie__row_make(contract);
        int status = vm == NULL ? -1 : kelpie_vm_start(vm, 0, &error);
        kelpie__row_note(contract, status);
        for (uint32_t j = 0; status == 0 && j < 5; j += 1) {
            kelpie__row_note(contract,
                             kelpie__row_sh(vm, "echo $((6 * 7))", 0, &code, out, &error));
        }
        kelpie__row_end(contract, vm);
    }
    if (contract->outcome_count == 0) {
        kelpie__row_fail(contract, "there is no outcome to compare");
    }
}

/* ---- 12: rapid lifecycles -------------------------------------------------------------------- */

static void stress_rapid_lifecycle(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    kelpie__ignore(contract->fault(contract, "crash", 20));
    for (uint32_t i = 0;
         vm != NULL && i < kelpie__row_scaled(contract, 500) && !contract->has_failed; i += 1) {
        struct kelpie_stop_result stopped = {0};
        int status = kelpie_vm_start(vm, 0, &error);
        if (status == 0 && i % 2 == 1) {
            status = kelpie_vm_pause(vm, &error);
            status = status == 0 ? kelpie_vm_resume(vm, &error) : status;
        }
        bool is_crash = status == KELPIE_E_CRASHED || status == KELPIE_E_BOOT;
        if (status < 0 && !is_crash) {
            kelpie__ignore(kelpie__row_is_ok(contract, "start, pause or resume", status, &error));
        } else if (status == 0) {
            status = kelpie_vm_stop(vm, 0, &stopped, &error);
            is_crash = status == KELPIE_E_STATE; /* it was gone already */
            kelpie__ignore(is_crash || kelpie__row_is_ok(contract, "stop", status, &error));
        }
        kelpie__row_note(contract, status);
    }
    kelpie__row_end(contract, vm);
}

/* ---- 13: what is not allowed ----------------------------------------------------------------- */

static void refused(struct sim_contract *contract, struct kelpie_vm *vm, const char *what,
                    int status, int code, enum kelpie_vm_state state) {
    if (!contract->has_failed && kelpie__row_is_code(contract, what, status, code)) {
        kelpie__ignore(kelpie__row_state_is(contract, vm, state));
    }
}

static void refused_when_down(struct sim_contract *contract, struct kelpie_vm *vm,
                              enum kelpie_vm_state state) {
    struct kelpie_error error = {0};
    char out[256];
    int code = 0;
    refused(contract, vm, "pause", kelpie_vm_pause(vm, &error), KELPIE_E_STATE, state);
    refused(contract, vm, "resume", kelpie_vm_resume(vm, &error), KELPIE_E_STATE, state);
    refused(contract, vm, "exec", kelpie__row_sh(vm, "true", 0, &code, out, &error), KELPIE_E_STATE,
            state);
    refused(contract, vm, "stop", kelpie_vm_stop(vm, 0, &(struct kelpie_stop_result){0}, &error),
            KELPIE_E_STATE, state);
}

static void invalid_state_transitions(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    if (vm == NULL) {
        return;
    }
    refused_when_down(contract, vm, KELPIE_VM_CREATED);
    if (kelpie__row_is_ok(contract, "start", kelpie_vm_start(vm, 0, &error), &error)) {
        refused(contract, vm, "start", kelpie_vm_start(vm, 0, &error), KELPIE_E_ALREADY_RUNNING,
                KELPIE_VM_RUNNING);
        refused(contract, vm, "resume", kelpie_vm_resume(vm, &error), KELPIE_E_STATE,
                KELPIE_VM_RUNNING);
        refused(contract, vm, "delete", kelpie_vm_delete(vm, false, &error), KELPIE_E_STATE,
                KELPIE_VM_RUNNING);
        kelpie__ignore(kelpie__row_is_ok(contract, "pause", kelpie_vm_pause(vm, &error), &error));
        refused(contract, vm, "pause", kelpie_vm_pause(vm, &error), KELPIE_E_STATE,
                KELPIE_VM_PAUSED);
        refused(contract, vm, "start", kelpie_vm_start(vm, 0, &error), KELPIE_E_ALREADY_RUNNING,
                KELPIE_VM_PAUSED);
        kelpie__ignore(kelpie__row_is_ok(contract, "resume", kelpie_vm_resume(vm, &error), &error));
        kelpie__ignore(kelpie__row_is_ok(
            contract, "stop", kelpie_vm_stop(vm, 0, &(struct kelpie_stop_result){0}, &error),
            &error));
        refused_when_down(contract, vm, KELPIE_VM_STOPPED);
    }
    kelpie__row_end(contract, vm);
}

/* ---- 15, 16: many at once -------------------------------------------------------------------- */

struct task {
    struct sim_contract *contract;
    struct kelpie_vm *vm;
    bool is_done;
    int status;
    struct kelpie_exec_result result;
    char word[32];
};

static void task_done(void *context, const struct kelpie_error *error) {
    struct task *task = context;
    task->is_done = true;
    task->status = error == NULL ? 0 : error->code;
}

static void wait_all(struct sim_contract *contract, const struct task *tasks, uint32_t count) {
    struct kelpie_error error = {0};
    for (uint32_t turn = 0; turn < CONTRACT_TURNS_MAX && !contract->has_failed; turn += 1) {
        uint32_t done = 0;
        for (uint32_t i = 0; i < count; i += 1) {
            done += tasks[i].is_done;
        }
        if (done == count) {
            return;
        }
        kelpie__ignore(kelpie__row_is_ok(contract, "wait",
                                         kelpie_wait(contract->kelpie, 1000, &error), &error));
    }
    kelpie__row_fail(contract, "the tasks do not end");
}

static void concurrent_lifecycle(struct sim_contract *contract) {
    struct task tasks[10];
    uint32_t rounds = kelpie__row_scaled(contract, 10);
    kelpie__ignore(contract->fault(contract, "boot fails", 100));
    for (uint32_t round = 0; round < rounds && !contract->has_failed; round += 1) {
        for (uint32_t i = 0; i < KELPIE_ARRAY_COUNT(tasks) && !contract->has_failed; i += 1) {
            struct kelpie_error error = {0};
            tasks[i] = (struct task){.contract = contract, .vm = kelpie__row_make(contract)};
            if (tasks[i].vm != NULL) {
                kelpie__ignore(kelpie__row_is_ok(
                    contract, "start",
                    kelpie_vm_start_async(tasks[i].vm, 0, task_done, &tasks[i], NULL, &error),
                    &error));
            }
        }
        if (!contract->has_failed) {
            wait_all(contract, tasks, KELPIE_ARRAY_COUNT(tasks));
        }
        for (uint32_t i = 0; i < KELPIE_ARRAY_COUNT(tasks) && !contract->has_failed; i += 1) {
            bool is_good = tasks[i].status == 0;
            kelpie__ignore(is_good ||
                           kelpie__row_is_code(contract, "start", tasks[i].status, KELPIE_E_BOOT));
            kelpie__ignore(kelpie__row_state_is(contract, tasks[i].vm,
                                                is_good ? KELPIE_VM_RUNNING : KELPIE_VM_CREATED));
            kelpie__row_end(contract, tasks[i].vm);
        }
    }
}

static bool exec_begin(struct sim_contract *contract, struct task *task, struct kelpie_vm *vm,
                       uint32_t number) {
    struct kelpie_error error = {0};
    *task = (struct task){.contract = contract, .result.struct_size = sizeof(task->result)};
    int length = snprintf(task->word, sizeof(task->word), "word-%u", number);
    KELPIE_ASSERT(length > 0);
    const char *const argv[] = {"echo", task->word, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    return kelpie__row_is_ok(
        contract, "exec",
        kelpie_vm_exec_async(vm, &options, &task->result, task_done, task, NULL, &error), &error);
}

static void exec_end(struct sim_contract *contract, struct task *task) {
    if (task->status == 0) {
        size_t length = strlen(task->word);
        bool is_own = task->result.stdout_count == length + 1 &&
                      strncmp(task->result.stdout_bytes, task->word, length) == 0;
        if (!is_own) {
            kelpie__row_fail(contract, "\"%s\" came back as \"%.60s\"", task->word,
                             task->result.stdout_bytes);
        }
    } else {
        kelpie__ignore(kelpie__row_is_code(contract, "exec", task->status, KELPIE_E_EXEC));
    }
    kelpie_exec_result_release(&task->result);
}

static void concurrent_exec(struct sim_contract *contract) {
    struct task tasks[5];
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    kelpie__ignore(contract->fault(contract, "exec fails", 100));
    for (uint32_t round = 0;
         vm != NULL && round < kelpie__row_scaled(contract, 20) && !contract->has_failed;
         round += 1) {
        uint32_t count = 0;
        while (count < KELPIE_ARRAY_COUNT(tasks) &&
               exec_begin(contract, &tasks[count], vm, 100 * round + count)) {
            count += 1;
        }
        if (!contract->has_failed) {
            wait_all(contract, tasks, count);
        }
        for (uint32_t i = 0; i < count && !contract->has_failed; i += 1) {
            exec_end(contract, &tasks[i]);
        }
    }
    kelpie__row_end(contract, vm);
}

/* ---- 17: large output ------------------------------------------------------------------------ */

static void large_exec_output(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    char *word = malloc(CONTRACT_ECHO_BYTES + 1);
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    if (vm == NULL || word == NULL) {
        free(word);
        kelpie__row_fail(contract, "no VM or no memory");
        return;
    }
    for (size_t i = 0; i < CONTRACT_ECHO_BYTES; i += 1) {
        word[i] = (char)('a' + i * 7 % 26);
    }
    word[CONTRACT_ECHO_BYTES] = '\0';
    const char *const argv[] = {"echo", word, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    if (kelpie__row_is_ok(contract, "echo", kelpie_vm_exec(vm, &options, &result, &error),
                          &error)) {
        bool is_same = result.stdout_count == CONTRACT_ECHO_BYTES + 1 &&
                       memcmp(result.stdout_bytes, word, CONTRACT_ECHO_BYTES) == 0;
        if (!is_same || result.is_stdout_truncated) {
            kelpie__row_fail(contract, "%zu bytes came back, and not the same",
                             result.stdout_count);
        }
    }
    kelpie_exec_result_release(&result);
    free(word);
    kelpie__row_end(contract, vm);
}

/* ---- 20, 21: health and statistics ----------------------------------------------------------- */

static void healthy_is(struct sim_contract *contract, struct kelpie_vm *vm, bool is_healthy,
                       enum kelpie_vm_state state) {
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_error error = {0};
    if (!contract->has_failed &&
        kelpie__row_is_ok(contract, "health", kelpie_vm_health(vm, 0, &health, &error), &error) &&
        (health.is_healthy != is_healthy || health.state != state)) {
        kelpie__row_fail(contract, "health says %s, %s",
                         health.is_healthy ? "healthy" : "not healthy",
                         kelpie_vm_state_name(health.state));
    }
}

static void health_checks(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    if (vm == NULL) {
        return;
    }
    healthy_is(contract, vm, false, KELPIE_VM_CREATED);
    if (kelpie__row_is_ok(contract, "start", kelpie_vm_start(vm, 0, &error), &error)) {
        healthy_is(contract, vm, true, KELPIE_VM_RUNNING);
        kelpie__ignore(kelpie__row_is_ok(contract, "pause", kelpie_vm_pause(vm, &error), &error));
        healthy_is(contract, vm, false, KELPIE_VM_PAUSED);
        kelpie__ignore(kelpie__row_is_ok(contract, "kill", kelpie_vm_kill(vm, &error), &error));
        healthy_is(contract, vm, false, KELPIE_VM_STOPPED);
    }
    kelpie__row_end(contract, vm);
}

static void stats(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_stats before = {.struct_size = sizeof(before)};
    struct kelpie_stats after = {.struct_size = sizeof(after)};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm != NULL &&
        kelpie__row_is_ok(contract, "stats", kelpie_vm_stats(vm, &before, &error), &error)) {
        kelpie__row_says(contract, vm, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i",
                         "2000\n");
        if (kelpie__row_is_ok(contract, "stats", kelpie_vm_stats(vm, &after, &error), &error) &&
            (!before.has_guest || after.guest_uptime_ms <= before.guest_uptime_ms ||
             after.guest_cpu_ms <= before.guest_cpu_ms || after.guest_memory_total_kib == 0)) {
            kelpie__row_fail(
                contract, "uptime %llu then %llu ms, CPU %llu then %llu ms, memory %llu KiB",
                (unsigned long long)before.guest_uptime_ms,
                (unsigned long long)after.guest_uptime_ms, (unsigned long long)before.guest_cpu_ms,
                (unsigned long long)after.guest_cpu_ms,
                (unsigned long long)after.guest_memory_total_kib);
        }
    }
    kelpie__row_end(contract, vm);
}

/* ---- all ------------------------------------------------------------------------------------- */

const struct sim_contract_row kelpie__sim_contract_rows[SIM_CONTRACT_ROW_COUNT] = {
    {1, "lifecycle_basic", lifecycle_basic, NULL, 0},
    {2, "lifecycle_with_boot_faults", lifecycle_with_boot_faults, NULL, 0},
    {3, "lifecycle_with_crash_faults", lifecycle_with_crash_faults, NULL, 0},
    {4, "pause_resume_basic", pause_resume_basic, NULL, 0},
    {5, "pause_resume_with_faults", pause_resume_with_faults, NULL, 0},
    {6, "snapshot_restore_basic", kelpie__row_snapshot_restore_basic, NULL, 0},
    {7, "snapshot_with_corruption_faults", kelpie__row_snapshot_with_corruption_faults, NULL, 0},
    {8, "exec_with_timeout_faults", exec_with_timeout_faults, NULL, 0},
    {9, "exec_with_failure_faults", exec_with_failure_faults, NULL, 0},
    {10, "determinism", determinism, NULL, 0},
    {11, "stress_many_operations", kelpie__row_stress_many_operations, NULL, 50},
    {12, "stress_rapid_lifecycle", stress_rapid_lifecycle, NULL, 0},
    {13, "invalid_state_transitions", invalid_state_transitions, NULL, 0},
    {14, "snapshot_state_requirements", kelpie__row_snapshot_state_requirements, NULL, 0},
    {15, "concurrent_lifecycle", concurrent_lifecycle, NULL, 0},
    {16, "concurrent_exec", concurrent_exec, NULL, 0},
    {17, "large_exec_output", large_exec_output, NULL, 0},
    {18, "snapshot_arch_mismatch", kelpie__row_snapshot_arch_mismatch, NULL, 0},
    {19, "snapshot_memory_mismatch", kelpie__row_snapshot_memory_mismatch, NULL, 0},
    {20, "health_checks", health_checks, NULL, 0},
    {21, "stats", stats, NULL, 0},
};
