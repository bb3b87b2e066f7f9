/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: unix streams between two ends of one process.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

static void stream_bytes(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    said(conform, kelpie__os_read(conform->os, pair[0], (char[8]){0}, 8), "read nothing");
    say_write(conform, pair[0], "hello");
    say_write(conform, pair[0], "world");
    say_ready(conform, pair[1], "with bytes");
    say_read(conform, pair[1], 3);
    say_read(conform, pair[1], 100); /* two writes are one read */
    say_read(conform, pair[1], 100);
    say_write(conform, pair[1], "back");
    say_read(conform, pair[0], 100);
    say_ready(conform, pair[0], "idle");
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void stream_half_close(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_write(conform, pair[0], "last");
    said(conform, kelpie__os_shut_write(conform->os, pair[0]), "shut_write");
    said(conform, kelpie__os_shut_write(conform->os, pair[0]), "shut_write again");
    say_write(conform, pair[0], "more");
    say_ready(conform, pair[0], "who shut");
    say_ready(conform, pair[1], "the other, with bytes");
    say_read(conform, pair[1], 100);
    say_read(conform, pair[1], 100);
    say_ready(conform, pair[1], "the other, at the end");
    say_write(conform, pair[1], "still open this way");
    say_read(conform, pair[0], 100);
    said(conform, kelpie__os_shut_write(conform->os, pair[1]), "shut_write both");
    say_ready(conform, pair[0], "both shut");
    say_ready(conform, pair[1], "both shut");
    say_read(conform, pair[0], 100);
    say_close(conform, pair[0]);
    say_ready(conform, pair[1], "shut, then closed");
    say_close(conform, pair[1]);
}

static void stream_peer_closed(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_write(conform, pair[1], "rest");
    say_close(conform, pair[1]);
    say_ready(conform, pair[0], "peer closed, bytes left");
    say_write(conform, pair[0], "x");
    say_read(conform, pair[0], 100);
    say_ready(conform, pair[0], "peer closed");
    say_read(conform, pair[0], 100);
    say_read(conform, pair[0], 100);
    say_write(conform, pair[0], "x");
    said(conform, kelpie__os_shut_write(conform->os, pair[0]), "shut_write");
    say_close(conform, pair[0]);
}

static void stream_reset(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_write(conform, pair[0], "never read");
    say_close(conform, pair[1]);
    say_ready(conform, pair[0], "reset");
    say_write(conform, pair[0], "x");
    say_ready(conform, pair[0], "reset, after a write");
    say_read(conform, pair[0], 100);
    say_ready(conform, pair[0], "reset was told");
    say_read(conform, pair[0], 100);
    say_close(conform, pair[0]);
}

static void stream_reset_with_bytes(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_write(conform, pair[0], "never read");
    say_write(conform, pair[1], "sent before");
    say_close(conform, pair[1]);
    say_read(conform, pair[0], 4);
    say_read(conform, pair[0], 100);
    say_read(conform, pair[0], 100);
    say_read(conform, pair[0], 100);
    say_close(conform, pair[0]);
}

static void stream_reset_after_shut(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_write(conform, pair[0], "never read");
    said(conform, kelpie__os_shut_write(conform->os, pair[0]), "shut_write");
    say_close(conform, pair[1]);
    say_ready(conform, pair[0], "reset after shut");
    say_read(conform, pair[0], 100);
    say_read(conform, pair[0], 100);
    say_close(conform, pair[0]);
}

/* How much fits depends on the kernel; that it is neither little nor endless does not. */
static void stream_full(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    uint64_t taken = pour(conform, pair[0], 4096, 10u << 20);
    say(conform, "more than 64 KiB: %d, less than 512 KiB: %d", taken > 65536, taken < 524288);
    say_write(conform, pair[0], "x");
    say_ready(conform, pair[0], "full");
    say_ready(conform, pair[1], "full of bytes");
    /* Room for a write comes with the first segment that is gone; "writable" comes late. */
    drain(conform, pair[1], 4096, 4096);
    say_write(conform, pair[0], "x");
    say_ready(conform, pair[0], "nearly full");
    drain(conform, pair[1], 4096, taken * 9 / 10 / 4096 * 4096);
    say_ready(conform, pair[0], "nearly empty");
    uint64_t rest = drain(conform, pair[1], 4096, 10u << 20);
    say(conform, "nothing is lost: %d", rest + 4096 + taken * 9 / 10 / 4096 * 4096 == taken + 1);
    say_ready(conform, pair[0], "empty");
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void stream_full_wakes_the_writer(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    uint64_t taken = pour(conform, pair[0], 1000, 10u << 20);
    said(conform, kelpie__os_watch(conform->os, pair[0], KELPIE_OS_WRITABLE, 5), "watch");
    struct kelpie_os_event event = {0};
    said(conform, kelpie__os_wait(conform->os, &event, 1, 0), "full: wait");
    drain(conform, pair[1], 1000, taken);
    said(conform, kelpie__os_wait(conform->os, &event, 1, -1), "empty: wait");
    say(conform, "bits %u", event.bits);
    said(conform, kelpie__os_watch(conform->os, pair[0], 0, 0), "forget");
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void stream_partial_write(struct conform *conform) {
    static const char bytes[1 << 20] = "big";
    int pair[2];
    say_pair(conform, pair);
    int64_t done = kelpie__os_write(conform->os, pair[0], bytes, sizeof(bytes));
    say(conform, "a part: %d", done > 65536 && done < (int64_t)sizeof(bytes));
    said(conform, kelpie__os_write(conform->os, pair[0], bytes, sizeof(bytes)), "again");
    uint64_t got = drain(conform, pair[1], 16384, 10u << 20);
    say(conform, "all of it came: %d", (int64_t)got == done);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

/* One byte at a time costs much more of the buffer than its bytes. */
static void stream_small_writes_fill_it(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    uint64_t count = pour(conform, pair[0], 1, 1u << 20);
    say(conform, "between 100 and 1000: %d", count > 100 && count < 1000);
    uint64_t got = drain(conform, pair[1], 4096, 1u << 20);
    say(conform, "all of them came: %d", got == count);
    say_write(conform, pair[0], "again");
    say_read(conform, pair[1], 100);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void stream_closed_by_its_child(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    say_close(conform, pair[1]);
    child_ask(conform, &child, "write from the child");
    say_wait(conform, pair[0], KELPIE_OS_READABLE, "bytes");
    say_read(conform, pair[0], 100);
    say_write(conform, pair[0], "to the child");
    child_ask(conform, &child, "read");
    child_ask(conform, &child, "read");
    say_write(conform, pair[0], "unread at its death");
    child_kill(conform, &child, 9);
    child_end(conform, &child);
    say_wait(conform, pair[0], KELPIE_OS_READABLE, "its death");
    say_read(conform, pair[0], 100);
    say_read(conform, pair[0], 100);
    say_write(conform, pair[0], "x");
    say_close(conform, pair[0]);
}

/* An end that two processes hold is closed when both have closed it. */
static void stream_shared_with_a_child(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    child_ask(conform, &child, "close");
    say_ready(conform, pair[0], "one of two closed it");
    say_write(conform, pair[0], "x");
    say_close(conform, pair[1]);
    say_ready(conform, pair[0], "both closed it");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, pair[0]);
}

const struct conform_script conform_scripts_stream[] = {
    {"stream_bytes", stream_bytes, 0},
    {"stream_half_close", stream_half_close, 0},
    {"stream_peer_closed", stream_peer_closed, 0},
    {"stream_reset", stream_reset, 0},
    {"stream_reset_with_bytes", stream_reset_with_bytes, 0},
    {"stream_reset_after_shut", stream_reset_after_shut, 0},
    {"stream_full", stream_full, 0},
    {"stream_full_wakes_the_writer", stream_full_wakes_the_writer, 0},
    {"stream_partial_write", stream_partial_write, 0},
    {"stream_small_writes_fill_it", stream_small_writes_fill_it, 0},
    {"stream_closed_by_its_child", stream_closed_by_its_child, 0},
    {"stream_shared_with_a_child", stream_shared_with_a_child, 0},
    {NULL, NULL, 0},
};
