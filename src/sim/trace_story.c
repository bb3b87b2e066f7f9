/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A trace as at most twenty lines of plain words: what went wrong, and what the VMs did. Of too
 * many events the weightiest are told, of equal ones the last: a failure is near the end.
 */
#include "sim/trace_internal.h"

#include <stdio.h>
#include <string.h>

#define LINES_MAX 20u
#define LINE_BYTES 320
#define WEIGHT_MAX 9u

/* What an event weighs; 0: it is not told. */
static uint32_t weight_of(const struct sim_trace *trace, const struct sim_trace_record *record) {
    const char *text = kelpie__sim_trace_text(trace, record);
    if (record->type == SIM_TRACE_RECORD_BAND) {
        return 5;
    }
    switch ((enum sim_event_type)record->event) {
    case SIM_EVENT_FAULT:
    case SIM_EVENT_POWER_LOSS:
        return 9;
    case SIM_EVENT_NOTE:
        return 8;
    case SIM_EVENT_GUEST:
        return 6;
    case SIM_EVENT_PROCESS_ENDED:
        return strcmp(text, "code 000") == 0 ? 2 : 7;
    case SIM_EVENT_PROCESS_STARTED:
        return 3;
    case SIM_EVENT_PROCESS_STOPPED:
    case SIM_EVENT_PROCESS_CONTINUED:
        return 2;
    case SIM_EVENT_MARK:
        return 1;
    case SIM_EVENT_RENAME:
        return 0;
    }
    return 0;
}

/* "kill" of "* role=monitor birth=3 nth=7 => kill # 14.203 s in rename(/a)". */
static void split_fault(const char *detail, char action[64], char where[128]) {
    const char *arrow = strstr(detail, " => ");
    const char *comment = strstr(detail, " # ");
    const char *begin = arrow == NULL ? detail : arrow + 4;
    int length = comment != NULL && comment > begin ? (int)(comment - begin) : (int)strlen(begin);
    snprintf(action, 64, "%.*s", length < 63 ? length : 63, begin);
    const char *seconds = comment == NULL ? NULL : strstr(comment, " s ");
    snprintf(where, 128, "%.127s", seconds == NULL ? "" : seconds + 3);
}

static void tell_fault(char out[LINE_BYTES], const char *who, const char *detail) {
    char action[64];
    char where[128];
    split_fault(detail, action, where);
    if (strcmp(action, "kill") == 0) {
        snprintf(out, LINE_BYTES, "%s killed %s", who, where);
    } else if (strncmp(action, "stop", 4) == 0 && (action[4] == ':' || action[4] == '\0')) {
        snprintf(out, LINE_BYTES, "%s stopped%s%s %s", who, action[4] == ':' ? " for " : "",
                 action[4] == ':' ? action + 5 : "", where);
    } else {
        snprintf(out, LINE_BYTES, "%s%sfault %s %s", who, who[0] == '\0' ? "" : ": ", action,
                 where);
    }
}

static void tell(const struct sim_trace *trace, const struct sim_trace_record *record,
                 char out[LINE_BYTES]) {
    const char *text = kelpie__sim_trace_text(trace, record);
    const char *who = record->lane == SIM_TRACE_NO_LANE ? "" : trace->lanes[record->lane].name;
    const char *gap = who[0] == '\0' ? "" : " ";
    if (record->type == SIM_TRACE_RECORD_BAND) {
        snprintf(out, LINE_BYTES, "%s is %.100s", who, text);
        return;
    }
    switch ((enum sim_event_type)record->event) {
    case SIM_EVENT_FAULT:
        tell_fault(out, who, text);
        break;
    case SIM_EVENT_POWER_LOSS:
        snprintf(out, LINE_BYTES, "the machine loses its power");
        break;
    case SIM_EVENT_PROCESS_STARTED:
        snprintf(out, LINE_BYTES, "%s started", who);
        break;
    case SIM_EVENT_PROCESS_ENDED:
        snprintf(out, LINE_BYTES, "%s ended: %.100s", who, text);
        break;
    case SIM_EVENT_PROCESS_STOPPED:
        snprintf(out, LINE_BYTES, "%s stands still", who);
        break;
    case SIM_EVENT_PROCESS_CONTINUED:
        snprintf(out, LINE_BYTES, "%s goes on", who);
        break;
    case SIM_EVENT_GUEST:
    case SIM_EVENT_NOTE:
        snprintf(out, LINE_BYTES, "%s%s%.220s", who, gap, text);
        break;
    case SIM_EVENT_MARK:
    case SIM_EVENT_RENAME:
        snprintf(out, LINE_BYTES, "%s%sreaches %.120s", who, gap, text);
        break;
    }
}

/* The least weight that is told, and how many of that weight are left out (the first ones). */
static void choose(const struct sim_trace *trace, uint32_t *out_weight, uint32_t *out_skipped) {
    uint32_t counts[WEIGHT_MAX + 1] = {0};
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        counts[weight_of(trace, &trace->records[i])] += 1;
    }
    uint32_t room = LINES_MAX - 1;
    uint32_t weight = WEIGHT_MAX;
    while (weight > 1 && counts[weight] <= room) {
        room -= counts[weight];
        weight -= 1;
    }
    *out_weight = weight;
    *out_skipped = counts[weight] > room ? counts[weight] - room : 0;
}

static void print_line(const struct sim_trace *trace, const struct sim_trace_record *record,
                       const struct sim_trace_out *out) {
    char line[LINE_BYTES];
    char seconds[32];
    kelpie__sim_trace_seconds(record->time_ns, seconds);
    tell(trace, record, line);
    kelpie__sim_trace_print(out, "%9s s  %s\n", seconds, line);
}

void kelpie__sim_trace_log(const struct sim_trace *trace, sim_trace_write write, void *context) {
    const struct sim_trace_out out = {write, context};
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        print_line(trace, &trace->records[i], &out);
    }
}

static void print_call(const struct sim_trace_call *call, const struct sim_trace_out *out) {
    char seconds[32];
    kelpie__sim_trace_seconds(call->time_ns, seconds);
    kelpie__sim_trace_print(out, "%9s s    %s.%u %s(%s%s%.31s) = %lld\n", seconds, call->role,
                            call->birth, kelpie__sim_op_name((enum sim_op)call->op),
                            call->handle >= 0 ? "handle" : "", call->what[0] != '\0' ? " " : "",
                            call->what, (long long)call->result);
}

void kelpie__sim_trace_log_calls(const struct sim_trace *trace, sim_trace_write write,
                                 void *context) {
    const struct sim_trace_out out = {write, context};
    uint32_t at = 0;
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        while (at < trace->kept &&
               kelpie__sim_trace_kept(trace, at)->time_ns < trace->records[i].time_ns) {
            print_call(kelpie__sim_trace_kept(trace, at), &out);
            at += 1;
        }
        print_line(trace, &trace->records[i], &out);
    }
    for (; at < trace->kept; at += 1) {
        print_call(kelpie__sim_trace_kept(trace, at), &out);
    }
}

void kelpie__sim_trace_story(const struct sim_trace *trace, sim_trace_write write, void *context) {
    struct sim_trace_out out = {write, context};
    uint32_t weight = 0;
    uint32_t skipped = 0;
    uint32_t told = 0;
    choose(trace, &weight, &skipped);
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        const struct sim_trace_record *record = &trace->records[i];
        uint32_t own = weight_of(trace, record);
        if (own < weight) {
            continue;
        }
        if (own == weight && skipped > 0) {
            skipped -= 1;
            continue;
        }
        print_line(trace, record, &out);
        told += 1;
    }
    KELPIE_ASSERT(told < LINES_MAX);
    kelpie__sim_trace_print(&out, "(%u of %u events, %llu calls)\n", told, trace->record_count,
                            (unsigned long long)trace->call_count);
}
