/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The one line on stderr.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "pack/pack.h"

int kelpie__pack_fail(int error_number, const char *format, ...) {
    char line[2048];
    va_list arguments;
    KELPIE_ASSERT(error_number >= 0);
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    for (char *at = line; *at != '\0'; at += 1) { /* a name may hold a newline */
        *at = *at == '\n' ? ' ' : *at;
    }
    fprintf(stderr, "%s%s%s\n", line, error_number == 0 ? "" : ": ",
            error_number == 0 ? "" : strerror(error_number));
    bool is_full = error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG;
    bool is_system = error_number == EIO || error_number == EROFS || error_number == ENOMEM ||
                     error_number == EMFILE || error_number == ENFILE || error_number == EAGAIN;
    KELPIE_ASSERT(!(is_full && is_system));
    return is_full ? KELPIE_PACK_NO_SPACE : is_system ? KELPIE_PACK_SYSTEM : KELPIE_PACK_FAILED;
}
