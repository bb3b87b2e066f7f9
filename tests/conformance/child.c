/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The program that scripts start: it reads lines from its handle 3, does what they say with its
 * handles (4 is the first that it was given), and answers each with a line. Ends with the stream.
 */
#define _GNU_SOURCE
#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHILD_LINE_BYTES 256u
#define CHILD_FIRST_HANDLE (CONFORM_CHILD_HANDLE + 1)

struct child {
    struct kelpie_os *os;
    int argc;
    char **argv;
    int signals; /* or CONFORM_NONE */
    int kept;    /* what the last command left open */
    bool is_over;
    int code;
    char answer[512];
};

static void answer_status(struct child *child, int64_t status) {
    const char *name = status < 0 ? strerrorname_np((int)-status) : "ok";
    snprintf(child->answer, sizeof(child->answer), "%s", name == NULL ? "an unknown error" : name);
}

static void child_handles(struct child *child) {
    static const char *const kinds[] = {"file", "directory", "link", "socket", "other"};
    size_t length = 0;
    for (int i = 0; i < 10; i += 1) {
        struct kelpie_os_stat stat;
        int status = kelpie__os_stat(child->os, i, "", false, &stat);
        length += (size_t)snprintf(child->answer + length, sizeof(child->answer) - length, "%s ",
                                   status < 0 ? "-" : kinds[stat.kind]);
    }
}

static void child_read(struct child *child, int handle) {
    char bytes[64] = "";
    int64_t got = kelpie__os_read(child->os, handle, bytes, sizeof(bytes) - 1);
    if (got < 0) {
        answer_status(child, got);
    } else {
        snprintf(child->answer, sizeof(child->answer), "%d \"%.*s\"", (int)got, (int)got, bytes);
    }
}

static void child_open(struct child *child, const char *name, bool locks) {
    child->kept = kelpie__os_open(child->os, CHILD_FIRST_HANDLE, name,
                                  KELPIE_OS_OPEN_READ | (locks ? KELPIE_OS_OPEN_WRITE : 0), 0);
    int status = child->kept;
    if (locks && status >= 0) {
        status = kelpie__os_lock(child->os, child->kept);
    }
    answer_status(child, status);
}

/* Handles until there is no room; what the last call said, and how a stream behaves then. */
static void child_fill(struct child *child) {
    int handles[2048];
    int extra = CONFORM_NONE;
    uint32_t room = 1;
    uint32_t count = 0;
    char byte = 0;
    int status = 0;
    while (status >= 0 && count < KELPIE_ARRAY_COUNT(handles)) {
        status = kelpie__os_memory_file(child->os, "filler", 1);
        handles[count] = status;
        count += status >= 0 ? 1 : 0;
    }
    int pair[2];
    const char *full = strerrorname_np(-status);
    const char *pair_name = strerrorname_np(-kelpie__os_pair(child->os, pair));
    int64_t got = kelpie__os_receive(child->os, CHILD_FIRST_HANDLE, &byte, 1, &extra, &room);
    const char *accepted = strerrorname_np(-kelpie__os_accept(child->os, CHILD_FIRST_HANDLE + 1));
    for (uint32_t i = 0; i < count; i += 1) {
        kelpie__ignore(kelpie__os_close(child->os, handles[i]));
    }
    child->kept = kelpie__os_accept(child->os, CHILD_FIRST_HANDLE + 1);
    snprintf(child->answer, sizeof(child->answer), "%s %s, received %d with %u, accept %s, then %s",
             full, pair_name, (int)got, room, accepted, child->kept >= 0 ? "ok" : "not");
}

/* A child of the child, on the stream that the script gave for it. */
static void child_spawn(struct child *child, const char *how) {
    const char *path = child->argv[child->argc - 1]; /* of the program itself */
    const char *const argv[] = {"conformance-child", path, NULL};
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE, CHILD_FIRST_HANDLE};
    const struct kelpie_os_spawn spawn = {
        .path = path,
        .argv = argv,
        .handles = handles,
        .handle_count = 4,
        .flags = strcmp(how, "die") == 0 ? KELPIE_OS_SPAWN_DIE_WITH_PARENT : 0,
        .cgroup = CONFORM_NONE,
    };
    int process = CONFORM_NONE;
    int32_t pid = 0;
    int status = kelpie__os_spawn(child->os, &spawn, &process, &pid, NULL);
    if (status < 0) {
        answer_status(child, status);
        return;
    }
    kelpie__ignore(kelpie__os_close(child->os, CHILD_FIRST_HANDLE));
    snprintf(child->answer, sizeof(child->answer), "%d", pid);
}

static void child_signals(struct child *child, const char *list) {
    int signals[8];
    uint32_t count = 0;
    const char *at = list;
    while (*at != '\0' && count < 8) {
        int length = 0;
        if (sscanf(at, "%d%n", &signals[count], &length) != 1) {
            break;
        }
        at += length;
        count += 1;
    }
    child->signals = kelpie__os_open_signals(child->os, signals, count);
    answer_status(child, child->signals);
}

static void child_take(struct child *child) {
    struct kelpie_os_event event;
    size_t length = 0;
    int status = kelpie__os_watch(child->os, child->signals, KELPIE_OS_READABLE, 2);
    int64_t deadline_ns = kelpie__os_now(child->os, KELPIE_OS_CLOCK_MONOTONIC) + CONFORM_WAIT_NS;
    status = status < 0 ? status : kelpie__os_wait(child->os, &event, 1, deadline_ns);
    for (unsigned budget = 16; status >= 0 && budget > 0; budget -= 1) {
        status = kelpie__os_take_signal(child->os, child->signals);
        if (status > 0) {
            length += (size_t)snprintf(child->answer + length, sizeof(child->answer) - length,
                                       "%d ", status);
        }
    }
    kelpie__ignore(kelpie__os_watch(child->os, child->signals, 0, 0));
    snprintf(child->answer + length, sizeof(child->answer) - length, "%s",
             status == -EAGAIN ? "and no more" : "failed");
}

static void child_place(struct child *child) {
    char path[256] = "";
    int status = kelpie__os_real_path(child->os, ".", path, sizeof(path));
    if (status < 0) {
        answer_status(child, status);
    } else {
        snprintf(child->answer, sizeof(child->answer), "%s", path);
    }
}

static void child_identity(struct child *child, bool is_pid) {
    struct kelpie_os_identity identity = {0};
    int status = kelpie__os_identity(child->os, &identity);
    if (status < 0) {
        answer_status(child, status);
    } else if (is_pid) {
        snprintf(child->answer, sizeof(child->answer), "%d", identity.pid);
    } else {
        snprintf(child->answer, sizeof(child->answer), "%u %u", identity.uid, identity.gid);
    }
}

static void child_arguments(struct child *child) {
    size_t length = 0;
    child->answer[0] = '\0';
    for (int i = 0; i < child->argc; i += 1) {
        length += (size_t)snprintf(child->answer + length, sizeof(child->answer) - length,
                                   "[%.60s]", child->argv[i]);
    }
}

static void child_environment(struct child *child, const char *name) {
    const char *value = kelpie__os_environment(child->os, name);
    snprintf(child->answer, sizeof(child->answer), "%s", value == NULL ? "(none)" : value);
}

/* What comes after the word and a space, or NULL. */
static const char *after(const char *line, const char *word) {
    size_t length = strlen(word);
    if (strncmp(line, word, length) != 0) {
        return NULL;
    }
    return line[length] == ' ' ? line + length + 1 : line[length] == '\0' ? "" : NULL;
}

static void child_obey_bytes(struct child *child, const char *line) {
    const char *rest = NULL;
    if (after(line, "read") != NULL) {
        child_read(child, CHILD_FIRST_HANDLE);
    } else if (after(line, "stdin") != NULL) {
        child_read(child, 0);
    } else if ((rest = after(line, "write")) != NULL) {
        answer_status(child, kelpie__os_write(child->os, CHILD_FIRST_HANDLE, rest, strlen(rest)));
    } else if ((rest = after(line, "open")) != NULL) {
        child_open(child, rest, false);
    } else if ((rest = after(line, "lock")) != NULL) {
        child_open(child, rest, true);
    } else if (after(line, "unlock") != NULL) {
        answer_status(child, child->kept < 0 ? -EBADF : kelpie__os_close(child->os, child->kept));
        child->kept = CONFORM_NONE;
    } else if (after(line, "accept") != NULL) {
        child->kept = kelpie__os_accept(child->os, CHILD_FIRST_HANDLE);
        answer_status(child, child->kept);
    } else if ((rest = after(line, "connect")) != NULL) {
        child->kept = kelpie__os_connect(child->os, CHILD_FIRST_HANDLE, rest);
        answer_status(child, child->kept);
    } else if (after(line, "close") != NULL) {
        answer_status(child, kelpie__os_close(child->os, CHILD_FIRST_HANDLE));
    } else {
        snprintf(child->answer, sizeof(child->answer), "what is \"%.100s\"?", line);
    }
}

static void child_obey(struct child *child, const char *line) {
    const char *rest = NULL;
    if ((rest = after(line, "echo")) != NULL) {
        snprintf(child->answer, sizeof(child->answer), "%s", rest);
    } else if ((rest = after(line, "exit")) != NULL) {
        child->is_over = true;
        if (sscanf(rest, "%d", &child->code) != 1) {
            child->code = 98;
        }
    } else if (after(line, "handles") != NULL) {
        child_handles(child);
    } else if ((rest = after(line, "spawn")) != NULL) {
        child_spawn(child, rest);
    } else if ((rest = after(line, "signals")) != NULL) {
        child_signals(child, rest);
    } else if (after(line, "take") != NULL) {
        child_take(child);
    } else if (after(line, "cwd") != NULL) {
        child_place(child);
    } else if (after(line, "fill") != NULL) {
        child_fill(child);
    } else if (after(line, "pid") != NULL) {
        child_identity(child, true);
    } else if (after(line, "id") != NULL) {
        child_identity(child, false);
    } else if (after(line, "argv") != NULL) {
        child_arguments(child);
    } else if ((rest = after(line, "env")) != NULL) {
        child_environment(child, rest);
    } else {
        child_obey_bytes(child, line);
    }
}

/* False at the end of the stream. */
static bool child_line(struct child *child, char line[CHILD_LINE_BYTES]) {
    struct kelpie_os_event event;
    size_t length = 0;
    while (length + 1 < CHILD_LINE_BYTES) {
        int64_t got = kelpie__os_read(child->os, CONFORM_CHILD_HANDLE, line + length, 1);
        if (got == -EAGAIN) {
            if (kelpie__os_watch(child->os, CONFORM_CHILD_HANDLE, KELPIE_OS_READABLE, 1) < 0 ||
                kelpie__os_wait(child->os, &event, 1, -1) < 0) {
                return false;
            }
        } else if (got <= 0) {
            return false;
        } else if (line[length] == '\n') {
            line[length] = '\0';
            return true;
        } else {
            length += 1;
        }
    }
    return false;
}

int conform_child_main(struct kelpie_os *os, int argc, char **argv) {
    struct child child = {
        .os = os, .argc = argc, .argv = argv, .signals = CONFORM_NONE, .kept = CONFORM_NONE};
    char line[CHILD_LINE_BYTES];
    kelpie__ignore(kelpie__os_wait_handle(os)); /* takes its place among the handles */
    while (!child.is_over && child_line(&child, line)) {
        child_obey(&child, line);
        size_t length = strlen(child.answer);
        child.answer[length] = '\n';
        if (!child.is_over &&
            kelpie__os_write(os, CONFORM_CHILD_HANDLE, child.answer, length + 1) < 0) {
            return 97;
        }
    }
    return child.code;
}
