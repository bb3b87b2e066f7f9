/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * SipHash-2-4 with 128 bits: a hash that only who has the key can compute. It is what says of a
 * stream that it was written by this state directory; against damage there are the checksums.
 */
#ifndef KELPIE_STORE_KEYED_HASH_H
#define KELPIE_STORE_KEYED_HASH_H

#include "core/base.h"

#define KELPIE_KEYED_HASH_BYTES 16u

struct kelpie_keyed_hash_key {
    uint8_t bytes[KELPIE_KEYED_HASH_BYTES];
};

struct kelpie_keyed_hash {
    uint64_t lanes[4];
    uint64_t count;
    uint8_t rest[8]; /* of them count % 8: what no whole word was made of yet */
};

void kelpie__keyed_hash_init(struct kelpie_keyed_hash *hash,
                             const struct kelpie_keyed_hash_key *key);
void kelpie__keyed_hash_add(struct kelpie_keyed_hash *hash, const void *bytes, size_t count);
void kelpie__keyed_hash_finish(struct kelpie_keyed_hash *hash,
                               uint8_t out[KELPIE_KEYED_HASH_BYTES]);
/* In a time that does not depend on where they differ. */
KELPIE_MUST_CHECK bool kelpie__keyed_hash_equal(const uint8_t a[KELPIE_KEYED_HASH_BYTES],
                                                const uint8_t b[KELPIE_KEYED_HASH_BYTES]);

#endif
