/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The QMP conversation: see qmp.h. Greeting -> Negotiating -> Ready -> Closed. QEMU ends each text
 * with a line break and writes none inside, so a line is a message; its bound is a fixed buffer.
 */
#include "vmm/qemu/qmp.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define QMP_LINE_BYTES_MAX (8u * 1024u)
#define QMP_SEND_BYTES_MAX (32u * 1024u)
#define QMP_STRAY_COUNT_MAX 64u
#define QMP_READS_PER_STEP_MAX 4u
#define QMP_DRAIN_READS_MAX 64u
#define QMP_NEGOTIATE_ID 1u

static_assert(KELPIE_QMP_ARGUMENT_BYTES_MAX < QMP_SEND_BYTES_MAX, "a command fits");

enum qmp_state { QMP_GREETING, QMP_NEGOTIATING, QMP_READY, QMP_CLOSED };

struct qmp_command {
    struct kelpie_qmp *qmp;
    uint64_t id; /* 0: free */
    const char *name;
    uint32_t timeout_ms;
    struct kelpie_timer timer;
    kelpie_qmp_answer_callback callback;
    void *context;
};

struct kelpie_qmp {
    struct kelpie_os *os;     /* borrowed: until destroy */
    struct kelpie_loop *loop; /* borrowed: until destroy */
    int stream;               /* owned */
    uint32_t watch;
    bool is_watched;
    enum qmp_state state;
    struct kelpie_qmp_callbacks callbacks;
    void *context;
    uint64_t next_id;
    uint32_t stray_count;
    struct qmp_command commands[KELPIE_QMP_COMMAND_COUNT_MAX];
    struct kelpie_timer write_failed;
    int write_error; /* positive errno value, once a write failed */
    size_t line_bytes;
    size_t send_bytes;
    int handle;       /* borrowed: goes with the byte at handle_at; or KELPIE_OS_NO_HANDLE */
    size_t handle_at; /* in what is to be sent */
    char version[KELPIE_QMP_VERSION_BYTES_MAX];
    char line[QMP_LINE_BYTES_MAX];
    char send[QMP_SEND_BYTES_MAX];
};

static void kelpie__qmp_check(const struct kelpie_qmp *qmp) {
    KELPIE_ASSERT(qmp->line_bytes <= sizeof(qmp->line));
    KELPIE_ASSERT(qmp->send_bytes <= sizeof(qmp->send));
    KELPIE_ASSERT(qmp->next_id > QMP_NEGOTIATE_ID);
    if (qmp->handle != KELPIE_OS_NO_HANDLE) {
        KELPIE_ASSERT(qmp->handle_at < qmp->send_bytes);
    }
    if (qmp->state == QMP_CLOSED) {
        KELPIE_ASSERT(!qmp->is_watched);
    }
}

/* Frees the entry, then answers: the callback may send the next command. */
static void qmp_answer(struct qmp_command *command, int status,
                       const struct kelpie_json_value *result, const struct kelpie_error *error) {
    KELPIE_ASSERT(command->id != 0);
    KELPIE_ASSERT(status == 0 ? result != NULL : error != NULL);
    kelpie_qmp_answer_callback callback = command->callback;
    void *context = command->context;
    kelpie__timer_disarm(command->qmp->loop, &command->timer);
    command->id = 0;
    callback(context, status, result, error);
}

static void qmp_close(struct kelpie_qmp *qmp, const struct kelpie_error *error) {
    if (qmp->state == QMP_CLOSED) {
        return;
    }
    KELPIE_ASSERT(error->code < 0);
    qmp->state = QMP_CLOSED;
    qmp->handle = KELPIE_OS_NO_HANDLE;
    kelpie__timer_disarm(qmp->loop, &qmp->write_failed);
    if (qmp->is_watched) {
        kelpie__loop_unwatch(qmp->loop, qmp->watch);
        qmp->is_watched = false;
    }
    for (uint32_t i = 0; i < KELPIE_QMP_COMMAND_COUNT_MAX; i += 1) {
        if (qmp->commands[i].id != 0) {
            KELPIE_REACHED(qmp->os, "QMP closed with a command under way");
            qmp_answer(&qmp->commands[i], error->code, NULL, error);
        }
    }
    kelpie__qmp_check(qmp);
    qmp->callbacks.closed(qmp->context, error);
}

static void qmp_break(struct kelpie_qmp *qmp, const char *rule) {
    struct kelpie_error error = {0};
    KELPIE_REACHED(qmp->os, "QEMU broke QMP");
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_PROTOCOL, 0, "QEMU broke QMP: %s", rule));
    qmp_close(qmp, &error);
}

static void qmp_watch_for(struct kelpie_qmp *qmp, uint32_t bits) {
    KELPIE_ASSERT(qmp->is_watched);
    KELPIE_ASSERT((bits & KELPIE_OS_READABLE) != 0);
    kelpie__loop_watch_change(qmp->loop, qmp->watch, bits);
}

static void qmp_write_failed(void *context) {
    struct kelpie_qmp *qmp = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(qmp->write_error > 0);
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, qmp->write_error, "write to QMP"));
    qmp_close(qmp, &error);
}

/* Writes what is waiting, up to the byte that takes a handle along; then that byte and the rest. */
static int64_t qmp_write(struct kelpie_qmp *qmp) {
    if (qmp->handle == KELPIE_OS_NO_HANDLE) {
        return kelpie__os_write(qmp->os, qmp->stream, qmp->send, qmp->send_bytes);
    }
    if (qmp->handle_at > 0) {
        int64_t count = kelpie__os_write(qmp->os, qmp->stream, qmp->send, qmp->handle_at);
        qmp->handle_at -= count > 0 ? (size_t)count : 0;
        return count;
    }
    int64_t count =
        kelpie__os_send(qmp->os, qmp->stream, qmp->send, qmp->send_bytes, &qmp->handle, 1);
    if (count > 0) {
        qmp->handle = KELPIE_OS_NO_HANDLE;
    }
    return count;
}

/* What cannot be written now goes when the stream is writable. */
static void qmp_flush(struct kelpie_qmp *qmp) {
    KELPIE_ASSERT(qmp->state != QMP_CLOSED);
    KELPIE_ASSERT(qmp->send_bytes > 0);
    int64_t count = qmp_write(qmp);
    if (count < 0 && count != -EAGAIN && count != -EINTR) {
        KELPIE_REACHED(qmp->os, "a write to QMP failed");
        /* Told from the loop: the caller of execute is not called back inside its call. */
        qmp->write_error = (int)-count;
        qmp->send_bytes = 0;
        qmp->handle = KELPIE_OS_NO_HANDLE;
        kelpie__timer_arm(qmp->loop, &qmp->write_failed, qmp->loop->now_ns, qmp_write_failed, qmp);
        return;
    }
    if (count > 0) {
        KELPIE_ASSERT((uint64_t)count <= qmp->send_bytes);
        qmp->send_bytes -= (size_t)count;
        memmove(qmp->send, qmp->send + count, qmp->send_bytes);
    }
    qmp_watch_for(qmp, qmp->send_bytes > 0 ? KELPIE_OS_READABLE | KELPIE_OS_WRITABLE
                                           : KELPIE_OS_READABLE);
}

static bool qmp_send(struct kelpie_qmp *qmp, const struct kelpie_qmp_command *command,
                     uint64_t id) {
    kelpie__qmp_check(qmp);
    size_t room = sizeof(qmp->send) - qmp->send_bytes;
    bool has_handle = command->handle != KELPIE_OS_NO_HANDLE;
    const char *arguments = command->arguments != NULL ? command->arguments : "";
    char *text = qmp->send + qmp->send_bytes;
    if (room == 0 ||
        !kelpie__text_format(text, room, "{\"execute\":\"%s\"%s%s,\"id\":%llu}\n", command->name,
                             arguments[0] != '\0' ? ",\"arguments\":" : "", arguments,
                             (unsigned long long)id) ||
        (has_handle && qmp->handle != KELPIE_OS_NO_HANDLE)) {
        return false; /* never half a text: see the head of qmp.h */
    }
    if (has_handle) {
        qmp->handle = command->handle;
        qmp->handle_at = qmp->send_bytes;
    }
    qmp->send_bytes += strlen(text);
    qmp_flush(qmp);
    return true;
}

/* "7.2.22" of {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}}}. */
static void qmp_greeting_version(struct kelpie_qmp *qmp, const struct kelpie_json_value *greeting) {
    struct kelpie_json_value version;
    struct kelpie_json_value qemu;
    uint64_t number[3];
    if (kelpie__json_find(greeting->text, greeting->length, "version", &version) == 0 &&
        kelpie__json_find(version.text, version.length, "qemu", &qemu) == 0 &&
        kelpie__json_find_u64(qemu.text, qemu.length, "major", &number[0]) == 0 &&
        kelpie__json_find_u64(qemu.text, qemu.length, "minor", &number[1]) == 0 &&
        kelpie__json_find_u64(qemu.text, qemu.length, "micro", &number[2]) == 0 &&
        number[0] <= UINT16_MAX && number[1] <= UINT16_MAX && number[2] <= UINT16_MAX) {
        bool is_whole = kelpie__text_format(
            qmp->version, sizeof(qmp->version), "%llu.%llu.%llu", (unsigned long long)number[0],
            (unsigned long long)number[1], (unsigned long long)number[2]);
        KELPIE_ASSERT(is_whole);
    }
}

static void qmp_greeting(struct kelpie_qmp *qmp, const struct kelpie_json_value *greeting) {
    const struct kelpie_qmp_command negotiate = {.name = "qmp_capabilities",
                                                 .handle = KELPIE_OS_NO_HANDLE};
    KELPIE_ASSERT(qmp->state == QMP_GREETING);
    KELPIE_ASSERT(qmp->send_bytes == 0);
    if (greeting == NULL) {
        qmp_break(qmp, "the first message is not a greeting");
        return;
    }
    qmp_greeting_version(qmp, greeting);
    qmp->state = QMP_NEGOTIATING;
    bool is_sent = qmp_send(qmp, &negotiate, QMP_NEGOTIATE_ID);
    KELPIE_ASSERT(is_sent);
}

static void qmp_stray(struct kelpie_qmp *qmp) {
    KELPIE_ASSERT(qmp->stray_count < QMP_STRAY_COUNT_MAX);
    qmp->stray_count += 1;
    if (qmp->stray_count == QMP_STRAY_COUNT_MAX) {
        qmp_break(qmp, "too many answers that nobody asked for");
    }
}

/* For a planted bug alone: the command that was asked last, of those that wait; 0: none does. */
static uint64_t qmp_asked_last(const struct kelpie_qmp *qmp) {
    uint64_t last = 0;
    for (uint32_t i = 0; i < KELPIE_QMP_COMMAND_COUNT_MAX; i += 1) {
        last = qmp->commands[i].id > last ? qmp->commands[i].id : last;
    }
    return last;
}

/* What a message may have: read in one pass over it. */
enum qmp_member {
    QMP_MEMBER_RETURN,
    QMP_MEMBER_ID,
    QMP_MEMBER_EVENT,
    QMP_MEMBER_DATA,
    QMP_MEMBER_ERROR,
    QMP_MEMBER_GREETING,
    QMP_MEMBER_COUNT,
};

/* An answer: "return" with its result, or "error" with its words. */
static void qmp_message_answer(struct kelpie_qmp *qmp, const struct kelpie_json_member *message) {
    const struct kelpie_json_member *result = &message[QMP_MEMBER_RETURN];
    const struct kelpie_json_value *refusal =
        result->is_there ? NULL : &message[QMP_MEMBER_ERROR].value;
    KELPIE_ASSERT(result->is_there || message[QMP_MEMBER_ERROR].is_there);
    uint64_t id = 0;
    struct kelpie_json_value value;
    bool has_id = message[QMP_MEMBER_ID].is_there &&
                  kelpie__json_u64(&message[QMP_MEMBER_ID].value, &id) == 0;
    struct kelpie_error error = {0};
    int status = 0;
    if (refusal != NULL) {
        char words[256] = "";
        if (kelpie__json_find(refusal->text, refusal->length, "desc", &value) == 0) {
            /* A text that does not fit or is damaged leaves the words empty. */
            kelpie__ignore(kelpie__json_string(&value, words, sizeof(words), NULL));
        }
        KELPIE_REACHED(qmp->os, "QEMU refused a command");
        status = kelpie__fail(&error, KELPIE_E_INTERNAL, 0, "QEMU refused: %s", words);
    }
    if (has_id && id == QMP_NEGOTIATE_ID && qmp->state == QMP_NEGOTIATING) {
        if (status < 0) {
            qmp_close(qmp, &error);
            return;
        }
        qmp->state = QMP_READY;
        qmp->callbacks.ready(qmp->context);
        return;
    }
    uint64_t wanted = KELPIE_CANARY(qmp->os, 14) ? qmp_asked_last(qmp) : id;
    for (uint32_t i = 0; has_id && i < KELPIE_QMP_COMMAND_COUNT_MAX; i += 1) {
        if (qmp->commands[i].id == wanted && wanted != 0) {
            KELPIE_TELL(qmp->os, "qmp-answer", qmp->stream, qmp->commands[i].id);
            qmp_answer(&qmp->commands[i], status, result->is_there ? &result->value : NULL,
                       status < 0 ? &error : NULL);
            return;
        }
    }
    bool is_late = has_id && id > QMP_NEGOTIATE_ID && id < qmp->next_id;
    KELPIE_SOMETIMES(qmp->os, "a late answer of QMP was dropped by its id", is_late);
    if (!is_late) {
        qmp_stray(qmp);
    }
}

/* A word of the event's data; empty when there is none, or one that is none of ours. */
static void qmp_event_word(const struct kelpie_json_member *data, const char *key,
                           char out[KELPIE_QMP_REASON_BYTES_MAX]) {
    KELPIE_ASSERT(strcmp(data->key, "data") == 0);
    bool has_word =
        data->is_there && kelpie__json_find_string(data->value.text, data->value.length, key, out,
                                                   KELPIE_QMP_REASON_BYTES_MAX) == 0;
    if (!has_word) {
        out[0] = '\0';
    }
}

static void qmp_message_event(struct kelpie_qmp *qmp, const struct kelpie_json_member *message) {
    const struct kelpie_json_value *name = &message[QMP_MEMBER_EVENT].value;
    const struct kelpie_json_member *data = &message[QMP_MEMBER_DATA];
    char text[KELPIE_QMP_REASON_BYTES_MAX];
    struct kelpie_qmp_event event = {0};
    KELPIE_ASSERT(qmp->state != QMP_CLOSED);
    if (kelpie__json_string(name, text, sizeof(text), NULL) < 0) {
        return; /* a name so long is none of ours */
    }
    if (strcmp(text, "STOP") == 0) {
        event.type = KELPIE_QMP_EVENT_STOP;
    } else if (strcmp(text, "RESUME") == 0) {
        event.type = KELPIE_QMP_EVENT_RESUME;
    } else if (strcmp(text, "SHUTDOWN") == 0) {
        event.type = KELPIE_QMP_EVENT_SHUTDOWN;
        qmp_event_word(data, "reason", event.reason);
    } else if (strcmp(text, "MIGRATION") == 0) {
        event.type = KELPIE_QMP_EVENT_MIGRATION;
        qmp_event_word(data, "status", event.reason);
    } else {
        return;
    }
    KELPIE_ASSERT(event.reason[sizeof(event.reason) - 1] == '\0');
    qmp->callbacks.event(qmp->context, &event);
}

static void qmp_message(struct kelpie_qmp *qmp) {
    struct kelpie_json_member message[QMP_MEMBER_COUNT] = {
        [QMP_MEMBER_RETURN] = {.key = "return"}, [QMP_MEMBER_ID] = {.key = "id"},
        [QMP_MEMBER_EVENT] = {.key = "event"},   [QMP_MEMBER_DATA] = {.key = "data"},
        [QMP_MEMBER_ERROR] = {.key = "error"},   [QMP_MEMBER_GREETING] = {.key = "QMP"},
    };
    kelpie__qmp_check(qmp);
    KELPIE_ASSERT(qmp->state != QMP_CLOSED);
    bool is_object =
        kelpie__json_members(qmp->line, qmp->line_bytes, message, QMP_MEMBER_COUNT) == 0;
    if (!is_object && kelpie__json_validate(qmp->line, qmp->line_bytes) < 0) {
        qmp_break(qmp, "a line is not JSON");
        return;
    }
    const struct kelpie_json_member *greeting = &message[QMP_MEMBER_GREETING];
    if (qmp->state == QMP_GREETING) {
        qmp_greeting(qmp, is_object && greeting->is_there ? &greeting->value : NULL);
    } else if (is_object && greeting->is_there) {
        qmp_break(qmp, "a second greeting");
    } else if (is_object && message[QMP_MEMBER_EVENT].is_there) {
        qmp_message_event(qmp, message);
    } else if (is_object &&
               (message[QMP_MEMBER_RETURN].is_there || message[QMP_MEMBER_ERROR].is_there)) {
        qmp_message_answer(qmp, message);
    } else {
        qmp_break(qmp, "a message is neither an answer nor an event");
    }
}

/* How many bytes stand before the first that ends a line; count: none does. */
static size_t qmp_line_length(const char *bytes, size_t count) {
    const char *end = memchr(bytes, '\n', count);
    size_t length = end == NULL ? count : (size_t)(end - bytes);
    const char *carriage = memchr(bytes, '\r', length);
    KELPIE_ASSERT(length <= count);
    return carriage == NULL ? length : (size_t)(carriage - bytes);
}

static void qmp_take(struct kelpie_qmp *qmp, const char *bytes, size_t count) {
    size_t at = 0;
    while (at < count && qmp->state != QMP_CLOSED) { /* bound: the bytes */
        size_t length = qmp_line_length(bytes + at, count - at);
        if (length > sizeof(qmp->line) - qmp->line_bytes) {
            qmp_break(qmp, "a line is longer than 8 KiB");
            return;
        }
        memcpy(qmp->line + qmp->line_bytes, bytes + at, length);
        qmp->line_bytes += length;
        at += length;
        if (at < count && qmp->line_bytes > 0) {
            qmp_message(qmp);
            qmp->line_bytes = 0;
        }
        at += 1;
    }
    kelpie__qmp_check(qmp);
}

/* Reads up to `budget` times, until there is no more. Of the one to whom readiness is told, a read
 * that was not filled was the last: what comes later makes the handle ready again. */
static void qmp_read(struct kelpie_qmp *qmp, uint32_t budget, bool is_told) {
    KELPIE_ASSERT(budget > 0);
    for (uint32_t i = 0; i < budget && qmp->state != QMP_CLOSED; i += 1) {
        char bytes[4096];
        int64_t count = kelpie__os_read(qmp->os, qmp->stream, bytes, sizeof(bytes));
        if (count == -EAGAIN || count == -EINTR) {
            return;
        }
        if (count <= 0) {
            struct kelpie_error error = {0};
            kelpie__ignore(kelpie__fail(&error, KELPIE_E_CRASHED, (int)-count, "QEMU closed QMP"));
            qmp_close(qmp, &error);
            return;
        }
        KELPIE_ASSERT((uint64_t)count <= sizeof(bytes));
        qmp_take(qmp, bytes, (size_t)count);
        if (is_told && (size_t)count < sizeof(bytes)) {
            return;
        }
    }
}

static void qmp_ready(void *context, uint32_t bits) {
    struct kelpie_qmp *qmp = context;
    kelpie__qmp_check(qmp);
    KELPIE_ASSERT(qmp->state != QMP_CLOSED);
    if ((bits & KELPIE_OS_WRITABLE) != 0 && qmp->send_bytes > 0) {
        qmp_flush(qmp);
    }
    if ((bits & (KELPIE_OS_READABLE | KELPIE_OS_HANGUP)) != 0) {
        qmp_read(qmp, QMP_READS_PER_STEP_MAX, true);
    }
}

static void qmp_command_timeout(void *context) {
    struct qmp_command *command = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(command->id != 0);
    int status =
        kelpie__fail(&error, KELPIE_E_TIMEOUT, 0, "QEMU did not answer \"%s\" within %u ms",
                     command->name, command->timeout_ms);
    KELPIE_REACHED(command->qmp->os, "a QMP command was not answered in time");
    if (command->qmp->handle != KELPIE_OS_NO_HANDLE) {
        /* Its owner may close the handle now, and half a text would wedge QEMU. */
        qmp_break(command->qmp, "it reads no more commands");
        return;
    }
    qmp_answer(command, status, NULL, &error);
}

int kelpie__qmp_create(struct kelpie_os *os, struct kelpie_loop *loop, int stream,
                       const struct kelpie_qmp_callbacks *callbacks, void *context,
                       struct kelpie_qmp **out, struct kelpie_error *error) {
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(callbacks->ready != NULL && callbacks->closed != NULL);
    struct kelpie_qmp *qmp = kelpie__alloc_raw(os, sizeof(*qmp));
    if (qmp == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes for QMP", sizeof(*qmp));
    }
    memset(qmp, 0, offsetof(struct kelpie_qmp, line)); /* behind it are buffers */
    qmp->os = os;
    qmp->loop = loop;
    qmp->state = QMP_GREETING;
    qmp->callbacks = *callbacks;
    qmp->context = context;
    qmp->next_id = QMP_NEGOTIATE_ID + 1;
    qmp->handle = KELPIE_OS_NO_HANDLE;
    int status = kelpie__loop_watch(loop, stream, KELPIE_OS_READABLE, qmp_ready, qmp, &qmp->watch);
    if (status < 0) {
        kelpie__free(os, qmp, sizeof(*qmp));
        return kelpie__fail(error, status, 0, "watch QMP");
    }
    qmp->is_watched = true;
    qmp->stream = stream;
    kelpie__qmp_check(qmp);
    *out = qmp;
    return 0;
}

int kelpie__qmp_execute(struct kelpie_qmp *qmp, const struct kelpie_qmp_command *command,
                        kelpie_qmp_answer_callback callback, void *context,
                        struct kelpie_error *error) {
    kelpie__qmp_check(qmp);
    KELPIE_ASSERT(callback != NULL && command->timeout_ms > 0);
    if (qmp->state != QMP_READY) {
        return kelpie__fail(error, KELPIE_E_CRASHED, 0, "QMP is not open for \"%s\"",
                            command->name);
    }
    struct qmp_command *entry = NULL;
    for (uint32_t i = 0; i < KELPIE_QMP_COMMAND_COUNT_MAX && entry == NULL; i += 1) {
        if (qmp->commands[i].id == 0) {
            entry = &qmp->commands[i];
        }
    }
    if (entry == NULL) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%u QMP commands are under way, at most %u",
                            KELPIE_QMP_COMMAND_COUNT_MAX, KELPIE_QMP_COMMAND_COUNT_MAX);
    }
    uint64_t id = qmp->next_id;
    qmp->next_id += 1;
    if (!qmp_send(qmp, command, id)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "QEMU reads no more QMP commands");
    }
    *entry = (struct qmp_command){.qmp = qmp,
                                  .id = id,
                                  .name = command->name,
                                  .timeout_ms = command->timeout_ms,
                                  .callback = callback,
                                  .context = context};
    int64_t deadline_ns = qmp->loop->now_ns + (int64_t)command->timeout_ms * KELPIE_NS_PER_MS;
    kelpie__timer_arm(qmp->loop, &entry->timer, deadline_ns, qmp_command_timeout, entry);
    return 0;
}

const char *kelpie__qmp_version(const struct kelpie_qmp *qmp) {
    kelpie__qmp_check(qmp);
    return qmp->version;
}

void kelpie__qmp_drain(struct kelpie_qmp *qmp) {
    kelpie__qmp_check(qmp);
    qmp_read(qmp, QMP_DRAIN_READS_MAX, false);
}

void kelpie__qmp_destroy(struct kelpie_qmp *qmp) {
    if (qmp == NULL) {
        return;
    }
    kelpie__qmp_check(qmp);
    for (uint32_t i = 0; i < KELPIE_QMP_COMMAND_COUNT_MAX; i += 1) {
        if (qmp->commands[i].id != 0) {
            kelpie__timer_disarm(qmp->loop, &qmp->commands[i].timer);
        }
    }
    kelpie__timer_disarm(qmp->loop, &qmp->write_failed);
    if (qmp->is_watched) {
        kelpie__loop_unwatch(qmp->loop, qmp->watch);
    }
    kelpie__ignore(kelpie__os_close(qmp->os, qmp->stream)); /* QEMU is gone or being killed */
    kelpie__free(qmp->os, qmp, sizeof(*qmp));
}
