/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What processes do with names: open, make, remove, rename, link; with Linux's rights and Linux's
 * order of errors (fs/namei.c, as seen from outside).
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

/* ---- what is allowed ------------------------------------------------------------------------- */

static bool is_synthetic(const struct sim_inode *inode) {
    return inode->node.content != NULL || inode->node.write != NULL;
}

/* May a name be made in this directory? */
static int may_create(const struct sim_inode *directory, const struct sim_process *process) {
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    if (directory->links == 0) {
        return -ENOENT; /* removed while it was open */
    }
    return kelpie__sim_inode_permits(directory, process, 3);
}

static int may_delete(const struct sim_inode *directory, const struct sim_inode *inode,
                      const struct sim_process *process) {
    int status = kelpie__sim_inode_permits(directory, process, 3);
    if (status < 0) {
        return status;
    }
    bool is_sticky = (directory->mode & 01000u) != 0;
    bool is_owner =
        process->uid == 0 || process->uid == inode->uid || process->uid == directory->uid;
    return is_sticky && !is_owner ? -EPERM : 0;
}

/* The hook of the nearest directory above that has one. */
static sim_directory_hook hook_above(const struct sim_inode *directory) {
    const struct sim_inode *inode = directory;
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    while (inode != NULL && inode->node.hook == NULL) { /* up to the root */
        inode = inode->parent;
    }
    return inode == NULL ? NULL : inode->node.hook;
}

static int call_hook(const struct sim_inode *directory, const struct sim_inode *inode,
                     bool is_made) {
    sim_directory_hook hook = hook_above(directory);
    char path[SIM_PATH_BYTES_MAX];
    if (hook == NULL) {
        return 0;
    }
    int length = kelpie__sim_inode_path(inode, path, sizeof(path));
    return length < 0 ? length : hook(directory->mount->disk->machine, path, is_made);
}

static struct sim_inode *create_owned(struct sim_inode *directory, enum kelpie_os_kind kind,
                                      uint32_t mode, const struct sim_process *process) {
    struct sim_inode *made = kelpie__sim_inode_create(directory->mount, kind, mode);
    KELPIE_ASSERT(process != NULL);
    if (made != NULL) {
        made->uid = process->uid;
        made->gid = process->gid;
    }
    return made;
}

/* Makes an inode with a name. The reference goes to *out, when that is wanted. */
static int create_named(struct sim_inode *directory, const char *name, size_t length,
                        struct sim_inode *made, struct sim_inode **out) {
    if (made == NULL) {
        return -ENOSPC;
    }
    int status = kelpie__sim_inode_add(directory, name, length, made);
    KELPIE_ASSERT(status <= 0);
    if (status < 0 || out == NULL) {
        kelpie__sim_inode_unref(made);
        return status;
    }
    *out = made;
    return 0;
}

/* ---- open ------------------------------------------------------------------------------------ */

static int open_create(struct sim_walk *walk, uint32_t flags, uint32_t mode) {
    struct sim_inode *directory = walk->directory;
    KELPIE_ASSERT(walk->inode == NULL);
    if ((flags & KELPIE_OS_OPEN_CREATE) == 0) {
        return -ENOENT;
    }
    KELPIE_ASSERT(!walk->has_slash);
    if (directory->mount->is_read_only) {
        return -EROFS;
    }
    int status = may_create(directory, walk->process);
    if (status < 0) {
        return status;
    }
    if (directory->mount->kind == SIM_MOUNT_SYNTHETIC) {
        return -EACCES;
    }
    struct sim_inode *made =
        create_owned(directory, KELPIE_OS_KIND_FILE, mode & 07777u & ~SIM_UMASK, walk->process);
    return create_named(directory, walk->name, walk->name_length, made, &walk->inode);
}

/* Whether what exists may be opened so. */
static int open_check(const struct sim_walk *walk, uint32_t flags) {
    const struct sim_inode *inode = walk->inode;
    bool is_directory = inode->kind == KELPIE_OS_KIND_DIRECTORY;
    bool does_write = (flags & (KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_TRUNCATE)) != 0;
    bool does_create = (flags & KELPIE_OS_OPEN_CREATE) != 0;
    if (does_create && (flags & KELPIE_OS_OPEN_EXCLUSIVE) != 0) {
        return -EEXIST;
    }
    if (inode->kind == KELPIE_OS_KIND_LINK) {
        return (flags & KELPIE_OS_OPEN_DIRECTORY) != 0 ? -ENOTDIR : -ELOOP;
    }
    if (is_directory && (does_create || does_write)) {
        return -EISDIR;
    }
    if (!is_directory && (flags & KELPIE_OS_OPEN_DIRECTORY) != 0) {
        return -ENOTDIR;
    }
    if (does_write && inode->mount->is_read_only && inode->kind == KELPIE_OS_KIND_FILE) {
        return -EROFS;
    }
    uint32_t bits = ((flags & KELPIE_OS_OPEN_READ) != 0 ? 4u : 0u) | (does_write ? 2u : 0u);
    int status = kelpie__sim_inode_permits(inode, walk->process, bits);
    if (status < 0) {
        return status;
    }
    if (is_synthetic(inode) && does_write && inode->node.write == NULL) {
        return -EACCES;
    }
    KELPIE_ASSERT(inode->links > 0 || is_directory);
    return inode->kind == KELPIE_OS_KIND_SOCKET ? -ENXIO : 0;
}

/* The object of what was found; one reference. */
static int open_object(struct sim_walk *walk, uint32_t flags, struct sim_object **out) {
    struct sim_inode *inode = walk->inode;
    char path[SIM_PATH_BYTES_MAX];
    if (inode->node.device != NULL) {
        int length = kelpie__sim_inode_path_below(walk->directory, walk->name, walk->name_length,
                                                  path, sizeof(path));
        return length < 0
                   ? length
                   : inode->node.device(inode->mount->disk->machine, walk->process, path, out);
    }
    struct sim_file *file = kelpie__sim_file_create(inode, flags);
    if (file == NULL) {
        return -ENOMEM;
    }
    int status = is_synthetic(inode)
                     ? kelpie__sim_file_open_synthetic(file, walk->process, walk->directory,
                                                       walk->name, walk->name_length)
                     : 0;
    if (status == 0 && (flags & KELPIE_OS_OPEN_TRUNCATE) != 0 && inode->size > 0) {
        status = kelpie__sim_inode_truncate(inode, 0);
    }
    if (status < 0) {
        kelpie__sim_object_unref(&file->object);
        return status;
    }
    KELPIE_ASSERT(file->object.references == 1);
    *out = &file->object;
    return 0;
}

/* open(2) takes its descriptor before it makes a file. */
static bool handles_are_full(const struct sim_process *process) {
    KELPIE_ASSERT(process->handle_count <= SIM_HANDLE_MAX);
    if (process->handle_count < SIM_HANDLE_MAX) {
        return false;
    }
    for (uint32_t i = process->handle_free; i < SIM_HANDLE_MAX; i += 1) {
        if (process->handles[i].object == NULL) {
            return false;
        }
    }
    return true;
}

static int open_walked(struct sim_walk *walk, uint32_t flags, uint32_t mode) {
    struct sim_object *object = NULL;
    if (walk->is_for_name && walk->has_slash && walk->last == SIM_LAST_NAME) {
        return -EISDIR;
    }
    int status = walk->inode == NULL ? open_create(walk, flags, mode) : open_check(walk, flags);
    if (status == 0) {
        status = open_object(walk, flags, &object);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(object != NULL);
    int handle = kelpie__sim_handle_install(walk->process, object);
    kelpie__sim_object_unref(object);
    return handle;
}

int kelpie__sim_disk_open(struct sim_process *process, int directory, const char *path,
                          uint32_t flags, uint32_t mode) {
    struct sim_walk walk;
    uint32_t make = KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_EXCLUSIVE;
    bool does_follow = (flags & KELPIE_OS_OPEN_FOLLOW) != 0 && (flags & make) != make;
    if ((flags & KELPIE_OS_OPEN_WRITE) == 0) {
        flags |= KELPIE_OS_OPEN_READ; /* O_RDONLY is no bit */
    }
    if (handles_are_full(process)) {
        return -EMFILE;
    }
    int status = (flags & KELPIE_OS_OPEN_CREATE) != 0
                     ? kelpie__sim_walk_name(&walk, process, directory, path, does_follow)
                     : kelpie__sim_walk(&walk, process, directory, path, does_follow);
    if (status == 0) {
        status = open_walked(&walk, flags, mode);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(process->machine->disk->garbage == NULL);
    return status;
}

/* ---- make ------------------------------------------------------------------------------------ */

/* The checks that all makers of names share, in Linux's order. */
static int make_check(const struct sim_walk *walk) {
    if (walk->last != SIM_LAST_NAME || walk->inode != NULL) {
        return -EEXIST;
    }
    if (walk->directory->mount->is_read_only) {
        return -EROFS;
    }
    KELPIE_ASSERT(walk->name_length > 0);
    return may_create(walk->directory, walk->process);
}

static int mkdir_walked(struct sim_walk *walk, uint32_t mode) {
    struct sim_inode *directory = walk->directory;
    int status = make_check(walk);
    if (status < 0) {
        return status;
    }
    if (directory->mount->kind == SIM_MOUNT_SYNTHETIC && hook_above(directory) == NULL) {
        return -EPERM;
    }
    struct sim_inode *made = create_owned(directory, KELPIE_OS_KIND_DIRECTORY,
                                          mode & 01777u & ~SIM_UMASK, walk->process);
    status = create_named(directory, walk->name, walk->name_length, made, &walk->inode);
    if (status == 0) {
        status = call_hook(directory, walk->inode, true);
        if (status < 0) {
            kelpie__sim_inode_remove(directory, walk->inode->name->hash);
        }
    }
    return status;
}

int kelpie__sim_disk_mkdir(struct sim_process *process, int directory, const char *path,
                           uint32_t mode) {
    struct sim_walk walk;
    int status = kelpie__sim_walk_name(&walk, process, directory, path, false);
    if (status == 0) {
        status = mkdir_walked(&walk, mode);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

/* ext4 keeps a short target in the inode: it comes with the name. */
static bool link_set_target(struct sim_inode *inode, const char *target, size_t length) {
    struct sim_heap *heap = inode->mount->disk->heap;
    struct sim_buffer *buffer = kelpie__sim_pages_own(heap, &inode->pages, 0, 0, (uint32_t)length);
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_LINK);
    if (buffer == NULL) {
        return false;
    }
    memcpy(buffer->bytes, target, length);
    inode->size = length;
    if (inode->mount->disk->has_durable) {
        kelpie__sim_pages_copy(heap, &inode->durable_pages, &inode->pages);
        inode->durable_size = length;
    }
    return true;
}

struct sim_inode *kelpie__sim_disk_create_link(struct sim_mount *mount, const char *target) {
    struct sim_inode *made = kelpie__sim_inode_create(mount, KELPIE_OS_KIND_LINK, 0777);
    size_t length = strlen(target);
    KELPIE_ASSERT(length > 0 && length < SIM_PAGE_BYTES);
    if (made != NULL && !link_set_target(made, target, length)) {
        kelpie__sim_inode_unref(made);
        return NULL;
    }
    return made;
}

static int symlink_walked(struct sim_walk *walk, const char *target) {
    int status = make_check(walk);
    if (status < 0) {
        return status;
    }
    if (walk->has_slash) {
        return -ENOENT;
    }
    if (walk->directory->mount->kind == SIM_MOUNT_SYNTHETIC) {
        return -EPERM;
    }
    struct sim_inode *made = kelpie__sim_disk_create_link(walk->directory->mount, target);
    if (made != NULL) {
        made->uid = walk->process->uid;
        made->gid = walk->process->gid;
    }
    return create_named(walk->directory, walk->name, walk->name_length, made, NULL);
}

int kelpie__sim_disk_make_link(struct sim_process *process, const char *target, const char *path) {
    struct sim_walk walk;
    size_t length = strnlen(target, SIM_PATH_BYTES_MAX);
    if (length == 0 || length == SIM_PATH_BYTES_MAX) {
        return length == 0 ? -ENOENT : -ENAMETOOLONG;
    }
    int status = kelpie__sim_walk_name(&walk, process, KELPIE_OS_CWD, path, false);
    if (status == 0) {
        status = symlink_walked(&walk, target);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

static int bind_walked(struct sim_walk *walk, uint64_t socket) {
    int status = make_check(walk);
    if (status < 0) {
        return status == -EEXIST ? -EADDRINUSE : status; /* bind(2) */
    }
    if (walk->has_slash) {
        return -ENOENT;
    }
    if (walk->directory->mount->kind == SIM_MOUNT_SYNTHETIC) {
        return -EPERM;
    }
    struct sim_inode *made =
        create_owned(walk->directory, KELPIE_OS_KIND_SOCKET, 0777u & ~SIM_UMASK, walk->process);
    if (made != NULL) {
        made->socket = socket;
    }
    return create_named(walk->directory, walk->name, walk->name_length, made, NULL);
}

int kelpie__sim_disk_bind(struct sim_process *process, int directory, const char *name,
                          uint64_t socket) {
    struct sim_walk walk;
    KELPIE_ASSERT(socket != 0);
    int status = kelpie__sim_walk_name(&walk, process, directory, name, false);
    if (status == 0) {
        status = bind_walked(&walk, socket);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__sim_disk_socket(struct sim_process *process, int directory, const char *name,
                            uint64_t *out_socket) {
    struct sim_walk walk;
    int status = kelpie__sim_walk(&walk, process, directory, name, true);
    if (status == 0) {
        const struct sim_inode *inode = walk.inode;
        status = inode == NULL ? -ENOENT : kelpie__sim_inode_permits(inode, process, 2);
        if (status == 0 && inode->kind != KELPIE_OS_KIND_SOCKET) {
            status = -ECONNREFUSED;
        }
        if (status == 0) {
            KELPIE_ASSERT(inode->socket != 0);
            *out_socket = inode->socket;
        }
    }
    kelpie__sim_walk_end(&walk);
    return status;
}

static int link_walked(struct sim_walk *walk, struct sim_inode *inode) {
    if (walk->last != SIM_LAST_NAME || walk->inode != NULL) {
        return -EEXIST;
    }
    if (walk->has_slash) {
        return -ENOENT;
    }
    if (walk->directory->mount != inode->mount) {
        return -EXDEV;
    }
    if (walk->directory->mount->is_read_only) {
        return -EROFS;
    }
    int status = may_create(walk->directory, walk->process);
    if (status < 0) {
        return status;
    }
    if (inode->kind == KELPIE_OS_KIND_DIRECTORY || is_synthetic(inode)) {
        return -EPERM;
    }
    KELPIE_ASSERT(inode->opens > 0);
    return inode->links == 0
               ? -ENOENT
               : kelpie__sim_inode_add(walk->directory, walk->name, walk->name_length, inode);
}

int kelpie__sim_disk_link(struct sim_process *process, int handle, int directory,
                          const char *name) {
    struct sim_walk walk;
    struct sim_file *file = NULL;
    int status = kelpie__sim_file_of(process, handle, &file);
    if (status < 0 || file == NULL) {
        return status < 0 ? status : -EXDEV; /* a stream's file system is not this one */
    }
    status = kelpie__sim_walk_name(&walk, process, directory, name, false);
    if (status == 0) {
        status = link_walked(&walk, file->inode);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

/* ---- remove ---------------------------------------------------------------------------------- */

static int remove_last(enum sim_last last, bool is_directory) {
    switch (last) {
    case SIM_LAST_NAME:
        return 0;
    case SIM_LAST_ROOT:
        return is_directory ? -EBUSY : -EISDIR;
    case SIM_LAST_DOT:
        return is_directory ? -EINVAL : -EISDIR;
    case SIM_LAST_DOT_DOT:
        return is_directory ? -ENOTEMPTY : -EISDIR;
    }
    return -EINVAL;
}

static int remove_directory_check(const struct sim_inode *directory,
                                  const struct sim_inode *inode) {
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_DIRECTORY);
    if (inode->is_mount_root) {
        return -EBUSY;
    }
    if (!kelpie__sim_inode_is_empty(inode)) {
        return -ENOTEMPTY;
    }
    if (inode->mount->kind == SIM_MOUNT_SYNTHETIC && hook_above(directory) == NULL) {
        return -EPERM;
    }
    return call_hook(directory, inode, false);
}

static uint64_t walk_hash(const struct sim_walk *walk) {
    KELPIE_ASSERT(walk->last == SIM_LAST_NAME);
    return kelpie__sim_name_hash(walk->directory->mount->disk->hash_seed, walk->name,
                                 walk->name_length);
}

static int remove_walked(struct sim_walk *walk, bool is_directory) {
    struct sim_inode *inode = walk->inode;
    int status = remove_last(walk->last, is_directory);
    if (status < 0) {
        return status;
    }
    if (walk->directory->mount->is_read_only) {
        return -EROFS;
    }
    if (inode == NULL) {
        return -ENOENT;
    }
    if (walk->has_slash && !is_directory) {
        return inode->kind == KELPIE_OS_KIND_DIRECTORY ? -EISDIR : -ENOTDIR;
    }
    status = may_delete(walk->directory, inode, walk->process);
    if (status < 0) {
        return status;
    }
    if ((inode->kind == KELPIE_OS_KIND_DIRECTORY) != is_directory) {
        return is_directory ? -ENOTDIR : -EISDIR;
    }
    uint64_t hash = walk_hash(walk);
    if (is_synthetic(inode) || kelpie__sim_table_get(&walk->directory->entries, hash) != inode) {
        return -EPERM;
    }
    status = is_directory ? remove_directory_check(walk->directory, inode) : 0;
    if (status == 0) {
        KELPIE_ASSERT(inode->links > 0);
        kelpie__sim_inode_remove(walk->directory, hash);
    }
    return status;
}

int kelpie__sim_disk_unlink(struct sim_process *process, int directory, const char *path,
                            bool is_directory) {
    struct sim_walk walk;
    int status = kelpie__sim_walk_name(&walk, process, directory, path, false);
    if (status == 0) {
        status = remove_walked(&walk, is_directory);
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

/* ---- rename ---------------------------------------------------------------------------------- */

static bool is_below(const struct sim_inode *inode, const struct sim_inode *above) {
    KELPIE_ASSERT(inode != NULL);
    while (inode != NULL && inode != above) { /* up to the root */
        inode = inode->parent;
    }
    return inode != NULL;
}

/* What stands at the new name, if anything: may it be replaced? */
static int rename_check_target(const struct sim_walk *from, const struct sim_walk *to) {
    const struct sim_inode *target = to->inode;
    bool is_directory = from->inode->kind == KELPIE_OS_KIND_DIRECTORY;
    int status = target == NULL ? may_create(to->directory, to->process)
                                : may_delete(to->directory, target, to->process);
    if (status < 0 || target == NULL) {
        return status;
    }
    if (is_directory != (target->kind == KELPIE_OS_KIND_DIRECTORY)) {
        return is_directory ? -ENOTDIR : -EISDIR;
    }
    if (target->is_mount_root) {
        return -EBUSY;
    }
    KELPIE_ASSERT(!is_synthetic(target));
    return is_directory && !kelpie__sim_inode_is_empty(target) ? -ENOTEMPTY : 0;
}

static int rename_check(const struct sim_walk *from, const struct sim_walk *to, bool may_replace) {
    if (from->directory->mount != to->directory->mount) {
        return -EXDEV;
    }
    if (from->last != SIM_LAST_NAME) {
        return -EBUSY;
    }
    if (to->last != SIM_LAST_NAME) {
        return may_replace ? -EBUSY : -EEXIST;
    }
    if (from->directory->mount->is_read_only) {
        return -EROFS;
    }
    if (from->inode == NULL) {
        return -ENOENT;
    }
    if (to->inode != NULL && !may_replace) {
        return -EEXIST;
    }
    bool is_directory = from->inode->kind == KELPIE_OS_KIND_DIRECTORY;
    if (!is_directory && (from->has_slash || to->has_slash)) {
        return -ENOTDIR;
    }
    if (is_directory && is_below(to->directory, from->inode)) {
        return -EINVAL;
    }
    if (to->inode != NULL && is_below(from->directory, to->inode)) {
        return -ENOTEMPTY;
    }
    if (from->directory->mount->kind == SIM_MOUNT_SYNTHETIC) {
        return -EPERM;
    }
    if (from->inode == to->inode) {
        return 0;
    }
    KELPIE_ASSERT(from->process == to->process);
    int status = may_delete(from->directory, from->inode, from->process);
    if (status == 0) {
        status = rename_check_target(from, to);
    }
    return status == 0 && from->inode->is_mount_root ? -EBUSY : status;
}

/* For observers: a commit. */
static void rename_tell(const struct sim_walk *to) {
    char path[SIM_PATH_BYTES_MAX];
    struct sim_machine *machine = to->process->machine;
    if (kelpie__sim_inode_path_below(to->directory, to->name, to->name_length, path, sizeof(path)) >
        0) {
        struct sim_event event = {.type = SIM_EVENT_RENAME,
                                  .process = to->process,
                                  .guest = machine->guest,
                                  .detail = path};
        KELPIE_ASSERT(path[0] == '/');
        kelpie__sim_world_emit(machine->world, &event);
    }
}

static int rename_walked(struct sim_walk *from, struct sim_walk *to, bool may_replace) {
    int status = rename_check(from, to, may_replace);
    if (status < 0 || from->inode == to->inode) {
        return status;
    }
    KELPIE_ASSERT(from->inode != NULL);
    status = kelpie__sim_inode_rename(from->directory, walk_hash(from), to->directory, to->name,
                                      to->name_length);
    if (status == 0) {
        rename_tell(to);
    }
    return status;
}

int kelpie__sim_disk_rename(struct sim_process *process, int from_directory, const char *from,
                            int to_directory, const char *to, bool may_replace) {
    struct sim_walk from_walk;
    struct sim_walk to_walk;
    int status = kelpie__sim_walk_name(&from_walk, process, from_directory, from, false);
    if (status == 0) {
        status = kelpie__sim_walk_name(&to_walk, process, to_directory, to, false);
        if (status == 0) {
            status = rename_walked(&from_walk, &to_walk, may_replace);
        }
        kelpie__sim_walk_end(&to_walk);
    }
    kelpie__sim_walk_end(&from_walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}
