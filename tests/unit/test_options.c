/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The options of our own programs. Goal: whoever starts one by hand is told what is wrong, with the
 * option and its value, and nothing relative gets in. Method: one whole set, changed in one place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/options.h"
#include "core/text.h"

#define WORD_COUNT 7

struct words {
    char word[WORD_COUNT][24];
};

static const struct words whole = {{"program", "--dir", "/a", "--name", "b", "--text", ""}};

static int read_words(const struct words *words, int count, struct kelpie_error *error) {
    struct words copy = *words;
    char *argv[WORD_COUNT + 1] = {NULL};
    const char *directory = NULL;
    const char *name = NULL;
    const char *text = NULL;
    const struct kelpie_option known[] = {
        {"--dir", &directory, KELPIE_OPTION_PATH},
        {"--name", &name, KELPIE_OPTION_NAME},
        {"--text", &text, KELPIE_OPTION_TEXT},
    };
    for (int i = 0; i < count; i += 1) {
        argv[i] = copy.word[i];
    }
    int status = kelpie__options_read(known, 3, count, argv, "its parent", error);
    if (status == 0) {
        assert_string_equal(directory, "/a");
        assert_string_equal(name, "b");
        assert_string_equal(text, "");
    }
    return status;
}

static void assert_refused(const struct words *words, int count, const char *message) {
    struct kelpie_error error = {0};
    assert_int_equal(read_words(words, count, &error), KELPIE_E_MISUSE);
    assert_string_equal(error.message, message);
}

static void test_a_whole_set_is_read_in_any_order(void **state) {
    (void)state;
    const struct words turned = {{"program", "--text", "", "--name", "b", "--dir", "/a"}};
    assert_int_equal(read_words(&whole, WORD_COUNT, NULL), 0);
    assert_int_equal(read_words(&turned, WORD_COUNT, NULL), 0);
}

static void test_what_is_missing_or_empty_is_named(void **state) {
    (void)state;
    struct words words = whole;
    assert_refused(&whole, 5,
                   "--text is missing; this program is started by its parent, not by hand");
    words.word[4][0] = '\0';
    assert_refused(&words, WORD_COUNT,
                   "--name is missing; this program is started by its parent, not by hand");
}

static void test_a_relative_path_is_refused(void **state) {
    (void)state;
    struct words words = whole;
    kelpie__ignore(kelpie__text_copy(words.word[2], sizeof(words.word[2]), "a/b"));
    assert_refused(&words, WORD_COUNT,
                   "--dir is \"a/b\", which is no absolute path; this program is started by its "
                   "parent, not by hand");
}

static void test_what_is_unknown_or_has_no_value_is_named(void **state) {
    (void)state;
    struct words words = whole;
    kelpie__ignore(kelpie__text_copy(words.word[5], sizeof(words.word[5]), "--tent"));
    assert_refused(&words, WORD_COUNT, "unknown argument \"--tent\"");
    assert_refused(&whole, WORD_COUNT - 1, "there is no value for \"--text\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_set_is_read_in_any_order),
        cmocka_unit_test(test_what_is_missing_or_empty_is_named),
        cmocka_unit_test(test_a_relative_path_is_refused),
        cmocka_unit_test(test_what_is_unknown_or_has_no_value_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
