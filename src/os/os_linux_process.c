/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: processes. A child shares this process's memory until it has replaced itself
 * (CLONE_VM and CLONE_VFORK, on a stack of its own), so that a start costs no copy of page tables,
 * however large the embedder is, and the child can say in plain memory which step failed. Children
 * are held by pidfd, never by number.
 *
 * An orphan is the child of a helper child that has already ended when spawn returns. The helper
 * ends without SIGCHLD and is waited for by number with __WALL, so that no wait() of the embedder's
 * can see either of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_linux.h"
#include "os/os_linux_spawn.h"

#define SPAWN_PATH_BYTES 4096u
#define SPAWN_STANDARD_COUNT 3
#define SPAWN_SIGNAL_MAX 64

static_assert(SPAWN_STACK_BYTES % 16u == 0, "a stack begins at such a border");
static_assert(SPAWN_STACK_BYTES >= SPAWN_PATH_BYTES + 8192u, "the search's path lies on it");
static_assert(SPAWN_STANDARD_COUNT <= KELPIE_OS_SPAWN_HANDLES_MAX, "the streams are handles");

extern char **environ;

/* ---- in the child: only system calls --------------------------------------------------------- */

SPAWN_CHILD static int child_fail(struct spawn_plan *plan, const char *step) {
    plan->error = errno;
    plan->step = step;
    return -1;
}

SPAWN_CHILD static int child_die_with_parent(struct spawn_plan *plan) {
    if ((plan->spawn->flags & KELPIE_OS_SPAWN_DIE_WITH_PARENT) == 0) {
        return 0;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        return child_fail(plan, "parent-death signal");
    }
    if (getppid() != plan->parent) { /* it died before the line above */
        errno = ECHILD;
        return child_fail(plan, "parent-death signal");
    }
    return 0;
}

SPAWN_CHILD static int child_place_handle(int handle, int place) {
    if (handle == KELPIE_OS_NO_HANDLE) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        int status = null < 0 ? -1 : dup3(null, place, null == place ? 0 : O_CLOEXEC);
        if (null >= 0 && null != place) {
            close(null);
        }
        return status < 0 && null != place ? -1 : fcntl(place, F_SETFD, 0);
    }
    if (handle != place && dup2(handle, place) < 0) {
        return -1;
    }
    return fcntl(place, F_SETFD, 0);
}

/* Handles that stand in each other's way are moved up first. Standard streams become blocking,
 * which is what programs expect of them. */
SPAWN_CHILD static int child_place_handles(struct spawn_plan *plan) {
    const struct kelpie_os_spawn *spawn = plan->spawn;
    int count = (int)spawn->handle_count;
    int moved[KELPIE_OS_SPAWN_HANDLES_MAX];
    for (int i = 0; i < count; i += 1) {
        moved[i] = spawn->handles[i];
        if (moved[i] != KELPIE_OS_NO_HANDLE && moved[i] < count && moved[i] != i) {
            moved[i] = fcntl(moved[i], F_DUPFD_CLOEXEC, count);
            if (moved[i] < 0) {
                return child_fail(plan, "pass handles");
            }
        }
    }
    for (int i = 0; i < count; i += 1) {
        if (child_place_handle(moved[i], i) < 0) {
            return child_fail(plan, "pass handles");
        }
        int flags = i < SPAWN_STANDARD_COUNT ? fcntl(i, F_GETFL) : 0;
        if (flags > 0 && (flags & O_NONBLOCK) != 0) {
            kelpie__ignore(fcntl(i, F_SETFL, flags & ~O_NONBLOCK));
        }
    }
#if defined(SYS_close_range)
    if (syscall(SYS_close_range, (unsigned)count, ~0u, 0) == 0) {
        return 0;
    }
#endif
    /* before Linux 5.9; all of ours are close-on-exec anyway */
    for (int i = count; i < 1024; i += 1) {
        close(i);
    }
    return 0;
}

SPAWN_CHILD static int child_join_cgroup(struct spawn_plan *plan) {
    if (plan->spawn->cgroup == KELPIE_OS_NO_HANDLE || plan->is_in_cgroup) {
        return 0;
    }
    int file = openat(plan->spawn->cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, "0", 1) != 1) {
        return child_fail(plan, "cgroup");
    }
    close(file);
    return 0;
}

SPAWN_CHILD static int child_limit(struct spawn_plan *plan) {
    for (uint32_t i = 0; i < plan->spawn->limit_count; i += 1) {
        const struct kelpie_os_limit *limit = &plan->spawn->limits[i];
        const uint64_t value[2] = {limit->soft, limit->hard}; /* prlimit64: struct rlimit64 */
        if (syscall(SYS_prlimit64, 0, limit->resource, value, NULL) < 0) {
            return child_fail(plan, "resource limit");
        }
    }
    return 0;
}

/* By system call: libc's setuid synchronises threads, and this is not one of its threads. */
SPAWN_CHILD static int child_credentials(struct spawn_plan *plan) {
    const struct kelpie_os_spawn *spawn = plan->spawn;
    if ((spawn->flags & KELPIE_OS_SPAWN_CREDENTIALS) == 0) {
        return 0;
    }
    if (syscall(SYS_setgroups, (size_t)spawn->group_count, spawn->groups) < 0) {
        return child_fail(plan, "groups");
    }
    if (syscall(SYS_setresgid, spawn->gid, spawn->gid, spawn->gid) < 0) {
        return child_fail(plan, "group");
    }
    if (syscall(SYS_setresuid, spawn->uid, spawn->uid, spawn->uid) < 0) {
        return child_fail(plan, "user");
    }
    return child_die_with_parent(plan); /* prctl(2): a change of credentials clears it */
}

SPAWN_CHILD static int child_session(struct spawn_plan *plan) {
    uint32_t flags = plan->spawn->flags;
    if ((flags & KELPIE_OS_SPAWN_NEW_SESSION) != 0 && setsid() < 0) {
        return child_fail(plan, "session");
    }
    if ((flags & KELPIE_OS_SPAWN_CONTROLLING_TERMINAL) != 0 && ioctl(0, TIOCSCTTY, 0) < 0) {
        return child_fail(plan, "terminal");
    }
    return 0;
}

SPAWN_CHILD static const char *child_search_path(char *const *environment) {
    for (size_t i = 0; environment[i] != NULL; i += 1) {
        if (strncmp(environment[i], "PATH=", 5) == 0) {
            return environment[i] + 5;
        }
    }
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* As execvp(3), in the child's own PATH: a name that is found but not allowed is remembered, the
 * search goes on. */
SPAWN_CHILD static void child_exec_search(struct spawn_plan *plan, char *const *argv,
                                          char *const *environment) {
    char path[SPAWN_PATH_BYTES];
    const char *name = plan->spawn->path;
    size_t name_length = strlen(name);
    bool was_denied = false;
    const char *next = child_search_path(environment);
    while (next != NULL) { /* bound: the variable */
        const char *end = strchr(next, ':');
        size_t length = end == NULL ? strlen(next) : (size_t)(end - next);
        if (length + 1 + name_length < sizeof(path)) {
            memcpy(path, next, length);
            path[length] = '/';
            memcpy(path + length + (length > 0 ? 1 : 0), name, name_length + 1);
            execve(path, argv, environment);
            was_denied = was_denied || errno == EACCES;
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
                return;
            }
        }
        next = end == NULL ? NULL : end + 1;
    }
    errno = was_denied ? EACCES : ENOENT;
}

SPAWN_CHILD static void child_exec(struct spawn_plan *plan) {
    const struct kelpie_os_spawn *spawn = plan->spawn;
    char *const *argv = (char *const *)(uintptr_t)spawn->argv;
    char *const *environment =
        spawn->environment == NULL ? environ : (char *const *)(uintptr_t)spawn->environment;
    bool searches =
        (spawn->flags & KELPIE_OS_SPAWN_SEARCH_PATH) != 0 && strchr(spawn->path, '/') == NULL;
    if (searches) {
        child_exec_search(plan, argv, environment);
    } else {
        execve(spawn->path, argv, environment);
    }
    kelpie__ignore(child_fail(plan, "exec"));
}

/* Handlers are the parent's and must not run here: signals stay blocked until none is left. */
SPAWN_CHILD static void child_reset_signals(const struct spawn_plan *plan) {
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int i = 1; i <= SPAWN_SIGNAL_MAX && !plan->has_cleared_handlers; i += 1) {
        struct sigaction current;
        if (sigaction(i, NULL, &current) == 0 && current.sa_handler != SIG_IGN) {
            sigaction(i, &fallback, NULL);
        }
    }
    sigaction(SIGPIPE, &fallback, NULL);
    sigaction(SIGXFSZ, &fallback, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Process 1 of a guest runs as a batch process (os_linux_guest.c), which is inherited; commands are
 * ordinary ones. */
SPAWN_CHILD static void child_leave_batch(const struct spawn_plan *plan) {
    const struct sched_param parameter = {.sched_priority = 0};
    if (plan->parent == 1) {
        kelpie__ignore(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &parameter));
    }
}

SPAWN_CHILD int kelpie__os_linux_child_begin(struct spawn_plan *plan) {
    if (child_join_cgroup(plan) < 0 || child_die_with_parent(plan) < 0 ||
        child_place_handles(plan) < 0) {
        return -1;
    }
    child_reset_signals(plan);
    child_leave_batch(plan);
    return 0;
}

SPAWN_CHILD void kelpie__os_linux_child_become(struct spawn_plan *plan) {
    const struct kelpie_os_spawn *spawn = plan->spawn;
    bool is_ready =
        child_session(plan) == 0 && child_limit(plan) == 0 && child_credentials(plan) == 0;
    if (is_ready && spawn->directory != NULL && chdir(spawn->directory) < 0) {
        is_ready = child_fail(plan, "working directory") == 0;
    }
    if (is_ready && (spawn->flags & KELPIE_OS_SPAWN_NO_NEW_PRIVILEGES) != 0 &&
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        is_ready = child_fail(plan, "no_new_privs") == 0;
    }
    if (is_ready) {
        child_exec(plan);
    }
    _exit(127);
}

SPAWN_CHILD static int child_main(void *context) {
    struct spawn_plan *plan = context;
    if (kelpie__os_linux_child_begin(plan) < 0) {
        _exit(127);
    }
    kelpie__os_linux_child_become(plan);
    return 127;
}

/* The helper of an orphan. */
SPAWN_CHILD static int helper_main(void *context) {
    struct spawn_plan *plan = context;
    pid_t child = clone(child_main, plan->orphan_stack + SPAWN_STACK_BYTES,
                        CLONE_VM | CLONE_VFORK | SIGCHLD, plan);
    if (child < 0) {
        kelpie__ignore(child_fail(plan, "clone"));
    }
    plan->orphan = child;
    _exit(0);
}

/* ---- in the parent --------------------------------------------------------------------------- */

#if defined(__x86_64__)
long kelpie__os_linux_clone3(struct clone_args *arguments, int (*function)(void *), void *context) {
    register int (*child)(void *) __asm__("r12") = function;
    register void *child_context __asm__("r13") = context;
    long result = SYS_clone3;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "+a"(result)
                     : "D"(arguments), "S"(sizeof(*arguments)), "r"(child), "r"(child_context)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

/* The child's number, or -errno. clone3 resets handlers and enters the cgroup at birth: no
 * migration afterwards. */
static long spawn_quick(struct spawn_plan *plan, uint8_t *stack, int *out_process) {
    bool has_cgroup = plan->spawn->cgroup != KELPIE_OS_NO_HANDLE;
    struct clone_args arguments = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND |
                 (has_cgroup ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)out_process,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = SPAWN_STACK_BYTES,
        .cgroup = has_cgroup ? (uint32_t)plan->spawn->cgroup : 0,
    };
    plan->has_cleared_handlers = true;
    plan->is_in_cgroup = has_cgroup;
    return kelpie__os_linux_clone3(&arguments, child_main, plan);
}
#else
static long spawn_quick(struct spawn_plan *plan, uint8_t *stack, int *out_process) {
    kelpie__ignore(plan != NULL && stack != NULL && out_process != NULL);
    return -ENOSYS;
}
#endif

static long spawn_clone(struct spawn_plan *plan, uint8_t *stack, int *out_process) {
    KELPIE_ASSERT(plan->error == 0);
    long child = spawn_quick(plan, stack, out_process);
    if (child != -ENOSYS && child != -EPERM && child != -EINVAL && child != -E2BIG) {
        return child; /* else: an older kernel, or a sandbox that denies clone3 */
    }
    plan->has_cleared_handlers = false;
    plan->is_in_cgroup = false;
    child = clone(child_main, stack + SPAWN_STACK_BYTES,
                  CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, plan, out_process);
    return child < 0 ? -errno : child;
}

static int spawn_child(struct spawn_plan *plan, uint8_t *stack, int *out_process,
                       int32_t *out_pid) {
    int process = -1;
    KELPIE_ASSERT(plan->error == 0);
    KELPIE_ASSERT(plan->orphan == 0);
    long child = spawn_clone(plan, stack, &process);
    if (child < 0) {
        plan->step = "clone";
        return (int)child;
    }
    if (plan->error != 0) {
        siginfo_t info;
        kelpie__ignore(waitid(P_PIDFD, (id_t)process, &info, WEXITED | __WALL));
        close(process);
        return -plan->error;
    }
    KELPIE_ASSERT(process >= 0);
    KELPIE_ASSERT(child > 0);
    *out_process = process;
    *out_pid = (int32_t)child;
    return 0;
}

static int spawn_orphan(struct spawn_plan *plan, uint8_t *stack, int32_t *out_pid) {
    KELPIE_ASSERT(plan->orphan_stack != NULL && plan->orphan_stack != stack);
    pid_t helper = clone(helper_main, stack + SPAWN_STACK_BYTES, CLONE_VM | CLONE_VFORK, plan);
    if (helper < 0) {
        plan->step = "clone";
        return -errno;
    }
    pid_t waited = -1;
    for (unsigned budget = 1000; waited < 0 && budget > 0; budget -= 1) {
        waited = waitpid(helper, NULL, __WALL);
        if (waited < 0 && errno != EINTR) {
            break;
        }
    }
    if (plan->error != 0) {
        return -plan->error; /* the child, an orphan already, ends by itself and init reaps it */
    }
    KELPIE_ASSERT(plan->orphan > 0);
    *out_pid = plan->orphan;
    return 0;
}

static int linux_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn, int *out_process,
                       int32_t *out_pid, const char **out_step) {
    KELPIE_ASSERT(spawn->path[0] != '\0');
    KELPIE_ASSERT(spawn->argv[0] != NULL);
    __attribute__((aligned(16))) uint8_t stacks[2][SPAWN_STACK_BYTES];
    struct spawn_plan plan = {
        .spawn = spawn, .parent = getpid(), .step = "", .orphan_stack = stacks[1]};
    sigset_t all;
    sigset_t before;
    kelpie__ignore(os != NULL);
    KELPIE_ASSERT(spawn->handle_count <= KELPIE_OS_SPAWN_HANDLES_MAX);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    bool is_orphan = (spawn->flags & KELPIE_OS_SPAWN_ORPHAN) != 0;
    KELPIE_ASSERT(is_orphan || out_process != NULL);
    int status = is_orphan ? spawn_orphan(&plan, stacks[0], out_pid)
                           : spawn_child(&plan, stacks[0], out_process, out_pid);
    sigprocmask(SIG_SETMASK, &before, NULL);
    *out_step = plan.step;
    KELPIE_ASSERT(status < 0 || *out_pid > 0);
    return status;
}

static int linux_open_process(struct kelpie_os *os, int32_t pid) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(syscall(SYS_pidfd_open, pid, 0));
}

static int linux_signal(struct kelpie_os *os, int process, int signal) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(syscall(SYS_pidfd_send_signal, process, signal, NULL, 0));
}

static uint64_t usage_us(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

static int linux_reap(struct kelpie_os *os, int process, struct kelpie_os_exit *out) {
    KELPIE_ASSERT(process >= 0);
    siginfo_t info = {0};
    struct rusage usage = {0};
    kelpie__ignore(os != NULL);
    if (syscall(SYS_waitid, P_PIDFD, process, &info, WEXITED | WNOHANG | __WALL, &usage) < 0) {
        return -errno;
    }
    if (info.si_pid == 0) {
        return -EAGAIN;
    }
    *out = (struct kelpie_os_exit){
        .is_signalled = info.si_code != CLD_EXITED,
        .value = info.si_status,
        .cpu_user_us = usage_us(usage.ru_utime),
        .cpu_system_us = usage_us(usage.ru_stime),
        .peak_memory_kib = (uint64_t)usage.ru_maxrss,
    };
    return 0;
}

void kelpie__os_linux_fill_process(struct kelpie_os *os) {
    os->spawn = linux_spawn;
    os->open_process = linux_open_process;
    os->signal = linux_signal;
    os->reap = linux_reap;
}
