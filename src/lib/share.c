/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Directories of the host that a guest sees: into a configuration, and out of a VM.
 */
#include "lib/internal.h"
#include "os/os_call.h"

void kelpie_config_add_share(struct kelpie_config *config, const char *host_path,
                             const char *guest_path, const char *tag, bool is_read_only) {
    char real[KELPIE_PATH_BYTES_MAX + 1];
    const char *host = host_path == NULL ? "" : host_path;
    /* The same directory at every start, whatever links lead to another one then. */
    bool is_found =
        host[0] != '\0' && kelpie__os_real_path(config->kelpie->os, host, real, sizeof(real)) == 0;
    KELPIE_ASSERT(!is_found || real[0] == '/');
    kelpie__config_add_share(&config->values, is_found ? real : host,
                             guest_path == NULL ? "" : guest_path, tag, is_read_only);
}

bool kelpie_vm_share(const struct kelpie_vm *vm, size_t index, struct kelpie_share *out) {
    const struct kelpie_config_values *config = vm->config;
    KELPIE_ASSERT(config->share_count <= KELPIE_SHARE_COUNT_MAX);
    if (index >= config->share_count || !kelpie__struct_is_sized(out)) {
        return false;
    }
    const struct kelpie_config_share *share = &config->shares[index];
    const struct kelpie_share told = {
        .struct_size = sizeof(told),
        .host_path = kelpie__config_share_text(config, share->host),
        .guest_path = kelpie__config_share_text(config, share->guest),
        .tag = kelpie__config_share_text(config, share->tag),
        .is_read_only = share->is_read_only,
    };
    kelpie__struct_give(out, out->struct_size, &told, sizeof(told));
    return true;
}
