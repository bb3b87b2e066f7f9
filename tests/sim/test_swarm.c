/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Swarm configurations. Goal: a function of the seed; every plan can be read; each class is off in
 * half of the runs that are not calm; each knob has its range and is used. Method: 4,000 seeds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "fake_world.h"
#include "os/os_fault_plan.h"
#include "sim/fault.h"
#include "sim/swarm.h"

#define SEEDS 4000u

/* Which classes a plan's rules are of, by words that only they have. */
static const struct {
    const char *class;
    const char *words[3];
} classes[] = {
    {"kill", {"=> kill", NULL}},   {"stop", {"=> stop", "=> swizzle", NULL}},
    {"delay", {"=> delay", NULL}}, {"power", {"=> power-loss", NULL}},
    {"memory", {"memory ", NULL}}, {"qemu", {"qemu.start", NULL}},
    {"qmp", {"qmp.", NULL}},       {"guest", {"guest.boot", "guest.exec", NULL}},
    {"agent", {"agent.", NULL}},   {"pack", {"pack.", NULL}},
    {"clock", {"=> jump", NULL}},  {"ready", {"make_ready", "guest.ready", NULL}},
};

static void test_swarm_is_a_function_of_the_seed(void **state) {
    static struct sim_swarm first;
    static struct sim_swarm second;
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed += 1) {
        memset(&second, 0xA5, sizeof(second));
        kelpie__sim_swarm_draw(seed, &first);
        kelpie__sim_swarm_draw(seed, &second);
        assert_memory_equal(&first, &second, sizeof(first));
    }
    kelpie__sim_swarm_draw(1, &second);
    assert_string_not_equal(first.plan, second.plan);
}

static void test_every_plan_is_read(void **state) {
    static struct sim_swarm swarm;
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed += 1) {
        struct kelpie_fault_reader reader;
        struct kelpie_fault_rule rule;
        kelpie__sim_swarm_draw(seed, &swarm);
        assert_true(kelpie__fault_reader_open(&reader, swarm.plan));
        assert_true(reader.header.has_seed && reader.header.seed == seed);
        uint32_t count = 0;
        int status = 1;
        while (status == 1) {
            status = kelpie__fault_reader_next(&reader, &rule);
            /* In a calm run nothing fails; a wall clock that jumps is no failure. */
            bool is_harmless = status == 1 && strcmp(rule.point, "clock") == 0;
            count += status == 1 && !is_harmless ? 1 : 0;
        }
        if (status < 0) {
            fail_msg("seed %u: %s", (unsigned)seed, reader.problem);
        }
        assert_true(!swarm.is_calm || count == 0);
    }
}

static void test_classes_are_off_in_half(void **state) {
    static struct sim_swarm swarm;
    uint32_t on[KELPIE_ARRAY_COUNT(classes)] = {0};
    uint32_t calm = 0;
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed += 1) {
        kelpie__sim_swarm_draw(seed, &swarm);
        calm += swarm.is_calm ? 1 : 0;
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(classes); i += 1) {
            bool is_on = false;
            for (uint32_t j = 0; classes[i].words[j] != NULL; j += 1) {
                is_on = is_on || strstr(swarm.plan, classes[i].words[j]) != NULL;
            }
            on[i] += is_on ? 1 : 0;
        }
    }
    assert_true(calm > SEEDS / 13 && calm < SEEDS / 8);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(classes); i += 1) {
        if (on[i] < SEEDS * 2 / 5 || on[i] > SEEDS / 2) {
            fail_msg("%s is on in %u of %u", classes[i].class, on[i], SEEDS);
        }
    }
}

static void test_knobs_have_their_ranges(void **state) {
    static struct sim_swarm swarm;
    uint32_t weight_zero[SIM_MODEL_OP_COUNT] = {0};
    uint32_t schedules[3] = {0};
    uint32_t profiles[3] = {0};
    uint32_t damages[SIM_SWARM_DAMAGE_COUNT] = {0};
    uint32_t vm_most = 0;
    uint32_t vm_least = 99;
    uint32_t buffer_one = 0;
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed += 1) {
        kelpie__sim_swarm_draw(seed, &swarm);
        schedules[swarm.options.schedule] += 1;
        profiles[swarm.options.disk_profile] += 1;
        damages[swarm.damage] += 1;
        vm_most = swarm.vm_count > vm_most ? swarm.vm_count : vm_most;
        vm_least = swarm.vm_count < vm_least ? swarm.vm_count : vm_least;
        buffer_one += swarm.buffer_bytes == 1 ? 1 : 0;
        assert_in_range(swarm.client_count, 1, 5);
        assert_in_range(swarm.owner_count, 1, swarm.client_count);
        assert_in_range(swarm.operation_count, 20, 200);
        assert_in_range(swarm.timeout_tenths, 1, 100);
        assert_in_range(swarm.pool_size, 0, 5);
        assert_true(swarm.weights[SIM_MODEL_START] > 0 && swarm.weights[SIM_MODEL_EXEC] > 0);
        for (uint32_t op = 0; op < SIM_MODEL_OP_COUNT; op += 1) {
            weight_zero[op] += swarm.weights[op] == 0 ? 1 : 0;
            assert_true(swarm.weights[op] <= 100);
        }
        if (swarm.is_calm) {
            assert_true(swarm.damage == SIM_SWARM_DAMAGE_NONE && swarm.timeout_tenths == 10);
        }
    }
    assert_true(vm_least == 1 && vm_most == 20 && buffer_one > 10);
    for (uint32_t i = 0; i < 3; i += 1) {
        assert_true(schedules[i] > SEEDS / 5 && profiles[i] > SEEDS / 20);
    }
    for (uint32_t i = 0; i < SIM_SWARM_DAMAGE_COUNT; i += 1) {
        assert_true(damages[i] > SEEDS / 20);
    }
    assert_true(weight_zero[SIM_MODEL_PAUSE] > SEEDS / 4);
}

/* Rare ones and common ones are both met. */
static void test_chances_are_log_uniform(void **state) {
    static struct sim_swarm swarm;
    uint32_t octaves[32] = {0};
    uint32_t total = 0;
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed += 1) {
        struct kelpie_fault_reader reader;
        struct kelpie_fault_rule rule;
        kelpie__sim_swarm_draw(seed, &swarm);
        assert_true(kelpie__fault_reader_open(&reader, swarm.plan));
        while (kelpie__fault_reader_next(&reader, &rule) == 1) {
            if (strncmp(rule.point, "qmp.", 4) == 0) {
                assert_int_equal(rule.trigger, KELPIE_FAULT_PROBABILITY);
                octaves[30 - (63 - __builtin_clzll(rule.value))] += 1;
                total += 1;
            }
        }
    }
    assert_true(total > 1000);
    uint32_t used = 0;
    for (uint32_t i = 0; i < 32; i += 1) {
        used += octaves[i] > total / 30 ? 1 : 0;
    }
    assert_true(used >= 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swarm_is_a_function_of_the_seed),
        cmocka_unit_test(test_every_plan_is_read),
        cmocka_unit_test(test_classes_are_off_in_half),
        cmocka_unit_test(test_knobs_have_their_ranges),
        cmocka_unit_test(test_chances_are_log_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
