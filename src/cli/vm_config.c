/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The options of create and run as a configuration.
 */
#include <string.h>

#include "cli/cli.h"
#include "core/text.h"

static bool set_path(struct kelpie_cli *cli, const char *option, const char *path, char *out) {
    KELPIE_ASSERT(out == cli->root_path || out == cli->kernel_path);
    KELPIE_ASSERT(path[0] != '\0'); /* options.c refuses it */
    if (!kelpie__cli_absolute(cli, path, out, KELPIE_PATH_BYTES_MAX + 1)) {
        kelpie__ignore(kelpie__cli_fail(cli,
                                        "--%s: \"%.40s...\" is longer than the limit of %u bytes",
                                        option, path, KELPIE_PATH_BYTES_MAX));
        return false;
    }
    KELPIE_ASSERT(out[0] == '/');
    return true;
}

static bool set_accelerator(struct kelpie_cli *cli, struct kelpie_config *config) {
    KELPIE_ASSERT(cli->kelpie != NULL);
    static const struct {
        const char *name;
        enum kelpie_accelerator value;
    } known[] = {{"auto", KELPIE_ACCELERATOR_AUTO},
                 {"kvm", KELPIE_ACCELERATOR_KVM},
                 {"tcg", KELPIE_ACCELERATOR_TCG}};
    const char *name = cli->options.accelerator;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(known) && name != NULL; i += 1) {
        if (kelpie__text_equal(name, known[i].name)) {
            kelpie_config_set_accelerator(config, known[i].value);
            return true;
        }
    }
    if (name != NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "--accel: \"%s\" is not auto, kvm or tcg", name));
    }
    return name == NULL;
}

static bool set_backend(struct kelpie_cli *cli, struct kelpie_config *config) {
    KELPIE_ASSERT(cli->kelpie != NULL);
    static const struct {
        const char *name;
        enum kelpie_backend value;
    } known[] = {{"auto", KELPIE_BACKEND_AUTO},
                 {"qemu", KELPIE_BACKEND_QEMU},
                 {"krun", KELPIE_BACKEND_KRUN}};
    const char *name = cli->options.backend;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(known) && name != NULL; i += 1) {
        if (kelpie__text_equal(name, known[i].name)) {
            kelpie_config_set_backend(config, known[i].value);
            return true;
        }
    }
    if (name != NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "--backend: \"%s\" is not auto, qemu or krun", name));
    }
    return name == NULL;
}

static bool set_channel(struct kelpie_cli *cli, struct kelpie_config *config) {
    const char *name = cli->options.channel;
    bool is_vsock = name != NULL && kelpie__text_equal(name, "vsock");
    if (name != NULL && !is_vsock && !kelpie__text_equal(name, "serial")) {
        kelpie__ignore(kelpie__cli_fail(cli, "--channel: \"%s\" is not serial or vsock", name));
        return false;
    }
    kelpie_config_set_channel(config, is_vsock ? KELPIE_CHANNEL_VSOCK : KELPIE_CHANNEL_SERIAL);
    return true;
}

/* HOST:GUEST[:ro]. GUEST begins at the first slash behind a colon. */
static bool set_share(struct kelpie_cli *cli, struct kelpie_config *config, const char *value) {
    char host[KELPIE_PATH_BYTES_MAX + 1];
    char guest[KELPIE_PATH_BYTES_MAX + 1];
    const char *colon = strstr(value, ":/");
    size_t host_length = colon == NULL ? 0 : (size_t)(colon - value);
    const char *end = colon == NULL ? NULL : strrchr(colon + 1, ':');
    bool has_access =
        end != NULL && (kelpie__text_equal(end, ":ro") || kelpie__text_equal(end, ":rw"));
    bool is_good = host_length > 0 && host_length < sizeof(host) && (end == NULL || has_access);
    size_t guest_length = !is_good ? 0 : has_access ? (size_t)(end - colon) - 1 : strlen(colon + 1);
    if (!is_good || guest_length >= sizeof(guest)) {
        kelpie__ignore(kelpie__cli_fail(
            cli,
            "--share: \"%.200s\" is not HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:rw, where "
            "GUEST is an absolute path without a colon",
            value));
        return false;
    }
    memcpy(host, value, host_length);
    host[host_length] = '\0';
    memcpy(guest, colon + 1, guest_length);
    guest[guest_length] = '\0';
    KELPIE_ASSERT(guest[0] == '/');
    kelpie_config_add_share(config, host, guest, NULL, has_access && end[2] == 'o');
    return true;
}

static bool set_shares(struct kelpie_cli *cli, struct kelpie_config *config) {
    bool is_good = true;
    KELPIE_ASSERT(cli->options.share_count <= KELPIE_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < cli->options.share_count; i += 1) {
        KELPIE_ASSERT(cli->options.shares[i] != NULL);
        is_good = set_share(cli, config, cli->options.shares[i]) && is_good;
    }
    return is_good;
}

/* False: one of them is not good, which was reported. */
static bool set_texts(struct kelpie_cli *cli, struct kelpie_config *config) {
    const struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT(options->environment_count == 0 || options->environment != NULL);
    bool is_good = set_accelerator(cli, config);
    is_good = set_backend(cli, config) && is_good;
    is_good = set_channel(cli, config) && is_good;
    is_good = set_shares(cli, config) && is_good;
    if (options->root != NULL) {
        if (set_path(cli, "root", options->root, cli->root_path)) {
            kelpie_config_set_root(config, cli->root_path);
        } else {
            is_good = false;
        }
    }
    if (options->kernel != NULL) {
        if (set_path(cli, "kernel", options->kernel, cli->kernel_path)) {
            kelpie_config_set_kernel(config, cli->kernel_path);
        } else {
            is_good = false;
        }
    }
    if (options->snapshot != NULL) {
        kelpie_config_set_snapshot(config, options->snapshot);
    }
    /* In run, environment and directory are the command's own. */
    bool is_run = cli->verb->bit == KELPIE_CLI_RUN;
    if (options->working_directory != NULL && !is_run) {
        kelpie_config_set_working_directory(config, options->working_directory);
    }
    for (uint32_t i = 0; i < options->environment_count && !is_run; i += 1) {
        kelpie_config_add_environment(config, options->environment[i]);
    }
    return is_good;
}

static void set_numbers(const struct kelpie_cli_options *options, struct kelpie_config *config) {
    KELPIE_ASSERT(options->given != 0 || options->cpus == KELPIE_CLI_UNSET);
    if (options->cpus != KELPIE_CLI_UNSET) {
        kelpie_config_set_cpus(config, options->cpus);
    }
    if (options->memory_mib != KELPIE_CLI_UNSET) {
        kelpie_config_set_memory_mib(config, options->memory_mib);
    }
    if (options->disk_size_mib != KELPIE_CLI_UNSET) {
        kelpie_config_set_disk_size_mib(config, options->disk_size_mib);
    }
    if (options->boot_timeout_ms != KELPIE_CLI_UNSET) {
        kelpie_config_set_boot_timeout_ms(config, options->boot_timeout_ms);
    }
    kelpie_config_set_read_only(config, options->is_read_only);
    kelpie_config_set_overcommit(config, options->allows_overcommit);
    kelpie_config_set_template(config, !options->avoids_template);
}

/* All problems, not the first only. */
static int report_problems(struct kelpie_cli *cli, const struct kelpie_config *config,
                           const struct kelpie_error *error) {
    size_t count = kelpie_config_problem_count(config);
    KELPIE_ASSERT(error->code < 0);
    for (size_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(kelpie_config_problem(config, i) != NULL);
        kelpie__ignore(kelpie__cli_fail_error(cli, kelpie_config_problem(config, i)));
    }
    return count > 0 ? KELPIE_CLI_FAILED : kelpie__cli_fail_error(cli, error);
}

/* Reports all that is wrong with it. 0, or the exit code. */
static int fill_config(struct kelpie_cli *cli, struct kelpie_config *config) {
    struct kelpie_error error = {0};
    bool is_run = cli->verb->bit == KELPIE_CLI_RUN;
    bool is_owned = is_run && !cli->options.is_detached;
    KELPIE_ASSERT((cli->verb->bit & (KELPIE_CLI_RUN | KELPIE_CLI_CREATE | KELPIE_CLI_POOL)) != 0);
    kelpie_config_set_lifetime(config, is_owned ? KELPIE_LIFETIME_OWNED : KELPIE_LIFETIME_DETACHED);
    kelpie_config_set_ephemeral(config, is_owned);
    set_numbers(&cli->options, config);
    int code = set_texts(cli, config) ? KELPIE_CLI_OK : KELPIE_CLI_FAILED;
    if (kelpie_config_check(config, &error) < 0) {
        code = report_problems(cli, config, &error);
    }
    return code;
}

int kelpie__cli_make_config(struct kelpie_cli *cli, struct kelpie_config **out) {
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_config_create(cli->kelpie, &config, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    int code = fill_config(cli, config);
    if (code == KELPIE_CLI_OK) {
        *out = config;
        KELPIE_ASSERT(config != NULL);
    } else {
        kelpie_config_destroy(config);
    }
    return code;
}

int kelpie__cli_make_vm(struct kelpie_cli *cli, const char *name, struct kelpie_vm **out) {
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    KELPIE_ASSERT(*out == NULL);
    int code = kelpie__cli_make_config(cli, &config);
    if (code == KELPIE_CLI_OK && kelpie_vm_create(cli->kelpie, name, config, out, &error) < 0) {
        code = kelpie__cli_fail_error(cli, &error);
    }
    kelpie_config_destroy(config);
    KELPIE_ASSERT((code == KELPIE_CLI_OK) == (*out != NULL));
    return code;
}

void kelpie__cli_delete_vm(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(vm != NULL);
    if (kelpie_vm_delete(vm, true, &error) < 0) { /* of an owned one its monitor does it, too */
        kelpie__cli_note(cli, "delete VM \"%s\": %s", kelpie_vm_name(vm), error.message);
    }
    kelpie_vm_close(vm);
}

int kelpie__cli_give_vm(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    KELPIE_ASSERT(vm != NULL);
    kelpie__cli_print(cli, "%s\n", kelpie_vm_name(vm));
    if (!kelpie__cli_is_told(cli)) {
        kelpie__cli_delete_vm(cli, vm);
        return KELPIE_CLI_FAILED;
    }
    kelpie_vm_close(vm);
    return KELPIE_CLI_OK;
}
