/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie restore: makes a VM what it was at a snapshot.
 */
#include "cli/cli.h"

int kelpie__cli_restore(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->words[1] != NULL);
    KELPIE_ASSERT(cli->word_count == 2);
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[0]);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_vm_restore(vm, cli->words[1], 0, &error) < 0) {
        code = kelpie__cli_fail_error(cli, &error);
    } else {
        kelpie__cli_print(cli, "%s\n", cli->words[0]);
    }
    kelpie_vm_close(vm);
    return code;
}
