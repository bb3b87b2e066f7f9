/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie logs: what is kept of a VM's console, or of its events.
 */
#include "cli/cli.h"

static void on_bytes(void *context, const void *bytes, size_t count) {
    struct kelpie_cli *cli = context;
    KELPIE_ASSERT(bytes != NULL || count == 0);
    kelpie__cli_put(cli, bytes, count);
}

int kelpie__cli_logs(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(cli->words[0] != NULL);
    KELPIE_ASSERT(cli->word_count == 1);
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[0]);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    enum kelpie_log_kind kind = cli->options.shows_events ? KELPIE_LOG_EVENTS : KELPIE_LOG_CONSOLE;
    int status = kelpie_vm_read_log(vm, kind, on_bytes, cli, &error);
    kelpie_vm_close(vm);
    return status < 0 ? kelpie__cli_fail_error(cli, &error) : KELPIE_CLI_OK;
}
