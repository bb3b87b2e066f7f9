/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie rm: deletes VMs.
 */
#include "cli/cli.h"

int kelpie__cli_rm(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 1);
    for (uint32_t i = 0; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[i]);
        if (vm == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        int status = kelpie_vm_delete(vm, cli->options.is_forced, &error);
        if (status == KELPIE_E_STATE) {
            code = kelpie__cli_fail(cli, "%s (kelpie rm -f does)", error.message);
        } else if (status < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s\n", cli->words[i]);
        }
        kelpie_vm_close(vm);
    }
    return code;
}
