/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_stream.h. Where the breaks are, and when it lets go, follows from the operation's
 * value.
 */
#include "sim/client_stream.h"

#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "kelpie.h"
#include "sim/client.h"
#include "sim/machine.h"
#include "sim/programs.h"
#include "sim/truth.h"
#include "sim/world.h"

#define STREAM_STEP_BYTES 24000u /* between two breaks: some of them, and less than the credit */
#define STREAM_BREAKS_MAX 64u    /* of one command, however small its reader's buffer is */
#define STREAM_BREAK_MS_MAX 64u
#define STREAM_TURNS_MAX 4096u
#define STREAM_WAIT_MS 10u

struct stream {
    struct sim_world *world;
    const struct sim_operation *operation;
    struct kelpie_exec *exec; /* owned; NULL: let go of */
    uint64_t received;
    uint64_t step; /* bytes from one break to the next */
    uint64_t next_break;
    bool is_paused;
    bool is_attached; /* for the second time */
    bool has_ended;
    bool is_lost; /* its end is not known */
    struct kelpie_exec_status status;
    struct kelpie_error failure; /* code 0: none */
};

static void stream_blame(struct stream *stream, const char *what) {
    char text[128];
    if (kelpie__sim_truth_has_lied(stream->world)) {
        return;
    }
    kelpie__sim_operation_text(stream->operation, text, sizeof(text));
    kelpie__sim_world_fail(stream->world, "invariant %u: %s: %s at byte %llu",
                           stream->is_attached ? 14 : 11, text, what,
                           (unsigned long long)stream->received);
}

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                      const void *bytes, size_t count) {
    struct stream *stream = context;
    KELPIE_ASSERT(!stream->has_ended && !stream->is_lost);
    if (kind == KELPIE_STDERR && count > 0) {
        stream_blame(stream, "the command complains");
    }
    if (kind == KELPIE_STDOUT &&
        kelpie__sim_pattern_length(bytes, count, stream->received) != count) {
        stream_blame(stream, "a byte that is not the right one");
    }
    stream->received += kind == KELPIE_STDOUT ? count : 0;
    if (stream->received >= stream->next_break) {
        stream->is_paused = true;
        stream->next_break = stream->received + stream->step;
        kelpie_exec_pause_output(exec);
    }
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct stream *stream = context;
    KELPIE_ASSERT(exec == stream->exec || stream->exec == NULL);
    stream->has_ended = true;
    if (error != NULL) {
        stream->failure = *error;
    } else {
        stream->status = *status;
    }
}

static const struct kelpie_exec_callbacks stream_callbacks = {
    .struct_size = sizeof(stream_callbacks), .output = on_output, .ended = on_ended};

/* Sleeps with its connection unread, then reads on. */
static void stream_break(struct stream *stream) {
    struct sim_process *process = kelpie__sim_world_current(stream->world);
    uint64_t drawn = kelpie__sim_decide(stream->world, "break", "client", stream->operation->value,
                                        stream->received);
    kelpie__sim_process_sleep(process,
                              (int64_t)(1 + drawn % STREAM_BREAK_MS_MAX) * KELPIE_NS_PER_MS);
    if (stream->is_paused) {
        stream->is_paused = false;
        kelpie_exec_resume_output(stream->exec);
    }
}

/* Lets go, and attaches again where it was. A command that is not there any more has ended: its end
 * was on the way when it was let go of. */
static int stream_attach(struct stream *stream, struct kelpie_vm *vm, struct kelpie_error *error) {
    char id[64];
    bool fits = kelpie__text_copy(id, sizeof(id), kelpie_exec_id(stream->exec));
    KELPIE_ASSERT(fits);
    int status = kelpie_exec_detach(stream->exec, error);
    if (status < 0) {
        return status;
    }
    stream->exec = NULL;
    stream->is_paused = false;
    stream->is_attached = true;
    stream_break(stream);
    status = kelpie_vm_exec_attach(vm, id, stream->received, 0, &stream_callbacks, stream,
                                   &stream->exec, error);
    stream->is_lost = status == KELPIE_E_NOT_FOUND;
    stream->has_ended = stream->is_lost;
    return stream->is_lost ? 0 : status;
}

static int stream_read(struct stream *stream, struct kelpie_vm *vm, size_t count,
                       struct kelpie_error *error) {
    bool wants_attach = stream->operation->kind == SIM_COMMAND_ATTACH;
    int status = 0;
    KELPIE_ASSERT(stream->exec != NULL);
    for (uint32_t i = 0; i < STREAM_TURNS_MAX && status == 0 && !stream->has_ended; i += 1) {
        if (wants_attach && !stream->is_attached && stream->received >= count / 2) {
            status = stream_attach(stream, vm, error);
        } else if (stream->is_paused) {
            stream_break(stream);
        }
        if (status == 0 && !stream->has_ended) {
            status = kelpie_exec_wait(stream->exec, STREAM_WAIT_MS, NULL, error);
            bool runs_on = status == KELPIE_E_TIMEOUT && !stream->has_ended;
            status = runs_on ? 0 : status;
        }
    }
    if (status == 0 && !stream->has_ended) {
        status = kelpie__fail(error, KELPIE_E_TIMEOUT, 0, "a command that is read has no end");
    }
    return status;
}

/* What the reader's buffer holds. */
static uint64_t step_of(struct sim_world *world, size_t count) {
    const struct sim_clients *clients = kelpie__sim_world_context(world);
    uint64_t buffer = clients->swarm->buffer_bytes;
    uint64_t least = count / STREAM_BREAKS_MAX + 1;
    KELPIE_ASSERT(buffer <= UINT32_MAX);
    return buffer == 0 ? STREAM_STEP_BYTES : buffer < least ? least : buffer;
}

int kelpie__sim_stream_run(struct sim_world *world, struct kelpie_vm *vm,
                           const struct sim_operation *operation, size_t count,
                           struct kelpie_error *error) {
    char text[32];
    bool fits = kelpie__text_format(text, sizeof(text), "%zu", count);
    const char *const argv[] = {"source", text, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct stream stream = {.world = world, .operation = operation, .step = step_of(world, count)};
    KELPIE_ASSERT(fits);
    stream.next_break = stream.step;
    int status =
        kelpie_vm_exec_start(vm, &options, &stream_callbacks, &stream, &stream.exec, error);
    if (status < 0) {
        return status;
    }
    status = stream_read(&stream, vm, count, error);
    if (status == 0 && stream.failure.code < 0) {
        status = stream.failure.code;
        *error = stream.failure;
    }
    if (status == 0 && stream.status.reason == KELPIE_EXEC_SIGNALLED) {
        status = kelpie__fail(error, KELPIE_E_CANCELLED, 0, "it went with its guest");
    }
    if (status == 0 && stream.status.reason == KELPIE_EXEC_TIMED_OUT) {
        status = kelpie__fail(error, KELPIE_E_EXEC_TIMEOUT, 0, "it was read too slowly");
    }
    if (status == 0 && !stream.is_lost && stream.received != count) {
        stream_blame(&stream, "the end comes too early");
    }
    kelpie_exec_close(stream.exec);
    return status;
}
