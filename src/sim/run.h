/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One run of the simulator: a world, its clients and faults, under every check; then whether all
 * comes to rest. A run is a function of its options.
 */
#ifndef KELPIE_SIM_RUN_H
#define KELPIE_SIM_RUN_H

#include "kelpie_sim.h"
#include "sim/judge.h"
#include "sim/marks.h"
#include "sim/trace.h"
#include "sim/workload.h"

#define SIM_RUN_REASON_BYTES_MAX 512u
#define SIM_RUN_CLASS_MAX 32u

enum sim_run_faults {
    SIM_RUN_FAULTS_NONE,  /* a quiet world */
    SIM_RUN_FAULTS_CALM,  /* other schedules, slow and fast machines, cut streams; nothing fails */
    SIM_RUN_FAULTS_SWARM, /* drawn from the seed */
    SIM_RUN_FAULTS_PLAN,
};

struct sim_run_options {
    uint64_t seed;
    enum sim_run_faults faults;
    const char *plan; /* borrowed; of FAULTS_PLAN */
    bool is_swarm;    /* of FAULTS_PLAN: calm and damaged as the swarm is; else it is neither */
    bool is_krun;     /* libkrun is what the host has, and no QEMU: no snapshots */
    bool is_plain;    /* first come, first served; no preemption, no partial reads and writes */
    struct sim_trace *trace; /* borrowed; may be NULL */
    /* Instead of those that the seed draws; borrowed. NULL: none. */
    const struct sim_operation *operations;
    uint32_t operation_count;
    int64_t *begun_ns; /* of each of them, when it was begun; borrowed; NULL: nobody asks */
    uint32_t canary;   /* 0: none */
    struct sim_nursery *nursery; /* borrowed; NULL: memory of its own */
    void (*begun)(void *context,
                  struct sim_world *world); /* the world is made; NULL: nobody asks */
    void *begun_context;
};

struct sim_run_result {
    enum kelpie_sim_verdict verdict;
    char reason[SIM_RUN_REASON_BYTES_MAX];
    uint64_t hash;
    uint64_t calls;
    int64_t virtual_ns;
    struct sim_judge_counts counts;
    uint32_t faults_fired;
    uint32_t class_fired[SIM_RUN_CLASS_MAX];
    uint64_t pairs_fired[SIM_SWARM_PAIR_WORDS]; /* a bit for each pair of the swarm */
    struct sim_marks marks;                     /* reached */
    char *plan; /* owned: the faults that fired, which replay alone; free() */
};

/* Never fails but by its verdict. */
void kelpie__sim_run(const struct sim_run_options *options, struct sim_run_result *out);
void kelpie__sim_run_release(struct sim_run_result *result);

/* The swarm configuration of these options, and the operations of its clients (SIM_OPERATION_MAX
 * places). */
void kelpie__sim_run_swarm(const struct sim_run_options *options, struct sim_swarm *out);

#endif
