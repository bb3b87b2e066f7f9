/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the processes of a guest have beyond those of the host: cgroups, resource limits, usage that
 * is counted. Called by process.c at birth and at the end.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "sim/fault.h"
#include "sim/guest_state.h"

#define PROCESS_BASE_KIB 712u /* of a small static program */

struct sim_guest_process *kelpie__sim_guest_process(struct sim_process *process) {
    KELPIE_ASSERT(process->machine->guest != NULL);
    return process->extra;
}

int kelpie__sim_guest_adopt_init(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(process->pid == 1 && process->extra == NULL);
    process->extra = kelpie__sim_heap_alloc(machine->heap, sizeof(struct sim_guest_process));
    if (process->extra == NULL) {
        return -ENOMEM;
    }
    for (int i = 0; i < 3; i += 1) {
        kelpie__ignore(kelpie__sim_handle_close(process, i)); /* it may not be open */
    }
    for (int i = 0; i < 3; i += 1) {
        struct sim_object *console = NULL;
        int handle = kelpie__sim_console_open(machine, process, "/dev/console", &console);
        if (handle == 0) {
            handle = kelpie__sim_handle_install(process, console);
            kelpie__sim_object_unref(console);
        }
        if (handle < 0) {
            return handle;
        }
        KELPIE_ASSERT(handle == i);
    }
    return 0;
}

/* Those of the parent, but for what the child is given. */
static void process_take_limits(struct sim_guest_process *extra,
                                const struct kelpie_os_spawn *spawn) {
    for (uint32_t i = 0; i < spawn->limit_count; i += 1) {
        uint32_t at = 0;
        while (at < extra->limit_count && extra->limits[at].resource != spawn->limits[i].resource) {
            at += 1;
        }
        if (at < KELPIE_ARRAY_COUNT(extra->limits)) {
            extra->limits[at] = spawn->limits[i];
            extra->limit_count = at == extra->limit_count ? at + 1 : extra->limit_count;
        }
    }
    KELPIE_ASSERT(extra->limit_count <= KELPIE_ARRAY_COUNT(extra->limits));
}

static int process_find_cgroup(struct sim_process *parent, int directory, struct sim_cgroup **out) {
    char path[SIM_PATH_BYTES_MAX];
    int status = kelpie__sim_disk_path_of(parent, directory, path, sizeof(path));
    if (status < 0) {
        return status;
    }
    *out = kelpie__sim_cgroup_find(parent->machine->guest->kernel, path);
    bool is_root = strcmp(path, SIM_KERNEL_CGROUPS) == 0;
    return *out == NULL && !is_root ? -EBADF : 0;
}

/* The fault point of a command that the agent starts. 0: the spawn goes on. */
static int process_fault(struct sim_process *parent, struct sim_process *child,
                         const char **out_step) {
    struct sim_guest *guest = parent->machine->guest;
    uint64_t argument = 0;
    const char *fault = kelpie__sim_faults_point(kelpie__sim_world_faults(guest->world), parent,
                                                 "guest.exec", &argument);
    if (fault == NULL) {
        return 0;
    }
    if (strcmp(fault, "fail") == 0) {
        *out_step = "clone";
        return -EAGAIN;
    }
    if (strcmp(fault, "hang") == 0) {
        child->is_stopped = true; /* it is there, and never does anything */
    } else if (strcmp(fault, "panic") == 0) {
        kelpie__sim_guest_panic(guest, "Fatal exception in interrupt");
    } else if (strcmp(fault, "reset") == 0) {
        kelpie__sim_guest_finish(guest, SIM_GUEST_RESET);
    } else {
        KELPIE_ASSERT(strcmp(fault, "deaf") == 0);
        kelpie__sim_guest_deafen(guest);
    }
    if (guest->end != SIM_GUEST_LIVES || guest->kernel->is_hung) {
        kelpie__sim_process_sleep(parent, INT64_MAX / 4); /* not one call more */
    }
    return 0;
}

void kelpie__sim_guest_ready_fault(struct sim_process *parent, struct sim_process *child) {
    struct sim_guest *guest = parent->machine->guest;
    uint64_t argument = 0;
    const char *fault = kelpie__sim_faults_point(kelpie__sim_world_faults(guest->world), parent,
                                                 "guest.ready", &argument);
    if (fault != NULL) {
        bool dies = strcmp(fault, "die") == 0;
        KELPIE_ASSERT(dies || strcmp(fault, "hang") == 0);
        kelpie__sim_process_signal(child, dies ? SIGKILL : SIGSTOP);
    }
}

/* Its parent's, when the spawn names none. */
static int process_choose_cgroup(struct sim_process *parent, const struct kelpie_os_spawn *spawn,
                                 struct sim_cgroup **out, const char **out_step) {
    const struct sim_guest_process *above = parent->extra;
    *out = above == NULL ? NULL : above->cgroup;
    if (spawn->cgroup == KELPIE_OS_NO_HANDLE) {
        return 0;
    }
    *out_step = "cgroup";
    return process_find_cgroup(parent, spawn->cgroup, out);
}

/* What it has from its parent, and its place in the cgroup. */
static int process_join(const struct sim_process *parent, struct sim_process *child,
                        struct sim_cgroup *cgroup, const char **out_step) {
    struct sim_machine *machine = parent->machine;
    const struct sim_guest_process *above = parent->extra;
    KELPIE_ASSERT(child->machine == machine && child->extra == NULL);
    struct sim_guest_process *extra = kelpie__sim_heap_alloc(machine->heap, sizeof(*extra));
    if (extra == NULL) {
        *out_step = "clone";
        return -ENOMEM;
    }
    extra->peak_kib = PROCESS_BASE_KIB;
    if (above != NULL) {
        memcpy(extra->limits, above->limits, sizeof(extra->limits));
        extra->limit_count = above->limit_count;
    }
    extra->cgroup = cgroup;
    if (cgroup != NULL) {
        cgroup->process_count += 1;
    }
    child->extra = extra;
    machine->guest->kernel->fork_count += 1;
    return 0;
}

int kelpie__sim_guest_spawned(struct sim_process *parent, struct sim_process *child,
                              const struct kelpie_os_spawn *spawn, const char **out_step) {
    struct sim_cgroup *cgroup = NULL;
    int status = process_choose_cgroup(parent, spawn, &cgroup, out_step);
    if (status == 0 && parent->pid == 1) {
        status = process_fault(parent, child, out_step);
    }
    status = status < 0 ? status : process_join(parent, child, cgroup, out_step);
    if (status < 0) {
        return status;
    }
    process_take_limits(child->extra, spawn);
    parent->machine->guest->kernel->command_starts += parent->pid == 1 ? 1 : 0;
    if (spawn->cgroup != KELPIE_OS_NO_HANDLE && cgroup != NULL && cgroup->was_killed) {
        kelpie__sim_process_signal(child, SIGKILL);
    }
    return 0;
}

int kelpie__sim_guest_made_ready(struct sim_process *parent, struct sim_process *child,
                                 const struct kelpie_os_spawn *spawn) {
    struct sim_cgroup *cgroup = NULL;
    const char *step = NULL; /* nobody asks */
    KELPIE_ASSERT(parent->pid == 1);
    int status = process_choose_cgroup(parent, spawn, &cgroup, &step);
    return status < 0 ? status : process_join(parent, child, cgroup, &step);
}

int kelpie__sim_guest_ordered(struct sim_process *parent, struct sim_process *child,
                              const struct kelpie_os_spawn *spawn, const char **out_step) {
    KELPIE_ASSERT(parent->pid == 1 && child->extra != NULL);
    int status = process_fault(parent, child, out_step);
    if (status == 0) {
        process_take_limits(child->extra, spawn);
        parent->machine->guest->kernel->command_starts += 1;
    }
    return status;
}

uint64_t kelpie__sim_guest_cpu_us(const struct sim_process *process) {
    const struct sim_guest_process *extra = process->extra;
    uint64_t own_us = process->cpu_ns / 1000;
    KELPIE_ASSERT(process->machine->guest != NULL);
    return extra == NULL ? own_us : own_us + extra->children_cpu_us;
}

void kelpie__sim_guest_ended(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    struct sim_guest_process *extra = process->extra;
    struct sim_kernel *kernel = machine->guest->kernel;
    if (extra == NULL) {
        return; /* it never lived */
    }
    uint64_t own_us = process->cpu_ns / 1000;
    uint64_t cpu_us = kelpie__sim_guest_cpu_us(process);
    process->exit.cpu_user_us = cpu_us - cpu_us / 3;
    process->exit.cpu_system_us = cpu_us / 3;
    extra->peak_kib =
        kelpie__max_u64(extra->peak_kib, PROCESS_BASE_KIB + process->memory_bytes_peak / 1024);
    process->exit.peak_memory_kib = extra->peak_kib;
    kernel->cpu_us += own_us;
    struct sim_process *parent = process->parent;
    struct sim_guest_process *above = parent == NULL ? NULL : parent->extra;
    if (above != NULL && parent->pid != 1) {
        above->children_cpu_us += cpu_us;
        above->peak_kib = kelpie__max_u64(above->peak_kib, extra->peak_kib);
    }
    if (extra->cgroup != NULL) {
        extra->cgroup->cpu_us += own_us;
        extra->cgroup->peak_kib = kelpie__max_u64(extra->cgroup->peak_kib, extra->peak_kib);
        kelpie__sim_cgroup_leave(machine, extra->cgroup);
    }
    kelpie__sim_heap_free(machine->heap, extra, sizeof(*extra));
    process->extra = NULL;
    if (process->pid == 1) {
        char why[64];
        int code = process->exit.is_signalled ? process->exit.value : process->exit.value << 8;
        int length = snprintf(why, sizeof(why), "Attempted to kill init! exitcode=0x%08x", code);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(why));
        kelpie__sim_guest_panic(machine->guest, why);
    }
}
