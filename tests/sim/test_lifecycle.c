/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the whole product, unchanged, lives in the simulated world: library, monitor, kelpie-pack's
 * stand-in, the QEMU driver, a guest with the real agent, and back again until nothing is left.
 * Method: a client process makes the library's calls over its system; what it saw is looked at from
 * outside, together with what the world says itself.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/internal.h"
#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"

#define SECOND INT64_C(1000000000)
#define STACK_BYTES (512u * 1024u)

struct seen {
    struct kelpie_error error;
    const char *step; /* the first that failed */
    char output[256];
    int exit_code;
    bool was_graceful;
    bool is_done;
    enum kelpie_vm_state states[8];
    uint32_t state_count;
    int64_t started_ns;
    int64_t booted_ns;
    uint32_t rounds;
    int64_t idle_ns; /* after create, away from the library */
};

static const char *const environment[] = {"PATH=/usr/bin:/usr/sbin", "HOME=/root",
                                          "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};

static struct seen *seen_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

/* Notes the first step that fails; the rest is then passed over. */
static bool step(struct seen *seen, const char *name, int status) {
    if (status < 0 && seen->step == NULL) {
        seen->step = name;
    }
    return seen->step == NULL;
}

static void note_state(struct seen *seen, struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    if (kelpie_vm_inspect(vm, &info, &seen->error) == 0 &&
        seen->state_count < KELPIE_ARRAY_COUNT(seen->states)) {
        seen->states[seen->state_count] = info.state;
        seen->state_count += 1;
    }
}

static void run_echo(struct seen *seen, struct kelpie_vm *vm) {
    static const char *const argv[] = {"echo", "hello", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    if (step(seen, "exec", kelpie_vm_exec(vm, &command, &result, &seen->error))) {
        snprintf(seen->output, sizeof(seen->output), "%s", result.stdout_bytes);
        seen->exit_code = result.status.exit_code;
        kelpie_exec_result_release(&result);
    }
}

static void run_command(struct seen *seen, struct kelpie_vm *vm, const char *const *argv,
                        const char *output) {
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    if (seen->step == NULL &&
        step(seen, argv[0], kelpie_vm_exec(vm, &command, &result, &seen->error))) {
        snprintf(seen->output, sizeof(seen->output), "%s%s", result.stdout_bytes,
                 result.stderr_bytes);
        bool is_good = result.status.exit_code == 0 && strcmp(seen->output, output) == 0;
        step(seen, argv[argv[1] == NULL ? 0 : 1], is_good ? 0 : -1);
        kelpie_exec_result_release(&result);
    }
}

/* A VM with a directory as its root and a disk to write to, stopped and started again. */
static int rooted_main(struct kelpie_os *os, int argc, char **argv) {
    static const char *const look[] = {"cat", "/srv/hello", NULL};
    static const char *const write[] = {"sh", "-c", "echo kept > /srv/new", NULL};
    static const char *const again[] = {"cat", "/srv/new", NULL};
    struct seen *seen = seen_of(os);
    struct kelpie_error *error = &seen->error;
    struct kelpie *kelpie = NULL;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    step(seen, "open", kelpie__open_with_os(os, NULL, &kelpie, error));
    if (seen->step == NULL && step(seen, "config", kelpie_config_create(kelpie, &config, error))) {
        kelpie_config_set_root(config, "/srv/root");
        kelpie_config_set_disk_size_mib(config, 512);
        kelpie_config_set_template(config, false);
        step(seen, "create", kelpie_vm_create(kelpie, "rooted", config, &vm, error));
        kelpie_config_destroy(config);
    }
    for (int i = 0; i < 2 && seen->step == NULL; i += 1) {
        step(seen, "start", kelpie_vm_start(vm, 0, error));
        run_command(seen, vm, look, "from the host\n");
        run_command(seen, vm, i == 0 ? write : again, i == 0 ? "" : "kept\n");
        if (seen->step == NULL) {
            step(seen, "stop", kelpie_vm_stop(vm, 0, NULL, error));
        }
    }
    if (seen->step == NULL) {
        step(seen, "delete", kelpie_vm_delete(vm, false, error));
    }
    kelpie_vm_close(vm);
    if (kelpie != NULL) {
        kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    }
    seen->is_done = true;
    return seen->step == NULL ? 0 : 1;
}

static int client_main(struct kelpie_os *os, int argc, char **argv) {
    struct seen *seen = seen_of(os);
    struct kelpie *kelpie = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_stop_result stopped = {0};
    struct kelpie_error *error = &seen->error;
    kelpie__ignore(argc > 0 && argv != NULL);
    seen->exit_code = -1;
    step(seen, "open", kelpie__open_with_os(os, NULL, &kelpie, error));
    for (uint32_t i = 0; seen->step == NULL && i < seen->rounds; i += 1) {
        step(seen, "create", kelpie_vm_create(kelpie, "a", NULL, &vm, error));
        if (seen->idle_ns > 0) {
            kelpie__sim_process_sleep(kelpie__sim_process_of(os), seen->idle_ns);
        }
        seen->started_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
        if (seen->step == NULL) {
            note_state(seen, vm);
            step(seen, "start", kelpie_vm_start(vm, 0, error));
        }
        seen->booted_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
        if (seen->step == NULL) {
            note_state(seen, vm);
            run_echo(seen, vm);
        }
        if (seen->step == NULL && step(seen, "stop", kelpie_vm_stop(vm, 0, &stopped, error))) {
            seen->was_graceful = stopped.was_graceful;
            note_state(seen, vm);
        }
        if (seen->step == NULL) {
            step(seen, "delete", kelpie_vm_delete(vm, false, error));
        }
        kelpie_vm_close(vm);
        vm = NULL;
    }
    if (kelpie != NULL) {
        kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    }
    seen->is_done = true;
    return seen->step == NULL ? 0 : 1;
}

/* ---- the world ------------------------------------------------------------------------------- */

static struct sim_world *world_new(const struct sim_options *options, struct seen *seen) {
    char problem[256] = "";
    struct sim_world *world = kelpie__sim_world_create(options, problem);
    assert_string_equal(problem, "");
    assert_non_null(world);
    memset(seen, 0, sizeof(*seen));
    seen->rounds = 1;
    kelpie__sim_world_set_context(world, seen);
    return world;
}

static void start_main(struct sim_world *world, sim_main main) {
    static const char *const argv[] = {"client", NULL};
    const struct sim_start start = {.path = "/usr/bin/client",
                                    .role = "user",
                                    .main = main,
                                    .stack_bytes = STACK_BYTES,
                                    .argv = argv,
                                    .environment = environment};
    assert_non_null(kelpie__sim_process_start(kelpie__sim_world_host(world), &start));
}

static void start_client(struct sim_world *world) {
    start_main(world, client_main);
}

static void assert_good(const struct seen *seen) {
    if (seen->step != NULL) {
        print_message("%s failed: %s\n", seen->step, seen->error.message);
    }
    assert_null(seen->step);
    assert_true(seen->is_done);
    assert_string_equal(seen->output, "hello\n");
    assert_int_equal(seen->exit_code, 0);
    assert_true(seen->was_graceful);
}

/* Nothing of the VM is left: no process, no file, no guest. */
static void assert_empty(struct sim_world *world) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    char name[256];
    uint64_t cursor = 0;
    assert_int_equal(kelpie__sim_world_host(world)->process_count, 0);
    assert_null(kelpie__sim_world_guest(world, 0));
    assert_false(kelpie__sim_disk_walk(disk, SIM_STATE_DIRECTORY "/vms", &cursor, name));
    cursor = 0;
    assert_false(kelpie__sim_disk_walk(disk, "/run/kelpie/vms", &cursor, name));
}

static void run(struct sim_world *world) {
    enum sim_run_end end = kelpie__sim_world_run(world, NULL, NULL, 300 * SECOND);
    if (kelpie__sim_world_failure(world) != NULL) {
        print_message("the world says: %s\n", kelpie__sim_world_failure(world));
    }
    assert_null(kelpie__sim_world_failure(world));
    assert_int_equal(end, SIM_RUN_IDLE);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_create_start_exec_stop_delete(void **state) {
    static const enum kelpie_vm_state states[] = {KELPIE_VM_CREATED, KELPIE_VM_RUNNING,
                                                  KELPIE_VM_STOPPED};
    const struct sim_options options = {.seed = 1, .cost_factor = 1};
    struct seen seen;
    struct sim_world *world = world_new(&options, &seen);
    kelpie__ignore(state != NULL);
    start_client(world);
    run(world);
    assert_good(&seen);
    assert_int_equal(seen.state_count, 3);
    assert_memory_equal(seen.states, states, sizeof(states));
    int64_t boot_ns = seen.booted_ns - seen.started_ns;
    assert_true(boot_ns > SECOND / 2 && boot_ns < 20 * SECOND);
    assert_empty(world);
    kelpie__sim_world_destroy(world);
}

static uint64_t hash_of(uint64_t seed, enum sim_schedule schedule, uint32_t cost) {
    const struct sim_options options = {.seed = seed,
                                        .schedule = schedule,
                                        .cost_factor = cost,
                                        .preempt_billionth = 50000000,
                                        .partial_billionth = 200000000};
    struct seen seen;
    struct sim_world *world = world_new(&options, &seen);
    start_client(world);
    run(world);
    assert_good(&seen);
    assert_empty(world);
    uint64_t hash = kelpie__sim_world_hash(world);
    kelpie__sim_world_destroy(world);
    return hash;
}

static void test_any_seed_and_schedule(void **state) {
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 20; seed += 1) {
        kelpie__ignore((int64_t)hash_of(seed, (enum sim_schedule)(seed % 3), 1 + (uint32_t)seed));
    }
}

static void test_equal_seeds_are_equal(void **state) {
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 3; seed += 1) {
        uint64_t first = hash_of(seed, SIM_SCHEDULE_UNIFORM, 1);
        assert_true(first == hash_of(seed, SIM_SCHEDULE_UNIFORM, 1));
        assert_true(first != hash_of(seed + 1000, SIM_SCHEDULE_UNIFORM, 1));
    }
}

static void test_many_lives_in_one_world(void **state) {
    const struct sim_options options = {.seed = 3, .cost_factor = 1};
    struct seen seen;
    struct sim_world *world = world_new(&options, &seen);
    kelpie__ignore(state != NULL);
    seen.rounds = 20;
    start_client(world);
    run(world);
    assert_good(&seen);
    assert_empty(world);
    kelpie__sim_world_destroy(world);
}

static void test_root_directory_and_disk(void **state) {
    static const char *const files[][2] = {
        {"/srv/root/srv/hello", "from the host\n"},
        {"/srv/root/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"},
        {"/srv/root/etc/group", "root:x:0:\n"}};
    const struct sim_options options = {.seed = 11, .cost_factor = 1};
    struct seen seen;
    struct sim_world *world = world_new(&options, &seen);
    char name[256];
    uint64_t cursor = 0;
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(files); i += 1) {
        assert_int_equal(kelpie__sim_disk_put(kelpie__sim_world_disk(world), files[i][0], 0644,
                                              files[i][1], strlen(files[i][1])),
                         0);
    }
    start_main(world, rooted_main);
    run(world);
    if (seen.step != NULL) {
        print_message("%s failed: %s; output \"%s\"\n", seen.step, seen.error.message, seen.output);
    }
    assert_null(seen.step);
    assert_true(seen.is_done);
    assert_empty(world);
    assert_true(kelpie__sim_disk_walk(kelpie__sim_world_disk(world), SIM_CACHE_DIRECTORY "/roots",
                                      &cursor, name)); /* the image stays for the next one */
    kelpie__sim_world_destroy(world);
}

/* Its hello goes with its creation: nobody is lost who does something else for a while. */
static void test_owner_may_be_away_after_create(void **state) {
    const struct sim_options options = {.seed = 11, .cost_factor = 1};
    struct seen seen;
    kelpie__ignore(state != NULL);
    struct sim_world *world = world_new(&options, &seen);
    seen.idle_ns = 60 * SECOND;
    start_client(world);
    run(world);
    assert_good(&seen);
    assert_empty(world);
    kelpie__sim_world_destroy(world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_owner_may_be_away_after_create),
        cmocka_unit_test(test_create_start_exec_stop_delete),
        cmocka_unit_test(test_any_seed_and_schedule),
        cmocka_unit_test(test_equal_seeds_are_equal),
        cmocka_unit_test(test_many_lives_in_one_world),
        cmocka_unit_test(test_root_directory_and_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
