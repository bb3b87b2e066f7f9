/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Clients: see client.h. What they ask for is client_methods.c's.
 */
#include "monitor/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* For so long the door stays shut when this process has no handle left for who waits at it. */
#define CLIENT_DOOR_SHUT_NS (100 * KELPIE_NS_PER_MS)

static void clients_check(const struct kelpie_clients *clients) {
    KELPIE_ASSERT(clients->count <= KELPIE_CLIENT_COUNT_MAX);
    KELPIE_ASSERT(clients->serial_next > 0);
}

static struct kelpie_client *client_of(void *context) {
    struct kelpie_client *client = context;
    const struct kelpie_clients *clients = &client->monitor->clients;
    KELPIE_ASSERT(client->wire != NULL);
    KELPIE_ASSERT(client->serial != 0);
    KELPIE_ASSERT(client->serial < clients->serial_next);
    KELPIE_ASSERT(clients->count > 0);
    return client;
}

static struct kelpie_client *client_find(struct kelpie_monitor *monitor, uint64_t serial) {
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX && serial != 0; i += 1) {
        struct kelpie_client *client = &monitor->clients.places[i];
        if (client->wire != NULL && client->serial == serial) {
            return client;
        }
    }
    return NULL;
}

struct kelpie_wire *kelpie__client_wire(struct kelpie_monitor *monitor, uint64_t client) {
    struct kelpie_client *found = client_find(monitor, client);
    return found != NULL && !kelpie__wire_is_closed(found->wire) ? found->wire : NULL;
}

uint32_t kelpie__client_channel_last(struct kelpie_monitor *monitor, uint64_t client) {
    const struct kelpie_client *found = client_find(monitor, client);
    return found != NULL ? found->channel_last : UINT32_MAX;
}

int kelpie__client_open_channel(struct kelpie_monitor *monitor, uint64_t client, uint64_t channel,
                                struct kelpie_error *error) {
    struct kelpie_client *found = client_find(monitor, client);
    KELPIE_ASSERT(found != NULL);
    if (channel <= found->channel_last || channel > KELPIE_CHANNEL_MAX) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "channel %llu is not above the last one, %u, and at most %u",
                            (unsigned long long)channel, found->channel_last, KELPIE_CHANNEL_MAX);
    }
    found->channel_last = (uint32_t)channel;
    return 0;
}

bool kelpie__client_is_owner(struct kelpie_monitor *monitor, uint64_t client) {
    const struct kelpie_client *found = client_find(monitor, client);
    return found != NULL && found->is_owner;
}

int kelpie__client_set_owner(struct kelpie_monitor *monitor, uint64_t client, bool is_owner,
                             struct kelpie_error *error) {
    struct kelpie_client *found = client_find(monitor, client);
    KELPIE_ASSERT(found != NULL);
    KELPIE_ASSERT(found->is_owner != is_owner);
    if (!is_owner) {
        found->is_owner = false;
        kelpie__monitor_drop_owner(monitor);
        return 0;
    }
    int owner = found->pid == 0 ? -ESRCH : kelpie__os_open_process(monitor->os, found->pid);
    if (owner < 0) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, -owner, "open a handle of the owner");
    }
    int status = kelpie__monitor_set_owner(monitor, owner, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, owner));
        return status;
    }
    found->is_owner = true;
    return 0;
}

/* ---- answers --------------------------------------------------------------------------------- */

void kelpie__reply_result(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                          const char *result) {
    KELPIE_ASSERT(result[0] == '{');
    struct kelpie_wire *wire = kelpie__client_wire(monitor, reply->client);
    if (wire != NULL) {
        kelpie__wire_result(wire, reply->request, result);
    }
    *reply = (struct kelpie_reply){0};
}

void kelpie__reply_refuse(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                          const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    struct kelpie_wire *wire = kelpie__client_wire(monitor, reply->client);
    if (wire != NULL) {
        kelpie__wire_refuse(wire, reply->request, why);
    }
    *reply = (struct kelpie_reply){0};
}

void kelpie__reply_refuse_text(struct kelpie_monitor *monitor, struct kelpie_reply *reply, int code,
                               const char *format, ...) {
    struct kelpie_error error = {0};
    char text[512];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    KELPIE_ASSERT(length > 0); /* a cut text is still good for people */
    kelpie__ignore(kelpie__fail(&error, code, 0, "%s", text));
    kelpie__reply_refuse(monitor, reply, &error);
}

/* ---- the connection -------------------------------------------------------------------------- */

static void client_on_request(void *context, uint64_t id, const char *method, const char *params,
                              size_t length) {
    struct kelpie_client *client = client_of(context);
    struct kelpie_reply reply = {.client = client->serial, .request = id};
    bool is_hello = strcmp(method, "hello") == 0;
    if (is_hello == client->has_said_hello) {
        kelpie__wire_break(client->wire, "R21", "hello comes first and once, not \"%s\"", method);
        return;
    }
    if (kelpie__member_refuses(client->monitor, &reply, method)) {
        return;
    }
    kelpie__client_serve(client, reply, method, params, length);
}

static void client_on_notification(void *context, const char *method, const char *params,
                                   size_t length) {
    struct kelpie_client *client = client_of(context);
    uint64_t request = 0;
    if (strcmp(method, "cancel") == 0 &&
        kelpie__json_find_u64(params, length, "request", &request) == 0) {
        kelpie__client_cancel_request(client, request);
    }
    /* Others, goodbye among them, change nothing: the end of the connection does. */
}

static void client_on_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                           size_t count, bool is_end) {
    struct kelpie_client *client = client_of(context);
    kelpie__relay_client_data(&client->monitor->relay, client->serial, stream, offset, bytes, count,
                              is_end);
}

static void client_on_credit(void *context, uint32_t stream, uint64_t acknowledged,
                             uint64_t limit) {
    struct kelpie_client *client = client_of(context);
    kelpie__relay_client_credit(&client->monitor->relay, client->serial, stream, acknowledged,
                                limit);
}

static void client_on_stop(void *context, uint32_t stream) {
    struct kelpie_client *client = client_of(context);
    kelpie__relay_client_stop(&client->monitor->relay, client->serial, stream);
}

static void client_on_drained(void *context) {
    struct kelpie_client *client = client_of(context);
    kelpie__relay_client_drained(&client->monitor->relay, client->serial);
}

static void client_on_closed(void *context, const struct kelpie_error *error) {
    struct kelpie_client *client = client_of(context);
    struct kelpie_monitor *monitor = client->monitor;
    struct kelpie_wire *wire = client->wire;
    uint64_t serial = client->serial;
    bool is_owner = client->is_owner;
    if (error->code == KELPIE_E_PROTOCOL) {
        kelpie__event_log_write(monitor, "notice", "a client was cut off: %s", error->message);
    }
    *client = (struct kelpie_client){.monitor = monitor};
    KELPIE_ASSERT(monitor->clients.count > 0);
    monitor->clients.count -= 1;
    kelpie__wire_destroy(wire);
    kelpie__relay_client_gone(&monitor->relay, serial);
    if (is_owner) {
        kelpie__lifecycle_owner_gone(monitor, "the connection of its owner closed");
    }
    clients_check(&monitor->clients);
}

static const struct kelpie_wire_callbacks client_callbacks = {
    .request = client_on_request,
    .notification = client_on_notification,
    .data = client_on_data,
    .credit = client_on_credit,
    .stop = client_on_stop,
    .mark = NULL,
    .drained = client_on_drained,
    .closed = client_on_closed,
};

/* ---- coming and going ------------------------------------------------------------------------ */

/* Takes the stream in any case: a client that cannot be served is closed. */
static int clients_add(struct kelpie_clients *clients, int stream, int32_t pid, bool is_owner,
                       struct kelpie_error *error) {
    struct kelpie_monitor *monitor = clients->monitor;
    struct kelpie_client *client = NULL;
    clients_check(clients);
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX && client == NULL; i += 1) {
        if (clients->places[i].wire == NULL) {
            client = &clients->places[i];
        }
    }
    if (client == NULL) {
        kelpie__ignore(kelpie__os_close(monitor->os, stream)); /* it has nothing of ours */
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%u clients are connected, at most %u",
                            clients->count, KELPIE_CLIENT_COUNT_MAX);
    }
    kelpie__os_label(monitor->os, stream, "client");
    struct kelpie_wire_create create = {
        .os = monitor->os,
        .loop = monitor->loop,
        .handle = stream,
        .owns_handle = true,
        .callbacks = &client_callbacks,
        .context = client,
        .peer = "the client",
    };
    struct kelpie_wire *wire = NULL;
    int status = kelpie__wire_create(&create, &wire, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, stream)); /* it has nothing of ours */
        return status;
    }
    *client = (struct kelpie_client){.monitor = monitor,
                                     .wire = wire,
                                     .serial = clients->serial_next,
                                     .pid = pid,
                                     .is_owner = is_owner};
    clients->serial_next += 1;
    clients->count += 1;
    kelpie__wire_silence(wire, clients->is_silent);
    clients_check(clients);
    return 0;
}

/* Serves the own user and root, nobody else: a directory's mode may have been widened by somebody.
 */
static bool clients_may_connect(const struct kelpie_clients *clients, int stream,
                                int32_t *out_pid) {
    struct kelpie_os_peer peer = {0};
    KELPIE_ASSERT(stream >= 0);
    if (kelpie__os_peer(clients->monitor->os, stream, &peer) < 0) {
        return false;
    }
    *out_pid = peer.pid;
    return peer.uid == 0 || peer.uid == clients->monitor->identity.uid;
}

static void clients_ready(void *context, uint32_t bits);

static void clients_open_door(void *context) {
    struct kelpie_clients *clients = context;
    struct kelpie_loop *loop = clients->monitor->loop;
    KELPIE_ASSERT(!clients->is_listening);
    clients->is_listening =
        kelpie__loop_watch(loop, clients->listener, KELPIE_OS_READABLE, clients_ready, clients,
                           &clients->listener_watch) == 0;
    if (!clients->is_listening) { /* the kernel has no memory */
        kelpie__timer_arm(loop, &clients->door_timer, loop->now_ns + CLIENT_DOOR_SHUT_NS,
                          clients_open_door, clients);
    }
}

/* One who waits and cannot be let in keeps the listener readable: watching it on would be a loop
 * without a rest. The kernel keeps who waits. */
static void clients_shut_door(struct kelpie_clients *clients) {
    struct kelpie_loop *loop = clients->monitor->loop;
    KELPIE_ASSERT(clients->is_listening);
    KELPIE_REACHED(clients->monitor->os, "a monitor had no handle for a client");
    kelpie__loop_unwatch(loop, clients->listener_watch);
    clients->is_listening = false;
    kelpie__timer_arm(loop, &clients->door_timer, loop->now_ns + CLIENT_DOOR_SHUT_NS,
                      clients_open_door, clients);
}

void kelpie__clients_accept(struct kelpie_clients *clients) {
    struct kelpie_monitor *monitor = clients->monitor;
    struct kelpie_error error = {0};
    clients_check(clients);
    int stream = kelpie__os_accept(monitor->os, clients->listener);
    if (stream < 0) {
        bool is_gone = stream == -EAGAIN || stream == -ECONNABORTED; /* or never was there */
        if (!is_gone && clients->is_listening) {
            clients_shut_door(clients);
        }
        return;
    }
    int32_t pid = 0;
    if (!clients_may_connect(clients, stream, &pid)) {
        kelpie__ignore(kelpie__os_close(monitor->os, stream)); /* it has nothing of ours */
        kelpie__event_log_write(monitor, "notice", "a client of another user was refused");
        return;
    }
    if (clients_add(clients, stream, pid, false, &error) < 0) {
        kelpie__event_log_write(monitor, "notice", "a client was refused: %s", error.message);
    }
}

static void clients_ready(void *context, uint32_t bits) {
    struct kelpie_clients *clients = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(clients->is_listening);
    kelpie__clients_accept(clients); /* level-triggered: the next one comes next step */
}

int kelpie__clients_init(struct kelpie_clients *clients, struct kelpie_monitor *monitor,
                         int listener, int first_connection, struct kelpie_error *error) {
    clients->monitor = monitor;
    clients->listener = listener;
    clients->serial_next = 1;
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX; i += 1) {
        clients->places[i].monitor = monitor;
    }
    int status = kelpie__loop_watch(monitor->loop, listener, KELPIE_OS_READABLE, clients_ready,
                                    clients, &clients->listener_watch);
    if (status < 0) {
        return kelpie__fail(error, status, 0, "watch the monitor's socket");
    }
    clients->is_listening = true;
    if (first_connection != KELPIE_OS_NO_HANDLE) {
        bool is_owned = monitor->config.lifetime == KELPIE_LIFETIME_OWNED;
        return clients_add(clients, first_connection, 0, is_owned, error);
    }
    clients_check(clients);
    return 0;
}

void kelpie__clients_publish(struct kelpie_clients *clients, const char *event) {
    KELPIE_ASSERT(event[0] == '{');
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX; i += 1) {
        struct kelpie_client *client = &clients->places[i];
        if (client->wire != NULL && client->is_subscribed &&
            !kelpie__wire_is_closed(client->wire)) {
            /* One that does not read loses events, nothing else: the log has them. */
            kelpie__ignore(kelpie__wire_notify(client->wire, "event", event));
        }
    }
}

void kelpie__clients_silence(struct kelpie_clients *clients, bool is_silent) {
    clients_check(clients);
    clients->is_silent = is_silent;
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX; i += 1) {
        if (clients->places[i].wire != NULL) {
            kelpie__wire_silence(clients->places[i].wire, is_silent);
        }
    }
}

void kelpie__clients_deinit(struct kelpie_clients *clients, const char *reason) {
    struct kelpie_monitor *monitor = clients->monitor;
    char params[128];
    bool is_whole = kelpie__text_format(params, sizeof(params), "{\"reason\":\"%s\"}", reason);
    KELPIE_ASSERT(is_whole);
    for (uint32_t i = 0; i < KELPIE_CLIENT_COUNT_MAX; i += 1) {
        struct kelpie_client *client = &clients->places[i];
        if (client->wire != NULL) {
            struct kelpie_wire *wire = client->wire;
            kelpie__ignore(kelpie__wire_notify(wire, "goodbye", params)); /* a courtesy */
            client->wire = NULL;
            kelpie__wire_destroy(wire);
        }
    }
    clients->count = 0;
    kelpie__timer_disarm(monitor->loop, &clients->door_timer);
    if (clients->is_listening) {
        kelpie__loop_unwatch(monitor->loop, clients->listener_watch);
        clients->is_listening = false;
    }
    kelpie__ignore(kelpie__os_close(monitor->os, clients->listener)); /* nobody waits there */
}
