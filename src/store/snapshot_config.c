/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The configuration that a snapshot keeps of its VM.
 */
#include "core/small_file.h"
#include "os/os_call.h"
#include "store/snapshot.h"

int kelpie__snapshot_config(const struct kelpie_snapshot *snapshot,
                            struct kelpie_config_values *out, struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    kelpie__snapshot_check(snapshot);
    char *text = kelpie__alloc_raw(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (text == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int64_t length = kelpie__small_file_read_at(
        os, snapshot->directory, KELPIE_SNAPSHOT_CONFIG_FILE, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    int status = length < 0 ? KELPIE_E_IO : kelpie__config_read(text, (size_t)length, out, NULL);
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "snapshot \"%s\": its " KELPIE_SNAPSHOT_CONFIG_FILE
                            " is damaged; the snapshot can only be removed",
                            snapshot->entry);
    }
    return 0;
}
