/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One command and this terminal: bytes in both directions, signals, the window's size, the end.
 * Handlers of the loop only note what is due; the driver acts, so that a library callback never
 * runs inside another.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "cli/cli.h"
#include "core/loop.h"
#include "core/text.h"
#include "os/os_call.h"

#define SESSION_INPUT_BYTES 32768u
#define SESSION_HANDLE_COUNT 8u
#define SESSION_INTERRUPTS_MAX 3u /* then the command is killed: docker's habit */

struct session {
    struct kelpie_cli *cli;   /* borrowed: the session's life */
    struct kelpie_loop *loop; /* owned */
    struct kelpie_exec *exec; /* owned */
    uint32_t library_slot;
    int signals; /* owned; KELPIE_OS_NO_HANDLE: not open */
    uint32_t signals_slot;
    uint32_t interrupt_count;

    bool has_input; /* standard input is passed on, and has not ended */
    bool is_input_watched;
    bool is_input_file; /* cannot be watched: always ready */
    bool is_input_due;
    bool is_input_blocked; /* the command takes no more for now */
    uint32_t input_slot;
    size_t input_start;
    size_t input_count;

    uint8_t *rest; /* owned: output that the other side did not take yet; NULL: none */
    size_t rest_bytes;
    size_t rest_start;
    int rest_handle;
    uint32_t rest_slot;

    bool is_raw;
    bool is_output_broken; /* nobody reads standard output any more */
    bool has_ended;
    struct kelpie_exec_status status;
    struct kelpie_error error; /* code 0: status holds */
    uint8_t input[SESSION_INPUT_BYTES];
};

static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

/* ---- output ---- */

static void session_break_output(struct session *session) {
    if (!session->is_output_broken) {
        session->is_output_broken = true;
        kelpie__ignore(kelpie_exec_kill(session->exec, NULL)); /* what it writes goes nowhere */
    }
}

/* Writes as much as is taken; false: nobody reads. */
static bool session_write(struct session *session, int handle, const uint8_t *bytes, size_t count,
                          size_t *out_written) {
    int64_t written = 1;
    *out_written = 0;
    while (*out_written < count && written > 0) { /* bound: the bytes */
        written =
            kelpie__os_write(session->cli->os, handle, bytes + *out_written, count - *out_written);
        *out_written += written > 0 ? (size_t)written : 0;
    }
    return written > 0 || written == -EAGAIN;
}

static void session_drop_rest(struct session *session) {
    if (session->rest != NULL) {
        kelpie__loop_unwatch(session->loop, session->rest_slot);
        kelpie__free(session->cli->os, session->rest, session->rest_bytes);
        session->rest = NULL;
        kelpie_exec_resume_output(session->exec);
    }
}

static void on_room(void *context, uint32_t bits) {
    struct session *session = context;
    size_t written = 0;
    KELPIE_ASSERT(session->rest != NULL && bits != 0);
    bool is_read = session_write(session, session->rest_handle, session->rest + session->rest_start,
                                 session->rest_bytes - session->rest_start, &written);
    session->rest_start += written;
    if (!is_read) {
        session_break_output(session);
    }
    if (!is_read || session->rest_start == session->rest_bytes) {
        session_drop_rest(session);
    }
}

/* Keeps what was not taken, and asks for no more meanwhile. */
static void session_keep_rest(struct session *session, int handle, const uint8_t *bytes,
                              size_t count) {
    KELPIE_ASSERT(session->rest == NULL && count > 0);
    uint8_t *rest = kelpie__alloc(session->cli->os, count);
    if (rest == NULL || kelpie__loop_watch(session->loop, handle, KELPIE_OS_WRITABLE, on_room,
                                           session, &session->rest_slot) < 0) {
        kelpie__free(session->cli->os, rest, count);
        session_break_output(session);
        return;
    }
    memcpy(rest, bytes, count);
    session->rest = rest;
    session->rest_bytes = count;
    session->rest_start = 0;
    session->rest_handle = handle;
    kelpie_exec_pause_output(session->exec);
}

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                      const void *bytes, size_t count) {
    struct session *session = context;
    int handle = stream == KELPIE_STDOUT ? KELPIE_CLI_STDOUT : KELPIE_CLI_STDERR;
    size_t written = 0;
    KELPIE_ASSERT(exec == session->exec);
    if (count == 0 || session->is_output_broken) {
        return;
    }
    if (!session_write(session, handle, bytes, count, &written)) {
        session_break_output(session);
    } else if (written < count) {
        session_keep_rest(session, handle, (const uint8_t *)bytes + written, count - written);
    }
}

static void on_writable(void *context, struct kelpie_exec *exec) {
    struct session *session = context;
    KELPIE_ASSERT(exec == session->exec);
    session->is_input_blocked = false;
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct session *session = context;
    KELPIE_ASSERT(exec == session->exec && !session->has_ended);
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

/* ---- input ---- */

static void on_input(void *context, uint32_t bits) {
    struct session *session = context;
    KELPIE_ASSERT(bits != 0);
    session->is_input_due = true;
}

/* Watched only while there is a place for what it holds. */
static void session_watch_input(struct session *session) {
    bool wants = session->has_input && !session->is_input_blocked && !session->is_input_file;
    if (wants == session->is_input_watched) {
        return;
    }
    if (!wants) {
        kelpie__loop_unwatch(session->loop, session->input_slot);
        session->is_input_watched = false;
        return;
    }
    int status = kelpie__loop_watch(session->loop, KELPIE_CLI_STDIN, KELPIE_OS_READABLE, on_input,
                                    session, &session->input_slot);
    session->is_input_watched = status == 0;
    session->is_input_file = status < 0; /* epoll refuses files: they are always ready */
}

static void session_end_input(struct session *session) {
    session->has_input = false;
    kelpie__ignore(
        kelpie_exec_close_stdin(session->exec, NULL)); /* it may have ended: its end comes */
}

/* Hands over what was read. True: all of it was taken. */
static bool session_feed(struct session *session) {
    size_t written = 0;
    if (session->input_count == 0) {
        return true;
    }
    int status = kelpie_exec_write(session->exec, session->input + session->input_start,
                                   session->input_count, &written, NULL);
    if (status < 0) { /* the command has ended, or takes no input */
        session->has_input = false;
        session->input_count = 0;
        return true;
    }
    KELPIE_ASSERT(written <= session->input_count);
    session->input_start += written;
    session->input_count -= written;
    session->is_input_blocked = session->input_count > 0;
    return session->input_count == 0;
}

static void session_take_input(struct session *session) {
    session->is_input_due = false;
    if (!session->has_input || session->is_input_blocked || !session_feed(session) ||
        !session->has_input) {
        return;
    }
    int64_t count =
        kelpie__os_read(session->cli->os, KELPIE_CLI_STDIN, session->input, sizeof(session->input));
    if (count == -EAGAIN) {
        return;
    }
    if (count <= 0) { /* the end; EIO: the terminal is gone */
        session_end_input(session);
        return;
    }
    session->input_start = 0;
    session->input_count = (size_t)count;
    kelpie__ignore(session_feed(session)); /* what is left waits for `writable` */
}

/* ---- signals and the terminal ---- */

static void session_resize(struct session *session) {
    uint16_t rows = 0;
    uint16_t columns = 0;
    struct kelpie_os *os = session->cli->os;
    if (session->cli->options.has_terminal &&
        kelpie__os_terminal_size(os, KELPIE_CLI_STDIN, &rows, &columns) >= 0 && rows > 0 &&
        columns > 0) {
        kelpie__ignore(kelpie_exec_resize(session->exec, rows, columns, NULL)); /* as a courtesy */
    }
}

static void on_signal(void *context, uint32_t bits) {
    struct session *session = context;
    KELPIE_ASSERT(bits != 0);
    int number = kelpie__os_take_signal(session->cli->os, session->signals);
    if (number < 0) {
        return;
    }
    if (number == SIGWINCH) {
        session_resize(session);
        return;
    }
    bool is_interrupt = number == SIGINT || number == SIGTERM;
    session->interrupt_count += is_interrupt ? 1 : 0;
    /* What cannot be sent has no command to be sent to: its end is on the way. */
    kelpie__ignore(session->interrupt_count >= SESSION_INTERRUPTS_MAX
                       ? kelpie_exec_kill(session->exec, NULL)
                       : kelpie_exec_signal(session->exec, number, NULL));
}

static void on_library(void *context, uint32_t bits) {
    kelpie__ignore(context != NULL && bits != 0); /* that the wait has ended is all */
}

static bool session_set_raw(struct session *session) {
    struct kelpie_cli *cli = session->cli;
    if (!cli->options.has_terminal || !cli->options.is_interactive ||
        !kelpie__os_is_terminal(cli->os, KELPIE_CLI_STDIN)) {
        return true;
    }
    int status = kelpie__os_set_terminal_raw(cli->os, KELPIE_CLI_STDIN, true);
    session->is_raw = status >= 0;
    return status >= 0;
}

/* ---- life ---- */

static int session_init(struct session *session, struct kelpie_cli *cli,
                        struct kelpie_error *error) {
    session->cli = cli;
    session->signals = KELPIE_OS_NO_HANDLE;
    session->has_input = cli->options.is_interactive;
    int status = kelpie__loop_create(cli->os, SESSION_HANDLE_COUNT, &session->loop, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__loop_watch(session->loop, kelpie_fd(cli->kelpie), KELPIE_OS_READABLE,
                                on_library, session, &session->library_slot);
    if (status < 0) {
        kelpie__loop_destroy(session->loop);
        return kelpie__fail(error, status, 0, "watch the library's events");
    }
    return 0;
}

/* From here on signals go to the command. */
static int session_begin(struct session *session, struct kelpie_error *error) {
    struct kelpie_os *os = session->cli->os;
    int signals = kelpie__os_open_signals(os, forwarded, KELPIE_ARRAY_COUNT(forwarded));
    if (signals < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -signals, "receive signals");
    }
    int status = kelpie__loop_watch(session->loop, signals, KELPIE_OS_READABLE, on_signal, session,
                                    &session->signals_slot);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, signals)); /* the first error counts */
        return kelpie__fail(error, status, 0, "watch for signals");
    }
    session->signals = signals;
    if (!session_set_raw(session)) {
        return kelpie__fail(error, KELPIE_E_IO, 0, "make the terminal raw");
    }
    return 0;
}

static void session_deinit(struct session *session) {
    struct kelpie_os *os = session->cli->os;
    if (session->is_raw) {
        kelpie__ignore(
            kelpie__os_set_terminal_raw(os, KELPIE_CLI_STDIN, false)); /* or it is gone */
    }
    if (session->is_input_watched) {
        kelpie__loop_unwatch(session->loop, session->input_slot);
    }
    if (session->signals != KELPIE_OS_NO_HANDLE) {
        kelpie__loop_unwatch(session->loop, session->signals_slot);
        kelpie__ignore(kelpie__os_close(os, session->signals)); /* nothing is written to it */
    }
    if (session->exec != NULL) {
        session_drop_rest(session);
        kelpie_exec_close(session->exec);
    }
    kelpie__loop_unwatch(session->loop, session->library_slot);
    kelpie__loop_destroy(session->loop);
}

static int64_t session_deadline(const struct session *session) {
    bool is_file_due = session->has_input && session->is_input_file && !session->is_input_blocked;
    int timeout_ms = is_file_due ? 0 : kelpie_timeout_ms(session->cli->kelpie);
    if (timeout_ms < 0) {
        return -1;
    }
    return kelpie__os_now(session->cli->os, KELPIE_OS_CLOCK_MONOTONIC) +
           timeout_ms * KELPIE_NS_PER_MS;
}

/* Until the command has ended and its output is written. */
static int session_drive(struct session *session, struct kelpie_error *error) {
    int status = 0;
    while (status == 0 && (!session->has_ended || session->rest != NULL)) { /* bound: its end */
        session_watch_input(session);
        status = kelpie__loop_step(session->loop, session_deadline(session), error);
        if (status == 0 && (session->is_input_due || session->is_input_file)) {
            session_take_input(session);
        }
        if (status == 0) {
            status = kelpie_dispatch(session->cli->kelpie, error);
        }
    }
    return status;
}

static int session_exit_code(struct session *session) {
    struct kelpie_cli *cli = session->cli;
    const struct kelpie_exec_status *status = &session->status;
    if (session->error.code < 0) {
        return kelpie__cli_fail_error(cli, &session->error);
    }
    if (session->is_output_broken) {
        return KELPIE_CLI_SIGNALLED + SIGPIPE;
    }
    switch (status->reason) {
    case KELPIE_EXEC_EXITED:
        return status->exit_code;
    case KELPIE_EXEC_SIGNALLED:
        return KELPIE_CLI_SIGNALLED + status->signal;
    case KELPIE_EXEC_TIMED_OUT:
        kelpie__cli_note(cli, "the command was killed at its timeout of %llu ms",
                         (unsigned long long)cli->options.timeout_ms);
        return KELPIE_CLI_TIMED_OUT;
    case KELPIE_EXEC_CANCELLED:
        return KELPIE_CLI_SIGNALLED + SIGKILL;
    }
    return KELPIE_CLI_FAILED;
}

/* Drives a session whose start gave `status` to its end; gives the exit code. */
static int session_finish(struct session *session, int status, struct kelpie_error *error) {
    if (status == 0) {
        status = session_begin(session, error);
    }
    if (status == 0) {
        status = session_drive(session, error);
    }
    session_deinit(session); /* before anything is printed: the terminal may be raw */
    return status < 0 ? kelpie__cli_fail_error(session->cli, error) : session_exit_code(session);
}

static void fill_options(struct kelpie_cli *cli, const char *const *command,
                         struct kelpie_exec_options *out) {
    const struct kelpie_cli_options *options = &cli->options;
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
    static_assert(KELPIE_CLI_UNSET == KELPIE_TIMEOUT_NONE, "no --timeout is no timeout");
    if (options->has_terminal &&
        kelpie__os_terminal_size(cli->os, KELPIE_CLI_STDIN, &out->rows, &out->columns) < 0) {
        out->rows = 0; /* the library's defaults */
        out->columns = 0;
    }
}

int kelpie__cli_session_run(struct kelpie_cli *cli, struct kelpie_vm *vm,
                            const char *const *command) {
    struct kelpie_error error = {0};
    struct kelpie_exec_options options;
    struct session *session = kelpie__alloc(cli->os, sizeof(*session));
    if (session == NULL) {
        return kelpie__cli_fail(cli, "no memory");
    }
    fill_options(cli, command, &options);
    int code = KELPIE_CLI_FAILED;
    if (session_init(session, cli, &error) < 0) {
        code = kelpie__cli_fail_error(cli, &error);
    } else {
        int status =
            kelpie_vm_exec_start(vm, &options, &callbacks, session, &session->exec, &error);
        code = session_finish(session, status, &error);
    }
    kelpie__free(cli->os, session, sizeof(*session));
    return code;
}

int kelpie__cli_session_attach(struct kelpie_cli *cli, struct kelpie_vm *vm, const char *exec_id) {
    struct kelpie_error error = {0};
    struct session *session = kelpie__alloc(cli->os, sizeof(*session));
    if (session == NULL) {
        return kelpie__cli_fail(cli, "no memory");
    }
    int code = KELPIE_CLI_FAILED;
    if (session_init(session, cli, &error) < 0) {
        code = kelpie__cli_fail_error(cli, &error);
    } else {
        int status =
            kelpie_vm_exec_attach(vm, exec_id, 0, 0, &callbacks, session, &session->exec, &error);
        code = session_finish(session, status, &error);
    }
    kelpie__free(cli->os, session, sizeof(*session));
    return code;
}

int kelpie__cli_session_detached(struct kelpie_cli *cli, struct kelpie_vm *vm,
                                 const char *const *command, bool prints_id) {
    struct kelpie_error error = {0};
    struct kelpie_exec_options options;
    struct kelpie_exec *exec = NULL;
    KELPIE_ASSERT(cli->options.is_detached);
    fill_options(cli, command, &options);
    if (kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (prints_id) {
        kelpie__cli_print(cli, "%s\n", kelpie_exec_id(exec));
    }
    if (kelpie_exec_detach(exec, &error) < 0) {
        kelpie_exec_close(exec);
        return kelpie__cli_fail_error(cli, &error);
    }
    return KELPIE_CLI_OK;
}
