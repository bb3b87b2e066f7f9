/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * core/checksum: the sums of files, streams and pages are XXH3's, whatever instructions made them.
 * Method: the same header, compiled here without them, for all short lengths and some long ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/checksum.h"
#include "core/checksum_wide.h"

#define BYTES (70u * 1024)
#define SHORT_BYTES 1500u

static uint8_t bytes[BYTES];

static void fill(void) {
    for (size_t i = 0; i < BYTES; i += 1) {
        bytes[i] = (uint8_t)(i * 2654435761u >> 11);
    }
}

static void same(size_t from, size_t count, uint64_t seed) {
    uint64_t wanted = XXH3_64bits_withSeed(bytes + from, count, seed);
    assert_int_equal(kelpie__checksum_seeded(bytes + from, count, seed), wanted);
    if (kelpie__checksum_has_wide()) {
        assert_int_equal(kelpie__checksum_wide(bytes + from, count, seed), wanted);
    }
    if (seed == 0) {
        assert_int_equal(kelpie__checksum_u64(bytes + from, count),
                         XXH3_64bits(bytes + from, count));
    }
}

static void test_all_ways_give_the_same(void **state) {
    (void)state;
    static const uint64_t seeds[] = {0, 1, 0x9e3779b97f4a7c15u};
    fill();
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i += 1) {
        for (size_t count = 0; count <= SHORT_BYTES; count += 1) {
            same(count % 7, count, seeds[i]);
        }
        same(0, 4096, seeds[i]);
        same(64, 4096, seeds[i]);
        same(3, 65536, seeds[i]);
        same(0, BYTES, seeds[i]);
    }
}

/* What is on disks: a value may never become another one. */
static void test_values_are_fixed(void **state) {
    (void)state;
    fill();
    assert_int_equal(kelpie__checksum_u64(bytes, 0), 0x2d06800538d394c2u);
    assert_int_equal(kelpie__checksum_u64(bytes, 4096), 0xecb1d08e49e516e4u);
    assert_int_equal(kelpie__checksum_u64(bytes, BYTES), 0x2ac8ac38c9fd2fe7u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_ways_give_the_same),
        cmocka_unit_test(test_values_are_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
