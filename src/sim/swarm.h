/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Swarm testing: each run has a configuration of its own, drawn from its seed. What is off in a run
 * cannot hide what needs its absence, and what is on meets every mixture of the rest. One run in
 * ten is calm: there, no fault fires and nothing is hostile, so that any error at all is a failure.
 */
#ifndef KELPIE_SIM_SWARM_H
#define KELPIE_SIM_SWARM_H

#include "sim/model.h"
#include "sim/world.h"

#define SIM_SWARM_PLAN_BYTES 8192u
#define SIM_SWARM_VM_MAX 20u
#define SIM_SWARM_CLIENT_MAX 5u
#define SIM_SWARM_PAIR_MAX 128u
#define SIM_SWARM_PAIR_WORDS (SIM_SWARM_PAIR_MAX / 64)
#define SIM_SWARM_PAIR_BYTES 96u

/* What stays broken when the faults end; the rest must recover. */
enum sim_swarm_damage {
    SIM_SWARM_DAMAGE_NONE,
    SIM_SWARM_DAMAGE_GUEST,  /* one guest is hostile */
    SIM_SWARM_DAMAGE_VMM,    /* one QEMU is hung */
    SIM_SWARM_DAMAGE_CLIENT, /* one client never comes back */
    SIM_SWARM_DAMAGE_COUNT,
};

struct sim_swarm {
    uint64_t seed;
    bool is_calm;
    struct sim_options options; /* plan and trace are NULL: the caller sets them */
    uint32_t vm_count;          /* 1..20 */
    uint32_t client_count;      /* 1..5 */
    uint32_t owner_count;       /* 1..2: how many of the clients own VMs */
    uint32_t operation_count;   /* of all clients together: 20..200 */
    bool has_disks;             /* VMs have a root and a writable layer of their own on disks */
    bool has_clones;            /* VMs that live are forked, besides what the weights say */
    uint32_t weights[SIM_MODEL_OP_COUNT]; /* 0 (never) or 1..100; START and EXEC never 0 */
    uint32_t buffer_bytes;                /* clients read so much at once; 0: what comes */
    uint32_t timeout_tenths;              /* of every timeout: 1 (a tenth) .. 100; 10: as it is */
    uint32_t pool_size;                   /* 0..5 */
    enum sim_swarm_damage damage;
    char plan[SIM_SWARM_PLAN_BYTES]; /* of faults, with its header */
};

/* A function of the seed alone. */
void kelpie__sim_swarm_draw(uint64_t seed, struct sim_swarm *out);

/* The pairs of a fault's point and an action that can be drawn: "qmp.stop => hang". */
struct sim_faults;
uint32_t kelpie__sim_swarm_pair_count(void);
void kelpie__sim_swarm_pair_name(uint32_t index, char out[SIM_SWARM_PAIR_BYTES]);
/* A bit for each pair of which a fault has fired in a run. */
void kelpie__sim_swarm_pairs_fired(const struct sim_faults *faults,
                                   uint64_t out[SIM_SWARM_PAIR_WORDS]);

#endif
