/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See hash.h. All that the header of XXH3 defines is compiled for AVX2 here; nothing else may be.
 */
#include "sim/hash.h"

#if defined(__x86_64__)

#include <assert.h>
#include <immintrin.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* XXH_AVX2, which the header defines */
#include <xxhash.h>

uint64_t kelpie__sim_hash_avx2(const void *bytes, size_t count) {
    static_assert(XXH_VECTOR == XXH_AVX2, "as the header counts them");
    return XXH3_64bits(bytes, count);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
