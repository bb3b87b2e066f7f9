/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The client of a scenario, and what it does: one function for each call of the library, which asks
 * it, compares its answer with what the header allows, and tells the judge.
 */
#ifndef KELPIE_SIM_SCENARIO_STEP_H
#define KELPIE_SIM_SCENARIO_STEP_H

#include "kelpie.h"
#include "sim/client_snapshot.h"
#include "sim/scenario.h"
#include "sim/world.h"

/* A snapshot as one stream. */
struct sim_parcel {
    uint8_t *bytes; /* owned */
    size_t count;
    size_t offset; /* what was read */
};

struct sim_scene {
    const struct sim_scenario_options *options;
    struct sim_scenario_result *out;
    struct sim_world *world; /* owned */
    struct sim_judge *judge; /* owned */
    struct sim_swarm swarm;
    uint32_t vm;              /* which of the model's VMs it is */
    uint64_t tree;            /* hash of the files that the first who looked left */
    int32_t monitor_pid;      /* while it runs */
    char exec_id[33];         /* of the command that runs on */
    uint64_t exec_seen_bytes; /* of its output */
    bool is_imported;         /* that was acknowledged */
    struct sim_parcel parcel;
};

#define SIM_SCENARIO_SNAPSHOT 1u /* the number of the only one */

struct sim_player {
    struct sim_scene *scene;
    struct sim_process *process;
    struct kelpie_os *os;
    struct kelpie *kelpie;
    struct kelpie_vm *vm;
    struct kelpie_exec *exec; /* NULL: none */
    uint32_t index;           /* as a client of the judge */
    bool has_end;             /* of `exec` */
    bool is_end_good;         /* its status is known */
    struct kelpie_exec_status status;
    uint64_t output_bytes;
};

/* A call that the model knows. */
struct sim_step {
    enum sim_model_op op;
    bool is_look;
    enum sim_command command;
    uint32_t snapshot;
    uint32_t target;
    uint64_t value;
    uint64_t deadline_ms;
    uint64_t codes; /* besides those that every call may meet */
    int (*ask)(struct sim_player *player, const struct sim_operation *operation,
               uint64_t *out_result, struct kelpie_error *error);
};

/* Asks, and tells the judge. Whether it succeeded. */
bool kelpie__sim_step_judged(struct sim_player *player, const struct sim_step *step);

/* Each: whether it succeeded. Some answers fail the world. */
bool kelpie__sim_step_open(struct sim_player *player);
void kelpie__sim_step_close(struct sim_player *player);
bool kelpie__sim_step_create(struct sim_player *player);
bool kelpie__sim_step_open_vm(struct sim_player *player);
bool kelpie__sim_step_start(struct sim_player *player);
bool kelpie__sim_step_stop(struct sim_player *player);
bool kelpie__sim_step_kill(struct sim_player *player);
bool kelpie__sim_step_pause(struct sim_player *player);
bool kelpie__sim_step_resume(struct sim_player *player);
bool kelpie__sim_step_delete(struct sim_player *player, bool is_forced);
bool kelpie__sim_step_exec(struct sim_player *player, enum sim_command command, uint64_t value);
/* What is there is inspected, and judged. */
bool kelpie__sim_step_inspect(struct sim_player *player);
/* A byte of the only template's memory is another from here on; without one, nothing happens. */
bool kelpie__sim_step_damage_template(struct sim_player *player);
bool kelpie__sim_step_list(struct sim_player *player);
bool kelpie__sim_step_stats(struct sim_player *player);
bool kelpie__sim_step_health(struct sim_player *player);
bool kelpie__sim_step_subscribe(struct sim_player *player);
bool kelpie__sim_step_read_log(struct sim_player *player, enum kelpie_log_kind kind);
bool kelpie__sim_step_doctor(struct sim_player *player, bool tries_kvm);
/* scenario_snapshot.c: all are about one snapshot of the VM. */
bool kelpie__sim_step_snapshot(struct sim_player *player);
bool kelpie__sim_step_restore(struct sim_player *player);
bool kelpie__sim_step_forget(struct sim_player *player);
/* Another VM is made from it, and started. */
bool kelpie__sim_step_make_from(struct sim_player *player, bool is_started);
bool kelpie__sim_step_verify(struct sim_player *player);
bool kelpie__sim_step_list_snapshots(struct sim_player *player);
/* scenario_after.c: the VM is started, where nothing can go wrong any more; the snapshot leaves as
 * a stream, comes back under another name, is whole or not there. */
bool kelpie__sim_step_start_again(struct sim_player *player);
bool kelpie__sim_step_export(struct sim_player *player);
bool kelpie__sim_step_import(struct sim_player *player);
void kelpie__sim_step_check_import(struct sim_player *player);
/* scenario_stream.c: commands that are streamed. Their output is a pattern, and is compared. */
bool kelpie__sim_step_exec_start(struct sim_player *player, const char *const *argv,
                                 bool has_terminal, bool keeps_on);
bool kelpie__sim_step_exec_attach(struct sim_player *player);
bool kelpie__sim_step_exec_list(struct sim_player *player);
bool kelpie__sim_step_exec_write(struct sim_player *player, uint32_t count);
bool kelpie__sim_step_exec_signal(struct sim_player *player, int signal);
bool kelpie__sim_step_exec_resize(struct sim_player *player);
bool kelpie__sim_step_exec_kill(struct sim_player *player);
bool kelpie__sim_step_exec_detach(struct sim_player *player);
/* Waits for the end; `expected_bytes` of output have to have come when that is known. */
bool kelpie__sim_step_exec_wait(struct sim_player *player, uint64_t expected_bytes);

/* Codes as bits, for sets of answers. */
#define SIM_CODE(name) (UINT64_C(1) << -(KELPIE_E_##name))
/* Every call may meet these: the surroundings refused, or the VM is not there any more. */
#define SIM_CODES_ANY                                                                              \
    (SIM_CODE(STATE) | SIM_CODE(CRASHED) | SIM_CODE(UNAVAILABLE) | SIM_CODE(CANCELLED) |           \
     SIM_CODE(NOT_FOUND) | SIM_CODE(LIMIT) | SIM_CODE(IO) | SIM_CODE(PROTOCOL) |                   \
     SIM_CODE(MEMORY) | SIM_CODE(BUSY) | SIM_CODE(TIMEOUT))

/* An answer that the header does not allow fails the world. Whether it is a success. */
bool kelpie__sim_step_answer(struct sim_player *player, const char *call, uint64_t codes,
                             int status, const struct kelpie_error *error);
/* The same for calls that the model does not know: where nothing goes wrong, none may fail. */
bool kelpie__sim_step_look(struct sim_player *player, const char *call, uint64_t codes, int status,
                           const struct kelpie_error *error);

/* scenario_play.c */
void kelpie__sim_scenario_play(struct sim_player *player);

#endif
