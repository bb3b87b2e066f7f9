/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a peer may ask about commands: start, attach, signal, resize, kill, list (docs/protocol.md).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/exec.h"
#include "agent/params.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define REQUEST_TERMINAL_CELLS_MAX 4096 /* rows, or columns */
#define REQUEST_SIGNAL_MAX 64
#define REQUEST_LIMIT_RESOURCE_MAX 15 /* RLIMIT_RTTIME */

/* --- exec.start --- */

static int start_read_channel(struct kelpie_agent *agent, const struct kelpie_agent_params *params,
                              uint32_t *out, struct kelpie_error *error) {
    KELPIE_ASSERT(agent->last_channel <= KELPIE_CHANNEL_MAX);
    const struct kelpie_agent_range range = {1, KELPIE_CHANNEL_MAX};
    uint64_t channel = 0;
    int status = kelpie__agent_params_number(params, "channel", range, &channel, error);
    if (status < 0) {
        return status;
    }
    if (channel <= agent->last_channel) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "channel %llu is not above the last one, %u",
                            (unsigned long long)channel, agent->last_channel);
    }
    *out = (uint32_t)channel;
    return 0;
}

static int start_read_sizes(const struct kelpie_agent_params *params,
                            struct kelpie_agent_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    KELPIE_ASSERT(exec->arguments_bytes_announced == 0);
    const struct kelpie_agent_range bytes_range = {1, KELPIE_EXEC_ARGUMENT_BYTES_MAX};
    const struct kelpie_agent_range count_range = {1, KELPIE_EXEC_ARGUMENT_COUNT_MAX};
    const struct kelpie_agent_range variable_range = {0, KELPIE_EXEC_ARGUMENT_COUNT_MAX};
    uint64_t bytes = 0;
    uint64_t argument_count = 0;
    uint64_t environment_count = 0;
    int status = kelpie__agent_params_number(params, "argument_bytes", bytes_range, &bytes, error);
    if (status == 0) {
        status = kelpie__agent_params_number(params, "argument_count", count_range, &argument_count,
                                             error);
    }
    if (status == 0) {
        status = kelpie__agent_params_number(params, "environment_count", variable_range,
                                             &environment_count, error);
    }
    if (status < 0) {
        return status;
    }
    if (bytes == 0 || argument_count == 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "\"argument_bytes\" and \"argument_count\" are missing");
    }
    exec->arguments_bytes_announced = (size_t)bytes;
    exec->options.argument_count = (uint32_t)argument_count;
    exec->options.environment_count = (uint32_t)environment_count;
    return 0;
}

/* {"rows":R,"cols":C}. */
static int request_read_size(const struct kelpie_agent_params *params, uint16_t *out_rows,
                             uint16_t *out_columns, struct kelpie_error *error) {
    const struct kelpie_agent_range range = {1, REQUEST_TERMINAL_CELLS_MAX};
    uint64_t rows = 24;
    uint64_t columns = 80;
    int status = kelpie__agent_params_number(params, "rows", range, &rows, error);
    if (status == 0) {
        status = kelpie__agent_params_number(params, "cols", range, &columns, error);
    }
    if (status == 0) {
        *out_rows = (uint16_t)rows;
        *out_columns = (uint16_t)columns;
    }
    return status;
}

static int start_read_limit(const struct kelpie_json_value *value, struct kelpie_os_limit *out,
                            struct kelpie_error *error) {
    struct kelpie_agent_params params;
    if (value->kind != KELPIE_JSON_OBJECT) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "a limit is not an object");
    }
    kelpie__agent_params_init(&params, value->text, value->length);
    const struct kelpie_agent_range resource_range = {0, REQUEST_LIMIT_RESOURCE_MAX};
    const struct kelpie_agent_range value_range = {0, UINT64_MAX};
    uint64_t resource = UINT64_MAX;
    out->soft = UINT64_MAX; /* unlimited */
    out->hard = UINT64_MAX;
    int status = kelpie__agent_params_number(&params, "resource", resource_range, &resource, error);
    if (status == 0) {
        status = kelpie__agent_params_number(&params, "soft", value_range, &out->soft, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_number(&params, "hard", value_range, &out->hard, error);
    }
    if (status < 0) {
        return status;
    }
    if (resource == UINT64_MAX || out->soft > out->hard) {
        return kelpie__fail(
            error, KELPIE_E_PROTOCOL, 0,
            "a limit has a resource, and a soft value that is not above the hard one");
    }
    out->resource = (int32_t)resource;
    return 0;
}

static int start_read_limits(const struct kelpie_agent_params *params,
                             struct kelpie_agent_exec_options *options,
                             struct kelpie_error *error) {
    struct kelpie_json_iterator iterator;
    bool is_there = false;
    int status = kelpie__agent_params_array(params, "limits", &iterator, &is_there, error);
    if (status < 0 || !is_there) {
        return status;
    }
    struct kelpie_json_value item;
    while (kelpie__json_next(&iterator, NULL, &item) > 0) {
        if (options->limit_count == KELPIE_EXEC_LIMIT_COUNT_MAX) {
            return kelpie__fail(error, KELPIE_E_LIMIT, 0, "more than %u limits",
                                KELPIE_EXEC_LIMIT_COUNT_MAX);
        }
        status = start_read_limit(&item, &options->limits[options->limit_count], error);
        if (status < 0) {
            return status;
        }
        options->limit_count += 1;
    }
    return 0;
}

static int start_read_options(const struct kelpie_agent_params *params,
                              struct kelpie_agent_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->channel == 0);
    KELPIE_ASSERT(exec->options.limit_count == 0);
    const struct kelpie_agent_range timeout_range = {0, KELPIE_EXEC_TIMEOUT_MS_MAX};
    struct kelpie_agent_exec_options *options = &exec->options;
    struct kelpie_agent_params terminal;
    int status = start_read_sizes(params, exec, error);
    if (status == 0) {
        status = kelpie__agent_params_text(params, "cwd", options->directory,
                                           sizeof(options->directory), error);
    }
    if (status == 0) {
        status =
            kelpie__agent_params_text(params, "user", options->user, sizeof(options->user), error);
    }
    if (status == 0) {
        status = kelpie__agent_params_number(params, "timeout_ms", timeout_range,
                                             &options->timeout_ms, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_flag(params, "stdin", &options->has_input, error);
    }
    if (status == 0) {
        status = start_read_limits(params, options, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_object(params, "tty", &terminal, error);
    }
    if (status == 0 && terminal.length > 0) {
        options->has_terminal = true;
        status = request_read_size(&terminal, &options->rows, &options->columns, error);
    }
    return status;
}

void kelpie__agent_request_exec_start(struct kelpie_agent *agent, uint64_t id,
                                      const struct kelpie_agent_params *params) {
    kelpie__agent_check(agent);
    struct kelpie_error error = {0};
    struct kelpie_agent_exec *exec = NULL;
    uint32_t channel = 0;
    int status = start_read_channel(agent, params, &channel, &error);
    if (status == 0) {
        /* From here on its streams may come, whether the request succeeds or not. */
        agent->last_channel = channel;
        status = agent->phase == KELPIE_AGENT_STOPPING
                     ? kelpie__fail(&error, KELPIE_E_STATE, 0, "the guest is shutting down")
                     : kelpie__agent_exec_acquire(agent, &exec, &error);
    }
    if (status == 0) {
        status = start_read_options(params, exec, &error);
    }
    if (status == 0) {
        status = kelpie__agent_exec_streams_renew(exec, &error);
    }
    if (status < 0) {
        if (exec != NULL) {
            kelpie__agent_exec_release(exec);
        }
        kelpie__wire_refuse(agent->wire, id, &error);
        return;
    }
    exec->channel = channel;
    exec->request_id = id;
    kelpie__stream_receiver_init(&exec->arguments_receiver, 0, KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    KELPIE_ASSERT(exec->arguments_bytes == 0);
}

/* --- About a command that exists. --- */

static struct kelpie_agent_exec *request_find(struct kelpie_agent *agent,
                                              const struct kelpie_agent_params *params,
                                              struct kelpie_error *error) {
    kelpie__agent_check(agent);
    KELPIE_ASSERT(agent->is_set_up);
    char exec_id[KELPIE_AGENT_EXEC_ID_BYTES];
    if (kelpie__agent_params_hex(params, "id", KELPIE_EXEC_ID_CHARACTERS, exec_id, error) < 0) {
        return NULL;
    }
    struct kelpie_agent_exec *exec = kelpie__agent_exec_find(agent, exec_id);
    if (exec == NULL || exec->state == KELPIE_AGENT_EXEC_RECEIVING) {
        kelpie__ignore(kelpie__fail(error, KELPIE_E_NOT_FOUND, 0, "no command has the id %s",
                                    exec_id)); /* the caller looks at the NULL */
        return NULL;
    }
    return exec;
}

static void request_answer(struct kelpie_agent *agent, uint64_t id, int status,
                           const struct kelpie_error *error) {
    KELPIE_ASSERT(id > 0);
    KELPIE_ASSERT(status == 0 || error->code == status);
    if (status < 0) {
        kelpie__wire_refuse(agent->wire, id, error);
    } else {
        kelpie__wire_result(agent->wire, id, "{}");
    }
}

static int attach_read_offsets(const struct kelpie_agent_params *params, uint64_t out[2],
                               struct kelpie_error *error) {
    const struct kelpie_agent_range range = {0, UINT64_MAX};
    int status = kelpie__agent_params_number(params, "stdout_offset", range, &out[0], error);
    if (status == 0) {
        status = kelpie__agent_params_number(params, "stderr_offset", range, &out[1], error);
    }
    return status;
}

void kelpie__agent_request_exec_attach(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params) {
    struct kelpie_error error = {0};
    uint64_t offsets[2] = {0, 0};
    uint32_t channel = 0;
    int status = start_read_channel(agent, params, &channel, &error);
    if (status == 0) {
        agent->last_channel = channel;
        status = attach_read_offsets(params, offsets, &error);
    }
    struct kelpie_agent_exec *exec = status == 0 ? request_find(agent, params, &error) : NULL;
    if (exec == NULL) {
        kelpie__wire_refuse(agent->wire, id, &error);
        return;
    }
    uint32_t former_channel = exec->channel;
    exec->channel = 0; /* the latest to attach has the command */
    if (kelpie__agent_exec_streams_attach(exec, offsets, &error) < 0) {
        exec->channel = former_channel;
        kelpie__wire_refuse(agent->wire, id, &error);
        return;
    }
    exec->channel = channel;
    exec->is_exit_sent = false;
    char text[256];
    bool is_whole = kelpie__text_format(
        text, sizeof(text),
        "{\"stdout_offset\":%llu,\"stderr_offset\":%llu,\"stdin_offset\":%llu,\"stdin_ended\":%s}",
        (unsigned long long)exec->outputs[0].sender.ring.sent,
        (unsigned long long)exec->outputs[1].sender.ring.sent,
        (unsigned long long)exec->input.receiver.received,
        exec->input.receiver.is_ended ? "true" : "false");
    KELPIE_ASSERT(is_whole);
    kelpie__wire_result(agent->wire, id, text);
    kelpie__agent_exec_streams_announce(exec);
    kelpie__agent_exec_advance(exec);
}

void kelpie__agent_request_exec_signal(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params) {
    const struct kelpie_agent_range range = {1, REQUEST_SIGNAL_MAX};
    struct kelpie_error error = {0};
    uint64_t number = 0;
    int status = kelpie__agent_params_number(params, "signal", range, &number, &error);
    if (status == 0 && number == 0) {
        status = kelpie__fail(&error, KELPIE_E_PROTOCOL, 0, "\"signal\" is missing");
    }
    struct kelpie_agent_exec *exec = status == 0 ? request_find(agent, params, &error) : NULL;
    status = exec == NULL ? error.code : 0;
    if (status == 0 && exec->state != KELPIE_AGENT_EXEC_RUNNING) {
        status = kelpie__fail(&error, KELPIE_E_STATE, 0, "command %s has ended", exec->id);
    }
    if (status == 0) {
        /* The leader is not collected yet, so that its number cannot belong to a stranger. A
         * command that moved itself to another group has left its own empty: it gets the signal
         * alone. */
        int result = kelpie__os_kill_pid(agent->os, -exec->pid, (int)number);
        if (result == -ESRCH) {
            result = kelpie__os_kill_pid(agent->os, exec->pid, (int)number);
        }
        if (result < 0 && result != -ESRCH) {
            status = kelpie__fail(&error, KELPIE_E_IO, -result, "send signal %llu",
                                  (unsigned long long)number);
        }
    }
    request_answer(agent, id, status, &error);
}

void kelpie__agent_request_exec_resize(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params) {
    struct kelpie_error error = {0};
    uint16_t rows = 0;
    uint16_t columns = 0;
    int status = request_read_size(params, &rows, &columns, &error);
    struct kelpie_agent_exec *exec = status == 0 ? request_find(agent, params, &error) : NULL;
    status = exec == NULL ? error.code : 0;
    if (status == 0 && exec->terminal < 0) {
        status = kelpie__fail(&error, KELPIE_E_STATE, 0, "command %s has no terminal", exec->id);
    }
    if (status == 0) {
        int result = kelpie__os_set_terminal_size(agent->os, exec->terminal, rows, columns);
        if (result < 0) {
            status = kelpie__fail(&error, KELPIE_E_IO, -result, "resize the terminal");
        }
    }
    request_answer(agent, id, status, &error);
}

void kelpie__agent_request_exec_kill(struct kelpie_agent *agent, uint64_t id,
                                     const struct kelpie_agent_params *params) {
    struct kelpie_error error = {0};
    struct kelpie_agent_exec *exec = request_find(agent, params, &error);
    if (exec != NULL) {
        KELPIE_REACHED(agent->os, "a command was cancelled");
        kelpie__agent_exec_kill(exec, KELPIE_AGENT_EXEC_BY_CANCEL);
    }
    request_answer(agent, id, exec == NULL ? error.code : 0, &error);
}

/* --- exec.list, and the list in hello --- */

static const char *list_state_name(const struct kelpie_agent_exec *exec) {
    switch (exec->state) {
    case KELPIE_AGENT_EXEC_RUNNING:
        return "running";
    case KELPIE_AGENT_EXEC_ENDING:
        return "ending";
    case KELPIE_AGENT_EXEC_FINISHED:
        return "finished";
    case KELPIE_AGENT_EXEC_FREE:
    case KELPIE_AGENT_EXEC_RECEIVING:
        break;
    }
    return "starting";
}

static void list_write_output(struct kelpie_json_writer *writer, const char *key,
                              const struct kelpie_ring *ring) {
    kelpie__json_object_begin(writer, key);
    kelpie__json_write_u64(writer, "acknowledged", ring->acknowledged);
    kelpie__json_write_u64(writer, "written", ring->written);
    kelpie__json_object_end(writer);
}

void kelpie__agent_exec_write_list(struct kelpie_agent *agent, struct kelpie_json_writer *writer) {
    kelpie__agent_check(agent);
    kelpie__json_array_begin(writer, "execs");
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        const struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->state < KELPIE_AGENT_EXEC_RUNNING) {
            continue;
        }
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_string(writer, "id", exec->id);
        kelpie__json_write_i64(writer, "pid", exec->pid);
        kelpie__json_write_string(writer, "state", list_state_name(exec));
        if (exec->channel != 0) {
            kelpie__json_write_u64(writer, "channel", exec->channel);
        }
        kelpie__json_object_begin(writer, "streams");
        kelpie__json_object_begin(writer, "stdin");
        kelpie__json_write_u64(writer, "received", exec->input.receiver.received);
        kelpie__json_object_end(writer);
        list_write_output(writer, "stdout", &exec->outputs[0].sender.ring);
        list_write_output(writer, "stderr", &exec->outputs[1].sender.ring);
        kelpie__json_object_end(writer);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

void kelpie__agent_request_exec_list(struct kelpie_agent *agent, uint64_t id,
                                     const struct kelpie_agent_params *params) {
    KELPIE_ASSERT(params->length > 0);
    char text[KELPIE_MESSAGE_BYTES_MAX - 512];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__agent_exec_write_list(agent, &writer);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* the table of commands is bounded, and so is a line of it */
    kelpie__wire_result(agent->wire, id, text);
}
