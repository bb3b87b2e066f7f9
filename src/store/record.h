/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * state.json: what is known of a VM between and during its runs. Written by whoever holds the VM's
 * lock, read by anybody; always the old truth or the new one, as long as the host runs. Most
 * changes are not synced: after the machine's death it may be older, empty, torn or gone. What has
 * to outlive that is in lasting.h.
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
#define KELPIE_BOOT_ID_BYTES 40u          /* 36 characters */

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
    char boot_id[KELPIE_BOOT_ID_BYTES]; /* of the host, when it was written; "": unknown */
    bool is_lost; /* not in the file: there was no whole one, so that only the machine's death */
};                /* explains it; the VM is then taken for one that ran */

struct kelpie_json_member;

/* Replaces state.json in the VM's directory. `is_synced`: survives the machine's death. */
KELPIE_MUST_CHECK int kelpie__record_write(struct kelpie_os *os, int directory,
                                           const struct kelpie_vm_record *record, bool is_synced,
                                           struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__record_read(struct kelpie_os *os, int directory,
                                          struct kelpie_vm_record *out, struct kelpie_error *error);
/* For whoever recovers, or looks whether he has to: a file that is not there or not whole gives a
 * record with `is_lost`, of a VM that is Running. */
KELPIE_MUST_CHECK int kelpie__record_read_remains(struct kelpie_os *os, int directory,
                                                  struct kelpie_vm_record *out,
                                                  struct kelpie_error *error);
/* "" when the host does not say. */
void kelpie__record_read_boot_id(struct kelpie_os *os, char out[KELPIE_BOOT_ID_BYTES]);
/* Of a JSON member; without one there are none. False: it is damaged. */
bool kelpie__record_read_layers(const struct kelpie_json_member *member,
                                struct kelpie_vm_record *out);

#endif
