/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Two files of bounded size: see log_file.h.
 */
#include "monitor/log_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "os/os_call.h"

#define LOG_FILE_MODE 0600u

static void log_file_check(const struct kelpie_log_file *log) {
    KELPIE_ASSERT(log->size_bytes <= log->part_bytes_max || log->file == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(log->name[0] != '\0');
}

static int log_file_create(struct kelpie_log_file *log, uint32_t more_flags) {
    return kelpie__os_open(log->os, log->directory, log->name,
                           KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | more_flags,
                           LOG_FILE_MODE);
}

int kelpie__log_file_open(struct kelpie_log_file *log, struct kelpie_os *os, int directory,
                          const char *name, uint64_t part_bytes_max, struct kelpie_error *error) {
    KELPIE_ASSERT(part_bytes_max > 0);
    KELPIE_ASSERT(strlen(name) + sizeof(".1") <= sizeof(log->name));
    struct kelpie_log_file made = {.os = os,
                                   .directory = directory,
                                   .file = KELPIE_OS_NO_HANDLE,
                                   .part_bytes_max = part_bytes_max};
    memcpy(made.name, name, strlen(name) + 1);
    made.file = log_file_create(&made, 0);
    if (made.file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -made.file, "open log \"%s\"", name);
    }
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(os, directory, name, false, &stat);
    if (status < 0 || stat.kind != KELPIE_OS_KIND_FILE) {
        kelpie__ignore(kelpie__os_close(os, made.file)); /* nothing was written */
        return kelpie__fail(error, KELPIE_E_IO, status < 0 ? -status : EINVAL, "inspect log \"%s\"",
                            name);
    }
    /* A file that somebody made longer is rotated away by the first append. */
    made.size_bytes = kelpie__min_u64(stat.size_bytes, part_bytes_max);
    log_file_check(&made);
    *log = made;
    return 0;
}

/* NAME becomes NAME.1, and an empty NAME takes its place. */
static void log_file_rotate(struct kelpie_log_file *log) {
    char old[KELPIE_LOG_NAME_BYTES_MAX];
    int length = snprintf(old, sizeof(old), "%s.1", log->name);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(old));
    if (log->file != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(log->os, log->file)); /* a log's last bytes may be lost */
        log->file = KELPIE_OS_NO_HANDLE;
    }
    /* When the rename fails, the truncation below still keeps the size bounded. */
    kelpie__ignore(
        kelpie__os_rename(log->os, log->directory, log->name, log->directory, old, true));
    int file = log_file_create(log, KELPIE_OS_OPEN_TRUNCATE);
    log->size_bytes = 0;
    log->file = file < 0 ? KELPIE_OS_NO_HANDLE : file;
    log_file_check(log);
}

void kelpie__log_file_append(struct kelpie_log_file *log, const void *bytes, size_t count) {
    log_file_check(log);
    KELPIE_ASSERT(count <= log->part_bytes_max);
    if (log->file == KELPIE_OS_NO_HANDLE || log->size_bytes + count > log->part_bytes_max) {
        log_file_rotate(log);
    }
    size_t done = 0;
    const char *from = bytes;
    while (done < count && log->file != KELPIE_OS_NO_HANDLE) {
        int64_t wrote =
            kelpie__os_pwrite(log->os, log->file, from + done, count - done, log->size_bytes);
        if (wrote <= 0) {
            break; /* full or broken: this piece is lost, the next one tries again */
        }
        KELPIE_ASSERT((uint64_t)wrote <= count - done);
        done += (size_t)wrote;
        log->size_bytes += (uint64_t)wrote;
    }
    log->lost_bytes += count - done;
    log_file_check(log);
}

void kelpie__log_file_close(struct kelpie_log_file *log) {
    if (log->os != NULL && log->file != KELPIE_OS_NO_HANDLE) {
        log_file_check(log);
        kelpie__ignore(kelpie__os_close(log->os, log->file)); /* never synced anyway */
        log->file = KELPIE_OS_NO_HANDLE;
    }
}
