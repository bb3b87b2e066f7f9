/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Recording, and comparing two recordings. The world's own memory; nothing that is recorded changes
 * anything. What finds no room is counted, not kept.
 */
#include "sim/trace_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/guest.h"

#define PIECE_BYTES 1024

struct sim_trace *kelpie__sim_trace_create(enum sim_trace_detail detail) {
    struct sim_trace *trace = calloc(1, sizeof(*trace));
    if (trace == NULL) {
        return NULL;
    }
    trace->detail = detail;
    if (detail == SIM_TRACE_CALLS) {
        trace->calls = calloc(SIM_TRACE_CALL_MAX, sizeof(*trace->calls));
        if (trace->calls == NULL) {
            free(trace);
            return NULL;
        }
    }
    return trace;
}

void kelpie__sim_trace_destroy(struct sim_trace *trace) {
    if (trace != NULL) {
        free(trace->calls);
        free(trace->checkpoints);
        free(trace->lanes);
        free(trace->lane_of_birth);
        free(trace->records);
        free(trace->texts);
        free(trace);
    }
}

void kelpie__sim_trace_title(struct sim_trace *trace, const char *title) {
    snprintf(trace->title, sizeof(trace->title), "%s", title);
}

void kelpie__sim_trace_keep_from(struct sim_trace *trace, uint64_t number) {
    KELPIE_ASSERT(trace->call_count == 0);
    trace->keep_from = number;
}

uint64_t kelpie__sim_trace_calls(const struct sim_trace *trace) {
    return trace->call_count;
}

uint64_t kelpie__sim_trace_checkpoint(const struct sim_trace *trace, uint64_t index) {
    return index > 0 && index <= trace->checkpoint_count ? trace->checkpoints[index - 1] : 0;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void add_checkpoint(struct sim_trace *trace, uint64_t hash) {
    if (trace->checkpoint_count == trace->checkpoint_capacity) {
        uint64_t capacity = trace->checkpoint_capacity == 0 ? 256 : trace->checkpoint_capacity * 2;
        uint64_t *grown = realloc(trace->checkpoints, (size_t)capacity * sizeof(*grown));
        if (grown == NULL) {
            trace->dropped += 1;
            return;
        }
        trace->checkpoints = grown;
        trace->checkpoint_capacity = capacity;
    }
    trace->checkpoints[trace->checkpoint_count] = hash;
    trace->checkpoint_count += 1;
}

static void copy_end(char *out, size_t capacity, const char *text) {
    size_t length = strlen(text);
    size_t skipped = length < capacity ? 0 : length - (capacity - 1);
    memcpy(out, text + skipped, length - skipped + 1);
}

void kelpie__sim_trace_call(struct sim_trace *trace, const struct sim_call *call, int64_t result,
                            uint64_t hash) {
    trace->call_count += 1;
    trace->last_hash = hash;
    trace->last_ns = call->time_ns > trace->last_ns ? call->time_ns : trace->last_ns;
    if (trace->call_count % SIM_TRACE_CHECKPOINT == 0) {
        add_checkpoint(trace, hash);
    }
    bool is_before = trace->call_count < trace->keep_from;
    bool is_full = trace->keep_from != 0 && trace->kept == SIM_TRACE_CALL_MAX;
    if (trace->detail != SIM_TRACE_CALLS || is_before || is_full) {
        return;
    }
    struct sim_trace_call *kept = &trace->calls[trace->next];
    *kept = (struct sim_trace_call){
        .time_ns = call->time_ns,
        .number = trace->call_count,
        .hash = hash,
        .result = result,
        .birth = (uint32_t)call->process->birth,
        .handle = (int16_t)call->handle,
        .op = (uint8_t)call->op,
    };
    snprintf(kept->role, sizeof(kept->role), "%.8s", call->process->role);
    copy_end(kept->what, sizeof(kept->what),
             call->path != NULL    ? call->path
             : call->label != NULL ? call->label
                                   : "");
    trace->next = (trace->next + 1) % SIM_TRACE_CALL_MAX;
    trace->kept += trace->kept < SIM_TRACE_CALL_MAX ? 1 : 0;
}

const struct sim_trace_call *kelpie__sim_trace_kept(const struct sim_trace *trace, uint32_t index) {
    KELPIE_ASSERT(index < trace->kept);
    uint32_t first = (trace->next + SIM_TRACE_CALL_MAX - trace->kept) % SIM_TRACE_CALL_MAX;
    return &trace->calls[(first + index) % SIM_TRACE_CALL_MAX];
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static struct sim_trace_lane *add_lane(struct sim_trace *trace, uint32_t *out_index) {
    if (trace->lane_count == SIM_TRACE_LANE_MAX) {
        return NULL;
    }
    if (trace->lane_count == trace->lane_capacity) {
        uint32_t capacity = trace->lane_capacity == 0 ? 64 : trace->lane_capacity * 2;
        struct sim_trace_lane *grown = realloc(trace->lanes, capacity * sizeof(*grown));
        if (grown == NULL) {
            return NULL;
        }
        trace->lanes = grown;
        trace->lane_capacity = capacity;
    }
    struct sim_trace_lane *lane = &trace->lanes[trace->lane_count];
    *lane = (struct sim_trace_lane){.end_ns = -1};
    *out_index = trace->lane_count;
    trace->lane_count += 1;
    return lane;
}

/* How many lanes have this name before their number. */
static uint32_t count_role(const struct sim_trace *trace, const char *role) {
    uint32_t most = 0;
    size_t length = strlen(role);
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        const struct sim_trace_lane *lane = &trace->lanes[i];
        bool is_same = lane->kind == SIM_TRACE_PROCESS && strncmp(lane->name, role, length) == 0 &&
                       lane->name[length] == '-';
        most = is_same && lane->ordinal > most ? lane->ordinal : most;
    }
    return most;
}

static uint64_t guest_of(const struct sim_process *process) {
    struct sim_guest_truth truth = {0};
    if (process->machine != NULL && process->machine->guest != NULL) {
        kelpie__sim_guest_truth(process->machine->guest, &truth);
    }
    return truth.id;
}

static uint32_t lane_of_process(struct sim_trace *trace, int64_t time_ns,
                                const struct sim_process *process) {
    uint64_t birth = process->birth;
    if (birth >= trace->birth_capacity) {
        uint64_t capacity = birth < 128 ? 256 : birth * 2;
        uint32_t *grown = realloc(trace->lane_of_birth, (size_t)capacity * sizeof(*grown));
        if (grown == NULL) {
            return SIM_TRACE_NO_LANE;
        }
        memset(grown + trace->birth_capacity, 0,
               (size_t)(capacity - trace->birth_capacity) * sizeof(*grown));
        trace->lane_of_birth = grown;
        trace->birth_capacity = capacity;
    }
    if (trace->lane_of_birth[birth] == 0) {
        uint32_t ordinal = count_role(trace, process->role) + 1;
        uint32_t index = 0;
        struct sim_trace_lane *lane = add_lane(trace, &index);
        if (lane == NULL) {
            return SIM_TRACE_NO_LANE;
        }
        lane->kind = SIM_TRACE_PROCESS;
        lane->id = birth;
        lane->pid = process->pid;
        lane->guest = guest_of(process);
        lane->begin_ns = time_ns;
        lane->ordinal = ordinal;
        snprintf(lane->name, sizeof(lane->name), "%s-%u", process->role, ordinal);
        trace->lane_of_birth[birth] = index + 1;
    }
    return trace->lane_of_birth[birth] - 1;
}

static uint32_t lane_find(struct sim_trace *trace, enum sim_trace_kind kind, uint64_t id,
                          const char *name, int64_t time_ns) {
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        if (trace->lanes[i].kind == kind && trace->lanes[i].id == id &&
            strcmp(trace->lanes[i].name, name) == 0) {
            return i;
        }
    }
    uint32_t index = SIM_TRACE_NO_LANE;
    struct sim_trace_lane *lane = add_lane(trace, &index);
    if (lane != NULL) {
        lane->kind = kind;
        lane->id = id;
        lane->begin_ns = time_ns;
        snprintf(lane->name, sizeof(lane->name), "%s", name);
    }
    return index;
}

static uint32_t lane_of_guest(struct sim_trace *trace, int64_t time_ns, struct sim_guest *guest) {
    struct sim_guest_truth truth = {0};
    char name[32];
    kelpie__sim_guest_truth(guest, &truth);
    snprintf(name, sizeof(name), "guest-%llu", (unsigned long long)truth.id);
    return lane_find(trace, SIM_TRACE_GUEST, truth.id, name, time_ns);
}

/* ---- records --------------------------------------------------------------------------------- */

static bool add_text(struct sim_trace *trace, const char *text, uint32_t *out) {
    size_t bytes = strlen(text) + 1;
    if (trace->text_bytes + bytes > trace->text_capacity) {
        size_t capacity = trace->text_capacity == 0 ? 65536 : (size_t)trace->text_capacity * 2;
        capacity = kelpie__max_u64(capacity, trace->text_bytes + bytes);
        char *grown = capacity > INT32_MAX ? NULL : realloc(trace->texts, capacity);
        if (grown == NULL) {
            return false;
        }
        trace->texts = grown;
        trace->text_capacity = (uint32_t)capacity;
    }
    memcpy(trace->texts + trace->text_bytes, text, bytes);
    *out = trace->text_bytes;
    trace->text_bytes += (uint32_t)bytes;
    return true;
}

static void add_record(struct sim_trace *trace, struct sim_trace_record record, const char *text) {
    if (trace->record_count == trace->record_capacity) {
        uint32_t capacity = trace->record_capacity == 0 ? 1024 : trace->record_capacity * 2;
        struct sim_trace_record *grown = capacity > SIM_TRACE_RECORD_MAX
                                             ? NULL
                                             : realloc(trace->records, capacity * sizeof(*grown));
        if (grown == NULL) {
            trace->dropped += 1;
            return;
        }
        trace->records = grown;
        trace->record_capacity = capacity;
    }
    if (!add_text(trace, text, &record.text)) {
        trace->dropped += 1;
        return;
    }
    trace->records[trace->record_count] = record;
    trace->record_count += 1;
    trace->last_ns = record.time_ns > trace->last_ns ? record.time_ns : trace->last_ns;
}

static bool is_end_of_guest(const char *detail) {
    static const char *const words[] = {"ended", "powered off", "reset", "destroyed"};
    bool is_one = false;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(words); i += 1) {
        is_one = is_one || strncmp(detail, words[i], strlen(words[i])) == 0;
    }
    return is_one;
}

/* A guest's end is that of its processes. */
static void end_lanes(struct sim_trace *trace, uint32_t index, int64_t time_ns) {
    const struct sim_trace_lane ended = trace->lanes[index];
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        struct sim_trace_lane *lane = &trace->lanes[i];
        bool is_inside = ended.kind == SIM_TRACE_GUEST && lane->kind == SIM_TRACE_PROCESS &&
                         lane->guest == ended.id && ended.id != 0;
        if ((i == index || is_inside) && lane->end_ns < 0) {
            lane->end_ns = time_ns;
        }
    }
}

void kelpie__sim_trace_event(struct sim_trace *trace, int64_t time_ns,
                             const struct sim_event *event) {
    uint32_t lane = SIM_TRACE_NO_LANE;
    KELPIE_ASSERT(event->detail != NULL);
    if (event->guest != NULL && (event->type == SIM_EVENT_GUEST || event->process == NULL)) {
        lane = lane_of_guest(trace, time_ns, event->guest);
    } else if (event->process != NULL) {
        lane = lane_of_process(trace, time_ns, event->process);
    }
    bool is_end = event->type == SIM_EVENT_PROCESS_ENDED ||
                  (event->type == SIM_EVENT_GUEST && is_end_of_guest(event->detail));
    if (is_end && lane != SIM_TRACE_NO_LANE) {
        end_lanes(trace, lane, time_ns);
    }
    add_record(trace,
               (struct sim_trace_record){.time_ns = time_ns,
                                         .lane = lane,
                                         .type = SIM_TRACE_RECORD_EVENT,
                                         .event = (uint8_t)event->type},
               event->detail);
}

void kelpie__sim_trace_band(struct sim_trace *trace, int64_t time_ns, const char *lane,
                            const char *state) {
    uint32_t index = lane_find(trace, SIM_TRACE_BANDS, 0, lane, time_ns);
    if (index == SIM_TRACE_NO_LANE) {
        trace->dropped += 1;
        return;
    }
    struct sim_trace_lane *own = &trace->lanes[index];
    uint32_t before = trace->record_count;
    add_record(trace,
               (struct sim_trace_record){
                   .time_ns = time_ns, .lane = index, .type = SIM_TRACE_RECORD_BAND, .end_ns = -1},
               state);
    if (trace->record_count > before) {
        if (own->last_band != 0) {
            trace->records[own->last_band - 1].end_ns = time_ns;
        }
        own->last_band = trace->record_count;
    }
}

const char *kelpie__sim_trace_text(const struct sim_trace *trace,
                                   const struct sim_trace_record *record) {
    KELPIE_ASSERT(record->text < trace->text_bytes);
    return trace->texts + record->text;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void describe(const struct sim_trace_call *call, char out[256]) {
    char seconds[32];
    kelpie__sim_trace_seconds(call->time_ns, seconds);
    snprintf(out, 256,
             "call %llu at %s s: %s (birth %u) %s(handle %d, \"%s\") = %lld, hash %016llx",
             (unsigned long long)call->number, seconds, call->role, call->birth,
             kelpie__sim_op_name((enum sim_op)call->op), call->handle, call->what,
             (long long)call->result, (unsigned long long)call->hash);
}

/* The kept call of that number; NULL: it is not kept. */
static const struct sim_trace_call *kept_of(const struct sim_trace *trace, uint64_t number) {
    if (trace->kept == 0) {
        return NULL;
    }
    uint64_t first = kelpie__sim_trace_kept(trace, 0)->number;
    return number >= first && number - first < trace->kept
               ? kelpie__sim_trace_kept(trace, (uint32_t)(number - first))
               : NULL;
}

static void describe_or_say(const struct sim_trace *trace, uint64_t number, char out[256]) {
    const struct sim_trace_call *call = kept_of(trace, number);
    if (call != NULL) {
        describe(call, out);
    } else if (number > trace->call_count) {
        snprintf(out, 256, "no call %llu: this run ended after %llu calls",
                 (unsigned long long)number, (unsigned long long)trace->call_count);
    } else {
        snprintf(out, 256, "a call from %llu to %llu, which are not kept",
                 (unsigned long long)number,
                 (unsigned long long)(number + SIM_TRACE_CHECKPOINT - 1));
    }
}

bool kelpie__sim_trace_compare(const struct sim_trace *first, const struct sim_trace *second,
                               char out_first[256], char out_second[256], uint64_t *out_number) {
    if (first->call_count == second->call_count && first->last_hash == second->last_hash) {
        return false;
    }
    uint64_t shared = kelpie__min_u64(first->checkpoint_count, second->checkpoint_count);
    uint64_t equal = 0;
    while (equal < shared && first->checkpoints[equal] == second->checkpoints[equal]) {
        equal += 1;
    }
    uint64_t number = equal * SIM_TRACE_CHECKPOINT + 1;
    uint64_t end = kelpie__min_u64(first->call_count, second->call_count);
    end = kelpie__min_u64(end, number + SIM_TRACE_CHECKPOINT - 1);
    bool is_kept = true;
    while (is_kept && number <= end) {
        const struct sim_trace_call *one = kept_of(first, number);
        const struct sim_trace_call *other = kept_of(second, number);
        is_kept = one != NULL && other != NULL;
        if (!is_kept || one->hash != other->hash || one->op != other->op ||
            one->birth != other->birth || one->result != other->result) {
            break;
        }
        number += 1;
    }
    describe_or_say(first, number, out_first);
    describe_or_say(second, number, out_second);
    if (out_number != NULL) {
        *out_number = number;
    }
    return true;
}

/* ---- for those who write --------------------------------------------------------------------- */

void kelpie__sim_trace_seconds(int64_t time_ns, char out[32]) {
    int64_t ms = time_ns / 1000000;
    snprintf(out, 32, "%lld.%03lld", (long long)(ms / 1000), (long long)(ms % 1000));
}

void kelpie__sim_trace_put(const struct sim_trace_out *out, const char *text) {
    out->write(out->context, text, strlen(text));
}

void kelpie__sim_trace_print(const struct sim_trace_out *out, const char *format, ...) {
    char piece[PIECE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(piece, sizeof(piece), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0 && length < PIECE_BYTES);
    out->write(out->context, piece, (size_t)length);
}
