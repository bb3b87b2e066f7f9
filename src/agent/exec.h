/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands: one table of slots, each a command from the first byte of its arguments until its exit
 * status is known to the peer or pushed out by newer ones. A command outlives connections: it has a
 * channel only while a peer is attached to it.
 *
 * exec.c has the life of a command, exec_start.c its birth, exec_stream.c its bytes, exec_request.c
 * what peers may ask.
 */
#ifndef KELPIE_AGENT_EXEC_H
#define KELPIE_AGENT_EXEC_H

#include "agent/group.h"
#include "core/base.h"
#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "core/ring.h"
#include "core/ring_pool.h"
#include "os/os.h"
#include "wire/stream.h"
#include "wire/wire.h"

struct kelpie_agent;
struct kelpie_agent_params;

#define KELPIE_AGENT_EXEC_MAX KELPIE_EXEC_COUNT_MAX
#define KELPIE_AGENT_EXEC_FINISHED_MAX 16    /* more are pushed out, the oldest first */
#define KELPIE_AGENT_EXEC_ARGUMENTS_MIN 4096 /* a slot's buffer, which is kept */
#define KELPIE_AGENT_EXEC_ID_BYTES (KELPIE_EXEC_ID_CHARACTERS + 1)

enum kelpie_agent_exec_state {
    KELPIE_AGENT_EXEC_FREE,
    KELPIE_AGENT_EXEC_RECEIVING, /* its arguments are on their way */
    KELPIE_AGENT_EXEC_RUNNING,
    KELPIE_AGENT_EXEC_ENDING,   /* the command has ended; what it started, or output, is left */
    KELPIE_AGENT_EXEC_FINISHED, /* nothing is left but its status and output that nobody fetched */
};

enum kelpie_agent_exec_reason {
    KELPIE_AGENT_EXEC_BY_ITSELF,
    KELPIE_AGENT_EXEC_BY_TIMEOUT,
    KELPIE_AGENT_EXEC_BY_CANCEL,
};

/* Standard output or standard error, from the pipe to the wire. */
struct kelpie_agent_output {
    struct kelpie_agent_exec *exec; /* borrowed: the slot that it is part of */
    enum kelpie_stream_kind kind;
    int handle; /* owned, or the terminal; none after its end was read */
    uint32_t watch_slot;
    bool is_watched;
    struct kelpie_stream_sender sender; /* what was read and not acknowledged; memory is kept */
};

/* Standard input, from the wire to the pipe. */
struct kelpie_agent_input {
    struct kelpie_agent_exec *exec; /* borrowed: the slot that it is part of */
    int handle;                     /* owned, or the terminal */
    uint32_t watch_slot;
    bool is_watched;
    bool is_stopped; /* nobody reads what still comes */
    bool owes_stop;  /* the peer is to be told so when it hears again */
    struct kelpie_stream_receiver receiver;
    struct kelpie_ring ring; /* what the pipe did not take yet */
};

/* One DATA frame. */
struct kelpie_agent_piece {
    uint64_t offset;
    const void *bytes;
    size_t count;
    bool is_end;
};

struct kelpie_agent_exec_options {
    uint32_t argument_count;
    uint32_t environment_count;
    bool has_input;
    bool has_terminal;
    uint16_t rows;
    uint16_t columns;
    uint64_t timeout_ms; /* 0: none */
    uint32_t limit_count;
    struct kelpie_os_limit limits[KELPIE_EXEC_LIMIT_COUNT_MAX];
    char directory[KELPIE_PATH_BYTES_MAX];
    char user[128];
};

struct kelpie_agent_exec {
    struct kelpie_agent *agent; /* borrowed: always */
    enum kelpie_agent_exec_state state;
    enum kelpie_agent_exec_reason reason;
    char id[KELPIE_AGENT_EXEC_ID_BYTES];
    uint64_t order;      /* rises with each start, then with each end: who is oldest */
    uint32_t channel;    /* 0: nobody is attached */
    uint64_t request_id; /* of exec.start, until it is answered */
    struct kelpie_agent_exec_options options;

    char *arguments; /* owned; grows with what arrives */
    size_t arguments_capacity;
    size_t arguments_bytes;
    size_t arguments_bytes_announced;
    struct kelpie_stream_receiver arguments_receiver;

    int32_t pid;
    int terminal; /* owned; none without one */
    struct kelpie_agent_group group;
    uint64_t orphan_count_at_start;
    int64_t start_ns;
    int64_t end_ns;
    struct kelpie_os_exit exit;
    bool is_group_gone;
    bool is_exit_sent;
    uint32_t kill_attempt_count;
    struct kelpie_timer answer_timer; /* until the answer to exec.start is sent */
    struct kelpie_timer retry_timer;  /* while the kernel has no memory for its streams */
    /* The timeout while it runs, then the patience with what it left, then a moment's rest. */
    struct kelpie_timer timer;

    struct kelpie_agent_input input;
    struct kelpie_agent_output outputs[2]; /* stdout, stderr */
};

struct kelpie_agent_execs {
    struct kelpie_agent_exec *slots[KELPIE_AGENT_EXEC_MAX]; /* owned; made when first needed */
    uint32_t slot_count;
    struct kelpie_ring_pool rings; /* what ended commands gave back, for the next ones */
    uint64_t id_counter;
    uint64_t order_counter;
    bool has_children; /* at the last look: some process of a command, or of what it left, lives */
    uint64_t orphan_count; /* processes reaped that were nobody's command */
};

/* --- exec.c --- */

/* Makes the first slot, so that the first command need not wait for it: what a guest that was just
 * restored does for the first time costs it dearly. */
void kelpie__agent_exec_prepare(struct kelpie_agent *agent);

/* A free slot, which may be taken from the oldest finished command. LIMIT when all are alive,
 * MEMORY. */
KELPIE_MUST_CHECK int kelpie__agent_exec_acquire(struct kelpie_agent *agent,
                                                 struct kelpie_agent_exec **out,
                                                 struct kelpie_error *error);
void kelpie__agent_exec_release(struct kelpie_agent_exec *exec);

/* Frees all that have finished and whose end was sent: a saved guest must not list what was over.
 */
void kelpie__agent_exec_forget_told(struct kelpie_agent *agent);
struct kelpie_agent_exec *kelpie__agent_exec_find(struct kelpie_agent *agent, const char *id);
struct kelpie_agent_exec *kelpie__agent_exec_find_channel(struct kelpie_agent *agent,
                                                          uint32_t channel);

/* Kills all processes of a command that runs. */
void kelpie__agent_exec_kill(struct kelpie_agent_exec *exec, enum kelpie_agent_exec_reason reason);

/* Does whatever can be done for the command now: moves bytes, and ends it when everything is there.
 */
void kelpie__agent_exec_advance(struct kelpie_agent_exec *exec);

/* Collects ended processes: commands and orphans. False: there is no child left. */
bool kelpie__agent_exec_reap(struct kelpie_agent *agent);

/* The connection is gone: commands go on without a channel; those whose arguments were not complete
 * vanish. */
void kelpie__agent_exec_detach_all(struct kelpie_agent *agent);

/* The pids of all live commands; how many. */
uint32_t kelpie__agent_exec_leaders(struct kelpie_agent *agent, int32_t *out);

/* Only at the end of the process. */
void kelpie__agent_exec_destroy_all(struct kelpie_agent *agent);

/* --- exec_start.c --- */

/* Room for so many bytes of arguments. MEMORY. */
KELPIE_MUST_CHECK int kelpie__agent_exec_arguments_reserve(struct kelpie_agent_exec *exec,
                                                           size_t needed,
                                                           struct kelpie_error *error);

/* Bytes of the args stream; the last ones start the command and answer the request. NULL, or the
 * broken rule. */
KELPIE_MUST_CHECK const char *kelpie__agent_exec_arguments(struct kelpie_agent_exec *exec,
                                                           const struct kelpie_agent_piece *piece);

/* Answers exec.start, if that is still to be done. */
void kelpie__agent_exec_answer(struct kelpie_agent_exec *exec);

/* --- exec_stream.c --- */

/* Before all else: the memory of commands' streams, of which a little is kept. */
void kelpie__agent_exec_rings_init(struct kelpie_agent *agent);
KELPIE_MUST_CHECK int kelpie__agent_exec_streams_init(struct kelpie_agent_exec *exec,
                                                      struct kelpie_error *error);
/* Memory for a command whose options are known: input has none unless it is wanted. */
KELPIE_MUST_CHECK int kelpie__agent_exec_streams_renew(struct kelpie_agent_exec *exec,
                                                       struct kelpie_error *error);
/* It has ended, and is remembered: what it holds is all that it needs memory for. */
void kelpie__agent_exec_streams_shrink(struct kelpie_agent_exec *exec);
void kelpie__agent_exec_streams_deinit(struct kelpie_agent_exec *exec);
/* Closes everything and forgets all bytes: the slot is free. */
void kelpie__agent_exec_streams_reset(struct kelpie_agent_exec *exec);

/* Begins to move bytes over these handles, which it takes; input and error_output may be none. A
 * terminal is not taken. */
void kelpie__agent_exec_streams_open(struct kelpie_agent_exec *exec, int input, int output,
                                     int error_output);

/* Moves bytes of stdout and stderr; true when both have ended and everything is sent. */
bool kelpie__agent_exec_streams_advance(struct kelpie_agent_exec *exec);

/* A new connection goes on from these offsets of stdout and stderr, or from the oldest bytes that
 * are kept. LIMIT for an offset that was never reached. */
KELPIE_MUST_CHECK int kelpie__agent_exec_streams_attach(struct kelpie_agent_exec *exec,
                                                        const uint64_t offsets[2],
                                                        struct kelpie_error *error);

/* After the attach was answered: says how much of standard input may come, or that nobody reads it.
 */
void kelpie__agent_exec_streams_announce(struct kelpie_agent_exec *exec);

/* The peer hears again: credit and stops that were held back are sent. */
void kelpie__agent_exec_streams_catch_up(struct kelpie_agent_exec *exec);

/* Bytes for standard input. NULL, or the broken rule. */
KELPIE_MUST_CHECK const char *kelpie__agent_exec_input(struct kelpie_agent_exec *exec,
                                                       const struct kelpie_agent_piece *piece);

/* --- exec_request.c --- */

void kelpie__agent_request_exec_start(struct kelpie_agent *agent, uint64_t id,
                                      const struct kelpie_agent_params *params);
void kelpie__agent_request_exec_attach(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params);
void kelpie__agent_request_exec_signal(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params);
void kelpie__agent_request_exec_resize(struct kelpie_agent *agent, uint64_t id,
                                       const struct kelpie_agent_params *params);
void kelpie__agent_request_exec_kill(struct kelpie_agent *agent, uint64_t id,
                                     const struct kelpie_agent_params *params);
void kelpie__agent_request_exec_list(struct kelpie_agent *agent, uint64_t id,
                                     const struct kelpie_agent_params *params);

struct kelpie_json_writer;

/* The commands that are not free, as an array named "execs". */
void kelpie__agent_exec_write_list(struct kelpie_agent *agent, struct kelpie_json_writer *writer);

#endif
