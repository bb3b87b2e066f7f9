/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Directories that are made under a name for the time being, and renamed when they are whole. One
 * that nobody has locked was left by a process that died, and whoever comes by removes it: between
 * mkdir and the lock that may happen to one whose maker lives.
 */
#ifndef KELPIE_STORE_TEMPORARY_H
#define KELPIE_STORE_TEMPORARY_H

#include "core/base.h"
#include "os/os.h"

/* Makes it, mode 0700, and gives its handle, which holds its lock; or a negative errno value, and
 * it is gone. -EAGAIN: somebody who removes what was left had it again and again. */
KELPIE_MUST_CHECK int kelpie__temporary_make(struct kelpie_os *os, int parent, const char *name);

/* Whether the path stands for what the handle is of. */
bool kelpie__handle_is_named(struct kelpie_os *os, int directory, const char *path, int handle);

#endif
