/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A case: all that a failing run is made of, as a text that replays it. It is a fault plan
 * (os/os_fault_plan.h) whose header says how the rest of the run is drawn, with a line for each
 * operation of the clients:
 *     kelpie-plan 1 seed=7 options=faults=swarm,canary=7
 *     * role=monitor birth=12 nth=217 => kill
 *     do op=exec kind=cat client=0 vm=3 rest=16 value=9
 * Without a `do` line the operations are those that the seed draws.
 */
#ifndef KELPIE_SIM_CASE_H
#define KELPIE_SIM_CASE_H

#include "sim/run.h"

#define SIM_CASE_PROBLEM_MAX 256u

struct sim_case {
    uint64_t seed;
    enum sim_run_faults faults; /* SWARM: the rules below, in a run drawn as the swarm draws it */
    bool is_plain;
    bool is_krun;
    uint32_t canary;
    char *plan; /* owned: rules, comments, a header that counts for nothing; "": none */
    struct sim_operation *operations; /* owned; NULL: those that the seed draws */
    uint32_t operation_count;
};

/* False: out_problem says which line, and what was expected; nothing has to be released. The rules
 * are looked at by the run. */
KELPIE_MUST_CHECK bool kelpie__sim_case_read(const char *text, struct sim_case *out,
                                             char out_problem[SIM_CASE_PROBLEM_MAX]);
void kelpie__sim_case_write(const struct sim_case *written, sim_trace_write out, void *context);
void kelpie__sim_case_release(struct sim_case *released);

/* The options that run it; they borrow from the case. */
void kelpie__sim_case_options(const struct sim_case *run, struct sim_run_options *out);

#endif
