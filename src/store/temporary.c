/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See temporary.h.
 */
#include "store/temporary.h"

#include <errno.h>
#include <string.h>

#include "os/os_call.h"

#define TEMPORARY_MODE 0700u
#define TEMPORARY_TRIES 8u

bool kelpie__handle_is_named(struct kelpie_os *os, int directory, const char *path, int handle) {
    struct kelpie_os_stat mine;
    struct kelpie_os_stat named;
    KELPIE_ASSERT(handle >= 0);
    return kelpie__os_stat(os, handle, "", false, &mine) == 0 &&
           kelpie__os_stat(os, directory, path, false, &named) == 0 && mine.inode == named.inode &&
           mine.device == named.device;
}

/* -EAGAIN: whoever tidies up was quicker than the lock, or has it. */
static int make_once(struct kelpie_os *os, int parent, const char *name) {
    int status = kelpie__os_mkdir(os, parent, name, TEMPORARY_MODE);
    if (status < 0 && status != -EEXIST) { /* there: the one of the try before */
        return status;
    }
    int made = kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (made < 0) {
        return made == -ENOENT ? -EAGAIN : made;
    }
    status = kelpie__os_lock(os, made);
    if (status == 0 && !kelpie__handle_is_named(os, parent, name, made)) {
        status = -EAGAIN;
    }
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, made));
        return status;
    }
    return made;
}

int kelpie__temporary_make(struct kelpie_os *os, int parent, const char *name) {
    KELPIE_ASSERT(name[0] == '.');
    KELPIE_ASSERT(strchr(name, '/') == NULL);
    int made = -EAGAIN;
    for (uint32_t i = 0; i < TEMPORARY_TRIES && made == -EAGAIN; i += 1) {
        made = make_once(os, parent, name);
    }
    if (made < 0) {
        kelpie__ignore(kelpie__os_unlink(os, parent, name, true));
    }
    return made;
}
