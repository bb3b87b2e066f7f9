/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A failing run made small: delta debugging (Zeller and Hildebrandt, 2002) over the rules of a
 * concrete fault plan and the operations of a workload, then over the values of each operation.
 * What is left fails in the same way, and no longer does when any one element is taken away (unless
 * the budget ended first).
 *
 * Nothing here knows what a run is: the caller says whether a part still fails in the same way.
 */
#ifndef KELPIE_SIM_SHRINK_H
#define KELPIE_SIM_SHRINK_H

#include "core/base.h"

#define SIM_SHRINK_RUNS_MAX 5000u
#define SIM_SHRINK_TIME_NS INT64_C(60000000000)

struct kelpie_os;

struct sim_shrink_budget {
    uint32_t runs_max;    /* 0: SIM_SHRINK_RUNS_MAX */
    struct kelpie_os *os; /* a real clock; borrowed; NULL: runs count alone */
    int64_t deadline_ns;  /* of its monotonic clock */
};

/* What a part of the elements does: the same failure, another one, none. Only the same counts. */
enum sim_shrink_verdict {
    SIM_SHRINK_PASSES,
    SIM_SHRINK_FAILS_THE_SAME,
    SIM_SHRINK_FAILS_OTHERWISE,
};

struct sim_shrink_result {
    uint32_t runs;
    uint32_t others;   /* runs that failed otherwise: findings of their own */
    bool is_minimal;   /* nothing more can be taken away, one at a time */
    bool is_confirmed; /* the whole failed in the first place */
};

/* ---- any list -------------------------------------------------------------------------------- */

/* Makes the list of `count` elements (indexes into the caller's) small, in place; gives how many
 * are left. When the whole does not fail, nothing is taken away. */
uint32_t kelpie__sim_shrink_list(
    uint32_t *inout_chosen, uint32_t count,
    enum sim_shrink_verdict (*run)(void *context, const uint32_t *chosen, uint32_t count),
    void *context, const struct sim_shrink_budget *budget, struct sim_shrink_result *out_result);

/* ---- plans and operations ---------------------------------------------------------------------
 */

/* Rules of a plan, one a line; its header and comments stay. In place; gives the rules left. */
uint32_t kelpie__sim_shrink_plan(char *inout_plan,
                                 bool (*fails_the_same)(void *context, const char *plan),
                                 void *context, const struct sim_shrink_budget *budget);

/* A plan and a workload together. */
struct sim_shrink_case {
    char *plan;           /* in place */
    uint32_t *operations; /* in place: indexes of the caller's operations */
    uint32_t operation_count;
    /* Groups to try first as wholes, operation by operation (a client, a VM); NULL: none. */
    const uint32_t *groups;
    bool has_groups_first; /* before the faults: what a fault is about does not move with them */
};

/* `run`: a plan, and the operations that are kept. First faults, then groups of operations (or
 * these first), then operations, then faults again. */
void kelpie__sim_shrink_case(struct sim_shrink_case *inout,
                             enum sim_shrink_verdict (*run)(void *context, const char *plan,
                                                            const uint32_t *operations,
                                                            uint32_t operation_count),
                             void *context, const struct sim_shrink_budget *budget,
                             struct sim_shrink_result *out_result);

/* ---- values -----------------------------------------------------------------------------------
 */

/* Makes a number small: tries the least, then halves the distance from below; `fails_the_same` says
 * of each. Gives the smallest that it found, at least `least`; assumes nothing of the order. */
uint64_t kelpie__sim_shrink_value(uint64_t value, uint64_t least,
                                  bool (*fails_the_same)(void *context, uint64_t value),
                                  void *context, const struct sim_shrink_budget *budget);

#endif
