/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A saved state into a QEMU that was started for it. Its memory is a private mapping of the base
 * already. The delta is laid over that before the device state is loaded, because the devices look
 * into the rings in the guest's memory then; QEMU gets the state as a descriptor. What QEMU itself
 * says of a damaged state is little (findings.md, "QMP as QEMU really behaves"): a part cut off
 * goes unnoticed, an empty one makes it exit. Whoever stored the files has checked them.
 */
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "vmm/qemu/arguments.h"
#include "vmm/qemu/instance.h"

#define RESTORE_LOAD_TIMEOUT_MS 10000u
/* QEMU ends by itself when it cannot load a state, and says why on stderr. */
#define RESTORE_GRACE_NS (2000 * KELPIE_NS_PER_MS)
#define RESTORE_TSC_PPM_MAX 500u

/* ---- before it is started -------------------------------------------------------------------- */

static int restore_differs(struct kelpie_error *error, const char *what, const char *saved,
                           const char *here) {
    KELPIE_ASSERT(strcmp(saved, here) != 0);
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                        "the snapshot's %s is \"%s\", here it is \"%s\"", what, saved, here);
}

static int restore_check_file(const struct kelpie_qemu *qemu, int file, const char *what,
                              uint64_t wanted_bytes, struct kelpie_error *error) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(wanted_bytes > 0);
    struct kelpie_os_stat stat = {0};
    int status = kelpie__os_stat(qemu->os, file, "", false, &stat);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_RESTORE, -status, "look at the snapshot's %s", what);
    }
    if (stat.kind != KELPIE_OS_KIND_FILE || stat.size_bytes != wanted_bytes) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the snapshot's %s has %llu bytes, the VM needs %llu", what,
                            (unsigned long long)stat.size_bytes, (unsigned long long)wanted_bytes);
    }
    return 0;
}

/* Every state begins with "QEVM" and the version of its format, 3. */
static int restore_check_device(const struct kelpie_qemu *qemu, int device,
                                struct kelpie_error *error) {
    KELPIE_ASSERT(device >= 0);
    static const uint8_t wanted[8] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
    uint8_t head[sizeof(wanted)] = {0};
    int64_t count = kelpie__os_pread(qemu->os, device, head, sizeof(head), 0);
    if (count < 0) {
        return kelpie__fail(error, KELPIE_E_RESTORE, (int)-count,
                            "read the snapshot's device state");
    }
    if (count != (int64_t)sizeof(head) || memcmp(head, wanted, sizeof(wanted)) != 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the snapshot's device state is none of QEMU's");
    }
    return 0;
}

static int restore_check_files(const struct kelpie_qemu *qemu,
                               const struct kelpie_vmm_restore *restore,
                               struct kelpie_error *error) {
    uint64_t page_count = qemu->memory_bytes / KELPIE_QEMU_PAGE_BYTES;
    KELPIE_ASSERT(qemu->memory_bytes > 0);
    KELPIE_ASSERT(page_count % 8 == 0);
    KELPIE_ASSERT((restore->map >= 0) == (restore->memory >= 0));
    int status = restore->device == KELPIE_OS_NO_HANDLE
                     ? 0
                     : restore_check_device(qemu, restore->device, error);
    if (status == 0) {
        status = restore_check_file(qemu, restore->base, "memory base", qemu->memory_bytes, error);
    }
    if (status == 0 && restore->map != KELPIE_OS_NO_HANDLE) {
        status = restore_check_file(qemu, restore->memory, "memory", qemu->memory_bytes, error);
    }
    if (status == 0 && restore->map != KELPIE_OS_NO_HANDLE) {
        status = restore_check_file(qemu, restore->map, "map of memory", page_count / 8, error);
    }
    return status;
}

int kelpie__qemu_restore_check(struct kelpie_qemu *qemu, const struct kelpie_vmm_spec *spec,
                               struct kelpie_error *error) {
    const struct kelpie_vmm_description *saved = spec->restore->description;
    const char *own = kelpie__qemu_machine_name(KELPIE_VMM_KERNEL_OWN);
    const char *generic = kelpie__qemu_machine_name(KELPIE_VMM_KERNEL_GENERIC);
    char cpu[sizeof(saved->cpu)];
    if (strcmp(saved->vmm, "qemu") != 0) {
        return restore_differs(error, "VMM", saved->vmm, "qemu");
    }
    if (strcmp(saved->machine, own) != 0 && strcmp(saved->machine, generic) != 0) {
        return restore_differs(error, "machine", saved->machine, generic);
    }
    if (saved->accelerator == KELPIE_VMM_ACCELERATOR_AUTO) {
        return restore_differs(error, "accelerator", "auto", "kvm or tcg");
    }
    int status = kelpie__accel_cpu(qemu->os, saved->accelerator, cpu, sizeof(cpu));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_RESTORE, -status, "look at this host's processor");
    }
    if (strcmp(saved->cpu, cpu) != 0) {
        return restore_differs(error, "processor", saved->cpu, cpu);
    }
    qemu->kernel_kind =
        strcmp(saved->machine, own) == 0 ? KELPIE_VMM_KERNEL_OWN : KELPIE_VMM_KERNEL_GENERIC;
    qemu->guest_tsc_khz = saved->tsc_khz;
    return restore_check_files(qemu, spec->restore, error);
}

int kelpie__qemu_restore_check_clock(const struct kelpie_qemu *qemu, struct kelpie_error *error) {
    uint64_t saved_khz = qemu->guest_tsc_khz;
    uint64_t host_khz = qemu->tsc_khz;
    KELPIE_ASSERT(qemu->vmm.is_restored);
    if (qemu->accel.accelerator != KELPIE_VMM_ACCELERATOR_TCG || saved_khz == host_khz) {
        return 0;
    }
    uint64_t difference_khz = saved_khz > host_khz ? saved_khz - host_khz : host_khz - saved_khz;
    if (saved_khz != 0 && host_khz != 0 && saved_khz < UINT32_MAX &&
        difference_khz * 1000000u <= saved_khz * RESTORE_TSC_PPM_MAX) {
        return 0;
    }
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                        "the snapshot's clock counts %llu kHz, this host's %llu kHz, and they may "
                        "be %u ppm apart: restore it on a host like the one that made it",
                        (unsigned long long)saved_khz, (unsigned long long)host_khz,
                        RESTORE_TSC_PPM_MAX);
}

/* ---- once it speaks -------------------------------------------------------------------------- */

void kelpie__qemu_restore_cancel(struct kelpie_qemu *qemu) {
    kelpie__qemu_copy_cancel(&qemu->copy);
    kelpie__timer_disarm(qemu->loop, &qemu->restore.timer);
    qemu->restore.step = KELPIE_QEMU_RESTORE_NONE;
}

static void restore_give_up(struct kelpie_qemu *qemu, const struct kelpie_error *error,
                            int64_t grace_ns) {
    KELPIE_ASSERT(error->code < 0);
    kelpie__qemu_restore_cancel(qemu);
    kelpie__qemu_give_up(qemu, error, grace_ns);
}

static void restore_overdue(void *context) {
    struct kelpie_qemu *qemu = context;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(qemu->restore.step == KELPIE_QEMU_RESTORE_LOAD);
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_RESTORE, 0,
                                "QEMU did not load the device state within %u ms",
                                RESTORE_LOAD_TIMEOUT_MS));
    restore_give_up(qemu, &error, 0);
}

/* Both QEMU's answer and its word that all is loaded are there. */
static void restore_arrive(struct kelpie_qemu *qemu) {
    KELPIE_ASSERT(qemu->restore.step == KELPIE_QEMU_RESTORE_LOAD);
    if (qemu->restore.is_accepted && qemu->restore.is_loaded) {
        kelpie__qemu_restore_cancel(qemu);
        kelpie__vmm_emit(&qemu->vmm, &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_STARTED});
    }
}

void kelpie__qemu_restore_event(struct kelpie_qemu *qemu, const char *status) {
    struct kelpie_error error = {0};
    if (qemu->restore.step != KELPIE_QEMU_RESTORE_LOAD) {
        return;
    }
    if (strcmp(status, "completed") == 0) {
        qemu->restore.is_loaded = true;
        restore_arrive(qemu);
    } else if (strcmp(status, "failed") == 0) {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_RESTORE, 0, "QEMU could not load the device state"));
        restore_give_up(qemu, &error, RESTORE_GRACE_NS);
    }
}

static void restore_answer(void *context, int status, const struct kelpie_json_value *result,
                           const struct kelpie_error *error);

static int restore_pass_handle(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->restore.step != KELPIE_QEMU_RESTORE_NONE);
    KELPIE_ASSERT(qemu->spec->restore->device >= 0);
    const struct kelpie_qmp_command command = {.name = "getfd",
                                               .arguments = "{\"fdname\":\"state\"}",
                                               .handle = qemu->spec->restore->device,
                                               .timeout_ms = KELPIE_QEMU_TIMEOUT_MS};
    qemu->restore.step = KELPIE_QEMU_RESTORE_HANDLE;
    return kelpie__qmp_execute(qemu->qmp, &command, restore_answer, qemu, error);
}

static int restore_load(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->restore.step == KELPIE_QEMU_RESTORE_HANDLE);
    KELPIE_ASSERT(!qemu->restore.is_loaded);
    qemu->restore.step = KELPIE_QEMU_RESTORE_LOAD;
    kelpie__timer_arm(qemu->loop, &qemu->restore.timer,
                      qemu->loop->now_ns + RESTORE_LOAD_TIMEOUT_MS * KELPIE_NS_PER_MS,
                      restore_overdue, qemu);
    return kelpie__qemu_execute(qemu, "migrate-incoming", "{\"uri\":\"fd:state\"}", restore_answer,
                                error);
}

static void restore_memory_done(void *context, int status, const struct kelpie_error *error);

static int restore_lay(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    const struct kelpie_vmm_restore *restore = qemu->spec->restore;
    const struct kelpie_qemu_copy_order order = {
        .pid = qemu->vmm.pid,
        .address = qemu->locate.address,
        .memory_bytes = qemu->memory_bytes,
        .memory = restore->memory,
        .map = restore->map,
        .kind = KELPIE_QEMU_COPY_LOAD,
    };
    KELPIE_ASSERT(qemu->locate.address != 0);
    if (restore->map == KELPIE_OS_NO_HANDLE) {
        return restore_pass_handle(qemu, error);
    }
    qemu->restore.step = KELPIE_QEMU_RESTORE_LAY;
    return kelpie__qemu_copy_start(&qemu->copy, qemu->os, qemu->loop, &order, restore_memory_done,
                                   qemu, error);
}

/* It answers, and it is known where the guest's memory is. */
static int restore_fill(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    if (qemu->vmm.is_waiting) {
        qemu->restore.step = KELPIE_QEMU_RESTORE_WAIT;
        kelpie__vmm_emit(&qemu->vmm, &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_WAITING});
        return 0;
    }
    return restore_lay(qemu, error);
}

/* What comes after the step that has just succeeded. */
static int restore_next(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    switch (qemu->restore.step) {
    case KELPIE_QEMU_RESTORE_LOCATE:
        return restore_fill(qemu, error);
    case KELPIE_QEMU_RESTORE_LAY:
        return restore_pass_handle(qemu, error);
    case KELPIE_QEMU_RESTORE_HANDLE:
        return restore_load(qemu, error);
    case KELPIE_QEMU_RESTORE_LOAD:
        qemu->restore.is_accepted = true;
        restore_arrive(qemu);
        return 0;
    case KELPIE_QEMU_RESTORE_WAIT:
    case KELPIE_QEMU_RESTORE_NONE:
        break;
    }
    KELPIE_ASSERT(false);
    return KELPIE_E_INTERNAL;
}

static void restore_go_on(struct kelpie_qemu *qemu, int status, const struct kelpie_error *error) {
    KELPIE_ASSERT(status <= 0);
    struct kelpie_error own = {0};
    if (qemu->restore.step == KELPIE_QEMU_RESTORE_NONE) {
        return; /* given up meanwhile */
    }
    /* An end in the middle of the load has its reason on stderr. */
    int64_t grace_ns = status == KELPIE_E_CRASHED ? RESTORE_GRACE_NS : 0;
    if (status == 0) {
        error = &own;
        status = restore_next(qemu, &own);
    }
    if (status < 0) {
        restore_give_up(qemu, error, grace_ns);
    }
}

static void restore_answer(void *context, int status, const struct kelpie_json_value *result,
                           const struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0 || result != NULL);
    restore_go_on(context, status, error);
}

static void restore_memory_done(void *context, int status, const struct kelpie_error *error) {
    restore_go_on(context, status, error);
}

/* "7.2.22" and "7.2.9" are the same to a state: the last number counts corrections. */
static bool restore_version_fits(const char *saved, const char *here) {
    const char *saved_end = strrchr(saved, '.');
    const char *here_end = strrchr(here, '.');
    return saved_end != NULL && here_end != NULL && saved_end - saved == here_end - here &&
           memcmp(saved, here, (size_t)(saved_end - saved)) == 0;
}

static int restore_check_version(const struct kelpie_qemu *qemu, struct kelpie_error *error) {
    const char *saved = qemu->spec->restore->description->version;
    const char *here = kelpie__qmp_version(qemu->qmp);
    if (restore_version_fits(saved, here)) {
        return 0;
    }
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                        "QEMU \"%s\" made the snapshot, \"%s\" is installed: its state fits "
                        "versions that differ in the last number only",
                        saved, here);
}

void kelpie__qemu_restore_begin(struct kelpie_qemu *qemu) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(qemu->restore.step == KELPIE_QEMU_RESTORE_NONE);
    KELPIE_ASSERT(qemu->vmm.is_restored);
    KELPIE_ASSERT(qemu->vmm.state == KELPIE_VMM_STARTING);
    int status = restore_check_version(qemu, &error);
    if (status == 0) { /* every save needs it, too, and has no time to ask */
        qemu->restore.step = KELPIE_QEMU_RESTORE_LOCATE;
        status = kelpie__qemu_locate(&qemu->locate, qemu->qmp, qemu->memory_bytes,
                                     restore_memory_done, qemu, &error);
    }
    if (status < 0) {
        restore_give_up(qemu, &error, 0);
    }
}

/* ---- started in advance ---------------------------------------------------------------------- */

int kelpie__qemu_load(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                      struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    bool is_up = qemu->restore.step == KELPIE_QEMU_RESTORE_WAIT;
    enum kelpie_vmm_kernel kernel_kind = qemu->kernel_kind;
    KELPIE_ASSERT((uint64_t)spec->memory_mib << 20 == qemu->memory_bytes);
    KELPIE_ASSERT(spec->disk_count == qemu->disks.count);
    int status = kelpie__qemu_restore_check(qemu, spec, error);
    if (status == 0 && (qemu->kernel_kind != kernel_kind ||
                        qemu->accel.accelerator != spec->restore->description->accelerator)) {
        qemu->kernel_kind = kernel_kind;
        status = kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                              "the QEMU that waits is another machine than the snapshot's");
    }
    if (status == 0) {
        status = kelpie__qemu_restore_check_clock(qemu, error);
    }
    if (status < 0) {
        return status;
    }
    const struct kelpie_vmm_spec *before = qemu->spec;
    qemu->spec = spec;
    if (!is_up) {
        return 0; /* it is loaded when QEMU answers */
    }
    status = restore_check_version(qemu, error);
    if (status == 0) {
        status = restore_lay(qemu, error);
    }
    if (status < 0) {
        qemu->spec = before;
        qemu->restore.step = KELPIE_QEMU_RESTORE_WAIT;
    }
    return status;
}
