/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See state.h.
 */
#include "core/state.h"

#include "core/text.h"

#define STATE_COUNT 6u
#define BIT(state) (1u << (state))

static const char *const state_names[STATE_COUNT] = {
    [KELPIE_VM_CREATED] = "created", [KELPIE_VM_STARTING] = "starting",
    [KELPIE_VM_RUNNING] = "running", [KELPIE_VM_PAUSED] = "paused",
    [KELPIE_VM_STOPPED] = "stopped", [KELPIE_VM_CRASHED] = "crashed",
};

/* An operation: the states in which it is allowed, and the way out of the others. */
static const struct {
    const char *name;
    unsigned allowed;
    const char *needs;
    const char *remedy;
} verbs[KELPIE_VERB_COUNT] = {
    [KELPIE_VERB_START] = {"start",
                           BIT(KELPIE_VM_CREATED) | BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED),
                           "created, stopped or crashed", "wait until its start has ended"},
    [KELPIE_VERB_STOP] = {"stop", BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED),
                          "running or paused", "there is nothing to stop"},
    [KELPIE_VERB_KILL] = {"kill",
                          BIT(KELPIE_VM_STARTING) | BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED),
                          "starting, running or paused", "there is nothing to kill"},
    [KELPIE_VERB_PAUSE] = {"pause", BIT(KELPIE_VM_RUNNING), "running", "start it first"},
    [KELPIE_VERB_RESUME] = {"resume", BIT(KELPIE_VM_PAUSED), "paused",
                            "only a paused VM can be resumed"},
    [KELPIE_VERB_EXEC] = {"exec", BIT(KELPIE_VM_RUNNING), "running", "start it first"},
    [KELPIE_VERB_DELETE] = {"delete",
                            BIT(KELPIE_VM_CREATED) | BIT(KELPIE_VM_STOPPED) |
                                BIT(KELPIE_VM_CRASHED),
                            "created, stopped or crashed", "stop it first, or force the deletion"},
    [KELPIE_VERB_SNAPSHOT] = {"snapshot", BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED),
                              "running or paused", "start it first"},
    [KELPIE_VERB_RESTORE] = {"restore",
                             BIT(KELPIE_VM_CREATED) | BIT(KELPIE_VM_RUNNING) |
                                 BIT(KELPIE_VM_PAUSED) | BIT(KELPIE_VM_STOPPED) |
                                 BIT(KELPIE_VM_CRASHED),
                             "anything but starting", "wait until its start has ended"},
};

/* Row: from; bits: to. A failed or killed start goes back to where it came from. */
static const unsigned transitions[STATE_COUNT] = {
    [KELPIE_VM_CREATED] = BIT(KELPIE_VM_STARTING),
    [KELPIE_VM_STARTING] = BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED) | BIT(KELPIE_VM_CREATED) |
                           BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED),
    [KELPIE_VM_RUNNING] = BIT(KELPIE_VM_PAUSED) | BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED),
    [KELPIE_VM_PAUSED] = BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED),
    [KELPIE_VM_STOPPED] = BIT(KELPIE_VM_STARTING),
    [KELPIE_VM_CRASHED] = BIT(KELPIE_VM_STARTING),
};

static_assert(KELPIE_VM_CRASHED + 1 == STATE_COUNT, "the tables have a row for every state");

const char *kelpie_vm_state_name(enum kelpie_vm_state state) {
    return (unsigned)state < STATE_COUNT ? state_names[state] : "unknown";
}

const char *kelpie__verb_name(enum kelpie_vm_verb verb) {
    KELPIE_ASSERT((unsigned)verb < KELPIE_VERB_COUNT);
    return verbs[verb].name;
}

bool kelpie__state_parse(const char *name, enum kelpie_vm_state *out) {
    for (unsigned i = 0; i < STATE_COUNT; i += 1) {
        if (kelpie__text_equal(name, state_names[i])) {
            *out = (enum kelpie_vm_state)i;
            return true;
        }
    }
    return false;
}

/* The way out of a state in which an operation is refused. */
static const char *remedy_of(enum kelpie_vm_state state, enum kelpie_vm_verb verb) {
    KELPIE_ASSERT((verbs[verb].allowed & BIT(state)) == 0);
    if (state == KELPIE_VM_STARTING) {
        return "wait until its start has ended";
    }
    if (state == KELPIE_VM_PAUSED && (verbs[verb].allowed & BIT(KELPIE_VM_RUNNING)) != 0) {
        return verb == KELPIE_VERB_PAUSE ? "there is nothing to do" : "resume it first";
    }
    return verbs[verb].remedy;
}

int kelpie__state_allow(enum kelpie_vm_state state, enum kelpie_vm_verb verb, const char *vm_name,
                        struct kelpie_error *error) {
    KELPIE_ASSERT((unsigned)state < STATE_COUNT);
    KELPIE_ASSERT((unsigned)verb < KELPIE_VERB_COUNT);
    if ((verbs[verb].allowed & BIT(state)) != 0) {
        return 0;
    }
    bool runs = state == KELPIE_VM_RUNNING || state == KELPIE_VM_PAUSED;
    if (verb == KELPIE_VERB_START && runs) {
        return kelpie__fail(error, KELPIE_E_ALREADY_RUNNING, 0, "start: VM \"%s\" is %s already",
                            vm_name, state_names[state]);
    }
    return kelpie__fail(error, KELPIE_E_STATE, 0, "%s: VM \"%s\" is %s, and has to be %s: %s",
                        verbs[verb].name, vm_name, state_names[state], verbs[verb].needs,
                        remedy_of(state, verb));
}

void kelpie__state_change(enum kelpie_vm_state *state, enum kelpie_vm_state next) {
    KELPIE_ASSERT((unsigned)*state < STATE_COUNT && (unsigned)next < STATE_COUNT);
    KELPIE_ASSERT((transitions[*state] & BIT(next)) != 0);
    *state = next;
}

bool kelpie__state_is_live(enum kelpie_vm_state state) {
    return state == KELPIE_VM_STARTING || state == KELPIE_VM_RUNNING || state == KELPIE_VM_PAUSED;
}
