/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Which seeds to run, as people say it.
 */
#ifndef KELPIE_SIM_SEEDS_H
#define KELPIE_SIM_SEEDS_H

#include "core/base.h"

/* "N": 0 to N-1, N > 0. "A..B": A to B. False: it is neither, and nothing is written. */
KELPIE_MUST_CHECK bool kelpie__sim_seeds_parse(const char *text, uint64_t *out_first,
                                               uint64_t *out_last);

#endif
