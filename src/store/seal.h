/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The checksums of a snapshot's files: computed once when it is sealed, compared before it is
 * believed. QEMU believes damaged and cut state files (findings.md), so nothing else protects.
 *
 * The file `checksums` holds, for each file of the manifest in its order, one XXH3 of 64 bits for
 * each extent of 1 MiB; the manifest holds the checksum of that file. It is the XXH3 of a list: of
 * each block of 4 KiB that is not all zeros its number in the extent and its own XXH3. So a memory
 * in which a page here and there is data costs these pages, and a hole is the same as zeros. In
 * snapshots of format 1 it is that of all bytes of the extent.
 */
#ifndef KELPIE_STORE_SEAL_H
#define KELPIE_STORE_SEAL_H

#include "store/manifest.h"

struct kelpie_sums;

#define KELPIE_SEAL_FILE "checksums"
#define KELPIE_SEAL_EXTENT_BYTES (1024u * 1024u)
/* 16 files of 16 GiB */
#define KELPIE_SEAL_EXTENT_COUNT_MAX (256u * 1024u)

/* Of a file of this size. */
uint64_t kelpie__seal_extents(uint64_t size_bytes);

struct kelpie_seal_options {
    bool is_synced;                  /* every file */
    const struct kelpie_sums *known; /* borrowed; NULL: nothing is */
};

/* Fills in sizes and checksum of the manifest's files, writes `checksums`, and syncs if asked. The
 * caller then writes the manifest. Reads everything that is not known: for a worker. Errors: IO,
 * LIMIT, MEMORY. */
KELPIE_MUST_CHECK int kelpie__seal(struct kelpie_os *os, int directory,
                                   struct kelpie_manifest *manifest,
                                   const struct kelpie_seal_options *options,
                                   struct kelpie_error *error);

/* Compares every byte. SNAPSHOT_CORRUPTED names the file and the extent; IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__seal_verify(struct kelpie_os *os, int directory,
                                          const struct kelpie_manifest *manifest,
                                          struct kelpie_error *error);

/* Whether a full check was made since this boot of the host, and no file has changed its size,
 * inode or time of modification since. */
KELPIE_MUST_CHECK bool kelpie__seal_is_known(struct kelpie_os *os, int directory,
                                             const struct kelpie_manifest *manifest);
/* Remembers that there was one, if the files have stood for a moment: one that changes right after
 * the check must not have the same time. `is_transient`: at once, of a snapshot that nobody else
 * will know of. Of no consequence when it cannot be written. */
void kelpie__seal_remember(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest, bool is_transient);

#endif
