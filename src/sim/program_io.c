/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What programs of guests do again and again: waiting reads and writes on a table whose calls do
 * not wait, output, numbers and names.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "sim/machine.h"
#include "sim/programs.h"

#define IO_ROUNDS_MAX 1000000u /* of waiting for one handle */

/* Until the handle may be ready. Negative: it cannot be waited for. A program that blocks in
 * read(2) needs no memory for it: where a fault says that there is none, it looks again in a
 * moment. */
static int io_wait(struct kelpie_os *os, int handle, uint32_t bits) {
    struct kelpie_os_event event;
    int status = kelpie__os_watch(os, handle, bits, (uint64_t)(uint32_t)handle);
    if (status == -ENOMEM) {
        int64_t now_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
        status = kelpie__os_wait(os, &event, 1, now_ns + KELPIE_NS_PER_MS);
        return status < 0 ? status : 0;
    }
    if (status < 0) {
        return status;
    }
    status = kelpie__os_wait(os, &event, 1, -1);
    int forgotten = kelpie__os_watch(os, handle, 0, 0);
    KELPIE_ASSERT(forgotten == 0 || status < 0);
    return status < 0 ? status : 0;
}

int64_t kelpie__sim_read_wait(struct kelpie_os *os, int handle, void *out, size_t count) {
    int64_t result = -EAGAIN;
    for (uint32_t i = 0; i < IO_ROUNDS_MAX && result == -EAGAIN; i += 1) {
        result = kelpie__os_read(os, handle, out, count);
        if (result == -EAGAIN) {
            int status = io_wait(os, handle, KELPIE_OS_READABLE);
            result = status < 0 ? status : -EAGAIN;
        }
    }
    return result;
}

int64_t kelpie__sim_write_wait(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    int64_t result = -EAGAIN;
    for (uint32_t i = 0; i < IO_ROUNDS_MAX && result == -EAGAIN; i += 1) {
        result = kelpie__os_write(os, handle, bytes, count);
        if (result == -EAGAIN) {
            int status = io_wait(os, handle, KELPIE_OS_WRITABLE);
            result = status < 0 ? status : -EAGAIN;
        }
    }
    if (result == -EPIPE) { /* write(2) without a reader; the table leaves the signal to programs */
        kelpie__sim_process_signal(kelpie__sim_process_of(os), SIGPIPE);
    }
    return result;
}

int kelpie__sim_write_all(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    size_t written = 0;
    if (handle < 0) {
        return -EBADF; /* `>&-` */
    }
    while (written < count) {
        int64_t result =
            kelpie__sim_write_wait(os, handle, (const char *)bytes + written, count - written);
        if (result <= 0) {
            return result == 0 ? -EIO : (int)result;
        }
        written += (size_t)result;
    }
    KELPIE_ASSERT(written == count);
    return 0;
}

void kelpie__sim_sleep(struct kelpie_os *os, int64_t duration_ns) {
    KELPIE_ASSERT(duration_ns >= 0);
    int64_t deadline_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) + duration_ns;
    for (uint32_t i = 0; i < IO_ROUNDS_MAX; i += 1) {
        struct kelpie_os_event event;
        int status = kelpie__os_wait(os, &event, 1, deadline_ns);
        if (status <= 0 || kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) >= deadline_ns) {
            return;
        }
    }
}

void kelpie__sim_work(struct kelpie_os *os, int64_t duration_ns) {
    struct sim_process *process = kelpie__sim_process_of(os);
    KELPIE_ASSERT(duration_ns >= 0);
    process->cpu_ns += (uint64_t)duration_ns;
    kelpie__sim_process_sleep(process, duration_ns);
}

bool kelpie__sim_put(const struct sim_stdio *io, const char *text) {
    return kelpie__sim_write_all(io->os, io->out, text, strlen(text)) == 0;
}

bool kelpie__sim_print(const struct sim_stdio *io, const char *format, ...) {
    char text[SIM_PROGRAM_BUFFER_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    return kelpie__sim_put(io, text);
}

void kelpie__sim_complain(const struct sim_stdio *io, const char *format, ...) {
    char text[1024];
    int prefix = snprintf(text, sizeof(text), "%.100s: ", io->name);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text + prefix, sizeof(text) - (size_t)prefix - 1, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    size_t count = strlen(text);
    text[count] = '\n';
    /* A complaint that nobody hears changes nothing. */
    kelpie__ignore(kelpie__sim_write_all(io->os, io->err, text, count + 1));
}

const char *kelpie__sim_errno_text(int status) {
    switch (-status) {
    case ENOENT:
        return "No such file or directory";
    case EACCES:
        return "Permission denied";
    case EEXIST:
        return "File exists";
    case ENOTDIR:
        return "Not a directory";
    case EISDIR:
        return "Is a directory";
    case EROFS:
        return "Read-only file system";
    case ENOSPC:
        return "No space left on device";
    case EPERM:
        return "Operation not permitted";
    case ESRCH:
        return "No such process";
    case ENOTEMPTY:
        return "Directory not empty";
    case EINVAL:
        return "Invalid argument";
    case EPIPE:
        return "Broken pipe";
    default:
        return kelpie__errno_text(-status);
    }
}

/* Digits with a fraction, in billionths; moves *inout behind them. -1: none, or too large. */
static int64_t io_parse_decimal(const char **inout) {
    const char *at = *inout;
    uint64_t whole = 0;
    uint64_t fraction = 0;
    uint64_t unit = 1000000000;
    const char *begin = at;
    for (; *at >= '0' && *at <= '9' && whole < 1000000000; at += 1) {
        whole = whole * 10 + (uint64_t)(*at - '0');
    }
    bool has_digits = at > begin;
    if (*at == '.') {
        for (at += 1; *at >= '0' && *at <= '9'; at += 1) {
            unit /= 10;
            fraction += unit * (uint64_t)(*at - '0');
            has_digits = true;
        }
    }
    if (!has_digits || whole >= 1000000000) {
        return -1;
    }
    *inout = at;
    return (int64_t)(whole * 1000000000 + fraction);
}

int64_t kelpie__sim_parse_duration(const char *text) {
    static const struct {
        const char *name;
        int64_t factor;
        int64_t divisor;
    } units[] = {{"", 1, 1},         {"s", 1, 1},  {"ms", 1, 1000},
                 {"us", 1, 1000000}, {"m", 60, 1}, {"h", 3600, 1}};
    int64_t value = io_parse_decimal(&text);
    for (size_t i = 0; value >= 0 && i < KELPIE_ARRAY_COUNT(units); i += 1) {
        if (strcmp(text, units[i].name) == 0 && value < INT64_MAX / 3600) {
            return value / units[i].divisor * units[i].factor;
        }
    }
    return -1;
}

int64_t kelpie__sim_parse_bytes(const char *text) {
    uint64_t value = 0;
    size_t digits = strspn(text, "0123456789");
    char number[20];
    if (digits == 0 || digits >= sizeof(number)) {
        return -1;
    }
    memcpy(number, text, digits);
    number[digits] = '\0';
    if (!kelpie__text_u64(number, &value) || value > INT64_MAX >> 31) {
        return -1;
    }
    const char *unit = text + digits;
    unsigned shift = unit[0] == 'k' || unit[0] == 'K'   ? 10
                     : unit[0] == 'M' || unit[0] == 'm' ? 20
                     : unit[0] == 'G'                   ? 30
                                                        : 0;
    bool is_known = unit[0] == '\0' || (shift > 0 && unit[1] == '\0');
    return is_known ? (int64_t)(value << shift) : -1;
}

static const struct {
    int number;
    const char *name;
} io_signals[] = {
    {SIGHUP, "HUP"},   {SIGINT, "INT"},   {SIGQUIT, "QUIT"}, {SIGABRT, "ABRT"},   {SIGKILL, "KILL"},
    {SIGUSR1, "USR1"}, {SIGSEGV, "SEGV"}, {SIGUSR2, "USR2"}, {SIGPIPE, "PIPE"},   {SIGALRM, "ALRM"},
    {SIGTERM, "TERM"}, {SIGCHLD, "CHLD"}, {SIGCONT, "CONT"}, {SIGSTOP, "STOP"},   {SIGTSTP, "TSTP"},
    {SIGTTIN, "TTIN"}, {SIGTTOU, "TTOU"}, {SIGXCPU, "XCPU"}, {SIGWINCH, "WINCH"}, {SIGPWR, "PWR"},
};

int kelpie__sim_parse_signal(const char *text) {
    uint64_t number = 0;
    if (kelpie__text_u64(text, &number)) {
        return number <= 64 ? (int)number : -1;
    }
    const char *name = strncmp(text, "SIG", 3) == 0 ? text + 3 : text;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(io_signals); i += 1) {
        if (strcmp(io_signals[i].name, name) == 0) {
            return io_signals[i].number;
        }
    }
    return -1;
}

const char *kelpie__sim_signal_name(int signal) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(io_signals); i += 1) {
        if (io_signals[i].number == signal) {
            return io_signals[i].name;
        }
    }
    return NULL;
}

void kelpie__sim_wait_child(struct kelpie_os *os, int process, struct kelpie_os_exit *out) {
    int status = -EAGAIN;
    for (uint32_t i = 0; i < IO_ROUNDS_MAX && status == -EAGAIN; i += 1) {
        status = kelpie__os_reap(os, process, out);
        if (status == -EAGAIN && io_wait(os, process, KELPIE_OS_READABLE) < 0) {
            status = -ECHILD;
        }
    }
    if (status < 0) {
        *out = (struct kelpie_os_exit){.value = 127};
    }
    kelpie__ignore(kelpie__os_close(os, process));
}

int kelpie__sim_find_program(struct kelpie_os *os, const char *path_variable, const char *name,
                             char *out, size_t capacity) {
    struct kelpie_os_stat stat;
    bool was_found = false;
    if (strchr(name, '/') != NULL) {
        return kelpie__text_copy(out, capacity, name) ? 0 : -ENOENT;
    }
    const char *at = path_variable == NULL ? SIM_PROGRAM_PATH_DEFAULT : path_variable;
    while (at != NULL && name[0] != '\0') {
        const char *colon = strchr(at, ':');
        int length = colon == NULL ? (int)strnlen(at, SIM_PATH_BYTES_MAX) : (int)(colon - at);
        int written = snprintf(out, capacity, "%.*s/%s", length, at, name);
        bool is_whole = written > 0 && (size_t)written < capacity;
        if (is_whole && kelpie__os_stat(os, KELPIE_OS_CWD, out, true, &stat) == 0 &&
            stat.kind == KELPIE_OS_KIND_FILE) {
            was_found = true;
            if ((stat.mode & 0111) != 0) {
                return 0;
            }
        }
        at = colon == NULL ? NULL : colon + 1;
    }
    return was_found ? -EACCES : -ENOENT;
}
