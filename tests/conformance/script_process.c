/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: starting processes, waiting for their end, what dies with whom.
 */
#include "conformance.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static void process_exits(struct conform *conform) {
    static const char *const requests[] = {"exit 0", "exit 7", "exit 255", "exit 256"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(requests); i += 1) {
        struct conform_child child = child_start(conform, 0, NULL, 0);
        child_ask(conform, &child, "echo hello");
        char line[32];
        int length = snprintf(line, sizeof(line), "%s\n", requests[i]);
        said(conform, kelpie__os_write(conform->os, child.control, line, (size_t)length),
             requests[i]);
        child_end(conform, &child);
    }
}

static void process_handle(struct conform *conform) {
    struct kelpie_os_exit exit = {0};
    struct conform_child child = child_start(conform, 0, NULL, 0);
    say_ready(conform, child.process, "it lives");
    said(conform, kelpie__os_reap(conform->os, child.process, &exit), "reap");
    child_kill(conform, &child, SIGKILL);
    say_wait(conform, child.process, KELPIE_OS_READABLE, "its end");
    say_ready(conform, child.process, "it is dead");
    said(conform, kelpie__os_signal(conform->os, child.process, SIGTERM), "signal a zombie");
    said(conform, kelpie__os_reap(conform->os, child.process, &exit), "reap");
    say(conform, "signalled %d, value %d", exit.is_signalled, exit.value);
    said(conform, kelpie__os_reap(conform->os, child.process, &exit), "reap again");
    said(conform, kelpie__os_signal(conform->os, child.process, SIGTERM), "signal nobody");
    said_handle(conform, kelpie__os_open_process(conform->os, child.pid), "open it");
    say_close(conform, child.process);
    say_close(conform, child.control);
}

static void process_second_handle(struct conform *conform) {
    struct kelpie_os_exit exit = {0};
    struct conform_child child = child_start(conform, 0, NULL, 0);
    int second = said_handle(conform, kelpie__os_open_process(conform->os, child.pid), "open");
    say_ready(conform, second, "it lives");
    said(conform, kelpie__os_signal(conform->os, second, SIGKILL), "signal by the second");
    say_wait(conform, second, KELPIE_OS_READABLE, "the second");
    say_ready(conform, child.process, "the first");
    said(conform, kelpie__os_reap(conform->os, second, &exit), "reap by the second");
    said(conform, kelpie__os_reap(conform->os, child.process, &exit), "reap by the first");
    say_close(conform, second);
    say_close(conform, child.process);
    say_close(conform, child.control);
}

static void process_of_others(struct conform *conform) {
    struct kelpie_os_exit exit = {0};
    struct kelpie_os_identity self = {0};
    int pair[2];
    say_pair(conform, pair);
    said_handle(conform, kelpie__os_open_process(conform->os, 999999999), "open nobody");
    kelpie__ignore(kelpie__os_identity(conform->os, &self));
    int own = said_handle(conform, kelpie__os_open_process(conform->os, self.pid), "open oneself");
    said(conform, kelpie__os_reap(conform->os, own, &exit), "reap oneself");
    say_ready(conform, own, "oneself");
    say_close(conform, own);
    said(conform, kelpie__os_reap(conform->os, pair[0], &exit), "reap a stream");
    said(conform, kelpie__os_signal(conform->os, pair[0], SIGTERM), "signal a stream");
    said(conform, kelpie__os_reap(conform->os, 900, &exit), "reap nothing");
    /* A grandchild is nobody's to reap but its parent's. */
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    say_close(conform, pair[1]);
    int32_t pid = (int32_t)child_number(conform, &child, "spawn");
    int grandchild = said_handle(conform, kelpie__os_open_process(conform->os, pid), "open it");
    said(conform, kelpie__os_reap(conform->os, grandchild, &exit), "reap it");
    said(conform, kelpie__os_signal(conform->os, grandchild, SIGKILL), "signal it");
    say_wait(conform, grandchild, KELPIE_OS_READABLE, "its end");
    said(conform, kelpie__os_reap(conform->os, grandchild, &exit), "reap it");
    say_close(conform, grandchild);
    say_close(conform, pair[0]);
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
}

static void process_dies_with_parent(struct conform *conform) {
    static const int signals[] = {SIGKILL, SIGTERM, 0};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(signals); i += 1) {
        int pair[2];
        say_pair(conform, pair);
        struct conform_child child = child_start(conform, 0, &pair[1], 1);
        say_close(conform, pair[1]);
        int32_t pid = (int32_t)child_number(conform, &child, "spawn die");
        int grandchild = said_handle(conform, kelpie__os_open_process(conform->os, pid), "open");
        struct conform_child grand = {CONFORM_NONE, pair[0], pid};
        child_ask(conform, &grand, "echo alive");
        if (signals[i] == 0) {
            child_ask(conform, &child, "exit 3");
        } else {
            child_kill(conform, &child, signals[i]);
        }
        child_end(conform, &child);
        say_wait(conform, grandchild, KELPIE_OS_READABLE, "the grandchild");
        say_wait(conform, pair[0], KELPIE_OS_READABLE, "its stream");
        say_read(conform, pair[0], 10);
        say_close(conform, grandchild);
        say_close(conform, pair[0]);
    }
}

static void process_outlives_parent(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    say_close(conform, pair[1]);
    int32_t pid = (int32_t)child_number(conform, &child, "spawn live");
    int grandchild = said_handle(conform, kelpie__os_open_process(conform->os, pid), "open it");
    child_kill(conform, &child, SIGKILL);
    child_end(conform, &child);
    struct conform_child grand = {CONFORM_NONE, pair[0], pid};
    child_ask(conform, &grand, "echo alive");
    say_ready(conform, grandchild, "it lives");
    child_ask(conform, &grand, "exit 0");
    say_wait(conform, grandchild, KELPIE_OS_READABLE, "its end");
    say_close(conform, grandchild);
    say_close(conform, pair[0]);
}

static void process_orphan(struct conform *conform) {
    struct kelpie_os_exit exit = {0};
    struct conform_child child = child_start(conform, KELPIE_OS_SPAWN_ORPHAN, NULL, 0);
    child_ask(conform, &child, "echo alive");
    say(conform, "has a pid: %d", child.pid > 0);
    say(conform, "and it is the one: %d", child_number(conform, &child, "pid") == child.pid);
    int process = said_handle(conform, kelpie__os_open_process(conform->os, child.pid), "open it");
    said(conform, kelpie__os_reap(conform->os, process, &exit), "reap it");
    child_ask(conform, &child, "exit 0");
    say_wait(conform, process, KELPIE_OS_READABLE, "its end");
    say_close(conform, process);
    say_close(conform, child.control);
}

static void try_spawn(struct conform *conform, const struct kelpie_os_spawn *spawn,
                      const char *what) {
    const char *step = "";
    int process = CONFORM_NONE;
    int status = kelpie__os_spawn(conform->os, spawn, &process, NULL, &step);
    said_handle(conform, status < 0 ? status : process, what);
    if (status < 0) {
        say(conform, "at step \"%s\"", step);
        return;
    }
    struct kelpie_os_exit exit = {0};
    say_wait(conform, process, KELPIE_OS_READABLE, "process");
    said(conform, kelpie__os_reap(conform->os, process, &exit), "reap");
    say_close(conform, process);
}

static void process_spawn_fails(struct conform *conform) {
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const char *const environment[] = {"PATH=/none:/neither", NULL};
    const int bad[] = {CONFORM_NONE, 900};
    char path[300];
    struct kelpie_os_spawn spawn = {
        .path = "/no/such/program", .argv = argv, .cgroup = CONFORM_NONE};
    try_spawn(conform, &spawn, "no program");
    snprintf(path, sizeof(path), "%s/plain", conform->path);
    say_close(conform, say_make(conform, "plain", "text"));
    spawn.path = path;
    try_spawn(conform, &spawn, "not executable");
    spawn.path = conform->path;
    try_spawn(conform, &spawn, "a directory");
    snprintf(path, sizeof(path), "%s/plain/x", conform->path);
    spawn.path = path;
    try_spawn(conform, &spawn, "below a file");
    spawn.path = "no-such-program";
    spawn.environment = environment;
    spawn.flags = KELPIE_OS_SPAWN_SEARCH_PATH;
    try_spawn(conform, &spawn, "not in PATH");
    spawn.flags = 0;
    spawn.environment = NULL;
    spawn.path = conform->child;
    spawn.directory = "/no/such/directory";
    try_spawn(conform, &spawn, "no directory");
    spawn.directory = NULL;
    spawn.handles = bad;
    spawn.handle_count = 2;
    try_spawn(conform, &spawn, "a bad handle");
    spawn.handles = NULL;
    spawn.handle_count = 0;
    try_spawn(conform, &spawn, "at last"); /* without handle 3 it ends at once */
}

static void process_as_told(struct conform *conform) {
    const char *const argv[] = {"zero",         "with space", "", "conformance-child",
                                conform->child, NULL};
    const char *const environment[] = {"FIRST=1", "EMPTY=", "LAST=a=b", NULL};
    const char *step = "";
    int pair[2];
    int process = CONFORM_NONE;
    say_pair(conform, pair);
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE, pair[1]};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .environment = environment,
                                          .directory = "/",
                                          .handles = handles,
                                          .handle_count = 4,
                                          .flags = KELPIE_OS_SPAWN_NEW_SESSION,
                                          .cgroup = CONFORM_NONE};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    say_close(conform, pair[1]);
    struct conform_child child = {process, pair[0], 0};
    child_ask(conform, &child, "env FIRST");
    child_ask(conform, &child, "env EMPTY");
    child_ask(conform, &child, "env LAST");
    child_ask(conform, &child, "env NONE");
    child_ask(conform, &child, "env FIRS");
    child_ask(conform, &child, "cwd");
    child_ask(conform, &child, "handles");
    child_ask(conform, &child, "stdin");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
}

static void process_handles(struct conform *conform) {
    int pair[2];
    int pipe[2];
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    int file = say_make(conform, "file", "content");
    const int given[] = {file, CONFORM_NONE, pipe[1], conform->directory, file};
    struct conform_child child = child_start(conform, 0, given, 5);
    child_ask(conform, &child, "handles");
    child_ask(conform, &child, "read");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, file);
    say_close(conform, pipe[0]);
    say_close(conform, pipe[1]);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void process_identity(struct conform *conform) {
    struct kelpie_os_identity self = {0};
    said(conform, kelpie__os_identity(conform->os, &self), "identity");
    struct conform_child first = child_start(conform, 0, NULL, 0);
    struct conform_child second = child_start(conform, 0, NULL, 0);
    say(conform, "three pids: %d",
        first.pid != second.pid && first.pid != self.pid && second.pid != self.pid);
    say(conform, "its own: %d", child_number(conform, &first, "pid") == first.pid);
    say(conform, "my user: %d", child_number(conform, &first, "id") == (int64_t)self.uid);
    child_ask(conform, &first, "exit 1");
    child_ask(conform, &second, "exit 2");
    child_end(conform, &second);
    child_end(conform, &first);
}

/* Another's memory: of nobody, and where it has none. */
static void process_memory(struct conform *conform) {
    uint8_t bits = 0;
    char byte = 'x';
    struct conform_child child = child_start(conform, 0, NULL, 0);
    child_ask(conform, &child, "echo alive");
    said(conform, kelpie__os_read_memory(conform->os, 999999999, 4096, &byte, 1), "read nobody's");
    said(conform, kelpie__os_write_memory(conform->os, 999999999, 4096, &byte, 1),
         "write nobody's");
    said(conform, kelpie__os_page_map(conform->os, 999999999, 4096, &bits, 1), "map of nobody");
    bits = 7;
    said(conform, kelpie__os_page_map(conform->os, child.pid, 4096, &bits, 1), "map of nothing");
    say(conform, "bits %u", bits);
    said(conform, kelpie__os_read_memory(conform->os, child.pid, 4096, &byte, 1), "read nothing");
    said(conform, kelpie__os_write_memory(conform->os, child.pid, 4096, &byte, 1), "write nothing");
    child_kill(conform, &child, SIGKILL);
    child_end(conform, &child);
}

/* Signals and ends of a tree: who is told of whose death. */
static void process_end_with_parent_first(struct conform *conform) {
    struct kelpie_os_exit exit = {0};
    int pair[2];
    say_pair(conform, pair);
    struct conform_child child = child_start(conform, 0, &pair[1], 1);
    say_close(conform, pair[1]);
    struct conform_child grand = {CONFORM_NONE, pair[0], 0};
    grand.pid = (int32_t)child_number(conform, &child, "spawn");
    int process = said_handle(conform, kelpie__os_open_process(conform->os, grand.pid), "open");
    child_ask(conform, &grand, "exit 5");
    say_wait(conform, process, KELPIE_OS_READABLE, "a zombie of its parent");
    said(conform, kelpie__os_signal(conform->os, process, SIGTERM), "signal it");
    child_kill(conform, &child, SIGKILL);
    child_end(conform, &child);
    said(conform, kelpie__os_reap(conform->os, process, &exit), "reap it");
    say_close(conform, process);
    say_close(conform, pair[0]);
}

const struct conform_script conform_scripts_process[] = {
    {"process_exits", process_exits, 0},
    {"process_handle", process_handle, 0},
    {"process_second_handle", process_second_handle, 0},
    {"process_of_others", process_of_others, 0},
    {"process_dies_with_parent", process_dies_with_parent, 0},
    {"process_outlives_parent", process_outlives_parent, 0},
    {"process_orphan", process_orphan, 0},
    {"process_spawn_fails", process_spawn_fails, 0},
    {"process_as_told", process_as_told, 0},
    {"process_handles", process_handles, 0},
    {"process_identity", process_identity, 0},
    {"process_memory", process_memory, 0},
    {"process_end_with_parent_first", process_end_with_parent_first, 0},
    {NULL, NULL, 0},
};
