/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * An owner of simulated guests for tests: the test itself is a process of the world, carries bytes
 * between a guest's port and a stream, and speaks the agent's protocol over that with the real
 * wire.
 */
#ifndef KELPIE_TESTS_SIM_GUEST_CLIENT_H
#define KELPIE_TESTS_SIM_GUEST_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/loop.h"
#include "os/os_call.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "wire/wire.h"

#define CLIENT_CHANNEL_MAX 64
#define CLIENT_OUTPUT_BYTES (4u * 1024 * 1024)
#define CLIENT_CONSOLE_BYTES (64u * 1024)
#define CLIENT_STEP_NS (30 * KELPIE_NS_PER_S)
#define CLIENT_EPOCH "000102030405060708090a0b0c0d0e0f"

struct client_output {
    char *bytes;
    uint64_t begin;
    size_t count;
    uint64_t limit;
    bool is_ended;
};

struct client {
    struct kelpie_os *os; /* of the test's process */
    struct kelpie_loop *loop;
    struct kelpie_wire *wire;
    struct sim_guest *guest;
    int events;
    uint32_t events_slot;
    int far; /* the guest's end of the stream */
    uint32_t far_slot;
    char pending[65536]; /* from the stream to the port */
    size_t pending_count;
    bool gives_credit;
    bool is_answered;
    struct kelpie_error error;
    char result[KELPIE_MESSAGE_BYTES_MAX];
    char ready[2048];
    uint32_t ready_count;
    bool has_goodbye;
    bool is_closed;
    bool has_ended;
    uint32_t last_channel;
    char console[CLIENT_CONSOLE_BYTES];
    size_t console_count;
    char *exits[CLIENT_CHANNEL_MAX];
    struct client_output outputs[CLIENT_CHANNEL_MAX][2];
    uint64_t limits[CLIENT_CHANNEL_MAX][2];
};

static inline struct sim_world *client_world(uint64_t seed) {
    const struct sim_options options = {.seed = seed, .cost_factor = 1};
    struct sim_world *world = kelpie__sim_world_create(&options, NULL);
    assert_non_null(world);
    return world;
}

static inline struct kelpie_os *client_os(struct sim_world *world) {
    struct sim_process *process = kelpie__sim_process_adopt(world, "test");
    assert_non_null(process);
    return &process->os;
}

/* ---- the wire -------------------------------------------------------------------------------- */

static inline void client_request(void *context, uint64_t id, const char *method,
                                  const char *params, size_t length) {
    fail_msg("the agent asked %p %llu \"%s\" %s %zu", context, (unsigned long long)id, method,
             params, length);
}

static inline void client_notification(void *context, const char *method, const char *params,
                                       size_t length) {
    struct client *client = context;
    if (strcmp(method, "ready") == 0) {
        client->ready_count += 1;
        snprintf(client->ready, sizeof(client->ready), "%.*s", (int)length, params);
    } else if (strcmp(method, "goodbye") == 0) {
        client->has_goodbye = true;
    } else if (strcmp(method, "exec.exit") == 0) {
        uint64_t channel = 0;
        assert_int_equal(kelpie__json_find_u64(params, length, "channel", &channel), 0);
        assert_true(channel < CLIENT_CHANNEL_MAX);
        assert_null(client->exits[channel]);
        client->exits[channel] = strndup(params, length);
        assert_true(client->outputs[channel][0].is_ended);
    }
}

static inline void client_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                               size_t count, bool is_end) {
    struct client *client = context;
    uint32_t channel = stream >> KELPIE_STREAM_KIND_BITS;
    uint32_t kind = stream & 3;
    assert_true(channel < CLIENT_CHANNEL_MAX && kind >= KELPIE_STREAM_STDOUT);
    struct client_output *output = &client->outputs[channel][kind - KELPIE_STREAM_STDOUT];
    if (output->bytes == NULL) {
        output->bytes = malloc(CLIENT_OUTPUT_BYTES);
        output->begin = offset;
        output->limit = offset + KELPIE_STREAM_CREDIT_INITIAL_BYTES;
    }
    assert_false(output->is_ended);
    assert_int_equal(offset, output->begin + output->count);
    assert_true(offset + count <= output->limit);
    assert_true(output->count + count < CLIENT_OUTPUT_BYTES);
    memcpy(output->bytes + output->count, bytes, count);
    output->count += count;
    output->bytes[output->count] = '\0';
    output->is_ended = is_end;
    uint64_t end = output->begin + output->count;
    if (client->gives_credit && !is_end && output->limit - end < 32768) {
        output->limit = end + 65536;
        assert_int_equal(kelpie__wire_credit(client->wire, stream, end, output->limit), 0);
    }
}

static inline void client_credit(void *context, uint32_t stream, uint64_t acknowledged,
                                 uint64_t limit) {
    struct client *client = context;
    assert_true(acknowledged <= limit && (stream & 3) <= KELPIE_STREAM_STDIN);
    client->limits[stream >> KELPIE_STREAM_KIND_BITS][stream & 3] = limit;
}

static inline void client_stop(void *context, uint32_t stream) {
    assert_non_null(context);
    assert_int_equal(stream & 3, KELPIE_STREAM_STDIN);
}

static inline void client_drained(void *context) {
    assert_non_null(context);
}

static inline void client_closed(void *context, const struct kelpie_error *error) {
    struct client *client = context;
    assert_true(error->code < 0);
    client->is_closed = true;
}

static const struct kelpie_wire_callbacks client_callbacks = {
    .request = client_request,
    .notification = client_notification,
    .data = client_data,
    .credit = client_credit,
    .stop = client_stop,
    .drained = client_drained,
    .closed = client_closed,
};

static inline void client_answer(void *context, const struct kelpie_error *error,
                                 const char *result, size_t length) {
    struct client *client = context;
    client->is_answered = true;
    client->error = error == NULL ? (struct kelpie_error){0} : *error;
    snprintf(client->result, sizeof(client->result), "%.*s", (int)length,
             error == NULL ? result : "");
}

/* ---- between port and stream ----------------------------------------------------------------- */

static inline void client_pump_out(struct client *client) {
    char bytes[4096];
    size_t count = kelpie__sim_guest_port_take(client->guest, bytes, sizeof(bytes));
    while (count > 0) {
        int64_t written = kelpie__os_write(client->os, client->far, bytes, count);
        assert_int_equal(written, count); /* the test reads it all the time */
        count = kelpie__sim_guest_port_take(client->guest, bytes, sizeof(bytes));
    }
    size_t room = sizeof(client->console) - 1 - client->console_count;
    client->console_count += kelpie__sim_guest_console_take(
        client->guest, client->console + client->console_count, room);
    client->console[client->console_count] = '\0';
}

static inline void client_pump_in(struct client *client) {
    size_t room = sizeof(client->pending) - client->pending_count;
    int64_t count = room == 0 ? 0
                              : kelpie__os_read(client->os, client->far,
                                                client->pending + client->pending_count, room);
    client->pending_count += count > 0 ? (size_t)count : 0;
    size_t put = kelpie__sim_guest_port_put(client->guest, client->pending, client->pending_count);
    memmove(client->pending, client->pending + put, client->pending_count - put);
    client->pending_count -= put;
}

static inline void client_pump(void *context, uint32_t bits) {
    struct client *client = context;
    assert_true(bits != 0);
    if (client->guest != NULL) {
        client_pump_out(client);
        client_pump_in(client);
        client->has_ended = kelpie__sim_guest_end(client->guest) != SIM_GUEST_LIVES;
        uint32_t wanted = client->pending_count > 0 ? KELPIE_OS_READABLE | KELPIE_OS_WRITABLE
                                                    : KELPIE_OS_READABLE;
        kelpie__loop_watch_change(client->loop, client->events_slot,
                                  client->has_ended ? 0 : wanted);
    }
}

static inline void client_step(struct client *client) {
    struct kelpie_error error;
    int status = kelpie__loop_step(client->loop, client->loop->now_ns + CLIENT_STEP_NS, &error);
    assert_int_equal(status, 0);
}

/* ---- begin and end --------------------------------------------------------------------------- */

/* Takes over this guest, which was created or loaded by the same process. */
static inline struct client *client_attach(struct kelpie_os *os, struct sim_guest *guest) {
    struct client *client = calloc(1, sizeof(*client));
    int ends[2];
    assert_non_null(guest);
    client->os = os;
    client->guest = guest;
    client->gives_credit = true;
    assert_int_equal(kelpie__loop_create(os, 16, &client->loop, NULL), 0);
    assert_int_equal(kelpie__os_pair(os, ends), 0);
    client->far = ends[1];
    client->events =
        kelpie__sim_handle_install(kelpie__sim_process_of(os), kelpie__sim_guest_events(guest));
    assert_true(client->events >= 0);
    assert_int_equal(kelpie__loop_watch(client->loop, client->events, KELPIE_OS_READABLE,
                                        client_pump, client, &client->events_slot),
                     0);
    assert_int_equal(kelpie__loop_watch(client->loop, client->far, KELPIE_OS_READABLE, client_pump,
                                        client, &client->far_slot),
                     0);
    for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
        client->limits[i][0] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
        client->limits[i][1] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
    }
    const struct kelpie_wire_create create = {.os = os,
                                              .loop = client->loop,
                                              .handle = ends[0],
                                              .owns_handle = true,
                                              .callbacks = &client_callbacks,
                                              .context = client};
    assert_int_equal(kelpie__wire_create(&create, &client->wire, NULL), 0);
    return client;
}

static inline struct sim_guest *client_create(struct kelpie_os *os) {
    const struct sim_guest_config config = {
        .memory_mib = 256,
        .cpu_count = 1,
        .kernel = "/boot/vmlinuz",
        .command_line = "console=ttyS0 panic=-1",
        .port_name = "org.kelpie.agent",
        .tsc_khz = 2000000,
        .has_init = true,
    };
    return kelpie__sim_guest_create(kelpie__sim_process_of(os), &config);
}

static inline struct client *client_boot(struct kelpie_os *os) {
    struct client *client = client_attach(os, client_create(os));
    kelpie__sim_guest_run(client->guest);
    while (client->ready_count == 0) {
        assert_false(client->is_closed);
        assert_false(client->has_ended);
        client_step(client);
    }
    return client;
}

/* Another guest takes the place of the one that is there, over the same stream. */
static inline void client_replace(struct client *client, struct sim_guest *guest) {
    assert_non_null(guest);
    kelpie__loop_unwatch(client->loop, client->events_slot);
    kelpie__sim_guest_destroy(client->guest);
    assert_int_equal(kelpie__os_close(client->os, client->events), 0);
    client->guest = guest;
    client->events = kelpie__sim_handle_install(kelpie__sim_process_of(client->os),
                                                kelpie__sim_guest_events(guest));
    assert_true(client->events >= 0);
    assert_int_equal(kelpie__loop_watch(client->loop, client->events,
                                        KELPIE_OS_READABLE | KELPIE_OS_WRITABLE, client_pump,
                                        client, &client->events_slot),
                     0);
}

/* The guest goes too. */
static inline void client_end(struct client *client) {
    kelpie__wire_destroy(client->wire);
    kelpie__loop_unwatch(client->loop, client->events_slot);
    kelpie__loop_unwatch(client->loop, client->far_slot);
    kelpie__sim_guest_destroy(client->guest);
    assert_int_equal(kelpie__os_close(client->os, client->events), 0);
    assert_int_equal(kelpie__os_close(client->os, client->far), 0);
    kelpie__loop_destroy(client->loop);
    for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
        free(client->exits[i]);
        free(client->outputs[i][0].bytes);
        free(client->outputs[i][1].bytes);
    }
    free(client);
}

/* ---- requests -------------------------------------------------------------------------------- */

static inline int client_call(struct client *client, const char *method, const char *params) {
    client->is_answered = false;
    assert_int_equal(kelpie__wire_call(client->wire, method, params, UINT64_MAX, client_answer,
                                       client, NULL, NULL),
                     0);
    while (!client->is_answered) {
        assert_false(client->is_closed);
        client_step(client);
    }
    return client->error.code;
}

static inline void client_greet(struct client *client, const char *epoch) {
    char params[256];
    snprintf(
        params, sizeof(params),
        "{\"version\":1,\"version_min\":1,\"features\":[],\"role\":\"monitor\",\"epoch\":\"%s\"}",
        epoch);
    assert_int_equal(client_call(client, "hello", params), 0);
    client->last_channel = 0;
}

static inline struct client *client_boot_ready(struct kelpie_os *os) {
    struct client *client = client_boot(os);
    client_greet(client, CLIENT_EPOCH);
    assert_int_equal(client_call(client, "setup",
                                 "{\"root\":{\"kind\":\"builtin\"},\"hostname\":\"test\","
                                 "\"wall_ns\":1800000000000000000,\"entropy\":\"00112233\"}"),
                     0);
    return client;
}

static inline void client_send(struct client *client, uint32_t channel,
                               enum kelpie_stream_kind kind, const char *bytes, size_t count,
                               bool is_end) {
    size_t sent = 0;
    uint32_t stream = kelpie__stream_number(channel, kind);
    do {
        uint64_t room = client->limits[channel][kind] - sent;
        size_t piece = (size_t)kelpie__min_u64(count - sent, KELPIE_FRAME_PAYLOAD_BYTES_MAX);
        piece = (size_t)kelpie__min_u64(piece, room);
        if (piece == 0 && count > 0) {
            client_step(client);
            continue;
        }
        bool is_last = is_end && sent + piece == count;
        int status = kelpie__wire_data(client->wire, stream, sent, bytes + sent, piece, is_last);
        if (status == KELPIE_E_LIMIT) {
            client_step(client);
        } else {
            assert_int_equal(status, 0);
            sent += piece;
        }
    } while (sent < count);
}

/* Starts a command: its channel, or the code of the refusal. options: more parameters, ",..". */
static inline int client_exec_start(struct client *client, const char *const *argv,
                                    const char *options) {
    size_t capacity = 3 * 1024 * 1024;
    char *bytes = malloc(capacity);
    char params[1024];
    size_t count = 0;
    size_t argument_count = 0;
    for (; argv[argument_count] != NULL; argument_count += 1) {
        size_t length = strlen(argv[argument_count]) + 1;
        memcpy(bytes + count, argv[argument_count], length);
        count += length;
    }
    client->last_channel += 1;
    uint32_t channel = client->last_channel;
    snprintf(params, sizeof(params),
             "{\"channel\":%u,\"argument_bytes\":%zu,\"argument_count\":%zu,"
             "\"environment_count\":0%s}",
             channel, count, argument_count, options == NULL ? "" : options);
    client->is_answered = false;
    assert_int_equal(kelpie__wire_call(client->wire, "exec.start", params, UINT64_MAX,
                                       client_answer, client, NULL, NULL),
                     0);
    client_send(client, channel, KELPIE_STREAM_ARGUMENTS, bytes, count, true);
    free(bytes);
    while (!client->is_answered && !client->has_ended) {
        client_step(client);
    }
    return client->error.code < 0 ? client->error.code : (int)channel;
}

static inline void client_wait_exit(struct client *client, int channel) {
    assert_true(channel > 0 && channel < CLIENT_CHANNEL_MAX);
    while (client->exits[channel] == NULL) {
        assert_false(client->is_closed);
        assert_false(client->has_ended);
        client_step(client);
    }
}

static inline int64_t client_exit_number(struct client *client, int channel, const char *key) {
    int64_t value = -1;
    const char *text = client->exits[channel];
    assert_non_null(text);
    return kelpie__json_find_i64(text, strlen(text), key, &value) == 0 ? value : -1;
}

static inline const char *client_text(const struct client *client, int channel, int which) {
    const struct client_output *output = &client->outputs[channel][which];
    return output->bytes == NULL ? "" : output->bytes;
}

/* Runs a command to its end: its channel. */
static inline int client_exec(struct client *client, const char *const *argv, const char *options) {
    int channel = client_exec_start(client, argv, options);
    assert_true(channel > 0);
    client_wait_exit(client, channel);
    return channel;
}

static inline int client_shell(struct client *client, const char *script, const char *options) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    return client_exec(client, argv, options);
}

/* A script's standard output is this, and it ends with this code. */
static inline void client_says(struct client *client, const char *script, const char *output,
                               int code) {
    int channel = client_shell(client, script, NULL);
    const char *found = client_text(client, channel, 0);
    if (strcmp(found, output) != 0 || client_exit_number(client, channel, "code") != code) {
        fail_msg("%s\n  said \"%s\"\n  not \"%s\"; %s; stderr: %s", script, found, output,
                 client->exits[channel], client_text(client, channel, 1));
    }
    for (int i = 0; i < 2; i += 1) {
        free(client->outputs[channel][i].bytes);
        client->outputs[channel][i] = (struct client_output){0};
    }
    if (client->last_channel + 2 >= CLIENT_CHANNEL_MAX) { /* numbering begins anew */
        for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
            free(client->exits[i]);
            client->exits[i] = NULL;
            client->limits[i][0] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
            client->limits[i][1] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
        }
        client_greet(client, CLIENT_EPOCH);
    }
}

#endif
