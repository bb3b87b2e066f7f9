/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * JSON-RPC 2.0 over the wire: requests and their answers, notifications, how errors travel. Ids of
 * requests rise from 1 and are never used again, so that a late answer is known for what it is.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "os/os_mark.h"
#include "wire/wire_internal.h"

#define RPC_METHOD_NOT_FOUND (-32601) /* JSON-RPC 2.0, section 5.1 */
#define RPC_INVALID_PARAMS (-32602)

/* ---- sending --------------------------------------------------------------------------------- */

/* 0, LIMIT (no room now), IO (closed), or MISUSE: it is longer than a message can be. */
static int message_send(struct kelpie_wire *wire, struct kelpie_json_writer *writer) {
    int64_t length = kelpie__json_finish(writer);
    if (length < 0) {
        return KELPIE_E_MISUSE;
    }
    KELPIE_ASSERT(length <= (int64_t)KELPIE_MESSAGE_BYTES_MAX);
    const struct kelpie_frame frame = {.type = KELPIE_FRAME_MESSAGE, .length = (uint32_t)length};
    return kelpie__wire_queue(wire, &frame, writer->text, true);
}

static void message_begin(struct kelpie_json_writer *writer, char *text) {
    kelpie__json_begin(writer, text, KELPIE_MESSAGE_BYTES_MAX + 1);
    kelpie__json_object_begin(writer, NULL);
    kelpie__json_write_string(writer, "jsonrpc", "2.0");
}

static int message_send_method(struct kelpie_wire *wire, const char *method, const char *params,
                               uint64_t id) {
    char text[KELPIE_MESSAGE_BYTES_MAX + 1];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(params[0] == '{');
    KELPIE_ASSERT(strlen(method) < KELPIE_METHOD_BYTES_MAX);
    message_begin(&writer, text);
    if (id != 0) {
        kelpie__json_write_u64(&writer, "id", id);
    }
    kelpie__json_write_string(&writer, "method", method);
    kelpie__json_write_raw(&writer, "params", params, strlen(params));
    kelpie__json_object_end(&writer);
    return message_send(wire, &writer);
}

int kelpie__wire_notify(struct kelpie_wire *wire, const char *method, const char *params) {
    return message_send_method(wire, method, params, 0);
}

void kelpie__wire_cancel(struct kelpie_wire *wire, uint64_t id) {
    char params[64];
    KELPIE_ASSERT(id > 0 && id < wire->next_id);
    kelpie__ignore(
        kelpie__text_format(params, sizeof(params), "{\"request\":%llu}", (unsigned long long)id));
    /* Without room the request's own deadline ends it. */
    kelpie__ignore(kelpie__wire_notify(wire, "cancel", params));
}

/* An answer for which there is no room: the peer asks without reading. */
static int answer_send(struct kelpie_wire *wire, struct kelpie_json_writer *writer) {
    int status = message_send(wire, writer);
    if (status == KELPIE_E_LIMIT) {
        KELPIE_REACHED(wire->os, "a peer asks without reading");
        kelpie__wire_break(wire, "R14", "answers are not read");
    }
    return status;
}

/* Six bytes for each of an error's texts at worst, and the words around them. */
static_assert(6 * sizeof(struct kelpie_error) + 512 < KELPIE_MESSAGE_BYTES_MAX,
              "every error fits a message");

void kelpie__wire_refuse(struct kelpie_wire *wire, uint64_t id, const struct kelpie_error *why) {
    char text[KELPIE_MESSAGE_BYTES_MAX + 1];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(id > 0);
    KELPIE_ASSERT(why->code < 0);
    message_begin(&writer, text);
    kelpie__json_write_u64(&writer, "id", id);
    kelpie__json_object_begin(&writer, "error");
    kelpie__json_write_i64(&writer, "code", why->code);
    kelpie__json_write_string(&writer, "message", why->message);
    kelpie__json_object_begin(&writer, "data");
    kelpie__json_write_i64(&writer, "os_error", why->os_error);
    kelpie__json_write_string(&writer, "field", why->field);
    kelpie__json_object_end(&writer);
    kelpie__json_object_end(&writer);
    kelpie__json_object_end(&writer);
    int status = answer_send(wire, &writer);
    KELPIE_ASSERT(status != KELPIE_E_MISUSE); /* see the static assertion above */
}

void kelpie__wire_refuse_text(struct kelpie_wire *wire, uint64_t id, int code, const char *format,
                              ...) {
    struct kelpie_error error = {.code = code};
    KELPIE_ASSERT(code < 0 && code >= KELPIE_CODE_LAST);
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(error.message, sizeof(error.message), format, arguments));
    va_end(arguments);
    kelpie__wire_refuse(wire, id, &error);
}

void kelpie__wire_result(struct kelpie_wire *wire, uint64_t id, const char *result) {
    char text[KELPIE_MESSAGE_BYTES_MAX + 1];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(id > 0);
    KELPIE_ASSERT(result[0] == '{');
    message_begin(&writer, text);
    kelpie__json_write_u64(&writer, "id", id);
    kelpie__json_write_raw(&writer, "result", result, strlen(result));
    kelpie__json_object_end(&writer);
    if (answer_send(wire, &writer) == KELPIE_E_MISUSE) {
        kelpie__wire_refuse_text(wire, id, KELPIE_E_LIMIT,
                                 "the answer has %zu bytes; a message has %u at most",
                                 strlen(result), KELPIE_MESSAGE_BYTES_MAX);
    }
}

/* ---- calls ----------------------------------------------------------------------------------- */

static struct kelpie_wire_pending *pending_find(struct kelpie_wire *wire, uint64_t id) {
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX; i += 1) {
        if (wire->pending[i].id == id) {
            return &wire->pending[i];
        }
    }
    return NULL;
}

/* The call's end; the callback may destroy the wire. */
static void pending_end(struct kelpie_wire_pending *pending, const struct kelpie_error *error,
                        const char *result, size_t length) {
    KELPIE_ASSERT(pending->id != 0);
    kelpie_wire_answer_callback callback = pending->callback;
    void *context = pending->context;
    bool is_forgotten = pending->is_forgotten;
    kelpie__timer_disarm(pending->wire->loop, &pending->timer);
    *pending = (struct kelpie_wire_pending){0};
    if (!is_forgotten) {
        callback(context, error, result, length);
    }
}

static void pending_timed_out(void *context) {
    struct kelpie_wire_pending *pending = context;
    struct kelpie_wire *wire = pending->wire;
    uint64_t id = pending->id;
    struct kelpie_error error;
    kelpie__wire_enter(wire);
    /* The answer may be here: who was away for long finds it and the end of its time at once. */
    if (!wire->is_closed) {
        kelpie__wire_read_rest(wire);
    }
    if (!wire->is_destroyed && !wire->is_closed && pending->id == id) {
        KELPIE_REACHED(wire->os, "a request was not answered in time");
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                                    "%s did not answer \"%s\" within %" PRIu64 " ms; it may hang, "
                                    "or its machine be overloaded: try again, or end the VM",
                                    wire->peer, pending->method, pending->timeout_ms));
        pending_end(pending, &error, NULL, 0);
    }
    kelpie__ignore(kelpie__wire_leave(wire)); /* nothing follows */
}

int kelpie__wire_call(struct kelpie_wire *wire, const char *method, const char *params,
                      uint64_t timeout_ms, kelpie_wire_answer_callback callback, void *context,
                      uint64_t *out_id, struct kelpie_error *error) {
    KELPIE_ASSERT(callback != NULL);
    KELPIE_ASSERT(timeout_ms > 0);
    struct kelpie_wire_pending *pending = pending_find(wire, 0);
    if (pending == NULL) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "%s: %u requests wait for an answer already; wait for one of them",
                            method, KELPIE_WIRE_CALL_COUNT_MAX);
    }
    int status = message_send_method(wire, method, params, wire->next_id);
    if (status == KELPIE_E_IO) {
        return kelpie__fail(error, status, 0, "%s: the connection is closed", method);
    }
    if (status == KELPIE_E_MISUSE) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "%s: %zu bytes of parameters; a message has %u at most", method,
                            strlen(params), KELPIE_MESSAGE_BYTES_MAX);
    }
    if (status < 0) {
        return kelpie__fail(error, status, 0, "%s: %s does not read; try again later", method,
                            wire->peer);
    }
    *pending = (struct kelpie_wire_pending){.id = wire->next_id,
                                            .callback = callback,
                                            .context = context,
                                            .timeout_ms = timeout_ms,
                                            .method = method,
                                            .wire = wire};
    wire->next_id += 1;
    int64_t deadline_ns = kelpie__loop_deadline(wire->loop, timeout_ms);
    if (deadline_ns >= 0) {
        kelpie__timer_arm(wire->loop, &pending->timer, deadline_ns, pending_timed_out, pending);
    }
    if (out_id != NULL) {
        *out_id = pending->id;
    }
    return 0;
}

void kelpie__wire_continue(struct kelpie_wire *wire, uint64_t first_id) {
    KELPIE_ASSERT(wire->next_id == 1 && !wire->has_former);
    KELPIE_ASSERT(first_id > 0 && first_id <= UINT64_C(1) << 48);
    wire->next_id = first_id;
    wire->has_former = true;
}

void kelpie__wire_is_known(struct kelpie_wire *wire) {
    KELPIE_ASSERT(wire->next_id > 1); /* it has answered something */
    wire->has_former = false;
}

void kelpie__wire_forget(struct kelpie_wire *wire, uint64_t id) {
    KELPIE_ASSERT(id > 0);
    struct kelpie_wire_pending *pending = pending_find(wire, id);
    if (pending != NULL) {
        pending->is_forgotten = true;
    }
}

bool kelpie__wire_fail_pending(struct kelpie_wire *wire, const struct kelpie_error *error) {
    KELPIE_ASSERT(wire->is_closed);
    KELPIE_ASSERT(wire->callback_depth > 0);
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX; i += 1) {
        if (wire->pending[i].id != 0) {
            pending_end(&wire->pending[i], error, NULL, 0);
        }
        if (wire->is_destroyed) {
            return false;
        }
    }
    return true;
}

void kelpie__wire_drop_pending(struct kelpie_wire *wire) {
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX; i += 1) {
        kelpie__timer_disarm(wire->loop, &wire->pending[i].timer);
        wire->pending[i] = (struct kelpie_wire_pending){0};
    }
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* How the peer's refusal becomes an error of ours. Its code may be anything. */
static void error_read(const struct kelpie_json_value *value, struct kelpie_error *out) {
    int64_t code = 0;
    int64_t os_error = 0;
    struct kelpie_json_value data;
    *out = (struct kelpie_error){.code = KELPIE_E_PROTOCOL};
    if (kelpie__json_find_i64(value->text, value->length, "code", &code) == 0) {
        if (code < 0 && code >= KELPIE_CODE_LAST) {
            out->code = (int)code;
        } else if (code == RPC_METHOD_NOT_FOUND) {
            out->code = KELPIE_E_UNSUPPORTED;
        } else if (code == RPC_INVALID_PARAMS) {
            out->code = KELPIE_E_MISUSE;
        }
    }
    if (kelpie__json_find_string(value->text, value->length, "message", out->message,
                                 sizeof(out->message)) < 0) {
        kelpie__ignore(kelpie__text_copy(out->message, sizeof(out->message),
                                         "the peer refused without a message"));
    }
    kelpie__text_clean(out->message); /* a guest's may be meant for a terminal */
    if (kelpie__json_find(value->text, value->length, "data", &data) == 0 &&
        data.kind == KELPIE_JSON_OBJECT) {
        kelpie__ignore(kelpie__json_find_string(data.text, data.length, "field", out->field,
                                                sizeof(out->field)));
        if (kelpie__json_find_i64(data.text, data.length, "os_error", &os_error) == 0 &&
            os_error > 0 && os_error < 4096) {
            out->os_error = (int)os_error;
        }
    }
}

/* Ends a value of the message with a zero, for callbacks: nothing behind it is looked at any more.
 */
static const char *value_terminate(char *text, const struct kelpie_json_value *value) {
    char *start = text + (value->text - text);
    KELPIE_ASSERT(value->text >= text && value->length > 0);
    start[value->length] = '\0';
    return start;
}

static void answer_receive(struct kelpie_wire *wire, uint64_t id, char *text,
                           const struct kelpie_json_member *result,
                           const struct kelpie_json_member *refusal) {
    if (id == 0 || (id >= wire->next_id && !wire->has_former)) {
        KELPIE_REACHED(wire->os, "an answer that nobody asked for");
        kelpie__wire_break(wire, "R12", "an answer to a request that was never made");
        return;
    }
    struct kelpie_wire_pending *pending = pending_find(wire, id);
    if (pending == NULL) {
        KELPIE_REACHED(wire->os, "a late answer was dropped by its id");
        return; /* late: its call has timed out, or it is somebody else's */
    }
    if (result->is_there) {
        if (result->value.kind != KELPIE_JSON_OBJECT) {
            kelpie__wire_break(wire, "R13", "a result that is no object");
            return;
        }
        pending_end(pending, NULL, value_terminate(text, &result->value), result->value.length);
        return;
    }
    if (!refusal->is_there || refusal->value.kind != KELPIE_JSON_OBJECT) {
        kelpie__wire_break(wire, "R13", "an answer without a result or an error");
        return;
    }
    struct kelpie_error error;
    error_read(&refusal->value, &error);
    pending_end(pending, &error, NULL, 0);
}

static void protocol_error_receive(struct kelpie_wire *wire, const char *params, size_t length) {
    struct kelpie_error error;
    char rule[16] = "?";
    char text[256] = "";
    kelpie__ignore(kelpie__json_find_string(params, length, "rule", rule, sizeof(rule)));
    kelpie__ignore(kelpie__json_find_string(params, length, "message", text, sizeof(text)));
    KELPIE_REACHED(wire->os, "the peer says that this side broke a rule");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_PROTOCOL, 0,
                                "%s says that this side broke the protocol's rule %s: %s",
                                wire->peer, rule, text));
    kelpie__wire_close(wire, &error);
}

/* `id` 0: a notification. */
static void method_receive(struct kelpie_wire *wire, const char *method, uint64_t id, char *text,
                           const struct kelpie_json_member *given) {
    const char *params = "{}";
    size_t length = 2;
    if (given->is_there) {
        if (given->value.kind != KELPIE_JSON_OBJECT) {
            kelpie__wire_break(wire, "R11", "parameters that are no object");
            return;
        }
        params = value_terminate(text, &given->value);
        length = given->value.length;
    }
    if (id != 0) {
        wire->callbacks->request(wire->context, id, method, params, length);
    } else if (kelpie__text_equal(method, "protocol_error")) {
        protocol_error_receive(wire, params, length);
    } else {
        wire->callbacks->notification(wire->context, method, params, length);
    }
}

/* What is looked at in a message. */
enum message_member {
    MESSAGE_VERSION,
    MESSAGE_ID,
    MESSAGE_METHOD,
    MESSAGE_PARAMS,
    MESSAGE_RESULT,
    MESSAGE_ERROR,
    MESSAGE_MEMBER_COUNT,
};

void kelpie__wire_message(struct kelpie_wire *wire, char *text, size_t length) {
    struct kelpie_json_member members[MESSAGE_MEMBER_COUNT] = {
        [MESSAGE_VERSION] = {.key = "jsonrpc"}, [MESSAGE_ID] = {.key = "id"},
        [MESSAGE_METHOD] = {.key = "method"},   [MESSAGE_PARAMS] = {.key = "params"},
        [MESSAGE_RESULT] = {.key = "result"},   [MESSAGE_ERROR] = {.key = "error"}};
    char version[8];
    char method[KELPIE_METHOD_BYTES_MAX];
    uint64_t id = 0;
    text[length] = '\0';
    if (kelpie__json_members(text, length, members, MESSAGE_MEMBER_COUNT) < 0 ||
        !members[MESSAGE_VERSION].is_there ||
        kelpie__json_string(&members[MESSAGE_VERSION].value, version, sizeof(version), NULL) < 0 ||
        !kelpie__text_equal(version, "2.0")) {
        kelpie__wire_break(wire, "R10", "a message is one JSON-RPC 2.0 object");
        return;
    }
    bool has_id = members[MESSAGE_ID].is_there;
    if (has_id && (kelpie__json_u64(&members[MESSAGE_ID].value, &id) < 0 || id == 0)) {
        kelpie__wire_break(wire, "R10", "an id is a whole number from 1");
        return;
    }
    bool has_method = members[MESSAGE_METHOD].is_there;
    if (has_method &&
        kelpie__json_string(&members[MESSAGE_METHOD].value, method, sizeof(method), NULL) < 0) {
        kelpie__wire_break(wire, "R10", "a method is a text of less than %u bytes",
                           KELPIE_METHOD_BYTES_MAX);
    } else if (has_method) {
        method_receive(wire, method, id, text, &members[MESSAGE_PARAMS]);
    } else if (has_id) {
        answer_receive(wire, id, text, &members[MESSAGE_RESULT], &members[MESSAGE_ERROR]);
    } else {
        kelpie__wire_break(wire, "R10", "neither a method nor an answer");
    }
}
