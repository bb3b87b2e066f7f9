/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What only processes of a guest can ask of their kernel: `os.guest` (os.h). Mounts change what is
 * seen only where that matters: everything of a guest lies in one tree from the beginning.
 */
#include <errno.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "sim/core.h"
#include "sim/guest_state.h"
#include "sim/stream.h"

#define GUEST_MODULE_NS (6 * KELPIE_NS_PER_MS) /* an emulated processor links it */
#define GUEST_KERNEL_MOUNT_COUNT 5
#define GUEST_ENTROPY_BYTES_MAX 512u

/* The beginning and the end of a call, as every table's operations have them. */
static bool guest_enter(struct sim_call *call, struct kelpie_os *os, enum sim_op op, int handle,
                        const char *path) {
    return kelpie__sim_enter(call, os, op, handle, path);
}

static int guest_leave(struct sim_call *call, int status) {
    return (int)kelpie__sim_leave(call, status, NULL, 0);
}

static struct sim_machine *guest_machine(struct kelpie_os *os) {
    struct sim_machine *machine = kelpie__sim_process_of(os)->machine;
    KELPIE_ASSERT(machine->guest != NULL);
    return machine;
}

/* ---- mounts ---------------------------------------------------------------------------------- */

static const char *const guest_kernel_mounts[GUEST_KERNEL_MOUNT_COUNT] = {
    "devtmpfs", "sysfs", "proc", "devpts", "cgroup2",
};

/* Kernel file systems are there already; a second mount is refused as Linux does. */
static int mount_kernel(struct sim_kernel *kernel, const char *type) {
    for (uint32_t i = 0; i < GUEST_KERNEL_MOUNT_COUNT; i += 1) {
        if (strcmp(guest_kernel_mounts[i], type) == 0) {
            bool is_mounted = (kernel->mounts >> i & 1) != 0;
            kernel->mounts |= 1u << i;
            return is_mounted ? -EBUSY : 0;
        }
    }
    return -ENODEV;
}

static int mount_remount(struct sim_machine *machine, const char *target, uint64_t flags) {
    bool is_root = strcmp(target, "/") == 0;
    if (!is_root) {
        return -EINVAL;
    }
    if ((flags & MS_BIND) == 0) {
        return -EBUSY; /* the initramfs itself, or an overlay with writers */
    }
    kelpie__sim_disk_set_read_only(machine->disk, (flags & MS_RDONLY) != 0);
    return 0;
}

static int mount_disk(struct sim_machine *machine, const char *source, uint64_t flags) {
    struct sim_kernel *kernel = machine->guest->kernel;
    static const char prefix[] = "/dev/vd";
    size_t length = strlen(prefix);
    if (strncmp(source, prefix, length) != 0 || source[length] < 'a' ||
        source[length + 1] != '\0') {
        return -ENOTBLK;
    }
    uint32_t index = (uint32_t)(source[length] - 'a');
    if (index >= kernel->disk_count) {
        return -ENOENT;
    }
    if (kernel->disks[index].is_read_only && (flags & MS_RDONLY) == 0) {
        return -EACCES;
    }
    kernel->is_root_read_only = (flags & MS_RDONLY) != 0;
    return kelpie__sim_guest_disk_mount(machine->guest, index);
}

static int mount_any(struct kelpie_os *os, const char *source, const char *target, const char *type,
                     uint64_t flags) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_machine *machine = process->machine;
    int status = process->uid == 0 ? kelpie__sim_disk_directory(process, target) : -EPERM;
    if (status < 0) {
        return status;
    }
    if ((flags & (MS_MOVE | MS_PRIVATE)) != 0) {
        return 0;
    }
    if ((flags & MS_REMOUNT) != 0) {
        return mount_remount(machine, target, flags);
    }
    if (type == NULL) {
        return -EINVAL;
    }
    if (strcmp(type, "tmpfs") == 0) {
        return kelpie__sim_disk_put_tmpfs(machine->disk, target);
    }
    if (strcmp(type, "overlay") == 0) {
        machine->guest->kernel->is_root_read_only = false;
        return 0;
    }
    if (strcmp(type, "virtiofs") == 0) {
        return source != NULL ? 0 : -EINVAL; /* an empty directory, whatever the host's holds */
    }
    if (source != NULL && source[0] == '/') {
        return mount_disk(machine, source, flags);
    }
    return mount_kernel(machine->guest->kernel, type);
}

static int guest_mount(struct kelpie_os *os, const char *source, const char *target,
                       const char *type, uint64_t flags, const char *data) {
    struct sim_call call;
    kelpie__ignore(data != NULL);
    if (!guest_enter(&call, os, SIM_OP_mount, KELPIE_OS_NO_HANDLE, target)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(&call, mount_any(os, source, target, type, flags));
}

static int guest_enter_root(struct kelpie_os *os, const char *path) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_enter_root, KELPIE_OS_NO_HANDLE, path)) {
        return guest_leave(&call, -call.fault_errno);
    }
    struct sim_machine *machine = guest_machine(os);
    int status = kelpie__sim_disk_directory(call.process, path);
    if (status == 0 && machine->guest->kernel->is_root_read_only) {
        kelpie__sim_disk_set_read_only(machine->disk, true);
    }
    return guest_leave(&call, status);
}

static int guest_load_module(struct kelpie_os *os, int file, const char *parameters) {
    struct sim_call call;
    KELPIE_ASSERT(parameters != NULL);
    if (!guest_enter(&call, os, SIM_OP_load_module, file, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    if (kelpie__sim_handle_object(call.process, file) == NULL) {
        return guest_leave(&call, -EBADF);
    }
    int64_t work_ns =
        kelpie__sim_about(guest_machine(os)->world, SIM_STREAM_GUEST, GUEST_MODULE_NS);
    kelpie__sim_process_sleep(call.process, work_ns);
    return guest_leave(&call, 0);
}

static int guest_open_terminal(struct kelpie_os *os, int *out_master, int *out_slave, uint16_t rows,
                               uint16_t columns) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_open_terminal, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(
        &call, kelpie__sim_terminal_open(call.process, out_master, out_slave, rows, columns));
}

/* ---- clock, randomness, names ---------------------------------------------------------------- */

static int guest_set_wall_clock(struct kelpie_os *os, int64_t unix_ns) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_set_wall_clock, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    struct sim_machine *machine = guest_machine(os);
    if (call.process->uid != 0) {
        return guest_leave(&call, -EPERM);
    }
    machine->wall_offset_ns = unix_ns - kelpie__sim_machine_now(machine);
    return guest_leave(&call, 0);
}

static uint64_t random_mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

/* Whatever is drawn from now on follows from the state before and these bytes. */
static void random_reseed(struct sim_machine *machine, const uint8_t *bytes, size_t count) {
    uint64_t hash = count;
    struct sim_kernel *kernel = machine->guest->kernel;
    for (size_t i = 0; i < count; i += 1) {
        hash = random_mix(hash + 0x9e3779b97f4a7c15u + bytes[i]);
    }
    kernel->entropy = random_mix(kernel->entropy + hash);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(machine->random_state); i += 1) {
        hash = random_mix(hash + 0x9e3779b97f4a7c15u);
        machine->random_state[i] = random_mix(machine->random_state[i] + hash) | (i == 0 ? 1 : 0);
    }
    KELPIE_ASSERT(machine->random_state[0] != 0);
}

void kelpie__sim_kernel_random(struct sim_machine *machine, uint8_t *out, size_t count) {
    uint64_t *state = machine->random_state;
    for (size_t at = 0; at < count; at += 1) {
        if (at % 8 == 0) {
            state[0] += 0x9e3779b97f4a7c15u;
            state[1] = random_mix(state[1] + state[0]);
        }
        out[at] = (uint8_t)(state[1] >> (8 * (at % 8)));
    }
}

static int guest_add_entropy(struct kelpie_os *os, const void *bytes, size_t count) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_add_entropy, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    if (count > GUEST_ENTROPY_BYTES_MAX) {
        return guest_leave(&call, -EINVAL);
    }
    random_reseed(guest_machine(os), bytes, count);
    return guest_leave(&call, 0);
}

static int guest_set_hostname(struct kelpie_os *os, const char *name) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_set_hostname, KELPIE_OS_NO_HANDLE, name)) {
        return guest_leave(&call, -call.fault_errno);
    }
    struct sim_machine *machine = guest_machine(os);
    size_t length = strlen(name);
    if (length >= sizeof(machine->hostname)) {
        return guest_leave(&call, -EINVAL);
    }
    memset(machine->hostname, 0, sizeof(machine->hostname));
    memcpy(machine->hostname, name, length);
    return guest_leave(&call, 0);
}

static int guest_make_node(struct kelpie_os *os, const char *path, uint32_t mode, uint32_t major,
                           uint32_t minor) {
    struct sim_call call;
    kelpie__ignore((int64_t)major + minor);
    if (!guest_enter(&call, os, SIM_OP_make_node, KELPIE_OS_NO_HANDLE, path)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(&call,
                       kelpie__sim_disk_put(guest_machine(os)->disk, path, mode & 07777, "", 0));
}

static int guest_make_link(struct kelpie_os *os, const char *target, const char *path) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_make_link, KELPIE_OS_NO_HANDLE, path)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(&call, kelpie__sim_disk_make_link(call.process, target, path));
}

/* ---- processes ------------------------------------------------------------------------------- */

static int guest_reap_any(struct kelpie_os *os, int32_t *out_pid, struct kelpie_os_exit *out_exit) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_reap_any, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    struct sim_process *child = call.process->children;
    if (child == NULL) {
        return guest_leave(&call, -ECHILD);
    }
    while (child != NULL && child->state != SIM_PROCESS_ZOMBIE) {
        child = child->sibling_next;
    }
    if (child == NULL) {
        return guest_leave(&call, -EAGAIN);
    }
    KELPIE_ASSERT(child->parent == call.process);
    *out_pid = child->pid;
    *out_exit = child->exit;
    kelpie__sim_process_collect(child);
    return guest_leave(&call, 0);
}

static bool kill_is_meant(const struct sim_process *caller, const struct sim_process *process,
                          int32_t pid) {
    if (pid > 0) {
        return process->pid == pid;
    }
    if (pid == -1) {
        return process != caller && process->pid != 1;
    }
    return process->group == (pid == 0 ? caller->group : -pid);
}

/* Process 1 is out of reach for signals that it does not wait for. */
static bool kill_reaches(const struct sim_process *process, int signal) {
    bool is_handled = signal > 0 && (process->signals_blocked >> (signal - 1) & 1) != 0;
    return process->pid != 1 || (is_handled && signal != SIGKILL && signal != SIGSTOP);
}

static int kill_all(struct sim_process *caller, int32_t pid, int signal) {
    struct sim_process *next = NULL;
    bool is_found = false;
    bool is_allowed = false;
    for (struct sim_process *process = caller->machine->processes; process != NULL;
         process = next) {
        next = process->next;
        if (process->state == SIM_PROCESS_GONE || !kill_is_meant(caller, process, pid)) {
            continue;
        }
        is_found = true;
        if (caller->uid != 0 && caller->uid != process->uid) {
            continue;
        }
        is_allowed = true;
        if (signal > 0 && process != caller && process->state != SIM_PROCESS_ZOMBIE &&
            kill_reaches(process, signal)) {
            kelpie__sim_process_signal(process, signal);
        }
    }
    if (signal > 0 && kill_is_meant(caller, caller, pid) && kill_reaches(caller, signal)) {
        kelpie__sim_process_signal(caller, signal); /* last: it may not go on */
    }
    return !is_found ? -ESRCH : is_allowed ? 0 : -EPERM;
}

static int guest_kill_pid(struct kelpie_os *os, int32_t pid, int signal) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_kill_pid, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    if (signal < 0 || signal > 64) {
        return guest_leave(&call, -EINVAL);
    }
    return guest_leave(&call, kill_all(call.process, pid, signal));
}

/* ---- the end, and the rest ------------------------------------------------------------------- */

static int guest_sync_all(struct kelpie_os *os) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_sync_all, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(&call, kelpie__sim_guest_disk_sync(guest_machine(os)->guest));
}

static int guest_halt(struct kelpie_os *os, bool is_power_off) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_halt, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    struct sim_guest *guest = guest_machine(os)->guest;
    if (call.process->uid != 0) {
        return guest_leave(&call, -EPERM);
    }
    kelpie__sim_kernel_print(guest,
                             is_power_off ? "reboot: Power down" : "reboot: Restarting system");
    kelpie__sim_guest_finish(guest, is_power_off ? SIM_GUEST_POWER_OFF : SIM_GUEST_RESET);
    kelpie__sim_process_sleep(call.process, INT64_MAX / 4); /* it never runs again */
    return guest_leave(&call, 0);
}

static int guest_link_up(struct kelpie_os *os, const char *interface) {
    struct sim_call call;
    if (!guest_enter(&call, os, SIM_OP_link_up, KELPIE_OS_NO_HANDLE, interface)) {
        return guest_leave(&call, -call.fault_errno);
    }
    return guest_leave(&call, strcmp(interface, "lo") == 0 ? 0 : -ENODEV);
}

/* A simulated QEMU gives its guests no vsock device; libkrun does. */
static int guest_dial_host(struct kelpie_os *os, uint32_t port) {
    struct sim_call call;
    struct sim_object *object = NULL;
    KELPIE_ASSERT(port > 0);
    if (!guest_enter(&call, os, SIM_OP_dial_host, KELPIE_OS_NO_HANDLE, NULL)) {
        return guest_leave(&call, -call.fault_errno);
    }
    int status = kelpie__sim_vsock_dial(guest_machine(os), &object);
    if (status == 0) {
        status = kelpie__sim_handle_install(call.process, object);
        kelpie__sim_object_unref(object);
    }
    return guest_leave(&call, status);
}

static const struct kelpie_os_guest guest_operations = {
    .mount = guest_mount,
    .enter_root = guest_enter_root,
    .load_module = guest_load_module,
    .open_terminal = guest_open_terminal,
    .set_wall_clock = guest_set_wall_clock,
    .add_entropy = guest_add_entropy,
    .set_hostname = guest_set_hostname,
    .make_node = guest_make_node,
    .make_link = guest_make_link,
    .reap_any = guest_reap_any,
    .kill_pid = guest_kill_pid,
    .make_ready = kelpie__sim_os_make_ready,
    .run_ready = kelpie__sim_os_run_ready,
    .sync_all = guest_sync_all,
    .halt = guest_halt,
    .link_up = guest_link_up,
    .dial_host = guest_dial_host,
};

void kelpie__sim_os_fill_guest(struct kelpie_os *os) {
    KELPIE_ASSERT(os->guest == NULL);
    os->guest = &guest_operations;
}
