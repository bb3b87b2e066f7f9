/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the scenarios of the complete searches do what they are about when nothing goes wrong, do
 * the same twice, and what a search lists is where faults really fire. The searches themselves are
 * `kelpie-sim sweep`, `pairs` and `crash-states`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sim/search.h"

#define SEED 1u

static void begin(const char *name, struct sim_search *search) {
    const struct sim_scenario_options options = {
        .scenario = kelpie__sim_scenario_find(name), .seed = SEED, .is_calm = true};
    char reason[SIM_RUN_REASON_BYTES_MAX];
    assert_non_null(options.scenario);
    if (kelpie__sim_search_begin(search, &options, reason) != KELPIE_SIM_PASS) {
        fail_msg("%s: %s", name, reason);
    }
}

static void test_each_scenario_passes_without_faults(void **state) {
    kelpie__ignore(state != NULL);
    for (uint32_t i = 0; kelpie__sim_scenario(i) != NULL; i += 1) {
        struct sim_search search;
        struct sim_search again;
        begin(kelpie__sim_scenario(i)->name, &search);
        begin(kelpie__sim_scenario(i)->name, &again);
        assert_true(search.hash == again.hash);
        assert_true(search.case_count > 20);
        kelpie__sim_search_end(&search);
        kelpie__sim_search_end(&again);
    }
}

static void test_scenario_names_differ(void **state) {
    kelpie__ignore(state != NULL);
    assert_null(kelpie__sim_scenario_find("no-such-scenario"));
    for (uint32_t i = 0; kelpie__sim_scenario(i) != NULL; i += 1) {
        const struct sim_scenario *scenario = kelpie__sim_scenario(i);
        assert_ptr_equal(kelpie__sim_scenario_find(scenario->name), scenario);
        assert_true(scenario->what[0] != '\0');
    }
}

/* Each case of a kind, of one scenario; gives how many fired. */
static uint32_t run_all(const struct sim_search *search, enum sim_search_kind kind,
                        uint32_t *out_played) {
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    uint32_t fired = 0;
    uint32_t count = 0;
    *out_played = 0;
    for (uint32_t i = 0; i < search->case_count; i += 1) {
        char rule[SIM_SEARCH_RULE_BYTES_MAX];
        struct sim_scenario_result result;
        struct sim_scenario_options options = {
            .scenario = search->scenario, .seed = SEED, .plan = rule, .nursery = nursery};
        if (search->cases[i].kind != kind) {
            continue;
        }
        kelpie__sim_search_rule(search, &search->cases[i], rule);
        kelpie__sim_scenario_run(&options, &result);
        if (result.run.verdict != KELPIE_SIM_PASS) {
            fail_msg("%s with %s: %s", search->scenario->name, rule, result.run.reason);
        }
        fired += result.run.faults_fired > 0 ? 1 : 0;
        *out_played += result.is_played ? 1 : 0;
        count += 1;
        kelpie__sim_scenario_release(&result);
    }
    kelpie__sim_nursery_destroy(nursery);
    printf("%s: %s at %u calls, %u fired, %u came to their end\n", search->scenario->name,
           kelpie__sim_search_kind_name(kind), count, fired, *out_played);
    assert_true(count > 10 && fired > count * 4 / 5);
    return fired;
}

static void test_kills_of_inspect_and_create_are_survived(void **state) {
    static const char *const names[] = {"inspect", "create"};
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
        struct sim_search search;
        uint32_t played = 0;
        begin(names[i], &search);
        uint32_t fired = run_all(&search, SIM_SEARCH_KILL, &played);
        assert_true(played < fired); /* a client that is dead does not come to its end */
        kelpie__sim_search_end(&search);
    }
}

static void test_stops_of_health_are_sat_out(void **state) {
    struct sim_search search;
    uint32_t played = 0;
    kelpie__ignore(state != NULL);
    begin("health", &search);
    run_all(&search, SIM_SEARCH_STOP, &played);
    assert_true(played > 10);
    kelpie__sim_search_end(&search);
}

static void test_site_hides_numbers_and_ids(void **state) {
    char site[SIM_SEARCH_SITE_BYTES_MAX];
    struct sim_search_call call = {.op = SIM_OP_rename, .role = "monitor", .what = "a/disk-12.raw"};
    kelpie__ignore(state != NULL);
    kelpie__sim_search_site(&call, site);
    assert_string_equal(site, "monitor rename disk-#.raw");
    snprintf(call.what, sizeof(call.what), "x/.deleted-0123456789abcdef");
    kelpie__sim_search_site(&call, site);
    assert_string_equal(site, "monitor rename .deleted-*");
    call.what[0] = '\0';
    kelpie__sim_search_site(&call, site);
    assert_string_equal(site, "monitor rename");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_scenario_passes_without_faults),
        cmocka_unit_test(test_scenario_names_differ),
        cmocka_unit_test(test_kills_of_inspect_and_create_are_survived),
        cmocka_unit_test(test_stops_of_health_are_sat_out),
        cmocka_unit_test(test_site_hides_numbers_and_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
