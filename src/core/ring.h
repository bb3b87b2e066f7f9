/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A byte ring with absolute offsets, for one stream: bytes are written at its end, sent, and
 * dropped when the peer has acknowledged them. What was sent and not acknowledged can be sent again
 * (a new connection). acknowledged <= sent <= written <= acknowledged + capacity, always. One that
 * nothing will be written into can be shrunk to what it holds.
 */
#ifndef KELPIE_CORE_RING_H
#define KELPIE_CORE_RING_H

#include "core/base.h"
#include "core/error.h"

struct kelpie_os;
struct kelpie_ring_pool;

struct kelpie_ring {
    struct kelpie_os *os;          /* borrowed: until deinit */
    struct kelpie_ring_pool *pool; /* borrowed: until deinit; NULL: none */
    uint8_t *bytes;                /* owned; NULL: it has no room */
    size_t capacity;
    size_t start;          /* index of the byte at offset `acknowledged` */
    uint64_t acknowledged; /* absolute offsets */
    uint64_t sent;
    uint64_t written;
};

KELPIE_MUST_CHECK int kelpie__ring_init(struct kelpie_ring *ring, struct kelpie_os *os,
                                        size_t capacity, struct kelpie_error *error);
/* One whose memory, whatever becomes of it, comes from a pool and goes back there. */
KELPIE_MUST_CHECK int kelpie__ring_init_pooled(struct kelpie_ring *ring,
                                               struct kelpie_ring_pool *pool, size_t capacity,
                                               struct kelpie_error *error);
void kelpie__ring_deinit(struct kelpie_ring *ring); /* also of a zeroed one */
/* The same, without room yet: that comes with kelpie__ring_renew. */
void kelpie__ring_init_empty(struct kelpie_ring *ring, struct kelpie_ring_pool *pool);
/* Nothing more will be written: it keeps no more memory than what it holds needs, or stays as it is
 * when there is none for a smaller one. */
void kelpie__ring_shrink(struct kelpie_ring *ring);
/* The same content in more room. MEMORY: it stays as it is. */
KELPIE_MUST_CHECK int kelpie__ring_grow(struct kelpie_ring *ring, size_t capacity,
                                        struct kelpie_error *error);
/* An empty one that was shrunk has this capacity again; one that has it stays as it is. */
KELPIE_MUST_CHECK int kelpie__ring_renew(struct kelpie_ring *ring, size_t capacity,
                                         struct kelpie_error *error);
void kelpie__ring_reset(struct kelpie_ring *ring); /* all offsets 0 again; memory is kept */
void kelpie__ring_begin(struct kelpie_ring *ring, uint64_t offset); /* empty, at this offset */
void kelpie__ring_check(const struct kelpie_ring *ring);

size_t kelpie__ring_space(const struct kelpie_ring *ring);  /* bytes that can be written */
size_t kelpie__ring_unsent(const struct kelpie_ring *ring); /* written and not sent */

/* The longest contiguous room at the end of what is written; fill it from its start, then commit.
 */
size_t kelpie__ring_write_view(struct kelpie_ring *ring, void **out);
void kelpie__ring_commit(struct kelpie_ring *ring, size_t count);
/* Copies as much as there is room for; returns how much. */
size_t kelpie__ring_write(struct kelpie_ring *ring, const void *bytes, size_t count);

/* The longest contiguous piece that is not sent yet. */
size_t kelpie__ring_send_view(const struct kelpie_ring *ring, const void **out);
void kelpie__ring_mark_sent(struct kelpie_ring *ring, size_t count);

/* Everything before `offset` may go. False, and nothing is changed, when the peer lies: it is not
 * in acknowledged..sent. */
KELPIE_MUST_CHECK bool kelpie__ring_acknowledge(struct kelpie_ring *ring, uint64_t offset);
/* Sending goes on from `offset`, or from the oldest byte that is kept. False when it was never
 * written. */
KELPIE_MUST_CHECK bool kelpie__ring_rewind(struct kelpie_ring *ring, uint64_t offset);
/* All that is written counts as sent and acknowledged. */
void kelpie__ring_drop(struct kelpie_ring *ring);
/* What is not sent is forgotten as if it had never been written; what is sent counts as
 * acknowledged. */
void kelpie__ring_cut(struct kelpie_ring *ring);

#endif
