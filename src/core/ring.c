/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ring.h. An empty ring starts again at its first byte, so that a small exchange is one
 * contiguous piece and touches one page.
 */
#include "core/ring.h"

#include <string.h>

#include "core/ring_pool.h"
#include "os/os_call.h"

void kelpie__ring_check(const struct kelpie_ring *ring) {
    KELPIE_ASSERT((ring->bytes != NULL) == (ring->capacity > 0));
    KELPIE_ASSERT(ring->start < ring->capacity || ring->start == 0);
    KELPIE_ASSERT(ring->acknowledged <= ring->sent);
    KELPIE_ASSERT(ring->sent <= ring->written);
    KELPIE_ASSERT(ring->written - ring->acknowledged <= ring->capacity);
}

/* NULL: there is none. */
static uint8_t *ring_take(const struct kelpie_ring *ring, size_t capacity) {
    KELPIE_ASSERT(capacity > 0);
    return ring->pool != NULL ? kelpie__ring_pool_take(ring->pool, capacity)
                              : kelpie__alloc_raw(ring->os, capacity);
}

static void ring_free(struct kelpie_ring *ring) {
    kelpie__ring_check(ring);
    if (ring->pool != NULL) {
        kelpie__ring_pool_give(ring->pool, ring->bytes, ring->capacity);
    } else if (ring->bytes != NULL) {
        kelpie__free(ring->os, ring->bytes, ring->capacity);
    }
}

/* One that is empty, at the first byte. */
static int ring_make(struct kelpie_ring *ring, struct kelpie_os *os, struct kelpie_ring_pool *pool,
                     size_t capacity, struct kelpie_error *error) {
    struct kelpie_ring made = {.os = os, .pool = pool, .capacity = capacity};
    made.bytes = ring_take(&made, capacity);
    if (made.bytes == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a stream of %zu bytes",
                            capacity);
    }
    kelpie__ring_check(&made);
    *ring = made;
    return 0;
}

int kelpie__ring_init(struct kelpie_ring *ring, struct kelpie_os *os, size_t capacity,
                      struct kelpie_error *error) {
    return ring_make(ring, os, NULL, capacity, error);
}

int kelpie__ring_init_pooled(struct kelpie_ring *ring, struct kelpie_ring_pool *pool,
                             size_t capacity, struct kelpie_error *error) {
    return ring_make(ring, pool->os, pool, capacity, error);
}

void kelpie__ring_deinit(struct kelpie_ring *ring) {
    ring_free(ring);
    *ring = (struct kelpie_ring){0};
}

void kelpie__ring_init_empty(struct kelpie_ring *ring, struct kelpie_ring_pool *pool) {
    *ring = (struct kelpie_ring){.os = pool->os, .pool = pool};
    kelpie__ring_check(ring);
}

void kelpie__ring_begin(struct kelpie_ring *ring, uint64_t offset) {
    kelpie__ring_check(ring);
    ring->start = 0;
    ring->acknowledged = offset;
    ring->sent = offset;
    ring->written = offset;
    kelpie__ring_check(ring);
}

static size_t ring_used(const struct kelpie_ring *ring) {
    return (size_t)(ring->written - ring->acknowledged);
}

/* Its content lies in this memory from now on, which the ring takes. */
static void ring_move(struct kelpie_ring *ring, uint8_t *bytes, size_t capacity) {
    size_t used = ring_used(ring);
    size_t first = (size_t)kelpie__min_u64(used, ring->capacity - ring->start);
    KELPIE_ASSERT(used <= capacity);
    if (used > 0) {
        memcpy(bytes, ring->bytes + ring->start, first);
        memcpy(bytes + first, ring->bytes, used - first);
    }
    ring_free(ring);
    ring->bytes = bytes;
    ring->capacity = capacity;
    ring->start = 0;
    kelpie__ring_check(ring);
}

void kelpie__ring_shrink(struct kelpie_ring *ring) {
    size_t used = ring_used(ring);
    kelpie__ring_check(ring);
    if (used == ring->capacity) {
        return;
    }
    uint8_t *bytes = used == 0 ? NULL : ring_take(ring, used);
    if (used == 0 || bytes != NULL) {
        ring_move(ring, bytes, used);
    }
}

int kelpie__ring_grow(struct kelpie_ring *ring, size_t capacity, struct kelpie_error *error) {
    struct kelpie_ring larger;
    KELPIE_ASSERT(capacity > ring->capacity);
    int status = ring_make(&larger, ring->os, ring->pool, capacity, error);
    if (status == 0) {
        ring_move(ring, larger.bytes, larger.capacity);
    }
    return status;
}

int kelpie__ring_renew(struct kelpie_ring *ring, size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(ring_used(ring) == 0);
    if (ring->capacity == capacity) {
        return 0;
    }
    struct kelpie_ring made;
    int status = ring_make(&made, ring->os, ring->pool, capacity, error);
    if (status == 0) {
        kelpie__ring_begin(&made, ring->written);
        ring_free(ring);
        *ring = made;
    }
    return status;
}

void kelpie__ring_reset(struct kelpie_ring *ring) {
    kelpie__ring_begin(ring, 0);
}

static size_t ring_index(const struct kelpie_ring *ring, uint64_t offset) {
    KELPIE_ASSERT(offset >= ring->acknowledged && offset <= ring->written);
    size_t index = ring->start + (size_t)(offset - ring->acknowledged);
    return index < ring->capacity ? index : index - ring->capacity;
}

size_t kelpie__ring_space(const struct kelpie_ring *ring) {
    kelpie__ring_check(ring);
    return ring->capacity - ring_used(ring);
}

size_t kelpie__ring_unsent(const struct kelpie_ring *ring) {
    kelpie__ring_check(ring);
    return (size_t)(ring->written - ring->sent);
}

size_t kelpie__ring_write_view(struct kelpie_ring *ring, void **out) {
    size_t space = kelpie__ring_space(ring);
    if (ring->capacity == 0) {
        *out = NULL;
        return 0;
    }
    if (space == ring->capacity) {
        ring->start = 0;
    }
    size_t index = ring_index(ring, ring->written);
    *out = ring->bytes + index;
    return (size_t)kelpie__min_u64(space, ring->capacity - index);
}

void kelpie__ring_commit(struct kelpie_ring *ring, size_t count) {
    KELPIE_ASSERT(count <= kelpie__ring_space(ring));
    ring->written += count;
    kelpie__ring_check(ring);
}

size_t kelpie__ring_write(struct kelpie_ring *ring, const void *bytes, size_t count) {
    const uint8_t *from = bytes;
    size_t done = 0;
    for (unsigned piece = 0; piece < 2 && done < count;
         piece += 1) { /* before and after the end of the buffer */
        void *room = NULL;
        size_t length = (size_t)kelpie__min_u64(kelpie__ring_write_view(ring, &room), count - done);
        if (length == 0) {
            break;
        }
        memcpy(room, from + done, length);
        kelpie__ring_commit(ring, length);
        done += length;
    }
    KELPIE_ASSERT(done == count || kelpie__ring_space(ring) == 0);
    return done;
}

size_t kelpie__ring_send_view(const struct kelpie_ring *ring, const void **out) {
    size_t unsent = kelpie__ring_unsent(ring);
    if (ring->capacity == 0) {
        *out = NULL;
        return 0;
    }
    size_t index = ring_index(ring, ring->sent);
    *out = ring->bytes + index;
    return (size_t)kelpie__min_u64(unsent, ring->capacity - index);
}

void kelpie__ring_mark_sent(struct kelpie_ring *ring, size_t count) {
    KELPIE_ASSERT(count <= kelpie__ring_unsent(ring));
    ring->sent += count;
    kelpie__ring_check(ring);
}

bool kelpie__ring_acknowledge(struct kelpie_ring *ring, uint64_t offset) {
    kelpie__ring_check(ring);
    if (offset < ring->acknowledged || offset > ring->sent) {
        return false;
    }
    ring->start = ring_index(ring, offset);
    ring->acknowledged = offset;
    kelpie__ring_check(ring);
    return true;
}

bool kelpie__ring_rewind(struct kelpie_ring *ring, uint64_t offset) {
    kelpie__ring_check(ring);
    if (offset > ring->written) {
        return false;
    }
    ring->sent = kelpie__max_u64(offset, ring->acknowledged);
    kelpie__ring_check(ring);
    return true;
}

void kelpie__ring_drop(struct kelpie_ring *ring) {
    kelpie__ring_begin(ring, ring->written);
}

void kelpie__ring_cut(struct kelpie_ring *ring) {
    kelpie__ring_begin(ring, ring->sent);
}
