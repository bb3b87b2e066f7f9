/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What vm_directory.c (one VM) and recover.c (all of them, and what is left of some) share. Nobody
 * else includes this.
 */
#ifndef KELPIE_STORE_VM_DIRECTORY_INTERNAL_H
#define KELPIE_STORE_VM_DIRECTORY_INTERNAL_H

#include "store/vm_directory.h"

#define KELPIE_VM_FILE_MODE 0600u
/* Names of what is being made, and of what is going. No VM has such a name. */
#define KELPIE_VM_MADE_PREFIX ".new-"
#define KELPIE_VM_DELETED_PREFIX ".deleted-"
#define KELPIE_VM_TEMPORARY_BYTES_MAX 64u

/* A handle of a directory, or a negative errno. */
KELPIE_MUST_CHECK int kelpie__vm_directory_open_handle(struct kelpie_os *os, int parent,
                                                       const char *name);

/* The directory of VMs that are kept, or of those that go with their monitor. */
int kelpie__vm_directory_base(const struct kelpie_places *places, bool is_ephemeral);

/* IO, with what was tried and, where there is one, the way out. */
KELPIE_MUST_CHECK int kelpie__vm_directory_fail_io(struct kelpie_error *error, int status,
                                                   const char *what, const char *name);

#endif
