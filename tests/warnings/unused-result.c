/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
#include "core/base.h"

KELPIE_MUST_CHECK int kelpie_warning_callee(void);
void kelpie_warning(void);

void kelpie_warning(void) {
    kelpie_warning_callee();
}
