/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What every file of Kelpie may use: assertions, compiler attributes, checked arithmetic, clean-up
 * of locals. Knows nothing of the system; the only thing it can do to the outside is to abort on
 * our own bug.
 */
#ifndef KELPIE_CORE_BASE_H
#define KELPIE_CORE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KELPIE_PRINTF(format_index, first_index)                                                   \
    __attribute__((format(printf, format_index, first_index)))
#define KELPIE_NORETURN __attribute__((noreturn))
#ifndef KELPIE_MUST_CHECK
#define KELPIE_MUST_CHECK __attribute__((warn_unused_result))
#endif
#define KELPIE_CLEANUP(function) __attribute__((cleanup(function)))
#define KELPIE_ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KELPIE_CONTAINER_OF(pointer, type, member)                                                 \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* An assertion states what only a bug of ours can break. It stays on in release builds. Whatever an
 * embedder, a guest, a file or the system can cause is an error instead (style.md, 6). */
#define KELPIE_ASSERT(condition)                                                                   \
    ((condition) ? (void)0 : kelpie__assert_failed(#condition, __FILE__, __LINE__, __func__))

KELPIE_NORETURN void kelpie__assert_failed(const char *expression, const char *file, int line,
                                           const char *function);

/* For a result that is ignored on purpose; the reason stands beside the call. */
static inline void kelpie__ignore(int64_t result) {
    (void)result;
}

/* Sums and products of sizes that come, even partly, from outside. False means overflow; *out is
 * then untouched. */
KELPIE_MUST_CHECK static inline bool kelpie__add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

KELPIE_MUST_CHECK static inline bool kelpie__mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* A visible narrowing of a value that is known to fit. */
static inline uint32_t kelpie__to_u32(uint64_t value) {
    KELPIE_ASSERT(value <= UINT32_MAX);
    return (uint32_t)value;
}

static inline uint64_t kelpie__min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t kelpie__max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

#endif
