/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The built-in userland as an EROFS image, for a VMM that takes no initramfs: laid out in a
 * directory of its own, packed, and removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pack/pack.h"

struct builtin {
    int directory;
};

static int builtin_write_file(int directory, const struct kelpie_pack_entry *entry) {
    int file = openat(directory, entry->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) {
        return kelpie__pack_fail(errno, "make \"%s\"", entry->name);
    }
    bool is_written = kelpie__pack_write(file, entry->bytes, entry->count) &&
                      ftruncate(file, (off_t)entry->count) == 0 &&
                      fchmod(file, entry->mode & 07777) == 0;
    int error_number = errno;
    close(file);
    return is_written ? KELPIE_PACK_OK
                      : kelpie__pack_fail(error_number, "write \"%s\"", entry->name);
}

static int builtin_add(void *context, const struct kelpie_pack_entry *entry) {
    const struct builtin *builtin = context;
    int status = 0;
    KELPIE_ASSERT(builtin->directory >= 0);
    switch (entry->mode & S_IFMT) {
    case S_IFDIR:
        status = mkdirat(builtin->directory, entry->name, 0700);
        if (status == 0) {
            status = fchmodat(builtin->directory, entry->name, entry->mode & 07777, 0);
        }
        break;
    case S_IFLNK:
        status = symlinkat(entry->bytes, builtin->directory, entry->name);
        break;
    default:
        return builtin_write_file(builtin->directory, entry);
    }
    return status < 0 ? kelpie__pack_fail(errno, "make \"%s\"", entry->name) : KELPIE_PACK_OK;
}

static void builtin_remove(char *path) {
    char *paths[] = {path, NULL};
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    KELPIE_ASSERT(path[0] == '/');
    if (walk == NULL) {
        return; /* out of memory: it lies in the cache's temporary place */
    }
    const FTSENT *entry = fts_read(walk);
    for (; entry != NULL; entry = fts_read(walk)) { /* bound: the tree that was made above */
        if (entry->fts_info == FTS_D) {
            kelpie__ignore(chmod(entry->fts_accpath, 0700));
        } else {
            kelpie__ignore(remove(entry->fts_accpath));
        }
    }
    fts_close(walk);
}

int kelpie__pack_builtin(int argc, char **argv) {
    char path[] = "/tmp/kelpie-builtin-XXXXXX";
    if (argc != 3) {
        return KELPIE_PACK_USAGE;
    }
    int status = kelpie__pack_check_static(argv[1], "busybox-static");
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    if (mkdtemp(path) == NULL) {
        return kelpie__pack_fail(errno, "make a directory in /tmp");
    }
    struct builtin builtin = {.directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    const struct kelpie_pack_sink sink = {.add = builtin_add, .context = &builtin};
    if (builtin.directory < 0) {
        status = kelpie__pack_fail(errno, "open \"%s\"", path);
    } else {
        status = kelpie__pack_userland(&sink, argv[1]);
        close(builtin.directory);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_root_make(path, argv[2]);
    }
    builtin_remove(path);
    return status;
}
