/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pictures: one SVG file that needs nothing else, light or dark as its reader's screen is.
 */
#ifndef KELPIE_CLI_SVG_H
#define KELPIE_CLI_SVG_H

#include "cli/cli.h"

#define KELPIE_SVG_TEXT_CHARACTERS 32u
#define KELPIE_SVG_TEXT_BYTES (6u * 4u * KELPIE_SVG_TEXT_CHARACTERS + 8u) /* escaped, in UTF-8 */
#define KELPIE_SVG_BUFFER_BYTES 16384u

static_assert(KELPIE_SVG_TEXT_BYTES > 6u * KELPIE_SVG_TEXT_CHARACTERS + 4u,
              "the longest escapes and an ellipsis fit");

struct kelpie_svg {
    struct kelpie_cli *cli;
    const char *path; /* borrowed: until it is closed */
    int file;         /* KELPIE_CLI_STDOUT: what the command prints */
    int os_error;
    size_t used;
    char buffer[KELPIE_SVG_BUFFER_BYTES];
};

/* "-": standard output. 0, or the exit code: it was reported. */
KELPIE_MUST_CHECK int kelpie__svg_open(struct kelpie_svg *svg, struct kelpie_cli *cli,
                                       const char *path);
/* The root element, the styles and the ground; `label` is for those who do not see it. */
void kelpie__svg_begin(struct kelpie_svg *svg, int width, int height, const char *label);
KELPIE_PRINTF(2, 3) void kelpie__svg_put(struct kelpie_svg *svg, const char *format, ...);
/* At most so many characters, for XML. What is cut off shows as an ellipsis. */
void kelpie__svg_text(const char *text, uint32_t characters, char out[KELPIE_SVG_TEXT_BYTES]);
/* Ends it. Gives the exit code. */
KELPIE_MUST_CHECK int kelpie__svg_close(struct kelpie_svg *svg);

#endif
