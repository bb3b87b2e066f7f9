/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The state, its record, and the start: see lifecycle.h. lifecycle_stop.c has stop, kill and
 * delete, lifecycle_end.c what a VMM's end means, pause.c pause and resume.
 */
#include "monitor/lifecycle.h"

#include <string.h>

#include "core/text.h"
#include "monitor/backend.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/lasting.h"

#define LIFECYCLE_SAVE_RETRY_NS (100 * KELPIE_NS_PER_MS)
/* less than what the library adds to the deadlines of its calls */
#define LIFECYCLE_TRIAL_MORE_NS (4 * KELPIE_NS_PER_S)
#define LIFECYCLE_SILENCE_NS (4 * KELPIE_NS_PER_S)

void kelpie__lifecycle_check(const struct kelpie_lifecycle *lifecycle) {
    const struct kelpie_vm_record *record = &lifecycle->record;
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    KELPIE_ASSERT(lifecycle->spec.disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    if (lifecycle->vmm != NULL) {
        KELPIE_ASSERT(kelpie__state_is_live(lifecycle->state));
    } else {
        KELPIE_ASSERT(!lifecycle->is_trial);
        KELPIE_ASSERT(!lifecycle->is_stopping);
    }
    if (lifecycle->state == KELPIE_VM_RUNNING || lifecycle->state == KELPIE_VM_PAUSED) {
        KELPIE_ASSERT(lifecycle->vmm != NULL);
    }
    if (lifecycle->has_failure) {
        KELPIE_ASSERT(lifecycle->failure.code < 0);
    }
    if (lifecycle->is_doubted) {
        KELPIE_ASSERT(lifecycle->is_unsaved);
        KELPIE_ASSERT(lifecycle->doubt >= 0);
    }
}

struct kelpie_lifecycle *kelpie__lifecycle_of(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    KELPIE_ASSERT(lifecycle->monitor == monitor);
    KELPIE_ASSERT(lifecycle->vmm == NULL || kelpie__state_is_live(lifecycle->state));
    return lifecycle;
}

/* ---- the record ------------------------------------------------------------------------------ */

static void lifecycle_open_doubt(struct kelpie_lifecycle *lifecycle) {
    int handle = kelpie__vm_directory_open_doubt(&lifecycle->monitor->directory);
    lifecycle->doubt = handle < 0 ? KELPIE_OS_NO_HANDLE : handle;
    lifecycle->is_doubted = false;
}

static void lifecycle_close_doubt(struct kelpie_lifecycle *lifecycle) {
    if (lifecycle->doubt >= 0) { /* with its lock */
        kelpie__ignore(kelpie__os_close(lifecycle->monitor->os, lifecycle->doubt));
    }
    lifecycle->doubt = KELPIE_OS_NO_HANDLE;
}

static void lifecycle_doubt(struct kelpie_lifecycle *lifecycle) {
    KELPIE_ASSERT(lifecycle->is_unsaved);
    if (lifecycle->doubt < 0) {
        lifecycle_open_doubt(lifecycle);
    }
    if (!lifecycle->is_doubted && lifecycle->doubt >= 0) {
        lifecycle->is_doubted =
            kelpie__vm_directory_doubt(&lifecycle->monitor->directory, lifecycle->doubt) == 0;
    }
}

void kelpie__lifecycle_settle(struct kelpie_lifecycle *lifecycle) {
    if (lifecycle->is_doubted) {
        KELPIE_ASSERT(lifecycle->is_unsaved);
        lifecycle_close_doubt(lifecycle);
        lifecycle_open_doubt(lifecycle);
    }
    if (lifecycle->is_unsaved) {
        lifecycle->is_unsaved = false;
        kelpie__timer_disarm(lifecycle->monitor->loop, &lifecycle->save_timer);
        kelpie__clients_silence(&lifecycle->monitor->clients, false);
    }
}

int kelpie__lifecycle_save(struct kelpie_lifecycle *lifecycle, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_vm_record *record = &lifecycle->record;
    kelpie__lifecycle_check(lifecycle);
    record->state = lifecycle->state;
    record->changed_ms = kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    record->monitor_pid = kelpie__state_is_live(lifecycle->state) ? monitor->identity.pid : 0;
    const struct kelpie_vmm *vmm =
        lifecycle->vmm != NULL ? lifecycle->vmm : monitor->waiting.vmm; /* of a fork */
    record->vmm_pid = vmm != NULL ? vmm->pid : 0;
    int status = kelpie__record_write(monitor->os, monitor->directory.vm, record, false, error);
    if (status == 0) {
        kelpie__lifecycle_settle(lifecycle);
    }
    KELPIE_ASSERT(status < 0 || !lifecycle->is_unsaved);
    return status;
}

static void lifecycle_save_again(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    struct kelpie_loop *loop = lifecycle->monitor->loop;
    KELPIE_ASSERT(lifecycle->is_unsaved);
    if (kelpie__lifecycle_save(lifecycle, NULL) == 0) {
        KELPIE_ASSERT(!lifecycle->is_unsaved);
        return;
    }
    lifecycle_doubt(lifecycle);
    if (loop->now_ns >= lifecycle->silence_end_ns) {
        kelpie__clients_silence(&lifecycle->monitor->clients, false);
    }
    kelpie__timer_arm(loop, &lifecycle->save_timer, loop->now_ns + LIFECYCLE_SAVE_RETRY_NS,
                      lifecycle_save_again, lifecycle);
}

int kelpie__lifecycle_save_layers(struct kelpie_lifecycle *lifecycle, uint32_t known_count,
                                  struct kelpie_error *error) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(known_count <= lifecycle->record.layer_count);
    KELPIE_ASSERT(lifecycle->record.layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    return monitor->config.is_ephemeral
               ? kelpie__lifecycle_save(lifecycle, error)
               : kelpie__lasting_write(monitor->os, monitor->directory.vm, &lifecycle->record,
                                       known_count, error);
}

void kelpie__lifecycle_unsaved(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_loop *loop = lifecycle->monitor->loop;
    if (!lifecycle->is_unsaved) {
        lifecycle->is_unsaved = true;
        lifecycle_doubt(lifecycle);
        lifecycle->silence_end_ns = loop->now_ns + LIFECYCLE_SILENCE_NS;
        kelpie__clients_silence(&lifecycle->monitor->clients, true);
        kelpie__timer_arm(loop, &lifecycle->save_timer, loop->now_ns + LIFECYCLE_SAVE_RETRY_NS,
                          lifecycle_save_again, lifecycle);
    }
}

void kelpie__lifecycle_change(struct kelpie_lifecycle *lifecycle, enum kelpie_vm_state next,
                              const char *reason) {
    struct kelpie_error error = {0};
    kelpie__state_change(&lifecycle->state, next);
    kelpie__ignore(
        kelpie__text_copy(lifecycle->record.reason, sizeof(lifecycle->record.reason), reason));
    if (kelpie__lifecycle_save(lifecycle, &error) < 0) {
        KELPIE_REACHED(lifecycle->monitor->os, "a state could not be written");
        kelpie__lifecycle_unsaved(lifecycle);
        kelpie__event_log_write(lifecycle->monitor, "notice", "%s", error.message);
    }
    kelpie__event_log_write(lifecycle->monitor, "state", "%s", reason);
    KELPIE_ASSERT(lifecycle->record.state == next);
}

int kelpie__lifecycle_init(struct kelpie_lifecycle *lifecycle, struct kelpie_monitor *monitor,
                           struct kelpie_error *error) {
    lifecycle->monitor = monitor;
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    int status = kelpie__record_read(monitor->os, monitor->directory.vm, &lifecycle->record, error);
    if (status < 0) {
        return status;
    }
    if (!monitor->config.is_ephemeral) {
        status =
            kelpie__lasting_read(monitor->os, monitor->directory.vm, &lifecycle->record, error);
        kelpie__record_read_boot_id(monitor->os, lifecycle->record.boot_id);
    }
    if (status < 0) {
        return status;
    }
    lifecycle->state = lifecycle->record.state;
    lifecycle_open_doubt(lifecycle);
    if (kelpie__state_is_live(lifecycle->state)) { /* whoever started us has recovered it */
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0, "the VM is %s without a monitor",
                            kelpie_vm_state_name(lifecycle->state));
    }
    kelpie__lifecycle_check(lifecycle);
    return 0;
}

void kelpie__lifecycle_disarm(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_loop *loop = lifecycle->monitor->loop;
    kelpie__timer_disarm(loop, &lifecycle->boot_timer);
    kelpie__timer_disarm(loop, &lifecycle->trial_timer);
    kelpie__timer_disarm(loop, &lifecycle->stop_timer);
    kelpie__timer_disarm(loop, &lifecycle->closed_timer);
}

void kelpie__lifecycle_deinit(struct kelpie_lifecycle *lifecycle) {
    kelpie__lifecycle_disarm(lifecycle);
    kelpie__timer_disarm(lifecycle->monitor->loop, &lifecycle->save_timer);
    lifecycle_close_doubt(lifecycle);
    kelpie__vmm_destroy(lifecycle->vmm);
    lifecycle->vmm = NULL;
}

/* ---- who waits ------------------------------------------------------------------------------- */

static void lifecycle_guest_dialled(struct kelpie_lifecycle *lifecycle, int stream) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(monitor->guest.phase == KELPIE_GUEST_NONE);
    if (kelpie__guest_attach(&monitor->guest, stream, &error) < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, stream));
        kelpie__lifecycle_fail(monitor, &error);
    }
}

static void lifecycle_vmm_event(void *context, const struct kelpie_vmm_event *event) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT((event->type == KELPIE_VMM_EVENT_ENDED) == (event->end != NULL));
    switch (event->type) {
    case KELPIE_VMM_EVENT_STARTED:
        lifecycle->is_vmm_up = true;
        kelpie__stages_reach(lifecycle->monitor, KELPIE_STAGE_MACHINE);
        if (KELPIE_CANARY(lifecycle->monitor->os, 1)) {
            kelpie__lifecycle_guest_live(lifecycle->monitor);
        }
        break;
    case KELPIE_VMM_EVENT_WAITING: /* of one that the restore gave nothing to load */
        break;
    case KELPIE_VMM_EVENT_AGENT:
        lifecycle_guest_dialled(lifecycle, event->agent);
        break;
    case KELPIE_VMM_EVENT_RESUMED:
        kelpie__capture_ran(&lifecycle->monitor->capture);
        kelpie__pause_changed(&lifecycle->monitor->pause);
        break;
    case KELPIE_VMM_EVENT_PAUSED:
        kelpie__pause_changed(&lifecycle->monitor->pause);
        break;
    case KELPIE_VMM_EVENT_ENDED:
        kelpie__lifecycle_ended(lifecycle, event->end);
        break;
    }
}

/* ---- start ----------------------------------------------------------------------------------- */

static void lifecycle_boot_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->boot_deadline_ns > lifecycle->start_ns);
    kelpie__ignore(kelpie__fail(
        &error, KELPIE_E_BOOT_TIMEOUT, 0,
        "the guest did not say hello within its boot timeout of %lld ms; give a longer one",
        (long long)((lifecycle->boot_deadline_ns - lifecycle->start_ns) / KELPIE_NS_PER_MS)));
    if (lifecycle->vmm == NULL) {
        kelpie__lifecycle_start_failed(lifecycle, &error);
        return;
    }
    KELPIE_REACHED(lifecycle->monitor->os, "a boot timed out with its VMM alive");
    lifecycle->is_trial = false; /* no time is left for the other accelerator */
    kelpie__timer_disarm(lifecycle->monitor->loop, &lifecycle->trial_timer);
    kelpie__lifecycle_fail(lifecycle->monitor, &error);
}

/* On a host whose KVM goes nowhere the guest never says a word. One that has begun to speak is only
 * slow, as KVM within a VM is, and goes on as long as it has more to say. */
static void lifecycle_trial_timed_out(void *context) {
    struct kelpie_lifecycle *lifecycle = context;
    KELPIE_ASSERT(lifecycle->is_trial);
    KELPIE_ASSERT(!lifecycle->is_trial_lost);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    uint64_t said_bytes = lifecycle->monitor->console.tail.total_bytes;
    if (said_bytes > lifecycle->trial_said_bytes) {
        KELPIE_REACHED(lifecycle->monitor->os, "a trial of KVM goes on, for the guest speaks");
        lifecycle->trial_said_bytes = said_bytes;
        kelpie__timer_arm(lifecycle->monitor->loop, &lifecycle->trial_timer,
                          lifecycle->monitor->loop->now_ns + LIFECYCLE_TRIAL_MORE_NS,
                          lifecycle_trial_timed_out, lifecycle);
        return;
    }
    KELPIE_REACHED(lifecycle->monitor->os, "a trial of KVM timed out");
    lifecycle->is_trial_lost = true;
    kelpie__vmm_kill(lifecycle->vmm);
}

/* Gives the started VMM's streams to their parts. */
static int lifecycle_attach(struct kelpie_lifecycle *lifecycle,
                            const struct kelpie_vmm_started *started, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    KELPIE_ASSERT(started->console >= 0);
    int status = kelpie__console_log_attach(&monitor->console, started->console, error);
    if (status < 0) {
        KELPIE_REACHED(monitor->os, "the console of a new VMM could not be attached");
        kelpie__ignore(kelpie__os_close(monitor->os, started->console));
        if (started->agent != KELPIE_OS_NO_HANDLE) {
            kelpie__ignore(kelpie__os_close(monitor->os, started->agent));
        }
        return status;
    }
    if (started->agent == KELPIE_OS_NO_HANDLE) {
        return 0; /* the guest dials */
    }
    kelpie__os_label(monitor->os, started->agent, "agent");
    kelpie__member_ease(&monitor->member, lifecycle->vmm->pid);
    status = kelpie__guest_attach(&monitor->guest, started->agent, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, started->agent));
    }
    return status;
}

static void lifecycle_launched(struct kelpie_lifecycle *lifecycle,
                               const struct kelpie_vmm_started *started) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_vm_record *record = &lifecycle->record;
    KELPIE_ASSERT(started->accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    KELPIE_ASSERT(lifecycle->vmm->state != KELPIE_VMM_NEW);
    kelpie__ignore(kelpie__text_copy(record->accelerator, sizeof(record->accelerator),
                                     kelpie__vmm_accelerator_name(started->accelerator)));
    kelpie__ignore(kelpie__text_copy(record->accelerator_reason, sizeof(record->accelerator_reason),
                                     started->accelerator_reason));
    kelpie__ignore(kelpie__text_copy(record->backend, sizeof(record->backend),
                                     lifecycle->vmm->operations->name));
    kelpie__ignore(
        kelpie__text_copy(record->pause, sizeof(record->pause), lifecycle->vmm->pause_kind));
    kelpie__ignore(
        kelpie__text_copy(record->kernel, sizeof(record->kernel), monitor->prepare.kernel_found));
    kelpie__ignore(kelpie__text_copy(record->origin, sizeof(record->origin), "boot"));
    lifecycle->is_trial = started->trial_ns != 0;
    lifecycle->trial_said_bytes = 0;
    if (lifecycle->is_trial) {
        kelpie__timer_arm(monitor->loop, &lifecycle->trial_timer,
                          monitor->loop->now_ns + started->trial_ns, lifecycle_trial_timed_out,
                          lifecycle);
    }
    kelpie__relay_begin(&monitor->relay);
}

static void lifecycle_add_shares(struct kelpie_lifecycle *lifecycle) {
    const struct kelpie_config_values *config = &lifecycle->monitor->config;
    static_assert(KELPIE_SHARE_COUNT_MAX <= KELPIE_VMM_SHARE_COUNT_MAX, "all have their place");
    KELPIE_ASSERT(config->share_count <= KELPIE_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < config->share_count; i += 1) {
        const struct kelpie_config_share *share = &config->shares[i];
        lifecycle->shares[i] =
            (struct kelpie_vmm_share){.path = kelpie__config_share_text(config, share->host),
                                      .tag = kelpie__config_share_text(config, share->tag),
                                      .is_read_only = share->is_read_only};
    }
    lifecycle->spec.shares = lifecycle->shares;
    lifecycle->spec.share_count = config->share_count;
}

void kelpie__lifecycle_launch(struct kelpie_lifecycle *lifecycle,
                              enum kelpie_vmm_accelerator accelerator) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    struct kelpie_error error = {0};
    struct kelpie_vmm_started started;
    const struct kelpie_vmm_create create = {.os = monitor->os,
                                             .loop = monitor->loop,
                                             .callback = lifecycle_vmm_event,
                                             .context = lifecycle};
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(monitor->guest.phase == KELPIE_GUEST_NONE);
    lifecycle->is_vmm_up = false;
    kelpie__stages_reach(monitor, KELPIE_STAGE_VMM);
    kelpie__prepare_spec(&monitor->prepare, &lifecycle->spec, lifecycle->disks);
    KELPIE_ASSERT(lifecycle->spec.disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    lifecycle->spec.accelerator = accelerator;
    lifecycle_add_shares(lifecycle);
    kelpie__template_plan(&monitor->template, &lifecycle->spec);
    int status =
        kelpie__vmm_create(kelpie__vmm_driver(monitor->backend), &create, &lifecycle->vmm, &error);
    if (status == 0) {
        status = kelpie__vmm_start(lifecycle->vmm, &lifecycle->spec, &started, &error);
    }
    if (status == 0) {
        status = lifecycle_attach(lifecycle, &started, &error);
    }
    if (status < 0) {
        KELPIE_REACHED(monitor->os, "a VMM could not be launched");
        kelpie__lifecycle_start_failed(lifecycle, &error);
        return;
    }
    lifecycle_launched(lifecycle, &started);
}

enum kelpie_vmm_accelerator kelpie__lifecycle_accelerator(const struct kelpie_monitor *monitor) {
    enum kelpie_accelerator wanted = monitor->config.accelerator;
    return wanted == KELPIE_ACCELERATOR_KVM   ? KELPIE_VMM_ACCELERATOR_KVM
           : wanted == KELPIE_ACCELERATOR_TCG ? KELPIE_VMM_ACCELERATOR_TCG
                                              : KELPIE_VMM_ACCELERATOR_AUTO;
}

void kelpie__lifecycle_boot(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    /* The boot's time begins here: what was packed once, or tried before, is not part of it. */
    int64_t boot_ns = lifecycle->boot_deadline_ns - lifecycle->start_ns;
    KELPIE_ASSERT(boot_ns > 0);
    lifecycle->start_ns = monitor->loop->now_ns;
    lifecycle->boot_deadline_ns = lifecycle->start_ns + boot_ns;
    kelpie__timer_arm(monitor->loop, &lifecycle->boot_timer, lifecycle->boot_deadline_ns,
                      lifecycle_boot_timed_out, lifecycle);
    kelpie__lifecycle_launch(lifecycle, kelpie__lifecycle_accelerator(monitor));
}

void kelpie__lifecycle_prepared(struct kelpie_monitor *monitor, const struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    KELPIE_ASSERT(!monitor->prepare.is_running);
    if (error != NULL) {
        kelpie__lifecycle_start_failed(lifecycle, error);
        return;
    }
    if (!kelpie__template_start(&monitor->template)) {
        kelpie__lifecycle_boot(lifecycle);
    }
}

static int lifecycle_check_start(const struct kelpie_monitor *monitor, struct kelpie_error *error) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    int status =
        kelpie__state_allow(lifecycle->state, KELPIE_VERB_START, monitor->config.name, error);
    if (status == 0 && (lifecycle->is_deleting || lifecycle->is_ending)) {
        status = kelpie__fail(error, KELPIE_E_STATE, 0, "start: VM \"%s\" is being deleted",
                              monitor->config.name);
    }
    return status == 0 ? kelpie__prepare_check_memory(monitor, error) : status;
}

/* `snapshot`: what it is made from; NULL: it is booted. */
static void lifecycle_begin(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            const char *snapshot, uint64_t timeout_ms) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    struct kelpie_error error = {0};
    uint64_t chosen_ms = timeout_ms != 0 ? timeout_ms : monitor->config.boot_timeout_ms;
    KELPIE_ASSERT(reply.client != 0);
    int status = lifecycle_check_start(monitor, &error);
    if (status == 0) {
        status = kelpie__backend_choose(monitor, snapshot != NULL, &error);
    }
    if (status == 0 && lifecycle->is_unsaved) { /* the last end comes first */
        status = kelpie__lifecycle_save(lifecycle, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    chosen_ms = kelpie__min_u64(chosen_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
    lifecycle->record.previous = lifecycle->state;
    lifecycle->record.boot_us = 0;
    kelpie__template_reset(&monitor->template);
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    KELPIE_ASSERT(lifecycle->start_reply.client == 0);
    KELPIE_ASSERT(kelpie__restore_is_idle(&monitor->restore));
    kelpie__stages_begin(monitor);
    lifecycle->start_reply = reply;
    lifecycle->start_ns = monitor->loop->now_ns;
    lifecycle->boot_deadline_ns = kelpie__loop_deadline(monitor->loop, chosen_ms);
    kelpie__state_change(&lifecycle->state, KELPIE_VM_STARTING);
    lifecycle->record.reason[0] = '\0';
    if (snapshot == NULL) {
        lifecycle->record.parent[0] = '\0'; /* what is booted came from no snapshot */
    }
    /* Nothing is spawned that no file knows of. */
    if (kelpie__lifecycle_save(lifecycle, &error) < 0) {
        KELPIE_REACHED(monitor->os, "a start whose state could not be written");
        kelpie__lifecycle_start_failed(lifecycle, &error);
        return;
    }
    kelpie__event_log_write(monitor, "state", "starting");
    if (snapshot != NULL) {
        kelpie__restore_start(monitor, snapshot, chosen_ms);
    } else {
        kelpie__prepare_start(&monitor->prepare, monitor);
    }
}

void kelpie__lifecycle_start(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             uint64_t timeout_ms) {
    kelpie__waiting_drop(&monitor->waiting);
    bool is_first =
        monitor->config.snapshot[0] != '\0' && !monitor->lifecycle.record.is_snapshot_used;
    lifecycle_begin(monitor, reply, is_first ? monitor->config.snapshot : NULL, timeout_ms);
}

void kelpie__lifecycle_start_from(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                                  const char *snapshot, uint64_t timeout_ms) {
    lifecycle_begin(monitor, reply, snapshot, timeout_ms);
}

/* ---- a machine that a restore made ----------------------------------------------------------- */

void kelpie__lifecycle_take_machine(struct kelpie_lifecycle *lifecycle, struct kelpie_vmm *vmm,
                                    const struct kelpie_vmm_spec *spec) {
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    KELPIE_ASSERT(spec->disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    KELPIE_ASSERT(kelpie__state_is_live(lifecycle->state));
    KELPIE_ASSERT(vmm->state == KELPIE_VMM_RUNNING || vmm->state == KELPIE_VMM_PAUSED);
    lifecycle->vmm = vmm;
    lifecycle->spec = *spec;
    lifecycle->spec.restore = NULL; /* it was read */
    lifecycle->spec.disks = lifecycle->disks;
    for (uint32_t i = 0; i < spec->disk_count; i += 1) {
        lifecycle->disks[i] = spec->disks[i];
    }
    kelpie__vmm_hand_over(vmm, lifecycle_vmm_event, lifecycle);
}

void kelpie__lifecycle_arrived(struct kelpie_lifecycle *lifecycle, enum kelpie_vm_state next) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    char reason[sizeof(lifecycle->record.reason)];
    memcpy(reason, lifecycle->record.reason, sizeof(reason));
    KELPIE_ASSERT(next == KELPIE_VM_RUNNING || next == KELPIE_VM_PAUSED);
    KELPIE_ASSERT(lifecycle->record.state == next);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    kelpie__stages_reach(monitor, KELPIE_STAGE_RUNNING);
    if (lifecycle->state != next) {
        kelpie__lifecycle_change(lifecycle, next, reason);
    } else { /* the record says so already */
        kelpie__event_log_write(monitor, "state", "%s", reason);
    }
    kelpie__reply_result(monitor, &lifecycle->start_reply, "{}");
}

void kelpie__lifecycle_guest_greeted(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    if (lifecycle->vmm == NULL || (lifecycle->is_trial && lifecycle->is_trial_lost)) {
        return; /* a candidate's guest, which proves nothing; or it is being ended: too late */
    }
    if (lifecycle->is_trial) {
        kelpie__timer_disarm(monitor->loop, &lifecycle->trial_timer);
        lifecycle->is_trial = false;
    }
    bool is_against = kelpie__vmm_settle(lifecycle->vmm, NULL, "it booted a guest on this host");
    KELPIE_ASSERT(!is_against);
}

void kelpie__lifecycle_booted(struct kelpie_lifecycle *lifecycle) {
    struct kelpie_monitor *monitor = lifecycle->monitor;
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    kelpie__timer_disarm(monitor->loop, &lifecycle->boot_timer);
    if (lifecycle->record.boot_us == 0) { /* a template may have been made since */
        lifecycle->record.boot_us =
            (uint64_t)((monitor->loop->now_ns - lifecycle->start_ns) / KELPIE_NS_PER_US);
    }
}

void kelpie__lifecycle_guest_live(struct kelpie_monitor *monitor) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    KELPIE_ASSERT(lifecycle->state == KELPIE_VM_STARTING);
    KELPIE_ASSERT(lifecycle->vmm != NULL);
    if (lifecycle->has_failure || lifecycle->is_kill_wanted) {
        KELPIE_REACHED(monitor->os, "a guest came up in a VM that was ending");
        return; /* its end is on the way */
    }
    kelpie__lifecycle_booted(lifecycle);
    kelpie__stages_reach(monitor, KELPIE_STAGE_RUNNING);
    kelpie__lifecycle_change(lifecycle, KELPIE_VM_RUNNING, "the guest's agent answered");
    kelpie__reply_result(monitor, &lifecycle->start_reply, "{}");
    kelpie__pause_changed(&monitor->pause); /* the VMM may have stopped it meanwhile */
}

bool kelpie__lifecycle_is_over(const struct kelpie_monitor *monitor) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    bool is_sealing = (monitor->capture.phase != KELPIE_CAPTURE_IDLE ||
                       kelpie__template_is_sealing(&monitor->template)) &&
                      !lifecycle->is_ending;
    /* Without a monitor the file would be taken for the truth. */
    bool is_unsaved = lifecycle->is_unsaved && !lifecycle->is_ending;
    return !kelpie__state_is_live(lifecycle->state) && !is_sealing && !is_unsaved &&
           (monitor->clients.count == 0 || lifecycle->is_ending || monitor->is_deleted);
}
