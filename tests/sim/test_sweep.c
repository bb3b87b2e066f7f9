/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: whatever single call of whatever process of the product fails or is its last, the client's
 * calls end in time, nothing asserts, and no process is left once the client has gone. Method: the
 * life of one VM, run again for each call of each role with a fault at that call; complete, not
 * sampled.
 */
#include "small_world.h"

#include <kelpie.h>

#include "lib/internal.h"

#define CLIENT_STACK_BYTES (1024u * 1024u)
#define CALLS_MAX 5000u
#define CLIENT_SECONDS_MAX 300 /* boot times out after 60 s, and may be tried again without KVM */

/* What the client has to remember: notes first. */
struct life {
    struct notes notes;
    bool has_ended;
    bool has_succeeded;
    const char *role;
    uint64_t calls; /* of the process of that role that made most */
};

static int client_live(struct life *life, struct kelpie *host, struct kelpie_error *error) {
    static const char *const argv[] = {"echo", "hello", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    if (kelpie_config_create(host, &config, error) < 0) {
        return 1;
    }
    int status = kelpie_vm_create(host, NULL, config, &vm, error);
    kelpie_config_destroy(config);
    if (status < 0 || kelpie_vm_start(vm, 0, error) < 0) {
        return 1;
    }
    if (kelpie_vm_exec(vm, &command, &result, error) < 0) {
        return 1;
    }
    /* a stream may be cut short, which is told; it never lies */
    if (!result.is_stdout_truncated) {
        assert_string_equal(result.stdout_bytes, "hello\n");
    }
    kelpie_exec_result_release(&result);
    if (kelpie_vm_kill(vm, error) < 0 || kelpie_vm_delete(vm, 0, error) < 0) {
        return 1;
    }
    life->has_succeeded = true;
    return 0;
}

static int client_main(struct kelpie_os *os, int argc, char **argv) {
    struct life *life = (struct life *)(void *)notes_of(os);
    struct kelpie_open_options options = {.struct_size = sizeof(options)};
    struct kelpie_error error = {0};
    struct kelpie *host = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    if (kelpie__open_with_os(os, &options, &host, &error) < 0) {
        return 1;
    }
    int code = client_live(life, host, &error);
    kelpie__ignore(kelpie__close_keeping_os(host) != NULL);
    return code;
}

static void observe_client(void *context, struct sim_world *world, const struct sim_event *event) {
    struct life *life = context;
    kelpie__ignore(world != NULL);
    if (event->type == SIM_EVENT_PROCESS_ENDED && strcmp(event->process->role, "client") == 0) {
        life->has_ended = true;
    }
    if (event->type == SIM_EVENT_PROCESS_ENDED && strcmp(event->process->role, life->role) == 0) {
        uint64_t calls = event->process->call_count;
        life->calls = calls > life->calls ? calls : life->calls;
    }
}

static bool client_has_ended(void *context) {
    return ((struct life *)context)->has_ended;
}

/* Its outcome is in *out. */
static void live_with(struct sim_nursery *nursery, const char *plan, const char *role,
                      struct life *out) {
    static const char *const environment[] = {"PATH=/usr/bin:/bin", "HOME=/root",
                                              "KELPIE_LIBEXEC=/usr/libexec/kelpie", NULL};
    const struct sim_options options = {
        .seed = 7, .cost_factor = 1, .has_kvm = true, .nursery = nursery, .plan = plan};
    const struct sim_start start = {.path = "/usr/bin/client",
                                    .role = "client",
                                    .main = client_main,
                                    .environment = environment,
                                    .stack_bytes = CLIENT_STACK_BYTES};
    char problem[256];
    struct sim_world *world = kelpie__sim_world_create(&options, problem);
    assert_non_null(world);
    *out = (struct life){.role = role};
    kelpie__sim_world_set_context(world, out);
    kelpie__sim_world_observe(world, observe_client, out);
    struct sim_machine *host = kelpie__sim_world_host(world);
    assert_non_null(kelpie__sim_process_start(host, &start));
    enum sim_run_end end =
        kelpie__sim_world_run(world, client_has_ended, out, (CLIENT_SECONDS_MAX + 1) * SECOND);
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
    struct life life;
    char plan[128];
    unsigned survived = 0;
    unsigned nth = 0;
    assert_non_null(nursery);
    do { /* bound: CALLS_MAX */
        nth += 1;
        snprintf(plan, sizeof(plan), "* role=%s nth=%u => %s", role, nth, action);
        live_with(nursery, plan, role, &life);
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
