/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_command.h.
 */
#include "sim/client_command.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/text.h"
#include "kelpie.h"
#include "sim/client.h"
#include "sim/client_stream.h"
#include "sim/client_told.h"
#include "sim/core.h"
#include "sim/fault.h"
#include "sim/programs.h"
#include "sim/truth.h"
#include "sim/world.h"

#define COMMAND_BYTES_STEP 7919u  /* of source and cat: value times this, within the next */
#define COMMAND_BYTES_MAX 200000u /* more than a stream's credit, more than a pipe */
#define COMMAND_LARGE_OF 4u       /* one stream in so many is longer than all buffers together */
#define COMMAND_LARGE_FACTOR 16u
#define COMMAND_CODE_FIRST 3u /* 1 and 2 are what shells and programs complain with */
#define COMMAND_CODE_COUNT 100u
#define COMMAND_TEXT_MAX 128u
#define COMMAND_CUT_OF 5u     /* of one in so many that write, half is kept */
#define COMMAND_SLEEP_S 1000u /* for ever; with its value added, which tells it from all others */
#define COMMAND_LEFT_OF 4u    /* of those that sleep, one in so many is left behind */
#define COMMAND_TIMEOUT_MS 500u
#define COMMAND_TIMEOUT_LONG_MS 3000u /* one in so many: its VM may be paused meanwhile */
#define COMMAND_TIMEOUT_LONG_OF 3u
#define COMMAND_WALL_SLACK_US 1000000u

int kelpie__sim_command_must_fail(const struct sim_operation *operation) {
    if (operation->op != SIM_MODEL_EXEC) {
        return 0;
    }
    switch ((enum sim_command)operation->kind) {
    case SIM_COMMAND_TIMEOUT:
        return KELPIE_E_EXEC_TIMEOUT;
    case SIM_COMMAND_MISSING:
        return KELPIE_E_EXEC_NOT_FOUND;
    case SIM_COMMAND_ECHO:
    case SIM_COMMAND_CODE:
    case SIM_COMMAND_SIGNAL:
    case SIM_COMMAND_SOURCE:
    case SIM_COMMAND_CAT:
    case SIM_COMMAND_SLEEP:
    case SIM_COMMAND_SLOW:
    case SIM_COMMAND_ATTACH:
    case SIM_COMMAND_DEAF:
    case SIM_COMMAND_COUNT:
        break;
    }
    return 0;
}

uint64_t kelpie__sim_command_timeout_ms(const struct sim_operation *operation) {
    bool has_one = operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_TIMEOUT;
    bool is_long = operation->value % COMMAND_TIMEOUT_LONG_OF == 0;
    KELPIE_ASSERT(operation->op < SIM_MODEL_OP_COUNT);
    return !has_one ? 0 : is_long ? COMMAND_TIMEOUT_LONG_MS : COMMAND_TIMEOUT_MS;
}

bool kelpie__sim_command_is_end(int status) {
    return status == KELPIE_E_EXEC || status == KELPIE_E_EXEC_TIMEOUT ||
           status == KELPIE_E_EXEC_DENIED || status == KELPIE_E_EXEC_NOT_FOUND;
}

bool kelpie__sim_command_is_synced(const struct sim_operation *operation) {
    return operation->op == SIM_MODEL_PUT && operation->value % 2 == 0;
}

uint64_t kelpie__sim_command_code(const struct sim_operation *operation) {
    if (operation->op != SIM_MODEL_EXEC) {
        return 0;
    }
    if (operation->kind == SIM_COMMAND_CODE) {
        return COMMAND_CODE_FIRST + operation->value % COMMAND_CODE_COUNT;
    }
    return operation->kind == SIM_COMMAND_SIGNAL ? 128 + SIGKILL : 0;
}

static size_t byte_count(const struct sim_operation *operation) {
    return (size_t)(operation->value * COMMAND_BYTES_STEP % COMMAND_BYTES_MAX);
}

/* What is kept of it: of some, half. */
static size_t kept_count(const struct sim_operation *operation) {
    size_t count = byte_count(operation);
    bool is_cut = operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_SOURCE &&
                  operation->value % COMMAND_CUT_OF == 0 && count >= 2;
    return is_cut ? count / 2 : count;
}

/* ---- what is run ----------------------------------------------------------------------------- */

struct command {
    char text[COMMAND_TEXT_MAX];
    const char *argv[4];
    char variable[32];
    const char *environment[2];
    struct kelpie_exec_options options;
    uint8_t *input; /* owned by the process, which may be killed at any call: of cat */
    size_t input_bytes;
};

KELPIE_PRINTF(2, 3)
static void set_text(struct command *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(command->text, sizeof(command->text), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(command->text));
}

static void set_argv(struct command *command, const char *first, const char *second,
                     const char *third) {
    command->argv[0] = first;
    command->argv[1] = second;
    command->argv[2] = third;
}

static bool prepare_cat(struct sim_world *world, struct command *command,
                        const struct sim_operation *operation) {
    size_t count = byte_count(operation);
    command->input_bytes = count + 1;
    command->input =
        kelpie__sim_process_memory(kelpie__sim_world_current(world), NULL, 0, command->input_bytes);
    if (command->input == NULL) {
        return false;
    }
    kelpie__sim_pattern_fill(command->input, count, 0);
    command->options.stdin_bytes = command->input;
    command->options.stdin_count = count;
    set_argv(command, "cat", NULL, NULL);
    return true;
}

/* One that says where, as whom and with what it runs. */
static bool is_placed(const struct sim_operation *operation) {
    return operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_SLEEP &&
           operation->value % COMMAND_LEFT_OF == 2;
}

static bool is_nobody(const struct sim_operation *operation) {
    return operation->value / COMMAND_LEFT_OF % 2 == 0;
}

static void prepare_placed(struct command *command, const struct sim_operation *operation) {
    bool fits = kelpie__text_format(command->variable, sizeof(command->variable), "WORD=%llu",
                                    (unsigned long long)operation->value);
    KELPIE_ASSERT(fits && is_placed(operation));
    command->environment[0] = command->variable;
    command->options.environment = command->environment;
    command->options.working_directory = "/etc";
    command->options.user = is_nobody(operation) ? "nobody" : NULL;
    set_argv(command, "sh", "-c", "pwd; id -u; echo $WORD $PLACE");
}

static bool prepare_exec(struct sim_world *world, struct command *command,
                         const struct sim_operation *operation) {
    unsigned long long value = operation->value;
    switch ((enum sim_command)operation->kind) {
    case SIM_COMMAND_ECHO:
        set_text(command, "word-%llu", value);
        set_argv(command, "echo", command->text, NULL);
        break;
    case SIM_COMMAND_CODE:
        if (value % 2 == 0) {
            set_text(command, "echo error-%llu >&2; exit %llu", value,
                     (unsigned long long)kelpie__sim_command_code(operation));
        } else { /* with somebody whom it leaves behind */
            set_text(command, "sleep %llu.5 & exit %llu", COMMAND_SLEEP_S + value,
                     (unsigned long long)kelpie__sim_command_code(operation));
        }
        set_argv(command, "sh", "-c", command->text);
        break;
    case SIM_COMMAND_SIGNAL:
        set_argv(command, "sh", "-c", "kill -9 $$");
        break;
    case SIM_COMMAND_TIMEOUT:
        command->options.timeout_ms = kelpie__sim_command_timeout_ms(operation);
        set_text(command, "fork 2; setsid; ignore TERM; sleep %llus", COMMAND_SLEEP_S + value);
        set_argv(command, "script", command->text, NULL);
        break;
    case SIM_COMMAND_SOURCE:
        set_text(command, "%zu", byte_count(operation));
        command->options.output_bytes_max =
            kept_count(operation) < byte_count(operation) ? kept_count(operation) : 0;
        set_argv(command, "source", command->text, NULL);
        break;
    case SIM_COMMAND_CAT:
        return prepare_cat(world, command, operation);
    case SIM_COMMAND_DEAF: {
        bool is_made = prepare_cat(world, command, operation);
        set_argv(command, "true", NULL, NULL);
        return is_made;
    }
    case SIM_COMMAND_SLEEP:
        if (is_placed(operation)) {
            prepare_placed(command, operation);
        } else {
            set_argv(command, "sleep", "0.05", NULL);
        }
        break;
    case SIM_COMMAND_MISSING:
        set_argv(command, "no-such-command", NULL, NULL);
        break;
    case SIM_COMMAND_SLOW: /* client_stream.c */
    case SIM_COMMAND_ATTACH:
    case SIM_COMMAND_COUNT:
        return false;
    }
    return true;
}

static bool prepare(struct sim_world *world, struct command *command,
                    const struct sim_operation *operation) {
    *command = (struct command){.options = {.struct_size = sizeof(command->options)}};
    command->options.argv = command->argv;
    if (operation->op == SIM_MODEL_PUT) {
        set_text(command, "echo %llu > /root/file-%u%s", (unsigned long long)operation->value,
                 operation->kind, kelpie__sim_command_is_synced(operation) ? " && sync" : "");
        set_argv(command, "sh", "-c", command->text);
        return true;
    }
    if (operation->op == SIM_MODEL_GET) {
        set_text(command, "test ! -e /root/file-%u || cat /root/file-%u", operation->kind,
                 operation->kind);
        set_argv(command, "sh", "-c", command->text);
        return true;
    }
    return prepare_exec(world, command, operation);
}

/* ---- what it answers ------------------------------------------------------------------------- */

static bool is_pattern(const char *bytes, size_t count) {
    return kelpie__sim_pattern_length(bytes, count, 0) == count;
}

static bool is_output_right(const struct sim_operation *operation,
                            const struct kelpie_exec_result *result) {
    char word[COMMAND_TEXT_MAX];
    size_t count = result->stdout_count;
    if (operation->op == SIM_MODEL_GET) {
        return true; /* the judge compares the value */
    }
    if (operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_ECHO) {
        bool fits = kelpie__text_format(word, sizeof(word), "word-%llu\n",
                                        (unsigned long long)operation->value);
        KELPIE_ASSERT(fits);
        return strcmp(result->stdout_bytes, word) == 0;
    }
    if (is_placed(operation)) {
        bool fits = kelpie__text_format(word, sizeof(word), "/etc\n%u\n%llu " SIM_CLIENT_PLACE "\n",
                                        is_nobody(operation) ? 65534u : 0u,
                                        (unsigned long long)operation->value);
        KELPIE_ASSERT(fits);
        return strcmp(result->stdout_bytes, word) == 0;
    }
    bool is_many = operation->op == SIM_MODEL_EXEC &&
                   (operation->kind == SIM_COMMAND_SOURCE || operation->kind == SIM_COMMAND_CAT);
    if (is_many) {
        return count == kept_count(operation) && is_pattern(result->stdout_bytes, count);
    }
    return count == 0;
}

/* Of every other `code` a line, of all others nothing. */
static bool is_complaint_right(const struct sim_operation *operation,
                               const struct kelpie_exec_result *result) {
    char line[COMMAND_TEXT_MAX] = "";
    bool has_line = operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_CODE &&
                    operation->value % 2 == 0;
    bool fits = !has_line || kelpie__text_format(line, sizeof(line), "error-%llu\n",
                                                 (unsigned long long)operation->value);
    KELPIE_ASSERT(fits);
    return result->stderr_count == strlen(line) &&
           memcmp(result->stderr_bytes, line, result->stderr_count) == 0;
}

static void compare(struct sim_world *world, const struct sim_operation *operation,
                    const struct kelpie_exec_result *result) {
    char text[COMMAND_TEXT_MAX];
    const struct sim_clients *clients = kelpie__sim_world_context(world);
    if (kelpie__sim_judge_is_tampered(clients->judge, operation->vm)) {
        return;
    }
    kelpie__sim_operation_text(operation, text, sizeof(text));
    bool is_cut = result->is_stdout_truncated || result->is_stderr_truncated;
    if (is_cut && kelpie__sim_faults_fired(kelpie__sim_world_faults(world)) > 0) {
        return; /* no memory for it, and it says so */
    }
    if (kelpie__sim_truth_has_lied(world)) {
        return;
    }
    bool is_to_be_cut = kept_count(operation) < byte_count(operation);
    if (is_cut != is_to_be_cut) {
        kelpie__sim_world_fail(world, "invariant 11: %s: output %s", text,
                               is_cut ? "was cut" : "counts as whole, and was cut");
    } else if (!is_output_right(operation, result)) {
        kelpie__sim_world_fail(world,
                               "invariant 11: %s: %zu bytes, and not the right ones: "
                               "\"%.60s\"",
                               text, result->stdout_count, result->stdout_bytes);
    } else if (!is_complaint_right(operation, result)) {
        kelpie__sim_world_fail(world,
                               "invariant 11: %s: %zu bytes of complaints, and not the right "
                               "ones: \"%.60s\"",
                               text, result->stderr_count, result->stderr_bytes);
    }
}

/* By a signal that is none of the operation's: with its guest, which is going down. What it has
 * written by then is still the beginning of what it would have written. */
static bool was_ended(struct sim_world *world, const struct sim_operation *operation,
                      const struct kelpie_exec_result *result) {
    bool is_own = operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_SIGNAL &&
                  result->status.signal == SIGKILL;
    bool is_many = operation->op == SIM_MODEL_EXEC &&
                   (operation->kind == SIM_COMMAND_SOURCE || operation->kind == SIM_COMMAND_CAT);
    bool was_killed = result->status.reason == KELPIE_EXEC_SIGNALLED &&
                      (result->status.signal == SIGKILL || result->status.signal == SIGTERM);
    if (is_own || !was_killed) {
        return false;
    }
    if (is_many && (result->stdout_count > byte_count(operation) ||
                    !is_pattern(result->stdout_bytes, result->stdout_count))) {
        char text[COMMAND_TEXT_MAX];
        kelpie__sim_operation_text(operation, text, sizeof(text));
        kelpie__sim_world_fail(world, "invariant 11: %s: %zu bytes that it never wrote", text,
                               result->stdout_count);
    }
    return true;
}

/* It is over: nobody of it may live. `needle` is in the arguments of its processes alone. */
static void check_all_dead(struct sim_world *world, const struct sim_operation *operation,
                           const char *what, const char *needle) {
    char path[32];
    char text[COMMAND_TEXT_MAX];
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "vm-%u/", operation->vm);
    KELPIE_ASSERT(fits && needle[0] != '\0');
    uint32_t count = kelpie__sim_truth_commands(world, path, needle);
    if (count > 0) {
        kelpie__sim_operation_text(operation, text, sizeof(text));
        kelpie__sim_world_fail(world,
                               "invariant 12: %s: its %s was reported, and %u processes of it live",
                               text, what, count);
    }
}

static void check_end(struct sim_world *world, const struct sim_operation *operation, int status) {
    char needle[32];
    unsigned long long sleep_s = COMMAND_SLEEP_S + (unsigned long long)operation->value;
    bool fits = true;
    if (operation->op != SIM_MODEL_EXEC) {
        return;
    }
    if (operation->kind == SIM_COMMAND_TIMEOUT && status == KELPIE_E_EXEC_TIMEOUT) {
        fits = kelpie__text_format(needle, sizeof(needle), "sleep %llus", sleep_s);
        check_all_dead(world, operation, "timeout", needle);
    } else if (operation->kind == SIM_COMMAND_CODE && status == 0) {
        fits = kelpie__text_format(needle, sizeof(needle), "%llu.5", sleep_s);
        check_all_dead(world, operation, "end", needle);
    }
    KELPIE_ASSERT(fits);
}

static uint64_t result_of(const struct sim_operation *operation,
                          const struct kelpie_exec_result *result) {
    if (operation->op == SIM_MODEL_GET) {
        char digits[24] = "";
        uint64_t value = 0; /* nothing was there, or nothing that is a value */
        size_t length = strcspn(result->stdout_bytes, "\n");
        if (length > 0 && length < sizeof(digits)) {
            memcpy(digits, result->stdout_bytes, length);
            kelpie__ignore(kelpie__text_u64(digits, &value));
        }
        return value;
    }
    return result->status.reason == KELPIE_EXEC_SIGNALLED ? 128 + (uint64_t)result->status.signal
                                                          : (uint64_t)result->status.exit_code;
}

/* In microseconds, as the header says: no command runs for longer than its caller waits for it. */
static void check_wall(struct sim_world *world, const struct sim_operation *operation,
                       int64_t begun_ns, const struct kelpie_exec_status *status) {
    const struct sim_clients *clients = kelpie__sim_world_context(world);
    uint64_t waited_us = (uint64_t)(kelpie__sim_now(world) - begun_ns) / 1000;
    char text[COMMAND_TEXT_MAX];
    KELPIE_ASSERT(kelpie__sim_now(world) >= begun_ns);
    if (status->wall_us > waited_us + COMMAND_WALL_SLACK_US &&
        !kelpie__sim_judge_is_tampered(clients->judge, operation->vm) &&
        !kelpie__sim_truth_has_lied(world)) {
        kelpie__sim_operation_text(operation, text, sizeof(text));
        kelpie__sim_world_fail(
            world, "contract: %s: it has run for %llu us, and its caller waited %llu", text,
            (unsigned long long)status->wall_us, (unsigned long long)waited_us);
    }
}

static void check_named(struct sim_world *world, uint64_t timeout_ms,
                        const struct kelpie_error *error) {
    char number[24];
    bool fits = kelpie__text_format(number, sizeof(number), "%llu", (unsigned long long)timeout_ms);
    KELPIE_ASSERT(fits && error->code < 0);
    if (strstr(error->message, number) == NULL) {
        kelpie__sim_world_fail(world, "invariant 13: a timeout that does not name itself: %s",
                               error->message);
    }
}

static bool is_left_behind(const struct sim_operation *operation) {
    return operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_SLEEP &&
           operation->value % COMMAND_LEFT_OF == 1;
}

/* Begun, and let go of: at once, or when the client goes, whose connection ends it
 * (belongings.c looks whether it has). */
static int command_leave(struct kelpie_vm *vm, const struct sim_operation *operation,
                         struct kelpie_error *error) {
    static const struct kelpie_exec_callbacks none = {.struct_size = sizeof(none)};
    char seconds[24];
    struct kelpie_exec *exec = NULL;
    bool fits = kelpie__text_format(seconds, sizeof(seconds), "%llu" SIM_COMMAND_LEFT,
                                    COMMAND_SLEEP_S + (unsigned long long)operation->value);
    const char *const argv[] = {"sleep", seconds, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = KELPIE_TIMEOUT_NONE};
    KELPIE_ASSERT(fits && is_left_behind(operation));
    int status = kelpie_vm_exec_start(vm, &options, &none, NULL, &exec, error);
    if (status == 0 && operation->value / COMMAND_LEFT_OF % 2 == 0) {
        kelpie_exec_close(exec);
    }
    return status;
}

void kelpie__sim_command_stay(struct kelpie_vm *vm) {
    static const struct kelpie_exec_callbacks none = {.struct_size = sizeof(none)};
    static const char *const argv[] = {"script", "ignore TERM; sleep 1000s", NULL};
    static const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = KELPIE_TIMEOUT_NONE};
    struct kelpie_exec *exec = NULL;
    /* It goes with the handle of its VM; one that does not begin makes the stop a quick one. */
    kelpie__ignore(kelpie_vm_exec_start(vm, &options, &none, NULL, &exec, NULL));
}

int kelpie__sim_command_run(struct sim_world *world, struct kelpie_vm *vm,
                            const struct sim_operation *operation, uint64_t *out_result,
                            struct kelpie_error *error) {
    struct command command;
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    bool is_stream = operation->op == SIM_MODEL_EXEC &&
                     (operation->kind == SIM_COMMAND_SLOW || operation->kind == SIM_COMMAND_ATTACH);
    if (is_stream) {
        size_t factor = operation->value % COMMAND_LARGE_OF == 0 ? COMMAND_LARGE_FACTOR : 1;
        return kelpie__sim_stream_run(world, vm, operation, factor * byte_count(operation), error);
    }
    if (is_left_behind(operation)) {
        *out_result = 0;
        return command_leave(vm, operation, error);
    }
    if (kelpie__sim_told_is_one(operation)) {
        return kelpie__sim_told_run(world, vm, operation, out_result, error);
    }
    if (!prepare(world, &command, operation)) {
        return KELPIE_E_MEMORY;
    }
    int64_t begun_ns = kelpie__sim_now(world);
    int status = kelpie_vm_exec(vm, &command.options, &result, error);
    check_end(world, operation, status);
    if (status == 0) {
        check_wall(world, operation, begun_ns, &result.status);
    }
    if (status == 0 && was_ended(world, operation, &result)) {
        status = kelpie__fail(error, KELPIE_E_CANCELLED, 0, "the command was ended by signal %d",
                              result.status.signal);
    } else if (status == 0 && operation->op == SIM_MODEL_GET && result.is_stdout_truncated) {
        compare(world, operation, &result);
        status = kelpie__fail(error, KELPIE_E_MEMORY, 0, "what it read was cut, and says so");
    } else if (status == 0) {
        *out_result = result_of(operation, &result);
        /* another code: the judge knows whether somebody may have ended it early */
        if (operation->op == SIM_MODEL_GET || *out_result == kelpie__sim_command_code(operation)) {
            compare(world, operation, &result);
        }
    } else if (status == KELPIE_E_EXEC_TIMEOUT && command.options.timeout_ms > 0) {
        check_named(world, command.options.timeout_ms, error);
    }
    kelpie_exec_result_release(&result);
    if (command.input != NULL) {
        kelpie__ignore(kelpie__sim_process_memory(kelpie__sim_world_current(world), command.input,
                                                  command.input_bytes, 0) == NULL);
    }
    return status;
}
