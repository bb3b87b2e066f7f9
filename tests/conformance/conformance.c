/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See conformance.h: how scripts write down what they are answered.
 */
#define _GNU_SOURCE
#include "conformance.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_BYTES 80u

void say(struct conform *conform, const char *format, ...) {
    va_list arguments;
    size_t room = sizeof(conform->text) - conform->length;
    va_start(arguments, format);
    int length = vsnprintf(conform->text + conform->length, room, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0 && (size_t)length + 1 < room);
    conform->length += (size_t)length;
    conform->text[conform->length] = '\n';
    conform->length += 1;
    conform->text[conform->length] = '\0';
}

static const char *errno_name(int64_t status) {
    const char *name = strerrorname_np((int)-status);
    return name == NULL ? "an unknown error" : name;
}

int64_t said(struct conform *conform, int64_t status, const char *what) {
    if (status < 0) {
        say(conform, "%s: %s", what, errno_name(status));
    } else {
        say(conform, "%s: %lld", what, (long long)status);
    }
    return status;
}

int said_handle(struct conform *conform, int handle, const char *what) {
    say(conform, "%s: %s", what, handle < 0 ? errno_name(handle) : "a handle");
    return handle;
}

/* ---- files ----------------------------------------------------------------------------------- */

int say_open(struct conform *conform, const char *path, uint32_t flags) {
    char what[300];
    snprintf(what, sizeof(what), "open \"%.200s\" %x", path, flags);
    return said_handle(conform, kelpie__os_open(conform->os, conform->directory, path, flags, 0640),
                       what);
}

int say_make(struct conform *conform, const char *path, const char *text) {
    int file = say_open(conform, path,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                            KELPIE_OS_OPEN_TRUNCATE);
    if (file >= 0 && text[0] != '\0') {
        int64_t status = kelpie__os_pwrite(conform->os, file, text, strlen(text), 0);
        if (status != (int64_t)strlen(text)) {
            said(conform, status, "pwrite");
        }
    }
    return file;
}

void say_close(struct conform *conform, int handle) {
    int status = handle < 0 ? 0 : kelpie__os_close(conform->os, handle);
    if (status < 0) {
        said(conform, status, "close");
    }
}

void say_stat(struct conform *conform, int directory, const char *path, bool follow) {
    static const char *const kinds[] = {"file", "directory", "link", "socket", "other"};
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(conform->os, directory, path, follow, &stat);
    if (status < 0) {
        say(conform, "stat \"%.200s\": %s", path, errno_name(status));
        return;
    }
    bool has_size = stat.kind == KELPIE_OS_KIND_FILE || stat.kind == KELPIE_OS_KIND_LINK;
    say(conform, "stat \"%.200s\": %s, %llu bytes, mode %o", path, kinds[stat.kind],
        has_size ? (unsigned long long)stat.size_bytes : 0ull,
        stat.kind == KELPIE_OS_KIND_LINK ? 0777 : stat.mode);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void say_bytes(struct conform *conform, const char *what, const char *bytes, int64_t got) {
    char shown[SHOWN_BYTES * 2 + 1];
    size_t length = 0;
    if (got < 0 || got > (int64_t)SHOWN_BYTES) {
        said(conform, got, what);
        return;
    }
    for (int64_t i = 0; i < got; i += 1) {
        unsigned char byte = (unsigned char)bytes[i];
        if (byte >= ' ' && byte < 127) {
            shown[length] = (char)byte;
        } else {
            shown[length] = '~';
            length += 1;
            shown[length] = (char)('@' + byte % 64);
        }
        length += 1;
    }
    shown[length] = '\0';
    say(conform, "%s: %lld \"%s\"", what, (long long)got, shown);
}

int64_t say_write(struct conform *conform, int handle, const char *text) {
    char what[160];
    snprintf(what, sizeof(what), "write \"%.100s\"", text);
    for (char *at = what; *at != '\0'; at += 1) {
        *at = *at < ' ' ? '~' : *at;
    }
    return said(conform, kelpie__os_write(conform->os, handle, text, strlen(text)), what);
}

int64_t say_read(struct conform *conform, int handle, size_t count) {
    char bytes[4096];
    KELPIE_ASSERT(count <= sizeof(bytes));
    int64_t got = kelpie__os_read(conform->os, handle, bytes, count);
    say_bytes(conform, "read", bytes, got);
    return got;
}

int64_t say_pread(struct conform *conform, int file, size_t count, uint64_t offset) {
    char bytes[4096];
    char what[64];
    KELPIE_ASSERT(count <= sizeof(bytes));
    int64_t got = kelpie__os_pread(conform->os, file, bytes, count, offset);
    snprintf(what, sizeof(what), "pread at %llu", (unsigned long long)offset);
    say_bytes(conform, what, bytes, got);
    return got;
}

uint64_t pour(struct conform *conform, int handle, size_t piece, uint64_t count) {
    static const char bytes[65536] = "pour";
    uint64_t done = 0;
    KELPIE_ASSERT(piece <= sizeof(bytes));
    while (done < count) {
        size_t left = count - done < piece ? (size_t)(count - done) : piece;
        int64_t status = kelpie__os_write(conform->os, handle, bytes, left);
        if (status <= 0) {
            if (status != -EAGAIN) {
                said(conform, status, "pour");
            }
            return done;
        }
        done += (uint64_t)status;
    }
    return done;
}

uint64_t drain(struct conform *conform, int handle, size_t piece, uint64_t count) {
    char bytes[16384];
    uint64_t done = 0;
    KELPIE_ASSERT(piece <= sizeof(bytes));
    while (done < count) {
        size_t left = count - done < piece ? (size_t)(count - done) : piece;
        int64_t status = kelpie__os_read(conform->os, handle, bytes, left);
        if (status <= 0) {
            if (status != -EAGAIN) {
                said(conform, status, "drain");
            }
            return done;
        }
        done += (uint64_t)status;
    }
    return done;
}

void say_pair(struct conform *conform, int out[2]) {
    int status = kelpie__os_pair(conform->os, out);
    if (status < 0) {
        said(conform, status, "pair");
    }
}

void say_pipe(struct conform *conform, int out[2]) {
    int status = kelpie__os_pipe(conform->os, out);
    if (status < 0) {
        said(conform, status, "pipe");
    }
}

/* ---- readiness ------------------------------------------------------------------------------- */

static void say_bits(struct conform *conform, const char *word, const char *what, int count,
                     uint32_t bits) {
    say(conform, "%s %s:%s%s%s%s", word, what, count == 0 ? " nothing" : "",
        count > 0 && (bits & KELPIE_OS_READABLE) != 0 ? " read" : "",
        count > 0 && (bits & KELPIE_OS_WRITABLE) != 0 ? " write" : "",
        count > 0 && (bits & KELPIE_OS_HANGUP) != 0 ? " hangup" : "");
}

static void wait_and_say(struct conform *conform, int handle, uint32_t bits, const char *what,
                         int64_t for_ns, const char *word) {
    struct kelpie_os_event event = {0};
    int status = kelpie__os_watch(conform->os, handle, bits, 99);
    if (status < 0) {
        said(conform, status, "watch");
        return;
    }
    int64_t now_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC);
    int count = kelpie__os_wait(conform->os, &event, 1, for_ns == 0 ? 0 : now_ns + for_ns);
    if (count > 0 && event.cookie != 99) {
        say(conform, "another cookie: %d", (int)event.cookie);
    }
    say_bits(conform, word, what, count, event.bits);
    status = kelpie__os_watch(conform->os, handle, 0, 0);
    if (status < 0) {
        said(conform, status, "forget");
    }
}

void say_ready(struct conform *conform, int handle, const char *what) {
    wait_and_say(conform, handle, KELPIE_OS_READABLE | KELPIE_OS_WRITABLE, what, 0, "ready");
}

void say_wait(struct conform *conform, int handle, uint32_t bits, const char *what) {
    wait_and_say(conform, handle, bits, what, CONFORM_WAIT_NS, "waited");
}

/* ---- children -------------------------------------------------------------------------------- */

struct conform_child child_start(struct conform *conform, uint32_t flags, const int *handles,
                                 uint32_t handle_count) {
    struct conform_child child = {CONFORM_NONE, CONFORM_NONE, 0};
    int pair[2] = {CONFORM_NONE, CONFORM_NONE};
    int given[KELPIE_OS_SPAWN_HANDLES_MAX] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE};
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    const char *step = "";
    say_pair(conform, pair);
    given[CONFORM_CHILD_HANDLE] = pair[1];
    for (uint32_t i = 0; i < handle_count; i += 1) {
        given[CONFORM_CHILD_HANDLE + 1 + i] = handles[i];
    }
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = given,
                                          .handle_count = CONFORM_CHILD_HANDLE + 1 + handle_count,
                                          .flags = flags,
                                          .cgroup = CONFORM_NONE};
    bool is_orphan = (flags & KELPIE_OS_SPAWN_ORPHAN) != 0;
    int status =
        kelpie__os_spawn(conform->os, &spawn, is_orphan ? NULL : &child.process, &child.pid, &step);
    if (status < 0) {
        said(conform, status, step);
    }
    say_close(conform, pair[1]);
    child.control = pair[0];
    return child;
}

/* A line from the child, without its end; false: it is gone, or silent. */
static bool child_line(struct conform *conform, const struct conform_child *child, char out[512]) {
    struct kelpie_os_event event;
    size_t length = 0;
    bool is_alive = kelpie__os_watch(conform->os, child->control, KELPIE_OS_READABLE, 1) == 0;
    int64_t deadline_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC) + CONFORM_WAIT_NS;
    while (is_alive && length < 511) {
        int64_t got = kelpie__os_read(conform->os, child->control, out + length, 1);
        if (got == -EAGAIN) {
            is_alive = kelpie__os_wait(conform->os, &event, 1, deadline_ns) > 0;
        } else if (got <= 0) {
            is_alive = false;
        } else if (out[length] == '\n') {
            break;
        } else {
            length += 1;
        }
    }
    out[length] = '\0';
    kelpie__ignore(kelpie__os_watch(conform->os, child->control, 0, 0));
    return is_alive;
}

static bool child_exchange(struct conform *conform, const struct conform_child *child,
                           const char *request, char out[512]) {
    char line[256];
    int length = snprintf(line, sizeof(line), "%s\n", request);
    int64_t sent = kelpie__os_write(conform->os, child->control, line, (size_t)length);
    return sent == length && child_line(conform, child, out);
}

void child_ask(struct conform *conform, const struct conform_child *child, const char *request) {
    char answer[512] = "";
    bool is_alive = child_exchange(conform, child, request, answer);
    say(conform, "child: %s: %s", request, is_alive ? answer : "is gone");
}

int64_t child_number(struct conform *conform, const struct conform_child *child,
                     const char *request) {
    char answer[512] = "";
    int64_t number = -1;
    if (!child_exchange(conform, child, request, answer)) {
        say(conform, "child: %s: is gone", request);
        return -1;
    }
    number = 0;
    for (const char *at = answer; *at >= '0' && *at <= '9'; at += 1) {
        number = number * 10 + (*at - '0');
    }
    return number;
}

void child_kill(struct conform *conform, struct conform_child *child, int signal) {
    said(conform, kelpie__os_signal(conform->os, child->process, signal), "signal");
}

static bool is_stopped(struct conform *conform, int32_t pid) {
    char path[64];
    char text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int file = kelpie__os_open(conform->os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        said(conform, file, "open its stat");
        return true;
    }
    kelpie__ignore(kelpie__os_pread(conform->os, file, text, sizeof(text) - 1, 0));
    kelpie__ignore(kelpie__os_close(conform->os, file));
    return strstr(text, ") T ") != NULL;
}

void child_stop(struct conform *conform, struct conform_child *child) {
    struct kelpie_os_event event;
    child_kill(conform, child, SIGSTOP);
    for (unsigned budget = 5000; budget > 0 && !is_stopped(conform, child->pid); budget -= 1) {
        int64_t now_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC);
        kelpie__ignore(kelpie__os_wait(conform->os, &event, 1, now_ns + 1000000));
    }
}

void child_end(struct conform *conform, struct conform_child *child) {
    struct kelpie_os_exit exit = {0};
    if (child->process != CONFORM_NONE) {
        say_wait(conform, child->process, KELPIE_OS_READABLE, "process");
        int status = kelpie__os_reap(conform->os, child->process, &exit);
        if (status < 0) {
            said(conform, status, "reap");
        } else {
            say(conform, "child: ended by %s %d", exit.is_signalled ? "signal" : "exit",
                exit.value);
        }
        say_close(conform, child->process);
    }
    say_close(conform, child->control);
    *child = (struct conform_child){CONFORM_NONE, CONFORM_NONE, 0};
}
