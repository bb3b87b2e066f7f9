/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a program does first: it makes true what dead monitors have left, VM by VM. See
 * vm_directory.h.
 */
#include "core/state.h"
#include "store/vm_directory.h"

/* A VM whose directory says that it lives, or that should have gone with its monitor. */
static bool may_be_orphan(const struct kelpie_vm_directory *directory) {
    struct kelpie_vm_record record;
    KELPIE_ASSERT(directory->vm >= 0);
    if (directory->is_ephemeral) {
        return true;
    }
    return kelpie__record_read(directory->places->os, directory->vm, &record, NULL) == 0 &&
           kelpie__state_is_live(record.state);
}

static void recover_one(const struct kelpie_places *places, const char *name) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    if (kelpie__vm_directory_open(&directory, places, name, NULL) < 0) {
        return;
    }
    if (may_be_orphan(&directory) && kelpie__vm_directory_lock(&directory, NULL) == 0) {
        /* One that cannot be recovered says so when it is used. */
        kelpie__ignore(kelpie__vm_directory_recover(&directory, &record, NULL));
    }
    kelpie__vm_directory_close(&directory);
}

void kelpie__vm_directory_recover_all(const struct kelpie_places *places) {
    struct kelpie_vm_directory_cursor cursor = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1];
    KELPIE_ASSERT(places->state_vms >= 0 && places->runtime_vms >= 0);
    kelpie__vm_directory_prune(places);
    while (kelpie__vm_directory_list(places, &cursor, name, NULL) == 1) { /* bound: the VMs */
        recover_one(places, name);
    }
}
