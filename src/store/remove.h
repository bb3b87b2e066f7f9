/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Removes a directory of ours with all in it: files, and directories of files. Deeper is never
 * made.
 */
#ifndef KELPIE_STORE_REMOVE_H
#define KELPIE_STORE_REMOVE_H

#include "core/base.h"
#include "os/os.h"

/* 0, also when it is not there, or a negative errno value. */
KELPIE_MUST_CHECK int kelpie__remove_directory(struct kelpie_os *os, int parent, const char *name);

#endif
