/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * From a path to a directory, a last component and what it names: path_resolution(7).
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

int kelpie__sim_inode_permits(const struct sim_inode *inode, const struct sim_process *process,
                              uint32_t bits) {
    KELPIE_ASSERT((bits & ~7u) == 0);
    if (process == NULL || process->uid == 0) {
        return 0;
    }
    uint32_t shift = inode->uid == process->uid ? 6 : inode->gid == process->gid ? 3 : 0;
    return (inode->mode >> shift & bits) == bits ? 0 : -EACCES;
}

static struct sim_disk *walk_disk(const struct sim_walk *walk, const struct sim_inode *inode) {
    KELPIE_ASSERT(walk->process == NULL || walk->process->machine == inode->mount->disk->machine);
    return inode->mount->disk;
}

/* Where a path begins; `walk->directory` takes a reference. */
static int walk_begin(struct sim_walk *walk, struct sim_disk *disk, int directory,
                      const char **inout_path) {
    const char *path = *inout_path;
    struct sim_file *file = NULL;
    size_t length = strnlen(path, SIM_PATH_BYTES_MAX);
    if (length == 0) {
        return -ENOENT;
    }
    if (length == SIM_PATH_BYTES_MAX) {
        return -ENAMETOOLONG;
    }
    struct sim_inode *start = disk->root;
    if (path[0] != '/' && directory != KELPIE_OS_CWD) {
        int status = kelpie__sim_file_of(walk->process, directory, &file);
        if (status < 0) {
            return status;
        }
        if (file == NULL || file->inode->kind != KELPIE_OS_KIND_DIRECTORY) {
            return -ENOTDIR;
        }
        start = file->inode;
    } else if (path[0] != '/' && walk->process != NULL && walk->process->directory[1] != '\0') {
        const char *here = walk->process->directory; /* not the root */
        size_t here_length = strlen(here);
        if (here_length + 1 + length >= sizeof(walk->buffer)) {
            return -ENAMETOOLONG;
        }
        memcpy(walk->buffer, here, here_length);
        walk->buffer[here_length] = '/';
        memcpy(walk->buffer + here_length + 1, path, length + 1);
        *inout_path = walk->buffer;
    }
    kelpie__sim_inode_ref(start);
    walk->directory = start;
    return 0;
}

/* Puts a link's target before the rest of the path. */
static int walk_link(struct sim_walk *walk, const struct sim_inode *link, const char **inout_at) {
    size_t rest = strlen(*inout_at);
    size_t length = (size_t)link->size;
    walk->links_followed += 1;
    if (walk->links_followed > SIM_LINKS_FOLLOWED_MAX) {
        return -ELOOP;
    }
    if (length == 0) {
        return -ENOENT;
    }
    if (length + rest + 1 > sizeof(walk->buffer)) {
        return -ENAMETOOLONG;
    }
    memmove(walk->buffer + length, *inout_at, rest + 1); /* the rest may stand in the buffer */
    kelpie__sim_pages_read(&link->pages, walk->buffer, length, 0);
    *inout_at = walk->buffer;
    if (walk->buffer[0] == '/') {
        struct sim_inode *root = walk_disk(walk, link)->root;
        kelpie__sim_inode_ref(root);
        kelpie__sim_inode_unref(walk->directory);
        walk->directory = root;
    }
    return 0;
}

static enum sim_last last_kind(const char *name, size_t length) {
    if (length == 1 && name[0] == '.') {
        return SIM_LAST_DOT;
    }
    return length == 2 && name[0] == '.' && name[1] == '.' ? SIM_LAST_DOT_DOT : SIM_LAST_NAME;
}

/* What a component names in walk->directory: walk->inode takes a reference, or is NULL. */
static void walk_lookup(struct sim_walk *walk, const char *name, size_t length,
                        enum sim_last kind) {
    struct sim_inode *directory = walk->directory;
    KELPIE_ASSERT(walk->inode == NULL);
    if (kind == SIM_LAST_NAME) {
        walk->inode = kelpie__sim_inode_lookup(directory, name, length, walk->process);
        return;
    }
    struct sim_inode *inode =
        kind == SIM_LAST_DOT || directory->parent == NULL ? directory : directory->parent;
    kelpie__sim_inode_ref(inode);
    walk->inode = inode;
}

/* Goes down into walk->inode. */
static void walk_enter(struct sim_walk *walk) {
    KELPIE_ASSERT(walk->inode != NULL);
    kelpie__sim_inode_unref(walk->directory);
    walk->directory = walk->inode;
    walk->inode = NULL;
}

/* One component of the path at *inout_at. 1: it was the last. */
static int walk_step(struct sim_walk *walk, const char **inout_at, bool does_follow) {
    const char *name = *inout_at;
    size_t length = kelpie__sim_component_length(name);
    const char *rest = name + length;
    size_t slashes = kelpie__sim_slashes_length(rest);
    bool is_last = rest[slashes] == '\0';
    if (walk->directory->kind != KELPIE_OS_KIND_DIRECTORY) {
        return -ENOTDIR;
    }
    int status = kelpie__sim_inode_permits(walk->directory, walk->process, 1);
    if (status < 0) {
        return status;
    }
    if (length > SIM_FILE_NAME_BYTES_MAX) {
        return -ENAMETOOLONG;
    }
    enum sim_last kind = last_kind(name, length);
    walk_lookup(walk, name, length, kind);
    struct sim_inode *found = walk->inode;
    if (found != NULL && found->kind == KELPIE_OS_KIND_LINK &&
        (!is_last || (slashes == 0 ? does_follow : !walk->is_for_name))) {
        walk->inode = NULL;
        status = walk_link(walk, found, &rest);
        kelpie__sim_inode_unref(found);
        *inout_at = rest;
        return status;
    }
    if (is_last) {
        walk->name = name;
        walk->name_length = length;
        walk->last = kind;
        walk->has_slash = slashes > 0;
        bool wants_directory = slashes > 0 && !walk->is_for_name;
        return wants_directory && found != NULL && found->kind != KELPIE_OS_KIND_DIRECTORY
                   ? -ENOTDIR
                   : 1;
    }
    if (found == NULL) {
        return -ENOENT;
    }
    walk_enter(walk);
    *inout_at = rest;
    return 0;
}

static int walk_from(struct sim_walk *walk, struct sim_disk *disk, int directory, const char *path,
                     bool does_follow) {
    const char *at = path;
    int status = walk_begin(walk, disk, directory, &at);
    while (status == 0) { /* the path gets shorter, or one of 40 links is followed */
        at += kelpie__sim_slashes_length(at);
        if (*at == '\0') { /* "/", or a link to it */
            walk->last = SIM_LAST_ROOT;
            walk->inode = walk->directory;
            kelpie__sim_inode_ref(walk->inode);
            return 0;
        }
        status = walk_step(walk, &at, does_follow);
    }
    return status < 0 ? status : 0;
}

static int walk_path(struct sim_walk *walk, struct sim_process *process, int directory,
                     const char *path, bool does_follow) {
    walk->process = process;
    walk->directory = NULL;
    walk->inode = NULL;
    walk->links_followed = 0;
    walk->has_slash = false;
    walk->name = "";
    walk->name_length = 0;
    int status = walk_from(walk, process->machine->disk, directory, path, does_follow);
    KELPIE_ASSERT(status < 0 || walk->directory != NULL);
    return status;
}

int kelpie__sim_walk(struct sim_walk *walk, struct sim_process *process, int directory,
                     const char *path, bool does_follow) {
    walk->is_for_name = false;
    return walk_path(walk, process, directory, path, does_follow);
}

int kelpie__sim_walk_name(struct sim_walk *walk, struct sim_process *process, int directory,
                          const char *path, bool does_follow) {
    walk->is_for_name = true;
    return walk_path(walk, process, directory, path, does_follow);
}

int kelpie__sim_walk_disk(struct sim_walk *walk, struct sim_disk *disk, const char *path,
                          bool does_follow) {
    walk->process = NULL;
    walk->is_for_name = false;
    walk->directory = NULL;
    walk->inode = NULL;
    walk->links_followed = 0;
    walk->has_slash = false;
    walk->name = "";
    walk->name_length = 0;
    KELPIE_ASSERT(path[0] == '/');
    return walk_from(walk, disk, KELPIE_OS_CWD, path, does_follow);
}

void kelpie__sim_walk_end(struct sim_walk *walk) {
    struct sim_inode *any = walk->directory != NULL ? walk->directory : walk->inode;
    struct sim_disk *disk = any == NULL ? NULL : any->mount->disk;
    kelpie__sim_inode_unref(walk->directory);
    kelpie__sim_inode_unref(walk->inode);
    walk->directory = NULL;
    walk->inode = NULL;
    if (disk != NULL && disk->garbage != NULL) {
        kelpie__sim_disk_collect(disk);
    }
}
