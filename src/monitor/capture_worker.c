/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The child of a capture: see capture.h and worker.h. It is watched, has a deadline, and dies with
 * this monitor.
 */
#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/capture.h"
#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os_call.h"

#define WORK_SIGNAL_KILL 9
#define WORK_STDERR 2
#define WORK_TIMEOUT_NS (KELPIE_SNAPSHOT_TIMEOUT_MS * KELPIE_NS_PER_MS)
/* The library's own patience ends later. */
#define WORK_ARGUMENT_MAX 18u
#define WORK_READS_MAX 64u

static void work_close(struct kelpie_capture *capture) {
    struct kelpie_monitor *monitor = capture->monitor;
    kelpie__timer_disarm(monitor->loop, &capture->worker_timer);
    if (capture->process >= 0) {
        kelpie__loop_unwatch(monitor->loop, capture->process_watch);
        kelpie__ignore(kelpie__os_close(monitor->os, capture->process));
        capture->process = KELPIE_OS_NO_HANDLE;
    }
    if (capture->output >= 0) {
        kelpie__loop_unwatch(monitor->loop, capture->output_watch);
        kelpie__ignore(kelpie__os_close(monitor->os, capture->output));
        capture->output = KELPIE_OS_NO_HANDLE;
    }
}

void kelpie__capture_work_cancel(struct kelpie_capture *capture) {
    struct kelpie_os_exit exit;
    if (capture->process >= 0) {
        /* What it was doing stays unfinished; a child that is not reaped here is at our own end. */
        kelpie__ignore(kelpie__os_signal(capture->monitor->os, capture->process, WORK_SIGNAL_KILL));
        kelpie__ignore(kelpie__os_reap(capture->monitor->os, capture->process, &exit));
    }
    work_close(capture);
}

static void work_read(struct kelpie_capture *capture) {
    int64_t count = 1;
    KELPIE_ASSERT(capture->text_length < sizeof(capture->text));
    for (uint32_t i = 0; i < WORK_READS_MAX && count > 0; i += 1) {
        size_t room = sizeof(capture->text) - 1 - capture->text_length;
        if (room == 0) { /* it says more than it can have to say: its exit tells */
            break;
        }
        count = kelpie__os_read(capture->monitor->os, capture->output,
                                capture->text + capture->text_length, room);
        capture->text_length += count > 0 ? (size_t)count : 0;
    }
    capture->text[capture->text_length] = '\0';
    if (count == 0) {
        kelpie__loop_watch_change(capture->monitor->loop, capture->output_watch, 0);
    }
}

static void work_readable(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    work_read(context);
}

/* What the child says of its failure; false: it says nothing. */
static bool work_read_error(const struct kelpie_capture *capture, struct kelpie_error *out) {
    int64_t code = 0;
    int64_t os_error = 0;
    const char *text = capture->text;
    size_t length = capture->text_length;
    if (kelpie__json_find_i64(text, length, "code", &code) < 0 || code >= 0 ||
        code < KELPIE_CODE_LAST ||
        kelpie__json_find_string(text, length, "message", out->message, sizeof(out->message)) < 0) {
        return false;
    }
    kelpie__ignore(kelpie__json_find_i64(text, length, "os_error", &os_error));
    kelpie__ignore(kelpie__json_find_string(text, length, "field", out->field, sizeof(out->field)));
    out->code = (int)code;
    out->os_error = os_error > 0 && os_error < INT32_MAX ? (int)os_error : 0;
    return true;
}

static void work_ended(void *context, uint32_t bits) {
    struct kelpie_capture *capture = context;
    struct kelpie_os_exit exit = {0};
    struct kelpie_error error = {0};
    uint64_t stored_bytes = 0;
    KELPIE_ASSERT(bits != 0);
    int status = kelpie__os_reap(capture->monitor->os, capture->process, &exit);
    if (status == -EAGAIN) {
        return;
    }
    work_read(capture);
    work_close(capture);
    bool is_good =
        status == 0 && !exit.is_signalled && exit.value == 0 &&
        kelpie__json_find_u64(capture->text, capture->text_length, "bytes", &stored_bytes) == 0;
    if (is_good) {
        kelpie__capture_worked(capture, NULL, stored_bytes);
        return;
    }
    if (capture->is_late) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                                    "it was not made whole within %u s; is the disk very slow?",
                                    KELPIE_SNAPSHOT_TIMEOUT_MS / 1000));
    } else if (exit.is_signalled) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_SNAPSHOT, 0,
                                    "the process that made it whole was killed by signal %d",
                                    exit.value));
    } else if (work_read_error(capture, &error)) {
        kelpie__ignore(kelpie__json_find_bool(capture->text, capture->text_length, "is_removed",
                                              &capture->is_removed));
    } else {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_SNAPSHOT, 0,
                                    "the process that made it whole ended with code %d",
                                    exit.value));
    }
    kelpie__capture_worked(capture, &error, 0);
}

static void work_timed_out(void *context) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->process >= 0);
    capture->is_late = true;
    kelpie__ignore(kelpie__os_signal(capture->monitor->os, capture->process, WORK_SIGNAL_KILL));
}

static int work_watch(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_loop *loop = capture->monitor->loop;
    int status = kelpie__loop_watch(loop, capture->process, KELPIE_OS_READABLE, work_ended, capture,
                                    &capture->process_watch);
    if (status == 0) {
        status = kelpie__loop_watch(loop, capture->output, KELPIE_OS_READABLE, work_readable,
                                    capture, &capture->output_watch);
        if (status < 0) {
            kelpie__loop_unwatch(loop, capture->process_watch);
        }
    }
    return status < 0 ? kelpie__fail(error, status, 0, "watch a child") : 0;
}

static int work_spawn(struct kelpie_capture *capture, const char *const *argv, const char *program,
                      struct kelpie_error *error) {
    struct kelpie_os *os = capture->monitor->os;
    const char *step = "";
    int pipe[2];
    int status = kelpie__os_pipe(os, pipe);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "make a pipe");
    }
    const int handles[KELPIE_WORKER_HANDLE_COUNT] = {KELPIE_OS_NO_HANDLE, pipe[1], WORK_STDERR,
                                                     capture->snapshot.directory, capture->base};
    const struct kelpie_os_spawn spawn = {
        .path = program,
        .argv = argv,
        .directory = "/",
        .handles = handles,
        .handle_count = KELPIE_WORKER_HANDLE_COUNT,
        .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    status = kelpie__os_spawn(os, &spawn, &capture->process, NULL, &step);
    kelpie__ignore(kelpie__os_close(os, pipe[1]));
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, pipe[0]));
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "start \"%s\" (%s)", program,
                            step);
    }
    capture->output = pipe[0];
    status = work_watch(capture, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_signal(os, capture->process, WORK_SIGNAL_KILL));
        kelpie__ignore(kelpie__os_close(os, capture->process));
        kelpie__ignore(kelpie__os_close(os, capture->output));
        capture->process = KELPIE_OS_NO_HANDLE;
        capture->output = KELPIE_OS_NO_HANDLE;
    }
    return status;
}

int kelpie__capture_work(struct kelpie_capture *capture, const char *job,
                         struct kelpie_error *error) {
    struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_vmm_disk *root = kelpie__capture_root(capture);
    char program[KELPIE_PATH_BYTES_MAX];
    const char *const argv[WORK_ARGUMENT_MAX] = {"kelpie-monitor",
                                                 KELPIE_WORKER_OPTION,
                                                 job,
                                                 "--store",
                                                 capture->store.path,
                                                 "--entry",
                                                 capture->snapshot.entry,
                                                 "--vm",
                                                 monitor->options.vm_directory,
                                                 "--root",
                                                 root == NULL ? "" : root->path,
                                                 "--kernel",
                                                 monitor->prepare.kernel,
                                                 "--synced",
                                                 capture->is_synced ? "yes" : "no",
                                                 NULL};
    KELPIE_ASSERT(capture->process == KELPIE_OS_NO_HANDLE);
    if (!kelpie__text_join(program, sizeof(program), monitor->options.libexec_directory,
                           "kelpie-monitor")) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of kelpie-monitor is too long");
    }
    capture->text_length = 0;
    capture->text[0] = '\0';
    capture->is_late = false;
    int status = work_spawn(capture, argv, program, error);
    if (status == 0) {
        kelpie__timer_arm(monitor->loop, &capture->worker_timer,
                          monitor->loop->now_ns + WORK_TIMEOUT_NS, work_timed_out, capture);
    }
    return status;
}
