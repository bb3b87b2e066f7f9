/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What happened to the VM, a JSON object a line, in events.log (bounded), and to the clients that
 * subscribed.
 */
#ifndef KELPIE_MONITOR_EVENT_LOG_H
#define KELPIE_MONITOR_EVENT_LOG_H

#include "core/base.h"
#include "monitor/log_file.h"

struct kelpie_monitor;

struct kelpie_event_log {
    struct kelpie_log_file log;
};

KELPIE_MUST_CHECK int kelpie__event_log_open(struct kelpie_event_log *events, struct kelpie_os *os,
                                             int directory, struct kelpie_error *error);
void kelpie__event_log_close(struct kelpie_event_log *events);

/* `type`: "state", "exec_started", "exec_exited", "snapshot" or "notice". */
KELPIE_PRINTF(3, 4)
void kelpie__event_log_write(struct kelpie_monitor *monitor, const char *type, const char *format,
                             ...);

#endif
