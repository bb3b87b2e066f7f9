/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The directories of pools: STATE/pools/NAME. Who holds the lock of one keeps it: its keeper, or
 * for a moment somebody who makes or removes it. It is made under a temporary name and removed
 * under another one, as a VM's is.
 *
 * Members are VMs like others; the directory holds a note for each that waits to be claimed, in a
 * directory of its own that bears the pool's id. A member's monitor writes the note and takes it
 * away. It is only a hint where to ask: who gets a member is decided by its monitor alone, so that
 * no note that a dead process left can do any harm.
 */
#ifndef KELPIE_STORE_POOL_H
#define KELPIE_STORE_POOL_H

#include "core/config.h"
#include "os/os.h"

#define KELPIE_POOL_SOCKET_FILE "keeper.sock"
#define KELPIE_POOL_LOG_FILE "keeper.log"

struct kelpie_pool_store {
    struct kelpie_os *os; /* borrowed: until close */
    int directory;        /* owned */
};

/* pool.json: never changed once it is there. */
struct kelpie_pool_values {
    char id[33];
    char name[KELPIE_NAME_BYTES_MAX + 1];
    int64_t created_ms;
    uint32_t size;
    uint32_t concurrency; /* members made at once */
    int32_t owner_pid;    /* whose end is the pool's; 0: nobody's */
};

/* keeper.json: what its keeper says, for people and for whoever waits. */
struct kelpie_pool_status {
    int32_t keeper_pid;
    uint32_t making_count;
    uint64_t made_count; /* by this keeper */
    uint64_t failure_count;
    int problem_code; /* of the last member that could not be made; 0: none, or one since */
    char problem[1024];
};

struct kelpie_pool_directory {
    const struct kelpie_pool_store *store; /* borrowed: until close */
    char entry[KELPIE_NAME_BYTES_MAX + 8]; /* its name in the store now */
    int directory;                         /* owned */
    int ready;                             /* owned: the notes */
    int lock;                              /* owned; KELPIE_OS_NO_HANDLE: not held */
    struct kelpie_pool_values values;
};

/* Makes STATE/pools when it is missing. Errors: IO, LIMIT. */
KELPIE_MUST_CHECK int kelpie__pool_store_open(struct kelpie_pool_store *store, struct kelpie_os *os,
                                              const char *state_path, struct kelpie_error *error);
void kelpie__pool_store_close(struct kelpie_pool_store *store);

/* Makes one, with its lock held; *out_owner, the owner's lock, is given when it has an owner. Its
 * members are made as `config` says. Errors: EXISTS, IO, MEMORY; nothing is left. */
KELPIE_MUST_CHECK int kelpie__pool_directory_create(struct kelpie_pool_directory *pool,
                                                    const struct kelpie_pool_store *store,
                                                    const struct kelpie_pool_values *values,
                                                    const struct kelpie_config_values *config,
                                                    int *out_owner, struct kelpie_error *error);
/* By its name, or by the one under which it is being removed. Errors: NOT_FOUND (also: it is not
 * whole yet, or any more, and has no members), IO, UNSUPPORTED (a newer format). */
KELPIE_MUST_CHECK int kelpie__pool_directory_open(struct kelpie_pool_directory *pool,
                                                  const struct kelpie_pool_store *store,
                                                  const char *entry, struct kelpie_error *error);
void kelpie__pool_directory_close(struct kelpie_pool_directory *pool); /* drops the lock */
void kelpie__pool_directory_check(const struct kelpie_pool_directory *pool);

/* Its name is still this pool's. */
bool kelpie__pool_directory_is_current(const struct kelpie_pool_directory *pool);
/* Errors: BUSY (it is kept), NOT_FOUND (removed meanwhile), IO. */
KELPIE_MUST_CHECK int kelpie__pool_directory_lock(struct kelpie_pool_directory *pool,
                                                  struct kelpie_error *error);
/* A lock that came from whoever started this process. NOT_FOUND: its pool has lost the name, to
 * another one perhaps, which is what was opened then. The lock stays the caller's in that case. */
KELPIE_MUST_CHECK int kelpie__pool_directory_adopt_lock(struct kelpie_pool_directory *pool,
                                                        int lock, struct kelpie_error *error);
void kelpie__pool_directory_unlock(struct kelpie_pool_directory *pool);
/* It has an owner, and that one is gone. */
bool kelpie__pool_directory_is_orphan(const struct kelpie_pool_directory *pool);

KELPIE_MUST_CHECK int kelpie__pool_directory_config(const struct kelpie_pool_directory *pool,
                                                    struct kelpie_config_values *out,
                                                    struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__pool_directory_write_status(const struct kelpie_pool_directory *pool,
                                                          const struct kelpie_pool_status *status,
                                                          struct kelpie_error *error);
/* All zero when there is none yet. */
void kelpie__pool_directory_read_status(const struct kelpie_pool_directory *pool,
                                        struct kelpie_pool_status *out);

/* Nobody finds it by its name any more. Errors: NOT_FOUND (somebody was quicker), IO. */
KELPIE_MUST_CHECK int kelpie__pool_directory_retire(struct kelpie_pool_directory *pool,
                                                    struct kelpie_error *error);
/* Removes a retired one, with its lock. What cannot be removed now, the next one who opens the
 * library removes. */
void kelpie__pool_directory_remove(struct kelpie_pool_directory *pool);

/* Names one by one, from cursor 0; 1, or 0 at the end, or an error. Not sorted. `wants_leftovers`:
 * instead, what is being made or removed. */
KELPIE_MUST_CHECK int kelpie__pool_store_list(const struct kelpie_pool_store *store,
                                              uint64_t *cursor, bool wants_leftovers,
                                              char out_entry[KELPIE_NAME_BYTES_MAX + 8],
                                              struct kelpie_error *error);
/* Removes one that its maker has left half made, or that has no member any more and was left half
 * removed, unless somebody is at it; by a pool's name, one that is no whole pool. */
void kelpie__pool_store_prune(const struct kelpie_pool_store *store, const char *entry);

/* ---- notes of members that wait -------------------------------------------------------------- */

/* Names one by one, from cursor 0; 1, or 0 at the end, or a negative errno value. */
KELPIE_MUST_CHECK int kelpie__pool_ready_list(const struct kelpie_pool_directory *pool,
                                              uint64_t *cursor,
                                              char out_name[KELPIE_NAME_BYTES_MAX + 1]);
uint32_t kelpie__pool_ready_count(const struct kelpie_pool_directory *pool);
/* Of a VM that is gone. False: the note stays, as a disk that cannot be written has it. */
KELPIE_MUST_CHECK bool kelpie__pool_ready_forget(const struct kelpie_pool_directory *pool,
                                                 const char *name);
/* For a member's monitor: writes its note. Gives the handle of the notes' directory. NOT_FOUND: the
 * pool is gone. */
KELPIE_MUST_CHECK int kelpie__pool_ready_write(struct kelpie_os *os, const char *state_path,
                                               const char *pool_name, const char *pool_id,
                                               const char *name, int *out_ready,
                                               struct kelpie_error *error);

#endif
