/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See svg.h.
 */
#include "cli/svg.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define SVG_LINE_BYTES 1024u
#define SVG_FILE_MODE 0644u

static_assert(KELPIE_SVG_BUFFER_BYTES >= SVG_LINE_BYTES, "a line fits the empty buffer");
static_assert(SVG_LINE_BYTES >= KELPIE_SVG_TEXT_BYTES + 128u,
              "a text fits a line with what is around it");

static void svg_check(const struct kelpie_svg *svg) {
    KELPIE_ASSERT(svg->file >= 0);
    KELPIE_ASSERT(svg->used <= sizeof(svg->buffer));
    KELPIE_ASSERT(svg->os_error >= 0);
    if (svg->file == KELPIE_CLI_STDOUT) { /* the command's own buffer is used */
        KELPIE_ASSERT(svg->used == 0);
    }
}

static void svg_flush(struct kelpie_svg *svg) {
    size_t done = 0;
    svg_check(svg);
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

void kelpie__svg_put(struct kelpie_svg *svg, const char *format, ...) {
    char line[SVG_LINE_BYTES];
    svg_check(svg);
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    KELPIE_ASSERT(length >= 0);
    KELPIE_ASSERT((size_t)length < sizeof(line));
    if (svg->file == KELPIE_CLI_STDOUT) {
        kelpie__cli_put(svg->cli, line, (size_t)length);
        return;
    }
    if (svg->used + (size_t)length > sizeof(svg->buffer)) {
        svg_flush(svg);
    }
    memcpy(svg->buffer + svg->used, line, (size_t)length);
    svg->used += (size_t)length;
    KELPIE_ASSERT(svg->used <= sizeof(svg->buffer));
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

void kelpie__svg_text(const char *text, uint32_t characters, char out[KELPIE_SVG_TEXT_BYTES]) {
    KELPIE_ASSERT(characters <= KELPIE_SVG_TEXT_CHARACTERS);
    size_t length = strlen(text);
    size_t at = 0;
    size_t used = 0;
    for (uint32_t i = 0; i < characters && at < length; i += 1) {
        size_t bytes = kelpie__text_utf8_length(text + at, length - at);
        bytes = bytes == 0 ? 1 : bytes;
        const char *escape = bytes == 1 ? escape_of(text[at]) : NULL;
        size_t count = escape != NULL ? strlen(escape) : bytes;
        KELPIE_ASSERT(count <= 6);
        KELPIE_ASSERT(bytes <= length - at);
        memcpy(out + used, escape != NULL ? escape : text + at, count);
        used += count;
        at += bytes;
    }
    const char *end = at < length ? "…" : "";
    KELPIE_ASSERT(used + strlen(end) < KELPIE_SVG_TEXT_BYTES);
    memcpy(out + used, end, strlen(end) + 1);
}

void kelpie__svg_begin(struct kelpie_svg *svg, int width, int height, const char *label) {
    KELPIE_ASSERT(width > 0);
    KELPIE_ASSERT(height > 0);
    kelpie__svg_put(svg,
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                    "viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n<style>\n",
                    width, height, width, height, label);
    /* Plain colours by class, which every viewer knows; dark ones where they are asked for. */
    kelpie__svg_put(
        svg, "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#647084}\n"
             ".name{font-weight:600;font-size:14px;fill:#1b2430}\n"
             ".title{font-weight:700;font-size:20px;fill:#1b2430}\n"
             ".note{font-style:italic}.bad{fill:#c62f2f}.good{fill:#2ea26a}.still{fill:#d9972b}"
             ".off{fill:#a8b1bf}\n"
             ".paper{fill:#f7f8fa}.card{fill:#fff;stroke:#d5dae1}\n"
             ".edge{fill:none;stroke:#9aa5b5;stroke-width:1.5}\n");
    kelpie__svg_put(svg,
                    "@media(prefers-color-scheme:dark){text{fill:#93a0b4}.name,.title{fill:#e6ebf2}"
                    ".bad{fill:#ff7b72}.paper{fill:#12161c}.card{fill:#1c232c;stroke:#36404d}"
                    ".edge{stroke:#5b6778}}\n</style>\n");
    kelpie__svg_put(svg, "<rect class=\"paper\" width=\"100%%\" height=\"100%%\"/>\n");
}

int kelpie__svg_open(struct kelpie_svg *svg, struct kelpie_cli *cli, const char *path) {
    char absolute[KELPIE_PATH_BYTES_MAX + 1];
    struct kelpie_error error = {0};
    *svg = (struct kelpie_svg){.cli = cli, .path = path, .file = KELPIE_CLI_STDOUT};
    if (kelpie__text_equal(path, "-")) {
        return KELPIE_CLI_OK;
    }
    if (path[0] == '\0' || !kelpie__cli_absolute(cli, path, absolute, sizeof(absolute))) {
        return kelpie__cli_fail(cli, "--svg: \"%.60s\" is no path of a file", path);
    }
    svg->file = kelpie__os_open(cli->os, KELPIE_OS_CWD, absolute,
                                KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                    KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                                SVG_FILE_MODE);
    if (svg->file < 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, -svg->file, "open \"%s\"", path));
        return kelpie__cli_fail_error(cli, &error);
    }
    svg_check(svg);
    return KELPIE_CLI_OK;
}

int kelpie__svg_close(struct kelpie_svg *svg) {
    struct kelpie_error error = {0};
    kelpie__svg_put(svg, "</svg>\n");
    if (svg->file == KELPIE_CLI_STDOUT) {
        return KELPIE_CLI_OK;
    }
    svg_flush(svg);
    KELPIE_ASSERT(svg->used == 0);
    int closed = kelpie__os_close(svg->cli->os, svg->file);
    if (svg->os_error == 0 && closed < 0) {
        svg->os_error = -closed;
    }
    if (svg->os_error != 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, svg->os_error, "write \"%s\"", svg->path));
        return kelpie__cli_fail_error(svg->cli, &error);
    }
    return KELPIE_CLI_OK;
}
