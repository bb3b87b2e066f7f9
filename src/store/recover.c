/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * All VMs: their list, and what a program does first, making true what dead monitors have left. See
 * vm_directory.h.
 */
#include "core/state.h"
#include "core/text.h"
#include "os/os_call.h"
#include "store/vm_directory.h"

/* One that cannot be looked at is listed, so that whoever uses it is told why; what the runtime
 * directory has of it is the run directory of a durable one, as long as there may be one. */
static bool is_listed(const struct kelpie_places *places, bool is_in_runtime, const char *name) {
    int base = is_in_runtime ? places->runtime_vms : places->state_vms;
    int found = kelpie__vm_directory_look(places->os, base, name);
    KELPIE_ASSERT(found <= 1);
    if (found < 0 && is_in_runtime) {
        return kelpie__vm_directory_look(places->os, places->state_vms, name) == 0;
    }
    return found != 0;
}

int kelpie__vm_directory_list(const struct kelpie_places *places,
                              struct kelpie_vm_directory_cursor *cursor,
                              char out_name[KELPIE_NAME_BYTES_MAX + 1],
                              struct kelpie_error *error) {
    char name[256];
    for (unsigned place = 0; place < 2; place += 1) {
        int base = cursor->is_in_runtime ? places->runtime_vms : places->state_vms;
        int found = kelpie__os_list(places->os, base, &cursor->position, name, sizeof(name));
        while (found == 1) { /* bound: the directory */
            if (kelpie__config_check_name(name, NULL) == 0 &&
                is_listed(places, cursor->is_in_runtime, name)) {
                kelpie__ignore(kelpie__text_copy(out_name, KELPIE_NAME_BYTES_MAX + 1, name));
                return 1;
            }
            found = kelpie__os_list(places->os, base, &cursor->position, name, sizeof(name));
        }
        if (found < 0) {
            return kelpie__fail(error, KELPIE_E_IO, -found, "list the VMs");
        }
        if (cursor->is_in_runtime) {
            return 0;
        }
        *cursor = (struct kelpie_vm_directory_cursor){.is_in_runtime = true};
    }
    return 0;
}

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

static void recover_one(const struct kelpie_places *places, const char *name,
                        struct kelpie_leftovers *inout) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    if (kelpie__vm_directory_open(&directory, places, name, NULL) < 0) {
        return;
    }
    if (may_be_orphan(&directory) && kelpie__vm_directory_lock(&directory, NULL) == 0) {
        uint64_t bytes = inout != NULL ? kelpie__directory_bytes(places->os, directory.vm) : 0;
        /* One that cannot be recovered says so when it is used. */
        int status = kelpie__vm_directory_recover(&directory, &record, NULL);
        if (status == KELPIE_E_NOT_FOUND && inout != NULL) { /* an ephemeral one has gone */
            inout->count += 1;
            inout->bytes += bytes;
        }
    }
    kelpie__vm_directory_close(&directory);
}

void kelpie__vm_directory_recover_all(const struct kelpie_places *places,
                                      struct kelpie_leftovers *inout) {
    struct kelpie_vm_directory_cursor cursor = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1];
    KELPIE_ASSERT(places->state_vms >= 0 && places->runtime_vms >= 0);
    kelpie__vm_directory_prune(places, inout);
    while (kelpie__vm_directory_list(places, &cursor, name, NULL) == 1) { /* bound: the VMs */
        recover_one(places, name, inout);
    }
}
