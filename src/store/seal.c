/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See seal.h. The same walk over the files makes the table of checksums and compares with it.
 */
#include "store/seal.h"

#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/json.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/sums.h"

#define SEAL_KNOWN_FILE "verified"
#define SEAL_BOOT_ID "/proc/sys/kernel/random/boot_id"
#define SEAL_FILE_MODE 0600u
#define SEAL_BLOCK_BYTES 4096u
#define SEAL_BLOCKS_MAX (KELPIE_SEAL_EXTENT_BYTES / SEAL_BLOCK_BYTES)
#define SEAL_FORMAT_WHOLE 1u /* of manifests: a checksum is one of all bytes of the extent */
#define SEAL_READS_MAX 4096u /* of one extent */
/* A file's time moves with the timer tick, 10 ms at most: a change in the tick of the check would
 * not show. */
#define SEAL_SETTLED_NS (50 * KELPIE_NS_PER_MS)

/* Words of this host, as in the table that the list ends in. */
struct seal_block {
    uint64_t number; /* within the extent */
    uint64_t sum;
};

static_assert(sizeof(struct seal_block) == 2 * sizeof(uint64_t), "summed without gaps");
static_assert(KELPIE_SEAL_EXTENT_BYTES % SEAL_BLOCK_BYTES == 0, "an extent is whole blocks");
static_assert(SEAL_FORMAT_WHOLE < KELPIE_MANIFEST_FORMAT, "what is made now sums blocks");
static_assert((uint64_t)KELPIE_SEAL_EXTENT_COUNT_MAX * sizeof(uint64_t) <= UINT32_MAX,
              "a table of all extents has a size that fits");

struct seal {
    struct kelpie_os *os;
    int directory;
    struct kelpie_seal_options options;
    uint8_t *buffer; /* owned: an extent */
    uint64_t *table; /* owned: KELPIE_SEAL_EXTENT_COUNT_MAX */
    uint32_t count;
    uint32_t capacity;
    uint32_t format;
    uint32_t block_count; /* of the extent that is being summed */
    uint64_t empty_sum;   /* of an extent of zeros */
    struct seal_block blocks[SEAL_BLOCKS_MAX];
};

static void seal_deinit(struct seal *seal) {
    kelpie__free(seal->os, seal->buffer, KELPIE_SEAL_EXTENT_BYTES);
    kelpie__free(seal->os, seal->table, (size_t)seal->capacity * sizeof(*seal->table));
}

uint64_t kelpie__seal_extents(uint64_t size_bytes) {
    return (size_bytes + KELPIE_SEAL_EXTENT_BYTES - 1) / KELPIE_SEAL_EXTENT_BYTES;
}

static int seal_init(struct seal *seal, struct kelpie_os *os, int directory,
                     const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    uint64_t extents = 0;
    memset(seal, 0, offsetof(struct seal, blocks));
    seal->os = os;
    seal->directory = directory;
    seal->format = manifest->format;
    seal->empty_sum = kelpie__checksum_u64(seal->blocks, 0);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    KELPIE_ASSERT(directory >= 0);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        extents += kelpie__seal_extents(manifest->files[i].size_bytes);
        if (extents > KELPIE_SEAL_EXTENT_COUNT_MAX) {
            return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                                "the files of the snapshot have more than %u MiB",
                                KELPIE_SEAL_EXTENT_COUNT_MAX);
        }
    }
    seal->capacity = (uint32_t)extents;
    seal->buffer = kelpie__alloc_raw(os, KELPIE_SEAL_EXTENT_BYTES);
    if (extents > 0) {
        seal->table = kelpie__alloc_raw(os, (size_t)extents * sizeof(*seal->table));
    }
    if (seal->buffer == NULL || (extents > 0 && seal->table == NULL)) {
        seal_deinit(seal);
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the checksums");
    }
    KELPIE_ASSERT(seal->count == 0);
    return 0;
}

static int read_piece(struct seal *seal, int file, uint8_t *out, size_t count, uint64_t offset) {
    KELPIE_ASSERT(count <= KELPIE_SEAL_EXTENT_BYTES);
    KELPIE_ASSERT(out >= seal->buffer);
    size_t done = 0;
    for (uint32_t i = 0; i < SEAL_READS_MAX && done < count; i += 1) {
        int64_t got = kelpie__os_pread(seal->os, file, out + done, count - done, offset + done);
        if (got == -EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? (int)got : -EIO; /* shorter than a moment ago */
        }
        done += (size_t)got;
    }
    return done == count ? 0 : -EIO;
}

/* A piece of a file that may hold anything but zeros. */
struct data {
    uint64_t begin;
    uint64_t end;
};

/* The first one that ends behind `offset`; at the end of the numbers: there is none. One that is
 * known already costs no call. */
static int find_data(struct seal *seal, int file, uint64_t offset, struct data *inout) {
    if (inout->end > offset) {
        return 0;
    }
    int found = kelpie__os_next_data(seal->os, file, offset, &inout->begin, &inout->end);
    if (found == 0) {
        *inout = (struct data){.begin = UINT64_MAX, .end = UINT64_MAX};
    }
    KELPIE_ASSERT(found < 0 || inout->end > offset);
    return found < 0 ? found : 0;
}

static bool block_is_zero(const uint8_t *bytes, size_t count) {
    KELPIE_ASSERT(count > 0);
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* Of a part of the extent in the buffer, from a block's beginning on. */
static void sum_blocks(struct seal *seal, size_t from, size_t to) {
    KELPIE_ASSERT(from % SEAL_BLOCK_BYTES == 0);
    KELPIE_ASSERT(to <= KELPIE_SEAL_EXTENT_BYTES);
    for (size_t at = from; at < to; at += SEAL_BLOCK_BYTES) {
        size_t count = to - at < SEAL_BLOCK_BYTES ? to - at : SEAL_BLOCK_BYTES;
        if (!block_is_zero(seal->buffer + at, count)) {
            KELPIE_ASSERT(seal->block_count < SEAL_BLOCKS_MAX);
            seal->blocks[seal->block_count] = (struct seal_block){
                at / SEAL_BLOCK_BYTES, kelpie__checksum_u64(seal->buffer + at, count)};
            seal->block_count += 1;
        }
    }
}

/* Holes are not read: to read one costs as much as data, and leaves pages of zeros in the system's
 * cache. Where a piece begins or ends within a block, all of that is read. */
static int sum_pieces(struct seal *seal, int file, uint64_t offset, size_t count,
                      struct data *inout) {
    uint64_t end = offset + count;
    KELPIE_ASSERT(offset % KELPIE_SEAL_EXTENT_BYTES == 0);
    KELPIE_ASSERT(count <= KELPIE_SEAL_EXTENT_BYTES);
    uint64_t at = offset;
    int status = find_data(seal, file, at, inout);
    while (status == 0 && at < end && inout->begin < end) { /* bound: a block each turn */
        uint64_t begin = inout->begin - inout->begin % SEAL_BLOCK_BYTES;
        uint64_t from = begin > at ? begin : at;
        uint64_t to =
            from + (inout->end - from + SEAL_BLOCK_BYTES - 1) / SEAL_BLOCK_BYTES * SEAL_BLOCK_BYTES;
        to = kelpie__min_u64(to, end);
        KELPIE_ASSERT(from < to);
        status = read_piece(seal, file, seal->buffer + (from - offset), (size_t)(to - from), from);
        if (status == 0) {
            sum_blocks(seal, (size_t)(from - offset), (size_t)(to - offset));
            at = to;
            status = at < end ? find_data(seal, file, at, inout) : 0;
        }
    }
    return status;
}

/* Adds the checksum of an extent. Long holes cost one call. */
static int sum_extent(struct seal *seal, int file, uint64_t offset, size_t count,
                      struct data *inout) {
    int status = 0;
    uint64_t sum = 0;
    KELPIE_ASSERT(seal->count < seal->capacity);
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(count <= KELPIE_SEAL_EXTENT_BYTES);
    if (seal->format == SEAL_FORMAT_WHOLE) {
        status = read_piece(seal, file, seal->buffer, count, offset);
        sum = kelpie__checksum_u64(seal->buffer, count);
    } else if (inout->end > offset && inout->begin >= offset + count) {
        sum = seal->empty_sum; /* within a hole, as most of a guest's memory */
    } else {
        seal->block_count = 0;
        status = sum_pieces(seal, file, offset, count, inout);
        sum = kelpie__checksum_u64(seal->blocks, seal->block_count * sizeof(seal->blocks[0]));
    }
    if (status < 0) {
        return status;
    }
    seal->table[seal->count] = sum;
    seal->count += 1;
    return 0;
}

/* Takes them from where they are known; false: they are not. */
static bool sum_known(struct seal *seal, const struct kelpie_os_stat *stat) {
    uint64_t count = kelpie__seal_extents(stat->size_bytes);
    const uint64_t *known =
        seal->options.known == NULL ? NULL : kelpie__sums_find(seal->options.known, stat, count);
    if (known == NULL) {
        return false;
    }
    KELPIE_ASSERT(count <= seal->capacity - seal->count);
    memcpy(&seal->table[seal->count], known, (size_t)count * sizeof(*known));
    seal->count += (uint32_t)count;
    return true;
}

static int sum_file(struct seal *seal, const struct kelpie_manifest_file *entry,
                    struct kelpie_error *error) {
    KELPIE_ASSERT(seal->count <= seal->capacity);
    struct kelpie_os_stat stat;
    int file = kelpie__os_open(seal->os, seal->directory, entry->name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open \"%s\" of the snapshot", entry->name);
    }
    int status = kelpie__os_stat(seal->os, file, "", false, &stat);
    if (status == 0 && stat.size_bytes != entry->size_bytes) {
        kelpie__ignore(kelpie__os_close(seal->os, file));
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "\"%s\" of the snapshot has %llu bytes, not %llu; remove the snapshot",
                            entry->name, (unsigned long long)stat.size_bytes,
                            (unsigned long long)entry->size_bytes);
    }
    struct data data = {0};
    uint64_t offset = status == 0 && sum_known(seal, &stat) ? entry->size_bytes : 0;
    while (status == 0 && offset < entry->size_bytes) { /* bound: seal_init's */
        uint64_t count = kelpie__min_u64(entry->size_bytes - offset, KELPIE_SEAL_EXTENT_BYTES);
        status = sum_extent(seal, file, offset, (size_t)count, &data);
        offset += count;
    }
    bool is_read = status == 0;
    bool is_forgotten = KELPIE_CANARY(seal->os, 4) && strcmp(entry->name, "memory") == 0;
    if (is_read && seal->options.is_synced && !is_forgotten) {
        status = kelpie__os_sync(seal->os, file);
        if (KELPIE_CANARY(seal->os, 16) && status == -EIO) {
            status = kelpie__os_sync(seal->os, file);
        }
    }
    kelpie__ignore(kelpie__os_close(seal->os, file)); /* it was only read */
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "%s \"%s\" of the snapshot",
                                     is_read ? "sync" : "read", entry->name)
                      : 0;
}

/* ---- sealing --------------------------------------------------------------------------------- */

static int take_sizes(struct kelpie_os *os, int directory, struct kelpie_manifest *manifest,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        struct kelpie_os_stat stat;
        struct kelpie_manifest_file *file = &manifest->files[i];
        int status = kelpie__os_stat(os, directory, file->name, false, &stat);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_IO, -status, "look at \"%s\" of the snapshot",
                                file->name);
        }
        file->size_bytes = stat.size_bytes;
    }
    return 0;
}

static int write_table(struct seal *seal, bool is_synced, struct kelpie_error *error) {
    size_t count = (size_t)seal->count * sizeof(*seal->table);
    const uint8_t *bytes = (const uint8_t *)seal->table;
    size_t done = 0;
    KELPIE_ASSERT(seal->count == seal->capacity);
    int file = kelpie__os_open(
        seal->os, seal->directory, KELPIE_SEAL_FILE,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE, SEAL_FILE_MODE);
    int status = file;
    for (uint32_t i = 0; i < SEAL_READS_MAX && file >= 0 && done < count; i += 1) {
        int64_t put = kelpie__os_pwrite(seal->os, file, bytes + done, count - done, done);
        if (put < 0 && put != -EINTR) {
            status = (int)put;
            break;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    if (file >= 0) {
        if (status >= 0 && done < count) {
            status = -EIO;
        }
        if (status >= 0 && is_synced) {
            status = kelpie__os_sync(seal->os, file);
        }
        int closed = kelpie__os_close(seal->os, file);
        status = status < 0 ? status : closed;
    }
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "write \"" KELPIE_SEAL_FILE "\"")
                      : 0;
}

int kelpie__seal(struct kelpie_os *os, int directory, struct kelpie_manifest *manifest,
                 const struct kelpie_seal_options *options, struct kelpie_error *error) {
    struct seal seal;
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    KELPIE_ASSERT(directory >= 0);
    manifest->format = manifest->format == 0 ? KELPIE_MANIFEST_FORMAT : manifest->format;
    int status = take_sizes(os, directory, manifest, error);
    if (status == 0) {
        status = seal_init(&seal, os, directory, manifest, error);
    }
    if (status < 0) {
        return status;
    }
    seal.options = *options;
    for (uint32_t i = 0; i < manifest->file_count && status == 0; i += 1) {
        status = sum_file(&seal, &manifest->files[i], error);
    }
    if (status == 0) {
        KELPIE_ASSERT(seal.count == seal.capacity);
        status = write_table(&seal, options->is_synced, error);
    }
    if (status == 0) {
        const void *bytes = seal.table != NULL ? (const void *)seal.table : "";
        kelpie__checksum_text(bytes, (size_t)seal.count * sizeof(*seal.table), manifest->checksum);
        KELPIE_ASSERT(strlen(manifest->checksum) == KELPIE_CHECKSUM_TEXT_BYTES - 1);
    }
    seal_deinit(&seal);
    return status;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* The table as it was written, into `seal->table`; the sums that follow are compared with it one by
 * one. */
static int read_table(struct seal *seal, const struct kelpie_manifest *manifest, uint64_t *out,
                      struct kelpie_error *error) {
    size_t count = (size_t)seal->capacity * sizeof(*out);
    char sum[KELPIE_CHECKSUM_TEXT_BYTES];
    size_t done = 0;
    int64_t got = 0;
    KELPIE_ASSERT(seal->count == 0);
    KELPIE_ASSERT(seal->capacity == 0 || out != NULL);
    int file = kelpie__os_open(seal->os, seal->directory, KELPIE_SEAL_FILE, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, -file,
                            "the snapshot's \"" KELPIE_SEAL_FILE "\" cannot be opened");
    }
    for (uint32_t i = 0; i < SEAL_READS_MAX && done < count; i += 1) {
        got = kelpie__os_pread(seal->os, file, (uint8_t *)out + done, count - done, done);
        if (got == 0 || (got < 0 && got != -EINTR)) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    kelpie__ignore(kelpie__os_close(seal->os, file)); /* it was only read */
    kelpie__checksum_text(done > 0 ? (const void *)out : "", done, sum);
    if (done != count || strcmp(sum, manifest->checksum) != 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the snapshot's \"" KELPIE_SEAL_FILE
                            "\" is damaged; remove the snapshot");
    }
    return 0;
}

static int compare_file(struct seal *seal, const struct kelpie_manifest_file *file,
                        const uint64_t *table, struct kelpie_error *error) {
    uint32_t first = seal->count;
    KELPIE_ASSERT(first <= seal->capacity);
    int status = sum_file(seal, file, error);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(seal->count <= seal->capacity);
    for (uint32_t i = first; i < seal->count; i += 1) {
        if (seal->table[i] != table[i]) {
            return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                                "\"%s\" of the snapshot is damaged in its MiB %u; remove the "
                                "snapshot",
                                file->name, i - first);
        }
    }
    return 0;
}

int kelpie__seal_verify(struct kelpie_os *os, int directory, const struct kelpie_manifest *manifest,
                        struct kelpie_error *error) {
    struct seal seal;
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    int status = seal_init(&seal, os, directory, manifest, error);
    if (status < 0) {
        return status;
    }
    size_t bytes = (size_t)seal.capacity * sizeof(uint64_t);
    uint64_t *table = bytes > 0 ? kelpie__alloc_raw(os, bytes) : NULL;
    if (bytes > 0 && table == NULL) {
        status = kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the checksums");
    }
    if (status == 0) {
        status = read_table(&seal, manifest, table, error);
    }
    for (uint32_t i = 0; i < manifest->file_count && status == 0; i += 1) {
        status = compare_file(&seal, &manifest->files[i], table, error);
    }
    kelpie__free(os, table, bytes);
    seal_deinit(&seal);
    return status;
}

/* ---- what was compared already --------------------------------------------------------------- */

static bool describe_file(struct kelpie_os *os, int directory, const char *name,
                          struct kelpie_json_writer *writer, int64_t *inout_newest_ns) {
    KELPIE_ASSERT(name[0] != '\0');
    struct kelpie_os_stat stat;
    if (kelpie__os_stat(os, directory, name, false, &stat) < 0) {
        return false;
    }
    kelpie__json_write_u64(writer, NULL, stat.device);
    kelpie__json_write_u64(writer, NULL, stat.inode);
    kelpie__json_write_u64(writer, NULL, stat.size_bytes);
    /* Not the time of change: each link that somebody makes moves it. */
    kelpie__json_write_i64(writer, NULL, stat.modified_ns);
    if (stat.modified_ns > *inout_newest_ns) {
        *inout_newest_ns = stat.modified_ns;
    }
    return true;
}

/* Boot id, and of each file what tells that it is the same; false: something is not there. */
static bool describe_files(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest, char *out, size_t capacity,
                           int64_t *out_newest_ns) {
    char boot_id[64];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    bool is_good = kelpie__small_file_read(os, SEAL_BOOT_ID, boot_id, sizeof(boot_id)) > 0;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_array_begin(&writer, NULL);
    if (is_good) {
        kelpie__json_write_string(&writer, NULL, boot_id);
        kelpie__json_write_string(&writer, NULL, manifest->checksum);
        is_good = describe_file(os, directory, KELPIE_SEAL_FILE, &writer, out_newest_ns);
    }
    for (uint32_t i = 0; i < manifest->file_count && is_good; i += 1) {
        is_good = describe_file(os, directory, manifest->files[i].name, &writer, out_newest_ns);
    }
    kelpie__json_array_end(&writer);
    return is_good && kelpie__json_finish(&writer) > 0;
}

bool kelpie__seal_is_known(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest) {
    char now[KELPIE_MANIFEST_BYTES_MAX];
    char then[KELPIE_MANIFEST_BYTES_MAX];
    int64_t newest_ns = 0;
    return kelpie__small_file_read_at(os, directory, SEAL_KNOWN_FILE, then, sizeof(then)) > 0 &&
           describe_files(os, directory, manifest, now, sizeof(now), &newest_ns) &&
           strcmp(now, then) == 0;
}

void kelpie__seal_remember(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest, bool is_transient) {
    char now[KELPIE_MANIFEST_BYTES_MAX];
    int64_t newest_ns = 0;
    KELPIE_ASSERT(manifest->checksum[0] != '\0');
    if (describe_files(os, directory, manifest, now, sizeof(now), &newest_ns) &&
        (is_transient || kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) - newest_ns > SEAL_SETTLED_NS)) {
        kelpie__ignore(kelpie__small_file_replace(os, directory, SEAL_KNOWN_FILE, now, strlen(now),
                                                  NULL)); /* then it is checked again */
    }
}
