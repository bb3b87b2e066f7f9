/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Short lives of one client, one for each public operation, for complete searches: what comes
 * before the operation is made ready, then the operation is done, under the same judge and
 * invariants as every run; then another client looks at what is there, and all comes to rest.
 */
#ifndef KELPIE_SIM_SCENARIO_H
#define KELPIE_SIM_SCENARIO_H

#include "sim/run.h"

#define SIM_SCENARIO_TREE_FILES_MAX 256u

struct sim_player;
struct sim_nursery;

enum sim_scenario_before {
    SIM_SCENARIO_NOTHING, /* the library is not open */
    SIM_SCENARIO_OPEN,
    SIM_SCENARIO_CREATED,
    SIM_SCENARIO_RUNNING,
    SIM_SCENARIO_PAUSED,
    SIM_SCENARIO_TEMPLATE_CREATED, /* as CREATED and RUNNING; its VM may leave a template */
    SIM_SCENARIO_TEMPLATE_RUNNING, /* and be started from one */
    SIM_SCENARIO_SAVED,            /* it runs, and has a snapshot */
    SIM_SCENARIO_EXPORTED,         /* likewise, and that has left as a stream */
};

struct sim_scenario {
    const char *name;
    const char *what; /* for people */
    enum sim_scenario_before before;
    bool is_owned;                           /* the VM is ephemeral, and goes with its client */
    bool (*play)(struct sim_player *player); /* false: it is no use to go on */
    bool has_death;                          /* something dies in it: it is never calm */
    bool has_disk;                           /* with layers, once there is a snapshot */
};

/* The index-th; NULL after the last. */
const struct sim_scenario *kelpie__sim_scenario(uint32_t index);
const struct sim_scenario *kelpie__sim_scenario_find(const char *name); /* NULL: there is none */

struct sim_scenario_options {
    const struct sim_scenario *scenario;
    uint64_t seed;
    const char *plan;            /* borrowed; NULL: nothing goes wrong */
    struct sim_trace *trace;     /* borrowed; may be NULL */
    struct sim_nursery *nursery; /* borrowed; may be NULL */
    enum sim_disk_profile disk_profile;
    /* For crash states: what the n-th power loss of the run leaves (disk.h's index; those beyond
     * are drawn), and no errors of a disk are to be expected: a VM is there whole, or not at all.
     */
    const uint64_t *crash_indexes; /* borrowed */
    uint32_t crash_index_count;
    uint64_t crash_limit;
    bool is_recovery; /* two clients look, the second has to find what the first left */
    bool is_calm;     /* nothing goes wrong, so any error is a failure */
};

struct sim_scenario_result {
    struct sim_run_result run;
    /* Of the calls of the trace, those of the operation: after `first`, up to `last`. */
    uint64_t first;
    uint64_t last;
    uint64_t looked; /* up to here, the clients that look */
    bool is_played;  /* the client came to its end */
    /* States that the n-th power loss could have left. */
    uint64_t crash_counts[2];
    uint32_t crashes;
};

/* Never fails but by its verdict. */
void kelpie__sim_scenario_run(const struct sim_scenario_options *options,
                              struct sim_scenario_result *out);
void kelpie__sim_scenario_release(struct sim_scenario_result *result);

#endif
