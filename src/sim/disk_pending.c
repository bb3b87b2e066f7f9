/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is pending between what processes see and what the medium holds: recorded as it happens,
 * applied to the durable side by sync or age, forgotten by a crash or by an fsync that lies.
 *
 * What Linux documents, and is done here. fsync(2): it flushes the file's data and size, not its
 * name; the directory needs a sync of its own. ext4 (Documentation/filesystems/ext4/journal.rst):
 * all changes of names go through one journal, in order, and syncing anything commits the journal
 * up to the last change of it; admin-guide/ext4.rst, auto_da_alloc: a rename over an existing file
 * forces the new file's data out before it commits. Dirty pages are written when they are 30
 * seconds old (admin-guide/sysctl/vm.rst, dirty_expire_centisecs).
 */
#include <string.h>

#include "sim/disk_internal.h"

#define PENDING_AGE_NS ((int64_t)30 * 1000 * 1000 * 1000)
#define PENDING_COUNT_MAX 8192u
/* smaller ones are kept as bytes; larger ones as the page that they made */
#define PENDING_INLINE_BYTES_MAX 512u

/* ---- lists ----------------------------------------------------------------------------------- */

/* A new one at the end of both lists; its pointers are still to be set. */
static struct sim_pending *pending_create(struct sim_disk *disk, struct sim_pending_list *list,
                                          enum sim_pending_type type, uint32_t inline_bytes) {
    struct sim_pending *pending =
        kelpie__sim_heap_alloc(disk->heap, sizeof(*pending) + inline_bytes);
    KELPIE_ASSERT(pending != NULL); /* the host's heap is made for it */
    disk->sequence_last += 1;
    pending->sequence = disk->sequence_last;
    pending->type = type;
    pending->time_ns = kelpie__sim_machine_now(disk->machine);
    pending->list = list;
    pending->previous = disk->pending_last;
    if (disk->pending_last == NULL) {
        disk->pending_first = pending;
    } else {
        disk->pending_last->next = pending;
    }
    disk->pending_last = pending;
    if (list->last == NULL) {
        list->first = pending;
    } else {
        list->last->list_next = pending;
    }
    list->last = pending;
    disk->pending_count += 1;
    return pending;
}

static size_t pending_bytes(const struct sim_pending *pending) {
    bool is_inline = pending->type == SIM_PENDING_DATA && pending->buffer == NULL;
    return sizeof(*pending) + (is_inline ? pending->count : 0);
}

/* Only ever the first of its list. */
void kelpie__sim_pending_drop(struct sim_disk *disk, struct sim_pending *pending) {
    struct sim_pending_list *list = pending->list;
    KELPIE_ASSERT(list->first == pending);
    list->first = pending->list_next;
    if (list->first == NULL) {
        list->last = NULL;
    }
    if (pending->previous == NULL) {
        disk->pending_first = pending->next;
    } else {
        pending->previous->next = pending->next;
    }
    if (pending->next == NULL) {
        disk->pending_last = pending->previous;
    } else {
        pending->next->previous = pending->previous;
    }
    KELPIE_ASSERT(disk->pending_count > 0);
    disk->pending_count -= 1;
    kelpie__sim_buffer_unref(disk->heap, pending->buffer);
    kelpie__sim_name_unref(disk, pending->name);
    kelpie__sim_name_unref(disk, pending->to_name);
    kelpie__sim_inode_unref(pending->directory);
    kelpie__sim_inode_unref(pending->to_directory);
    kelpie__sim_inode_unref(pending->inode);
    kelpie__sim_heap_free(disk->heap, pending, pending_bytes(pending));
}

/* ---- applying -------------------------------------------------------------------------------- */

static void apply_data(struct sim_disk *disk, const struct sim_pending *pending) {
    struct sim_pages *pages = &pending->inode->durable_pages;
    bool is_done = true;
    if (pending->buffer != NULL) {
        is_done = kelpie__sim_pages_set(disk->heap, pages, pending->page, pending->buffer);
    } else {
        struct sim_buffer *buffer = kelpie__sim_pages_own(
            disk->heap, pages, pending->page, pending->offset, pending->offset + pending->count);
        is_done = buffer != NULL;
        if (is_done) {
            memcpy(buffer->bytes + pending->offset, pending->bytes, pending->count);
        }
    }
    KELPIE_ASSERT(is_done); /* the host's heap is made for it */
}

void kelpie__sim_pending_apply(struct sim_pending *pending) {
    struct sim_inode *inode = pending->inode;
    struct sim_disk *disk =
        (inode != NULL ? inode : pending->directory)->mount->disk; /* a removal has no inode */
    bool is_done = true;
    switch (pending->type) {
    case SIM_PENDING_DATA:
        apply_data(disk, pending);
        break;
    case SIM_PENDING_SIZE:
        if (pending->is_shrink) {
            is_done = kelpie__sim_pages_trim(disk->heap, &inode->durable_pages, pending->size);
        }
        inode->durable_size = pending->size;
        break;
    case SIM_PENDING_ADD:
        is_done =
            kelpie__sim_table_set(disk, &pending->directory->durable_entries, pending->name, inode);
        break;
    case SIM_PENDING_REMOVE:
        kelpie__sim_table_remove(disk, &pending->directory->durable_entries, pending->name->hash);
        break;
    case SIM_PENDING_RENAME:
        kelpie__sim_table_remove(disk, &pending->directory->durable_entries, pending->name->hash);
        is_done = kelpie__sim_table_set(disk, &pending->to_directory->durable_entries,
                                        pending->to_name, inode);
        break;
    }
    KELPIE_ASSERT(is_done); /* the host's heap is made for it */
}

/* Everything of a file that happened before `sequence`, without its name. */
static void retire_data(struct sim_inode *inode, uint64_t sequence) {
    struct sim_disk *disk = inode->mount->disk;
    KELPIE_ASSERT(inode->kind != KELPIE_OS_KIND_DIRECTORY);
    while (inode->pending.first != NULL && inode->pending.first->sequence < sequence) {
        kelpie__sim_pending_apply(inode->pending.first);
        kelpie__sim_pending_drop(disk, inode->pending.first);
    }
}

/* Everything of an open file: the medium's pages are then those that processes see. */
static void retire_file(struct sim_inode *inode) {
    struct sim_disk *disk = inode->mount->disk;
    if (inode->pending.first == NULL) {
        return;
    }
    if (inode->is_evicted) {
        retire_data(inode, UINT64_MAX);
        return;
    }
    bool is_done = true;
    while (inode->pending.first != NULL) { /* each turn drops one */
        struct sim_pending *pending = inode->pending.first;
        if (pending->type == SIM_PENDING_DATA) {
            is_done = kelpie__sim_pages_set(disk->heap, &inode->durable_pages, pending->page,
                                            kelpie__sim_pages_get(&inode->pages, pending->page));
        } else if (pending->is_shrink) { /* what is written behind it comes later in the list */
            is_done = kelpie__sim_pages_trim(disk->heap, &inode->durable_pages, pending->size);
        }
        KELPIE_ASSERT(is_done); /* the host's heap is made for it */
        kelpie__sim_pending_drop(disk, pending);
    }
    inode->durable_size = inode->size;
}

/* A name's operation reaches the medium, with what it depends on outside its own list. */
static void retire_name(struct sim_disk *disk, struct sim_pending *pending) {
    KELPIE_ASSERT(pending->type >= SIM_PENDING_ADD);
    if (pending->type == SIM_PENDING_RENAME && pending->is_replacer &&
        pending->inode->kind == KELPIE_OS_KIND_FILE) {
        retire_data(pending->inode, pending->sequence); /* auto_da_alloc */
    }
    kelpie__sim_pending_apply(pending);
    kelpie__sim_pending_drop(disk, pending);
}

/* All operations on names, of any directory, up to `sequence`. */
static void retire_names_until(struct sim_disk *disk, uint64_t sequence) {
    struct sim_pending *pending = disk->pending_first;
    while (pending != NULL && pending->sequence <= sequence) {
        struct sim_pending *next = pending->next;
        if (pending->type >= SIM_PENDING_ADD) {
            KELPIE_ASSERT(pending->type != SIM_PENDING_RENAME || !pending->is_replacer);
            retire_name(disk, pending);
        }
        pending = next;
    }
}

/* ext4: the journal up to `sequence`. */
static void retire_journal(struct sim_disk *disk, uint64_t sequence) {
    while (disk->journal.first != NULL && disk->journal.first->sequence <= sequence) {
        retire_name(disk, disk->journal.first);
    }
}

static void retire_oldest(struct sim_disk *disk) {
    struct sim_pending *pending = disk->pending_first;
    KELPIE_ASSERT(pending != NULL && pending->list->first == pending);
    kelpie__sim_pending_apply(pending); /* all that it depends on was older */
    kelpie__sim_pending_drop(disk, pending);
}

/* The kernel's writeback; before something new is recorded. */
static void retire_old(struct sim_disk *disk) {
    int64_t now_ns = kelpie__sim_machine_now(disk->machine);
    while (disk->pending_first != NULL && (now_ns - disk->pending_first->time_ns > PENDING_AGE_NS ||
                                           disk->pending_count >= PENDING_COUNT_MAX)) {
        retire_oldest(disk);
    }
}

/* ---- recording ------------------------------------------------------------------------------- */

static struct sim_inode *own(struct sim_inode *inode) {
    kelpie__sim_inode_ref(inode);
    return inode;
}

static struct sim_name *own_name(struct sim_name *name) {
    name->references += 1;
    return name;
}

void kelpie__sim_pending_data(struct sim_inode *inode, uint64_t page, struct sim_buffer *buffer,
                              uint32_t offset, uint32_t count) {
    struct sim_disk *disk = inode->mount->disk;
    bool is_inline = count < PENDING_INLINE_BYTES_MAX && !inode->has_lost;
    KELPIE_ASSERT(offset + count <= SIM_PAGE_BYTES);
    KELPIE_ASSERT(!is_inline || offset + count <= buffer->capacity);
    retire_old(disk);
    struct sim_pending *pending =
        pending_create(disk, &inode->pending, SIM_PENDING_DATA, is_inline ? count : 0);
    pending->inode = own(inode);
    pending->page = page;
    pending->offset = offset;
    pending->count = count;
    if (is_inline) {
        memcpy(pending->bytes, buffer->bytes + offset, count);
    } else {
        buffer->references += 1;
        pending->buffer = buffer;
    }
}

void kelpie__sim_pending_size(struct sim_inode *inode, uint64_t size, bool is_shrink) {
    struct sim_disk *disk = inode->mount->disk;
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_FILE);
    retire_old(disk);
    struct sim_pending *pending = pending_create(disk, &inode->pending, SIM_PENDING_SIZE, 0);
    pending->inode = own(inode);
    pending->size = size;
    pending->is_shrink = is_shrink;
}

static struct sim_pending *name_create(struct sim_inode *directory, enum sim_pending_type type,
                                       struct sim_name *name, struct sim_inode *inode) {
    struct sim_disk *disk = directory->mount->disk;
    bool is_ordered = disk->profile == SIM_DISK_EXT4;
    KELPIE_ASSERT(directory->kind == KELPIE_OS_KIND_DIRECTORY);
    struct sim_pending *pending =
        pending_create(disk, is_ordered ? &disk->journal : &directory->pending, type, 0);
    pending->directory = own(directory);
    pending->name = own_name(name);
    directory->journal_last = pending->sequence;
    if (inode != NULL) {
        pending->inode = own(inode);
        inode->journal_last = pending->sequence;
    }
    return pending;
}

void kelpie__sim_pending_add(struct sim_inode *directory, struct sim_name *name,
                             struct sim_inode *inode) {
    if (kelpie__sim_inode_is_recorded(directory)) {
        retire_old(directory->mount->disk);
        struct sim_pending *pending = name_create(directory, SIM_PENDING_ADD, name, inode);
        KELPIE_ASSERT(pending->inode == inode);
    }
}

void kelpie__sim_pending_remove(struct sim_inode *directory, struct sim_name *name) {
    if (kelpie__sim_inode_is_recorded(directory)) {
        retire_old(directory->mount->disk);
        struct sim_pending *pending = name_create(directory, SIM_PENDING_REMOVE, name, NULL);
        KELPIE_ASSERT(pending->inode == NULL);
    }
}

/* ext4: one operation. POSIX promises that processes see it at once, not that a crash does: for
 * files the old target goes, the new name comes, the old name goes. A directory never has two
 * names. */
void kelpie__sim_pending_rename(struct sim_inode *from, struct sim_name *from_name,
                                struct sim_inode *to, struct sim_name *to_name,
                                struct sim_inode *inode, bool is_replacer) {
    struct sim_disk *disk = from->mount->disk;
    if (!kelpie__sim_inode_is_recorded(from)) {
        return;
    }
    retire_old(disk);
    if (disk->profile == SIM_DISK_EXT4 || inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        struct sim_pending *pending = name_create(from, SIM_PENDING_RENAME, from_name, inode);
        pending->to_directory = own(to);
        pending->to_name = own_name(to_name);
        pending->is_replacer = is_replacer && disk->profile == SIM_DISK_EXT4;
        pending->is_across = from != to;
        to->journal_last = pending->sequence;
        if (from != to && disk->profile != SIM_DISK_EXT4) {
            to->arrival_last = pending->sequence;
        }
        return;
    }
    if (is_replacer) {
        struct sim_pending *gone = name_create(to, SIM_PENDING_REMOVE, to_name, NULL);
        KELPIE_ASSERT(gone->directory == to);
    }
    struct sim_pending *come = name_create(to, SIM_PENDING_ADD, to_name, inode);
    struct sim_pending *left = name_create(from, SIM_PENDING_REMOVE, from_name, NULL);
    left->partner = come->sequence;
    left->is_across = from != to;
}

/* ---- syncing --------------------------------------------------------------------------------- */

/* POSIX: the names in one directory, and what they cannot be without. */
static void retire_directory(struct sim_inode *directory) {
    struct sim_disk *disk = directory->mount->disk;
    retire_names_until(disk, directory->arrival_last);
    directory->arrival_last = 0;
    while (directory->pending.first != NULL) { /* each turn drops one at least */
        struct sim_pending *pending = directory->pending.first;
        if (pending->is_across) {
            retire_names_until(disk, pending->sequence); /* itself, too */
        } else {
            retire_name(disk, pending);
        }
    }
}

void kelpie__sim_pending_sync(struct sim_inode *inode) {
    struct sim_disk *disk = inode->mount->disk;
    if (!kelpie__sim_inode_is_recorded(inode)) {
        return;
    }
    kelpie__sim_inode_ref(inode);
    if (inode->kind != KELPIE_OS_KIND_DIRECTORY) {
        retire_file(inode);
    }
    if (disk->profile == SIM_DISK_EXT4) {
        retire_journal(disk, inode->journal_last);
    } else if (inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        retire_directory(inode);
    }
    KELPIE_ASSERT(inode->pending.first == NULL);
    kelpie__sim_inode_unref(inode);
}

bool kelpie__sim_pending_has(const struct sim_inode *inode) {
    const struct sim_pending *first = inode->mount->disk->journal.first;
    KELPIE_ASSERT(inode->references > 0);
    return inode->pending.first != NULL ||
           (first != NULL && first->sequence <= inode->journal_last);
}

void kelpie__sim_pending_lose(struct sim_inode *inode) {
    struct sim_disk *disk = inode->mount->disk;
    if (inode->kind == KELPIE_OS_KIND_DIRECTORY) {
        return; /* the journal keeps its names pending */
    }
    inode->has_lost = inode->has_lost || inode->pending.first != NULL;
    while (inode->pending.first != NULL) { /* each turn drops one */
        kelpie__sim_pending_drop(disk, inode->pending.first);
    }
    KELPIE_ASSERT(inode->pending.last == NULL);
}

void kelpie__sim_pending_sync_all(struct sim_disk *disk) {
    while (disk->pending_first != NULL) { /* each turn drops one */
        retire_oldest(disk);
    }
    KELPIE_ASSERT(disk->pending_count == 0 && disk->pending_last == NULL);
}

uint32_t kelpie__sim_disk_pending(const struct sim_disk *disk) {
    KELPIE_ASSERT((disk->pending_count == 0) == (disk->pending_first == NULL));
    return disk->pending_count;
}
