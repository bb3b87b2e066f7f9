/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See scenario_step.h.
 */
#include "sim/scenario_step.h"

#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "sim/client_command.h"
#include "sim/machine.h"
#include "store/template.h"

#define STEP_MEMORY_MIB 128u
#define STEP_CALL_MS 20000u /* a call without a deadline of its own */

/* ---- what may be answered -------------------------------------------------------------------- */

static void note(struct sim_player *player, const char *call, int status,
                 const struct kelpie_error *error) {
    char text[512];
    kelpie__ignore(kelpie__text_format(text, sizeof(text), "client %u: %s: %s%s%.200s",
                                       player->index, call, kelpie_code_name(status),
                                       status < 0 ? ", " : "", status < 0 ? error->message : ""));
    kelpie__sim_world_emit(
        player->scene->world,
        &(struct sim_event){.type = SIM_EVENT_NOTE, .process = player->process, .detail = text});
}

bool kelpie__sim_step_answer(struct sim_player *player, const char *call, uint64_t codes,
                             int status, const struct kelpie_error *error) {
    struct sim_world *world = player->scene->world;
    note(player, call, status, error);
    if (status == 0) {
        return true;
    }
    if (status > 0 || status < KELPIE_CODE_LAST || (codes & UINT64_C(1) << -status) == 0) {
        kelpie__sim_world_fail(world, "contract: %s answers %s (%d), which kelpie.h does not name",
                               call, kelpie_code_name(status), status);
    } else if (error->code != status || error->message[0] == '\0') {
        kelpie__sim_world_fail(world, "contract: %s answers %s, and its error says %s, \"%.100s\"",
                               call, kelpie_code_name(status), kelpie_code_name(error->code),
                               error->message);
    }
    return false;
}

bool kelpie__sim_step_look(struct sim_player *player, const char *call, uint64_t codes, int status,
                           const struct kelpie_error *error) {
    bool is_good = kelpie__sim_step_answer(player, call, codes, status, error);
    if (!is_good && player->scene->options->is_calm) {
        kelpie__sim_world_fail(player->scene->world, "invariant 28: %s: %s, %.200s", call,
                               kelpie_code_name(status), error->message);
    }
    return is_good;
}

/* ---- calls that the model knows -------------------------------------------------------------- */

bool kelpie__sim_step_judged(struct sim_player *player, const struct sim_step *step) {
    const struct sim_operation operation = {
        .is_look = step->is_look,
        .client = (uint8_t)player->index,
        .vm = (uint8_t)player->scene->vm,
        .kind = step->is_look ? SIM_LOOK_INSPECT : (uint8_t)step->command,
        .op = step->op,
        .snapshot = step->snapshot,
        .target = (uint8_t)step->target,
        .value = step->value,
    };
    struct kelpie_error error = {0};
    uint64_t result = 0;
    kelpie__sim_judge_begin(player->scene->judge, &operation, step->deadline_ms + STEP_CALL_MS);
    int status = step->ask(player, &operation, &result, &error);
    kelpie__sim_judge_end(player->scene->judge, player->index, status, result, &error);
    const char *name = step->is_look ? "inspect" : kelpie__sim_model_op_name(step->op);
    return kelpie__sim_step_answer(player, name, step->codes | SIM_CODES_ANY, status, &error);
}

static void vm_name(const struct sim_player *player, char out[16]) {
    bool fits = kelpie__text_format(out, 16, "vm-%u", player->scene->vm);
    KELPIE_ASSERT(fits);
}

static bool is_of_templates(enum sim_scenario_before before) {
    return before == SIM_SCENARIO_TEMPLATE_CREATED || before == SIM_SCENARIO_TEMPLATE_RUNNING;
}

static int ask_create(struct sim_player *player, const struct sim_operation *operation,
                      uint64_t *out_result, struct kelpie_error *error) {
    char name[16];
    bool is_owned = player->scene->options->scenario->is_owned;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *made = NULL;
    *out_result = operation->value;
    int status = kelpie_config_create(player->kelpie, &config, error);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, STEP_MEMORY_MIB);
    kelpie_config_set_ephemeral(config, is_owned);
    if (player->scene->options->scenario->has_disk) {
        kelpie_config_set_disk_size_mib(config, KELPIE_DISK_SIZE_MIB_MIN);
    }
    kelpie_config_set_template(config, is_of_templates(player->scene->options->scenario->before));
    kelpie_config_set_lifetime(config, is_owned ? KELPIE_LIFETIME_OWNED : KELPIE_LIFETIME_DETACHED);
    vm_name(player, name);
    status = kelpie_vm_create(player->kelpie, name, config, &made, error);
    kelpie_config_destroy(config);
    KELPIE_ASSERT((status == 0) == (made != NULL)); /* on failure every out_ is untouched */
    if (status == 0) {
        kelpie_vm_close(player->vm);
        player->vm = made;
        if (is_owned) {
            kelpie__sim_judge_owns(player->scene->judge, player->index, player->scene->vm);
        }
    }
    return status;
}

static int ask_start(struct sim_player *player, const struct sim_operation *operation,
                     uint64_t *out_result, struct kelpie_error *error) {
    *out_result = operation->value;
    return kelpie_vm_start(player->vm, 0, error);
}

static int ask_stop(struct sim_player *player, const struct sim_operation *operation,
                    uint64_t *out_result, struct kelpie_error *error) {
    struct kelpie_stop_result result = {0};
    KELPIE_ASSERT(operation->op == SIM_MODEL_STOP);
    int status = kelpie_vm_stop(player->vm, 0, &result, error);
    *out_result = result.was_graceful ? 0 : 1;
    return status;
}

static int ask_simple(struct sim_player *player, const struct sim_operation *operation,
                      uint64_t *out_result, struct kelpie_error *error) {
    *out_result = 0;
    if (operation->op == SIM_MODEL_KILL) {
        return kelpie_vm_kill(player->vm, error);
    }
    if (operation->op == SIM_MODEL_PAUSE) {
        return kelpie_vm_pause(player->vm, error);
    }
    if (operation->op == SIM_MODEL_RESUME) {
        return kelpie_vm_resume(player->vm, error);
    }
    KELPIE_ASSERT(operation->op == SIM_MODEL_DELETE || operation->op == SIM_MODEL_DELETE_FORCE);
    return kelpie_vm_delete(player->vm, operation->op == SIM_MODEL_DELETE_FORCE, error);
}

static int ask_exec(struct sim_player *player, const struct sim_operation *operation,
                    uint64_t *out_result, struct kelpie_error *error) {
    return kelpie__sim_command_run(player->scene->world, player->vm, operation, out_result, error);
}

static int ask_inspect(struct sim_player *player, const struct sim_operation *operation,
                       uint64_t *out_result, struct kelpie_error *error) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    char name[16];
    int status = 0;
    KELPIE_ASSERT(operation->is_look);
    vm_name(player, name);
    if (player->vm == NULL) {
        status = kelpie_vm_open(player->kelpie, name, &player->vm, error);
    }
    if (status == 0) {
        status = kelpie_vm_inspect(player->vm, &info, error);
    }
    if (status == 0) {
        player->scene->monitor_pid = info.monitor_pid;
    }
    *out_result = (uint64_t)info.state;
    return status;
}

bool kelpie__sim_step_create(struct sim_player *player) {
    return kelpie__sim_step_judged(player,
                                   &(struct sim_step){.op = SIM_MODEL_CREATE,
                                                      .codes = SIM_CODE(CREATE) | SIM_CODE(EXISTS),
                                                      .ask = ask_create});
}

bool kelpie__sim_step_start(struct sim_player *player) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){.op = SIM_MODEL_START,
                                   .deadline_ms = KELPIE_BOOT_TIMEOUT_MS_DEFAULT,
                                   .codes = SIM_CODE(BOOT) | SIM_CODE(BOOT_TIMEOUT) |
                                            SIM_CODE(ALREADY_RUNNING) | SIM_CODE(ROOT_NOT_FOUND) |
                                            SIM_CODE(ROOT_ACCESS),
                                   .ask = ask_start});
}

bool kelpie__sim_step_stop(struct sim_player *player) {
    return kelpie__sim_step_judged(player,
                                   &(struct sim_step){.op = SIM_MODEL_STOP,
                                                      .deadline_ms = KELPIE_STOP_TIMEOUT_MS_DEFAULT,
                                                      .codes = SIM_CODE(RESUME),
                                                      .ask = ask_stop});
}

bool kelpie__sim_step_kill(struct sim_player *player) {
    return kelpie__sim_step_judged(player,
                                   &(struct sim_step){.op = SIM_MODEL_KILL, .ask = ask_simple});
}

bool kelpie__sim_step_pause(struct sim_player *player) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){.op = SIM_MODEL_PAUSE,
                                   .codes = SIM_CODE(PAUSE) | SIM_CODE(UNSUPPORTED),
                                   .ask = ask_simple});
}

bool kelpie__sim_step_resume(struct sim_player *player) {
    return kelpie__sim_step_judged(
        player,
        &(struct sim_step){.op = SIM_MODEL_RESUME, .codes = SIM_CODE(RESUME), .ask = ask_simple});
}

bool kelpie__sim_step_delete(struct sim_player *player, bool is_forced) {
    return kelpie__sim_step_judged(
        player, &(struct sim_step){.op = is_forced ? SIM_MODEL_DELETE_FORCE : SIM_MODEL_DELETE,
                                   .ask = ask_simple});
}

bool kelpie__sim_step_exec(struct sim_player *player, enum sim_command command, uint64_t value) {
    return kelpie__sim_step_judged(
        player,
        &(struct sim_step){.op = SIM_MODEL_EXEC,
                           .command = command,
                           .value = value,
                           .deadline_ms = KELPIE_EXEC_TIMEOUT_MS_DEFAULT + KELPIE_EXEC_BACKSTOP_MS,
                           .codes = SIM_CODE(EXEC) | SIM_CODE(EXEC_TIMEOUT) |
                                    SIM_CODE(EXEC_NOT_FOUND) | SIM_CODE(EXEC_DENIED),
                           .ask = ask_exec});
}

bool kelpie__sim_step_inspect(struct sim_player *player) {
    return kelpie__sim_step_judged(player, &(struct sim_step){.is_look = true, .ask = ask_inspect});
}

/* ---- calls that change nothing --------------------------------------------------------------- */

bool kelpie__sim_step_open(struct sim_player *player) {
    struct kelpie_error error = {0};
    int status = kelpie__open_with_os(player->os, NULL, &player->kelpie, &error);
    KELPIE_ASSERT((status == 0) == (player->kelpie != NULL));
    return kelpie__sim_step_look(player, "open", SIM_CODES_ANY | SIM_CODE(UNSUPPORTED), status,
                                 &error);
}

void kelpie__sim_step_close(struct sim_player *player) {
    if (player->kelpie != NULL) {
        struct kelpie_os *os = kelpie__close_keeping_os(player->kelpie);
        KELPIE_ASSERT(os == player->os);
        player->kelpie = NULL;
        player->vm = NULL;
        player->exec = NULL;
    }
}

bool kelpie__sim_step_open_vm(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    char name[16];
    vm_name(player, name);
    int status = kelpie_vm_open(player->kelpie, name, &vm, &error);
    KELPIE_ASSERT((status == 0) == (vm != NULL));
    if (status == 0) {
        kelpie_vm_close(player->vm);
        player->vm = vm;
    }
    return kelpie__sim_step_look(player, "vm_open", SIM_CODES_ANY | SIM_CODE(UNSUPPORTED), status,
                                 &error);
}

/* Far from the beginning, where the guest's kernel has something. */
static void damage_byte(struct kelpie_os *os, int file) {
    uint8_t byte = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
    if (kelpie__os_next_data(os, file, 0, &begin, &end) == 1 &&
        kelpie__os_pread(os, file, &byte, 1, begin) == 1) {
        byte ^= 1;
        kelpie__ignore(kelpie__os_pwrite(os, file, &byte, 1, begin));
    }
}

bool kelpie__sim_step_damage_template(struct sim_player *player) {
    struct kelpie_os *os = player->os;
    struct kelpie_snapshot_store store;
    char name[KELPIE_NAME_BYTES_MAX + 1];
    char path[KELPIE_NAME_BYTES_MAX + 32];
    uint64_t cursor = 0;
    if (kelpie__snapshot_store_open(&store, os, player->kelpie->places.state_path,
                                    KELPIE_TEMPLATES_DIRECTORY, NULL) < 0) {
        return true;
    }
    if (kelpie__snapshot_list(&store, &cursor, name, NULL) == 1) {
        bool fits =
            kelpie__text_format(path, sizeof(path), "%s/" KELPIE_SNAPSHOT_MEMORY_FILE, name);
        KELPIE_ASSERT(fits);
        int file = kelpie__os_open(os, store.directory, path,
                                   KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
        if (file >= 0) {
            damage_byte(os, file);
            kelpie__ignore(kelpie__os_close(os, file));
        }
    }
    kelpie__snapshot_store_close(&store);
    return true;
}

bool kelpie__sim_step_list(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    int status = kelpie_list(player->kelpie, &list, &count, &error);
    for (size_t i = 0; status == 0 && i < count; i += 1) { /* ours, or one that doctor boots */
        if (list[i].name[0] == '\0') {
            kelpie__sim_world_fail(player->scene->world,
                                   "contract: list gives a VM without a name");
        }
    }
    KELPIE_ASSERT(status == 0 || (list == NULL && count == 0));
    kelpie_list_free(player->kelpie, list, count);
    return kelpie__sim_step_look(player, "list", SIM_CODES_ANY, status, &error);
}

bool kelpie__sim_step_stats(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    int status = kelpie_vm_stats(player->vm, &stats, &error);
    return kelpie__sim_step_look(player, "stats", SIM_CODES_ANY, status, &error);
}

bool kelpie__sim_step_health(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    struct kelpie_health health = {.struct_size = sizeof(health)};
    int64_t begun_ns = kelpie__sim_now(player->scene->world);
    int status = kelpie_vm_health(player->vm, 0, &health, &error);
    int64_t took_ns = kelpie__sim_now(player->scene->world) - begun_ns;
    if (took_ns > STEP_CALL_MS * KELPIE_NS_PER_MS) {
        kelpie__sim_world_fail(player->scene->world, "invariant 8: health took %lld ms",
                               (long long)(took_ns / KELPIE_NS_PER_MS));
    }
    return kelpie__sim_step_look(player, "health", SIM_CODES_ANY, status, &error);
}

static void on_event(void *context, const struct kelpie_event *event) {
    KELPIE_ASSERT(context != NULL && event != NULL);
}

bool kelpie__sim_step_subscribe(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_vm_subscribe(player->vm, on_event, player, &error);
    return kelpie__sim_step_look(player, "subscribe", SIM_CODES_ANY, status, &error);
}

static void on_bytes(void *context, const void *bytes, size_t count) {
    KELPIE_ASSERT(context != NULL && (bytes != NULL || count == 0));
}

bool kelpie__sim_step_read_log(struct sim_player *player, enum kelpie_log_kind kind) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_vm_read_log(player->vm, kind, on_bytes, player, &error);
    return kelpie__sim_step_look(player, "read_log", SIM_CODES_ANY, status, &error);
}

static void on_check(void *context, const struct kelpie_check *check) {
    KELPIE_ASSERT(context != NULL && check->name[0] != '\0');
}

bool kelpie__sim_step_doctor(struct sim_player *player, bool tries_kvm) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_doctor(player->kelpie, tries_kvm, on_check, player, &error);
    return kelpie__sim_step_look(
        player, "doctor", SIM_CODES_ANY | SIM_CODE(BOOT) | SIM_CODE(BOOT_TIMEOUT), status, &error);
}
