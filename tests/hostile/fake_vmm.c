/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A program in QEMU's place (KELPIE_QEMU), with a guest that lies as its VM's name says. It speaks
 * just enough QMP, and on the agent's channel whatever is asked for: see lies.h, and the three
 * scripts below (before hello, at hello, in a running VM). An honest one answers every command with
 * "honest\n" and exit code 0.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostile/lies.h"

#define LINE_BYTES 8192
#define INPUT_BYTES 65536
#define MONOTONIC_NS 1000000000ULL

struct fake {
    const char *lie; /* "": honest */
    int qmp;
    int agent;
    unsigned long long khz; /* of the counter that the guest is told; 0: it is not */
    bool is_args_ended;
    bool has_stopped;
    unsigned ping_count;
    size_t qmp_count;
    size_t input_count;
    char message[INPUT_BYTES]; /* the last one */
    char qmp_line[LINE_BYTES];
    uint8_t input[INPUT_BYTES];
};

static bool lies(const struct fake *fake, const char *name) {
    return strcmp(fake->lie, name) == 0;
}

/* The monitor has cut us off, or is gone: there is nothing more to do. */
static void write_all(int handle, const void *bytes, size_t count) {
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = write(handle, next, count);
        if (written < 0 && (errno == EAGAIN || errno == EINTR)) {
            struct pollfd room = {.fd = handle, .events = POLLOUT};
            poll(&room, 1, 100);
            continue;
        }
        if (written <= 0) {
            return;
        }
        next += written;
        count -= (size_t)written;
    }
}

static void send_frame(struct fake *fake, const struct lie_frame *frame) {
    uint8_t header[24];
    lie_encode(frame, header);
    write_all(fake->agent, header, sizeof(header));
    if (frame->length <= 32744) {
        write_all(fake->agent, frame->payload, frame->length);
    }
}

static void send_text(struct fake *fake, const char *text) {
    const struct lie_frame frame = {.type = 1, .length = (uint32_t)strlen(text), .payload = text};
    send_frame(fake, &frame);
}

static void send_data(struct fake *fake, uint32_t stream, uint64_t offset, const char *text,
                      bool is_end) {
    const struct lie_frame frame = {.type = 2,
                                    .flags = is_end ? 1 : 0,
                                    .stream = stream,
                                    .offset = offset,
                                    .length = (uint32_t)strlen(text),
                                    .payload = text};
    send_frame(fake, &frame);
}

static void send_credit(struct fake *fake, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    char payload[8];
    for (unsigned i = 0; i < 8; i += 1) {
        payload[i] = (char)(limit >> (8 * i));
    }
    const struct lie_frame frame = {
        .type = 3, .stream = stream, .offset = acknowledged, .length = 8, .payload = payload};
    send_frame(fake, &frame);
}

/* ---- what comes ---- */

static void answer_qmp(struct fake *fake) {
    ssize_t count = read(fake->qmp, fake->qmp_line + fake->qmp_count,
                         sizeof(fake->qmp_line) - 1 - fake->qmp_count);
    if (count <= 0) {
        exit(0);
    }
    fake->qmp_count += (size_t)count;
    fake->qmp_line[fake->qmp_count] = '\0';
    for (char *end = strchr(fake->qmp_line, '\n'); end != NULL;
         end = strchr(fake->qmp_line, '\n')) {
        const char *id = strstr(fake->qmp_line, "\"id\":");
        char answer[64];
        *end = '\0';
        if (id != NULL && !lies(fake, "qmp-silent")) {
            snprintf(answer, sizeof(answer), "{\"return\":{},\"id\":%llu}\n",
                     strtoull(id + 5, NULL, 10));
            write_all(fake->qmp, answer, strlen(answer));
        }
        fake->qmp_count -= (size_t)(end + 1 - fake->qmp_line);
        memmove(fake->qmp_line, end + 1, fake->qmp_count + 1);
    }
}

/* Takes one frame from the input. True: it was a message, which is in fake->message. */
static bool take_frame(struct fake *fake, bool *out_is_taken) {
    *out_is_taken = false;
    if (fake->input_count < 24) {
        return false;
    }
    size_t length = (size_t)fake->input[4] | (size_t)fake->input[5] << 8;
    if (fake->input_count < 24 + length) {
        return false;
    }
    bool is_message = fake->input[8] == 1;
    if (is_message) {
        memcpy(fake->message, fake->input + 24, length);
        fake->message[length] = '\0';
    } else if (fake->input[8] == 2 && fake->input[9] == 1 && (fake->input[12] & 3) == 0) {
        fake->is_args_ended = true;
    }
    fake->input_count -= 24 + length;
    memmove(fake->input, fake->input + 24 + length, fake->input_count);
    *out_is_taken = true;
    return is_message;
}

static void read_agent(struct fake *fake) {
    ssize_t count =
        read(fake->agent, fake->input + fake->input_count, sizeof(fake->input) - fake->input_count);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
        /* Cut off. A real QEMU would live on: so do we, until we are killed. */
        fake->agent = -1;
        return;
    }
    fake->input_count += count > 0 ? (size_t)count : 0;
}

/* Until the next message, or, when only the args are waited for, their end. */
static void wait_for(struct fake *fake, bool waits_for_args) {
    while (fake->qmp >= 0) { /* bound: the monitor, which kills us */
        bool is_taken = true;
        while (is_taken) {
            if (take_frame(fake, &is_taken) && !waits_for_args) {
                return;
            }
        }
        if (waits_for_args && fake->is_args_ended) {
            return;
        }
        struct pollfd handles[2] = {{.fd = fake->qmp, .events = POLLIN},
                                    {.fd = fake->agent, .events = POLLIN}};
        poll(handles, 2, -1);
        if (handles[0].revents != 0) {
            answer_qmp(fake);
        }
        if (handles[1].revents != 0) {
            read_agent(fake);
        }
    }
}

/* Says nothing any more, and lives until it is killed. */
static void idle(struct fake *fake) {
    while (fake->qmp >= 0) {
        wait_for(fake, false);
    }
}

static unsigned long long message_number(const struct fake *fake, const char *key) {
    const char *found = strstr(fake->message, key);
    return found == NULL ? 0 : strtoull(found + strlen(key), NULL, 10);
}

static bool message_is(const struct fake *fake, const char *method) {
    char text[96];
    snprintf(text, sizeof(text), "\"method\":\"%s\"", method);
    return strstr(fake->message, text) != NULL;
}

static void send_result(struct fake *fake, unsigned long long id, const char *result) {
    char text[1024];
    snprintf(text, sizeof(text), "{\"jsonrpc\":\"2.0\",\"id\":%llu,\"result\":%s}", id, result);
    send_text(fake, text);
}

/* ---- before hello ---- */

static void send_ready(struct fake *fake, const char *more) {
    char text[512];
    /* The guest's clock as it would be with the frequency that it was told. */
    unsigned long long counter = 1000000ULL + fake->khz * (MONOTONIC_NS / 1000000);
    snprintf(text, sizeof(text),
             "{\"jsonrpc\":\"2.0\",\"method\":\"ready\",\"params\":{\"pid\":1,\"boot_id\":\"fake\","
             "\"clock\":{\"tsc0\":1000000,\"mono0\":%llu,\"tsc1\":%llu,\"mono1\":%llu}%s}}",
             MONOTONIC_NS, counter, 2 * MONOTONIC_NS, more);
    send_text(fake, text);
}

static void script_vmm(struct fake *fake) {
    static const char greeting[] = "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n";
    char line[16384];
    if (lies(fake, "vmm-dies")) {
        fprintf(stderr, "fake QEMU: no device of that name\n");
        exit(3);
    }
    if (lies(fake, "qmp-garbage")) {
        write_all(fake->qmp, "SSH-2.0-OpenSSH\n", 16);
        idle(fake);
    }
    if (lies(fake, "qmp-long")) {
        memset(line, 'x', sizeof(line));
        write_all(fake->qmp, line, sizeof(line));
        idle(fake);
    }
    write_all(fake->qmp, greeting, sizeof(greeting) - 1);
}

static void script_before_hello(struct fake *fake) {
    uint64_t state = 42;
    if (lies(fake, "silent")) {
        idle(fake);
    }
    if (lies(fake, "garbage")) {
        for (unsigned i = 0; i < 4096; i += 1) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            write_all(fake->agent, (const uint8_t *)&state + 7, 1);
        }
        idle(fake);
    }
    if (lies(fake, "half-frame")) {
        write_all(fake->agent, "\x01\x02\x03\x04\x05", 5);
        close(fake->agent);
        fake->agent = -1;
        idle(fake);
    }
    for (size_t i = 0; i < LIE_FRAME_COUNT; i += 1) {
        if (lies(fake, lie_frames[i].name)) {
            send_frame(fake, &lie_frames[i]);
            idle(fake);
        }
    }
    if (lies(fake, "no-clock")) {
        send_text(fake, "{\"jsonrpc\":\"2.0\",\"method\":\"ready\",\"params\":{\"pid\":1}}");
        idle(fake);
    }
    if (lies(fake, "broken-guest")) {
        send_ready(fake, ",\"error\":\"no module of that name\"");
        idle(fake);
    }
    send_ready(fake, "");
    if (lies(fake, "ready-twice")) {
        send_ready(fake, "");
    }
    while (lies(fake, "flood") && fake->agent >= 0) { /* until it is killed */
        send_text(fake, "{\"jsonrpc\":\"2.0\",\"method\":\"what\",\"params\":{}}");
    }
}

/* ---- hello and setup ---- */

static void script_hello(struct fake *fake) {
    char result[256];
    char epoch[33] = "";
    wait_for(fake, false);
    unsigned long long id = message_number(fake, "\"id\":");
    const char *found = strstr(fake->message, "\"epoch\":\"");
    if (!message_is(fake, "hello") || found == NULL) {
        fprintf(stderr, "fake QEMU: no hello: %s\n", fake->message);
        exit(4);
    }
    memcpy(epoch, found + 9, 32);
    if (lies(fake, "hello-silent")) {
        idle(fake);
    }
    if (lies(fake, "hello-refused")) {
        snprintf(result, sizeof(result),
                 "{\"jsonrpc\":\"2.0\",\"id\":%llu,\"error\":{\"code\":-22,\"message\":\"I do not "
                 "know you\"}}",
                 id);
        send_text(fake, result);
        idle(fake);
    }
    if (lies(fake, "hello-number")) {
        send_result(fake, id, "7");
        idle(fake);
    }
    epoch[0] = lies(fake, "epoch") ? (epoch[0] == '0' ? '1' : '0') : epoch[0];
    snprintf(result, sizeof(result),
             "{\"version\":%d,\"features\":[],\"epoch\":\"%s\",\"execs\":[]}",
             lies(fake, "version") ? 99 : 1, epoch);
    send_result(fake, id, result);
    if (lies(fake, "epoch") || lies(fake, "version")) {
        idle(fake);
    }
    wait_for(fake, false);
    id = message_number(fake, "\"id\":");
    if (lies(fake, "setup-silent")) {
        idle(fake);
    }
    send_result(fake, id, "{}");
}

/* ---- a running VM ---- */

static void send_exit(struct fake *fake, uint32_t channel, const char *what) {
    char text[256];
    snprintf(text, sizeof(text),
             "{\"jsonrpc\":\"2.0\",\"method\":\"exec.exit\",\"params\":{\"channel\":%u,%s}}",
             channel, what);
    send_text(fake, text);
}

static void send_bulk(struct fake *fake, uint32_t stream, size_t total) {
    char bytes[8001];
    memset(bytes, 'y', sizeof(bytes) - 1);
    bytes[sizeof(bytes) - 1] = '\0';
    for (size_t sent = 0; sent < total && fake->agent >= 0; sent += sizeof(bytes) - 1) {
        send_data(fake, stream, sent, bytes, false);
    }
}

/* Lies about a command on this channel, after its start was answered. True: it was one of these. */
static bool script_command(struct fake *fake, uint32_t channel) {
    static const char exited[] = "\"code\":0,\"reason\":\"exited\"";
    uint32_t out = channel << 2 | 2;
    if (lies(fake, "channel")) {
        send_data(fake, out + 400, 0, "x", false);
    } else if (lies(fake, "direction")) {
        send_data(fake, channel << 2 | 1, 0, "x", false);
    } else if (lies(fake, "credit-direction")) {
        send_credit(fake, out, 0, 100000);
    } else if (lies(fake, "stop-direction")) {
        const struct lie_frame stop = {.type = 4, .stream = out, .payload = ""};
        send_frame(fake, &stop);
    } else if (lies(fake, "gap")) {
        send_data(fake, out, 7, "x", false);
    } else if (lies(fake, "repeat")) {
        send_data(fake, out, 0, "xy", false);
        send_data(fake, out, 0, "xy", false);
    } else if (lies(fake, "after-end")) {
        send_data(fake, out, 0, "", true);
        send_data(fake, out, 0, "x", false);
    } else if (lies(fake, "no-credit")) {
        send_bulk(fake, out, 4u << 20);
    } else if (lies(fake, "credit-back")) {
        send_credit(fake, channel << 2, 0, 1);
    } else if (lies(fake, "credit-false")) {
        send_credit(fake, channel << 2, 99999, 199999);
    } else if (lies(fake, "exit-early")) {
        send_exit(fake, channel, exited);
    } else if (lies(fake, "exit-stranger")) {
        send_exit(fake, channel + 9, exited);
    } else if (lies(fake, "exit-empty")) {
        send_data(fake, out, 0, "", true);
        send_data(fake, out + 1, 0, "", true);
        send_exit(fake, channel, "\"reason\":\"exited\"");
    } else if (lies(fake, "garbage-late")) {
        write_all(fake->agent, "garbagegarbagegarbagegarbage", 28);
    } else if (lies(fake, "vmm-dies-late")) {
        exit(5);
    } else if (lies(fake, "hang")) {
        return true; /* a command that does nothing and never ends */
    } else {
        return false;
    }
    return true;
}

static void run_command(struct fake *fake) {
    static const char id[] = "00112233445566778899aabbccddeeff";
    char text[128];
    unsigned long long request = message_number(fake, "\"id\":");
    uint32_t channel = (uint32_t)message_number(fake, "\"channel\":");
    wait_for(fake, true);
    fake->is_args_ended = false;
    if (lies(fake, "start-no-id")) {
        send_result(fake, request, "{}");
        return;
    }
    if (lies(fake, "start-id-long")) {
        send_result(fake, request,
                    "{\"id\":\"0011223344556677889900112233445566778899\",\"pid\":2}");
        return;
    }
    snprintf(text, sizeof(text), "{\"id\":\"%.24s%08x\",\"pid\":%u}", id, channel, channel);
    send_result(fake, request, text);
    if (script_command(fake, channel)) {
        return;
    }
    if (lies(fake, "stranger")) { /* allowed: what is not known is ignored, or refused */
        send_text(fake, "{\"jsonrpc\":\"2.0\",\"method\":\"brag\",\"params\":{\"a\":[1,2]}}");
        send_text(fake, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.delete\",\"params\":{}}");
    }
    send_data(fake, channel << 2 | 2, 0, "honest\n", true);
    send_data(fake, channel << 2 | 3, 0, "", true);
    send_exit(fake, channel,
              lies(fake, "exit-code") ? "\"code\":-1,\"reason\":\"\\u0000\",\"wall_us\":-5"
                                      : "\"code\":0,\"reason\":\"exited\",\"extra\":{}");
}

static void answer_ping(struct fake *fake, unsigned long long id) {
    char result[128];
    const char *found = strstr(fake->message, "\"nonce\":\"");
    int length = found == NULL ? 0 : (int)strcspn(found + 9, "\"");
    fake->ping_count += 1;
    if (lies(fake, "resume-silent") && fake->ping_count == 1) {
        return;
    }
    snprintf(result, sizeof(result), "{\"nonce\":\"%.*s%s\"}", length < 64 ? length : 64,
             found == NULL ? "" : found + 9, lies(fake, "resume-nonce") ? "0" : "");
    send_result(fake, id, result);
}

/* Once, behind the first command: a VMM that cannot write to its disk does this. */
static void stop_by_itself(struct fake *fake) {
    static const char event[] = "{\"event\":\"STOP\",\"timestamp\":{}}\n";
    if (lies(fake, "stops-itself") && !fake->has_stopped) {
        fake->has_stopped = true;
        write_all(fake->qmp, event, sizeof(event) - 1);
    }
}

static void script_running(struct fake *fake) {
    while (fake->qmp >= 0) {
        wait_for(fake, false);
        unsigned long long id = message_number(fake, "\"id\":");
        if (message_is(fake, "exec.start")) {
            run_command(fake);
            stop_by_itself(fake);
        } else if (message_is(fake, "ping")) {
            answer_ping(fake, id);
        } else if (message_is(fake, "guest.shutdown")) {
            send_result(fake, id, "{}");
            exit(0);
        } else if (message_is(fake, "guest.stats") && lies(fake, "stats")) {
            send_result(fake, id, "{\"uptime_ms\":\"long\",\"load1_milli\":-1,\"cpu_ms\":1e99}");
        } else if (id != 0 && strstr(fake->message, "\"method\"") != NULL) {
            send_result(fake, id, "{}");
        }
    }
}

static int handle_of(const char *argument, const char *name) {
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "socket,id=%s,fd=", name);
    return strncmp(argument, prefix, strlen(prefix)) == 0
               ? (int)strtol(argument + strlen(prefix), NULL, 10)
               : -1;
}

int main(int argc, char **argv) {
    static struct fake fake = {.lie = "", .qmp = -1, .agent = -1};
    for (int i = 1; i < argc; i += 1) {
        const char *khz = strstr(argv[i], "tsc_early_khz=");
        fake.qmp = fake.qmp < 0 ? handle_of(argv[i], "qmp") : fake.qmp;
        fake.agent = fake.agent < 0 ? handle_of(argv[i], "agent") : fake.agent;
        fake.khz = khz != NULL ? strtoull(khz + 14, NULL, 10) : fake.khz;
        const char *name =
            strrchr(argv[i], '/'); /* guest=DIRECTORY, which ends with the VM's name */
        if (strncmp(argv[i], "guest=", 6) == 0 && name != NULL &&
            strncmp(name + 1, LIE_PREFIX, sizeof(LIE_PREFIX) - 1) == 0) {
            fake.lie = name + sizeof(LIE_PREFIX);
        }
    }
    if (fake.qmp < 0 || fake.agent < 0) {
        fprintf(stderr, "fake QEMU: no handles among the arguments\n");
        return 2;
    }
    script_vmm(&fake);
    script_before_hello(&fake);
    script_hello(&fake);
    script_running(&fake);
    return 0;
}
