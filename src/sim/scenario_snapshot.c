/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The calls of a scenario that are about snapshots: see scenario_step.h. There is one snapshot in a
 * scenario, and one other VM that may be made from it.
 */
#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "sim/client_snapshot.h"
#include "sim/scenario_step.h"

#define SNAPSHOT_NUMBER SIM_SCENARIO_SNAPSHOT
#define SNAPSHOT_MEMORY_MIB 128u

/* Another VM of the same kind. */
static uint32_t other_vm(const struct sim_player *player) {
    const struct sim_scene *scene = player->scene;
    uint32_t vm = scene->vm + 1;
    while (vm + 1 < SIM_SWARM_VM_MAX &&
           kelpie__sim_workload_is_owned(&scene->swarm, vm) != scene->options->scenario->is_owned) {
        vm += 1;
    }
    KELPIE_ASSERT(vm < SIM_SWARM_VM_MAX && vm != scene->vm);
    return vm;
}

static int ask_vm(struct sim_player *player, const struct sim_operation *operation,
                  uint64_t *out_result, struct kelpie_error *error) {
    *out_result = 0;
    return kelpie__sim_snapshot_ask(player->vm, operation, 0, error);
}

static int ask_forget(struct sim_player *player, const struct sim_operation *operation,
                      uint64_t *out_result, struct kelpie_error *error) {
    *out_result = 0;
    return kelpie__sim_snapshot_forget(player->kelpie, operation, error);
}

static int ask_make(struct sim_player *player, const struct sim_operation *operation,
                    uint64_t *out_result, struct kelpie_error *error) {
    char name[16];
    struct kelpie_config *config = NULL;
    struct kelpie_vm *made = NULL;
    *out_result = 0;
    int status = kelpie_config_create(player->kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, SNAPSHOT_MEMORY_MIB);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    if (player->scene->options->scenario->has_disk) {
        kelpie_config_set_disk_size_mib(config, KELPIE_DISK_SIZE_MIB_MIN);
    }
    bool fits = kelpie__text_format(name, sizeof(name), "vm-%u", operation->target);
    KELPIE_ASSERT(fits && !player->scene->options->scenario->is_owned);
    status = kelpie__sim_snapshot_make(player->kelpie, config, name, operation, &made, error);
    KELPIE_ASSERT((status == 0) == (made != NULL));
    kelpie_config_destroy(config);
    kelpie_vm_close(made);
    return status;
}

bool kelpie__sim_step_snapshot(struct sim_player *player) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){.op = SIM_MODEL_SNAPSHOT,
                                   .snapshot = SNAPSHOT_NUMBER,
                                   .deadline_ms = KELPIE_SNAPSHOT_TIMEOUT_MS,
                                   .codes = SIM_CODE(EXISTS) | SIM_CODE(SNAPSHOT) |
                                            SIM_CODE(SNAPSHOT_TOO_LARGE) | SIM_CODE(RESUME) |
                                            SIM_CODE(UNSUPPORTED),
                                   .ask = ask_vm});
}

bool kelpie__sim_step_restore(struct sim_player *player) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){.op = SIM_MODEL_RESTORE,
                                   .snapshot = SNAPSHOT_NUMBER,
                                   .deadline_ms = KELPIE_RESTORE_CHECK_TIMEOUT_MS +
                                                  KELPIE_BOOT_TIMEOUT_MS_DEFAULT,
                                   .codes = SIM_CODE(RESTORE) | SIM_CODE(SNAPSHOT_CORRUPTED) |
                                            SIM_CODE(SNAPSHOT_INCOMPATIBLE) | SIM_CODE(UNSUPPORTED),
                                   .ask = ask_vm});
}

bool kelpie__sim_step_forget(struct sim_player *player) {
    return kelpie__sim_step_judged(player, &(struct sim_step){.op = SIM_MODEL_FORGET,
                                                              .snapshot = SNAPSHOT_NUMBER,
                                                              .value = 1, /* not verified first */
                                                              .ask = ask_forget});
}

bool kelpie__sim_step_make_from(struct sim_player *player, bool is_started) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){
                    .op = is_started ? SIM_MODEL_FORK : SIM_MODEL_CREATE_FROM,
                    .snapshot = SNAPSHOT_NUMBER,
                    .target = other_vm(player),
                    .deadline_ms = KELPIE_RESTORE_CHECK_TIMEOUT_MS + KELPIE_BOOT_TIMEOUT_MS_DEFAULT,
                    .codes = SIM_CODE(CREATE) | SIM_CODE(EXISTS) | SIM_CODE(RESTORE) |
                             SIM_CODE(SNAPSHOT_CORRUPTED) | SIM_CODE(SNAPSHOT_INCOMPATIBLE),
                    .ask = ask_make});
}

bool kelpie__sim_step_verify(struct sim_player *player) {
    char name[SIM_SNAPSHOT_NAME_BYTES];
    struct kelpie_error error = {0};
    KELPIE_ASSERT(player->kelpie != NULL);
    kelpie__sim_snapshot_name(SNAPSHOT_NUMBER, name);
    int status = kelpie_snapshot_verify(player->kelpie, name, &error);
    return kelpie__sim_step_look(player, "snapshot_verify",
                                 SIM_CODES_ANY | SIM_CODE(SNAPSHOT_CORRUPTED) |
                                     SIM_CODE(SNAPSHOT_INCOMPATIBLE),
                                 status, &error);
}

bool kelpie__sim_step_list_snapshots(struct sim_player *player) {
    struct kelpie_snapshot_info *list = NULL;
    struct kelpie_error error = {0};
    size_t count = 0;
    KELPIE_ASSERT(player->kelpie != NULL);
    int status = kelpie_snapshot_list(player->kelpie, &list, &count, &error);
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        if (list[i].name[0] == '\0' || (list[i].is_damaged && list[i].problem[0] == '\0')) {
            kelpie__sim_world_fail(player->scene->world,
                                   "contract: a snapshot is listed without a name, or damaged "
                                   "without a reason");
        }
    }
    kelpie_snapshot_list_free(player->kelpie, list, count);
    return kelpie__sim_step_look(player, "snapshot_list", SIM_CODES_ANY, status, &error);
}
