/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie create: makes a VM and prints its name.
 */
#include "cli/cli.h"

int kelpie__cli_create(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    const char *name = cli->word_count > 0 ? cli->words[0] : NULL;
    int code = kelpie__cli_make_config(cli, &config);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    int status = kelpie_vm_create(cli->kelpie, name, config, &vm, &error);
    kelpie_config_destroy(config);
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vm));
    kelpie_vm_close(vm);
    return KELPIE_CLI_OK;
}
