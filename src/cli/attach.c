/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie attach: goes on with a command that was left running, or lists those of a VM.
 */
#include "cli/cli.h"

static int list_commands(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    if (kelpie_vm_exec_list(vm, &list, &count, &error) < 0) {
        KELPIE_ASSERT(list == NULL);
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie__cli_print(cli, "%-32s  %-8s  %-8s  %s\n", "ID", "STATE", "CLIENT", "COMMAND");
    for (size_t i = 0; i < count; i += 1) {
        kelpie__cli_print(cli, "%-32s  %-8s  %-8s  %s\n", list[i].id,
                          list[i].is_running ? "running" : "ended",
                          list[i].is_attached ? "attached" : "none", list[i].command);
    }
    kelpie_exec_list_free(cli->kelpie, list, count);
    return KELPIE_CLI_OK;
}

int kelpie__cli_attach(struct kelpie_cli *cli) {
    KELPIE_ASSERT(cli->word_count >= 1);
    KELPIE_ASSERT(cli->word_count <= 2);
    if (!kelpie__cli_check_terminal(cli)) {
        return KELPIE_CLI_FAILED;
    }
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[0]);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int code = cli->word_count == 1 ? list_commands(cli, vm)
                                    : kelpie__cli_session_attach(cli, vm, cli->words[1]);
    kelpie_vm_close(vm);
    return code;
}
