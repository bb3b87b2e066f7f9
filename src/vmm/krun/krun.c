/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The libkrun driver: one kelpie-krun process, which becomes the VM, and what its end meant. The
 * guest dials: until then the VM is starting, whatever libkrun says of itself.
 */
#include "vmm/krun/krun.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "vmm/krun/instance.h"
#include "vmm/kvm.h"

#define KRUN_ARGUMENT_BYTES (KELPIE_PATH_BYTES_MAX + 32u)
#define KRUN_ARGUMENT_COUNT_MAX                                                                    \
    (18u + 2u * (KELPIE_VMM_DISK_COUNT_MAX + KELPIE_VMM_SHARE_COUNT_MAX))
/* libkrun has so many interrupts for virtio (krun_start_enter fails beyond); a balloon, randomness,
 * the console, vsock and the first root take theirs. */
#define KRUN_DEVICE_COUNT_MAX 11u
#define KRUN_DEVICE_COUNT_OWN 5u
#define KRUN_SIGNAL_ABORT 6

static_assert(KELPIE_VMM_DISK_COUNT_MAX == KELPIE_KRUN_DISK_COUNT_MAX,
              "kelpie-krun takes them all");
static_assert(KELPIE_VMM_SHARE_COUNT_MAX == KELPIE_KRUN_SHARE_COUNT_MAX, "likewise");

/* Too large for a stack. */
struct krun_arguments {
    uint32_t count;
    bool is_full;
    const char *values[KRUN_ARGUMENT_COUNT_MAX + 1];
    char cpus[16];
    char memory[16];
    char disks[KELPIE_VMM_DISK_COUNT_MAX][KRUN_ARGUMENT_BYTES];
    char shares[KELPIE_VMM_SHARE_COUNT_MAX][KRUN_ARGUMENT_BYTES + KELPIE_SHARE_TAG_BYTES_MAX];
};

struct kelpie_krun *kelpie__krun_of(struct kelpie_vmm *vmm) {
    struct kelpie_krun *krun = KELPIE_CONTAINER_OF(vmm, struct kelpie_krun, vmm);
    KELPIE_ASSERT(krun->vmm.operations == &kelpie__krun_operations);
    KELPIE_ASSERT(!krun->is_listener_watched || krun->listener != KELPIE_OS_NO_HANDLE);
    return krun;
}

static void krun_close(struct kelpie_krun *krun, int *handle) {
    if (*handle != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(krun->os, *handle)); /* pipes and sockets */
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

/* An exit with 0 is a reset: the guest's own, or that of a kernel that panicked, or found no root.
 * Which one it was is known from the console and from the agent's goodbye. */
static enum kelpie_vmm_end_kind krun_end_kind(const struct kelpie_krun *krun,
                                              const struct kelpie_vmm_end *end) {
    bool is_clean = end->has_exit && !end->exit.is_signalled && end->exit.value == 0;
    if (is_clean && krun->status.is_started && krun->cause[0] == '\0') {
        return KELPIE_VMM_END_RESET;
    }
    return krun->is_kill_requested ? KELPIE_VMM_END_KILLED : KELPIE_VMM_END_FAILED;
}

/* What the launcher told, in the order of what helps most. */
static void krun_describe_launch(const struct kelpie_krun *krun, const struct kelpie_vmm_end *end,
                                 char *out, size_t capacity) {
    const struct kelpie_krun_status *status = &krun->status;
    bool is_panic = end->has_exit && end->exit.is_signalled && end->exit.value == KRUN_SIGNAL_ABORT;
    out[0] = '\0';
    KELPIE_ASSERT(capacity > 0);
    if (krun->cause[0] != '\0') {
        kelpie__ignore(kelpie__text_format(out, capacity, "%s; ", krun->cause));
    } else if (status->error[0] != '\0') {
        kelpie__ignore(kelpie__text_format(out, capacity, "%s; ", status->error));
    } else if (status->has_returned) {
        kelpie__ignore(kelpie__text_format(out, capacity, "krun_start_enter failed: %s; ",
                                           kelpie__errno_text(status->returned)));
    } else if (is_panic) {
        kelpie__ignore(kelpie__text_format(
            out, capacity, "libkrun panicked %s%s; ", status->is_started ? "" : "in ",
            status->is_started ? "while the guest ran" : status->last_call));
    } else if (!status->is_started && status->call_count > 0) {
        kelpie__ignore(kelpie__text_format(out, capacity, "ended within %s; ", status->last_call));
    }
}

static void krun_ended(void *context, const struct kelpie_os_exit *process_exit) {
    struct kelpie_krun *krun = context;
    struct kelpie_vmm_end end = {0};
    char launch[KELPIE_VMM_TEXT_BYTES_MAX];
    char process[KELPIE_VMM_TEXT_BYTES_MAX];
    kelpie__krun_status_drain(krun);
    kelpie__krun_freeze_end(krun);
    if (process_exit != NULL) {
        end.has_exit = true;
        end.exit = *process_exit;
    }
    end.kind = krun_end_kind(krun, &end);
    end.code = krun->status.is_missing ? KELPIE_E_UNAVAILABLE : 0;
    krun_describe_launch(krun, &end, launch, sizeof(launch));
    kelpie__vmm_process_describe(&krun->process, "kelpie-krun", process_exit, process,
                                 sizeof(process));
    kelpie__ignore(kelpie__text_format(end.text, sizeof(end.text), "%s%s", launch, process));
    kelpie__krun_place_remove(krun);
    if (krun->vmm.is_changing) {
        struct kelpie_error error = {0};
        int status = kelpie__fail(&error, KELPIE_E_CRASHED, 0, "%s", end.text);
        kelpie__vmm_emit_done(&krun->vmm, status, &error);
    }
    KELPIE_ASSERT(krun->process.handle == KELPIE_OS_NO_HANDLE);
    kelpie__vmm_emit(&krun->vmm,
                     &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_ENDED, .end = &end});
}

void kelpie__krun_give_up(struct kelpie_krun *krun, const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    if (krun->cause[0] == '\0') {
        kelpie__ignore(kelpie__text_copy(krun->cause, sizeof(krun->cause), error->message));
    }
    kelpie__vmm_process_end(&krun->process, 0);
}

/* ---- the agent dials ------------------------------------------------------------------------- */

static void krun_stop_listening(struct kelpie_krun *krun) {
    if (krun->is_listener_watched) {
        kelpie__loop_unwatch(krun->loop, krun->listener_watch);
        krun->is_listener_watched = false;
    }
    krun_close(krun, &krun->listener);
}

/* The VM's own process, which dials for its guest: nobody else can reach the directory, and who
 * does is not served. */
static bool krun_is_ours(struct kelpie_krun *krun, int stream) {
    struct kelpie_os_peer peer = {0};
    KELPIE_ASSERT(stream >= 0);
    return kelpie__os_peer(krun->os, stream, &peer) == 0 && peer.pid == krun->process.pid;
}

static void krun_dialled(void *context, uint32_t bits) {
    struct kelpie_krun *krun = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(krun->vmm.state == KELPIE_VMM_STARTING);
    int stream = kelpie__os_accept(krun->os, krun->listener);
    if (stream == -EAGAIN || stream == -EINTR || stream == -ECONNABORTED) {
        return; /* it was nobody, or comes again */
    }
    if (stream < 0) {
        struct kelpie_error error = {0};
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_BOOT, -stream, "accept the guest's connection"));
        kelpie__krun_give_up(krun, &error);
        return;
    }
    if (!krun_is_ours(krun, stream)) {
        kelpie__ignore(kelpie__os_close(krun->os, stream));
        return;
    }
    kelpie__os_label(krun->os, stream, "agent");
    /* One connection for each boot, and the first is the agent's: nothing else runs there yet. */
    krun_stop_listening(krun);
    kelpie__vmm_emit(&krun->vmm, &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_STARTED});
    kelpie__vmm_emit(&krun->vmm,
                     &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_AGENT, .agent = stream});
}

/* ---- start ----------------------------------------------------------------------------------- */

static void krun_argument(struct krun_arguments *arguments, const char *name, const char *value) {
    if (value == NULL || value[0] == '\0') {
        return; /* kelpie-krun has its own */
    }
    if (arguments->count + 2 > KRUN_ARGUMENT_COUNT_MAX) {
        arguments->is_full = true;
        return;
    }
    arguments->values[arguments->count] = name;
    arguments->values[arguments->count + 1] = value;
    arguments->count += 2;
    KELPIE_ASSERT(arguments->values[arguments->count] == NULL);
}

static int krun_build(struct kelpie_krun *krun, const struct kelpie_vmm_spec *spec,
                      struct krun_arguments *arguments, struct kelpie_error *error) {
    bool fits =
        kelpie__text_format(arguments->cpus, sizeof(arguments->cpus), "%u", spec->cpu_count) &&
        kelpie__text_format(arguments->memory, sizeof(arguments->memory), "%u", spec->memory_mib);
    KELPIE_ASSERT(fits);
    arguments->values[0] = krun->program;
    arguments->count = 1;
    krun_argument(arguments, "--library", kelpie__os_environment(krun->os, "KELPIE_LIBKRUN"));
    krun_argument(arguments, "--firmware", kelpie__os_environment(krun->os, "KELPIE_LIBKRUNFW"));
    krun_argument(arguments, "--agent", krun->agent);
    krun_argument(arguments, "--kernel", spec->kernel);
    krun_argument(arguments, "--staging", krun->staging);
    krun_argument(arguments, "--cpus", arguments->cpus);
    krun_argument(arguments, "--memory-mib", arguments->memory);
    for (uint32_t i = 0; i < spec->disk_count; i += 1) {
        const struct kelpie_vmm_disk *disk = &spec->disks[i];
        fits = fits && kelpie__text_format(arguments->disks[i], KRUN_ARGUMENT_BYTES, "%s:%s:%s:%s",
                                           disk->serial, disk->is_read_only ? "ro" : "rw",
                                           disk->format == KELPIE_VMM_DISK_QCOW2 ? "qcow2" : "raw",
                                           disk->path);
        krun_argument(arguments, "--disk", arguments->disks[i]);
    }
    for (uint32_t i = 0; i < spec->share_count; i += 1) {
        const struct kelpie_vmm_share *share = &spec->shares[i];
        fits = fits &&
               kelpie__text_format(arguments->shares[i], sizeof(arguments->shares[i]), "%s:%s:%s",
                                   share->tag, share->is_read_only ? "ro" : "rw", share->path);
        krun_argument(arguments, "--share", arguments->shares[i]);
    }
    if (!fits || arguments->is_full) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of a disk or share is too long");
    }
    return 0;
}

/* handles: the console's and the status pipe's ends for the child. */
static int krun_spawn(struct kelpie_krun *krun, const struct kelpie_vmm_spec *spec, int console,
                      int status_pipe, struct kelpie_error *error) {
    static const char *const environment[] = {"LC_ALL=C", NULL};
    const int handles[KELPIE_KRUN_DESCRIPTOR_COUNT] = {
        [0] = KELPIE_OS_NO_HANDLE,       [1] = KELPIE_OS_NO_HANDLE,
        [2] = KELPIE_OS_NO_HANDLE,       [KELPIE_KRUN_STATUS] = status_pipe,
        [KELPIE_KRUN_CONSOLE] = console, [KELPIE_KRUN_DIRECTORY] = krun->place,
    };
    struct krun_arguments *arguments = kelpie__alloc(krun->os, sizeof(*arguments));
    if (arguments == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate kelpie-krun's arguments");
    }
    int status = krun_build(krun, spec, arguments, error);
    if (status == 0) {
        const struct kelpie_os_spawn spawn = {
            .path = krun->program,
            .argv = arguments->values,
            .environment = environment,
            .directory = "/",
            .handles = handles,
            .handle_count = KELPIE_KRUN_DESCRIPTOR_COUNT,
            .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT | KELPIE_OS_SPAWN_NEW_SESSION |
                     KELPIE_OS_SPAWN_NO_NEW_PRIVILEGES,
            .cgroup = KELPIE_OS_NO_HANDLE,
        };
        KELPIE_ASSERT(arguments->count > 1);
        status = kelpie__vmm_process_start(&krun->process, &spawn, error);
    }
    kelpie__free(krun->os, arguments, sizeof(*arguments));
    krun->vmm.pid = krun->process.pid;
    return status;
}

static int krun_launch(struct kelpie_krun *krun, const struct kelpie_vmm_spec *spec,
                       struct kelpie_vmm_started *out, struct kelpie_error *error) {
    int console[2] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    int told[2] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    int status = kelpie__os_pipe(krun->os, console);
    if (status == 0) {
        status = kelpie__os_pipe(krun->os, told);
    }
    if (status < 0) {
        status = kelpie__fail(error, KELPIE_E_BOOT, -status, "make kelpie-krun's pipes");
    } else {
        status = krun_spawn(krun, spec, console[1], told[1], error);
    }
    krun_close(krun, &console[1]); /* the child has its own */
    krun_close(krun, &told[1]);
    if (status == 0) {
        status = kelpie__krun_status_watch(krun, told[0], error);
    }
    if (status == 0) {
        status = kelpie__loop_watch(krun->loop, krun->listener, KELPIE_OS_READABLE, krun_dialled,
                                    krun, &krun->listener_watch);
        krun->is_listener_watched = status == 0;
        status = status < 0 ? kelpie__fail(error, status, 0, "wait for the guest's agent") : 0;
    }
    if (status < 0) {
        krun_close(krun, &console[0]);
        if (krun->status.pipe == KELPIE_OS_NO_HANDLE) {
            krun_close(krun, &told[0]);
        }
        return status;
    }
    kelpie__os_label(krun->os, console[0], "console");
    out->console = console[0];
    KELPIE_ASSERT(krun->process.handle != KELPIE_OS_NO_HANDLE);
    return 0;
}

static int krun_check_kvm(struct kelpie_os *os, struct kelpie_error *error) {
    int status = kelpie__vmm_kvm_probe(os);
    KELPIE_ASSERT(status <= 0);
    return status == 0
               ? 0
               : kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status,
                              "libkrun needs KVM: open /dev/kvm; load kvm_amd or kvm_intel, add "
                              "the user to the group kvm, or use the backend qemu");
}

/* Where the one lies that a start would load: where the environment says, else where the dynamic
 * linker looks on most systems. It may know more places: a start that asks for libkrun by name
 * finds it there. */
static bool krun_find_library(struct kelpie_os *os, char *out, size_t capacity) {
    const char *const places[] = {
        "/usr/local/lib64/libkrun.so.1", "/usr/local/lib/libkrun.so.1",
        "/usr/lib64/libkrun.so.1",       "/usr/lib/x86_64-linux-gnu/libkrun.so.1",
        "/usr/lib/libkrun.so.1",
    };
    const char *told = kelpie__os_environment(os, "KELPIE_LIBKRUN");
    bool is_told = told != NULL && told[0] != '\0';
    size_t count = is_told ? 1 : KELPIE_ARRAY_COUNT(places);
    struct kelpie_os_stat stat;
    bool is_found = false;
    for (size_t i = 0; i < count && !is_found; i += 1) {
        const char *place = is_told ? told : places[i];
        is_found = place[0] == '/' && kelpie__os_stat(os, KELPIE_OS_CWD, place, true, &stat) == 0 &&
                   kelpie__text_copy(out, capacity, place);
    }
    KELPIE_ASSERT(!is_found || out[0] == '/');
    return is_found;
}

static int krun_find(struct kelpie_os *os, const char *cache_directory, bool *out_is_proved,
                     struct kelpie_error *error) {
    char library[KELPIE_PATH_BYTES_MAX];
    struct kelpie_accel accel;
    KELPIE_ASSERT(cache_directory[0] == '/');
    if (!krun_find_library(os, library, sizeof(library))) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0, "libkrun is not installed");
    }
    int status = krun_check_kvm(os, error);
    if (status == 0) {
        kelpie__accel_recall(os, cache_directory, library, &accel);
        *out_is_proved = !accel.is_unproved;
    }
    return status;
}

/* What a guest that boots will prove. */
static void krun_recall(struct kelpie_krun *krun, const char *cache_directory) {
    char library[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(krun->accel.key[0] == '\0');
    if (kelpie__text_copy(krun->cache_directory, sizeof(krun->cache_directory), cache_directory) &&
        krun_find_library(krun->os, library, sizeof(library))) {
        kelpie__accel_recall(krun->os, cache_directory, library, &krun->accel);
    }
    KELPIE_ASSERT(krun->accel.trial_ns == 0);
}

static int krun_check_shares(const struct kelpie_vmm_spec *spec, struct kelpie_error *error) {
    static_assert(KRUN_DEVICE_COUNT_OWN + KELPIE_VMM_DISK_COUNT_MAX <= KRUN_DEVICE_COUNT_MAX,
                  "disks alone always fit");
    KELPIE_ASSERT(spec->disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    uint32_t most = KRUN_DEVICE_COUNT_MAX - KRUN_DEVICE_COUNT_OWN - spec->disk_count;
    if (spec->share_count <= most) {
        return 0;
    }
    return kelpie__fail(error, KELPIE_E_TOO_MANY_SHARES, 0,
                        "%u shared directories are above libkrun's maximum of %u for a VM with %u "
                        "disk%s; share a directory that holds several",
                        spec->share_count, most, spec->disk_count,
                        spec->disk_count == 1 ? "" : "s");
}

static int krun_start(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                      struct kelpie_vmm_started *out, struct kelpie_error *error) {
    struct kelpie_krun *krun = kelpie__krun_of(vmm);
    if (spec->accelerator == KELPIE_VMM_ACCELERATOR_TCG) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "libkrun runs guests on KVM only; leave out --accel tcg, or use the "
                            "backend qemu");
    }
    struct kelpie_vmm_started started = {
        .agent = KELPIE_OS_NO_HANDLE, /* it dials: KELPIE_VMM_EVENT_AGENT */
        .accelerator = KELPIE_VMM_ACCELERATOR_KVM,
        .accelerator_reason = "libkrun has no other",
        .pause_kind = kelpie__krun_freeze_probe(krun),
    };
    int status = krun_check_shares(spec, error);
    if (status == 0) {
        status = krun_check_kvm(krun->os, error);
    }
    if (status == 0) {
        status = kelpie__krun_place_make(krun, spec, error);
    }
    if (status == 0) {
        status = krun_launch(krun, spec, &started, error);
    }
    if (status < 0) {
        return status;
    }
    krun_recall(krun, spec->cache_directory);
    KELPIE_ASSERT(krun->vmm.pid > 0);
    *out = started;
    return 0;
}

static bool krun_settle(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end,
                        const char *reason) {
    struct kelpie_krun *krun = kelpie__krun_of(vmm);
    KELPIE_ASSERT(reason[0] != '\0');
    KELPIE_ASSERT(vmm->state != KELPIE_VMM_NEW);
    /* One that does not boot may have other reasons, and nothing takes its place: no verdict. */
    if (end == NULL && krun->accel.is_unproved) {
        kelpie__accel_remember(krun->os, krun->cache_directory, &krun->accel, true, reason);
        krun->accel.is_unproved = false;
    }
    return false;
}

static int krun_check_clock(struct kelpie_vmm *vmm, const struct kelpie_vmm_guest_clock *clock,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(clock != NULL && vmm != NULL);
    kelpie__ignore(error == NULL); /* KVM tells the guest the time: nothing can be wrong */
    return 0;
}

static void krun_kill(struct kelpie_vmm *vmm) {
    struct kelpie_krun *krun = kelpie__krun_of(vmm);
    KELPIE_ASSERT(krun->vmm.state != KELPIE_VMM_ENDED);
    krun->is_kill_requested = true;
    kelpie__vmm_process_end(&krun->process, 0);
}

static void krun_destroy(struct kelpie_vmm *vmm) {
    struct kelpie_krun *krun = kelpie__krun_of(vmm);
    kelpie__vmm_process_deinit(&krun->process);
    kelpie__krun_freeze_end(krun);
    kelpie__krun_status_close(krun);
    krun_stop_listening(krun);
    kelpie__krun_place_remove(krun);
    KELPIE_ASSERT(krun->listener == KELPIE_OS_NO_HANDLE);
    kelpie__free(krun->os, krun, sizeof(*krun));
}

static int krun_create(const struct kelpie_vmm_create *create, struct kelpie_vmm **out,
                       struct kelpie_error *error) {
    struct kelpie_krun *krun = kelpie__alloc(create->os, sizeof(*krun));
    if (krun == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes for libkrun",
                            sizeof(*krun));
    }
    krun->os = create->os;
    krun->loop = create->loop;
    krun->vm_directory = KELPIE_OS_NO_HANDLE;
    krun->place = KELPIE_OS_NO_HANDLE;
    krun->listener = KELPIE_OS_NO_HANDLE;
    krun->status.pipe = KELPIE_OS_NO_HANDLE;
    kelpie__vmm_process_init(&krun->process, create->os, create->loop, krun_ended, krun);
    KELPIE_ASSERT(!krun->is_listener_watched);
    *out = &krun->vmm;
    return 0;
}

const struct kelpie_vmm_operations kelpie__krun_operations = {
    .name = "krun",
    .capabilities = KELPIE_VMM_CAN_PAUSE | KELPIE_VMM_CAN_SHARE,
    .find = krun_find,
    .create = krun_create,
    .start = krun_start,
    .settle = krun_settle,
    .check_clock = krun_check_clock,
    .pause = kelpie__krun_pause,
    .resume = kelpie__krun_resume,
    .kill = krun_kill,
    .destroy = krun_destroy,
};
