/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The one caller of a driver's operations: see vmm.h. It asserts states and results on the way
 * down, and the order of events on the way up.
 */
#include "vmm/vmm.h"

#include "vmm/krun/krun.h"
#include "vmm/qemu/qemu.h"

static const struct kelpie_vmm_operations *const vmm_drivers[] = {
    [KELPIE_VMM_BACKEND_QEMU] = &kelpie__qemu_operations,
    [KELPIE_VMM_BACKEND_KRUN] = &kelpie__krun_operations,
};

static bool vmm_is_alive(const struct kelpie_vmm *vmm) {
    return vmm->state == KELPIE_VMM_STARTING || vmm->state == KELPIE_VMM_RUNNING ||
           vmm->state == KELPIE_VMM_PAUSED;
}

static void kelpie__vmm_check(const struct kelpie_vmm *vmm) {
    KELPIE_ASSERT(vmm->operations != NULL);
    KELPIE_ASSERT(vmm->callback != NULL);
    if (vmm->is_changing) {
        KELPIE_ASSERT(vmm->done_callback != NULL);
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_RUNNING || vmm->state == KELPIE_VMM_PAUSED);
    } else {
        KELPIE_ASSERT(vmm->done_callback == NULL);
    }
}

const struct kelpie_vmm_operations *kelpie__vmm_driver(enum kelpie_vmm_backend backend) {
    KELPIE_ASSERT((size_t)backend < KELPIE_ARRAY_COUNT(vmm_drivers));
    const struct kelpie_vmm_operations *driver = vmm_drivers[backend];
    bool has_pause = driver->pause != NULL && driver->resume != NULL;
    KELPIE_ASSERT(has_pause == ((driver->capabilities & KELPIE_VMM_CAN_PAUSE) != 0));
    bool has_snapshot = driver->describe != NULL && driver->save_ahead != NULL &&
                        driver->save != NULL && driver->switch_disk != NULL &&
                        driver->check_devices != NULL && driver->make_overlay != NULL &&
                        driver->identify != NULL && driver->load != NULL;
    KELPIE_ASSERT(has_snapshot == ((driver->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0));
    return driver;
}

int kelpie__vmm_find(const struct kelpie_vmm_operations *operations, struct kelpie_os *os,
                     const char *cache_directory, bool *out_is_proved, struct kelpie_error *error) {
    KELPIE_ASSERT(cache_directory[0] == '/');
    int status = operations->find(os, cache_directory, out_is_proved, error);
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__vmm_create(const struct kelpie_vmm_operations *operations,
                       const struct kelpie_vmm_create *create, struct kelpie_vmm **out,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(create->callback != NULL);
    KELPIE_ASSERT(create->os != NULL && create->loop != NULL);
    struct kelpie_vmm *vmm = NULL;
    int status = operations->create(create, &vmm, error);
    if (status < 0) {
        KELPIE_ASSERT(vmm == NULL);
        return status;
    }
    vmm->operations = operations;
    vmm->state = KELPIE_VMM_NEW;
    vmm->callback = create->callback;
    vmm->context = create->context;
    kelpie__vmm_check(vmm);
    *out = vmm;
    return 0;
}

int kelpie__vmm_start(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                      struct kelpie_vmm_started *out, struct kelpie_error *error) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm->state == KELPIE_VMM_NEW);
    KELPIE_ASSERT(spec->disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    KELPIE_ASSERT(spec->cpu_count >= 1 && spec->memory_mib >= 1);
    KELPIE_ASSERT(spec->share_count <= KELPIE_VMM_SHARE_COUNT_MAX);
    if (spec->share_count > 0) {
        KELPIE_ASSERT((vmm->operations->capabilities & KELPIE_VMM_CAN_SHARE) != 0);
    }
    const struct kelpie_vmm_restore *restore = spec->restore;
    if (restore != NULL) {
        KELPIE_ASSERT((vmm->operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0);
        KELPIE_ASSERT(restore->base >= 0 && restore->description != NULL);
        KELPIE_ASSERT((restore->memory < 0) == (restore->map < 0));
        KELPIE_ASSERT(restore->device >= 0 || restore->memory < 0);
        KELPIE_ASSERT(spec->channel == KELPIE_VMM_CHANNEL_SERIAL);
    }
    vmm->is_restored = restore != NULL;
    vmm->is_waiting = restore != NULL && restore->device < 0;
    struct kelpie_vmm_started started = {.agent = KELPIE_OS_NO_HANDLE,
                                         .console = KELPIE_OS_NO_HANDLE};
    int status = vmm->operations->start(vmm, spec, &started, error);
    if (status < 0) {
        KELPIE_ASSERT(started.agent == KELPIE_OS_NO_HANDLE);
        vmm->state = KELPIE_VMM_ENDED;
        return status;
    }
    KELPIE_ASSERT(started.console >= 0);
    bool has_pause = (vmm->operations->capabilities & KELPIE_VMM_CAN_PAUSE) != 0;
    KELPIE_ASSERT(has_pause == (started.pause_kind[0] != '\0'));
    KELPIE_ASSERT(started.accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    vmm->state = KELPIE_VMM_STARTING;
    vmm->pause_kind = started.pause_kind;
    vmm->has_agent = started.agent >= 0;
    *out = started;
    return 0;
}

int kelpie__vmm_load(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                     struct kelpie_error *error) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm->state == KELPIE_VMM_STARTING && vmm->is_waiting);
    KELPIE_ASSERT(spec->restore != NULL && spec->restore->device >= 0);
    int status = vmm->operations->load(vmm, spec, error);
    vmm->is_waiting = status < 0;
    return status;
}

bool kelpie__vmm_settle(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end,
                        const char *reason) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(end == NULL ? vmm->state != KELPIE_VMM_NEW : vmm->state == KELPIE_VMM_ENDED);
    KELPIE_ASSERT(reason[0] != '\0');
    return vmm->operations->settle(vmm, end, reason);
}

int kelpie__vmm_check_clock(struct kelpie_vmm *vmm, const struct kelpie_vmm_guest_clock *clock,
                            struct kelpie_error *error) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm_is_alive(vmm));
    return vmm->operations->check_clock(vmm, clock, error);
}

static void vmm_change_begin(struct kelpie_vmm *vmm, enum kelpie_vmm_state from,
                             enum kelpie_vmm_capability capability,
                             kelpie_vmm_done_callback callback, void *context) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(callback != NULL);
    KELPIE_ASSERT(vmm->state == from && !vmm->is_changing);
    KELPIE_ASSERT((vmm->operations->capabilities & capability) != 0);
    vmm->is_changing = true;
    vmm->done_callback = callback;
    vmm->done_context = context;
}

/* Takes it back when the driver did not accept it. Returns the driver's status. */
static int vmm_change_begun(struct kelpie_vmm *vmm, int status) {
    KELPIE_ASSERT(vmm->is_changing);
    if (status < 0) {
        vmm->is_changing = false;
        vmm->done_callback = NULL;
    }
    kelpie__vmm_check(vmm);
    return status;
}

int kelpie__vmm_pause(struct kelpie_vmm *vmm, kelpie_vmm_done_callback callback, void *context,
                      struct kelpie_error *error) {
    vmm_change_begin(vmm, KELPIE_VMM_RUNNING, KELPIE_VMM_CAN_PAUSE, callback, context);
    return vmm_change_begun(vmm, vmm->operations->pause(vmm, error));
}

int kelpie__vmm_resume(struct kelpie_vmm *vmm, kelpie_vmm_done_callback callback, void *context,
                       struct kelpie_error *error) {
    vmm_change_begin(vmm, KELPIE_VMM_PAUSED, KELPIE_VMM_CAN_PAUSE, callback, context);
    return vmm_change_begun(vmm, vmm->operations->resume(vmm, error));
}

int kelpie__vmm_save_ahead(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                           kelpie_vmm_done_callback callback, void *context,
                           struct kelpie_error *error) {
    KELPIE_ASSERT(save->memory >= 0 && !save->is_ahead);
    KELPIE_ASSERT((save->map >= 0) == vmm->is_restored);
    vmm_change_begin(vmm, KELPIE_VMM_RUNNING, KELPIE_VMM_CAN_SNAPSHOT, callback, context);
    return vmm_change_begun(vmm, vmm->operations->save_ahead(vmm, save, error));
}

int kelpie__vmm_save(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                     struct kelpie_vmm_saved *out, kelpie_vmm_done_callback callback, void *context,
                     struct kelpie_error *error) {
    KELPIE_ASSERT(save->device >= 0 && save->memory >= 0);
    KELPIE_ASSERT((save->map >= 0) == vmm->is_restored);
    vmm_change_begin(vmm, KELPIE_VMM_PAUSED, KELPIE_VMM_CAN_SNAPSHOT, callback, context);
    return vmm_change_begun(vmm, vmm->operations->save(vmm, save, out, error));
}

int kelpie__vmm_switch_disk(struct kelpie_vmm *vmm, uint32_t index, const char *path,
                            kelpie_vmm_done_callback callback, void *context,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(index < KELPIE_VMM_DISK_COUNT_MAX);
    KELPIE_ASSERT(path[0] == '/');
    vmm_change_begin(vmm, KELPIE_VMM_PAUSED, KELPIE_VMM_CAN_SNAPSHOT, callback, context);
    return vmm_change_begun(vmm, vmm->operations->switch_disk(vmm, index, path, error));
}

int kelpie__vmm_describe(struct kelpie_vmm *vmm, struct kelpie_vmm_description *out,
                         struct kelpie_error *error) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm->state == KELPIE_VMM_RUNNING || vmm->state == KELPIE_VMM_PAUSED);
    KELPIE_ASSERT((vmm->operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0);
    return vmm->operations->describe(vmm, out, error);
    KELPIE_ASSERT(out->vmm[0] != '\0' && out->machine[0] != '\0' && out->cpu[0] != '\0');
    KELPIE_ASSERT(out->accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
}

int kelpie__vmm_check_devices(const struct kelpie_vmm_operations *operations, struct kelpie_os *os,
                              int file, struct kelpie_error *error) {
    KELPIE_ASSERT((operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0);
    KELPIE_ASSERT(file >= 0);
    return operations->check_devices(os, file, error);
}

int kelpie__vmm_make_overlay(const struct kelpie_vmm_operations *operations, struct kelpie_os *os,
                             const struct kelpie_vmm_overlay *overlay, struct kelpie_error *error) {
    KELPIE_ASSERT((operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0);
    KELPIE_ASSERT(overlay->file >= 0 && overlay->backing >= 0);
    KELPIE_ASSERT(overlay->backing_name[0] != '\0');
    return operations->make_overlay(os, overlay, error);
}

int kelpie__vmm_identify(const struct kelpie_vmm_operations *operations, struct kelpie_os *os,
                         const struct kelpie_vmm_spec *spec, struct kelpie_hash *hash,
                         struct kelpie_error *error) {
    KELPIE_ASSERT((operations->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0);
    KELPIE_ASSERT(spec->restore == NULL && spec->kernel[0] != '\0');
    return operations->identify(os, spec, hash, error);
}

void kelpie__vmm_hand_over(struct kelpie_vmm *vmm, kelpie_vmm_event_callback callback,
                           void *context) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(callback != NULL && !vmm->is_changing);
    vmm->callback = callback;
    vmm->context = context;
}

void kelpie__vmm_kill(struct kelpie_vmm *vmm) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm->state != KELPIE_VMM_NEW);
    if (vmm_is_alive(vmm)) {
        vmm->operations->kill(vmm);
    }
}

void kelpie__vmm_destroy(struct kelpie_vmm *vmm) {
    if (vmm != NULL) {
        KELPIE_ASSERT(vmm->operations != NULL);
        vmm->operations->destroy(vmm);
    }
}

void kelpie__vmm_emit_done(struct kelpie_vmm *vmm, int status, const struct kelpie_error *error) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm->is_changing);
    KELPIE_ASSERT(status <= 0);
    kelpie_vmm_done_callback callback = vmm->done_callback;
    vmm->is_changing = false;
    vmm->done_callback = NULL;
    callback(vmm->done_context, status, error);
}

void kelpie__vmm_emit(struct kelpie_vmm *vmm, const struct kelpie_vmm_event *event) {
    kelpie__vmm_check(vmm);
    KELPIE_ASSERT(vmm_is_alive(vmm));
    switch (event->type) {
    case KELPIE_VMM_EVENT_STARTED:
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_STARTING && !vmm->is_waiting);
        vmm->state = vmm->is_restored ? KELPIE_VMM_PAUSED : KELPIE_VMM_RUNNING;
        break;
    case KELPIE_VMM_EVENT_WAITING:
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_STARTING && vmm->is_restored);
        break;
    case KELPIE_VMM_EVENT_AGENT:
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_RUNNING && !vmm->has_agent);
        KELPIE_ASSERT(event->agent >= 0);
        vmm->has_agent = true;
        break;
    case KELPIE_VMM_EVENT_PAUSED:
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_RUNNING);
        vmm->state = KELPIE_VMM_PAUSED;
        break;
    case KELPIE_VMM_EVENT_RESUMED:
        KELPIE_ASSERT(vmm->state == KELPIE_VMM_PAUSED);
        vmm->state = KELPIE_VMM_RUNNING;
        break;
    case KELPIE_VMM_EVENT_ENDED:
        KELPIE_ASSERT(event->end != NULL && !vmm->is_changing);
        vmm->state = KELPIE_VMM_ENDED;
        break;
    }
    vmm->callback(vmm->context, event); /* may have destroyed the instance */
}

const char *kelpie__vmm_accelerator_name(enum kelpie_vmm_accelerator accelerator) {
    switch (accelerator) {
    case KELPIE_VMM_ACCELERATOR_AUTO:
        return "auto";
    case KELPIE_VMM_ACCELERATOR_KVM:
        return "kvm";
    case KELPIE_VMM_ACCELERATOR_TCG:
        return "tcg";
    }
    KELPIE_ASSERT(false);
    return "";
}
