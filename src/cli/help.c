/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie help, and --help of every verb.
 */
#include "cli/cli.h"

static void print_overview(struct kelpie_cli *cli) {
    kelpie__cli_print(cli, "usage: kelpie [--state-dir DIR] VERB ...\n\n"
                           "MicroVMs from the command line.\n\n");
    for (size_t i = 0; kelpie__cli_verb_at(i) != NULL; i += 1) {
        const struct kelpie_cli_verb *verb = kelpie__cli_verb_at(i);
        KELPIE_ASSERT(verb->summary != NULL);
        kelpie__cli_print(cli, "  %-10s  %s\n", verb->name, verb->summary);
    }
    kelpie__cli_print(
        cli,
        "\n--state-dir DIR (or KELPIE_STATE_DIR) keeps everything below one directory.\n"
        "\"kelpie VERB --help\" shows the options of a verb.\n\n"
        "Exit codes: the guest command's own; 128 + a signal's number; 124 timeout;\n"
        "125 Kelpie's own failure; 126 the command cannot be executed; 127 it is not found.\n");
}

void kelpie__cli_print_help(struct kelpie_cli *cli, const struct kelpie_cli_verb *verb) {
    if (verb == NULL) {
        print_overview(cli);
        return;
    }
    KELPIE_ASSERT(verb->usage != NULL);
    KELPIE_ASSERT(verb->summary != NULL);
    kelpie__cli_print(cli, "usage: kelpie %s %s\n\n%s.\n\n", verb->name, verb->usage,
                      verb->summary);
    if (verb->bit == KELPIE_CLI_SNAPSHOT) {
        kelpie__cli_print_snapshot_parts(cli);
    }
    if (verb->bit == KELPIE_CLI_POOL) {
        kelpie__cli_print_pool_parts(cli);
    }
    kelpie__cli_print_options(cli, verb);
}

int kelpie__cli_help(struct kelpie_cli *cli) {
    const struct kelpie_cli_verb *verb = NULL;
    KELPIE_ASSERT(cli->word_count <= 1);
    if (cli->word_count > 0) {
        verb = kelpie__cli_find_verb(cli->words[0]);
        if (verb == NULL) {
            return kelpie__cli_fail(cli, "there is no verb \"%s\"; see kelpie help", cli->words[0]);
        }
    }
    kelpie__cli_print_help(cli, verb);
    return KELPIE_CLI_OK;
}
