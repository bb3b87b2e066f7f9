/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See text.h. Only pure functions of the C library; the locale is never asked.
 */
#include "core/text.h"

#include <string.h>

bool kelpie__text_copy(char *out, size_t capacity, const char *text) {
    KELPIE_ASSERT(capacity > 0);
    size_t length = strlen(text);
    size_t count = length < capacity ? length : capacity - 1;
    memcpy(out, text, count);
    out[count] = '\0';
    KELPIE_ASSERT(strlen(out) < capacity);
    return count == length;
}

bool kelpie__text_join(char *out, size_t capacity, const char *directory, const char *name) {
    KELPIE_ASSERT(capacity > 0);
    size_t length = strlen(directory);
    size_t slash = length > 0 && directory[length - 1] == '/' ? 0 : 1;
    size_t name_length = strlen(name);
    if (length + slash + name_length >= capacity) {
        out[0] = '\0';
        return false;
    }
    memcpy(out, directory, length);
    KELPIE_ASSERT(length + slash < capacity);
    out[length] = '/'; /* which the name covers when there is one */
    memcpy(out + length + slash, name, name_length + 1);
    return true;
}

size_t kelpie__text_plain_length(const char *bytes, size_t count) {
    size_t at = 0;
    uint64_t word = 0;
    for (; count - at >= sizeof(word); at += sizeof(word)) {
        memcpy(&word, bytes + at, sizeof(word));
        uint64_t found = kelpie__text_not_plain(word);
        if (found != 0) {
            return at + (size_t)__builtin_ctzll(found) / 8;
        }
    }
    size_t left = count - at;
    if (left == 0) {
        return count;
    }
    /* Behind the last byte follow plain ones. */
    word = kelpie__text_word(bytes + at, left) | UINT64_C(0x2020202020202020) << (8 * left);
    uint64_t found = kelpie__text_not_plain(word);
    at = found == 0 ? count : at + (size_t)__builtin_ctzll(found) / 8;
    KELPIE_ASSERT(at <= count);
    return at;
}

void kelpie__text_hex(char *out, size_t capacity, const void *bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = bytes;
    KELPIE_ASSERT(count < SIZE_MAX / 2);
    KELPIE_ASSERT(capacity >= 2 * count + 1);
    for (size_t i = 0; i < count; i += 1) {
        out[2 * i] = digits[from[i] >> 4];
        out[2 * i + 1] = digits[from[i] & 15];
    }
    out[2 * count] = '\0';
}

static int hex_digit(char character) {
    if (character >= '0' && character <= '9') {
        return character - '0';
    }
    if (character >= 'a' && character <= 'f') {
        return character - 'a' + 10;
    }
    if (character >= 'A' && character <= 'F') {
        return character - 'A' + 10;
    }
    return -1;
}

bool kelpie__text_unhex(const char *text, void *out, size_t count) {
    uint8_t *to = out;
    KELPIE_ASSERT(count < SIZE_MAX / 2);
    if (strlen(text) != 2 * count) {
        return false;
    }
    for (size_t i = 0; i < 2 * count; i += 1) {
        if (hex_digit(text[i]) < 0) {
            return false;
        }
    }
    for (size_t i = 0; i < count; i += 1) {
        to[i] = (uint8_t)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
    }
    return true;
}

bool kelpie__text_u64(const char *text, uint64_t *out) {
    uint64_t value = 0;
    if (text[0] == '\0') {
        return false;
    }
    for (const char *next = text; *next != '\0'; next += 1) {
        if (*next < '0' || *next > '9' || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*next - '0'), &value)) {
            return false;
        }
    }
    *out = value;
    return true;
}

bool kelpie__text_equal(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

bool kelpie__text_has_prefix(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The Unicode standard, table 3-7: the second byte's range depends on the first; no surrogates,
 * nothing overlong. */
size_t kelpie__text_utf8_length(const char *text, size_t length) {
    const uint8_t *bytes = (const uint8_t *)text;
    if (length == 0) {
        return 0;
    }
    uint8_t first = bytes[0];
    if (first < 0x80) {
        return 1;
    }
    size_t count = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || length < count) {
        return 0;
    }
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (bytes[1] < low || bytes[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < count; i += 1) {
        if (bytes[i] < 0x80 || bytes[i] > 0xbf) {
            return 0;
        }
    }
    KELPIE_ASSERT(count >= 2 && count <= length);
    return count;
}

void kelpie__text_trim(char *text) {
    size_t length = strlen(text);
    size_t back = 1;
    while (back <= 3 && back <= length && ((uint8_t)text[length - back] & 0xc0) == 0x80) {
        back += 1;
    }
    if (back > length) {
        return;
    }
    uint8_t first = (uint8_t)text[length - back];
    KELPIE_ASSERT(back <= 4);
    size_t wanted = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
    if (wanted > back) {
        text[length - back] = '\0';
    }
}

/* Those of ASCII, and U+0080 to U+009F, which terminals take for escapes as well. */
static bool is_control(const char *text, size_t step) {
    uint8_t first = (uint8_t)text[0];
    KELPIE_ASSERT(step >= 1 && step <= 4);
    if (step == 1) {
        return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f;
    }
    return step == 2 && first == 0xc2 && (uint8_t)text[1] < 0xa0;
}

void kelpie__text_clean(char *text) {
    size_t length = strlen(text);
    size_t at = 0;
    while (at < length) { /* bound: the text */
        size_t step = kelpie__text_utf8_length(text + at, length - at);
        if (step == 0 || is_control(text + at, step)) {
            step = step == 0 ? 1 : step;
            memset(text + at, '?', step);
        }
        at += step;
    }
    KELPIE_ASSERT(at == length);
}
