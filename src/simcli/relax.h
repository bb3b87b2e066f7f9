/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * " birth=12 nth=217" names a call by its number, which is another one as soon as an operation is
 * left out before it. A rule that names it by what it has to do with, and by its time, stays.
 */
#ifndef KELPIE_SIMCLI_RELAX_H
#define KELPIE_SIMCLI_RELAX_H

#include "os/os_fault_plan.h"

#define SIMCLI_RELAX_LINE_MAX (KELPIE_FAULT_LINE_MAX + 256u) /* a rule and its comment */

/* By time an operation that is left out moves a rule least where operations have times; by number
 * where they have none, or what was left out was about another VM. */
enum simcli_relaxed {
    SIMCLI_RELAXED_NUMBER_OF_VM, /* of its role and VM, the first call with this number */
    SIMCLI_RELAXED_TIME_OF_VM,   /* the first call of its role for its VM from that time on */
    SIMCLI_RELAXED_NEAR_OF_VM,   /* of its role and VM, the call with this number near that time */
    SIMCLI_RELAXED_TIME,         /* of its role, the first call from that time on */
    SIMCLI_RELAXED_NEAR,         /* of its role, the call with this number near that time */
    SIMCLI_RELAXED_NUMBER,       /* of its role, every process's call with this number */
    SIMCLI_RELAXED_COUNT,
};

/* A line of a concrete plan (its comment says when it fired, and for which VM) as a rule of that
 * kind; TIME also of one that was relaxed to a number. False: it has no such form. */
KELPIE_MUST_CHECK bool kelpie__simcli_relax_line(const char *line, size_t length,
                                                 enum simcli_relaxed how,
                                                 char out[SIMCLI_RELAX_LINE_MAX]);
/* Its nth=, when it is one that does not name a process by its birth; else 0. */
uint64_t kelpie__simcli_line_number(const char *line, size_t length);
/* The same rule with another nth=. */
KELPIE_MUST_CHECK bool kelpie__simcli_renumber_line(const char *line, size_t length,
                                                    uint64_t number,
                                                    char out[SIMCLI_RELAX_LINE_MAX]);
/* The plan with all of its lines that have such a form in it; owned by the caller. NULL: no line
 * has, or there is no memory. */
char *kelpie__simcli_relax_plan(const char *plan, enum simcli_relaxed how);

#endif
