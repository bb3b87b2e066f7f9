/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Clients: accepts them, looks at who they are, answers their requests and carries their streams. A
 * client that breaks a rule loses its connection; nobody else notices.
 */
#ifndef KELPIE_MONITOR_CLIENT_H
#define KELPIE_MONITOR_CLIENT_H

#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "monitor/reply.h"

struct kelpie_client {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    struct kelpie_wire *wire;       /* owned; NULL: a free place */
    uint64_t serial;                /* never used again */
    uint32_t channel_last;
    int32_t pid;   /* of the process that connected; 0: the one that started this monitor */
    bool is_owner; /* the connection with which an owned VM lives and dies */
    bool is_subscribed;
    bool has_said_hello;
};

struct kelpie_clients {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    int listener;                   /* owned */
    uint32_t listener_watch;
    bool is_listening;              /* else: door_timer is armed, or it is the end */
    struct kelpie_timer door_timer; /* while there is no handle for who waits */
    bool is_silent;
    uint32_t count;
    uint64_t serial_next;
    struct kelpie_client places[KELPIE_CLIENT_COUNT_MAX];
};

/* Takes the listener and the first connection, which may be KELPIE_OS_NO_HANDLE. */
KELPIE_MUST_CHECK int kelpie__clients_init(struct kelpie_clients *clients,
                                           struct kelpie_monitor *monitor, int listener,
                                           int first_connection, struct kelpie_error *error);

/* Takes one waiting connection, if there is one: before the monitor gives up its name. */
void kelpie__clients_accept(struct kelpie_clients *clients);

/* Whether the VM lives and dies with this client's connection. NOT_FOUND: it is gone. */
KELPIE_MUST_CHECK int kelpie__client_set_owner(struct kelpie_monitor *monitor, uint64_t client,
                                               bool is_owner, struct kelpie_error *error);
bool kelpie__client_is_owner(struct kelpie_monitor *monitor, uint64_t client);

/* Sends an event to all who subscribed. */
void kelpie__clients_publish(struct kelpie_clients *clients, const char *event);

/* While silent, nobody hears anything: what is said waits. Holds for who comes meanwhile, too. */
void kelpie__clients_silence(struct kelpie_clients *clients, bool is_silent);

/* Says goodbye to all, and closes everything. */
void kelpie__clients_deinit(struct kelpie_clients *clients, const char *reason);

/* The last channel that this client opened; UINT32_MAX when it is gone. */
uint32_t kelpie__client_channel_last(struct kelpie_monitor *monitor, uint64_t client);

/* Channels rise and are never used again. Errors: MISUSE. */
KELPIE_MUST_CHECK int kelpie__client_open_channel(struct kelpie_monitor *monitor, uint64_t client,
                                                  uint64_t channel, struct kelpie_error *error);

/* ---- client_methods.c ------------------------------------------------------------------------ */

/* A request, which is answered now or later; UNSUPPORTED when there is no such method. */
void kelpie__client_serve(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *method, const char *params, size_t length);
/* The client no longer wants the answer to this one. */
void kelpie__client_cancel_request(struct kelpie_client *client, uint64_t request);

#endif
