/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See pool.h. pool_file.c has what is in the files.
 */
#include "store/pool.h"

#include <errno.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/pool_file.h"
#include "store/remove.h"
#include "store/temporary.h"

#define POOL_DIRECTORY_MODE 0700u
#define POOL_FILE_MODE 0600u
#define POOL_ID_CHARACTERS 32u
#define POOL_STORE "pools"
#define POOL_MADE_PREFIX ".new-"
#define POOL_RETIRED_PREFIX ".gone-"
#define POOL_OWNER_FILE "owner"

static int open_directory(struct kelpie_os *os, int parent, const char *name) {
    return kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

static void close_handle(struct kelpie_os *os, int *handle) {
    if (*handle >= 0) {
        kelpie__ignore(kelpie__os_close(os, *handle));
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

static int fail_io(struct kelpie_error *error, int status, const char *what, const char *name) {
    KELPIE_ASSERT(status < 0);
    kelpie__ignore(kelpie__fail(error, KELPIE_E_IO, -status, "%s pool \"%s\"", what, name));
    if (status == -ENOSPC || status == -EDQUOT) {
        kelpie__fail_append(error, "; free some space, or use another state directory");
    }
    return KELPIE_E_IO;
}

static int fail_not_found(struct kelpie_error *error, const char *name) {
    return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                        "there is no pool \"%s\"; kelpie pool ls shows what there is", name);
}

void kelpie__pool_directory_check(const struct kelpie_pool_directory *pool) {
    KELPIE_ASSERT(pool->store != NULL);
    KELPIE_ASSERT(pool->directory >= 0 && pool->ready >= 0);
    KELPIE_ASSERT(pool->entry[0] != '\0');
    KELPIE_ASSERT(strlen(pool->values.id) == POOL_ID_CHARACTERS);
    KELPIE_ASSERT(pool->values.size >= 1 && pool->values.size <= KELPIE_POOL_SIZE_MAX);
}

/* ---- the store ------------------------------------------------------------------------------- */

int kelpie__pool_store_open(struct kelpie_pool_store *store, struct kelpie_os *os,
                            const char *state_path, struct kelpie_error *error) {
    char path[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(state_path[0] == '/');
    if (!kelpie__text_join(path, sizeof(path), state_path, POOL_STORE)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path \"%s/" POOL_STORE "\" is too long",
                            state_path);
    }
    int directory = open_directory(os, KELPIE_OS_CWD, path);
    if (directory == -ENOENT) {
        int status = kelpie__os_mkdir(os, KELPIE_OS_CWD, path, POOL_DIRECTORY_MODE);
        directory =
            status < 0 && status != -EEXIST ? status : open_directory(os, KELPIE_OS_CWD, path);
    }
    if (directory < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -directory, "open the directory \"%s\"", path);
    }
    store->os = os;
    store->directory = directory;
    return 0;
}

void kelpie__pool_store_close(struct kelpie_pool_store *store) {
    KELPIE_ASSERT(store->directory >= 0);
    close_handle(store->os, &store->directory);
}

int kelpie__pool_store_list(const struct kelpie_pool_store *store, uint64_t *cursor,
                            bool wants_leftovers, char out_entry[KELPIE_NAME_BYTES_MAX + 8],
                            struct kelpie_error *error) {
    KELPIE_ASSERT(store->directory >= 0);
    char name[256];
    int found = kelpie__os_list(store->os, store->directory, cursor, name, sizeof(name));
    while (found == 1) { /* bound: the directory */
        bool is_leftover = kelpie__text_has_prefix(name, POOL_MADE_PREFIX) ||
                           kelpie__text_has_prefix(name, POOL_RETIRED_PREFIX);
        bool is_wanted = wants_leftovers ? is_leftover : kelpie__config_check_name(name, NULL) == 0;
        if (is_wanted && kelpie__text_copy(out_entry, KELPIE_NAME_BYTES_MAX + 8, name)) {
            return 1;
        }
        found = kelpie__os_list(store->os, store->directory, cursor, name, sizeof(name));
    }
    KELPIE_ASSERT(found <= 0);
    return found < 0 ? kelpie__fail(error, KELPIE_E_IO, -found, "list the pools") : 0;
}

/* The entry of this name is the directory that we have opened. */
static bool is_current(const struct kelpie_pool_store *store, const char *entry, int directory) {
    KELPIE_ASSERT(directory >= 0);
    return kelpie__handle_is_named(store->os, store->directory, entry, directory);
}

/* Its file is there, and the directory of its members' notes. */
static bool is_whole(struct kelpie_os *os, int directory) {
    struct kelpie_pool_values values;
    struct kelpie_os_stat stat;
    int status = kelpie__pool_file_read(os, directory, &values, NULL);
    return status == 0 ? kelpie__os_stat(os, directory, values.id, false, &stat) == 0
                       : status != KELPIE_E_NOT_FOUND; /* damaged: for people */
}

void kelpie__pool_store_prune(const struct kelpie_pool_store *store, const char *entry) {
    bool is_named = entry[0] != '.';
    KELPIE_ASSERT(entry[0] != '\0');
    int directory = open_directory(store->os, store->directory, entry);
    if (directory >= 0 && kelpie__os_lock(store->os, directory) == 0 &&
        is_current(store, entry, directory) && !(is_named && is_whole(store->os, directory))) {
        KELPIE_REACHED(store->os, "a part of a pool was found");
        kelpie__ignore(kelpie__remove_directory(store->os, store->directory, entry));
    }
    close_handle(store->os, &directory);
}

/* ---- the lock -------------------------------------------------------------------------------- */

bool kelpie__pool_directory_is_current(const struct kelpie_pool_directory *pool) {
    kelpie__pool_directory_check(pool);
    return is_current(pool->store, pool->entry, pool->directory);
}

int kelpie__pool_directory_lock(struct kelpie_pool_directory *pool, struct kelpie_error *error) {
    struct kelpie_os *os = pool->store->os;
    kelpie__pool_directory_check(pool);
    KELPIE_ASSERT(pool->lock == KELPIE_OS_NO_HANDLE);
    /* A description of its own: the lock goes to another process with its handle. */
    int lock = open_directory(os, pool->directory, ".");
    int status = lock < 0 ? lock : kelpie__os_lock(os, lock);
    if (status == 0 && !kelpie__pool_directory_is_current(pool)) {
        status = -ENOENT;
    }
    if (status == 0) {
        pool->lock = lock;
        return 0;
    }
    close_handle(os, &lock);
    return status == -ENOENT ? fail_not_found(error, pool->values.name)
           : status == -EAGAIN
               ? kelpie__fail(error, KELPIE_E_BUSY, 0, "pool \"%s\" is kept", pool->values.name)
               : fail_io(error, status, "lock", pool->values.name);
}

int kelpie__pool_directory_adopt_lock(struct kelpie_pool_directory *pool, int lock,
                                      struct kelpie_error *error) {
    kelpie__pool_directory_check(pool);
    KELPIE_ASSERT(pool->lock == KELPIE_OS_NO_HANDLE);
    if (!is_current(pool->store, pool->entry, lock)) {
        KELPIE_REACHED(pool->store->os, "a keeper found another pool under its name");
        return fail_not_found(error, pool->values.name);
    }
    pool->lock = lock;
    return 0;
}

void kelpie__pool_directory_unlock(struct kelpie_pool_directory *pool) {
    close_handle(pool->store->os, &pool->lock);
    KELPIE_ASSERT(pool->lock == KELPIE_OS_NO_HANDLE);
}

bool kelpie__pool_directory_is_orphan(const struct kelpie_pool_directory *pool) {
    struct kelpie_os *os = pool->store->os;
    kelpie__pool_directory_check(pool);
    if (pool->values.owner_pid == 0) {
        return false;
    }
    int owner = kelpie__os_open(os, pool->directory, POOL_OWNER_FILE,
                                KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    bool is_free = owner >= 0 && kelpie__os_lock(os, owner) == 0;
    close_handle(os, &owner);
    return is_free;
}

/* ---- making ---------------------------------------------------------------------------------- */

static int make_owner(struct kelpie_os *os, int directory, int *out_owner) {
    int owner = kelpie__os_open(os, directory, POOL_OWNER_FILE,
                                KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE,
                                POOL_FILE_MODE);
    int status = owner < 0 ? owner : kelpie__os_lock(os, owner);
    if (status < 0) {
        close_handle(os, &owner);
        return status;
    }
    *out_owner = owner;
    return 0;
}

/* Everything in the temporary directory, but for its files of text. */
static int make_entries(struct kelpie_pool_directory *pool, int *out_owner) {
    struct kelpie_os *os = pool->store->os;
    int status = kelpie__os_mkdir(os, pool->directory, pool->values.id, POOL_DIRECTORY_MODE);
    if (status == 0) {
        pool->ready = open_directory(os, pool->directory, pool->values.id);
        status = pool->ready < 0 ? pool->ready : 0;
    }
    if (status == 0 && pool->values.owner_pid != 0) {
        status = make_owner(os, pool->directory, out_owner);
    }
    return status;
}

/* The temporary directory, with its lock held, which tells prune that its maker lives. */
static int make_temporary(struct kelpie_pool_directory *pool) {
    KELPIE_ASSERT(pool->directory == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(kelpie__text_has_prefix(pool->entry, POOL_MADE_PREFIX));
    struct kelpie_os *os = pool->store->os;
    int parent = pool->store->directory;
    int lock = kelpie__temporary_make(os, parent, pool->entry);
    if (lock < 0) {
        return lock;
    }
    pool->lock = lock;
    pool->directory = open_directory(os, parent, pool->entry);
    return pool->directory < 0 ? pool->directory : 0;
}

/* Of the pools, and of the directory that they are in: whoever made that did not wait for it. */
static int sync_names(const struct kelpie_pool_store *store) {
    int status = kelpie__os_sync(store->os, store->directory);
    int parent = status < 0 ? status : open_directory(store->os, store->directory, "..");
    if (parent < 0) {
        return parent;
    }
    status = kelpie__os_sync(store->os, parent);
    close_handle(store->os, &parent);
    KELPIE_ASSERT(parent == KELPIE_OS_NO_HANDLE);
    return status;
}

static int make(struct kelpie_pool_directory *pool, const struct kelpie_config_values *config,
                int *out_owner, struct kelpie_error *error) {
    const struct kelpie_pool_store *store = pool->store;
    const char *name = pool->values.name;
    int status = make_temporary(pool);
    if (status == 0) {
        status = make_entries(pool, out_owner);
    }
    if (status == -EAGAIN) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            "another process tidies up where pools are made; try again");
    }
    if (status < 0) {
        return fail_io(error, status, "make the directory of", name);
    }
    status = kelpie__pool_file_write(store->os, pool->directory, &pool->values, config, error);
    if (status == 0) {
        int synced = kelpie__os_sync(store->os, pool->directory);
        status = synced < 0 ? fail_io(error, synced, "sync the directory of", name) : 0;
    }
    if (status < 0) {
        return status;
    }
    status =
        kelpie__os_rename(store->os, store->directory, pool->entry, store->directory, name, false);
    if (status == -EEXIST || status == -ENOTEMPTY) {
        return kelpie__fail_field(
            error, KELPIE_E_EXISTS, "name",
            "name: pool \"%s\" exists already; remove it or choose another name", name);
    }
    if (status < 0) {
        return fail_io(error, status, "make the directory of", name);
    }
    kelpie__ignore(kelpie__text_copy(pool->entry, sizeof(pool->entry), name));
    status = sync_names(store);
    return status < 0 ? fail_io(error, status, "sync the directory of", name) : 0;
}

int kelpie__pool_directory_create(struct kelpie_pool_directory *pool,
                                  const struct kelpie_pool_store *store,
                                  const struct kelpie_pool_values *values,
                                  const struct kelpie_config_values *config, int *out_owner,
                                  struct kelpie_error *error) {
    int owner = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(strlen(values->id) == POOL_ID_CHARACTERS);
    KELPIE_ASSERT(values->size >= 1);
    KELPIE_ASSERT(values->size <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(*out_owner == KELPIE_OS_NO_HANDLE);
    struct kelpie_pool_directory made = {.store = store,
                                         .directory = KELPIE_OS_NO_HANDLE,
                                         .ready = KELPIE_OS_NO_HANDLE,
                                         .lock = KELPIE_OS_NO_HANDLE,
                                         .values = *values};
    bool fits =
        kelpie__text_format(made.entry, sizeof(made.entry), POOL_MADE_PREFIX "%s", values->id);
    KELPIE_ASSERT(fits);
    int status = make(&made, config, &owner, error);
    if (status < 0) {
        kelpie__ignore(kelpie__remove_directory(store->os, store->directory, made.entry));
        close_handle(store->os, &owner);
        kelpie__pool_directory_close(&made);
        return status;
    }
    kelpie__pool_directory_check(&made);
    *pool = made;
    KELPIE_ASSERT((owner >= 0) == (values->owner_pid != 0));
    *out_owner = owner;
    return 0;
}

/* ---- opening and closing --------------------------------------------------------------------- */

int kelpie__pool_directory_open(struct kelpie_pool_directory *pool,
                                const struct kelpie_pool_store *store, const char *entry,
                                struct kelpie_error *error) {
    struct kelpie_os *os = store->os;
    struct kelpie_pool_directory opened = {.store = store,
                                           .directory = KELPIE_OS_NO_HANDLE,
                                           .ready = KELPIE_OS_NO_HANDLE,
                                           .lock = KELPIE_OS_NO_HANDLE};
    bool is_retired = kelpie__text_has_prefix(entry, POOL_RETIRED_PREFIX);
    if (!is_retired && kelpie__config_check_name(entry, error) < 0) {
        return KELPIE_E_CONFIG;
    }
    kelpie__ignore(kelpie__text_copy(opened.entry, sizeof(opened.entry), entry));
    opened.directory = open_directory(os, store->directory, entry);
    if (opened.directory < 0) {
        return opened.directory == -ENOENT ? fail_not_found(error, entry)
                                           : fail_io(error, opened.directory, "open", entry);
    }
    int status = kelpie__pool_file_read(os, opened.directory, &opened.values, error);
    if (status == 0) {
        opened.ready = open_directory(os, opened.directory, opened.values.id);
        status = opened.ready == -ENOENT ? fail_not_found(error, entry)
                 : opened.ready < 0      ? fail_io(error, opened.ready, "open", entry)
                                         : 0;
    }
    if (status < 0) {
        kelpie__pool_directory_close(&opened);
        return status;
    }
    kelpie__pool_directory_check(&opened);
    KELPIE_ASSERT(opened.lock == KELPIE_OS_NO_HANDLE);
    *pool = opened;
    return 0;
}

void kelpie__pool_directory_close(struct kelpie_pool_directory *pool) {
    struct kelpie_os *os = pool->store->os;
    close_handle(os, &pool->lock);
    close_handle(os, &pool->ready);
    close_handle(os, &pool->directory);
}

/* ---- the end --------------------------------------------------------------------------------- */

int kelpie__pool_directory_retire(struct kelpie_pool_directory *pool, struct kelpie_error *error) {
    const struct kelpie_pool_store *store = pool->store;
    char retired[sizeof(pool->entry)];
    kelpie__pool_directory_check(pool);
    if (kelpie__text_has_prefix(pool->entry, POOL_RETIRED_PREFIX)) {
        return 0;
    }
    bool fits =
        kelpie__text_format(retired, sizeof(retired), POOL_RETIRED_PREFIX "%s", pool->values.id);
    KELPIE_ASSERT(fits);
    int status = kelpie__pool_directory_is_current(pool)
                     ? kelpie__os_rename(store->os, store->directory, pool->entry, store->directory,
                                         retired, false)
                     : -ENOENT;
    if (status < 0) {
        return status == -ENOENT ? fail_not_found(error, pool->entry)
                                 : fail_io(error, status, "remove", pool->entry);
    }
    kelpie__ignore(kelpie__text_copy(pool->entry, sizeof(pool->entry), retired));
    /* When this cannot be made durable now, the machine's death brings back a pool without members.
     */
    kelpie__ignore(kelpie__os_sync(store->os, store->directory));
    return 0;
}

void kelpie__pool_directory_remove(struct kelpie_pool_directory *pool) {
    const struct kelpie_pool_store *store = pool->store;
    kelpie__pool_directory_check(pool);
    KELPIE_ASSERT(pool->lock >= 0);
    KELPIE_ASSERT(kelpie__text_has_prefix(pool->entry, POOL_RETIRED_PREFIX));
    kelpie__ignore(kelpie__remove_directory(store->os, store->directory, pool->entry));
}

/* ---- notes ----------------------------------------------------------------------------------- */

int kelpie__pool_ready_list(const struct kelpie_pool_directory *pool, uint64_t *cursor,
                            char out_name[KELPIE_NAME_BYTES_MAX + 1]) {
    char name[256];
    int found = kelpie__os_list(pool->store->os, pool->ready, cursor, name, sizeof(name));
    while (found == 1) { /* bound: the directory */
        if (kelpie__config_check_name(name, NULL) == 0) {
            kelpie__ignore(kelpie__text_copy(out_name, KELPIE_NAME_BYTES_MAX + 1, name));
            return 1;
        }
        found = kelpie__os_list(pool->store->os, pool->ready, cursor, name, sizeof(name));
    }
    return found;
}

uint32_t kelpie__pool_ready_count(const struct kelpie_pool_directory *pool) {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint64_t cursor = 0;
    uint32_t count = 0;
    kelpie__pool_directory_check(pool);
    while (kelpie__pool_ready_list(pool, &cursor, name) == 1) { /* bound: the directory */
        count += 1;
    }
    return count;
}

bool kelpie__pool_ready_forget(const struct kelpie_pool_directory *pool, const char *name) {
    KELPIE_ASSERT(kelpie__config_check_name(name, NULL) == 0);
    int status = kelpie__os_unlink(pool->store->os, pool->ready, name, false);
    return status == 0 || status == -ENOENT;
}

int kelpie__pool_ready_write(struct kelpie_os *os, const char *state_path, const char *pool_name,
                             const char *pool_id, const char *name, int *out_ready,
                             struct kelpie_error *error) {
    char path[KELPIE_PATH_BYTES_MAX];
    uint8_t id[POOL_ID_CHARACTERS / 2];
    struct kelpie_os_stat mine;
    struct kelpie_os_stat current;
    int status = kelpie__config_check_name(pool_name, error);
    if (status < 0 || !kelpie__text_unhex(pool_id, id, sizeof(id)) ||
        !kelpie__text_format(path, sizeof(path), "%s/" POOL_STORE "/%s/%s", state_path, pool_name,
                             pool_id)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "\"%.64s\" is no pool", pool_name);
    }
    int ready = open_directory(os, KELPIE_OS_CWD, path);
    if (ready < 0) {
        return fail_not_found(error, pool_name);
    }
    int note = kelpie__os_open(
        os, ready, name, KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_EXCLUSIVE,
        POOL_FILE_MODE);
    status = note < 0 ? note : 0;
    close_handle(os, &note);
    /* Who retires a pool looks for notes after that: either this one was there, or we see it. */
    if (status == 0 && (kelpie__os_stat(os, ready, "", false, &mine) < 0 ||
                        kelpie__os_stat(os, KELPIE_OS_CWD, path, false, &current) < 0 ||
                        mine.inode != current.inode)) {
        kelpie__ignore(kelpie__os_unlink(os, ready, name, false));
        status = -ENOENT;
    }
    if (status < 0) {
        close_handle(os, &ready);
        return status == -ENOENT ? fail_not_found(error, pool_name)
                                 : fail_io(error, status, "write a note of", pool_name);
    }
    *out_ready = ready;
    return 0;
}
