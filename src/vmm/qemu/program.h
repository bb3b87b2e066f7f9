/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Where QEMU is on this host.
 */
#ifndef KELPIE_VMM_QEMU_PROGRAM_H
#define KELPIE_VMM_QEMU_PROGRAM_H

#include "core/error.h"
#include "os/os.h"

/* KELPIE_QEMU from the environment, else qemu-system-x86_64 in PATH. An absolute path without
 * links. Errors: KELPIE_E_UNAVAILABLE, which names the package. */
KELPIE_MUST_CHECK int kelpie__qemu_program_find(struct kelpie_os *os, char *out, size_t capacity,
                                                struct kelpie_error *error);

#endif
