/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A connection's messages and life. Goal: calls are answered once, output is bounded and batched, a
 * wire may be destroyed anywhere. Method: two wires in memory with virtual time, smooth and with
 * cut reads and writes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "wire_pair.h"

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
    kelpie__ignore(kelpie__fail_field(&why, KELPIE_E_EXEC_DENIED, "argv", "run"));
    why.os_error = EACCES;
    snprintf(why.message, sizeof(why.message), "run \"\x01\xff\""); /* as a guest may word it */
    kelpie__wire_refuse(answerer->wire, answerer->last_id, &why);
    pair_settle(pair, 10);
    assert_int_equal(asker->answer_count, 1);
    assert_int_equal(asker->answer.code, KELPIE_E_EXEC_DENIED);
    assert_int_equal(asker->answer.os_error, EACCES);
    assert_string_equal(asker->answer.field, "argv");
    assert_string_equal(asker->answer.message, "run \"?\xef\xbf\xbd\"");
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
    memset(why.message, '?', sizeof(why.message) - 1); /* no control character comes through */
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
    assert_non_null(strstr(asker->answer.message, "did not answer \"slow\" within 50 ms"));
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

static void test_cork_keeps_what_comes_after_it_behind_its_mark(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    struct kelpie_wire *wire = pair->sides[0].wire;
    struct side *peer = &pair->sides[1];
    uint8_t mark[KELPIE_MARK_BYTES];
    memset(mark, 0xa0, sizeof(mark));
    for (uint32_t round = 1; round <= 3; round += 1) {
        assert_true(kelpie__wire_has_room(wire, 1000));
        assert_int_equal(kelpie__wire_notify(wire, "before", "{}"), 0);
        assert_int_equal(kelpie__wire_cork(wire, mark), 0);
        assert_int_equal(kelpie__wire_notify(wire, "after", "{}"), 0);
        pair_settle(pair, 10);
        assert_int_equal(peer->notification_count, 2 * round - 1);
        assert_string_equal(peer->method, "before");
        assert_int_equal(peer->mark_count, round - 1);
        assert_true(kelpie__wire_is_flushed(wire));
        kelpie__wire_uncork(wire);
        assert_false(kelpie__wire_is_flushed(wire));
        pair_settle(pair, 10);
        assert_int_equal(peer->mark_count, round);
        assert_int_equal(peer->notification_count, 2 * round);
        assert_string_equal(peer->method, "after");
    }
    /* Full behind the cork is full; when it is drawn there is room again, and it is told. */
    char large[30000];
    uint32_t drained_count = pair->sides[0].drained_count;
    uint32_t count = 0;
    memset(large, ' ', sizeof(large));
    large[0] = '{';
    large[sizeof(large) - 2] = '}';
    large[sizeof(large) - 1] = '\0';
    assert_int_equal(kelpie__wire_cork(wire, mark), 0);
    while (kelpie__wire_notify(wire, "fill", large) == 0) {
        count += 1;
        assert_true(count < 100);
    }
    pair_settle(pair, 10);
    assert_int_equal(pair->sides[0].drained_count, drained_count);
    assert_int_equal(peer->notification_count, 6);
    assert_false(kelpie__wire_has_room(wire, sizeof(large)));
    kelpie__wire_uncork(wire);
    pair_settle(pair, 100);
    assert_int_equal(pair->sides[0].drained_count, drained_count + 1);
    assert_int_equal(peer->mark_count, 4);
    assert_int_equal(peer->notification_count, 6 + count);
    pair_destroy(pair);
}

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

/* A kernel that has no memory has some later: the frame waits, and nothing spins meanwhile. */
static void test_write_without_memory_is_tried_again(void **state) {
    (void)state;
    struct pair *pair = pair_create(0);
    pair->fake->write_error = -ENOMEM;
    assert_int_equal(kelpie__wire_notify(pair->sides[0].wire, "x", "{}"), 0);
    pair_settle(pair, KELPIE_NS_PER_MS);
    assert_int_equal(pair->fake->write_count, 1);
    assert_int_equal(pair->sides[1].notification_count, 0);
    pair_settle(pair, 20 * KELPIE_NS_PER_MS);
    assert_int_equal(pair->fake->write_count, 2);
    assert_int_equal(pair->sides[1].notification_count, 1);
    assert_int_equal(pair->sides[0].closed_count, 0);
    pair_destroy(pair);
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
        cmocka_unit_test(test_frames_of_one_step_leave_in_one_write),
        cmocka_unit_test(test_full_output_is_told_and_drained_comes),
        cmocka_unit_test(test_flush_by_hand_does_not_lose_drained),
        cmocka_unit_test(test_discard_ends_at_the_mark_only),
        cmocka_unit_test(test_cork_keeps_what_comes_after_it_behind_its_mark),
        cmocka_unit_test(test_system_errors_close),
        cmocka_unit_test(test_write_without_memory_is_tried_again),
        cmocka_unit_test(test_wire_may_be_destroyed_in_every_callback),
        cmocka_unit_test(test_create_survives_each_failing_allocation),
        cmocka_unit_test(test_borrowed_handle_serves_the_next_wire),
        cmocka_unit_test(test_idle_wire_allocates_nothing_and_wakes_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
