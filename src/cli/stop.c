/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie stop: asks guests to shut down, and kills those that do not within the time.
 */
#include "cli/cli.h"

static int stop_one(struct kelpie_cli *cli, const char *name) {
    struct kelpie_error error = {0};
    struct kelpie_stop_result result = {0};
    bool has_timeout = cli->options.timeout_ms != KELPIE_CLI_UNSET;
    /* To the library 0 is its default; to people it is no time at all. */
    uint64_t timeout_ms = has_timeout ? kelpie__max_u64(cli->options.timeout_ms, 1) : 0;
    KELPIE_ASSERT(!has_timeout || timeout_ms > 0);
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, name);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int status = kelpie_vm_stop(vm, timeout_ms, &result, &error);
    kelpie_vm_close(vm);
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (!result.was_graceful) {
        kelpie__cli_note(cli, "VM \"%s\" did not shut down in time and was killed", name);
    }
    kelpie__cli_print(cli, "%s\n", name);
    return KELPIE_CLI_OK;
}

int kelpie__cli_stop(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 1);
    for (uint32_t i = 0; i < cli->word_count; i += 1) {
        int one = stop_one(cli, cli->words[i]);
        code = one != KELPIE_CLI_OK ? one : code;
    }
    return code;
}
