/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Removes a directory of ours with all in it: files, and directories of files and empty
 * directories. Deeper is never made.
 */
#ifndef KELPIE_STORE_REMOVE_H
#define KELPIE_STORE_REMOVE_H

#include "core/base.h"
#include "os/os.h"

/* What dead processes left, and somebody removed. */
struct kelpie_leftovers {
    uint32_t count; /* directories */
    uint64_t bytes; /* on the disk; what other directories share of it stays there */
};

/* 0, also when it is not there, or a negative errno value. */
KELPIE_MUST_CHECK int kelpie__remove_directory(struct kelpie_os *os, int parent, const char *name);

/* What the files of a directory take on the disk, without those in directories below it. */
uint64_t kelpie__directory_bytes(struct kelpie_os *os, int directory);

/* The same as remove, of what is left over: counted if it goes. `inout` may be NULL. */
void kelpie__remove_leftover(struct kelpie_os *os, int parent, const char *name,
                             struct kelpie_leftovers *inout);

#endif
