/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The directories of VMs. A VM has a run directory, RUNTIME/vms/NAME, with its lock and its
 * monitor's socket, and a VM directory with what lasts: STATE/vms/NAME, or for an ephemeral VM the
 * run directory itself.
 *
 * Who holds the lock owns the VM: its monitor, or for a moment somebody who creates, recovers or
 * deletes it. A directory is made under a temporary name, which its maker locks, and deleted under
 * another one: a VM is there whole or not at all, and whoever comes next finishes what a dead
 * process began.
 */
#ifndef KELPIE_STORE_VM_DIRECTORY_H
#define KELPIE_STORE_VM_DIRECTORY_H

#include "core/config.h"
#include "store/places.h"
#include "store/record.h"
#include "store/remove.h"

#define KELPIE_VM_LOCK_FILE "lock"
#define KELPIE_VM_SOCKET_FILE "monitor.sock"
#define KELPIE_VM_CONFIG_FILE "config.json"
#define KELPIE_VM_EVENTS_FILE "events.log"

struct kelpie_vm_directory {
    const struct kelpie_places *places; /* borrowed: until close */
    char name[KELPIE_NAME_BYTES_MAX + 1];
    bool is_ephemeral;
    int vm;   /* handle, owned */
    int run;  /* handle, owned */
    int lock; /* handle, owned; KELPIE_OS_NO_HANDLE: not held */
    char vm_path[KELPIE_PATH_BYTES_MAX];
    char run_path[KELPIE_PATH_BYTES_MAX];
};

/* Makes a VM in Created, with its lock held. `values` has id, name and created_ms. Errors: EXISTS,
 * BUSY (one of that name is being made or deleted at this moment), IO. */
KELPIE_MUST_CHECK int kelpie__vm_directory_create(struct kelpie_vm_directory *directory,
                                                  const struct kelpie_places *places,
                                                  const struct kelpie_config_values *values,
                                                  struct kelpie_error *error);
/* Errors: NOT_FOUND, IO. The lock is not held. */
KELPIE_MUST_CHECK int kelpie__vm_directory_open(struct kelpie_vm_directory *directory,
                                                const struct kelpie_places *places,
                                                const char *name, struct kelpie_error *error);
void kelpie__vm_directory_close(struct kelpie_vm_directory *directory); /* drops the lock */
void kelpie__vm_directory_check(const struct kelpie_vm_directory *directory);

/* For a monitor: takes the lock it was given. `places` is filled with the two parent directories,
 * owned from here on. */
KELPIE_MUST_CHECK int kelpie__vm_directory_adopt(struct kelpie_vm_directory *directory,
                                                 struct kelpie_places *places, struct kelpie_os *os,
                                                 const char *vm_path, const char *run_path,
                                                 const char *name, int lock,
                                                 struct kelpie_error *error);

/* Its name is still this VM's: it was not deleted since it was opened, nor another one made by that
 * name. */
bool kelpie__vm_directory_is_current(const struct kelpie_vm_directory *directory);

/* Errors: BUSY (somebody else holds it), NOT_FOUND (deleted meanwhile), IO. */
KELPIE_MUST_CHECK int kelpie__vm_directory_lock(struct kelpie_vm_directory *directory,
                                                struct kelpie_error *error);
void kelpie__vm_directory_unlock(struct kelpie_vm_directory *directory);

/* What becomes of the record of a VM that lives, once its monitor is dead. */
void kelpie__vm_record_bury(struct kelpie_os *os, struct kelpie_vm_record *record);

/* With the lock: makes true what a dead monitor, or a host that went down, left. Starting becomes
 * what was before it, Running and Paused become Crashed, and so does one whose state.json is not
 * there whole; its events get a line; the socket goes; an ephemeral VM is deleted whole (NOT_FOUND
 * then). */
KELPIE_MUST_CHECK int kelpie__vm_directory_recover(struct kelpie_vm_directory *directory,
                                                   struct kelpie_vm_record *out,
                                                   struct kelpie_error *error);

KELPIE_MUST_CHECK int kelpie__vm_directory_config(const struct kelpie_vm_directory *directory,
                                                  struct kelpie_config_values *out,
                                                  struct kelpie_error *error);

/* With the lock: deletes the VM; the lock is then dropped by close. */
KELPIE_MUST_CHECK int kelpie__vm_directory_delete(struct kelpie_vm_directory *directory,
                                                  struct kelpie_error *error);

/* A monitor that cannot write state.json says so by a lock on config.json, which needs no disk: it
 * opens the file when it begins, and locks and unlocks it as it goes. Negative: errno; EAGAIN while
 * somebody looks. */
KELPIE_MUST_CHECK int kelpie__vm_directory_open_doubt(const struct kelpie_vm_directory *directory);
KELPIE_MUST_CHECK int kelpie__vm_directory_doubt(const struct kelpie_vm_directory *directory,
                                                 int handle);
bool kelpie__vm_directory_is_doubted(const struct kelpie_vm_directory *directory);

/* Whether `base`, one of the two parent directories, holds a VM of that name: 1, 0, or a negative
 * errno when that cannot be seen. */
KELPIE_MUST_CHECK int kelpie__vm_directory_look(struct kelpie_os *os, int base, const char *name);
/* Names one by one, from cursor 0; 1, or 0 at the end, or an error. Durable ones first; not sorted.
 */
struct kelpie_vm_directory_cursor {
    bool is_in_runtime;
    uint64_t position;
};
KELPIE_MUST_CHECK int kelpie__vm_directory_list(const struct kelpie_places *places,
                                                struct kelpie_vm_directory_cursor *cursor,
                                                char out_name[KELPIE_NAME_BYTES_MAX + 1],
                                                struct kelpie_error *error);

/* Removes what dead processes left half made or half deleted; counts it, unless `inout` is NULL. */
void kelpie__vm_directory_prune(const struct kelpie_places *places, struct kelpie_leftovers *inout);
/* The same, and recovers every VM whose monitor died. What fails is left to whoever uses the VM. */
void kelpie__vm_directory_recover_all(const struct kelpie_places *places,
                                      struct kelpie_leftovers *inout);

#endif
