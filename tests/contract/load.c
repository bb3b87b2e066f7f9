/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a boot succeeds while both cores are kept busy: without a known TSC frequency it would hang
 * for ever now and then (findings: calibration against the PIT fails). Method: two spinning
 * processes a core, alive before and after.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

#define SPINNERS_MAX 8

static pid_t spin(int cpu) {
    pid_t child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        cpu_set_t set;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        sched_setaffinity(0, sizeof(set), &set);
        volatile unsigned turn = 0;
        while (turn < UINT_MAX) { /* killed long before; wraps, so that it never ends by itself */
            turn = (turn + 1) / 2;
        }
    }
    return child;
}

static void test_boot_under_load(const struct harness *harness) {
    pid_t spinners[SPINNERS_MAX];
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int count = cores * 2 < SPINNERS_MAX ? cores * 2 : SPINNERS_MAX;
    struct contract contract = contract_open(harness);
    for (int i = 0; i < count; i += 1) {
        spinners[i] = spin(i % cores);
    }
    uint32_t boots = harness_count(harness, 20);
    for (uint32_t i = 0; i < boots; i += 1) {
        struct kelpie_config *config = contract_boot_config(&contract);
        kelpie_config_set_boot_timeout_ms(config, UINT64_C(60000) * harness->limit_factor);
        struct kelpie_vm *vm = contract_create(&contract, NULL, config);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "echo up", "up\n");
        contract_end(vm);
    }
    for (int i = 0; i < count; i += 1) {
        HARNESS_CHECK(waitpid(spinners[i], NULL, WNOHANG) == 0, "spinner %d is alive", i);
        kill(spinners[i], SIGKILL);
        waitpid(spinners[i], NULL, 0);
    }
    contract_close(&contract);
}

const struct harness_test contract_tests_load[] = {
    {"boot_under_load", test_boot_under_load, 900},
    {0},
};
