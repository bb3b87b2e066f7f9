/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a qcow2 image says of others, and whether it can be given to a VMM: it could name any file
 * of the host as the one below it, or as the one that has its data.
 */
#ifndef KELPIE_STORE_QCOW2_H
#define KELPIE_STORE_QCOW2_H

#include "core/error.h"
#include "os/os.h"

/* The image names exactly this file as the one below it, of this format ("raw", "qcow2"); both "":
 * none. `name`: its own, for messages. SNAPSHOT_CORRUPTED, IO. */
KELPIE_MUST_CHECK int kelpie__qcow2_check(struct kelpie_os *os, int file, const char *name,
                                          const char *backing_name, const char *backing_format,
                                          struct kelpie_error *error);

/* Makes a layer say that this file, of this format, is below it. It must not be open elsewhere, or
 * only where nobody looks at that again. Nothing is written when it says so already. */
KELPIE_MUST_CHECK int kelpie__qcow2_rebase(struct kelpie_os *os, int file, const char *name,
                                           const char *backing_name, const char *backing_format,
                                           struct kelpie_error *error);

#endif
