/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is asked of a VM's monitor: start, stop, kill, health, stats, events; and its logs, which
 * are files.
 */
#include "core/json.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* the monitor's answer may come this long after its own deadline */
#define CALL_MARGIN_MS 5000u
/* packing a root directory for the first time is not part of the boot */
#define CALL_PREPARE_MS 120000u
#define CALL_LOG_CHUNK_BYTES 65536u

static uint64_t timeout_or(uint64_t timeout_ms, uint64_t fallback_ms) {
    return timeout_ms == 0 ? fallback_ms : timeout_ms;
}

static uint64_t with_margin(uint64_t timeout_ms, uint64_t margin_ms) {
    uint64_t sum = 0;
    return kelpie__add_u64(timeout_ms, margin_ms, &sum) ? sum : KELPIE_TIMEOUT_NONE;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* `params` is filled and must live as long as the request. */
static struct kelpie_request start_request(const struct kelpie_vm *vm, uint64_t timeout_ms,
                                           char params[64]) {
    uint64_t chosen = timeout_or(timeout_ms, vm->config->boot_timeout_ms);
    chosen = kelpie__min_u64(chosen, KELPIE_BOOT_TIMEOUT_MS_MAX);
    kelpie__ignore(
        kelpie__text_format(params, 64, "{\"timeout_ms\":%llu}", (unsigned long long)chosen));
    return (struct kelpie_request){
        .method = "vm.start", .params = params, .timeout_ms = with_margin(chosen, CALL_PREPARE_MS)};
}

static int check_vm(const struct kelpie_vm *vm, const char *what, struct kelpie_error *error) {
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: vm is NULL", what);
    }
    return 0;
}

static int check_blocking(const struct kelpie_vm *vm, const char *what,
                          struct kelpie_error *error) {
    int status = check_vm(vm, what, error);
    return status < 0 ? status : kelpie__check_may_block(vm->kelpie, what, error);
}

int kelpie_vm_start(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_error *error) {
    char params[64];
    int status = check_blocking(vm, "kelpie_vm_start", error);
    if (status == 0) {
        status = kelpie__vm_connect_wait(vm, true, NULL, error);
    }
    if (status < 0) {
        return status;
    }
    const struct kelpie_request request = start_request(vm, timeout_ms, params);
    return kelpie__operation_run(vm, &request, error);
}

int kelpie_vm_start_async(struct kelpie_vm *vm, uint64_t timeout_ms, kelpie_done_callback callback,
                          void *context, struct kelpie_operation **out,
                          struct kelpie_error *error) {
    char params[64];
    int status = check_vm(vm, "kelpie_vm_start_async", error);
    if (status == 0) {
        status = kelpie__vm_connect(vm, true, NULL, error);
    }
    if (status < 0) {
        return status;
    }
    const struct kelpie_request request = start_request(vm, timeout_ms, params);
    return kelpie__operation_start(vm, &request, callback, context, out, error);
}

/* ---- stop and kill --------------------------------------------------------------------------- */

static void stop_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_stop_result *result = operation->result;
    result->was_graceful = false;
    kelpie__ignore(kelpie__json_find_bool(answer, length, "graceful", &result->was_graceful));
}

static struct kelpie_request stop_request(uint64_t timeout_ms, struct kelpie_stop_result *result,
                                          char params[64]) {
    uint64_t chosen = timeout_or(timeout_ms, KELPIE_STOP_TIMEOUT_MS_DEFAULT);
    chosen = kelpie__min_u64(chosen, KELPIE_BOOT_TIMEOUT_MS_MAX);
    kelpie__ignore(
        kelpie__text_format(params, 64, "{\"timeout_ms\":%llu}", (unsigned long long)chosen));
    return (struct kelpie_request){.method = "vm.stop",
                                   .params = params,
                                   .timeout_ms = with_margin(chosen, CALL_MARGIN_MS),
                                   .read = stop_read,
                                   .result = result};
}

/* Without a monitor nothing runs: the answer is the state table's. */
static int refuse_without_monitor(struct kelpie_vm *vm, int status,
                                  const struct kelpie_vm_record *record, enum kelpie_vm_verb verb,
                                  struct kelpie_error *error) {
    if (status == KELPIE_E_STATE) {
        return kelpie__state_allow(record->state, verb, vm->directory.name, error);
    }
    return status;
}

int kelpie_vm_stop(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_stop_result *out,
                   struct kelpie_error *error) {
    char params[64];
    struct kelpie_vm_record record = {0};
    int status = check_blocking(vm, "kelpie_vm_stop", error);
    if (status < 0) {
        return status;
    }
    status = kelpie__vm_connect_wait(vm, false, &record, error);
    if (status < 0) {
        return refuse_without_monitor(vm, status, &record, KELPIE_VERB_STOP, error);
    }
    const struct kelpie_request request = stop_request(timeout_ms, out, params);
    return kelpie__operation_run(vm, &request, error);
}

int kelpie_vm_stop_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                         struct kelpie_stop_result *out_result, kelpie_done_callback callback,
                         void *context, struct kelpie_operation **out, struct kelpie_error *error) {
    char params[64];
    struct kelpie_vm_record record = {0};
    int status = check_vm(vm, "kelpie_vm_stop_async", error);
    if (status < 0) {
        return status;
    }
    status = kelpie__vm_connect(vm, false, &record, error);
    if (status < 0) {
        return refuse_without_monitor(vm, status, &record, KELPIE_VERB_STOP, error);
    }
    const struct kelpie_request request = stop_request(timeout_ms, out_result, params);
    return kelpie__operation_start(vm, &request, callback, context, out, error);
}

int kelpie_vm_kill(struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_error connect_error = {0};
    int status = check_blocking(vm, "kelpie_vm_kill", error);
    if (status < 0) {
        return status;
    }
    status = kelpie__vm_connect_wait(vm, false, NULL, &connect_error);
    if (status == KELPIE_E_STATE || status == KELPIE_E_NOT_FOUND) {
        return 0; /* nothing runs */
    }
    if (status < 0) {
        if (error != NULL) {
            *error = connect_error;
        }
        return status;
    }
    const struct kelpie_request request = {
        .method = "vm.kill", .params = "{}", .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    return kelpie__operation_run(vm, &request, error);
}

/* ---- health and stats ------------------------------------------------------------------------ */

static void health_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_health *health = operation->result;
    char state[16] = "";
    kelpie__ignore(kelpie__json_find_bool(answer, length, "is_healthy", &health->is_healthy));
    kelpie__ignore(kelpie__json_find_u64(answer, length, "answer_us", &health->answer_us));
    kelpie__ignore(
        kelpie__json_find_string(answer, length, "detail", health->detail, sizeof(health->detail)));
    if (kelpie__json_find_string(answer, length, "state", state, sizeof(state)) == 0) {
        kelpie__ignore(kelpie__state_parse(state, &health->state));
    }
}

int kelpie_vm_health(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_health *out,
                     struct kelpie_error *error) {
    char params[64];
    struct kelpie_vm_record record = {0};
    int status = check_blocking(vm, "kelpie_vm_health", error);
    if (status < 0) {
        return status;
    }
    if (out == NULL || out->struct_size != sizeof(*out)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_health: struct_size is not set");
    }
    *out = (struct kelpie_health){.struct_size = sizeof(*out)};
    status = kelpie__vm_connect_wait(vm, false, &record, error);
    if (status == KELPIE_E_STATE) {
        out->state = record.state;
        kelpie__ignore(kelpie__text_format(out->detail, sizeof(out->detail), "the VM is %s",
                                           kelpie_vm_state_name(record.state)));
        return 0;
    }
    if (status < 0) {
        return status;
    }
    uint64_t chosen = timeout_or(timeout_ms, KELPIE_HEALTH_TIMEOUT_MS_DEFAULT);
    kelpie__ignore(kelpie__text_format(params, sizeof(params), "{\"timeout_ms\":%llu}",
                                       (unsigned long long)chosen));
    const struct kelpie_request request = {.method = "vm.health",
                                           .params = params,
                                           .timeout_ms = with_margin(chosen, CALL_MARGIN_MS),
                                           .read = health_read,
                                           .result = out};
    return kelpie__operation_run(vm, &request, error);
}

static void stats_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_stats *stats = operation->result;
    kelpie__ignore(kelpie__json_find_bool(answer, length, "has_guest", &stats->has_guest));
    const struct {
        const char *key;
        uint64_t *out;
    } fields[] = {
        {"uptime_ms", &stats->guest_uptime_ms},
        {"cpu_ms", &stats->guest_cpu_ms},
        {"load1_milli", &stats->guest_load1_milli},
        {"memory_total_kib", &stats->guest_memory_total_kib},
        {"memory_available_kib", &stats->guest_memory_available_kib},
        {"process_count", &stats->guest_process_count},
        {"disk_total_kib", &stats->guest_disk_total_kib},
        {"disk_used_kib", &stats->guest_disk_used_kib},
        {"exec_count", &stats->exec_count},
        {"host_cpu_ms", &stats->host_cpu_ms},
        {"host_memory_kib", &stats->host_memory_kib},
        {"host_disk_kib", &stats->host_disk_kib},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fields); i += 1) {
        kelpie__ignore(kelpie__json_find_u64(answer, length, fields[i].key, fields[i].out));
    }
}

int kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *out, struct kelpie_error *error) {
    struct kelpie_vm_record record = {0};
    int status = check_blocking(vm, "kelpie_vm_stats", error);
    if (status < 0) {
        return status;
    }
    if (out == NULL || out->struct_size != sizeof(*out)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_stats: struct_size is not set");
    }
    *out = (struct kelpie_stats){.struct_size = sizeof(*out)};
    status = kelpie__vm_connect_wait(vm, false, &record, error);
    if (status == KELPIE_E_STATE) {
        return 0; /* nothing runs: all figures are 0 */
    }
    if (status < 0) {
        return status;
    }
    const struct kelpie_request request = {.method = "vm.stats",
                                           .params = "{}",
                                           .timeout_ms = KELPIE_CALL_TIMEOUT_MS,
                                           .read = stats_read,
                                           .result = out};
    return kelpie__operation_run(vm, &request, error);
}

/* ---- events and logs ------------------------------------------------------------------------- */

int kelpie_vm_subscribe(struct kelpie_vm *vm, kelpie_event_callback callback, void *context,
                        struct kelpie_error *error) {
    int status = check_blocking(vm, "kelpie_vm_subscribe", error);
    if (status < 0) {
        return status;
    }
    vm->event_callback = callback;
    vm->event_context = context;
    if (callback == NULL) {
        return 0;
    }
    struct kelpie_vm_record record;
    status = kelpie__vm_connect_wait(vm, false, &record, error);
    if (status < 0) {
        return refuse_without_monitor(vm, status, &record, KELPIE_VERB_EXEC, error);
    }
    const struct kelpie_request request = {
        .method = "vm.subscribe", .params = "{}", .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    return kelpie__operation_run(vm, &request, error);
}

static int read_log_file(struct kelpie_vm *vm, const char *name, uint8_t *buffer,
                         kelpie_bytes_callback callback, void *context,
                         struct kelpie_error *error) {
    struct kelpie_os *os = vm->kelpie->os;
    int file = kelpie__os_open(os, vm->directory.vm, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return 0; /* not written yet */
    }
    int64_t count = 1;
    /* A log is bounded; the budget is for one that is written while it is read. */
    for (uint64_t offset = 0; count > 0 && offset < 4u * KELPIE_CONSOLE_LOG_BYTES;
         offset += (uint64_t)count) {
        count = kelpie__os_pread(os, file, buffer, CALL_LOG_CHUNK_BYTES, offset);
        if (count > 0) {
            kelpie__callback_enter(vm->kelpie);
            callback(context, buffer, (size_t)count);
            kelpie__callback_leave(vm->kelpie);
        }
    }
    kelpie__ignore(kelpie__os_close(os, file));
    return count < 0 ? kelpie__fail(error, KELPIE_E_IO, (int)-count, "read %s of VM \"%s\"", name,
                                    vm->directory.name)
                     : 0;
}

int kelpie_vm_read_log(struct kelpie_vm *vm, enum kelpie_log_kind kind,
                       kelpie_bytes_callback callback, void *context, struct kelpie_error *error) {
    static const char *const files[][2] = {
        [KELPIE_LOG_CONSOLE] = {"console.log.1", "console.log"},
        [KELPIE_LOG_EVENTS] = {"events.log.1", "events.log"},
    };
    if (vm == NULL || callback == NULL || (size_t)kind >= KELPIE_ARRAY_COUNT(files)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_read_log: an argument is not valid");
    }
    uint8_t *buffer = kelpie__alloc(vm->kelpie->os, CALL_LOG_CHUNK_BYTES);
    if (buffer == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory to read a log");
    }
    int status = read_log_file(vm, files[kind][0], buffer, callback, context, error);
    if (status == 0) {
        status = read_log_file(vm, files[kind][1], buffer, callback, context, error);
    }
    kelpie__free(vm->kelpie->os, buffer, CALL_LOG_CHUNK_BYTES);
    return status;
}
