/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of VMs, and all of them: their list, and what a program does first, making true what dead
 * monitors have left. See vm_directory.h.
 */
#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/state.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/remove.h"
#include "store/temporary.h"
#include "store/vm_directory_internal.h"

#define RECOVER_LINE_BYTES 1024u

/* ---- one ------------------------------------------------------------------------------------- */

/* The host has been started since: not only the monitor is gone. */
static bool is_of_another_boot(struct kelpie_os *os, const struct kelpie_vm_record *record) {
    char boot_id[KELPIE_BOOT_ID_BYTES];
    kelpie__record_read_boot_id(os, boot_id);
    return record->boot_id[0] != '\0' && boot_id[0] != '\0' &&
           !kelpie__text_equal(record->boot_id, boot_id);
}

static const char *reason_of(struct kelpie_os *os, const struct kelpie_vm_record *record,
                             bool was_starting) {
    if (record->is_lost) {
        return "the host went down, and the record of the VM's state was lost with it";
    }
    if (is_of_another_boot(os, record)) {
        KELPIE_REACHED(os, "recovery of a VM of an earlier boot of the host");
        return was_starting ? "the host went down during the start"
                            : "the host went down, and the VM with it";
    }
    return was_starting ? "its monitor died during the start"
                        : "its monitor died, and the VM with it";
}

void kelpie__vm_record_bury(struct kelpie_os *os, struct kelpie_vm_record *record) {
    bool was_starting = record->state == KELPIE_VM_STARTING;
    KELPIE_ASSERT(kelpie__state_is_live(record->state));
    KELPIE_SOMETIMES(os, "recovery of a VM that was starting", was_starting);
    KELPIE_SOMETIMES(os, "recovery of a VM that ran", record->state == KELPIE_VM_RUNNING);
    KELPIE_SOMETIMES(os, "recovery of a VM that was paused", record->state == KELPIE_VM_PAUSED);
    const char *reason = reason_of(os, record, was_starting);
    kelpie__state_change(&record->state, was_starting ? record->previous : KELPIE_VM_CRASHED);
    record->previous = record->state;
    record->changed_ms = kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    record->monitor_pid = 0;
    record->vmm_pid = 0;
    record->is_lost = false;
    KELPIE_ASSERT(!kelpie__state_is_live(record->state));
    kelpie__ignore(kelpie__text_copy(record->reason, sizeof(record->reason), reason));
}

/* A line in the VM's events, as its monitor would write one; they are no truth, so that what cannot
 * be written is left out. */
static void recover_log(struct kelpie_os *os, int directory,
                        const struct kelpie_vm_record *record) {
    KELPIE_ASSERT(directory >= 0);
    char line[RECOVER_LINE_BYTES];
    struct kelpie_json_writer writer;
    struct kelpie_os_stat stat;
    KELPIE_ASSERT(!kelpie__state_is_live(record->state));
    int file = kelpie__os_open(os, directory, KELPIE_VM_EVENTS_FILE, KELPIE_OS_OPEN_WRITE, 0);
    if (file < 0) { /* it was never started */
        return;
    }
    kelpie__json_begin(&writer, line, sizeof(line) - 1);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_i64(&writer, "time_ms", record->changed_ms);
    kelpie__json_write_string(&writer, "type", "state");
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(record->state));
    kelpie__json_write_string(&writer, "detail", record->reason);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0 && (size_t)length + 1 < sizeof(line)); /* our reasons are short */
    line[length] = '\n';
    if (kelpie__os_stat(os, file, "", false, &stat) == 0) {
        kelpie__ignore(kelpie__os_pwrite(os, file, line, (size_t)length + 1, stat.size_bytes));
    }
    kelpie__ignore(kelpie__os_close(os, file));
}

int kelpie__vm_directory_recover(struct kelpie_vm_directory *directory,
                                 struct kelpie_vm_record *out, struct kelpie_error *error) {
    struct kelpie_os *os = directory->places->os;
    struct kelpie_vm_record record;
    KELPIE_ASSERT(directory->lock >= 0);
    kelpie__vm_directory_check(directory);
    /* Not there in most cases. */
    kelpie__ignore(kelpie__os_unlink(os, directory->run, KELPIE_VM_SOCKET_FILE, false));
    if (directory->is_ephemeral) { /* its monitor deletes it: without one it is a leftover */
        KELPIE_REACHED(os, "recovery of an ephemeral VM");
        int status = kelpie__vm_directory_delete(directory, error);
        return status < 0 ? status
                          : kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                                         "VM \"%s\" was ephemeral and its monitor is gone",
                                         directory->name);
    }
    int status = kelpie__record_read_remains(os, directory->vm, &record, error);
    if (status == 0 && kelpie__state_is_live(record.state)) {
        kelpie__vm_record_bury(os, &record);
        status = kelpie__record_write(os, directory->vm, &record, true, error);
        if (status == 0) {
            recover_log(os, directory->vm, &record);
        }
    }
    if (status == 0) {
        KELPIE_ASSERT(!kelpie__state_is_live(record.state));
        *out = record;
    }
    return status;
}

/* ---- deletion -------------------------------------------------------------------------------- */

/* A name that nobody else takes, for what is going: while it is being emptied, somebody may make a
 * new one with its old name. */
static int name_deleted(struct kelpie_os *os, char out[KELPIE_VM_TEMPORARY_BYTES_MAX]) {
    uint8_t salt[8];
    char hex[2 * sizeof(salt) + 1];
    int status = kelpie__os_random(os, salt, sizeof(salt));
    if (status < 0) {
        return status;
    }
    kelpie__text_hex(hex, sizeof(hex), salt, sizeof(salt));
    bool fits =
        kelpie__text_format(out, KELPIE_VM_TEMPORARY_BYTES_MAX, KELPIE_VM_DELETED_PREFIX "%s", hex);
    KELPIE_ASSERT(fits);
    return 0;
}

int kelpie__vm_directory_delete(struct kelpie_vm_directory *directory, struct kelpie_error *error) {
    const struct kelpie_places *places = directory->places;
    char deleted[KELPIE_VM_TEMPORARY_BYTES_MAX];
    KELPIE_ASSERT(directory->lock >= 0);
    kelpie__vm_directory_check(directory);
    int base = kelpie__vm_directory_base(places, directory->is_ephemeral);
    int status = name_deleted(places->os, deleted);
    if (status == 0) {
        status = kelpie__os_rename(places->os, base, directory->name, base, deleted, false);
    }
    if (status < 0 && status != -ENOENT) {
        return kelpie__vm_directory_fail_io(error, status, "delete the directory", directory->name);
    }
    bool was_begun = status == -ENOENT; /* by somebody who died over it: finish his work */
    KELPIE_SOMETIMES(places->os, "a delete met a half delete", was_begun);
    if (!directory->is_ephemeral) {
        /* When this cannot be made durable now, the machine's death brings the VM back whole. */
        kelpie__ignore(kelpie__os_sync(places->os, base));
        kelpie__ignore(kelpie__os_rename(places->os, places->runtime_vms, directory->name,
                                         places->runtime_vms, deleted, false));
        kelpie__ignore(kelpie__remove_directory(places->os, places->runtime_vms, deleted));
    }
    /* It is deleted from here on; what cannot be removed now, prune removes. */
    kelpie__ignore(kelpie__remove_directory(places->os, base, deleted));
    if (was_begun) {
        kelpie__vm_directory_prune(places, NULL);
    }
    return 0;
}

/* ---- what dead processes left half made ------------------------------------------------------ */

/* Takes the lock of this directory (`file` is empty), or of the lock file in it, which is made when
 * there is none: whoever comes for it while it is being removed sees that somebody is there. False:
 * somebody holds it, or the name stands for something else by now, which its maker made while we
 * waited for the lock of what somebody else removed. */
static bool take_abandoned(struct kelpie_os *os, int base, const char *name, const char *file,
                           int *out_lock) {
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(*out_lock == KELPIE_OS_NO_HANDLE);
    char path[256 + 8];
    bool is_file = file[0] != '\0';
    int directory = kelpie__vm_directory_open_handle(os, base, name);
    if (directory < 0) {
        return false;
    }
    int lock =
        is_file
            ? kelpie__os_open(os, directory, file,
                              KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE,
                              KELPIE_VM_FILE_MODE)
            : directory;
    if (is_file) {
        kelpie__ignore(kelpie__os_close(os, directory));
    }
    if (lock < 0) {
        return false;
    }
    kelpie__ignore(kelpie__text_format(path, sizeof(path), is_file ? "%s/%s" : "%s%s", name, file));
    if (kelpie__os_lock(os, lock) == 0 && kelpie__handle_is_named(os, base, path, lock)) {
        KELPIE_ASSERT(lock >= 0);
        *out_lock = lock;
        return true;
    }
    KELPIE_REACHED(os, "what looked like a leftover is somebody's");
    kelpie__ignore(kelpie__os_close(os, lock));
    return false;
}

/* One that cannot be looked at counts as one that is there: it keeps its run directory. */
static bool may_be_vm(const struct kelpie_places *places, const char *name) {
    return kelpie__vm_directory_look(places->os, places->runtime_vms, name) != 0 ||
           kelpie__vm_directory_look(places->os, places->state_vms, name) != 0;
}

/* Whether it is one; its lock, if it has one, is then held. */
static bool is_leftover(const struct kelpie_places *places, bool is_runtime, const char *name,
                        int *out_lock) {
    int base = kelpie__vm_directory_base(places, is_runtime);
    KELPIE_ASSERT(*out_lock == KELPIE_OS_NO_HANDLE);
    KELPIE_SOMETIMES(places->os, "what a delete left was removed",
                     kelpie__text_has_prefix(name, KELPIE_VM_DELETED_PREFIX));
    if (kelpie__text_has_prefix(name, KELPIE_VM_DELETED_PREFIX)) {
        return true;
    }
    if (kelpie__text_has_prefix(name, KELPIE_VM_MADE_PREFIX)) {
        KELPIE_REACHED(places->os, "an unfinished create was found");
        return take_abandoned(places->os, base, name, "", out_lock);
    }
    if (!is_runtime || kelpie__config_check_name(name, NULL) < 0) {
        return false;
    }
    /* A run directory whose VM is gone; and it is still gone when we have the lock: its maker may
     * have finished between the two. */
    return !may_be_vm(places, name) &&
           take_abandoned(places->os, base, name, KELPIE_VM_LOCK_FILE, out_lock) &&
           !may_be_vm(places, name);
}

static void leftover_remove(struct kelpie_os *os, int base, const char *name,
                            struct kelpie_leftovers *inout) {
    KELPIE_ASSERT(base >= 0);
    char deleted[KELPIE_VM_TEMPORARY_BYTES_MAX];
    if (kelpie__text_has_prefix(name, KELPIE_VM_DELETED_PREFIX)) {
        kelpie__remove_leftover(os, base, name, inout);
        return;
    }
    if (name_deleted(os, deleted) == 0 &&
        kelpie__os_rename(os, base, name, base, deleted, false) == 0) {
        kelpie__remove_leftover(os, base, deleted, inout);
    }
}

void kelpie__vm_directory_prune(const struct kelpie_places *places,
                                struct kelpie_leftovers *inout) {
    KELPIE_ASSERT(places->state_vms >= 0);
    KELPIE_ASSERT(places->runtime_vms >= 0);
    char name[256];
    for (unsigned place = 0; place < 2; place += 1) {
        bool is_runtime = place == 1;
        int base = kelpie__vm_directory_base(places, is_runtime);
        uint64_t cursor = 0;
        /* bound: the directory */
        while (kelpie__os_list(places->os, base, &cursor, name, sizeof(name)) == 1) {
            int lock = KELPIE_OS_NO_HANDLE;
            if (is_leftover(places, is_runtime, name, &lock)) {
                leftover_remove(places->os, base, name, inout);
            }
            if (lock >= 0) {
                kelpie__ignore(kelpie__os_close(places->os, lock));
            }
        }
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

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
    KELPIE_ASSERT(places->state_vms >= 0);
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
    return kelpie__record_read_remains(directory->places->os, directory->vm, &record, NULL) == 0 &&
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
    KELPIE_ASSERT(directory.vm >= 0);
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
