/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Looking: what processes ask about files, and the truth for invariants, with the check of
 * everything that must hold in here.
 */
#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "sim/disk_internal.h"

/* ---- for processes --------------------------------------------------------------------------- */

static void stat_inode(const struct sim_inode *inode, struct kelpie_os_stat *out) {
    bool is_link = inode->kind == KELPIE_OS_KIND_LINK;
    bool is_directory = inode->kind == KELPIE_OS_KIND_DIRECTORY;
    KELPIE_ASSERT(inode->number > 0);
    memset(out, 0, sizeof(*out));
    out->kind = inode->kind;
    out->mode = inode->mode;
    out->uid = inode->uid;
    out->gid = inode->gid;
    out->device = inode->mount->device;
    out->inode = inode->number;
    out->size_bytes = is_directory ? SIM_PAGE_BYTES : inode->size;
    out->allocated_bytes = is_directory ? SIM_PAGE_BYTES
                           : is_link    ? 0
                                        : inode->pages.count * SIM_PAGE_BYTES;
    out->modified_ns = inode->modified_ns;
    out->changed_ns = inode->changed_ns;
}

/* A handle of whatever kind. */
static int stat_handle(struct sim_process *process, int handle, struct kelpie_os_stat *out) {
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0) {
        return status;
    }
    if (file != NULL) {
        stat_inode(file->inode, out);
        return 0;
    }
    const char *kind = kelpie__sim_handle_object(process, handle)->operations->kind;
    bool is_socket = strcmp(kind, "stream") == 0 || strcmp(kind, "listener") == 0;
    KELPIE_ASSERT(kind[0] != '\0');
    memset(out, 0, sizeof(*out));
    out->kind = is_socket ? KELPIE_OS_KIND_SOCKET : KELPIE_OS_KIND_OTHER;
    out->mode = is_socket ? 0777 : 0600;
    out->uid = process->uid;
    out->gid = process->gid;
    out->inode = (uint64_t)handle + 1;
    return 0;
}

int kelpie__sim_disk_stat(struct sim_process *process, int directory, const char *path, bool follow,
                          struct kelpie_os_stat *out) {
    struct sim_walk walk;
    if (path[0] == '\0' && directory != KELPIE_OS_CWD) {
        return stat_handle(process, directory, out);
    }
    int status = kelpie__sim_walk(&walk, process, directory, path[0] == '\0' ? "." : path, follow);
    if (status == 0) {
        status = walk.inode == NULL ? -ENOENT : 0;
    }
    if (status == 0) {
        stat_inode(walk.inode, out);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

/* The path of what was found; its last name may be one of several. */
static int walked_path(const struct sim_walk *walk, char *out, size_t capacity) {
    KELPIE_ASSERT(walk->inode != NULL);
    return walk->last == SIM_LAST_NAME
               ? kelpie__sim_inode_path_below(walk->directory, walk->name, walk->name_length, out,
                                              capacity)
               : kelpie__sim_inode_path(walk->inode, out, capacity);
}

int kelpie__sim_disk_real_path(struct sim_process *process, const char *path, char *out,
                               size_t capacity) {
    struct sim_walk walk;
    char found[SIM_PATH_BYTES_MAX];
    int status = kelpie__sim_walk(&walk, process, KELPIE_OS_CWD, path, true);
    if (status == 0) {
        status = walk.inode == NULL ? -ENOENT : walked_path(&walk, found, sizeof(found));
    }
    kelpie__sim_walk_end(&walk);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(status > 0 && found[0] == '/');
    if ((size_t)status >= capacity) {
        return -ENAMETOOLONG;
    }
    memcpy(out, found, (size_t)status + 1);
    return 0;
}

int kelpie__sim_disk_executable(struct sim_process *process, const char *path,
                                char out_real[SIM_PATH_BYTES_MAX]) {
    struct sim_walk walk;
    int status = kelpie__sim_walk(&walk, process, KELPIE_OS_CWD, path, true);
    if (status == 0 && walk.inode == NULL) {
        status = -ENOENT;
    }
    if (status == 0) {
        bool is_executable = walk.inode->kind == KELPIE_OS_KIND_FILE &&
                             (walk.inode->mode & 0111u) != 0; /* that much even root needs */
        status = is_executable ? kelpie__sim_inode_permits(walk.inode, process, 1) : -EACCES;
    }
    if (status == 0) {
        int length = walked_path(&walk, out_real, SIM_PATH_BYTES_MAX);
        status = length < 0 ? length : 0;
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status < 0 || out_real[0] == '/');
    return status;
}

int kelpie__sim_disk_directory(struct sim_process *process, const char *path) {
    struct sim_walk walk;
    int status = kelpie__sim_walk(&walk, process, KELPIE_OS_CWD, path, true);
    if (status == 0) {
        status = walk.inode == NULL ? -ENOENT
                 : walk.inode->kind != KELPIE_OS_KIND_DIRECTORY
                     ? -ENOTDIR
                     : kelpie__sim_inode_permits(walk.inode, process, 1);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__sim_disk_path_of(struct sim_process *process, int handle, char *out, size_t capacity) {
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0 || file == NULL) {
        return -EBADF;
    }
    KELPIE_ASSERT(capacity > 1);
    status = file->directory == NULL
                 ? kelpie__sim_inode_path(file->inode, out, capacity)
                 : kelpie__sim_inode_path_below(file->directory, file->name->text,
                                                file->name->length, out, capacity);
    return status < 0 ? status : 0;
}

/* ---- the truth ------------------------------------------------------------------------------- */

/* The medium's own tree: no links are followed there. NULL: nothing. */
static struct sim_inode *durable_find(struct sim_disk *disk, const char *path) {
    struct sim_inode *inode = disk->root;
    KELPIE_ASSERT(path[0] == '/');
    for (path += kelpie__sim_slashes_length(path);
         inode != NULL && *path != '\0';) { /* a component each turn */
        size_t length = kelpie__sim_component_length(path);
        if (length > SIM_FILE_NAME_BYTES_MAX || inode->kind != KELPIE_OS_KIND_DIRECTORY) {
            return NULL;
        }
        uint64_t hash = kelpie__sim_name_hash(disk->hash_seed, path, length);
        inode = kelpie__sim_table_get(&inode->durable_entries, hash);
        path += length;
        path += kelpie__sim_slashes_length(path);
    }
    return inode;
}

static int64_t peek_durable(const struct sim_inode *inode, void *out, size_t capacity) {
    if (inode == NULL) {
        return -ENOENT;
    }
    size_t count = (size_t)kelpie__min_u64(capacity, inode->durable_size);
    if (count > 0) {
        kelpie__sim_pages_read(&inode->durable_pages, out, count, 0);
    }
    KELPIE_ASSERT(inode->durable_size <= SIM_FILE_BYTES_MAX);
    return (int64_t)inode->durable_size;
}

int64_t kelpie__sim_disk_peek(struct sim_disk *disk, bool is_durable, const char *path, void *out,
                              size_t capacity) {
    struct sim_walk walk;
    if (is_durable) {
        return peek_durable(durable_find(disk, path), out, capacity);
    }
    int64_t result = kelpie__sim_walk_disk(&walk, disk, path, true);
    if (result == 0 && walk.inode == NULL) {
        result = -ENOENT;
    }
    if (result == 0 && walk.inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        result = -EISDIR;
    }
    if (result == 0) {
        KELPIE_ASSERT(!walk.inode->is_evicted);
        kelpie__ignore(kelpie__sim_inode_read(walk.inode, out, capacity, 0));
        result = (int64_t)walk.inode->size;
    }
    kelpie__sim_walk_end(&walk);
    return result;
}

int64_t kelpie__sim_disk_peek_at(struct sim_disk *disk, const char *path, uint64_t offset,
                                 void *out, size_t count) {
    struct sim_walk walk;
    int64_t result = kelpie__sim_walk_disk(&walk, disk, path, true);
    if (result == 0) {
        bool is_file = walk.inode != NULL && walk.inode->kind == KELPIE_OS_KIND_FILE;
        result = is_file ? kelpie__sim_inode_read(walk.inode, out, count, offset) : -ENOENT;
    }
    kelpie__sim_walk_end(&walk);
    return result;
}

int kelpie__sim_disk_flush(struct sim_disk *disk, const char *path, uint64_t offset,
                           const void *bytes, size_t count) {
    struct sim_walk walk;
    KELPIE_ASSERT(count > 0);
    int64_t result = kelpie__sim_walk_disk(&walk, disk, path, true);
    if (result == 0) {
        bool is_file = walk.inode != NULL && walk.inode->kind == KELPIE_OS_KIND_FILE;
        result = is_file ? kelpie__sim_inode_write(walk.inode, bytes, count, offset) : -ENOENT;
    }
    if (result == (int64_t)count) {
        kelpie__sim_pending_sync(walk.inode);
    }
    kelpie__sim_walk_end(&walk);
    return result == (int64_t)count ? 0 : result < 0 ? (int)result : -ENOSPC;
}

static uint64_t hash_word(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 29;
}

/* 0: it is all zeros. `left`: what the file has from there on. */
static uint64_t hash_page(const struct sim_pages *pages, uint64_t page, uint64_t left) {
    const struct sim_buffer *buffer = kelpie__sim_pages_get(pages, page);
    uint8_t copy[SIM_PAGE_BYTES];
    const uint8_t *bytes = copy;
    KELPIE_ASSERT(buffer != NULL && left > 0);
    if (buffer->capacity == SIM_PAGE_BYTES && left >= SIM_PAGE_BYTES) {
        bytes = buffer->bytes;
    } else {
        memset(copy, 0, sizeof(copy));
        kelpie__sim_pages_read(pages, copy, (size_t)kelpie__min_u64(sizeof(copy), left),
                               page * SIM_PAGE_BYTES);
    }
    bool is_zero = bytes[0] == 0 && memcmp(bytes, bytes + 1, SIM_PAGE_BYTES - 1) == 0;
    return is_zero ? 0 : kelpie__checksum_u64(bytes, SIM_PAGE_BYTES) | 1;
}

/* Pages of zeros are what holes are. */
static uint64_t hash_pages(const struct sim_pages *pages, uint64_t size) {
    uint64_t hash = hash_word(size + 1, 0);
    for (uint64_t page = kelpie__sim_pages_next(pages, 0);
         page != UINT64_MAX && page * SIM_PAGE_BYTES < size; /* bound: the pages that are there */
         page = kelpie__sim_pages_next(pages, page + 1)) {
        uint64_t sum = hash_page(pages, page, size - page * SIM_PAGE_BYTES);
        hash = sum == 0 ? hash : hash_word(hash_word(hash, page), sum);
    }
    return hash | 1;
}

uint64_t kelpie__sim_disk_hash(struct sim_disk *disk, bool is_durable, const char *path) {
    struct sim_walk walk;
    uint64_t hash = 0;
    if (is_durable) {
        const struct sim_inode *inode = durable_find(disk, path);
        return inode == NULL ? 0 : hash_pages(&inode->durable_pages, inode->durable_size);
    }
    bool is_file = kelpie__sim_walk_disk(&walk, disk, path, true) == 0 && walk.inode != NULL &&
                   walk.inode->kind == KELPIE_OS_KIND_FILE;
    if (is_file) {
        hash = hash_pages(&walk.inode->pages, walk.inode->size);
    }
    kelpie__sim_walk_end(&walk);
    return hash;
}

bool kelpie__sim_disk_walk(struct sim_disk *disk, const char *path, uint64_t *inout_cursor,
                           char out_name[256]) {
    struct sim_walk walk;
    bool has_next = kelpie__sim_walk_disk(&walk, disk, path, true) == 0 && walk.inode != NULL &&
                    walk.inode->kind == KELPIE_OS_KIND_DIRECTORY &&
                    kelpie__sim_inode_list(walk.inode, inout_cursor, out_name, 256) == 1;
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(!has_next || out_name[0] != '\0');
    return has_next;
}

/* Somebody alive who has the handle: the one who took the lock, if it still has it. */
static int32_t lock_owner(const struct sim_disk *disk, struct sim_file *file) {
    int32_t pid = 0;
    KELPIE_ASSERT(file->lock != SIM_LOCK_NONE);
    for (struct sim_process *process = disk->machine->processes; process != NULL;
         process = process->next) {
        for (uint32_t i = 0; i < process->handle_count; i += 1) {
            if (kelpie__sim_handle_object(process, (int)i) == &file->object &&
                (pid == 0 || process->pid == file->lock_pid)) {
                pid = process->pid;
            }
        }
    }
    return pid == 0 ? file->lock_pid : pid; /* on its way in a stream */
}

bool kelpie__sim_disk_lock_holder(struct sim_disk *disk, const char *path, int32_t *out_pid) {
    struct sim_walk walk;
    bool is_held = kelpie__sim_walk_disk(&walk, disk, path, true) == 0 && walk.inode != NULL &&
                   walk.inode->lock_holders != NULL;
    if (is_held) {
        *out_pid = lock_owner(disk, walk.inode->lock_holders);
        KELPIE_ASSERT(*out_pid > 0);
    }
    kelpie__sim_walk_end(&walk);
    return is_held;
}

uint64_t kelpie__sim_disk_used_bytes(const struct sim_disk *disk) {
    return disk->main->used_bytes;
}

/* ---- the check ------------------------------------------------------------------------------- */

static void check_table(const struct sim_table *table) {
    KELPIE_ASSERT(table->count <= table->capacity);
    for (uint32_t i = 0; i < table->count; i += 1) {
        KELPIE_ASSERT(table->slots[i].hash == table->slots[i].name->hash);
        KELPIE_ASSERT(i == 0 || table->slots[i - 1].hash < table->slots[i].hash);
        KELPIE_ASSERT(table->slots[i].inode->references > 0);
    }
}

static void check_inode(const struct sim_inode *inode) {
    KELPIE_ASSERT(inode->references > 0);
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_DIRECTORY || inode->entries.count == 0);
    KELPIE_ASSERT(!inode->is_evicted || inode->pages.count == 0);
    KELPIE_ASSERT(inode->is_evicted ||
                  kelpie__sim_pages_next(&inode->pages, (inode->size + SIM_PAGE_BYTES - 1) /
                                                            SIM_PAGE_BYTES) == UINT64_MAX);
    KELPIE_ASSERT((inode->pending.first == NULL) == (inode->pending.last == NULL));
    KELPIE_ASSERT(!inode->is_lock_exclusive || inode->lock_holders == NULL ||
                  inode->lock_holders->lock_next == NULL);
    check_table(&inode->entries);
    check_table(&inode->durable_entries);
}

static void check_pending(const struct sim_disk *disk) {
    uint64_t last = 0;
    uint32_t count = 0;
    for (const struct sim_pending *pending = disk->pending_first; pending != NULL;
         pending = pending->next) {
        KELPIE_ASSERT(pending->sequence > last);
        KELPIE_ASSERT(pending->inode != NULL || pending->type == SIM_PENDING_REMOVE);
        KELPIE_ASSERT((pending->type >= SIM_PENDING_ADD) == (pending->name != NULL));
        last = pending->sequence;
        count += 1;
    }
    KELPIE_ASSERT(count == disk->pending_count);
}

void kelpie__sim_disk_check(const struct sim_disk *disk) {
    uint64_t count = 0;
    uint64_t links = 1; /* the root's */
    uint64_t names = 0;
    uint64_t used = 0;
    KELPIE_ASSERT(disk->garbage == NULL);
    for (const struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        bool is_directory = inode->kind == KELPIE_OS_KIND_DIRECTORY;
        check_inode(inode);
        count += 1;
        names += inode->entries.count;
        links += inode == disk->root ? 0 : inode->links;
        if (inode->mount == disk->main && !inode->is_evicted) {
            used += is_directory                         ? SIM_PAGE_BYTES
                    : inode->kind == KELPIE_OS_KIND_FILE ? inode->pages.count * SIM_PAGE_BYTES
                                                         : 0;
        }
    }
    KELPIE_ASSERT(count == disk->inode_count);
    KELPIE_ASSERT(links >= names + 1); /* patterns and instances have a name of their own */
    KELPIE_ASSERT(used == disk->main->used_bytes);
    check_pending(disk);
}
