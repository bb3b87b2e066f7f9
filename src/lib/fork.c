/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Several VMs from one: a snapshot that nobody misses afterwards, VMs made from it, all started at
 * once. The snapshot is held until they live; it is removed here, or, when one of them needs it
 * longer, by the last of them.
 */
#include <string.h>

#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "store/snapshot.h"

#define FORK_NAME_BYTES 8u
#define FORK_LABEL "made by fork"

struct fork {
    struct kelpie *kelpie; /* borrowed: during the call */
    const char *const *names;
    size_t count;
    struct kelpie_vm **vms; /* of the caller; NULL: not made */
    size_t pending;
    int status; /* of the first that failed */
    struct kelpie_error error;
};

static void fork_keep_failure(struct fork *fork, int status, const struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    if (fork->status == 0) {
        fork->status = status;
        fork->error = *error;
    }
}

static void fork_started(void *context, const struct kelpie_error *error) {
    struct fork *fork = context;
    KELPIE_ASSERT(fork->pending > 0);
    fork->pending -= 1;
    if (error != NULL) {
        fork_keep_failure(fork, error->code, error);
    }
}

/* All that were made go again. */
static void fork_undo(struct fork *fork) {
    for (size_t i = 0; i < fork->count; i += 1) {
        if (fork->vms[i] != NULL) {
            kelpie__ignore(kelpie_vm_delete(fork->vms[i], true, NULL)); /* the first error counts */
            kelpie_vm_close(fork->vms[i]);
            fork->vms[i] = NULL;
        }
    }
}

static void fork_create(struct fork *fork, struct kelpie_config *config) {
    struct kelpie_error error = {0};
    for (size_t i = 0; i < fork->count && fork->status == 0; i += 1) {
        const char *name = fork->names != NULL ? fork->names[i] : NULL;
        int status = kelpie_vm_create(fork->kelpie, name, config, &fork->vms[i], &error);
        if (status < 0) {
            fork_keep_failure(fork, status, &error);
        }
    }
}

/* All at once, and to the end of all of them. */
static void fork_start(struct fork *fork) {
    struct kelpie_error error = {0};
    for (size_t i = 0; i < fork->count && fork->status == 0; i += 1) {
        int status = kelpie__vm_connect_wait(fork->vms[i], true, NULL, &error);
        if (status == 0) {
            status = kelpie_vm_start_async(fork->vms[i], 0, fork_started, fork, NULL, &error);
        }
        if (status < 0) {
            fork_keep_failure(fork, status, &error);
        } else {
            fork->pending += 1;
        }
    }
    while (fork->pending > 0) { /* bound: the starts' own deadlines */
        int status = kelpie__turn(fork->kelpie, -1, &error);
        if (status < 0) {
            fork_keep_failure(fork, status, &error);
            return;
        }
    }
}

/* `config` has the snapshot's name. On failure nothing is left of it. */
static int fork_run(struct kelpie *kelpie, struct kelpie_config *config, const char *const *names,
                    size_t count, struct kelpie_vm **out, struct kelpie_error *error) {
    struct fork fork = {.kelpie = kelpie, .names = names, .count = count};
    fork.vms = kelpie__alloc(kelpie->os, count * sizeof(struct kelpie_vm *));
    if (fork.vms == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the handles of forks");
    }
    fork_create(&fork, config);
    if (fork.status == 0) {
        fork_start(&fork);
    }
    if (fork.status < 0) {
        fork_undo(&fork);
        if (error != NULL) {
            *error = fork.error;
        }
    } else {
        memcpy(out, fork.vms, count * sizeof(struct kelpie_vm *));
    }
    kelpie__free(kelpie->os, fork.vms, count * sizeof(struct kelpie_vm *));
    return fork.status;
}

/* A copy of the caller's configuration, or of the defaults, with the snapshot. */
static int fork_config(struct kelpie *kelpie, const struct kelpie_config *given,
                       const char *snapshot, struct kelpie_config **out,
                       struct kelpie_error *error) {
    int status = kelpie_config_create(kelpie, out, error);
    if (status == 0 && given != NULL) {
        (*out)->values = given->values;
    }
    if (status == 0) {
        kelpie_config_set_snapshot(*out, snapshot);
    }
    return status;
}

static int fork_check(struct kelpie *kelpie, const struct kelpie_config *config, size_t count,
                      struct kelpie_vm *const *out, const char *what, struct kelpie_error *error) {
    if (kelpie == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", what);
    }
    if (count == 0 || count > KELPIE_FORK_COUNT_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%s: %zu VMs were asked for; ask for 1 to %u",
                            what, count, KELPIE_FORK_COUNT_MAX);
    }
    if (config != NULL && config->kelpie != kelpie) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s: the configuration belongs to another handle", what);
    }
    return kelpie__check_may_block(kelpie, what, error);
}

int kelpie_snapshot_fork(struct kelpie *kelpie, const char *snapshot,
                         const struct kelpie_config *config, const char *const *names, size_t count,
                         struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_config *own = NULL;
    int status = fork_check(kelpie, config, count, out, "kelpie_snapshot_fork", error);
    if (status == 0 && snapshot == NULL) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_snapshot_fork: snapshot is NULL");
    }
    if (status == 0) {
        status = fork_config(kelpie, config, snapshot, &own, error);
    }
    if (status == 0) {
        status = fork_run(kelpie, own, names, count, out, error);
    }
    kelpie_config_destroy(own);
    return status;
}

static int fork_take(struct kelpie_vm *vm, struct kelpie_snapshot_result *out,
                     struct kelpie_error *error) {
    uint8_t bytes[FORK_NAME_BYTES];
    char digits[2 * FORK_NAME_BYTES + 1];
    char name[32];
    int status = kelpie__os_random(vm->kelpie->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw the name of a snapshot");
    }
    kelpie__text_hex(digits, sizeof(digits), bytes, sizeof(bytes));
    bool fits = kelpie__text_format(name, sizeof(name), "fork-%s", digits);
    KELPIE_ASSERT(fits);
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options), .name = name, .label = FORK_LABEL, .is_unsynced = true};
    *out = (struct kelpie_snapshot_result){.struct_size = sizeof(*out)};
    return kelpie__vm_snapshot_transient(vm, &options, out, error);
}

/* Holds it, so that the first that no longer needs it does not remove it under the others. */
static int fork_with(struct kelpie_vm *vm, const char *snapshot, struct kelpie_config *config,
                     const char *const *names, size_t count, struct kelpie_vm **out,
                     struct kelpie_error *error) {
    struct kelpie *kelpie = vm->kelpie;
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot held;
    int status = kelpie__snapshot_store_open(&store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_SNAPSHOTS_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&held, &store, snapshot, error);
    if (status == 0) {
        status = fork_run(kelpie, config, names, count, out, error);
        kelpie__snapshot_close(&held);
    }
    /* BUSY: one of the VMs needs it while it lives, and the last of these removes it. */
    kelpie__ignore(kelpie__snapshot_remove(&store, snapshot, NULL));
    kelpie__snapshot_store_close(&store);
    return status;
}

int kelpie_vm_fork(struct kelpie_vm *vm, const struct kelpie_config *config,
                   const char *const *names, size_t count, struct kelpie_vm **out,
                   struct kelpie_error *error) {
    struct kelpie_snapshot_result taken;
    struct kelpie_config *own = NULL;
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_fork: vm is NULL");
    }
    int status = fork_check(vm->kelpie, config, count, out, "kelpie_vm_fork", error);
    if (status == 0) {
        status = fork_take(vm, &taken, error);
    }
    if (status < 0) {
        return status;
    }
    status = fork_config(vm->kelpie, config, taken.name, &own, error);
    if (status == 0) {
        own->values.is_snapshot_transient = true;
        status = fork_with(vm, taken.name, own, names, count, out, error);
    }
    kelpie_config_destroy(own);
    return status;
}
