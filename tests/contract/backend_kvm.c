/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a /dev/kvm that is missing, not permitted, or hangs is told as that, and auto takes TCG in
 * time. Method: fault plans; a QEMU that hangs on KVM; a device whose open is never answered
 * (hanging.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "hanging.h"

/* What is told of a device that is not there, or not ours. */
static void test_krun_without_kvm(const struct harness *harness) {
    static const char *const plans[] = {"open path=/dev/kvm every=1 => ENOMEM",
                                        "open path=/dev/kvm every=1 => EACCES",
                                        "open path=/dev/kvm every=1 => ENOENT"};
    backend_fake(harness, "fake-krun-17", "whole.so");
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        struct contract contract = contract_open_faulty(harness, plans[i]);
        backend_start_fails(&contract, backend_krun_config(&contract), KELPIE_E_UNAVAILABLE,
                            "add the user to the group kvm");
        contract_close(&contract);
    }
    backend_fake_remove();
}

/* A program in QEMU's place of which nothing is known yet: it hangs where it is asked for KVM, and
 * writes down when it was started. */
struct hanging_qemu {
    char program[512];
    char log[512];
};

static struct hanging_qemu hanging_qemu_use(const struct harness *harness) {
    struct hanging_qemu qemu;
    backend_path(harness, "qemu-hangs", qemu.program, sizeof(qemu.program));
    backend_path(harness, "qemu-log", qemu.log, sizeof(qemu.log));
    FILE *file = fopen(qemu.program, "we");
    HARNESS_CHECK(file != NULL, "%s", qemu.program);
    fprintf(file,
            "#!/bin/sh\n"
            "case \" $* \" in\n"
            "*' -accel kvm '*) echo \"kvm $(date +%%s%%3N)\" >>'%s'; exec sleep 3600 ;;\n"
            "*' -accel '*) echo \"tcg $(date +%%s%%3N)\" >>'%s' ;;\n"
            "esac\n"
            "exec qemu-system-x86_64 \"$@\"\n",
            qemu.log, qemu.log);
    HARNESS_CHECK(fclose(file) == 0 && chmod(qemu.program, 0755) == 0, "%s", qemu.program);
    setenv("KELPIE_QEMU", qemu.program, 1);
    return qemu;
}

static void hanging_qemu_remove(const struct hanging_qemu *qemu) {
    HARNESS_CHECK(unlink(qemu->program) == 0 && unlink(qemu->log) == 0, "what the test made");
}

/* When it was started so, in milliseconds of the wall clock. */
static uint64_t hanging_qemu_time(const struct hanging_qemu *qemu, const char *how) {
    char word[8] = "";
    unsigned long long time_ms = 0;
    FILE *file = fopen(qemu->log, "re");
    HARNESS_CHECK(file != NULL, "%s", qemu->log);
    while (strcmp(word, how) != 0) {
        int count = fscanf(file, "%7s %llu", word, &time_ms);
        HARNESS_CHECK(count == 2, "no start with %s", how);
    }
    fclose(file);
    return time_ms;
}

/* A KVM on which nothing ever moves: within five seconds there is TCG, and the VM runs. */
static void test_kvm_hangs(const struct harness *harness) {
    backend_needs_kvm();
    struct hanging_qemu qemu = hanging_qemu_use(harness);
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot(&contract);
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.accelerator, "tcg") == 0, "%s", info.accelerator);
    HARNESS_CHECK(strstr(info.accelerator_reason, "no hello") != NULL, "%s",
                  info.accelerator_reason);
    uint64_t took_ms = hanging_qemu_time(&qemu, "tcg") - hanging_qemu_time(&qemu, "kvm");
    HARNESS_CHECK(took_ms <= 5000, "TCG was taken after %llu ms", (unsigned long long)took_ms);
    contract_end(vm);
    contract_close(&contract);
    hanging_qemu_remove(&qemu);
}

/* A /dev/kvm that never answers an open: told apart within a second, and the VM runs on TCG. */
static void test_kvm_open_hangs(const struct harness *harness) {
    backend_needs_kvm();
    struct hanging_qemu qemu = hanging_qemu_use(harness);
    hanging_device_begin("/dev/kvm");
    struct contract contract = contract_open(harness);
    struct backend_told told = {.status = KELPIE_CHECK_FAILED};
    struct kelpie_vm *vm = contract_create(&contract, NULL, contract_boot_config(&contract));
    uint64_t begun_ms = (uint64_t)time(NULL) * 1000;
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.accelerator, "tcg") == 0, "%s", info.accelerator);
    HARNESS_CHECK(strstr(info.accelerator_reason, "/dev/kvm hangs") != NULL, "%s",
                  info.accelerator_reason);
    uint64_t tcg_ms = hanging_qemu_time(&qemu, "tcg");
    HARNESS_CHECK(tcg_ms - begun_ms <= 5000, "TCG was taken after %llu ms",
                  (unsigned long long)(tcg_ms - begun_ms));
    contract_end(vm);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_backend(config, KELPIE_BACKEND_KRUN);
    backend_start_fails(&contract, config, KELPIE_E_UNAVAILABLE,
                        "libkrun needs KVM: open /dev/kvm");
    told.name = "kvm";
    CONTRACT_OK(kelpie_doctor(contract.kelpie, false, backend_on_check, &told, &broken));
    HARNESS_CHECK(strstr(told.detail, "/dev/kvm hangs") != NULL, "%s", told.detail);
    contract_close(&contract);
    hanging_device_end();
    hanging_qemu_remove(&qemu);
}

const struct harness_test backend_tests_kvm[] = {
    {"krun_without_kvm", test_krun_without_kvm, 60},
    {"kvm_hangs", test_kvm_hangs, 120},
    {"kvm_open_hangs", test_kvm_open_hangs, 60},
    {0},
};
