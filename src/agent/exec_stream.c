/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The bytes of a command. Output goes from its pipe into a ring and from there to the wire; it
 * stays in the ring until the peer acknowledges it, so that a peer which lost its connection can go
 * on where it was. A full ring is not read into: the pipe fills and the command waits. Input goes
 * the other way, and what the command does not take yet waits in a ring, whose room is what the
 * peer may send.
 */
#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/exec.h"
#include "core/limits.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define STREAM_READ_COUNT_MAX 4           /* reads of one pipe in one go: others want their turn */
#define STREAM_OUTPUT_BYTES (64 * 1024)   /* what a pipe holds: one read can empty it */
#define STREAM_END_OF_TRANSMISSION "\x04" /* what a terminal takes for end of file */
/* A kernel that has no memory to watch a pipe, or to take bytes, is asked again after so long. */
#define STREAM_RETRY_NS (10 * KELPIE_NS_PER_MS)
/* Room for what a peer may send without being told, even when a former one left as much behind. */
#define STREAM_INPUT_BYTES (KELPIE_EXEC_INPUT_BYTES + KELPIE_STREAM_CREDIT_INITIAL_BYTES)
#define STREAM_INPUT_WIDE_BYTES (KELPIE_EXEC_STREAM_BYTES + KELPIE_STREAM_CREDIT_INITIAL_BYTES)
#define STREAM_SPARE_OUTPUTS 4u /* rings of two commands */
#define STREAM_WIDE_MAX 8u /* streams that flow at once, of a guest; others do with less memory */

static_assert(STREAM_OUTPUT_BYTES >= KELPIE_STREAM_CREDIT_INITIAL_BYTES, "credit can be used");

static void output_check(const struct kelpie_agent_output *output) {
    KELPIE_ASSERT(output->exec != NULL);
    KELPIE_ASSERT(output->kind == KELPIE_STREAM_STDOUT || output->kind == KELPIE_STREAM_STDERR);
    KELPIE_ASSERT(output->handle >= 0 || !output->is_watched);
    KELPIE_ASSERT(output->handle < 0 || !output->sender.is_end_written);
    kelpie__stream_sender_check(&output->sender);
}

static void input_check(const struct kelpie_agent_input *input) {
    KELPIE_ASSERT(input->exec != NULL);
    KELPIE_ASSERT(input->handle >= 0 || !input->is_watched);
    KELPIE_ASSERT(input->handle < 0 || !input->is_stopped);
    KELPIE_ASSERT(kelpie__ring_unsent(&input->ring) <= input->receiver.received);
    kelpie__ring_check(&input->ring);
}

static void streams_retry(void *context);

static void streams_retry_soon(struct kelpie_agent_exec *exec) {
    struct kelpie_loop *loop = exec->agent->loop;
    KELPIE_REACHED(exec->agent->os, "the guest had no memory for a command's streams");
    if (!kelpie__timer_is_armed(&exec->retry_timer)) {
        kelpie__timer_arm(loop, &exec->retry_timer, loop->now_ns + STREAM_RETRY_NS, streams_retry,
                          exec);
    }
}

/* Whether one more stream may have the memory of one that flows: a guest has little. */
static bool streams_may_widen(const struct kelpie_agent_execs *execs) {
    uint32_t wide_count = 0;
    for (uint32_t i = 0; i < execs->slot_count; i += 1) {
        const struct kelpie_agent_exec *exec = execs->slots[i];
        wide_count += exec->input.ring.capacity > STREAM_INPUT_BYTES ? 1 : 0;
        for (size_t j = 0; j < KELPIE_ARRAY_COUNT(exec->outputs); j += 1) {
            wide_count += exec->outputs[j].sender.ring.capacity > STREAM_OUTPUT_BYTES ? 1 : 0;
        }
    }
    KELPIE_ASSERT(wide_count <= STREAM_WIDE_MAX);
    return wide_count < STREAM_WIDE_MAX;
}

static void output_unwatch(struct kelpie_agent_output *output) {
    if (output->is_watched) {
        kelpie__loop_unwatch(output->exec->agent->loop, output->watch_slot);
        output->is_watched = false;
    }
}

static void output_close(struct kelpie_agent_output *output) {
    KELPIE_ASSERT(output->handle >= 0);
    output_unwatch(output);
    if (output->handle != output->exec->terminal) {
        kelpie__ignore(kelpie__os_close(output->exec->agent->os, output->handle));
    }
    output->handle = KELPIE_OS_NO_HANDLE;
}

static void output_callback(void *context, uint32_t bits) {
    struct kelpie_agent_output *output = context;
    output_check(output);
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(output->is_watched);
    kelpie__agent_exec_advance(output->exec);
}

/* Watches the pipe only while there is room for what it holds. */
static void output_watch(struct kelpie_agent_output *output) {
    output_check(output);
    bool wants_watch = output->handle >= 0 && kelpie__stream_sender_space(&output->sender) > 0;
    if (wants_watch == output->is_watched) {
        return;
    }
    if (!wants_watch) {
        output_unwatch(output);
        return;
    }
    int status = kelpie__loop_watch(output->exec->agent->loop, output->handle, KELPIE_OS_READABLE,
                                    output_callback, output, &output->watch_slot);
    output->is_watched = status == 0;
    if (status < 0) { /* the loop has a place for each stream: the kernel has no memory */
        streams_retry_soon(output->exec);
    }
}

static int64_t output_read(struct kelpie_agent_output *output, size_t *out_capacity) {
    output_check(output);
    struct kelpie_os *os = output->exec->agent->os;
    if (output->sender.is_stopped) { /* the command may write on, into nothing */
        char dropped[4096];
        *out_capacity = sizeof(dropped);
        return kelpie__os_read(os, output->handle, dropped, sizeof(dropped));
    }
    void *space = NULL;
    *out_capacity = kelpie__ring_write_view(&output->sender.ring, &space);
    KELPIE_ASSERT(*out_capacity > 0);
    int64_t count = kelpie__os_read(os, output->handle, space, *out_capacity);
    if (count > 0) {
        KELPIE_ASSERT((size_t)count <= *out_capacity);
        kelpie__ring_commit(&output->sender.ring, (size_t)count);
    }
    return count;
}

/* Room for more to be under way: with a ring that is full of what is not acknowledged the command
 * waits for the client and all between. False: the ring stays as it is, full. */
static bool output_widen(struct kelpie_agent_output *output) {
    const struct kelpie_agent_exec *exec = output->exec;
    struct kelpie_ring *ring = &output->sender.ring;
    KELPIE_ASSERT(kelpie__ring_space(ring) == 0);
    return exec->channel != 0 && ring->capacity == STREAM_OUTPUT_BYTES &&
           streams_may_widen(&exec->agent->execs) &&
           kelpie__ring_grow(ring, KELPIE_EXEC_STREAM_BYTES, NULL) == 0;
}

/* Reads what the pipe holds and the ring takes. Once nobody lives who could write, the pipe is read
 * to its end, and what is empty has ended: someone outside of the command's group may hold the
 * other end for ever. */
static void output_fill(struct kelpie_agent_output *output) {
    output_check(output);
    bool is_last = output->exec->is_group_gone;
    for (int i = 0; i < STREAM_READ_COUNT_MAX || is_last; i += 1) {
        bool is_full = kelpie__stream_sender_space(&output->sender) == 0;
        if (output->handle < 0 || (is_full && !output_widen(output))) {
            return;
        }
        size_t capacity = 0;
        int64_t count = output_read(output, &capacity);
        bool is_empty = count == -EAGAIN;
        if (count <= 0 && (!is_empty || is_last)) { /* the end; a terminal says EIO */
            output_close(output);
            kelpie__stream_sender_end(&output->sender);
            return;
        }
        if (is_empty || (!is_last && (size_t)count < capacity)) {
            return; /* the rest, or the end, is told by the next event */
        }
    }
}

bool kelpie__agent_exec_streams_advance(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state >= KELPIE_AGENT_EXEC_RUNNING);
    struct kelpie_agent *agent = exec->agent;
    bool is_delivered = true;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        struct kelpie_agent_output *output = &exec->outputs[i];
        output_fill(output);
        bool can_send = exec->channel != 0 && kelpie__agent_may_send(agent);
        bool is_sent = can_send && kelpie__stream_sender_pump(
                                       &output->sender, agent->wire,
                                       kelpie__stream_number(exec->channel, output->kind));
        is_delivered = is_delivered && is_sent;
        output_watch(output);
        output_check(output);
    }
    return is_delivered;
}

/* --- Standard input. --- */

static uint32_t input_stream(const struct kelpie_agent_input *input) {
    return kelpie__stream_number(input->exec->channel, KELPIE_STREAM_STDIN);
}

static bool input_is_heard(const struct kelpie_agent_input *input) {
    return input->exec->channel != 0 && kelpie__agent_may_send(input->exec->agent);
}

static void input_unwatch(struct kelpie_agent_input *input) {
    if (input->is_watched) {
        kelpie__loop_unwatch(input->exec->agent->loop, input->watch_slot);
        input->is_watched = false;
    }
}

static void input_close(struct kelpie_agent_input *input) {
    KELPIE_ASSERT(input->handle >= 0);
    input_unwatch(input);
    if (input->handle != input->exec->terminal) {
        kelpie__ignore(kelpie__os_close(input->exec->agent->os, input->handle));
    }
    input->handle = KELPIE_OS_NO_HANDLE;
}

/* A courtesy: without it the peer sends until its credit is used up. */
static void input_send_stop(struct kelpie_agent_input *input) {
    bool is_heard = input_is_heard(input);
    input->owes_stop = !input->receiver.is_ended && !is_heard;
    if (!input->receiver.is_ended && is_heard) {
        kelpie__ignore(kelpie__wire_stop(input->exec->agent->wire, input_stream(input)));
    }
}

/* Nobody reads what still comes: the peer is told, and its bytes are dropped. */
static void input_stop(struct kelpie_agent_input *input) {
    input_check(input);
    KELPIE_REACHED(input->exec->agent->os, "a command closed its input");
    kelpie__ring_drop(&input->ring);
    if (input->handle >= 0) {
        input_close(input);
    }
    if (!input->is_stopped) {
        input_send_stop(input);
    }
    input->is_stopped = true;
}

/* More than what may come unasked has come: it flows, and more may be under way. */
static void input_widen(struct kelpie_agent_input *input) {
    struct kelpie_ring *ring = &input->ring;
    input_check(input);
    if (!input->receiver.is_ended && ring->capacity == STREAM_INPUT_BYTES &&
        input->receiver.received >= KELPIE_STREAM_CREDIT_INITIAL_BYTES &&
        streams_may_widen(&input->exec->agent->execs) &&
        kelpie__ring_grow(ring, STREAM_INPUT_WIDE_BYTES, NULL) == 0) {
        input->receiver.window_bytes = KELPIE_EXEC_STREAM_BYTES;
    }
}

/* Tells the peer about room that has become free. */
static void input_grant(struct kelpie_agent_input *input) {
    input_check(input);
    size_t held = kelpie__ring_unsent(&input->ring);
    KELPIE_ASSERT(held <= input->receiver.received);
    if (input_is_heard(input)) {
        kelpie__stream_receiver_consumed(&input->receiver, input->exec->agent->wire,
                                         input_stream(input), input->receiver.received - held);
    }
}

/* Writes as much as the pipe takes. 0, or -errno: of a command that has closed its end, or of a
 * kernel without memory. */
static int input_drain(struct kelpie_agent_input *input) {
    input_check(input);
    int64_t result = 1;
    while (result > 0 && kelpie__ring_unsent(&input->ring) > 0) {
        const void *bytes = NULL;
        size_t count = kelpie__ring_send_view(&input->ring, &bytes);
        result = kelpie__os_write(input->exec->agent->os, input->handle, bytes, count);
        KELPIE_ASSERT(result <= (int64_t)count);
        if (result > 0) {
            bool is_careless = KELPIE_CANARY(input->exec->agent->os, 8);
            kelpie__ring_mark_sent(&input->ring, is_careless ? count : (size_t)result);
            bool is_freed = kelpie__ring_acknowledge(&input->ring, input->ring.sent);
            KELPIE_ASSERT(is_freed);
        }
    }
    return result > 0 || result == -EAGAIN ? 0 : (int)result;
}

static bool is_starved(int64_t result) {
    return result == -ENOMEM || result == -ENOBUFS;
}

/* Its bytes are written: the command sees the end. A terminal is told by its own character; should
 * there be no room for it, the command has enough to read. */
static void input_end(struct kelpie_agent_input *input) {
    KELPIE_ASSERT(input->receiver.is_ended);
    KELPIE_ASSERT(kelpie__ring_unsent(&input->ring) == 0);
    if (input->handle == input->exec->terminal &&
        is_starved(kelpie__os_write(input->exec->agent->os, input->handle,
                                    STREAM_END_OF_TRANSMISSION, 1))) {
        input_unwatch(input);
        streams_retry_soon(input->exec);
        return;
    }
    input_close(input);
}

static void input_callback(void *context, uint32_t bits);

static void input_advance(struct kelpie_agent_input *input) {
    input_check(input);
    KELPIE_ASSERT(input->handle >= 0);
    int drained = input_drain(input);
    if (is_starved(drained)) { /* that the pipe is writable says nothing then */
        input_unwatch(input);
        input_grant(input);
        streams_retry_soon(input->exec);
        return;
    }
    if (drained < 0) {
        input_stop(input);
        return;
    }
    bool is_empty = kelpie__ring_unsent(&input->ring) == 0;
    if (is_empty && input->receiver.is_ended) {
        input_end(input);
        return;
    }
    input_grant(input);
    if (is_empty) {
        input_unwatch(input);
    } else if (!input->is_watched) {
        int status = kelpie__loop_watch(input->exec->agent->loop, input->handle, KELPIE_OS_WRITABLE,
                                        input_callback, input, &input->watch_slot);
        input->is_watched = status == 0;
        if (status < 0) {
            streams_retry_soon(input->exec);
        }
    }
}

static void input_callback(void *context, uint32_t bits) {
    struct kelpie_agent_input *input = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(input->is_watched);
    input_advance(input);
}

const char *kelpie__agent_exec_input(struct kelpie_agent_exec *exec,
                                     const struct kelpie_agent_piece *piece) {
    struct kelpie_agent_input *input = &exec->input;
    const char *broken =
        kelpie__stream_receiver_data(&input->receiver, piece->offset, piece->count, piece->is_end);
    if (broken != NULL) {
        return broken;
    }
    if (input->is_stopped || !exec->options.has_input) {
        return NULL; /* it was on its way when nobody read any more */
    }
    size_t count = kelpie__ring_write(&input->ring, piece->bytes, piece->count);
    KELPIE_ASSERT(count == piece->count); /* credit is never above the room */
    input_widen(input);
    if (input->handle >= 0) {
        input_advance(input);
    } else if (exec->state != KELPIE_AGENT_EXEC_RECEIVING) {
        input_stop(input);
    }
    return NULL;
}

/* --- Both. --- */

static void streams_retry(void *context) {
    struct kelpie_agent_exec *exec = context;
    KELPIE_ASSERT(exec->state >= KELPIE_AGENT_EXEC_RUNNING);
    if (exec->input.handle >= 0) {
        input_advance(&exec->input);
    }
    kelpie__agent_exec_advance(exec);
}

void kelpie__agent_exec_rings_init(struct kelpie_agent *agent) {
    struct kelpie_ring_pool *rings = &agent->execs.rings;
    kelpie__ring_pool_init(rings, agent->os);
    kelpie__ring_pool_keep(rings, STREAM_OUTPUT_BYTES, STREAM_SPARE_OUTPUTS);
    kelpie__ring_pool_keep(rings, STREAM_INPUT_BYTES, 1);
}

int kelpie__agent_exec_streams_init(struct kelpie_agent_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->agent != NULL);
    KELPIE_ASSERT(exec->input.ring.bytes == NULL);
    struct kelpie_ring_pool *rings = &exec->agent->execs.rings;
    exec->input.exec = exec;
    exec->input.handle = KELPIE_OS_NO_HANDLE;
    int status = 0;
    kelpie__ring_init_empty(&exec->input.ring, rings);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        struct kelpie_agent_output *output = &exec->outputs[i];
        output->exec = exec;
        output->kind = i == 0 ? KELPIE_STREAM_STDOUT : KELPIE_STREAM_STDERR;
        output->handle = KELPIE_OS_NO_HANDLE;
        if (status == 0) {
            status = kelpie__stream_sender_init_pooled(&output->sender, rings, STREAM_OUTPUT_BYTES,
                                                       error);
        }
    }
    if (status < 0) {
        kelpie__agent_exec_streams_deinit(exec);
        return status;
    }
    kelpie__agent_exec_streams_reset(exec);
    return 0;
}

int kelpie__agent_exec_streams_renew(struct kelpie_agent_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RECEIVING);
    int status = 0;
    if (exec->options.has_input) {
        status = kelpie__ring_renew(&exec->input.ring, STREAM_INPUT_BYTES, error);
    }
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        status = kelpie__ring_renew(&exec->outputs[i].sender.ring, STREAM_OUTPUT_BYTES, error);
    }
    return status;
}

void kelpie__agent_exec_streams_shrink(struct kelpie_agent_exec *exec) {
    const struct kelpie_agent_input *input = &exec->input;
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FINISHED);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        KELPIE_ASSERT(exec->outputs[i].handle < 0);
        kelpie__ring_shrink(&exec->outputs[i].sender.ring);
    }
    if (input->is_stopped || input->receiver.is_ended) { /* else bytes may still come */
        kelpie__ring_shrink(&exec->input.ring);
    }
}

void kelpie__agent_exec_streams_deinit(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->input.handle < 0);
    kelpie__ring_deinit(&exec->input.ring);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        KELPIE_ASSERT(exec->outputs[i].handle < 0);
        kelpie__stream_sender_deinit(&exec->outputs[i].sender);
    }
}

void kelpie__agent_exec_streams_reset(struct kelpie_agent_exec *exec) {
    struct kelpie_agent_input *input = &exec->input;
    kelpie__timer_disarm(exec->agent->loop, &exec->retry_timer);
    if (input->handle >= 0) {
        input_close(input);
    }
    KELPIE_ASSERT(!input->is_watched);
    kelpie__ring_reset(&input->ring);
    input->is_stopped = false;
    input->owes_stop = false;
    kelpie__stream_receiver_init(&input->receiver, 0, KELPIE_EXEC_INPUT_BYTES);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        struct kelpie_agent_output *output = &exec->outputs[i];
        if (output->handle >= 0) {
            output_close(output);
        }
        KELPIE_ASSERT(!output->is_watched);
        kelpie__stream_sender_begin(&output->sender, 0, KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    }
}

void kelpie__agent_exec_streams_open(struct kelpie_agent_exec *exec, int input, int output,
                                     int error_output) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RUNNING);
    KELPIE_ASSERT(output >= 0);
    exec->input.handle = input;
    exec->outputs[0].handle = output;
    exec->outputs[1].handle = error_output;
    if (error_output < 0) { /* on a terminal both are one */
        kelpie__stream_sender_end(&exec->outputs[1].sender);
    }
    if (input >= 0) { /* bytes, or the end, may have come before */
        input_advance(&exec->input);
    }
    /* Nothing can be there to be read yet. */
    output_watch(&exec->outputs[0]);
    output_watch(&exec->outputs[1]);
}

int kelpie__agent_exec_streams_attach(struct kelpie_agent_exec *exec, const uint64_t offsets[2],
                                      struct kelpie_error *error) {
    KELPIE_ASSERT(exec->channel == 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        const struct kelpie_ring *ring = &exec->outputs[i].sender.ring;
        if (offsets[i] > ring->written) {
            return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%s has %llu bytes so far, not %llu",
                                i == 0 ? "stdout" : "stderr", (unsigned long long)ring->written,
                                (unsigned long long)offsets[i]);
        }
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(exec->outputs); i += 1) {
        bool is_resumed = kelpie__stream_sender_resume(&exec->outputs[i].sender, offsets[i]);
        KELPIE_ASSERT(is_resumed);
    }
    kelpie__stream_receiver_resume(&exec->input.receiver);
    return 0;
}

void kelpie__agent_exec_streams_announce(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->channel != 0);
    if (exec->input.is_stopped) {
        input_send_stop(&exec->input);
    } else {
        input_grant(&exec->input);
    }
}

void kelpie__agent_exec_streams_catch_up(struct kelpie_agent_exec *exec) {
    if (exec->state < KELPIE_AGENT_EXEC_RUNNING || exec->channel == 0) {
        return;
    }
    KELPIE_ASSERT(input_is_heard(&exec->input));
    if (exec->input.owes_stop) {
        input_send_stop(&exec->input);
    } else if (!exec->input.is_stopped) {
        input_grant(&exec->input);
    }
}
