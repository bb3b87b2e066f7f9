/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Does any order of these calls explain what they answered? The search of Wing and Gong (1993) with
 * Lowe's memo: from each state, any call may come next that began before every call still missing
 * has ended; what was tried with the same calls behind it and the same state is not tried again.
 * Calls without an answer may have had their effect or not, and may still have it later.
 *
 * It finds every state that the calls can have led to, so that histories can be checked piece by
 * piece. It knows nothing of VMs: the model gives the steps.
 */
#ifndef KELPIE_SIM_HISTORY_H
#define KELPIE_SIM_HISTORY_H

#include "core/base.h"

#define SIM_HISTORY_CALL_MAX 64u
#define SIM_HISTORY_STATE_MAX 192u /* bytes; without padding, equal states are equal bytes */
#define SIM_HISTORY_NEXT_MAX 4u
#define SIM_HISTORY_END_MAX 256u
#define SIM_HISTORY_NODE_MAX 65536u

struct sim_history_call {
    uint64_t
        begin;    /* in any unit that grows: a call that ends before another begins is before it */
    uint64_t end; /* UINT64_MAX: no answer (then it is optional) */
};

/* A state, and which of the calls have not had their effect (bit i: call i). */
struct sim_history_end {
    uint64_t missing;
    uint8_t state[SIM_HISTORY_STATE_MAX];
};

struct sim_history_spec {
    size_t state_bytes;
    void *context;
    /* The states after the call, with its answer, from this one, each state_bytes long, one after
     * the other; gives their number, 0: not allowed here. */
    uint32_t (*step)(void *context, const void *state, uint32_t call,
                     uint8_t out[SIM_HISTORY_NEXT_MAX * SIM_HISTORY_STATE_MAX]);
    /* What the state can become by itself; NULL: nothing. */
    uint32_t (*drift)(void *context, const void *state,
                      uint8_t out[SIM_HISTORY_NEXT_MAX * SIM_HISTORY_STATE_MAX]);
};

struct sim_history {
    uint32_t call_count; /* at most SIM_HISTORY_CALL_MAX */
    struct sim_history_call calls[SIM_HISTORY_CALL_MAX];
    /* In: where it can begin; a bit of `missing` that is not set says that this call has had its
     * effect already. Out: where it can have led; only optional calls are missing. */
    uint32_t end_count;
    struct sim_history_end ends[SIM_HISTORY_END_MAX];
};

enum sim_history_verdict {
    SIM_HISTORY_EXPLAINED,
    SIM_HISTORY_UNEXPLAINED,
    SIM_HISTORY_TOO_LONG, /* more nodes or ends than are searched; nothing is known */
};

/* `longest` (may be NULL): of an unexplained history, the calls of the longest order found. */
enum sim_history_verdict kelpie__sim_history_search(struct sim_history *history,
                                                    const struct sim_history_spec *spec,
                                                    uint64_t *out_longest);

#endif
