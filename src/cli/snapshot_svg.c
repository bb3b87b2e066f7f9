/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The forest of snapshots as a picture: one SVG file that needs nothing else. Time goes to the
 * right; the first child stands in its parent's lane, each other one in a lane of its own. Colours
 * tell VMs apart; a pill is a VM that came from the snapshot before it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/snapshot.h"
#include "core/text.h"
#include "os/os_call.h"

#define SVG_LINE_BYTES 1024u
#define SVG_BUFFER_BYTES 16384u
#define SVG_TEXT_CHARACTERS 32u
#define SVG_NAME_CHARACTERS 23u                             /* of a card, in bold */
#define SVG_TEXT_BYTES (6u * 4u * SVG_TEXT_CHARACTERS + 8u) /* escaped, in UTF-8 */
#define SVG_FILE_MODE 0644u

#define CARD_WIDTH 232
#define CARD_HEIGHT 72
#define PILL_HEIGHT 36
#define COLUMN_WIDTH 288
#define LANE_HEIGHT 108
#define MARGIN 32
#define HEAD_HEIGHT 88

struct svg {
    struct kelpie_cli *cli;
    int file; /* KELPIE_CLI_STDOUT: what the command prints */
    int os_error;
    size_t used;
    char buffer[SVG_BUFFER_BYTES];
};

static void svg_flush(struct svg *svg) {
    size_t done = 0;
    while (svg->os_error == 0 && done < svg->used) { /* bound: the bytes */
        int64_t put =
            kelpie__os_write(svg->cli->os, svg->file, svg->buffer + done, svg->used - done);
        if (put < 0 && put != -EINTR) {
            svg->os_error = (int)-put;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    svg->used = 0;
}

KELPIE_PRINTF(2, 3) static void svg_put(struct svg *svg, const char *format, ...) {
    char line[SVG_LINE_BYTES];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    KELPIE_ASSERT(length >= 0 && (size_t)length < sizeof(line));
    if (svg->file == KELPIE_CLI_STDOUT) {
        kelpie__cli_put(svg->cli, line, (size_t)length);
        return;
    }
    if (svg->used + (size_t)length > sizeof(svg->buffer)) {
        svg_flush(svg);
    }
    memcpy(svg->buffer + svg->used, line, (size_t)length);
    svg->used += (size_t)length;
}

static const char *escape_of(char letter) {
    switch (letter) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    default:
        return (unsigned char)letter < 0x20 ? " " : NULL;
    }
}

/* At most so many characters, for XML. What is cut off shows as an ellipsis. */
static void svg_text(const char *text, uint32_t characters, char out[SVG_TEXT_BYTES]) {
    size_t length = strlen(text);
    size_t at = 0;
    size_t used = 0;
    for (uint32_t i = 0; i < characters && at < length; i += 1) {
        size_t bytes = kelpie__text_utf8_length(text + at, length - at);
        bytes = bytes == 0 ? 1 : bytes;
        const char *escape = bytes == 1 ? escape_of(text[at]) : NULL;
        size_t count = escape != NULL ? strlen(escape) : bytes;
        memcpy(out + used, escape != NULL ? escape : text + at, count);
        used += count;
        at += bytes;
    }
    const char *end = at < length ? "…" : "";
    KELPIE_ASSERT(used + strlen(end) < SVG_TEXT_BYTES);
    memcpy(out + used, end, strlen(end) + 1);
}

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

static void draw_head(struct svg *svg, const struct kelpie_cli_forest *forest) {
    int width = 2 * MARGIN + (int)forest->depth_max * COLUMN_WIDTH + CARD_WIDTH;
    int height = HEAD_HEIGHT + (int)forest->lane_count * LANE_HEIGHT + MARGIN / 2;
    uint64_t bytes = 0;
    char size[32];
    for (size_t i = 0; i < forest->snapshot_count; i += 1) {
        bytes += forest->snapshots[i].stored_bytes;
    }
    kelpie__cli_bytes(bytes, size, sizeof(size));
    width = width < 420 ? 420 : width;
    svg_put(svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d "
            "%d\" role=\"img\" aria-label=\"Kelpie snapshots\">\n<style>\n",
            width, height, width, height);
    /* Plain colours by class, which every viewer knows; dark ones where they are asked for. */
    svg_put(svg,
            "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#647084}\n"
            ".name{font-weight:600;font-size:14px;fill:#1b2430}\n"
            ".title{font-weight:700;font-size:20px;fill:#1b2430}\n"
            ".note{font-style:italic}.bad{fill:#c62f2f}.good{fill:#2ea26a}.still{fill:#d9972b}"
            ".off{fill:#a8b1bf}\n"
            ".paper{fill:#f7f8fa}.card{fill:#fff;stroke:#d5dae1}\n"
            ".edge{fill:none;stroke:#9aa5b5;stroke-width:1.5}\n");
    svg_put(svg, "@media(prefers-color-scheme:dark){text{fill:#93a0b4}.name,.title{fill:#e6ebf2}"
                 ".bad{fill:#ff7b72}.paper{fill:#12161c}.card{fill:#1c232c;stroke:#36404d}"
                 ".edge{stroke:#5b6778}}\n</style>\n");
    svg_put(svg,
            "<rect class=\"paper\" width=\"100%%\" height=\"100%%\"/>\n"
            "<text class=\"title\" x=\"%d\" y=\"42\">Snapshots</text>\n"
            "<text x=\"%d\" y=\"63\">%zu, %s on the disk</text>\n",
            MARGIN, MARGIN, forest->snapshot_count, size);
}

static void draw_edge(struct svg *svg, const struct kelpie_cli_node *from,
                      const struct kelpie_cli_node *to) {
    int x = node_x(from) + CARD_WIDTH;
    int end = node_x(to);
    int y = node_middle(from);
    int end_y = node_middle(to);
    int bend = (end - x) / 2;
    svg_put(svg, "<path class=\"edge\" d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x, y, x + bend, y,
            end - bend, end_y, end, end_y);
}

static void draw_snapshot(struct svg *svg, const struct kelpie_cli_node *node, int64_t now_ms) {
    const struct kelpie_snapshot_info *info = node->snapshot;
    char name[SVG_TEXT_BYTES];
    char label[SVG_TEXT_BYTES];
    char age[32];
    char size[32];
    int x = node_x(node);
    int y = node_middle(node) - CARD_HEIGHT / 2;
    svg_text(info->name, SVG_NAME_CHARACTERS, name);
    svg_text(info->label, SVG_TEXT_CHARACTERS, label);
    kelpie__cli_age(now_ms - info->created_ms, age, sizeof(age));
    kelpie__cli_bytes(info->stored_bytes, size, sizeof(size));
    svg_put(svg,
            "<g><title>%s</title><rect class=\"card\" x=\"%d\" y=\"%d\" width=\"%d\" "
            "height=\"%d\" rx=\"9\"/>",
            info->id, x, y, CARD_WIDTH, CARD_HEIGHT);
    svg_put(svg,
            "<path fill=\"%s\" d=\"M%d %dh-3a9 9 0 0 1-9-9v-54"
            "a9 9 0 0 1 9-9h3z\"/>",
            colour_of(info->vm_name), x + 12, y + CARD_HEIGHT);
    svg_put(svg, "<text class=\"name\" x=\"%d\" y=\"%d\">%s</text>", x + 24, y + 26, name);
    if (info->is_damaged) {
        svg_put(svg, "<text class=\"bad\" x=\"%d\" y=\"%d\">damaged</text></g>\n", x + 24, y + 45);
        return;
    }
    svg_text(info->vm_name, SVG_NAME_CHARACTERS - 4, name);
    svg_put(svg, "<text x=\"%d\" y=\"%d\">%s%s</text>", x + 24, y + 44, name,
            info->is_paused ? " · paused" : "");
    svg_put(svg, "<text x=\"%d\" y=\"%d\">%s · %s ago</text></g>\n", x + 24, y + 61, size, age);
    if (label[0] != '\0') {
        svg_put(svg, "<text x=\"%d\" y=\"%d\" class=\"note\">%s</text>\n", x + 2,
                y + CARD_HEIGHT + 15, label);
    }
}

static void draw_vm(struct svg *svg, const struct kelpie_cli_node *node) {
    const struct kelpie_vm_info *vm = node->vm;
    char name[SVG_TEXT_BYTES];
    int x = node_x(node);
    int y = node_middle(node) - PILL_HEIGHT / 2;
    bool is_live = vm->state == KELPIE_VM_RUNNING || vm->state == KELPIE_VM_PAUSED;
    svg_text(vm->name, SVG_NAME_CHARACTERS - 6, name);
    svg_put(svg,
            "<g><title>VM %s</title><rect class=\"card\" x=\"%d\" y=\"%d\" width=\"%d\" "
            "height=\"%d\" rx=\"%d\"/>",
            vm->id, x, y, CARD_WIDTH, PILL_HEIGHT, PILL_HEIGHT / 2);
    svg_put(svg, "<circle class=\"%s\" cx=\"%d\" cy=\"%d\" r=\"5\"/>",
            vm->state == KELPIE_VM_RUNNING   ? "good"
            : vm->state == KELPIE_VM_CRASHED ? "bad"
            : is_live                        ? "still"
                                             : "off",
            x + 20, y + PILL_HEIGHT / 2);
    svg_put(svg, "<text x=\"%d\" y=\"%d\"><tspan class=\"name\">%s</tspan>  %s</text></g>\n",
            x + 34, y + 23, name, kelpie_vm_state_name(vm->state));
}

static void draw_all(struct svg *svg, const struct kelpie_cli_forest *forest) {
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
    svg_put(svg, "</svg>\n");
}

int kelpie__cli_forest_draw(struct kelpie_cli *cli, const struct kelpie_cli_forest *forest,
                            const char *path) {
    char absolute[KELPIE_PATH_BYTES_MAX + 1];
    struct kelpie_error error = {0};
    struct svg svg = {.cli = cli, .file = KELPIE_CLI_STDOUT};
    if (kelpie__text_equal(path, "-")) {
        draw_all(&svg, forest);
        return KELPIE_CLI_OK;
    }
    if (path[0] == '\0' || !kelpie__cli_absolute(cli, path, absolute, sizeof(absolute))) {
        return kelpie__cli_fail(cli, "--svg: \"%.60s\" is no path of a file", path);
    }
    svg.file = kelpie__os_open(cli->os, KELPIE_OS_CWD, absolute,
                               KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                               SVG_FILE_MODE);
    if (svg.file < 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, -svg.file, "open \"%s\"", path));
        return kelpie__cli_fail_error(cli, &error);
    }
    draw_all(&svg, forest);
    svg_flush(&svg);
    int closed = kelpie__os_close(cli->os, svg.file);
    if (svg.os_error == 0 && closed < 0) {
        svg.os_error = -closed;
    }
    if (svg.os_error != 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, svg.os_error, "write \"%s\"", path));
        return kelpie__cli_fail_error(cli, &error);
    }
    return KELPIE_CLI_OK;
}
