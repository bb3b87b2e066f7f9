/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: QEMU as the driver talks to it, without a guest. What a version calls itself and when
 * something happened does not stand in a transcript; every other byte that it says does.
 */
#include "conformance.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define QEMU_PROGRAM "/usr/bin/qemu-system-x86_64"
#define QEMU_LINE_BYTES 1024u

struct qemu {
    struct conform *conform;
    int process;
    int qmp;
    int errors; /* the read end of its stderr */
};

/* As the driver's for a restore that waits: neither a boot nor a guest. */
static const char *const qemu_incoming[] = {
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-name",
    "guest=/var/lib/kelpie/vms/a",
    "-M",
    "microvm,acpi=on,rtc=on,memory-backend=memory,suppress-vmdesc=on",
    "-object",
    "memory-backend-ram,id=memory,size=256M",
    "-m",
    "256",
    "-smp",
    "1",
    "-accel",
    "tcg,thread=multi,tb-size=128",
    "-cpu",
    "max",
    "-S",
    "-incoming",
    "defer",
    "-global",
    "migration.send-configuration=off",
    "-chardev",
    "socket,id=qmp,fd=3",
    "-mon",
    "chardev=qmp,mode=control",
    NULL};

static struct qemu qemu_start(struct conform *conform, const char *const *arguments) {
    const char *argv[64] = {QEMU_PROGRAM};
    const char *step = "";
    int pair[2];
    int pipe[2];
    struct qemu qemu = {.conform = conform, .process = CONFORM_NONE};
    for (size_t i = 0; arguments[i] != NULL && i + 2 < KELPIE_ARRAY_COUNT(argv); i += 1) {
        argv[i + 1] = arguments[i];
    }
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, pipe[1], pair[1]};
    const struct kelpie_os_spawn spawn = {.path = QEMU_PROGRAM,
                                          .argv = argv,
                                          .directory = "/",
                                          .handles = handles,
                                          .handle_count = 4,
                                          .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                          .cgroup = CONFORM_NONE};
    int status = kelpie__os_spawn(conform->os, &spawn, &qemu.process, NULL, &step);
    if (status < 0) {
        said(conform, status, step);
    }
    say_close(conform, pair[1]);
    say_close(conform, pipe[1]);
    qemu.qmp = pair[0];
    qemu.errors = pipe[0];
    return qemu;
}

/* Cuts out what stands between `from` and the next `to`, both kept. */
static void cut_out(char *line, const char *from, const char *to) {
    char *start = strstr(line, from);
    if (start == NULL) {
        return;
    }
    start += strlen(from);
    char *end = strstr(start, to);
    if (end != NULL) {
        memmove(start, end, strlen(end) + 1);
    }
}

/* The next line of a stream, without its end. False: the stream is over, or silent. */
static bool qemu_line(struct qemu *qemu, int stream, char line[QEMU_LINE_BYTES]) {
    struct kelpie_os *os = qemu->conform->os;
    struct kelpie_os_event event;
    size_t length = 0;
    int64_t deadline_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) + CONFORM_WAIT_NS;
    bool is_open = kelpie__os_watch(os, stream, KELPIE_OS_READABLE, 1) == 0;
    while (is_open && length + 1 < QEMU_LINE_BYTES) {
        int64_t got = kelpie__os_read(os, stream, line + length, 1);
        if (got == -EAGAIN) {
            is_open = kelpie__os_wait(os, &event, 1, deadline_ns) > 0;
        } else if (got <= 0) {
            is_open = false;
        } else if (line[length] == '\n') {
            break;
        } else {
            length += 1;
        }
    }
    line[length] = '\0';
    kelpie__ignore(kelpie__os_watch(os, stream, 0, 0));
    return is_open;
}

static void qemu_say_lines(struct qemu *qemu, int stream, unsigned count) {
    char line[QEMU_LINE_BYTES];
    for (unsigned i = 0; i < count; i += 1) {
        if (!qemu_line(qemu, stream, line)) {
            say(qemu->conform, "  and no more");
            return;
        }
        cut_out(line, "\"micro\": ", ",");
        cut_out(line, "\"package\": \"", "\"");
        cut_out(line, "\"seconds\": ", ",");
        cut_out(line, "\"microseconds\": ", "}");
        cut_out(line, "terminating on signal 15", "\r");
        char *pid = strstr(line, " from pid ");
        if (pid != NULL) {
            *pid = '\0';
        }
        say(qemu->conform, "  %s", line);
    }
}

/* Sends a text, and writes down so many lines of what comes. */
static void qemu_ask(struct qemu *qemu, const char *text, unsigned count) {
    char what[120];
    snprintf(what, sizeof(what), "%.110s", text);
    size_t length = strlen(what);
    if (length > 0 && what[length - 1] == '\n') {
        what[length - 1] = '\0';
    }
    int64_t sent = kelpie__os_write(qemu->conform->os, qemu->qmp, text, strlen(text));
    say(qemu->conform, "%s%s", what, sent == (int64_t)strlen(text) ? "" : " (not sent)");
    qemu_say_lines(qemu, qemu->qmp, count);
}

static void qemu_greet(struct qemu *qemu) {
    qemu_say_lines(qemu, qemu->qmp, 1);
    qemu_ask(qemu, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n", 1);
}

static void qemu_end(struct qemu *qemu) {
    struct conform_child child = {qemu->process, qemu->qmp, 0};
    child_end(qemu->conform, &child);
    say_close(qemu->conform, qemu->errors);
}

static void qemu_kill(struct qemu *qemu) {
    said(qemu->conform, kelpie__os_signal(qemu->conform->os, qemu->process, SIGKILL), "kill");
    qemu_end(qemu);
}

/* ---- the scripts ----------------------------------------------------------------------------- */

static void qemu_protocol(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_say_lines(&qemu, qemu.qmp, 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\"}", 1);
    qemu_ask(&qemu, "{\"execute\":\"qmp_capabilities\",\"id\":{\"a\": 1}}", 1);
    qemu_ask(&qemu, "{\"execute\":\"qmp_capabilities\",\"id\":\"x\"}", 1);
    qemu_ask(&qemu, "x\n", 1);
    qemu_ask(&qemu, "5\n", 1);
    qemu_ask(&qemu, "[1]", 1);
    qemu_ask(&qemu, "}", 1);
    qemu_ask(&qemu, "{\"execute\":5}", 1);
    qemu_ask(&qemu, "{\"id\":3}", 1);
    qemu_ask(&qemu, "{\"execute\":\"nope\",\"id\":4}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"bad\":1,\"id\":5}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"arguments\":{\"q\":1},\"id\":6}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"id\":11}", 1);
    qemu_ask(&qemu, "{\"execute\":\"cont\",\"id\":12}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"id\":13}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-kvm\",\"id\":14}{\"execute\":\"query-name\",\"id\":15}",
             2);
    qemu_kill(&qemu);
}

/* A torn text swallows whatever follows, until it is complete and wrong. */
static void qemu_torn_text(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"id\":7", 0);
    qemu_ask(&qemu, "{\"execute\":\"query-status\"}", 0);
    qemu_ask(&qemu, "}", 1);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"id\":8}", 1);
    qemu_kill(&qemu);
}

static void qemu_quits(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    qemu_ask(&qemu, "{\"execute\":\"quit\",\"id\":9}", 3);
    qemu_end(&qemu);
}

static void qemu_terminated(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    said(conform, kelpie__os_signal(conform->os, qemu.process, SIGTERM), "SIGTERM");
    qemu_say_lines(&qemu, qemu.qmp, 2);
    qemu_say_lines(&qemu, qemu.errors, 1);
    qemu_end(&qemu);
}

static void qemu_stopped(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    said(conform, kelpie__os_signal(conform->os, qemu.process, SIGSTOP), "SIGSTOP");
    qemu_ask(&qemu, "{\"execute\":\"query-name\",\"id\":2}", 0);
    qemu_ask(&qemu, "{\"execute\":\"query-kvm\",\"id\":3}", 0);
    said(conform, kelpie__os_signal(conform->os, qemu.process, SIGCONT), "SIGCONT");
    qemu_say_lines(&qemu, qemu.qmp, 2);
    qemu_kill(&qemu);
}

static void qemu_handles(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    int file = say_make(conform, "state", "");
    qemu_greet(&qemu);
    qemu_ask(&qemu, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"},\"id\":2}", 1);
    static const char text[] =
        "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"},\"id\":3}";
    said(conform,
         kelpie__os_send(conform->os, qemu.qmp, text, sizeof(text) - 1, &file, 1) > 0 ? 1 : 0,
         "getfd with a handle");
    qemu_say_lines(&qemu, qemu.qmp, 1);
    qemu_ask(&qemu, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"none\"},\"id\":4}", 1);
    qemu_ask(&qemu, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"state\"},\"id\":5}", 1);
    qemu_ask(&qemu, "{\"execute\":\"add-fd\",\"arguments\":{\"fdset-id\":7},\"id\":6}", 1);
    qemu_ask(&qemu, "{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":7},\"id\":7}", 1);
    say_close(conform, file);
    qemu_kill(&qemu);
}

static void qemu_incoming_no_handle(struct conform *conform) {
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    qemu_ask(&qemu,
             "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:none\"},\"id\":3}", 2);
    qemu_ask(&qemu, "{\"execute\":\"query-status\",\"id\":4}", 1);
    qemu_kill(&qemu);
}

/* An empty state ends it, and so does one that is none. */
static void qemu_incoming_bad_state(struct conform *conform) {
    static const char getfd[] =
        "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"},\"id\":2}";
    static const char *const states[] = {"", "0123456789abcdef", "QEVM"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(states) * 2; i += 1) {
        struct qemu qemu = qemu_start(conform, qemu_incoming);
        int file = say_make(conform, "state", states[i / 2]);
        qemu_greet(&qemu);
        if (i % 2 == 1) {
            qemu_ask(&qemu,
                     "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{"
                     "\"capability\":\"events\",\"state\":true}]}}",
                     1);
        }
        int64_t sent = kelpie__os_send(conform->os, qemu.qmp, getfd, sizeof(getfd) - 1, &file, 1);
        say(conform, "getfd: %d", sent == (int64_t)sizeof(getfd) - 1);
        qemu_say_lines(&qemu, qemu.qmp, 1);
        qemu_ask(&qemu, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}}",
                 5);
        qemu_say_lines(&qemu, qemu.errors, 3);
        say_close(conform, file);
        qemu_end(&qemu);
    }
}

/* What xen-save-devices-state writes has no configuration, and QEMU wants one unless it is told. */
static void qemu_incoming_configuration(struct conform *conform) {
    static const char getfd[] =
        "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"},\"id\":2}";
    static const char head[] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3, 0};
    const char *arguments[KELPIE_ARRAY_COUNT(qemu_incoming)];
    size_t count = 0;
    for (size_t i = 0; qemu_incoming[i] != NULL; i += 1) {
        if (strcmp(qemu_incoming[i], "-global") == 0) {
            i += 1;
            continue;
        }
        arguments[count] = qemu_incoming[i];
        count += 1;
    }
    arguments[count] = NULL;
    struct qemu qemu = qemu_start(conform, arguments);
    int file = say_make(conform, "state", "");
    said(conform, (int)kelpie__os_pwrite(conform->os, file, head, sizeof(head), 0), "pwrite");
    qemu_greet(&qemu);
    int64_t sent = kelpie__os_send(conform->os, qemu.qmp, getfd, sizeof(getfd) - 1, &file, 1);
    say(conform, "getfd: %d", sent == (int64_t)sizeof(getfd) - 1);
    qemu_say_lines(&qemu, qemu.qmp, 1);
    qemu_ask(&qemu, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}}", 2);
    qemu_say_lines(&qemu, qemu.errors, 2);
    say_close(conform, file);
    qemu_end(&qemu);
}

static void qemu_bad_arguments(struct conform *conform) {
    static const char *const bad[][3] = {
        {"-foo", NULL},
        {"-m", NULL},
        {"x", NULL},
        {"-append", "x", NULL},
        {"-smp", "x", NULL},
        {"-incoming", "zork", NULL},
        {"-chardev", "socket,id=z,fd=99", NULL},
        {"-mon", "chardev=nope,mode=control", NULL},
        {"-sandbox", "on,foo=deny", NULL},
        {"-blockdev", "driver=file,node-name=f,filename=/nope", NULL},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad); i += 1) {
        const char *const arguments[] = {"-nodefaults", "-no-user-config", "-display", "none",
                                         bad[i][0],     bad[i][1],         NULL};
        struct qemu qemu = qemu_start(conform, arguments);
        say(conform, "%s %s", bad[i][0], bad[i][1] == NULL ? "" : bad[i][1]);
        qemu_say_lines(&qemu, qemu.errors, 1);
        qemu_end(&qemu);
    }
}

/* It lives on when its client goes. */
static void qemu_client_gone(struct conform *conform) {
    struct kelpie_os_event event;
    struct qemu qemu = qemu_start(conform, qemu_incoming);
    qemu_greet(&qemu);
    say_close(conform, qemu.qmp);
    qemu.qmp = CONFORM_NONE;
    int64_t until_ns = kelpie__os_now(conform->os, KELPIE_OS_CLOCK_MONOTONIC) + 100000000;
    said(conform, kelpie__os_wait(conform->os, &event, 1, until_ns), "wait");
    say_ready(conform, qemu.process, "it lives");
    qemu_kill(&qemu);
}

const struct conform_script conform_scripts_qemu[] = {
    {"qemu_protocol", qemu_protocol, 0},
    {"qemu_torn_text", qemu_torn_text, 0},
    {"qemu_quits", qemu_quits, 0},
    {"qemu_terminated", qemu_terminated, 0},
    {"qemu_stopped", qemu_stopped, 0},
    {"qemu_handles", qemu_handles, 0},
    {"qemu_incoming_no_handle", qemu_incoming_no_handle, 0},
    {"qemu_incoming_bad_state", qemu_incoming_bad_state, 0},
    {"qemu_incoming_configuration", qemu_incoming_configuration, 0},
    {"qemu_bad_arguments", qemu_bad_arguments, 0},
    {"qemu_client_gone", qemu_client_gone, 0},
    {NULL, NULL, 0},
};
