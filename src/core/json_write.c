/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See json.h: the writer. What does not fit sets is_full, and nothing is written from then on.
 */
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/text.h"

static void append(struct kelpie_json_writer *writer, const char *bytes, size_t count) {
    KELPIE_ASSERT(writer->length < writer->capacity);
    if (writer->is_full || count >= writer->capacity - writer->length) {
        writer->is_full = true;
        return;
    }
    memcpy(writer->text + writer->length, bytes, count);
    writer->length += count;
    writer->text[writer->length] = '\0';
}

static void append_byte(struct kelpie_json_writer *writer, char byte) {
    KELPIE_ASSERT(writer->length < writer->capacity);
    if (writer->is_full || writer->capacity - writer->length <= 1) {
        writer->is_full = true;
        return;
    }
    writer->text[writer->length] = byte;
    writer->length += 1;
    writer->text[writer->length] = '\0';
}

static void append_text(struct kelpie_json_writer *writer, const char *text) {
    append(writer, text, strlen(text));
}

static void append_character(struct kelpie_json_writer *writer, const char *bytes, size_t count) {
    unsigned char first = (unsigned char)bytes[0];
    KELPIE_ASSERT(count >= 1 && count <= 4);
    if (first == '"' || first == '\\') {
        append(writer, "\\", 1);
        append(writer, bytes, 1);
    } else if (first == '\n') {
        append(writer, "\\n", 2);
    } else if (first == '\t') {
        append(writer, "\\t", 2);
    } else if (first < 0x20 || first == 0x7f) {
        char escape[8];
        kelpie__ignore(kelpie__text_format(escape, sizeof(escape), "\\u%04x", first));
        append_text(writer, escape);
    } else {
        append(writer, bytes, count);
    }
}

/* Most texts need no escapes, and fit: they are written in one piece, a key with its colon. False:
 * nothing was written. */
static inline bool append_plain(struct kelpie_json_writer *writer, const char *bytes, size_t count,
                                bool is_key) {
    char *out = writer->text + writer->length;
    size_t length = count + (is_key ? 3 : 2);
    KELPIE_ASSERT(writer->length < writer->capacity);
    if (writer->is_full || length >= writer->capacity - writer->length ||
        kelpie__text_plain_length(bytes, count) != count) {
        return false;
    }
    out[0] = '"';
    memcpy(out + 1, bytes, count);
    out[1 + count] = '"';
    if (is_key) {
        out[2 + count] = ':';
    }
    out[length] = '\0';
    writer->length += length;
    return true;
}

static void append_quoted(struct kelpie_json_writer *writer, const char *bytes, size_t count) {
    size_t at = 0;
    if (append_plain(writer, bytes, count, false)) {
        return;
    }
    append_byte(writer, '"');
    while (at < count) { /* every turn takes a byte at least */
        size_t plain = kelpie__text_plain_length(bytes + at, count - at);
        if (plain > 0) {
            append(writer, bytes + at, plain);
            at += plain;
            continue;
        }
        size_t length = kelpie__text_utf8_length(bytes + at, count - at);
        if (length == 0) {
            append(writer, "\xef\xbf\xbd", 3);
            length = 1;
        } else {
            append_character(writer, bytes + at, length);
        }
        at += length;
    }
    append_byte(writer, '"');
}

static void open_value(struct kelpie_json_writer *writer, const char *key) {
    KELPIE_ASSERT(writer->text != NULL);
    KELPIE_ASSERT(key == NULL || writer->depth > 0);
    if (writer->needs_comma) {
        append_byte(writer, ',');
    }
    if (key != NULL) {
        size_t length = strlen(key);
        if (!append_plain(writer, key, length, true)) {
            append_quoted(writer, key, length);
            append_byte(writer, ':');
        }
    }
    writer->needs_comma = true;
}

static void open_nest(struct kelpie_json_writer *writer, const char *key, char bracket) {
    open_value(writer, key);
    append_byte(writer, bracket);
    KELPIE_ASSERT(writer->depth < KELPIE_JSON_DEPTH_MAX);
    writer->depth += 1;
    writer->needs_comma = false;
}

static void close_nest(struct kelpie_json_writer *writer, char bracket) {
    KELPIE_ASSERT(writer->depth > 0);
    append_byte(writer, bracket);
    writer->depth -= 1;
    writer->needs_comma = true;
}

void kelpie__json_begin(struct kelpie_json_writer *writer, char *text, size_t capacity) {
    KELPIE_ASSERT(capacity > 0);
    *writer = (struct kelpie_json_writer){.text = text, .capacity = capacity};
    text[0] = '\0';
}

void kelpie__json_object_begin(struct kelpie_json_writer *writer, const char *key) {
    open_nest(writer, key, '{');
}

void kelpie__json_object_end(struct kelpie_json_writer *writer) {
    close_nest(writer, '}');
}

void kelpie__json_array_begin(struct kelpie_json_writer *writer, const char *key) {
    open_nest(writer, key, '[');
}

void kelpie__json_array_end(struct kelpie_json_writer *writer) {
    close_nest(writer, ']');
}

void kelpie__json_write_bytes(struct kelpie_json_writer *writer, const char *key, const char *bytes,
                              size_t count) {
    open_value(writer, key);
    append_quoted(writer, bytes, count);
}

void kelpie__json_write_string(struct kelpie_json_writer *writer, const char *key,
                               const char *text) {
    kelpie__json_write_bytes(writer, key, text, strlen(text));
}

static void append_u64(struct kelpie_json_writer *writer, uint64_t value) {
    char digits[20]; /* as many as 2^64 - 1 has */
    size_t at = sizeof(digits);
    do { /* bound: the digits */
        at -= 1;
        digits[at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0 && at > 0);
    KELPIE_ASSERT(value == 0);
    append(writer, digits + at, sizeof(digits) - at);
}

void kelpie__json_write_u64(struct kelpie_json_writer *writer, const char *key, uint64_t value) {
    open_value(writer, key);
    append_u64(writer, value);
}

void kelpie__json_write_i64(struct kelpie_json_writer *writer, const char *key, int64_t value) {
    open_value(writer, key);
    if (value < 0) {
        append(writer, "-", 1);
    }
    append_u64(writer, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void kelpie__json_write_bool(struct kelpie_json_writer *writer, const char *key, bool value) {
    open_value(writer, key);
    append_text(writer, value ? "true" : "false");
}

void kelpie__json_write_raw(struct kelpie_json_writer *writer, const char *key, const char *json,
                            size_t length) {
    KELPIE_ASSERT(length > 0);
    open_value(writer, key);
    append(writer, json, length);
}

int64_t kelpie__json_finish(struct kelpie_json_writer *writer) {
    KELPIE_ASSERT(writer->depth == 0 || writer->is_full);
    KELPIE_ASSERT(writer->length < writer->capacity);
    return writer->is_full ? -1 : (int64_t)writer->length;
}
