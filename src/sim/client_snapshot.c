/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_snapshot.h.
 */
#include "sim/client_snapshot.h"

#include "core/text.h"
#include "kelpie.h"

#define SNAPSHOT_SYNCED_OF 4u   /* one in so many is synced, whatever its VM is */
#define SNAPSHOT_VERIFIED_OF 2u /* one in so many is verified before it is removed */

void kelpie__sim_snapshot_name(uint32_t snapshot, char out[SIM_SNAPSHOT_NAME_BYTES]) {
    bool fits =
        kelpie__text_format(out, SIM_SNAPSHOT_NAME_BYTES, SIM_SNAPSHOT_PREFIX "%u", snapshot);
    KELPIE_ASSERT(fits && snapshot > 0);
}

bool kelpie__sim_snapshot_is_synced(const struct sim_operation *operation) {
    return operation->value % SNAPSHOT_SYNCED_OF == 0;
}

int kelpie__sim_snapshot_ask(struct kelpie_vm *vm, const struct sim_operation *operation,
                             uint64_t timeout_ms, struct kelpie_error *error) {
    char name[SIM_SNAPSHOT_NAME_BYTES];
    kelpie__sim_snapshot_name(operation->snapshot, name);
    if (operation->op == SIM_MODEL_RESTORE) {
        int status = kelpie_vm_restore(vm, name, timeout_ms, error);
        /* What was found to be damaged once is found so again: it is never remembered as good. */
        return status == KELPIE_E_SNAPSHOT_CORRUPTED
                   ? kelpie_vm_restore(vm, name, timeout_ms, error)
                   : status;
    }
    KELPIE_ASSERT(operation->op == SIM_MODEL_SNAPSHOT);
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options),
        .name = name,
        .is_synced = kelpie__sim_snapshot_is_synced(operation),
    };
    return kelpie_vm_snapshot(vm, &options, NULL, error);
}

int kelpie__sim_snapshot_forget(struct kelpie *kelpie, const struct sim_operation *operation,
                                struct kelpie_error *error) {
    char name[SIM_SNAPSHOT_NAME_BYTES];
    KELPIE_ASSERT(operation->op == SIM_MODEL_FORGET);
    kelpie__sim_snapshot_name(operation->snapshot, name);
    if (operation->value % SNAPSHOT_VERIFIED_OF == 0) {
        /* What is wrong is the invariants' business: one that is damaged can be removed. */
        kelpie__ignore(kelpie_snapshot_verify(kelpie, name, NULL));
    }
    return kelpie_snapshot_remove(kelpie, name, error);
}

int kelpie__sim_snapshot_make(struct kelpie *kelpie, struct kelpie_config *config, const char *name,
                              const struct sim_operation *operation, struct kelpie_vm **out,
                              struct kelpie_error *error) {
    char snapshot[SIM_SNAPSHOT_NAME_BYTES];
    const char *const names[] = {name};
    kelpie__sim_snapshot_name(operation->snapshot, snapshot);
    if (operation->op == SIM_MODEL_FORK) {
        return kelpie_snapshot_fork(kelpie, snapshot, config, names, 1, out, error);
    }
    KELPIE_ASSERT(operation->op == SIM_MODEL_CREATE_FROM);
    kelpie_config_set_snapshot(config, snapshot);
    return kelpie_vm_create(kelpie, name, config, out, error);
}
