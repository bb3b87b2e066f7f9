/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A snapshot as one stream, a parcel (docs/snapshots.md, "As one stream"): a head, the manifest,
 * data of the files in the manifest's order without their holes, an end. Each piece has a checksum;
 * the end has counts and a keyed hash of all before it. This is the form alone: what a reader gives
 * out is whole, in its place and in order, and nothing is believed of what it says.
 */
#ifndef KELPIE_STORE_PARCEL_H
#define KELPIE_STORE_PARCEL_H

#include "store/manifest.h"
#include "store/origin.h"

#define KELPIE_PARCEL_FORMAT 1u
#define KELPIE_PARCEL_HEAD_BYTES 64u
#define KELPIE_PARCEL_RECORD_BYTES 32u /* before its payload */
#define KELPIE_PARCEL_PAYLOAD_BYTES_MAX (256u * 1024u)
#define KELPIE_PARCEL_END_BYTES (16u + KELPIE_KEYED_HASH_BYTES)

/* Gives how many bytes were moved, 0 at the end of what can be read, or a negative errno value.
 * Waiting is its own affair. */
struct kelpie_parcel_input {
    int64_t (*read)(void *context, void *out, size_t count);
    void *context; /* borrowed: until the reader is closed */
};
struct kelpie_parcel_output {
    int64_t (*write)(void *context, const void *bytes, size_t count);
    void *context; /* borrowed: until the writer is closed */
};

struct kelpie_parcel_reader {
    struct kelpie_os *os;               /* borrowed: until close */
    const struct kelpie_origin *origin; /* borrowed: until close */
    struct kelpie_parcel_input input;
    uint8_t *buffer; /* owned: a record and its payload */
    struct kelpie_keyed_hash hash;
    bool is_own;             /* it says that it was written with this key */
    uint64_t data_bytes_max; /* as it announces */
    uint64_t data_bytes;
    uint64_t record_count;
    struct kelpie_manifest manifest; /* of which names and sizes were looked at, nothing else */
    uint32_t file;                   /* of the data before, and where it ended */
    uint64_t offset;
    bool has_ended;
};

struct kelpie_parcel_data {
    uint32_t file; /* its place in the manifest's list */
    uint64_t offset;
    const uint8_t *bytes; /* borrowed: until the next read */
    size_t count;
};

/* Reads head and manifest. Errors: SNAPSHOT_CORRUPTED (no parcel, damaged, cut), SNAPSHOT_
 * INCOMPATIBLE (a newer format: both numbers), IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__parcel_open(struct kelpie_parcel_reader *reader, struct kelpie_os *os,
                                          const struct kelpie_origin *origin,
                                          const struct kelpie_parcel_input *input,
                                          struct kelpie_error *error);
void kelpie__parcel_close(struct kelpie_parcel_reader *reader);
/* 1: data, each in the order of files and offsets. 0: the end, and all is proved to be there; not a
 * byte beyond it is read. Errors as above; of a parcel that says it is from here and is not: also
 * SNAPSHOT_CORRUPTED. */
KELPIE_MUST_CHECK int kelpie__parcel_read(struct kelpie_parcel_reader *reader,
                                          struct kelpie_parcel_data *out,
                                          struct kelpie_error *error);

struct kelpie_parcel_writer {
    struct kelpie_os *os; /* borrowed: until close */
    struct kelpie_parcel_output output;
    uint8_t *buffer; /* owned: a record and its payload */
    struct kelpie_keyed_hash hash;
    uint64_t data_bytes;
    uint64_t record_count;
};

/* Writes the head. `data_bytes_max`: at least what will be added. Errors: IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__parcel_begin(struct kelpie_parcel_writer *writer,
                                           struct kelpie_os *os, const struct kelpie_origin *origin,
                                           const struct kelpie_parcel_output *output,
                                           uint64_t data_bytes_max, struct kelpie_error *error);
/* Where the caller puts a payload. */
uint8_t *kelpie__parcel_room(struct kelpie_parcel_writer *writer);
KELPIE_MUST_CHECK int kelpie__parcel_put_manifest(struct kelpie_parcel_writer *writer, size_t count,
                                                  struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__parcel_put_data(struct kelpie_parcel_writer *writer, uint32_t file,
                                              uint64_t offset, size_t count,
                                              struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__parcel_put_end(struct kelpie_parcel_writer *writer,
                                             struct kelpie_error *error);
void kelpie__parcel_abandon(struct kelpie_parcel_writer *writer); /* also after the end */

#endif
