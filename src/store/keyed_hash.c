/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See keyed_hash.h. After the paper "SipHash: a fast short-input PRF" (Aumasson, Bernstein) and its
 * 128-bit form; the test compares with the values that its authors published.
 */
#include "store/keyed_hash.h"

#include <string.h>

#define SIP_WORD_BYTES 8u
#define SIP_ROUNDS 2u
#define SIP_LAST_ROUNDS 4u

static uint64_t load_word(const uint8_t *bytes) {
    uint64_t word = 0;
    for (uint32_t i = 0; i < SIP_WORD_BYTES; i += 1) {
        word |= (uint64_t)bytes[i] << (8 * i);
    }
    return word;
}

static void store_word(uint8_t *bytes, uint64_t word) {
    for (uint32_t i = 0; i < SIP_WORD_BYTES; i += 1) {
        bytes[i] = (uint8_t)(word >> (8 * i));
    }
}

static uint64_t rotate(uint64_t word, uint32_t bits) {
    return word << bits | word >> (64 - bits);
}

static void sip_rounds(uint64_t lanes[4], uint32_t count) {
    KELPIE_ASSERT(count == SIP_ROUNDS || count == SIP_LAST_ROUNDS);
    for (uint32_t i = 0; i < count; i += 1) {
        lanes[0] += lanes[1];
        lanes[1] = rotate(lanes[1], 13) ^ lanes[0];
        lanes[0] = rotate(lanes[0], 32);
        lanes[2] += lanes[3];
        lanes[3] = rotate(lanes[3], 16) ^ lanes[2];
        lanes[0] += lanes[3];
        lanes[3] = rotate(lanes[3], 21) ^ lanes[0];
        lanes[2] += lanes[1];
        lanes[1] = rotate(lanes[1], 17) ^ lanes[2];
        lanes[2] = rotate(lanes[2], 32);
    }
}

static void sip_word(uint64_t lanes[4], uint64_t word) {
    lanes[3] ^= word;
    sip_rounds(lanes, SIP_ROUNDS);
    lanes[0] ^= word;
}

void kelpie__keyed_hash_init(struct kelpie_keyed_hash *hash,
                             const struct kelpie_keyed_hash_key *key) {
    static_assert(sizeof(key->bytes) == 2 * SIP_WORD_BYTES, "a key of 128 bits");
    uint64_t low = load_word(key->bytes);
    uint64_t high = load_word(key->bytes + SIP_WORD_BYTES);
    *hash = (struct kelpie_keyed_hash){.lanes = {
                                           UINT64_C(0x736f6d6570736575) ^ low,
                                           UINT64_C(0x646f72616e646f6d) ^ high ^ 0xee,
                                           UINT64_C(0x6c7967656e657261) ^ low,
                                           UINT64_C(0x7465646279746573) ^ high,
                                       }};
}

void kelpie__keyed_hash_add(struct kelpie_keyed_hash *hash, const void *bytes, size_t count) {
    const uint8_t *next = bytes;
    size_t have = hash->count % SIP_WORD_BYTES;
    KELPIE_ASSERT(have < sizeof(hash->rest));
    hash->count += count;
    if (have > 0) {
        size_t part = (size_t)kelpie__min_u64(SIP_WORD_BYTES - have, count);
        memcpy(hash->rest + have, next, part);
        next += part;
        count -= part;
        if (have + part < SIP_WORD_BYTES) {
            return;
        }
        sip_word(hash->lanes, load_word(hash->rest));
    }
    while (count >= SIP_WORD_BYTES) { /* bound: the bytes */
        sip_word(hash->lanes, load_word(next));
        next += SIP_WORD_BYTES;
        count -= SIP_WORD_BYTES;
    }
    KELPIE_ASSERT(count == hash->count % SIP_WORD_BYTES);
    memcpy(hash->rest, next, count);
}

void kelpie__keyed_hash_finish(struct kelpie_keyed_hash *hash,
                               uint8_t out[KELPIE_KEYED_HASH_BYTES]) {
    uint64_t *lanes = hash->lanes;
    size_t have = hash->count % SIP_WORD_BYTES;
    static_assert(KELPIE_KEYED_HASH_BYTES == 2 * SIP_WORD_BYTES, "a hash of 128 bits");
    KELPIE_ASSERT(have < sizeof(hash->rest));
    memset(hash->rest + have, 0, SIP_WORD_BYTES - have);
    sip_word(lanes, load_word(hash->rest) | hash->count << 56);
    lanes[2] ^= 0xee;
    sip_rounds(lanes, SIP_LAST_ROUNDS);
    store_word(out, lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3]);
    lanes[1] ^= 0xdd;
    sip_rounds(lanes, SIP_LAST_ROUNDS);
    store_word(out + SIP_WORD_BYTES, lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3]);
}

bool kelpie__keyed_hash_equal(const uint8_t a[KELPIE_KEYED_HASH_BYTES],
                              const uint8_t b[KELPIE_KEYED_HASH_BYTES]) {
    uint8_t difference = 0;
    for (uint32_t i = 0; i < KELPIE_KEYED_HASH_BYTES; i += 1) {
        difference |= (uint8_t)(a[i] ^ b[i]);
    }
    return difference == 0;
}
