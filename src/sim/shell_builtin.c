/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a guest's shell does itself: what changes its own state, and programs that are too small to
 * start one for.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "core/text.h"
#include "sim/guest_state.h"
#include "sim/shell.h"

typedef int (*builtin_function)(struct shell *shell, int argc, char **argv);

static int builtin_colon(struct shell *shell, int argc, char **argv) {
    KELPIE_ASSERT(shell->os != NULL && argc >= 1 && argv != NULL);
    return 0;
}

static int builtin_exit(struct shell *shell, int argc, char **argv) {
    uint64_t code = (uint64_t)shell->status;
    if (argc > 1 && !kelpie__text_u64(argv[1], &code)) {
        kelpie__sim_shell_complain(shell, "exit: %s: bad number", argv[1]);
        code = 2;
    }
    kelpie__sim_shell_exit(shell, (int)(code & 255));
    return (int)(code & 255);
}

static int builtin_cd(struct shell *shell, int argc, char **argv) {
    char path[SIM_PATH_BYTES_MAX];
    const char *home = kelpie__sim_shell_get(shell, "HOME", 4);
    const char *target = argc > 1 ? argv[1] : home == NULL ? "/" : home;
    int status = kelpie__os_real_path(shell->os, target, path, sizeof(path));
    status = status < 0 ? status : kelpie__sim_disk_directory(shell->process, path);
    if (status < 0 ||
        !kelpie__text_copy(shell->process->directory, sizeof(shell->process->directory), path)) {
        kelpie__sim_shell_complain(shell, "cd: can't cd to %s: %s", target,
                                   kelpie__sim_errno_text(status < 0 ? status : -ENAMETOOLONG));
        return 1;
    }
    return 0;
}

static int builtin_export(struct shell *shell, int argc, char **argv) {
    for (int i = 1; i < argc; i += 1) {
        char *equals = strchr(argv[i], '=');
        size_t length = equals == NULL ? strlen(argv[i]) : (size_t)(equals - argv[i]);
        if (!kelpie__sim_shell_is_name(argv[i], length)) {
            kelpie__sim_shell_complain(shell, "export: %s: bad variable name", argv[i]);
            return 2;
        }
        if (equals != NULL) {
            *equals = '\0';
            kelpie__sim_shell_set(shell, argv[i], length, equals + 1);
        }
        kelpie__sim_shell_export(shell, argv[i]);
    }
    return 0;
}

static int builtin_unset(struct shell *shell, int argc, char **argv) {
    for (int i = 1; i < argc; i += 1) {
        kelpie__sim_shell_unset(shell, argv[i]);
    }
    return 0;
}

/* A line from the input, byte by byte: what follows belongs to others. */
static int builtin_read_line(struct shell *shell, struct shell_string *out) {
    int64_t count = 1;
    char byte = '\0';
    while (count > 0 && byte != '\n') {
        count = shell->io[0] < 0 ? -EBADF : kelpie__os_read(shell->os, shell->io[0], &byte, 1);
        if (count == -EAGAIN) {
            count = 1;
            byte = '\0';
            if (!kelpie__sim_shell_await(shell, shell->io[0], KELPIE_OS_READABLE)) {
                return 128; /* a signal with a trap */
            }
        } else if (count > 0 && byte != '\n') {
            kelpie__sim_shell_string_add(shell, out, &byte, 1);
        }
    }
    return count > 0 ? 0 : 1;
}

static int builtin_read(struct shell *shell, int argc, char **argv) {
    struct shell_string line = {0};
    int first = argc > 1 && strcmp(argv[1], "-r") == 0 ? 2 : 1;
    kelpie__sim_shell_string_add(shell, &line, "", 0);
    int status = builtin_read_line(shell, &line);
    char *at = line.bytes;
    for (int i = first; i < argc; i += 1) {
        at += strspn(at, " \t");
        size_t length = i + 1 == argc ? strlen(at) : strcspn(at, " \t");
        char *end = at + length;
        char *next = *end == '\0' ? end : end + 1;
        while (i + 1 == argc && end > at && (end[-1] == ' ' || end[-1] == '\t')) {
            end -= 1;
        }
        *end = '\0';
        kelpie__sim_shell_set(shell, argv[i], strlen(argv[i]), at);
        at = next;
    }
    return status;
}

static int builtin_set(struct shell *shell, int argc, char **argv) {
    int first = 1;
    while (first < argc && (argv[first][0] == '-' || argv[first][0] == '+') &&
           strcmp(argv[first], "--") != 0) {
        if (strchr(argv[first], 'e') != NULL) {
            shell->stops_at_failure = argv[first][0] == '-';
        }
        first += 1;
    }
    if (first < argc) {
        first += strcmp(argv[first], "--") == 0 ? 1 : 0;
        int count = argc - first;
        char **positional = kelpie__alloc(shell->os, (size_t)(count + 1) * sizeof(*positional));
        for (int i = 0; positional != NULL && i < count; i += 1) {
            positional[i] = kelpie__sim_shell_copy(shell, argv[first + i], strlen(argv[first + i]));
        }
        shell->positional = positional == NULL ? shell->positional : positional;
        shell->positional_count = positional == NULL ? shell->positional_count : count;
    }
    return 0;
}

static int builtin_shift(struct shell *shell, int argc, char **argv) {
    uint64_t count = 1;
    if (argc > 1 && !kelpie__text_u64(argv[1], &count)) {
        return 2;
    }
    if (count > (uint64_t)shell->positional_count) {
        return 1;
    }
    shell->positional += count;
    shell->positional_count -= (int)count;
    return 0;
}

/* ---- signals --------------------------------------------------------------------------------- */

/* Waits anew for all signals that have an action. */
static void trap_watch(struct shell *shell) {
    int signals[SHELL_SIGNAL_MAX];
    uint32_t count = 0;
    if (shell->signals >= 0) {
        kelpie__ignore(kelpie__os_close(shell->os, shell->signals)); /* it holds nothing */
        shell->signals = KELPIE_OS_NO_HANDLE;
    }
    shell->process->signals_blocked = 0; /* closing lets none through: sigprocmask(2) would */
    for (int signal = 1; signal < (int)SHELL_SIGNAL_MAX; signal += 1) {
        if ((shell->trapped >> (signal - 1) & 1) != 0) {
            signals[count] = signal;
            count += 1;
        }
    }
    if (count > 0) {
        shell->signals = kelpie__os_open_signals(shell->os, signals, count);
    }
}

static void trap_set(struct shell *shell, int signal, const char *action) {
    uint64_t bit = signal == 0 ? 0 : UINT64_C(1) << (signal - 1);
    bool is_default = strcmp(action, "-") == 0;
    bool is_ignored = action[0] == '\0';
    kelpie__sim_shell_drop(shell, shell->traps[signal]);
    shell->traps[signal] = NULL;
    shell->trapped &= ~bit;
    shell->process->signals_ignored &= ~bit;
    if (is_ignored) {
        shell->process->signals_ignored |= bit;
    } else if (!is_default) {
        shell->traps[signal] = kelpie__sim_shell_copy(shell, action, strlen(action));
        shell->trapped |= bit;
    }
}

static int builtin_trap(struct shell *shell, int argc, char **argv) {
    int status = 0;
    for (int i = 2; i < argc; i += 1) {
        int signal = strcmp(argv[i], "EXIT") == 0 ? 0 : kelpie__sim_parse_signal(argv[i]);
        if (signal < 0 || signal >= (int)SHELL_SIGNAL_MAX) {
            kelpie__sim_shell_complain(shell, "trap: %s: invalid signal", argv[i]);
            status = 1;
        } else {
            trap_set(shell, signal, argv[1]);
        }
    }
    trap_watch(shell);
    return status;
}

/* One job; -1: a signal with a trap came first. */
static int wait_job(struct shell *shell, struct shell_job job) {
    struct kelpie_os_exit exit = {0};
    int status = kelpie__os_reap(shell->os, job.process, &exit);
    for (uint32_t i = 0; i < UINT16_MAX && status == -EAGAIN; i += 1) {
        if (!kelpie__sim_shell_await(shell, job.process, KELPIE_OS_READABLE)) {
            return -1;
        }
        status = kelpie__os_reap(shell->os, job.process, &exit);
    }
    kelpie__ignore(kelpie__os_close(shell->os, job.process)); /* it has ended */
    return status < 0 ? 127 : exit.is_signalled ? 128 + exit.value : exit.value;
}

static int builtin_wait(struct shell *shell, int argc, char **argv) {
    uint64_t pid = 0;
    if (argc > 1 && !kelpie__text_u64(argv[1], &pid)) {
        return 2;
    }
    int status = pid == 0 ? 0 : 127;
    uint32_t at = 0;
    while (at < shell->job_count) {
        if (pid != 0 && (uint64_t)shell->jobs[at].pid != pid) {
            at += 1;
            continue;
        }
        int code = wait_job(shell, shell->jobs[at]);
        if (code < 0) {
            return 128;
        }
        status = pid == 0 ? 0 : code;
        shell->job_count -= 1;
        memmove(&shell->jobs[at], &shell->jobs[at + 1],
                (shell->job_count - at) * sizeof(shell->jobs[0]));
    }
    return status;
}

/* ---- the others ------------------------------------------------------------------------------ */

static int builtin_eval(struct shell *shell, int argc, char **argv) {
    struct shell_string text = {0};
    for (int i = 1; i < argc; i += 1) {
        kelpie__sim_shell_string_add(shell, &text, argv[i], strlen(argv[i]));
        kelpie__sim_shell_string_add(shell, &text, " ", 1);
    }
    if (text.count > 0) {
        kelpie__sim_shell_call(shell, text.bytes, text.count, false);
    }
    return 0;
}

static int builtin_umask(struct shell *shell, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    const struct sim_stdio io = {.os = shell->os, .out = shell->io[1], .err = shell->io[2]};
    return argc > 1 || kelpie__sim_put(&io, "0022\n") ? 0 : 1;
}

static int builtin_ulimit(struct shell *shell, int argc, char **argv) {
    const struct sim_guest_process *extra = kelpie__sim_guest_process(shell->process);
    const struct sim_stdio io = {.os = shell->os, .out = shell->io[1], .err = shell->io[2]};
    static const struct {
        char option;
        int resource;
        uint64_t unit;
        uint64_t value;
    } limits[] = {
        {'n', RLIMIT_NOFILE, 1, 1024},      {'u', RLIMIT_NPROC, 1, 1024},
        {'v', RLIMIT_AS, 1024, UINT64_MAX}, {'s', RLIMIT_STACK, 1024, 8u * 1024 * 1024},
        {'t', RLIMIT_CPU, 1, UINT64_MAX},   {'f', RLIMIT_FSIZE, 512, UINT64_MAX},
        {'c', RLIMIT_CORE, 512, 0},
    };
    char option = argc > 1 && argv[1][0] == '-' ? argv[1][1] : 'f';
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(limits); i += 1) {
        uint64_t value = limits[i].value;
        if (limits[i].option != option) {
            continue;
        }
        for (uint32_t j = 0; extra != NULL && j < extra->limit_count; j += 1) {
            value = extra->limits[j].resource == limits[i].resource ? extra->limits[j].soft : value;
        }
        bool is_good =
            value == UINT64_MAX
                ? kelpie__sim_put(&io, "unlimited\n")
                : kelpie__sim_print(&io, "%llu\n", (unsigned long long)(value / limits[i].unit));
        return is_good ? 0 : 1;
    }
    return 2;
}

struct builtin {
    const char *name;
    builtin_function function;
};

static const struct builtin builtins[] = {
    {":", builtin_colon},       {"exit", builtin_exit},   {"cd", builtin_cd},
    {"export", builtin_export}, {"unset", builtin_unset}, {"read", builtin_read},
    {"set", builtin_set},       {"shift", builtin_shift}, {"trap", builtin_trap},
    {"wait", builtin_wait},     {"eval", builtin_eval},   {"umask", builtin_umask},
    {"ulimit", builtin_ulimit},
};

/* Programs that the shell runs in its own process. */
static const char *const builtin_programs[] = {"true",   "false", "echo", "test",
                                               "printf", "[",     "kill", "pwd"};

static builtin_function builtin_find(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(builtins); i += 1) {
        if (strcmp(builtins[i].name, name) == 0) {
            return builtins[i].function;
        }
    }
    return NULL;
}

static bool builtin_is_program(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(builtin_programs); i += 1) {
        if (strcmp(builtin_programs[i], name) == 0) {
            return true;
        }
    }
    return false;
}

bool kelpie__sim_shell_has_builtin(const char *name) {
    return builtin_find(name) != NULL || builtin_is_program(name);
}

bool kelpie__sim_shell_builtin(struct shell *shell, int argc, char **argv) {
    KELPIE_ASSERT(argc > 0);
    builtin_function function = builtin_find(argv[0]);
    if (function != NULL) {
        shell->status = function(shell, argc, argv);
        return true;
    }
    if (!builtin_is_program(argv[0])) {
        return false;
    }
    const struct sim_stdio io = {.os = shell->os,
                                 .in = shell->io[0],
                                 .out = shell->io[1],
                                 .err = shell->io[2],
                                 .name = argv[0]};
    sim_program_function program = kelpie__sim_program_builtin(argv[0]);
    KELPIE_ASSERT(program != NULL);
    shell->status = program(&io, argc, argv);
    return true;
}
