/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What happened in a run, kept for people and for comparing two runs: every call of the seam in
 * short form (ring of the last ones, checkpoints of the rolling hash), and every event. Written as
 * Chrome trace-event JSON, as one SVG timeline, as a story of 20 lines. A trace changes nothing in
 * the world it watches.
 */
#ifndef KELPIE_SIM_TRACE_H
#define KELPIE_SIM_TRACE_H

#include "sim/machine.h"

struct sim_trace;

enum sim_trace_detail {
    SIM_TRACE_EVENTS = 1, /* processes, guests, faults, marks, state bands */
    SIM_TRACE_CALLS = 2,  /* and every call */
};

struct sim_trace *kelpie__sim_trace_create(enum sim_trace_detail detail);
void kelpie__sim_trace_destroy(struct sim_trace *trace); /* takes NULL */
/* What stands at the top of what is written: "seed 42, commit 0123abc". */
void kelpie__sim_trace_title(struct sim_trace *trace, const char *title);
/* Keeps the calls from this number on until there is no more room, instead of the last ones: to
 * look at a part of a run again. */
void kelpie__sim_trace_keep_from(struct sim_trace *trace, uint64_t number);

/* world.c and os_sim.c report; `hash` is the rolling hash after it. */
void kelpie__sim_trace_call(struct sim_trace *trace, const struct sim_call *call, int64_t result,
                            uint64_t hash);
void kelpie__sim_trace_event(struct sim_trace *trace, int64_t time_ns,
                             const struct sim_event *event);
/* A named band of a lane ("vm a1": "Running"), from now until the lane's next. */
void kelpie__sim_trace_band(struct sim_trace *trace, int64_t time_ns, const char *lane,
                            const char *state);

/* Each writes a whole text to `write`, in pieces. */
typedef void (*sim_trace_write)(void *context, const char *text, size_t length);
void kelpie__sim_trace_json(const struct sim_trace *trace, sim_trace_write write, void *context);
void kelpie__sim_trace_svg(const struct sim_trace *trace, sim_trace_write write, void *context);
void kelpie__sim_trace_story(const struct sim_trace *trace, sim_trace_write write, void *context);
/* Every event that is kept, a line each. */
void kelpie__sim_trace_log(const struct sim_trace *trace, sim_trace_write write, void *context);

/* The same, with every call that is kept between them. */
void kelpie__sim_trace_log_calls(const struct sim_trace *trace, sim_trace_write write,
                                 void *context);

/* Calls so far; the rolling hash after the n-th multiple of SIM_TRACE_CHECKPOINT calls (0: not
 * reached). */
#define SIM_TRACE_CHECKPOINT 4096u
uint64_t kelpie__sim_trace_calls(const struct sim_trace *trace);
uint64_t kelpie__sim_trace_checkpoint(const struct sim_trace *trace, uint64_t index);

/* The first call in which two traces with SIM_TRACE_CALLS differ, as two lines of text; false: they
 * are equal. *out_number (may be NULL) is that call; when it is not kept, the first call of the
 * stretch between two checkpoints in which it lies: run both again with
 * kelpie__sim_trace_keep_from that. */
bool kelpie__sim_trace_compare(const struct sim_trace *first, const struct sim_trace *second,
                               char out_first[256], char out_second[256], uint64_t *out_number);

#endif
