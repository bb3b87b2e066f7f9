/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
#include <stdio.h>

int kelpie_warning(const char *text);

int kelpie_warning(const char *text) {
    return printf(text);
}
