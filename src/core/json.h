/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * JSON (RFC 8259) without allocation, recursion or state: a reader over bytes that may be hostile,
 * and a writer into the caller's buffer. Depth is at most KELPIE_JSON_DEPTH_MAX. Numbers are
 * integers of 64 bits; a fraction or an exponent is valid JSON but no integer. Of equal keys the
 * first counts. Texts are strict UTF-8.
 */
#ifndef KELPIE_CORE_JSON_H
#define KELPIE_CORE_JSON_H

#include "core/base.h"

enum kelpie_json_kind {
    KELPIE_JSON_NULL,
    KELPIE_JSON_BOOL,
    KELPIE_JSON_NUMBER,
    KELPIE_JSON_STRING,
    KELPIE_JSON_ARRAY,
    KELPIE_JSON_OBJECT,
};

/* A value inside a text that stays where it is: borrowed as long as that text. */
struct kelpie_json_value {
    const char *text;
    size_t length;
    enum kelpie_json_kind kind;
    bool is_plain; /* a string that has no escapes; false: it may have some */
};

/* Results of all readers: 0, or -1 when the text is not valid, the key is not there, or the value
 * is of another kind or does not fit; out_ arguments are then untouched. */

/* The whole text is one value with nothing but white space around it. */
KELPIE_MUST_CHECK int kelpie__json_parse(const char *text, size_t length,
                                         struct kelpie_json_value *out);
KELPIE_MUST_CHECK int kelpie__json_validate(const char *text, size_t length);

/* Several members of an object in one pass, the quickest when they are asked for in the order in
 * which they stand. Those that are not there have is_there false and are a NULL, which no typed
 * reader takes. -1: the whole text is not one valid object (`wanted` may then be half filled). */
struct kelpie_json_member {
    const char *key; /* borrowed; the caller sets it */
    bool is_there;
    struct kelpie_json_value value;
};
KELPIE_MUST_CHECK int kelpie__json_members(const char *text, size_t length,
                                           struct kelpie_json_member *wanted, size_t count);

/* A member that may be missing, or be something else. */
uint64_t kelpie__json_member_u64(const struct kelpie_json_member *member, uint64_t otherwise);
/* Those that can be: false leaves `*out` as it is. */
bool kelpie__json_member_i64(const struct kelpie_json_member *member, int64_t *out);
bool kelpie__json_member_string(const struct kelpie_json_member *member, char *out,
                                size_t capacity);

/* The value of a key of an object. The text need not have been validated. */
KELPIE_MUST_CHECK int kelpie__json_find(const char *text, size_t length, const char *key,
                                        struct kelpie_json_value *out);

/* Typed readers. A string is copied with its escapes resolved and a terminating zero; a zero inside
 * is refused unless out_length is given. */
KELPIE_MUST_CHECK int kelpie__json_string(const struct kelpie_json_value *value, char *out,
                                          size_t capacity, size_t *out_length);
KELPIE_MUST_CHECK int kelpie__json_u64(const struct kelpie_json_value *value, uint64_t *out);
KELPIE_MUST_CHECK int kelpie__json_i64(const struct kelpie_json_value *value, int64_t *out);
KELPIE_MUST_CHECK int kelpie__json_bool(const struct kelpie_json_value *value, bool *out);

/* find and read at once. */
KELPIE_MUST_CHECK int kelpie__json_find_string(const char *text, size_t length, const char *key,
                                               char *out, size_t capacity);
KELPIE_MUST_CHECK int kelpie__json_find_u64(const char *text, size_t length, const char *key,
                                            uint64_t *out);
KELPIE_MUST_CHECK int kelpie__json_find_i64(const char *text, size_t length, const char *key,
                                            int64_t *out);
KELPIE_MUST_CHECK int kelpie__json_find_bool(const char *text, size_t length, const char *key,
                                             bool *out);

/* The members of an array, or the keys and values of an object, one by one. */
struct kelpie_json_iterator {
    const char *text;
    size_t length;
    size_t at;
    bool is_object;
};

/* 0, or -1 when the value is neither. */
KELPIE_MUST_CHECK int kelpie__json_iterate(const struct kelpie_json_value *value,
                                           struct kelpie_json_iterator *out);
/* 1: there is one (out_key may be NULL; it is a STRING value, and untouched in an array). 0: the
 * end. -1: not valid. */
KELPIE_MUST_CHECK int kelpie__json_next(struct kelpie_json_iterator *iterator,
                                        struct kelpie_json_value *out_key,
                                        struct kelpie_json_value *out);

/* The writer. `key` is NULL in arrays and for the outermost value. When the buffer is too small,
 * is_full stays set and nothing more is written; kelpie__json_finish tells. */
struct kelpie_json_writer {
    char *text; /* borrowed */
    size_t capacity;
    size_t length;
    uint32_t depth;
    bool needs_comma;
    bool is_full;
};

void kelpie__json_begin(struct kelpie_json_writer *writer, char *text, size_t capacity);
void kelpie__json_object_begin(struct kelpie_json_writer *writer, const char *key);
void kelpie__json_object_end(struct kelpie_json_writer *writer);
void kelpie__json_array_begin(struct kelpie_json_writer *writer, const char *key);
void kelpie__json_array_end(struct kelpie_json_writer *writer);
/* Bytes that are not UTF-8 become U+FFFD: for texts that people read, such as a console's last
 * lines. */
void kelpie__json_write_string(struct kelpie_json_writer *writer, const char *key,
                               const char *text);
void kelpie__json_write_bytes(struct kelpie_json_writer *writer, const char *key, const char *bytes,
                              size_t count);
void kelpie__json_write_u64(struct kelpie_json_writer *writer, const char *key, uint64_t value);
void kelpie__json_write_i64(struct kelpie_json_writer *writer, const char *key, int64_t value);
void kelpie__json_write_bool(struct kelpie_json_writer *writer, const char *key, bool value);
/* A text that is JSON already. */
void kelpie__json_write_raw(struct kelpie_json_writer *writer, const char *key, const char *json,
                            size_t length);
/* The length of the whole text, which is terminated; -1: it did not fit. */
KELPIE_MUST_CHECK int64_t kelpie__json_finish(struct kelpie_json_writer *writer);

#endif
