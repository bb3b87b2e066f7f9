/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Clients of a command come and go: see exec.h. While there is none its bytes are kept, or thrown
 * away when nobody is ever to read them.
 */
#include "core/text.h"
#include "monitor/exec.h"
#include "monitor/monitor.h"
#include "os/os_mark.h"

void kelpie__exec_let_go(struct kelpie_relay_exec *exec, bool is_kept) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->client != 0);
    exec->client = 0;
    exec->client_channel = 0;
    exec->start_reply.client = 0;
    if (is_kept) {
        exec->keeps_on_disconnect = true;
        if (exec->phase != KELPIE_RELAY_ENDED) {
            kelpie__exec_grow(exec, KELPIE_STREAM_STDOUT, KELPIE_EXEC_OUTPUT_BYTES);
            kelpie__exec_grow(exec, KELPIE_STREAM_STDERR, KELPIE_EXEC_OUTPUT_BYTES);
        }
        return;
    }
    exec->is_abandoned = true;
    kelpie__exec_stop_stream(exec, KELPIE_STREAM_STDOUT);
    kelpie__exec_stop_stream(exec, KELPIE_STREAM_STDERR);
}

/* A stream that a client stopped stays so: its bytes were not kept, and only its end is told again.
 */
static int exec_resume_output(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                              uint64_t offset, struct kelpie_error *error) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    KELPIE_ASSERT(!kelpie__exec_is_input(kind));
    if (stream->sender.is_stopped) {
        stream->sender.is_end_sent = false;
        return 0;
    }
    if (!kelpie__exec_ensure_ring(exec, stream)) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the output of command \"%s\"",
                            exec->id);
    }
    if (!kelpie__stream_sender_resume(&stream->sender, offset)) {
        KELPIE_REACHED(exec->relay->monitor->os, "an attach from an offset that is not kept");
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "command \"%s\" has not written so far as offset %llu", exec->id,
                            (unsigned long long)offset);
    }
    return 0;
}

int kelpie__exec_take_over(struct kelpie_relay_exec *exec, uint64_t client, uint32_t channel,
                           const uint64_t offsets[2], struct kelpie_error *error) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->client == 0 && !exec->is_abandoned);
    KELPIE_ASSERT(client != 0 && channel != 0);
    int status = exec_resume_output(exec, KELPIE_STREAM_STDOUT, offsets[0], error);
    if (status == 0) {
        status = exec_resume_output(exec, KELPIE_STREAM_STDERR, offsets[1], error);
    }
    if (status < 0) {
        return status;
    }
    exec->client = client;
    exec->client_channel = channel;
    /* What the client before left may fill stdin's ring: credit comes as the guest reads. */
    kelpie__stream_receiver_resume(&exec->streams[KELPIE_STREAM_STDIN].receiver);
    return 0;
}

void kelpie__exec_taken_over(struct kelpie_relay_exec *exec) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->client != 0);
    struct kelpie_exec_stream *input = &exec->streams[KELPIE_STREAM_STDIN];
    if (exec->phase == KELPIE_RELAY_LIVE) {
        if (kelpie__exec_ensure_ring(exec, input)) {
            kelpie__exec_grant(exec, KELPIE_STREAM_STDIN);
        } else {
            kelpie__exec_starve(exec);
        }
    }
    kelpie__ignore(kelpie__relay_exec_pump(exec)); /* freed or not: this was the last use */
}

static bool exec_place_stream(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                              uint64_t offset) {
    struct kelpie_exec_stream *stream = &exec->streams[kind];
    KELPIE_ASSERT(!stream->has_ring);
    if (!kelpie__exec_ensure_ring(exec, stream)) {
        return false;
    }
    kelpie__stream_receiver_init(&stream->receiver, offset, KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    kelpie__stream_sender_begin(&stream->sender, offset, 0);
    return true;
}

bool kelpie__exec_place(struct kelpie_relay_exec *exec, const struct kelpie_exec_place *place) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->client == 0 && exec->phase == KELPIE_RELAY_LIVE);
    if (!exec_place_stream(exec, KELPIE_STREAM_STDIN, place->stdin_offset) ||
        !exec_place_stream(exec, KELPIE_STREAM_STDOUT, place->stdout_offset) ||
        !exec_place_stream(exec, KELPIE_STREAM_STDERR, place->stderr_offset)) {
        return false;
    }
    struct kelpie_exec_stream *arguments = &exec->streams[KELPIE_STREAM_ARGUMENTS];
    struct kelpie_exec_stream *input = &exec->streams[KELPIE_STREAM_STDIN];
    arguments->receiver.is_ended = true;
    arguments->sender.is_end_written = true;
    arguments->sender.is_end_sent = true;
    input->receiver.is_ended = place->is_stdin_ended;
    input->sender.is_end_written = place->is_stdin_ended;
    input->sender.is_end_sent = place->is_stdin_ended;
    kelpie__exec_grow(exec, KELPIE_STREAM_STDOUT, KELPIE_EXEC_OUTPUT_BYTES);
    kelpie__exec_grow(exec, KELPIE_STREAM_STDERR, KELPIE_EXEC_OUTPUT_BYTES);
    return true;
}
