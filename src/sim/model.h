/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The reference model: what the contract (docs/simulation.md) lets a caller see. It knows no
 * process, no file and no time: VMs with their states, what their guests remember, their snapshots.
 * Each call has a set of allowed outcomes; what an interrupted call has done is unknown until
 * somebody looks. The same model runs beside the simulator and beside real VMs.
 *
 * Calls of one VM that overlap are recorded as a history (history.h) and searched for an order that
 * explains them.
 */
#ifndef KELPIE_SIM_MODEL_H
#define KELPIE_SIM_MODEL_H

#include "core/base.h"
#include "kelpie.h"

#define SIM_MODEL_VM_MAX 64u
#define SIM_MODEL_FILE_MAX 8u /* names of files that a workload uses, 0 ... */
#define SIM_MODEL_SNAPSHOT_MAX 64u
#define SIM_MODEL_TEXT_MAX 512u

enum sim_model_op {
    SIM_MODEL_CREATE,
    SIM_MODEL_START,
    SIM_MODEL_STOP,
    SIM_MODEL_KILL,
    SIM_MODEL_PAUSE,
    SIM_MODEL_RESUME,
    SIM_MODEL_EXEC, /* a command that changes nothing; `value`: the exit code that it must give */
    SIM_MODEL_PUT,  /* a command that writes `value` (> 0) to the guest's file `file` */
    SIM_MODEL_GET,  /* a command that reads it: the result is its value, 0 when it is not there */
    SIM_MODEL_SNAPSHOT, /* the result is the snapshot's id, chosen by the caller, never used before
                         */
    SIM_MODEL_RESTORE,  /* `snapshot`, in place */
    SIM_MODEL_FORK,     /* `snapshot` becomes a new VM, `target` */
    SIM_MODEL_FORGET,   /* the snapshot is removed */
    SIM_MODEL_DELETE,
    SIM_MODEL_DELETE_FORCE,
    SIM_MODEL_OP_COUNT,
};

struct sim_model_call {
    enum sim_model_op op;
    uint32_t vm;
    uint32_t file;
    uint64_t value;
    uint32_t snapshot;
    uint32_t target;
    /* The VM's configuration does not fit the snapshot (RESTORE, FORK), or there is something else
     * wrong with the call: a code that is the only answer allowed; 0: nothing. */
    int must_fail;
};

const char *kelpie__sim_model_op_name(enum sim_model_op op);

struct sim_model;

#endif
