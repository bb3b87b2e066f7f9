/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ring_pool.h.
 */
#include "core/ring_pool.h"

#include "os/os_call.h"

static struct kelpie_ring_pool_size *pool_find(struct kelpie_ring_pool *pool, size_t capacity) {
    for (uint32_t i = 0; i < KELPIE_RING_POOL_SIZE_COUNT; i += 1) {
        KELPIE_ASSERT(pool->sizes[i].spare_count <= pool->sizes[i].spare_max);
        if (pool->sizes[i].capacity == capacity) {
            return &pool->sizes[i];
        }
    }
    return NULL;
}

void kelpie__ring_pool_init(struct kelpie_ring_pool *pool, struct kelpie_os *os) {
    *pool = (struct kelpie_ring_pool){.os = os};
}

void kelpie__ring_pool_keep(struct kelpie_ring_pool *pool, size_t capacity, uint32_t spare_max) {
    KELPIE_ASSERT(capacity > 0 && pool_find(pool, capacity) == NULL);
    KELPIE_ASSERT(spare_max <= KELPIE_RING_POOL_SPARE_COUNT);
    struct kelpie_ring_pool_size *size = pool_find(pool, 0);
    KELPIE_ASSERT(size != NULL);
    size->capacity = capacity;
    size->spare_max = spare_max;
}

void kelpie__ring_pool_deinit(struct kelpie_ring_pool *pool) {
    for (uint32_t i = 0; i < KELPIE_RING_POOL_SIZE_COUNT; i += 1) {
        struct kelpie_ring_pool_size *size = &pool->sizes[i];
        for (uint32_t j = 0; j < size->spare_count; j += 1) {
            kelpie__free(pool->os, size->spares[j], size->capacity);
        }
    }
    *pool = (struct kelpie_ring_pool){0};
}

uint8_t *kelpie__ring_pool_take(struct kelpie_ring_pool *pool, size_t capacity) {
    struct kelpie_ring_pool_size *size = pool_find(pool, capacity);
    KELPIE_ASSERT(capacity > 0);
    if (size == NULL || size->spare_count == 0) {
        return kelpie__alloc_raw(pool->os, capacity);
    }
    size->spare_count -= 1;
    KELPIE_ASSERT(size->spares[size->spare_count] != NULL);
    return size->spares[size->spare_count];
}

void kelpie__ring_pool_give(struct kelpie_ring_pool *pool, uint8_t *bytes, size_t capacity) {
    struct kelpie_ring_pool_size *size = bytes == NULL ? NULL : pool_find(pool, capacity);
    KELPIE_ASSERT(bytes == NULL || capacity > 0);
    if (size == NULL || size->spare_count == size->spare_max) {
        kelpie__free(pool->os, bytes, capacity);
        return;
    }
    size->spares[size->spare_count] = bytes;
    size->spare_count += 1;
}
