/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See damage.h.
 */
#include "sim/damage.h"

#include <signal.h>
#include <string.h>

#include "core/limits.h"
#include "core/state.h"
#include "kelpie.h"
#include "lib/internal.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "sim/truth.h"

#define DAMAGE_LIE_BILLIONTH 200000000u /* of a guest's writes: one in five */
#define DAMAGE_TIMEOUT_MS 2000u
/* The command's time, the monitor's patience, and what a loaded machine needs for the rest. */
#define DAMAGE_LIMIT_NS (60 * KELPIE_NS_PER_S)
#define DAMAGE_COMMANDS_MAX 20u /* in a guest that lies */
#define DAMAGE_LOOKS_MAX 30u    /* for its end, a second each */
#define DAMAGE_LOST_VM "vm-lost"
#define DAMAGE_LOST_BYTES "4194304"
#define DAMAGE_LOST_NS (3600 * KELPIE_NS_PER_S)

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

/* ---- a client that is lost ------------------------------------------------------------------- */

static void lost_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                        const void *bytes, size_t count) {
    KELPIE_ASSERT(context != NULL && exec != NULL && bytes != NULL);
    kelpie__ignore(stream == KELPIE_STDOUT && count > 0);
}

static void lost_ended(void *context, struct kelpie_exec *exec,
                       const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    KELPIE_ASSERT(context != NULL && exec != NULL);
    kelpie__ignore(status == NULL && error != NULL);
}

static void lost_event(void *context, const struct kelpie_event *event) {
    KELPIE_ASSERT(context != NULL && event != NULL);
}

/* A VM of its own, a command that writes more than all buffers hold, and events that nobody reads.
 */
static int lost_begin(struct kelpie *kelpie, struct kelpie_error *error) {
    static const char *const argv[] = {"source", DAMAGE_LOST_BYTES, NULL};
    static const struct kelpie_exec_callbacks callbacks = {
        .struct_size = sizeof(callbacks), .output = lost_output, .ended = lost_ended};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_exec *exec = NULL;
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_template(config, false);
        status = kelpie_vm_create(kelpie, DAMAGE_LOST_VM, config, &vm, error);
    }
    if (status == 0) {
        status = kelpie_vm_start(vm, 0, error);
    }
    if (status == 0) {
        status = kelpie_vm_subscribe(vm, lost_event, vm, error);
    }
    return status < 0 ? status : kelpie_vm_exec_start(vm, &command, &callbacks, vm, &exec, error);
}

static int lost_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct kelpie_error error = {0};
    struct kelpie *kelpie = NULL;
    KELPIE_ASSERT(argc == 1 && argv[0] != NULL);
    int status = kelpie__open_with_os(os, NULL, &kelpie, &error);
    if (status == 0) {
        status = lost_begin(kelpie, &error);
    }
    if (status < 0) { /* the surroundings are sound, but there may be no room for a VM */
        return 1;
    }
    kelpie__sim_process_signal(process, SIGSTOP);
    kelpie__sim_process_sleep(process, DAMAGE_LOST_NS);
    return 0;
}

static const struct sim_process *lost_find(struct sim_world *world) {
    const struct sim_machine *host = kelpie__sim_world_host(world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (strcmp(process->role, SIM_DAMAGE_LOST_ROLE) == 0) {
            return process;
        }
    }
    return NULL;
}

static bool lost_stands(void *context) {
    const struct sim_process *process = lost_find(context);
    return process == NULL || process->is_stopped || !kelpie__sim_truth_is_alive(process);
}

static void damage_lose_client(struct sim_world *world) {
    static const char *const argv[] = {"lost", NULL};
    static const char *const environment[] = {"HOME=/root", "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY,
                                              NULL};
    const struct sim_start start = {.path = "/usr/bin/lost",
                                    .role = SIM_DAMAGE_LOST_ROLE,
                                    .main = lost_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    if (kelpie__sim_process_start(kelpie__sim_world_host(world), &start) != NULL) {
        /* how it ended is seen by who comes next */
        kelpie__ignore(kelpie__sim_world_run(world, lost_stands, world,
                                             kelpie__sim_now(world) + DAMAGE_LOST_NS));
    }
}

/* ---- striking -------------------------------------------------------------------------------- */

bool kelpie__sim_damage_strike(struct sim_world *world, enum sim_swarm_damage damage,
                               char out_vm[SIM_DAMAGE_NAME_BYTES]) {
    uint32_t count = 0;
    if (damage == SIM_SWARM_DAMAGE_CLIENT) {
        damage_lose_client(world);
    }
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

/* ---- what is asked of it --------------------------------------------------------------------- */

struct probe {
    struct kelpie_vm *vm;
    struct sim_process *process; /* whose calls these are */
    struct sim_world *world;
    const char *name;
};

static void probe_check_time(const struct probe *probe, const char *what, int64_t begun_ns,
                             int status) {
    int64_t took_ns = kelpie__sim_now(probe->world) - begun_ns;
    if (took_ns > DAMAGE_LIMIT_NS) {
        kelpie__sim_world_fail(probe->world, "invariant 8: %s of the broken %s took %lld ms (%s)",
                               what, probe->name, (long long)(took_ns / KELPIE_NS_PER_MS),
                               kelpie_code_name(status));
    }
}

static int probe_command(const struct probe *probe, struct kelpie_error *error) {
    static const char *const argv[] = {"echo", "probe", NULL};
    const struct kelpie_exec_options command = {
        .struct_size = sizeof(command), .argv = argv, .timeout_ms = DAMAGE_TIMEOUT_MS};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int64_t begun_ns = kelpie__sim_now(probe->world);
    int status = kelpie_vm_exec(probe->vm, &command, &result, error);
    kelpie_exec_result_release(&result);
    probe_check_time(probe, "a command", begun_ns, status);
    return status;
}

/* Whatever a guest does, stop ends with a VM that is stopped. */
static void probe_stop(const struct probe *probe) {
    struct kelpie_error error = {0};
    int64_t begun_ns = kelpie__sim_now(probe->world);
    int status = kelpie_vm_stop(probe->vm, DAMAGE_TIMEOUT_MS, NULL, &error);
    probe_check_time(probe, "the stop", begun_ns, status);
    if (status == KELPIE_E_TIMEOUT) {
        kelpie__sim_world_fail(probe->world, "invariant 8: the stop of %s does not end: %.200s",
                               probe->name, error.message);
    }
}

/* One whose lie was noticed ends, with the rule that it has broken as the reason. */
static void probe_end(const struct probe *probe) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    bool is_live = true;
    for (uint32_t i = 0; i < DAMAGE_LOOKS_MAX && is_live; i += 1) {
        int status = kelpie_vm_inspect(probe->vm, &info, NULL);
        is_live = status == 0 && kelpie__state_is_live(info.state);
        if (is_live) {
            kelpie__sim_process_sleep(probe->process, KELPIE_NS_PER_S);
        }
    }
    if (is_live) {
        kelpie__sim_world_fail(probe->world, "invariant 26: the guest of %s lied, and goes on",
                               probe->name);
    }
}

/* Until it is found out; it may be lucky. */
static void probe_liar(const struct probe *probe) {
    struct kelpie_error error = {0};
    int status = 0;
    for (uint32_t i = 0; i < DAMAGE_COMMANDS_MAX && status == 0; i += 1) {
        status = probe_command(probe, &error);
    }
    if (status == KELPIE_E_PROTOCOL || status == KELPIE_E_CRASHED || status == KELPIE_E_BUSY) {
        probe_end(probe);
    }
}

void kelpie__sim_damage_probe(struct kelpie *kelpie, struct sim_process *process,
                              enum sim_swarm_damage damage, const char *vm) {
    struct probe probe = {.process = process, .world = process->machine->world, .name = vm};
    KELPIE_ASSERT(vm[0] != '\0');
    if (kelpie_vm_open(kelpie, vm, &probe.vm, NULL) < 0) {
        return;
    }
    if (damage == SIM_SWARM_DAMAGE_GUEST) {
        probe_liar(&probe);
    } else if (kelpie__sim_decide(probe.world, "damage", "stop", 0, 0) % 2 == 0) {
        probe_stop(&probe);
    } else if (probe_command(&probe, NULL) == 0) {
        kelpie__sim_world_fail(probe.world, "invariant 13: a command ran in %s, which stands still",
                               vm);
    }
    kelpie_vm_close(probe.vm);
}
