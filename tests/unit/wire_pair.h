/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Two wires over a pair of queues in memory, each with an owner that remembers what it was told.
 * For the tests of src/wire; cmocka.h comes before it.
 */
#ifndef KELPIE_TESTS_WIRE_PAIR_H
#define KELPIE_TESTS_WIRE_PAIR_H

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
static inline uint8_t stream_byte(uint32_t stream, uint64_t offset) {
    uint64_t state = offset * 31 + stream;
    return (uint8_t)fake_random(&state);
}

static inline bool side_destroys(struct side *side) {
    if (side->destroys_itself) {
        side->destroys_itself = false;
        kelpie__wire_destroy(side->wire);
        side->wire = NULL;
        return true;
    }
    return false;
}

static inline void on_request(void *context, uint64_t id, const char *method, const char *params,
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

static inline void on_notification(void *context, const char *method, const char *params,
                                   size_t length) {
    struct side *side = context;
    assert_int_equal(params[length], '\0');
    side->notification_count += 1;
    kelpie__ignore(kelpie__text_copy(side->method, sizeof(side->method), method));
    kelpie__ignore(kelpie__text_copy(side->params, sizeof(side->params), params));
    kelpie__ignore(side_destroys(side));
}

static inline void side_pump(struct side *side) {
    for (uint32_t i = 0; side->has_streams && side->wire != NULL && i < STREAM_COUNT; i += 1) {
        kelpie__ignore(kelpie__stream_sender_pump(&side->senders[i], side->wire, i + 4));
    }
}

static inline void on_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
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

static inline void on_credit(void *context, uint32_t stream, uint64_t acknowledged,
                             uint64_t limit) {
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

static inline void on_stop(void *context, uint32_t stream) {
    struct side *side = context;
    side->stop_count += 1;
    if (!side_destroys(side) && side->has_streams) {
        kelpie__stream_sender_stop(&side->senders[stream - 4]);
    }
}

static inline void on_mark(void *context, const uint8_t mark[KELPIE_MARK_BYTES]) {
    struct side *side = context;
    assert_int_equal(mark[0], 0xa0);
    side->mark_count += 1;
}

static inline void on_drained(void *context) {
    struct side *side = context;
    side->drained_count += 1;
    if (!side_destroys(side)) {
        side_pump(side);
    }
}

static inline void on_closed(void *context, const struct kelpie_error *error) {
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

static inline void on_answer(void *context, const struct kelpie_error *error, const char *result,
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

static inline void pair_connect(struct pair *pair) {
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

static inline struct pair *pair_create(uint64_t seed) {
    struct pair *pair = calloc(1, sizeof(*pair));
    assert_non_null(pair);
    pair->fake = fake_create(seed);
    assert_int_equal(kelpie__loop_create(&pair->fake->os, 8, &pair->loop, NULL), 0);
    pair_connect(pair);
    return pair;
}

static inline void pair_disconnect(struct pair *pair) {
    for (int i = 0; i < 2; i += 1) {
        kelpie__wire_destroy(pair->sides[i].wire);
        pair->sides[i].wire = NULL;
    }
}

static inline void pair_destroy(struct pair *pair) {
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
static inline void pair_settle(struct pair *pair, int64_t within_ns) {
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

static inline void streams_init(struct pair *pair) {
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

#endif
