/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie fork: makes VMs of one that runs or is paused, or of a snapshot. They are left running.
 */
#include "cli/cli.h"

#include "os/os_call.h"

/* A name may be a VM's and a snapshot's: then it has to be said which. */
static int fork_find(struct kelpie_cli *cli, const char *name, struct kelpie_vm **out) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    KELPIE_ASSERT(*out == NULL);
    KELPIE_ASSERT(cli->kelpie != NULL);
    bool is_snapshot = kelpie_snapshot_inspect(cli->kelpie, name, &info, NULL) == 0;
    int status = kelpie_vm_open(cli->kelpie, name, out, &error);
    if (status == 0 && is_snapshot) {
        kelpie_vm_close(*out);
        *out = NULL;
        return kelpie__cli_fail(cli,
                                "both a VM and a snapshot have the name \"%s\"; make VMs of the "
                                "snapshot with create --from",
                                name);
    }
    if (status == KELPIE_E_NOT_FOUND && is_snapshot) {
        return KELPIE_CLI_OK;
    }
    if (status == KELPIE_E_NOT_FOUND) {
        return kelpie__cli_fail(cli, "there is no VM and no snapshot \"%s\"", name);
    }
    return status < 0 ? kelpie__cli_fail_error(cli, &error) : KELPIE_CLI_OK;
}

static int fork_make(struct kelpie_cli *cli, struct kelpie_vm *source, struct kelpie_vm **vms) {
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    const char *const *names = (const char *const *)cli->words + 1;
    size_t count = cli->word_count - 1;
    KELPIE_ASSERT(cli->word_count >= 2);
    KELPIE_ASSERT(count <= KELPIE_FORK_COUNT_MAX);
    if (kelpie_config_create(cli->kelpie, &config, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    int status = source != NULL ? kelpie_vm_fork(source, config, names, count, vms, &error)
                                : kelpie_snapshot_fork(cli->kelpie, cli->words[0], config, names,
                                                       count, vms, &error);
    kelpie_config_destroy(config);
    return status < 0 ? kelpie__cli_fail_error(cli, &error) : KELPIE_CLI_OK;
}

int kelpie__cli_fork(struct kelpie_cli *cli) {
    struct kelpie_vm *source = NULL;
    struct kelpie_vm *vms[KELPIE_FORK_COUNT_MAX] = {0};
    KELPIE_ASSERT(cli->word_count >= 2);
    if (cli->word_count - 1 > KELPIE_FORK_COUNT_MAX) {
        return kelpie__cli_fail(cli, "%u names were given; give at most %u", cli->word_count - 1,
                                KELPIE_FORK_COUNT_MAX);
    }
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    int code = fork_find(cli, cli->words[0], &source);
    if (code == KELPIE_CLI_OK) {
        code = fork_make(cli, source, vms);
    }
    for (uint32_t i = 0; i + 1 < cli->word_count && code == KELPIE_CLI_OK; i += 1) {
        KELPIE_ASSERT(vms[i] != NULL);
        kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vms[i]));
        kelpie_vm_close(vms[i]);
    }
    kelpie_vm_close(source);
    return code;
}
