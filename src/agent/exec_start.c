/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The birth of a command: its arguments arrive as a stream, since they may be larger than a
 * message; with their last byte it is spawned into its own session and cgroup, and exec.start is
 * answered.
 */
#include <errno.h>
#include <linux/resource.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/command.h"
#include "agent/exec.h"
#include "agent/pipes.h"
#include "agent/users.h"
#include "core/json.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define START_ANSWER_DELAY_NS (10 * KELPIE_NS_PER_MS) /* what a short command takes at most */
/* What a command line above this size needs of the stack limit: the kernel gives arguments a
 * quarter of it. */
#define START_ARGUMENTS_LARGE_BYTES (1024 * 1024)
#define START_STACK_LARGE_BYTES (24ULL * 1024 * 1024)

/* Handles between spawn's two sides. */
struct start_pipes {
    int ours[3]; /* of input, output, error output */
    int theirs[3];
};

static void start_close_terminal(struct kelpie_agent_exec *exec) {
    if (exec->terminal >= 0) {
        kelpie__ignore(kelpie__os_close(exec->agent->os, exec->terminal));
        exec->terminal = KELPIE_OS_NO_HANDLE;
    }
}

static int start_open_terminal(struct kelpie_agent_exec *exec, struct start_pipes *out,
                               struct kelpie_error *error) {
    KELPIE_ASSERT(exec->options.has_terminal);
    KELPIE_ASSERT(exec->terminal < 0);
    int master = KELPIE_OS_NO_HANDLE;
    int slave = KELPIE_OS_NO_HANDLE;
    int status = kelpie__os_open_terminal(exec->agent->os, &master, &slave, exec->options.rows,
                                          exec->options.columns);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_EXEC, -status, "open a terminal");
    }
    exec->terminal = master;
    out->theirs[0] = slave;
    return 0;
}

static int start_open_pipes(struct kelpie_agent_exec *exec, struct start_pipes *out,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(!exec->options.has_terminal);
    KELPIE_ASSERT(out->ours[1] < 0 && out->theirs[1] < 0);
    int status =
        kelpie__agent_pipes_open(exec->agent->os, exec->options.has_input, out->ours, out->theirs);
    return status < 0 ? kelpie__fail(error, KELPIE_E_EXEC, -status, "make a pipe") : 0;
}

/* The limits that were asked for, and a larger stack for a command line that the kernel would
 * refuse without. */
static uint32_t start_limits(const struct kelpie_agent_exec *exec,
                             const struct kelpie_agent_command *command,
                             struct kelpie_os_limit *out) {
    uint32_t count = exec->options.limit_count;
    bool has_stack = false;
    KELPIE_ASSERT(count <= KELPIE_EXEC_LIMIT_COUNT_MAX);
    for (uint32_t i = 0; i < count; i += 1) {
        out[i] = exec->options.limits[i];
        has_stack = has_stack || out[i].resource == RLIMIT_STACK;
    }
    size_t bytes = exec->arguments_bytes + command->vector_bytes;
    if (!has_stack && bytes > START_ARGUMENTS_LARGE_BYTES) {
        out[count] = (struct kelpie_os_limit){
            .resource = RLIMIT_STACK, .soft = START_STACK_LARGE_BYTES, .hard = RLIM_INFINITY};
        count += 1;
    }
    return count;
}

/* What a child needs to know, in the memory of the caller: but for its handles and its cgroup. */
static void start_describe(const struct kelpie_agent_exec *exec,
                           const struct kelpie_agent_command *command,
                           const struct kelpie_agent_user *user, struct kelpie_os_limit *limits,
                           struct kelpie_os_spawn *out) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    KELPIE_ASSERT(command->path[0] != '\0');
    *out = (struct kelpie_os_spawn){
        .path = command->path,
        .argv = command->vector,
        .environment = command->environment,
        .directory = exec->options.directory[0] == '\0' ? NULL : exec->options.directory,
        .handle_count = 3,
        .flags = KELPIE_OS_SPAWN_NEW_SESSION,
        .limits = limits,
        .limit_count = start_limits(exec, command, limits),
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    if (exec->options.user[0] != '\0') {
        out->flags |= KELPIE_OS_SPAWN_CREDENTIALS;
        out->uid = user->uid;
        out->gid = user->gid;
        out->groups = user->groups;
        out->group_count = user->group_count;
    }
}

/* The process that was made in advance becomes the command: its number, or a negative errno value.
 * -ESRCH: there is none. Its pipes are `ours` then. */
static int start_ready(struct kelpie_agent_exec *exec, struct kelpie_os_spawn *spawn,
                       struct start_pipes *pipes, const char **out_step) {
    struct kelpie_agent_ready ready;
    struct kelpie_agent *agent = exec->agent;
    if (exec->options.has_terminal || !kelpie__agent_ready_take(agent, &ready)) {
        return -ESRCH;
    }
    const int handles[3] = {exec->options.has_input ? 0 : KELPIE_OS_NO_HANDLE, 1, 2};
    spawn->handles = handles;
    int status = kelpie__os_run_ready(agent->os, ready.pid, spawn, out_step);
    kelpie__agent_pipes_close(agent->os, ready.ours,
                              status < 0                ? 3
                              : exec->options.has_input ? 0
                                                        : 1);
    memcpy(pipes->ours, ready.ours, sizeof(pipes->ours));
    exec->group = ready.group;
    if (status < 0) {
        KELPIE_SOMETIMES(agent->os, "the ready process did not hear", status == -ESRCH);
        kelpie__agent_group_release(&agent->groups, &exec->group, 0);
        return status;
    }
    KELPIE_REACHED(agent->os, "a command became the ready process");
    return ready.pid;
}

/* As all others are. Its number, or a negative errno value. */
static int start_birth(struct kelpie_agent_exec *exec, struct kelpie_os_spawn *spawn,
                       const struct start_pipes *pipes, const char **out_step) {
    struct kelpie_agent *agent = exec->agent;
    bool has_terminal = exec->options.has_terminal;
    const int terminal[3] = {pipes->theirs[0], pipes->theirs[0], pipes->theirs[0]};
    spawn->handles = has_terminal ? terminal : pipes->theirs;
    spawn->flags |= has_terminal ? (uint32_t)KELPIE_OS_SPAWN_CONTROLLING_TERMINAL : 0;
    kelpie__agent_group_acquire(&agent->groups, &exec->group);
    spawn->cgroup = exec->group.directory;
    int process = KELPIE_OS_NO_HANDLE;
    int32_t pid = 0;
    int status = kelpie__os_spawn(agent->os, spawn, &process, &pid, out_step);
    if (status < 0) {
        kelpie__agent_group_release(&agent->groups, &exec->group, 0);
        return status;
    }
    /* Process 1 collects whoever ends, by number; a handle for each would be one more thing to wait
     * for. */
    kelpie__ignore(kelpie__os_close(agent->os, process));
    return pid;
}

static void start_timeout_callback(void *context) {
    struct kelpie_agent_exec *exec = context;
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RUNNING);
    KELPIE_ASSERT(exec->options.timeout_ms > 0);
    KELPIE_REACHED(exec->agent->os, "a command timed out");
    kelpie__agent_exec_kill(exec, KELPIE_AGENT_EXEC_BY_TIMEOUT);
}

static int start_spawn(struct kelpie_agent_exec *exec, const struct kelpie_agent_command *command,
                       const struct kelpie_agent_user *user, struct start_pipes *pipes,
                       struct kelpie_error *error) {
    struct kelpie_agent *agent = exec->agent;
    struct kelpie_os_limit limits[KELPIE_EXEC_LIMIT_COUNT_MAX + 1];
    struct kelpie_os_spawn spawn;
    const char *step = NULL;
    start_describe(exec, command, user, limits, &spawn);
    int64_t start_ns = kelpie__os_now(agent->os, KELPIE_OS_CLOCK_MONOTONIC);
    int pid = start_ready(exec, &spawn, pipes, &step);
    if (pid == -ESRCH) {
        int status = exec->options.has_terminal ? start_open_terminal(exec, pipes, error)
                                                : start_open_pipes(exec, pipes, error);
        if (status < 0) {
            return status;
        }
        pid = start_birth(exec, &spawn, pipes, &step);
        kelpie__agent_pipes_close(agent->os, pipes->theirs, 3);
    }
    if (pid < 0) {
        KELPIE_REACHED(agent->os, "a command could not be spawned");
        kelpie__agent_pipes_close(agent->os, pipes->ours, 3);
        start_close_terminal(exec);
        return kelpie__agent_command_explain(agent->os, command->path, spawn.directory, pid, step,
                                             error);
    }
    KELPIE_ASSERT(pid > 1);
    exec->pid = pid;
    exec->group.leader = pid;
    exec->start_ns = start_ns;
    exec->orphan_count_at_start = agent->execs.orphan_count;
    exec->state = KELPIE_AGENT_EXEC_RUNNING;
    return 0;
}

/* Spawns with streams; on failure nothing of it is left. */
static int start_with_streams(struct kelpie_agent_exec *exec,
                              const struct kelpie_agent_command *command,
                              const struct kelpie_agent_user *user, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    KELPIE_ASSERT(exec->terminal < 0);
    struct kelpie_agent *agent = exec->agent;
    struct start_pipes pipes = {.ours = {-1, -1, -1}, .theirs = {-1, -1, -1}};
    int status = start_spawn(exec, command, user, &pipes, error);
    if (status < 0) {
        return status;
    }
    if (exec->options.has_terminal) {
        pipes.ours[0] = exec->options.has_input ? exec->terminal : KELPIE_OS_NO_HANDLE;
        pipes.ours[1] = exec->terminal;
    }
    kelpie__agent_exec_streams_open(exec, pipes.ours[0], pipes.ours[1], pipes.ours[2]);
    if (exec->options.timeout_ms > 0) {
        int64_t deadline_ns = exec->start_ns + (int64_t)exec->options.timeout_ms * KELPIE_NS_PER_MS;
        kelpie__timer_arm(agent->loop, &exec->timer, deadline_ns, start_timeout_callback, exec);
    }
    return 0;
}

static int start_run(struct kelpie_agent_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->arguments_bytes == exec->arguments_bytes_announced);
    KELPIE_ASSERT(exec->options.argument_count > 0);
    struct kelpie_agent *agent = exec->agent;
    struct kelpie_agent_user user = {.name = "root", .home = "/root"};
    if (exec->options.user[0] != '\0') {
        int status = kelpie__agent_user_find(agent->os, exec->options.user, &user, error);
        if (status < 0) {
            return status;
        }
    }
    struct kelpie_agent_command_options options = {
        .bytes = exec->arguments,
        .length = exec->arguments_bytes,
        .argument_count = exec->options.argument_count,
        .environment_count = exec->options.environment_count,
        .directory = exec->options.directory[0] == '\0' ? NULL : exec->options.directory,
        .home = user.home,
        .user = user.name,
        .is_terminal = exec->options.has_terminal,
    };
    struct kelpie_agent_command command;
    int status = kelpie__agent_command_init(&command, agent->os, &options, error);
    if (status < 0) {
        return status;
    }
    status = start_with_streams(exec, &command, &user, error);
    kelpie__agent_command_deinit(&command, agent->os);
    return status;
}

void kelpie__agent_exec_answer(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state >= KELPIE_AGENT_EXEC_RUNNING);
    if (exec->request_id == 0 || !kelpie__agent_may_send(exec->agent)) {
        return;
    }
    kelpie__timer_disarm(exec->agent->loop, &exec->answer_timer);
    char result[96];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, result, sizeof(result));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "id", exec->id);
    kelpie__json_write_i64(&writer, "pid", exec->pid);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* it always fits */
    kelpie__wire_result(exec->agent->wire, exec->request_id, result);
    exec->request_id = 0;
}

static void start_answer_callback(void *context) {
    struct kelpie_agent_exec *exec = context;
    KELPIE_ASSERT(exec->request_id != 0);
    kelpie__agent_exec_answer(exec);
}

/* The buffer follows what arrived, never what was announced. */
int kelpie__agent_exec_arguments_reserve(struct kelpie_agent_exec *exec, size_t needed,
                                         struct kelpie_error *error) {
    KELPIE_ASSERT(needed <= KELPIE_EXEC_ARGUMENT_BYTES_MAX);
    if (needed <= exec->arguments_capacity) {
        return 0;
    }
    size_t capacity = exec->arguments_capacity;
    capacity = capacity == 0 ? KELPIE_AGENT_EXEC_ARGUMENTS_MIN : capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    char *arguments =
        exec->arguments_capacity == 0
            ? kelpie__alloc(exec->agent->os, capacity)
            : kelpie__resize(exec->agent->os, exec->arguments, exec->arguments_capacity, capacity);
    if (arguments == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "%zu bytes of arguments", capacity);
    }
    exec->arguments = arguments;
    exec->arguments_capacity = capacity;
    return 0;
}

/* A large buffer is given back; a small one serves the next command in this slot. */
static void start_release_arguments(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->arguments_bytes <= exec->arguments_capacity);
    exec->arguments_bytes = 0;
    if (exec->arguments_capacity > KELPIE_AGENT_EXEC_ARGUMENTS_MIN) {
        kelpie__free(exec->agent->os, exec->arguments, exec->arguments_capacity);
        exec->arguments = NULL;
        exec->arguments_capacity = 0;
    }
}

/* The last byte is here: the command is spawned and the request answered, whatever comes of it. */
static void start_finish(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->request_id != 0);
    KELPIE_ASSERT(exec->arguments_receiver.is_ended);
    struct kelpie_error error = {0};
    int status = start_run(exec, &error);
    start_release_arguments(exec);
    if (status < 0) {
        kelpie__wire_refuse(exec->agent->wire, exec->request_id, &error);
        kelpie__agent_exec_release(exec);
        return;
    }
    /* A short command has its output and its end in the same write as the answer: three of them
     * would wake up everybody on the way to the client three times. */
    kelpie__timer_arm(exec->agent->loop, &exec->answer_timer,
                      exec->agent->loop->now_ns + START_ANSWER_DELAY_NS, start_answer_callback,
                      exec);
}

const char *kelpie__agent_exec_arguments(struct kelpie_agent_exec *exec,
                                         const struct kelpie_agent_piece *piece) {
    const char *broken = kelpie__stream_receiver_data(&exec->arguments_receiver, piece->offset,
                                                      piece->count, piece->is_end);
    if (broken != NULL) {
        return broken;
    }
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    size_t room = exec->arguments_bytes_announced - exec->arguments_bytes;
    struct kelpie_error error = {0};
    int status = 0;
    if (piece->count > room || (piece->is_end && piece->count < room)) {
        status = kelpie__fail(&error, KELPIE_E_PROTOCOL, 0,
                              "%zu bytes of arguments were announced, another count came",
                              exec->arguments_bytes_announced);
    } else {
        status = kelpie__agent_exec_arguments_reserve(exec, exec->arguments_bytes + piece->count,
                                                      &error);
    }
    if (status < 0) {
        kelpie__wire_refuse(exec->agent->wire, exec->request_id, &error);
        start_release_arguments(exec);
        kelpie__agent_exec_release(exec);
        return NULL;
    }
    if (piece->count > 0) {
        memcpy(exec->arguments + exec->arguments_bytes, piece->bytes, piece->count);
        exec->arguments_bytes += piece->count;
    }
    if (piece->is_end) {
        start_finish(exec);
    } else {
        kelpie__stream_receiver_consumed(
            &exec->arguments_receiver, exec->agent->wire,
            kelpie__stream_number(exec->channel, KELPIE_STREAM_ARGUMENTS), exec->arguments_bytes);
    }
    return NULL;
}
