/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See recovery.h.
 */
#include "sim/recovery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "kelpie.h"
#include "lib/internal.h"
#include "sim/belongings.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/liveness.h"
#include "sim/machine.h"
#include "sim/truth.h"

#define RECOVERY_FILE_BYTES_MAX 65536u
#define RECOVERY_LIMIT_NS (600 * KELPIE_NS_PER_S)
#define RECOVERY_IDLE_NS                                                                           \
    (300 * KELPIE_NS_PER_S) /* longer than any timer of a call that is over                        \
                             */
#define RECOVERY_WATCHED_MAX 64u
#define FNV_PRIME UINT64_C(0x100000001b3)

/* ---- 24: recovery ---------------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i += 1) {
        hash = (hash ^ at[i]) * FNV_PRIME;
    }
    return hash;
}

/* Names and bytes of all files in one directory of VMs, two levels deep. */
static uint64_t tree_hash(struct sim_world *world, const char *root, uint64_t hash) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    char directory[SIM_PATH_BYTES_MAX];
    char path[SIM_PATH_BYTES_MAX];
    char name[256];
    uint64_t outer = 0;
    char *bytes = malloc(RECOVERY_FILE_BYTES_MAX);
    while (bytes != NULL && kelpie__sim_disk_walk(disk, root, &outer, name)) { /* bound: its VMs */
        uint64_t inner = 0;
        hash = mix(hash, name, strlen(name) + 1);
        kelpie__ignore(snprintf(directory, sizeof(directory), "%s/%s", root, name));
        while (kelpie__sim_disk_walk(disk, directory, &inner, name)) { /* bound: its files */
            hash = mix(hash, name, strlen(name) + 1);
            kelpie__ignore(snprintf(path, sizeof(path), "%.700s/%s", directory, name));
            int64_t size = kelpie__sim_disk_peek(disk, false, path, bytes, RECOVERY_FILE_BYTES_MAX);
            hash = mix(hash, &size, sizeof(size));
            hash = mix(hash, bytes,
                       size < 0 ? 0 : kelpie__min_u64((uint64_t)size, RECOVERY_FILE_BYTES_MAX));
        }
    }
    free(bytes);
    return hash;
}

uint64_t kelpie__sim_recovery_trees(struct sim_world *world) {
    uint64_t hash = tree_hash(world, SIM_STATE_DIRECTORY "/vms", 1);
    hash = tree_hash(world, SIM_RUNTIME_DIRECTORY "/vms", hash);
    return tree_hash(world, SIM_STATE_DIRECTORY "/snapshots", hash);
}

/* A disk that loses what it acknowledged can leave anything. */
static bool has_lying_disk(struct sim_world *world) {
    return kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), "disk");
}

static int inspect_all(struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    int status = kelpie_list(kelpie, &list, &count, error);
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        struct kelpie_vm_info info = {.struct_size = sizeof(info)};
        struct kelpie_vm *vm = NULL;
        status = kelpie_vm_open(kelpie, list[i].name, &vm, error);
        if (status == 0) {
            status = kelpie_vm_inspect(vm, &info, error);
            kelpie_vm_close(vm);
        }
    }
    kelpie_list_free(kelpie, list, count);
    return status;
}

/* The first who comes: opening recovers, and looking at every VM shows that each is whole. */
static int recoverer_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_world *world = kelpie__sim_process_of(os)->machine->world;
    struct kelpie_error error = {0};
    struct kelpie *kelpie = NULL;
    KELPIE_ASSERT(argc == 1 && argv[0] != NULL);
    int status = kelpie__open_with_os(os, NULL, &kelpie, &error);
    if (status == 0) {
        status = inspect_all(kelpie, &error);
        kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    }
    if (status < 0 && !has_lying_disk(world)) {
        kelpie__sim_world_fail(world, "invariant 24: after a power loss: %s, %.300s",
                               kelpie_code_name(status), error.message);
    }
    return status < 0 ? 1 : 0;
}

static bool has_recovered(void *context) {
    const struct sim_machine *host = kelpie__sim_world_host(context);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->main == recoverer_main && kelpie__sim_truth_is_alive(process)) {
            return false;
        }
    }
    return true;
}

/* What a deletion or a creation that was under way is called. */
static void check_names(struct sim_world *world, const char *directory) {
    uint64_t cursor = 0;
    char name[256];
    while (kelpie__sim_disk_walk(kelpie__sim_world_disk(world), directory, &cursor,
                                 name)) { /* bound: its entries */
        if (name[0] == '.') {
            kelpie__sim_world_fail(world, "invariant 24: recovery has left %s/%.100s", directory,
                                   name);
        }
    }
}

static bool recover_once(struct sim_world *world) {
    static const char *const argv[] = {"recoverer", NULL};
    static const char *const environment[] = {"HOME=/root", "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY,
                                              NULL};
    const struct sim_start start = {.path = "/usr/bin/recoverer",
                                    .role = "user",
                                    .main = recoverer_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    if (kelpie__sim_process_start(kelpie__sim_world_host(world), &start) == NULL) {
        kelpie__sim_world_fail(world, "no liveness: the host takes no more processes");
        return false;
    }
    enum sim_run_end end = kelpie__sim_world_run(world, has_recovered, world,
                                                 kelpie__sim_now(world) + RECOVERY_LIMIT_NS);
    if (end != SIM_RUN_DONE && kelpie__sim_world_failure(world) == NULL) {
        kelpie__sim_world_fail(world, "invariant 24: recovery does not end");
    }
    check_names(world, SIM_STATE_DIRECTORY "/vms");
    check_names(world, SIM_RUNTIME_DIRECTORY "/vms");
    return kelpie__sim_world_failure(world) == NULL;
}

static void end_faults(struct sim_world *world) {
    kelpie__sim_faults_off(kelpie__sim_world_faults(world));
    kelpie__sim_disk_set_quota(kelpie__sim_world_disk(world), SIM_LIVENESS_DISK_BYTES);
    kelpie__sim_disk_set_read_only(kelpie__sim_world_disk(world), false);
}

bool kelpie__sim_recovery(struct sim_world *world) {
    KELPIE_ASSERT(kelpie__sim_world_current(world) == NULL);
    end_faults(world);
    kelpie__sim_world_power_loss(world);
    if (!recover_once(world)) {
        return false;
    }
    uint64_t once = kelpie__sim_recovery_trees(world);
    if (recover_once(world) && kelpie__sim_recovery_trees(world) != once) {
        kelpie__sim_world_fail(world,
                               "invariant 24: recovering twice leaves other files than once");
    }
    return kelpie__sim_world_failure(world) == NULL;
}

/* ---- 25: idle -------------------------------------------------------------------------------- */

struct idle_monitor {
    uint64_t birth;
    uint64_t calls;
};

/* Its guest runs nothing but the agent. */
static bool is_quiet(struct sim_world *world, const struct sim_process *monitor) {
    struct sim_guest_truth truth;
    char path[256];
    struct sim_guest *guest =
        kelpie__sim_truth_vm_path(monitor, path) ? kelpie__sim_truth_guest(world, path) : NULL;
    if (guest == NULL) {
        return false;
    }
    kelpie__sim_guest_truth(guest, &truth);
    return truth.has_agent && truth.process_count == 1;
}

/* Notes those that are quiet, or compares with what was noted. */
static uint32_t look_at_monitors(struct sim_world *world, struct idle_monitor *monitors,
                                 uint32_t count, bool is_first) {
    const struct sim_machine *host = kelpie__sim_world_host(world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        bool is_monitor = strcmp(process->role, "monitor") == 0 && !process->is_stopped &&
                          kelpie__sim_truth_is_alive(process) && is_quiet(world, process);
        if (is_monitor && is_first && count < RECOVERY_WATCHED_MAX) {
            monitors[count] = (struct idle_monitor){process->birth, process->call_count};
            count += 1;
        }
        for (uint32_t i = 0; is_monitor && !is_first && i < count; i += 1) {
            if (monitors[i].birth == process->birth && monitors[i].calls != process->call_count) {
                kelpie__sim_world_fail(
                    world, "invariant 25: monitor (pid %d) made %llu calls in %lld idle seconds",
                    process->pid, (unsigned long long)(process->call_count - monitors[i].calls),
                    (long long)(RECOVERY_IDLE_NS / KELPIE_NS_PER_S));
            }
        }
    }
    return count;
}

static bool pass_time(struct sim_world *world) {
    enum sim_run_end end =
        kelpie__sim_world_run(world, NULL, NULL, kelpie__sim_now(world) + RECOVERY_IDLE_NS);
    return end == SIM_RUN_IDLE || end == SIM_RUN_DEADLINE;
}

bool kelpie__sim_idle(struct sim_world *world) {
    struct idle_monitor monitors[RECOVERY_WATCHED_MAX];
    KELPIE_ASSERT(kelpie__sim_world_current(world) == NULL);
    end_faults(world);
    if (!pass_time(world)) { /* what was under way comes to its end */
        return false;
    }
    kelpie__sim_belongings_at_rest(world);
    uint32_t count = look_at_monitors(world, monitors, 0, true);
    bool goes_on = pass_time(world);
    look_at_monitors(world, monitors, count, false);
    return goes_on && kelpie__sim_world_failure(world) == NULL;
}
