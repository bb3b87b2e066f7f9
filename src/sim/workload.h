/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the clients of a run do: operations drawn before it begins, so that a run is a function of a
 * list, and a failing one can be made smaller by leaving operations out.
 */
#ifndef KELPIE_SIM_WORKLOAD_H
#define KELPIE_SIM_WORKLOAD_H

#include "sim/model.h"
#include "sim/swarm.h"

#define SIM_OPERATION_MAX 4096u
#define SIM_ROOT_DIRECTORY "/srv/root" /* on the host, of a run whose VMs have disks */
#define SIM_HERD_SIZE 6u
#define SIM_HERD_MAX (2 + SIM_OPERATION_MAX / SIM_HERD_SIZE)

/* Kinds of SIM_MODEL_EXEC: what the command does, and how its answer is checked. */
enum sim_command {
    SIM_COMMAND_ECHO,    /* says a word of its own */
    SIM_COMMAND_CODE,    /* ends with a code of its own */
    SIM_COMMAND_SIGNAL,  /* kills itself */
    SIM_COMMAND_TIMEOUT, /* outlives its timeout, with children that left its group */
    SIM_COMMAND_SOURCE,  /* many bytes of a known pattern */
    SIM_COMMAND_CAT,     /* gives back what it reads */
    SIM_COMMAND_SLEEP,   /* takes its time */
    SIM_COMMAND_MISSING, /* is not there */
    SIM_COMMAND_SLOW,    /* as source; who reads it takes breaks */
    SIM_COMMAND_DEAF,    /* is given bytes, and reads none */
    SIM_COMMAND_ATTACH,  /* as slow, and lets go of it half-way, and attaches again */
    SIM_COMMAND_COUNT,
};

/* What the model does not know of, because it changes nothing that it keeps. */
enum sim_look {
    SIM_LOOK_INSPECT,
    SIM_LOOK_STATS,
    SIM_LOOK_HEALTH,
    SIM_LOOK_LIST,
    SIM_LOOK_EVENTS,
    SIM_LOOK_REOPEN, /* closes the library, with all that this client owns, and opens it again */
    SIM_LOOK_REST,   /* sleeps */
    /* client_pool.h: nobody else uses what these make */
    SIM_LOOK_POOL_MAKE,
    SIM_LOOK_POOL_CLAIM,
    SIM_LOOK_POOL_REMOVE,
    SIM_LOOK_POOL_LOOK,
    SIM_LOOK_COUNT,
};

struct sim_operation {
    bool is_look;
    uint8_t client;
    uint8_t vm;
    uint8_t target;   /* of a FORK or CREATE_FROM: the new VM */
    uint8_t kind;     /* enum sim_command of an EXEC, enum sim_look of a look */
    uint16_t rest_ms; /* before it */
    int64_t at_ns;    /* not before this time, and then without rest or herd; 0: as it comes */
    enum sim_model_op op;
    uint32_t herd;     /* 0: none. Those of one herd are of one VM, and are done at one time */
    uint32_t snapshot; /* of those that are about one: its number; 0: none */
    uint64_t value;    /* never the same twice: what is written, said, or given back */
};

/* The operations of all clients, in the order in which each does its own. Gives how many: at most
 * `capacity`. */
uint32_t kelpie__sim_workload_draw(const struct sim_swarm *swarm, struct sim_operation *out,
                                   uint32_t capacity);
/* VMs that operations name: those that are made at first, and those that may be made from
 * snapshots. */
uint32_t kelpie__sim_workload_vm_count(const struct sim_swarm *swarm);
/* This VM is ephemeral, and lives as long as the client that made it; else it is detached and
 * durable. */
bool kelpie__sim_workload_is_owned(const struct sim_swarm *swarm, uint32_t vm);
const char *kelpie__sim_command_name(uint32_t command); /* enum sim_command: "cat" */
const char *kelpie__sim_look_name(uint32_t look);       /* enum sim_look: "inspect" */
/* What a stop gives its guest; one in three gives little. */
uint64_t kelpie__sim_workload_stop_ms(const struct sim_swarm *swarm,
                                      const struct sim_operation *operation);
/* "client 2: exec cat on vm-3 (value 17)". */
void kelpie__sim_operation_text(const struct sim_operation *operation, char *out, size_t capacity);

#endif
