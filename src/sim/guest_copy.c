/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Copies of guests' memory without the pages that are zero, which most are: for guests that share a
 * slot, and for images.
 */
#include <stdlib.h>
#include <string.h>

#include "sim/guest_state.h"

#define COPY_PAGE_BYTES 4096u
#define COPY_PAGES_MIN 64u

static bool copy_is_zero(const uint8_t *page) {
    uint64_t words[8];
    for (size_t at = 0; at < COPY_PAGE_BYTES; at += sizeof(words)) {
        memcpy(words, page + at, sizeof(words));
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
             words[7]) != 0) {
            return false;
        }
    }
    return true;
}

static bool copy_grow(struct sim_guest_copy *copy) {
    uint32_t capacity = copy->capacity == 0 ? COPY_PAGES_MIN : copy->capacity * 2;
    uint8_t *bytes = realloc(copy->bytes, (size_t)capacity * COPY_PAGE_BYTES);
    if (bytes == NULL) {
        return false;
    }
    copy->bytes = bytes;
    uint32_t *pages = realloc(copy->pages, capacity * sizeof(*pages));
    if (pages == NULL) {
        return false;
    }
    copy->pages = pages;
    copy->capacity = capacity;
    return true;
}

/* Slots begin at a page and are made of whole ones. */
bool kelpie__sim_guest_copy_fill(struct sim_guest_copy *copy, void *base, size_t extent) {
    const uint8_t *bytes = base;
    KELPIE_ASSERT(extent <= SIM_GUEST_SLOT_BYTES);
    kelpie__sim_fiber_forget(base, extent); /* stacks in the middle of calls: all of it is read */
    copy->extent = extent;
    copy->count = 0;
    for (size_t at = 0; at < extent; at += COPY_PAGE_BYTES) {
        if (copy_is_zero(bytes + at)) {
            continue;
        }
        if (copy->count == copy->capacity && !copy_grow(copy)) {
            return false;
        }
        memcpy(copy->bytes + (size_t)copy->count * COPY_PAGE_BYTES, bytes + at, COPY_PAGE_BYTES);
        copy->pages[copy->count] = (uint32_t)(at / COPY_PAGE_BYTES);
        copy->count += 1;
    }
    return true;
}

void kelpie__sim_guest_copy_restore(const struct sim_guest_copy *copy, void *base) {
    uint8_t *bytes = base;
    size_t used = kelpie__sim_heap_used(base);
    size_t range = used > copy->extent ? used : copy->extent;
    uint32_t next = 0;
    /* Stacks lie in there, and the address sanitizer remembers what lay on them. */
    kelpie__sim_fiber_forget(base, range);
    for (size_t at = 0; at < copy->extent; at += COPY_PAGE_BYTES) {
        bool is_kept = next < copy->count && copy->pages[next] == at / COPY_PAGE_BYTES;
        if (is_kept) {
            memcpy(bytes + at, copy->bytes + (size_t)next * COPY_PAGE_BYTES, COPY_PAGE_BYTES);
            next += 1;
        } else if (at < used) {
            memset(bytes + at, 0, COPY_PAGE_BYTES);
        }
    }
    KELPIE_ASSERT(next == copy->count);
    kelpie__sim_heap_copied(base, used);
}

/* Only what is needed stays: for a copy that is kept. */
void kelpie__sim_guest_copy_shrink(struct sim_guest_copy *copy) {
    uint8_t *bytes = realloc(copy->bytes, (size_t)copy->count * COPY_PAGE_BYTES);
    KELPIE_ASSERT(copy->count > 0);
    if (bytes != NULL) {
        copy->bytes = bytes;
        copy->capacity = copy->count;
    }
}

void kelpie__sim_guest_copy_deinit(struct sim_guest_copy *copy) {
    free(copy->bytes);
    free(copy->pages);
    *copy = (struct sim_guest_copy){0};
}
