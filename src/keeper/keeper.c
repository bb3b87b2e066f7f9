/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See keeper.h: the keeper's own life. It never ends by itself: only with its pool.
 */
#include "keeper/keeper.h"

#include <string.h>

#include "core/options.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define KEEPER_STDERR 2
/* after a member that could not be made, doubled with each one in a row */
#define KEEPER_RETRY_NS_MIN (100 * KELPIE_NS_PER_MS)
#define KEEPER_RETRY_DOUBLINGS_MAX 8u
/* the processor is the claimer's first, for some commands */
#define KEEPER_STAND_BACK_NS (25 * KELPIE_NS_PER_MS)

static void keeper_check(const struct kelpie_keeper *keeper) {
    KELPIE_ASSERT(keeper->pool.lock == KELPIE_KEEPER_HANDLE_LOCK);
    KELPIE_ASSERT(keeper->pool.values.size <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(keeper->waiter_count <= KELPIE_POOL_WAITER_COUNT_MAX);
    KELPIE_ASSERT(keeper->owner >= KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(keeper->kelpie != NULL);
    KELPIE_ASSERT(keeper->config != NULL);
}

/* ---- those who wait -------------------------------------------------------------------------- */

static void keeper_release_waiters(struct kelpie_keeper *keeper) {
    KELPIE_ASSERT(keeper->waiter_count <= KELPIE_POOL_WAITER_COUNT_MAX);
    for (uint32_t i = 0; i < keeper->waiter_count; i += 1) {
        kelpie__ignore(kelpie__os_close(keeper->os, keeper->waiters[i])); /* which is the message */
    }
    keeper->waiter_count = 0;
}

/* A connection says: look. Its end will say that something has changed. */
static void keeper_poked(void *context, uint32_t bits) {
    struct kelpie_keeper *keeper = context;
    keeper_check(keeper);
    KELPIE_ASSERT(bits != 0);
    int stream = kelpie__os_accept(keeper->os, keeper->listener);
    if (stream < 0) {
        return; /* gone again */
    }
    if (keeper->waiter_count == KELPIE_POOL_WAITER_COUNT_MAX) {
        keeper_release_waiters(keeper); /* those of them who still wait come again */
    }
    keeper->waiters[keeper->waiter_count] = stream;
    keeper->waiter_count += 1;
}

/* ---- what is known --------------------------------------------------------------------------- */

static uint32_t keeper_count(const struct kelpie_keeper *keeper, bool is_making) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < keeper->pool.values.size; i += 1) {
        const struct kelpie_keeper_slot *slot = &keeper->slots[i];
        count += is_making ? kelpie__keeper_slot_is_making(slot) : slot->vm != NULL;
    }
    KELPIE_ASSERT(count <= keeper->pool.values.size);
    return count;
}

uint32_t kelpie__keeper_ready_count(const struct kelpie_keeper *keeper) {
    uint32_t count = keeper_count(keeper, false);
    uint32_t making_count = keeper_count(keeper, true);
    KELPIE_ASSERT(making_count <= count);
    return count - making_count;
}

void kelpie__keeper_stand_back(struct kelpie_keeper *keeper) {
    int64_t now_ns = kelpie__os_now(keeper->os, KELPIE_OS_CLOCK_MONOTONIC);
    if (kelpie__keeper_ready_count(keeper) > 0 && keeper->retry_ns <= now_ns) {
        keeper->retry_ns = now_ns + KEEPER_STAND_BACK_NS; /* once, however many are claimed */
    }
}

void kelpie__keeper_made(struct kelpie_keeper *keeper) {
    keeper->status.made_count += 1;
    keeper->status.problem_code = 0;
    keeper->status.problem[0] = '\0';
    keeper->failures_in_a_row = 0;
    keeper->is_changed = true;
}

void kelpie__keeper_failed(struct kelpie_keeper *keeper, const struct kelpie_error *why) {
    struct kelpie_pool_status *status = &keeper->status;
    KELPIE_ASSERT(why->code < 0);
    uint32_t doublings =
        (uint32_t)kelpie__min_u64(keeper->failures_in_a_row, KEEPER_RETRY_DOUBLINGS_MAX);
    keeper->retry_ns =
        kelpie__os_now(keeper->os, KELPIE_OS_CLOCK_MONOTONIC) + (KEEPER_RETRY_NS_MIN << doublings);
    keeper->failures_in_a_row += 1;
    status->failure_count += 1;
    status->problem_code = why->code;
    kelpie__ignore(kelpie__text_copy(status->problem, sizeof(status->problem), why->message));
    kelpie__text_trim(status->problem);
    keeper->is_changed = true;
    KELPIE_ASSERT(keeper->failures_in_a_row > 0);
}

static void keeper_tell(struct kelpie_keeper *keeper) {
    keeper_check(keeper);
    uint32_t making_count = keeper_count(keeper, true);
    if (!keeper->is_changed && keeper->status.making_count == making_count) {
        return;
    }
    keeper->status.making_count = making_count;
    /* When it cannot be written, the next change writes it; nobody but people depends on it. */
    kelpie__ignore(kelpie__pool_directory_write_status(&keeper->pool, &keeper->status, NULL));
    if (keeper->is_changed) {
        keeper->is_changed = false;
        keeper_release_waiters(keeper);
    }
}

/* ---- keeping --------------------------------------------------------------------------------- */

/* The first empty slots, while fewer are made than may be at once. */
static void keeper_refill(struct kelpie_keeper *keeper) {
    keeper_check(keeper);
    uint32_t making_count = keeper_count(keeper, true);
    int64_t now_ns = kelpie__os_now(keeper->os, KELPIE_OS_CLOCK_MONOTONIC);
    for (uint32_t i = 0;
         i < keeper->pool.values.size && making_count < keeper->pool.values.concurrency &&
         now_ns >= keeper->retry_ns;
         i += 1) {
        struct kelpie_keeper_slot *slot = &keeper->slots[i];
        if (slot->phase == KELPIE_KEEPER_EMPTY) {
            KELPIE_ASSERT(slot->vm == NULL);
            kelpie__keeper_slot_begin(slot);
            making_count += 1;
        }
    }
}

static void keeper_look(struct kelpie_keeper *keeper) {
    keeper_check(keeper);
    for (uint32_t i = 0; i < keeper->pool.values.size; i += 1) {
        kelpie__keeper_slot_look(&keeper->slots[i]);
    }
    keeper_refill(keeper);
    keeper_tell(keeper);
}

static int64_t keeper_deadline(const struct kelpie_keeper *keeper) {
    bool may_begin = keeper_count(keeper, false) < keeper->pool.values.size &&
                     keeper_count(keeper, true) < keeper->pool.values.concurrency;
    return may_begin ? keeper->retry_ns : -1;
}

static int keeper_run(struct kelpie_keeper *keeper, struct kelpie_error *error) {
    int status = 0;
    /* bound: the pool's life */
    while (status == 0 && !keeper->is_owner_gone &&
           kelpie__pool_directory_is_current(&keeper->pool)) {
        keeper_look(keeper);
        KELPIE_ASSERT(!keeper->is_changed);
        status = kelpie__turn(keeper->kelpie, keeper_deadline(keeper), error);
    }
    return status;
}

/* ---- the owner ------------------------------------------------------------------------------- */

static void keeper_drop_owner(struct kelpie_keeper *keeper) {
    if (keeper->owner >= 0) {
        kelpie__loop_unwatch(keeper->kelpie->loop, keeper->owner_watch);
        kelpie__ignore(kelpie__os_close(keeper->os, keeper->owner));
        keeper->owner = KELPIE_OS_NO_HANDLE;
    }
}

static void keeper_owner_ended(void *context, uint32_t bits) {
    struct kelpie_keeper *keeper = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_REACHED(keeper->os, "the owner of a pool ended");
    keeper_drop_owner(keeper);
    keeper->is_owner_gone = true;
}

/* Its pid may be another's by now; while its lock is held it is not. */
static int keeper_watch_owner(struct kelpie_keeper *keeper, struct kelpie_error *error) {
    int32_t pid = keeper->pool.values.owner_pid;
    KELPIE_ASSERT(keeper->owner == KELPIE_OS_NO_HANDLE);
    if (pid == 0) {
        return 0;
    }
    int owner = kelpie__os_open_process(keeper->os, pid);
    if (owner < 0 || kelpie__pool_directory_is_orphan(&keeper->pool)) {
        kelpie__ignore(owner < 0 ? 0 : kelpie__os_close(keeper->os, owner));
        keeper->is_owner_gone = true;
        return 0;
    }
    int status = kelpie__loop_watch(keeper->kelpie->loop, owner, KELPIE_OS_READABLE,
                                    keeper_owner_ended, keeper, &keeper->owner_watch);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(keeper->os, owner));
        return kelpie__fail(error, status, 0, "watch the owner");
    }
    KELPIE_ASSERT(!keeper->is_owner_gone);
    keeper->owner = owner;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What argv says, as the library's options and the pool's name. */
static int keeper_options(int argc, char **argv, struct kelpie_open_options *out, const char **name,
                          struct kelpie_error *error) {
    KELPIE_ASSERT(out->struct_size == sizeof(*out));
    const struct kelpie_option known[] = {
        {"--state-dir", &out->state_directory, KELPIE_OPTION_PATH},
        {"--runtime-dir", &out->runtime_directory, KELPIE_OPTION_PATH},
        {"--cache-dir", &out->cache_directory, KELPIE_OPTION_PATH},
        {"--libexec-dir", &out->libexec_directory, KELPIE_OPTION_PATH},
        {"--name", name, KELPIE_OPTION_NAME},
    };
    return kelpie__options_read(known, KELPIE_ARRAY_COUNT(known), argc, argv, "libkelpie", error);
}

static int keeper_open_pool(struct kelpie_keeper *keeper, const char *name,
                            struct kelpie_error *error) {
    const char *state_path = keeper->kelpie->places.state_path;
    KELPIE_ASSERT(keeper->config == NULL);
    int status = kelpie__pool_store_open(&keeper->store, keeper->os, state_path, error);
    if (status == 0) {
        status = kelpie__pool_directory_open(&keeper->pool, &keeper->store, name, error);
    }
    if (status == 0) { /* it may have been removed, and made anew, since we were started */
        status = kelpie__pool_directory_adopt_lock(&keeper->pool, KELPIE_KEEPER_HANDLE_LOCK, error);
    }
    if (status == 0) {
        status = kelpie_config_create(keeper->kelpie, &keeper->config, error);
    }
    if (status == 0) {
        status = kelpie__pool_directory_config(&keeper->pool, &keeper->config->values, error);
    }
    return status;
}

/* Members that a keeper before this one has left waiting. */
static void keeper_adopt(struct kelpie_keeper *keeper) {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint64_t cursor = 0;
    uint32_t count = 0;
    while (count < keeper->pool.values.size &&
           kelpie__pool_ready_list(&keeper->pool, &cursor, name) == 1) {
        count += kelpie__keeper_slot_adopt(&keeper->slots[count], name) ? 1 : 0;
    }
    KELPIE_ASSERT(count == keeper_count(keeper, false));
}

static int keeper_open(struct kelpie_keeper *keeper, int argc, char **argv,
                       struct kelpie_error *error) {
    struct kelpie_open_options options = {.struct_size = sizeof(options)};
    struct kelpie_os_identity identity;
    const char *name = NULL;
    keeper->listener = KELPIE_KEEPER_HANDLE_LISTENER;
    keeper->owner = KELPIE_OS_NO_HANDLE;
    for (uint32_t i = 0; i < KELPIE_POOL_SIZE_MAX; i += 1) {
        keeper->slots[i].keeper = keeper;
    }
    int status = keeper_options(argc, argv, &options, &name, error);
    if (status == 0) {
        status = kelpie__open_with_os(keeper->os, &options, &keeper->kelpie, error);
    }
    if (status == 0) {
        status = keeper_open_pool(keeper, name, error);
    }
    if (status < 0) {
        return status;
    }
    int result = kelpie__os_identity(keeper->os, &identity);
    if (result < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -result, "ask who this process is");
    }
    keeper->status.keeper_pid = identity.pid;
    keeper->is_changed = true;
    status = kelpie__loop_watch(keeper->kelpie->loop, keeper->listener, KELPIE_OS_READABLE,
                                keeper_poked, keeper, &keeper->listener_watch);
    if (status < 0) {
        return kelpie__fail(error, status, 0, "watch the keeper's socket");
    }
    return keeper_watch_owner(keeper, error);
}

/* Members that are being made go with their handles. Those that wait are ended by whoever retired
 * the pool: that is this process when the owner is gone. */
static void keeper_end(struct kelpie_keeper *keeper) {
    keeper_check(keeper);
    for (uint32_t i = 0; i < keeper->pool.values.size; i += 1) {
        kelpie__keeper_slot_empty(&keeper->slots[i]);
    }
    if (keeper->is_owner_gone && kelpie__pool_directory_retire(&keeper->pool, NULL) == 0) {
        kelpie__pool_end_members(keeper->kelpie, &keeper->pool);
        kelpie__pool_directory_remove(&keeper->pool);
    }
    keeper_drop_owner(keeper);
    kelpie__loop_unwatch(keeper->kelpie->loop, keeper->listener_watch);
    kelpie__ignore(kelpie__os_close(keeper->os, keeper->listener));
    keeper_release_waiters(keeper);
    KELPIE_ASSERT(keeper->owner == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(keeper->waiter_count == 0);
    kelpie_config_destroy(keeper->config);
    struct kelpie_os *os = kelpie__close_keeping_os(keeper->kelpie);
    KELPIE_ASSERT(os == keeper->os); /* main()'s */
    /* The lock goes last: whoever takes it finds all done. */
    kelpie__pool_directory_close(&keeper->pool);
    kelpie__pool_store_close(&keeper->store);
}

int kelpie_keeper_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_error error = {0};
    struct kelpie_keeper *keeper = kelpie__alloc(os, sizeof(*keeper));
    if (keeper == NULL) {
        return 1;
    }
    keeper->os = os;
    int status = keeper_open(keeper, argc, argv, &error);
    if (status == 0) {
        keeper_adopt(keeper);
        status = keeper_run(keeper, &error);
        keeper_end(keeper);
    }
    kelpie__free(os, keeper, sizeof(*keeper));
    if (status < 0) { /* what a failed start leaves open, the kernel closes */
        char line[2200];
        kelpie__ignore(
            kelpie__text_format(line, sizeof(line), "kelpie-keeper: %s\n", error.message));
        kelpie__ignore(kelpie__os_write(os, KEEPER_STDERR, line, strlen(line)));
    }
    return status < 0 ? 1 : 0;
}
