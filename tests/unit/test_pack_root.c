/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-pack on directories and disk images: what it makes of them, what it says about those that
 * are damaged or lie, and what a full disk leaves.
 */
#include <sched.h>
#include <sys/mount.h>

#include "pack_run.h"

/* ---- roots ---- */

static void test_root_follows_the_directory(void **state) {
    char first[256];
    assert_non_null(state);
    if (!has_tool("mkfs.erofs")) {
        skip();
    }
    shell("mkdir -p %s/etc && echo one > %s/etc/file", in_test("tree"), in_test("tree"));
    assert_int_equal(run_pack("root", in_test("tree"), in_test("roots"), NULL), 0);
    snprintf(first, sizeof(first), "%.200s", test_output);
    first[strcspn(first, "\n")] = '\0';
    assert_int_equal(run_pack("identify", first, NULL), 0);
    assert_string_equal(test_output, "raw erofs\n");
    assert_int_equal(run_pack("root", in_test("tree"), in_test("roots"), NULL), 0);
    assert_memory_equal(test_output, first, strlen(first));
    shell("echo two > %s/etc/file", in_test("tree"));
    assert_int_equal(run_pack("root", in_test("tree"), in_test("roots"), NULL), 0);
    assert_memory_not_equal(test_output, first, strlen(first));
}

static void test_root_that_is_no_directory(void **state) {
    assert_non_null(state);
    assert_int_equal(run_pack("root", in_test("missing"), in_test("out"), NULL), 1);
    assert_says("No such file");
    assert_int_equal(run_pack("root", "/bin/true", in_test("out"), NULL), 1);
    assert_says("not a directory");
    assert_nothing_made(in_test("out"));
}

static void test_root_names_the_file_that_cannot_be_read(void **state) {
    assert_non_null(state);
    if (!has_tool("mkfs.erofs") || geteuid() != 0) {
        skip();
    }
    shell("rm -rf %s; mkdir -p %s/a; touch %s/a/secret; chmod 0 %s/a/secret; chmod 755 %s",
          in_test("tree"), in_test("tree"), in_test("tree"), in_test("tree"), test_directory);
    assert_int_equal(mkdir(in_test("open"), 0700), 0);
    assert_int_equal(chmod(in_test("open"), 0777), 0);
    test_user = 65534;
    int status = run_pack("root", in_test("tree"), in_test("open"), NULL);
    test_user = 0;
    assert_int_equal(status, 1);
    assert_says("a/secret\": Permission denied");
    assert_nothing_made(in_test("open"));
}

/* Only its times tell the second content from the first. */
static void test_root_sees_a_change_of_the_same_size(void **state) {
    char paths[2][256] = {"", ""};
    assert_non_null(state);
    if (!has_tool("mkfs.erofs")) {
        skip();
    }
    shell("rm -rf %s; mkdir -p %s", in_test("tree"), in_test("tree"));
    for (int i = 0; i < 2; i += 1) {
        write_file(in_test("tree/file"), i == 0 ? "one" : "two", 3);
        assert_int_equal(run_pack("root", in_test("tree"), in_test("roots"), NULL), 0);
        snprintf(paths[i], sizeof(paths[i]), "%.200s", test_output);
    }
    assert_string_not_equal(paths[0], paths[1]);
}

/* In a file system of 256 KiB; seen by this process's children only. */
static void test_full_disk_leaves_nothing(void **state) {
    assert_non_null(state);
    if (geteuid() != 0 || !has_tool("mkfs.erofs") || unshare(CLONE_NEWNS) < 0) {
        skip();
    }
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    assert_int_equal(mkdir(in_test("small"), 0700), 0);
    assert_int_equal(mount("none", in_test("small"), "tmpfs", 0, "size=256k"), 0);
    make_static_program(in_test("agent"));
    shell("rm -rf %s; mkdir %s; head -c 1000000 /dev/urandom > %s/file", in_test("tree"),
          in_test("tree"), in_test("tree"));
    assert_int_equal(run_pack("root", in_test("tree"), in_test("small"), NULL), 3);
    assert_says("No space left on device");
    assert_nothing_made(in_test("small"));
    if (access("/usr/bin/busybox", X_OK) == 0) {
        assert_int_equal(run_pack("initramfs", "--agent", in_test("agent"), "--busybox",
                                  "/usr/bin/busybox", in_test("small/ird"), NULL),
                         3);
        assert_says("No space left on device");
        assert_nothing_made(in_test("small"));
    }
    assert_int_equal(umount(in_test("small")), 0);
    assert_int_equal(rmdir(in_test("small")), 0);
}

/* ---- images ---- */

static void assert_unidentified(const char *path, const char *says) {
    assert_int_equal(run_pack("identify", path, NULL), 1);
    assert_says(says);
}

static void test_identify_knows_what_it_does_not_take(void **state) {
    static uint8_t image[80 * 1024];
    assert_non_null(state);
    assert_int_equal(mkfifo(in_test("fifo"), 0600), 0);
    assert_unidentified(in_test("fifo"), "neither a directory nor a disk image");
    assert_unidentified(in_test("missing"), "No such file");
    assert_unidentified("/dev/null", "neither");
    write_file(in_test("image"), "x", 1);
    assert_unidentified(in_test("image"), "unknown file system");
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "unknown file system");
    memcpy(image, "XFSB", 4);
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "xfs");
    memset(image, 0, 4);
    memcpy(image + 512, "EFI PART", 8);
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "a partition table");
}

static void test_identify_trusts_no_qcow2(void **state) {
    static uint8_t image[4096];
    assert_non_null(state);
    memcpy(image, "QFI\xfb\0\0\0\3", 8);
    image[23] = 16; /* cluster bits */
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "unknown file system");
    image[23] = 60;
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "unknown version");
    image[23] = 16;
    image[15] = 112; /* a backing file's name */
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "depends on another file");
    image[15] = 0;
    image[79] = 4; /* an external data file */
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "depends on another file");
    image[79] = 0;
    image[35] = 1; /* encryption */
    write_file(in_test("image"), image, sizeof(image));
    assert_unidentified(in_test("image"), "encrypted");
    image[35] = 0;
    memset(image + 40, 0xff, 8); /* a table far behind the end */
    write_file(in_test("image"), image, sizeof(image));
    assert_int_equal(run_pack("identify", in_test("image"), NULL), 1);
}

static void test_disk_is_an_empty_ext4(void **state) {
    struct stat stat_result;
    assert_non_null(state);
    if (!has_tool("mke2fs") || !has_tool("qemu-img")) {
        skip();
    }
    assert_int_equal(run_pack("disk", "64", in_test("disk"), NULL), 0);
    assert_int_equal(stat(in_test("disk"), &stat_result), 0);
    assert_int_equal(stat_result.st_size, 64 * 1024 * 1024);
    assert_true(stat_result.st_blocks < 2048); /* under 1 MiB of it is there */
    assert_int_equal(run_pack("identify", in_test("disk"), NULL), 0);
    assert_string_equal(test_output, "raw ext4\n");
    shell("qemu-img convert -O qcow2 %s %s", in_test("disk"), in_test("disk.qcow2"));
    assert_int_equal(run_pack("identify", in_test("disk.qcow2"), NULL), 0);
    assert_string_equal(test_output, "qcow2 ext4\n");
    static const char *const sizes[] = {"15", "1048577", "-1", "64x", "", "99999999999999999999"};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i += 1) {
        assert_int_equal(run_pack("disk", sizes[i], in_test("out/disk"), NULL), 1);
        assert_says("is not within 16 to 1048576 MiB");
        assert_nothing_made(in_test("out"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_follows_the_directory),
        cmocka_unit_test(test_root_that_is_no_directory),
        cmocka_unit_test(test_root_names_the_file_that_cannot_be_read),
        cmocka_unit_test(test_root_sees_a_change_of_the_same_size),
        cmocka_unit_test(test_full_disk_leaves_nothing),
        cmocka_unit_test(test_identify_knows_what_it_does_not_take),
        cmocka_unit_test(test_identify_trusts_no_qcow2),
        cmocka_unit_test(test_disk_is_an_empty_ext4),
    };
    alarm(50); /* a test that waits for ever is a test that fails */
    return cmocka_run_group_tests_name("pack_root", tests, pack_setup, pack_teardown);
}
