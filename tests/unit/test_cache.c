/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/cache over real files: which kernel is taken, what is said about one that cannot be, what
 * kelpie-pack would be asked to do, and that every input is part of its key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/os.h"
#include "store/cache.h"

static char test_directory[] = "/tmp/kelpie-test-cache-XXXXXX";
static char test_libexec[64];
static char test_places[64];
static struct kelpie_os *test_os;

static const char *in_test(const char *name) {
    static char paths[4][256];
    static unsigned turn;
    turn = (turn + 1) % 4;
    snprintf(paths[turn], sizeof(paths[turn]), "%s/%s", test_directory, name);
    return paths[turn];
}

static void write_file(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static struct kelpie_cache cache_of_test(void) {
    return (struct kelpie_cache){
        .os = test_os, .cache_path = test_places, .libexec_path = test_libexec};
}

/* A bzImage's first bytes, with a release. */
static void make_bzimage(const char *path, const char *release, uint8_t load_flags) {
    uint8_t bytes[0x600] = {0};
    memcpy(bytes + 0x202, "HdrS", 4);
    bytes[0x20e] = 0x00;
    bytes[0x20f] = 0x02; /* the text is at 0x200 + 0x200 */
    bytes[0x236] = load_flags;
    snprintf((char *)bytes + 0x400, 128, "%s (somebody@somewhere) #1 SMP", release);
    write_file(path, bytes, sizeof(bytes));
}

static void make_elf(const char *path, uint8_t machine) {
    uint8_t bytes[0x400] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    bytes[18] = machine;
    write_file(path, bytes, sizeof(bytes));
}

/* One segment that ends one byte behind the file. */
static void make_cut_elf(const char *path) {
    uint8_t bytes[0x400] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    bytes[18] = 62;
    bytes[32] = 64;     /* where the segments' headers are */
    bytes[56] = 1;      /* how many */
    bytes[64 + 8] = 1;  /* offset */
    bytes[64 + 33] = 4; /* 0x400 bytes */
    write_file(path, bytes, sizeof(bytes));
}

static void assert_refused(const char *path, const char *says) {
    const struct kelpie_cache cache = cache_of_test();
    struct kelpie_cache_kernel kernel = {.path = "untouched"};
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__cache_find_kernel(&cache, path, &kernel, &error), KELPIE_E_CONFIG);
    assert_string_equal(error.field, "kernel");
    assert_non_null(strstr(error.message, says));
    assert_non_null(strstr(error.message, path));
    assert_string_equal(kernel.path, "untouched");
}

static void test_kernel_that_cannot_be_used_is_refused(void **state) {
    assert_non_null(state);
    assert_refused(in_test("missing"), "no such file");
    assert_refused(test_directory, "not a file");
    write_file(in_test("short"), "MZ", 2);
    assert_refused(in_test("short"), "too short");
    uint8_t bytes[0x400] = {0};
    write_file(in_test("zeros"), bytes, sizeof(bytes));
    assert_refused(in_test("zeros"), "no Linux kernel");
    memcpy(bytes + 56, "ARM\x64", 4);
    write_file(in_test("arm"), bytes, sizeof(bytes));
    assert_refused(in_test("arm"), "another machine (aarch64)");
    make_elf(in_test("elf-arm"), 183);
    assert_refused(in_test("elf-arm"), "another machine (aarch64)");
    make_cut_elf(in_test("elf-cut"));
    assert_refused(in_test("elf-cut"), "cut off");
    make_bzimage(in_test("bz32"), "1.0", 0);
    assert_refused(in_test("bz32"), "another machine (i386)");
}

static void test_kernel_is_found_by_path_then_variable_then_own(void **state) {
    const struct kelpie_cache cache = cache_of_test();
    struct kelpie_cache_kernel kernel;
    assert_non_null(state);
    make_bzimage(in_test("bzImage"), "6.1.0-test", 1);
    make_elf(in_test("vmlinux-6.9"), 62);
    assert_int_equal(setenv("KELPIE_KERNEL", in_test("vmlinux-6.9"), 1), 0);
    assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("bzImage"), &kernel, NULL), 0);
    assert_string_equal(kernel.release, "6.1.0-test");
    assert_false(kernel.is_elf || kernel.is_own);
    assert_int_equal(kelpie__cache_find_kernel(&cache, "", &kernel, NULL), 0);
    assert_string_equal(kernel.path, in_test("vmlinux-6.9"));
    assert_string_equal(kernel.release, "6.9");
    assert_true(kernel.is_elf && !kernel.is_own);
    assert_int_equal(unsetenv("KELPIE_KERNEL"), 0);
    make_elf(in_test("libexec/vmlinux"), 62);
    assert_int_equal(kelpie__cache_find_kernel(&cache, NULL, &kernel, NULL), 0);
    assert_string_equal(kernel.path, in_test("libexec/vmlinux"));
    assert_true(kernel.is_elf && kernel.is_own);
    assert_int_equal(unlink(in_test("libexec/vmlinux")), 0);
}

/* The mark may lie over the border of two pieces that are read, and at the very end. */
static void test_kernel_of_another_name_is_known_by_its_driver(void **state) {
    static const size_t places[] = {0x400, 0x2000 - 7, 0x6000 - 19};
    const struct kelpie_cache cache = cache_of_test();
    uint8_t bytes[0x6000];
    assert_non_null(state);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i += 1) {
        struct kelpie_cache_kernel kernel;
        memset(bytes, 0, sizeof(bytes));
        memcpy(bytes, (const uint8_t[]){0x7f, 'E', 'L', 'F', 2, 1, 1}, 7);
        bytes[18] = 62;
        memcpy(bytes + places[i], "virtio-mmio-cmdline", 19);
        write_file(in_test("marked"), bytes, sizeof(bytes));
        assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("marked"), &kernel, NULL), 0);
        assert_true(kernel.is_elf && kernel.is_own);
        bytes[places[i] + 18] = 'f';
        write_file(in_test("marked"), bytes, sizeof(bytes));
        assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("marked"), &kernel, NULL), 0);
        assert_true(kernel.is_elf && !kernel.is_own);
    }
}

static void assert_arguments(const struct kelpie_cache_item *item, const char *first, ...) {
    va_list arguments;
    size_t count = 1;
    assert_string_equal(item->arguments[0], in_test("libexec/kelpie-pack"));
    va_start(arguments, first);
    for (const char *text = first; text != NULL; text = va_arg(arguments, const char *)) {
        assert_string_equal(item->arguments[count], text);
        count += 1;
    }
    va_end(arguments);
    assert_null(item->arguments[count]);
}

static void test_plans_say_what_to_run(void **state) {
    const struct kelpie_cache cache = cache_of_test();
    struct kelpie_cache_kernel kernel;
    struct kelpie_cache_item item;
    assert_non_null(state);
    make_bzimage(in_test("bzImage"), "6.1.0-test", 1);
    assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("bzImage"), &kernel, NULL), 0);
    assert_int_equal(kelpie__cache_plan_kernel(&cache, &kernel, &item, NULL), 0);
    assert_false(item.is_ready);
    assert_arguments(&item, "kernel", in_test("bzImage"), item.path, NULL);
    assert_int_equal(mkdir(in_test("cache"), 0700), 0);
    assert_int_equal(mkdir(in_test("cache/kernels"), 0700), 0);
    write_file(item.path, "x", 1);
    assert_int_equal(kelpie__cache_plan_kernel(&cache, &kernel, &item, NULL), 0);
    assert_true(item.is_ready);
    assert_int_equal(kelpie__cache_plan_root(&cache, "/some/root", &item, NULL), 0);
    assert_arguments(&item, "root", "/some/root", in_test("cache/roots"), NULL);
    assert_int_equal(kelpie__cache_plan_identify(&cache, "/some/image", &item, NULL), 0);
    assert_arguments(&item, "identify", "/some/image", NULL);
    assert_int_equal(kelpie__cache_plan_disk(&cache, 512, in_test("disk"), &item, NULL), 0);
    assert_arguments(&item, "disk", "512", in_test("disk"), NULL);
    assert_false(item.is_ready);
    make_elf(in_test("vmlinux"), 62);
    assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("vmlinux"), &kernel, NULL), 0);
    assert_int_equal(kelpie__cache_plan_kernel(&cache, &kernel, &item, NULL), 0);
    assert_true(item.is_ready);
    assert_string_equal(item.path, in_test("vmlinux"));
}

static void test_initramfs_key_follows_its_inputs(void **state) {
    const struct kelpie_cache cache = cache_of_test();
    struct kelpie_cache_kernel kernel;
    struct kelpie_cache_item item;
    struct kelpie_error error = {0};
    char first[512];
    assert_non_null(state);
    if (access("/usr/bin/busybox", R_OK) < 0) {
        skip();
    }
    make_elf(in_test("vmlinux"), 62);
    assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("vmlinux"), &kernel, NULL), 0);
    assert_int_equal(kelpie__cache_plan_initramfs(&cache, &kernel, &item, NULL), 0);
    assert_arguments(&item, "initramfs", "--agent", in_test("libexec/kelpie-agent"), "--busybox",
                     "/usr/bin/busybox", item.path, NULL);
    snprintf(first, sizeof(first), "%.500s", item.path);
    assert_int_equal(kelpie__cache_plan_initramfs(&cache, &kernel, &item, NULL), 0);
    assert_string_equal(item.path, first);
    write_file(in_test("libexec/kelpie-agent"), "newer", 5);
    assert_int_equal(kelpie__cache_plan_initramfs(&cache, &kernel, &item, NULL), 0);
    assert_string_not_equal(item.path, first);
    /* A distribution's kernel without its modules is of no use. */
    make_bzimage(in_test("bzImage"), "0.0.0-no-such-release", 1);
    assert_int_equal(kelpie__cache_find_kernel(&cache, in_test("bzImage"), &kernel, NULL), 0);
    assert_int_equal(kelpie__cache_plan_initramfs(&cache, &kernel, &item, &error),
                     KELPIE_E_UNAVAILABLE);
    assert_non_null(strstr(error.message, "/lib/modules/0.0.0-no-such-release"));
}

static void test_missing_programs_are_named(void **state) {
    struct kelpie_cache cache = cache_of_test();
    struct kelpie_cache_item item;
    struct kelpie_error error = {0};
    char long_path[KELPIE_PATH_BYTES_MAX + 1];
    assert_non_null(state);
    cache.libexec_path = "/nowhere";
    assert_int_equal(kelpie__cache_plan_root(&cache, "/", &item, &error), KELPIE_E_UNAVAILABLE);
    assert_non_null(strstr(error.message, "kelpie-pack is not in \"/nowhere\""));
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    cache = cache_of_test();
    cache.cache_path = long_path;
    assert_int_equal(kelpie__cache_plan_root(&cache, "/", &item, &error), KELPIE_E_LIMIT);
}

static int setup(void **state) {
    static int unused;
    *state = &unused;
    if (mkdtemp(test_directory) == NULL) {
        return -1;
    }
    snprintf(test_libexec, sizeof(test_libexec), "%s/libexec", test_directory);
    snprintf(test_places, sizeof(test_places), "%s/cache", test_directory);
    unsetenv("KELPIE_KERNEL");
    test_os = kelpie__os_linux_create();
    if (test_os == NULL || mkdir(test_libexec, 0700) < 0) {
        return -1;
    }
    write_file(in_test("libexec/kelpie-pack"), "x", 1);
    write_file(in_test("libexec/kelpie-agent"), "x", 1);
    return 0;
}

static int teardown(void **state) {
    char command[128];
    assert_non_null(state);
    kelpie__os_linux_destroy(test_os);
    snprintf(command, sizeof(command), "rm -rf %s", test_directory);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel_that_cannot_be_used_is_refused),
        cmocka_unit_test(test_kernel_is_found_by_path_then_variable_then_own),
        cmocka_unit_test(test_kernel_of_another_name_is_known_by_its_driver),
        cmocka_unit_test(test_plans_say_what_to_run),
        cmocka_unit_test(test_initramfs_key_follows_its_inputs),
        cmocka_unit_test(test_missing_programs_are_named),
    };
    alarm(20); /* a test that waits for ever is a test that fails */
    return cmocka_run_group_tests_name("cache", tests, setup, teardown);
}
