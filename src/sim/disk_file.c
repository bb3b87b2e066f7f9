/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Open files: positions, locks (flock(2): of the open file, gone with its last handle), and the
 * content of synthetic files, made when they are opened and again when they are read from the
 * start.
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

#define SCRATCH_BYTES ((size_t)64 * 1024)

static struct sim_file *file_of_object(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_file, object);
}

static struct sim_disk *file_disk(const struct sim_file *file) {
    KELPIE_ASSERT(file->inode->references > 0);
    return file->inode->mount->disk;
}

static bool file_is_void(const struct sim_file *file) {
    return file->generation != file_disk(file)->generation;
}

/* ---- synthetic content ----------------------------------------------------------------------- */

static bool scratch_grow(struct sim_disk *disk, size_t bytes) {
    if (disk->scratch_bytes >= bytes) {
        return true;
    }
    char *scratch = kelpie__sim_heap_alloc_raw(disk->heap, bytes);
    if (scratch == NULL) {
        return false;
    }
    kelpie__sim_heap_free(disk->heap, disk->scratch, disk->scratch_bytes);
    disk->scratch = scratch;
    disk->scratch_bytes = bytes;
    return true;
}

const void *kelpie__sim_disk_scratch(const struct sim_disk *disk, size_t *out_bytes) {
    *out_bytes = disk->scratch_bytes;
    KELPIE_ASSERT(disk->scratch != NULL || disk->scratch_bytes == 0);
    return disk->scratch;
}

static bool content_keep(struct sim_file *file, const char *bytes, size_t length) {
    struct sim_heap *heap = file_disk(file)->heap;
    if (file->content_bytes < length) {
        char *content = kelpie__sim_heap_alloc(heap, length);
        if (content == NULL) {
            return false;
        }
        kelpie__sim_heap_free(heap, file->content, file->content_bytes);
        file->content = content;
        file->content_bytes = length;
    }
    if (length > 0) {
        memcpy(file->content, bytes, length);
    }
    file->content_length = length;
    return true;
}

static int file_path(const struct sim_file *file, char out[SIM_PATH_BYTES_MAX]) {
    KELPIE_ASSERT(file->directory != NULL && file->name != NULL);
    return kelpie__sim_inode_path_below(file->directory, file->name->text, file->name->length, out,
                                        SIM_PATH_BYTES_MAX);
}

static int content_make(struct sim_file *file, struct sim_process *process) {
    struct sim_disk *disk = file_disk(file);
    sim_synthetic content = file->inode->node.content;
    char path[SIM_PATH_BYTES_MAX];
    if (content == NULL) {
        return content_keep(file, "", 0) ? 0 : -ENOMEM;
    }
    int status = file_path(file, path);
    if (status < 0) {
        return -ENODEV; /* as kernfs, when the directory is gone */
    }
    int64_t length = (int64_t)SCRATCH_BYTES;
    for (unsigned budget = 2; budget > 0; budget -= 1) { /* the second with the length it told */
        if (!scratch_grow(disk, (size_t)length)) {
            return -ENOMEM;
        }
        length = content(disk->machine, process, path, disk->scratch, disk->scratch_bytes);
        if (length < 0) {
            return (int)length;
        }
        if ((uint64_t)length <= disk->scratch_bytes) {
            return content_keep(file, disk->scratch, (size_t)length) ? 0 : -ENOMEM;
        }
    }
    return -EFBIG;
}

int kelpie__sim_file_open_synthetic(struct sim_file *file, struct sim_process *process,
                                    struct sim_inode *directory, const char *name, size_t length) {
    KELPIE_ASSERT(file->directory == NULL);
    file->name = kelpie__sim_name_create(file_disk(file), name, length);
    if (file->name == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_inode_ref(directory);
    file->directory = directory;
    return (file->flags & KELPIE_OS_OPEN_READ) != 0 ? content_make(file, process) : 0;
}

static int64_t content_read(struct sim_process *process, struct sim_file *file, void *out,
                            size_t count, uint64_t offset) {
    if (offset == 0) { /* as it is now: of what it was when it was opened, only errors count */
        int status = content_make(file, process);
        if (status < 0) {
            return status;
        }
    }
    if (offset >= file->content_length) {
        return 0;
    }
    count = (size_t)kelpie__min_u64(count, file->content_length - offset);
    memcpy(out, file->content + offset, count);
    return (int64_t)count;
}

static int64_t content_write(struct sim_process *process, struct sim_file *file, const void *bytes,
                             size_t count) {
    char path[SIM_PATH_BYTES_MAX];
    KELPIE_ASSERT(file->inode->node.write != NULL);
    if (file_path(file, path) < 0) {
        return -ENODEV;
    }
    return file->inode->node.write(file_disk(file)->machine, process, path, bytes, count);
}

/* ---- reading and writing --------------------------------------------------------------------- */

static bool file_is_synthetic(const struct sim_file *file) {
    return file->inode->node.content != NULL || file->inode->node.write != NULL;
}

static int64_t file_pread(struct sim_process *process, struct sim_object *object, void *out,
                          size_t count, uint64_t offset) {
    struct sim_file *file = file_of_object(object);
    if (file_is_void(file)) {
        return -EIO;
    }
    if ((file->flags & KELPIE_OS_OPEN_READ) == 0) {
        return -EBADF;
    }
    if (offset > INT64_MAX) {
        return -EINVAL;
    }
    if (file_is_synthetic(file)) {
        return content_read(process, file, out, count, offset);
    }
    KELPIE_ASSERT(file->inode->kind == KELPIE_OS_KIND_FILE);
    return kelpie__sim_inode_read(file->inode, out, count, offset);
}

static int64_t file_pwrite(struct sim_process *process, struct sim_object *object,
                           const void *bytes, size_t count, uint64_t offset) {
    struct sim_file *file = file_of_object(object);
    if (file_is_void(file)) {
        return -EIO;
    }
    if ((file->flags & KELPIE_OS_OPEN_WRITE) == 0) {
        return -EBADF;
    }
    if (offset > INT64_MAX) {
        return -EINVAL;
    }
    if (file_is_synthetic(file)) {
        return content_write(process, file, bytes, count);
    }
    if (file->inode->mount->is_read_only) {
        return -EROFS;
    }
    /* pwrite(2), BUGS: with O_APPEND the offset does not count */
    bool is_append = (file->flags & KELPIE_OS_OPEN_APPEND) != 0;
    return kelpie__sim_inode_write(file->inode, bytes, count,
                                   is_append ? file->inode->size : offset);
}

static int64_t file_read(struct sim_process *process, struct sim_object *object, void *out,
                         size_t count) {
    struct sim_file *file = file_of_object(object);
    int64_t got = file_pread(process, object, out, count, file->position);
    KELPIE_ASSERT(got <= (int64_t)count);
    if (got > 0) {
        file->position += (uint64_t)got;
    }
    return got;
}

static int64_t file_write(struct sim_process *process, struct sim_object *object, const void *bytes,
                          size_t count) {
    struct sim_file *file = file_of_object(object);
    bool is_append = (file->flags & KELPIE_OS_OPEN_APPEND) != 0;
    uint64_t position = is_append ? file->inode->size : file->position;
    int64_t put = file_pwrite(process, object, bytes, count, position);
    KELPIE_ASSERT(put <= (int64_t)count);
    if (put > 0) {
        file->position = position + (uint64_t)put;
    }
    return put;
}

static int64_t directory_read(struct sim_process *process, struct sim_object *object, void *out,
                              size_t count) {
    kelpie__ignore(process != NULL && object != NULL && out != NULL && count > 0);
    return -EISDIR;
}

static int64_t directory_pread(struct sim_process *process, struct sim_object *object, void *out,
                               size_t count, uint64_t offset) {
    kelpie__ignore(process != NULL && object != NULL && out != NULL && count + offset > 0);
    return -EISDIR;
}

static int64_t directory_pwrite(struct sim_process *process, struct sim_object *object,
                                const void *bytes, size_t count, uint64_t offset) {
    kelpie__ignore(process != NULL && object != NULL && bytes != NULL && count + offset > 0);
    return -EBADF; /* it cannot be open for writing */
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void file_unlock(struct sim_file *file) {
    if (file->lock == SIM_LOCK_NONE || file_is_void(file)) {
        return;
    }
    struct sim_file **place = &file->inode->lock_holders;
    while (*place != NULL && *place != file) { /* the file's holders: few */
        place = &(*place)->lock_next;
    }
    KELPIE_ASSERT(*place == file);
    *place = file->lock_next;
    file->lock_next = NULL;
    file->lock = SIM_LOCK_NONE;
}

/* flock(2): a change of the kind is not atomic; the old one is gone even when the new one is
 * refused. */
int kelpie__sim_file_lock(struct sim_file *file, enum sim_lock lock, int32_t pid) {
    struct sim_inode *inode = file->inode;
    KELPIE_ASSERT(lock != SIM_LOCK_NONE);
    if (file->lock == lock) {
        return 0;
    }
    file_unlock(file);
    if (inode->lock_holders != NULL && (lock == SIM_LOCK_EXCLUSIVE || inode->is_lock_exclusive)) {
        return -EAGAIN;
    }
    file->lock = lock;
    file->lock_pid = pid;
    file->lock_next = inode->lock_holders;
    inode->lock_holders = file;
    inode->is_lock_exclusive = lock == SIM_LOCK_EXCLUSIVE;
    KELPIE_ASSERT(!inode->is_lock_exclusive || file->lock_next == NULL);
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void file_close(struct sim_object *object) {
    struct sim_file *file = file_of_object(object);
    struct sim_disk *disk = file_disk(file);
    struct sim_inode *inode = file->inode;
    file_unlock(file);
    KELPIE_ASSERT(inode->opens > 0);
    inode->opens -= 1;
    kelpie__sim_inode_release(inode);
    kelpie__sim_inode_unref(inode);
    kelpie__sim_inode_unref(file->directory);
    kelpie__sim_name_unref(disk, file->name);
    kelpie__sim_heap_free(disk->heap, file->content, file->content_bytes);
    kelpie__sim_heap_free(disk->heap, file, sizeof(*file));
    kelpie__sim_disk_collect(disk);
}

static const struct sim_object_operations file_operations = {
    .kind = "file",
    .read = file_read,
    .write = file_write,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .close = file_close,
};

static const struct sim_object_operations directory_operations = {
    .kind = "directory",
    .read = directory_read,
    .pread = directory_pread,
    .pwrite = directory_pwrite,
    .close = file_close,
};

struct sim_file *kelpie__sim_file_create(struct sim_inode *inode, uint32_t flags) {
    struct sim_disk *disk = inode->mount->disk;
    struct sim_file *file = kelpie__sim_heap_alloc(disk->heap, sizeof(*file));
    if (file == NULL) {
        return NULL;
    }
    bool is_directory = inode->kind == KELPIE_OS_KIND_DIRECTORY;
    kelpie__sim_object_init(&file->object, disk->machine,
                            is_directory ? &directory_operations : &file_operations);
    kelpie__sim_inode_ref(inode);
    inode->opens += 1;
    file->inode = inode;
    file->flags = flags;
    file->generation = disk->generation;
    KELPIE_ASSERT(file->lock == SIM_LOCK_NONE);
    return file;
}

int kelpie__sim_file_of(struct sim_process *process, int handle, struct sim_file **out) {
    struct sim_object *object =
        handle < 0 || process == NULL ? NULL : kelpie__sim_handle_object(process, handle);
    *out = NULL;
    if (object == NULL) {
        return -EBADF;
    }
    if (object->operations != &file_operations && object->operations != &directory_operations) {
        return 0;
    }
    struct sim_file *file = file_of_object(object);
    if (file_is_void(file)) {
        return -EIO;
    }
    KELPIE_ASSERT(file->inode->opens > 0);
    *out = file;
    return 0;
}
