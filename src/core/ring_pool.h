/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Memory of rings that nobody uses at the moment: a ring with a pool takes its memory from there
 * and gives it back, so that one command after another allocates nothing. A few sizes, of each a
 * few pieces; what has no place is freed.
 */
#ifndef KELPIE_CORE_RING_POOL_H
#define KELPIE_CORE_RING_POOL_H

#include "core/base.h"

struct kelpie_os;

#define KELPIE_RING_POOL_SIZE_COUNT 2u
#define KELPIE_RING_POOL_SPARE_COUNT 8u /* of one size */

struct kelpie_ring_pool_size {
    size_t capacity; /* 0: none */
    uint32_t spare_max;
    uint32_t spare_count;
    uint8_t *spares[KELPIE_RING_POOL_SPARE_COUNT]; /* owned */
};

struct kelpie_ring_pool {
    struct kelpie_os *os; /* borrowed: until deinit */
    struct kelpie_ring_pool_size sizes[KELPIE_RING_POOL_SIZE_COUNT];
};

void kelpie__ring_pool_init(struct kelpie_ring_pool *pool, struct kelpie_os *os);
/* Keeps up to so many pieces of this capacity; for KELPIE_RING_POOL_SIZE_COUNT capacities. */
void kelpie__ring_pool_keep(struct kelpie_ring_pool *pool, size_t capacity, uint32_t spare_max);
/* All that took from it have given back. */
void kelpie__ring_pool_deinit(struct kelpie_ring_pool *pool);

/* NULL: there is no memory. Gives it (kelpie__ring_pool_give). */
uint8_t *kelpie__ring_pool_take(struct kelpie_ring_pool *pool, size_t capacity);
/* Takes what kelpie__ring_pool_take gave. NULL is allowed. */
void kelpie__ring_pool_give(struct kelpie_ring_pool *pool, uint8_t *bytes, size_t capacity);

#endif
