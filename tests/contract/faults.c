/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the test builds of the real programs under fault plans (docs/testing.md), on real guests:
 * whatever goes wrong, calls end in time with an error that says why, the VM's state is the
 * contract's, and the next start works. Method: the plan is in the environment that the monitor
 * inherits; without KELPIE_TEST_PROGRAMS (the folder of the test builds) these skip.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

static struct kelpie_vm *create_durable(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_config(contract);
    kelpie_config_set_ephemeral(config, false);
    return contract_create(contract, name, config);
}

/* A start under the plan fails with this code within its time, leaves Created, and says this. */
static void start_fails(const struct harness *harness, const char *plan, int code,
                        const char *text) {
    struct contract contract = contract_open_faulty(harness, plan);
    struct kelpie_vm *vm = create_durable(&contract, "faulty");
    struct kelpie_error failure = {0};
    contract_fails(kelpie_vm_start(vm, 20000, &failure), &failure, code, text);
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
    contract_close(&contract);
}

static void test_fault_qmp_read(const struct harness *harness) {
    start_fails(harness, "qmp.read nth=1 => EIO", KELPIE_E_BOOT, "EIO");
}

static void test_fault_qemu_missing(const struct harness *harness) {
    start_fails(harness, "spawn path=*qemu* nth=1 => EACCES", KELPIE_E_BOOT, "qemu");
}

/* The first frame's check comes with a changed bit, and the VM pays for it. (A bit of the payload
 * may well go unnoticed: the check is no checksum, docs/protocol.md says why.) */
static void test_fault_agent_mutated(const struct harness *harness) {
    start_fails(harness, "agent.read nth=1 => mutate:1", KELPIE_E_BOOT, "rule R1");
}

/* A late reply is a reply. */
static void test_fault_agent_late(const struct harness *harness) {
    struct contract contract =
        contract_open_faulty(harness, "agent.read every=3 max=5 => delay:300");
    struct kelpie_vm *vm = create_durable(&contract, "late");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "echo well", "well\n");
    contract_end(vm);
    contract_close(&contract);
}

/* Bytes in ones and twos are the same bytes. */
static void test_fault_short_reads(const struct harness *harness) {
    struct contract contract =
        contract_open_faulty(harness, "agent.read p=0.5 => short:7; client.read p=0.5 => short:5; "
                                      "client.write p=0.3 => short:3; qmp.read p=0.5 => short:2");
    struct kelpie_vm *vm = create_durable(&contract, "short");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    for (unsigned i = 0; i < 3; i += 1) {
        contract_sh_says(vm, "echo 0123456789abcdef; echo x", "0123456789abcdef\nx\n");
    }
    contract_end(vm);
    contract_close(&contract);
}

/* The VMM is killed while a command runs: Crashed, everybody is told, start works again. */
static void test_fault_vmm_killed(const struct harness *harness) {
    struct contract contract =
        contract_open_faulty(harness, "client.read nth=4 path=*qemu* max=1 => kill-child");
    struct kelpie_vm *vm = create_durable(&contract, "killed");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    unsigned crashes = 0;
    for (unsigned i = 0; i < 5 && crashes == 0; i += 1) {
        struct contract_result result = contract_sh(vm, "echo x", 10000);
        if (result.status < 0) {
            HARNESS_CHECK(result.status == KELPIE_E_CRASHED || result.status == KELPIE_E_STATE,
                          "%s: %s", kelpie_code_name(result.status), result.error.message);
            crashes += 1;
        }
        contract_release(&result);
    }
    HARNESS_CHECK(crashes == 1, "the fault fired");
    contract_wait_state(vm, KELPIE_VM_CRASHED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "echo again", "again\n");
    contract_end(vm);
    contract_close(&contract);
}

/* A VMM that stands still: the command's timeout and the monitor's backstop end it. */
static void test_fault_vmm_stopped(const struct harness *harness) {
    struct contract contract =
        contract_open_faulty(harness, "client.read nth=3 path=*qemu* max=1 => stop-child");
    struct kelpie_vm *vm = create_durable(&contract, "stopped");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    uint64_t started_ms = harness_now_ms();
    int status = 0;
    for (unsigned i = 0; i < 4 && status == 0; i += 1) {
        struct contract_result result = contract_sh(vm, "echo x", 1000);
        status = result.status;
        contract_release(&result);
    }
    HARNESS_CHECK(status < 0, "the fault fired");
    HARNESS_CHECK(harness_now_ms() - started_ms < 25000, "it ended after %llu ms",
                  (unsigned long long)(harness_now_ms() - started_ms));
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    contract_end(vm);
    contract_close(&contract);
}

/* The monitor dies at one of its calls, drawn from the seed: no orphan, and the next one recovers.
 */
static void test_fault_monitor_killed(const struct harness *harness) {
    const uint32_t rounds = harness_count(harness, 100);
    for (uint32_t i = 0; i < rounds; i += 1) {
        char plan[64];
        uint64_t nth = 1 + harness_random(harness, "monitor", i) % 400;
        snprintf(plan, sizeof(plan), "* nth=%llu => kill", (unsigned long long)nth);
        struct contract contract = contract_open_faulty(harness, plan);
        struct kelpie_vm *vm = NULL;
        struct kelpie_config *config = contract_config(&contract);
        struct kelpie_error failure = {0};
        kelpie_config_set_ephemeral(config, false);
        int status = kelpie_vm_create(contract.kelpie, "dies", config, &vm, &failure);
        kelpie_config_destroy(config);
        if (status == 0) {
            status = kelpie_vm_start(vm, 20000, &failure);
            HARNESS_CHECK(status == 0 || failure.message[0] != '\0', "an error has a message");
            kelpie_vm_close(vm);
        }
        kelpie_close(contract.kelpie);
        unsetenv("KELPIE_FAULT_PLAN");
        contract = contract_open(harness);
        if (kelpie_vm_open(contract.kelpie, "dies", &vm, &failure) == 0) {
            struct kelpie_vm_info info = contract_inspect(vm);
            HARNESS_CHECK(info.state != KELPIE_VM_STARTING, "killed at call %llu: still starting",
                          (unsigned long long)nth);
            contract_end(vm);
        }
        contract_close(&contract);
    }
}

static void test_fault_disk_full(const struct harness *harness) {
    start_fails(harness, "pwrite nth=1 => ENOSPC", KELPIE_E_IO, "ENOSPC");
}

/* Row 5: three in ten commands to the VMM are lost. A pause that fails leaves Running, a resume
 * that fails leaves Paused, and each succeeds when it is tried again. */
static void test_pause_resume_with_faults(const struct harness *harness) {
    const uint32_t rounds = harness_count(harness, 20);
    unsigned failures[2] = {0};
    struct contract contract =
        contract_open_faulty(harness, "qmp.write nth=1 => short:65536; qmp.write p=0.3 => drop");
    struct kelpie_vm *vm = create_durable(&contract, "pauses");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    for (uint32_t i = 0; i < rounds; i += 1) {
        struct kelpie_error failure = {0};
        for (unsigned tries = 0; kelpie_vm_pause(vm, &failure) != 0; tries += 1) {
            HARNESS_CHECK(tries < 20, "it never succeeds: %s", failure.message);
            contract_fails(failure.code, &failure, KELPIE_E_PAUSE, "answer");
            contract_state_is(vm, KELPIE_VM_RUNNING);
            contract_sh_says(vm, "echo still running", "still running\n");
            failures[0] += 1;
            poll(NULL, 0, 20); /* what was lost is asked for again by each try */
        }
        contract_state_is(vm, KELPIE_VM_PAUSED);
        for (unsigned tries = 0; kelpie_vm_resume(vm, &failure) != 0; tries += 1) {
            HARNESS_CHECK(tries < 20, "it never succeeds: %s", failure.message);
            contract_fails(failure.code, &failure, KELPIE_E_RESUME, "answer");
            contract_state_is(vm, KELPIE_VM_PAUSED);
            failures[1] += 1;
            poll(NULL, 0, 20);
        }
        contract_sh_says(vm, "echo running", "running\n");
    }
    printf("# %u rounds: %u pauses and %u resumes failed\n", rounds, failures[0], failures[1]);
    contract_end(vm);
    contract_close(&contract);
}

const struct harness_test contract_tests_faults[] = {
    {"fault_qmp_read", test_fault_qmp_read, 60},
    {"fault_qemu_missing", test_fault_qemu_missing, 60},
    {"fault_agent_mutated", test_fault_agent_mutated, 60},
    {"fault_agent_late", test_fault_agent_late, 60},
    {"fault_short_reads", test_fault_short_reads, 60},
    {"fault_vmm_killed", test_fault_vmm_killed, 60},
    {"fault_vmm_stopped", test_fault_vmm_stopped, 60},
    {"fault_monitor_killed", test_fault_monitor_killed, 600},
    {"fault_disk_full", test_fault_disk_full, 60},
    {"pause_resume_with_faults", test_pause_resume_with_faults, 900},
    {0},
};
