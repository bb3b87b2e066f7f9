/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A real file that is written in pieces: traces and plans, by whoever runs the simulator. Failures
 * are kept for the end.
 */
#ifndef KELPIE_SIM_TEXT_FILE_H
#define KELPIE_SIM_TEXT_FILE_H

#include "core/base.h"
#include "os/os.h"

struct sim_text_file {
    struct kelpie_os *os; /* borrowed: until close; the real system */
    const char *path;     /* borrowed: until close */
    int handle;           /* owned */
    int status;           /* negative errno value; 0 so far */
    uint64_t offset;
};

/* Makes the file, or empties it. */
void kelpie__sim_text_file_open(struct sim_text_file *file, struct kelpie_os *os, const char *path);
/* A sim_trace_write (trace.h); `context` is the file. */
void kelpie__sim_text_file_write(void *context, const char *text, size_t length);
/* 0 or a negative errno value: of everything since the open. A file that could not be written whole
 * is removed. */
KELPIE_MUST_CHECK int kelpie__sim_text_file_close(struct sim_text_file *file);

#endif
