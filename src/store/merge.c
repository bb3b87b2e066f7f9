/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See merge.h. The format is QEMU's docs/interop/qcow2.txt, of which a layer of ours uses the
 * simplest part: clusters, two levels of tables, zeros. What else there may be is refused.
 */
#include "store/merge.h"

#include <errno.h>
#include <string.h>

#include "core/base.h"
#include "core/limits.h"
#include "os/os_call.h"

#define MERGE_MAGIC 0x514649fbu
#define MERGE_HEADER_BYTES 104u
#define MERGE_CLUSTER_BITS_MIN 9u
#define MERGE_CLUSTER_BITS_MAX 21u
#define MERGE_ENTRY_BYTES 8u
#define MERGE_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define MERGE_IS_COMPRESSED (UINT64_C(1) << 62)
#define MERGE_IS_ZERO UINT64_C(1)
#define MERGE_TRIES 64u
#define MERGE_DISK_BYTES_MAX ((uint64_t)KELPIE_DISK_SIZE_MIB_MAX << 20)

struct merge {
    struct kelpie_os *os;
    int layer;
    int to;
    const char *name;
    uint64_t disk_bytes;
    uint32_t cluster_bytes;
    uint64_t first_table; /* offset */
    uint64_t first_count; /* entries that the disk needs */
    uint8_t *table;       /* owned: a cluster, the second table at hand */
    uint8_t *data;        /* owned: a cluster */
    uint8_t *old;         /* owned: a cluster of `to` */
};

static uint64_t merge_load(const uint8_t *bytes, size_t count) {
    uint64_t value = 0;
    KELPIE_ASSERT(count <= MERGE_ENTRY_BYTES);
    for (size_t i = 0; i < count; i += 1) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static int merge_refuse(const struct merge *merge, const char *what, struct kelpie_error *error) {
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0, "the disk layer \"%s\" %s",
                        merge->name, what);
}

static int merge_fail(const struct merge *merge, int status, const char *what,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    return kelpie__fail(error, KELPIE_E_IO, -status, "%s the disk layer \"%s\"", what, merge->name);
}

/* What is behind the end of a file is zeros: QEMU leaves a last cluster short. */
static int merge_read(const struct merge *merge, int file, uint8_t *out, size_t count,
                      uint64_t offset) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    size_t done = 0;
    int64_t got = 1;
    for (uint32_t i = 0; i < MERGE_TRIES && done < count && got != 0; i += 1) {
        got = kelpie__os_pread(merge->os, file, out + done, count - done, offset + done);
        if (got < 0 && got != -EINTR) {
            return (int)got;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    if (done < count && got != 0) {
        return -EIO;
    }
    memset(out + done, 0, count - done);
    return 0;
}

static int merge_write(const struct merge *merge, size_t count, uint64_t offset) {
    size_t done = 0;
    KELPIE_ASSERT(count <= merge->cluster_bytes);
    KELPIE_ASSERT(offset + count <= merge->disk_bytes);
    for (uint32_t i = 0; i < MERGE_TRIES && done < count; i += 1) {
        int64_t put = kelpie__os_pwrite(merge->os, merge->to, merge->data + done, count - done,
                                        offset + done);
        if (put < 0 && put != -EINTR) {
            return (int)put;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return done == count ? 0 : -EIO;
}

static int merge_read_header(struct merge *merge, struct kelpie_error *error) {
    uint8_t head[MERGE_HEADER_BYTES];
    struct kelpie_os_stat stat = {0};
    int status = merge_read(merge, merge->layer, head, sizeof(head), 0);
    if (status == 0) {
        status = kelpie__os_stat(merge->os, merge->to, "", false, &stat);
    }
    if (status < 0) {
        return merge_fail(merge, status, "read", error);
    }
    uint64_t version = merge_load(head + 4, 4);
    uint64_t bits = merge_load(head + 20, 4);
    bool is_known = merge_load(head, 4) == MERGE_MAGIC && (version == 2 || version == 3) &&
                    bits >= MERGE_CLUSTER_BITS_MIN && bits <= MERGE_CLUSTER_BITS_MAX &&
                    merge_load(head + 32, 4) == 0 && /* not encrypted */
                    (version == 2 || merge_load(head + 72, 8) == 0);
    if (!is_known) {
        return merge_refuse(merge, "is no qcow2 image that can be merged", error);
    }
    merge->disk_bytes = merge_load(head + 24, 8);
    merge->cluster_bytes = 1u << bits;
    merge->first_table = merge_load(head + 40, 8);
    if (merge->disk_bytes != stat.size_bytes || merge->disk_bytes > MERGE_DISK_BYTES_MAX) {
        return merge_refuse(merge, "is of another size than what is below it", error);
    }
    uint64_t table_bytes = (uint64_t)merge->cluster_bytes * (merge->cluster_bytes / 8u);
    merge->first_count = (merge->disk_bytes + table_bytes - 1) / table_bytes;
    if (merge_load(head + 36, 4) < merge->first_count || merge->first_table > INT64_MAX / 2) {
        return merge_refuse(merge, "has a table that is too short", error);
    }
    KELPIE_ASSERT(merge->cluster_bytes >= 1u << MERGE_CLUSTER_BITS_MIN);
    KELPIE_ASSERT(merge->cluster_bytes <= 1u << MERGE_CLUSTER_BITS_MAX);
    return 0;
}

static bool merge_is_zero(const uint8_t *bytes, size_t count) {
    KELPIE_ASSERT(count > 0);
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* One cluster. Zeros over zeros are left out, so that holes stay. */
static int merge_cluster(const struct merge *merge, uint64_t entry, uint64_t offset,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(offset < merge->disk_bytes);
    KELPIE_ASSERT(offset % merge->cluster_bytes == 0);
    size_t count = (size_t)kelpie__min_u64(merge->cluster_bytes, merge->disk_bytes - offset);
    uint64_t place = entry & MERGE_OFFSET_MASK;
    int status = 0;
    if ((entry & MERGE_IS_COMPRESSED) != 0) {
        return merge_refuse(merge, "has compressed clusters, which cannot be merged", error);
    }
    if ((entry & MERGE_IS_ZERO) != 0) {
        memset(merge->data, 0, count);
    } else if (place != 0) {
        status = merge_read(merge, merge->layer, merge->data, count, place);
    } else {
        return 0; /* what is below it shows */
    }
    if (status == 0 && merge_is_zero(merge->data, count)) {
        status = merge_read(merge, merge->to, merge->old, count, offset);
        if (status == 0 && merge_is_zero(merge->old, count)) {
            return 0;
        }
    }
    if (status == 0) {
        status = merge_write(merge, count, offset);
    }
    return status < 0 ? merge_fail(merge, status, "merge", error) : 0;
}

/* The part of the disk that one entry of the first table stands for. */
static int merge_part(const struct merge *merge, uint64_t index, struct kelpie_error *error) {
    uint8_t entry[MERGE_ENTRY_BYTES];
    uint32_t count = merge->cluster_bytes / MERGE_ENTRY_BYTES;
    KELPIE_ASSERT(index < merge->first_count);
    int status = merge_read(merge, merge->layer, entry, sizeof(entry),
                            merge->first_table + index * MERGE_ENTRY_BYTES);
    uint64_t table = merge_load(entry, sizeof(entry)) & MERGE_OFFSET_MASK;
    if (status == 0 && table == 0) {
        return 0; /* nothing of it was written */
    }
    if (status == 0) {
        status = merge_read(merge, merge->layer, merge->table, merge->cluster_bytes, table);
    }
    if (status < 0) {
        return merge_fail(merge, status, "read", error);
    }
    uint64_t first = index * count * merge->cluster_bytes;
    for (uint32_t i = 0; i < count && status == 0; i += 1) {
        uint64_t offset = first + (uint64_t)i * merge->cluster_bytes;
        const uint8_t *at = merge->table + (size_t)i * MERGE_ENTRY_BYTES;
        if (offset < merge->disk_bytes) {
            status = merge_cluster(merge, merge_load(at, MERGE_ENTRY_BYTES), offset, error);
        }
    }
    return status;
}

int kelpie__merge_layer(struct kelpie_os *os, int layer, const char *name, int to,
                        struct kelpie_error *error) {
    struct merge merge = {.os = os, .layer = layer, .to = to, .name = name};
    KELPIE_ASSERT(layer >= 0);
    KELPIE_ASSERT(to >= 0);
    KELPIE_ASSERT(layer != to);
    int status = merge_read_header(&merge, error);
    if (status < 0) {
        return status;
    }
    size_t bytes = merge.cluster_bytes;
    merge.table = kelpie__alloc_raw(os, bytes);
    merge.data = kelpie__alloc_raw(os, bytes);
    merge.old = kelpie__alloc_raw(os, bytes);
    if (merge.table == NULL || merge.data == NULL || merge.old == NULL) {
        status = kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory to merge disk layers");
    }
    for (uint64_t i = 0; i < merge.first_count && status == 0; i += 1) {
        status = merge_part(&merge, i, error);
    }
    kelpie__free(os, merge.table, bytes);
    kelpie__free(os, merge.data, bytes);
    kelpie__free(os, merge.old, bytes);
    return status;
}
