/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The shell of simulated guests, inside: shared by shell*.c only. A script is compiled to a line of
 * instructions that name pieces of its text; words are expanded when their command runs. What a
 * real shell forks for (subshells, pipelines, substitutions, background) runs in another process of
 * this program, which is given the piece of text, the variables and the arguments.
 */
#ifndef KELPIE_SIM_SHELL_H
#define KELPIE_SIM_SHELL_H

#include "sim/machine.h"
#include "sim/programs.h"

#define SHELL_IO_COUNT 10
#define SHELL_OPENED_MAX 8u
#define SHELL_DEPTH_MAX 32u  /* of open constructs, and of words' quoting */
#define SHELL_LOOPS_MAX 16u  /* `for` that run */
#define SHELL_SAVED_MAX 16u  /* redirections of compound commands that hold */
#define SHELL_CALLS_MAX 8u   /* traps and evals that run */
#define SHELL_JOBS_MAX 64u   /* in the background */
#define SHELL_STAGES_MAX 16u /* of a pipeline */
#define SHELL_SIGNAL_MAX 65u
#define SHELL_LOCAL                                                                                \
    '\001' /* before the name of a variable that children of children do not get                   \
            */

/* ---- tokens ---------------------------------------------------------------------------------- */

enum shell_token_kind {
    SHELL_TOKEN_END,
    SHELL_TOKEN_WORD,
    SHELL_TOKEN_NEWLINE,
    SHELL_TOKEN_SEMICOLON,
    SHELL_TOKEN_AMPERSAND,
    SHELL_TOKEN_AND,
    SHELL_TOKEN_OR,
    SHELL_TOKEN_PIPE,
    SHELL_TOKEN_OPEN,
    SHELL_TOKEN_CLOSE,
    SHELL_TOKEN_CASE_END, /* ;; */
    SHELL_TOKEN_REDIRECT,
    SHELL_TOKEN_BAD,
};

enum shell_redirect {
    SHELL_REDIRECT_READ,
    SHELL_REDIRECT_WRITE,
    SHELL_REDIRECT_APPEND,
    SHELL_REDIRECT_COPY, /* <& and >& */
};

struct shell_range {
    uint32_t begin;
    uint32_t end;
};

struct shell_token {
    enum shell_token_kind kind;
    struct shell_range range;
    enum shell_redirect redirect;
    int number; /* of a redirection */
};

struct shell_text {
    const char *bytes;
    uint32_t length;
};

/* The token at *inout_at, which moves behind it. */
struct shell_token kelpie__sim_shell_token(const struct shell_text *text, uint32_t *inout_at);
/* Where the construct ends whose inside begins at `at`: the offset of its `close` ( ) } ` ), or
 * UINT32_MAX. */
uint32_t kelpie__sim_shell_close(const struct shell_text *text, uint32_t at, char close);
bool kelpie__sim_shell_is_word(const struct shell_text *text, struct shell_range range,
                               const char *word);

/* ---- code ------------------------------------------------------------------------------------ */

enum shell_op {
    SHELL_OP_COMMAND,
    SHELL_OP_JUMP,
    SHELL_OP_IF_FAILED, /* jumps then */
    SHELL_OP_IF_GOOD,
    SHELL_OP_NOT,
    SHELL_OP_OK, /* status 0 */
    SHELL_OP_FOR,
    SHELL_OP_NEXT,
    SHELL_OP_POP, /* a `for` is left */
    SHELL_OP_CASE,
    SHELL_OP_MATCH, /* jumps when no pattern of the range does */
    SHELL_OP_SUBSHELL,
    SHELL_OP_BACKGROUND,
    SHELL_OP_PIPELINE, /* as many stages follow as `target` says */
    SHELL_OP_STAGE,
    SHELL_OP_REDIRECT,
    SHELL_OP_RESTORE,
    SHELL_OP_END,
};

struct shell_instruction {
    enum shell_op op;
    struct shell_range range;
    uint32_t target;
};

struct shell_code {
    struct shell_text text;
    char *bytes; /* owned, when the text is a copy; or NULL */
    struct shell_instruction *instructions;
    uint32_t count;
    uint32_t capacity;
};

/* ---- memory that lasts for one command ------------------------------------------------------- */

struct shell_chunk {
    struct shell_chunk *next;
    size_t capacity;
    size_t used;
};

/* A text that grows. */
struct shell_string {
    char *bytes;
    size_t count;
    size_t capacity;
};

struct shell_fields {
    char **items; /* ended by NULL */
    uint32_t count;
    uint32_t capacity;
};

/* ---- the shell ------------------------------------------------------------------------------- */

struct shell_variable {
    char *name;
    char *value;
    bool is_exported;
};

struct shell_loop {
    struct shell_fields items; /* owned */
    uint32_t next;
    char name[64];
};

/* What a redirection has changed. */
struct shell_saved {
    bool is_used;
    int io[SHELL_IO_COUNT];
    int opened[SHELL_OPENED_MAX];
    uint32_t opened_count;
};

struct shell_call {
    struct shell_code *code;
    uint32_t next;
    int status; /* to go on with; -1: the call's own */
};

struct shell_job {
    int process;
    int32_t pid;
};

struct shell {
    struct kelpie_os *os;
    struct sim_process *process;
    const char *name; /* $0 */
    char **positional;
    int positional_count;
    int32_t pid; /* $$ */
    int32_t last_pid;
    int status;
    bool is_exiting;
    bool stops_at_failure; /* set -e */
    int exit_code;
    struct shell_variable *variables;
    uint32_t variable_count;
    uint32_t variable_capacity;
    int io[SHELL_IO_COUNT];
    struct shell_saved saved[SHELL_SAVED_MAX];
    uint32_t saved_count;
    struct shell_loop loops[SHELL_LOOPS_MAX];
    uint32_t loop_count;
    struct shell_call calls[SHELL_CALLS_MAX];
    uint32_t call_count;
    struct shell_job jobs[SHELL_JOBS_MAX];
    uint32_t job_count;
    char *traps[SHELL_SIGNAL_MAX]; /* 0: EXIT; owned; NULL: none */
    uint64_t trapped;              /* bit n - 1: signal n has an action */
    int signals;                   /* handle, or none */
    struct shell_chunk *chunks;
    int64_t work_ns; /* not yet spent */
};

/* shell_parse.c: 0, or a negative errno value after a complaint. */
int kelpie__sim_shell_compile(struct shell *shell, struct shell_code *code);
void kelpie__sim_shell_code_free(struct shell *shell, struct shell_code *code);

/* shell_memory.c */
void *kelpie__sim_shell_alloc(struct shell *shell, size_t bytes); /* until the command's end */
char *kelpie__sim_shell_alloc_text(struct shell *shell, const char *text); /* likewise */
void kelpie__sim_shell_forget(struct shell *shell);
void kelpie__sim_shell_string_add(struct shell *shell, struct shell_string *string,
                                  const void *bytes, size_t count);
void kelpie__sim_shell_field_add(struct shell *shell, struct shell_fields *fields, char *item);
const char *kelpie__sim_shell_get(const struct shell *shell, const char *name, size_t length);
void kelpie__sim_shell_set(struct shell *shell, const char *name, size_t length, const char *value);
void kelpie__sim_shell_unset(struct shell *shell, const char *name);
void kelpie__sim_shell_export(struct shell *shell, const char *name);
bool kelpie__sim_shell_is_exported(const struct shell *shell, const char *name);
/* For a child; is_own: another process of this shell, which gets all of it. */
char **kelpie__sim_shell_environment(struct shell *shell, bool is_own);
char *kelpie__sim_shell_copy(struct shell *shell, const char *bytes, size_t count); /* to keep */
void kelpie__sim_shell_drop(struct shell *shell, char *copy);
bool kelpie__sim_shell_is_name(const char *text, size_t length);

/* shell_expand.c */
void kelpie__sim_shell_expand(struct shell *shell, const struct shell_text *text,
                              struct shell_range range, bool splits, struct shell_fields *out);
/* As one text. */
char *kelpie__sim_shell_expand_one(struct shell *shell, const struct shell_text *text,
                                   struct shell_range range);
/* shell_arithmetic.c */
int64_t kelpie__sim_shell_arithmetic(struct shell *shell, const char *bytes, size_t count);
/* Does the text match: * ? [..] */
bool kelpie__sim_shell_match(const char *pattern, const char *text);

/* shell_start.c: other processes. */
int kelpie__sim_shell_start_text(struct shell *shell, struct shell_text text, const int io[3],
                                 struct shell_job *out);
int kelpie__sim_shell_start_program(struct shell *shell, char **argv, const int io[3],
                                    uint32_t flags, struct shell_job *out);
/* Waits in the foreground; gives the status. */
int kelpie__sim_shell_wait(struct shell *shell, struct shell_job job);
/* What a piece of text writes; without its last newlines. */
void kelpie__sim_shell_capture(struct shell *shell, struct shell_text text,
                               struct shell_string *out);
/* Waits for a handle or a signal with a trap: false: the signal. */
bool kelpie__sim_shell_await(struct shell *shell, int handle, uint32_t bits);

/* shell_command.c */
void kelpie__sim_shell_command(struct shell *shell, const struct shell_code *code,
                               struct shell_range range);
void kelpie__sim_shell_background(struct shell *shell, const struct shell_code *code,
                                  struct shell_range range);
void kelpie__sim_shell_pipeline(struct shell *shell, const struct shell_code *code,
                                const struct shell_instruction *stages, uint32_t count);
/* The redirections among the tokens of a range; false: one failed. */
bool kelpie__sim_shell_redirect(struct shell *shell, const struct shell_text *text,
                                struct shell_range range);
void kelpie__sim_shell_restore(struct shell *shell);

/* shell_builtin.c: true: there is such a builtin, and it has run (shell->status). */
bool kelpie__sim_shell_builtin(struct shell *shell, int argc, char **argv);
bool kelpie__sim_shell_has_builtin(const char *name);

/* shell_run.c */
/* A text runs before what comes next. keeps_status: $? is afterwards what it was. */
void kelpie__sim_shell_call(struct shell *shell, const char *bytes, size_t count,
                            bool keeps_status);
void kelpie__sim_shell_run(struct shell *shell);
void kelpie__sim_shell_exit(struct shell *shell, int code);
KELPIE_PRINTF(2, 3) void kelpie__sim_shell_complain(struct shell *shell, const char *format, ...);

#endif
