/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See damage.h.
 */
#include "sim/damage.h"

#include <signal.h>
#include <string.h>

#include "core/limits.h"
#include "kelpie.h"
#include "sim/guest.h"
#include "sim/machine.h"
#include "sim/truth.h"

#define DAMAGE_LIE_BILLIONTH 200000000u /* of a guest's writes: one in five */
#define DAMAGE_TIMEOUT_MS 2000u
/* The command's time, the monitor's patience, and what a loaded machine needs for the rest. */
#define DAMAGE_LIMIT_NS (60 * KELPIE_NS_PER_S)

/* A guest whose VMM lives and lets it run; the index-th of them. */
static struct sim_guest *damage_candidate(struct sim_world *world, uint32_t index) {
    struct sim_guest *guest = kelpie__sim_world_guest(world, 0);
    for (uint32_t i = 1; guest != NULL; i += 1) { /* bound: the guests */
        const struct sim_process *owner = kelpie__sim_guest_owner(guest);
        bool is_one = owner != NULL && kelpie__sim_truth_is_alive(owner) && !owner->is_stopped &&
                      kelpie__sim_guest_is_running(guest);
        if (is_one && index == 0) {
            return guest;
        }
        index -= is_one ? 1 : 0;
        guest = kelpie__sim_world_guest(world, i);
    }
    return NULL;
}

/* The VM that a VMM's arguments name. */
static bool damage_name(const struct sim_process *owner, char out[SIM_DAMAGE_NAME_BYTES]) {
    for (int i = 0; i < owner->argc; i += 1) {
        const char *found = strstr(owner->argv[i], SIM_TRUTH_VMS);
        if (found == NULL) {
            continue;
        }
        found += strlen(SIM_TRUTH_VMS);
        size_t length = strcspn(found, "/,");
        if (length > 0 && length < SIM_DAMAGE_NAME_BYTES) {
            memcpy(out, found, length);
            out[length] = '\0';
            return true;
        }
    }
    return false;
}

bool kelpie__sim_damage_strike(struct sim_world *world, enum sim_swarm_damage damage,
                               char out_vm[SIM_DAMAGE_NAME_BYTES]) {
    uint32_t count = 0;
    if (damage != SIM_SWARM_DAMAGE_GUEST && damage != SIM_SWARM_DAMAGE_VMM) {
        return false;
    }
    while (damage_candidate(world, count) != NULL) { /* bound: the guests */
        count += 1;
    }
    if (count == 0) {
        return false;
    }
    uint64_t drawn = kelpie__sim_decide(world, "damage", "guest", 0, 0);
    struct sim_guest *guest = damage_candidate(world, (uint32_t)(drawn % count));
    struct sim_process *owner = kelpie__sim_guest_owner(guest);
    if (!damage_name(owner, out_vm)) {
        return false;
    }
    if (damage == SIM_SWARM_DAMAGE_GUEST) {
        kelpie__sim_guest_lie(guest, DAMAGE_LIE_BILLIONTH);
    } else {
        kelpie__sim_process_signal(owner, SIGSTOP);
    }
    const struct sim_event event = {.type = SIM_EVENT_NOTE,
                                    .process = owner,
                                    .guest = guest,
                                    .detail = damage == SIM_SWARM_DAMAGE_GUEST
                                                  ? "from now on its guest is hostile"
                                                  : "from now on it stands still"};
    kelpie__sim_world_emit(world, &event);
    return true;
}

void kelpie__sim_damage_probe(struct kelpie *kelpie, struct sim_world *world,
                              enum sim_swarm_damage damage, const char *vm) {
    static const char *const argv[] = {"echo", "probe", NULL};
    const struct kelpie_exec_options command = {
        .struct_size = sizeof(command), .argv = argv, .timeout_ms = DAMAGE_TIMEOUT_MS};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    struct kelpie_vm *handle = NULL;
    int64_t begun_ns = kelpie__sim_now(world);
    KELPIE_ASSERT(vm[0] != '\0');
    int status = kelpie_vm_open(kelpie, vm, &handle, &error);
    if (status == 0) {
        status = kelpie_vm_exec(handle, &command, &result, &error);
        kelpie_exec_result_release(&result);
        kelpie_vm_close(handle);
        if (status == 0 && damage == SIM_SWARM_DAMAGE_VMM) {
            kelpie__sim_world_fail(world, "invariant 13: a command ran in %s, which stands still",
                                   vm);
        }
    }
    int64_t took_ns = kelpie__sim_now(world) - begun_ns;
    if (took_ns > DAMAGE_LIMIT_NS) {
        kelpie__sim_world_fail(world, "invariant 8: a command in the broken %s took %lld ms (%s)",
                               vm, (long long)(took_ns / KELPIE_NS_PER_MS),
                               kelpie_code_name(status));
    }
}
