/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The console's drain: see console_log.h. A few large reads now and then: fair to the execs.
 */
#include "monitor/console_log.h"

#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"

#define CONSOLE_READ_BYTES (64u * 1024u)
#define CONSOLE_LAST_READS_MAX 64u
#define CONSOLE_READS_PER_DRAIN_MAX 4u
#define CONSOLE_DRAIN_DELAY_NS (10 * KELPIE_NS_PER_MS)

enum console_mark { CONSOLE_MARK_PANIC, CONSOLE_MARK_REBOOT };

/* No mark has a proper prefix that is also a suffix of another of its prefixes longer than one
 * byte, so that a mismatch needs to look at the mismatching byte only once more. */
static const char *const console_marks[KELPIE_CONSOLE_MARK_COUNT] = {
    [CONSOLE_MARK_PANIC] = "Kernel panic - not syncing: ",
    [CONSOLE_MARK_REBOOT] = "reboot: Restarting system",
};

static bool console_mark_match(uint32_t *matched, const char *mark, char byte) {
    KELPIE_ASSERT(mark[*matched] != '\0');
    if (byte == mark[*matched]) {
        *matched += 1;
    } else {
        *matched = byte == mark[0] ? 1 : 0;
    }
    if (mark[*matched] != '\0') {
        return false;
    }
    *matched = 0;
    return true;
}

static void console_look(struct kelpie_console_log *console, const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        char byte = bytes[i];
        if (console->is_panic_open) {
            bool is_end =
                byte == '\n' || byte == '\r' || console->panic_length + 1 == sizeof(console->panic);
            if (is_end) {
                console->is_panic_open = false;
            } else {
                console->panic[console->panic_length] = byte >= ' ' && byte <= '~' ? byte : '?';
                console->panic_length += 1;
            }
        }
        bool is_panic = console_mark_match(&console->matched[CONSOLE_MARK_PANIC],
                                           console_marks[CONSOLE_MARK_PANIC], byte);
        if (is_panic && !console->is_panic) {
            console->is_panic = true;
            console->is_panic_open = true;
        }
        if (console_mark_match(&console->matched[CONSOLE_MARK_REBOOT],
                               console_marks[CONSOLE_MARK_REBOOT], byte)) {
            console->is_reboot = true;
        }
    }
    KELPIE_ASSERT(console->panic_length < sizeof(console->panic));
    KELPIE_ASSERT(console->panic[console->panic_length] == '\0');
}

/* Reads once. True while more may be there. */
static bool console_read(struct kelpie_console_log *console) {
    KELPIE_ASSERT(console->stream != KELPIE_OS_NO_HANDLE);
    char bytes[CONSOLE_READ_BYTES];
    int64_t count = kelpie__os_read(console->os, console->stream, bytes, sizeof(bytes));
    if (count > 0) {
        KELPIE_ASSERT((uint64_t)count <= sizeof(bytes));
        kelpie__log_file_append(&console->log, bytes, (size_t)count);
        kelpie__tail_append(&console->tail, bytes, (size_t)count);
        console_look(console, bytes, (size_t)count);
        return true;
    }
    if (count == -EAGAIN || count == -EINTR) {
        return false;
    }
    /* The end, or a broken stream. The VMM's own end is what will be reported. */
    if (console->is_watched) {
        kelpie__timer_disarm(console->loop, &console->drain_timer);
        kelpie__loop_unwatch(console->loop, console->watch);
        console->is_watched = false;
    }
    return false;
}

static void console_drain_due(void *context) {
    struct kelpie_console_log *console = context;
    KELPIE_ASSERT(console->is_watched);
    KELPIE_ASSERT(console->stream != KELPIE_OS_NO_HANDLE);
    bool is_more = true;
    for (uint32_t i = 0; i < CONSOLE_READS_PER_DRAIN_MAX && is_more; i += 1) {
        is_more = console_read(console);
    }
    if (console->is_watched) {
        kelpie__loop_watch_change(console->loop, console->watch, KELPIE_OS_READABLE);
    }
}

/* The serial port writes byte by byte. What comes within a moment is read at once, so that a guest
 * that prints without end costs neither side a wake-up for each byte; its port is then about as
 * fast as a real one of 115,200 baud. */
static void console_ready(void *context, uint32_t bits) {
    struct kelpie_console_log *console = context;
    KELPIE_ASSERT(console->is_watched);
    KELPIE_ASSERT(bits != 0);
    kelpie__loop_watch_change(console->loop, console->watch, 0);
    kelpie__timer_arm(console->loop, &console->drain_timer,
                      console->loop->now_ns + CONSOLE_DRAIN_DELAY_NS, console_drain_due, console);
}

int kelpie__console_log_open(struct kelpie_console_log *console, struct kelpie_os *os,
                             struct kelpie_loop *loop, int directory, struct kelpie_error *error) {
    struct kelpie_console_log made = {.os = os, .loop = loop, .stream = KELPIE_OS_NO_HANDLE};
    int status = kelpie__log_file_open(&made.log, os, directory, "console.log",
                                       KELPIE_CONSOLE_LOG_BYTES, error);
    if (status < 0) {
        return status;
    }
    static_assert(CONSOLE_READ_BYTES <= KELPIE_CONSOLE_LOG_BYTES, "one read fits one file");
    *console = made;
    return 0;
}

int kelpie__console_log_attach(struct kelpie_console_log *console, int stream,
                               struct kelpie_error *error) {
    KELPIE_ASSERT(console->stream == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(!console->is_watched);
    int status = kelpie__loop_watch(console->loop, stream, KELPIE_OS_READABLE, console_ready,
                                    console, &console->watch);
    if (status < 0) {
        return kelpie__fail(error, status, 0, "watch the console");
    }
    console->is_watched = true;
    console->stream = stream;
    console->is_panic = false;
    console->is_panic_open = false;
    console->is_reboot = false;
    console->panic_length = 0;
    memset(console->panic, 0, sizeof(console->panic));
    memset(console->matched, 0, sizeof(console->matched));
    memset(&console->tail, 0, sizeof(console->tail));
    return 0;
}

void kelpie__console_log_detach(struct kelpie_console_log *console) {
    if (console->stream == KELPIE_OS_NO_HANDLE) {
        return;
    }
    kelpie__timer_disarm(console->loop, &console->drain_timer);
    bool is_more = true;
    for (uint32_t i = 0; i < CONSOLE_LAST_READS_MAX && is_more; i += 1) {
        is_more = console_read(console);
    }
    if (console->is_watched) {
        kelpie__loop_unwatch(console->loop, console->watch);
        console->is_watched = false;
    }
    kelpie__ignore(kelpie__os_close(console->os, console->stream)); /* nothing is pending on it */
    console->stream = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(!console->is_watched);
}

void kelpie__console_log_close(struct kelpie_console_log *console) {
    if (console->os != NULL) {
        kelpie__console_log_detach(console);
        kelpie__log_file_close(&console->log);
        KELPIE_ASSERT(console->stream == KELPIE_OS_NO_HANDLE);
    }
}
