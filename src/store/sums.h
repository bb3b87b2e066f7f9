/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is known of files that never change again: the checksums of a VM's base and of the lower
 * layers of its disk, in a file of the VM's directory. A later snapshot of it has the same files,
 * and takes their checksums from here instead of reading them; so damage that came since is found
 * in it, too. A file is told by device, inode, size and time of modification.
 */
#ifndef KELPIE_STORE_SUMS_H
#define KELPIE_STORE_SUMS_H

#include "store/manifest.h"

#define KELPIE_SUMS_FILE "sums"

struct kelpie_sums {
    struct kelpie_os *os;
    uint64_t *words; /* owned; NULL: nothing is known */
    size_t word_count;
};

/* Reads what is known of a VM's files: nothing when there is none, or it is damaged. */
void kelpie__sums_load(struct kelpie_sums *sums, struct kelpie_os *os, int vm_directory);
void kelpie__sums_unload(struct kelpie_sums *sums);

/* The `count` checksums of a file, borrowed until it is unloaded; NULL: not known. */
const uint64_t *kelpie__sums_find(const struct kelpie_sums *sums, const struct kelpie_os_stat *stat,
                                  uint64_t count);

/* Keeps what a sealed snapshot says of such files of the VM's: replaces what was known. Of no
 * consequence when it fails. */
void kelpie__sums_keep(struct kelpie_os *os, int vm_directory, int snapshot_directory,
                       const struct kelpie_manifest *manifest);

#endif
