/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What this host has and what it lacks: each need with what was found and the command that mends
 * it. Nothing is changed but the cache; KVM is tried by booting a guest, since some hosts have a
 * /dev/kvm on which no Linux gets anywhere.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "lib/internal.h"
#include "lib/libkrun.h"
#include "os/os_call.h"
#include "store/cache.h"

#define DOCTOR_DETAIL_BYTES (2u * sizeof(struct kelpie_error))
#define DOCTOR_PATH_COUNT_MAX 64u
#define DOCTOR_EXECUTABLE_BITS 0111u
#define DOCTOR_VERDICT_BYTES_MAX 4096u
/* the cache of one kernel and its modules \ */
#define DOCTOR_SPACE_FAILED_BYTES (UINT64_C(64) << 20)
#define DOCTOR_SPACE_WARNING_BYTES (UINT64_C(1) << 30) /* a root file system of some size */
#define DOCTOR_BOOT_MS (4 * KELPIE_KVM_TRIAL_MS)       /* 10 s were seen on a KVM within a VM */
#define DOCTOR_KVM_DEVICE "/dev/kvm"
#define DOCTOR_VSOCK_DEVICE "/dev/vhost-vsock"
#define DOCTOR_DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

struct doctor {
    struct kelpie *kelpie; /* borrowed: the call */
    kelpie_check_callback callback;
    void *context;
};

KELPIE_PRINTF(5, 6)
static void tell(const struct doctor *doctor, const char *name, enum kelpie_check_status status,
                 const char *remedy, const char *format, ...) {
    char detail[DOCTOR_DETAIL_BYTES];
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(remedy != NULL);
    KELPIE_ASSERT(doctor->callback != NULL);
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(detail, sizeof(detail), format, arguments));
    va_end(arguments);
    kelpie__text_trim(detail);
    KELPIE_ASSERT(status == KELPIE_CHECK_OK || detail[0] != '\0');
    const struct kelpie_check check = {
        .name = name, .status = status, .detail = detail, .remedy = remedy};
    kelpie__callback_enter(doctor->kelpie);
    doctor->callback(doctor->context, &check);
    kelpie__callback_leave(doctor->kelpie);
}

/* ---- programs -------------------------------------------------------------------------------- */

static bool is_program(struct kelpie_os *os, const char *path) {
    struct kelpie_os_stat stat;
    return kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat) == 0 &&
           stat.kind == KELPIE_OS_KIND_FILE && (stat.mode & DOCTOR_EXECUTABLE_BITS) != 0;
}

/* In a list of directories, as PATH is one. */
static bool search_list(struct kelpie_os *os, const char *list, const char *name, char *out,
                        size_t capacity) {
    const char *next = list;
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(capacity > 0);
    for (uint32_t i = 0; i < DOCTOR_PATH_COUNT_MAX && next != NULL; i += 1) {
        const char *end = strchr(next, ':');
        size_t length = end != NULL ? (size_t)(end - next) : strlen(next);
        if (length > 0 && next[0] == '/' && length < capacity &&
            kelpie__text_format(out, capacity, "%.*s/%s", (int)length, next, name) &&
            is_program(os, out)) {
            return true;
        }
        next = end != NULL ? end + 1 : NULL;
    }
    return false;
}

static bool search(struct kelpie_os *os, const char *name, char *out, size_t capacity) {
    const char *list = kelpie__os_environment(os, "PATH");
    bool has_list = list != NULL && list[0] != '\0';
    return (has_list && search_list(os, list, name, out, capacity)) ||
           search_list(os, DOCTOR_DEFAULT_PATH, name, out, capacity);
}

/* False: no VM can boot. Looks where a monitor looks: in PATH and nowhere else. */
static bool check_qemu(const struct doctor *doctor) {
    static const char remedy[] = "apt install qemu-system-x86";
    char path[KELPIE_PATH_BYTES_MAX];
    struct kelpie_os *os = doctor->kelpie->os;
    const char *list = kelpie__os_environment(os, "PATH");
    bool has_list = list != NULL && list[0] != '\0';
    const char *chosen = kelpie__os_environment(os, "KELPIE_QEMU");
    if (chosen != NULL && chosen[0] != '\0') {
        bool is_there = chosen[0] == '/' && is_program(os, chosen);
        tell(doctor, "qemu", is_there ? KELPIE_CHECK_OK : KELPIE_CHECK_FAILED,
             is_there ? "" : "unset KELPIE_QEMU", "KELPIE_QEMU is \"%s\"%s", chosen,
             is_there ? "" : ", which is no program with an absolute path");
        return is_there;
    }
    if (!search_list(os, has_list ? list : DOCTOR_DEFAULT_PATH, "qemu-system-x86_64", path,
                     sizeof(path))) {
        tell(doctor, "qemu", KELPIE_CHECK_FAILED, remedy, "no qemu-system-x86_64 in PATH");
        return false;
    }
    KELPIE_ASSERT(path[0] == '/');
    tell(doctor, "qemu", KELPIE_CHECK_OK, "", "%s", path);
    return true;
}

/* Kelpie's own programs are needed by every VM; those of others only by what they are named with.
 */
static void check_helpers(const struct doctor *doctor) {
    static const char *const own[] = {"kelpie-monitor", "kelpie-keeper", "kelpie-agent",
                                      "kelpie-pack", "kelpie-krun"};
    static const struct {
        const char *name;
        const char *remedy;
        const char *use;
    } others[] = {
        {"mkfs.erofs", "apt install erofs-utils", "a directory as root file system"},
        {"mke2fs", "apt install e2fsprogs", "a writable layer on disk"},
        {"qemu-img", "apt install qemu-utils", "disk images in the qcow2 format"},
    };
    char path[KELPIE_PATH_BYTES_MAX];
    struct kelpie_error error = {0};
    struct kelpie_places *places = &doctor->kelpie->places;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(own); i += 1) {
        if (kelpie__places_program(places, own[i], path, sizeof(path), &error) < 0) {
            tell(doctor, "helpers", KELPIE_CHECK_FAILED, "scripts/quickstart, or meson install",
                 "%s", error.message);
            return;
        }
    }
    tell(doctor, "helpers", KELPIE_CHECK_OK, "", "Kelpie's programs are in %s",
         places->libexec_path);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(others); i += 1) {
        if (!search(doctor->kelpie->os, others[i].name, path, sizeof(path))) {
            tell(doctor, "helpers", KELPIE_CHECK_WARNING, others[i].remedy,
                 "%s is missing: needed for %s", others[i].name, others[i].use);
        }
    }
}

/* ---- kernel ---------------------------------------------------------------------------------- */

struct kernel_check {
    struct kelpie_cache_kernel kernel;
    struct kelpie_cache_item item;
};

/* False: no VM can boot. */
static bool check_kernel(const struct doctor *doctor) {
    struct kelpie *kelpie = doctor->kelpie;
    struct kelpie_error error = {0};
    struct kernel_check *check = kelpie__alloc(kelpie->os, sizeof(*check));
    if (check == NULL) {
        tell(doctor, "kernel", KELPIE_CHECK_FAILED, "", "no memory to look for it");
        return false;
    }
    const struct kelpie_cache cache = {.os = kelpie->os,
                                       .cache_path = kelpie->places.cache_path,
                                       .libexec_path = kelpie->places.libexec_path};
    int status = kelpie__cache_find_kernel(&cache, NULL, &check->kernel, &error);
    if (status < 0) {
        bool is_missing = error.code == KELPIE_E_UNAVAILABLE;
        tell(doctor, "kernel", KELPIE_CHECK_FAILED,
             is_missing ? "apt install linux-image-cloud-amd64" : "unset KELPIE_KERNEL", "%s",
             error.message);
    } else {
        status = kelpie__cache_plan_initramfs(&cache, &check->kernel, &check->item, &error);
        if (status < 0) {
            tell(doctor, "kernel", KELPIE_CHECK_FAILED,
                 "apt install busybox-static linux-image-cloud-amd64", "%s: %s", check->kernel.path,
                 error.message);
        } else {
            tell(doctor, "kernel", KELPIE_CHECK_OK, "", "%s%s%s", check->kernel.path,
                 check->kernel.release[0] == '\0' ? "" : ", release ", check->kernel.release);
        }
    }
    kelpie__free(kelpie->os, check, sizeof(*check));
    return status == 0;
}

/* ---- devices --------------------------------------------------------------------------------- */

/* Whether it opens: 0, or the errno, -ETIMEDOUT when the open is not answered. */
static int device_probe(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] == '/');
    if (kelpie__os_device_answers(os, path, KELPIE_KVM_OPEN_MS) == -ETIMEDOUT) {
        return -ETIMEDOUT;
    }
    int device =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    KELPIE_ASSERT(device != KELPIE_OS_NO_HANDLE || device < 0);
    if (device < 0) {
        return device;
    }
    kelpie__ignore(kelpie__os_close(os, device)); /* nothing was done with it */
    return 0;
}

/* Only what asks for it needs it: a host without it lacks nothing. */
static void check_vsock(const struct doctor *doctor) {
    struct kelpie_error error = {0};
    int status = device_probe(doctor->kelpie->os, DOCTOR_VSOCK_DEVICE);
    KELPIE_ASSERT(status <= 0);
    if (status == 0) {
        tell(doctor, "vsock", KELPIE_CHECK_OK, "",
             "%s opens, so that --channel vsock can be used on KVM", DOCTOR_VSOCK_DEVICE);
        return;
    }
    kelpie__ignore(
        kelpie__fail(&error, KELPIE_E_UNAVAILABLE, -status, "open %s", DOCTOR_VSOCK_DEVICE));
    bool is_absent = status == -ENOENT || status == -ENODEV;
    tell(doctor, "vsock", KELPIE_CHECK_OK, is_absent ? "modprobe vhost_vsock" : "",
         "only --channel vsock needs it: %s", error.message);
}

/* ---- KVM ------------------------------------------------------------------------------------- */

/* What the monitor found out at an earlier start. */
static void tell_remembered(const struct doctor *doctor) {
    char text[DOCTOR_VERDICT_BYTES_MAX];
    char path[KELPIE_PATH_BYTES_MAX];
    char reason[512] = "";
    bool is_usable = false;
    struct kelpie_os *os = doctor->kelpie->os;
    int64_t length = -1;
    if (kelpie__text_join(path, sizeof(path), doctor->kelpie->places.cache_path, "accel.json")) {
        int file = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
        if (file >= 0) {
            length = kelpie__os_pread(os, file, text, sizeof(text), 0);
            kelpie__ignore(kelpie__os_close(os, file)); /* it was read only */
        }
    }
    struct kelpie_json_value list = {0};
    struct kelpie_json_value latest = {0};
    struct kelpie_json_iterator verdicts;
    bool is_known =
        length > 0 && kelpie__json_find(text, (size_t)length, "verdicts", &list) == 0 &&
        kelpie__json_iterate(&list, &verdicts) == 0 &&
        kelpie__json_next(&verdicts, NULL, &latest) == 1 &&
        kelpie__json_find_bool(latest.text, latest.length, "kvm_usable", &is_usable) == 0;
    if (!is_known) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "kelpie doctor",
             "%s is there; no guest has been booted on it yet", DOCTOR_KVM_DEVICE);
        return;
    }
    kelpie__ignore(
        kelpie__json_find_string(latest.text, latest.length, "reason", reason, sizeof(reason)));
    tell(doctor, "kvm", is_usable ? KELPIE_CHECK_OK : KELPIE_CHECK_WARNING, "",
         "%s, as an earlier start found%s%s", is_usable ? "KVM works" : "KVM does not work here",
         reason[0] == '\0' ? "" : ": ", reason);
}

/* Boots a guest on it, in a VM of its own that leaves nothing. */
static int try_kvm(struct kelpie *kelpie, enum kelpie_backend backend, struct kelpie_vm_info *out,
                   struct kelpie_error *error) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    kelpie__handle_check(kelpie);
    KELPIE_ASSERT(out->struct_size == sizeof(*out));
    int status = kelpie_config_create(kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_backend(config, backend);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_KVM);
    kelpie_config_set_memory_mib(config, KELPIE_MEMORY_MIB_MIN);
    kelpie_config_set_ephemeral(config, true);
    kelpie_config_set_overcommit(config, true);
    kelpie_config_set_template(config, false);
    kelpie_config_set_boot_timeout_ms(config, DOCTOR_BOOT_MS);
    status = kelpie_vm_create(kelpie, NULL, config, &vm, error);
    kelpie_config_destroy(config);
    if (status < 0) {
        return status;
    }
    status = kelpie_vm_start(vm, 0, error);
    if (status == 0) {
        status = kelpie_vm_inspect(vm, out, error);
    }
    kelpie__ignore(kelpie_vm_delete(vm, true, NULL)); /* its monitor does it too, after close */
    kelpie_vm_close(vm);
    return status;
}

/* False: it does not, which was told. */
static bool kvm_opens(const struct doctor *doctor) {
    int status = device_probe(doctor->kelpie->os, DOCTOR_KVM_DEVICE);
    if (status == -ETIMEDOUT) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "",
             "%s hangs: it did not open within %u ms; VMs run under TCG", DOCTOR_KVM_DEVICE,
             KELPIE_KVM_OPEN_MS);
        return false;
    }
    if (status < 0) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "usermod -aG kvm \"$USER\", then log in again",
             "%s cannot be opened: %s; VMs run under TCG", DOCTOR_KVM_DEVICE,
             kelpie__errno_text(-status) != NULL ? kelpie__errno_text(-status) : "unknown error");
        return false;
    }
    return true;
}

static void check_kvm(const struct doctor *doctor, bool tries_kvm, bool can_boot) {
    struct kelpie *kelpie = doctor->kelpie;
    struct kelpie_error error = {0};
    struct kelpie_os_stat stat;
    kelpie__handle_check(kelpie);
    if (kelpie__os_stat(kelpie->os, KELPIE_OS_CWD, DOCTOR_KVM_DEVICE, true, &stat) < 0) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "",
             "no %s: VMs run under TCG, QEMU's translator, which works everywhere but is slower",
             DOCTOR_KVM_DEVICE);
        return;
    }
    if (!kvm_opens(doctor)) {
        return;
    }
    if (!tries_kvm || !can_boot) {
        tell_remembered(doctor);
        return;
    }
    struct kelpie_vm_info *info = kelpie__alloc(kelpie->os, sizeof(*info));
    if (info == NULL) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "", "no memory to try it");
        return;
    }
    info->struct_size = sizeof(*info);
    if (try_kvm(kelpie, KELPIE_BACKEND_QEMU, info, &error) < 0) {
        tell(doctor, "kvm", KELPIE_CHECK_WARNING, "",
             "a guest does not boot on it, so VMs run under TCG: %s", error.message);
    } else {
        tell(doctor, "kvm", KELPIE_CHECK_OK, "", "a guest booted on it in %llu ms",
             (unsigned long long)(info->boot_us / 1000));
    }
    kelpie__free(kelpie->os, info, sizeof(*info));
}

/* ---- libkrun --------------------------------------------------------------------------------- */

/* Boots a guest with it: a library that can be loaded, and a /dev/kvm that opens, prove nothing. */
static void try_libkrun(const struct doctor *doctor, const struct kelpie_libkrun *libkrun) {
    struct kelpie *kelpie = doctor->kelpie;
    struct kelpie_error error = {0};
    struct kelpie_vm_info *info = kelpie__alloc(kelpie->os, sizeof(*info));
    if (info == NULL) {
        tell(doctor, "libkrun", KELPIE_CHECK_WARNING, "", "no memory to try it");
        return;
    }
    info->struct_size = sizeof(*info);
    KELPIE_ASSERT(libkrun->version[0] != '\0');
    if (try_kvm(kelpie, KELPIE_BACKEND_KRUN, info, &error) < 0) {
        tell(doctor, "libkrun", KELPIE_CHECK_WARNING, "", "%s%s; a guest does not boot with it: %s",
             libkrun->version, libkrun->lacks, error.message);
    } else {
        tell(doctor, "libkrun", KELPIE_CHECK_OK, "",
             "%s%s; a guest booted with it in %llu ms; pause by %s", libkrun->version,
             libkrun->lacks, (unsigned long long)(info->boot_us / 1000), info->pause);
    }
    kelpie__free(kelpie->os, info, sizeof(*info));
}

/* Nobody has to have it: what is wrong with it is a failure of nothing. */
static void check_libkrun(const struct doctor *doctor, bool tries_kvm) {
    struct kelpie_error error = {0};
    struct kelpie_libkrun libkrun;
    KELPIE_ASSERT(doctor->kelpie != NULL);
    if (kelpie__libkrun_ask(doctor->kelpie, &libkrun, &error) < 0) {
        tell(doctor, "libkrun", KELPIE_CHECK_WARNING, "", "%s", error.message);
    } else if (libkrun.missing[0] != '\0') {
        tell(doctor, "libkrun", KELPIE_CHECK_OK, "", "only --backend krun needs it: %s",
             libkrun.missing);
    } else if (tries_kvm) {
        try_libkrun(doctor, &libkrun);
    } else {
        tell(doctor, "libkrun", KELPIE_CHECK_OK, "", "%s%s; no guest was booted with it",
             libkrun.version, libkrun.lacks);
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

static void check_directories(const struct doctor *doctor) {
    const struct kelpie_places *places = &doctor->kelpie->places;
    KELPIE_ASSERT(places->state_path[0] == '/');
    KELPIE_ASSERT(places->runtime_path[0] == '/');
    /* kelpie_open has made them and looked at who owns them. */
    tell(doctor, "directories", KELPIE_CHECK_OK, "", "state %s, runtime %s, cache %s",
         places->state_path, places->runtime_path, places->cache_path);
}

static void check_space_of(const struct doctor *doctor, const char *what, const char *path) {
    struct kelpie_os *os = doctor->kelpie->os;
    struct kelpie_os_space space = {0};
    int directory =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    int status = directory < 0 ? directory : kelpie__os_space(os, directory, &space);
    if (directory >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory)); /* it was looked at only */
    }
    if (status < 0) {
        tell(doctor, "space", KELPIE_CHECK_FAILED, "", "look at %s (%s): %s", path, what,
             kelpie__errno_text(-status) != NULL ? kelpie__errno_text(-status) : "unknown error");
        return;
    }
    enum kelpie_check_status found =
        space.is_read_only                                   ? KELPIE_CHECK_FAILED
        : space.available_bytes < DOCTOR_SPACE_FAILED_BYTES  ? KELPIE_CHECK_FAILED
        : space.available_bytes < DOCTOR_SPACE_WARNING_BYTES ? KELPIE_CHECK_WARNING
                                                             : KELPIE_CHECK_OK;
    tell(doctor, "space", found,
         found == KELPIE_CHECK_OK ? "" : "free some space, or choose --state-dir",
         "%s: %llu MiB available in %s%s", what, (unsigned long long)(space.available_bytes >> 20),
         path, space.is_read_only ? ", which is read-only" : "");
}

/* VMMs that were started in advance and take memory for nothing that runs yet. */
static void check_waiting_forks(const struct doctor *doctor) {
    struct kelpie *kelpie = doctor->kelpie;
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    size_t waiting_count = 0;
    if (kelpie_list(kelpie, &list, &count, NULL) < 0) {
        return; /* what is wrong there, the others tell */
    }
    for (size_t i = 0; i < count; i += 1) {
        waiting_count += list[i].state == KELPIE_VM_CREATED && list[i].vmm_pid != 0 ? 1 : 0;
    }
    kelpie_list_free(kelpie, list, count);
    if (waiting_count > 0) {
        tell(doctor, "forks", KELPIE_CHECK_OK, "", "%zu VMs wait to be forked, some 20 MiB each",
             waiting_count);
    }
}

int kelpie_doctor(struct kelpie *kelpie, bool tries_kvm, kelpie_check_callback callback,
                  void *context, struct kelpie_error *error) {
    if (kelpie == NULL || callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_doctor: an argument is NULL");
    }
    int status = kelpie__check_may_block(kelpie, "kelpie_doctor", error);
    if (status < 0) {
        return status;
    }
    const struct doctor doctor = {.kelpie = kelpie, .callback = callback, .context = context};
    check_directories(&doctor);
    check_space_of(&doctor, "state", kelpie->places.state_path);
    check_space_of(&doctor, "cache", kelpie->places.cache_path);
    check_helpers(&doctor);
    check_waiting_forks(&doctor);
    bool has_qemu = check_qemu(&doctor);
    bool has_kernel = check_kernel(&doctor);
    check_kvm(&doctor, tries_kvm, has_qemu && has_kernel);
    check_vsock(&doctor);
    check_libkrun(&doctor, tries_kvm);
    return 0;
}
