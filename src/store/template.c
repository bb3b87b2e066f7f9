/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See template.h.
 */
#include "store/template.h"

#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "store/remove.h"

/* of the key, for what its parts do not say */
#define TEMPLATE_FORMAT 1u
/* in its directory: its time of modification is that of the last use */
#define TEMPLATE_USED_FILE "used"
#define TEMPLATE_USED_TEXT "its time is that of the last use\n"
/* A use is noted when the last note is older: a note costs a write. */
#define TEMPLATE_TOUCH_NS (3600 * KELPIE_NS_PER_S)
#define TEMPLATE_LIST_MAX 256u /* of a store that are looked at in one go */

struct kelpie_template_bounds kelpie__template_bounds_default(void) {
    return (struct kelpie_template_bounds){.age_ms = KELPIE_TEMPLATE_AGE_MS_MAX,
                                           .count = KELPIE_TEMPLATE_COUNT_MAX,
                                           .bytes = KELPIE_TEMPLATE_BYTES_MAX};
}

/* ---- keys ------------------------------------------------------------------------------------ */

void kelpie__template_key_begin(struct kelpie_hash *hash) {
    kelpie__hash_init(hash);
    kelpie__hash_text(hash, KELPIE_VERSION);
    kelpie__hash_u64(hash, TEMPLATE_FORMAT);
    kelpie__hash_u64(hash, KELPIE_MANIFEST_FORMAT);
    kelpie__hash_u64(hash, KELPIE_PROTOCOL_VERSION);
}

void kelpie__template_key_add_file(struct kelpie_os *os, struct kelpie_hash *hash, const char *path,
                                   bool is_named_by_content) {
    struct kelpie_os_stat stat = {0};
    bool is_there = kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat) == 0;
    kelpie__hash_text(hash, path);
    kelpie__hash_u64(hash, is_there ? 1 : 0);
    if (is_there) {
        kelpie__hash_u64(hash, stat.device);
        kelpie__hash_u64(hash, stat.inode);
        kelpie__hash_u64(hash, stat.size_bytes);
        kelpie__hash_u64(hash, is_named_by_content ? 0 : (uint64_t)stat.modified_ns);
    }
}

/* ---- one of them ----------------------------------------------------------------------------- */

/* When it was used last, or made. */
static int64_t template_used_ns(struct kelpie_os *os, int directory) {
    KELPIE_ASSERT(directory >= 0);
    struct kelpie_os_stat stat = {0};
    if (kelpie__os_stat(os, directory, TEMPLATE_USED_FILE, false, &stat) < 0) {
        kelpie__ignore(kelpie__os_stat(os, directory, KELPIE_MANIFEST_FILE, false, &stat));
    }
    return stat.modified_ns; /* 0: it has no manifest, and goes first */
}

void kelpie__template_touch(const struct kelpie_snapshot *snapshot) {
    struct kelpie_os *os = snapshot->store->os;
    kelpie__snapshot_check(snapshot);
    int64_t age_ns =
        kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) - template_used_ns(os, snapshot->directory);
    if (age_ns > TEMPLATE_TOUCH_NS || age_ns < 0) {
        /* When it cannot be noted it may go earlier, and is made again. */
        kelpie__ignore(kelpie__small_file_replace(os, snapshot->directory, TEMPLATE_USED_FILE,
                                                  TEMPLATE_USED_TEXT, strlen(TEMPLATE_USED_TEXT),
                                                  NULL));
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

struct template_entry {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    int64_t used_ns;
    uint64_t bytes;
};

struct template_list {
    uint32_t count;
    uint64_t bytes;
    struct template_entry entries[TEMPLATE_LIST_MAX]; /* what was used longest ago first */
};

static void list_insert(struct template_list *list, const struct template_entry *entry) {
    uint32_t place = list->count;
    KELPIE_ASSERT(list->count < TEMPLATE_LIST_MAX);
    while (place > 0 && list->entries[place - 1].used_ns > entry->used_ns) { /* bound: the list */
        list->entries[place] = list->entries[place - 1];
        place -= 1;
    }
    list->entries[place] = *entry;
    list->count += 1;
    KELPIE_ASSERT(place < list->count);
    list->bytes += entry->bytes;
}

static void list_read(struct template_list *list, const struct kelpie_snapshot_store *store) {
    KELPIE_ASSERT(list->count == 0);
    KELPIE_ASSERT(store->directory >= 0);
    struct kelpie_os *os = store->os;
    struct template_entry entry;
    uint64_t cursor = 0;
    while (list->count < TEMPLATE_LIST_MAX && /* and the directory */
           kelpie__snapshot_list(store, &cursor, entry.name, NULL) == 1) {
        int directory = kelpie__os_open(os, store->directory, entry.name,
                                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
        if (directory < 0) {
            continue; /* it is just going */
        }
        entry.used_ns = template_used_ns(os, directory);
        entry.bytes = kelpie__directory_bytes(os, directory);
        kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
        list_insert(list, &entry);
    }
}

/* The oldest first, so that the first one that may stay ends it. */
static void list_prune(const struct template_list *list, const struct kelpie_snapshot_store *store,
                       const struct kelpie_template_bounds *bounds, const char *keep, bool is_trial,
                       struct kelpie_leftovers *out) {
    int64_t now_ns = kelpie__os_now(store->os, KELPIE_OS_CLOCK_WALL);
    uint32_t count = list->count;
    uint64_t bytes = list->bytes;
    KELPIE_ASSERT(count <= TEMPLATE_LIST_MAX);
    for (uint32_t i = 0; i < list->count; i += 1) {
        const struct template_entry *entry = &list->entries[i];
        int64_t age_ms = (now_ns - entry->used_ns) / KELPIE_NS_PER_MS;
        bool is_old = bounds->age_ms == 0 || (age_ms > 0 && (uint64_t)age_ms > bounds->age_ms);
        if (!is_old && count <= bounds->count && bytes <= bounds->bytes) {
            return;
        }
        bool is_kept = keep != NULL && strcmp(entry->name, keep) == 0;
        if (is_kept || (!is_trial && kelpie__snapshot_remove(store, entry->name, NULL) < 0)) {
            continue; /* BUSY: in use */
        }
        KELPIE_ASSERT(count > 0 && bytes >= entry->bytes);
        count -= 1;
        bytes -= entry->bytes;
        out->count += 1;
        out->bytes += entry->bytes;
    }
}

void kelpie__template_prune(const struct kelpie_snapshot_store *store,
                            const struct kelpie_template_bounds *bounds, const char *keep,
                            bool is_trial, struct kelpie_leftovers *out) {
    struct template_list *list = kelpie__alloc(store->os, sizeof(*list));
    *out = (struct kelpie_leftovers){0};
    KELPIE_ASSERT(store->directory >= 0);
    if (list == NULL) {
        return; /* next time */
    }
    list_read(list, store);
    list_prune(list, store, bounds, keep, is_trial, out);
    kelpie__free(store->os, list, sizeof(*list));
}
