/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What tells the snapshots that this state directory exported from all others: a secret of its own,
 * STATE/origin-key, made when it is first asked for: by an export, or by an import, for the two may
 * be the ends of one pipe. Who has a copy of the file counts as the same.
 */
#ifndef KELPIE_STORE_ORIGIN_H
#define KELPIE_STORE_ORIGIN_H

#include "core/error.h"
#include "os/os.h"
#include "store/keyed_hash.h"

#define KELPIE_ORIGIN_FILE "origin-key"

struct kelpie_origin {
    struct kelpie_keyed_hash_key key;
    uint8_t name[KELPIE_KEYED_HASH_BYTES]; /* public: tells keys apart, says nothing of them */
};

/* Makes it when there is none. Errors: IO. */
KELPIE_MUST_CHECK int kelpie__origin_read(struct kelpie_origin *out, struct kelpie_os *os,
                                          const char *state_path, struct kelpie_error *error);

#endif
