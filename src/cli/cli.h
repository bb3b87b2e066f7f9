/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The kelpie command: what its files share. One file a verb; cli.c finds the verb, options.c reads
 * its options, output.c writes, session.c carries a command's streams. It knows libkelpie's public
 * API and nothing below it.
 */
#ifndef KELPIE_CLI_CLI_H
#define KELPIE_CLI_CLI_H

#include "core/base.h"
#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "kelpie.h"
#include "os/os.h"

/* Exit codes: the guest command's own, 128 + a signal's number, or these. */
enum kelpie_cli_exit {
    KELPIE_CLI_OK = 0,
    KELPIE_CLI_CHECK_FAILED = 1, /* of doctor */
    KELPIE_CLI_TIMED_OUT = 124,
    KELPIE_CLI_FAILED = 125, /* Kelpie's own failure */
    KELPIE_CLI_DENIED = 126,
    KELPIE_CLI_NOT_FOUND = 127,
    KELPIE_CLI_SIGNALLED = 128,
};

#define KELPIE_CLI_STDIN 0
#define KELPIE_CLI_STDOUT 1
#define KELPIE_CLI_STDERR 2
#define KELPIE_CLI_OUTPUT_BYTES 8192u
#define KELPIE_CLI_UNSET UINT64_MAX

/* Which verbs have an option; a bit each. */
enum kelpie_cli_verbs {
    KELPIE_CLI_CREATE = 1,
    KELPIE_CLI_RUN = 2,
    KELPIE_CLI_EXEC = 4,
    KELPIE_CLI_ATTACH = 8,
    KELPIE_CLI_START = 16,
    KELPIE_CLI_PS = 32,
    KELPIE_CLI_INSPECT = 64,
    KELPIE_CLI_LOGS = 128,
    KELPIE_CLI_STOP = 256,
    KELPIE_CLI_KILL = 512,
    KELPIE_CLI_RM = 1024,
    KELPIE_CLI_DOCTOR = 2048,
    KELPIE_CLI_VERSION = 4096,
    KELPIE_CLI_HELP = 8192,
    KELPIE_CLI_PAUSE = 16384,
    KELPIE_CLI_RESUME = 32768,
    KELPIE_CLI_SNAPSHOT = 65536,
    KELPIE_CLI_RESTORE = 131072,
    KELPIE_CLI_FORK = 262144,
    KELPIE_CLI_POOL = 524288,
    KELPIE_CLI_PRUNE = 1048576,
    KELPIE_CLI_BOOT_CHART = 2097152,
};

struct kelpie_cli_options {
    uint64_t cpus; /* KELPIE_CLI_UNSET: not given; so all numbers */
    uint64_t memory_mib;
    uint64_t disk_size_mib;
    uint64_t boot_timeout_ms;
    uint64_t timeout_ms; /* of a command, or of stop */
    uint64_t size;       /* of a pool; so concurrency */
    uint64_t concurrency;
    uint64_t lease_ms;
    uint64_t wait_ms;
    uint64_t age_ms;
    const char *root; /* borrowed from argv, as all texts; NULL: not given */
    const char *working_directory;
    const char *kernel;
    const char *accelerator;
    const char *backend;
    const char *channel;
    const char *snapshot;
    const char *name;
    const char *user;
    const char *label;
    const char *svg;
    const char *pool;
    bool stops_vm;
    bool is_trusted;
    bool is_read_only;
    bool allows_overcommit;
    bool avoids_template;
    bool is_trial;
    bool is_interactive;
    bool has_terminal;
    bool is_detached;
    bool is_forced;
    bool shows_all;
    bool shows_events;
    bool shows_timings;
    bool is_json;
    bool wants_help;
    uint64_t given;           /* which ones were given, a bit each, in the order of the table */
    const char **environment; /* owned; NULL-terminated */
    uint32_t environment_count;
    const char *shares[KELPIE_SHARE_COUNT_MAX]; /* borrowed from argv */
    uint32_t share_count;
};

struct kelpie_cli_verb;

/* A text that was made here and lives as long as the options. */
struct kelpie_cli_text {
    struct kelpie_cli_text *next;
    size_t bytes;
    char text[];
};

/* Monotonic times of a run; 0: not reached. */
struct kelpie_cli_timings {
    int64_t started_ns;
    int64_t booted_ns;
    int64_t exec_started_ns;
    int64_t exec_ended_ns;
};

struct kelpie_cli {
    struct kelpie_os *os; /* borrowed: until the process ends */
    const struct kelpie_cli_verb *verb;
    const char *state_directory; /* NULL: the environment's, or the default */
    struct kelpie *kelpie;       /* owned; NULL: not opened yet */
    struct kelpie_cli_options options;
    size_t list_bytes;             /* of the memory of options.environment */
    struct kelpie_cli_text *texts; /* owned */
    char **words;                  /* borrowed from argv, NULL-terminated: names, or a command */
    uint32_t word_count;
    struct kelpie_loop *loop; /* owned; NULL: not needed yet */
    uint32_t library_slot;
    bool is_library_due; /* its descriptor was seen to be readable */
    int signals;         /* owned; KELPIE_OS_NO_HANDLE: they have their usual effect */
    uint32_t signals_slot;
    void (*signal_callback)(void *context, int number);
    void *signal_context; /* borrowed: while the callback is set */
    struct kelpie_cli_timings timings;
    size_t output_count;
    uint32_t array_count; /* objects of the array that is being printed */
    int output_error;     /* errno value of the first write that failed; 0: none */
    char output[KELPIE_CLI_OUTPUT_BYTES];
    char state_path[KELPIE_PATH_BYTES_MAX + 1];
    char root_path[KELPIE_PATH_BYTES_MAX + 1];
    char kernel_path[KELPIE_PATH_BYTES_MAX + 1];
};

struct kelpie_cli_verb {
    const char *name;
    unsigned bit; /* one of enum kelpie_cli_verbs */
    uint32_t words_min;
    uint32_t words_max;
    bool takes_command; /* options end at the first word */
    const char *usage;  /* "[options] NAME -- COMMAND..." */
    const char *summary;
    int (*run)(struct kelpie_cli *cli); /* gives the exit code */
};

static_assert(KELPIE_CLI_SIGNALLED + 64 <= 255, "every signal has its exit code");
static_assert(KELPIE_CLI_UNSET == KELPIE_TIMEOUT_NONE, "no --timeout is no timeout");

/* What holds between the functions of the command. */
void kelpie__cli_check(const struct kelpie_cli *cli);

/* The program: gives its exit code. */
int kelpie_cli_main(struct kelpie_os *os, int argc, char **argv);

/* ---- cli.c ----------------------------------------------------------------------------------- */

/* The verb of that name; NULL: there is none. */
const struct kelpie_cli_verb *kelpie__cli_find_verb(const char *name);
/* By index; NULL beyond the last. */
const struct kelpie_cli_verb *kelpie__cli_verb_at(size_t index);
/* Opens the library when it is not open yet. False: it was reported. */
KELPIE_MUST_CHECK bool kelpie__cli_open(struct kelpie_cli *cli);
/* Opens the library and a VM of that name. NULL: it was reported. */
KELPIE_MUST_CHECK struct kelpie_vm *kelpie__cli_open_vm(struct kelpie_cli *cli, const char *name);
/* For each VM that the command names: this call, and its name when it is done. Gives the exit code:
 * that of the last failure. */
int kelpie__cli_each_vm(struct kelpie_cli *cli,
                        int (*call)(struct kelpie_vm *vm, struct kelpie_error *error));

/* Shows each thing that the command names, from the word `first` on, as a JSON list with --json.
 * `inspect` gives 0 or the exit code, and is told whether nothing was shown before. Gives the exit
 * code: that of the last failure. */
int kelpie__cli_inspect_each(struct kelpie_cli *cli, uint32_t first,
                             int (*inspect)(struct kelpie_cli *cli, const char *name,
                                            bool is_first));

/* ---- options.c ------------------------------------------------------------------------------- */

/* Reads what follows the verb: options and words. False: it was reported. */
KELPIE_MUST_CHECK bool kelpie__cli_parse(struct kelpie_cli *cli, int argc, char **argv);
void kelpie__cli_options_deinit(struct kelpie_cli *cli);
/* The long name of the first option that was given and is not among these, which have a space
 * between; NULL: there is none. */
const char *kelpie__cli_foreign_option(const struct kelpie_cli *cli, const char *allowed);
/* Prints the options of a verb. */
void kelpie__cli_print_options(struct kelpie_cli *cli, const struct kelpie_cli_verb *verb);

/* ---- values.c -------------------------------------------------------------------------------- */

/* What a text is: nothing is given but for a good one. */
enum kelpie_cli_value {
    KELPIE_CLI_VALUE_GOOD,
    KELPIE_CLI_VALUE_NONE,      /* not of that form */
    KELPIE_CLI_VALUE_TOO_LARGE, /* of that form, but no number of ours holds it */
};

/* Decimal digits. */
KELPIE_MUST_CHECK enum kelpie_cli_value kelpie__cli_number(const char *text, uint64_t *out);
/* "5s", "1500ms", "2m", "1h", "10" (seconds), "none". */
KELPIE_MUST_CHECK enum kelpie_cli_value kelpie__cli_duration(const char *text, uint64_t *out_ms);
/* "512" (MiB), "512m", "2g", "1t". */
KELPIE_MUST_CHECK enum kelpie_cli_value kelpie__cli_size_mib(const char *text, uint64_t *out_mib);
/* Makes a path absolute, without following links. False: it does not fit, or the working directory
 * is gone. */
KELPIE_MUST_CHECK bool kelpie__cli_absolute(struct kelpie_cli *cli, const char *path, char *out,
                                            size_t capacity);
/* "3 min": for people. */
void kelpie__cli_age(int64_t age_ms, char *out, size_t capacity);

/* ---- output.c -------------------------------------------------------------------------------- */

/* Standard output, collected and written when full and at the end. */
KELPIE_PRINTF(2, 3) void kelpie__cli_print(struct kelpie_cli *cli, const char *format, ...);
/* A line of what `inspect` shows; nothing for an empty text. */
void kelpie__cli_print_field(struct kelpie_cli *cli, const char *name, const char *text);
void kelpie__cli_put(struct kelpie_cli *cli, const char *bytes, size_t count);
/* A JSON array, an object for each line. Nothing else is printed between begin and end. */
void kelpie__cli_array_begin(struct kelpie_cli *cli);
void kelpie__cli_array_add(struct kelpie_cli *cli, const char *object, size_t length);
void kelpie__cli_array_end(struct kelpie_cli *cli);
void kelpie__cli_flush(struct kelpie_cli *cli);
/* Flushes. False: standard output cannot be written, so that nobody has read the name of what was
 * made: it is not to be left behind. kelpie__cli_finish_output says why. */
KELPIE_MUST_CHECK bool kelpie__cli_is_told(struct kelpie_cli *cli);
/* Flushes; gives `code`, or the exit code of output that could not be written. */
KELPIE_MUST_CHECK int kelpie__cli_finish_output(struct kelpie_cli *cli, int code);
/* All of the bytes, at once. 0, or an errno value. */
KELPIE_MUST_CHECK int kelpie__cli_write(struct kelpie_cli *cli, int handle, const void *bytes,
                                        size_t count);
/* "kelpie: run: text", on standard error. Gives KELPIE_CLI_FAILED, so that a failure is one
 * expression. */
KELPIE_PRINTF(2, 3) int kelpie__cli_fail(struct kelpie_cli *cli, const char *format, ...);
KELPIE_PRINTF(2, 3) void kelpie__cli_note(struct kelpie_cli *cli, const char *format, ...);
/* Reports an error of the library; gives the exit code that it means. */
int kelpie__cli_fail_error(struct kelpie_cli *cli, const struct kelpie_error *error);

/* ---- vm_config.c ----------------------------------------------------------------------------- */

/* Makes a VM as the options say; `name` may be NULL. Every problem of the configuration is
 * reported. Gives *out. 0, or the exit code. */
KELPIE_MUST_CHECK int kelpie__cli_make_vm(struct kelpie_cli *cli, const char *name,
                                          struct kelpie_vm **out);

/* The same without the VM. Gives *out (kelpie_config_destroy). */
KELPIE_MUST_CHECK int kelpie__cli_make_config(struct kelpie_cli *cli, struct kelpie_config **out);

/* Prints its name and closes it, or deletes it when nobody could be told. 0, or the exit code. */
KELPIE_MUST_CHECK int kelpie__cli_give_vm(struct kelpie_cli *cli, struct kelpie_vm *vm);
/* Kills it, deletes it and closes it; what went wrong is noted. */
void kelpie__cli_delete_vm(struct kelpie_cli *cli, struct kelpie_vm *vm);

/* ---- pool.c ---------------------------------------------------------------------------------- */

/* Claims a VM from the pool of this name, as the options say. 0, or the exit code. */
KELPIE_MUST_CHECK int kelpie__cli_claim(struct kelpie_cli *cli, const char *name,
                                        enum kelpie_lifetime lifetime, struct kelpie_vm **out);
/* What `kelpie pool` does, a line each. */
void kelpie__cli_print_pool_parts(struct kelpie_cli *cli);

/* ---- loop.c ---------------------------------------------------------------------------------- */

/* The loop that waits for the library; may be opened twice. The library must be open. */
KELPIE_MUST_CHECK int kelpie__cli_loop_open(struct kelpie_cli *cli, struct kelpie_error *error);
/* From here on signals go to cli->signal_callback; may be called twice. */
KELPIE_MUST_CHECK int kelpie__cli_signals_open(struct kelpie_cli *cli, struct kelpie_error *error);
/* Waits once, or looks only when something `is_due` already, and handles what came. */
KELPIE_MUST_CHECK int kelpie__cli_step(struct kelpie_cli *cli, bool is_due,
                                       struct kelpie_error *error);
void kelpie__cli_loop_close(struct kelpie_cli *cli);
/* A signal callback for times between two that do something. */
void kelpie__cli_ignore_signal(void *context, int number);

/* ---- boot.c ---------------------------------------------------------------------------------- */

/* Starts a VM. 0, or the exit code: what failed was reported; 128 + a signal that cancelled it. */
KELPIE_MUST_CHECK int kelpie__cli_boot(struct kelpie_cli *cli, struct kelpie_vm *vm);

/* ---- timings.c ------------------------------------------------------------------------------- */

void kelpie__cli_print_timings(struct kelpie_cli *cli, const struct kelpie_vm_info *info);

/* ---- suggest.c ------------------------------------------------------------------------------- */

struct kelpie_cli_suggestion {
    const char *word; /* borrowed: until the last offer */
    size_t count;
    uint32_t distance;
    const char *nearest; /* borrowed from the candidates; NULL: none is near */
};

void kelpie__cli_suggest_begin(struct kelpie_cli_suggestion *suggestion, const char *word,
                               size_t count);
void kelpie__cli_suggest_offer(struct kelpie_cli_suggestion *suggestion, const char *candidate);

/* ---- session.c ------------------------------------------------------------------------------- */

/* Starts a command with the options' terminal, stdin, environment and timeout, carries its streams
 * and signals, and waits for its end. Gives its exit code. */
int kelpie__cli_session_run(struct kelpie_cli *cli, struct kelpie_vm *vm,
                            const char *const *command);
/* The same for a command that runs already. */
int kelpie__cli_session_attach(struct kelpie_cli *cli, struct kelpie_vm *vm, const char *exec_id);
/* Starts a command and leaves it. Prints its id when asked to. */
int kelpie__cli_session_detached(struct kelpie_cli *cli, struct kelpie_vm *vm,
                                 const char *const *command, bool prints_id);

/* False: -t was given without a terminal, which was reported. */
KELPIE_MUST_CHECK bool kelpie__cli_check_terminal(struct kelpie_cli *cli);

/* ---- inspect.c ------------------------------------------------------------------------------- */

/* One VM as a JSON object, in the caller's buffer; its length. `vm` NULL: without its shares. */
int64_t kelpie__cli_write_info(const struct kelpie_vm_info *info, const struct kelpie_vm *vm,
                               char *out, size_t capacity);
/* every byte of every text escaped to six, the keys, the numbers */
#define KELPIE_CLI_JSON_BYTES(type) (6u * sizeof(type) + 2048u)
#define KELPIE_CLI_INFO_BYTES KELPIE_CLI_JSON_BYTES(struct kelpie_vm_info)

/* ---- snapshot.c ------------------------------------------------------------------------------ */

/* What `kelpie snapshot` does, a line each. */
void kelpie__cli_print_snapshot_parts(struct kelpie_cli *cli);

/* ---- the verbs ------------------------------------------------------------------------------- */

int kelpie__cli_run(struct kelpie_cli *cli);
int kelpie__cli_create(struct kelpie_cli *cli);
int kelpie__cli_start(struct kelpie_cli *cli);
int kelpie__cli_exec(struct kelpie_cli *cli);
int kelpie__cli_attach(struct kelpie_cli *cli);
int kelpie__cli_ps(struct kelpie_cli *cli);
int kelpie__cli_inspect(struct kelpie_cli *cli);
int kelpie__cli_logs(struct kelpie_cli *cli);
int kelpie__cli_boot_chart(struct kelpie_cli *cli);
int kelpie__cli_stop(struct kelpie_cli *cli);
int kelpie__cli_kill(struct kelpie_cli *cli);
int kelpie__cli_pause(struct kelpie_cli *cli);
int kelpie__cli_prune(struct kelpie_cli *cli);
int kelpie__cli_resume(struct kelpie_cli *cli);
int kelpie__cli_snapshot(struct kelpie_cli *cli);
int kelpie__cli_restore(struct kelpie_cli *cli);
int kelpie__cli_fork(struct kelpie_cli *cli);
int kelpie__cli_pool(struct kelpie_cli *cli);
int kelpie__cli_rm(struct kelpie_cli *cli);
int kelpie__cli_doctor(struct kelpie_cli *cli);
int kelpie__cli_version(struct kelpie_cli *cli);
int kelpie__cli_help(struct kelpie_cli *cli);
void kelpie__cli_print_help(struct kelpie_cli *cli, const struct kelpie_cli_verb *verb);

#endif
