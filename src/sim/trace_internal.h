/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What trace.c records and trace_json.c, trace_svg.c and trace_story.c read.
 */
#ifndef KELPIE_SIM_TRACE_INTERNAL_H
#define KELPIE_SIM_TRACE_INTERNAL_H

#include "sim/trace.h"

#define SIM_TRACE_CALL_MAX 65536u
#define SIM_TRACE_RECORD_MAX 262144u
#define SIM_TRACE_LANE_MAX 65536u
#define SIM_TRACE_NO_LANE UINT32_MAX

enum sim_trace_kind {
    SIM_TRACE_PROCESS, /* a lane of a process */
    SIM_TRACE_GUEST,
    SIM_TRACE_BANDS, /* a lane of named bands */
};

struct sim_trace_lane {
    enum sim_trace_kind kind;
    uint64_t id;      /* birth of the process, id of the guest */
    char name[64];    /* "monitor-2", "guest-1", "vm a1" */
    uint32_t ordinal; /* of its role, from 1 */
    int32_t pid;
    uint64_t guest; /* the id of the guest that it lives in; 0: of the host */
    int64_t begin_ns;
    int64_t end_ns;     /* -1: it lives */
    uint32_t last_band; /* index + 1 of its latest band's record; 0: none */
};

enum sim_trace_record_type {
    SIM_TRACE_RECORD_EVENT, /* `event` says which */
    SIM_TRACE_RECORD_BAND,
};

struct sim_trace_record {
    int64_t time_ns;
    uint32_t lane;  /* or SIM_TRACE_NO_LANE */
    uint32_t text;  /* offset */
    uint8_t type;   /* enum sim_trace_record_type */
    uint8_t event;  /* enum sim_event_type */
    int64_t end_ns; /* of a band: when the lane's next began; -1: not yet */
};

/* A call in short form. */
struct sim_trace_call {
    int64_t time_ns;
    uint64_t number;
    uint64_t hash; /* after it */
    int64_t result;
    uint32_t birth;
    int16_t handle;
    uint8_t op;
    char role[9];
    char what[32]; /* the path's end, or the handle's label */
};

struct sim_trace {
    enum sim_trace_detail detail;
    char title[256];
    uint64_t call_count; /* that were reported */
    uint64_t last_hash;
    uint64_t keep_from; /* 0: the last ones are kept */
    uint32_t kept;      /* calls in the ring */
    uint32_t next;      /* where the next goes */
    struct sim_trace_call *calls;
    uint64_t *checkpoints;
    uint64_t checkpoint_count;
    uint64_t checkpoint_capacity;
    struct sim_trace_lane *lanes;
    uint32_t lane_count;
    uint32_t lane_capacity;
    uint32_t *lane_of_birth; /* index + 1 by birth; 0: none */
    uint64_t birth_capacity;
    struct sim_trace_record *records;
    uint32_t record_count;
    uint32_t record_capacity;
    char *texts;
    uint32_t text_bytes;
    uint32_t text_capacity;
    uint64_t dropped; /* events that found no room */
    int64_t last_ns;
};

/* The record's text. */
const char *kelpie__sim_trace_text(const struct sim_trace *trace,
                                   const struct sim_trace_record *record);
/* The index-th of the calls that are kept, in order. */
const struct sim_trace_call *kelpie__sim_trace_kept(const struct sim_trace *trace, uint32_t index);
/* "14.203" */
void kelpie__sim_trace_seconds(int64_t time_ns, char out[32]);

/* A writer of pieces. */
struct sim_trace_out {
    sim_trace_write write;
    void *context;
};
void kelpie__sim_trace_put(const struct sim_trace_out *out, const char *text);
KELPIE_PRINTF(2, 3)
void kelpie__sim_trace_print(const struct sim_trace_out *out, const char *format, ...);

#endif
