/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: pipes.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

static void close_pipe(struct conform *conform, const int pipe[2]) {
    say_close(conform, pipe[0]);
    say_close(conform, pipe[1]);
}

static void pipe_bytes(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    say_read(conform, pipe[0], 10);
    say_ready(conform, pipe[0], "empty, read end");
    say_ready(conform, pipe[1], "empty, write end");
    say_write(conform, pipe[1], "one");
    say_write(conform, pipe[1], "two");
    say_ready(conform, pipe[0], "with bytes");
    say_read(conform, pipe[0], 4);
    say_read(conform, pipe[0], 10);
    say_read(conform, pipe[0], 10);
    close_pipe(conform, pipe);
}

static void pipe_writer_gone(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    say_write(conform, pipe[1], "last");
    say_close(conform, pipe[1]);
    say_ready(conform, pipe[0], "bytes, no writer");
    say_read(conform, pipe[0], 10);
    say_ready(conform, pipe[0], "no writer");
    say_read(conform, pipe[0], 10);
    say_read(conform, pipe[0], 10);
    say_close(conform, pipe[0]);
}

static void pipe_reader_gone(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    say_write(conform, pipe[1], "unread");
    say_close(conform, pipe[0]);
    say_ready(conform, pipe[1], "no reader");
    say_write(conform, pipe[1], "x");
    say_write(conform, pipe[1], "x");
    say_close(conform, pipe[1]);
}

static void pipe_full_reader_gone(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    say(conform, "poured %llu", (unsigned long long)pour(conform, pipe[1], 4096, 1u << 20));
    say_close(conform, pipe[0]);
    say_ready(conform, pipe[1], "full, no reader");
    say_write(conform, pipe[1], "x");
    say_close(conform, pipe[1]);
}

static void pipe_wrong_end(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    say_write(conform, pipe[0], "x");
    say_read(conform, pipe[1], 1);
    say_pread(conform, pipe[0], 1, 0);
    said(conform, kelpie__os_pwrite(conform->os, pipe[1], "x", 1, 0), "pwrite");
    said(conform, kelpie__os_truncate(conform->os, pipe[1], 1), "truncate");
    said(conform, kelpie__os_sync(conform->os, pipe[1]), "sync");
    close_pipe(conform, pipe);
}

static void pipe_capacity(struct conform *conform) {
    static const size_t pieces[] = {1, 100, 4095, 4096, 4097, 10000, 65536};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(pieces); i += 1) {
        int pipe[2];
        say_pipe(conform, pipe);
        uint64_t done = pour(conform, pipe[1], pieces[i], 1u << 20);
        say(conform, "pieces of %zu: %llu", pieces[i], (unsigned long long)done);
        uint64_t got = drain(conform, pipe[0], 16384, 1u << 20);
        say(conform, "all of it came: %d", got == done);
        close_pipe(conform, pipe);
    }
}

/* A write of at most 4,096 bytes goes in whole or not at all. */
static void pipe_atomic_writes(struct conform *conform) {
    static const char bytes[100000] = "pipe";
    int pipe[2];
    say_pipe(conform, pipe);
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, sizeof(bytes)), "write 100000");
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 1), "write 1");
    say_ready(conform, pipe[1], "full");
    drain(conform, pipe[0], 100, 100);
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 1), "a page partly read: write 1");
    say_ready(conform, pipe[1], "still full");
    drain(conform, pipe[0], 3996, 3996);
    say_ready(conform, pipe[1], "a page is free");
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 10000), "write 10000");
    drain(conform, pipe[0], 4096, 4096);
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 4000), "write 4000");
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 97), "write 97");
    said(conform, kelpie__os_write(conform->os, pipe[1], bytes, 96), "write 96");
    say_ready(conform, pipe[1], "full again");
    close_pipe(conform, pipe);
}

static void pipe_shared_with_a_child(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    struct conform_child child = child_start(conform, 0, &pipe[1], 1);
    child_ask(conform, &child, "write from the child");
    say_close(conform, pipe[1]);
    say_wait(conform, pipe[0], KELPIE_OS_READABLE, "bytes");
    say_read(conform, pipe[0], 100);
    say_read(conform, pipe[0], 100);
    say_ready(conform, pipe[0], "the child holds it");
    child_kill(conform, &child, 9);
    say_wait(conform, pipe[0], KELPIE_OS_READABLE, "the child is dead");
    say_read(conform, pipe[0], 100);
    child_end(conform, &child);
    say_close(conform, pipe[0]);
}

static void pipe_reader_in_a_child(struct conform *conform) {
    int pipe[2];
    say_pipe(conform, pipe);
    struct conform_child child = child_start(conform, 0, &pipe[0], 1);
    say_close(conform, pipe[0]);
    say_write(conform, pipe[1], "for the child");
    child_ask(conform, &child, "read");
    child_ask(conform, &child, "close");
    say_ready(conform, pipe[1], "the child closed it");
    say_write(conform, pipe[1], "x");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, pipe[1]);
}

const struct conform_script conform_scripts_pipe[] = {
    {"pipe_bytes", pipe_bytes, 0},
    {"pipe_writer_gone", pipe_writer_gone, 0},
    {"pipe_reader_gone", pipe_reader_gone, 0},
    {"pipe_full_reader_gone", pipe_full_reader_gone, 0},
    {"pipe_wrong_end", pipe_wrong_end, 0},
    {"pipe_capacity", pipe_capacity, 0},
    {"pipe_atomic_writes", pipe_atomic_writes, 0},
    {"pipe_shared_with_a_child", pipe_shared_with_a_child, 0},
    {"pipe_reader_in_a_child", pipe_reader_in_a_child, 0},
    {NULL, NULL, 0},
};
