/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See heap.h. Blocks of 16 bytes to 512 come in steps of 16, larger ones in four steps for each
 * power of two; what is freed goes to its class's list and is handed out again, last first. Nothing
 * is ever merged: a world's needs repeat, and the same calls always give the same addresses. What
 * bounds the memory is that large free blocks beyond a limit keep their first page only.
 */
#define _GNU_SOURCE
#include "sim/heap.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base.h"
#include "sim/fiber.h"

#define HEAP_PAGE_BYTES 4096u
#define HEAP_STEP_BYTES 16u
#define HEAP_SMALL_BYTES_MAX 512u
#define HEAP_SMALL_CLASSES (HEAP_SMALL_BYTES_MAX / HEAP_STEP_BYTES)
#define HEAP_SMALL_BITS 9u /* 512 = 2^9 */
#define HEAP_LARGE_BITS_MAX 40u
#define HEAP_LOOSE_BYTES_MIN                                                                       \
    (32u * 1024u)                       /* of a block; less is not worth a call of the kernel      \
                                         */
#define HEAP_LOOSE_BYTES_MAX (4u << 20) /* of all such blocks */

struct heap_free {
    struct heap_free *next;
    size_t loose_bytes; /* that count as such */
};

/* At the base of its range; its size is a multiple of 16, as blocks behind it need. */
struct sim_heap {
    _Alignas(HEAP_STEP_BYTES) size_t capacity;
    size_t extent; /* bytes from the base that were handed out once */
    size_t dirty;  /* up to here they may hold what an earlier heap has left; beyond, zeros */
    size_t kept;
    size_t loose_bytes; /* of large free blocks behind what is kept, with all their pages */
    size_t live_bytes;
    struct heap_free *free[SIM_HEAP_CLASS_COUNT];
};

static_assert(sizeof(struct heap_free) == SIM_HEAP_FREE_BYTES, "as told");
static_assert(SIM_HEAP_FREE_BYTES <= HEAP_STEP_BYTES, "the smallest block has room for it");
static_assert(SIM_HEAP_CLASS_COUNT ==
                  HEAP_SMALL_CLASSES + 4u * (HEAP_LARGE_BITS_MAX - HEAP_SMALL_BITS),
              "each size has a class");
static_assert(HEAP_SMALL_BYTES_MAX == 1u << HEAP_SMALL_BITS, "the classes meet");
static_assert(sizeof(struct sim_heap) % HEAP_STEP_BYTES == 0, "the first block is aligned");

/* The class of a size, and the bytes that its blocks have. */
static inline size_t heap_class(size_t bytes, size_t *out_bytes) {
    if (bytes <= HEAP_SMALL_BYTES_MAX) {
        size_t index = (bytes + HEAP_STEP_BYTES - 1) / HEAP_STEP_BYTES;
        *out_bytes = index * HEAP_STEP_BYTES;
        return index - 1;
    }
    unsigned bits = 63u - (unsigned)__builtin_clzll((unsigned long long)(bytes - 1));
    unsigned shift = bits - 2;
    size_t quarter = (bytes - 1) >> shift; /* 4 to 7 */
    *out_bytes = (quarter + 1) << shift;
    return HEAP_SMALL_CLASSES + 4 * (size_t)(bits - HEAP_SMALL_BITS) + (quarter - 4);
}

void *kelpie__sim_heap_reserve(size_t capacity) {
    KELPIE_ASSERT(capacity >= sizeof(struct sim_heap));
    void *base = mmap(NULL, capacity, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

void kelpie__sim_heap_unreserve(void *base, size_t capacity) {
    if (base != NULL) {
        int status = munmap(base, capacity);
        KELPIE_ASSERT(status == 0);
    }
}

size_t kelpie__sim_heap_used(const struct sim_heap *heap) {
    return heap->extent > heap->dirty ? heap->extent : heap->dirty;
}

void kelpie__sim_heap_trim(struct sim_heap *heap, size_t kept) {
    size_t used = kelpie__sim_heap_used(heap);
    KELPIE_ASSERT(kept % HEAP_PAGE_BYTES == 0 && kept >= sizeof(*heap));
    if (used <= kept) {
        return;
    }
    char *rest = (char *)heap + kept;
    size_t bytes = (used - kept + HEAP_PAGE_BYTES - 1) / HEAP_PAGE_BYTES * HEAP_PAGE_BYTES;
    kelpie__sim_fiber_forget(rest, used - kept); /* stacks may have lain there */
    int status = madvise(rest, bytes, MADV_DONTNEED);
    KELPIE_ASSERT(status == 0);
    heap->dirty = kept;
    heap->extent = heap->extent < kept ? heap->extent : kept;
}

void kelpie__sim_heap_copied(struct sim_heap *heap, size_t used) {
    KELPIE_ASSERT(used <= heap->capacity);
    heap->dirty = used > heap->dirty ? used : heap->dirty;
}

struct sim_heap *kelpie__sim_heap_init(void *base, size_t capacity, size_t kept) {
    struct sim_heap *heap = base;
    KELPIE_ASSERT((uintptr_t)base % HEAP_PAGE_BYTES == 0 && kept % HEAP_PAGE_BYTES == 0);
    KELPIE_ASSERT(capacity > sizeof(*heap));
    size_t dirty = kelpie__sim_heap_used(heap);
    KELPIE_ASSERT(dirty <= capacity);
    if (dirty > 0) { /* stacks may have lain there */
        kelpie__sim_fiber_forget(base, dirty);
    }
    memset(heap, 0, sizeof(*heap));
    heap->capacity = capacity;
    heap->kept = kept;
    heap->dirty = dirty;
    heap->extent = sizeof(*heap);
    return heap;
}

size_t kelpie__sim_heap_block_bytes(size_t bytes) {
    size_t block_bytes = 0;
    KELPIE_ASSERT(bytes > 0);
    kelpie__ignore(heap_class(bytes, &block_bytes) >= SIM_HEAP_CLASS_COUNT);
    KELPIE_ASSERT(block_bytes >= bytes);
    return block_bytes;
}

/* *out_stale: bytes of it that may be anything but zero. */
static void *heap_take(struct sim_heap *heap, size_t bytes, size_t *out_stale) {
    size_t block_bytes = 0;
    *out_stale = 0;
    if (bytes == 0 || bytes > heap->capacity) {
        return NULL;
    }
    size_t class = heap_class(bytes, &block_bytes);
    KELPIE_ASSERT(class < SIM_HEAP_CLASS_COUNT);
    struct heap_free *block = heap->free[class];
    if (block != NULL) {
        heap->free[class] = block->next;
        KELPIE_ASSERT(heap->loose_bytes >= block->loose_bytes);
        heap->loose_bytes -= block->loose_bytes;
        *out_stale = bytes;
    } else if (block_bytes <= heap->capacity - heap->extent) {
        block = (struct heap_free *)(void *)((char *)heap + heap->extent);
        *out_stale = heap->extent < heap->dirty ? block_bytes : 0;
        heap->extent += block_bytes;
    } else {
        return NULL;
    }
    heap->live_bytes += block_bytes;
    return block;
}

void *kelpie__sim_heap_alloc(struct sim_heap *heap, size_t bytes) {
    size_t stale = 0;
    void *block = heap_take(heap, bytes, &stale);
    if (stale > 0) {
        memset(block, 0, stale);
    }
    return block;
}

void *kelpie__sim_heap_alloc_raw(struct sim_heap *heap, size_t bytes) {
    size_t stale = 0;
    void *block = heap_take(heap, bytes, &stale);
    KELPIE_ASSERT(block != NULL || stale == 0);
    return block;
}

/* Of large free blocks all pages go that hold no link: all at once, for most of what is freed is
 * handed out again soon, and would be there again. */
static void heap_tighten(struct sim_heap *heap) {
    size_t bytes = 0;
    for (size_t class = heap_class(HEAP_LOOSE_BYTES_MIN, &bytes); class < SIM_HEAP_CLASS_COUNT;
         class += 1) {
        /* bound: the class's list */
        for (struct heap_free *block = heap->free[class]; block != NULL; block = block->next) {
            size_t begin = (size_t)((char *)block - (char *)heap);
            size_t first = (begin + sizeof(*block) + HEAP_PAGE_BYTES - 1) / HEAP_PAGE_BYTES;
            size_t end = (begin + block->loose_bytes) / HEAP_PAGE_BYTES;
            if (first < end) {
                int status = madvise((char *)heap + first * HEAP_PAGE_BYTES,
                                     (end - first) * HEAP_PAGE_BYTES, MADV_DONTNEED);
                KELPIE_ASSERT(status == 0);
            }
            heap->loose_bytes -= block->loose_bytes;
            block->loose_bytes = 0;
        }
    }
    KELPIE_ASSERT(heap->loose_bytes == 0);
}

void kelpie__sim_heap_free(struct sim_heap *heap, void *block, size_t bytes) {
    size_t block_bytes = 0;
    struct heap_free *entry = block;
    if (block == NULL) {
        return;
    }
    KELPIE_ASSERT(bytes > 0);
    size_t class = heap_class(bytes, &block_bytes);
    KELPIE_ASSERT((char *)block > (char *)heap &&
                  (char *)block + block_bytes <= (char *)heap + heap->extent);
    KELPIE_ASSERT(heap->live_bytes >= block_bytes);
    heap->live_bytes -= block_bytes;
    *entry = (struct heap_free){.next = heap->free[class]};
    heap->free[class] = entry;
    if (block_bytes >= HEAP_LOOSE_BYTES_MIN &&
        (size_t)((char *)block - (char *)heap) >= heap->kept) {
        entry->loose_bytes = block_bytes;
        heap->loose_bytes += block_bytes;
        if (heap->loose_bytes > HEAP_LOOSE_BYTES_MAX) {
            heap_tighten(heap);
        }
    }
}

static size_t heap_class_bytes(size_t class) {
    if (class < HEAP_SMALL_CLASSES) {
        return (class + 1) * HEAP_STEP_BYTES;
    }
    size_t large = class - HEAP_SMALL_CLASSES;
    return (large % 4 + 5) << (large / 4 + HEAP_SMALL_BITS - 2);
}

const void *kelpie__sim_heap_free_next(const struct sim_heap *heap, size_t class, const void *block,
                                       size_t *out_bytes) {
    const struct heap_free *entry = block;
    KELPIE_ASSERT(class < SIM_HEAP_CLASS_COUNT);
    entry = entry == NULL ? heap->free[class] : entry->next;
    *out_bytes = heap_class_bytes(class);
    KELPIE_ASSERT(heap_class(*out_bytes, out_bytes) == class);
    return entry;
}

size_t kelpie__sim_heap_extent(const struct sim_heap *heap) {
    KELPIE_ASSERT(heap->extent <= heap->capacity);
    return heap->extent;
}

bool kelpie__sim_heap_is_packed(const struct sim_heap *heap) {
    KELPIE_ASSERT(heap->live_bytes <= heap->extent - sizeof(*heap));
    return heap->live_bytes == heap->extent - sizeof(*heap);
}

/* Before the bytes of a piece. */
struct heap_piece {
    struct sim_heap record; /* as it was then */
    size_t from;
};

size_t kelpie__sim_heap_piece_bytes(const struct sim_heap *heap, size_t from) {
    KELPIE_ASSERT(from >= sizeof(*heap) && from <= heap->extent);
    return sizeof(struct heap_piece) + heap->extent - from;
}

void kelpie__sim_heap_piece_save(const struct sim_heap *heap, size_t from, void *out) {
    const struct heap_piece piece = {.record = *heap, .from = from};
    KELPIE_ASSERT(from >= sizeof(*heap) && from <= heap->extent);
    memcpy(out, &piece, sizeof(piece));
    memcpy((char *)out + sizeof(piece), (const char *)heap + from, heap->extent - from);
}

void kelpie__sim_heap_piece_load(struct sim_heap *heap, const void *bytes) {
    struct heap_piece piece;
    memcpy(&piece, bytes, sizeof(piece));
    KELPIE_ASSERT(heap->extent == piece.from && kelpie__sim_heap_is_packed(heap));
    KELPIE_ASSERT(heap->capacity == piece.record.capacity && heap->kept == piece.record.kept);
    memcpy((char *)heap + piece.from, (const char *)bytes + sizeof(piece),
           piece.record.extent - piece.from);
    piece.record.dirty = heap->dirty;
    *heap = piece.record;
}

size_t kelpie__sim_heap_live_bytes(const struct sim_heap *heap) {
    return heap->live_bytes;
}
