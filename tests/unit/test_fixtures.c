/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What earlier versions wrote (tests/fixtures) is read: as a stream, and as the directory that it
 * was made of. What a later one may write is refused by name.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/small_file.h"
#include "store/transfer.h"
#include "tiny_snapshot.h"

#define FIXTURE_1 KELPIE_SOURCE_DIR "/tests/fixtures/snapshot-format-1"
#define FIXTURE_2 KELPIE_SOURCE_DIR "/tests/fixtures/snapshot-format-2"

static char base[64];
static struct kelpie_os *os;
static struct kelpie_snapshot_store store;
static const struct kelpie_origin origin = {.name = {1}};

static int set_up(void **state) {
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(base, sizeof(base), "%.40s/kelpie-fixtures-XXXXXX", parent != NULL ? parent : "/tmp");
    assert_non_null(mkdtemp(base));
    os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, base, "snapshots", NULL), 0);
    return 0;
}

static int run(const char *command) {
    char text[1024];
    snprintf(text, sizeof(text), "cd %s && %s", base, command);
    return system(text);
}

static int tear_down(void **state) {
    (void)state;
    kelpie__snapshot_store_close(&store);
    kelpie__os_linux_destroy(os);
    return run("rm -rf \"$PWD\"");
}

static int64_t file_read(void *context, void *out, size_t count) {
    return read(*(const int *)context, out, count);
}

/* What version 0.1 said of it. */
static void is_the_tiny_one(struct kelpie_snapshot *snapshot, uint32_t format) {
    static struct kelpie_config_values values;
    struct kelpie_error error = {0};
    char text[8] = "";
    const struct kelpie_manifest *manifest = &snapshot->manifest;
    assert_int_equal(manifest->format, format);
    assert_string_equal(manifest->id, TINY_ID);
    assert_string_equal(manifest->label, "kept in the tree");
    assert_string_equal(manifest->machine, "microvm,acpi=on,rtc=on");
    assert_string_equal(manifest->token, TINY_ID TINY_VM_ID);
    assert_int_equal(manifest->created_ms, 1234567890123);
    assert_int_equal(manifest->file_count, 8);
    assert_string_equal(manifest->disks[1].file, TINY_LAYER_1);
    assert_true(manifest->has_base && !manifest->is_paused);
    assert_int_equal(kelpie__snapshot_verify(snapshot, true, &error), 0);
    assert_int_equal(kelpie__snapshot_config(snapshot, &values, &error), 0);
    assert_string_equal(values.name, "tiny-vm");
    assert_int_equal(values.memory_mib, TINY_MEMORY_MIB);
    int file = kelpie__os_open(os, snapshot->directory, "memory", KELPIE_OS_OPEN_READ, 0);
    assert_true(file >= 0);
    assert_int_equal(kelpie__os_pread(os, file, text, 6, 8192), 6);
    assert_string_equal(text, "a page");
    assert_int_equal(kelpie__os_close(os, file), 0);
}

static void is_imported(const char *fixture, uint32_t format) {
    struct kelpie_snapshot made;
    struct kelpie_error error = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s.stream", fixture);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    const struct kelpie_parcel_input input = {.read = file_read, .context = &file};
    const struct kelpie_snapshot_import options = {.is_trusted = true};
    assert_true(file >= 0);
    assert_int_equal(kelpie__snapshot_import(&made, &store, &origin, &input, &options, &error), 0);
    close(file);
    assert_string_equal(made.manifest.name, "kept");
    is_the_tiny_one(&made, format);
    snprintf(path, sizeof(path), "cmp snapshots/kept/checksums %s.checksums", fixture);
    assert_int_equal(run(path), 0);
    kelpie__snapshot_close(&made);
}

static void test_a_stream_of_format_1_is_imported(void **state) {
    (void)state;
    is_imported(FIXTURE_1, 1);
}

static void test_a_stream_of_format_2_is_imported(void **state) {
    (void)state;
    is_imported(FIXTURE_2, 2);
}

/* The manifest's text, as it was, and every file, into snapshots/kept. */
static void lay_out(const char *fixture) {
    struct kelpie_parcel_reader reader;
    struct kelpie_parcel_data data = {0};
    struct kelpie_error error = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s.stream", fixture);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    const struct kelpie_parcel_input input = {.read = file_read, .context = &file};
    assert_true(file >= 0);
    snprintf(path, sizeof(path),
             "mkdir -m 700 snapshots/kept && cp %s.checksums snapshots/kept/checksums", fixture);
    assert_int_equal(run(path), 0);
    assert_int_equal(kelpie__parcel_open(&reader, os, &origin, &input, &error), 0);
    char *text = strdup((const char *)reader.buffer + KELPIE_PARCEL_RECORD_BYTES);
    int directory = kelpie__os_open(os, store.directory, "kept",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    char *end = strstr(text, "}]}"); /* what follows in the buffer is not its */
    assert_non_null(end);
    assert_int_equal(kelpie__small_file_replace(os, directory, "manifest.json", text,
                                                (size_t)(end + 3 - text), &error),
                     0);
    for (uint32_t i = 0; i < reader.manifest.file_count; i += 1) {
        char command[256];
        snprintf(command, sizeof(command), "truncate -s %llu snapshots/kept/%s",
                 (unsigned long long)reader.manifest.files[i].size_bytes,
                 reader.manifest.files[i].name);
        assert_int_equal(run(command), 0);
    }
    while (kelpie__parcel_read(&reader, &data, &error) == 1) {
        int to = kelpie__os_open(os, directory, reader.manifest.files[data.file].name,
                                 KELPIE_OS_OPEN_WRITE, 0);
        assert_int_equal(kelpie__os_pwrite(os, to, data.bytes, data.count, data.offset),
                         data.count);
        assert_int_equal(kelpie__os_close(os, to), 0);
    }
    assert_true(reader.has_ended);
    kelpie__parcel_close(&reader);
    assert_int_equal(kelpie__os_close(os, directory), 0);
    close(file);
    free(text);
}

static void is_read(const char *fixture, uint32_t format) {
    struct kelpie_snapshot opened;
    struct kelpie_error error = {0};
    lay_out(fixture);
    assert_int_equal(kelpie__snapshot_open(&opened, &store, "kept", &error), 0);
    is_the_tiny_one(&opened, format);
    kelpie__snapshot_close(&opened);
}

static void test_a_directory_of_format_1_is_read(void **state) {
    (void)state;
    is_read(FIXTURE_1, 1);
}

static void test_a_directory_of_format_2_is_read(void **state) {
    (void)state;
    is_read(FIXTURE_2, 2);
}

static void test_a_newer_directory_is_refused_by_its_format(void **state) {
    struct kelpie_snapshot opened;
    struct kelpie_error error = {0};
    (void)state;
    lay_out(FIXTURE_2);
    assert_int_equal(run("sed -i 's/\"format\":2,/\"format\":23,/' snapshots/kept/manifest.json"),
                     0);
    assert_int_equal(kelpie__snapshot_open(&opened, &store, "kept", &error),
                     KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(error.message, "has format 23, this version knows 2"));
    assert_int_equal(kelpie__snapshot_remove(&store, "kept", &error), 0);
}

int main(void) {
#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_a_stream_of_format_1_is_imported),
        ROW(test_a_stream_of_format_2_is_imported),
        ROW(test_a_directory_of_format_1_is_read),
        ROW(test_a_directory_of_format_2_is_read),
        ROW(test_a_newer_directory_is_refused_by_its_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
