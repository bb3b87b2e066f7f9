/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A new, empty qcow2 layer (QEMU's docs/interop/qcow2.txt, version 3): header, a table of reference
 * counts with one block, and a table of clusters, four clusters of 64 KiB in all. Written here
 * because the name of the backing file has to be what the caller says, and no program has to be
 * run, nor is there one to be trusted with a path.
 */
#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "vmm/qemu/instance.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_VERSION 3u
#define QCOW2_HEADER_BYTES 104u
#define QCOW2_SIZE_OFFSET 24u
#define QCOW2_FORMAT_EXTENSION 0xe2792acau
#define QCOW2_CLUSTER_BITS 16u
#define QCOW2_CLUSTER_BYTES (1u << QCOW2_CLUSTER_BITS)
/* One entry of the first table stands for a cluster of second entries of eight bytes. */
#define QCOW2_BYTES_PER_ENTRY ((uint64_t)QCOW2_CLUSTER_BYTES * (QCOW2_CLUSTER_BYTES / 8u))
#define QCOW2_DISK_BYTES_MAX (QCOW2_BYTES_PER_ENTRY * (QCOW2_CLUSTER_BYTES / 8u))
#define QCOW2_SECTOR_BYTES 512u
#define QCOW2_HEAD_BYTES 2048u /* what of the first cluster is written */
#define QCOW2_NAME_BYTES_MAX 1023u

enum qcow2_place { QCOW2_COUNT_TABLE = 1, QCOW2_COUNT_BLOCK, QCOW2_CLUSTER_TABLE, QCOW2_PLACES };

static_assert(QCOW2_HEADER_BYTES + 24u + QCOW2_NAME_BYTES_MAX <= QCOW2_HEAD_BYTES,
              "the longest name is in the head");

static_assert(KELPIE_DISK_SIZE_MIB_MAX * UINT64_C(1048576) <= QCOW2_DISK_BYTES_MAX,
              "one cluster of the first table is enough");

static void put_u32(uint8_t *out, uint32_t value) {
    for (uint32_t i = 0; i < 4; i += 1) {
        out[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

static void put_u64(uint8_t *out, uint64_t value) {
    put_u32(out, (uint32_t)(value >> 32));
    put_u32(out + 4, (uint32_t)value);
}

/* The size of the disk that the image holds. */
static int overlay_disk_bytes(struct kelpie_os *os, const struct kelpie_vmm_overlay *overlay,
                              uint64_t *out_bytes, struct kelpie_error *error) {
    KELPIE_ASSERT(overlay->backing >= 0);
    struct kelpie_os_stat stat = {0};
    uint8_t head[QCOW2_SIZE_OFFSET + 8] = {0};
    int64_t status = kelpie__os_stat(os, overlay->backing, "", false, &stat);
    uint64_t bytes = stat.size_bytes;
    if (status >= 0 && overlay->backing_format == KELPIE_VMM_DISK_QCOW2) {
        status = kelpie__os_pread(os, overlay->backing, head, sizeof(head), 0);
        uint8_t magic[4];
        put_u32(magic, QCOW2_MAGIC);
        bool is_qcow2 = status == (int64_t)sizeof(head) && memcmp(head, magic, 4) == 0;
        bytes = 0;
        for (uint32_t i = 0; i < 8 && is_qcow2; i += 1) {
            bytes = bytes << 8 | head[QCOW2_SIZE_OFFSET + i];
        }
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-status, "read the disk image \"%s\"",
                            overlay->backing_name);
    }
    if (bytes == 0 || bytes > QCOW2_DISK_BYTES_MAX || bytes % QCOW2_SECTOR_BYTES != 0) {
        return kelpie__fail(error, KELPIE_E_CONFIG, 0,
                            "the disk image \"%s\" has a size of %llu bytes: no layer can be laid "
                            "over it",
                            overlay->backing_name, (unsigned long long)bytes);
    }
    *out_bytes = bytes;
    return 0;
}

static void overlay_header(uint8_t out[QCOW2_HEAD_BYTES], const struct kelpie_vmm_overlay *overlay,
                           uint64_t disk_bytes) {
    KELPIE_ASSERT(disk_bytes % QCOW2_SECTOR_BYTES == 0);
    const char *format =
        overlay->backing_format == KELPIE_VMM_DISK_QCOW2 ? "qcow2" : "raw"; /* of 8 bytes at most */
    size_t name_bytes = strlen(overlay->backing_name);
    uint32_t name_offset = QCOW2_HEADER_BYTES + 16 + 8; /* after two extensions */
    uint64_t entries = (disk_bytes + QCOW2_BYTES_PER_ENTRY - 1) / QCOW2_BYTES_PER_ENTRY;
    KELPIE_ASSERT(name_offset + name_bytes <= QCOW2_HEAD_BYTES);
    KELPIE_ASSERT(entries > 0 && entries <= QCOW2_CLUSTER_BYTES / 8u);
    memset(out, 0, QCOW2_HEAD_BYTES);
    put_u32(out, QCOW2_MAGIC);
    put_u32(out + 4, QCOW2_VERSION);
    put_u64(out + 8, name_offset);
    put_u32(out + 16, (uint32_t)name_bytes);
    put_u32(out + 20, QCOW2_CLUSTER_BITS);
    put_u64(out + QCOW2_SIZE_OFFSET, disk_bytes);
    put_u32(out + 36, (uint32_t)entries);
    put_u64(out + 40, (uint64_t)QCOW2_CLUSTER_TABLE * QCOW2_CLUSTER_BYTES);
    put_u64(out + 48, (uint64_t)QCOW2_COUNT_TABLE * QCOW2_CLUSTER_BYTES);
    put_u32(out + 56, 1); /* clusters of that table */
    put_u32(out + 96, 4); /* reference counts of 1 << 4 bits */
    put_u32(out + 100, QCOW2_HEADER_BYTES);
    put_u32(out + QCOW2_HEADER_BYTES, QCOW2_FORMAT_EXTENSION);
    put_u32(out + QCOW2_HEADER_BYTES + 4, (uint32_t)strlen(format));
    memcpy(out + QCOW2_HEADER_BYTES + 8, format, strlen(format));
    memcpy(out + name_offset, overlay->backing_name, name_bytes);
}

static int overlay_write(struct kelpie_os *os, int file, const uint8_t *bytes, size_t count,
                         uint64_t offset) {
    int64_t written = kelpie__os_pwrite(os, file, bytes, count, offset);
    return written == (int64_t)count ? 0 : written < 0 ? (int)written : -ENOSPC;
}

int kelpie__qemu_make_overlay(struct kelpie_os *os, const struct kelpie_vmm_overlay *overlay,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(overlay->file >= 0);
    KELPIE_ASSERT(overlay->backing_name[0] != '\0');
    uint8_t head[QCOW2_HEAD_BYTES];
    uint8_t table[8];
    uint8_t counts[2 * QCOW2_PLACES];
    uint64_t disk_bytes = 0;
    if (strlen(overlay->backing_name) > QCOW2_NAME_BYTES_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "the name \"%.100s...\" of a disk layer has %zu bytes, at most %u",
                            overlay->backing_name, strlen(overlay->backing_name),
                            QCOW2_NAME_BYTES_MAX);
    }
    int status = overlay_disk_bytes(os, overlay, &disk_bytes, error);
    if (status < 0) {
        return status;
    }
    overlay_header(head, overlay, disk_bytes);
    put_u64(table, (uint64_t)QCOW2_COUNT_BLOCK * QCOW2_CLUSTER_BYTES);
    for (uint32_t i = 0; i < QCOW2_PLACES; i += 1) {
        counts[2 * i] = 0;
        counts[2 * i + 1] = 1;
    }
    status = kelpie__os_truncate(os, overlay->file, (uint64_t)QCOW2_PLACES * QCOW2_CLUSTER_BYTES);
    if (status >= 0) {
        status = overlay_write(os, overlay->file, head, sizeof(head), 0);
    }
    if (status >= 0) {
        status = overlay_write(os, overlay->file, table, sizeof(table),
                               (uint64_t)QCOW2_COUNT_TABLE * QCOW2_CLUSTER_BYTES);
    }
    if (status >= 0) {
        status = overlay_write(os, overlay->file, counts, sizeof(counts),
                               (uint64_t)QCOW2_COUNT_BLOCK * QCOW2_CLUSTER_BYTES);
    }
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "write a disk layer over \"%s\"",
                                     overlay->backing_name)
                      : 0;
}
