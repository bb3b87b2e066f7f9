/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The search for an order. Goal: histories that are known to have one are explained, those that
 * have none are not, and every state that they can lead to is found. Method: a register with
 * writes, reads and compare-and-swap; textbook histories; random ones made by a real order and then
 * spoilt; the same answers as an exhaustive search of all orders of few calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "sim/history.h"

enum register_op { WRITE, READ, SWAP };

struct register_call {
    enum register_op op;
    uint64_t value;
    uint64_t expected; /* of a swap */
    uint64_t result;   /* what a read gave, whether a swap was done */
    uint64_t begin;
    uint64_t end;
};

static uint32_t register_step(void *context, const void *state, uint32_t index, uint8_t *out) {
    const struct register_call *call = (const struct register_call *)context + index;
    uint64_t value = 0;
    bool is_allowed = true;
    memcpy(&value, state, sizeof(value));
    if (call->op == WRITE) {
        value = call->value;
    } else if (call->op == READ) {
        is_allowed = value == call->result;
    } else {
        bool is_done = value == call->expected;
        is_allowed = call->end == UINT64_MAX || is_done == (call->result != 0);
        value = is_done ? call->value : value;
    }
    memcpy(out, &value, sizeof(value));
    return is_allowed ? 1 : 0;
}

static enum sim_history_verdict search(struct sim_history *history, struct register_call *calls,
                                       uint32_t count, uint64_t first) {
    struct sim_history_spec spec = {
        .state_bytes = sizeof(uint64_t), .context = calls, .step = register_step};
    memset(history, 0, sizeof(*history));
    history->call_count = count;
    for (uint32_t i = 0; i < count; i += 1) {
        history->calls[i] = (struct sim_history_call){calls[i].begin, calls[i].end};
    }
    history->end_count = 1;
    history->ends[0].missing = UINT64_MAX;
    memcpy(history->ends[0].state, &first, sizeof(first));
    return kelpie__sim_history_search(history, &spec, NULL);
}

#define NONE UINT64_MAX

static void test_textbook_histories(void **state) {
    static struct sim_history history;
    static const struct {
        uint32_t count;
        struct register_call calls[6];
        enum sim_history_verdict verdict;
    } cases[] = {
        /* a read after a write sees it */
        {2, {{WRITE, 1, 0, 0, 1, 2}, {READ, 0, 0, 1, 3, 4}}, SIM_HISTORY_EXPLAINED},
        {2, {{WRITE, 1, 0, 0, 1, 2}, {READ, 0, 0, 0, 3, 4}}, SIM_HISTORY_UNEXPLAINED},
        /* beside it, it may or may not */
        {2, {{WRITE, 1, 0, 0, 1, 4}, {READ, 0, 0, 0, 2, 3}}, SIM_HISTORY_EXPLAINED},
        {2, {{WRITE, 1, 0, 0, 1, 4}, {READ, 0, 0, 1, 2, 3}}, SIM_HISTORY_EXPLAINED},
        /* new, then old again, while one write is under way: none (Herlihy and Wing) */
        {3,
         {{WRITE, 1, 0, 0, 1, 9}, {READ, 0, 0, 1, 2, 3}, {READ, 0, 0, 0, 4, 5}},
         SIM_HISTORY_UNEXPLAINED},
        {3,
         {{WRITE, 1, 0, 0, 1, 9}, {READ, 0, 0, 0, 2, 3}, {READ, 0, 0, 1, 4, 5}},
         SIM_HISTORY_EXPLAINED},
        /* two writes side by side are seen in one order by all */
        {4,
         {{WRITE, 1, 0, 0, 1, 2},
          {WRITE, 2, 0, 0, 1, 2},
          {READ, 0, 0, 1, 3, 4},
          {READ, 0, 0, 2, 5, 6}},
         SIM_HISTORY_UNEXPLAINED},
        {4,
         {{WRITE, 1, 0, 0, 1, 9},
          {WRITE, 2, 0, 0, 1, 9},
          {READ, 0, 0, 1, 3, 4},
          {READ, 0, 0, 2, 5, 6}},
         SIM_HISTORY_EXPLAINED},
        /* of two swaps from the same value one is done */
        {2, {{SWAP, 5, 0, 1, 1, 4}, {SWAP, 6, 0, 0, 2, 3}}, SIM_HISTORY_EXPLAINED},
        {2, {{SWAP, 5, 0, 1, 1, 4}, {SWAP, 6, 0, 1, 2, 3}}, SIM_HISTORY_UNEXPLAINED},
        {2, {{SWAP, 5, 0, 0, 1, 4}, {SWAP, 6, 0, 0, 2, 3}}, SIM_HISTORY_UNEXPLAINED},
        /* a write without an answer is seen late, or never, but not undone */
        {3,
         {{WRITE, 7, 0, 0, 1, NONE}, {READ, 0, 0, 0, 2, 3}, {READ, 0, 0, 7, 4, 5}},
         SIM_HISTORY_EXPLAINED},
        {2, {{WRITE, 7, 0, 0, 1, NONE}, {READ, 0, 0, 0, 2, 3}}, SIM_HISTORY_EXPLAINED},
        {3,
         {{WRITE, 7, 0, 0, 1, NONE}, {READ, 0, 0, 7, 2, 3}, {READ, 0, 0, 0, 4, 5}},
         SIM_HISTORY_UNEXPLAINED},
        {0, {{WRITE, 0, 0, 0, 0, 0}}, SIM_HISTORY_EXPLAINED},
    };
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(cases); i += 1) {
        struct register_call calls[6];
        memcpy(calls, cases[i].calls, sizeof(calls));
        if (search(&history, calls, cases[i].count, 0) != cases[i].verdict) {
            fail_msg("history %u", (unsigned)i);
        }
    }
}

static void test_every_end_is_found(void **state) {
    static struct sim_history history;
    struct register_call calls[3] = {
        {WRITE, 1, 0, 0, 1, 5}, {WRITE, 2, 0, 0, 2, 6}, {WRITE, 3, 0, 0, 3, NONE}};
    uint32_t found = 0;
    (void)state;
    assert_int_equal(search(&history, calls, 3, 0), SIM_HISTORY_EXPLAINED);
    for (uint32_t i = 0; i < history.end_count; i += 1) {
        uint64_t value = 0;
        memcpy(&value, history.ends[i].state, sizeof(value));
        bool is_missing = (history.ends[i].missing & 4) != 0;
        assert_true(value >= 1 && value <= 3 && (value != 3 || !is_missing));
        found |= 1u << (value * 2 + (is_missing ? 1 : 0));
    }
    assert_int_equal(found, 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6);
    assert_int_equal(history.end_count, 5);
}

static uint64_t draw(uint64_t *seed, uint64_t bound) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % bound;
}

/* Calls that had their effect one after the other at 10, 20, ..., and began and ended around that.
 */
static void make_real(struct register_call *calls, uint32_t count, uint64_t *seed,
                      uint64_t spread) {
    uint64_t value = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        uint64_t at = (i + 20) * 10;
        calls[i] = (struct register_call){.op = (enum register_op)draw(seed, 3),
                                          .value = draw(seed, 4),
                                          .expected = draw(seed, 4),
                                          .begin = at - draw(seed, spread),
                                          .end = at + 1 + draw(seed, spread)};
        if (calls[i].op == WRITE) {
            value = calls[i].value;
        } else if (calls[i].op == READ) {
            calls[i].result = value;
        } else {
            calls[i].result = value == calls[i].expected ? 1 : 0;
            value = calls[i].result != 0 ? calls[i].value : value;
        }
    }
}

static void test_real_histories_are_explained(void **state) {
    static struct sim_history history;
    struct register_call calls[64];
    uint64_t seed = 42;
    (void)state;
    for (uint32_t round = 0; round < 300; round += 1) {
        make_real(calls, 64, &seed, 60);
        assert_int_equal(search(&history, calls, 64, 0), SIM_HISTORY_EXPLAINED);
    }
}

/* All orders, by hand: the reference. */
static bool has_order(const struct register_call *calls, uint32_t count) {
    uint32_t order[6] = {0, 1, 2, 3, 4, 5};
    uint32_t counters[6] = {0};
    uint32_t at = 0;
    bool is_found = false;
    while (at <= count && !is_found) { /* Heap's permutations, without recursion */
        uint64_t value = 0;
        bool is_good = true;
        for (uint32_t i = 0; i < count && is_good; i += 1) {
            uint8_t next[SIM_HISTORY_NEXT_MAX * SIM_HISTORY_STATE_MAX];
            uint8_t before[sizeof(value)];
            memcpy(before, &value, sizeof(value));
            is_good = register_step((void *)(uintptr_t)calls, before, order[i], next) == 1;
            memcpy(&value, next, sizeof(value));
            for (uint32_t j = i + 1; j < count; j += 1) {
                is_good = is_good && calls[order[j]].end >= calls[order[i]].begin;
            }
        }
        is_found = is_good;
        while (at < count && counters[at] >= at) {
            counters[at] = 0;
            at += 1;
        }
        if (at >= count) {
            break;
        }
        uint32_t other = at % 2 == 0 ? 0 : counters[at];
        uint32_t swapped = order[other];
        order[other] = order[at];
        order[at] = swapped;
        counters[at] += 1;
        at = 0;
    }
    return is_found;
}

static void test_same_verdict_as_all_orders(void **state) {
    static struct sim_history history;
    struct register_call calls[6];
    uint64_t seed = 7;
    uint32_t unexplained = 0;
    (void)state;
    for (uint32_t round = 0; round < 4000; round += 1) {
        uint32_t count = 2 + (uint32_t)draw(&seed, 5);
        make_real(calls, count, &seed, 40);
        uint32_t spoilt = (uint32_t)draw(&seed, count);
        calls[spoilt].result = calls[spoilt].op == SWAP ? 1 - calls[spoilt].result : draw(&seed, 4);
        bool expected = has_order(calls, count);
        enum sim_history_verdict verdict = search(&history, calls, count, 0);
        assert_int_equal(verdict == SIM_HISTORY_EXPLAINED, expected);
        unexplained += expected ? 0 : 1;
    }
    assert_true(unexplained > 500 && unexplained < 3500);
}

/* 64 writes side by side and a read: the memo keeps it from 64! orders; too many ends are said. */
static void test_wide_histories_end(void **state) {
    static struct sim_history history;
    struct register_call calls[64];
    (void)state;
    for (uint32_t i = 0; i < 64; i += 1) {
        calls[i] = (struct register_call){.op = READ, .result = 0, .begin = 1, .end = 100};
    }
    calls[63].result = 1;
    enum sim_history_verdict verdict = search(&history, calls, 12, 0);
    assert_int_equal(verdict, SIM_HISTORY_EXPLAINED);
    for (uint32_t i = 0; i < 64; i += 1) {
        calls[i] = (struct register_call){.op = WRITE, .value = i, .begin = 1, .end = 100};
    }
    verdict = search(&history, calls, 64, 0);
    assert_int_equal(verdict, SIM_HISTORY_TOO_LONG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_textbook_histories),
        cmocka_unit_test(test_every_end_is_found),
        cmocka_unit_test(test_real_histories_are_explained),
        cmocka_unit_test(test_same_verdict_as_all_orders),
        cmocka_unit_test(test_wide_histories_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
