/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Copies of large sparse files: shared blocks where the file system can, else the data, with the
 * holes left out.
 */
#ifndef KELPIE_STORE_COPY_H
#define KELPIE_STORE_COPY_H

#include "core/base.h"
#include "os/os.h"

/* `to` is empty, and gets the size of `from` and its content. 0 or a negative errno value. */
KELPIE_MUST_CHECK int kelpie__copy_file(struct kelpie_os *os, int from, int to);

#endif
