/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * state.json: what is known of a VM between and during its runs. Written by whoever holds the VM's
 * lock, read by anybody; always the old truth or the new one.
 */
#ifndef KELPIE_STORE_RECORD_H
#define KELPIE_STORE_RECORD_H

#include "core/error.h"
#include "core/limits.h"
#include "os/os.h"

#define KELPIE_RECORD_FORMAT 1u
#define KELPIE_RECORD_JSON_BYTES_MAX 32768u
#define KELPIE_RECORD_FILE "state.json"
#define KELPIE_RECORD_LAYER_BYTES_MAX 48u /* "disk-", 32 digits, ".qcow2" */

struct kelpie_vm_record {
    enum kelpie_vm_state state;
    enum kelpie_vm_state previous; /* while Starting: where a failed start goes back to */
    int64_t changed_ms;
    char reason[512];
    char backend[16];
    char backend_reason[128]; /* why this one, for people */
    char pause[8];
    char accelerator[8];
    char accelerator_reason[256];
    char origin[16];
    char kernel[KELPIE_PATH_BYTES_MAX + 1]; /* that was used */
    char parent[33]; /* id of the snapshot that was taken of it last, or that it came from; "" */
    /* Files of the writable disk in the VM's directory, the lowest first; none: only the one that a
     * first start makes. The uppermost is written to, the others never again. */
    uint32_t layer_count;
    char layers[KELPIE_DISK_LAYER_COUNT_MAX][KELPIE_RECORD_LAYER_BYTES_MAX];
    char pool[KELPIE_NAME_BYTES_MAX + 1]; /* that it waits in, or was claimed from; "" */
    char lifetime[16];     /* instead of the configuration's, since it was claimed; "" */
    int64_t lease_end_ms;  /* Unix time; 0: it has none */
    bool is_snapshot_used; /* the one that the configuration names: a start boots from now on */
    uint64_t boot_us;
    int32_t monitor_pid;
    int32_t vmm_pid;
};

/* Replaces state.json in the VM's directory. `is_synced`: survives the machine's death. */
KELPIE_MUST_CHECK int kelpie__record_write(struct kelpie_os *os, int directory,
                                           const struct kelpie_vm_record *record, bool is_synced,
                                           struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__record_read(struct kelpie_os *os, int directory,
                                          struct kelpie_vm_record *out, struct kelpie_error *error);

#endif
