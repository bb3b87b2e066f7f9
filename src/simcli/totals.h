/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a campaign of runs adds up: how much was done, which faults have fired, and whether that is
 * enough to call it a test.
 */
#ifndef KELPIE_SIMCLI_TOTALS_H
#define KELPIE_SIMCLI_TOTALS_H

#include "simcli/jobs.h"
#include "simcli/simcli.h"

struct simcli_totals {
    uint64_t runs;
    uint64_t calls;
    int64_t virtual_ns;
    uint64_t commands;
    uint64_t class_runs[SIM_RUN_CLASS_MAX]; /* in which a fault of the class fired */
    uint64_t pair_runs[SIM_SWARM_PAIR_MAX]; /* in which a fault of the pair fired */
    int64_t begun_ns;
    int64_t told_ns;
};

/* A bit for each class of which a fault fired. */
uint32_t kelpie__simcli_totals_classes(const struct sim_run_result *result);
void kelpie__simcli_totals_add(struct simcli_totals *totals, const struct sim_run_result *result);
/* A run of another process: which faults fired is all that is known of it here. */
void kelpie__simcli_totals_add_note(struct simcli_totals *totals, const struct simcli_note *note);

void kelpie__simcli_totals_progress(const struct simcli *simcli, struct simcli_totals *totals);
/* Classes and pairs, unless --quiet. */
void kelpie__simcli_totals_tell(const struct simcli *simcli, const struct simcli_totals *totals);
/* The same behind what was done, how fast, in how much memory. */
void kelpie__simcli_totals_summary(const struct simcli *simcli, const struct simcli_totals *totals);
/* 0; KELPIE_SIM_VACUOUS: a class fires too seldom, or a pair never (told). */
KELPIE_MUST_CHECK int kelpie__simcli_totals_check(const struct simcli *simcli,
                                                  const struct simcli_totals *totals);

#endif
