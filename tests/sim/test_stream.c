/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what the simulated world adds to streams and Linux has not: calls that are cut, faults,
 * memory that is given back, calls that cost next to nothing. What Linux has is compared with it by
 * tests/conformance. Method: a program of a few lines in a world of its own.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/channel.h"
#include "sim/guest.h"
#include "sim/heap.h"
#include "sim/machine.h"
#include "sim/stream.h"

#define TIMEOUT_NS INT64_C(100000000000)
#define HEAP_BYTES (1u << 20)

static uint64_t run(const struct sim_options *options, sim_main main) {
    const struct sim_start start = {.path = "/test", .role = "user", .main = main};
    char problem[256] = "";
    struct sim_world *world = kelpie__sim_world_create(options, problem);
    assert_string_equal(problem, "");
    assert_non_null(world);
    struct sim_machine *host = kelpie__sim_world_host(world);
    assert_non_null(kelpie__sim_process_start(host, &start));
    assert_int_equal(kelpie__sim_world_run(world, NULL, NULL, TIMEOUT_NS), SIM_RUN_IDLE);
    uint64_t hash = kelpie__sim_world_hash(world);
    kelpie__sim_world_destroy(world);
    return hash;
}

static void close_pair(struct kelpie_os *os, const int pair[2]) {
    assert_int_equal(kelpie__os_close(os, pair[0]), 0);
    assert_int_equal(kelpie__os_close(os, pair[1]), 0);
}

/* ---- cut calls ------------------------------------------------------------------------------- */

/* Every byte arrives in order, however the calls are cut; some of them are. */
static int move_main(struct kelpie_os *os, int argc, char **argv) {
    uint8_t out[5000];
    uint8_t in[5000];
    uint64_t sent = 0;
    uint64_t got = 0;
    unsigned cut_writes = 0;
    unsigned cut_reads = 0;
    int pair[2];
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_pair(os, pair), 0);
    for (unsigned turn = 0; turn < 200; turn += 1) {
        for (size_t i = 0; i < sizeof(out); i += 1) {
            out[i] = (uint8_t)((sent + i) * 7 / 3);
        }
        int64_t status = kelpie__os_write(os, pair[0], out, sizeof(out));
        assert_true(status > 0);
        cut_writes += status < (int64_t)sizeof(out);
        sent += (uint64_t)status;
        size_t left = (size_t)(sent - got) < sizeof(in) ? (size_t)(sent - got) : sizeof(in);
        status = kelpie__os_read(os, pair[1], in, sizeof(in));
        assert_true(status > 0);
        cut_reads += (size_t)status < left;
        for (int64_t i = 0; i < status; i += 1) {
            assert_int_equal(in[i], (uint8_t)((got + (uint64_t)i) * 7 / 3));
        }
        got += (uint64_t)status;
    }
    assert_in_range(cut_writes, 10, 190);
    assert_in_range(cut_reads, 10, 190);
    close_pair(os, pair);
    return 0;
}

static void test_calls_are_cut_by_chance(void **state) {
    struct sim_options options = {.seed = 3, .partial_billionth = 300000000};
    kelpie__ignore(state != NULL);
    uint64_t hash = run(&options, move_main);
    assert_int_equal(hash, run(&options, move_main));
    options.seed = 4;
    assert_true(hash != run(&options, move_main));
}

static int atomic_main(struct kelpie_os *os, int argc, char **argv) {
    static const char bytes[4096] = "atomic";
    char in[4096];
    int pipe[2];
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_pipe(os, pipe), 0);
    for (unsigned i = 0; i < 100; i += 1) {
        assert_int_equal(kelpie__os_write(os, pipe[1], bytes, sizeof(bytes)), sizeof(bytes));
        for (size_t done = 0; done < sizeof(bytes);) {
            int64_t got = kelpie__os_read(os, pipe[0], in, sizeof(in));
            assert_true(got > 0);
            done += (size_t)got;
        }
    }
    close_pair(os, pipe);
    return 0;
}

static void test_small_writes_to_pipes_are_never_cut(void **state) {
    const struct sim_options options = {.seed = 3, .partial_billionth = 900000000};
    kelpie__ignore(state != NULL);
    kelpie__ignore((int64_t)run(&options, atomic_main));
}

/* ---- faults ---------------------------------------------------------------------------------- */

static int faulty_main(struct kelpie_os *os, int argc, char **argv) {
    char bytes[16] = "";
    int pair[2];
    int handles[2] = {-1, -1};
    uint32_t count = 2;
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_pair(os, pair), 0);
    kelpie__os_label(os, pair[0], "qmp");
    assert_int_equal(kelpie__os_write(os, pair[0], "dropped", 7), 7);
    assert_int_equal(kelpie__os_read(os, pair[1], bytes, sizeof(bytes)), -EAGAIN);
    assert_int_equal(kelpie__os_write(os, pair[0], "shortened", 9), 2);
    assert_int_equal(kelpie__os_write(os, pair[0], "fails", 5), -EIO);
    assert_int_equal(kelpie__os_write(os, pair[0], "whole", 5), 5);
    assert_int_equal(kelpie__os_read(os, pair[1], bytes, sizeof(bytes)), 7);
    assert_memory_equal(bytes, "shwhole", 7);
    assert_int_equal(kelpie__os_write(os, pair[1], "answer", 6), 6);
    assert_int_equal(kelpie__os_read(os, pair[0], bytes, 2), 2);
    assert_int_not_equal(memcmp(bytes, "an", 2), 0); /* a bit is wrong */
    assert_int_equal(kelpie__os_read(os, pair[0], bytes, sizeof(bytes)), -EAGAIN); /* dropped */
    assert_int_equal(kelpie__os_send(os, pair[1], "h", 1, &pair[1], 1), 1);
    assert_int_equal(kelpie__os_receive(os, pair[0], bytes, 4, handles, &count), -ECONNRESET);
    assert_int_equal(count, 0);
    count = 2;
    assert_int_equal(kelpie__os_receive(os, pair[0], bytes, 4, handles, &count), 1);
    assert_int_equal(count, 1);
    assert_int_equal(kelpie__os_close(os, handles[0]), 0);
    close_pair(os, pair);
    return 0;
}

static void test_faults_of_a_plan_are_done(void **state) {
    const struct sim_options options = {.seed = 1,
                                        .plan = "qmp.write nth=1 => drop\n"
                                                "qmp.write nth=2 => short:2\n"
                                                "qmp.write nth=3 => EIO\n"
                                                "qmp.read nth=1 => mutate\n"
                                                "qmp.read nth=2 => drop\n"
                                                "qmp.receive nth=1 => ECONNRESET\n"};
    kelpie__ignore(state != NULL);
    kelpie__ignore((int64_t)run(&options, faulty_main));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void use_everything(struct kelpie_os *os) {
    static const char bytes[65536] = "big";
    char in[16384];
    int pair[2];
    int pipe[2];
    int master = -1;
    int slave = -1;
    int signals[] = {1, 15};
    assert_int_equal(kelpie__os_pair(os, pair), 0);
    assert_int_equal(kelpie__os_pipe(os, pipe), 0);
    assert_int_equal(kelpie__sim_terminal_open(kelpie__sim_process_of(os), &master, &slave, 24, 80),
                     0);
    int handle = kelpie__os_open_signals(os, signals, 2);
    assert_true(handle >= 0);
    assert_int_equal(kelpie__os_send(os, pair[0], bytes, 20000, pipe, 2), 20000);
    assert_true(kelpie__os_write(os, pair[0], bytes, sizeof(bytes)) > 0);
    assert_true(kelpie__os_write(os, pipe[1], bytes, sizeof(bytes)) > 0);
    assert_true(kelpie__os_read(os, pipe[0], in, sizeof(in)) > 0);
    assert_true(kelpie__os_write(os, master, "typed\nand", 9) > 0);
    assert_true(kelpie__os_write(os, slave, "shown\n", 6) > 0);
    close_pair(os, pipe); /* they live on in the stream */
    assert_int_equal(kelpie__os_close(os, handle), 0);
    assert_int_equal(kelpie__os_close(os, slave), 0);
    assert_int_equal(kelpie__os_close(os, master), 0);
    close_pair(os, pair);
}

static int memory_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_heap *heap = kelpie__sim_process_of(os)->machine->heap;
    kelpie__ignore(argc > 0 && argv != NULL);
    use_everything(os); /* the handle table has grown now */
    size_t before = kelpie__sim_heap_live_bytes(heap);
    for (unsigned i = 0; i < 10; i += 1) {
        use_everything(os);
        assert_int_equal(kelpie__sim_heap_live_bytes(heap), before);
    }
    return 0;
}

static void test_memory_is_given_back(void **state) {
    const struct sim_options options = {.seed = 1};
    kelpie__ignore(state != NULL);
    kelpie__ignore((int64_t)run(&options, memory_main));
}

/* A queue that goes around its ring many times, and grows while it is not straight. */
static void test_channel_keeps_order_while_it_grows(void **state) {
    static uint8_t bytes[10000];
    struct sim_channel channel = {0};
    uint64_t put = 0;
    uint64_t taken = 0;
    kelpie__ignore(state != NULL);
    void *base = kelpie__sim_heap_reserve(HEAP_BYTES);
    struct sim_heap *heap = kelpie__sim_heap_init(base, HEAP_BYTES, HEAP_BYTES);
    size_t before = kelpie__sim_heap_live_bytes(heap);
    for (unsigned turn = 0; turn < 2000; turn += 1) {
        uint32_t count = 1 + turn * 37 % 900;
        for (uint32_t i = 0; i < count; i += 1) {
            bytes[i] = (uint8_t)((put + i) * 31);
        }
        assert_true(kelpie__sim_channel_put(&channel, heap, bytes, count, count + 1));
        put += count;
        kelpie__sim_channel_check(&channel);
        for (unsigned takes = 0; takes < 2 && channel.segment_count > turn % 150; takes += 1) {
            struct sim_segment *segment = kelpie__sim_channel_first(&channel);
            uint32_t piece = segment->length > 10 ? segment->length - 10 : segment->length;
            kelpie__sim_channel_take(&channel, bytes, piece);
            for (uint32_t i = 0; i < piece; i += 1) {
                assert_int_equal(bytes[i], (uint8_t)((taken + i) * 31));
            }
            taken += piece;
        }
    }
    assert_true(taken > 100000);
    kelpie__sim_channel_deinit(&channel, heap);
    assert_int_equal(kelpie__sim_heap_live_bytes(heap), before);
    kelpie__sim_heap_unreserve(base, HEAP_BYTES);
}

/* ---- speed ----------------------------------------------------------------------------------- */

#define SPEED_TURNS 200000

static int speed_main(struct kelpie_os *os, int argc, char **argv) {
    char bytes[200] = "message";
    int pair[2];
    struct timespec start;
    struct timespec end;
    kelpie__ignore(argc > 0 && argv != NULL);
    assert_int_equal(kelpie__os_pair(os, pair), 0);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < SPEED_TURNS; i += 1) {
        kelpie__ignore(kelpie__os_write(os, pair[0], bytes, sizeof(bytes)));
        kelpie__ignore(kelpie__os_read(os, pair[1], bytes, sizeof(bytes)));
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t ns = (end.tv_sec - start.tv_sec) * 1000000000 + (end.tv_nsec - start.tv_nsec);
    print_message("a call of 200 bytes: %lld ns\n", (long long)(ns / 2 / SPEED_TURNS));
    close_pair(os, pair);
    return 0;
}

/* A figure, not a verdict: the machine is shared. */
static void test_calls_are_cheap(void **state) {
    const struct sim_options options = {.seed = 1, .cost_factor = 1};
    kelpie__ignore(state != NULL);
    kelpie__ignore((int64_t)run(&options, speed_main));
}

/* Word by word or byte by byte, wherever it begins and ends. */
static void test_pattern_is_the_same_in_words(void **state) {
    uint8_t bytes[600];
    kelpie__ignore(state != NULL);
    for (size_t offset = 0; offset < 300; offset += 7) {
        for (size_t count = 0; count < 300; count += 13) {
            kelpie__sim_pattern_fill(bytes, sizeof(bytes), offset);
            for (size_t i = 0; i < count; i += 1) {
                assert_int_equal(bytes[i], kelpie__sim_pattern(offset + i));
            }
            assert_int_equal(kelpie__sim_pattern_length(bytes, count, offset), count);
            bytes[count] ^= 0x10;
            assert_int_equal(kelpie__sim_pattern_length(bytes, sizeof(bytes), offset), count);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_are_cut_by_chance),
        cmocka_unit_test(test_small_writes_to_pipes_are_never_cut),
        cmocka_unit_test(test_faults_of_a_plan_are_done),
        cmocka_unit_test(test_memory_is_given_back),
        cmocka_unit_test(test_channel_keeps_order_while_it_grows),
        cmocka_unit_test(test_calls_are_cheap),
        cmocka_unit_test(test_pattern_is_the_same_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
