/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-pack: what it makes, and what it says about inputs that are damaged or lie. Each run is
 * the real program in a child process; after a failure nothing may lie in the output's directory.
 */
#include <elf.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "pack_run.h"

#define TEST_ELF_BYTES 65536
#define TEST_NOTE_PVH 18
#define TEST_PAYLOAD_OFFSET 0x400 /* behind one sector of setup */

/* ---- kernels ---- */

static void store_u32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i += 1) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

/* A bzImage around /bin/true, compressed by a tool; returns the bytes in it. */
/* What a bzImage holds: an ELF image with a PVH entry, and bytes that no compressor makes much of.
 */
static void make_elf(const char *path, uint16_t machine, uint32_t note_type) {
    static uint8_t image[TEST_ELF_BYTES];
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof(image); i += 1) {
        random = random * 1664525 + 1013904223;
        image[i] = (uint8_t)(random >> 28);
    }
    const Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                               .e_type = ET_EXEC,
                               .e_machine = machine,
                               .e_phoff = sizeof(header),
                               .e_phentsize = sizeof(Elf64_Phdr),
                               .e_phnum = 2};
    const Elf64_Phdr segments[2] = {
        {.p_type = PT_LOAD, .p_offset = 4096, .p_filesz = sizeof(image) - 4096},
        {.p_type = PT_NOTE, .p_offset = 512, .p_filesz = 56}};
    const struct {
        Elf64_Nhdr head;
        char text[8];
        uint32_t value;
    } other = {{4, 8, 1}, "GNU\0....", 0}, note = {{4, 8, note_type}, "Xen", 0};
    memcpy(image, &header, sizeof(header));
    memcpy(image + sizeof(header), segments, sizeof(segments));
    memset(image + 512, 0, 56);
    memcpy(image + 512, &other, 24);
    memcpy(image + 536, &note, 24);
    write_file(path, image, sizeof(image));
}

static size_t make_kernel(const char *compressor, uint8_t *out, size_t capacity) {
    make_elf(in_test("vmlinux"), EM_X86_64, TEST_NOTE_PVH);
    shell("%s < %s > %s 2>/dev/null", compressor, in_test("vmlinux"), in_test("payload"));
    memset(out, 0, TEST_PAYLOAD_OFFSET);
    size_t count =
        read_file(in_test("payload"), out + TEST_PAYLOAD_OFFSET, capacity - TEST_PAYLOAD_OFFSET);
    out[0x1f1] = 1; /* so that the rest begins at 0x400 */
    memcpy(out + 0x202, "HdrS\x0f\x02", 6);
    store_u32(out + 0x248, 0);
    if (strncmp(compressor, "gzip", 4) != 0) { /* which ends with the size by itself */
        store_u32(out + TEST_PAYLOAD_OFFSET + count, TEST_ELF_BYTES);
        count += 4;
    }
    store_u32(out + 0x24c, (uint32_t)count);
    return TEST_PAYLOAD_OFFSET + count;
}

static void test_kernel_of_each_compression(void **state) {
    static const char *const compressors[] = {"gzip -n", "xz --check=crc32", "zstd -q", "lz4 -l",
                                              "bzip2"};
    static uint8_t image[1024 * 1024];
    assert_non_null(state);
    for (size_t i = 0; i < sizeof(compressors) / sizeof(compressors[0]); i += 1) {
        char tool[16];
        assert_int_equal(sscanf(compressors[i], "%15s", tool), 1);
        if (!has_tool(tool)) {
            continue;
        }
        size_t count = make_kernel(compressors[i], image, sizeof(image));
        write_file(in_test("bzImage"), image, count);
        assert_int_equal(
            run_pack("kernel", in_test("bzImage"), in_test("kernels/new/vmlinux"), NULL), 0);
        assert_string_equal(test_output, "");
        shell("cmp -s %s %s", in_test("vmlinux"), in_test("kernels/new/vmlinux"));
        struct stat stat_result;
        assert_int_equal(stat(in_test("kernels/new/vmlinux"), &stat_result), 0);
        assert_int_equal(stat_result.st_mode & 07777, 0600);
    }
    shell("rm -r %s", in_test("kernels"));
}

static void test_kernel_that_is_damaged(void **state) {
    static uint8_t image[1024 * 1024];
    assert_non_null(state);
    size_t count = make_kernel("gzip -n", image, sizeof(image));
    struct {
        size_t offset;
        uint32_t value;
    } damages[] = {
        {0x202, 0},          /* no header */
        {0x206, 0x200},      /* a protocol without payload */
        {0x248, 0x7fffffff}, /* begins behind the end */
        {0x248, 0xffffffff},
        {0x24c, 0xffffffff}, /* longer than the file */
        {0x24c, 3},
        {(uint32_t)count - 4, 0}, /* its size once decompressed */
        {(uint32_t)count - 4, 0xffffffff},
        {(uint32_t)count - 4, 1000000},
        {TEST_PAYLOAD_OFFSET, 0x12345678}, /* unknown compression */
        {TEST_PAYLOAD_OFFSET + 3000, 0x5a5a5a5a},
    };
    assert_int_equal(mkdir(in_test("out"), 0700), 0);
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i += 1) {
        uint8_t before[4];
        memcpy(before, image + damages[i].offset, 4);
        store_u32(image + damages[i].offset, damages[i].value);
        write_file(in_test("bzImage"), image, count);
        memcpy(image + damages[i].offset, before, 4);
        assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("out/vmlinux"), NULL), 1);
        assert_nothing_made(in_test("out"));
    }
    write_file(in_test("bzImage"), image, count / 2);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("out/vmlinux"), NULL), 1);
    assert_nothing_made(in_test("out"));
    assert_int_equal(run_pack("kernel", in_test("missing"), in_test("out/vmlinux"), NULL), 1);
    assert_says("No such file");
    assert_nothing_made(in_test("out"));
}

static void test_kernel_that_holds_no_elf(void **state) {
    static uint8_t image[4096];
    assert_non_null(state);
    shell("head -c 100 /dev/zero | gzip -n > %s", in_test("payload"));
    memset(image, 0, sizeof(image));
    size_t count = read_file(in_test("payload"), image + TEST_PAYLOAD_OFFSET, 1000);
    image[0x1f1] = 1;
    memcpy(image + 0x202, "HdrS\x0f\x02", 6);
    store_u32(image + 0x24c, (uint32_t)count);
    write_file(in_test("bzImage"), image, TEST_PAYLOAD_OFFSET + count);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("out/vmlinux"), NULL), 1);
    assert_says("no ELF");
    assert_nothing_made(in_test("out"));
}

static void assert_elf_refused(const char *says) {
    assert_int_equal(run_pack("kernel", in_test("elf"), in_test("out/vmlinux"), NULL), 1);
    assert_says(says);
    assert_nothing_made(in_test("out"));
}

static void test_kernel_that_is_an_elf_is_checked_and_copied(void **state) {
    assert_non_null(state);
    make_elf(in_test("elf"), EM_X86_64, TEST_NOTE_PVH);
    assert_int_equal(run_pack("kernel", in_test("elf"), in_test("copy"), NULL), 0);
    shell("cmp -s %s %s", in_test("elf"), in_test("copy"));
    make_elf(in_test("elf"), EM_X86_64, TEST_NOTE_PVH + 1);
    assert_elf_refused("has no PVH entry");
    make_elf(in_test("elf"), EM_AARCH64, TEST_NOTE_PVH);
    assert_elf_refused("another machine (ELF machine 183)");
    make_elf(in_test("elf"), EM_X86_64, TEST_NOTE_PVH);
    assert_int_equal(truncate(in_test("elf"), TEST_ELF_BYTES - 1), 0);
    assert_elf_refused("is cut off");
    assert_int_equal(truncate(in_test("elf"), 100), 0);
    assert_elf_refused("is cut off");
    assert_int_equal(truncate(in_test("elf"), 20), 0);
    assert_elf_refused("no ELF");
}

static void test_output_replaces_files_and_nothing_else(void **state) {
    static uint8_t image[1024 * 1024];
    assert_non_null(state);
    size_t count = make_kernel("gzip -n", image, sizeof(image));
    write_file(in_test("bzImage"), image, count);
    write_file(in_test("old"), "old", 3);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("old"), NULL), 0);
    shell("cmp -s %s %s", in_test("vmlinux"), in_test("old"));
    /* What is the same already stays: others know it by its inode. */
    struct stat before;
    struct stat after;
    assert_int_equal(stat(in_test("old"), &before), 0);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("old"), NULL), 0);
    assert_int_equal(stat(in_test("old"), &after), 0);
    assert_true(before.st_ino == after.st_ino);
    assert_int_equal(mkdir(in_test("folder"), 0700), 0);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("folder"), NULL), 1);
    assert_says("is not a file");
    assert_int_equal(run_pack("kernel", in_test("bzImage"), in_test("old/below"), NULL), 1);
    assert_int_equal(run_pack("kernel", in_test("bzImage"), "", NULL), 1);
}

/* ---- the cache ---- */

static const char *cache_file(const char *digit, const char *suffix) {
    static char name[64];
    memset(name, 0, sizeof(name));
    memset(name, digit[0], 32);
    snprintf(name + 32, sizeof(name) - 32, "%s", suffix);
    static char path[128];
    snprintf(path, sizeof(path), "kernels/%s", name);
    return in_test(path);
}

/* A file that was last used so many hours ago. */
static void make_used(const char *path, int hours_ago) {
    const time_t then = time(NULL) - (time_t)hours_ago * 3600;
    const struct timespec times[2] = {{.tv_sec = then}, {.tv_sec = then}};
    write_file(path, "x", 1);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static bool is_there(const char *path) {
    return access(path, F_OK) == 0;
}

static void test_cache_is_pruned_of_what_is_old(void **state) {
    assert_non_null(state);
    make_elf(in_test("vmlinux"), EM_X86_64, TEST_NOTE_PVH);
    assert_int_equal(mkdir(in_test("kernels"), 0700), 0);
    make_used(cache_file("1", ".vmlinux"), 24 * 31);
    make_used(cache_file("2", ".vmlinux"), 24 * 29);
    make_used(cache_file("3", ".cpio"), 24 * 31);   /* of another folder's kind */
    make_used(in_test("kernels/vmlinux"), 24 * 31); /* somebody's own */
    make_used(in_test("kernels/.44444444444444444444444444444444.vmlinux.4194305"), 2);
    make_used(in_test("kernels/.66666666666666666666666666666666.vmlinux.1"), 2); /* he lives */
    make_used(in_test("kernels/.55555555555555555555555555555555.vmlinux.12"), 0);
    /* A file somewhere else does not prune. */
    assert_int_equal(run_pack("kernel", in_test("vmlinux"), in_test("kernels/new"), NULL), 0);
    assert_true(is_there(cache_file("1", ".vmlinux")));
    assert_int_equal(run_pack("kernel", in_test("vmlinux"), cache_file("0", ".vmlinux"), NULL), 0);
    assert_false(is_there(cache_file("1", ".vmlinux")));
    assert_true(is_there(cache_file("0", ".vmlinux")) && is_there(cache_file("2", ".vmlinux")));
    assert_true(is_there(cache_file("3", ".cpio")) && is_there(in_test("kernels/vmlinux")));
    assert_false(is_there(in_test("kernels/.44444444444444444444444444444444.vmlinux.4194305")));
    assert_true(is_there(in_test("kernels/.66666666666666666666666666666666.vmlinux.1")));
    assert_true(is_there(in_test("kernels/.55555555555555555555555555555555.vmlinux.12")));
    shell("rm -r %s", in_test("kernels"));
}

static void test_makers_at_the_same_time_agree(void **state) {
    pid_t children[4];
    assert_non_null(state);
    make_elf(in_test("vmlinux"), EM_X86_64, TEST_NOTE_PVH);
    assert_int_equal(mkdir(in_test("kernels"), 0700), 0);
    for (size_t i = 0; i < 4; i += 1) {
        children[i] = fork();
        if (children[i] == 0) {
            _exit(run_pack("kernel", in_test("vmlinux"), cache_file("0", ".vmlinux"), NULL));
        }
    }
    for (size_t i = 0; i < 4; i += 1) {
        int status = -1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    shell("cmp -s %s %s", in_test("vmlinux"), cache_file("0", ".vmlinux"));
    shell("test \"$(ls -A %s | wc -l)\" = 1", in_test("kernels"));
    shell("rm -r %s", in_test("kernels"));
}

/* ---- initramfs ---- */

static void test_initramfs_refuses_programs_with_libraries(void **state) {
    assert_non_null(state);
    make_static_program(in_test("agent"));
    assert_int_equal(run_pack("initramfs", "--agent", in_test("agent"), "--busybox", "/bin/true",
                              in_test("out/ird"), NULL),
                     1);
    assert_says("not statically linked; apt install busybox-static");
    assert_nothing_made(in_test("out"));
    assert_int_equal(run_pack("initramfs", "--agent", in_test("agent"), NULL), 2);
    assert_int_equal(run_pack("initramfs", "--what", "x", in_test("out/ird"), NULL), 2);
}

static void make_modules(void) {
    shell("mkdir -p %s/kernel/a", in_test("modules"));
    static const char signed_module[] = "module body\0sig\0\0\0\0\0\0\0\0\0\0\0\4"
                                        "~Module signature appended~\n";
    write_file(in_test("modules/kernel/a/virtio.ko"), signed_module, sizeof(signed_module) - 1);
    write_file(in_test("modules/kernel/a/virtio-mmio.ko"), "mmio", 4);
    write_file(in_test("modules/kernel/a/virtio_console.ko"), "console", 7);
    write_file(in_test("modules/kernel/a/virtio_blk.ko"), "blk", 3);
    write_file(in_test("modules/kernel/a/erofs.ko"), "erofs", 5);
    shell("gzip -n %s", in_test("modules/kernel/a/erofs.ko"));
    static const char dependencies[] = "kernel/a/virtio.ko:\n"
                                       "kernel/a/virtio-mmio.ko: kernel/a/virtio.ko\n"
                                       "kernel/a/virtio_console.ko: kernel/a/virtio.ko\n"
                                       "kernel/a/virtio_blk.ko: kernel/a/virtio.ko\n"
                                       "kernel/a/libshared.ko:\n"
                                       "kernel/a/erofs.ko.gz: kernel/a/libshared.ko\n"
                                       "kernel/a/overlay.ko: kernel/a/libshared.ko\n";
    write_file(in_test("modules/modules.dep"), dependencies, sizeof(dependencies) - 1);
    write_file(in_test("modules/kernel/a/libshared.ko"), "shared", 6);
    write_file(in_test("modules/kernel/a/overlay.ko"), "overlay", 7);
    write_file(in_test("modules/modules.builtin"), "", 0);
}

static int pack_initramfs(const char *out) {
    return run_pack("initramfs", "--agent", in_test("agent"), "--busybox", "/usr/bin/busybox",
                    "--modules-dir", in_test("modules"), out, NULL);
}

static void test_initramfs_orders_and_strips_modules(void **state) {
    assert_non_null(state);
    if (access("/usr/bin/busybox", X_OK) < 0) {
        skip();
    }
    make_static_program(in_test("agent"));
    make_modules();
    assert_int_equal(pack_initramfs(in_test("ird")), 0);
    /* The archive is not compressed, so that what is in it can be looked for. */
    static uint8_t bytes[8 * 1024 * 1024];
    size_t count = read_file(in_test("ird"), bytes, sizeof(bytes));
    static const char order[] = "early virtio.ko\nearly virtio_mmio.ko\nearly virtio_console.ko\n"
                                "disk virtio_blk.ko\nerofs libshared.ko\nerofs erofs.ko\n"
                                "overlay libshared.ko\noverlay overlay.ko\n";
    assert_non_null(memmem(bytes, count, order, sizeof(order) - 1));
    assert_non_null(memmem(bytes, count, "module body", 11));
    assert_null(memmem(bytes, count, "~Module signature", 17));
    assert_non_null(memmem(bytes, count, "TRAILER!!!", 10));
    assert_memory_equal(bytes, "070701", 6);
    assert_int_equal(count % 4, 0);
    assert_int_equal(pack_initramfs(in_test("ird2")), 0);
    shell("cmp -s %s %s", in_test("ird"), in_test("ird2"));
}

static void test_initramfs_names_what_a_kernel_lacks(void **state) {
    assert_non_null(state);
    if (access("/usr/bin/busybox", X_OK) < 0) {
        skip();
    }
    make_static_program(in_test("agent"));
    static const char dependencies[] = "kernel/a/virtio-mmio.ko:\nkernel/a/virtio_console.ko:\n"
                                       "kernel/a/virtio_blk.ko:\n";
    write_file(in_test("modules/modules.dep"), dependencies, sizeof(dependencies) - 1);
    write_file(in_test("modules/modules.builtin"), "kernel/fs/erofs.ko\n", 19);
    assert_int_equal(pack_initramfs(in_test("out/ird")), 1);
    assert_says("has no module overlay");
    assert_nothing_made(in_test("out"));
    assert_int_equal(unlink(in_test("modules/modules.dep")), 0);
    assert_int_equal(pack_initramfs(in_test("out/ird")), 1);
    assert_says("modules.dep");
    shell("printf '' | gzip -n > %s", in_test("modules/modules.dep")); /* of no block at all */
    assert_int_equal(pack_initramfs(in_test("out/ird")), 1);
    assert_says("decompress");
    assert_nothing_made(in_test("out"));
}

static void test_usage_and_version(void **state) {
    assert_non_null(state);
    assert_int_equal(run_pack("what", NULL), 2);
    assert_says("usage:");
    assert_int_equal(run_pack("--version", NULL), 0);
    assert_says("kelpie-pack ");
    assert_int_equal(run_pack("--help", NULL), 0);
    make_static_program(in_test("agent"));
    assert_int_equal(run_pack("builtin", in_test("agent"), "/kelpie-test-pack.erofs", NULL), 1);
    assert_int_not_equal(access("/kelpie-test-pack.erofs", F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel_of_each_compression),
        cmocka_unit_test(test_kernel_that_is_damaged),
        cmocka_unit_test(test_kernel_that_holds_no_elf),
        cmocka_unit_test(test_kernel_that_is_an_elf_is_checked_and_copied),
        cmocka_unit_test(test_output_replaces_files_and_nothing_else),
        cmocka_unit_test(test_cache_is_pruned_of_what_is_old),
        cmocka_unit_test(test_makers_at_the_same_time_agree),
        cmocka_unit_test(test_initramfs_refuses_programs_with_libraries),
        cmocka_unit_test(test_initramfs_orders_and_strips_modules),
        cmocka_unit_test(test_initramfs_names_what_a_kernel_lacks),
        cmocka_unit_test(test_usage_and_version),
    };
    alarm(50); /* a test that waits for ever is a test that fails */
    return cmocka_run_group_tests_name("pack", tests, pack_setup, pack_teardown);
}
