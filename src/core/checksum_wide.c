/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The long checksums again, in instructions of 256 bits: what is summed while a guest stands still
 * takes a third of the time. The values are the same; which of the two is taken is decided where
 * they are called. Of gcc alone: clang has no way to say it for what a header defines.
 */
#include "core/checksum_wide.h"

#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC target("avx2")
#define XXH_VECTOR XXH_AVX2
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base.h"

uint64_t kelpie__checksum_wide(const void *bytes, size_t count, uint64_t seed) {
    KELPIE_ASSERT(bytes != NULL);
    return XXH3_64bits_withSeed(bytes, count, seed);
}

bool kelpie__checksum_has_wide(void) {
#if defined(__x86_64__) && !defined(__clang__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return false;
#endif
}
