/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What fault.c (decisions) and fault_act.c (deeds) share. All of it is the world's own memory.
 */
#ifndef KELPIE_SIM_FAULT_INTERNAL_H
#define KELPIE_SIM_FAULT_INTERNAL_H

#include "os/os_fault_plan.h"
#include "sim/fault.h"

#define SIM_FAULT_PENDING_MAX 16u
#define SIM_FAULT_STOPPED_MAX 256u
#define SIM_FAULT_PATH_MAX 512u

enum sim_fault_class {
    SIM_FAULT_KILL,
    SIM_FAULT_STOP,
    SIM_FAULT_DELAY,
    SIM_FAULT_POWER,
    SIM_FAULT_MEMORY,
    SIM_FAULT_DISK,
    SIM_FAULT_STREAM,
    SIM_FAULT_PROCESS,
    SIM_FAULT_QEMU,
    SIM_FAULT_QMP,
    SIM_FAULT_GUEST,
    SIM_FAULT_AGENT,
    SIM_FAULT_PACK,
    SIM_FAULT_CLOCK,
    SIM_FAULT_CLASS_COUNT,
};

struct sim_fault_rule {
    struct kelpie_fault_rule rule;
    uint32_t op;                       /* of a call or label: enum sim_op, else SIM_OP_COUNT */
    char label[KELPIE_FAULT_TEXT_MAX]; /* of a labelled handle; "": any */
    char key[KELPIE_FAULT_TEXT_MAX * 2 + 32]; /* what its decisions are hashes of */
    uint64_t marks;                           /* seen so far */
    bool is_added;                            /* later: counts from then on */
    uint64_t armed;                           /* marks that have fired nothing yet */
};

/* A rule and a process that it is about. */
struct sim_fault_slot {
    uint32_t rule;
    uint64_t calls;      /* that matched */
    uint64_t calls_mark; /* since the rule's first mark */
    uint64_t base;       /* of the hash, without the n */
};

struct sim_fault_process {
    uint64_t birth;
    char role[SIM_NAME_BYTES_MAX];
    char vm[KELPIE_FAULT_TEXT_MAX]; /* "": none */
    uint32_t slot_count;
    struct sim_fault_slot *slots;
    uint32_t *indexes; /* of slots, op after op; then those of named points */
    uint32_t first[SIM_OP_COUNT + 2];
};

/* What waits until nobody is in the middle of something. */
struct sim_fault_pending {
    uint32_t rule;
    uint64_t nth;
    char path[SIM_FAULT_PATH_MAX];
};

struct sim_fault_stopped {
    uint64_t birth; /* 0: free */
    int32_t pid;
};

struct sim_faults {
    struct sim_world *world;
    uint64_t seed;
    bool is_off;
    bool is_observer;
    uint32_t rule_count;
    struct sim_fault_rule *rules;
    uint64_t process_capacity;
    struct sim_fault_process **processes; /* by birth */
    uint32_t fired;
    uint32_t class_fired[SIM_FAULT_CLASS_COUNT];
    size_t log_length;
    size_t log_capacity;
    char *log; /* concrete rules, a line each */
    uint32_t pending_count;
    struct sim_fault_pending *pending; /* SIM_FAULT_PENDING_MAX */
    struct sim_fault_stopped stopped[SIM_FAULT_STOPPED_MAX];
};

enum sim_fault_class kelpie__sim_fault_class_of_call(const struct kelpie_fault_rule *rule,
                                                     enum sim_op op);
enum sim_fault_class kelpie__sim_fault_class_of_point(const struct kelpie_fault_rule *rule);
/* Whether the action can be done to this call at all: one that cannot is not fired. */
bool kelpie__sim_fault_suits(const struct kelpie_fault_rule *rule, const struct sim_call *call);

/* The concrete form of a fired rule goes to the log, the observers, the hash and the counters; with
 * time and `where` ("in rename(/a)") behind it as a comment. process NULL: of the world. */
void kelpie__sim_fault_record(struct sim_faults *faults, const struct sim_fault_rule *rule,
                              struct sim_process *process, uint64_t nth, enum sim_fault_class class,
                              const char *where);

/* Stops a process of the host; duration_ns 0: until the faults end. False: it cannot be stopped. */
bool kelpie__sim_fault_stop(struct sim_faults *faults, struct sim_process *process,
                            int64_t duration_ns);
void kelpie__sim_fault_signal_children(struct sim_faults *faults, struct sim_process *process,
                                       const struct kelpie_fault_rule *rule, int signal);
/* Rules of the world, from the first-th on: arms those with a window, looks out for marks. */
void kelpie__sim_fault_arm(struct sim_faults *faults, uint32_t first);
/* Does what waits, where nobody is in the middle of anything. True: the power is gone, and with it
 * the process that called. */
bool kelpie__sim_fault_run_pending(struct sim_faults *faults);
/* Observer of the world. */
void kelpie__sim_fault_observe(void *context, struct sim_world *world,
                               const struct sim_event *event);
/* Lets everybody go on, the disk have room. */
void kelpie__sim_fault_release(struct sim_faults *faults);

#endif
