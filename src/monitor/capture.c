/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See capture.h: the sequence. Every step ends in the next one or in capture_fail, and every way
 * leads through capture_release, which gives the guest back.
 */
#include "monitor/capture.h"

#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os_call.h"
#include "wire/wire.h"

#define CAPTURE_ANSWER_BYTES 256u
#define CAPTURE_NAME_DIGITS 8u /* of the id, in a name that nobody gave */

static struct kelpie_lifecycle *capture_lifecycle(const struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(capture->monitor);
    bool needs_vmm = capture->phase >= KELPIE_CAPTURE_SYNCING &&
                     capture->phase <= KELPIE_CAPTURE_ENDING && capture->is_holding;
    KELPIE_ASSERT(!needs_vmm || lifecycle->vmm != NULL);
    KELPIE_ASSERT(capture->phase != KELPIE_CAPTURE_IDLE || !capture->is_holding);
    return lifecycle;
}

void kelpie__capture_init(struct kelpie_capture *capture, struct kelpie_monitor *monitor) {
    *capture = (struct kelpie_capture){.monitor = monitor,
                                       .phase = KELPIE_CAPTURE_IDLE,
                                       .base = KELPIE_OS_NO_HANDLE,
                                       .files = {.device = KELPIE_OS_NO_HANDLE,
                                                 .memory = KELPIE_OS_NO_HANDLE,
                                                 .map = KELPIE_OS_NO_HANDLE}};
    kelpie__child_init(&capture->child, monitor->os, monitor->loop);
    KELPIE_ASSERT(capture->reply.client == 0);
}

void kelpie__capture_ran(struct kelpie_capture *capture) {
    capture->is_disk_clean = false;
}

/* The VMM is about to end, or has: nothing can be asked of it. */
static bool capture_is_lost(const struct kelpie_capture *capture) {
    const struct kelpie_lifecycle *lifecycle = &capture->monitor->lifecycle;
    return lifecycle->vmm == NULL || lifecycle->is_kill_wanted || lifecycle->has_failure ||
           capture->failure.code == KELPIE_E_CRASHED;
}

static void capture_keep_failure(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    if (capture->failure.code == 0) { /* the first cause counts */
        capture->failure = *why;
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

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
    capture->phase = KELPIE_CAPTURE_IDLE;
}

static void capture_succeed(struct kelpie_capture *capture) {
    struct kelpie_json_writer writer;
    char text[CAPTURE_ANSWER_BYTES];
    const struct kelpie_manifest *manifest = &capture->snapshot.manifest;
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

static void capture_refuse(struct kelpie_capture *capture) {
    struct kelpie_error why = capture->failure;
    KELPIE_ASSERT(why.code < 0);
    if (capture->is_template) {
        capture_idle(capture);
        kelpie__template_sealed(&capture->monitor->template, &why);
        return;
    }
    kelpie__ignore(kelpie__fail_prefix(&why, "snapshot"));
    kelpie__event_log_write(capture->monitor, "notice", "%s", why.message);
    capture_idle(capture);
    kelpie__reply_refuse(capture->monitor, &capture->reply, &why);
}

/* Here and now: for a directory of which nothing is written yet, and for a monitor that ends. */
static void capture_remove_now(struct kelpie_capture *capture) {
    kelpie__capture_close_files(capture);
    if (capture->snapshot.store != NULL && !capture->is_removed) {
        kelpie__snapshot_abandon(&capture->snapshot);
        capture->snapshot = (struct kelpie_snapshot){0};
    }
    capture->is_removed = true;
}

static void capture_remove(struct kelpie_capture *capture) {
    KELPIE_ASSERT(!capture->is_holding && capture->failure.code < 0);
    kelpie__capture_close_files(capture);
    if (!capture->is_removed) {
        capture->phase = KELPIE_CAPTURE_REMOVING;
        if (kelpie__capture_work(capture, KELPIE_WORKER_REMOVE, NULL) == 0) {
            return;
        }
        capture_remove_now(capture);
    }
    capture_refuse(capture);
}

/* ---- the guest goes on ----------------------------------------------------------------------- */

static void capture_work_failed(void *context) {
    struct kelpie_capture *capture = context;
    struct kelpie_error why = capture->failure;
    kelpie__capture_worked(capture, &why, 0);
}

static void capture_seal(struct kelpie_capture *capture) {
    struct kelpie_loop *loop = capture->monitor->loop;
    struct kelpie_error error = {0};
    kelpie__capture_close_files(capture);
    capture->phase = KELPIE_CAPTURE_SEALING;
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

/* The guest is as it was found. */
static void capture_let_go(struct kelpie_capture *capture) {
    KELPIE_ASSERT(capture->is_holding);
    KELPIE_ASSERT(capture->monitor->pause.phase == KELPIE_PAUSE_TAKEN);
    capture->is_holding = false;
    kelpie__pause_give_back(&capture->monitor->pause);
    if (capture->is_template) {
        kelpie__template_saved(&capture->monitor->template);
    }
}

static void capture_clock_answered(void *context, const struct kelpie_error *error,
                                   const char *result, size_t length) {
    (void)context;
    (void)error; /* it lives with a clock that is some milliseconds behind */
    (void)result;
    (void)length;
}

/* The guest runs: what waited for it goes, and its clock is told what it missed. */
static void capture_wake(struct kelpie_capture *capture) {
    struct kelpie_monitor *monitor = capture->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    char params[64];
    kelpie__guest_unquiesce(&monitor->guest);
    kelpie__ignore(
        kelpie__text_format(params, sizeof(params), "{\"wall_ns\":%lld}",
                            (long long)kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL)));
    if (wire != NULL && capture->stopped_ns != 0 && !capture->is_template) {
        kelpie__ignore(kelpie__wire_call(wire, "guest.clock", params, KELPIE_TIMEOUT_NONE,
                                         capture_clock_answered, NULL, NULL, NULL));
    }
}

static void capture_go_on(struct kelpie_capture *capture) {
    if (capture->failure.code < 0) {
        capture_remove(capture);
    } else {
        capture_seal(capture);
    }
}

static void capture_resumed(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error why = {0};
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_RESUMING);
    bool runs = lifecycle->vmm != NULL && lifecycle->vmm->state == KELPIE_VMM_RUNNING;
    if (status < 0 && !runs) { /* one that runs without having said so goes on all the same */
        why = *error;
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_RESUME;
        kelpie__ignore(kelpie__fail_prefix(&why, "let the guest go on"));
        capture->is_vmm_doubtful = true;
        capture_keep_failure(capture, &why);
        /* That it stands now is what its user has to know first. */
        capture->failure.code = why.code;
    }
    if (capture_is_lost(capture)) {
        capture->phase = KELPIE_CAPTURE_ENDING;
        return;
    }
    if (lifecycle->vmm->state == KELPIE_VMM_RUNNING) {
        int64_t now_ns = kelpie__os_now(capture->monitor->os, KELPIE_OS_CLOCK_MONOTONIC);
        capture->pause_us = (uint64_t)((now_ns - capture->stopped_ns) / KELPIE_NS_PER_US);
        capture_wake(capture);
    }
    capture_let_go(capture); /* one that still stands is shown as Paused */
    capture_go_on(capture);
}

/* Gives the guest back, whatever came of the save. */
static void capture_release(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->is_holding);
    if (capture_is_lost(capture)) {
        capture->phase = KELPIE_CAPTURE_ENDING; /* kelpie__capture_vmm_gone goes on */
        return;
    }
    if (capture->was_running && lifecycle->vmm->state == KELPIE_VMM_PAUSED) {
        capture->phase = KELPIE_CAPTURE_RESUMING;
        int status = kelpie__vmm_resume(lifecycle->vmm, capture_resumed, capture, &error);
        if (status < 0) {
            capture_resumed(capture, status, &error);
        }
        return;
    }
    if (capture->was_running) {
        capture_wake(capture);
    }
    capture_let_go(capture);
    capture_go_on(capture);
}

static void capture_fail(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(capture->is_holding);
    capture_keep_failure(capture, why);
    kelpie__capture_take_back(capture);
    capture_release(capture);
}

/* Whether it has to be given up between two steps; it then was. */
static bool capture_gives_up(struct kelpie_capture *capture) {
    const struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error error = {0};
    if (capture->is_cancelled) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "it was cancelled"));
    } else if (lifecycle->is_stopping || capture_is_lost(capture)) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_STATE, 0, "VM \"%s\" is being stopped",
                                    capture->monitor->config.name));
    }
    if (error.code < 0) {
        capture_fail(capture, &error);
    }
    return error.code < 0;
}

/* ---- the steps ------------------------------------------------------------------------------- */

static void capture_saved_all(struct kelpie_capture *capture) {
    if (!capture->is_last) {
        capture_release(capture);
        return;
    }
    capture_seal(capture);
}

static void capture_switched(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_error why = {0};
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SWITCHING);
    if (status < 0) {
        why = *error;
        kelpie__ignore(kelpie__fail_prefix(&why, "lay a new layer over the VM's disk"));
        /* Only a refusal says for certain that the layer is not in use. Kept in the record, an
         * empty one over what the guest goes on writing to does no harm. */
        capture->has_layer = status == KELPIE_E_INTERNAL;
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_SNAPSHOT;
        capture_fail(capture, &why);
        return;
    }
    capture->has_layer = false;
    capture->is_disk_clean = true;
    if (!capture_gives_up(capture)) {
        capture_saved_all(capture);
    }
}

static void capture_save_failed(struct kelpie_capture *capture, const struct kelpie_error *error) {
    struct kelpie_error why = *error;
    KELPIE_ASSERT(why.code < 0);
    bool is_known = why.code == KELPIE_E_CRASHED || why.code == KELPIE_E_SNAPSHOT_TOO_LARGE;
    why.code = is_known ? why.code : KELPIE_E_SNAPSHOT;
    capture_fail(capture, &why);
}

static void capture_saved(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error why = {0};
    char path[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SAVING);
    if (status < 0) {
        capture_save_failed(capture, error);
        return;
    }
    if (capture_gives_up(capture)) {
        return;
    }
    const struct kelpie_guest_continuity *continuity = &capture->monitor->guest.continuity;
    struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    static_assert(sizeof(manifest->mark) == sizeof(continuity->mark) &&
                      sizeof(manifest->token) == sizeof(continuity->token),
                  "copied whole");
    memcpy(manifest->mark, continuity->mark, sizeof(manifest->mark));
    memcpy(manifest->token, continuity->token, sizeof(manifest->token));
    if (!capture->has_layer) {
        capture_saved_all(capture);
        return;
    }
    const struct kelpie_vm_record *record = &lifecycle->record;
    KELPIE_ASSERT(record->layer_count > 1);
    capture->phase = KELPIE_CAPTURE_SWITCHING;
    status = kelpie__text_join(path, sizeof(path), capture->monitor->options.vm_directory,
                               record->layers[record->layer_count - 1])
                 ? kelpie__vmm_switch_disk(lifecycle->vmm, capture->disk_index, path,
                                           capture_switched, capture, &why)
                 : kelpie__fail(&why, KELPIE_E_LIMIT, 0, "the path of the VM's disk is too long");
    if (status < 0) { /* it was not even asked for */
        capture_fail(capture, &why);
    }
}

static void capture_save(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(lifecycle->vmm->state == KELPIE_VMM_PAUSED);
    capture->phase = KELPIE_CAPTURE_SAVING;
    if (kelpie__vmm_save(lifecycle->vmm, &capture->files, &capture->saved, capture_saved, capture,
                         &error) < 0) {
        capture_save_failed(capture, &error);
    }
}

static void capture_paused(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_PAUSING);
    if (status < 0) {
        struct kelpie_error why = *error;
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_SNAPSHOT;
        capture->is_vmm_doubtful = true;
        capture_fail(capture, &why);
    } else if (!capture_gives_up(capture)) {
        capture_save(capture);
    }
}

static void capture_quieted(void *context, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    struct kelpie_error why = {0};
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_QUIETING);
    if (error != NULL) {
        why = *error;
        /* A connection that ends takes the VM along, whose end says more. */
        bool is_closed = why.code == KELPIE_E_IO || why.code == KELPIE_E_PROTOCOL;
        why.code = is_closed ? KELPIE_E_CRASHED : KELPIE_E_SNAPSHOT;
        kelpie__ignore(kelpie__fail_prefix(&why, "the guest's agent was asked to be quiet"));
        capture_fail(capture, &why);
        return;
    }
    if (capture_gives_up(capture)) {
        return;
    }
    capture->phase = KELPIE_CAPTURE_PAUSING;
    capture->stopped_ns = kelpie__os_now(capture->monitor->os, KELPIE_OS_CLOCK_MONOTONIC);
    int status = lifecycle->vmm->state == KELPIE_VMM_RUNNING
                     ? kelpie__vmm_pause(lifecycle->vmm, capture_paused, capture, &why)
                     : kelpie__fail(&why, KELPIE_E_SNAPSHOT, 0, "the VMM paused by itself");
    if (status < 0) {
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_SNAPSHOT;
        capture_fail(capture, &why);
    }
}

/* ---- the child ------------------------------------------------------------------------------- */

/* A child that was killed may have come to its end all the same, or near it: what has its name and
 * cannot be kept goes here and now, for no other child may touch it. */
static bool capture_is_published(struct kelpie_capture *capture) {
    if (capture->snapshot.store == NULL || !capture->snapshot.is_temporary) {
        return capture->snapshot.store != NULL;
    }
    int status = kelpie__snapshot_take_over(&capture->snapshot, capture->is_synced, NULL);
    if (status < 0 && status != KELPIE_E_NOT_FOUND) {
        capture_remove_now(capture);
    }
    return status == 0;
}

/* The VM's next snapshot comes after this one, unless the VM was started anew since. */
static void capture_become_parent(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
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
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    const struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    if (!capture->is_template) {
        kelpie__capture_take_merged(capture);
        capture_become_parent(capture);
    }
    kelpie__event_log_write(
        capture->monitor, "snapshot", "%s \"%s\" was taken (%s): %llu KiB, paused for %llu us",
        capture->is_template ? "template" : "snapshot", manifest->name, manifest->id,
        (unsigned long long)(manifest->stored_bytes / 1024), (unsigned long long)capture->pause_us);
    if (!capture->is_holding) {
        capture_succeed(capture);
        return;
    }
    KELPIE_ASSERT(capture->is_last);
    capture->phase = KELPIE_CAPTURE_STOPPING;
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
        capture_refuse(capture);
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
    capture_keep_failure(capture, error);
    if (capture->is_holding) {
        capture_release(capture);
    } else {
        capture_remove(capture);
    }
}

static void capture_end_work(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    kelpie__capture_work_cancel(capture);
    kelpie__capture_worked(capture, why, 0);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void capture_quiet(struct kelpie_capture *capture) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->was_running && capture->is_holding);
    capture->phase = KELPIE_CAPTURE_QUIETING;
    if (kelpie__guest_quiesce(&capture->monitor->guest, capture_quieted, capture, &error) < 0) {
        error.code = error.code == KELPIE_E_LIMIT ? KELPIE_E_SNAPSHOT : error.code;
        capture_fail(capture, &error);
    }
}

static void capture_copied_ahead(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_AHEAD);
    if (status < 0) {
        capture_save_failed(capture, error);
    } else if (!capture_gives_up(capture)) {
        capture->files.is_ahead = true;
        capture_quiet(capture);
    }
}

/* What is written now need not be while the guest stands still. A template's guest has nobody who
 * waits for it to go on, but for the template. */
static void capture_copy_ahead(struct kelpie_capture *capture) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->is_holding && !capture->files.is_ahead);
    capture->phase = KELPIE_CAPTURE_AHEAD;
    struct kelpie_lifecycle *lifecycle = capture_lifecycle(capture);
    if (capture->is_template || lifecycle->vmm->state != KELPIE_VMM_RUNNING) {
        capture_quiet(capture);
        return;
    }
    if (kelpie__vmm_save_ahead(lifecycle->vmm, &capture->files, capture_copied_ahead, capture,
                               &error) < 0) {
        capture_save_failed(capture, &error);
    }
}

/* Done or not: disk and memory are of one moment anyway. */
static void capture_synced(void *context, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SYNCING);
    if (error != NULL && error->code != KELPIE_E_UNSUPPORTED) {
        kelpie__event_log_write(capture->monitor, "notice",
                                "the guest did not sync its disk for a snapshot: %s",
                                error->message);
    }
    if (!capture_gives_up(capture)) {
        capture_copy_ahead(capture);
    }
}

/* Only for one that is to last: its disk may be all that is used of it one day. */
static bool capture_needs_sync(const struct kelpie_capture *capture) {
    return capture->is_synced && !capture->is_template && capture->has_layer;
}

void kelpie__capture_begin(struct kelpie_capture *capture) {
    capture->is_holding = true;
    capture->vmm_pid = capture->monitor->lifecycle.vmm->pid;
    if (!capture->was_running) {
        capture->phase = KELPIE_CAPTURE_SAVING;
        capture_save(capture);
        return;
    }
    if (capture_needs_sync(capture) &&
        kelpie__guest_sync(&capture->monitor->guest, capture_synced, capture, NULL) == 0) {
        capture->phase = KELPIE_CAPTURE_SYNCING;
        return;
    }
    capture_copy_ahead(capture);
}

void kelpie__capture_reject(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    capture_keep_failure(capture, why);
    kelpie__capture_take_back(capture);
    capture_remove_now(capture);
    capture_refuse(capture);
    kelpie__pause_give_back(&capture->monitor->pause);
    if (capture->is_template) {
        kelpie__template_saved(&capture->monitor->template);
    }
}

void kelpie__capture_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request) {
    struct kelpie_capture *capture = &monitor->capture;
    struct kelpie_error error = {0};
    bool is_mine = capture->phase != KELPIE_CAPTURE_IDLE && client != 0 &&
                   capture->reply.client == client && capture->reply.request == request;
    if (!is_mine) {
        return;
    }
    capture->is_cancelled = true; /* seen between two steps */
    if (capture->phase == KELPIE_CAPTURE_SEALING) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "it was cancelled"));
        capture_end_work(capture, &error);
    }
}

void kelpie__capture_vmm_gone(struct kelpie_capture *capture, const struct kelpie_error *why) {
    capture->is_disk_clean = false;
    if (!capture->is_holding) {
        return;
    }
    KELPIE_ASSERT(why->code < 0);
    if (capture->phase == KELPIE_CAPTURE_SYNCING) {
        kelpie__guest_stop_sync(&capture->monitor->guest);
    } else if (capture->phase == KELPIE_CAPTURE_QUIETING) {
        kelpie__guest_unquiesce(&capture->monitor->guest);
    }
    capture->is_holding = false;
    if (capture->phase == KELPIE_CAPTURE_STOPPING) {
        capture_succeed(capture);
    } else if (capture->phase != KELPIE_CAPTURE_SEALING) { /* what was saved is whole */
        capture->failure = *why; /* says more than what a step saw of it */
        kelpie__capture_take_back(capture);
        capture_remove(capture);
    }
}

void kelpie__capture_abort(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(!capture->is_holding);
    if (capture->phase == KELPIE_CAPTURE_IDLE) {
        return;
    }
    kelpie__capture_work_cancel(capture);
    if (capture_is_published(capture)) {
        capture_succeed(capture); /* it outlives its VM */
        return;
    }
    capture_remove_now(capture);
    capture_keep_failure(capture, why);
    capture_refuse(capture);
}

void kelpie__capture_deinit(struct kelpie_capture *capture) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the VM's monitor ends"));
    capture->is_holding = false; /* the VMM is being killed */
    kelpie__capture_abort(capture, &error);
}
