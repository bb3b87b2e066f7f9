/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See hash.h.
 */
#include "sim/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base.h"

#define HASH_WIDE_BYTES_MIN 1024u /* shorter ones gain nothing */

uint64_t kelpie__sim_hash(const void *bytes, size_t count) {
    KELPIE_ASSERT(bytes != NULL || count == 0);
#if defined(__x86_64__)
    if (count >= HASH_WIDE_BYTES_MIN && __builtin_cpu_supports("avx2")) {
        return kelpie__sim_hash_avx2(bytes, count);
    }
#endif
    return XXH3_64bits(bytes, count);
}
