/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See json.h: the reader. One function, value_skip, knows the grammar; everything else is built on
 * it. The writer is in json_write.c.
 */
#include "core/json.h"

#include <string.h>

#include "core/limits.h"
#include "core/text.h"

struct scanner {
    const char *text;
    size_t length;
    size_t at;
};

/* Most often there is none. */
static inline void skip_space(struct scanner *scanner) {
    if (scanner->at < scanner->length && scanner->text[scanner->at] > ' ') {
        return;
    }
    while (scanner->at < scanner->length) {
        char next = scanner->text[scanner->at];
        if (next != ' ' && next != '\t' && next != '\n' && next != '\r') {
            break;
        }
        scanner->at += 1;
    }
    KELPIE_ASSERT(scanner->at <= scanner->length);
}

static char peek(const struct scanner *scanner) {
    return scanner->at < scanner->length ? scanner->text[scanner->at] : '\0';
}

static bool take(struct scanner *scanner, char wanted) {
    if (peek(scanner) != wanted || wanted == '\0') {
        return false;
    }
    scanner->at += 1;
    return true;
}

static bool take_word(struct scanner *scanner, const char *word) {
    size_t length = strlen(word);
    KELPIE_ASSERT(scanner->at <= scanner->length);
    if (scanner->length - scanner->at < length ||
        memcmp(scanner->text + scanner->at, word, length) != 0) {
        return false;
    }
    scanner->at += length;
    return true;
}

static inline bool take_digits(struct scanner *scanner) {
    size_t at = scanner->at;
    while (at < scanner->length && (unsigned)(scanner->text[at] - '0') <= 9) {
        at += 1;
    }
    bool has_some = at > scanner->at;
    scanner->at = at;
    return has_some;
}

static inline bool skip_number(struct scanner *scanner) {
    kelpie__ignore(take(scanner, '-'));
    if (!take(scanner, '0') && !take_digits(scanner)) {
        return false;
    }
    if (take(scanner, '.') && !take_digits(scanner)) {
        return false;
    }
    if (take(scanner, 'e') || take(scanner, 'E')) {
        if (!take(scanner, '+')) {
            kelpie__ignore(take(scanner, '-'));
        }
        return take_digits(scanner);
    }
    return true;
}

/* Four digits after \u. */
static bool take_hex4(struct scanner *scanner, uint32_t *out) {
    uint8_t bytes[2];
    char digits[5] = "";
    if (scanner->length - scanner->at < 4) {
        return false;
    }
    memcpy(digits, scanner->text + scanner->at, 4);
    if (!kelpie__text_unhex(digits, bytes, sizeof(bytes))) {
        return false;
    }
    *out = (uint32_t)bytes[0] << 8 | bytes[1];
    scanner->at += 4;
    return true;
}

static size_t utf8_encode(uint32_t point, char out[4]) {
    KELPIE_ASSERT(point <= 0x10ffff);
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    size_t count = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const uint8_t heads[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = count - 1; i > 0; i -= 1) {
        out[i] = (char)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    out[0] = (char)(heads[count] | point);
    return count;
}

static bool take_escape(struct scanner *scanner, char out[4], size_t *out_count) {
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    const char *place = peek(scanner) == '\0' ? NULL : strchr(names, peek(scanner));
    if (place != NULL) {
        scanner->at += 1;
        out[0] = values[place - names];
        *out_count = 1;
        return true;
    }
    uint32_t point = 0;
    uint32_t low = 0;
    if (!take(scanner, 'u') || !take_hex4(scanner, &point)) {
        return false;
    }
    if (point >= 0xd800 && point < 0xdc00) { /* a pair of surrogates is one character */
        if (!take(scanner, '\\') || !take(scanner, 'u') || !take_hex4(scanner, &low) ||
            low < 0xdc00 || low > 0xdfff) {
            return false;
        }
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    } else if (point >= 0xdc00 && point < 0xe000) {
        return false;
    }
    *out_count = utf8_encode(point, out);
    return true;
}

/* The next character of a string, as UTF-8. False: not valid; at the closing quote *out_count is 0.
 */
static bool take_character(struct scanner *scanner, char out[4], size_t *out_count) {
    KELPIE_ASSERT(scanner->at <= scanner->length);
    char next = peek(scanner);
    if (take(scanner, '"')) {
        *out_count = 0;
        return true;
    }
    if (take(scanner, '\\')) {
        return take_escape(scanner, out, out_count);
    }
    size_t count =
        kelpie__text_utf8_length(scanner->text + scanner->at, scanner->length - scanner->at);
    if (count == 0 || (uint8_t)next < 0x20) {
        return false;
    }
    memcpy(out, scanner->text + scanner->at, count);
    scanner->at += count;
    *out_count = count;
    return true;
}

/* What most strings are made of: ASCII without escapes and control characters. */
static void skip_plain(struct scanner *scanner) {
    scanner->at +=
        kelpie__text_plain_length(scanner->text + scanner->at, scanner->length - scanner->at);
}

/* From behind the opening quote. */
static bool skip_rest_of_string(struct scanner *scanner) {
    char bytes[4];
    size_t count = 1;
    while (count > 0) { /* bound: the text; every turn takes a byte */
        skip_plain(scanner);
        if (take(scanner, '"')) {
            return true;
        }
        if (!take_character(scanner, bytes, &count)) {
            return false;
        }
    }
    return true;
}

/* Most strings are plain, and not the text's last bytes: words of them are looked at. *out_is_plain
 * tells that there was no escape. */
static inline bool skip_string(struct scanner *scanner, bool *out_is_plain) {
    size_t at = scanner->at + 1;
    *out_is_plain = false;
    if (peek(scanner) != '"') {
        return false;
    }
    while (scanner->length - at >= sizeof(uint64_t)) { /* bound: the text */
        uint64_t word = 0;
        memcpy(&word, scanner->text + at, sizeof(word));
        uint64_t found = kelpie__text_not_plain(word);
        if (found != 0) {
            at += (size_t)__builtin_ctzll(found) / 8;
            if (scanner->text[at] == '"') {
                scanner->at = at + 1;
                *out_is_plain = true;
                return true;
            }
            break;
        }
        at += sizeof(word);
    }
    scanner->at = at;
    return skip_rest_of_string(scanner);
}

static bool skip_key(struct scanner *scanner) {
    bool is_plain = false;
    skip_space(scanner);
    if (!skip_string(scanner, &is_plain)) {
        return false;
    }
    skip_space(scanner);
    return take(scanner, ':');
}

static inline bool skip_scalar(struct scanner *scanner, bool *out_is_plain) {
    if (peek(scanner) == '"') { /* most of them */
        return skip_string(scanner, out_is_plain);
    }
    switch (peek(scanner)) {
    case 't':
        return take_word(scanner, "true");
    case 'f':
        return take_word(scanner, "false");
    case 'n':
        return take_word(scanner, "null");
    default:
        return skip_number(scanner);
    }
}

/* Skips one value of any depth up to the limit, and nothing behind it. `kinds` holds a bit a level:
 * an object, or an array. */
static bool value_skip(struct scanner *scanner, uint32_t depth_max) {
    uint32_t kinds = 0;
    uint32_t depth = 0;
    bool is_plain = false;
    static_assert(KELPIE_JSON_DEPTH_MAX <= 31, "a bit a level");
    do { /* bound: the text; every turn takes a byte */
        skip_space(scanner);
        bool is_object = peek(scanner) == '{';
        if (is_object || peek(scanner) == '[') {
            scanner->at += 1;
            if (depth == depth_max) {
                return false;
            }
            depth += 1;
            kinds = kinds << 1 | (is_object ? 1u : 0u);
            skip_space(scanner);
            bool is_empty = peek(scanner) == (is_object ? '}' : ']');
            if (!is_empty) {
                if (is_object && !skip_key(scanner)) {
                    return false;
                }
                continue;
            }
        } else if (!skip_scalar(scanner, &is_plain)) {
            return false;
        }
        bool is_closing = true;
        while (depth > 0 && is_closing) { /* bound: the depth */
            skip_space(scanner);
            is_closing = take(scanner, (kinds & 1u) != 0 ? '}' : ']');
            depth -= is_closing ? 1 : 0;
            kinds >>= is_closing ? 1 : 0;
        }
        if (depth > 0 && (!take(scanner, ',') || ((kinds & 1u) != 0 && !skip_key(scanner)))) {
            return false;
        }
    } while (depth > 0);
    return true;
}

static inline enum kelpie_json_kind kind_of(char first) {
    switch (first) {
    case '{':
        return KELPIE_JSON_OBJECT;
    case '[':
        return KELPIE_JSON_ARRAY;
    case '"':
        return KELPIE_JSON_STRING;
    case 't':
    case 'f':
        return KELPIE_JSON_BOOL;
    case 'n':
        return KELPIE_JSON_NULL;
    default:
        return KELPIE_JSON_NUMBER;
    }
}

static inline bool value_take(struct scanner *scanner, uint32_t depth_max,
                              struct kelpie_json_value *out) {
    skip_space(scanner);
    size_t start = scanner->at;
    if (start == scanner->length) {
        return false;
    }
    bool is_plain = false;
    enum kelpie_json_kind kind = kind_of(scanner->text[start]);
    bool is_nest = kind == KELPIE_JSON_OBJECT || kind == KELPIE_JSON_ARRAY;
    if (!(is_nest ? value_skip(scanner, depth_max) : skip_scalar(scanner, &is_plain))) {
        return false;
    }
    *out = (struct kelpie_json_value){scanner->text + start, scanner->at - start, kind, is_plain};
    return true;
}

int kelpie__json_parse(const char *text, size_t length, struct kelpie_json_value *out) {
    struct scanner scanner = {text, length, 0};
    struct kelpie_json_value value;
    if (!value_take(&scanner, KELPIE_JSON_DEPTH_MAX, &value)) {
        return -1;
    }
    skip_space(&scanner);
    if (scanner.at != length) {
        return -1;
    }
    *out = value;
    return 0;
}

int kelpie__json_validate(const char *text, size_t length) {
    struct kelpie_json_value ignored;
    return kelpie__json_parse(text, length, &ignored);
}

int kelpie__json_iterate(const struct kelpie_json_value *value, struct kelpie_json_iterator *out) {
    if (value->kind != KELPIE_JSON_OBJECT && value->kind != KELPIE_JSON_ARRAY) {
        return -1;
    }
    KELPIE_ASSERT(value->length >= 2);
    *out = (struct kelpie_json_iterator){value->text, value->length, 1,
                                         value->kind == KELPIE_JSON_OBJECT};
    return 0;
}

int kelpie__json_next(struct kelpie_json_iterator *iterator, struct kelpie_json_value *out_key,
                      struct kelpie_json_value *out) {
    struct scanner scanner = {iterator->text, iterator->length, iterator->at};
    KELPIE_ASSERT(scanner.at >= 1 && scanner.at <= scanner.length);
    skip_space(&scanner);
    if (take(&scanner, iterator->is_object ? '}' : ']')) {
        return 0;
    }
    bool is_first = iterator->at == 1;
    if (!is_first && !take(&scanner, ',')) {
        return -1;
    }
    size_t start = scanner.at;
    size_t end = start;
    bool is_plain = false;
    if (iterator->is_object) {
        skip_space(&scanner);
        start = scanner.at;
        if (!skip_string(&scanner, &is_plain)) {
            return -1;
        }
        end = scanner.at;
        skip_space(&scanner);
        if (!take(&scanner, ':')) {
            return -1;
        }
    }
    if (!value_take(&scanner, KELPIE_JSON_DEPTH_MAX, out)) {
        return -1;
    }
    if (iterator->is_object && out_key != NULL) {
        *out_key = (struct kelpie_json_value){scanner.text + start, end - start, KELPIE_JSON_STRING,
                                              is_plain};
    }
    iterator->at = scanner.at;
    return 1;
}

/* What stands between the quotes; true: it has no escapes, as most have none, and is the string. */
static bool string_is_plain(const struct kelpie_json_value *value, const char **out_inner,
                            size_t *out_count) {
    KELPIE_ASSERT(value->length >= 2 && value->text[0] == '"');
    KELPIE_ASSERT(value->text[value->length - 1] == '"');
    *out_inner = value->text + 1;
    *out_count = value->length - 2;
    return value->is_plain || memchr(*out_inner, '\\', *out_count) == NULL;
}

/* Whether the bytes, in which no zero is, are this text. */
static inline bool bytes_equal(const char *bytes, size_t count, const char *text) {
    size_t same = 0;
    while (same < count && bytes[same] == text[same]) { /* bound: count */
        same += 1;
    }
    return same == count && text[same] == '\0';
}

/* Whether a string value that has escapes is this text. */
static bool escaped_equals(const struct kelpie_json_value *value, const char *text) {
    struct scanner scanner = {value->text, value->length, 1};
    size_t left = strlen(text);
    KELPIE_ASSERT(value->length >= 2);
    char bytes[4];
    size_t count = 1;
    while (count > 0) { /* bound: the value */
        if (!take_character(&scanner, bytes, &count)) {
            return false;
        }
        if (count > left || memcmp(bytes, text, count) != 0) {
            return false;
        }
        text += count;
        left -= count;
    }
    return left == 0;
}

/* Takes a key that stands there as it is spelt here, which is plain, and its colon. As a whole: a
 * loop over its bytes ends where no processor foresees it, which costs more than the two calls. */
static inline bool take_key(struct scanner *scanner, const char *key) {
    const char *text = scanner->text + scanner->at;
    size_t count = strlen(key);
    if (scanner->length - scanner->at < count + 3 || text[0] != '"' ||
        memcmp(text + 1, key, count) != 0 || text[count + 1] != '"' || text[count + 2] != ':') {
        return false;
    }
    scanner->at += count + 3;
    return true;
}

/* A key, and which of those that are wanted it is, the likely one being looked at first; count:
 * none of them. */
static bool members_take_key(struct scanner *scanner, const struct kelpie_json_member *wanted,
                             size_t count, size_t likely, size_t *out) {
    skip_space(scanner);
    if (likely < count && take_key(scanner, wanted[likely].key)) {
        *out = likely;
        return true;
    }
    struct kelpie_json_value name = {.text = scanner->text + scanner->at,
                                     .kind = KELPIE_JSON_STRING};
    if (!skip_string(scanner, &name.is_plain)) {
        return false;
    }
    name.length = (size_t)(scanner->text + scanner->at - name.text);
    const char *bytes = NULL;
    size_t length = 0;
    size_t i = 0;
    bool is_plain = string_is_plain(&name, &bytes, &length);
    while (i < count && !(is_plain ? bytes_equal(bytes, length, wanted[i].key)
                                   : escaped_equals(&name, wanted[i].key))) { /* bound: count */
        i += 1;
    }
    *out = i;
    skip_space(scanner);
    return take(scanner, ':');
}

/* Into the object; false: there is none. *out_has_member: it is not empty. */
static bool object_enter(struct scanner *scanner, bool *out_has_member) {
    skip_space(scanner);
    if (!take(scanner, '{')) {
        return false;
    }
    skip_space(scanner);
    *out_has_member = peek(scanner) != '}';
    return true;
}

int kelpie__json_members(const char *text, size_t length, struct kelpie_json_member *wanted,
                         size_t count) {
    struct scanner scanner = {text, length, 0};
    bool has_member = false;
    size_t likely = 0;
    if (!object_enter(&scanner, &has_member)) {
        return -1;
    }
    for (size_t i = 0; i < count; i += 1) {
        wanted[i].is_there = false;
        wanted[i].value = (struct kelpie_json_value){.kind = KELPIE_JSON_NULL};
    }
    while (has_member) { /* bound: the text */
        struct kelpie_json_value value;
        size_t i = count;
        if (!members_take_key(&scanner, wanted, count, likely, &i) ||
            !value_take(&scanner, KELPIE_JSON_DEPTH_MAX - 1, &value)) {
            return -1;
        }
        if (i < count && !wanted[i].is_there) {
            wanted[i].is_there = true;
            wanted[i].value = value;
        }
        likely = i < count ? i + 1 : likely;
        skip_space(&scanner);
        has_member = take(&scanner, ',');
    }
    bool is_ended = take(&scanner, '}');
    skip_space(&scanner);
    return is_ended && scanner.at == length ? 0 : -1;
}

int kelpie__json_find(const char *text, size_t length, const char *key,
                      struct kelpie_json_value *out) {
    const struct kelpie_json_member wanted = {.key = key};
    struct scanner scanner = {text, length, 0};
    bool has_member = false;
    if (!object_enter(&scanner, &has_member)) {
        return -1;
    }
    while (has_member) { /* bound: the text */
        struct kelpie_json_value value;
        size_t i = 1;
        if (!members_take_key(&scanner, &wanted, 1, 0, &i) ||
            !value_take(&scanner, KELPIE_JSON_DEPTH_MAX, &value)) {
            return -1;
        }
        if (i == 0) {
            *out = value;
            return 0;
        }
        skip_space(&scanner);
        has_member = take(&scanner, ',');
    }
    return -1;
}

/* The next characters of a string: as many plain ones as follow each other, or one, in `bytes`.
 * *out_count 0: the closing quote. NULL: not valid. */
static const char *string_piece(struct scanner *scanner, char bytes[4], size_t *out_count) {
    const char *piece = scanner->text + scanner->at;
    skip_plain(scanner);
    *out_count = (size_t)(scanner->text + scanner->at - piece);
    if (*out_count > 0) {
        return piece;
    }
    return take_character(scanner, bytes, out_count) ? bytes : NULL;
}

int kelpie__json_string(const struct kelpie_json_value *value, char *out, size_t capacity,
                        size_t *out_length) {
    KELPIE_ASSERT(capacity > 0);
    struct scanner scanner = {value->text, value->length, 1};
    struct scanner measure = scanner;
    const char *inner = NULL;
    const char *piece = NULL;
    char bytes[4];
    size_t count = 1;
    size_t used = 0;
    if (value->kind != KELPIE_JSON_STRING) {
        return -1;
    }
    if (string_is_plain(value, &inner, &used)) {
        if (used >= capacity) {
            return -1;
        }
        memcpy(out, inner, used);
        out[used] = '\0';
        if (out_length != NULL) {
            *out_length = used;
        }
        return 0;
    }
    used = 0;
    while (count > 0) { /* measured first: a failure leaves `out` untouched; bound: the value */
        piece = string_piece(&measure, bytes, &count);
        if (piece == NULL || used + count >= capacity ||
            (count == 1 && piece[0] == '\0' && out_length == NULL)) {
            return -1;
        }
        used += count;
    }
    used = 0;
    for (count = 1; count > 0; used += count) {
        piece = string_piece(&scanner, bytes, &count);
        KELPIE_ASSERT(piece != NULL); /* it was measured */
        memcpy(out + used, piece, count);
    }
    KELPIE_ASSERT(used < capacity);
    out[used] = '\0';
    if (out_length != NULL) {
        *out_length = used;
    }
    return 0;
}

/* The digits of an integer; -1 when it is none. */
static int number_digits(const struct kelpie_json_value *value, bool *out_is_negative,
                         uint64_t *out) {
    char digits[24];
    bool is_negative = value->length > 0 && value->text[0] == '-';
    size_t skip = is_negative ? 1 : 0;
    if (value->kind != KELPIE_JSON_NUMBER || value->length - skip >= sizeof(digits)) {
        return -1;
    }
    memcpy(digits, value->text + skip, value->length - skip);
    digits[value->length - skip] = '\0';
    if (!kelpie__text_u64(digits, out)) {
        return -1;
    }
    *out_is_negative = is_negative;
    return 0;
}

int kelpie__json_u64(const struct kelpie_json_value *value, uint64_t *out) {
    uint64_t digits = 0;
    bool is_negative = false;
    if (number_digits(value, &is_negative, &digits) < 0 || (is_negative && digits != 0)) {
        return -1;
    }
    *out = digits;
    return 0;
}

int kelpie__json_i64(const struct kelpie_json_value *value, int64_t *out) {
    uint64_t digits = 0;
    bool is_negative = false;
    uint64_t limit = (uint64_t)INT64_MAX;
    if (number_digits(value, &is_negative, &digits) < 0 || digits > limit + (is_negative ? 1 : 0)) {
        return -1;
    }
    *out = is_negative ? (int64_t)(0 - digits) : (int64_t)digits;
    return 0;
}

int kelpie__json_bool(const struct kelpie_json_value *value, bool *out) {
    if (value->kind != KELPIE_JSON_BOOL) {
        return -1;
    }
    *out = value->text[0] == 't';
    return 0;
}

uint64_t kelpie__json_member_u64(const struct kelpie_json_member *member, uint64_t otherwise) {
    uint64_t value = 0;
    return member->is_there && kelpie__json_u64(&member->value, &value) == 0 ? value : otherwise;
}

bool kelpie__json_member_i64(const struct kelpie_json_member *member, int64_t *out) {
    return member->is_there && kelpie__json_i64(&member->value, out) == 0;
}

bool kelpie__json_member_string(const struct kelpie_json_member *member, char *out,
                                size_t capacity) {
    return member->is_there && kelpie__json_string(&member->value, out, capacity, NULL) == 0;
}

int kelpie__json_find_string(const char *text, size_t length, const char *key, char *out,
                             size_t capacity) {
    struct kelpie_json_value value;
    return kelpie__json_find(text, length, key, &value) < 0
               ? -1
               : kelpie__json_string(&value, out, capacity, NULL);
}

int kelpie__json_find_u64(const char *text, size_t length, const char *key, uint64_t *out) {
    struct kelpie_json_value value;
    return kelpie__json_find(text, length, key, &value) < 0 ? -1 : kelpie__json_u64(&value, out);
}

int kelpie__json_find_i64(const char *text, size_t length, const char *key, int64_t *out) {
    struct kelpie_json_value value;
    return kelpie__json_find(text, length, key, &value) < 0 ? -1 : kelpie__json_i64(&value, out);
}

int kelpie__json_find_bool(const char *text, size_t length, const char *key, bool *out) {
    struct kelpie_json_value value;
    return kelpie__json_find(text, length, key, &value) < 0 ? -1 : kelpie__json_bool(&value, out);
}
