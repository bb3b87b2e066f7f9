/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See event_log.h.
 */
#include "monitor/event_log.h"

#include <stdarg.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/state.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"

#define EVENT_DETAIL_BYTES 2048u
#define EVENT_LINE_BYTES (6u * EVENT_DETAIL_BYTES + 256u) /* every byte escaped */

int kelpie__event_log_open(struct kelpie_event_log *events, struct kelpie_os *os, int directory,
                           struct kelpie_error *error) {
    return kelpie__log_file_open(&events->log, os, directory, KELPIE_VM_EVENTS_FILE,
                                 KELPIE_EVENT_LOG_BYTES, error);
}

void kelpie__event_log_close(struct kelpie_event_log *events) {
    kelpie__log_file_close(&events->log);
}

void kelpie__event_log_write(struct kelpie_monitor *monitor, const char *type, const char *format,
                             ...) {
    char detail[EVENT_DETAIL_BYTES];
    char line[EVENT_LINE_BYTES];
    struct kelpie_json_writer writer;
    va_list arguments;
    va_start(arguments, format);
    kelpie__text_format_list(detail, sizeof(detail), format, arguments); /* a cut one will do */
    va_end(arguments);
    kelpie__json_begin(&writer, line, sizeof(line) - 1);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_i64(&writer, "time_ms",
                           kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS);
    kelpie__json_write_string(&writer, "type", type);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(monitor->lifecycle.state));
    kelpie__json_write_string(&writer, "detail", detail);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0 && (size_t)length + 1 < sizeof(line));
    kelpie__clients_publish(&monitor->clients, line);
    line[length] = '\n';
    kelpie__log_file_append(&monitor->events.log, line, (size_t)length + 1);
}
