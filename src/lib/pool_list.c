/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pools as they are: inspect and list.
 */
#include <string.h>

#include "core/text.h"
#include "lib/pool.h"
#include "os/os_call.h"

void kelpie__pool_describe(const struct kelpie_pool_directory *directory,
                           const struct kelpie_config_values *config,
                           struct kelpie_pool_info *out) {
    const struct kelpie_pool_values *values = &directory->values;
    struct kelpie_pool_status status;
    kelpie__pool_directory_read_status(directory, &status);
    *out = (struct kelpie_pool_info){.struct_size = sizeof(*out)};
    out->lifetime = values->owner_pid != 0 ? KELPIE_LIFETIME_OWNED : KELPIE_LIFETIME_DETACHED;
    out->size = values->size;
    out->concurrency = values->concurrency;
    out->ready_count = kelpie__pool_ready_count(directory);
    out->making_count = status.making_count;
    out->cpus = (uint32_t)config->cpus;
    out->memory_mib = (uint32_t)config->memory_mib;
    out->created_ms = values->created_ms;
    out->keeper_pid = status.keeper_pid;
    out->made_count = status.made_count;
    out->failure_count = status.failure_count;
#define COPY(field, text) kelpie__ignore(kelpie__text_copy(out->field, sizeof(out->field), text))
    COPY(id, values->id);
    COPY(name, values->name);
    COPY(root, config->root);
    COPY(snapshot, config->snapshot);
    COPY(problem, status.problem);
#undef COPY
    kelpie__text_trim(out->problem);
    kelpie__pool_directory_check(directory);
}

/* Members of a snapshot are as large as that. */
static int read_config(struct kelpie *kelpie, const struct kelpie_pool_directory *directory,
                       struct kelpie_config_values *out, struct kelpie_error *error) {
    int status = kelpie__pool_directory_config(directory, out, error);
    if (status == 0 && out->snapshot[0] != '\0') {
        /* One that is gone or damaged is a problem of the next member's, not of looking. */
        kelpie__ignore(kelpie__config_from_snapshot(kelpie, out, NULL));
    }
    return status;
}

static int describe(struct kelpie *kelpie, const struct kelpie_pool_directory *directory,
                    struct kelpie_pool_info *out, struct kelpie_error *error) {
    struct kelpie_config_values *config = kelpie__alloc(kelpie->os, sizeof(*config));
    if (config == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int status = read_config(kelpie, directory, config, error);
    if (status == 0) {
        kelpie__pool_describe(directory, config, out);
    }
    kelpie__free(kelpie->os, config, sizeof(*config));
    return status;
}

int kelpie_pool_inspect(struct kelpie_pool *pool, struct kelpie_pool_info *out,
                        struct kelpie_error *error) {
    struct kelpie_pool_info info;
    int status = kelpie__pool_check_call(pool, "kelpie_pool_inspect", error);
    if (status == 0 && !kelpie__struct_is_sized(out)) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0,
                              "kelpie_pool_inspect: out is NULL, or struct_size is not set");
    }
    if (status == 0) {
        status = kelpie__pool_ensure_keeper(pool, error);
    }
    if (status == 0) {
        status = describe(pool->kelpie, &pool->directory, &info, error);
    }
    if (status == 0) {
        kelpie__struct_give(out, out->struct_size, &info, sizeof(info));
    }
    return status;
}

/* ---- the list -------------------------------------------------------------------------------- */

static int list_insert(struct kelpie *kelpie, const struct kelpie_pool_info *info,
                       struct kelpie_pool_info **list, size_t *count, struct kelpie_error *error) {
    size_t bytes = *count * sizeof(*info);
    KELPIE_ASSERT((*list == NULL) == (*count == 0));
    struct kelpie_pool_info *grown =
        kelpie__resize(kelpie->os, *list, bytes, bytes + sizeof(*info));
    if (grown == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a list of pools");
    }
    size_t place = *count;
    while (place > 0 && strcmp(info->name, grown[place - 1].name) < 0) { /* bound: the list */
        grown[place] = grown[place - 1];
        place -= 1;
    }
    grown[place] = *info;
    *list = grown;
    *count += 1;
    return 0;
}

/* One that is damaged is listed by its name, and with what is wrong with it. */
static int list_add(struct kelpie *kelpie, const char *name, struct kelpie_pool_info **list,
                    size_t *count, struct kelpie_error *error) {
    struct kelpie_pool *pool = NULL;
    struct kelpie_error problem = {0};
    struct kelpie_pool_info info = {.struct_size = sizeof(info)};
    KELPIE_ASSERT(name[0] != '\0');
    int status = kelpie_pool_open(kelpie, name, &pool, &problem);
    if (status == 0) {
        status = kelpie_pool_inspect(pool, &info, &problem);
        kelpie_pool_close(pool);
    }
    if (status == KELPIE_E_NOT_FOUND) {
        return 0; /* removed meanwhile */
    }
    if (status < 0) {
        info = (struct kelpie_pool_info){.struct_size = sizeof(info)};
        kelpie__ignore(kelpie__text_copy(info.name, sizeof(info.name), name));
        kelpie__ignore(kelpie__text_copy(info.problem, sizeof(info.problem), problem.message));
        kelpie__text_trim(info.problem);
    }
    return list_insert(kelpie, &info, list, count, error);
}

int kelpie_pool_list(struct kelpie *kelpie, struct kelpie_pool_info **out, size_t *out_count,
                     struct kelpie_error *error) {
    struct kelpie_pool_store store;
    struct kelpie_pool_info *list = NULL;
    size_t count = 0;
    uint64_t cursor = 0;
    char entry[KELPIE_NAME_BYTES_MAX + 8];
    if (kelpie == NULL || out == NULL || out_count == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_list: an argument is NULL");
    }
    int status = kelpie__pool_store_open(&store, kelpie->os, kelpie->places.state_path, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__pool_store_list(&store, &cursor, false, entry, error);
    while (status == 1) { /* bound: the store */
        status = list_add(kelpie, entry, &list, &count, error);
        if (status == 0) {
            status = kelpie__pool_store_list(&store, &cursor, false, entry, error);
        }
    }
    kelpie__pool_store_close(&store);
    if (status < 0) {
        kelpie_pool_list_free(kelpie, list, count);
        return status;
    }
    KELPIE_ASSERT((list == NULL) == (count == 0));
    *out = list;
    *out_count = count;
    return 0;
}

void kelpie_pool_list_free(struct kelpie *kelpie, struct kelpie_pool_info *list, size_t count) {
    if (count > 0) { /* another count than the list's is the embedder's mistake */
        kelpie__free(kelpie->os, list, count * sizeof(*list));
    }
}
