/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Says what a disk image is: raw or qcow2, and which file system is in it. Reads a few blocks and
 * believes nothing. A qcow2 image that names other files is refused: it could name any file of the
 * host.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pack/pack.h"

#define IDENTIFY_HEAD_BYTES (72u * 1024u) /* the last magic number looked for is at 0x10040 */
#define IDENTIFY_QCOW2_HEADER_BYTES 104u
#define IDENTIFY_CLUSTER_BITS_MIN 9u
#define IDENTIFY_CLUSTER_BITS_MAX 21u
#define QCOW2_FEATURE_EXTERNAL_DATA 4u
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ULL
#define QCOW2_COMPRESSED (1ULL << 62)

struct identify_magic {
    size_t offset;
    const char *bytes;
    size_t length;
    const char *name;
    bool is_supported;
};

static const struct identify_magic identify_magics[] = {
    {1024, "\xe2\xe1\xf5\xe0", 4, "erofs", true},
    {1024 + 56, "\x53\xef", 2, "ext4", true},
    {0, "hsqs", 4, "squashfs", false},
    {0, "XFSB", 4, "xfs", false},
    {0x10040, "_BHRfS_M", 8, "btrfs", false},
    {0x8001, "CD001", 5, "ISO 9660", false},
    {512, "EFI PART", 8, "a partition table", false},
    {510, "\x55\xaa", 2, "a partition table or boot sector", false},
};

static_assert(IDENTIFY_HEAD_BYTES % 512u == 0, "whole sectors");
static_assert((1u << IDENTIFY_CLUSTER_BITS_MIN) >= 512u, "a cluster has a sector at least");
static_assert(IDENTIFY_QCOW2_HEADER_BYTES >= 80u, "it holds the features of version 3");

static uint64_t load_be(const uint8_t *bytes, size_t count) {
    uint64_t value = 0;
    KELPIE_ASSERT(count > 0 && count <= sizeof(value));
    for (size_t i = 0; i < count; i += 1) {
        value = value << 8 | bytes[i];
    }
    return value;
}

/* What is there; the rest stays zero. False: it cannot be read. */
static bool identify_read(int file, uint64_t offset, uint8_t *out, size_t count) {
    size_t done = 0;
    ssize_t result = 1;
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    memset(out, 0, count);
    while (result > 0 && done < count) {
        result = pread(file, out + done, count - done, (off_t)(offset + done));
        done += result > 0 ? (size_t)result : 0;
    }
    KELPIE_ASSERT(done <= count);
    return result >= 0;
}

/* The first bytes of the disk that the image stands for. */
static int identify_read_qcow2(int file, const char *path, const uint8_t *header, uint8_t *out) {
    uint64_t cluster_bits = load_be(header + 20, 4);
    uint64_t version = load_be(header + 4, 4);
    if (version < 2 || version > 3 || cluster_bits < IDENTIFY_CLUSTER_BITS_MIN ||
        cluster_bits > IDENTIFY_CLUSTER_BITS_MAX) {
        return kelpie__pack_fail(0, "\"%s\": a qcow2 image of an unknown version", path);
    }
    bool has_data_file =
        version == 3 && (load_be(header + 72, 8) & QCOW2_FEATURE_EXTERNAL_DATA) != 0;
    if (load_be(header + 8, 8) != 0 || has_data_file) {
        return kelpie__pack_fail(0,
                                 "\"%s\" depends on another file; make one image of them with "
                                 "qemu-img convert -O qcow2",
                                 path);
    }
    if (load_be(header + 32, 4) != 0) {
        return kelpie__pack_fail(0, "\"%s\" is encrypted, which Kelpie does not support", path);
    }
    size_t cluster = (size_t)1 << cluster_bits;
    for (size_t at = 0; at < IDENTIFY_HEAD_BYTES; at += cluster) {
        uint8_t entry[8];
        size_t count = IDENTIFY_HEAD_BYTES - at < cluster ? IDENTIFY_HEAD_BYTES - at : cluster;
        KELPIE_ASSERT(count > 0);
        KELPIE_ASSERT(at + count <= IDENTIFY_HEAD_BYTES);
        uint64_t per_table = cluster / sizeof(entry);
        uint64_t index = at / cluster;
        KELPIE_ASSERT(per_table > 0);
        uint64_t table_entry = load_be(header + 40, 8) + index / per_table * sizeof(entry);
        if (!identify_read(file, table_entry, entry, sizeof(entry))) {
            return kelpie__pack_fail(errno, "read \"%s\"", path);
        }
        uint64_t table = load_be(entry, sizeof(entry)) & QCOW2_OFFSET_MASK;
        uint64_t data = 0;
        if (table != 0) {
            if (!identify_read(file, table + index % per_table * sizeof(entry), entry,
                               sizeof(entry))) {
                return kelpie__pack_fail(errno, "read \"%s\"", path);
            }
            data = load_be(entry, sizeof(entry));
        }
        if ((data & QCOW2_COMPRESSED) != 0) {
            return kelpie__pack_fail(0,
                                     "\"%s\" is a compressed image; expand it with qemu-img "
                                     "convert -O qcow2",
                                     path);
        }
        data &= QCOW2_OFFSET_MASK;
        if (data != 0 && !identify_read(file, data, out + at, count)) {
            return kelpie__pack_fail(errno, "read \"%s\"", path);
        }
    }
    return KELPIE_PACK_OK;
}

static int identify_file_system(const char *path, const uint8_t *head, const char **out) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(identify_magics); i += 1) {
        const struct identify_magic *magic = &identify_magics[i];
        KELPIE_ASSERT(magic->offset + magic->length <= IDENTIFY_HEAD_BYTES);
        KELPIE_ASSERT(magic->length > 0);
        if (memcmp(head + magic->offset, magic->bytes, magic->length) != 0) {
            continue;
        }
        if (!magic->is_supported) {
            return kelpie__pack_fail(0,
                                     "\"%s\" holds %s; Kelpie takes an image with an ext4 or "
                                     "EROFS file system and nothing around it",
                                     path, magic->name);
        }
        *out = magic->name;
        return KELPIE_PACK_OK;
    }
    return kelpie__pack_fail(0, "\"%s\" holds an unknown file system; Kelpie takes ext4 and EROFS",
                             path);
}

static int identify_open_file(int file, const char *path) {
    static uint8_t const qcow2_magic[4] = {'Q', 'F', 'I', 0xfb};
    uint8_t header[IDENTIFY_QCOW2_HEADER_BYTES];
    uint8_t head[IDENTIFY_HEAD_BYTES] = {0};
    struct stat stat;
    if (fstat(file, &stat) < 0) {
        return kelpie__pack_fail(errno, "look at \"%s\"", path);
    }
    if (!S_ISREG(stat.st_mode) && !S_ISBLK(stat.st_mode)) {
        return kelpie__pack_fail(0, "\"%s\" is neither a directory nor a disk image", path);
    }
    if (!identify_read(file, 0, header, sizeof(header))) {
        return kelpie__pack_fail(errno, "read \"%s\"", path);
    }
    bool is_qcow2 = memcmp(header, qcow2_magic, sizeof(qcow2_magic)) == 0;
    int status = KELPIE_PACK_OK;
    if (is_qcow2) {
        status = identify_read_qcow2(file, path, header, head);
    } else if (!identify_read(file, 0, head, sizeof(head))) {
        status = kelpie__pack_fail(errno, "read \"%s\"", path);
    }
    const char *file_system = NULL;
    if (status == KELPIE_PACK_OK) {
        status = identify_file_system(path, head, &file_system);
    }
    if (status == KELPIE_PACK_OK) {
        KELPIE_ASSERT(file_system != NULL);
        printf("%s %s\n", is_qcow2 ? "qcow2" : "raw", file_system);
    }
    return status;
}

int kelpie__pack_identify(int argc, char **argv) {
    if (argc != 2) {
        return KELPIE_PACK_USAGE;
    }
    /* Without waiting: a path that names a FIFO must not hang. */
    int file = open(argv[1], O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0) {
        return kelpie__pack_fail(errno, "open \"%s\"", argv[1]);
    }
    int status = identify_open_file(file, argv[1]);
    close(file);
    return status;
}
