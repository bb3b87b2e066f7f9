/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The bytes of a session. Nothing here waits, so that a signal is never kept waiting by a reader
 * that does not read: pipes and terminals are opened anew, without blocking, because the flags of
 * the opening that was handed to us are shared with whoever handed it over.
 */
#include "cli/session.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

static const char *const stream_names[] = {"standard input", "standard output", "standard error"};

void kelpie__cli_io_check(const struct kelpie_cli_session *session) {
    KELPIE_ASSERT(session->input_start + session->input_count <= sizeof(session->input));
    KELPIE_ASSERT(session->rest_start + session->rest_count <= session->rest_capacity);
    KELPIE_ASSERT(session->input_handle >= 0);
    KELPIE_ASSERT((session->rest == NULL) == (session->rest_capacity == 0));
    if (session->is_input_watched) {
        KELPIE_ASSERT(!session->is_input_file);
    }
    if (session->is_input_blocked) {
        KELPIE_ASSERT(session->input_count > 0);
    }
}

/* An opening of our own, or the handle itself: files keep theirs, which has the position; a socket
 * cannot be opened; somebody else's terminal may not be. */
static int stream_open(struct kelpie_os *os, int handle, uint32_t flag, uint32_t bits) {
    char path[32];
    struct kelpie_os_stat stat;
    KELPIE_ASSERT(bits == KELPIE_OS_READABLE || bits == KELPIE_OS_WRITABLE);
    KELPIE_ASSERT(handle >= KELPIE_CLI_STDIN && handle <= KELPIE_CLI_STDERR);
    bool fits = kelpie__text_format(path, sizeof(path), "/proc/self/fd/%d", handle);
    KELPIE_ASSERT(fits);
    if (kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat) < 0 ||
        stat.kind != KELPIE_OS_KIND_OTHER) {
        return handle;
    }
    /* Devices with a position cannot be watched either; that is how they are told from terminals.
     */
    if (kelpie__os_watch(os, handle, bits, 0) < 0) {
        return handle;
    }
    kelpie__ignore(kelpie__os_watch(os, handle, 0, 0)); /* it was watched a line above */
    int own = kelpie__os_open(os, KELPIE_OS_CWD, path,
                              flag | KELPIE_OS_OPEN_FOLLOW | KELPIE_OS_OPEN_NO_TTY, 0);
    return own >= 0 ? own : handle;
}

static void stream_close(struct kelpie_os *os, int handle) {
    if (handle > KELPIE_CLI_STDERR) { /* else it is not ours, or was never asked for */
        kelpie__ignore(kelpie__os_close(os, handle)); /* what was written has been answered for */
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

static int output_handle(struct kelpie_cli_session *session, enum kelpie_stream stream) {
    int *handle = &session->output_handles[stream];
    KELPIE_ASSERT(stream == KELPIE_STDOUT || stream == KELPIE_STDERR);
    if (*handle == KELPIE_OS_NO_HANDLE) {
        *handle =
            stream_open(session->cli->os, (int)stream, KELPIE_OS_OPEN_WRITE, KELPIE_OS_WRITABLE);
    }
    return *handle;
}

static void output_fail(struct kelpie_cli_session *session, int handle, int64_t status) {
    int stream =
        handle == session->output_handles[KELPIE_STDERR] ? KELPIE_CLI_STDERR : KELPIE_CLI_STDOUT;
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(status < 0);
    if (session->output_error.code == 0) {
        kelpie__ignore(kelpie__fail(&session->output_error, KELPIE_E_IO, (int)-status,
                                    "write to %s", stream_names[stream]));
    }
}

/* Writes as much as is taken. False: it cannot be written, which output_error says. */
static bool output_write(struct kelpie_cli_session *session, int handle, const uint8_t *bytes,
                         size_t count, size_t *out_written) {
    KELPIE_ASSERT(handle >= 0);
    *out_written = 0;
    while (*out_written < count) { /* bound: the bytes */
        int64_t written =
            kelpie__os_write(session->cli->os, handle, bytes + *out_written, count - *out_written);
        if (written == -EAGAIN) {
            return true;
        }
        if (written <= 0) {
            output_fail(session, handle, written < 0 ? written : -EIO);
            return false;
        }
        *out_written += (size_t)written;
    }
    return true;
}

static void output_drop_rest(struct kelpie_cli_session *session) {
    if (session->rest_count > 0) {
        KELPIE_ASSERT(session->exec != NULL);
        KELPIE_ASSERT(session->cli->loop != NULL);
        session->rest_count = 0;
        kelpie__loop_unwatch(session->cli->loop, session->rest_slot);
        kelpie_exec_resume_output(session->exec);
    }
}

static void on_room(void *context, uint32_t bits) {
    struct kelpie_cli_session *session = context;
    size_t written = 0;
    kelpie__cli_io_check(session);
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(session->rest_count > 0);
    bool is_taken = output_write(session, session->rest_handle, session->rest + session->rest_start,
                                 session->rest_count, &written);
    KELPIE_ASSERT(written <= session->rest_count);
    if (!is_taken || written == session->rest_count) {
        output_drop_rest(session);
    } else {
        session->rest_start += written;
        session->rest_count -= written;
    }
}

/* Keeps what was not taken, and asks for no more meanwhile. The memory grows to the largest piece
 * that the library hands over and stays. */
static void output_keep(struct kelpie_cli_session *session, int handle, const uint8_t *bytes,
                        size_t count) {
    struct kelpie_cli *cli = session->cli;
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(session->rest_count == 0);
    if (session->rest_capacity < count) {
        uint8_t *larger = kelpie__resize(cli->os, session->rest, session->rest_capacity, count);
        if (larger == NULL) {
            output_fail(session, handle, -ENOMEM);
            return;
        }
        session->rest = larger;
        session->rest_capacity = count;
    }
    int status = kelpie__loop_watch(cli->loop, handle, KELPIE_OS_WRITABLE, on_room, session,
                                    &session->rest_slot);
    if (status < 0) {
        output_fail(session, handle, -EIO);
        return;
    }
    memcpy(session->rest, bytes, count);
    session->rest_start = 0;
    session->rest_count = count;
    session->rest_handle = handle;
    kelpie_exec_pause_output(session->exec);
    kelpie__cli_io_check(session);
}

void kelpie__cli_io_output(struct kelpie_cli_session *session, enum kelpie_stream stream,
                           const void *bytes, size_t count) {
    size_t written = 0;
    kelpie__cli_io_check(session);
    KELPIE_ASSERT(session->rest_count == 0); /* paused until it is written */
    if (count == 0 || session->output_error.code < 0) {
        return;
    }
    int handle = output_handle(session, stream);
    if (output_write(session, handle, bytes, count, &written) && written < count) {
        output_keep(session, handle, (const uint8_t *)bytes + written, count - written);
    }
}

/* ---- input ----------------------------------------------------------------------------------- */

static void on_input(void *context, uint32_t bits) {
    struct kelpie_cli_session *session = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(session->is_input_watched);
    session->is_input_due = true;
}

void kelpie__cli_io_prepare(struct kelpie_cli_session *session) {
    struct kelpie_loop *loop = session->cli->loop;
    bool wants = session->has_input && !session->is_input_blocked && !session->is_input_file;
    kelpie__cli_io_check(session);
    if (wants == session->is_input_watched) {
        return;
    }
    if (!wants) {
        kelpie__loop_unwatch(loop, session->input_slot);
        session->is_input_watched = false;
        return;
    }
    int status = kelpie__loop_watch(loop, session->input_handle, KELPIE_OS_READABLE, on_input,
                                    session, &session->input_slot);
    session->is_input_watched = status == 0;
    session->is_input_file = status < 0; /* epoll refuses files: they are always ready */
}

bool kelpie__cli_io_is_due(const struct kelpie_cli_session *session) {
    bool is_file_ready = session->is_input_file && !session->is_input_blocked;
    return session->has_input && (session->is_input_due || is_file_ready);
}

/* Hands over what was read. True: all of it was taken. */
static bool input_feed(struct kelpie_cli_session *session) {
    size_t written = 0;
    kelpie__cli_io_check(session);
    KELPIE_ASSERT(session->exec != NULL);
    if (session->input_count == 0) {
        return true;
    }
    int status = kelpie_exec_write(session->exec, session->input + session->input_start,
                                   session->input_count, &written, NULL);
    if (status < 0) { /* the command has ended, or takes no input */
        session->has_input = false;
        session->input_count = 0;
        session->is_input_blocked = false;
        return true;
    }
    KELPIE_ASSERT(written <= session->input_count);
    session->input_start += written;
    session->input_count -= written;
    session->is_input_blocked = session->input_count > 0;
    return session->input_count == 0;
}

void kelpie__cli_io_take_input(struct kelpie_cli_session *session) {
    bool had_rest = session->input_count > 0;
    session->is_input_due = false;
    if (!input_feed(session) || !session->has_input) {
        return;
    }
    if (had_rest && !session->is_input_file) {
        KELPIE_ASSERT(session->input_count == 0);
        return; /* not known to be ready: the handle may be one that blocks */
    }
    int64_t count = kelpie__os_read(session->cli->os, session->input_handle, session->input,
                                    sizeof(session->input));
    if (count == -EAGAIN) {
        return;
    }
    if (count <= 0) { /* the end; or an error, such as EIO of a terminal that is gone */
        session->has_input = false;
        kelpie__ignore(kelpie_exec_close_stdin(session->exec, NULL)); /* or it has ended */
        return;
    }
    session->input_start = 0;
    session->input_count = (size_t)count;
    kelpie__ignore(input_feed(session)); /* what is left waits for `writable` */
    kelpie__cli_io_check(session);
}

/* ---- life ------------------------------------------------------------------------------------ */

void kelpie__cli_io_init(struct kelpie_cli_session *session) {
    struct kelpie_cli *cli = session->cli;
    KELPIE_ASSERT(session->rest == NULL);
    session->output_handles[KELPIE_STDOUT] = KELPIE_OS_NO_HANDLE;
    session->output_handles[KELPIE_STDERR] = KELPIE_OS_NO_HANDLE;
    session->has_input = cli->options.is_interactive;
    session->input_handle = KELPIE_CLI_STDIN;
    if (session->has_input) {
        session->input_handle =
            stream_open(cli->os, KELPIE_CLI_STDIN, KELPIE_OS_OPEN_READ, KELPIE_OS_READABLE);
    }
    KELPIE_ASSERT(session->input_handle >= 0);
}

void kelpie__cli_io_deinit(struct kelpie_cli_session *session) {
    struct kelpie_cli *cli = session->cli;
    kelpie__cli_io_check(session);
    if (session->is_input_watched) {
        kelpie__loop_unwatch(cli->loop, session->input_slot);
    }
    output_drop_rest(session);
    stream_close(cli->os, session->input_handle);
    stream_close(cli->os, session->output_handles[KELPIE_STDOUT]);
    stream_close(cli->os, session->output_handles[KELPIE_STDERR]);
    kelpie__free(cli->os, session->rest, session->rest_capacity);
}
