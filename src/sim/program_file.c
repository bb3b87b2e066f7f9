/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of guests that change the file system: touch, ls, rm, mkdir, rmdir, mv, cp, chmod, sync.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "sim/text_buffer.h"

#define FILE_NAME_BYTES 256u
#define FILE_LIST_MAX 512u

static int file_fail(const struct sim_stdio *io, const char *path, int status) {
    KELPIE_ASSERT(status < 0);
    kelpie__sim_complain(io, "%s: %s", path, kelpie__sim_errno_text(status));
    return 1;
}

static int file_touch(const struct sim_stdio *io, int argc, char **argv) {
    int code = 0;
    for (int i = 1; i < argc; i += 1) {
        int handle = kelpie__os_open(
            io->os, KELPIE_OS_CWD, argv[i],
            KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_FOLLOW, 0644);
        if (handle < 0) {
            code = file_fail(io, argv[i], handle);
        } else {
            kelpie__ignore(kelpie__os_close(io->os, handle)); /* nothing was written */
        }
    }
    return code;
}

/* ---- ls -------------------------------------------------------------------------------------- */

struct ls_list {
    char (*names)[FILE_NAME_BYTES];
    uint32_t count;
};

static int ls_read(const struct sim_stdio *io, int directory, struct ls_list *out) {
    uint64_t cursor = 0;
    int status = 1;
    while (status > 0 && out->count < FILE_LIST_MAX) {
        char *name = out->names[out->count];
        status = kelpie__os_list(io->os, directory, &cursor, name, FILE_NAME_BYTES);
        bool is_shown = status > 0 && name[0] != '.';
        out->count += is_shown ? 1 : 0;
    }
    /* by insertion: directories of tests are small */
    for (uint32_t i = 1; i < out->count; i += 1) {
        char name[FILE_NAME_BYTES];
        memcpy(name, out->names[i], sizeof(name));
        uint32_t at = i;
        for (; at > 0 && strcmp(out->names[at - 1], name) > 0; at -= 1) {
            memcpy(out->names[at], out->names[at - 1], sizeof(name));
        }
        memcpy(out->names[at], name, sizeof(name));
    }
    return status < 0 ? status : 0;
}

static int ls_path(const struct sim_stdio *io, const char *path) {
    struct kelpie_os_stat stat;
    struct sim_text_buffer buffer;
    struct ls_list list = {0};
    int status = kelpie__os_stat(io->os, KELPIE_OS_CWD, path, true, &stat);
    if (status < 0) {
        return file_fail(io, path, status);
    }
    kelpie__sim_text_begin(&buffer, io);
    if (stat.kind != KELPIE_OS_KIND_DIRECTORY) {
        kelpie__sim_text_add(&buffer, path, strlen(path));
        kelpie__sim_text_byte(&buffer, '\n');
        return kelpie__sim_text_end(&buffer) ? 0 : 1;
    }
    int directory = kelpie__os_open(io->os, KELPIE_OS_CWD, path,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return file_fail(io, path, directory);
    }
    list.names = kelpie__alloc(io->os, (size_t)FILE_LIST_MAX * FILE_NAME_BYTES);
    status = list.names == NULL ? -ENOMEM : ls_read(io, directory, &list);
    for (uint32_t i = 0; i < list.count; i += 1) {
        kelpie__sim_text_add(&buffer, list.names[i], strlen(list.names[i]));
        kelpie__sim_text_byte(&buffer, '\n');
    }
    kelpie__free(io->os, list.names, (size_t)FILE_LIST_MAX * FILE_NAME_BYTES);
    kelpie__ignore(kelpie__os_close(io->os, directory)); /* it was only read */
    bool is_written = kelpie__sim_text_end(&buffer);
    return status < 0 ? file_fail(io, path, status) : is_written ? 0 : 1;
}

static int file_ls(const struct sim_stdio *io, int argc, char **argv) {
    int code = 0;
    int count = 0;
    for (int i = 1; i < argc; i += 1) {
        if (argv[i][0] != '-') {
            code |= ls_path(io, argv[i]);
            count += 1;
        }
    }
    return count == 0 ? ls_path(io, ".") : code;
}

/* ---- rm -------------------------------------------------------------------------------------- */

/* The first name in a directory: 1, 0 when it is empty, or negative. */
static int rm_first(const struct sim_stdio *io, const char *path, char out[FILE_NAME_BYTES]) {
    uint64_t cursor = 0;
    int directory = kelpie__os_open(io->os, KELPIE_OS_CWD, path,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return directory;
    }
    int status = kelpie__os_list(io->os, directory, &cursor, out, FILE_NAME_BYTES);
    kelpie__ignore(kelpie__os_close(io->os, directory)); /* it was only read */
    return status;
}

/* Down to what has no child, away with it, and up again. */
static int rm_tree(const struct sim_stdio *io, const char *path) {
    char at[SIM_PROGRAM_BUFFER_BYTES / 2];
    char name[FILE_NAME_BYTES];
    size_t root_length = strlen(path);
    if (!kelpie__text_copy(at, sizeof(at), path)) {
        return -ENAMETOOLONG;
    }
    for (uint32_t i = 0; i < 100000; i += 1) {
        struct kelpie_os_stat stat;
        int status = kelpie__os_stat(io->os, KELPIE_OS_CWD, at, false, &stat);
        bool is_directory = status == 0 && stat.kind == KELPIE_OS_KIND_DIRECTORY;
        int child = is_directory ? rm_first(io, at, name) : 0;
        size_t length = strlen(at);
        if (child > 0) {
            bool fits = length + strlen(name) + 2 < sizeof(at);
            if (!fits) {
                return -ENAMETOOLONG;
            }
            at[length] = '/';
            memcpy(at + length + 1, name, strlen(name) + 1);
            continue;
        }
        status = status < 0 ? status : kelpie__os_unlink(io->os, KELPIE_OS_CWD, at, is_directory);
        if (status < 0 || length <= root_length) {
            return status;
        }
        *strrchr(at, '/') = '\0';
    }
    return -ELOOP;
}

static int file_rm(const struct sim_stdio *io, int argc, char **argv) {
    bool is_forced = false;
    bool is_recursive = false;
    int code = 0;
    for (int i = 1; i < argc; i += 1) {
        const char *path = argv[i];
        if (path[0] == '-' && path[1] != '\0') {
            is_forced = is_forced || strchr(path, 'f') != NULL;
            is_recursive = is_recursive || strchr(path, 'r') != NULL || strchr(path, 'R') != NULL;
            continue;
        }
        int status = is_recursive ? rm_tree(io, path)
                                  : kelpie__os_unlink(io->os, KELPIE_OS_CWD, path, false);
        if (status < 0 && !(is_forced && status == -ENOENT)) {
            code = file_fail(io, path, status);
        }
    }
    return code;
}

/* ---- the others ------------------------------------------------------------------------------ */

/* Every directory on the way. */
static int mkdir_parents(const struct sim_stdio *io, const char *path) {
    char at[SIM_PROGRAM_BUFFER_BYTES / 2];
    if (!kelpie__text_copy(at, sizeof(at), path)) {
        return -ENAMETOOLONG;
    }
    int status = 0;
    for (char *slash = strchr(at + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        kelpie__ignore(kelpie__os_mkdir(io->os, KELPIE_OS_CWD, at, 0755)); /* the last one tells */
        *slash = '/';
    }
    status = kelpie__os_mkdir(io->os, KELPIE_OS_CWD, at, 0755);
    return status == -EEXIST ? 0 : status;
}

static int file_mkdir(const struct sim_stdio *io, int argc, char **argv) {
    bool has_parents = argc > 1 && strcmp(argv[1], "-p") == 0;
    int code = 0;
    for (int i = has_parents ? 2 : 1; i < argc; i += 1) {
        int status = has_parents ? mkdir_parents(io, argv[i])
                                 : kelpie__os_mkdir(io->os, KELPIE_OS_CWD, argv[i], 0755);
        code = status < 0 ? file_fail(io, argv[i], status) : code;
    }
    return code;
}

static int file_rmdir(const struct sim_stdio *io, int argc, char **argv) {
    int code = 0;
    for (int i = 1; i < argc; i += 1) {
        int status = kelpie__os_unlink(io->os, KELPIE_OS_CWD, argv[i], true);
        code = status < 0 ? file_fail(io, argv[i], status) : code;
    }
    return code;
}

static int file_mv(const struct sim_stdio *io, int argc, char **argv) {
    if (argc != 3) {
        kelpie__sim_complain(io, "usage: mv FROM TO");
        return 1;
    }
    int status = kelpie__os_rename(io->os, KELPIE_OS_CWD, argv[1], KELPIE_OS_CWD, argv[2], true);
    return status < 0 ? file_fail(io, argv[1], status) : 0;
}

static int file_cp(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    const char *bytes = NULL;
    if (argc != 3) {
        kelpie__sim_complain(io, "usage: cp FROM TO");
        return 1;
    }
    int from = kelpie__sim_open_input(io, argv[1]);
    if (from < 0) {
        return 1;
    }
    int to = kelpie__os_open(io->os, KELPIE_OS_CWD, argv[2],
                             KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                 KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                             0644);
    int status = to < 0 ? to : 0;
    kelpie__sim_input_begin(&input, io->os, from);
    size_t count = status < 0 ? 0 : kelpie__sim_input_next(&input, &bytes);
    while (count > 0 && status == 0) {
        status = kelpie__sim_write_all(io->os, to, bytes, count);
        count = kelpie__sim_input_next(&input, &bytes);
    }
    kelpie__sim_close_input(io, from);
    if (to >= 0) {
        kelpie__ignore(kelpie__os_close(io->os, to)); /* a guest's files are memory */
    }
    return status < 0 ? file_fail(io, argv[2], status) : 0;
}

static int file_chmod(const struct sim_stdio *io, int argc, char **argv) {
    int code = 0;
    if (argc < 3) {
        kelpie__sim_complain(io, "usage: chmod MODE FILE...");
        return 1;
    }
    bool is_octal = argv[1][0] >= '0' && argv[1][0] <= '7';
    uint32_t octal = 0;
    for (const char *at = argv[1]; is_octal && *at >= '0' && *at <= '7'; at += 1) {
        octal = octal * 8 + (uint32_t)(*at - '0');
    }
    for (int i = 2; i < argc; i += 1) {
        struct kelpie_os_stat stat;
        int status = kelpie__os_stat(io->os, KELPIE_OS_CWD, argv[i], true, &stat);
        if (status == 0) {
            uint32_t mode = is_octal                     ? octal
                            : strcmp(argv[1], "-x") == 0 ? stat.mode & ~0111u
                                                         : stat.mode | 0111u;
            status = kelpie__sim_program_chmod(io->os, argv[i], mode & 07777);
        }
        code = status < 0 ? file_fail(io, argv[i], status) : code;
    }
    return code;
}

static int file_sync(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    return kelpie__os_sync_all(io->os) < 0 ? 1 : 0;
}

const struct sim_program_entry kelpie__sim_programs_file[] = {
    {"touch", file_touch}, {"ls", file_ls},       {"rm", file_rm},       {"mkdir", file_mkdir},
    {"mv", file_mv},       {"rmdir", file_rmdir}, {"chmod", file_chmod}, {"cp", file_cp},
    {"sync", file_sync},   {NULL, NULL},
};
