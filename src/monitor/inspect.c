/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See inspect.h. What the guest has to say is asked of it with a deadline; what the host knows is
 * read from proc(5).
 */
#include "monitor/inspect.h"

#include <string.h>

#include "core/json.h"
#include "core/small_file.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

#define INSPECT_TEXT_BYTES 16384u
/* proc_pid_stat(5): clock ticks, 100 a second on every architecture of ours */
#define INSPECT_TICK_MS 10u
#define INSPECT_PAGE_KIB 4u
#define INSPECT_DETAIL_BYTES_MAX 120u
#define INSPECT_STATS_TIMEOUT_MS 5000u

void kelpie__inspect_state(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    char text[INSPECT_TEXT_BYTES];
    struct kelpie_json_writer writer;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "id", monitor->config.id);
    kelpie__json_write_string(&writer, "name", monitor->config.name);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(monitor->lifecycle.state));
    kelpie__json_write_i64(&writer, "changed_ms", record->changed_ms);
    kelpie__json_write_string(&writer, "reason", record->reason);
    kelpie__json_write_string(&writer, "backend", record->backend);
    kelpie__json_write_string(&writer, "backend_reason", record->backend_reason);
    kelpie__json_write_string(&writer, "pause", record->pause);
    kelpie__json_write_string(&writer, "accelerator", record->accelerator);
    kelpie__json_write_string(&writer, "accelerator_reason", record->accelerator_reason);
    kelpie__json_write_u64(&writer, "boot_us", record->boot_us);
    kelpie__json_write_i64(&writer, "monitor_pid", monitor->identity.pid);
    kelpie__json_write_i64(&writer, "vmm_pid", record->vmm_pid);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    kelpie__reply_result(monitor, &reply, text);
}

/* ---- figures of the host --------------------------------------------------------------------- */

/* The index-th number of a line of proc(5), counted from 0 after `skip`. */
static uint64_t field_u64(const char *line, uint32_t index) {
    char digits[24];
    uint64_t value = 0;
    for (uint32_t i = 0; i < index && line != NULL; i += 1) {
        line = strchr(line, ' ');
        line = line != NULL ? line + 1 : NULL;
    }
    size_t length = line != NULL ? strspn(line, "0123456789") : 0;
    if (length == 0 || length >= sizeof(digits)) {
        return 0;
    }
    memcpy(digits, line, length);
    digits[length] = '\0';
    return kelpie__text_u64(digits, &value) ? value : 0;
}

static uint64_t vmm_cpu_ms(struct kelpie_os *os, int32_t pid) {
    char path[64];
    char text[1024];
    kelpie__ignore(kelpie__text_format(path, sizeof(path), "/proc/%d/stat", pid));
    if (kelpie__small_file_read_start(os, path, text, sizeof(text)) <= 0) {
        return 0;
    }
    const char *after_name = strrchr(text, ')'); /* the name may hold anything */
    if (after_name == NULL || after_name[1] != ' ') {
        return 0;
    }
    /* utime and stime are fields 14 and 15; the one after the name is the third. */
    return (field_u64(after_name + 2, 11) + field_u64(after_name + 2, 12)) * INSPECT_TICK_MS;
}

uint64_t kelpie__inspect_memory_kib(struct kelpie_os *os, int32_t pid) {
    char path[64];
    char text[256];
    kelpie__ignore(kelpie__text_format(path, sizeof(path), "/proc/%d/statm", pid));
    if (kelpie__small_file_read_start(os, path, text, sizeof(text)) <= 0) {
        return 0;
    }
    return field_u64(text, 1) * INSPECT_PAGE_KIB;
}

static uint64_t directory_kib(struct kelpie_os *os, int directory) {
    char name[256];
    uint64_t cursor = 0;
    uint64_t bytes = 0;
    struct kelpie_os_stat status;
    /* bound: the directory */
    while (kelpie__os_list(os, directory, &cursor, name, sizeof(name)) == 1) {
        if (kelpie__os_stat(os, directory, name, false, &status) == 0) {
            bytes += status.allocated_bytes;
        }
    }
    return bytes / 1024;
}

static void write_host_stats(struct kelpie_json_writer *writer, struct kelpie_monitor *monitor) {
    int32_t pid = monitor->lifecycle.vmm != NULL ? monitor->lifecycle.vmm->pid : 0;
    kelpie__json_write_u64(writer, "exec_count", kelpie__relay_live_count(&monitor->relay));
    kelpie__json_write_u64(writer, "host_cpu_ms", pid > 0 ? vmm_cpu_ms(monitor->os, pid) : 0);
    kelpie__json_write_u64(writer, "host_memory_kib",
                           pid > 0 ? kelpie__inspect_memory_kib(monitor->os, pid) : 0);
    kelpie__json_write_u64(writer, "host_disk_kib",
                           directory_kib(monitor->os, monitor->directory.vm));
}

/* The guest's own fields are passed on; ours come first, and of equal keys the first counts. */
static void stats_reply(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                        const char *guest, size_t guest_length) {
    char text[INSPECT_TEXT_BYTES];
    struct kelpie_json_writer writer;
    struct kelpie_json_value value;
    struct kelpie_json_value key;
    struct kelpie_json_iterator iterator;
    bool has_guest = guest != NULL && kelpie__json_parse(guest, guest_length, &value) == 0 &&
                     kelpie__json_iterate(&value, &iterator) == 0;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_bool(&writer, "has_guest", has_guest);
    write_host_stats(&writer, monitor);
    while (has_guest && kelpie__json_next(&iterator, &key, &value) == 1) { /* bound: the text */
        char name[32];
        if (kelpie__json_string(&key, name, sizeof(name), NULL) == 0 &&
            value.kind == KELPIE_JSON_NUMBER) {
            kelpie__json_write_raw(&writer, name, value.text, value.length);
        }
    }
    kelpie__json_object_end(&writer);
    if (kelpie__json_finish(&writer) < 0) {
        kelpie__reply_refuse_text(monitor, reply, KELPIE_E_PROTOCOL,
                                  "the guest's figures are longer than %u bytes",
                                  INSPECT_TEXT_BYTES);
        return;
    }
    kelpie__reply_result(monitor, reply, text);
}

/* ---- asking the guest ------------------------------------------------------------------------ */

static bool inspect_can_ask(const struct kelpie_monitor *monitor) {
    return monitor->lifecycle.state == KELPIE_VM_RUNNING &&
           kelpie__guest_wire(&monitor->guest) != NULL;
}

static void stats_answered(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                           int64_t took_ns, const struct kelpie_error *error, const char *result,
                           size_t length) {
    KELPIE_ASSERT(took_ns >= 0);
    stats_reply(monitor, reply, error == NULL ? result : NULL, length);
}

void kelpie__inspect_stats(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    if (inspect_can_ask(monitor)) {
        kelpie__guest_query(monitor, &reply, "guest.stats", "{}", INSPECT_STATS_TIMEOUT_MS,
                            stats_answered);
    } else {
        stats_reply(monitor, &reply, NULL, 0);
    }
}

static void health_reply(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                         bool is_healthy, uint64_t answer_us, const char *detail) {
    char text[1024];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_bool(&writer, "is_healthy", is_healthy);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(monitor->lifecycle.state));
    kelpie__json_write_u64(&writer, "answer_us", answer_us);
    kelpie__json_write_bytes(&writer, "detail", detail,
                             (size_t)kelpie__min_u64(strlen(detail), INSPECT_DETAIL_BYTES_MAX));
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    kelpie__reply_result(monitor, reply, text);
}

static void health_answered(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                            int64_t took_ns, const struct kelpie_error *error, const char *result,
                            size_t length) {
    KELPIE_ASSERT(took_ns >= 0);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    health_reply(monitor, reply, error == NULL,
                 error == NULL ? (uint64_t)(took_ns / KELPIE_NS_PER_US) : 0,
                 error == NULL ? "the agent answers" : error->message);
}

void kelpie__inspect_health(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            uint64_t timeout_ms) {
    uint64_t chosen_ms = timeout_ms != 0 ? timeout_ms : KELPIE_HEALTH_TIMEOUT_MS_DEFAULT;
    if (inspect_can_ask(monitor)) {
        kelpie__guest_query(monitor, &reply, "ping", "{\"nonce\":\"health\"}", chosen_ms,
                            health_answered);
    } else {
        health_reply(monitor, &reply, false, 0,
                     monitor->lifecycle.state == KELPIE_VM_PAUSED ? "the VM is paused"
                                                                  : "the VM does not run");
    }
}
