/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A trace as Chrome trace-event JSON, which ui.perfetto.dev and chrome://tracing open: bands and
 * lifetimes as slices, faults and marks as instants, calls as short slices of their process.
 */
#include "sim/trace_internal.h"

#include <stdio.h>
#include <string.h>

#include "core/json.h"

#define OBJECT_BYTES 8192
/* Groups of lanes, as Chrome's process numbers. */
#define GROUP_BANDS 1u
#define GROUP_HOST 2u
#define GROUP_GUESTS 3u

struct json_out {
    struct sim_trace_out out;
    const struct sim_trace *trace;
    bool needs_comma;
};

static uint64_t group_of(const struct sim_trace_lane *lane) {
    return lane->kind == SIM_TRACE_BANDS   ? GROUP_BANDS
           : lane->kind == SIM_TRACE_GUEST ? GROUP_GUESTS
                                           : GROUP_HOST;
}

static void json_us(struct kelpie_json_writer *writer, const char *key, int64_t time_ns) {
    char text[48];
    int length = snprintf(text, sizeof(text), "%lld.%03lld", (long long)(time_ns / 1000),
                          (long long)(time_ns % 1000));
    KELPIE_ASSERT(length > 0 && time_ns >= 0);
    kelpie__json_write_raw(writer, key, text, (size_t)length);
}

static void begin(struct kelpie_json_writer *writer, char text[OBJECT_BYTES], const char *phase,
                  const char *name, uint64_t group, uint64_t lane) {
    kelpie__json_begin(writer, text, OBJECT_BYTES);
    kelpie__json_object_begin(writer, NULL);
    kelpie__json_write_string(writer, "ph", phase);
    kelpie__json_write_string(writer, "name", name);
    kelpie__json_write_u64(writer, "pid", group);
    kelpie__json_write_u64(writer, "tid", lane);
}

static void finish(struct json_out *json, struct kelpie_json_writer *writer, const char *text) {
    kelpie__json_object_end(writer);
    int64_t length = kelpie__json_finish(writer);
    if (length < 0) {
        return; /* a text beyond all bounds: left out */
    }
    kelpie__sim_trace_put(&json->out, json->needs_comma ? ",\n" : "");
    json->out.write(json->out.context, text, (size_t)length);
    json->needs_comma = true;
}

static void write_name(struct json_out *json, const char *what, uint64_t group, uint64_t lane,
                       const char *name) {
    char text[OBJECT_BYTES];
    struct kelpie_json_writer writer;
    begin(&writer, text, "M", what, group, lane);
    kelpie__json_object_begin(&writer, "args");
    kelpie__json_write_string(&writer, "name", name);
    kelpie__json_object_end(&writer);
    finish(json, &writer, text);
}

static void write_slice(struct json_out *json, uint32_t lane, const char *name, int64_t begin_ns,
                        int64_t end_ns, const char *detail) {
    char text[OBJECT_BYTES];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(end_ns >= begin_ns);
    begin(&writer, text, "X", name, group_of(&json->trace->lanes[lane]), lane + 1);
    json_us(&writer, "ts", begin_ns);
    json_us(&writer, "dur", end_ns - begin_ns);
    if (detail[0] != '\0') {
        kelpie__json_object_begin(&writer, "args");
        kelpie__json_write_string(&writer, "detail", detail);
        kelpie__json_object_end(&writer);
    }
    finish(json, &writer, text);
}

static void write_instant(struct json_out *json, const struct sim_trace_record *record,
                          const char *name) {
    char text[OBJECT_BYTES];
    struct kelpie_json_writer writer;
    bool has_lane = record->lane != SIM_TRACE_NO_LANE;
    begin(&writer, text, "i", name,
          has_lane ? group_of(&json->trace->lanes[record->lane]) : GROUP_HOST,
          has_lane ? record->lane + 1 : 0);
    json_us(&writer, "ts", record->time_ns);
    kelpie__json_write_string(&writer, "s", has_lane ? "t" : "g");
    kelpie__json_object_begin(&writer, "args");
    kelpie__json_write_string(&writer, "detail", kelpie__sim_trace_text(json->trace, record));
    kelpie__json_object_end(&writer);
    finish(json, &writer, text);
}

static const char *instant_name(enum sim_event_type type) {
    switch (type) {
    case SIM_EVENT_PROCESS_STARTED:
        return "started";
    case SIM_EVENT_PROCESS_ENDED:
        return "ended";
    case SIM_EVENT_PROCESS_STOPPED:
        return "stopped";
    case SIM_EVENT_PROCESS_CONTINUED:
        return "continued";
    case SIM_EVENT_FAULT:
        return "FAULT";
    case SIM_EVENT_GUEST:
        return "guest";
    case SIM_EVENT_RENAME:
        return "rename";
    case SIM_EVENT_MARK:
        return "mark";
    case SIM_EVENT_POWER_LOSS:
        return "POWER LOSS";
    case SIM_EVENT_NOTE:
        return "note";
    }
    return "event";
}

static void write_records(struct json_out *json) {
    const struct sim_trace *trace = json->trace;
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        const struct sim_trace_record *record = &trace->records[i];
        if (record->type == SIM_TRACE_RECORD_BAND) {
            write_slice(json, record->lane, kelpie__sim_trace_text(trace, record), record->time_ns,
                        record->end_ns < 0 ? trace->last_ns : record->end_ns, "");
        } else {
            write_instant(json, record, instant_name((enum sim_event_type)record->event));
        }
    }
}

static void write_calls(struct json_out *json) {
    const struct sim_trace *trace = json->trace;
    for (uint32_t i = 0; i < trace->kept; i += 1) {
        const struct sim_trace_call *call = kelpie__sim_trace_kept(trace, i);
        char detail[160];
        bool has_lane =
            call->birth < trace->birth_capacity && trace->lane_of_birth[call->birth] != 0;
        snprintf(detail, sizeof(detail), "call %llu, handle %d, \"%s\" = %lld",
                 (unsigned long long)call->number, call->handle, call->what,
                 (long long)call->result);
        if (has_lane) {
            write_slice(json, trace->lane_of_birth[call->birth] - 1,
                        kelpie__sim_op_name((enum sim_op)call->op), call->time_ns,
                        call->time_ns + 1, detail);
        }
    }
}

void kelpie__sim_trace_json(const struct sim_trace *trace, sim_trace_write write, void *context) {
    struct json_out json = {.out = {write, context}, .trace = trace};
    char title[sizeof(trace->title) * 6 + 64];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, title, sizeof(title));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "format", "kelpie-trace 1");
    kelpie__json_write_string(&writer, "title", trace->title);
    kelpie__json_object_end(&writer);
    kelpie__sim_trace_put(&json.out, "{\"displayTimeUnit\":\"ms\",\"otherData\":");
    kelpie__sim_trace_put(&json.out, kelpie__json_finish(&writer) > 0 ? title : "{}");
    kelpie__sim_trace_put(&json.out, ",\"traceEvents\":[\n");
    write_name(&json, "process_name", GROUP_BANDS, 0, "VMs");
    write_name(&json, "process_name", GROUP_HOST, 0, "processes");
    write_name(&json, "process_name", GROUP_GUESTS, 0, "guests");
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        const struct sim_trace_lane *lane = &trace->lanes[i];
        write_name(&json, "thread_name", group_of(lane), i + 1, lane->name);
        if (lane->kind == SIM_TRACE_PROCESS) {
            write_slice(&json, i, lane->name, lane->begin_ns,
                        lane->end_ns < 0 ? trace->last_ns : lane->end_ns, "");
        }
    }
    write_records(&json);
    write_calls(&json);
    kelpie__sim_trace_put(&json.out, "\n]}\n");
}
