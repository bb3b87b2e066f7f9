/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The error model inside Kelpie: how an error is born, gains context on its way up, and is mapped
 * to and from errno. The public half (struct kelpie_error, the codes) is include/kelpie.h, which
 * this header includes for its types only.
 */
#ifndef KELPIE_CORE_ERROR_H
#define KELPIE_CORE_ERROR_H

#include "kelpie.h"

#include "core/base.h"

/* Writes the error (which may be NULL) and returns `code`, so that an error is one expression at
 * its place of birth: return kelpie__fail(error, KELPIE_E_IO, errno_value, "open \"%s\"", path);
 * `os_error` is a positive errno value or 0; its name and text are appended to the message when it
 * is not 0. */
KELPIE_PRINTF(4, 5)
int kelpie__fail(struct kelpie_error *error, int code, int os_error, const char *format, ...);

/* Same, and records which field of a configuration or option was at fault (for example
 * "memory_mib"). */
KELPIE_PRINTF(4, 5)
int kelpie__fail_field(struct kelpie_error *error, int code, const char *field, const char *format,
                       ...);

/* Puts "text: " before the message that is already there. Returns the error's code unchanged. */
KELPIE_PRINTF(2, 3)
int kelpie__fail_prefix(struct kelpie_error *error, const char *format, ...);

/* Appends to the message, after what is there. */
KELPIE_PRINTF(2, 3)
void kelpie__fail_append(struct kelpie_error *error, const char *format, ...);

/* "ENOENT" and "no such file or directory" for a positive errno value; "errno 4095" style text for
 * an unknown one is written by kelpie__fail itself. Static strings: strerror is neither thread-safe
 * nor deterministic. */
const char *kelpie__errno_name(int os_error);
const char *kelpie__errno_text(int os_error);

#endif
