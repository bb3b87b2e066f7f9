/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The bytes that follow from their place: what test programs of guests write, and clients check.
 * Eight at a time, for runs move megabytes of them.
 */
#include <string.h>

#include "sim/guest.h"

/* Eight neighbours, the first at a multiple of 8: all but the low 8 bits of their places are equal,
 * so that they are the first one's byte and 0, 131, 2 * 131 ... more, modulo 256 each. */
static uint64_t pattern_word(uint64_t offset) {
    const uint64_t each = UINT64_C(0x0101010101010101);
    const uint64_t low = each * 0x7f;
    const uint64_t steps = UINT64_C(0x95128f0c89068300);
    uint64_t first = each * kelpie__sim_pattern(offset);
    KELPIE_ASSERT(offset % 8 == 0);
    return ((first & low) + (steps & low)) ^ ((first ^ steps) & ~low);
}

void kelpie__sim_pattern_fill(void *out, size_t count, uint64_t offset) {
    uint8_t *to = out;
    size_t at = 0;
    for (; at < count && (offset + at) % 8 != 0; at += 1) {
        to[at] = kelpie__sim_pattern(offset + at);
    }
    for (; count - at >= 8; at += 8) {
        uint64_t word = pattern_word(offset + at);
        memcpy(to + at, &word, sizeof(word));
    }
    for (; at < count; at += 1) {
        to[at] = kelpie__sim_pattern(offset + at);
    }
}

size_t kelpie__sim_pattern_length(const void *bytes, size_t count, uint64_t offset) {
    const uint8_t *from = bytes;
    size_t at = 0;
    for (; at < count && (offset + at) % 8 != 0; at += 1) {
        if (from[at] != kelpie__sim_pattern(offset + at)) {
            return at;
        }
    }
    uint64_t word = 0;
    for (; count - at >= 8; at += 8) {
        memcpy(&word, from + at, sizeof(word));
        if (word != pattern_word(offset + at)) {
            break;
        }
    }
    while (at < count && from[at] == kelpie__sim_pattern(offset + at)) { /* bound: count */
        at += 1;
    }
    KELPIE_ASSERT(at <= count);
    return at;
}
