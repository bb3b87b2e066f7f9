/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The shell of guests: runs its instructions one by one, and between two of them the actions of
 * traps. `sh -c TEXT [NAME [ARGUMENT]...]`, `sh FILE`, or commands from its input.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/shell.h"
#include "sim/text_buffer.h"

#define RUN_INSTRUCTION_NS 1200  /* what busybox takes for a simple command of its own */
#define RUN_WORK_NS (250 * 1000) /* spent in pieces of so much */
#define RUN_SCRIPT_BYTES_MAX (256u * 1024u)

void kelpie__sim_shell_complain(struct shell *shell, const char *format, ...) {
    char text[1024];
    int prefix = snprintf(text, sizeof(text), "%.100s: ", shell->name);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text + prefix, sizeof(text) - (size_t)prefix - 1, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    size_t count = strlen(text);
    text[count] = '\n';
    /* A complaint that nobody hears changes nothing. */
    kelpie__ignore(kelpie__sim_write_all(shell->os, shell->io[2], text, count + 1));
}

void kelpie__sim_shell_exit(struct shell *shell, int code) {
    KELPIE_ASSERT(code >= 0 && code <= 255);
    shell->is_exiting = true;
    shell->exit_code = code;
}

void kelpie__sim_shell_call(struct shell *shell, const char *bytes, size_t count,
                            bool keeps_status) {
    struct shell_code *code = kelpie__alloc(shell->os, sizeof(*code));
    if (code == NULL || shell->call_count == SHELL_CALLS_MAX) {
        kelpie__sim_shell_complain(shell, "nested too deeply");
        kelpie__sim_shell_exit(shell, 2);
        return;
    }
    code->bytes = kelpie__sim_shell_copy(shell, bytes, count);
    code->text = (struct shell_text){.bytes = code->bytes, .length = kelpie__to_u32(count)};
    if (kelpie__sim_shell_compile(shell, code) < 0) {
        kelpie__sim_shell_code_free(shell, code);
        kelpie__sim_shell_exit(shell, 2);
        return;
    }
    shell->calls[shell->call_count] =
        (struct shell_call){.code = code, .status = keeps_status ? shell->status : -1};
    shell->call_count += 1;
}

/* ---- for and case ---------------------------------------------------------------------------- */

/* The range is "NAME", or "NAME in WORDS". */
static void run_for(struct shell *shell, const struct shell_code *code, struct shell_range range) {
    if (shell->loop_count == SHELL_LOOPS_MAX) {
        kelpie__sim_shell_complain(shell, "too many loops");
        kelpie__sim_shell_exit(shell, 2);
        return;
    }
    struct shell_loop *loop = &shell->loops[shell->loop_count];
    struct shell_fields fields = {0};
    const struct shell_text part = {code->text.bytes, range.end};
    uint32_t at = range.begin;
    struct shell_token name = kelpie__sim_shell_token(&part, &at);
    size_t length = name.range.end - name.range.begin;
    length = length < sizeof(loop->name) ? length : sizeof(loop->name) - 1;
    *loop = (struct shell_loop){.next = 0};
    memcpy(loop->name, code->text.bytes + name.range.begin, length);
    struct shell_token in = kelpie__sim_shell_token(&part, &at);
    if (in.kind == SHELL_TOKEN_END) {
        for (int i = 0; i < shell->positional_count; i += 1) {
            kelpie__sim_shell_field_add(shell, &fields, shell->positional[i]);
        }
    }
    struct shell_token word = kelpie__sim_shell_token(&part, &at);
    while (word.kind == SHELL_TOKEN_WORD) {
        kelpie__sim_shell_expand(shell, &code->text, word.range, true, &fields);
        word = kelpie__sim_shell_token(&part, &at);
    }
    loop->items.items =
        fields.count == 0 ? NULL : kelpie__alloc(shell->os, fields.count * sizeof(*fields.items));
    loop->items.count = loop->items.items == NULL ? 0 : fields.count;
    for (uint32_t i = 0; i < loop->items.count; i += 1) {
        loop->items.items[i] =
            kelpie__sim_shell_copy(shell, fields.items[i], strlen(fields.items[i]));
    }
    shell->loop_count += 1;
}

static void run_pop(struct shell *shell) {
    KELPIE_ASSERT(shell->loop_count > 0);
    shell->loop_count -= 1;
    struct shell_loop *loop = &shell->loops[shell->loop_count];
    for (uint32_t i = 0; i < loop->items.count; i += 1) {
        kelpie__sim_shell_drop(shell, loop->items.items[i]);
    }
    kelpie__free(shell->os, loop->items.items, loop->items.count * sizeof(*loop->items.items));
}

/* False: there is no next item, and the loop is over. */
static bool run_next(struct shell *shell) {
    if (shell->loop_count == 0) {
        return false; /* it could not begin */
    }
    struct shell_loop *loop = &shell->loops[shell->loop_count - 1];
    if (loop->next == loop->items.count) {
        run_pop(shell);
        return false;
    }
    kelpie__sim_shell_set(shell, loop->name, strlen(loop->name), loop->items.items[loop->next]);
    loop->next += 1;
    return true;
}

static void run_case(struct shell *shell, const struct shell_code *code, struct shell_range range) {
    const char *word = kelpie__sim_shell_expand_one(shell, &code->text, range);
    kelpie__sim_shell_set(shell, "_case", 5, word); /* as long as it may be needed */
}

static bool run_match(struct shell *shell, const struct shell_code *code,
                      struct shell_range range) {
    const struct shell_text part = {code->text.bytes, range.end};
    const char *word = kelpie__sim_shell_get(shell, "_case", 5);
    uint32_t at = range.begin;
    bool is_match = false;
    struct shell_token token = kelpie__sim_shell_token(&part, &at);
    while (token.kind != SHELL_TOKEN_END && !is_match) {
        if (token.kind == SHELL_TOKEN_WORD && word != NULL) {
            is_match = kelpie__sim_shell_match(
                kelpie__sim_shell_expand_one(shell, &code->text, token.range), word);
        }
        token = kelpie__sim_shell_token(&part, &at);
    }
    return is_match;
}

static void run_subshell(struct shell *shell, const struct shell_code *code,
                         struct shell_range range) {
    struct shell_job job;
    const struct shell_text part = {code->text.bytes + range.begin, range.end - range.begin};
    const int io[3] = {shell->io[0], shell->io[1], shell->io[2]};
    int status = kelpie__sim_shell_start_text(shell, part, io, &job);
    shell->status = status < 0 ? 126 : kelpie__sim_shell_wait(shell, job);
}

/* ---- the machine ----------------------------------------------------------------------------- */

/* A compound command does not run without its redirections. */
static void run_redirect(struct shell *shell, struct shell_call *call,
                         const struct shell_instruction *instruction) {
    if (!kelpie__sim_shell_redirect(shell, &call->code->text, instruction->range)) {
        shell->status = 1;
        call->next = instruction->target;
    }
}

/* Instructions that only choose the next one. */
static void run_jump(struct shell *shell, struct shell_call *call,
                     const struct shell_instruction *instruction) {
    bool jumps = instruction->op == SHELL_OP_JUMP;
    if (instruction->op == SHELL_OP_IF_FAILED) {
        jumps = shell->status != 0;
    } else if (instruction->op == SHELL_OP_IF_GOOD) {
        jumps = shell->status == 0;
    } else if (instruction->op == SHELL_OP_NEXT) {
        jumps = !run_next(shell);
    } else if (instruction->op == SHELL_OP_MATCH) {
        jumps = !run_match(shell, call->code, instruction->range);
    }
    call->next = jumps ? instruction->target : call->next;
}

static void run_end(struct shell *shell) {
    KELPIE_ASSERT(shell->call_count > 0);
    shell->call_count -= 1;
    const struct shell_call *call = &shell->calls[shell->call_count];
    shell->status = call->status >= 0 ? call->status : shell->status;
    kelpie__sim_shell_code_free(shell, call->code);
}

static void run_instruction(struct shell *shell, struct shell_call *call,
                            const struct shell_instruction *instruction) {
    const struct shell_code *code = call->code;
    switch (instruction->op) {
    case SHELL_OP_COMMAND:
        kelpie__sim_shell_command(shell, code, instruction->range);
        break;
    case SHELL_OP_JUMP:
    case SHELL_OP_IF_FAILED:
    case SHELL_OP_IF_GOOD:
    case SHELL_OP_NEXT:
    case SHELL_OP_MATCH:
        run_jump(shell, call, instruction);
        break;
    case SHELL_OP_NOT:
        shell->status = shell->status == 0 ? 1 : 0;
        break;
    case SHELL_OP_OK:
        shell->status = 0;
        break;
    case SHELL_OP_FOR:
        run_for(shell, code, instruction->range);
        break;
    case SHELL_OP_POP:
        run_pop(shell);
        break;
    case SHELL_OP_CASE:
        run_case(shell, code, instruction->range);
        break;
    case SHELL_OP_SUBSHELL:
        run_subshell(shell, code, instruction->range);
        break;
    case SHELL_OP_BACKGROUND:
        kelpie__sim_shell_background(shell, code, instruction->range);
        break;
    case SHELL_OP_PIPELINE:
        call->next += instruction->target; /* before a trap may grow the calls */
        kelpie__sim_shell_pipeline(shell, code, instruction + 1, instruction->target);
        break;
    case SHELL_OP_REDIRECT:
        run_redirect(shell, call, instruction);
        break;
    case SHELL_OP_RESTORE:
        kelpie__sim_shell_restore(shell);
        break;
    case SHELL_OP_STAGE:
    case SHELL_OP_END:
        run_end(shell);
        break;
    }
}

/* Signals that came since the last look: their actions run next. */
static void run_traps(struct shell *shell) {
    if (shell->signals < 0 || (shell->process->signals_pending & shell->trapped) == 0) {
        return;
    }
    int signal = kelpie__os_take_signal(shell->os, shell->signals);
    if (signal > 0 && signal < (int)SHELL_SIGNAL_MAX && shell->traps[signal] != NULL) {
        kelpie__sim_shell_call(shell, shell->traps[signal], strlen(shell->traps[signal]), true);
    }
}

/* A script that spins makes time pass. */
static void run_spend(struct shell *shell) {
    shell->work_ns += RUN_INSTRUCTION_NS;
    if (shell->work_ns >= RUN_WORK_NS) {
        kelpie__sim_work(shell->os, shell->work_ns);
        shell->work_ns = 0;
    }
}

/* set -e: a command that failed, unless what follows looks at its status. */
static bool run_is_over(const struct shell *shell, const struct shell_call *call,
                        enum shell_op op) {
    bool is_command = op == SHELL_OP_COMMAND || op == SHELL_OP_PIPELINE || op == SHELL_OP_SUBSHELL;
    if (!shell->stops_at_failure || shell->status == 0 || !is_command) {
        return false;
    }
    enum shell_op next = call->code->instructions[call->next].op;
    return next != SHELL_OP_IF_FAILED && next != SHELL_OP_IF_GOOD && next != SHELL_OP_NOT;
}

void kelpie__sim_shell_run(struct shell *shell) {
    while (shell->call_count > 0 && !shell->is_exiting) { /* bound: the script's own */
        struct shell_call *call = &shell->calls[shell->call_count - 1];
        const struct shell_instruction *instruction = &call->code->instructions[call->next];
        enum shell_op op = instruction->op;
        KELPIE_ASSERT(call->next < call->code->count);
        call->next += 1;
        run_instruction(shell, call, instruction);
        kelpie__sim_shell_forget(shell);
        if (!shell->is_exiting && op != SHELL_OP_END && run_is_over(shell, call, op)) {
            kelpie__sim_shell_exit(shell, shell->status);
        }
        run_traps(shell);
        run_spend(shell);
    }
}

/* ---- begin and end --------------------------------------------------------------------------- */

/* Variables of a shell that has started this one, and everybody's. */
static void shell_import(struct shell *shell) {
    char **environment = shell->process->environment;
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i += 1) {
        const char *name = environment[i];
        bool is_local = name[0] == SHELL_LOCAL;
        name += is_local ? 1 : 0;
        const char *equals = strchr(name, '=');
        uint64_t number = 0;
        if (equals == NULL) {
            continue;
        }
        size_t length = (size_t)(equals - name);
        if (kelpie__sim_shell_is_name(name, length)) {
            char *copy = kelpie__sim_shell_copy(shell, name, length);
            kelpie__sim_shell_set(shell, name, length, equals + 1);
            if (!is_local) {
                kelpie__sim_shell_export(shell, copy);
            }
            kelpie__sim_shell_drop(shell, copy);
        } else if (is_local && name[0] == '$' && kelpie__text_u64(equals + 1, &number)) {
            shell->pid = (int32_t)number;
        } else if (is_local && name[0] == '?' && kelpie__text_u64(equals + 1, &number)) {
            shell->status = (int)number;
        }
    }
}

/* The whole of a script file, or of the input. Negative: it cannot be read. */
static int64_t shell_load(struct shell *shell, int handle, char *out, size_t capacity) {
    size_t count = 0;
    int64_t result = 1;
    while (result > 0 && count < capacity) {
        result = kelpie__sim_read_wait(shell->os, handle, out + count, capacity - count);
        count += result > 0 ? (size_t)result : 0;
    }
    return result < 0 ? result : (int64_t)count;
}

static void shell_run_file(struct shell *shell, const char *path) {
    int handle = path == NULL ? 0
                              : kelpie__os_open(shell->os, KELPIE_OS_CWD, path,
                                                KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    char *bytes = kelpie__alloc(shell->os, RUN_SCRIPT_BYTES_MAX);
    int64_t count = handle < 0 || bytes == NULL
                        ? (int64_t)handle
                        : shell_load(shell, handle, bytes, RUN_SCRIPT_BYTES_MAX);
    if (count < 0 || bytes == NULL) {
        kelpie__sim_shell_complain(shell, "can't open '%s'", path == NULL ? "stdin" : path);
        kelpie__sim_shell_exit(shell, 2);
        return;
    }
    if (path != NULL) {
        kelpie__ignore(kelpie__os_close(shell->os, handle)); /* it was only read */
    }
    kelpie__sim_shell_call(shell, bytes, (size_t)count, false);
    kelpie__free(shell->os, bytes, RUN_SCRIPT_BYTES_MAX);
}

/* Options, then what to run. */
static void shell_begin(struct shell *shell, int argc, char **argv) {
    int first = 1;
    bool has_text = false;
    while (first < argc && argv[first][0] == '-' && argv[first][1] != '\0') {
        has_text = has_text || strchr(argv[first], 'c') != NULL;
        shell->stops_at_failure = shell->stops_at_failure || strchr(argv[first], 'e') != NULL;
        first += 1;
    }
    const char *text = first < argc ? argv[first] : NULL;
    first += text == NULL ? 0 : 1;
    int arguments = first;
    if (has_text && first < argc) {
        shell->name = argv[first];
        arguments = first + 1;
    }
    shell->positional = argv + arguments;
    shell->positional_count = argc > arguments ? argc - arguments : 0;
    if (has_text && text == NULL) {
        kelpie__sim_shell_complain(shell, "-c requires an argument");
        kelpie__sim_shell_exit(shell, 2);
    } else if (has_text) {
        kelpie__sim_shell_call(shell, text, strlen(text), false);
    } else {
        shell_run_file(shell, text);
    }
}

static int shell_main(const struct sim_stdio *io, int argc, char **argv) {
    struct shell *shell = kelpie__alloc(io->os, sizeof(*shell));
    if (shell == NULL) {
        return 2;
    }
    shell->os = io->os;
    shell->process = kelpie__sim_process_of(io->os);
    shell->name = argc > 0 ? argv[0] : "sh";
    shell->pid = shell->process->pid;
    shell->signals = KELPIE_OS_NO_HANDLE;
    for (int i = 0; i < SHELL_IO_COUNT; i += 1) {
        shell->io[i] = i < 3 ? i : KELPIE_OS_NO_HANDLE;
    }
    shell_import(shell);
    shell_begin(shell, argc, argv);
    kelpie__sim_shell_run(shell);
    int code = shell->is_exiting ? shell->exit_code : shell->status;
    if (shell->traps[0] != NULL) {
        char *action = shell->traps[0];
        shell->traps[0] = NULL;
        shell->is_exiting = false;
        shell->call_count = 0;
        kelpie__sim_shell_call(shell, action, strlen(action), false);
        kelpie__sim_shell_run(shell);
        code = shell->is_exiting ? shell->exit_code : code;
    }
    kelpie__sim_work(shell->os, shell->work_ns);
    return code;
}

const struct sim_program_entry kelpie__sim_programs_shell[] = {
    {"sh", shell_main},
    {"ash", shell_main},
    {NULL, NULL},
};
