/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whose a fault is: rules that name a call by its number are tried as rules that name it by what it
 * has to do with (relax.h).
 */
#include <stdlib.h>
#include <string.h>

#include "simcli/relax.h"
#include "simcli/shrinking.h"

#define SHRINKING_RULES_MAX 64u /* more are not worth a run each */

/* Takes the plan; it stays when the case fails so. */
static bool try_plan(struct shrinking *shrinking, char *plan) {
    struct sim_case changed = *shrinking->own;
    changed.plan = plan;
    bool is_same = plan != NULL && kelpie__simcli_shrinking_try_change(shrinking, &changed);
    KELPIE_ASSERT(plan != shrinking->own->plan);
    free(is_same ? shrinking->own->plan : plan);
    shrinking->own->plan = is_same ? plan : shrinking->own->plan;
    return is_same;
}

static enum simcli_relaxed way(const struct shrinking *shrinking, uint32_t index) {
    static const enum simcli_relaxed by_number[SIMCLI_RELAXED_COUNT] = {
        SIMCLI_RELAXED_NUMBER_OF_VM, SIMCLI_RELAXED_TIME_OF_VM, SIMCLI_RELAXED_NEAR_OF_VM,
        SIMCLI_RELAXED_TIME,         SIMCLI_RELAXED_NEAR,       SIMCLI_RELAXED_NUMBER};
    static const enum simcli_relaxed by_time[SIMCLI_RELAXED_COUNT] = {
        SIMCLI_RELAXED_TIME_OF_VM, SIMCLI_RELAXED_NEAR_OF_VM,   SIMCLI_RELAXED_TIME,
        SIMCLI_RELAXED_NEAR,       SIMCLI_RELAXED_NUMBER_OF_VM, SIMCLI_RELAXED_NUMBER};
    KELPIE_ASSERT(index < SIMCLI_RELAXED_COUNT);
    return shrinking->is_by_number ? by_number[index] : by_time[index];
}

bool kelpie__simcli_shrinking_relax_all(struct shrinking *shrinking) {
    kelpie__simcli_shrinking_check(shrinking);
    for (uint32_t how = 0; how < SIMCLI_RELAXED_COUNT; how += 1) {
        kelpie__ignore(try_plan(
            shrinking, kelpie__simcli_relax_plan(shrinking->own->plan, way(shrinking, how))));
    }
    return kelpie__simcli_shrinking_count_rules(shrinking->own->plan, SHRINKING_BIRTH_WORD) == 0;
}

char *kelpie__simcli_shrinking_with_line(const char *plan, size_t before, size_t length,
                                         const char *line) {
    size_t added = strlen(line);
    size_t rest = strlen(plan) - before - length;
    char *changed = malloc(before + added + rest + 1);
    KELPIE_ASSERT(before < strlen(plan) + 1);
    KELPIE_ASSERT(before + length <= strlen(plan));
    if (changed != NULL) {
        memcpy(changed, plan, before);
        memcpy(changed + before, line, added);
        memcpy(changed + before + added, plan + before + length, rest + 1);
    }
    return changed;
}

void kelpie__simcli_shrinking_relax_rules(struct shrinking *shrinking) {
    size_t before = 0;
    uint32_t rules = 0;
    kelpie__simcli_shrinking_check(shrinking);
    while (shrinking->own->plan[before] != '\0' && rules < SHRINKING_RULES_MAX) { /* bound: lines */
        char line[SIMCLI_RELAX_LINE_MAX];
        size_t length = strcspn(shrinking->own->plan + before, "\n");
        bool is_relaxed = false;
        for (uint32_t how = 0; how < SIMCLI_RELAXED_COUNT && !is_relaxed; how += 1) {
            const char *plan = shrinking->own->plan;
            is_relaxed =
                kelpie__simcli_relax_line(plan + before, length, way(shrinking, how), line) &&
                try_plan(shrinking, kelpie__simcli_shrinking_with_line(plan, before, length, line));
        }
        rules += 1;
        before += strcspn(shrinking->own->plan + before, "\n");
        before += shrinking->own->plan[before] == '\n' ? 1 : 0;
    }
}
