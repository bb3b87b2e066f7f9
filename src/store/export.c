/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A snapshot out of its store: see transfer.h.
 */
#include <errno.h>

#include "core/small_file.h"
#include "os/os_call.h"
#include "store/transfer.h"

struct export {
    struct kelpie_os *os;
    const struct kelpie_snapshot *snapshot;
    struct kelpie_parcel_writer *writer; /* NULL: what there is to send is only counted */
    uint32_t index;                      /* of the file */
    uint64_t data_bytes;
};

static const char *export_name(const struct export *export) {
    return export->snapshot->manifest.files[export->index].name;
}

static int export_piece(struct export *export, int file, uint64_t offset, size_t count,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(export->writer != NULL);
    KELPIE_ASSERT(count <= KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
    int64_t got =
        kelpie__os_pread(export->os, file, kelpie__parcel_room(export->writer), count, offset);
    if (got != (int64_t)count) {
        return kelpie__fail(error, KELPIE_E_IO, got < 0 ? (int)-got : EIO,
                            "read \"%s\" of the snapshot", export_name(export));
    }
    return kelpie__parcel_put_data(export->writer, export->index, offset, count, error);
}

static int export_range(struct export *export, int file, uint64_t start, uint64_t end,
                        struct kelpie_error *error) {
    int status = 0;
    KELPIE_ASSERT(start < end);
    export->data_bytes += end - start;
    while (start < end && status == 0 && export->writer != NULL) { /* bound: the range's pieces */
        uint64_t count = kelpie__min_u64(end - start, KELPIE_PARCEL_PAYLOAD_BYTES_MAX);
        status = export_piece(export, file, start, (size_t)count, error);
        start += count;
    }
    return status;
}

static int export_file(struct export *export, struct kelpie_error *error) {
    const struct kelpie_snapshot *snapshot = export->snapshot;
    uint64_t size_bytes = snapshot->manifest.files[export->index].size_bytes;
    uint64_t start = 0;
    uint64_t end = 0;
    int status = 0;
    int found = 1;
    KELPIE_ASSERT(export->index < snapshot->manifest.file_count);
    int file = kelpie__os_open(export->os, snapshot->directory, export_name(export),
                               KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open \"%s\" of the snapshot",
                            export_name(export));
    }
    while (status == 0 && found == 1 && end < size_bytes) { /* bound: the file's ranges of data */
        found = kelpie__os_next_data(export->os, file, end, &start, &end);
        if (found == 1) {
            end = kelpie__min_u64(end, size_bytes);
            status = start < end ? export_range(export, file, start, end, error) : 0;
        }
    }
    kelpie__ignore(kelpie__os_close(export->os, file)); /* it was only read */
    return found < 0 ? kelpie__fail(error, KELPIE_E_IO, -found, "read \"%s\" of the snapshot",
                                    export_name(export))
                     : status;
}

static int export_files(struct export *export, struct kelpie_error *error) {
    int status = 0;
    export->data_bytes = 0;
    KELPIE_ASSERT(export->snapshot->manifest.file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    for (uint32_t i = 0; i < export->snapshot->manifest.file_count && status == 0; i += 1) {
        export->index = i;
        status = export_file(export, error);
    }
    return status;
}

static int export_manifest(struct export *export, struct kelpie_error *error) {
    KELPIE_ASSERT(export->writer->record_count == 0);
    char *room = (char *)kelpie__parcel_room(export->writer);
    int64_t length =
        kelpie__small_file_read_at(export->os, export->snapshot->directory, KELPIE_MANIFEST_FILE,
                                   room, KELPIE_MANIFEST_BYTES_MAX);
    if (length <= 0) {
        return kelpie__fail(error, KELPIE_E_IO, length < 0 ? (int)-length : EIO,
                            "read " KELPIE_MANIFEST_FILE);
    }
    return kelpie__parcel_put_manifest(export->writer, (size_t)length, error);
}

int kelpie__snapshot_export(struct kelpie_snapshot *snapshot, const struct kelpie_origin *origin,
                            const struct kelpie_parcel_output *output, struct kelpie_error *error) {
    struct kelpie_parcel_writer writer;
    struct export export = {.os = snapshot->store->os, .snapshot = snapshot};
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(!snapshot->is_temporary);
    int status = kelpie__snapshot_verify(snapshot, false, error);
    if (status == 0) {
        status = export_files(&export, error); /* counted: the importer asks for space first */
    }
    if (status < 0) {
        return status;
    }
    uint64_t announced_bytes = export.data_bytes;
    status = kelpie__parcel_begin(&writer, export.os, origin, output, announced_bytes, error);
    if (status < 0) {
        return status;
    }
    export.writer = &writer;
    KELPIE_ASSERT(writer.record_count == 0);
    status = export_manifest(&export, error);
    if (status == 0) {
        status = export_files(&export, error);
    }
    if (status == 0 && export.data_bytes != announced_bytes) {
        status = kelpie__fail(error, KELPIE_E_IO, 0,
                              "snapshot \"%s\" was changed while it was exported", snapshot->entry);
    }
    if (status == 0) {
        status = kelpie__parcel_put_end(&writer, error);
    }
    KELPIE_ASSERT(status < 0 || export.data_bytes == writer.data_bytes);
    kelpie__parcel_abandon(&writer);
    return status;
}
