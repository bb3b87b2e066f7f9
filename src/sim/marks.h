/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The catalogue of all marks of this build (os/os_mark.h), which the linker collects. Empty but in
 * a build with -Dsimulation=true.
 */
#ifndef KELPIE_SIM_MARKS_H
#define KELPIE_SIM_MARKS_H

#include <stdint.h>

#include "os/os.h"

#define SIM_MARK_MAX 1024u
#define SIM_MARK_WORDS (SIM_MARK_MAX / 64u)

uint32_t kelpie__sim_marks_count(void);
/* Of the index-th, in no particular order. */
const char *kelpie__sim_marks_name(uint32_t index);

/* A set of marks, by their indexes. */
struct sim_marks {
    uint64_t words[SIM_MARK_WORDS];
};

void kelpie__sim_marks_add(struct sim_marks *marks, const struct kelpie_mark *mark);
bool kelpie__sim_marks_has(const struct sim_marks *marks, uint32_t index);

#endif
