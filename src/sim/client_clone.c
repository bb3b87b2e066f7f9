/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_clone.h.
 */
#include "sim/client_clone.h"

#include <signal.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "kelpie.h"
#include "sim/client.h"
#include "sim/client_pool.h"
#include "sim/fault.h"
#include "sim/machine.h"
#include "sim/truth.h"
#include "sim/world.h"

#define CLONE_COUNT_MAX 3u
#define CLONE_AGAIN_OF 3u /* one in so many is forked again */
#define CLONE_MEMORY_MIB 128u
#define CLONE_NAME_BYTES 65u
#define CLONE_NOTICE_NS KELPIE_NS_PER_S
#define CLONE_SETTLE_NS (10 * KELPIE_NS_PER_S) /* after the end of a run, for those that wait */

struct clones {
    const struct sim_clients *clients; /* borrowed */
    struct sim_world *world;           /* borrowed */
    struct sim_process *process;       /* borrowed: the client's */
    struct kelpie *kelpie;             /* borrowed */
    struct kelpie_vm *vms[CLONE_COUNT_MAX];
    char host_names[CLONE_COUNT_MAX][CLONE_NAME_BYTES];
    uint32_t count;
    uint64_t value; /* of the operation */
    bool is_calm;
};

static void clone_failed(const struct clones *clones, const char *what, int status,
                         const struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    if (clones->is_calm) {
        kelpie__sim_world_fail(clones->world, "invariant 28: %s: %s, %.200s", what,
                               kelpie_code_name(status), error->message);
    }
}

static bool clone_is_durable(const struct clones *clones) {
    return clones->value / 4 % 2 == 0;
}

/* Those that wait are taken by who gives no configuration. */
static int clone_fork(const struct clones *clones, struct kelpie_vm *vm, uint32_t count,
                      struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_config *config = NULL;
    bool is_plain = clones->value / 8 % 2 == 0;
    bool is_durable = clone_is_durable(clones);
    if (is_plain) {
        return kelpie_vm_fork(vm, NULL, NULL, count, out, error);
    }
    int status = kelpie_config_create(clones->kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, CLONE_MEMORY_MIB);
    kelpie_config_set_ephemeral(config, !is_durable);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_OWNED);
    status = kelpie_vm_fork(vm, config, NULL, count, out, error);
    kelpie_config_destroy(config);
    return status;
}

static int clone_make(struct clones *clones, struct kelpie_vm *vm, uint32_t count,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(clones->count == 0 && count <= CLONE_COUNT_MAX);
    int status = clone_fork(clones, vm, count, clones->vms, error);
    if (status == 0) {
        clones->count = count;
        for (uint32_t i = 0; i < count; i += 1) {
            kelpie__sim_pool_note_taken(clones->clients->pools, clones->world,
                                        kelpie_vm_id(clones->vms[i]));
        }
    }
    return status;
}

/* It says a word of this fork's, and its name, which none of the others has. */
static void clone_use(struct clones *clones, uint32_t index) {
    static const char *const argv[] = {"cat", "/proc/sys/kernel/hostname", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = clones->vms[index];
    char *name = clones->host_names[index];
    KELPIE_ASSERT(index < clones->count && vm != NULL);
    int status = kelpie_vm_inspect(vm, &info, &error);
    if (status == 0 && info.state == KELPIE_VM_PAUSED) { /* as its source was */
        status = kelpie_vm_resume(vm, &error);
    }
    if (status == 0) {
        status = kelpie_vm_exec(vm, &command, &result, &error);
    }
    if (status < 0) {
        clone_failed(clones, "a command in a forked VM", status, &error);
        return;
    }
    size_t count = (size_t)kelpie__min_u64(result.stdout_count, CLONE_NAME_BYTES - 1);
    memcpy(name, result.stdout_bytes, count);
    name[count] = '\0';
    kelpie_exec_result_release(&result);
    for (uint32_t i = 0; i < clones->count; i += 1) {
        bool is_same = i != index && name[0] != '\0' && strcmp(clones->host_names[i], name) == 0;
        if (is_same && !kelpie__sim_truth_has_lied(clones->world)) {
            kelpie__sim_world_fail(clones->world, "invariant 21: two forks are both called %.60s",
                                   name);
        }
    }
}

static void clone_end(struct clones *clones) {
    KELPIE_ASSERT(clones->count <= CLONE_COUNT_MAX);
    for (uint32_t i = 0; i < clones->count; i += 1) {
        struct kelpie_error error = {0};
        bool is_deleted = (clones->value / 2 + i) % 2 == 0; /* else it goes with its handle */
        int status = is_deleted ? kelpie_vm_delete(clones->vms[i], true, &error) : 0;
        if (status < 0) {
            clone_failed(clones, "the deletion of a forked VM", status, &error);
        }
        kelpie_vm_close(clones->vms[i]);
    }
    clones->count = 0;
}

/* ---- forks that wait ------------------------------------------------------------------------- */

/* How many wait for this VM; the name of one of them. */
static uint32_t clone_waiters(struct kelpie *kelpie, const char *source,
                              char out_name[CLONE_NAME_BYTES]) {
    struct kelpie_vm_info *list = NULL;
    char reason[128];
    size_t count = 0;
    uint32_t found = 0;
    bool fits =
        kelpie__text_format(reason, sizeof(reason), "waits to be forked from VM \"%.64s\"", source);
    KELPIE_ASSERT(fits);
    if (kelpie_list(kelpie, &list, &count, NULL) == 0) {
        for (size_t i = 0; i < count; i += 1) {
            bool waits = list[i].state == KELPIE_VM_CREATED && strcmp(list[i].reason, reason) == 0;
            found += waits ? 1 : 0;
            bool fits_name = !waits || kelpie__text_copy(out_name, CLONE_NAME_BYTES, list[i].name);
            KELPIE_ASSERT(fits_name);
        }
        kelpie_list_free(kelpie, list, count);
    }
    return found;
}

/* What can keep a monitor from ending in time. */
static bool clone_is_hindered(struct sim_world *world) {
    static const char *const classes[] = {"stop", "delay", "memory", "disk", "process", "power"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(classes); i += 1) {
        if (kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), classes[i])) {
            return true;
        }
    }
    return kelpie__sim_world_options(world)->cost_factor > 10;
}

/* The run of the VM that they wait for ends: so do they, though its handle is there. */
static void clone_end_run(struct clones *clones, bool is_deleted) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = clones->vms[0];
    char name[CLONE_NAME_BYTES];
    KELPIE_ASSERT(clones->count > 0);
    int status = is_deleted ? kelpie_vm_delete(vm, true, &error) : kelpie_vm_kill(vm, &error);
    if (status < 0) {
        clone_failed(clones, "the end of a VM that forks wait for", status, &error);
        return;
    }
    kelpie__sim_process_sleep(clones->process, CLONE_SETTLE_NS);
    uint32_t count = clone_waiters(clones->kelpie, kelpie_vm_name(vm), name);
    if (count > 0 && !clone_is_hindered(clones->world)) {
        kelpie__sim_world_fail(clones->world,
                               "invariant 5: %u forks wait for VM %.64s, whose run is over", count,
                               kelpie_vm_name(vm));
    }
}

/* Somebody kills one that waits, or its VMM: who forks later does not notice. */
static void clone_kill_waiter(struct clones *clones, const char *role) {
    char name[CLONE_NAME_BYTES] = "";
    char path[CLONE_NAME_BYTES + sizeof(SIM_TRUTH_VMS) + 1];
    KELPIE_ASSERT(clones->count > 0);
    if (clone_waiters(clones->kelpie, kelpie_vm_name(clones->vms[0]), name) == 0) {
        return;
    }
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "%s/", name);
    KELPIE_ASSERT(fits);
    for (struct sim_process *process = kelpie__sim_world_host(clones->world)->processes;
         process != NULL; process = process->next) { /* bound: the list */
        if (strcmp(process->role, role) == 0 && kelpie__sim_truth_is_alive(process) &&
            kelpie__sim_truth_is_of_vm(process, path)) {
            kelpie__sim_process_signal(process, SIGKILL);
            break;
        }
    }
    kelpie__sim_process_sleep(clones->process, CLONE_NOTICE_NS);
}

/* Of a fork, which lies over what its source was saved as. False: there is nothing more to do. */
static bool clone_prepare(struct clones *clones) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(clones->count > 0);
    int status = kelpie_vm_prepare_forks(clones->vms[0], 1 + clones->value % 2, &error);
    if (status < 0) {
        clone_failed(clones, "forks of a fork that are to wait", status, &error);
    } else if (clones->value / 32 % 4 == 0) {
        clone_end_run(clones, clones->value / 128 % 2 == 0);
        return false;
    } else if (clones->value / 32 % 4 == 1) {
        clone_kill_waiter(clones, clones->value / 128 % 2 == 0 ? "qemu" : "monitor");
    }
    return true;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* A fork of a fork. */
static void clone_again(const struct clones *clones) {
    struct clones more = *clones;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(clones->count > 0 && clones->count <= CLONE_COUNT_MAX);
    more.count = 0;
    int status = clone_make(&more, clones->vms[0], 1 + clones->value / 64 % 2, &error);
    if (status < 0) {
        clone_failed(clones, "a fork of a fork", status, &error);
        return;
    }
    clone_use(&more, 0);
    clone_end(&more);
}

int kelpie__sim_clone(const struct sim_clients *clients, struct sim_process *process,
                      struct kelpie *kelpie, struct kelpie_vm *vm,
                      const struct sim_operation *operation, struct kelpie_error *error) {
    struct clones clones = {.clients = clients,
                            .world = clients->world,
                            .process = process,
                            .kelpie = kelpie,
                            .value = operation->value,
                            .is_calm = clients->swarm->is_calm};
    uint32_t count = 1 + (uint32_t)(operation->value % CLONE_COUNT_MAX);
    int status = clone_make(&clones, vm, count, error);
    if (status < 0) {
        return status;
    }
    for (uint32_t i = 0; i < count; i += 1) {
        clone_use(&clones, i);
    }
    bool is_prepared = operation->value / 16 % 2 == 0 && !clients->swarm->has_disks;
    bool goes_on = !is_prepared || clone_prepare(&clones);
    if (goes_on && (is_prepared || operation->value % CLONE_AGAIN_OF == 0)) {
        clone_again(&clones);
    }
    clone_end(&clones);
    return 0;
}
