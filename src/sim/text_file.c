/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See text_file.h.
 */
#include "sim/text_file.h"

#include "os/os_call.h"

#define TEXT_FILE_MODE 0644u

void kelpie__sim_text_file_open(struct sim_text_file *file, struct kelpie_os *os,
                                const char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    *file = (struct sim_text_file){.os = os, .path = path};
    file->handle = kelpie__os_open(os, KELPIE_OS_CWD, path,
                                   KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                       KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                                   TEXT_FILE_MODE);
    file->status = file->handle < 0 ? file->handle : 0;
}

void kelpie__sim_text_file_write(void *context, const char *text, size_t length) {
    struct sim_text_file *file = context;
    size_t done = 0;
    KELPIE_ASSERT(file->status <= 0);
    while (done < length && file->status == 0) { /* bound: every turn writes a byte, or fails */
        int64_t count =
            kelpie__os_pwrite(file->os, file->handle, text + done, length - done, file->offset);
        if (count < 0) {
            file->status = (int)count;
        } else {
            done += (size_t)count;
            file->offset += (uint64_t)count;
        }
    }
}

/* Half of a picture is none. Devices stay. */
static void remove_part(const struct sim_text_file *file) {
    struct kelpie_os_stat found;
    KELPIE_ASSERT(file->status < 0);
    if (kelpie__os_stat(file->os, KELPIE_OS_CWD, file->path, false, &found) == 0 &&
        found.kind == KELPIE_OS_KIND_FILE) {
        /* that it failed is told anyway */
        kelpie__ignore(kelpie__os_unlink(file->os, KELPIE_OS_CWD, file->path, false));
    }
}

int kelpie__sim_text_file_close(struct sim_text_file *file) {
    KELPIE_ASSERT(file->handle >= 0 || file->status < 0);
    if (file->handle >= 0) {
        int closed = kelpie__os_close(file->os, file->handle);
        file->status = file->status < 0 ? file->status : closed;
        if (file->status < 0) {
            remove_part(file);
        }
    }
    return file->status;
}
