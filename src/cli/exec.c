/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie exec: a command in a VM that runs. Until it has started, a signal ends this process, and
 * the monitor then kills what it was about to start.
 */
#include "cli/cli.h"

int kelpie__cli_exec(struct kelpie_cli *cli) {
    KELPIE_ASSERT(cli->word_count >= 2);
    KELPIE_ASSERT(cli->words[cli->word_count] == NULL);
    const char *const *command = (const char *const *)cli->words + 1;
    if (cli->options.is_detached && cli->options.is_interactive) {
        return kelpie__cli_fail(
            cli, "-d and -i exclude each other: a command that is left has no standard input");
    }
    if (!kelpie__cli_check_terminal(cli)) {
        return KELPIE_CLI_FAILED;
    }
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[0]);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int code = cli->options.is_detached ? kelpie__cli_session_detached(cli, vm, command, true)
                                        : kelpie__cli_session_run(cli, vm, command);
    kelpie_vm_close(vm);
    return code;
}
