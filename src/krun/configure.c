/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The sequence of calls that make a VM, in the only order that libkrun takes. The guest's command
 * line holds little and is cut at 2 KiB: what it needs beyond these few words comes over the
 * agent's channel.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "krun/krun.h"

#define CONFIGURE_LOG_WARNINGS 2u
#define CONFIGURE_LOG_PLAIN 2u /* no colours */
#define CONFIGURE_LOG_NO_ENVIRONMENT 1u
#define CONFIGURE_DISK_RAW 0u
#define CONFIGURE_DISK_QCOW2 1u
#define CONFIGURE_KERNEL_ELF 1u       /* 0, "raw", would leave out the command line */
#define CONFIGURE_CPU_COUNT_MAX 16u   /* of libkrunfw's kernel */
#define CONFIGURE_MEMORY_MIB_MIN 128u /* below it its kernel may not fit, and libkrun panics */
#define CONFIGURE_AGENT_BYTES_MAX (64 << 20)
#define CONFIGURE_ROOT_TAG "/dev/root"

struct configure {
    const struct kelpie_krun_library *library;
    const struct kelpie_krun_options *options;
    uint32_t ctx;
};

static bool configure_failed(const char *call, int32_t result) {
    KELPIE_ASSERT(result < 0);
    kelpie__krun_tell_error("%s failed: %s (%d)", call, strerror(-result), result);
    return false;
}

/* Tells the name first: a call that does not come back is known by it. */
#define CONFIGURE_CALL(name, ...)                                                                  \
    configure_result("krun_" #name, (kelpie__krun_tell_call("krun_" #name),                        \
                                     configure->library->name(__VA_ARGS__)))

static bool configure_result(const char *call, int32_t result) {
    KELPIE_ASSERT(call[0] != '\0');
    return result >= 0 || configure_failed(call, result);
}

static bool configure_machine(const struct configure *configure) {
    const struct kelpie_krun_options *options = configure->options;
    uint32_t most = CONFIGURE_CPU_COUNT_MAX;
    KELPIE_ASSERT(options->cpu_count > 0);
    KELPIE_ASSERT(options->memory_mib > 0);
    if (configure->library->get_max_vcpus != NULL) {
        kelpie__krun_tell_call("krun_get_max_vcpus");
        errno = 0;
        int32_t host = configure->library->get_max_vcpus();
        if (host < 0) {
            kelpie__krun_tell_missing("KVM cannot be used: open /dev/kvm: %s; load kvm_amd or "
                                      "kvm_intel, or use the backend qemu",
                                      strerror(errno != 0 ? errno : -host));
            return false;
        }
        most = host > 0 && (uint32_t)host < most ? (uint32_t)host : most;
    }
    if (options->cpu_count > most) {
        kelpie__krun_tell_error("%u CPUs; libkrun takes at most %u on this host",
                                options->cpu_count, most);
        return false;
    }
    if (options->memory_mib < CONFIGURE_MEMORY_MIB_MIN) {
        kelpie__krun_tell_error("%u MiB of memory; libkrun wants at least %u", options->memory_mib,
                                CONFIGURE_MEMORY_MIB_MIN);
        return false;
    }
    KELPIE_ASSERT(options->cpu_count <= UINT8_MAX);
    return CONFIGURE_CALL(set_vm_config, configure->ctx, (uint8_t)options->cpu_count,
                          options->memory_mib);
}

/* Maps the agent for the life of the process: libkrun does not copy it. */
static const uint8_t *configure_map_agent(const char *path, size_t *out_count) {
    struct stat stat;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &stat) < 0 || stat.st_size <= 0 ||
        stat.st_size > CONFIGURE_AGENT_BYTES_MAX) {
        kelpie__krun_tell_error("read the agent \"%s\": %s", path,
                                file < 0 ? strerror(errno) : "its size cannot be right");
        if (file >= 0) {
            close(file);
        }
        return NULL;
    }
    void *bytes = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    int error_number = errno;
    close(file);
    if (bytes == MAP_FAILED) {
        kelpie__krun_tell_error("map the agent \"%s\": %s", path, strerror(error_number));
        return NULL;
    }
    *out_count = (size_t)stat.st_size;
    KELPIE_ASSERT(*out_count > 0);
    return bytes;
}

/* Another kernel in the place of libkrunfw's, which is loaded all the same. Without a command line
 * of ours libkrun gives it the one that its own gets: init, console, root and environment. */
static bool configure_kernel(const struct configure *configure) {
    const char *kernel = configure->options->kernel;
    if (kernel == NULL) {
        return true;
    }
    KELPIE_ASSERT(kernel[0] == '/');
    if (configure->library->set_kernel == NULL) {
        kelpie__krun_tell_missing("this libkrun has no krun_set_kernel; leave out the kernel, or "
                                  "use the backend qemu");
        return false;
    }
    return CONFIGURE_CALL(set_kernel, configure->ctx, kernel, CONFIGURE_KERNEL_ELF, NULL, NULL);
}

/* 1.19: a root that exists nowhere on the host; the agent is its init. */
static bool configure_root_overlay(const struct configure *configure) {
    static const char *const directories[] = {"dev",          "proc",          "sys",
                                              "run",          "tmp",           ".kelpie",
                                              ".kelpie/root", ".kelpie/lower", ".kelpie/layer"};
    size_t count = 0;
    const uint8_t *agent = configure_map_agent(configure->options->agent, &count);
    KELPIE_ASSERT(configure->library->fs_add_overlay_dir != NULL);
    KELPIE_ASSERT(configure->library->add_virtiofs3 != NULL);
    bool is_good = agent != NULL && CONFIGURE_CALL(disable_implicit_init, configure->ctx) &&
                   CONFIGURE_CALL(add_virtiofs3, configure->ctx, CONFIGURE_ROOT_TAG, NULL, 0, true);
    for (size_t i = 0; is_good && i < KELPIE_ARRAY_COUNT(directories); i += 1) {
        is_good = CONFIGURE_CALL(fs_add_overlay_dir, configure->ctx, CONFIGURE_ROOT_TAG,
                                 directories[i], 0755);
    }
    return is_good && CONFIGURE_CALL(fs_add_overlay_file, configure->ctx, CONFIGURE_ROOT_TAG,
                                     "init.krun", agent, count, 0100755, false);
}

/* Before: a directory of this VM alone, which Landlock keeps the guest from writing. */
static bool configure_root_staging(const struct configure *configure) {
    const char *staging = configure->options->staging;
    KELPIE_ASSERT(staging[0] == '/');
    if (configure->library->add_virtiofs3 != NULL) {
        return CONFIGURE_CALL(add_virtiofs3, configure->ctx, CONFIGURE_ROOT_TAG, staging, 0, true);
    }
    return CONFIGURE_CALL(set_root, configure->ctx, staging);
}

/* "KELPIE_DISKS=base,upper": libkrun's own serial numbers tell the guest nothing. */
static void configure_name_disks(const struct configure *configure, char *out, size_t capacity) {
    const struct kelpie_krun_options *options = configure->options;
    KELPIE_ASSERT(options->disk_count <= KELPIE_KRUN_DISK_COUNT_MAX);
    int used = snprintf(out, capacity, "KELPIE_DISKS=");
    for (uint32_t i = 0; i < options->disk_count; i += 1) {
        KELPIE_ASSERT(used > 0 && (size_t)used < capacity);
        used += snprintf(out + used, capacity - (size_t)used, "%s%s", i > 0 ? "," : "",
                         options->disks[i].name);
    }
    KELPIE_ASSERT((size_t)used < capacity);
}

static bool configure_root(const struct configure *configure) {
    const struct kelpie_krun_library *library = configure->library;
    char port[64];
    char disks[32 + KELPIE_KRUN_DISK_COUNT_MAX * sizeof(configure->options->disks[0].name)];
    bool has_overlay = library->fs_add_overlay_file != NULL &&
                       library->fs_add_overlay_dir != NULL && library->add_virtiofs3 != NULL &&
                       library->disable_implicit_init != NULL;
    int length = snprintf(port, sizeof(port), "KELPIE_PORT=%u", configure->options->port);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(port));
    configure_name_disks(configure, disks, sizeof(disks));
    const char *const argv[] = {NULL};
    const char *const environment[] = {"KRUN_INIT_PID1=1", port, disks, NULL};
    bool is_good =
        has_overlay ? configure_root_overlay(configure) : configure_root_staging(configure);
    return is_good && CONFIGURE_CALL(set_exec, configure->ctx, "/agent", argv, environment);
}

static bool configure_disks(const struct configure *configure) {
    const struct kelpie_krun_options *options = configure->options;
    if (configure->library->has_feature != NULL) {
        kelpie__krun_tell_call("krun_has_feature");
    }
    if (options->disk_count > 0 && !kelpie__krun_library_has_disks(configure->library)) {
        kelpie__krun_tell_missing("this libkrun was built without block devices, which Kelpie's "
                                  "root file systems are; build it with the feature blk, or use "
                                  "the backend qemu");
        return false;
    }
    for (uint32_t i = 0; i < options->disk_count; i += 1) {
        const struct kelpie_krun_disk *disk = &options->disks[i];
        char id[16];
        int length = snprintf(id, sizeof(id), "disk%u", i);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(id));
        if (access(disk->path, R_OK) < 0) { /* libkrun would say EINVAL, and of which file not */
            kelpie__krun_tell_error("open disk \"%s\": %s", disk->path, strerror(errno));
            return false;
        }
        uint32_t format = disk->is_qcow2 ? CONFIGURE_DISK_QCOW2 : CONFIGURE_DISK_RAW;
        KELPIE_ASSERT(configure->library->add_disk2 != NULL);
        if (!CONFIGURE_CALL(add_disk2, configure->ctx, id, disk->path, format,
                            disk->is_read_only)) {
            return false;
        }
    }
    return true;
}

/* Read-only by libkrun itself, and nobody else's word for it: what a library cannot is refused. No
 * DAX window: it would cost address space for each, and its pages are the host's. */
static bool configure_shares(const struct configure *configure) {
    const struct kelpie_krun_library *library = configure->library;
    const struct kelpie_krun_options *options = configure->options;
    bool is_good = true;
    KELPIE_ASSERT(options->share_count <= KELPIE_KRUN_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < options->share_count && is_good; i += 1) {
        const struct kelpie_krun_share *share = &options->shares[i];
        KELPIE_ASSERT(share->tag[0] != '\0' && share->path[0] == '/');
        if (access(share->path, R_OK | X_OK) <
            0) { /* libkrun would not look until the guest does */
            kelpie__krun_tell_error("share \"%s\": %s", share->path, strerror(errno));
            is_good = false;
        } else if (library->add_virtiofs3 != NULL) {
            is_good = CONFIGURE_CALL(add_virtiofs3, configure->ctx, share->tag, share->path, 0,
                                     share->is_read_only);
        } else if (share->is_read_only) {
            kelpie__krun_tell_missing("share \"%s\" is to be read-only, and this libkrun has no "
                                      "krun_add_virtiofs3 to keep a guest from writing; install "
                                      "libkrun 1.18.0 or newer, or leave out :ro",
                                      share->path);
            is_good = false;
        } else {
            is_good = CONFIGURE_CALL(add_virtiofs, configure->ctx, share->tag, share->path);
        }
    }
    return is_good;
}

/* vsock without TSI, so that the guest has no other way out, and one port, which the guest dials.
 * The socket's path is short, wherever the directory lies. */
static bool configure_channels(const struct configure *configure) {
    char path[64];
    char console[64];
    int length = snprintf(path, sizeof(path), "/proc/self/fd/%d/" KELPIE_KRUN_SOCKET_NAME,
                          KELPIE_KRUN_DIRECTORY);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
    length = snprintf(console, sizeof(console), "/proc/self/fd/%d", KELPIE_KRUN_CONSOLE);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(console));
    return CONFIGURE_CALL(disable_implicit_vsock, configure->ctx) &&
           CONFIGURE_CALL(add_vsock, configure->ctx, 0) &&
           CONFIGURE_CALL(add_vsock_port2, configure->ctx, configure->options->port, path, false) &&
           CONFIGURE_CALL(set_console_output, configure->ctx, console);
}

void kelpie__krun_release(const struct kelpie_krun_library *library, uint32_t ctx) {
    KELPIE_ASSERT(library->free_ctx != NULL);
    kelpie__krun_tell_call("krun_free_ctx");
    kelpie__ignore(library->free_ctx(ctx)); /* the driver has been told why there is no VM */
}

int64_t kelpie__krun_configure(const struct kelpie_krun_library *library,
                               const struct kelpie_krun_options *options) {
    struct configure made = {.library = library, .options = options};
    struct configure *configure = &made;
    KELPIE_ASSERT(options->agent != NULL && options->staging != NULL);
    KELPIE_ASSERT(options->disk_count <= KELPIE_KRUN_DISK_COUNT_MAX);
    if (!CONFIGURE_CALL(init_log, STDERR_FILENO, CONFIGURE_LOG_WARNINGS, CONFIGURE_LOG_PLAIN,
                        CONFIGURE_LOG_NO_ENVIRONMENT)) {
        return -1;
    }
    kelpie__krun_tell_call("krun_create_ctx");
    int32_t ctx = library->create_ctx();
    if (ctx < 0) {
        configure_failed("krun_create_ctx", ctx);
        return -1;
    }
    made.ctx = (uint32_t)ctx;
    bool is_good = configure_machine(configure) && configure_kernel(configure) &&
                   configure_root(configure) && configure_disks(configure) &&
                   configure_shares(configure) && configure_channels(configure);
    if (!is_good) {
        kelpie__krun_release(library, made.ctx);
        return -1;
    }
    return (int64_t)made.ctx;
}
