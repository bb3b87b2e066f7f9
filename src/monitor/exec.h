/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One command in the guest as the relay keeps it; shared by exec_start.c (its beginning),
 * exec_relay.c (requests and its end), exec_stream.c (bytes), exec_attach.c (clients that come and
 * go), exec_backstop.c (timeouts) and exec_adopt.c (restored ones) only.
 *
 * Life: Starting (the guest was asked) -> Live (it has an id) -> Ended (the guest said how, or the
 * VM died) -> freed once a client has been told. Input streams go client -> ring -> guest, output
 * streams guest -> ring -> client. A ring's memory is made at its first byte, small; it grows when
 * the stream flows, and when the client goes and the command is kept.
 */
#ifndef KELPIE_MONITOR_EXEC_H
#define KELPIE_MONITOR_EXEC_H

#include "core/loop.h"
#include "monitor/exec_relay.h"
#include "wire/stream.h"

#define KELPIE_EXEC_COMMAND_BYTES_MAX 128u
#define KELPIE_EXEC_REASON_BYTES_MAX 32u
#define KELPIE_EXEC_STREAM_COUNT 4u

enum kelpie_relay_phase {
    KELPIE_RELAY_STARTING,
    KELPIE_RELAY_LIVE,
    KELPIE_RELAY_ENDED,
};

/* One stream: this side receives from the source and sends to the sink. */
struct kelpie_exec_stream {
    struct kelpie_stream_receiver receiver;
    struct kelpie_stream_sender sender;
    bool has_ring;
};

/* How it ended: the guest's words, or our error. */
struct kelpie_exec_end {
    bool has_code;
    bool has_signal;
    int64_t code;
    int64_t signal;
    uint64_t wall_us;
    uint64_t cpu_us;
    uint64_t peak_memory_kib;
    char reason[KELPIE_EXEC_REASON_BYTES_MAX];
    struct kelpie_error *error; /* owned; NULL when the guest told, or with lost_code */
    int lost_code;              /* for want of memory: its bytes were lost, or the error; else 0 */
};

struct kelpie_relay_exec {
    struct kelpie_relay *relay; /* borrowed: for ever */
    enum kelpie_relay_phase phase;
    char id[KELPIE_EXEC_ID_CHARACTERS + 1];          /* "" while Starting */
    char restored_id[KELPIE_EXEC_ID_CHARACTERS + 1]; /* it came with a restored guest; else "" */
    uint64_t adopt_call; /* its exec.attach, which the guest has not answered; 0: none */
    uint32_t guest_channel;
    uint32_t client_channel;
    uint64_t client;                 /* serial number; 0: detached */
    struct kelpie_reply start_reply; /* until Live */
    bool keeps_on_disconnect;
    bool is_kill_wanted; /* as soon as its id is known */
    bool is_abandoned;   /* nobody will ever read it: its output is thrown away */
    uint64_t timeout_ms; /* 0: none */
    uint64_t argument_bytes;
    uint64_t order; /* the oldest ended one is forgotten first */
    int64_t started_ms;
    struct kelpie_timer backstop;
    int64_t backstop_left_ns; /* while the guest stands still */
    struct kelpie_exec_end end;
    size_t command_length;
    bool is_command_known;
    char command[KELPIE_EXEC_COMMAND_BYTES_MAX];
    struct kelpie_exec_stream streams[KELPIE_EXEC_STREAM_COUNT]; /* by enum kelpie_stream_kind */
};

static inline bool kelpie__exec_is_input(enum kelpie_stream_kind kind) {
    return kind == KELPIE_STREAM_ARGUMENTS || kind == KELPIE_STREAM_STDIN;
}

static inline enum kelpie_stream_kind kelpie__exec_stream_kind(uint32_t stream) {
    return (enum kelpie_stream_kind)(stream & ((1u << KELPIE_STREAM_KIND_BITS) - 1u));
}

static inline uint32_t kelpie__exec_stream_channel(uint32_t stream) {
    return stream >> KELPIE_STREAM_KIND_BITS;
}

/* Where the streams of a command go on. */
struct kelpie_exec_place {
    uint64_t stdout_offset;
    uint64_t stderr_offset;
    uint64_t stdin_offset;
    bool is_stdin_ended;
};

void kelpie__exec_check(const struct kelpie_relay_exec *exec);

/* exec_stream.c: sends what credit and room allow, of all streams, and the end when all else has
 * gone. Frees the exec when there is nothing more to do for it; true then. */
bool kelpie__relay_exec_pump(struct kelpie_relay_exec *exec);

/* exec_attach.c: makes room for a client that is away, and stops waiting for one that was told to
 * be. */
void kelpie__exec_let_go(struct kelpie_relay_exec *exec, bool is_kept);

/* exec_attach.c: a client takes it over; `offsets` are stdout's and stderr's. Errors: MISUSE (one
 * was never written), MEMORY. */
KELPIE_MUST_CHECK int kelpie__exec_take_over(struct kelpie_relay_exec *exec, uint64_t client,
                                             uint32_t channel, const uint64_t offsets[2],
                                             struct kelpie_error *error);

/* exec_attach.c: its streams begin here, kept for a client to come. False: no memory. */
KELPIE_MUST_CHECK bool kelpie__exec_place(struct kelpie_relay_exec *exec,
                                          const struct kelpie_exec_place *place);

/* exec_attach.c: after the answer: the new client gets credit and what waits for it. It may free
 * the exec. */
void kelpie__exec_taken_over(struct kelpie_relay_exec *exec);

/* exec_stream.c: the ring's memory, at the first byte. False: there is none. */
KELPIE_MUST_CHECK bool kelpie__exec_ensure_ring(struct kelpie_relay_exec *exec,
                                                struct kelpie_exec_stream *stream);
/* Gives the source of a stream the room that its sink has freed. What is thrown away needs none. */
void kelpie__exec_grant(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind);
/* A ring of at least this capacity with the same content, and the source may fill it. Without
 * memory the small one has to do. */
void kelpie__exec_grow(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind,
                       size_t capacity);
/* Throws away what a stream holds and what still comes. The source is told where it can do
 * something about it. */
void kelpie__exec_stop_stream(struct kelpie_relay_exec *exec, enum kelpie_stream_kind kind);
/* No memory for bytes of this command: they are lost, which nobody may take for its own doing. It
 * ends, alone, and its client is told why. */
void kelpie__exec_starve(struct kelpie_relay_exec *exec);

/* exec_backstop.c: it runs, and its timeout counts. */
void kelpie__relay_exec_arm_backstop(struct kelpie_relay_exec *exec);

/* exec_relay.c: a command in Starting, in a place and with a channel to the guest of its own; the
 * rest is the caller's to fill in at once. The caller knows that there is a place. NULL: no memory.
 */
struct kelpie_relay_exec *kelpie__relay_exec_create(struct kelpie_relay *relay);

/* exec_relay.c: the command of this id, or NULL; "" is none's. */
struct kelpie_relay_exec *kelpie__relay_find(const struct kelpie_relay *relay, const char *id);

/* exec_relay.c: whether a command may be started or asked about now. Errors: STATE. */
KELPIE_MUST_CHECK int kelpie__relay_check_running(const struct kelpie_relay *relay,
                                                  const char *operation,
                                                  struct kelpie_error *error);

void kelpie__relay_check(const struct kelpie_relay *relay);

/* exec_relay.c: unlinks and frees. */
void kelpie__exec_free(struct kelpie_relay_exec *exec);

/* exec_relay.c: asks the guest to kill it and all it started. */
void kelpie__exec_kill(struct kelpie_relay_exec *exec);

#endif
