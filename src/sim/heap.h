/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Memory of the simulated world: a range of addresses reserved once and handed out in blocks. The
 * heap's own record stands at its beginning, so that a copy of [base, base + extent) is the whole
 * heap, and copying it back to the same address brings everything in it back: that is how a
 * simulated guest is saved. Blocks are zeroed. Sizes must be told when freeing, as in the seam's
 * `memory`.
 */
#ifndef KELPIE_SIM_HEAP_H
#define KELPIE_SIM_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct sim_heap;

#define SIM_HEAP_CLASS_COUNT 156u /* of sizes */
#define SIM_HEAP_FREE_BYTES 16u   /* at the beginning of a free block: the heap's own */

/* Reserves address space; NULL when the system refuses. Fixed addresses are not promised. */
void *kelpie__sim_heap_reserve(size_t capacity);
void kelpie__sim_heap_unreserve(void *base, size_t capacity);

/* An empty heap in [base, base + capacity), which is reserved, and fresh or of an earlier heap. Of
 * what lies behind the first `kept` bytes large free blocks have memory up to a limit only. */
struct sim_heap *kelpie__sim_heap_init(void *base, size_t capacity, size_t kept);
/* NULL when it is full. */
void *kelpie__sim_heap_alloc(struct sim_heap *heap, size_t bytes);
/* The same, with whatever the bytes were: for stacks and buffers that are written before they are
 * read. */
void *kelpie__sim_heap_alloc_raw(struct sim_heap *heap, size_t bytes);
/* Takes NULL. */
void kelpie__sim_heap_free(struct sim_heap *heap, void *block, size_t bytes);
/* What a block of so many bytes really has: it may be used for any size of the same block. */
size_t kelpie__sim_heap_block_bytes(size_t bytes);
/* Bytes from the base that were ever in use: what a copy has to hold. */
size_t kelpie__sim_heap_extent(const struct sim_heap *heap);
/* Bytes from the base that may be anything but zero, of this heap or an earlier one. */
size_t kelpie__sim_heap_used(const struct sim_heap *heap);
/* Nobody lives in it any more: all pages behind what is kept are given back, and are zero for the
 * next one. A range in which there never was a heap may be trimmed, too. */
void kelpie__sim_heap_trim(struct sim_heap *heap, size_t kept);
/* A heap's bytes were copied to its range, in which `used` bytes were used before. */
void kelpie__sim_heap_copied(struct sim_heap *heap, size_t used);
/* The free block of this class behind that one, NULL: the first; NULL: none. But for its first
 * SIM_HEAP_FREE_BYTES, nobody will ever read what is in it. */
const void *kelpie__sim_heap_free_next(const struct sim_heap *heap, size_t class, const void *block,
                                       size_t *out_bytes);
/* Nothing was ever freed: all blocks stand one behind another. */
bool kelpie__sim_heap_is_packed(const struct sim_heap *heap);
/* What was done to a heap since it had this extent, packed as it was then: to be done again, at
 * once, to a heap of the same base that is packed and as far. */
size_t kelpie__sim_heap_piece_bytes(const struct sim_heap *heap, size_t from);
void kelpie__sim_heap_piece_save(const struct sim_heap *heap, size_t from, void *out);
void kelpie__sim_heap_piece_load(struct sim_heap *heap, const void *bytes);
/* Bytes that are handed out now. */
size_t kelpie__sim_heap_live_bytes(const struct sim_heap *heap);

#endif
