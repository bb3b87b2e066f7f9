/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: kelpie-krun as its driver meets it, without a guest: what it tells, call by call, and
 * how it ends. On Linux the real one, with a library in libkrun's place that goes wrong as its file
 * is named (tests/programs/fake_krun.c); the simulated one does what such a name says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "vmm/krun/launch.h"

#define KRUN_TEXT_BYTES 4096u
#define KRUN_PATH_BYTES 700u
#define KRUN_SIGNAL_KILL 9
#define KRUN_SIGNAL_CONT 18

/* By the environment on Linux; in a simulated world the installed one. */
static const char *krun_program(const struct conform *conform, char out[KRUN_PATH_BYTES]) {
    const char *libexec = kelpie__os_environment(conform->os, "KELPIE_LIBEXEC");
    snprintf(out, KRUN_PATH_BYTES, "%s/kelpie-krun",
             libexec != NULL ? libexec : "/usr/libexec/kelpie");
    return out;
}

static void krun_link(struct conform *conform, const char *library, const char *name) {
    char target[KRUN_PATH_BYTES];
    const char *programs = kelpie__os_environment(conform->os, "KELPIE_TEST_PROGRAMS");
    snprintf(target, sizeof(target), "%s/%s.so", programs != NULL ? programs : "/opt", library);
    said(conform, conform->make_link(conform, target, name), "link");
}

/* All that it tells, or what it tells until this word; in how many pieces it comes means nothing.
 */
static void krun_say_status(struct conform *conform, int status, const char *until) {
    char text[KRUN_TEXT_BYTES] = "";
    size_t length = 0;
    int64_t count = -EAGAIN;
    struct kelpie_os *os = conform->os;
    struct kelpie_os_event event;
    int64_t deadline_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) + CONFORM_WAIT_NS;
    said(conform, kelpie__os_watch(os, status, KELPIE_OS_READABLE, 1), "watch");
    while ((count > 0 || count == -EAGAIN) && length + 1 < sizeof(text) &&
           (until == NULL || strstr(text, until) == NULL)) {
        count = kelpie__os_read(os, status, text + length, sizeof(text) - 1 - length);
        length += count > 0 ? (size_t)count : 0;
        text[length] = '\0';
        if (count == -EAGAIN && kelpie__os_wait(os, &event, 1, deadline_ns) <= 0) {
            say(conform, "it does not end");
            break;
        }
    }
    kelpie__ignore(kelpie__os_watch(os, status, 0, 0));
    say(conform, "%s", text);
}

/* Started with this library, a link to the one that does what such a name says. The read ends of
 * its console and of what it tells are the caller's. */
static struct conform_child krun_start(struct conform *conform, const char *library,
                                       const char *const *more, int *out_told) {
    char program[KRUN_PATH_BYTES];
    char path[KRUN_PATH_BYTES];
    char firmware[KRUN_PATH_BYTES];
    const char *step = "";
    int told[2];
    int console[2];
    const char *argv[24] = {krun_program(conform, program),
                            "--library",
                            path,
                            "--firmware",
                            firmware,
                            "--agent",
                            conform->child,
                            "--staging",
                            conform->path};
    size_t count = 9;
    snprintf(path, sizeof(path), "%s/%s", conform->path, library);
    snprintf(firmware, sizeof(firmware), "%s/firmware.so", conform->path);
    for (size_t i = 0; more[i] != NULL && count + 1 < KELPIE_ARRAY_COUNT(argv); i += 1) {
        argv[count] = more[i];
        count += 1;
    }
    say(conform, "with %s", library);
    krun_link(conform, "fake-krun-17", library);
    say_pipe(conform, told);
    say_pipe(conform, console);
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE,
                           told[1],      console[1],   conform->directory};
    /* A sanitizer's look for leaks needs calls that the process has given up by its end. */
    static const char *const environment[] = {"ASAN_OPTIONS=detect_leaks=0", NULL};
    const struct kelpie_os_spawn spawn = {.path = program,
                                          .argv = argv,
                                          .environment = environment,
                                          .directory = "/",
                                          .handles = handles,
                                          .handle_count = KELPIE_KRUN_DESCRIPTOR_COUNT,
                                          .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                          .cgroup = CONFORM_NONE};
    struct conform_child child = {.process = CONFORM_NONE, .control = console[0]};
    said(conform, kelpie__os_spawn(conform->os, &spawn, &child.process, &child.pid, &step), step);
    say_close(conform, told[1]);
    say_close(conform, console[1]);
    *out_told = told[0];
    return child;
}

static void krun_run(struct conform *conform, const char *library, const char *const *more) {
    int told = CONFORM_NONE;
    struct conform_child child = krun_start(conform, library, more, &told);
    krun_say_status(conform, told, NULL);
    child_end(conform, &child);
    say_close(conform, told);
}

static const char *const krun_small[] = {"--cpus", "1", "--memory-mib", "256", NULL};

/* Each call of the sequence says no, panics, and is where the process is killed. */
static void krun_calls(struct conform *conform) {
    static const char *const calls[] = {"init_log",   "create_ctx",      "set_vm_config",
                                        "set_root",   "set_exec",        "disable_implicit_vsock",
                                        "add_vsock",  "add_vsock_port2", "set_console_output",
                                        "start_enter"};
    static const char *const actions[] = {"fail", "abort", "kill"};
    char library[96];
    krun_link(conform, "fake-krunfw", "firmware.so");
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(calls); i += 1) {
        for (size_t k = 0; k < KELPIE_ARRAY_COUNT(actions); k += 1) {
            snprintf(library, sizeof(library), "krun_%s.%s.so", calls[i], actions[k]);
            krun_run(conform, library, krun_small);
        }
    }
}

/* A kernel that finds no root, or panics, ends so: 0, and no word. */
static void krun_exits(struct conform *conform) {
    krun_link(conform, "fake-krunfw", "firmware.so");
    krun_run(conform, "krun_start_enter.exit.so", krun_small);
}

/* krun_start_enter never comes back: the process is the VM, stands still when it is stopped, and
 * only a signal ends it. */
static void krun_stays(struct conform *conform) {
    int told = CONFORM_NONE;
    krun_link(conform, "fake-krunfw", "firmware.so");
    struct conform_child child = krun_start(conform, "krun_start_enter.hang.so", krun_small, &told);
    krun_say_status(conform, told, "start\n");
    child_stop(conform, &child);
    say_ready(conform, told, "what a stopped one tells");
    child_kill(conform, &child, KRUN_SIGNAL_CONT);
    say_ready(conform, child.process, "its end");
    child_kill(conform, &child, KRUN_SIGNAL_KILL);
    child_end(conform, &child);
    say_ready(conform, told, "what it told");
    say_close(conform, told);
}

/* What it refuses by itself. */
static void krun_limits(struct conform *conform) {
    static const char *const cpus[] = {"--cpus", "17", "--memory-mib", "256", NULL};
    static const char *const memory[] = {"--cpus", "1", "--memory-mib", "64", NULL};
    static const char *const disk[] = {
        "--cpus", "1", "--memory-mib", "256", "--disk", "base:ro:raw:/no/such/disk", NULL};
    static const char *const nothing[] = {NULL};
    krun_link(conform, "fake-krunfw", "firmware.so");
    krun_run(conform, "one.so", cpus);
    krun_run(conform, "two.so", memory);
    krun_run(conform, "three.so", disk);
    krun_run(conform, "four.so", nothing);
}

const struct conform_script conform_scripts_krun[] = {
    {"krun_calls", krun_calls, 0},
    {"krun_exits", krun_exits, 0},
    {"krun_limits", krun_limits, 0},
    {"krun_stays", krun_stays, 0},
    {NULL, NULL, 0},
};
