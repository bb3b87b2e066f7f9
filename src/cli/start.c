/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie start: boots VMs, one after another, and prints the names of those that run.
 */
#include "cli/cli.h"

int kelpie__cli_start(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 1);
    for (uint32_t i = 0; i < cli->word_count; i += 1) {
        struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[i]);
        if (vm == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        int one = kelpie__cli_boot(cli, vm);
        if (one == KELPIE_CLI_OK) {
            kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vm));
        }
        kelpie_vm_close(vm);
        if (one > KELPIE_CLI_SIGNALLED) { /* Ctrl-C is for all of them */
            KELPIE_ASSERT(one <= 255);
            return one;
        }
        code = one != KELPIE_CLI_OK ? one : code;
    }
    return code;
}
