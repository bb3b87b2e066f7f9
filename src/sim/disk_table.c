/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Names, and directories as tables of them in the order of a seeded hash: the order of list is
 * thereby shuffled, the same in every run of a seed, and not moved by what comes and goes, as in
 * ext4's directories. Two names with the same 62 bits of hash are taken for impossible.
 */
#include <string.h>

#include "core/text.h"
#include "sim/disk_internal.h"

#define TABLE_SLOTS_MIN 4u

/* The product of both, its halves folded together: every bit of it depends on all of theirs. */
static inline uint64_t fold(uint64_t value, uint64_t factor) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)value * factor;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t kelpie__sim_name_hash(uint64_t seed, const char *text, size_t length) {
    uint64_t hash = seed ^ (length * 0x9e3779b97f4a7c15u);
    KELPIE_ASSERT(length <= SIM_FILE_NAME_BYTES_MAX);
    for (size_t at = 8; at < length; at += 8) { /* all words but the last */
        hash = fold(hash ^ kelpie__text_word(text + at - 8, 8), 0xd6e8feb86659fd93u);
    }
    /* the last, which may overlap with the one before */
    const char *last = length < 8 ? text : text + length - 8;
    hash = fold(hash ^ kelpie__text_word(last, length), 0x9e3779b97f4a7c15u);
    hash &= ((uint64_t)1 << SIM_HASH_BITS) - 1;
    return hash == 0 ? 1 : hash;
}

struct sim_name *kelpie__sim_name_create(struct sim_disk *disk, const char *text, size_t length) {
    struct sim_name *name = kelpie__sim_heap_alloc(disk->heap, sizeof(*name) + length + 1);
    KELPIE_ASSERT(length > 0 && length <= SIM_FILE_NAME_BYTES_MAX);
    if (name != NULL) {
        name->references = 1;
        name->length = (uint32_t)length;
        name->hash = kelpie__sim_name_hash(disk->hash_seed, text, length);
        memcpy(name->text, text, length);
    }
    return name;
}

void kelpie__sim_name_unref(struct sim_disk *disk, struct sim_name *name) {
    if (name != NULL) {
        KELPIE_ASSERT(name->references > 0);
        name->references -= 1;
        if (name->references == 0) {
            kelpie__sim_heap_free(disk->heap, name, sizeof(*name) + name->length + 1);
        }
    }
}

/* Hashes are even: where one lies among them tells nearly where its slot is. */
uint32_t kelpie__sim_table_at(const struct sim_table *table, uint64_t hash) {
    __extension__ typedef unsigned __int128 wide;
    const uint64_t most = ((uint64_t)1 << SIM_HASH_BITS) - 1;
    const uint64_t bounded = hash < most ? hash : most;
    uint32_t at = (uint32_t)((wide)bounded * table->count >> SIM_HASH_BITS);
    while (at < table->count && table->slots[at].hash < hash) {
        at += 1;
    }
    while (at > 0 && table->slots[at - 1].hash >= hash) {
        at -= 1;
    }
    return at;
}

struct sim_inode *kelpie__sim_table_get(const struct sim_table *table, uint64_t hash) {
    uint32_t at = kelpie__sim_table_at(table, hash);
    return at < table->count && table->slots[at].hash == hash ? table->slots[at].inode : NULL;
}

static bool table_grow(struct sim_disk *disk, struct sim_table *table) {
    uint32_t capacity = table->capacity == 0 ? TABLE_SLOTS_MIN : table->capacity * 2;
    struct sim_slot *slots = kelpie__sim_heap_alloc(disk->heap, capacity * sizeof(*slots));
    if (slots == NULL) {
        return false;
    }
    if (table->count > 0) {
        memcpy(slots, table->slots, table->count * sizeof(*slots));
    }
    kelpie__sim_heap_free(disk->heap, table->slots, table->capacity * sizeof(*slots));
    table->slots = slots;
    table->capacity = capacity;
    return true;
}

bool kelpie__sim_table_set(struct sim_disk *disk, struct sim_table *table, struct sim_name *name,
                           struct sim_inode *inode) {
    uint32_t at = kelpie__sim_table_at(table, name->hash);
    bool is_there = at < table->count && table->slots[at].hash == name->hash;
    if (!is_there && table->count == table->capacity && !table_grow(disk, table)) {
        return false;
    }
    name->references += 1;
    kelpie__sim_inode_ref(inode);
    if (is_there) {
        struct sim_slot old = table->slots[at];
        KELPIE_ASSERT(old.name->length == name->length &&
                      memcmp(old.name->text, name->text, name->length) == 0);
        table->slots[at] = (struct sim_slot){name->hash, name, inode};
        kelpie__sim_name_unref(disk, old.name);
        kelpie__sim_inode_unref(old.inode);
        return true;
    }
    memmove(&table->slots[at + 1], &table->slots[at],
            (table->count - at) * sizeof(table->slots[0]));
    table->slots[at] = (struct sim_slot){name->hash, name, inode};
    table->count += 1;
    return true;
}

void kelpie__sim_table_remove(struct sim_disk *disk, struct sim_table *table, uint64_t hash) {
    uint32_t at = kelpie__sim_table_at(table, hash);
    if (at == table->count || table->slots[at].hash != hash) {
        return;
    }
    struct sim_slot old = table->slots[at];
    table->count -= 1;
    memmove(&table->slots[at], &table->slots[at + 1],
            (table->count - at) * sizeof(table->slots[0]));
    kelpie__sim_name_unref(disk, old.name);
    kelpie__sim_inode_unref(old.inode);
}

void kelpie__sim_table_clear(struct sim_disk *disk, struct sim_table *table) {
    struct sim_table old = *table;
    *table = (struct sim_table){0};
    for (uint32_t i = 0; i < old.count; i += 1) {
        kelpie__sim_name_unref(disk, old.slots[i].name);
        kelpie__sim_inode_unref(old.slots[i].inode);
    }
    kelpie__sim_heap_free(disk->heap, old.slots, old.capacity * sizeof(old.slots[0]));
}

void kelpie__sim_table_copy(struct sim_disk *disk, struct sim_table *to,
                            const struct sim_table *from) {
    KELPIE_ASSERT(to != from);
    kelpie__sim_table_clear(disk, to);
    for (uint32_t i = 0; i < from->count; i += 1) {
        bool is_set = kelpie__sim_table_set(disk, to, from->slots[i].name, from->slots[i].inode);
        KELPIE_ASSERT(is_set); /* the host's heap is made for it */
    }
    KELPIE_ASSERT(to->count == from->count);
}
