/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See scenario.h: one run of a scenario, from an empty world to rest.
 */
#include "sim/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "sim/client.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/invariants.h"
#include "sim/liveness.h"
#include "sim/recovery.h"
#include "sim/scenario_step.h"

#define SCENE_TIME_LIMIT_NS (INT64_C(1800) * KELPIE_NS_PER_S)
#define SCENE_REST_NS (100 * KELPIE_NS_PER_MS)
#define SCENE_LOOKS_MAX 400u /* 40 s: longer than anybody is stopped */

/* ---- those who look -------------------------------------------------------------------------- */

/* What answers has been seen; a VM that is held by somebody who is stopped is asked again. */
static bool look(struct sim_player *player) {
    uint32_t model = 0;
    for (uint32_t i = 0; i < SCENE_LOOKS_MAX; i += 1) {
        struct kelpie_vm_info info = {.struct_size = sizeof(info)};
        struct kelpie_error error = {0};
        char name[16];
        kelpie__ignore(snprintf(name, sizeof(name), "vm-%u", player->scene->vm));
        int status =
            player->vm != NULL ? 0 : kelpie_vm_open(player->kelpie, name, &player->vm, &error);
        status = status == 0 ? kelpie_vm_inspect(player->vm, &info, &error) : status;
        if (status == 0 || status == KELPIE_E_NOT_FOUND) {
            return true;
        }
        model += 1;
        if (player->scene->options->is_recovery) {
            kelpie__sim_world_fail(player->scene->world,
                                   "invariant 24: the VM is there, and not whole: %s, %.200s",
                                   kelpie_code_name(status), error.message);
            return false;
        }
        kelpie__sim_process_sleep(player->process, SCENE_REST_NS);
    }
    KELPIE_ASSERT(model == SCENE_LOOKS_MAX);
    return false;
}

static int looker_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_scene *scene = kelpie__sim_world_context(process->machine->world);
    struct sim_player player = {.scene = scene, .process = process, .os = os};
    KELPIE_ASSERT(argc == 2);
    player.index = (uint32_t)(argv[1][0] - '0');
    KELPIE_ASSERT(player.index > 0 && player.index < SIM_SWARM_CLIENT_MAX);
    if (kelpie__sim_step_open(&player)) {
        kelpie__sim_step_list(&player);
        if (look(&player)) {
            kelpie__sim_step_inspect(&player);
        }
    }
    kelpie__sim_step_close(&player);
    return 0;
}

/* What recovery has left works: nothing goes wrong any more. */
static int tryer_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_scene *scene = kelpie__sim_world_context(process->machine->world);
    struct sim_player player = {.scene = scene, .process = process, .os = os};
    enum sim_scenario_before before = scene->options->scenario->before;
    KELPIE_ASSERT(argc == 2);
    player.index = (uint32_t)(argv[1][0] - '0');
    if (kelpie__sim_step_open(&player) && look(&player) && player.vm != NULL &&
        kelpie__sim_step_start_again(&player) && before >= SIM_SCENARIO_SAVED) {
        kelpie__ignore(kelpie__sim_step_restore(&player));
    }
    if (before == SIM_SCENARIO_EXPORTED && player.kelpie != NULL) {
        kelpie__sim_step_check_import(&player);
    }
    kelpie__sim_step_close(&player);
    return 0;
}

static int player_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_scene *scene = kelpie__sim_world_context(process->machine->world);
    struct sim_player player = {.scene = scene, .process = process, .os = os};
    KELPIE_ASSERT(argc == 2 && argv[1][0] == '0');
    kelpie__sim_scenario_play(&player);
    return 0;
}

/* ---- the run --------------------------------------------------------------------------------- */

static void conclude(struct sim_scene *scene, enum kelpie_sim_verdict verdict, const char *reason) {
    struct sim_run_result *out = &scene->out->run;
    out->verdict = verdict;
    kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "%s", reason));
}

static bool are_clients_gone(void *context) {
    const struct sim_scene *scene = context;
    struct sim_machine *host = kelpie__sim_world_host(scene->world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        bool is_client = process->main == player_main || process->main == looker_main ||
                         process->main == tryer_main;
        if (is_client && process->state != SIM_PROCESS_ZOMBIE &&
            process->state != SIM_PROCESS_GONE) {
            return false;
        }
    }
    return true;
}

static enum kelpie_sim_verdict verdict_of(const char *failure) {
    bool is_answer = strncmp(failure, "model", strlen("model")) == 0 ||
                     strncmp(failure, "contract", strlen("contract")) == 0;
    return is_answer ? KELPIE_SIM_WRONG_MODEL : KELPIE_SIM_BROKEN;
}

/* One client from its start to its end. False: the run is over. */
static bool scene_client(struct sim_scene *scene, uint32_t index, sim_main main) {
    static const char *const environment[] = {"HOME=/root", "PATH=/usr/bin:/bin",
                                              "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};
    const char number[2] = {(char)('0' + index), '\0'};
    char path[32];
    const char *const argv[] = {"client", number, NULL};
    kelpie__ignore(snprintf(path, sizeof(path), SIM_CLIENT_PATH "%u", index));
    const struct sim_start start = {.path = path,
                                    .role = "client",
                                    .main = main,
                                    .stack_bytes = SIM_STACK_BYTES_USER,
                                    .argv = argv,
                                    .environment = environment};
    if (kelpie__sim_process_start(kelpie__sim_world_host(scene->world), &start) == NULL) {
        conclude(scene, KELPIE_SIM_CRASHED, "a client could not be started");
        return false;
    }
    enum sim_run_end end = kelpie__sim_world_run(
        scene->world, are_clients_gone, scene, kelpie__sim_now(scene->world) + SCENE_TIME_LIMIT_NS);
    if (end == SIM_RUN_FAILED) {
        const char *failure = kelpie__sim_world_failure(scene->world);
        conclude(scene, verdict_of(failure), failure);
    } else if (end != SIM_RUN_DONE) {
        conclude(scene, KELPIE_SIM_NO_LIVENESS,
                 end == SIM_RUN_SPIN   ? "no liveness: 1,000,000 calls without progress"
                 : end == SIM_RUN_IDLE ? "no liveness: a client waits for ever"
                                       : "no liveness: a client's calls do not end");
    }
    return scene->out->run.verdict == KELPIE_SIM_PASS;
}

/* What the n-th power loss leaves. */
static void scene_crash(void *context, struct sim_disk *disk) {
    struct sim_scene *scene = context;
    const struct sim_scenario_options *options = scene->options;
    uint32_t nth = scene->out->crashes;
    scene->out->crashes += 1;
    if (options->crash_limit < 2) {
        kelpie__sim_disk_crash(disk);
        return;
    }
    uint64_t count = kelpie__sim_disk_crash_count(disk, options->crash_limit);
    if (nth < KELPIE_ARRAY_COUNT(scene->out->crash_counts)) {
        scene->out->crash_counts[nth] = count;
    }
    if (nth < options->crash_index_count && options->crash_indexes[nth] < count) {
        kelpie__sim_disk_crash_to(disk, options->crash_indexes[nth], options->crash_limit);
    } else if (nth < options->crash_index_count) {
        kelpie__sim_world_fail(scene->world, "no such crash state: %llu of %llu at loss %u",
                               (unsigned long long)options->crash_indexes[nth],
                               (unsigned long long)count, nth);
    } else {
        kelpie__sim_disk_crash(disk);
    }
}

static bool scene_begin(struct sim_scene *scene, struct sim_invariants **out_invariants) {
    const struct sim_scenario_options *options = scene->options;
    char problem[256] = "";
    const struct sim_options world = {.seed = options->seed,
                                      .cost_factor = 1,
                                      .has_kvm = true,
                                      .disk_profile = options->disk_profile,
                                      .plan = options->plan,
                                      .trace = options->trace,
                                      .nursery = options->nursery};
    scene->swarm = (struct sim_swarm){.seed = options->seed,
                                      .is_calm = options->is_calm && !options->scenario->has_death,
                                      .options = world,
                                      .vm_count = 1,
                                      .client_count = 1,
                                      .owner_count = options->scenario->is_owned ? 1 : 0,
                                      .timeout_tenths = 10};
    while (scene->vm + 1 < SIM_SWARM_VM_MAX &&
           kelpie__sim_workload_is_owned(&scene->swarm, scene->vm) != options->scenario->is_owned) {
        scene->vm += 1;
    }
    scene->world = kelpie__sim_world_create(&world, problem);
    if (scene->world == NULL) {
        conclude(scene, KELPIE_SIM_USAGE, problem);
        return false;
    }
    scene->judge = kelpie__sim_judge_create(scene->world, &scene->swarm);
    *out_invariants = kelpie__sim_invariants_create(scene->world, scene->judge);
    kelpie__sim_world_set_context(scene->world, scene);
    kelpie__sim_world_set_crash(scene->world, scene_crash, scene);
    if (scene->judge == NULL || *out_invariants == NULL) {
        conclude(scene, KELPIE_SIM_CRASHED, "no memory for a run");
        return false;
    }
    return true;
}

static void scene_look(struct sim_scene *scene) {
    uint32_t index = 0;
    uint32_t crashes = 0;
    bool goes_on = true;
    do { /* bound: the clients; one that a power loss takes is followed by another */
        index += 1;
        crashes = scene->out->crashes;
        goes_on = scene_client(scene, index, looker_main);
    } while (goes_on && scene->out->crashes != crashes && index + 2 < SIM_SWARM_CLIENT_MAX);
    if (goes_on && scene->options->is_recovery) {
        uint64_t once = kelpie__sim_recovery_trees(scene->world);
        bool is_same = scene_client(scene, index + 1, looker_main) &&
                       kelpie__sim_recovery_trees(scene->world) == once;
        if (!is_same && scene->out->run.verdict == KELPIE_SIM_PASS) {
            conclude(scene, KELPIE_SIM_BROKEN,
                     "invariant 24: recovering twice leaves other files than once");
        }
        if (is_same && index + 2 < SIM_SWARM_CLIENT_MAX) {
            kelpie__ignore(scene_client(scene, index + 2, tryer_main));
        }
    }
}

static void scene_rest(struct sim_scene *scene) {
    char pending[SIM_PENDING_BYTES_MAX] = "";
    if (!kelpie__sim_liveness(scene->world, SIM_SWARM_DAMAGE_NONE, pending)) {
        const char *failure = kelpie__sim_world_failure(scene->world);
        bool is_live = failure == NULL || strncmp(failure, "no liveness", 11) == 0;
        conclude(scene, is_live ? KELPIE_SIM_NO_LIVENESS : verdict_of(failure), pending);
    }
}

void kelpie__sim_scenario_run(const struct sim_scenario_options *options,
                              struct sim_scenario_result *out) {
    struct sim_scene scene = {.options = options, .out = out};
    struct sim_invariants *invariants = NULL;
    *out = (struct sim_scenario_result){0};
    if (scene_begin(&scene, &invariants)) {
        bool goes_on = scene_client(&scene, 0, player_main);
        if (out->last == 0 && options->trace != NULL) { /* it did not come to its end */
            out->last = kelpie__sim_trace_calls(options->trace);
        }
        if (goes_on) {
            scene_look(&scene);
        }
        out->looked = options->trace != NULL ? kelpie__sim_trace_calls(options->trace) : 0;
        if (out->run.verdict == KELPIE_SIM_PASS) {
            scene_rest(&scene);
        }
        out->run.hash = kelpie__sim_world_hash(scene.world);
        out->run.calls = kelpie__sim_world_calls(scene.world);
        out->run.virtual_ns = kelpie__sim_now(scene.world);
        out->run.counts = *kelpie__sim_judge_counts(scene.judge);
        out->run.faults_fired = kelpie__sim_faults_fired(kelpie__sim_world_faults(scene.world));
    }
    kelpie__sim_world_destroy(scene.world); /* first: it has observers */
    kelpie__sim_invariants_destroy(invariants);
    kelpie__sim_judge_destroy(scene.judge);
    free(scene.parcel.bytes);
}

void kelpie__sim_scenario_release(struct sim_scenario_result *result) {
    kelpie__sim_run_release(&result->run);
}
