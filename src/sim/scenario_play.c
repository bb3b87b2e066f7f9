/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The scenarios: each is a client's program of a few calls.
 */
#include <signal.h>
#include <string.h>

#include "core/limits.h"
#include "sim/machine.h"
#include "sim/scenario_step.h"

#define PLAY_BYTES 6000u

/* ---- the life of a VM ------------------------------------------------------------------------ */

static bool play_open(struct sim_player *player) {
    return kelpie__sim_step_open(player);
}

static bool play_create(struct sim_player *player) {
    return kelpie__sim_step_create(player);
}

/* Who owns it leaves. */
static bool play_owner(struct sim_player *player) {
    if (!kelpie__sim_step_create(player) || !kelpie__sim_step_inspect(player)) {
        return false;
    }
    kelpie__sim_step_close(player);
    kelpie__sim_judge_client_gone(player->scene->judge, player->index);
    return true;
}

static bool play_start(struct sim_player *player) {
    return kelpie__sim_step_start(player) && kelpie__sim_step_inspect(player);
}

static bool play_export(struct sim_player *player) {
    return kelpie__sim_step_export(player);
}

static bool play_stop(struct sim_player *player) {
    return kelpie__sim_step_stop(player) && kelpie__sim_step_inspect(player);
}

static bool play_stop_paused(struct sim_player *player) {
    return kelpie__sim_step_stop(player);
}

static bool play_kill(struct sim_player *player) {
    return kelpie__sim_step_kill(player) && kelpie__sim_step_inspect(player);
}

/* A pause that fails is tried once more. */
static bool play_pause(struct sim_player *player) {
    return (kelpie__sim_step_pause(player) || kelpie__sim_step_pause(player)) &&
           kelpie__sim_step_inspect(player);
}

static bool play_resume(struct sim_player *player) {
    return (kelpie__sim_step_resume(player) || kelpie__sim_step_resume(player)) &&
           kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 5);
}

static bool play_delete(struct sim_player *player) {
    return kelpie__sim_step_delete(player, false) || kelpie__sim_step_delete(player, false);
}

static bool play_delete_running(struct sim_player *player) {
    return kelpie__sim_step_delete(player, true) || kelpie__sim_step_delete(player, true);
}

/* The monitor is dead, and nobody has looked since: a library that is opened recovers. */
static bool play_recover(struct sim_player *player) {
    struct sim_machine *host = kelpie__sim_world_host(player->scene->world);
    struct sim_process *monitor = kelpie__sim_process_find(host, player->scene->monitor_pid);
    kelpie__sim_step_close(player);
    if (monitor != NULL) {
        kelpie__sim_process_signal(monitor, SIGKILL);
    }
    return kelpie__sim_step_open(player) && kelpie__sim_step_inspect(player);
}

/* Another client of a monitor that runs: the first one's connection has ended. */
static bool play_connect(struct sim_player *player) {
    kelpie__sim_step_close(player);
    return kelpie__sim_step_open(player) && kelpie__sim_step_open_vm(player) &&
           kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 3);
}

/* ---- commands -------------------------------------------------------------------------------- */

static bool play_exec(struct sim_player *player) {
    return kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 1) &&
           kelpie__sim_step_exec(player, SIM_COMMAND_CODE, 2);
}

static bool play_exec_input(struct sim_player *player) {
    return kelpie__sim_step_exec(player, SIM_COMMAND_CAT, 1);
}

static bool play_exec_timeout(struct sim_player *player) {
    bool has_answer = kelpie__sim_step_exec(player, SIM_COMMAND_TIMEOUT, 1);
    return !has_answer && kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 2);
}

static bool play_exec_stream(struct sim_player *player) {
    static const char *const argv[] = {"cat", NULL};
    return kelpie__sim_step_exec_start(player, argv, false, false) &&
           kelpie__sim_step_exec_write(player, PLAY_BYTES) &&
           kelpie__sim_step_exec_wait(player, PLAY_BYTES);
}

static bool play_exec_attach(struct sim_player *player) {
    static const char *const argv[] = {"script", "sleep 1s; print 6000", NULL};
    return kelpie__sim_step_exec_start(player, argv, false, true) &&
           kelpie__sim_step_exec_detach(player) && kelpie__sim_step_exec_list(player) &&
           kelpie__sim_step_exec_attach(player) && kelpie__sim_step_exec_wait(player, PLAY_BYTES);
}

static bool play_exec_signal(struct sim_player *player) {
    static const char *const argv[] = {"sleep", "1000", NULL};
    return kelpie__sim_step_exec_start(player, argv, false, false) &&
           kelpie__sim_step_exec_signal(player, SIGTERM) && kelpie__sim_step_exec_wait(player, 0);
}

static bool play_exec_kill(struct sim_player *player) {
    static const char *const argv[] = {"script", "fork 2; ignore TERM; sleep 1000s", NULL};
    return kelpie__sim_step_exec_start(player, argv, false, false) &&
           kelpie__sim_step_exec_kill(player) && kelpie__sim_step_exec_wait(player, 0);
}

static bool play_exec_resize(struct sim_player *player) {
    static const char *const argv[] = {"sleep", "0.1", NULL};
    return kelpie__sim_step_exec_start(player, argv, true, false) &&
           kelpie__sim_step_exec_resize(player) && kelpie__sim_step_exec_wait(player, 0);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static bool play_snapshot(struct sim_player *player) {
    return kelpie__sim_step_snapshot(player) && kelpie__sim_step_inspect(player);
}

/* The VM is what it was, or what it is. */
static bool play_restore(struct sim_player *player) {
    kelpie__ignore(kelpie__sim_step_restore(player));
    return kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 6);
}

static bool play_fork(struct sim_player *player) {
    return kelpie__sim_step_make_from(player, true) && kelpie__sim_step_inspect(player);
}

static bool play_create_from(struct sim_player *player) {
    return kelpie__sim_step_make_from(player, false);
}

static bool play_forget(struct sim_player *player) {
    return kelpie__sim_step_forget(player) && kelpie__sim_step_list_snapshots(player);
}

static bool play_verify(struct sim_player *player) {
    return kelpie__sim_step_verify(player) && kelpie__sim_step_list_snapshots(player);
}

static bool play_import(struct sim_player *player) {
    return kelpie__sim_step_import(player) && kelpie__sim_step_list_snapshots(player);
}

/* ---- looking --------------------------------------------------------------------------------- */

static bool play_list(struct sim_player *player) {
    return kelpie__sim_step_list(player);
}

static bool play_inspect(struct sim_player *player) {
    return kelpie__sim_step_inspect(player);
}

static bool play_stats(struct sim_player *player) {
    return kelpie__sim_step_stats(player);
}

static bool play_health(struct sim_player *player) {
    return kelpie__sim_step_health(player);
}

static bool play_subscribe(struct sim_player *player) {
    return kelpie__sim_step_subscribe(player) && kelpie__sim_step_pause(player) &&
           kelpie__sim_step_resume(player);
}

static bool play_read_log(struct sim_player *player) {
    return kelpie__sim_step_read_log(player, KELPIE_LOG_CONSOLE) &&
           kelpie__sim_step_read_log(player, KELPIE_LOG_EVENTS);
}

static bool play_doctor(struct sim_player *player) {
    return kelpie__sim_step_doctor(player, true);
}

/* ---- templates ------------------------------------------------------------------------------- */

/* The first VM of its kind, which leaves one; what it does next is done while that is made whole.
 */
static bool play_template_make(struct sim_player *player) {
    return kelpie__sim_step_start(player) && kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 1) &&
           kelpie__sim_step_inspect(player);
}

/* The second start of the VM. */
static bool play_template_use(struct sim_player *player) {
    return kelpie__sim_step_kill(player) && kelpie__sim_step_start(player) &&
           kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 2) && kelpie__sim_step_inspect(player);
}

/* One byte of its memory is another: nothing is seen of that but a boot. */
static bool play_template_damaged(struct sim_player *player) {
    return kelpie__sim_step_kill(player) && kelpie__sim_step_damage_template(player) &&
           kelpie__sim_step_start(player) && kelpie__sim_step_exec(player, SIM_COMMAND_ECHO, 3) &&
           kelpie__sim_step_inspect(player);
}

/* The VM is gone before its template is whole, or right after that. */
static bool play_template_hasty(struct sim_player *player) {
    return kelpie__sim_step_start(player) && kelpie__sim_step_delete(player, true) &&
           kelpie__sim_step_create(player) && kelpie__sim_step_start(player) &&
           kelpie__sim_step_inspect(player);
}

/* ---- all ------------------------------------------------------------------------------------- */

static const struct sim_scenario scenarios[] = {
    {"open", "the library is opened", SIM_SCENARIO_NOTHING, false, play_open, false, false},
    {"recover", "opened when the monitor of a running VM is dead", SIM_SCENARIO_RUNNING, false,
     play_recover, true, false},
    {"connect", "another connection to a VM that runs", SIM_SCENARIO_RUNNING, false, play_connect,
     false, false},
    {"create", "a durable VM", SIM_SCENARIO_OPEN, false, play_create, false, false},
    {"owner", "an ephemeral VM is made, its owner leaves", SIM_SCENARIO_OPEN, true, play_owner,
     false, false},
    {"start", "boot, up to Running", SIM_SCENARIO_CREATED, false, play_start, false, false},
    {"start-disk", "boot over a disk that is made for it", SIM_SCENARIO_CREATED, false, play_start,
     false, true},
    {"stop", "an orderly one", SIM_SCENARIO_RUNNING, false, play_stop, false, false},
    {"stop-paused", "of a VM that is paused", SIM_SCENARIO_PAUSED, false, play_stop_paused, false,
     false},
    {"kill", "of a VM that runs", SIM_SCENARIO_RUNNING, false, play_kill, false, false},
    {"pause", "Running to Paused", SIM_SCENARIO_RUNNING, false, play_pause, false, false},
    {"resume", "Paused to Running, and a command", SIM_SCENARIO_PAUSED, false, play_resume, false,
     false},
    {"delete", "of a VM that does not run", SIM_SCENARIO_CREATED, false, play_delete, false, false},
    {"delete-running", "by force", SIM_SCENARIO_RUNNING, false, play_delete_running, false, false},
    {"delete-disk", "by force, of a VM that has a disk", SIM_SCENARIO_RUNNING, false,
     play_delete_running, false, true},
    {"exec", "two commands, collected", SIM_SCENARIO_RUNNING, false, play_exec, false, false},
    {"exec-input", "with input, collected", SIM_SCENARIO_RUNNING, false, play_exec_input, false,
     false},
    {"exec-timeout", "a command that outlives its timeout", SIM_SCENARIO_RUNNING, false,
     play_exec_timeout, false, false},
    {"exec-stream", "both directions, streamed", SIM_SCENARIO_RUNNING, false, play_exec_stream,
     false, false},
    {"exec-attach", "detach, list, attach", SIM_SCENARIO_RUNNING, false, play_exec_attach, false,
     false},
    {"exec-signal", "a signal to a command", SIM_SCENARIO_RUNNING, false, play_exec_signal, false,
     false},
    {"exec-kill", "of a command with children", SIM_SCENARIO_RUNNING, false, play_exec_kill, false,
     false},
    {"exec-resize", "a terminal gets another size", SIM_SCENARIO_RUNNING, false, play_exec_resize,
     false, false},
    {"snapshot", "of a VM that runs", SIM_SCENARIO_RUNNING, false, play_snapshot, false, false},
    {"snapshot-paused", "of a VM that is paused", SIM_SCENARIO_PAUSED, false, play_snapshot, false,
     false},
    {"restore", "in place, and a command", SIM_SCENARIO_SAVED, false, play_restore, false, false},
    {"fork", "of a snapshot, up to Running", SIM_SCENARIO_SAVED, false, play_fork, false, false},
    {"create-from", "a VM that its first start will bring back", SIM_SCENARIO_SAVED, false,
     play_create_from, false, false},
    {"snapshot-remove", "and what is left", SIM_SCENARIO_SAVED, false, play_forget, false, false},
    {"snapshot-verify", "every byte, and the list", SIM_SCENARIO_SAVED, false, play_verify, false,
     false},
    {"snapshot-disk", "of a VM that runs and has a disk", SIM_SCENARIO_RUNNING, false,
     play_snapshot, false, true},
    {"restore-disk", "in place, of a VM that has a disk", SIM_SCENARIO_SAVED, false, play_restore,
     false, true},
    {"export", "of a snapshot, into a file", SIM_SCENARIO_SAVED, false, play_export, false, false},
    {"import", "of a snapshot that was exported", SIM_SCENARIO_EXPORTED, false, play_import, false,
     false},
    {"list", "of all VMs", SIM_SCENARIO_RUNNING, false, play_list, false, false},
    {"inspect", "of a VM that runs", SIM_SCENARIO_RUNNING, false, play_inspect, false, false},
    {"stats", "of host and guest", SIM_SCENARIO_RUNNING, false, play_stats, false, false},
    {"health", "the agent is asked", SIM_SCENARIO_RUNNING, false, play_health, false, false},
    {"subscribe", "events of a pause and a resume", SIM_SCENARIO_RUNNING, false, play_subscribe,
     false, false},
    {"read-log", "console and events", SIM_SCENARIO_RUNNING, false, play_read_log, false, false},
    {"doctor", "the host is checked, KVM by a boot", SIM_SCENARIO_OPEN, false, play_doctor, false,
     false},
    {"template-make", "a boot that leaves a template", SIM_SCENARIO_TEMPLATE_CREATED, false,
     play_template_make, false, false},
    {"template-use", "a start from a template", SIM_SCENARIO_TEMPLATE_RUNNING, false,
     play_template_use, false, false},
    {"template-damaged", "a start from a template that is damaged", SIM_SCENARIO_TEMPLATE_RUNNING,
     false, play_template_damaged, false, false},
    {"template-hasty", "a VM that is deleted while its template is made",
     SIM_SCENARIO_TEMPLATE_CREATED, false, play_template_hasty, false, false},
};

const struct sim_scenario *kelpie__sim_scenario(uint32_t index) {
    return index < KELPIE_ARRAY_COUNT(scenarios) ? &scenarios[index] : NULL;
}

const struct sim_scenario *kelpie__sim_scenario_find(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(scenarios); i += 1) {
        if (strcmp(scenarios[i].name, name) == 0) {
            return &scenarios[i];
        }
    }
    return NULL;
}

static bool play_before(struct sim_player *player) {
    enum sim_scenario_before before = player->scene->options->scenario->before;
    before = before == SIM_SCENARIO_TEMPLATE_CREATED   ? SIM_SCENARIO_CREATED
             : before == SIM_SCENARIO_TEMPLATE_RUNNING ? SIM_SCENARIO_RUNNING
                                                       : before;
    return (before < SIM_SCENARIO_OPEN || kelpie__sim_step_open(player)) &&
           (before < SIM_SCENARIO_CREATED || kelpie__sim_step_create(player)) &&
           (before < SIM_SCENARIO_RUNNING ||
            (kelpie__sim_step_start(player) && kelpie__sim_step_inspect(player))) &&
           (before != SIM_SCENARIO_PAUSED || kelpie__sim_step_pause(player)) &&
           (before < SIM_SCENARIO_SAVED || kelpie__sim_step_snapshot(player)) &&
           (before != SIM_SCENARIO_EXPORTED || kelpie__sim_step_export(player));
}

void kelpie__sim_scenario_play(struct sim_player *player) {
    struct sim_scenario_result *out = player->scene->out;
    struct sim_trace *trace = player->scene->options->trace;
    bool is_ready = play_before(player);
    out->first = trace != NULL ? kelpie__sim_trace_calls(trace) : 0;
    out->is_played = is_ready && player->scene->options->scenario->play(player);
    kelpie__sim_step_close(player);
    out->last = trace != NULL ? kelpie__sim_trace_calls(trace) : 0;
}
