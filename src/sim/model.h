/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The reference model: what the contract (docs/simulation.md) lets a caller see. It knows no
 * process, no file and no time: VMs with their states, what their guests remember, their snapshots.
 * Each call has a set of allowed outcomes; what an interrupted call has done is unknown until
 * somebody looks. The same model runs beside the simulator and beside real VMs.
 *
 * Calls of one VM that overlap are one history (history.h), which is searched for an order that
 * explains them as soon as none is under way; VM by VM, since none knows of another.
 */
#ifndef KELPIE_SIM_MODEL_H
#define KELPIE_SIM_MODEL_H

#include "core/base.h"
#include "kelpie.h"

#define SIM_MODEL_VM_MAX 64u
#define SIM_MODEL_FILE_MAX 8u     /* files that a workload uses, 0 ... */
#define SIM_MODEL_SNAPSHOT_MAX 8u /* of one VM at a time; what is more is not followed */
#define SIM_MODEL_TEXT_MAX 1024u
#define SIM_MODEL_NO_ANSWER 1 /* as a status: the client died, or nobody answered */

enum sim_model_op {
    SIM_MODEL_CREATE,
    SIM_MODEL_START,
    SIM_MODEL_STOP, /* the result: 0 an orderly one, 1 the guest had to be killed */
    SIM_MODEL_KILL,
    SIM_MODEL_PAUSE,
    SIM_MODEL_RESUME,
    SIM_MODEL_EXEC, /* a command that changes nothing; `value`: the exit code that it must give */
    SIM_MODEL_PUT,  /* a command that writes `value` (> 0) to the guest's file `file` */
    SIM_MODEL_GET,  /* a command that reads it: the result is its value, 0 when it is not there */
    SIM_MODEL_SNAPSHOT, /* the result is the snapshot's id, chosen by the caller, never used before
                         */
    SIM_MODEL_RESTORE,  /* `snapshot`, in place */
    SIM_MODEL_FORK,     /* `snapshot` of `vm` becomes a new VM, `target`, that runs */
    SIM_MODEL_CREATE_FROM, /* likewise, but its first start is what brings the guest back */
    SIM_MODEL_FORGET,      /* the snapshot is removed */
    SIM_MODEL_DELETE,
    SIM_MODEL_DELETE_FORCE,
    SIM_MODEL_CLONE,   /* VMs that the model does not know are forked from this one as it is now */
    SIM_MODEL_PREPARE, /* such forks are begun: they wait */
    SIM_MODEL_OP_COUNT,
    SIM_MODEL_OBSERVE = SIM_MODEL_OP_COUNT, /* the result is the state, or NOT_FOUND */
    SIM_MODEL_LISTED,                       /* `snapshot`: the result is 1 or 0 */
};

struct sim_model_call {
    enum sim_model_op op;
    uint32_t vm; /* of a FORK or CREATE_FROM: the one whose snapshot it is */
    uint32_t client;
    uint32_t file;
    uint64_t value;
    uint32_t snapshot; /* > 0 */
    uint32_t target;   /* of a FORK or CREATE_FROM */
    bool is_synced;    /* of a PUT: what files hold is on the disk when it has ended with 0 */
    /* There is something wrong with the call by itself (the snapshot is of another architecture):
     * the only answer that is allowed where the state allows the operation; 0: nothing is wrong. */
    int must_fail;
};

const char *kelpie__sim_model_op_name(enum sim_model_op op);
/* It makes `target` from a snapshot: FORK, CREATE_FROM. */
bool kelpie__sim_model_makes_from(enum sim_model_op op);
/* It names a snapshot. */
bool kelpie__sim_model_is_of_snapshot(enum sim_model_op op);

struct sim_model;

/* is_calm: no fault fires, nothing dies by itself, every error but a refusal is a failure. NULL
 * without memory. */
struct sim_model *kelpie__sim_model_create(bool is_calm);
void kelpie__sim_model_destroy(struct sim_model *model); /* takes NULL */
/* Before the VM is first used. is_ephemeral: gone after a power loss. keeps_files: its files
 * outlive a stop (else they are gone at each start); what was synced, everything. */
void kelpie__sim_model_configure(struct sim_model *model, uint32_t vm, bool is_ephemeral,
                                 bool keeps_files);

/* A call begins, and ends; between the two, others may begin and end. The ticket is never 0. */
uint64_t kelpie__sim_model_begin(struct sim_model *model, const struct sim_model_call *call);
/* status: 0, a KELPIE_E_* or SIM_MODEL_NO_ANSWER. False: this answer, or an earlier one of a call
 * that overlapped with it, cannot be explained; out_text says why. The model then takes the VM for
 * unknown. */
bool kelpie__sim_model_end(struct sim_model *model, uint64_t ticket, int status, uint64_t result,
                           char out_text[SIM_MODEL_TEXT_MAX]);
/* Somebody looked. status: 0 with the state, or KELPIE_E_NOT_FOUND. */
bool kelpie__sim_model_observe(struct sim_model *model, uint32_t vm, int status,
                               enum kelpie_vm_state state, char out_text[SIM_MODEL_TEXT_MAX]);
bool kelpie__sim_model_observe_snapshot(struct sim_model *model, uint32_t vm, uint32_t snapshot,
                                        bool is_listed, char out_text[SIM_MODEL_TEXT_MAX]);

/* Calls that had no answer have had their effect by now, or never will. */
void kelpie__sim_model_settle(struct sim_model *model, uint32_t vm);
/* The owner is gone: the VM will be. */
void kelpie__sim_model_owner_gone(struct sim_model *model, uint32_t vm);
enum sim_model_disk {
    SIM_MODEL_DISK_SOUND, /* what was synced is there */
    SIM_MODEL_DISK_LIES,  /* it has lost some of that: nothing is known of durable VMs */
    SIM_MODEL_DISK_LOST,  /* all is gone */
};

/* Every VMM is dead, every process that could still do something. Calls that were under way are to
 * be ended first (SIM_MODEL_NO_ANSWER). */
void kelpie__sim_model_power_loss(struct sim_model *model, enum sim_model_disk disk);

/* What the VM may be: bit 1 << enum kelpie_vm_state; SIM_MODEL_GONE: there is none. While calls are
 * under way: what it may have been before them. */
#define SIM_MODEL_GONE (1u << 6)
uint32_t kelpie__sim_model_states(const struct sim_model *model, uint32_t vm);
bool kelpie__sim_model_may_have_snapshot(const struct sim_model *model, uint32_t vm,
                                         uint32_t snapshot);
/* For verdicts: answers that were compared; pieces of histories that were too long. */
uint64_t kelpie__sim_model_checked(const struct sim_model *model);
uint64_t kelpie__sim_model_lost(const struct sim_model *model);

#endif
