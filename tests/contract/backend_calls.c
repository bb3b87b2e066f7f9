/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: whatever goes wrong on kelpie-krun's way to its VM is told as what it is, by the call or
 * the step, and leaves nothing. Method: a library that fails, panics, hangs or is killed there
 * (tests/programs/fake_krun.c).
 */
#include <stdio.h>
#include <string.h>

#include "backend.h"

static const char *const calls_old[] = {
    "krun_init_log",
    "krun_create_ctx",
    "krun_set_vm_config",
    "krun_set_root",
    "krun_set_exec",
    "krun_add_disk2",
    "krun_add_virtiofs",
    "krun_disable_implicit_vsock",
    "krun_add_vsock",
    "krun_add_vsock_port2",
    "krun_set_console_output",
    "krun_start_enter",
    NULL,
};
static const char *const calls_new[] = {
    "krun_get_max_vcpus",         "krun_set_kernel",
    "krun_disable_implicit_init", "krun_add_virtiofs3",
    "krun_fs_add_overlay_dir",    "krun_fs_add_overlay_file",
    "krun_has_feature",           NULL,
};

/* What a configuration needs to take every call that its library has: a share, and for the newer
 * one a kernel, which is an ELF file with this word. */
static void sequence_make(const struct harness *harness) {
    contract_host(
        "cd '%s' && mkdir shared && cp \"$KELPIE_TEST_PROGRAMS/fake-krunfw.so\" vmlinux && "
        "printf virtio-mmio-cmdline >>vmlinux",
        harness->root_directory);
}

static void sequence_remove(const struct harness *harness) {
    contract_host("cd '%s' && rmdir shared && rm vmlinux", harness->root_directory);
}

static void sequence_fails(const struct harness *harness, const char *library, uint64_t timeout_ms,
                           int code, const char *text) {
    char path[512];
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    backend_path(harness, "shared", path, sizeof(path));
    kelpie_config_add_share(config, path, "/work", NULL, false);
    if (strcmp(library, "fake-krun-19") == 0) {
        backend_path(harness, "vmlinux", path, sizeof(path));
        kelpie_config_set_kernel(config, path);
    }
    if (timeout_ms > 0) {
        kelpie_config_set_boot_timeout_ms(config, timeout_ms);
    }
    backend_start_fails(&contract, config, code, text);
    contract_close(&contract);
}

/* How it is told, by action: a call that answers is named with its errno, others by where it ended.
 */
static void call_goes_wrong(const struct harness *harness, const char *library, const char *call,
                            const char *action) {
    char name[96];
    char text[128];
    bool is_start = strcmp(call, "krun_start_enter") == 0;
    bool is_failure = strcmp(action, "fail") == 0;
    bool is_panic = strcmp(action, "abort") == 0;
    snprintf(name, sizeof(name), "%s.%s.so", call, action);
    backend_fake(harness, library, name);
    if (is_failure) {
        snprintf(text, sizeof(text), "%s failed: %cnvalid argument", call, is_start ? 'i' : 'I');
    } else if (is_start) {
        snprintf(text, sizeof(text), "%s",
                 is_panic ? "libkrun panicked while the guest ran" : "killed by signal 9");
    } else {
        snprintf(text, sizeof(text), "%s%s", is_panic ? "libkrun panicked in " : "ended within ",
                 call);
    }
    if (strcmp(call, "krun_get_max_vcpus") == 0 && is_failure) {
        sequence_fails(harness, library, 0, KELPIE_E_UNAVAILABLE, "KVM cannot be used");
    } else if (strcmp(call, "krun_has_feature") == 0 && is_failure) {
        sequence_fails(harness, library, 0, KELPIE_E_UNAVAILABLE, "built without block devices");
    } else {
        sequence_fails(harness, library, 0, KELPIE_E_BOOT, text);
    }
    backend_fake_remove();
}

static void calls_go_wrong(const struct harness *harness, const char *library,
                           const char *const *calls) {
    static const char *const actions[] = {"fail", "abort", "kill"};
    for (size_t i = 0; calls[i] != NULL; i += 1) {
        for (size_t k = 0; k < sizeof(actions) / sizeof(actions[0]); k += 1) {
            call_goes_wrong(harness, library, calls[i], actions[k]);
        }
    }
}

/* Every call of the sequence fails, panics, and is where the launcher is killed. */
static void test_krun_calls_fail(const struct harness *harness) {
    backend_needs_kvm();
    sequence_make(harness);
    calls_go_wrong(harness, "fake-krun-17", calls_old);
    calls_go_wrong(harness, "fake-krun-19", calls_new);
    sequence_remove(harness);
}

/* Killed before it has said a word: a program that does so in its place. */
static void killed_at_once(const struct harness *harness) {
    char path[512];
    struct harness other = *harness;
    backend_path(harness, "programs", path, sizeof(path));
    contract_host(
        "mkdir '%s' && cp \"$KELPIE_LIBEXEC\"/kelpie-monitor \"$KELPIE_LIBEXEC\"/kelpie-pack "
        "\"$KELPIE_LIBEXEC\"/kelpie-agent '%s' && cd '%s' && "
        "printf '#!/bin/sh\nkill -9 $$\n' >kelpie-krun && chmod 755 kelpie-krun",
        path, path, path);
    other.libexec_directory = path;
    backend_krun_fails(&other, 0, KELPIE_E_BOOT, "hello: kelpie-krun was killed by signal 9");
    contract_host("rm -r '%s'", path);
}

/* Killed between the calls: where the library is loaded, confinement and filter are made. */
static void test_krun_steps_killed(const struct harness *harness) {
    static const struct {
        const char *library;
        const char *text;
    } steps[] = {
        {"load.kill.so", "ended within dlopen; kelpie-krun was killed by signal 9"},
        {"load.abort.so", "panicked in dlopen"},
        {"tell.step.so", "ended within dlopen; kelpie-krun was killed by signal 31"},
        {"rules.step.so", "ended within landlock_restrict_self; kelpie-krun was killed"},
        {"rule.step.so", "ended within landlock_restrict_self; kelpie-krun was killed"},
        {"confine.step.so", "ended within landlock_restrict_self; kelpie-krun was killed"},
        {"privileges.step.so", "ended within seccomp; kelpie-krun was killed by signal 31"},
        {"forbid.step.so", "ended within seccomp; kelpie-krun was killed by signal 31"},
        {"start.step.so", "ended within seccomp; kelpie-krun was killed by signal 31"},
    };
    backend_needs_kvm();
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i += 1) {
        backend_fake(harness, "fake-krun-17", steps[i].library);
        backend_krun_fails(harness, 0, KELPIE_E_BOOT, steps[i].text);
        backend_fake_remove();
    }
    backend_fake(harness, "fake-krun-17", "whole.so");
    killed_at_once(harness);
    backend_fake_remove();
}

static void calls_hang(const struct harness *harness, const char *library,
                       const char *const *calls) {
    char name[96];
    for (size_t i = 0; calls[i] != NULL; i += 1) {
        snprintf(name, sizeof(name), "%s.hang.so", calls[i]);
        backend_fake(harness, library, name);
        bool is_start = strcmp(calls[i], "krun_start_enter") == 0;
        sequence_fails(harness, library, 500, KELPIE_E_BOOT_TIMEOUT,
                       is_start ? "500 ms" : calls[i]);
        backend_fake_remove();
    }
}

/* A call that does not come back is named, and ended with the boot's time; so is the loading of a
 * library. Where the context is given back, it is known already why there is no VM. */
static void test_krun_calls_hang(const struct harness *harness) {
    backend_needs_kvm();
    sequence_make(harness);
    calls_hang(harness, "fake-krun-17", calls_old);
    calls_hang(harness, "fake-krun-19", calls_new);
    sequence_remove(harness);
    backend_fake(harness, "fake-krun-17", "load.hang.so");
    backend_krun_fails(harness, 500, KELPIE_E_BOOT_TIMEOUT, "within dlopen");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-17", "krun_free_ctx.hang.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    kelpie_config_set_cpus(config, 32);
    kelpie_config_set_boot_timeout_ms(config, 500);
    backend_start_fails(&contract, config, KELPIE_E_BOOT_TIMEOUT, "libkrun takes at most 16");
    contract_close(&contract);
    backend_fake_remove();
}

/* 0 without a word of the agent is a kernel that found no root, or panicked: no success. */
static void test_krun_ends_at_once(const struct harness *harness) {
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-19", "krun_start_enter.exit.so");
    backend_krun_fails(harness, 0, KELPIE_E_BOOT, "before its agent said hello");
    backend_fake_remove();
}

static void test_krun_limits(const struct harness *harness) {
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-19", "whole.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    kelpie_config_set_cpus(config, 32);
    backend_start_fails(&contract, config, KELPIE_E_BOOT, "32 CPUs; libkrun takes at most 16");
    config = backend_krun_config(&contract);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    backend_start_fails(&contract, config, KELPIE_E_UNSUPPORTED, "KVM only");
    contract_close(&contract);
    backend_fake_remove();
}

const struct harness_test backend_tests_calls[] = {
    {"krun_calls_fail", test_krun_calls_fail, 120},
    {"krun_steps_killed", test_krun_steps_killed, 60},
    {"krun_calls_hang", test_krun_calls_hang, 60},
    {"krun_ends_at_once", test_krun_ends_at_once, 60},
    {"krun_limits", test_krun_limits, 60},
    {0},
};
