/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * XXH3 of the bytes that calls move, by the widest registers that the machine has: the value is the
 * same by all of them.
 */
#ifndef KELPIE_SIM_HASH_H
#define KELPIE_SIM_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t kelpie__sim_hash(const void *bytes, size_t count);
/* hash_avx2.c; only on a machine that has AVX2. */
uint64_t kelpie__sim_hash_avx2(const void *bytes, size_t count);

#endif
