/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the libkrun of this host can do, as kelpie-krun tells it: nothing else loads it.
 */
#ifndef KELPIE_LIB_LIBKRUN_H
#define KELPIE_LIB_LIBKRUN_H

#include "lib/internal.h"

struct kelpie_libkrun {
    char version[64];
    char lacks[512];   /* ", without CALL, CALL": those that not every libkrun has; or "" */
    char missing[512]; /* why it cannot be used; "": it can */
};

/* Blocks until kelpie-krun has told it. */
KELPIE_MUST_CHECK int kelpie__libkrun_ask(struct kelpie *kelpie, struct kelpie_libkrun *out,
                                          struct kelpie_error *error);

#endif
