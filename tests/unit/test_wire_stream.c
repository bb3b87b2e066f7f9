/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Streams. Goal: they arrive byte for byte under every schedule and over new connections, credit is
 * never exceeded, the smallest sender never waits for ever. Method: seeded schedules that cut every
 * read and write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "wire_pair.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_are_exact_under_any_schedule),
        cmocka_unit_test(test_streams_survive_new_connections),
        cmocka_unit_test(test_one_byte_queues_deliver),
        cmocka_unit_test(test_stop_drops_what_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
