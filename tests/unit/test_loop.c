/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The event loop over a system of memory with virtual time. Goal: order of timers, time read once a
 * step, stale events dropped, one place that waits. Method: small scenes, and seeded random arming
 * against a sorted model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/limits.h"
#include "core/loop.h"
#include "fake_os.h"
#include "os/os_call.h"

#define TIMER_COUNT 64u

struct scene;

struct entry {
    struct scene *scene;
    struct kelpie_timer timer;
    uint32_t number;
    uint64_t armed_order;
    int handle;
    uint32_t slot;
    uint32_t events;
};

struct scene {
    struct fake_os *fake;
    struct kelpie_loop *loop;
    struct entry entries[TIMER_COUNT];
    uint32_t fired[4 * TIMER_COUNT];
    uint32_t fired_count;
    uint64_t order;
    bool rearms;
    int unwatches; /* the entry that the next event of another unwatches; -1: none */
    bool watches_again;
};

static struct scene *scene_create(uint64_t seed) {
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    scene->fake = fake_create(seed);
    scene->unwatches = -1;
    assert_int_equal(kelpie__loop_create(&scene->fake->os, 4, &scene->loop, NULL), 0);
    for (uint32_t i = 0; i < TIMER_COUNT; i += 1) {
        scene->entries[i].scene = scene;
        scene->entries[i].number = i;
    }
    return scene;
}

static void scene_destroy(struct scene *scene) {
    for (uint32_t i = 0; i < TIMER_COUNT; i += 1) {
        kelpie__timer_disarm(scene->loop, &scene->entries[i].timer);
    }
    kelpie__loop_destroy(scene->loop);
    fake_destroy(scene->fake);
    free(scene);
}

static void on_timer(void *context) {
    struct entry *entry = context;
    struct scene *scene = entry->scene;
    assert_false(kelpie__timer_is_armed(&entry->timer));
    assert_true(scene->loop->now_ns == scene->fake->now_ns);
    if (scene->fired_count < KELPIE_ARRAY_COUNT(scene->fired)) {
        scene->fired[scene->fired_count] = entry->number;
    }
    scene->fired_count += 1;
    if (scene->rearms) {
        kelpie__timer_arm(scene->loop, &entry->timer, scene->loop->now_ns, on_timer, entry);
    }
}

static void arm(struct scene *scene, uint32_t number, int64_t deadline_ns) {
    struct entry *entry = &scene->entries[number];
    kelpie__timer_arm(scene->loop, &entry->timer, deadline_ns, on_timer, entry);
    scene->order += 1;
    entry->armed_order = scene->order;
}

static void test_equal_deadlines_fire_in_arming_order(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    const uint32_t armed[] = {3, 0, 2, 1};
    for (size_t i = 0; i < 4; i += 1) {
        arm(scene, armed[i], 5000);
    }
    arm(scene, 9, 4000);
    arm(scene, 3, 5000); /* armed anew: now the last */
    assert_int_equal(kelpie__loop_next_deadline(scene->loop), 4000);
    assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
    assert_int_equal(scene->fired_count, 1);
    assert_int_equal(scene->fired[0], 9);
    assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
    const uint32_t expected[] = {0, 2, 1, 3};
    assert_int_equal(scene->fired_count, 5);
    assert_memory_equal(scene->fired + 1, expected, sizeof(expected));
    assert_int_equal(kelpie__loop_next_deadline(scene->loop), -1);
    scene_destroy(scene);
}

/* One deadline, then arming order; never early; each once. */
static void check_order(const struct scene *scene, const int64_t *deadlines) {
    for (uint32_t i = 1; i < scene->fired_count; i += 1) {
        uint32_t before = scene->fired[i - 1];
        uint32_t after = scene->fired[i];
        bool is_ordered = deadlines[before] < deadlines[after] ||
                          (deadlines[before] == deadlines[after] &&
                           scene->entries[before].armed_order < scene->entries[after].armed_order);
        assert_true(is_ordered);
    }
}

static void test_random_timers_fire_in_order(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed += 1) {
        struct scene *scene = scene_create(0);
        uint64_t random = seed;
        int64_t deadlines[TIMER_COUNT];
        uint32_t armed_count = 0;
        for (uint32_t i = 0; i < 2 * TIMER_COUNT; i += 1) {
            uint32_t number = (uint32_t)(fake_random(&random) % TIMER_COUNT);
            deadlines[number] = 2000 + (int64_t)(fake_random(&random) % 16);
            arm(scene, number, deadlines[number]);
            if (fake_random(&random) % 4 == 0) {
                kelpie__timer_disarm(scene->loop, &scene->entries[number].timer);
            }
        }
        for (uint32_t i = 0; i < TIMER_COUNT; i += 1) {
            armed_count += kelpie__timer_is_armed(&scene->entries[i].timer) ? 1 : 0;
        }
        while (kelpie__loop_next_deadline(scene->loop) >= 0) {
            assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
        }
        assert_int_equal(scene->fired_count, armed_count);
        check_order(scene, deadlines);
        scene_destroy(scene);
    }
}

static void test_timer_armed_for_now_waits_for_the_next_step(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    scene->rearms = true;
    arm(scene, 0, 0);
    for (uint32_t i = 1; i <= 10; i += 1) {
        assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
        assert_int_equal(scene->fired_count, i);
    }
    scene_destroy(scene);
}

static void on_timer_disarms_the_other(void *context) {
    struct entry *entry = context;
    kelpie__timer_disarm(entry->scene->loop, &entry->scene->entries[1 - entry->number].timer);
    on_timer(context);
}

static void test_due_timer_may_be_disarmed_by_the_one_before(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    for (uint32_t i = 0; i < 2; i += 1) {
        kelpie__timer_arm(scene->loop, &scene->entries[i].timer, 2000, on_timer_disarms_the_other,
                          &scene->entries[i]);
    }
    assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
    assert_int_equal(scene->fired_count, 1);
    assert_int_equal(kelpie__loop_next_deadline(scene->loop), -1);
    scene_destroy(scene);
}

static void test_step_waits_for_the_earlier_of_timer_and_deadline(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    arm(scene, 0, 9000);
    assert_int_equal(kelpie__loop_step(scene->loop, 5000, NULL), 0);
    assert_int_equal(scene->fake->now_ns, 5000);
    assert_int_equal(scene->fired_count, 0);
    assert_int_equal(kelpie__loop_step(scene->loop, 20000, NULL), 0);
    assert_int_equal(scene->fake->now_ns, 9000);
    assert_int_equal(scene->fired_count, 1);
    struct kelpie_error error = {0};
    assert_int_equal(kelpie__loop_step(scene->loop, -1, &error), KELPIE_E_IO);
    assert_int_equal(error.os_error, EDEADLK);
    scene_destroy(scene);
}

static void test_deadline_saturates(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    assert_int_equal(kelpie__loop_deadline(scene->loop, UINT64_MAX), -1);
    assert_true(kelpie__loop_deadline(scene->loop, UINT64_MAX - 1) == INT64_MAX);
    assert_true(kelpie__loop_deadline(scene->loop, 2) == 1000 + 2 * KELPIE_NS_PER_MS);
    scene->fake->now_ns = INT64_MAX - 10;
    assert_true(kelpie__loop_deadline(scene->loop, 1) == INT64_MAX);
    scene_destroy(scene);
}

/* ---- handles --------------------------------------------------------------------------------- */

static void on_event(void *context, uint32_t bits) {
    struct entry *entry = context;
    struct scene *scene = entry->scene;
    assert_true(bits != 0);
    entry->events += 1;
    if (scene->unwatches >= 0 && (uint32_t)scene->unwatches != entry->number) {
        struct entry *other = &scene->entries[scene->unwatches];
        kelpie__loop_unwatch(scene->loop, other->slot);
        scene->unwatches = -1;
        if (scene->watches_again) { /* takes the same slot: the old event must not reach it */
            assert_int_equal(kelpie__loop_watch(scene->loop, other->handle, KELPIE_OS_READABLE,
                                                on_event, &scene->entries[5], &other->slot),
                             0);
        }
    }
}

static void watch(struct scene *scene, uint32_t number, int handle, uint32_t bits) {
    struct entry *entry = &scene->entries[number];
    entry->handle = handle;
    assert_int_equal(kelpie__loop_watch(scene->loop, handle, bits, on_event, entry, &entry->slot),
                     0);
}

static void test_stale_events_are_dropped(void **state) {
    (void)state;
    for (int variant = 0; variant < 2; variant += 1) {
        struct scene *scene = scene_create(0);
        int pair[2];
        assert_int_equal(kelpie__os_pair(&scene->fake->os, pair), 0);
        watch(scene, 0, pair[0], KELPIE_OS_WRITABLE);
        watch(scene, 1, pair[1], KELPIE_OS_WRITABLE);
        scene->unwatches = 1;
        scene->watches_again = variant == 1;
        assert_int_equal(kelpie__loop_step(scene->loop, scene->fake->now_ns, NULL), 0);
        assert_int_equal(scene->entries[0].events, 1);
        assert_int_equal(scene->entries[1].events, 0);
        assert_int_equal(scene->entries[5].events, 0);
        kelpie__loop_unwatch(scene->loop, scene->entries[0].slot);
        if (variant == 1) {
            kelpie__loop_unwatch(scene->loop, scene->entries[1].slot);
        }
        kelpie__ignore(kelpie__os_close(&scene->fake->os, pair[0]));
        kelpie__ignore(kelpie__os_close(&scene->fake->os, pair[1]));
        scene_destroy(scene);
    }
}

static void test_bits_zero_tells_nothing_and_hangup_is_told(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    int pair[2];
    assert_int_equal(kelpie__os_pair(&scene->fake->os, pair), 0);
    watch(scene, 0, pair[0], KELPIE_OS_READABLE);
    kelpie__loop_watch_change(scene->loop, scene->entries[0].slot, 0);
    kelpie__ignore(kelpie__os_close(&scene->fake->os, pair[1]));
    assert_int_equal(kelpie__loop_step(scene->loop, 2000, NULL), 0);
    assert_int_equal(scene->entries[0].events, 0);
    kelpie__loop_watch_change(scene->loop, scene->entries[0].slot, KELPIE_OS_WRITABLE);
    assert_int_equal(kelpie__loop_step(scene->loop, 2000, NULL), 0);
    assert_int_equal(scene->entries[0].events, 1);
    kelpie__loop_unwatch(scene->loop, scene->entries[0].slot);
    kelpie__ignore(kelpie__os_close(&scene->fake->os, pair[0]));
    scene_destroy(scene);
}

static void test_slots_are_bounded_and_used_again(void **state) {
    (void)state;
    struct scene *scene = scene_create(0);
    int pairs[3][2];
    uint32_t slot = 0;
    for (size_t i = 0; i < 3; i += 1) {
        assert_int_equal(kelpie__os_pair(&scene->fake->os, pairs[i]), 0);
    }
    for (int round = 0; round < 3; round += 1) {
        for (uint32_t i = 0; i < 4; i += 1) {
            watch(scene, i, pairs[i / 2][i % 2], KELPIE_OS_READABLE);
        }
        assert_int_equal(kelpie__loop_watch(scene->loop, pairs[2][0], KELPIE_OS_READABLE, on_event,
                                            scene, &slot),
                         KELPIE_E_LIMIT);
        for (uint32_t i = 0; i < 4; i += 1) {
            kelpie__loop_unwatch(scene->loop, scene->entries[i].slot);
        }
    }
    for (size_t i = 0; i < 6; i += 1) {
        kelpie__ignore(kelpie__os_close(&scene->fake->os, pairs[i / 2][i % 2]));
    }
    scene_destroy(scene);
}

static void test_create_without_memory_leaves_nothing(void **state) {
    (void)state;
    for (uint64_t failing = 1; failing <= 2; failing += 1) {
        struct fake_os *fake = fake_create(0);
        struct kelpie_loop *loop = NULL;
        struct kelpie_error error = {0};
        fake->failing_allocation = failing;
        assert_int_equal(kelpie__loop_create(&fake->os, 4, &loop, &error), KELPIE_E_MEMORY);
        assert_null(loop);
        fake_destroy(fake);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_deadlines_fire_in_arming_order),
        cmocka_unit_test(test_random_timers_fire_in_order),
        cmocka_unit_test(test_timer_armed_for_now_waits_for_the_next_step),
        cmocka_unit_test(test_due_timer_may_be_disarmed_by_the_one_before),
        cmocka_unit_test(test_step_waits_for_the_earlier_of_timer_and_deadline),
        cmocka_unit_test(test_deadline_saturates),
        cmocka_unit_test(test_stale_events_are_dropped),
        cmocka_unit_test(test_bits_zero_tells_nothing_and_hangup_is_told),
        cmocka_unit_test(test_slots_are_bounded_and_used_again),
        cmocka_unit_test(test_create_without_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
