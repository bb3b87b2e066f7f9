/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A directory as an EROFS image, made once for each state of the directory. The state is what a
 * walk sees of every file (name, kind, mode, owner, size, times); reading all content to know that
 * nothing changed would take longer than packing.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/hash.h"
#include "pack/pack.h"

#define ROOT_FORMAT 1u
#define ROOT_TRIES 3 /* a directory that changes while it is packed is packed again */
#define ROOT_OUTPUT_BYTES 8192u
/* Kernels stamp files with the time of the last timer tick, at most 10 ms ago. */
#define ROOT_TICK_NS 20000000

static_assert(ROOT_TICK_NS >= 10000000, "the slowest kernels tick each 10 ms");

static int root_compare(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void root_hash_time(struct kelpie_hash *hash, const struct timespec *time) {
    kelpie__hash_u64(hash, (uint64_t)time->tv_sec);
    kelpie__hash_u64(hash, (uint64_t)time->tv_nsec);
}

static void root_hash_entry(struct kelpie_hash *hash, const FTSENT *entry, size_t prefix) {
    const struct stat *stat = entry->fts_statp;
    KELPIE_ASSERT(prefix <= strlen(entry->fts_path));
    kelpie__hash_text(hash, entry->fts_path + prefix);
    kelpie__hash_u64(hash, stat->st_mode);
    kelpie__hash_u64(hash, stat->st_uid);
    kelpie__hash_u64(hash, stat->st_gid);
    kelpie__hash_u64(hash, stat->st_rdev);
    kelpie__hash_u64(hash, stat->st_nlink);
    kelpie__hash_u64(hash, S_ISDIR(stat->st_mode) ? 0 : (uint64_t)stat->st_size);
    root_hash_time(hash, &stat->st_mtim);
    root_hash_time(hash, &stat->st_ctim);
}

static int64_t root_time_ns(const struct timespec *time) {
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* The state of the directory as a key, and when it last changed. */
static int root_hash(const char *directory, char out[KELPIE_HASH_CHARACTERS + 1],
                     int64_t *out_changed_ns) {
    int64_t changed_ns = INT64_MIN;
    char *paths[] = {(char *)(uintptr_t)directory, NULL};
    struct kelpie_hash hash;
    int status = KELPIE_PACK_OK;
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, root_compare);
    if (walk == NULL) {
        return kelpie__pack_fail(errno, "read directory \"%s\"", directory);
    }
    kelpie__hash_init(&hash);
    kelpie__hash_u64(&hash, ROOT_FORMAT);
    kelpie__hash_u64(&hash, geteuid() == 0 ? 1 : 0); /* who packs is the owner of everything */
    size_t prefix = strlen(directory);
    KELPIE_ASSERT(prefix > 0);
    const FTSENT *entry = fts_read(walk);
    for (; entry != NULL && status == KELPIE_PACK_OK;
         entry = fts_read(walk)) { /* bound: the tree */
        bool is_error =
            entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS;
        if (is_error) {
            status = kelpie__pack_fail(entry->fts_errno, "read \"%s\"", entry->fts_path);
        } else if (entry->fts_info != FTS_DP) {
            int64_t entry_ns = root_time_ns(&entry->fts_statp->st_ctim);
            changed_ns = entry_ns > changed_ns ? entry_ns : changed_ns;
            root_hash_entry(&hash, entry, prefix);
        }
    }
    fts_close(walk);
    kelpie__hash_hex(&hash, out);
    KELPIE_ASSERT(strlen(out) == KELPIE_HASH_CHARACTERS);
    *out_changed_ns = changed_ns;
    return status;
}

/* A file that changed within the last tick may change again under the same times; waits until what
 * is read now can no longer be mistaken for what is read later. True: it waited, hash again. */
static bool root_wait_for_tick(int64_t changed_ns, int64_t hashed_ns) {
    const struct timespec tick = {.tv_nsec = ROOT_TICK_NS};
    if (changed_ns < hashed_ns - ROOT_TICK_NS || changed_ns > hashed_ns + ROOT_TICK_NS) {
        return false; /* long ago, or in the future, where waiting does not help */
    }
    kelpie__ignore(nanosleep(&tick, NULL)); /* a signal ends it early, and it is repeated */
    return true;
}

/* The state once it is settled; a directory that never settles is found out later. */
static int root_hash_settled(const char *directory, char out[KELPIE_HASH_CHARACTERS + 1]) {
    int status = KELPIE_PACK_OK;
    bool is_settled = false;
    for (int i = 0; i < ROOT_TRIES && status == KELPIE_PACK_OK && !is_settled; i += 1) {
        struct timespec now = {0};
        int64_t changed_ns = 0;
        kelpie__ignore(clock_gettime(CLOCK_REALTIME, &now)); /* cannot fail for this clock */
        status = root_hash(directory, out, &changed_ns);
        is_settled =
            status != KELPIE_PACK_OK || !root_wait_for_tick(changed_ns, root_time_ns(&now));
    }
    KELPIE_ASSERT(status != KELPIE_PACK_OK || strlen(out) == KELPIE_HASH_CHARACTERS);
    return status;
}

/* mkfs.erofs says that it may not read a file, but not which. Root may read all of them. */
static int root_check_readable(const char *directory) {
    char *paths[] = {(char *)(uintptr_t)directory, NULL};
    int status = KELPIE_PACK_OK;
    FTS *walk = geteuid() == 0 ? NULL : fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (walk == NULL) {
        return KELPIE_PACK_OK; /* mkfs.erofs finds out what is wrong */
    }
    const FTSENT *entry = fts_read(walk);
    for (; entry != NULL && status == KELPIE_PACK_OK;
         entry = fts_read(walk)) { /* bound: the tree */
        if (entry->fts_info == FTS_F && access(entry->fts_accpath, R_OK) < 0) {
            status = kelpie__pack_fail(errno, "read \"%s\"", entry->fts_path);
        }
    }
    fts_close(walk);
    return status;
}

int kelpie__pack_root_make(const char *directory, const char *path) {
    char text[ROOT_OUTPUT_BYTES];
    struct kelpie_pack_output output;
    int status = root_check_readable(directory);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    status = kelpie__pack_output_open(&output, path);
    const char *argv[12] = {"mkfs.erofs", "--quiet", "-T0",
                            "-x1",        "-U",      "00000000-0000-0000-0000-000000000000"};
    size_t count = 6;
    if (geteuid() != 0) {
        argv[count] = "--all-root";
        count += 1;
    }
    argv[count] = output.path;
    argv[count + 1] = directory;
    KELPIE_ASSERT(argv[count + 2] == NULL);
    KELPIE_ASSERT(count + 2 < KELPIE_ARRAY_COUNT(argv));
    const struct kelpie_pack_run run = {.argv = argv,
                                        .package = "erofs-utils",
                                        .passed_file = output.file,
                                        .output = text,
                                        .output_capacity = sizeof(text)};
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_run(&run);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_output_commit(&output);
    }
    kelpie__pack_output_close(&output);
    KELPIE_ASSERT(output.file < 0);
    return status;
}

static int root_check(const char *directory) {
    struct stat stat_result;
    if (stat(directory, &stat_result) < 0) {
        return kelpie__pack_fail(errno, "root \"%s\"", directory);
    }
    if (!S_ISDIR(stat_result.st_mode)) {
        return kelpie__pack_fail(0, "root \"%s\" is not a directory", directory);
    }
    return KELPIE_PACK_OK;
}

/* One attempt. *out_is_stable is false when the directory changed meanwhile. */
static int root_try(const char *directory, const char *cache, char *out_path, size_t capacity,
                    bool *out_is_stable) {
    char key[KELPIE_HASH_CHARACTERS + 1];
    char key_after[KELPIE_HASH_CHARACTERS + 1];
    int64_t changed_ns = 0;
    KELPIE_ASSERT(capacity > KELPIE_HASH_CHARACTERS);
    int status = root_hash_settled(directory, key);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    int length = snprintf(out_path, capacity, "%s/%s.erofs", cache, key);
    if (length < 0 || (size_t)length >= capacity) {
        return kelpie__pack_fail(ENAMETOOLONG, "\"%s\"", cache);
    }
    *out_is_stable = true;
    KELPIE_ASSERT(length > (int)KELPIE_HASH_CHARACTERS);
    /* Touched, so that pruning sees that it is used; a cache that is read-only is not pruned. */
    if (utimensat(AT_FDCWD, out_path, NULL, 0) == 0 || access(out_path, R_OK) == 0) {
        return KELPIE_PACK_OK;
    }
    status = kelpie__pack_root_make(directory, out_path);
    if (status == KELPIE_PACK_OK) {
        status = root_hash(directory, key_after, &changed_ns);
    }
    if (status == KELPIE_PACK_OK && strcmp(key, key_after) != 0) {
        *out_is_stable = false;
        kelpie__ignore(unlink(out_path)); /* a mixture of two states */
    }
    return status;
}

int kelpie__pack_root(int argc, char **argv) {
    char path[4096];
    if (argc != 3) {
        return KELPIE_PACK_USAGE;
    }
    int status = root_check(argv[1]);
    bool is_stable = false;
    for (int i = 0; i < ROOT_TRIES && status == KELPIE_PACK_OK && !is_stable; i += 1) {
        status = root_try(argv[1], argv[2], path, sizeof(path), &is_stable);
    }
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    if (!is_stable) {
        return kelpie__pack_fail(0, "root \"%s\" changes while it is packed; pack a copy of it",
                                 argv[1]);
    }
    KELPIE_ASSERT(path[0] != '\0');
    printf("%s\n", path);
    return KELPIE_PACK_OK;
}
