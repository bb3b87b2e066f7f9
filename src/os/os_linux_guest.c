/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system of a guest: what only its process 1 does. In a file of its own, so that no host
 * program has it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "os/os_linux.h"

#define GUEST_ENTROPY_BYTES_MAX 512u
#define GUEST_SCHED_RESET_ON_FORK 0x40000000 /* sched(7) */
#define GUEST_NICE (-20)
#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

static int guest_mount(struct kelpie_os *os, const char *source, const char *target,
                       const char *type, uint64_t flags, const char *data) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(mount(source, target, type, (unsigned long)flags, data));
}

/* As switch_root(8) does it: a pivot_root is not possible from an initramfs. */
static int guest_enter_root(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] == '/');
    kelpie__ignore(os != NULL);
    if (chdir(path) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) {
        return -errno;
    }
    return kelpie__os_linux_result(chdir("/"));
}

static int guest_load_module(struct kelpie_os *os, int file, const char *parameters) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(syscall(SYS_finit_module, file, parameters, 0));
}

static int guest_open_terminal(struct kelpie_os *os, int *out_master, int *out_slave, uint16_t rows,
                               uint16_t columns) {
    const struct winsize size = {.ws_row = rows, .ws_col = columns};
    int unlocked = 0;
    kelpie__ignore(os != NULL);
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0) {
        return -errno;
    }
    int slave = -1;
    if (ioctl(master, TIOCSPTLCK, &unlocked) == 0 && ioctl(master, TIOCSWINSZ, &size) == 0) {
        slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (slave < 0) {
        int status = -errno;
        close(master);
        return status;
    }
    KELPIE_ASSERT(slave != master);
    *out_master = master;
    *out_slave = slave;
    return 0;
}

static int guest_set_wall_clock(struct kelpie_os *os, int64_t unix_ns) {
    const struct timespec time = {.tv_sec = (time_t)(unix_ns / 1000000000),
                                  .tv_nsec = (long)(unix_ns % 1000000000)};
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(clock_settime(CLOCK_REALTIME, &time));
}

/* random(4): credited, then mixed in at once, so that the next byte anybody draws depends on it.
 * The device stays open: a restored guest needs it before all else, and has less to do then. */
static int guest_add_entropy(struct kelpie_os *os, const void *bytes, size_t count) {
    struct { /* struct rand_pool_info with room */
        int entropy_count;
        int buf_size;
        uint8_t bytes[GUEST_ENTROPY_BYTES_MAX];
    } pool = {.entropy_count = (int)(count * 8), .buf_size = (int)count};
    struct kelpie_os_linux *linux_os = kelpie__os_linux_of(os);
    if (count > sizeof(pool.bytes)) {
        return -EINVAL;
    }
    memcpy(pool.bytes, bytes, count);
    if (linux_os->entropy < 0) {
        linux_os->entropy = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    }
    if (linux_os->entropy < 0 || ioctl(linux_os->entropy, RNDADDENTROPY, &pool) < 0 ||
        ioctl(linux_os->entropy, RNDRESEEDCRNG) < 0) {
        return -errno;
    }
    return 0;
}

static int guest_set_hostname(struct kelpie_os *os, const char *name) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(sethostname(name, strlen(name)));
}

static int guest_make_node(struct kelpie_os *os, const char *path, uint32_t mode, uint32_t major,
                           uint32_t minor) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(mknod(path, (mode_t)mode, makedev(major, minor)));
}

static int guest_make_link(struct kelpie_os *os, const char *target, const char *path) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(symlink(target, path));
}

static uint64_t time_us(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

static int guest_reap_any(struct kelpie_os *os, int32_t *out_pid, struct kelpie_os_exit *out_exit) {
    struct rusage usage = {0};
    int status = 0;
    kelpie__ignore(os != NULL);
    pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &usage);
    if (pid <= 0) {
        return pid == 0 ? -EAGAIN : -errno;
    }
    bool is_signalled = WIFSIGNALED(status);
    *out_pid = pid;
    *out_exit = (struct kelpie_os_exit){
        .is_signalled = is_signalled,
        .value = is_signalled ? WTERMSIG(status) : WEXITSTATUS(status),
        .cpu_user_us = time_us(usage.ru_utime),
        .cpu_system_us = time_us(usage.ru_stime),
        .peak_memory_kib = (uint64_t)usage.ru_maxrss,
    };
    return 0;
}

static int guest_kill_pid(struct kelpie_os *os, int32_t pid, int signal) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(kill(pid, signal));
}

static int guest_sync_all(struct kelpie_os *os) {
    kelpie__ignore(os != NULL);
    sync();
    return 0;
}

static int guest_halt(struct kelpie_os *os, bool is_power_off) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(reboot(is_power_off ? RB_POWER_OFF : RB_AUTOBOOT));
}

static int guest_link_up(struct kelpie_os *os, const char *interface) {
    struct ifreq request = {0};
    kelpie__ignore(os != NULL);
    if (strlen(interface) >= sizeof(request.ifr_name)) {
        return -EINVAL;
    }
    memcpy(request.ifr_name, interface, strlen(interface) + 1);
    int handle = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (handle < 0) {
        return -errno;
    }
    int status = ioctl(handle, SIOCGIFFLAGS, &request) < 0 ? -errno : 0;
    request.ifr_flags |= IFF_UP;
    if (status == 0 && ioctl(handle, SIOCSIFFLAGS, &request) < 0) {
        status = -errno;
    }
    close(handle);
    return status;
}

/* libkrun's device wedges when a connection's credit is used up (findings in docs/backends.md): so
 * much of it that a burst fits. A kernel that takes less is no reason to fail. */
static int guest_dial_host(struct kelpie_os *os, uint32_t port) {
    static const uint64_t buffer_bytes = UINT64_C(8) << 20;
    const struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    kelpie__ignore(os != NULL);
    int handle = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle < 0) {
        return -errno;
    }
    kelpie__ignore(setsockopt(handle, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &buffer_bytes,
                              sizeof(buffer_bytes)));
    kelpie__ignore(setsockopt(handle, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &buffer_bytes,
                              sizeof(buffer_bytes)));
    if (connect(handle, (const struct sockaddr *)&address, sizeof(address)) < 0 &&
        errno != EINPROGRESS) {
        int status = -errno;
        close(handle);
        return status;
    }
    return handle;
}

static const struct kelpie_os_guest linux_guest = {
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
    .make_ready = kelpie__os_linux_make_ready,
    .run_ready = kelpie__os_linux_run_ready,
    .sync_all = guest_sync_all,
    .halt = guest_halt,
    .link_up = guest_link_up,
    .dial_host = guest_dial_host,
};

/* A batch process that wakes up does not preempt: a short command runs to its end in one go, then
 * process 1 handles all of its events at once, which halves the changes of address space that an
 * emulated processor pays for dearly. With the highest priority it gets its turn nevertheless when
 * thousands of processes want theirs. Commands inherit neither. By system call: musl's
 * sched_setscheduler is a stub. */
static void guest_yield_to_commands(void) {
    const struct sched_param parameter = {.sched_priority = 0};
    int policy = SCHED_BATCH | GUEST_SCHED_RESET_ON_FORK;
    kelpie__ignore(syscall(SYS_sched_setscheduler, 0, policy, &parameter)); /* slower without */
    kelpie__ignore(setpriority(PRIO_PROCESS, 0, GUEST_NICE));
}

struct kelpie_os *kelpie__os_linux_create_guest(void) {
    struct kelpie_os *os = kelpie__os_linux_create();
    if (os != NULL) {
        if (getpid() == 1) { /* tests run on hosts */
            guest_yield_to_commands();
        }
        os->guest = &linux_guest;
    }
    return os;
}
