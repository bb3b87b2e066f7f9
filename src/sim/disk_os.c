/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The operations of the os table on files: each is an entry (counted, delayed, failed), the work,
 * and an end (hashed). What a fault asks of a call is done here: fewer bytes, a changed bit, a sync
 * that lies.
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

#define SYNC_NS_MEDIAN 1000000 /* a flush of an SSD's cache */

static int os_fail(struct sim_call *call) {
    KELPIE_ASSERT(call->fault_errno > 0);
    return (int)kelpie__sim_leave(call, -call->fault_errno, NULL, 0);
}

static int os_end(struct sim_call *call, int result) {
    return (int)kelpie__sim_leave(call, result, NULL, 0);
}

static size_t os_shorten(const struct sim_call *call, size_t count) {
    return call->fault_short > 0 && call->fault_short < count ? (size_t)call->fault_short : count;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int os_open(struct kelpie_os *os, int directory, const char *path, uint32_t flags,
                   uint32_t mode) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_open, directory, path)) {
        return os_fail(&call);
    }
    call.argument = (uint64_t)flags << 32 | mode;
    return os_end(&call, kelpie__sim_disk_open(call.process, directory, path, flags, mode));
}

static int os_rename(struct kelpie_os *os, int from_directory, const char *from, int to_directory,
                     const char *to, bool may_replace) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_rename, to_directory, to)) {
        return os_fail(&call);
    }
    int status =
        kelpie__sim_disk_rename(call.process, from_directory, from, to_directory, to, may_replace);
    call.argument = (uint64_t)(uint32_t)from_directory << 1 | may_replace;
    return (int)kelpie__sim_leave(&call, status, from, strlen(from));
}

static int os_unlink(struct kelpie_os *os, int directory, const char *name, bool is_directory) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_unlink, directory, name)) {
        return os_fail(&call);
    }
    call.argument = is_directory;
    return os_end(&call, kelpie__sim_disk_unlink(call.process, directory, name, is_directory));
}

static int os_link(struct kelpie_os *os, int file, int directory, const char *name) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_link, file, name)) {
        return os_fail(&call);
    }
    call.argument = (uint32_t)directory;
    return os_end(&call, kelpie__sim_disk_link(call.process, file, directory, name));
}

static int os_mkdir(struct kelpie_os *os, int directory, const char *name, uint32_t mode) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_mkdir, directory, name)) {
        return os_fail(&call);
    }
    call.argument = mode;
    return os_end(&call, kelpie__sim_disk_mkdir(call.process, directory, name, mode));
}

static int list_next(struct sim_process *process, int handle, uint64_t *inout_cursor,
                     char *out_name, size_t capacity) {
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0) {
        return status;
    }
    if (file == NULL || file->inode->kind != KELPIE_OS_KIND_DIRECTORY) {
        return -ENOTDIR;
    }
    if (file->inode->links == 0) {
        return -ENOENT;
    }
    return kelpie__sim_inode_list(file->inode, inout_cursor, out_name, capacity);
}

static int os_list(struct kelpie_os *os, int directory, uint64_t *inout_cursor, char *out_name,
                   size_t capacity) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_list, directory, NULL)) {
        return os_fail(&call);
    }
    int status = list_next(call.process, directory, inout_cursor, out_name, capacity);
    call.argument = *inout_cursor;
    return (int)kelpie__sim_leave(&call, status, out_name, status == 1 ? strlen(out_name) : 0);
}

static int os_real_path(struct kelpie_os *os, const char *path, char *out, size_t capacity) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_real_path, KELPIE_OS_NO_HANDLE, path)) {
        return os_fail(&call);
    }
    int status = kelpie__sim_disk_real_path(call.process, path, out, capacity);
    return (int)kelpie__sim_leave(&call, status, out, status == 0 ? strlen(out) : 0);
}

static int os_stat(struct kelpie_os *os, int directory, const char *path, bool follow,
                   struct kelpie_os_stat *out) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_stat, directory, path)) {
        return os_fail(&call);
    }
    int status = kelpie__sim_disk_stat(call.process, directory, path, follow, out);
    return (int)kelpie__sim_leave(&call, status, &out->size_bytes,
                                  status == 0 ? sizeof(out->size_bytes) : 0);
}

/* ---- content --------------------------------------------------------------------------------- */

static void os_mutate(const struct sim_call *call, void *bytes, int64_t count) {
    if (call->fault_mutate > 0 && count > 0) {
        uint64_t bit = call->fault_mutate % ((uint64_t)count * 8);
        ((uint8_t *)bytes)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static int64_t os_pread(struct kelpie_os *os, int file, void *out, size_t count, uint64_t offset) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_pread, file, NULL)) {
        return os_fail(&call);
    }
    struct sim_object *object = kelpie__sim_handle_object(call.process, file);
    int64_t got = -EBADF;
    if (object != NULL) {
        got = object->operations->pread == NULL
                  ? -ESPIPE
                  : object->operations->pread(call.process, object, out, os_shorten(&call, count),
                                              offset);
    }
    call.argument = offset;
    os_mutate(&call, out, got);
    KELPIE_ASSERT(got <= (int64_t)count);
    return kelpie__sim_leave(&call, got, out, got > 0 ? (size_t)got : 0);
}

static int64_t os_pwrite(struct kelpie_os *os, int file, const void *bytes, size_t count,
                         uint64_t offset) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_pwrite, file, NULL)) {
        return os_fail(&call);
    }
    struct sim_object *object = kelpie__sim_handle_object(call.process, file);
    int64_t put = -EBADF;
    if (object != NULL) {
        put = object->operations->pwrite == NULL
                  ? -ESPIPE
                  : object->operations->pwrite(call.process, object, bytes,
                                               os_shorten(&call, count), offset);
    }
    KELPIE_ASSERT(put <= (int64_t)count);
    call.argument = offset;
    return kelpie__sim_leave(&call, put, bytes, put > 0 ? (size_t)put : 0);
}

static int truncate_file(struct sim_process *process, int handle, uint64_t size) {
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0) {
        return status;
    }
    if (file == NULL || (file->flags & KELPIE_OS_OPEN_WRITE) == 0 || size > INT64_MAX) {
        return -EINVAL;
    }
    if (file->inode->node.write != NULL) {
        return 0; /* the kernel's files have no size */
    }
    KELPIE_ASSERT(file->inode->kind == KELPIE_OS_KIND_FILE);
    return file->inode->mount->is_read_only ? -EROFS
                                            : kelpie__sim_inode_truncate(file->inode, size);
}

static int os_truncate(struct kelpie_os *os, int file, uint64_t size_bytes) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_truncate, file, NULL)) {
        return os_fail(&call);
    }
    int status = truncate_file(call.process, file, size_bytes);
    call.argument = size_bytes;
    return os_end(&call, status);
}

/* What sync may be asked of. */
static int sync_file(struct sim_process *process, int handle, struct sim_file **out) {
    int status = kelpie__sim_file_of(process, handle, out);
    if (status < 0) {
        return status;
    }
    const struct sim_file *file = *out;
    bool is_synthetic = file != NULL && file->inode->mount->kind == SIM_MOUNT_SYNTHETIC &&
                        file->inode->kind != KELPIE_OS_KIND_DIRECTORY;
    return file == NULL || is_synthetic ? -EINVAL : 0;
}

static int os_sync(struct kelpie_os *os, int file_or_directory) {
    struct sim_call call;
    struct sim_file *file = NULL;
    bool is_allowed = kelpie__sim_enter(&call, os, SIM_OP_sync, file_or_directory, NULL);
    int status = sync_file(call.process, file_or_directory, &file);
    if (status == 0 && call.fault_lie) {
        kelpie__sim_pending_lose(file->inode);
    }
    if (!is_allowed) {
        return os_fail(&call);
    }
    if (status == 0 && !call.fault_lie && kelpie__sim_pending_has(file->inode)) {
        struct sim_world *world = call.process->machine->world;
        if (kelpie__sim_world_options(world)->cost_factor > 0) {
            /* Others run meanwhile; a power loss in between finds nothing done. */
            kelpie__sim_process_sleep(call.process,
                                      kelpie__sim_about(world, SIM_STREAM_DISK, SYNC_NS_MEDIAN));
        }
        kelpie__sim_pending_sync(file->inode);
        kelpie__sim_disk_collect(call.process->machine->disk);
    }
    return os_end(&call, status);
}

static int clone_check(struct sim_process *process, int from, int to, struct sim_file *out[2]) {
    int handles[2] = {from, to};
    for (unsigned i = 0; i < 2; i += 1) {
        int status = kelpie__sim_file_of(process, handles[i], &out[i]);
        if (status < 0) {
            return status;
        }
        if (out[i] == NULL) {
            return -EINVAL;
        }
        if (out[i]->inode->kind == KELPIE_OS_KIND_DIRECTORY) {
            return -EISDIR;
        }
        if (out[i]->inode->mount->kind == SIM_MOUNT_SYNTHETIC) {
            return -EINVAL;
        }
    }
    KELPIE_ASSERT(out[0] != NULL && out[1] != NULL);
    if ((out[0]->flags & KELPIE_OS_OPEN_READ) == 0 || (out[1]->flags & KELPIE_OS_OPEN_WRITE) == 0 ||
        (out[1]->flags & KELPIE_OS_OPEN_APPEND) != 0) {
        return -EBADF;
    }
    return out[1]->inode->mount->is_read_only ? -EROFS : 0;
}

/* os_linux.c's semantics: FICLONERANGE, or else copy_file_range(2) until all is there. */
static int clone_files(struct sim_process *process, int from, uint64_t from_offset, int to,
                       uint64_t to_offset, uint64_t count) {
    struct sim_file *files[2];
    int status = clone_check(process, from, to, files);
    if (status < 0) {
        return status;
    }
    struct sim_inode *source = files[0]->inode;
    struct sim_inode *target = files[1]->inode;
    if (source->mount != target->mount) {
        return -EXDEV;
    }
    if (source->mount->disk->profile == SIM_DISK_TMPFS) {
        return -EOPNOTSUPP;
    }
    for (uint64_t done = 0; done < count && status == 0;) { /* a byte at least, each turn */
        uint64_t from_at = from_offset + done;
        uint64_t to_at = to_offset + done;
        uint64_t part =
            from_at < source->size ? kelpie__min_u64(count - done, source->size - from_at) : 0;
        bool is_overlap = source == target && from_at < to_at + part && to_at < from_at + part;
        if (part == 0) {
            return -EIO; /* the source ends before */
        }
        status =
            is_overlap ? -EINVAL : kelpie__sim_inode_clone(source, from_at, target, to_at, part);
        done += part;
    }
    return status;
}

static int os_clone_range(struct kelpie_os *os, int from, uint64_t from_offset, int to,
                          uint64_t to_offset, uint64_t count) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_clone_range, to, NULL)) {
        return os_fail(&call);
    }
    call.argument = from_offset ^ to_offset << 20 ^ count << 40;
    return os_end(&call, clone_files(call.process, from, from_offset, to, to_offset, count));
}

static int next_data(struct sim_process *process, int handle, uint64_t offset, uint64_t *out_start,
                     uint64_t *out_end) {
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0) {
        return status;
    }
    if (file == NULL) {
        return -ESPIPE;
    }
    const struct sim_inode *inode = file->inode;
    if (inode->kind == KELPIE_OS_KIND_DIRECTORY || offset > INT64_MAX) {
        return -EINVAL;
    }
    if (offset >= inode->size) {
        return 0;
    }
    uint64_t first = kelpie__sim_pages_next(&inode->pages, offset / SIM_PAGE_BYTES);
    if (first == UINT64_MAX) {
        return 0;
    }
    uint64_t last = first; /* goes on while pages follow one another */
    while (kelpie__sim_pages_get(&inode->pages, last + 1) != NULL) {
        last += 1;
    }
    *out_start = kelpie__max_u64(offset, first * SIM_PAGE_BYTES);
    *out_end = kelpie__min_u64(inode->size, (last + 1) * SIM_PAGE_BYTES);
    KELPIE_ASSERT(*out_start < *out_end);
    return 1;
}

static int os_next_data(struct kelpie_os *os, int file, uint64_t offset, uint64_t *out_start,
                        uint64_t *out_end) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_next_data, file, NULL)) {
        return os_fail(&call);
    }
    int status = next_data(call.process, file, offset, out_start, out_end);
    call.argument = offset;
    return (int)kelpie__sim_leave(&call, status, out_start, status == 1 ? sizeof(*out_start) : 0);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static int os_space(struct kelpie_os *os, int handle, struct kelpie_os_space *out) {
    struct sim_call call;
    struct sim_file *file = NULL;
    if (!kelpie__sim_enter(&call, os, SIM_OP_space, handle, NULL)) {
        return os_fail(&call);
    }
    int status = kelpie__sim_file_of(call.process, handle, &file);
    if (status == 0) {
        const struct sim_mount *mount =
            file == NULL ? call.process->machine->disk->memory : file->inode->mount;
        uint64_t used = kelpie__min_u64(mount->used_bytes, mount->capacity_bytes);
        *out = (struct kelpie_os_space){mount->capacity_bytes - used, mount->capacity_bytes,
                                        mount->is_read_only};
    }
    return (int)kelpie__sim_leave(&call, status, &out->available_bytes,
                                  status == 0 ? sizeof(out->available_bytes) : 0);
}

static int lock_file(struct kelpie_os *os, int handle, enum sim_op op, enum sim_lock lock) {
    struct sim_call call;
    struct sim_file *file = NULL;
    if (!kelpie__sim_enter(&call, os, op, handle, NULL)) {
        return os_fail(&call);
    }
    int status = kelpie__sim_file_of(call.process, handle, &file);
    KELPIE_ASSERT(lock != SIM_LOCK_NONE);
    /* Linux locks whatever is open; here only what has a name can be opened twice. */
    if (status == 0 && file != NULL) {
        status = kelpie__sim_file_lock(file, lock, call.process->pid);
    }
    return os_end(&call, status);
}

static int os_lock(struct kelpie_os *os, int file) {
    return lock_file(os, file, SIM_OP_lock, SIM_LOCK_EXCLUSIVE);
}

static int os_lock_shared(struct kelpie_os *os, int file) {
    return lock_file(os, file, SIM_OP_lock_shared, SIM_LOCK_SHARED);
}

static int memory_file(struct sim_process *process, uint64_t size) {
    struct sim_mount *mount = process->machine->disk->memory;
    struct sim_inode *inode = kelpie__sim_inode_create(mount, KELPIE_OS_KIND_FILE, 0777);
    struct sim_file *file =
        inode == NULL ? NULL
                      : kelpie__sim_file_create(inode, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE);
    kelpie__sim_inode_unref(inode); /* the open file holds it */
    if (file == NULL) {
        kelpie__sim_disk_collect(mount->disk);
        return -ENOMEM;
    }
    inode->uid = process->uid;
    inode->gid = process->gid;
    int status = kelpie__sim_inode_truncate(inode, size);
    if (status == 0) {
        status = kelpie__sim_handle_install(process, &file->object);
    }
    kelpie__sim_object_unref(&file->object);
    return status;
}

static int os_memory_file(struct kelpie_os *os, const char *name, uint64_t size_bytes) {
    struct sim_call call;
    if (!kelpie__sim_enter(&call, os, SIM_OP_memory_file, KELPIE_OS_NO_HANDLE, name)) {
        return os_fail(&call);
    }
    int result = strnlen(name, SIM_FILE_NAME_BYTES_MAX) > 249
                     ? -EINVAL /* memfd_create(2) */
                     : memory_file(call.process, size_bytes);
    return os_end(&call, result);
}

void kelpie__sim_os_fill_files(struct kelpie_os *os) {
    os->real_path = os_real_path;
    os->open = os_open;
    os->pread = os_pread;
    os->pwrite = os_pwrite;
    os->truncate = os_truncate;
    os->sync = os_sync;
    os->rename = os_rename;
    os->unlink = os_unlink;
    os->link = os_link;
    os->mkdir = os_mkdir;
    os->list = os_list;
    os->stat = os_stat;
    os->space = os_space;
    os->lock = os_lock;
    os->lock_shared = os_lock_shared;
    os->clone_range = os_clone_range;
    os->next_data = os_next_data;
    os->memory_file = os_memory_file;
}
