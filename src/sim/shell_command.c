/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands of a guest's shell: a simple one with its assignments and redirections, a pipeline, one
 * in the background.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "sim/shell.h"

/* ---- redirections ---------------------------------------------------------------------------- */

static struct shell_saved *redirect_save(struct shell *shell, bool is_used) {
    KELPIE_ASSERT(shell->saved_count < SHELL_SAVED_MAX);
    struct shell_saved *saved = &shell->saved[shell->saved_count];
    shell->saved_count += 1;
    saved->is_used = is_used;
    saved->opened_count = 0;
    if (is_used) {
        memcpy(saved->io, shell->io, sizeof(saved->io));
    }
    return saved;
}

void kelpie__sim_shell_restore(struct shell *shell) {
    KELPIE_ASSERT(shell->saved_count > 0);
    shell->saved_count -= 1;
    const struct shell_saved *saved = &shell->saved[shell->saved_count];
    if (!saved->is_used) {
        return;
    }
    for (uint32_t i = 0; i < saved->opened_count; i += 1) {
        kelpie__ignore(kelpie__os_close(shell->os, saved->opened[i])); /* a file's, of this shell */
    }
    memcpy(shell->io, saved->io, sizeof(saved->io));
}

static int redirect_open(struct shell *shell, enum shell_redirect kind, const char *path) {
    uint32_t flags = KELPIE_OS_OPEN_FOLLOW;
    if (kind == SHELL_REDIRECT_READ) {
        flags |= KELPIE_OS_OPEN_READ;
    } else {
        flags |= KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                 (kind == SHELL_REDIRECT_APPEND ? (uint32_t)KELPIE_OS_OPEN_APPEND
                                                : (uint32_t)KELPIE_OS_OPEN_TRUNCATE);
    }
    return kelpie__os_open(shell->os, KELPIE_OS_CWD, path, flags, 0644);
}

/* >&2, <&-: the target is a number or a minus. */
static bool redirect_copy(struct shell *shell, int number, const char *target) {
    uint64_t from = 0;
    if (strcmp(target, "-") == 0) {
        shell->io[number] = KELPIE_OS_NO_HANDLE;
        return true;
    }
    if (!kelpie__text_u64(target, &from) || from >= SHELL_IO_COUNT ||
        shell->io[from] == KELPIE_OS_NO_HANDLE) {
        kelpie__sim_shell_complain(shell, "%s: bad file descriptor", target);
        return false;
    }
    shell->io[number] = shell->io[from];
    return true;
}

static bool redirect_one(struct shell *shell, struct shell_saved *saved,
                         const struct shell_token *token, const char *target) {
    KELPIE_ASSERT(token->number >= 0 && token->number < SHELL_IO_COUNT);
    if (token->redirect == SHELL_REDIRECT_COPY) {
        return redirect_copy(shell, token->number, target);
    }
    int handle = saved->opened_count == SHELL_OPENED_MAX
                     ? -EMFILE
                     : redirect_open(shell, token->redirect, target);
    if (handle < 0) {
        kelpie__sim_shell_complain(shell, "can't %s %s: %s",
                                   token->redirect == SHELL_REDIRECT_READ ? "open" : "create",
                                   target, kelpie__sim_errno_text(handle));
        return false;
    }
    saved->opened[saved->opened_count] = handle;
    saved->opened_count += 1;
    shell->io[token->number] = handle;
    return true;
}

bool kelpie__sim_shell_redirect(struct shell *shell, const struct shell_text *text,
                                struct shell_range range) {
    if (shell->saved_count == SHELL_SAVED_MAX) {
        kelpie__sim_shell_complain(shell, "too many redirections");
        kelpie__sim_shell_exit(shell, 2);
        return false;
    }
    struct shell_saved *saved = redirect_save(shell, range.begin < range.end);
    const struct shell_text part = {text->bytes, range.end};
    uint32_t at = range.begin;
    bool is_good = true;
    struct shell_token token = {.kind = SHELL_TOKEN_WORD};
    while (is_good && range.begin < range.end && token.kind != SHELL_TOKEN_END) {
        token = kelpie__sim_shell_token(&part, &at);
        if (token.kind == SHELL_TOKEN_REDIRECT) {
            struct shell_token word = kelpie__sim_shell_token(&part, &at);
            is_good = word.kind == SHELL_TOKEN_WORD &&
                      redirect_one(shell, saved, &token,
                                   kelpie__sim_shell_expand_one(shell, text, word.range));
        }
    }
    return is_good;
}

/* ---- simple commands ------------------------------------------------------------------------- */

struct command {
    struct shell_fields assignments; /* NAME=value, expanded */
    struct shell_fields arguments;
    struct shell_fields kept; /* of each variable: its value or NULL, whether it was exported */
};

/* The length of NAME in NAME=value; 0: it is no assignment. */
static uint32_t command_assignment(const struct shell_text *text, struct shell_range range) {
    const char *equals = memchr(text->bytes + range.begin, '=', range.end - range.begin);
    if (equals == NULL) {
        return 0;
    }
    uint32_t length = (uint32_t)(equals - (text->bytes + range.begin));
    return kelpie__sim_shell_is_name(text->bytes + range.begin, length) ? length : 0;
}

static void command_add_assignment(struct shell *shell, const struct shell_text *text,
                                   struct shell_range range, uint32_t length,
                                   struct shell_fields *out) {
    struct shell_string string = {0};
    const struct shell_range value = {range.begin + length + 1, range.end};
    const char *expanded = kelpie__sim_shell_expand_one(shell, text, value);
    kelpie__sim_shell_string_add(shell, &string, text->bytes + range.begin, length + 1);
    kelpie__sim_shell_string_add(shell, &string, expanded, strlen(expanded));
    kelpie__sim_shell_field_add(shell, out, string.bytes);
}

static void command_read(struct shell *shell, const struct shell_text *text,
                         struct shell_range range, struct command *out) {
    const struct shell_text part = {text->bytes, range.end};
    uint32_t at = range.begin;
    struct shell_token token = kelpie__sim_shell_token(&part, &at);
    while (token.kind != SHELL_TOKEN_END) { /* bound: the range */
        uint32_t length = 0;
        if (token.kind == SHELL_TOKEN_REDIRECT) {
            kelpie__ignore(kelpie__sim_shell_token(&part, &at).number); /* its target */
        } else if (token.kind == SHELL_TOKEN_WORD) {
            length = out->arguments.count == 0 ? command_assignment(text, token.range) : 0;
            if (length > 0) {
                command_add_assignment(shell, text, token.range, length, &out->assignments);
            } else {
                kelpie__sim_shell_expand(shell, text, token.range, true, &out->arguments);
            }
        }
        token = kelpie__sim_shell_token(&part, &at);
    }
}

static void command_assign(struct shell *shell, const struct command *command) {
    for (uint32_t i = 0; i < command->assignments.count; i += 1) {
        const char *assignment = command->assignments.items[i];
        const char *equals = strchr(assignment, '=');
        KELPIE_ASSERT(equals != NULL);
        kelpie__sim_shell_set(shell, assignment, (size_t)(equals - assignment), equals + 1);
    }
}

/* For one command: what the variables were comes back after it. */
static void command_swap(struct shell *shell, struct command *command) {
    for (uint32_t i = 0; i < command->assignments.count; i += 1) {
        char *assignment = command->assignments.items[i];
        char *equals = strchr(assignment, '=');
        KELPIE_ASSERT(equals != NULL);
        *equals = '\0';
        bool was_exported = kelpie__sim_shell_is_exported(shell, assignment);
        const char *before = kelpie__sim_shell_get(shell, assignment, strlen(assignment));
        char *kept = before == NULL ? NULL : kelpie__sim_shell_alloc_text(shell, before);
        kelpie__sim_shell_set(shell, assignment, strlen(assignment), equals + 1);
        kelpie__sim_shell_export(shell, assignment);
        kelpie__sim_shell_field_add(shell, &command->kept, kept);
        kelpie__sim_shell_field_add(shell, &command->kept, was_exported ? assignment : NULL);
    }
}

static void command_swap_back(struct shell *shell, const struct command *command) {
    for (uint32_t i = 0; i < command->assignments.count; i += 1) {
        const char *name = command->assignments.items[i];
        const char *kept = command->kept.items[2 * (size_t)i];
        kelpie__sim_shell_unset(shell, name);
        if (kept != NULL) {
            kelpie__sim_shell_set(shell, name, strlen(name), kept);
        }
        if (command->kept.items[2 * (size_t)i + 1] != NULL) {
            kelpie__sim_shell_export(shell, name);
        }
    }
}

static int command_fail(struct shell *shell, const char *name, int status) {
    if (status == -ENOENT) { /* with a path, too: as busybox says it */
        kelpie__sim_shell_complain(shell, "%s: not found", name);
    } else {
        kelpie__sim_shell_complain(shell, "%s: %s", name, kelpie__sim_errno_text(status));
    }
    return status == -ENOENT ? 127 : 126;
}

static void command_run_program(struct shell *shell, struct command *command) {
    struct shell_job job;
    char **argv = command->arguments.items;
    const int io[3] = {shell->io[0], shell->io[1], shell->io[2]};
    int status = kelpie__sim_shell_start_program(shell, argv, io, 0, &job);
    shell->status =
        status < 0 ? command_fail(shell, argv[0], status) : kelpie__sim_shell_wait(shell, job);
}

/* exec without a program: what was redirected stays so. A handle of ours that nothing stands for
 * any more is closed, so that its other end sees it. */
static void command_keep_redirections(struct shell *shell) {
    struct shell_saved *saved = &shell->saved[shell->saved_count - 1];
    if (!saved->is_used) {
        return;
    }
    for (int i = 0; i < SHELL_IO_COUNT; i += 1) {
        bool is_needed = false;
        for (int j = 0; j < SHELL_IO_COUNT; j += 1) {
            is_needed = is_needed || shell->io[j] == saved->io[i];
        }
        for (int j = 0; j < i; j += 1) {
            is_needed = is_needed || saved->io[j] == saved->io[i]; /* closed already */
        }
        if (!is_needed && saved->io[i] >= 0) {
            kelpie__ignore(kelpie__os_close(shell->os, saved->io[i]));
        }
    }
    saved->is_used = false;
}

static void command_exec(struct shell *shell, struct command *command) {
    if (command->arguments.count == 1) {
        command_keep_redirections(shell);
        shell->status = 0;
        return;
    }
    struct command rest = *command;
    rest.arguments.items += 1;
    rest.arguments.count -= 1;
    command_run_program(shell, &rest); /* in a process of its own: its end is this one's */
    kelpie__sim_shell_exit(shell, shell->status);
}

void kelpie__sim_shell_command(struct shell *shell, const struct shell_code *code,
                               struct shell_range range) {
    struct command command = {0};
    int before = shell->status;
    command_read(shell, &code->text, range, &command);
    bool is_redirected = kelpie__sim_shell_redirect(shell, &code->text, range);
    if (!is_redirected) {
        shell->status = 1;
    } else if (command.arguments.count == 0) {
        /* x=$(false) has the substitution's status, x=1 is well. */
        bool has_substitution =
            memchr(code->text.bytes + range.begin, '$', range.end - range.begin) != NULL;
        shell->status = has_substitution && shell->status != before ? shell->status : 0;
        command_assign(shell, &command);
    } else if (strcmp(command.arguments.items[0], "exec") == 0) {
        command_exec(shell, &command);
    } else {
        command_swap(shell, &command);
        if (!kelpie__sim_shell_builtin(shell, (int)command.arguments.count,
                                       command.arguments.items)) {
            command_run_program(shell, &command);
        }
        command_swap_back(shell, &command);
    }
    kelpie__sim_shell_restore(shell);
}

/* ---- pipelines and the background ------------------------------------------------------------ */

static bool part_is_plain_word(const struct shell_text *text, struct shell_range word) {
    static const char *const reserved[] = {"if", "while", "until", "for", "case", "{", "!", "exec"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(reserved); i += 1) {
        if (kelpie__sim_shell_is_word(text, word, reserved[i])) {
            return false;
        }
    }
    return command_assignment(text, word) == 0;
}

/* One simple command without operators; then it may be a program, which needs no shell around it.
 */
static bool part_is_simple(const struct shell_text *text, struct shell_range range) {
    const struct shell_text part = {text->bytes, range.end};
    uint32_t at = range.begin;
    struct shell_token token = kelpie__sim_shell_token(&part, &at);
    bool is_simple = token.kind == SHELL_TOKEN_WORD && part_is_plain_word(text, token.range);
    while (is_simple && token.kind != SHELL_TOKEN_END) {
        is_simple = token.kind == SHELL_TOKEN_WORD || token.kind == SHELL_TOKEN_REDIRECT;
        token = kelpie__sim_shell_token(&part, &at);
    }
    return is_simple;
}

/* Starts a piece of the script in another process, over shell->io. */
static int part_start(struct shell *shell, const struct shell_text *text, struct shell_range range,
                      struct shell_job *out) {
    struct command command = {0};
    const struct shell_text part = {text->bytes + range.begin, range.end - range.begin};
    bool is_simple = part_is_simple(text, range);
    if (is_simple) {
        command_read(shell, text, range, &command);
    }
    if (command.arguments.count == 0 || kelpie__sim_shell_has_builtin(command.arguments.items[0])) {
        const int io[3] = {shell->io[0], shell->io[1], shell->io[2]};
        return kelpie__sim_shell_start_text(shell, part, io, out);
    }
    int status = -EIO;
    if (kelpie__sim_shell_redirect(shell, text, range)) {
        const int io[3] = {shell->io[0], shell->io[1], shell->io[2]};
        status = kelpie__sim_shell_start_program(shell, command.arguments.items, io, 0, out);
        if (status < 0) {
            shell->status = command_fail(shell, command.arguments.items[0], status);
        }
    }
    kelpie__sim_shell_restore(shell);
    return status;
}

void kelpie__sim_shell_background(struct shell *shell, const struct shell_code *code,
                                  struct shell_range range) {
    struct shell_job job;
    int input = shell->io[0];
    shell->io[0] = KELPIE_OS_NO_HANDLE; /* it must not take what the script reads */
    int status = part_start(shell, &code->text, range, &job);
    shell->io[0] = input;
    if (status < 0) {
        shell->status = 127;
        return;
    }
    shell->last_pid = job.pid;
    shell->status = 0;
    if (shell->job_count < SHELL_JOBS_MAX) {
        shell->jobs[shell->job_count] = job;
        shell->job_count += 1;
    } else {
        kelpie__ignore(kelpie__os_close(shell->os, job.process)); /* nobody can wait for it */
    }
}

void kelpie__sim_shell_pipeline(struct shell *shell, const struct shell_code *code,
                                const struct shell_instruction *stages, uint32_t count) {
    struct shell_job jobs[SHELL_STAGES_MAX];
    int failed[SHELL_STAGES_MAX];
    int input = shell->io[0];
    int output = shell->io[1];
    int next = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(count > 1 && count <= SHELL_STAGES_MAX);
    for (uint32_t i = 0; i < count; i += 1) {
        int ends[2] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
        bool is_last = i + 1 == count;
        failed[i] = is_last ? 0 : kelpie__os_pipe(shell->os, ends);
        shell->io[0] = i == 0 ? input : next;
        shell->io[1] = is_last ? output : ends[1];
        if (failed[i] == 0) {
            failed[i] = part_start(shell, &code->text, stages[i].range, &jobs[i]);
        }
        if (next >= 0) {
            kelpie__ignore(kelpie__os_close(shell->os, next)); /* the child has its own */
        }
        if (ends[1] >= 0) {
            kelpie__ignore(kelpie__os_close(shell->os, ends[1])); /* likewise */
        }
        next = ends[0];
    }
    shell->io[0] = input;
    shell->io[1] = output;
    for (uint32_t i = 0; i < count; i += 1) {
        int status = failed[i] < 0 ? 127 : kelpie__sim_shell_wait(shell, jobs[i]);
        shell->status = i + 1 == count ? status : shell->status;
    }
}
