/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: snapshots of VMs with a disk, and under faults: what a VM wrote is there whatever layers it
 * lies in, and what fails or dies at whatever step leaves nothing and harms nobody. Method: VMs
 * over a root directory with a disk, the test builds of the programs under fault plans
 * (docs/testing.md).
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

static void refused(struct kelpie_vm *vm, const char *name, int code, const char *text) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    struct kelpie_error error = {0};
    contract_fails(kelpie_vm_snapshot(vm, &options, NULL, &error), &error, code, text);
}

/* ---- disks ----------------------------------------------------------------------------------- */

static unsigned layers(const struct contract *contract, const char *folder) {
    char path[4200];
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/%s", contract->harness->state_directory, folder);
    DIR *directory = opendir(path);
    HARNESS_CHECK(directory != NULL, "open %s", path);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        count += strncmp(entry->d_name, "disk-", 5) == 0 ? 1 : 0;
    }
    closedir(directory);
    return count;
}

/* What a VM wrote before, between and after snapshots is there when it is started again. */
static void test_snapshot_disk(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "disk");
    contract_sh_says(vm, "echo one >/root/file; sync", "");
    contract_take(vm, "a");
    contract_sh_says(vm, "echo two >>/root/file", "");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_take(vm, "b");
    contract_take(vm, "c");
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo three >>/root/file; cat /root/file", "one\ntwo\nthree\n");
    HARNESS_CHECK(layers(&contract, "snapshots/a") == 1, "a has the first layer");
    HARNESS_CHECK(layers(&contract, "snapshots/b") == 2 && layers(&contract, "snapshots/c") == 2,
                  "nothing ran between b and c: the same layers");
    HARNESS_CHECK(layers(&contract, "vms/disk") == 3, "the VM has one more");
    struct kelpie_snapshot_info info = contract_inspect_snapshot(&contract, "b");
    HARNESS_CHECK(info.disk_count == 2, "%u disks", info.disk_count);
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cat /root/file; echo four >>/root/file", "one\ntwo\nthree\n");
    contract_take(vm, "d");
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cat /root/file", "one\ntwo\nthree\nfour\n");
    static const char *const names[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i += 1) {
        CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, names[i], &broken));
    }
    contract_remove_snapshot(&contract, "b");
    contract_remove_snapshot(&contract, "a");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "d", &broken));
    contract_sh_says(vm, "cat /root/file", "one\ntwo\nthree\nfour\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "c");
    contract_remove_snapshot(&contract, "d");
    contract_store_is_empty(&contract);
    contract_remove_root(&contract);
    contract_close(&contract);
}

#define GENERATIONS 40u
#define GENERATION_LAYERS_MAX 18u

/* One more line on the disk, and a block that is another each time. */
static void write_generation(struct kelpie_vm *vm, unsigned generation) {
    char script[400];
    unsigned block = generation % 5;
    snprintf(script, sizeof(script),
             "echo %u >>/root/log; dd if=/dev/urandom of=/root/block%u bs=64k count=3 2>/dev/null; "
             "md5sum </root/block%u >/root/sum%u",
             generation, block, block, block);
    contract_sh_says(vm, script, "");
}

/* All lines are there, and all blocks are what they were. */
static void check_generations(struct kelpie_vm *vm, unsigned count) {
    char lines[400] = "";
    size_t length = 0;
    for (unsigned i = 0; i < count; i += 1) {
        length += (size_t)snprintf(lines + length, sizeof(lines) - length, "%u\n", i);
    }
    contract_sh_says(vm, "cat /root/log", lines);
    contract_sh_says(vm,
                     "for i in 0 1 2 3 4; do md5sum </root/block$i | cat - /root/sum$i | "
                     "(read a; read b; test -n \"$a\" && test \"$a\" = \"$b\" || echo $i); done",
                     "");
}

static void take_generation(struct contract *contract, struct kelpie_vm *vm, unsigned generation) {
    char name[32];
    snprintf(name, sizeof(name), "generation-%u", generation);
    write_generation(vm, generation);
    contract_take(vm, name);
    if (generation % 10 == 9) { /* a machine that goes on over the layers of its snapshot */
        CONTRACT_OK(kelpie_vm_restore(vm, name, 0, &broken));
    }
    if (generation % 10 != 0) { /* what the VM was restored from is in use */
        snprintf(name, sizeof(name), "generation-%u", generation - 1);
        contract_remove_snapshot(contract, name);
    }
    unsigned count = layers(contract, "vms/long");
    HARNESS_CHECK(count <= GENERATION_LAYERS_MAX, "%u layers", count);
}

/* A disk goes on for ever: its layers are merged, those of the VM and those of its snapshots. */
static void test_disk_generations(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "long");
    for (unsigned i = 0; i < GENERATIONS; i += 1) {
        take_generation(&contract, vm, i);
    }
    check_generations(vm, GENERATIONS);
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "generation-39", &broken));
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "generation-39");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    check_generations(clone, GENERATIONS);
    contract_end(clone);
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken)); /* a boot over what is on the disk alone */
    check_generations(vm, GENERATIONS);
    contract_end(vm);
    contract_remove_snapshot(&contract, "generation-39");
    contract_remove_snapshot(&contract, "generation-29");
    contract_remove_snapshot(&contract, "generation-19");
    contract_remove_snapshot(&contract, "generation-9");
    contract_store_is_empty(&contract);
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* A worker reads the plan anew each time that one is started: one VM is enough for many plans. */
#define NO_FAULT "wait role=none nth=1 => EIO"

static void plan_path(const struct harness *harness, char *out, size_t capacity) {
    snprintf(out, capacity, "%s/plan", harness->root_directory);
}

static void plan_next(const struct harness *harness, const char *plan) {
    char path[4200];
    plan_path(harness, path, sizeof(path));
    FILE *file = fopen(path, "we");
    HARNESS_CHECK(file != NULL, "open %s", path);
    int count = fprintf(file, "%s\n", plan);
    HARNESS_CHECK(fclose(file) == 0 && count > 0, "write %s", path);
}

static struct contract open_planned(const struct harness *harness) {
    char path[4200];
    char plan[4300];
    plan_next(harness, NO_FAULT);
    plan_path(harness, path, sizeof(path));
    snprintf(plan, sizeof(plan), "@%s", path);
    return contract_open_faulty(harness, plan);
}

static void plan_remove(const struct harness *harness) {
    char path[4200];
    plan_path(harness, path, sizeof(path));
    HARNESS_CHECK(remove(path) == 0, "remove %s", path);
}

/* It fails for want of space, which is said, and all is as before. */
static void no_space(struct contract *contract, struct kelpie_vm *vm) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = "full"};
    struct kelpie_error error = {0};
    int status = kelpie_vm_snapshot(vm, &options, NULL, &error);
    HARNESS_CHECK(status < 0, "it fails");
    HARNESS_CHECK(strstr(error.message, "ENOSPC") != NULL, "%s: %s", kelpie_code_name(status),
                  error.message);
    printf("# %s\n", error.message);
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "echo well >/root/file; sync; cat /root/file", "well\n");
    contract_store_is_empty(contract);
}

/* The monitor's writes, one after the other: a rule that has fired lets the next try come further.
 */
static void test_snapshot_no_space_monitor(const struct harness *harness) {
    struct contract contract = contract_open_faulty(
        harness, "mkdir role=monitor path=.new-* nth=1 => ENOSPC; "
                 "open role=monitor path=device nth=1 => ENOSPC; "
                 "open role=monitor path=memory nth=1 => ENOSPC; "
                 "open role=monitor path=disk-*.qcow2 nth=1 => ENOSPC; "
                 "pwrite role=monitor nth=20 => ENOSPC; "
                 "pwrite role=monitor nth=24 => ENOSPC; "
                 "truncate role=monitor nth=1 => ENOSPC; truncate role=monitor nth=3 => ENOSPC; "
                 "rename role=monitor path=manifest.json* nth=1 => ENOSPC");
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "full");
    for (unsigned i = 0; i < 8; i += 1) {
        no_space(&contract, vm);
    }
    contract_take(vm, "good");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "good", &broken));
    contract_remove_snapshot(&contract, "good");
    contract_end(vm);
    contract_remove_root(&contract);
    contract_close(&contract);
}

static void test_snapshot_no_space_worker(const struct harness *harness) {
    static const char *const plans[] = {
        "link role=worker nth=1 => ENOSPC",
        "open role=worker path=config.json nth=2 => ENOSPC",
        "pwrite role=worker nth=1 => ENOSPC",
        "pwrite role=worker nth=2 => ENOSPC",
        "rename role=worker path=manifest.json* nth=1 => ENOSPC",
        "sync role=worker nth=1 => ENOSPC",
        "sync role=worker nth=9 => ENOSPC",
        "rename role=worker path=full nth=1 => ENOSPC",
    };
    struct contract contract = open_planned(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "full");
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        plan_next(harness, plans[i]);
        printf("# %s\n", plans[i]);
        no_space(&contract, vm);
    }
    plan_next(harness, NO_FAULT);
    contract_end(vm);
    contract_remove_root(&contract);
    contract_close(&contract);
    plan_remove(harness);
}

/* The image of all layers does not come to be: the VM goes on over those that it has, boots over
 * them although its own was made for the image, and the next snapshot merges them. */
static void test_disk_merge_fails(const struct harness *harness) {
    struct contract contract = open_planned(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "long");
    char name[32];
    for (unsigned i = 0; i < 15; i += 1) {
        write_generation(vm, i);
        snprintf(name, sizeof(name), "generation-%u", i);
        contract_take(vm, name);
        contract_remove_snapshot(&contract, name);
    }
    HARNESS_CHECK(layers(&contract, "vms/long") == 16, "one for each");
    plan_next(harness, "truncate role=worker nth=1 => ENOSPC");
    write_generation(vm, 15);
    no_space(&contract, vm);
    plan_next(harness, NO_FAULT);
    write_generation(vm, 16);
    HARNESS_CHECK(layers(&contract, "vms/long") == 17, "as it was");
    contract_sh_says(vm, "sync", "");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    check_generations(vm, 17);
    write_generation(vm, 17);
    contract_take(vm, "merged");
    HARNESS_CHECK(layers(&contract, "snapshots/merged") == 1, "one image");
    HARNESS_CHECK(layers(&contract, "vms/long") == 2, "the image, and the VM's own");
    contract_sh_says(vm, "sync", "");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    check_generations(vm, 18);
    contract_end(vm);
    contract_remove_snapshot(&contract, "merged");
    contract_remove_root(&contract);
    contract_close(&contract);
    plan_remove(harness);
}

/* The child that makes it whole dies: the VM goes on, nothing is left. */
static void test_snapshot_worker_killed(const struct harness *harness) {
    static const char *const plans[] = {"* role=worker nth=3 => kill",
                                        "sync role=worker nth=2 => kill",
                                        "rename role=worker path=manifest.json* nth=1 => kill"};
    struct contract contract = open_planned(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "orphan");
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        plan_next(harness, plans[i]);
        refused(vm, "never", KELPIE_E_SNAPSHOT, "signal 9");
        contract_state_is(vm, KELPIE_VM_RUNNING);
        contract_sh_says(vm, "echo well", "well\n");
        HARNESS_CHECK(contract_listed(&contract) == 0, "nothing is listed");
        struct contract other = contract_open(harness); /* who removes what is left */
        contract_store_is_empty(&other);
        contract_close(&other);
    }
    plan_next(harness, NO_FAULT);
    contract_end(vm);
    contract_remove_root(&contract);
    contract_close(&contract);
    plan_remove(harness);
}

static const char *const death_points[] = {
    /* Starting, running, and this; the first, for a start after a crash writes it more often. */
    "rename role=monitor path=state.json* nth=3",
    "mkdir role=monitor path=.new-* nth=1",
    "truncate role=monitor nth=1",
    "pwrite role=monitor nth=30", /* of memory */
    "rename role=monitor path=manifest.json* nth=1",
    "rename role=monitor path=lasting.json* nth=1",
};

/* Crashed, and started over what is on its disk. */
static struct kelpie_vm *start_again(struct contract *contract) {
    struct kelpie_vm *vm = NULL;
    CONTRACT_OK(kelpie_vm_open(contract->kelpie, "killed", &vm, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cat /root/file; rm /root/file; sync", "kept\n");
    return vm;
}

/* The monitor dies at several places of a snapshot: the VM has crashed, nothing is listed, and
 * whoever opens the library next removes what is left. */
static void test_snapshot_monitor_killed(const struct harness *harness) {
    for (size_t i = 0; i < sizeof(death_points) / sizeof(death_points[0]); i += 1) {
        char plan[128];
        snprintf(plan, sizeof(plan), "%s => kill", death_points[i]);
        printf("# %s\n", plan);
        struct contract contract = contract_open_faulty(harness, plan);
        struct kelpie_vm *vm =
            i == 0 ? contract_start_with_disk(&contract, "killed") : start_again(&contract);
        contract_sh_says(vm, "echo kept >/root/file; sync", "");
        refused(vm, "never", KELPIE_E_CRASHED, "monitor");
        contract_wait_state(vm, KELPIE_VM_CRASHED);
        kelpie_close(contract.kelpie);
        setenv("KELPIE_FAULT_PLAN", "wait role=none nth=1 => EIO", 1);
        contract = contract_open(harness);
        size_t count = contract_listed(&contract);
        HARNESS_CHECK(count == 0 || i == 0, "only one that was whole may be listed");
        if (count == 1) {
            CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "never", &broken));
            contract_remove_snapshot(&contract, "never");
        }
        contract_store_is_empty(&contract);
        contract_close(&contract);
    }
    struct contract contract = contract_open(harness);
    contract_end(start_again(&contract));
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* The same with QEMU. */
static void test_snapshot_vmm_killed(const struct harness *harness) {
    static const char *const points[] = {
        "truncate role=monitor nth=1",
        "pwrite role=monitor nth=9",
        "qmp.write role=monitor nth=9",
        "qmp.read role=monitor nth=10",
    };
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i += 1) {
        char plan[128];
        snprintf(plan, sizeof(plan), "%s path=*qemu* max=1 => kill-child", points[i]);
        struct contract contract = contract_open_faulty(harness, plan);
        struct kelpie_vm *vm = contract_start_with_disk(&contract, "killed");
        const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                        .name = "never"};
        struct kelpie_error error = {0};
        int status = kelpie_vm_snapshot(vm, &options, NULL, &error);
        contract_wait_state(vm, KELPIE_VM_CRASHED);
        if (status == 0) { /* it was saved already */
            CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "never", &broken));
            contract_remove_snapshot(&contract, "never");
        } else {
            printf("# %s\n", error.message);
            HARNESS_CHECK(status == KELPIE_E_CRASHED, "%s", error.message);
        }
        contract_store_is_empty(&contract);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "echo again", "again\n");
        contract_end(vm);
        contract_close(&contract);
    }
    const struct contract last = {.harness = harness};
    contract_remove_root(&last);
}

const struct harness_test contract_tests_snapshot_faults[] = {
    {"snapshot_disk", test_snapshot_disk, 120},
    {"disk_generations", test_disk_generations, 240},
    {"disk_merge_fails", test_disk_merge_fails, 180},
    {"snapshot_no_space_monitor", test_snapshot_no_space_monitor, 120},
    {"snapshot_no_space_worker", test_snapshot_no_space_worker, 180},
    {"snapshot_worker_killed", test_snapshot_worker_killed, 120},
    {"snapshot_monitor_killed", test_snapshot_monitor_killed, 180},
    {"snapshot_vmm_killed", test_snapshot_vmm_killed, 180},
    {0},
};
