/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: signals.
 */
#include "conformance.h"

#include <signal.h>
#include <stdio.h>

static void signal_kills(struct conform *conform) {
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGKILL, SIGPIPE, SIGALRM};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(signals); i += 1) {
        struct conform_child child = child_start(conform, 0, NULL, 0);
        child_ask(conform, &child, "echo alive");
        say(conform, "signal %d", signals[i]);
        child_kill(conform, &child, signals[i]);
        if (signals[i] == SIGPIPE) { /* every program of ours ignores it */
            child_ask(conform, &child, "exit 0");
        }
        child_end(conform, &child);
    }
}

static void signal_does_nothing(struct conform *conform) {
    static const int signals[] = {SIGCHLD, SIGWINCH, SIGURG, SIGCONT};
    struct conform_child child = child_start(conform, 0, NULL, 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(signals); i += 1) {
        child_kill(conform, &child, signals[i]);
        child_ask(conform, &child, "echo alive");
    }
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
}

static void signal_stops(struct conform *conform) {
    struct kelpie_os_event event;
    struct conform_child child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "echo alive");
    child_stop(conform, &child);
    say_write(conform, child.control, "echo later\n");
    int64_t until_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC) + 50000000;
    said(conform, kelpie__os_wait(conform->os, &event, 1, until_ns), "wait");
    say_ready(conform, child.control, "it is stopped");
    say_ready(conform, child.process, "but not dead");
    child_kill(conform, &child, SIGCONT);
    say_wait(conform, child.control, KELPIE_OS_READABLE, "it goes on");
    say_read(conform, child.control, 100);
    child_stop(conform, &child);
    child_kill(conform, &child, SIGKILL); /* also a stopped one */
    child_end(conform, &child);
    child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "echo alive");
    child_stop(conform, &child);
    child_kill(conform, &child, SIGTERM); /* waits until it goes on */
    until_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC) + 50000000;
    said(conform, kelpie__os_wait(conform->os, &event, 1, until_ns), "wait");
    say_ready(conform, child.process, "stopped and told to end");
    child_kill(conform, &child, SIGCONT);
    child_end(conform, &child);
}

static void signal_taken(struct conform *conform) {
    struct conform_child child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "signals 2 15 10 12");
    child_kill(conform, &child, SIGTERM);
    child_ask(conform, &child, "take");
    child_kill(conform, &child, SIGUSR2);
    child_kill(conform, &child, SIGINT);
    child_kill(conform, &child, SIGUSR1);
    child_kill(conform, &child, SIGTERM);
    child_ask(conform, &child, "take"); /* the lowest first */
    child_kill(conform, &child, SIGTERM);
    child_kill(conform, &child, SIGTERM);
    child_ask(conform, &child, "take");  /* two are one */
    child_kill(conform, &child, SIGHUP); /* not among them */
    child_end(conform, &child);
}

/* A stopped process keeps what it was sent. */
static void signal_taken_after_stop(struct conform *conform) {
    struct conform_child child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "signals 15");
    child_stop(conform, &child);
    child_kill(conform, &child, SIGTERM);
    child_kill(conform, &child, SIGCONT);
    child_ask(conform, &child, "take");
    child_kill(conform, &child, SIGKILL);
    child_end(conform, &child);
}

/* Blocked signals are not inherited: a child starts with none. */
static void signal_not_inherited(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    say_close(conform, pair[1]);
    child_ask(conform, &child, "signals 15");
    struct conform_child grand = {CONFORM_NONE, pair[0],
                                  (int32_t)child_number(conform, &child, "spawn")};
    child_ask(conform, &grand, "echo alive");
    int process = said_handle(conform, kelpie__os_open_process(conform->os, grand.pid), "open");
    said(conform, kelpie__os_signal(conform->os, process, SIGTERM), "signal");
    say_wait(conform, process, KELPIE_OS_READABLE, "its end");
    say_close(conform, process);
    say_close(conform, pair[0]);
    child_kill(conform, &child, SIGKILL);
    child_end(conform, &child);
}

/* The script's own process: what it has blocked waits in its handle. */
static void signal_to_oneself(struct conform *conform) {
    const int signals[] = {SIGUSR1, SIGUSR2};
    struct kelpie_os_identity self = {0};
    int handle =
        said_handle(conform, kelpie__os_open_signals(conform->os, signals, 2), "open_signals");
    say_ready(conform, handle, "none yet");
    said(conform, kelpie__os_take_signal(conform->os, handle), "take");
    kelpie__ignore(kelpie__os_identity(conform->os, &self));
    int process = kelpie__os_open_process(conform->os, self.pid);
    said(conform, kelpie__os_signal(conform->os, process, SIGUSR2), "signal");
    said(conform, kelpie__os_signal(conform->os, process, SIGUSR1), "signal");
    say_wait(conform, handle, KELPIE_OS_READABLE, "two");
    said(conform, kelpie__os_take_signal(conform->os, handle), "take");
    say_ready(conform, handle, "one");
    said(conform, kelpie__os_take_signal(conform->os, handle), "take");
    said(conform, kelpie__os_take_signal(conform->os, handle), "take");
    say_ready(conform, handle, "none");
    say_close(conform, process);
    say_close(conform, handle);
}

static void signal_child_ended(struct conform *conform) {
    const int signals[] = {SIGCHLD};
    struct kelpie_os_exit exit;
    int handle =
        said_handle(conform, kelpie__os_open_signals(conform->os, signals, 1), "open_signals");
    struct conform_child child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "echo alive");
    say_ready(conform, handle, "it lives");
    child_kill(conform, &child, SIGKILL);
    say_wait(conform, handle, KELPIE_OS_READABLE, "SIGCHLD");
    said(conform, kelpie__os_take_signal(conform->os, handle), "take");
    said(conform, kelpie__os_reap(conform->os, child.process, &exit), "reap");
    say_close(conform, child.process);
    say_close(conform, child.control);
    say_close(conform, handle);
}

const struct conform_script conform_scripts_signal[] = {
    {"signal_kills", signal_kills, 0},
    {"signal_does_nothing", signal_does_nothing, 0},
    {"signal_stops", signal_stops, 0},
    {"signal_taken", signal_taken, 0},
    {"signal_taken_after_stop", signal_taken_after_stop, 0},
    {"signal_not_inherited", signal_not_inherited, 0},
    {"signal_to_oneself", signal_to_oneself, 0},
    {"signal_child_ended", signal_child_ended, 0},
    {NULL, NULL, 0},
};
