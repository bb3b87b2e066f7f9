/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands: their start, what is asked of them, their end. The bytes of their streams are in
 * exec_stream.c.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "lib/exec.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* ---- making one ------------------------------------------------------------------------------ */

void kelpie__exec_handle_check(const struct kelpie_exec *exec) {
    KELPIE_ASSERT(!exec->is_destroyed);
    KELPIE_ASSERT(exec->vm->kelpie == exec->kelpie);
    KELPIE_ASSERT(exec->channel <= exec->vm->channel_last);
    if (exec->channel != 0) {
        KELPIE_ASSERT(exec->vm->wire != NULL);
    } else {
        KELPIE_ASSERT(exec->phase == KELPIE_EXEC_HAS_ENDED);
    }
    if (exec->start_request != 0) {
        KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_STARTING);
    }
    if (exec->is_ended_told || exec->error.code != 0) {
        KELPIE_ASSERT(exec->phase == KELPIE_EXEC_HAS_ENDED);
    }
    if (kelpie__timer_is_armed(&exec->backstop_timer)) {
        KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_RUNNING);
    }
    for (unsigned i = 0; i < 2; i += 1) {
        KELPIE_ASSERT(exec->outputs[i].has_ring == (exec->outputs[i].ring.bytes != NULL));
    }
}

static void exec_unlink(struct kelpie_exec *exec) {
    struct kelpie_exec **place = &exec->vm->execs;
    while (*place != exec) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = exec->next;
}

static void exec_free(struct kelpie_exec *exec) {
    struct kelpie *kelpie = exec->kelpie; /* the VM's handle may be gone */
    KELPIE_ASSERT(exec->is_destroyed);
    KELPIE_ASSERT(!exec->is_delivering);
    kelpie__timer_disarm(kelpie->loop, &exec->deliver_timer);
    kelpie__timer_disarm(kelpie->loop, &exec->backstop_timer);
    kelpie__stream_sender_deinit(&exec->arguments);
    kelpie__stream_sender_deinit(&exec->input);
    for (unsigned i = 0; i < 2; i += 1) {
        kelpie__ring_deinit(&exec->outputs[i].ring);
    }
    kelpie__free(kelpie->os, exec, sizeof(*exec));
}

void kelpie__exec_destroy(struct kelpie_exec *exec) {
    kelpie__exec_handle_check(exec);
    exec_unlink(exec);
    exec->is_destroyed = true;
    kelpie__timer_disarm(exec->kelpie->loop, &exec->deliver_timer);
    if (!exec->is_delivering) {
        exec_free(exec);
    }
}

void kelpie__exec_leave(struct kelpie_exec *exec) {
    KELPIE_ASSERT(exec->is_delivering);
    exec->is_delivering = false;
    if (exec->is_destroyed) {
        exec_free(exec);
    }
}

int kelpie__exec_create(struct kelpie_vm *vm, const struct kelpie_exec_callbacks *callbacks,
                        void *context, uint64_t stdout_offset, uint64_t stderr_offset,
                        struct kelpie_exec **out, struct kelpie_error *error) {
    KELPIE_ASSERT(vm->wire != NULL);
    KELPIE_ASSERT(vm->channel_last <= KELPIE_CHANNEL_MAX);
    if (vm->channel_last == KELPIE_CHANNEL_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "this connection has run %u commands; open anew", KELPIE_CHANNEL_MAX);
    }
    struct kelpie_exec *exec = kelpie__alloc(vm->kelpie->os, sizeof(*exec));
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a command");
    }
    exec->kelpie = vm->kelpie;
    exec->vm = vm;
    exec->is_held = true;
    exec->context = context;
    if (callbacks != NULL) {
        memcpy(&exec->callbacks, callbacks,
               (size_t)kelpie__min_u64(callbacks->struct_size, sizeof(exec->callbacks)));
    }
    kelpie__stream_receiver_init(&exec->outputs[0].receiver, stdout_offset,
                                 KELPIE_LIB_OUTPUT_BYTES);
    kelpie__stream_receiver_init(&exec->outputs[1].receiver, stderr_offset,
                                 KELPIE_LIB_OUTPUT_BYTES);
    vm->channel_last += 1;
    exec->channel = vm->channel_last;
    exec->next = vm->execs;
    vm->execs = exec;
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_STARTING);
    kelpie__exec_handle_check(exec);
    *out = exec;
    return 0;
}

int kelpie__exec_open_stdin(struct kelpie_exec *exec, struct kelpie_error *error) {
    KELPIE_ASSERT(!exec->is_stdin_open);
    int status =
        kelpie__stream_sender_init(&exec->input, exec->kelpie->os, KELPIE_EXEC_INPUT_BYTES, error);
    exec->is_stdin_open = status == 0;
    return status;
}

/* ---- the end --------------------------------------------------------------------------------- */

void kelpie__exec_end(struct kelpie_exec *exec, const struct kelpie_error *why) {
    KELPIE_ASSERT(exec->error.code == 0 || exec->phase == KELPIE_EXEC_HAS_ENDED);
    if (exec->phase == KELPIE_EXEC_HAS_ENDED) {
        return;
    }
    exec->phase = KELPIE_EXEC_HAS_ENDED;
    kelpie__timer_disarm(exec->kelpie->loop, &exec->backstop_timer);
    if (why != NULL) {
        KELPIE_ASSERT(why->code < 0);
        exec->error = *why;
        for (unsigned i = 0; i < 2; i += 1) { /* no more bytes will come */
            exec->outputs[i].receiver.is_ended = true;
        }
    }
    kelpie__exec_plan_delivery(exec);
}

/* Whether the VM is, or was, paused since the backstop was armed: the command's timeout did not
 * count then, and how long that was is not known here. */
static bool exec_was_frozen(struct kelpie_exec *exec) {
    struct kelpie_vm_record record;
    KELPIE_ASSERT(exec->vm != NULL);
    if (kelpie__record_read(exec->kelpie->os, exec->vm->directory.vm, &record, NULL) < 0) {
        return false;
    }
    return record.state == KELPIE_VM_PAUSED ||
           (record.state == KELPIE_VM_RUNNING && record.changed_ms >= exec->backstop_armed_ms);
}

/* The guest ends a command at its timeout, the monitor a guest that does not, and this a wait for a
 * monitor that does neither. A reader who has paused is waited for, and so is a VM. */
static void exec_backstop(void *context) {
    struct kelpie_exec *exec = context;
    struct kelpie_error error;
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_RUNNING);
    KELPIE_ASSERT(exec->timeout_ms > 0);
    if (exec->is_paused || exec_was_frozen(exec)) {
        KELPIE_REACHED(exec->kelpie->os, "a timeout waited for a VM that was paused");
        kelpie__exec_arm_backstop(exec);
        return;
    }
    KELPIE_REACHED(exec->kelpie->os, "a monitor did not report the end of a command");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                                "the monitor of VM \"%s\" does not report the end of a command "
                                "with a timeout of %llu ms",
                                exec->vm->directory.name, (unsigned long long)exec->timeout_ms));
    kelpie__exec_end(exec, &error);
}

void kelpie__exec_arm_backstop(struct kelpie_exec *exec) {
    struct kelpie_loop *loop = exec->kelpie->loop;
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_RUNNING);
    KELPIE_ASSERT(exec->timeout_ms <= KELPIE_EXEC_TIMEOUT_MS_MAX);
    if (exec->timeout_ms > 0) {
        uint64_t patience_ms = exec->timeout_ms + KELPIE_EXEC_BACKSTOP_MS + KELPIE_CALL_TIMEOUT_MS;
        exec->backstop_armed_ms =
            kelpie__os_now(exec->kelpie->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
        kelpie__timer_arm(loop, &exec->backstop_timer, kelpie__loop_deadline(loop, patience_ms),
                          exec_backstop, exec);
    }
}

static bool read_within(const struct kelpie_json_member *member, int min, int max, int *out) {
    int64_t value = 0;
    KELPIE_ASSERT(min >= 0 && min <= max);
    if (!kelpie__json_member_i64(member, &value) || value < min || value > max) {
        return false;
    }
    *out = (int)value;
    return true;
}

static enum kelpie_exec_reason read_reason(const struct kelpie_json_member *member,
                                           bool has_signal) {
    char reason[16] = "";
    kelpie__ignore(kelpie__json_member_string(member, reason, sizeof(reason)));
    if (kelpie__text_equal(reason, "timeout")) {
        return KELPIE_EXEC_TIMED_OUT;
    }
    if (kelpie__text_equal(reason, "cancelled")) {
        return KELPIE_EXEC_CANCELLED;
    }
    return has_signal ? KELPIE_EXEC_SIGNALLED : KELPIE_EXEC_EXITED;
}

static void exec_read_error(const struct kelpie_json_value *value, struct kelpie_error *out) {
    int64_t code = KELPIE_E_CRASHED;
    kelpie__ignore(kelpie__json_find_i64(value->text, value->length, "code", &code));
    *out = (struct kelpie_error){.code = code < 0 && code >= KELPIE_CODE_LAST ? (int)code
                                                                              : KELPIE_E_CRASHED};
    if (kelpie__json_find_string(value->text, value->length, "message", out->message,
                                 sizeof(out->message)) < 0) {
        kelpie__ignore(kelpie__text_copy(out->message, sizeof(out->message), "the VM died"));
    }
    KELPIE_ASSERT(out->code < 0 && out->code >= KELPIE_CODE_LAST);
}

void kelpie__execs_exit(struct kelpie_vm *vm, const char *params, size_t length) {
    enum { CHANNEL, CODE, SIGNAL, REASON, WALL_US, CPU_US, PEAK_MEMORY_KIB, ERROR, COUNT };
    struct kelpie_json_member members[COUNT] = {
        [CHANNEL] = {.key = "channel"},
        [CODE] = {.key = "code"},
        [SIGNAL] = {.key = "signal"},
        [REASON] = {.key = "reason"},
        [WALL_US] = {.key = "wall_us"},
        [CPU_US] = {.key = "cpu_us"},
        [PEAK_MEMORY_KIB] = {.key = "peak_memory_kib"},
        [ERROR] = {.key = "error"},
    };
    struct kelpie_error error;
    KELPIE_ASSERT(vm->wire != NULL);
    kelpie__ignore(kelpie__json_members(params, length, members, COUNT)); /* none: no channel */
    uint64_t channel = kelpie__json_member_u64(&members[CHANNEL], 0);
    struct kelpie_exec *exec = kelpie__exec_find(vm, channel);
    if (exec == NULL || exec->phase == KELPIE_EXEC_HAS_ENDED) {
        KELPIE_REACHED(vm->kelpie->os, "the end of a command that was closed");
        return; /* closed here before its end was known */
    }
    if (exec->phase == KELPIE_EXEC_IS_STARTING) {
        kelpie__wire_break(vm->wire, "R22", "exec.exit before the answer to the command's start");
        return;
    }
    kelpie__exec_handle_check(exec);
    if (members[ERROR].is_there) {
        KELPIE_REACHED(vm->kelpie->os, "a command ended with an error");
        exec_read_error(&members[ERROR].value, &error);
        kelpie__exec_end(exec, &error);
        return;
    }
    struct kelpie_exec_status *status = &exec->status;
    bool has_code = read_within(&members[CODE], 0, 255, &status->exit_code);
    bool has_signal = read_within(&members[SIGNAL], 1, 64, &status->signal);
    if (!has_code && !has_signal) {
        kelpie__wire_break(vm->wire, "R22", "exec.exit without a code or a signal");
        return;
    }
    status->reason = read_reason(&members[REASON], has_signal);
    status->wall_us = kelpie__json_member_u64(&members[WALL_US], status->wall_us);
    status->cpu_us = kelpie__json_member_u64(&members[CPU_US], status->cpu_us);
    status->peak_memory_kib =
        kelpie__json_member_u64(&members[PEAK_MEMORY_KIB], status->peak_memory_kib);
    kelpie__exec_end(exec, NULL);
}

/* ---- what is asked of one -------------------------------------------------------------------- */

static void ignore_answer(void *context, const struct kelpie_error *error, const char *result,
                          size_t length) {
    kelpie__ignore(context != NULL && error != NULL && result != NULL && length > 0);
}

/* Sends a request whose answer nobody waits for: a command that has ended meanwhile is no error. */
static int exec_ask(struct kelpie_exec *exec, const char *method, const char *more,
                    struct kelpie_error *error) {
    char params[256];
    struct kelpie_vm *vm = exec->vm;
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(more[0] == '\0' || more[0] == ',');
    if (kelpie__check_process(exec->kelpie, method, error) < 0) {
        return KELPIE_E_MISUSE;
    }
    if (exec->phase == KELPIE_EXEC_HAS_ENDED) {
        return 0;
    }
    if (exec->id[0] == '\0' || vm->wire == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: the command does not run yet", method);
    }
    KELPIE_ASSERT(exec->channel != 0);
    bool fits = kelpie__text_format(params, sizeof(params), "{\"id\":\"%s\"%s}", exec->id, more);
    KELPIE_ASSERT(fits);
    int status = kelpie__wire_call(vm->wire, method, params, KELPIE_CALL_TIMEOUT_MS, ignore_answer,
                                   vm, NULL, error);
    if (status == 0) {
        kelpie__wire_flush(vm->wire);
    }
    return status;
}

int kelpie_exec_signal(struct kelpie_exec *exec, int signal, struct kelpie_error *error) {
    char more[32];
    if (exec == NULL || signal < 1 || signal > 64) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_exec_signal: signal %d is not in 1 to 64, or exec is NULL",
                            signal);
    }
    bool fits = kelpie__text_format(more, sizeof(more), ",\"signal\":%d", signal);
    KELPIE_ASSERT(fits);
    return exec_ask(exec, "exec.signal", more, error);
}

int kelpie_exec_resize(struct kelpie_exec *exec, uint16_t rows, uint16_t columns,
                       struct kelpie_error *error) {
    char more[48];
    if (exec == NULL || !exec->has_terminal || rows == 0 || columns == 0) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_exec_resize: the command has no terminal, or a size is 0");
    }
    bool fits = kelpie__text_format(more, sizeof(more), ",\"rows\":%u,\"cols\":%u", rows, columns);
    KELPIE_ASSERT(fits);
    return exec_ask(exec, "exec.resize", more, error);
}

int kelpie_exec_kill(struct kelpie_exec *exec, struct kelpie_error *error) {
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_exec_kill: exec is NULL");
    }
    if (exec->start_request != 0 && exec->vm->wire != NULL) {
        kelpie__wire_cancel(exec->vm->wire, exec->start_request);
        kelpie__wire_flush(exec->vm->wire);
        return 0;
    }
    return exec_ask(exec, "exec.kill", "", error);
}

const char *kelpie_exec_id(const struct kelpie_exec *exec) {
    return exec->id;
}

int kelpie_exec_wait(struct kelpie_exec *exec, uint64_t timeout_ms, struct kelpie_exec_status *out,
                     struct kelpie_error *error) {
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_exec_wait: exec is NULL");
    }
    struct kelpie *kelpie = exec->vm->kelpie;
    int status = kelpie__check_may_block(kelpie, "kelpie_exec_wait", error);
    int64_t deadline_ns = timeout_ms == 0 ? -1 : kelpie__loop_deadline(kelpie->loop, timeout_ms);
    while (status == 0 && !exec->is_ended_told) { /* bound: the deadline, or the command's own */
        if (deadline_ns >= 0 && kelpie->loop->now_ns >= deadline_ns) {
            return kelpie__fail(error, KELPIE_E_TIMEOUT, 0, "the command still runs after %llu ms",
                                (unsigned long long)timeout_ms);
        }
        status = kelpie__turn(kelpie, deadline_ns, error);
    }
    if (status == 0 && exec->error.code < 0) {
        KELPIE_ASSERT(exec->is_ended_told);
        status = exec->error.code;
        if (error != NULL) {
            *error = exec->error;
        }
    }
    if (status == 0 && out != NULL) {
        *out = exec->status;
    }
    return status;
}

/* Nobody reads it any more: the monitor drops what is left of its output. */
static void exec_stop_streams(struct kelpie_exec *exec) {
    struct kelpie_wire *wire = exec->vm->wire;
    KELPIE_ASSERT(exec->channel != 0);
    KELPIE_ASSERT(wire != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        if (!exec->outputs[i].receiver.is_ended) {
            kelpie__ignore(kelpie__wire_stop(
                wire, kelpie__stream_number(exec->channel,
                                            (enum kelpie_stream_kind)(KELPIE_STREAM_STDOUT + i))));
        }
    }
}

void kelpie_exec_close(struct kelpie_exec *exec) {
    if (exec == NULL || kelpie__is_inherited(exec->kelpie)) {
        return;
    }
    kelpie__exec_handle_check(exec);
    struct kelpie_wire *wire = exec->vm->wire;
    bool is_alive = exec->phase != KELPIE_EXEC_HAS_ENDED && wire != NULL;
    if (is_alive && exec->start_request != 0) {
        kelpie__wire_cancel(wire, exec->start_request);
        kelpie__wire_forget(wire, exec->start_request);
    }
    if (is_alive && exec->id[0] != '\0') {
        kelpie__ignore(
            exec_ask(exec, exec->keeps_on_disconnect ? "exec.detach" : "exec.kill", "", NULL));
    }
    if (is_alive && !exec->keeps_on_disconnect) {
        exec_stop_streams(exec);
    }
    kelpie__exec_destroy(exec);
}

int kelpie_exec_detach(struct kelpie_exec *exec, struct kelpie_error *error) {
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_exec_detach: exec is NULL");
    }
    if (exec->start_request != 0) { /* its answer will ask for the handle */
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "exec.detach: the command does not run yet");
    }
    int status = exec_ask(exec, "exec.detach", "", error);
    if (status == 0) {
        kelpie__exec_destroy(exec);
    }
    return status;
}
