/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The request vm.snapshot: see capture.h. What it asks for is read and checked before anything is
 * touched.
 */
#include <string.h>

#include "core/config.h"
#include "core/json.h"
#include "core/state.h"
#include "monitor/backend.h"
#include "monitor/capture.h"
#include "monitor/monitor.h"
#include "os/os_call.h"

static int capture_check(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    const char *name = monitor->config.name;
    int status = kelpie__state_allow(lifecycle->state, KELPIE_VERB_SNAPSHOT, name, error);
    if (status < 0) {
        return status;
    }
    if (capture->phase != KELPIE_CAPTURE_IDLE) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            "snapshot: another one of VM \"%s\" is being taken", name);
    }
    status = kelpie__backend_can_save(monitor, "snapshot", error);
    if (status < 0) {
        return status;
    }
    if ((lifecycle->vmm->operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) == 0) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "snapshot: the backend \"%s\" cannot save a VM",
                            lifecycle->vmm->operations->name);
    }
    if (monitor->pause.phase != KELPIE_PAUSE_IDLE) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0,
                            "snapshot: VM \"%s\" is being paused or resumed; try again", name);
    }
    bool is_paused = lifecycle->state == KELPIE_VM_PAUSED;
    bool is_quiet = monitor->guest.quiet == KELPIE_GUEST_IS_QUIET;
    if (is_paused && !is_quiet) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT, 0,
                            "snapshot: VM \"%s\" was paused without being prepared for it; resume "
                            "it, then try again",
                            name);
    }
    return 0;
}

struct capture_order {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    char label[KELPIE_SNAPSHOT_LABEL_BYTES_MAX + 1];
    bool is_last;
    bool is_synced;
    bool is_transient;
};

static int capture_text(const char *params, size_t length, const char *key, char *out,
                        size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(out[0] == '\0');
    KELPIE_ASSERT(capacity > 1);
    struct kelpie_json_value value;
    if (kelpie__json_find(params, length, key, &value) < 0) {
        return 0;
    }
    if (kelpie__json_string(&value, out, capacity, NULL) < 0) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, key,
                                  "snapshot: %s is no text of at most %zu bytes", key,
                                  capacity - 1);
    }
    return 0;
}

static int capture_read(const struct kelpie_capture *capture, const char *params, size_t length,
                        struct capture_order *out, struct kelpie_error *error) {
    *out = (struct capture_order){.is_synced = !capture->monitor->config.is_ephemeral};
    kelpie__ignore(kelpie__json_find_bool(params, length, "stop", &out->is_last));
    kelpie__ignore(kelpie__json_find_bool(params, length, "synced", &out->is_synced));
    kelpie__ignore(kelpie__json_find_bool(params, length, "transient", &out->is_transient));
    int status = capture_text(params, length, "name", out->name, sizeof(out->name), error);
    if (status == 0) {
        status = capture_text(params, length, "label", out->label, sizeof(out->label), error);
    }
    if (status == 0 && out->name[0] != '\0') {
        status = kelpie__config_check_name(out->name, error);
    }
    return status;
}

/* What was left by the one before is forgotten. */
static void capture_reset(struct kelpie_capture *capture) {
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    KELPIE_ASSERT(!capture->is_holding);
    KELPIE_ASSERT(capture->snapshot.store == NULL);
    KELPIE_ASSERT(capture->files.device == KELPIE_OS_NO_HANDLE);
    capture->is_cancelled = false;
    capture->is_removed = false;
    capture->is_vmm_doubtful = false;
    capture->has_layer = false;
    capture->merged[0] = '\0';
    capture->stopped_ns = 0;
    capture->pause_us = 0;
    capture->saved = (struct kelpie_vmm_saved){0};
    capture->failure = (struct kelpie_error){0};
}

static void capture_make(struct kelpie_capture *capture, const char *name, const char *label) {
    struct kelpie_error error = {0};
    if (kelpie__capture_make(capture, name, label, &error) < 0) {
        kelpie__capture_reject(capture, &error);
    } else {
        kelpie__capture_begin(capture);
    }
}

void kelpie__capture_template(struct kelpie_capture *capture, const char *key) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(capture->is_template && capture->reply.client == 0);
    KELPIE_ASSERT(capture->monitor->lifecycle.state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(strlen(key) <= KELPIE_NAME_BYTES_MAX);
    capture_reset(capture);
    capture->was_running = true;
    capture->is_last = false;
    capture->is_synced = false; /* a cache */
    if (kelpie__pause_take(capture->monitor, "template", &error) < 0) {
        kelpie__capture_reject(capture, &error);
        return;
    }
    capture_make(capture, key, "");
}

void kelpie__capture_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length) {
    struct kelpie_capture *capture = &monitor->capture;
    struct kelpie_error error = {0};
    struct capture_order order;
    KELPIE_ASSERT(reply.client != 0);
    KELPIE_ASSERT(!capture->is_template);
    int status = capture_check(capture, &error);
    if (status == 0) {
        status = capture_read(capture, params, length, &order, &error);
    }
    if (status == 0) {
        status = kelpie__pause_take(monitor, "snapshot", &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    capture_reset(capture);
    capture->was_running = monitor->lifecycle.state == KELPIE_VM_RUNNING;
    capture->reply = reply;
    capture->is_last = order.is_last;
    capture->is_synced = order.is_synced;
    capture->is_transient = order.is_transient;
    kelpie__capture_check(capture);
    capture_make(capture, order.name, order.label);
}
