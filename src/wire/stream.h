/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The two ends of one stream: absolute offsets, credit, end. The sender keeps what is not
 * acknowledged, so that it can go on over a new connection without a gap or a repeat; the receiver
 * says how far it may go.
 */
#ifndef KELPIE_WIRE_STREAM_H
#define KELPIE_WIRE_STREAM_H

#include "core/ring.h"
#include "wire/wire.h"

struct kelpie_stream_sender {
    struct kelpie_ring ring;
    uint64_t limit;      /* the peer's: up to which offset bytes may be sent */
    bool is_end_written; /* nothing more will be written */
    bool is_end_sent;
    bool is_stopped; /* the peer reads no further: what is written is dropped */
};

KELPIE_MUST_CHECK int kelpie__stream_sender_init(struct kelpie_stream_sender *sender,
                                                 struct kelpie_os *os, size_t capacity,
                                                 struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__stream_sender_init_pooled(struct kelpie_stream_sender *sender,
                                                        struct kelpie_ring_pool *pool,
                                                        size_t capacity,
                                                        struct kelpie_error *error);
void kelpie__stream_sender_deinit(struct kelpie_stream_sender *sender);
/* Empty at `offset`, with this much credit: for a sender that is used again, or goes on where
 * another one was. */
void kelpie__stream_sender_begin(struct kelpie_stream_sender *sender, uint64_t offset,
                                 uint64_t credit_bytes);
void kelpie__stream_sender_check(const struct kelpie_stream_sender *sender);

/* Room for kelpie__stream_sender_write; a stopped one takes and drops anything. */
size_t kelpie__stream_sender_space(const struct kelpie_stream_sender *sender);
size_t kelpie__stream_sender_write(struct kelpie_stream_sender *sender, const void *bytes,
                                   size_t count);
void kelpie__stream_sender_end(struct kelpie_stream_sender *sender);
/* Sends what credit and the wire's room allow; true: all that was written, with the end, is sent.
 */
bool kelpie__stream_sender_pump(struct kelpie_stream_sender *sender, struct kelpie_wire *wire,
                                uint32_t stream);
/* A CREDIT of the peer. NULL, or the broken rule. An acknowledgement below an earlier one is none:
 * after a new connection the peer has received more than it has consumed. */
KELPIE_MUST_CHECK const char *kelpie__stream_sender_credit(struct kelpie_stream_sender *sender,
                                                           uint64_t acknowledged, uint64_t limit);
/* A STOP of the peer. What is not sent is dropped; the end then comes where the sent bytes end,
 * without a gap. */
void kelpie__stream_sender_stop(struct kelpie_stream_sender *sender);
/* A new connection: sending goes on from `offset` or the oldest byte kept, with the initial credit.
 * False: the offset was never written. */
KELPIE_MUST_CHECK bool kelpie__stream_sender_resume(struct kelpie_stream_sender *sender,
                                                    uint64_t offset);

struct kelpie_stream_receiver {
    uint64_t received; /* offset of the next byte */
    uint64_t limit;    /* that was given to the peer */
    uint64_t told;     /* what was acknowledged to the peer */
    uint32_t window_bytes;
    bool is_ended;
};

void kelpie__stream_receiver_init(struct kelpie_stream_receiver *receiver, uint64_t offset,
                                  uint32_t window_bytes);
/* A new connection over which the peer goes on at `received`. It has no credit until
 * kelpie__stream_receiver_consumed gives some: what the last connection left may fill the buffer.
 */
void kelpie__stream_receiver_resume(struct kelpie_stream_receiver *receiver);
/* A DATA of the peer. NULL, or the broken rule. */
KELPIE_MUST_CHECK const char *kelpie__stream_receiver_data(struct kelpie_stream_receiver *receiver,
                                                           uint64_t offset, size_t count,
                                                           bool is_end);
/* `consumed`: the offset up to which bytes need no room any more. Sends credit when half the
 * initial credit is free again. */
void kelpie__stream_receiver_consumed(struct kelpie_stream_receiver *receiver,
                                      struct kelpie_wire *wire, uint32_t stream, uint64_t consumed);

#endif
