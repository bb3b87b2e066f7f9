/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One QMP conversation over a stream that QEMU inherited. Knows the protocol as QEMU 7.2 really
 * speaks it (findings.md, "QMP as QEMU really behaves") and a handful of commands; knows nothing of
 * processes. The peer is QEMU, which a guest may have taken over: every byte is checked, and a
 * broken rule ends the conversation.
 *
 * What it takes care of: the greeting comes by itself, before it nothing is sent; events may come
 * before the answer that they belong to; answers are matched by id, a late one is dropped; one that
 * nobody asked for is counted, and too many of them end it; texts arrive in pieces; what is sent is
 * one complete text, because a torn one would wedge QEMU.
 */
#ifndef KELPIE_VMM_QEMU_QMP_H
#define KELPIE_VMM_QEMU_QMP_H

#include "core/error.h"
#include "core/loop.h"
#include "os/os.h"

#define KELPIE_QMP_COMMAND_COUNT_MAX 4u
#define KELPIE_QMP_REASON_BYTES_MAX 64u

struct kelpie_qmp;

enum kelpie_qmp_event_type {
    KELPIE_QMP_EVENT_STOP,
    KELPIE_QMP_EVENT_RESUME,
    KELPIE_QMP_EVENT_SHUTDOWN,
};

struct kelpie_qmp_event {
    enum kelpie_qmp_event_type type;
    /* SHUTDOWN: "guest-shutdown", "guest-reset", ...; else "" */
    char reason[KELPIE_QMP_REASON_BYTES_MAX];
};

struct kelpie_qmp_callbacks {
    void (*ready)(void *context); /* greeted and negotiated: commands may be sent */
    void (*event)(void *context, const struct kelpie_qmp_event *event);
    /* The conversation is over: the stream ended (KELPIE_E_CRASHED) or the peer broke a rule
     * (KELPIE_E_PROTOCOL). Comes once, after every pending command got this error. */
    void (*closed)(void *context, const struct kelpie_error *error);
};

typedef void (*kelpie_qmp_answer_callback)(void *context, int status,
                                           const struct kelpie_error *error);

/* Takes `stream` on success. Callbacks come from the loop only; none may destroy the object. */
KELPIE_MUST_CHECK int kelpie__qmp_create(struct kelpie_os *os, struct kelpie_loop *loop, int stream,
                                         const struct kelpie_qmp_callbacks *callbacks,
                                         void *context, struct kelpie_qmp **out,
                                         struct kelpie_error *error);

/* Sends a command without arguments, `command` being a static string. The answer comes exactly
 * once: 0, KELPIE_E_INTERNAL (QEMU refused; its words are in the message), KELPIE_E_TIMEOUT, or
 * what `closed` says. */
KELPIE_MUST_CHECK int kelpie__qmp_execute(struct kelpie_qmp *qmp, const char *command,
                                          uint32_t timeout_ms, kelpie_qmp_answer_callback callback,
                                          void *context, struct kelpie_error *error);

/* Reads what is there, for a caller who knows that the peer has ended. May call back. */
void kelpie__qmp_drain(struct kelpie_qmp *qmp);

/* takes NULL; pending commands are dropped without an answer */
void kelpie__qmp_destroy(struct kelpie_qmp *qmp);

#endif
