/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Steps of scenarios (scenario_step.h) about what is left: a VM that has to start again, over all
 * layers of its disk, and a snapshot that came as one stream.
 */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "lib/internal.h"
#include "sim/scenario_step.h"
#include "store/transfer.h"

#define AFTER_IMPORTED "imported"
#define AFTER_PARCEL_BYTES_MAX (UINT64_C(16) << 20)

/* ---- it starts again ------------------------------------------------------------------------- */

/* Nothing goes wrong any more: what is there has to work. */
static int ask_start_again(struct sim_player *player, const struct sim_operation *operation,
                           uint64_t *out_result, struct kelpie_error *error) {
    KELPIE_ASSERT(operation->op == SIM_MODEL_START);
    *out_result = 0;
    int status = kelpie_vm_start(player->vm, 0, error);
    if (status < 0 && status != KELPIE_E_NOT_FOUND && status != KELPIE_E_STATE) {
        kelpie__sim_world_fail(player->scene->world,
                               "invariant 24: the VM is there, and cannot be started: %s, %.200s",
                               kelpie_code_name(status), error->message);
    }
    return status;
}

bool kelpie__sim_step_start_again(struct sim_player *player) {
    return kelpie__sim_step_judged(player,
                                   &(struct sim_step){.op = SIM_MODEL_START,
                                                      .deadline_ms = KELPIE_BOOT_TIMEOUT_MS_DEFAULT,
                                                      .ask = ask_start_again});
}

/* ---- a snapshot as one stream ---------------------------------------------------------------- */

static int64_t parcel_write(void *context, const void *bytes, size_t count) {
    struct sim_parcel *parcel = context;
    KELPIE_ASSERT(count > 0 && parcel->offset == 0);
    if (parcel->count + count > AFTER_PARCEL_BYTES_MAX) {
        return -1;
    }
    uint8_t *bigger = realloc(parcel->bytes, parcel->count + count);
    if (bigger == NULL) {
        return -1;
    }
    memcpy(bigger + parcel->count, bytes, count);
    parcel->bytes = bigger;
    parcel->count += count;
    return (int64_t)count;
}

static int64_t parcel_read(void *context, void *out, size_t count) {
    struct sim_parcel *parcel = context;
    KELPIE_ASSERT(parcel->offset <= parcel->count);
    size_t some = (size_t)kelpie__min_u64(count, parcel->count - parcel->offset);
    memcpy(out, parcel->bytes + parcel->offset, some);
    parcel->offset += some;
    return (int64_t)some;
}

static int after_open(struct sim_player *player, struct kelpie_snapshot_store *store,
                      struct kelpie_origin *origin, struct kelpie_error *error) {
    struct kelpie *kelpie = player->kelpie;
    int status = kelpie__snapshot_store_open(store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_SNAPSHOTS_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__origin_read(origin, kelpie->os, kelpie->places.state_path, error);
    if (status < 0) {
        kelpie__snapshot_store_close(store);
    }
    return status;
}

bool kelpie__sim_step_export(struct sim_player *player) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    struct kelpie_origin origin;
    struct kelpie_error error = {0};
    const struct kelpie_parcel_output output = {.write = parcel_write,
                                                .context = &player->scene->parcel};
    int status = after_open(player, &store, &origin, &error);
    if (status == 0) {
        char name[SIM_SNAPSHOT_NAME_BYTES];
        kelpie__sim_snapshot_name(SIM_SCENARIO_SNAPSHOT, name);
        status = kelpie__snapshot_open(&snapshot, &store, name, &error);
        if (status == 0) {
            status = kelpie__snapshot_export(&snapshot, &origin, &output, &error);
            kelpie__snapshot_close(&snapshot);
        }
        kelpie__snapshot_store_close(&store);
    }
    return kelpie__sim_step_look(player, "snapshot_export",
                                 SIM_CODES_ANY | SIM_CODE(SNAPSHOT_CORRUPTED), status, &error);
}

bool kelpie__sim_step_import(struct sim_player *player) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    struct kelpie_origin origin;
    struct kelpie_error error = {0};
    const struct kelpie_parcel_input input = {.read = parcel_read,
                                              .context = &player->scene->parcel};
    const struct kelpie_snapshot_import order = {.name = AFTER_IMPORTED, .is_synced = true};
    int status = after_open(player, &store, &origin, &error);
    if (status == 0) {
        status = kelpie__snapshot_import(&snapshot, &store, &origin, &input, &order, &error);
        if (status == 0) {
            kelpie__snapshot_close(&snapshot);
        }
        kelpie__snapshot_store_close(&store);
    }
    player->scene->is_imported = status == 0;
    return kelpie__sim_step_look(player, "snapshot_import",
                                 SIM_CODES_ANY | SIM_CODE(SNAPSHOT_CORRUPTED) | SIM_CODE(EXISTS) |
                                     SIM_CODE(UNTRUSTED),
                                 status, &error);
}

void kelpie__sim_step_check_import(struct sim_player *player) {
    struct kelpie_error error = {0};
    int status = kelpie_snapshot_verify(player->kelpie, AFTER_IMPORTED, &error);
    bool is_right = status == 0 || (status == KELPIE_E_NOT_FOUND && !player->scene->is_imported);
    if (!is_right) {
        kelpie__sim_world_fail(
            player->scene->world, "invariant 17: a snapshot that was imported%s: %s, %.200s",
            player->scene->is_imported ? "" : " by half", kelpie_code_name(status), error.message);
    }
}
