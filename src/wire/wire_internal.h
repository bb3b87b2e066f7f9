/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of src/wire share: wire.c has the bytes, message.c has JSON-RPC.
 */
#ifndef KELPIE_WIRE_WIRE_INTERNAL_H
#define KELPIE_WIRE_WIRE_INTERNAL_H

#include "wire/frame.h"
#include "wire/wire.h"

struct kelpie_wire_pending {
    uint64_t id; /* 0: free */
    bool is_forgotten;
    kelpie_wire_answer_callback callback;
    void *context;
    struct kelpie_timer timer; /* of the call's timeout */
    uint64_t timeout_ms;
    const char *method;       /* borrowed: until the answer */
    struct kelpie_wire *wire; /* borrowed: it contains this */
};

struct kelpie_wire {
    struct kelpie_os *os;     /* borrowed: until destroy */
    struct kelpie_loop *loop; /* borrowed: until destroy */
    const struct kelpie_wire_callbacks *callbacks;
    void *context;
    char peer[KELPIE_WIRE_PEER_BYTES]; /* who is there, for errors */
    int handle;                        /* owned when owns_handle */
    bool owns_handle;
    uint32_t slot;

    uint8_t *input; /* owned */
    size_t input_count;
    uint8_t *output; /* owned: a queue whose head is at output_start */
    size_t output_start;
    size_t output_count;
    struct kelpie_timer flush_timer; /* armed: something was queued in this step, or starved */
    bool wants_drained;              /* somebody was told LIMIT */
    bool is_held;
    bool is_silent;         /* nothing leaves */
    uint32_t starved_count; /* the last writes, so many, found no memory */
    bool is_corked;
    size_t corked_count; /* bytes at the end of the output that may not leave yet */

    bool is_discarding;
    uint8_t discard_mark[KELPIE_MARK_BYTES];

    uint64_t next_id;
    bool has_former; /* answers to somebody else's requests may come */
    struct kelpie_wire_pending pending[KELPIE_WIRE_CALL_COUNT_MAX];

    uint32_t callback_depth;
    bool is_destroyed; /* freed when the last callback has returned */
    bool is_closed;    /* nothing is read or written any more */
    bool is_close_told;
    struct kelpie_timer close_timer;
    struct kelpie_timer last_timer; /* armed: the peer takes no more, what it said last is read */
    int64_t write_error;            /* then, negative */
    struct kelpie_error close_error;
};

/* Every call out of the wire stands between these two. leave is false when the wire is gone. */
void kelpie__wire_enter(struct kelpie_wire *wire);
KELPIE_MUST_CHECK bool kelpie__wire_leave(struct kelpie_wire *wire);

/* Takes what the peer has sent by now, between enter and leave: a callback may destroy the wire. */
void kelpie__wire_read_rest(struct kelpie_wire *wire);

/* Queues one frame. 0, LIMIT (and `drained` will come), or IO when closed. */
KELPIE_MUST_CHECK int kelpie__wire_queue(struct kelpie_wire *wire, const struct kelpie_frame *frame,
                                         const void *payload, bool may_use_reserve);

/* A message of the peer; its text may be changed in place and is followed by one writable byte. */
void kelpie__wire_message(struct kelpie_wire *wire, char *text, size_t length);
/* Ends all pending calls with the error; false when the wire is gone. */
KELPIE_MUST_CHECK bool kelpie__wire_fail_pending(struct kelpie_wire *wire,
                                                 const struct kelpie_error *error);
void kelpie__wire_drop_pending(struct kelpie_wire *wire);

#endif
