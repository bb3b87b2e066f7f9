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

static const char *const environment[] = {"PATH=/usr/bin:/usr/sbin", "HOME=/root",
                                          "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};

static struct living *living_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

static bool step(struct living *living, const char *name, int status) {
    if (status < 0 && living->failed == NULL) {
        living->failed = name;
    }
    return living->failed == NULL;
}

/* ---- a life ---------------------------------------------------------------------------------- */

static void live_commands(struct living *living, struct kelpie_vm *vm) {
    static const char *const argv[] = {"echo", "hello", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    for (uint32_t i = 0; i < LIFE_COMMANDS && living->failed == NULL; i += 1) {
        struct kelpie_exec_result result = {.struct_size = sizeof(result)};
        if (step(living, "exec", kelpie_vm_exec(vm, &command, &result, &living->error))) {
            step(living, "echo", strcmp(result.stdout_bytes, "hello\n") == 0 ? 0 : -1);
            kelpie_exec_result_release(&result);
        }
    }
}

/* It boots: what is measured is a life of its own, not a copy of one that was booted before. */
static int life_create(struct kelpie *kelpie, const char *name, struct kelpie_vm **out,
                       struct kelpie_error *error) {
    struct kelpie_config *config = NULL;
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_template(config, false);
        status = kelpie_vm_create(kelpie, name, config, out, error);
    }
    kelpie_config_destroy(config);
    return status;
}

static void live_once(struct living *living, struct kelpie *kelpie, const char *name) {
    struct kelpie_error *error = &living->error;
    struct kelpie_os *os = kelpie->os;
    struct kelpie_vm *vm = NULL;
    if (!step(living, "create", life_create(kelpie, name, &vm, error))) {
        return;
    }
    int64_t begun_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
    if (step(living, "start", kelpie_vm_start(vm, 0, error))) {
        live_commands(living, vm);
    }
    if (living->failed == NULL && living->life->takes_snapshot) {
        const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                        .name = name};
        step(living, "snapshot", kelpie_vm_snapshot(vm, &options, NULL, error));
    }
    if (living->failed == NULL && step(living, "pause", kelpie_vm_pause(vm, error)) &&
        step(living, "resume", kelpie_vm_resume(vm, error)) &&
        step(living, "stop", kelpie_vm_stop(vm, 0, NULL, error))) {
        living->lived.vm_run_ns += kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) - begun_ns;
        step(living, "delete", kelpie_vm_delete(vm, false, error));
    }
    if (living->failed == NULL && living->life->takes_snapshot) {
        step(living, "remove", kelpie_snapshot_remove(kelpie, name, error));
    }
    kelpie_vm_close(vm);
}

static int life_main(struct kelpie_os *os, int argc, char **argv) {
    struct living *living = living_of(os);
    struct kelpie *kelpie = NULL;
    KELPIE_ASSERT(argc == 1);
    if (step(living, "open", kelpie__open_with_os(os, NULL, &kelpie, &living->error))) {
        for (uint32_t i = 0; i < living->life->rounds && living->failed == NULL; i += 1) {
            live_once(living, kelpie, argv[0]);
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
    if (step(living, "open a file", handle)) {
        begun_ns = kelpie__bench_cpu_ns();
        for (uint32_t i = 0; i < SEAM_CALLS && living->failed == NULL; i += 1) {
            step(living, "read a file", (int)kelpie__os_pread(os, handle, bytes, sizeof(bytes), 0));
        }
        living->read_ns = (double)(kelpie__bench_cpu_ns() - begun_ns) / SEAM_CALLS;
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
        step(living, "begin",
             kelpie__sim_process_start(kelpie__sim_world_host(world), &start) == NULL ? -1 : 0);
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

bool kelpie__bench_seam(struct sim_nursery *nursery, double *out_now_ns, double *out_read_ns) {
    const struct bench_life life = {.seed = 1, .clients = 1};
    struct living living = {.life = &life};
    bool is_good = live(&living, nursery, seam_main);
    *out_now_ns = living.now_ns;
    *out_read_ns = living.read_ns;
    return is_good;
}
