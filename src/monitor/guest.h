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
struct kelpie_wire;

enum kelpie_guest_phase {
    KELPIE_GUEST_NONE,
    KELPIE_GUEST_WAITING,    /* for `ready` */
    KELPIE_GUEST_GREETING,   /* hello was sent */
    KELPIE_GUEST_SETTING_UP, /* setup was sent */
    /* the first look at its clock was not good: a second, over a longer time */
    KELPIE_GUEST_TIMING,
    KELPIE_GUEST_LIVE,
    KELPIE_GUEST_CLOSED,
};

struct kelpie_guest {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    struct kelpie_wire *wire;       /* owned; NULL in None */
    enum kelpie_guest_phase phase;
    bool is_clock_doubtful;
    bool has_said_goodbye;
    struct kelpie_vmm_guest_clock clock;
    /* owned: requests of clients that the guest has not answered */
    struct kelpie_guest_query *queries;
    char epoch[2 * KELPIE_EPOCH_BYTES + 1];
};

void kelpie__guest_init(struct kelpie_guest *guest, struct kelpie_monitor *monitor);

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
