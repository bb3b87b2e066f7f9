/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of pools: by their users, and by whoever comes after a process that died.
 */
#include "core/text.h"
#include "lib/pool.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define END_RETRY_NS (5 * KELPIE_NS_PER_MS)
#define END_PARAMS "{\"force\":true,\"offered\":true}"

/* One that was claimed meanwhile says no, and lives on. */
static int end_member(struct kelpie *kelpie, const char *name) {
    struct kelpie_vm *vm = NULL;
    const struct kelpie_request request = {
        .method = "vm.delete", .params = END_PARAMS, .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    KELPIE_ASSERT(name[0] != '\0');
    int status = kelpie_vm_open(kelpie, name, &vm, NULL);
    if (status < 0) {
        return status;
    }
    status = kelpie__vm_connect_wait(vm, false, NULL, NULL);
    if (status == 0) {
        status = kelpie__operation_run(vm, &request, NULL);
    }
    kelpie_vm_close(vm);
    return status;
}

void kelpie__pool_end_members(struct kelpie *kelpie,
                              const struct kelpie_pool_directory *directory) {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint64_t cursor = 0;
    kelpie__pool_directory_check(directory);
    KELPIE_ASSERT(directory->lock >= 0);
    while (kelpie__pool_ready_list(directory, &cursor, name) == 1) { /* bound: the directory */
        kelpie__ignore(end_member(kelpie, name));                    /* its monitor decides */
        if (kelpie__pool_ready_forget(directory, name)) {
            cursor = 0; /* of a directory that changes */
        }
    }
}

/* The keeper ends when it sees that the pool is. */
static int end_take_lock(struct kelpie *kelpie, struct kelpie_pool_directory *directory,
                         struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    kelpie->loop->now_ns = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    int64_t deadline_ns = kelpie__loop_deadline(kelpie->loop, 2 * KELPIE_CALL_TIMEOUT_MS);
    int connection = kelpie__pool_poke(directory);
    int status = kelpie__pool_directory_lock(directory, &kept);
    while (status == KELPIE_E_BUSY && kelpie->loop->now_ns < deadline_ns) { /* bound: in its head */
        int turned = kelpie__turn(kelpie, kelpie->loop->now_ns + END_RETRY_NS, &kept);
        status = turned < 0 ? turned : kelpie__pool_directory_lock(directory, &kept);
    }
    if (connection >= 0) {
        kelpie__ignore(kelpie__os_close(kelpie->os, connection));
    }
    if (status == KELPIE_E_BUSY) {
        kept.code = status;
        kelpie__fail_append(
            &kept, ", and its keeper does not end; kill -9 that kelpie-keeper, then kelpie "
                   "prune removes what is left of it");
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    KELPIE_ASSERT(status != 0 || directory->lock >= 0);
    return status;
}

int kelpie__pool_end(struct kelpie *kelpie, struct kelpie_pool_directory *directory,
                     struct kelpie_error *error) {
    int status = kelpie__pool_directory_retire(directory, error);
    if (status == 0) {
        status = end_take_lock(kelpie, directory, error);
    }
    if (status == KELPIE_E_NOT_FOUND) {
        return status; /* somebody else has finished it */
    }
    if (status == 0) {
        kelpie__pool_end_members(kelpie, directory);
        kelpie__pool_directory_remove(directory);
        kelpie__pool_directory_unlock(directory);
        KELPIE_ASSERT(directory->lock == KELPIE_OS_NO_HANDLE);
    }
    return status;
}

/* ---- what dead processes left ---------------------------------------------------------------- */

static void prune_leftover(struct kelpie *kelpie, const struct kelpie_pool_store *store,
                           const char *entry) {
    struct kelpie_pool_directory directory;
    KELPIE_ASSERT(entry[0] == '.');
    int status = kelpie__pool_directory_open(&directory, store, entry, NULL);
    /* No pool by name, or no whole one: it never had members, or they were ended. */
    if (status == KELPIE_E_NOT_FOUND || status == KELPIE_E_CONFIG) {
        kelpie__pool_store_prune(store, entry);
    }
    if (status < 0) {
        return; /* damaged: for people */
    }
    if (kelpie__pool_directory_lock(&directory, NULL) == 0) { /* else its remover is at work */
        KELPIE_REACHED(kelpie->os, "a pool was found half removed");
        kelpie__pool_end_members(kelpie, &directory);
        kelpie__pool_directory_remove(&directory);
    } else { /* or its remover died before its keeper heard of it */
        int connection = kelpie__pool_poke(&directory);
        if (connection >= 0) {
            kelpie__ignore(kelpie__os_close(kelpie->os, connection)); /* "look" */
        }
    }
    kelpie__pool_directory_close(&directory);
}

/* While its keeper lives, that one sees to it. */
static void prune_orphan(struct kelpie *kelpie, const struct kelpie_pool_store *store,
                         const char *entry) {
    struct kelpie_pool_directory directory;
    KELPIE_ASSERT(entry[0] != '.');
    int status = kelpie__pool_directory_open(&directory, store, entry, NULL);
    if (status == KELPIE_E_NOT_FOUND) { /* a disk has lost what it had acknowledged */
        kelpie__pool_store_prune(store, entry);
    }
    if (status < 0) {
        return;
    }
    if (kelpie__pool_directory_is_orphan(&directory) &&
        kelpie__pool_directory_lock(&directory, NULL) == 0) {
        KELPIE_REACHED(kelpie->os, "a pool had lost its owner and its keeper");
        if (kelpie__pool_directory_retire(&directory, NULL) == 0) {
            kelpie__pool_end_members(kelpie, &directory);
            kelpie__pool_directory_remove(&directory);
        }
    }
    kelpie__pool_directory_close(&directory);
}

void kelpie__pools_prune(struct kelpie *kelpie) {
    struct kelpie_pool_store store;
    char entry[KELPIE_NAME_BYTES_MAX + 8];
    uint64_t cursor = 0;
    if (kelpie__pool_store_open(&store, kelpie->os, kelpie->places.state_path, NULL) < 0) {
        return; /* whoever uses them is told the reason */
    }
    while (kelpie__pool_store_list(&store, &cursor, true, entry, NULL) ==
           1) { /* bound: the store */
        prune_leftover(kelpie, &store, entry);
    }
    cursor = 0;
    while (kelpie__pool_store_list(&store, &cursor, false, entry, NULL) == 1) { /* bound: same */
        prune_orphan(kelpie, &store, entry);
    }
    kelpie__pool_store_close(&store);
}
