/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what a backend lacks on this host, or is not to do, is told as what it is, and leaves
 * nothing. Method: libraries in the place of libkrun (tests/programs/fake_krun.c); no guest, and no
 * KVM that works. With a /dev/kvm that opens, though.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"

static void test_krun_library(const struct harness *harness) {
    char path[512];
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-17", "whole.so");
    backend_fake_remove();
    backend_fake_copy(harness, "fake-krunfw", "firmware.so", "KELPIE_LIBKRUNFW");
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE,
                       "whole.so: cannot open shared object file");
    setenv("KELPIE_LIBKRUN", "/etc/passwd", 1);
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE, "/etc/passwd");
    backend_fake(harness, "fake-krun-2", "second.so");
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE, "second.so\" is \"libkrun.so.2\"");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-16", "old.so");
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE, "has no krun_add_vsock");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-17", "whole.so");
    snprintf(path, sizeof(path), "%s", getenv("KELPIE_LIBKRUNFW"));
    setenv("KELPIE_LIBKRUNFW", getenv("KELPIE_LIBKRUN"), 1);
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE, "not libkrunfw.so.5");
    setenv("KELPIE_LIBKRUNFW", path, 1);
    backend_fake_remove();
    backend_fake_copy(harness, "fake-krun-17", "whole.so", "KELPIE_LIBKRUN");
    backend_krun_fails(harness, 0, KELPIE_E_UNAVAILABLE, "libkrunfw, the guest's kernel,");
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUN")) == 0, "the last one");
}

static void kernel_fails(const struct harness *harness, const char *kernel, int code,
                         const char *text) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    kelpie_config_set_kernel(config, kernel);
    backend_start_fails(&contract, config, code, text);
    contract_close(&contract);
}

/* An ELF file passes for a kernel of which libkrun's devices are found once it has this word. */
static void test_krun_kernel(const struct harness *harness) {
    char kernel[512];
    backend_needs_kvm();
    backend_path(harness, "vmlinux", kernel, sizeof(kernel));
    backend_fake(harness, "fake-krun-19", "krun_set_kernel.fail.so");
    contract_host("cp '%s' '%s'", getenv("KELPIE_LIBKRUNFW"), kernel);
    kernel_fails(harness, kernel, KELPIE_E_UNSUPPORTED, "names its devices on the command line");
    contract_host("printf 'virtio-mmio-cmdline' >>'%s'", kernel);
    kernel_fails(harness, kernel, KELPIE_E_BOOT, "krun_set_kernel failed: Invalid argument");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-17", "whole.so");
    kernel_fails(harness, kernel, KELPIE_E_UNAVAILABLE, "has no krun_set_kernel");
    backend_fake_remove();
    HARNESS_CHECK(unlink(kernel) == 0, "%s", kernel);
}

/* A socket of another process, or of an earlier boot, in the place where this VM's is made. */
static void test_krun_stale_socket(const struct harness *harness) {
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = backend_krun_config(&contract);
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
    backend_fake_remove();
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
        backend_fake(harness, "fake-krun-17", moments[i].library);
        struct contract contract = contract_open(harness);
        struct kelpie_config *config = backend_krun_config(&contract);
        kelpie_config_set_disk_size_mib(config, 16);
        backend_start_fails(&contract, config, KELPIE_E_BOOT, moments[i].found);
        contract_close(&contract);
        backend_fake_remove();
    }
}

/* A configuration with this directory of the host, made, at /work. */
static struct kelpie_config *share_config(const struct harness *harness, struct contract *contract,
                                          bool is_read_only) {
    char path[512];
    struct kelpie_config *config = backend_krun_config(contract);
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
    backend_fake(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    config = share_config(harness, &contract, false);
    backend_start_fails(&contract, config, KELPIE_E_BOOT, "share work rw /");
    config = share_config(harness, &contract, true);
    backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE, "no krun_add_virtiofs3");
    config = share_config(harness, &contract, false);
    for (unsigned i = 0; i < 5; i += 1) {
        snprintf(guest, sizeof(guest), "/more%u", i);
        kelpie_config_add_share(config, "/etc", guest, NULL, false);
    }
    backend_start_fails(
        &contract, config, KELPIE_E_TOO_MANY_SHARES,
        "6 shared directories are above libkrun's maximum of 5 for a VM with 1 disk;");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-17", "krun_add_virtiofs.fail.so");
    config = share_config(harness, &contract, false);
    backend_start_fails(&contract, config, KELPIE_E_BOOT, "krun_add_virtiofs failed: Invalid");
    backend_fake_remove();
    backend_fake(harness, "fake-krun-19", "krun_start_enter.exit.so");
    config = share_config(harness, &contract, true);
    backend_start_fails(&contract, config, KELPIE_E_BOOT, "share work ro /");
    contract_host("rmdir '%s/shared'", harness->root_directory);
    contract_close(&contract);
    backend_fake_remove();
}

/* A directory that is not there, when the VM is made and when it is started; backends that cannot.
 */
static void test_shares_refused(const struct harness *harness) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-17", "krun_start_enter.exit.so");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    kelpie_config_add_share(config, "/no/such/place", "/work", NULL, false);
    contract_fails(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error), &error,
                   KELPIE_E_SHARE, "\"/no/such/place\" does not exist");
    kelpie_config_destroy(config);
    config = backend_krun_config(&contract);
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
    backend_start_fails(&contract, config, KELPIE_E_BOOT, "share work rw /");
    backend_fake_remove();
    config = share_config(harness, &contract, false);
    kelpie_config_set_backend(config, KELPIE_BACKEND_AUTO);
    backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE, "only libkrun shares directories");
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
        backend_fake(harness, cases[i].library, "krun_start_enter.probe.so");
        struct contract contract = contract_open(harness);
        struct kelpie_config *config = share_config(harness, &contract, cases[i].is_read_only);
        kelpie_config_set_disk_size_mib(config, 16);
        backend_start_fails(&contract, config, KELPIE_E_BOOT, cases[i].found);
        contract_host("rmdir '%s/shared'", harness->root_directory);
        contract_close(&contract);
        backend_fake_remove();
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
        struct backend_told told = {.status = KELPIE_CHECK_FAILED};
        backend_fake(harness, found[i].library, "some.so");
        struct contract contract = contract_open(harness);
        CONTRACT_OK(kelpie_doctor(contract.kelpie, false, backend_on_check, &told, &broken));
        HARNESS_CHECK(told.status == KELPIE_CHECK_OK, "%s", told.detail);
        HARNESS_CHECK(strstr(told.detail, found[i].text) != NULL, "%s", told.detail);
        contract_close(&contract);
        backend_fake_remove();
    }
}

/* The kernel's vsock where there is none, and where QEMU cannot use it. */
static void test_vsock_unavailable(const struct harness *harness) {
    backend_needs_kvm();
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_channel(config, KELPIE_CHANNEL_VSOCK);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE, "the channel vsock needs KVM");
    if (access("/dev/vhost-vsock", F_OK) != 0) {
        config = contract_boot_config(&contract);
        kelpie_config_set_channel(config, KELPIE_CHANNEL_VSOCK);
        kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_KVM);
        backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE, "open /dev/vhost-vsock");
    }
    contract_close(&contract);
}

/* Without QEMU there is libkrun, and inspect says why; with it, the one that can do all. */
static void test_backend_auto(const struct harness *harness) {
    backend_needs_kvm();
    backend_fake(harness, "fake-krun-17", "krun_start_enter.exit.so");
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
    backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE, "/no/such/qemu");
    contract_close(&contract);
    backend_fake_remove();
}

static const struct harness_test backend_tests[] = {
    {"krun_library", test_krun_library, 60},
    {"krun_kernel", test_krun_kernel, 60},
    {"krun_stale_socket", test_krun_stale_socket, 60},
    {"krun_confined", test_krun_confined, 60},
    {"krun_shares", test_krun_shares, 60},
    {"krun_share_confined", test_krun_share_confined, 60},
    {"shares_refused", test_shares_refused, 60},
    {"doctor_libkrun", test_doctor_libkrun, 60},
    {"vsock_unavailable", test_vsock_unavailable, 60},
    {"backend_auto", test_backend_auto, 60},
    {0},
};

int main(int argc, char **argv) {
    static const struct harness_test *const files[] = {backend_tests, backend_tests_calls,
                                                       backend_tests_kvm};
    struct harness_suite suite = {.name = "backend"};
    return contract_main(argc, argv, &suite, files, sizeof(files) / sizeof(files[0]));
}
