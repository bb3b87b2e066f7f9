/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The writable layer of a VM: an ext4 in a sparse file, with as little in it as mke2fs allows (a
 * few hundred KiB), so that a VM costs no room before it writes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/limits.h"
#include "pack/pack.h"

#define DISK_OUTPUT_BYTES 4096u
#define DISK_MIB (1024u * 1024u)

static_assert((uint64_t)KELPIE_DISK_SIZE_MIB_MAX <= (uint64_t)INT64_MAX / DISK_MIB,
              "the largest disk has a size that a file can have");

static int disk_make(struct kelpie_pack_output *output, const char *path, uint64_t size_mib) {
    char text[DISK_OUTPUT_BYTES];
    const char *const argv[] = {"mke2fs",
                                "-q",
                                "-F",
                                "-t",
                                "ext4",
                                "-E",
                                "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
                                "-O",
                                "^resize_inode",
                                "-m",
                                "0",
                                output->path,
                                NULL};
    const struct kelpie_pack_run run = {.argv = argv,
                                        .package = "e2fsprogs",
                                        .passed_file = output->file,
                                        .output = text,
                                        .output_capacity = sizeof(text)};
    KELPIE_ASSERT(output->file >= 0);
    KELPIE_ASSERT(output->path[0] == '/');
    KELPIE_ASSERT(size_mib >= KELPIE_DISK_SIZE_MIB_MIN);
    KELPIE_ASSERT(size_mib <= KELPIE_DISK_SIZE_MIB_MAX);
    if (ftruncate(output->file, (off_t)(size_mib * DISK_MIB)) < 0) {
        return kelpie__pack_fail(errno, "make \"%s\" %llu MiB long", path,
                                 (unsigned long long)size_mib);
    }
    int status = kelpie__pack_run(&run);
    return status == KELPIE_PACK_OK ? kelpie__pack_output_commit(output) : status;
}

int kelpie__pack_disk(int argc, char **argv) {
    char *end = NULL;
    if (argc != 3) {
        return KELPIE_PACK_USAGE;
    }
    errno = 0;
    unsigned long long size_mib = strtoull(argv[1], &end, 10);
    if (errno != 0 || end == argv[1] || *end != '\0' || size_mib < KELPIE_DISK_SIZE_MIB_MIN ||
        size_mib > KELPIE_DISK_SIZE_MIB_MAX) {
        return kelpie__pack_fail(0, "disk size \"%s\" is not within %u to %u MiB", argv[1],
                                 KELPIE_DISK_SIZE_MIB_MIN, KELPIE_DISK_SIZE_MIB_MAX);
    }
    struct kelpie_pack_output output;
    int status = kelpie__pack_output_open(&output, argv[2]);
    if (status == KELPIE_PACK_OK) {
        status = disk_make(&output, argv[2], size_mib);
    }
    kelpie__pack_output_close(&output);
    KELPIE_ASSERT(output.file < 0);
    return status;
}
