/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The rules of docs/protocol.md. Goal: each broken rule ends the connection on both sides, with its
 * name. Method: frames written by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "wire_pair.h"

struct broken {
    const char *rule;
    struct kelpie_frame frame;
    const char *payload;
    int damaged_byte; /* flipped after encoding; 0: none */
};

#define MESSAGE(text) {.type = KELPIE_FRAME_MESSAGE, .length = sizeof(text) - 1}, text

static const struct broken broken_frames[] = {
    {"R1", MESSAGE("{}"), 1},
    {"R1", MESSAGE("{}"), 23},
    {"R4", {.type = KELPIE_FRAME_MESSAGE, .flags = 1, .length = 2}, "{}", 0},
    {"R4", {.type = KELPIE_FRAME_DATA, .flags = 2, .stream = 4, .length = 1}, "x", 0},
    {"R5", {.type = KELPIE_FRAME_MESSAGE, .stream = 4, .length = 2}, "{}", 0},
    {"R5", {.type = KELPIE_FRAME_MESSAGE, .offset = 4, .length = 2}, "{}", 0},
    {"R5", {.type = KELPIE_FRAME_MESSAGE}, "", 0},
    {"R6", {.type = KELPIE_FRAME_DATA, .stream = 4}, "", 0},
    {"R7", {.type = KELPIE_FRAME_CREDIT, .stream = 4, .length = 4}, "1234", 0},
    {"R8", {.type = KELPIE_FRAME_STOP, .stream = 4, .length = 1}, "1", 0},
    {"R8", {.type = KELPIE_FRAME_STOP, .stream = 4, .offset = 1}, "", 0},
    {"R9", {.type = KELPIE_FRAME_MARK, .length = 3}, "123", 0},
    {"R9", {.type = KELPIE_FRAME_MARK, .stream = 4, .length = 16}, "0123456789abcdef", 0},
    {"R10", MESSAGE("{"), 0},
    {"R10", MESSAGE("[]"), 0},
    {"R10", MESSAGE("{\"method\":\"x\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"1.0\",\"method\":\"x\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"x\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"method\":\"x\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"x\"}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\",\"method\":7}"), 0},
    {"R10", MESSAGE("{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"), 0},
    {"R10",
     MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"01234567890123456789012345678901234567890"
             "12345678901234567890123\"}"),
     0},
    {"R11", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":[]}"), 0},
    {"R11", MESSAGE("{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":null}"), 0},
    {"R12", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}"), 0},
    {"R13", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":7}"), 0},
    {"R13", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1}"), 0},
    {"R13", MESSAGE("{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":\"no\"}"), 0},
    {"R15", {.type = KELPIE_FRAME_DATA, .stream = 4, .offset = 1, .length = 1}, "x", 0},
    {"R18", {.type = KELPIE_FRAME_CREDIT, .stream = 4, .length = 8}, "\1\0\0\0\0\0\0\0", 0},
    {"R18",
     {.type = KELPIE_FRAME_CREDIT, .stream = 4, .offset = 1, .length = 8},
     "\0\0\0\1\0\0\0\0",
     0},
};

/* The victim (side 0) has asked one question, so that answers can be wrong in more ways. */
static void check_broken(const struct pair *pair, const char *rule) {
    const struct side *victim = &pair->sides[0];
    char named[64];
    snprintf(named, sizeof(named), "rule %s: ", rule);
    if (victim->closed_count != 1 || strstr(victim->closed.message, named) == NULL) {
        fail_msg("%s: closed %u times: %s", rule, victim->closed_count, victim->closed.message);
    }
    assert_int_equal(victim->closed.code, KELPIE_E_PROTOCOL);
    assert_int_equal(pair->sides[1].closed_count, 1);
    assert_int_equal(pair->sides[1].closed.code, KELPIE_E_PROTOCOL);
    assert_non_null(strstr(pair->sides[1].closed.message, named));
    assert_int_equal(victim->answer_count, 1);
    assert_int_equal(victim->answer.code, KELPIE_E_PROTOCOL);
}

static void inject(struct pair *pair, const uint8_t *bytes, size_t count) {
    for (size_t sent = 0; sent < count;) {
        int64_t written =
            kelpie__os_write(&pair->fake->os, pair->handles[1], bytes + sent, count - sent);
        assert_true(written > 0);
        sent += (size_t)written;
    }
}

static void test_each_broken_rule_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(broken_frames); i += 1) {
        const struct broken *broken = &broken_frames[i];
        uint8_t bytes[KELPIE_FRAME_HEADER_BYTES + 256];
        struct pair *pair = pair_create(i % 2 == 0 ? 0 : i);
        streams_init(pair);
        assert_int_equal(kelpie__wire_call(pair->sides[0].wire, "x", "{}", UINT64_MAX, on_answer,
                                           &pair->sides[0], NULL, NULL),
                         0);
        pair_settle(pair, 10);
        kelpie__frame_encode(&broken->frame, bytes);
        memcpy(bytes + KELPIE_FRAME_HEADER_BYTES, broken->payload, broken->frame.length);
        bytes[broken->damaged_byte] ^= broken->damaged_byte == 0 ? 0 : 0x10;
        inject(pair, bytes, KELPIE_FRAME_HEADER_BYTES + broken->frame.length);
        pair_settle(pair, 10);
        check_broken(pair, broken->rule);
        pair_destroy(pair);
    }
}

/* Answers to whoever talked to the peer before are dropped, until it has answered us. */
static void test_answers_to_a_former_peer_are_dropped(void **state) {
    static const char former[] = "{\"jsonrpc\":\"2.0\",\"id\":%u,\"result\":{}}";
    static const uint32_t ids[] = {7, 70001}; /* below and above ours */
    (void)state;
    for (size_t i = 0; i < 2 * KELPIE_ARRAY_COUNT(ids); i += 1) {
        uint8_t bytes[KELPIE_FRAME_HEADER_BYTES + 256];
        struct pair *pair = pair_create(i);
        bool is_known = i >= KELPIE_ARRAY_COUNT(ids);
        uint32_t id = ids[i % KELPIE_ARRAY_COUNT(ids)];
        streams_init(pair);
        kelpie__wire_continue(pair->sides[0].wire, 1000);
        assert_int_equal(kelpie__wire_call(pair->sides[0].wire, "x", "{}", UINT64_MAX, on_answer,
                                           &pair->sides[0], NULL, NULL),
                         0);
        pair_settle(pair, 10);
        if (is_known) {
            kelpie__wire_is_known(pair->sides[0].wire);
        }
        int length = snprintf((char *)bytes + KELPIE_FRAME_HEADER_BYTES, 256, former, id);
        const struct kelpie_frame frame = {.type = KELPIE_FRAME_MESSAGE,
                                           .length = (uint32_t)length};
        kelpie__frame_encode(&frame, bytes);
        inject(pair, bytes, KELPIE_FRAME_HEADER_BYTES + frame.length);
        pair_settle(pair, 10);
        if (is_known && id >= 1000) {
            check_broken(pair, "R12");
        } else {
            assert_int_equal(pair->sides[0].closed_count, 0);
            assert_int_equal(pair->sides[0].answer_count, 0);
        }
        pair_destroy(pair);
    }
}

static uint32_t frame_check(const uint8_t *bytes) {
    uint32_t check = UINT32_C(0x811c9dc5);
    for (unsigned i = 4; i < KELPIE_FRAME_HEADER_BYTES; i += 1) {
        check = (check ^ bytes[i]) * UINT32_C(0x01000193);
    }
    return check;
}

/* What kelpie__frame_encode cannot make: a length, a type, reserved bytes that are wrong under a
 * right check. */
static void test_headers_no_encoder_makes_are_named(void **state) {
    (void)state;
    static const struct {
        const char *rule;
        unsigned at;
        uint8_t value;
    } cases[] = {{"R2", 5, 0x80}, {"R2", 7, 0xff}, {"R2", 10, 1}, {"R2", 11, 1},
                 {"R3", 8, 0},    {"R3", 8, 6},    {"R3", 8, 255}};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(cases); i += 1) {
        struct pair *pair = pair_create(i);
        assert_int_equal(kelpie__wire_call(pair->sides[0].wire, "x", "{}", UINT64_MAX, on_answer,
                                           &pair->sides[0], NULL, NULL),
                         0);
        pair_settle(pair, 10);
        uint8_t bytes[KELPIE_FRAME_HEADER_BYTES];
        const struct kelpie_frame frame = {.type = KELPIE_FRAME_MESSAGE, .length = 2};
        kelpie__frame_encode(&frame, bytes);
        bytes[cases[i].at] = cases[i].value;
        uint32_t check = frame_check(bytes);
        for (unsigned at = 0; at < 4; at += 1) {
            bytes[at] = (uint8_t)(check >> (8 * at));
        }
        inject(pair, bytes, sizeof(bytes));
        pair_settle(pair, 10);
        check_broken(pair, cases[i].rule);
        pair_destroy(pair);
    }
}

static void test_stream_rules(void **state) {
    (void)state;
    struct kelpie_stream_receiver receiver;
    kelpie__stream_receiver_init(&receiver, 100, KELPIE_STREAM_CREDIT_INITIAL_BYTES);
    const char *rule = kelpie__stream_receiver_data(&receiver, 99, 1, false);
    assert_true(rule != NULL && kelpie__text_has_prefix(rule, "R15: "));
    rule =
        kelpie__stream_receiver_data(&receiver, 100, KELPIE_STREAM_CREDIT_INITIAL_BYTES + 1, false);
    assert_true(rule != NULL && kelpie__text_has_prefix(rule, "R17: "));
    assert_null(
        kelpie__stream_receiver_data(&receiver, 100, KELPIE_STREAM_CREDIT_INITIAL_BYTES, true));
    rule = kelpie__stream_receiver_data(&receiver, receiver.received, 0, true);
    assert_true(rule != NULL && kelpie__text_has_prefix(rule, "R16: "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_broken_rule_is_named),
        cmocka_unit_test(test_answers_to_a_former_peer_are_dropped),
        cmocka_unit_test(test_headers_no_encoder_makes_are_named),
        cmocka_unit_test(test_stream_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
