/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: whatever single call of whatever process of the product fails or is its last, the client's
 * calls end in time, nothing asserts, and no process is left once the client has gone. Method: the
 * life of one VM, run again for each call of each role with a fault at that call; complete, not
 * sampled.
 */
#include "life.h"

#define CALLS_MAX 5000u

static void live_with(struct sim_nursery *nursery, const char *plan, struct life *life) {
    const struct sim_options options = {
        .seed = 7, .cost_factor = 1, .has_kvm = true, .nursery = nursery, .plan = plan};
    struct sim_world *world = life_world(&options, life);
    const struct sim_machine *host = kelpie__sim_world_host(world);
    enum sim_run_end end =
        kelpie__sim_world_run(world, client_has_ended, life, (CLIENT_SECONDS_MAX + 1) * SECOND);
    if (end != SIM_RUN_DONE) {
        print_error("plan \"%s\": the client's calls do not end (%d)\n", plan, end);
    }
    assert_int_equal(end, SIM_RUN_DONE);
    end = kelpie__sim_world_run(world, NULL, NULL, (2 * CLIENT_SECONDS_MAX) * SECOND);
    if (end != SIM_RUN_IDLE || host->process_count > 0) {
        print_error("plan \"%s\": %u processes are left (%d)\n", plan, host->process_count, end);
    }
    assert_int_equal(end, SIM_RUN_IDLE);
    assert_int_equal(host->process_count, 0);
    kelpie__sim_world_destroy(world);
}

/* One fault at each call of a role. */
static void sweep(const char *role, const char *action) {
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    struct life life = {.role = role};
    char plan[128];
    unsigned survived = 0;
    unsigned nth = 0;
    assert_non_null(nursery);
    do { /* bound: CALLS_MAX */
        nth += 1;
        snprintf(plan, sizeof(plan), "* role=%s nth=%u => %s", role, nth, action);
        live_with(nursery, plan, &life);
        survived += life.has_succeeded ? 1 : 0;
    } while (nth <= life.calls && nth < CALLS_MAX);
    printf("%s at each of %u calls of %s: %u lives went on\n", action, nth - 1, role, survived - 1);
    assert_true(nth > 20 && nth < CALLS_MAX);
    assert_true(life.has_succeeded); /* the last one had no fault */
    kelpie__sim_nursery_destroy(nursery);
}

static void test_kill_at_each_call_of_the_client(void **state) {
    kelpie__ignore(state != NULL);
    sweep("client", "kill");
}

static void test_kill_at_each_call_of_the_monitor(void **state) {
    kelpie__ignore(state != NULL);
    sweep("monitor", "kill");
}

static void test_kill_at_each_call_of_qemu(void **state) {
    kelpie__ignore(state != NULL);
    sweep("qemu", "kill");
}

static void test_kill_at_each_call_of_pack(void **state) {
    kelpie__ignore(state != NULL);
    sweep("pack", "kill");
}

static void test_failure_of_each_call_of_the_client(void **state) {
    kelpie__ignore(state != NULL);
    sweep("client", "EIO");
}

static void test_failure_of_each_call_of_the_monitor(void **state) {
    kelpie__ignore(state != NULL);
    sweep("monitor", "EIO");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill_at_each_call_of_the_client),
        cmocka_unit_test(test_kill_at_each_call_of_the_monitor),
        cmocka_unit_test(test_kill_at_each_call_of_qemu),
        cmocka_unit_test(test_kill_at_each_call_of_pack),
        cmocka_unit_test(test_failure_of_each_call_of_the_client),
        cmocka_unit_test(test_failure_of_each_call_of_the_monitor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
