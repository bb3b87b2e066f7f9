/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * core/config: every wrong value is told at once, with its field, the value, the limit and a way
 * out; config.json brings back exactly what was written, or says what is wrong with it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/config.h"

static struct kelpie_config_values values;
static struct kelpie_error problems[KELPIE_CONFIG_PROBLEM_MAX];
static char text[KELPIE_CONFIG_JSON_BYTES_MAX];

static void set_identity(void) {
    memset(values.id, 'a', sizeof(values.id) - 1);
    snprintf(values.name, sizeof(values.name), "box");
    values.created_ms = 1700000000123;
}

static int reset(void **state) {
    assert_non_null(state);
    memset(&values, 0, sizeof(values)); /* what a test left behind its texts */
    kelpie__config_defaults(&values);
    set_identity();
    return 0;
}

static void assert_problem(const char *field, const char *message) {
    uint32_t count = kelpie__config_problems(&values, problems);
    assert_int_equal(count, 1);
    assert_int_equal(problems[0].code, KELPIE_E_CONFIG);
    assert_string_equal(problems[0].field, field);
    if (strcmp(problems[0].message, message) != 0) {
        fail_msg("\"%s\" instead of \"%s\"", problems[0].message, message);
    }
}

static void test_defaults_are_valid(void **state) {
    assert_non_null(state);
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
    assert_int_equal(values.cpus, 2);
    assert_int_equal(values.memory_mib, 512);
}

static void test_memory_out_of_range_names_value_limit_and_way_out(void **state) {
    assert_non_null(state);
    values.memory_mib = 64;
    assert_problem("memory_mib",
                   "memory_mib: 64 is below the minimum of 128 MiB; give 128 to 16384");
    values.memory_mib = 99999999;
    assert_problem("memory_mib",
                   "memory_mib: 99999999 is above the maximum of 16384 MiB; give 128 to 16384");
    values.memory_mib = 128;
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
    values.memory_mib = 16384;
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
}

static void test_cpus_out_of_range(void **state) {
    assert_non_null(state);
    values.cpus = 0;
    assert_problem("cpus", "cpus: 0 is below the minimum of 1; give 1 to 32");
    values.cpus = 33;
    assert_problem("cpus", "cpus: 33 is above the maximum of 32; give 1 to 32");
}

static void test_all_problems_are_told_at_once(void **state) {
    assert_non_null(state);
    values.cpus = 0;
    values.memory_mib = 1;
    values.boot_timeout_ms = 0;
    values.disk_size_mib = 1;
    values.is_read_only = true;
    values.accelerator = (enum kelpie_accelerator)7;
    values.lifetime = (enum kelpie_lifetime)9;
    snprintf(values.root, sizeof(values.root), "/\xff");
    snprintf(values.kernel, sizeof(values.kernel), "/\xc3");
    snprintf(values.working_directory, sizeof(values.working_directory), "work\x80");
    kelpie__config_add_environment(&values, "=x\xff");
    values.too_long_field = "root";
    uint32_t count = kelpie__config_problems(&values, problems);
    const char *const fields[] = {"cpus",        "memory_mib", "boot_timeout_ms",
                                  "accelerator", "lifetime",   "disk_size_mib",
                                  "read_only",   "root",       "kernel",
                                  "environment", "root",       "working_directory"};
    assert_true(count >= KELPIE_ARRAY_COUNT(fields));
    assert_true(count + 3 <= KELPIE_CONFIG_PROBLEM_MAX); /* the library adds three of its own */
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fields); i += 1) {
        bool is_told = false;
        for (uint32_t k = 0; k < count; k += 1) {
            is_told = is_told || strcmp(problems[k].field, fields[i]) == 0;
        }
        if (!is_told) {
            fail_msg("%s is not told", fields[i]);
        }
    }
}

static void test_texts_that_do_not_fit_are_problems(void **state) {
    static char path[KELPIE_PATH_BYTES_MAX + 10];
    assert_non_null(state);
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    kelpie__config_set_text(&values, values.root, sizeof(values.root), "root", path);
    assert_problem("root", "root: longer than the limit of 4096 bytes");
}

static void test_environment_has_limits_and_a_form(void **state) {
    assert_non_null(state);
    kelpie__config_add_environment(&values, "NAME");
    assert_problem("environment", "environment: \"NAME\" has no name and value; write NAME=value");
    kelpie__config_defaults(&values);
    for (unsigned i = 0; i < KELPIE_ENVIRONMENT_MAX; i += 1) {
        kelpie__config_add_environment(&values, "A=1");
    }
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
    kelpie__config_add_environment(&values, "A=1");
    assert_int_equal(kelpie__config_problems(&values, problems), 1);
    assert_string_equal(problems[0].field, "environment");
}

/* What is wrong with one share, or with the last of several. */
static void assert_share(int code, const char *says) {
    uint32_t count = kelpie__config_problems(&values, problems);
    assert_int_equal(count, 1);
    assert_int_equal(problems[0].code, code);
    assert_string_equal(problems[0].field, "share");
    if (strstr(problems[0].message, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", problems[0].message, says);
    }
    kelpie__config_defaults(&values);
}

static void test_shares_each_have_their_message(void **state) {
    static const struct {
        const char *guest;
        const char *says;
    } guests[] = {
        {"", "absolute"},
        {"work", "\"work\" is no place"},
        {"/", "other than /"},
        {"//", "other than /"},
        {"/a/../b", "empty, . or .."},
        {"/a/.", "empty, . or .."},
        {"/a//b", "empty, . or .."},
        {"/proc", "the guest's own"},
        {"/dev/x", "the guest's own"},
        {"/sys", "the guest's own"},
        {"/.kelpie/root", "the guest's own"},
    };
    char tag[KELPIE_SHARE_TAG_BYTES_MAX + 2];
    char guest[KELPIE_SHARE_GUEST_BYTES_MAX + 2];
    assert_non_null(state);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(guests); i += 1) {
        kelpie__config_add_share(&values, "/h", guests[i].guest, NULL, false);
        assert_share(KELPIE_E_CONFIG, guests[i].says);
    }
    memset(tag, 't', sizeof(tag) - 1);
    tag[sizeof(tag) - 1] = '\0';
    kelpie__config_add_share(&values, "/h", "/a", tag, false);
    assert_share(KELPIE_E_CONFIG, "has 37 bytes, the limit is 36");
    kelpie__config_add_share(&values, "/h", "/a", "a:b", false);
    assert_share(KELPIE_E_CONFIG, "\"a:b\" is no tag");
    memset(guest, 'g', sizeof(guest) - 1);
    guest[0] = '/';
    guest[sizeof(guest) - 1] = '\0';
    kelpie__config_add_share(&values, "/h", guest, NULL, false);
    assert_share(KELPIE_E_CONFIG, "1025 bytes is above the maximum of 1024");
    kelpie__config_add_share(&values, "", "/a", NULL, false);
    assert_share(KELPIE_E_CONFIG, "a host path of 0 bytes");
    kelpie__config_add_share(&values, "/\xff", "/a", NULL, false);
    assert_share(KELPIE_E_CONFIG, "not UTF-8");
    tag[KELPIE_SHARE_TAG_BYTES_MAX] = '\0';
    kelpie__config_add_share(&values, "/h", "/processes/", tag, true);
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
}

static void test_shares_against_each_other(void **state) {
    assert_non_null(state);
    kelpie__config_add_share(&values, "/h", "/a", NULL, false);
    kelpie__config_add_share(&values, "/h", "/ab", NULL, true); /* the same directory twice */
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
    kelpie__config_add_share(&values, "/i", "/a/b", NULL, false);
    assert_share(KELPIE_E_CONFIG, "\"/a\" and \"/a/b\"");
    kelpie__config_add_share(&values, "/h", "/a/b/", NULL, false);
    kelpie__config_add_share(&values, "/i", "/a", NULL, false);
    assert_share(KELPIE_E_CONFIG, "in one another");
    kelpie__config_add_share(&values, "/h", "/a", "share1", false);
    kelpie__config_add_share(&values, "/i", "/b", NULL, false); /* which is made to be that */
    assert_share(KELPIE_E_CONFIG, "\"share1\" is the tag of two");
}

static void test_shares_have_limits_and_no_snapshots(void **state) {
    static char path[KELPIE_PATH_BYTES_MAX + 1];
    char guest[16];
    assert_non_null(state);
    for (unsigned i = 0; i <= KELPIE_SHARE_COUNT_MAX; i += 1) {
        snprintf(guest, sizeof(guest), "/g%u", i);
        kelpie__config_add_share(&values, "/h", guest, NULL, false);
        if (i + 1 == KELPIE_SHARE_COUNT_MAX) {
            assert_int_equal(kelpie__config_problems(&values, problems), 0);
        }
    }
    assert_share(KELPIE_E_TOO_MANY_SHARES, "17 directories are above the maximum of 16");
    memset(path, 'p', sizeof(path) - 1);
    path[0] = '/';
    for (unsigned i = 0; i < 3; i += 1) {
        snprintf(guest, sizeof(guest), "/g%u", i);
        kelpie__config_add_share(&values, path, guest, NULL, false);
    }
    assert_share(KELPIE_E_CONFIG, "longer than the limit of 12288 bytes");
    kelpie__config_add_share(&values, "/h", "/a", NULL, false);
    values.backend = KELPIE_BACKEND_QEMU;
    assert_share(KELPIE_E_UNSUPPORTED, "virtiofsd");
    kelpie__config_add_share(&values, "/h", "/a", NULL, false);
    snprintf(values.snapshot, sizeof(values.snapshot), "s");
    assert_share(KELPIE_E_UNSUPPORTED, "made from a snapshot");
}

/* A file that was written before there were shares has none. */
static void test_shares_in_files(void **state) {
    static struct kelpie_config_values back;
    struct kelpie_error error = {0};
    assert_non_null(state);
    int64_t length = kelpie__config_write(&values, text, sizeof(text));
    assert_true(length > 0);
    char *shares = strstr(text, ",\"shares\":[]}");
    assert_non_null(shares);
    memcpy(shares, "}", 2);
    assert_int_equal(kelpie__config_read(text, strlen(text), &back, &error), 0);
    assert_int_equal(back.share_count, 0);
    memcpy(shares, ",\"shares\":[7]}", sizeof(",\"shares\":[7]}"));
    assert_int_equal(kelpie__config_read(text, strlen(text), &back, &error), KELPIE_E_IO);
}

static void assert_name(const char *name, const char *says) {
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__config_check_name(name, &error), KELPIE_E_CONFIG);
    assert_string_equal(error.field, "name");
    if (strstr(error.message, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    }
}

static void test_names_each_have_their_message(void **state) {
    char name[KELPIE_NAME_BYTES_MAX + 2];
    assert_non_null(state);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_name("", "empty");
    assert_name(name, "65 characters, the limit is 64");
    assert_name("a/b", "'/' at position 2");
    assert_name("..", "'.' at position 1");
    assert_name("Box", "'B' at position 1");
    assert_name("a\nb", "position 2");
    name[KELPIE_NAME_BYTES_MAX] = '\0';
    assert_int_equal(kelpie__config_check_name(name, NULL), 0);
    assert_int_equal(kelpie__config_check_name("0.a_b-c", NULL), 0);
}

static void test_json_there_and_back(void **state) {
    static struct kelpie_config_values back;
    struct kelpie_error error = {0};
    assert_non_null(state);
    values.cpus = 32;
    values.memory_mib = 1000;
    values.disk_size_mib = 64;
    values.is_ephemeral = true;
    values.allows_overcommit = true;
    values.accelerator = KELPIE_ACCELERATOR_KVM;
    values.lifetime = KELPIE_LIFETIME_DETACHED;
    snprintf(values.root, sizeof(values.root), "/a \"quoted\"\n\xc3\xa4");
    snprintf(values.kernel, sizeof(values.kernel), "/k");
    snprintf(values.working_directory, sizeof(values.working_directory), "/w");
    kelpie__config_add_environment(&values, "A=1\ttab");
    kelpie__config_add_environment(&values, "B=");
    kelpie__config_add_share(&values, "/h \"quoted\"\n", "/g", NULL, true);
    kelpie__config_add_share(&values, "/i", "/j/", "tag_2", false);
    int64_t length = kelpie__config_write(&values, text, sizeof(text));
    assert_true(length > 0);
    assert_int_equal(kelpie__config_read(text, (size_t)length, &back, &error), 0);
    assert_memory_equal(&back, &values, sizeof(back));
}

static void test_a_copy_says_the_same(void **state) {
    static struct kelpie_config_values copy;
    static char copied[sizeof(text)];
    assert_non_null(state);
    memset(&copy, 0xa5, sizeof(copy));
    snprintf(values.root, sizeof(values.root), "/r");
    snprintf(values.kernel, sizeof(values.kernel), "/k");
    snprintf(values.working_directory, sizeof(values.working_directory), "/w");
    kelpie__config_add_environment(&values, "A=1");
    kelpie__config_add_environment(&values, "B=2");
    kelpie__config_add_share(&values, "/h", "/g", "tag", true);
    kelpie__config_copy(&copy, &values);
    int64_t length = kelpie__config_write(&values, text, sizeof(text));
    assert_true(length > 0);
    assert_int_equal(kelpie__config_write(&copy, copied, sizeof(copied)), length);
    assert_string_equal(copied, text);
}

static void test_largest_configuration_fits_its_file(void **state) {
    static char path[KELPIE_PATH_BYTES_MAX + 1];
    static char assignment[KELPIE_ENVIRONMENT_BYTES_MAX];
    assert_non_null(state);
    memset(assignment, '\x01', sizeof(assignment) - 1); /* six bytes each in JSON */
    assignment[0] = 'A';
    assignment[1] = '=';
    kelpie__config_add_environment(&values, assignment);
    char *const paths[] = {values.root, values.kernel, values.working_directory};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(paths); i += 1) {
        memset(paths[i], '\x01', KELPIE_PATH_BYTES_MAX);
        paths[i][0] = '/';
    }
    memset(path, '\x01', KELPIE_PATH_BYTES_MAX);
    kelpie__config_add_share(&values, path, "/a", NULL, false);
    kelpie__config_add_share(&values, path, "/b", NULL, false);
    assert_int_equal(kelpie__config_problems(&values, problems), 0);
    assert_true(kelpie__config_write(&values, text, sizeof(text)) > 0);
}

static void assert_unreadable(const char *json, int code, const char *says) {
    static struct kelpie_config_values back;
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__config_read(json, strlen(json), &back, &error), code);
    if (strstr(error.message, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    }
}

static void test_damaged_and_newer_files_are_refused(void **state) {
    assert_non_null(state);
    assert_unreadable("", KELPIE_E_IO, "damaged");
    assert_unreadable("{}", KELPIE_E_IO, "no format");
    assert_unreadable("{\"format\":2}", KELPIE_E_UNSUPPORTED, "format 2, this version knows 1");
    assert_unreadable("{\"format\":1,\"cpus\":2}", KELPIE_E_IO, "damaged");
    int64_t length = kelpie__config_write(&values, text, sizeof(text));
    assert_true(length > 0);
    char *cpus = strstr(text, "\"cpus\":2");
    assert_non_null(cpus);
    cpus[strlen("\"cpus\":")] = '0';
    assert_unreadable(text, KELPIE_E_IO, "cpus: 0 is below");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_defaults_are_valid, reset),
        cmocka_unit_test_setup(test_memory_out_of_range_names_value_limit_and_way_out, reset),
        cmocka_unit_test_setup(test_cpus_out_of_range, reset),
        cmocka_unit_test_setup(test_all_problems_are_told_at_once, reset),
        cmocka_unit_test_setup(test_texts_that_do_not_fit_are_problems, reset),
        cmocka_unit_test_setup(test_environment_has_limits_and_a_form, reset),
        cmocka_unit_test_setup(test_shares_each_have_their_message, reset),
        cmocka_unit_test_setup(test_shares_against_each_other, reset),
        cmocka_unit_test_setup(test_shares_have_limits_and_no_snapshots, reset),
        cmocka_unit_test_setup(test_shares_in_files, reset),
        cmocka_unit_test_setup(test_names_each_have_their_message, reset),
        cmocka_unit_test_setup(test_json_there_and_back, reset),
        cmocka_unit_test_setup(test_a_copy_says_the_same, reset),
        cmocka_unit_test_setup(test_largest_configuration_fits_its_file, reset),
        cmocka_unit_test_setup(test_damaged_and_newer_files_are_refused, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
