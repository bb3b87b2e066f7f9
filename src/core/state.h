/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The states of a VM and what is allowed in each: contract.md, 1, as one table.
 */
#ifndef KELPIE_CORE_STATE_H
#define KELPIE_CORE_STATE_H

#include "core/base.h"
#include "core/error.h"

enum kelpie_vm_verb {
    KELPIE_VERB_START,
    KELPIE_VERB_STOP,
    KELPIE_VERB_KILL,
    KELPIE_VERB_PAUSE,
    KELPIE_VERB_RESUME,
    KELPIE_VERB_EXEC,
    KELPIE_VERB_DELETE,
    KELPIE_VERB_SNAPSHOT,
    KELPIE_VERB_RESTORE,
    KELPIE_VERB_COUNT,
};

/* "exec". */
const char *kelpie__verb_name(enum kelpie_vm_verb verb);

/* False and nothing else: the name is none. */
KELPIE_MUST_CHECK bool kelpie__state_parse(const char *name, enum kelpie_vm_state *out);

/* 0, or the error that names the operation, the state and the states it needs: ALREADY_RUNNING for
 * a start of a VM that runs, else STATE. */
KELPIE_MUST_CHECK int kelpie__state_allow(enum kelpie_vm_state state, enum kelpie_vm_verb verb,
                                          const char *vm_name, struct kelpie_error *error);

/* The only way a state changes: asserts that the table has this transition. */
void kelpie__state_change(enum kelpie_vm_state *state, enum kelpie_vm_state next);

/* A VMM runs, or is about to. */
bool kelpie__state_is_live(enum kelpie_vm_state state);

#endif
