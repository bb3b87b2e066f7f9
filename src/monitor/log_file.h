/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A log of bounded size: NAME, and the one before it as NAME.1. Together they hold the last
 * `part_bytes_max` bytes at least and twice that at most. Writing goes to the page cache and is
 * never synced: a log is for people.
 */
#ifndef KELPIE_MONITOR_LOG_FILE_H
#define KELPIE_MONITOR_LOG_FILE_H

#include "core/error.h"
#include "os/os.h"

#define KELPIE_LOG_NAME_BYTES_MAX 32u

struct kelpie_log_file {
    struct kelpie_os *os; /* borrowed */
    int directory;        /* borrowed */
    int file;             /* owned; KELPIE_OS_NO_HANDLE while it cannot be opened */
    uint64_t size_bytes;
    uint64_t part_bytes_max;
    uint64_t lost_bytes; /* not written, because the disk was full or failed */
    char name[KELPIE_LOG_NAME_BYTES_MAX];
};

/* Opens or makes the file and goes on at its end. `directory` is borrowed until close. */
KELPIE_MUST_CHECK int kelpie__log_file_open(struct kelpie_log_file *log, struct kelpie_os *os,
                                            int directory, const char *name,
                                            uint64_t part_bytes_max, struct kelpie_error *error);

/* Appends all of it, or counts it as lost. No failure of a log may stop a VM. `count` is at most
 * part_bytes_max. */
void kelpie__log_file_append(struct kelpie_log_file *log, const void *bytes, size_t count);

void kelpie__log_file_close(struct kelpie_log_file *log);

#endif
