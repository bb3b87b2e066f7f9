/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See process.h.
 */
#include "vmm/process.h"

#include <errno.h>
#include <stdio.h>

#include "core/limits.h"
#include "os/os_call.h"

#define PROCESS_STDERR 2u
#define PROCESS_SIGNAL_KILL 9
#define PROCESS_COLLECT_NS (5 * KELPIE_NS_PER_MS)
#define PROCESS_LAST_READS_MAX 64u

static void process_check(const struct kelpie_vmm_process *process) {
    KELPIE_ASSERT(!process->is_process_watched || process->handle != KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(!process->is_errors_watched || process->errors != KELPIE_OS_NO_HANDLE);
}

static void process_close(struct kelpie_vmm_process *process, int *handle) {
    if (*handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(process->os, *handle)); /* pipes and process handles */
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

static void process_unwatch(struct kelpie_vmm_process *process) {
    if (process->is_process_watched) {
        kelpie__loop_unwatch(process->loop, process->process_watch);
        process->is_process_watched = false;
    }
}

static void process_close_errors(struct kelpie_vmm_process *process) {
    if (process->is_errors_watched) {
        kelpie__loop_unwatch(process->loop, process->errors_watch);
        process->is_errors_watched = false;
    }
    process_close(process, &process->errors);
}

static void process_read_errors(struct kelpie_vmm_process *process, uint32_t budget) {
    KELPIE_ASSERT(budget > 0);
    for (uint32_t i = 0; i < budget && process->errors != KELPIE_OS_NO_HANDLE; i += 1) {
        char bytes[2048];
        int64_t count = kelpie__os_read(process->os, process->errors, bytes, sizeof(bytes));
        if (count > 0) {
            KELPIE_ASSERT((uint64_t)count <= sizeof(bytes));
            kelpie__tail_append(&process->tail, bytes, (size_t)count);
        } else if (count == -EAGAIN || count == -EINTR) {
            return;
        } else {
            process_close_errors(process);
        }
    }
}

static void process_errors_ready(void *context, uint32_t bits) {
    struct kelpie_vmm_process *process = context;
    KELPIE_ASSERT(bits != 0);
    process_check(process);
    process_read_errors(process, 1);
}

/* Looks whether it has ended, and tells. True: it had. */
static bool process_collect(struct kelpie_vmm_process *process) {
    struct kelpie_os_exit process_exit = {0};
    KELPIE_ASSERT(process->handle != KELPIE_OS_NO_HANDLE);
    int status = kelpie__os_reap(process->os, process->handle, &process_exit);
    if (status == -EAGAIN || status == -EINTR) {
        return false;
    }
    process_unwatch(process);
    kelpie__timer_disarm(process->loop, &process->timer);
    process_close(process, &process->handle);
    process_read_errors(process, PROCESS_LAST_READS_MAX);
    process->callback(process->context, status < 0 ? NULL : &process_exit);
    return true;
}

static void process_ready(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    kelpie__ignore(process_collect(context));
}

static void process_kill(const struct kelpie_vmm_process *process) {
    /* It fails only for a process that has ended, whose handle is about to be readable. */
    kelpie__ignore(kelpie__os_signal(process->os, process->handle, PROCESS_SIGNAL_KILL));
}

/* One that could not be watched is looked for until it has ended. */
static void process_overdue(void *context) {
    struct kelpie_vmm_process *process = context;
    process_check(process);
    process_kill(process);
    if (!process->is_process_watched && !process_collect(process)) {
        kelpie__timer_arm(process->loop, &process->timer,
                          process->loop->now_ns + PROCESS_COLLECT_NS, process_overdue, process);
    }
}

void kelpie__vmm_process_init(struct kelpie_vmm_process *process, struct kelpie_os *os,
                              struct kelpie_loop *loop, kelpie_vmm_process_callback callback,
                              void *context) {
    KELPIE_ASSERT(callback != NULL);
    *process = (struct kelpie_vmm_process){.os = os,
                                           .loop = loop,
                                           .callback = callback,
                                           .context = context,
                                           .handle = KELPIE_OS_NO_HANDLE,
                                           .errors = KELPIE_OS_NO_HANDLE};
    process_check(process);
}

static int process_watch(struct kelpie_vmm_process *process, struct kelpie_error *error) {
    int status = kelpie__loop_watch(process->loop, process->handle, KELPIE_OS_READABLE,
                                    process_ready, process, &process->process_watch);
    process->is_process_watched = status == 0;
    if (status == 0) {
        status = kelpie__loop_watch(process->loop, process->errors, KELPIE_OS_READABLE,
                                    process_errors_ready, process, &process->errors_watch);
        process->is_errors_watched = status == 0;
    }
    process_check(process);
    return status < 0 ? kelpie__fail(error, status, 0, "watch the VMM's process") : 0;
}

int kelpie__vmm_process_start(struct kelpie_vmm_process *process,
                              const struct kelpie_os_spawn *spawn, struct kelpie_error *error) {
    int handles[KELPIE_OS_SPAWN_HANDLES_MAX];
    int ends[2];
    const char *step = "";
    KELPIE_ASSERT(process->handle == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(spawn->handle_count > PROCESS_STDERR &&
                  spawn->handle_count <= KELPIE_OS_SPAWN_HANDLES_MAX);
    int status = kelpie__os_pipe(process->os, ends);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "make a pipe for the VMM");
    }
    for (uint32_t i = 0; i < spawn->handle_count; i += 1) {
        handles[i] = i == PROCESS_STDERR ? ends[1] : spawn->handles[i];
    }
    struct kelpie_os_spawn ours = *spawn;
    ours.handles = handles;
    status = kelpie__os_spawn(process->os, &ours, &process->handle, &process->pid, &step);
    kelpie__ignore(kelpie__os_close(process->os, ends[1])); /* the child has its own */
    process->errors = ends[0];
    if (status < 0) {
        process_close_errors(process);
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "start \"%s\" (%s)", spawn->path, step);
    }
    return process_watch(process, error);
}

void kelpie__vmm_process_end(struct kelpie_vmm_process *process, int64_t grace_ns) {
    int64_t deadline_ns = process->loop->now_ns + grace_ns;
    KELPIE_ASSERT(grace_ns >= 0);
    process_check(process);
    bool is_earlier =
        !kelpie__timer_is_armed(&process->timer) || process->timer.deadline_ns > deadline_ns;
    if (process->handle == KELPIE_OS_NO_HANDLE) {
        return;
    }
    if (grace_ns == 0 && process->is_process_watched) {
        process_kill(process);
    } else if (is_earlier) {
        kelpie__timer_arm(process->loop, &process->timer, deadline_ns, process_overdue, process);
    }
}

void kelpie__vmm_process_describe(const struct kelpie_vmm_process *process, const char *name,
                                  const struct kelpie_os_exit *process_exit, char *out,
                                  size_t capacity) {
    char words[320];
    KELPIE_ASSERT(capacity > 0);
    kelpie__tail_text(&process->tail, words, sizeof(words));
    int length = snprintf(out, capacity, "%s never ran", name);
    if (process_exit != NULL) {
        length = snprintf(out, capacity, "%s %s %d%s%s", name,
                          process_exit->is_signalled ? "was killed by signal" : "exited with code",
                          process_exit->value, words[0] != '\0' ? ": " : "", words);
    }
    KELPIE_ASSERT(length > 0); /* a cut text is still good for people */
}

void kelpie__vmm_process_deinit(struct kelpie_vmm_process *process) {
    process_check(process);
    kelpie__timer_disarm(process->loop, &process->timer);
    process_unwatch(process);
    if (process->handle != KELPIE_OS_NO_HANDLE) {
        process_kill(process);
    }
    process_close_errors(process);
    process_close(process, &process->handle);
}
