/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One command and this terminal: its start, signals, the window's size, its end and what it means
 * as an exit code. The bytes are in session_io.c.
 */
#include "cli/session.h"

#include <errno.h>
#include <signal.h>

#include "core/text.h"
#include "os/os_call.h"

#define SESSION_KILL_MS 10000u    /* for a kill to be done */
#define SESSION_INTERRUPTS_MAX 3u /* then the command is killed: docker's habit */

/* ---- callbacks of the library ---------------------------------------------------------------- */

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                      const void *bytes, size_t count) {
    struct kelpie_cli_session *session = context;
    KELPIE_ASSERT(exec != NULL);
    KELPIE_ASSERT(!session->has_ended);
    KELPIE_ASSERT(exec == session->exec);
    kelpie__cli_io_output(session, stream, bytes, count);
}

static void on_writable(void *context, struct kelpie_exec *exec) {
    struct kelpie_cli_session *session = context;
    KELPIE_ASSERT(exec == session->exec);
    KELPIE_ASSERT(!session->has_ended);
    session->is_input_blocked = false;
    session->is_input_due = true; /* what was left over goes first */
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct kelpie_cli_session *session = context;
    KELPIE_ASSERT(exec == session->exec);
    KELPIE_ASSERT(!session->has_ended);
    KELPIE_ASSERT((status == NULL) != (error == NULL));
    session->has_ended = true;
    if (status != NULL) {
        session->status = *status;
    } else {
        session->error = *error;
    }
}

static const struct kelpie_exec_callbacks callbacks = {
    .struct_size = sizeof(callbacks),
    .output = on_output,
    .writable = on_writable,
    .ended = on_ended,
};

/* ---- the terminal ---------------------------------------------------------------------------- */

static int session_set_raw(struct kelpie_cli_session *session, struct kelpie_error *error) {
    const struct kelpie_cli_options *options = &session->cli->options;
    KELPIE_ASSERT(!session->is_raw);
    if (!options->has_terminal || !options->is_interactive) {
        return 0;
    }
    int status = kelpie__os_set_terminal_raw(session->cli->os, KELPIE_CLI_STDIN, true);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "make the terminal raw");
    }
    session->is_raw = true;
    return 0;
}

static void session_restore_terminal(struct kelpie_cli_session *session) {
    if (session->is_raw) {
        session->is_raw = false;
        kelpie__ignore(kelpie__os_set_terminal_raw(session->cli->os, KELPIE_CLI_STDIN,
                                                   false)); /* or the terminal is gone */
    }
    KELPIE_ASSERT(!session->is_raw);
}

static void session_resize(struct kelpie_cli_session *session) {
    uint16_t rows = 0;
    uint16_t columns = 0;
    struct kelpie_cli *cli = session->cli;
    KELPIE_ASSERT(session->exec != NULL);
    if (cli->options.has_terminal &&
        kelpie__os_terminal_size(cli->os, KELPIE_CLI_STDIN, &rows, &columns) >= 0 && rows > 0 &&
        columns > 0) {
        kelpie__ignore(kelpie_exec_resize(session->exec, rows, columns, NULL)); /* or it ended */
    }
}

/* ---- signals --------------------------------------------------------------------------------- */

/* Back in the foreground: the shell has put its own modes on the terminal meanwhile. */
static void session_continue(struct kelpie_cli_session *session) {
    if (session->is_raw) {
        session_restore_terminal(session);
        kelpie__ignore(session_set_raw(session, NULL)); /* or the terminal is gone */
    }
    session_resize(session);
}

/* With a raw terminal, Ctrl-C and its like are bytes for the command; a signal then comes from
 * outside and means this process. Otherwise signals are the command's, until somebody insists. */
static void on_signal(void *context, int number) {
    struct kelpie_cli_session *session = context;
    KELPIE_ASSERT(number > 0);
    KELPIE_ASSERT(session->exec != NULL);
    if (number == SIGWINCH) {
        session_resize(session);
        return;
    }
    if (number == SIGCONT) {
        session_continue(session);
        return;
    }
    bool is_interrupt = number == SIGINT || number == SIGTERM;
    bool is_end = is_interrupt || number == SIGHUP || number == SIGQUIT;
    session->interrupt_count += is_interrupt ? 1 : 0;
    if ((session->is_raw && is_end) || session->interrupt_count >= SESSION_INTERRUPTS_MAX) {
        session->end_signal = number;
        return;
    }
    kelpie__ignore(kelpie_exec_signal(session->exec, number, NULL)); /* or it has just ended */
}

/* ---- from start to end ----------------------------------------------------------------------- */

/* From here on signals are the command's. */
static int session_begin(struct kelpie_cli_session *session, struct kelpie_error *error) {
    struct kelpie_cli *cli = session->cli;
    kelpie__cli_io_check(session);
    KELPIE_ASSERT(session->exec != NULL);
    cli->signal_callback = on_signal;
    cli->signal_context = session;
    int status = kelpie__cli_signals_open(cli, error);
    if (status == 0) {
        status = session_set_raw(session, error);
    }
    if (status == 0) {
        session_resize(session); /* it may have changed during the start */
    }
    return status;
}

static bool session_is_over(const struct kelpie_cli_session *session) {
    bool is_written = session->rest_count == 0;
    return (session->has_ended && is_written) || session->end_signal != 0 ||
           session->output_error.code < 0;
}

static int session_drive(struct kelpie_cli_session *session, struct kelpie_error *error) {
    int status = 0;
    while (status == 0 && !session_is_over(session)) { /* bound: the command's end */
        kelpie__cli_io_prepare(session);
        status = kelpie__cli_step(session->cli, kelpie__cli_io_is_due(session), error);
        if (status == 0 && kelpie__cli_io_is_due(session) && !session_is_over(session)) {
            kelpie__cli_io_take_input(session);
        }
    }
    return status;
}

static int session_timed_out(const struct kelpie_cli_session *session) {
    const struct kelpie_cli *cli = session->cli;
    if (cli->options.timeout_ms == KELPIE_CLI_UNSET) { /* attached to: somebody else chose it */
        kelpie__cli_note(session->cli, "the command was killed at its timeout");
    } else {
        kelpie__cli_note(session->cli, "the command was killed at its timeout of %llu ms",
                         (unsigned long long)cli->options.timeout_ms);
    }
    return KELPIE_CLI_TIMED_OUT;
}

static int session_exit_code(struct kelpie_cli_session *session) {
    const struct kelpie_exec_status *status = &session->status;
    KELPIE_ASSERT(session_is_over(session));
    if (session->end_signal != 0) {
        return KELPIE_CLI_SIGNALLED + session->end_signal;
    }
    if (session->output_error.os_error == EPIPE) { /* as it ends any command before a `| head` */
        return KELPIE_CLI_SIGNALLED + SIGPIPE;
    }
    if (session->output_error.code < 0) {
        return kelpie__cli_fail_error(session->cli, &session->output_error);
    }
    if (session->error.code < 0) {
        return kelpie__cli_fail_error(session->cli, &session->error);
    }
    KELPIE_ASSERT(session->has_ended);
    switch (status->reason) {
    case KELPIE_EXEC_EXITED:
        return status->exit_code;
    case KELPIE_EXEC_SIGNALLED:
        return KELPIE_CLI_SIGNALLED + status->signal;
    case KELPIE_EXEC_TIMED_OUT:
        return session_timed_out(session);
    case KELPIE_EXEC_CANCELLED:
        break;
    }
    return KELPIE_CLI_SIGNALLED + SIGKILL;
}

/* Leaves the terminal as it was before anything is printed. A command that has not ended is killed
 * with all it started. */
static void session_end(struct kelpie_cli_session *session) {
    struct kelpie_cli *cli = session->cli;
    session_restore_terminal(session);
    KELPIE_ASSERT(!session->is_raw);
    kelpie__cli_io_deinit(session);
    kelpie_exec_close(session->exec);
    session->exec = NULL;
    cli->signal_callback = kelpie__cli_ignore_signal;
    cli->timings.exec_ended_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    KELPIE_ASSERT(!session->is_raw);
}

static void fill_options(struct kelpie_cli *cli, const char *const *command,
                         struct kelpie_exec_options *out) {
    const struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT(options->environment_count == 0 || options->environment != NULL);
    KELPIE_ASSERT(command[0] != NULL);
    *out = (struct kelpie_exec_options){
        .struct_size = sizeof(*out),
        .argv = command,
        .environment = options->environment,
        .working_directory = options->working_directory,
        .user = options->user,
        .has_terminal = options->has_terminal,
        .timeout_ms = options->timeout_ms, /* not given: none */
        .has_stdin = options->is_interactive && !options->is_detached,
        .keep_on_disconnect = options->is_detached,
    };
    if (options->has_terminal) { /* one that is gone has the library's default size */
        kelpie__ignore(
            kelpie__os_terminal_size(cli->os, KELPIE_CLI_STDIN, &out->rows, &out->columns));
    }
    KELPIE_ASSERT(!out->has_stdin || !out->keep_on_disconnect);
}

/* Starts a command, or attaches to one. */
static int session_start(struct kelpie_cli_session *session, struct kelpie_vm *vm,
                         const char *const *command, const char *exec_id,
                         struct kelpie_error *error) {
    struct kelpie_cli *cli = session->cli;
    struct kelpie_exec_options options;
    KELPIE_ASSERT(session->exec == NULL);
    KELPIE_ASSERT((command == NULL) != (exec_id == NULL));
    int status = kelpie__cli_loop_open(cli, error);
    if (status < 0) {
        return status;
    }
    cli->timings.exec_started_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    if (exec_id != NULL) {
        return kelpie_vm_exec_attach(vm, exec_id, 0, 0, &callbacks, session, &session->exec, error);
    }
    fill_options(cli, command, &options);
    return kelpie_vm_exec_start(vm, &options, &callbacks, session, &session->exec, error);
}

static int session_run(struct kelpie_cli *cli, struct kelpie_vm *vm, const char *const *command,
                       const char *exec_id) {
    struct kelpie_error error = {0};
    struct kelpie_cli_session *session = kelpie__alloc(cli->os, sizeof(*session));
    if (session == NULL) {
        return kelpie__cli_fail(cli, "no memory for a session");
    }
    session->cli = cli;
    kelpie__cli_io_init(session);
    int status = session_start(session, vm, command, exec_id, &error);
    if (status == 0) {
        status = session_begin(session, &error);
    }
    if (status == 0) {
        status = session_drive(session, &error);
    }
    KELPIE_ASSERT(status < 0 || session->exec != NULL);
    session_end(session);
    int code = status < 0 ? kelpie__cli_fail_error(cli, &error) : session_exit_code(session);
    kelpie__free(cli->os, session, sizeof(*session));
    KELPIE_ASSERT(code >= 0 && code <= 255);
    return code;
}

int kelpie__cli_session_run(struct kelpie_cli *cli, struct kelpie_vm *vm,
                            const char *const *command) {
    return session_run(cli, vm, command, NULL);
}

int kelpie__cli_session_attach(struct kelpie_cli *cli, struct kelpie_vm *vm, const char *exec_id) {
    return session_run(cli, vm, NULL, exec_id);
}

/* Nobody knows its id: it is not left behind. */
static void session_kill_untold(struct kelpie_cli *cli, struct kelpie_exec *exec) {
    struct kelpie_error error = {0};
    struct kelpie_exec_status status;
    KELPIE_ASSERT(cli->output_error != 0);
    if (kelpie_exec_kill(exec, &error) < 0 ||
        kelpie_exec_wait(exec, SESSION_KILL_MS, &status, &error) < 0) {
        kelpie__cli_note(cli, "kill command %s: %s", kelpie_exec_id(exec), error.message);
    }
    kelpie_exec_close(exec);
}

int kelpie__cli_session_detached(struct kelpie_cli *cli, struct kelpie_vm *vm,
                                 const char *const *command, bool prints_id) {
    struct kelpie_error error = {0};
    struct kelpie_exec_options options;
    struct kelpie_exec *exec = NULL;
    KELPIE_ASSERT(command[0] != NULL);
    KELPIE_ASSERT(cli->options.is_detached);
    fill_options(cli, command, &options);
    if (kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (prints_id) {
        kelpie__cli_print(cli, "%s\n", kelpie_exec_id(exec));
        if (!kelpie__cli_is_told(cli)) {
            session_kill_untold(cli, exec);
            return KELPIE_CLI_FAILED;
        }
    }
    if (kelpie_exec_detach(exec, &error) < 0) {
        KELPIE_ASSERT(error.code < 0);
        kelpie_exec_close(exec);
        return kelpie__cli_fail_error(cli, &error);
    }
    return KELPIE_CLI_OK;
}

bool kelpie__cli_check_terminal(struct kelpie_cli *cli) {
    const struct kelpie_cli_options *options = &cli->options;
    if (!options->has_terminal || options->is_detached ||
        kelpie__os_is_terminal(cli->os, KELPIE_CLI_STDIN)) {
        return true;
    }
    kelpie__ignore(kelpie__cli_fail(
        cli, "-t needs a terminal on standard input, which is not one; leave -t out"));
    return false;
}
