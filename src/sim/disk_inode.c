/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Inodes and their names, as processes see them: life, lookup, list, path. What changes is told to
 * disk_pending.c. No permission is asked for here.
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

#define INODE_DEPTH_MAX 2048u /* directories above one another: a path is shorter */
#define INODE_PID_BASE ((uint64_t)1 << SIM_HASH_BITS)
#define INODE_PID_DIGITS_MAX 10u

struct sim_mount *kelpie__sim_mount_create(struct sim_disk *disk, enum sim_mount_kind kind,
                                           uint64_t capacity_bytes) {
    struct sim_mount *mount = kelpie__sim_heap_alloc(disk->heap, sizeof(*mount));
    if (mount != NULL) {
        mount->disk = disk;
        mount->kind = kind;
        mount->capacity_bytes = capacity_bytes;
        mount->device = disk->mounts == NULL ? 1 : disk->mounts->device + 1;
        mount->next = disk->mounts;
        disk->mounts = mount;
    }
    return mount;
}

/* ---- life ------------------------------------------------------------------------------------ */

void kelpie__sim_inode_touch(struct sim_inode *inode) {
    const struct sim_machine *machine = inode->mount->disk->machine;
    inode->modified_ns = kelpie__sim_machine_now(machine) + machine->wall_offset_ns;
    inode->changed_ns = inode->modified_ns;
}

struct sim_inode *kelpie__sim_inode_create(struct sim_mount *mount, enum kelpie_os_kind kind,
                                           uint32_t mode) {
    struct sim_disk *disk = mount->disk;
    bool is_directory = kind == KELPIE_OS_KIND_DIRECTORY;
    if (is_directory && mount->used_bytes + SIM_PAGE_BYTES > mount->capacity_bytes) {
        return NULL;
    }
    struct sim_inode *inode = kelpie__sim_heap_alloc(disk->heap, sizeof(*inode));
    if (inode == NULL) {
        return NULL;
    }
    inode->mount = mount;
    inode->kind = kind;
    inode->mode = mode;
    inode->references = 1;
    disk->inode_next += 1;
    inode->number = disk->inode_next;
    inode->next = disk->inodes;
    if (disk->inodes != NULL) {
        disk->inodes->previous = inode;
    }
    disk->inodes = inode;
    disk->inode_count += 1;
    mount->used_bytes += is_directory ? SIM_PAGE_BYTES : 0;
    kelpie__sim_inode_touch(inode);
    return inode;
}

void kelpie__sim_inode_lay_aside(struct sim_inode *inode) {
    KELPIE_ASSERT(inode->references == 0);
    struct sim_disk *disk = inode->mount->disk;
    if (inode->next != NULL) {
        inode->next->previous = inode->previous;
    }
    if (inode->previous != NULL) {
        inode->previous->next = inode->next;
    } else {
        KELPIE_ASSERT(disk->inodes == inode);
        disk->inodes = inode->next;
    }
    disk->inode_count -= 1;
    inode->next = disk->garbage;
    disk->garbage = inode;
}

static void inode_evict(struct sim_inode *inode) {
    struct sim_mount *mount = inode->mount;
    uint64_t bytes = inode->kind == KELPIE_OS_KIND_DIRECTORY ? SIM_PAGE_BYTES
                     : inode->kind == KELPIE_OS_KIND_FILE    ? inode->pages.count * SIM_PAGE_BYTES
                                                             : 0;
    KELPIE_ASSERT(!inode->is_evicted);
    KELPIE_ASSERT(mount->used_bytes >= bytes);
    mount->used_bytes -= bytes;
    kelpie__sim_pages_cut(mount->disk->heap, &inode->pages, 0);
    inode->is_evicted = true;
}

void kelpie__sim_inode_release(struct sim_inode *inode) {
    if (inode->links == 0 && inode->opens == 0 && !inode->is_evicted) {
        inode_evict(inode);
    }
}

void kelpie__sim_disk_collect(struct sim_disk *disk) {
    while (disk->garbage != NULL) { /* each turn frees one; directories lay their parents aside */
        struct sim_inode *inode = disk->garbage;
        KELPIE_ASSERT(inode->references == 0 && inode->opens == 0);
        KELPIE_ASSERT(inode->pending.first == NULL);
        disk->garbage = inode->next;
        if (!inode->is_evicted) {
            inode_evict(inode);
        }
        kelpie__sim_pages_cut(disk->heap, &inode->durable_pages, 0);
        kelpie__sim_table_clear(disk, &inode->entries);
        kelpie__sim_table_clear(disk, &inode->durable_entries);
        kelpie__sim_inode_unref(inode->wildcard);
        kelpie__sim_inode_unref(inode->pattern);
        kelpie__sim_inode_unref(inode->parent);
        kelpie__sim_name_unref(disk, inode->name);
        kelpie__sim_heap_free(disk->heap, inode, sizeof(*inode));
    }
}

bool kelpie__sim_inode_is_recorded(const struct sim_inode *inode) {
    const struct sim_disk *disk = inode->mount->disk;
    return inode->mount == disk->main && disk->has_durable && !disk->is_layout &&
           disk->profile != SIM_DISK_TMPFS;
}

/* ---- paths ----------------------------------------------------------------------------------- */

int kelpie__sim_inode_path(const struct sim_inode *inode, char *out, size_t capacity) {
    const struct sim_inode *root = inode->mount->disk->root;
    size_t at = capacity - 1;
    KELPIE_ASSERT(capacity > 1);
    out[at] = '\0';
    for (uint32_t depth = 0; inode != root; depth += 1) {
        if (inode->name == NULL || inode->parent == NULL || depth > INODE_DEPTH_MAX) {
            return -ENOENT;
        }
        if (inode->name->length + 1 > at) {
            return -ENAMETOOLONG;
        }
        at -= inode->name->length;
        memcpy(out + at, inode->name->text, inode->name->length);
        at -= 1;
        out[at] = '/';
        inode = inode->parent;
    }
    if (at == capacity - 1) {
        at -= 1;
        out[at] = '/';
    }
    memmove(out, out + at, capacity - at);
    return (int)(capacity - 1 - at);
}

int kelpie__sim_inode_path_below(const struct sim_inode *directory, const char *name, size_t length,
                                 char *out, size_t capacity) {
    int above = kelpie__sim_inode_path(directory, out, capacity);
    if (above < 0) {
        return above;
    }
    size_t at = above == 1 ? 0 : (size_t)above; /* the root's own slash */
    if (at + 1 + length >= capacity) {
        return -ENAMETOOLONG;
    }
    out[at] = '/';
    memcpy(out + at + 1, name, length);
    out[at + 1 + length] = '\0';
    return (int)(at + 1 + length);
}

/* ---- lookup and list ------------------------------------------------------------------------- */

/* /proc: has "*" and lists processes. */
static bool inode_is_proc(const struct sim_inode *inode) {
    return inode->wildcard != NULL && inode->parent == inode->mount->disk->root &&
           inode->name != NULL && inode->name->length == 4 &&
           memcmp(inode->name->text, "proc", 4) == 0;
}

static int32_t inode_parse_pid(const char *name, size_t length, const struct sim_process *reader) {
    int64_t pid = 0;
    if (length == 4 && memcmp(name, "self", 4) == 0) {
        return reader == NULL ? 0 : reader->pid;
    }
    if (length > INODE_PID_DIGITS_MAX || name[0] == '0') {
        return 0;
    }
    for (size_t i = 0; i < length; i += 1) {
        if (name[i] < '0' || name[i] > '9') {
            return 0;
        }
        pid = pid * 10 + (name[i] - '0');
    }
    return pid <= INT32_MAX ? (int32_t)pid : 0;
}

static size_t inode_format_pid(int32_t pid, char out[INODE_PID_DIGITS_MAX]) {
    char digits[INODE_PID_DIGITS_MAX];
    size_t count = 0;
    KELPIE_ASSERT(pid > 0);
    for (; pid > 0; pid /= 10) {
        digits[count] = (char)('0' + pid % 10);
        count += 1;
    }
    for (size_t i = 0; i < count; i += 1) {
        out[i] = digits[count - 1 - i];
    }
    return count;
}

/* A directory that stands for a pattern's one, as long as somebody holds it. */
static struct sim_inode *inode_instance(struct sim_inode *directory, const char *name,
                                        size_t length, struct sim_inode *pattern) {
    struct sim_disk *disk = directory->mount->disk;
    struct sim_inode *made = kelpie__sim_inode_create(disk->synthetic, pattern->kind, 0555);
    struct sim_name *text = made == NULL ? NULL : kelpie__sim_name_create(disk, name, length);
    if (text == NULL) {
        kelpie__sim_inode_unref(made);
        return NULL;
    }
    made->links = 1;
    made->name = text;
    made->parent = directory;
    made->pattern = pattern;
    kelpie__sim_inode_ref(directory);
    kelpie__sim_inode_ref(pattern);
    return made;
}

/* /proc/PID/exe: a link to the program. */
static struct sim_inode *inode_exe(struct sim_inode *directory) {
    struct sim_disk *disk = directory->mount->disk;
    const struct sim_process *process = kelpie__sim_process_find(
        disk->machine, inode_parse_pid(directory->name->text, directory->name->length, NULL));
    KELPIE_ASSERT(inode_is_proc(directory->parent));
    return process == NULL || process->path[0] != '/'
               ? NULL
               : kelpie__sim_disk_create_link(disk->synthetic, process->path);
}

/* What is only there by a pattern. */
static struct sim_inode *inode_lookup_synthetic(struct sim_inode *directory, const char *name,
                                                size_t length, uint64_t hash,
                                                const struct sim_process *reader) {
    struct sim_inode *pattern = directory->pattern == NULL
                                    ? NULL
                                    : kelpie__sim_table_get(&directory->pattern->entries, hash);
    if (pattern != NULL && pattern->kind != KELPIE_OS_KIND_DIRECTORY) {
        kelpie__sim_inode_ref(pattern);
        return pattern;
    }
    if (pattern != NULL) {
        return inode_instance(directory, name, length, pattern);
    }
    if (length == 3 && memcmp(name, "exe", 3) == 0 && directory->pattern != NULL &&
        directory->name != NULL && inode_is_proc(directory->parent)) {
        return inode_exe(directory);
    }
    int32_t pid = inode_is_proc(directory) ? inode_parse_pid(name, length, reader) : 0;
    if (pid <= 0 || kelpie__sim_process_find(directory->mount->disk->machine, pid) == NULL) {
        return NULL;
    }
    char text[INODE_PID_DIGITS_MAX];
    size_t digits = inode_format_pid(pid, text);
    return inode_instance(directory, text, digits, directory->wildcard);
}

struct sim_inode *kelpie__sim_inode_lookup(struct sim_inode *directory, const char *name,
                                           size_t length, const struct sim_process *reader) {
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    uint64_t hash = kelpie__sim_name_hash(directory->mount->disk->hash_seed, name, length);
    struct sim_inode *inode = kelpie__sim_table_get(&directory->entries, hash);
    if (inode != NULL) {
        kelpie__sim_inode_ref(inode);
        return inode;
    }
    if (directory->pattern == NULL && directory->wildcard == NULL) {
        return NULL;
    }
    return inode_lookup_synthetic(directory, name, length, hash, reader);
}

static int inode_list_pids(const struct sim_inode *directory, uint64_t *inout_cursor,
                           char *out_name, size_t capacity) {
    const struct sim_process *process = directory->mount->disk->machine->processes;
    int32_t from = *inout_cursor < INODE_PID_BASE ? 0 : (int32_t)(*inout_cursor - INODE_PID_BASE);
    while (process != NULL && (process->pid < from || process->state == SIM_PROCESS_GONE)) {
        process = process->next;
    }
    if (process == NULL) {
        return 0;
    }
    char text[INODE_PID_DIGITS_MAX];
    size_t length = inode_format_pid(process->pid, text);
    if (length >= capacity) {
        return -ENAMETOOLONG;
    }
    memcpy(out_name, text, length);
    out_name[length] = '\0';
    *inout_cursor = INODE_PID_BASE + (uint64_t)process->pid + 1;
    return 1;
}

int kelpie__sim_inode_list(struct sim_inode *directory, uint64_t *inout_cursor, char *out_name,
                           size_t capacity) {
    const struct sim_table *tables[2] = {&directory->entries, NULL};
    const struct sim_slot *next = NULL;
    if (directory->pattern != NULL) {
        tables[1] = &directory->pattern->entries;
    }
    for (unsigned i = 0; i < 2 && tables[i] != NULL; i += 1) {
        uint32_t at = kelpie__sim_table_at(tables[i], *inout_cursor);
        if (at < tables[i]->count && (next == NULL || tables[i]->slots[at].hash < next->hash)) {
            next = &tables[i]->slots[at];
        }
    }
    if (next == NULL) {
        return inode_is_proc(directory)
                   ? inode_list_pids(directory, inout_cursor, out_name, capacity)
                   : 0;
    }
    if (next->name->length >= capacity) {
        return -ENAMETOOLONG;
    }
    memcpy(out_name, next->name->text, next->name->length + 1);
    KELPIE_ASSERT(next->hash >= *inout_cursor);
    *inout_cursor = next->hash + 1;
    return 1;
}

bool kelpie__sim_inode_is_empty(const struct sim_inode *directory) {
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    for (uint32_t i = 0; i < directory->entries.count; i += 1) {
        if (directory->entries.slots[i].inode->node.content == NULL) {
            return false; /* the kernel's own files go with their directory */
        }
    }
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

static void inode_set_place(struct sim_inode *inode, struct sim_inode *directory,
                            struct sim_name *name) {
    struct sim_inode *old_parent = inode->parent;
    struct sim_name *old_name = inode->name;
    kelpie__sim_inode_ref(directory);
    name->references += 1;
    inode->parent = directory;
    inode->name = name;
    kelpie__sim_inode_unref(old_parent);
    kelpie__sim_name_unref(directory->mount->disk, old_name);
    if (inode->pattern == NULL && directory->wildcard != NULL &&
        inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        kelpie__sim_inode_ref(directory->wildcard);
        inode->pattern = directory->wildcard;
    }
}

/* The inode loses one name; `hash` tells whether it was the one it knows. */
static void inode_lose_name(struct sim_inode *inode, const struct sim_inode *directory,
                            uint64_t hash) {
    KELPIE_ASSERT(inode->links > 0);
    inode->links -= 1;
    if (inode->name != NULL && inode->parent == directory && inode->name->hash == hash) {
        kelpie__sim_name_unref(inode->mount->disk, inode->name);
        inode->name = NULL;
    }
    kelpie__sim_inode_touch(inode);
    kelpie__sim_inode_release(inode);
}

int kelpie__sim_inode_add(struct sim_inode *directory, const char *name, size_t length,
                          struct sim_inode *inode) {
    struct sim_disk *disk = directory->mount->disk;
    struct sim_name *made = kelpie__sim_name_create(disk, name, length);
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    if (made == NULL || !kelpie__sim_table_set(disk, &directory->entries, made, inode)) {
        kelpie__sim_name_unref(disk, made);
        return -ENOSPC;
    }
    inode->links += 1;
    inode_set_place(inode, directory, made);
    kelpie__sim_inode_touch(directory);
    kelpie__sim_pending_add(directory, made, inode);
    kelpie__sim_name_unref(disk, made);
    return 0;
}

void kelpie__sim_inode_remove(struct sim_inode *directory, uint64_t hash) {
    struct sim_disk *disk = directory->mount->disk;
    struct sim_inode *inode = kelpie__sim_table_get(&directory->entries, hash);
    KELPIE_ASSERT(inode != NULL);
    kelpie__sim_inode_ref(inode);
    uint32_t at = kelpie__sim_table_at(&directory->entries, hash);
    kelpie__sim_pending_remove(directory, directory->entries.slots[at].name);
    kelpie__sim_table_remove(disk, &directory->entries, hash);
    inode_lose_name(inode, directory, hash);
    if (inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        kelpie__sim_table_clear(disk, &inode->entries); /* the kernel's own files */
    }
    kelpie__sim_inode_touch(directory);
    kelpie__sim_inode_unref(inode);
}

int kelpie__sim_inode_rename(struct sim_inode *from, uint64_t from_hash, struct sim_inode *to,
                             const char *name, size_t length) {
    struct sim_disk *disk = from->mount->disk;
    struct sim_inode *inode = kelpie__sim_table_get(&from->entries, from_hash);
    struct sim_name *made = kelpie__sim_name_create(disk, name, length);
    KELPIE_ASSERT(inode != NULL);
    if (made == NULL) {
        return -ENOSPC;
    }
    struct sim_inode *replaced = kelpie__sim_table_get(&to->entries, made->hash);
    if (replaced != NULL) {
        kelpie__sim_inode_ref(replaced);
    }
    kelpie__sim_inode_ref(inode);
    int status = kelpie__sim_table_set(disk, &to->entries, made, inode) ? 0 : -ENOSPC;
    if (status == 0) {
        uint32_t at = kelpie__sim_table_at(&from->entries, from_hash);
        kelpie__sim_pending_rename(from, from->entries.slots[at].name, to, made, inode,
                                   replaced != NULL);
        inode_set_place(inode, to, made);
        kelpie__sim_table_remove(disk, &from->entries, from_hash);
        kelpie__sim_inode_touch(from);
        kelpie__sim_inode_touch(to);
        inode->changed_ns = from->changed_ns;
        if (replaced != NULL) {
            inode_lose_name(replaced, to, made->hash);
        }
    }
    kelpie__sim_inode_unref(replaced);
    kelpie__sim_inode_unref(inode);
    kelpie__sim_name_unref(disk, made);
    KELPIE_ASSERT(from->kind == KELPIE_OS_KIND_DIRECTORY && to->kind == from->kind);
    return status;
}
