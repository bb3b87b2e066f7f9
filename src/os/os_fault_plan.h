/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Fault plans as text (docs/testing.md): one rule a line, or separated by ';'.
 *     point [role=R] [path=GLOB] p=0.02 | nth=7 | every=5 | window=10s..12s [max=N] =>
 * action[:argument] A point is the name of an operation ("read"), of a labelled handle's operation
 * ("qmp.read"), or "*".
 */
#ifndef KELPIE_OS_OS_FAULT_PLAN_H
#define KELPIE_OS_OS_FAULT_PLAN_H

#include "core/base.h"

#define KELPIE_FAULT_RULE_MAX 32u
#define KELPIE_FAULT_TEXT_MAX 64u
#define KELPIE_FAULT_PER_ONE 1000000000u /* a probability is a number of billionths */

enum kelpie_fault_trigger {
    KELPIE_FAULT_PROBABILITY,
    KELPIE_FAULT_NTH,
    KELPIE_FAULT_EVERY,
    KELPIE_FAULT_WINDOW,
};

enum kelpie_fault_action {
    KELPIE_FAULT_ERRNO,      /* the call fails; argument: the errno value */
    KELPIE_FAULT_KILL,       /* SIGKILL of this process */
    KELPIE_FAULT_STOP,       /* SIGSTOP of this process */
    KELPIE_FAULT_KILL_CHILD, /* SIGKILL of the children whose path matches path= (of the spawn) */
    KELPIE_FAULT_STOP_CHILD,
    KELPIE_FAULT_DELAY, /* what is read arrives so many ms later */
    KELPIE_FAULT_SHORT, /* at most so many bytes (1) */
    /* one bit of what was read is changed; argument: in its n-th byte, 0: anywhere */
    KELPIE_FAULT_MUTATE,
    KELPIE_FAULT_DROP, /* what was read is thrown away */
};

struct kelpie_fault_rule {
    char point[KELPIE_FAULT_TEXT_MAX];
    char role[KELPIE_FAULT_TEXT_MAX]; /* "": any */
    char path[KELPIE_FAULT_TEXT_MAX]; /* "": any; * matches any bytes */
    enum kelpie_fault_trigger trigger;
    uint64_t value; /* billionths, n, or the window's begin in ns */
    uint64_t end;   /* of the window */
    uint64_t max;   /* firings; 0: no limit */
    enum kelpie_fault_action action;
    uint64_t argument;
    uint64_t calls; /* that matched so far */
    uint64_t fired;
};

struct kelpie_fault_plan {
    uint32_t count;
    struct kelpie_fault_rule rules[KELPIE_FAULT_RULE_MAX];
};

/* False: the text is no plan; *out_problem points to the word that is not understood. */
KELPIE_MUST_CHECK bool kelpie__fault_plan_parse(const char *text, struct kelpie_fault_plan *out,
                                                const char **out_problem);
KELPIE_MUST_CHECK bool kelpie__fault_glob(const char *pattern, const char *text);
/* "EIO" or "kill", as the plan spells it. */
const char *kelpie__fault_action_name(const struct kelpie_fault_rule *rule);

#endif
