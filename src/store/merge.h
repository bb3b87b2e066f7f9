/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The layers of a disk made into one raw image: what is in the lowest is copied, then each layer
 * above it is laid over that. The files are only read; none of them may be written meanwhile.
 */
#ifndef KELPIE_STORE_MERGE_H
#define KELPIE_STORE_MERGE_H

#include "core/error.h"
#include "os/os.h"

/* Writes what a qcow2 layer has, whatever it says of what is below it, over `to`, a raw image of
 * the same size. `name`: the layer's, for messages. Errors: SNAPSHOT_CORRUPTED (it cannot be read),
 * IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__merge_layer(struct kelpie_os *os, int layer, const char *name, int to,
                                          struct kelpie_error *error);

#endif
