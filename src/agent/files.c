/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Small files of /proc, /sys and /etc: see files.h. Nothing here keeps a handle open or allocates.
 */
#include "agent/files.h"

#include <errno.h>
#include <string.h>

#include "os/os_call.h"

int kelpie__agent_read_text(struct kelpie_os *os, const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(path[0] == '/');
    KELPIE_ASSERT(capacity >= 2);
    int file =
        kelpie__os_open(os, KELPIE_OS_CWD, path,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW | KELPIE_OS_OPEN_NO_TTY, 0);
    if (file < 0) {
        return file;
    }
    size_t count = 0;
    int64_t result = 1;
    /* A file of /proc may come in pieces: read until its end or until the buffer is full. */
    while (result > 0 && count < capacity) {
        result = kelpie__os_pread(os, file, out + count, capacity - count, count);
        count += result > 0 ? (size_t)result : 0;
    }
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    if (result < 0) {
        return (int)result;
    }
    if (count == capacity) {
        return -EFBIG;
    }
    if (count > 0 && out[count - 1] == '\n') {
        count -= 1;
    }
    out[count] = '\0';
    return (int)count;
}

int kelpie__agent_write_text(struct kelpie_os *os, int directory, const char *path,
                             const char *text) {
    KELPIE_ASSERT(path[0] != '\0');
    size_t length = strlen(text);
    KELPIE_ASSERT(length > 0);
    int file =
        kelpie__os_open(os, directory, path, KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return file;
    }
    int64_t result = kelpie__os_write(os, file, text, length);
    int status = kelpie__os_close(os, file);
    if (result < 0) {
        return (int)result;
    }
    if (result != (int64_t)length) {
        return -EIO;
    }
    return status;
}

int kelpie__agent_make_directory(struct kelpie_os *os, const char *path, uint32_t mode) {
    KELPIE_ASSERT(path[0] == '/');
    KELPIE_ASSERT(mode <= 01777);
    int status = kelpie__os_mkdir(os, KELPIE_OS_CWD, path, mode);
    return status == -EEXIST ? 0 : status;
}

bool kelpie__agent_take_number(const char **inout_at, uint64_t *out) {
    const char *at = *inout_at;
    at += strspn(at, " ");
    uint64_t value = 0;
    size_t digit_count = strspn(at, "0123456789");
    for (size_t i = 0; i < digit_count; i += 1) {
        uint64_t digit = (uint64_t)(at[i] - '0');
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, digit, &value)) {
            return false;
        }
    }
    if (digit_count == 0) {
        return false;
    }
    KELPIE_ASSERT(at + digit_count > *inout_at);
    *inout_at = at + digit_count;
    *out = value;
    return true;
}
