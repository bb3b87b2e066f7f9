/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The contract's table (states, operations, what a failure leaves) as steps: from a state, with a
 * call and its answer, to the states that this answer allows.
 */
#include <string.h>

#include "sim/model_internal.h"

#define BIT(state) (1u << (state))
#define ANY_BUT_STARTING                                                                           \
    (BIT(KELPIE_VM_CREATED) | BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED) |                     \
     BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED))
#define AT_REST (BIT(KELPIE_VM_CREATED) | BIT(KELPIE_VM_STOPPED) | BIT(KELPIE_VM_CRASHED))
#define WITH_GUEST (BIT(KELPIE_VM_RUNNING) | BIT(KELPIE_VM_PAUSED))

#define FAILURES_OF_EXEC                                                                           \
    {                                                                                              \
        KELPIE_E_EXEC, KELPIE_E_EXEC_TIMEOUT, KELPIE_E_EXEC_DENIED, KELPIE_E_EXEC_NOT_FOUND,       \
            KELPIE_E_CANCELLED                                                                     \
    }

/* Where an operation is allowed, and the codes by which it fails and leaves all as it was. */
static const struct {
    const char *name;
    unsigned allowed;
    int failures[8];
} rules[] = {
    [SIM_MODEL_CREATE] = {"create", 0, {KELPIE_E_CREATE, KELPIE_E_ROOT_ACCESS}},
    /* cancelled: by somebody's kill */
    [SIM_MODEL_START] = {"start",
                         AT_REST,
                         {KELPIE_E_BOOT, KELPIE_E_BOOT_TIMEOUT, KELPIE_E_CREATE, KELPIE_E_CANCELLED,
                          KELPIE_E_ROOT_ACCESS}},
    [SIM_MODEL_STOP] = {"stop", WITH_GUEST, {0}},
    [SIM_MODEL_KILL] = {"kill", ANY_BUT_STARTING, {0}}, /* without effect where nothing runs */
    [SIM_MODEL_PAUSE] = {"pause", BIT(KELPIE_VM_RUNNING), {KELPIE_E_PAUSE}},
    [SIM_MODEL_RESUME] = {"resume", BIT(KELPIE_VM_PAUSED), {KELPIE_E_RESUME}},
    [SIM_MODEL_EXEC] = {"exec", BIT(KELPIE_VM_RUNNING), FAILURES_OF_EXEC},
    [SIM_MODEL_PUT] = {"put", BIT(KELPIE_VM_RUNNING), FAILURES_OF_EXEC},
    [SIM_MODEL_GET] = {"get", BIT(KELPIE_VM_RUNNING), FAILURES_OF_EXEC},
    [SIM_MODEL_SNAPSHOT] = {"snapshot",
                            WITH_GUEST,
                            {KELPIE_E_SNAPSHOT, KELPIE_E_SNAPSHOT_TOO_LARGE, KELPIE_E_CANCELLED}},
    [SIM_MODEL_RESTORE] = {"restore",
                           ANY_BUT_STARTING,
                           {KELPIE_E_RESTORE, KELPIE_E_SNAPSHOT_CORRUPTED, KELPIE_E_CANCELLED}},
    [SIM_MODEL_FORK] = {"fork",
                        0,
                        {KELPIE_E_RESTORE, KELPIE_E_SNAPSHOT_CORRUPTED, KELPIE_E_CREATE,
                         KELPIE_E_CANCELLED, KELPIE_E_CRASHED, KELPIE_E_ROOT_ACCESS}},
    [SIM_MODEL_CREATE_FROM] =
        {"create-from", 0, {KELPIE_E_CREATE, KELPIE_E_SNAPSHOT_CORRUPTED, KELPIE_E_ROOT_ACCESS}},
    [SIM_MODEL_FORGET] = {"forget", ANY_BUT_STARTING, {0}},
    [SIM_MODEL_DELETE] = {"delete", AT_REST, {0}},
    [SIM_MODEL_DELETE_FORCE] = {"force-delete", ANY_BUT_STARTING, {0}},
    [SIM_MODEL_CLONE] = {"live-fork",
                         WITH_GUEST,
                         {KELPIE_E_SNAPSHOT, KELPIE_E_SNAPSHOT_TOO_LARGE, KELPIE_E_CANCELLED,
                          KELPIE_E_RESTORE, KELPIE_E_SNAPSHOT_CORRUPTED, KELPIE_E_CREATE}},
    [SIM_MODEL_PREPARE] = {"prepare-forks",
                           WITH_GUEST,
                           {KELPIE_E_RESTORE, KELPIE_E_CREATE, KELPIE_E_CANCELLED}},
    [SIM_MODEL_OBSERVE] = {"look", 0, {0}},
    [SIM_MODEL_LISTED] = {"list snapshots", 0, {0}},
};

const char *kelpie__sim_model_op_name(enum sim_model_op op) {
    KELPIE_ASSERT((size_t)op < KELPIE_ARRAY_COUNT(rules));
    return rules[op].name;
}

bool kelpie__sim_model_makes_from(enum sim_model_op op) {
    return op == SIM_MODEL_FORK || op == SIM_MODEL_CREATE_FROM;
}

bool kelpie__sim_model_is_of_snapshot(enum sim_model_op op) {
    return op == SIM_MODEL_SNAPSHOT || op == SIM_MODEL_RESTORE || op == SIM_MODEL_FORGET ||
           kelpie__sim_model_makes_from(op);
}

bool kelpie__sim_model_is_ambiguous(int status) {
    return status == SIM_MODEL_NO_ANSWER || status == KELPIE_E_IO || status == KELPIE_E_TIMEOUT ||
           status == KELPIE_E_PROTOCOL;
}

/* The surroundings refused, before anything was done. */
static bool is_surroundings(int status) {
    return status == KELPIE_E_MEMORY || status == KELPIE_E_BUSY || status == KELPIE_E_LIMIT ||
           status == KELPIE_E_UNAVAILABLE;
}

static bool is_failure_of(enum sim_model_op op, int status) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rules[op].failures); i += 1) {
        if (rules[op].failures[i] == status && status != 0) {
            return true;
        }
    }
    return false;
}

/* ---- states ---------------------------------------------------------------------------------- */

struct step {
    struct sim_model *model;
    const struct sim_model_vm *vm;
    const struct sim_model_entry *entry;
    const struct sim_model_state *from;
    uint8_t *out;
    uint32_t count;
};

static void allow(struct step *step, const struct sim_model_state *state) {
    KELPIE_ASSERT(step->count < SIM_HISTORY_NEXT_MAX);
    memcpy(step->out + step->count * sizeof(*state), state, sizeof(*state));
    step->count += 1;
}

static void allow_same(struct step *step) {
    allow(step, step->from);
}

void kelpie__sim_model_end_guest(struct sim_model_state *state) {
    state->lost |= state->loose | state->unsure;
    state->loose = 0;
    state->unsure = 0;
    state->source = 0;
    state->flags = (uint8_t)(state->flags & ~(unsigned)SIM_MODEL_BASED);
}

void kelpie__sim_model_remove(struct sim_model_state *state) {
    kelpie__sim_model_end_guest(state);
    state->flags = (uint8_t)(state->flags & SIM_MODEL_VAGUE);
    state->state = KELPIE_VM_CREATED;
    state->content = SIM_MODEL_CONTENT_EMPTY;
    state->unsynced = 0;
    state->lost = 0;
    memset(&state->first, 0, sizeof(state->first));
}

static void allow_state(struct step *step, enum kelpie_vm_state state, unsigned more_flags) {
    struct sim_model_state next = *step->from;
    next.state = (uint8_t)state;
    next.flags |= (uint8_t)more_flags;
    if ((BIT(state) & WITH_GUEST) == 0) {
        kelpie__sim_model_end_guest(&next);
    }
    allow(step, &next);
}

/* What was saved runs again, or stands as it did. */
static void bring_back(struct sim_model_state *state, const struct sim_model_guest *guest,
                       uint32_t source) {
    unsigned past = SIM_MODEL_DIRTY | SIM_MODEL_FROM;
    state->flags = (uint8_t)((state->flags & ~past) | SIM_MODEL_EXISTS | SIM_MODEL_BASED);
    state->state = guest->is_paused != 0 ? KELPIE_VM_PAUSED : KELPIE_VM_RUNNING;
    state->content = guest->content;
    state->loose = guest->loose;
    state->unsure = 0;
    state->unsynced = guest->unsynced;
    state->lost = 0;
    state->source = source;
}

const struct sim_model_snapshot *kelpie__sim_model_snapshot(const struct sim_model_state *state,
                                                            uint32_t id) {
    KELPIE_ASSERT(state->snapshot_count <= SIM_MODEL_SNAPSHOT_MAX);
    for (uint32_t i = 0; i < state->snapshot_count; i += 1) {
        if (state->snapshots[i].id == id) {
            return &state->snapshots[i];
        }
    }
    return NULL;
}

static void add_snapshot(struct sim_model_state *state, const struct sim_model_snapshot *snapshot) {
    uint32_t at = 0;
    if (state->snapshot_count == SIM_MODEL_SNAPSHOT_MAX) {
        state->flags |= SIM_MODEL_VAGUE; /* from now on nothing is known of its snapshots */
        state->snapshot_count = 0;
        memset(state->snapshots, 0, sizeof(state->snapshots));
        return;
    }
    while (at < state->snapshot_count && state->snapshots[at].id < snapshot->id) {
        at += 1;
    }
    memmove(&state->snapshots[at + 1], &state->snapshots[at],
            (state->snapshot_count - at) * sizeof(*snapshot));
    state->snapshots[at] = *snapshot;
    state->snapshot_count = (uint16_t)(state->snapshot_count + 1);
}

static void remove_snapshot(struct sim_model_state *state, uint32_t id) {
    const struct sim_model_snapshot *found = kelpie__sim_model_snapshot(state, id);
    if (found != NULL) {
        size_t at = (size_t)(found - state->snapshots);
        state->snapshot_count = (uint16_t)(state->snapshot_count - 1);
        memmove(&state->snapshots[at], &state->snapshots[at + 1],
                (state->snapshot_count - at) * sizeof(*found));
        memset(&state->snapshots[state->snapshot_count], 0, sizeof(*found));
    }
}

static bool is_vague(const struct sim_model_state *state) {
    return (state->flags & SIM_MODEL_VAGUE) != 0;
}

/* ---- what an operation does when it is done -------------------------------------------------- */

/* What was acknowledged is on the disk; so is what nobody asked for. */
static unsigned shaky(const struct step *step) {
    return step->entry != NULL && !step->entry->has_answer ? SIM_MODEL_SHAKY : 0;
}

static void done_create(struct step *step) {
    struct sim_model_state next = *step->from;
    kelpie__sim_model_remove(&next);
    next.flags |= (uint8_t)(SIM_MODEL_EXISTS | shaky(step));
    allow(step, &next);
}

/* Its first start brings back what it was made from; every other one boots. One that was only
 * created is Crashed where power took its record: that it was never started outlasts that. */
static bool is_first_start(const struct sim_model_state *state) {
    return (state->flags & SIM_MODEL_FROM) != 0 &&
           (state->state == KELPIE_VM_CREATED || state->state == KELPIE_VM_CRASHED);
}

/* What these files hold, nobody knows. */
static void forget_files(struct sim_model *model, struct sim_model_state *state, unsigned files) {
    for (uint32_t i = 0; i < SIM_MODEL_FILE_MAX; i += 1) {
        if ((files >> i & 1) != 0) {
            state->content =
                kelpie__sim_model_content_put(model, state->content, i, SIM_MODEL_FILE_UNKNOWN);
        }
    }
}

static void done_start(struct step *step) {
    struct sim_model_state next = *step->from;
    bool is_dirty = (next.flags & SIM_MODEL_DIRTY) != 0;
    if (is_first_start(&next)) {
        bring_back(&next, &next.first, 0);
        allow(step, &next);
        return;
    }
    if (is_vague(&next) && next.state == KELPIE_VM_CREATED) { /* from what, nobody knows */
        const struct sim_model_guest any = {.content = SIM_MODEL_CONTENT_UNKNOWN,
                                            .is_paused = 1,
                                            .loose = UINT8_MAX,
                                            .unsynced = UINT8_MAX};
        bring_back(&next, &any, 0);
        allow(step, &next);
        next.state = KELPIE_VM_RUNNING;
        allow(step, &next);
        return;
    }
    if (!step->vm->keeps_files) {
        next.content = SIM_MODEL_CONTENT_EMPTY;
    } else {
        forget_files(step->model, &next, next.lost | (is_dirty ? next.unsynced : 0u));
    }
    next.unsynced = 0;
    next.lost = 0;
    next.flags = (uint8_t)(next.flags & ~(unsigned)SIM_MODEL_DIRTY);
    next.state = KELPIE_VM_RUNNING;
    allow(step, &next);
}

static void done_put(struct step *step) {
    struct sim_model_state next = *step->from;
    const struct sim_model_call *call = &step->entry->call;
    next.content =
        kelpie__sim_model_content_put(step->model, next.content, call->file, call->value);
    bool is_done = step->entry->has_answer && step->entry->status == 0;
    if (!step->entry->has_answer) {
        next.unsure |= (uint8_t)(1u << call->file);
    }
    if (call->is_synced && is_done && step->entry->result == 0) {
        next.unsynced = 0; /* of all that was written before */
    } else {
        next.unsynced |= (uint8_t)(1u << call->file);
    }
    allow(step, &next);
}

static void done_get(struct step *step) {
    struct sim_model_state next = *step->from;
    uint32_t file = step->entry->call.file;
    uint64_t value = step->model->contents[next.content][file];
    if (!step->entry->has_answer) {
        return;
    }
    if ((next.loose >> file & 1) != 0) {
        allow_same(step);
    } else if (value == SIM_MODEL_FILE_UNKNOWN) { /* now it is known */
        next.content =
            kelpie__sim_model_content_put(step->model, next.content, file, step->entry->result);
        allow(step, &next);
    } else if (value == step->entry->result) {
        allow_same(step);
    }
}

static void done_snapshot(struct step *step) {
    struct sim_model_state next = *step->from;
    struct sim_model_snapshot snapshot = {
        .id = step->entry->call.snapshot,
        .guest = {.content = next.content,
                  .is_paused = next.state == KELPIE_VM_PAUSED ? 1 : 0,
                  .loose = next.loose | next.unsure | step->entry->overlaps_put,
                  .unsynced = next.unsynced},
    };
    if (kelpie__sim_model_snapshot(&next, snapshot.id) == NULL) {
        if (!is_vague(&next)) {
            add_snapshot(&next, &snapshot);
        }
        allow(step, &next);
    }
}

static void done_restore(struct step *step) {
    const struct sim_model_snapshot *snapshot =
        kelpie__sim_model_snapshot(step->from, step->entry->call.snapshot);
    struct sim_model_state next = *step->from;
    if (snapshot != NULL) {
        bring_back(&next, &snapshot->guest, snapshot->id);
        allow(step, &next);
    } else if (is_vague(step->from)) {
        const struct sim_model_guest any = {
            .content = SIM_MODEL_CONTENT_UNKNOWN, .loose = UINT8_MAX, .unsynced = UINT8_MAX};
        bring_back(&next, &any, step->entry->call.snapshot);
        allow(step, &next);
        next.state = KELPIE_VM_PAUSED;
        allow(step, &next);
    }
}

static void done_create_from(struct step *step) {
    struct sim_model_state next = *step->from;
    kelpie__sim_model_remove(&next);
    next.flags |= SIM_MODEL_EXISTS | SIM_MODEL_FROM;
    next.first = step->entry->fork;
    if (step->entry->fork_may) {
        allow(step, &next);
    }
    if (step->entry->fork_may &&
        !step->entry->fork_must) { /* how it was taken is not sure either */
        next.first.is_paused = !next.first.is_paused;
        allow(step, &next);
    }
}

/* One that is given up deletes what it made, and does not wait for a monitor that stands still. */
static void done_fork(struct step *step) {
    struct sim_model_state next = *step->from;
    const struct sim_model_guest *guest = &step->entry->fork;
    bool is_given_up = !step->entry->has_answer && step->entry->status != SIM_MODEL_NO_ANSWER;
    if (!step->entry->has_answer) { /* it came to that, and no further */
        done_create_from(step);
    }
    if (!step->entry->fork_may) {
        return;
    }
    kelpie__sim_model_remove(&next);
    bring_back(&next, guest, 0);
    next.flags |= is_given_up ? SIM_MODEL_GOING : 0;
    allow(step, &next);
    if (!step->entry->fork_must) {
        next.state = guest->is_paused != 0 ? KELPIE_VM_RUNNING : KELPIE_VM_PAUSED;
        allow(step, &next);
    }
}

static void done_forget(struct step *step) {
    struct sim_model_state next = *step->from;
    remove_snapshot(&next, step->entry->call.snapshot);
    allow(step, &next);
}

static void done_delete(struct step *step) {
    struct sim_model_state next = *step->from;
    kelpie__sim_model_remove(&next);
    next.flags |= (uint8_t)shaky(step);
    allow(step, &next);
}

/* Without an answer it may have come as far as the guest's end, and go on later. */
static void done_delete_force(struct step *step) {
    done_delete(step);
    if (!step->entry->has_answer && (BIT(step->from->state) & WITH_GUEST) != 0) {
        allow_state(step, KELPIE_VM_STOPPED, SIM_MODEL_DIRTY | SIM_MODEL_GOING);
    }
}

/* Who was saved, or was to be replaced, and then could not go on: RESUME would have said so. */
static void left_paused(struct step *step) {
    if (!step->entry->has_answer && step->from->state == KELPIE_VM_RUNNING) {
        allow_state(step, KELPIE_VM_PAUSED, 0);
    }
}

/* One that a stop ends early, by a signal, has an end like any other. */
static void done_exec(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    if (entry->has_answer && (entry->result == entry->call.value || entry->overlaps_end)) {
        allow_same(step);
    }
}

/* The source goes on; forks can wait only over what was saved. */
static void done_prepare(struct step *step) {
    bool is_based = (step->from->flags & SIM_MODEL_BASED) != 0 || is_vague(step->from);
    if (is_based && !step->vm->keeps_files) {
        allow_same(step);
    }
}

static void done(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    switch (entry->call.op) {
    case SIM_MODEL_CREATE:
        done_create(step);
        break;
    case SIM_MODEL_START:
        done_start(step);
        break;
    case SIM_MODEL_STOP:
        allow_state(step, KELPIE_VM_STOPPED,
                    entry->has_answer && entry->result == 0 ? 0 : SIM_MODEL_DIRTY);
        break;
    case SIM_MODEL_KILL:
        if ((BIT(step->from->state) & WITH_GUEST) != 0) {
            allow_state(step, KELPIE_VM_STOPPED, SIM_MODEL_DIRTY);
        } else {
            allow_same(step); /* one that met a start, too: the VM is what it was before */
        }
        break;
    case SIM_MODEL_PAUSE:
        allow_state(step, KELPIE_VM_PAUSED, 0);
        break;
    case SIM_MODEL_RESUME:
        allow_state(step, KELPIE_VM_RUNNING, 0);
        break;
    case SIM_MODEL_EXEC:
        done_exec(step);
        break;
    case SIM_MODEL_PUT:
        done_put(step);
        break;
    case SIM_MODEL_GET:
        done_get(step);
        break;
    case SIM_MODEL_SNAPSHOT:
        done_snapshot(step);
        left_paused(step);
        break;
    case SIM_MODEL_RESTORE:
        done_restore(step);
        left_paused(step);
        break;
    case SIM_MODEL_FORK:
        done_fork(step);
        break;
    case SIM_MODEL_CREATE_FROM:
        done_create_from(step);
        break;
    case SIM_MODEL_FORGET:
        done_forget(step);
        break;
    case SIM_MODEL_DELETE_FORCE:
        done_delete_force(step);
        break;
    case SIM_MODEL_DELETE:
        done_delete(step);
        break;
    case SIM_MODEL_CLONE: /* the source goes on */
        allow_same(step);
        left_paused(step);
        break;
    case SIM_MODEL_PREPARE:
        done_prepare(step);
        break;
    case SIM_MODEL_OBSERVE:
    case SIM_MODEL_LISTED:
        break;
    }
}

/* ---- looking --------------------------------------------------------------------------------- */

static void observe(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    bool exists = (step->from->flags & SIM_MODEL_EXISTS) != 0;
    bool is_stopped = entry->result == KELPIE_VM_STOPPED && entry->overlaps_removal && exists &&
                      (BIT(step->from->state) & WITH_GUEST) != 0;
    /* of a VM of which everything was lost, the start may be older than what is known */
    bool is_starting = entry->result == KELPIE_VM_STARTING &&
                       (entry->overlaps_change || (exists && is_vague(step->from)));
    bool is_between =
        entry->status == 0 &&
        (is_starting || is_stopped ||
         (entry->overlaps_change && entry->overlaps_fork && entry->result == KELPIE_VM_CREATED));
    bool is_given_up = entry->status == 0 && !exists && entry->overlaps_failure &&
                       entry->result == KELPIE_VM_CREATED && !step->model->is_calm;
    if (is_between || is_given_up || (entry->status == KELPIE_E_NOT_FOUND && !exists) ||
        (entry->status == 0 && exists && entry->result == step->from->state)) {
        allow_same(step);
    }
}

static void listed(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    bool has = kelpie__sim_model_snapshot(step->from, entry->call.snapshot) != NULL;
    if (is_vague(step->from) || has == (entry->result != 0)) {
        allow_same(step);
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

/* An operation that makes a VM: CREATE, FORK, CREATE_FROM. */
static void step_new(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    bool exists = (step->from->flags & SIM_MODEL_EXISTS) != 0;
    bool is_fork = kelpie__sim_model_makes_from(entry->call.op);
    if (!entry->has_answer) {
        if (!exists && entry->call.must_fail == 0) {
            done(step);
        }
    } else if (entry->status == KELPIE_E_EXISTS) {
        if (exists || (entry->overlaps_failure && !step->model->is_calm)) {
            allow_same(step);
        }
    } else if (entry->status == KELPIE_E_NOT_FOUND) {
        if (is_fork && !entry->fork_must) {
            allow_same(step);
        }
    } else if (is_fork && !entry->fork_must && entry->status == KELPIE_E_BUSY) {
        allow_same(step); /* the snapshot is being removed */
    } else if (exists) {
        /* what else is wrong may be found first */
        bool is_other =
            is_surroundings(entry->status) || is_failure_of(entry->call.op, entry->status);
        if (entry->status != 0 && !step->model->is_calm && is_other) {
            allow_same(step);
        }
    } else if (entry->call.must_fail != 0) {
        if (entry->status == entry->call.must_fail) {
            allow_same(step);
        }
    } else if (entry->status == 0) {
        done(step);
    } else if (!step->model->is_calm &&
               (is_failure_of(entry->call.op, entry->status) || is_surroundings(entry->status))) {
        allow_same(step);
    }
}

/* In a state that does not allow the operation. */
static void step_refused(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    unsigned state = BIT(step->from->state);
    bool is_start = entry->call.op == SIM_MODEL_START;
    int code = is_start && (state & WITH_GUEST) != 0 ? KELPIE_E_ALREADY_RUNNING : KELPIE_E_STATE;
    if (entry->has_answer && entry->status == code) {
        allow_same(step);
    }
}

/* The VM, or its monitor, died while the call was under way: what the call was to do may have been
 * done before. A command's answer says that the guest is gone. */
static void step_died(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    enum sim_model_op op = entry->call.op;
    unsigned state = BIT(step->from->state);
    bool may_be_done = op != SIM_MODEL_EXEC && op != SIM_MODEL_PUT && op != SIM_MODEL_GET &&
                       op != SIM_MODEL_PAUSE && op != SIM_MODEL_RESUME &&
                       entry->call.must_fail == 0 && (rules[op].allowed & state) != 0;
    if (step->model->is_calm) {
        if (entry->overlaps_end) {
            allow_same(step);
        }
        return;
    }
    if ((state & WITH_GUEST) != 0) {
        allow_state(step, KELPIE_VM_CRASHED, SIM_MODEL_DIRTY);
    } else {
        allow_same(step);
    }
    if (may_be_done) {
        done(step);
    }
    if (entry->overlaps_end && (state & WITH_GUEST) != 0) {
        allow_same(step);
    }
}

/* How far a write came, nobody knows. */
static void step_crashed(struct step *step) {
    const struct sim_model_state *from = step->from;
    struct sim_model_state spoilt = *from;
    if (step->entry->call.op == SIM_MODEL_PUT) {
        spoilt.lost |= (uint8_t)(1u << step->entry->call.file);
    }
    step->from = &spoilt;
    step_died(step);
    step->from = from;
}

/* A failure that the contract knows. A command that failed may have done some of its work. */
static void step_failed(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    if (step->model->is_calm && !entry->overlaps_end) {
        return;
    }
    allow_same(step);
    if (entry->call.op == SIM_MODEL_PUT) {
        done_put(step);
    } else if (entry->call.op == SIM_MODEL_PAUSE && !step->model->is_calm) {
        done(step); /* a VMM that stands still, and says no more, is shown as it is */
    }
}

/* Answers that depend on what a snapshot is in use for. Whether it was one. */
static bool step_snapshot_answer(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    uint32_t id = entry->call.snapshot;
    bool is_in_use = entry->call.op == SIM_MODEL_FORGET && entry->status == KELPIE_E_BUSY &&
                     (step->from->source == id || kelpie__sim_model_is_lent(step->model, id));
    /* the one that it was made from was removed, or is being removed */
    bool may_be_first = is_first_start(step->from) ||
                        (is_vague(step->from) && step->from->state == KELPIE_VM_CREATED);
    bool has_lost =
        entry->call.op == SIM_MODEL_START && may_be_first &&
        (entry->status == KELPIE_E_NOT_FOUND || entry->status == KELPIE_E_BUSY ||
         entry->status == KELPIE_E_RESTORE || entry->status == KELPIE_E_SNAPSHOT_CORRUPTED);
    bool stands = entry->call.op == SIM_MODEL_SNAPSHOT || entry->call.op == SIM_MODEL_RESTORE ||
                  entry->call.op == SIM_MODEL_CLONE;
    bool has_stopped = stands && entry->status == KELPIE_E_RESUME &&
                       step->from->state == KELPIE_VM_RUNNING && !step->model->is_calm;
    bool is_calm_loss = has_lost && step->model->is_calm && entry->status != KELPIE_E_NOT_FOUND &&
                        entry->status != KELPIE_E_BUSY;
    if (has_stopped) {
        allow_state(step, KELPIE_VM_PAUSED, 0); /* the guest could not go on */
        if (entry->overlaps_end) {
            allow_same(step); /* and nobody will see that */
        }
    } else if (is_in_use || (has_lost && !is_calm_loss)) {
        allow_same(step);
    }
    return has_stopped || is_in_use || has_lost;
}

static void step_vm(struct step *step) {
    const struct sim_model_entry *entry = step->entry;
    enum sim_model_op op = entry->call.op;
    bool exists = (step->from->flags & SIM_MODEL_EXISTS) != 0;
    bool is_delete = op == SIM_MODEL_DELETE || op == SIM_MODEL_DELETE_FORCE;
    bool is_of_snapshot = op == SIM_MODEL_RESTORE || op == SIM_MODEL_FORGET;
    bool has_snapshot = !is_of_snapshot || is_vague(step->from) ||
                        kelpie__sim_model_snapshot(step->from, entry->call.snapshot) != NULL;
    bool is_free = op == SIM_MODEL_FORGET; /* a snapshot outlives its VM */
    bool may_be_busy = !step->model->is_calm || entry->overlaps_change;
    if (entry->has_answer && step_snapshot_answer(step)) {
        return;
    }
    if (entry->has_answer && is_surroundings(entry->status) && may_be_busy) {
        allow_same(step);
    } else if (entry->has_answer && entry->overlaps_change && (exists || entry->overlaps_fork) &&
               (entry->status == KELPIE_E_STATE ||
                (op == SIM_MODEL_START && entry->status == KELPIE_E_ALREADY_RUNNING))) {
        allow_same(step);
    } else if (op == SIM_MODEL_EXEC && entry->has_answer && entry->overlaps_change &&
               entry->status == KELPIE_E_MISUSE) {
        allow_same(step); /* restored, the command has written less than its reader has read */
    } else if ((!exists && !is_free) || !has_snapshot) {
        bool is_second = (is_delete || op == SIM_MODEL_KILL) && entry->status == 0;
        /* one who was there when it ended */
        bool was_there =
            entry->status == KELPIE_E_CRASHED && (!step->model->is_calm || entry->overlaps_end);
        /* before anybody found that there is no such snapshot */
        bool was_ended = entry->overlaps_end && entry->status == KELPIE_E_CANCELLED;
        bool is_other =
            exists && (!step->model->is_calm || was_ended) && is_failure_of(op, entry->status);
        if (entry->has_answer &&
            (entry->status == KELPIE_E_NOT_FOUND || is_second || was_there || is_other)) {
            allow_same(step);
        }
    } else if (entry->has_answer && entry->status == KELPIE_E_NOT_FOUND) {
        if (is_of_snapshot && (is_vague(step->from) || entry->overlaps_snapshot)) {
            allow_same(step);
        }
    } else if (entry->has_answer && entry->status == KELPIE_E_CRASHED) {
        step_crashed(step);
        if ((op == SIM_MODEL_CLONE || op == SIM_MODEL_PREPARE) && !step->model->is_calm) {
            allow_same(step); /* one of the others has */
        }
    } else if (op == SIM_MODEL_STOP && entry->has_answer && entry->status == 0 &&
               entry->overlaps_end && step->from->state == KELPIE_VM_STOPPED) {
        allow_state(step, KELPIE_VM_STOPPED, entry->result == 0 ? 0 : SIM_MODEL_DIRTY); /* joined */
    } else if (exists && (rules[op].allowed & BIT(step->from->state)) == 0) {
        step_refused(step);
    } else if (entry->call.must_fail != 0) {
        bool is_other =
            (!step->model->is_calm || entry->overlaps_end) && is_failure_of(op, entry->status);
        if (entry->has_answer && (entry->status == entry->call.must_fail || is_other)) {
            allow_same(step);
        }
    } else if (!entry->has_answer || entry->status == 0) {
        done(step);
    } else if (op == SIM_MODEL_PREPARE && entry->status == KELPIE_E_UNSUPPORTED) {
        if ((step->from->flags & SIM_MODEL_BASED) == 0 || is_vague(step->from) ||
            step->vm->keeps_files) {
            allow_same(step); /* it was booted, or has disks */
        }
    } else if (is_failure_of(op, entry->status)) {
        step_failed(step);
    }
}

uint32_t kelpie__sim_model_step(void *context, const void *state, uint32_t call, uint8_t *out) {
    const struct sim_model_context *own = context;
    struct step step = {.model = own->model,
                        .vm = own->vm,
                        .entry = &own->vm->entries[call],
                        .from = state,
                        .out = out};
    KELPIE_ASSERT(call < own->vm->history.call_count);
    /* What a call was refused for may have been before the cut. */
    bool is_refused = step.entry->has_answer && step.entry->status < 0;
    if (step.entry->is_void || (step.entry->was_cut && is_refused)) {
        allow_same(&step);
    } else if (step.entry->call.op == SIM_MODEL_OBSERVE) {
        observe(&step);
    } else if (step.entry->call.op == SIM_MODEL_LISTED) {
        listed(&step);
    } else if (step.entry->call.op == SIM_MODEL_CREATE ||
               kelpie__sim_model_makes_from(step.entry->call.op)) {
        step_new(&step);
    } else {
        step_vm(&step);
    }
    return step.count;
}

/* A guest can die at any time; in a calm run none does. */
uint32_t kelpie__sim_model_drift(void *context, const void *state, uint8_t *out) {
    const struct sim_model_context *own = context;
    struct step step = {.model = own->model, .vm = own->vm, .from = state, .out = out};
    bool exists = (step.from->flags & SIM_MODEL_EXISTS) != 0;
    if (exists && !own->model->is_calm && (BIT(step.from->state) & WITH_GUEST) != 0) {
        allow_state(&step, KELPIE_VM_CRASHED, SIM_MODEL_DIRTY);
    }
    bool is_going = (step.from->flags & SIM_MODEL_GOING) != 0;
    if (exists && !own->model->is_calm && (own->vm->is_ephemeral || is_going)) {
        done_delete(&step); /* its monitor died, and who found that cleaned up; or it goes on */
    }
    if (exists && is_going && (BIT(step.from->state) & WITH_GUEST) != 0) {
        allow_state(&step, KELPIE_VM_STOPPED, SIM_MODEL_DIRTY);
    }
    return step.count;
}
