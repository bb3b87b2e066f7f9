/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See restore.h: the machine on its way, and how it takes the place of the one that the VM has.
 */
#include "monitor/restore.h"

#include <string.h>

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/lasting.h"

/* ---- the machine on its way ------------------------------------------------------------------ */

static void source_destroy(struct kelpie_os *os, struct kelpie_source *source) {
    if (source != NULL) {
        kelpie__source_close(source);
        kelpie__free(os, source, sizeof(*source));
    }
}

struct kelpie_candidate *kelpie__candidate_create(struct kelpie_monitor *monitor) {
    struct kelpie_candidate *candidate = kelpie__alloc(monitor->os, sizeof(*candidate));
    struct kelpie_source *source =
        kelpie__alloc_raw(monitor->os, sizeof(*source)); /* opened next */
    if (candidate == NULL || source == NULL) {
        kelpie__free(monitor->os, candidate, sizeof(*candidate));
        kelpie__free(monitor->os, source, sizeof(*source));
        return NULL;
    }
    candidate->console = KELPIE_OS_NO_HANDLE;
    candidate->source = source;
    kelpie__guest_init(&candidate->guest, monitor, &candidate->relay);
    kelpie__relay_init(&candidate->relay, monitor, &candidate->guest);
    KELPIE_ASSERT(candidate->guest.relay == &candidate->relay);
    KELPIE_ASSERT(candidate->relay.guest == &candidate->guest);
    return candidate;
}

void kelpie__restore_set_source(struct kelpie_restore *restore, struct kelpie_source *source) {
    struct kelpie_capture *capture = &restore->monitor->capture;
    KELPIE_ASSERT(source == NULL || source != restore->source);
    source_destroy(restore->monitor->os, restore->source);
    restore->source = source;
    capture->base = source != NULL ? source->base : KELPIE_OS_NO_HANDLE;
    kelpie__ignore(
        kelpie__text_copy(capture->kernel_digest, sizeof(capture->kernel_digest),
                          source != NULL ? source->snapshot.manifest.kernel_digest : ""));
    KELPIE_ASSERT(source == NULL || capture->base >= 0);
}

void kelpie__candidate_destroy(struct kelpie_monitor *monitor, struct kelpie_candidate *candidate,
                               const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    if (candidate->guest.phase != KELPIE_GUEST_NONE) {
        candidate->guest.done = NULL; /* whoever waited knows */
        kelpie__relay_forget_adopted(&candidate->relay);
        kelpie__guest_detach(&candidate->guest, why);
    }
    kelpie__relay_deinit(&candidate->relay);
    if (candidate->console >= 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, candidate->console)); /* it was only read */
    }
    kelpie__vmm_destroy(candidate->vmm);
    if (candidate->source != NULL) {
        kelpie__source_take_back(candidate->source);
        source_destroy(monitor->os, candidate->source);
    }
    kelpie__free(monitor->os, candidate, sizeof(*candidate));
}

/* ---- it takes the place ---------------------------------------------------------------------- */

static void restore_fill_record(const struct kelpie_restore *restore,
                                struct kelpie_vm_record *record) {
    const struct kelpie_candidate *candidate = restore->candidate;
    const struct kelpie_source *source = candidate->source;
    const struct kelpie_monitor *monitor = restore->monitor;
    KELPIE_ASSERT(source->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
#define COPY(field, text)                                                                          \
    kelpie__ignore(kelpie__text_copy(record->field, sizeof(record->field), text))
    COPY(backend, candidate->vmm->operations->name);
    COPY(pause, candidate->vmm->pause_kind);
    COPY(accelerator, kelpie__vmm_accelerator_name(source->description.accelerator));
    COPY(accelerator_reason, candidate->accelerator_reason);
    if (source->is_template) {
        COPY(origin, "template");
        COPY(kernel, monitor->prepare.kernel_found);
        COPY(parent, "");
        COPY(reason, "started from a template");
    } else {
        COPY(origin, "snapshot");
        COPY(kernel, monitor->config.kernel);
        COPY(parent, source->snapshot.manifest.id);
        kelpie__ignore(kelpie__text_format(record->reason, sizeof(record->reason),
                                           "restored from snapshot \"%s\"",
                                           source->snapshot.manifest.name));
        record->is_snapshot_used = true;
    }
#undef COPY
    record->layer_count = source->layer_count;
    memcpy(record->layers, source->layers, sizeof(record->layers));
    record->state =
        candidate->vmm->state == KELPIE_VMM_PAUSED ? KELPIE_VM_PAUSED : KELPIE_VM_RUNNING;
    record->changed_ms = kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    record->boot_us = (uint64_t)((monitor->loop->now_ns - restore->begun_ns) / KELPIE_NS_PER_US);
    record->monitor_pid = monitor->identity.pid;
    record->vmm_pid = candidate->vmm->pid;
}

/* The commands of the old machine end, and it does. */
static void restore_end_old(struct kelpie_restore *restore, const char *name) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_error why = {0};
    KELPIE_ASSERT(restore->is_in_place);
    KELPIE_ASSERT(monitor->lifecycle.vmm != NULL);
    kelpie__ignore(kelpie__fail(&why, KELPIE_E_CANCELLED, 0,
                                "the VM was restored from snapshot \"%s\", and nothing of what it "
                                "did since goes on",
                                name));
    kelpie__lifecycle_end_machine(&monitor->lifecycle, &why);
    kelpie__restore_set_source(restore, NULL);
    KELPIE_ASSERT(monitor->lifecycle.vmm == NULL);
}

static void restore_move_in(struct kelpie_restore *restore) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_candidate *candidate = restore->candidate;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(monitor->lifecycle.vmm == NULL);
    KELPIE_ASSERT(candidate->vmm != NULL);
    KELPIE_ASSERT(restore->source == NULL);
    kelpie__lifecycle_take_machine(&monitor->lifecycle, candidate->vmm, &candidate->spec);
    candidate->vmm = NULL;
    kelpie__guest_take(&monitor->guest, &candidate->guest);
    kelpie__relay_take(&monitor->relay, &candidate->relay);
    if (kelpie__console_log_attach(&monitor->console, candidate->console, &error) == 0) {
        candidate->console = KELPIE_OS_NO_HANDLE;
    } else { /* it lives without; its end is noticed all the same */
        kelpie__event_log_write(monitor, "notice", "%s", error.message);
    }
    kelpie__source_release(candidate->source);
    kelpie__restore_set_source(restore, candidate->source);
    candidate->source = NULL;
    restore->candidate = NULL;
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "it took its place"));
    KELPIE_ASSERT(monitor->guest.phase == KELPIE_GUEST_LIVE);
    kelpie__candidate_destroy(monitor, candidate, &error);
}

/* One rename decides. A disk that is on the wrong side of a crash of the host would be lost: what
 * has to outlive that has a file of its own, and state.json follows. */
static int restore_decide(struct kelpie_restore *restore, const struct kelpie_vm_record *record,
                          struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    struct kelpie_os *os = monitor->os;
    int directory = monitor->directory.vm;
    KELPIE_ASSERT(kelpie__state_is_live(record->state));
    KELPIE_ASSERT(record->vmm_pid == restore->candidate->vmm->pid);
    bool is_lasting =
        !monitor->config.is_ephemeral && kelpie__lasting_differs(record, &lifecycle->record);
    if (is_lasting) {
        int status = kelpie__lasting_write(os, directory, record, 0, error);
        if (status < 0) { /* its name may be there: what is in force is written again */
            kelpie__ignore(kelpie__lasting_write(os, directory, &lifecycle->record,
                                                 lifecycle->record.layer_count, NULL));
            return status;
        }
    }
    int status = kelpie__record_write(os, directory, record, false, error);
    if (status < 0 && is_lasting) {
        KELPIE_REACHED(os, "a restore was decided whose state could not be written");
        kelpie__lifecycle_unsaved(lifecycle);
        return 0; /* written again until it succeeds */
    }
    return status;
}

int kelpie__restore_take_place(struct kelpie_restore *restore, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    KELPIE_ASSERT(restore->candidate->guest.phase == KELPIE_GUEST_LIVE);
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_ARRIVING);
    KELPIE_ASSERT(restore->failure.code == 0);
    struct kelpie_vm_record *record = kelpie__alloc(monitor->os, sizeof(*record));
    if (record == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the VM's record");
    }
    *record = lifecycle->record;
    restore_fill_record(restore, record);
    int status = restore_decide(restore, record, error);
    if (status == 0) {
        lifecycle->record = *record;
    }
    kelpie__free(monitor->os, record, sizeof(*record));
    if (status < 0) {
        return status;
    }
    if (restore->is_in_place) {
        restore_end_old(restore, restore->candidate->source->snapshot.manifest.name);
    }
    restore_move_in(restore);
    KELPIE_ASSERT(restore->candidate == NULL);
    KELPIE_ASSERT(restore->source != NULL);
    return 0;
}
