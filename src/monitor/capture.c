/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See capture.h: the sequence, as far as it has to do with the guest. Every step ends in the next
 * one or in capture_fail, and every way leads through kelpie__capture_release, which gives the
 * guest back; then capture_end.c goes on.
 */
#include "monitor/capture.h"

#include <string.h>

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* From a row's phase to those after it. A step that fails, and the VMM's end, give the guest
 * back. */
#define BIT(phase) (1u << (KELPIE_CAPTURE_##phase))
#define GIVEN_UP (BIT(RESUMING) | BIT(ENDING) | BIT(REMOVING) | BIT(IDLE))
static const uint32_t capture_next[] = {
    [KELPIE_CAPTURE_IDLE] = BIT(SYNCING) | BIT(AHEAD) | BIT(SAVING) | BIT(IDLE),
    [KELPIE_CAPTURE_SYNCING] = BIT(AHEAD) | GIVEN_UP,
    [KELPIE_CAPTURE_AHEAD] = BIT(QUIETING) | GIVEN_UP,
    [KELPIE_CAPTURE_QUIETING] = BIT(PAUSING) | GIVEN_UP,
    [KELPIE_CAPTURE_PAUSING] = BIT(SAVING) | GIVEN_UP,
    [KELPIE_CAPTURE_SAVING] = BIT(SWITCHING) | BIT(SEALING) | GIVEN_UP,
    [KELPIE_CAPTURE_SWITCHING] = BIT(SEALING) | GIVEN_UP,
    [KELPIE_CAPTURE_RESUMING] = BIT(ENDING) | BIT(SEALING) | BIT(REMOVING) | BIT(IDLE),
    [KELPIE_CAPTURE_ENDING] = BIT(REMOVING) | BIT(IDLE),
    [KELPIE_CAPTURE_SEALING] = BIT(STOPPING) | GIVEN_UP,
    [KELPIE_CAPTURE_REMOVING] = BIT(IDLE),
    [KELPIE_CAPTURE_STOPPING] = BIT(IDLE),
};
static_assert(KELPIE_ARRAY_COUNT(capture_next) == KELPIE_CAPTURE_STOPPING + 1,
              "the table has a row for every phase");
#undef BIT
#undef GIVEN_UP

void kelpie__capture_check(const struct kelpie_capture *capture) {
    const struct kelpie_vm_record *record = &capture->monitor->lifecycle.record;
    bool needs_guest =
        capture->phase >= KELPIE_CAPTURE_SYNCING && capture->phase <= KELPIE_CAPTURE_ENDING;
    KELPIE_ASSERT(capture->phase <= KELPIE_CAPTURE_STOPPING);
    KELPIE_ASSERT(capture->failure.code <= 0);
    if (needs_guest) {
        KELPIE_ASSERT(capture->is_holding);
    }
    if (capture->is_holding) {
        KELPIE_ASSERT(capture->phase != KELPIE_CAPTURE_IDLE);
        KELPIE_ASSERT(capture->phase != KELPIE_CAPTURE_REMOVING);
        KELPIE_ASSERT(capture->monitor->pause.phase == KELPIE_PAUSE_TAKEN);
    }
    if (capture->phase == KELPIE_CAPTURE_STOPPING) {
        KELPIE_ASSERT(capture->is_holding);
        KELPIE_ASSERT(capture->is_last);
    }
    if (capture->has_layer) {
        KELPIE_ASSERT(record->layer_count > 1);
    }
    if (capture->is_template) { /* it is nobody's, and its VM goes on */
        KELPIE_ASSERT(capture->reply.client == 0);
        KELPIE_ASSERT(!capture->is_last);
    }
    if (kelpie__child_is_running(&capture->child)) {
        KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING ||
                      capture->phase == KELPIE_CAPTURE_REMOVING);
    }
}

void kelpie__capture_enter(struct kelpie_capture *capture, enum kelpie_capture_phase next) {
    KELPIE_ASSERT(next <= KELPIE_CAPTURE_STOPPING);
    KELPIE_ASSERT((capture_next[capture->phase] & (1u << next)) != 0);
    capture->phase = next;
    kelpie__capture_check(capture);
}

struct kelpie_lifecycle *kelpie__capture_lifecycle(const struct kelpie_capture *capture) {
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
                                       .device_check = KELPIE_OS_NO_HANDLE,
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

/* ---- the guest goes on ----------------------------------------------------------------------- */

/* The guest is as it was found. */
static void capture_let_go(struct kelpie_capture *capture) {
    kelpie__capture_check(capture);
    KELPIE_ASSERT(capture->is_holding);
    KELPIE_ASSERT(capture->monitor->pause.phase == KELPIE_PAUSE_TAKEN);
    capture->is_holding = false;
    KELPIE_ASSERT(capture->failure.code < 0 || !capture->is_last);
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

static void capture_resumed(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    struct kelpie_error why = {0};
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_RESUMING);
    KELPIE_ASSERT(capture->was_running);
    KELPIE_ASSERT(status <= 0);
    bool runs = lifecycle->vmm != NULL && lifecycle->vmm->state == KELPIE_VMM_RUNNING;
    if (status < 0 && !runs) { /* one that runs without having said so goes on all the same */
        why = *error;
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_RESUME;
        kelpie__ignore(kelpie__fail_prefix(&why, "let the guest go on"));
        capture->is_vmm_doubtful = true;
        kelpie__capture_keep_failure(capture, &why);
        /* That it stands now is what its user has to know first. */
        capture->failure.code = why.code;
    }
    if (capture_is_lost(capture)) {
        kelpie__capture_enter(capture, KELPIE_CAPTURE_ENDING);
        return;
    }
    if (lifecycle->vmm->state == KELPIE_VMM_RUNNING) {
        int64_t now_ns = kelpie__os_now(capture->monitor->os, KELPIE_OS_CLOCK_MONOTONIC);
        capture->pause_us = (uint64_t)((now_ns - capture->stopped_ns) / KELPIE_NS_PER_US);
        capture_wake(capture);
    }
    capture_let_go(capture); /* one that still stands is shown as Paused */
    kelpie__capture_go_on(capture);
}

void kelpie__capture_release(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->is_holding);
    if (capture_is_lost(capture)) {
        kelpie__capture_enter(capture, KELPIE_CAPTURE_ENDING);
        return; /* kelpie__capture_vmm_gone goes on */
    }
    if (capture->was_running && lifecycle->vmm->state == KELPIE_VMM_PAUSED) {
        kelpie__capture_enter(capture, KELPIE_CAPTURE_RESUMING);
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
    kelpie__capture_go_on(capture);
}

static void capture_fail(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(capture->is_holding);
    kelpie__capture_keep_failure(capture, why);
    kelpie__capture_take_back(capture);
    kelpie__capture_release(capture);
}

/* Whether it has to be given up between two steps; it then was. */
static bool capture_gives_up(struct kelpie_capture *capture) {
    const struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
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
        kelpie__capture_release(capture);
        return;
    }
    kelpie__capture_seal(capture);
}

static void capture_switched(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    struct kelpie_error why = {0};
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SWITCHING);
    KELPIE_ASSERT(capture->has_layer);
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
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    struct kelpie_error why = {0};
    char path[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SAVING);
    KELPIE_ASSERT(capture->is_holding);
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
    kelpie__capture_enter(capture, KELPIE_CAPTURE_SWITCHING);
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
    struct kelpie_error error = {0};
    kelpie__capture_enter(capture, KELPIE_CAPTURE_SAVING);
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
    KELPIE_ASSERT(lifecycle->vmm->state == KELPIE_VMM_PAUSED);
    if (kelpie__vmm_save(lifecycle->vmm, &capture->files, &capture->saved, capture_saved, capture,
                         &error) < 0) {
        capture_save_failed(capture, &error);
    }
}

static void capture_paused(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_PAUSING);
    KELPIE_ASSERT(capture->was_running);
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
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
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
    kelpie__capture_enter(capture, KELPIE_CAPTURE_PAUSING);
    capture->stopped_ns = kelpie__os_now(capture->monitor->os, KELPIE_OS_CLOCK_MONOTONIC);
    int status = lifecycle->vmm->state == KELPIE_VMM_RUNNING
                     ? kelpie__vmm_pause(lifecycle->vmm, capture_paused, capture, &why)
                     : kelpie__fail(&why, KELPIE_E_SNAPSHOT, 0, "the VMM paused by itself");
    if (status < 0) {
        why.code = why.code == KELPIE_E_CRASHED ? why.code : KELPIE_E_SNAPSHOT;
        capture_fail(capture, &why);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void capture_quiet(struct kelpie_capture *capture) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->was_running && capture->is_holding);
    kelpie__capture_enter(capture, KELPIE_CAPTURE_QUIETING);
    if (kelpie__guest_quiesce(&capture->monitor->guest, capture_quieted, capture, &error) < 0) {
        error.code = error.code == KELPIE_E_LIMIT ? KELPIE_E_SNAPSHOT : error.code;
        capture_fail(capture, &error);
    }
}

static void capture_copied_ahead(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_capture *capture = context;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_AHEAD);
    KELPIE_ASSERT(!capture->files.is_ahead);
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
    kelpie__capture_enter(capture, KELPIE_CAPTURE_AHEAD);
    struct kelpie_lifecycle *lifecycle = kelpie__capture_lifecycle(capture);
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
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    KELPIE_ASSERT(capture->files.device >= 0);
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    capture->is_holding = true;
    capture->vmm_pid = capture->monitor->lifecycle.vmm->pid;
    if (!capture->was_running) {
        capture_save(capture);
        return;
    }
    if (capture_needs_sync(capture) &&
        kelpie__guest_sync(&capture->monitor->guest, capture_synced, capture, NULL) == 0) {
        kelpie__capture_enter(capture, KELPIE_CAPTURE_SYNCING);
        return;
    }
    capture_copy_ahead(capture);
}

void kelpie__capture_reject(struct kelpie_capture *capture, const struct kelpie_error *why) {
    KELPIE_ASSERT(!capture->is_holding);
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    kelpie__capture_keep_failure(capture, why);
    kelpie__capture_take_back(capture);
    kelpie__capture_remove_now(capture);
    kelpie__capture_refuse(capture);
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
        kelpie__capture_end_work(capture, &error);
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
        kelpie__capture_succeed(capture);
    } else if (capture->phase != KELPIE_CAPTURE_SEALING) { /* what was saved is whole */
        capture->failure = *why; /* says more than what a step saw of it */
        kelpie__capture_take_back(capture);
        kelpie__capture_remove(capture);
    }
}
