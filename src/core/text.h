/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Bounded texts: every function knows its buffer's capacity, always terminates, and says when
 * something did not fit.
 */
#ifndef KELPIE_CORE_TEXT_H
#define KELPIE_CORE_TEXT_H

#include <stdarg.h>
#include <string.h>

#include "core/base.h"

/* Formats into `out`. True: all of it fitted. False: it was cut, at a byte. */
KELPIE_PRINTF(3, 4) bool kelpie__text_format(char *out, size_t capacity, const char *format, ...);
/* The same with a list; the length of the whole text, also when that was cut. */
KELPIE_PRINTF(3, 0)
size_t kelpie__text_format_list(char *out, size_t capacity, const char *format, va_list arguments);

/* Copies a text. False: it was cut. */
bool kelpie__text_copy(char *out, size_t capacity, const char *text);

/* "directory/name", without a double slash. False: it does not fit; `out` is then empty. */
KELPIE_MUST_CHECK bool kelpie__text_join(char *out, size_t capacity, const char *directory,
                                         const char *name);

/* Up to eight bytes as a word, the first one lowest, zeros behind the last. */
static inline uint64_t kelpie__text_word(const char *bytes, size_t count) {
    uint64_t word = 0;
    uint32_t low = 0;
    uint32_t high = 0;
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte is the lowest");
    if (count >= 8) {
        memcpy(&word, bytes, 8);
    } else if (count >= 4) { /* two halves that overlap, where both say the same */
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + count - 4, 4);
        word = low | (uint64_t)high << (8 * (count - 4));
    } else if (count > 0) {
        word = (uint8_t)bytes[0] | (uint64_t)(uint8_t)bytes[count / 2] << (8 * (count / 2)) |
               (uint64_t)(uint8_t)bytes[count - 1] << (8 * (count - 1));
    }
    return word;
}

/* The high bit of each byte of the word that is not plain: printable ASCII, and neither a quote nor
 * a backslash. Without that bit a byte is less than 0x80, and a sum of two of them does not reach
 * the next byte: it has the bit when x + 0x7f shows that x is not 0, or x + 0x60 that it is 0x20 at
 * least. */
static inline uint64_t kelpie__text_not_plain(uint64_t word) {
    const uint64_t each = UINT64_C(0x0101010101010101);
    const uint64_t low = each * 0x7f;
    uint64_t seven = word & low;
    uint64_t is_plain = (seven + each * 0x60) & ((seven ^ each * '"') + low) &
                        ((seven ^ each * '\\') + low) & ((seven ^ low) + low) & ~word;
    return ~is_plain & each * 0x80;
}

/* How many bytes at the start are printable ASCII and stand for themselves in a JSON string:
 * neither a quote nor a backslash. */
size_t kelpie__text_plain_length(const char *bytes, size_t count);
/* 2 × count lower-case digits and a zero; capacity is 2 × count + 1 at least. */
void kelpie__text_hex(char *out, size_t capacity, const void *bytes, size_t count);
/* The reverse: exactly 2 × count digits and nothing else, of either case. */
KELPIE_MUST_CHECK bool kelpie__text_unhex(const char *text, void *out, size_t count);

/* A decimal number, nothing else around it. */
KELPIE_MUST_CHECK bool kelpie__text_u64(const char *text, uint64_t *out);

bool kelpie__text_equal(const char *a, const char *b);
bool kelpie__text_has_prefix(const char *text, const char *prefix);

/* Takes away the beginning of a UTF-8 sequence that a cut has left at the end. */
void kelpie__text_trim(char *text);

/* For people, and their terminals: what is not UTF-8, and every control character but newline and
 * tab, becomes '?'. A guest, a file or a path may have chosen it. */
void kelpie__text_clean(char *text);

/* The bytes of the UTF-8 sequence at `text`, 1 to 4, or 0 when it is not valid within `length`
 * bytes. */
size_t kelpie__text_utf8_length(const char *text, size_t length);

#endif
