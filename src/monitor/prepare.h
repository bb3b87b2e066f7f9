/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What has to be there before a VM can start: kernel, initramfs, root image, writable disk. What is
 * not in the cache is made by kelpie-pack, one child at a time, while the monitor goes on serving
 * its clients.
 */
#ifndef KELPIE_MONITOR_PREPARE_H
#define KELPIE_MONITOR_PREPARE_H

#include "core/error.h"
#include "core/limits.h"
#include "core/loop.h"
#include "store/cache.h"
#include "vmm/vmm.h"

struct kelpie_monitor;

/* By which the guest finds its disks. */
#define KELPIE_PREPARE_ROOT_SERIAL "base"
#define KELPIE_PREPARE_UPPER_SERIAL "upper"

enum kelpie_prepare_root {
    KELPIE_PREPARE_ROOT_BUILTIN, /* in the initramfs */
    KELPIE_PREPARE_ROOT_PACKED,  /* the same as an image */
    KELPIE_PREPARE_ROOT_DIRECTORY,
    KELPIE_PREPARE_ROOT_IMAGE,
};

enum kelpie_prepare_step {
    KELPIE_PREPARE_KERNEL,
    KELPIE_PREPARE_INITRAMFS,
    KELPIE_PREPARE_ROOT,
    KELPIE_PREPARE_DISK,
    KELPIE_PREPARE_DONE,
};

struct kelpie_prepare {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_prepare_step step;
    bool is_running; /* between start and the report */

    /* Results. */
    enum kelpie_prepare_root root_kind;
    bool has_upper;
    bool is_upper_qcow2;
    bool is_qcow2;
    bool is_own_kernel;
    char root_type[16]; /* "erofs" or "ext4" */
    char kernel_found[KELPIE_PATH_BYTES_MAX];
    char kernel[KELPIE_PATH_BYTES_MAX];
    char initramfs[KELPIE_PATH_BYTES_MAX];
    char root[KELPIE_PATH_BYTES_MAX];
    char upper[KELPIE_PATH_BYTES_MAX];

    /* The child. */
    struct kelpie_cache cache;
    struct kelpie_cache_kernel found;
    struct kelpie_cache_item item;
    int process; /* owned; KELPIE_OS_NO_HANDLE: none */
    /* owned: what it prints, and what it complains of, are told apart by its exit code */
    int output;
    uint32_t process_watch;
    uint32_t output_watch;
    struct kelpie_timer timer;
    size_t text_length;
    char text[KELPIE_PATH_BYTES_MAX + 512];
};

/* Begins; kelpie__lifecycle_prepared is called at its end, perhaps before this returns. */
void kelpie__prepare_start(struct kelpie_prepare *prepare, struct kelpie_monitor *monitor);
/* Ends a child that runs, without a report. */
void kelpie__prepare_cancel(struct kelpie_prepare *prepare);

/* Fills in what was prepared; borrowed until the next start. */
void kelpie__prepare_spec(const struct kelpie_prepare *prepare, struct kelpie_vmm_spec *out,
                          struct kelpie_vmm_disk disks[KELPIE_VMM_DISK_COUNT_MAX]);

/* LIMIT when the guest's memory is more than the host has available, and overcommit was not asked
 * for. */
KELPIE_MUST_CHECK int kelpie__prepare_check_memory(const struct kelpie_monitor *monitor,
                                                   struct kelpie_error *error);

#endif
