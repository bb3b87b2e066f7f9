/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * QMP as QEMU 7.2.22 speaks it: see qemu.h. One command at a time: what comes meanwhile waits in
 * the stream. Events go out before the answer of the command that caused them. Faults lose, delay
 * and reorder what is said, or end the process in the middle of it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"
#include "sim/stream.h"

#define QMP_GREETING                                                                               \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "             \
    "\"package\": \"Debian 1:7.2+dfsg-7+deb12u18+b3\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define QMP_LINE_BYTES 2048u
#define QMP_SIGNAL_SEGV 11
#define QMP_READS_PER_STEP_MAX 8u

static void qmp_serve_input(struct sim_qemu *qemu);

static void qmp_check(const struct sim_qemu_qmp *qmp) {
    KELPIE_ASSERT(qmp->output_count <= sizeof(qmp->output));
    KELPIE_ASSERT(qmp->input_start + qmp->input_count <= sizeof(qmp->input));
    KELPIE_ASSERT(qmp->late_count <= sizeof(qmp->late));
    if (qmp->is_watched) {
        KELPIE_ASSERT(qmp->handle != KELPIE_OS_NO_HANDLE);
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

/* While a command is under way nothing is read. Mostly nothing comes then: the watch is kept for
 * the next command, and taken back by whoever is woken meanwhile (`is_woken`). */
static void qmp_watch(struct sim_qemu *qemu, bool is_woken) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    if (!qmp->is_watched || qemu->is_hung) {
        return;
    }
    bool is_held = qmp->held_until_ns > qemu->loop->now_ns;
    bool is_reading = qmp->is_serving && !qmp->is_busy && qmp->input_count == 0;
    bool is_writing = qmp->output_count > 0 && !is_held;
    qmp->is_reading = is_reading || (qmp->is_reading && !is_woken);
    kelpie__loop_watch_change(qemu->loop, qmp->watch,
                              (qmp->is_reading ? (uint32_t)KELPIE_OS_READABLE : 0u) |
                                  (is_writing ? (uint32_t)KELPIE_OS_WRITABLE : 0u));
}

/* Its client has gone: QEMU lives on, and nobody can talk to it any more. */
void kelpie__sim_qemu_qmp_close(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    if (qmp->is_watched) {
        kelpie__loop_unwatch(qemu->loop, qmp->watch);
        qmp->is_watched = false;
    }
    if (qmp->handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(qemu->os, qmp->handle));
        qmp->handle = KELPIE_OS_NO_HANDLE;
    }
    qmp->output_count = 0;
    qmp_check(qmp);
}

static void qmp_flush(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    bool is_held = qmp->held_until_ns > qemu->loop->now_ns;
    if (qmp->handle == KELPIE_OS_NO_HANDLE || qmp->output_count == 0 || is_held || qemu->is_hung) {
        return;
    }
    int64_t count = kelpie__os_write(qemu->os, qmp->handle, qmp->output, qmp->output_count);
    if (count > 0) {
        KELPIE_ASSERT((uint64_t)count <= qmp->output_count);
        qmp->output_count -= (size_t)count;
        memmove(qmp->output, qmp->output + count, qmp->output_count);
    } else if (count != -EAGAIN && count != -EINTR) {
        kelpie__sim_qemu_qmp_close(qemu);
    }
    qmp_watch(qemu, false);
}

static void qmp_hold_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(!qemu->is_hung);
    qmp_flush(qemu);
    qmp_watch(qemu, false);
}

/* From now on nothing is written for so long. */
static void qmp_hold(struct sim_qemu *qemu, int64_t duration_ns) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    KELPIE_ASSERT(duration_ns >= 0);
    int64_t until_ns = qemu->loop->now_ns + duration_ns;
    qmp->held_until_ns = until_ns > qmp->held_until_ns ? until_ns : qmp->held_until_ns;
    kelpie__timer_arm(qemu->loop, &qmp->hold_timer, qmp->held_until_ns, qmp_hold_due, qemu);
}

/* A client that reads nothing loses what does not fit: the real one would use memory without end.
 */
static void qmp_put(struct sim_qemu_qmp *qmp, const char *text, size_t count) {
    if (count <= sizeof(qmp->output) - qmp->output_count) {
        memcpy(qmp->output + qmp->output_count, text, count);
        qmp->output_count += count;
    }
    qmp_check(qmp);
}

/* Events that were kept back. */
static void qmp_put_late(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    qmp_put(qmp, qmp->late, qmp->late_count);
    qmp->late_count = 0;
    qmp_flush(qemu);
}

void kelpie__sim_qemu_event(struct sim_qemu *qemu, const char *name, const char *format, ...) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    char data[QMP_LINE_BYTES];
    char line[QMP_LINE_BYTES + 256];
    uint64_t argument = 0;
    va_list list;
    data[0] = '\0';
    if (format != NULL) {
        va_start(list, format);
        kelpie__text_format_list(data, sizeof(data), format, list);
        va_end(list);
    }
    if (!qmp->is_negotiated || qmp->handle == KELPIE_OS_NO_HANDLE) {
        return;
    }
    int64_t wall_ns = kelpie__os_now(qemu->os, KELPIE_OS_CLOCK_WALL);
    const char *fault = kelpie__sim_qemu_fault(qemu, "qmp.event", &argument);
    bool is_whole = kelpie__text_format(
        line, sizeof(line),
        "{\"timestamp\": {\"seconds\": %lld, \"microseconds\": %lld}, \"event\": \"%s\"%s%s}\r\n",
        (long long)(wall_ns / KELPIE_NS_PER_S), (long long)(wall_ns % KELPIE_NS_PER_S / 1000), name,
        data[0] == '\0' ? "" : ", \"data\": ", data);
    KELPIE_ASSERT(is_whole);
    if (kelpie__sim_qemu_fault_is(fault, "drop")) {
        return;
    }
    size_t length = strlen(line);
    bool is_late = kelpie__sim_qemu_fault_is(fault, "late");
    bool is_swapped = qmp->is_busy && (kelpie__sim_qemu_fault_is(fault, "swap") ||
                                       kelpie__sim_qemu_fault_is(qmp->fault, "swap"));
    bool is_behind = qmp->late_count > 0; /* events do not overtake events */
    if (is_late) { /* all that is written later waits behind it, as in the real one */
        qmp_hold(qemu, kelpie__sim_qemu_fault_delay(argument));
    }
    if ((is_swapped || is_behind) && length <= sizeof(qmp->late) - qmp->late_count) {
        memcpy(qmp->late + qmp->late_count, line, length);
        qmp->late_count += length;
        return;
    }
    qmp_put(qmp, line, length);
    qmp_flush(qemu);
}

/* Which request has its answer, for invariant 29. */
static void qmp_note_answer(struct sim_qemu *qemu) {
    const struct sim_qemu_qmp *qmp = &qemu->qmp;
    uint64_t id = 0;
    if (qmp->handle != KELPIE_OS_NO_HANDLE && kelpie__text_u64(qmp->id, &id)) {
        kelpie__sim_stream_answer(kelpie__sim_handle_object(qemu->process, qmp->handle), id);
    }
}

/* The line of an answer, and what the plan makes of it. */
static void qmp_answer(struct sim_qemu *qemu, const char *line) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    KELPIE_ASSERT(!qmp->is_answered);
    qmp->is_answered = true;
    qmp_note_answer(qemu);
    if (kelpie__sim_qemu_fault_is(qmp->fault, "die")) {
        kelpie__sim_qemu_die(qemu, QMP_SIGNAL_SEGV);
        return;
    }
    if (kelpie__sim_qemu_fault_is(qmp->fault, "late")) {
        qmp_hold(qemu, kelpie__sim_qemu_fault_delay(qmp->fault_argument));
    }
    if (!kelpie__sim_qemu_fault_is(qmp->fault, "drop")) {
        qmp_put(qmp, line, strlen(line));
    }
    qmp->fault = NULL;
    qmp_put_late(qemu);
}

void kelpie__sim_qemu_return(struct sim_qemu *qemu, const char *json) {
    const struct sim_qemu_qmp *qmp = &qemu->qmp;
    char line[QMP_LINE_BYTES + sizeof(qmp->id)];
    bool has_id = qmp->id[0] != '\0';
    bool is_whole = kelpie__text_format(line, sizeof(line), "{\"return\": %s%s%s}\r\n", json,
                                        has_id ? ", \"id\": " : "", qmp->id);
    KELPIE_ASSERT(is_whole);
    KELPIE_ASSERT(qmp->is_busy);
    qmp_answer(qemu, line);
}

void kelpie__sim_qemu_refuse(struct sim_qemu *qemu, const char *class_name, const char *format,
                             ...) {
    const struct sim_qemu_qmp *qmp = &qemu->qmp;
    char words[QMP_LINE_BYTES / 2];
    char text[2 * QMP_LINE_BYTES];
    char line[3 * QMP_LINE_BYTES];
    struct kelpie_json_writer writer;
    va_list list;
    va_start(list, format);
    kelpie__text_format_list(words, sizeof(words), format, list); /* a cut text will do */
    va_end(list);
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_write_string(&writer, NULL, words); /* quotes and escapes it */
    int64_t length = kelpie__json_finish(&writer);
    bool has_id = qmp->id[0] != '\0';
    bool is_whole = kelpie__text_format(line, sizeof(line),
                                        "{%s%s%s\"error\": {\"class\": \"%s\", \"desc\": %s}}\r\n",
                                        has_id ? "\"id\": " : "", qmp->id, has_id ? ", " : "",
                                        class_name, length < 0 ? "\"\"" : text);
    KELPIE_ASSERT(is_whole);
    qmp_answer(qemu, line);
}

/* ---- commands -------------------------------------------------------------------------------- */

static void qmp_done(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    qmp->is_busy = false;
    qmp->command = NULL;
    if (!qemu->is_hung) {
        qmp_serve_input(qemu);
    }
    qmp_check(qmp);
}

static void qmp_command_due(void *context) {
    struct sim_qemu *qemu = context;
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    KELPIE_ASSERT(qmp->is_busy && qmp->command != NULL);
    qmp->command->run(qemu);
    KELPIE_ASSERT(qmp->is_answered || qemu->is_hung || qemu->is_ended);
    qmp_done(qemu);
}

/* Nothing was wrong but the words. */
static void qmp_refuse_input(struct sim_qemu *qemu, const char *what) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    qmp->is_answered = false;
    kelpie__sim_qemu_refuse(qemu, "GenericError", "%s", what);
    KELPIE_ASSERT(qmp->is_answered);
}

/* True: the plan ends it here. */
static bool qmp_begin_fault(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    char point[64];
    bool is_whole = kelpie__text_format(point, sizeof(point), "qmp.%s", qmp->command->name);
    KELPIE_ASSERT(is_whole);
    qmp->fault = kelpie__sim_qemu_fault(qemu, point, &qmp->fault_argument);
    if (kelpie__sim_qemu_fault_is(qmp->fault, "hang")) {
        kelpie__sim_qemu_hang(qemu);
        return true;
    }
    if (kelpie__sim_qemu_fault_is(qmp->fault, "fail")) {
        qmp->fault = NULL;
        kelpie__sim_qemu_refuse(qemu, "GenericError", "the fault plan refuses %s",
                                qmp->command->name);
        qmp->is_busy = false;
        return true;
    }
    /* In the middle of it, or when it is done: see qmp_answer. */
    if (kelpie__sim_qemu_fault_is(qmp->fault, "die") &&
        (kelpie__sim_draw(qemu->process->machine->world, SIM_STREAM_QEMU) & 1u) != 0) {
        kelpie__sim_qemu_die(qemu, QMP_SIGNAL_SEGV);
        return true;
    }
    return false;
}

static void qmp_begin(struct sim_qemu *qemu, const struct sim_qemu_command *command) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    KELPIE_ASSERT(!qmp->is_busy && qmp->fault == NULL);
    qmp->is_busy = true;
    qmp->is_answered = false;
    qmp->command = command;
    int64_t delay_ns = kelpie__sim_qemu_about(qemu, command->median_ns);
    if (!qmp_begin_fault(qemu)) {
        kelpie__timer_arm(qemu->loop, &qmp->timer, qemu->loop->now_ns + delay_ns, qmp_command_due,
                          qemu);
    }
}

/* The id comes first: it is in the answer whatever else is wrong. */
static void qmp_read_id(struct sim_qemu_qmp *qmp, const struct kelpie_json_value *text) {
    struct kelpie_json_value value;
    qmp->id[0] = '\0';
    if (kelpie__json_find(text->text, text->length, "id", &value) == 0 &&
        value.length < sizeof(qmp->id)) {
        memcpy(qmp->id, value.text, value.length);
        qmp->id[value.length] = '\0';
    }
}

/* The members of a command: execute and arguments. NULL: it is a good one; else what is wrong.
 * `out_detail` is the member's name. */
static const char *qmp_read_members(struct sim_qemu_qmp *qmp, const struct kelpie_json_value *text,
                                    char name[64], char out_detail[64]) {
    struct kelpie_json_iterator iterator;
    struct kelpie_json_value key;
    struct kelpie_json_value value;
    bool has_name = false;
    kelpie__ignore(kelpie__json_iterate(text, &iterator));    /* it is an object */
    while (kelpie__json_next(&iterator, &key, &value) == 1) { /* bound: the text */
        if (kelpie__json_string(&key, out_detail, 64, NULL) < 0) {
            return "QMP input member '%s' is unexpected";
        }
        if (strcmp(out_detail, "execute") == 0) {
            has_name = true;
            if (kelpie__json_string(&value, name, 64, NULL) < 0) {
                return "QMP input member '%s' must be a string";
            }
        } else if (strcmp(out_detail, "arguments") == 0) {
            KELPIE_ASSERT(value.length < sizeof(qmp->arguments));
            memcpy(qmp->arguments, value.text, value.length);
            qmp->arguments[value.length] = '\0';
            if (value.kind != KELPIE_JSON_OBJECT) {
                return "QMP input member '%s' must be an object";
            }
        } else if (strcmp(out_detail, "id") != 0) {
            return "QMP input member '%s' is unexpected";
        }
    }
    kelpie__ignore(kelpie__text_copy(out_detail, 64, "execute"));
    return has_name ? NULL : "QMP input lacks member '%s'";
}

static void qmp_execute(struct sim_qemu *qemu, const char *name) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    bool is_negotiation = strcmp(name, "qmp_capabilities") == 0;
    const struct sim_qemu_command *command = kelpie__sim_qemu_command(name);
    const char *problem = NULL;
    if (!qmp->is_negotiated && !is_negotiation) {
        problem = "Expecting capabilities negotiation with 'qmp_capabilities'";
    } else if (qmp->is_negotiated && is_negotiation) {
        problem = "Capabilities negotiation is already complete, command ignored";
    }
    if (problem != NULL) {
        kelpie__sim_qemu_refuse(qemu, "CommandNotFound", "%s", problem);
    } else if (command == NULL) {
        kelpie__sim_qemu_refuse(qemu, "CommandNotFound", "The command %s has not been found", name);
    } else {
        qmp_begin(qemu, command);
    }
}

static void qmp_text(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    struct sim_qemu_streamer *streamer = &qmp->streamer;
    struct kelpie_json_value value;
    char name[64] = "";
    char detail[64] = "";
    qmp->id[0] = '\0';
    memcpy(qmp->arguments, "{}", sizeof("{}"));
    qmp->is_answered = false;
    if (kelpie__json_parse(streamer->text, streamer->count, &value) < 0 || streamer->is_long) {
        bool is_alone = streamer->count == 1;
        qmp_refuse_input(qemu, is_alone ? "JSON parse error, expecting value"
                                        : "JSON parse error, expected separator in dict");
        return;
    }
    if (value.kind != KELPIE_JSON_OBJECT) {
        qmp_refuse_input(qemu, "QMP input must be a JSON object");
        return;
    }
    qmp_read_id(qmp, &value);
    const char *problem = qmp_read_members(qmp, &value, name, detail);
    if (problem != NULL) {
        char words[256];
        size_t stem = strcspn(problem, "%");
        kelpie__ignore(kelpie__text_format(words, sizeof(words), "%.*s%s%s", (int)stem, problem,
                                           detail, problem + stem + 2));
        qmp_refuse_input(qemu, words);
        return;
    }
    qmp_execute(qemu, name);
}

static void qmp_word(struct sim_qemu *qemu) {
    const char *text = qemu->qmp.streamer.text;
    char words[128];
    bool is_value = strcmp(text, "true") == 0 || strcmp(text, "false") == 0 ||
                    strcmp(text, "null") == 0 || text[strspn(text, "0123456789-+.E")] == '\0';
    qemu->qmp.id[0] = '\0';
    KELPIE_ASSERT(text[0] != '\0');
    kelpie__ignore(
        kelpie__text_format(words, sizeof(words), "JSON parse error, invalid keyword '%s'", text));
    qmp_refuse_input(qemu, is_value ? "QMP input must be a JSON object" : words);
}

/* ---- input ----------------------------------------------------------------------------------- */

static void qmp_byte(struct sim_qemu *qemu, char byte, bool *out_is_taken) {
    struct sim_qemu_streamer *streamer = &qemu->qmp.streamer;
    char words[64];
    enum sim_qemu_streamed streamed = kelpie__sim_qemu_stream(streamer, byte);
    *out_is_taken = streamed != SIM_QEMU_STREAMED_WORD;
    switch (streamed) {
    case SIM_QEMU_STREAMED_NOTHING:
        return;
    case SIM_QEMU_STREAMED_TEXT:
        qmp_text(qemu);
        break;
    case SIM_QEMU_STREAMED_WORD:
        qmp_word(qemu);
        break;
    case SIM_QEMU_STREAMED_STRAY:
        qemu->qmp.id[0] = '\0';
        kelpie__ignore(kelpie__text_format(words, sizeof(words), "JSON parse error, stray '%s'",
                                           streamer->text));
        qmp_refuse_input(qemu, words);
        break;
    }
    kelpie__sim_qemu_stream_reset(streamer);
}

/* Until a command is under way, or nothing is left. */
static void qmp_serve_input(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    while (qmp->input_count > 0 && !qmp->is_busy && !qemu->is_hung) { /* bound: the input */
        size_t count = kelpie__sim_qemu_stream_plain(&qmp->streamer, qmp->input + qmp->input_start,
                                                     qmp->input_count);
        if (count == 0) {
            bool is_taken = false;
            qmp_byte(qemu, qmp->input[qmp->input_start], &is_taken);
            count = is_taken ? 1 : 0;
        }
        qmp->input_start += count;
        qmp->input_count -= count;
    }
    qmp_watch(qemu, false);
}

/* A newer handle replaces one that no command has taken. */
static void qmp_take_passed(struct sim_qemu *qemu, const int *handles, uint32_t count) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    for (uint32_t i = 0; i < count; i += 1) {
        if (qmp->passed != KELPIE_OS_NO_HANDLE) {
            kelpie__ignore(kelpie__os_close(qemu->os, qmp->passed));
        }
        qmp->passed = handles[i];
        KELPIE_ASSERT(qmp->passed >= 0);
    }
}

static void qmp_ready(void *context, uint32_t bits) {
    struct sim_qemu *qemu = context;
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    KELPIE_ASSERT(bits != 0 && qmp->is_watched);
    if ((bits & KELPIE_OS_WRITABLE) != 0) {
        qmp_flush(qemu);
    }
    for (uint32_t i = 0; i < QMP_READS_PER_STEP_MAX; i += 1) {
        if (qmp->handle == KELPIE_OS_NO_HANDLE || !qmp->is_serving || qmp->is_busy ||
            qmp->input_count > 0 || qemu->is_hung || qemu->is_ended) {
            qmp_watch(qemu, i == 0);
            return;
        }
        int handles[SIM_QEMU_FDS_MAX];
        uint32_t handle_count = SIM_QEMU_FDS_MAX;
        int64_t count = kelpie__os_receive(qemu->os, qmp->handle, qmp->input, sizeof(qmp->input),
                                           handles, &handle_count);
        if (count == -EAGAIN || count == -EINTR) {
            return;
        }
        if (count <= 0) {
            kelpie__sim_qemu_qmp_close(qemu);
            return;
        }
        qmp_take_passed(qemu, handles, handle_count);
        qmp->input_start = 0;
        qmp->input_count = (size_t)count;
        qmp_serve_input(qemu);
    }
}

void kelpie__sim_qemu_qmp_open(struct sim_qemu *qemu) {
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    uint64_t argument = 0;
    const struct sim_qemu_chardev *chardev =
        kelpie__sim_qemu_chardev(&qemu->options, qemu->options.monitor);
    if (chardev == NULL) {
        return;
    }
    qmp->handle = chardev->handle;
    kelpie__os_label(qemu->os, qmp->handle, "qmp");
    qmp->is_watched =
        kelpie__loop_watch(qemu->loop, qmp->handle, 0, qmp_ready, qemu, &qmp->watch) == 0;
    const char *fault = kelpie__sim_qemu_fault(qemu, "qmp.greeting", &argument);
    bool is_torn = kelpie__sim_qemu_fault_is(fault, "torn");
    if (kelpie__sim_qemu_fault_is(fault, "hang")) {
        kelpie__sim_qemu_hang(qemu);
        return;
    }
    if (kelpie__sim_qemu_fault_is(fault, "die")) {
        kelpie__sim_qemu_die(qemu, QMP_SIGNAL_SEGV);
        return;
    }
    if (kelpie__sim_qemu_fault_is(fault, "late")) {
        qmp_hold(qemu, kelpie__sim_qemu_fault_delay(argument));
    }
    qmp_put(qmp, QMP_GREETING, is_torn ? sizeof(QMP_GREETING) / 2 : sizeof(QMP_GREETING) - 1);
    qmp_flush(qemu);
    if (is_torn) {
        kelpie__sim_qemu_die(qemu, QMP_SIGNAL_SEGV);
    }
}

void kelpie__sim_qemu_qmp_serve(struct sim_qemu *qemu) {
    KELPIE_ASSERT(!qemu->qmp.is_serving);
    qemu->qmp.is_serving = true;
    qmp_watch(qemu, false);
    qmp_check(&qemu->qmp);
}
