/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The forest of snapshots and of the VMs that came from them, and its picture in characters. A
 * snapshot's parent is always older, which rules out circles whatever the files say.
 */
#include <string.h>

#include "cli/snapshot.h"
#include "core/text.h"
#include "os/os_call.h"

#define TREE_DEPTH_MAX 32u /* that is drawn; what is deeper stands at this depth */
#define TREE_NAME_COLUMNS 36u

static uint32_t find_snapshot(const struct kelpie_cli_forest *forest, const char *id,
                              size_t before) {
    KELPIE_ASSERT(before <= forest->snapshot_count);
    for (uint32_t i = 0; i < before && id[0] != '\0'; i += 1) {
        if (kelpie__text_equal(forest->snapshots[i].id, id)) {
            return i;
        }
    }
    return KELPIE_CLI_NO_NODE;
}

static void add_node(struct kelpie_cli_forest *forest, const struct kelpie_snapshot_info *snapshot,
                     const struct kelpie_vm_info *vm, uint32_t parent) {
    KELPIE_ASSERT((snapshot == NULL) != (vm == NULL));
    KELPIE_ASSERT(parent == KELPIE_CLI_NO_NODE || parent < forest->node_count);
    KELPIE_ASSERT(forest->node_count < forest->snapshot_count + forest->vm_count);
    forest->nodes[forest->node_count] = (struct kelpie_cli_node){
        .snapshot = snapshot,
        .vm = vm,
        .parent = parent,
        .first_child = KELPIE_CLI_NO_NODE,
        .next_sibling = KELPIE_CLI_NO_NODE,
    };
    forest->node_count += 1;
}

/* Links families: walked from the end, so that the oldest comes first. Gives the first root. */
static uint32_t link_nodes(struct kelpie_cli_forest *forest) {
    uint32_t first_root = KELPIE_CLI_NO_NODE;
    for (uint32_t i = forest->node_count; i > 0; i -= 1) {
        struct kelpie_cli_node *node = &forest->nodes[i - 1];
        KELPIE_ASSERT(node->parent == KELPIE_CLI_NO_NODE || node->parent < i - 1);
        uint32_t *head = node->parent == KELPIE_CLI_NO_NODE
                             ? &first_root
                             : &forest->nodes[node->parent].first_child;
        node->next_sibling = *head;
        *head = i - 1;
    }
    return first_root;
}

/* The next in the order of families: a child, else a sibling, else one of an ancestor. */
static uint32_t next_node(const struct kelpie_cli_forest *forest, uint32_t at) {
    KELPIE_ASSERT(at < forest->node_count);
    if (forest->nodes[at].first_child != KELPIE_CLI_NO_NODE) {
        return forest->nodes[at].first_child;
    }
    while (at != KELPIE_CLI_NO_NODE) { /* bound: the depth */
        if (forest->nodes[at].next_sibling != KELPIE_CLI_NO_NODE) {
            return forest->nodes[at].next_sibling;
        }
        at = forest->nodes[at].parent;
    }
    return KELPIE_CLI_NO_NODE;
}

static void place_nodes(struct kelpie_cli_forest *forest, uint32_t first_root) {
    uint32_t count = 0;
    /* bound: the nodes */
    for (uint32_t at = first_root; at != KELPIE_CLI_NO_NODE; at = next_node(forest, at)) {
        struct kelpie_cli_node *node = &forest->nodes[at];
        KELPIE_ASSERT(count < forest->node_count);
        bool is_heir = false;
        if (node->parent != KELPIE_CLI_NO_NODE) {
            const struct kelpie_cli_node *parent = &forest->nodes[node->parent];
            node->depth = parent->depth + 1;
            is_heir = parent->first_child == at;
            node->lane = parent->lane;
        }
        if (!is_heir) {
            node->lane = forest->lane_count;
            forest->lane_count += 1;
        }
        forest->depth_max = node->depth > forest->depth_max ? node->depth : forest->depth_max;
        KELPIE_ASSERT(node->lane < forest->lane_count);
        forest->order[count] = at;
        count += 1;
    }
    KELPIE_ASSERT(count == forest->node_count);
}

static int build(struct kelpie_cli *cli, struct kelpie_cli_forest *forest) {
    size_t capacity = forest->snapshot_count + forest->vm_count;
    KELPIE_ASSERT(forest->nodes == NULL);
    KELPIE_ASSERT(forest->order == NULL);
    if (capacity == 0) {
        return KELPIE_CLI_OK;
    }
    forest->node_bytes = capacity * sizeof(*forest->nodes);
    KELPIE_ASSERT(forest->node_count == 0);
    forest->nodes = kelpie__alloc(cli->os, forest->node_bytes);
    forest->order = kelpie__alloc(cli->os, capacity * sizeof(*forest->order));
    if (forest->nodes == NULL || forest->order == NULL) {
        return kelpie__cli_fail(cli, "no memory");
    }
    for (size_t i = 0; i < forest->snapshot_count; i += 1) {
        const struct kelpie_snapshot_info *snapshot = &forest->snapshots[i];
        add_node(forest, snapshot, NULL, find_snapshot(forest, snapshot->parent, i));
    }
    for (size_t i = 0; i < forest->vm_count; i += 1) {
        const struct kelpie_vm_info *vm = &forest->vms[i];
        uint32_t parent = find_snapshot(forest, vm->parent, forest->snapshot_count);
        if (parent != KELPIE_CLI_NO_NODE) {
            add_node(forest, NULL, vm, parent);
        }
    }
    place_nodes(forest, link_nodes(forest));
    return KELPIE_CLI_OK;
}

int kelpie__cli_forest_open(struct kelpie_cli *cli, struct kelpie_cli_forest *forest) {
    struct kelpie_error error = {0};
    *forest = (struct kelpie_cli_forest){0};
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    int status =
        kelpie_snapshot_list(cli->kelpie, &forest->snapshots, &forest->snapshot_count, &error);
    if (status == 0) {
        status = kelpie_list(cli->kelpie, &forest->vms, &forest->vm_count, &error);
    }
    int code = status < 0 ? kelpie__cli_fail_error(cli, &error) : build(cli, forest);
    if (code != KELPIE_CLI_OK) {
        kelpie__cli_forest_close(cli, forest);
    }
    KELPIE_ASSERT(code != KELPIE_CLI_OK || forest->node_count >= forest->snapshot_count);
    return code;
}

void kelpie__cli_forest_close(struct kelpie_cli *cli, struct kelpie_cli_forest *forest) {
    size_t capacity = forest->snapshot_count + forest->vm_count;
    KELPIE_ASSERT(forest->node_count <= capacity);
    kelpie__free(cli->os, forest->nodes, forest->node_bytes);
    kelpie__free(cli->os, forest->order, capacity * sizeof(*forest->order));
    kelpie_snapshot_list_free(cli->kelpie, forest->snapshots, forest->snapshot_count);
    kelpie_list_free(cli->kelpie, forest->vms, forest->vm_count);
    *forest = (struct kelpie_cli_forest){0};
}

/* ---- characters ------------------------------------------------------------------------------ */

/* "│  ├─ " before a node; gives how many columns it takes. */
static size_t write_branches(const struct kelpie_cli_forest *forest, uint32_t at, char *out,
                             size_t capacity) {
    bool goes_on[TREE_DEPTH_MAX];
    uint32_t depth = 0;
    size_t columns = 0;
    uint32_t up = at;
    KELPIE_ASSERT(capacity > 1);
    /* bound: the depth */
    while (forest->nodes[up].parent != KELPIE_CLI_NO_NODE && depth < TREE_DEPTH_MAX) {
        goes_on[depth] = forest->nodes[up].next_sibling != KELPIE_CLI_NO_NODE;
        depth += 1;
        up = forest->nodes[up].parent;
    }
    out[0] = '\0';
    size_t length = 0;
    for (uint32_t i = depth; i > 0; i -= 1) {
        bool is_own = i == 1;
        const char *piece = is_own ? (goes_on[0] ? "├─ " : "└─ ") : goes_on[i - 1] ? "│  " : "   ";
        KELPIE_ASSERT(length + strlen(piece) < capacity);
        memcpy(out + length, piece, strlen(piece) + 1);
        length += strlen(piece);
        columns += 3;
    }
    return columns;
}

static void print_node(struct kelpie_cli *cli, const struct kelpie_cli_forest *forest, uint32_t at,
                       int64_t now_ms) {
    const struct kelpie_cli_node *node = &forest->nodes[at];
    char branches[TREE_DEPTH_MAX * 8 + 1];
    char age[32];
    char size[32];
    size_t columns = write_branches(forest, at, branches, sizeof(branches));
    KELPIE_ASSERT(columns <= 3u * TREE_DEPTH_MAX);
    const char *name = node->snapshot != NULL ? node->snapshot->name : node->vm->name;
    size_t used = columns + strlen(name) + (node->snapshot == NULL ? 2 : 0);
    int space = used < TREE_NAME_COLUMNS ? (int)(TREE_NAME_COLUMNS - used) : 1;
    if (node->snapshot == NULL) {
        kelpie__cli_print(cli, "%s● %s%*s %s\n", branches, name, space, "",
                          kelpie_vm_state_name(node->vm->state));
        return;
    }
    const struct kelpie_snapshot_info *info = node->snapshot;
    kelpie__cli_age(now_ms - info->created_ms, age, sizeof(age));
    kelpie__cli_bytes(info->stored_bytes, size, sizeof(size));
    if (info->is_damaged) {
        kelpie__cli_print(cli, "%s%s%*s damaged\n", branches, name, space, "");
    } else {
        bool has_label = info->label[0] != '\0';
        kelpie__cli_print(cli, "%s%s%*s of %-16s %8s %10s%s%s%s\n", branches, name, space, "",
                          info->vm_name, age, size, info->is_paused ? "  paused" : "",
                          has_label ? "  " : "", info->label);
    }
}

void kelpie__cli_forest_print(struct kelpie_cli *cli, const struct kelpie_cli_forest *forest) {
    int64_t now_ms = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    for (uint32_t i = 0; i < forest->node_count; i += 1) {
        KELPIE_ASSERT(forest->order[i] < forest->node_count);
        print_node(cli, forest, forest->order[i], now_ms);
    }
    if (forest->node_count == 0) {
        kelpie__cli_note(cli, "there are no snapshots");
    }
}
