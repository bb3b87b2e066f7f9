/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The beginning of a command: see exec_relay.h. exec.start of a client becomes one for the guest,
 * with a channel of ours; the guest's answer has the command's id.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/exec.h"
#include "monitor/exec_relay.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define START_PARAMS_BYTES_MAX KELPIE_MESSAGE_BYTES_MAX

/* ---- the answer ------------------------------------------------------------------------------ */

static void exec_started(struct kelpie_relay_exec *exec, const char *result, size_t length) {
    struct kelpie_monitor *monitor = exec->relay->monitor;
    char id[KELPIE_EXEC_ID_CHARACTERS + 1];
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_STARTING);
    bool is_valid = kelpie__json_find_string(result, length, "id", id, sizeof(id)) == 0 &&
                    strlen(id) == KELPIE_EXEC_ID_CHARACTERS &&
                    kelpie__relay_find(exec->relay, id) == NULL;
    for (size_t i = 0; is_valid && id[i] != '\0'; i += 1) {
        is_valid = (id[i] >= '0' && id[i] <= '9') || (id[i] >= 'a' && id[i] <= 'f');
    }
    if (!is_valid) {
        kelpie__guest_break(exec->relay->guest, "R22: exec.start was answered without a new id");
        return;
    }
    memcpy(exec->id, id, sizeof(id));
    exec->phase = KELPIE_RELAY_LIVE;
    kelpie__stages_reach(monitor, KELPIE_STAGE_EXEC_STARTED);
    kelpie__reply_result(monitor, &exec->start_reply, result);
    kelpie__event_log_write(monitor, "exec_started", "%s %s", exec->id, exec->command);
    kelpie__relay_exec_arm_backstop(exec);
    if (exec->is_kill_wanted) {
        KELPIE_REACHED(monitor->os, "a command was killed as soon as it had an id");
        kelpie__exec_kill(exec);
    }
    kelpie__exec_check(exec);
}

static void exec_start_answered(void *context, const struct kelpie_error *error, const char *result,
                                size_t length) {
    struct kelpie_relay_exec *exec = context;
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_STARTING);
    if (error == NULL) {
        exec_started(exec, result, length);
        return;
    }
    if (kelpie__guest_wire(exec->relay->guest) == NULL) {
        KELPIE_REACHED(exec->relay->monitor->os, "the VM died over the start of a command");
        return; /* the connection ended: why the VM died is said by kelpie__relay_fail_all */
    }
    KELPIE_REACHED(exec->relay->monitor->os, "a guest refused a command");
    kelpie__reply_refuse(exec->relay->monitor, &exec->start_reply, error);
    kelpie__exec_free(exec);
}

/* ---- the request ----------------------------------------------------------------------------- */

struct relay_start_params {
    uint64_t channel;
    uint64_t argument_bytes;
    uint64_t argument_count;
    uint64_t environment_count;
    uint64_t timeout_ms;
    bool keeps_on_disconnect;
};

/* Of exec.start, in the order in which our library writes them. The last five are passed on. */
enum relay_start_member {
    START_CHANNEL,
    START_ARGUMENT_BYTES,
    START_ARGUMENT_COUNT,
    START_ENVIRONMENT_COUNT,
    START_TIMEOUT_MS,
    START_ON_DISCONNECT,
    START_CWD,
    START_USER,
    START_TTY,
    START_STDIN,
    START_LIMITS,
    START_MEMBER_COUNT,
};

static void relay_start_scan(const char *params, size_t length,
                             struct kelpie_json_member out[START_MEMBER_COUNT]) {
    static const char *const keys[START_MEMBER_COUNT] = {
        "channel",
        "argument_bytes",
        "argument_count",
        "environment_count",
        "timeout_ms",
        "on_disconnect",
        "cwd",
        "user",
        "tty",
        "stdin",
        "limits",
    };
    for (size_t i = 0; i < START_MEMBER_COUNT; i += 1) {
        out[i] = (struct kelpie_json_member){.key = keys[i]};
    }
    kelpie__ignore(kelpie__json_members(params, length, out, START_MEMBER_COUNT)); /* none: none */
}

static int relay_start_read(const struct kelpie_json_member members[START_MEMBER_COUNT],
                            struct relay_start_params *out, struct kelpie_error *error) {
    char on_disconnect[8] = "kill";
    *out = (struct relay_start_params){
        .channel = kelpie__json_member_u64(&members[START_CHANNEL], 0),
        .argument_bytes = kelpie__json_member_u64(&members[START_ARGUMENT_BYTES], 0),
        .argument_count = kelpie__json_member_u64(&members[START_ARGUMENT_COUNT], 0),
        .environment_count = kelpie__json_member_u64(&members[START_ENVIRONMENT_COUNT], 0),
        .timeout_ms = kelpie__json_member_u64(&members[START_TIMEOUT_MS], 0),
    };
    kelpie__ignore(kelpie__json_member_string(&members[START_ON_DISCONNECT], on_disconnect,
                                              sizeof(on_disconnect))); /* absent: kill */
    out->keeps_on_disconnect = strcmp(on_disconnect, "keep") == 0;
    if (out->argument_count == 0 || out->argument_bytes == 0) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "a command needs at least one argument");
    }
    if (out->argument_bytes > KELPIE_EXEC_ARGUMENT_BYTES_MAX) {
        return kelpie__fail(
            error, KELPIE_E_LIMIT, 0, "arguments and environment take %llu bytes, at most %u",
            (unsigned long long)out->argument_bytes, KELPIE_EXEC_ARGUMENT_BYTES_MAX);
    }
    if (out->argument_count > KELPIE_EXEC_ARGUMENT_COUNT_MAX ||
        out->environment_count > KELPIE_EXEC_ARGUMENT_COUNT_MAX) {
        return kelpie__fail(
            error, KELPIE_E_LIMIT, 0, "%llu arguments and %llu variables, at most %u each",
            (unsigned long long)out->argument_count, (unsigned long long)out->environment_count,
            KELPIE_EXEC_ARGUMENT_COUNT_MAX);
    }
    if (out->timeout_ms > KELPIE_EXEC_TIMEOUT_MS_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "a timeout of %llu ms, at most %llu",
                            (unsigned long long)out->timeout_ms,
                            (unsigned long long)KELPIE_EXEC_TIMEOUT_MS_MAX);
    }
    return 0;
}

/* The request for the guest: our channel, and the client's other words as they are. */
static int64_t relay_start_write(const struct relay_start_params *start, uint32_t guest_channel,
                                 const struct kelpie_json_member members[START_MEMBER_COUNT],
                                 char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(guest_channel != 0);
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "channel", guest_channel);
    kelpie__json_write_u64(&writer, "argument_bytes", start->argument_bytes);
    kelpie__json_write_u64(&writer, "argument_count", start->argument_count);
    kelpie__json_write_u64(&writer, "environment_count", start->environment_count);
    kelpie__json_write_u64(&writer, "timeout_ms", start->timeout_ms);
    for (size_t i = START_CWD; i < START_MEMBER_COUNT; i += 1) {
        const struct kelpie_json_member *member = &members[i];
        if (member->is_there) {
            kelpie__json_write_raw(&writer, member->key, member->value.text, member->value.length);
        }
    }
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

static struct kelpie_relay_exec *relay_add(struct kelpie_relay *relay,
                                           const struct kelpie_reply *reply,
                                           const struct relay_start_params *start) {
    struct kelpie_relay_exec *exec = kelpie__relay_exec_create(relay);
    if (exec == NULL) {
        return NULL;
    }
    exec->client = reply->client;
    exec->client_channel = kelpie__to_u32(start->channel);
    exec->start_reply = *reply;
    exec->keeps_on_disconnect = start->keeps_on_disconnect;
    exec->timeout_ms = start->timeout_ms;
    exec->argument_bytes = start->argument_bytes;
    for (uint32_t kind = 0; kind < KELPIE_EXEC_STREAM_COUNT; kind += 1) {
        kelpie__stream_receiver_init(&exec->streams[kind].receiver, 0,
                                     KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    }
    kelpie__exec_check(exec);
    return exec;
}

static int relay_start_check(struct kelpie_relay *relay, const struct kelpie_reply *reply,
                             const struct relay_start_params *start, struct kelpie_error *error) {
    /* The channel counts as opened even when the command is refused: its arguments may be on their
     * way already, and are not an offence. */
    int status = kelpie__client_open_channel(relay->monitor, reply->client, start->channel, error);
    if (status == 0) {
        status = kelpie__relay_check_running(relay, "exec", error);
    }
    if (status < 0) {
        return status;
    }
    if (relay->live_count >= KELPIE_EXEC_COUNT_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%u commands run in this VM, at most %u",
                            relay->live_count, KELPIE_EXEC_COUNT_MAX);
    }
    if (relay->guest_channel_last == KELPIE_CHANNEL_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "all %u channels were used; start the VM anew", KELPIE_CHANNEL_MAX);
    }
    return 0;
}

void kelpie__relay_start(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                         size_t length) {
    kelpie__relay_check(relay);
    KELPIE_ASSERT(reply.client != 0);
    struct kelpie_error error = {0};
    struct relay_start_params start;
    char text[START_PARAMS_BYTES_MAX];
    struct kelpie_relay_exec *exec = NULL;
    struct kelpie_json_member members[START_MEMBER_COUNT];
    kelpie__stages_reach(relay->monitor, KELPIE_STAGE_EXEC);
    relay_start_scan(params, length, members);
    int status = relay_start_read(members, &start, &error);
    if (status == 0) {
        status = relay_start_check(relay, &reply, &start, &error);
    }
    if (status == 0) {
        exec = relay_add(relay, &reply, &start);
        status = exec == NULL ? kelpie__fail(&error, KELPIE_E_MEMORY, 0, "allocate a command") : 0;
    }
    if (status == 0 &&
        relay_start_write(&start, exec->guest_channel, members, text, sizeof(text)) < 0) {
        status = kelpie__fail(&error, KELPIE_E_LIMIT, 0,
                              "the options of the command take more than %u bytes",
                              (unsigned)sizeof(text));
    }
    if (status == 0) {
        status = kelpie__wire_call(kelpie__guest_wire(relay->guest), "exec.start", text,
                                   KELPIE_TIMEOUT_NONE, exec_start_answered, exec, NULL, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(relay->monitor, &reply, &error);
        if (exec != NULL) {
            kelpie__exec_free(exec);
        }
    }
    kelpie__relay_check(relay);
}

void kelpie__relay_cancel(struct kelpie_relay *relay, uint64_t client, uint64_t request) {
    KELPIE_ASSERT(client != 0);
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec != NULL && exec->start_reply.client == client &&
            exec->start_reply.request == request) {
            KELPIE_ASSERT(exec->phase == KELPIE_RELAY_STARTING);
            KELPIE_REACHED(relay->monitor->os, "the start of a command was cancelled");
            exec->is_kill_wanted = true; /* its answer comes, and its end right after */
        }
    }
}
