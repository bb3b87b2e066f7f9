/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Faults of the simulated world: which call goes wrong, and how. A plan is text (docs/testing.md,
 * docs/simulation.md); os_fault_plan.h parses it for the real programs and for the simulator.
 * Decisions are hashes of seed, point, role, birth of the process and number of the call, so that a
 * call added elsewhere moves nothing.
 */
#ifndef KELPIE_SIM_FAULT_H
#define KELPIE_SIM_FAULT_H

#include "sim/machine.h"

#define SIM_FAULT_RULE_MAX 16384u
/* Fired faults that the concrete plan holds; more are counted only. */
#define SIM_FAULT_LOG_BYTES_MAX (8u * 1024u * 1024u)

/* What is told when a bit of a file has changed by itself, before the path. */
#define SIM_FAULT_ROTTED "rot in "

struct sim_faults;

/* NULL for a bad plan (out_problem: line, column, what was expected), or without memory. plan NULL:
 * none. */
struct sim_faults *kelpie__sim_faults_create(struct sim_world *world, const char *plan,
                                             char out_problem[256]);
void kelpie__sim_faults_destroy(struct sim_faults *faults); /* takes NULL */

/* More rules while the world runs; they count from now on. 0, or -EINVAL and nothing is added. */
int kelpie__sim_faults_add(struct sim_faults *faults, const char *plan, char out_problem[256]);

/* What is not decided yet is decided by another seed. */
void kelpie__sim_faults_reseed(struct sim_faults *faults, uint64_t seed);

/* At a call's entry: fills in call->fault_*, or kills, stops, delays, cuts the power through the
 * world's functions. Called by kelpie__sim_enter only, which looks at the process's state
 * afterwards. */
void kelpie__sim_faults_call(struct sim_faults *faults, struct sim_call *call);
/* At a named point of an inhabitant ("qmp.migrate", "guest.boot", "agent.frame"; all of them in
 * os_fault_words.c): the action's name when one fires ("fail", "short", "panic", ...), with its
 * argument (of "late": microseconds); else NULL. `kill`, `stop` and `power-loss` are done here, and
 * NULL is given. `role` as of the process. */
const char *kelpie__sim_faults_point(struct sim_faults *faults, struct sim_process *process,
                                     const char *point, uint64_t *out_argument);

/* No fault fires from now on (liveness); stopped peers go on, the disk has room and can be written.
 * What has rotted stays. */
void kelpie__sim_faults_off(struct sim_faults *faults);
bool kelpie__sim_faults_are_off(const struct sim_faults *faults);
/* Every fault that fired, as a plan of nth= rules that replays alone; with its header. Gives its
 * whole length; cut to capacity (out may be NULL when that is 0). */
size_t kelpie__sim_faults_concrete(const struct sim_faults *faults, char *out, size_t capacity);
uint32_t kelpie__sim_faults_fired(const struct sim_faults *faults);
/* Fired of one class ("qmp", "disk", "agent", "kill", ...; index < count). */
uint32_t kelpie__sim_faults_class_count(void);
const char *kelpie__sim_faults_class_name(uint32_t index);
uint32_t kelpie__sim_faults_class_fired(const struct sim_faults *faults, uint32_t index);
/* Whether one of the class of that name, which there is, has fired. */
bool kelpie__sim_faults_has_class_fired(const struct sim_faults *faults, const char *name);
uint32_t kelpie__sim_faults_rule_count(const struct sim_faults *faults);
/* The index-th rule (below the count), with how often it has fired. */
struct kelpie_fault_rule;
const struct kelpie_fault_rule *kelpie__sim_faults_rule(const struct sim_faults *faults,
                                                        uint32_t index);
/* How often the index-th rule of the plan has fired; false: there is none. out: its text. */
bool kelpie__sim_faults_rule_fired(const struct sim_faults *faults, uint32_t index, char out[512],
                                   uint64_t *out_fired);

/* A plan for a swarm seed (swarm.h): each class off with p = 1/2, else p log-uniform. Written to
 * out; deterministic in the seed. Gives its length. */
size_t kelpie__sim_faults_swarm(uint64_t seed, char *out, size_t capacity);
/* The rule that one of the contract's names stands for ("boot fails"), without its trigger, in
 * `out`. False: unknown. Plans understand the names by themselves: "boot fails p=0.5". */
bool kelpie__sim_faults_alias(const char *name, char *out, size_t capacity);

/* What decides: a hash of these words. kelpie__sim_decide is this with the world's seed. */
uint64_t kelpie__sim_fault_hash(uint64_t seed, const char *point, const char *role, uint64_t birth,
                                uint64_t nth);

#endif
