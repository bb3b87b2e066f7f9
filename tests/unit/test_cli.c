/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The command's words: values as people write them, and what a mistyped one was meant to be. What
 * it does with guests is in tests/cli.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"

static void test_duration_with_and_without_unit(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"5", 5000},    {"5s", 5000},    {"500ms", 500},
                {"2m", 120000}, {"1h", 3600000}, {"1d", 86400000},
                {"0", 0},       {"0ms", 0},      {"none", KELPIE_TIMEOUT_NONE},
                {"007s", 7000}};
    static const char *const bad[] = {"",
                                      "s",
                                      "-1",
                                      "1.5s",
                                      "5 s",
                                      "5ss",
                                      "5S",
                                      "+5",
                                      "0x5",
                                      "99999999999999999999",
                                      "ms5",
                                      "none ",
                                      "18446744073709551615"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(good); i += 1) {
        uint64_t ms = 1;
        assert_int_equal(kelpie__cli_duration(good[i].text, &ms), KELPIE_CLI_VALUE_GOOD);
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        uint64_t ms = 1;
        assert_int_equal(kelpie__cli_duration(bad[i], &ms),
                         strspn(bad[i], "0123456789") == strlen(bad[i]) && bad[i][0] != '\0'
                             ? KELPIE_CLI_VALUE_TOO_LARGE
                             : KELPIE_CLI_VALUE_NONE);
        assert_int_equal(ms, 1);
    }
}

static void test_size_with_and_without_unit(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t mib;
    } good[] = {{"512", 512}, {"512M", 512}, {"1G", 1024}, {"2g", 2048}, {"1T", 1048576}, {"0", 0}};
    static const char *const bad[] = {"", "G", "1K", "1GG", "1.5G", "-512"};
    uint64_t untouched = 1;
    assert_int_equal(kelpie__cli_size_mib("18446744073709551615G", &untouched),
                     KELPIE_CLI_VALUE_TOO_LARGE);
    assert_int_equal(kelpie__cli_size_mib("18446744073709551616", &untouched),
                     KELPIE_CLI_VALUE_TOO_LARGE);
    assert_int_equal(untouched, 1);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(good); i += 1) {
        uint64_t mib = 1;
        assert_int_equal(kelpie__cli_size_mib(good[i].text, &mib), KELPIE_CLI_VALUE_GOOD);
        assert_int_equal(mib, good[i].mib);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        uint64_t mib = 1;
        assert_int_equal(kelpie__cli_size_mib(bad[i], &mib), KELPIE_CLI_VALUE_NONE);
        assert_int_equal(mib, 1);
    }
}

/* The nearest of three words to `word`, or "". */
static const char *suggest(const char *word) {
    struct kelpie_cli_suggestion suggestion;
    kelpie__cli_suggest_begin(&suggestion, word, strlen(word));
    kelpie__cli_suggest_offer(&suggestion, "memory");
    kelpie__cli_suggest_offer(&suggestion, "env");
    kelpie__cli_suggest_offer(&suggestion, "boot-timeout");
    return suggestion.nearest == NULL ? "" : suggestion.nearest;
}

static void test_suggestion_is_near_or_none(void **state) {
    (void)state;
    assert_string_equal(suggest("memry"), "memory");      /* a letter is missing */
    assert_string_equal(suggest("memoryy"), "memory");    /* one too many */
    assert_string_equal(suggest("nemory"), "memory");     /* a wrong one */
    assert_string_equal(suggest("mmeory"), "memory");     /* neighbours swapped */
    assert_string_equal(suggest("boot"), "boot-timeout"); /* a beginning */
    assert_string_equal(suggest("evn"), "env");
    assert_string_equal(suggest("frobnicate"), "");
    assert_string_equal(suggest(""), "");
    assert_string_equal(suggest("xy"), "");
    assert_string_equal(suggest("a-word-that-is-longer-than-any-option-ever-is"), "");
}

static void test_age_takes_the_largest_unit(void **state) {
    (void)state;
    char text[32];
    static const struct {
        int64_t ms;
        const char *text;
    } ages[] = {{-5, "0 s"},      {0, "0 s"},       {1000, "1 s"},    {59999, "59 s"},
                {60000, "1 min"}, {7200000, "2 h"}, {86400000, "1 d"}};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(ages); i += 1) {
        kelpie__cli_age(ages[i].ms, text, sizeof(text));
        assert_string_equal(text, ages[i].text);
    }
}

/* A path may hold any byte; JSON makes six of some. */
static void test_info_of_control_characters_has_room(void **state) {
    static struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    static char text[KELPIE_CLI_INFO_BYTES];
    (void)state;
    memset(info.root, 1, sizeof(info.root) - 1);
    memset(info.kernel, 1, sizeof(info.kernel) - 1);
    memset(info.reason, 1, sizeof(info.reason) - 1);
    memset(info.accelerator_reason, 1, sizeof(info.accelerator_reason) - 1);
    assert_true(kelpie__cli_write_info(&info, NULL, text, sizeof(text)) > 6 * 8192);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_duration_with_and_without_unit),
        cmocka_unit_test(test_size_with_and_without_unit),
        cmocka_unit_test(test_suggestion_is_near_or_none),
        cmocka_unit_test(test_age_takes_the_largest_unit),
        cmocka_unit_test(test_info_of_control_characters_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
