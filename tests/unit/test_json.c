/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The JSON reader and writer. Goal: it takes exactly what RFC 8259 allows within its limits, and
 * gives back what was written. Method: a table of nasty texts with known verdicts, the same texts
 * and thousands of damaged ones compared with jansson, and writer output read by both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/text.h"

struct verdict {
    const char *text;
    bool is_valid;
};

static const struct verdict verdicts[] = {
    {"", false},
    {" ", false},
    {"{}", true},
    {"[]", true},
    {" \t\r\n{ } \n", true},
    {"{}{}", false},
    {"{} x", false},
    {"{", false},
    {"}", false},
    {"[", false},
    {"[}", false},
    {"{]", false},
    {"[1,]", false},
    {"[,1]", false},
    {"[1 2]", false},
    {"[1,,2]", false},
    {"{\"a\":1,}", false},
    {"{,\"a\":1}", false},
    {"{\"a\"}", false},
    {"{\"a\":}", false},
    {"{\"a\" 1}", false},
    {"{a:1}", false},
    {"{1:1}", false},
    {"{\"a\":1 \"b\":2}", false},
    {"{\"a\":1,\"b\":{\"c\":[1,2,{\"d\":null}]}}", true},
    {"[[],[[]],{}]", true},
    {"[] , ]", false},
    {"null", true},
    {"nul", false},
    {"nulll", false},
    {"true", true},
    {"True", false},
    {"[false]", true},
    {"0", true},
    {"-0", true},
    {"-", false},
    {"+1", false},
    {"01", false},
    {"-01", false},
    {"1.", false},
    {".5", false},
    {"1.5", true},
    {"1e5", true},
    {"1E+5", true},
    {"1e-5", true},
    {"1e", false},
    {"1e+", false},
    {"1.e5", false},
    {"0x10", false},
    {"1a", false},
    {"[-]", false},
    {"NaN", false},
    {"Infinity", false},
    {"18446744073709551616", true},
    {"\"\"", true},
    {"\"", false},
    {"\"a", false},
    {"\"\\", false},
    {"\"\\\"", false},
    {"\"\\\"\"", true},
    {"\"\\/\\b\\f\\n\\r\\t\\\\\"", true},
    {"\"\\x\"", false},
    {"\"\\'\"", false},
    {"\"\\u\"", false},
    {"\"\\u12\"", false},
    {"\"\\u123g\"", false},
    {"\"\\u12345\"", true},
    {"\"\\u00e9\"", true},
    {"\"\\ud83d\\ude00\"", true},
    {"\"\\ud83d\"", false},
    {"\"\\ud83d\\u0041\"", false},
    {"\"\\ud83dx\"", false},
    {"\"\\ude00\"", false},
    {"\"\\ud83d\\ud83d\"", false},
    {"\"a\tb\"", false},
    {"\"a\nb\"", false},
    {"\"\x7f\"", true},
    {"'a'", false},
    {"\"\xc3\xa9\"", true},
    {"\"\xc3\"", false},
    {"\"\xa9\"", false},
    {"\"\xc0\x80\"", false},
    {"\"\xc1\xbf\"", false},
    {"\"\xe0\x80\x80\"", false},
    {"\"\xe0\xa0\x80\"", true},
    {"\"\xed\xa0\x80\"", false},
    {"\"\xed\x9f\xbf\"", true},
    {"\"\xf0\x80\x80\x80\"", false},
    {"\"\xf0\x9f\x98\x80\"", true},
    {"\"\xf4\x8f\xbf\xbf\"", true},
    {"\"\xf4\x90\x80\x80\"", false},
    {"\"\xf5\x80\x80\x80\"", false},
    {"\"\xff\"", false},
    {"\xef\xbb\xbf{}", false},
    {"// x\n{}", false},
    {"{/**/}", false},
    {"[1,\"\\u0000\"]", true},
};

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* jansson reads doubles, and refuses what overflows them; everything else has to agree. */
static void compare_with_jansson(const char *text, size_t length) {
    json_error_t error;
    json_t *theirs = json_loadb(text, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    bool is_valid = kelpie__json_validate(text, length) == 0;
    enum json_error_code code = theirs == NULL ? json_error_code(&error) : json_error_unknown;
    json_decref(theirs);
    if (theirs == NULL &&
        (code == json_error_numeric_overflow || code == json_error_stack_overflow)) {
        return;
    }
    if (is_valid != (theirs != NULL)) {
        fail_msg("ours %d, jansson %d (%s): %.*s", is_valid, theirs != NULL, error.text,
                 (int)length, text);
    }
}

static void test_validate_nasty_texts_as_known(void **state) {
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(verdicts); i += 1) {
        const char *text = verdicts[i].text;
        if ((kelpie__json_validate(text, strlen(text)) == 0) != verdicts[i].is_valid) {
            fail_msg("text %zu: %s", i, text);
        }
        compare_with_jansson(text, strlen(text));
    }
}

static void test_validate_damaged_texts_as_jansson(void **state) {
    (void)state;
    static const char alphabet[] = "{}[]\",:\\u0019eE+-. \n\xc3\xa9\xf0\x9f\x98\x80tfn";
    uint64_t random = 0x5eed;
    for (int i = 0; i < 30000; i += 1) {
        char text[128];
        const char *from = verdicts[next_random(&random) % KELPIE_ARRAY_COUNT(verdicts)].text;
        size_t length = strlen(from);
        memcpy(text, from, length);
        for (uint64_t damage = next_random(&random) % 4; damage > 0 && length > 0; damage -= 1) {
            text[next_random(&random) % length] =
                alphabet[next_random(&random) % (sizeof(alphabet) - 1)];
        }
        compare_with_jansson(text, length);
    }
}

static void test_validate_cut_text_never_reads_beyond(void **state) {
    (void)state;
    static const char text[] = "{\"a\":[true,null,-1.5e7,\"\\u00e9\\ud83d\\ude00 \xc3\xa9\"]}";
    for (size_t length = 0; length < sizeof(text) - 1; length += 1) {
        char *copy = test_malloc(length > 0 ? length : 1); /* its end is watched */
        memcpy(copy, text, length);
        assert_int_equal(kelpie__json_validate(copy, length), -1);
        test_free(copy);
    }
    assert_int_equal(kelpie__json_validate(text, sizeof(text) - 1), 0);
}

static void test_depth_is_limited(void **state) {
    (void)state;
    char text[64];
    for (size_t depth = 1; depth <= 20; depth += 1) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        bool is_allowed = depth <= KELPIE_JSON_DEPTH_MAX;
        assert_int_equal(kelpie__json_validate(text, 2 * depth), is_allowed ? 0 : -1);
    }
    static char deep[100000];
    memset(deep, '[', sizeof(deep));
    assert_int_equal(kelpie__json_validate(deep, sizeof(deep)), -1);
}

static void test_find_takes_the_first_of_equal_keys(void **state) {
    (void)state;
    static const char text[] = " {\"b\":{\"a\":9},\"\\u0061\":1,\"a\":2,\"\":3,\"aa\":4}";
    uint64_t value = 0;
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "a", &value), 0);
    assert_int_equal(value, 1);
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "", &value), 0);
    assert_int_equal(value, 3);
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "aa", &value), 0);
    assert_int_equal(value, 4);
    value = 77;
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "c", &value), -1);
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "b", &value), -1);
    assert_int_equal(kelpie__json_find_u64("[1]", 3, "a", &value), -1);
    assert_int_equal(kelpie__json_find_u64("{\"a\":1", 6, "b", &value), -1);
    assert_int_equal(value, 77);
}

static int read_u64(const char *text, uint64_t *out) {
    struct kelpie_json_value value;
    return kelpie__json_parse(text, strlen(text), &value) < 0 ? -2 : kelpie__json_u64(&value, out);
}

static int read_i64(const char *text, int64_t *out) {
    struct kelpie_json_value value;
    return kelpie__json_parse(text, strlen(text), &value) < 0 ? -2 : kelpie__json_i64(&value, out);
}

static void test_integers_are_exact_or_refused(void **state) {
    (void)state;
    uint64_t u = 1;
    int64_t i = 1;
    assert_int_equal(read_u64("18446744073709551615", &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(read_u64("18446744073709551616", &u), -1);
    assert_int_equal(read_u64("99999999999999999999999999", &u), -1);
    assert_int_equal(read_u64("-1", &u), -1);
    assert_int_equal(read_u64("1.0", &u), -1);
    assert_int_equal(read_u64("1e3", &u), -1);
    assert_int_equal(read_u64("\"1\"", &u), -1);
    assert_int_equal(read_u64("true", &u), -1);
    assert_true(u == UINT64_MAX);
    assert_int_equal(read_u64("-0", &u), 0);
    assert_true(u == 0);
    assert_int_equal(read_i64("-9223372036854775808", &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(read_i64("-9223372036854775809", &i), -1);
    assert_int_equal(read_i64("9223372036854775807", &i), 0);
    assert_true(i == INT64_MAX);
    assert_int_equal(read_i64("9223372036854775808", &i), -1);
}

static void test_string_resolves_escapes_or_leaves_out_alone(void **state) {
    (void)state;
    static const char text[] = "\"a\\u00e9\\ud83d\\ude00\\n\\u0000z\"";
    struct kelpie_json_value value;
    char out[16] = "untouched";
    size_t length = 0;
    assert_int_equal(kelpie__json_parse(text, strlen(text), &value), 0);
    assert_int_equal(kelpie__json_string(&value, out, sizeof(out), NULL), -1); /* the zero */
    assert_int_equal(kelpie__json_string(&value, out, 10, &length), -1);
    assert_string_equal(out, "untouched");
    assert_int_equal(kelpie__json_string(&value, out, 11, &length), 0);
    assert_int_equal(length, 10);
    assert_memory_equal(out, "a\xc3\xa9\xf0\x9f\x98\x80\n\0z", 11);
}

static void test_iterate_gives_members_in_order(void **state) {
    (void)state;
    static const char text[] = "{ \"x\" : [ 1 , \"two\" , [ 3 ] ] , \"y\" : { } }";
    struct kelpie_json_value whole;
    struct kelpie_json_value key;
    struct kelpie_json_value value;
    struct kelpie_json_iterator object;
    struct kelpie_json_iterator array;
    char name[8];
    assert_int_equal(kelpie__json_parse(text, strlen(text), &whole), 0);
    assert_int_equal(kelpie__json_iterate(&whole, &object), 0);
    assert_int_equal(kelpie__json_next(&object, &key, &value), 1);
    assert_int_equal(kelpie__json_string(&key, name, sizeof(name), NULL), 0);
    assert_string_equal(name, "x");
    assert_int_equal(kelpie__json_iterate(&value, &array), 0);
    const enum kelpie_json_kind kinds[] = {KELPIE_JSON_NUMBER, KELPIE_JSON_STRING,
                                           KELPIE_JSON_ARRAY};
    for (size_t i = 0; i < 3; i += 1) {
        assert_int_equal(kelpie__json_next(&array, NULL, &value), 1);
        assert_int_equal(value.kind, kinds[i]);
        assert_int_equal(kelpie__json_validate(value.text, value.length), 0);
    }
    assert_int_equal(kelpie__json_next(&array, NULL, &value), 0);
    assert_int_equal(kelpie__json_next(&object, &key, &value), 1);
    assert_int_equal(kelpie__json_next(&object, &key, &value), 0);
    assert_int_equal(kelpie__json_iterate(&key, &array), -1);
}

static int64_t write_sample(char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "text", "q\"b\\n\nt\tc\x01 \xc3\xa9");
    kelpie__json_write_bytes(&writer, "bytes", "a\0\xff\xc3", 4);
    kelpie__json_write_u64(&writer, "max", UINT64_MAX);
    kelpie__json_write_i64(&writer, "min", INT64_MIN);
    kelpie__json_array_begin(&writer, "list");
    kelpie__json_write_bool(&writer, NULL, true);
    kelpie__json_write_bool(&writer, NULL, false);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_object_end(&writer);
    kelpie__json_write_raw(&writer, NULL, "[null]", 6);
    kelpie__json_array_end(&writer);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

static void test_writer_is_read_by_both(void **state) {
    (void)state;
    char text[512];
    char read[64];
    int64_t length = write_sample(text, sizeof(text));
    assert_true(length > 0);
    assert_int_equal(length, strlen(text));
    assert_string_equal(text, "{\"text\":\"q\\\"b\\\\n\\nt\\tc\\u0001 \xc3\xa9\","
                              "\"bytes\":\"a\\u0000\xef\xbf\xbd\xef\xbf\xbd\","
                              "\"max\":18446744073709551615,\"min\":-9223372036854775808,"
                              "\"list\":[true,false,{},[null]]}");
    assert_int_equal(kelpie__json_validate(text, (size_t)length), 0);
    assert_int_equal(kelpie__json_find_string(text, (size_t)length, "text", read, sizeof(read)), 0);
    assert_string_equal(read, "q\"b\\n\nt\tc\x01 \xc3\xa9");
}

static void test_writer_stays_full_and_in_bounds(void **state) {
    (void)state;
    char whole[512];
    int64_t length = write_sample(whole, sizeof(whole));
    for (size_t capacity = 1; capacity <= (size_t)length + 1; capacity += 1) {
        char *text = test_malloc(capacity);
        bool fits = capacity == (size_t)length + 1;
        assert_int_equal(write_sample(text, capacity), fits ? length : -1);
        assert_true(strlen(text) < capacity);
        test_free(text);
    }
}

static void test_members_are_read_in_one_pass(void **state) {
    static const char text[] = " {\"a\":1, \"b\\u0063\":[2,{}] ,\"a\":3,\"d\":{\"a\":4}} ";
    struct kelpie_json_member wanted[] = {{.key = "bc"}, {.key = "a"}, {.key = "e"}, {.key = "d"}};
    uint64_t number = 0;
    kelpie__ignore(state != NULL);
    assert_int_equal(kelpie__json_members(text, strlen(text), wanted, 4), 0);
    assert_true(wanted[0].is_there && wanted[0].value.kind == KELPIE_JSON_ARRAY);
    assert_true(wanted[1].is_there && kelpie__json_u64(&wanted[1].value, &number) == 0);
    assert_int_equal(number, 1); /* of equal keys the first */
    assert_false(wanted[2].is_there);
    assert_true(wanted[3].is_there && wanted[3].value.length == strlen("{\"a\":4}"));
    for (size_t length = 0; length < strlen(text) - 1; length += 1) { /* cut anywhere */
        assert_int_equal(kelpie__json_members(text, length, wanted, 4), -1);
    }
    assert_int_equal(kelpie__json_members("{} x", 4, wanted, 4), -1);
    assert_int_equal(kelpie__json_members("[]", 2, wanted, 4), -1);
}

static void test_members_are_as_deep_as_any_text(void **state) {
    char text[2 * KELPIE_JSON_DEPTH_MAX + 16];
    struct kelpie_json_member wanted[] = {{.key = "a"}};
    kelpie__ignore(state != NULL);
    for (uint32_t inner = KELPIE_JSON_DEPTH_MAX - 1; inner <= KELPIE_JSON_DEPTH_MAX; inner += 1) {
        snprintf(text, sizeof(text), "{\"a\":%.*s%.*s}", (int)inner, "[[[[[[[[[[[[[[[[", (int)inner,
                 "]]]]]]]]]]]]]]]]");
        int expected = inner < KELPIE_JSON_DEPTH_MAX ? 0 : -1;
        assert_int_equal(kelpie__json_validate(text, strlen(text)), expected);
        assert_int_equal(kelpie__json_members(text, strlen(text), wanted, 1), expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_validate_nasty_texts_as_known),
        cmocka_unit_test(test_validate_damaged_texts_as_jansson),
        cmocka_unit_test(test_validate_cut_text_never_reads_beyond),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_find_takes_the_first_of_equal_keys),
        cmocka_unit_test(test_integers_are_exact_or_refused),
        cmocka_unit_test(test_string_resolves_escapes_or_leaves_out_alone),
        cmocka_unit_test(test_iterate_gives_members_in_order),
        cmocka_unit_test(test_writer_is_read_by_both),
        cmocka_unit_test(test_writer_stays_full_and_in_bounds),
        cmocka_unit_test(test_members_are_read_in_one_pass),
        cmocka_unit_test(test_members_are_as_deep_as_any_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
