/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The built-in userland as an EROFS image, for a VMM that takes no initramfs: laid out in a
 * directory beside the image, packed, and removed. What a killed process left there goes with the
 * next one's.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pack/pack.h"

#define BUILTIN_PREFIX ".builtin-"

struct builtin {
    int directory;
};

static int builtin_write_file(int directory, const struct kelpie_pack_entry *entry) {
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(entry->bytes != NULL || entry->count == 0);
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
    KELPIE_ASSERT(entry->name[0] != '/');
    KELPIE_ASSERT(builtin->directory >= 0);
    switch (entry->mode & S_IFMT) {
    case S_IFDIR:
        status = mkdirat(builtin->directory, entry->name, 0700);
        if (status == 0) {
            KELPIE_ASSERT(entry->count == 0);
            status = fchmodat(builtin->directory, entry->name, entry->mode & 07777, 0);
        }
        break;
    case S_IFLNK:
        KELPIE_ASSERT(((const char *)entry->bytes)[entry->count] == '\0');
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
    KELPIE_ASSERT(strstr(path, "/" BUILTIN_PREFIX) != NULL); /* all below it goes */
    if (walk == NULL) {
        return; /* out of memory: the next one finds it */
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

/* "DIRECTORY/.builtin-PID" of a process that has ended. */
static bool builtin_is_left(const char *name) {
    char *end = NULL;
    if (strncmp(name, BUILTIN_PREFIX, strlen(BUILTIN_PREFIX)) != 0) {
        return false;
    }
    long pid = strtol(name + strlen(BUILTIN_PREFIX), &end, 10);
    KELPIE_ASSERT(end != NULL);
    KELPIE_ASSERT(end >= name + strlen(BUILTIN_PREFIX));
    return pid > 0 && *end == '\0' && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

static void builtin_remove_left(const char *directory) {
    KELPIE_ASSERT(directory[0] == '/');
    DIR *listing = opendir(directory);
    if (listing == NULL) {
        return;
    }
    const struct dirent *entry = readdir(listing);
    for (; entry != NULL; entry = readdir(listing)) { /* bound: the directory's entries */
        char path[4096];
        int length = snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        if (builtin_is_left(entry->d_name) && length > 0 && (size_t)length < sizeof(path)) {
            builtin_remove(path);
        }
    }
    closedir(listing);
}

static int builtin_make_place(const char *image, char *out, size_t capacity) {
    struct kelpie_pack_output output;
    int status = kelpie__pack_output_open(&output, image); /* makes the directories above it */
    KELPIE_ASSERT(image[0] == '/');
    KELPIE_ASSERT(capacity > sizeof(BUILTIN_PREFIX));
    kelpie__pack_output_close(&output);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    size_t length = (size_t)(strrchr(image, '/') - image);
    if (length == 0) { /* what is laid out beside it would lie in / */
        return kelpie__pack_fail(0, "\"%s\" is in no directory of its own", image);
    }
    int written = snprintf(out, capacity, "%.*s", (int)length, image);
    if (written > 0 && (size_t)written < capacity) {
        builtin_remove_left(out);
        written = snprintf(out, capacity, "%.*s/" BUILTIN_PREFIX "%ld", (int)length, image,
                           (long)getpid());
    }
    if (written < 0 || (size_t)written >= capacity) {
        return kelpie__pack_fail(ENAMETOOLONG, "\"%s\"", image);
    }
    return mkdir(out, 0700) < 0 ? kelpie__pack_fail(errno, "make \"%s\"", out) : KELPIE_PACK_OK;
}

int kelpie__pack_builtin(int argc, char **argv) {
    char path[4096];
    if (argc != 3 || argv[2][0] != '/') {
        return KELPIE_PACK_USAGE;
    }
    int status = kelpie__pack_check_static(argv[1], "busybox-static");
    if (status == KELPIE_PACK_OK) {
        status = builtin_make_place(argv[2], path, sizeof(path));
    }
    if (status != KELPIE_PACK_OK) {
        return status;
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
    KELPIE_ASSERT(path[0] == '/');
    builtin_remove(path);
    return status;
}
