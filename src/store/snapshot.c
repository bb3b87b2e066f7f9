/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See snapshot.h.
 */
#include "store/snapshot.h"

#include <errno.h>
#include <string.h>

#include "core/config.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/copy.h"
#include "store/remove.h"
#include "store/seal.h"
#include "store/temporary.h"

#define SNAPSHOT_DIRECTORY_MODE 0700u
#define SNAPSHOT_FILE_MODE 0600u
#define SNAPSHOT_MADE_PREFIX ".new-"
#define SNAPSHOT_REMOVED_PREFIX ".gone-"
#define SNAPSHOT_ID_CHARACTERS 32u
#define SNAPSHOT_RETIRED_BYTES 16u

static int open_directory(struct kelpie_os *os, int parent, const char *name) {
    return kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

static int fail_io(struct kelpie_error *error, int status, const char *what, const char *name) {
    KELPIE_ASSERT(status < 0);
    kelpie__ignore(kelpie__fail(error, KELPIE_E_IO, -status, "%s snapshot \"%s\"", what, name));
    if (status == -ENOSPC || status == -EDQUOT) {
        kelpie__fail_append(error, "; free some space, or use another state directory");
    }
    return KELPIE_E_IO;
}

void kelpie__snapshot_check(const struct kelpie_snapshot *snapshot) {
    KELPIE_ASSERT(snapshot->store != NULL);
    KELPIE_ASSERT(snapshot->directory >= 0);
    KELPIE_ASSERT(snapshot->entry[0] != '\0');
    KELPIE_ASSERT(snapshot->is_temporary == (snapshot->entry[0] == '.'));
    KELPIE_ASSERT(snapshot->manifest.file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
}

/* ---- the store ------------------------------------------------------------------------------- */

int kelpie__snapshot_store_open(struct kelpie_snapshot_store *store, struct kelpie_os *os,
                                const char *base_path, const char *name,
                                struct kelpie_error *error) {
    KELPIE_ASSERT(base_path[0] == '/');
    if (!kelpie__text_join(store->path, sizeof(store->path), base_path, name)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path \"%s/%s\" is too long", base_path,
                            name);
    }
    int status = kelpie__os_mkdir(os, KELPIE_OS_CWD, store->path, SNAPSHOT_DIRECTORY_MODE);
    int directory =
        status < 0 && status != -EEXIST ? status : open_directory(os, KELPIE_OS_CWD, store->path);
    if (directory < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -directory, "open the directory \"%s\"",
                            store->path);
    }
    store->os = os;
    store->directory = directory;
    KELPIE_ASSERT(store->directory >= 0);
    return 0;
}

void kelpie__snapshot_store_close(struct kelpie_snapshot_store *store) {
    KELPIE_ASSERT(store->directory >= 0);
    kelpie__ignore(kelpie__os_close(store->os, store->directory));
    store->directory = KELPIE_OS_NO_HANDLE;
}

static int check_space(const struct kelpie_snapshot_store *store, uint64_t needed_bytes,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(store->directory >= 0);
    struct kelpie_os_space space;
    int status = kelpie__os_space(store->os, store->directory, &space);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "ask for the space in \"%s\"",
                            store->path);
    }
    if (space.available_bytes < needed_bytes) {
        return kelpie__fail(error, KELPIE_E_LIMIT, ENOSPC,
                            "the snapshot needs up to %llu MiB, \"%s\" has %llu MiB; free some "
                            "space, or use another state directory",
                            (unsigned long long)(needed_bytes >> 20), store->path,
                            (unsigned long long)(space.available_bytes >> 20));
    }
    return 0;
}

static int fail_not_found(struct kelpie_error *error, const char *name) {
    return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                        "there is no snapshot \"%s\"; kelpie snapshot ls shows all", name);
}

/* The entry of this name is still the directory that we have opened: 1, 0 or -errno. */
static int look_if_current(const struct kelpie_snapshot_store *store, const char *entry,
                           int directory) {
    KELPIE_ASSERT(directory >= 0);
    struct kelpie_os_stat mine;
    struct kelpie_os_stat current;
    int status = kelpie__os_stat(store->os, directory, "", false, &mine);
    if (status == 0) {
        status = kelpie__os_stat(store->os, store->directory, entry, false, &current);
        status = status == -ENOENT ? 0 : status < 0 ? status : 1;
    }
    return status <= 0                                                    ? status
           : mine.inode == current.inode && mine.device == current.device ? 1
                                                                          : 0;
}

static bool is_current(const struct kelpie_snapshot_store *store, const char *entry,
                       int directory) {
    return look_if_current(store, entry, directory) == 1;
}

/* ---- making ---------------------------------------------------------------------------------- */

int kelpie__snapshot_begin(struct kelpie_snapshot *snapshot,
                           const struct kelpie_snapshot_store *store, const char *id,
                           uint64_t needed_bytes, struct kelpie_error *error) {
    KELPIE_ASSERT(strlen(id) == SNAPSHOT_ID_CHARACTERS);
    int status = check_space(store, needed_bytes, error);
    if (status < 0) {
        return status;
    }
    *snapshot = (struct kelpie_snapshot){
        .store = store, .is_temporary = true, .directory = KELPIE_OS_NO_HANDLE};
    bool fits = kelpie__text_format(snapshot->entry, sizeof(snapshot->entry),
                                    SNAPSHOT_MADE_PREFIX "%s", id);
    KELPIE_ASSERT(fits);
    int directory = kelpie__temporary_make(store->os, store->directory, snapshot->entry);
    if (directory == -EAGAIN) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            "another process tidies up where snapshots are made; try again");
    }
    if (directory < 0) {
        return fail_io(error, directory, "make the directory of", id);
    }
    snapshot->directory = directory;
    kelpie__ignore(kelpie__text_copy(snapshot->manifest.id, sizeof(snapshot->manifest.id), id));
    kelpie__snapshot_check(snapshot);
    return 0;
}

int kelpie__snapshot_adopt(struct kelpie_snapshot *snapshot,
                           const struct kelpie_snapshot_store *store, const char *entry,
                           int directory, struct kelpie_error *error) {
    struct kelpie_snapshot adopted = {.store = store, .is_temporary = true, .directory = directory};
    size_t prefix = strlen(SNAPSHOT_MADE_PREFIX);
    KELPIE_ASSERT(directory >= 0);
    if (strncmp(entry, SNAPSHOT_MADE_PREFIX, prefix) != 0 ||
        strlen(entry) != prefix + SNAPSHOT_ID_CHARACTERS || !is_current(store, entry, directory)) {
        return kelpie__fail(error, KELPIE_E_IO, 0, "\"%s\" is no unfinished snapshot", entry);
    }
    kelpie__ignore(kelpie__text_copy(adopted.entry, sizeof(adopted.entry), entry));
    kelpie__ignore(
        kelpie__text_copy(adopted.manifest.id, sizeof(adopted.manifest.id), entry + prefix));
    *snapshot = adopted;
    kelpie__snapshot_check(snapshot);
    return 0;
}

static int list_file(struct kelpie_snapshot *snapshot, const char *name,
                     struct kelpie_error *error) {
    struct kelpie_manifest *manifest = &snapshot->manifest;
    KELPIE_ASSERT(kelpie__manifest_is_file_name(name));
    if (manifest->file_count == KELPIE_MANIFEST_FILE_COUNT_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "the snapshot would have more than %u files; its disks have too many "
                            "layers",
                            KELPIE_MANIFEST_FILE_COUNT_MAX);
    }
    struct kelpie_manifest_file *file = &manifest->files[manifest->file_count];
    *file = (struct kelpie_manifest_file){0};
    kelpie__ignore(kelpie__text_copy(file->name, sizeof(file->name), name));
    manifest->file_count += 1;
    return 0;
}

int kelpie__snapshot_add_file(struct kelpie_snapshot *snapshot, const char *name, int *out_file,
                              struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(snapshot->is_temporary);
    int file = kelpie__os_open(os, snapshot->directory, name,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_EXCLUSIVE,
                               SNAPSHOT_FILE_MODE);
    if (file < 0) {
        return fail_io(error, file, "make a file of", snapshot->manifest.id);
    }
    int status = list_file(snapshot, name, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, file));
        return status;
    }
    *out_file = file;
    return 0;
}

int kelpie__snapshot_add_link(struct kelpie_snapshot *snapshot, const char *name, int file,
                              bool may_copy, struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(snapshot->is_temporary);
    int status = kelpie__os_link(os, file, snapshot->directory, name);
    if (status == 0) {
        return list_file(snapshot, name, error);
    }
    /* Another file system, one without links, or a file whose last name is gone. */
    bool is_copy = status == -EXDEV || status == -EPERM || status == -ENOENT || status == -EMLINK;
    if (!is_copy || !may_copy) {
        return fail_io(error, status, "link a file into", snapshot->manifest.id);
    }
    int copy = KELPIE_OS_NO_HANDLE;
    status = kelpie__snapshot_add_file(snapshot, name, &copy, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__copy_file(os, file, copy);
    kelpie__ignore(kelpie__os_close(os, copy));
    return status < 0 ? fail_io(error, status, "copy a file into", snapshot->manifest.id) : 0;
}

int kelpie__snapshot_store_sync(const struct kelpie_snapshot_store *store) {
    int status = KELPIE_CANARY(store->os, 3) ? 0 : kelpie__os_sync(store->os, store->directory);
    int parent = status < 0 ? status : open_directory(store->os, store->directory, "..");
    if (parent < 0) {
        return parent;
    }
    status = kelpie__os_sync(store->os, parent);
    kelpie__ignore(kelpie__os_close(store->os, parent));
    return status;
}

/* It has its name, which is to last, and which others may find from here on. */
static int finish_publishing(struct kelpie_snapshot *snapshot, bool is_synced,
                             struct kelpie_error *error) {
    const struct kelpie_snapshot_store *store = snapshot->store;
    const char *name = snapshot->manifest.name;
    KELPIE_ASSERT(snapshot->is_temporary);
    kelpie__ignore(kelpie__text_copy(snapshot->entry, sizeof(snapshot->entry), name));
    snapshot->is_temporary = false;
    int status = is_synced ? kelpie__snapshot_store_sync(store) : 0;
    if (status == 0) {
        status = kelpie__os_lock_shared(store->os, snapshot->directory);
    }
    return status < 0 ? fail_io(error, status, "sync the name of", name) : 0;
}

int kelpie__snapshot_publish(struct kelpie_snapshot *snapshot, bool is_synced,
                             struct kelpie_error *error) {
    const struct kelpie_snapshot_store *store = snapshot->store;
    const char *name = snapshot->manifest.name;
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(snapshot->is_temporary);
    KELPIE_ASSERT(kelpie__config_check_name(name, NULL) == 0);
    int status = is_synced ? kelpie__os_sync(store->os, snapshot->directory) : 0;
    if (status == 0) {
        status = kelpie__os_rename(store->os, store->directory, snapshot->entry, store->directory,
                                   name, false);
    }
    if (status == -EEXIST || status == -ENOTEMPTY) {
        return kelpie__fail_field(
            error, KELPIE_E_EXISTS, "name",
            "snapshot \"%s\" exists already; remove it or choose another name", name);
    }
    if (status < 0) {
        return fail_io(error, status, "give its name to", name);
    }
    return finish_publishing(snapshot, is_synced, error);
}

int kelpie__snapshot_take_over(struct kelpie_snapshot *snapshot, bool is_synced,
                               struct kelpie_error *error) {
    const struct kelpie_snapshot_store *store = snapshot->store;
    const char *name = snapshot->manifest.name;
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(snapshot->is_temporary);
    /* Not by its lock: until it is shared, which comes last, nobody but us can open it. */
    if (!is_current(store, name, snapshot->directory)) {
        return fail_not_found(error, name);
    }
    int status = finish_publishing(snapshot, is_synced, error);
    return status < 0
               ? status
               : kelpie__manifest_read(store->os, snapshot->directory, &snapshot->manifest, error);
}

void kelpie__snapshot_abandon(struct kelpie_snapshot *snapshot) {
    const struct kelpie_snapshot_store *store = snapshot->store;
    char gone[sizeof(snapshot->entry)];
    kelpie__snapshot_check(snapshot);
    if (!snapshot->is_temporary) { /* nobody may see it half removed */
        bool fits = kelpie__text_format(gone, sizeof(gone), SNAPSHOT_REMOVED_PREFIX "%s",
                                        snapshot->manifest.id);
        KELPIE_ASSERT(fits);
        if (kelpie__os_rename(store->os, store->directory, snapshot->entry, store->directory, gone,
                              false) == 0) {
            kelpie__ignore(kelpie__text_copy(snapshot->entry, sizeof(snapshot->entry), gone));
            snapshot->is_temporary = true;
        }
    }
    /* What stays is removed by prune, for its lock is free. */
    kelpie__ignore(kelpie__remove_directory(store->os, store->directory, snapshot->entry));
    kelpie__snapshot_close(snapshot);
}

/* ---- using ----------------------------------------------------------------------------------- */

/* Opens and locks; the entry may be any. */
static int take(const struct kelpie_snapshot_store *store, const char *entry, bool is_alone,
                int *out, struct kelpie_error *error) {
    int directory = open_directory(store->os, store->directory, entry);
    if (directory == -ENOENT || directory == -ENOTDIR) {
        return fail_not_found(error, entry);
    }
    int status = directory;
    if (directory >= 0) {
        status = is_alone ? kelpie__os_lock(store->os, directory)
                          : kelpie__os_lock_shared(store->os, directory);
    }
    int found = status == 0 ? look_if_current(store, entry, directory) : 1;
    if (found <= 0) {
        kelpie__ignore(kelpie__os_close(store->os, directory));
        return found == 0 ? fail_not_found(error, entry) : fail_io(error, found, "look for", entry);
    }
    if (status == 0) {
        KELPIE_ASSERT(directory >= 0);
        *out = directory;
        return 0;
    }
    if (directory >= 0) {
        kelpie__ignore(kelpie__os_close(store->os, directory));
    }
    if (status == -EAGAIN) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            is_alone ? "snapshot \"%s\" is in use by a VM; stop that VM first"
                                     : "snapshot \"%s\" is being removed",
                            entry);
    }
    return fail_io(error, status, "open", entry);
}

int kelpie__snapshot_open(struct kelpie_snapshot *snapshot,
                          const struct kelpie_snapshot_store *store, const char *name,
                          struct kelpie_error *error) {
    struct kelpie_snapshot opened = {.store = store, .directory = KELPIE_OS_NO_HANDLE};
    int status = kelpie__config_check_name(name, error);
    if (status == 0) {
        status = take(store, name, false, &opened.directory, error);
    }
    if (status < 0) {
        return status;
    }
    kelpie__ignore(kelpie__text_copy(opened.entry, sizeof(opened.entry), name));
    status = kelpie__manifest_read(store->os, opened.directory, &opened.manifest, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(store->os, opened.directory));
        kelpie__ignore(kelpie__fail_prefix(error, "snapshot \"%s\"", name));
        return status;
    }
    *snapshot = opened;
    kelpie__snapshot_check(snapshot);
    return 0;
}

void kelpie__snapshot_close(struct kelpie_snapshot *snapshot) {
    kelpie__snapshot_check(snapshot);
    kelpie__ignore(kelpie__os_close(snapshot->store->os, snapshot->directory));
    snapshot->directory = KELPIE_OS_NO_HANDLE;
}

int kelpie__snapshot_verify(struct kelpie_snapshot *snapshot, bool is_forced,
                            struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(!snapshot->is_temporary);
    if (!is_forced && kelpie__seal_is_known(os, snapshot->directory, &snapshot->manifest)) {
        return 0;
    }
    int status = kelpie__seal_verify(os, snapshot->directory, &snapshot->manifest, error);
    if (status == 0) {
        kelpie__seal_remember(os, snapshot->directory, &snapshot->manifest, false);
        return 0;
    }
    kelpie__ignore(kelpie__fail_prefix(error, "snapshot \"%s\"", snapshot->entry));
    return status;
}

/* ---- removing -------------------------------------------------------------------------------- */

int kelpie__snapshot_remove(const struct kelpie_snapshot_store *store, const char *name,
                            struct kelpie_error *error) {
    char gone[sizeof(((struct kelpie_snapshot *)NULL)->entry)];
    int directory = KELPIE_OS_NO_HANDLE;
    int status = kelpie__config_check_name(name, error);
    if (status == 0) {
        status = take(store, name, true, &directory, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(directory >= 0);
    bool fits = kelpie__text_format(gone, sizeof(gone), SNAPSHOT_REMOVED_PREFIX "%s", name);
    KELPIE_ASSERT(fits);
    /* One of that name that was half removed before. */
    status = kelpie__remove_directory(store->os, store->directory, gone);
    if (status == 0) {
        status =
            kelpie__os_rename(store->os, store->directory, name, store->directory, gone, false);
    }
    /* After the machine's death it is whole, or gone: never half of it by its name. */
    if (status == 0) {
        status = kelpie__os_sync(store->os, store->directory);
    }
    if (status == 0) {
        status = kelpie__remove_directory(store->os, store->directory, gone);
    }
    kelpie__ignore(kelpie__os_close(store->os, directory));
    return status < 0 ? fail_io(error, status, "remove", name) : 0;
}

void kelpie__snapshot_retire(const struct kelpie_snapshot_store *store, const char *name) {
    uint8_t bytes[SNAPSHOT_RETIRED_BYTES];
    char digits[2 * SNAPSHOT_RETIRED_BYTES + 1];
    char gone[sizeof(((struct kelpie_snapshot *)NULL)->entry)];
    KELPIE_ASSERT(kelpie__config_check_name(name, NULL) == 0);
    /* A name of its own: one that was retired before may still be in use. */
    if (kelpie__os_random(store->os, bytes, sizeof(bytes)) < 0) {
        return; /* it fails the next time as well, and goes then */
    }
    kelpie__text_hex(digits, sizeof(digits), bytes, sizeof(bytes));
    bool fits = kelpie__text_format(gone, sizeof(gone), SNAPSHOT_REMOVED_PREFIX "%s", digits);
    KELPIE_ASSERT(fits);
    kelpie__ignore(
        kelpie__os_rename(store->os, store->directory, name, store->directory, gone, false));
}

static bool is_prefixed(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

int kelpie__snapshot_list(const struct kelpie_snapshot_store *store, uint64_t *cursor,
                          char out_name[KELPIE_NAME_BYTES_MAX + 1], struct kelpie_error *error) {
    char name[256];
    int found = kelpie__os_list(store->os, store->directory, cursor, name, sizeof(name));
    while (found == 1) { /* bound: the directory */
        if (kelpie__config_check_name(name, NULL) == 0) {
            kelpie__ignore(kelpie__text_copy(out_name, KELPIE_NAME_BYTES_MAX + 1, name));
            return 1;
        }
        found = kelpie__os_list(store->os, store->directory, cursor, name, sizeof(name));
    }
    return found < 0 ? kelpie__fail(error, KELPIE_E_IO, -found, "list the snapshots") : 0;
}

void kelpie__snapshot_prune(const struct kelpie_snapshot_store *store,
                            struct kelpie_leftovers *inout) {
    uint64_t cursor = 0;
    char name[256];
    while (kelpie__os_list(store->os, store->directory, &cursor, name, sizeof(name)) == 1) {
        int directory = KELPIE_OS_NO_HANDLE;
        bool is_ours =
            is_prefixed(name, SNAPSHOT_MADE_PREFIX) || is_prefixed(name, SNAPSHOT_REMOVED_PREFIX);
        if (is_ours && take(store, name, true, &directory, NULL) == 0) {
            kelpie__remove_leftover(store->os, store->directory, name, inout);
            kelpie__ignore(kelpie__os_close(store->os, directory));
        }
    }
}
