/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Checksums against damage (not against malice): XXH3 of libxxhash, whose values are fixed by its
 * specification.
 */
#ifndef KELPIE_CORE_CHECKSUM_H
#define KELPIE_CORE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#define KELPIE_CHECKSUM_TEXT_BYTES 33u

uint64_t kelpie__checksum_u64(const void *bytes, size_t count);
/* Another function for each seed: who does not know it cannot make two contents with one sum. */
uint64_t kelpie__checksum_seeded(const void *bytes, size_t count, uint64_t seed);
/* 128 bits as 32 hexadecimal digits and a terminator. */
void kelpie__checksum_text(const void *bytes, size_t count, char out[KELPIE_CHECKSUM_TEXT_BYTES]);

#endif
