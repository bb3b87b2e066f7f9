/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/: directories of snapshots over real files: made, sealed, published, opened, removed; and
 * damaged in every file, at every kind of place. A second table of the real system stands for
 * another process.
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

#include "os/os_call.h"
#include "store/copy.h"
#include "store/seal.h"
#include "store/snapshot.h"
#include "store/template.h"

#define MEMORY_BYTES (5u * 1024u * 1024u + 4096u)
#define ID_A "0123456789abcdef0123456789abcdef"
#define ID_B "fedcba9876543210fedcba9876543210"

static char base[] = "/tmp/kelpie-test-snap-XXXXXX";
static struct kelpie_os *os;
static struct kelpie_os *other_os;
static struct kelpie_snapshot_store store;
static struct kelpie_snapshot_store other_store;

static int run(const char *command) {
    char text[512];
    snprintf(text, sizeof(text), "cd %s && %s", base, command);
    return system(text);
}

static int set_up(void **state) {
    assert_non_null(state);
    snprintf(base, sizeof(base), "/tmp/kelpie-test-snap-XXXXXX");
    assert_non_null(mkdtemp(base));
    os = kelpie__os_linux_create();
    other_os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_non_null(other_os);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, base, "snapshots", NULL), 0);
    assert_int_equal(kelpie__snapshot_store_open(&other_store, other_os, base, "snapshots", NULL),
                     0);
    return 0;
}

static int tear_down(void **state) {
    assert_non_null(state);
    kelpie__snapshot_store_close(&store);
    kelpie__snapshot_store_close(&other_store);
    kelpie__os_linux_destroy(os);
    kelpie__os_linux_destroy(other_os);
    return run("rm -rf \"$PWD\"");
}

static void put(int file, const char *text, uint64_t offset) {
    size_t length = strlen(text);
    assert_int_equal(kelpie__os_pwrite(os, file, text, length, offset), length);
}

/* A small one, with a sparse memory file, a device state and a link to a base. */
static void make(struct kelpie_snapshot *snapshot, const char *id, const char *name) {
    int file = -1;
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__snapshot_begin(snapshot, &store, id, 4096, &error), 0);
    assert_int_equal(kelpie__snapshot_add_file(snapshot, "device", &file, &error), 0);
    put(file, "state of the devices", 0);
    assert_int_equal(kelpie__os_close(os, file), 0);
    assert_int_equal(kelpie__snapshot_add_file(snapshot, "memory", &file, &error), 0);
    assert_int_equal(kelpie__os_truncate(os, file, MEMORY_BYTES), 0);
    put(file, "a page", 8192);
    put(file, "the last page", MEMORY_BYTES - 4096);
    assert_int_equal(kelpie__os_close(os, file), 0);
    assert_int_equal(run("echo base > base-file"), 0);
    char path[256];
    snprintf(path, sizeof(path), "%s/base-file", base);
    file = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
    assert_true(file >= 0);
    assert_int_equal(kelpie__snapshot_add_link(snapshot, "base", file, false, &error), 0);
    assert_int_equal(kelpie__os_close(os, file), 0);
    snprintf(snapshot->manifest.name, sizeof(snapshot->manifest.name), "%s", name);
    snprintf(snapshot->manifest.label, sizeof(snapshot->manifest.label), "before \"it\"");
    snapshot->manifest.memory_mib = 256;
    snapshot->manifest.created_ms = 1234567890123;
    snapshot->manifest.has_base = true;
    snapshot->manifest.disk_count = 1;
    snprintf(snapshot->manifest.disks[0].file, sizeof(snapshot->manifest.disks[0].file),
             "disk-1.qcow2");
    snprintf(snapshot->manifest.disks[0].serial, 16, "upper");
    snprintf(snapshot->manifest.disks[0].format, 8, "qcow2");
}

static void publish(struct kelpie_snapshot *snapshot) {
    struct kelpie_error error = {0};
    const struct kelpie_seal_options options = {.is_synced = true};
    assert_int_equal(kelpie__seal(os, snapshot->directory, &snapshot->manifest, &options, &error),
                     0);
    assert_int_equal(
        kelpie__manifest_write(os, snapshot->directory, &snapshot->manifest, true, &error), 0);
    assert_int_equal(kelpie__snapshot_publish(snapshot, true, &error), 0);
}

static uint32_t count_listed(void) {
    uint64_t cursor = 0;
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint32_t count = 0;
    while (kelpie__snapshot_list(&store, &cursor, name, NULL) == 1) {
        count += 1;
    }
    return count;
}

static void test_made_sealed_published_and_read_back(void **state) {
    struct kelpie_snapshot made;
    struct kelpie_snapshot opened;
    struct kelpie_error error = {0};
    (void)state;
    make(&made, ID_A, "first");
    assert_int_equal(count_listed(), 0);
    publish(&made);
    assert_int_equal(count_listed(), 1);
    assert_int_equal(kelpie__snapshot_open(&opened, &other_store, "first", &error), 0);
    assert_string_equal(opened.manifest.id, ID_A);
    assert_string_equal(opened.manifest.label, "before \"it\"");
    assert_int_equal(opened.manifest.created_ms, 1234567890123);
    assert_int_equal(opened.manifest.file_count, 3);
    assert_int_equal(opened.manifest.files[1].size_bytes, MEMORY_BYTES);
    assert_string_equal(opened.manifest.disks[0].file, "disk-1.qcow2");
    assert_int_equal(kelpie__snapshot_verify(&opened, true, &error), 0);
    kelpie__snapshot_close(&opened);
    kelpie__snapshot_close(&made);
}

static void test_a_name_is_taken_once(void **state) {
    struct kelpie_snapshot first;
    struct kelpie_snapshot second;
    struct kelpie_error error = {0};
    (void)state;
    make(&first, ID_A, "same");
    publish(&first);
    make(&second, ID_B, "same");
    assert_int_equal(kelpie__snapshot_publish(&second, false, &error), KELPIE_E_EXISTS);
    assert_non_null(strstr(error.message, "\"same\" exists already"));
    kelpie__snapshot_abandon(&second);
    kelpie__snapshot_close(&first);
    assert_int_equal(run("test \"$(ls -A snapshots)\" = same"), 0);
}

/* A worker that died when it had given the name, and before others may look. */
static void test_one_whose_worker_died_is_taken_over(void **state) {
    struct kelpie_snapshot mine;
    struct kelpie_snapshot other;
    struct kelpie_error error = {0};
    (void)state;
    make(&mine, ID_A, "first");
    assert_int_equal(kelpie__snapshot_take_over(&mine, true, &error), KELPIE_E_NOT_FOUND);
    assert_true(mine.is_temporary);
    assert_int_equal(kelpie__manifest_write(os, mine.directory, &mine.manifest, true, &error), 0);
    assert_int_equal(run("mv snapshots/.new-" ID_A " snapshots/first"), 0);
    assert_int_equal(kelpie__snapshot_open(&other, &other_store, "first", &error), KELPIE_E_BUSY);
    assert_int_equal(kelpie__snapshot_take_over(&mine, true, &error), 0);
    assert_false(mine.is_temporary);
    assert_string_equal(mine.entry, "first");
    assert_int_equal(kelpie__snapshot_open(&other, &other_store, "first", &error), 0);
    kelpie__snapshot_close(&other);
    kelpie__snapshot_close(&mine);
}

/* It can be taken back, which its name alone could not: we hold its lock. */
static void test_one_that_cannot_be_taken_over_is_abandoned(void **state) {
    struct kelpie_snapshot mine;
    struct kelpie_error error = {0};
    (void)state;
    make(&mine, ID_A, "first"); /* without a manifest */
    assert_int_equal(run("mv snapshots/.new-" ID_A " snapshots/first"), 0);
    int status = kelpie__snapshot_take_over(&mine, true, &error);
    assert_true(status < 0 && status != KELPIE_E_NOT_FOUND);
    kelpie__snapshot_abandon(&mine);
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
}

static void test_one_in_use_is_not_removed(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    (void)state;
    make(&snapshot, ID_A, "used");
    publish(&snapshot);
    assert_int_equal(kelpie__snapshot_remove(&other_store, "used", &error), KELPIE_E_BUSY);
    assert_non_null(strstr(error.message, "in use by a VM"));
    kelpie__snapshot_close(&snapshot);
    assert_int_equal(kelpie__snapshot_remove(&other_store, "used", &error), 0);
    assert_int_equal(kelpie__snapshot_remove(&other_store, "used", &error), KELPIE_E_NOT_FOUND);
    assert_int_equal(kelpie__snapshot_open(&snapshot, &store, "used", &error), KELPIE_E_NOT_FOUND);
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
}

static void test_prune_takes_what_nobody_holds(void **state) {
    struct kelpie_snapshot held;
    (void)state;
    make(&held, ID_A, "held");
    assert_int_equal(run("mkdir snapshots/.new-dead snapshots/.gone-dead && "
                         "touch snapshots/.new-dead/memory"),
                     0);
    kelpie__snapshot_prune(&other_store, NULL);
    assert_int_equal(run("test \"$(ls -A snapshots)\" = .new-" ID_A), 0);
    kelpie__snapshot_close(&held);
    kelpie__snapshot_prune(&other_store, NULL);
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
}

static void test_space_is_looked_at_first(void **state) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    (void)state;
    assert_int_equal(kelpie__snapshot_begin(&snapshot, &store, ID_A, UINT64_MAX / 2, &error),
                     KELPIE_E_LIMIT);
    assert_non_null(strstr(error.message, "free some space"));
    assert_int_equal(run("test -z \"$(ls -A snapshots)\""), 0);
}

/* ---- templates ------------------------------------------------------------------------------- */

/* Four of 64 KiB each, made so many days ago; the oldest of them was used a day ago. */
static void make_templates(void) {
    assert_int_equal(run("for age in 40 30 20 10; do d=snapshots/age-$age; mkdir $d; "
                         "head -c 65536 /dev/urandom >$d/memory; echo x >$d/manifest.json; "
                         "touch -d \"$age days ago\" $d/manifest.json; done; "
                         "touch -d '1 day ago' snapshots/age-40/used"),
                     0);
}

/* Which of them stay under these bounds, and what is said of the others. */
static void templates_stay(const struct kelpie_template_bounds *bounds, const char *keep,
                           uint32_t gone_count, const char *left) {
    char command[256];
    struct kelpie_leftovers gone = {0};
    struct kelpie_leftovers trial = {0};
    make_templates();
    kelpie__template_prune(&store, bounds, keep, true, &trial);
    assert_int_equal(run("test $(ls snapshots | wc -l) = 4"), 0);
    kelpie__template_prune(&store, bounds, keep, false, &gone);
    assert_int_equal(gone.count, gone_count);
    assert_true(gone.bytes >= gone_count * UINT64_C(65536));
    assert_int_equal(trial.count, gone.count);
    assert_int_equal(trial.bytes, gone.bytes);
    snprintf(command, sizeof(command), "test \"$(ls -A snapshots | xargs)\" = '%s'", left);
    assert_int_equal(run(command), 0);
    assert_int_equal(run("rm -rf snapshots/*"), 0);
}

static void test_templates_go_by_age_number_and_size(void **state) {
    const struct kelpie_template_bounds usual = kelpie__template_bounds_default();
    struct kelpie_template_bounds bounds = usual;
    (void)state;
    assert_int_equal(usual.age_ms, UINT64_C(30) * 24 * 3600 * 1000);
    bounds.age_ms += 3600 * 1000; /* they are a moment older than that by now */
    templates_stay(&bounds, NULL, 0, "age-10 age-20 age-30 age-40");
    bounds.age_ms = UINT64_C(25) * 24 * 3600 * 1000;
    templates_stay(&bounds, NULL, 1, "age-10 age-20 age-40");
    bounds = usual;
    bounds.count = 2;
    templates_stay(&bounds, NULL, 2, "age-10 age-40");
    templates_stay(&bounds, "age-20", 2, "age-20 age-40");
    bounds = usual;
    bounds.bytes = UINT64_C(100) << 10; /* one of them, and not two */
    templates_stay(&bounds, NULL, 3, "age-40");
    bounds = usual;
    bounds.age_ms = 0;
    templates_stay(&bounds, "age-30", 3, "age-30");
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void flip(const char *name, off_t offset, int bit) {
    char path[256];
    uint8_t byte = 0;
    snprintf(path, sizeof(path), "%s/snapshots/hurt/%s", base, name);
    int file = open(path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(pread(file, &byte, 1, offset), 1);
    byte ^= (uint8_t)(1 << bit);
    assert_int_equal(pwrite(file, &byte, 1, offset), 1);
    assert_int_equal(close(file), 0);
}

static int open_and_verify(void) {
    struct kelpie_snapshot snapshot;
    int status = kelpie__snapshot_open(&snapshot, &store, "hurt", NULL);
    if (status == 0) {
        status = kelpie__snapshot_verify(&snapshot, false, NULL);
        kelpie__snapshot_close(&snapshot);
    }
    return status;
}

static off_t size_of(const char *name) {
    char path[256];
    struct stat status;
    snprintf(path, sizeof(path), "%s/snapshots/hurt/%s", base, name);
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

/* Every bit of the small files, and some of the large one: in data, in a hole, in the last byte. */
static void test_every_flipped_bit_is_found(void **state) {
    static const char *const names[] = {"manifest.json", "checksums", "device", "base"};
    static const off_t places[] = {0, 8192, 1048576, 3000000, MEMORY_BYTES - 1};
    struct kelpie_snapshot snapshot;
    (void)state;
    make(&snapshot, ID_A, "hurt");
    publish(&snapshot);
    kelpie__snapshot_close(&snapshot);
    assert_int_equal(open_and_verify(), 0);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i += 1) {
        off_t size = size_of(names[i]);
        for (off_t at = 0; at < size; at += 1) {
            flip(names[i], at, (int)(at % 8));
            assert_int_equal(open_and_verify(), KELPIE_E_SNAPSHOT_CORRUPTED);
            flip(names[i], at, (int)(at % 8));
        }
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i += 1) {
        flip("memory", places[i], 5);
        assert_int_equal(open_and_verify(), KELPIE_E_SNAPSHOT_CORRUPTED);
        flip("memory", places[i], 5);
    }
    assert_int_equal(open_and_verify(), 0);
    assert_int_equal(run("truncate -s -1 snapshots/hurt/memory"), 0);
    assert_int_equal(open_and_verify(), KELPIE_E_SNAPSHOT_CORRUPTED);
    assert_int_equal(run("rm snapshots/hurt/manifest.json"), 0);
    assert_int_equal(open_and_verify(), KELPIE_E_SNAPSHOT_CORRUPTED);
    assert_int_equal(kelpie__snapshot_remove(&store, "hurt", NULL), 0);
}

static void test_what_was_verified_is_remembered_until_it_changes(void **state) {
    struct kelpie_snapshot snapshot;
    (void)state;
    make(&snapshot, ID_A, "hurt");
    publish(&snapshot);
    assert_false(kelpie__seal_is_known(os, snapshot.directory, &snapshot.manifest));
    /* Files that may still change within the same tick, however slow this machine is. */
    assert_int_equal(run("touch -d '1 minute' snapshots/hurt/*"), 0);
    assert_int_equal(kelpie__snapshot_verify(&snapshot, false, NULL), 0);
    assert_false(kelpie__seal_is_known(os, snapshot.directory, &snapshot.manifest));
    assert_int_equal(run("touch -d '1 minute ago' snapshots/hurt/*"), 0);
    assert_int_equal(kelpie__snapshot_verify(&snapshot, false, NULL), 0);
    assert_true(kelpie__seal_is_known(os, snapshot.directory, &snapshot.manifest));
    assert_int_equal(run("ln snapshots/hurt/memory another-name"), 0);
    assert_true(kelpie__seal_is_known(os, snapshot.directory, &snapshot.manifest));
    flip("memory", 0, 0);
    assert_false(kelpie__seal_is_known(os, snapshot.directory, &snapshot.manifest));
    kelpie__snapshot_close(&snapshot);
}

static void test_a_newer_format_is_named(void **state) {
    struct kelpie_manifest manifest;
    struct kelpie_error error = {0};
    (void)state;
    assert_int_equal(run("mkdir snapshots/hurt && "
                         "echo '{\"self\":\"\",\"format\":7}' > snapshots/hurt/manifest.json"),
                     0);
    struct kelpie_snapshot snapshot;
    assert_int_equal(kelpie__snapshot_open(&snapshot, &store, "hurt", &error),
                     KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(error.message, "format 7, this version knows 2"));
    assert_int_equal(kelpie__manifest_read(os, store.directory, &manifest, &error),
                     KELPIE_E_SNAPSHOT_CORRUPTED);
}

static void test_copies_keep_their_holes(void **state) {
    char path[256];
    struct stat status;
    (void)state;
    assert_int_equal(run("truncate -s 64M sparse && printf x | dd of=sparse bs=1 seek=50000000 "
                         "conv=notrunc status=none"),
                     0);
    snprintf(path, sizeof(path), "%s/sparse", base);
    int from = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
    snprintf(path, sizeof(path), "%s/copy", base);
    int to =
        kelpie__os_open(os, KELPIE_OS_CWD, path,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600);
    assert_true(from >= 0 && to >= 0);
    assert_int_equal(kelpie__copy_file(os, from, to), 0);
    assert_int_equal(fstat(to, &status), 0);
    assert_int_equal(status.st_size, 64 * 1024 * 1024);
    assert_true(status.st_blocks < 4096);
    assert_int_equal(run("cmp sparse copy"), 0);
    assert_int_equal(kelpie__os_close(os, from), 0);
    assert_int_equal(kelpie__os_close(os, to), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* What the system said of a file when it was a moment older, or of one on a strange file system. */
static int grown_next_data(struct kelpie_os *given, int file, uint64_t offset, uint64_t *out_start,
                           uint64_t *out_end) {
    assert_true(given == os && file >= 0 && offset < 8192);
    *out_start = 8192;
    *out_end = 12288;
    return 1;
}

static int (*real_stat)(struct kelpie_os *, int, const char *, bool, struct kelpie_os_stat *);

static int stat_without_inode(struct kelpie_os *given, int directory, const char *path, bool follow,
                              struct kelpie_os_stat *out) {
    int status = real_stat(given, directory, path, follow, out);
    out->inode = 0;
    return status;
}

static void test_a_file_that_grows_is_copied_as_it_was(void **state) {
    int (*next_data)(struct kelpie_os *, int, uint64_t, uint64_t *, uint64_t *) = os->next_data;
    struct kelpie_os_stat stat;
    const uint32_t flags = KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE;
    assert_non_null(state);
    int from = kelpie__os_open(os, store.directory, "from", flags, 0600);
    int to = kelpie__os_open(os, store.directory, "to", flags, 0600);
    assert_true(from >= 0 && to >= 0);
    assert_int_equal(kelpie__os_truncate(os, from, 8192), 0);
    os->next_data = grown_next_data;
    assert_int_equal(kelpie__copy_file(os, from, to), 0);
    os->next_data = next_data;
    assert_int_equal(kelpie__os_stat(os, to, "", false, &stat), 0);
    assert_int_equal(stat.size_bytes, 8192);
    kelpie__ignore(kelpie__os_close(os, from));
    kelpie__ignore(kelpie__os_close(os, to));
}

static void test_a_file_without_a_number_has_a_key(void **state) {
    struct kelpie_hash hash;
    struct kelpie_template_key key;
    assert_non_null(state);
    real_stat = os->stat;
    os->stat = stat_without_inode;
    kelpie__template_key_begin(&hash);
    kelpie__template_key_add_file(os, &hash, base, false);
    os->stat = real_stat;
    kelpie__hash_hex(&hash, key.text);
    assert_int_equal(strlen(key.text), KELPIE_HASH_CHARACTERS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_made_sealed_published_and_read_back),
        TEST(test_a_name_is_taken_once),
        TEST(test_one_whose_worker_died_is_taken_over),
        TEST(test_one_that_cannot_be_taken_over_is_abandoned),
        TEST(test_one_in_use_is_not_removed),
        TEST(test_prune_takes_what_nobody_holds),
        TEST(test_space_is_looked_at_first),
        TEST(test_templates_go_by_age_number_and_size),
        TEST(test_every_flipped_bit_is_found),
        TEST(test_what_was_verified_is_remembered_until_it_changes),
        TEST(test_a_newer_format_is_named),
        TEST(test_copies_keep_their_holes),
        TEST(test_a_file_that_grows_is_copied_as_it_was),
        TEST(test_a_file_without_a_number_has_a_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
