/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the two files of a session share: session.c has its life, signals and end, session_io.c the
 * bytes between this process's standard streams and the command's.
 */
#ifndef KELPIE_CLI_SESSION_H
#define KELPIE_CLI_SESSION_H

#include "cli/cli.h"

#define KELPIE_CLI_INPUT_BYTES 32768u

struct kelpie_cli_session {
    struct kelpie_cli *cli;   /* borrowed: the session's life */
    struct kelpie_exec *exec; /* owned; NULL: not started */
    uint32_t interrupt_count;
    int end_signal; /* this process is to end by it; 0: it is not */

    int input_handle;
    bool has_input; /* standard input is passed on, and has not ended */
    bool is_input_watched;
    bool is_input_file;    /* cannot be watched: always ready */
    bool is_input_due;     /* seen to be ready */
    bool is_input_blocked; /* the command takes no more for now */
    uint32_t input_slot;
    size_t input_start; /* what was read and not taken yet */
    size_t input_count;

    int output_handles[3]; /* by enum kelpie_stream; KELPIE_OS_NO_HANDLE: not asked for yet */
    uint8_t *rest;         /* owned: output that the reader did not take yet */
    size_t rest_capacity;
    size_t rest_start;
    size_t rest_count; /* above 0: the command's output is paused */
    int rest_handle;
    uint32_t rest_slot;

    bool is_raw;
    bool has_ended;
    struct kelpie_exec_status status;
    struct kelpie_error error;        /* of the command; code 0: status holds */
    struct kelpie_error output_error; /* code 0: none; os_error EPIPE: nobody reads any more */
    uint8_t input[KELPIE_CLI_INPUT_BYTES];
};

/* ---- session_io.c ---------------------------------------------------------------------------- */

void kelpie__cli_io_init(struct kelpie_cli_session *session);
void kelpie__cli_io_deinit(struct kelpie_cli_session *session);
void kelpie__cli_io_check(const struct kelpie_cli_session *session);
/* Before each wait: watches what there is a place for. */
void kelpie__cli_io_prepare(struct kelpie_cli_session *session);
/* True: there is input to take without waiting. */
bool kelpie__cli_io_is_due(const struct kelpie_cli_session *session);
/* After each wait: reads input that is due and hands it over. */
void kelpie__cli_io_take_input(struct kelpie_cli_session *session);
/* The library's callback for output. */
void kelpie__cli_io_output(struct kelpie_cli_session *session, enum kelpie_stream stream,
                           const void *bytes, size_t count);

#endif
