/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See stream.h.
 */
#include "wire/stream.h"
#include "os/os_mark.h"

#include <string.h>

void kelpie__stream_sender_check(const struct kelpie_stream_sender *sender) {
    kelpie__ring_check(&sender->ring);
    KELPIE_ASSERT(sender->ring.sent <= sender->limit || sender->is_stopped);
    KELPIE_ASSERT(!sender->is_end_sent || sender->is_end_written);
}

int kelpie__stream_sender_init(struct kelpie_stream_sender *sender, struct kelpie_os *os,
                               size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(capacity >= KELPIE_STREAM_CREDIT_INITIAL_BYTES / 2); /* or it waits for ever */
    *sender = (struct kelpie_stream_sender){.limit = KELPIE_STREAM_CREDIT_INITIAL_BYTES};
    return kelpie__ring_init(&sender->ring, os, capacity, error);
}

int kelpie__stream_sender_init_pooled(struct kelpie_stream_sender *sender,
                                      struct kelpie_ring_pool *pool, size_t capacity,
                                      struct kelpie_error *error) {
    KELPIE_ASSERT(capacity >= KELPIE_STREAM_CREDIT_INITIAL_BYTES / 2);
    *sender = (struct kelpie_stream_sender){.limit = KELPIE_STREAM_CREDIT_INITIAL_BYTES};
    return kelpie__ring_init_pooled(&sender->ring, pool, capacity, error);
}

void kelpie__stream_sender_begin(struct kelpie_stream_sender *sender, uint64_t offset,
                                 uint64_t credit_bytes) {
    KELPIE_ASSERT(credit_bytes <= UINT64_MAX - offset);
    kelpie__ring_begin(&sender->ring, offset);
    sender->limit = offset + credit_bytes;
    sender->is_end_written = false;
    sender->is_end_sent = false;
    sender->is_stopped = false;
    kelpie__stream_sender_check(sender);
}

void kelpie__stream_sender_deinit(struct kelpie_stream_sender *sender) {
    kelpie__ring_deinit(&sender->ring);
    *sender = (struct kelpie_stream_sender){0};
}

size_t kelpie__stream_sender_space(const struct kelpie_stream_sender *sender) {
    return sender->is_stopped ? sender->ring.capacity : kelpie__ring_space(&sender->ring);
}

size_t kelpie__stream_sender_write(struct kelpie_stream_sender *sender, const void *bytes,
                                   size_t count) {
    kelpie__stream_sender_check(sender);
    KELPIE_ASSERT(!sender->is_end_written);
    if (sender->is_stopped) {
        return count;
    }
    return kelpie__ring_write(&sender->ring, bytes, count);
}

void kelpie__stream_sender_end(struct kelpie_stream_sender *sender) {
    sender->is_end_written = true;
    kelpie__stream_sender_check(sender);
}

bool kelpie__stream_sender_pump(struct kelpie_stream_sender *sender, struct kelpie_wire *wire,
                                uint32_t stream) {
    kelpie__stream_sender_check(sender);
    while (!sender->is_end_sent) { /* bound: the ring, then the end */
        const void *bytes = NULL;
        uint64_t count = kelpie__ring_send_view(&sender->ring, &bytes);
        count = kelpie__min_u64(count, KELPIE_FRAME_PAYLOAD_BYTES_MAX);
        count = kelpie__min_u64(count,
                                sender->limit - kelpie__min_u64(sender->limit, sender->ring.sent));
        bool is_end = sender->is_end_written && kelpie__ring_unsent(&sender->ring) == (size_t)count;
        KELPIE_SOMETIMES(sender->ring.os, "a stream had bytes and no credit",
                         count == 0 && !is_end && kelpie__ring_unsent(&sender->ring) > 0);
        if (count == 0 && !is_end) {
            return false;
        }
        if (kelpie__wire_data(wire, stream, sender->ring.sent, bytes, (size_t)count, is_end) < 0) {
            KELPIE_REACHED(sender->ring.os, "a stream had credit and no room");
            return false; /* `drained` comes, or `closed` */
        }
        kelpie__ring_mark_sent(&sender->ring, (size_t)count);
        sender->is_end_sent = is_end;
    }
    return true;
}

const char *kelpie__stream_sender_credit(struct kelpie_stream_sender *sender, uint64_t acknowledged,
                                         uint64_t limit) {
    kelpie__stream_sender_check(sender);
    if (sender->is_stopped) {
        return NULL; /* on its way when the stop was sent */
    }
    if (limit < sender->limit || limit < acknowledged) {
        return "R18: credit was taken back";
    }
    if (acknowledged > sender->ring.acknowledged &&
        !kelpie__ring_acknowledge(&sender->ring, acknowledged)) {
        return "R18: bytes were acknowledged that were never sent";
    }
    sender->limit = limit;
    kelpie__stream_sender_check(sender);
    return NULL;
}

void kelpie__stream_sender_stop(struct kelpie_stream_sender *sender) {
    kelpie__ring_cut(&sender->ring);
    sender->is_stopped = true;
    kelpie__stream_sender_check(sender);
}

bool kelpie__stream_sender_resume(struct kelpie_stream_sender *sender, uint64_t offset) {
    if (!kelpie__ring_rewind(&sender->ring, offset) ||
        !kelpie__ring_acknowledge(&sender->ring, sender->ring.sent)) {
        return false;
    }
    sender->is_end_sent = false;
    sender->is_stopped = false;
    sender->limit = sender->ring.sent + KELPIE_STREAM_CREDIT_INITIAL_BYTES;
    kelpie__stream_sender_check(sender);
    return true;
}

void kelpie__stream_receiver_init(struct kelpie_stream_receiver *receiver, uint64_t offset,
                                  uint32_t window_bytes) {
    KELPIE_ASSERT(window_bytes >= KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    *receiver =
        (struct kelpie_stream_receiver){.received = offset,
                                        .told = offset,
                                        .limit = offset + KELPIE_STREAM_CREDIT_INITIAL_BYTES,
                                        .window_bytes = window_bytes};
}

void kelpie__stream_receiver_resume(struct kelpie_stream_receiver *receiver) {
    KELPIE_ASSERT(receiver->received <= receiver->limit);
    receiver->limit = receiver->received;
}

const char *kelpie__stream_receiver_data(struct kelpie_stream_receiver *receiver, uint64_t offset,
                                         size_t count, bool is_end) {
    KELPIE_ASSERT(receiver->received <= receiver->limit);
    if (receiver->is_ended) {
        return "R16: data after the end of its stream";
    }
    if (offset != receiver->received) {
        return "R15: data with a gap or a repeat";
    }
    if (count > receiver->limit - receiver->received) {
        return "R17: data beyond the credit";
    }
    receiver->received += count;
    receiver->is_ended = is_end;
    return NULL;
}

void kelpie__stream_receiver_consumed(struct kelpie_stream_receiver *receiver,
                                      struct kelpie_wire *wire, uint32_t stream,
                                      uint64_t consumed) {
    KELPIE_ASSERT(consumed <= receiver->received);
    consumed = kelpie__max_u64(consumed, receiver->told); /* after a resumption it may lag behind */
    /* Never lowered: after a resumption what was received may stand beyond the window. */
    uint64_t limit = kelpie__max_u64(consumed + receiver->window_bytes, receiver->limit);
    /* By what was consumed, not by the window: the sender's ring may be as small as the initial
     * credit, and only an acknowledgement frees it. */
    bool is_worth_it = consumed - receiver->told >= KELPIE_STREAM_CREDIT_INITIAL_BYTES / 2;
    bool has_stalled = receiver->limit == receiver->received && limit > receiver->limit;
    if (receiver->is_ended || (!is_worth_it && !has_stalled)) {
        return;
    }
    if (kelpie__wire_credit(wire, stream, consumed, limit) == 0) {
        receiver->limit = limit;
        receiver->told = consumed;
    }
}
