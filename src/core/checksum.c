/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See checksum.h. The header-only form: nothing is linked.
 */
#include "core/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base.h"
#include "core/checksum_wide.h"
#include "core/text.h"

#define CHECKSUM_WIDE_BYTES_MIN 1024u /* below it there is nothing to win */

uint64_t kelpie__checksum_u64(const void *bytes, size_t count) {
    return kelpie__checksum_seeded(bytes, count, 0); /* as XXH3 has it */
}

uint64_t kelpie__checksum_seeded(const void *bytes, size_t count, uint64_t seed) {
    KELPIE_ASSERT(bytes != NULL);
    if (count >= CHECKSUM_WIDE_BYTES_MIN && kelpie__checksum_has_wide()) {
        return kelpie__checksum_wide(bytes, count, seed);
    }
    return XXH3_64bits_withSeed(bytes, count, seed);
}

void kelpie__checksum_text(const void *bytes, size_t count, char out[KELPIE_CHECKSUM_TEXT_BYTES]) {
    KELPIE_ASSERT(bytes != NULL);
    XXH128_hash_t sum = XXH3_128bits(bytes, count);
    XXH128_canonical_t digits; /* the highest byte first */
    static_assert(KELPIE_CHECKSUM_TEXT_BYTES == 2 * sizeof(digits) + 1, "two for each byte");
    XXH128_canonicalFromHash(&digits, sum);
    kelpie__text_hex(out, KELPIE_CHECKSUM_TEXT_BYTES, &digits, sizeof(digits));
}
