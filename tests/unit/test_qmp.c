/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The QMP conversation against a scripted peer. Goal: each fact of findings.md, "QMP as QEMU really
 * behaves", that a driver can meet on its stream. Method: the test plays QEMU at the other end of a
 * socket pair, text by text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/limits.h"
#include "core/loop.h"
#include "os/os_call.h"
#include "vmm/qemu/qmp.h"

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22}}, \"capabilities\": [\"oob\"]}}\r\n"
#define NEGOTIATED "{\"return\": {}, \"id\": 1}\r\n"

struct scene {
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    struct kelpie_qmp *qmp;
    int peer;
    uint32_t ready_count;
    uint32_t event_count;
    struct kelpie_qmp_event events[8];
    uint32_t closed_count;
    struct kelpie_error closed;
    uint32_t answer_count;
    int answer_status;
    char result[256];
    uint32_t order;        /* counts events and answers */
    uint32_t event_order;  /* of the last event */
    uint32_t answer_order; /* of the last answer */
};

static void on_ready(void *context) {
    struct scene *scene = context;
    scene->ready_count += 1;
}

static void on_event(void *context, const struct kelpie_qmp_event *event) {
    struct scene *scene = context;
    assert_true(scene->event_count < 8);
    scene->events[scene->event_count] = *event;
    scene->event_count += 1;
    scene->order += 1;
    scene->event_order = scene->order;
}

static void on_closed(void *context, const struct kelpie_error *error) {
    struct scene *scene = context;
    scene->closed_count += 1;
    scene->closed = *error;
}

static void on_answer(void *context, int status, const struct kelpie_json_value *result,
                      const struct kelpie_error *error) {
    struct scene *scene = context;
    scene->answer_count += 1;
    scene->answer_status = status;
    scene->order += 1;
    scene->answer_order = scene->order;
    assert_true((status == 0) == (error == NULL));
    assert_true((status == 0) == (result != NULL));
    if (result != NULL) {
        assert_true(result->length < sizeof(scene->result));
        memcpy(scene->result, result->text, result->length);
        scene->result[result->length] = '\0';
    }
}

static void steps(struct scene *scene, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 1) {
        int64_t now_ns = kelpie__os_now(scene->os, KELPIE_OS_CLOCK_MONOTONIC);
        assert_int_equal(kelpie__loop_step(scene->loop, now_ns, NULL), 0);
    }
}

static void say(struct scene *scene, const char *text) {
    int64_t length = (int64_t)strlen(text);
    assert_int_equal(kelpie__os_write(scene->os, scene->peer, text, strlen(text)), length);
    steps(scene, 2);
}

/* What the driver sent since the last look. */
static const char *heard(struct scene *scene, char *out, size_t capacity) {
    int64_t count = kelpie__os_read(scene->os, scene->peer, out, capacity - 1);
    out[count > 0 ? count : 0] = '\0';
    return out;
}

static int set_up(void **state) {
    static const struct kelpie_qmp_callbacks callbacks = {
        .ready = on_ready, .event = on_event, .closed = on_closed};
    struct scene *scene = test_calloc(1, sizeof(*scene));
    int streams[2];
    scene->os = kelpie__os_linux_create();
    assert_non_null(scene->os);
    assert_int_equal(kelpie__loop_create(scene->os, 8, &scene->loop, NULL), 0);
    assert_int_equal(kelpie__os_pair(scene->os, streams), 0);
    scene->peer = streams[1];
    assert_int_equal(kelpie__qmp_create(scene->os, scene->loop, streams[0], &callbacks, scene,
                                        &scene->qmp, NULL),
                     0);
    *state = scene;
    return 0;
}

static int tear_down(void **state) {
    struct scene *scene = *state;
    kelpie__qmp_destroy(scene->qmp);
    if (scene->peer >= 0) {
        kelpie__os_close(scene->os, scene->peer);
    }
    kelpie__loop_destroy(scene->loop);
    kelpie__os_linux_destroy(scene->os);
    test_free(scene);
    return 0;
}

static void negotiate(struct scene *scene) {
    char text[256];
    say(scene, GREETING);
    assert_string_equal(heard(scene, text, sizeof(text)),
                        "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
    say(scene, NEGOTIATED);
    assert_int_equal(scene->ready_count, 1);
}

static int try_execute(struct scene *scene, const struct kelpie_qmp_command *command) {
    return kelpie__qmp_execute(scene->qmp, command, on_answer, scene, NULL);
}

static void execute(struct scene *scene, const char *name, uint32_t timeout_ms) {
    const struct kelpie_qmp_command command = {
        .name = name, .timeout_ms = timeout_ms, .handle = KELPIE_OS_NO_HANDLE};
    assert_int_equal(try_execute(scene, &command), 0);
}

static void test_greeting_negotiates_and_nothing_is_sent_before(void **state) {
    struct scene *scene = *state;
    char text[256];
    steps(scene, 1);
    assert_string_equal(heard(scene, text, sizeof(text)), "");
    assert_int_equal(
        try_execute(scene, &(struct kelpie_qmp_command){.name = "stop",
                                                        .timeout_ms = 100,
                                                        .handle = KELPIE_OS_NO_HANDLE}),
        KELPIE_E_CRASHED);
    negotiate(scene);
    execute(scene, "stop", 1000);
    assert_string_equal(heard(scene, text, sizeof(text)), "{\"execute\":\"stop\",\"id\":2}\n");
}

static void test_texts_in_pieces_are_joined(void **state) {
    struct scene *scene = *state;
    for (const char *next = GREETING NEGOTIATED; *next != '\0'; next += 1) {
        char piece[2] = {*next, '\0'};
        say(scene, piece);
    }
    assert_int_equal(scene->ready_count, 1);
    assert_int_equal(scene->closed_count, 0);
}

static void test_event_before_return_is_told_first(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    execute(scene, "stop", 1000);
    say(scene, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n"
               "{\"return\": {}, \"id\": 2}\r\n");
    assert_int_equal(scene->event_count, 1);
    assert_int_equal(scene->events[0].type, KELPIE_QMP_EVENT_STOP);
    assert_int_equal(scene->answer_count, 1);
    assert_int_equal(scene->answer_status, 0);
    assert_true(scene->event_order < scene->answer_order);
}

static void test_late_answer_is_matched_by_id(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    execute(scene, "stop", 1);
    for (uint32_t i = 0; i < 1000 && scene->answer_count == 0; i += 1) {
        int64_t now_ns = kelpie__os_now(scene->os, KELPIE_OS_CLOCK_MONOTONIC);
        assert_int_equal(kelpie__loop_step(scene->loop, now_ns + KELPIE_NS_PER_MS, NULL), 0);
    }
    assert_int_equal(scene->answer_status, KELPIE_E_TIMEOUT);
    execute(scene, "cont", 1000);
    say(scene, "{\"return\": {}, \"id\": 2}\r\n"); /* of the first: nobody waits for it */
    assert_int_equal(scene->answer_count, 1);
    say(scene, "{\"return\": {}, \"id\": 3}\r\n");
    assert_int_equal(scene->answer_count, 2);
    assert_int_equal(scene->answer_status, 0);
}

static void test_refusal_carries_the_words_of_qemu(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    execute(scene, "cont", 1000);
    say(scene, "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n");
    assert_int_equal(scene->answer_count, 1);
    assert_int_equal(scene->answer_status, KELPIE_E_INTERNAL);
    assert_int_equal(scene->closed_count, 0);
}

static void test_answers_nobody_asked_for_are_bounded(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    for (uint32_t i = 0; i < 10; i += 1) {
        say(scene, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"stray\"}}\r\n");
    }
    assert_int_equal(scene->closed_count, 0);
    for (uint32_t i = 0; i < 100 && scene->closed_count == 0; i += 1) {
        say(scene, "{\"return\": {}, \"id\": 99}\r\n");
    }
    assert_int_equal(scene->closed_count, 1);
    assert_int_equal(scene->closed.code, KELPIE_E_PROTOCOL);
}

static void test_shutdown_tells_its_reason_then_the_end(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    say(scene, "{\"timestamp\": {}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, "
               "\"reason\": \"guest-reset\"}}\r\n");
    assert_int_equal(scene->event_count, 1);
    assert_int_equal(scene->events[0].type, KELPIE_QMP_EVENT_SHUTDOWN);
    assert_string_equal(scene->events[0].reason, "guest-reset");
    kelpie__os_close(scene->os, scene->peer);
    scene->peer = -1;
    steps(scene, 2);
    assert_int_equal(scene->closed_count, 1);
    assert_int_equal(scene->closed.code, KELPIE_E_CRASHED);
    assert_int_equal(scene->closed.os_error, 0);
}

static void test_pending_command_is_answered_at_the_end(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    execute(scene, "stop", 10000);
    execute(scene, "cont", 10000);
    kelpie__os_close(scene->os, scene->peer);
    scene->peer = -1;
    steps(scene, 3);
    assert_int_equal(scene->answer_count, 2);
    assert_int_equal(scene->answer_status, KELPIE_E_CRASHED);
    assert_int_equal(scene->closed_count, 1);
}

static void test_unknown_events_and_members_are_ignored(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    say(scene, "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": -3}, \"new\": [1, 2]}\r\n");
    assert_int_equal(scene->event_count, 0);
    assert_int_equal(scene->closed_count, 0);
}

static void test_broken_texts_end_the_conversation(void **state) {
    struct scene *scene = *state;
    static const char *const broken[] = {"{\"return\": \r\n", "garbage\r\n", "[1]\r\n",
                                         "{\"neither\": 1}\r\n", GREETING};
    negotiate(scene);
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i += 1) {
        void *other_state = NULL;
        assert_int_equal(set_up(&other_state), 0);
        struct scene *other = other_state;
        negotiate(other);
        say(other, broken[i]);
        assert_int_equal(other->closed_count, 1);
        assert_int_equal(other->closed.code, KELPIE_E_PROTOCOL);
        assert_int_equal(tear_down(&other_state), 0);
    }
}

static void test_endless_line_is_cut_off(void **state) {
    struct scene *scene = *state;
    char piece[1025];
    memset(piece, 'x', sizeof(piece) - 1);
    piece[sizeof(piece) - 1] = '\0';
    for (uint32_t i = 0; i < 20 && scene->closed_count == 0; i += 1) {
        say(scene, piece);
    }
    assert_int_equal(scene->closed_count, 1);
    assert_int_equal(scene->closed.code, KELPIE_E_PROTOCOL);
}

static void test_too_many_commands_are_refused(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    for (uint32_t i = 0; i < KELPIE_QMP_COMMAND_COUNT_MAX; i += 1) {
        execute(scene, "stop", 10000);
    }
    assert_int_equal(
        try_execute(scene, &(struct kelpie_qmp_command){.name = "stop",
                                                        .timeout_ms = 10000,
                                                        .handle = KELPIE_OS_NO_HANDLE}),
        KELPIE_E_LIMIT);
    assert_int_equal(scene->answer_count, 0);
}

static void test_version_is_that_of_the_greeting(void **state) {
    struct scene *scene = *state;
    assert_string_equal(kelpie__qmp_version(scene->qmp), "");
    say(scene, "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
               "\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n");
    assert_string_equal(kelpie__qmp_version(scene->qmp), "7.2.22");
}

static void test_arguments_are_sent_and_results_given(void **state) {
    struct scene *scene = *state;
    char text[256];
    negotiate(scene);
    assert_int_equal(
        try_execute(scene, &(struct kelpie_qmp_command){.name = "human-monitor-command",
                                                        .arguments = "{\"a\":1}",
                                                        .timeout_ms = 1000,
                                                        .handle = KELPIE_OS_NO_HANDLE}),
        0);
    assert_string_equal(
        heard(scene, text, sizeof(text)),
        "{\"execute\":\"human-monitor-command\",\"arguments\":{\"a\":1},\"id\":2}\n");
    say(scene, "{\"return\": \"words\", \"id\": 2}\r\n");
    assert_string_equal(scene->result, "\"words\"");
}

/* The handle goes with its own command's first byte, also when others wait to be written. */
static void test_handle_goes_with_its_command(void **state) {
    struct scene *scene = *state;
    const struct kelpie_qmp_command with = {.name = "getfd", .timeout_ms = 1000, .handle = 0};
    static char big[KELPIE_QMP_ARGUMENT_BYTES_MAX];
    char text[4096];
    uint32_t got = 0;
    negotiate(scene);
    memset(big, ' ', sizeof(big) - 1);
    memcpy(big, "{}", 2);
    const struct kelpie_qmp_command filler = {
        .name = "stop", .arguments = big, .timeout_ms = 10000, .handle = KELPIE_OS_NO_HANDLE};
    uint32_t sent = 0;
    char all[] = "{\"execute\":\"getfd\",\"id\":";
    /* Fill the stream until a filler has to wait, then queue the command with the handle. */
    while (sent < KELPIE_QMP_COMMAND_COUNT_MAX - 1 && try_execute(scene, &filler) == 0) {
        sent += 1;
    }
    assert_true(sent > 0);
    assert_int_equal(try_execute(scene, &with), 0);
    bool has_seen = false;
    for (uint32_t i = 0; i < 1000 && !has_seen; i += 1) {
        int handle = KELPIE_OS_NO_HANDLE;
        uint32_t count = 1;
        int64_t length =
            kelpie__os_receive(scene->os, scene->peer, text, sizeof(text) - 1, &handle, &count);
        text[length > 0 ? length : 0] = '\0';
        has_seen = strstr(text, all) != NULL;
        if (count > 0) {
            got += 1;
            assert_true(has_seen);
            kelpie__os_close(scene->os, handle);
        }
        steps(scene, 1);
    }
    assert_true(has_seen);
    assert_int_equal(got, 1);
}

static void test_migration_events_carry_their_status(void **state) {
    struct scene *scene = *state;
    negotiate(scene);
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n"
               "{\"event\": \"MIGRATION\", \"data\": 7}\r\n");
    assert_int_equal(scene->event_count, 2);
    assert_int_equal(scene->events[0].type, KELPIE_QMP_EVENT_MIGRATION);
    assert_string_equal(scene->events[0].reason, "completed");
    assert_string_equal(scene->events[1].reason, "");
}

#define ROW(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROW(test_greeting_negotiates_and_nothing_is_sent_before),
        ROW(test_texts_in_pieces_are_joined),
        ROW(test_event_before_return_is_told_first),
        ROW(test_late_answer_is_matched_by_id),
        ROW(test_refusal_carries_the_words_of_qemu),
        ROW(test_answers_nobody_asked_for_are_bounded),
        ROW(test_shutdown_tells_its_reason_then_the_end),
        ROW(test_pending_command_is_answered_at_the_end),
        ROW(test_unknown_events_and_members_are_ignored),
        ROW(test_broken_texts_end_the_conversation),
        ROW(test_endless_line_is_cut_off),
        ROW(test_too_many_commands_are_refused),
        ROW(test_version_is_that_of_the_greeting),
        ROW(test_arguments_are_sent_and_results_given),
        ROW(test_handle_goes_with_its_command),
        ROW(test_migration_events_carry_their_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
