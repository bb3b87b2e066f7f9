/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Checksums for processors with AVX2. Of core/checksum.c, and of tests.
 */
#ifndef KELPIE_CORE_CHECKSUM_WIDE_H
#define KELPIE_CORE_CHECKSUM_WIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether this processor has them, and the compiler that was used. */
bool kelpie__checksum_has_wide(void);
/* What kelpie__checksum_seeded gives, and with seed 0 kelpie__checksum_u64. Only where there are
 * any. */
uint64_t kelpie__checksum_wide(const void *bytes, size_t count, uint64_t seed);

#endif
