/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See wire.h: the bytes of a connection. Frames that are queued in one step of the loop leave in
 * one write at its end. The output buffer has a part that only messages may use, so that bulk data
 * never keeps an answer out.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire_internal.h"

#define WIRE_REST_READS 64u /* of what a peer said before it closed: a socket's buffer and more */
/* A kernel without memory for a write has some soon, or is beyond help; that the stream is writable
 * says nothing. */
#define WIRE_STARVED_NS (10 * KELPIE_NS_PER_MS)
#define WIRE_STARVED_COUNT_MAX 500u /* of tries one after the other */
#define WIRE_INPUT_BYTES (2u * KELPIE_FRAME_BYTES_MAX)

static_assert(WIRE_INPUT_BYTES >= KELPIE_FRAME_BYTES_MAX, "the largest frame fits");

void kelpie__wire_check(const struct kelpie_wire *wire) {
    KELPIE_ASSERT(wire->input_count <= WIRE_INPUT_BYTES);
    KELPIE_ASSERT(wire->output_start + wire->output_count <= KELPIE_WIRE_OUTPUT_BYTES);
    KELPIE_ASSERT(wire->output_count > 0 || wire->output_start == 0);
    KELPIE_ASSERT(wire->next_id > 0);
    KELPIE_ASSERT(wire->corked_count <= (wire->is_corked ? wire->output_count : 0));
    KELPIE_ASSERT(!wire->is_close_told || wire->is_closed);
}

void kelpie__wire_enter(struct kelpie_wire *wire) {
    KELPIE_ASSERT(!wire->is_destroyed);
    wire->callback_depth += 1;
}

static void wire_free(struct kelpie_wire *wire) {
    struct kelpie_os *os = wire->os;
    KELPIE_ASSERT(wire->callback_depth == 0);
    kelpie__free(os, wire->input, WIRE_INPUT_BYTES + 1);
    kelpie__free(os, wire->output, KELPIE_WIRE_OUTPUT_BYTES);
    kelpie__free(os, wire, sizeof(*wire));
}

bool kelpie__wire_leave(struct kelpie_wire *wire) {
    KELPIE_ASSERT(wire->callback_depth > 0);
    wire->callback_depth -= 1;
    if (!wire->is_destroyed) {
        return true;
    }
    if (wire->callback_depth == 0) {
        wire_free(wire);
    }
    return false;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void wire_stop_io(struct kelpie_wire *wire) {
    if (wire->slot != KELPIE_LOOP_NO_SLOT) {
        kelpie__loop_unwatch(wire->loop, wire->slot);
        wire->slot = KELPIE_LOOP_NO_SLOT;
    }
    kelpie__timer_disarm(wire->loop, &wire->flush_timer);
    kelpie__timer_disarm(wire->loop, &wire->last_timer);
}

static void wire_tell_closed(void *context) {
    struct kelpie_wire *wire = context;
    KELPIE_ASSERT(wire->is_closed && !wire->is_close_told);
    wire->is_close_told = true;
    kelpie__wire_enter(wire);
    if (kelpie__wire_fail_pending(wire, &wire->close_error)) {
        wire->callbacks->closed(wire->context, &wire->close_error);
    }
    kelpie__ignore(kelpie__wire_leave(wire)); /* nothing follows */
}

void kelpie__wire_close(struct kelpie_wire *wire, const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    if (wire->is_closed) {
        return;
    }
    wire_stop_io(wire);
    wire->is_closed = true;
    wire->close_error = *error;
    kelpie__timer_arm(wire->loop, &wire->close_timer, wire->loop->now_ns, wire_tell_closed, wire);
    kelpie__wire_check(wire);
}

void kelpie__wire_set_context(struct kelpie_wire *wire, void *context) {
    kelpie__wire_check(wire);
    KELPIE_ASSERT(context != NULL);
    wire->context = context;
}

bool kelpie__wire_is_closed(const struct kelpie_wire *wire) {
    return wire->is_closed;
}

void kelpie__wire_break(struct kelpie_wire *wire, const char *rule, const char *format, ...) {
    char text[512];
    char params[1024];
    struct kelpie_error error;
    if (wire->is_closed) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(text, sizeof(text), format, arguments));
    va_end(arguments);
    KELPIE_ASSERT(rule[0] == 'R');
    kelpie__ignore(kelpie__text_format(
        params, sizeof(params), "{\"rule\":\"%s\",\"message\":\"rule %s is broken\"}", rule, rule));
    kelpie__ignore(kelpie__wire_notify(wire, "protocol_error", params)); /* the peer may not read */
    kelpie__wire_flush(wire);
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_PROTOCOL, 0, "%s broke the protocol's rule %s: %s",
                                wire->peer, rule, text));
    kelpie__wire_close(wire, &error);
}

void kelpie__wire_break_rule(struct kelpie_wire *wire, const char *rule_and_text) {
    char rule[8] = "";
    const char *colon = strchr(rule_and_text, ':');
    if (colon == NULL) { /* not the peer's doing */
        struct kelpie_error error;
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_MEMORY, 0, "%s", rule_and_text));
        kelpie__wire_close(wire, &error);
        return;
    }
    KELPIE_ASSERT(colon[1] == ' ');
    KELPIE_ASSERT((size_t)(colon - rule_and_text) < sizeof(rule));
    memcpy(rule, rule_and_text, (size_t)(colon - rule_and_text));
    kelpie__wire_break(wire, rule, "%s", colon + 2);
}

static void wire_fail_io(struct kelpie_wire *wire, int64_t status, const char *what) {
    struct kelpie_error error;
    KELPIE_ASSERT(status <= 0);
    if (status == 0) {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_IO, 0, "%s closed the connection", wire->peer));
    } else {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, (int)-status, "%s the connection", what));
    }
    kelpie__wire_close(wire, &error);
}

/* ---- output ---------------------------------------------------------------------------------- */

/* What may leave now. */
static size_t wire_sendable(const struct kelpie_wire *wire) {
    KELPIE_ASSERT(wire->corked_count <= wire->output_count);
    return wire->is_silent ? 0 : wire->output_count - wire->corked_count;
}

static void wire_watch_output(struct kelpie_wire *wire) {
    bool waits_for_room = wire_sendable(wire) > 0 && wire->starved_count == 0;
    uint32_t bits = KELPIE_OS_READABLE | (waits_for_room ? KELPIE_OS_WRITABLE : 0);
    kelpie__loop_watch_change(wire->loop, wire->slot, bits);
}

static void wire_read_last(void *context);

/* The peer has closed, and may have said why: an answer, a goodbye. That is read first. */
static void wire_fail_write(struct kelpie_wire *wire, int64_t status) {
    KELPIE_ASSERT(status < 0);
    wire->output_start = 0;
    wire->output_count = 0;
    wire->corked_count = 0;
    wire_watch_output(wire);
    if (!kelpie__timer_is_armed(&wire->last_timer)) {
        wire->write_error = status;
        kelpie__timer_arm(wire->loop, &wire->last_timer, wire->loop->now_ns, wire_read_last, wire);
    }
}

static void wire_flush_due(void *context);

static void wire_starve(struct kelpie_wire *wire) {
    KELPIE_REACHED(wire->os, "there was no memory for a write to a connection");
    wire->starved_count += 1;
    kelpie__timer_arm(wire->loop, &wire->flush_timer, wire->loop->now_ns + WIRE_STARVED_NS,
                      wire_flush_due, wire);
}

/* Writes in pieces of a frame's size: what krun.md asks of a vsock, and no loss elsewhere. */
static void wire_write(struct kelpie_wire *wire) {
    kelpie__wire_check(wire);
    unsigned budget = 2 * KELPIE_WIRE_OUTPUT_BYTES / KELPIE_FRAME_BYTES_MAX;
    for (; wire_sendable(wire) > 0 && budget > 0; budget -= 1) {
        size_t count = (size_t)kelpie__min_u64(wire_sendable(wire), KELPIE_FRAME_BYTES_MAX);
        int64_t written =
            kelpie__os_write(wire->os, wire->handle, wire->output + wire->output_start, count);
        if (written == -EAGAIN) {
            KELPIE_REACHED(wire->os, "a connection took no more");
            break;
        }
        bool is_starved = written == -ENOMEM || written == -ENOBUFS;
        if (is_starved && wire->starved_count < WIRE_STARVED_COUNT_MAX) {
            wire_starve(wire);
            break;
        }
        if (written < 0) {
            KELPIE_REACHED(wire->os, "a write to a connection failed");
            wire_fail_write(wire, written);
            return;
        }
        KELPIE_SOMETIMES(wire->os, "a frame was written in part", (size_t)written < count);
        wire->starved_count = 0;
        wire->output_start += (size_t)written;
        wire->output_count -= (size_t)written;
    }
    if (wire->output_count == 0) {
        wire->output_start = 0;
    }
    wire_watch_output(wire);
}

bool kelpie__wire_is_flushed(const struct kelpie_wire *wire) {
    return wire_sendable(wire) == 0;
}

static size_t wire_room(const struct kelpie_wire *wire, bool may_use_reserve) {
    size_t room = KELPIE_WIRE_OUTPUT_BYTES - wire->output_count;
    size_t reserve = may_use_reserve ? 0 : KELPIE_WIRE_RESERVE_BYTES;
    return room > reserve ? room - reserve : 0;
}

bool kelpie__wire_has_room(const struct kelpie_wire *wire, size_t bytes) {
    KELPIE_ASSERT(bytes <= KELPIE_WIRE_RESERVE_BYTES);
    return wire_room(wire, true) >= bytes;
}

static bool wire_is_drained(const struct kelpie_wire *wire) {
    return wire->wants_drained && !wire->is_held && !wire->is_closed &&
           wire->output_count <= KELPIE_WIRE_OUTPUT_BYTES / 4;
}

static void wire_tell_drained(struct kelpie_wire *wire) {
    if (wire_is_drained(wire)) {
        wire->wants_drained = false;
        wire->callbacks->drained(wire->context);
    }
}

static void wire_flush_due(void *context) {
    struct kelpie_wire *wire = context;
    kelpie__wire_enter(wire);
    if (!wire->is_closed) {
        wire_write(wire);
    }
    wire_tell_drained(wire);
    kelpie__ignore(kelpie__wire_leave(wire)); /* nothing follows */
}

static void wire_plan_flush(struct kelpie_wire *wire) {
    if (!kelpie__timer_is_armed(&wire->flush_timer)) {
        kelpie__timer_arm(wire->loop, &wire->flush_timer, wire->loop->now_ns, wire_flush_due, wire);
    }
}

void kelpie__wire_flush(struct kelpie_wire *wire) {
    if (wire->is_closed) {
        return;
    }
    kelpie__timer_disarm(wire->loop, &wire->flush_timer);
    wire_write(wire);
    if (wire_is_drained(wire)) {
        wire_plan_flush(wire); /* the caller may be who waits for it: told from the loop only */
    }
}

static void wire_append(struct kelpie_wire *wire, const void *bytes, size_t count) {
    size_t end = wire->output_start + wire->output_count;
    KELPIE_ASSERT(end + count <= KELPIE_WIRE_OUTPUT_BYTES);
    if (count > 0) {
        memcpy(wire->output + end, bytes, count);
    }
    wire->output_count += count;
}

int kelpie__wire_queue(struct kelpie_wire *wire, const struct kelpie_frame *frame,
                       const void *payload, bool may_use_reserve) {
    kelpie__wire_check(wire);
    if (wire->is_closed) {
        return KELPIE_E_IO;
    }
    size_t needed = KELPIE_FRAME_HEADER_BYTES + frame->length;
    if (wire_room(wire, may_use_reserve) < needed) {
        KELPIE_REACHED(wire->os, "there was no room for a frame");
        wire->wants_drained = true;
        return KELPIE_E_LIMIT;
    }
    if (wire->output_start + wire->output_count + needed > KELPIE_WIRE_OUTPUT_BYTES) {
        memmove(wire->output, wire->output + wire->output_start, wire->output_count);
        wire->output_start = 0;
    }
    uint8_t header[KELPIE_FRAME_HEADER_BYTES];
    kelpie__frame_encode(frame, header);
    wire_append(wire, header, sizeof(header));
    wire_append(wire, payload, frame->length);
    wire->corked_count += wire->is_corked ? needed : 0;
    wire_plan_flush(wire);
    kelpie__wire_check(wire);
    return 0;
}

int kelpie__wire_data(struct kelpie_wire *wire, uint32_t stream, uint64_t offset, const void *bytes,
                      size_t count, bool is_end) {
    KELPIE_ASSERT(count <= KELPIE_FRAME_PAYLOAD_BYTES_MAX);
    KELPIE_ASSERT(count > 0 || is_end);
    if (wire->is_held) {
        wire->wants_drained = true;
        return KELPIE_E_LIMIT;
    }
    const struct kelpie_frame frame = {.type = KELPIE_FRAME_DATA,
                                       .flags = is_end ? KELPIE_FRAME_FLAG_END : 0,
                                       .length = (uint32_t)count,
                                       .stream = stream,
                                       .offset = offset};
    return kelpie__wire_queue(wire, &frame, bytes, false);
}

int kelpie__wire_credit(struct kelpie_wire *wire, uint32_t stream, uint64_t acknowledged,
                        uint64_t limit) {
    KELPIE_ASSERT(acknowledged <= limit);
    uint8_t payload[8];
    kelpie__frame_store_u64(payload, limit);
    const struct kelpie_frame frame = {.type = KELPIE_FRAME_CREDIT,
                                       .length = sizeof(payload),
                                       .stream = stream,
                                       .offset = acknowledged};
    return kelpie__wire_queue(wire, &frame, payload, true);
}

int kelpie__wire_stop(struct kelpie_wire *wire, uint32_t stream) {
    const struct kelpie_frame frame = {.type = KELPIE_FRAME_STOP, .stream = stream};
    return kelpie__wire_queue(wire, &frame, NULL, true);
}

int kelpie__wire_mark(struct kelpie_wire *wire, const uint8_t mark[KELPIE_MARK_BYTES]) {
    const struct kelpie_frame frame = {.type = KELPIE_FRAME_MARK, .length = KELPIE_MARK_BYTES};
    return kelpie__wire_queue(wire, &frame, mark, true);
}

void kelpie__wire_hold(struct kelpie_wire *wire, bool is_held) {
    wire->is_held = is_held;
    if (!is_held && wire->wants_drained && !wire->is_closed) {
        wire_plan_flush(wire); /* `drained` comes from there */
    }
}

void kelpie__wire_silence(struct kelpie_wire *wire, bool is_silent) {
    kelpie__wire_check(wire);
    wire->is_silent = is_silent;
    if (!is_silent && !wire->is_closed) {
        wire_plan_flush(wire);
    }
}

int kelpie__wire_cork(struct kelpie_wire *wire, const uint8_t mark[KELPIE_MARK_BYTES]) {
    KELPIE_ASSERT(!wire->is_corked && wire->corked_count == 0);
    wire->is_corked = true;
    int status = kelpie__wire_mark(wire, mark);
    wire->is_corked = status == 0;
    return status;
}

void kelpie__wire_uncork(struct kelpie_wire *wire) {
    KELPIE_ASSERT(wire->is_corked);
    wire->is_corked = false;
    wire->corked_count = 0;
    if (!wire->is_closed) {
        wire_plan_flush(wire);
    }
    kelpie__wire_check(wire);
}

void kelpie__wire_discard_until(struct kelpie_wire *wire, const uint8_t mark[KELPIE_MARK_BYTES]) {
    wire->is_discarding = true;
    memcpy(wire->discard_mark, mark, KELPIE_MARK_BYTES);
}

/* ---- input ----------------------------------------------------------------------------------- */

static void wire_dispatch(struct kelpie_wire *wire, const struct kelpie_frame *frame,
                          uint8_t *payload) {
    const struct kelpie_wire_callbacks *callbacks = wire->callbacks;
    switch (frame->type) {
    case KELPIE_FRAME_MESSAGE:
        kelpie__wire_message(wire, (char *)payload, frame->length);
        break;
    case KELPIE_FRAME_DATA:
        callbacks->data(wire->context, frame->stream, frame->offset, payload, frame->length,
                        frame->flags != 0);
        break;
    case KELPIE_FRAME_CREDIT:
        callbacks->credit(wire->context, frame->stream, frame->offset,
                          kelpie__frame_load_u64(payload));
        break;
    case KELPIE_FRAME_STOP:
        callbacks->stop(wire->context, frame->stream);
        break;
    case KELPIE_FRAME_MARK:
        if (callbacks->mark != NULL) {
            callbacks->mark(wire->context, payload);
        }
        break;
    }
}

/* Looks for the mark at every byte. Returns how many bytes are done with. */
static size_t wire_discard(struct kelpie_wire *wire, const uint8_t *bytes, size_t count) {
    const size_t wanted = KELPIE_FRAME_HEADER_BYTES + KELPIE_MARK_BYTES;
    size_t at = 0;
    for (; count - at >= wanted; at += 1) {
        struct kelpie_frame frame;
        if (kelpie__frame_decode(bytes + at, &frame) == NULL && frame.type == KELPIE_FRAME_MARK &&
            memcmp(bytes + at + KELPIE_FRAME_HEADER_BYTES, wire->discard_mark, KELPIE_MARK_BYTES) ==
                0) {
            wire->is_discarding = false;
            if (wire->callbacks->mark != NULL) {
                wire->callbacks->mark(wire->context, wire->discard_mark);
            }
            return at + wanted;
        }
    }
    return at;
}

/* Handles the frame at `bytes`. Returns its length, or 0 when it is not complete or the connection
 * has ended. */
static size_t wire_take_frame(struct kelpie_wire *wire, uint8_t *bytes, size_t count) {
    struct kelpie_frame frame;
    if (count < KELPIE_FRAME_HEADER_BYTES) {
        return 0;
    }
    const char *rule = kelpie__frame_decode(bytes, &frame);
    if (rule != NULL) {
        kelpie__wire_break_rule(wire, rule);
        return 0;
    }
    size_t length = KELPIE_FRAME_HEADER_BYTES + frame.length;
    if (count < length) {
        return 0;
    }
    uint8_t *payload = bytes + KELPIE_FRAME_HEADER_BYTES;
    uint8_t after = payload[frame.length]; /* lent to a message for its zero */
    wire_dispatch(wire, &frame, payload);
    payload[frame.length] = after;
    return length;
}

/* False: the wire is gone or closed. */
static bool wire_take_frames(struct kelpie_wire *wire) {
    size_t at = 0;
    size_t taken = 1;
    while (taken > 0 && at < wire->input_count) { /* bound: the buffer */
        size_t left = wire->input_count - at;
        taken = wire->is_discarding ? wire_discard(wire, wire->input + at, left)
                                    : wire_take_frame(wire, wire->input + at, left);
        at += taken;
        if (wire->is_destroyed || wire->is_closed) {
            return false;
        }
    }
    KELPIE_ASSERT(at <= wire->input_count);
    memmove(wire->input, wire->input + at, wire->input_count - at);
    wire->input_count -= at;
    return true;
}

/* False: there was nothing, or the connection has ended. */
static bool wire_read(struct kelpie_wire *wire) {
    size_t room = WIRE_INPUT_BYTES - wire->input_count;
    KELPIE_ASSERT(room > 0); /* a complete frame never stays in the buffer */
    int64_t count = kelpie__os_read(wire->os, wire->handle, wire->input + wire->input_count, room);
    if (count == -EAGAIN) {
        return false;
    }
    if (count <= 0) {
        wire_fail_io(wire, count, "read from");
        return false;
    }
    wire->input_count += (size_t)count;
    return wire_take_frames(wire);
}

void kelpie__wire_read_rest(struct kelpie_wire *wire) {
    bool has_more = true;
    KELPIE_ASSERT(!wire->is_closed);
    KELPIE_ASSERT(wire->callback_depth > 0);
    for (uint32_t i = 0; i < WIRE_REST_READS && has_more; i += 1) {
        has_more = wire_read(wire);
    }
}

static void wire_read_last(void *context) {
    struct kelpie_wire *wire = context;
    KELPIE_ASSERT(!wire->is_closed && wire->write_error < 0);
    kelpie__wire_enter(wire);
    kelpie__wire_read_rest(wire);
    if (!wire->is_destroyed && !wire->is_closed) {
        wire_fail_io(wire, wire->write_error, "write to");
    }
    kelpie__ignore(kelpie__wire_leave(wire)); /* nothing follows */
}

static void wire_ready(void *context, uint32_t bits) {
    struct kelpie_wire *wire = context;
    kelpie__wire_check(wire);
    kelpie__wire_enter(wire);
    if ((bits & KELPIE_OS_WRITABLE) != 0) {
        wire_write(wire);
        wire_tell_drained(wire);
    }
    bool is_alive = !wire->is_destroyed && !wire->is_closed;
    if (is_alive && (bits & (KELPIE_OS_READABLE | KELPIE_OS_HANGUP)) != 0) {
        kelpie__ignore(wire_read(wire)); /* the next event brings what follows */
    }
    kelpie__ignore(kelpie__wire_leave(wire)); /* nothing follows */
}

/* ---- life ------------------------------------------------------------------------------------ */

int kelpie__wire_create(const struct kelpie_wire_create *create, struct kelpie_wire **out,
                        struct kelpie_error *error) {
    struct kelpie_os *os = create->os;
    KELPIE_ASSERT(create->handle >= 0);
    KELPIE_ASSERT(create->callbacks->closed != NULL && create->callbacks->drained != NULL);
    struct kelpie_wire *wire = kelpie__alloc_raw(os, sizeof(*wire));
    uint8_t *input = kelpie__alloc_raw(os, WIRE_INPUT_BYTES + 1);
    uint8_t *output = kelpie__alloc_raw(os, KELPIE_WIRE_OUTPUT_BYTES);
    int status = KELPIE_E_MEMORY;
    if (wire == NULL || input == NULL || output == NULL) {
        kelpie__ignore(kelpie__fail(error, status, 0, "no memory for a connection"));
        goto fail_memory;
    }
    *wire = (struct kelpie_wire){.os = os,
                                 .loop = create->loop,
                                 .callbacks = create->callbacks,
                                 .context = create->context,
                                 .handle = create->handle,
                                 .owns_handle = create->owns_handle,
                                 .slot = KELPIE_LOOP_NO_SLOT,
                                 .input = input,
                                 .output = output,
                                 .next_id = 1};
    status = kelpie__loop_watch(create->loop, create->handle, KELPIE_OS_READABLE, wire_ready, wire,
                                &wire->slot);
    if (status < 0) {
        kelpie__ignore(kelpie__fail(error, status, 0, "watch a connection"));
        goto fail_memory;
    }
    bool fits = kelpie__text_copy(wire->peer, sizeof(wire->peer),
                                  create->peer != NULL ? create->peer : "the peer");
    KELPIE_ASSERT(fits);
    kelpie__wire_check(wire);
    *out = wire;
    return 0;
fail_memory:
    kelpie__free(os, wire, sizeof(*wire));
    kelpie__free(os, input, WIRE_INPUT_BYTES + 1);
    kelpie__free(os, output, KELPIE_WIRE_OUTPUT_BYTES);
    return status;
}

void kelpie__wire_end(struct kelpie_wire *wire) {
    kelpie__wire_check(wire);
    KELPIE_ASSERT(!wire->is_destroyed);
    kelpie__wire_flush(wire);
    if (!wire->is_closed) {
        kelpie__ignore(kelpie__os_shut_write(wire->os, wire->handle)); /* or the peer has gone */
    }
}

void kelpie__wire_destroy(struct kelpie_wire *wire) {
    if (wire == NULL) {
        return;
    }
    KELPIE_ASSERT(!wire->is_destroyed);
    kelpie__wire_flush(wire);
    wire_stop_io(wire);
    wire->is_closed = true;
    kelpie__timer_disarm(wire->loop, &wire->close_timer);
    kelpie__wire_drop_pending(wire);
    if (wire->owns_handle) {
        kelpie__ignore(kelpie__os_close(wire->os, wire->handle));
    }
    wire->is_destroyed = true;
    if (wire->callback_depth == 0) {
        wire_free(wire);
    }
}
