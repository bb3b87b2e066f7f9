/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Keeps a folder of the cache within its limits, whenever something was added to it. Only files
 * whose names are keys are looked at, so that nobody's own file beside them is ever removed. What a
 * running VM has open lives on; what is wanted again is made again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/hash.h"
#include "pack/pack.h"

#define PRUNE_FILES_MAX 4096u
#define PRUNE_SUFFIX_BYTES 16u
#define PRUNE_MIB (1024ull * 1024u)
/* Between the answer "it is there" and the VMM's opening it lie milliseconds; an hour is safe. */
#define PRUNE_KEPT_S 3600
#define PRUNE_UNUSED_S (30 * 24 * 3600)

struct prune_limit {
    const char *suffix;
    uint64_t bytes_max; /* of all files with it */
};

static const struct prune_limit prune_limits[] = {
    {".vmlinux", 1024 * PRUNE_MIB},     /* 60 MiB each */
    {".cpio", 256 * PRUNE_MIB},         /* 3 MiB each */
    {".erofs", 16u * 1024 * PRUNE_MIB}, /* as large as the directories are */
};

struct prune_file {
    char name[KELPIE_HASH_CHARACTERS + PRUNE_SUFFIX_BYTES];
    int64_t used_s;
    uint64_t bytes;
};

static_assert(PRUNE_KEPT_S < PRUNE_UNUSED_S, "what is in use is not unused");

static bool prune_is_key(const char *name) {
    return strspn(name, "0123456789abcdef") == KELPIE_HASH_CHARACTERS;
}

/* The limit of files like this one; NULL: it is not of the cache. */
static const struct prune_limit *prune_limit_of(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(prune_limits) && prune_is_key(name); i += 1) {
        KELPIE_ASSERT(strlen(prune_limits[i].suffix) < PRUNE_SUFFIX_BYTES);
        KELPIE_ASSERT(prune_limits[i].bytes_max > 0);
        if (strcmp(name + KELPIE_HASH_CHARACTERS, prune_limits[i].suffix) == 0) {
            return &prune_limits[i];
        }
    }
    return NULL;
}

/* Of a temporary name, ".KEY.SUFFIX.PID" or ".KEY.SUFFIX.PID.TRY": by the clock alone, one that
 * jumps would take what is being written for old. */
static bool prune_maker_lives(const char *name) {
    const char *suffix = name + 1 + KELPIE_HASH_CHARACTERS;
    const char *digits = suffix[0] == '.' ? strchr(suffix + 1, '.') : NULL;
    KELPIE_ASSERT(name[0] == '.');
    long pid = digits == NULL ? 0 : strtol(digits + 1, NULL, 10);
    KELPIE_ASSERT(prune_is_key(name + 1));
    return pid > 0 && pid <= INT32_MAX && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

/* A temporary name of output.c, on a file system without O_TMPFILE, whose maker was killed. */
static bool prune_is_abandoned(const char *name, int64_t age_s) {
    return name[0] == '.' && prune_is_key(name + 1) && age_s > PRUNE_KEPT_S &&
           !prune_maker_lives(name);
}

static int prune_compare(const void *a, const void *b) {
    const struct prune_file *first = a;
    const struct prune_file *second = b;
    if (first->used_s != second->used_s) {
        return first->used_s > second->used_s ? -1 : 1; /* last used first */
    }
    return strcmp(first->name, second->name);
}

/* Lists the files under one limit and removes what was abandoned. */
static size_t prune_list(DIR *folder, const struct prune_limit *limit, int64_t now_s,
                         struct prune_file *out) {
    size_t count = 0;
    const struct dirent *entry = readdir(folder);
    for (; entry != NULL && count < PRUNE_FILES_MAX; entry = readdir(folder)) {
        struct stat stat;
        if (fstatat(dirfd(folder), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(stat.st_mode)) {
            continue;
        }
        int64_t used_s = stat.st_atime > stat.st_mtime ? stat.st_atime : stat.st_mtime;
        if (prune_is_abandoned(entry->d_name, now_s - stat.st_mtime)) {
            kelpie__ignore(unlinkat(dirfd(folder), entry->d_name, 0)); /* another one was first */
        }
        if (prune_limit_of(entry->d_name) == limit) {
            KELPIE_ASSERT(strlen(entry->d_name) < sizeof(out[count].name));
            memcpy(out[count].name, entry->d_name, strlen(entry->d_name) + 1);
            out[count].used_s = used_s;
            out[count].bytes = (uint64_t)stat.st_blocks * 512;
            count += 1;
        }
    }
    KELPIE_ASSERT(count <= PRUNE_FILES_MAX);
    return count;
}

void kelpie__pack_prune(int directory, const char *made) {
    KELPIE_ASSERT(directory >= 0);
    const struct prune_limit *limit = prune_limit_of(made);
    if (limit == NULL) {
        return;
    }
    int listed = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = listed < 0 ? NULL : fdopendir(listed);
    struct prune_file *files = calloc(PRUNE_FILES_MAX, sizeof(*files));
    if (folder != NULL && files != NULL) {
        int64_t now_s = time(NULL);
        uint64_t bytes = 0;
        size_t count = prune_list(folder, limit, now_s, files);
        KELPIE_ASSERT(count <= PRUNE_FILES_MAX);
        qsort(files, count, sizeof(*files), prune_compare);
        for (size_t i = 0; i < count; i += 1) {
            int64_t age_s = now_s - files[i].used_s;
            bytes += files[i].bytes;
            bool is_over = bytes > limit->bytes_max || age_s > PRUNE_UNUSED_S;
            if (is_over && age_s > PRUNE_KEPT_S && strcmp(files[i].name, made) != 0) {
                kelpie__ignore(unlinkat(directory, files[i].name, 0)); /* then it stays */
            }
        }
    }
    free(files);
    if (folder != NULL) {
        closedir(folder);
    } else if (listed >= 0) {
        close(listed);
    }
}
