/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a crash leaves: a subset of the pending operations that is closed under their dependencies,
 * drawn at random or counted through, applied in order to the medium, which then is all there is.
 *
 * Dependencies. The versions of one page reach the medium in order, and so do the sizes of one
 * file; a page written after a cut comes after it. A size may come without the pages below it:
 * they are holes, or (posix) hold garbage. Names: ext4 in one order; posix each name of a directory
 * for itself, and a rename's steps in order. A replacing rename on ext4 comes after its file's
 * data.
 */
#include <string.h>

#include "sim/disk_internal.h"

#define CRASH_KEY_SIZE 0x5a5aa5a500000000u
#define CRASH_KEY_CUT 0xa5a55a5a00000000u
#define CRASH_NONE UINT32_MAX

struct crash_edge {
    uint32_t from; /* needs `to`; sorted by from */
    uint32_t to;
};

struct crash_key {
    uint64_t key;
    uint32_t index; /* the last operation with this key */
};

/* The pending operations of a moment as a graph. */
struct crash {
    struct sim_disk *disk;
    uint32_t count;
    struct sim_pending **pending;
    uint32_t *edge_first; /* of each operation; count + 1 of them */
    struct crash_edge *edges;
    uint32_t edge_count;
    uint32_t edge_capacity;
    uint32_t *component; /* the first operation that it is connected with */
    bool *is_kept;
    struct crash_key *keys;
    uint32_t key_capacity; /* a power of two; index CRASH_NONE: free */
};

static void *crash_alloc(struct sim_disk *disk, size_t bytes) {
    void *block = kelpie__sim_heap_alloc(disk->heap, bytes);
    KELPIE_ASSERT(block != NULL); /* the host's heap is made for it */
    return block;
}

/* ---- dependencies ---------------------------------------------------------------------------- */

static void crash_edge(struct crash *crash, uint32_t from, uint32_t to) {
    if (to == CRASH_NONE) {
        return;
    }
    KELPIE_ASSERT(to < from);
    if (crash->edge_count == crash->edge_capacity) {
        uint32_t capacity = crash->edge_capacity * 2;
        struct crash_edge *edges = crash_alloc(crash->disk, capacity * sizeof(*edges));
        memcpy(edges, crash->edges, crash->edge_count * sizeof(*edges));
        kelpie__sim_heap_free(crash->disk->heap, crash->edges,
                              crash->edge_capacity * sizeof(*edges));
        crash->edges = edges;
        crash->edge_capacity = capacity;
    }
    crash->edges[crash->edge_count] = (struct crash_edge){from, to};
    crash->edge_count += 1;
}

/* The place of a key: that of the operation which had it last, or a free one. */
static struct crash_key *crash_find(struct crash *crash, uint64_t a, uint64_t b) {
    uint64_t key = (a * 0x9e3779b97f4a7c15u) ^ ((b + 1) * 0xd6e8feb86659fd93u);
    key ^= key >> 31;
    uint32_t at = (uint32_t)(key & (crash->key_capacity - 1));
    for (uint32_t i = 0; i < crash->key_capacity; i += 1) {
        struct crash_key *place = &crash->keys[(at + i) & (crash->key_capacity - 1)];
        if (place->index == CRASH_NONE || place->key == key) {
            place->key = key;
            return place;
        }
    }
    KELPIE_ASSERT(false); /* it has twice as many places as keys */
    return NULL;
}

/* `index` needs the last one with this key, and is now that itself. */
static void crash_chain(struct crash *crash, uint32_t index, uint64_t a, uint64_t b) {
    struct crash_key *place = crash_find(crash, a, b);
    crash_edge(crash, index, place->index);
    place->index = index;
}

static uint32_t crash_of_sequence(const struct crash *crash, uint64_t sequence) {
    uint32_t low = 0;
    uint32_t high = crash->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (crash->pending[middle]->sequence < sequence) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < crash->count && crash->pending[low]->sequence == sequence ? low : CRASH_NONE;
}

static void crash_name_edges(struct crash *crash, uint32_t index) {
    const struct sim_pending *pending = crash->pending[index];
    if (crash->disk->profile == SIM_DISK_EXT4) {
        crash_chain(crash, index, 0, 0);
        if (pending->is_replacer) {
            for (const struct sim_pending *data = pending->inode->pending.first;
                 data != NULL && data->sequence < pending->sequence; data = data->list_next) {
                crash_edge(crash, index, data->index);
            }
        }
        return;
    }
    crash_chain(crash, index, pending->directory->number, pending->name->hash);
    if (pending->type == SIM_PENDING_RENAME) {
        crash_chain(crash, index, pending->to_directory->number, pending->to_name->hash);
    }
    if (pending->partner != 0) {
        crash_edge(crash, index, crash_of_sequence(crash, pending->partner));
    }
}

static void crash_edges(struct crash *crash) {
    for (uint32_t i = 0; i < crash->count; i += 1) {
        const struct sim_pending *pending = crash->pending[i];
        crash->edge_first[i] = crash->edge_count;
        if (pending->type >= SIM_PENDING_ADD) {
            crash_name_edges(crash, i);
            continue;
        }
        uint64_t number = pending->inode->number;
        if (pending->type == SIM_PENDING_SIZE) {
            crash_chain(crash, i, number, CRASH_KEY_SIZE);
            if (pending->is_shrink) {
                crash_find(crash, number, CRASH_KEY_CUT)->index = i;
            }
            continue;
        }
        uint32_t cut = crash_find(crash, number, CRASH_KEY_CUT)->index;
        crash_edge(crash, i, cut);
        crash_chain(crash, i, number, pending->page);
    }
    crash->edge_first[crash->count] = crash->edge_count;
}

static uint32_t crash_component_of(struct crash *crash, uint32_t index) {
    while (crash->component[index] != index) { /* goes down */
        crash->component[index] = crash->component[crash->component[index]];
        index = crash->component[index];
    }
    return index;
}

static void crash_components(struct crash *crash) {
    for (uint32_t i = 0; i < crash->count; i += 1) {
        crash->component[i] = i;
    }
    for (uint32_t i = 0; i < crash->edge_count; i += 1) {
        uint32_t a = crash_component_of(crash, crash->edges[i].from);
        uint32_t b = crash_component_of(crash, crash->edges[i].to);
        crash->component[a > b ? a : b] = a > b ? b : a;
    }
    for (uint32_t i = 0; i < crash->count; i += 1) {
        crash->component[i] = crash_component_of(crash, i);
        KELPIE_ASSERT(crash->component[i] <= i);
    }
}

static void crash_begin(struct crash *crash, struct sim_disk *disk) {
    uint32_t count = disk->pending_count;
    *crash = (struct crash){.disk = disk, .count = count, .edge_capacity = 4 * count + 4};
    crash->key_capacity = 16;
    while (crash->key_capacity < 4 * count) { /* at most two keys each, half full */
        crash->key_capacity *= 2;
    }
    crash->pending = crash_alloc(disk, (count + 1) * sizeof(crash->pending[0]));
    crash->edge_first = crash_alloc(disk, (count + 1) * sizeof(crash->edge_first[0]));
    crash->edges = crash_alloc(disk, crash->edge_capacity * sizeof(crash->edges[0]));
    crash->component = crash_alloc(disk, (count + 1) * sizeof(crash->component[0]));
    crash->is_kept = crash_alloc(disk, (count + 1) * sizeof(crash->is_kept[0]));
    crash->keys = crash_alloc(disk, crash->key_capacity * sizeof(crash->keys[0]));
    for (uint32_t i = 0; i < crash->key_capacity; i += 1) {
        crash->keys[i].index = CRASH_NONE;
    }
    uint32_t index = 0;
    for (struct sim_pending *pending = disk->pending_first; pending != NULL;
         pending = pending->next) {
        pending->index = index;
        crash->pending[index] = pending;
        index += 1;
    }
    KELPIE_ASSERT(index == count);
    crash_edges(crash);
    crash_components(crash);
}

static void crash_end(struct crash *crash) {
    struct sim_heap *heap = crash->disk->heap;
    size_t count = crash->count + 1;
    KELPIE_ASSERT(crash->edge_count <= crash->edge_capacity);
    kelpie__sim_heap_free(heap, crash->pending, count * sizeof(crash->pending[0]));
    kelpie__sim_heap_free(heap, crash->edge_first, count * sizeof(crash->edge_first[0]));
    kelpie__sim_heap_free(heap, crash->edges, crash->edge_capacity * sizeof(crash->edges[0]));
    kelpie__sim_heap_free(heap, crash->component, count * sizeof(crash->component[0]));
    kelpie__sim_heap_free(heap, crash->is_kept, count * sizeof(crash->is_kept[0]));
    kelpie__sim_heap_free(heap, crash->keys, crash->key_capacity * sizeof(crash->keys[0]));
}

/* ---- subsets --------------------------------------------------------------------------------- */

static bool crash_may_keep(const struct crash *crash, uint32_t index) {
    for (uint32_t i = crash->edge_first[index]; i < crash->edge_first[index + 1]; i += 1) {
        if (!crash->is_kept[crash->edges[i].to]) {
            return false;
        }
    }
    return true;
}

/* The next legal subset of one component, in the order of binary numbers. False: it was the last.
 */
static bool crash_next(struct crash *crash, uint32_t component) {
    for (uint32_t end = crash->count; end > component; end -= 1) {
        uint32_t i = end - 1;
        if (crash->component[i] != component || crash->is_kept[i] || !crash_may_keep(crash, i)) {
            continue;
        }
        crash->is_kept[i] = true;
        for (uint32_t j = i + 1; j < crash->count; j += 1) {
            if (crash->component[j] == component) {
                crash->is_kept[j] = false;
            }
        }
        return true;
    }
    return false;
}

static void crash_keep_none(struct crash *crash, uint32_t component) {
    for (uint32_t i = component; i < crash->count; i += 1) {
        if (crash->component[i] == component) {
            crash->is_kept[i] = false;
        }
    }
}

/* The legal subsets of one component, at most `limit`; leaves none kept. */
static uint64_t crash_count_component(struct crash *crash, uint32_t component, uint64_t limit) {
    uint64_t count = 1;
    KELPIE_ASSERT(limit > 0);
    while (count < limit && crash_next(crash, component)) {
        count += 1;
    }
    crash_keep_none(crash, component);
    return count;
}

static uint64_t crash_count_all(struct crash *crash, uint64_t limit) {
    uint64_t total = 1;
    for (uint32_t i = 0; i < crash->count && total < limit; i += 1) {
        if (crash->component[i] == i) {
            uint64_t count = crash_count_component(crash, i, limit);
            total = total > limit / count ? limit : total * count;
        }
    }
    return total < limit ? total : limit;
}

/* The subset with this number: one digit for each component. */
static void crash_choose_index(struct crash *crash, uint64_t index, uint64_t limit) {
    for (uint32_t i = 0; i < crash->count && index > 0; i += 1) {
        if (crash->component[i] != i) {
            continue;
        }
        uint64_t count = crash_count_component(crash, i, limit);
        for (uint64_t digit = index % count; digit > 0; digit -= 1) {
            bool has_next = crash_next(crash, i);
            KELPIE_ASSERT(has_next);
        }
        index /= count;
    }
    KELPIE_ASSERT(index == 0);
}

static uint64_t crash_hash(uint64_t seed, uint64_t value) {
    uint64_t hash = (seed ^ value) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
    hash *= 0xd6e8feb86659fd93u;
    return hash ^ (hash >> 32);
}

/* Four temperaments of a disk: all of it up to a moment; each file and the journal up to a moment
 * of its own; each operation by chance; nearly everything. */
static void crash_choose_random(struct crash *crash, uint64_t seed) {
    uint64_t mode = crash_hash(seed, 1) % 4;
    uint64_t moment = crash_hash(seed, 2) % (crash->count + 1u);
    for (uint32_t i = 0; i < crash->count; i += 1) {
        const struct sim_pending *pending = crash->pending[i];
        uint64_t chance = crash_hash(seed, 16 + i);
        bool is_name = pending->type >= SIM_PENDING_ADD;
        uint64_t owner =
            is_name ? crash->disk->profile == SIM_DISK_EXT4 ? 0 : pending->directory->number
                    : pending->inode->number;
        bool is_wanted = false;
        if (mode == 0) {
            is_wanted = i < moment;
        } else if (mode == 1) {
            is_wanted = i < crash_hash(seed, ~owner) % (crash->count + 1u);
        } else if (mode == 2) {
            is_wanted = chance % 2 == 0;
        } else {
            is_wanted = chance % 8 != 0;
        }
        crash->is_kept[i] = is_wanted && crash_may_keep(crash, i);
    }
}

/* ---- the crash ------------------------------------------------------------------------------- */

/* posix: where a file is longer than before, and its data did not arrive, there may be anything. */
static void crash_garbage(struct crash *crash, const uint64_t *sizes, uint64_t seed) {
    for (uint32_t i = 0; i < crash->count; i += 1) {
        const struct sim_pending *pending = crash->pending[i];
        if (crash->is_kept[i] || pending->type != SIM_PENDING_DATA ||
            crash_hash(seed, pending->sequence) % 2 == 0) {
            continue;
        }
        struct sim_inode *inode = pending->inode;
        uint64_t start = pending->page * SIM_PAGE_BYTES;
        uint64_t from = kelpie__max_u64(start + pending->offset, sizes[i]);
        uint64_t end =
            kelpie__min_u64(start + pending->offset + pending->count, inode->durable_size);
        if (from >= end) {
            continue;
        }
        struct sim_buffer *buffer =
            kelpie__sim_pages_own(crash->disk->heap, &inode->durable_pages, pending->page,
                                  (uint32_t)(from - start), (uint32_t)(end - start));
        KELPIE_ASSERT(buffer != NULL); /* the host's heap is made for it */
        for (uint64_t at = from; at < end; at += 1) {
            buffer->bytes[at - start] = (uint8_t)crash_hash(seed, at);
        }
    }
}

static void crash_apply(struct crash *crash, uint64_t seed) {
    struct sim_disk *disk = crash->disk;
    uint64_t *sizes = crash_alloc(disk, (crash->count + 1) * sizeof(*sizes));
    for (uint32_t i = 0; i < crash->count; i += 1) {
        const struct sim_inode *inode = crash->pending[i]->inode;
        sizes[i] = inode == NULL ? 0 : inode->durable_size;
    }
    for (uint32_t i = 0; i < crash->count; i += 1) {
        if (crash->is_kept[i]) {
            KELPIE_ASSERT(crash_may_keep(crash, i));
            kelpie__sim_pending_apply(crash->pending[i]);
        }
    }
    if (disk->profile == SIM_DISK_POSIX) {
        crash_garbage(crash, sizes, seed);
    }
    kelpie__sim_heap_free(disk->heap, sizes, (crash->count + 1) * sizeof(*sizes));
    for (uint32_t i = 0; i < crash->count; i += 1) {
        kelpie__sim_pending_drop(disk, crash->pending[i]);
    }
    KELPIE_ASSERT(disk->pending_count == 0);
}

/* Marks what the medium's names lead to, and counts those. `queue` has room for every inode. */
static void crash_reach(struct sim_disk *disk, struct sim_inode **queue) {
    uint64_t first = 0;
    uint64_t last = 1;
    queue[0] = disk->root;
    disk->root->is_reached = true;
    disk->root->links = 1;
    while (first < last) { /* each inode once */
        struct sim_inode *directory = queue[first];
        first += 1;
        /* the last turn is for the pattern below it */
        for (uint32_t i = 0; i <= directory->durable_entries.count; i += 1) {
            struct sim_inode *inode = i < directory->durable_entries.count
                                          ? directory->durable_entries.slots[i].inode
                                          : directory->wildcard;
            if (inode != NULL) {
                inode->links += 1;
            }
            if (inode != NULL && !inode->is_reached) {
                KELPIE_ASSERT(last < disk->inode_count);
                inode->is_reached = true;
                queue[last] = inode;
                last += 1;
            }
        }
    }
}

/* What processes see is what the medium holds. */
static void crash_restore(struct sim_inode *inode) {
    struct sim_disk *disk = inode->mount->disk;
    bool is_directory = inode->kind == KELPIE_OS_KIND_DIRECTORY;
    bool is_trimmed =
        kelpie__sim_pages_trim(disk->heap, &inode->durable_pages, inode->durable_size);
    KELPIE_ASSERT(is_trimmed); /* the host's heap is made for it */
    kelpie__sim_pages_copy(disk->heap, &inode->pages, &inode->durable_pages);
    kelpie__sim_table_copy(disk, &inode->entries, &inode->durable_entries);
    inode->size = inode->durable_size;
    inode->is_evicted = false;
    inode->mount->used_bytes += is_directory ? SIM_PAGE_BYTES
                                : inode->kind == KELPIE_OS_KIND_FILE
                                    ? inode->pages.count * SIM_PAGE_BYTES
                                    : 0;
    for (uint32_t i = 0; i < inode->entries.count; i += 1) {
        const struct sim_slot *slot = &inode->entries.slots[i];
        struct sim_inode *child = slot->inode;
        kelpie__sim_inode_ref(inode);
        slot->name->references += 1;
        kelpie__sim_inode_unref(child->parent);
        kelpie__sim_name_unref(disk, child->name);
        child->parent = inode;
        child->name = slot->name;
    }
}

/* Nothing leads to it: open files are all that may still hold it. */
static void crash_forget(struct sim_inode *inode) {
    struct sim_disk *disk = inode->mount->disk;
    KELPIE_ASSERT(!inode->is_reached);
    kelpie__sim_table_clear(disk, &inode->entries);
    kelpie__sim_table_clear(disk, &inode->durable_entries);
    kelpie__sim_pages_cut(disk->heap, &inode->pages, 0);
    inode->is_evicted = true;
}

static void crash_rebuild(struct sim_disk *disk) {
    size_t queue_bytes = (disk->inode_count + 1) * sizeof(struct sim_inode *);
    struct sim_inode **queue = crash_alloc(disk, queue_bytes);
    for (struct sim_mount *mount = disk->mounts; mount != NULL; mount = mount->next) {
        mount->used_bytes = 0;
    }
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->links = 0;
        inode->is_reached = false;
        inode->has_lost = false;
        inode->lock_holders = NULL;
        inode->journal_last = 0;
        inode->arrival_last = 0;
    }
    crash_reach(disk, queue);
    /* The tables may drop inodes, which leave the list: one that comes later is looked up first. */
    uint64_t count = 0;
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        queue[count] = inode;
        count += 1;
        kelpie__sim_inode_ref(inode);
    }
    KELPIE_ASSERT(count == disk->inode_count);
    for (uint64_t i = 0; i < count; i += 1) {
        if (queue[i]->is_reached) {
            crash_restore(queue[i]);
        } else {
            crash_forget(queue[i]);
        }
    }
    for (uint64_t i = 0; i < count; i += 1) {
        kelpie__sim_inode_unref(queue[i]);
    }
    disk->generation += 1;
    kelpie__sim_heap_free(disk->heap, queue, queue_bytes);
    kelpie__sim_disk_collect(disk);
    kelpie__sim_disk_check(disk);
}

void kelpie__sim_disk_crash(struct sim_disk *disk) {
    struct crash crash;
    uint64_t seed = kelpie__sim_draw(disk->machine->world, SIM_STREAM_DISK);
    KELPIE_ASSERT(disk->has_durable);
    crash_begin(&crash, disk);
    crash_choose_random(&crash, seed);
    crash_apply(&crash, seed);
    crash_end(&crash);
    crash_rebuild(disk);
}

uint64_t kelpie__sim_disk_crash_count(const struct sim_disk *disk, uint64_t limit) {
    struct crash crash;
    KELPIE_ASSERT(limit > 1);
    crash_begin(&crash, disk->root->mount->disk);
    uint64_t count = crash_count_all(&crash, limit);
    crash_end(&crash);
    return count;
}

void kelpie__sim_disk_crash_to(struct sim_disk *disk, uint64_t index, uint64_t limit) {
    struct crash crash;
    KELPIE_ASSERT(disk->has_durable && limit > 1);
    crash_begin(&crash, disk);
    uint64_t count = crash_count_all(&crash, limit);
    KELPIE_ASSERT(index < count);
    if (index == count - 1) {
        memset(crash.is_kept, 1, crash.count * sizeof(crash.is_kept[0]));
    } else if (count < limit) {
        crash_choose_index(&crash, index, limit);
    } else if (index > 0) { /* more than are asked for: a sample */
        crash_choose_random(&crash, index);
    }
    crash_apply(&crash, index);
    crash_end(&crash);
    crash_rebuild(disk);
}
