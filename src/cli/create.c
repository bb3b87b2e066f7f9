/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie create: a VM that can be started. Its name, given or drawn, is printed.
 */
#include "cli/cli.h"

int kelpie__cli_create(struct kelpie_cli *cli) {
    struct kelpie_vm *vm = NULL;
    const char *name = cli->options.name;
    KELPIE_ASSERT(cli->verb->bit == KELPIE_CLI_CREATE);
    KELPIE_ASSERT(cli->word_count <= 1);
    if (cli->word_count == 1 && name != NULL) {
        return kelpie__cli_fail(cli, "\"%s\" and --name \"%s\" are two names; give one",
                                cli->words[0], name);
    }
    if (cli->word_count == 1) {
        name = cli->words[0];
    }
    int code = kelpie__cli_make_vm(cli, name, &vm);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    KELPIE_ASSERT(vm != NULL);
    return kelpie__cli_give_vm(cli, vm);
}
