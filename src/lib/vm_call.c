/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is asked of a VM's monitor: start, stop, pause, resume, kill, delete, health, stats. Each
 * call is one function for its blocking and its asynchronous form: arguments checked, monitor
 * found, request written, or the answer given where no monitor is needed for it.
 */
#include "core/json.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* the monitor's answer may come this long after its own deadline */
#define CALL_MARGIN_MS 5000u
/* packing a root directory for the first time is not part of the boot */
#define CALL_PREPARE_MS 120000u
/* a monitor that hangs is unhealthy, and its caller does not wait for it */
#define CALL_HEALTH_MARGIN_MS 500u
/* the VMM may take 5 s to do it and 5 s to undo it, and the guest 5 s to show that it lives */
#define CALL_PAUSE_MS (15000u + KELPIE_RESUME_TIMEOUT_MS)
#define CALL_END_TRIES 3u

static uint64_t timeout_or(uint64_t timeout_ms, uint64_t fallback_ms) {
    KELPIE_ASSERT(fallback_ms > 0);
    return timeout_ms == 0 ? fallback_ms : timeout_ms;
}

static uint64_t with_margin(uint64_t timeout_ms, uint64_t margin_ms) {
    uint64_t sum = 0;
    KELPIE_ASSERT(timeout_ms > 0);
    KELPIE_ASSERT(margin_ms > 0);
    return kelpie__add_u64(timeout_ms, margin_ms, &sum) ? sum : KELPIE_TIMEOUT_NONE;
}

/* What both forms of a call share: the request, which borrows the parameters. */
struct call {
    struct kelpie_request request;
    char params[64];
};

typedef void (*call_reader)(struct kelpie_operation *operation, const char *answer, size_t length);

static void call_check(const struct call *call) {
    kelpie__request_check(&call->request);
    KELPIE_ASSERT(call->request.params == call->params);
    if (call->request.result != NULL) {
        KELPIE_ASSERT(call->request.read != NULL);
    }
}

static void call_params_timeout(struct call *call, uint64_t timeout_ms) {
    KELPIE_ASSERT(call->request.method == NULL);
    KELPIE_ASSERT(timeout_ms > 0);
    bool fits = kelpie__text_format(call->params, sizeof(call->params), "{\"timeout_ms\":%llu}",
                                    (unsigned long long)timeout_ms);
    KELPIE_ASSERT(fits);
}

static void call_set(struct call *call, const char *method, uint64_t timeout_ms) {
    KELPIE_ASSERT(call->request.method == NULL);
    KELPIE_ASSERT(timeout_ms > 0);
    KELPIE_ASSERT(call->params[0] == '\0' || call->params[0] == '{');
    if (call->params[0] == '\0') {
        kelpie__ignore(kelpie__text_copy(call->params, sizeof(call->params), "{}"));
    }
    call->request.method = method;
    call->request.params = call->params;
    call->request.timeout_ms = timeout_ms;
    KELPIE_ASSERT(call->request.read == NULL);
}

/* Connects for a call that has an answer without a monitor, too: 1, and the record, when there is
 * none. */
static int connect_or_record(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                             struct kelpie_vm_record *out, struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    int status = kelpie__call_connect(vm, form, false, out, &kept);
    if (status == KELPIE_E_STATE) {
        KELPIE_ASSERT(!kelpie__state_is_live(out->state));
        KELPIE_ASSERT(vm->wire == NULL);
        return 1;
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int start(struct kelpie_vm *vm, uint64_t timeout_ms, const struct kelpie_call_form *form,
                 struct kelpie_error *error) {
    struct call call = {0};
    int status = kelpie__call_check(vm, form, error);
    if (status < 0) {
        return status;
    }
    uint64_t chosen = timeout_or(timeout_ms, vm->config->boot_timeout_ms);
    chosen = kelpie__min_u64(chosen, KELPIE_BOOT_TIMEOUT_MS_MAX);
    KELPIE_ASSERT(chosen > 0);
    call_params_timeout(&call, chosen);
    call_set(&call, "vm.start", with_margin(chosen, CALL_PREPARE_MS));
    call_check(&call);
    status = kelpie__call_connect(vm, form, true, NULL, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_start(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_start");
    return start(vm, timeout_ms, &form, error);
}

int kelpie_vm_start_async(struct kelpie_vm *vm, uint64_t timeout_ms, kelpie_done_callback callback,
                          void *context, struct kelpie_operation **out,
                          struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_start_async", callback, context, out);
    return start(vm, timeout_ms, &form, error);
}

/* ---- stop ------------------------------------------------------------------------------------ */

static void stop_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_stop_result *result = operation->result;
    KELPIE_ASSERT(result != NULL);
    result->was_graceful = false;
    kelpie__ignore(kelpie__json_find_bool(answer, length, "graceful", &result->was_graceful));
    KELPIE_ASSERT(operation->read == stop_read);
}

static int stop(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_stop_result *out,
                const struct kelpie_call_form *form, struct kelpie_error *error) {
    struct call call = {0};
    int status = kelpie__call_check(vm, form, error);
    if (status < 0) {
        return status;
    }
    uint64_t chosen = timeout_or(timeout_ms, KELPIE_STOP_TIMEOUT_MS_DEFAULT);
    chosen = kelpie__min_u64(chosen, KELPIE_STOP_TIMEOUT_MS_MAX);
    call_params_timeout(&call, chosen);
    call_set(&call, "vm.stop", with_margin(chosen, CALL_MARGIN_MS));
    call.request.read = stop_read;
    call.request.result = out;
    KELPIE_ASSERT(call.request.timeout_ms > chosen);
    call_check(&call);
    status = kelpie__call_connect_live(vm, form, KELPIE_VERB_STOP, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_stop(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_stop_result *out,
                   struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_stop");
    return stop(vm, timeout_ms, out, &form, error);
}

int kelpie_vm_stop_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                         struct kelpie_stop_result *out_result, kelpie_done_callback callback,
                         void *context, struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_stop_async", callback, context, out);
    return stop(vm, timeout_ms, out_result, &form, error);
}

/* ---- pause and resume ------------------------------------------------------------------------ */

static int pause_or_resume(struct kelpie_vm *vm, enum kelpie_vm_verb verb,
                           const struct kelpie_call_form *form, struct kelpie_error *error) {
    struct call call = {0};
    KELPIE_ASSERT(verb == KELPIE_VERB_PAUSE || verb == KELPIE_VERB_RESUME);
    int status = kelpie__call_check(vm, form, error);
    if (status < 0) {
        return status;
    }
    call_set(&call, verb == KELPIE_VERB_PAUSE ? "vm.pause" : "vm.resume", CALL_PAUSE_MS);
    call_check(&call);
    status = kelpie__call_connect_live(vm, form, verb, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_pause(struct kelpie_vm *vm, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_pause");
    return pause_or_resume(vm, KELPIE_VERB_PAUSE, &form, error);
}

int kelpie_vm_pause_async(struct kelpie_vm *vm, kelpie_done_callback callback, void *context,
                          struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_pause_async", callback, context, out);
    return pause_or_resume(vm, KELPIE_VERB_PAUSE, &form, error);
}

int kelpie_vm_resume(struct kelpie_vm *vm, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_resume");
    return pause_or_resume(vm, KELPIE_VERB_RESUME, &form, error);
}

int kelpie_vm_resume_async(struct kelpie_vm *vm, kelpie_done_callback callback, void *context,
                           struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_resume_async", callback, context, out);
    return pause_or_resume(vm, KELPIE_VERB_RESUME, &form, error);
}

/* ---- kill and delete: a monitor that dies over them has not made them fail ------------------- */

/* The monitor went over it: with the VM, or without. The next try finds out what is left to do. */
static bool is_loss(int status) {
    return status == KELPIE_E_CRASHED || status == KELPIE_E_NOT_FOUND;
}

/* One try. What the answer is without a monitor, the request says itself. 1: somebody only looked
 * at the VM, and held its lock for that; again. */
typedef int (*end_begin)(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                         struct call *call, struct kelpie_error *error);

static int end_call(struct kelpie_vm *vm, end_begin begin, const struct kelpie_call_form *form,
                    struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    int status = kelpie__call_check(vm, form, error);
    if (status < 0) {
        return status;
    }
    unsigned tries = form->is_blocking ? CALL_END_TRIES : 1u;
    status = KELPIE_E_CRASHED;
    for (unsigned i = 0; i < tries && (is_loss(status) || status == 1); i += 1) {
        struct call call = {0};
        status = begin(vm, form, &call, &kept);
        status = status != 0 ? status : kelpie__call_send(vm, form, &call.request, &kept);
    }
    status = status == 1 ? KELPIE_E_BUSY : status;
    KELPIE_ASSERT(status == 0 || kept.code == status);
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

static int kill_begin(struct kelpie_vm *vm, const struct kelpie_call_form *form, struct call *call,
                      struct kelpie_error *error) {
    struct kelpie_vm_record record;
    struct kelpie_error kept = {0};
    KELPIE_ASSERT(call->request.result == NULL);
    call_set(call, "vm.kill", KELPIE_CALL_TIMEOUT_MS);
    int status = connect_or_record(vm, form, &record, &kept);
    if (status == 1 || status == KELPIE_E_NOT_FOUND) {
        KELPIE_REACHED(vm->kelpie->os, "a kill found nothing that runs");
        call->request.is_answered = true; /* nothing runs */
        return 0;
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

int kelpie_vm_kill(struct kelpie_vm *vm, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_kill");
    return end_call(vm, kill_begin, &form, error);
}

int kelpie_vm_kill_async(struct kelpie_vm *vm, kelpie_done_callback callback, void *context,
                         struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_kill_async", callback, context, out);
    return end_call(vm, kill_begin, &form, error);
}

static int delete_without_monitor(struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_vm_record record;
    struct kelpie_error kept = {0};
    KELPIE_ASSERT(vm->wire == NULL);
    int status = kelpie__vm_directory_lock(&vm->directory, &kept);
    if (status == KELPIE_E_NOT_FOUND) {
        return 0; /* somebody else was quicker */
    }
    if (status < 0) {
        if (error != NULL) {
            *error = kept;
        }
        return status;
    }
    status = kelpie__vm_directory_recover(&vm->directory, &record, NULL);
    if (status == KELPIE_E_NOT_FOUND) {
        KELPIE_REACHED(vm->kelpie->os, "a delete was done by recovery");
        status = 0; /* an ephemeral one: recovery deleted it */
    } else {        /* also one whose files cannot be read: that is how to get rid of it */
        status = kelpie__vm_directory_delete(&vm->directory, error);
    }
    kelpie__vm_directory_unlock(&vm->directory);
    KELPIE_ASSERT(vm->directory.lock == KELPIE_OS_NO_HANDLE);
    return status;
}

static int delete_begin(struct kelpie_vm *vm, bool is_forced, const struct kelpie_call_form *form,
                        struct call *call, struct kelpie_error *error) {
    struct kelpie_vm_record record;
    struct kelpie_error kept = {0};
    bool fits = kelpie__text_format(call->params, sizeof(call->params), "{\"force\":%s}",
                                    is_forced ? "true" : "false");
    KELPIE_ASSERT(fits);
    call_set(call, "vm.delete", KELPIE_CALL_TIMEOUT_MS);
    int status = connect_or_record(vm, form, &record, &kept);
    if (status == 0) {
        KELPIE_ASSERT(vm->wire != NULL);
        return 0;
    }
    bool is_damaged = status == KELPIE_E_IO && vm->wire == NULL;
    call->request.is_answered = true;
    if (status == KELPIE_E_NOT_FOUND) {
        KELPIE_REACHED(vm->kelpie->os, "a delete found nothing");
        /* Gone already; a monitor that died over it may have left the files: finish its work. */
        kelpie__vm_directory_prune(&vm->kelpie->places, NULL);
        return 0;
    }
    if (status == 1 || is_damaged) {
        KELPIE_SOMETIMES(vm->kelpie->os, "a damaged VM was deleted", is_damaged);
        status = delete_without_monitor(vm, error);
        return status == KELPIE_E_BUSY && form->is_blocking ? 1 : status;
    }
    if (error != NULL) {
        *error = kept;
    }
    return status;
}

static int delete_begin_kindly(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                               struct call *call, struct kelpie_error *error) {
    return delete_begin(vm, false, form, call, error);
}

static int delete_begin_forced(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                               struct call *call, struct kelpie_error *error) {
    return delete_begin(vm, true, form, call, error);
}

int kelpie_vm_delete(struct kelpie_vm *vm, bool is_forced, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_delete");
    return end_call(vm, is_forced ? delete_begin_forced : delete_begin_kindly, &form, error);
}

int kelpie_vm_delete_async(struct kelpie_vm *vm, bool is_forced, kelpie_done_callback callback,
                           void *context, struct kelpie_operation **out,
                           struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_delete_async", callback, context, out);
    return end_call(vm, is_forced ? delete_begin_forced : delete_begin_kindly, &form, error);
}

/* ---- answers that are structures with a size ------------------------------------------------- */

static int check_sized(const struct kelpie_vm *vm, const void *out,
                       const struct kelpie_call_form *form, struct kelpie_error *error) {
    int status = kelpie__call_check(vm, form, error);
    if (status == 0 && !kelpie__struct_is_sized(out)) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0,
                              "%s: out is NULL, or struct_size is not set", form->function);
    }
    return status;
}

static void call_result(struct call *call, call_reader read, void *out, size_t struct_size) {
    KELPIE_ASSERT(call->request.result == NULL);
    KELPIE_ASSERT(struct_size > sizeof(struct_size));
    call->request.read = read;
    call->request.result = out;
    call->request.result_bytes = struct_size;
    call_check(call);
}

/* ---- health ---------------------------------------------------------------------------------- */

static void health_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_health read = {.struct_size = sizeof(read)};
    char state[16] = "";
    KELPIE_ASSERT(operation->read == health_read);
    kelpie__ignore(kelpie__json_find_bool(answer, length, "is_healthy", &read.is_healthy));
    kelpie__ignore(kelpie__json_find_u64(answer, length, "answer_us", &read.answer_us));
    kelpie__ignore(
        kelpie__json_find_string(answer, length, "detail", read.detail, sizeof(read.detail)));
    if (kelpie__json_find_string(answer, length, "state", state, sizeof(state)) == 0) {
        kelpie__ignore(kelpie__state_parse(state, &read.state));
    }
    kelpie__struct_give(operation->result, operation->result_bytes, &read, sizeof(read));
}

static int health(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_health *out,
                  const struct kelpie_call_form *form, struct kelpie_error *error) {
    struct call call = {0};
    struct kelpie_vm_record record = {0};
    int status = check_sized(vm, out, form, error);
    if (status < 0) {
        return status;
    }
    uint64_t chosen = timeout_or(timeout_ms, KELPIE_HEALTH_TIMEOUT_MS_DEFAULT);
    call_params_timeout(&call, chosen);
    call_set(&call, "vm.health", with_margin(chosen, CALL_HEALTH_MARGIN_MS));
    call_result(&call, health_read, out, out->struct_size);
    KELPIE_ASSERT(call.request.timeout_ms > chosen);
    status = connect_or_record(vm, form, &record, error);
    if (status == 1) {
        KELPIE_ASSERT(!kelpie__state_is_live(record.state));
        struct kelpie_health answer = {.struct_size = sizeof(answer), .state = record.state};
        kelpie__ignore(kelpie__text_format(answer.detail, sizeof(answer.detail), "the VM is %s",
                                           kelpie_vm_state_name(record.state)));
        kelpie__struct_give(out, out->struct_size, &answer, sizeof(answer));
        call.request.is_answered = true;
    }
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_health(struct kelpie_vm *vm, uint64_t timeout_ms, struct kelpie_health *out,
                     struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_health");
    return health(vm, timeout_ms, out, &form, error);
}

int kelpie_vm_health_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                           struct kelpie_health *out_health, kelpie_done_callback callback,
                           void *context, struct kelpie_operation **out,
                           struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_health_async", callback, context, out);
    return health(vm, timeout_ms, out_health, &form, error);
}

/* ---- stats ----------------------------------------------------------------------------------- */

struct number {
    const char *key;
    uint64_t *out;
};

/* One that the answer does not have stays as it is. */
static void read_numbers(const char *answer, size_t length, const struct number *numbers,
                         size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(numbers[i].out != NULL);
        kelpie__ignore(kelpie__json_find_u64(answer, length, numbers[i].key, numbers[i].out));
    }
}

static void stats_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_stats read = {.struct_size = sizeof(read)};
    KELPIE_ASSERT(operation->read == stats_read);
    kelpie__ignore(kelpie__json_find_bool(answer, length, "has_guest", &read.has_guest));
    const struct number fields[] = {
        {"uptime_ms", &read.guest_uptime_ms},
        {"cpu_ms", &read.guest_cpu_ms},
        {"load1_milli", &read.guest_load1_milli},
        {"memory_total_kib", &read.guest_memory_total_kib},
        {"memory_available_kib", &read.guest_memory_available_kib},
        {"process_count", &read.guest_process_count},
        {"disk_total_kib", &read.guest_disk_total_kib},
        {"disk_used_kib", &read.guest_disk_used_kib},
        {"exec_count", &read.exec_count},
        {"host_cpu_ms", &read.host_cpu_ms},
        {"host_memory_kib", &read.host_memory_kib},
        {"host_disk_kib", &read.host_disk_kib},
    };
    read_numbers(answer, length, fields, KELPIE_ARRAY_COUNT(fields));
    kelpie__struct_give(operation->result, operation->result_bytes, &read, sizeof(read));
}

static int stats(struct kelpie_vm *vm, struct kelpie_stats *out,
                 const struct kelpie_call_form *form, struct kelpie_error *error) {
    struct call call = {0};
    struct kelpie_vm_record record = {0};
    int status = check_sized(vm, out, form, error);
    if (status < 0) {
        return status;
    }
    call_set(&call, "vm.stats", KELPIE_CALL_TIMEOUT_MS);
    call_result(&call, stats_read, out, out->struct_size);
    status = connect_or_record(vm, form, &record, error);
    if (status == 1) { /* nothing runs: all figures are 0 */
        KELPIE_ASSERT(!kelpie__state_is_live(record.state));
        const struct kelpie_stats none = {.struct_size = sizeof(none)};
        kelpie__struct_give(out, out->struct_size, &none, sizeof(none));
        call.request.is_answered = true;
    }
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *out, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_stats");
    return stats(vm, out, &form, error);
}

int kelpie_vm_stats_async(struct kelpie_vm *vm, struct kelpie_stats *out_stats,
                          kelpie_done_callback callback, void *context,
                          struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_stats_async", callback, context, out);
    return stats(vm, out_stats, &form, error);
}

/* ---- stages ---------------------------------------------------------------------------------- */

static void stages_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_stages stages = {.struct_size = sizeof(stages)};
    const struct number fields[] = {
        {"vmm_us", &stages.vmm_us},
        {"machine_us", &stages.machine_us},
        {"kernel_us", &stages.kernel_us},
        {"agent_us", &stages.agent_us},
        {"ready_us", &stages.ready_us},
        {"hello_us", &stages.hello_us},
        {"running_us", &stages.running_us},
        {"exec_us", &stages.exec_us},
        {"exec_started_us", &stages.exec_started_us},
        {"exec_ended_us", &stages.exec_ended_us},
    };
    read_numbers(answer, length, fields, KELPIE_ARRAY_COUNT(fields));
    kelpie__struct_give(operation->result, operation->result_bytes, &stages, sizeof(stages));
}

int kelpie_vm_stages(struct kelpie_vm *vm, struct kelpie_stages *out, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_stages");
    struct call call = {0};
    struct kelpie_vm_record record = {0};
    int status = check_sized(vm, out, &form, error);
    if (status < 0) {
        return status;
    }
    call_set(&call, "vm.stages", KELPIE_CALL_TIMEOUT_MS);
    call_result(&call, stages_read, out, out->struct_size);
    status = connect_or_record(vm, &form, &record, error);
    if (status == 1) {
        return kelpie__fail(error, KELPIE_E_STATE, 0,
                            "VM \"%s\" is %s: the stages of a start are known while it lives",
                            vm->config->name, kelpie_vm_state_name(record.state));
    }
    return status < 0 ? status : kelpie__call_send(vm, &form, &call.request, error);
}
