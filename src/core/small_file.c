/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whole small files: see small_file.h.
 */
#include "core/small_file.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define SMALL_FILE_MODE 0600u
#define SMALL_FILE_NAME_BYTES_MAX 64u
#define SMALL_FILE_READ_COUNT_MAX 1024u

/* Fills `out` from the file, and says by is_whole whether that was all of it. Files of /proc come
 * in pieces. */
static int64_t small_file_fill(struct kelpie_os *os, int file, char *out, size_t capacity,
                               bool *is_whole) {
    KELPIE_ASSERT(capacity > 1);
    size_t length = 0;
    *is_whole = false;
    for (uint32_t i = 0; i < SMALL_FILE_READ_COUNT_MAX && length < capacity; i += 1) {
        int64_t count = kelpie__os_pread(os, file, out + length, capacity - length, length);
        if (count == -EINTR) {
            continue;
        }
        if (count < 0) {
            return count;
        }
        KELPIE_ASSERT((uint64_t)count <= capacity - length);
        if (count == 0) {
            *is_whole = true;
            break;
        }
        length += (size_t)count;
    }
    length = length < capacity ? length : capacity - 1;
    out[length] = '\0';
    return (int64_t)length;
}

static int64_t small_file_read_at(struct kelpie_os *os, int directory, const char *path, char *out,
                                  size_t capacity, bool *is_whole) {
    KELPIE_ASSERT(path[0] != '\0');
    int file = kelpie__os_open(os, directory, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return file;
    }
    int64_t length = small_file_fill(os, file, out, capacity, is_whole);
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    KELPIE_ASSERT(length < (int64_t)capacity);
    return length;
}

int64_t kelpie__small_file_read(struct kelpie_os *os, const char *path, char *out,
                                size_t capacity) {
    bool is_whole = false;
    int64_t length = small_file_read_at(os, KELPIE_OS_CWD, path, out, capacity, &is_whole);
    return length >= 0 && !is_whole ? -EFBIG : length;
}

int64_t kelpie__small_file_read_at(struct kelpie_os *os, int directory, const char *name, char *out,
                                   size_t capacity) {
    bool is_whole = false;
    int64_t length = small_file_read_at(os, directory, name, out, capacity, &is_whole);
    return length >= 0 && !is_whole ? -EFBIG : length;
}

int64_t kelpie__small_file_read_start(struct kelpie_os *os, const char *path, char *out,
                                      size_t capacity) {
    bool is_whole = false;
    return small_file_read_at(os, KELPIE_OS_CWD, path, out, capacity, &is_whole);
}

static int small_file_open_directory(struct kelpie_os *os, const char *path) {
    return kelpie__os_open(os, KELPIE_OS_CWD, path,
                           KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY | KELPIE_OS_OPEN_FOLLOW,
                           0);
}

int64_t kelpie__small_file_read_in(struct kelpie_os *os, const char *directory, const char *name,
                                   char *out, size_t capacity) {
    KELPIE_ASSERT(directory[0] != '\0');
    int handle = small_file_open_directory(os, directory);
    if (handle < 0) {
        return handle;
    }
    bool is_whole = false;
    int64_t length = small_file_read_at(os, handle, name, out, capacity, &is_whole);
    kelpie__ignore(kelpie__os_close(os, handle)); /* it was only read */
    return length >= 0 && !is_whole ? -EFBIG : length;
}

static int small_file_write(struct kelpie_os *os, int file, const char *text, size_t length) {
    size_t done = 0;
    for (uint32_t i = 0; i < SMALL_FILE_READ_COUNT_MAX && done < length; i += 1) {
        int64_t count = kelpie__os_pwrite(os, file, text + done, length - done, done);
        if (count < 0 && count != -EINTR) {
            return (int)count;
        }
        if (count > 0) {
            KELPIE_ASSERT((uint64_t)count <= length - done);
            done += (size_t)count;
        }
    }
    return done == length ? 0 : -EIO;
}

enum small_file_sync { SMALL_FILE_UNSYNCED, SMALL_FILE_SYNCED, SMALL_FILE_LASTING };

static int small_file_replace(struct kelpie_os *os, int directory, const char *name,
                              const char *text, size_t length, enum small_file_sync sync,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(length > 0);
    char temporary[SMALL_FILE_NAME_BYTES_MAX];
    bool is_whole = kelpie__text_format(temporary, sizeof(temporary), "%s.new", name);
    KELPIE_ASSERT(is_whole && name[0] != '\0');
    int file = kelpie__os_open(
        os, directory, temporary,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE, SMALL_FILE_MODE);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open \"%s\"", temporary);
    }
    int status = small_file_write(os, file, text, length);
    if (status == 0 && sync != SMALL_FILE_UNSYNCED) {
        status = kelpie__os_sync(os, file);
    }
    int close_status = kelpie__os_close(os, file); /* some file systems report a full disk here */
    if (status == 0) {
        status = close_status;
    }
    if (status == 0 && sync == SMALL_FILE_LASTING) {
        status = kelpie__os_sync(os, directory);
    }
    if (status == 0) {
        status = kelpie__os_rename(os, directory, temporary, directory, name, true);
    }
    if (status == 0 && sync == SMALL_FILE_LASTING) {
        status = kelpie__os_sync(os, directory);
    }
    if (status < 0) {
        /* The error below is what counts; a file that stays is overwritten by the next attempt. */
        kelpie__ignore(kelpie__os_unlink(os, directory, temporary, false));
        return kelpie__fail(error, KELPIE_E_IO, -status, "write \"%s\"", name);
    }
    return 0;
}

int kelpie__small_file_replace(struct kelpie_os *os, int directory, const char *name,
                               const char *text, size_t length, struct kelpie_error *error) {
    return small_file_replace(os, directory, name, text, length, SMALL_FILE_UNSYNCED, error);
}

int kelpie__small_file_replace_synced(struct kelpie_os *os, int directory, const char *name,
                                      const char *text, size_t length, struct kelpie_error *error) {
    return small_file_replace(os, directory, name, text, length, SMALL_FILE_SYNCED, error);
}

int kelpie__small_file_replace_lasting(struct kelpie_os *os, int directory, const char *name,
                                       const char *text, size_t length,
                                       struct kelpie_error *error) {
    return small_file_replace(os, directory, name, text, length, SMALL_FILE_LASTING, error);
}

int kelpie__small_file_replace_in(struct kelpie_os *os, const char *directory, const char *name,
                                  const char *text, size_t length, struct kelpie_error *error) {
    int handle = small_file_open_directory(os, directory);
    if (handle < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -handle, "open directory \"%s\"", directory);
    }
    int status = kelpie__small_file_replace(os, handle, name, text, length, error);
    kelpie__ignore(kelpie__os_close(os, handle)); /* nothing was written through it */
    return status;
}
