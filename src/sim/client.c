/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client.h. One handle of the library for each client; handles of VMs are opened when they are
 * needed and closed when the VM is gone.
 */
#include "sim/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "kelpie.h"
#include "lib/internal.h"
#include "sim/client_clone.h"
#include "sim/client_command.h"
#include "sim/client_pool.h"
#include "sim/client_snapshot.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "sim/truth.h"

#define CLIENT_MEMORY_MIB 128u
#define CLIENT_CALL_MS 20000u /* a call without a deadline of its own */
#define CLIENT_LIVES_MAX 8u   /* a fault may kill one at its every start */
#define CLIENT_REST_NS (50 * KELPIE_NS_PER_MS)
#define CLIENT_WAKER SIM_SWARM_CLIENT_MAX /* the index of the one that resumes */
#define CLIENT_WAKE_NS (10 * KELPIE_NS_PER_S)
#define CLIENT_FILE_VALUES (UINT64_C(1) << 32) /* what is written besides has values of its own */
#define CLIENT_EXIT_ABRUPT 1                   /* without closing the library */
#define CLIENT_MEET_NS (1500 * KELPIE_NS_PER_MS)

/* Of one subscription. */
struct client_events {
    struct client *client;
    uint64_t last; /* a hash of the event that came last */
    bool was_told; /* a state, and that was: */
    enum kelpie_vm_state state;
};

struct client {
    struct sim_clients *clients;
    struct sim_process *process;
    struct kelpie_os *os;
    struct kelpie *kelpie;
    struct kelpie_vm *vms[SIM_SWARM_VM_MAX];
    struct sim_pool_client pool;
    struct client_events events[SIM_SWARM_VM_MAX];
    uint32_t index;
};

static uint64_t scaled_ms(const struct client *client, uint64_t timeout_ms) {
    uint64_t tenths = client->clients->swarm->timeout_tenths;
    uint64_t scaled = timeout_ms * (tenths > 0 ? tenths : 10) / 10;
    return scaled > 0 ? scaled : 1;
}

static void client_name(uint32_t vm, char out[16]) {
    bool fits = kelpie__text_format(out, 16, "vm-%u", vm);
    KELPIE_ASSERT(fits);
}

static void client_forget(struct client *client, uint32_t vm) {
    if (client->vms[vm] != NULL) {
        kelpie_vm_close(client->vms[vm]);
        client->vms[vm] = NULL;
    }
}

static int client_vm(struct client *client, uint32_t vm, struct kelpie_error *error) {
    char name[16];
    if (client->vms[vm] != NULL) {
        return 0;
    }
    client_name(vm, name);
    return kelpie_vm_open(client->kelpie, name, &client->vms[vm], error);
}

/* ---- the operations -------------------------------------------------------------------------- */

/* Afresh, or from a snapshot of another VM. */
static int client_create(struct client *client, const struct sim_operation *operation,
                         struct kelpie_error *error) {
    char name[16];
    struct kelpie_config *config = NULL;
    struct kelpie_vm *made = NULL;
    bool is_from = kelpie__sim_model_makes_from(operation->op);
    uint32_t vm = is_from ? operation->target : operation->vm;
    bool is_owner = kelpie__sim_workload_is_owned(client->clients->swarm, vm);
    int status = kelpie_config_create(client->kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, CLIENT_MEMORY_MIB);
    kelpie_config_set_ephemeral(config, is_owner);
    kelpie_config_set_template(config, false);
    if (client->clients->swarm->has_disks) {
        kelpie_config_set_root(config, SIM_ROOT_DIRECTORY);
        kelpie_config_set_disk_size_mib(config, KELPIE_DISK_SIZE_MIB_MIN);
    }
    kelpie_config_set_lifetime(config, is_owner ? KELPIE_LIFETIME_OWNED : KELPIE_LIFETIME_DETACHED);
    if (!is_from) { /* who is made from a guest has what its maker gave that */
        kelpie_config_add_environment(config, "PLACE=" SIM_CLIENT_PLACE);
    }
    client_name(vm, name);
    status = is_from
                 ? kelpie__sim_snapshot_make(client->kelpie, config, name, operation, &made, error)
                 : kelpie_vm_create(client->kelpie, name, config, &made, error);
    if (status == 0) {
        client_forget(client, vm);
        client->vms[vm] = made;
        if (is_owner) {
            kelpie__sim_judge_owns(client->clients->judge, client->index, vm);
        }
    } else {
        kelpie_config_destroy(config);
    }
    return status;
}

static int client_stop(struct client *client, const struct sim_operation *operation,
                       struct kelpie_vm *vm, uint64_t *out_result, struct kelpie_error *error) {
    struct kelpie_stop_result result = {0};
    uint64_t timeout_ms = kelpie__sim_workload_stop_ms(client->clients->swarm, operation);
    bool is_default = timeout_ms == KELPIE_STOP_TIMEOUT_MS_DEFAULT && operation->value % 2 == 0;
    if (operation->value / 4 % 2 == 0) { /* a guest that takes its time */
        kelpie__sim_command_stay(vm);
    }
    kelpie__sim_judge_stops(client->clients->judge, client->index);
    int status = kelpie_vm_stop(vm, is_default ? 0 : timeout_ms, &result, error);
    *out_result = result.was_graceful ? 0 : 1;
    return status;
}

static int client_ask(struct client *client, const struct sim_operation *operation,
                      struct kelpie_vm *vm, uint64_t *out_result, struct kelpie_error *error) {
    switch (operation->op) {
    case SIM_MODEL_START:
        return kelpie_vm_start(vm, scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT), error);
    case SIM_MODEL_STOP:
        return client_stop(client, operation, vm, out_result, error);
    case SIM_MODEL_KILL:
        return kelpie_vm_kill(vm, error);
    case SIM_MODEL_PAUSE:
        return kelpie_vm_pause(vm, error);
    case SIM_MODEL_RESUME:
        return kelpie_vm_resume(vm, error);
    case SIM_MODEL_SNAPSHOT:
    case SIM_MODEL_RESTORE:
        return kelpie__sim_snapshot_ask(vm, operation,
                                        scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT), error);
    case SIM_MODEL_EXEC:
    case SIM_MODEL_PUT:
    case SIM_MODEL_GET:
        return kelpie__sim_command_run(client->clients->world, vm, operation, out_result, error);
    case SIM_MODEL_DELETE:
        return kelpie_vm_delete(vm, false, error);
    case SIM_MODEL_DELETE_FORCE:
        return kelpie_vm_delete(vm, true, error);
    case SIM_MODEL_CLONE:
        return kelpie__sim_clone(client->clients, client->process, client->kelpie, vm, operation,
                                 error);
    case SIM_MODEL_PREPARE:
        return kelpie_vm_prepare_forks(vm, 1 + operation->value % 2, error);
    case SIM_MODEL_CREATE:
    case SIM_MODEL_CREATE_FROM:
    case SIM_MODEL_FORK:
    case SIM_MODEL_FORGET:
    case SIM_MODEL_OBSERVE:
    case SIM_MODEL_LISTED:
        break;
    }
    return kelpie__fail(error, KELPIE_E_MISUSE, 0, "the workload has no such operation");
}

/* What succeeds where the VM is gone is asked of one that is there by that name now: a kept handle
 * may be of an earlier one. */
static int client_end_vm(struct client *client, const struct sim_operation *operation,
                         struct kelpie_error *error) {
    char name[16];
    struct kelpie_vm *vm = NULL;
    uint64_t result = 0;
    client_name(operation->vm, name);
    int status = kelpie_vm_open(client->kelpie, name, &vm, error);
    if (status == 0) {
        status = client_ask(client, operation, vm, &result, error);
        kelpie_vm_close(vm);
    }
    return status;
}

static bool is_gone(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    KELPIE_ASSERT(vm != NULL);
    return kelpie_vm_inspect(vm, &info, NULL) == KELPIE_E_NOT_FOUND;
}

/* There is a VM of this name, by a handle of its own. */
static bool is_there(struct client *client, uint32_t index) {
    char name[16];
    struct kelpie_vm *vm = NULL;
    client_name(index, name);
    int status = kelpie_vm_open(client->kelpie, name, &vm, NULL);
    kelpie_vm_close(vm);
    return status == 0;
}

/* NOT_FOUND: the VM of this handle, or is it the snapshot that is not there? CRASHED: it may have
 * been an earlier one's end that nobody had told this handle of. */
static bool is_stale(struct client *client, const struct sim_operation *operation, int status) {
    struct kelpie_vm *vm = client->vms[operation->vm];
    bool needs_snapshot = operation->op == SIM_MODEL_RESTORE || operation->op == SIM_MODEL_START;
    if (status == KELPIE_E_CRASHED) {
        return is_gone(vm) && is_there(client, operation->vm);
    }
    return status == KELPIE_E_NOT_FOUND && (!needs_snapshot || is_gone(vm));
}

/* A handle is of a VM, not of its name: one that says that its VM is gone is opened anew, once. */
static int client_call(struct client *client, const struct sim_operation *operation,
                       uint64_t *out_result, struct kelpie_error *error) {
    uint32_t index = operation->vm;
    int status = 0;
    if (operation->op == SIM_MODEL_CREATE || kelpie__sim_model_makes_from(operation->op)) {
        return client_create(client, operation, error);
    }
    if (operation->op == SIM_MODEL_FORGET) {
        return kelpie__sim_snapshot_forget(client->kelpie, operation, error);
    }
    if (operation->op == SIM_MODEL_DELETE || operation->op == SIM_MODEL_DELETE_FORCE ||
        operation->op == SIM_MODEL_KILL) {
        return client_end_vm(client, operation, error);
    }
    for (uint32_t i = 0; i < 2; i += 1) {
        bool was_kept = client->vms[index] != NULL;
        status = client_vm(client, index, error);
        if (status == 0) {
            status = client_ask(client, operation, client->vms[index], out_result, error);
        }
        if (client->vms[index] == NULL || !is_stale(client, operation, status)) {
            break;
        }
        client_forget(client, index); /* who owns a VM owns it by this handle */
        if (!was_kept) {
            break;
        }
    }
    return status;
}

/* The longest that the call may take by its own deadlines. */
static uint64_t deadline_ms(const struct client *client, const struct sim_operation *operation) {
    bool is_calm = client->clients->swarm->is_calm;
    switch (operation->op) {
    case SIM_MODEL_START:
        return scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT) + CLIENT_CALL_MS;
    case SIM_MODEL_STOP:
        return kelpie__sim_workload_stop_ms(client->clients->swarm, operation) + 2 * CLIENT_CALL_MS;
    case SIM_MODEL_EXEC:
    case SIM_MODEL_PUT:
    case SIM_MODEL_GET:
        return KELPIE_EXEC_TIMEOUT_MS_DEFAULT + KELPIE_EXEC_BACKSTOP_MS + CLIENT_CALL_MS;
    case SIM_MODEL_SNAPSHOT:
        return is_calm ? CLIENT_CALL_MS : KELPIE_SNAPSHOT_TIMEOUT_MS + 4 * CLIENT_CALL_MS;
    case SIM_MODEL_CLONE: /* twice: forks of forks */
        return is_calm ? 2 * CLIENT_CALL_MS
                       : KELPIE_SNAPSHOT_TIMEOUT_MS + KELPIE_RESTORE_CHECK_TIMEOUT_MS +
                             KELPIE_BOOT_TIMEOUT_MS_DEFAULT + 6 * CLIENT_CALL_MS;
    case SIM_MODEL_RESTORE:
    case SIM_MODEL_FORK:
        return is_calm ? CLIENT_CALL_MS
                       : KELPIE_RESTORE_CHECK_TIMEOUT_MS +
                             scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT) + 3 * CLIENT_CALL_MS;
    case SIM_MODEL_PREPARE:
        return is_calm ? 2 * CLIENT_CALL_MS : 6 * CLIENT_CALL_MS;
    case SIM_MODEL_CREATE:
    case SIM_MODEL_CREATE_FROM:
    case SIM_MODEL_KILL:
    case SIM_MODEL_PAUSE:
    case SIM_MODEL_RESUME:
    case SIM_MODEL_DELETE:
    case SIM_MODEL_DELETE_FORCE:
    case SIM_MODEL_FORGET:
    case SIM_MODEL_OBSERVE:
    case SIM_MODEL_LISTED:
        break;
    }
    return 2 * CLIENT_CALL_MS;
}

/* ---- looking --------------------------------------------------------------------------------- */

static int client_open(struct client *client, struct kelpie_error *error) {
    int status = kelpie__open_with_os(client->os, NULL, &client->kelpie, error);
    KELPIE_ASSERT(status == 0 || client->kelpie == NULL);
    return status;
}

/* What it owns may be gone before the library is closed. */
static void client_close(struct client *client) {
    if (client->kelpie != NULL) {
        kelpie__sim_judge_client_gone(client->clients->judge, client->index);
        memset(client->vms, 0, sizeof(client->vms)); /* they go with the library; so do pools */
        memset(client->pool.handles, 0, sizeof(client->pool.handles));
        struct kelpie_os *os = kelpie__close_keeping_os(client->kelpie);
        KELPIE_ASSERT(os == client->os);
        client->kelpie = NULL;
    }
}

/* A process that it names is its own: of the VM, and what it is called. */
static bool is_own(const struct client *client, uint32_t vm, int32_t pid, bool is_monitor) {
    const struct sim_machine *host = client->process->machine;
    char path[32];
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "vm-%u/", vm);
    KELPIE_ASSERT(fits);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->pid == pid && kelpie__sim_truth_is_alive(process)) {
            return (strcmp(process->role, "monitor") == 0) == is_monitor &&
                   kelpie__sim_truth_is_of_vm(process, path);
        }
    }
    return true; /* it is gone */
}

static void check_info(const struct client *client, uint32_t vm,
                       const struct kelpie_vm_info *info) {
    bool is_configured = info->cpus == 1 && info->memory_mib == CLIENT_MEMORY_MIB;
    bool is_good = is_configured &&
                   (info->monitor_pid == 0 || is_own(client, vm, info->monitor_pid, true)) &&
                   (info->vmm_pid == 0 || is_own(client, vm, info->vmm_pid, false));
    if (!is_good) {
        kelpie__sim_world_fail(client->clients->world,
                               "contract: vm-%u is told to have %u processors, %u MiB, the monitor "
                               "%d and the VMM %d",
                               vm, info->cpus, info->memory_mib, info->monitor_pid, info->vmm_pid);
    }
}

static int client_inspect(struct client *client, uint32_t vm, uint64_t *out_state,
                          struct kelpie_error *error) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    int status = 0;
    for (uint32_t i = 0; i < 2; i += 1) {
        bool was_kept = client->vms[vm] != NULL;
        status = client_vm(client, vm, error);
        if (status == 0) {
            status = kelpie_vm_inspect(client->vms[vm], &info, error);
        }
        if (status != KELPIE_E_NOT_FOUND || !was_kept) {
            break;
        }
        client_forget(client, vm); /* it may be there again */
    }
    *out_state = (uint64_t)info.state;
    if (status == 0) {
        check_info(client, vm, &info);
    }
    return status;
}

static void client_list(struct client *client) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    if (kelpie_list(client->kelpie, &list, &count, NULL) == 0) {
        kelpie_list_free(client->kelpie, list, count);
    }
}

/* Whoever heard that a VM runs hears that it was paused before he hears that it goes on. */
static void check_order(const struct client_events *events, const struct kelpie_event *event) {
    struct sim_world *world = events->client->clients->world;
    bool is_resumed =
        strcmp(event->type, "state") == 0 && strcmp(event->detail, "resumed on request") == 0;
    if (is_resumed && events->was_told && events->state != KELPIE_VM_PAUSED &&
        kelpie__sim_faults_fired(kelpie__sim_world_faults(world)) == 0) {
        kelpie__sim_world_fail(world, "contract: an event is missing: %s, then \"%s\"",
                               kelpie_vm_state_name(events->state), event->detail);
    }
}

/* A change of the state is told once: no two events of a VM are the same. */
static void on_event(void *context, const struct kelpie_event *event) {
    struct client_events *events = context;
    KELPIE_ASSERT(events->client != NULL && event != NULL);
    uint64_t hash = kelpie__sim_fault_hash((uint64_t)event->time_ms, event->type, event->detail,
                                           (uint64_t)event->state, 0);
    if (strcmp(event->type, "state") == 0 && hash == events->last) {
        kelpie__sim_world_fail(events->client->clients->world,
                               "invariant 27: the event \"%s\" (%s) comes twice",
                               kelpie_vm_state_name(event->state), event->detail);
    }
    check_order(events, event);
    events->last = hash;
    events->was_told = true;
    events->state = event->state;
}

/* In the units that the header says: no guest has more memory than it was given, is older than the
 * world, or has worked for longer than all its processors could have. What its agent could not read
 * is 0. */
static void client_check_stats(struct client *client, const struct kelpie_stats *stats) {
    struct sim_world *world = client->clients->world;
    uint64_t now_ms = (uint64_t)(kelpie__sim_now(world) / KELPIE_NS_PER_MS);
    uint64_t memory_kib = CLIENT_MEMORY_MIB * 1024u;
    bool is_memory = stats->guest_memory_total_kib == 0 ||
                     (stats->guest_memory_total_kib > memory_kib / 2 &&
                      stats->guest_memory_total_kib <= memory_kib &&
                      stats->guest_memory_available_kib <= stats->guest_memory_total_kib);
    bool is_time = stats->guest_uptime_ms == 0 || (stats->guest_uptime_ms <= now_ms &&
                                                   stats->guest_cpu_ms <= stats->guest_uptime_ms);
    if (stats->has_guest && (!is_memory || !is_time) && !kelpie__sim_truth_has_lied(world)) {
        kelpie__sim_world_fail(world,
                               "contract: after %llu ms a guest of %u MiB has %llu KiB, %llu "
                               "available, is up for %llu ms and has worked for %llu ms",
                               (unsigned long long)now_ms, CLIENT_MEMORY_MIB,
                               (unsigned long long)stats->guest_memory_total_kib,
                               (unsigned long long)stats->guest_memory_available_kib,
                               (unsigned long long)stats->guest_uptime_ms,
                               (unsigned long long)stats->guest_cpu_ms);
    }
}

/* All looks but inspect. Their answers are looked at by invariants, and may be any error: nothing
 * is changed by them. */
static void client_look(struct client *client, const struct sim_operation *operation) {
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    struct kelpie_health health = {.struct_size = sizeof(health)};
    uint32_t vm = operation->vm;
    bool has_vm = client_vm(client, vm, NULL) == 0;
    switch ((enum sim_look)operation->kind) {
    case SIM_LOOK_INSPECT:
        break;
    case SIM_LOOK_STATS:
        if (has_vm && kelpie_vm_stats(client->vms[vm], &stats, NULL) == 0) {
            client_check_stats(client, &stats);
        }
        break;
    case SIM_LOOK_HEALTH:
        kelpie__ignore(has_vm ? kelpie_vm_health(client->vms[vm], 0, &health, NULL) : 0);
        break;
    case SIM_LOOK_LIST:
        client_list(client);
        break;
    case SIM_LOOK_EVENTS:
        client->events[vm] = (struct client_events){.client = client};
        kelpie__ignore(
            has_vm ? kelpie_vm_subscribe(client->vms[vm], on_event, &client->events[vm], NULL) : 0);
        break;
    case SIM_LOOK_REOPEN:
        client_close(client);
        kelpie__ignore(client_open(client, NULL)); /* the next operation tries again */
        break;
    case SIM_LOOK_REST:
        kelpie__sim_process_sleep(client->process, CLIENT_REST_NS);
        break;
    case SIM_LOOK_POOL_MAKE:
    case SIM_LOOK_POOL_CLAIM:
    case SIM_LOOK_POOL_REMOVE:
    case SIM_LOOK_POOL_LOOK:
    case SIM_LOOK_COUNT:
        break;
    }
}

static void client_pool(struct client *client, const struct sim_operation *operation) {
    client->pool.swarm = client->clients->swarm;
    client->pool.pools = client->clients->pools;
    client->pool.process = client->process;
    client->pool.kelpie = client->kelpie;
    kelpie__sim_pool_do(&client->pool, operation);
}

/* ---- a client's life ------------------------------------------------------------------------- */

static void client_note(struct client *client, const struct sim_operation *operation) {
    char text[128];
    client->events[operation->vm].last = 0; /* what is asked for again may be told again */
    kelpie__sim_operation_text(operation, text, sizeof(text));
    kelpie__sim_world_emit(
        client->clients->world,
        &(struct sim_event){.type = SIM_EVENT_NOTE, .process = client->process, .detail = text});
}

static void client_note_answer(struct client *client, const struct sim_operation *operation,
                               int status, const struct kelpie_error *error) {
    char call[128];
    char text[512];
    kelpie__sim_operation_text(operation, call, sizeof(call));
    kelpie__ignore(kelpie__text_format(text, sizeof(text), "%s: %s%s%.200s", call,
                                       kelpie_code_name(status), status < 0 ? ", " : "",
                                       status < 0 ? error->message : ""));
    kelpie__sim_world_emit(
        client->clients->world,
        &(struct sim_event){.type = SIM_EVENT_NOTE, .process = client->process, .detail = text});
}

/* What the judge follows. *out_result: as kelpie__sim_judge_end has it. */
static int client_judged(struct client *client, const struct sim_operation *operation,
                         uint64_t *out_result) {
    struct kelpie_error error = {0};
    int status = 0;
    *out_result = 0;
    kelpie__sim_judge_begin(client->clients->judge, operation, deadline_ms(client, operation));
    if (operation->is_look) {
        status = client_inspect(client, operation->vm, out_result, &error);
    } else {
        status = client_call(client, operation, out_result, &error);
    }
    client_note_answer(client, operation, status, &error);
    kelpie__sim_judge_end(client->clients->judge, client->index, status, *out_result, &error);
    bool is_deletion = !operation->is_look && (operation->op == SIM_MODEL_DELETE ||
                                               operation->op == SIM_MODEL_DELETE_FORCE);
    if (is_deletion && (status == 0 || status == KELPIE_E_NOT_FOUND)) {
        client_forget(client, operation->vm);
    }
    return status;
}

/* Of VMs with disks: before a guest ends, or is saved, it writes; when it has come back, somebody
 * reads what it has. */
static void client_file(struct client *client, const struct sim_operation *around, bool is_before) {
    enum sim_model_op op = around->op;
    bool ends = op == SIM_MODEL_SNAPSHOT ||
                ((op == SIM_MODEL_STOP || op == SIM_MODEL_KILL) && around->value / 2 % 2 == 0);
    bool comes = op == SIM_MODEL_START || op == SIM_MODEL_RESTORE || op == SIM_MODEL_FORK;
    struct sim_operation file = *around;
    uint64_t result = 0;
    if (!client->clients->swarm->has_disks || around->is_look || (is_before ? !ends : !comes) ||
        client->kelpie == NULL) {
        return;
    }
    file.op = is_before ? SIM_MODEL_PUT : SIM_MODEL_GET;
    file.vm = op == SIM_MODEL_FORK ? around->target : around->vm;
    file.kind = 0;
    file.snapshot = 0;
    file.value += CLIENT_FILE_VALUES;
    kelpie__ignore(client_judged(client, &file, &result)); /* the judge has its answer */
}

/* A guest that was restored has in its memory what its disk should have: only one that begins anew
 * shows which disk that is. */
static void client_begin_anew(struct client *client, const struct sim_operation *restored) {
    static const enum sim_model_op ops[] = {SIM_MODEL_STOP, SIM_MODEL_START, SIM_MODEL_GET};
    struct sim_operation operation = *restored;
    uint64_t result = 0;
    int status = 0;
    KELPIE_ASSERT(restored->op == SIM_MODEL_RESTORE && !restored->is_look);
    if (!client->clients->swarm->has_disks || restored->value / 8 % 2 != 0) {
        return;
    }
    operation.kind = 0;
    operation.snapshot = 0;
    operation.value += CLIENT_FILE_VALUES;
    for (uint32_t i = 0; i < KELPIE_ARRAY_COUNT(ops) && status == 0 && client->kelpie != NULL;
         i += 1) {
        operation.op = ops[i];
        status = client_judged(client, &operation, &result);
    }
}

/* When its time has come. Of a herd the first that comes says when; who comes later does not wait.
 */
static int64_t client_time(struct client *client, const struct sim_operation *operation) {
    KELPIE_ASSERT(operation->herd < SIM_HERD_MAX);
    int64_t *time_ns = &client->clients->herd_ns[operation->herd];
    int64_t now_ns = kelpie__sim_now(client->clients->world);
    if (operation->at_ns > 0) {
        return operation->at_ns;
    }
    if (operation->herd == 0) {
        return now_ns + operation->rest_ms * KELPIE_NS_PER_MS;
    }
    *time_ns = *time_ns == 0 ? now_ns + CLIENT_MEET_NS : *time_ns;
    return *time_ns;
}

static void client_wait(struct client *client, const struct sim_operation *operation) {
    int64_t now_ns = kelpie__sim_now(client->clients->world);
    int64_t time_ns = client_time(client, operation);
    if (client->clients->begun_ns != NULL) {
        client->clients->begun_ns[operation - client->clients->operations] =
            time_ns > now_ns ? time_ns : now_ns;
    }
    if (time_ns > now_ns) {
        kelpie__sim_process_sleep(client->process, time_ns - now_ns);
    }
}

static void client_do(struct client *client, const struct sim_operation *operation) {
    client_wait(client, operation);
    if (client->kelpie == NULL && client_open(client, NULL) < 0) {
        kelpie__sim_process_sleep(client->process, CLIENT_REST_NS);
        return;
    }
    client_note(client, operation);
    if (kelpie__sim_pool_is_operation(operation)) {
        client_pool(client, operation);
    } else if (operation->is_look && operation->kind != SIM_LOOK_INSPECT) {
        client_look(client, operation);
    } else {
        uint64_t result = 0;
        client_file(client, operation, true);
        int status = client_judged(client, operation, &result); /* the judge has its answer */
        if (status == 0) {
            client_file(client, operation, false);
        }
        if (status == 0 && operation->op == SIM_MODEL_RESTORE && !operation->is_look) {
            client_begin_anew(client, operation);
        }
    }
}

static int client_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_clients *clients = kelpie__sim_world_context(process->machine->world);
    struct client client = {.clients = clients, .process = process, .os = os};
    uint64_t index = 0;
    KELPIE_ASSERT(argc == 2);
    bool is_number = kelpie__text_u64(argv[1], &index);
    KELPIE_ASSERT(is_number && index < SIM_SWARM_CLIENT_MAX);
    client.index = (uint32_t)index;
    while (clients->next[index] < clients->operation_count) { /* bound: it rises */
        const struct sim_operation *operation = &clients->operations[clients->next[index]];
        clients->next[index] += 1; /* whatever becomes of this one */
        if (operation->client == index) {
            client_do(&client, operation);
        }
    }
    if (index % 2 == 1) { /* as programs do: its connections are all that says that it is gone */
        return CLIENT_EXIT_ABRUPT;
    }
    client_close(&client);
    return 0;
}

static bool has_ended(const struct sim_machine *host, sim_main program) {
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->main == program && process->state != SIM_PROCESS_ZOMBIE &&
            process->state != SIM_PROCESS_GONE) {
            return false;
        }
    }
    return true;
}

static void waker_look(struct client *client, uint32_t vm) {
    uint64_t state = 0;
    const struct sim_operation look = {.is_look = true,
                                       .client = (uint8_t)client->index,
                                       .vm = (uint8_t)vm,
                                       .kind = SIM_LOOK_INSPECT};
    const struct sim_operation resume = {
        .client = (uint8_t)client->index, .vm = (uint8_t)vm, .op = SIM_MODEL_RESUME};
    if (client_judged(client, &look, &state) == 0 && state == KELPIE_VM_PAUSED) {
        kelpie__ignore(client_judged(client, &resume, &state)); /* the next round tries again */
    }
}

static bool is_used(const struct sim_clients *clients, uint32_t vm) {
    for (uint32_t i = 0; i < clients->operation_count; i += 1) {
        const struct sim_operation *operation = &clients->operations[i];
        bool is_fork = !operation->is_look && operation->op == SIM_MODEL_FORK;
        if (kelpie__sim_pool_is_operation(operation)) {
            continue;
        }
        if (operation->vm == vm || (is_fork && operation->target == vm)) {
            return true;
        }
    }
    return false;
}

static int waker_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_clients *clients = kelpie__sim_world_context(process->machine->world);
    struct client client = {
        .clients = clients, .process = process, .os = os, .index = CLIENT_WAKER};
    KELPIE_ASSERT(argc == 1 && argv[0] != NULL);
    kelpie__sim_process_sleep(process, CLIENT_WAKE_NS);
    while (!has_ended(process->machine, client_main)) { /* bound: the run's time */
        bool is_open = client.kelpie != NULL || client_open(&client, NULL) == 0;
        uint32_t vm_count = kelpie__sim_workload_vm_count(clients->swarm);
        for (uint32_t vm = 0; is_open && vm < vm_count; vm += 1) {
            if (is_used(clients, vm)) {
                waker_look(&client, vm);
            }
        }
        kelpie__sim_process_sleep(process, CLIENT_WAKE_NS);
    }
    client_close(&client);
    return 0;
}

static const char *const client_environment[] = {"HOME=/root", "PATH=/usr/bin:/bin",
                                                 "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};

struct sim_process *kelpie__sim_clients_process(const struct sim_clients *clients, uint32_t index) {
    char path[32];
    bool fits = kelpie__text_format(path, sizeof(path), SIM_CLIENT_PATH "%u", index);
    KELPIE_ASSERT(fits);
    struct sim_machine *host = kelpie__sim_world_host(clients->world);
    for (struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->main == client_main && process->state != SIM_PROCESS_ZOMBIE &&
            process->state != SIM_PROCESS_GONE && strcmp(process->path, path) == 0) {
            return process;
        }
    }
    return NULL;
}

static int client_start(const struct sim_clients *clients, uint32_t index) {
    char number[8];
    char path[32];
    bool fits = kelpie__text_format(number, sizeof(number), "%u", index) &&
                kelpie__text_format(path, sizeof(path), SIM_CLIENT_PATH "%u", index);
    KELPIE_ASSERT(fits);
    const char *const argv[] = {"client", number, NULL};
    const struct sim_start start = {.path = path,
                                    .role = "client",
                                    .main = client_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = client_environment};
    struct sim_machine *host = kelpie__sim_world_host(clients->world);
    return kelpie__sim_process_start(host, &start) == NULL ? -EAGAIN : 0;
}

static int waker_start(const struct sim_clients *clients) {
    static const char *const argv[] = {"waker", NULL};
    const struct sim_start start = {.path = "/usr/bin/waker",
                                    .role = "user",
                                    .main = waker_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = client_environment};
    struct sim_machine *host = kelpie__sim_world_host(clients->world);
    return kelpie__sim_process_start(host, &start) == NULL ? -EAGAIN : 0;
}

int kelpie__sim_clients_start(struct sim_clients *clients) {
    int started = 0;
    kelpie__sim_world_set_context(clients->world, clients);
    for (uint32_t i = 0; i < clients->swarm->client_count; i += 1) {
        bool is_lost = clients->swarm->damage == SIM_SWARM_DAMAGE_CLIENT && i == 0 &&
                       clients->lives[i] > 0; /* the one that never comes back */
        if (kelpie__sim_clients_process(clients, i) != NULL ||
            clients->next[i] >= clients->operation_count || clients->lives[i] >= CLIENT_LIVES_MAX ||
            is_lost) {
            continue;
        }
        clients->lives[i] += 1;
        if (client_start(clients, i) < 0) {
            return -EAGAIN;
        }
        started += 1;
    }
    bool has_waker = !has_ended(kelpie__sim_world_host(clients->world), waker_main);
    if (started > 0 && !has_waker && waker_start(clients) < 0) {
        return -EAGAIN;
    }
    return started;
}

bool kelpie__sim_clients_have_ended(const struct sim_clients *clients) {
    struct sim_machine *host = kelpie__sim_world_host(clients->world);
    return has_ended(host, client_main) && has_ended(host, waker_main);
}
