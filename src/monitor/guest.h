/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The connection to the guest's agent: waits for its `ready`, checks its clock, says hello in a new
 * epoch, sets the guest up, and then carries requests and streams. What comes from it is hostile
 * until proved otherwise.
 */
#ifndef KELPIE_MONITOR_GUEST_H
#define KELPIE_MONITOR_GUEST_H

#include "core/error.h"
#include "core/limits.h"
#include "monitor/reply.h"
#include "vmm/vmm.h"

struct kelpie_guest_query;
struct kelpie_relay;
struct kelpie_wire;

#define KELPIE_GUEST_HELLO_BYTES_MAX 256u
#define KELPIE_GUEST_SETUP_BYTES_MAX 2048u
/* Host name of a guest of which a template is made, before it is anybody's. */
#define KELPIE_GUEST_NEUTRAL_NAME "kelpie"
#define KELPIE_GUEST_RULE_HELLO "R21: hello was answered with another epoch or version"

enum kelpie_guest_phase {
    KELPIE_GUEST_NONE,
    KELPIE_GUEST_WAITING,    /* for `ready` */
    KELPIE_GUEST_GREETING,   /* hello was sent */
    KELPIE_GUEST_SETTING_UP, /* setup was sent */
    /* the first look at its clock was not good: a second, over a longer time */
    KELPIE_GUEST_TIMING,
    KELPIE_GUEST_LIVE,
    /* One that was saved, and goes on in another VM: */
    KELPIE_GUEST_RESTORED,    /* nothing was said to it yet */
    KELPIE_GUEST_REGREETING,  /* hello was sent; what comes before its answer is of another time */
    KELPIE_GUEST_IDENTIFYING, /* setup was sent */
    KELPIE_GUEST_ADOPTING,    /* its commands are being attached to */
    KELPIE_GUEST_CLOSED,
};

/* What a saved guest keeps in its memory, and whoever wakes it has to know. */
struct kelpie_guest_continuity {
    char mark[2 * KELPIE_MARK_BYTES + 1]; /* hexadecimal */
    char token[2 * KELPIE_TOKEN_BYTES + 1];
};

enum kelpie_guest_quiet {
    KELPIE_GUEST_HEARD,     /* as ever */
    KELPIE_GUEST_QUIESCING, /* it was asked to be quiet */
    KELPIE_GUEST_IS_QUIET,  /* nothing is under way in either direction */
};

/* NULL: it is done. Called once. */
typedef void (*kelpie_guest_done_callback)(void *context, const struct kelpie_error *error);

struct kelpie_guest {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    struct kelpie_relay *relay;     /* borrowed: for ever; its commands */
    struct kelpie_wire *wire;       /* owned; NULL in None */
    enum kelpie_guest_phase phase;
    uint32_t share_next; /* of the configuration's shares: the guest has those before */
    bool is_clock_doubtful;
    bool has_said_goodbye;
    struct kelpie_vmm_guest_clock clock;
    /* owned: requests of clients that the guest has not answered */
    struct kelpie_guest_query *queries;
    char epoch[2 * KELPIE_EPOCH_BYTES + 1];
    enum kelpie_guest_quiet quiet;
    struct kelpie_guest_continuity continuity; /* while it is not heard, or was restored */
    kelpie_guest_done_callback done;           /* of a quiesce or greeting; NULL: none */
    void *done_context;
    uint64_t call;        /* of it, to the guest; 0: none */
    uint64_t setup_call;  /* of a greeting; 0: none */
    int64_t deadline_ns;  /* of a greeting */
    uint32_t hello_count; /* of a greeting */
};

void kelpie__guest_init(struct kelpie_guest *guest, struct kelpie_monitor *monitor,
                        struct kelpie_relay *relay);

/* A boot: takes the stream on success. What follows is told to the lifecycle. */
KELPIE_MUST_CHECK int kelpie__guest_attach(struct kelpie_guest *guest, int stream,
                                           struct kelpie_error *error);

/* The VMM is gone: requests that were passed on are refused with `why`. Commands are the relay's to
 * end. */
void kelpie__guest_detach(struct kelpie_guest *guest, const struct kelpie_error *why);

/* The open connection of a guest that is live or being set up; else NULL. */
struct kelpie_wire *kelpie__guest_wire(const struct kelpie_guest *guest);

/* The guest broke this rule ("R22: text"): its VM will be ended, and the error names the rule. */
void kelpie__guest_break(struct kelpie_guest *guest, const char *rule);

/* ---- guest_across.c: a guest that is saved --------------------------------------------------- */

/* Asks a live guest to be quiet, within 1,000 ms. From now on nothing leaves towards it: what is
 * given to the connection waits. Success: nothing is under way in either direction, and what the
 * guest is saved with is in `continuity`. On failure everything goes on. Errors of the call: STATE,
 * BUSY, LIMIT, IO; it then does not call back. */
KELPIE_MUST_CHECK int kelpie__guest_quiesce(struct kelpie_guest *guest,
                                            kelpie_guest_done_callback callback, void *context,
                                            struct kelpie_error *error);

/* Asks a live guest to write to its disks what it has for them, within 1,000 ms; it runs on, and
 * all else goes on. As above. */
KELPIE_MUST_CHECK int kelpie__guest_sync(struct kelpie_guest *guest,
                                         kelpie_guest_done_callback callback, void *context,
                                         struct kelpie_error *error);
/* One that is under way is given up, without its callback. */
void kelpie__guest_stop_sync(struct kelpie_guest *guest);

/* The mark, then all that waits. A quiesce that is under way is given up, without its callback;
 * without effect on a guest that is heard. */
void kelpie__guest_unquiesce(struct kelpie_guest *guest);

/* A VM that was made from a saved state: takes the stream on success. Nothing is said yet, so that
 * it may be paused; kelpie__guest_greet follows when it runs. */
KELPIE_MUST_CHECK int kelpie__guest_attach_restored(
    struct kelpie_guest *guest, int stream, const struct kelpie_guest_continuity *continuity,
    struct kelpie_error *error);

/* Restored, and running: the mark, hello in a new epoch, the token compared, the new identity (wall
 * clock, entropy, host name, machine id), its commands attached to; then it is live. All within
 * KELPIE_RESUME_TIMEOUT_MS. On failure (RESTORE: it is not the guest that was saved) it is Restored
 * again, and may be greeted again; a greeting that cannot be sent calls back at once. */
void kelpie__guest_greet(struct kelpie_guest *guest, kelpie_guest_done_callback callback,
                         void *context);

/* The guest `from`, live, takes the place of this one, which is detached. */
void kelpie__guest_take(struct kelpie_guest *guest, struct kelpie_guest *from);

/* A greeting that is under way is given up, without its callback; else without effect. */
void kelpie__guest_stop_greeting(struct kelpie_guest *guest);

/* For the two files of the guest: */

/* Draws an epoch and writes the parameters of hello. Errors: the system's, as IO. */
KELPIE_MUST_CHECK int kelpie__guest_write_hello(struct kelpie_guest *guest, char *out,
                                                size_t capacity, struct kelpie_error *error);
/* Whether the answer to hello is of this epoch and of a version that was asked for. */
bool kelpie__guest_is_greeted(const struct kelpie_guest *guest, const char *result, size_t length);
/* The parameters of setup: those of a boot, or only what makes a guest this VM. A boot that leaves
 * a template brings up a guest that is nobody's. */
KELPIE_MUST_CHECK int kelpie__guest_write_setup(const struct kelpie_guest *guest, bool is_boot,
                                                char *out, size_t capacity,
                                                struct kelpie_error *error);
/* Those for a guest that knows who it is: wall clock and randomness. */
KELPIE_MUST_CHECK int kelpie__guest_write_refresh(const struct kelpie_guest *guest, char *out,
                                                  size_t capacity, struct kelpie_error *error);
/* The connection, in this phase: takes the stream on success. */
KELPIE_MUST_CHECK int kelpie__guest_open(struct kelpie_guest *guest, int stream,
                                         enum kelpie_guest_phase phase, struct kelpie_error *error);
/* `ready` of a restored guest: its agent took up the connection anew. */
void kelpie__guest_ready_again(struct kelpie_guest *guest);
/* All commands of a restored guest are attached to, or the first of them could not be. */
void kelpie__guest_adopted(struct kelpie_guest *guest, const struct kelpie_error *error);
/* The connection is going: whoever waits for a quiesce or greeting is told. */
void kelpie__guest_give_up(struct kelpie_guest *guest, const struct kelpie_error *why);

/* ---- requests on behalf of clients ----------------------------------------------------------- */

/* What the guest answered for a client, or the error. Called once; `reply` is to be answered. */
typedef void (*kelpie_guest_answer_callback)(struct kelpie_monitor *monitor,
                                             struct kelpie_reply *reply, int64_t took_ns,
                                             const struct kelpie_error *error, const char *result,
                                             size_t length);

/* Asks the guest on behalf of a client. The VM's end answers too. */
void kelpie__guest_query(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                         const char *method, const char *params, uint64_t timeout_ms,
                         kelpie_guest_answer_callback callback);

/* Passes a client's request on, and the answer back. */
void kelpie__guest_forward(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                           const char *method, const char *params);

#endif
