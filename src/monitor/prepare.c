/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See prepare.h.
 */
#include "monitor/prepare.h"

#include <errno.h>
#include <string.h>

#include "core/memory_info.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/qcow2.h"

/* the library waits 120 s beyond the boot timeout */
#define PREPARE_TIMEOUT_NS (110 * KELPIE_NS_PER_S)
#define PREPARE_SIGNAL_KILL 9
/* exit codes of kelpie-pack (pack/pack.h) that blame the host */
#define PREPARE_EXIT_NO_SPACE 3
#define PREPARE_EXIT_SYSTEM 4
#define PREPARE_HANDLE_COUNT 3u

static_assert(KELPIE_VMM_DISK_COUNT_MAX >= 2, "a root and what lies over it");

static void prepare_next(struct kelpie_prepare *prepare);

static void prepare_check(const struct kelpie_prepare *prepare) {
    KELPIE_ASSERT(prepare->step <= KELPIE_PREPARE_DONE);
    KELPIE_ASSERT(prepare->text_length < sizeof(prepare->text));
    /* a child and what it says come and go together */
    KELPIE_ASSERT((prepare->process >= 0) == (prepare->output >= 0));
    if (prepare->process >= 0) {
        KELPIE_ASSERT(prepare->is_running);
        KELPIE_ASSERT(prepare->step != KELPIE_PREPARE_DONE);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

static void prepare_close(struct kelpie_prepare *prepare) {
    struct kelpie_monitor *monitor = prepare->monitor;
    kelpie__timer_disarm(monitor->loop, &prepare->timer);
    if (prepare->process >= 0) {
        kelpie__loop_unwatch(monitor->loop, prepare->process_watch);
        kelpie__ignore(kelpie__os_close(monitor->os, prepare->process));
        prepare->process = KELPIE_OS_NO_HANDLE;
    }
    if (prepare->output >= 0) {
        kelpie__loop_unwatch(monitor->loop, prepare->output_watch);
        kelpie__ignore(kelpie__os_close(monitor->os, prepare->output));
        prepare->output = KELPIE_OS_NO_HANDLE;
    }
}

static void prepare_report(struct kelpie_prepare *prepare, const struct kelpie_error *error) {
    KELPIE_ASSERT(prepare->is_running);
    KELPIE_ASSERT(error != NULL || prepare->step == KELPIE_PREPARE_DONE);
    prepare_check(prepare);
    prepare_close(prepare);
    prepare->is_running = false;
    kelpie__lifecycle_prepared(prepare->monitor, error);
}

void kelpie__prepare_cancel(struct kelpie_prepare *prepare) {
    if (!prepare->is_running) {
        return;
    }
    if (prepare->process >= 0) {
        struct kelpie_os_exit exit;
        /* It may have ended by itself; a child that is not reaped here is reaped at our own end. */
        kelpie__ignore(
            kelpie__os_signal(prepare->monitor->os, prepare->process, PREPARE_SIGNAL_KILL));
        kelpie__ignore(kelpie__os_reap(prepare->monitor->os, prepare->process, &exit));
    }
    prepare_close(prepare);
    prepare->is_running = false;
}

/* ---- results of a step ----------------------------------------------------------------------- */

/* The last line of what the child printed. */
static char *prepare_line(struct kelpie_prepare *prepare) {
    KELPIE_ASSERT(prepare->text_length < sizeof(prepare->text));
    prepare->text[prepare->text_length] = '\0';
    size_t length = prepare->text_length;
    while (length > 0 && prepare->text[length - 1] == '\n') {
        length -= 1;
        prepare->text[length] = '\0';
    }
    char *newline = strrchr(prepare->text, '\n');
    return newline == NULL ? prepare->text : newline + 1;
}

/* "FORMAT FILESYSTEM" of identify. */
static bool prepare_read_image(struct kelpie_prepare *prepare, const char *line) {
    KELPIE_ASSERT(prepare->root_kind == KELPIE_PREPARE_ROOT_IMAGE);
    prepare->is_qcow2 = kelpie__text_has_prefix(line, "qcow2 ");
    const char *space = strchr(line, ' ');
    return (prepare->is_qcow2 || kelpie__text_has_prefix(line, "raw ")) && space != NULL &&
           kelpie__text_copy(prepare->root_type, sizeof(prepare->root_type), space + 1);
}

static bool prepare_take(struct kelpie_prepare *prepare) {
    const char *line = prepare_line(prepare);
    KELPIE_ASSERT(prepare->is_running);
    KELPIE_ASSERT(prepare->process == KELPIE_OS_NO_HANDLE);
    switch (prepare->step) {
    case KELPIE_PREPARE_KERNEL:
        return kelpie__text_copy(prepare->kernel, sizeof(prepare->kernel), prepare->item.path);
    case KELPIE_PREPARE_INITRAMFS:
        return kelpie__text_copy(prepare->initramfs, sizeof(prepare->initramfs),
                                 prepare->item.path);
    case KELPIE_PREPARE_ROOT:
        if (prepare->root_kind == KELPIE_PREPARE_ROOT_IMAGE) {
            return prepare_read_image(prepare, line) &&
                   kelpie__text_copy(prepare->root, sizeof(prepare->root), prepare->item.path);
        }
        kelpie__ignore(kelpie__text_copy(prepare->root_type, sizeof(prepare->root_type), "erofs"));
        if (prepare->root_kind == KELPIE_PREPARE_ROOT_PACKED) {
            return kelpie__text_copy(prepare->root, sizeof(prepare->root), prepare->item.path);
        }
        return line[0] == '/' && kelpie__text_copy(prepare->root, sizeof(prepare->root), line);
    case KELPIE_PREPARE_DISK:
        return kelpie__text_copy(prepare->upper, sizeof(prepare->upper), prepare->item.path);
    case KELPIE_PREPARE_DONE:
        break;
    }
    return false;
}

/* ---- the child ------------------------------------------------------------------------------- */

static void prepare_read(struct kelpie_prepare *prepare) {
    size_t room = sizeof(prepare->text) - 1 - prepare->text_length;
    char scrap[512];
    int64_t count = 1;
    KELPIE_ASSERT(prepare->output >= 0);
    KELPIE_ASSERT(prepare->text_length < sizeof(prepare->text));
    for (unsigned budget = 64; count > 0 && budget > 0; budget -= 1) {
        bool is_full = room == 0;
        count = kelpie__os_read(prepare->monitor->os, prepare->output,
                                is_full ? scrap : prepare->text + prepare->text_length,
                                is_full ? sizeof(scrap) : room);
        if (count > 0 && !is_full) {
            prepare->text_length += (size_t)count;
            room -= (size_t)count;
        }
    }
    if (count == 0) {
        kelpie__loop_watch_change(prepare->monitor->loop, prepare->output_watch, 0);
    }
}

static void prepare_readable(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    prepare_read(context);
}

/* Of a step that failed because of what it was given. */
static int prepare_fail_code(const struct kelpie_prepare *prepare) {
    return prepare->step == KELPIE_PREPARE_ROOT     ? KELPIE_E_ROOT_ACCESS
           : prepare->step == KELPIE_PREPARE_KERNEL ? KELPIE_E_CONFIG
                                                    : KELPIE_E_BOOT;
}

static void prepare_ended(void *context, uint32_t bits) {
    struct kelpie_prepare *prepare = context;
    struct kelpie_os_exit exit = {0};
    struct kelpie_error error = {0};
    KELPIE_ASSERT(bits != 0);
    prepare_check(prepare);
    KELPIE_ASSERT(prepare->process >= 0);
    int status = kelpie__os_reap(prepare->monitor->os, prepare->process, &exit);
    if (status == -EAGAIN) {
        return;
    }
    prepare_read(prepare);
    bool is_good = status == 0 && !exit.is_signalled && exit.value == 0;
    const char *line = prepare_line(prepare);
    prepare_close(prepare);
    if (is_good && prepare_take(prepare)) {
        prepare->step += 1;
        prepare_next(prepare);
        return;
    }
    if (exit.is_signalled) {
        KELPIE_REACHED(prepare->monitor->os, "kelpie-pack was killed");
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_BOOT, 0, "kelpie-pack was killed by signal %d",
                                    exit.value));
    } else {
        bool is_host = exit.value == PREPARE_EXIT_NO_SPACE || exit.value == PREPARE_EXIT_SYSTEM;
        int code = is_host ? KELPIE_E_BOOT : prepare_fail_code(prepare);
        kelpie__ignore(kelpie__fail(&error, code, 0, "%s",
                                    line[0] != '\0' ? line : "kelpie-pack failed without a word"));
    }
    prepare_report(prepare, &error);
}

static void prepare_timed_out(void *context) {
    struct kelpie_prepare *prepare = context;
    struct kelpie_error error = {0};
    prepare_check(prepare);
    KELPIE_ASSERT(prepare->process >= 0);
    KELPIE_REACHED(prepare->monitor->os, "kelpie-pack did not end in time");
    kelpie__ignore(
        kelpie__fail(&error, KELPIE_E_BOOT, 0,
                     "kelpie-pack was still at work after %lld s; is the root larger than "
                     "meant, or the disk very slow?",
                     (long long)(PREPARE_TIMEOUT_NS / KELPIE_NS_PER_S)));
    kelpie__ignore(kelpie__os_signal(prepare->monitor->os, prepare->process, PREPARE_SIGNAL_KILL));
    prepare_report(prepare, &error);
}

static int prepare_watch(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    KELPIE_ASSERT(prepare->process >= 0);
    KELPIE_ASSERT(prepare->output >= 0);
    struct kelpie_loop *loop = prepare->monitor->loop;
    int status = kelpie__loop_watch(loop, prepare->process, KELPIE_OS_READABLE, prepare_ended,
                                    prepare, &prepare->process_watch);
    if (status == 0) {
        status = kelpie__loop_watch(loop, prepare->output, KELPIE_OS_READABLE, prepare_readable,
                                    prepare, &prepare->output_watch);
        if (status < 0) {
            kelpie__loop_unwatch(loop, prepare->process_watch);
        }
    }
    return status < 0 ? kelpie__fail(error, status, 0, "watch kelpie-pack") : 0;
}

static int prepare_spawn(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
                                              NULL};
    struct kelpie_os *os = prepare->monitor->os;
    const char *step = "";
    int pipe[2];
    KELPIE_ASSERT(prepare->process == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(prepare->output == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(!prepare->item.is_ready);
    int status = kelpie__os_pipe(os, pipe);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "make a pipe");
    }
    const int handles[PREPARE_HANDLE_COUNT] = {KELPIE_OS_NO_HANDLE, pipe[1], pipe[1]};
    const struct kelpie_os_spawn spawn = {
        .path = prepare->item.arguments[0],
        .argv = prepare->item.arguments,
        .environment = environment,
        .directory = "/",
        .handles = handles,
        .handle_count = PREPARE_HANDLE_COUNT,
        .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    status = kelpie__os_spawn(os, &spawn, &prepare->process, NULL, &step);
    kelpie__ignore(kelpie__os_close(os, pipe[1]));
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, pipe[0]));
        KELPIE_REACHED(os, "kelpie-pack could not be started");
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "start \"%s\" (%s)",
                            prepare->item.arguments[0], step);
    }
    prepare->output = pipe[0];
    prepare->text_length = 0;
    status = prepare_watch(prepare, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_signal(os, prepare->process, PREPARE_SIGNAL_KILL));
        kelpie__ignore(kelpie__os_close(os, prepare->process));
        kelpie__ignore(kelpie__os_close(os, prepare->output));
        prepare->process = KELPIE_OS_NO_HANDLE;
        prepare->output = KELPIE_OS_NO_HANDLE;
        return status;
    }
    kelpie__timer_arm(prepare->monitor->loop, &prepare->timer,
                      prepare->monitor->loop->now_ns + PREPARE_TIMEOUT_NS, prepare_timed_out,
                      prepare);
    return 0;
}

/* ---- the steps ------------------------------------------------------------------------------- */

static int plan_kernel(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    int status = kelpie__cache_find_kernel(&prepare->cache, prepare->monitor->config.kernel,
                                           &prepare->found, error);
    if (status < 0) {
        return status;
    }
    if (prepare->monitor->backend == KELPIE_VMM_BACKEND_KRUN && !prepare->found.is_own) {
        return kelpie__fail(
            error, KELPIE_E_UNSUPPORTED, 0,
            "start: libkrun names its devices on the command line, which \"%.200s\" "
            "does not read; give Kelpie's own kernel, or leave it out for "
            "libkrunfw's, or use qemu",
            prepare->found.path);
    }
    prepare->is_own_kernel = prepare->found.is_own;
    kelpie__ignore(kelpie__text_copy(prepare->kernel_found, sizeof(prepare->kernel_found),
                                     prepare->found.path));
    KELPIE_ASSERT(prepare->step == KELPIE_PREPARE_KERNEL);
    return kelpie__cache_plan_kernel(&prepare->cache, &prepare->found, &prepare->item, error);
}

static int plan_root(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    struct kelpie_os_stat status;
    const char *root = prepare->monitor->config.root;
    KELPIE_ASSERT(prepare->step == KELPIE_PREPARE_ROOT);
    if (root[0] == '\0') { /* the built-in one, for a VMM that takes no initramfs */
        prepare->root_kind = KELPIE_PREPARE_ROOT_PACKED;
        return kelpie__cache_plan_builtin(&prepare->cache, &prepare->item, error);
    }
    int result = kelpie__os_stat(prepare->monitor->os, KELPIE_OS_CWD, root, true, &status);
    if (result < 0) {
        return kelpie__fail(error, KELPIE_E_ROOT_NOT_FOUND, -result, "root: \"%s\"", root);
    }
    if (status.kind == KELPIE_OS_KIND_DIRECTORY) {
        prepare->root_kind = KELPIE_PREPARE_ROOT_DIRECTORY;
        return kelpie__cache_plan_root(&prepare->cache, root, &prepare->item, error);
    }
    prepare->root_kind = KELPIE_PREPARE_ROOT_IMAGE;
    return kelpie__cache_plan_identify(&prepare->cache, root, &prepare->item, error);
}

/* The uppermost layer says what is below it as the record does. It may have been made over an image
 * that then did not come to be (capture_files.c): what is below holds the same. */
static int plan_below(const struct kelpie_prepare *prepare, struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = prepare->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    KELPIE_ASSERT(record->layer_count > 1);
    KELPIE_ASSERT(monitor->lifecycle.vmm == NULL);
    const char *top = record->layers[record->layer_count - 1];
    int file = kelpie__os_open(monitor->os, monitor->directory.vm, top,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open the layer \"%s\" of the VM's disk",
                            top);
    }
    int status =
        kelpie__qcow2_rebase(monitor->os, file, top, record->layers[record->layer_count - 2],
                             record->layer_count == 2 ? "raw" : "qcow2", error);
    kelpie__ignore(kelpie__os_close(monitor->os, file)); /* lost in a crash, it is done again */
    return status;
}

/* The uppermost layer of the VM's disk. The first one is named after the VM, since a snapshot's
 * directory and those of its VMs hold the layers of many. */
static int plan_disk(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = prepare->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    struct kelpie_os_stat stat;
    char name[KELPIE_RECORD_LAYER_BYTES_MAX];
    char path[KELPIE_PATH_BYTES_MAX];
    bool has_layers = record->layer_count > 0;
    KELPIE_ASSERT(prepare->step == KELPIE_PREPARE_DISK);
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    kelpie__ignore(kelpie__text_format(name, sizeof(name), "disk-%s.raw", monitor->config.id));
    const char *top = has_layers ? record->layers[record->layer_count - 1] : name;
    prepare->has_upper = true;
    prepare->is_upper_qcow2 = record->layer_count > 1;
    if (!kelpie__text_join(path, sizeof(path), monitor->options.vm_directory, top)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of the VM's disk is too long");
    }
    int status = has_layers ? kelpie__os_stat(monitor->os, KELPIE_OS_CWD, path, false, &stat) : 0;
    if (status < 0) { /* a new one in its place would be empty */
        return kelpie__fail(error, KELPIE_E_IO, -status, "the layer \"%s\" of the VM's disk", top);
    }
    status = record->layer_count > 1 ? plan_below(prepare, error) : 0;
    if (status < 0) {
        return status;
    }
    return kelpie__cache_plan_disk(&prepare->cache, monitor->config.disk_size_mib, path,
                                   &prepare->item, error);
}

/* Whether this VM has the step at all. */
static bool step_is_needed(const struct kelpie_prepare *prepare) {
    KELPIE_ASSERT(prepare->is_running);
    const struct kelpie_config_values *config = &prepare->monitor->config;
    bool is_krun = prepare->monitor->backend == KELPIE_VMM_BACKEND_KRUN;
    switch (prepare->step) {
    case KELPIE_PREPARE_KERNEL:
        return !is_krun || config->kernel[0] != '\0'; /* which has one in its libraries */
    case KELPIE_PREPARE_INITRAMFS:
        return !is_krun; /* it gives the agent to the guest in another way */
    case KELPIE_PREPARE_ROOT:
        return is_krun || config->root[0] != '\0';
    case KELPIE_PREPARE_DISK:
        return config->disk_size_mib != 0;
    case KELPIE_PREPARE_DONE:
        break;
    }
    return false;
}

static int step_plan(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    switch (prepare->step) {
    case KELPIE_PREPARE_KERNEL:
        return plan_kernel(prepare, error);
    case KELPIE_PREPARE_INITRAMFS:
        return kelpie__cache_plan_initramfs(&prepare->cache, &prepare->found, &prepare->item,
                                            error);
    case KELPIE_PREPARE_ROOT:
        return plan_root(prepare, error);
    case KELPIE_PREPARE_DISK:
        return plan_disk(prepare, error);
    case KELPIE_PREPARE_DONE:
        break;
    }
    KELPIE_ASSERT(false);
    return KELPIE_E_INTERNAL;
}

/* What a guest syncs is to outlive the host's death: so has the name of the disk's first layer,
 * which no list of layers names yet. One that was started before, and ran, has seen to that. */
static int prepare_sync_disk(struct kelpie_prepare *prepare, struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = prepare->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    bool is_known = prepare->item.is_ready && record->previous == KELPIE_VM_STOPPED;
    KELPIE_ASSERT(prepare->step == KELPIE_PREPARE_DONE);
    if (!prepare->has_upper || monitor->config.is_ephemeral || record->layer_count > 0 ||
        is_known) {
        return 0;
    }
    int status = kelpie__os_sync(monitor->os, monitor->directory.vm);
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "sync the name of the VM's disk")
                      : 0;
}

/* Goes on until a child has to be waited for, or all is there. */
static void prepare_next(struct kelpie_prepare *prepare) {
    struct kelpie_error error = {0};
    for (; prepare->step != KELPIE_PREPARE_DONE; prepare->step += 1) { /* bound: the steps */
        if (!step_is_needed(prepare)) {
            continue;
        }
        KELPIE_ASSERT(prepare->process == KELPIE_OS_NO_HANDLE);
        prepare->text_length = 0;
        int status = step_plan(prepare, &error);
        if (status == 0 && !prepare->item.is_ready) {
            status = prepare_spawn(prepare, &error);
            if (status == 0) {
                return;
            }
        } else if (status == 0 && !prepare_take(prepare)) {
            status =
                kelpie__fail(&error, KELPIE_E_INTERNAL, 0, "a prepared file has no usable path");
        }
        if (status < 0) {
            prepare_report(prepare, &error);
            return;
        }
    }
    int status = prepare_sync_disk(prepare, &error);
    prepare_report(prepare, status < 0 ? &error : NULL);
}

void kelpie__prepare_start(struct kelpie_prepare *prepare, struct kelpie_monitor *monitor) {
    KELPIE_ASSERT(!prepare->is_running);
    KELPIE_ASSERT(monitor->lifecycle.state == KELPIE_VM_STARTING);
    prepare->monitor = monitor;
    prepare->step = KELPIE_PREPARE_KERNEL;
    prepare->is_running = true;
    prepare->root_kind = KELPIE_PREPARE_ROOT_BUILTIN;
    prepare->has_upper = false;
    prepare->is_own_kernel = false;
    prepare->kernel_found[0] = '\0';
    prepare->kernel[0] = '\0';
    prepare->initramfs[0] = '\0';
    prepare->process = KELPIE_OS_NO_HANDLE;
    prepare->output = KELPIE_OS_NO_HANDLE;
    prepare->cache = (struct kelpie_cache){.os = monitor->os,
                                           .cache_path = monitor->options.cache_directory,
                                           .libexec_path = monitor->options.libexec_directory};
    prepare_next(prepare);
}

void kelpie__prepare_spec(const struct kelpie_prepare *prepare, struct kelpie_vmm_spec *out,
                          struct kelpie_vmm_disk disks[KELPIE_VMM_DISK_COUNT_MAX]) {
    const struct kelpie_monitor *monitor = prepare->monitor;
    uint32_t count = 0;
    KELPIE_ASSERT(prepare->step == KELPIE_PREPARE_DONE);
    KELPIE_ASSERT(!prepare->is_running);
    KELPIE_ASSERT(monitor->config.cpus <= KELPIE_CPUS_MAX);
    KELPIE_ASSERT(monitor->config.memory_mib <= KELPIE_MEMORY_MIB_MAX);
    if (prepare->root_kind != KELPIE_PREPARE_ROOT_BUILTIN) {
        disks[count] = (struct kelpie_vmm_disk){.path = prepare->root,
                                                .serial = KELPIE_PREPARE_ROOT_SERIAL,
                                                .format = prepare->is_qcow2 ? KELPIE_VMM_DISK_QCOW2
                                                                            : KELPIE_VMM_DISK_RAW,
                                                .is_read_only = true};
        count += 1;
    }
    if (prepare->has_upper) {
        disks[count] = (struct kelpie_vmm_disk){
            .path = prepare->upper,
            .serial = KELPIE_PREPARE_UPPER_SERIAL,
            .format = prepare->is_upper_qcow2 ? KELPIE_VMM_DISK_QCOW2 : KELPIE_VMM_DISK_RAW};
        count += 1;
    }
    KELPIE_ASSERT(count <= KELPIE_VMM_DISK_COUNT_MAX);
    *out = (struct kelpie_vmm_spec){
        .vm_directory = monitor->options.vm_directory,
        .cache_directory = monitor->options.cache_directory,
        .libexec_directory = monitor->options.libexec_directory,
        .kernel = prepare->kernel,
        .initramfs = prepare->initramfs,
        .kernel_kind = prepare->is_own_kernel ? KELPIE_VMM_KERNEL_OWN : KELPIE_VMM_KERNEL_GENERIC,
        .disks = disks,
        .disk_count = count,
        .cpu_count = (uint32_t)monitor->config.cpus,
        .memory_mib = (uint32_t)monitor->config.memory_mib,
        .channel = monitor->config.channel == KELPIE_CHANNEL_VSOCK ? KELPIE_VMM_CHANNEL_VSOCK
                                                                   : KELPIE_VMM_CHANNEL_SERIAL,
    };
}

int kelpie__prepare_check_memory(const struct kelpie_monitor *monitor, struct kelpie_error *error) {
    uint64_t available_mib = kelpie__memory_available_mib(monitor->os);
    if (monitor->config.allows_overcommit || monitor->config.memory_mib <= available_mib) {
        return 0;
    }
    return kelpie__fail_field(error, KELPIE_E_LIMIT, "memory_mib",
                              "memory_mib: the VM needs %llu MiB and this host has %llu MiB "
                              "available; give less, or --overcommit",
                              (unsigned long long)monitor->config.memory_mib,
                              (unsigned long long)available_mib);
}
