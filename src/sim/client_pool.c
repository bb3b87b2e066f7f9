/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_pool.h.
 */
#include "sim/client_pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "kelpie.h"
#include "os/os_mark.h"
#include "sim/fault.h"
#include "sim/lasting.h"
#include "sim/machine.h"
#include "sim/truth.h"

#define POOL_MEMORY_MIB 128u
#define POOL_WAIT_MS 20000u
#define POOL_LEASE_MS 25000u /* longer than the slack: one that was cut short is seen to last */
#define POOL_SHORT_LEASE_MS 300u
#define POOL_SLACK_NS (10 * KELPIE_NS_PER_S) /* after a lease's end */
/* beyond a call's own time: kelpie-pack may take 110 s, a keeper is started, members are asked */
#define POOL_CALL_MS 180000u
#define POOL_SCRIPT_BYTES 128u

/* ---- what may be wrong ----------------------------------------------------------------------- */

static bool has_fired(struct sim_world *world, const char *class) {
    return kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), class);
}

static struct sim_world *world_of(const struct sim_pool_client *client) {
    return client->process->machine->world;
}

static void pool_note(const struct sim_pool_client *client, const struct sim_operation *operation,
                      int status, const struct kelpie_error *error) {
    char text[512];
    kelpie__ignore(kelpie__text_format(
        text, sizeof(text),
        "client %u: %s on pool-%u (value %llu): "
        "%s%s%.200s",
        operation->client, kelpie__sim_look_name(operation->kind), operation->vm % SIM_POOL_COUNT,
        (unsigned long long)operation->value, kelpie_code_name(status), status < 0 ? ", " : "",
        status < 0 ? error->message : ""));
    kelpie__sim_world_emit(
        world_of(client),
        &(struct sim_event){.type = SIM_EVENT_NOTE, .process = client->process, .detail = text});
}

/* `allowed`: codes that are no failure even where nothing goes wrong: the pool is there already, is
 * gone, or has nobody. begun_ns, limit_ms: 0 is no limit. */
static void pool_answered(const struct sim_pool_client *client,
                          const struct sim_operation *operation, int status,
                          const struct kelpie_error *error, uint64_t allowed, int64_t begun_ns,
                          uint64_t limit_ms) {
    struct sim_world *world = world_of(client);
    const char *name = kelpie__sim_look_name(operation->kind);
    int64_t took_ms = (kelpie__sim_now(world) - begun_ns) / KELPIE_NS_PER_MS;
    bool is_slowed = has_fired(world, "stop") || has_fired(world, "delay") ||
                     client->swarm->options.cost_factor > 10;
    pool_note(client, operation, status, error);
    if (status < 0 && (error->code != status || error->message[0] == '\0')) {
        kelpie__sim_world_fail(world, "contract: %s answers %s, and its error says %s, \"%.100s\"",
                               name, kelpie_code_name(status), kelpie_code_name(error->code),
                               error->message);
    }
    if (status < 0 && client->swarm->is_calm && (allowed & UINT64_C(1) << -status) == 0) {
        kelpie__sim_world_fail(world, "invariant 28: %s on pool-%u answered %s, %.200s", name,
                               operation->vm % SIM_POOL_COUNT, kelpie_code_name(status),
                               error->message);
    }
    if (took_ms > (int64_t)limit_ms && !is_slowed) {
        kelpie__sim_world_fail(world, "invariant 8: %s took %lld ms, its deadlines allow %llu ms",
                               name, (long long)took_ms, (unsigned long long)limit_ms);
    }
}

#define ALLOW(name) (UINT64_C(1) << -(KELPIE_E_##name))

/* ---- making, removing, looking --------------------------------------------------------------- */

static uint64_t scaled_ms(const struct sim_pool_client *client, uint64_t timeout_ms) {
    return timeout_ms * client->swarm->timeout_tenths / 10 + 1;
}

static struct kelpie_pool **handle_of(struct sim_pool_client *client,
                                      const struct sim_operation *operation, char out_name[16]) {
    uint32_t index = operation->vm % SIM_POOL_COUNT;
    bool fits = kelpie__text_format(out_name, 16, "pool-%u", index);
    KELPIE_ASSERT(fits);
    return &client->handles[index];
}

static void let_go(struct kelpie_pool **handle) {
    kelpie_pool_close(*handle);
    *handle = NULL;
}

static int pool_make(struct sim_pool_client *client, const struct sim_operation *operation,
                     struct kelpie_error *error) {
    char name[16];
    struct kelpie_config *config = NULL;
    struct kelpie_pool **handle = handle_of(client, operation, name);
    struct kelpie_pool *made = NULL;
    const struct kelpie_pool_options options = {
        .struct_size = sizeof(options),
        .size = client->swarm->pool_size > 0 ? client->swarm->pool_size : 1,
        .concurrency = 1 + (uint32_t)(operation->value / 2 % 2),
        .lifetime = operation->value % 2 == 0 ? KELPIE_LIFETIME_DETACHED : KELPIE_LIFETIME_OWNED,
        .timeout_ms = scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT)};
    int status = kelpie_config_create(client->kelpie, &config, error);
    if (status == 0) {
        kelpie_config_set_cpus(config, 1);
        kelpie_config_set_memory_mib(config, POOL_MEMORY_MIB);
        kelpie_config_set_template(config, false);
        client->pools->maker_count += 1;
        status = kelpie_pool_create(client->kelpie, name, config, &options, &made, error);
        if (status == 0 && client->pools->maker_count == 1) {
            kelpie__sim_lasting_pool(world_of(client), name);
        }
        client->pools->maker_count -= 1;
    }
    kelpie_config_destroy(config);
    if (status == 0) {
        let_go(handle);
        *handle = made;
    }
    return status;
}

static int pool_open(struct sim_pool_client *client, const struct sim_operation *operation,
                     struct kelpie_error *error) {
    char name[16];
    struct kelpie_pool **handle = handle_of(client, operation, name);
    return *handle != NULL ? 0 : kelpie_pool_open(client->kelpie, name, handle, error);
}

static int pool_remove(struct sim_pool_client *client, const struct sim_operation *operation,
                       struct kelpie_error *error) {
    char name[16];
    struct kelpie_pool **handle = handle_of(client, operation, name);
    int status = pool_open(client, operation, error);
    if (status == 0) {
        status = kelpie_pool_remove(*handle, error);
        let_go(handle);
    }
    return status;
}

/* Nobody lives on after his lease. */
static void check_leases(struct sim_pool_client *client) {
    KELPIE_ASSERT(client->kelpie != NULL);
    struct sim_world *world = world_of(client);
    struct sim_pools *pools = client->pools;
    for (uint32_t i = 0; i < SIM_POOL_LEASED_MAX; i += 1) {
        struct sim_pool_lease *lease = &pools->leased[i];
        bool is_over =
            lease->name[0] != '\0' && kelpie__sim_now(world) > lease->end_ns + POOL_SLACK_NS;
        if (!is_over || has_fired(world, "stop") || has_fired(world, "delay")) {
            continue;
        }
        struct kelpie_vm *vm = NULL;
        if (kelpie_vm_open(client->kelpie, lease->name, &vm, NULL) == 0) {
            kelpie__sim_world_fail(world, "invariant 23: the lease of %s is over, and it is there",
                                   lease->name);
            kelpie_vm_close(vm);
        }
        lease->name[0] = '\0';
    }
}

static int pool_look(struct sim_pool_client *client, const struct sim_operation *operation,
                     struct kelpie_error *error) {
    struct kelpie_pool_info info = {.struct_size = sizeof(info)};
    struct kelpie_pool_info *list = NULL;
    char name[16];
    size_t count = 0;
    check_leases(client);
    if (kelpie_pool_list(client->kelpie, &list, &count, NULL) == 0) {
        kelpie_pool_list_free(client->kelpie, list, count);
    }
    struct kelpie_pool **handle = handle_of(client, operation, name);
    int status = pool_open(client, operation, error);
    status = status == 0 ? kelpie_pool_inspect(*handle, &info, error) : status;
    /* Where somebody is killed, notes of the dead count until they are met, and what a dead keeper
     * had just offered comes on top. */
    if (status == 0 && client->swarm->is_calm && info.ready_count > info.size) {
        kelpie__sim_world_fail(world_of(client), "invariant 23: %s has %u members, its size is %u",
                               name, info.ready_count, info.size);
    }
    if (status == KELPIE_E_NOT_FOUND) {
        let_go(handle);
    }
    return status;
}

/* ---- claiming -------------------------------------------------------------------------------- */

void kelpie__sim_pool_note_taken(struct sim_pools *pools, struct sim_world *world, const char *id) {
    KELPIE_ASSERT(strlen(id) < sizeof(pools->taken[0]));
    for (uint32_t i = 0; i < pools->taken_count; i += 1) {
        if (strcmp(pools->taken[i], id) == 0) {
            kelpie__sim_world_fail(world, "invariant 23: VM %s was given twice", id);
        }
    }
    if (pools->taken_count < SIM_POOL_TAKEN_MAX) {
        kelpie__ignore(
            kelpie__text_copy(pools->taken[pools->taken_count], sizeof(pools->taken[0]), id));
        pools->taken_count += 1;
    }
}

/* Its guest is a fresh one, and answers. */
static int use_member(struct sim_pool_client *client, struct kelpie_vm *vm,
                      const struct sim_operation *operation, struct kelpie_error *error) {
    struct sim_world *world = world_of(client);
    char script[POOL_SCRIPT_BYTES];
    char word[32];
    bool fits =
        kelpie__text_format(word, sizeof(word), "new-%llu", (unsigned long long)operation->value) &&
        kelpie__text_format(script, sizeof(script),
                            "test ! -e /tmp/claimed || echo used; "
                            "echo %s > /tmp/claimed; cat /tmp/claimed",
                            word);
    KELPIE_ASSERT(fits);
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_vm_exec(vm, &command, &result, error);
    if (status < 0) {
        return status;
    }
    size_t length = strlen(word);
    bool is_new =
        result.stdout_count == length + 1 && memcmp(result.stdout_bytes, word, length) == 0;
    bool is_disturbed = kelpie__sim_truth_has_lied(world) || has_fired(world, "guest") ||
                        has_fired(world, "memory") || has_fired(world, "process") ||
                        has_fired(world, "disk") || has_fired(world, "kill") ||
                        has_fired(world, "stream");
    bool is_used = strncmp(result.stdout_bytes, "used", strlen("used")) == 0;
    if (is_used || (!is_new && !is_disturbed)) {
        kelpie__sim_world_fail(world, "invariant 23: a VM that was claimed %s: \"%.40s\"",
                               is_used ? "was used before" : "does not do what it is told",
                               result.stdout_bytes);
    }
    kelpie_exec_result_release(&result);
    return 0;
}

static void note_lease(struct sim_pool_client *client, const char *name, uint64_t lease_ms) {
    struct sim_pools *pools = client->pools;
    struct sim_pool_lease *lease = &pools->leased[pools->leased_count % SIM_POOL_LEASED_MAX];
    pools->leased_count += 1;
    kelpie__ignore(kelpie__text_copy(lease->name, sizeof(lease->name), name));
    lease->end_ns = kelpie__sim_now(world_of(client)) + (int64_t)lease_ms * KELPIE_NS_PER_MS;
}

/* One of the ways in which a taker is done with it. */
static void part_with(struct sim_pool_client *client, struct kelpie_vm *vm,
                      const struct sim_operation *operation, bool has_lease) {
    struct kelpie_stop_result stopped = {0};
    switch (operation->value / 3 % 4) {
    case 0:
        kelpie__ignore(kelpie_vm_delete(vm, true, NULL)); /* liveness finds what is left */
        break;
    case 1:
        kelpie__ignore(kelpie_vm_stop(vm, 0, &stopped, NULL));
        break;
    case 2:
        if (kelpie_vm_set_lease(vm, POOL_SHORT_LEASE_MS, NULL) == 0) {
            note_lease(client, kelpie_vm_name(vm), POOL_SHORT_LEASE_MS);
            has_lease = false;
        }
        break;
    default:
        break;
    }
    if (has_lease) {
        note_lease(client, kelpie_vm_name(vm), POOL_LEASE_MS);
    }
    kelpie_vm_close(vm);
}

static int pool_claim(struct sim_pool_client *client, const struct sim_operation *operation,
                      struct kelpie_error *error) {
    char name[16];
    struct kelpie_vm *vm = NULL;
    struct kelpie_pool **handle = handle_of(client, operation, name);
    KELPIE_ASSERT(client->kelpie != NULL);
    bool has_lease = operation->value % 3 == 0;
    const struct kelpie_claim_options options = {
        .struct_size = sizeof(options),
        .lifetime = has_lease ? KELPIE_LIFETIME_DETACHED : KELPIE_LIFETIME_OWNED,
        .lease_ms = has_lease ? POOL_LEASE_MS : 0,
        .wait_ms = operation->value % 2 == 0 ? 0 : scaled_ms(client, POOL_WAIT_MS)};
    int status = pool_open(client, operation, error);
    if (status == 0) {
        status = kelpie_pool_claim(*handle, &options, &vm, error);
    }
    if (status < 0) {
        if (status == KELPIE_E_NOT_FOUND) {
            let_go(handle);
        }
        return status;
    }
    kelpie__sim_pool_note_taken(client->pools, world_of(client), kelpie_vm_id(vm));
    status = use_member(client, vm, operation, error);
    if (status == KELPIE_E_NOT_FOUND && client->swarm->is_calm) { /* not the pool's answer */
        kelpie__sim_world_fail(world_of(client), "invariant 23: a VM that was claimed is gone: %s",
                               error->message);
    }
    part_with(client, vm, operation, has_lease);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------- */

bool kelpie__sim_pool_is_operation(const struct sim_operation *operation) {
    return operation->is_look && operation->kind >= SIM_LOOK_POOL_MAKE &&
           operation->kind <= SIM_LOOK_POOL_LOOK;
}

void kelpie__sim_pool_do(struct sim_pool_client *client, const struct sim_operation *operation) {
    struct kelpie_error error = {0};
    int64_t begun_ns = kelpie__sim_now(world_of(client));
    uint64_t limit_ms = scaled_ms(client, KELPIE_BOOT_TIMEOUT_MS_DEFAULT) + POOL_CALL_MS;
    uint64_t allowed = ALLOW(NOT_FOUND);
    KELPIE_ASSERT(client->pools != NULL && client->swarm != NULL);
    int status = 0;
    KELPIE_ASSERT(kelpie__sim_pool_is_operation(operation));
    if (operation->kind == SIM_LOOK_POOL_MAKE) {
        allowed |= ALLOW(EXISTS);
        status = pool_make(client, operation, &error);
    } else if (operation->kind == SIM_LOOK_POOL_CLAIM) {
        limit_ms += KELPIE_EXEC_TIMEOUT_MS_DEFAULT + KELPIE_EXEC_BACKSTOP_MS +
                    scaled_ms(client, POOL_WAIT_MS);
        status = pool_claim(client, operation, &error);
    } else if (operation->kind == SIM_LOOK_POOL_REMOVE) {
        status = pool_remove(client, operation, &error);
    } else {
        status = pool_look(client, operation, &error);
    }
    pool_answered(client, operation, status, &error, allowed, begun_ns, limit_ms);
}
