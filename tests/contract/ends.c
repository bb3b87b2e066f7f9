/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: every way in which a VM can end, and what is left of it: nothing that lives, and a state
 * that says what happened. Method: processes are killed by the numbers that kelpie_vm_inspect
 * gives; the harness looks for leftovers.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

static struct kelpie_vm *start_durable(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_config(contract);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    struct kelpie_vm *vm = contract_create(contract, name, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    return vm;
}

static void test_vmm_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "vmm");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(info.vmm_pid > 0, "a VMM runs");
    const char *const argv[] = {"sleep", "100", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct kelpie_exec *exec = NULL;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    kill(info.vmm_pid, SIGKILL);
    struct kelpie_error error = {0};
    struct kelpie_exec_status status;
    uint64_t started_ms = harness_now_ms();
    contract_fails(kelpie_exec_wait(exec, 20000, &status, &error), &error, KELPIE_E_CRASHED,
                   "signal 9");
    HARNESS_CHECK(harness_now_ms() - started_ms < 5000, "clients are told at once");
    kelpie_exec_close(exec);
    contract_state_is(vm, KELPIE_VM_CRASHED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken)); /* start makes it anew */
    contract_sh_says(vm, "echo again", "again\n");
    contract_end(vm);
    contract_close(&contract);
}

static void test_monitor_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "monitor");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(info.monitor_pid > 0, "a monitor runs");
    kill(info.monitor_pid, SIGKILL);
    contract_wait_state(vm, KELPIE_VM_CRASHED);
    info = contract_inspect(vm);
    HARNESS_CHECK(strstr(info.reason, "monitor died") != NULL, "%s", info.reason);
    struct contract_result result = contract_sh(vm, "true", 0);
    HARNESS_CHECK(result.status == KELPIE_E_STATE || result.status == KELPIE_E_CRASHED, "%s: %s",
                  kelpie_code_name(result.status), result.error.message);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "echo again", "again\n");
    contract_end(vm);
    contract_close(&contract);
}

/* Owner, monitor and VMM die at once. */
static void test_all_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "all");
    struct kelpie_vm_info info = contract_inspect(vm);
    kill(info.monitor_pid, SIGKILL);
    kill(info.vmm_pid, SIGKILL);
    kelpie_close(contract.kelpie);
    contract = contract_open(harness);
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, "all", &vm, &broken));
    contract_wait_state(vm, KELPIE_VM_CRASHED);
    contract_end(vm);
    contract_close(&contract);
}

/* A child owns a VM and is killed at a moment drawn from the seed: the VM goes, and its directory
 * with it. */
static void owner_dies(const struct harness *harness, uint64_t delay_us) {
    pid_t child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        struct contract contract = contract_open(harness);
        struct kelpie_vm *vm = contract_create(&contract, "owned", contract_boot_config(&contract));
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "sleep 100", "");
        _exit(0);
    }
    usleep((useconds_t)delay_us);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    struct contract contract = contract_open(harness);
    uint64_t deadline_ms = harness_now_ms() + 5000;
    struct kelpie_vm_info *list = NULL;
    size_t count = 1;
    while (count > 0 && harness_now_ms() < deadline_ms) {
        CONTRACT_OK(kelpie_list(contract.kelpie, &list, &count, &broken));
        kelpie_list_free(contract.kelpie, list, count);
        usleep(20000);
    }
    HARNESS_CHECK(count == 0, "an owned VM is still there 5 s after its owner died (after %llu us)",
                  (unsigned long long)delay_us);
    contract_close(&contract);
}

static void test_owner_killed(const struct harness *harness) {
    const uint32_t rounds = harness_count(harness, 100);
    for (uint32_t i = 0; i < rounds; i += 1) {
        owner_dies(harness, harness_random(harness, "owner", i) % 2500000);
    }
}

/* What a child does with the handles that it has from its parent; 0: all of it is refused, and
 * nothing else happens. */
static int child_of_an_embedder(struct contract *contract, struct kelpie_vm *vm,
                                struct kelpie_exec *exec) {
    struct kelpie_error error = {0};
    size_t written = 0;
    bool is_refused = kelpie_vm_pause(vm, &error) == KELPIE_E_MISUSE &&
                      kelpie_exec_write(exec, "b", 1, &written, &error) == KELPIE_E_MISUSE &&
                      kelpie_exec_kill(exec, &error) == KELPIE_E_MISUSE &&
                      kelpie_dispatch(contract->kelpie, &error) == KELPIE_E_MISUSE &&
                      strstr(error.message, "fork(2)") != NULL;
    kelpie_exec_close(exec);
    kelpie_vm_close(vm);
    kelpie_close(contract->kelpie);
    return is_refused ? 0 : 1;
}

/* A child has copies of all descriptors, the event loop's among them: whatever it does, its parent
 * goes on; and while it holds them, its parent's close is the end of an owned VM all the same. */
static void test_forked_embedder(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_create(&contract, "forks", contract_config(&contract));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    const char *const argv[] = {"cat", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .has_stdin = true};
    struct kelpie_exec *exec = NULL;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    int status = 0;
    pid_t child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        _exit(child_of_an_embedder(&contract, vm, exec));
    }
    waitpid(child, &status, 0);
    HARNESS_CHECK(status == 0, "the child ended with 0x%x", (unsigned)status);
    contract_sh_says(vm, "echo here", "here\n");
    CONTRACT_OK(kelpie_exec_close_stdin(exec, &broken));
    struct kelpie_exec_status ended = {0};
    CONTRACT_OK(kelpie_exec_wait(exec, 20000, &ended, &broken));
    HARNESS_CHECK(ended.reason == KELPIE_EXEC_EXITED, "cat was ended by the child");
    kelpie_exec_close(exec);
    child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        pause();
        _exit(0);
    }
    contract_close(&contract);
    contract = contract_open(harness);
    uint64_t deadline_ms = harness_now_ms() + 10000;
    while (kelpie_vm_open(contract.kelpie, "forks", &vm, NULL) == 0) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "an owned VM outlives its owner's close");
        kelpie_vm_close(vm);
        usleep(20000);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    contract_close(&contract);
}

/* The guest's own doings: each has one name. */
static void guest_ends(struct kelpie_vm *vm, const char *script, enum kelpie_vm_state state,
                       const char *reason) {
    struct contract_result result = contract_sh(vm, script, 0);
    HARNESS_CHECK(result.status < 0, "%s: the command's end is known", script);
    contract_wait_state(vm, state);
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strstr(info.reason, reason) != NULL, "%s: \"%s\" is not in \"%s\"", script,
                  reason, info.reason);
}

static void test_guest_panics(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "panics");
    guest_ends(vm, "echo c >/proc/sysrq-trigger; sleep 60", KELPIE_VM_CRASHED, "sysrq");
    contract_end(vm);
    contract_close(&contract);
}

static void test_guest_powers_off(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "off");
    struct contract_result result = contract_sh(vm, "poweroff -f; sleep 60", 20000);
    HARNESS_CHECK(result.status < 0, "the command's end is known");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(info.state == KELPIE_VM_STOPPED || info.state == KELPIE_VM_CRASHED, "it is %s",
                  kelpie_vm_state_name(info.state));
    contract_end(vm);
    contract_close(&contract);
}

static void test_boot_timeout(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_boot_timeout_ms(config, 300);
    struct kelpie_vm *vm = contract_create(&contract, "slow", config);
    struct kelpie_error error = {0};
    uint64_t started_ms = harness_now_ms();
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT_TIMEOUT, "300 ms");
    HARNESS_CHECK(strstr(error.message, "console") != NULL, "with the console's tail: %s",
                  error.message);
    HARNESS_CHECK(harness_now_ms() - started_ms < 5000, "in time");
    HARNESS_CHECK(kelpie_code_is_retriable(error.code), "it may be tried again");
    contract_state_is(vm, KELPIE_VM_CREATED);
    CONTRACT_OK(kelpie_vm_start(vm, 60000, &broken));
    contract_end(vm);
    contract_close(&contract);
}

/* A graceful stop tells the commands; one that does not listen is killed when its time is over. */
static void test_stop_of_a_stubborn_guest(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "stubborn");
    const char *const argv[] = {"sh", "-c",
                                "trap '' TERM INT HUP; echo on; while :; do sleep 1; done", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct kelpie_exec *exec = NULL;
    struct kelpie_stop_result stopped = {0};
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_stop(vm, 3000, &stopped, &broken));
    HARNESS_CHECK(harness_now_ms() - started_ms < 8000, "stop always ends");
    contract_state_is(vm, KELPIE_VM_STOPPED);
    kelpie_exec_close(exec);
    contract_end(vm);
    contract_close(&contract);
}

/* The median of a few execs, in ms. */
static uint64_t exec_median_ms(struct kelpie_vm *vm) {
    uint64_t times[9];
    for (unsigned i = 0; i < 9; i += 1) {
        uint64_t started_ms = harness_now_ms();
        contract_sh_says(vm, "echo x", "x\n");
        uint64_t took_ms = harness_now_ms() - started_ms;
        unsigned place = i;
        for (; place > 0 && times[place - 1] > took_ms; place -= 1) {
            times[place] = times[place - 1];
        }
        times[place] = took_ms;
    }
    return times[4];
}

/* A guest that prints without end fills no disk and slows no exec to more than twice. */
static void test_console_flood(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_cpus(config, 2);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    struct kelpie_vm *vm = contract_create(&contract, "flood", config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    uint64_t quiet_ms = exec_median_ms(vm);
    uint64_t bytes = harness->scale > 1 ? 150000 : 6000000;
    char script[200];
    snprintf(script, sizeof(script), "yes 'a line for the console' | head -c %llu >/dev/console",
             (unsigned long long)bytes);
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = 120000};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exec_status status;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    uint64_t loud_ms = exec_median_ms(vm);
    CONTRACT_OK(kelpie_exec_wait(exec, 0, &status, &broken));
    kelpie_exec_close(exec);
    HARNESS_CHECK(loud_ms <= 2 * quiet_ms + 10, "an exec took %llu ms, and %llu ms in the flood",
                  (unsigned long long)quiet_ms, (unsigned long long)loud_ms);
    char command[1200];
    snprintf(command, sizeof(command), "test $(du -k '%s/vms/flood' | cut -f1) -lt 4400",
             harness->state_directory);
    HARNESS_CHECK(system(command) == 0, "the console's log is bounded");
    contract_end(vm);
    contract_close(&contract);
}

/* A start that is killed goes back to where it was. */
static void test_kill_during_start(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "early", config);
    struct kelpie_operation *operation = NULL;
    struct kelpie_vm *same = NULL;
    static int code;
    code = 1;
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "early", &same, &broken));
    CONTRACT_OK(kelpie_vm_start_async(vm, 0, contract_note_code, &code, &operation, &broken));
    for (unsigned i = 0; i < 20; i += 1) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 20, &broken));
    }
    CONTRACT_OK(kelpie_vm_kill(same, &broken));
    while (code == 1) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 5000, &broken));
    }
    HARNESS_CHECK(code == KELPIE_E_CANCELLED, "%s", kelpie_code_name(code));
    contract_state_is(vm, KELPIE_VM_CREATED);
    kelpie_close(other.kelpie);
    contract_end(vm);
    contract_close(&contract);
}

const struct harness_test contract_tests_ends[] = {
    {"vmm_killed", test_vmm_killed, 60},
    {"monitor_killed", test_monitor_killed, 60},
    {"all_killed", test_all_killed, 60},
    {"owner_killed", test_owner_killed, 1200},
    {"forked_embedder", test_forked_embedder, 60},
    {"guest_panics", test_guest_panics, 60},
    {"guest_powers_off", test_guest_powers_off, 60},
    {"boot_timeout", test_boot_timeout, 60},
    {"stop_of_a_stubborn_guest", test_stop_of_a_stubborn_guest, 60},
    {"console_flood", test_console_flood, 90},
    {"kill_during_start", test_kill_during_start, 60},
    {0},
};
