/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The child of a capture: see capture.h and worker.h.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/capture.h"
#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os_call.h"

/* The library's own patience ends later. */
#define WORK_TIMEOUT_NS (KELPIE_SNAPSHOT_TIMEOUT_MS * KELPIE_NS_PER_MS)
#define WORK_TEMPLATE_TIMEOUT_NS (KELPIE_TEMPLATE_SEAL_MS * KELPIE_NS_PER_MS)
#define WORK_HANDLE_COUNT (KELPIE_WORKER_HANDLE_COUNT - KELPIE_WORKER_HANDLE_DIRECTORY)

void kelpie__capture_work_cancel(struct kelpie_capture *capture) {
    kelpie__child_cancel(&capture->child);
    kelpie__timer_disarm(capture->monitor->loop, &capture->worker_timer);
}

static void work_ended(void *context, enum kelpie_child_end end, int32_t value, const char *text) {
    struct kelpie_capture *capture = context;
    struct kelpie_error error = {0};
    uint64_t stored_bytes = 0;
    size_t length = strlen(text);
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING ||
                  capture->phase == KELPIE_CAPTURE_REMOVING);
    bool is_good = end == KELPIE_CHILD_EXITED && value == 0 &&
                   kelpie__json_find_u64(text, length, "bytes", &stored_bytes) == 0;
    if (is_good) {
        kelpie__capture_worked(capture, NULL, stored_bytes);
        return;
    }
    if (end == KELPIE_CHILD_LATE) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                                    "it was not made whole within %u s; is the disk very slow?",
                                    KELPIE_SNAPSHOT_TIMEOUT_MS / 1000));
    } else if (end == KELPIE_CHILD_KILLED) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_SNAPSHOT, 0,
                                    "the process that made it whole was killed by signal %d",
                                    value));
    } else if (kelpie__worker_read_error(text, length, &error)) {
        kelpie__ignore(kelpie__json_find_bool(text, length, "is_removed", &capture->is_removed));
        if (error.code == KELPIE_E_SNAPSHOT_CORRUPTED ||
            error.code == KELPIE_E_SNAPSHOT_INCOMPATIBLE) { /* the VM has nothing of that */
            error.code = KELPIE_E_SNAPSHOT;
        }
    } else {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_SNAPSHOT, 0,
                                    "the process that made it whole ended with code %d: %.200s",
                                    value, text));
    }
    kelpie__capture_worked(capture, &error, 0);
}

int kelpie__capture_work(struct kelpie_capture *capture, const char *job,
                         struct kelpie_error *error) {
    struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_vmm_disk *root = kelpie__capture_root(capture);
    char program[KELPIE_PATH_BYTES_MAX];
    const char *const argv[] = {program,
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
                                "--merged",
                                capture->merged,
                                "--synced",
                                capture->is_synced ? "yes" : "no",
                                "--transient",
                                capture->is_transient ? "yes" : "no",
                                NULL};
    const int handles[WORK_HANDLE_COUNT] = {capture->snapshot.directory, capture->base};
    const struct kelpie_child_order order = {
        .argv = argv,
        .handles = handles,
        .handle_count = WORK_HANDLE_COUNT,
        .timeout_ns = capture->is_template ? WORK_TEMPLATE_TIMEOUT_NS : WORK_TIMEOUT_NS,
        .keeps_environment = true};
    static_assert(KELPIE_ARRAY_COUNT(argv) <= KELPIE_CHILD_ARGUMENT_COUNT_MAX, "room for all");
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING ||
                  capture->phase == KELPIE_CAPTURE_REMOVING);
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    KELPIE_ASSERT(capture->snapshot.directory >= 0);
    if (!kelpie__text_join(program, sizeof(program), monitor->options.libexec_directory,
                           "kelpie-monitor")) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of kelpie-monitor is too long");
    }
    return kelpie__child_start(&capture->child, &order, work_ended, capture, error);
}
