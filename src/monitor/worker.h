/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What takes its time, in a child of the monitor: `kelpie-monitor --worker JOB ...`, over the
 * unfinished snapshot whose directory, with its lock, is descriptor 3. It prints one JSON object:
 * {"bytes":N}, or {"code","os_error","field","message","is_removed"}. It dies with its monitor.
 *     seal     makes it whole and gives it its name: base (descriptor 4) or a flat memory, disk
 *              layers, configuration, checksums
 *     template the same, of a template; then makes room for it among the others
 *     remove   removes it
 *     verify   of a whole one: compares its files, then lays its disk's layers into the VM's
 *              directory
 */
#ifndef KELPIE_MONITOR_WORKER_H
#define KELPIE_MONITOR_WORKER_H

#include "core/error.h"
#include "os/os.h"
#include "store/snapshot.h"

#define KELPIE_WORKER_OPTION "--worker"
#define KELPIE_WORKER_SEAL "seal"
#define KELPIE_WORKER_TEMPLATE "template"
#define KELPIE_WORKER_REMOVE "remove"
#define KELPIE_WORKER_VERIFY "verify"

enum kelpie_worker_handle {
    KELPIE_WORKER_HANDLE_OUTPUT = 1,
    KELPIE_WORKER_HANDLE_DIRECTORY = 3,
    KELPIE_WORKER_HANDLE_BASE = 4,
    KELPIE_WORKER_HANDLE_COUNT = 5,
};

/* Borrowed from argv. */
struct kelpie_worker_options {
    const char *job;
    const char *store;  /* path of the directory of snapshots */
    const char *entry;  /* the unfinished one in it */
    const char *vm;     /* path of the VM's directory */
    const char *root;   /* path of its root image; "": none */
    const char *kernel; /* path of its kernel */
    /* Name of an image that all layers of its disk are merged into, which is then the VM's, too;
     * "", NULL: they are linked as they are. */
    const char *merged;
    bool is_synced;
    bool is_transient; /* nobody but the VMs that are about to be made of it will know of it */
};

/* The job "seal". The snapshot's manifest.json is a draft, whose files are there or will be;
 * `base`: KELPIE_OS_NO_HANDLE, none. What a failure leaves is the caller's to abandon. */
KELPIE_MUST_CHECK int kelpie__worker_seal(struct kelpie_snapshot *snapshot,
                                          const struct kelpie_worker_options *options, int base,
                                          struct kelpie_error *error);

/* worker_memory.c: lays `memory`'s pages over `base` into `flat`, an empty file. All have the size
 * of the guest's memory; `map` has a bit for each page. */
KELPIE_MUST_CHECK int kelpie__worker_flatten(struct kelpie_os *os, int base, int memory, int map,
                                             int flat, struct kelpie_error *error);

/* What a worker printed of its failure; false: nothing that can be read. */
KELPIE_MUST_CHECK bool kelpie__worker_read_error(const char *text, size_t length,
                                                 struct kelpie_error *out);

/* The program. */
int kelpie__worker_main(struct kelpie_os *os, int argc, char **argv);

#endif
