/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See capture.h: what becomes of a capture once its guest has been given back. A child makes a
 * snapshot of it, or removes what was made, and whoever waits is told.
 */
#include "monitor/capture.h"

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os_call.h"

#define CAPTURE_ANSWER_BYTES 256u

/* ---- the end --------------------------------------------------------------------------------- */

void kelpie__capture_keep_failure(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    if (capture->failure.code == 0) { /* the first cause counts */
        capture->failure = *why;
    }
}

static void capture_idle(struct kelpie_capture *capture) {
    KELPIE_ASSERT(!capture->is_holding);
    KELPIE_ASSERT(!kelpie__child_is_running(&capture->child));
    kelpie__capture_close_files(capture);
    if (capture->snapshot.store != NULL) {
        kelpie__snapshot_close(&capture->snapshot);
        capture->snapshot = (struct kelpie_snapshot){0};
    }
    if (capture->store.os != NULL) {
        kelpie__snapshot_store_close(&capture->store);
        capture->store = (struct kelpie_snapshot_store){0};
    }
    KELPIE_ASSERT(capture->files.device == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(capture->files.memory == KELPIE_OS_NO_HANDLE);
    kelpie__capture_enter(capture, KELPIE_CAPTURE_IDLE);
}

void kelpie__capture_succeed(struct kelpie_capture *capture) {
    struct kelpie_json_writer writer;
    char text[CAPTURE_ANSWER_BYTES];
    const struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    KELPIE_ASSERT(manifest->id[0] != '\0');
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "id", manifest->id);
    kelpie__json_write_string(&writer, "name", manifest->name);
    kelpie__json_write_u64(&writer, "bytes", manifest->stored_bytes);
    kelpie__json_write_u64(&writer, "pause_us", capture->pause_us);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    capture_idle(capture);
    if (capture->is_template) {
        kelpie__template_sealed(&capture->monitor->template, NULL);
    } else {
        kelpie__reply_result(capture->monitor, &capture->reply, text);
    }
}

void kelpie__capture_refuse(struct kelpie_capture *capture) {
    struct kelpie_error why = capture->failure;
    KELPIE_ASSERT(why.code < 0);
    if (capture->is_template) {
        capture_idle(capture);
        kelpie__template_sealed(&capture->monitor->template, &why);
        return;
    }
    kelpie__ignore(kelpie__fail_prefix(&why, "snapshot: VM \"%s\"", capture->monitor->config.name));
    kelpie__event_log_write(capture->monitor, "notice", "%s", why.message);
    capture_idle(capture);
    kelpie__reply_refuse(capture->monitor, &capture->reply, &why);
}

void kelpie__capture_remove_now(struct kelpie_capture *capture) {
    KELPIE_ASSERT(!kelpie__child_is_running(&capture->child));
    kelpie__capture_close_files(capture);
    if (capture->snapshot.store != NULL && !capture->is_removed) {
        kelpie__snapshot_abandon(&capture->snapshot);
        capture->snapshot = (struct kelpie_snapshot){0};
    }
    capture->is_removed = true;
    KELPIE_ASSERT(capture->snapshot.store == NULL);
}

void kelpie__capture_remove(struct kelpie_capture *capture) {
    KELPIE_ASSERT(!capture->is_holding && capture->failure.code < 0);
    kelpie__capture_close_files(capture);
    if (!capture->is_removed) {
        kelpie__capture_enter(capture, KELPIE_CAPTURE_REMOVING);
        if (kelpie__capture_work(capture, KELPIE_WORKER_REMOVE, NULL) == 0) {
            return;
        }
        kelpie__capture_remove_now(capture);
    }
    kelpie__capture_refuse(capture);
}

/* ---- the child ------------------------------------------------------------------------------- */

static void capture_work_failed(void *context) {
    struct kelpie_capture *capture = context;
    struct kelpie_error why = capture->failure;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    KELPIE_ASSERT(why.code < 0);
    kelpie__capture_worked(capture, &why, 0);
}

void kelpie__capture_seal(struct kelpie_capture *capture) {
    struct kelpie_loop *loop = capture->monitor->loop;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    /* the guest of a last one is given back by its end */
    KELPIE_ASSERT(capture->is_holding == capture->is_last);
    kelpie__capture_enter(capture, KELPIE_CAPTURE_SEALING);
    int status = kelpie__capture_check_devices(capture, &error);
    if (status == 0) {
        status = kelpie__capture_write_draft(capture, &error);
    }
    if (status == 0) {
        const char *job = capture->is_template ? KELPIE_WORKER_TEMPLATE : KELPIE_WORKER_SEAL;
        status = kelpie__capture_work(capture, job, &error);
    }
    if (status < 0) { /* as if the child had failed: from the loop */
        capture->failure = error;
        kelpie__timer_arm(loop, &capture->worker_timer, loop->now_ns, capture_work_failed, capture);
    }
}

void kelpie__capture_go_on(struct kelpie_capture *capture) {
    KELPIE_ASSERT(!capture->is_holding);
    if (capture->failure.code < 0) {
        kelpie__capture_remove(capture);
    } else {
        kelpie__capture_seal(capture);
    }
}

/* A child that was killed may have come to its end all the same, or near it: what has its name and
 * cannot be kept goes here and now, for no other child may touch it. */
static bool capture_is_published(struct kelpie_capture *capture) {
    if (capture->snapshot.store == NULL || !capture->snapshot.is_temporary) {
        return capture->snapshot.store != NULL;
    }
    int status = kelpie__snapshot_take_over(&capture->snapshot, capture->is_synced, NULL);
    if (status < 0 && status != KELPIE_E_NOT_FOUND) {
        kelpie__capture_remove_now(capture);
    }
    return status == 0;
}

/* The VM's next snapshot comes after this one, unless the VM was started anew since. */
static void capture_become_parent(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(!capture->is_template);
    if (lifecycle->vmm == NULL || lifecycle->vmm->pid != capture->vmm_pid) {
        return;
    }
    kelpie__ignore(kelpie__text_copy(lifecycle->record.parent, sizeof(lifecycle->record.parent),
                                     capture->snapshot.manifest.id));
    if (kelpie__lifecycle_save(lifecycle, &error) < 0) {
        kelpie__event_log_write(capture->monitor, "notice", "%s", error.message);
    }
}

/* It is there. */
static void capture_sealed(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    const struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    if (!capture->is_template) {
        kelpie__capture_take_merged(capture);
        capture_become_parent(capture);
    }
    kelpie__event_log_write(
        capture->monitor, "snapshot", "%s \"%s\" was taken (%s): %llu KiB, paused for %llu us",
        capture->is_template ? "template" : "snapshot", manifest->name, manifest->id,
        (unsigned long long)(manifest->stored_bytes / 1024), (unsigned long long)capture->pause_us);
    if (!capture->is_holding) {
        kelpie__capture_succeed(capture);
        return;
    }
    KELPIE_ASSERT(capture->is_last);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    kelpie__capture_enter(capture, KELPIE_CAPTURE_STOPPING);
    lifecycle->is_stopping = true; /* so that its end is Stopped */
    kelpie__vmm_kill(lifecycle->vmm);
}

void kelpie__capture_worked(struct kelpie_capture *capture, const struct kelpie_error *error,
                            uint64_t stored_bytes) {
    KELPIE_ASSERT(!kelpie__child_is_running(&capture->child));
    if (capture->phase == KELPIE_CAPTURE_REMOVING) {
        if (error != NULL) { /* prune finds it */
            kelpie__event_log_write(capture->monitor, "notice", "remove a snapshot: %s",
                                    error->message);
        }
        kelpie__capture_refuse(capture);
        return;
    }
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    if (error == NULL) {
        capture->snapshot.manifest.stored_bytes = stored_bytes;
    }
    if (error == NULL || capture_is_published(capture)) {
        capture_sealed(capture);
        return;
    }
    kelpie__capture_keep_failure(capture, error);
    if (capture->is_holding) {
        kelpie__capture_release(capture);
    } else {
        kelpie__capture_remove(capture);
    }
}

void kelpie__capture_end_work(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    kelpie__capture_work_cancel(capture);
    kelpie__capture_worked(capture, why, 0);
}

/* ---- what ends around it --------------------------------------------------------------------- */

void kelpie__capture_abort(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(!capture->is_holding);
    if (capture->phase == KELPIE_CAPTURE_IDLE) {
        return;
    }
    kelpie__capture_work_cancel(capture);
    if (capture_is_published(capture)) {
        kelpie__capture_succeed(capture); /* it outlives its VM */
        return;
    }
    kelpie__capture_remove_now(capture);
    kelpie__capture_keep_failure(capture, why);
    kelpie__capture_refuse(capture);
}

void kelpie__capture_deinit(struct kelpie_capture *capture) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the VM's monitor ends"));
    capture->is_holding = false; /* the VMM is being killed */
    kelpie__capture_abort(capture, &error);
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    KELPIE_ASSERT(capture->store.os == NULL);
}
