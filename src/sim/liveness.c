/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See liveness.h. The keeper is an ordinary client, a process of the simulated host that uses the
 * library as a user who cleans up would: it deletes every VM that is left, and tries a fresh one.
 */
#include "sim/liveness.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "kelpie.h"
#include "lib/internal.h"
#include "sim/damage.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "store/snapshot.h"

#define LIVENESS_TRIES_MAX 200u
#define LIVENESS_RETRY_NS (100 * KELPIE_NS_PER_MS)
#define LIVENESS_WORD "still here"

/* ---- what has not come to rest --------------------------------------------------------------- */

static bool pending_process(struct sim_world *world, char out[SIM_PENDING_BYTES_MAX]) {
    struct sim_machine *host = kelpie__sim_world_host(world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->is_embedder || process->state == SIM_PROCESS_GONE ||
            strcmp(process->role, SIM_DAMAGE_LOST_ROLE) == 0) {
            continue;
        }
        int length =
            snprintf(out, SIM_PENDING_BYTES_MAX, "process %d (%s) %s", process->pid, process->role,
                     process->state == SIM_PROCESS_ZOMBIE ? "was never reaped"
                     : process->is_stopped                ? "is stopped"
                                                          : "is still there");
        KELPIE_ASSERT(length > 0);
        return true;
    }
    return false;
}

/* A disk that lies has lost a VM's configuration with the power: what else is in its directory may
 * be worth something to people, and nobody else touches it. */
static bool is_wreck(struct sim_world *world, const char *directory, const char *name) {
    char path[SIM_PATH_BYTES_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s/config.json", directory, name);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
    return strcmp(directory, SIM_STATE_DIRECTORY "/vms") == 0 && name[0] != '.' &&
           kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), "disk") &&
           kelpie__sim_disk_peek(kelpie__sim_world_disk(world), false, path, NULL, 0) == -ENOENT;
}

static bool pending_entry(struct sim_world *world, const char *directory,
                          char out[SIM_PENDING_BYTES_MAX]) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    uint64_t cursor = 0;
    char name[256];
    bool is_there = kelpie__sim_disk_walk(disk, directory, &cursor, name);
    while (is_there && is_wreck(world, directory, name)) { /* bound: its entries */
        is_there = kelpie__sim_disk_walk(disk, directory, &cursor, name);
    }
    if (!is_there) {
        return false;
    }
    int length = snprintf(out, SIM_PENDING_BYTES_MAX, "%s/%s was left behind", directory, name);
    KELPIE_ASSERT(length > 0);
    return true;
}

bool kelpie__sim_pending(struct sim_world *world, char out[SIM_PENDING_BYTES_MAX]) {
    return pending_process(world, out) || pending_entry(world, SIM_STATE_DIRECTORY "/vms", out) ||
           pending_entry(world, SIM_RUNTIME_DIRECTORY "/vms", out) ||
           pending_entry(world, SIM_STATE_DIRECTORY "/" KELPIE_SNAPSHOTS_DIRECTORY, out) ||
           pending_entry(world, SIM_STATE_DIRECTORY "/pools", out);
}

/* ---- the keeper ------------------------------------------------------------------------------ */

/* Also those that are damaged: whatever is listed can be removed. */
static int keeper_remove_snapshots(struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_snapshot_info *entries = NULL;
    size_t count = 0;
    int status = kelpie_snapshot_list(kelpie, &entries, &count, error);
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        status = kelpie_snapshot_remove(kelpie, entries[i].name, error);
        status = status == KELPIE_E_NOT_FOUND ? 0 : status;
    }
    kelpie_snapshot_list_free(kelpie, entries, count);
    return status;
}

/* Somebody who dies slowly may hold a VM for a moment. */
static bool is_worth_a_retry(int status) {
    return status == KELPIE_E_BUSY || status == KELPIE_E_TIMEOUT || status == KELPIE_E_CRASHED ||
           status == KELPIE_E_STATE || status == KELPIE_E_IO || status == KELPIE_E_UNAVAILABLE;
}

static int keeper_delete(struct kelpie *kelpie, const char *name, struct kelpie_error *error) {
    struct kelpie_vm *vm = NULL;
    int status = kelpie_vm_open(kelpie, name, &vm, error);
    if (status == KELPIE_E_NOT_FOUND) {
        return 0;
    }
    if (status == 0) {
        status = kelpie_vm_delete(vm, true, error);
        kelpie_vm_close(vm);
    }
    return status == KELPIE_E_NOT_FOUND ? 0 : status;
}

static int keeper_delete_all(struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_vm_info *entries = NULL;
    size_t count = 0;
    int status = kelpie_list(kelpie, &entries, &count, error);
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        status = keeper_delete(kelpie, entries[i].name, error);
    }
    kelpie_list_free(kelpie, entries, count);
    return status;
}

/* Their keepers would make new members for ever. */
static int keeper_remove_pools(struct kelpie *kelpie, struct sim_world *world,
                               struct kelpie_error *error) {
    struct kelpie_pool_info *entries = NULL;
    size_t count = 0;
    int status = kelpie_pool_list(kelpie, &entries, &count, error);
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        struct kelpie_pool *pool = NULL;
        status = kelpie_pool_open(kelpie, entries[i].name, &pool, error);
        status = status == 0 ? kelpie_pool_remove(pool, error) : status;
        kelpie_pool_close(pool);
        status = status == KELPIE_E_NOT_FOUND ? 0 : status;
    }
    kelpie_pool_list_free(kelpie, entries, count);
    /* A keeper that had no time to end holds a pool that was removed before: who opens the library
     * after that finishes it. */
    uint64_t cursor = 0;
    char name[256];
    bool is_left =
        status == 0 && kelpie__sim_disk_walk(kelpie__sim_world_disk(world),
                                             SIM_STATE_DIRECTORY "/pools", &cursor, name);
    return is_left ? kelpie__fail(error, KELPIE_E_BUSY, 0, "pool \"%s\" is not gone yet", name)
                   : status;
}

static int keeper_fresh_vm(struct kelpie *kelpie, struct kelpie_error *error) {
    static const char *const argv[] = {"echo", LIVENESS_WORD, NULL};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_template(config, false); /* what it shows is that one boots */
        status = kelpie_vm_create(kelpie, "liveness", config, &vm, error);
    }
    if (status < 0) {
        return status; /* closing the library frees the configuration */
    }
    status = kelpie_vm_start(vm, 0, error);
    if (status == 0) {
        status = kelpie_vm_exec(vm, &command, &result, error);
    }
    if (status == 0 && strcmp(result.stdout_bytes, LIVENESS_WORD "\n") != 0) {
        status = kelpie__fail(error, KELPIE_E_INTERNAL, 0, "the fresh VM says something else");
    }
    kelpie_exec_result_release(&result);
    int deleted = kelpie_vm_delete(vm, true, status < 0 ? NULL : error);
    kelpie_vm_close(vm);
    return status < 0 ? status : deleted;
}

/* With a VM that stays broken: it ends what is asked of it in time, and others live beside it. */
static int keeper_beside(struct kelpie *kelpie, struct sim_process *process, const char *kind,
                         const char *vm, struct kelpie_error *error) {
    kelpie__sim_damage_probe(
        kelpie, process, strcmp(kind, "guest") == 0 ? SIM_SWARM_DAMAGE_GUEST : SIM_SWARM_DAMAGE_VMM,
        vm);
    return keeper_fresh_vm(kelpie, error);
}

/* argv: of the keeper; behind its name the kind and the VM that are broken. */
static int keeper_work(struct kelpie_os *os, int argc, char **argv, struct kelpie_error *error) {
    struct kelpie *kelpie = NULL;
    int status = kelpie__open_with_os(os, NULL, &kelpie, error);
    if (status < 0) {
        return status;
    }
    struct sim_world *world = kelpie__sim_process_of(os)->machine->world;
    if (argc == 3) {
        status = keeper_beside(kelpie, kelpie__sim_process_of(os), argv[1], argv[2], error);
    }
    if (status == 0) {
        status = keeper_remove_pools(kelpie, world, error);
    }
    if (status == 0) {
        status = keeper_delete_all(kelpie, error);
    }
    if (status == 0) {
        status = keeper_remove_snapshots(kelpie, error);
    }
    if (status == 0) {
        status = keeper_fresh_vm(kelpie, error);
    }
    struct kelpie_os *same = kelpie__close_keeping_os(kelpie);
    KELPIE_ASSERT(same == os);
    return status;
}

static int keeper_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct kelpie_error error = {0};
    int status = KELPIE_E_BUSY;
    KELPIE_ASSERT((argc == 1 || argc == 3) && argv[0] != NULL);
    for (uint32_t i = 0; i < LIVENESS_TRIES_MAX && status < 0; i += 1) {
        error = (struct kelpie_error){0};
        status = keeper_work(os, i == 0 ? argc : 1, argv, &error);
        if (!is_worth_a_retry(status)) {
            break;
        }
        kelpie__sim_process_sleep(process, LIVENESS_RETRY_NS);
    }
    if (status < 0) {
        kelpie__sim_world_fail(process->machine->world, "no liveness: %s: %s",
                               kelpie_code_name(status), error.message);
    }
    return status < 0 ? 1 : 0;
}

/* ---- the second half of a run ---------------------------------------------------------------- */

struct liveness {
    struct sim_world *world;
    char pending[SIM_PENDING_BYTES_MAX];
};

static bool is_at_rest(void *context) {
    struct liveness *liveness = context;
    return !kelpie__sim_pending(liveness->world, liveness->pending);
}

bool kelpie__sim_liveness(struct sim_world *world, enum sim_swarm_damage damage,
                          char out[SIM_PENDING_BYTES_MAX]) {
    char broken[SIM_DAMAGE_NAME_BYTES] = "";
    const char *argv[] = {"keeper", NULL, NULL, NULL};
    static const char *const environment[] = {"HOME=/root", "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY,
                                              NULL};
    const struct sim_start start = {.path = "/usr/bin/keeper",
                                    .role = "keeper",
                                    .main = keeper_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    struct liveness liveness = {.world = world};
    kelpie__sim_faults_off(kelpie__sim_world_faults(world));
    kelpie__sim_disk_set_quota(kelpie__sim_world_disk(world), SIM_LIVENESS_DISK_BYTES);
    kelpie__sim_disk_set_read_only(kelpie__sim_world_disk(world), false);
    if (kelpie__sim_damage_strike(world, damage, broken)) {
        argv[1] = damage == SIM_SWARM_DAMAGE_GUEST ? "guest" : "vmm";
        argv[2] = broken;
    }
    if (kelpie__sim_process_start(kelpie__sim_world_host(world), &start) == NULL) {
        kelpie__ignore(snprintf(out, SIM_PENDING_BYTES_MAX, "the host takes no more processes"));
        return false;
    }
    enum sim_run_end end = kelpie__sim_world_run(world, is_at_rest, &liveness,
                                                 kelpie__sim_now(world) + SIM_LIVENESS_NS);
    if (end == SIM_RUN_DONE) {
        return true;
    }
    const char *failure = kelpie__sim_world_failure(world);
    int length = snprintf(out, SIM_PENDING_BYTES_MAX, "%s",
                          end == SIM_RUN_FAILED ? failure : liveness.pending);
    KELPIE_ASSERT(length > 0);
    return false;
}
