/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See truth.h.
 */
#include "sim/truth.h"

#include <string.h>

#include "core/text.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/machine.h"
#include "sim/qemu.h"
#include "sim/swarm.h"

bool kelpie__sim_truth_is_alive(const struct sim_process *process) {
    return process->state != SIM_PROCESS_ZOMBIE && process->state != SIM_PROCESS_GONE;
}

bool kelpie__sim_truth_names_vm(const char *directory, const char *path) {
    const char *wanted = strstr(path, SIM_TRUTH_VMS);
    KELPIE_ASSERT(wanted != NULL && path[strlen(path) - 1] == '/');
    size_t length = strlen(wanted) - 1; /* without the slash at its end */
    char end = strncmp(directory, wanted, length) == 0 ? directory[length] : 'x';
    return end == '\0' || end == '/' || end == ',';
}

bool kelpie__sim_truth_is_of_vm(const struct sim_process *process, const char *path) {
    for (int i = 0; i < process->argc; i += 1) {
        const char *directory = strstr(process->argv[i], SIM_TRUTH_VMS);
        if (directory != NULL && kelpie__sim_truth_names_vm(directory, path)) {
            return true;
        }
    }
    return false;
}

bool kelpie__sim_truth_vm_path(const struct sim_process *process, char out[256]) {
    for (int i = 0; i < process->argc; i += 1) {
        const char *found = strstr(process->argv[i], SIM_TRUTH_VMS);
        if (found != NULL) {
            size_t length = strlen(SIM_TRUTH_VMS) + strcspn(found + strlen(SIM_TRUTH_VMS), "/,");
            if (length + 2 > 256) {
                return false;
            }
            memcpy(out, found, length);
            memcpy(out + length, "/", 2);
            return true;
        }
    }
    return false;
}

bool kelpie__sim_truth_vm_index(const struct sim_process *process, uint32_t *out) {
    static const char prefix[] = SIM_TRUTH_VMS "vm-";
    char path[256];
    uint64_t index = 0;
    if (!kelpie__sim_truth_vm_path(process, path) || !kelpie__text_has_prefix(path, prefix)) {
        return false;
    }
    path[strlen(path) - 1] = '\0'; /* the slash at its end */
    bool is_index = kelpie__text_u64(path + strlen(prefix), &index) && index < SIM_SWARM_VM_MAX;
    *out = is_index ? (uint32_t)index : *out;
    return is_index;
}

struct sim_guest *kelpie__sim_truth_guest(struct sim_world *world, const char *path) {
    struct sim_guest *guest = kelpie__sim_world_guest(world, 0);
    for (uint32_t i = 0; guest != NULL; i += 1) { /* bound: the guests */
        const struct sim_process *owner = kelpie__sim_guest_owner(guest);
        if (owner != NULL && kelpie__sim_truth_is_alive(owner) &&
            kelpie__sim_truth_is_of_vm(owner, path)) {
            return guest;
        }
        guest = kelpie__sim_world_guest(world, i + 1);
    }
    return NULL;
}

struct sim_guest *kelpie__sim_truth_guest_of(struct sim_world *world, int32_t pid) {
    struct sim_guest *guest = kelpie__sim_world_guest(world, 0);
    for (uint32_t i = 0; guest != NULL; i += 1) { /* bound: the guests */
        const struct sim_process *owner = kelpie__sim_guest_owner(guest);
        if (owner != NULL && owner->pid == pid && kelpie__sim_truth_is_alive(owner)) {
            return guest;
        }
        guest = kelpie__sim_world_guest(world, i + 1);
    }
    return NULL;
}

bool kelpie__sim_truth_is_mute(const struct sim_guest *guest) {
    const struct sim_process *owner = kelpie__sim_guest_owner(guest);
    const struct sim_qemu *qemu = owner == NULL ? NULL : owner->extra;
    return qemu != NULL && (qemu->is_hung || owner->is_stopped ||
                            qemu->qmp.held_until_ns > kelpie__sim_now(owner->machine->world));
}

uint32_t kelpie__sim_truth_commands(struct sim_world *world, const char *path, const char *text) {
    struct sim_guest *guest = kelpie__sim_truth_guest(world, path);
    uint32_t count = 0;
    KELPIE_ASSERT(text[0] != '\0');
    if (guest == NULL) {
        return 0;
    }
    const struct sim_machine *machine = kelpie__sim_guest_machine(guest);
    for (const struct sim_process *process = machine->processes; process != NULL;
         process = process->next) {                          /* bound: the list */
        bool is_alive = kelpie__sim_truth_is_alive(process); /* the dead have no arguments */
        bool has_text = false;
        for (int i = 0; is_alive && i < process->argc && !has_text; i += 1) {
            has_text = strstr(process->argv[i], text) != NULL;
        }
        count += has_text ? 1 : 0;
    }
    return count;
}

bool kelpie__sim_truth_has_lied(struct sim_world *world) {
    return kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), "agent");
}
