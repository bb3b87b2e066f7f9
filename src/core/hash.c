/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See hash.h. FNV-1a as its authors define it: xor a byte, multiply by the prime 2^88 + 0x13b.
 */
#include "core/hash.h"

#include <string.h>

#include "core/text.h"

void kelpie__hash_init(struct kelpie_hash *hash) {
    hash->high = UINT64_C(0x6c62272e07bb0142);
    hash->low = UINT64_C(0x62b821756295c58d);
}

static void hash_byte(struct kelpie_hash *hash, uint8_t byte) {
    __extension__ typedef unsigned __int128 uint128;
    const uint128 prime = (uint128)UINT64_C(0x1000000) << 64 | UINT64_C(0x13b);
    uint128 value = (uint128)hash->high << 64 | hash->low;
    value = (value ^ byte) * prime;
    hash->high = (uint64_t)(value >> 64);
    hash->low = (uint64_t)value;
}

void kelpie__hash_bytes(struct kelpie_hash *hash, const void *bytes, size_t count) {
    const uint8_t *from = bytes;
    KELPIE_ASSERT(count == 0 || bytes != NULL);
    KELPIE_ASSERT((hash->high | hash->low) != 0);
    for (size_t i = 0; i < count; i += 1) {
        hash_byte(hash, from[i]);
    }
}

void kelpie__hash_text(struct kelpie_hash *hash, const char *text) {
    kelpie__hash_bytes(hash, text, strlen(text) + 1);
}

void kelpie__hash_u64(struct kelpie_hash *hash, uint64_t value) {
    for (unsigned shift = 0; shift < 64; shift += 8) {
        hash_byte(hash, (uint8_t)(value >> shift));
    }
}

void kelpie__hash_hex(const struct kelpie_hash *hash, char out[KELPIE_HASH_CHARACTERS + 1]) {
    uint8_t bytes[16];
    for (unsigned i = 0; i < 8; i += 1) {
        bytes[i] = (uint8_t)(hash->high >> (56 - 8 * i));
        bytes[8 + i] = (uint8_t)(hash->low >> (56 - 8 * i));
    }
    kelpie__text_hex(out, KELPIE_HASH_CHARACTERS + 1, bytes, sizeof(bytes));
}
