/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A hostile peer. The input is a script: raw bytes, frames with right checks, messages around
 * fragments of the input, and what this side does meanwhile (calls, data, marks, destruction inside
 * a callback). The wire has to stay within its invariants, free everything, and tell its end once.
 */
#include <stddef.h>
#include <stdint.h>

#include "../unit/fake_os.h"
#include "core/text.h"
#include "os/os_call.h"
#include "wire/frame.h"
#include "wire/stream.h"
#include "wire/wire.h"

#define STEPS_MAX 4096u
#define STREAM 6u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
    const uint8_t *data;
    size_t left;
};

struct victim {
    struct fake_os *fake;
    struct kelpie_loop *loop;
    struct kelpie_wire *wire; /* NULL: destroyed */
    struct kelpie_stream_sender sender;
    struct kelpie_stream_receiver receiver;
    int peer;
    uint32_t closed_count;
    uint32_t waiting_count; /* calls without an answer */
    bool destroys_itself;
};

static uint8_t script_byte(struct script *script) {
    if (script->left == 0) {
        return 0;
    }
    script->data += 1;
    script->left -= 1;
    return script->data[-1];
}

static const uint8_t *script_bytes(struct script *script, size_t *inout_count) {
    const uint8_t *bytes = script->data;
    *inout_count = *inout_count < script->left ? *inout_count : script->left;
    script->data += *inout_count;
    script->left -= *inout_count;
    return bytes;
}

static bool victim_is_gone(struct victim *victim) {
    if (victim->destroys_itself && victim->wire != NULL) {
        kelpie__wire_destroy(victim->wire);
        victim->wire = NULL;
    }
    return victim->wire == NULL;
}

static void on_request(void *context, uint64_t id, const char *method, const char *params,
                       size_t length) {
    struct victim *victim = context;
    KELPIE_ASSERT(params[length] == '\0' && strlen(method) < KELPIE_METHOD_BYTES_MAX);
    if (victim_is_gone(victim)) {
        return;
    }
    if (length % 2 == 0) {
        kelpie__wire_result(victim->wire, id, "{}");
    } else {
        kelpie__wire_refuse_text(victim->wire, id, KELPIE_E_UNSUPPORTED, "no %s", method);
    }
}

static void on_notification(void *context, const char *method, const char *params, size_t length) {
    KELPIE_ASSERT(params[length] == '\0' && method[0] != 'R');
    kelpie__ignore(victim_is_gone(context));
}

static void on_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                    size_t count, bool is_end) {
    struct victim *victim = context;
    uint8_t sum = 0;
    for (size_t i = 0; i < count; i += 1) {
        sum ^= ((const uint8_t *)bytes)[i];
    }
    if (victim_is_gone(victim)) {
        return;
    }
    const char *rule = stream != STREAM
                           ? "R19: no such stream"
                           : kelpie__stream_receiver_data(&victim->receiver, offset, count, is_end);
    if (rule != NULL) {
        kelpie__wire_break_rule(victim->wire, rule);
    } else if (sum % 2 == 0) {
        kelpie__stream_receiver_consumed(&victim->receiver, victim->wire, stream,
                                         victim->receiver.received);
    }
}

static void on_credit(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    struct victim *victim = context;
    if (victim_is_gone(victim)) {
        return;
    }
    const char *rule = stream != STREAM
                           ? "R19: no such stream"
                           : kelpie__stream_sender_credit(&victim->sender, acknowledged, limit);
    if (rule != NULL) {
        kelpie__wire_break_rule(victim->wire, rule);
        return;
    }
    kelpie__ignore(kelpie__stream_sender_pump(&victim->sender, victim->wire, stream));
}

static void on_stop(void *context, uint32_t stream) {
    struct victim *victim = context;
    if (!victim_is_gone(victim) && stream == STREAM) {
        kelpie__stream_sender_stop(&victim->sender);
    }
}

static void on_mark(void *context, const uint8_t mark[KELPIE_MARK_BYTES]) {
    KELPIE_ASSERT(mark != NULL);
    kelpie__ignore(victim_is_gone(context));
}

static void on_drained(void *context) {
    struct victim *victim = context;
    if (!victim_is_gone(victim)) {
        kelpie__ignore(kelpie__stream_sender_pump(&victim->sender, victim->wire, STREAM));
    }
}

static void on_closed(void *context, const struct kelpie_error *error) {
    struct victim *victim = context;
    KELPIE_ASSERT(error->code == KELPIE_E_IO || error->code == KELPIE_E_PROTOCOL);
    KELPIE_ASSERT(victim->closed_count == 0 && victim->waiting_count == 0);
    victim->closed_count += 1;
    kelpie__ignore(victim_is_gone(victim));
}

static void on_answer(void *context, const struct kelpie_error *error, const char *result,
                      size_t length) {
    struct victim *victim = context;
    KELPIE_ASSERT(victim->waiting_count > 0);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    victim->waiting_count -= 1;
    kelpie__ignore(victim_is_gone(victim));
}

static const struct kelpie_wire_callbacks callbacks = {
    .request = on_request,
    .notification = on_notification,
    .data = on_data,
    .credit = on_credit,
    .stop = on_stop,
    .mark = on_mark,
    .drained = on_drained,
    .closed = on_closed,
};

/* ---- the peer -------------------------------------------------------------------------------- */

static void peer_write(struct victim *victim, const uint8_t *bytes, size_t count) {
    size_t written = 0;
    for (unsigned i = 0; written < count && i < 64; i += 1) {
        int64_t status =
            kelpie__os_write(&victim->fake->os, victim->peer, bytes + written, count - written);
        if (status < 0) {
            return; /* full, or closed: the rest is lost, which makes a torn frame */
        }
        written += (size_t)status;
    }
}

static void peer_write_frame(struct victim *victim, uint8_t *bytes, size_t length) {
    uint32_t check = UINT32_C(0x811c9dc5);
    for (unsigned i = 4; i < KELPIE_FRAME_HEADER_BYTES; i += 1) {
        check = (check ^ bytes[i]) * UINT32_C(0x01000193);
    }
    for (unsigned i = 0; i < 4; i += 1) {
        bytes[i] = (uint8_t)(check >> (8 * i));
    }
    peer_write(victim, bytes, KELPIE_FRAME_HEADER_BYTES + length);
}

/* A frame whose length, and mostly whose stream, are right. */
static void peer_frame(struct victim *victim, struct script *script) {
    uint8_t bytes[KELPIE_FRAME_HEADER_BYTES + 256] = {0};
    bytes[8] = script_byte(script) % 7;
    bytes[9] = script_byte(script) % 3;
    uint8_t choice = script_byte(script);
    bytes[12] = choice % 4 == 0 ? choice : bytes[8] >= 2 && bytes[8] <= 4 ? STREAM : 0;
    for (unsigned i = 16; i < 18 && bytes[8] >= 2 && bytes[8] <= 3; i += 1) {
        bytes[i] = script_byte(script);
    }
    size_t length = bytes[8] == 3 ? 8 : bytes[8] == 5 ? 16 : bytes[8] == 4 ? 0 : choice;
    const uint8_t *payload = script_bytes(script, &length);
    memcpy(bytes + KELPIE_FRAME_HEADER_BYTES, payload, length);
    bytes[4] = (uint8_t)length;
    peer_write_frame(victim, bytes, length);
}

static void peer_message(struct victim *victim, struct script *script) {
    static const char *const heads[] = {"\"id\":1,\"result\":",
                                        "\"id\":1,\"error\":",
                                        "\"method\":",
                                        "\"id\":7,\"method\":\"m\",\"params\":",
                                        "\"method\":\"protocol_error\",\"params\":",
                                        "\"id\":"};
    uint8_t bytes[KELPIE_FRAME_HEADER_BYTES + 512] = {0};
    char *text = (char *)bytes + KELPIE_FRAME_HEADER_BYTES;
    size_t tail_length = script_byte(script) % 64;
    const char *head = heads[script_byte(script) % KELPIE_ARRAY_COUNT(heads)];
    const uint8_t *tail = script_bytes(script, &tail_length);
    kelpie__text_format(text, 256, "{\"jsonrpc\":\"2.0\",%s", head);
    size_t length = strlen(text);
    memcpy(text + length, tail, tail_length);
    length += tail_length;
    text[length] = '}';
    length += 1;
    bytes[4] = (uint8_t)length;
    bytes[8] = KELPIE_FRAME_MESSAGE;
    peer_write_frame(victim, bytes, length);
}

/* ---- the victim's own doings ----------------------------------------------------------------- */

static void victim_act(struct victim *victim, uint8_t what) {
    struct kelpie_wire *wire = victim->wire;
    const uint8_t mark[KELPIE_MARK_BYTES] = {1, 2, 3};
    if (wire == NULL) {
        return;
    }
    switch (what % 8) {
    case 0:
        victim->waiting_count +=
            kelpie__wire_call(wire, "x", "{}", 1 + what, on_answer, victim, NULL, NULL) == 0 ? 1
                                                                                             : 0;
        break;
    case 1:
        kelpie__ignore((int64_t)kelpie__stream_sender_write(&victim->sender, "0123456789", 10));
        kelpie__ignore(kelpie__stream_sender_pump(&victim->sender, wire, STREAM));
        break;
    case 2:
        kelpie__wire_discard_until(wire, mark);
        break;
    case 3:
        kelpie__ignore(kelpie__wire_mark(wire, mark));
        break;
    case 4:
        kelpie__wire_hold(wire, what >= 128);
        break;
    case 5:
        victim->destroys_itself = what >= 200;
        break;
    case 6:
        kelpie__wire_flush(wire);
        break;
    default:
        /* how much it leaves unread */
        victim->fake->handles[victim->peer].capacity = 1 + 64u * what;
        break;
    }
}

static void run(struct victim *victim, struct script *script) {
    uint8_t drain[4096];
    for (unsigned i = 0; i < STEPS_MAX && script->left > 0; i += 1) {
        uint8_t choice = script_byte(script);
        size_t count = choice;
        if (choice % 8 == 0) {
            const uint8_t *raw = script_bytes(script, &count);
            peer_write(victim, raw, count);
        } else if (choice % 8 <= 2) {
            peer_frame(victim, script);
        } else if (choice % 8 <= 4) {
            peer_message(victim, script);
        } else {
            victim_act(victim, script_byte(script));
        }
        int status =
            kelpie__loop_step(victim->loop, victim->fake->now_ns + choice * KELPIE_NS_PER_MS, NULL);
        KELPIE_ASSERT(status == 0);
        if (victim->wire != NULL) {
            kelpie__wire_check(victim->wire);
            kelpie__stream_sender_check(&victim->sender);
        }
        if (choice >= 128) { /* the peer reads, now and then */
            kelpie__ignore(kelpie__os_read(&victim->fake->os, victim->peer, drain, sizeof(drain)));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct script script = {data, size};
    struct victim victim = {.fake = fake_create(script_byte(&script))};
    struct kelpie_os *os = &victim.fake->os;
    int handles[2];
    int status = kelpie__os_pair(os, handles);
    KELPIE_ASSERT(status == 0);
    victim.peer = handles[1];
    status = kelpie__loop_create(os, 4, &victim.loop, NULL);
    KELPIE_ASSERT(status == 0);
    status = kelpie__stream_sender_init(&victim.sender, os, KELPIE_EXEC_INPUT_BYTES, NULL);
    KELPIE_ASSERT(status == 0);
    kelpie__stream_receiver_init(&victim.receiver, 0, KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    const struct kelpie_wire_create create = {.os = os,
                                              .loop = victim.loop,
                                              .handle = handles[0],
                                              .owns_handle = true,
                                              .callbacks = &callbacks,
                                              .context = &victim};
    status = kelpie__wire_create(&create, &victim.wire, NULL);
    KELPIE_ASSERT(status == 0);
    run(&victim, &script);
    kelpie__wire_destroy(victim.wire);
    kelpie__stream_sender_deinit(&victim.sender);
    kelpie__loop_destroy(victim.loop);
    kelpie__ignore(kelpie__os_close(os, victim.peer));
    fake_destroy(victim.fake);
    return 0;
}
