/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Full lives of VMs in the simulated world, with the invariants watching: create, start, three
 * commands, pause, resume, stop, delete, by the library's calls; with a snapshot if asked for.
 */
#ifndef KELPIE_BENCH_LIFE_H
#define KELPIE_BENCH_LIFE_H

#include <stdbool.h>
#include <stdint.h>

struct sim_nursery;

struct bench_life {
    uint64_t seed;
    uint32_t clients;    /* each has one VM at a time */
    uint32_t rounds;     /* lives of each client's */
    bool takes_snapshot; /* of the running VM, deleted at the end of the round */
};

struct bench_lived {
    uint64_t calls; /* through the seam */
    uint64_t hash;
    int64_t virtual_ns;
    int64_t cpu_ns;    /* of the lives alone, without the world's making */
    int64_t vm_run_ns; /* of virtual time, in which VMs were up, all together */
};

/* False: something failed, and stderr says what. */
bool kelpie__bench_live(const struct bench_life *life, struct sim_nursery *nursery,
                        struct bench_lived *out);
/* CPU time in ns of one call through the seam that does next to nothing (the time of day), and of
 * one that reads 64 bytes of a file. */
bool kelpie__bench_seam(struct sim_nursery *nursery, double *out_now_ns, double *out_read_ns);

#endif
