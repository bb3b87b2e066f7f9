/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * `kelpie-pack root` of the simulator: see pack.h. One walk gives the key of the directory's state,
 * a second one writes the image, a third looks whether it is still the same, as the real one does.
 */
#include <errno.h>
#include <string.h>

#include "core/hash.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/pack.h"

#define ROOT_FORMAT 1u
#define ROOT_TRIES 3u
#define ROOT_DEPTH_MAX 32u
#define ROOT_ENTRIES_MAX 100000u

struct root_level {
    int directory;
    uint64_t cursor;
    size_t path_length; /* of the directory's, in `path` */
};

struct root_walk {
    struct kelpie_os *os;
    struct sim_pack_output *output; /* NULL: only the key */
    uint32_t depth;
    struct root_level levels[ROOT_DEPTH_MAX];
    struct kelpie_hash sum;        /* of the entries' hashes: in any order the same */
    char path[SIM_PATH_BYTES_MAX]; /* below the root */
};

static void root_hash_entry(struct root_walk *walk, const struct kelpie_os_stat *stat) {
    struct kelpie_hash hash;
    kelpie__hash_init(&hash);
    kelpie__hash_text(&hash, walk->path);
    kelpie__hash_u64(&hash, (uint64_t)stat->kind);
    kelpie__hash_u64(&hash, stat->mode);
    kelpie__hash_u64(&hash, stat->uid);
    kelpie__hash_u64(&hash, stat->gid);
    kelpie__hash_u64(&hash, stat->kind == KELPIE_OS_KIND_DIRECTORY ? 0 : stat->size_bytes);
    kelpie__hash_u64(&hash, (uint64_t)stat->modified_ns);
    kelpie__hash_u64(&hash, (uint64_t)stat->changed_ns);
    walk->sum.high += hash.high;
    walk->sum.low += hash.low;
}

static int root_write_file(struct root_walk *walk, int file, uint64_t size) {
    uint8_t bytes[4096];
    uint64_t done = 0;
    int status = SIM_PACK_OK;
    while (done < size && status == SIM_PACK_OK) { /* bound: the file */
        uint64_t wanted = size - done < sizeof(bytes) ? size - done : sizeof(bytes);
        int64_t count = kelpie__os_pread(walk->os, file, bytes, (size_t)wanted, done);
        if (count < 0) {
            return kelpie__sim_pack_fail(walk->os, (int)count, "read \"%s\"", walk->path);
        }
        if (count == 0) { /* it has become shorter: the third walk tells */
            memset(bytes, 0, sizeof(bytes));
            count = (int64_t)wanted;
        }
        status = kelpie__sim_pack_write(walk->output, bytes, (size_t)count);
        done += (uint64_t)count;
    }
    return status;
}

static int root_write_entry(struct root_walk *walk, int directory, const char *name,
                            const struct kelpie_os_stat *stat) {
    bool is_file = stat->kind == KELPIE_OS_KIND_FILE;
    if (walk->output == NULL || (!is_file && stat->kind != KELPIE_OS_KIND_DIRECTORY)) {
        return SIM_PACK_OK; /* links, sockets and devices are not in a simulated image */
    }
    char line[SIM_PATH_BYTES_MAX + 64];
    uint64_t size = is_file ? stat->size_bytes : 0;
    if (size > SIM_PACK_FILE_BYTES_MAX) {
        return kelpie__sim_pack_fail(walk->os, -EFBIG, "read \"%s\"", walk->path);
    }
    bool is_whole = kelpie__text_format(line, sizeof(line), "%c %o %llu /%s\n", is_file ? 'f' : 'd',
                                        stat->mode, (unsigned long long)size, walk->path);
    KELPIE_ASSERT(is_whole);
    int status = kelpie__sim_pack_write(walk->output, line, strlen(line));
    if (status != SIM_PACK_OK || !is_file) {
        return status;
    }
    int file = kelpie__os_open(walk->os, directory, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__sim_pack_fail(walk->os, file, "read \"%s\"", walk->path);
    }
    status = root_write_file(walk, file, size);
    kelpie__ignore(kelpie__os_close(walk->os, file)); /* it was only read */
    return status;
}

static int root_enter(struct root_walk *walk, int parent, const char *name) {
    if (walk->depth == ROOT_DEPTH_MAX) {
        return kelpie__sim_pack_fail(walk->os, -ENAMETOOLONG, "read \"%s\"", walk->path);
    }
    int directory =
        kelpie__os_open(walk->os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return kelpie__sim_pack_fail(walk->os, directory, "read \"%s\"", name);
    }
    walk->levels[walk->depth] =
        (struct root_level){.directory = directory, .path_length = strlen(walk->path)};
    walk->depth += 1;
    return SIM_PACK_OK;
}

/* The next entry of the innermost directory, or out of it. */
static int root_step(struct root_walk *walk) {
    KELPIE_ASSERT(walk->depth > 0 && walk->depth <= ROOT_DEPTH_MAX);
    struct root_level *level = &walk->levels[walk->depth - 1];
    struct kelpie_os_stat stat;
    char name[256];
    int found = kelpie__os_list(walk->os, level->directory, &level->cursor, name, sizeof(name));
    walk->path[level->path_length] = '\0';
    if (found <= 0) {
        kelpie__ignore(kelpie__os_close(walk->os, level->directory));
        walk->depth -= 1;
        return found == 0 ? SIM_PACK_OK
                          : kelpie__sim_pack_fail(walk->os, found, "read \"%s\"", walk->path);
    }
    bool fits = kelpie__text_format(walk->path + level->path_length,
                                    sizeof(walk->path) - level->path_length, "%s%s",
                                    level->path_length == 0 ? "" : "/", name);
    int status =
        fits ? kelpie__os_stat(walk->os, level->directory, name, false, &stat) : -ENAMETOOLONG;
    if (status < 0) {
        return kelpie__sim_pack_fail(walk->os, status, "read \"%s\"", walk->path);
    }
    root_hash_entry(walk, &stat);
    status = root_write_entry(walk, level->directory, name, &stat);
    if (status == SIM_PACK_OK && stat.kind == KELPIE_OS_KIND_DIRECTORY) {
        status = root_enter(walk, level->directory, name);
    }
    return status;
}

/* The whole tree. An exit code; the key into `out`. */
static int root_walk(struct root_walk *walk, const char *directory,
                     char out[KELPIE_HASH_CHARACTERS + 1]) {
    walk->path[0] = '\0';
    walk->depth = 0;
    kelpie__hash_init(&walk->sum);
    kelpie__hash_u64(&walk->sum, ROOT_FORMAT);
    int status = root_enter(walk, KELPIE_OS_CWD, directory);
    for (uint32_t i = 0; i < ROOT_ENTRIES_MAX && status == SIM_PACK_OK && walk->depth > 0; i += 1) {
        status = root_step(walk);
    }
    while (walk->depth > 0) { /* bound: the depth */
        walk->depth -= 1;
        kelpie__ignore(kelpie__os_close(walk->os, walk->levels[walk->depth].directory));
        status = status == SIM_PACK_OK ? SIM_PACK_FAILED : status;
    }
    kelpie__hash_hex(&walk->sum, out);
    return status;
}

static int root_make(struct root_walk *walk, const char *directory, const char *path,
                     char out_key[KELPIE_HASH_CHARACTERS + 1]) {
    struct sim_pack_output output;
    int status = kelpie__sim_pack_open(&output, walk->os, path);
    if (status == SIM_PACK_OK) {
        status =
            kelpie__sim_pack_write(&output, SIM_PACK_ROOT_MAGIC, sizeof(SIM_PACK_ROOT_MAGIC) - 1);
    }
    if (status == SIM_PACK_OK) {
        walk->output = &output;
        status = root_walk(walk, directory, out_key);
        walk->output = NULL;
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_commit(&output);
    }
    kelpie__sim_pack_close(&output);
    return status;
}

/* One attempt. *out_is_stable is false when the directory changed meanwhile. */
static int root_try(struct root_walk *walk, char **argv, char *path, size_t capacity,
                    bool *out_is_stable) {
    char key[KELPIE_HASH_CHARACTERS + 1];
    char key_made[KELPIE_HASH_CHARACTERS + 1];
    char key_after[KELPIE_HASH_CHARACTERS + 1];
    struct kelpie_os_stat stat;
    *out_is_stable = true;
    int status = root_walk(walk, argv[1], key);
    if (status != SIM_PACK_OK) {
        return status;
    }
    if (!kelpie__text_format(path, capacity, "%s/%s.erofs", argv[2], key)) {
        return kelpie__sim_pack_fail(walk->os, -ENAMETOOLONG, "\"%s\"", argv[2]);
    }
    if (kelpie__os_stat(walk->os, KELPIE_OS_CWD, path, true, &stat) == 0) {
        return SIM_PACK_OK;
    }
    status = root_make(walk, argv[1], path, key_made);
    if (status == SIM_PACK_OK) {
        status = root_walk(walk, argv[1], key_after);
    }
    if (status == SIM_PACK_OK && strcmp(key, key_after) != 0) {
        *out_is_stable = false;
        kelpie__ignore(kelpie__os_unlink(walk->os, KELPIE_OS_CWD, path, false)); /* a mixture */
    }
    return status;
}

int kelpie__sim_pack_root(struct kelpie_os *os, int argc, char **argv) {
    char path[SIM_PATH_BYTES_MAX];
    struct kelpie_os_stat stat;
    if (argc != 3) {
        return SIM_PACK_USAGE;
    }
    int status = kelpie__os_stat(os, KELPIE_OS_CWD, argv[1], true, &stat);
    if (status < 0) {
        return kelpie__sim_pack_fail(os, status, "root \"%s\"", argv[1]);
    }
    if (stat.kind != KELPIE_OS_KIND_DIRECTORY) {
        return kelpie__sim_pack_fail(os, 0, "root \"%s\" is not a directory", argv[1]);
    }
    struct root_walk *walk = kelpie__alloc(os, sizeof(*walk));
    if (walk == NULL) {
        return kelpie__sim_pack_fail(os, -ENOMEM, "read directory \"%s\"", argv[1]);
    }
    walk->os = os;
    bool is_stable = false;
    for (uint32_t i = 0; i < ROOT_TRIES && status == SIM_PACK_OK && !is_stable; i += 1) {
        status = root_try(walk, argv, path, sizeof(path), &is_stable);
    }
    kelpie__free(os, walk, sizeof(*walk));
    if (status != SIM_PACK_OK) {
        return status;
    }
    if (!is_stable) {
        return kelpie__sim_pack_fail(
            os, 0, "root \"%s\" changes while it is packed; pack a copy of it", argv[1]);
    }
    kelpie__sim_pack_print(os, "%s\n", path);
    return SIM_PACK_OK;
}
