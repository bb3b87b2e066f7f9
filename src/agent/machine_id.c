/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See machine_id.h.
 */
#include "agent/machine_id.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>

#include "agent/boot.h"
#include "agent/files.h"
#include "core/text.h"
#include "os/os_call.h"

#define MACHINE_ID_PATH "/etc/machine-id"
#define MACHINE_ID_COPY "/run/kelpie-machine-id"

/* What is longer than an id is cut off behind it. Not before: after a restore there is one of the
 * same length, and to cut a file costs a translated guest more than all the rest of this. Calls
 * that a command needs as well cost it least. */
static int machine_id_put(struct kelpie_os *os, const char *path, const char *line) {
    char rest = '\0';
    KELPIE_ASSERT(path[0] == '/');
    size_t length = strlen(line);
    KELPIE_ASSERT(length == KELPIE_AGENT_MACHINE_ID_BYTES);
    int file =
        kelpie__os_open(os, KELPIE_OS_CWD, path,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0444);
    if (file < 0) {
        return file;
    }
    int64_t written = kelpie__os_pwrite(os, file, line, length, 0);
    int64_t more = kelpie__os_pread(os, file, &rest, sizeof(rest), length);
    int status = more > 0 ? kelpie__os_truncate(os, file, length) : (int)more;
    int closed = kelpie__os_close(os, file);
    if (written != (int64_t)length) {
        return written < 0 ? (int)written : -EIO;
    }
    return status < 0 ? status : closed;
}

void kelpie__agent_machine_id_write(struct kelpie_os *os, const char *machine_id) {
    char line[KELPIE_AGENT_MACHINE_ID_BYTES + 1];
    if (machine_id[0] == '\0') {
        return;
    }
    static_assert(sizeof(line) == KELPIE_AGENT_MACHINE_ID_BYTES + 1, "an id, and an end of line");
    bool is_whole = kelpie__text_copy(line, sizeof(line), machine_id);
    KELPIE_ASSERT(is_whole && strlen(line) == KELPIE_AGENT_MACHINE_ID_BYTES - 1);
    line[KELPIE_AGENT_MACHINE_ID_BYTES - 1] = '\n';
    line[KELPIE_AGENT_MACHINE_ID_BYTES] = '\0';
    int status = machine_id_put(os, MACHINE_ID_PATH, line);
    if (status == -ENOENT && kelpie__agent_make_directory(os, "/etc", 0755) == 0) {
        status = machine_id_put(os, MACHINE_ID_PATH, line);
    }
    if (status == -EROFS) {
        status = machine_id_put(os, MACHINE_ID_COPY, line);
        if (status == 0) {
            status = kelpie__os_mount(os, MACHINE_ID_COPY, MACHINE_ID_PATH, NULL, MS_BIND, NULL);
        }
    }
    if (status < 0) {
        kelpie__agent_log(os, "write " MACHINE_ID_PATH ": %s", kelpie__errno_text(-status));
    }
}
