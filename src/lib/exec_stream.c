/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The bytes of commands. Output goes from the connection straight to its reader; only when that one
 * is paused, or the call that starts the command has not returned, does it wait in a ring, which
 * the credit bounds.
 */
#include <string.h>

#include "lib/exec.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

static enum kelpie_stream_kind output_kind(unsigned index) {
    KELPIE_ASSERT(index < 2);
    return index == 0 ? KELPIE_STREAM_STDOUT : KELPIE_STREAM_STDERR;
}

struct kelpie_exec *kelpie__exec_find(struct kelpie_vm *vm, uint64_t channel) {
    struct kelpie_exec *exec = channel == 0 ? NULL : vm->execs; /* 0: of a former connection */
    while (exec != NULL && exec->channel != channel) {          /* bound: the list */
        exec = exec->next;
    }
    KELPIE_ASSERT(exec == NULL || exec->vm == vm);
    return exec;
}

/* The command of a stream; NULL for one that was closed here. A channel that was never opened
 * breaks a rule. */
static struct kelpie_exec *find_stream(struct kelpie_vm *vm, uint32_t stream,
                                       enum kelpie_stream_kind *out_kind) {
    uint32_t channel = stream >> KELPIE_STREAM_KIND_BITS;
    KELPIE_ASSERT(vm->wire != NULL);
    if (channel == 0 || channel > vm->channel_last) {
        kelpie__wire_break(vm->wire, "R19", "a stream of channel %u, which was never opened",
                           channel);
        return NULL;
    }
    *out_kind = (enum kelpie_stream_kind)(stream & ((1u << KELPIE_STREAM_KIND_BITS) - 1u));
    return kelpie__exec_find(vm, channel);
}

/* ---- output ---------------------------------------------------------------------------------- */

static bool can_deliver(const struct kelpie_exec *exec) {
    return !exec->is_held && !exec->is_paused && !exec->is_destroyed;
}

static void tell_output(struct kelpie_exec *exec, unsigned index, const void *bytes, size_t count) {
    struct kelpie *kelpie = exec->kelpie;
    KELPIE_ASSERT(exec->is_delivering);
    KELPIE_ASSERT(can_deliver(exec));
    KELPIE_ASSERT(count > 0 || exec->outputs[index].is_end_told);
    KELPIE_ASSERT((bytes == NULL) == (count == 0));
    if (exec->callbacks.output != NULL) {
        kelpie__callback_enter(kelpie);
        exec->callbacks.output(exec->context, exec, index == 0 ? KELPIE_STDOUT : KELPIE_STDERR,
                               bytes, count);
        kelpie__callback_leave(kelpie);
    }
}

static void give_credit(struct kelpie_exec *exec, unsigned index) {
    struct kelpie_exec_output *output = &exec->outputs[index];
    if (exec->is_destroyed || exec->channel == 0) {
        return;
    }
    uint64_t waiting = output->has_ring ? kelpie__ring_unsent(&output->ring) : 0;
    KELPIE_ASSERT(waiting <= KELPIE_LIB_OUTPUT_BYTES && waiting <= output->receiver.received);
    kelpie__stream_receiver_consumed(&output->receiver, exec->vm->wire,
                                     kelpie__stream_number(exec->channel, output_kind(index)),
                                     output->receiver.received - waiting);
}

static void deliver_waiting(struct kelpie_exec *exec, unsigned index) {
    struct kelpie_exec_output *output = &exec->outputs[index];
    KELPIE_ASSERT(exec->is_delivering);
    while (output->has_ring && can_deliver(exec)) { /* bound: the ring */
        const void *bytes = NULL;
        size_t count = kelpie__ring_send_view(&output->ring, &bytes);
        if (count == 0) {
            break;
        }
        tell_output(exec, index, bytes, count);
        if (exec->is_destroyed) {
            return;
        }
        kelpie__ring_mark_sent(&output->ring, count);
        bool is_known = kelpie__ring_acknowledge(&output->ring, output->ring.sent);
        KELPIE_ASSERT(is_known);
    }
    give_credit(exec, index);
}

static void deliver_end(struct kelpie_exec *exec, unsigned index) {
    struct kelpie_exec_output *output = &exec->outputs[index];
    bool is_empty = !output->has_ring || kelpie__ring_unsent(&output->ring) == 0;
    KELPIE_ASSERT(exec->is_delivering);
    if (can_deliver(exec) && output->receiver.is_ended && is_empty && !output->is_end_told) {
        output->is_end_told = true;
        tell_output(exec, index, NULL, 0);
    }
}

static void deliver_exit(struct kelpie_exec *exec) {
    struct kelpie *kelpie = exec->kelpie;
    bool is_read = exec->outputs[0].is_end_told && exec->outputs[1].is_end_told;
    KELPIE_ASSERT(exec->is_delivering);
    if (!can_deliver(exec) || exec->phase != KELPIE_EXEC_HAS_ENDED || !is_read ||
        exec->is_ended_told) {
        return;
    }
    KELPIE_ASSERT(exec->outputs[0].receiver.is_ended);
    KELPIE_ASSERT(exec->outputs[1].receiver.is_ended);
    exec->is_ended_told = true;
    if (exec->callbacks.ended != NULL) {
        bool has_failed = exec->error.code < 0;
        kelpie__callback_enter(kelpie);
        exec->callbacks.ended(exec->context, exec, has_failed ? NULL : &exec->status,
                              has_failed ? &exec->error : NULL);
        kelpie__callback_leave(kelpie);
    }
}

static void deliver(void *context) {
    struct kelpie_exec *exec = context;
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(!exec->is_delivering);
    exec->is_delivering = true;
    for (unsigned i = 0; i < 2 && !exec->is_destroyed; i += 1) {
        deliver_waiting(exec, i);
        deliver_end(exec, i);
    }
    deliver_exit(exec);
    kelpie__exec_leave(exec);
}

void kelpie__exec_plan_delivery(struct kelpie_exec *exec) {
    struct kelpie_loop *loop = exec->kelpie->loop;
    if (!kelpie__timer_is_armed(&exec->deliver_timer) && !exec->is_destroyed) {
        kelpie__timer_arm(loop, &exec->deliver_timer, loop->now_ns, deliver, exec);
    }
}

/* Keeps bytes for later; there is room, since the credit is the ring's size. */
static void output_keep(struct kelpie_exec *exec, unsigned index, const void *bytes, size_t count) {
    struct kelpie_exec_output *output = &exec->outputs[index];
    struct kelpie_error error;
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(exec->phase != KELPIE_EXEC_IS_STARTING);
    if (!output->has_ring) {
        int status =
            kelpie__ring_init(&output->ring, exec->kelpie->os, KELPIE_LIB_OUTPUT_BYTES, &error);
        if (status < 0) {
            kelpie__exec_end(exec, &error);
            return;
        }
        output->has_ring = true;
    }
    size_t kept = kelpie__ring_write(&output->ring, bytes, count);
    KELPIE_ASSERT(kept == count);
}

void kelpie__execs_data(struct kelpie_vm *vm, uint32_t stream, uint64_t offset, const void *bytes,
                        size_t count, bool is_end) {
    enum kelpie_stream_kind kind = KELPIE_STREAM_ARGUMENTS;
    struct kelpie_exec *exec = find_stream(vm, stream, &kind);
    if (exec == NULL) {
        return;
    }
    if (kind != KELPIE_STREAM_STDOUT && kind != KELPIE_STREAM_STDERR) {
        kelpie__wire_break(vm->wire, "R20", "data of stream %u comes the wrong way", stream);
        return;
    }
    if (exec->phase == KELPIE_EXEC_IS_STARTING) {
        kelpie__wire_break(vm->wire, "R19", "output before the answer to the command's start");
        return;
    }
    kelpie__exec_handle_check(exec);
    unsigned index = kind == KELPIE_STREAM_STDOUT ? 0 : 1;
    struct kelpie_exec_output *output = &exec->outputs[index];
    const char *rule = kelpie__stream_receiver_data(&output->receiver, offset, count, is_end);
    if (rule != NULL) {
        kelpie__wire_break_rule(vm->wire, rule);
        return;
    }
    bool is_waiting = output->has_ring && kelpie__ring_unsent(&output->ring) > 0;
    if (count > 0 && can_deliver(exec) && !is_waiting) {
        exec->is_delivering = true;
        tell_output(exec, index, bytes, count);
        give_credit(exec, index);
        bool is_gone = exec->is_destroyed;
        kelpie__exec_leave(exec);
        if (is_gone) {
            return;
        }
    } else if (count > 0) {
        output_keep(exec, index, bytes, count);
    }
    if (is_end || is_waiting) {
        kelpie__exec_plan_delivery(exec);
    }
}

void kelpie_exec_pause_output(struct kelpie_exec *exec) {
    exec->is_paused = true;
}

void kelpie_exec_resume_output(struct kelpie_exec *exec) {
    exec->is_paused = false;
    kelpie__exec_plan_delivery(exec);
}

/* ---- input ----------------------------------------------------------------------------------- */

static void tell_writable(struct kelpie_exec *exec) {
    struct kelpie *kelpie = exec->kelpie;
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(!exec->is_delivering);
    if (!exec->is_stdin_short || kelpie__stream_sender_space(&exec->input) == 0 || exec->is_held) {
        return;
    }
    exec->is_stdin_short = false;
    if (exec->callbacks.writable != NULL) {
        KELPIE_REACHED(kelpie->os, "input had room again");
        exec->is_delivering = true;
        kelpie__callback_enter(kelpie);
        exec->callbacks.writable(exec->context, exec);
        kelpie__callback_leave(kelpie);
        kelpie__exec_leave(exec);
    }
}

void kelpie__exec_pump(struct kelpie_exec *exec) {
    struct kelpie_wire *wire = exec->vm->wire;
    kelpie__exec_handle_check(exec);
    if (exec->channel == 0) {
        return; /* its connection is gone, and the channel may be another's by now */
    }
    uint32_t arguments = kelpie__stream_number(exec->channel, KELPIE_STREAM_ARGUMENTS);
    bool has_arguments = exec->arguments.ring.bytes != NULL;
    if (has_arguments && kelpie__stream_sender_pump(&exec->arguments, wire, arguments) &&
        exec->arguments.ring.acknowledged == exec->arguments.ring.written) {
        KELPIE_ASSERT(exec->arguments.is_end_sent || exec->arguments.is_stopped);
        kelpie__stream_sender_deinit(&exec->arguments);
    }
    if (exec->is_stdin_open) {
        kelpie__ignore(kelpie__stream_sender_pump(
            &exec->input, wire, kelpie__stream_number(exec->channel, KELPIE_STREAM_STDIN)));
    }
}

void kelpie__execs_credit(struct kelpie_vm *vm, uint32_t stream, uint64_t acknowledged,
                          uint64_t limit) {
    enum kelpie_stream_kind kind = KELPIE_STREAM_ARGUMENTS;
    struct kelpie_exec *exec = find_stream(vm, stream, &kind);
    KELPIE_ASSERT(vm->wire != NULL);
    if (exec == NULL) {
        return;
    }
    if (kind != KELPIE_STREAM_ARGUMENTS && kind != KELPIE_STREAM_STDIN) {
        kelpie__wire_break(vm->wire, "R20", "credit for stream %u comes the wrong way", stream);
        return;
    }
    struct kelpie_stream_sender *sender =
        kind == KELPIE_STREAM_STDIN ? &exec->input : &exec->arguments;
    if (sender->ring.bytes == NULL) {
        return; /* all arguments were sent and acknowledged before, or there is no stdin */
    }
    const char *rule = kelpie__stream_sender_credit(sender, acknowledged, limit);
    if (rule != NULL) {
        kelpie__wire_break_rule(vm->wire, rule);
        return;
    }
    kelpie__exec_pump(exec);
    tell_writable(exec);
}

void kelpie__execs_stop(struct kelpie_vm *vm, uint32_t stream) {
    enum kelpie_stream_kind kind = KELPIE_STREAM_ARGUMENTS;
    struct kelpie_exec *exec = find_stream(vm, stream, &kind);
    if (exec == NULL) {
        return;
    }
    if (kind == KELPIE_STREAM_STDIN) {
        kelpie__stream_sender_stop(&exec->input);
        KELPIE_REACHED(vm->kelpie->os, "input that nobody reads");
        /* writes are taken and dropped from here on, as for a pipe nobody reads */
        tell_writable(exec);
    }
}

void kelpie__execs_drained(struct kelpie_vm *vm) {
    struct kelpie_exec *exec = vm->execs;
    KELPIE_ASSERT(vm->wire != NULL);
    while (exec != NULL) { /* bound: the list; a callback may close its own exec only */
        struct kelpie_exec *next = exec->next;
        kelpie__exec_pump(exec);
        for (unsigned i = 0; i < 2; i += 1) {
            give_credit(exec, i);
        }
        exec = next;
    }
}

void kelpie__execs_fail(struct kelpie_vm *vm, const struct kelpie_error *why) {
    KELPIE_ASSERT(vm->wire == NULL);
    for (struct kelpie_exec *exec = vm->execs; exec != NULL; exec = exec->next) {
        exec->channel = 0; /* a new connection numbers anew */
        kelpie__exec_end(exec, why);
    }
}

/* What has more to say than the ring takes gets a larger one; without memory the small one does. */
static void input_widen(struct kelpie_exec *exec, size_t count) {
    struct kelpie_stream_sender *input = &exec->input;
    KELPIE_ASSERT(!input->is_end_written);
    if (count > kelpie__stream_sender_space(input) && !input->is_stopped &&
        input->ring.capacity < KELPIE_EXEC_STREAM_BYTES) {
        kelpie__ignore(kelpie__ring_grow(&input->ring, KELPIE_EXEC_STREAM_BYTES, NULL));
    }
}

int kelpie_exec_write(struct kelpie_exec *exec, const void *bytes, size_t count,
                      size_t *out_written, struct kelpie_error *error) {
    if (exec == NULL || out_written == NULL || (bytes == NULL && count > 0)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_exec_write: an argument is NULL");
    }
    if (kelpie__check_process(exec->kelpie, "kelpie_exec_write", error) < 0) {
        return KELPIE_E_MISUSE;
    }
    if (exec->phase == KELPIE_EXEC_HAS_ENDED || exec->channel == 0) {
        return kelpie__fail(error, KELPIE_E_EXEC, 0, "the command has ended");
    }
    if (!exec->is_stdin_open || exec->input.is_end_written) {
        return kelpie__fail(error, KELPIE_E_EXEC, 0,
                            "stdin is closed; set has_stdin to write to a command");
    }
    kelpie__exec_handle_check(exec);
    input_widen(exec, count);
    size_t written = kelpie__stream_sender_write(&exec->input, bytes, count);
    KELPIE_ASSERT(written <= count);
    exec->is_stdin_short = written < count;
    KELPIE_ASSERT(!exec->is_stdin_short || kelpie__stream_sender_space(&exec->input) == 0);
    kelpie__exec_pump(exec);
    if (!exec->kelpie->loop->is_dispatching) {
        kelpie__wire_flush(exec->vm->wire);
    }
    *out_written = written;
    return 0;
}

int kelpie_exec_close_stdin(struct kelpie_exec *exec, struct kelpie_error *error) {
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_exec_close_stdin: exec is NULL");
    }
    if (!exec->is_stdin_open || exec->input.is_end_written) {
        return 0;
    }
    kelpie__stream_sender_end(&exec->input);
    KELPIE_ASSERT(exec->input.is_end_written);
    kelpie__exec_pump(exec);
    if (exec->channel != 0 && !exec->kelpie->loop->is_dispatching) {
        kelpie__wire_flush(exec->vm->wire);
    }
    return 0;
}
