/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: waiting.
 */
#include "conformance.h"

#include <signal.h>
#include <stdio.h>

static int64_t now(struct conform *conform) {
    return kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC);
}

static void wait_deadline(struct conform *conform) {
    struct kelpie_os_event event;
    int64_t before_ns = now(conform);
    said(conform, kelpie__os_wait(conform->os, &event, 1, before_ns + 5000000), "wait 5 ms");
    int64_t took_ns = now(conform) - before_ns;
    say(conform, "not too early: %d, nor too late: %d", took_ns >= 5000000,
        took_ns < INT64_C(2000000000));
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "long past");
    said(conform, kelpie__os_wait(conform->os, &event, 1, now(conform)), "now");
    say(conform, "monotonic: %d", now(conform) >= before_ns + 5000000);
    say(conform, "wall clock after 2020: %d",
        kelpie__os_now(conform->os, KELPIE_OS_CLOCK_WALL) > INT64_C(1577836800000000000));
    int64_t raw_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_RAW);
    said(conform, kelpie__os_wait(conform->os, &event, 1, now(conform) + 3000000), "wait 3 ms");
    raw_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_RAW) - raw_ns;
    say(conform, "the raw clock went on: %d", raw_ns > 2900000);
}

/* Reported in the order in which they became ready, then in turn. */
static void wait_order(struct conform *conform) {
    struct kelpie_os_event events[4];
    int pipes[4][2];
    for (int i = 0; i < 4; i += 1) {
        say_pipe(conform, pipes[i]);
        said(conform, kelpie__os_watch(conform->os, pipes[i][0], KELPIE_OS_READABLE, (uint64_t)i),
             "watch");
    }
    static const int order[] = {2, 0, 3, 1};
    for (int i = 0; i < 4; i += 1) {
        kelpie__ignore(kelpie__os_write(conform->os, pipes[order[i]][1], "x", 1));
    }
    for (int turn = 0; turn < 2; turn += 1) {
        int count = kelpie__os_wait(conform->os, events, 4, -1);
        for (int i = 0; i < count; i += 1) {
            say(conform, "all: %d", (int)events[i].cookie);
        }
    }
    for (int turn = 0; turn < 6; turn += 1) {
        int count = kelpie__os_wait(conform->os, events, 1, -1);
        say(conform, "one by one: %d of %d", (int)events[0].cookie, count);
    }
    for (int turn = 0; turn < 3; turn += 1) {
        int count = kelpie__os_wait(conform->os, events, 3, -1);
        say(conform, "by three: %d %d %d of %d", (int)events[0].cookie, (int)events[1].cookie,
            (int)events[2].cookie, count);
    }
    say_read(conform, pipes[3][0], 10);
    int count = kelpie__os_wait(conform->os, events, 4, -1);
    say(conform, "one is read: %d", count);
    for (int i = 0; i < 4; i += 1) {
        said(conform, kelpie__os_watch(conform->os, pipes[i][0], 0, 0), "forget");
        say_close(conform, pipes[i][0]);
        say_close(conform, pipes[i][1]);
    }
    said(conform, kelpie__os_wait(conform->os, events, 4, 0), "none is watched");
}

static void wait_watch(struct conform *conform) {
    struct kelpie_os_event event = {0};
    int pipe[2];
    int file = say_make(conform, "file", "x");
    say_pipe(conform, pipe);
    said(conform, kelpie__os_watch(conform->os, file, KELPIE_OS_READABLE, 1), "watch a file");
    said(conform, kelpie__os_watch(conform->os, conform->directory, KELPIE_OS_READABLE, 1),
         "watch a directory");
    said(conform, kelpie__os_watch(conform->os, 900, KELPIE_OS_READABLE, 1), "watch nothing");
    said(conform, kelpie__os_watch(conform->os, pipe[0], 0, 1), "forget the unknown");
    said(conform, kelpie__os_watch(conform->os, 900, 0, 1), "forget nothing");
    said(conform, kelpie__os_watch(conform->os, pipe[1], KELPIE_OS_READABLE, 1), "watch in vain");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    said(conform, kelpie__os_watch(conform->os, pipe[1], KELPIE_OS_WRITABLE, 2), "watch anew");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say(conform, "cookie %d, bits %u", (int)event.cookie, event.bits);
    said(conform, kelpie__os_watch(conform->os, pipe[1], KELPIE_OS_WRITABLE, 3), "again");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say(conform, "cookie %d", (int)event.cookie);
    said(conform, kelpie__os_watch(conform->os, pipe[1], KELPIE_OS_READABLE, 4), "not for write");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say_close(conform, pipe[0]);
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "a hangup is always told: wait");
    say(conform, "cookie %d, bits %u", (int)event.cookie, event.bits);
    said(conform, kelpie__os_watch(conform->os, pipe[1], 0, 0), "forget");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say_close(conform, pipe[1]);
    say_close(conform, file);
}

/* A closed handle is watched no more, and its number is a new one's. */
static void wait_closed_handle(struct conform *conform) {
    struct kelpie_os_event event = {0};
    int pipe[2];
    say_pipe(conform, pipe);
    say_write(conform, pipe[1], "x");
    said(conform, kelpie__os_watch(conform->os, pipe[0], KELPIE_OS_READABLE, 1), "watch");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say_close(conform, pipe[0]);
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "closed: wait");
    int again[2];
    say_pipe(conform, again);
    say_write(conform, again[1], "y");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "another, unwatched: wait");
    said(conform, kelpie__os_watch(conform->os, again[0], KELPIE_OS_READABLE, 2), "watch it");
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "wait");
    say(conform, "cookie %d", (int)event.cookie);
    said(conform, kelpie__os_watch(conform->os, again[0], 0, 0), "forget");
    say_close(conform, pipe[1]);
    say_close(conform, again[0]);
    say_close(conform, again[1]);
}

/* Another process makes it ready while this one waits without a deadline. */
static void wait_for_another(struct conform *conform) {
    struct kelpie_os_event event = {0};
    int pipe[2];
    say_pipe(conform, pipe);
    struct conform_child child = child_start(conform, 0, &pipe[1], 1);
    say_close(conform, pipe[1]);
    said(conform, kelpie__os_watch(conform->os, pipe[0], KELPIE_OS_READABLE, 7), "watch");
    say_write(conform, child.control, "write hello\n");
    said(conform, kelpie__os_wait(conform->os, &event, 1, -1), "wait for ever");
    say(conform, "cookie %d, bits %u", (int)event.cookie, event.bits);
    said(conform, kelpie__os_wait(conform->os, &event, 1, -1), "it is still ready: wait");
    say_read(conform, pipe[0], 10);
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "read: wait");
    said(conform, kelpie__os_watch(conform->os, child.control, KELPIE_OS_READABLE, 8), "watch");
    said(conform, kelpie__os_wait(conform->os, &event, 1, -1), "the answer: wait");
    said(conform, kelpie__os_watch(conform->os, child.control, 0, 0), "forget");
    say_read(conform, child.control, 10);
    child_kill(conform, &child, SIGKILL);
    said(conform, kelpie__os_wait(conform->os, &event, 1, -1), "wait for ever");
    say(conform, "cookie %d, bits %u", (int)event.cookie, event.bits);
    said(conform, kelpie__os_watch(conform->os, pipe[0], 0, 0), "forget");
    child_end(conform, &child);
    say_close(conform, pipe[0]);
}

/* One watch, two reasons: the bits come together. */
static void wait_both_bits(struct conform *conform) {
    struct kelpie_os_event events[4];
    int pair[2];
    say_pair(conform, pair);
    said(conform,
         kelpie__os_watch(conform->os, pair[0], KELPIE_OS_READABLE | KELPIE_OS_WRITABLE, 1),
         "watch");
    int count = kelpie__os_wait(conform->os, events, 4, -1);
    say(conform, "%d, bits %u", count, events[0].bits);
    say_write(conform, pair[1], "x");
    count = kelpie__os_wait(conform->os, events, 4, -1);
    say(conform, "%d, bits %u", count, events[0].bits);
    say_close(conform, pair[1]);
    count = kelpie__os_wait(conform->os, events, 4, -1);
    say(conform, "%d, bits %u", count, events[0].bits);
    said(conform, kelpie__os_watch(conform->os, pair[0], 0, 0), "forget");
    say_close(conform, pair[0]);
}

const struct conform_script conform_scripts_wait[] = {
    {"wait_deadline", wait_deadline, 0},
    {"wait_order", wait_order, 0},
    {"wait_watch", wait_watch, 0},
    {"wait_closed_handle", wait_closed_handle, 0},
    {"wait_for_another", wait_for_another, 0},
    {"wait_both_bits", wait_both_bits, 0},
    {NULL, NULL, 0},
};
