/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the driver is told: see krun.h. A driver that is gone is no reason to fail: this process
 * dies with it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "krun/krun.h"

static_assert(KELPIE_KRUN_LINE_BYTES_MAX >= 256, "an error has room beside its kind");

KELPIE_PRINTF(2, 0)
static void status_line(const char *kind, const char *format, va_list arguments) {
    char line[KELPIE_KRUN_LINE_BYTES_MAX];
    size_t used = strlen(kind);
    KELPIE_ASSERT(used < sizeof(line) / 2);
    memcpy(line, kind, used);
    int length = vsnprintf(line + used, sizeof(line) - used - 1, format, arguments);
    KELPIE_ASSERT(length >= 0);
    size_t room = sizeof(line) - used - 2;
    used += (size_t)length < room ? (size_t)length : room;
    for (char *at = line; at < line + used; at += 1) {
        *at = *at == '\n' ? ' ' : *at; /* one line, whatever a system's message holds */
    }
    KELPIE_ASSERT(used < sizeof(line));
    line[used] = '\n';
    kelpie__ignore(write(KELPIE_KRUN_STATUS, line, used + 1));
}

void kelpie__krun_tell_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    status_line("error ", format, arguments);
    va_end(arguments);
}

void kelpie__krun_tell_missing(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    status_line("missing ", format, arguments);
    va_end(arguments);
}

void kelpie__krun_tell(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    status_line("", format, arguments);
    va_end(arguments);
}

void kelpie__krun_tell_call(const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    kelpie__krun_tell("call %s", name);
}
