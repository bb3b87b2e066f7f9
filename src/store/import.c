/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A snapshot into a store: see transfer.h. It is made as one that is taken is: in a temporary
 * directory with its lock held, sealed, renamed. What the seal finds must be what the manifest that
 * came with it says.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "store/seal.h"
#include "store/transfer.h"

#define IMPORT_ID_BYTES 16u
#define IMPORT_RESERVE_BYTES (UINT64_C(1) << 20) /* lists, checksums, blocks begun */
#define IMPORT_WRITES_MAX 4096u                  /* of one piece */

struct import {
    struct kelpie_os *os;
    struct kelpie_snapshot *snapshot;
    struct kelpie_parcel_reader *reader;
    const struct kelpie_manifest *manifest; /* as it came */
    int file;                               /* owned: the last of the snapshot's list, or none */
};

static int fail_foreign(const struct kelpie_parcel_reader *reader, struct kelpie_error *error) {
    return kelpie__fail(
        error, KELPIE_E_UNTRUSTED, 0,
        "snapshot \"%s\" was not exported by this state directory: it is a machine that goes on "
        "running whatever its maker left in it, and devices' state that the VMM reads; checksums "
        "say nothing about its intentions. If you trust where it comes from, say so (--trust)",
        reader->manifest.name);
}

/* ---- files ----------------------------------------------------------------------------------- */

static int import_close_file(struct import *import, struct kelpie_error *error) {
    int file = import->file;
    if (file < 0) {
        return 0;
    }
    import->file = KELPIE_OS_NO_HANDLE;
    int status = kelpie__os_close(import->os, file);
    KELPIE_ASSERT(import->file == KELPIE_OS_NO_HANDLE);
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "write a file of the snapshot")
                      : 0;
}

/* Makes all files up to `count` of them, each with its size; the last stays open. */
static int import_make_files(struct import *import, uint32_t count, struct kelpie_error *error) {
    struct kelpie_snapshot *snapshot = import->snapshot;
    int status = 0;
    KELPIE_ASSERT(count <= import->manifest->file_count);
    while (status == 0 && snapshot->manifest.file_count < count) { /* bound: the files */
        const struct kelpie_manifest_file *next =
            &import->manifest->files[snapshot->manifest.file_count];
        status = import_close_file(import, error);
        if (status == 0) {
            status = kelpie__snapshot_add_file(snapshot, next->name, &import->file, error);
        }
        int sized =
            status == 0 ? kelpie__os_truncate(import->os, import->file, next->size_bytes) : 0;
        if (sized < 0) {
            status = kelpie__fail(error, KELPIE_E_IO, -sized, "give \"%s\" its size", next->name);
        }
    }
    KELPIE_ASSERT(snapshot->manifest.file_count <= import->manifest->file_count);
    return status;
}

static int import_write(struct import *import, const struct kelpie_parcel_data *data,
                        struct kelpie_error *error) {
    size_t done = 0;
    int64_t put = 0;
    KELPIE_ASSERT(import->file >= 0);
    KELPIE_ASSERT(import->snapshot->manifest.file_count == data->file + 1);
    KELPIE_ASSERT(data->count > 0);
    KELPIE_ASSERT(data->offset + data->count <= import->manifest->files[data->file].size_bytes);
    for (uint32_t i = 0; i < IMPORT_WRITES_MAX && done < data->count; i += 1) {
        put = kelpie__os_pwrite(import->os, import->file, data->bytes + done, data->count - done,
                                data->offset + done);
        if (put < 0 && put != -EINTR) {
            break;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return done == data->count ? 0
                               : kelpie__fail(error, KELPIE_E_IO, put < 0 ? (int)-put : EIO,
                                              "write \"%s\" of the snapshot",
                                              import->manifest->files[data->file].name);
}

static int import_files(struct import *import, struct kelpie_error *error) {
    struct kelpie_parcel_data data = {0};
    KELPIE_ASSERT(import->file == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(import->snapshot->manifest.file_count == 0);
    int found = kelpie__parcel_read(import->reader, &data, error);
    while (found == 1) { /* bound: the bytes that the parcel announced */
        int status = import_make_files(import, data.file + 1, error);
        if (status == 0) {
            status = import_write(import, &data, error);
        }
        if (status < 0) {
            return status;
        }
        found = kelpie__parcel_read(import->reader, &data, error);
    }
    if (found == 0) {
        found = import_make_files(import, import->manifest->file_count, error);
    }
    return found == 0 ? import_close_file(import, error) : found;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Its new name, and what it takes here, where it shares nothing yet. */
static void import_describe(struct import *import, const char *name) {
    KELPIE_ASSERT(kelpie__config_check_name(name, NULL) == 0);
    struct kelpie_manifest *manifest = &import->snapshot->manifest;
    *manifest = *import->manifest;
    manifest->stored_bytes = import->reader->data_bytes;
    kelpie__ignore(kelpie__text_copy(manifest->name, sizeof(manifest->name), name));
}

static int import_finish(struct import *import, const char *name, bool is_synced,
                         struct kelpie_error *error) {
    struct kelpie_snapshot *snapshot = import->snapshot;
    KELPIE_ASSERT(import->reader->has_ended);
    KELPIE_ASSERT(import->file == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(snapshot->is_temporary);
    KELPIE_ASSERT(snapshot->manifest.file_count == import->manifest->file_count);
    import_describe(import, name);
    int status = kelpie__import_check_files(snapshot, error);
    if (status == 0) {
        const struct kelpie_seal_options options = {.is_synced = is_synced};
        status =
            kelpie__seal(import->os, snapshot->directory, &snapshot->manifest, &options, error);
    }
    if (status == 0 && strcmp(snapshot->manifest.checksum, import->manifest->checksum) != 0) {
        status = kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                              "the stream holds other files than its manifest has checksums of");
    }
    if (status == 0) {
        status = kelpie__manifest_write(import->os, snapshot->directory, &snapshot->manifest,
                                        is_synced, error);
    }
    return status == 0 ? kelpie__snapshot_publish(snapshot, is_synced, error) : status;
}

static int import_begin(struct kelpie_snapshot *snapshot, const struct kelpie_snapshot_store *store,
                        const struct kelpie_parcel_reader *reader, struct kelpie_error *error) {
    uint8_t bytes[IMPORT_ID_BYTES];
    char id[2 * IMPORT_ID_BYTES + 1];
    uint64_t needed_bytes = 0;
    KELPIE_ASSERT(reader->record_count == 1);
    KELPIE_ASSERT(!reader->has_ended);
    int status = kelpie__os_random(store->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw an id");
    }
    kelpie__text_hex(id, sizeof(id), bytes, sizeof(bytes));
    if (!kelpie__add_u64(reader->data_bytes_max, IMPORT_RESERVE_BYTES, &needed_bytes)) {
        needed_bytes = UINT64_MAX;
    }
    return kelpie__snapshot_begin(snapshot, store, id, needed_bytes, error);
}

/* Before anything is written; that nobody takes the name meanwhile is seen in the end. */
static int import_check_name(const struct kelpie_snapshot_store *store, const char *name,
                             struct kelpie_error *error) {
    KELPIE_ASSERT(store->directory >= 0);
    struct kelpie_os_stat stat;
    int status = kelpie__config_check_name(name, error);
    if (status < 0) {
        return status;
    }
    if (kelpie__os_stat(store->os, store->directory, name, false, &stat) == 0) {
        return kelpie__fail_field(
            error, KELPIE_E_EXISTS, "name",
            "snapshot \"%s\" exists already; remove it or choose another name", name);
    }
    return 0;
}

static int import_from(struct kelpie_snapshot *out, const struct kelpie_snapshot_store *store,
                       struct kelpie_parcel_reader *reader,
                       const struct kelpie_snapshot_import *options, struct kelpie_error *error) {
    const char *name = options->name != NULL ? options->name : reader->manifest.name;
    struct import import = {.os = store->os,
                            .snapshot = out,
                            .reader = reader,
                            .manifest = &reader->manifest,
                            .file = KELPIE_OS_NO_HANDLE};
    int status = 0;
    KELPIE_ASSERT(reader->buffer != NULL);
    if (!reader->is_own && !options->is_trusted) {
        status = fail_foreign(reader, error);
    }
    if (status == 0) {
        status = kelpie__import_check_manifest(&reader->manifest, error);
    }
    if (status == 0) {
        status = import_check_name(store, name, error);
    }
    if (status == 0) {
        status = import_begin(out, store, reader, error);
    }
    if (status < 0) {
        return status;
    }
    status = import_files(&import, error);
    if (status == 0) {
        status = import_finish(&import, name, options->is_synced, error);
    }
    if (status < 0) {
        kelpie__ignore(import_close_file(&import, NULL)); /* the first error counts */
        kelpie__snapshot_abandon(out);
    }
    return status;
}

int kelpie__snapshot_import(struct kelpie_snapshot *out, const struct kelpie_snapshot_store *store,
                            const struct kelpie_origin *origin,
                            const struct kelpie_parcel_input *input,
                            const struct kelpie_snapshot_import *options,
                            struct kelpie_error *error) {
    struct kelpie_parcel_reader reader;
    struct kelpie_snapshot made;
    int status = kelpie__parcel_open(&reader, store->os, origin, input, error);
    if (status < 0) {
        return status;
    }
    status = import_from(&made, store, &reader, options, error);
    kelpie__parcel_close(&reader);
    if (status == 0) {
        kelpie__snapshot_check(&made);
        KELPIE_ASSERT(!made.is_temporary);
        *out = made;
    }
    return status;
}
