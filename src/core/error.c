/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See error.h. Messages are cut at a character, never silently longer than their buffer; texts of
 * errno values are ours, since strerror asks the locale and is not thread-safe. Whatever was put
 * into a message, it is UTF-8 without control characters.
 */
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"

static const struct {
    int value;
    const char *name;
    const char *text;
} errno_table[] = {
    {EPERM, "EPERM", "operation not permitted"},
    {ENOENT, "ENOENT", "no such file or directory"},
    {ESRCH, "ESRCH", "no such process"},
    {EINTR, "EINTR", "interrupted"},
    {EIO, "EIO", "input/output error"},
    {ENXIO, "ENXIO", "no such device or address"},
    {E2BIG, "E2BIG", "argument list too long"},
    {ENOEXEC, "ENOEXEC", "not an executable format"},
    {EBADF, "EBADF", "bad file descriptor"},
    {ECHILD, "ECHILD", "no child process"},
    {EAGAIN, "EAGAIN", "resource temporarily unavailable"},
    {ENOMEM, "ENOMEM", "out of memory"},
    {EACCES, "EACCES", "permission denied"},
    {EFAULT, "EFAULT", "bad address"},
    {EBUSY, "EBUSY", "device or resource busy"},
    {EEXIST, "EEXIST", "file exists"},
    {EXDEV, "EXDEV", "on another file system"},
    {ENODEV, "ENODEV", "no such device"},
    {ENOTDIR, "ENOTDIR", "not a directory"},
    {EISDIR, "EISDIR", "is a directory"},
    {EINVAL, "EINVAL", "invalid argument"},
    {ENFILE, "ENFILE", "too many open files in the system"},
    {EMFILE, "EMFILE", "too many open files in this process"},
    {ENOTTY, "ENOTTY", "not a terminal"},
    {ETXTBSY, "ETXTBSY", "file is being executed"},
    {EFBIG, "EFBIG", "file too large"},
    {ENOSPC, "ENOSPC", "no space left on device"},
    {ESPIPE, "ESPIPE", "cannot seek"},
    {EROFS, "EROFS", "read-only file system"},
    {EMLINK, "EMLINK", "too many links"},
    {EPIPE, "EPIPE", "broken pipe"},
    {ERANGE, "ERANGE", "result too large"},
    {EDEADLK, "EDEADLK", "would deadlock"},
    {ENAMETOOLONG, "ENAMETOOLONG", "file name too long"},
    {ENOSYS, "ENOSYS", "not implemented by this kernel"},
    {ENOTEMPTY, "ENOTEMPTY", "directory not empty"},
    {ELOOP, "ELOOP", "a symbolic link where none is followed"},
    {EPROTO, "EPROTO", "protocol error"},
    {EOVERFLOW, "EOVERFLOW", "value too large"},
    {ENOTSOCK, "ENOTSOCK", "not a socket"},
    {EOPNOTSUPP, "EOPNOTSUPP", "not supported"},
    {EADDRINUSE, "EADDRINUSE", "address in use"},
    {ECONNABORTED, "ECONNABORTED", "connection aborted"},
    {ECONNRESET, "ECONNRESET", "connection reset by peer"},
    {ENOBUFS, "ENOBUFS", "no buffer space"},
    {ENOTCONN, "ENOTCONN", "not connected"},
    {ETIMEDOUT, "ETIMEDOUT", "timed out"},
    {ECONNREFUSED, "ECONNREFUSED", "connection refused"},
    {EDQUOT, "EDQUOT", "disk quota exceeded"},
};

const char *kelpie__errno_name(int os_error) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(errno_table); i += 1) {
        if (errno_table[i].value == os_error) {
            return errno_table[i].name;
        }
    }
    return NULL;
}

const char *kelpie__errno_text(int os_error) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(errno_table); i += 1) {
        if (errno_table[i].value == os_error) {
            return errno_table[i].text;
        }
    }
    return NULL;
}

static void append_os_error(struct kelpie_error *error, int os_error) {
    KELPIE_ASSERT(os_error > 0);
    const char *name = kelpie__errno_name(os_error);
    if (name == NULL) {
        kelpie__fail_append(error, ": errno %d", os_error);
    } else {
        kelpie__fail_append(error, ": %s (%s)", kelpie__errno_text(os_error), name);
    }
}

KELPIE_PRINTF(5, 0)
static int fail_list(struct kelpie_error *error, int code, int os_error, const char *field,
                     const char *format, va_list arguments) {
    KELPIE_ASSERT(code < 0 && code >= KELPIE_CODE_LAST);
    KELPIE_ASSERT(os_error >= 0);
    if (error == NULL) {
        return code;
    }
    error->code = code;
    error->os_error = os_error;
    kelpie__ignore(kelpie__text_copy(error->field, sizeof(error->field), field));
    kelpie__text_format_list(error->message, sizeof(error->message), format, arguments);
    kelpie__text_trim(error->message);
    kelpie__text_clean(error->message);
    if (os_error > 0) {
        append_os_error(error, os_error);
    }
    return code;
}

int kelpie__fail(struct kelpie_error *error, int code, int os_error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int status = fail_list(error, code, os_error, "", format, arguments);
    va_end(arguments);
    return status;
}

int kelpie__fail_field(struct kelpie_error *error, int code, const char *field, const char *format,
                       ...) {
    va_list arguments;
    va_start(arguments, format);
    int status = fail_list(error, code, 0, field, format, arguments);
    va_end(arguments);
    return status;
}

int kelpie__fail_prefix(struct kelpie_error *error, const char *format, ...) {
    char prefix[512];
    if (error == NULL) {
        return KELPIE_E_INTERNAL; /* the caller keeps its own status when there is nobody to tell */
    }
    KELPIE_ASSERT(error->code < 0);
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(prefix, sizeof(prefix) - 2, format, arguments));
    va_end(arguments);
    kelpie__text_trim(prefix);
    kelpie__text_clean(prefix);
    size_t added = strlen(prefix);
    memcpy(prefix + added, ": ", 3);
    added += 2;
    size_t kept = strlen(error->message);
    if (added + kept >= sizeof(error->message)) {
        kept = sizeof(error->message) - added - 1;
    }
    memmove(error->message + added, error->message, kept);
    memcpy(error->message, prefix, added);
    error->message[added + kept] = '\0';
    kelpie__text_trim(error->message);
    KELPIE_ASSERT(strlen(error->message) < sizeof(error->message));
    return error->code;
}

void kelpie__fail_append(struct kelpie_error *error, const char *format, ...) {
    if (error == NULL) {
        return;
    }
    size_t length = strlen(error->message);
    KELPIE_ASSERT(length < sizeof(error->message));
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(
        vsnprintf(error->message + length, sizeof(error->message) - length, format, arguments));
    va_end(arguments);
    kelpie__text_trim(error->message);
    kelpie__text_clean(error->message + length);
}
