/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * /proc and /sys of a guest: text that is made when it is read, as far as the agent and ordinary
 * scripts look at it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/guest_state.h"

#define PROC_KERNEL_KIB 40960u /* what the kernel keeps of the memory */
#define PROC_TICKS_PER_S 100u
#define PROC_COMM_BYTES 16u

/* ---- of the machine -------------------------------------------------------------------------- */

static int64_t proc_now_ms(struct sim_machine *machine) {
    return kelpie__sim_guest_now(machine->guest) / KELPIE_NS_PER_MS;
}

static int64_t proc_uptime(struct sim_machine *machine, struct sim_process *reader,
                           const char *path, char *out, size_t capacity) {
    int64_t now_ms = proc_now_ms(machine);
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    return snprintf(out, capacity, "%lld.%02lld %lld.%02lld\n", (long long)(now_ms / 1000),
                    (long long)(now_ms / 10 % 100), (long long)(now_ms / 1000),
                    (long long)(now_ms / 10 % 100));
}

static int64_t proc_loadavg(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    return snprintf(out, capacity, "0.0%u 0.01 0.00 1/%u %d\n", machine->ready_count % 10,
                    machine->process_count, machine->pid_next - 1);
}

static int64_t proc_meminfo(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    uint64_t total = (uint64_t)machine->guest->kernel->memory_mib * 1024;
    uint64_t used = kelpie__sim_disk_used_bytes(machine->disk) / 1024;
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    total -= kelpie__min_u64(total / 2, PROC_KERNEL_KIB);
    for (const struct sim_process *process = machine->processes; process != NULL;
         process = process->next) {
        used += process->memory_bytes / 1024 + 256;
    }
    uint64_t free = total - kelpie__min_u64(total, used);
    return snprintf(out, capacity,
                    "MemTotal:       %8llu kB\nMemFree:        %8llu kB\n"
                    "MemAvailable:   %8llu kB\nBuffers:               0 kB\n",
                    (unsigned long long)total, (unsigned long long)free, (unsigned long long)free);
}

/* In hundredths of a second. */
static uint64_t proc_cpu_ticks(struct sim_machine *machine) {
    uint64_t cpu_us = machine->guest->kernel->cpu_us + (uint64_t)proc_now_ms(machine) / 8 * 10;
    for (const struct sim_process *process = machine->processes; process != NULL;
         process = process->next) {
        cpu_us += process->state == SIM_PROCESS_ZOMBIE ? 0 : process->cpu_ns / 1000;
    }
    return cpu_us * PROC_TICKS_PER_S / 1000000 + 40; /* the boot's share */
}

static int64_t proc_stat(struct sim_machine *machine, struct sim_process *reader, const char *path,
                         char *out, size_t capacity) {
    uint64_t ticks = proc_cpu_ticks(machine);
    uint64_t all = (uint64_t)proc_now_ms(machine) / 10;
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    uint64_t idle = all - kelpie__min_u64(all, ticks);
    return snprintf(
        out, capacity, "cpu  %llu 0 %llu %llu 0 0 0 0 0 0\nprocesses %llu\nprocs_running %u\n",
        (unsigned long long)(ticks - ticks / 3), (unsigned long long)(ticks / 3),
        (unsigned long long)idle, (unsigned long long)machine->guest->kernel->fork_count,
        machine->ready_count + 1);
}

static int64_t proc_boot_id(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    return snprintf(out, capacity, "%s\n", machine->boot_id);
}

static int64_t proc_hostname(struct sim_machine *machine, struct sim_process *reader,
                             const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    return snprintf(out, capacity, "%s\n", machine->hostname);
}

static int64_t proc_command_line(struct sim_machine *machine, struct sim_process *reader,
                                 const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    return snprintf(out, capacity, "%s\n", machine->guest->kernel->command_line);
}

static int64_t proc_version(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || machine == reader->machine);
    KELPIE_ASSERT(path[0] == '/');
    return snprintf(out, capacity, "Linux version 6.1.0-kelpie-sim\n");
}

static int64_t proc_nothing(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(machine->guest != NULL && path[0] == '/');
    KELPIE_ASSERT(reader == NULL || (out != NULL && capacity > 0));
    return 0;
}

static int64_t proc_sysrq(struct sim_machine *machine, struct sim_process *writer, const char *path,
                          const char *bytes, size_t count) {
    KELPIE_ASSERT(path[0] == '/');
    char key = count == 0 ? '\0' : bytes[0];
    if (writer->uid != 0) {
        return -EACCES;
    }
    if (key == 'c') {
        kelpie__sim_guest_panic(machine->guest, "sysrq triggered crash");
    } else if (key == 'b' || key == 'o') {
        kelpie__sim_kernel_print(machine->guest, "sysrq: %s",
                                 key == 'b' ? "Resetting" : "Power Off");
        kelpie__sim_guest_finish(machine->guest,
                                 key == 'b' ? SIM_GUEST_RESET : SIM_GUEST_POWER_OFF);
    } else {
        return (int64_t)count;
    }
    kelpie__sim_process_sleep(writer, INT64_MAX / 4); /* the machine stands */
    return (int64_t)count;
}

/* ---- of a process ---------------------------------------------------------------------------- */

static struct sim_process *proc_find(struct sim_machine *machine, const char *path) {
    const char *at = path + strlen("/proc/");
    char text[12];
    uint64_t pid = 0;
    size_t length = strcspn(at, "/");
    if (length >= sizeof(text)) {
        return NULL;
    }
    memcpy(text, at, length);
    text[length] = '\0';
    bool is_number = kelpie__text_u64(text, &pid) && pid <= INT32_MAX;
    return is_number ? kelpie__sim_process_find(machine, (int32_t)pid) : NULL;
}

static void proc_name(const struct sim_process *process, char out[PROC_COMM_BYTES]) {
    const char *slash = strrchr(process->path, '/');
    const char *name = slash == NULL ? process->path : slash + 1;
    size_t length = strnlen(name, PROC_COMM_BYTES - 1);
    memcpy(out, name, length);
    out[length] = '\0';
}

static char proc_state(const struct sim_process *process) {
    if (process->state == SIM_PROCESS_ZOMBIE) {
        return 'Z';
    }
    if (process->is_stopped) {
        return 'T';
    }
    return process->state == SIM_PROCESS_WAITING ? 'S' : 'R';
}

static int64_t proc_process_stat(struct sim_machine *machine, struct sim_process *reader,
                                 const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, path);
    char name[PROC_COMM_BYTES];
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (process == NULL) {
        return -ESRCH;
    }
    proc_name(process, name);
    int32_t parent = process->parent != NULL ? process->parent->pid : process->pid == 1 ? 0 : 1;
    unsigned long long ticks = process->cpu_ns / 10000000;
    return snprintf(out, capacity, "%d (%s) %c %d %d %d 0 -1 0 0 0 0 0 %llu %llu 0 0 20 0 1 0 0\n",
                    process->pid, name, proc_state(process), parent, process->group,
                    process->session, ticks - ticks / 3, ticks / 3);
}

/* argv or the environment, each string with its zero; nothing of one that has ended. */
static int64_t proc_strings(const struct sim_process *process, char *const *strings, char *out,
                            size_t capacity) {
    size_t count = 0;
    bool is_zombie = process->state == SIM_PROCESS_ZOMBIE || strings == NULL;
    for (size_t i = 0; !is_zombie && strings[i] != NULL; i += 1) { /* bound: the list */
        size_t length = (size_t)kelpie__min_u64(strlen(strings[i]) + 1, capacity - count);
        memcpy(out + count, strings[i], length);
        count += length;
    }
    KELPIE_ASSERT(count <= capacity);
    return (int64_t)count;
}

static int64_t proc_process_arguments(struct sim_machine *machine, struct sim_process *reader,
                                      const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, path);
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (process == NULL) {
        return -ESRCH;
    }
    return proc_strings(process, process->argv, out, capacity);
}

static int64_t proc_process_environment(struct sim_machine *machine, struct sim_process *reader,
                                        const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, path);
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (process == NULL) {
        return -ESRCH;
    }
    return proc_strings(process, process->environment, out, capacity);
}

static int64_t proc_process_name(struct sim_machine *machine, struct sim_process *reader,
                                 const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, path);
    char name[PROC_COMM_BYTES];
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (process == NULL) {
        return -ESRCH;
    }
    proc_name(process, name);
    return snprintf(out, capacity, "%s\n", name);
}

static int64_t proc_process_status(struct sim_machine *machine, struct sim_process *reader,
                                   const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, path);
    char name[PROC_COMM_BYTES];
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    if (process == NULL) {
        return -ESRCH;
    }
    proc_name(process, name);
    return snprintf(out, capacity,
                    "Name:\t%s\nState:\t%c\nPid:\t%d\nPPid:\t%d\nUid:\t%u\nGid:\t%u\n", name,
                    proc_state(process), process->pid,
                    process->parent == NULL ? 0 : process->parent->pid, process->uid, process->gid);
}

/* ---- /sys ------------------------------------------------------------------------------------ */

/* The host tells the port's name in a message of its own, some time after the driver is there. */
static int64_t sys_port_name(struct sim_machine *machine, struct sim_process *reader,
                             const char *path, char *out, size_t capacity) {
    const struct sim_kernel *kernel = machine->guest->kernel;
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    if (kelpie__sim_guest_now(machine->guest) < kernel->port_named_ns) {
        return 0;
    }
    return snprintf(out, capacity, "%s\n", kernel->port_name);
}

static int64_t sys_disk_serial(struct sim_machine *machine, struct sim_process *reader,
                               const char *path, char *out, size_t capacity) {
    const struct sim_kernel *kernel = machine->guest->kernel;
    uint32_t index = (uint32_t)(path[strlen("/sys/block/vd")] - 'a');
    KELPIE_ASSERT(reader == NULL || reader->machine == machine);
    KELPIE_ASSERT(index < kernel->disk_count);
    return snprintf(out, capacity, "%s", kernel->disks[index].serial);
}

/* ---- all of them ----------------------------------------------------------------------------- */

struct proc_file {
    const char *path;
    sim_synthetic read;
};

static const struct proc_file proc_files[] = {
    {"/proc/uptime", proc_uptime},
    {"/proc/loadavg", proc_loadavg},
    {"/proc/meminfo", proc_meminfo},
    {"/proc/stat", proc_stat},
    {"/proc/cmdline", proc_command_line},
    {"/proc/version", proc_version},
    {"/proc/sys/kernel/random/boot_id", proc_boot_id},
    {"/proc/sys/kernel/hostname", proc_hostname},
    {"/proc/*/stat", proc_process_stat},
    {"/proc/*/cmdline", proc_process_arguments},
    {"/proc/*/environ", proc_process_environment},
    {"/proc/*/comm", proc_process_name},
    {"/proc/*/status", proc_process_status},
};

int kelpie__sim_guest_lay_out_proc(struct sim_disk *disk) {
    int status = 0;
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(proc_files); i += 1) {
        status = kelpie__sim_disk_put_synthetic(disk, proc_files[i].path, proc_files[i].read);
    }
    return status == 0 ? kelpie__sim_disk_put_synthetic_write(disk, "/proc/sysrq-trigger",
                                                              proc_nothing, proc_sysrq)
                       : status;
}

int kelpie__sim_guest_lay_out_sys(struct sim_guest *guest) {
    struct sim_disk *disk = guest->machine->disk;
    char path[128];
    int length = snprintf(path, sizeof(path), "%s/vport%up1/name", SIM_KERNEL_PORTS,
                          guest->kernel->disk_count);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
    int status = kelpie__sim_disk_put_synthetic(disk, path, sys_port_name);
    if (status == 0) {
        status = kelpie__sim_disk_put_directory(disk, "/sys/block", 0755);
    }
    for (uint32_t i = 0; status == 0 && i < guest->kernel->disk_count; i += 1) {
        length = snprintf(path, sizeof(path), "/sys/block/vd%c/serial", (char)('a' + i));
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
        status = kelpie__sim_disk_put_synthetic(disk, path, sys_disk_serial);
    }
    return status;
}
