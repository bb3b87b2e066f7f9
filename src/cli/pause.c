/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie pause: stops the guests of VMs where they are.
 */
#include "cli/cli.h"

int kelpie__cli_pause(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 1);
    for (uint32_t i = 0; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[i]);
        if (vm == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        if (kelpie_vm_pause(vm, &error) < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s\n", cli->words[i]);
        }
        kelpie_vm_close(vm);
    }
    return code;
}
