/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of a text: see tail.h. The bytes lie in a ring whose next place is total_bytes modulo its
 * size.
 */
#include "core/tail.h"

#include <stdbool.h>
#include <string.h>

#include "core/base.h"

void kelpie__tail_append(struct kelpie_tail *tail, const void *bytes, size_t count) {
    const char *from = bytes;
    if (count > sizeof(tail->bytes)) {
        from += count - sizeof(tail->bytes);
        tail->total_bytes += count - sizeof(tail->bytes);
        count = sizeof(tail->bytes);
    }
    size_t at = (size_t)(tail->total_bytes % sizeof(tail->bytes));
    size_t first = (size_t)kelpie__min_u64(count, sizeof(tail->bytes) - at);
    KELPIE_ASSERT(at + first <= sizeof(tail->bytes));
    KELPIE_ASSERT(count - first <= at || first == count);
    memcpy(tail->bytes + at, from, first);
    memcpy(tail->bytes, from + first, count - first);
    tail->total_bytes += count;
}

static char tail_byte(const struct kelpie_tail *tail, uint64_t offset) {
    KELPIE_ASSERT(offset < tail->total_bytes);
    KELPIE_ASSERT(tail->total_bytes - offset <= sizeof(tail->bytes));
    return tail->bytes[offset % sizeof(tail->bytes)];
}

static bool tail_is_break(char byte) {
    return byte == '\n' || byte == '\r';
}

/* Where to begin so that the text from there to the end takes less than `capacity` bytes. Begins
 * with a whole line when there is one. */
static uint64_t tail_start(const struct kelpie_tail *tail, uint64_t end, size_t capacity) {
    uint64_t oldest = tail->total_bytes - kelpie__min_u64(tail->total_bytes, sizeof(tail->bytes));
    uint64_t start = end;
    uint64_t whole_line = end;
    size_t needed = 1; /* the terminator */
    while (start > oldest) {
        bool is_break = tail_is_break(tail_byte(tail, start - 1));
        needed += is_break ? 3 : 1;
        if (needed > capacity) {
            return whole_line < end ? whole_line : start;
        }
        if (is_break) {
            whole_line = start;
        }
        start -= 1;
    }
    KELPIE_ASSERT(start == oldest);
    bool is_cut = oldest > 0 && !tail_is_break(tail_byte(tail, oldest));
    return is_cut && whole_line < end ? whole_line : start;
}

void kelpie__tail_text(const struct kelpie_tail *tail, char *out, size_t capacity) {
    KELPIE_ASSERT(capacity > 0);
    uint64_t oldest = tail->total_bytes - kelpie__min_u64(tail->total_bytes, sizeof(tail->bytes));
    uint64_t end = tail->total_bytes;
    while (end > oldest && tail_is_break(tail_byte(tail, end - 1))) {
        end -= 1;
    }
    size_t length = 0;
    bool is_break_due = false;
    for (uint64_t offset = tail_start(tail, end, capacity); offset < end; offset += 1) {
        char byte = tail_byte(tail, offset);
        if (tail_is_break(byte)) {
            is_break_due = length > 0;
            continue;
        }
        if (is_break_due) {
            memcpy(out + length, " | ", 3);
            length += 3;
            is_break_due = false;
        }
        out[length] = byte >= ' ' && byte <= '~' ? byte : '?';
        length += 1;
    }
    KELPIE_ASSERT(length < capacity);
    out[length] = '\0';
}
