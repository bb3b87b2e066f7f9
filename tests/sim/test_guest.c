/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a simulated guest is a machine with the real agent in it: it boots, runs commands, obeys
 * signals and timeouts, is saved and loaded in the middle of anything. Method: the test owns the
 * guest and speaks to its agent (guest_client.h).
 */
#include "guest_client.h"

static void test_boot_says_ready(void **state) {
    struct sim_world *world = client_world(1);
    struct client *client = client_boot(client_os(world));
    struct sim_guest_truth truth;
    kelpie__ignore(state != NULL);
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_true(truth.has_agent && !truth.is_greeted);
    assert_int_equal(truth.process_count, 1);
    assert_true(truth.ticks > 200 && truth.ticks < 8000);
    assert_non_null(strstr(client->ready, truth.boot_id));
    assert_non_null(strstr(client->ready, "\"pid\":1"));
    client_greet(client, CLIENT_EPOCH);
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_true(truth.is_greeted);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_exec_echo(void **state) {
    struct sim_world *world = client_world(2);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {"echo", "hello", "world", NULL};
    kelpie__ignore(state != NULL);
    int channel = client_exec(client, argv, NULL);
    assert_string_equal(client_text(client, channel, 0), "hello world\n");
    assert_int_equal(client_exit_number(client, channel, "code"), 0);
    assert_true(client_exit_number(client, channel, "cpu_us") > 300);
    assert_true(client_exit_number(client, channel, "peak_memory_kib") > 100);
    struct sim_guest_truth truth;
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_int_equal(truth.command_starts, 1);
    assert_int_equal(truth.process_count, 1);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boot_says_ready),
        cmocka_unit_test(test_exec_echo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
