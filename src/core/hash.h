/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * FNV-1a with 128 bits, for cache keys: against accidents, not against malice.
 */
#ifndef KELPIE_CORE_HASH_H
#define KELPIE_CORE_HASH_H

#include "core/base.h"

struct kelpie_hash {
    uint64_t high;
    uint64_t low;
};

#define KELPIE_HASH_CHARACTERS 32u

void kelpie__hash_init(struct kelpie_hash *hash);
void kelpie__hash_bytes(struct kelpie_hash *hash, const void *bytes, size_t count);
/* A text with its terminating zero, so that "a" "bc" and "ab" "c" differ. */
void kelpie__hash_text(struct kelpie_hash *hash, const char *text);
void kelpie__hash_u64(struct kelpie_hash *hash, uint64_t value);
void kelpie__hash_hex(const struct kelpie_hash *hash, char out[KELPIE_HASH_CHARACTERS + 1]);

#endif
