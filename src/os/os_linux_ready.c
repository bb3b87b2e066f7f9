/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system of a guest: a child in advance. It is born as spawn's are, with the memory of its
 * parent and a stack of its own, but its parent goes on when it has its handles, and it sleeps
 * until a program is there for it. What a clone costs has been paid by then: on a processor that is
 * emulated and has just been restored, that is 2,000 blocks to translate, 10 ms.
 *
 * While it waits it is nobody's: every signal has its default effect, so that whoever would end a
 * command ends it, and nothing is pending when it becomes one. Its parent learns of its end, and of
 * the end of its waiting, by the word that the kernel clears when a process leaves shared memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "os/os_linux.h"
#include "os/os_linux_spawn.h"

#define READY_PATIENCE_NS                                                                          \
    200000000 /* stopped, or frozen, by somebody in the guest: it is given up */
#define READY_WAIT_COUNT_MAX UINT32_MAX

enum ready_state {
    READY_MAKING,
    READY_WAITING,
    READY_ORDERED, /* by the parent */
    READY_TAKEN,   /* by the child, which goes on */
    READY_REVOKED, /* by the parent, which has lost its patience */
    READY_FAILED,  /* the plan says why */
};

struct spawn_ready {
    uint32_t state;    /* enum ready_state; both sides wait for its change */
    uint32_t is_there; /* cleared by the kernel, when it ends or replaces itself */
    int32_t pid;
    struct spawn_plan plan;
    __attribute__((aligned(16))) uint8_t stack[SPAWN_STACK_BYTES];
};

#if defined(__x86_64__)
static uint32_t ready_load(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static bool ready_change(struct spawn_ready *ready, uint32_t from, uint32_t to) {
    return __atomic_compare_exchange_n(&ready->state, &from, to, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

/* futex(2) without libc, whose errno the two processes share. 0, or -errno. */
SPAWN_CHILD static long ready_futex(uint32_t *word, int operation, uint32_t value,
                                    const struct timespec *timeout) {
    register const struct timespec *fourth __asm__("r10") = timeout;
    long result = SYS_futex;
    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"(word), "S"(operation), "d"(value), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

/* Sleeps while the word has this value. False: the time is over. */
SPAWN_CHILD static bool ready_sleep(uint32_t *word, uint32_t value,
                                    const struct timespec *timeout) {
    for (uint32_t i = 0; i < READY_WAIT_COUNT_MAX; i += 1) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) {
            return true;
        }
        if (ready_futex(word, FUTEX_WAIT, value, timeout) == -ETIMEDOUT) {
            return false;
        }
    }
    return false;
}

SPAWN_CHILD static void ready_tell(struct spawn_ready *ready, enum ready_state state) {
    __atomic_store_n(&ready->state, (uint32_t)state, __ATOMIC_RELEASE);
    ready_futex(&ready->state, FUTEX_WAKE, 1, NULL);
}

/* The child. Behind its three streams it keeps /dev/null, for a command without input. */
SPAWN_CHILD static int ready_main(void *context) {
    struct spawn_ready *ready = context;
    int null = (int)ready->plan.spawn->handle_count;
    bool is_made = kelpie__os_linux_child_begin(&ready->plan) == 0;
    if (is_made && open("/dev/null", O_RDWR | O_CLOEXEC) != null) {
        ready->plan.error = errno;
        is_made = false;
    }
    ready_tell(ready, is_made ? READY_WAITING : READY_FAILED);
    uint32_t ordered = READY_ORDERED;
    if (!is_made || !ready_sleep(&ready->state, READY_WAITING, NULL) ||
        !__atomic_compare_exchange_n(&ready->state, &ordered, READY_TAKEN, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        _exit(127);
    }
    if (ready->plan.spawn->handles[0] == KELPIE_OS_NO_HANDLE && dup2(null, 0) < 0) {
        ready->plan.error = errno;
        ready->plan.step = "pass handles";
        _exit(127);
    }
    kelpie__os_linux_child_become(&ready->plan);
    return 127;
}

/* ---- in the parent --------------------------------------------------------------------------- */

/* Nothing of it is left. */
static void ready_end(struct spawn_ready *ready) {
    siginfo_t info;
    KELPIE_ASSERT(ready->pid > 1);
    kelpie__ignore(kill(ready->pid, SIGKILL)); /* it may be dead; nobody has waited for it yet */
    kelpie__ignore(ready_sleep(&ready->is_there, 1, NULL));
    kelpie__ignore(waitid(P_PID, (id_t)ready->pid, &info, WEXITED | __WALL));
}

static struct spawn_ready *ready_of(struct kelpie_os *os) {
    struct kelpie_os_linux *linux_os = kelpie__os_linux_of(os);
    if (linux_os->ready == NULL) { /* kept: the next one gets it */
        void *memory = mmap(NULL, sizeof(struct spawn_ready), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        linux_os->ready = memory == MAP_FAILED ? NULL : memory;
    }
    return linux_os->ready;
}

int kelpie__os_linux_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                                int32_t *out_pid) {
    const struct timespec patience = {.tv_nsec = READY_PATIENCE_NS};
    struct spawn_ready *ready = ready_of(os);
    if (ready == NULL) {
        return -ENOMEM;
    }
    if (ready_load(&ready->is_there) != 0) {
        return -EBUSY;
    }
    bool has_cgroup = spawn->cgroup != KELPIE_OS_NO_HANDLE;
    struct clone_args arguments = {
        .flags = CLONE_VM | CLONE_CLEAR_SIGHAND | CLONE_CHILD_CLEARTID |
                 (has_cgroup ? (uint64_t)CLONE_INTO_CGROUP : 0),
        .child_tid = (uint64_t)(uintptr_t)&ready->is_there,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)ready->stack,
        .stack_size = SPAWN_STACK_BYTES,
        .cgroup = has_cgroup ? (uint32_t)spawn->cgroup : 0,
    };
    ready->state = READY_MAKING;
    ready->is_there = 1;
    ready->plan = (struct spawn_plan){.spawn = spawn,
                                      .parent = getpid(),
                                      .has_cleared_handlers = true,
                                      .is_in_cgroup = has_cgroup,
                                      .step = ""};
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    long child = kelpie__os_linux_clone3(&arguments, ready_main, ready);
    ready->pid = (int32_t)child;
    int status = 0;
    if (child < 0) {
        ready->is_there = 0;
        status = (int)child;
    } else if (!ready_sleep(&ready->state, READY_MAKING, &patience)) {
        status = -ETIMEDOUT;
    } else if (ready_load(&ready->state) == READY_FAILED) {
        status = -ready->plan.error;
    }
    if (child > 0 && status < 0) {
        ready_end(ready);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (status == 0) {
        *out_pid = ready->pid;
    }
    return status;
}

/* Waits until it has replaced itself, or ended. False: it has not even heard. */
static bool ready_is_done(struct spawn_ready *ready) {
    const struct timespec patience = {.tv_nsec = READY_PATIENCE_NS};
    if (!ready_sleep(&ready->is_there, 1, &patience)) {
        if (ready_change(ready, READY_ORDERED, READY_REVOKED)) {
            return false;
        }
        kelpie__ignore(ready_sleep(&ready->is_there, 1, NULL)); /* as a parent of vfork's does */
    }
    return ready_load(&ready->state) == READY_TAKEN;
}

int kelpie__os_linux_run_ready(struct kelpie_os *os, int32_t pid,
                               const struct kelpie_os_spawn *spawn, const char **out_step) {
    struct spawn_ready *ready = kelpie__os_linux_of(os)->ready;
    KELPIE_ASSERT(ready != NULL && ready->pid == pid);
    KELPIE_ASSERT(spawn->handle_count > 0);
    ready->plan.spawn = spawn;
    int status = -ESRCH;
    if (ready_load(&ready->is_there) != 0 && ready_change(ready, READY_WAITING, READY_ORDERED)) {
        ready_futex(&ready->state, FUTEX_WAKE, 1, NULL);
        status = ready_is_done(ready) ? -ready->plan.error : -ESRCH;
    }
    if (status < 0) {
        ready_end(ready);
    }
    *out_step = ready->plan.step;
    return status;
}
#else
/* As clone3 there: spawn must do. */
int kelpie__os_linux_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                                int32_t *out_pid) {
    kelpie__ignore(os != NULL && spawn != NULL && out_pid != NULL);
    return -ENOSYS;
}

int kelpie__os_linux_run_ready(struct kelpie_os *os, int32_t pid,
                               const struct kelpie_os_spawn *spawn, const char **out_step) {
    kelpie__ignore(os != NULL && pid > 0 && spawn != NULL && out_step != NULL);
    return -ESRCH;
}
#endif
