/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See history.h. Nodes are kept in the order in which they are found and looked at in that order; a
 * hash table says whether one is known.
 */
#include "sim/history.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_FIRST 256u
#define NODES_FIRST 64u

/* What has been done, and the state that it led to. */
struct node {
    uint64_t done;
    uint64_t hash;
    uint8_t state[SIM_HISTORY_STATE_MAX];
};

struct search {
    const struct sim_history *history;
    const struct sim_history_spec *spec;
    uint64_t before[SIM_HISTORY_CALL_MAX]; /* of each call: those that must come before it */
    uint64_t required;                     /* calls with an answer */
    struct node *nodes;
    uint32_t node_count;
    uint32_t node_capacity;
    uint32_t *table; /* index + 1 of a node; 0: free */
    uint32_t table_size;
    bool is_too_long;
};

static uint64_t node_hash(uint64_t done, const uint8_t *state, size_t bytes) {
    uint64_t hash = done * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < bytes; i += 1) {
        hash = (hash ^ state[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ (hash >> 29);
}

static bool table_grow(struct search *search) {
    uint32_t size = search->table_size == 0 ? TABLE_FIRST : search->table_size * 2;
    uint32_t *table = calloc(size, sizeof(*table));
    if (table == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < search->node_count; i += 1) {
        uint32_t at = (uint32_t)search->nodes[i].hash & (size - 1);
        while (table[at] != 0) { /* bound: the table is never more than half full */
            at = (at + 1) & (size - 1);
        }
        table[at] = i + 1;
    }
    free(search->table);
    search->table = table;
    search->table_size = size;
    return true;
}

static bool make_room(struct search *search) {
    if (search->node_count == SIM_HISTORY_NODE_MAX) {
        return false;
    }
    if (search->node_count == search->node_capacity) {
        uint32_t capacity = search->node_capacity == 0 ? NODES_FIRST : search->node_capacity * 2;
        struct node *nodes = realloc(search->nodes, capacity * sizeof(*nodes));
        if (nodes == NULL) {
            return false;
        }
        search->nodes = nodes;
        search->node_capacity = capacity;
    }
    return search->node_count * 2 < search->table_size || table_grow(search);
}

static void add_node(struct search *search, uint64_t done, const uint8_t *state) {
    size_t bytes = search->spec->state_bytes;
    if (!make_room(search)) {
        search->is_too_long = true;
        return;
    }
    uint64_t hash = node_hash(done, state, bytes);
    uint32_t at = (uint32_t)hash & (search->table_size - 1);
    while (search->table[at] != 0) { /* bound: the table is never more than half full */
        const struct node *known = &search->nodes[search->table[at] - 1];
        if (known->hash == hash && known->done == done && memcmp(known->state, state, bytes) == 0) {
            return;
        }
        at = (at + 1) & (search->table_size - 1);
    }
    struct node *node = &search->nodes[search->node_count];
    node->done = done;
    node->hash = hash;
    memcpy(node->state, state, bytes);
    search->node_count += 1;
    search->table[at] = search->node_count;
}

/* All nodes that are one step away. */
static void expand(struct search *search, uint32_t index) {
    uint8_t next[SIM_HISTORY_NEXT_MAX * SIM_HISTORY_STATE_MAX];
    const struct sim_history_spec *spec = search->spec;
    struct node node = search->nodes[index]; /* a copy: the array may move */
    for (uint32_t i = 0; i < search->history->call_count; i += 1) {
        uint64_t bit = UINT64_C(1) << i;
        if ((node.done & bit) != 0 || (search->before[i] & ~node.done) != 0) {
            continue;
        }
        uint32_t count = spec->step(spec->context, node.state, i, next);
        KELPIE_ASSERT(count <= SIM_HISTORY_NEXT_MAX);
        for (uint32_t j = 0; j < count; j += 1) {
            add_node(search, node.done | bit, next + j * spec->state_bytes);
        }
    }
    uint32_t count = spec->drift == NULL ? 0 : spec->drift(spec->context, node.state, next);
    KELPIE_ASSERT(count <= SIM_HISTORY_NEXT_MAX);
    for (uint32_t j = 0; j < count; j += 1) {
        add_node(search, node.done, next + j * spec->state_bytes);
    }
}

static void prepare(struct search *search) {
    const struct sim_history *history = search->history;
    for (uint32_t i = 0; i < history->call_count; i += 1) {
        if (history->calls[i].end != UINT64_MAX) {
            search->required |= UINT64_C(1) << i;
        }
        for (uint32_t j = 0; j < history->call_count; j += 1) {
            if (history->calls[j].end < history->calls[i].begin) {
                search->before[i] |= UINT64_C(1) << j;
            }
        }
    }
}

static uint64_t all_of(const struct sim_history *history) {
    return history->call_count == 64 ? UINT64_MAX : (UINT64_C(1) << history->call_count) - 1;
}

/* The nodes in which every call with an answer is done. False: too many. */
static bool collect(const struct search *search, struct sim_history *history) {
    history->end_count = 0;
    for (uint32_t i = 0; i < search->node_count; i += 1) {
        const struct node *node = &search->nodes[i];
        if ((node->done & search->required) != search->required) {
            continue;
        }
        if (history->end_count == SIM_HISTORY_END_MAX) {
            return false;
        }
        struct sim_history_end *end = &history->ends[history->end_count];
        memset(end, 0, sizeof(*end));
        end->missing = all_of(history) & ~node->done;
        memcpy(end->state, node->state, search->spec->state_bytes);
        history->end_count += 1;
    }
    return true;
}

static uint64_t longest_of(const struct search *search) {
    uint64_t longest = 0;
    for (uint32_t i = 0; i < search->node_count; i += 1) {
        uint64_t done = search->nodes[i].done & search->required;
        if (__builtin_popcountll(done) > __builtin_popcountll(longest)) {
            longest = done;
        }
    }
    return longest;
}

enum sim_history_verdict kelpie__sim_history_search(struct sim_history *history,
                                                    const struct sim_history_spec *spec,
                                                    uint64_t *out_longest) {
    struct search search = {.history = history, .spec = spec};
    enum sim_history_verdict verdict = SIM_HISTORY_EXPLAINED;
    KELPIE_ASSERT(history->call_count <= SIM_HISTORY_CALL_MAX);
    KELPIE_ASSERT(spec->state_bytes > 0 && spec->state_bytes <= SIM_HISTORY_STATE_MAX);
    prepare(&search);
    for (uint32_t i = 0; i < history->end_count; i += 1) {
        add_node(&search, all_of(history) & ~history->ends[i].missing, history->ends[i].state);
    }
    for (uint32_t i = 0; i < search.node_count && !search.is_too_long; i += 1) {
        expand(&search, i);
    }
    if (out_longest != NULL) {
        *out_longest = longest_of(&search);
    }
    if (search.is_too_long || !collect(&search, history)) {
        verdict = SIM_HISTORY_TOO_LONG;
        history->end_count = 0;
    } else if (history->end_count == 0) {
        verdict = SIM_HISTORY_UNEXPLAINED;
    }
    free(search.nodes);
    free(search.table);
    return verdict;
}
