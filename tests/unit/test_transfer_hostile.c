/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/: streams that are whole, signed, and of a snapshot that Kelpie would never have made. Each
 * way to reach beyond the snapshot, or to give a VMM what it cannot bear, is refused by its own
 * reason and leaves nothing. Method: a tiny snapshot, changed before it is sealed and exported.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/transfer.h"
#include "tiny_snapshot.h"

#define STREAM_BYTES_MAX (4u << 20)

static char base[64];
static struct kelpie_os *os;
static struct kelpie_snapshot_store store;
static struct kelpie_origin origin;
static uint8_t *bytes;
static size_t byte_count;
static size_t byte_at;

static int64_t stream_read(void *context, void *out, size_t count) {
    size_t part = byte_count - byte_at < count ? byte_count - byte_at : count;
    (void)context;
    memcpy(out, bytes + byte_at, part);
    byte_at += part;
    return (int64_t)part;
}

static int64_t stream_write(void *context, const void *from, size_t count) {
    (void)context;
    assert_true(byte_count + count <= STREAM_BYTES_MAX);
    memcpy(bytes + byte_count, from, count);
    byte_count += count;
    return (int64_t)count;
}

static int set_up(void **state) {
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(base, sizeof(base), "%.40s/kelpie-hostile-XXXXXX", parent != NULL ? parent : "/tmp");
    assert_non_null(mkdtemp(base));
    os = kelpie__os_linux_create();
    bytes = malloc(STREAM_BYTES_MAX);
    assert_non_null(os);
    assert_non_null(bytes);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, base, "snapshots", NULL), 0);
    assert_int_equal(kelpie__origin_read(&origin, os, base, NULL), 0);
    return 0;
}

static int tear_down(void **state) {
    char text[128];
    (void)state;
    free(bytes);
    kelpie__snapshot_store_close(&store);
    kelpie__os_linux_destroy(os);
    snprintf(text, sizeof(text), "rm -rf %s", base);
    return system(text);
}

static uint32_t entries(void) {
    uint64_t cursor = 0;
    char name[256];
    uint32_t count = 0;
    while (kelpie__os_list(os, store.directory, &cursor, name, sizeof(name)) == 1) {
        count += 1;
    }
    return count;
}

/* Made, hurt, sealed, exported, removed; then it comes back. */
static int comes_back(void (*hurt)(struct kelpie_snapshot *snapshot), struct kelpie_error *error) {
    struct kelpie_snapshot snapshot;
    const struct kelpie_parcel_output output = {.write = stream_write};
    const struct kelpie_parcel_input input = {.read = stream_read};
    const struct kelpie_snapshot_import options = {.name = "other", .is_trusted = true};
    byte_count = 0;
    byte_at = 0;
    tiny_make(&store, "tiny", hurt);
    assert_int_equal(kelpie__snapshot_open(&snapshot, &store, "tiny", error), 0);
    assert_int_equal(kelpie__snapshot_export(&snapshot, &origin, &output, error), 0);
    kelpie__snapshot_close(&snapshot);
    assert_int_equal(kelpie__snapshot_remove(&store, "tiny", error), 0);
    int status = kelpie__snapshot_import(&snapshot, &store, &origin, &input, &options, error);
    if (status == 0) {
        kelpie__snapshot_close(&snapshot);
        assert_int_equal(kelpie__snapshot_remove(&store, "other", error), 0);
    }
    assert_int_equal(entries(), 0);
    return status;
}

/* ---- manifests ------------------------------------------------------------------------------- */

static void edit(struct kelpie_snapshot *snapshot, const char *name, const void *from, size_t count,
                 uint64_t offset) {
    int file =
        kelpie__os_open(os, snapshot->directory, name,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600);
    assert_true(file >= 0);
    assert_int_equal(kelpie__os_pwrite(os, file, from, count, offset), count);
    assert_int_equal(kelpie__os_close(os, file), 0);
}

static void resize(struct kelpie_snapshot *snapshot, const char *name, uint64_t size_bytes) {
    int file = kelpie__os_open(os, snapshot->directory, name, KELPIE_OS_OPEN_WRITE, 0);
    assert_true(file >= 0);
    assert_int_equal(kelpie__os_truncate(os, file, size_bytes), 0);
    assert_int_equal(kelpie__os_close(os, file), 0);
}

static struct kelpie_manifest_file *listed(struct kelpie_snapshot *snapshot, const char *name) {
    for (uint32_t i = 0; i < snapshot->manifest.file_count; i += 1) {
        if (strcmp(snapshot->manifest.files[i].name, name) == 0) {
            return &snapshot->manifest.files[i];
        }
    }
    fail_msg("\"%s\" is not listed", name);
    return NULL;
}

static void list_as(struct kelpie_snapshot *snapshot, const char *from, const char *to) {
    struct kelpie_manifest_file *file = listed(snapshot, from);
    edit(snapshot, to, "x", 1, 0);
    snprintf(file->name, sizeof(file->name), "%s", to);
}

static void hurt_memory_small(struct kelpie_snapshot *snapshot) {
    resize(snapshot, "memory", TINY_MEMORY_BYTES - 4096);
}
static void hurt_memory_claim(struct kelpie_snapshot *snapshot) {
    snapshot->manifest.memory_mib = 65536;
}
static void hurt_cpus(struct kelpie_snapshot *snapshot) {
    snapshot->manifest.cpu_count = 2;
}
static void hurt_map(struct kelpie_snapshot *snapshot) {
    resize(snapshot, "map", 1);
}
static void hurt_base(struct kelpie_snapshot *snapshot) {
    snapshot->manifest.has_base = false;
}
static void hurt_device_missing(struct kelpie_snapshot *snapshot) {
    list_as(snapshot, "device", "disk-device.qcow2");
}
static void hurt_device_large(struct kelpie_snapshot *snapshot) {
    resize(snapshot, "device", KELPIE_DEVICE_STATE_BYTES_MAX + 1);
}
static void hurt_file_without_use(struct kelpie_snapshot *snapshot) {
    list_as(snapshot, "map", "verified");
}
static void hurt_file_twice(struct kelpie_snapshot *snapshot) {
    list_as(snapshot, "map", "memory");
}
static void hurt_label(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.label, sizeof(snapshot->manifest.label), "\x1b[2J");
}
static void hurt_token(struct kelpie_snapshot *snapshot) {
    snapshot->manifest.token[0] = '"';
}
static void hurt_vm_name(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.vm_name, sizeof(snapshot->manifest.vm_name), "../up");
}
static void hurt_disk_elsewhere(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.disks[0].file, 64, "root-elsewhere");
}
static void hurt_disk_format(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.disks[1].format, 8, "vmdk");
}
static void hurt_disk_raw(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.disks[1].format, 8, "raw");
}
static void hurt_disk_memory(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.disks[1].file, 64, "memory");
}
static void hurt_two_writable(struct kelpie_snapshot *snapshot) {
    snapshot->manifest.disks[0].is_read_only = false;
}
static void hurt_layers_swapped(struct kelpie_snapshot *snapshot) {
    struct kelpie_manifest_file *low = listed(snapshot, TINY_LAYER_0);
    struct kelpie_manifest_file *high = listed(snapshot, TINY_LAYER_1);
    struct kelpie_manifest_file kept = *low;
    *low = *high;
    *high = kept;
}
static void hurt_serial(struct kelpie_snapshot *snapshot) {
    snprintf(snapshot->manifest.disks[0].serial, 16, "a,b=c");
}
static void hurt_config(struct kelpie_snapshot *snapshot) {
    edit(snapshot, "config.json", "no", 2, 0);
}

struct refused {
    void (*hurt)(struct kelpie_snapshot *snapshot);
    int code;
    const char *text;
};

static void all_are_refused(const struct refused *rows, size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        struct kelpie_error error = {0};
        int status = comes_back(rows[i].hurt, &error);
        if (status != rows[i].code || strstr(error.message, rows[i].text) == NULL) {
            fail_msg("row %zu: %s: %s, not \"%s\"", i, kelpie_code_name(status), error.message,
                     rows[i].text);
        }
    }
}

static void test_manifests_that_cannot_be(void **state) {
    static const struct refused rows[] = {
        {hurt_memory_small, KELPIE_E_SNAPSHOT_CORRUPTED, "wrong size the file \"memory\""},
        {hurt_memory_claim, KELPIE_E_SNAPSHOT_CORRUPTED, "a machine that cannot be"},
        {hurt_cpus, KELPIE_E_SNAPSHOT_CORRUPTED, "does not fit the configuration"},
        {hurt_map, KELPIE_E_SNAPSHOT_CORRUPTED, "wrong size the file \"map\""},
        {hurt_base, KELPIE_E_SNAPSHOT_CORRUPTED, "has too much"},
        {hurt_device_missing, KELPIE_E_SNAPSHOT_CORRUPTED, "the file \"device\""},
        {hurt_device_large, KELPIE_E_SNAPSHOT_CORRUPTED, "the file \"device\""},
        {hurt_file_without_use, KELPIE_E_SNAPSHOT_CORRUPTED, "no use for, the file \"verified\""},
        {hurt_file_twice, KELPIE_E_SNAPSHOT_CORRUPTED, "has twice"},
        {hurt_label, KELPIE_E_SNAPSHOT_CORRUPTED, "control characters"},
        {hurt_token, KELPIE_E_SNAPSHOT_CORRUPTED, "an id that is none"},
        {hurt_vm_name, KELPIE_E_SNAPSHOT_CORRUPTED, "an id that is none"},
        {hurt_disk_elsewhere, KELPIE_E_SNAPSHOT_CORRUPTED, "no use for, the file \"root-"},
        {hurt_disk_format, KELPIE_E_SNAPSHOT_CORRUPTED, "a disk that cannot be"},
        {hurt_disk_raw, KELPIE_E_SNAPSHOT_CORRUPTED, "layers that are not those of the disk"},
        {hurt_disk_memory, KELPIE_E_SNAPSHOT_CORRUPTED, "layers that are not those of the disk"},
        {hurt_two_writable, KELPIE_E_SNAPSHOT_CORRUPTED, "no use for, the file \"root-"},
        {hurt_layers_swapped, KELPIE_E_SNAPSHOT_CORRUPTED, "in the wrong place"},
        {hurt_serial, KELPIE_E_SNAPSHOT_CORRUPTED, "a disk that cannot be"},
        {hurt_config, KELPIE_E_SNAPSHOT_CORRUPTED, "a damaged configuration"},
    };
    struct kelpie_error error = {0};
    (void)state;
    assert_int_equal(comes_back(NULL, &error), 0);
    all_are_refused(rows, KELPIE_ARRAY_COUNT(rows));
}

/* ---- disk images ----------------------------------------------------------------------------- */

static void edit_layer(struct kelpie_snapshot *snapshot, const char *from, size_t count,
                       uint64_t offset) {
    edit(snapshot, TINY_LAYER_1, from, count, offset);
}

/* The name lies at 128, behind the header and two extensions; its length, in the header, at 16. */
static void hurt_backing_absolute(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "/etc/shadow", 11, 128);
    edit_layer(snapshot, "\0\0\0\x0b", 4, 16);
}
static void hurt_backing_json(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "json:{\"driver\":\"nbd\"}", 21, 128);
    edit_layer(snapshot, "\0\0\0\x15", 4, 16);
}
static void hurt_backing_none(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\0\0\0\0\0\0\0\0\0\0\0\0", 12, 8);
}
static void hurt_backing_beyond(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\0\0\0\1", 4, 8);
}
static void hurt_backing_guessed(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\0\0\0\0", 4, 104);
}
static void hurt_backing_format(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "vdi", 3, 112);
}
static void hurt_data_elsewhere(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\4", 1, 79);
}
static void hurt_data_named(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "DATA", 4, 104);
}
static void hurt_encrypted(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\2", 1, 35);
}
static void hurt_inner_snapshots(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\1", 1, 63);
}
static void hurt_magic(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "VMDK", 4, 0);
}
static void hurt_header_length(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\0\0\xff\xff", 4, 100);
}
static void hurt_extension_length(struct kelpie_snapshot *snapshot) {
    edit_layer(snapshot, "\xff\xff\xff\xff", 4, 108);
}
static void hurt_layer_short(struct kelpie_snapshot *snapshot) {
    resize(snapshot, TINY_LAYER_1, 100);
}
/* A read-only image must depend on nothing. */
static void hurt_root_backing(struct kelpie_snapshot *snapshot) {
    uint8_t head[256];
    int file = kelpie__os_open(os, snapshot->directory, TINY_LAYER_1, KELPIE_OS_OPEN_READ, 0);
    assert_int_equal(kelpie__os_pread(os, file, head, sizeof(head), 0), sizeof(head));
    assert_int_equal(kelpie__os_close(os, file), 0);
    edit(snapshot, TINY_ROOT, head, sizeof(head), 0);
    snprintf(snapshot->manifest.disks[0].format, 8, "qcow2");
}

static void test_disk_images_that_reach_elsewhere(void **state) {
    static const struct refused rows[] = {
        {hurt_backing_absolute, KELPIE_E_SNAPSHOT_CORRUPTED, "than the layer below it"},
        {hurt_backing_json, KELPIE_E_SNAPSHOT_CORRUPTED, "than the layer below it"},
        {hurt_backing_none, KELPIE_E_SNAPSHOT_CORRUPTED, "than the layer below it"},
        {hurt_backing_beyond, KELPIE_E_SNAPSHOT_CORRUPTED, "than the layer below it"},
        {hurt_backing_guessed, KELPIE_E_SNAPSHOT_CORRUPTED, "another format of what is below"},
        {hurt_backing_format, KELPIE_E_SNAPSHOT_CORRUPTED, "another format of what is below"},
        {hurt_data_elsewhere, KELPIE_E_SNAPSHOT_CORRUPTED, "has its data elsewhere"},
        {hurt_data_named, KELPIE_E_SNAPSHOT_CORRUPTED, "an extension that is not known"},
        {hurt_encrypted, KELPIE_E_SNAPSHOT_CORRUPTED, "is encrypted"},
        {hurt_inner_snapshots, KELPIE_E_SNAPSHOT_CORRUPTED, "snapshots of its own"},
        {hurt_magic, KELPIE_E_SNAPSHOT_CORRUPTED, "is no qcow2 image"},
        {hurt_header_length, KELPIE_E_SNAPSHOT_CORRUPTED, "extensions that are too long"},
        {hurt_extension_length, KELPIE_E_SNAPSHOT_CORRUPTED, "extensions that are too long"},
        {hurt_layer_short, KELPIE_E_SNAPSHOT_CORRUPTED, "is no qcow2 image"},
        {hurt_root_backing, KELPIE_E_SNAPSHOT_CORRUPTED, "must not"},
    };
    (void)state;
    all_are_refused(rows, KELPIE_ARRAY_COUNT(rows));
}

int main(void) {
#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_manifests_that_cannot_be),
        ROW(test_disk_images_that_reach_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
