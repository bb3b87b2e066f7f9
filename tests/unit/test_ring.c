/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The byte ring. Goal: what is sent is what was written, from any offset that is kept. Method:
 * seeded random operations against a model that remembers everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/ring.h"
#include "core/ring_pool.h"
#include "fake_os.h"

#define CAPACITY 61u

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset * 7 + (offset >> 8));
}

static void check_unsent(struct kelpie_ring *ring, uint64_t *state) {
    const void *view = NULL;
    size_t count = kelpie__ring_send_view(ring, &view);
    assert_true(count > 0 || kelpie__ring_unsent(ring) == 0);
    for (size_t i = 0; i < count; i += 1) {
        assert_int_equal(((const uint8_t *)view)[i], byte_at(ring->sent + i));
    }
    kelpie__ring_mark_sent(ring, count == 0 ? 0 : fake_random(state) % (count + 1));
}

static void write_some(struct kelpie_ring *ring, uint64_t *state) {
    uint8_t bytes[2 * CAPACITY];
    size_t count = fake_random(state) % sizeof(bytes);
    size_t space = kelpie__ring_space(ring);
    uint64_t written = ring->written;
    for (size_t i = 0; i < count; i += 1) {
        bytes[i] = byte_at(ring->written + i);
    }
    size_t taken = kelpie__ring_write(ring, bytes, count);
    assert_int_equal(taken, count < space ? count : space);
    assert_true(ring->written == written + taken);
}

static void test_random_operations_keep_every_byte(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    for (uint64_t seed = 1; seed <= 50; seed += 1) {
        uint64_t state = seed;
        struct kelpie_ring ring;
        assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
        for (int i = 0; i < 2000; i += 1) {
            uint64_t kept = ring.sent - ring.acknowledged;
            switch (fake_random(&state) % 8) {
            case 0:
            case 1:
            case 2:
                write_some(&ring, &state);
                break;
            case 3:
            case 4:
                check_unsent(&ring, &state);
                break;
            case 5:
            case 6:
                assert_true(kelpie__ring_acknowledge(&ring, ring.acknowledged +
                                                                fake_random(&state) % (kept + 1)));
                break;
            default:
                assert_true(kelpie__ring_rewind(&ring, fake_random(&state) % (ring.written + 1)));
                break;
            }
        }
        kelpie__ring_deinit(&ring);
    }
    fake_destroy(fake);
}

static void test_false_offsets_change_nothing(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    struct kelpie_ring ring;
    assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
    assert_int_equal(kelpie__ring_write(&ring, "0123456789", 10), 10);
    kelpie__ring_mark_sent(&ring, 6);
    assert_true(kelpie__ring_acknowledge(&ring, 4));
    const struct kelpie_ring before = ring;
    assert_false(kelpie__ring_acknowledge(&ring, 3));
    assert_false(kelpie__ring_acknowledge(&ring, 7));
    assert_false(kelpie__ring_acknowledge(&ring, UINT64_MAX));
    assert_false(kelpie__ring_rewind(&ring, 11));
    assert_memory_equal(&before, &ring, sizeof(ring));
    assert_true(kelpie__ring_rewind(&ring, 0));
    assert_int_equal(ring.sent, 4); /* the oldest that is kept */
    kelpie__ring_deinit(&ring);
    fake_destroy(fake);
}

static void test_cut_drop_and_begin(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    struct kelpie_ring ring = {0};
    kelpie__ring_deinit(&ring); /* a zeroed one is allowed */
    assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
    assert_int_equal(kelpie__ring_write(&ring, "0123456789", 10), 10);
    kelpie__ring_mark_sent(&ring, 6);
    kelpie__ring_cut(&ring);
    assert_int_equal(ring.written, 6);
    assert_int_equal(kelpie__ring_space(&ring), CAPACITY);
    assert_int_equal(kelpie__ring_write(&ring, "abc", 3), 3);
    kelpie__ring_drop(&ring);
    assert_int_equal(ring.acknowledged, 9);
    kelpie__ring_begin(&ring, UINT64_C(1) << 40);
    assert_int_equal(kelpie__ring_write(&ring, "abc", 3), 3);
    assert_int_equal(ring.written, (UINT64_C(1) << 40) + 3);
    kelpie__ring_reset(&ring);
    assert_int_equal(ring.written, 0);
    kelpie__ring_deinit(&ring);
    fake_destroy(fake);
}

/* What was written and where it stands are the same; it takes nothing more, until it is renewed. */
static void test_shrunk_ring_holds_what_it_held(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    uint8_t bytes[CAPACITY];
    for (size_t held = 0; held <= CAPACITY; held += 1) {
        struct kelpie_ring ring;
        uint64_t state = held + 1;
        assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
        kelpie__ring_begin(&ring, 40);
        for (int i = 0; i < 20; i += 1) { /* somewhere in the middle, around its end at times */
            write_some(&ring, &state);
            kelpie__ring_mark_sent(&ring, kelpie__ring_unsent(&ring));
            assert_true(kelpie__ring_acknowledge(&ring, ring.sent));
        }
        for (size_t i = 0; i < held; i += 1) {
            bytes[i] = byte_at(ring.written + i);
        }
        assert_int_equal(kelpie__ring_write(&ring, bytes, held), held);
        uint64_t written = ring.written;
        kelpie__ring_shrink(&ring);
        assert_int_equal(ring.capacity, held);
        assert_int_equal(kelpie__ring_space(&ring), 0);
        assert_int_equal(kelpie__ring_write(&ring, bytes, 1), 0);
        assert_true(ring.written == written && kelpie__ring_unsent(&ring) == held);
        for (size_t i = 0; i < 3 * CAPACITY; i += 1) {
            check_unsent(&ring, &state);
        }
        kelpie__ring_mark_sent(&ring, kelpie__ring_unsent(&ring));
        assert_true(kelpie__ring_acknowledge(&ring, written - held / 2));
        kelpie__ring_shrink(&ring);
        assert_int_equal(ring.capacity, held / 2);
        assert_true(kelpie__ring_acknowledge(&ring, written));
        assert_int_equal(kelpie__ring_renew(&ring, CAPACITY, NULL), 0);
        assert_true(ring.written == written);
        assert_int_equal(kelpie__ring_space(&ring), CAPACITY);
        kelpie__ring_deinit(&ring);
    }
    fake_destroy(fake);
}

/* What is kept, where it is sent from and what was written are the same, in more room. */
static void test_grown_ring_goes_on_where_it_was(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    for (size_t held = 0; held <= CAPACITY; held += 1) {
        struct kelpie_ring ring;
        uint64_t state = held + 1;
        uint8_t bytes[CAPACITY];
        assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
        for (int i = 0; i < 20; i += 1) { /* somewhere in the middle, around its end at times */
            write_some(&ring, &state);
            kelpie__ring_mark_sent(&ring, kelpie__ring_unsent(&ring));
            assert_true(kelpie__ring_acknowledge(&ring, ring.sent));
        }
        for (size_t i = 0; i < held; i += 1) {
            bytes[i] = byte_at(ring.written + i);
        }
        assert_int_equal(kelpie__ring_write(&ring, bytes, held), held);
        uint64_t acknowledged = ring.acknowledged;
        kelpie__ring_mark_sent(&ring, held < 2 ? 0 : 1);
        const struct kelpie_ring before = ring;
        fake->failing_allocation = fake->allocation_count + 1;
        assert_int_equal(kelpie__ring_grow(&ring, 2 * CAPACITY, NULL), KELPIE_E_MEMORY);
        assert_memory_equal(&ring, &before, sizeof(ring));
        assert_int_equal(kelpie__ring_grow(&ring, 2 * CAPACITY, NULL), 0);
        assert_true(ring.sent == before.sent && ring.written == before.written);
        assert_int_equal(kelpie__ring_space(&ring), 2 * CAPACITY - held);
        assert_true(kelpie__ring_rewind(&ring, acknowledged)); /* what was sent is there, too */
        assert_int_equal(kelpie__ring_unsent(&ring), held);
        for (size_t i = 0; i < 4 * CAPACITY; i += 1) {
            write_some(&ring, &state);
            check_unsent(&ring, &state);
        }
        kelpie__ring_deinit(&ring);
    }
    fake_destroy(fake);
}

static void test_shrinking_without_memory_changes_nothing(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    struct kelpie_ring ring;
    assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, NULL), 0);
    assert_int_equal(kelpie__ring_write(&ring, "abc", 3), 3);
    fake->failing_allocation = fake->allocation_count + 1;
    kelpie__ring_shrink(&ring);
    assert_int_equal(ring.capacity, CAPACITY);
    assert_int_equal(kelpie__ring_unsent(&ring), 3);
    kelpie__ring_deinit(&ring);
    struct kelpie_ring_pool pool;
    kelpie__ring_pool_init(&pool, &fake->os);
    kelpie__ring_init_empty(&ring, &pool);
    fake->failing_allocation = fake->allocation_count + 1;
    assert_int_equal(kelpie__ring_renew(&ring, CAPACITY, NULL), KELPIE_E_MEMORY);
    assert_int_equal(kelpie__ring_space(&ring), 0);
    kelpie__ring_deinit(&ring);
    fake_destroy(fake);
}

/* What one ring gives back is the next one's; what has no place in the pool is freed. */
static void test_pooled_rings_share_their_memory(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    struct kelpie_ring_pool pool;
    struct kelpie_ring rings[3];
    kelpie__ring_pool_init(&pool, &fake->os);
    kelpie__ring_pool_keep(&pool, CAPACITY, 2);
    for (uint32_t round = 0; round < 5; round += 1) {
        uint64_t before = fake->allocation_count;
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rings); i += 1) {
            assert_int_equal(kelpie__ring_init_pooled(&rings[i], &pool, CAPACITY, NULL), 0);
            assert_int_equal(kelpie__ring_write(&rings[i], "abc", 3), 3);
        }
        assert_int_equal(fake->allocation_count - before, round == 0 ? 3 : 1);
        assert_int_equal(kelpie__ring_grow(&rings[0], 2 * CAPACITY, NULL), 0);
        assert_int_equal(fake->allocation_count - before, round == 0 ? 4 : 2);
        assert_int_equal(kelpie__ring_unsent(&rings[0]), 3);
        kelpie__ring_begin(&rings[1], 7);
        kelpie__ring_shrink(&rings[1]);
        assert_int_equal(kelpie__ring_space(&rings[1]), 0);
        assert_int_equal(kelpie__ring_renew(&rings[1], CAPACITY, NULL), 0);
        assert_int_equal(fake->allocation_count - before, round == 0 ? 4 : 2);
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rings); i += 1) {
            kelpie__ring_deinit(&rings[i]);
        }
    }
    kelpie__ring_pool_deinit(&pool);
    fake_destroy(fake);
}

static void test_init_without_memory_is_an_error(void **unused) {
    (void)unused;
    struct fake_os *fake = fake_create(0);
    struct kelpie_error error = {0};
    struct kelpie_ring ring;
    fake->failing_allocation = 1;
    assert_int_equal(kelpie__ring_init(&ring, &fake->os, CAPACITY, &error), KELPIE_E_MEMORY);
    assert_int_equal(error.code, KELPIE_E_MEMORY);
    fake_destroy(fake);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_keep_every_byte),
        cmocka_unit_test(test_false_offsets_change_nothing),
        cmocka_unit_test(test_cut_drop_and_begin),
        cmocka_unit_test(test_shrunk_ring_holds_what_it_held),
        cmocka_unit_test(test_grown_ring_goes_on_where_it_was),
        cmocka_unit_test(test_shrinking_without_memory_changes_nothing),
        cmocka_unit_test(test_pooled_rings_share_their_memory),
        cmocka_unit_test(test_init_without_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
