/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The model's books: what each VM can be, the calls that are under way, what lingers. As soon as no
 * call of a VM is under way, what has happened since the last such moment is searched as one
 * history, from everything that the VM could be then.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/model_internal.h"

#define STATE_COUNT 6u

/* ---- life ------------------------------------------------------------------------------------ */

static const struct sim_model_state *state_at(const struct sim_model_vm *vm, uint32_t index) {
    KELPIE_ASSERT(index < vm->history.end_count);
    return (const struct sim_model_state *)(const void *)vm->history.ends[index].state;
}

static void set_only(struct sim_model_vm *vm, const struct sim_model_state *state) {
    vm->history.end_count = 1;
    memset(&vm->history.ends[0], 0, sizeof(vm->history.ends[0]));
    memcpy(vm->history.ends[0].state, state, sizeof(*state));
}

/* Somebody who does not wait any more has asked for its deletion. */
static bool may_be_going(const struct sim_model_vm *vm) {
    for (uint32_t i = 0; i < vm->history.call_count; i += 1) {
        const struct sim_model_entry *entry = &vm->entries[i];
        bool is_deletion =
            entry->call.op == SIM_MODEL_DELETE_FORCE || entry->call.op == SIM_MODEL_DELETE;
        if (is_deletion && !entry->is_open && !entry->has_answer) {
            return true;
        }
    }
    for (uint32_t i = 0; i < vm->history.end_count; i += 1) {
        if ((state_at(vm, i)->flags & SIM_MODEL_GOING) != 0) {
            return true;
        }
    }
    return false;
}

/* Nothing is known any more but what is still to come. */
static void set_unknown(struct sim_model_vm *vm) {
    unsigned more = may_be_going(vm) ? SIM_MODEL_GOING : 0;
    vm->history.call_count = 0;
    vm->history.end_count = 0;
    for (uint32_t i = 0; i <= STATE_COUNT; i += 1) {
        struct sim_model_state state = {
            .flags = SIM_MODEL_VAGUE, .content = SIM_MODEL_CONTENT_UNKNOWN, .unsynced = UINT8_MAX};
        if (i == KELPIE_VM_STARTING) {
            continue;
        }
        if (i < STATE_COUNT) {
            state.flags |= (uint8_t)(SIM_MODEL_EXISTS | SIM_MODEL_DIRTY | more);
            state.state = (uint8_t)i;
        }
        struct sim_history_end *end = &vm->history.ends[vm->history.end_count];
        memset(end, 0, sizeof(*end));
        memcpy(end->state, &state, sizeof(state));
        vm->history.end_count += 1;
    }
}

struct sim_model *kelpie__sim_model_create(bool is_calm) {
    struct sim_model *model = calloc(1, sizeof(*model));
    uint64_t(*contents)[SIM_MODEL_FILE_MAX] = calloc(64, sizeof(*contents));
    struct sim_model_state none = {0};
    if (model == NULL || contents == NULL) {
        free(model);
        free(contents);
        return NULL;
    }
    model->is_calm = is_calm;
    model->contents = contents;
    model->content_capacity = 64;
    model->content_count = 2;
    for (uint32_t i = 0; i < SIM_MODEL_FILE_MAX; i += 1) {
        contents[SIM_MODEL_CONTENT_UNKNOWN][i] = SIM_MODEL_FILE_UNKNOWN;
    }
    for (uint32_t i = 0; i < SIM_MODEL_VM_MAX; i += 1) {
        set_only(&model->vms[i], &none);
    }
    return model;
}

void kelpie__sim_model_destroy(struct sim_model *model) {
    if (model != NULL) {
        free(model->contents);
        free(model);
    }
}

void kelpie__sim_model_configure(struct sim_model *model, uint32_t vm, bool is_ephemeral,
                                 bool keeps_files) {
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    KELPIE_ASSERT(model->vms[vm].open_count == 0);
    model->vms[vm].is_ephemeral = is_ephemeral;
    model->vms[vm].keeps_files = keeps_files;
}

uint32_t kelpie__sim_model_content_put(struct sim_model *model, uint32_t content, uint32_t file,
                                       uint64_t value) {
    uint64_t wanted[SIM_MODEL_FILE_MAX];
    KELPIE_ASSERT(content < model->content_count && file < SIM_MODEL_FILE_MAX);
    memcpy(wanted, model->contents[content], sizeof(wanted));
    wanted[file] = value;
    for (uint32_t i = model->content_count; i > 0; i -= 1) { /* the latest are the likeliest */
        if (memcmp(model->contents[i - 1], wanted, sizeof(wanted)) == 0) {
            return i - 1;
        }
    }
    if (model->content_count == model->content_capacity) {
        uint32_t capacity = model->content_capacity * 2;
        uint64_t(*grown)[SIM_MODEL_FILE_MAX] =
            capacity > SIM_MODEL_CONTENT_MAX
                ? NULL
                : realloc(model->contents, capacity * sizeof(*model->contents));
        if (grown == NULL) {
            model->lost += 1;
            return SIM_MODEL_CONTENT_UNKNOWN;
        }
        model->contents = grown;
        model->content_capacity = capacity;
    }
    memcpy(model->contents[model->content_count], wanted, sizeof(wanted));
    model->content_count += 1;
    return model->content_count - 1;
}

/* ---- words ----------------------------------------------------------------------------------- */

struct words {
    char *text;
    size_t length;
};

KELPIE_PRINTF(2, 3) static void say(struct words *words, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = SIM_MODEL_TEXT_MAX - words->length;
    int length = vsnprintf(words->text + words->length, room, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    words->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void say_states(struct words *words, uint32_t states) {
    bool is_first = true;
    for (uint32_t i = 0; i <= STATE_COUNT; i += 1) {
        if ((states & 1u << i) != 0) {
            say(words, "%s%s", is_first ? "" : " or ",
                i == STATE_COUNT ? "not there" : kelpie_vm_state_name((enum kelpie_vm_state)i));
            is_first = false;
        }
    }
}

static void say_entry(struct words *words, const struct sim_model_entry *entry) {
    const struct sim_model_call *call = &entry->call;
    say(words, "%s", kelpie__sim_model_op_name(call->op));
    if (call->op == SIM_MODEL_PUT || call->op == SIM_MODEL_GET) {
        say(words, " of file %u", call->file);
    }
    if (call->snapshot != 0) {
        say(words, " (snapshot %u%s)", call->snapshot,
            kelpie__sim_model_makes_from(call->op) ? " of another VM" : "");
    }
    say(words, " by client %u", call->client);
    if (call->op == SIM_MODEL_PUT) {
        say(words, " of %llu", (unsigned long long)call->value);
    }
    if (entry->status == SIM_MODEL_NO_ANSWER) {
        say(words, ": no answer");
    } else if (entry->status != 0) {
        say(words, ": %s", kelpie_code_name(entry->status));
    } else if (call->op == SIM_MODEL_OBSERVE) {
        say(words, ": %s", kelpie_vm_state_name((enum kelpie_vm_state)entry->result));
    } else {
        say(words, ": done, %llu", (unsigned long long)entry->result);
    }
}

/* `states`: what the VM could be before; `longest`: the calls that an order was found for. */
static void explain(const struct sim_model_vm *vm, uint32_t index, uint32_t states,
                    uint64_t longest, char out_text[SIM_MODEL_TEXT_MAX]) {
    struct words words = {.text = out_text};
    out_text[0] = '\0';
    say(&words, "VM %u was ", index);
    say_states(&words, states);
    say(&words, "; %s: ",
        vm->history.call_count == 1 ? "this answer is not allowed"
                                    : "no order of these answers is allowed");
    for (uint32_t i = 0; i < vm->history.call_count; i += 1) {
        bool is_odd = vm->history.call_count > 1 && (longest & UINT64_C(1) << i) == 0 &&
                      vm->history.calls[i].end != UINT64_MAX;
        say(&words, "%s%s", i == 0 ? "" : "; ", is_odd ? "(?) " : "");
        say_entry(&words, &vm->entries[i]);
    }
}

/* ---- pieces of history ----------------------------------------------------------------------- */

static bool takes_time(enum sim_model_op op) {
    return op == SIM_MODEL_CREATE || op == SIM_MODEL_START || op == SIM_MODEL_STOP ||
           op == SIM_MODEL_KILL || op == SIM_MODEL_PAUSE || op == SIM_MODEL_RESUME ||
           op == SIM_MODEL_SNAPSHOT || op == SIM_MODEL_RESTORE || op == SIM_MODEL_FORGET ||
           op == SIM_MODEL_CLONE || op == SIM_MODEL_DELETE || op == SIM_MODEL_DELETE_FORCE ||
           kelpie__sim_model_makes_from(op);
}

static bool ends_guest(enum sim_model_op op) {
    return op == SIM_MODEL_STOP || op == SIM_MODEL_KILL || op == SIM_MODEL_RESTORE ||
           op == SIM_MODEL_DELETE_FORCE;
}

static bool changes(enum sim_model_op op) {
    return op != SIM_MODEL_EXEC && op != SIM_MODEL_GET && op != SIM_MODEL_OBSERVE &&
           op != SIM_MODEL_LISTED && op != SIM_MODEL_PREPARE;
}

static bool makes_vm(enum sim_model_op op) {
    return op == SIM_MODEL_CREATE || op == SIM_MODEL_CREATE_FROM || op == SIM_MODEL_FORK;
}

static void mark_overlaps(struct sim_model_vm *vm) {
    const struct sim_history *history = &vm->history;
    for (uint32_t i = 0; i < history->call_count; i += 1) {
        struct sim_model_entry *entry = &vm->entries[i];
        for (uint32_t j = 0; j < history->call_count; j += 1) {
            bool overlaps = i != j && history->calls[i].begin < history->calls[j].end &&
                            history->calls[j].begin < history->calls[i].end;
            enum sim_model_op other = vm->entries[j].call.op;
            if (overlaps && other == SIM_MODEL_PUT) {
                entry->overlaps_put |= (uint8_t)(1u << vm->entries[j].call.file);
            }
            entry->overlaps_change = entry->overlaps_change || (overlaps && takes_time(other));
            entry->overlaps_end = entry->overlaps_end || (overlaps && ends_guest(other));
            entry->overlaps_fork = entry->overlaps_fork || (overlaps && other == SIM_MODEL_FORK);
            entry->overlaps_removal =
                entry->overlaps_removal || (overlaps && other == SIM_MODEL_DELETE_FORCE);
            entry->overlaps_snapshot =
                entry->overlaps_snapshot || (overlaps && other == SIM_MODEL_SNAPSHOT &&
                                             vm->entries[j].call.snapshot == entry->call.snapshot);
            entry->overlaps_failure = entry->overlaps_failure ||
                                      (overlaps && makes_vm(other) && vm->entries[j].status < 0 &&
                                       vm->entries[j].status != KELPIE_E_EXISTS);
        }
    }
}

/* Keeps the calls that are still missing somewhere, as the first ones of the next piece. False: too
 * many linger. */
static bool keep_lingering(struct sim_model_vm *vm) {
    struct sim_history *history = &vm->history;
    uint64_t used = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < history->end_count; i += 1) {
        used |= history->ends[i].missing;
    }
    if ((uint32_t)__builtin_popcountll(used) > SIM_MODEL_LINGER_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < history->call_count; i += 1) {
        uint64_t bit = UINT64_C(1) << i;
        if ((used & bit) == 0) {
            continue;
        }
        for (uint32_t j = 0; j < history->end_count; j += 1) {
            uint64_t missing = history->ends[j].missing;
            uint64_t below = (UINT64_C(1) << kept) - 1;
            bool is_missing = (missing & bit) != 0;
            history->ends[j].missing = (missing & below) | (missing & ~(below | bit)) |
                                       (is_missing ? UINT64_C(1) << kept : 0);
        }
        vm->entries[kept] = vm->entries[i];
        history->calls[kept] = history->calls[i];
        kept += 1;
    }
    history->call_count = kept;
    for (uint32_t j = 0; j < history->end_count; j += 1) {
        history->ends[j].missing &= kept == 0 ? 0 : (UINT64_C(1) << kept) - 1;
    }
    return true;
}

static uint32_t states_of(const struct sim_model_vm *vm) {
    uint32_t states = 0;
    for (uint32_t i = 0; i < vm->history.end_count; i += 1) {
        const struct sim_model_state *state = state_at(vm, i);
        states |= (state->flags & SIM_MODEL_EXISTS) == 0 ? SIM_MODEL_GONE : 1u << state->state;
    }
    return states;
}

/* A fork is made, and then started: who does something with it between the two is no part of the
 * contract. */
static bool has_torn_fork(const struct sim_model_vm *vm) {
    const struct sim_history *history = &vm->history;
    for (uint32_t i = 0; i < history->call_count; i += 1) {
        const struct sim_model_entry *entry = &vm->entries[i];
        for (uint32_t j = 0; j < history->call_count; j += 1) {
            bool overlaps = i != j && history->calls[i].begin < history->calls[j].end &&
                            history->calls[j].begin < history->calls[i].end;
            if (entry->call.op == SIM_MODEL_FORK && entry->has_answer && overlaps &&
                takes_time(vm->entries[j].call.op)) {
                return true;
            }
        }
    }
    return false;
}

/* What has happened has to have an order. */
static bool close_piece(struct sim_model *model, uint32_t index,
                        char out_text[SIM_MODEL_TEXT_MAX]) {
    struct sim_model_vm *vm = &model->vms[index];
    struct sim_model_context context = {.model = model, .vm = vm};
    struct sim_history_spec spec = {.state_bytes = sizeof(struct sim_model_state),
                                    .context = &context,
                                    .step = kelpie__sim_model_step,
                                    .drift = kelpie__sim_model_drift};
    uint64_t longest = 0;
    if (vm->is_unknown || has_torn_fork(vm)) {
        vm->is_unknown = false;
        model->lost += 1;
        set_unknown(vm);
        return true;
    }
    uint32_t states = states_of(vm);
    mark_overlaps(vm);
    enum sim_history_verdict verdict = kelpie__sim_history_search(&vm->history, &spec, &longest);
    if (verdict == SIM_HISTORY_UNEXPLAINED) {
        explain(vm, index, states, longest, out_text);
        set_unknown(vm);
        return false;
    }
    if (verdict == SIM_HISTORY_TOO_LONG || !keep_lingering(vm)) {
        model->lost += 1;
        set_unknown(vm);
    }
    return true;
}

/* A piece that grows without end: see SIM_MODEL_PIECE_MAX. Where nothing is known after the cut,
 * and a call is under way that changes the VM, its effect and the refusals beside it cannot be told
 * from others until all have ended. */
static void cut_piece(struct sim_model *model, uint32_t index) {
    struct sim_model_vm *vm = &model->vms[index];
    uint64_t lost = model->lost;
    bool has_open = false;
    KELPIE_ASSERT(vm->history.call_count == SIM_MODEL_PIECE_MAX);
    for (uint32_t i = 0; i < vm->history.call_count; i += 1) {
        struct sim_model_entry *entry = &vm->entries[i];
        if (entry->is_open && !changes(entry->call.op)) {
            entry->is_open = false;
            entry->status = SIM_MODEL_NO_ANSWER;
            entry->is_void = true;
            entry->has_answer = true;
            vm->history.calls[i].end = model->clock;
        } else if (entry->is_open) {
            entry->was_cut = true;
            has_open = true;
        }
    }
    if (!close_piece(model, index, vm->problem)) {
        vm->has_problem = true;
    }
    vm->is_unknown = has_open && model->lost != lost;
}

/* ---- forks ----------------------------------------------------------------------------------- */

/* What the snapshot's VM can say of it now. */
static void look_at_snapshot(struct sim_model *model, struct sim_model_entry *entry) {
    const struct sim_model_vm *source = &model->vms[entry->call.vm];
    bool is_sure = source->open_count == 0;
    bool is_first = true;
    uint32_t with = 0;
    for (uint32_t i = 0; i < source->history.end_count; i += 1) {
        const struct sim_model_state *state = state_at(source, i);
        const struct sim_model_snapshot *snapshot =
            kelpie__sim_model_snapshot(state, entry->call.snapshot);
        is_sure = is_sure && source->history.ends[i].missing == 0 &&
                  (state->flags & SIM_MODEL_VAGUE) == 0;
        if (snapshot != NULL) {
            bool is_same =
                is_first || memcmp(&entry->fork, &snapshot->guest, sizeof(entry->fork)) == 0;
            entry->fork = snapshot->guest;
            is_sure = is_sure && is_same;
            is_first = false;
            with += 1;
        }
    }
    entry->fork_may = with > 0 || !is_sure;
    entry->fork_must = is_sure && with == source->history.end_count;
    if (!is_sure) {
        entry->fork.content = SIM_MODEL_CONTENT_UNKNOWN;
        entry->fork.unsynced = UINT8_MAX;
    }
    uint32_t bit = entry->call.snapshot % SIM_MODEL_LENT_MAX;
    model->lent[bit / 64] |= UINT64_C(1) << bit % 64;
}

bool kelpie__sim_model_is_lent(const struct sim_model *model, uint32_t snapshot) {
    uint32_t bit = snapshot % SIM_MODEL_LENT_MAX;
    return (model->lent[bit / 64] >> bit % 64 & 1) != 0;
}

/* Somebody else did something with the VM, or its snapshots, while the fork was made. */
static bool is_source_touched(const struct sim_model *model, const struct sim_model_vm *vm,
                              uint32_t at) {
    const struct sim_model_vm *source = &model->vms[vm->entries[at].call.vm];
    return source->open_count > 0 || source->touched > vm->history.calls[at].begin;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static uint32_t vm_of(const struct sim_model_call *call) {
    return kelpie__sim_model_makes_from(call->op) ? call->target : call->vm;
}

uint64_t kelpie__sim_model_begin(struct sim_model *model, const struct sim_model_call *call) {
    uint32_t index = vm_of(call);
    KELPIE_ASSERT(index < SIM_MODEL_VM_MAX && call->vm < SIM_MODEL_VM_MAX);
    KELPIE_ASSERT(call->file < SIM_MODEL_FILE_MAX);
    KELPIE_ASSERT(!kelpie__sim_model_makes_from(call->op) || call->target != call->vm);
    struct sim_model_vm *vm = &model->vms[index];
    model->clock += 1;
    if (vm->history.call_count >= SIM_MODEL_PIECE_MAX) {
        cut_piece(model, index);
        model->clock += 1;
    }
    uint32_t at = vm->history.call_count;
    KELPIE_ASSERT(at < SIM_HISTORY_CALL_MAX);
    vm->open_count += 1;
    vm->touched = model->clock;
    uint64_t ticket = (uint64_t)index << 56 | model->clock;
    vm->entries[at] = (struct sim_model_entry){
        .call = *call, .ticket = ticket, .is_open = true, .status = SIM_MODEL_NO_ANSWER};
    vm->history.calls[at] = (struct sim_history_call){.begin = model->clock, .end = UINT64_MAX};
    vm->history.call_count += 1;
    for (uint32_t i = 0; i < vm->history.end_count; i += 1) {
        vm->history.ends[i].missing |= UINT64_C(1) << at;
    }
    if (kelpie__sim_model_makes_from(call->op)) {
        look_at_snapshot(model, &vm->entries[at]);
    }
    return ticket;
}

/* A call that a cut went through was refused after all: it cannot have been done before the cut. */
static void drop_done(struct sim_model_vm *vm, uint32_t at) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < vm->history.end_count; i += 1) {
        if ((vm->history.ends[i].missing & UINT64_C(1) << at) != 0) {
            vm->history.ends[kept] = vm->history.ends[i];
            kept += 1;
        }
    }
    vm->history.end_count = kept; /* none: nothing explains it, as the search will say */
}

static void take_answer(struct sim_model *model, struct sim_model_vm *vm, uint32_t at, int status,
                        uint64_t result) {
    struct sim_model_entry *entry = &vm->entries[at];
    bool is_ambiguous = kelpie__sim_model_is_ambiguous(status);
    KELPIE_ASSERT(at < vm->history.call_count && entry->is_open);
    entry->is_open = false;
    entry->status = status;
    entry->result = result;
    entry->is_void = is_ambiguous && !changes(entry->call.op);
    entry->has_answer = !is_ambiguous || entry->is_void;
    if (entry->has_answer) {
        vm->history.calls[at].end = model->clock;
    }
    if (kelpie__sim_model_makes_from(entry->call.op) && is_source_touched(model, vm, at)) {
        entry->fork_must = false;
    }
    bool is_refusal = status == KELPIE_E_STATE || status == KELPIE_E_ALREADY_RUNNING ||
                      status == KELPIE_E_BUSY || status == KELPIE_E_EXISTS ||
                      status == KELPIE_E_NOT_FOUND;
    if (is_refusal) {
        drop_done(vm, at);
    }
}

/* The entry of a ticket; SIM_HISTORY_CALL_MAX: a cut has left it out. */
static uint32_t entry_of(const struct sim_model_vm *vm, uint64_t ticket) {
    for (uint32_t i = vm->history.call_count; i > 0; i -= 1) {
        if (vm->entries[i - 1].ticket == ticket && vm->entries[i - 1].is_open) {
            return i - 1;
        }
    }
    return SIM_HISTORY_CALL_MAX;
}

/* The start of a command that met a pause waits for the guest, and for its own deadline. */
static bool has_met_pause(const struct sim_model_vm *vm, uint32_t at) {
    enum sim_model_op op = vm->entries[at].call.op;
    bool is_command = op == SIM_MODEL_EXEC || op == SIM_MODEL_PUT || op == SIM_MODEL_GET;
    KELPIE_ASSERT(at < vm->history.call_count);
    for (uint32_t i = 0; is_command && i < vm->history.call_count; i += 1) {
        if (vm->entries[i].call.op == SIM_MODEL_PAUSE &&
            vm->history.calls[i].end > vm->history.calls[at].begin) {
            return true;
        }
    }
    return false;
}

bool kelpie__sim_model_end(struct sim_model *model, uint64_t ticket, int status, uint64_t result,
                           char out_text[SIM_MODEL_TEXT_MAX]) {
    uint32_t index = (uint32_t)(ticket >> 56);
    KELPIE_ASSERT(ticket != 0 && index < SIM_MODEL_VM_MAX);
    struct sim_model_vm *vm = &model->vms[index];
    uint32_t at = entry_of(vm, ticket);
    bool is_of_piece = at != SIM_HISTORY_CALL_MAX;
    bool is_good = true;
    KELPIE_ASSERT(vm->open_count > 0);
    model->clock += 1;
    model->checked += 1;
    vm->open_count -= 1;
    vm->touched = model->clock;
    if (is_of_piece) {
        take_answer(model, vm, at, status, result);
    }
    bool is_paused_out = is_of_piece && status == KELPIE_E_TIMEOUT && has_met_pause(vm, at);
    if (model->is_calm && kelpie__sim_model_is_ambiguous(status) && !is_paused_out) {
        struct words words = {.text = out_text};
        say(&words, "VM %u, in a calm run: %s answered with %s", index,
            is_of_piece ? kelpie__sim_model_op_name(vm->entries[at].call.op) : "a call",
            status == SIM_MODEL_NO_ANSWER ? "nothing" : kelpie_code_name(status));
        vm->is_unknown = true;
        is_good = false;
    }
    char later[SIM_MODEL_TEXT_MAX];
    if (vm->open_count == 0 && !close_piece(model, index, is_good ? out_text : later)) {
        is_good = false;
    }
    if (is_good && vm->has_problem) {
        memcpy(out_text, vm->problem, SIM_MODEL_TEXT_MAX);
        is_good = false;
    }
    vm->has_problem = vm->has_problem && vm->open_count > 0 && is_good;
    return is_good;
}

bool kelpie__sim_model_observe(struct sim_model *model, uint32_t vm, int status,
                               enum kelpie_vm_state state, char out_text[SIM_MODEL_TEXT_MAX]) {
    struct sim_model_call call = {.op = SIM_MODEL_OBSERVE, .vm = vm};
    uint64_t ticket = kelpie__sim_model_begin(model, &call);
    KELPIE_ASSERT(status == 0 || status == KELPIE_E_NOT_FOUND);
    return kelpie__sim_model_end(model, ticket, status, (uint64_t)state, out_text);
}

bool kelpie__sim_model_observe_snapshot(struct sim_model *model, uint32_t vm, uint32_t snapshot,
                                        bool is_listed, char out_text[SIM_MODEL_TEXT_MAX]) {
    struct sim_model_call call = {.op = SIM_MODEL_LISTED, .vm = vm, .snapshot = snapshot};
    uint64_t ticket = kelpie__sim_model_begin(model, &call);
    return kelpie__sim_model_end(model, ticket, 0, is_listed ? 1 : 0, out_text);
}

/* ---- what befalls VMs ------------------------------------------------------------------------ */

void kelpie__sim_model_settle(struct sim_model *model, uint32_t index) {
    char text[SIM_MODEL_TEXT_MAX];
    struct sim_model_vm *vm = &model->vms[index];
    KELPIE_ASSERT(index < SIM_MODEL_VM_MAX);
    if (vm->open_count > 0) {
        return;
    }
    /* Once more, so that every end has what lingers both done and not done. */
    kelpie__ignore(close_piece(model, index, text));
    vm->history.call_count = 0;
    for (uint32_t i = 0; i < vm->history.end_count; i += 1) {
        vm->history.ends[i].missing = 0;
    }
}

void kelpie__sim_model_owner_gone(struct sim_model *model, uint32_t vm) {
    struct sim_model_call call = {.op = SIM_MODEL_DELETE_FORCE, .vm = vm};
    char text[SIM_MODEL_TEXT_MAX];
    uint64_t ticket = kelpie__sim_model_begin(model, &call);
    bool was_calm = model->is_calm; /* nobody answers, and nobody was asked */
    model->is_calm = false;
    kelpie__ignore(kelpie__sim_model_end(model, ticket, SIM_MODEL_NO_ANSWER, 0, text));
    model->is_calm = was_calm;
}

/* Behind the first `kept`, once. */
static void add_end(struct sim_model_vm *vm, uint32_t kept, const struct sim_model_state *state) {
    struct sim_history *history = &vm->history;
    for (uint32_t i = kept; i < history->end_count; i += 1) {
        if (memcmp(history->ends[i].state, state, sizeof(*state)) == 0) {
            return;
        }
    }
    if (history->end_count == SIM_HISTORY_END_MAX) {
        vm->is_unknown = true;
        return;
    }
    struct sim_history_end *end = &history->ends[history->end_count];
    memset(end, 0, sizeof(*end));
    memcpy(end->state, state, sizeof(*state));
    history->end_count += 1;
}

/* States are recorded without waiting for the disk: what is found may be any earlier one. Nothing
 * runs any more. */
static void lose_power(struct sim_model_vm *vm, uint32_t kept, const struct sim_model_state *from) {
    static const enum kelpie_vm_state found[] = {KELPIE_VM_CREATED, KELPIE_VM_STOPPED,
                                                 KELPIE_VM_CRASHED};
    struct sim_model_state state = *from;
    kelpie__sim_model_end_guest(&state);
    if (vm->is_ephemeral && state.snapshot_count > 0) { /* theirs are not synced */
        state.flags |= SIM_MODEL_VAGUE;
        state.snapshot_count = 0;
        memset(state.snapshots, 0, sizeof(state.snapshots));
    }
    bool exists = (state.flags & SIM_MODEL_EXISTS) != 0;
    bool is_shaky = (state.flags & SIM_MODEL_SHAKY) != 0 && !vm->is_ephemeral;
    if (vm->is_ephemeral || !exists || is_shaky) {
        struct sim_model_state gone = state;
        kelpie__sim_model_remove(&gone);
        add_end(vm, kept, &gone);
    }
    if (!exists && is_shaky) { /* as it was before somebody began to delete it */
        vm->is_unknown = true;
    }
    if (vm->is_ephemeral || !exists) {
        return;
    }
    state.flags = (uint8_t)(state.flags & ~(unsigned)(SIM_MODEL_SHAKY | SIM_MODEL_GOING));
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(found); i += 1) {
        state.state = (uint8_t)found[i];
        state.flags |= SIM_MODEL_DIRTY;
        add_end(vm, kept, &state);
    }
}

static void lose_disk(struct sim_model_vm *vm) {
    const struct sim_model_state none = {.flags = SIM_MODEL_VAGUE};
    set_only(vm, &none);
    vm->history.call_count = 0;
}

void kelpie__sim_model_power_loss(struct sim_model *model, enum sim_model_disk disk) {
    for (uint32_t i = 0; i < SIM_MODEL_VM_MAX; i += 1) {
        struct sim_model_vm *vm = &model->vms[i];
        KELPIE_ASSERT(vm->open_count == 0);
        kelpie__sim_model_settle(model, i);
        uint32_t count = vm->history.end_count;
        if (disk == SIM_MODEL_DISK_LOST) {
            lose_disk(vm);
            continue;
        }
        if (disk == SIM_MODEL_DISK_LIES && !vm->is_ephemeral) {
            vm->is_unknown = true;
        }
        for (uint32_t j = 0; j < count && !vm->is_unknown; j += 1) {
            lose_power(vm, count, state_at(vm, j));
        }
        if (vm->is_unknown) {
            vm->is_unknown = false;
            set_unknown(vm);
            continue;
        }
        KELPIE_ASSERT(vm->history.end_count >= count);
        vm->history.end_count -= count;
        memmove(&vm->history.ends[0], &vm->history.ends[count],
                vm->history.end_count * sizeof(vm->history.ends[0]));
    }
}

/* ---- looking --------------------------------------------------------------------------------- */

uint32_t kelpie__sim_model_states(const struct sim_model *model, uint32_t vm) {
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    return states_of(&model->vms[vm]);
}

bool kelpie__sim_model_may_have_snapshot(const struct sim_model *model, uint32_t vm,
                                         uint32_t snapshot) {
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    for (uint32_t i = 0; i < model->vms[vm].history.end_count; i += 1) {
        const struct sim_model_state *state = state_at(&model->vms[vm], i);
        if ((state->flags & SIM_MODEL_VAGUE) != 0 ||
            kelpie__sim_model_snapshot(state, snapshot) != NULL) {
            return true;
        }
    }
    return false;
}

uint64_t kelpie__sim_model_checked(const struct sim_model *model) {
    return model->checked;
}

uint64_t kelpie__sim_model_lost(const struct sim_model *model) {
    return model->lost;
}
