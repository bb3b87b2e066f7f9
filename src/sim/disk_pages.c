/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Sparse arrays of pages, shared between a file's two sides and what is pending: see
 * disk_internal.h. A buffer is only as large as what was written into it, for most files are tiny.
 */
#include <string.h>

#include "sim/disk_internal.h"

#define BUFFER_BYTES_MIN 64u
#define SLOTS_MIN 4u

static_assert((SIM_PAGE_BYTES & (SIM_PAGE_BYTES - 1)) == 0, "offsets are split by it");

static uint32_t buffer_capacity(uint32_t end) {
    uint32_t capacity = BUFFER_BYTES_MIN;
    KELPIE_ASSERT(end > 0 && end <= SIM_PAGE_BYTES);
    while (capacity < end) { /* at most SIM_PAGE_BYTES */
        capacity *= 2;
    }
    return capacity;
}

/* Its bytes are whatever they were. */
static struct sim_buffer *buffer_create(struct sim_heap *heap, uint32_t capacity) {
    struct sim_buffer *buffer = kelpie__sim_heap_alloc_raw(heap, sizeof(*buffer) + capacity);
    if (buffer != NULL) {
        *buffer = (struct sim_buffer){.references = 1, .capacity = capacity};
    }
    return buffer;
}

void kelpie__sim_buffer_unref(struct sim_heap *heap, struct sim_buffer *buffer) {
    if (buffer != NULL) {
        KELPIE_ASSERT(buffer->references > 0);
        buffer->references -= 1;
        if (buffer->references == 0) {
            kelpie__sim_heap_free(heap, buffer, sizeof(*buffer) + buffer->capacity);
        }
    }
}

/* The first slot whose index is at least that. */
static uint32_t slot_at(const struct sim_pages *pages, uint64_t index) {
    uint32_t low = 0;
    uint32_t high = pages->slot_count;
    if (high > 0 && pages->slots[high - 1].index <= index) { /* mostly: the end is written */
        return pages->slots[high - 1].index == index ? high - 1 : high;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pages->slots[middle].index < index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct sim_chunk *chunk_find(const struct sim_pages *pages, uint64_t index) {
    uint32_t at = slot_at(pages, index);
    return at < pages->slot_count && pages->slots[at].index == index ? pages->slots[at].chunk
                                                                     : NULL;
}

static bool slots_grow(struct sim_heap *heap, struct sim_pages *pages) {
    uint32_t capacity = pages->slot_capacity == 0 ? SLOTS_MIN : pages->slot_capacity * 2;
    struct sim_chunk_slot *slots = kelpie__sim_heap_alloc(heap, capacity * sizeof(*slots));
    if (slots == NULL) {
        return false;
    }
    if (pages->slot_count > 0) {
        memcpy(slots, pages->slots, pages->slot_count * sizeof(*slots));
    }
    kelpie__sim_heap_free(heap, pages->slots, pages->slot_capacity * sizeof(*slots));
    pages->slots = slots;
    pages->slot_capacity = capacity;
    return true;
}

static struct sim_chunk *chunk_make(struct sim_heap *heap, struct sim_pages *pages,
                                    uint64_t index) {
    struct sim_chunk *chunk = chunk_find(pages, index);
    if (chunk != NULL) {
        return chunk;
    }
    if (pages->slot_count == pages->slot_capacity && !slots_grow(heap, pages)) {
        return NULL;
    }
    chunk = kelpie__sim_heap_alloc(heap, sizeof(*chunk));
    if (chunk == NULL) {
        return NULL;
    }
    uint32_t at = slot_at(pages, index);
    KELPIE_ASSERT(pages->slot_count < pages->slot_capacity);
    memmove(&pages->slots[at + 1], &pages->slots[at],
            (pages->slot_count - at) * sizeof(pages->slots[0]));
    pages->slots[at] = (struct sim_chunk_slot){index, chunk};
    pages->slot_count += 1;
    return chunk;
}

struct sim_buffer *kelpie__sim_pages_get(const struct sim_pages *pages, uint64_t index) {
    if (index == 0) {
        return pages->first;
    }
    const struct sim_chunk *chunk = chunk_find(pages, index / SIM_CHUNK_PAGES);
    return chunk == NULL ? NULL : chunk->pages[index % SIM_CHUNK_PAGES];
}

/* Where the page stands. NULL: no memory. */
static struct sim_buffer **page_place(struct sim_heap *heap, struct sim_pages *pages,
                                      uint64_t index) {
    if (index == 0) {
        return &pages->first;
    }
    struct sim_chunk *chunk = chunk_make(heap, pages, index / SIM_CHUNK_PAGES);
    return chunk == NULL ? NULL : &chunk->pages[index % SIM_CHUNK_PAGES];
}

bool kelpie__sim_pages_set(struct sim_heap *heap, struct sim_pages *pages, uint64_t index,
                           struct sim_buffer *buffer) {
    if (buffer == NULL && kelpie__sim_pages_get(pages, index) == NULL) {
        return true;
    }
    struct sim_buffer **place = page_place(heap, pages, index);
    if (place == NULL) {
        return false;
    }
    if (buffer != NULL) {
        buffer->references += 1;
        pages->count += 1;
    }
    if (*place != NULL) {
        KELPIE_ASSERT(pages->count > 0);
        pages->count -= 1;
    }
    kelpie__sim_buffer_unref(heap, *place);
    *place = buffer;
    return true;
}

struct sim_buffer *kelpie__sim_pages_own(struct sim_heap *heap, struct sim_pages *pages,
                                         uint64_t index, uint32_t from, uint32_t end) {
    struct sim_buffer **place = page_place(heap, pages, index);
    if (place == NULL) {
        return NULL;
    }
    struct sim_buffer *old = *place;
    if (old != NULL && old->references == 1 && old->capacity >= end) {
        return old;
    }
    uint32_t old_capacity = old == NULL ? 0 : old->capacity;
    uint32_t capacity = buffer_capacity(end > old_capacity ? end : old_capacity);
    struct sim_buffer *made = buffer_create(heap, capacity);
    if (made == NULL) {
        return NULL;
    }
    KELPIE_ASSERT(from <= end && end <= capacity);
    bool is_overwritten = from == 0 && end >= old_capacity;
    uint32_t copied = is_overwritten ? 0 : old_capacity;
    if (copied > 0) {
        memcpy(made->bytes, old->bytes, copied);
    }
    if (copied < from) {
        memset(made->bytes + copied, 0, from - copied);
    }
    uint32_t filled = end > copied ? end : copied;
    memset(made->bytes + filled, 0, capacity - filled);
    pages->count += old == NULL ? 1 : 0;
    kelpie__sim_buffer_unref(heap, old);
    *place = made;
    KELPIE_ASSERT(made->references == 1 && made->capacity >= end);
    return made;
}

static void chunk_cut(struct sim_heap *heap, struct sim_pages *pages, struct sim_chunk *chunk,
                      uint64_t from) {
    for (uint64_t i = from; i < SIM_CHUNK_PAGES; i += 1) {
        if (chunk->pages[i] != NULL) {
            kelpie__sim_buffer_unref(heap, chunk->pages[i]);
            chunk->pages[i] = NULL;
            pages->count -= 1;
        }
    }
}

void kelpie__sim_pages_cut(struct sim_heap *heap, struct sim_pages *pages, uint64_t index) {
    if (index == 0 && pages->first != NULL) {
        kelpie__sim_buffer_unref(heap, pages->first);
        pages->first = NULL;
        pages->count -= 1;
    }
    while (pages->slot_count > 0) { /* each turn drops a slot or ends */
        struct sim_chunk_slot *slot = &pages->slots[pages->slot_count - 1];
        uint64_t base = slot->index * SIM_CHUNK_PAGES;
        if (base + SIM_CHUNK_PAGES <= index) {
            break;
        }
        if (base < index) {
            chunk_cut(heap, pages, slot->chunk, index - base);
            break;
        }
        chunk_cut(heap, pages, slot->chunk, 0);
        kelpie__sim_heap_free(heap, slot->chunk, sizeof(*slot->chunk));
        pages->slot_count -= 1;
    }
    if (pages->slot_count == 0 && pages->slots != NULL) {
        kelpie__sim_heap_free(heap, pages->slots, pages->slot_capacity * sizeof(pages->slots[0]));
        pages->slots = NULL;
        pages->slot_capacity = 0;
    }
    KELPIE_ASSERT(index > 0 || pages->count == 0);
}

uint64_t kelpie__sim_pages_next(const struct sim_pages *pages, uint64_t index) {
    if (index == 0 && pages->first != NULL) {
        return 0;
    }
    for (uint32_t at = slot_at(pages, index / SIM_CHUNK_PAGES); at < pages->slot_count; at += 1) {
        uint64_t base = pages->slots[at].index * SIM_CHUNK_PAGES;
        for (uint64_t i = base < index ? index - base : 0; i < SIM_CHUNK_PAGES; i += 1) {
            if (pages->slots[at].chunk->pages[i] != NULL) {
                return base + i;
            }
        }
    }
    return UINT64_MAX;
}

void kelpie__sim_pages_copy(struct sim_heap *heap, struct sim_pages *to,
                            const struct sim_pages *from) {
    kelpie__sim_pages_cut(heap, to, 0);
    for (uint64_t index = kelpie__sim_pages_next(from, 0); index != UINT64_MAX;
         index = kelpie__sim_pages_next(from, index + 1)) {
        bool is_set = kelpie__sim_pages_set(heap, to, index, kelpie__sim_pages_get(from, index));
        KELPIE_ASSERT(is_set); /* the host's heap is made for it */
    }
    KELPIE_ASSERT(to->count == from->count);
}

bool kelpie__sim_pages_trim(struct sim_heap *heap, struct sim_pages *pages, uint64_t size) {
    uint64_t last = size / SIM_PAGE_BYTES;
    uint32_t tail = (uint32_t)(size % SIM_PAGE_BYTES);
    kelpie__sim_pages_cut(heap, pages, last + (tail > 0 ? 1 : 0));
    struct sim_buffer *buffer = tail > 0 ? kelpie__sim_pages_get(pages, last) : NULL;
    if (buffer == NULL || buffer->capacity <= tail) {
        return true;
    }
    buffer = kelpie__sim_pages_own(heap, pages, last, tail, tail);
    if (buffer == NULL) {
        return false;
    }
    memset(buffer->bytes + tail, 0, buffer->capacity - tail);
    return true;
}

void kelpie__sim_pages_read(const struct sim_pages *pages, void *out, size_t count,
                            uint64_t offset) {
    uint8_t *to = out;
    for (size_t done = 0; done < count;) { /* a page at least, each turn */
        uint64_t index = (offset + done) / SIM_PAGE_BYTES;
        size_t within = (size_t)((offset + done) % SIM_PAGE_BYTES);
        size_t part = (size_t)kelpie__min_u64(SIM_PAGE_BYTES - within, count - done);
        const struct sim_buffer *buffer = kelpie__sim_pages_get(pages, index);
        size_t there = buffer == NULL || buffer->capacity <= within
                           ? 0
                           : (size_t)kelpie__min_u64(buffer->capacity - within, part);
        if (there > 0) {
            memcpy(to + done, buffer->bytes + within, there);
        }
        memset(to + done + there, 0, part - there);
        done += part;
    }
}
