/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Files that are there whole or not at all: written without a name (O_TMPFILE), so that the kernel
 * removes them when this process is killed; where the file system cannot do that, under a temporary
 * name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pack/pack.h"

#define OUTPUT_MODE 0600
#define OUTPUT_PIECE_BYTES 4096u
#define OUTPUT_LINK_TRIES 8
#define OUTPUT_COMPARE_BYTES 65536

static_assert(sizeof(((struct kelpie_pack_output *)0)->temporary) >=
                  sizeof(((struct kelpie_pack_output *)0)->name) + 32u,
              "a temporary name is the name with two numbers");

/* Open, between kelpie__pack_output_open and close. */
static void output_check(const struct kelpie_pack_output *output) {
    KELPIE_ASSERT(output->file >= 0);
    KELPIE_ASSERT(output->directory >= 0);
    KELPIE_ASSERT(output->name[0] != '\0');
    KELPIE_ASSERT(strchr(output->name, '/') == NULL);
    if (output->is_named) {
        KELPIE_ASSERT(output->temporary[0] == '.');
    }
}

static bool output_make_directories(char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    for (char *at = path + 1; *at != '\0'; at += 1) {
        if (*at == '/') {
            *at = '\0';
            int status = mkdir(path, 0700);
            *at = '/';
            if (status < 0 && errno != EEXIST) {
                return false;
            }
        }
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* "a/b" into directory "a" and name "b". */
static bool output_split(struct kelpie_pack_output *output, const char *path, char *directory,
                         size_t capacity) {
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    size_t length = slash == NULL ? 1 : (size_t)(slash - path);
    KELPIE_ASSERT(capacity > 1);
    length = length == 0 ? 1 : length;
    if (name[0] == '\0' || strlen(name) >= sizeof(output->name) || length >= capacity) {
        return false;
    }
    memcpy(directory, slash == NULL ? "." : path, length);
    directory[length] = '\0';
    memcpy(output->name, name, strlen(name) + 1);
    KELPIE_ASSERT(strchr(output->name, '/') == NULL);
    KELPIE_ASSERT(length < capacity);
    return true;
}

static int output_create(struct kelpie_pack_output *output) {
    KELPIE_ASSERT(output->directory >= 0);
    KELPIE_ASSERT(!output->is_named);
    int file = openat(output->directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, OUTPUT_MODE);
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) {
        return file;
    }
    int length = snprintf(output->temporary, sizeof(output->temporary), ".%s.%ld", output->name,
                          (long)getpid());
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(output->temporary));
    output->is_named = true;
    return openat(output->directory, output->temporary, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC,
                  OUTPUT_MODE);
}

int kelpie__pack_output_open(struct kelpie_pack_output *output, const char *path) {
    char directory[4096];
    *output = (struct kelpie_pack_output){.file = -1, .directory = -1};
    if (!output_split(output, path, directory, sizeof(directory))) {
        return kelpie__pack_fail(0, "\"%s\" is no path for a file", path);
    }
    if (!output_make_directories(directory)) {
        return kelpie__pack_fail(errno, "make directory \"%s\"", directory);
    }
    output->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (output->directory < 0) {
        return kelpie__pack_fail(errno, "open directory \"%s\"", directory);
    }
    struct stat existing;
    if (fstatat(output->directory, output->name, &existing, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISREG(existing.st_mode)) {
        return kelpie__pack_fail(0, "\"%s\" is there and is not a file", path);
    }
    output->file = output_create(output);
    if (output->file < 0) {
        return kelpie__pack_fail(errno, "make a file in \"%s\"", directory);
    }
    int length = snprintf(output->path, sizeof(output->path), "/proc/self/fd/%d", output->file);
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(output->path));
    output_check(output);
    return KELPIE_PACK_OK;
}

/* A file without a name gets a temporary one first: linkat does not replace. */
static bool output_link(struct kelpie_pack_output *output) {
    KELPIE_ASSERT(!output->is_named);
    KELPIE_ASSERT(output->path[0] == '/');
    for (int i = 0; i < OUTPUT_LINK_TRIES; i += 1) {
        int length = snprintf(output->temporary, sizeof(output->temporary), ".%s.%ld.%d",
                              output->name, (long)getpid(), i);
        KELPIE_ASSERT(length > 0);
        KELPIE_ASSERT((size_t)length < sizeof(output->temporary));
        if (linkat(AT_FDCWD, output->path, output->directory, output->temporary,
                   AT_SYMLINK_FOLLOW) == 0) {
            output->is_named = true;
            return true;
        }
        if (errno != EEXIST) {
            return false;
        }
    }
    return false;
}

/* Whether `other` has the same bytes. */
static bool output_equals(const struct kelpie_pack_output *output, int other) {
    uint8_t ours[OUTPUT_COMPARE_BYTES];
    uint8_t theirs[OUTPUT_COMPARE_BYTES];
    struct stat mine;
    struct stat found;
    KELPIE_ASSERT(other >= 0 && other != output->file);
    if (fstat(output->file, &mine) < 0 || fstat(other, &found) < 0 ||
        mine.st_size != found.st_size) {
        return false;
    }
    for (off_t at = 0; at < mine.st_size;) { /* bound: each turn has read something */
        ssize_t count = pread(output->file, ours, sizeof(ours), at);
        if (count <= 0 || pread(other, theirs, (size_t)count, at) != count ||
            memcmp(ours, theirs, (size_t)count) != 0) {
            return false;
        }
        at += count;
    }
    return true;
}

/* Somebody was quicker, and it is the same: his stays, for others know it by its inode (a
 * template's key has that). */
static bool output_is_there(const struct kelpie_pack_output *output) {
    int other = openat(output->directory, output->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool is_same = other >= 0 && output_equals(output, other);
    KELPIE_ASSERT(other < 0 || output->file >= 0);
    if (other >= 0) {
        close(other);
    }
    return is_same;
}

/* The temporary name, if it has one. */
static void output_forget(struct kelpie_pack_output *output) {
    if (output->is_named && output->temporary[0] != '\0') {
        kelpie__ignore(unlinkat(output->directory, output->temporary, 0)); /* it may not be there */
    }
    output->is_named = false;
}

static int output_name(struct kelpie_pack_output *output) {
    output_check(output);
    if (output_is_there(output)) {
        output_forget(output);
        return KELPIE_PACK_OK;
    }
    if (!output->is_named) {
        if (linkat(AT_FDCWD, output->path, output->directory, output->name, AT_SYMLINK_FOLLOW) ==
            0) {
            return KELPIE_PACK_OK;
        }
        bool is_named_now = errno == EEXIST;
        if (is_named_now && output_is_there(output)) {
            return KELPIE_PACK_OK;
        }
        if (!is_named_now || !output_link(output)) {
            return kelpie__pack_fail(errno, "name the file \"%s\"", output->name);
        }
    }
    if (renameat(output->directory, output->temporary, output->directory, output->name) < 0) {
        return kelpie__pack_fail(errno, "name the file \"%s\"", output->name);
    }
    KELPIE_ASSERT(output->temporary[0] != '\0');
    output->is_named = false;
    return KELPIE_PACK_OK;
}

int kelpie__pack_output_commit(struct kelpie_pack_output *output) {
    output_check(output);
    /* A machine that dies must not leave a kernel of zero bytes under a name that is trusted. */
    if (fsync(output->file) < 0) {
        return kelpie__pack_fail(errno, "write \"%s\"", output->name);
    }
    int status = output_name(output);
    KELPIE_ASSERT(status != KELPIE_PACK_OK || !output->is_named);
    if (status == KELPIE_PACK_OK) {
        kelpie__pack_prune(output->directory, output->name);
    }
    return status;
}

void kelpie__pack_output_close(struct kelpie_pack_output *output) {
    KELPIE_ASSERT(output->file < 0 || output->directory >= 0);
    output_forget(output);
    if (output->file >= 0) {
        close(output->file);
    }
    if (output->directory >= 0) {
        close(output->directory);
    }
    *output = (struct kelpie_pack_output){.file = -1, .directory = -1};
}

static bool output_is_zero(const uint8_t *bytes, size_t count) {
    KELPIE_ASSERT(count > 1);
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static bool output_write_all(int file, const uint8_t *bytes, size_t count) {
    while (count > 0) {
        ssize_t written = write(file, bytes, count);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        bytes += written < 0 ? 0 : written;
        count -= written < 0 ? 0 : (size_t)written;
    }
    return true;
}

bool kelpie__pack_write(int file, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    off_t begin = lseek(file, 0, SEEK_CUR);
    struct stat stat;
    KELPIE_ASSERT(file >= 0);
    for (size_t done = 0; done < count;) { /* bound: each turn takes a piece */
        size_t piece = count - done < OUTPUT_PIECE_BYTES ? count - done : OUTPUT_PIECE_BYTES;
        KELPIE_ASSERT(piece > 0);
        bool is_hole = piece == OUTPUT_PIECE_BYTES && output_is_zero(at + done, piece);
        if (is_hole ? lseek(file, (off_t)piece, SEEK_CUR) < 0
                    : !output_write_all(file, at + done, piece)) {
            return false;
        }
        done += piece;
    }
    if (begin < 0 || fstat(file, &stat) < 0) {
        return false;
    }
    off_t end = begin + (off_t)count; /* a hole at the end counts, too */
    KELPIE_ASSERT(end >= begin);
    return stat.st_size >= end || ftruncate(file, end) == 0;
}
