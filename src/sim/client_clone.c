/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_clone.h.
 */
#include "sim/client_clone.h"

#include <string.h>

#include "core/text.h"
#include "kelpie.h"
#include "sim/truth.h"
#include "sim/world.h"

#define CLONE_COUNT_MAX 3u
#define CLONE_AGAIN_OF 3u /* one in so many is forked again */
#define CLONE_MEMORY_MIB 128u
#define CLONE_NAME_BYTES 65u

struct clones {
    struct sim_world *world; /* borrowed */
    struct kelpie_vm *vms[CLONE_COUNT_MAX];
    char host_names[CLONE_COUNT_MAX][CLONE_NAME_BYTES];
    uint32_t count;
    uint64_t value; /* of the operation */
    bool is_calm;
};

static void clone_failed(const struct clones *clones, const char *what, int status,
                         const struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    if (clones->is_calm) {
        kelpie__sim_world_fail(clones->world, "invariant 28: %s: %s, %.200s", what,
                               kelpie_code_name(status), error->message);
    }
}

static int clone_make(struct kelpie *kelpie, struct kelpie_vm *vm, uint32_t count, bool is_durable,
                      struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_config *config = NULL;
    int status = kelpie_config_create(kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, CLONE_MEMORY_MIB);
    kelpie_config_set_ephemeral(config, !is_durable);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_OWNED);
    status = kelpie_vm_fork(vm, config, NULL, count, out, error);
    kelpie_config_destroy(config);
    return status;
}

/* It says a word of this fork's, and its name, which none of the others has. */
static void clone_use(struct clones *clones, uint32_t index) {
    static const char *const argv[] = {"cat", "/proc/sys/kernel/hostname", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = clones->vms[index];
    char *name = clones->host_names[index];
    KELPIE_ASSERT(index < clones->count && vm != NULL);
    int status = kelpie_vm_inspect(vm, &info, &error);
    if (status == 0 && info.state == KELPIE_VM_PAUSED) { /* as its source was */
        status = kelpie_vm_resume(vm, &error);
    }
    if (status == 0) {
        status = kelpie_vm_exec(vm, &command, &result, &error);
    }
    if (status < 0) {
        clone_failed(clones, "a command in a forked VM", status, &error);
        return;
    }
    size_t count = (size_t)kelpie__min_u64(result.stdout_count, CLONE_NAME_BYTES - 1);
    memcpy(name, result.stdout_bytes, count);
    name[count] = '\0';
    kelpie_exec_result_release(&result);
    for (uint32_t i = 0; i < clones->count; i += 1) {
        bool is_same = i != index && name[0] != '\0' && strcmp(clones->host_names[i], name) == 0;
        if (is_same && !kelpie__sim_truth_has_lied(clones->world)) {
            kelpie__sim_world_fail(clones->world, "invariant 21: two forks are both called %.60s",
                                   name);
        }
    }
}

static void clone_end(struct clones *clones) {
    KELPIE_ASSERT(clones->count <= CLONE_COUNT_MAX);
    for (uint32_t i = 0; i < clones->count; i += 1) {
        struct kelpie_error error = {0};
        bool is_deleted = (clones->value / 2 + i) % 2 == 0; /* else it goes with its handle */
        int status = is_deleted ? kelpie_vm_delete(clones->vms[i], true, &error) : 0;
        if (status < 0) {
            clone_failed(clones, "the deletion of a forked VM", status, &error);
        }
        kelpie_vm_close(clones->vms[i]);
    }
    clones->count = 0;
}

/* A fork of a fork. */
static void clone_again(struct kelpie *kelpie, const struct clones *clones, bool is_durable) {
    KELPIE_ASSERT(clones->count > 0 && clones->count <= CLONE_COUNT_MAX);
    struct clones more = {
        .world = clones->world, .count = 1, .value = clones->value, .is_calm = clones->is_calm};
    struct kelpie_error error = {0};
    int status = clone_make(kelpie, clones->vms[0], 1, is_durable, more.vms, &error);
    if (status < 0) {
        clone_failed(clones, "a fork of a fork", status, &error);
        return;
    }
    clone_use(&more, 0);
    clone_end(&more);
}

int kelpie__sim_clone(struct sim_world *world, struct kelpie *kelpie, struct kelpie_vm *vm,
                      const struct sim_operation *operation, bool is_calm,
                      struct kelpie_error *error) {
    struct clones clones = {.world = world, .value = operation->value, .is_calm = is_calm};
    uint32_t count = 1 + (uint32_t)(operation->value % CLONE_COUNT_MAX);
    bool is_durable = operation->value / 4 % 2 == 0;
    int status = clone_make(kelpie, vm, count, is_durable, clones.vms, error);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(count <= CLONE_COUNT_MAX);
    clones.count = count;
    for (uint32_t i = 0; i < count; i += 1) {
        clone_use(&clones, i);
    }
    if (operation->value % CLONE_AGAIN_OF == 0) {
        clone_again(kelpie, &clones, is_durable);
    }
    clone_end(&clones);
    return 0;
}
