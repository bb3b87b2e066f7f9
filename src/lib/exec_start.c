/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The start of a command: options checked, the request written, arguments and environment put on
 * their stream. And attaching to one that runs.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "lib/exec.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define EXEC_PARAMS_BYTES (8u * 1024u + 2u * KELPIE_PATH_BYTES_MAX)
#define EXEC_ROWS_DEFAULT 24u
#define EXEC_COLUMNS_DEFAULT 80u
/* no stream comes so far, and what is added to an offset does not wrap round */
#define EXEC_OFFSET_MAX ((uint64_t)INT64_MAX)

/* What goes over the arguments stream: argv, then the environment, each text with its zero. */
struct exec_arguments {
    uint64_t bytes;
    uint64_t argument_count;
    uint64_t environment_count;
};

/* ---- arguments ------------------------------------------------------------------------------- */

static size_t name_length(const char *assignment) {
    const char *equals = strchr(assignment, '=');
    KELPIE_ASSERT(equals == NULL || equals >= assignment);
    return equals == NULL ? strlen(assignment) : (size_t)(equals - assignment);
}

/* Whether the command's own environment sets what this assignment sets. */
static bool is_overridden(const struct kelpie_exec_options *options, const char *assignment) {
    size_t length = name_length(assignment);
    for (size_t i = 0; options->environment != NULL && options->environment[i] != NULL; i += 1) {
        const char *own = options->environment[i];
        if (name_length(own) == length && strncmp(own, assignment, length) == 0) {
            return true;
        }
    }
    return false;
}

static void arguments_put_text(struct kelpie_stream_sender *sender, const char *text,
                               size_t count) {
    KELPIE_ASSERT(text[count - 1] == '\0');
    KELPIE_ASSERT(count > 0);
    if (sender != NULL) {
        size_t written = kelpie__stream_sender_write(sender, text, count);
        KELPIE_ASSERT(written == count); /* its ring was made for all of them */
    }
}

/* Visits every text; writes it when there is a sender. */
static void arguments_visit(const struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                            struct kelpie_stream_sender *sender, struct exec_arguments *out) {
    KELPIE_ASSERT(vm->config->environment_bytes <= sizeof(vm->config->environment));
    *out = (struct exec_arguments){0};
    for (size_t i = 0; options->argv[i] != NULL; i += 1) {
        size_t count = strlen(options->argv[i]) + 1;
        out->bytes += count;
        out->argument_count += 1;
        arguments_put_text(sender, options->argv[i], count);
    }
    const char *next = vm->config->environment;
    for (uint32_t i = 0; i < vm->config->environment_count; i += 1) {
        size_t count = strlen(next) + 1;
        if (!is_overridden(options, next)) {
            out->bytes += count;
            out->environment_count += 1;
            arguments_put_text(sender, next, count);
        }
        next += count;
        KELPIE_ASSERT(next <= vm->config->environment + sizeof(vm->config->environment));
    }
    for (size_t i = 0; options->environment != NULL && options->environment[i] != NULL; i += 1) {
        size_t count = strlen(options->environment[i]) + 1;
        out->bytes += count;
        out->environment_count += 1;
        arguments_put_text(sender, options->environment[i], count);
    }
}

static void arguments_check(const struct exec_arguments *arguments) {
    uint64_t text_count = arguments->argument_count + arguments->environment_count;
    KELPIE_ASSERT(arguments->argument_count > 0);
    KELPIE_ASSERT(arguments->bytes >= text_count); /* each has its zero */
}

static int arguments_put(struct kelpie_exec *exec, const struct kelpie_exec_options *options,
                         struct exec_arguments *out, struct kelpie_error *error) {
    struct kelpie_vm *vm = exec->vm;
    KELPIE_ASSERT(exec->arguments.ring.bytes == NULL);
    arguments_visit(vm, options, NULL, out);
    KELPIE_ASSERT(out->argument_count > 0);
    if (out->bytes > KELPIE_EXEC_ARGUMENT_BYTES_MAX ||
        out->argument_count + out->environment_count > KELPIE_EXEC_ARGUMENT_COUNT_MAX) {
        return kelpie__fail(
            error, KELPIE_E_LIMIT, 0,
            "arguments and environment have %llu bytes in %llu texts, the limits are "
            "%u and %u; pass the rest through stdin or a file",
            (unsigned long long)out->bytes,
            (unsigned long long)(out->argument_count + out->environment_count),
            KELPIE_EXEC_ARGUMENT_BYTES_MAX, KELPIE_EXEC_ARGUMENT_COUNT_MAX);
    }
    size_t capacity = (size_t)kelpie__max_u64(out->bytes, KELPIE_FRAME_BYTES_MAX);
    int status = kelpie__stream_sender_init(&exec->arguments, vm->kelpie->os, capacity, error);
    if (status == 0) {
        arguments_visit(vm, options, &exec->arguments, out);
        kelpie__stream_sender_end(&exec->arguments);
        KELPIE_ASSERT(exec->arguments.ring.written == out->bytes);
    }
    return status;
}

/* ---- the request ----------------------------------------------------------------------------- */

static void write_limits(struct kelpie_json_writer *writer,
                         const struct kelpie_exec_options *options) {
    KELPIE_ASSERT(options->limits != NULL);
    KELPIE_ASSERT(options->limit_count <= KELPIE_EXEC_LIMIT_COUNT_MAX);
    kelpie__json_array_begin(writer, "limits");
    for (size_t i = 0; i < options->limit_count; i += 1) {
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_i64(writer, "resource", options->limits[i].resource);
        kelpie__json_write_u64(writer, "soft", options->limits[i].soft);
        kelpie__json_write_u64(writer, "hard", options->limits[i].hard);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

static int64_t write_params(const struct kelpie_exec *exec,
                            const struct kelpie_exec_options *options,
                            const struct exec_arguments *arguments, char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    const char *directory = options->working_directory;
    arguments_check(arguments);
    KELPIE_ASSERT(exec->channel != 0);
    if (directory == NULL && exec->vm->config->working_directory[0] != '\0') {
        directory = exec->vm->config->working_directory;
    }
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "channel", exec->channel);
    kelpie__json_write_u64(&writer, "argument_bytes", arguments->bytes);
    kelpie__json_write_u64(&writer, "argument_count", arguments->argument_count);
    kelpie__json_write_u64(&writer, "environment_count", arguments->environment_count);
    if (directory != NULL) {
        kelpie__json_write_string(&writer, "cwd", directory);
    }
    if (options->user != NULL) {
        kelpie__json_write_string(&writer, "user", options->user);
    }
    if (options->has_terminal) {
        kelpie__json_object_begin(&writer, "tty");
        kelpie__json_write_u64(&writer, "rows",
                               options->rows != 0 ? options->rows : EXEC_ROWS_DEFAULT);
        kelpie__json_write_u64(&writer, "cols",
                               options->columns != 0 ? options->columns : EXEC_COLUMNS_DEFAULT);
        kelpie__json_object_end(&writer);
    }
    kelpie__json_write_u64(&writer, "timeout_ms", exec->timeout_ms);
    kelpie__json_write_bool(&writer, "stdin", exec->is_stdin_open);
    if (options->limit_count > 0) {
        write_limits(&writer, options);
    }
    kelpie__json_write_string(&writer, "on_disconnect",
                              options->keep_on_disconnect ? "keep" : "kill");
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

/* It runs, or the error says why not; whoever started it is told. */
static void start_end(struct kelpie_exec *exec, const struct kelpie_error *error) {
    struct kelpie *kelpie = exec->kelpie;
    struct kelpie_error lost;
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_STARTING);
    exec->start_request = 0;
    if (error == NULL) {
        exec->phase = KELPIE_EXEC_IS_RUNNING;
        KELPIE_ASSERT(exec->channel != 0);
        kelpie__exec_arm_backstop(exec);
    } else {
        if (error->code == KELPIE_E_IO && kelpie__wire_is_closed(exec->vm->wire)) {
            KELPIE_REACHED(kelpie->os, "a monitor died over the start of a command");
            kelpie__vm_explain_loss(exec->vm, &lost);
            error = &lost;
        }
        exec->phase = KELPIE_EXEC_HAS_ENDED;
        exec->error = *error;
        KELPIE_ASSERT(exec->error.code < 0);
        exec->id[0] = '\0';
        exec->is_ended_told = true; /* the start's own callback tells it */
    }
    if (exec->start_callback != NULL) {
        exec->is_delivering = true;
        kelpie__callback_enter(kelpie);
        exec->start_callback(exec->context, error);
        kelpie__callback_leave(kelpie);
        kelpie__exec_leave(exec);
    }
}

/* An answer that breaks a rule: the connection ends, so that nothing more comes of the command. */
static const struct kelpie_error *start_unreadable(struct kelpie_exec *exec, const char *what,
                                                   struct kelpie_error *out) {
    KELPIE_ASSERT(exec->channel != 0);
    kelpie__wire_break(exec->vm->wire, "R22", "the monitor %s", what);
    kelpie__ignore(kelpie__fail(out, KELPIE_E_PROTOCOL, 0, "the monitor %s", what));
    return out;
}

static void start_answer(void *context, const struct kelpie_error *error, const char *result,
                         size_t length) {
    struct kelpie_exec *exec = context;
    struct kelpie_error unreadable;
    KELPIE_ASSERT(exec->start_request != 0);
    if (error == NULL &&
        kelpie__json_find_string(result, length, "id", exec->id, sizeof(exec->id)) < 0) {
        error = start_unreadable(exec, "started a command without an id", &unreadable);
    }
    start_end(exec, error);
}

static int check_options(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                         struct kelpie_exec_options *out, struct kelpie_error *error) {
    if (vm == NULL || options == NULL || options->struct_size < sizeof(size_t)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "exec: vm or options is NULL, or struct_size is not set");
    }
    *out = (struct kelpie_exec_options){0};
    memcpy(out, options, (size_t)kelpie__min_u64(options->struct_size, sizeof(*out)));
    if (out->argv == NULL || out->argv[0] == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "exec: argv is empty; give a command");
    }
    if (out->argv[0][0] == '\0') {
        return kelpie__fail(error, KELPIE_E_EXEC_NOT_FOUND, 0, "exec: the command's name is empty");
    }
    if (out->limit_count > KELPIE_EXEC_LIMIT_COUNT_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "exec: %zu resource limits, the limit is %u",
                            out->limit_count, KELPIE_EXEC_LIMIT_COUNT_MAX);
    }
    if (out->limit_count > 0 && out->limits == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "exec: limits is NULL, limit_count %zu",
                            out->limit_count);
    }
    bool has_timeout = out->timeout_ms != KELPIE_TIMEOUT_NONE;
    if (has_timeout && out->timeout_ms > KELPIE_EXEC_TIMEOUT_MS_MAX) {
        return kelpie__fail(
            error, KELPIE_E_LIMIT, 0,
            "exec: a timeout of %llu ms, the limit is %llu; give KELPIE_TIMEOUT_NONE "
            "for none",
            (unsigned long long)out->timeout_ms, (unsigned long long)KELPIE_EXEC_TIMEOUT_MS_MAX);
    }
    return 0;
}

static int connect_running(struct kelpie_vm *vm, bool may_wait, struct kelpie_error *error) {
    struct kelpie_vm_record record = {0};
    KELPIE_ASSERT(!may_wait || vm->kelpie->callback_depth == 0);
    int status = may_wait ? kelpie__vm_connect_wait(vm, false, &record, error)
                          : kelpie__vm_connect(vm, false, &record, error);
    return status == KELPIE_E_STATE
               ? kelpie__state_allow(record.state, KELPIE_VERB_EXEC, vm->directory.name, error)
               : status;
}

static int start_send(struct kelpie_exec *exec, const struct kelpie_exec_options *options,
                      struct kelpie_error *error) {
    char params[EXEC_PARAMS_BYTES];
    struct exec_arguments arguments;
    struct kelpie_vm *vm = exec->vm;
    KELPIE_ASSERT(exec->start_request == 0);
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_STARTING);
    int status = arguments_put(exec, options, &arguments, error);
    if (status < 0) {
        return status;
    }
    if (write_params(exec, options, &arguments, params, sizeof(params)) < 0) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "exec: working directory and user have more than %u bytes together",
                            EXEC_PARAMS_BYTES);
    }
    status = kelpie__wire_call(vm->wire, "exec.start", params, KELPIE_CALL_TIMEOUT_MS, start_answer,
                               exec, &exec->start_request, error);
    if (status == 0) {
        KELPIE_ASSERT(exec->start_request != 0);
        kelpie__exec_pump(exec);
        kelpie__wire_flush(vm->wire);
    }
    return status;
}

static int exec_start(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                      const struct kelpie_exec_callbacks *callbacks, void *context,
                      kelpie_done_callback done, bool may_wait, struct kelpie_exec **out,
                      struct kelpie_error *error) {
    struct kelpie_exec_options chosen;
    struct kelpie_exec *exec = NULL;
    KELPIE_ASSERT((done == NULL) == may_wait);
    int status = check_options(vm, options, &chosen, error);
    if (status == 0) {
        status = connect_running(vm, may_wait, error);
    }
    if (status == 0) {
        status = kelpie__exec_create(vm, callbacks, context, 0, 0, &exec, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(exec->is_held);
    exec->start_callback = done;
    exec->keeps_on_disconnect = chosen.keep_on_disconnect;
    exec->has_terminal = chosen.has_terminal;
    exec->timeout_ms = chosen.timeout_ms == 0                     ? KELPIE_EXEC_TIMEOUT_MS_DEFAULT
                       : chosen.timeout_ms == KELPIE_TIMEOUT_NONE ? 0
                                                                  : chosen.timeout_ms;
    status = chosen.has_stdin ? kelpie__exec_open_stdin(exec, error) : 0;
    if (status == 0) {
        status = start_send(exec, &chosen, error);
    }
    if (status < 0) {
        kelpie__exec_destroy(exec);
        return status;
    }
    *out = exec;
    return 0;
}

int kelpie_vm_exec_start_async(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                               const struct kelpie_exec_callbacks *callbacks, void *context,
                               kelpie_done_callback done, struct kelpie_exec **out,
                               struct kelpie_error *error) {
    if (out == NULL || done == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "exec: out or the callback is NULL");
    }
    int status = exec_start(vm, options, callbacks, context, done, false, out, error);
    if (status == 0) {
        (*out)->is_held = false; /* nothing can come before the loop's next step */
    }
    return status;
}

/* Drives the loop until the command runs or has failed to. */
static int wait_started(struct kelpie_exec *exec, struct kelpie_error *error) {
    int status = 0;
    while (status == 0 && exec->start_request != 0) { /* bound: the request's deadline */
        status = kelpie__turn(exec->kelpie, -1, error);
    }
    kelpie__exec_handle_check(exec);
    KELPIE_ASSERT(status < 0 || exec->phase != KELPIE_EXEC_IS_STARTING);
    if (status == 0 && exec->phase == KELPIE_EXEC_HAS_ENDED && exec->id[0] == '\0') {
        KELPIE_ASSERT(exec->error.code < 0);
        status = exec->error.code;
        if (error != NULL) {
            *error = exec->error;
        }
    }
    return status;
}

static int release_held(struct kelpie_exec *exec, int status, struct kelpie_exec **out) {
    KELPIE_ASSERT(exec->is_held);
    KELPIE_ASSERT(status < 0 || exec->id[0] != '\0');
    if (status < 0) {
        kelpie_exec_close(exec);
        return status;
    }
    exec->is_held = false;
    kelpie__exec_plan_delivery(exec);
    *out = exec;
    return 0;
}

int kelpie_vm_exec_start(struct kelpie_vm *vm, const struct kelpie_exec_options *options,
                         const struct kelpie_exec_callbacks *callbacks, void *context,
                         struct kelpie_exec **out, struct kelpie_error *error) {
    struct kelpie_exec *exec = NULL;
    if (vm == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_exec_start: an argument is NULL");
    }
    int status = kelpie__check_may_block(vm->kelpie, "kelpie_vm_exec_start", error);
    if (status == 0) {
        status = exec_start(vm, options, callbacks, context, NULL, true, &exec, error);
    }
    return status < 0 ? status : release_held(exec, wait_started(exec, error), out);
}

/* ---- attaching ------------------------------------------------------------------------------- */

struct attach_target {
    const char *id;
    uint64_t stdout_offset;
    uint64_t stderr_offset;
};

/* Where the streams go on; false: at offsets that no stream has. Bytes that are gone for good are
 * passed over. */
static bool attach_read(struct kelpie_exec *exec, const char *result, size_t length) {
    uint64_t asked[2] = {exec->outputs[0].receiver.received, exec->outputs[1].receiver.received};
    uint64_t offsets[2] = {asked[0], asked[1]};
    uint64_t input = 0;
    kelpie__ignore(kelpie__json_find_u64(result, length, "stdout_offset", &offsets[0]));
    kelpie__ignore(kelpie__json_find_u64(result, length, "stderr_offset", &offsets[1]));
    kelpie__ignore(kelpie__json_find_u64(result, length, "stdin_offset", &input));
    KELPIE_SOMETIMES(exec->kelpie->os, "an attach found bytes gone for good",
                     offsets[0] > asked[0]);
    bool is_valid = input <= EXEC_OFFSET_MAX;
    for (unsigned i = 0; i < 2; i += 1) {
        is_valid = is_valid && offsets[i] >= asked[i] && offsets[i] <= EXEC_OFFSET_MAX;
    }
    for (unsigned i = 0; i < 2 && is_valid; i += 1) {
        KELPIE_ASSERT(!exec->outputs[i].has_ring);
        kelpie__stream_receiver_init(&exec->outputs[i].receiver, offsets[i],
                                     KELPIE_LIB_OUTPUT_BYTES);
    }
    if (is_valid) { /* what the client before left may fill the monitor's buffer: credit comes */
        kelpie__stream_sender_begin(&exec->input, input, 0);
    }
    return is_valid;
}

static void attach_answer(void *context, const struct kelpie_error *error, const char *result,
                          size_t length) {
    struct kelpie_exec *exec = context;
    struct kelpie_error unreadable;
    KELPIE_ASSERT(exec->start_request != 0);
    if (error == NULL && !attach_read(exec, result, length)) {
        error =
            start_unreadable(exec, "attached to a command at offsets it never had", &unreadable);
    }
    start_end(exec, error);
}

static int attach_send(struct kelpie_exec *exec, const char *exec_id, struct kelpie_error *error) {
    char params[256];
    bool fits = kelpie__text_format(
        params, sizeof(params),
        "{\"id\":\"%s\",\"channel\":%u,\"stdout_offset\":%llu,\"stderr_offset\":%llu}", exec_id,
        exec->channel, (unsigned long long)exec->outputs[0].receiver.received,
        (unsigned long long)exec->outputs[1].receiver.received);
    KELPIE_ASSERT(fits);
    KELPIE_ASSERT(exec->start_request == 0);
    KELPIE_ASSERT(exec->phase == KELPIE_EXEC_IS_STARTING);
    fits = kelpie__text_copy(exec->id, sizeof(exec->id), exec_id);
    KELPIE_ASSERT(fits); /* it was looked at */
    int status = kelpie__wire_call(exec->vm->wire, "exec.attach", params, KELPIE_CALL_TIMEOUT_MS,
                                   attach_answer, exec, &exec->start_request, error);
    if (status == 0) {
        kelpie__wire_flush(exec->vm->wire);
    }
    return status;
}

/* Both forms; `done` NULL: the blocking one. */
static int attach_begin(struct kelpie_vm *vm, const struct attach_target *target,
                        const struct kelpie_exec_callbacks *callbacks, void *context,
                        kelpie_done_callback done, struct kelpie_exec **out,
                        struct kelpie_error *error) {
    uint8_t id[KELPIE_EXEC_ID_CHARACTERS / 2];
    struct kelpie_exec *exec = NULL;
    if (target->stdout_offset > EXEC_OFFSET_MAX || target->stderr_offset > EXEC_OFFSET_MAX) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "exec: an offset that was never written");
    }
    if (!kelpie__text_unhex(target->id, id, sizeof(id))) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                            "\"%.40s\" is no exec id: those have 32 hexadecimal digits",
                            target->id);
    }
    int status = connect_running(vm, done == NULL, error);
    if (status == 0) {
        status = kelpie__exec_create(vm, callbacks, context, target->stdout_offset,
                                     target->stderr_offset, &exec, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(exec->is_held);
    exec->start_callback = done;
    exec->keeps_on_disconnect = true;
    exec->has_terminal = true; /* not known: a resize is refused by the guest when there is none */
    status = kelpie__exec_open_stdin(exec, error);
    if (status == 0) {
        status = attach_send(exec, target->id, error);
    }
    if (status < 0) {
        kelpie__exec_destroy(exec);
        return status;
    }
    *out = exec;
    return 0;
}

int kelpie_vm_exec_attach(struct kelpie_vm *vm, const char *exec_id, uint64_t stdout_offset,
                          uint64_t stderr_offset, const struct kelpie_exec_callbacks *callbacks,
                          void *context, struct kelpie_exec **out, struct kelpie_error *error) {
    const struct attach_target target = {exec_id, stdout_offset, stderr_offset};
    struct kelpie_exec *exec = NULL;
    if (vm == NULL || exec_id == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_exec_attach: an argument is NULL");
    }
    int status = kelpie__check_may_block(vm->kelpie, "kelpie_vm_exec_attach", error);
    if (status == 0) {
        status = attach_begin(vm, &target, callbacks, context, NULL, &exec, error);
    }
    return status < 0 ? status : release_held(exec, wait_started(exec, error), out);
}

int kelpie_vm_exec_attach_async(struct kelpie_vm *vm, const char *exec_id, uint64_t stdout_offset,
                                uint64_t stderr_offset,
                                const struct kelpie_exec_callbacks *callbacks, void *context,
                                kelpie_done_callback done, struct kelpie_exec **out,
                                struct kelpie_error *error) {
    const struct attach_target target = {exec_id, stdout_offset, stderr_offset};
    if (vm == NULL || exec_id == NULL || out == NULL || done == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_exec_attach_async: an argument is NULL");
    }
    int status = attach_begin(vm, &target, callbacks, context, done, out, error);
    if (status == 0) {
        (*out)->is_held = false; /* nothing can come before the loop's next step */
    }
    return status;
}
