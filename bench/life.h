/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Full lives of VMs in the simulated world, with the invariants watching: create, start, three
 * commands, pause, resume, snapshot, restore of that in place, stop, delete, by the library's
 * calls; and the removal of the snapshot, so that a life leaves nothing.
 */
#ifndef KELPIE_BENCH_LIFE_H
#define KELPIE_BENCH_LIFE_H

#include <stdbool.h>
#include <stdint.h>

struct sim_nursery;

enum bench_step {
    BENCH_STEP_CREATE,
    BENCH_STEP_START,
    BENCH_STEP_EXEC,
    BENCH_STEP_PAUSE,
    BENCH_STEP_RESUME,
    BENCH_STEP_SNAPSHOT,
    BENCH_STEP_RESTORE,
    BENCH_STEP_STOP,
    BENCH_STEP_DELETE,
    BENCH_STEP_REMOVE, /* of the snapshot */
    BENCH_STEP_COUNT,
};

struct bench_life {
    uint64_t seed;
    uint32_t clients; /* each has one VM at a time */
    uint32_t rounds;  /* lives of each client's */
    bool is_at_work;  /* its commands take their time: see life.c; else each says hello */
    bool is_timed;    /* each call, which costs time itself; of one client */
};

struct bench_lived {
    uint64_t calls; /* through the seam */
    uint64_t hash;
    int64_t virtual_ns;
    int64_t cpu_ns;                    /* of the lives alone, without the world's making */
    int64_t vm_run_ns;                 /* of virtual time, in which VMs were up, all together */
    int64_t step_ns[BENCH_STEP_COUNT]; /* of CPU time, whoever in the world used it */
};

/* False: something failed, and stderr says what. */
bool kelpie__bench_live(const struct bench_life *life, struct sim_nursery *nursery,
                        struct bench_lived *out);
const char *kelpie__bench_step_name(enum bench_step step);
/* CPU time in ns of one call through the seam that does next to nothing (the time of day), and of
 * one that reads 64 bytes of a file. */
bool kelpie__bench_seam(struct sim_nursery *nursery, double *out_now_ns, double *out_read_ns);

#endif
