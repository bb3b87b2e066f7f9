/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Files of the simulated kelpie-pack, and its one line of text: see pack.h. Written under a
 * temporary name, as the real one does on a file system without O_TMPFILE.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/pack.h"

#define PACK_STDOUT 1
#define PACK_STDERR 2
#define PACK_DIRECTORY_MODE 0700u
#define PACK_FILE_MODE 0600u
#define PACK_LINE_BYTES 2048u
#define PACK_KEY_CHARACTERS 32u
#define PACK_KEPT_NS (INT64_C(3600) * KELPIE_NS_PER_S)
#define PACK_LIST_MAX 4096u

static void pack_say(struct kelpie_os *os, int handle, const char *text) {
    size_t length = strlen(text);
    size_t done = 0;
    int64_t count = 1;
    for (uint32_t i = 0; i < PACK_LINE_BYTES && done < length && count > 0; i += 1) {
        count = kelpie__os_write(os, handle, text + done, length - done);
        done += count > 0 ? (size_t)count : 0;
    }
    KELPIE_ASSERT(done <= length); /* less: nobody reads it */
}

int kelpie__sim_pack_fail(struct kelpie_os *os, int status, const char *format, ...) {
    char line[PACK_LINE_BYTES];
    char whole[PACK_LINE_BYTES + 128];
    va_list list;
    KELPIE_ASSERT(status <= 0);
    va_start(list, format);
    kelpie__ignore(vsnprintf(line, sizeof(line), format, list)); /* a cut text will do */
    va_end(list);
    const char *text = status == 0 ? NULL : kelpie__errno_text(-status);
    kelpie__text_format(whole, sizeof(whole), "%s%s%s\n", line, status == 0 ? "" : ": ",
                        status == 0    ? ""
                        : text != NULL ? text
                                       : "unknown error");
    pack_say(os, PACK_STDERR, whole);
    bool is_full = status == -ENOSPC || status == -EDQUOT || status == -EFBIG;
    bool is_system = status == -EIO || status == -EROFS || status == -ENOMEM || status == -EMFILE ||
                     status == -ENFILE || status == -EAGAIN;
    return is_full ? SIM_PACK_NO_SPACE : is_system ? SIM_PACK_SYSTEM : SIM_PACK_FAILED;
}

void kelpie__sim_pack_print(struct kelpie_os *os, const char *format, ...) {
    char line[SIM_PATH_BYTES_MAX + 64];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(line));
    pack_say(os, PACK_STDOUT, line);
}

/* mkdir -p of what is above a file; the directory's path into `directory`. */
static int pack_make_directories(struct kelpie_os *os, const char *path, char *directory) {
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    if (length == 0 || length >= SIM_PATH_BYTES_MAX) {
        return -EINVAL;
    }
    memcpy(directory, path, length);
    directory[length] = '\0';
    for (size_t at = 1; at <= length; at += 1) {
        if (directory[at] != '/' && directory[at] != '\0') {
            continue;
        }
        directory[at] = '\0';
        int status = kelpie__os_mkdir(os, KELPIE_OS_CWD, directory, PACK_DIRECTORY_MODE);
        directory[at] = at < length ? '/' : '\0';
        if (status < 0 && status != -EEXIST && status != -EISDIR && at == length) {
            return status;
        }
    }
    return 0;
}

int kelpie__sim_pack_open(struct sim_pack_output *output, struct kelpie_os *os, const char *path) {
    char directory[SIM_PATH_BYTES_MAX];
    struct kelpie_os_identity identity;
    *output = (struct sim_pack_output){
        .os = os, .file = KELPIE_OS_NO_HANDLE, .directory = KELPIE_OS_NO_HANDLE};
    const char *slash = strrchr(path, '/');
    if (slash == NULL || !kelpie__text_copy(output->name, sizeof(output->name), slash + 1) ||
        output->name[0] == '\0' || kelpie__os_identity(os, &identity) < 0) {
        return kelpie__sim_pack_fail(os, 0, "\"%s\" is no path for a file", path);
    }
    int status = pack_make_directories(os, path, directory);
    if (status < 0) {
        return kelpie__sim_pack_fail(os, status, "make directory \"%s\"", directory);
    }
    output->directory = kelpie__os_open(os, KELPIE_OS_CWD, directory,
                                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (output->directory < 0) {
        return kelpie__sim_pack_fail(os, output->directory, "open directory \"%s\"", directory);
    }
    bool is_whole = kelpie__text_format(output->temporary, sizeof(output->temporary), ".%s.%d",
                                        output->name, identity.pid);
    KELPIE_ASSERT(is_whole);
    output->file = kelpie__os_open(os, output->directory, output->temporary,
                                   KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE |
                                       KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE,
                                   PACK_FILE_MODE);
    if (output->file < 0) {
        output->temporary[0] = '\0';
        return kelpie__sim_pack_fail(os, output->file, "make a file in \"%s\"", directory);
    }
    return SIM_PACK_OK;
}

int kelpie__sim_pack_write(struct sim_pack_output *output, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    KELPIE_ASSERT(output->file >= 0);
    for (size_t done = 0; done < count;) { /* bound: each turn writes some */
        int64_t written = kelpie__os_pwrite(output->os, output->file, at + done, count - done,
                                            output->size_bytes);
        if (written <= 0) {
            return kelpie__sim_pack_fail(output->os, written < 0 ? (int)written : -EIO,
                                         "write \"%s\"", output->name);
        }
        done += (size_t)written;
        output->size_bytes += (uint64_t)written;
    }
    return SIM_PACK_OK;
}

/* By the clock alone, one that jumps would take what is being written for old. */
static bool pack_maker_lives(struct kelpie_os *os, const char *name) {
    const char *digits = strrchr(name, '.');
    uint64_t pid = 0;
    KELPIE_ASSERT(digits != NULL);
    int process = kelpie__text_u64(digits + 1, &pid) && pid <= INT32_MAX
                      ? kelpie__os_open_process(os, (int32_t)pid)
                      : -ESRCH;
    if (process >= 0) {
        kelpie__ignore(kelpie__os_close(os, process)); /* it was only looked at */
    }
    return process != -ESRCH;
}

/* Temporary names whose makers were killed long ago. */
static void pack_prune(struct sim_pack_output *output) {
    struct kelpie_os *os = output->os;
    int64_t now_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_WALL);
    char name[256];
    uint64_t cursor = 0;
    KELPIE_ASSERT(output->directory >= 0);
    for (uint32_t i = 0; i < PACK_LIST_MAX; i += 1) {
        struct kelpie_os_stat stat;
        if (kelpie__os_list(os, output->directory, &cursor, name, sizeof(name)) != 1) {
            return;
        }
        bool is_ours =
            name[0] == '.' && strspn(name + 1, "0123456789abcdef") == PACK_KEY_CHARACTERS;
        if (is_ours && kelpie__os_stat(os, output->directory, name, false, &stat) == 0 &&
            now_ns - stat.modified_ns > PACK_KEPT_NS && !pack_maker_lives(os, name)) {
            kelpie__ignore(kelpie__os_unlink(os, output->directory, name, false));
        }
    }
}

int kelpie__sim_pack_commit(struct sim_pack_output *output) {
    KELPIE_ASSERT(output->file >= 0 && output->temporary[0] != '\0');
    int status = kelpie__os_sync(output->os, output->file);
    if (status < 0) {
        return kelpie__sim_pack_fail(output->os, status, "write \"%s\"", output->name);
    }
    status = kelpie__os_rename(output->os, output->directory, output->temporary, output->directory,
                               output->name, true);
    if (status < 0) {
        return kelpie__sim_pack_fail(output->os, status, "name the file \"%s\"", output->name);
    }
    output->temporary[0] = '\0';
    if (strspn(output->name, "0123456789abcdef") == PACK_KEY_CHARACTERS) {
        pack_prune(output);
    }
    return SIM_PACK_OK;
}

void kelpie__sim_pack_close(struct sim_pack_output *output) {
    if (output->directory >= 0 && output->temporary[0] != '\0') {
        kelpie__ignore(kelpie__os_unlink(output->os, output->directory, output->temporary, false));
    }
    if (output->file >= 0) {
        kelpie__ignore(kelpie__os_close(output->os, output->file));
    }
    if (output->directory >= 0) {
        kelpie__ignore(kelpie__os_close(output->os, output->directory));
    }
    output->file = KELPIE_OS_NO_HANDLE;
    output->directory = KELPIE_OS_NO_HANDLE;
}

int kelpie__sim_pack_read(struct kelpie_os *os, const char *path, uint8_t **out,
                          size_t *out_count) {
    struct kelpie_os_stat stat;
    int file =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return kelpie__sim_pack_fail(os, file, "open \"%s\"", path);
    }
    int status = kelpie__os_stat(os, file, "", false, &stat);
    if (status == 0 && stat.size_bytes > SIM_PACK_FILE_BYTES_MAX) {
        status = -EFBIG;
    }
    size_t size = status < 0 ? 0 : (size_t)stat.size_bytes;
    uint8_t *bytes = status < 0 ? NULL : kelpie__alloc(os, size + 1);
    int64_t count = status < 0 ? status : bytes == NULL ? -ENOMEM : 0;
    size_t done = 0;
    for (uint32_t i = 0; i < PACK_LIST_MAX && count >= 0 && done < size; i += 1) {
        count = kelpie__os_pread(os, file, bytes + done, size - done, done);
        done += count > 0 ? (size_t)count : 0;
        count = count == 0 ? -EIO : count; /* it has become shorter */
    }
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    if (count < 0) {
        kelpie__free(os, bytes, size + 1);
        return kelpie__sim_pack_fail(os, (int)count, "read \"%s\"", path);
    }
    KELPIE_ASSERT(done == size);
    *out = bytes;
    *out_count = size;
    return SIM_PACK_OK;
}
