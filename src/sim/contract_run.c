/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See contract_run.h.
 */
#include "sim/contract_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/liveness.h"
#include "sim/machine.h"
#include "store/manifest.h"

#define CONTRACT_PATH "/usr/bin/contract"
#define CONTRACT_TIME_LIMIT_NS (INT64_C(36000) * KELPIE_NS_PER_S) /* ten virtual hours */

struct contract_run {
    struct sim_world *world;
    const struct sim_contract_row *row;
    struct sim_contract contract;
    bool has_ended;
};

static struct contract_run *run_of(struct sim_contract *contract) {
    return contract->context;
}

static bool contract_fault(struct sim_contract *contract, const char *name, uint32_t thousandth) {
    char rule[128];
    char problem[256] = "";
    struct sim_world *world = run_of(contract)->world;
    bool fits = kelpie__text_format(rule, sizeof(rule), "%s p=0.%03u", name, thousandth);
    KELPIE_ASSERT(fits && thousandth < 1000);
    if (kelpie__sim_faults_add(kelpie__sim_world_faults(world), rule, problem) < 0) {
        kelpie__sim_world_fail(world, "%s: %s", rule, problem);
        return false;
    }
    return true;
}

static void contract_fail(struct sim_contract *contract, const char *text) {
    struct contract_run *run = run_of(contract);
    kelpie__sim_world_fail(run->world, "row %u, %s: %s", run->row->number, run->row->name, text);
}

static uint64_t contract_random(struct sim_contract *contract) {
    return kelpie__sim_draw(run_of(contract)->world, SIM_STREAM_WORKLOAD);
}

/* A bit of one of its files, whichever the seed says. */
static bool contract_damage(struct sim_contract *contract, const char *snapshot) {
    static const char *const files[] = {"manifest.json", "checksums", "device", "memory"};
    struct sim_world *world = run_of(contract)->world;
    char path[SIM_PATH_BYTES_MAX];
    uint64_t hash = kelpie__sim_draw(world, SIM_STREAM_WORKLOAD);
    bool fits = kelpie__text_format(path, sizeof(path), SIM_STATE_DIRECTORY "/snapshots/%s/%s",
                                    snapshot, files[hash % KELPIE_ARRAY_COUNT(files)]);
    KELPIE_ASSERT(fits);
    return kelpie__sim_disk_rot(kelpie__sim_world_disk(world), path, hash >> 8) == 0;
}

static bool contract_relabel(struct sim_contract *contract, const char *snapshot,
                             const char *architecture) {
    struct kelpie_os *os = contract->kelpie->os;
    struct kelpie_manifest manifest;
    char path[SIM_PATH_BYTES_MAX];
    bool fits =
        kelpie__text_format(path, sizeof(path), SIM_STATE_DIRECTORY "/snapshots/%s", snapshot) &&
        strlen(architecture) < sizeof(manifest.architecture);
    int directory =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    KELPIE_ASSERT(fits);
    if (directory < 0) {
        return false;
    }
    bool is_done = kelpie__manifest_read(os, directory, &manifest, NULL) == 0;
    if (is_done) {
        memcpy(manifest.architecture, architecture, strlen(architecture) + 1);
        is_done = kelpie__manifest_write(os, directory, &manifest, false, NULL) == 0;
    }
    kelpie__ignore(kelpie__os_close(os, directory));
    return is_done;
}

static int contract_main(struct kelpie_os *os, int argc, char **argv) {
    struct contract_run *run =
        kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(argc == 1 && argv[0] != NULL);
    int status = kelpie__open_with_os(os, NULL, &run->contract.kelpie, &error);
    if (status < 0) {
        contract_fail(&run->contract, error.message);
        run->has_ended = true;
        return 1;
    }
    run->row->run(&run->contract);
    struct kelpie_os *same = kelpie__close_keeping_os(run->contract.kelpie);
    KELPIE_ASSERT(same == os);
    run->has_ended = true;
    return 0;
}

static bool has_ended(void *context) {
    const struct contract_run *run = context;
    return run->has_ended;
}

static void conclude(struct sim_contract_result *out, enum kelpie_sim_verdict verdict,
                     const char *reason) {
    out->verdict = verdict;
    kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "%s", reason));
}

static void contract_execute(struct contract_run *run, struct sim_contract_result *out) {
    static const char *const argv[] = {"contract", NULL};
    static const char *const environment[] = {"HOME=/root", "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY,
                                              NULL};
    const struct sim_start start = {.path = CONTRACT_PATH,
                                    .role = "client",
                                    .main = contract_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    char pending[SIM_PENDING_BYTES_MAX] = "";
    if (kelpie__sim_process_start(kelpie__sim_world_host(run->world), &start) == NULL) {
        conclude(out, KELPIE_SIM_CRASHED, "the row could not be started");
        return;
    }
    enum sim_run_end end = kelpie__sim_world_run(
        run->world, has_ended, run, kelpie__sim_now(run->world) + CONTRACT_TIME_LIMIT_NS);
    if (end == SIM_RUN_FAILED) {
        conclude(out, KELPIE_SIM_BROKEN, kelpie__sim_world_failure(run->world));
    } else if (end != SIM_RUN_DONE) {
        conclude(out, KELPIE_SIM_NO_LIVENESS, "the row does not end");
    } else if (!kelpie__sim_liveness(run->world, SIM_SWARM_DAMAGE_NONE, pending)) {
        conclude(out, KELPIE_SIM_NO_LIVENESS, pending);
    }
}

void kelpie__sim_contract_run(const struct sim_contract_row *row, uint64_t seed, bool is_krun,
                              struct sim_nursery *nursery, struct sim_contract_result *out) {
    /* What is drawn: order, time, cuts of streams. What goes wrong is the row's. */
    const struct sim_options options = {.seed = seed,
                                        .schedule = (enum sim_schedule)(seed % 3),
                                        .cost_factor = 1,
                                        .preempt_billionth = 20000000,
                                        .partial_billionth = 50000000,
                                        .is_krun = is_krun,
                                        .nursery = nursery};
    char problem[256] = "";
    struct contract_run *run = calloc(1, sizeof(*run));
    KELPIE_ASSERT(row->run != NULL);
    *out = (struct sim_contract_result){.verdict = KELPIE_SIM_PASS};
    if (run == NULL) {
        conclude(out, KELPIE_SIM_CRASHED, "no memory for a row");
        return;
    }
    run->row = row;
    run->world = kelpie__sim_world_create(&options, problem);
    run->contract = (struct sim_contract){.seed = seed,
                                          .scale = 1,
                                          .fault = contract_fault,
                                          .fail = contract_fail,
                                          .random = contract_random,
                                          .damage = contract_damage,
                                          .relabel = contract_relabel,
                                          .lacks_snapshots = is_krun,
                                          .context = run};
    if (run->world == NULL) {
        conclude(out, KELPIE_SIM_CRASHED, problem);
        free(run);
        return;
    }
    kelpie__sim_world_set_context(run->world, run);
    contract_execute(run, out);
    out->hash = kelpie__sim_world_hash(run->world);
    out->virtual_ns = kelpie__sim_now(run->world);
    out->outcome_count = run->contract.outcome_count;
    memcpy(out->outcomes, run->contract.outcomes, sizeof(out->outcomes));
    kelpie__sim_world_destroy(run->world);
    free(run);
}
