/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulator is true of whole VMs. Method: drawn lives (workload.c), with deaths of the
 * VMM and of the guest, on the real system with the real QEMU and in a simulated world: the
 * outcomes must be equal, line by line. 20 lives of VMs, or 200 with --scale 1.
 *
 *     CONFORMANCE_SEED=7 vms life       one of them
 *     CONFORMANCE_SHOW=real             also print that side (real, simulated)
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base.h"
#include "harness/harness.h"
#include "harness/leftovers.h"
#include "lib/internal.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "workload.h"

#define VMS_LIVES 200u
#define VMS_LIVES_OF_A_ROW 5u
#define VMS_TIMEOUT_S 1800u
#define VMS_PATH_BYTES_MAX 4096u
#define VMS_SIM_LIMIT_NS (INT64_C(3600) * 1000000000)

/* ---- really ---------------------------------------------------------------------------------- */

static void real_sleep(struct workload *workload, uint32_t duration_ms) {
    const struct timespec duration = {.tv_sec = duration_ms / 1000,
                                      .tv_nsec = (long)(duration_ms % 1000) * 1000000};
    kelpie__ignore(workload->context == NULL);
    nanosleep(&duration, NULL);
}

static void real_kill(struct workload *workload, int32_t pid) {
    kelpie__ignore(workload->context == NULL);
    HARNESS_CHECK(kill(pid, SIGKILL) == 0, "no process %d", pid);
}

static void run_really(const struct harness *harness, struct workload *workload) {
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = harness->state_directory,
        .runtime_directory = harness->runtime_directory,
        .cache_directory = harness->cache_directory,
        .libexec_directory = harness->libexec_directory,
    };
    struct kelpie *kelpie = NULL;
    struct kelpie_error error = {0};
    int status = kelpie_open(&options, &kelpie, &error);
    HARNESS_CHECK(status == 0, "open: %s", error.message);
    workload->sleep_ms = real_sleep;
    workload->kill_process = real_kill;
    workload_run(workload, kelpie);
    kelpie_close(kelpie);
}

/* ---- simulated ------------------------------------------------------------------------------- */

static void sim_sleep(struct workload *workload, uint32_t duration_ms) {
    kelpie__sim_process_sleep(workload->context, (int64_t)duration_ms * 1000000);
}

static void sim_kill(struct workload *workload, int32_t pid) {
    struct sim_process *own = workload->context;
    struct sim_process *process = kelpie__sim_process_find(own->machine, pid);
    HARNESS_CHECK(process != NULL, "no process %d", pid);
    kelpie__sim_process_signal(process, SIGKILL);
}

static int sim_main_of_life(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct workload *workload = kelpie__sim_world_context(process->machine->world);
    struct kelpie *kelpie = NULL;
    KELPIE_ASSERT(argc == 1 && argv[0] != NULL);
    int status = kelpie__open_with_os(os, NULL, &kelpie, NULL);
    HARNESS_CHECK(status == 0, "open in the simulated world: %s", kelpie_code_name(status));
    workload->sleep_ms = sim_sleep;
    workload->kill_process = sim_kill;
    workload->context = process;
    workload_run(workload, kelpie);
    kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    workload->is_over = true;
    return 0;
}

static bool is_over(void *context) {
    const struct workload *workload = context;
    return workload->is_over;
}

static void run_simulated(struct workload *workload) {
    static const char *const argv[] = {"life", NULL};
    static const char *const environment[] = {"HOME=/root", "PATH=/usr/bin:/bin",
                                              "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};
    const struct sim_options options = {.seed = workload->seed, .cost_factor = 1};
    const struct sim_start start = {.path = "/usr/bin/life",
                                    .role = "client",
                                    .main = sim_main_of_life,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    HARNESS_CHECK(world != NULL, "no memory");
    kelpie__sim_world_set_context(world, workload);
    HARNESS_CHECK(kelpie__sim_process_start(kelpie__sim_world_host(world), &start) != NULL,
                  "no process");
    enum sim_run_end end = kelpie__sim_world_run(world, is_over, workload, VMS_SIM_LIMIT_NS);
    HARNESS_CHECK(end == SIM_RUN_DONE, "the simulated life did not end (%d): %s\n%s", (int)end,
                  kelpie__sim_world_failure(world) == NULL ? "" : kelpie__sim_world_failure(world),
                  workload->text);
    kelpie__sim_world_destroy(world);
}

/* ---- both ------------------------------------------------------------------------------------ */

static void show(const char *side, const struct workload *workload) {
    const char *wanted = getenv("CONFORMANCE_SHOW");
    if (wanted != NULL && strcmp(wanted, side) == 0) {
        fprintf(stderr, "---- %s, seed %llu\n%s", side, (unsigned long long)workload->seed,
                workload->text);
    }
}

/* Up to the first line that differs, and both of it. */
static void compare(const struct workload *real, const struct workload *simulated) {
    size_t same = 0;
    size_t line = 0;
    while (real->text[same] != '\0' && real->text[same] == simulated->text[same]) {
        same += 1;
        line = real->text[same - 1] == '\n' ? same : line;
    }
    HARNESS_CHECK(real->text[same] == simulated->text[same],
                  "CONFORMANCE_SEED=%llu\n%.*s---- really:\n%.300s\n---- simulated:\n%.300s",
                  (unsigned long long)real->seed, (int)line, real->text, real->text + line,
                  simulated->text + line);
}

static void live(const struct harness *harness, uint64_t seed) {
    static struct workload real;
    static struct workload simulated;
    real = (struct workload){.seed = seed};
    simulated = (struct workload){.seed = seed};
    run_really(harness, &real);
    run_simulated(&simulated);
    show("real", &real);
    show("simulated", &simulated);
    compare(&real, &simulated);
}

/* The first life's first start left it for all others. */
static void remove_template(const struct harness *harness) {
    char path[VMS_PATH_BYTES_MAX];
    int length = snprintf(path, sizeof(path), "%s/templates", harness->state_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(path));
    leftovers_remove(path);
}

/* A quarter of the lives of a run. */
static void lives(const struct harness *harness, uint32_t part) {
    const char *only = getenv("CONFORMANCE_SEED");
    uint32_t count = harness->scale > 1 ? VMS_LIVES_OF_A_ROW : VMS_LIVES / 4;
    if (only != NULL) {
        live(harness, strtoull(only, NULL, 10));
        remove_template(harness);
        return;
    }
    for (uint32_t i = 0; i < count; i += 1) {
        live(harness, 1 + part * count + i);
    }
    remove_template(harness);
}

static void lives_a(const struct harness *harness) {
    lives(harness, 0);
}

static void lives_b(const struct harness *harness) {
    lives(harness, 1);
}

static void lives_c(const struct harness *harness) {
    lives(harness, 2);
}

static void lives_d(const struct harness *harness) {
    lives(harness, 3);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {{"lives_a", lives_a, VMS_TIMEOUT_S},
                                                {"lives_b", lives_b, VMS_TIMEOUT_S},
                                                {"lives_c", lives_c, VMS_TIMEOUT_S},
                                                {"lives_d", lives_d, VMS_TIMEOUT_S}};
    const struct harness_suite suite = {
        .name = "conformance-vms", .tests = tests, .test_count = KELPIE_ARRAY_COUNT(tests)};
    return harness_main(argc, argv, &suite);
}
