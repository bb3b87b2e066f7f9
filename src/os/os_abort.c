/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of the process at a bug of our own: one line on standard error, then abort. No memory, no
 * stdio.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base.h"

static void put(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    kelpie__ignore(written); /* there is nobody else to tell */
}

void kelpie__assert_failed(const char *expression, const char *file, int line,
                           const char *function) {
    char digits[12];
    size_t at = sizeof(digits) - 1;
    digits[at] = '\0';
    for (unsigned left = line > 0 ? (unsigned)line : 0; at > 0 && (left > 0 || digits[at] == '\0');
         left /= 10) {
        at -= 1;
        digits[at] = (char)('0' + left % 10);
    }
    put("kelpie: assertion failed: ");
    put(expression);
    put(" (");
    put(file);
    put(":");
    put(digits + at);
    put(", ");
    put(function);
    put("); this is a bug of Kelpie's own, please report it\n");
    abort();
}
