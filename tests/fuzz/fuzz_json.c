/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Any bytes as JSON. What is valid as a whole is valid member by member; a string that was read and
 * written again reads the same; nothing is read beyond the end.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/json.h"
#include "core/limits.h"

#define VALUE_COUNT_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_string(const struct kelpie_json_value *value) {
    char read[512];
    char again[512];
    char text[4096];
    size_t length = 0;
    size_t again_length = 0;
    if (kelpie__json_string(value, read, sizeof(read), &length) < 0) {
        return;
    }
    struct kelpie_json_writer writer;
    struct kelpie_json_value written;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_write_bytes(&writer, NULL, read, length);
    int64_t text_length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(text_length > 0);
    int status = kelpie__json_parse(text, (size_t)text_length, &written);
    KELPIE_ASSERT(status == 0);
    status = kelpie__json_string(&written, again, sizeof(again), &again_length);
    KELPIE_ASSERT(status == 0);
    KELPIE_ASSERT(length == again_length && memcmp(read, again, length) == 0);
}

static void check_number(const struct kelpie_json_value *value) {
    uint64_t u = 0;
    int64_t i = 0;
    bool has_u = kelpie__json_u64(value, &u) == 0;
    bool has_i = kelpie__json_i64(value, &i) == 0;
    if (has_u && has_i) {
        KELPIE_ASSERT(i >= 0 && (uint64_t)i == u);
    }
}

/* Breadth first, with an array for a queue: no recursion here either. */
static void check_values(const struct kelpie_json_value *root) {
    static struct kelpie_json_value queue[VALUE_COUNT_MAX];
    size_t count = 1;
    queue[0] = *root;
    for (size_t at = 0; at < count; at += 1) {
        const struct kelpie_json_value value = queue[at];
        struct kelpie_json_iterator iterator;
        struct kelpie_json_value key = {0};
        struct kelpie_json_value member;
        KELPIE_ASSERT(value.length > 0);
        if (value.kind == KELPIE_JSON_STRING) {
            check_string(&value);
        }
        check_number(&value);
        if (kelpie__json_iterate(&value, &iterator) < 0) {
            continue;
        }
        int found = kelpie__json_next(&iterator, &key, &member);
        while (found == 1 && count < VALUE_COUNT_MAX) {
            KELPIE_ASSERT(member.text > value.text);
            KELPIE_ASSERT(member.text + member.length < value.text + value.length);
            queue[count] = member;
            count += 1;
            found = kelpie__json_next(&iterator, &key, &member);
        }
        KELPIE_ASSERT(found >= 0); /* the whole was valid */
    }
}

/* One pass finds what finding each by itself does, and judges the whole as parsing does. */
static void check_members(const char *text, size_t length, bool is_object) {
    struct kelpie_json_member wanted[] = {{.key = "a"}, {.key = "id"}, {.key = ""}};
    bool is_good = kelpie__json_members(text, length, wanted, KELPIE_ARRAY_COUNT(wanted)) == 0;
    KELPIE_ASSERT(is_good == is_object);
    for (size_t i = 0; is_good && i < KELPIE_ARRAY_COUNT(wanted); i += 1) {
        struct kelpie_json_value found = {0};
        bool is_found = kelpie__json_find(text, length, wanted[i].key, &found) == 0;
        KELPIE_ASSERT(is_found == wanted[i].is_there);
        KELPIE_ASSERT(!is_found || (found.text == wanted[i].value.text &&
                                    found.length == wanted[i].value.length));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    struct kelpie_json_value root;
    struct kelpie_json_value value;
    bool is_valid = kelpie__json_parse(text, size, &root) == 0;
    KELPIE_ASSERT(is_valid == (kelpie__json_validate(text, size) == 0));
    /* of texts nobody validated, too */
    kelpie__ignore(kelpie__json_find(text, size, "id", &value));
    kelpie__ignore(kelpie__json_find(text, size, "", &value));
    check_members(text, size, is_valid && root.kind == KELPIE_JSON_OBJECT);
    if (is_valid) {
        check_values(&root);
    }
    return 0;
}
