/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie snapshot export and import: one stream, through a pipe or a file. A file takes its name
 * when it is whole.
 */
#include "cli/snapshot.h"

#include "core/text.h"
#include "os/os_call.h"

#define TRANSFER_FILE_MODE 0600u
#define TRANSFER_PART_SUFFIX ".part"

/* The word at this place, made absolute; "" when it is missing or "-". */
static bool transfer_path(struct kelpie_cli *cli, uint32_t place, char *out, size_t capacity) {
    const char *path = cli->word_count > place ? cli->words[place] : "-";
    KELPIE_ASSERT(capacity > 0);
    if (kelpie__text_equal(path, "-")) {
        out[0] = '\0';
        return true;
    }
    if (path[0] == '\0' || !kelpie__cli_absolute(cli, path, out, capacity)) {
        kelpie__ignore(kelpie__cli_fail(cli, "\"%.60s\" is no path of a file", path));
        return false;
    }
    return true;
}

static int transfer_fail(struct kelpie_cli *cli, int status, const char *what, const char *path) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(status < 0);
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_IO, -status, "%s \"%s\"", what, path));
    return kelpie__cli_fail_error(cli, &error);
}

/* ---- export ---------------------------------------------------------------------------------- */

static int export_to(struct kelpie_cli *cli, int handle) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(handle >= 0);
    if (kelpie__os_is_terminal(cli->os, handle)) {
        return kelpie__cli_fail(cli, "a terminal is no place for a snapshot; name a file, or use a "
                                     "pipe");
    }
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    int status = kelpie_snapshot_export(cli->kelpie, cli->words[1], handle, &error);
    return status < 0 ? kelpie__cli_fail_error(cli, &error) : KELPIE_CLI_OK;
}

static int export_finish(struct kelpie_cli *cli, int file, const char *part, const char *path) {
    KELPIE_ASSERT(file >= 0);
    int status = kelpie__os_sync(cli->os, file);
    int closed = kelpie__os_close(cli->os, file);
    status = status < 0 ? status : closed;
    if (status == 0) {
        status = kelpie__os_rename(cli->os, KELPIE_OS_CWD, part, KELPIE_OS_CWD, path, true);
    }
    return status < 0 ? transfer_fail(cli, status, "write", path) : KELPIE_CLI_OK;
}

int kelpie__cli_snapshot_export(struct kelpie_cli *cli) {
    char path[KELPIE_PATH_BYTES_MAX + 1];
    char part[sizeof(path) + sizeof(TRANSFER_PART_SUFFIX)];
    KELPIE_ASSERT(cli->word_count <= 3);
    KELPIE_ASSERT(cli->word_count >= 2);
    if (!transfer_path(cli, 2, path, sizeof(path))) {
        return KELPIE_CLI_FAILED;
    }
    if (path[0] == '\0') {
        return export_to(cli, KELPIE_CLI_STDOUT);
    }
    bool fits = kelpie__text_format(part, sizeof(part), "%s" TRANSFER_PART_SUFFIX, path);
    KELPIE_ASSERT(fits);
    int file = kelpie__os_open(
        cli->os, KELPIE_OS_CWD, part,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE, TRANSFER_FILE_MODE);
    if (file < 0) {
        return transfer_fail(cli, file, "open", part);
    }
    int code = export_to(cli, file);
    if (code == KELPIE_CLI_OK) {
        code = export_finish(cli, file, part, path);
    } else {
        kelpie__ignore(kelpie__os_close(cli->os, file)); /* the first error counts */
    }
    if (code != KELPIE_CLI_OK) {
        kelpie__ignore(kelpie__os_unlink(cli->os, KELPIE_OS_CWD, part, false));
    }
    return code;
}

/* ---- import ---------------------------------------------------------------------------------- */

static int import_from(struct kelpie_cli *cli, int handle) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    const struct kelpie_snapshot_import_options options = {
        .struct_size = sizeof(options),
        .name = cli->options.name,
        .is_trusted = cli->options.is_trusted,
    };
    KELPIE_ASSERT(handle >= 0);
    if (kelpie__os_is_terminal(cli->os, handle)) {
        return kelpie__cli_fail(cli, "a snapshot does not come from a terminal; name a file, or "
                                     "use a pipe");
    }
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_snapshot_import(cli->kelpie, handle, &options, &info, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie__cli_print(cli, "%s\n", info.name);
    return KELPIE_CLI_OK;
}

int kelpie__cli_snapshot_import(struct kelpie_cli *cli) {
    char path[KELPIE_PATH_BYTES_MAX + 1];
    KELPIE_ASSERT(cli->word_count <= 2);
    KELPIE_ASSERT(cli->word_count >= 1);
    if (!transfer_path(cli, 1, path, sizeof(path))) {
        return KELPIE_CLI_FAILED;
    }
    if (path[0] == '\0') {
        return import_from(cli, KELPIE_CLI_STDIN);
    }
    int file = kelpie__os_open(cli->os, KELPIE_OS_CWD, path,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return transfer_fail(cli, file, "open", path);
    }
    int code = import_from(cli, file);
    kelpie__ignore(kelpie__os_close(cli->os, file)); /* it was only read */
    return code;
}
