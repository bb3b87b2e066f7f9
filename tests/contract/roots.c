/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: root file systems: a directory and disk images, each with a writable layer or read-only,
 * and what is refused. Method: a directory with a static busybox, made here; images of it made with
 * the host's own tools.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

static void make_root(const struct harness *harness, char *out, size_t capacity) {
    snprintf(out, capacity, "%s/root", harness->root_directory);
    contract_host(
        "cd / && mkdir -p '%s' && cd '%s' && mkdir bin etc dev proc sys tmp run root && "
        "cd / && cp /usr/bin/busybox '%s'/bin/ && "
        "for a in sh cat echo mount touch rm ls grep; do ln -s busybox '%s'/bin/$a; done && "
        "echo from-the-directory >'%s'/etc/mark",
        out, out, out, out, out);
}

static struct kelpie_vm *start_root(struct contract *contract, const char *root, bool is_read_only,
                                    uint64_t disk_size_mib) {
    struct kelpie_config *config = contract_boot_config(contract);
    kelpie_config_set_root(config, root);
    kelpie_config_set_read_only(config, is_read_only);
    kelpie_config_set_disk_size_mib(config, disk_size_mib);
    struct kelpie_vm *vm = contract_create(contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    return vm;
}

/* Written to in the guest, untouched on the host. */
static void root_is_writable(struct kelpie_vm *vm) {
    contract_sh_says(vm, "cat /etc/mark; echo changed >/etc/mark; touch /new; cat /etc/mark",
                     "from-the-directory\nchanged\n");
}

static void test_root_directory(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char root[512];
    make_root(harness, root, sizeof(root));
    struct kelpie_vm *vm = start_root(&contract, root, false, 0);
    root_is_writable(vm);
    contract_end(vm);
    vm = start_root(&contract, root, false, 32);
    root_is_writable(vm);
    contract_end(vm);
    vm = start_root(&contract, root, true, 0);
    contract_sh_says(vm, "cat /etc/mark; touch /new 2>/dev/null || echo read-only",
                     "from-the-directory\nread-only\n");
    contract_end(vm);
    contract_host("grep -q from-the-directory '%s'/etc/mark && test ! -e '%s'/new", root, root);
    /* What is changed on the host is seen by the next VM: the cache knows the content. */
    contract_host("echo second >'%s'/etc/mark", root);
    vm = start_root(&contract, root, true, 0);
    contract_sh_says(vm, "cat /etc/mark", "second\n");
    contract_end(vm);
    contract_host("rm -rf '%s'", root);
    contract_close(&contract);
}

static void has_its_id(struct kelpie_vm *vm) {
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "%s\n", kelpie_vm_id(vm));
    contract_sh_says(vm, "cat /etc/machine-id", wanted);
    contract_end(vm);
}

/* Each VM has a machine id of its own, also where the root cannot be written. */
static void test_machine_id(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char root[512];
    has_its_id(contract_boot(&contract));
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_read_only(config, true);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    has_its_id(vm);
    make_root(harness, root, sizeof(root));
    has_its_id(start_root(&contract, root, false, 0));
    contract_host("echo uninitialized >'%s'/etc/machine-id", root);
    has_its_id(start_root(&contract, root, true, 0));
    contract_host("grep -q uninitialized '%s'/etc/machine-id && rm -rf '%s'", root, root);
    contract_close(&contract);
}

/* A layer on disk is the VM's own and outlives its stop. */
static void test_disk_persists(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char root[512];
    make_root(harness, root, sizeof(root));
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_root(config, root);
    kelpie_config_set_disk_size_mib(config, 32);
    struct kelpie_vm *vm = contract_create(&contract, "disk", config);
    for (unsigned round = 0; round < 2; round += 1) {
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "ls /kept 2>/dev/null; echo data >/kept", round == 0 ? "" : "/kept\n");
        CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    }
    contract_end(vm);
    contract_host("rm -rf '%s'", root);
    contract_close(&contract);
}

static void test_root_images(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char root[512];
    char image[600];
    make_root(harness, root, sizeof(root));
    contract_host(
        "mke2fs -q -t ext4 -d '%s' '%s.ext4' 32M && mkfs.erofs --quiet '%s.erofs' '%s' && "
        "qemu-img convert -O qcow2 '%s.ext4' '%s.qcow2'",
        root, root, root, root, root, root);
    static const char *const kinds[] = {"ext4", "erofs", "qcow2"};
    for (size_t i = 0; i < 3; i += 1) {
        snprintf(image, sizeof(image), "%s.%s", root, kinds[i]);
        struct kelpie_vm *vm = start_root(&contract, image, false, 0);
        root_is_writable(vm);
        contract_end(vm);
    }
    contract_host("rm -rf '%s' '%s.ext4' '%s.erofs' '%s.qcow2'", root, root, root, root);
    contract_close(&contract);
}

/* Fails at create or at start, with this code and text, and nothing is left. */
static void refused(struct contract *contract, const char *root, int code, const char *text) {
    struct kelpie_config *config = contract_boot_config(contract);
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    kelpie_config_set_root(config, root);
    int status = kelpie_vm_create(contract->kelpie, NULL, config, &vm, &error);
    if (status == 0) {
        status = kelpie_vm_start(vm, 0, &error);
        contract_end(vm);
    }
    contract_fails(status, &error, code, text);
    kelpie_config_destroy(config);
}

static void test_bad_roots(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char path[600];
    snprintf(path, sizeof(path), "%s/nonexistent", harness->root_directory);
    refused(&contract, path, KELPIE_E_ROOT_NOT_FOUND, path);
    snprintf(path, sizeof(path), "%s/socket", harness->root_directory);
    contract_host(
        "python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' '%s'",
        path);
    refused(&contract, path, KELPIE_E_ROOT_ACCESS, "socket");
    contract_host("rm '%s'", path);
    snprintf(path, sizeof(path), "%s/unknown.img", harness->root_directory);
    contract_host("head -c 1048576 /dev/urandom >'%s'", path);
    refused(&contract, path, KELPIE_E_ROOT_ACCESS, "unknown.img");
    /* A hostile image must not make QEMU open a file of the host's. */
    contract_host("rm '%s' && qemu-img create -q -f qcow2 -b /etc/hostname -F raw '%s' 64M", path,
                  path);
    refused(&contract, path, KELPIE_E_ROOT_ACCESS, "depends on another file");
    contract_host("rm '%s'", path);
    contract_close(&contract);
}

/* A kernel that is none, is missing, or is for another machine. */
static void test_bad_kernels(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char path[600];
    snprintf(path, sizeof(path), "%s/kernel", harness->root_directory);
    contract_host("echo no kernel >'%s'", path);
    for (unsigned i = 0; i < 2; i += 1) {
        struct kelpie_config *config = contract_boot_config(&contract);
        struct kelpie_vm *vm = NULL;
        struct kelpie_error error = {0};
        kelpie_config_set_kernel(config, path);
        int status = kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error);
        if (status == 0) {
            status = kelpie_vm_start(vm, 0, &error);
            contract_end(vm);
        }
        contract_fails(status, &error, KELPIE_E_CONFIG, i == 0 ? "kernel" : "another machine");
        kelpie_config_destroy(config);
        contract_host("cp /usr/bin/busybox '%s' && "
                      "printf '\\267\\000' | dd of='%s' bs=1 seek=18 conv=notrunc 2>/dev/null",
                      path, path);
    }
    contract_host("rm '%s'", path);
    contract_close(&contract);
}

const struct harness_test contract_tests_roots[] = {
    {"root_directory", test_root_directory, 120},
    {"disk_persists", test_disk_persists, 60},
    {"machine_id", test_machine_id, 120},
    {"root_images", test_root_images, 120},
    {"bad_roots", test_bad_roots, 60},
    {"bad_kernels", test_bad_kernels, 60},
    {0},
};
