/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Templates: snapshots of guests that were booted and never used, in `templates` of the state
 * directory, each under the key of everything that went into it. They are a cache: one that is in
 * doubt is dropped, one that is missing is made again, and nothing of them is synced to disk.
 */
#ifndef KELPIE_STORE_TEMPLATE_H
#define KELPIE_STORE_TEMPLATE_H

#include "core/hash.h"
#include "store/remove.h"
#include "store/snapshot.h"

#define KELPIE_TEMPLATES_DIRECTORY "templates"

/* A template's name. */
struct kelpie_template_key {
    char text[KELPIE_HASH_CHARACTERS + 1]; /* "": none */
};

/* What may stay. */
struct kelpie_template_bounds {
    uint64_t age_ms; /* since it was used last; 0: none stays */
    uint32_t count;
    uint64_t bytes; /* on the disk */
};

/* What stays by itself: KELPIE_TEMPLATE_AGE_MS_MAX and its neighbours. */
struct kelpie_template_bounds kelpie__template_bounds_default(void);

/* Begins a key: of this version of Kelpie. */
void kelpie__template_key_begin(struct kelpie_hash *hash);
/* Adds what tells one state of a file from another; one that is missing has an identity, too.
 * `is_named_by_content`: its time says nothing, for the cache moves that with each use. */
void kelpie__template_key_add_file(struct kelpie_os *os, struct kelpie_hash *hash, const char *path,
                                   bool is_named_by_content);

/* It is being used. */
void kelpie__template_touch(const struct kelpie_snapshot *snapshot);
/* Removes those that have not been used for longest until the bounds are kept; one that is in use
 * stays, and so does `keep` (may be NULL). `is_trial`: only says what would go. */
void kelpie__template_prune(const struct kelpie_snapshot_store *store,
                            const struct kelpie_template_bounds *bounds, const char *keep,
                            bool is_trial, struct kelpie_leftovers *out);

#endif
