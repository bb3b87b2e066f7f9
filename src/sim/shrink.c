/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See shrink.h. A part that was tried is not tried again: what was tried is remembered as a hash.
 */
#include "sim/shrink.h"

#include <stdlib.h>
#include <string.h>

#include "os/os_call.h"

#define TRIED_MAX 4096u

struct shrink {
    const struct sim_shrink_budget *budget;
    struct sim_shrink_result *result;
    enum sim_shrink_verdict (*run)(void *context, const uint32_t *chosen, uint32_t count);
    void *context;
    uint32_t *part; /* what is tried now */
    uint32_t tried_count;
    uint64_t tried[TRIED_MAX]; /* parts that did not fail the same */
};

static uint32_t runs_max(const struct sim_shrink_budget *budget) {
    return budget->runs_max == 0 ? SIM_SHRINK_RUNS_MAX : budget->runs_max;
}

static bool is_over(const struct sim_shrink_budget *budget, uint32_t runs) {
    return runs >= runs_max(budget) ||
           (budget->os != NULL &&
            kelpie__os_now(budget->os, KELPIE_OS_CLOCK_MONOTONIC) >= budget->deadline_ns);
}

static uint64_t part_hash(const uint32_t *part, uint32_t count) {
    uint64_t hash = count + UINT64_C(0x9e3779b97f4a7c15);
    for (uint32_t i = 0; i < count; i += 1) {
        hash = (hash ^ part[i]) * UINT64_C(0xbf58476d1ce4e5b9);
        hash ^= hash >> 31;
    }
    return hash;
}

/* Whether the part (shrink->part) fails the same. Over budget: no. */
static bool fails(struct shrink *shrink, uint32_t count) {
    uint64_t hash = part_hash(shrink->part, count);
    for (uint32_t i = 0; i < shrink->tried_count; i += 1) {
        if (shrink->tried[i] == hash) {
            return false;
        }
    }
    if (is_over(shrink->budget, shrink->result->runs)) {
        return false;
    }
    shrink->result->runs += 1;
    enum sim_shrink_verdict verdict = shrink->run(shrink->context, shrink->part, count);
    shrink->result->others += verdict == SIM_SHRINK_FAILS_OTHERWISE ? 1 : 0;
    if (verdict != SIM_SHRINK_FAILS_THE_SAME && shrink->tried_count < TRIED_MAX) {
        shrink->tried[shrink->tried_count] = hash;
        shrink->tried_count += 1;
    }
    return verdict == SIM_SHRINK_FAILS_THE_SAME;
}

/* The part without, or of, the elements from `first` to before `end`. */
static uint32_t take_part(struct shrink *shrink, const uint32_t *chosen, uint32_t count,
                          uint32_t first, uint32_t end, bool is_without) {
    uint32_t taken = 0;
    KELPIE_ASSERT(first <= end && end <= count);
    for (uint32_t i = 0; i < count; i += 1) {
        bool is_inside = i >= first && i < end;
        if (is_inside != is_without) {
            shrink->part[taken] = chosen[i];
            taken += 1;
        }
    }
    return taken;
}

/* One pass with `pieces` pieces: the first piece that fails alone, or without which it still fails,
 * leaves a smaller list. Gives its length; `count`: none. */
static uint32_t try_pieces(struct shrink *shrink, uint32_t *chosen, uint32_t count, uint32_t pieces,
                           bool *out_is_alone) {
    for (uint32_t pass = 0; pass < 2; pass += 1) {
        bool is_without = pass == 1;
        for (uint32_t i = 0; i < pieces; i += 1) {
            uint32_t first = (uint32_t)((uint64_t)count * i / pieces);
            uint32_t end = (uint32_t)((uint64_t)count * (i + 1) / pieces);
            uint32_t taken = take_part(shrink, chosen, count, first, end, is_without);
            if (taken < count && fails(shrink, taken)) {
                memcpy(chosen, shrink->part, taken * sizeof(*chosen));
                *out_is_alone = !is_without;
                return taken;
            }
        }
        if (pieces == 2) {
            break; /* each half is the other's rest */
        }
    }
    return count;
}

static uint32_t shrink_all(struct shrink *shrink, uint32_t *chosen, uint32_t count) {
    uint32_t pieces = 2;
    while (count > 0 && !is_over(shrink->budget, shrink->result->runs)) { /* bound: the budget */
        bool is_alone = false;
        pieces = pieces > count ? count : pieces;
        if (count == 1) { /* perhaps nothing is needed at all */
            count = fails(shrink, 0) ? 0 : count;
            shrink->result->is_minimal = !is_over(shrink->budget, shrink->result->runs);
            break;
        }
        uint32_t left = try_pieces(shrink, chosen, count, pieces, &is_alone);
        if (left < count) {
            count = left;
            pieces = is_alone || pieces <= 2 ? 2 : pieces - 1;
        } else if (pieces == count) {
            shrink->result->is_minimal = !is_over(shrink->budget, shrink->result->runs);
            break;
        } else {
            pieces = pieces * 2 > count ? count : pieces * 2;
        }
    }
    shrink->result->is_minimal = shrink->result->is_minimal || count == 0;
    return count;
}

uint32_t kelpie__sim_shrink_list(
    uint32_t *inout_chosen, uint32_t count,
    enum sim_shrink_verdict (*run)(void *context, const uint32_t *chosen, uint32_t count),
    void *context, const struct sim_shrink_budget *budget, struct sim_shrink_result *out_result) {
    struct sim_shrink_result result = {0};
    struct shrink *shrink = calloc(1, sizeof(*shrink));
    uint32_t *part = calloc(count + 1u, sizeof(*part));
    uint32_t left = count;
    if (shrink != NULL && part != NULL) {
        *shrink = (struct shrink){
            .budget = budget, .result = &result, .run = run, .context = context, .part = part};
        memcpy(part, inout_chosen, count * sizeof(*part));
        result.is_confirmed = fails(shrink, count);
        left = result.is_confirmed ? shrink_all(shrink, inout_chosen, count) : count;
    }
    free(shrink);
    free(part);
    KELPIE_ASSERT(left <= count && result.runs <= runs_max(budget));
    if (out_result != NULL) {
        *out_result = result;
    }
    return left;
}

uint64_t kelpie__sim_shrink_value(uint64_t value, uint64_t least,
                                  bool (*fails_the_same)(void *context, uint64_t value),
                                  void *context, const struct sim_shrink_budget *budget) {
    uint64_t best = value;
    uint64_t low = least;
    for (uint32_t runs = 0; low < best && !is_over(budget, runs); runs += 1) {
        uint64_t tried = runs == 0 ? low : low + (best - low) / 2;
        if (fails_the_same(context, tried)) {
            best = tried;
        } else {
            low = tried + 1;
        }
    }
    KELPIE_ASSERT(best <= value);
    return best;
}
