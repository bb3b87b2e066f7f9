/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See template.h.
 */
#include "monitor/template.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

static void template_check(const struct kelpie_template *template) {
    KELPIE_ASSERT(template->phase <= KELPIE_TEMPLATE_IDENTIFYING);
    KELPIE_ASSERT(template->capture.is_template);
    if (template->is_wanted) {
        KELPIE_ASSERT(template->phase == KELPIE_TEMPLATE_IDLE);
        KELPIE_ASSERT(template->key.text[0] != '\0');
        KELPIE_ASSERT(!template->is_forsaken);
    }
}

/* From a row's phase to those after it; the end of the VMM leads back from everywhere. */
static void template_enter(struct kelpie_template *template, enum kelpie_template_phase next) {
    static const enum kelpie_template_phase after[] = {
        [KELPIE_TEMPLATE_IDLE] = KELPIE_TEMPLATE_SAVING,
        [KELPIE_TEMPLATE_SAVING] = KELPIE_TEMPLATE_IDENTIFYING,
        [KELPIE_TEMPLATE_IDENTIFYING] = KELPIE_TEMPLATE_IDLE,
    };
    static_assert(KELPIE_ARRAY_COUNT(after) == KELPIE_TEMPLATE_IDENTIFYING + 1, "a row for each");
    KELPIE_ASSERT(next == KELPIE_TEMPLATE_IDLE || next == after[template->phase]);
    template->phase = next;
    template_check(template);
}

static struct kelpie_monitor *template_monitor(const struct kelpie_template *template) {
    struct kelpie_monitor *monitor = template->monitor;
    KELPIE_ASSERT(template == &monitor->template);
    template_check(template);
    KELPIE_ASSERT(template->phase == KELPIE_TEMPLATE_IDLE ||
                  monitor->lifecycle.state == KELPIE_VM_STARTING);
    return monitor;
}

void kelpie__template_init(struct kelpie_template *template, struct kelpie_monitor *monitor) {
    *template = (struct kelpie_template){.monitor = monitor, .phase = KELPIE_TEMPLATE_IDLE};
    kelpie__capture_init(&template->capture, monitor);
    template->capture.is_template = true;
    template_check(template);
}

void kelpie__template_deinit(struct kelpie_template *template) {
    kelpie__timer_disarm(template->monitor->loop, &template->wait_timer);
    kelpie__capture_deinit(&template->capture);
}

void kelpie__template_reset(struct kelpie_template *template) {
    KELPIE_ASSERT(template->phase == KELPIE_TEMPLATE_IDLE);
    template->key.text[0] = '\0';
    template->is_wanted = false;
    template->is_forsaken = false;
}

/* ---- the key --------------------------------------------------------------------------------- */

/* A writable disk belongs to one VM: its guest is set up over it, and cannot be another's. */
static bool template_is_possible(const struct kelpie_template *template) {
    const struct kelpie_monitor *monitor = template->monitor;
    return monitor->config.uses_template && !template->is_forsaken &&
           monitor->config.channel == KELPIE_CHANNEL_SERIAL &&
           (kelpie__vmm_driver(monitor->backend)->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0 &&
           !monitor->prepare.has_upper;
}

/* Everything that goes into a guest before its first command. */
static int template_draw_key(const struct kelpie_template *template,
                             const struct kelpie_vmm_spec *spec, struct kelpie_template_key *out,
                             struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = template->monitor;
    const struct kelpie_prepare *prepare = &monitor->prepare;
    struct kelpie_hash hash;
    kelpie__template_key_begin(&hash);
    int status =
        kelpie__vmm_identify(kelpie__vmm_driver(monitor->backend), monitor->os, spec, &hash, error);
    if (status < 0) {
        return status;
    }
    kelpie__template_key_add_file(monitor->os, &hash, spec->kernel, false);
    kelpie__template_key_add_file(monitor->os, &hash, spec->initramfs, false);
    bool is_packed = prepare->root_kind == KELPIE_PREPARE_ROOT_DIRECTORY;
    for (uint32_t i = 0; i < spec->disk_count; i += 1) { /* the root; a VM's own has no template */
        kelpie__template_key_add_file(monitor->os, &hash, spec->disks[i].path, is_packed);
    }
    kelpie__hash_text(&hash, monitor->config.root);
    kelpie__hash_u64(&hash, prepare->root_kind);
    kelpie__hash_text(&hash, prepare->root_type);
    kelpie__hash_u64(&hash, monitor->config.is_read_only ? 1 : 0);
    kelpie__hash_hex(&hash, out->text);
    return 0;
}

static bool template_exists(const struct kelpie_template *template) {
    const struct kelpie_monitor *monitor = template->monitor;
    char path[KELPIE_PATH_BYTES_MAX];
    char store[KELPIE_PATH_BYTES_MAX];
    struct kelpie_os_stat stat;
    KELPIE_ASSERT(template->key.text[0] != '\0');
    return kelpie__text_join(store, sizeof(store), monitor->options.state_directory,
                             KELPIE_TEMPLATES_DIRECTORY) &&
           kelpie__text_join(path, sizeof(path), store, template->key.text) &&
           kelpie__os_stat(monitor->os, KELPIE_OS_CWD, path, false, &stat) == 0;
}

/* ---- a start --------------------------------------------------------------------------------- */

bool kelpie__template_start(struct kelpie_template *template) {
    struct kelpie_monitor *monitor = template_monitor(template);
    struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    struct kelpie_vmm_spec spec;
    KELPIE_ASSERT(lifecycle->vmm == NULL);
    if (!template_is_possible(template)) {
        return false;
    }
    kelpie__prepare_spec(&monitor->prepare, &spec, lifecycle->disks);
    spec.accelerator = kelpie__lifecycle_accelerator(monitor);
    /* What is wrong is told by the boot that follows. */
    if (template_draw_key(template, &spec, &template->key, NULL) < 0 ||
        !template_exists(template)) {
        return false;
    }
    KELPIE_REACHED(monitor->os, "a VM was started from a template");
    kelpie__restore_start_template(monitor, template->key.text);
    return true;
}

/* Whether what happened says something against the template itself. */
static bool template_is_to_blame(const struct kelpie_error *why) {
    const int code = why->code;
    if (why->os_error == EMFILE || why->os_error == ENFILE || why->os_error == ENOMEM ||
        why->os_error == ENOSPC || why->os_error == EDQUOT || why->os_error == EAGAIN) {
        return false; /* this process or the host is short of something; others can use it */
    }
    return code != KELPIE_E_MEMORY && code != KELPIE_E_LIMIT && code != KELPIE_E_UNAVAILABLE &&
           code != KELPIE_E_NOT_FOUND && code != KELPIE_E_BUSY;
}

static void template_drop(struct kelpie_template *template) {
    struct kelpie_monitor *monitor = template->monitor;
    struct kelpie_snapshot_store store;
    KELPIE_ASSERT(template->key.text[0] != '\0');
    if (kelpie__snapshot_store_open(&store, monitor->os, monitor->options.state_directory,
                                    KELPIE_TEMPLATES_DIRECTORY, NULL) == 0) {
        kelpie__snapshot_retire(&store, template->key.text);
        kelpie__snapshot_prune(&store, NULL); /* at once, unless others use it */
        kelpie__snapshot_store_close(&store);
    }
}

void kelpie__template_failed(struct kelpie_template *template, const struct kelpie_error *why) {
    struct kelpie_monitor *monitor = template_monitor(template);
    bool is_dropped = template_is_to_blame(why);
    KELPIE_ASSERT(why->code < 0);
    KELPIE_REACHED(monitor->os, "a start from a template failed, and the VM was booted");
    kelpie__event_log_write(monitor, "notice", "booting, for the template could not be used%s: %s",
                            is_dropped ? " and was removed" : "", why->message);
    if (is_dropped) {
        template_drop(template);
    }
    kelpie__lifecycle_boot(&monitor->lifecycle);
}

/* ---- a boot that leaves one ------------------------------------------------------------------ */

void kelpie__template_plan(struct kelpie_template *template, const struct kelpie_vmm_spec *spec) {
    template_monitor(template);
    /* Anew for each attempt: with another accelerator it is another guest. */
    template->is_wanted =
        template_is_possible(template) &&
        template->capture.phase ==
            KELPIE_CAPTURE_IDLE &&template_draw_key(template, spec, &template->key, NULL) == 0 &&
        !template_exists(template);
    KELPIE_ASSERT(!template->is_wanted || template->key.text[0] != '\0');
}

static void template_done(struct kelpie_template *template) {
    template_enter(template, KELPIE_TEMPLATE_IDLE);
    kelpie__lifecycle_guest_live(template->monitor);
}

static void template_identified(void *context, const struct kelpie_error *error, const char *result,
                                size_t length) {
    struct kelpie_template *template = context;
    struct kelpie_monitor *monitor = template_monitor(template);
    struct kelpie_error why = {0};
    KELPIE_ASSERT(template->phase == KELPIE_TEMPLATE_IDENTIFYING);
    kelpie__ignore(result != NULL && length > 0); /* it says nothing */
    if (error == NULL) {
        template_done(template);
        return;
    }
    why = *error;
    why.code = KELPIE_E_BOOT;
    kelpie__ignore(kelpie__fail_prefix(&why, "tell the guest who it is"));
    kelpie__lifecycle_fail(monitor, &why);
}

/* It was set up as nobody: name, machine id and fresh randomness come now, so that neither the
 * template knows the VM that it was made of, nor that VM has the template's randomness. */
void kelpie__template_saved(struct kelpie_template *template) {
    struct kelpie_monitor *monitor = template_monitor(template);
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    struct kelpie_error error = {0};
    char params[KELPIE_GUEST_SETUP_BYTES_MAX];
    KELPIE_ASSERT(template->phase == KELPIE_TEMPLATE_SAVING);
    template_enter(template, KELPIE_TEMPLATE_IDENTIFYING);
    int status = 0;
    /* A VMM that did not do as it was told is nobody's to use: it ends, and another boots. */
    if (template->capture.is_vmm_doubtful || wire == NULL ||
        monitor->lifecycle.vmm->state != KELPIE_VMM_RUNNING) {
        const char *why = template->capture.failure.message;
        status = kelpie__fail(&error, KELPIE_E_BOOT, 0, "%s",
                              why[0] != '\0' ? why : "the guest did not go on");
    }
    if (status == 0) {
        status = kelpie__guest_write_setup(&monitor->guest, false, params, sizeof(params), &error);
    }
    if (status == 0) {
        status = kelpie__wire_call(wire, "setup", params, KELPIE_RESUME_TIMEOUT_MS,
                                   template_identified, template, NULL, &error);
    }
    if (status < 0) {
        kelpie__lifecycle_fail(monitor, &error);
    }
}

void kelpie__template_make(struct kelpie_template *template) {
    struct kelpie_monitor *monitor = template_monitor(template);
    KELPIE_ASSERT(template->is_wanted && template->phase == KELPIE_TEMPLATE_IDLE);
    KELPIE_ASSERT(monitor->lifecycle.vmm != NULL);
    if (monitor->lifecycle.has_failure || monitor->lifecycle.is_kill_wanted) {
        kelpie__lifecycle_guest_live(monitor); /* its end is on the way */
        return;
    }
    KELPIE_REACHED(monitor->os, "a template was made");
    kelpie__lifecycle_booted(&monitor->lifecycle);
    template->is_wanted = false;
    template_enter(template, KELPIE_TEMPLATE_SAVING);
    kelpie__capture_template(&template->capture, template->key.text);
}

bool kelpie__template_takes_blame(struct kelpie_template *template) {
    bool was_making = template->phase != KELPIE_TEMPLATE_IDLE;
    KELPIE_ASSERT(template->monitor->lifecycle.vmm != NULL);
    template_enter(template, KELPIE_TEMPLATE_IDLE);
    if (was_making) {
        KELPIE_REACHED(template->monitor->os, "a VMM ended while a template was made of it");
        template->is_forsaken = true;
    }
    return was_making;
}

/* ---- a delete -------------------------------------------------------------------------------- */

bool kelpie__template_is_sealing(const struct kelpie_template *template) {
    return template->capture.phase != KELPIE_CAPTURE_IDLE;
}

static void template_waited(void *context) {
    struct kelpie_template *template = context;
    struct kelpie_monitor *monitor = template->monitor;
    struct kelpie_reply reply = template->delete_reply;
    KELPIE_ASSERT(monitor->lifecycle.is_deleting);
    KELPIE_ASSERT(!template->has_waited);
    KELPIE_ASSERT(!kelpie__state_is_live(monitor->lifecycle.state));
    template->has_waited = true;
    template->delete_reply = (struct kelpie_reply){0};
    kelpie__monitor_delete(monitor, &reply);
}

void kelpie__template_hurry(struct kelpie_template *template) {
    if (kelpie__timer_is_armed(&template->wait_timer)) {
        kelpie__timer_disarm(template->monitor->loop, &template->wait_timer);
        template_waited(template);
    }
}

bool kelpie__template_holds_delete(struct kelpie_template *template, struct kelpie_reply *reply) {
    struct kelpie_loop *loop = template->monitor->loop;
    if (!kelpie__template_is_sealing(template) || template->monitor->lifecycle.is_ending ||
        template->has_waited) {
        return false;
    }
    KELPIE_ASSERT(template->delete_reply.client == 0);
    template->delete_reply = *reply;
    *reply = (struct kelpie_reply){0};
    kelpie__timer_arm(loop, &template->wait_timer,
                      kelpie__loop_deadline(loop, KELPIE_TEMPLATE_WAIT_MS), template_waited,
                      template);
    return true;
}

void kelpie__template_sealed(struct kelpie_template *template, const struct kelpie_error *why) {
    if (why != NULL && why->code != KELPIE_E_EXISTS && why->code != KELPIE_E_CANCELLED) {
        kelpie__event_log_write(template->monitor, "snapshot", "no template was made: %s",
                                why->message);
    }
    if (kelpie__timer_is_armed(&template->wait_timer)) { /* from the loop, not from here */
        struct kelpie_loop *loop = template->monitor->loop;
        kelpie__timer_arm(loop, &template->wait_timer, loop->now_ns, template_waited, template);
    }
}
