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
#include "core/json.h"
#include "core/loop.h"
#include "os/os.h"

#define KELPIE_QMP_COMMAND_COUNT_MAX 4u
#define KELPIE_QMP_REASON_BYTES_MAX 64u
#define KELPIE_QMP_VERSION_BYTES_MAX 32u
/* of one command's arguments: a path, each byte of it escaped, and the words around it */
#define KELPIE_QMP_ARGUMENT_BYTES_MAX (28u * 1024u)

struct kelpie_qmp;

enum kelpie_qmp_event_type {
    KELPIE_QMP_EVENT_STOP,
    KELPIE_QMP_EVENT_RESUME,
    KELPIE_QMP_EVENT_SHUTDOWN,
    KELPIE_QMP_EVENT_MIGRATION,
};

struct kelpie_qmp_event {
    enum kelpie_qmp_event_type type;
    /* SHUTDOWN: "guest-shutdown", "guest-reset", ...; MIGRATION: "completed", ...; else "" */
    char reason[KELPIE_QMP_REASON_BYTES_MAX];
};

struct kelpie_qmp_callbacks {
    void (*ready)(void *context); /* greeted and negotiated: commands may be sent */
    void (*event)(void *context, const struct kelpie_qmp_event *event);
    /* The conversation is over: the stream ended (KELPIE_E_CRASHED) or the peer broke a rule
     * (KELPIE_E_PROTOCOL). Comes once, after every pending command got this error. */
    void (*closed)(void *context, const struct kelpie_error *error);
};

/* `result` is what QEMU returned, NULL unless status is 0; it and `error` are borrowed during the
 * call. */
typedef void (*kelpie_qmp_answer_callback)(void *context, int status,
                                           const struct kelpie_json_value *result,
                                           const struct kelpie_error *error);

struct kelpie_qmp_command {
    const char *name;      /* a static string */
    const char *arguments; /* a JSON object, borrowed during the call; NULL: none */
    int handle;            /* passed along with it, borrowed until the answer; or NO_HANDLE */
    uint32_t timeout_ms;
};

/* Takes `stream` on success. Callbacks come from the loop only; none may destroy the object. */
KELPIE_MUST_CHECK int kelpie__qmp_create(struct kelpie_os *os, struct kelpie_loop *loop, int stream,
                                         const struct kelpie_qmp_callbacks *callbacks,
                                         void *context, struct kelpie_qmp **out,
                                         struct kelpie_error *error);

/* Sends a command. The answer comes exactly once: 0, KELPIE_E_INTERNAL (QEMU refused; its words are
 * in the message), KELPIE_E_TIMEOUT, or what `closed` says. One command with a handle can wait to
 * be sent at a time (KELPIE_E_LIMIT). */
KELPIE_MUST_CHECK int kelpie__qmp_execute(struct kelpie_qmp *qmp,
                                          const struct kelpie_qmp_command *command,
                                          kelpie_qmp_answer_callback callback, void *context,
                                          struct kelpie_error *error);

/* "7.2.22", from the greeting; "" before it, or when it says none. */
const char *kelpie__qmp_version(const struct kelpie_qmp *qmp);

/* Reads what is there, for a caller who knows that the peer has ended. May call back. */
void kelpie__qmp_drain(struct kelpie_qmp *qmp);

/* takes NULL; pending commands are dropped without an answer */
void kelpie__qmp_destroy(struct kelpie_qmp *qmp);

#endif
