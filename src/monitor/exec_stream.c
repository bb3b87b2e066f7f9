/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The bytes of commands: see exec.h. Credit travels end to end: the guest may send what the client
 * has made room for, plus what fits into the ring, and the other way round.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/exec.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define EXEC_EXIT_BYTES_MAX 4096u

static_assert(KELPIE_STREAM_CREDIT_INITIAL_BYTES <= KELPIE_EXEC_INPUT_BYTES,
              "what may be sent without being asked has room");

static struct kelpie_wire *exec_client_wire(const struct kelpie_relay_exec *exec) {
    return exec->client == 0 ? NULL : kelpie__client_wire(exec->relay->monitor, exec->client);
}

static struct kelpie_wire *exec_guest_wire(const struct kelpie_relay_exec *exec) {
    return exec->phase == KELPIE_RELAY_ENDED ? NULL : kelpie__guest_wire(exec->relay->guest);
}

static uint32_t exec_number(const struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                            bool is_guest_side) {
    return kelpie__stream_number(is_guest_side ? exec->guest_channel : exec->client_channel, kind);
}

bool kelpie__exec_ensure_ring(struct kelpie_relay_exec *exec, struct kelpie_exec_stream *stream) {
    if (stream->has_ring) {
        return true;
    }
    struct kelpie_ring_pool *rings = &exec->relay->monitor->spares.rings;
    bool is_stopped = stream->sender.is_stopped;
    bool is_end_written = stream->sender.is_end_written;
    if (kelpie__stream_sender_init_pooled(&stream->sender, rings, KELPIE_EXEC_INPUT_BYTES, NULL) <
        0) {
        return false;
    }
    stream->has_ring = true;
    stream->sender.is_stopped = is_stopped;
    stream->sender.is_end_written = is_end_written;
    kelpie__stream_sender_check(&stream->sender);
    return true;
}

void kelpie__exec_grant(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    bool is_input = kelpie__exec_is_input(kind);
    struct kelpie_wire *source = is_input ? exec_client_wire(exec) : exec_guest_wire(exec);
    if (source == NULL || (!stream->has_ring && !stream->sender.is_stopped)) {
        return;
    }
    uint64_t consumed =
        stream->sender.is_stopped ? stream->receiver.received : stream->sender.ring.acknowledged;
    KELPIE_ASSERT(consumed <= stream->receiver.received);
    kelpie__stream_receiver_consumed(&stream->receiver, source, exec_number(exec, kind, !is_input),
                                     consumed);
}

/* The end of a stream that never had a byte needs no ring: most of stderr is like this. */
static void exec_pump_empty(struct kelpie_exec_stream *stream, struct kelpie_wire *sink,
                            uint32_t number) {
    KELPIE_ASSERT(!stream->has_ring);
    KELPIE_ASSERT(stream->receiver.received == 0 || stream->sender.is_stopped);
    struct kelpie_stream_sender *sender = &stream->sender;
    if (sender->is_end_written && !sender->is_end_sent) {
        /* Without room it is tried again at `drained`. */
        sender->is_end_sent = kelpie__wire_data(sink, number, 0, NULL, 0, true) == 0;
    }
}

void kelpie__exec_grow(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                       size_t capacity) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    struct kelpie_ring *ring = &stream->sender.ring;
    KELPIE_ASSERT(capacity <= KELPIE_EXEC_OUTPUT_BYTES);
    if (stream->sender.is_stopped || !kelpie__exec_ensure_ring(exec, stream) ||
        ring->capacity >= capacity || kelpie__ring_grow(ring, capacity, NULL) < 0) {
        return;
    }
    KELPIE_REACHED(exec->relay->monitor->os, "a command's buffer grew");
    kelpie__stream_sender_check(&stream->sender);
    stream->receiver.window_bytes = kelpie__to_u32(capacity);
    kelpie__exec_grant(exec, kind);
}

/* More than what may come unasked has come: it flows, and gets what a flow needs. */
static void exec_widen(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind) {
    const struct kelpie_exec_stream *stream = &exec->streams[kind];
    KELPIE_ASSERT(stream->receiver.received <= stream->receiver.limit);
    if (kind != KELPIE_STREAM_ARGUMENTS && !stream->receiver.is_ended &&
        stream->receiver.received >= KELPIE_STREAM_CREDIT_INITIAL_BYTES) {
        kelpie__exec_grow(exec, kind, KELPIE_EXEC_STREAM_BYTES);
    }
}

/* A sink whose window is larger than the ring acknowledges too late to keep a small ring moving:
 * everything is sent, more would be taken, and nothing makes room. Then the ring grows; one that
 * may not grow forgets what was sent. One that is as large as the windows of our own sinks moves
 * until it is full. */
static void exec_make_room(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    struct kelpie_ring *ring = &stream->sender.ring;
    KELPIE_ASSERT(stream->has_ring);
    bool is_small = ring->capacity < KELPIE_EXEC_STREAM_BYTES;
    bool is_input = kelpie__exec_is_input(kind);
    size_t room_wanted = is_small || is_input ? ring->capacity / 2 : 1;
    bool is_waiting = kelpie__ring_unsent(ring) == 0 && stream->sender.limit > ring->sent &&
                      kelpie__ring_space(ring) < room_wanted;
    if (!is_waiting || stream->receiver.is_ended) {
        return;
    }
    if (!is_input && ring->capacity < KELPIE_EXEC_OUTPUT_BYTES) {
        kelpie__exec_grow(exec, kind,
                          is_small ? KELPIE_EXEC_STREAM_BYTES : KELPIE_EXEC_OUTPUT_BYTES);
        return;
    }
    KELPIE_REACHED(exec->relay->monitor->os, "a buffer that may not grow forgot what was sent");
    bool is_known = kelpie__ring_acknowledge(ring, ring->sent);
    KELPIE_ASSERT(is_known);
    kelpie__exec_grant(exec, kind);
}

static void exec_pump_stream(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    bool is_input = kelpie__exec_is_input(kind);
    struct kelpie_wire *sink = is_input ? exec_guest_wire(exec) : exec_client_wire(exec);
    if (sink == NULL) {
        return;
    }
    uint32_t number = exec_number(exec, kind, is_input);
    if (stream->has_ring) {
        kelpie__ignore(kelpie__stream_sender_pump(&stream->sender, sink, number));
        if (KELPIE_CANARY(exec->relay->monitor->os, 9)) { /* as if what was sent had arrived */
            kelpie__ignore(
                kelpie__ring_acknowledge(&stream->sender.ring, stream->sender.ring.sent));
        }
        exec_make_room(exec, kind);
    } else {
        exec_pump_empty(stream, sink, number);
    }
}

/* Everything that the client is going to get of the output has been sent. */
static bool exec_output_is_sent(const struct kelpie_relay_exec *exec,
                                enum kelpie_stream_kind kind) {
    const struct kelpie_stream_sender *sender = &exec->streams[kind].sender;
    return sender->is_stopped || sender->is_end_sent;
}

static int64_t exec_exit_text(const struct kelpie_relay_exec *exec, char *out, size_t capacity) {
    const struct kelpie_exec_end *end = &exec->end;
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "channel", exec->client_channel);
    kelpie__json_write_string(&writer, "id", exec->id);
    if (end->error != NULL || end->lost_code < 0) {
        bool is_starved = end->lost_code == KELPIE_E_MEMORY;
        const char *message = end->error != NULL ? end->error->message
                              : is_starved ? "the monitor had no memory for bytes of the command"
                                           : "the VM ended, and there was no memory to say why";
        kelpie__json_object_begin(&writer, "error");
        kelpie__json_write_i64(&writer, "code",
                               end->error != NULL ? end->error->code : end->lost_code);
        kelpie__json_write_string(&writer, "message", message);
        kelpie__json_object_end(&writer);
    } else {
        KELPIE_ASSERT(end->has_code || end->has_signal);
        if (end->has_code) {
            kelpie__json_write_i64(&writer, "code", end->code);
        } else {
            kelpie__json_write_i64(&writer, "signal", end->signal);
        }
        kelpie__json_write_string(&writer, "reason", end->reason);
        kelpie__json_write_u64(&writer, "wall_us", end->wall_us);
        kelpie__json_write_u64(&writer, "cpu_us", end->cpu_us);
        kelpie__json_write_u64(&writer, "peak_memory_kib", end->peak_memory_kib);
    }
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

/* True when the client has been told, or nobody is ever going to be. */
static bool exec_deliver_end(struct kelpie_relay_exec *exec) {
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_ENDED);
    if (exec->is_abandoned) {
        return true;
    }
    struct kelpie_wire *wire = exec_client_wire(exec);
    bool is_sent = exec_output_is_sent(exec, KELPIE_STREAM_STDOUT) &&
                   exec_output_is_sent(exec, KELPIE_STREAM_STDERR);
    bool is_lost = exec->end.error != NULL || exec->end.lost_code < 0;
    if (wire == NULL || (!is_sent && !is_lost)) {
        return false;
    }
    KELPIE_SOMETIMES(exec->relay->monitor->os,
                     "an error ended a command whose output was not delivered", !is_sent);
    char text[EXEC_EXIT_BYTES_MAX];
    int64_t length = exec_exit_text(exec, text, sizeof(text));
    KELPIE_ASSERT(length > 0);
    return kelpie__wire_notify(wire, "exec.exit", text) == 0; /* else again at `drained` */
}

bool kelpie__relay_exec_pump(struct kelpie_relay_exec *exec) {
    kelpie__exec_check(exec);
    for (uint32_t kind = 0; kind < KELPIE_EXEC_STREAM_COUNT; kind += 1) {
        exec_pump_stream(exec, (enum kelpie_stream_kind)kind);
    }
    if (exec->phase == KELPIE_RELAY_ENDED && exec_deliver_end(exec)) {
        kelpie__exec_free(exec);
        return true;
    }
    return false;
}

/* Remembers the beginning of argv[0], for people who list commands. */
static void exec_note_command(struct kelpie_relay_exec *exec, const char *bytes, size_t count) {
    for (size_t i = 0; i < count && !exec->is_command_known; i += 1) {
        bool is_full = exec->command_length + 1 == sizeof(exec->command);
        if (bytes[i] == '\0' || is_full) {
            exec->is_command_known = true;
            break;
        }
        bool is_plain = bytes[i] >= ' ' && bytes[i] <= '~' && bytes[i] != '"' && bytes[i] != '\\';
        exec->command[exec->command_length] = is_plain ? bytes[i] : '?';
        exec->command_length += 1;
    }
    KELPIE_ASSERT(exec->command_length < sizeof(exec->command));
    KELPIE_ASSERT(exec->command[exec->command_length] == '\0');
}

void kelpie__exec_stop_stream(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    if (stream->sender.is_stopped) {
        return;
    }
    if (stream->has_ring) {
        kelpie__stream_sender_stop(&stream->sender);
        kelpie__exec_grant(exec, kind);
    } else {
        stream->sender.is_stopped = true;
    }
    KELPIE_ASSERT(stream->sender.is_stopped);
}

/* Its start is refused. What the guest has of its arguments ends before what was announced, and it
 * refuses the command, too. */
static void exec_starve_start(struct kelpie_relay_exec *exec) {
    struct kelpie_stream_sender *arguments = &exec->streams[KELPIE_STREAM_ARGUMENTS].sender;
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_STARTING);
    if (exec->client != 0) {
        kelpie__reply_refuse_text(exec->relay->monitor, &exec->start_reply, KELPIE_E_MEMORY,
                                  "the monitor has no memory for bytes of the command");
        kelpie__exec_let_go(exec, false);
    }
    arguments->is_end_written = true;
    exec_pump_stream(exec, KELPIE_STREAM_ARGUMENTS);
}

void kelpie__exec_starve(struct kelpie_relay_exec *exec) {
    kelpie__exec_check(exec);
    if (exec->phase == KELPIE_RELAY_ENDED || exec->end.lost_code < 0) {
        return;
    }
    KELPIE_REACHED(exec->relay->monitor->os, "a stream found no memory");
    exec->end.lost_code = KELPIE_E_MEMORY;
    for (uint32_t kind = 0; kind < KELPIE_EXEC_STREAM_COUNT; kind += 1) {
        kelpie__exec_stop_stream(exec, (enum kelpie_stream_kind)kind);
    }
    if (exec->phase == KELPIE_RELAY_STARTING) {
        exec_starve_start(exec);
    }
    kelpie__exec_kill(exec);
}

/* Takes bytes of either direction into the ring. NULL, or the broken rule. */
static const char *exec_receive(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                                uint64_t offset, const void *bytes, size_t count, bool is_end) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    const char *rule = kelpie__stream_receiver_data(&stream->receiver, offset, count, is_end);
    if (rule != NULL) {
        return rule;
    }
    if (kind == KELPIE_STREAM_ARGUMENTS && stream->receiver.received > exec->argument_bytes) {
        return "R23: more bytes of arguments than exec.start announced";
    }
    if (kind == KELPIE_STREAM_ARGUMENTS) {
        exec_note_command(exec, bytes, count);
    }
    if (count > 0 && !stream->sender.is_stopped) {
        if (kelpie__exec_ensure_ring(exec, stream)) {
            size_t taken = kelpie__stream_sender_write(&stream->sender, bytes, count);
            KELPIE_ASSERT(taken ==
                          count); /* the receiver's limit is never beyond the ring's room */
            exec_widen(exec, kind);
        } else {
            kelpie__exec_starve(exec);
        }
    }
    KELPIE_SOMETIMES(exec->relay->monitor->os, "credit was zero at the end",
                     is_end && stream->receiver.received == stream->receiver.limit);
    if (is_end && stream->has_ring) {
        kelpie__stream_sender_end(&stream->sender);
    } else if (is_end) {
        stream->sender.is_end_written = true;
    }
    if (stream->sender.is_stopped) {
        kelpie__exec_grant(exec, kind); /* what is thrown away needs no room */
    }
    return NULL;
}

/* NULL, or the broken rule. */
static const char *exec_take_credit(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                                    uint64_t acknowledged, uint64_t limit) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    if (!kelpie__exec_ensure_ring(exec, stream)) {
        kelpie__exec_starve(exec);
        return NULL;
    }
    return kelpie__stream_sender_credit(&stream->sender, acknowledged, limit);
}

/* ---- what clients bring ---------------------------------------------------------------------- */

static struct kelpie_relay_exec *relay_find_client(const struct kelpie_relay *relay,
                                                   uint64_t client, uint32_t channel) {
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec != NULL && exec->client == client && exec->client_channel == channel) {
            return exec;
        }
    }
    return NULL;
}

/* A frame of a channel that is no more is late, not wrong; one of a channel that never was is
 * wrong. */
static struct kelpie_relay_exec *relay_client_exec(struct kelpie_relay *relay, uint64_t client,
                                                   uint32_t stream) {
    KELPIE_ASSERT(client != 0);
    uint32_t channel = kelpie__exec_stream_channel(stream);
    struct kelpie_relay_exec *exec = relay_find_client(relay, client, channel);
    if (exec == NULL && channel > kelpie__client_channel_last(relay->monitor, client)) {
        struct kelpie_wire *wire = kelpie__client_wire(relay->monitor, client);
        if (wire != NULL) {
            kelpie__wire_break(wire, "R19", "channel %u was never opened", channel);
        }
    }
    return exec;
}

static void relay_break_client(struct kelpie_relay_exec *exec, const char *rule) {
    struct kelpie_wire *wire = exec_client_wire(exec);
    KELPIE_ASSERT(rule != NULL);
    if (wire != NULL) {
        kelpie__wire_break_rule(wire, rule);
    }
}

void kelpie__relay_client_data(struct kelpie_relay *relay, uint64_t client, uint32_t stream,
                               uint64_t offset, const void *bytes, size_t count, bool is_end) {
    struct kelpie_relay_exec *exec = relay_client_exec(relay, client, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL || exec->phase == KELPIE_RELAY_ENDED) {
        return;
    }
    const char *rule = kelpie__exec_is_input(kind)
                           ? exec_receive(exec, kind, offset, bytes, count, is_end)
                           : "R20: a client sends no output";
    if (rule != NULL) {
        relay_break_client(exec, rule);
        return;
    }
    exec_pump_stream(exec, kind);
}

void kelpie__relay_client_credit(struct kelpie_relay *relay, uint64_t client, uint32_t stream,
                                 uint64_t acknowledged, uint64_t limit) {
    struct kelpie_relay_exec *exec = relay_client_exec(relay, client, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL) {
        return;
    }
    const char *rule = "R20: a client gives no credit for input";
    if (!kelpie__exec_is_input(kind)) {
        rule = exec_take_credit(exec, kind, acknowledged, limit);
    }
    if (rule != NULL) {
        relay_break_client(exec, rule);
        return;
    }
    kelpie__exec_grant(exec, kind);
    kelpie__ignore(kelpie__relay_exec_pump(exec)); /* freed or not: this was the last use */
}

void kelpie__relay_client_stop(struct kelpie_relay *relay, uint64_t client, uint32_t stream) {
    struct kelpie_relay_exec *exec = relay_client_exec(relay, client, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL) {
        return;
    }
    if (kelpie__exec_is_input(kind)) {
        relay_break_client(exec, "R20: a client does not stop its own input");
        return;
    }
    KELPIE_REACHED(relay->monitor->os, "a client stopped the output of a command");
    kelpie__exec_stop_stream(exec, kind);
    struct kelpie_wire *guest = exec_guest_wire(exec);
    if (guest != NULL) {
        /* Without room the guest is not told, and its output is thrown away here. */
        kelpie__ignore(kelpie__wire_stop(guest, exec_number(exec, kind, true)));
    }
    kelpie__ignore(kelpie__relay_exec_pump(exec)); /* freed or not: this was the last use */
}

void kelpie__relay_client_drained(struct kelpie_relay *relay, uint64_t client) {
    KELPIE_ASSERT(client != 0);
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (relay->execs[i] != NULL && relay->execs[i]->client == client) {
            kelpie__ignore(
                kelpie__relay_exec_pump(relay->execs[i])); /* freed or not: not used again */
        }
    }
}

/* ---- what the guest brings ------------------------------------------------------------------- */

static struct kelpie_relay_exec *relay_guest_exec(struct kelpie_relay *relay, uint32_t stream) {
    uint32_t channel = kelpie__exec_stream_channel(stream);
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec != NULL && exec->phase != KELPIE_RELAY_ENDED && exec->guest_channel == channel) {
            return exec;
        }
    }
    if (channel == 0 || channel > relay->guest_channel_last) {
        kelpie__guest_break(relay->guest, "R19: a channel that was never opened");
    }
    return NULL;
}

void kelpie__relay_guest_data(struct kelpie_relay *relay, uint32_t stream, uint64_t offset,
                              const void *bytes, size_t count, bool is_end) {
    struct kelpie_relay_exec *exec = relay_guest_exec(relay, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL) {
        return;
    }
    const char *rule = kelpie__exec_is_input(kind)
                           ? "R20: an agent sends no input"
                           : exec_receive(exec, kind, offset, bytes, count, is_end);
    if (rule != NULL) {
        kelpie__guest_break(relay->guest, rule);
        return;
    }
    exec_pump_stream(exec, kind);
}

void kelpie__relay_guest_credit(struct kelpie_relay *relay, uint32_t stream, uint64_t acknowledged,
                                uint64_t limit) {
    struct kelpie_relay_exec *exec = relay_guest_exec(relay, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL) {
        return;
    }
    const char *rule = "R20: an agent gives no credit for output";
    if (kelpie__exec_is_input(kind)) {
        rule = exec_take_credit(exec, kind, acknowledged, limit);
    }
    if (rule != NULL) {
        kelpie__guest_break(relay->guest, rule);
        return;
    }
    kelpie__exec_grant(exec, kind);
    exec_pump_stream(exec, kind);
}

void kelpie__relay_guest_stop(struct kelpie_relay *relay, uint32_t stream) {
    struct kelpie_relay_exec *exec = relay_guest_exec(relay, stream);
    enum kelpie_stream_kind kind = kelpie__exec_stream_kind(stream);
    if (exec == NULL) {
        return;
    }
    if (!kelpie__exec_is_input(kind)) {
        kelpie__guest_break(relay->guest, "R20: an agent does not stop its own output");
        return;
    }
    KELPIE_REACHED(relay->monitor->os, "a command stopped reading its input");
    kelpie__exec_stop_stream(exec, kind);
    struct kelpie_wire *client = exec_client_wire(exec);
    if (client != NULL) {
        /* Without room the client is not told, and its input is thrown away here. */
        kelpie__ignore(kelpie__wire_stop(client, exec_number(exec, kind, false)));
    }
}

void kelpie__relay_guest_drained(struct kelpie_relay *relay) {
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (relay->execs[i] != NULL && relay->execs[i]->phase != KELPIE_RELAY_ENDED) {
            KELPIE_ASSERT(relay->execs[i]->relay == relay);
            exec_pump_stream(relay->execs[i], KELPIE_STREAM_ARGUMENTS);
            exec_pump_stream(relay->execs[i], KELPIE_STREAM_STDIN);
        }
    }
}
