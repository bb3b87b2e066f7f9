/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * monitor/worker.c: what the child makes of what a monitor has written, over real files: a booted
 * VM's memory, a small delta over its base, a large one laid into a memory of its own, the layers
 * of a disk; and the flat memory page by page against a model.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "monitor/worker.h"
#include "os/os_call.h"

#define ID "0123456789abcdef0123456789abcdef"
#define MEMORY_MIB 128u
#define PAGE 4096u
#define PAGE_COUNT (MEMORY_MIB * 256u)
#define MAP_BYTES (PAGE_COUNT / 8u)

static char base_path[] = "/dev/shm/kelpie-test-work-XXXXXX";
static struct kelpie_os *os;
static struct kelpie_snapshot_store store;

static int run(const char *command) {
    char text[512];
    snprintf(text, sizeof(text), "cd %s && %s", base_path, command);
    return system(text);
}

static int set_up(void **state) {
    assert_non_null(state);
    /* In memory where there is room for that: it is about bytes, and each test syncs many of them.
     */
    snprintf(base_path, sizeof(base_path), "%s/kelpie-test-work-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(base_path));
    os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, base_path, "snapshots", NULL), 0);
    assert_int_equal(run("mkdir vm && echo '{}' >vm/config.json && echo kernel >kernel"), 0);
    return 0;
}

static int tear_down(void **state) {
    assert_non_null(state);
    kelpie__snapshot_store_close(&store);
    kelpie__os_linux_destroy(os);
    return run("rm -rf \"$PWD\"");
}

static void put_text(char *out, size_t capacity, const char *text) {
    assert_true(snprintf(out, capacity, "%s", text) < (int)capacity);
}

static void fill(uint8_t page[PAGE], uint32_t index, uint32_t generation) {
    for (uint32_t i = 0; i < PAGE; i += 1) {
        page[i] = (uint8_t)(index * 7 + generation * 31 + i * 3 + 1);
    }
}

static int make_file(const char *name, uint64_t size_bytes) {
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", base_path, name);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    assert_int_equal(ftruncate(file, (off_t)size_bytes), 0);
    return file;
}

static void put_page(int file, uint32_t index, uint32_t generation) {
    uint8_t page[PAGE];
    fill(page, index, generation);
    assert_int_equal(pwrite(file, page, PAGE, (off_t)index * PAGE), PAGE);
}

/* Every fifth page of the base has something. */
static int make_base(void) {
    int file = make_file("old-memory", (uint64_t)PAGE_COUNT * PAGE);
    for (uint32_t i = 0; i < PAGE_COUNT; i += 5) {
        put_page(file, i, 1);
    }
    return file;
}

/* Pages `from` to `to` were changed; of these, each third to zeros. */
static uint32_t make_delta(int memory, int map, uint32_t from, uint32_t to) {
    uint32_t count = 0;
    for (uint32_t i = from; i < to; i += 1) {
        uint8_t byte = 0;
        if (i % 3 != 0) {
            put_page(memory, i, 2);
        }
        assert_int_equal(pread(map, &byte, 1, i / 8), 1);
        byte |= (uint8_t)(1u << (i % 8));
        assert_int_equal(pwrite(map, &byte, 1, i / 8), 1);
        count += 1;
    }
    return count;
}

static void check_page(int file, uint32_t index, uint32_t from, uint32_t to) {
    uint8_t found[PAGE];
    uint8_t wanted[PAGE] = {0};
    bool is_changed = index >= from && index < to;
    if (is_changed && index % 3 != 0) {
        fill(wanted, index, 2);
    } else if (!is_changed && index % 5 == 0) {
        fill(wanted, index, 1);
    }
    assert_int_equal(pread(file, found, PAGE, (off_t)index * PAGE), PAGE);
    assert_memory_equal(found, wanted, PAGE);
}

static void test_flat_is_base_and_delta(void **state) {
    static const uint32_t ranges[][2] = {
        {0, 1}, {PAGE_COUNT - 1, PAGE_COUNT}, {63, 129}, {8191, 8193}, {0, 0}};
    (void)state;
    int base = make_base();
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i += 1) {
        struct kelpie_error error = {0};
        int memory = make_file("delta", (uint64_t)PAGE_COUNT * PAGE);
        int map = make_file("map", MAP_BYTES);
        int flat = make_file("flat", 0);
        make_delta(memory, map, ranges[i][0], ranges[i][1]);
        assert_int_equal(kelpie__worker_flatten(os, base, memory, map, flat, &error), 0);
        for (uint32_t page = 0; page < PAGE_COUNT; page += 1) {
            check_page(flat, page, ranges[i][0], ranges[i][1]);
        }
        assert_int_equal(ftruncate(map, MAP_BYTES - 1), 0);
        assert_int_equal(kelpie__worker_flatten(os, base, memory, map, flat, &error),
                         KELPIE_E_INTERNAL);
        close(memory);
        close(map);
        close(flat);
        assert_int_equal(run("rm delta map flat"), 0);
    }
    close(base);
}

/* What a monitor leaves for its child. Gives the handle of the directory. */
static void begin(struct kelpie_snapshot *snapshot, bool has_base, uint32_t changed) {
    struct kelpie_manifest *manifest = &snapshot->manifest;
    struct kelpie_error error = {0};
    int file = -1;
    int map = -1;
    assert_int_equal(kelpie__snapshot_begin(snapshot, &store, ID, 4096, &error), 0);
    assert_int_equal(kelpie__snapshot_add_file(snapshot, "device", &file, &error), 0);
    assert_int_equal(kelpie__os_pwrite(os, file, "QEVM", 4, 0), 4);
    assert_int_equal(kelpie__os_close(os, file), 0);
    assert_int_equal(kelpie__snapshot_add_file(snapshot, "memory", &file, &error), 0);
    assert_int_equal(kelpie__os_truncate(os, file, (uint64_t)PAGE_COUNT * PAGE), 0);
    if (has_base) {
        assert_int_equal(kelpie__snapshot_add_file(snapshot, "map", &map, &error), 0);
        assert_int_equal(kelpie__os_truncate(os, map, MAP_BYTES), 0);
        manifest->page_count = make_delta(file, map, 10, 10 + changed);
        assert_int_equal(kelpie__os_close(os, map), 0);
    }
    assert_int_equal(kelpie__os_close(os, file), 0);
    put_text(manifest->name, sizeof(manifest->name), "made");
    manifest->memory_mib = MEMORY_MIB;
    manifest->has_base = has_base;
}

static int seal(struct kelpie_snapshot *snapshot, int base, const char *root,
                struct kelpie_error *error) {
    char vm[256];
    char kernel[256];
    snprintf(vm, sizeof(vm), "%s/vm", base_path);
    snprintf(kernel, sizeof(kernel), "%s/kernel", base_path);
    const struct kelpie_worker_options options = {.job = KELPIE_WORKER_SEAL,
                                                  .store = store.path,
                                                  .entry = snapshot->entry,
                                                  .vm = vm,
                                                  .root = root,
                                                  .kernel = kernel,
                                                  .is_synced = true};
    assert_int_equal(
        kelpie__manifest_write(os, snapshot->directory, &snapshot->manifest, false, error), 0);
    return kelpie__worker_seal(snapshot, &options, base, error);
}

static ino_t inode_of(const char *name) {
    char path[256];
    struct stat status;
    snprintf(path, sizeof(path), "%s/%s", base_path, name);
    return stat(path, &status) == 0 ? status.st_ino : 0;
}

static void verify_made(struct kelpie_snapshot *out) {
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__snapshot_open(out, &store, "made", &error), 0);
    assert_int_equal(kelpie__snapshot_verify(out, true, &error), 0);
}

static void test_a_booted_vm(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    (void)state;
    begin(&snapshot, false, 0);
    assert_int_equal(seal(&snapshot, KELPIE_OS_NO_HANDLE, "", &error), 0);
    kelpie__snapshot_close(&snapshot);
    verify_made(&snapshot);
    assert_int_equal(snapshot.manifest.file_count, 3); /* config.json came with it */
    assert_int_equal(strlen(snapshot.manifest.kernel_digest), 32);
    assert_true(inode_of("snapshots/made/config.json") != 0);
    assert_true(inode_of("snapshots/made/config.json") != inode_of("vm/config.json"));
    kelpie__snapshot_close(&snapshot);
}

static void test_a_small_delta_lies_over_its_base(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    (void)state;
    int base = make_base();
    begin(&snapshot, true, PAGE_COUNT / 4);
    assert_int_equal(seal(&snapshot, base, "", &error), 0);
    uint64_t stored_bytes = snapshot.manifest.stored_bytes;
    kelpie__snapshot_close(&snapshot);
    verify_made(&snapshot);
    assert_true(snapshot.manifest.has_base);
    assert_int_equal(inode_of("snapshots/made/base"), inode_of("old-memory"));
    assert_true(inode_of("snapshots/made/map") != 0);
    /* Two pages of three were stored; the base is shared and not counted. */
    assert_true(stored_bytes >= (uint64_t)PAGE_COUNT / 4 * 2 / 3 * PAGE);
    assert_true(stored_bytes < (uint64_t)PAGE_COUNT / 4 * PAGE);
    kelpie__snapshot_close(&snapshot);
    close(base);
}

static void test_a_large_delta_gets_a_memory_of_its_own(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    uint32_t changed = PAGE_COUNT / 4 + 1;
    (void)state;
    int base = make_base();
    begin(&snapshot, true, changed);
    assert_int_equal(seal(&snapshot, base, "", &error), 0);
    kelpie__snapshot_close(&snapshot);
    verify_made(&snapshot);
    assert_false(snapshot.manifest.has_base);
    assert_int_equal(inode_of("snapshots/made/base"), 0);
    assert_int_equal(inode_of("snapshots/made/map"), 0);
    assert_int_equal(inode_of("snapshots/made/flat"), 0);
    int flat = kelpie__os_open(os, snapshot.directory, "memory", KELPIE_OS_OPEN_READ, 0);
    assert_true(flat >= 0);
    for (uint32_t page = 0; page < PAGE_COUNT; page += 1) {
        check_page(flat, page, 10, 10 + changed);
    }
    assert_int_equal(kelpie__os_close(os, flat), 0);
    kelpie__snapshot_close(&snapshot);
    close(base);
}

static void add_disk(struct kelpie_manifest *manifest, const char *file, bool is_read_only) {
    struct kelpie_manifest_disk *disk = &manifest->disks[manifest->disk_count];
    put_text(disk->file, sizeof(disk->file), file);
    put_text(disk->format, sizeof(disk->format), "raw");
    disk->is_read_only = is_read_only;
    manifest->disk_count += 1;
}

static void test_disks_are_linked(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    char root[256];
    (void)state;
    snprintf(root, sizeof(root), "%s/image", base_path);
    assert_int_equal(run("echo root >image && echo a >vm/disk-a.raw && echo b >vm/disk-b.qcow2 && "
                         "echo running >vm/disk-c.qcow2"),
                     0);
    begin(&snapshot, false, 0);
    struct kelpie_manifest *manifest = &snapshot.manifest;
    add_disk(manifest, "root-x", true);
    add_disk(manifest, "disk-b.qcow2", false);
    static const char *const names[] = {"root-x", "disk-a.raw", "disk-b.qcow2"};
    for (size_t i = 0; i < 3; i += 1) {
        put_text(manifest->files[manifest->file_count].name,
                 sizeof(manifest->files[manifest->file_count].name), names[i]);
        manifest->file_count += 1;
    }
    assert_int_equal(seal(&snapshot, KELPIE_OS_NO_HANDLE, root, &error), 0);
    kelpie__snapshot_close(&snapshot);
    verify_made(&snapshot);
    assert_int_equal(inode_of("snapshots/made/root-x"), inode_of("image"));
    assert_int_equal(inode_of("snapshots/made/disk-a.raw"), inode_of("vm/disk-a.raw"));
    assert_int_equal(inode_of("snapshots/made/disk-b.qcow2"), inode_of("vm/disk-b.qcow2"));
    assert_int_equal(inode_of("snapshots/made/disk-c.qcow2"), 0);
    kelpie__snapshot_close(&snapshot);
}

static void test_what_is_missing_is_named(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    (void)state;
    begin(&snapshot, false, 0);
    add_disk(&snapshot.manifest, "disk-gone.raw", false);
    put_text(snapshot.manifest.files[snapshot.manifest.file_count].name,
             sizeof(snapshot.manifest.files[snapshot.manifest.file_count].name), "disk-gone.raw");
    snapshot.manifest.file_count += 1;
    assert_int_equal(seal(&snapshot, KELPIE_OS_NO_HANDLE, "", &error), KELPIE_E_IO);
    assert_non_null(strstr(error.message, "disk-gone.raw"));
    kelpie__snapshot_abandon(&snapshot);
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
    begin(&snapshot, true, 4);
    assert_int_equal(seal(&snapshot, KELPIE_OS_NO_HANDLE, "", &error), KELPIE_E_INTERNAL);
    kelpie__snapshot_abandon(&snapshot);
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
}

/* Whoever starts one by hand is told, and not aborted. */
static void test_worker_by_hand_is_refused(void **state) {
    char program[] = "kelpie-monitor", job[] = "--worker", seal[] = "seal", store_key[] = "--store",
         relative[] = "snapshots", entry_key[] = "--entry", entry[] = ".new-" ID, vm_key[] = "--vm",
         vm[] = "/nonexistent", root_key[] = "--root", empty[] = "", kernel_key[] = "--kernel",
         merged_key[] = "--merged", outside[] = "../disk", absolute[] = "/nonexistent";
    char *by_path[] = {program, job, seal,     store_key, relative,   entry_key, entry,
                       vm_key,  vm,  root_key, empty,     kernel_key, empty,     NULL};
    char *by_name[] = {program, job,      seal,  store_key,  absolute, entry_key,  entry,   vm_key,
                       vm,      root_key, empty, kernel_key, empty,    merged_key, outside, NULL};
    (void)state;
    int printed = dup(STDOUT_FILENO);
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(printed >= 0 && dup2(nowhere, STDOUT_FILENO) == STDOUT_FILENO);
    int path_code = kelpie__worker_main(os, 13, by_path);
    int name_code = kelpie__worker_main(os, 15, by_name);
    assert_int_equal(dup2(printed, STDOUT_FILENO), STDOUT_FILENO);
    close(printed);
    close(nowhere);
    assert_int_equal(path_code, 1);
    assert_int_equal(name_code, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_flat_is_base_and_delta, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_booted_vm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_small_delta_lies_over_its_base, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_large_delta_gets_a_memory_of_its_own, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_disks_are_linked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_missing_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worker_by_hand_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
