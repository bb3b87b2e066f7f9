/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of guests that exist for tests: `source N` and `sink` with bytes whose value follows
 * from their place, and `script`, a line of commands that do what commands of users do to a guest:
 *
 *     script 'print 1M; fork 3; ignore TERM; setsid; sleep 2s; write f; exit 7'
 *
 * After `fork N` the script goes on in N more processes, as after fork(2).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/machine.h"
#include "sim/text_buffer.h"

#define SCRIPT_WORD_MAX 8
#define SCRIPT_COMMAND_BYTES 512u
#define SCRIPT_FORK_MAX 64u

/* `count` bytes of the pattern to a handle. */
static int script_print(const struct sim_stdio *io, int handle, int64_t count) {
    uint8_t bytes[SIM_PROGRAM_BUFFER_BYTES];
    int status = 0;
    KELPIE_ASSERT(count >= 0);
    for (int64_t at = 0; at < count && status == 0;) { /* bound: count */
        size_t step = (size_t)kelpie__min_u64((uint64_t)(count - at), sizeof(bytes));
        kelpie__sim_pattern_fill(bytes, step, (uint64_t)at);
        status = kelpie__sim_write_all(io->os, handle, bytes, step);
        at += (int64_t)step;
    }
    return status;
}

static int script_source(const struct sim_stdio *io, int argc, char **argv) {
    int64_t count = argc == 2 ? kelpie__sim_parse_bytes(argv[1]) : -1;
    if (count < 0) {
        kelpie__sim_complain(io, "usage: source BYTES");
        return 2;
    }
    return script_print(io, io->out, count) < 0 ? 1 : 0;
}

/* Reads the pattern to its end and says how many bytes came. */
static int script_sink(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    const char *bytes = NULL;
    uint64_t total = 0;
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    kelpie__sim_input_begin(&input, io->os, io->in);
    for (size_t count = kelpie__sim_input_next(&input, &bytes); count > 0;
         count = kelpie__sim_input_next(&input, &bytes)) {
        size_t right = kelpie__sim_pattern_length(bytes, count, total);
        if (right < count) {
            kelpie__sim_complain(io, "byte %llu is wrong", (unsigned long long)(total + right));
            return 1;
        }
        total += count;
    }
    return kelpie__sim_print(io, "%llu\n", (unsigned long long)total) ? 0 : 1;
}

/* ---- script ---------------------------------------------------------------------------------- */

struct script {
    const struct sim_stdio *io;
    const char *rest; /* what comes after this command */
    int code;         /* -1: it goes on */
    uint32_t child_count;
    int children[SCRIPT_FORK_MAX];
};

static void script_fail(struct script *script, const char *what) {
    kelpie__sim_complain(script->io, "%s", what);
    script->code = 2;
}

static void script_fork(struct script *script, const char *argument) {
    uint64_t count = 1;
    struct kelpie_os *os = script->io->os;
    const int handles[3] = {script->io->in, script->io->out, script->io->err};
    const char *const argv[] = {"script", script->rest, NULL};
    const struct kelpie_os_spawn spawn = {
        .path = "/bin/script",
        .argv = argv,
        .handles = handles,
        .handle_count = 3,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    if (argument != NULL && !kelpie__text_u64(argument, &count)) {
        script_fail(script, "fork: how many?");
        return;
    }
    for (uint64_t i = 0; i < count && script->child_count < SCRIPT_FORK_MAX; i += 1) {
        int child = KELPIE_OS_NO_HANDLE;
        int status = kelpie__os_spawn(os, &spawn, &child, NULL, NULL);
        if (status < 0) {
            script_fail(script, kelpie__sim_errno_text(status));
            return;
        }
        script->children[script->child_count] = child;
        script->child_count += 1;
    }
}

static void script_write(struct script *script, const char *path, const char *size) {
    struct kelpie_os *os = script->io->os;
    int64_t count = size == NULL ? 6 : kelpie__sim_parse_bytes(size);
    if (path == NULL || count < 0) {
        script_fail(script, "write: which file?");
        return;
    }
    int file = kelpie__os_open(os, KELPIE_OS_CWD, path,
                               KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                               0644);
    int status = file < 0 ? file : script_print(script->io, file, count);
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(os, file)); /* a guest's files are memory */
    }
    if (status < 0) {
        script_fail(script, kelpie__sim_errno_text(status));
    }
}

static void script_signal(struct script *script, const char *name, bool is_ignored) {
    struct sim_process *process = kelpie__sim_process_of(script->io->os);
    int signal = name == NULL ? -1 : kelpie__sim_parse_signal(name);
    if (signal <= 0) {
        script_fail(script, "which signal?");
    } else if (is_ignored) {
        process->signals_ignored |= UINT64_C(1) << (signal - 1);
    } else {
        kelpie__ignore(kelpie__os_kill_pid(script->io->os, process->pid, signal)); /* itself */
    }
}

static void script_wait(struct script *script) {
    for (uint32_t i = 0; i < script->child_count; i += 1) {
        struct kelpie_os_exit exit;
        kelpie__sim_wait_child(script->io->os, script->children[i], &exit);
    }
    script->child_count = 0;
}

/* Commands of time and memory; false: it is none. */
static bool script_run_quantity(struct script *script, const char *name, const char *argument) {
    struct kelpie_os *os = script->io->os;
    const char *text = argument == NULL ? "" : argument;
    int64_t duration_ns = kelpie__sim_parse_duration(text);
    int64_t bytes = kelpie__sim_parse_bytes(text);
    if (strcmp(name, "sleep") == 0 && duration_ns >= 0) {
        kelpie__sim_sleep(os, duration_ns);
    } else if (strcmp(name, "work") == 0 && duration_ns >= 0) {
        kelpie__sim_work(os, duration_ns);
    } else if (strcmp(name, "print") == 0 && bytes >= 0) {
        script->code = script_print(script->io, script->io->out, bytes) < 0 ? 1 : -1;
    } else if (strcmp(name, "error") == 0 && bytes >= 0) {
        script->code = script_print(script->io, script->io->err, bytes) < 0 ? 1 : -1;
    } else if (strcmp(name, "take") == 0 && bytes > 0) {
        script->code = kelpie__alloc(os, (size_t)bytes) == NULL ? 1 : -1; /* until it ends */
    } else {
        return false;
    }
    return true;
}

static void script_run(struct script *script, char **words, int count) {
    const char *name = words[0];
    const char *argument = count > 1 ? words[1] : NULL;
    uint64_t number = 0;
    KELPIE_ASSERT(count > 0);
    if (script_run_quantity(script, name, argument)) {
        return;
    }
    if (strcmp(name, "say") == 0) {
        kelpie__ignore(kelpie__sim_print(script->io, "%s\n", argument == NULL ? "" : argument));
    } else if (strcmp(name, "fork") == 0) {
        script_fork(script, argument);
    } else if (strcmp(name, "wait") == 0) {
        script_wait(script);
    } else if (strcmp(name, "ignore") == 0) {
        script_signal(script, argument, true);
    } else if (strcmp(name, "kill") == 0) {
        script_signal(script, argument, false);
    } else if (strcmp(name, "write") == 0) {
        script_write(script, argument, count > 2 ? words[2] : NULL);
    } else if (strcmp(name, "sink") == 0) {
        int code = script_sink(script->io, 1, words);
        script->code = code == 0 ? -1 : code;
    } else if (strcmp(name, "setsid") == 0) {
        struct sim_process *process = kelpie__sim_process_of(script->io->os);
        process->session = process->pid; /* as setsid(2), which the seam has for children only */
        process->group = process->pid;
    } else if (strcmp(name, "exit") == 0 && argument != NULL &&
               kelpie__text_u64(argument, &number)) {
        script->code = (int)(number & 255);
    } else {
        script_fail(script, "there is no such command");
    }
}

/* Cuts a command, which ends at `end`, into words. */
static int script_split(const char *text, const char *end, char command[SCRIPT_COMMAND_BYTES],
                        char *words[SCRIPT_WORD_MAX]) {
    size_t length = (size_t)(end - text);
    int count = 0;
    if (length >= SCRIPT_COMMAND_BYTES) {
        return -1;
    }
    memcpy(command, text, length);
    command[length] = '\0';
    char *at = command + strspn(command, " \t\n");
    while (*at != '\0' && count < SCRIPT_WORD_MAX) {
        words[count] = at;
        count += 1;
        at += strcspn(at, " \t\n");
        if (*at != '\0') {
            *at = '\0';
            at += 1;
        }
        at += strspn(at, " \t\n");
    }
    return count;
}

int kelpie__sim_script_main(struct kelpie_os *os, int argc, char **argv) {
    const struct sim_stdio io = {.os = os, .in = 0, .out = 1, .err = 2, .name = "script"};
    struct script script = {.io = &io, .code = -1};
    char command[SCRIPT_COMMAND_BYTES];
    char *words[SCRIPT_WORD_MAX];
    const char *at = argc > 1 ? argv[1] : "";
    while (*at != '\0' && script.code < 0) {
        const char *end = at + strcspn(at, ";\n");
        script.rest = *end == '\0' ? end : end + 1;
        int count = script_split(at, end, command, words);
        if (count < 0) {
            script_fail(&script, "the command is too long");
        } else if (count > 0) {
            script_run(&script, words, count);
        }
        at = script.rest;
    }
    KELPIE_ASSERT(script.code <= 255);
    return script.code < 0 ? 0 : script.code;
}

/* ---- before it runs -------------------------------------------------------------------------- */

enum script_argument {
    SCRIPT_NOTHING,
    SCRIPT_WORD, /* or none */
    SCRIPT_BYTES,
    SCRIPT_DURATION,
    SCRIPT_NUMBER,
    SCRIPT_NUMBER_OR_NONE,
    SCRIPT_SIGNAL,
    SCRIPT_FILE, /* and how many bytes, or not */
};

static const struct {
    const char *name;
    enum script_argument argument;
    const char *expected;
} script_commands[] = {
    {"sleep", SCRIPT_DURATION, "a time as 2s or 250ms"},
    {"work", SCRIPT_DURATION, "a time as 2s or 250ms"},
    {"print", SCRIPT_BYTES, "a number of bytes as 512 or 1M"},
    {"error", SCRIPT_BYTES, "a number of bytes as 512 or 1M"},
    {"take", SCRIPT_BYTES, "a number of bytes as 512 or 1M"},
    {"say", SCRIPT_WORD, "a word"},
    {"fork", SCRIPT_NUMBER_OR_NONE, "how many processes, or nothing"},
    {"wait", SCRIPT_NOTHING, "nothing more"},
    {"ignore", SCRIPT_SIGNAL, "a signal as TERM"},
    {"kill", SCRIPT_SIGNAL, "a signal as TERM"},
    {"write", SCRIPT_FILE, "a file, and how many bytes or nothing"},
    {"sink", SCRIPT_NOTHING, "nothing more"},
    {"setsid", SCRIPT_NOTHING, "nothing more"},
    {"exit", SCRIPT_NUMBER, "a number"},
};

static bool argument_fits(enum script_argument kind, char **words, int count) {
    const char *argument = count > 1 ? words[1] : NULL;
    uint64_t number = 0;
    switch (kind) {
    case SCRIPT_NOTHING:
        return count == 1;
    case SCRIPT_WORD:
        return count <= 2;
    case SCRIPT_BYTES:
        return count == 2 && kelpie__sim_parse_bytes(argument) >= 0;
    case SCRIPT_DURATION:
        return count == 2 && kelpie__sim_parse_duration(argument) >= 0;
    case SCRIPT_NUMBER:
        return count == 2 && kelpie__text_u64(argument, &number);
    case SCRIPT_NUMBER_OR_NONE:
        return count == 1 || (count == 2 && kelpie__text_u64(argument, &number));
    case SCRIPT_SIGNAL:
        return count == 2 && kelpie__sim_parse_signal(argument) > 0;
    case SCRIPT_FILE:
        return count == 2 || (count == 3 && kelpie__sim_parse_bytes(words[2]) >= 0);
    }
    return false;
}

static bool command_is_good(char **words, int count,
                            char out_problem[KELPIE_SIM_SCRIPT_PROBLEM_BYTES]) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(script_commands); i += 1) {
        if (strcmp(script_commands[i].name, words[0]) == 0) {
            bool fits = argument_fits(script_commands[i].argument, words, count);
            if (!fits) {
                int length = snprintf(out_problem, KELPIE_SIM_SCRIPT_PROBLEM_BYTES,
                                      "after \"%s\" comes %s, not \"%.32s\"", words[0],
                                      script_commands[i].expected, count > 1 ? words[1] : "");
                KELPIE_ASSERT(length > 0);
            }
            return fits;
        }
    }
    int length =
        snprintf(out_problem, KELPIE_SIM_SCRIPT_PROBLEM_BYTES,
                 "there is no command \"%.32s\"; there are sleep work print error take say "
                 "fork wait ignore kill write sink setsid exit",
                 words[0]);
    KELPIE_ASSERT(length > 0);
    return false;
}

bool kelpie__sim_script_is_good(const char *script,
                                char out_problem[KELPIE_SIM_SCRIPT_PROBLEM_BYTES]) {
    char command[SCRIPT_COMMAND_BYTES];
    char *words[SCRIPT_WORD_MAX];
    bool is_good = true;
    KELPIE_ASSERT(script != NULL && out_problem != NULL);
    for (const char *at = script; *at != '\0' && is_good;) { /* bound: the text */
        const char *end = at + strcspn(at, ";\n");
        int count = script_split(at, end, command, words);
        if (count < 0) {
            int length = snprintf(out_problem, KELPIE_SIM_SCRIPT_PROBLEM_BYTES,
                                  "a command has at most %u bytes", SCRIPT_COMMAND_BYTES - 1);
            KELPIE_ASSERT(length > 0);
            is_good = false;
        } else if (count > 0) {
            is_good = command_is_good(words, count, out_problem);
        }
        at = *end == '\0' ? end : end + 1;
    }
    return is_good;
}

static int script_begin(const struct sim_stdio *io, int argc, char **argv) {
    return kelpie__sim_script_main(io->os, argc, argv);
}

const struct sim_program_entry kelpie__sim_programs_script[] = {
    {"script", script_begin},
    {"source", script_source},
    {"sink", script_sink},
    {NULL, NULL},
};
