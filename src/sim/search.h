/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Complete searches: every call that a scenario makes, and every fault that fits it. A scenario is
 * run once without faults; what it did is the list of places where something can go wrong. Up to
 * its fault, each further run does the same.
 */
#ifndef KELPIE_SIM_SEARCH_H
#define KELPIE_SIM_SEARCH_H

#include "sim/machine.h"
#include "sim/scenario.h"

#define SIM_SEARCH_RULE_BYTES_MAX 256u
#define SIM_SEARCH_SITE_BYTES_MAX 64u

enum sim_search_kind {
    SIM_SEARCH_FAIL,     /* this call fails */
    SIM_SEARCH_FAIL_ALL, /* and all like it, of this process, from then on */
    SIM_SEARCH_KILL,
    SIM_SEARCH_POWER_LOSS,
    SIM_SEARCH_STOP, /* for ten seconds */
    SIM_SEARCH_KIND_COUNT,
};

struct sim_search_call {
    uint32_t birth; /* of the process */
    uint64_t nth;   /* of its calls */
    int64_t time_ns;
    enum sim_op op;
    bool is_of_operation; /* not before, and not after what the scenario is about */
    bool is_of_looking;
    char role[9];
    char what[32]; /* path's end, or label */
};

struct sim_search_case {
    uint32_t call;
    enum sim_search_kind kind;
};

struct sim_search {
    const struct sim_scenario *scenario; /* borrowed */
    uint64_t seed;
    struct sim_search_call *calls; /* owned: of the product's processes, in order */
    uint32_t call_count;
    struct sim_search_case *cases; /* owned: all that fit */
    uint32_t case_count;
    uint64_t hash; /* of the run without faults */
};

/* Runs the scenario as `options` say (plan may be a first fault; trace is set here) and lists its
 * calls. The verdict of that run; 0: all of it is there. */
KELPIE_MUST_CHECK enum kelpie_sim_verdict kelpie__sim_search_begin(
    struct sim_search *search, const struct sim_scenario_options *options,
    char out_reason[SIM_RUN_REASON_BYTES_MAX]);
void kelpie__sim_search_end(struct sim_search *search);

/* Whether any fault fits. */
bool kelpie__sim_search_has_case(const struct sim_search_call *call);
/* The rule of a plan that is this case. */
void kelpie__sim_search_rule(const struct sim_search *search, const struct sim_search_case *one,
                             char out[SIM_SEARCH_RULE_BYTES_MAX]);
/* "monitor rename state.json": role, operation, label or class of the path. */
void kelpie__sim_search_site(const struct sim_search_call *call,
                             char out[SIM_SEARCH_SITE_BYTES_MAX]);
/* The call can change what a crash leaves. */
bool kelpie__sim_search_is_mutating(enum sim_op op);
const char *kelpie__sim_search_kind_name(enum sim_search_kind kind);

#endif
