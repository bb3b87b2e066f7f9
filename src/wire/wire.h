/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One connection of Kelpie's protocol (docs/protocol.md), the same between client and monitor and
 * between monitor and agent: frames over a byte stream, JSON-RPC 2.0 messages, stream data. It
 * knows no method but `protocol_error`; the state of streams is stream.h's. Everything the peer
 * sends may be a lie: a broken rule ends the connection with an error that names the rule.
 *
 * A wire may be destroyed inside any of its callbacks. After `closed` it does nothing more; its
 * owner destroys it.
 */
#ifndef KELPIE_WIRE_WIRE_H
#define KELPIE_WIRE_WIRE_H

#include "core/base.h"
#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"

struct kelpie_wire;

/* The low bits of a stream's number; the others are its channel. */
enum kelpie_stream_kind {
    KELPIE_STREAM_ARGUMENTS = 0,
    KELPIE_STREAM_STDIN = 1,
    KELPIE_STREAM_STDOUT = 2,
    KELPIE_STREAM_STDERR = 3,
};

static inline uint32_t kelpie__stream_number(uint32_t channel, enum kelpie_stream_kind kind) {
    KELPIE_ASSERT(channel <= KELPIE_CHANNEL_MAX);
    return channel << KELPIE_STREAM_KIND_BITS | (uint32_t)kind;
}

/* All texts end with a zero, which `length` does not count; all arguments are borrowed during the
 * call. */
struct kelpie_wire_callbacks {
    /* A request: answer it once, now or later, with kelpie__wire_result or kelpie__wire_refuse.
     * `params` is an object. */
    void (*request)(void *context, uint64_t id, const char *method, const char *params,
                    size_t length);
    void (*notification)(void *context, const char *method, const char *params, size_t length);
    /* What a stream's number and offset mean is checked by the receiver (stream.h). */
    void (*data)(void *context, uint32_t stream, uint64_t offset, const void *bytes, size_t count,
                 bool is_end);
    void (*credit)(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit);
    void (*stop)(void *context, uint32_t stream);
    /* Any mark, also the one that ends a discard. May be NULL. */
    void (*mark)(void *context, const uint8_t mark[KELPIE_MARK_BYTES]);
    /* After a LIMIT: there is room again. */
    void (*drained)(void *context);
    /* The end, once. PROTOCOL: a rule was broken, by either side. IO with os_error 0: the peer
     * closed. IO: the system said so. Pending calls have had their callbacks before. */
    void (*closed)(void *context, const struct kelpie_error *error);
};

#define KELPIE_WIRE_PEER_BYTES 96u

struct kelpie_wire_create {
    struct kelpie_os *os;     /* borrowed: until destroy */
    struct kelpie_loop *loop; /* borrowed: until destroy */
    int handle;
    bool owns_handle; /* true: taken, closed by destroy. false: borrowed until destroy */
    /* borrowed: who is there, for errors, at most KELPIE_WIRE_PEER_BYTES - 1; NULL: "the peer" */
    const char *peer;
    const struct kelpie_wire_callbacks *callbacks; /* borrowed: until destroy */
    void *context;
};

/* Errors: MEMORY, IO, LIMIT. Gives *out (destroy). */
KELPIE_MUST_CHECK int kelpie__wire_create(const struct kelpie_wire_create *create,
                                          struct kelpie_wire **out, struct kelpie_error *error);
/* Pending calls end without a callback. What is queued is tried once more. NULL is allowed. */
void kelpie__wire_destroy(struct kelpie_wire *wire);
/* Before that: the peer sees the end, whoever else has the handle, as a child that was forked. */
void kelpie__wire_end(struct kelpie_wire *wire);
void kelpie__wire_check(const struct kelpie_wire *wire);

/* Ends the connection for a rule the receiver found broken ("R7", "text"): the peer is told,
 * `closed` follows in a later step. Without effect on a closed wire. */
KELPIE_PRINTF(3, 4)
void kelpie__wire_break(struct kelpie_wire *wire, const char *rule, const char *format, ...);
/* The same for a text "R7: what is wrong", as frame.h and stream.h give it. A text without a rule
 * says what is missing here ("no memory for a stream"): the connection ends without blame. */
void kelpie__wire_break_rule(struct kelpie_wire *wire, const char *rule_and_text);
/* Ends it without a word: no frame is read or written any more; `closed` comes in a later step. */
void kelpie__wire_close(struct kelpie_wire *wire, const struct kelpie_error *error);
bool kelpie__wire_is_closed(const struct kelpie_wire *wire);
/* The callbacks get another context from now on; those of calls keep theirs. */
void kelpie__wire_set_context(struct kelpie_wire *wire, void *context);

/* ---- messages; `params` and `result` are JSON objects with a terminating zero ---------------- */

/* `error` NULL: success, `result` is the answer. Called once, never before kelpie__wire_call has
 * returned. */
typedef void (*kelpie_wire_answer_callback)(void *context, const struct kelpie_error *error,
                                            const char *result, size_t length);

/* Sends a request; `method` is borrowed until its end. timeout_ms KELPIE_TIMEOUT_NONE: none. out_id
 * may be NULL. Errors: LIMIT, IO (closed). */
KELPIE_MUST_CHECK int kelpie__wire_call(struct kelpie_wire *wire, const char *method,
                                        const char *params, uint64_t timeout_ms,
                                        kelpie_wire_answer_callback callback, void *context,
                                        uint64_t *out_id, struct kelpie_error *error);
/* No callback will come for this call; a late answer is dropped. Of an answered id: nothing. */
void kelpie__wire_forget(struct kelpie_wire *wire, uint64_t id);
/* Asks the peer to end a request early; its answer still comes. */
void kelpie__wire_cancel(struct kelpie_wire *wire, uint64_t id);

/* 0, or LIMIT: there is no room; try again at `drained`. IO: closed. */
KELPIE_MUST_CHECK int kelpie__wire_notify(struct kelpie_wire *wire, const char *method,
                                          const char *params);
/* Answers. A peer that does not read its answers breaks a rule: no room ends the connection. A
 * result that is longer than a message can be is refused with LIMIT instead. */
void kelpie__wire_result(struct kelpie_wire *wire, uint64_t id, const char *result);
void kelpie__wire_refuse(struct kelpie_wire *wire, uint64_t id, const struct kelpie_error *why);
KELPIE_PRINTF(4, 5)
void kelpie__wire_refuse_text(struct kelpie_wire *wire, uint64_t id, int code, const char *format,
                              ...);

/* ---- streams --------------------------------------------------------------------------------- */

/* At most KELPIE_FRAME_PAYLOAD_BYTES_MAX bytes. 0; LIMIT: no room (or held), try again at
 * `drained`; IO: closed. */
KELPIE_MUST_CHECK int kelpie__wire_data(struct kelpie_wire *wire, uint32_t stream, uint64_t offset,
                                        const void *bytes, size_t count, bool is_end);
KELPIE_MUST_CHECK int kelpie__wire_credit(struct kelpie_wire *wire, uint32_t stream,
                                          uint64_t acknowledged, uint64_t limit);
KELPIE_MUST_CHECK int kelpie__wire_stop(struct kelpie_wire *wire, uint32_t stream);

/* ---- quiesce --------------------------------------------------------------------------------- */

/* The peer has talked to somebody else until now, and may still answer him: ids of requests begin
 * at `first_id` (1 to 2^48, drawn, so that none is one of his), and answers to others are dropped
 * until `kelpie__wire_is_known`. On a new connection only. */
void kelpie__wire_continue(struct kelpie_wire *wire, uint64_t first_id);
void kelpie__wire_is_known(struct kelpie_wire *wire);

/* While held, data is refused with LIMIT; messages still go. */
void kelpie__wire_hold(struct kelpie_wire *wire, bool is_held);
/* What is queued from now on stays here, in its order, behind this mark; what was queued before
 * leaves. The peer throws away what comes before the mark, so that nothing may be sent and nothing
 * may be lost. Errors: LIMIT, IO; then nothing is held. */
KELPIE_MUST_CHECK int kelpie__wire_cork(struct kelpie_wire *wire,
                                        const uint8_t mark[KELPIE_MARK_BYTES]);
/* Whether frames of so many bytes, headers counted, can be queued now; not for data. */
bool kelpie__wire_has_room(const struct kelpie_wire *wire, size_t bytes);
/* The mark leaves, and all that waits behind it. */
void kelpie__wire_uncork(struct kelpie_wire *wire);
bool kelpie__wire_is_flushed(
    const struct kelpie_wire *wire); /* all that was queued and may leave is with the system */
KELPIE_MUST_CHECK int kelpie__wire_mark(struct kelpie_wire *wire,
                                        const uint8_t mark[KELPIE_MARK_BYTES]);
/* Everything that arrives is thrown away, frames or not, until this mark. */
void kelpie__wire_discard_until(struct kelpie_wire *wire, const uint8_t mark[KELPIE_MARK_BYTES]);

/* While silent, nothing leaves: what is queued waits. Marks and corks are as without it. */
void kelpie__wire_silence(struct kelpie_wire *wire, bool is_silent);

/* Writes what is queued now instead of at the end of the loop's step. */
void kelpie__wire_flush(struct kelpie_wire *wire);

#endif
