/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See life.h.
 */
#include "life.h"

#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "lib/internal.h"
#include "measure.h"
#include "os/os_call.h"
#include "sim/client.h"
#include "sim/disk.h"
#include "sim/install.h"
#include "sim/invariants.h"
#include "sim/machine.h"
#include "sim/run.h"

#define LIFE_STACK_BYTES (512u * 1024u)
#define LIFE_COMMANDS 3u
#define LIFE_TIMEOUT_MS 30000u
#define LIFE_LIMIT_NS (INT64_C(36000) * KELPIE_NS_PER_S)
#define SEAM_CALLS 200000u
#define SEAM_FILE "/etc/seam"

struct living {
    const struct bench_life *life;
    struct bench_lived lived;
    struct kelpie_error error;
    const char *failed; /* the first call that did */
    uint32_t ended;     /* clients that are through */
    double now_ns;
    double read_ns;
};

/* One life of one client. */
struct alive {
    struct living *living;
    struct kelpie *kelpie;
    struct kelpie_vm *vm;
    const char *name; /* of the VM and of its snapshot */
};

static const char *const step_names[BENCH_STEP_COUNT] = {
    [BENCH_STEP_CREATE] = "create",   [BENCH_STEP_START] = "start",
    [BENCH_STEP_EXEC] = "exec",       [BENCH_STEP_PAUSE] = "pause",
    [BENCH_STEP_RESUME] = "resume",   [BENCH_STEP_SNAPSHOT] = "snapshot",
    [BENCH_STEP_RESTORE] = "restore", [BENCH_STEP_STOP] = "stop",
    [BENCH_STEP_DELETE] = "delete",   [BENCH_STEP_REMOVE] = "remove",
};

static const char *const environment[] = {"PATH=/usr/bin:/usr/sbin", "HOME=/root",
                                          "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};

static struct living *living_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

static bool check(struct living *living, const char *name, bool is_good) {
    if (!is_good && living->failed == NULL) {
        living->failed = name;
    }
    return living->failed == NULL;
}

/* ---- a life ---------------------------------------------------------------------------------- */

/* It boots: what is measured is a life of its own, not a copy of one that was booted before. */
static int life_create(struct alive *alive) {
    struct kelpie_error *error = &alive->living->error;
    struct kelpie_config *config = NULL;
    int status = kelpie_config_create(alive->kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_template(config, false);
        status = kelpie_vm_create(alive->kelpie, alive->name, config, &alive->vm, error);
    }
    kelpie_config_destroy(config);
    return status;
}

static int life_snapshot(struct alive *alive) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                    .name = alive->name};
    return kelpie_vm_snapshot(alive->vm, &options, NULL, &alive->living->error);
}

static int life_call(struct alive *alive, enum bench_step step) {
    struct kelpie_error *error = &alive->living->error;
    switch (step) {
    case BENCH_STEP_CREATE:
        return life_create(alive);
    case BENCH_STEP_START:
        return kelpie_vm_start(alive->vm, 0, error);
    case BENCH_STEP_PAUSE:
        return kelpie_vm_pause(alive->vm, error);
    case BENCH_STEP_RESUME:
        return kelpie_vm_resume(alive->vm, error);
    case BENCH_STEP_SNAPSHOT:
        return life_snapshot(alive);
    case BENCH_STEP_RESTORE:
        return kelpie_vm_restore(alive->vm, alive->name, 0, error);
    case BENCH_STEP_STOP:
        return kelpie_vm_stop(alive->vm, 0, NULL, error);
    case BENCH_STEP_DELETE:
        return kelpie_vm_delete(alive->vm, false, error);
    case BENCH_STEP_REMOVE:
        return kelpie_snapshot_remove(alive->kelpie, alive->name, error);
    case BENCH_STEP_EXEC:
    case BENCH_STEP_COUNT:
        break;
    }
    return KELPIE_E_MISUSE; /* commands have arguments: live_command */
}

/* What each of the three commands is. Those of a client at work are what an embedder waits for: a
 * short one, one of 10 s, one that hangs until its timeout of 30 s. */
static int life_command(struct alive *alive, uint32_t index) {
    static const char *const argv[2][LIFE_COMMANDS][3] = {
        {{"echo", "hello"}, {"echo", "hello"}, {"echo", "hello"}},
        {{"echo", "hello"}, {"sleep", "10"}, {"sleep", "60"}}};
    static const char *const output[2][LIFE_COMMANDS] = {{"hello\n", "hello\n", "hello\n"},
                                                         {"hello\n", "", ""}};
    const bool is_at_work = alive->living->life->is_at_work;
    const bool has_timeout = is_at_work && index == LIFE_COMMANDS - 1;
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv[is_at_work][index],
                                                .timeout_ms = has_timeout ? LIFE_TIMEOUT_MS : 0};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_vm_exec(alive->vm, &options, &result, &alive->living->error);
    if (has_timeout) {
        return status == KELPIE_E_EXEC_TIMEOUT ? 0 : KELPIE_E_PROTOCOL;
    }
    if (status == 0) {
        bool is_right = strcmp(result.stdout_bytes, output[is_at_work][index]) == 0;
        status = is_right ? 0 : KELPIE_E_PROTOCOL;
        kelpie_exec_result_release(&result);
    }
    return status;
}

static void live_step(struct alive *alive, enum bench_step step, uint32_t index) {
    struct living *living = alive->living;
    if (living->failed != NULL) {
        return;
    }
    int64_t begun_ns = living->life->is_timed ? kelpie__bench_cpu_ns() : 0;
    int status = step == BENCH_STEP_EXEC ? life_command(alive, index) : life_call(alive, step);
    living->lived.step_ns[step] += living->life->is_timed ? kelpie__bench_cpu_ns() - begun_ns : 0;
    check(living, step_names[step], status == 0);
}

static void live_once(struct alive *alive) {
    struct living *living = alive->living;
    struct kelpie_os *os = alive->kelpie->os;
    live_step(alive, BENCH_STEP_CREATE, 0);
    int64_t begun_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
    live_step(alive, BENCH_STEP_START, 0);
    for (uint32_t i = 0; i < LIFE_COMMANDS; i += 1) {
        live_step(alive, BENCH_STEP_EXEC, i);
    }
    live_step(alive, BENCH_STEP_PAUSE, 0);
    live_step(alive, BENCH_STEP_RESUME, 0);
    live_step(alive, BENCH_STEP_SNAPSHOT, 0);
    live_step(alive, BENCH_STEP_RESTORE, 0);
    live_step(alive, BENCH_STEP_STOP, 0);
    living->lived.vm_run_ns += kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) - begun_ns;
    live_step(alive, BENCH_STEP_DELETE, 0);
    live_step(alive, BENCH_STEP_REMOVE, 0);
    kelpie_vm_close(alive->vm);
    alive->vm = NULL;
}

static int life_main(struct kelpie_os *os, int argc, char **argv) {
    struct living *living = living_of(os);
    struct kelpie *kelpie = NULL;
    KELPIE_ASSERT(argc == 1);
    if (check(living, "open", kelpie__open_with_os(os, NULL, &kelpie, &living->error) == 0)) {
        struct alive alive = {.living = living, .kelpie = kelpie, .name = argv[0]};
        for (uint32_t i = 0; i < living->life->rounds && living->failed == NULL; i += 1) {
            live_once(&alive);
        }
        kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    }
    living->ended += 1;
    return living->failed == NULL ? 0 : 1;
}

/* ---- calls of the seam ----------------------------------------------------------------------- */

static int seam_main(struct kelpie_os *os, int argc, char **argv) {
    struct living *living = living_of(os);
    char bytes[64];
    kelpie__ignore(argc > 0 && argv != NULL);
    int64_t begun_ns = kelpie__bench_cpu_ns();
    for (uint32_t i = 0; i < SEAM_CALLS; i += 1) {
        kelpie__ignore(kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) > 0);
    }
    living->now_ns = (double)(kelpie__bench_cpu_ns() - begun_ns) / SEAM_CALLS;
    int handle = kelpie__os_open(os, KELPIE_OS_CWD, SEAM_FILE, KELPIE_OS_OPEN_READ, 0);
    if (check(living, "open a file", handle >= 0)) {
        begun_ns = kelpie__bench_cpu_ns();
        for (uint32_t i = 0; i < SEAM_CALLS && living->failed == NULL; i += 1) {
            check(living, "read a file",
                  kelpie__os_pread(os, handle, bytes, sizeof(bytes), 0) >= 0);
        }
        living->read_ns = (double)(kelpie__bench_cpu_ns() - begun_ns) / SEAM_CALLS;
        kelpie__ignore(kelpie__os_close(os, handle)); /* it was read only */
    }
    living->ended += 1;
    return 0;
}

/* ---- worlds ---------------------------------------------------------------------------------- */

static bool have_ended(void *context) {
    const struct living *living = context;
    return living->ended == living->life->clients;
}

static bool live_in(struct sim_world *world, struct living *living, sim_main main) {
    char name[32];
    const char *const argv[] = {name, NULL};
    const struct sim_start start = {.path = SIM_CLIENT_PATH "0",
                                    .role = "client",
                                    .main = main,
                                    .stack_bytes = LIFE_STACK_BYTES,
                                    .argv = argv,
                                    .environment = environment};
    kelpie__sim_world_set_context(world, living);
    int64_t begun_ns = kelpie__bench_cpu_ns();
    for (uint32_t i = 0; i < living->life->clients; i += 1) {
        kelpie__ignore(snprintf(name, sizeof(name), "vm-%u", i));
        check(living, "begin",
              kelpie__sim_process_start(kelpie__sim_world_host(world), &start) != NULL);
    }
    enum sim_run_end end = kelpie__sim_world_run(world, have_ended, living, LIFE_LIMIT_NS);
    living->lived.cpu_ns = kelpie__bench_cpu_ns() - begun_ns;
    living->lived.calls = kelpie__sim_world_calls(world);
    living->lived.hash = kelpie__sim_world_hash(world);
    living->lived.virtual_ns = kelpie__sim_now(world);
    if (end != SIM_RUN_DONE || living->failed != NULL) {
        const char *failure = kelpie__sim_world_failure(world);
        fprintf(stderr, "bench-sim: %s failed: %s%s\n",
                living->failed == NULL ? "the world" : living->failed, living->error.message,
                failure == NULL ? "" : failure);
        return false;
    }
    return true;
}

static bool live(struct living *living, struct sim_nursery *nursery, sim_main main) {
    const struct sim_run_options quiet = {.seed = living->life->seed,
                                          .faults = SIM_RUN_FAULTS_NONE};
    struct sim_swarm swarm;
    kelpie__sim_run_swarm(&quiet, &swarm);
    const struct sim_options options = {
        .seed = living->life->seed, .cost_factor = 1, .nursery = nursery};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    KELPIE_ASSERT(world != NULL);
    struct sim_judge *judge = kelpie__sim_judge_create(world, &swarm);
    struct sim_invariants *invariants = kelpie__sim_invariants_create(world, judge);
    KELPIE_ASSERT(judge != NULL && invariants != NULL);
    kelpie__ignore(
        kelpie__sim_disk_put(kelpie__sim_world_disk(world), SEAM_FILE, 0644, environment, 64) == 0);
    bool is_good = live_in(world, living, main);
    kelpie__sim_world_destroy(world);
    kelpie__sim_invariants_destroy(invariants);
    kelpie__sim_judge_destroy(judge);
    return is_good;
}

bool kelpie__bench_live(const struct bench_life *life, struct sim_nursery *nursery,
                        struct bench_lived *out) {
    struct living living = {.life = life};
    bool is_good = live(&living, nursery, life_main);
    *out = living.lived;
    return is_good;
}

const char *kelpie__bench_step_name(enum bench_step step) {
    KELPIE_ASSERT(step < BENCH_STEP_COUNT);
    return step_names[step];
}

bool kelpie__bench_seam(struct sim_nursery *nursery, double *out_now_ns, double *out_read_ns) {
    const struct bench_life life = {.seed = 1, .clients = 1};
    struct living living = {.life = &life};
    bool is_good = live(&living, nursery, seam_main);
    *out_now_ns = living.now_ns;
    *out_read_ns = living.read_ns;
    return is_good;
}
