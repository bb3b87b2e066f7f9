/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A trace as one picture that stands alone: a lane for each VM's states, each process of the host
 * and each guest, along the virtual time. Faults are red; everything says what it is when the
 * pointer rests on it. Beyond LANES_MAX lanes, processes of one role share lanes.
 */
#include "sim/trace_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANES_MAX 80u
#define LANE_HEIGHT 24
#define BAR_HEIGHT 14
#define LABEL_WIDTH 150
#define CHART_WIDTH 1235
#define MARGIN 20
#define TOP 96
#define TICKS_MAX 14
#define MARKS_MAX 4000u /* of events that are drawn */
#define TEXT_BYTES 512

struct svg {
    struct sim_trace_out out;
    const struct sim_trace *trace;
    uint32_t *rows;   /* of each lane */
    int64_t *free_ns; /* of each row, when packing */
    uint32_t *first_of_row;
    uint32_t row_count;
    int64_t begin_ns;
    int64_t span_ns;
};

static int height_of(const struct svg *svg) {
    return TOP + (int)svg->row_count * LANE_HEIGHT + 56;
}

/* Thousandths of a pixel: no floating point. Long runs are measured more coarsely, so that nothing
 * overflows. */
static int64_t place(const struct svg *svg, int64_t time_ns) {
    int64_t since = time_ns - svg->begin_ns;
    int64_t unit = 1 + svg->span_ns / (INT64_C(1) << 42);
    since = since < 0 ? 0 : since > svg->span_ns ? svg->span_ns : since;
    KELPIE_ASSERT(svg->span_ns / unit > 0);
    return (int64_t)(LABEL_WIDTH + MARGIN) * 1000 +
           since / unit * (CHART_WIDTH * 1000) / (svg->span_ns / unit);
}

static int row_y(const struct svg *svg, uint32_t lane) {
    return TOP + (int)svg->rows[lane] * LANE_HEIGHT;
}

static void escape(char out[TEXT_BYTES], const char *text) {
    static const struct {
        char character;
        const char *name;
    } names[] = {{'<', "&lt;"}, {'>', "&gt;"}, {'&', "&amp;"}, {'"', "&quot;"}};
    size_t length = 0;
    for (const char *at = text; *at != '\0' && length + 8 < TEXT_BYTES; at += 1) {
        const char *name = NULL;
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
            name = names[i].character == *at ? names[i].name : name;
        }
        if (name != NULL) {
            memcpy(out + length, name, strlen(name));
            length += strlen(name);
        } else {
            bool is_shown = (uint8_t)*at >= 0x20 && (uint8_t)*at < 0x7f;
            out[length] = is_shown ? *at : '?';
            length += 1;
        }
    }
    out[length] = '\0';
}

/* ---- layout ---------------------------------------------------------------------------------- */

static bool shares_row(const struct sim_trace_lane *one, const struct sim_trace_lane *other) {
    size_t length = strcspn(one->name, "-");
    return one->kind == SIM_TRACE_PROCESS && other->kind == SIM_TRACE_PROCESS &&
           strncmp(one->name, other->name, length) == 0 && other->name[length] == '-';
}

static void place_lane(struct svg *svg, uint32_t index, bool is_packed) {
    const struct sim_trace_lane *lane = &svg->trace->lanes[index];
    uint32_t row = svg->row_count;
    for (uint32_t i = 0; is_packed && i < svg->row_count && row == svg->row_count; i += 1) {
        const struct sim_trace_lane *first = &svg->trace->lanes[svg->first_of_row[i]];
        if (shares_row(first, lane) && svg->free_ns[i] >= 0 && svg->free_ns[i] <= lane->begin_ns) {
            row = i;
        }
    }
    if (row == svg->row_count) {
        svg->first_of_row[row] = index;
        svg->row_count += 1;
    }
    svg->rows[index] = row;
    svg->free_ns[row] = lane->end_ns;
}

static void lay_out(struct svg *svg) {
    static const enum sim_trace_kind kinds[] = {SIM_TRACE_BANDS, SIM_TRACE_PROCESS,
                                                SIM_TRACE_GUEST};
    const struct sim_trace *trace = svg->trace;
    bool is_packed = trace->lane_count > LANES_MAX;
    for (size_t kind = 0; kind < KELPIE_ARRAY_COUNT(kinds); kind += 1) {
        for (uint32_t i = 0; i < trace->lane_count; i += 1) {
            if (trace->lanes[i].kind == kinds[kind]) {
                place_lane(svg, i, is_packed);
            }
        }
    }
    int64_t begin_ns = trace->last_ns;
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        begin_ns = trace->lanes[i].begin_ns < begin_ns ? trace->lanes[i].begin_ns : begin_ns;
    }
    svg->begin_ns = begin_ns;
    svg->span_ns = trace->last_ns - begin_ns > 0 ? trace->last_ns - begin_ns : 1;
}

/* ---- frame ----------------------------------------------------------------------------------- */

static const char *const style_text =
    "<style>\n"
    "svg{background:#fff;font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2933}\n"
    ".title{font-size:17px;font-weight:600}.dim{fill:#7b8794;font-size:11px}\n"
    ".label{font-size:11px;text-anchor:end}.grid{stroke:#e4e7eb;stroke-width:1}\n"
    ".stripe{fill:#f7f9fb}.process{fill:#b8c4d0}.guest{fill:#c9b8e8}.killed{fill:#d99a9a}\n"
    ".stopped{fill:#627d98;fill-opacity:.55}.band{stroke:#fff;stroke-width:.6}\n"
    ".bandname{font-size:9.5px;fill:#fff;pointer-events:none}\n"
    ".fault{fill:#d6204e;stroke:#fff;stroke-width:.8}.line{stroke:#d6204e;stroke-width:1.6}\n"
    ".power{stroke:#d6204e;stroke-width:1.4;stroke-dasharray:5 3}\n"
    ".mark{fill:#486581}.note{fill:#f0b429}.end{stroke:#d6204e;stroke-width:1.6;fill:none}\n"
    "rect:hover,path:hover,circle:hover{filter:brightness(.82)}\n"
    "</style>\n";

/* A step of 1, 2 or 5 times a power of ten, in ns. */
static int64_t tick_step(const struct svg *svg) {
    static const int64_t factors[] = {1, 2, 5};
    int64_t power = 1000;
    for (uint32_t digits = 0; digits < 16; digits += 1) {
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(factors); i += 1) {
            if (svg->span_ns / (power * factors[i]) <= TICKS_MAX) {
                return power * factors[i];
            }
        }
        power *= 10;
    }
    return svg->span_ns;
}

static void write_axis(const struct svg *svg) {
    int64_t step = tick_step(svg);
    int bottom = height_of(svg) - 50;
    int64_t first = (svg->begin_ns + step - 1) / step * step;
    int64_t end = svg->begin_ns + svg->span_ns;
    KELPIE_ASSERT(step > 0);
    for (int64_t at = first; at <= end; at += step) {
        char seconds[48];
        int64_t x = place(svg, at);
        int64_t us = at / 1000;
        if (step % 1000000 == 0) {
            kelpie__sim_trace_seconds(at, seconds);
        } else {
            snprintf(seconds, sizeof(seconds), "%lld.%06lld", (long long)(us / 1000000),
                     (long long)(us % 1000000));
        }
        if (step % INT64_C(1000000000) == 0) {
            snprintf(seconds, sizeof(seconds), "%lld", (long long)(at / INT64_C(1000000000)));
        }
        kelpie__sim_trace_print(
            &svg->out,
            "<line class=\"grid\" x1=\"%lld.%03lld\" x2=\"%lld.%03lld\" y1=\"%d\" y2=\"%d\"/>"
            "<text class=\"dim\" text-anchor=\"middle\" x=\"%lld\" y=\"%d\">%s s</text>\n",
            (long long)(x / 1000), (long long)(x % 1000), (long long)(x / 1000),
            (long long)(x % 1000), TOP - 4, bottom, (long long)(x / 1000), bottom + 16, seconds);
    }
}

static void write_legend(const struct svg *svg) {
    static const struct {
        const char *name;
        const char *shape;
    } entries[] = {
        {"process", "<rect class=\"process\" width=\"18\" height=\"10\" y=\"-9\" rx=\"2\"/>"},
        {"killed", "<rect class=\"killed\" width=\"18\" height=\"10\" y=\"-9\" rx=\"2\"/>"},
        {"stopped", "<rect class=\"stopped\" width=\"18\" height=\"10\" y=\"-9\" rx=\"2\"/>"},
        {"guest", "<rect class=\"guest\" width=\"18\" height=\"10\" y=\"-9\" rx=\"2\"/>"},
        {"fault", "<path class=\"fault\" d=\"M3,-10h12l-6,10z\"/>"},
        {"mark", "<circle class=\"mark\" cx=\"9\" cy=\"-4\" r=\"3\"/>"},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(entries); i += 1) {
        kelpie__sim_trace_print(&svg->out,
                                "<g transform=\"translate(%d,%d)\">%s<text class=\"dim\" "
                                "x=\"23\">%s</text></g>\n",
                                LABEL_WIDTH + MARGIN + (int)i * 90, height_of(svg) - 12,
                                entries[i].shape, entries[i].name);
    }
}

static void write_head(const struct svg *svg) {
    const struct sim_trace *trace = svg->trace;
    char title[TEXT_BYTES];
    char seconds[32];
    int width = LABEL_WIDTH + CHART_WIDTH + 2 * MARGIN + 15;
    uint32_t faults = 0;
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        faults += trace->records[i].type == SIM_TRACE_RECORD_EVENT &&
                          trace->records[i].event == SIM_EVENT_FAULT
                      ? 1
                      : 0;
    }
    escape(title, trace->title[0] == '\0' ? "a simulated run" : trace->title);
    kelpie__sim_trace_seconds(svg->span_ns, seconds);
    kelpie__sim_trace_print(&svg->out,
                            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                            "viewBox=\"0 0 %d %d\">\n",
                            width, height_of(svg), width, height_of(svg));
    kelpie__sim_trace_put(&svg->out, style_text);
    kelpie__sim_trace_print(&svg->out,
                            "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>"
                            "<text class=\"title\" x=\"%d\" y=\"36\">%s</text>\n",
                            width, height_of(svg), MARGIN, title);
    kelpie__sim_trace_print(&svg->out,
                            "<text class=\"dim\" x=\"%d\" y=\"56\">%s s of virtual time, %llu "
                            "calls, %u lanes, %u faults%s</text>\n",
                            MARGIN, seconds, (unsigned long long)trace->call_count,
                            trace->lane_count, faults,
                            trace->dropped > 0 ? "; more happened than was kept" : "");
    for (uint32_t row = 0; row < svg->row_count; row += 2) {
        kelpie__sim_trace_print(
            &svg->out, "<rect class=\"stripe\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
            MARGIN, TOP + (int)row * LANE_HEIGHT, LABEL_WIDTH + CHART_WIDTH, LANE_HEIGHT);
    }
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static void write_bar(const struct svg *svg, const char *class, const char *more, int y, int height,
                      int64_t begin_ns, int64_t end_ns, const char *title) {
    int64_t x = place(svg, begin_ns);
    int64_t width = place(svg, end_ns) - x;
    char seconds[32];
    char lasted[32];
    char escaped[TEXT_BYTES];
    width = width < 800 ? 800 : width;
    kelpie__sim_trace_seconds(begin_ns, seconds);
    kelpie__sim_trace_seconds(end_ns - begin_ns, lasted);
    escape(escaped, title);
    kelpie__sim_trace_print(
        &svg->out,
        "<rect class=\"%s\" %s x=\"%lld.%03lld\" y=\"%d\" width=\"%lld.%03lld\" height=\"%d\" "
        "rx=\"2\"><title>%s\n%s s, for %s s</title></rect>\n",
        class, more, (long long)(x / 1000), (long long)(x % 1000), y, (long long)(width / 1000),
        (long long)(width % 1000), height, escaped, seconds, lasted);
}

static bool was_killed(const struct sim_trace *trace, uint32_t lane) {
    for (uint32_t i = trace->record_count; i > 0; i -= 1) {
        const struct sim_trace_record *record = &trace->records[i - 1];
        if (record->lane == lane && record->type == SIM_TRACE_RECORD_EVENT &&
            record->event == SIM_EVENT_PROCESS_ENDED) {
            return strstr(kelpie__sim_trace_text(trace, record), "signal") != NULL;
        }
    }
    return false;
}

static void write_lanes(const struct svg *svg) {
    const struct sim_trace *trace = svg->trace;
    for (uint32_t i = 0; i < trace->lane_count; i += 1) {
        const struct sim_trace_lane *lane = &trace->lanes[i];
        int y = row_y(svg, i);
        char name[TEXT_BYTES];
        escape(name, lane->name);
        if (svg->first_of_row[svg->rows[i]] == i) {
            kelpie__sim_trace_print(&svg->out,
                                    "<text class=\"label\" x=\"%d\" y=\"%d\">%.40s</text>\n",
                                    LABEL_WIDTH + MARGIN - 8, y + 16, name);
        }
        if (lane->kind == SIM_TRACE_BANDS) {
            continue;
        }
        const char *class = lane->kind == SIM_TRACE_GUEST               ? "guest"
                            : lane->end_ns >= 0 && was_killed(trace, i) ? "killed"
                                                                        : "process";
        char title[TEXT_BYTES];
        snprintf(title, sizeof(title), "%s, pid %d", lane->name, lane->pid);
        write_bar(svg, class, "", y + 5, BAR_HEIGHT, lane->begin_ns,
                  lane->end_ns < 0 ? trace->last_ns : lane->end_ns,
                  lane->kind == SIM_TRACE_GUEST ? lane->name : title);
    }
}

static const char *band_colour(const char *state) {
    static const struct {
        const char *state;
        const char *colour;
    } colours[] = {
        {"created", "#9fb3c8"}, {"starting", "#e9a820"}, {"running", "#2f9e6a"},
        {"paused", "#3f7fd8"},  {"stopped", "#7b8794"},  {"crashed", "#d6204e"},
        {"deleted", "#cbd2d9"},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(colours); i += 1) {
        if (strlen(state) == strlen(colours[i].state) && (state[0] | 0x20) == colours[i].state[0] &&
            strcmp(state + 1, colours[i].state + 1) == 0) {
            return colours[i].colour;
        }
    }
    return "#8e6bbf";
}

static void write_band(const struct svg *svg, const struct sim_trace_record *record) {
    const char *state = kelpie__sim_trace_text(svg->trace, record);
    int64_t end_ns = record->end_ns < 0 ? svg->trace->last_ns : record->end_ns;
    int y = row_y(svg, record->lane);
    char fill[64];
    char title[TEXT_BYTES];
    snprintf(fill, sizeof(fill), "fill=\"%s\"", band_colour(state));
    snprintf(title, sizeof(title), "%s: %.200s", svg->trace->lanes[record->lane].name, state);
    write_bar(svg, "band", fill, y + 3, LANE_HEIGHT - 6, record->time_ns, end_ns, title);
    int64_t width = place(svg, end_ns) - place(svg, record->time_ns);
    if (width > (int64_t)strlen(state) * 6500 + 8000) {
        char name[TEXT_BYTES];
        escape(name, state);
        kelpie__sim_trace_print(&svg->out,
                                "<text class=\"bandname\" x=\"%lld\" y=\"%d\">%.60s</text>\n",
                                (long long)(place(svg, record->time_ns) / 1000 + 5), y + 15, name);
    }
}

/* A process stands still from this record to its next "continued", or to its end. */
static void write_stopped(const struct svg *svg, uint32_t index) {
    const struct sim_trace *trace = svg->trace;
    const struct sim_trace_record *record = &trace->records[index];
    int64_t end_ns = trace->last_ns;
    for (uint32_t i = index + 1; i < trace->record_count; i += 1) {
        const struct sim_trace_record *next = &trace->records[i];
        if (next->lane == record->lane && next->type == SIM_TRACE_RECORD_EVENT &&
            (next->event == SIM_EVENT_PROCESS_CONTINUED ||
             next->event == SIM_EVENT_PROCESS_ENDED)) {
            end_ns = next->time_ns;
            break;
        }
    }
    write_bar(svg, "stopped", "", row_y(svg, record->lane) + 5, BAR_HEIGHT, record->time_ns, end_ns,
              "stopped");
}

/* ---- events ---------------------------------------------------------------------------------- */

static void write_title(const struct svg *svg, const struct sim_trace_record *record,
                        const char *what, const char *end) {
    char seconds[32];
    char detail[TEXT_BYTES];
    bool has_lane = record->lane != SIM_TRACE_NO_LANE;
    kelpie__sim_trace_seconds(record->time_ns, seconds);
    escape(detail, kelpie__sim_trace_text(svg->trace, record));
    kelpie__sim_trace_print(&svg->out, "<title>%s s %s%s%s\n%s</title>%s\n", seconds, what,
                            has_lane ? ", " : "",
                            has_lane ? svg->trace->lanes[record->lane].name : "", detail, end);
}

/* Through all lanes: what befell the whole world. */
static void write_through(const struct svg *svg, const struct sim_trace_record *record,
                          const char *what) {
    int64_t x = place(svg, record->time_ns);
    kelpie__sim_trace_print(&svg->out,
                            "<path class=\"power\" d=\"M%lld.%03lld,%dV%d\"/>"
                            "<path class=\"fault\" d=\"M%lld,%dh14l-7,12z\">",
                            (long long)(x / 1000), (long long)(x % 1000), TOP - 8,
                            height_of(svg) - 50, (long long)(x / 1000 - 7), TOP - 18);
    write_title(svg, record, what, "</path>");
}

static void write_event(const struct svg *svg, uint32_t index) {
    const struct sim_trace_record *record = &svg->trace->records[index];
    bool has_lane = record->lane != SIM_TRACE_NO_LANE;
    int64_t x = place(svg, record->time_ns);
    int y = has_lane ? row_y(svg, record->lane) : TOP - 22;
    long long at = (long long)(x / 1000);
    long long part = (long long)(x % 1000);
    switch ((enum sim_event_type)record->event) {
    case SIM_EVENT_PROCESS_STARTED:
    case SIM_EVENT_PROCESS_ENDED:
    case SIM_EVENT_PROCESS_CONTINUED:
        break;
    case SIM_EVENT_PROCESS_STOPPED:
        if (has_lane) {
            write_stopped(svg, index);
        }
        break;
    case SIM_EVENT_POWER_LOSS:
        write_through(svg, record, "power loss");
        break;
    case SIM_EVENT_FAULT:
        if (!has_lane) {
            write_through(svg, record, "fault");
            break;
        }
        kelpie__sim_trace_print(&svg->out,
                                "<path class=\"line\" d=\"M%lld.%03lld,%dv%d\"/>"
                                "<path class=\"fault\" d=\"M%lld.%03lld,%dh12l-6,10z\">",
                                at, part, y + 3, LANE_HEIGHT - 5, at - 6, part, y);
        write_title(svg, record, "fault", "</path>");
        break;
    case SIM_EVENT_GUEST:
    case SIM_EVENT_RENAME:
    case SIM_EVENT_MARK:
        kelpie__sim_trace_print(&svg->out,
                                "<circle class=\"mark\" cx=\"%lld.%03lld\" cy=\"%d\" r=\"2.5\">",
                                at, part, y + 12);
        write_title(svg, record, record->event == SIM_EVENT_GUEST ? "guest" : "mark", "</circle>");
        break;
    case SIM_EVENT_NOTE:
        kelpie__sim_trace_print(&svg->out,
                                "<circle class=\"note\" cx=\"%lld.%03lld\" cy=\"%d\" r=\"4\">", at,
                                part, y + 12);
        write_title(svg, record, "note", "</circle>");
        break;
    }
}

/* Bands and stretches below, then marks, faults on top. Of too many marks only each n-th is drawn;
 * faults and notes always are. */
static void write_records(const struct svg *svg) {
    const struct sim_trace *trace = svg->trace;
    uint32_t marks = 0;
    for (uint32_t i = 0; i < trace->record_count; i += 1) {
        const struct sim_trace_record *record = &trace->records[i];
        if (record->type == SIM_TRACE_RECORD_BAND) {
            write_band(svg, record);
        } else if (record->event == SIM_EVENT_PROCESS_STOPPED) {
            write_event(svg, i);
        }
        marks += record->event == SIM_EVENT_MARK || record->event == SIM_EVENT_RENAME ? 1 : 0;
    }
    uint32_t stride = marks / MARKS_MAX + 1;
    for (uint32_t pass = 0; pass < 2; pass += 1) {
        for (uint32_t i = 0; i < trace->record_count; i += 1) {
            const struct sim_trace_record *record = &trace->records[i];
            bool is_mark = record->event == SIM_EVENT_MARK || record->event == SIM_EVENT_RENAME ||
                           record->event == SIM_EVENT_GUEST;
            bool is_drawn = record->type == SIM_TRACE_RECORD_EVENT &&
                            record->event != SIM_EVENT_PROCESS_STOPPED && is_mark == (pass == 0) &&
                            (!is_mark || i % stride == 0);
            if (is_drawn) {
                write_event(svg, i);
            }
        }
    }
}

void kelpie__sim_trace_svg(const struct sim_trace *trace, sim_trace_write write, void *context) {
    struct svg svg = {.out = {write, context}, .trace = trace};
    svg.rows = calloc(trace->lane_count + 1u, sizeof(*svg.rows));
    svg.free_ns = calloc(trace->lane_count + 1u, sizeof(*svg.free_ns));
    svg.first_of_row = calloc(trace->lane_count + 1u, sizeof(*svg.first_of_row));
    if (svg.rows != NULL && svg.free_ns != NULL && svg.first_of_row != NULL) {
        lay_out(&svg);
        write_head(&svg);
        write_axis(&svg);
        write_lanes(&svg);
        write_records(&svg);
        write_legend(&svg);
        kelpie__sim_trace_put(&svg.out, "</svg>\n");
    } else {
        kelpie__sim_trace_put(&svg.out, "<svg xmlns=\"http://www.w3.org/2000/svg\"><text "
                                        "y=\"20\">no memory for this picture</text></svg>\n");
    }
    free(svg.rows);
    free(svg.free_ns);
    free(svg.first_of_row);
}
