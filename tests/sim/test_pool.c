/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: pools, whatever single process dies at whatever call: a member goes to one claimer and is
 * never used twice, calls end in time, and when the pool is removed no process, VM, pool or note is
 * left. Method: the life of one pool, with its keeper, its claims and its end, run again for each
 * call of each role with a death at that call, complete, not sampled; then claimers at once in many
 * schedules. A second client comes afterwards, removes what is there, and looks.
 */
#include "life.h"

#include "lib/pool.h"
#include "sim/fault.h"

#define LIFE_SECONDS_MAX 900
#define CALLS_MAX 12000u
#define IDS_MAX 64u
#define CLAIMERS 3u
#define PAIRS 600u
/* about as many as the sweeps find */
#define PAIR_CALLS_KEEPER 540u
#define PAIR_CALLS_OTHER 400u

struct pool_life {
    struct notes notes;
    const char *role;
    uint64_t calls;     /* of the process of that role that made most */
    uint32_t running;   /* clients that have not ended */
    uint32_t succeeded; /* clients whose every call was done */
    bool is_clean;      /* the one that comes last found nothing but what it removed */
    uint32_t id_count;
    char ids[IDS_MAX][33];
    struct kelpie_error error;
};

static struct pool_life *life_of(struct kelpie_os *os) {
    return (struct pool_life *)(void *)notes_of(os);
}

/* Nobody has had it before. */
static void note_id(struct pool_life *life, const char *id) {
    for (uint32_t i = 0; i < life->id_count; i += 1) {
        assert_string_not_equal(life->ids[i], id);
    }
    assert_true(life->id_count < IDS_MAX);
    memcpy(life->ids[life->id_count], id, sizeof(life->ids[0]));
    life->id_count += 1;
}

static int pool_make(struct kelpie *kelpie, struct kelpie_pool **out, struct kelpie_error *error) {
    const struct kelpie_pool_options options = {
        .struct_size = sizeof(options), .size = 2, .lifetime = KELPIE_LIFETIME_DETACHED};
    struct kelpie_config *config = NULL;
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_template(config, false);
        status = kelpie_pool_create(kelpie, "p", config, &options, out, error);
    }
    kelpie_config_destroy(config);
    return status;
}

/* The guest is a fresh one: a member that somebody has used has the file. */
static int pool_use(struct pool_life *life, struct kelpie_pool *pool, uint64_t wait_ms,
                    struct kelpie_error *error) {
    static const char *const argv[] = {"sh", "-c", "cat /tmp/used; echo used >/tmp/used; echo new",
                                       NULL};
    const struct kelpie_claim_options options = {.struct_size = sizeof(options),
                                                 .wait_ms = wait_ms};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_vm *vm = NULL;
    int status = kelpie_pool_claim(pool, &options, &vm, error);
    if (status < 0) {
        return status;
    }
    note_id(life, kelpie_vm_id(vm));
    status = kelpie_vm_exec(vm, &command, &result, error);
    if (status == 0 && !result.is_stdout_truncated) {
        assert_string_equal(result.stdout_bytes, "new\n");
    }
    if (status == 0) {
        kelpie_exec_result_release(&result);
    }
    kelpie_vm_close(vm);
    return status;
}

static int pool_live(struct pool_life *life, struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_pool *pool = NULL;
    int status = pool_make(kelpie, &pool, error);
    if (status < 0) {
        return status;
    }
    status = pool_use(life, pool, 0, error);
    if (status == 0) {
        status = pool_use(life, pool, 60000, error);
    }
    if (status == 0) {
        status = kelpie_pool_remove(pool, error);
    }
    kelpie_pool_close(pool);
    return status;
}

static int owner_main(struct kelpie_os *os, int argc, char **argv) {
    struct pool_life *life = life_of(os);
    struct kelpie *kelpie = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    int status = kelpie__open_with_os(os, NULL, &kelpie, &life->error);
    if (status == 0) {
        status = pool_live(life, kelpie, &life->error);
        kelpie__ignore(kelpie__close_keeping_os(kelpie) != NULL);
    }
    life->succeeded += status == 0 ? 1 : 0;
    return status == 0 ? 0 : 1;
}

/* Claims from a pool that is there. */
static int claimer_main(struct kelpie_os *os, int argc, char **argv) {
    struct pool_life *life = life_of(os);
    struct kelpie *kelpie = NULL;
    struct kelpie_pool *pool = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    int status = kelpie__open_with_os(os, NULL, &kelpie, &life->error);
    if (status == 0) {
        status = kelpie_pool_open(kelpie, "p", &pool, &life->error);
        for (uint32_t i = 0; i < 3 && status == 0; i += 1) {
            status = pool_use(life, pool, 60000, &life->error);
        }
        kelpie_pool_close(pool);
        kelpie__ignore(kelpie__close_keeping_os(kelpie) != NULL);
    }
    life->succeeded += status == 0 ? 1 : 0;
    return 0;
}

/* Makes a pool and leaves it. */
static int maker_main(struct kelpie_os *os, int argc, char **argv) {
    struct pool_life *life = life_of(os);
    struct kelpie *kelpie = NULL;
    struct kelpie_pool *pool = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__open_with_os(os, NULL, &kelpie, &life->error), 0);
    assert_int_equal(pool_make(kelpie, &pool, &life->error), 0);
    kelpie_pool_close(pool);
    kelpie__ignore(kelpie__close_keeping_os(kelpie) != NULL);
    return 0;
}

/* ---- whoever comes last ---------------------------------------------------------------------- */

static bool last_look(struct kelpie *kelpie) {
    struct kelpie_pool_store store;
    struct kelpie_vm_info *vms = NULL;
    struct kelpie_error error = {0};
    size_t vm_count = 0;
    uint64_t cursor = 0;
    char name[256];
    if (kelpie_list(kelpie, &vms, &vm_count, &error) < 0 ||
        kelpie__pool_store_open(&store, kelpie->os, kelpie->places.state_path, &error) < 0) {
        return false;
    }
    kelpie_list_free(kelpie, vms, vm_count);
    int found = kelpie__os_list(store.os, store.directory, &cursor, name, sizeof(name));
    kelpie__pool_store_close(&store);
    return vm_count == 0 && found == 0;
}

static int last_main(struct kelpie_os *os, int argc, char **argv) {
    struct pool_life *life = life_of(os);
    struct kelpie *kelpie = NULL;
    struct kelpie_error error = {0};
    kelpie__ignore(argc > 0 && argv != NULL);
    if (kelpie__open_with_os(os, NULL, &kelpie, &error) < 0) {
        return 1;
    }
    for (uint32_t i = 0; i < 300 && !life->is_clean; i += 1) {
        struct kelpie_pool *pool = NULL;
        if (kelpie_pool_open(kelpie, "p", &pool, &error) == 0) {
            kelpie__ignore(kelpie_pool_remove(pool, &error));
            kelpie_pool_close(pool);
        }
        kelpie__pools_prune(kelpie);
        life->is_clean = last_look(kelpie);
        kelpie__ignore(kelpie_wait(kelpie, 100, &error));
    }
    kelpie__ignore(kelpie__close_keeping_os(kelpie) != NULL);
    return 0;
}

/* ---- worlds ---------------------------------------------------------------------------------- */

static void observe(void *context, struct sim_world *world, const struct sim_event *event) {
    struct pool_life *life = context;
    kelpie__ignore(world != NULL);
    if (event->type != SIM_EVENT_PROCESS_ENDED) {
        return;
    }
    const char *role = event->process->role;
    life->running -= strcmp(role, "client") == 0 || strcmp(role, "last") == 0 ? 1 : 0;
    if (life->role != NULL && strcmp(role, life->role) == 0) {
        uint64_t calls = event->process->call_count;
        life->calls = calls > life->calls ? calls : life->calls;
    }
}

static bool all_have_ended(void *context) {
    return ((struct pool_life *)context)->running == 0;
}

static void begin(struct sim_world *world, struct pool_life *life, const char *role,
                  sim_main main) {
    static const char *const environment[] = {"PATH=/usr/bin:/bin", "HOME=/root",
                                              "KELPIE_LIBEXEC=/usr/libexec/kelpie", NULL};
    const struct sim_start start = {.path = "/usr/bin/client",
                                    .role = role,
                                    .main = main,
                                    .environment = environment,
                                    .stack_bytes = CLIENT_STACK_BYTES};
    life->running += 1;
    assert_non_null(kelpie__sim_process_start(kelpie__sim_world_host(world), &start));
}

static void run_all(struct sim_world *world, struct pool_life *life, const char *what) {
    int64_t deadline_ns = kelpie__sim_now(world) + LIFE_SECONDS_MAX * SECOND;
    enum sim_run_end end = kelpie__sim_world_run(world, all_have_ended, life, deadline_ns);
    if (end != SIM_RUN_DONE) {
        print_error("%s: the client's calls do not end (%d)\n", what, end);
    }
    assert_int_equal(end, SIM_RUN_DONE);
}

static struct sim_world *world_open(const struct sim_options *options, struct pool_life *life) {
    char problem[256];
    const char *role = life->role;
    struct sim_world *world = kelpie__sim_world_create(options, problem);
    assert_non_null(world);
    *life = (struct pool_life){.role = role};
    kelpie__sim_world_set_context(world, life);
    kelpie__sim_world_observe(world, observe, life);
    return world;
}

/* Nothing is left once the last one has looked, and removed what was there. */
static void world_close(struct sim_world *world, struct pool_life *life, const char *what) {
    const struct sim_machine *host = kelpie__sim_world_host(world);
    begin(world, life, "last", last_main);
    run_all(world, life, what);
    int64_t deadline_ns = kelpie__sim_now(world) + LIFE_SECONDS_MAX * SECOND;
    enum sim_run_end end = kelpie__sim_world_run(world, NULL, NULL, deadline_ns);
    if (end != SIM_RUN_IDLE || host->process_count > 0 || !life->is_clean) {
        print_error("%s: %u processes are left (%d), clean: %d\n", what, host->process_count, end,
                    life->is_clean);
    }
    assert_int_equal(end, SIM_RUN_IDLE);
    assert_int_equal(host->process_count, 0);
    assert_true(life->is_clean);
    kelpie__sim_world_destroy(world);
}

static void live_with(struct sim_nursery *nursery, const char *plan, struct pool_life *life) {
    const struct sim_options options = {
        .seed = 11, .cost_factor = 1, .has_kvm = true, .nursery = nursery, .plan = plan};
    struct sim_world *world = world_open(&options, life);
    begin(world, life, "client", owner_main);
    run_all(world, life, plan);
    world_close(world, life, plan);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_life_of_a_pool(void **state) {
    static struct pool_life life;
    kelpie__ignore(state != NULL);
    life.role = "keeper";
    live_with(NULL, "", &life);
    if (life.succeeded != 1) {
        print_error("%s\n", life.error.message);
    }
    assert_int_equal(life.succeeded, 1);
    assert_int_equal(life.id_count, 2);
}

/* One death at each call of a role; `must_succeed`: the client notices nothing of it. */
static void sweep(const char *role, const char *action, bool must_succeed) {
    static struct pool_life life;
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    char plan[128];
    unsigned survived = 0;
    unsigned nth = 0;
    assert_non_null(nursery);
    life.role = role;
    do { /* bound: CALLS_MAX */
        nth += 1;
        snprintf(plan, sizeof(plan), "* role=%s nth=%u max=1 => %s", role, nth, action);
        live_with(nursery, plan, &life);
        survived += life.succeeded;
        if (must_succeed && life.succeeded != 1) {
            print_error("plan \"%s\": %s\n", plan, life.error.message);
        }
        assert_true(!must_succeed || life.succeeded == 1);
    } while (nth <= life.calls && nth < CALLS_MAX);
    printf("%s at each of %u calls of %s: %u lives went on\n", action, nth - 1, role, survived - 1);
    assert_true(nth > 20 && nth < CALLS_MAX);
    kelpie__sim_nursery_destroy(nursery);
}

static void test_kill_at_each_call_of_the_keeper(void **state) {
    kelpie__ignore(state != NULL);
    sweep("keeper", "kill", true);
}

static void test_kill_at_each_call_of_a_monitor(void **state) {
    kelpie__ignore(state != NULL);
    sweep("monitor", "kill", false);
}

static void test_kill_at_each_call_of_the_client(void **state) {
    kelpie__ignore(state != NULL);
    sweep("client", "kill", false);
}

static void test_failure_of_each_call_of_the_keeper(void **state) {
    kelpie__ignore(state != NULL);
    sweep("keeper", "EIO", false);
}

static void test_failure_of_each_call_of_a_monitor(void **state) {
    kelpie__ignore(state != NULL);
    sweep("monitor", "EIO", false);
}

static void test_failure_of_each_call_of_the_client(void **state) {
    kelpie__ignore(state != NULL);
    sweep("client", "EIO", false);
}

/* Two deaths: each place of the one with drawn places of the other. */
static void test_two_deaths(void **state) {
    static struct pool_life life;
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    char plan[128];
    kelpie__ignore(state != NULL);
    for (uint32_t i = 1; i <= PAIRS; i += 1) {
        uint32_t keeper =
            1 + (uint32_t)(kelpie__sim_fault_hash(1, "pair", "keeper", 0, i) % PAIR_CALLS_KEEPER);
        uint32_t other =
            1 + (uint32_t)(kelpie__sim_fault_hash(1, "pair", "other", 0, i) % PAIR_CALLS_OTHER);
        const char *role = i % 3 == 0 ? "keeper" : i % 3 == 1 ? "monitor" : "client";
        snprintf(plan, sizeof(plan),
                 "* role=keeper nth=%u max=1 => kill; * role=%s nth=%u max=1 => kill", keeper, role,
                 other);
        live_with(nursery, plan, &life);
    }
    kelpie__sim_nursery_destroy(nursery);
}

/* In drawn schedules, each a different order of everything. */
static void test_claimers_at_once(void **state) {
    static struct pool_life life;
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 60; seed += 1) {
        const struct sim_options options = {.seed = seed,
                                            .schedule = SIM_SCHEDULE_UNIFORM,
                                            .cost_factor = 1,
                                            .has_kvm = true,
                                            .nursery = nursery};
        char what[32];
        snprintf(what, sizeof(what), "seed %u", (unsigned)seed);
        struct sim_world *world = world_open(&options, &life);
        begin(world, &life, "client", maker_main);
        run_all(world, &life, what);
        for (uint32_t i = 0; i < CLAIMERS; i += 1) {
            begin(world, &life, "client", claimer_main);
        }
        run_all(world, &life, what);
        if (life.succeeded != CLAIMERS) {
            print_error("%s: %s\n", what, life.error.message);
        }
        assert_int_equal(life.succeeded, CLAIMERS);
        assert_int_equal(life.id_count, 3 * CLAIMERS);
        world_close(world, &life, what);
    }
    kelpie__sim_nursery_destroy(nursery);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_of_a_pool),
        cmocka_unit_test(test_claimers_at_once),
        cmocka_unit_test(test_kill_at_each_call_of_the_keeper),
        cmocka_unit_test(test_kill_at_each_call_of_a_monitor),
        cmocka_unit_test(test_kill_at_each_call_of_the_client),
        cmocka_unit_test(test_failure_of_each_call_of_the_keeper),
        cmocka_unit_test(test_failure_of_each_call_of_a_monitor),
        cmocka_unit_test(test_failure_of_each_call_of_the_client),
        cmocka_unit_test(test_two_deaths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
