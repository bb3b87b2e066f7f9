/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whose VM it is that a run fails for: the others go with all that happens to them.
 */
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "simcli/relax.h"
#include "simcli/shrinking.h"

#define SHRINKING_WORD_BYTES_MAX 32u
#define SHRINKING_NUMBERS_MAX 16u /* of a rule, below its own */

/* ---- whole VMs ------------------------------------------------------------------------------- */

/* The plan's lines but those about this VM. NULL: no memory. */
static char *plan_without_vm(const char *plan, uint32_t vm) {
    char word[SHRINKING_WORD_BYTES_MAX];
    char *left = malloc(strlen(plan) + 1);
    size_t length = 0;
    bool fits = kelpie__text_format(word, sizeof(word), " vm=vm-%u ", vm);
    KELPIE_ASSERT(vm < SIM_SWARM_VM_MAX);
    KELPIE_ASSERT(fits);
    while (left != NULL && *plan != '\0') { /* bound: the text */
        size_t taken = strcspn(plan, "\n");
        taken += plan[taken] == '\n' ? 1 : 0;
        const char *found = strstr(plan, word);
        if (found == NULL || found >= plan + taken) {
            memcpy(left + length, plan, taken);
            length += taken;
        }
        plan += taken;
    }
    if (left != NULL) {
        left[length] = '\0';
    }
    return left;
}

/* The case with the operations of this VM alone, or with all the others', in `tried`. */
static struct sim_case with_vm(struct shrinking *shrinking, uint32_t vm, bool is_alone) {
    const struct sim_case *own = shrinking->own;
    struct sim_case changed = *own;
    KELPIE_ASSERT(vm < SIM_SWARM_VM_MAX);
    changed.operations = shrinking->tried;
    changed.operation_count = 0;
    for (uint32_t i = 0; i < own->operation_count; i += 1) {
        if ((own->operations[i].vm == vm) == is_alone) {
            shrinking->tried[changed.operation_count] = own->operations[i];
            changed.operation_count += 1;
        }
    }
    return changed;
}

/* The case becomes the changed one, whose operations are in `tried` and whose plan is its own, or
 * the case's. */
static void become(struct shrinking *shrinking, const struct sim_case *changed) {
    struct sim_case *own = shrinking->own;
    KELPIE_ASSERT(changed->operations == shrinking->tried);
    KELPIE_ASSERT(changed->operation_count <= own->operation_count);
    memcpy(own->operations, shrinking->tried, changed->operation_count * sizeof(*own->operations));
    own->operation_count = changed->operation_count;
    if (changed->plan != own->plan) {
        free(own->plan);
        own->plan = changed->plan;
    }
}

void kelpie__simcli_shrinking_drop_vms(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    kelpie__simcli_shrinking_check(shrinking);
    for (uint32_t vm = 0; vm < SIM_SWARM_VM_MAX; vm += 1) {
        struct sim_case changed = with_vm(shrinking, vm, false);
        if (changed.operation_count == own->operation_count || changed.operation_count == 0) {
            continue;
        }
        changed.plan = plan_without_vm(own->plan, vm);
        if (changed.plan != NULL && kelpie__simcli_shrinking_try_change(shrinking, &changed)) {
            become(shrinking, &changed);
        } else {
            free(changed.plan);
        }
    }
}

/* ---- one VM alone --------------------------------------------------------------------------- */

/* A rule about the n-th of something that other VMs have to do with is about an earlier one without
 * them. `before` and `length`: of its line. */
static bool try_numbers(struct shrinking *shrinking, struct sim_case *changed, size_t before,
                        size_t length) {
    char line[SIMCLI_RELAX_LINE_MAX];
    const char *plan = shrinking->own->plan;
    uint64_t number = kelpie__simcli_line_number(plan + before, length);
    bool is_same = false;
    kelpie__simcli_shrinking_check(shrinking);
    KELPIE_ASSERT(before + length <= strlen(plan));
    for (uint64_t i = 1; i < number && i <= SHRINKING_NUMBERS_MAX && !is_same; i += 1) {
        changed->plan = kelpie__simcli_renumber_line(plan + before, length, number - i, line)
                            ? kelpie__simcli_shrinking_with_line(plan, before, length, line)
                            : NULL;
        is_same = changed->plan != NULL && kelpie__simcli_shrinking_try_change(shrinking, changed);
        if (!is_same) {
            free(changed->plan);
            changed->plan = shrinking->own->plan;
        }
    }
    return is_same;
}

static bool try_vm(struct shrinking *shrinking, struct sim_case *changed) {
    const char *plan = shrinking->own->plan;
    bool is_same = kelpie__simcli_shrinking_try_change(shrinking, changed);
    size_t before = 0;
    kelpie__simcli_shrinking_check(shrinking);
    while (!is_same && plan[before] != '\0') { /* bound: the text */
        size_t length = strcspn(plan + before, "\n");
        is_same = try_numbers(shrinking, changed, before, length);
        before += length + (plan[before + length] == '\n' ? 1 : 0);
    }
    return is_same;
}

bool kelpie__simcli_shrinking_keep_one_vm(struct shrinking *shrinking) {
    const struct sim_case *own = shrinking->own;
    bool is_same = false;
    kelpie__simcli_shrinking_check(shrinking);
    for (uint32_t vm = 0; vm < SIM_SWARM_VM_MAX && !is_same; vm += 1) {
        struct sim_case changed = with_vm(shrinking, vm, true);
        bool is_part =
            changed.operation_count > 0 && changed.operation_count < own->operation_count;
        is_same = is_part && try_vm(shrinking, &changed);
        if (is_same) {
            become(shrinking, &changed);
        }
    }
    return is_same;
}

/* ---- who sees it ----------------------------------------------------------------------------- */

/* "... on vm-3 (value 7)": the VM that a failure is about; false: none is named so. */
static bool vm_of_reason(const char *reason, uint32_t *out) {
    static const char word[] = " on vm-";
    char number[SHRINKING_WORD_BYTES_MAX] = "";
    uint64_t vm = 0;
    const char *at = strstr(reason, word);
    size_t digits = at == NULL ? 0 : strspn(at + sizeof(word) - 1, "0123456789");
    KELPIE_ASSERT(strlen(reason) < SIM_RUN_REASON_BYTES_MAX);
    if (digits == 0 || digits >= sizeof(number)) {
        return false;
    }
    memcpy(number, at + sizeof(word) - 1, digits);
    bool is_vm = kelpie__text_u64(number, &vm) && vm < SIM_SWARM_VM_MAX;
    *out = (uint32_t)vm;
    return is_vm;
}

bool kelpie__simcli_shrinking_add_look(struct shrinking *shrinking) {
    struct sim_case *own = shrinking->own;
    struct sim_case changed = *own;
    uint32_t vm = 0;
    kelpie__simcli_shrinking_check(shrinking);
    KELPIE_ASSERT(own->operation_count > 0);
    if (own->operation_count == SIM_OPERATION_MAX || !vm_of_reason(shrinking->last_reason, &vm)) {
        return false;
    }
    const struct sim_operation look = {
        .is_look = true,
        .kind = SIM_LOOK_INSPECT,
        .client = SIM_SWARM_CLIENT_MAX - 1,
        .vm = (uint8_t)vm,
        .at_ns = shrinking->last_ns,
    };
    memcpy(shrinking->tried, own->operations, own->operation_count * sizeof(*own->operations));
    shrinking->tried[own->operation_count] = look;
    changed.operations = shrinking->tried;
    changed.operation_count += 1;
    bool is_same = kelpie__simcli_shrinking_try_change(shrinking, &changed);
    if (is_same) {
        own->operations[own->operation_count] = look;
        own->operation_count += 1;
    }
    return is_same;
}
