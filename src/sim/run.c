/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See run.h.
 */
#include "sim/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "sim/client.h"
#include "sim/client_pool.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/invariants.h"
#include "sim/liveness.h"
#include "sim/machine.h"
#include "sim/recovery.h"

#define RUN_TIME_LIMIT_NS                                                                          \
    (INT64_C(7200) * KELPIE_NS_PER_S) /* of virtual time, for all operations */

#define RUN_CALM_COST 100u /* the most loaded machine on which nothing may be late */
#define RUN_SIGNAL_KILL 9

struct run {
    const struct sim_run_options *options;
    struct sim_swarm swarm;
    struct sim_world *world;
    struct sim_judge *judge;
    struct sim_invariants *invariants;
    struct sim_clients clients;
    struct sim_pools *pools;     /* owned */
    struct sim_operation *drawn; /* owned */
};

static void make_plain(struct sim_options *options) {
    options->schedule = SIM_SCHEDULE_FIFO;
    options->cost_factor = 1;
    options->preempt_billionth = 0;
    options->partial_billionth = 0;
}

/* What needs snapshots is left out; and a VMM that is hung would be continued by a resume. */
static void put_on_krun(struct sim_swarm *swarm) {
    static const enum sim_model_op unsupported[] = {
        SIM_MODEL_SNAPSHOT,    SIM_MODEL_RESTORE, SIM_MODEL_FORK,
        SIM_MODEL_CREATE_FROM, SIM_MODEL_FORGET,  SIM_MODEL_CLONE,
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(unsupported); i += 1) {
        swarm->weights[unsupported[i]] = 0;
    }
    swarm->options.is_krun = true;
    swarm->has_clones = false;
    swarm->has_disks = false;
    swarm->pool_size = 0;
    if (swarm->damage == SIM_SWARM_DAMAGE_VMM) {
        swarm->damage = SIM_SWARM_DAMAGE_NONE;
    }
}

void kelpie__sim_run_swarm(const struct sim_run_options *options, struct sim_swarm *out) {
    kelpie__sim_swarm_draw(options->seed, out);
    if (options->is_krun) {
        put_on_krun(out);
    }
    KELPIE_ASSERT(!options->is_swarm || options->faults == SIM_RUN_FAULTS_PLAN);
    if (options->is_plain || options->faults == SIM_RUN_FAULTS_NONE) {
        make_plain(&out->options);
    }
    if (options->faults == SIM_RUN_FAULTS_SWARM || options->is_swarm) {
        return;
    }
    out->is_calm = options->faults != SIM_RUN_FAULTS_PLAN;
    if (out->is_calm) { /* slow, but with time enough for all */
        out->timeout_tenths = 10;
        out->options.cost_factor =
            out->options.cost_factor < RUN_CALM_COST ? out->options.cost_factor : RUN_CALM_COST;
    }
    out->damage = SIM_SWARM_DAMAGE_NONE;
    out->plan[0] = '\0';
}

/* The root of VMs that have disks: what is in it is the guests' own, or is laid out by them. */
static bool lay_out_root(struct sim_world *world) {
    static const char *const directories[] = {"/etc", "/root", "/dev", "/proc", "/sys"};
    char path[64];
    bool is_good = true;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(directories) && is_good; i += 1) {
        is_good =
            kelpie__text_format(path, sizeof(path), SIM_ROOT_DIRECTORY "%s", directories[i]) &&
            kelpie__sim_disk_put_directory(kelpie__sim_world_disk(world), path, 0755) == 0;
    }
    return is_good;
}

static bool run_begin(struct run *run, char out_problem[256]) {
    struct sim_options world = run->swarm.options;
    world.seed = run->options->seed;
    world.trace = run->options->trace;
    world.plan = run->options->faults == SIM_RUN_FAULTS_PLAN ? run->options->plan
                 : run->swarm.plan[0] != '\0'                ? run->swarm.plan
                                                             : NULL;
    world.canary = run->options->canary;
    world.nursery = run->options->nursery;
    run->world = kelpie__sim_world_create(&world, out_problem);
    if (run->world == NULL) {
        return false;
    }
    run->judge = kelpie__sim_judge_create(run->world, &run->swarm);
    run->invariants = kelpie__sim_invariants_create(run->world, run->judge);
    run->drawn = calloc(SIM_OPERATION_MAX, sizeof(*run->drawn));
    run->pools = calloc(1, sizeof(*run->pools));
    bool is_laid_out = !run->swarm.has_disks || lay_out_root(run->world);
    if (run->judge == NULL || run->invariants == NULL || run->drawn == NULL || run->pools == NULL ||
        !is_laid_out) {
        kelpie__ignore(snprintf(out_problem, 256, "no memory for a run"));
        return false;
    }
    const struct sim_operation *operations = run->options->operations;
    uint32_t count = run->options->operation_count;
    if (operations == NULL) {
        count = kelpie__sim_workload_draw(&run->swarm, run->drawn, SIM_OPERATION_MAX);
        operations = run->drawn;
    }
    run->clients = (struct sim_clients){.world = run->world,
                                        .judge = run->judge,
                                        .swarm = &run->swarm,
                                        .operations = operations,
                                        .operation_count = count,
                                        .pools = run->pools,
                                        .begun_ns = run->options->begun_ns};
    return true;
}

static void run_end(struct run *run) {
    kelpie__sim_world_destroy(run->world); /* first: it has observers */
    kelpie__sim_invariants_destroy(run->invariants);
    kelpie__sim_judge_destroy(run->judge);
    free(run->drawn);
    free(run->pools);
}

static bool clients_have_ended(void *context) {
    const struct run *run = context;
    return kelpie__sim_clients_have_ended(&run->clients);
}

/* A command's time stands still while its VM is paused: who waits for it waits until somebody
 * resumes. When nobody is left who would, such clients go; false: somebody waits for something
 * else. */
static bool end_patient_clients(struct run *run) {
    uint32_t vm = 0;
    bool has_others = false;
    for (uint32_t i = 0; i < run->swarm.client_count; i += 1) {
        struct sim_process *process = kelpie__sim_clients_process(&run->clients, i);
        if (process == NULL) {
            continue;
        }
        bool is_patient = kelpie__sim_judge_waits_for_command(run->judge, i, &vm) &&
                          kelpie__sim_invariants_is_paused(run->invariants, vm);
        if (is_patient) {
            kelpie__sim_process_signal(process, RUN_SIGNAL_KILL);
        }
        has_others = has_others || !is_patient;
    }
    return !has_others;
}

static void conclude(struct sim_run_result *out, enum kelpie_sim_verdict verdict,
                     const char *reason) {
    out->verdict = verdict;
    kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "%s", reason));
}

/* A failure says by its first word who found it. */
static enum kelpie_sim_verdict verdict_of(const char *failure) {
    return strncmp(failure, "model", strlen("model")) == 0 ? KELPIE_SIM_WRONG_MODEL
                                                           : KELPIE_SIM_BROKEN;
}

/* Until nobody has anything left to do; clients that a fault has killed come back. */
static enum sim_run_end run_clients(struct run *run) {
    int64_t deadline_ns = kelpie__sim_now(run->world) + RUN_TIME_LIMIT_NS;
    int started = kelpie__sim_clients_start(&run->clients);
    while (started > 0) { /* bound: the lives of clients */
        enum sim_run_end end =
            kelpie__sim_world_run(run->world, clients_have_ended, run, deadline_ns);
        bool is_late = end == SIM_RUN_DEADLINE || end == SIM_RUN_IDLE;
        if (is_late && end_patient_clients(run)) {
            return SIM_RUN_DONE;
        }
        if (end != SIM_RUN_DONE) {
            return end;
        }
        started = kelpie__sim_clients_start(&run->clients);
    }
    return SIM_RUN_DONE;
}

static void run_safety(struct run *run, struct sim_run_result *out) {
    switch (run_clients(run)) {
    case SIM_RUN_DONE:
        break;
    case SIM_RUN_IDLE:
        conclude(out, KELPIE_SIM_NO_LIVENESS, "a client waits for ever");
        break;
    case SIM_RUN_DEADLINE:
        conclude(out, KELPIE_SIM_NO_LIVENESS, "the operations did not end in two virtual hours");
        break;
    case SIM_RUN_SPIN:
        conclude(out, KELPIE_SIM_NO_LIVENESS, "1,000,000 calls without a millisecond of progress");
        break;
    case SIM_RUN_FAILED:
        conclude(out, verdict_of(kelpie__sim_world_failure(run->world)),
                 kelpie__sim_world_failure(run->world));
        break;
    }
}

/* Between the halves of a run, in one of three each: an idle time, a power loss. What is broken for
 * good has to be outlived by the rest only, and is left out. */
static void run_between(struct run *run, struct sim_run_result *out) {
    uint64_t choice = kelpie__sim_fault_hash(run->options->seed, "between", "run", 0, 0) % 3;
    bool is_good = run->swarm.damage != SIM_SWARM_DAMAGE_NONE || choice == 2 ||
                   (choice == 1 ? kelpie__sim_recovery(run->world) : kelpie__sim_idle(run->world));
    if (!is_good) {
        const char *failure = kelpie__sim_world_failure(run->world);
        conclude(out, failure == NULL ? KELPIE_SIM_NO_LIVENESS : verdict_of(failure),
                 failure == NULL ? "no liveness: an idle world does not rest" : failure);
    }
}

static void run_liveness(struct run *run, struct sim_run_result *out) {
    char pending[SIM_PENDING_BYTES_MAX] = "";
    if (!kelpie__sim_liveness(run->world, run->swarm.damage, pending)) {
        const char *failure = kelpie__sim_world_failure(run->world);
        bool is_live = failure == NULL || strncmp(failure, "no liveness", 11) == 0;
        conclude(out, is_live ? KELPIE_SIM_NO_LIVENESS : verdict_of(failure), pending);
    }
}

static bool is_vacuous(const struct sim_run_result *result) {
    return result->counts.succeeded == 0 && result->faults_fired == 0;
}

static void run_collect(struct run *run, struct sim_run_result *out) {
    struct sim_faults *faults = kelpie__sim_world_faults(run->world);
    out->hash = kelpie__sim_world_hash(run->world);
    out->calls = kelpie__sim_world_calls(run->world);
    out->virtual_ns = kelpie__sim_now(run->world);
    out->counts = *kelpie__sim_judge_counts(run->judge);
    out->faults_fired = kelpie__sim_faults_fired(faults);
    out->marks = *kelpie__sim_world_marks(run->world);
    uint32_t classes = kelpie__sim_faults_class_count();
    KELPIE_ASSERT(classes <= SIM_RUN_CLASS_MAX);
    for (uint32_t i = 0; i < classes; i += 1) {
        out->class_fired[i] = kelpie__sim_faults_class_fired(faults, i);
    }
    if (run->options->faults == SIM_RUN_FAULTS_SWARM) {
        kelpie__sim_swarm_pairs_fired(faults, out->pairs_fired);
    }
    if (out->verdict != KELPIE_SIM_PASS) {
        size_t length = kelpie__sim_faults_concrete(faults, NULL, 0);
        out->plan = malloc(length + 1);
        if (out->plan != NULL) {
            kelpie__sim_faults_concrete(faults, out->plan, length + 1);
        }
    }
}

void kelpie__sim_run(const struct sim_run_options *options, struct sim_run_result *out) {
    struct run run = {.options = options};
    char problem[256] = "";
    *out = (struct sim_run_result){.verdict = KELPIE_SIM_PASS};
    kelpie__sim_run_swarm(options, &run.swarm);
    if (!run_begin(&run, problem)) {
        conclude(out, KELPIE_SIM_USAGE, problem);
        run_end(&run);
        return;
    }
    if (options->begun != NULL) {
        options->begun(options->begun_context, run.world);
    }
    run_safety(&run, out);
    if (out->verdict == KELPIE_SIM_PASS) {
        run_between(&run, out);
    }
    if (out->verdict == KELPIE_SIM_PASS) {
        run_liveness(&run, out);
    }
    run_collect(&run, out);
    if (out->verdict == KELPIE_SIM_PASS && is_vacuous(out)) {
        conclude(out, KELPIE_SIM_VACUOUS, "nothing was checked");
    }
    run_end(&run);
}

void kelpie__sim_run_release(struct sim_run_result *result) {
    free(result->plan);
    result->plan = NULL;
}
