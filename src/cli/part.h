/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Verbs that have parts, such as `kelpie pool create`: the part is the first word.
 */
#ifndef KELPIE_CLI_PART_H
#define KELPIE_CLI_PART_H

#include "cli/cli.h"

#define KELPIE_CLI_WORDS_MANY UINT32_MAX

struct kelpie_cli_part {
    const char *name;
    uint32_t words_min; /* after its own name */
    uint32_t words_max;
    const char *options; /* long names that it takes, with a space between */
    const char *usage;
    const char *summary;
    int (*run)(struct kelpie_cli *cli);
};

void kelpie__cli_print_parts(struct kelpie_cli *cli, const char *verb,
                             const struct kelpie_cli_part *parts, size_t count);
/* Finds the part that the first word names, checks words and options, and runs it. Gives the exit
 * code. */
int kelpie__cli_run_part(struct kelpie_cli *cli, const struct kelpie_cli_part *parts, size_t count);

#endif
