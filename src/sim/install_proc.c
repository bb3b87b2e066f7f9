/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See install_proc.h.
 */
#include "sim/install_proc.h"

#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "sim/disk.h"
#include "sim/machine.h"

#define PROC_TICK_NS (10 * KELPIE_NS_PER_MS) /* of the times in stat */
#define PROC_PAGE_BYTES 4096u
#define PROC_FLAG_EXITING 4u
#define PROC_PID_DIGITS 10u
#define PROC_QEMU_PAGES 29440u /* 115 MiB: what a guest of 256 MiB makes resident */

static int64_t proc_copy(const char *text, char *out, size_t capacity) {
    size_t length = strlen(text);
    if (length >= capacity) {
        return -EIO;
    }
    memcpy(out, text, length);
    return (int64_t)length;
}

/* "/proc/123/stat" and "/proc/self/stat". NULL: there is no such process. */
static struct sim_process *proc_find(struct sim_machine *machine, struct sim_process *reader,
                                     const char *path) {
    static const char prefix[] = "/proc/";
    char digits[PROC_PID_DIGITS + 1];
    uint64_t pid = 0;
    KELPIE_ASSERT(kelpie__text_has_prefix(path, prefix));
    const char *name = path + sizeof(prefix) - 1;
    if (kelpie__text_has_prefix(name, "self/")) {
        return reader;
    }
    size_t length = strcspn(name, "/");
    if (length > PROC_PID_DIGITS) {
        return NULL;
    }
    memcpy(digits, name, length);
    digits[length] = '\0';
    return kelpie__text_u64(digits, &pid) && pid <= INT32_MAX
               ? kelpie__sim_process_find(machine, (int32_t)pid)
               : NULL;
}

/* proc_pid_stat(5), up to rss. */
static int64_t proc_stat(struct sim_machine *machine, struct sim_process *reader, const char *path,
                         char *out, size_t capacity) {
    static const char states[] = {[SIM_PROCESS_READY] = 'R',
                                  [SIM_PROCESS_RUNNING] = 'R',
                                  [SIM_PROCESS_WAITING] = 'S',
                                  [SIM_PROCESS_ZOMBIE] = 'Z',
                                  [SIM_PROCESS_GONE] = 'X'};
    const struct sim_process *process = proc_find(machine, reader, path);
    if (process == NULL) {
        return -ENOENT;
    }
    const char *name = strrchr(process->path, '/');
    bool is_zombie = process->state == SIM_PROCESS_ZOMBIE;
    unsigned long long ticks = (unsigned long long)(process->cpu_ns / (uint64_t)PROC_TICK_NS);
    bool is_whole = kelpie__text_format(
        out, capacity,
        "%d (%.15s) %c %d %d %d 0 -1 %u 0 0 0 0 %llu 0 0 0 20 0 1 0 %llu %llu %llu\n", process->pid,
        name == NULL ? process->path : name + 1,
        process->is_stopped && !is_zombie ? 'T' : states[process->state],
        process->parent == NULL ? 1 : process->parent->pid, process->group, process->session,
        is_zombie ? PROC_FLAG_EXITING : 0u, ticks, (unsigned long long)process->birth,
        (unsigned long long)process->memory_bytes,
        (unsigned long long)(process->memory_bytes / PROC_PAGE_BYTES));
    return is_whole ? (int64_t)strlen(out) : -EIO;
}

static int64_t proc_statm(struct sim_machine *machine, struct sim_process *reader, const char *path,
                          char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, reader, path);
    if (process == NULL) {
        return -ENOENT;
    }
    unsigned long long pages = (unsigned long long)(process->memory_bytes / PROC_PAGE_BYTES + 1);
    bool is_vmm = strcmp(process->role, "qemu") == 0 || strcmp(process->role, "krun") == 0;
    pages += is_vmm ? PROC_QEMU_PAGES : 0;
    bool is_whole =
        kelpie__text_format(out, capacity, "%llu %llu 0 1 0 %llu 0\n", pages * 2, pages, pages);
    return is_whole ? (int64_t)strlen(out) : -EIO;
}

static int64_t proc_cmdline(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    const struct sim_process *process = proc_find(machine, reader, path);
    size_t count = 0;
    if (process == NULL) {
        return -ENOENT;
    }
    for (int i = 0; i < process->argc; i += 1) {
        size_t length = strlen(process->argv[i]) + 1;
        if (length > capacity - count) {
            break;
        }
        memcpy(out + count, process->argv[i], length);
        count += length;
    }
    KELPIE_ASSERT(count <= capacity);
    return (int64_t)count;
}

static int64_t proc_boot_id(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    bool is_whole = kelpie__text_format(out, capacity, "%s\n", machine->boot_id);
    return is_whole ? (int64_t)strlen(out) : -EIO;
}

static int64_t proc_cpuinfo(struct sim_machine *machine, struct sim_process *reader,
                            const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(reader == NULL || path[0] == '/');
    bool is_whole = kelpie__text_format(
        out, capacity,
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
        "model name\t: Simulated Processor\ncpu MHz\t\t: %llu.%03llu\n"
        "flags\t\t: fpu tsc msr pae cx8 apic nx rdtscp lm constant_tsc nonstop_tsc\n\n",
        (unsigned long long)(machine->tsc_khz / 1000),
        (unsigned long long)(machine->tsc_khz % 1000));
    return is_whole ? (int64_t)strlen(out) : -EIO;
}

static int64_t proc_text(struct sim_machine *machine, struct sim_process *reader, const char *path,
                         char *out, size_t capacity) {
    static const struct {
        const char *path;
        const char *text;
    } texts[] = {
        {"/proc/meminfo", "MemTotal:       67108864 kB\nMemFree:        66060288 kB\n"
                          "MemAvailable:   66584576 kB\nSwapTotal:             0 kB\n"},
        {"/proc/sys/kernel/osrelease", SIM_KERNEL_RELEASE "\n"},
        {"/proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.0-56\n"},
        {"/proc/filesystems", "nodev\tproc\nnodev\ttmpfs\n\text4\n"},
    };
    KELPIE_ASSERT(machine->guest == NULL && (reader == NULL || capacity > 0));
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(texts); i += 1) {
        if (strcmp(texts[i].path, path) == 0) {
            return proc_copy(texts[i].text, out, capacity);
        }
    }
    return -ENOENT;
}

int kelpie__sim_install_proc(struct sim_disk *disk, bool has_threads) {
    static const struct {
        const char *pattern;
        sim_synthetic content;
    } files[] = {
        {"/proc/*/stat", proc_stat},
        {"/proc/*/statm", proc_statm},
        {"/proc/*/cmdline", proc_cmdline},
        {"/proc/cpuinfo", proc_cpuinfo},
        {"/proc/filesystems", proc_text},
        {"/proc/meminfo", proc_text},
        {"/proc/sys/kernel/osrelease", proc_text},
        {"/proc/sys/kernel/random/boot_id", proc_boot_id},
        {"/proc/sys/kernel/version", proc_text},
    };
    int status = 0;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(files) && status == 0; i += 1) {
        status = kelpie__sim_disk_put_synthetic(disk, files[i].pattern, files[i].content);
    }
    if (status == 0 && has_threads) { /* of each process there is one, whatever its name */
        status = kelpie__sim_disk_put_synthetic(disk, "/proc/*/task/1/stat", proc_stat);
    }
    KELPIE_ASSERT(status <= 0);
    return status;
}
