/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The contract's rows about snapshots: 6, 7, 11, 14, 18 and 19.
 */
#include <stdio.h>
#include <string.h>

#include "sim/contract_help.h"

#define SNAPSHOT_BIG_MIB 512u

static int snapshot(struct kelpie_vm *vm, const char *name, struct kelpie_error *error) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    return kelpie_vm_snapshot(vm, &options, NULL, error);
}

static void forget(struct sim_contract *contract, const char *name) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__row_is_ok(contract, "remove the snapshot",
                                     kelpie_snapshot_remove(contract->kelpie, name, &error),
                                     &error));
}

/* On a backend without snapshots a row is this: all that needs one is refused by name, and the VM
 * goes on. */
static bool is_refused_instead(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *fork = NULL;
    if (!contract->lacks_snapshots) {
        return false;
    }
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm != NULL &&
        kelpie__row_is_code(contract, "snapshot", snapshot(vm, "no", &error),
                            KELPIE_E_UNSUPPORTED) &&
        kelpie__row_is_code(contract, "fork", kelpie_vm_fork(vm, NULL, NULL, 1, &fork, &error),
                            KELPIE_E_UNSUPPORTED)) {
        kelpie__row_says(contract, vm, "echo goes on", "goes on\n");
    }
    kelpie__row_end(contract, vm);
    return true;
}

/* ---- 6 --------------------------------------------------------------------------------------- */

static void check_info(struct sim_contract *contract, const struct kelpie_vm *vm,
                       const char *name) {
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    if (kelpie__row_is_ok(contract, "inspect the snapshot",
                          kelpie_snapshot_inspect(contract->kelpie, name, &info, &error), &error) &&
        (strlen(info.id) != 32 || strcmp(info.vm_id, kelpie_vm_id(vm)) != 0 ||
         info.memory_mib == 0)) {
        kelpie__row_fail(contract, "the snapshot has id \"%s\" and VM id \"%s\"", info.id,
                         info.vm_id);
    }
}

/* A VM that lies over a snapshot: two forks of it, one of which waits. */
static void check_forks(struct sim_contract *contract, struct kelpie_vm *vm) {
    struct kelpie_vm *forks[2] = {NULL, NULL};
    struct kelpie_error error = {0};
    if (kelpie__row_is_ok(contract, "prepare a fork", kelpie_vm_prepare_forks(vm, 1, &error),
                          &error) &&
        kelpie__row_is_ok(contract, "fork", kelpie_vm_fork(vm, NULL, NULL, 2, forks, &error),
                          &error)) {
        for (size_t i = 0; i < 2; i += 1) {
            kelpie__row_says(contract, forks[i], "cat /tmp/before; echo own >/tmp/before",
                             "kept\n");
            kelpie__row_end(contract, forks[i]);
        }
        kelpie__row_says(contract, vm, "cat /tmp/before", "kept\n");
    }
}

void kelpie__row_snapshot_restore_basic(struct sim_contract *contract) {
    if (is_refused_instead(contract)) {
        return;
    }
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm == NULL) {
        return;
    }
    kelpie__row_says(contract, vm, "echo kept >/tmp/before", "");
    if (kelpie__row_is_ok(contract, "snapshot", snapshot(vm, "basic", &error), &error)) {
        check_info(contract, vm, "basic");
        kelpie__row_says(contract, vm, "echo lost >/tmp/after; cat /tmp/after", "lost\n");
        if (kelpie__row_is_ok(contract, "restore", kelpie_vm_restore(vm, "basic", 0, &error),
                              &error)) {
            kelpie__row_says(contract, vm, "cat /tmp/before; test -e /tmp/after || echo gone",
                             "kept\ngone\n");
            check_forks(contract, vm);
        }
    }
    kelpie__row_end(contract, vm);
    if (!contract->has_failed) {
        forget(contract, "basic");
    }
}

/* ---- 7 --------------------------------------------------------------------------------------- */

static void corruption_round(struct sim_contract *contract, struct kelpie_vm *vm,
                             const char *name) {
    struct kelpie_error error = {0};
    int status = snapshot(vm, name, &error);
    kelpie__row_note(contract, status);
    if (status < 0) {
        kelpie__ignore(kelpie__row_is_code(contract, "snapshot", status, KELPIE_E_SNAPSHOT));
        return;
    }
    bool is_damaged = contract->damage != NULL && contract->random(contract) % 10 < 2 &&
                      contract->damage(contract, name);
    status = kelpie_vm_restore(vm, name, 0, &error);
    kelpie__row_note(contract, status);
    if (is_damaged) {
        kelpie__ignore(kelpie__row_is_code(contract, "restore of a damaged snapshot", status,
                                           KELPIE_E_SNAPSHOT_CORRUPTED));
    } else if (status < 0) {
        kelpie__ignore(kelpie__row_is_code(contract, "restore", status, KELPIE_E_RESTORE));
    }
}

void kelpie__row_snapshot_with_corruption_faults(struct sim_contract *contract) {
    if (is_refused_instead(contract)) {
        return;
    }
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    char name[32];
    uint32_t rounds = kelpie__row_scaled(contract, 20);
    kelpie__ignore(contract->fault(contract, "snapshot create fails", 200));
    kelpie__ignore(contract->fault(contract, "restore fails", 200));
    for (uint32_t i = 0; vm != NULL && i < rounds && !contract->has_failed; i += 1) {
        int length = snprintf(name, sizeof(name), "round-%u", i);
        KELPIE_ASSERT(length > 0);
        corruption_round(contract, vm, name);
        if (!contract->has_failed) {
            kelpie__row_says(contract, vm, "echo usable", "usable\n");
        }
    }
    kelpie__row_end(contract, vm);
}

/* ---- 11 -------------------------------------------------------------------------------------- */

struct stress {
    struct sim_contract *contract;
    uint32_t done;
    uint32_t failed;
};

static bool stress_count(struct stress *stress, int status) {
    stress->done += 1;
    stress->failed += status < 0;
    kelpie__row_note(stress->contract, status);
    return status == 0;
}

static void stress_vm(struct stress *stress, struct kelpie_vm *vm, const char *name) {
    struct kelpie_error error = {0};
    char out[256] = "";
    int code = -1;
    if (!stress_count(stress, kelpie_vm_start(vm, 0, &error))) {
        return;
    }
    for (uint32_t i = 0; i < 10; i += 1) {
        bool is_good = stress_count(stress, kelpie__row_sh(vm, "echo x", 0, &code, out, &error));
        if (is_good && strcmp(out, "x\n") != 0) {
            kelpie__row_fail(stress->contract, "a success that says \"%s\"", out);
        }
    }
    if (!stress->contract->lacks_snapshots && stress_count(stress, snapshot(vm, name, &error))) {
        kelpie__ignore(stress_count(stress, kelpie_vm_restore(vm, name, 0, &error)));
    }
    if (stress_count(stress, kelpie_vm_pause(vm, &error))) {
        kelpie__ignore(stress_count(stress, kelpie_vm_resume(vm, &error)));
    }
    kelpie__ignore(
        stress_count(stress, kelpie_vm_stop(vm, 0, &(struct kelpie_stop_result){0}, &error)));
}

void kelpie__row_stress_many_operations(struct sim_contract *contract) {
    static const char *const faults[] = {"boot fails",   "crash",      "pause fails",
                                         "resume fails", "exec fails", "snapshot create fails",
                                         "restore fails"};
    struct stress stress = {.contract = contract};
    char name[32];
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(faults); i += 1) {
        kelpie__ignore(contract->fault(contract, faults[i], i == 1 ? 5 : 50));
    }
    uint32_t count = kelpie__row_scaled(contract, 100);
    for (uint32_t i = 0; i < count && !contract->has_failed; i += 1) {
        struct kelpie_vm *vm = kelpie__row_make(contract);
        int length = snprintf(name, sizeof(name), "stress-%u", i);
        KELPIE_ASSERT(length > 0);
        if (vm != NULL) {
            stress_vm(&stress, vm, name);
        }
        kelpie__row_end(contract, vm);
    }
    if (!contract->has_failed && stress.failed * 10 >= stress.done * 3) {
        kelpie__row_fail(contract, "%u of %u operations failed: 30 %% or more", stress.failed,
                         stress.done);
    }
}

/* ---- 14 -------------------------------------------------------------------------------------- */

void kelpie__row_snapshot_state_requirements(struct sim_contract *contract) {
    if (is_refused_instead(contract)) {
        return;
    }
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    if (vm == NULL) {
        return;
    }
    kelpie__ignore(kelpie__row_is_code(contract, "snapshot of a Created VM",
                                       snapshot(vm, "no", &error), KELPIE_E_STATE));
    bool is_good =
        kelpie__row_is_ok(contract, "start", kelpie_vm_start(vm, 0, &error), &error) &&
        kelpie__row_is_ok(contract, "snapshot", snapshot(vm, "running", &error), &error) &&
        kelpie__row_is_ok(contract, "pause", kelpie_vm_pause(vm, &error), &error) &&
        kelpie__row_is_ok(contract, "snapshot", snapshot(vm, "paused", &error), &error) &&
        kelpie__row_is_ok(contract, "another", snapshot(vm, "paused-too", &error), &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_PAUSED) &&
        kelpie__row_is_ok(contract, "resume", kelpie_vm_resume(vm, &error), &error) &&
        kelpie__row_is_ok(contract, "stop",
                          kelpie_vm_stop(vm, 0, &(struct kelpie_stop_result){0}, &error), &error) &&
        kelpie__row_is_code(contract, "snapshot of a Stopped VM", snapshot(vm, "no", &error),
                            KELPIE_E_STATE) &&
        kelpie__row_is_ok(contract, "restore", kelpie_vm_restore(vm, "running", 0, &error),
                          &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_RUNNING) &&
        kelpie__row_is_ok(contract, "restore", kelpie_vm_restore(vm, "paused", 0, &error),
                          &error) &&
        kelpie__row_state_is(contract, vm, KELPIE_VM_PAUSED) &&
        kelpie__row_is_ok(contract, "resume", kelpie_vm_resume(vm, &error), &error);
    if (is_good) {
        kelpie__row_says(contract, vm, "echo works", "works\n");
    }
    kelpie__row_end(contract, vm);
}

/* ---- 18, 19 ---------------------------------------------------------------------------------- */

/* Refused, with both values named, and the VM goes on with what it had. */
static void incompatible(struct sim_contract *contract, struct kelpie_vm *vm, const char *name,
                         const char *first, const char *second) {
    struct kelpie_error error = {0};
    kelpie__row_says(contract, vm, "echo here >/tmp/mark", "");
    int status = contract->has_failed ? -1 : kelpie_vm_restore(vm, name, 0, &error);
    if (contract->has_failed ||
        !kelpie__row_is_code(contract, "restore", status, KELPIE_E_SNAPSHOT_INCOMPATIBLE)) {
        return;
    }
    if (strstr(error.message, first) == NULL || strstr(error.message, second) == NULL) {
        kelpie__row_fail(contract, "\"%.300s\" does not name %s and %s", error.message, first,
                         second);
    }
    kelpie__row_says(contract, vm, "cat /tmp/mark", "here\n");
}

void kelpie__row_snapshot_arch_mismatch(struct sim_contract *contract) {
    if (is_refused_instead(contract)) {
        return;
    }
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm != NULL &&
        kelpie__row_is_ok(contract, "snapshot", snapshot(vm, "foreign", &error), &error)) {
        if (contract->relabel(contract, "foreign", "aarch64")) {
            incompatible(contract, vm, "foreign", "aarch64", "x86_64");
        } else {
            kelpie__row_fail(contract, "the snapshot could not be made a foreign one");
        }
    }
    kelpie__row_end(contract, vm);
}

void kelpie__row_snapshot_memory_mismatch(struct sim_contract *contract) {
    if (is_refused_instead(contract)) {
        return;
    }
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *big = NULL;
    struct kelpie_vm *vm = kelpie__row_make_running(contract);
    if (vm == NULL ||
        !kelpie__row_is_ok(contract, "snapshot", snapshot(vm, "small", &error), &error) ||
        !kelpie__row_is_ok(contract, "config",
                           kelpie_config_create(contract->kelpie, &config, &error), &error)) {
        return;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, SNAPSHOT_BIG_MIB);
    kelpie_config_set_template(config, false);
    if (kelpie__row_is_ok(contract, "create",
                          kelpie_vm_create(contract->kelpie, NULL, config, &big, &error), &error) &&
        kelpie__row_is_ok(contract, "start", kelpie_vm_start(big, 0, &error), &error)) {
        incompatible(contract, big, "small", "256", "512");
    }
    kelpie__row_end(contract, big);
    kelpie__row_end(contract, vm);
}
