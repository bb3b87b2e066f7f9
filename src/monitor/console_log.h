/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Drains a guest's console, always and at once, into console.log and console.log.1: a guest that
 * prints for ever fills no disk and waits for nobody. Keeps the last lines for error messages, and
 * notices how the guest's kernel ended.
 */
#ifndef KELPIE_MONITOR_CONSOLE_LOG_H
#define KELPIE_MONITOR_CONSOLE_LOG_H

#include "core/loop.h"
#include "core/tail.h"
#include "monitor/log_file.h"

#define KELPIE_CONSOLE_MARK_COUNT 2u
#define KELPIE_CONSOLE_PANIC_BYTES_MAX 160u

struct kelpie_console_log {
    struct kelpie_os *os;     /* borrowed */
    struct kelpie_loop *loop; /* borrowed */
    struct kelpie_log_file log;
    struct kelpie_tail tail;
    int stream; /* owned; KELPIE_OS_NO_HANDLE while no VMM runs */
    uint32_t watch;
    struct kelpie_timer drain_timer;
    bool is_watched;
    uint32_t matched[KELPIE_CONSOLE_MARK_COUNT]; /* bytes of each mark seen so far */
    bool is_panic;                               /* the kernel said so since the last attach */
    bool is_reboot;                              /* an orderly restart */
    uint32_t panic_length;
    bool is_panic_open; /* the panic's line has not ended yet */
    char panic[KELPIE_CONSOLE_PANIC_BYTES_MAX];
};

KELPIE_MUST_CHECK int kelpie__console_log_open(struct kelpie_console_log *console,
                                               struct kelpie_os *os, struct kelpie_loop *loop,
                                               int directory, struct kelpie_error *error);

/* A new boot: takes the stream on success and forgets what the boot before it said. */
KELPIE_MUST_CHECK int kelpie__console_log_attach(struct kelpie_console_log *console, int stream,
                                                 struct kelpie_error *error);

/* The VMM is gone: reads what is left, up to a bound, and closes the stream. */
void kelpie__console_log_detach(struct kelpie_console_log *console);

void kelpie__console_log_close(struct kelpie_console_log *console);

#endif
