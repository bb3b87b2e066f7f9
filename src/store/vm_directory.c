/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See vm_directory.h.
 */
#include "store/vm_directory.h"

#include <errno.h>
#include <string.h>

#include "core/small_file.h"
#include "core/state.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/remove.h"
#include "store/temporary.h"
#include "store/vm_directory_internal.h"

#define VM_DIRECTORY_MODE 0700u
#define VM_LOCK_TRIES 8u

int kelpie__vm_directory_open_handle(struct kelpie_os *os, int parent, const char *name) {
    return kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

/* 1: it is there, 0: it is not. What cannot be looked at is neither. */
static int look_for(struct kelpie_os *os, int directory, const char *path) {
    struct kelpie_os_stat found;
    int status = kelpie__os_stat(os, directory, path, false, &found);
    if (status == -ENOENT || status == -ENOTDIR) {
        return 0;
    }
    return status < 0 ? status : 1;
}

int kelpie__vm_directory_look(struct kelpie_os *os, int base, const char *name) {
    char path[256 + 16];
    KELPIE_ASSERT(base >= 0);
    KELPIE_ASSERT(name[0] != '\0');
    kelpie__ignore(kelpie__text_format(path, sizeof(path), "%s/" KELPIE_VM_CONFIG_FILE, name));
    return look_for(os, base, path);
}

int kelpie__vm_directory_fail_io(struct kelpie_error *error, int status, const char *what,
                                 const char *name) {
    KELPIE_ASSERT(status < 0);
    kelpie__ignore(kelpie__fail(error, KELPIE_E_IO, -status, "%s of VM \"%s\"", what, name));
    if (status == -ENOSPC || status == -EDQUOT) {
        kelpie__fail_append(error, "; free some space, or use another state directory");
    } else if (status == -EROFS || status == -EACCES || status == -EPERM) {
        kelpie__fail_append(error, "; use --state-dir or KELPIE_STATE_DIR for a directory that can "
                                   "be written");
    }
    return KELPIE_E_IO;
}

int kelpie__vm_directory_base(const struct kelpie_places *places, bool is_ephemeral) {
    return is_ephemeral ? places->runtime_vms : places->state_vms;
}

static void directory_reset(struct kelpie_vm_directory *directory,
                            const struct kelpie_places *places, const char *name,
                            bool is_ephemeral) {
    *directory = (struct kelpie_vm_directory){.places = places,
                                              .is_ephemeral = is_ephemeral,
                                              .vm = KELPIE_OS_NO_HANDLE,
                                              .run = KELPIE_OS_NO_HANDLE,
                                              .lock = KELPIE_OS_NO_HANDLE};
    kelpie__ignore(kelpie__text_copy(directory->name, sizeof(directory->name), name));
}

static int set_paths(struct kelpie_vm_directory *directory, struct kelpie_error *error) {
    const struct kelpie_places *places = directory->places;
    const char *base = directory->is_ephemeral ? places->runtime_path : places->state_path;
    bool fits_vm = kelpie__text_format(directory->vm_path, sizeof(directory->vm_path), "%s/vms/%s",
                                       base, directory->name);
    bool fits_run = kelpie__text_format(directory->run_path, sizeof(directory->run_path),
                                        "%s/vms/%s", places->runtime_path, directory->name);
    if (fits_vm && fits_run) {
        kelpie__vm_directory_check(directory);
    }
    return fits_vm && fits_run
               ? 0
               : kelpie__fail(error, KELPIE_E_LIMIT, 0,
                              "the path of VM \"%s\" has more than %u bytes; use a shorter state "
                              "directory",
                              directory->name, KELPIE_PATH_BYTES_MAX);
}

void kelpie__vm_directory_check(const struct kelpie_vm_directory *directory) {
    KELPIE_ASSERT(directory->places != NULL);
    KELPIE_ASSERT(directory->name[0] != '\0');
    KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE || directory->lock >= 0);
    KELPIE_ASSERT(directory->vm == KELPIE_OS_NO_HANDLE || directory->vm >= 0);
    if (directory->is_ephemeral) {
        KELPIE_ASSERT(kelpie__text_equal(directory->vm_path, directory->run_path));
    }
}

void kelpie__vm_directory_close(struct kelpie_vm_directory *directory) {
    struct kelpie_os *os = directory->places->os;
    kelpie__vm_directory_check(directory);
    kelpie__vm_directory_unlock(directory);
    if (directory->vm >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory->vm));
    }
    if (directory->run >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory->run));
    }
    directory->vm = KELPIE_OS_NO_HANDLE;
    directory->run = KELPIE_OS_NO_HANDLE;
}

/* ---- the lock -------------------------------------------------------------------------------- */

void kelpie__vm_directory_unlock(struct kelpie_vm_directory *directory) {
    if (directory->lock >= 0) {
        kelpie__ignore(kelpie__os_close(directory->places->os, directory->lock));
        directory->lock = KELPIE_OS_NO_HANDLE;
    }
}

/* Opens the run directory by its path, making it for a durable VM after a reboot. */
static int run_open(struct kelpie_vm_directory *directory) {
    struct kelpie_os *os = directory->places->os;
    int runtime = directory->places->runtime_vms;
    int run = kelpie__vm_directory_open_handle(os, runtime, directory->name);
    if (run == -ENOENT && !directory->is_ephemeral) {
        int status = kelpie__os_mkdir(os, runtime, directory->name, VM_DIRECTORY_MODE);
        if (status < 0 && status != -EEXIST) {
            return status;
        }
        run = kelpie__vm_directory_open_handle(os, runtime, directory->name);
    }
    if (run < 0) {
        return run;
    }
    if (directory->run >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory->run));
    }
    directory->run = run;
    return 0;
}

/* One try. 1: somebody removed the run directory, or replaced the file, between opening and
 * locking. */
static int lock_try(struct kelpie_vm_directory *directory) {
    KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE);
    struct kelpie_os *os = directory->places->os;
    struct kelpie_os_stat mine;
    struct kelpie_os_stat current;
    char path[KELPIE_NAME_BYTES_MAX + 8];
    int status = run_open(directory);
    if (status < 0) {
        return status == -ENOENT && !directory->is_ephemeral ? 1 : status;
    }
    int lock = kelpie__os_open(os, directory->run, KELPIE_VM_LOCK_FILE,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE,
                               KELPIE_VM_FILE_MODE);
    if (lock < 0) {
        KELPIE_REACHED(os, "a lock was looked for in a directory that was going");
        return lock == -ENOENT ? 1 : lock; /* the directory is being deleted */
    }
    status = kelpie__os_lock(os, lock);
    if (status == 0) {
        status = kelpie__os_stat(os, lock, "", false, &mine);
    }
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(os, lock));
        return status;
    }
    kelpie__ignore(
        kelpie__text_format(path, sizeof(path), "%s/" KELPIE_VM_LOCK_FILE, directory->name));
    status = kelpie__os_stat(os, directory->places->runtime_vms, path, false, &current);
    if (status < 0 || current.inode != mine.inode || current.device != mine.device) {
        KELPIE_REACHED(os, "a lock was replaced between opening and locking");
        kelpie__ignore(kelpie__os_close(os, lock));
        return 1;
    }
    KELPIE_ASSERT(directory->run >= 0);
    directory->lock = lock;
    return 0;
}

bool kelpie__vm_directory_is_current(const struct kelpie_vm_directory *directory) {
    struct kelpie_os *os = directory->places->os;
    struct kelpie_os_stat mine;
    struct kelpie_os_stat current;
    KELPIE_ASSERT(directory->vm >= 0);
    int status =
        kelpie__os_stat(os, kelpie__vm_directory_base(directory->places, directory->is_ephemeral),
                        directory->name, false, &current);
    if (status == -ENOENT) {
        return false;
    }
    /* One that cannot be looked at is taken for ours: what is done with it next says why. */
    return status < 0 || kelpie__os_stat(os, directory->vm, "", false, &mine) < 0 ||
           (mine.inode == current.inode && mine.device == current.device);
}

static int lock_take(struct kelpie_vm_directory *directory) {
    int status = 1;
    KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE);
    for (uint32_t i = 0; i < VM_LOCK_TRIES && status == 1; i += 1) {
        status = lock_try(directory);
    }
    KELPIE_ASSERT((status == 0) == (directory->lock >= 0));
    return status == 1 ? -EAGAIN : status; /* they come and go: it is being changed */
}

static int fail_lock(const struct kelpie_vm_directory *directory, int status,
                     struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    KELPIE_SOMETIMES(directory->places->os, "a lock was taken by another", status == -EAGAIN);
    return status == -EAGAIN
               ? kelpie__fail(error, KELPIE_E_BUSY, 0,
                              "VM \"%s\" is being changed by another process", directory->name)
               : kelpie__vm_directory_fail_io(error, status, "lock the directory", directory->name);
}

/* The name may be another VM's by now, whose lock and run directory are no business of ours: the
 * look after the lock is what counts (a VM whose lock is held is not deleted by others), the one
 * before it makes no run directory for a VM that is gone. */
int kelpie__vm_directory_lock(struct kelpie_vm_directory *directory, struct kelpie_error *error) {
    KELPIE_ASSERT(directory->vm >= 0);
    bool is_there = kelpie__vm_directory_is_current(directory);
    int status = is_there ? lock_take(directory) : -ENOENT;
    is_there = is_there && kelpie__vm_directory_is_current(directory);
    if (status == 0 && is_there) {
        return 0;
    }
    kelpie__vm_directory_unlock(directory);
    if (!is_there || status == -ENOENT) {
        KELPIE_REACHED(directory->places->os, "a VM was deleted before it could be locked");
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0, "VM \"%s\" was deleted meanwhile",
                            directory->name);
    }
    return fail_lock(directory, status, error);
}

/* ---- making ---------------------------------------------------------------------------------- */

static int write_files(struct kelpie_os *os, int made, const struct kelpie_config_values *values,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(made >= 0);
    struct kelpie_vm_record record = {.state = KELPIE_VM_CREATED,
                                      .previous = KELPIE_VM_CREATED,
                                      .changed_ms = values->created_ms};
    char *text = kelpie__alloc_raw(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (text == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int64_t length = kelpie__config_write(values, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    KELPIE_ASSERT(length > 0); /* the buffer is made for the largest one */
    int status = values->is_ephemeral
                     ? kelpie__small_file_replace(os, made, KELPIE_VM_CONFIG_FILE, text,
                                                  (size_t)length, error)
                     : kelpie__small_file_replace_synced(os, made, KELPIE_VM_CONFIG_FILE, text,
                                                         (size_t)length, error);
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (status == 0) {
        status = kelpie__record_write(os, made, &record, !values->is_ephemeral, error);
    }
    if (status < 0) {
        kelpie__ignore(kelpie__fail_prefix(error, "create VM \"%s\"", values->name));
    }
    return status;
}

/* Fills the temporary directory `made` and gives it its name. */
static int publish(struct kelpie_vm_directory *directory, int made, const char *temporary,
                   const struct kelpie_config_values *values, struct kelpie_error *error) {
    KELPIE_ASSERT(made >= 0);
    KELPIE_ASSERT(directory->lock >= 0);
    KELPIE_ASSERT(kelpie__text_has_prefix(temporary, KELPIE_VM_MADE_PREFIX));
    struct kelpie_os *os = directory->places->os;
    int base = kelpie__vm_directory_base(directory->places, directory->is_ephemeral);
    int status = write_files(os, made, values, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__os_rename(os, base, temporary, base, directory->name, false);
    if (status == -EEXIST || status == -ENOTEMPTY) {
        KELPIE_REACHED(os, "two created a VM of one name");
        return kelpie__fail_field(
            error, KELPIE_E_EXISTS, "name",
            "name: VM \"%s\" exists already; delete it or choose another name", directory->name);
    }
    if (status == 0 && !directory->is_ephemeral) {
        status = kelpie__os_sync(os, base);
    }
    return status < 0
               ? kelpie__vm_directory_fail_io(error, status, "make the directory", directory->name)
               : 0;
}

static int check_is_free(const struct kelpie_vm_directory *directory, struct kelpie_error *error) {
    const struct kelpie_places *places = directory->places;
    KELPIE_ASSERT(kelpie__config_check_name(directory->name, NULL) == 0);
    int found = kelpie__vm_directory_look(places->os, places->state_vms, directory->name);
    if (found == 0) {
        found = kelpie__vm_directory_look(places->os, places->runtime_vms, directory->name);
    }
    if (found < 0) {
        return kelpie__vm_directory_fail_io(error, found, "look for the configuration",
                                            directory->name);
    }
    return found == 0 ? 0
                      : kelpie__fail_field(error, KELPIE_E_EXISTS, "name",
                                           "name: VM \"%s\" exists already; delete it or choose "
                                           "another name",
                                           directory->name);
}

/* An ephemeral VM's lock is made in the temporary directory, so that it is held before the VM can
 * be seen. */
static int lock_made(struct kelpie_vm_directory *directory, int made) {
    KELPIE_ASSERT(directory->is_ephemeral);
    KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE);
    struct kelpie_os *os = directory->places->os;
    int lock = kelpie__os_open(os, made, KELPIE_VM_LOCK_FILE,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE,
                               KELPIE_VM_FILE_MODE);
    if (lock < 0) {
        return lock;
    }
    directory->lock = lock;
    return kelpie__os_lock(os, lock);
}

static int make(struct kelpie_vm_directory *directory, const char *temporary,
                const struct kelpie_config_values *values, struct kelpie_error *error) {
    KELPIE_ASSERT(directory->vm == KELPIE_OS_NO_HANDLE);
    int base = kelpie__vm_directory_base(directory->places, directory->is_ephemeral);
    int status = kelpie__temporary_make(directory->places->os, base, temporary);
    if (status == -EAGAIN) {
        return fail_lock(directory, status, error);
    }
    if (status < 0) {
        return kelpie__vm_directory_fail_io(error, status, "make the directory", directory->name);
    }
    directory->vm = status;
    if (directory->is_ephemeral) {
        status = lock_made(directory, directory->vm);
        status = status < 0 ? kelpie__vm_directory_fail_io(error, status, "lock the new directory",
                                                           directory->name)
                            : 0;
    } else {
        status = lock_take(directory);
        status = status < 0 ? fail_lock(directory, status, error) : 0;
    }
    if (status == 0) {
        status = publish(directory, directory->vm, temporary, values, error);
    }
    if (status == 0 && directory->is_ephemeral) {
        status = run_open(directory);
        status = status < 0 ? kelpie__vm_directory_fail_io(error, status, "open the directory",
                                                           directory->name)
                            : 0;
    }
    return status;
}

int kelpie__vm_directory_create(struct kelpie_vm_directory *directory,
                                const struct kelpie_places *places,
                                const struct kelpie_config_values *values,
                                struct kelpie_error *error) {
    char temporary[KELPIE_VM_TEMPORARY_BYTES_MAX];
    KELPIE_ASSERT(strlen(values->id) == KELPIE_EXEC_ID_CHARACTERS);
    directory_reset(directory, places, values->name, values->is_ephemeral);
    kelpie__ignore(
        kelpie__text_format(temporary, sizeof(temporary), KELPIE_VM_MADE_PREFIX "%s", values->id));
    int status = kelpie__config_check_name(values->name, error);
    if (status == 0) {
        status = set_paths(directory, error);
    }
    if (status == 0) {
        status = check_is_free(directory, error);
    }
    if (status < 0) {
        return status;
    }
    status = make(directory, temporary, values, error);
    if (status < 0) {
        KELPIE_REACHED(places->os, "a create failed half-way");
        int base = kelpie__vm_directory_base(places, values->is_ephemeral);
        if (directory->vm >= 0) { /* else whoever tidies up has it */
            kelpie__ignore(kelpie__remove_directory(places->os, base, temporary));
        }
        kelpie__vm_directory_close(directory);
        kelpie__vm_directory_prune(places, NULL); /* the run directory that was made for the lock */
        return status;
    }
    kelpie__vm_directory_check(directory);
    KELPIE_ASSERT(directory->lock >= 0);
    KELPIE_ASSERT(directory->run >= 0);
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int vm_open(struct kelpie_vm_directory *directory, bool is_ephemeral) {
    KELPIE_ASSERT(directory->vm == KELPIE_OS_NO_HANDLE);
    struct kelpie_os *os = directory->places->os;
    int vm = kelpie__vm_directory_open_handle(
        os, kelpie__vm_directory_base(directory->places, is_ephemeral), directory->name);
    if (vm < 0) {
        return vm;
    }
    int found = look_for(os, vm, KELPIE_VM_CONFIG_FILE);
    if (found <= 0) {
        kelpie__ignore(kelpie__os_close(os, vm));
        return found == 0 ? -ENOENT : found;
    }
    directory->vm = vm;
    directory->is_ephemeral = is_ephemeral;
    return 0;
}

/* One try. 1: somebody deleted it, or tidied its run directory away, while it was being opened. */
static int open_try(struct kelpie_vm_directory *directory) {
    KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE);
    int status = vm_open(directory, false);
    if (status == -ENOENT) {
        status = vm_open(directory, true);
    }
    if (status < 0) {
        return status;
    }
    status = run_open(directory);
    bool is_current = kelpie__vm_directory_is_current(directory);
    if (status == 0 && is_current) {
        return 0;
    }
    kelpie__vm_directory_close(directory);
    return status == -ENOENT || !is_current ? 1 : status;
}

int kelpie__vm_directory_open(struct kelpie_vm_directory *directory,
                              const struct kelpie_places *places, const char *name,
                              struct kelpie_error *error) {
    int status = kelpie__config_check_name(name, error);
    if (status < 0) {
        return status;
    }
    directory_reset(directory, places, name, false);
    status = 1;
    for (uint32_t i = 0; i < VM_LOCK_TRIES && status == 1; i += 1) {
        status = open_try(directory);
    }
    if (status == 1 || status == -ENOENT) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                            "there is no VM \"%s\"; kelpie ps -a shows what there is", name);
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status,
                            "open VM \"%s\", of which %s/vms/%s/" KELPIE_VM_CONFIG_FILE
                            " is a part",
                            name, places->state_path, name);
    }
    status = set_paths(directory, error);
    if (status < 0) {
        kelpie__vm_directory_close(directory);
    }
    KELPIE_ASSERT(status < 0 || directory->lock == KELPIE_OS_NO_HANDLE);
    return status;
}

/* Opens the directory that holds `path`. */
static int open_parent(struct kelpie_os *os, const char *path, struct kelpie_error *error) {
    KELPIE_ASSERT(path[0] != '\0');
    char parent[KELPIE_PATH_BYTES_MAX];
    bool fits = kelpie__text_copy(parent, sizeof(parent), path);
    char *slash = strrchr(parent, '/');
    if (!fits || slash == NULL || slash == parent) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "\"%s\" is no VM's directory", path);
    }
    *slash = '\0';
    int handle = kelpie__vm_directory_open_handle(os, KELPIE_OS_CWD, parent);
    return handle < 0 ? kelpie__fail(error, KELPIE_E_IO, -handle, "open \"%s\"", parent) : handle;
}

int kelpie__vm_directory_adopt(struct kelpie_vm_directory *directory, struct kelpie_places *places,
                               struct kelpie_os *os, const char *vm_path, const char *run_path,
                               const char *name, int lock, struct kelpie_error *error) {
    KELPIE_ASSERT(lock >= 0);
    places->os = os;
    places->state_vms = open_parent(os, vm_path, error);
    places->runtime_vms =
        places->state_vms < 0 ? places->state_vms : open_parent(os, run_path, error);
    if (places->runtime_vms < 0) {
        return places->runtime_vms;
    }
    directory_reset(directory, places, name, kelpie__text_equal(vm_path, run_path));
    directory->vm = kelpie__vm_directory_open_handle(os, KELPIE_OS_CWD, vm_path);
    directory->run = kelpie__vm_directory_open_handle(os, KELPIE_OS_CWD, run_path);
    directory->lock = lock;
    if (directory->vm < 0 || directory->run < 0) {
        int status = directory->vm < 0 ? directory->vm : directory->run;
        return kelpie__vm_directory_fail_io(error, status, "open the directory", name);
    }
    kelpie__vm_directory_check(directory);
    return 0;
}

int kelpie__vm_directory_config(const struct kelpie_vm_directory *directory,
                                struct kelpie_config_values *out, struct kelpie_error *error) {
    KELPIE_ASSERT(directory->vm >= 0);
    struct kelpie_os *os = directory->places->os;
    char *text = kelpie__alloc_raw(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (text == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int64_t length = kelpie__small_file_read_at(os, directory->vm, KELPIE_VM_CONFIG_FILE, text,
                                                KELPIE_CONFIG_JSON_BYTES_MAX);
    int status = length < 0 ? kelpie__vm_directory_fail_io(
                                  error, (int)length, "read the configuration", directory->name)
                            : kelpie__config_read(text, (size_t)length, out, error);
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    return status;
}

/* ---- a state file that is old ---------------------------------------------------------------- */

int kelpie__vm_directory_open_doubt(const struct kelpie_vm_directory *directory) {
    KELPIE_ASSERT(directory->vm >= 0);
    return kelpie__os_open(directory->places->os, directory->vm, KELPIE_VM_CONFIG_FILE,
                           KELPIE_OS_OPEN_READ, 0);
}

int kelpie__vm_directory_doubt(const struct kelpie_vm_directory *directory, int handle) {
    KELPIE_ASSERT(directory->lock >= 0);
    KELPIE_ASSERT(handle >= 0);
    return kelpie__os_lock(directory->places->os, handle);
}

bool kelpie__vm_directory_is_doubted(const struct kelpie_vm_directory *directory) {
    struct kelpie_os *os = directory->places->os;
    int handle = kelpie__vm_directory_open_doubt(directory);
    if (handle < 0) {
        return false; /* what is wrong with the files is told by who reads them */
    }
    bool is_doubted = kelpie__os_lock_shared(os, handle) == -EAGAIN;
    kelpie__ignore(kelpie__os_close(os, handle)); /* it was only looked at */
    return is_doubted;
}
