/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands whose output is collected: the streamed form and two buffers.
 */
#include <string.h>

#include "lib/exec.h"
#include "lib/internal.h"
#include "os/os_call.h"

#define COLLECT_GROWTH_BYTES 4096u
#define COLLECT_TRIES 8u

/* One stream's bytes. Memory given to the embedder is the table's, so that release can give it back
 * without a handle: a header in front of the bytes remembers both. */
struct collect_header {
    struct kelpie_os *os;
    size_t capacity; /* with this header */
};

struct collect_buffer {
    struct collect_header *memory;
    size_t count;
    bool is_truncated;
};

struct collect {
    struct kelpie_vm *vm;
    struct kelpie_exec *exec;
    struct kelpie_exec_result *result; /* borrowed: until the callback */
    size_t result_bytes;               /* its struct_size */
    kelpie_done_callback callback;
    void *context;
    const uint8_t *input; /* borrowed: until the callback */
    size_t input_count;
    size_t output_bytes_max;
    uint64_t timeout_ms;
    struct collect_buffer buffers[2];
};

/* ---- the buffers ----------------------------------------------------------------------------- */

static void buffer_check(const struct collect_buffer *buffer) {
    if (buffer->memory == NULL) {
        KELPIE_ASSERT(buffer->count == 0);
    } else { /* with the zero behind them */
        KELPIE_ASSERT(buffer->memory->capacity > sizeof(struct collect_header));
        KELPIE_ASSERT(buffer->count < buffer->memory->capacity - sizeof(struct collect_header));
    }
}

static char *buffer_bytes(const struct collect_buffer *buffer) {
    return buffer->memory == NULL ? NULL : (char *)(buffer->memory + 1);
}

/* Room for `count` more bytes and a zero. */
static bool buffer_reserve(struct collect *collect, struct collect_buffer *buffer, size_t count) {
    struct kelpie_os *os = collect->vm->kelpie->os;
    size_t old = buffer->memory == NULL ? 0 : buffer->memory->capacity;
    size_t needed = sizeof(struct collect_header) + buffer->count + count + 1;
    buffer_check(buffer);
    if (needed <= old) {
        return true;
    }
    size_t capacity =
        (size_t)kelpie__max_u64(needed, kelpie__max_u64(2 * old, COLLECT_GROWTH_BYTES));
    struct collect_header *memory = kelpie__resize(os, buffer->memory, old, capacity);
    if (memory == NULL) {
        return false;
    }
    *memory = (struct collect_header){os, capacity};
    buffer->memory = memory;
    KELPIE_ASSERT(memory->capacity >= needed);
    return true;
}

static void buffer_free(struct collect_header *memory) {
    if (memory != NULL) {
        kelpie__free(memory->os, memory, memory->capacity);
    }
}

void kelpie_exec_result_release(struct kelpie_exec_result *result) {
    if (!kelpie__struct_is_sized(result)) {
        return;
    }
    if (result->stdout_bytes != NULL) {
        buffer_free((struct collect_header *)(void *)result->stdout_bytes - 1);
    }
    if (result->stderr_bytes != NULL) {
        buffer_free((struct collect_header *)(void *)result->stderr_bytes - 1);
    }
    const struct kelpie_exec_result empty = {.struct_size = sizeof(empty)};
    kelpie__struct_give(result, result->struct_size, &empty, sizeof(empty));
}

/* ---- the command ----------------------------------------------------------------------------- */

static void collect_check(const struct collect *collect) {
    KELPIE_ASSERT(collect->result != NULL);
    KELPIE_ASSERT(collect->callback != NULL);
    KELPIE_ASSERT(collect->output_bytes_max > 0);
    KELPIE_ASSERT(collect->input_count == 0 || collect->input != NULL);
    KELPIE_ASSERT(collect->exec == NULL || collect->exec->context == collect);
    for (unsigned i = 0; i < 2; i += 1) {
        buffer_check(&collect->buffers[i]);
        KELPIE_ASSERT(collect->buffers[i].count <= collect->output_bytes_max);
    }
}

static void collect_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                           const void *bytes, size_t count) {
    struct collect *collect = context;
    struct collect_buffer *buffer = &collect->buffers[stream == KELPIE_STDOUT ? 0 : 1];
    KELPIE_ASSERT(collect->exec == exec);
    KELPIE_ASSERT((bytes == NULL) == (count == 0));
    collect_check(collect);
    size_t room = collect->output_bytes_max - buffer->count;
    size_t kept = (size_t)kelpie__min_u64(count, room);
    if (!buffer_reserve(collect, buffer, kept)) {
        kept = 0;
    }
    buffer->is_truncated = buffer->is_truncated || kept < count;
    if (buffer->memory != NULL) {
        if (kept > 0) {
            memcpy(buffer_bytes(buffer) + buffer->count, bytes, kept);
        }
        buffer->count += kept;
        buffer_bytes(buffer)[buffer->count] = '\0';
    }
}

static void collect_feed(struct collect *collect) {
    size_t written = 0;
    if (collect->input_count > 0 && kelpie_exec_write(collect->exec, collect->input,
                                                      collect->input_count, &written, NULL) < 0) {
        return; /* it has ended without reading all of it */
    }
    collect->input += written;
    KELPIE_ASSERT(written <= collect->input_count);
    collect->input_count -= written;
    if (collect->input_count == 0) {
        kelpie__ignore(kelpie_exec_close_stdin(collect->exec, NULL));
    }
}

static void collect_writable(void *context, struct kelpie_exec *exec) {
    struct collect *collect = context;
    KELPIE_ASSERT(collect->exec == exec);
    collect_feed(collect);
}

static void collect_free(struct collect *collect) {
    struct kelpie_os *os = collect->vm->kelpie->os;
    buffer_free(collect->buffers[0].memory);
    buffer_free(collect->buffers[1].memory);
    kelpie__free(os, collect, sizeof(*collect));
}

/* Hands the buffers to the caller's result. */
static void collect_give(struct collect *collect, const struct kelpie_exec_status *status) {
    const struct kelpie_exec_result result = {
        .struct_size = sizeof(result),
        .status = *status,
        .stdout_bytes = buffer_bytes(&collect->buffers[0]),
        .stdout_count = collect->buffers[0].count,
        .is_stdout_truncated = collect->buffers[0].is_truncated,
        .stderr_bytes = buffer_bytes(&collect->buffers[1]),
        .stderr_count = collect->buffers[1].count,
        .is_stderr_truncated = collect->buffers[1].is_truncated,
    };
    collect_check(collect);
    kelpie__struct_give(collect->result, collect->result_bytes, &result, sizeof(result));
    collect->buffers[0] = (struct collect_buffer){0};
    collect->buffers[1] = (struct collect_buffer){0};
}

/* The end, whichever: the exec goes, then the callback comes. */
static void collect_end(struct collect *collect, const struct kelpie_error *error) {
    struct kelpie_error kept = error == NULL ? (struct kelpie_error){0} : *error;
    kelpie_done_callback callback = collect->callback;
    void *context = collect->context;
    collect_check(collect);
    KELPIE_ASSERT(error == NULL || error->code < 0);
    if (collect->exec != NULL) {
        kelpie_exec_close(collect->exec);
    }
    collect_free(collect);
    callback(context, error == NULL ? NULL : &kept);
}

static void collect_ended(void *context, struct kelpie_exec *exec,
                          const struct kelpie_exec_status *status,
                          const struct kelpie_error *error) {
    struct collect *collect = context;
    struct kelpie_error timeout;
    KELPIE_ASSERT(collect->exec == exec);
    KELPIE_ASSERT((status == NULL) == (error != NULL));
    if (status == NULL) {
        collect_end(collect, error);
        return;
    }
    if (status->reason == KELPIE_EXEC_TIMED_OUT) {
        kelpie__ignore(kelpie__fail(&timeout, KELPIE_E_EXEC_TIMEOUT, 0,
                                    "the command was killed at its timeout of %llu ms",
                                    (unsigned long long)collect->timeout_ms));
        collect_end(collect, &timeout);
        return;
    }
    /* Empty output is an empty text, not NULL. */
    for (unsigned i = 0; i < 2; i += 1) {
        if (buffer_reserve(collect, &collect->buffers[i], 0)) {
            buffer_bytes(&collect->buffers[i])[collect->buffers[i].count] = '\0';
        }
    }
    collect_give(collect, status);
    collect_end(collect, NULL);
}

/* The VM's handle is closed: it ends without a callback. */
static void collect_drop(void *context) {
    struct collect *collect = context;
    KELPIE_ASSERT(collect->exec != NULL);
    KELPIE_ASSERT(collect->exec->drop == collect_drop);
    kelpie_exec_close(collect->exec);
    collect_free(collect);
}

static void collect_started(void *context, const struct kelpie_error *error) {
    struct collect *collect = context;
    collect_check(collect);
    KELPIE_ASSERT(collect->exec != NULL);
    if (error != NULL) {
        collect_end(collect, error);
        return;
    }
    if (collect->exec->is_stdin_open) {
        collect_feed(collect);
    }
}

static const struct kelpie_exec_callbacks collect_callbacks = {
    .struct_size = sizeof(collect_callbacks),
    .output = collect_output,
    .writable = collect_writable,
    .ended = collect_ended,
};

static int collect_start(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                         struct kelpie_exec_result *result, kelpie_done_callback callback,
                         void *context, struct collect **out, struct kelpie_error *error) {
    struct kelpie_exec_options chosen = {0};
    if (vm == NULL || !kelpie__struct_is_sized(result) || !kelpie__struct_is_sized(options) ||
        callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_exec: an argument is NULL, or struct_size is not set");
    }
    memcpy(&chosen, options, (size_t)kelpie__min_u64(options->struct_size, sizeof(chosen)));
    chosen.struct_size = sizeof(chosen);
    if (chosen.stdin_count > 0 && chosen.stdin_bytes == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_exec: stdin_bytes is NULL, stdin_count %zu",
                            chosen.stdin_count);
    }
    /* An empty input needs no stream, nor an end; but a terminal's reader waits for one. */
    chosen.has_stdin = chosen.stdin_count > 0 || chosen.has_terminal;
    struct collect *collect = kelpie__alloc(vm->kelpie->os, sizeof(*collect));
    if (collect == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a command");
    }
    *collect = (struct collect){
        .vm = vm,
        .result = result,
        .result_bytes = result->struct_size,
        .callback = callback,
        .context = context,
        .input = chosen.stdin_bytes,
        .input_count = chosen.stdin_count,
        .output_bytes_max = chosen.output_bytes_max != 0 ? chosen.output_bytes_max
                                                         : KELPIE_EXEC_COLLECT_BYTES_DEFAULT,
        .timeout_ms = chosen.timeout_ms != 0 ? chosen.timeout_ms : KELPIE_EXEC_TIMEOUT_MS_DEFAULT,
    };
    int status = kelpie_vm_exec_start_async(vm, &chosen, &collect_callbacks, collect,
                                            collect_started, &collect->exec, error);
    if (status < 0) {
        collect_free(collect);
        return status;
    }
    collect->exec->drop = collect_drop;
    collect_check(collect);
    *out = collect;
    return 0;
}

int kelpie_vm_exec_async(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                         struct kelpie_exec_result *out_result, kelpie_done_callback callback,
                         void *context, struct kelpie_exec **out, struct kelpie_error *error) {
    struct collect *collect = NULL;
    int status = collect_start(vm, options, out_result, callback, context, &collect, error);
    if (status == 0 && out != NULL) {
        *out = collect->exec;
    }
    return status;
}

int kelpie_vm_exec(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                   struct kelpie_exec_result *out, struct kelpie_error *error) {
    struct kelpie_waiter waiter = {0};
    struct collect *collect = NULL;
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_exec: vm is NULL");
    }
    int status = kelpie__check_may_block(vm->kelpie, "kelpie_vm_exec", error);
    bool is_tried = status < 0;
    for (unsigned i = 0; i < COLLECT_TRIES && !is_tried; i += 1) {
        /* What is wrong, if anything, is said by the start that follows; somebody may hold the VM's
         * lock for a moment then. */
        kelpie__ignore(kelpie__vm_connect_wait(vm, false, NULL, NULL));
        status = collect_start(vm, options, out, kelpie__waiter_done, &waiter, &collect, error);
        is_tried = status != KELPIE_E_BUSY;
    }
    if (status < 0) {
        return status;
    }
    status = kelpie__waiter_wait(vm->kelpie, &waiter, error);
    if (!waiter.is_done) { /* the loop itself failed */
        KELPIE_ASSERT(status < 0);
        KELPIE_ASSERT(collect != NULL);
        collect_drop(collect);
    }
    return status;
}
