/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * cgroup v2 of a guest: two levels below /sys/fs/cgroup, with the files that the agent and people
 * look at. A group is a record beside its directory; processes point to it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/guest_state.h"

struct sim_cgroup *kelpie__sim_cgroup_find(struct sim_kernel *kernel, const char *path) {
    struct sim_cgroup *found = kernel->cgroups;
    KELPIE_ASSERT(path[0] == '/');
    while (found != NULL && (found->is_removed || strcmp(found->path, path) != 0)) {
        found = found->next;
    }
    return found;
}

/* A directory is made or removed. */
static int group_hook(struct sim_machine *machine, const char *path, bool is_made) {
    struct sim_kernel *kernel = machine->guest->kernel;
    struct sim_cgroup *cgroup = kelpie__sim_cgroup_find(kernel, path);
    if (!is_made) {
        if (cgroup == NULL) {
            return -EPERM;
        }
        if (cgroup->process_count > 0) {
            return -EBUSY;
        }
        cgroup->is_removed = true;
        cgroup->process_count = 1; /* this one: leave frees it */
        kelpie__sim_cgroup_leave(machine, cgroup);
        return 0;
    }
    if (strlen(path) >= sizeof(cgroup->path)) {
        return -ENAMETOOLONG;
    }
    KELPIE_ASSERT(cgroup == NULL);
    cgroup = kelpie__sim_heap_alloc(machine->heap, sizeof(*cgroup));
    if (cgroup == NULL) {
        return -ENOMEM;
    }
    memcpy(cgroup->path, path, strlen(path) + 1);
    cgroup->next = kernel->cgroups;
    kernel->cgroups = cgroup;
    return 0;
}

void kelpie__sim_cgroup_leave(struct sim_machine *machine, struct sim_cgroup *cgroup) {
    KELPIE_ASSERT(cgroup->process_count > 0);
    cgroup->process_count -= 1;
    if (cgroup->process_count > 0 || !cgroup->is_removed) {
        return;
    }
    struct sim_cgroup **place = &machine->guest->kernel->cgroups;
    while (*place != cgroup) {
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = cgroup->next;
    kelpie__sim_heap_free(machine->heap, cgroup, sizeof(*cgroup));
}

/* The group of a file in it; NULL: the root, or none. */
static struct sim_cgroup *group_of_file(struct sim_machine *machine, const char *path) {
    char directory[SIM_PATH_BYTES_MAX];
    const char *slash = strrchr(path, '/');
    KELPIE_ASSERT(slash != NULL);
    size_t length = (size_t)(slash - path);
    if (length == 0 || length >= sizeof(directory)) {
        return NULL;
    }
    memcpy(directory, path, length);
    directory[length] = '\0';
    return kelpie__sim_cgroup_find(machine->guest->kernel, directory);
}

static struct sim_cgroup *group_of_process(const struct sim_process *process) {
    const struct sim_guest_process *extra = process->extra;
    return extra == NULL ? NULL : extra->cgroup;
}

static bool group_is_alive(const struct sim_process *process) {
    return process->state != SIM_PROCESS_ZOMBIE && process->state != SIM_PROCESS_GONE;
}

static bool group_is_root(const char *path) {
    return strncmp(path, SIM_KERNEL_CGROUPS "/cgroup.", strlen(SIM_KERNEL_CGROUPS "/cgroup.")) == 0;
}

static int64_t group_read_members(struct sim_machine *machine, struct sim_process *reader,
                                  const char *path, char *out, size_t capacity) {
    const struct sim_cgroup *cgroup = group_of_file(machine, path);
    size_t count = 0;
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (cgroup == NULL && !group_is_root(path)) {
        return -ENODEV;
    }
    for (const struct sim_process *process = machine->processes; process != NULL;
         process = process->next) {
        if (group_is_alive(process) && group_of_process(process) == cgroup &&
            capacity - count > 12) {
            count += (size_t)snprintf(out + count, capacity - count, "%d\n", process->pid);
        }
    }
    return (int64_t)count;
}

static int64_t group_write_members(struct sim_machine *machine, struct sim_process *writer,
                                   const char *path, const char *bytes, size_t count) {
    struct sim_cgroup *cgroup = group_of_file(machine, path);
    char text[16];
    uint64_t pid = 0;
    if (cgroup == NULL && !group_is_root(path)) {
        return -ENODEV;
    }
    size_t length = count < sizeof(text) ? count : sizeof(text) - 1;
    memcpy(text, bytes, length);
    text[length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (!kelpie__text_u64(text, &pid) || pid > INT32_MAX) {
        return -EINVAL;
    }
    struct sim_process *process =
        pid == 0 ? writer : kelpie__sim_process_find(machine, (int32_t)pid);
    if (process == NULL || !group_is_alive(process) || process->extra == NULL) {
        return -ESRCH;
    }
    struct sim_guest_process *extra = kelpie__sim_guest_process(process);
    if (cgroup != NULL) {
        cgroup->process_count += 1;
    }
    if (extra->cgroup != NULL) {
        kelpie__sim_cgroup_leave(machine, extra->cgroup);
    }
    extra->cgroup = cgroup;
    return (int64_t)count;
}

static int64_t group_write_kill(struct sim_machine *machine, struct sim_process *writer,
                                const char *path, const char *bytes, size_t count) {
    struct sim_cgroup *cgroup = group_of_file(machine, path);
    KELPIE_ASSERT(writer->machine == machine);
    if (cgroup == NULL) {
        return -ENODEV;
    }
    if (count == 0 || bytes[0] != '1') {
        return -EINVAL;
    }
    cgroup->was_killed = true;
    cgroup->process_count += 1; /* it must not go with its last member */
    struct sim_process *next = NULL;
    for (struct sim_process *process = machine->processes; process != NULL; process = next) {
        next = process->next;
        if (group_is_alive(process) && group_of_process(process) == cgroup && process != writer) {
            kelpie__sim_process_signal(process, SIGKILL);
        }
    }
    kelpie__sim_cgroup_leave(machine, cgroup);
    if (group_of_process(writer) == cgroup) {
        kelpie__sim_process_signal(writer, SIGKILL);
    }
    return (int64_t)count;
}

static int64_t group_read_events(struct sim_machine *machine, struct sim_process *reader,
                                 const char *path, char *out, size_t capacity) {
    const struct sim_cgroup *cgroup = group_of_file(machine, path);
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (cgroup == NULL) {
        return -ENODEV;
    }
    return snprintf(out, capacity, "populated %d\nfrozen 0\n", cgroup->process_count > 0);
}

static int64_t group_read_cpu(struct sim_machine *machine, struct sim_process *reader,
                              const char *path, char *out, size_t capacity) {
    const struct sim_cgroup *cgroup = group_of_file(machine, path);
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (cgroup == NULL) {
        return -ENODEV;
    }
    uint64_t cpu_us = cgroup->cpu_us;
    for (const struct sim_process *process = machine->processes; process != NULL;
         process = process->next) {
        bool is_member = group_is_alive(process) && group_of_process(process) == cgroup;
        cpu_us += is_member ? process->cpu_ns / 1000 : 0;
    }
    return snprintf(out, capacity, "usage_usec %llu\nuser_usec %llu\nsystem_usec %llu\n",
                    (unsigned long long)cpu_us, (unsigned long long)(cpu_us - cpu_us / 3),
                    (unsigned long long)(cpu_us / 3));
}

static int64_t group_read_peak(struct sim_machine *machine, struct sim_process *reader,
                               const char *path, char *out, size_t capacity) {
    const struct sim_cgroup *cgroup = group_of_file(machine, path);
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (cgroup == NULL) {
        return -ENODEV;
    }
    return snprintf(out, capacity, "%llu\n", (unsigned long long)(cgroup->peak_kib * 1024));
}

static int64_t group_read_nothing(struct sim_machine *machine, struct sim_process *reader,
                                  const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(machine->guest != NULL && path[0] == '/');
    KELPIE_ASSERT(reader == NULL || (out != NULL && capacity > 0));
    return 0; /* cgroup.kill has nothing to read */
}

struct group_file {
    const char *name;
    sim_synthetic read;
    sim_synthetic_write write; /* NULL: none */
};

static const struct group_file group_files[] = {
    {"cgroup.procs", group_read_members, group_write_members},
    {"cgroup.kill", group_read_nothing, group_write_kill},
    {"cgroup.events", group_read_events, NULL},
    {"cpu.stat", group_read_cpu, NULL},
    {"memory.peak", group_read_peak, NULL},
};

static const char *const group_places[] = {
    SIM_KERNEL_CGROUPS "/*",
    SIM_KERNEL_CGROUPS "/kelpie/*",
};

int kelpie__sim_guest_lay_out_groups(struct sim_disk *disk) {
    int status = kelpie__sim_disk_put_directory(disk, SIM_KERNEL_CGROUPS, 0755);
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(group_places); i += 1) {
        for (size_t j = 0; status == 0 && j < KELPIE_ARRAY_COUNT(group_files); j += 1) {
            const struct group_file *file = &group_files[j];
            char pattern[128];
            bool fits = kelpie__text_join(pattern, sizeof(pattern), group_places[i], file->name);
            KELPIE_ASSERT(fits);
            status =
                file->write == NULL
                    ? kelpie__sim_disk_put_synthetic(disk, pattern, file->read)
                    : kelpie__sim_disk_put_synthetic_write(disk, pattern, file->read, file->write);
        }
    }
    if (status == 0) {
        status = kelpie__sim_disk_put_synthetic_write(disk, SIM_KERNEL_CGROUPS "/cgroup.procs",
                                                      group_read_members, group_write_members);
    }
    return status == 0 ? kelpie__sim_disk_put_hook(disk, SIM_KERNEL_CGROUPS, group_hook) : status;
}
