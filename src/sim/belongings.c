/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See belongings.h.
 */
#include "sim/belongings.h"

#include <string.h>

#include "agent/group.h"
#include "core/text.h"
#include "sim/client_command.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/truth.h"
#include "store/vm_directory.h"

#define BELONGINGS_RUN_VMS SIM_RUNTIME_DIRECTORY "/vms"
#define BELONGINGS_SNAPSHOTS SIM_STATE_DIRECTORY "/snapshots"
/* Of an agent without commands: its port, its console, the directory of its groups; and of each
 * group that it keeps for the next commands the directory and two files. */
#define BELONGINGS_AGENT_HANDLES 3u
/* Where that directory could not be opened the agent goes on without: by the list of processes. */
#define BELONGINGS_GROUPLESS_HANDLES 2u
#define BELONGINGS_GROUP_HANDLES 3u

/* ---- 25: a process that ends by itself ------------------------------------------------------- */

void kelpie__sim_belongings_at_end(struct sim_world *world, const struct sim_process *ended) {
    bool is_ours = strcmp(ended->role, "monitor") == 0 || strcmp(ended->role, "client") == 0;
    KELPIE_ASSERT(ended->state == SIM_PROCESS_ZOMBIE);
    if (!is_ours || ended->exit.is_signalled || ended->exit.value != 0) {
        return;
    }
    if (ended->memory_bytes_left > 0) {
        kelpie__sim_world_fail(world, "invariant 25: %s (pid %d) ends with %llu bytes allocated",
                               ended->role, ended->pid,
                               (unsigned long long)ended->memory_bytes_left);
    } else if (ended->handles_left > 0) {
        kelpie__sim_world_fail(world, "invariant 25: %s (pid %d) ends with %u handles open",
                               ended->role, ended->pid, ended->handles_left);
    }
}

/* ---- 5, 14, 17, 25: at rest
 * -------------------------------------------------------------------------- */

static bool is_monitor(const struct sim_process *process) {
    return strcmp(process->role, "monitor") == 0 && kelpie__sim_truth_is_alive(process);
}

/* Everybody who could own a VM has gone: what is ephemeral goes with its owner. */
static void check_owned(struct sim_world *world, const struct sim_process *monitor) {
    bool is_ephemeral = false;
    uint32_t index = 0;
    KELPIE_ASSERT(monitor->argc > 0);
    for (int i = 0; i + 1 < monitor->argc; i += 1) {
        is_ephemeral =
            is_ephemeral || (strcmp(monitor->argv[i], "--vm-dir") == 0 &&
                             kelpie__text_has_prefix(monitor->argv[i + 1], BELONGINGS_RUN_VMS));
    }
    bool is_owned = is_ephemeral && kelpie__sim_truth_vm_index(monitor, &index); /* by no pool */
    if (is_owned && !monitor->is_stopped) {
        kelpie__sim_world_fail(world, "invariant 5: the monitor %d lives, its VM's owner is gone",
                               monitor->pid);
    }
}

static bool has_monitor(struct sim_world *world, const char *path) {
    const struct sim_machine *host = kelpie__sim_world_host(world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (is_monitor(process) && kelpie__sim_truth_is_of_vm(process, path)) {
            return true;
        }
    }
    return false;
}

/* A monitor that ends by itself takes its door along. */
static void check_sockets(struct sim_world *world) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    uint64_t outer = 0;
    char name[256];
    char file[256];
    while (kelpie__sim_disk_walk(disk, BELONGINGS_RUN_VMS, &outer, name)) { /* bound: its VMs */
        char directory[SIM_PATH_BYTES_MAX];
        char path[256];
        uint64_t inner = 0;
        bool fits =
            kelpie__text_format(directory, sizeof(directory), BELONGINGS_RUN_VMS "/%s", name) &&
            kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "%.200s/", name);
        KELPIE_ASSERT(fits);
        while (kelpie__sim_disk_walk(disk, directory, &inner, file)) { /* bound: its files */
            if (strcmp(file, KELPIE_VM_SOCKET_FILE) == 0 && !has_monitor(world, path)) {
                kelpie__sim_world_fail(world, "invariant 25: %s/%s has no monitor behind it",
                                       directory, file);
            }
        }
    }
}

/* But pipes: a command that is over may have written more than anybody has asked for. */
static uint32_t count_of_agent(const struct sim_process *agent, bool *out_has_groups) {
    uint32_t count = 0;
    *out_has_groups = false;
    for (uint32_t i = agent->handles_inherited; i < agent->handle_count; i += 1) {
        const struct sim_object *object = agent->handles[i].object;
        if (object == NULL || strcmp(object->operations->kind, "pipe") == 0) {
            continue;
        }
        count += 1;
        *out_has_groups = *out_has_groups || strcmp(object->operations->kind, "directory") == 0;
    }
    return count;
}

/* Its ready process, if there is one, has a group. */
static bool is_own_of_agent(uint32_t count, bool has_groups, uint32_t ready_count) {
    if (!has_groups || count < BELONGINGS_AGENT_HANDLES) {
        return !has_groups && count == BELONGINGS_GROUPLESS_HANDLES;
    }
    uint32_t of_groups = count - BELONGINGS_AGENT_HANDLES;
    return of_groups % BELONGINGS_GROUP_HANDLES == 0 &&
           of_groups / BELONGINGS_GROUP_HANDLES >= ready_count &&
           of_groups / BELONGINGS_GROUP_HANDLES <= KELPIE_AGENT_GROUP_SPARE_MAX + ready_count;
}

static void check_agent(struct sim_world *world, struct sim_guest *guest) {
    struct sim_guest_truth truth;
    bool has_groups = false;
    kelpie__sim_guest_truth(guest, &truth);
    if (!truth.has_agent || truth.process_count != 1) {
        return;
    }
    const struct sim_process *agent = kelpie__sim_guest_machine(guest)->processes;
    KELPIE_ASSERT(agent != NULL);
    uint32_t count = count_of_agent(agent, &has_groups);
    if (!is_own_of_agent(count, has_groups, agent->next == NULL ? 0 : 1)) {
        kelpie__sim_world_fail(world,
                               "invariant 25: the agent of guest %llu has %u handles open, and "
                               "nothing to do",
                               (unsigned long long)truth.id, count);
    }
}

/* 14: who let go of a command has ended it. A guest that was brought back has those that ran when
 * it was saved. */
static void check_left_behind(struct sim_world *world, struct sim_guest *guest) {
    static const char *const hindrances[] = {"agent", "guest", "memory"};
    struct sim_guest_truth truth;
    char path[256];
    kelpie__sim_guest_truth(guest, &truth);
    bool is_known = truth.lineage == truth.id && kelpie__sim_guest_is_running(guest) &&
                    kelpie__sim_truth_vm_path(kelpie__sim_guest_owner(guest), path);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(hindrances); i += 1) {
        is_known = is_known && !kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world),
                                                                   hindrances[i]);
    }
    uint32_t count = is_known ? kelpie__sim_truth_commands(world, path, SIM_COMMAND_LEFT) : 0;
    if (count > 0) {
        kelpie__sim_world_fail(
            world, "invariant 14: %u commands of %s live, their clients are gone", count, path);
    }
}

/* 17: who fails to take a snapshot removes what was made of it, and leaves that to nobody else. */
static void check_snapshots(struct sim_world *world) {
    uint64_t cursor = 0;
    char name[256];
    while (kelpie__sim_disk_walk(kelpie__sim_world_disk(world), BELONGINGS_SNAPSHOTS, &cursor,
                                 name)) { /* bound: its names */
        if (name[0] == '.') {
            kelpie__sim_world_fail(world, "invariant 17: " BELONGINGS_SNAPSHOTS "/%.64s is left",
                                   name);
        }
    }
}

/* Nobody was killed, and the disk took what it was given. */
static bool is_tidy(struct sim_world *world) {
    static const char *const hindrances[] = {"kill", "power", "disk", "process", "memory"};
    const struct sim_faults *faults = kelpie__sim_world_faults(world);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(hindrances); i += 1) {
        if (kelpie__sim_faults_has_class_fired(faults, hindrances[i])) {
            return false;
        }
    }
    return true;
}

void kelpie__sim_belongings_at_rest(struct sim_world *world) {
    const struct sim_machine *host = kelpie__sim_world_host(world);
    struct sim_guest *guest = kelpie__sim_world_guest(world, 0);
    KELPIE_ASSERT(kelpie__sim_world_current(world) == NULL);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (is_monitor(process)) {
            check_owned(world, process);
        }
    }
    if (kelpie__sim_faults_fired(kelpie__sim_world_faults(world)) == 0) { /* nobody was killed */
        check_sockets(world);
    }
    if (is_tidy(world)) {
        check_snapshots(world);
    }
    for (uint32_t i = 1; guest != NULL; i += 1) { /* bound: the guests */
        const struct sim_process *owner = kelpie__sim_guest_owner(guest);
        if (owner != NULL && kelpie__sim_truth_is_alive(owner)) {
            check_agent(world, guest);
            check_left_behind(world, guest);
        }
        guest = kelpie__sim_world_guest(world, i);
    }
}
