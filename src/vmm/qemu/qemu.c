/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The QEMU driver: one qemu-system-x86_64 process, its QMP conversation and its stderr. Owns the
 * process from spawn to reap. Knows nothing of the agent but the stream that carries it.
 */
#include "vmm/qemu/qemu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "vmm/qemu/arguments.h"
#include "vmm/qemu/identify.h"
#include "vmm/qemu/instance.h"
#include "vmm/qemu/program.h"

/* After QMP closed, or the guest ended, QEMU's exit is a matter of milliseconds; then it is helped.
 */
#define QEMU_EXIT_GRACE_NS (3000 * KELPIE_NS_PER_MS)

struct kelpie_qemu *kelpie__qemu_of(struct kelpie_vmm *vmm) {
    struct kelpie_qemu *qemu = KELPIE_CONTAINER_OF(vmm, struct kelpie_qemu, vmm);
    KELPIE_ASSERT(qemu->vmm.operations == &kelpie__qemu_operations);
    return qemu;
}

static bool qemu_is_spawned(const struct kelpie_qemu *qemu) {
    return qemu->process.handle != KELPIE_OS_NO_HANDLE;
}

static void qemu_close(struct kelpie_qemu *qemu, int *handle) {
    if (*handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(qemu->os, *handle)); /* never used */
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

static void qemu_close_pending(struct kelpie_qemu *qemu) {
    for (uint32_t i = 0; i < KELPIE_QEMU_DESCRIPTOR_COUNT; i += 1) {
        qemu_close(qemu, &qemu->pending[i]);
    }
}

/* "QEMU exited with code 1: last lines" in the order of what helps most: what the driver saw, how
 * it ended, its words. */
static void qemu_describe_end(const struct kelpie_qemu *qemu, struct kelpie_vmm_end *end) {
    char process[KELPIE_VMM_TEXT_BYTES_MAX];
    kelpie__vmm_process_describe(&qemu->process, "QEMU", end->has_exit ? &end->exit : NULL, process,
                                 sizeof(process));
    bool has_cause = qemu->cause[0] != '\0';
    int length = snprintf(end->text, sizeof(end->text), "%s%s%s", qemu->cause,
                          has_cause ? "; " : "", process);
    KELPIE_ASSERT(length > 0); /* a cut text is still good for people */
}

static enum kelpie_vmm_end_kind qemu_end_kind(const struct kelpie_qemu *qemu,
                                              const struct kelpie_vmm_end *end) {
    bool is_clean = end->has_exit && !end->exit.is_signalled && end->exit.value == 0;
    if (is_clean && qemu->cause[0] == '\0' && qemu->has_shutdown) {
        if (strcmp(qemu->shutdown_reason, "guest-shutdown") == 0) {
            return KELPIE_VMM_END_POWER_OFF;
        }
        if (strcmp(qemu->shutdown_reason, "guest-reset") == 0) {
            return KELPIE_VMM_END_RESET;
        }
    }
    return qemu->is_kill_requested ? KELPIE_VMM_END_KILLED : KELPIE_VMM_END_FAILED;
}

/* The last act: nothing of the process is left. The instance may be gone when this returns. */
static void qemu_end(struct kelpie_qemu *qemu, const struct kelpie_os_exit *process_exit) {
    KELPIE_ASSERT(!qemu_is_spawned(qemu));
    struct kelpie_vmm_end end = {0};
    kelpie__timer_disarm(qemu->loop, &qemu->end_timer);
    kelpie__timer_disarm(qemu->loop, &qemu->change_timer);
    kelpie__tsc_cancel(&qemu->tsc);
    kelpie__qemu_restore_cancel(qemu);
    kelpie__qemu_channel_close(qemu);
    if (process_exit != NULL) {
        end.has_exit = true;
        end.exit = *process_exit;
    }
    if (qemu->qmp != NULL) {
        kelpie__qmp_drain(qemu->qmp); /* a last SHUTDOWN tells why */
    }
    kelpie__qemu_save_cancel(qemu);
    end.kind = qemu_end_kind(qemu, &end);
    end.code = qemu->cause_code;
    qemu_describe_end(qemu, &end);
    if (qemu->vmm.is_changing) {
        struct kelpie_error error = {0};
        int status = kelpie__fail(&error, KELPIE_E_CRASHED, 0, "%s", end.text);
        KELPIE_REACHED(qemu->os, "QEMU ended while it paused or resumed");
        kelpie__vmm_emit_done(&qemu->vmm, status, &error);
    }
    kelpie__vmm_emit(&qemu->vmm,
                     &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_ENDED, .end = &end});
}

static void qemu_ended(void *context, const struct kelpie_os_exit *process_exit) {
    qemu_end(context, process_exit);
}

/* Killed, or failed, before it was spawned: nobody else tells. */
static void qemu_never_ran(void *context) {
    struct kelpie_qemu *qemu = context;
    KELPIE_REACHED(qemu->os, "QEMU ended before it was spawned");
    qemu_end(qemu, NULL);
}

/* Ends it after this time, unless it has ended by itself; 0: now. */
static void qemu_arm_end(struct kelpie_qemu *qemu, int64_t delay_ns) {
    KELPIE_ASSERT(delay_ns >= 0);
    if (qemu_is_spawned(qemu)) {
        kelpie__vmm_process_end(&qemu->process, delay_ns);
    } else {
        kelpie__timer_arm(qemu->loop, &qemu->end_timer, qemu->loop->now_ns, qemu_never_ran, qemu);
    }
}

static void qemu_note_cause(struct kelpie_qemu *qemu, const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    if (qemu->cause[0] == '\0') {
        qemu->cause_code = error->code;
        int length = snprintf(qemu->cause, sizeof(qemu->cause), "%s", error->message);
        KELPIE_ASSERT(length >= 0); /* a cut text is still good for people */
    }
}

void kelpie__qemu_give_up(struct kelpie_qemu *qemu, const struct kelpie_error *error,
                          int64_t grace_ns) {
    KELPIE_ASSERT(qemu_is_spawned(qemu) || grace_ns == 0);
    qemu_note_cause(qemu, error);
    qemu_arm_end(qemu, grace_ns);
}

int kelpie__qemu_execute(struct kelpie_qemu *qemu, const char *name, const char *arguments,
                         kelpie_qmp_answer_callback callback, struct kelpie_error *error) {
    const struct kelpie_qmp_command command = {.name = name,
                                               .arguments = arguments,
                                               .handle = KELPIE_OS_NO_HANDLE,
                                               .timeout_ms = KELPIE_QEMU_TIMEOUT_MS};
    KELPIE_ASSERT(qemu->qmp != NULL);
    return kelpie__qmp_execute(qemu->qmp, &command, callback, qemu, error);
}

static void qemu_qmp_ready(void *context) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(qemu->vmm.state == KELPIE_VMM_STARTING);
    if (!qemu_is_spawned(qemu)) {
        return; /* the last drain: it was ready, and has ended */
    }
    if (qemu->vmm.is_restored) {
        kelpie__qemu_restore_begin(qemu);
        return;
    }
    kelpie__vmm_emit(&qemu->vmm, &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_STARTED});
    kelpie__qemu_channel_open(qemu);
}

static void qemu_qmp_event(void *context, const struct kelpie_qmp_event *event) {
    struct kelpie_qemu *qemu = context;
    enum kelpie_vmm_state state = qemu->vmm.state;
    switch (event->type) {
    case KELPIE_QMP_EVENT_STOP:
        if (state == KELPIE_VMM_RUNNING && !qemu->is_unsettled) {
            kelpie__vmm_emit(&qemu->vmm,
                             &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_PAUSED});
        }
        break;
    case KELPIE_QMP_EVENT_RESUME:
        qemu->save.has_run = true;
        if (state == KELPIE_VMM_PAUSED && !qemu->is_unsettled) {
            kelpie__vmm_emit(&qemu->vmm,
                             &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_RESUMED});
        }
        break;
    case KELPIE_QMP_EVENT_SHUTDOWN:
        KELPIE_ASSERT(sizeof(qemu->shutdown_reason) == sizeof(event->reason));
        memcpy(qemu->shutdown_reason, event->reason, sizeof(event->reason));
        qemu->has_shutdown = true;
        if (qemu_is_spawned(qemu)) {
            qemu_arm_end(qemu, QEMU_EXIT_GRACE_NS);
        }
        break;
    case KELPIE_QMP_EVENT_MIGRATION:
        kelpie__qemu_restore_event(qemu, event->reason);
        break;
    }
}

static void qemu_qmp_closed(void *context, const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(error->code < 0);
    if (!qemu_is_spawned(qemu)) {
        KELPIE_REACHED(qemu->os, "QMP closed in the last drain");
        return; /* the last drain: it has ended already */
    }
    bool is_end = error->os_error == 0 || error->os_error == ECONNRESET;
    if (error->code == KELPIE_E_PROTOCOL || !is_end) {
        KELPIE_REACHED(qemu->os, "QEMU was killed for what it said on QMP");
        qemu_note_cause(qemu, error);
        qemu_arm_end(qemu, 0);
        return;
    }
    /* Mostly the first sign of its end. If it is not, QEMU is killed for having closed its control
     * channel. */
    if (!qemu->has_shutdown) {
        qemu_arm_end(qemu, QEMU_EXIT_GRACE_NS);
    }
}

static int qemu_spawn_process(struct kelpie_qemu *qemu, const char *const *argv,
                              struct kelpie_error *error) {
    /* No environment: nothing of the user's belongs into a process that a guest may take over. */
    static const char *const environment[] = {"LC_ALL=C", NULL};
    int handles[KELPIE_QEMU_DESCRIPTOR_COUNT];
    memcpy(handles, qemu->pending, sizeof(handles));
    if (qemu->vmm.is_restored) {
        handles[KELPIE_QEMU_BASE] = qemu->spec->restore->base;
    }
    struct kelpie_os_spawn spawn = {
        .path = qemu->program,
        .argv = argv,
        .environment = environment,
        .directory = "/",
        .handles = handles,
        .handle_count = qemu->vmm.is_restored ? KELPIE_QEMU_BASE + 1 : KELPIE_QEMU_BASE,
        .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT | KELPIE_OS_SPAWN_NEW_SESSION |
                 KELPIE_OS_SPAWN_NO_NEW_PRIVILEGES,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    if (KELPIE_CANARY(qemu->os, 10)) {
        spawn.flags &= ~(uint32_t)KELPIE_OS_SPAWN_DIE_WITH_PARENT;
    }
    int status = kelpie__vmm_process_start(&qemu->process, &spawn, error);
    KELPIE_SOMETIMES(qemu->os, "QEMU could not be spawned", status < 0);
    qemu->vmm.pid = qemu->process.pid;
    if (qemu_is_spawned(qemu)) {
        qemu_close_pending(qemu);
        KELPIE_ASSERT(qemu->vmm.pid > 0);
    }
    return status;
}

static int qemu_spawn(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(!qemu_is_spawned(qemu) && qemu->spec != NULL);
    struct kelpie_qemu_arguments *arguments = kelpie__alloc_raw(qemu->os, sizeof(*arguments));
    if (arguments == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate QEMU's arguments");
    }
    struct kelpie_qemu_arguments_input input = {
        .spec = qemu->spec,
        .program = qemu->program,
        .accelerator = qemu->accel.accelerator,
        .kernel_kind = qemu->kernel_kind,
        .tsc_khz = qemu->tsc_khz,
        .base = qemu->vmm.is_restored ? KELPIE_QEMU_BASE : KELPIE_OS_NO_HANDLE,
        .guest_cid = qemu->channel.cid,
        .agent_port = qemu->channel.port,
        .qmp = KELPIE_QEMU_QMP,
        .agent = KELPIE_QEMU_AGENT,
        .console = KELPIE_QEMU_CONSOLE,
    };
    int status = kelpie__qemu_arguments_build(arguments, &input, error);
    if (status == 0) {
        status = qemu_spawn_process(qemu, arguments->values, error);
    }
    kelpie__free(qemu->os, arguments, sizeof(*arguments));
    return status;
}

/* The host's clock is known: for a boot it is the guest's, for a restore it must be. */
static int qemu_clock_known(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->spec != NULL);
    if (!qemu->vmm.is_restored) {
        qemu->guest_tsc_khz = qemu->tsc_khz;
        return qemu_spawn(qemu, error);
    }
    int status = kelpie__qemu_restore_check_clock(qemu, error);
    return status < 0 ? status : qemu_spawn(qemu, error);
}

static void qemu_tsc_known(void *context, int status, uint64_t khz,
                           const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    struct kelpie_error spawn_error = {0};
    KELPIE_ASSERT(qemu->vmm.state == KELPIE_VMM_STARTING);
    if (status < 0) {
        qemu_note_cause(qemu, error);
        qemu_arm_end(qemu, 0);
        return;
    }
    qemu->tsc_khz = khz;
    if (qemu_clock_known(qemu, &spawn_error) < 0) {
        qemu_note_cause(qemu, &spawn_error);
        qemu_arm_end(qemu, 0);
    }
}

/* Makes the streams: QMP, console, and the agent's, unless the guest dials. On failure what was
 * made is closed by destroy. */
static int qemu_make_streams(struct kelpie_qemu *qemu, struct kelpie_vmm_started *out,
                             struct kelpie_error *error) {
    static const struct kelpie_qmp_callbacks callbacks = {
        .ready = qemu_qmp_ready, .event = qemu_qmp_event, .closed = qemu_qmp_closed};
    int streams[3][2]; /* QMP, agent, console */
    bool is_vsock = kelpie__qemu_channel_is_vsock(qemu);
    uint32_t made = 0;
    int status = 0;
    while (made < 3 && status >= 0) {
        bool is_dialled = is_vsock && KELPIE_QEMU_QMP + made == KELPIE_QEMU_AGENT;
        streams[made][0] = KELPIE_OS_NO_HANDLE;
        status = is_dialled ? 0 : kelpie__os_pair(qemu->os, streams[made]);
        if (status >= 0 && !is_dialled) {
            qemu->pending[KELPIE_QEMU_QMP + made] = streams[made][1];
        }
        made += status >= 0 ? 1 : 0;
    }
    if (status < 0) {
        status = kelpie__fail(error, KELPIE_E_BOOT, -status, "make QEMU's streams");
        goto fail_streams;
    }
    status = kelpie__qmp_create(qemu->os, qemu->loop, streams[0][0], &callbacks, qemu, &qemu->qmp,
                                error);
    if (status < 0) {
        goto fail_streams;
    }
    kelpie__os_label(qemu->os, streams[0][0], "qmp");
    if (!is_vsock) {
        kelpie__os_label(qemu->os, streams[1][0], "agent");
    }
    kelpie__os_label(qemu->os, streams[2][0], "console");
    out->agent = streams[1][0];
    out->console = streams[2][0];
    return 0;

fail_streams:
    for (uint32_t i = 0; i < made; i += 1) {
        qemu_close(qemu, &streams[i][0]); /* never used */
    }
    return status;
}

/* What can be known of a spec before anything is made. */
static int qemu_take_spec(struct kelpie_qemu *qemu, const struct kelpie_vmm_spec *spec,
                          struct kelpie_error *error) {
    KELPIE_ASSERT(spec->cache_directory[0] != '\0');
    if (!kelpie__text_copy(qemu->cache_directory, sizeof(qemu->cache_directory),
                           spec->cache_directory)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the cache directory's path is too long");
    }
    qemu->memory_bytes = (uint64_t)spec->memory_mib << 20;
    qemu->kernel_kind = spec->kernel_kind;
    qemu->disks.count = spec->disk_count;
    for (uint32_t i = 0; i < spec->disk_count; i += 1) {
        qemu->disks.is_read_only[i] = spec->disks[i].is_read_only;
    }
    int status = kelpie__qemu_program_find(qemu->os, qemu->program, sizeof(qemu->program), error);
    if (status == 0 && spec->restore != NULL) {
        status = kelpie__qemu_restore_check(qemu, spec, error);
    }
    if (status == 0) {
        enum kelpie_vmm_accelerator wanted =
            spec->restore != NULL ? spec->restore->description->accelerator : spec->accelerator;
        status = kelpie__accel_choose(qemu->os, qemu->cache_directory, qemu->program, wanted,
                                      &qemu->accel, error);
    }
    return status;
}

static int qemu_start(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                      struct kelpie_vmm_started *out, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    int status = qemu_take_spec(qemu, spec, error);
    if (status < 0) {
        return status;
    }
    struct kelpie_vmm_started started = {
        .accelerator = qemu->accel.accelerator,
        .accelerator_reason = qemu->accel.reason,
        .trial_ns = qemu->accel.trial_ns,
        .pause_kind = "vmm",
    };
    if (spec->channel == KELPIE_VMM_CHANNEL_VSOCK) {
        status = kelpie__qemu_channel_make(qemu, error);
    }
    if (status == 0) {
        status = qemu_make_streams(qemu, &started, error);
    }
    if (status < 0) {
        return status;
    }
    qemu->spec = spec;
    bool is_tcg = qemu->accel.accelerator == KELPIE_VMM_ACCELERATOR_TCG;
    if (is_tcg && !kelpie__tsc_recall(qemu->os, qemu->cache_directory, &qemu->tsc_khz)) {
        kelpie__tsc_measure(&qemu->tsc, qemu->os, qemu->loop, qemu->cache_directory, qemu_tsc_known,
                            qemu);
    } else {
        status = qemu_clock_known(qemu, error);
        if (status < 0) {
            qemu_close(qemu, &started.agent);
            qemu_close(qemu, &started.console);
            return status;
        }
    }
    *out = started;
    return 0;
}

static bool qemu_settle(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end,
                        const char *reason) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    bool is_good = end == NULL;
    KELPIE_ASSERT(qemu->vmm.state != KELPIE_VMM_NEW);
    /* One that was asked for and does not boot may have other reasons: that is no verdict. */
    bool is_bad = !is_good && qemu->accel.trial_ns > 0 && kelpie__accel_is_blamed(end);
    KELPIE_SOMETIMES(qemu->os, "a trial of KVM ended for a reason that is not KVM's",
                     !is_good && !is_bad);
    if (is_bad || (is_good && qemu->accel.is_unproved)) {
        kelpie__accel_remember(qemu->os, qemu->cache_directory, &qemu->accel, is_good, reason);
    }
    qemu->accel.trial_ns = 0;
    qemu->accel.is_unproved = false;
    return is_bad;
}

static int qemu_check_clock(struct kelpie_vmm *vmm, const struct kelpie_vmm_guest_clock *clock,
                            struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    if (qemu->tsc_khz == 0) {
        return 0; /* the guest measured for itself, or KVM tells it */
    }
    KELPIE_ASSERT(qemu->accel.accelerator == KELPIE_VMM_ACCELERATOR_TCG);
    return kelpie__tsc_compare(qemu->tsc_khz, clock, error);
}

static int qemu_describe(struct kelpie_vmm *vmm, struct kelpie_vmm_description *out,
                         struct kelpie_error *error) {
    const struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    KELPIE_ASSERT(qemu->qmp != NULL);
    *out = (struct kelpie_vmm_description){.accelerator = qemu->accel.accelerator,
                                           .tsc_khz = qemu->guest_tsc_khz};
    bool fits =
        kelpie__text_copy(out->vmm, sizeof(out->vmm), "qemu") &&
        kelpie__text_copy(out->version, sizeof(out->version), kelpie__qmp_version(qemu->qmp)) &&
        kelpie__text_copy(out->machine, sizeof(out->machine),
                          kelpie__qemu_machine_name(qemu->kernel_kind));
    KELPIE_ASSERT(fits);
    int status = kelpie__accel_cpu(qemu->os, qemu->accel.accelerator, out->cpu, sizeof(out->cpu));
    return status == 0 ? 0
                       : kelpie__fail(error, KELPIE_E_IO, -status, "look at this host's processor");
}

static void qemu_kill(struct kelpie_vmm *vmm) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    KELPIE_ASSERT(qemu->vmm.state != KELPIE_VMM_ENDED);
    qemu->is_kill_requested = true;
    kelpie__tsc_cancel(&qemu->tsc);
    qemu_arm_end(qemu, 0);
}

static void qemu_destroy(struct kelpie_vmm *vmm) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    kelpie__tsc_cancel(&qemu->tsc);
    kelpie__timer_disarm(qemu->loop, &qemu->end_timer);
    kelpie__timer_disarm(qemu->loop, &qemu->change_timer);
    kelpie__qemu_restore_cancel(qemu);
    kelpie__qemu_save_cancel(qemu);
    kelpie__vmm_process_deinit(&qemu->process);
    kelpie__qmp_destroy(qemu->qmp);
    kelpie__qemu_channel_close(qemu);
    qemu_close_pending(qemu);
    KELPIE_ASSERT(!qemu_is_spawned(qemu));
    kelpie__free(qemu->os, qemu, sizeof(*qemu));
}

/* TCG takes over where KVM boots no guest, and runs everywhere: no proof is needed. */
static int qemu_find(struct kelpie_os *os, const char *cache_directory, bool *out_is_proved,
                     struct kelpie_error *error) {
    char program[4096];
    int status = kelpie__qemu_program_find(os, program, sizeof(program), error);
    KELPIE_ASSERT(status < 0 || program[0] == '/');
    KELPIE_ASSERT(cache_directory[0] == '/');
    if (status == 0) {
        *out_is_proved = true;
    }
    return status;
}

static int qemu_create(const struct kelpie_vmm_create *create, struct kelpie_vmm **out,
                       struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__alloc(create->os, sizeof(*qemu));
    if (qemu == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes for QEMU",
                            sizeof(*qemu));
    }
    qemu->os = create->os;
    qemu->loop = create->loop;
    kelpie__vmm_process_init(&qemu->process, create->os, create->loop, qemu_ended, qemu);
    qemu->kernel_kind = KELPIE_VMM_KERNEL_GENERIC;
    qemu->channel.listener = KELPIE_OS_NO_HANDLE;
    for (uint32_t i = 0; i < KELPIE_QEMU_DESCRIPTOR_COUNT; i += 1) {
        qemu->pending[i] = KELPIE_OS_NO_HANDLE;
    }
    KELPIE_ASSERT(qemu->qmp == NULL);
    *out = &qemu->vmm;
    return 0;
}

const struct kelpie_vmm_operations kelpie__qemu_operations = {
    .name = "qemu",
    .capabilities = KELPIE_VMM_CAN_PAUSE | KELPIE_VMM_CAN_SNAPSHOT,
    .find = qemu_find,
    .create = qemu_create,
    .start = qemu_start,
    .settle = qemu_settle,
    .check_clock = qemu_check_clock,
    .pause = kelpie__qemu_pause,
    .resume = kelpie__qemu_resume,
    .describe = qemu_describe,
    .save_ahead = kelpie__qemu_save_ahead,
    .save = kelpie__qemu_save,
    .switch_disk = kelpie__qemu_switch_disk,
    .check_devices = kelpie__qemu_check_devices,
    .make_overlay = kelpie__qemu_make_overlay,
    .identify = kelpie__qemu_identify,
    .load = kelpie__qemu_load,
    .kill = qemu_kill,
    .destroy = qemu_destroy,
};
