/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-krun becomes a libkrun VM: krun_start_enter takes the calling process over and ends it
 * with _exit, so that it cannot be a monitor. A program of its own, outside of the operating-system
 * seam, and the only place that knows libkrun, which is loaded at run time and never linked.
 *
 * It is told all it needs by its arguments and descriptors, and tells what it does in lines on its
 * status descriptor (vmm/krun/launch.h).
 */
#ifndef KELPIE_KRUN_KRUN_H
#define KELPIE_KRUN_KRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base.h"
#include "vmm/krun/launch.h"

/* What they are asked for by, and what they call themselves wherever they lie. */
#define KELPIE_KRUN_LIBRARY_NAME "libkrun.so.1"
#define KELPIE_KRUN_FIRMWARE_NAME "libkrunfw.so.5"

struct kelpie_krun_disk {
    char name[16]; /* by which the agent finds it */
    const char *path;
    bool is_qcow2;
    bool is_read_only;
};

struct kelpie_krun_share {
    char tag[37]; /* by which the agent mounts it */
    const char *path;
    bool is_read_only;
};

struct kelpie_krun_options {
    bool is_description;  /* asked what the libraries can do: the rest does not matter */
    const char *library;  /* KELPIE_KRUN_LIBRARY_NAME, or a path */
    const char *firmware; /* KELPIE_KRUN_FIRMWARE_NAME, or a path */
    const char *agent;    /* the static agent */
    const char *kernel;   /* NULL: the firmware's; reads its devices off its command line */
    /* A directory of this VM alone that holds `agent` and the places that it mounts on; used by a
     * library that cannot give the guest a root without one. */
    const char *staging;
    uint32_t cpu_count;
    uint32_t memory_mib;
    uint32_t port; /* vsock, of the agent */
    struct kelpie_krun_disk disks[KELPIE_KRUN_DISK_COUNT_MAX];
    uint32_t disk_count;
    struct kelpie_krun_share shares[KELPIE_KRUN_SHARE_COUNT_MAX];
    uint32_t share_count;
};

/* Calls of libkrun, by name; what an optional one is for stands in library.c. */
struct kelpie_krun_library {
    int32_t (*create_ctx)(void);
    int32_t (*init_log)(int file, uint32_t level, uint32_t style, uint32_t options);
    int32_t (*set_vm_config)(uint32_t ctx, uint8_t cpu_count, uint32_t memory_mib);
    int32_t (*set_root)(uint32_t ctx, const char *path);
    int32_t (*set_exec)(uint32_t ctx, const char *path, const char *const *argv,
                        const char *const *environment);
    int32_t (*add_virtiofs)(uint32_t ctx, const char *tag, const char *path);
    int32_t (*set_console_output)(uint32_t ctx, const char *path);
    int32_t (*disable_implicit_vsock)(uint32_t ctx);
    int32_t (*add_vsock)(uint32_t ctx, uint32_t tsi_features);
    int32_t (*add_vsock_port2)(uint32_t ctx, uint32_t port, const char *path, bool is_listening);
    int32_t (*start_enter)(uint32_t ctx);
    int32_t (*free_ctx)(uint32_t ctx);
    /* NULL where the library has none */
    int32_t (*add_disk2)(uint32_t ctx, const char *id, const char *path, uint32_t format,
                         bool is_read_only);
    int32_t (*add_virtiofs3)(uint32_t ctx, const char *tag, const char *path, uint64_t dax_bytes,
                             bool is_read_only);
    int32_t (*disable_implicit_init)(uint32_t ctx);
    int32_t (*fs_add_overlay_file)(uint32_t ctx, const char *tag, const char *path,
                                   const uint8_t *bytes, size_t count, uint32_t mode,
                                   bool is_one_shot);
    int32_t (*fs_add_overlay_dir)(uint32_t ctx, const char *tag, const char *path, uint32_t mode);
    int32_t (*has_feature)(uint64_t feature);
    int32_t (*get_max_vcpus)(void);
    int32_t (*set_kernel)(uint32_t ctx, const char *path, uint32_t format, const char *initramfs,
                          const char *command_line);
};

/* The program: an enum kelpie_krun_exit, or what the VM ended with. */
int kelpie_krun_main(int argc, char **argv);

/* ---- options.c ---- */

/* False after an error line. */
KELPIE_MUST_CHECK bool kelpie__krun_options_read(int argc, char **argv,
                                                 struct kelpie_krun_options *out);

/* ---- status.c: lines as vmm/krun/launch.h has them ---- */

/* "call NAME" */
void kelpie__krun_tell_call(const char *name);
/* "error TEXT" */
KELPIE_PRINTF(1, 2) void kelpie__krun_tell_error(const char *format, ...);
/* "missing TEXT" */
KELPIE_PRINTF(1, 2) void kelpie__krun_tell_missing(const char *format, ...);
/* Any other: "start", "returned ERRNO". */
KELPIE_PRINTF(1, 2) void kelpie__krun_tell(const char *format, ...);

/* ---- library.c ---- */

/* Loads both libraries; false after an error line that says what is missing and where it is found.
 * They stay loaded: the guest's kernel is mapped from the second one. */
KELPIE_MUST_CHECK bool kelpie__krun_library_load(const struct kelpie_krun_options *options,
                                                 struct kelpie_krun_library *out);
bool kelpie__krun_library_has_disks(const struct kelpie_krun_library *library);
/* Each call that not every libkrun has. */
void kelpie__krun_library_each_choice(const struct kelpie_krun_library *library,
                                      void (*callback)(bool is_there, const char *name));

/* ---- describe.c ---- */

/* The program when it is asked what the libraries can do; returns its exit code. */
int kelpie__krun_describe(const struct kelpie_krun_options *options);

/* ---- configure.c ---- */

/* Makes the VM's context, ready for start_enter; -1 after an error line, and none is left. */
int64_t kelpie__krun_configure(const struct kelpie_krun_library *library,
                               const struct kelpie_krun_options *options);
/* Gives a context back that start_enter did not take; what went wrong has been told. */
void kelpie__krun_release(const struct kelpie_krun_library *library, uint32_t ctx);

/* ---- confine.c ---- */

/* From here on nothing can be written but the disks and shares that may be, and the devices a VM
 * needs. False
 * after an error line. A kernel without Landlock is an error only where the library gives the guest
 * a directory of the host to write to. */
KELPIE_MUST_CHECK bool kelpie__krun_confine(const struct kelpie_krun_library *library,
                                            const struct kelpie_krun_options *options);

/* ---- forbid.c ---- */

/* Calls that no VM needs fail from here on. False after an error line. Owners, modes, times and
 * attributes of files are a VM's to set where it has a share to write to and its library keeps the
 * guest from the staged root. */
KELPIE_MUST_CHECK bool kelpie__krun_forbid(const struct kelpie_krun_library *library,
                                           const struct kelpie_krun_options *options);

#endif
