/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: handles that travel through streams, and the handle table.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void say_send(struct conform *conform, int stream, const char *text, const int *handles,
                     uint32_t count) {
    char what[64];
    snprintf(what, sizeof(what), "send \"%.30s\" with %u", text, count);
    said(conform, kelpie__os_send(conform->os, stream, text, strlen(text), handles, count), what);
}

static uint32_t say_receive(struct conform *conform, int stream, size_t count, int *out,
                            uint32_t room) {
    char bytes[256];
    KELPIE_ASSERT(count <= sizeof(bytes));
    int64_t got = kelpie__os_receive(conform->os, stream, bytes, count, out, &room);
    if (got < 0) {
        said(conform, got, "receive");
        return 0;
    }
    say(conform, "receive: \"%.*s\" with %u", (int)got, bytes, room);
    return room;
}

static void handle_passed(struct conform *conform) {
    int pair[2];
    int pipe[2];
    int got[2] = {CONFORM_NONE, CONFORM_NONE};
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_send(conform, pair[0], "take", &pipe[1], 1);
    say_close(conform, pipe[1]);
    say_ready(conform, pipe[0], "its writer is under way");
    say_receive(conform, pair[1], 100, got, 2);
    say_write(conform, got[0], "through it");
    say_read(conform, pipe[0], 100);
    say_close(conform, got[0]);
    say_ready(conform, pipe[0], "its writer is closed");
    say_close(conform, pipe[0]);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

/* A read ends after the segment that brought handles; those before it come with it. */
static void handle_ends_a_read(struct conform *conform) {
    int pair[2];
    int pipe[2];
    int got[2] = {CONFORM_NONE, CONFORM_NONE};
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_write(conform, pair[0], "before,");
    say_send(conform, pair[0], "with", &pipe[1], 1);
    say_write(conform, pair[0], ",after");
    say_receive(conform, pair[1], 100, got, 2);
    say_close(conform, got[0]);
    say_receive(conform, pair[1], 100, got, 2);
    /* Its first byte brings it, the rest comes without. */
    say_send(conform, pair[0], "abc", &pipe[1], 1);
    say_write(conform, pair[0], "def");
    say_receive(conform, pair[1], 1, got, 2);
    say_close(conform, got[0]);
    say_receive(conform, pair[1], 100, got, 2);
    /* Two messages with handles are two reads. */
    say_send(conform, pair[0], "one", &pipe[0], 1);
    say_send(conform, pair[0], "two", &pipe[1], 1);
    say_receive(conform, pair[1], 100, got, 2);
    say_close(conform, got[0]);
    say_receive(conform, pair[1], 100, got, 2);
    say_close(conform, got[0]);
    for (int i = 0; i < 2; i += 1) {
        say_close(conform, pair[i]);
        say_close(conform, pipe[i]);
    }
}

static void handle_dropped_by_a_read(struct conform *conform) {
    int pair[2];
    int pipe[2];
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_send(conform, pair[0], "take", &pipe[1], 1);
    say_close(conform, pipe[1]);
    say_ready(conform, pipe[0], "under way");
    say_read(conform, pair[1], 2);
    say_ready(conform, pipe[0], "read without receiving");
    say_read(conform, pair[1], 100);
    say_close(conform, pipe[0]);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void handle_without_room(struct conform *conform) {
    int pair[2];
    int pipes[2][2];
    int got[1] = {CONFORM_NONE};
    say_pair(conform, pair);
    say_pipe(conform, pipes[0]);
    say_pipe(conform, pipes[1]);
    const int sent[2] = {pipes[0][1], pipes[1][1]};
    say_send(conform, pair[0], "two", sent, 2);
    say_close(conform, pipes[0][1]);
    say_close(conform, pipes[1][1]);
    say_receive(conform, pair[1], 100, got, 1);
    say_ready(conform, pipes[0][0], "received");
    say_ready(conform, pipes[1][0], "no room");
    say_close(conform, got[0]);
    say_ready(conform, pipes[0][0], "closed");
    say_close(conform, pipes[0][0]);
    say_close(conform, pipes[1][0]);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void handle_closed_with_its_stream(struct conform *conform) {
    int pair[2];
    int pipe[2];
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_send(conform, pair[0], "never received", &pipe[1], 1);
    say_close(conform, pipe[1]);
    say_close(conform, pair[0]);
    say_ready(conform, pipe[0], "the sender is gone");
    say_close(conform, pair[1]);
    say_ready(conform, pipe[0], "the stream is gone");
    say_read(conform, pipe[0], 100);
    say_close(conform, pipe[0]);
}

static void handle_many(struct conform *conform) {
    int pair[2];
    int sent[16];
    int got[16];
    say_pair(conform, pair);
    int file = say_make(conform, "file", "content");
    for (int i = 0; i < 16; i += 1) {
        sent[i] = file;
    }
    say_send(conform, pair[0], "sixteen", sent, 16);
    say_close(conform, file);
    uint32_t count = say_receive(conform, pair[1], 100, got, 16);
    for (uint32_t i = 0; i < count; i += 1) {
        if (i == 0 || i == 15) {
            say_pread(conform, got[i], 100, i % 4);
        }
        say_close(conform, got[i]);
    }
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void handle_wrong(struct conform *conform) {
    int pair[2];
    int pipe[2];
    int got[2];
    int bad = 900;
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_send(conform, pair[0], "bad", &bad, 1);
    say_send(conform, pipe[1], "pipe", &pipe[0], 1);
    say_send(conform, 900, "nothing", &pipe[0], 1);
    say_receive(conform, pipe[0], 10, got, 2);
    say_receive(conform, 900, 10, got, 2);
    say_receive(conform, pair[1], 10, got, 2);
    say_close(conform, pair[1]);
    say_send(conform, pair[0], "to nobody", &pipe[0], 1);
    say_send(conform, pair[0], "bad to nobody", &bad, 1);
    say_receive(conform, pair[0], 10, got, 2);
    say_close(conform, pair[0]);
    say_close(conform, pipe[0]);
    say_close(conform, pipe[1]);
}

/* A listener's connection handed on, as a monitor might. */
static void handle_stream_over_stream(struct conform *conform) {
    int carrier[2];
    int cargo[2];
    int got[1] = {CONFORM_NONE};
    say_pair(conform, carrier);
    say_pair(conform, cargo);
    say_write(conform, cargo[0], "written before");
    say_send(conform, carrier[0], "cargo", &cargo[1], 1);
    say_close(conform, cargo[1]);
    say_ready(conform, cargo[0], "its other end is under way");
    say_receive(conform, carrier[1], 100, got, 1);
    say_read(conform, got[0], 100);
    say_write(conform, got[0], "and back");
    say_read(conform, cargo[0], 100);
    say_close(conform, got[0]);
    say_read(conform, cargo[0], 100);
    say_close(conform, cargo[0]);
    say_close(conform, carrier[0]);
    say_close(conform, carrier[1]);
}

/* The lowest free number is taken; a closed one is gone for every call. */
static void handle_numbers(struct conform *conform) {
    int pair[2];
    int again[2];
    struct kelpie_os_stat stat;
    say_pair(conform, pair);
    say(conform, "neighbours: %d", pair[1] == pair[0] + 1);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
    say_pair(conform, again);
    say(conform, "the same numbers: %d", again[0] == pair[0] && again[1] == pair[1]);
    say_close(conform, again[0]);
    int file = say_make(conform, "file", "x");
    say(conform, "the hole is filled: %d", file == again[0]);
    say_close(conform, file);
    say_close(conform, again[1]);
    int closed = again[1];
    char byte = 'x';
    said(conform, kelpie__os_close(conform->os, closed), "close");
    said(conform, kelpie__os_read(conform->os, closed, &byte, 1), "read");
    said(conform, kelpie__os_write(conform->os, closed, &byte, 1), "write");
    said(conform, kelpie__os_pread(conform->os, closed, &byte, 1, 0), "pread");
    said(conform, kelpie__os_pwrite(conform->os, closed, &byte, 1, 0), "pwrite");
    said(conform, kelpie__os_truncate(conform->os, closed, 1), "truncate");
    said(conform, kelpie__os_sync(conform->os, closed), "sync");
    said(conform, kelpie__os_lock(conform->os, closed), "lock");
    said(conform, kelpie__os_lock_shared(conform->os, closed), "lock_shared");
    said(conform, kelpie__os_stat(conform->os, closed, "", false, &stat), "stat");
    said(conform, kelpie__os_stat(conform->os, closed, "x", false, &stat), "stat below");
    said(conform, kelpie__os_watch(conform->os, closed, KELPIE_OS_READABLE, 1), "watch");
    said(conform, kelpie__os_signal(conform->os, closed, 15), "signal");
    said(conform, kelpie__os_mkdir(conform->os, closed, "d", 0700), "mkdir");
    said(conform, kelpie__os_unlink(conform->os, closed, "d", false), "unlink");
    said_handle(conform, kelpie__os_open(conform->os, closed, "d", KELPIE_OS_OPEN_READ, 0), "open");
}

/* A full table: a handle that comes is lost, a connection waits. */
static void handle_table_full(struct conform *conform) {
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const struct kelpie_os_limit limit = {.resource = RLIMIT_NOFILE, .soft = 1024, .hard = 1024};
    const char *step = "";
    int carrier[2];
    int pipe[2];
    int pair[2];
    int process = CONFORM_NONE;
    say_pair(conform, pair);
    say_pair(conform, carrier);
    say_pipe(conform, pipe);
    int listener = kelpie__os_listen(conform->os, conform->directory, "s", 4);
    int client = kelpie__os_connect(conform->os, conform->directory, "s");
    say_send(conform, carrier[0], "x", &pipe[1], 1);
    say_close(conform, pipe[1]);
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE, pair[1], carrier[1], listener};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 6,
                                          .limits = &limit,
                                          .limit_count = 1,
                                          .cgroup = CONFORM_NONE};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    struct conform_child child = {process, pair[0], 0};
    child_ask(conform, &child, "fill");
    say_ready(conform, pipe[0], "the lost one was closed");
    say_close(conform, pair[1]);
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, client);
    say_close(conform, listener);
    say_close(conform, pipe[0]);
    say_close(conform, carrier[0]);
    say_close(conform, carrier[1]);
}

const struct conform_script conform_scripts_handle[] = {
    {"handle_passed", handle_passed, 0},
    {"handle_ends_a_read", handle_ends_a_read, 0},
    {"handle_dropped_by_a_read", handle_dropped_by_a_read, 0},
    {"handle_without_room", handle_without_room, 0},
    {"handle_closed_with_its_stream", handle_closed_with_its_stream, 0},
    {"handle_many", handle_many, 0},
    {"handle_wrong", handle_wrong, 0},
    {"handle_stream_over_stream", handle_stream_over_stream, 0},
    {"handle_numbers", handle_numbers, 0},
    {"handle_table_full", handle_table_full, 0},
    {NULL, NULL, 0},
};
