/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what a backend lacks on this host, or what goes wrong on the way to a guest, is told as
 * what it is, and leaves nothing. Method: libraries in the place of libkrun that go wrong on
 * purpose (tests/programs/fake_krun.c), a QEMU that hangs on KVM, a /dev/kvm that does not open; no
 * guest, and no KVM that works. With a /dev/kvm that opens, though.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "contract.h"
#include "hanging.h"

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

static void backend_path(const struct harness *harness, const char *name, char *out,
                         size_t capacity) {
    int length = snprintf(out, capacity, "%s/%s", harness->root_directory, name);
    HARNESS_CHECK(length > 0 && (size_t)length < capacity, "the path of %s", name);
}

static void backend_needs_kvm(void) {
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        harness_skip("kvm: /dev/kvm cannot be opened");
    }
    close(device);
}

/* A copy of a library of tests/programs, under a name that says what it does. */
static void fake_copy(const struct harness *harness, const char *from, const char *name,
                      const char *variable) {
    char path[512];
    const char *programs = getenv("KELPIE_TEST_PROGRAMS");
    HARNESS_CHECK(programs != NULL, "KELPIE_TEST_PROGRAMS is not set");
    backend_path(harness, name, path, sizeof(path));
    contract_host("cp '%s/%s.so' '%s'", programs, from, path);
    setenv(variable, path, 1);
}

/* Both libraries; libkrun is this one, of that name. */
static void fake_use(const struct harness *harness, const char *from, const char *name) {
    fake_copy(harness, from, name, "KELPIE_LIBKRUN");
    fake_copy(harness, "fake-krunfw", "firmware.so", "KELPIE_LIBKRUNFW");
}

static void fake_remove(void) {
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUN")) == 0, "%s", getenv("KELPIE_LIBKRUN"));
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUNFW")) == 0, "%s", getenv("KELPIE_LIBKRUNFW"));
}

static struct kelpie_config *krun_config(struct contract *contract) {
    struct kelpie_config *config = contract_boot_config(contract);
    kelpie_config_set_backend(config, KELPIE_BACKEND_KRUN);
    return config;
}

/* A start that fails with this code and these words, and leaves the VM as it was. Takes config. */
static void start_fails_with(struct contract *contract, struct kelpie_config *config, int code,
                             const char *text) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_create(contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, code, text);
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
}

static void krun_start_fails(const struct harness *harness, uint64_t timeout_ms, int code,
                             const char *text) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = krun_config(&contract);
    if (timeout_ms > 0) {
        kelpie_config_set_boot_timeout_ms(config, timeout_ms);
    }
    start_fails_with(&contract, config, code, text);
    contract_close(&contract);
}

static void test_krun_library(const struct harness *harness) {
    char path[512];
    backend_needs_kvm();
    fake_use(harness, "fake-krun-17", "whole.so");
    fake_remove();
    fake_copy(harness, "fake-krunfw", "firmware.so", "KELPIE_LIBKRUNFW");
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "whole.so: cannot open shared object file");
    setenv("KELPIE_LIBKRUN", "/etc/passwd", 1);
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "/etc/passwd");
    fake_use(harness, "fake-krun-2", "second.so");
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "second.so\" is \"libkrun.so.2\"");
    fake_remove();
    fake_use(harness, "fake-krun-16", "old.so");
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "has no krun_add_vsock");
    fake_remove();
    fake_use(harness, "fake-krun-17", "whole.so");
    snprintf(path, sizeof(path), "%s", getenv("KELPIE_LIBKRUNFW"));
    setenv("KELPIE_LIBKRUNFW", getenv("KELPIE_LIBKRUN"), 1);
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "not libkrunfw.so.5");
    setenv("KELPIE_LIBKRUNFW", path, 1);
    fake_remove();
    fake_copy(harness, "fake-krun-17", "whole.so", "KELPIE_LIBKRUN");
    krun_start_fails(harness, 0, KELPIE_E_UNAVAILABLE, "libkrunfw, the guest's kernel,");
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUN")) == 0, "the last one");
}

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
    struct kelpie_config *config = krun_config(&contract);
    backend_path(harness, "shared", path, sizeof(path));
    kelpie_config_add_share(config, path, "/work", NULL, false);
    if (strcmp(library, "fake-krun-19") == 0) {
        backend_path(harness, "vmlinux", path, sizeof(path));
        kelpie_config_set_kernel(config, path);
    }
    if (timeout_ms > 0) {
        kelpie_config_set_boot_timeout_ms(config, timeout_ms);
    }
    start_fails_with(&contract, config, code, text);
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
    fake_use(harness, library, name);
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
    fake_remove();
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
    krun_start_fails(&other, 0, KELPIE_E_BOOT, "hello: kelpie-krun was killed by signal 9");
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
        fake_use(harness, "fake-krun-17", steps[i].library);
        krun_start_fails(harness, 0, KELPIE_E_BOOT, steps[i].text);
        fake_remove();
    }
    fake_use(harness, "fake-krun-17", "whole.so");
    killed_at_once(harness);
    fake_remove();
}

static void calls_hang(const struct harness *harness, const char *library,
                       const char *const *calls) {
    char name[96];
    for (size_t i = 0; calls[i] != NULL; i += 1) {
        snprintf(name, sizeof(name), "%s.hang.so", calls[i]);
        fake_use(harness, library, name);
        bool is_start = strcmp(calls[i], "krun_start_enter") == 0;
        sequence_fails(harness, library, 500, KELPIE_E_BOOT_TIMEOUT,
                       is_start ? "500 ms" : calls[i]);
        fake_remove();
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
    fake_use(harness, "fake-krun-17", "load.hang.so");
    krun_start_fails(harness, 500, KELPIE_E_BOOT_TIMEOUT, "within dlopen");
    fake_remove();
    fake_use(harness, "fake-krun-17", "krun_free_ctx.hang.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = krun_config(&contract);
    kelpie_config_set_cpus(config, 32);
    kelpie_config_set_boot_timeout_ms(config, 500);
    start_fails_with(&contract, config, KELPIE_E_BOOT_TIMEOUT, "libkrun takes at most 16");
    contract_close(&contract);
    fake_remove();
}

/* 0 without a word of the agent is a kernel that found no root, or panicked: no success. */
static void test_krun_ends_at_once(const struct harness *harness) {
    backend_needs_kvm();
    fake_use(harness, "fake-krun-19", "krun_start_enter.exit.so");
    krun_start_fails(harness, 0, KELPIE_E_BOOT, "before its agent said hello");
    fake_remove();
}

static void test_krun_limits(const struct harness *harness) {
    backend_needs_kvm();
    fake_use(harness, "fake-krun-19", "whole.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = krun_config(&contract);
    kelpie_config_set_cpus(config, 32);
    start_fails_with(&contract, config, KELPIE_E_BOOT, "32 CPUs; libkrun takes at most 16");
    config = krun_config(&contract);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    start_fails_with(&contract, config, KELPIE_E_UNSUPPORTED, "KVM only");
    contract_close(&contract);
    fake_remove();
}

static void kernel_fails(const struct harness *harness, const char *kernel, int code,
                         const char *text) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = krun_config(&contract);
    kelpie_config_set_kernel(config, kernel);
    start_fails_with(&contract, config, code, text);
    contract_close(&contract);
}

/* An ELF file passes for a kernel of which libkrun's devices are found once it has this word. */
static void test_krun_kernel(const struct harness *harness) {
    char kernel[512];
    backend_needs_kvm();
    backend_path(harness, "vmlinux", kernel, sizeof(kernel));
    fake_use(harness, "fake-krun-19", "krun_set_kernel.fail.so");
    contract_host("cp '%s' '%s'", getenv("KELPIE_LIBKRUNFW"), kernel);
    kernel_fails(harness, kernel, KELPIE_E_UNSUPPORTED, "names its devices on the command line");
    contract_host("printf 'virtio-mmio-cmdline' >>'%s'", kernel);
    kernel_fails(harness, kernel, KELPIE_E_BOOT, "krun_set_kernel failed: Invalid argument");
    fake_remove();
    fake_use(harness, "fake-krun-17", "whole.so");
    kernel_fails(harness, kernel, KELPIE_E_UNAVAILABLE, "has no krun_set_kernel");
    fake_remove();
    HARNESS_CHECK(unlink(kernel) == 0, "%s", kernel);
}

/* A socket of another process, or of an earlier boot, in the place where this VM's is made. */
static void test_krun_stale_socket(const struct harness *harness) {
    backend_needs_kvm();
    fake_use(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = krun_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "one", config);
    contract_host("mkdir '%s/vms/one/krun' && cd '%s/vms/one/krun' && python3 -c 'import socket; "
                  "socket.socket(socket.AF_UNIX).bind(\"agent.sock\")' && "
                  "mkdir -p '%s/vms/one/krun-root/tmp' && touch '%s/vms/one/krun-root/agent'",
                  harness->state_directory, harness->state_directory, harness->state_directory,
                  harness->state_directory);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT, "said hello");
    contract_end(vm);
    contract_close(&contract);
    fake_remove();
}

/* What is told of a device that is not there, or not ours. */
static void test_krun_without_kvm(const struct harness *harness) {
    static const char *const plans[] = {"open path=/dev/kvm every=1 => ENOMEM",
                                        "open path=/dev/kvm every=1 => EACCES",
                                        "open path=/dev/kvm every=1 => ENOENT"};
    fake_use(harness, "fake-krun-17", "whole.so");
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        struct contract contract = contract_open_faulty(harness, plans[i]);
        start_fails_with(&contract, krun_config(&contract), KELPIE_E_UNAVAILABLE,
                         "add the user to the group kvm");
        contract_close(&contract);
    }
    fake_remove();
}

/* What a library can do in the place of the VM, and, for the test's own sake, what the same probe
 * finds before the process was confined: every word is another one. */
static void test_krun_confined(const struct harness *harness) {
    static const struct {
        const char *library;
        const char *found;
    } moments[] = {
        {"krun_set_console_output.probe.so",
         "create=ok mkdir=ok write=ok chmod=ok exec=ok other=EFAULT kvm=ok disk=ok"},
        {"krun_start_enter.probe.so",
         "create=EACCES mkdir=EACCES write=EACCES chmod=EPERM exec=EPERM other=EPERM kvm=ok "
         "disk=ok"},
    };
    backend_needs_kvm();
    for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i += 1) {
        fake_use(harness, "fake-krun-17", moments[i].library);
        struct contract contract = contract_open(harness);
        struct kelpie_config *config = krun_config(&contract);
        kelpie_config_set_disk_size_mib(config, 16);
        start_fails_with(&contract, config, KELPIE_E_BOOT, moments[i].found);
        contract_close(&contract);
        fake_remove();
    }
}

/* A configuration with this directory of the host, made, at /work. */
static struct kelpie_config *share_config(const struct harness *harness, struct contract *contract,
                                          bool is_read_only) {
    char path[512];
    struct kelpie_config *config = krun_config(contract);
    backend_path(harness, "shared", path, sizeof(path));
    contract_host("mkdir -p '%s'", path);
    kelpie_config_add_share(config, path, "/work/", "work", is_read_only);
    return config;
}

/* What libkrun is told of shares, and what is refused before it is asked. */
static void test_krun_shares(const struct harness *harness) {
    struct kelpie_config *config;
    char guest[16];
    backend_needs_kvm();
    fake_use(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    config = share_config(harness, &contract, false);
    start_fails_with(&contract, config, KELPIE_E_BOOT, "share work rw /");
    config = share_config(harness, &contract, true);
    start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "no krun_add_virtiofs3");
    config = share_config(harness, &contract, false);
    for (unsigned i = 0; i < 5; i += 1) {
        snprintf(guest, sizeof(guest), "/more%u", i);
        kelpie_config_add_share(config, "/etc", guest, NULL, false);
    }
    start_fails_with(&contract, config, KELPIE_E_TOO_MANY_SHARES,
                     "6 shared directories are above libkrun's maximum of 5 for a VM with 1 disk;");
    fake_remove();
    fake_use(harness, "fake-krun-17", "krun_add_virtiofs.fail.so");
    config = share_config(harness, &contract, false);
    start_fails_with(&contract, config, KELPIE_E_BOOT, "krun_add_virtiofs failed: Invalid");
    fake_remove();
    fake_use(harness, "fake-krun-19", "krun_start_enter.exit.so");
    config = share_config(harness, &contract, true);
    start_fails_with(&contract, config, KELPIE_E_BOOT, "share work ro /");
    contract_host("rmdir '%s/shared'", harness->root_directory);
    contract_close(&contract);
    fake_remove();
}

/* A directory that is not there, when the VM is made and when it is started; backends that cannot.
 */
static void test_shares_refused(const struct harness *harness) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    backend_needs_kvm();
    fake_use(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = krun_config(&contract);
    kelpie_config_add_share(config, "/no/such/place", "/work", NULL, false);
    contract_fails(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error), &error,
                   KELPIE_E_SHARE, "\"/no/such/place\" does not exist");
    kelpie_config_destroy(config);
    config = krun_config(&contract);
    kelpie_config_add_share(config, "/etc/passwd", "/work", NULL, false);
    contract_fails(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error), &error,
                   KELPIE_E_SHARE, "is no directory");
    kelpie_config_destroy(config);
    vm = contract_create(&contract, NULL, share_config(harness, &contract, false));
    contract_host("rmdir '%s/shared'", harness->root_directory);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_SHARE, "does not exist");
    contract_state_is(vm, KELPIE_VM_CREATED);
    struct kelpie_share share = {.struct_size = sizeof(share)};
    HARNESS_CHECK(kelpie_vm_share(vm, 0, &share) && strcmp(share.guest_path, "/work") == 0 &&
                      strcmp(share.tag, "work") == 0 && !share.is_read_only,
                  "its share is told");
    HARNESS_CHECK(!kelpie_vm_share(vm, 1, &share), "it has one");
    contract_fails(kelpie_vm_restore(vm, "none", 0, &error), &error, KELPIE_E_UNSUPPORTED,
                   "restore");
    contract_end(vm);
    vm = NULL;
    config = share_config(harness, &contract, false);
    kelpie_config_set_backend(config, KELPIE_BACKEND_QEMU);
    contract_fails(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error), &error,
                   KELPIE_E_UNSUPPORTED, "virtiofsd");
    kelpie_config_set_backend(config, KELPIE_BACKEND_AUTO); /* though QEMU is there */
    start_fails_with(&contract, config, KELPIE_E_BOOT, "share work rw /");
    fake_remove();
    config = share_config(harness, &contract, false);
    kelpie_config_set_backend(config, KELPIE_BACKEND_AUTO);
    start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "only libkrun shares directories");
    contract_host("rmdir '%s/shared'", harness->root_directory);
    contract_close(&contract);
}

/* A writable share is all that can be written, and of a library that keeps the guest from its first
 * root the modes of files there. */
static void test_krun_share_confined(const struct harness *harness) {
    static const struct {
        const char *library;
        bool is_read_only;
        const char *found;
    } cases[] = {
        {"fake-krun-17", false, "create=EACCES mkdir=EACCES write=EACCES chmod=EPERM"},
        {"fake-krun-17", false, "share=ok mode=EPERM"},
        {"fake-krun-19", false, "create=EACCES mkdir=EACCES write=EACCES"},
        {"fake-krun-19", false, "share=ok mode=ok"},
        {"fake-krun-19", true, "create=EACCES mkdir=EACCES write=EACCES chmod=EPERM"},
    };
    backend_needs_kvm();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1) {
        fake_use(harness, cases[i].library, "krun_start_enter.probe.so");
        struct contract contract = contract_open(harness);
        struct kelpie_config *config = share_config(harness, &contract, cases[i].is_read_only);
        kelpie_config_set_disk_size_mib(config, 16);
        start_fails_with(&contract, config, KELPIE_E_BOOT, cases[i].found);
        contract_host("rmdir '%s/shared'", harness->root_directory);
        contract_close(&contract);
        fake_remove();
    }
}

struct told {
    const char *name; /* NULL: "libkrun" */
    enum kelpie_check_status status;
    char detail[1024];
};

static void on_check(void *context, const struct kelpie_check *check) {
    struct told *told = context;
    if (strcmp(check->name, told->name != NULL ? told->name : "libkrun") == 0) {
        told->status = check->status;
        snprintf(told->detail, sizeof(told->detail), "%s", check->detail);
    }
}

/* What doctor says of each: nothing is booted. */
static void test_doctor_libkrun(const struct harness *harness) {
    static const struct {
        const char *library;
        const char *text;
    } found[] = {
        {"fake-krun-19", "1.19.0 or newer; no guest was booted with it"},
        {"fake-krun-17",
         "1.17.0 to 1.17.2, without krun_add_virtiofs3, krun_disable_implicit_init"},
        {"fake-krun-16", "only --backend krun needs it: this libkrun has no krun_add_vsock"},
        {"fake-krun-2", "\"libkrun.so.2\", not libkrun.so.1"},
    };
    for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i += 1) {
        struct told told = {.status = KELPIE_CHECK_FAILED};
        fake_use(harness, found[i].library, "some.so");
        struct contract contract = contract_open(harness);
        CONTRACT_OK(kelpie_doctor(contract.kelpie, false, on_check, &told, &broken));
        HARNESS_CHECK(told.status == KELPIE_CHECK_OK, "%s", told.detail);
        HARNESS_CHECK(strstr(told.detail, found[i].text) != NULL, "%s", told.detail);
        contract_close(&contract);
        fake_remove();
    }
}

/* A program in QEMU's place, which hangs where it is asked for KVM, and writes down when it was
 * started. */
static void hanging_qemu_make(const char *path, const char *log) {
    FILE *file = fopen(path, "we");
    HARNESS_CHECK(file != NULL, "%s", path);
    fprintf(file,
            "#!/bin/sh\n"
            "case \" $* \" in\n"
            "*' -accel kvm '*) echo \"kvm $(date +%%s%%3N)\" >>'%s'; exec sleep 3600 ;;\n"
            "*' -accel '*) echo \"tcg $(date +%%s%%3N)\" >>'%s' ;;\n"
            "esac\n"
            "exec qemu-system-x86_64 \"$@\"\n",
            log, log);
    HARNESS_CHECK(fclose(file) == 0 && chmod(path, 0755) == 0, "%s", path);
}

/* When it was started so, in milliseconds of the wall clock. */
static uint64_t hanging_qemu_time(const char *log, const char *how) {
    char word[8] = "";
    unsigned long long time_ms = 0;
    FILE *file = fopen(log, "re");
    HARNESS_CHECK(file != NULL, "%s", log);
    while (strcmp(word, how) != 0) {
        int count = fscanf(file, "%7s %llu", word, &time_ms);
        HARNESS_CHECK(count == 2, "no start with %s", how);
    }
    fclose(file);
    return time_ms;
}

/* A KVM on which nothing ever moves: within five seconds there is TCG, and the VM runs. */
static void test_kvm_hangs(const struct harness *harness) {
    char program[512];
    char log[512];
    backend_needs_kvm();
    backend_path(harness, "qemu-hangs", program, sizeof(program));
    backend_path(harness, "qemu-log", log, sizeof(log));
    hanging_qemu_make(program, log);
    setenv("KELPIE_QEMU", program, 1);
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot(&contract);
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.accelerator, "tcg") == 0, "%s", info.accelerator);
    HARNESS_CHECK(strstr(info.accelerator_reason, "no hello") != NULL, "%s",
                  info.accelerator_reason);
    uint64_t took_ms = hanging_qemu_time(log, "tcg") - hanging_qemu_time(log, "kvm");
    HARNESS_CHECK(took_ms <= 5000, "TCG was taken after %llu ms", (unsigned long long)took_ms);
    contract_end(vm);
    contract_close(&contract);
    HARNESS_CHECK(unlink(program) == 0 && unlink(log) == 0, "what the test made");
}

/* A /dev/kvm that never answers an open: told apart within a second, and the VM runs on TCG. */
static void test_kvm_open_hangs(const struct harness *harness) {
    char program[512];
    char log[512];
    backend_needs_kvm();
    backend_path(harness, "qemu-hangs", program, sizeof(program));
    backend_path(harness, "qemu-log", log, sizeof(log));
    hanging_qemu_make(program, log);
    setenv("KELPIE_QEMU", program, 1); /* of which nothing is known yet */
    hanging_device_begin("/dev/kvm");
    struct contract contract = contract_open(harness);
    struct told told = {.status = KELPIE_CHECK_FAILED};
    struct kelpie_vm *vm = contract_create(&contract, NULL, contract_boot_config(&contract));
    uint64_t begun_ms = (uint64_t)time(NULL) * 1000;
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.accelerator, "tcg") == 0, "%s", info.accelerator);
    HARNESS_CHECK(strstr(info.accelerator_reason, "/dev/kvm hangs") != NULL, "%s",
                  info.accelerator_reason);
    uint64_t tcg_ms = hanging_qemu_time(log, "tcg");
    HARNESS_CHECK(tcg_ms - begun_ms <= 5000, "TCG was taken after %llu ms",
                  (unsigned long long)(tcg_ms - begun_ms));
    contract_end(vm);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_backend(config, KELPIE_BACKEND_KRUN);
    start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "libkrun needs KVM: open /dev/kvm");
    told.name = "kvm";
    CONTRACT_OK(kelpie_doctor(contract.kelpie, false, on_check, &told, &broken));
    HARNESS_CHECK(strstr(told.detail, "/dev/kvm hangs") != NULL, "%s", told.detail);
    contract_close(&contract);
    hanging_device_end();
    HARNESS_CHECK(unlink(program) == 0 && unlink(log) == 0, "what the test made");
}

/* The kernel's vsock where there is none, and where QEMU cannot use it. */
static void test_vsock_unavailable(const struct harness *harness) {
    backend_needs_kvm();
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_channel(config, KELPIE_CHANNEL_VSOCK);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "the channel vsock needs KVM");
    if (access("/dev/vhost-vsock", F_OK) != 0) {
        config = contract_boot_config(&contract);
        kelpie_config_set_channel(config, KELPIE_CHANNEL_VSOCK);
        kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_KVM);
        start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "open /dev/vhost-vsock");
    }
    contract_close(&contract);
}

/* Without QEMU there is libkrun, and inspect says why; with it, the one that can do all. */
static void test_backend_auto(const struct harness *harness) {
    backend_needs_kvm();
    fake_use(harness, "fake-krun-17", "krun_start_enter.exit.so");
    setenv("KELPIE_QEMU", "/no/such/qemu", 1);
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = contract_boot_config(&contract);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT, "kelpie-krun");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strstr(info.backend_reason, "no guest was booted with libkrun") != NULL, "%s",
                  info.backend_reason);
    contract_end(vm);
    config = contract_boot_config(&contract); /* which libkrun cannot do */
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    start_fails_with(&contract, config, KELPIE_E_UNAVAILABLE, "/no/such/qemu");
    contract_close(&contract);
    fake_remove();
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {
        {"krun_library", test_krun_library, 60},
        {"krun_calls_fail", test_krun_calls_fail, 120},
        {"krun_steps_killed", test_krun_steps_killed, 60},
        {"krun_calls_hang", test_krun_calls_hang, 60},
        {"krun_ends_at_once", test_krun_ends_at_once, 60},
        {"krun_limits", test_krun_limits, 60},
        {"krun_kernel", test_krun_kernel, 60},
        {"krun_stale_socket", test_krun_stale_socket, 60},
        {"krun_without_kvm", test_krun_without_kvm, 60},
        {"krun_confined", test_krun_confined, 60},
        {"krun_shares", test_krun_shares, 60},
        {"krun_share_confined", test_krun_share_confined, 60},
        {"shares_refused", test_shares_refused, 60},
        {"doctor_libkrun", test_doctor_libkrun, 60},
        {"kvm_hangs", test_kvm_hangs, 120},
        {"kvm_open_hangs", test_kvm_open_hangs, 60},
        {"vsock_unavailable", test_vsock_unavailable, 60},
        {"backend_auto", test_backend_auto, 60},
    };
    const struct harness_suite suite = {
        .name = "backend", .tests = tests, .test_count = sizeof(tests) / sizeof(tests[0])};
    return harness_main(argc, argv, &suite);
}
