/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Making a file system and laying it out: files, directories, links, tmpfs, synthetic files,
 * devices, hooks; and what goes wrong with a whole disk.
 */
#include "sim/disk.h"

#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

#define TMPFS_BYTES ((uint64_t)4 << 30)
#define SYNTHETIC_BYTES ((uint64_t)1 << 40)

/* ---- making ---------------------------------------------------------------------------------- */

struct sim_disk *kelpie__sim_disk_create(struct sim_machine *machine, enum sim_disk_profile profile,
                                         uint64_t capacity_bytes) {
    struct sim_disk *disk = kelpie__sim_heap_alloc(machine->heap, sizeof(*disk));
    if (disk == NULL) {
        return NULL;
    }
    disk->machine = machine;
    disk->heap = machine->heap;
    disk->profile = profile;
    disk->has_durable = machine->guest == NULL;
    disk->generation = 1;
    disk->hash_seed = kelpie__sim_decide(machine->world, "disk.order", "", 0, 0);
    disk->main = kelpie__sim_mount_create(disk, SIM_MOUNT_DISK, capacity_bytes);
    disk->synthetic = kelpie__sim_mount_create(disk, SIM_MOUNT_SYNTHETIC, SYNTHETIC_BYTES);
    disk->memory = kelpie__sim_mount_create(disk, SIM_MOUNT_MEMORY, TMPFS_BYTES);
    if (disk->main == NULL || disk->synthetic == NULL || disk->memory == NULL) {
        return NULL; /* the heap goes as a whole */
    }
    disk->root = kelpie__sim_inode_create(disk->main, KELPIE_OS_KIND_DIRECTORY, 0755);
    if (disk->root == NULL) {
        return NULL;
    }
    disk->root->links = 1;
    disk->root->is_mount_root = true;
    KELPIE_ASSERT(disk->root->parent == NULL);
    return disk;
}

/* ---- laying out ------------------------------------------------------------------------------ */

/* Does this node's name outlive the power? */
static bool put_is_durable(const struct sim_inode *directory, const struct sim_inode *inode) {
    const struct sim_disk *disk = directory->mount->disk;
    return disk->has_durable &&
           (inode->is_permanent || (directory->mount == disk->main && directory->links > 0));
}

/* Gives a node its name, on both sides; takes over the reference. */
static int put_named(struct sim_inode *directory, const char *name, size_t length,
                     struct sim_inode *inode) {
    struct sim_disk *disk = directory->mount->disk;
    if (inode == NULL) {
        return -ENOSPC;
    }
    int status = kelpie__sim_inode_add(directory, name, length, inode);
    if (status == 0 && put_is_durable(directory, inode) &&
        !kelpie__sim_table_set(disk, &directory->durable_entries, inode->name, inode)) {
        status = -ENOSPC;
    }
    KELPIE_ASSERT(inode->references > 1 || status < 0);
    kelpie__sim_inode_unref(inode);
    return status;
}

/* Goes down one component, making it if it is missing; the result is borrowed. */
static int put_step(struct sim_inode *directory, const char *name, size_t length,
                    struct sim_mount *mount, struct sim_inode **out) {
    struct sim_disk *disk = directory->mount->disk;
    uint64_t hash = kelpie__sim_name_hash(disk->hash_seed, name, length);
    struct sim_inode *inode = kelpie__sim_table_get(&directory->entries, hash);
    if (inode == NULL) {
        struct sim_mount *own = mount == NULL ? directory->mount : mount;
        inode = kelpie__sim_inode_create(own, KELPIE_OS_KIND_DIRECTORY, 0755);
        if (inode != NULL) {
            inode->is_permanent = own == disk->synthetic;
        }
        int status = put_named(directory, name, length, inode);
        if (status < 0) {
            return status;
        }
    }
    KELPIE_ASSERT(inode != NULL);
    *out = inode;
    return inode->kind == KELPIE_OS_KIND_DIRECTORY ? 0 : -ENOTDIR;
}

/* The node below a directory that stands for every name. */
static int put_wildcard(struct sim_inode *directory, struct sim_inode **out) {
    struct sim_disk *disk = directory->mount->disk;
    if (directory->wildcard == NULL) {
        struct sim_inode *made =
            kelpie__sim_inode_create(disk->synthetic, KELPIE_OS_KIND_DIRECTORY, 0555);
        if (made == NULL) {
            return -ENOSPC;
        }
        made->links = 1;
        made->is_permanent = true;
        directory->wildcard = made;
        for (uint32_t i = 0; i < directory->entries.count; i += 1) { /* those that are there */
            struct sim_inode *child = directory->entries.slots[i].inode;
            if (child->kind == KELPIE_OS_KIND_DIRECTORY && child->pattern == NULL) {
                kelpie__sim_inode_ref(made);
                child->pattern = made;
            }
        }
    }
    KELPIE_ASSERT(directory->wildcard->is_permanent);
    *out = directory->wildcard;
    return 0;
}

/* Most of what is put stands beside what was put last. */
static bool put_beside(const struct sim_disk *disk, const char *path, size_t length) {
    return disk->layout_directory != NULL && disk->layout_length == length &&
           memcmp(disk->layout_path, path, length) == 0;
}

static void put_remember(struct sim_disk *disk, const char *path, size_t length,
                         struct sim_inode *directory) {
    disk->layout_directory = NULL;
    if (disk->is_laying_out && length < sizeof(disk->layout_path)) {
        memcpy(disk->layout_path, path, length);
        disk->layout_length = length;
        disk->layout_directory = directory;
    }
}

/* The directory of a path's last component, made as needed on `mount` (NULL: each on that of the
 * one above). *out_name: the last component. */
static int put_parents(struct sim_disk *disk, const char *path, struct sim_mount *mount,
                       struct sim_inode **out, const char **out_name) {
    struct sim_inode *directory = disk->root;
    const char *whole = path;
    int status = 0;
    if (path[0] != '/' || strnlen(path, SIM_PATH_BYTES_MAX) == SIM_PATH_BYTES_MAX) {
        return -EINVAL;
    }
    size_t above = (size_t)(strrchr(path, '/') - path);
    if (path[above + 1] != '\0' && put_beside(disk, path, above)) {
        *out = disk->layout_directory;
        *out_name = path + above + 1;
        return 0;
    }
    path += kelpie__sim_slashes_length(path);
    while (status == 0) { /* a component each turn */
        size_t length = kelpie__sim_component_length(path);
        size_t slashes = kelpie__sim_slashes_length(path + length);
        if (length == 0 || length > SIM_FILE_NAME_BYTES_MAX) {
            return -EINVAL;
        }
        if (path[length + slashes] == '\0') {
            KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
            put_remember(disk, whole, (size_t)(path - whole) - 1, directory);
            *out = directory;
            *out_name = path;
            return 0;
        }
        status = length == 1 && path[0] == '*'
                     ? put_wildcard(directory, &directory)
                     : put_step(directory, path, length, mount, &directory);
        path += length + slashes;
    }
    return status;
}

/* What is put is put on both sides, and nothing is recorded meanwhile. */
static void put_begin(struct sim_disk *disk) {
    if (disk->is_laying_out) {
        return;
    }
    KELPIE_ASSERT(!disk->is_layout);
    kelpie__sim_pending_sync_all(disk);
    disk->is_layout = true;
}

static void put_end(struct sim_disk *disk) {
    KELPIE_ASSERT(disk->is_layout && disk->pending_count == 0);
    if (disk->is_laying_out) {
        return;
    }
    disk->is_layout = false;
    kelpie__sim_disk_collect(disk);
}

void kelpie__sim_disk_layout_begin(struct sim_disk *disk) {
    put_begin(disk);
    disk->is_laying_out = true;
    KELPIE_ASSERT(disk->layout_directory == NULL);
}

void kelpie__sim_disk_layout_end(struct sim_disk *disk) {
    KELPIE_ASSERT(disk->is_laying_out);
    disk->is_laying_out = false;
    disk->layout_directory = NULL;
    put_end(disk);
}

void kelpie__sim_disk_layout_date(struct sim_disk *disk, int64_t wall_ns) {
    KELPIE_ASSERT(!disk->is_laying_out && disk->pending_count == 0);
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->modified_ns = wall_ns;
        inode->changed_ns = wall_ns;
    }
}

int kelpie__sim_disk_put(struct sim_disk *disk, const char *path, uint32_t mode, const void *bytes,
                         size_t count) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, path, NULL, &directory, &name);
    if (status < 0) {
        put_end(disk);
        return status;
    }
    size_t length = kelpie__sim_component_length(name);
    uint64_t hash = kelpie__sim_name_hash(disk->hash_seed, name, length);
    if (kelpie__sim_table_get(&directory->entries, hash) != NULL) {
        kelpie__sim_inode_remove(directory, hash);
        kelpie__sim_table_remove(disk, &directory->durable_entries, hash);
    }
    struct sim_inode *made =
        kelpie__sim_inode_create(directory->mount, KELPIE_OS_KIND_FILE, mode & 07777u);
    status = put_named(directory, name, length, made);
    if (status == 0 && count > 0) {
        int64_t wrote = kelpie__sim_inode_write(made, bytes, count, 0);
        status = wrote == (int64_t)count ? 0 : -ENOSPC;
        if (disk->has_durable && directory->mount == disk->main) {
            kelpie__sim_pages_copy(disk->heap, &made->durable_pages, &made->pages);
            made->durable_size = made->size;
        }
    }
    put_end(disk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__sim_disk_put_directory(struct sim_disk *disk, const char *path, uint32_t mode) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, path, NULL, &directory, &name);
    if (status == 0) {
        status = put_step(directory, name, kelpie__sim_component_length(name), NULL, &directory);
    }
    if (status == 0) {
        directory->mode = mode & 07777u;
    }
    put_end(disk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__sim_disk_put_link(struct sim_disk *disk, const char *path, const char *target) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, path, NULL, &directory, &name);
    if (status == 0) {
        size_t length = kelpie__sim_component_length(name);
        uint64_t hash = kelpie__sim_name_hash(disk->hash_seed, name, length);
        KELPIE_ASSERT(length > 0);
        status = kelpie__sim_table_get(&directory->entries, hash) != NULL
                     ? -EEXIST
                     : put_named(directory, name, length,
                                 kelpie__sim_disk_create_link(directory->mount, target));
    }
    put_end(disk);
    return status;
}

int kelpie__sim_disk_put_tmpfs(struct sim_disk *disk, const char *path) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, path, NULL, &directory, &name);
    if (status == 0) {
        status = put_step(directory, name, kelpie__sim_component_length(name), NULL, &directory);
    }
    put_end(disk);
    struct sim_inode *root = directory;
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(root->kind == KELPIE_OS_KIND_DIRECTORY);
    if (root->mount->kind == SIM_MOUNT_TMPFS && root->is_mount_root) {
        return 0;
    }
    struct sim_mount *mount = kelpie__sim_mount_create(disk, SIM_MOUNT_TMPFS, TMPFS_BYTES);
    if (mount == NULL) {
        return -ENOMEM;
    }
    root->mount->used_bytes -= SIM_PAGE_BYTES;
    mount->used_bytes += SIM_PAGE_BYTES;
    root->mount = mount;
    root->is_mount_root = true;
    return 0;
}

/* A node that is no file, and the directories above it. */
static int put_node(struct sim_disk *disk, const char *pattern, uint32_t mode,
                    enum kelpie_os_kind kind, const struct sim_node *node) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, pattern, disk->synthetic, &directory, &name);
    if (status < 0) {
        put_end(disk);
        return status;
    }
    size_t length = kelpie__sim_component_length(name);
    uint64_t hash = kelpie__sim_name_hash(disk->hash_seed, name, length);
    struct sim_inode *inode = kelpie__sim_table_get(&directory->entries, hash);
    if (inode == NULL) {
        inode = kelpie__sim_inode_create(disk->synthetic, kind, mode);
        if (inode != NULL) {
            inode->is_permanent = true;
        }
        status = put_named(directory, name, length, inode);
    }
    if (status == 0) {
        KELPIE_ASSERT(inode != NULL);
        inode->node = *node;
        inode->mode = mode;
    }
    put_end(disk);
    return status;
}

int kelpie__sim_disk_put_synthetic(struct sim_disk *disk, const char *pattern,
                                   sim_synthetic content) {
    struct sim_node node = {.content = content};
    KELPIE_ASSERT(content != NULL);
    return put_node(disk, pattern, 0444, KELPIE_OS_KIND_FILE, &node);
}

int kelpie__sim_disk_put_synthetic_write(struct sim_disk *disk, const char *pattern,
                                         sim_synthetic content, sim_synthetic_write write) {
    struct sim_node node = {.content = content, .write = write};
    KELPIE_ASSERT(write != NULL);
    return put_node(disk, pattern, content == NULL ? 0200 : 0644, KELPIE_OS_KIND_FILE, &node);
}

int kelpie__sim_disk_put_device(struct sim_disk *disk, const char *path, sim_device_open open) {
    struct sim_node node = {.device = open};
    KELPIE_ASSERT(open != NULL);
    return put_node(disk, path, 0666, KELPIE_OS_KIND_OTHER, &node);
}

int kelpie__sim_disk_put_hook(struct sim_disk *disk, const char *path, sim_directory_hook hook) {
    struct sim_inode *directory = NULL;
    const char *name = NULL;
    put_begin(disk);
    int status = put_parents(disk, path, disk->synthetic, &directory, &name);
    if (status == 0) {
        status = put_step(directory, name, kelpie__sim_component_length(name), disk->synthetic,
                          &directory);
    }
    if (status == 0) {
        directory->node.hook = hook;
    }
    put_end(disk);
    KELPIE_ASSERT(status <= 0);
    return status;
}

/* ---- the whole disk -------------------------------------------------------------------------- */

int kelpie__sim_disk_chmod(struct sim_disk *disk, const char *path, uint32_t mode) {
    struct sim_walk walk;
    int status = kelpie__sim_walk_disk(&walk, disk, path, true);
    if (status == 0 && walk.inode == NULL) {
        status = -ENOENT;
    }
    if (status == 0) {
        KELPIE_ASSERT(walk.inode->references > 1);
        walk.inode->mode = mode & 07777u;
    }
    kelpie__sim_walk_end(&walk);
    return status;
}

void kelpie__sim_disk_set_quota(struct sim_disk *disk, uint64_t capacity_bytes) {
    KELPIE_ASSERT(capacity_bytes > 0);
    disk->main->capacity_bytes = capacity_bytes;
}

void kelpie__sim_disk_set_read_only(struct sim_disk *disk, bool is_read_only) {
    KELPIE_ASSERT(disk->main->kind == SIM_MOUNT_DISK);
    disk->main->is_read_only = is_read_only;
}

static bool rot_bit(struct sim_disk *disk, struct sim_pages *pages, uint64_t bit) {
    uint64_t byte = bit / 8;
    uint32_t within = (uint32_t)(byte % SIM_PAGE_BYTES);
    struct sim_buffer *buffer =
        kelpie__sim_pages_own(disk->heap, pages, byte / SIM_PAGE_BYTES, within + 1, within + 1);
    if (buffer == NULL) {
        return false;
    }
    KELPIE_ASSERT(within < buffer->capacity);
    buffer->bytes[within] ^= (uint8_t)(1u << bit % 8);
    return true;
}

int kelpie__sim_disk_rot(struct sim_disk *disk, const char *path, uint64_t hash) {
    struct sim_walk walk;
    int status = kelpie__sim_walk_disk(&walk, disk, path, true);
    struct sim_inode *inode = status == 0 ? walk.inode : NULL;
    if (inode == NULL || inode->kind != KELPIE_OS_KIND_FILE || inode->size == 0) {
        status = -ENOENT;
    } else {
        uint64_t bit = hash % (inode->size * 8);
        uint64_t count_before = inode->pages.count;
        bool is_done = rot_bit(disk, &inode->pages, bit);
        inode->mount->used_bytes += (inode->pages.count - count_before) * SIM_PAGE_BYTES;
        if (is_done && disk->has_durable && bit / 8 < inode->durable_size) {
            is_done = rot_bit(disk, &inode->durable_pages, bit);
        }
        status = is_done ? 0 : -ENOSPC;
    }
    kelpie__sim_walk_end(&walk);
    KELPIE_ASSERT(status <= 0);
    return status;
}
