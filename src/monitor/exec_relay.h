/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands in the guest, on behalf of clients: matches a client's channel with one of the guest's,
 * moves the bytes of their four streams under credit in both directions, keeps what a client that
 * is away has not read, and delivers each command's end exactly once. Neither side is believed: a
 * guest that breaks a rule costs its VM, a client its connection.
 */
#ifndef KELPIE_MONITOR_EXEC_RELAY_H
#define KELPIE_MONITOR_EXEC_RELAY_H

#include "core/error.h"
#include "core/limits.h"
#include "core/ring_pool.h"
#include "monitor/reply.h"

struct kelpie_guest;
struct kelpie_relay_exec;

#define KELPIE_RELAY_SLOT_COUNT (KELPIE_EXEC_COUNT_MAX + KELPIE_EXEC_FINISHED_MAX)

#define KELPIE_RELAY_SPARE_EXECS 8u

/* What ended commands have left for the next ones, so that those allocate nothing. */
struct kelpie_relay_spares {
    struct kelpie_os *os; /* borrowed: until deinit */
    struct kelpie_ring_pool rings;
    uint32_t exec_count;
    struct kelpie_relay_exec *execs[KELPIE_RELAY_SPARE_EXECS]; /* owned */
};

struct kelpie_relay {
    struct kelpie_monitor *monitor;                           /* borrowed: for ever */
    struct kelpie_guest *guest;                               /* borrowed: for ever */
    struct kelpie_relay_exec *execs[KELPIE_RELAY_SLOT_COUNT]; /* owned; NULL: free */
    uint32_t live_count;                                      /* started and not ended */
    uint32_t finished_count;     /* ended, and the end not delivered yet */
    uint32_t guest_channel_last; /* of this connection to the guest */
    uint64_t order_next;
    bool is_frozen;          /* the guest stands still */
    uint32_t adopting_count; /* exec.attach that a restored guest has not answered */
};

void kelpie__relay_spares_init(struct kelpie_relay_spares *spares, struct kelpie_os *os);
void kelpie__relay_spares_deinit(struct kelpie_relay_spares *spares); /* after all relays */

void kelpie__relay_init(struct kelpie_relay *relay, struct kelpie_monitor *monitor,
                        struct kelpie_guest *guest);

/* Takes over all commands of another relay, whose guest took the place of this one's. Nothing lives
 * here any more; what has ended and was not told yet stays for its clients. */
void kelpie__relay_take(struct kelpie_relay *relay, struct kelpie_relay *from);

/* A boot: channels begin anew, nothing lives. Finished commands of the boot before are still there
 * for their clients. */
void kelpie__relay_begin(struct kelpie_relay *relay);

/* A restored guest: takes in the commands that its answer to hello lists, then, when it is set up,
 * attaches to all of them; kelpie__guest_adopted is told. They are kept for clients to attach to.
 * Errors: PROTOCOL, MEMORY. */
KELPIE_MUST_CHECK int kelpie__relay_adopt_list(struct kelpie_relay *relay, const char *result,
                                               size_t length, struct kelpie_error *error);
void kelpie__relay_adopt(struct kelpie_relay *relay);
/* The greeting failed: they are the guest's alone again. */
void kelpie__relay_forget_adopted(struct kelpie_relay *relay);

/* Nothing runs in the guest any more: everything that lived ends with this error, at once. */
void kelpie__relay_fail_all(struct kelpie_relay *relay, const struct kelpie_error *why);

/* Frees all, without a word to anybody. */
void kelpie__relay_deinit(struct kelpie_relay *relay);

/* The guest stands still, or runs again: its commands' timeouts count while it runs only. May be
 * repeated. */
void kelpie__relay_freeze(struct kelpie_relay *relay, bool is_frozen);

uint32_t kelpie__relay_live_count(const struct kelpie_relay *relay);

/* Requests of clients. `params` is a JSON object. */
void kelpie__relay_start(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                         size_t length);
void kelpie__relay_attach(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                          size_t length);
void kelpie__relay_detach(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                          size_t length);
void kelpie__relay_list(struct kelpie_relay *relay, struct kelpie_reply reply);
/* exec.signal, exec.resize, exec.kill: passed on as they are. */
void kelpie__relay_control(struct kelpie_relay *relay, struct kelpie_reply reply,
                           const char *method, const char *params, size_t length);
/* The client no longer wants the answer of its exec.start. */
void kelpie__relay_cancel(struct kelpie_relay *relay, uint64_t client, uint64_t request);

/* What clients' connections bring. */
void kelpie__relay_client_data(struct kelpie_relay *relay, uint64_t client, uint32_t stream,
                               uint64_t offset, const void *bytes, size_t count, bool is_end);
void kelpie__relay_client_credit(struct kelpie_relay *relay, uint64_t client, uint32_t stream,
                                 uint64_t acknowledged, uint64_t limit);
void kelpie__relay_client_stop(struct kelpie_relay *relay, uint64_t client, uint32_t stream);
void kelpie__relay_client_drained(struct kelpie_relay *relay, uint64_t client);
void kelpie__relay_client_gone(struct kelpie_relay *relay, uint64_t client);

/* What the guest's connection brings. A broken rule ends that connection, and with it the VM. */
void kelpie__relay_guest_data(struct kelpie_relay *relay, uint32_t stream, uint64_t offset,
                              const void *bytes, size_t count, bool is_end);
void kelpie__relay_guest_credit(struct kelpie_relay *relay, uint32_t stream, uint64_t acknowledged,
                                uint64_t limit);
void kelpie__relay_guest_stop(struct kelpie_relay *relay, uint32_t stream);
void kelpie__relay_guest_drained(struct kelpie_relay *relay);
void kelpie__relay_guest_exit(struct kelpie_relay *relay, const char *params, size_t length);

#endif
