/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See parcel.h. All numbers are little-endian. A record's checksum stands first and is of all that
 * follows it: kind, file, offset, count and payload.
 */
#include "store/parcel.h"

#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "os/os_call.h"

/* Neither text nor anything that a transfer as text leaves alone. */
#define PARCEL_MAGIC "\x8bKELPIE\n"
#define PARCEL_CHECK_BYTES 8u
#define PARCEL_READS_MAX                                                                           \
    (1u << 20) /* of one record: a byte at a time, interrupted again and again */

enum parcel_kind { PARCEL_MANIFEST = 1, PARCEL_DATA = 2, PARCEL_END = 3 };

/* Places in the head and in a record. */
enum parcel_place {
    HEAD_FORMAT = 8,
    HEAD_ORIGIN = 16,
    HEAD_DATA_BYTES = 32,
    HEAD_ZEROS = 40,
    HEAD_CHECK = 56,
    RECORD_KIND = 8,
    RECORD_FILE = 12,
    RECORD_OFFSET = 16,
    RECORD_COUNT = 24,
    RECORD_ZEROS = 28,
    END_RECORDS = 0, /* in its payload */
    END_DATA_BYTES = 8,
    END_HASH = 16,
};

static_assert(HEAD_CHECK + PARCEL_CHECK_BYTES == KELPIE_PARCEL_HEAD_BYTES, "the head's size");
static_assert(RECORD_ZEROS + 4 == KELPIE_PARCEL_RECORD_BYTES, "a record's size");
static_assert(KELPIE_MANIFEST_BYTES_MAX <= KELPIE_PARCEL_PAYLOAD_BYTES_MAX, "one record holds it");

static void put_number(uint8_t *out, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 1) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get_number(const uint8_t *from, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i += 1) {
        value |= (uint64_t)from[i] << (8 * i);
    }
    return value;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int fail_damaged(const struct kelpie_parcel_reader *reader, const char *what,
                        struct kelpie_error *error) {
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                        "the stream is damaged: its record %llu %s",
                        (unsigned long long)reader->record_count, what);
}

static int parcel_take(struct kelpie_parcel_reader *reader, uint8_t *out, size_t count,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(reader->buffer != NULL);
    KELPIE_ASSERT(count > 0);
    size_t done = 0;
    for (uint32_t i = 0; i < PARCEL_READS_MAX && done < count; i += 1) {
        int64_t got = reader->input.read(reader->input.context, out + done, count - done);
        if (got == 0) {
            return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                                "the stream ends too early, in its record %llu; was its export "
                                "cut short?",
                                (unsigned long long)reader->record_count);
        }
        if (got < 0 && got != -EINTR) {
            return kelpie__fail(error, KELPIE_E_IO, (int)-got, "read the stream");
        }
        KELPIE_ASSERT(got <= (int64_t)(count - done));
        done += got > 0 ? (size_t)got : 0;
    }
    return done == count ? 0 : kelpie__fail(error, KELPIE_E_IO, EINTR, "read the stream");
}

static int parcel_read_head(struct kelpie_parcel_reader *reader, struct kelpie_error *error) {
    KELPIE_ASSERT(reader->record_count == 0);
    uint8_t head[KELPIE_PARCEL_HEAD_BYTES];
    static const uint8_t zeros[HEAD_CHECK - HEAD_ZEROS] = {0};
    int status = parcel_take(reader, head, sizeof(head), error);
    if (status < 0) {
        return status;
    }
    uint64_t format = get_number(head + HEAD_FORMAT, 8);
    if (memcmp(head, PARCEL_MAGIC, HEAD_FORMAT) != 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "this is no stream of kelpie snapshot export");
    }
    if (format > KELPIE_PARCEL_FORMAT && format <= UINT16_MAX) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                            "the stream has format %llu, this version knows %u; use a newer Kelpie",
                            (unsigned long long)format, KELPIE_PARCEL_FORMAT);
    }
    if (get_number(head + HEAD_CHECK, PARCEL_CHECK_BYTES) !=
            kelpie__checksum_u64(head, HEAD_CHECK) ||
        format != KELPIE_PARCEL_FORMAT || memcmp(head + HEAD_ZEROS, zeros, sizeof(zeros)) != 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the stream is damaged in its first bytes");
    }
    reader->data_bytes_max = get_number(head + HEAD_DATA_BYTES, 8);
    reader->is_own = kelpie__keyed_hash_equal(head + HEAD_ORIGIN, reader->origin->name);
    if (reader->is_own) {
        kelpie__keyed_hash_init(&reader->hash, &reader->origin->key);
        kelpie__keyed_hash_add(&reader->hash, head, sizeof(head));
    }
    return 0;
}

/* One record into the buffer: its kind and count are in bounds, its checksum is right. */
static int parcel_read_record(struct kelpie_parcel_reader *reader, enum parcel_kind *out_kind,
                              size_t *out_count, struct kelpie_error *error) {
    uint8_t *record = reader->buffer;
    KELPIE_ASSERT(!reader->has_ended);
    int status = parcel_take(reader, record, KELPIE_PARCEL_RECORD_BYTES, error);
    if (status < 0) {
        return status;
    }
    uint64_t kind = get_number(record + RECORD_KIND, 4);
    size_t count = (size_t)get_number(record + RECORD_COUNT, 4);
    if (kind < PARCEL_MANIFEST || kind > PARCEL_END || count == 0 ||
        count > KELPIE_PARCEL_PAYLOAD_BYTES_MAX) {
        return fail_damaged(reader, "is of no known kind or size", error);
    }
    status = parcel_take(reader, record + KELPIE_PARCEL_RECORD_BYTES, count, error);
    if (status < 0) {
        return status;
    }
    size_t summed = KELPIE_PARCEL_RECORD_BYTES - PARCEL_CHECK_BYTES + count;
    if (get_number(record, PARCEL_CHECK_BYTES) !=
        kelpie__checksum_u64(record + PARCEL_CHECK_BYTES, summed)) {
        return fail_damaged(reader, "has another checksum", error);
    }
    if (get_number(record + RECORD_ZEROS, 4) != 0) {
        return fail_damaged(reader, "has what this version does not know", error);
    }
    if (reader->is_own) { /* of the end: without the hash itself, and so without its checksum */
        size_t hashed = kind == PARCEL_END ? KELPIE_PARCEL_RECORD_BYTES + END_HASH
                                           : KELPIE_PARCEL_RECORD_BYTES + count;
        kelpie__keyed_hash_add(&reader->hash, record + PARCEL_CHECK_BYTES,
                               hashed - PARCEL_CHECK_BYTES);
    }
    *out_kind = (enum parcel_kind)kind;
    *out_count = count;
    return 0;
}

static int parcel_read_manifest(struct kelpie_parcel_reader *reader, struct kelpie_error *error) {
    KELPIE_ASSERT(reader->record_count == 0);
    enum parcel_kind kind = PARCEL_END;
    size_t count = 0;
    int status = parcel_read_record(reader, &kind, &count, error);
    if (status < 0) {
        return status;
    }
    const uint8_t *record = reader->buffer;
    if (kind != PARCEL_MANIFEST || count >= KELPIE_MANIFEST_BYTES_MAX ||
        get_number(record + RECORD_FILE, 4) != 0 || get_number(record + RECORD_OFFSET, 8) != 0) {
        return fail_damaged(reader, "should be the manifest", error);
    }
    status = kelpie__manifest_parse((const char *)record + KELPIE_PARCEL_RECORD_BYTES, count,
                                    &reader->manifest, error);
    if (status == 0) {
        reader->record_count = 1;
    }
    return status == KELPIE_E_SNAPSHOT_CORRUPTED ? fail_damaged(reader, "is no manifest", error)
                                                 : status;
}

int kelpie__parcel_open(struct kelpie_parcel_reader *reader, struct kelpie_os *os,
                        const struct kelpie_origin *origin, const struct kelpie_parcel_input *input,
                        struct kelpie_error *error) {
    *reader = (struct kelpie_parcel_reader){.os = os, .origin = origin, .input = *input};
    reader->buffer =
        kelpie__alloc_raw(os, KELPIE_PARCEL_RECORD_BYTES + KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    if (reader->buffer == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a stream");
    }
    int status = parcel_read_head(reader, error);
    if (status == 0) {
        status = parcel_read_manifest(reader, error);
    }
    if (status < 0) {
        kelpie__parcel_close(reader);
    }
    return status;
}

void kelpie__parcel_close(struct kelpie_parcel_reader *reader) {
    kelpie__free(reader->os, reader->buffer,
                 KELPIE_PARCEL_RECORD_BYTES + KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    reader->buffer = NULL;
}

static int parcel_read_end(struct kelpie_parcel_reader *reader, size_t count,
                           struct kelpie_error *error) {
    const uint8_t *payload = reader->buffer + KELPIE_PARCEL_RECORD_BYTES;
    uint8_t hash[KELPIE_KEYED_HASH_BYTES];
    KELPIE_ASSERT(!reader->has_ended);
    KELPIE_ASSERT(reader->data_bytes <= reader->data_bytes_max);
    if (count != KELPIE_PARCEL_END_BYTES ||
        get_number(payload + END_RECORDS, 8) != reader->record_count ||
        get_number(payload + END_DATA_BYTES, 8) != reader->data_bytes) {
        return fail_damaged(reader, "is an end to more, or to less, than there was", error);
    }
    reader->has_ended = true;
    if (!reader->is_own) {
        return 0;
    }
    kelpie__keyed_hash_finish(&reader->hash, hash);
    if (!kelpie__keyed_hash_equal(hash, payload + END_HASH)) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the stream says that it was exported here, and was changed since by "
                            "somebody else");
    }
    return 0;
}

int kelpie__parcel_read(struct kelpie_parcel_reader *reader, struct kelpie_parcel_data *out,
                        struct kelpie_error *error) {
    enum parcel_kind kind = PARCEL_END;
    size_t count = 0;
    KELPIE_ASSERT(reader->buffer != NULL && !reader->has_ended);
    KELPIE_ASSERT(reader->record_count > 0);
    int status = parcel_read_record(reader, &kind, &count, error);
    if (status < 0) {
        return status;
    }
    if (kind == PARCEL_END) {
        return parcel_read_end(reader, count, error);
    }
    uint64_t file = get_number(reader->buffer + RECORD_FILE, 4);
    uint64_t offset = get_number(reader->buffer + RECORD_OFFSET, 8);
    uint64_t end = 0;
    bool is_next = file > reader->file || (file == reader->file && offset >= reader->offset);
    if (kind != PARCEL_DATA || file >= reader->manifest.file_count || !is_next) {
        return fail_damaged(reader, "is out of order", error);
    }
    if (!kelpie__add_u64(offset, count, &end) || end > reader->manifest.files[file].size_bytes) {
        return fail_damaged(reader, "lies beyond the end of its file", error);
    }
    if (count > reader->data_bytes_max - reader->data_bytes) {
        return fail_damaged(reader, "is more than was announced", error);
    }
    KELPIE_ASSERT(reader->data_bytes <= reader->data_bytes_max);
    reader->file = (uint32_t)file;
    reader->offset = end;
    reader->data_bytes += count;
    reader->record_count += 1;
    *out = (struct kelpie_parcel_data){.file = (uint32_t)file,
                                       .offset = offset,
                                       .bytes = reader->buffer + KELPIE_PARCEL_RECORD_BYTES,
                                       .count = count};
    return 1;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int parcel_give(struct kelpie_parcel_writer *writer, const uint8_t *bytes, size_t count,
                       struct kelpie_error *error) {
    size_t done = 0;
    KELPIE_ASSERT(count > 0);
    for (uint32_t i = 0; i < PARCEL_READS_MAX && done < count; i += 1) {
        int64_t put = writer->output.write(writer->output.context, bytes + done, count - done);
        if (put < 0 && put != -EINTR) {
            return kelpie__fail(error, KELPIE_E_IO, (int)-put, "write the stream");
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return done == count ? 0 : kelpie__fail(error, KELPIE_E_IO, EIO, "write the stream");
}

int kelpie__parcel_begin(struct kelpie_parcel_writer *writer, struct kelpie_os *os,
                         const struct kelpie_origin *origin,
                         const struct kelpie_parcel_output *output, uint64_t data_bytes_max,
                         struct kelpie_error *error) {
    static_assert(sizeof(origin->name) == HEAD_DATA_BYTES - HEAD_ORIGIN,
                  "the name fills its place");
    uint8_t head[KELPIE_PARCEL_HEAD_BYTES] = {0};
    *writer = (struct kelpie_parcel_writer){.os = os, .output = *output};
    writer->buffer =
        kelpie__alloc_raw(os, KELPIE_PARCEL_RECORD_BYTES + KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    if (writer->buffer == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a stream");
    }
    memcpy(head, PARCEL_MAGIC, HEAD_FORMAT);
    put_number(head + HEAD_FORMAT, KELPIE_PARCEL_FORMAT, 8);
    memcpy(head + HEAD_ORIGIN, origin->name, sizeof(origin->name));
    put_number(head + HEAD_DATA_BYTES, data_bytes_max, 8);
    put_number(head + HEAD_CHECK, kelpie__checksum_u64(head, HEAD_CHECK), PARCEL_CHECK_BYTES);
    kelpie__keyed_hash_init(&writer->hash, &origin->key);
    kelpie__keyed_hash_add(&writer->hash, head, sizeof(head));
    int status = parcel_give(writer, head, sizeof(head), error);
    if (status < 0) {
        kelpie__parcel_abandon(writer);
    }
    return status;
}

void kelpie__parcel_abandon(struct kelpie_parcel_writer *writer) {
    kelpie__free(writer->os, writer->buffer,
                 KELPIE_PARCEL_RECORD_BYTES + KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    writer->buffer = NULL;
}

uint8_t *kelpie__parcel_room(struct kelpie_parcel_writer *writer) {
    KELPIE_ASSERT(writer->buffer != NULL);
    return writer->buffer + KELPIE_PARCEL_RECORD_BYTES;
}

static int parcel_put(struct kelpie_parcel_writer *writer, enum parcel_kind kind, uint32_t file,
                      uint64_t offset, size_t count, struct kelpie_error *error) {
    uint8_t *record = writer->buffer;
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(count <= KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    KELPIE_ASSERT(kind != PARCEL_END || count == KELPIE_PARCEL_END_BYTES);
    put_number(record + RECORD_KIND, (uint64_t)kind, 4);
    put_number(record + RECORD_FILE, file, 4);
    put_number(record + RECORD_OFFSET, offset, 8);
    put_number(record + RECORD_COUNT, count, 4);
    put_number(record + RECORD_ZEROS, 0, 4);
    size_t hashed = kind == PARCEL_END ? KELPIE_PARCEL_RECORD_BYTES + END_HASH
                                       : KELPIE_PARCEL_RECORD_BYTES + count;
    kelpie__keyed_hash_add(&writer->hash, record + PARCEL_CHECK_BYTES, hashed - PARCEL_CHECK_BYTES);
    if (kind == PARCEL_END) {
        kelpie__keyed_hash_finish(&writer->hash, record + hashed);
    }
    size_t summed = KELPIE_PARCEL_RECORD_BYTES - PARCEL_CHECK_BYTES + count;
    put_number(record, kelpie__checksum_u64(record + PARCEL_CHECK_BYTES, summed),
               PARCEL_CHECK_BYTES);
    return parcel_give(writer, record, KELPIE_PARCEL_RECORD_BYTES + count, error);
}

int kelpie__parcel_put_manifest(struct kelpie_parcel_writer *writer, size_t count,
                                struct kelpie_error *error) {
    KELPIE_ASSERT(writer->record_count == 0 && count < KELPIE_MANIFEST_BYTES_MAX);
    writer->record_count = 1;
    return parcel_put(writer, PARCEL_MANIFEST, 0, 0, count, error);
}

int kelpie__parcel_put_data(struct kelpie_parcel_writer *writer, uint32_t file, uint64_t offset,
                            size_t count, struct kelpie_error *error) {
    KELPIE_ASSERT(writer->record_count > 0);
    KELPIE_ASSERT(file < KELPIE_MANIFEST_FILE_COUNT_MAX);
    writer->record_count += 1;
    writer->data_bytes += count;
    return parcel_put(writer, PARCEL_DATA, file, offset, count, error);
}

int kelpie__parcel_put_end(struct kelpie_parcel_writer *writer, struct kelpie_error *error) {
    uint8_t *payload = kelpie__parcel_room(writer);
    KELPIE_ASSERT(writer->record_count > 0);
    put_number(payload + END_RECORDS, writer->record_count, 8);
    put_number(payload + END_DATA_BYTES, writer->data_bytes, 8);
    return parcel_put(writer, PARCEL_END, 0, 0, KELPIE_PARCEL_END_BYTES, error);
}
