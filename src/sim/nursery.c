/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The memory that a world lives in: a heap for its host, and stacks for its processes. A world of
 * its own would be paid for in page faults, so worlds that follow each other may share a nursery.
 * What the last one left is seen by nobody: blocks are zeroed when they are handed out.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "sim/core.h"
#include "sim/heap.h"

#define HEAP_BYTES (UINT64_C(4) << 30) /* of addresses */
#define RANGES_MAX 64u
#define STACK_GUARD_BYTES 4096u
#define STACKS_PER_CHUNK 16u
#if defined(__SANITIZE_ADDRESS__)
#define STACK_FACTOR 2u /* its frames are larger */
#else
#define STACK_FACTOR 1u
#endif
/* What a nursery keeps between two worlds: most need no more, and one that did must not leave its
 * size to all that follow. */
#define HEAP_KEPT_BYTES (8u << 20)
#define RANGES_KEPT 6u  /* of which as much is kept; of the others a page */
#define STACKS_KEPT 24u /* of each pool, so much from their tops; of the others a page */
#define STACK_KEPT_BYTES (64u * 1024u)
#define PAGE_BYTES 4096u
#define STACK_HOST_BYTES (256u * 1024u) /* of addresses: only what is touched is there */

struct sim_nursery {
    void *heap_base;
    struct sim_stack_pool stacks[2];
    struct sim_stack_chunk *chunks;
    void *ranges[RANGES_MAX];
    uint32_t range_count;
    size_t range_bytes; /* of each */
    bool is_taken;      /* a world lives in it */
};

/* ---- stacks ---------------------------------------------------------------------------------- */

static struct sim_stack_pool *stack_pool(struct sim_nursery *nursery, size_t bytes) {
    return &nursery->stacks[bytes <= STACK_HOST_BYTES ? 0 : 1];
}

/* One range for several stacks, all of it out of bounds at first: what is never opened stays so,
 * and below each stack lies a page that nobody may touch. */
static bool stacks_reserve(struct sim_nursery *nursery, struct sim_stack_pool *pool) {
    struct sim_stack_chunk *chunk = malloc(sizeof(*chunk));
    if (chunk == NULL) {
        return false;
    }
    chunk->bytes = (pool->stack_bytes + STACK_GUARD_BYTES) * STACKS_PER_CHUNK;
    chunk->base =
        mmap(NULL, chunk->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk->base == MAP_FAILED) {
        free(chunk);
        return false;
    }
    chunk->pool = pool;
    chunk->opened_count = 0;
    chunk->next = nursery->chunks;
    nursery->chunks = chunk;
    pool->chunk = chunk;
    return true;
}

static void *stack_at(const struct sim_stack_chunk *chunk, size_t index) {
    size_t step = chunk->pool->stack_bytes + STACK_GUARD_BYTES;
    return (char *)chunk->base + index * step + STACK_GUARD_BYTES;
}

static void *stack_open(struct sim_nursery *nursery, struct sim_stack_pool *pool) {
    bool is_full = pool->chunk == NULL || pool->chunk->opened_count == STACKS_PER_CHUNK;
    if (is_full && !stacks_reserve(nursery, pool)) {
        return NULL;
    }
    void *stack = stack_at(pool->chunk, pool->chunk->opened_count);
    if (mprotect(stack, pool->stack_bytes, PROT_READ | PROT_WRITE) < 0) {
        return NULL;
    }
    pool->chunk->opened_count += 1;
    return stack;
}

/* The link stands at the top, where the next process begins. */
static void **stack_link(void *stack, size_t bytes) {
    return (void **)(void *)((char *)stack + bytes - sizeof(void *));
}

void *kelpie__sim_stack_take(struct sim_nursery *nursery, size_t bytes, size_t *out_bytes) {
    struct sim_stack_pool *pool = stack_pool(nursery, bytes * STACK_FACTOR);
    KELPIE_ASSERT(bytes * STACK_FACTOR <= pool->stack_bytes);
    *out_bytes = pool->stack_bytes;
    pool->taken_count += 1;
    pool->taken_most = pool->taken_count > pool->taken_most ? pool->taken_count : pool->taken_most;
    void *stack = pool->free;
    if (stack == NULL) {
        return stack_open(nursery, pool);
    }
    pool->free = *stack_link(stack, pool->stack_bytes);
    return stack;
}

void kelpie__sim_stack_give(struct sim_nursery *nursery, void *stack, size_t bytes) {
    struct sim_stack_pool *pool = stack_pool(nursery, bytes);
    KELPIE_ASSERT(bytes == pool->stack_bytes);
    kelpie__sim_fiber_forget(stack, bytes);
    *stack_link(stack, bytes) = pool->free;
    pool->free = stack;
    pool->taken_count -= pool->taken_count > 0 ? 1 : 0;
}

/* All are free, in the order in which a world takes them: what it had at the same time were the
 * first of them. What few worlds need is given back: those behind the first ones, but for the page
 * of the link, and what only a deep call has touched. */
static void stacks_trim(struct sim_stack_pool *pool) {
    void *stack = pool->free;
    for (uint32_t i = 0; i < pool->taken_most && stack != NULL; i += 1) {
        size_t kept = i < STACKS_KEPT ? STACK_KEPT_BYTES : PAGE_BYTES;
        int status = madvise(stack, pool->stack_bytes - kept, MADV_DONTNEED);
        KELPIE_ASSERT(status == 0);
        stack = *stack_link(stack, pool->stack_bytes);
    }
    pool->taken_count = 0;
    pool->taken_most = 0;
}

/* ---- nurseries ------------------------------------------------------------------------------- */

struct sim_nursery *kelpie__sim_nursery_create(void) {
    struct sim_nursery *nursery = calloc(1, sizeof(*nursery));
    if (nursery == NULL) {
        return NULL;
    }
    nursery->heap_base = kelpie__sim_heap_reserve(HEAP_BYTES);
    if (nursery->heap_base == NULL) {
        free(nursery);
        return NULL;
    }
    /* Only what is kept: a page of 2 MiB more for each world would be memory that nobody needs. */
    kelpie__ignore(madvise(nursery->heap_base, HEAP_KEPT_BYTES, MADV_HUGEPAGE) == 0);
    nursery->stacks[0].stack_bytes = STACK_HOST_BYTES;
    nursery->stacks[1].stack_bytes = SIM_STACK_BYTES_USER * STACK_FACTOR;
    return nursery;
}

void kelpie__sim_nursery_destroy(struct sim_nursery *nursery) {
    if (nursery == NULL) {
        return;
    }
    while (nursery->chunks != NULL) { /* bound: the list */
        struct sim_stack_chunk *chunk = nursery->chunks;
        nursery->chunks = chunk->next;
        kelpie__sim_fiber_forget(chunk->base, chunk->bytes); /* others may get these addresses */
        kelpie__sim_heap_unreserve(chunk->base, chunk->bytes);
        free(chunk);
    }
    for (uint32_t i = 0; i < nursery->range_count; i += 1) {
        size_t used = kelpie__sim_heap_used(nursery->ranges[i]);
        if (used > 0) { /* guests' stacks lay there */
            kelpie__sim_fiber_forget(nursery->ranges[i], used);
        }
        kelpie__sim_heap_unreserve(nursery->ranges[i], nursery->range_bytes);
    }
    kelpie__sim_heap_unreserve(nursery->heap_base, HEAP_BYTES);
    free(nursery);
}

void *kelpie__sim_world_range(struct sim_world *world, uint32_t index, size_t bytes) {
    struct sim_nursery *nursery = world->nursery;
    KELPIE_ASSERT(index <= nursery->range_count);
    KELPIE_ASSERT(nursery->range_count == 0 || nursery->range_bytes == bytes);
    if (index == RANGES_MAX) {
        return NULL;
    }
    if (index == nursery->range_count) {
        nursery->ranges[index] = kelpie__sim_heap_reserve(bytes);
        if (nursery->ranges[index] == NULL) {
            return NULL;
        }
        nursery->range_bytes = bytes;
        nursery->range_count += 1;
    }
    return nursery->ranges[index];
}

struct sim_heap *kelpie__sim_nursery_heap(struct sim_nursery *nursery) {
    KELPIE_ASSERT(!nursery->is_taken);
    nursery->is_taken = true;
    return kelpie__sim_heap_init(nursery->heap_base, HEAP_BYTES, HEAP_KEPT_BYTES);
}

/* Whoever had a stack is gone with his world: all that were ever opened are free, the same one
 * first in every world. */
void kelpie__sim_nursery_give(struct sim_nursery *nursery) {
    nursery->stacks[0].free = NULL;
    nursery->stacks[1].free = NULL;
    for (struct sim_stack_chunk *chunk = nursery->chunks; chunk != NULL; chunk = chunk->next) {
        for (size_t i = chunk->opened_count; i > 0; i -= 1) {
            kelpie__sim_stack_give(nursery, stack_at(chunk, i - 1), chunk->pool->stack_bytes);
        }
    }
    stacks_trim(&nursery->stacks[0]);
    stacks_trim(&nursery->stacks[1]);
    kelpie__sim_heap_trim(nursery->heap_base, HEAP_KEPT_BYTES);
    for (uint32_t i = 0; i < nursery->range_count; i += 1) {
        kelpie__sim_heap_trim(nursery->ranges[i],
                              i < RANGES_KEPT ? SIM_RANGE_KEPT_BYTES : PAGE_BYTES);
    }
    nursery->is_taken = false;
}
