/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The forest of snapshots as a picture: one SVG file that needs nothing else. Time goes to the
 * right; the first child stands in its parent's lane, each other one in a lane of its own. Colours
 * tell VMs apart; a pill is a VM that came from the snapshot before it.
 */
#include "cli/snapshot.h"
#include "cli/svg.h"
#include "os/os_call.h"

#define SVG_NAME_CHARACTERS 23u /* of a card, in bold */

#define CARD_WIDTH 232
#define CARD_HEIGHT 72
#define PILL_HEIGHT 36
#define COLUMN_WIDTH 288
#define LANE_HEIGHT 108
#define MARGIN 32
#define HEAD_HEIGHT 88

/* A colour for a VM's name: the same in every picture. */
static const char *colour_of(const char *name) {
    static const char *const colours[] = {"#4477aa", "#ee6677", "#228833", "#ccbb44",
                                          "#66ccee", "#aa3377", "#ee8866", "#7788bb"};
    uint32_t hash = 2166136261u;
    for (; *name != '\0'; name += 1) {
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    }
    return colours[hash % KELPIE_ARRAY_COUNT(colours)];
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int node_x(const struct kelpie_cli_node *node) {
    return MARGIN + (int)node->depth * COLUMN_WIDTH;
}

static int node_middle(const struct kelpie_cli_node *node) {
    return HEAD_HEIGHT + (int)node->lane * LANE_HEIGHT + CARD_HEIGHT / 2;
}

static void draw_head(struct kelpie_svg *svg, const struct kelpie_cli_forest *forest) {
    int width = 2 * MARGIN + (int)forest->depth_max * COLUMN_WIDTH + CARD_WIDTH;
    int height = HEAD_HEIGHT + (int)forest->lane_count * LANE_HEIGHT + MARGIN / 2;
    uint64_t bytes = 0;
    char size[32];
    KELPIE_ASSERT(forest->lane_count <= forest->node_count);
    KELPIE_ASSERT(forest->depth_max <= forest->node_count);
    for (size_t i = 0; i < forest->snapshot_count; i += 1) {
        bytes += forest->snapshots[i].stored_bytes;
    }
    kelpie__cli_bytes(bytes, size, sizeof(size));
    width = width < 420 ? 420 : width;
    kelpie__svg_begin(svg, width, height, "Kelpie snapshots");
    kelpie__svg_put(svg,
                    "<text class=\"title\" x=\"%d\" y=\"42\">Snapshots</text>\n"
                    "<text x=\"%d\" y=\"63\">%zu, %s on the disk</text>\n",
                    MARGIN, MARGIN, forest->snapshot_count, size);
}

static void draw_edge(struct kelpie_svg *svg, const struct kelpie_cli_node *from,
                      const struct kelpie_cli_node *to) {
    KELPIE_ASSERT(to->depth == from->depth + 1);
    int x = node_x(from) + CARD_WIDTH;
    int end = node_x(to);
    int y = node_middle(from);
    int end_y = node_middle(to);
    int bend = (end - x) / 2;
    kelpie__svg_put(svg, "<path class=\"edge\" d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x, y, x + bend,
                    y, end - bend, end_y, end, end_y);
}

static void draw_snapshot(struct kelpie_svg *svg, const struct kelpie_cli_node *node,
                          int64_t now_ms) {
    const struct kelpie_snapshot_info *info = node->snapshot;
    char name[KELPIE_SVG_TEXT_BYTES];
    char label[KELPIE_SVG_TEXT_BYTES];
    char age[32];
    char size[32];
    KELPIE_ASSERT(node->vm == NULL);
    int x = node_x(node);
    int y = node_middle(node) - CARD_HEIGHT / 2;
    kelpie__svg_text(info->name, SVG_NAME_CHARACTERS, name);
    kelpie__svg_text(info->label, KELPIE_SVG_TEXT_CHARACTERS, label);
    kelpie__cli_age(now_ms - info->created_ms, age, sizeof(age));
    kelpie__cli_bytes(info->stored_bytes, size, sizeof(size));
    kelpie__svg_put(svg,
                    "<g><title>%s</title><rect class=\"card\" x=\"%d\" y=\"%d\" width=\"%d\" "
                    "height=\"%d\" rx=\"9\"/>",
                    info->id, x, y, CARD_WIDTH, CARD_HEIGHT);
    kelpie__svg_put(svg,
                    "<path fill=\"%s\" d=\"M%d %dh-3a9 9 0 0 1-9-9v-54"
                    "a9 9 0 0 1 9-9h3z\"/>",
                    colour_of(info->vm_name), x + 12, y + CARD_HEIGHT);
    kelpie__svg_put(svg, "<text class=\"name\" x=\"%d\" y=\"%d\">%s</text>", x + 24, y + 26, name);
    if (info->is_damaged) {
        kelpie__svg_put(svg, "<text class=\"bad\" x=\"%d\" y=\"%d\">damaged</text></g>\n", x + 24,
                        y + 45);
        return;
    }
    kelpie__svg_text(info->vm_name, SVG_NAME_CHARACTERS - 4, name);
    kelpie__svg_put(svg, "<text x=\"%d\" y=\"%d\">%s%s</text>", x + 24, y + 44, name,
                    info->is_paused ? " · paused" : "");
    kelpie__svg_put(svg, "<text x=\"%d\" y=\"%d\">%s · %s ago</text></g>\n", x + 24, y + 61, size,
                    age);
    if (label[0] != '\0') {
        kelpie__svg_put(svg, "<text x=\"%d\" y=\"%d\" class=\"note\">%s</text>\n", x + 2,
                        y + CARD_HEIGHT + 15, label);
    }
}

static void draw_vm(struct kelpie_svg *svg, const struct kelpie_cli_node *node) {
    const struct kelpie_vm_info *vm = node->vm;
    char name[KELPIE_SVG_TEXT_BYTES];
    KELPIE_ASSERT(node->snapshot == NULL);
    int x = node_x(node);
    int y = node_middle(node) - PILL_HEIGHT / 2;
    bool is_live = vm->state == KELPIE_VM_RUNNING || vm->state == KELPIE_VM_PAUSED;
    kelpie__svg_text(vm->name, SVG_NAME_CHARACTERS - 6, name);
    kelpie__svg_put(svg,
                    "<g><title>VM %s</title><rect class=\"card\" x=\"%d\" y=\"%d\" width=\"%d\" "
                    "height=\"%d\" rx=\"%d\"/>",
                    vm->id, x, y, CARD_WIDTH, PILL_HEIGHT, PILL_HEIGHT / 2);
    kelpie__svg_put(svg, "<circle class=\"%s\" cx=\"%d\" cy=\"%d\" r=\"5\"/>",
                    vm->state == KELPIE_VM_RUNNING   ? "good"
                    : vm->state == KELPIE_VM_CRASHED ? "bad"
                    : is_live                        ? "still"
                                                     : "off",
                    x + 20, y + PILL_HEIGHT / 2);
    kelpie__svg_put(svg,
                    "<text x=\"%d\" y=\"%d\"><tspan class=\"name\">%s</tspan>  %s</text></g>\n",
                    x + 34, y + 23, name, kelpie_vm_state_name(vm->state));
}

static void draw_all(struct kelpie_svg *svg, const struct kelpie_cli_forest *forest) {
    int64_t now_ms = kelpie__os_now(svg->cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    draw_head(svg, forest);
    for (uint32_t i = 0; i < forest->node_count; i += 1) {
        const struct kelpie_cli_node *node = &forest->nodes[forest->order[i]];
        if (node->parent != KELPIE_CLI_NO_NODE) {
            draw_edge(svg, &forest->nodes[node->parent], node);
        }
    }
    for (uint32_t i = 0; i < forest->node_count; i += 1) {
        const struct kelpie_cli_node *node = &forest->nodes[forest->order[i]];
        if (node->snapshot != NULL) {
            draw_snapshot(svg, node, now_ms);
        } else {
            draw_vm(svg, node);
        }
    }
}

int kelpie__cli_forest_draw(struct kelpie_cli *cli, const struct kelpie_cli_forest *forest,
                            const char *path) {
    struct kelpie_svg svg;
    int code = kelpie__svg_open(&svg, cli, path);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    draw_all(&svg, forest);
    return kelpie__svg_close(&svg);
}
