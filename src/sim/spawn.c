/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Spawn, and what is done with a process by its handle. The steps of a birth are checked in the
 * order of the real system's child (os_linux_process.c), and a failure is named as there; nobody
 * has seen a child that was not born.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "core/limits.h"
#include "sim/core.h"
#include "sim/disk.h"
#include "sim/guest.h"

#define SCRIPT_LINE_BYTES 255u /* BINPRM_BUF_SIZE - 1 */
#define SCRIPT_ARGUMENTS_MAX 64u
#define READY_LOOK_COUNT 20u /* 200 ms in all: the real system's patience */
#define READY_LOOK_NS (10 * KELPIE_NS_PER_MS)
#define SEARCH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static int spawn_handles(struct sim_process *parent, struct sim_process *child,
                         const struct kelpie_os_spawn *spawn) {
    for (uint32_t i = 0; i < spawn->handle_count; i += 1) {
        int handle = spawn->handles[i];
        struct sim_object *object = handle == KELPIE_OS_NO_HANDLE
                                        ? kelpie__sim_object_null(child->machine)
                                        : kelpie__sim_handle_object(parent, handle);
        if (object == NULL) {
            return handle == KELPIE_OS_NO_HANDLE ? -ENOMEM : -EBADF;
        }
        int place = kelpie__sim_handle_install(child, object);
        if (handle == KELPIE_OS_NO_HANDLE) {
            kelpie__sim_object_unref(object);
        }
        if (place < 0) {
            return place;
        }
        KELPIE_ASSERT(place == (int)i);
    }
    return 0;
}

static int spawn_session(struct sim_process *child, const struct kelpie_os_spawn *spawn,
                         const char **out_step) {
    if ((spawn->flags & KELPIE_OS_SPAWN_NEW_SESSION) != 0) {
        child->session = child->pid;
        child->group = child->pid;
    }
    if ((spawn->flags & KELPIE_OS_SPAWN_CONTROLLING_TERMINAL) == 0) {
        return 0;
    }
    struct sim_object *terminal = kelpie__sim_handle_object(child, 0);
    *out_step = "terminal";
    return terminal == NULL ? -EBADF : kelpie__sim_terminal_control(terminal, child);
}

static int spawn_become(const struct sim_process *parent, struct sim_process *child,
                        const struct kelpie_os_spawn *spawn, const char **out_step) {
    if ((spawn->flags & KELPIE_OS_SPAWN_CREDENTIALS) == 0) {
        return 0;
    }
    if (parent->uid != 0) {
        *out_step = "groups";
        return -EPERM;
    }
    child->uid = spawn->uid;
    child->gid = spawn->gid;
    return 0;
}

/* Relative to the child's directory. */
static int spawn_absolute(const char *directory, const char *path, char out[SIM_PATH_BYTES_MAX]) {
    size_t length = strlen(path);
    size_t before = path[0] == '/' ? 0 : strlen(directory);
    bool needs_slash = before > 0 && directory[before - 1] != '/';
    if (before + length + 2 > SIM_PATH_BYTES_MAX) {
        return -ENAMETOOLONG;
    }
    memcpy(out, directory, before);
    if (needs_slash) {
        out[before] = '/';
        before += 1;
    }
    memcpy(out + before, path, length + 1);
    return 0;
}

static int spawn_directory(struct sim_process *child, const char *directory) {
    char path[SIM_PATH_BYTES_MAX];
    if (directory == NULL) {
        return 0;
    }
    int status = spawn_absolute(child->directory, directory, path);
    status = status < 0 ? status : kelpie__sim_disk_directory(child, path);
    if (status < 0) {
        return status;
    }
    size_t length = strlen(path);
    if (length >= sizeof(child->directory)) {
        return -ENAMETOOLONG;
    }
    memcpy(child->directory, path, length + 1);
    return 0;
}

static int exec_find(struct sim_process *child, const char *path, const struct sim_program **out) {
    char absolute[SIM_PATH_BYTES_MAX];
    char real[SIM_PATH_BYTES_MAX];
    const struct sim_world *world = child->machine->world;
    bool is_guest = child->machine->guest != NULL;
    int status = path[0] == '\0' ? -ENOENT : spawn_absolute(child->directory, path, absolute);
    status = status < 0 ? status : kelpie__sim_disk_executable(child, absolute, real);
    if (status < 0) {
        return status;
    }
    const struct sim_program *program = kelpie__sim_program_find(world, is_guest, absolute);
    program = program != NULL ? program : kelpie__sim_program_find(world, is_guest, real);
    *out = program;
    return program == NULL ? -ENOEXEC : 0;
}

static const char *search_path(const struct sim_process *child) {
    for (size_t i = 0; child->environment[i] != NULL; i += 1) {
        if (strncmp(child->environment[i], "PATH=", 5) == 0) {
            return child->environment[i] + 5;
        }
    }
    return SEARCH_DEFAULT;
}

/* As execvp(3): what is found but not allowed is remembered, the search goes on. */
static int exec_search(struct sim_process *child, const char *name,
                       const struct sim_program **out) {
    char path[SIM_PATH_BYTES_MAX];
    size_t name_length = strlen(name);
    bool was_denied = false;
    const char *next = search_path(child);
    while (next != NULL) { /* bound: the variable */
        const char *end = strchr(next, ':');
        size_t length = end == NULL ? strlen(next) : (size_t)(end - next);
        if (length + 1 + name_length < sizeof(path)) {
            memcpy(path, next, length);
            path[length] = '/';
            memcpy(path + length + (length > 0 ? 1 : 0), name, name_length + 1);
            int status = exec_find(child, path, out);
            was_denied = was_denied || status == -EACCES;
            if (status != -ENOENT && status != -ENOTDIR && status != -EACCES) {
                return status;
            }
        }
        next = end == NULL ? NULL : end + 1;
    }
    return was_denied ? -EACCES : -ENOENT;
}

/* "#!INTERPRETER": that one runs, with the script's path as its first argument. */
static int exec_script(struct sim_process *child, const char *path,
                       const struct sim_program **out) {
    char line[SCRIPT_LINE_BYTES + 1] = "";
    char absolute[SIM_PATH_BYTES_MAX];
    const char *argv[SCRIPT_ARGUMENTS_MAX + 2];
    int64_t size =
        kelpie__sim_disk_peek(child->machine->disk, false, path, line, SCRIPT_LINE_BYTES);
    if (size < 2 || line[0] != '#' || line[1] != '!') {
        return -ENOEXEC;
    }
    char *name = line + 2 + strspn(line + 2, " \t");
    name[strcspn(name, " \t\n")] = '\0';
    int status = exec_find(child, name, out);
    status = status < 0 ? status : spawn_absolute(child->directory, path, absolute);
    if (status < 0) {
        return status;
    }
    uint32_t count = 1;
    argv[0] = name;
    argv[1] = absolute;
    while (count < SCRIPT_ARGUMENTS_MAX && child->argv[count] != NULL) {
        argv[count + 1] = child->argv[count];
        count += 1;
    }
    argv[count + 1] = NULL;
    return kelpie__sim_process_replace_argv(child, argv) ? 0 : -ENOMEM;
}

/* What a child does behind its handles: session, user, directory; its program, or -errno with the
 * step that failed. */
static int spawn_program(const struct sim_process *parent, struct sim_process *child,
                         const struct kelpie_os_spawn *spawn, const struct sim_program **out,
                         const char **out_step) {
    int status = spawn_session(child, spawn, out_step);
    status = status < 0 ? status : spawn_become(parent, child, spawn, out_step);
    if (status == 0) {
        *out_step = "working directory";
        status = spawn_directory(child, spawn->directory);
    }
    if (status == 0) {
        bool searches =
            (spawn->flags & KELPIE_OS_SPAWN_SEARCH_PATH) != 0 && strchr(spawn->path, '/') == NULL;
        *out_step = "exec";
        status =
            searches ? exec_search(child, spawn->path, out) : exec_find(child, spawn->path, out);
        if (status == -ENOEXEC) {
            status = exec_script(child, spawn->path, out);
        }
    }
    return status;
}

/* The child's program, or -errno with the step that failed. The cgroup comes last: a guest counts
 * what is born. */
static int spawn_prepare(struct sim_process *parent, struct sim_process *child,
                         const struct kelpie_os_spawn *spawn, const struct sim_program **out,
                         const char **out_step) {
    const char *const *environment =
        spawn->environment != NULL ? spawn->environment : (const char *const *)parent->environment;
    *out_step = "clone";
    int status = kelpie__sim_process_arguments(child, spawn->argv, environment) ? 0 : -ENOMEM;
    if (status == 0) {
        *out_step = "pass handles";
        status = spawn_handles(parent, child, spawn);
    }
    status = status < 0 ? status : spawn_program(parent, child, spawn, out, out_step);
    if (status == 0 && child->machine->guest != NULL) {
        status = kelpie__sim_guest_spawned(parent, child, spawn, out_step);
    }
    return status;
}

/* A handle first: what cannot be given to the parent is not born. */
static int spawn_child(struct sim_process *parent, const struct kelpie_os_spawn *spawn,
                       int *out_process, int32_t *out_pid, const char **out_step) {
    const struct sim_program *program = NULL;
    bool is_orphan = (spawn->flags & KELPIE_OS_SPAWN_ORPHAN) != 0;
    struct sim_machine *machine = parent->machine;
    struct sim_process *child = kelpie__sim_process_new(machine, parent, spawn->path, "");
    int handle = KELPIE_OS_NO_HANDLE;
    *out_step = "clone";
    if (child == NULL) {
        return -EAGAIN;
    }
    child->dies_with_parent = (spawn->flags & KELPIE_OS_SPAWN_DIE_WITH_PARENT) != 0;
    int status = spawn_prepare(parent, child, spawn, &program, out_step);
    if (status == 0 && !is_orphan) {
        handle = kelpie__sim_process_handle(parent, child);
        *out_step = handle < 0 ? "clone" : *out_step;
        status = handle < 0 ? handle : 0;
    }
    if (status == 0) {
        memcpy(child->role, program->role, sizeof(child->role));
        *out_step = "clone";
        if (!kelpie__sim_process_begin(child, program->main, program->stack_bytes)) {
            kelpie__ignore(is_orphan ? 0 : kelpie__sim_handle_close(parent, handle));
            status = -ENOMEM;
        }
    }
    if (status < 0) {
        kelpie__sim_process_drop(child);
        return status;
    }
    if (is_orphan) {
        kelpie__sim_process_orphan(child);
    } else {
        *out_process = handle;
    }
    *out_pid = child->pid;
    *out_step = "";
    return 0;
}

int kelpie__sim_os_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                         int *out_process, int32_t *out_pid, const char **out_step) {
    struct sim_call call;
    struct sim_process *parent = kelpie__sim_process_of(os);
    int32_t pid = 0;
    KELPIE_ASSERT(spawn->handle_count <= KELPIE_OS_SPAWN_HANDLES_MAX);
    *out_step = "clone";
    if (!kelpie__sim_enter(&call, os, SIM_OP_spawn, KELPIE_OS_NO_HANDLE, spawn->path)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int status = spawn_child(parent, spawn, out_process, &pid, out_step);
    if (status == 0) {
        *out_pid = pid;
    }
    return (int)kelpie__sim_leave(&call, status, &pid, sizeof(pid));
}

/* ---- a child in advance (os_linux_ready.c) ------------------------------------------------------
 */

static int ready_make(struct sim_process *parent, const struct kelpie_os_spawn *spawn,
                      int32_t *out_pid) {
    struct sim_process *child =
        kelpie__sim_process_new(parent->machine, parent, parent->path, "ready");
    if (child == NULL) {
        return -EAGAIN;
    }
    child->awaits_program = true;
    bool is_made =
        kelpie__sim_process_arguments(child, (const char *const *)parent->argv,
                                      (const char *const *)parent->environment); /* its memory */
    int status = is_made ? spawn_handles(parent, child, spawn) : -ENOMEM;
    status = status < 0 ? status : kelpie__sim_guest_made_ready(parent, child, spawn);
    if (status < 0) {
        kelpie__sim_process_drop(child);
        return status;
    }
    *out_pid = child->pid;
    kelpie__sim_guest_ready_fault(parent, child);
    return 0;
}

int kelpie__sim_os_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                              int32_t *out_pid) {
    struct sim_call call;
    struct sim_process *parent = kelpie__sim_process_of(os);
    int32_t pid = 0;
    KELPIE_ASSERT(parent->machine->guest != NULL);
    if (!kelpie__sim_enter(&call, os, SIM_OP_make_ready, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int status = ready_make(parent, spawn, &pid);
    if (status == 0) {
        *out_pid = pid;
    }
    return (int)kelpie__sim_leave(&call, status, &pid, sizeof(pid));
}

/* Stopped by somebody, it may go on in time. False: it has ended, or does not hear. */
static bool ready_hears(struct sim_process *parent, const struct sim_process *child) {
    for (unsigned i = 0;
         i < READY_LOOK_COUNT && child->is_stopped && child->state < SIM_PROCESS_ZOMBIE; i += 1) {
        kelpie__sim_process_sleep(parent, READY_LOOK_NS);
    }
    return child->state < SIM_PROCESS_ZOMBIE && !child->is_stopped;
}

/* Its streams are there already; what it had of its parent's memory goes. */
static int ready_replace(struct sim_process *child, const struct kelpie_os_spawn *spawn,
                         const char **out_step) {
    size_t length = strnlen(spawn->path, sizeof(child->path) - 1);
    const char *const *environment = spawn->environment != NULL
                                         ? spawn->environment
                                         : (const char *const *)child->parent->environment;
    if (spawn->handles[0] == KELPIE_OS_NO_HANDLE) {
        struct sim_object *null = kelpie__sim_object_null(child->machine);
        *out_step = "pass handles";
        if (null == NULL) {
            return -ENOMEM;
        }
        kelpie__ignore(kelpie__sim_handle_close(child, 0)); /* it has it */
        int place = kelpie__sim_handle_install(child, null);
        KELPIE_ASSERT(place == 0);
        kelpie__sim_object_unref(null);
    }
    memcpy(child->path, spawn->path, length);
    child->path[length] = '\0';
    *out_step = "exec";
    return kelpie__sim_process_arguments(child, spawn->argv, environment) ? 0 : -ENOMEM;
}

static int ready_run(struct sim_process *parent, struct sim_process *child,
                     const struct kelpie_os_spawn *spawn, const char **out_step) {
    const struct sim_program *program = NULL;
    kelpie__sim_guest_ready_fault(parent, child);
    if (!ready_hears(parent, child)) {
        return -ESRCH;
    }
    int status = ready_replace(child, spawn, out_step);
    status = status < 0 ? status : spawn_program(parent, child, spawn, &program, out_step);
    status = status < 0 ? status : kelpie__sim_guest_ordered(parent, child, spawn, out_step);
    if (status < 0) {
        return status;
    }
    memcpy(child->role, program->role, sizeof(child->role));
    child->awaits_program = false;
    *out_step = "exec";
    return kelpie__sim_process_begin(child, program->main, program->stack_bytes) ? 0 : -ENOMEM;
}

int kelpie__sim_os_run_ready(struct kelpie_os *os, int32_t pid, const struct kelpie_os_spawn *spawn,
                             const char **out_step) {
    struct sim_call call;
    struct sim_process *parent = kelpie__sim_process_of(os);
    struct sim_process *child = kelpie__sim_process_find(parent->machine, pid);
    KELPIE_ASSERT(child != NULL && child->parent == parent);
    KELPIE_ASSERT(child->awaits_program && !child->is_ending);
    *out_step = "exec";
    bool goes_on = kelpie__sim_enter(&call, os, SIM_OP_run_ready, KELPIE_OS_NO_HANDLE, spawn->path);
    int status = goes_on ? ready_run(parent, child, spawn, out_step) : -call.fault_errno;
    if (status < 0) { /* nothing of it is left */
        kelpie__sim_process_end(child, true, SIGKILL);
        kelpie__sim_process_collect(child);
    }
    return (int)kelpie__sim_leave(&call, status, &pid, sizeof(pid));
}

/* ---- a process by its handle -----------------------------------------------------------------
 */

int kelpie__sim_os_open_process(struct kelpie_os *os, int32_t pid) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    if (!kelpie__sim_enter(&call, os, SIM_OP_open_process, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    struct sim_process *subject = kelpie__sim_process_find(process->machine, pid);
    int handle = subject == NULL ? -ESRCH : kelpie__sim_process_handle(process, subject);
    return (int)kelpie__sim_leave(&call, handle, &pid, sizeof(pid));
}

static int signal_subject(struct sim_process *process, int handle, int signal) {
    struct sim_process *subject =
        kelpie__sim_process_subject(kelpie__sim_handle_object(process, handle));
    if (subject == NULL) {
        return -EBADF;
    }
    if (subject->state == SIM_PROCESS_GONE) {
        return -ESRCH;
    }
    if (signal > 64) {
        return -EINVAL;
    }
    if (process->uid != 0 && process->uid != subject->uid) {
        return -EPERM;
    }
    kelpie__sim_process_signal(subject, signal);
    return 0;
}

int kelpie__sim_os_signal(struct kelpie_os *os, int handle, int signal) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    if (!kelpie__sim_enter(&call, os, SIM_OP_signal, handle, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int status = signal_subject(process, handle, signal);
    return (int)kelpie__sim_leave(&call, status, &signal, sizeof(signal));
}

int kelpie__sim_os_reap(struct kelpie_os *os, int handle, struct kelpie_os_exit *out) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    if (!kelpie__sim_enter(&call, os, SIM_OP_reap, handle, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    struct sim_process *subject =
        kelpie__sim_process_subject(kelpie__sim_handle_object(process, handle));
    int status = 0;
    if (subject == NULL) {
        status = -EBADF;
    } else if (subject->parent != process) {
        status = -ECHILD; /* waitid(2): not our child, or reaped */
    } else if (subject->state != SIM_PROCESS_ZOMBIE) {
        status = -EAGAIN;
    } else {
        *out = subject->exit;
        call.argument = (uint64_t)(uint32_t)out->value << 1 | (out->is_signalled ? 1 : 0);
        kelpie__sim_process_collect(subject);
    }
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}
