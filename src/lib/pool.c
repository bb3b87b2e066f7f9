/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pools by name: create, open, close, remove, look at.
 */
#include "lib/pool.h"

#include <string.h>

#include "core/memory_info.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

/* packing a root directory for the first time is not part of a boot; then a command and a pause */
#define POOL_FIRST_MARGIN_MS 150000u
#define POOL_ID_BYTES 16u

void kelpie__pool_handle_check(const struct kelpie_pool *pool) {
    kelpie__pool_directory_check(&pool->directory);
    KELPIE_ASSERT(pool->directory.store == &pool->store);
    KELPIE_ASSERT(pool->store.os == pool->kelpie->os);
    KELPIE_ASSERT(pool->owner >= KELPIE_OS_NO_HANDLE);
}

int kelpie__pool_check_call(const struct kelpie_pool *pool, const char *what,
                            struct kelpie_error *error) {
    if (pool == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: pool is NULL", what);
    }
    kelpie__pool_handle_check(pool);
    return kelpie__check_may_block(pool->kelpie, what, error);
}

/* ---- handles --------------------------------------------------------------------------------- */

static struct kelpie_pool *pool_allocate(struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_pool *pool = kelpie__alloc(kelpie->os, sizeof(*pool));
    if (pool == NULL) {
        kelpie__ignore(kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a pool's handle"));
        return NULL;
    }
    pool->kelpie = kelpie;
    pool->owner = KELPIE_OS_NO_HANDLE;
    if (kelpie__pool_store_open(&pool->store, kelpie->os, kelpie->places.state_path, error) < 0) {
        kelpie__free(kelpie->os, pool, sizeof(*pool));
        return NULL;
    }
    return pool;
}

/* One whose directory was never opened. */
static void pool_free(struct kelpie_pool *pool) {
    KELPIE_ASSERT(pool->claims == NULL);
    KELPIE_ASSERT(pool->owner == KELPIE_OS_NO_HANDLE);
    kelpie__pool_store_close(&pool->store);
    kelpie__free(pool->kelpie->os, pool, sizeof(*pool));
}

static void pool_link(struct kelpie_pool *pool) {
    kelpie__pool_handle_check(pool);
    pool->next = pool->kelpie->pools;
    pool->kelpie->pools = pool;
}

static void pool_unlink(struct kelpie_pool *pool) {
    struct kelpie_pool **place = &pool->kelpie->pools;
    while (*place != pool) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = pool->next;
}

static void pool_release(struct kelpie_pool *pool) {
    KELPIE_ASSERT(pool->claims == NULL);
    if (pool->owner >= 0) {
        kelpie__ignore(kelpie__os_close(pool->kelpie->os, pool->owner));
        pool->owner = KELPIE_OS_NO_HANDLE;
    }
    kelpie__pool_directory_close(&pool->directory);
    pool_free(pool);
}

int kelpie_pool_open(struct kelpie *kelpie, const char *name, struct kelpie_pool **out,
                     struct kelpie_error *error) {
    if (kelpie == NULL || name == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_open: an argument is NULL");
    }
    struct kelpie_error kept = {0};
    struct kelpie_pool *pool = pool_allocate(kelpie, &kept);
    int status = pool == NULL ? kept.code : 0;
    if (status == 0) {
        status = kelpie__pool_directory_open(&pool->directory, &pool->store, name, &kept);
        if (status < 0) {
            pool_free(pool);
        }
    }
    if (status < 0) {
        if (error != NULL) {
            *error = kept;
        }
        return status;
    }
    pool_link(pool);
    *out = pool;
    return 0;
}

void kelpie_pool_close(struct kelpie_pool *pool) {
    if (pool == NULL || kelpie__is_inherited(pool->kelpie)) {
        return;
    }
    kelpie__pool_handle_check(pool);
    kelpie__claims_drop(pool);
    /* Inside a callback nothing can be waited for: the keeper sees that its owner is gone. */
    bool may_end =
        pool->owner >= 0 && kelpie__check_may_block(pool->kelpie, "kelpie_pool_close", NULL) == 0;
    if (may_end) {
        kelpie__ignore(kelpie__pool_end(pool->kelpie, &pool->directory, NULL));
    }
    KELPIE_ASSERT(pool->claims == NULL);
    pool_unlink(pool);
    pool_release(pool);
}

const char *kelpie_pool_name(const struct kelpie_pool *pool) {
    return pool->directory.values.name;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int create_options(const struct kelpie_pool_options *given, struct kelpie_pool_options *out,
                          struct kelpie_error *error) {
    if (!kelpie__struct_is_sized(given)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_pool_create: options is NULL, or struct_size is not set");
    }
    *out = (struct kelpie_pool_options){0};
    memcpy(out, given, (size_t)kelpie__min_u64(given->struct_size, sizeof(*out)));
    out->concurrency = out->concurrency == 0 ? 1 : out->concurrency;
    if (out->size < 1 || out->size > KELPIE_POOL_SIZE_MAX) {
        return kelpie__fail_field(error, KELPIE_E_LIMIT, "size",
                                  "size: %u members, and it has to be 1 to %u", out->size,
                                  KELPIE_POOL_SIZE_MAX);
    }
    if (out->concurrency > KELPIE_POOL_CONCURRENCY_MAX) {
        return kelpie__fail_field(error, KELPIE_E_LIMIT, "concurrency",
                                  "concurrency: %u members at once, and it has to be 1 to %u",
                                  out->concurrency, KELPIE_POOL_CONCURRENCY_MAX);
    }
    KELPIE_ASSERT(out->concurrency > 0);
    return 0;
}

/* All members together, beside what runs now. */
static int create_check_memory(struct kelpie *kelpie, uint64_t memory_mib, bool allows_overcommit,
                               uint32_t size, struct kelpie_error *error) {
    KELPIE_ASSERT(size > 0);
    uint64_t available_mib = kelpie__memory_available_mib(kelpie->os);
    uint64_t needed_mib = memory_mib * size;
    KELPIE_ASSERT(size <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(memory_mib <= KELPIE_MEMORY_MIB_MAX);
    if (allows_overcommit || needed_mib <= available_mib) {
        return 0;
    }
    return kelpie__fail_field(error, KELPIE_E_LIMIT, "size",
                              "size: %u members of %llu MiB need %llu MiB and this host has %llu "
                              "MiB available; give fewer, less memory, or --overcommit",
                              size, (unsigned long long)memory_mib, (unsigned long long)needed_mib,
                              (unsigned long long)available_mib);
}

/* The configuration as it is kept, checked as far as it can be without a VM. `scratch` is for what
 * a snapshot makes of it. */
static int create_config(struct kelpie *kelpie, struct kelpie_config *given, uint32_t size,
                         struct kelpie_config_values *out, struct kelpie_config_values *scratch,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(out != scratch);
    int status = given == NULL ? 0 : kelpie_config_check(given, error);
    if (status == 0 && given != NULL && given->values.share_count > 0) {
        status = kelpie__fail_field(error, KELPIE_E_UNSUPPORTED, "share",
                                    "share: members of a pool share no directory with the host, "
                                    "since whom they will belong to is not known yet");
    }
    if (status < 0) {
        return status;
    }
    if (given == NULL) {
        kelpie__config_defaults(out);
    } else {
        *out = given->values;
    }
    *scratch = *out;
    if (out->snapshot[0] != '\0') {
        status = kelpie__config_from_snapshot(kelpie, scratch, error);
    }
    if (status == 0) {
        status =
            create_check_memory(kelpie, scratch->memory_mib, out->allows_overcommit, size, error);
    }
    out->lifetime = KELPIE_LIFETIME_OWNED; /* its maker's, until it is offered */
    out->is_ephemeral = true;
    KELPIE_ASSERT(out->is_ephemeral);
    return status;
}

static int create_values(struct kelpie *kelpie, const char *name,
                         const struct kelpie_pool_options *options, struct kelpie_pool_values *out,
                         struct kelpie_error *error) {
    uint8_t bytes[POOL_ID_BYTES];
    struct kelpie_os_identity identity;
    KELPIE_ASSERT(options->size > 0);
    KELPIE_ASSERT(options->concurrency > 0);
    int status = kelpie__os_random(kelpie->os, bytes, sizeof(bytes));
    if (status == 0) {
        status = kelpie__os_identity(kelpie->os, &identity);
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw the id of a pool");
    }
    *out = (struct kelpie_pool_values){.size = options->size, .concurrency = options->concurrency};
    kelpie__text_hex(out->id, sizeof(out->id), bytes, sizeof(bytes));
    bool fits = name != NULL
                    ? kelpie__text_copy(out->name, sizeof(out->name), name)
                    : kelpie__text_format(out->name, sizeof(out->name), "pool-%.12s", out->id);
    KELPIE_ASSERT(fits); /* a given name has been checked */
    out->created_ms = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    out->owner_pid = options->lifetime == KELPIE_LIFETIME_OWNED ? identity.pid : 0;
    KELPIE_ASSERT(out->id[0] != '\0');
    KELPIE_ASSERT(out->name[0] != '\0');
    return 0;
}

/* 1: there is news of neither kind yet. */
static int first_look(struct kelpie_pool *pool, struct kelpie_error *error) {
    struct kelpie_pool_status status;
    if (kelpie__pool_ready_count(&pool->directory) > 0) {
        return 0;
    }
    kelpie__pool_directory_read_status(&pool->directory, &status);
    if (status.problem_code == 0) {
        return 1;
    }
    return kelpie__fail(error, status.problem_code, 0, "%s", status.problem);
}

/* Until the first member waits, or could not be made. */
static int create_wait(struct kelpie_pool *pool, uint64_t timeout_ms, struct kelpie_error *error) {
    struct kelpie *kelpie = pool->kelpie;
    KELPIE_ASSERT(timeout_ms <= KELPIE_BOOT_TIMEOUT_MS_MAX);
    kelpie->loop->now_ns = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    int64_t deadline_ns = kelpie__loop_deadline(kelpie->loop, timeout_ms + POOL_FIRST_MARGIN_MS);
    int connection = kelpie__pool_poke(&pool->directory);
    int status = first_look(pool, error);
    while (status == 1 && kelpie->loop->now_ns < deadline_ns) { /* bound: in its head */
        status = kelpie__pool_wait(kelpie, connection, deadline_ns, error);
        if (status == 0) {
            status = kelpie__pool_ensure_keeper(pool, error);
        }
        connection = status < 0 ? KELPIE_OS_NO_HANDLE : kelpie__pool_poke(&pool->directory);
        status = status < 0 ? status : first_look(pool, error);
    }
    if (connection >= 0) {
        kelpie__ignore(kelpie__os_close(kelpie->os, connection));
    }
    return status != 1 ? status
                       : kelpie__fail(error, KELPIE_E_TIMEOUT, 0,
                                      "the first member of pool \"%s\" did not come up in %llu ms",
                                      pool->directory.values.name,
                                      (unsigned long long)timeout_ms + POOL_FIRST_MARGIN_MS);
}

/* With the directory made and locked: a keeper, and the first member. */
static int create_fill(struct kelpie_pool *pool, uint64_t timeout_ms, struct kelpie_error *error) {
    KELPIE_ASSERT(pool->directory.lock >= 0);
    int status = kelpie__pool_start_keeper(pool, error);
    kelpie__pool_directory_unlock(&pool->directory);
    KELPIE_ASSERT(pool->directory.lock == KELPIE_OS_NO_HANDLE);
    if (status == 0) {
        status = create_wait(pool, timeout_ms, error);
    }
    if (status < 0) {
        KELPIE_REACHED(pool->kelpie->os, "a pool was given up");
        kelpie__ignore(kelpie__pool_end(pool->kelpie, &pool->directory, NULL));
    }
    return status;
}

static int create_checked(struct kelpie *kelpie, const struct kelpie_pool_values *values,
                          const struct kelpie_config_values *config,
                          const struct kelpie_pool_options *options, struct kelpie_pool **out,
                          struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    KELPIE_ASSERT(values->name[0] != '\0');
    struct kelpie_pool *pool = pool_allocate(kelpie, &kept);
    int status = pool == NULL ? kept.code : 0;
    if (status == 0) {
        status = kelpie__pool_directory_create(&pool->directory, &pool->store, values, config,
                                               &pool->owner, &kept);
        if (status < 0) {
            pool_free(pool);
        }
    }
    if (status == 0) {
        uint64_t timeout_ms =
            options->timeout_ms != 0 ? options->timeout_ms : config->boot_timeout_ms;
        timeout_ms = kelpie__min_u64(timeout_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
        status = create_fill(pool, timeout_ms, &kept);
        if (status < 0) {
            pool_release(pool);
        }
    }
    if (status < 0) {
        if (error != NULL) {
            *error = kept;
        }
        return status;
    }
    pool_link(pool);
    *out = pool;
    return 0;
}

int kelpie_pool_create(struct kelpie *kelpie, const char *name, struct kelpie_config *config,
                       const struct kelpie_pool_options *options, struct kelpie_pool **out,
                       struct kelpie_error *error) {
    struct kelpie_pool_options chosen;
    struct kelpie_pool_values values;
    if (kelpie == NULL || out == NULL || (config != NULL && config->kelpie != kelpie)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_pool_create: an argument is NULL, or of another handle");
    }
    int status = kelpie__check_may_block(kelpie, "kelpie_pool_create", error);
    if (status == 0) {
        status = create_options(options, &chosen, error);
    }
    if (status == 0 && name != NULL) {
        status = kelpie__config_check_name(name, error);
    }
    if (status < 0) {
        return status;
    }
    struct kelpie_config_values *kept = kelpie__alloc(kelpie->os, 2 * sizeof(*kept));
    if (kept == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    status = create_config(kelpie, config, chosen.size, &kept[0], &kept[1], error);
    if (status == 0) {
        status = create_values(kelpie, name, &chosen, &values, error);
    }
    if (status == 0) {
        memcpy(kept->id, values.id, sizeof(kept->id)); /* of the file; members draw their own */
        memcpy(kept->name, values.name, sizeof(kept->name));
        kept->created_ms = values.created_ms;
        status = create_checked(kelpie, &values, &kept[0], &chosen, out, error);
    }
    kelpie__free(kelpie->os, kept, 2 * sizeof(*kept));
    return status;
}

int kelpie_pool_remove(struct kelpie_pool *pool, struct kelpie_error *error) {
    int status = kelpie__pool_check_call(pool, "kelpie_pool_remove", error);
    return status < 0 ? status : kelpie__pool_end(pool->kelpie, &pool->directory, error);
}
