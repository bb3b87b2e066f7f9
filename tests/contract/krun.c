/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what libkrun cannot do is refused by name, and what goes wrong on the way to a guest is
 * told as what it was, with nothing left. Method: libraries that fail on purpose (tests/programs/
 * fake_krun.c), and the real one where a guest is needed. Needs /dev/kvm: tests/nested.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"

static void krun_path(const struct harness *harness, const char *name, char *out, size_t capacity) {
    int length = snprintf(out, capacity, "%s/%s", harness->root_directory, name);
    HARNESS_CHECK(length > 0 && (size_t)length < capacity, "the path of %s", name);
}

/* A library that does what the name says, as libkrun and libkrunfw. */
static void krun_fake(const struct harness *harness, const char *from, const char *name) {
    char path[512];
    char command[1200];
    const char *programs = getenv("KELPIE_TEST_PROGRAMS");
    HARNESS_CHECK(programs != NULL, "KELPIE_TEST_PROGRAMS is not set");
    krun_path(harness, name, path, sizeof(path));
    snprintf(command, sizeof(command), "cp '%s/%s.so' '%s'", programs, from, path);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    setenv("KELPIE_LIBKRUN", path, 1);
    setenv("KELPIE_LIBKRUNFW", path, 1);
}

/* A start that fails with this code and these words, and leaves the VM as it was. */
static void krun_start_fails(const struct harness *harness, uint64_t timeout_ms, int code,
                             const char *text) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_create(&contract, NULL, contract_config(&contract));
    contract_fails(kelpie_vm_start(vm, timeout_ms, &error), &error, code, text);
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
    contract_close(&contract);
}

static void test_krun_library(const struct harness *harness) {
    char path[512];
    krun_path(harness, "no-such-library.so", path, sizeof(path));
    setenv("KELPIE_LIBKRUN", path, 1);
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "no-such-library.so");
    krun_fake(harness, "fake-krun-old", "old.so");
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "krun_add_vsock");
    krun_fake(harness, "fake-krun", "whole.so");
    setenv("KELPIE_LIBKRUNFW", path, 1);
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "libkrunfw");
    krun_fake(harness, "fake-krun", "whole.so");
    setenv("KELPIE_LIBKRUN", "/etc/passwd", 1);
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "/etc/passwd");
}

static void test_krun_calls_fail(const struct harness *harness) {
    static const char *const calls[] = {
        "krun_init_log",    "krun_create_ctx",         "krun_set_vm_config",
        "krun_set_root",    "krun_set_exec",           "krun_disable_implicit_vsock",
        "krun_add_vsock",   "krun_add_vsock_port2",    "krun_add_disk2",
        "krun_start_enter", "krun_set_console_output",
    };
    static const char *const actions[] = {"fail", "abort", "kill"};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i += 1) {
        const char *action = actions[i % 3];
        char name[96];
        snprintf(name, sizeof(name), "%s.%s.so", calls[i], action);
        krun_fake(harness, "fake-krun", name);
        bool is_in_guest = strcmp(calls[i], "krun_start_enter") == 0;
        krun_start_fails(harness, 0, KELPIE_E_BOOT,
                         is_in_guest && strcmp(action, "fail") != 0 ? "kelpie-krun" : calls[i]);
    }
}

static void test_krun_never_starts(const struct harness *harness) {
    krun_fake(harness, "fake-krun", "krun_start_enter.hang.so");
    krun_start_fails(harness, 2000, KELPIE_E_BOOT_TIMEOUT, "2000 ms");
    krun_fake(harness, "fake-krun", "krun_start_enter.exit.so");
    krun_start_fails(harness, 0, KELPIE_E_BOOT, "before its agent said hello");
    krun_fake(harness, "fake-krun", "krun_start_enter.fail.so");
    krun_start_fails(harness, 0, KELPIE_E_BOOT, "krun_start_enter failed: ");
}

static void test_krun_limits(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_cpus(config, 32);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT, "32 CPUs");
    contract_end(vm);
    config = contract_config(&contract);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    vm = contract_create(&contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_UNSUPPORTED, "KVM only");
    contract_end(vm);
    contract_close(&contract);
}

static void test_krun_unsupported(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    const char *const names[] = {"child", NULL};
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = "s"};
    contract_fails(kelpie_vm_snapshot(vm, &options, NULL, &error), &error, KELPIE_E_UNSUPPORTED,
                   "krun");
    struct kelpie_vm *child = NULL;
    contract_fails(kelpie_vm_fork(vm, NULL, names, 1, &child, &error), &error, KELPIE_E_UNSUPPORTED,
                   "krun");
    contract_sh_says(vm, "echo goes on", "goes on\n");
    contract_store_is_empty(&contract);
    contract_end(vm);
    contract_close(&contract);
}

/* The guest cannot write what its agent was started from, and its VMM can write no other file. */
static void test_krun_confined(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    contract_sh_says(vm,
                     "mkdir /tmp/x && mount -t virtiofs /dev/root /tmp/x 2>/dev/null; "
                     "touch /tmp/x/evil 2>/dev/null && grep -q ' /tmp/x virtiofs' /proc/mounts && "
                     "echo written; echo looked",
                     "looked\n");
    struct kelpie_vm_info info = contract_inspect(vm);
    char command[256];
    snprintf(command, sizeof(command), "grep -q '^NoNewPrivs:.1' /proc/%d/status", info.vmm_pid);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    HARNESS_CHECK(strcmp(info.pause, "freezer") == 0 || strcmp(info.pause, "stop") == 0,
                  "the kind of pause is told: %s", info.pause);
    contract_end(vm);
    contract_close(&contract);
}

/* A socket's path may have 107 bytes; the directory's is longer. */
static void test_krun_long_path(const struct harness *harness) {
    char state[512];
    struct harness longer = *harness;
    int length = snprintf(state, sizeof(state), "%s/%0*d", harness->root_directory, 150, 0);
    HARNESS_CHECK(length > 150, "a long path");
    HARNESS_CHECK(mkdir(state, 0700) == 0, "%s", state);
    longer.state_directory = state;
    struct contract contract = contract_open(&longer);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    contract_sh_says(vm, "echo up", "up\n");
    contract_end(vm);
    contract_close(&contract);
}

/* The harness looks that nothing is left of any of them. */
static void test_krun_again(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "one", config);
    uint32_t count = harness_count(harness, 100);
    for (uint32_t i = 0; i < count; i += 1) {
        struct kelpie_stop_result stopped = {0};
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        CONTRACT_OK(kelpie_vm_stop(vm, 0, &stopped, &broken));
        HARNESS_CHECK(stopped.was_graceful, "start %u: it went by itself", i);
    }
    char command[600];
    snprintf(command, sizeof(command),
             "test ! -e '%s/vms/one/krun' && test ! -e '%s/vms/one/krun-root'",
             harness->state_directory, harness->state_directory);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    contract_end(vm);
    contract_close(&contract);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {
        {"krun_library", test_krun_library, 60},
        {"krun_calls_fail", test_krun_calls_fail, 120},
        {"krun_never_starts", test_krun_never_starts, 60},
        {"krun_limits", test_krun_limits, 60},
        {"krun_unsupported", test_krun_unsupported, 60},
        {"krun_confined", test_krun_confined, 60},
        {"krun_long_path", test_krun_long_path, 60},
        {"krun_again", test_krun_again, 300},
    };
    return harness_main(argc, argv, "krun", tests, sizeof(tests) / sizeof(tests[0]));
}
