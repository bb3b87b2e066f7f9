/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the ways to make a failing run smaller share: shrinking.c is the order in which they are
 * tried, shrinking_rules.c and shrinking_vms.c are some of them.
 */
#ifndef KELPIE_SIMCLI_SHRINKING_H
#define KELPIE_SIMCLI_SHRINKING_H

#include "sim/shrink.h"
#include "simcli/attempt.h"
#include "simcli/simcli.h"

#define SHRINKING_BIRTH_WORD " birth="

struct shrinking {
    struct simcli *simcli;
    struct simcli_attempts attempts;
    struct sim_case *own;                /* as small as it is so far */
    const struct sim_run_result *failed; /* what it has to do */
    struct sim_operation *tried;         /* owned: room for as many as the case has */
    uint32_t *chosen;                    /* owned: likewise */
    uint32_t *groups;                    /* owned: likewise */
    int64_t *begun_ns;                   /* owned: likewise */
    struct sim_shrink_budget budget;
    uint32_t runs_max;
    uint32_t runs;
    bool is_by_number; /* what a fault is named by, if it can be */
    /* of the last run that failed the same */
    uint64_t calls;
    int64_t last_ns;
    char last_reason[SIM_RUN_REASON_BYTES_MAX];
};

static inline void kelpie__simcli_shrinking_check(const struct shrinking *shrinking) {
    kelpie__simcli_check(shrinking->simcli);
    KELPIE_ASSERT(shrinking->own->plan != NULL && shrinking->own->operations != NULL);
    KELPIE_ASSERT(shrinking->own->operation_count > 0);
    KELPIE_ASSERT(shrinking->own->operation_count <= SIM_OPERATION_MAX);
    KELPIE_ASSERT(shrinking->failed->verdict != KELPIE_SIM_PASS);
}

/* A change of the case that stays when it fails the same. False also when the budget is spent. */
KELPIE_MUST_CHECK bool kelpie__simcli_shrinking_try_change(struct shrinking *shrinking,
                                                           const struct sim_case *changed);
uint32_t kelpie__simcli_shrinking_count_rules(const char *plan, const char *word);

/* shrinking_rules.c: all rules at once, as far as it goes. True: none names a call by its number
 * any more. */
bool kelpie__simcli_shrinking_relax_all(struct shrinking *shrinking);
/* Each rule alone. */
void kelpie__simcli_shrinking_relax_rules(struct shrinking *shrinking);
/* The plan with the line of `length` bytes behind the first `before` replaced; owned by the caller;
 * NULL: no memory. */
char *kelpie__simcli_shrinking_with_line(const char *plan, size_t before, size_t length,
                                         const char *line);

/* shrinking_vms.c: a VM and what happens to it, at once: of these two each may hold the other up.
 */
void kelpie__simcli_shrinking_drop_vms(struct shrinking *shrinking);
/* False: no VM fails so alone. */
bool kelpie__simcli_shrinking_keep_one_vm(struct shrinking *shrinking);
/* Whoever looks at all VMs now and then has to come by while it can be seen: what else there is may
 * do nothing but make him late. A look of the case's own, where he saw it, takes his place. */
bool kelpie__simcli_shrinking_add_look(struct shrinking *shrinking);

#endif
