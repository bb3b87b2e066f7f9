/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie run: create, start, exec, delete. The VM is owned and ephemeral, so that nothing is left
 * even when this process is killed; with -d it is left running instead.
 */
#include "cli/cli.h"

#define RUN_POOL_OPTIONS                                                                           \
    "detach env interactive json lease pool timeout timings tty user wait workdir"

static int run_detached(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    const char *const *command = (const char *const *)cli->words;
    KELPIE_ASSERT(!cli->options.is_interactive);
    int code =
        cli->word_count > 0 ? kelpie__cli_session_detached(cli, vm, command, false) : KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->options.is_detached);
    if (code == KELPIE_CLI_OK) {
        kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vm));
        code = kelpie__cli_is_told(cli) ? KELPIE_CLI_OK : KELPIE_CLI_FAILED;
    }
    return code;
}

static int run_in_vm(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    KELPIE_ASSERT(cli->word_count > 0 || cli->options.is_detached);
    int code = cli->options.pool != NULL ? KELPIE_CLI_OK : kelpie__cli_boot(cli, vm);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    bool has_info = cli->options.shows_timings && kelpie_vm_inspect(vm, &info, NULL) == 0;
    code = cli->options.is_detached
               ? run_detached(cli, vm)
               : kelpie__cli_session_run(cli, vm, (const char *const *)cli->words);
    if (has_info) {
        kelpie__cli_print_timings(cli, &info);
    }
    return code;
}

/* A VM of a pool is what the pool's are: only what is the command's can be said. */
static bool run_check_pool(struct kelpie_cli *cli) {
    const struct kelpie_cli_options *options = &cli->options;
    bool has_pool_options =
        options->lease_ms != KELPIE_CLI_UNSET || options->wait_ms != KELPIE_CLI_UNSET;
    KELPIE_ASSERT(cli->verb->bit == KELPIE_CLI_RUN);
    const char *foreign = kelpie__cli_foreign_option(cli, RUN_POOL_OPTIONS);
    if (options->pool == NULL && has_pool_options) {
        kelpie__ignore(kelpie__cli_fail(cli, "--lease and --wait are for --pool"));
        return false;
    }
    if (options->pool != NULL && foreign != NULL) {
        kelpie__ignore(kelpie__cli_fail(
            cli, "--%s and --pool exclude each other: give it to kelpie pool create", foreign));
        return false;
    }
    return true;
}

static bool run_check(struct kelpie_cli *cli) {
    const struct kelpie_cli_options *options = &cli->options;
    const char *problem = NULL;
    KELPIE_ASSERT(cli->kelpie == NULL);
    if (cli->word_count == 0 && !options->is_detached) {
        problem = "no command was given; name one, or leave a VM running with -d";
    } else if (options->is_detached && options->is_interactive) {
        problem = "-d and -i exclude each other: a command that is left has no standard input";
    } else if (options->is_json && !options->shows_timings) {
        problem = "--json is for --timings; give both or none";
    }
    if (problem != NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "%s", problem));
        return false;
    }
    return run_check_pool(cli) && kelpie__cli_check_terminal(cli);
}

static int run_make(struct kelpie_cli *cli, struct kelpie_vm **out) {
    enum kelpie_lifetime lifetime =
        cli->options.is_detached ? KELPIE_LIFETIME_DETACHED : KELPIE_LIFETIME_OWNED;
    return cli->options.pool != NULL ? kelpie__cli_claim(cli, cli->options.pool, lifetime, out)
                                     : kelpie__cli_make_vm(cli, cli->options.name, out);
}

int kelpie__cli_run(struct kelpie_cli *cli) {
    struct kelpie_vm *vm = NULL;
    if (!run_check(cli)) {
        return KELPIE_CLI_FAILED;
    }
    int code = run_make(cli, &vm);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    KELPIE_ASSERT(vm != NULL);
    code = run_in_vm(cli, vm);
    bool is_left = cli->options.is_detached && code == KELPIE_CLI_OK;
    if (is_left) {
        kelpie_vm_close(vm);
    } else {
        kelpie__cli_delete_vm(cli, vm);
    }
    KELPIE_ASSERT(code >= 0 && code <= 255);
    return code;
}
