/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/merge and the header of store/qcow2: layers that are made by hand, as QEMU would write
 * them, laid over a raw image. What cannot be merged is refused by name and changes nothing.
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
#include "store/merge.h"
#include "store/qcow2.h"
#include "vmm/vmm.h"

#define CLUSTER 65536u
#define DISK_BYTES (16u * CLUSTER + 4096u) /* the last one is cut off */
#define FIRST_TABLE (3u * CLUSTER)
#define SECOND_TABLE (4u * CLUSTER)
#define DATA (5u * CLUSTER)
#define LAYER_NAME "disk-over.qcow2"

static char directory[] = "/tmp/kelpie-test-merge-XXXXXX";
static struct kelpie_os *os;
static int image; /* raw: 'r' everywhere but in cluster 3, a hole */
static int layer; /* an empty layer over it */
static struct kelpie_error broken;

static int make_file(const char *name) {
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    return file;
}

static void fill(int file, uint64_t offset, size_t count, char value) {
    static char bytes[CLUSTER];
    memset(bytes, value, sizeof(bytes));
    assert_int_equal(pwrite(file, bytes, count, (off_t)offset), count);
}

static void put_u64(uint64_t offset, uint64_t value) {
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i += 1) {
        bytes[i] = (uint8_t)(value >> (56 - 8 * i));
    }
    assert_int_equal(pwrite(layer, bytes, sizeof(bytes), (off_t)offset), 8);
}

static void put_cluster(unsigned index, uint64_t entry) {
    put_u64(FIRST_TABLE, SECOND_TABLE | UINT64_C(1) << 63);
    put_u64(SECOND_TABLE + 8u * index, entry);
}

static int set_up(void **state) {
    assert_non_null(state);
    snprintf(directory, sizeof(directory), "/tmp/kelpie-test-merge-XXXXXX");
    assert_non_null(mkdtemp(directory));
    os = kelpie__os_linux_create();
    assert_non_null(os);
    image = make_file("disk-under.raw");
    assert_int_equal(ftruncate(image, DISK_BYTES), 0);
    for (unsigned i = 0; i < 16; i += 1) {
        if (i != 3) {
            fill(image, (uint64_t)i * CLUSTER, CLUSTER, 'r');
        }
    }
    fill(image, 16u * CLUSTER, 4096, 'r');
    layer = make_file(LAYER_NAME);
    const struct kelpie_vmm_overlay overlay = {.file = layer,
                                               .backing = image,
                                               .backing_format = KELPIE_VMM_DISK_RAW,
                                               .backing_name = "disk-under.raw"};
    assert_int_equal(kelpie__vmm_make_overlay(kelpie__vmm_driver(KELPIE_VMM_BACKEND_QEMU), os,
                                              &overlay, &broken),
                     0);
    return 0;
}

static int tear_down(void **state) {
    char command[160];
    assert_non_null(state);
    close(image);
    close(layer);
    kelpie__os_linux_destroy(os);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

/* What cluster `index` of the image is filled with; 0: zeros, '?': not one byte throughout. */
static char cluster_of(unsigned index) {
    static char bytes[CLUSTER];
    size_t count = index == 16 ? 4096 : CLUSTER;
    assert_int_equal(pread(image, bytes, count, (off_t)index * CLUSTER), count);
    return memcmp(bytes, bytes + 1, count - 1) == 0 ? bytes[0] : '?';
}

static void test_empty_layer_changes_nothing(void **state) {
    (void)state;
    assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &broken), 0);
    for (unsigned i = 0; i < 17; i += 1) {
        assert_int_equal(cluster_of(i), i == 3 ? 0 : 'r');
    }
}

static void test_what_was_written_is_laid_over_it(void **state) {
    struct stat before;
    struct stat after;
    (void)state;
    fill(layer, DATA, CLUSTER, 'a');
    fill(layer, DATA + CLUSTER, CLUSTER, 'b');
    fill(layer, DATA + 2u * CLUSTER, 4096, 'c'); /* the file ends in its last cluster */
    put_cluster(0, DATA | UINT64_C(1) << 63);
    put_cluster(3, DATA + CLUSTER);
    put_cluster(5, 1);         /* zeros over something */
    put_cluster(6, DATA | 1u); /* zeros, with a place kept for data */
    put_cluster(16, DATA + 2u * CLUSTER);
    assert_int_equal(fstat(image, &before), 0);
    assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &broken), 0);
    assert_int_equal(fstat(image, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    for (unsigned i = 0; i < 17; i += 1) {
        char wanted = i == 0 ? 'a' : i == 3 ? 'b' : i == 5 || i == 6 ? 0 : i == 16 ? 'c' : 'r';
        assert_int_equal(cluster_of(i), wanted);
    }
}

static void test_zeros_over_a_hole_leave_it(void **state) {
    struct stat before;
    struct stat after;
    (void)state;
    put_cluster(3, 1);
    assert_int_equal(fstat(image, &before), 0);
    assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &broken), 0);
    assert_int_equal(fstat(image, &after), 0);
    assert_int_equal(cluster_of(3), 0);
    assert_int_equal(after.st_blocks, before.st_blocks);
}

static void test_what_cannot_be_merged_is_refused(void **state) {
    static const struct {
        uint64_t place;
        uint64_t value;
        const char *words;
    } lies[] = {
        {0, 0, "is no qcow2 image"},
        {16, UINT64_C(14) << 32 | 40u, "is no qcow2 image"}, /* clusters of a terabyte */
        {72, 1u << 4, "is no qcow2 image"},                  /* tables of another kind */
        {24, DISK_BYTES + 512u, "another size"},
        {36, 0, "too short"},
    };
    struct kelpie_error error;
    (void)state;
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        uint8_t kept[8];
        error = (struct kelpie_error){0};
        assert_int_equal(pread(layer, kept, 8, (off_t)lies[i].place), 8);
        put_u64(lies[i].place, lies[i].value);
        assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &error),
                         KELPIE_E_SNAPSHOT_CORRUPTED);
        assert_non_null(strstr(error.message, lies[i].words));
        assert_non_null(strstr(error.message, LAYER_NAME));
        assert_int_equal(pwrite(layer, kept, 8, (off_t)lies[i].place), 8);
    }
    error = (struct kelpie_error){0};
    put_cluster(2, DATA | UINT64_C(1) << 62);
    assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &error),
                     KELPIE_E_SNAPSHOT_CORRUPTED);
    assert_non_null(strstr(error.message, "compressed"));
}

static void test_layer_is_put_over_another_image(void **state) {
    static const struct {
        const char *name;
        const char *format;
    } steps[] = {{"disk-0123456789abcdef0123456789abcdef.raw", "raw"},
                 {"disk-fedcba9876543210fedcba9876543210.qcow2", "qcow2"},
                 {"x", "raw"}};
    (void)state;
    put_cluster(7, 1);
    for (size_t i = 0; i < 3; i += 1) {
        assert_int_equal(
            kelpie__qcow2_rebase(os, layer, LAYER_NAME, steps[i].name, steps[i].format, &broken),
            0);
        assert_int_equal(
            kelpie__qcow2_check(os, layer, LAYER_NAME, steps[i].name, steps[i].format, &broken), 0);
    }
    assert_true(kelpie__qcow2_check(os, layer, LAYER_NAME, "disk-under.raw", "raw", NULL) < 0);
    assert_int_equal(kelpie__merge_layer(os, layer, LAYER_NAME, image, &broken), 0);
    assert_int_equal(cluster_of(7), 0); /* and nothing else of it is another */
}

static void test_header_without_a_format_is_left_alone(void **state) {
    uint8_t before[512];
    uint8_t after[512];
    struct kelpie_error error = {0};
    (void)state;
    put_u64(104, 0); /* its first extension ends them */
    assert_int_equal(pread(layer, before, sizeof(before), 0), sizeof(before));
    assert_int_equal(kelpie__qcow2_rebase(os, layer, LAYER_NAME, "other.raw", "raw", &error),
                     KELPIE_E_SNAPSHOT_CORRUPTED);
    assert_int_equal(pread(layer, after, sizeof(after), 0), sizeof(after));
    assert_memory_equal(before, after, sizeof(before));
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROW(test_empty_layer_changes_nothing),     ROW(test_what_was_written_is_laid_over_it),
        ROW(test_zeros_over_a_hole_leave_it),      ROW(test_what_cannot_be_merged_is_refused),
        ROW(test_layer_is_put_over_another_image), ROW(test_header_without_a_format_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
