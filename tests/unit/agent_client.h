/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A peer of the agent for tests: starts the agent in a child process over a socket pair, speaks the
 * protocol with the real wire, collects what commands write, and hands answers back one call at a
 * time. The child is a subreaper, which stands for being process 1.
 */
#ifndef KELPIE_TESTS_AGENT_CLIENT_H
#define KELPIE_TESTS_AGENT_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/agent.h"
#include "core/json.h"
#include "core/limits.h"
#include "core/loop.h"
#include "core/text.h"
#include "os/os.h"
#include "os/os_call.h"
#include "wire/wire.h"

#define CLIENT_CHANNEL_MAX 256
#define CLIENT_OUTPUT_BYTES (2 * 1024 * 1024)
#define CLIENT_STEP_NS (20 * KELPIE_NS_PER_S)
#define CLIENT_EPOCH "000102030405060708090a0b0c0d0e0f"

struct client_output {
    char *bytes;
    uint64_t begin; /* offset of the first byte */
    size_t count;
    uint64_t limit;
    bool is_ended;
};

struct client {
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    struct kelpie_wire *wire;
    int socket;
    pid_t agent;
    bool gives_credit;
    bool is_answered;
    struct kelpie_error error; /* of the last call; code 0: it succeeded */
    char result[KELPIE_MESSAGE_BYTES_MAX];
    uint32_t ready_count;
    bool has_goodbye;
    bool is_closed;
    bool is_mark_seen;
    uint32_t last_channel;
    char *exits[CLIENT_CHANNEL_MAX]; /* parameters of exec.exit */
    struct client_output outputs[CLIENT_CHANNEL_MAX][2];
    uint64_t limits[CLIENT_CHANNEL_MAX][2]; /* of args and stdin, from the agent */
    bool is_stdin_stopped[CLIENT_CHANNEL_MAX];
};

struct client_exec {
    const char *const *argv;        /* ended by NULL */
    const char *const *environment; /* NULL: none */
    const char *options;            /* more parameters: ",\"cwd\":\"/\"" */
};

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
    } else if (strcmp(method, "goodbye") == 0) {
        client->has_goodbye = true;
    } else if (strcmp(method, "exec.exit") == 0) {
        uint64_t channel = 0;
        assert_int_equal(kelpie__json_find_u64(params, length, "channel", &channel), 0);
        assert_true(channel < CLIENT_CHANNEL_MAX);
        assert_null(client->exits[channel]);
        client->exits[channel] = strndup(params, length);
        assert_true(client->outputs[channel][0].is_ended || strstr(params, "stop") != NULL);
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
    struct client *client = context;
    assert_int_equal(stream & 3, KELPIE_STREAM_STDIN);
    client->is_stdin_stopped[stream >> KELPIE_STREAM_KIND_BITS] = true;
}

static inline void client_mark(void *context, const uint8_t mark[KELPIE_MARK_BYTES]) {
    struct client *client = context;
    assert_non_null(mark);
    client->is_mark_seen = true;
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
    client_request, client_notification, client_data,    client_credit,
    client_stop,    client_mark,         client_drained, client_closed,
};

static inline void client_answer(void *context, const struct kelpie_error *error,
                                 const char *result, size_t length) {
    struct client *client = context;
    client->is_answered = true;
    client->error = error == NULL ? (struct kelpie_error){0} : *error;
    assert_true(length < sizeof(client->result));
    snprintf(client->result, sizeof(client->result), "%.*s", (int)length,
             error == NULL ? result : "");
}

static inline void client_step(struct client *client) {
    struct kelpie_error error;
    int status = kelpie__loop_step(client->loop, client->loop->now_ns + CLIENT_STEP_NS, &error);
    assert_int_equal(status, 0);
}

static inline void client_connect(struct client *client) {
    const struct kelpie_wire_create create = {
        .os = client->os,
        .loop = client->loop,
        .handle = client->socket,
        .callbacks = &client_callbacks,
        .context = client,
    };
    client->is_closed = false;
    client->ready_count = 0;
    client->last_channel = 0;
    for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
        free(client->exits[i]);
        client->exits[i] = NULL;
        free(client->outputs[i][0].bytes);
        free(client->outputs[i][1].bytes);
        memset(client->outputs[i], 0, sizeof(client->outputs[i]));
        client->limits[i][0] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
        client->limits[i][1] = KELPIE_STREAM_CREDIT_INITIAL_BYTES;
        client->is_stdin_stopped[i] = false;
    }
    assert_int_equal(kelpie__wire_create(&create, &client->wire, NULL), 0);
}

/* Where this host has a cgroup2 that we may make groups in; empty when nowhere. */
static inline void client_find_cgroup(char *out, size_t capacity) {
    char line[512];
    char place[256];
    FILE *file = fopen("/proc/mounts", "re");
    out[0] = '\0';
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "%*s %255s cgroup2 ", place) == 1 && strstr(line, " cgroup2 ") != NULL) {
            snprintf(out, capacity, "%s/kelpie-test-%d", place, getpid());
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    if (out[0] != '\0' && (mkdir(out, 0755) < 0 || access(out, W_OK) < 0)) {
        out[0] = '\0';
    }
}

static inline struct client *client_start(const char *cgroup) {
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets),
                     0);
    pid_t agent = fork();
    assert_true(agent >= 0);
    if (agent == 0) {
        char number[16];
        char name[] = "kelpie-agent", channel[] = "--channel-fd", group[] = "--cgroup";
        char path[256];
        char *argv[] = {name, channel, number, group, path, NULL};
        snprintf(path, sizeof(path), "%s", cgroup == NULL ? "" : cgroup);
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        snprintf(number, sizeof(number), "%d", sockets[1]);
        close(sockets[0]);
        kelpie__os_linux_prepare_process();
        struct kelpie_os *os = kelpie__os_linux_create_guest();
        int status = kelpie_agent_main(os, cgroup == NULL ? 3 : 5, argv);
        kelpie__os_linux_destroy(os);
        _exit(status);
    }
    close(sockets[1]);
    struct client *client = calloc(1, sizeof(*client));
    client->agent = agent;
    client->socket = sockets[0];
    client->gives_credit = true;
    client->os = kelpie__os_linux_create();
    assert_non_null(client->os);
    assert_int_equal(kelpie__loop_create(client->os, 16, &client->loop, NULL), 0);
    client_connect(client);
    while (client->ready_count == 0) {
        client_step(client);
    }
    return client;
}

/* Sends a request and waits for its answer. 0, or the code of the refusal. */
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

static inline struct client *client_start_ready(const char *cgroup) {
    struct client *client = client_start(cgroup);
    client_greet(client, CLIENT_EPOCH);
    assert_int_equal(client_call(client, "setup", "{\"hostname\":\"test\"}"), 0);
    return client;
}

/* Ends the agent by hanging up; its exit code. */
static inline int client_end(struct client *client) {
    int status = 0;
    kelpie__wire_destroy(client->wire);
    close(client->socket);
    for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
        free(client->exits[i]);
        free(client->outputs[i][0].bytes);
        free(client->outputs[i][1].bytes);
    }
    kelpie__loop_destroy(client->loop);
    kelpie__os_linux_destroy(client->os);
    assert_int_equal(waitpid(client->agent, &status, 0), client->agent);
    free(client);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
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
        if (client->is_stdin_stopped[channel] && kind == KELPIE_STREAM_STDIN) {
            return;
        }
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

/* Starts a command: its channel, or the code of the refusal. */
static inline int client_exec_start(struct client *client, const struct client_exec *exec) {
    size_t capacity = 3 * 1024 * 1024;
    char *bytes = malloc(capacity);
    char params[1024];
    size_t count = 0;
    size_t argument_count = 0;
    size_t variable_count = 0;
    for (; exec->argv[argument_count] != NULL; argument_count += 1) {
        size_t length = strlen(exec->argv[argument_count]) + 1;
        memcpy(bytes + count, exec->argv[argument_count], length);
        count += length;
    }
    for (; exec->environment != NULL && exec->environment[variable_count] != NULL;
         variable_count += 1) {
        size_t length = strlen(exec->environment[variable_count]) + 1;
        memcpy(bytes + count, exec->environment[variable_count], length);
        count += length;
    }
    client->last_channel += 1;
    uint32_t channel = client->last_channel;
    snprintf(params, sizeof(params),
             "{\"channel\":%u,\"argument_bytes\":%zu,\"argument_count\":%zu,"
             "\"environment_count\":%zu%s}",
             channel, count, argument_count, variable_count,
             exec->options == NULL ? "" : exec->options);
    client->is_answered = false;
    assert_int_equal(kelpie__wire_call(client->wire, "exec.start", params, UINT64_MAX,
                                       client_answer, client, NULL, NULL),
                     0);
    client_send(client, channel, KELPIE_STREAM_ARGUMENTS, bytes, count, true);
    free(bytes);
    while (!client->is_answered) {
        client_step(client);
    }
    return client->error.code < 0 ? client->error.code : (int)channel;
}

static inline void client_wait_exit(struct client *client, int channel) {
    assert_true(channel > 0 && channel < CLIENT_CHANNEL_MAX);
    while (client->exits[channel] == NULL) {
        assert_false(client->is_closed);
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

/* Runs a shell command to its end: its channel. */
static inline int client_shell(struct client *client, const char *script, const char *options) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct client_exec exec = {.argv = argv, .options = options};
    int channel = client_exec_start(client, &exec);
    client_wait_exit(client, channel);
    return channel;
}

#endif
