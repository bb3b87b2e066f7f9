/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The snapshot that a VM is made from, or was: opened with its lock held together with others,
 * compared with what the VM is, and the files that the VMM needs of it. It is kept while the VM
 * lives: its memory lies over the snapshot's, and a snapshot of it links that.
 */
#ifndef KELPIE_MONITOR_SOURCE_H
#define KELPIE_MONITOR_SOURCE_H

#include "core/error.h"
#include "monitor/guest.h"
#include "store/record.h"
#include "store/snapshot.h"
#include "vmm/vmm.h"

struct kelpie_source {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    bool is_template;
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot; /* with its lock; `directory` KELPIE_OS_NO_HANDLE: closed */
    int device;                      /* owned, until the VMM has read it; as the next two: */
    int memory;
    int map;
    int base; /* owned, while the VM lives */
    struct kelpie_vmm_description description;
    struct kelpie_vmm_restore restore; /* for the driver: of the handles above */
    struct kelpie_guest_continuity continuity;
    /* The writable disk of the VM that is being made, the lowest layer first; the last is its own.
     */
    uint32_t layer_count;
    char layers[KELPIE_DISK_LAYER_COUNT_MAX][KELPIE_RECORD_LAYER_BYTES_MAX];
    char paths[KELPIE_VMM_DISK_COUNT_MAX][KELPIE_PATH_BYTES_MAX]; /* of the disks */
    struct kelpie_vmm_disk disks[KELPIE_VMM_DISK_COUNT_MAX];
};

/* Opens it and looks whether it fits this VM. `source` may be closed afterwards whatever came of
 * it. NOT_FOUND, BUSY, SNAPSHOT_CORRUPTED, SNAPSHOT_INCOMPATIBLE, IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__source_open(struct kelpie_source *source,
                                          struct kelpie_monitor *monitor, const char *name,
                                          bool is_template, struct kelpie_error *error);
void kelpie__source_check(const struct kelpie_source *source);
/* Links the layers of its disk into the VM's directory. True: they are there, and the files were
 * compared since the host's boot. False: kelpie__source_work has to do it, in a worker. */
KELPIE_MUST_CHECK bool kelpie__source_is_ready(struct kelpie_source *source);
/* The layer of its own over those, and the files of the memory; fills in `spec` for a restore. It
 * is borrowed while the source is open. */
KELPIE_MUST_CHECK int kelpie__source_prepare(struct kelpie_source *source,
                                             struct kelpie_vmm_spec *spec,
                                             struct kelpie_error *error);
/* The VMM has read what it needs. */
void kelpie__source_release(struct kelpie_source *source);
/* It came to nothing: the layers that the VM does not use leave its directory. */
void kelpie__source_take_back(struct kelpie_source *source);
/* Closes it; one that was made for this VM and others like it is removed with the last of them. */
void kelpie__source_close(struct kelpie_source *source);
/* The VM lives: what its own snapshots need of this one gets names in its own directory, where that
 * is possible; one that was made for it is let go then. */
void kelpie__source_settle(struct kelpie_source *source);
/* It was made for this VM, and others like it. */
bool kelpie__source_is_transient(const struct kelpie_source *source);

/* Drops the lock. */
void kelpie__source_let_go(struct kelpie_source *source);

/* Removes layers from the VM's directory that no record names: of a monitor that died. */
void kelpie__source_sweep(struct kelpie_monitor *monitor, const struct kelpie_vm_record *record);

/* In a worker: gives the VM's directory one layer of the snapshot, as a link or a copy, and syncs
 * it: it is there, or it is not. */
void kelpie__source_lay(const struct kelpie_snapshot *snapshot, const char *name, int vm_directory);

/* In a worker, which has the handles of both directories: compares the snapshot's files, unless
 * that is known, and links its layers into the VM's directory, or copies them. */
KELPIE_MUST_CHECK int kelpie__source_work(struct kelpie_snapshot *snapshot, int vm_directory,
                                          struct kelpie_error *error);

#endif
