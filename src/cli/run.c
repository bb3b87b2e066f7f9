/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie run: create, start, exec, delete. The VM is owned and ephemeral, so that nothing is left
 * even when this process is killed; with -d it is left running instead.
 */
#include "cli/cli.h"

static int run_command(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    const char *const *command = (const char *const *)cli->words;
    if (kelpie_vm_start(vm, 0, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (!cli->options.is_detached) {
        return kelpie__cli_session_run(cli, vm, command);
    }
    int code =
        cli->word_count > 0 ? kelpie__cli_session_detached(cli, vm, command, false) : KELPIE_CLI_OK;
    if (code == KELPIE_CLI_OK) {
        kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vm));
    }
    return code;
}

int kelpie__cli_run(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    if (cli->word_count == 0 && !cli->options.is_detached) {
        return kelpie__cli_fail(cli, "no command was given; usage: kelpie run %s",
                                cli->verb->usage);
    }
    int code = kelpie__cli_make_config(cli, &config);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    if (kelpie_vm_create(cli->kelpie, cli->options.name, config, &vm, &error) < 0) {
        kelpie_config_destroy(config);
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie_config_destroy(config);
    code = run_command(cli, vm);
    bool is_left = cli->options.is_detached && code == KELPIE_CLI_OK;
    if (!is_left && kelpie_vm_delete(vm, true, &error) < 0) {
        /* Its monitor deletes it too, when this connection ends. */
        kelpie__cli_note(cli, "delete VM \"%s\": %s", kelpie_vm_name(vm), error.message);
    }
    kelpie_vm_close(vm);
    return code;
}
