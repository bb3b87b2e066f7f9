/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The directories of snapshots: STORE/NAME, where STORE is `snapshots` or `templates` (template.h)
 * in the state directory. One is made under a temporary name with its lock held, sealed, and then
 * renamed: it is there whole or not at all. Who uses one holds the lock of its directory together
 * with others; who removes it, alone.
 *
 * Files: manifest.json, checksums, config.json (the VM's), device (the VMM's own state), memory,
 * and map and base when the memory lies over a base; layers of disks under names that are unique in
 * the world, so that one directory can hold links to the layers of many others.
 */
#ifndef KELPIE_STORE_SNAPSHOT_H
#define KELPIE_STORE_SNAPSHOT_H

#include "core/config.h"
#include "store/manifest.h"
#include "store/remove.h"

#define KELPIE_SNAPSHOT_CONFIG_FILE "config.json"
#define KELPIE_SNAPSHOT_DEVICE_FILE "device"
#define KELPIE_SNAPSHOT_MEMORY_FILE "memory"
#define KELPIE_SNAPSHOT_MAP_FILE "map"
#define KELPIE_SNAPSHOT_BASE_FILE "base"
#define KELPIE_SNAPSHOTS_DIRECTORY "snapshots"

struct kelpie_snapshot_store {
    struct kelpie_os *os; /* borrowed: until close */
    int directory;        /* owned */
    char path[KELPIE_PATH_BYTES_MAX];
};

struct kelpie_snapshot {
    const struct kelpie_snapshot_store *store; /* borrowed: until close */
    char entry[KELPIE_NAME_BYTES_MAX + 8];     /* its name in the store now */
    bool is_temporary;
    int directory; /* owned; carries the lock */
    struct kelpie_manifest manifest;
};

/* Makes BASE/NAME when it is missing. Errors: IO. */
KELPIE_MUST_CHECK int kelpie__snapshot_store_open(struct kelpie_snapshot_store *store,
                                                  struct kelpie_os *os, const char *base_path,
                                                  const char *name, struct kelpie_error *error);
void kelpie__snapshot_store_close(struct kelpie_snapshot_store *store);
/* Makes the names in it durable, and its own: whoever made it may have died before that was so.
 * Gives 0 or -errno. */
KELPIE_MUST_CHECK int kelpie__snapshot_store_sync(const struct kelpie_snapshot_store *store);

/* Begins a new one, in a temporary directory with its lock held. `id`: 32 hexadecimal digits.
 * Errors: IO, LIMIT (fewer than `needed_bytes` are free: both numbers, and the way out). */
KELPIE_MUST_CHECK int kelpie__snapshot_begin(struct kelpie_snapshot *snapshot,
                                             const struct kelpie_snapshot_store *store,
                                             const char *id, uint64_t needed_bytes,
                                             struct kelpie_error *error);
/* For a worker: goes on with one that another process began, over that process's handle of its
 * directory, whose lock both hold. Takes the handle on success. The manifest is empty. Errors: IO.
 */
KELPIE_MUST_CHECK int kelpie__snapshot_adopt(struct kelpie_snapshot *snapshot,
                                             const struct kelpie_snapshot_store *store,
                                             const char *entry, int directory,
                                             struct kelpie_error *error);
/* A new file in it, for reading and writing; its name goes into the manifest's list. */
KELPIE_MUST_CHECK int kelpie__snapshot_add_file(struct kelpie_snapshot *snapshot, const char *name,
                                                int *out_file, struct kelpie_error *error);
/* The same for a file that is there already and never changes again: linked, or, when it lies on
 * another file system, copied (which takes its time: for a worker). */
KELPIE_MUST_CHECK int kelpie__snapshot_add_link(struct kelpie_snapshot *snapshot, const char *name,
                                                int file, bool may_copy,
                                                struct kelpie_error *error);
/* It is whole: from here on it is listed under its manifest's name. With the manifest and all files
 * written. EXISTS when the name is taken; it can then be abandoned or get another name. */
KELPIE_MUST_CHECK int kelpie__snapshot_publish(struct kelpie_snapshot *snapshot, bool is_synced,
                                               struct kelpie_error *error);
/* For who began one that a worker was to publish, when the worker is dead: it may have come to give
 * it its name. What is left to do is then done, and the manifest read. NOT_FOUND: it has no name,
 * and is as it was. Any other error: it has, and cannot be kept; it is to be abandoned. */
KELPIE_MUST_CHECK int kelpie__snapshot_take_over(struct kelpie_snapshot *snapshot, bool is_synced,
                                                 struct kelpie_error *error);
/* Removes an unfinished one, or one that was given its name just now; closes it. */
void kelpie__snapshot_abandon(struct kelpie_snapshot *snapshot);

/* Opens one by name and reads its manifest, with its lock held together with others. NOT_FOUND,
 * BUSY (it is being removed), SNAPSHOT_CORRUPTED, SNAPSHOT_INCOMPATIBLE, IO. */
KELPIE_MUST_CHECK int kelpie__snapshot_open(struct kelpie_snapshot *snapshot,
                                            const struct kelpie_snapshot_store *store,
                                            const char *name, struct kelpie_error *error);
void kelpie__snapshot_close(struct kelpie_snapshot *snapshot); /* drops the lock */
void kelpie__snapshot_check(const struct kelpie_snapshot *snapshot);
/* Of the VM that it was taken of. SNAPSHOT_CORRUPTED, MEMORY. */
KELPIE_MUST_CHECK int kelpie__snapshot_config(const struct kelpie_snapshot *snapshot,
                                              struct kelpie_config_values *out,
                                              struct kelpie_error *error);
/* Compares every byte, unless that was done since the host's boot. */
KELPIE_MUST_CHECK int kelpie__snapshot_verify(struct kelpie_snapshot *snapshot, bool is_forced,
                                              struct kelpie_error *error);

/* BUSY while anybody uses it. A damaged one can be removed. */
KELPIE_MUST_CHECK int kelpie__snapshot_remove(const struct kelpie_snapshot_store *store,
                                              const char *name, struct kelpie_error *error);
/* It is not to be found any more; who uses it goes on, and kelpie__snapshot_prune removes it when
 * nobody does. */
void kelpie__snapshot_retire(const struct kelpie_snapshot_store *store, const char *name);
/* Names one by one, from cursor 0; 1, or 0 at the end, or an error. Not sorted. */
KELPIE_MUST_CHECK int kelpie__snapshot_list(const struct kelpie_snapshot_store *store,
                                            uint64_t *cursor,
                                            char out_name[KELPIE_NAME_BYTES_MAX + 1],
                                            struct kelpie_error *error);
/* Removes what dead processes left half made or half removed; counts it, unless `inout` is NULL. */
void kelpie__snapshot_prune(const struct kelpie_snapshot_store *store,
                            struct kelpie_leftovers *inout);

#endif
