/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the complete searches share.
 */
#ifndef KELPIE_SIMCLI_SWEEP_H
#define KELPIE_SIMCLI_SWEEP_H

#include "sim/search.h"
#include "simcli/jobs.h"
#include "simcli/simcli.h"

/* The scenario that the command line names; *out NULL: all. False: there is none of that name
 * (told). */
KELPIE_MUST_CHECK bool kelpie__simcli_scenario(const struct simcli *simcli,
                                               const struct sim_scenario **out);
/* One run with its story, as --at says. */
struct sim_scenario_options;
int kelpie__simcli_run_at(struct simcli *simcli, const struct sim_scenario_options *at);
/* What the complete searches say of a failure: why, how often, and the line that replays it. */
void kelpie__simcli_tell_failure(const char *verb, const struct sim_scenario *scenario,
                                 const char *at, const struct simcli_outcome *outcome,
                                 uint32_t count);

#endif
