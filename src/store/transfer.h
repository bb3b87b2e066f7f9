/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Snapshots out of a store and into one, as parcels (parcel.h). What comes in was written by
 * anybody: each name, size and reference is looked at before it is used, and a snapshot that this
 * state directory did not export is taken only from who is trusted, for it is a machine that goes
 * on, and devices' state that the VMM parses. Checksums are no protection against malice.
 */
#ifndef KELPIE_STORE_TRANSFER_H
#define KELPIE_STORE_TRANSFER_H

#include "store/parcel.h"
#include "store/snapshot.h"

/* Writes an open snapshot, which is compared first unless that was done since the host's boot.
 * Errors: SNAPSHOT_CORRUPTED, IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__snapshot_export(struct kelpie_snapshot *snapshot,
                                              const struct kelpie_origin *origin,
                                              const struct kelpie_parcel_output *output,
                                              struct kelpie_error *error);

struct kelpie_snapshot_import {
    const char *name; /* NULL: the one that it had */
    bool is_trusted;
    bool is_synced;
};

/* Makes a snapshot of a parcel, and leaves it open. It is whole, synced if asked, and listed, or
 * nothing of it is left. Errors: UNTRUSTED, SNAPSHOT_CORRUPTED,
 * SNAPSHOT_INCOMPATIBLE (a newer format), EXISTS, LIMIT (space, size), CONFIG (the name), IO,
 * MEMORY. */
KELPIE_MUST_CHECK int kelpie__snapshot_import(struct kelpie_snapshot *out,
                                              const struct kelpie_snapshot_store *store,
                                              const struct kelpie_origin *origin,
                                              const struct kelpie_parcel_input *input,
                                              const struct kelpie_snapshot_import *options,
                                              struct kelpie_error *error);

/* import_check.c: a manifest from outside is one that Kelpie could have written: names, sizes,
 * counts, which files there are and what each is for. SNAPSHOT_CORRUPTED, LIMIT. */
KELPIE_MUST_CHECK int kelpie__import_check_manifest(const struct kelpie_manifest *manifest,
                                                    struct kelpie_error *error);
/* The same of what stands in its files, once they are there: the configuration fits the manifest,
 * and the images of disks depend on each other and on nothing else. */
KELPIE_MUST_CHECK int kelpie__import_check_files(const struct kelpie_snapshot *snapshot,
                                                 struct kelpie_error *error);

#endif
