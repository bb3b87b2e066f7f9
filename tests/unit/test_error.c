/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The error model. Goal: messages hold what they were given, are cut at a character, never beyond
 * their buffer; every code has its name and its properties.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/error.h"
#include "core/text.h"

static void test_fail_returns_the_code_and_names_the_errno(void **state) {
    (void)state;
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__fail(&error, KELPIE_E_IO, ENOENT, "open \"%s\"", "/x"), KELPIE_E_IO);
    assert_int_equal(error.code, KELPIE_E_IO);
    assert_int_equal(error.os_error, ENOENT);
    assert_string_equal(error.field, "");
    assert_string_equal(error.message, "open \"/x\": no such file or directory (ENOENT)");
    assert_int_equal(kelpie__fail(&error, KELPIE_E_IO, 4095, "x"), KELPIE_E_IO);
    assert_string_equal(error.message, "x: errno 4095");
    assert_int_equal(kelpie__fail(NULL, KELPIE_E_LIMIT, 0, "x"), KELPIE_E_LIMIT);
}

static void test_field_prefix_and_append(void **state) {
    (void)state;
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__fail_field(&error, KELPIE_E_CONFIG, "cpus", "%d is too many", 33),
                     KELPIE_E_CONFIG);
    assert_string_equal(error.field, "cpus");
    assert_int_equal(kelpie__fail_prefix(&error, "create \"%s\"", "a"), KELPIE_E_CONFIG);
    kelpie__fail_append(&error, " (at most %d)", 32);
    kelpie__fail_append(NULL, "nobody");
    assert_string_equal(error.message, "create \"a\": 33 is too many (at most 32)");
}

static bool is_utf8(const char *text) {
    size_t length = strlen(text);
    size_t at = 0;
    while (at < length) {
        size_t count = kelpie__text_utf8_length(text + at, length - at);
        if (count == 0) {
            return false;
        }
        at += count;
    }
    return true;
}

static void test_long_messages_are_cut_at_a_character(void **state) {
    (void)state;
    char text[4000];
    for (size_t shift = 0; shift < 4; shift += 1) {
        struct kelpie_error error = {0};
        memset(text, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof(text); i += 4) {
            memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        }
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, 0, "%s", text));
        assert_true(strlen(error.message) >= sizeof(error.message) - 4);
        assert_true(is_utf8(error.message));
        kelpie__ignore(kelpie__fail_prefix(&error, "%.499s", text));
        assert_true(is_utf8(error.message));
        kelpie__fail_append(&error, "%s", text);
        assert_true(is_utf8(error.message));
        error.message[1900] = '\0';
        kelpie__fail_append(&error, "%s", text + shift);
        assert_true(strlen(error.message) < sizeof(error.message));
    }
}

/* A path, a guest's words and a file's label are others' bytes; a message is UTF-8 all the same,
 * and tells a terminal nothing. */
static void test_messages_are_utf8_without_controls(void **state) {
    struct kelpie_error error;
    (void)state;
    kelpie__ignore(
        kelpie__fail(&error, KELPIE_E_IO, 0, "a\x1b[2J\xc3(\xc2\x9b\n\t\xc3\xa9\x7f%s", "\xff"));
    assert_string_equal(error.message, "a?[2J?(??\n\t\xc3\xa9?");
    kelpie__ignore(kelpie__fail_prefix(&error, "\x1b%c.", 0xe2));
    kelpie__fail_append(&error, "%c\xe2\x82\xac", 7);
    assert_string_equal(error.message, "??.: a?[2J?(??\n\t\xc3\xa9??\xe2\x82\xac");
}

static void test_every_code_has_a_name_of_its_own(void **state) {
    (void)state;
    for (int code = KELPIE_CODE_LAST; code <= 0; code += 1) {
        assert_true(kelpie__text_has_prefix(kelpie_code_name(code), "KELPIE_"));
        assert_string_not_equal(kelpie_code_name(code), "KELPIE_E_UNKNOWN");
        for (int other = KELPIE_CODE_LAST; other < code; other += 1) {
            assert_string_not_equal(kelpie_code_name(code), kelpie_code_name(other));
        }
    }
    assert_string_equal(kelpie_code_name(KELPIE_E_PROTOCOL), "KELPIE_E_PROTOCOL");
    assert_string_equal(kelpie_code_name(KELPIE_E_EXEC_DENIED), "KELPIE_E_EXEC_DENIED");
    assert_string_equal(kelpie_code_name(1), "KELPIE_E_UNKNOWN");
    assert_string_equal(kelpie_code_name(KELPIE_CODE_LAST - 1), "KELPIE_E_UNKNOWN");
    assert_string_equal(kelpie_code_name(INT32_MIN), "KELPIE_E_UNKNOWN");
}

static void test_properties_of_codes(void **state) {
    (void)state;
    for (int code = KELPIE_CODE_LAST; code <= 0; code += 1) {
        bool is_retriable = code == KELPIE_E_BOOT_TIMEOUT || code == KELPIE_E_EXEC_TIMEOUT ||
                            code == KELPIE_E_CRASHED || code == KELPIE_E_BUSY;
        bool is_recreated = code == KELPIE_E_SNAPSHOT_CORRUPTED || code == KELPIE_E_INTERNAL;
        assert_int_equal(kelpie_code_is_retriable(code), is_retriable);
        assert_int_equal(kelpie_code_requires_restart(code), code == KELPIE_E_CRASHED);
        assert_int_equal(kelpie_code_requires_recreate(code), is_recreated);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_returns_the_code_and_names_the_errno),
        cmocka_unit_test(test_field_prefix_and_append),
        cmocka_unit_test(test_long_messages_are_cut_at_a_character),
        cmocka_unit_test(test_messages_are_utf8_without_controls),
        cmocka_unit_test(test_every_code_has_a_name_of_its_own),
        cmocka_unit_test(test_properties_of_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
