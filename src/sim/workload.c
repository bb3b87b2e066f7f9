/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See workload.h.
 */
#include "sim/workload.h"

#include <stdio.h>

#include "core/limits.h"
#include "sim/fault.h"

#define WORKLOAD_HERD_OF 5u /* one group of operations in so many */
#define WORKLOAD_LOOK_OF 6u /* one operation in so many only looks */
#define WORKLOAD_POOL_OF                                                                           \
    12u                       /* besides one in so many, or a group, something is done with a pool \
                               */
#define WORKLOAD_CLONE_OF 16u /* likewise, a VM that lives is forked */
#define WORKLOAD_PREPARE_OF 6u /* in one group of operations in so many, its forks are prepared */
#define WORKLOAD_PREPARE_GROUP 8u
#define WORKLOAD_HASTE_OF 4u  /* one in so many follows the one before at once */
#define WORKLOAD_CLONE_MAX 3u /* VMs that are only made from snapshots */
#define WORKLOAD_SHORT_STOP_OF 3u
#define WORKLOAD_SHORT_STOP_MS 3000u
#define WORKLOAD_REST_BITS 11u /* the others: after 1 to 2,048 ms, short ones as often as long */

static const char *const command_names[SIM_COMMAND_COUNT] = {
    [SIM_COMMAND_ECHO] = "echo",     [SIM_COMMAND_CODE] = "code",
    [SIM_COMMAND_SIGNAL] = "signal", [SIM_COMMAND_TIMEOUT] = "timeout",
    [SIM_COMMAND_SOURCE] = "source", [SIM_COMMAND_CAT] = "cat",
    [SIM_COMMAND_SLEEP] = "sleep",   [SIM_COMMAND_MISSING] = "missing",
    [SIM_COMMAND_SLOW] = "slow",     [SIM_COMMAND_ATTACH] = "attach",
    [SIM_COMMAND_DEAF] = "deaf",
};

static const char *const look_names[SIM_LOOK_COUNT] = {
    [SIM_LOOK_INSPECT] = "inspect",
    [SIM_LOOK_STATS] = "stats",
    [SIM_LOOK_HEALTH] = "health",
    [SIM_LOOK_LIST] = "list",
    [SIM_LOOK_EVENTS] = "events",
    [SIM_LOOK_REOPEN] = "reopen",
    [SIM_LOOK_REST] = "rest",
    [SIM_LOOK_POOL_MAKE] = "pool-make",
    [SIM_LOOK_POOL_CLAIM] = "pool-claim",
    [SIM_LOOK_POOL_REMOVE] = "pool-remove",
    [SIM_LOOK_POOL_LOOK] = "pool-look",
};

const char *kelpie__sim_command_name(uint32_t command) {
    KELPIE_ASSERT(command < SIM_COMMAND_COUNT && command_names[command] != NULL);
    return command_names[command];
}

const char *kelpie__sim_look_name(uint32_t look) {
    KELPIE_ASSERT(look < SIM_LOOK_COUNT && look_names[look] != NULL);
    return look_names[look];
}

/* The snapshots that there may be when all went well. */
struct album {
    uint32_t counts[SIM_SWARM_VM_MAX];
    uint32_t numbers[SIM_SWARM_VM_MAX][SIM_MODEL_SNAPSHOT_MAX];
};

/* A number of its own for each question of each operation: an operation that is left out changes no
 * other. */
static uint64_t draw(const struct sim_swarm *swarm, uint64_t index, const char *question,
                     uint64_t bound) {
    KELPIE_ASSERT(bound > 0);
    return kelpie__sim_fault_hash(swarm->seed, question, "workload", index, 0) % bound;
}

bool kelpie__sim_workload_is_owned(const struct sim_swarm *swarm, uint32_t vm) {
    return swarm->owner_count > 0 && draw(swarm, vm, "is-owned", 2) == 0;
}

uint32_t kelpie__sim_workload_vm_count(const struct sim_swarm *swarm) {
    uint32_t count = swarm->vm_count + WORKLOAD_CLONE_MAX;
    return count < SIM_SWARM_VM_MAX ? count : SIM_SWARM_VM_MAX;
}

uint64_t kelpie__sim_workload_stop_ms(const struct sim_swarm *swarm,
                                      const struct sim_operation *operation) {
    bool is_short = operation->value % WORKLOAD_SHORT_STOP_OF == 0;
    uint64_t timeout_ms = is_short ? WORKLOAD_SHORT_STOP_MS : KELPIE_STOP_TIMEOUT_MS_DEFAULT;
    KELPIE_ASSERT(swarm->timeout_tenths > 0);
    return timeout_ms * swarm->timeout_tenths / 10;
}

static enum sim_model_op draw_op(const struct sim_swarm *swarm, uint64_t index) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < SIM_MODEL_OP_COUNT; i += 1) {
        total += swarm->weights[i];
    }
    uint64_t at = draw(swarm, index, "op", total);
    uint32_t op = 0;
    while (at >= swarm->weights[op]) { /* bound: the sum of the weights is above `at` */
        at -= swarm->weights[op];
        op += 1;
        KELPIE_ASSERT(op < SIM_MODEL_OP_COUNT);
    }
    return (enum sim_model_op)op;
}

/* Without rests a client would be through with refusals before its first guest has booted. */
static uint16_t draw_rest(const struct sim_swarm *swarm, uint64_t index) {
    if (draw(swarm, index, "haste", WORKLOAD_HASTE_OF) == 0) {
        return 0;
    }
    return (uint16_t)(1u << draw(swarm, index, "rest", WORKLOAD_REST_BITS + 1));
}

/* One that is new in most cases. */
static uint8_t draw_target(const struct sim_swarm *swarm, uint64_t index, uint32_t vm) {
    uint32_t count = kelpie__sim_workload_vm_count(swarm);
    uint64_t target = swarm->vm_count + draw(swarm, index, "clone", WORKLOAD_CLONE_MAX);
    if (target >= count || draw(swarm, index, "any-target", 4) == 0) {
        target = draw(swarm, index, "target", count);
    }
    return (uint8_t)(target == vm ? (target + 1) % count : target);
}

/* Which snapshot it is. Where there is none yet, one is taken; where there are enough, one is used.
 */
static void draw_snapshot(const struct sim_swarm *swarm, uint64_t index, struct album *album,
                          struct sim_operation *operation) {
    uint32_t *count = &album->counts[operation->vm];
    uint32_t *numbers = album->numbers[operation->vm];
    if (*count == 0) {
        operation->op = SIM_MODEL_SNAPSHOT;
    } else if (*count == SIM_MODEL_SNAPSHOT_MAX && operation->op == SIM_MODEL_SNAPSHOT) {
        operation->op = SIM_MODEL_RESTORE;
    }
    if (operation->op == SIM_MODEL_SNAPSHOT) {
        operation->snapshot = kelpie__to_u32(operation->value);
        numbers[*count] = operation->snapshot;
        *count += 1;
        return;
    }
    uint64_t chosen = draw(swarm, index, "snapshot", *count);
    operation->snapshot = numbers[chosen];
    if (operation->op == SIM_MODEL_FORGET && draw(swarm, index, "again", 4) > 0) {
        *count -= 1; /* else it will be asked for once more */
        numbers[chosen] = numbers[*count];
    }
    if (kelpie__sim_model_makes_from(operation->op)) {
        operation->target = draw_target(swarm, index, operation->vm);
    }
}

/* What is done besides: it takes no operation's place, so that there is as much to do with VMs in a
 * run as without it. Gives how many. Some operations on pools come in herds: several claim at once,
 * or claim while the pool is removed. */
static uint32_t draw_besides(const struct sim_swarm *swarm, uint32_t index,
                             struct sim_operation *out) {
    static const enum sim_look kinds[] = {
        SIM_LOOK_POOL_CLAIM, SIM_LOOK_POOL_CLAIM, SIM_LOOK_POOL_CLAIM,  SIM_LOOK_POOL_CLAIM,
        SIM_LOOK_POOL_CLAIM, SIM_LOOK_POOL_MAKE,  SIM_LOOK_POOL_REMOVE, SIM_LOOK_POOL_LOOK};
    uint32_t herd = SIM_HERD_MAX / 2 + index / SIM_HERD_SIZE;
    uint64_t value = SIM_OPERATION_MAX + index; /* nobody else's */
    *out = (struct sim_operation){
        .client = (uint8_t)draw(swarm, index, "client-besides", swarm->client_count),
        .rest_ms = draw_rest(swarm, index),
        .value = value,
    };
    bool is_herd = swarm->client_count > 1 && draw(swarm, herd, "pool-herd", WORKLOAD_POOL_OF) == 0;
    if (swarm->pool_size > 0 && (is_herd || draw(swarm, index, "pool", WORKLOAD_POOL_OF) == 0)) {
        out->is_look = true;
        out->kind = (uint8_t)kinds[draw(swarm, index, "pool-kind", KELPIE_ARRAY_COUNT(kinds))];
        out->vm = (uint8_t)(draw(swarm, is_herd ? herd : index, "which-pool", 4) == 0 ? 1 : 0);
        out->herd = is_herd ? herd : 0;
        return 1;
    }
    out->op = SIM_MODEL_CLONE;
    out->vm = (uint8_t)draw(swarm, index, "clone-of", swarm->vm_count);
    return swarm->has_clones && draw(swarm, index, "is-clone", WORKLOAD_CLONE_OF) == 0 ? 1 : 0;
}

/* Forks that wait are of one handle: one client prepares them, and forks the same VM a little
 * later, while others do with it what they like. Only who was not booted has any. Gives how many.
 */
static uint32_t draw_prepared(const struct sim_swarm *swarm, uint32_t index,
                              struct sim_operation *out) {
    uint32_t group = index / WORKLOAD_PREPARE_GROUP;
    uint32_t place = index % WORKLOAD_PREPARE_GROUP;
    bool is_prepare = place == 0 || (place == 4 && draw(swarm, group, "prepare-more", 2) == 0);
    bool is_fork = place == 2 || place == 6;
    bool may_be_based = draw(swarm, group, "prepare-based", 4) > 0;
    uint32_t first = may_be_based ? swarm->vm_count : 0;
    uint32_t count = kelpie__sim_workload_vm_count(swarm);
    if (!swarm->has_clones || (!is_prepare && !is_fork) ||
        draw(swarm, group, "prepares", WORKLOAD_PREPARE_OF) > 0) {
        return 0;
    }
    first = first < count ? first : 0;
    *out = (struct sim_operation){
        .client = (uint8_t)draw(swarm, group, "client-prepares", swarm->client_count),
        .vm = (uint8_t)(first + draw(swarm, group, "prepared", count - first)),
        .op = is_prepare ? SIM_MODEL_PREPARE : SIM_MODEL_CLONE,
        .rest_ms = draw_rest(swarm, index),
        /* nobody else's, and a fork that gives no configuration (client_clone.c) */
        .value = 16 * (2 * SIM_OPERATION_MAX + index) + draw(swarm, index, "prepare-value", 8),
    };
    return 1;
}

static struct sim_operation draw_operation(const struct sim_swarm *swarm, uint32_t index,
                                           struct album *album) {
    bool has_clones =
        swarm->weights[SIM_MODEL_FORK] > 0 || swarm->weights[SIM_MODEL_CREATE_FROM] > 0;
    uint32_t vm_count = has_clones ? kelpie__sim_workload_vm_count(swarm) : swarm->vm_count;
    struct sim_operation operation = {
        .client = (uint8_t)draw(swarm, index, "client", swarm->client_count),
        .vm = (uint8_t)draw(swarm, index, "vm", vm_count),
        .rest_ms = draw_rest(swarm, index),
        .value = index + 1,
    };
    if (draw(swarm, index, "look", WORKLOAD_LOOK_OF) == 0) {
        operation.is_look = true;
        operation.kind = (uint8_t)draw(swarm, index, "kind", SIM_LOOK_POOL_MAKE);
        return operation;
    }
    operation.op = draw_op(swarm, index);
    if (swarm->client_count > 1 &&
        draw(swarm, index / SIM_HERD_SIZE, "herd", WORKLOAD_HERD_OF) == 0) {
        operation.herd = 1 + index / SIM_HERD_SIZE;
        operation.vm = (uint8_t)draw(swarm, operation.herd, "herd-vm", swarm->vm_count);
        operation.op = draw(swarm, index, "herd-other", 4) == 0 ? operation.op
                                                                : draw_op(swarm, operation.herd);
    }
    if (operation.op == SIM_MODEL_EXEC) {
        operation.kind = (uint8_t)draw(swarm, index, "kind", SIM_COMMAND_COUNT);
    }
    if (kelpie__sim_model_is_of_snapshot(operation.op)) {
        draw_snapshot(swarm, index, album, &operation);
    }
    return operation;
}

/* Every VM is made, and most are started, by the first operations: a run of refusals teaches
 * little. */
uint32_t kelpie__sim_workload_draw(const struct sim_swarm *swarm, struct sim_operation *out,
                                   uint32_t capacity) {
    struct album album = {0};
    uint32_t count = 0;
    KELPIE_ASSERT(swarm->vm_count > 0 && swarm->client_count > 0);
    for (uint32_t vm = 0; vm < swarm->vm_count && count + 2 <= capacity; vm += 1) {
        uint8_t client = (uint8_t)draw(swarm, vm, "maker", swarm->client_count);
        out[count] = (struct sim_operation){
            .client = client, .vm = (uint8_t)vm, .op = SIM_MODEL_CREATE, .value = count + 1};
        count += 1;
        if (draw(swarm, vm, "is-started", 8) > 0) {
            out[count] = (struct sim_operation){
                .client = client, .vm = (uint8_t)vm, .op = SIM_MODEL_START, .value = count + 1};
            count += 1;
        }
    }
    uint32_t first = count;
    if (swarm->pool_size > 0 && count < capacity && draw(swarm, 0, "has-pool", 2) == 0) {
        out[count] = (struct sim_operation){
            .client = (uint8_t)draw(swarm, 0, "pool-maker", swarm->client_count),
            .is_look = true,
            .kind = SIM_LOOK_POOL_MAKE,
            .value = SIM_OPERATION_MAX};
        count += 1;
    }
    for (uint32_t i = 0; i < swarm->operation_count && count + 3 <= capacity; i += 1) {
        count += draw_besides(swarm, first + i, &out[count]);
        count += draw_prepared(swarm, first + i, &out[count]);
        out[count] = draw_operation(swarm, first + i, &album);
        count += 1;
    }
    return count;
}

void kelpie__sim_operation_text(const struct sim_operation *operation, char *out, size_t capacity) {
    const char *verb =
        operation->is_look ? look_names[operation->kind] : kelpie__sim_model_op_name(operation->op);
    bool is_exec = !operation->is_look && operation->op == SIM_MODEL_EXEC;
    bool has_snapshot = !operation->is_look && operation->snapshot > 0;
    bool has_target = !operation->is_look && kelpie__sim_model_makes_from(operation->op);
    char snapshot[48] = "";
    if (has_snapshot && has_target) {
        kelpie__ignore(snprintf(snapshot, sizeof(snapshot), " snapshot-%u as vm-%u of",
                                operation->snapshot, operation->target));
    } else if (has_snapshot) {
        kelpie__ignore(snprintf(snapshot, sizeof(snapshot), " snapshot-%u", operation->snapshot));
    }
    bool is_of_pool = operation->is_look && operation->kind >= SIM_LOOK_POOL_MAKE;
    int length =
        snprintf(out, capacity, "client %u: %s%s%s%s on %s-%u (value %llu)", operation->client,
                 verb, is_exec ? " " : "", is_exec ? command_names[operation->kind] : "", snapshot,
                 is_of_pool ? "pool" : "vm", operation->vm, (unsigned long long)operation->value);
    KELPIE_ASSERT(length > 0);
}
