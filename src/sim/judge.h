/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Judges the answers that clients get: against the reference model (model.h), against their own
 * deadlines, and, in a calm run, against the promise that nothing goes wrong. A wrong one fails the
 * world.
 */
#ifndef KELPIE_SIM_JUDGE_H
#define KELPIE_SIM_JUDGE_H

#include "sim/workload.h"
#include "sim/world.h"

#define SIM_JUDGE_CLIENT_MAX (SIM_SWARM_CLIENT_MAX + 1u) /* and the one that resumes */

struct kelpie_error;
struct sim_judge;
struct sim_snapshots;

/* What a run has checked: a run with nothing here is vacuous. */
struct sim_judge_counts {
    uint64_t calls;
    uint64_t succeeded;
    uint64_t failed;   /* refused, or ended by a fault */
    uint64_t commands; /* whose answer was compared */
    uint64_t snapshots;
};

/* In a calm run there is no error but the model's refusals. NULL without memory. */
struct sim_judge *kelpie__sim_judge_create(struct sim_world *world, const struct sim_swarm *swarm);
void kelpie__sim_judge_destroy(struct sim_judge *judge); /* takes NULL */

/* Around each call of a client: at most one at a time for each. Of the looks (is_look) only
 * SIM_LOOK_INSPECT is one. */
void kelpie__sim_judge_begin(struct sim_judge *judge, const struct sim_operation *operation,
                             uint64_t deadline_ms);
/* The STOP that it has begun is asked for now. */
void kelpie__sim_judge_stops(struct sim_judge *judge, uint32_t client);
/* `result`: of a GET the value, of an EXEC the exit code, of a STOP 1 if the guest had to be
 * killed, of an inspect the state. `error`: with status < 0. */
void kelpie__sim_judge_end(struct sim_judge *judge, uint32_t client, int status, uint64_t result,
                           const struct kelpie_error *error);
/* The client is gone: a call of its is without an answer, and may have happened; the VMs that it
 * owned go. */
void kelpie__sim_judge_client_gone(struct sim_judge *judge, uint32_t client);
/* This VM is this client's, and goes with it. */
void kelpie__sim_judge_owns(struct sim_judge *judge, uint32_t client, uint32_t vm);
void kelpie__sim_judge_power_loss(struct sim_judge *judge);
/* A fault has changed what the VM's guest or its programs say: from now on their words are not
 * compared. */
void kelpie__sim_judge_tamper(struct sim_judge *judge, uint32_t vm);
bool kelpie__sim_judge_is_tampered(const struct sim_judge *judge, uint32_t vm);

/* What is true of snapshots, from now on: the answers about them are compared with it. Borrowed
 * until the judge is destroyed. */
void kelpie__sim_judge_watch(struct sim_judge *judge, struct sim_snapshots *snapshots);

/* The VM in which this client waits for a command; false: it does not. */
bool kelpie__sim_judge_waits_for_command(const struct sim_judge *judge, uint32_t client,
                                         uint32_t *out_vm);

/* Whether somebody waits for this VM to be resumed. */
bool kelpie__sim_judge_is_resuming(const struct sim_judge *judge, uint32_t vm);

const struct sim_judge_counts *kelpie__sim_judge_counts(const struct sim_judge *judge);

#endif
