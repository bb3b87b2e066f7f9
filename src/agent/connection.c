/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One peer after another over the same port. A connection that ends, for whatever reason, is
 * followed by the next: commands do not notice. The port is never closed, so "the peer is away" is
 * an end of file that is looked at again, less and less often.
 */
#include <string.h>

#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/files.h"
#include "agent/params.h"
#include "agent/request.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define CONNECTION_RETRY_MIN_NS (1 * KELPIE_NS_PER_MS)
#define CONNECTION_RETRY_DOUBLING_MAX 6 /* up to 64 ms */
#define CONNECTION_READY_BYTES_MAX 2048

bool kelpie__agent_may_send(const struct kelpie_agent *agent) {
    bool is_greeted = agent->phase == KELPIE_AGENT_GREETED || agent->phase == KELPIE_AGENT_STOPPING;
    return is_greeted && agent->wire != NULL;
}

void kelpie__agent_greet(struct kelpie_agent *agent, const char *epoch) {
    KELPIE_ASSERT(strlen(epoch) == KELPIE_AGENT_EPOCH_BYTES - 1);
    KELPIE_ASSERT(agent->wire != NULL);
    kelpie__agent_exec_detach_all(agent);
    kelpie__agent_sync_forget(agent);
    bool is_whole = kelpie__text_copy(agent->epoch, sizeof(agent->epoch), epoch);
    KELPIE_ASSERT(is_whole);
    agent->last_channel = 0;
    agent->attempt_count = 0;
    if (agent->phase != KELPIE_AGENT_STOPPING) {
        agent->phase = KELPIE_AGENT_GREETED;
    }
    kelpie__agent_check(agent);
}

void kelpie__agent_quiesce(struct kelpie_agent *agent, const uint8_t mark[KELPIE_MARK_BYTES]) {
    KELPIE_ASSERT(agent->wire != NULL);
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_GREETED);
    agent->phase = KELPIE_AGENT_QUIESCED;
    kelpie__wire_hold(agent->wire, true);
    kelpie__wire_discard_until(agent->wire, mark);
}

static void connection_advance_all(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        kelpie__agent_exec_advance(agent->execs.slots[i]);
    }
}

/* --- What the wire tells. --- */

static void connection_mark_callback(void *context, const uint8_t mark[KELPIE_MARK_BYTES]) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(mark != NULL);
    if (agent->phase == KELPIE_AGENT_QUIESCED) {
        agent->phase = KELPIE_AGENT_GREETED;
    }
    kelpie__wire_hold(agent->wire, false);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        kelpie__agent_exec_streams_catch_up(agent->execs.slots[i]);
    }
    connection_advance_all(agent);
}

static void connection_request_callback(void *context, uint64_t id, const char *method,
                                        const char *params, size_t length) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->phase != KELPIE_AGENT_SEARCHING);
    kelpie__agent_request(agent, id, method, params, length);
}

/* `cancel` matters only while the arguments are on their way: a command that runs is ended by
 * exec.kill. */
static void connection_notification_callback(void *context, const char *method, const char *params,
                                             size_t length) {
    struct kelpie_agent *agent = context;
    uint64_t request_id = 0;
    kelpie__agent_check(agent);
    if (strcmp(method, "goodbye") == 0) {
        kelpie__agent_heard(agent);
        return;
    }
    if (strcmp(method, "cancel") != 0 ||
        kelpie__json_find_u64(params, length, "request", &request_id) < 0) {
        return; /* what is not known is ignored */
    }
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_RECEIVING && exec->request_id == request_id) {
            kelpie__wire_refuse_text(agent->wire, request_id, KELPIE_E_CANCELLED,
                                     "cancelled before it was started");
            kelpie__agent_exec_release(exec);
        }
    }
}

/* The command that a stream belongs to. NULL when it is over, or when the connection was just ended
 * for naming a stream that never was. */
static struct kelpie_agent_exec *connection_find(struct kelpie_agent *agent, uint32_t stream) {
    kelpie__agent_check(agent);
    uint32_t channel = stream >> KELPIE_STREAM_KIND_BITS;
    if (channel == 0 || channel > agent->last_channel) {
        kelpie__wire_break(agent->wire, "R19", "stream %u belongs to no request", stream);
        return NULL;
    }
    return kelpie__agent_exec_find_channel(agent, channel);
}

static enum kelpie_stream_kind connection_kind(uint32_t stream) {
    return (enum kelpie_stream_kind)(stream & ((1U << KELPIE_STREAM_KIND_BITS) - 1));
}

/* Static texts of stream.h are "R<n>: what". */
static void connection_break(struct kelpie_agent *agent, const char *broken, uint32_t stream) {
    char rule[8] = "";
    size_t length = strcspn(broken, ":");
    if (length < sizeof(rule)) {
        memcpy(rule, broken, length);
    }
    const char *text = broken[length] == ':' ? broken + length + 2 : broken;
    kelpie__wire_break(agent->wire, rule, "%s (stream %u)", text, stream);
}

static void connection_data_callback(void *context, uint32_t stream, uint64_t offset,
                                     const void *bytes, size_t count, bool is_end) {
    struct kelpie_agent *agent = context;
    const struct kelpie_agent_piece piece = {
        .offset = offset, .bytes = bytes, .count = count, .is_end = is_end};
    struct kelpie_agent_exec *exec = connection_find(agent, stream);
    KELPIE_ASSERT(count > 0 || is_end);
    if (exec == NULL) {
        return;
    }
    KELPIE_ASSERT(exec->channel == stream >> KELPIE_STREAM_KIND_BITS);
    const char *broken = NULL;
    switch (connection_kind(stream)) {
    case KELPIE_STREAM_ARGUMENTS:
        broken = exec->state == KELPIE_AGENT_EXEC_RECEIVING
                     ? kelpie__agent_exec_arguments(exec, &piece)
                     : "R16: args of a command that has started";
        break;
    case KELPIE_STREAM_STDIN:
        broken = kelpie__agent_exec_input(exec, &piece);
        break;
    case KELPIE_STREAM_STDOUT:
    case KELPIE_STREAM_STDERR:
        broken = "R20: output streams are the agent's to write";
        break;
    }
    if (broken != NULL) {
        connection_break(agent, broken, stream);
    }
}

static struct kelpie_agent_output *connection_find_output(struct kelpie_agent *agent,
                                                          uint32_t stream) {
    kelpie__agent_check(agent);
    struct kelpie_agent_exec *exec = connection_find(agent, stream);
    if (exec == NULL) {
        return NULL;
    }
    switch (connection_kind(stream)) {
    case KELPIE_STREAM_STDOUT:
        return &exec->outputs[0];
    case KELPIE_STREAM_STDERR:
        return &exec->outputs[1];
    case KELPIE_STREAM_ARGUMENTS:
    case KELPIE_STREAM_STDIN:
        break;
    }
    kelpie__wire_break(agent->wire, "R20", "stream %u is not the agent's to write", stream);
    return NULL;
}

static void connection_credit_callback(void *context, uint32_t stream, uint64_t acknowledged,
                                       uint64_t limit) {
    struct kelpie_agent *agent = context;
    struct kelpie_agent_output *output = connection_find_output(agent, stream);
    if (output == NULL) {
        return;
    }
    KELPIE_ASSERT(output->exec->channel != 0);
    const char *broken = kelpie__stream_sender_credit(&output->sender, acknowledged, limit);
    if (broken != NULL) {
        connection_break(agent, broken, stream);
        return;
    }
    kelpie__agent_exec_advance(output->exec);
}

static void connection_stop_callback(void *context, uint32_t stream) {
    struct kelpie_agent *agent = context;
    struct kelpie_agent_output *output = connection_find_output(agent, stream);
    if (output != NULL) {
        kelpie__stream_sender_stop(&output->sender);
        kelpie__agent_exec_advance(output->exec);
    }
}

static void connection_drained_callback(void *context) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->wire != NULL);
    connection_advance_all(agent);
}

static void connection_attempt_callback(void *context) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->wire == NULL);
    kelpie__agent_connect(agent);
}

static void connection_retry(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->wire == NULL);
    uint32_t doubling = agent->attempt_count < CONNECTION_RETRY_DOUBLING_MAX
                            ? agent->attempt_count
                            : CONNECTION_RETRY_DOUBLING_MAX;
    agent->attempt_count += agent->attempt_count < UINT32_MAX ? 1 : 0;
    kelpie__timer_arm(agent->loop, &agent->attempt_timer,
                      agent->loop->now_ns + (CONNECTION_RETRY_MIN_NS << doubling),
                      connection_attempt_callback, agent);
}

static void connection_closed_callback(void *context, const struct kelpie_error *error) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(error->code < 0);
    bool is_peer_gone = error->code == KELPIE_E_IO && error->os_error == 0;
    if (!is_peer_gone) {
        KELPIE_REACHED(agent->os, "the agent gave up its peer");
        kelpie__agent_log(agent->os, "connection: %s", error->message);
    }
    kelpie__agent_disconnect(agent);
    kelpie__agent_heard(agent);
    bool comes_back = agent->is_guest && !agent->is_dialled;
    if (!comes_back && is_peer_gone) { /* a socket does not: a test's, or the monitor's */
        kelpie__agent_stop(agent, 0);
    } else if (agent->phase != KELPIE_AGENT_STOPPED) {
        connection_retry(agent);
    }
}

static const struct kelpie_wire_callbacks connection_callbacks = {
    .request = connection_request_callback,
    .notification = connection_notification_callback,
    .data = connection_data_callback,
    .credit = connection_credit_callback,
    .stop = connection_stop_callback,
    .mark = connection_mark_callback,
    .drained = connection_drained_callback,
    .closed = connection_closed_callback,
};

/* --- Begin and end. --- */

/* The first frame: that somebody is here, since when, and what went wrong on the way. */
static void connection_send_ready(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    char boot_id[64] = "";
    if (kelpie__agent_read_text(agent->os, "/proc/sys/kernel/random/boot_id", boot_id,
                                sizeof(boot_id)) < 0) {
        boot_id[0] = '\0';
    }
    struct kelpie_os_identity identity = {0};
    kelpie__ignore(kelpie__os_identity(agent->os, &identity)); /* then the pid is told as 0 */
    struct kelpie_agent_clock_sample now = kelpie__agent_sample_clock(agent);
    char text[CONNECTION_READY_BYTES_MAX];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_i64(&writer, "pid", identity.pid);
    kelpie__json_write_string(&writer, "boot_id", boot_id);
    kelpie__json_object_begin(&writer, "clock");
    kelpie__json_write_u64(&writer, "tsc0", agent->start.cycles);
    kelpie__json_write_i64(&writer, "mono0", agent->start.monotonic_ns);
    kelpie__json_write_u64(&writer, "tsc1", now.cycles);
    kelpie__json_write_i64(&writer, "mono1", now.monotonic_ns);
    kelpie__json_object_end(&writer);
    if (agent->boot_error.code != 0) {
        kelpie__json_write_string(&writer, "error", agent->boot_error.message);
    }
    kelpie__json_object_end(&writer);
    if (kelpie__json_finish(&writer) > 0) { /* else an error text of 950 control characters */
        /* A new wire has room; a closed one tells by its callback. */
        kelpie__ignore(kelpie__wire_notify(agent->wire, "ready", text));
        kelpie__wire_flush(agent->wire);
    }
}

void kelpie__agent_connect(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->wire == NULL);
    KELPIE_ASSERT(agent->port >= 0);
    const struct kelpie_wire_create create = {
        .os = agent->os,
        .loop = agent->loop,
        .handle = agent->port,
        .owns_handle = false,
        .callbacks = &connection_callbacks,
        .context = agent,
        .peer = "the monitor",
    };
    struct kelpie_error error = {0};
    if (kelpie__wire_create(&create, &agent->wire, &error) < 0) {
        kelpie__agent_log(agent->os, "serve the port: %s", error.message);
        connection_retry(agent);
        return;
    }
    if (agent->phase != KELPIE_AGENT_STOPPING) {
        agent->phase = KELPIE_AGENT_WAITING;
    }
    connection_send_ready(agent);
}

void kelpie__agent_disconnect(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    kelpie__agent_exec_detach_all(agent);
    kelpie__agent_sync_forget(agent);
    kelpie__wire_destroy(agent->wire);
    agent->wire = NULL;
    bool was_served = agent->phase == KELPIE_AGENT_GREETED || agent->phase == KELPIE_AGENT_QUIESCED;
    if (was_served) {
        agent->phase = KELPIE_AGENT_WAITING;
    }
    KELPIE_ASSERT(!kelpie__agent_may_send(agent));
}
