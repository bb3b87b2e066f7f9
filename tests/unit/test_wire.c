/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Two wires over a pair of queues in memory. Goal: streams arrive byte for byte under every
 * schedule, credit is never exceeded, calls are answered once, and each broken rule of
 * docs/protocol.md ends the connection with its name. Method: seeded schedules that cut every read
 * and write; frames written by hand for the rules.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/json.h"
#include "core/text.h"
#include "fake_os.h"
#include "os/os_call.h"
#include "wire/frame.h"
#include "wire/stream.h"
#include "wire/wire.h"

#define STEPS_MAX 200000
#define STREAM_COUNT 3
#define STREAM_BYTES 300000u

struct side {
    struct kelpie_wire *wire;
    struct side *other;
    uint64_t last_id;
    char method[KELPIE_METHOD_BYTES_MAX];
    char params[512];
    uint32_t request_count;
    uint32_t notification_count;
    uint32_t drained_count;
    uint32_t stop_count;
    uint32_t mark_count;
    uint32_t answer_count;
    uint32_t closed_count;
    struct kelpie_error answer; /* code 0: success */
    char result[512];
    struct kelpie_error closed;
    bool answers_at_once;
    bool destroys_itself; /* inside the next callback, whichever it is */
    struct kelpie_stream_sender senders[STREAM_COUNT];
    struct kelpie_stream_receiver receivers[STREAM_COUNT];
    bool has_streams;
    uint64_t received[STREAM_COUNT];
    uint64_t consumed[STREAM_COUNT];
    uint64_t produced[STREAM_COUNT];
};

struct pair {
    struct fake_os *fake;
    struct kelpie_loop *loop;
    int handles[2];
    struct side sides[2];
};

/* The byte at an offset of a stream: any gap, repeat or mix shows. */
static uint8_t stream_byte(uint32_t stream, uint64_t offset) {
    uint64_t state = offset * 31 + stream;
    return (uint8_t)fake_random(&state);
}

static bool side_destroys(struct side *side) {
    if (side->destroys_itself) {
        side->destroys_itself = false;
        kelpie__wire_destroy(side->wire);
        side->wire = NULL;
        return true;
    }
    return false;
}

static void on_request(void *context, uint64_t id, const char *method, const char *params,
                       size_t length) {
    struct side *side = context;
    assert_int_equal(params[length], '\0');
    assert_int_equal(strlen(params), length);
    side->last_id = id;
    side->request_count += 1;
    kelpie__ignore(kelpie__text_copy(side->method, sizeof(side->method), method));
    kelpie__ignore(kelpie__text_copy(side->params, sizeof(side->params), params));
    if (!side_destroys(side) && side->answers_at_once) {
        kelpie__wire_result(side->wire, id, side->params);
    }
}

static void on_notification(void *context, const char *method, const char *params, size_t length) {
    struct side *side = context;
    assert_int_equal(params[length], '\0');
    side->notification_count += 1;
    kelpie__ignore(kelpie__text_copy(side->method, sizeof(side->method), method));
    kelpie__ignore(kelpie__text_copy(side->params, sizeof(side->params), params));
    kelpie__ignore(side_destroys(side));
}

static void side_pump(struct side *side) {
    for (uint32_t i = 0; side->has_streams && side->wire != NULL && i < STREAM_COUNT; i += 1) {
        kelpie__ignore(kelpie__stream_sender_pump(&side->senders[i], side->wire, i + 4));
    }
}

static void on_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                    size_t count, bool is_end) {
    struct side *side = context;
    uint32_t i = stream - 4;
    if (side_destroys(side)) {
        return;
    }
    assert_true(i < STREAM_COUNT);
    const char *rule = kelpie__stream_receiver_data(&side->receivers[i], offset, count, is_end);
    if (rule != NULL) {
        kelpie__wire_break_rule(side->wire, rule);
        return;
    }
    for (size_t at = 0; at < count; at += 1) {
        assert_int_equal(((const uint8_t *)bytes)[at], stream_byte(stream, offset + at));
    }
    assert_int_equal(side->received[i], offset);
    side->received[i] += count;
    assert_true(side->received[i] <= side->receivers[i].limit);
}

static void on_credit(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    struct side *side = context;
    uint32_t i = stream - 4;
    if (side_destroys(side)) {
        return;
    }
    assert_true(i < STREAM_COUNT);
    const char *rule = kelpie__stream_sender_credit(&side->senders[i], acknowledged, limit);
    if (rule != NULL) {
        kelpie__wire_break_rule(side->wire, rule);
        return;
    }
    side_pump(side);
}

static void on_stop(void *context, uint32_t stream) {
    struct side *side = context;
    side->stop_count += 1;
    if (!side_destroys(side) && side->has_streams) {
        kelpie__stream_sender_stop(&side->senders[stream - 4]);
    }
}

static void on_mark(void *context, const uint8_t mark[KELPIE_MARK_BYTES]) {
    struct side *side = context;
    assert_int_equal(mark[0], 0xa0);
    side->mark_count += 1;
}

static void on_drained(void *context) {
    struct side *side = context;
    side->drained_count += 1;
    if (!side_destroys(side)) {
        side_pump(side);
    }
}

static void on_closed(void *context, const struct kelpie_error *error) {
    struct side *side = context;
    side->closed_count += 1;
    side->closed = *error;
    kelpie__ignore(side_destroys(side));
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

static void on_answer(void *context, const struct kelpie_error *error, const char *result,
                      size_t length) {
    struct side *side = context;
    side->answer_count += 1;
    side->answer = (struct kelpie_error){0};
    side->result[0] = '\0';
    if (error != NULL) {
        side->answer = *error;
    } else {
        assert_int_equal(result[length], '\0');
        kelpie__ignore(kelpie__text_copy(side->result, sizeof(side->result), result));
    }
    kelpie__ignore(side_destroys(side));
}

static void pair_connect(struct pair *pair) {
    assert_int_equal(kelpie__os_pair(&pair->fake->os, pair->handles), 0);
    for (int i = 0; i < 2; i += 1) {
        struct kelpie_error error = {0};
        pair->sides[i].other = &pair->sides[1 - i];
        const struct kelpie_wire_create create = {.os = &pair->fake->os,
                                                  .loop = pair->loop,
                                                  .handle = pair->handles[i],
                                                  .owns_handle = true,
                                                  .callbacks = &callbacks,
                                                  .context = &pair->sides[i]};
        assert_int_equal(kelpie__wire_create(&create, &pair->sides[i].wire, &error), 0);
    }
}

static struct pair *pair_create(uint64_t seed) {
    struct pair *pair = calloc(1, sizeof(*pair));
    assert_non_null(pair);
    pair->fake = fake_create(seed);
    assert_int_equal(kelpie__loop_create(&pair->fake->os, 8, &pair->loop, NULL), 0);
    pair_connect(pair);
    return pair;
}

static void pair_disconnect(struct pair *pair) {
    for (int i = 0; i < 2; i += 1) {
        kelpie__wire_destroy(pair->sides[i].wire);
        pair->sides[i].wire = NULL;
    }
}

static void pair_destroy(struct pair *pair) {
    pair_disconnect(pair);
    for (int i = 0; i < 2; i += 1) {
        for (uint32_t stream = 0; pair->sides[i].has_streams && stream < STREAM_COUNT;
             stream += 1) {
            kelpie__stream_sender_deinit(&pair->sides[i].senders[stream]);
        }
    }
    kelpie__loop_destroy(pair->loop);
    fake_destroy(pair->fake);
    free(pair);
}

/* Until nothing happens any more, timers more than `within_ns` away apart. */
static void pair_settle(struct pair *pair, int64_t within_ns) {
    int64_t end_ns = pair->fake->now_ns + within_ns;
    for (int i = 0; i < STEPS_MAX; i += 1) {
        int64_t before_ns = pair->fake->now_ns;
        uint64_t reads = pair->fake->read_count;
        uint64_t writes = pair->fake->write_count;
        assert_int_equal(kelpie__loop_step(pair->loop, end_ns, NULL), 0);
        bool is_idle = pair->fake->now_ns == end_ns && before_ns == end_ns &&
                       reads == pair->fake->read_count && writes == pair->fake->write_count;
        if (is_idle) {
            return;
        }
    }
    fail_msg("the pair does not come to rest");
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void test_call_is_answered_once(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    pair->sides[1].answers_at_once = true;
    uint64_t id = 0;
    assert_int_equal(kelpie__wire_call(asker->wire, "ping", "{\"nonce\":\"a\"}", 1000, on_answer,
                                       asker, &id, NULL),
                     0);
    assert_int_equal(asker->answer_count, 0);
    pair_settle(pair, 10);
    assert_int_equal(id, 1);
    assert_int_equal(asker->answer_count, 1);
    assert_int_equal(asker->answer.code, 0);
    assert_string_equal(asker->result, "{\"nonce\":\"a\"}");
    assert_string_equal(pair->sides[1].method, "ping");
    pair_settle(pair, INT64_C(5000) * KELPIE_NS_PER_MS);
    assert_int_equal(asker->answer_count, 1);
    pair_destroy(pair);
}

static void test_refusal_keeps_code_field_and_errno(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    struct side *answerer = &pair->sides[1];
    struct kelpie_error why = {0};
    assert_int_equal(kelpie__wire_call(asker->wire, "x", "{}", 1000, on_answer, asker, NULL, NULL),
                     0);
    pair_settle(pair, 10);
    kelpie__ignore(kelpie__fail_field(&why, KELPIE_E_EXEC_DENIED, "argv", "run \"\x01\xff\""));
    why.os_error = EACCES;
    kelpie__wire_refuse(answerer->wire, answerer->last_id, &why);
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, 1);
    assert_int_equal(asker->answer.code, KELPIE_E_EXEC_DENIED);
    assert_int_equal(asker->answer.os_error, EACCES);
    assert_string_equal(asker->answer.field, "argv");
    assert_string_equal(asker->answer.message, "run \"\x01\xef\xbf\xbd\"");
    pair_destroy(pair);
}

static void test_largest_error_fits_and_long_result_is_refused(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    struct kelpie_error why = {.code = KELPIE_E_IO};
    memset(why.message, 1, sizeof(why.message) - 1);
    memset(why.field, 2, sizeof(why.field) - 1);
    for (int i = 0; i < 2; i += 1) {
        assert_int_equal(
            kelpie__wire_call(asker->wire, "x", "{}", 1000, on_answer, asker, NULL, NULL), 0);
    }
    pair_settle(pair, 10);
    kelpie__wire_refuse(pair->sides[1].wire, 1, &why);
    pair_settle(pair, 10);
    assert_memory_equal(asker->answer.message, why.message, sizeof(why.message));
    char *large = calloc(1, KELPIE_MESSAGE_BYTES_MAX + 1);
    assert_non_null(large);
    memset(large, ' ', KELPIE_MESSAGE_BYTES_MAX - 1);
    large[0] = '{';
    large[KELPIE_MESSAGE_BYTES_MAX - 1] = '}';
    kelpie__wire_result(pair->sides[1].wire, 2, large);
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, 2);
    assert_int_equal(asker->answer.code, KELPIE_E_LIMIT);
    struct kelpie_error error = {0};
    assert_int_equal(
        kelpie__wire_call(asker->wire, "x", large, 1000, on_answer, asker, NULL, &error),
        KELPIE_E_LIMIT);
    assert_non_null(strstr(error.message, "32744"));
    free(large);
    pair_destroy(pair);
}

static void test_late_answer_is_dropped(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    assert_int_equal(kelpie__wire_call(asker->wire, "slow", "{}", 50, on_answer, asker, NULL, NULL),
                     0);
    pair_settle(pair, 51 * KELPIE_NS_PER_MS);
    assert_int_equal(asker->answer_count, 1);
    assert_int_equal(asker->answer.code, KELPIE_E_TIMEOUT);
    kelpie__wire_result(pair->sides[1].wire, pair->sides[1].last_id, "{}");
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, 1);
    assert_int_equal(asker->closed_count, 0);
    pair_destroy(pair);
}

static void test_cancel_and_forget(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    struct side *answerer = &pair->sides[1];
    uint64_t id = 0;
    assert_int_equal(kelpie__wire_call(asker->wire, "slow", "{}", 50, on_answer, asker, &id, NULL),
                     0);
    kelpie__wire_cancel(asker->wire, id);
    pair_settle(pair, 10);
    assert_string_equal(answerer->method, "cancel");
    assert_string_equal(answerer->params, "{\"request\":1}");
    kelpie__wire_refuse_text(answerer->wire, 1, KELPIE_E_CANCELLED, "as you like");
    pair_settle(pair, 10);
    assert_int_equal(asker->answer.code, KELPIE_E_CANCELLED);
    assert_int_equal(kelpie__wire_call(asker->wire, "slow", "{}", 50, on_answer, asker, &id, NULL),
                     0);
    kelpie__wire_forget(asker->wire, id);
    pair_settle(pair, 10);
    kelpie__wire_result(answerer->wire, id, "{}");
    pair_settle(pair, 60 * KELPIE_NS_PER_MS);
    assert_int_equal(asker->answer_count, 1);
    pair_destroy(pair);
}

static void test_calls_are_bounded_and_end_when_closed(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *asker = &pair->sides[0];
    struct kelpie_error error = {0};
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX; i += 1) {
        assert_int_equal(
            kelpie__wire_call(asker->wire, "x", "{}", UINT64_MAX, on_answer, asker, NULL, &error),
            0);
    }
    assert_int_equal(
        kelpie__wire_call(asker->wire, "x", "{}", UINT64_MAX, on_answer, asker, NULL, &error),
        KELPIE_E_LIMIT);
    pair_settle(pair, 10);
    kelpie__wire_destroy(pair->sides[1].wire);
    pair->sides[1].wire = NULL;
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, KELPIE_WIRE_CALL_COUNT_MAX);
    assert_int_equal(asker->answer.code, KELPIE_E_IO);
    assert_int_equal(asker->closed_count, 1);
    assert_int_equal(asker->closed.code, KELPIE_E_IO);
    assert_int_equal(asker->closed.os_error, 0);
    assert_true(kelpie__wire_is_closed(asker->wire));
    assert_int_equal(kelpie__wire_notify(asker->wire, "x", "{}"), KELPIE_E_IO);
    assert_int_equal(kelpie__wire_call(asker->wire, "x", "{}", 1, on_answer, asker, NULL, &error),
                     KELPIE_E_IO);
    pair_destroy(pair);
}

static void test_answers_nobody_reads_end_the_connection(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *answerer = &pair->sides[1];
    pair->fake->handles[pair->handles[0]].capacity = 1; /* the asker's inbox */
    kelpie__wire_destroy(NULL);
    char large[30000];
    memset(large, ' ', sizeof(large));
    large[0] = '{';
    large[sizeof(large) - 2] = '}';
    large[sizeof(large) - 1] = '\0';
    for (uint64_t i = 0; i < 8; i += 1) {
        kelpie__wire_result(answerer->wire, i + 1, large);
        assert_false(kelpie__wire_is_closed(answerer->wire));
    }
    kelpie__wire_result(answerer->wire, 9, large);
    assert_true(kelpie__wire_is_closed(answerer->wire));
    kelpie__wire_result(answerer->wire, 10, large); /* without effect */
    for (int i = 0; i < 3; i += 1) {
        kelpie__ignore(kelpie__loop_step(pair->loop, pair->fake->now_ns, NULL));
    }
    assert_int_equal(answerer->closed.code, KELPIE_E_PROTOCOL);
    assert_non_null(strstr(answerer->closed.message, "R14"));
    pair_destroy(pair);
}

/* ---- streams --------------------------------------------------------------------------------- */

static void streams_init(struct pair *pair) {
    for (int side = 0; side < 2; side += 1) {
        struct side *entry = &pair->sides[side];
        entry->has_streams = true;
        for (uint32_t i = 0; i < STREAM_COUNT; i += 1) {
            assert_int_equal(kelpie__stream_sender_init(
                                 &entry->senders[i], &pair->fake->os,
                                 (KELPIE_STREAM_CREDIT_INITIAL_BYTES / 2) << (i > 0), NULL),
                             0);
            kelpie__stream_receiver_init(&entry->receivers[i], 0,
                                         KELPIE_STREAM_CREDIT_INITIAL_BYTES << i);
        }
    }
}

/* Writes some, reads some: one turn of a program on each side. */
static void streams_turn(struct side *side, uint64_t *state) {
    for (uint32_t i = 0; i < STREAM_COUNT; i += 1) {
        uint8_t bytes[5000];
        size_t count = 1 + fake_random(state) % sizeof(bytes);
        count = (size_t)kelpie__min_u64(count, STREAM_BYTES - side->produced[i]);
        for (size_t at = 0; at < count; at += 1) {
            bytes[at] = stream_byte(i + 4, side->produced[i] + at);
        }
        struct kelpie_stream_sender *sender = &side->senders[i];
        if (count > 0) {
            side->produced[i] += kelpie__stream_sender_write(sender, bytes, count);
        }
        if (side->produced[i] == STREAM_BYTES && !sender->is_end_written) {
            kelpie__stream_sender_end(sender);
        }
        uint64_t ready = side->received[i] - side->consumed[i];
        side->consumed[i] += ready == 0 ? 0 : 1 + fake_random(state) % ready;
        kelpie__stream_receiver_consumed(&side->receivers[i], side->wire, i + 4, side->consumed[i]);
    }
    side_pump(side);
}

static bool streams_are_done(const struct pair *pair) {
    bool is_done = true;
    for (int side = 0; side < 2; side += 1) {
        for (uint32_t i = 0; i < STREAM_COUNT; i += 1) {
            is_done = is_done && pair->sides[side].receivers[i].is_ended;
        }
    }
    return is_done;
}

/* A new connection: each receiver says where it stands, each sender goes on from there; one kind of
 * stream with the initial credit, the other with none until the receiver has room. */
static void streams_reconnect(struct pair *pair) {
    pair_disconnect(pair);
    pair_connect(pair);
    for (int side = 0; side < 2; side += 1) {
        struct side *receiving = &pair->sides[side];
        for (uint32_t i = 0; i < STREAM_COUNT; i += 1) {
            struct kelpie_stream_receiver *receiver = &receiving->receivers[i];
            struct kelpie_stream_sender *sender = &receiving->other->senders[i];
            bool is_ended = receiver->is_ended;
            assert_true(kelpie__stream_sender_resume(sender, receiver->received));
            if (i == 0) {
                kelpie__stream_receiver_resume(receiver);
                sender->limit = sender->ring.sent;
            } else {
                kelpie__stream_receiver_init(receiver, receiver->received, receiver->window_bytes);
                receiver->is_ended = is_ended;
            }
            sender->is_end_sent = is_ended;
        }
    }
}

static void streams_run(uint64_t seed, size_t capacity, bool reconnects) {
    struct pair *pair = pair_create(seed);
    uint64_t state = seed;
    streams_init(pair);
    int steps = 0;
    for (; steps < STEPS_MAX && !streams_are_done(pair); steps += 1) {
        pair->fake->handles[pair->handles[0]].capacity = capacity;
        pair->fake->handles[pair->handles[1]].capacity = capacity;
        for (int side = 0; side < 2; side += 1) {
            streams_turn(&pair->sides[side], &state);
        }
        assert_int_equal(kelpie__loop_step(pair->loop, pair->fake->now_ns + 1, NULL), 0);
        if (reconnects && fake_random(&state) % 64 == 0) {
            streams_reconnect(pair);
        }
    }
    assert_true(streams_are_done(pair));
    for (int side = 0; side < 2; side += 1) {
        assert_int_equal(pair->sides[side].closed_count, 0);
        for (uint32_t i = 0; i < STREAM_COUNT; i += 1) {
            assert_int_equal(pair->sides[side].received[i], STREAM_BYTES);
        }
    }
    assert_true(pair->fake->write_bytes_max <= KELPIE_FRAME_BYTES_MAX);
    pair_destroy(pair);
}

static void test_streams_are_exact_under_any_schedule(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed += 1) {
        streams_run(seed, seed % 2 == 0 ? FAKE_QUEUE_BYTES_MAX : 3000, false);
    }
    streams_run(0, FAKE_QUEUE_BYTES_MAX, false);
}

static void test_streams_survive_new_connections(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed += 1) {
        streams_run(seed, FAKE_QUEUE_BYTES_MAX, true);
    }
}

static void test_one_byte_queues_deliver(void **state) {
    (void)state;
    struct pair *pair = pair_create(7);
    struct side *asker = &pair->sides[0];
    pair->sides[1].answers_at_once = true;
    pair->fake->handles[pair->handles[0]].capacity = 1;
    pair->fake->handles[pair->handles[1]].capacity = 1;
    for (int i = 0; i < 3; i += 1) {
        assert_int_equal(
            kelpie__wire_call(asker->wire, "x", "{}", UINT64_MAX, on_answer, asker, NULL, NULL), 0);
    }
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, 3);
    pair_destroy(pair);
}

static void test_stop_drops_what_is_written(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    streams_init(pair);
    struct kelpie_stream_sender *sender = &pair->sides[0].senders[0];
    uint8_t bytes[32768];
    for (size_t i = 0; i < sizeof(bytes); i += 1) {
        bytes[i] = stream_byte(4, i);
    }
    assert_int_equal(kelpie__stream_sender_write(sender, bytes, 1000), 1000);
    side_pump(&pair->sides[0]);
    assert_int_equal(kelpie__stream_sender_write(sender, bytes, sizeof(bytes)), 31768);
    assert_int_equal(kelpie__stream_sender_space(sender), 0);
    assert_int_equal(kelpie__wire_stop(pair->sides[1].wire, 4), 0);
    pair_settle(pair, 10);
    assert_int_equal(pair->sides[0].stop_count, 1);
    assert_int_equal(kelpie__stream_sender_space(sender), 32768);
    assert_int_equal(kelpie__stream_sender_write(sender, bytes, 10), 10);
    kelpie__stream_sender_end(sender);
    assert_true(kelpie__stream_sender_pump(sender, pair->sides[0].wire, 4));
    pair_settle(pair, 10);
    assert_true(pair->sides[1].receivers[0].is_ended);
    pair_destroy(pair);
}

/* ---- output ---------------------------------------------------------------------------------- */

static void test_frames_of_one_step_leave_in_one_write(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    for (int i = 0; i < 20; i += 1) {
        assert_int_equal(kelpie__wire_notify(pair->sides[0].wire, "note", "{}"), 0);
    }
    assert_int_equal(pair->fake->write_count, 0);
    pair_settle(pair, 10);
    assert_int_equal(pair->fake->write_count, 1);
    assert_int_equal(pair->sides[1].notification_count, 20);
    pair_destroy(pair);
}

static void test_full_output_is_told_and_drained_comes(void **state) {
    (void)state;
    for (int variant = 0; variant < 2; variant += 1) {
        struct pair *pair = pair_create(0);
        struct side *side = &pair->sides[0];
        static uint8_t bytes[KELPIE_FRAME_PAYLOAD_BYTES_MAX];
        uint64_t offset = 0;
        uint64_t allocations = pair->fake->allocation_count;
        pair->fake->handles[pair->handles[1]].capacity = 0;
        int status = 0;
        for (int i = 0; i < 16 && status == 0; i += 1) {
            status = kelpie__wire_data(side->wire, 4, offset, bytes, sizeof(bytes), false);
            offset += status == 0 ? sizeof(bytes) : 0;
        }
        assert_int_equal(status, KELPIE_E_LIMIT);
        assert_true(offset >= KELPIE_WIRE_OUTPUT_BYTES / 2);
        assert_int_equal(kelpie__wire_notify(side->wire, "still", "{}"), 0); /* the reserve */
        assert_int_equal(kelpie__loop_step(pair->loop, pair->fake->now_ns, NULL), 0);
        assert_int_equal(side->drained_count, 0);
        kelpie__wire_destroy(pair->sides[1].wire); /* its handle is read by hand */
        pair->sides[1].wire = NULL;
        assert_int_equal(pair->fake->allocation_count, allocations);
        pair_destroy(pair);
    }
}

/* `drained` comes even when the room was made by a flush that the owner asked for. */
static void test_flush_by_hand_does_not_lose_drained(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct side *side = &pair->sides[0];
    kelpie__wire_hold(side->wire, true);
    assert_int_equal(kelpie__wire_data(side->wire, 4, 0, "x", 1, false), KELPIE_E_LIMIT);
    assert_int_equal(kelpie__wire_notify(side->wire, "held", "{}"), 0);
    kelpie__wire_flush(side->wire);
    assert_true(kelpie__wire_is_flushed(side->wire));
    pair_settle(pair, 10);
    assert_int_equal(pair->sides[1].notification_count, 1);
    assert_int_equal(side->drained_count, 0);
    kelpie__wire_hold(side->wire, false);
    kelpie__wire_flush(side->wire);
    pair_settle(pair, 10);
    assert_int_equal(side->drained_count, 1);
    pair_destroy(pair);
}

static void test_discard_ends_at_the_mark_only(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed += 1) {
        struct pair *pair = pair_create(seed);
        uint8_t mark[KELPIE_MARK_BYTES] = {0xa0, 1, 2, 3};
        uint8_t other[KELPIE_MARK_BYTES] = {0xa0, 9};
        uint8_t torn[1000];
        memset(torn, 0x5a, sizeof(torn));
        kelpie__wire_discard_until(pair->sides[1].wire, mark);
        for (size_t sent = 0; sent < sizeof(torn);) {
            sent += (size_t)kelpie__os_write(&pair->fake->os, pair->handles[0], torn + sent,
                                             sizeof(torn) - sent);
        }
        assert_int_equal(kelpie__wire_notify(pair->sides[0].wire, "lost", "{}"), 0);
        assert_int_equal(kelpie__wire_mark(pair->sides[0].wire, other), 0);
        assert_int_equal(kelpie__wire_mark(pair->sides[0].wire, mark), 0);
        assert_int_equal(kelpie__wire_notify(pair->sides[0].wire, "kept", "{}"), 0);
        pair_settle(pair, 10);
        assert_int_equal(pair->sides[1].mark_count, 1);
        assert_int_equal(pair->sides[1].notification_count, 1);
        assert_string_equal(pair->sides[1].method, "kept");
        assert_int_equal(kelpie__wire_mark(pair->sides[0].wire, other), 0);
        pair_settle(pair, 10);
        assert_int_equal(pair->sides[1].mark_count, 2);
        pair_destroy(pair);
    }
}

/* ---- broken rules ---------------------------------------------------------------------------- */

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

/* ---- life ------------------------------------------------------------------------------------ */

static void test_system_errors_close(void **state) {
    (void)state;
    for (int variant = 0; variant < 2; variant += 1) {
        struct pair *pair = pair_create(0);
        assert_int_equal(kelpie__wire_notify(pair->sides[0].wire, "x", "{}"), 0);
        pair->fake->write_error = variant == 0 ? -EPIPE : 0;
        pair->fake->read_error = variant == 1 ? -ECONNRESET : 0;
        pair_settle(pair, 10);
        const struct side *side = &pair->sides[variant];
        assert_int_equal(side->closed_count, 1);
        assert_int_equal(side->closed.code, KELPIE_E_IO);
        assert_int_equal(side->closed.os_error, variant == 0 ? EPIPE : ECONNRESET);
        pair_destroy(pair);
    }
}

static void send_everything(struct pair *pair) {
    struct kelpie_wire *wire = pair->sides[1].wire;
    uint8_t mark[KELPIE_MARK_BYTES] = {0xa0};
    assert_int_equal(kelpie__wire_notify(wire, "a", "{}"), 0);
    assert_int_equal(kelpie__wire_call(wire, "b", "{}", 1, on_answer, &pair->sides[1], NULL, NULL),
                     0);
    assert_int_equal(kelpie__wire_data(wire, 4, 0, "x", 1, true), 0);
    assert_int_equal(kelpie__wire_credit(wire, 4, 0, UINT32_MAX), 0);
    assert_int_equal(kelpie__wire_stop(wire, 4), 0);
    assert_int_equal(kelpie__wire_mark(wire, mark), 0);
}

/* The n-th callback destroys the wire, whichever it is; sanitizers watch. */
static void test_wire_may_be_destroyed_in_every_callback(void **state) {
    (void)state;
    for (uint32_t variant = 0; variant < 8; variant += 1) {
        struct pair *pair = pair_create(variant % 2 == 0 ? 0 : variant);
        struct side *side = &pair->sides[0];
        streams_init(pair);
        side->destroys_itself = variant != 6;
        if (variant == 0) {
            send_everything(pair);
        } else if (variant == 1) {
            assert_int_equal(kelpie__wire_data(pair->sides[1].wire, 4, 0, "x", 1, true), 0);
        } else if (variant == 2) {
            assert_int_equal(kelpie__wire_credit(pair->sides[1].wire, 4, 0, UINT32_MAX), 0);
        } else if (variant == 3) {
            assert_int_equal(kelpie__wire_stop(pair->sides[1].wire, 4), 0);
        } else if (variant == 4) {
            kelpie__wire_break(pair->sides[1].wire, "R1", "for the test");
        } else if (variant == 5) {
            assert_int_equal(
                kelpie__wire_call(side->wire, "x", "{}", 1, on_answer, side, NULL, NULL), 0);
        } else if (variant == 6) { /* of two calls that end together, the first destroys */
            for (int i = 0; i < 2; i += 1) {
                assert_int_equal(
                    kelpie__wire_call(side->wire, "x", "{}", 9999, on_answer, side, NULL, NULL), 0);
            }
            pair_settle(pair, 10);
            side->destroys_itself = true;
            kelpie__wire_break(side->wire, "R1", "for the test");
        } else {
            kelpie__wire_hold(side->wire, true);
            assert_int_equal(kelpie__wire_data(side->wire, 4, 0, "x", 1, false), KELPIE_E_LIMIT);
            kelpie__wire_hold(side->wire, false);
        }
        pair_settle(pair, 20 * KELPIE_NS_PER_MS);
        assert_null(side->wire);
        assert_true(side->answer_count <= 1);
        pair_destroy(pair);
    }
}

static void test_create_survives_each_failing_allocation(void **state) {
    (void)state;
    for (uint64_t failing = 1; failing <= 3; failing += 1) {
        struct fake_os *fake = fake_create(0);
        struct kelpie_loop *loop = NULL;
        int handles[2];
        struct kelpie_error error = {0};
        struct kelpie_wire *wire = NULL;
        assert_int_equal(kelpie__loop_create(&fake->os, 4, &loop, NULL), 0);
        assert_int_equal(kelpie__os_pair(&fake->os, handles), 0);
        const struct kelpie_wire_create create = {.os = &fake->os,
                                                  .loop = loop,
                                                  .handle = handles[0],
                                                  .owns_handle = true,
                                                  .callbacks = &callbacks};
        fake->failing_allocation = fake->allocation_count + failing;
        assert_int_equal(kelpie__wire_create(&create, &wire, &error), KELPIE_E_MEMORY);
        assert_int_equal(error.code, KELPIE_E_MEMORY);
        assert_null(wire);
        kelpie__loop_destroy(loop);
        kelpie__ignore(kelpie__os_close(&fake->os, handles[0])); /* still the caller's */
        kelpie__ignore(kelpie__os_close(&fake->os, handles[1]));
        fake_destroy(fake);
    }
}

static void test_borrowed_handle_serves_the_next_wire(void **state) {
    (void)state;
    struct fake_os *fake = fake_create(0);
    struct kelpie_loop *loop = NULL;
    int handles[2];
    struct side side = {0};
    assert_int_equal(kelpie__loop_create(&fake->os, 4, &loop, NULL), 0);
    assert_int_equal(kelpie__os_pair(&fake->os, handles), 0);
    const struct kelpie_wire_create create = {.os = &fake->os,
                                              .loop = loop,
                                              .handle = handles[0],
                                              .callbacks = &callbacks,
                                              .context = &side};
    for (int i = 0; i < 2; i += 1) {
        assert_int_equal(kelpie__wire_create(&create, &side.wire, NULL), 0);
        assert_int_equal(kelpie__wire_notify(side.wire, "bye", "{}"), 0);
        kelpie__wire_destroy(side.wire); /* tries what is queued */
        assert_true(fake->handles[handles[0]].is_open);
        assert_true(fake->handles[handles[1]].count > 0);
    }
    kelpie__loop_destroy(loop);
    kelpie__ignore(kelpie__os_close(&fake->os, handles[0]));
    kelpie__ignore(kelpie__os_close(&fake->os, handles[1]));
    fake_destroy(fake);
}

static void test_idle_wire_allocates_nothing_and_wakes_nobody(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    pair->sides[1].answers_at_once = true;
    uint64_t allocations = pair->fake->allocation_count;
    for (int i = 0; i < 100; i += 1) {
        assert_int_equal(kelpie__wire_call(pair->sides[0].wire, "x", "{}", 1000, on_answer,
                                           &pair->sides[0], NULL, NULL),
                         0);
        pair_settle(pair, 10);
    }
    assert_int_equal(pair->sides[0].answer_count, 100);
    assert_int_equal(pair->fake->allocation_count, allocations);
    assert_int_equal(kelpie__loop_next_deadline(pair->loop), -1);
    assert_int_equal(kelpie__loop_step(pair->loop, -1, NULL),
                     KELPIE_E_IO); /* nothing to wait for */
    pair_destroy(pair);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_call_is_answered_once),
        cmocka_unit_test(test_refusal_keeps_code_field_and_errno),
        cmocka_unit_test(test_largest_error_fits_and_long_result_is_refused),
        cmocka_unit_test(test_late_answer_is_dropped),
        cmocka_unit_test(test_cancel_and_forget),
        cmocka_unit_test(test_calls_are_bounded_and_end_when_closed),
        cmocka_unit_test(test_answers_nobody_reads_end_the_connection),
        cmocka_unit_test(test_streams_are_exact_under_any_schedule),
        cmocka_unit_test(test_streams_survive_new_connections),
        cmocka_unit_test(test_one_byte_queues_deliver),
        cmocka_unit_test(test_stop_drops_what_is_written),
        cmocka_unit_test(test_frames_of_one_step_leave_in_one_write),
        cmocka_unit_test(test_full_output_is_told_and_drained_comes),
        cmocka_unit_test(test_flush_by_hand_does_not_lose_drained),
        cmocka_unit_test(test_discard_ends_at_the_mark_only),
        cmocka_unit_test(test_each_broken_rule_is_named),
        cmocka_unit_test(test_headers_no_encoder_makes_are_named),
        cmocka_unit_test(test_stream_rules),
        cmocka_unit_test(test_system_errors_close),
        cmocka_unit_test(test_wire_may_be_destroyed_in_every_callback),
        cmocka_unit_test(test_create_survives_each_failing_allocation),
        cmocka_unit_test(test_borrowed_handle_serves_the_next_wire),
        cmocka_unit_test(test_idle_wire_allocates_nothing_and_wakes_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
