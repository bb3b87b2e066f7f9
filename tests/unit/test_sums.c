/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/sums: what is known of a VM's constant files, over real files. A second snapshot over the
 * same base takes the base's checksums from there, so that a base damaged since is found; one that
 * has another time of modification is read again; a damaged file of sums is none.
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
#include "store/seal.h"
#include "store/snapshot.h"
#include "store/sums.h"

#define BASE_BYTES (3u << 20)
#define ID_A "0123456789abcdef0123456789abcdef"
#define ID_B "fedcba9876543210fedcba9876543210"
#define ID_C "00112233445566778899aabbccddeeff"

static char directory[] = "/tmp/kelpie-test-sums-XXXXXX";
static char base_path[128];
static struct kelpie_os *os;
static struct kelpie_snapshot_store store;
static int vm; /* stands for the VM's directory */

static void put_byte(const char *path, char byte) {
    int file = open(path, O_WRONLY);
    assert_true(file >= 0);
    assert_int_equal(pwrite(file, &byte, 1, 2u << 20), 1);
    assert_int_equal(close(file), 0);
}

/* The byte changes, the times do not: as on a disk that forgets. */
static void damage(const char *path) {
    struct stat before;
    assert_int_equal(stat(path, &before), 0);
    put_byte(path, 'x');
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static int set_up(void **state) {
    assert_non_null(state);
    snprintf(directory, sizeof(directory), "/tmp/kelpie-test-sums-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(base_path, sizeof(base_path), "%s/base", directory);
    int base = open(base_path, O_WRONLY | O_CREAT, 0600);
    assert_true(base >= 0 && ftruncate(base, BASE_BYTES) == 0 && close(base) == 0);
    put_byte(base_path, 'a');
    os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, directory, "snapshots", NULL), 0);
    vm = kelpie__os_open(os, KELPIE_OS_CWD, directory,
                         KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    assert_true(vm >= 0);
    return 0;
}

static int tear_down(void **state) {
    char command[160];
    assert_non_null(state);
    assert_int_equal(kelpie__os_close(os, vm), 0);
    kelpie__snapshot_store_close(&store);
    kelpie__os_linux_destroy(os);
    snprintf(command, sizeof(command), "rm -rf %s", directory);
    return system(command);
}

/* Sealed over the base with what is known, kept, published and closed. */
static void take(const char *id, const char *name) {
    struct kelpie_snapshot made;
    struct kelpie_sums known;
    const struct kelpie_seal_options options = {.known = &known};
    int file = -1;
    assert_int_equal(kelpie__snapshot_begin(&made, &store, id, 4096, NULL), 0);
    assert_int_equal(kelpie__snapshot_add_file(&made, "memory", &file, NULL), 0);
    assert_int_equal(kelpie__os_pwrite(os, file, id, 32, 0), 32);
    assert_int_equal(kelpie__os_close(os, file), 0);
    file = kelpie__os_open(os, KELPIE_OS_CWD, base_path, KELPIE_OS_OPEN_READ, 0);
    assert_true(file >= 0);
    assert_int_equal(kelpie__snapshot_add_link(&made, "base", file, false, NULL), 0);
    assert_int_equal(kelpie__os_close(os, file), 0);
    snprintf(made.manifest.name, sizeof(made.manifest.name), "%s", name);
    made.manifest.has_base = true;
    kelpie__sums_load(&known, os, vm);
    assert_int_equal(kelpie__seal(os, made.directory, &made.manifest, &options, NULL), 0);
    kelpie__sums_unload(&known);
    kelpie__sums_keep(os, vm, made.directory, &made.manifest);
    assert_int_equal(kelpie__manifest_write(os, made.directory, &made.manifest, false, NULL), 0);
    assert_int_equal(kelpie__snapshot_publish(&made, false, NULL), 0);
    kelpie__snapshot_close(&made);
}

static int verify(const char *name, struct kelpie_error *error) {
    struct kelpie_snapshot opened;
    assert_int_equal(kelpie__snapshot_open(&opened, &store, name, NULL), 0);
    int status = kelpie__snapshot_verify(&opened, true, error);
    kelpie__snapshot_close(&opened);
    return status;
}

static void test_a_base_damaged_since_is_found(void **state) {
    struct kelpie_error error = {0};
    (void)state;
    take(ID_A, "first");
    damage(base_path);
    take(ID_B, "second");
    assert_int_equal(verify("second", &error), KELPIE_E_SNAPSHOT_CORRUPTED);
    assert_non_null(strstr(error.message, "\"base\" of the snapshot is damaged in its MiB 2"));
}

static void test_one_that_has_changed_is_read_again(void **state) {
    struct kelpie_error error = {0};
    (void)state;
    take(ID_A, "first");
    put_byte(base_path, 'b');
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 2}};
    assert_int_equal(utimensat(AT_FDCWD, base_path, times, 0), 0);
    take(ID_B, "second");
    assert_int_equal(verify("second", &error), 0);
    assert_int_equal(verify("first", &error), KELPIE_E_SNAPSHOT_CORRUPTED);
}

static void test_damaged_sums_are_none(void **state) {
    struct kelpie_sums known;
    struct kelpie_os_stat stat;
    char path[160];
    (void)state;
    take(ID_A, "first");
    assert_int_equal(kelpie__os_stat(os, KELPIE_OS_CWD, base_path, false, &stat), 0);
    kelpie__sums_load(&known, os, vm);
    assert_non_null(kelpie__sums_find(&known, &stat, 3));
    assert_null(kelpie__sums_find(&known, &stat, 2));
    kelpie__sums_unload(&known);
    snprintf(path, sizeof(path), "%s/" KELPIE_SUMS_FILE, directory);
    int file = open(path, O_WRONLY);
    assert_true(file >= 0 && pwrite(file, "x", 1, 60) == 1 && close(file) == 0);
    kelpie__sums_load(&known, os, vm);
    assert_null(kelpie__sums_find(&known, &stat, 3));
    assert_int_equal(truncate(path, 12), 0);
    kelpie__sums_load(&known, os, vm);
    assert_null(known.words);
}

static uint64_t sums_inode(void) {
    struct kelpie_os_stat stat;
    assert_int_equal(kelpie__os_stat(os, vm, KELPIE_SUMS_FILE, false, &stat), 0);
    return stat.inode;
}

static void test_what_is_known_is_not_written_again(void **state) {
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 2}};
    (void)state;
    take(ID_A, "first");
    uint64_t first = sums_inode();
    take(ID_B, "second");
    assert_int_equal(sums_inode(), first);
    assert_int_equal(utimensat(AT_FDCWD, base_path, times, 0), 0);
    take(ID_C, "third");
    assert_int_not_equal(sums_inode(), first);
}

/* A snapshot that nobody else will know of is not compared again at once; any other is. */
static void test_a_transient_one_is_known_at_once(void **state) {
    struct kelpie_snapshot opened;
    (void)state;
    take(ID_A, "first");
    assert_int_equal(kelpie__snapshot_open(&opened, &store, "first", NULL), 0);
    kelpie__seal_remember(os, opened.directory, &opened.manifest, false);
    assert_false(kelpie__seal_is_known(os, opened.directory, &opened.manifest));
    kelpie__seal_remember(os, opened.directory, &opened.manifest, true);
    assert_true(kelpie__seal_is_known(os, opened.directory, &opened.manifest));
    kelpie__snapshot_close(&opened);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_base_damaged_since_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_that_has_changed_is_read_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged_sums_are_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_known_is_not_written_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_transient_one_is_known_at_once, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
