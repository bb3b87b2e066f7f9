/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: pseudo terminals.
 */
#include "conformance.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static void say_terminal(struct conform *conform, int *out_master, int *out_slave) {
    *out_master = CONFORM_NONE;
    *out_slave = CONFORM_NONE;
    said(conform, conform->open_terminal(conform, out_master, out_slave), "open_terminal");
}

/* What comes is read when it is there: the kernel hands it on by itself, a little later. */
static void say_comes(struct conform *conform, int handle, const char *what) {
    say_wait(conform, handle, KELPIE_OS_READABLE, what);
    say_read(conform, handle, 4096);
}

static void terminal_lines(struct conform *conform) {
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_write(conform, slave, "out\n");
    say_comes(conform, master, "output");
    say_write(conform, master, "in\n");
    say_comes(conform, slave, "input");
    say_comes(conform, master, "echo");
    say_write(conform, master, "par");
    say_comes(conform, master, "echo of a part");
    say_ready(conform, slave, "no line yet");
    say_write(conform, master, "tial\r");
    say_comes(conform, slave, "the line");
    say_comes(conform, master, "its echo");
    say_write(conform, master, "one\ntwo\n");
    say_comes(conform, slave, "a line at a time");
    say_comes(conform, slave, "a line at a time");
    say_comes(conform, master, "both echoes");
    say_close(conform, master);
    say_close(conform, slave);
}

static void terminal_editing(struct conform *conform) {
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_write(conform, master, "abx\177c\n");
    say_comes(conform, slave, "erased");
    say_comes(conform, master, "its echo");
    say_write(conform, master, "gone\025kept\n");
    say_comes(conform, slave, "killed");
    say_comes(conform, master, "its echo");
    say_write(conform, master, "a\001\001\177b\n");
    say_comes(conform, slave, "control");
    say_comes(conform, master, "its echo");
    say_close(conform, master);
    say_close(conform, slave);
}

static void terminal_end_of_file(struct conform *conform) {
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_write(conform, master, "\004");
    say_comes(conform, slave, "an end");
    say_write(conform, master, "abc\004");
    say_comes(conform, slave, "a line without end");
    say_write(conform, master, "\004");
    say_comes(conform, slave, "an end");
    say_close(conform, master);
    say_close(conform, slave);
}

static void terminal_raw(struct conform *conform) {
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    said(conform, kelpie__os_set_terminal_raw(conform->os, slave, true), "raw");
    say_write(conform, master, "a\r\003\004b");
    say_comes(conform, slave, "as it is");
    say_ready(conform, master, "no echo");
    say_write(conform, slave, "x\ny");
    say_comes(conform, master, "as it is");
    said(conform, kelpie__os_set_terminal_raw(conform->os, slave, false), "as before");
    say_write(conform, slave, "x\ny");
    say_comes(conform, master, "with returns");
    said(conform, kelpie__os_set_terminal_raw(conform->os, slave, false), "as before, again");
    say_close(conform, master);
    say_close(conform, slave);
}

static void terminal_slave_closed(struct conform *conform) {
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_ready(conform, master, "fresh master");
    say_ready(conform, slave, "fresh slave");
    say_write(conform, slave, "last\n");
    say_wait(conform, master, KELPIE_OS_READABLE, "output");
    say_close(conform, slave);
    say_ready(conform, master, "with output");
    say_read(conform, master, 100);
    say_ready(conform, master, "without");
    say_read(conform, master, 100);
    say_write(conform, master, "x\n");
    say_close(conform, master);
}

static void terminal_master_closed(struct conform *conform) {
    uint16_t rows = 0;
    uint16_t columns = 0;
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_write(conform, master, "unread\n");
    say_wait(conform, slave, KELPIE_OS_READABLE, "input");
    say_close(conform, master);
    say_ready(conform, slave, "hung up");
    say_read(conform, slave, 100);
    say_write(conform, slave, "x");
    said(conform, kelpie__os_terminal_size(conform->os, slave, &rows, &columns), "size");
    say(conform, "is a terminal: %d", kelpie__os_is_terminal(conform->os, slave));
    say_close(conform, slave);
}

static void terminal_size(struct conform *conform) {
    uint16_t rows = 0;
    uint16_t columns = 0;
    int pair[2];
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    said(conform, kelpie__os_terminal_size(conform->os, slave, &rows, &columns), "size");
    say(conform, "%u x %u", rows, columns);
    said(conform, kelpie__os_set_terminal_size(conform->os, master, 50, 132), "set by the master");
    said(conform, kelpie__os_terminal_size(conform->os, slave, &rows, &columns), "size");
    say(conform, "%u x %u", rows, columns);
    said(conform, kelpie__os_set_terminal_size(conform->os, slave, 1, 2), "set by the slave");
    said(conform, kelpie__os_terminal_size(conform->os, master, &rows, &columns), "size");
    say(conform, "%u x %u", rows, columns);
    say_pair(conform, pair);
    int file = say_make(conform, "file", "x");
    const int others[] = {pair[0], file, conform->directory, 900};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(others); i += 1) {
        said(conform, kelpie__os_terminal_size(conform->os, others[i], &rows, &columns), "size");
        said(conform, kelpie__os_set_terminal_size(conform->os, others[i], 1, 1), "set size");
        said(conform, kelpie__os_set_terminal_raw(conform->os, others[i], true), "raw");
        say(conform, "is a terminal: %d", kelpie__os_is_terminal(conform->os, others[i]));
    }
    say(conform, "master: %d, slave: %d", kelpie__os_is_terminal(conform->os, master),
        kelpie__os_is_terminal(conform->os, slave));
    say_close(conform, file);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
    say_close(conform, master);
    say_close(conform, slave);
}

/* A session on the slave: its signals come from the keys, from a new size, from the master's end.
 */
static void terminal_session(struct conform *conform) {
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const char *step = "";
    int pair[2];
    int process = CONFORM_NONE;
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_pair(conform, pair);
    const int handles[] = {slave, CONFORM_NONE, CONFORM_NONE, pair[1], slave};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 5,
                                          .flags = KELPIE_OS_SPAWN_NEW_SESSION |
                                                   KELPIE_OS_SPAWN_CONTROLLING_TERMINAL,
                                          .cgroup = CONFORM_NONE};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    say_close(conform, pair[1]);
    say_close(conform, slave);
    struct conform_child child = {process, pair[0], 0};
    child_ask(conform, &child, "signals 1 2 3 18 28");
    say_write(conform, master, "\003");
    child_ask(conform, &child, "take");
    say_comes(conform, master, "its echo");
    say_write(conform, master, "\034");
    child_ask(conform, &child, "take");
    say_comes(conform, master, "its echo");
    said(conform, kelpie__os_set_terminal_size(conform->os, master, 5, 6), "set size");
    child_ask(conform, &child, "take");
    child_ask(conform, &child, "write from the child");
    say_comes(conform, master, "output");
    say_close(conform, master);
    child_ask(conform, &child, "take");
    child_ask(conform, &child, "write in vain");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
}

static void terminal_not_controlling(struct conform *conform) {
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const char *step = "";
    int pair[2];
    int process = CONFORM_NONE;
    say_pair(conform, pair);
    const int handles[] = {pair[0], CONFORM_NONE, CONFORM_NONE, pair[1]};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 4,
                                          .flags = KELPIE_OS_SPAWN_NEW_SESSION |
                                                   KELPIE_OS_SPAWN_CONTROLLING_TERMINAL,
                                          .cgroup = CONFORM_NONE};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    say(conform, "at step \"%s\"", step);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

/* A session that does nothing about it dies of its terminal's end. */
static void terminal_hangup_kills(struct conform *conform) {
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const char *step = "";
    int pair[2];
    int process = CONFORM_NONE;
    int master;
    int slave;
    say_terminal(conform, &master, &slave);
    say_pair(conform, pair);
    const int handles[] = {slave, slave, slave, pair[1]};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 4,
                                          .flags = KELPIE_OS_SPAWN_NEW_SESSION |
                                                   KELPIE_OS_SPAWN_CONTROLLING_TERMINAL,
                                          .cgroup = CONFORM_NONE};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    say_close(conform, pair[1]);
    say_close(conform, slave);
    struct conform_child child = {process, pair[0], 0};
    child_ask(conform, &child, "echo alive");
    say_close(conform, master);
    child_end(conform, &child);
}

const struct conform_script conform_scripts_terminal[] = {
    {"terminal_lines", terminal_lines, 0},
    {"terminal_editing", terminal_editing, 0},
    {"terminal_end_of_file", terminal_end_of_file, 0},
    {"terminal_raw", terminal_raw, 0},
    {"terminal_slave_closed", terminal_slave_closed, 0},
    {"terminal_master_closed", terminal_master_closed, 0},
    {"terminal_size", terminal_size, 0},
    {"terminal_session", terminal_session, 0},
    {"terminal_not_controlling", terminal_not_controlling, 0},
    {"terminal_hangup_kills", terminal_hangup_kills, 0},
    {NULL, NULL, 0},
};
