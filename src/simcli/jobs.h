/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Many runs on several processors: a process for each, made by fork(2), each with a nursery of its
 * own. A run that ends its process (an assertion) is a result like any other.
 */
#ifndef KELPIE_SIMCLI_JOBS_H
#define KELPIE_SIMCLI_JOBS_H

#include "sim/run.h"

#define SIMCLI_FAILURES_MAX 1024u
#define SIMCLI_AT_BYTES_MAX 640u

struct sim_nursery;
struct simcli;

/* Flags of a run. */
enum simcli_run_flag {
    SIMCLI_RUN_DONE = 1,
    SIMCLI_RUN_FIRED = 2,
    SIMCLI_RUN_PLAYED = 4,
    SIMCLI_RUN_CRASHED = 8,
};

/* What is kept of each run. */
struct simcli_note {
    uint32_t flags;                       /* enum simcli_run_flag */
    uint32_t value;                       /* whatever the campaign counts */
    uint64_t pairs[SIM_SWARM_PAIR_WORDS]; /* that fired */
};

struct simcli_outcome {
    enum kelpie_sim_verdict verdict;
    uint32_t flags;
    uint32_t value;
    uint64_t pairs[SIM_SWARM_PAIR_WORDS];
    char reason[SIM_RUN_REASON_BYTES_MAX];
    char at[SIMCLI_AT_BYTES_MAX]; /* what --at replays it, where its index does not say so; or "" */
};

typedef void (*simcli_work)(void *context, uint64_t index, struct sim_nursery *nursery,
                            struct simcli_outcome *out);

struct simcli_failure {
    uint64_t index;
    struct simcli_outcome outcome;
};

struct simcli_campaign {
    const char *name; /* for progress */
    uint64_t count;   /* of runs */
    int64_t end_ns;   /* no run begins after it; 0: no limit */
    simcli_work work;
    void *context;
    /* out */
    uint64_t done;
    uint64_t failed;
    struct simcli_note *notes; /* shared: of each run */
    uint32_t failure_count;
    const struct simcli_failure *failures; /* shared: the first ones, in order */
};

/* False: processes or memory could not be had (told). */
bool kelpie__simcli_campaign_run(struct simcli *simcli, struct simcli_campaign *campaign);
void kelpie__simcli_campaign_release(struct simcli_campaign *campaign);

/* Failures of the same kind are told once: how many there are, and the first. Gives its verdict; 0:
 * there is none. */
typedef void (*simcli_tell_one)(void *context, const struct simcli_failure *first, uint32_t count);
int kelpie__simcli_campaign_tell(const struct simcli_campaign *campaign, simcli_tell_one tell,
                                 void *context);

/* Two reasons that say the same of others: numbers, and whose they are, make no other kind. */
bool kelpie__simcli_is_same_kind(const char *first, const char *second);

#endif
