/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: rows 1, 13, 20 and 21 of the contract, on whatever backend. Method: a VM is led through its
 * states; in each one every operation that is not allowed is tried, and has to be refused without
 * changing anything.
 */
#include <string.h>

#include "contract.h"

/* Nothing here is simulated: another kernel than the host's, and the agent is its first process. */
static void test_guest_is_real(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot(&contract);
    char host_boot_id[64];
    contract_boot_id(host_boot_id);
    struct contract_result result = contract_sh(vm, "cat /proc/sys/kernel/random/boot_id", 0);
    HARNESS_CHECK(result.status == 0, "%s", result.error.message);
    HARNESS_CHECK(result.exec.stdout_count > 30, "the guest has a boot id");
    HARNESS_CHECK(strcmp(result.exec.stdout_bytes, host_boot_id) != 0, "it is the host's");
    contract_release(&result);
    /* A kernel of libkrun's has names of its own for it: "/init.krun", and "/agent" before 1.19. */
    contract_sh_says(vm,
                     "tr '\\0' '\\n' </proc/1/cmdline | head -n1 | sed 's/.krun$//;s/agent/init/'",
                     "/init\n");
    contract_end(vm);
    contract_close(&contract);
}

static void test_lifecycle_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "basic", config);
    struct kelpie_stop_result stopped = {0};
    contract_state_is(vm, KELPIE_VM_CREATED);
    for (unsigned round = 0; round < 2; round += 1) { /* Stopped can be started again */
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_state_is(vm, KELPIE_VM_RUNNING);
        contract_sh_says(vm, "echo up", "up\n");
        CONTRACT_OK(kelpie_vm_stop(vm, 0, &stopped, &broken));
        HARNESS_CHECK(stopped.was_graceful, "the guest went by itself");
        contract_state_is(vm, KELPIE_VM_STOPPED);
    }
    contract_end(vm);
    contract_close(&contract);
}

/* What has to be refused while nothing runs; `needs` is in each message. */
static void refused_when_down(struct kelpie_vm *vm, const char *state) {
    struct kelpie_error error = {0};
    struct kelpie_stop_result stopped;
    contract_fails(kelpie_vm_stop(vm, 0, &stopped, &error), &error, KELPIE_E_STATE, state);
    struct contract_result result = contract_sh(vm, "true", 0);
    contract_fails(result.status, &result.error, KELPIE_E_STATE, state);
    HARNESS_CHECK(strstr(result.error.message, "running") != NULL, "says what it needs: %s",
                  result.error.message);
    CONTRACT_OK(kelpie_vm_kill(vm, &broken)); /* never fails */
}

static void test_invalid_state_transitions(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "states", config);
    struct kelpie_error error = {0};
    refused_when_down(vm, "created");
    contract_state_is(vm, KELPIE_VM_CREATED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_ALREADY_RUNNING, "running");
    contract_fails(kelpie_vm_delete(vm, false, &error), &error, KELPIE_E_STATE, "running");
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "echo still here", "still here\n");
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    refused_when_down(vm, "stopped");
    contract_state_is(vm, KELPIE_VM_STOPPED);
    contract_end(vm);
    contract_close(&contract);
}

static void health_is(struct kelpie_vm *vm, bool is_healthy, enum kelpie_vm_state state) {
    struct kelpie_health health = {.struct_size = sizeof(health)};
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_health(vm, 0, &health, &broken));
    HARNESS_CHECK(harness_now_ms() - started_ms < 6000, "it did not block");
    HARNESS_CHECK(health.is_healthy == is_healthy, "healthy: %d (%s)", health.is_healthy,
                  health.detail);
    HARNESS_CHECK(health.state == state, "%s", kelpie_vm_state_name(health.state));
}

static void test_health_checks(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "health", config);
    health_is(vm, false, KELPIE_VM_CREATED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    health_is(vm, true, KELPIE_VM_RUNNING);
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    health_is(vm, false, KELPIE_VM_STOPPED);
    contract_end(vm);
    contract_close(&contract);
}

static struct kelpie_stats stats_of(struct kelpie_vm *vm) {
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    CONTRACT_OK(kelpie_vm_stats(vm, &stats, &broken));
    return stats;
}

/* A caller that writes over the structure while its answer is on the way gets what fits the size
 * that it began with, and not one byte more. */
static void stats_with_size_overwritten(const struct contract *contract, struct kelpie_vm *vm) {
    struct {
        struct kelpie_stats stats;
        unsigned char guard[64];
    } place = {.stats = {.struct_size = sizeof(place.stats)}};
    int code = 1;
    memset(place.guard, 0xa5, sizeof(place.guard));
    CONTRACT_OK(kelpie_vm_stats_async(vm, &place.stats, contract_note_code, &code, NULL, &broken));
    place.stats.struct_size = SIZE_MAX;
    for (unsigned i = 0; i < 100 && code == 1; i += 1) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, 100, &broken));
    }
    HARNESS_CHECK(code == 0, "answered with %d", code);
    HARNESS_CHECK(place.stats.struct_size == sizeof(place.stats), "%zu", place.stats.struct_size);
    HARNESS_CHECK(place.stats.guest_memory_total_kib > 0, "the guest answered");
    for (size_t i = 0; i < sizeof(place.guard); i += 1) {
        HARNESS_CHECK(place.guard[i] == 0xa5, "byte %zu behind it was written", i);
    }
}

static void test_stats(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_create(&contract, NULL, contract_boot_config(&contract));
    struct kelpie_stats idle = stats_of(vm);
    HARNESS_CHECK(!idle.has_guest && idle.host_memory_kib == 0, "nothing runs");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_stats before = stats_of(vm);
    HARNESS_CHECK(before.has_guest, "the guest answers");
    HARNESS_CHECK(before.guest_memory_total_kib > 150000 && before.guest_memory_total_kib < 262144,
                  "%llu KiB of 256 MiB", (unsigned long long)before.guest_memory_total_kib);
    contract_sh_says(
        vm, "dd if=/dev/zero of=/tmp/data bs=1M count=24 2>/dev/null; md5sum /tmp/data | wc -l",
        "1\n");
    struct kelpie_stats after = stats_of(vm);
    HARNESS_CHECK(after.guest_cpu_ms > before.guest_cpu_ms, "CPU time moves");
    HARNESS_CHECK(after.guest_memory_available_kib + 20000 < before.guest_memory_available_kib,
                  "memory: %llu, then %llu KiB available",
                  (unsigned long long)before.guest_memory_available_kib,
                  (unsigned long long)after.guest_memory_available_kib);
    HARNESS_CHECK(after.host_cpu_ms > before.host_cpu_ms, "the host's CPU time moves");
    HARNESS_CHECK(after.host_memory_kib > 50000, "resident: %llu KiB",
                  (unsigned long long)after.host_memory_kib);
    HARNESS_CHECK(after.guest_uptime_ms > before.guest_uptime_ms, "time passes");
    stats_with_size_overwritten(&contract, vm);
    contract_end(vm);
    contract_close(&contract);
}

/* Attached by name from a second handle: sees the same VM, survives the first one's close only if
 * detached. */
static void test_attach_by_name(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    struct kelpie_vm *vm = contract_create(&contract, "shared", config);
    struct kelpie_vm *same = NULL;
    struct kelpie_error error = {0};
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "shared", &same, &broken));
    HARNESS_CHECK(strcmp(kelpie_vm_id(vm), kelpie_vm_id(same)) == 0, "it is the same VM");
    contract_sh_says(vm, "echo one >/tmp/file", "");
    kelpie_vm_close(vm);
    contract_close(&contract);
    contract_sh_says(same, "cat /tmp/file", "one\n");
    contract_fails(kelpie_vm_open(other.kelpie, "nothing", &vm, &error), &error, KELPIE_E_NOT_FOUND,
                   "nothing");
    contract_end(same);
    contract_close(&other);
}

/* Names, and what is made of two VMs of the same one. */
static void test_names(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    static const struct {
        const char *name;
        const char *text;
    } bad[] = {
        {"", "empty"},
        {"a/b", "/"},
        {"Upper", "U"},
        {".hidden", "."},
        {"a2345678901234567890123456789012345678901234567890123456789012345", "65"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i += 1) {
        int status = kelpie_vm_create(contract.kelpie, bad[i].name, NULL, &vm, &error);
        contract_fails(status, &error, KELPIE_E_CONFIG, bad[i].text);
        HARNESS_CHECK(strcmp(error.field, "name") == 0, "the field is named");
    }
    vm = contract_create(&contract, "taken", contract_boot_config(&contract));
    struct kelpie_vm *second = NULL;
    contract_fails(kelpie_vm_create(contract.kelpie, "taken", NULL, &second, &error), &error,
                   KELPIE_E_EXISTS, "taken");
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_list(contract.kelpie, &list, &count, &broken));
    HARNESS_CHECK(count == 1 && strcmp(list[0].name, "taken") == 0, "%zu are listed", count);
    kelpie_list_free(contract.kelpie, list, count);
    contract_end(vm);
    contract_close(&contract);
}

/* All problems at once, each with its field, its value and its limit. */
static void test_configuration_problems(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    kelpie_config_set_memory_mib(config, 64);
    kelpie_config_set_cpus(config, 33);
    kelpie_config_set_root(config, "/nonexistent/root");
    kelpie_config_set_kernel(config, "/nonexistent/kernel");
    HARNESS_CHECK(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error) == KELPIE_E_CONFIG,
                  "%s", error.message);
    static const char *const wanted[][2] = {{"cpus", "33"},
                                            {"memory_mib", "128"},
                                            {"root", "/nonexistent/root"},
                                            {"kernel", "/nonexistent/kernel"}};
    HARNESS_CHECK(kelpie_config_problem_count(config) == 4, "%zu problems",
                  kelpie_config_problem_count(config));
    for (size_t i = 0; i < 4; i += 1) {
        const struct kelpie_error *problem = kelpie_config_problem(config, i);
        HARNESS_CHECK(strcmp(problem->field, wanted[i][0]) == 0, "%s", problem->field);
        HARNESS_CHECK(strstr(problem->message, wanted[i][1]) != NULL, "%s", problem->message);
    }
    kelpie_config_destroy(config);
    contract_close(&contract);
}

const struct harness_test contract_tests_lifecycle[] = {
    {"guest_is_real", test_guest_is_real, 60},
    {"lifecycle_basic", test_lifecycle_basic, 90},
    {"invalid_state_transitions", test_invalid_state_transitions, 60},
    {"health_checks", test_health_checks, 60},
    {"stats", test_stats, 60},
    {"attach_by_name", test_attach_by_name, 60},
    {"names", test_names, 30},
    {"configuration_problems", test_configuration_problems, 30},
    {0},
};
