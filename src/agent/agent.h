/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest agent: process 1 of a guest, at the far end of one byte stream. It trusts nobody: what
 * the peer sends is checked, what commands do is survived, and whatever happens, process 1 does not
 * end.
 *
 * agent.c has the life of the process, connection.c one peer after another, request.c what they may
 * ask, exec*.c the commands, boot.c and root.c what a kernel that has just started needs.
 */
#ifndef KELPIE_AGENT_AGENT_H
#define KELPIE_AGENT_AGENT_H

#include "agent/exec.h"
#include "agent/group.h"
#include "agent/ready.h"
#include "agent/sync.h"
#include "core/base.h"
#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "os/os.h"
#include "wire/wire.h"

#define KELPIE_AGENT_EPOCH_BYTES (2 * KELPIE_EPOCH_BYTES + 1) /* hexadecimal digits and a NUL */
#define KELPIE_AGENT_TOKEN_BYTES (2 * KELPIE_TOKEN_BYTES + 1)

enum kelpie_agent_phase {
    KELPIE_AGENT_SEARCHING, /* for the port */
    KELPIE_AGENT_WAITING,   /* for hello */
    KELPIE_AGENT_GREETED,
    /* until the peer's mark: nothing is sent, everything else is thrown away */
    KELPIE_AGENT_QUIESCED,
    KELPIE_AGENT_STOPPING,
    KELPIE_AGENT_STOPPED,
};

/* The processor's counter and the monotonic clock at one moment: the host compares two of them with
 * its own. */
struct kelpie_agent_clock_sample {
    uint64_t cycles;
    int64_t monotonic_ns;
};

struct kelpie_agent {
    struct kelpie_os *os;     /* borrowed: always */
    struct kelpie_loop *loop; /* owned */
    struct kelpie_wire *wire; /* owned; NULL between connections */
    int port;    /* owned; opened once and kept: libkrun ends when a port is opened twice */
    int signals; /* owned */
    uint32_t signals_slot;
    uint32_t dial_slot;
    bool is_dialling; /* the port is not connected yet */
    bool is_dialled;  /* over vsock, once for each boot; false: a port that is opened */
    bool is_guest;    /* false: a test on a host, without mounts and power */
    bool is_set_up;
    bool was_kill_sent; /* of the shutdown */
    bool is_leaving;    /* likewise: nobody is left, and the peer is to say that it knows */
    enum kelpie_agent_phase phase;
    struct kelpie_agent_clock_sample start;
    struct kelpie_error boot_error; /* code 0: none; the peer is told */
    uint32_t attempt_count;         /* looks for the port, or connections that nobody greeted */
    struct kelpie_timer attempt_timer;
    struct kelpie_timer stop_timer;
    char epoch[KELPIE_AGENT_EPOCH_BYTES];
    char token[KELPIE_AGENT_TOKEN_BYTES]; /* empty: none was given */
    uint32_t last_channel;                /* of this epoch */
    struct kelpie_agent_groups groups;
    struct kelpie_agent_execs execs;
    struct kelpie_agent_sync sync;
    struct kelpie_agent_ready ready;
};

/* The program. In a guest it does not return. Arguments: none in a guest; in tests --channel-fd N
 * [--cgroup DIRECTORY]; --sync in a child of its own. */
int kelpie_agent_main(struct kelpie_os *os, int argc, char **argv);

/* --- agent.c --- */

void kelpie__agent_check(const struct kelpie_agent *agent);
struct kelpie_agent_clock_sample kelpie__agent_sample_clock(struct kelpie_agent *agent);

/* Begins the end of the guest: terminate, wait until `timeout_ms` are over, kill, sync, power off.
 */
void kelpie__agent_stop(struct kelpie_agent *agent, uint64_t timeout_ms);
/* The peer has read our last word, or has gone. */
void kelpie__agent_heard(struct kelpie_agent *agent);

/* --- dial.c --- */

/* The vsock port of the host that this guest was told to dial; 0: it has a virtio port instead. */
uint32_t kelpie__agent_dial_port(struct kelpie_os *os);
/* Begins to dial; kelpie__agent_connect follows. Refused, now or later: it is tried again. */
void kelpie__agent_dial(struct kelpie_agent *agent, uint32_t port);

/* --- connection.c --- */

/* Begins to serve whoever is, or will be, at the other end of the port. */
void kelpie__agent_connect(struct kelpie_agent *agent);
void kelpie__agent_disconnect(struct kelpie_agent *agent);

/* Whether frames of commands may be sent now. */
bool kelpie__agent_may_send(const struct kelpie_agent *agent);

/* A peer said hello: a new epoch begins, in which no command has a channel. */
void kelpie__agent_greet(struct kelpie_agent *agent, const char *epoch);

/* Nothing is sent any more, and what comes is thrown away, until this mark. */
void kelpie__agent_quiesce(struct kelpie_agent *agent, const uint8_t mark[KELPIE_MARK_BYTES]);

#endif
