/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A directory as an EROFS image, made once for each state of the directory. The state is what a
 * walk sees of every file (name, kind, mode, owner, size, times); reading all content to know that
 * nothing changed would take longer than packing.
 */
#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/hash.h"
#include "pack/pack.h"

#define ROOT_FORMAT 1u
#define ROOT_TRIES 3 /* a directory that changes while it is packed is packed again */
#define ROOT_OUTPUT_BYTES 8192u

static int root_compare(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void root_hash_time(struct kelpie_hash *hash, const struct timespec *time) {
    kelpie__hash_u64(hash, (uint64_t)time->tv_sec);
    kelpie__hash_u64(hash, (uint64_t)time->tv_nsec);
}

static void root_hash_entry(struct kelpie_hash *hash, const FTSENT *entry, size_t prefix) {
    const struct stat *stat = entry->fts_statp;
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

/* The state of the directory as a key. */
static int root_hash(const char *directory, char out[KELPIE_HASH_CHARACTERS + 1]) {
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
    const FTSENT *entry = fts_read(walk);
    for (; entry != NULL && status == KELPIE_PACK_OK;
         entry = fts_read(walk)) { /* bound: the tree */
        bool is_error =
            entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS;
        if (is_error) {
            status = kelpie__pack_fail(entry->fts_errno, "read \"%s\"", entry->fts_path);
        } else if (entry->fts_info != FTS_DP) {
            root_hash_entry(&hash, entry, prefix);
        }
    }
    fts_close(walk);
    kelpie__hash_hex(&hash, out);
    return status;
}

static int root_make(const char *directory, const char *path) {
    char text[ROOT_OUTPUT_BYTES];
    struct kelpie_pack_output output;
    int status = kelpie__pack_output_open(&output, path);
    const char *argv[12] = {"mkfs.erofs", "--quiet", "-T0",
                            "-x1",        "-U",      "00000000-0000-0000-0000-000000000000"};
    size_t count = 6;
    if (geteuid() != 0) {
        argv[count] = "--all-root";
        count += 1;
    }
    argv[count] = output.path;
    argv[count + 1] = directory;
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
    int status = root_hash(directory, key);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    int length = snprintf(out_path, capacity, "%s/%s.erofs", cache, key);
    if (length < 0 || (size_t)length >= capacity) {
        return kelpie__pack_fail(ENAMETOOLONG, "\"%s\"", cache);
    }
    *out_is_stable = true;
    if (access(out_path, R_OK) == 0) {
        return KELPIE_PACK_OK;
    }
    status = root_make(directory, out_path);
    if (status == KELPIE_PACK_OK) {
        status = root_hash(directory, key_after);
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
    printf("%s\n", path);
    return KELPIE_PACK_OK;
}
