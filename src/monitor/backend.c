/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See backend.h.
 */
#include "monitor/backend.h"

#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"

static enum kelpie_vmm_backend backend_take(struct kelpie_monitor *monitor,
                                            enum kelpie_vmm_backend backend, const char *reason) {
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    KELPIE_ASSERT(reason[0] != '\0');
    kelpie__ignore(
        kelpie__text_copy(record->backend_reason, sizeof(record->backend_reason), reason));
    KELPIE_ASSERT(record->backend_reason[0] != '\0');
    return backend;
}

static int backend_find(const struct kelpie_monitor *monitor, enum kelpie_vmm_backend backend,
                        bool *out_is_proved, struct kelpie_error *error) {
    KELPIE_ASSERT(!*out_is_proved);
    return kelpie__vmm_find(kelpie__vmm_driver(backend), monitor->os,
                            monitor->options.cache_directory, out_is_proved, error);
}

/* libkrun only where QEMU is not installed for certain: what could not be looked at is told by the
 * start on QEMU that follows. */
static enum kelpie_vmm_backend backend_auto(struct kelpie_monitor *monitor) {
    struct kelpie_error error = {0};
    bool is_proved = false;
    int status = backend_find(monitor, KELPIE_VMM_BACKEND_QEMU, &is_proved, &error);
    if (status == 0) {
        KELPIE_ASSERT(is_proved);
        return backend_take(monitor, KELPIE_VMM_BACKEND_QEMU, "QEMU is installed, and can do all");
    }
    KELPIE_ASSERT(error.code < 0);
    bool fits_krun =
        monitor->config.accelerator != KELPIE_ACCELERATOR_TCG && monitor->config.kernel[0] == '\0';
    if (status == KELPIE_E_UNAVAILABLE && fits_krun &&
        backend_find(monitor, KELPIE_VMM_BACKEND_KRUN, &is_proved, &error) == 0) {
        return backend_take(monitor, KELPIE_VMM_BACKEND_KRUN,
                            is_proved ? "there is no QEMU, and libkrun booted a guest on this host"
                                      : "there is no QEMU, and no guest was booted with libkrun on "
                                        "this host so far");
    }
    return backend_take(monitor, KELPIE_VMM_BACKEND_QEMU, "none was found");
}

static enum kelpie_vmm_backend backend_pick(struct kelpie_monitor *monitor, bool needs_snapshot) {
    switch (monitor->config.backend) {
    case KELPIE_BACKEND_KRUN:
        return backend_take(monitor, KELPIE_VMM_BACKEND_KRUN, "asked for");
    case KELPIE_BACKEND_QEMU:
        return backend_take(monitor, KELPIE_VMM_BACKEND_QEMU, "asked for");
    case KELPIE_BACKEND_AUTO:
        break;
    }
    if (needs_snapshot) {
        return backend_take(monitor, KELPIE_VMM_BACKEND_QEMU, "a snapshot needs it");
    }
    return monitor->config.share_count > 0
               ? backend_take(monitor, KELPIE_VMM_BACKEND_KRUN, "only libkrun shares directories")
               : backend_auto(monitor);
}

int kelpie__backend_can_save(const struct kelpie_monitor *monitor, const char *operation,
                             struct kelpie_error *error) {
    KELPIE_ASSERT(operation[0] != '\0');
    if (monitor->config.share_count > 0) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "%s: VM \"%s\" shares directories with its host, which no snapshot "
                            "holds; make the VM without --share",
                            operation, monitor->config.name);
    }
    if (monitor->backend != KELPIE_VMM_BACKEND_QEMU ||
        monitor->config.channel != KELPIE_CHANNEL_VSOCK) {
        return 0;
    }
    return kelpie__fail(
        error, KELPIE_E_UNSUPPORTED, 0,
        "%s: the channel of VM \"%s\" is vsock, whose state is in the host's kernel "
        "and cannot be saved; make the VM with the channel serial",
        operation, monitor->config.name);
}

int kelpie__backend_can_restore(struct kelpie_monitor *monitor, struct kelpie_error *error) {
    if (monitor->lifecycle.vmm == NULL) {
        monitor->backend = backend_pick(monitor, true);
    }
    const struct kelpie_vmm_operations *driver = kelpie__vmm_driver(monitor->backend);
    KELPIE_ASSERT(driver->name[0] != '\0');
    if ((driver->capabilities & KELPIE_VMM_CAN_SNAPSHOT) == 0) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "the backend \"%s\" cannot restore a VM; use qemu", driver->name);
    }
    return kelpie__backend_can_save(monitor, "restore", error);
}

/* Nobody asked for libkrun by name, so that it is said what wants it. */
static int backend_check_shares(const struct kelpie_monitor *monitor, struct kelpie_error *error) {
    KELPIE_ASSERT(monitor->config.share_count > 0);
    KELPIE_ASSERT(monitor->backend ==
                  KELPIE_VMM_BACKEND_KRUN); /* a configuration with QEMU is none */
    bool is_proved = false;
    if (monitor->config.backend == KELPIE_BACKEND_AUTO &&
        backend_find(monitor, monitor->backend, &is_proved, error) < 0) {
        return kelpie__fail_prefix(error, "start: only libkrun shares directories");
    }
    return kelpie__config_find_shares(&monitor->config, monitor->os, error);
}

int kelpie__backend_choose(struct kelpie_monitor *monitor, bool needs_snapshot,
                           struct kelpie_error *error) {
    monitor->backend = backend_pick(monitor, needs_snapshot);
    const struct kelpie_vmm_operations *driver = kelpie__vmm_driver(monitor->backend);
    bool can_restore = (driver->capabilities & KELPIE_VMM_CAN_SNAPSHOT) != 0;
    KELPIE_ASSERT(driver->name[0] != '\0');
    if (needs_snapshot && !can_restore) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "start: the backend \"%s\" cannot start a VM from a snapshot; use "
                            "qemu",
                            driver->name);
    }
    if (needs_snapshot && kelpie__backend_can_save(monitor, "start", error) < 0) {
        return KELPIE_E_UNSUPPORTED;
    }
    return monitor->config.share_count > 0 ? backend_check_shares(monitor, error) : 0;
}
