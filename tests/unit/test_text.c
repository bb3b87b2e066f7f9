/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Bounded texts and the hash. Goal: nothing is written beyond a buffer, everything ends with a
 * zero, a cut is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/hash.h"
#include "core/text.h"

static void test_format_and_copy_tell_a_cut(void **state) {
    (void)state;
    for (size_t capacity = 1; capacity <= 8; capacity += 1) {
        char *text = test_malloc(capacity);
        assert_int_equal(kelpie__text_format(text, capacity, "%d-%s", 12, "ab"), capacity > 5);
        assert_int_equal(strlen(text), capacity > 5 ? 5 : capacity - 1);
        assert_int_equal(kelpie__text_copy(text, capacity, "12-ab"), capacity > 5);
        assert_memory_equal(text, "12-ab", strlen(text));
        test_free(text);
    }
}

/* What the C library makes of it, whole and cut. */
#define SAME_TEXT(...)                                                                             \
    do {                                                                                           \
        for (size_t capacity = 1; capacity < 64; capacity += 1) {                                  \
            char *text = test_malloc(capacity);                                                    \
            char wanted[64];                                                                       \
            int length = snprintf(wanted, capacity, __VA_ARGS__);                                  \
            assert_int_equal(kelpie__text_format(text, capacity, __VA_ARGS__),                     \
                             (size_t)length < capacity);                                           \
            assert_string_equal(text, wanted);                                                     \
            test_free(text);                                                                       \
        }                                                                                          \
    } while (false)

static void test_format_is_the_c_librarys(void **state) {
    (void)state;
    SAME_TEXT("plain %% %s|%s %c.", "abc", "", 'x');
    SAME_TEXT("%.*s|%.3s|%.9s|%.*s", 2, "abcd", "abcd", "abcd", -1, "all");
    SAME_TEXT("%d %d %d", 0, INT32_MIN, INT32_MAX);
    SAME_TEXT("%ld %lld", INT64_MIN, (long long)INT64_MAX);
    SAME_TEXT("%u %x %lu", 0u, UINT32_MAX, UINT64_MAX);
    SAME_TEXT("%llu %llx %zu", (unsigned long long)UINT64_MAX, 0xabcdefull, (size_t)7);
    SAME_TEXT("%02x %04x %016llx %03u %020llu", 5u, 0xfffffu, 0x1234ull, 1234u, 12ull);
    /* What only the C library does, also behind what has been done. */
    SAME_TEXT("%s %5d|%-4d|%+d|%#x", "first", 12, 3, 4, 5u);
    SAME_TEXT("%d %6s|%06d %.2d %X", 1, "ab", -5, 7, 0xabu);
    SAME_TEXT("%022u %05d %o", 9u, 100, 8u);
}

static void test_join_makes_one_slash_or_nothing(void **state) {
    (void)state;
    char text[8];
    assert_true(kelpie__text_join(text, sizeof(text), "/a", "b"));
    assert_string_equal(text, "/a/b");
    assert_true(kelpie__text_join(text, sizeof(text), "/", "b"));
    assert_string_equal(text, "/b");
    assert_true(kelpie__text_join(text, sizeof(text), "/abc", "de"));
    assert_false(kelpie__text_join(text, sizeof(text), "/abc", "def"));
    assert_string_equal(text, "");
}

static void test_hex_there_and_back(void **state) {
    (void)state;
    const uint8_t bytes[] = {0x00, 0x7f, 0xab, 0xff};
    uint8_t back[4] = {9, 9, 9, 9};
    char text[9];
    kelpie__text_hex(text, sizeof(text), bytes, sizeof(bytes));
    assert_string_equal(text, "007fabff");
    static const char *const bad[] = {"",         "007fabf",  "007fabff0",
                                      "007fabfg", "007fab f", "0x7fabff"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        assert_false(kelpie__text_unhex(bad[i], back, sizeof(back)));
        assert_int_equal(back[0], 9);
    }
    assert_true(kelpie__text_unhex("007FABff", back, sizeof(back)));
    assert_memory_equal(back, bytes, sizeof(bytes));
}

static void test_u64_is_all_digits_that_fit(void **state) {
    (void)state;
    uint64_t value = 5;
    static const char *const bad[] = {"",   " 1", "1 ", "+1", "-1", "1x", "18446744073709551616",
                                      "0x1"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        assert_false(kelpie__text_u64(bad[i], &value));
        assert_int_equal(value, 5);
    }
    assert_true(kelpie__text_u64("18446744073709551615", &value));
    assert_true(value == UINT64_MAX);
    assert_true(kelpie__text_u64("007", &value));
    assert_int_equal(value, 7);
}

/* Every sequence of up to three bytes, and four where it matters, against the definition by code
 * points. */
static void test_utf8_takes_exactly_the_code_points(void **state) {
    (void)state;
    size_t valid_count = 0;
    for (uint32_t point = 0; point < 0x110000; point += point < 0x10000 ? 1 : 97) {
        char text[4];
        size_t count = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
        static const uint8_t heads[] = {0, 0, 0xc0, 0xe0, 0xf0};
        for (size_t i = count - 1; i > 0; i -= 1) {
            text[i] = (char)(0x80 | ((point >> (6 * (count - 1 - i))) & 0x3f));
        }
        text[0] = (char)(heads[count] | (count == 1 ? point : point >> (6 * (count - 1))));
        bool is_surrogate = point >= 0xd800 && point < 0xe000;
        assert_int_equal(kelpie__text_utf8_length(text, count), is_surrogate ? 0 : count);
        assert_int_equal(kelpie__text_utf8_length(text, count - 1), 0);
    }
    for (uint32_t two = 0; two < 0x10000; two += 1) {
        const char text[2] = {(char)(two >> 8), (char)two};
        valid_count += kelpie__text_utf8_length(text, 2) == 2 ? 1 : 0;
    }
    assert_int_equal(valid_count, 0x800 - 0x80);
}

/* Values from the reference implementation of FNV-1a, 128 bits. */
static void test_hash_is_fnv_1a(void **state) {
    (void)state;
    struct kelpie_hash hash;
    char hex[KELPIE_HASH_CHARACTERS + 1];
    kelpie__hash_init(&hash);
    kelpie__hash_hex(&hash, hex);
    assert_string_equal(hex, "6c62272e07bb014262b821756295c58d");
    kelpie__hash_bytes(&hash, "a", 1);
    kelpie__hash_hex(&hash, hex);
    assert_string_equal(hex, "d228cb696f1a8caf78912b704e4a8964");
    kelpie__hash_init(&hash);
    kelpie__hash_bytes(&hash, "foobar", 6);
    kelpie__hash_hex(&hash, hex);
    assert_string_equal(hex, "343e1662793c64bf6f0d3597ba446f18");
}

/* Every byte at every place of texts as long as some words and a rest. */
static void test_plain_length_ends_at_the_first_byte_that_is_not(void **state) {
    (void)state;
    char text[20];
    for (size_t count = 0; count <= sizeof(text); count += 1) {
        for (size_t at = 0; at < count; at += 1) {
            for (unsigned byte = 0; byte < 256; byte += 1) {
                bool is_plain = byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
                memset(text, 'x', sizeof(text));
                text[at] = (char)byte;
                assert_int_equal(kelpie__text_plain_length(text, count), is_plain ? count : at);
            }
        }
    }
}

static void test_word_holds_no_byte_from_beyond(void **state) {
    (void)state;
    const char text[] = "\x81\x82\x83\x84\x85\x86\x87\x88\x89";
    uint64_t expected = 0;
    for (size_t count = 0; count <= 8; count += 1) {
        assert_true(kelpie__text_word(text, count) == expected);
        expected |= count < 8 ? (uint64_t)(uint8_t)text[count] << (8 * count) : 0;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_and_copy_tell_a_cut),
        cmocka_unit_test(test_format_is_the_c_librarys),
        cmocka_unit_test(test_join_makes_one_slash_or_nothing),
        cmocka_unit_test(test_hex_there_and_back),
        cmocka_unit_test(test_u64_is_all_digits_that_fit),
        cmocka_unit_test(test_utf8_takes_exactly_the_code_points),
        cmocka_unit_test(test_hash_is_fnv_1a),
        cmocka_unit_test(test_plain_length_ends_at_the_first_byte_that_is_not),
        cmocka_unit_test(test_word_holds_no_byte_from_beyond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
