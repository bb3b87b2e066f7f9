/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
#include "core/error.h"

int kelpie_warning(struct kelpie_error *error);

int kelpie_warning(struct kelpie_error *error) {
    return kelpie__fail(error, -1, 0, "%s", 1);
}
