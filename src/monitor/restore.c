/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See restore.h: the sequence. Every step ends in the next one or in kelpie__restore_fail
 * (restore_end.c). restore_place.c has the machine itself, and how it takes the VM's place.
 */
#include "monitor/restore.h"
#include "monitor/backend.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/sums.h"
#include "wire/wire.h"

#define RESTORE_CHECK_TIMEOUT_NS (KELPIE_RESTORE_CHECK_TIMEOUT_MS * KELPIE_NS_PER_MS)
#define RESTORE_TEMPLATE_TIMEOUT_NS (KELPIE_TEMPLATE_TIMEOUT_MS * KELPIE_NS_PER_MS)

void kelpie__restore_init(struct kelpie_restore *restore, struct kelpie_monitor *monitor) {
    *restore = (struct kelpie_restore){.monitor = monitor, .phase = KELPIE_RESTORE_IDLE};
    kelpie__child_init(&restore->child, monitor->os, monitor->loop);
    kelpie__restore_check(restore);
}

bool kelpie__restore_is_idle(const struct kelpie_restore *restore) {
    return restore->phase == KELPIE_RESTORE_IDLE;
}

/* ---- it takes the place ---------------------------------------------------------------------- */

/* Whoever waits has been told: what later snapshots need takes a millisecond on a disk. */
static void restore_keep(void *context) {
    struct kelpie_restore *restore = context;
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_source *source = restore->source;
    kelpie__source_sweep(monitor, &monitor->lifecycle.record);
    if (source == NULL) {
        return; /* it has ended meanwhile */
    }
    if (source->snapshot.directory >= 0) {
        kelpie__sums_keep(monitor->os, monitor->directory.vm, source->snapshot.directory,
                          &source->snapshot.manifest);
    }
    if (!source->is_template) {
        kelpie__source_settle(source);
    }
}

static void restore_arrived(struct kelpie_restore *restore) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    enum kelpie_vm_state next = lifecycle->record.state;
    bool is_in_place = restore->is_in_place;
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_ARRIVING);
    KELPIE_ASSERT(restore->candidate == NULL);
    KELPIE_ASSERT(kelpie__state_is_live(next));
    kelpie__restore_disarm(restore);
    kelpie__restore_idle(restore);
    bool is_fork = restore->source != NULL && kelpie__source_is_transient(restore->source);
    if (is_fork) { /* whoever made it removes the snapshot as soon as he hears of it */
        restore_keep(restore);
    }
    kelpie__lifecycle_arrived(lifecycle, next);
    if (is_in_place) {
        kelpie__reply_result(monitor, &restore->reply, "{}");
        kelpie__pause_give_back(&monitor->pause);
    } else {
        restore->reply = (struct kelpie_reply){0};
        kelpie__pause_changed(&monitor->pause); /* the VMM may have stopped it meanwhile */
    }
    if (!is_fork) { /* behind the answer, which is sent in the next step */
        kelpie__timer_arm(monitor->loop, &restore->keep_timer, monitor->loop->now_ns, restore_keep,
                          restore);
    }
    kelpie__restore_check(restore);
}

/* From the loop, so that nothing of the new machine is in the middle of a call. */
static void restore_switch(void *context) {
    struct kelpie_restore *restore = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_ARRIVING);
    kelpie__restore_check(restore);
    if (kelpie__restore_gives_way(restore)) {
        return;
    }
    if (kelpie__restore_take_place(restore, &error) < 0) {
        kelpie__restore_fail_as(restore, &error, NULL);
    } else {
        restore_arrived(restore);
    }
}

/* ---- the new machine comes up ---------------------------------------------------------------- */

static void restore_arrive(struct kelpie_restore *restore) {
    struct kelpie_loop *loop = restore->monitor->loop;
    kelpie__restore_enter(restore, KELPIE_RESTORE_ARRIVING);
    kelpie__timer_arm(loop, &restore->step_timer, loop->now_ns, restore_switch, restore);
}

static void restore_paused(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_restore *restore = context;
    if (restore->phase != KELPIE_RESTORE_PAUSING) {
        return; /* given up */
    }
    if (status < 0) {
        kelpie__restore_fail_as(restore, error, "pause the restored VM as it was saved");
    } else {
        restore_arrive(restore);
    }
}

static void restore_quieted(void *context, const struct kelpie_error *error) {
    struct kelpie_restore *restore = context;
    struct kelpie_error why = {0};
    if (restore->phase != KELPIE_RESTORE_QUIETING) {
        return;
    }
    if (error != NULL) {
        kelpie__restore_fail_as(restore, error, "pause the restored VM as it was saved");
        return;
    }
    kelpie__restore_enter(restore, KELPIE_RESTORE_PAUSING);
    KELPIE_ASSERT(restore->candidate->source->snapshot.manifest.is_paused);
    struct kelpie_vmm *vmm = restore->candidate->vmm;
    int status = vmm->state == KELPIE_VMM_RUNNING
                     ? kelpie__vmm_pause(vmm, restore_paused, restore, &why)
                     : kelpie__fail(&why, KELPIE_E_RESTORE, 0, "it paused by itself");
    if (status < 0) {
        kelpie__restore_fail_as(restore, &why, "pause the restored VM as it was saved");
    }
}

static void restore_greeted(void *context, const struct kelpie_error *error) {
    struct kelpie_restore *restore = context;
    struct kelpie_error why = {0};
    if (restore->phase != KELPIE_RESTORE_GREETING) {
        return;
    }
    if (error != NULL) {
        kelpie__restore_fail_as(restore, error, NULL);
        return;
    }
    KELPIE_ASSERT(restore->candidate->guest.phase == KELPIE_GUEST_LIVE);
    if (!restore->candidate->source->snapshot.manifest.is_paused) {
        restore_arrive(restore);
        return;
    }
    kelpie__restore_enter(restore, KELPIE_RESTORE_QUIETING);
    if (kelpie__guest_quiesce(&restore->candidate->guest, restore_quieted, restore, &why) < 0) {
        kelpie__restore_fail_as(restore, &why, "pause the restored VM as it was saved");
    }
}

static void restore_awake(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_restore *restore = context;
    if (restore->phase != KELPIE_RESTORE_WAKING) {
        return;
    }
    if (status < 0) {
        kelpie__restore_fail_as(restore, error, "let the restored VM run");
        return;
    }
    kelpie__restore_enter(restore, KELPIE_RESTORE_GREETING);
    kelpie__guest_greet(&restore->candidate->guest, restore_greeted, restore);
}

static void restore_wake(struct kelpie_restore *restore) {
    KELPIE_ASSERT(restore->candidate->vmm != NULL);
    KELPIE_ASSERT(restore->candidate->vmm->is_restored);
    struct kelpie_error error = {0};
    kelpie__restore_enter(restore, KELPIE_RESTORE_WAKING);
    if (kelpie__vmm_resume(restore->candidate->vmm, restore_awake, restore, &error) < 0) {
        kelpie__restore_fail_as(restore, &error, "let the restored VM run");
    }
}

static void restore_stilled(void *context, int status, const struct kelpie_error *error) {
    kelpie__restore_check(context);
    struct kelpie_restore *restore = context;
    restore->is_old_stilled = restore->is_in_place && status == 0;
    restore->is_stilling = false;
    if (restore->phase == KELPIE_RESTORE_RETURNING) {
        kelpie__restore_return(restore); /* the new machine ended first */
        return;
    }
    if (restore->phase != KELPIE_RESTORE_STILLING) {
        return;
    }
    KELPIE_ASSERT(restore->is_in_place);
    if (status < 0) {
        kelpie__restore_fail_as(restore, error, "let the VM stand still meanwhile");
    } else if (!kelpie__restore_gives_way(restore)) {
        restore_wake(restore);
    }
}

/* The new VMM has loaded all and stands still; so does the old one, from here on. */
static void restore_loaded(struct kelpie_restore *restore) {
    struct kelpie_lifecycle *lifecycle = &restore->monitor->lifecycle;
    struct kelpie_error error = {0};
    if (restore->phase != KELPIE_RESTORE_LOADING || kelpie__restore_gives_way(restore)) {
        return;
    }
    if (!restore->is_in_place || lifecycle->vmm->state == KELPIE_VMM_PAUSED) {
        restore_wake(restore);
        return;
    }
    KELPIE_ASSERT(!restore->is_stilling);
    KELPIE_ASSERT(!restore->is_old_stilled);
    kelpie__restore_enter(restore, KELPIE_RESTORE_STILLING);
    restore->is_stilling = true;
    if (kelpie__vmm_pause(lifecycle->vmm, restore_stilled, restore, &error) < 0) {
        restore->is_stilling = false;
        kelpie__restore_fail_as(restore, &error, "let the VM stand still meanwhile");
    }
}

static void restore_vmm_event(void *context, const struct kelpie_vmm_event *event) {
    struct kelpie_restore *restore = context;
    KELPIE_ASSERT(restore->candidate != NULL);
    switch (event->type) {
    case KELPIE_VMM_EVENT_STARTED:
        kelpie__stages_reach(restore->monitor, KELPIE_STAGE_MACHINE);
        restore_loaded(restore);
        break;
    case KELPIE_VMM_EVENT_WAITING:
    case KELPIE_VMM_EVENT_AGENT: /* no driver that dials can restore */
    case KELPIE_VMM_EVENT_PAUSED:
    case KELPIE_VMM_EVENT_RESUMED:
        break; /* who asked for it is told */
    case KELPIE_VMM_EVENT_ENDED:
        kelpie__restore_vmm_ended(restore, event->end);
        break;
    }
}

/* The VMM that was started for it in advance, or a new one. */
static int restore_start_vmm(struct kelpie_restore *restore, struct kelpie_vmm_started *out,
                             struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_candidate *candidate = restore->candidate;
    const struct kelpie_vmm_create create = {.os = monitor->os,
                                             .loop = monitor->loop,
                                             .callback = restore_vmm_event,
                                             .context = restore};
    KELPIE_ASSERT(candidate->vmm == NULL);
    KELPIE_ASSERT(candidate->spec.restore != NULL);
    if (kelpie__waiting_take(&monitor->waiting, candidate, restore_vmm_event, restore, out)) {
        return 0;
    }
    int status =
        kelpie__vmm_create(kelpie__vmm_driver(monitor->backend), &create, &candidate->vmm, error);
    return status < 0 ? status : kelpie__vmm_start(candidate->vmm, &candidate->spec, out, error);
}

static int restore_spawn(struct kelpie_restore *restore, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_candidate *candidate = restore->candidate;
    struct kelpie_vmm_started started;
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_LOADING);
    KELPIE_ASSERT(candidate->console == KELPIE_OS_NO_HANDLE);
    int status = kelpie__source_prepare(candidate->source, &candidate->spec, error);
    kelpie__stages_reach(monitor, KELPIE_STAGE_VMM);
    if (status == 0) {
        status = restore_start_vmm(restore, &started, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(candidate->vmm != NULL);
    KELPIE_ASSERT(started.agent >= 0);
    candidate->console = started.console;
    kelpie__ignore(kelpie__text_copy(candidate->accelerator_reason,
                                     sizeof(candidate->accelerator_reason),
                                     started.accelerator_reason));
    kelpie__os_label(monitor->os, started.agent, "agent");
    kelpie__member_ease(&monitor->member, candidate->vmm->pid);
    kelpie__relay_begin(&candidate->relay);
    status = kelpie__guest_attach_restored(&candidate->guest, started.agent,
                                           &candidate->source->continuity, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, started.agent)); /* nothing was said on it */
    }
    return status;
}

static void restore_timed_out(void *context) {
    struct kelpie_restore *restore = context;
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_RESTORE, 0,
                                "the saved VM did not come back within %llu ms",
                                (unsigned long long)restore->timeout_ms));
    kelpie__restore_fail(restore, &error);
}

static void restore_load(struct kelpie_restore *restore) {
    struct kelpie_loop *loop = restore->monitor->loop;
    struct kelpie_error error = {0};
    if (kelpie__restore_gives_way(restore)) {
        return;
    }
    kelpie__restore_enter(restore, KELPIE_RESTORE_LOADING);
    KELPIE_ASSERT(restore->timeout_ms > 0);
    restore->begun_ns = loop->now_ns;
    kelpie__timer_arm(loop, &restore->timer, kelpie__loop_deadline(loop, restore->timeout_ms),
                      restore_timed_out, restore);
    if (restore_spawn(restore, &error) < 0) {
        kelpie__restore_fail_as(restore, &error, NULL);
    }
}

/* ---- the snapshot ---------------------------------------------------------------------------- */

static void restore_checked(void *context, enum kelpie_child_end end, int32_t value,
                            const char *text) {
    struct kelpie_restore *restore = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_CHECKING);
    KELPIE_ASSERT(restore->candidate != NULL);
    KELPIE_ASSERT(!kelpie__child_is_running(&restore->child));
    if (end == KELPIE_CHILD_EXITED && value == 0) {
        restore_load(restore);
        return;
    }
    if (end != KELPIE_CHILD_EXITED || !kelpie__worker_read_error(text, strlen(text), &error)) {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_RESTORE, 0,
                         "the snapshot could not be checked: the process that does it %s %d: %s",
                         end == KELPIE_CHILD_EXITED   ? "ended with code"
                         : end == KELPIE_CHILD_KILLED ? "was killed by signal"
                                                      : "took too long and was killed by signal",
                         value, text));
    }
    kelpie__restore_fail_as(restore, &error, NULL);
}

static int restore_check_files(struct kelpie_restore *restore, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    const struct kelpie_source *source = restore->candidate->source;
    char program[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_CHECKING);
    KELPIE_ASSERT(source->snapshot.directory >= 0);
    if (!kelpie__text_join(program, sizeof(program), monitor->options.libexec_directory,
                           "kelpie-monitor")) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of kelpie-monitor is too long");
    }
    const char *const argv[] = {program,
                                KELPIE_WORKER_OPTION,
                                KELPIE_WORKER_VERIFY,
                                "--store",
                                source->store.path,
                                "--entry",
                                source->snapshot.entry,
                                "--vm",
                                monitor->options.vm_directory,
                                "--root",
                                "",
                                "--kernel",
                                "",
                                NULL};
    const struct kelpie_child_order order = {.argv = argv,
                                             .timeout_ns = restore->is_template
                                                               ? RESTORE_TEMPLATE_TIMEOUT_NS
                                                               : RESTORE_CHECK_TIMEOUT_NS};
    return kelpie__child_start(&restore->child, &order, restore_checked, restore, error);
}

/* The phase is Checking, and nothing was done yet; a failure is the caller's to report. */
static int restore_open(struct kelpie_restore *restore, const char *name,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(restore->candidate == NULL);
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_CHECKING);
    kelpie__source_sweep(restore->monitor, &restore->monitor->lifecycle.record);
    restore->candidate = kelpie__candidate_create(restore->monitor);
    if (restore->candidate == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a restored VM");
    }
    return kelpie__source_open(restore->candidate->source, restore->monitor, name,
                               restore->is_template, error);
}

static void restore_begin(struct kelpie_restore *restore, const char *name) {
    struct kelpie_error error = {0};
    kelpie__restore_enter(restore, KELPIE_RESTORE_CHECKING);
    restore->failure = (struct kelpie_error){0};
    kelpie__restore_check(restore);
    int status = restore_open(restore, name, &error);
    if (status < 0 && restore->candidate == NULL) {
        restore->failure = error;
        kelpie__restore_refuse(restore);
        return;
    }
    if (status == 0 && (kelpie__source_is_ready(restore->candidate->source) ||
                        KELPIE_CANARY(restore->monitor->os, 6))) {
        restore_load(restore);
        return;
    }
    if (status == 0) {
        status = restore_check_files(restore, &error);
    }
    if (status < 0) {
        kelpie__restore_fail_as(restore, &error, NULL);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

void kelpie__restore_start(struct kelpie_monitor *monitor, const char *snapshot,
                           uint64_t timeout_ms) {
    struct kelpie_restore *restore = &monitor->restore;
    kelpie__restore_check(restore);
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_IDLE);
    KELPIE_ASSERT(monitor->lifecycle.state == KELPIE_VM_STARTING);
    restore->is_in_place = false;
    restore->timeout_ms = timeout_ms;
    restore_begin(restore, snapshot);
}

void kelpie__restore_start_template(struct kelpie_monitor *monitor, const char *key) {
    struct kelpie_restore *restore = &monitor->restore;
    kelpie__restore_check(restore);
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_IDLE);
    restore->is_template = true;
    kelpie__restore_start(monitor, key, KELPIE_TEMPLATE_TIMEOUT_MS);
}

static int restore_check_request(struct kelpie_restore *restore, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = restore->monitor;
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    const char *name = monitor->config.name;
    int status = kelpie__state_allow(lifecycle->state, KELPIE_VERB_RESTORE, name, error);
    if (status < 0) {
        return status;
    }
    if (restore->phase != KELPIE_RESTORE_IDLE || monitor->capture.phase != KELPIE_CAPTURE_IDLE) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "restore: VM \"%s\" is being %s", name,
                            restore->phase != KELPIE_RESTORE_IDLE ? "restored" : "saved");
    }
    KELPIE_ASSERT(!restore->is_in_place);
    return kelpie__backend_can_restore(monitor, error);
}

/* A fork that waited learns only now what it is made of: as if it had been created with that. */
static void restore_adopt_transient(struct kelpie_restore *restore, const char *params,
                                    size_t length, const char *name) {
    struct kelpie_config_values *config = &restore->monitor->config;
    bool is_transient = false;
    KELPIE_ASSERT(restore->phase == KELPIE_RESTORE_IDLE);
    kelpie__ignore(kelpie__json_find_bool(params, length, "transient", &is_transient));
    if (is_transient) {
        kelpie__ignore(kelpie__text_copy(config->snapshot, sizeof(config->snapshot), name));
        config->is_snapshot_transient = true;
    }
}

void kelpie__restore_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length) {
    KELPIE_ASSERT(reply.client != 0);
    struct kelpie_restore *restore = &monitor->restore;
    struct kelpie_error error = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1] = "";
    uint64_t timeout_ms = 0;
    kelpie__ignore(kelpie__json_find_string(params, length, "snapshot", name, sizeof(name)));
    kelpie__ignore(kelpie__json_find_u64(params, length, "timeout_ms", &timeout_ms));
    timeout_ms = timeout_ms == 0 ? monitor->config.boot_timeout_ms : timeout_ms;
    int status = restore_check_request(restore, &error);
    if (status == 0 && !kelpie__state_is_live(monitor->lifecycle.state)) {
        restore_adopt_transient(restore, params, length, name);
        kelpie__lifecycle_start_from(monitor, reply, name, timeout_ms);
        return;
    }
    if (status == 0) {
        status = kelpie__pause_take(monitor, "restore", &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    restore->reply = reply;
    KELPIE_ASSERT(monitor->lifecycle.vmm != NULL);
    KELPIE_ASSERT(monitor->pause.phase == KELPIE_PAUSE_TAKEN);
    restore->is_in_place = true;
    restore->timeout_ms = kelpie__min_u64(timeout_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
    if (KELPIE_CANARY(monitor->os, 12)) {
        kelpie__vmm_kill(monitor->lifecycle.vmm);
    }
    restore_begin(restore, name);
}
