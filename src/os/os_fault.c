/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A table that wraps any other and applies a fault plan to its calls. Test builds of the real
 * programs only. Whether a rule fires is a hash of (seed, point, role, n-th matching call), not a
 * draw: a call that is added elsewhere moves nothing. Every fault that fired is written to
 * KELPIE_FAULT_LOG as a rule with nth=, which replays alone.
 *
 * Guest operations pass through: they are the agent's, whose faults are made on its channel.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/os.h"
#include "os/os_fault_plan.h"

#define FAULT_HANDLE_MAX 1024
#define FAULT_CHILD_MAX 64
#define FAULT_PLAN_BYTES_MAX 65536u

struct fault_handle {
    const char *label; /* a static string, or NULL */
    uint32_t bits;     /* that are watched */
    uint64_t cookie;
    int64_t held_until_ns; /* 0: not held back */
};

struct fault_child {
    int process; /* 0: none */
    char path[128];
};

struct os_fault {
    struct kelpie_os os;     /* first */
    struct kelpie_os *inner; /* borrowed: for ever */
    const char *role;
    uint64_t seed;
    int64_t start_ns;
    int log; /* -1: none */
    struct kelpie_fault_plan plan;
    struct fault_handle handles[FAULT_HANDLE_MAX];
    struct fault_child children[FAULT_CHILD_MAX];
};

static struct os_fault *fault_of(struct kelpie_os *os) {
    KELPIE_ASSERT(os->context != NULL);
    return os->context;
}

static struct fault_handle *handle_of(struct os_fault *fault, int handle) {
    return handle >= 0 && handle < FAULT_HANDLE_MAX ? &fault->handles[handle] : NULL;
}

/* ---- does a rule fire? ----------------------------------------------------------------------- */

static uint64_t fault_hash(const struct os_fault *fault, const struct kelpie_fault_rule *rule) {
    uint64_t hash = fault->seed ^ UINT64_C(0xcbf29ce484222325);
    for (const char *next = rule->point; *next != '\0'; next += 1) {
        hash = (hash ^ (uint8_t)*next) * UINT64_C(0x100000001b3);
    }
    for (const char *next = fault->role; *next != '\0'; next += 1) {
        hash = (hash ^ (uint8_t)*next) * UINT64_C(0x100000001b3);
    }
    hash ^= rule->calls * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static bool point_matches(const struct kelpie_fault_rule *rule, const char *operation,
                          const char *label) {
    char labelled[KELPIE_FAULT_TEXT_MAX];
    if (strcmp(rule->point, "*") == 0 || strcmp(rule->point, operation) == 0) {
        return true;
    }
    if (label == NULL) {
        return false;
    }
    snprintf(labelled, sizeof(labelled), "%s.%s", label, operation);
    return strcmp(rule->point, labelled) == 0;
}

static bool trigger_fires(const struct os_fault *fault, const struct kelpie_fault_rule *rule) {
    if (rule->has_window) {
        uint64_t now_ns = (uint64_t)(fault->inner->now(fault->inner, KELPIE_OS_CLOCK_MONOTONIC) -
                                     fault->start_ns);
        if (now_ns < rule->window_begin_ns || now_ns >= rule->window_end_ns) {
            return false;
        }
    }
    switch (rule->trigger) {
    case KELPIE_FAULT_ALWAYS:
        return true;
    case KELPIE_FAULT_PROBABILITY:
        return fault_hash(fault, rule) % KELPIE_FAULT_PER_ONE < rule->value;
    case KELPIE_FAULT_NTH:
        return rule->calls == rule->value;
    case KELPIE_FAULT_EVERY:
        return rule->calls % rule->value == 0;
    }
    return false;
}

static void fault_log(const struct os_fault *fault, const struct kelpie_fault_rule *fired) {
    char line[KELPIE_FAULT_LINE_MAX];
    struct kelpie_fault_rule rule = *fired;
    rule.trigger = KELPIE_FAULT_NTH;
    rule.value = fired->calls;
    rule.has_window = false;
    rule.max = 0;
    snprintf(rule.role, sizeof(rule.role), "%s", fault->role);
    size_t length = kelpie__fault_rule_format(&rule, line);
    line[length] = '\n';
    if (fault->log >= 0) {
        ssize_t written = write(fault->log, line, length + 1);
        kelpie__ignore(written); /* a test without its log fails by itself */
    }
}

/* The first rule that fires for this call, or NULL. All that match count it, so that a rule can be
 * taken away without moving the others. `path` may be NULL. */
static struct kelpie_fault_rule *fault_find(struct os_fault *fault, const char *operation,
                                            int handle, const char *path) {
    const struct fault_handle *entry = handle_of(fault, handle);
    struct kelpie_fault_rule *found = NULL;
    for (uint32_t i = 0; i < fault->plan.count; i += 1) {
        struct kelpie_fault_rule *rule = &fault->plan.rules[i];
        bool is_of_child =
            rule->action == KELPIE_FAULT_KILL_CHILD || rule->action == KELPIE_FAULT_STOP_CHILD;
        bool path_matches = rule->path[0] == '\0' || is_of_child ||
                            (path != NULL && kelpie__fault_glob(rule->path, path));
        if (!point_matches(rule, operation, entry != NULL ? entry->label : NULL) ||
            (rule->role[0] != '\0' && strcmp(rule->role, fault->role) != 0) || !path_matches ||
            (rule->max != 0 && rule->fired >= rule->max)) {
            continue;
        }
        rule->calls += 1;
        if (found == NULL && trigger_fires(fault, rule)) {
            rule->fired += 1;
            fault_log(fault, rule);
            found = rule;
        }
    }
    return found;
}

static void signal_children(struct os_fault *fault, const char *pattern, int signal) {
    for (unsigned i = 0; i < FAULT_CHILD_MAX; i += 1) {
        struct fault_child *child = &fault->children[i];
        if (child->process > 0 &&
            (pattern[0] == '\0' || kelpie__fault_glob(pattern, child->path))) {
            kelpie__ignore(fault->inner->signal(fault->inner, child->process, signal));
        }
    }
}

/* Does what a rule asks for that is not about the call's bytes. -errno: the call fails with it. */
static int fault_act(struct os_fault *fault, const struct kelpie_fault_rule *rule) {
    if (rule == NULL) {
        return 0;
    }
    switch (rule->action) {
    case KELPIE_FAULT_ERRNO:
        return -(int)rule->argument;
    case KELPIE_FAULT_KILL:
        kelpie__ignore(raise(SIGKILL));
        return 0;
    case KELPIE_FAULT_STOP:
        kelpie__ignore(raise(SIGSTOP));
        return 0;
    case KELPIE_FAULT_KILL_CHILD:
        signal_children(fault, rule->path, SIGKILL);
        return 0;
    case KELPIE_FAULT_STOP_CHILD:
        signal_children(fault, rule->path, SIGSTOP);
        return 0;
    case KELPIE_FAULT_DELAY:
    case KELPIE_FAULT_SHORT:
    case KELPIE_FAULT_MUTATE:
    case KELPIE_FAULT_DROP:
        return 0;
    case KELPIE_FAULT_LIE:
    case KELPIE_FAULT_POWER_LOSS:
    case KELPIE_FAULT_JUMP:
    case KELPIE_FAULT_FULL:
    case KELPIE_FAULT_READ_ONLY:
    case KELPIE_FAULT_ROT:
    case KELPIE_FAULT_SWIZZLE:
    case KELPIE_FAULT_NAMED:
        KELPIE_ASSERT(!rule->is_simulated); /* the plan's parser refuses them */
        return 0;
    }
    return 0;
}

static int fault_point(struct os_fault *fault, const char *operation, int handle,
                       const char *path) {
    return fault_act(fault, fault_find(fault, operation, handle, path));
}

/* ---- operations whose calls only fail or not ------------------------------------------------- */

#define FAULT_CALL(result_type, name, handle, path, parameters, ...)                               \
    static result_type fault_##name parameters {                                                   \
        struct os_fault *fault = fault_of(os);                                                     \
        int status = fault_point(fault, #name, handle, path);                                      \
        return status < 0 ? status : fault->inner->name(fault->inner, __VA_ARGS__);                \
    }

FAULT_CALL(int, random, -1, NULL, (struct kelpie_os * os, void *out, size_t count), out, count)
FAULT_CALL(int, real_path, -1, path,
           (struct kelpie_os * os, const char *path, char *out, size_t capacity), path, out,
           capacity)
FAULT_CALL(int, open_process, -1, NULL, (struct kelpie_os * os, int32_t pid), pid)
FAULT_CALL(int, signal, process, NULL, (struct kelpie_os * os, int process, int signal), process,
           signal)
FAULT_CALL(int, page_map, -1, NULL,
           (struct kelpie_os * os, int32_t pid, uint64_t address, uint8_t *out, size_t count), pid,
           address, out, count)
FAULT_CALL(int64_t, read_memory, -1, NULL,
           (struct kelpie_os * os, int32_t pid, uint64_t address, void *out, size_t count), pid,
           address, out, count)
FAULT_CALL(int64_t, write_memory, -1, NULL,
           (struct kelpie_os * os, int32_t pid, uint64_t address, const void *bytes, size_t count),
           pid, address, bytes, count)
FAULT_CALL(int, listen, directory, name,
           (struct kelpie_os * os, int directory, const char *name, int backlog), directory, name,
           backlog)
FAULT_CALL(int, accept, listener, NULL, (struct kelpie_os * os, int listener), listener)
FAULT_CALL(int, connect, directory, name, (struct kelpie_os * os, int directory, const char *name),
           directory, name)
FAULT_CALL(int, pair, -1, NULL, (struct kelpie_os * os, int out[2]), out)
FAULT_CALL(int, pipe, -1, NULL, (struct kelpie_os * os, int out[2]), out)
FAULT_CALL(int, peer, stream, NULL, (struct kelpie_os * os, int stream, struct kelpie_os_peer *out),
           stream, out)
FAULT_CALL(int64_t, send, stream, NULL,
           (struct kelpie_os * os, int stream, const void *bytes, size_t count, const int *handles,
            uint32_t handle_count),
           stream, bytes, count, handles, handle_count)
FAULT_CALL(int64_t, receive, stream, NULL,
           (struct kelpie_os * os, int stream, void *out, size_t count, int *handles,
            uint32_t *inout_count),
           stream, out, count, handles, inout_count)
FAULT_CALL(int, shut_write, stream, NULL, (struct kelpie_os * os, int stream), stream)
FAULT_CALL(int, open, directory, path,
           (struct kelpie_os * os, int directory, const char *path, uint32_t flags, uint32_t mode),
           directory, path, flags, mode)
FAULT_CALL(int64_t, pread, file, NULL,
           (struct kelpie_os * os, int file, void *out, size_t count, uint64_t offset), file, out,
           count, offset)
FAULT_CALL(int64_t, pwrite, file, NULL,
           (struct kelpie_os * os, int file, const void *bytes, size_t count, uint64_t offset),
           file, bytes, count, offset)
FAULT_CALL(int, truncate, file, NULL, (struct kelpie_os * os, int file, uint64_t size), file, size)
FAULT_CALL(int, sync, file, NULL, (struct kelpie_os * os, int file), file)
FAULT_CALL(int, rename, from_directory, to,
           (struct kelpie_os * os, int from_directory, const char *from, int to_directory,
            const char *to, bool may_replace),
           from_directory, from, to_directory, to, may_replace)
FAULT_CALL(int, unlink, directory, name,
           (struct kelpie_os * os, int directory, const char *name, bool is_directory), directory,
           name, is_directory)
FAULT_CALL(int, link, file, name,
           (struct kelpie_os * os, int file, int directory, const char *name), file, directory,
           name)
FAULT_CALL(int, mkdir, directory, name,
           (struct kelpie_os * os, int directory, const char *name, uint32_t mode), directory, name,
           mode)
FAULT_CALL(int, list, directory, NULL,
           (struct kelpie_os * os, int directory, uint64_t *inout_cursor, char *out,
            size_t capacity),
           directory, inout_cursor, out, capacity)
FAULT_CALL(int, stat, directory, path,
           (struct kelpie_os * os, int directory, const char *path, bool follow,
            struct kelpie_os_stat *out),
           directory, path, follow, out)
FAULT_CALL(int, space, handle, NULL,
           (struct kelpie_os * os, int handle, struct kelpie_os_space *out), handle, out)
FAULT_CALL(int, lock, file, NULL, (struct kelpie_os * os, int file), file)
FAULT_CALL(int, lock_shared, file, NULL, (struct kelpie_os * os, int file), file)
FAULT_CALL(int, next_data, file, NULL,
           (struct kelpie_os * os, int file, uint64_t offset, uint64_t *out_start,
            uint64_t *out_end),
           file, offset, out_start, out_end)
FAULT_CALL(int, clone_range, from, NULL,
           (struct kelpie_os * os, int from, uint64_t from_offset, int to, uint64_t to_offset,
            uint64_t count),
           from, from_offset, to, to_offset, count)
FAULT_CALL(int, memory_file, -1, name,
           (struct kelpie_os * os, const char *name, uint64_t size_bytes), name, size_bytes)

/* ---- operations with more to them ------------------------------------------------------------ */

static int64_t fault_now(struct kelpie_os *os, enum kelpie_os_clock clock) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->now(fault->inner, clock);
}

static uint64_t fault_cycles(struct kelpie_os *os) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->cycles(fault->inner);
}

static void *fault_memory(struct kelpie_os *os, void *old, size_t old_bytes, size_t new_bytes) {
    struct os_fault *fault = fault_of(os);
    if (new_bytes > old_bytes && fault_point(fault, "memory", -1, NULL) < 0) {
        return NULL;
    }
    return fault->inner->memory(fault->inner, old, old_bytes, new_bytes);
}

static int fault_identity(struct kelpie_os *os, struct kelpie_os_identity *out) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->identity(fault->inner, out);
}

static const char *fault_environment(struct kelpie_os *os, const char *name) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->environment(fault->inner, name);
}

static int fault_watch(struct kelpie_os *os, int handle, uint32_t bits, uint64_t cookie) {
    struct os_fault *fault = fault_of(os);
    struct fault_handle *entry = handle_of(fault, handle);
    if (entry != NULL) {
        entry->bits = bits;
        entry->cookie = cookie;
        if (entry->held_until_ns != 0) {
            return 0; /* watched again when it is let go */
        }
    }
    int status = bits == 0 ? 0 : fault_point(fault, "watch", handle, NULL);
    return status < 0 ? status : fault->inner->watch(fault->inner, handle, bits, cookie);
}

/* Lets go what was held back long enough. Returns when the next one is due, or -1. */
static int64_t release_held(struct os_fault *fault) {
    int64_t now_ns = fault->inner->now(fault->inner, KELPIE_OS_CLOCK_MONOTONIC);
    int64_t next_ns = -1;
    for (int i = 0; i < FAULT_HANDLE_MAX; i += 1) {
        struct fault_handle *entry = &fault->handles[i];
        if (entry->held_until_ns == 0) {
            continue;
        }
        if (entry->held_until_ns <= now_ns) {
            entry->held_until_ns = 0;
            if (entry->bits != 0) {
                kelpie__ignore(fault->inner->watch(fault->inner, i, entry->bits, entry->cookie));
            }
        } else if (next_ns < 0 || entry->held_until_ns < next_ns) {
            next_ns = entry->held_until_ns;
        }
    }
    return next_ns;
}

static int fault_wait(struct kelpie_os *os, struct kelpie_os_event *out, uint32_t max,
                      int64_t deadline_ns) {
    struct os_fault *fault = fault_of(os);
    int status = fault_point(fault, "wait", -1, NULL);
    if (status < 0) {
        return status;
    }
    int64_t held_ns = release_held(fault);
    bool held_is_first = held_ns >= 0 && (deadline_ns < 0 || held_ns < deadline_ns);
    return fault->inner->wait(fault->inner, out, max, held_is_first ? held_ns : deadline_ns);
}

static int fault_wait_handle(struct kelpie_os *os) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->wait_handle(fault->inner);
}

static int fault_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn, int *out_process,
                       int32_t *out_pid, const char **out_step) {
    struct os_fault *fault = fault_of(os);
    int status = fault_point(fault, "spawn", -1, spawn->path);
    if (status < 0) {
        *out_step = "fault plan";
        return status;
    }
    status = fault->inner->spawn(fault->inner, spawn, out_process, out_pid, out_step);
    for (unsigned i = 0; status >= 0 && out_process != NULL && i < FAULT_CHILD_MAX; i += 1) {
        struct fault_child *child = &fault->children[i];
        if (child->process == 0) {
            child->process = *out_process;
            snprintf(child->path, sizeof(child->path), "%s", spawn->path);
            break;
        }
    }
    return status;
}

static int fault_reap(struct kelpie_os *os, int process, struct kelpie_os_exit *out) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->reap(fault->inner, process, out);
}

static void hold_back(struct os_fault *fault, int handle, uint64_t delay_ms) {
    struct fault_handle *entry = handle_of(fault, handle);
    if (entry == NULL || entry->bits == 0) {
        return;
    }
    kelpie__ignore(fault->inner->watch(fault->inner, handle, 0, 0));
    entry->held_until_ns =
        fault->inner->now(fault->inner, KELPIE_OS_CLOCK_MONOTONIC) + (int64_t)delay_ms * 1000000;
}

static int64_t fault_read(struct kelpie_os *os, int handle, void *out, size_t count) {
    struct os_fault *fault = fault_of(os);
    struct kelpie_fault_rule *rule = fault_find(fault, "read", handle, NULL);
    int status = fault_act(fault, rule);
    if (status < 0) {
        return status;
    }
    if (rule != NULL && rule->action == KELPIE_FAULT_DELAY) {
        hold_back(fault, handle, rule->argument);
        return -EAGAIN;
    }
    if (rule != NULL && rule->action == KELPIE_FAULT_SHORT && rule->argument < count) {
        count = rule->argument > 0 ? (size_t)rule->argument : 1;
    }
    int64_t got = fault->inner->read(fault->inner, handle, out, count);
    if (rule != NULL && got > 0 && rule->action == KELPIE_FAULT_MUTATE) {
        uint64_t hash = fault_hash(fault, rule);
        uint64_t at = rule->argument > 0 ? rule->argument - 1 : hash;
        ((uint8_t *)out)[at % (uint64_t)got] ^= (uint8_t)(1u << (hash >> 32) % 8);
    }
    if (rule != NULL && got > 0 && rule->action == KELPIE_FAULT_DROP) {
        return -EAGAIN;
    }
    return got;
}

static int64_t fault_write(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    struct os_fault *fault = fault_of(os);
    struct kelpie_fault_rule *rule = fault_find(fault, "write", handle, NULL);
    int status = fault_act(fault, rule);
    if (status < 0) {
        return status;
    }
    if (rule != NULL && rule->action == KELPIE_FAULT_DROP) {
        return (int64_t)count;
    }
    if (rule != NULL && rule->action == KELPIE_FAULT_SHORT && rule->argument < count) {
        count = rule->argument > 0 ? (size_t)rule->argument : 1;
    }
    return fault->inner->write(fault->inner, handle, bytes, count);
}

static int fault_close(struct kelpie_os *os, int handle) {
    struct os_fault *fault = fault_of(os);
    struct fault_handle *entry = handle_of(fault, handle);
    if (entry != NULL) {
        *entry = (struct fault_handle){0};
    }
    for (unsigned i = 0; i < FAULT_CHILD_MAX; i += 1) {
        if (fault->children[i].process == handle) {
            fault->children[i] = (struct fault_child){0};
        }
    }
    return fault->inner->close(fault->inner, handle);
}

static void fault_label(struct kelpie_os *os, int handle, const char *label) {
    struct os_fault *fault = fault_of(os);
    struct fault_handle *entry = handle_of(fault, handle);
    if (entry != NULL) {
        entry->label = label;
    }
    fault->inner->label(fault->inner, handle, label);
}

static int fault_open_signals(struct kelpie_os *os, const int *signals, uint32_t count) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->open_signals(fault->inner, signals, count);
}

static int fault_take_signal(struct kelpie_os *os, int handle) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->take_signal(fault->inner, handle);
}

static int fault_is_terminal(struct kelpie_os *os, int handle) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->is_terminal(fault->inner, handle);
}

static int fault_terminal_size(struct kelpie_os *os, int handle, uint16_t *rows,
                               uint16_t *columns) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->terminal_size(fault->inner, handle, rows, columns);
}

static int fault_set_terminal_size(struct kelpie_os *os, int handle, uint16_t rows,
                                   uint16_t columns) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->set_terminal_size(fault->inner, handle, rows, columns);
}

static int fault_set_terminal_raw(struct kelpie_os *os, int handle, bool is_raw) {
    struct os_fault *fault = fault_of(os);
    return fault->inner->set_terminal_raw(fault->inner, handle, is_raw);
}

static const struct kelpie_os fault_table = {
    .now = fault_now,
    .cycles = fault_cycles,
    .random = fault_random,
    .memory = fault_memory,
    .identity = fault_identity,
    .environment = fault_environment,
    .real_path = fault_real_path,
    .watch = fault_watch,
    .wait = fault_wait,
    .wait_handle = fault_wait_handle,
    .spawn = fault_spawn,
    .open_process = fault_open_process,
    .signal = fault_signal,
    .reap = fault_reap,
    .page_map = fault_page_map,
    .read_memory = fault_read_memory,
    .write_memory = fault_write_memory,
    .listen = fault_listen,
    .accept = fault_accept,
    .connect = fault_connect,
    .pair = fault_pair,
    .pipe = fault_pipe,
    .peer = fault_peer,
    .read = fault_read,
    .write = fault_write,
    .send = fault_send,
    .receive = fault_receive,
    .shut_write = fault_shut_write,
    .close = fault_close,
    .label = fault_label,
    .open = fault_open,
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .truncate = fault_truncate,
    .sync = fault_sync,
    .rename = fault_rename,
    .unlink = fault_unlink,
    .link = fault_link,
    .mkdir = fault_mkdir,
    .list = fault_list,
    .stat = fault_stat,
    .space = fault_space,
    .lock = fault_lock,
    .lock_shared = fault_lock_shared,
    .clone_range = fault_clone_range,
    .next_data = fault_next_data,
    .memory_file = fault_memory_file,
    .open_signals = fault_open_signals,
    .take_signal = fault_take_signal,
    .is_terminal = fault_is_terminal,
    .terminal_size = fault_terminal_size,
    .set_terminal_size = fault_set_terminal_size,
    .set_terminal_raw = fault_set_terminal_raw,
};

struct kelpie_os *kelpie__os_fault_wrap(struct kelpie_os *inner, const char *role,
                                        const char *plan) {
    struct os_fault *fault = calloc(1, sizeof(*fault));
    char problem[KELPIE_FAULT_PROBLEM_MAX] = "";
    if (fault == NULL) {
        return NULL;
    }
    if (!kelpie__fault_plan_parse(plan, &fault->plan, problem)) {
        fprintf(stderr, "kelpie: fault plan, %s\n", problem);
        free(fault);
        return NULL;
    }
    const char *seed = getenv("KELPIE_FAULT_SEED");
    const char *log = getenv("KELPIE_FAULT_LOG");
    fault->os = fault_table;
    fault->os.context = fault;
    fault->os.guest = inner->guest;
    fault->os.host = inner->host;
    fault->inner = inner;
    fault->role = role;
    fault->seed = seed == NULL ? fault->plan.header.seed : strtoull(seed, NULL, 0);
    fault->start_ns = inner->now(inner, KELPIE_OS_CLOCK_MONOTONIC);
    fault->log = log == NULL ? -1 : open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return &fault->os;
}

void kelpie__os_fault_unwrap(struct kelpie_os *os) {
    struct os_fault *fault = fault_of(os);
    if (fault->log >= 0) {
        close(fault->log);
    }
    free(fault);
}

/* The text of "@FILE"; NULL: it cannot be read. Never freed: it is read once, at a program's start.
 */
static const char *read_plan(const char *path) {
    char *text = calloc(1, FAULT_PLAN_BYTES_MAX);
    FILE *file = fopen(path, "re");
    if (text != NULL && file != NULL) {
        text[fread(text, 1, FAULT_PLAN_BYTES_MAX - 1, file)] = '\0';
    }
    if (file != NULL) {
        fclose(file);
    }
    return file == NULL ? NULL : text;
}

struct kelpie_os *kelpie__os_fault_from_environment(struct kelpie_os *inner, const char *role) {
    const char *plan = getenv("KELPIE_FAULT_PLAN");
    if (plan == NULL || plan[0] == '\0') {
        return inner;
    }
    plan = plan[0] == '@' ? read_plan(plan + 1) : plan;
    struct kelpie_os *os = plan == NULL ? NULL : kelpie__os_fault_wrap(inner, role, plan);
    if (os == NULL) {
        fprintf(stderr, "kelpie: KELPIE_FAULT_PLAN cannot be used\n");
        exit(125);
    }
    return os;
}
