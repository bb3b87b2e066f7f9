/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_prune: what is of no use any more goes.
 */
#include <string.h>

#include "core/text.h"
#include "lib/fork.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/remove.h"
#include "store/template.h"

#define PRUNE_FORK_AGE_NS (60 * KELPIE_NS_PER_S)

static struct kelpie_template_bounds prune_bounds(const struct kelpie_prune_options *options) {
    struct kelpie_template_bounds bounds = kelpie__template_bounds_default();
    if (options->is_all) {
        bounds.age_ms = 0;
    } else if (options->template_age_ms != 0) {
        bounds.age_ms = options->template_age_ms;
    }
    KELPIE_ASSERT(options->is_all == (bounds.age_ms == 0));
    return bounds;
}

/* ---- what forks left whose maker died -------------------------------------------------------- */

static bool is_fork_name(const char *name) {
    uint8_t bytes[KELPIE_FORK_NAME_BYTES];
    size_t length = strlen(KELPIE_FORK_PREFIX);
    return kelpie__text_has_prefix(name, KELPIE_FORK_PREFIX) &&
           strlen(name) == length + 2 * sizeof(bytes) &&
           kelpie__text_unhex(name + length, bytes, sizeof(bytes));
}

/* A VM is still to be made from it, or may be: one that cannot be read. */
static bool fork_is_wanted(struct kelpie *kelpie, const char *snapshot) {
    struct kelpie_vm_directory_cursor cursor = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1];
    bool is_wanted = false;
    KELPIE_ASSERT(is_fork_name(snapshot));
    /* bound: the directory */
    while (!is_wanted && kelpie__vm_directory_list(&kelpie->places, &cursor, name, NULL) == 1) {
        struct kelpie_vm *vm = NULL;
        int status = kelpie_vm_open(kelpie, name, &vm, NULL);
        is_wanted = status == 0
                        ? vm->damage.code < 0 || kelpie__text_equal(vm->config->snapshot, snapshot)
                        : status != KELPIE_E_NOT_FOUND;
        kelpie_vm_close(vm);
    }
    return is_wanted;
}

/* Made by a fork, and so long ago that who made it is no longer about to take its lock. */
static bool fork_is_old(const struct kelpie_snapshot_store *store, const char *name,
                        uint64_t *out_bytes) {
    struct kelpie_snapshot snapshot;
    struct kelpie_os_stat stat = {0};
    struct kelpie_os *os = store->os;
    KELPIE_ASSERT(is_fork_name(name));
    if (kelpie__snapshot_open(&snapshot, store, name, NULL) < 0) {
        return false;
    }
    bool is_forks =
        kelpie__text_equal(snapshot.manifest.label, KELPIE_FORK_LABEL) &&
        kelpie__os_stat(os, snapshot.directory, KELPIE_MANIFEST_FILE, false, &stat) == 0;
    *out_bytes = kelpie__directory_bytes(os, snapshot.directory);
    kelpie__snapshot_close(&snapshot);
    return is_forks &&
           kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) - stat.modified_ns > PRUNE_FORK_AGE_NS;
}

/* A fork's snapshot goes with the last VM that is made from it. Its maker may have been killed
 * before there was one. */
static void prune_forks(struct kelpie *kelpie) {
    struct kelpie_snapshot_store store;
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint64_t cursor = 0;
    uint64_t bytes = 0;
    kelpie__handle_check(kelpie);
    if (kelpie__snapshot_store_open(&store, kelpie->os, kelpie->places.state_path,
                                    KELPIE_SNAPSHOTS_DIRECTORY, NULL) < 0) {
        return; /* whoever uses them is told the reason */
    }
    while (kelpie__snapshot_list(&store, &cursor, name, NULL) == 1) { /* bound: the directory */
        if (is_fork_name(name) && fork_is_old(&store, name, &bytes) &&
            !fork_is_wanted(kelpie, name) && kelpie__snapshot_remove(&store, name, NULL) == 0) {
            KELPIE_REACHED(kelpie->os, "a fork's snapshot was left by its maker");
            kelpie->leftovers.count += 1;
            kelpie->leftovers.bytes += bytes;
        }
    }
    kelpie__snapshot_store_close(&store);
}

/* ---- templates, and all of it ---------------------------------------------------------------- */

static int prune_templates(struct kelpie *kelpie, const struct kelpie_prune_options *options,
                           struct kelpie_leftovers *out, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    kelpie__handle_check(kelpie);
    struct kelpie_template_bounds bounds = prune_bounds(options);
    int status = kelpie__snapshot_store_open(&store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_TEMPLATES_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    kelpie__snapshot_prune(&store, &kelpie->leftovers);
    kelpie__template_prune(&store, &bounds, NULL, options->is_trial, out);
    kelpie__snapshot_store_close(&store);
    return 0;
}

int kelpie_prune(struct kelpie *kelpie, const struct kelpie_prune_options *options,
                 struct kelpie_prune_result *out, struct kelpie_error *error) {
    struct kelpie_prune_options chosen = {.struct_size = sizeof(chosen)};
    struct kelpie_prune_result result = {.struct_size = sizeof(result)};
    struct kelpie_leftovers templates;
    bool is_sized = (options == NULL || kelpie__struct_is_sized(options)) &&
                    (out == NULL || kelpie__struct_is_sized(out));
    if (kelpie == NULL || !is_sized) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_prune: an argument is NULL, or struct_size is not set");
    }
    if (options != NULL) {
        memcpy(&chosen, options, (size_t)kelpie__min_u64(options->struct_size, sizeof(chosen)));
    }
    kelpie__vm_directory_recover_all(&kelpie->places, &kelpie->leftovers);
    kelpie__snapshots_prune(kelpie);
    prune_forks(kelpie);
    int status = prune_templates(kelpie, &chosen, &templates, error);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(result.struct_size == sizeof(result));
    result.template_count = templates.count;
    result.template_bytes = templates.bytes;
    result.leftover_count = kelpie->leftovers.count;
    result.leftover_bytes = kelpie->leftovers.bytes;
    kelpie->leftovers = (struct kelpie_leftovers){0};
    if (out != NULL) {
        kelpie__struct_give(out, out->struct_size, &result, sizeof(result));
    }
    return 0;
}
