/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See waiting.h.
 */
#include "monitor/waiting.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/backend.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/snapshot.h"

#define WAITING_KEPT_BASE "kept/" KELPIE_SNAPSHOT_BASE_FILE
#define WAITING_TEXT_BYTES_MAX (2u * KELPIE_PATH_BYTES_MAX)

static void waiting_check(const struct kelpie_waiting *waiting) {
    KELPIE_ASSERT((waiting->phase == KELPIE_WAITING_NONE) == (waiting->vmm == NULL));
    KELPIE_ASSERT(waiting->phase != KELPIE_WAITING_READY || waiting->process >= 0);
    KELPIE_ASSERT(waiting->phase == KELPIE_WAITING_STARTING || waiting->reply.client == 0);
}

static void waiting_clear(struct kelpie_waiting *waiting) {
    *waiting = (struct kelpie_waiting){
        .monitor = waiting->monitor,
        .base = KELPIE_OS_NO_HANDLE,
        .process = KELPIE_OS_NO_HANDLE,
        .started = {.agent = KELPIE_OS_NO_HANDLE, .console = KELPIE_OS_NO_HANDLE}};
    waiting_check(waiting);
}

void kelpie__waiting_init(struct kelpie_waiting *waiting, struct kelpie_monitor *monitor) {
    waiting->monitor = monitor;
    waiting_clear(waiting);
}

static void waiting_close(struct kelpie_waiting *waiting, int *handle) {
    if (*handle >= 0) {
        kelpie__ignore(kelpie__os_close(waiting->monitor->os, *handle)); /* never used */
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

/* All but the VMM. */
static void waiting_let_go(struct kelpie_waiting *waiting) {
    if (waiting->process >= 0) {
        kelpie__loop_unwatch(waiting->monitor->loop, waiting->process_watch);
    }
    waiting_close(waiting, &waiting->process);
    waiting_close(waiting, &waiting->base);
    waiting_close(waiting, &waiting->started.agent);
    waiting_close(waiting, &waiting->started.console);
}

void kelpie__waiting_deinit(struct kelpie_waiting *waiting) {
    waiting_let_go(waiting);
    kelpie__vmm_destroy(waiting->vmm);
    waiting_clear(waiting);
}

static void waiting_refuse(struct kelpie_waiting *waiting, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    kelpie__reply_refuse(waiting->monitor, &waiting->reply, why);
}

void kelpie__waiting_drop(struct kelpie_waiting *waiting) {
    struct kelpie_error error = {0};
    waiting_check(waiting);
    if (waiting->phase == KELPIE_WAITING_NONE || waiting->phase == KELPIE_WAITING_ENDING) {
        return;
    }
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "nothing waits here any more"));
    waiting_refuse(waiting, &error);
    waiting_let_go(waiting);
    waiting->phase = KELPIE_WAITING_ENDING;
    kelpie__vmm_kill(waiting->vmm); /* its end comes */
}

/* ---- over what a VM lies --------------------------------------------------------------------- */

static int base_path(const struct kelpie_monitor *monitor, char out[KELPIE_PATH_BYTES_MAX],
                     struct kelpie_error *error) {
    const struct kelpie_source *source = monitor->restore.source;
    char directory[KELPIE_PATH_BYTES_MAX];
    bool fits = false;
    if (source->snapshot.directory < 0) { /* it has settled */
        fits = kelpie__text_join(out, KELPIE_PATH_BYTES_MAX, monitor->options.vm_directory,
                                 WAITING_KEPT_BASE);
    } else {
        fits = kelpie__text_join(directory, sizeof(directory), source->store.path,
                                 source->snapshot.entry) &&
               kelpie__text_join(out, KELPIE_PATH_BYTES_MAX, directory,
                                 source->snapshot.manifest.has_base ? KELPIE_SNAPSHOT_BASE_FILE
                                                                    : KELPIE_SNAPSHOT_MEMORY_FILE);
    }
    return fits ? 0
                : kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of the VM's base is too long");
}

static int base_check(const struct kelpie_monitor *monitor, struct kelpie_error *error) {
    const struct kelpie_lifecycle *lifecycle = &monitor->lifecycle;
    bool is_there =
        (lifecycle->state == KELPIE_VM_RUNNING || lifecycle->state == KELPIE_VM_PAUSED) &&
        lifecycle->vmm != NULL && !lifecycle->is_ending;
    if (!is_there) {
        return kelpie__fail(error, KELPIE_E_STATE, 0,
                            "VM \"%s\" is %s, and has to be running or paused",
                            monitor->config.name, kelpie_vm_state_name(lifecycle->state));
    }
    if (monitor->restore.source == NULL) {
        return kelpie__fail(
            error, KELPIE_E_UNSUPPORTED, 0,
            "VM \"%s\" was booted, and its memory lies over nothing: forks wait for "
            "VMs from a template or a snapshot",
            monitor->config.name);
    }
    if (lifecycle->spec.disk_count > 0) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "VM \"%s\" has disks, whose layers are known with the fork only",
                            monitor->config.name);
    }
    return 0;
}

void kelpie__waiting_tell_base(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    struct kelpie_error error = {0};
    struct kelpie_vmm_description description;
    struct kelpie_json_writer writer;
    char path[KELPIE_PATH_BYTES_MAX];
    char text[WAITING_TEXT_BYTES_MAX];
    int status = base_check(monitor, &error);
    if (status == 0) {
        status = base_path(monitor, path, &error);
    }
    if (status == 0) {
        status = kelpie__vmm_describe(monitor->lifecycle.vmm, &description, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "source", monitor->config.name);
    kelpie__json_write_i64(&writer, "vmm_pid", monitor->lifecycle.vmm->pid);
    kelpie__json_write_string(&writer, "base", path);
    kelpie__json_write_string(&writer, "vmm", description.vmm);
    kelpie__json_write_string(&writer, "version", description.version);
    kelpie__json_write_string(&writer, "machine", description.machine);
    kelpie__json_write_string(&writer, "cpu", description.cpu);
    kelpie__json_write_bool(&writer, "is_kvm",
                            description.accelerator == KELPIE_VMM_ACCELERATOR_KVM);
    kelpie__json_write_u64(&writer, "tsc_khz", description.tsc_khz);
    kelpie__json_object_end(&writer);
    if (kelpie__json_finish(&writer) < 0) {
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_LIMIT,
                                  "the path of the VM's base is too long");
        return;
    }
    kelpie__reply_result(monitor, &reply, text);
}

/* ---- it begins ------------------------------------------------------------------------------- */

static void waiting_up(struct kelpie_waiting *waiting) {
    struct kelpie_monitor *monitor = waiting->monitor;
    KELPIE_ASSERT(waiting->phase == KELPIE_WAITING_STARTING);
    waiting->phase = KELPIE_WAITING_READY;
    kelpie__ignore(kelpie__lifecycle_save(&monitor->lifecycle, NULL)); /* for people */
    kelpie__event_log_write(monitor, "notice", "%s", monitor->lifecycle.record.reason);
    kelpie__reply_result(monitor, &waiting->reply, "{}");
    waiting_check(waiting);
}

/* One that ends by itself is missed by nobody: the fork starts another. */
static void waiting_ended(struct kelpie_waiting *waiting, const struct kelpie_vmm_end *end) {
    struct kelpie_monitor *monitor = waiting->monitor;
    struct kelpie_error error = {0};
    if (waiting->phase != KELPIE_WAITING_ENDING) {
        KELPIE_REACHED(monitor->os, "a VMM that waited for a fork ended");
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_RESTORE, 0,
                                    "the VMM that was to wait for a fork ended: %s", end->text));
        kelpie__event_log_write(monitor, "notice", "%s", error.message);
        waiting_refuse(waiting, &error);
    }
    waiting_let_go(waiting);
    kelpie__vmm_destroy(waiting->vmm);
    waiting_clear(waiting);
    kelpie__ignore(kelpie__lifecycle_save(&monitor->lifecycle, NULL)); /* for people */
}

static void waiting_event(void *context, const struct kelpie_vmm_event *event) {
    struct kelpie_waiting *waiting = context;
    KELPIE_ASSERT(waiting->vmm != NULL);
    switch (event->type) {
    case KELPIE_VMM_EVENT_WAITING:
        if (waiting->phase == KELPIE_WAITING_STARTING) {
            waiting_up(waiting);
        }
        break;
    case KELPIE_VMM_EVENT_ENDED:
        waiting_ended(waiting, event->end);
        break;
    case KELPIE_VMM_EVENT_STARTED: /* nothing was given to load */
    case KELPIE_VMM_EVENT_AGENT:
    case KELPIE_VMM_EVENT_PAUSED:
    case KELPIE_VMM_EVENT_RESUMED:
        KELPIE_ASSERT(false);
        break;
    }
}

/* What is waited for can never come. */
static void waiting_in_vain(void *context, uint32_t bits) {
    struct kelpie_waiting *waiting = context;
    KELPIE_ASSERT(bits != 0 && waiting->process >= 0);
    KELPIE_REACHED(waiting->monitor->os, "a VM ended for which a fork waited");
    kelpie__waiting_drop(waiting);
    kelpie__lifecycle_owner_gone(waiting->monitor, "the VM that it was to be forked from ended");
}

static int waiting_watch(struct kelpie_waiting *waiting, int32_t pid, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = waiting->monitor;
    int process = pid > 0 ? kelpie__os_open_process(monitor->os, pid) : KELPIE_OS_NO_HANDLE;
    if (process < 0) {
        return kelpie__fail(error, KELPIE_E_STATE, 0, "the VM to be forked has ended");
    }
    int status = kelpie__loop_watch(monitor->loop, process, KELPIE_OS_READABLE, waiting_in_vain,
                                    waiting, &waiting->process_watch);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, process));
        return kelpie__fail(error, status, 0, "watch the VM to be forked");
    }
    waiting->process = process;
    return 0;
}

/* What vm.base said there. */
static int waiting_read(struct kelpie_waiting *waiting, const char *params, size_t length,
                        struct kelpie_error *error) {
    struct kelpie_monitor *monitor = waiting->monitor;
    struct kelpie_vmm_description *found = &waiting->description;
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    char source[KELPIE_NAME_BYTES_MAX + 1];
    char path[KELPIE_PATH_BYTES_MAX];
    uint64_t pid = 0;
    bool is_kvm = false;
#define TEXT(key, to) kelpie__json_find_string(params, length, key, to, sizeof(to)) == 0
    bool is_good = TEXT("source", source) && TEXT("base", path) && TEXT("vmm", found->vmm) &&
                   TEXT("version", found->version) && TEXT("machine", found->machine) &&
                   TEXT("cpu", found->cpu) &&
                   kelpie__json_find_u64(params, length, "vmm_pid", &pid) == 0 &&
                   pid <= INT32_MAX &&
                   kelpie__json_find_u64(params, length, "tsc_khz", &found->tsc_khz) == 0 &&
                   kelpie__json_find_bool(params, length, "is_kvm", &is_kvm) == 0;
#undef TEXT
    if (!is_good) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "vm.wait: that is no answer of vm.base");
    }
    found->accelerator = is_kvm ? KELPIE_VMM_ACCELERATOR_KVM : KELPIE_VMM_ACCELERATOR_TCG;
    int status = waiting_watch(waiting, (int32_t)pid, error);
    if (status < 0) {
        return status;
    }
    waiting->base = kelpie__os_open(monitor->os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
    if (waiting->base < 0) {
        return kelpie__fail(error, KELPIE_E_RESTORE, -waiting->base, "open \"%s\"", path);
    }
    kelpie__ignore(kelpie__text_format(record->reason, sizeof(record->reason),
                                       "waits to be forked from VM \"%s\"", source));
    return 0;
}

static int waiting_start(struct kelpie_waiting *waiting, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = waiting->monitor;
    const struct kelpie_vmm_create create = {
        .os = monitor->os, .loop = monitor->loop, .callback = waiting_event, .context = waiting};
    waiting->restore = (struct kelpie_vmm_restore){.device = KELPIE_OS_NO_HANDLE,
                                                   .base = waiting->base,
                                                   .memory = KELPIE_OS_NO_HANDLE,
                                                   .map = KELPIE_OS_NO_HANDLE,
                                                   .description = &waiting->description};
    waiting->spec = (struct kelpie_vmm_spec){.vm_directory = monitor->options.vm_directory,
                                             .cache_directory = monitor->options.cache_directory,
                                             .cpu_count = (uint32_t)monitor->config.cpus,
                                             .memory_mib = (uint32_t)monitor->config.memory_mib,
                                             .restore = &waiting->restore};
    int status = kelpie__backend_choose(monitor, true, error);
    if (status == 0) {
        status =
            kelpie__vmm_create(kelpie__vmm_driver(monitor->backend), &create, &waiting->vmm, error);
    }
    if (status == 0) {
        status = kelpie__vmm_start(waiting->vmm, &waiting->spec, &waiting->started, error);
    }
    if (status == KELPIE_E_BOOT) { /* as the driver calls it: nothing is booted here */
        KELPIE_ASSERT(error->code == status);
        error->code = KELPIE_E_RESTORE;
        status = error->code;
    }
    return status;
}

void kelpie__waiting_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length) {
    struct kelpie_waiting *waiting = &monitor->waiting;
    struct kelpie_error error = {0};
    int status = 0;
    waiting_check(waiting);
    if (monitor->lifecycle.state != KELPIE_VM_CREATED || waiting->phase != KELPIE_WAITING_NONE ||
        monitor->lifecycle.is_ending || !kelpie__client_is_owner(monitor, reply.client)) {
        status = kelpie__fail(&error, KELPIE_E_STATE, 0,
                              "wait: VM \"%s\" has to be new, and the caller's own",
                              monitor->config.name);
    }
    if (status == 0) {
        status = waiting_read(waiting, params, length, &error);
        if (status == 0) {
            status = waiting_start(waiting, &error);
        }
        if (status < 0) {
            kelpie__waiting_deinit(waiting);
        }
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    waiting->reply = reply;
    waiting->phase = KELPIE_WAITING_STARTING;
    waiting_check(waiting);
}

/* ---- it is taken ----------------------------------------------------------------------------- */

static bool waiting_fits(const struct kelpie_waiting *waiting, const struct kelpie_vmm_spec *spec) {
    struct kelpie_os_stat mine;
    struct kelpie_os_stat wanted;
    struct kelpie_os *os = waiting->monitor->os;
    if (waiting->phase != KELPIE_WAITING_READY || spec->disk_count != waiting->spec.disk_count ||
        spec->memory_mib != waiting->spec.memory_mib ||
        spec->cpu_count != waiting->spec.cpu_count) {
        return false;
    }
    /* A base is one file under several names. */
    return kelpie__os_stat(os, waiting->base, "", false, &mine) == 0 &&
           kelpie__os_stat(os, spec->restore->base, "", false, &wanted) == 0 &&
           mine.device == wanted.device && mine.inode == wanted.inode;
}

bool kelpie__waiting_take(struct kelpie_waiting *waiting, struct kelpie_candidate *candidate,
                          kelpie_vmm_event_callback callback, void *context,
                          struct kelpie_vmm_started *out) {
    waiting_check(waiting);
    if (waiting->phase == KELPIE_WAITING_NONE) {
        return false;
    }
    bool is_taken = waiting_fits(waiting, &candidate->spec) &&
                    kelpie__vmm_load(waiting->vmm, &candidate->spec, NULL) == 0;
    KELPIE_SOMETIMES(waiting->monitor->os, "a VMM that waited was taken", is_taken);
    KELPIE_SOMETIMES(waiting->monitor->os, "a VMM that waited did not fit", !is_taken);
    if (!is_taken) { /* what is wrong is found again, and told, with a new one */
        kelpie__waiting_drop(waiting);
        return false;
    }
    kelpie__vmm_hand_over(waiting->vmm, callback, context);
    candidate->vmm = waiting->vmm;
    *out = waiting->started;
    waiting->vmm = NULL;
    waiting->started.agent = KELPIE_OS_NO_HANDLE;
    waiting->started.console = KELPIE_OS_NO_HANDLE;
    waiting_let_go(waiting);
    waiting_clear(waiting);
    return true;
}
