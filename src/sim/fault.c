/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See fault.h. A rule counts the calls of each process for itself, and what it decides for the n-th
 * is a hash: no rule moves another, and none moves when a call is added somewhere else. For each
 * process the rules that can concern it are sorted by operation once, so that a call looks only at
 * those.
 */
#include "sim/fault_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/disk.h"
#include "sim/guest.h"

#define LABEL_NAMED SIM_OP_COUNT /* the bucket of inhabitants' points */
#define PARENTS_MAX 8u
#define NS_PER_MS 1000000
#define NS_PER_US 1000u
#define WHERE_BYTES_MAX 200

/* ---- hashes ---------------------------------------------------------------------------------- */

static uint64_t hash_mix(uint64_t hash) {
    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint64_t hash_text(uint64_t hash, const char *text) {
    for (const char *next = text; *next != '\0'; next += 1) {
        hash = (hash ^ (uint8_t)*next) * UINT64_C(0x100000001b3);
    }
    return hash_mix(hash + 1);
}

static uint64_t hash_base(uint64_t seed, const char *point, const char *role, uint64_t birth) {
    uint64_t hash = hash_mix(seed + UINT64_C(0x9e3779b97f4a7c15));
    hash = hash_text(hash, point);
    hash = hash_text(hash, role);
    return hash_mix(hash + birth * UINT64_C(0x9e3779b97f4a7c15));
}

static uint64_t hash_nth(uint64_t base, uint64_t nth) {
    return hash_mix(base + nth * UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t kelpie__sim_fault_hash(uint64_t seed, const char *point, const char *role, uint64_t birth,
                                uint64_t nth) {
    return hash_nth(hash_base(seed, point, role, birth), nth);
}

uint64_t kelpie__sim_decide(const struct sim_world *world, const char *point, const char *role,
                            uint64_t birth, uint64_t nth) {
    return kelpie__sim_fault_hash(kelpie__sim_world_options(world)->seed, point, role, birth, nth);
}

/* ---- making ---------------------------------------------------------------------------------- */

static uint32_t op_of(const char *name) {
    for (uint32_t op = 0; op < SIM_OP_COUNT; op += 1) {
        if (strcmp(kelpie__sim_op_name((enum sim_op)op), name) == 0) {
            return op;
        }
    }
    return SIM_OP_COUNT;
}

/* False: this simulator has no such operation. */
static bool rule_init(struct sim_fault_rule *rule) {
    const char *operation = rule->rule.point;
    rule->op = SIM_OP_COUNT;
    if (rule->rule.kind == KELPIE_FAULT_POINT_LABEL) {
        size_t length = strcspn(rule->rule.point, ".");
        KELPIE_ASSERT(length < sizeof(rule->label));
        memcpy(rule->label, rule->rule.point, length);
        operation += length + 1;
    }
    if (rule->rule.kind == KELPIE_FAULT_POINT_LABEL || rule->rule.kind == KELPIE_FAULT_POINT_CALL) {
        rule->op = op_of(operation);
        if (rule->op == SIM_OP_COUNT) {
            return false;
        }
    }
    snprintf(rule->key, sizeof(rule->key), "%s %s=>%s%s", rule->rule.point, rule->rule.path,
             kelpie__fault_action_name(&rule->rule), rule->rule.is_lie ? ":lie" : "");
    return true;
}

/* A profile that the plan names has to be the world's. */
static bool profile_fits(const struct sim_faults *faults, const struct kelpie_fault_rule *rule) {
    enum sim_disk_profile profile = kelpie__sim_world_options(faults->world)->disk_profile;
    if (rule->action != KELPIE_FAULT_POWER_LOSS || rule->argument == KELPIE_FAULT_PROFILE_ANY) {
        return true;
    }
    return profile ==
           (rule->argument == KELPIE_FAULT_PROFILE_EXT4 ? SIM_DISK_EXT4 : SIM_DISK_POSIX);
}

static bool add_rule(struct sim_faults *faults, const struct kelpie_fault_rule *rule,
                     char out_problem[256]) {
    if (faults->rule_count % 64 == 0) {
        struct sim_fault_rule *rules =
            realloc(faults->rules, (faults->rule_count + 64) * sizeof(*rules));
        if (rules == NULL) {
            snprintf(out_problem, 256, "no memory for the fault plan");
            return false;
        }
        faults->rules = rules;
    }
    struct sim_fault_rule *added = &faults->rules[faults->rule_count];
    *added = (struct sim_fault_rule){.rule = *rule};
    faults->rule_count += 1;
    if (!rule_init(added)) {
        snprintf(out_problem, 256, "the simulated system has no operation for \"%s\"", rule->point);
        return false;
    }
    if (!profile_fits(faults, rule)) {
        snprintf(out_problem, 256, "the disk of this world has another profile than \"%s\" needs",
                 "power-loss");
        return false;
    }
    return true;
}

static bool read_rules(struct sim_faults *faults, const char *plan, char out_problem[256]) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    int status = kelpie__fault_reader_open(&reader, plan) ? 1 : -1;
    while (status == 1) { /* bound: the text */
        status = kelpie__fault_reader_next(&reader, &rule);
        if (status == 1 && faults->rule_count == SIM_FAULT_RULE_MAX) {
            snprintf(out_problem, 256, "a fault plan holds at most %u rules", SIM_FAULT_RULE_MAX);
            return false;
        }
        if (status == 1 && !add_rule(faults, &rule, out_problem)) {
            return false;
        }
    }
    if (status < 0) {
        snprintf(out_problem, 256, "%.255s", reader.problem);
    }
    return status == 0;
}

struct sim_faults *kelpie__sim_faults_create(struct sim_world *world, const char *plan,
                                             char out_problem[256]) {
    char problem[256] = "";
    struct sim_faults *faults = calloc(1, sizeof(*faults));
    struct sim_fault_pending *pending = calloc(SIM_FAULT_PENDING_MAX, sizeof(*pending));
    bool is_good = faults != NULL && pending != NULL;
    if (!is_good) {
        free(faults);
        free(pending);
        faults = NULL;
        snprintf(problem, sizeof(problem), "no memory for the fault plan");
    } else {
        faults->world = world;
        faults->pending = pending;
        faults->seed = kelpie__sim_world_options(world)->seed;
        is_good = plan == NULL || read_rules(faults, plan, problem);
    }
    if (!is_good) {
        kelpie__sim_faults_destroy(faults);
        if (out_problem != NULL) {
            snprintf(out_problem, 256, "%s", problem);
        }
        return NULL;
    }
    kelpie__sim_fault_arm(faults, 0);
    return faults;
}

static void process_destroy(struct sim_fault_process *process) {
    if (process != NULL) {
        free(process->slots);
        free(process->indexes);
        free(process);
    }
}

void kelpie__sim_faults_destroy(struct sim_faults *faults) {
    if (faults == NULL) {
        return;
    }
    for (uint64_t i = 0; i < faults->process_capacity; i += 1) {
        process_destroy(faults->processes[i]);
    }
    free(faults->processes);
    free(faults->rules);
    free(faults->log);
    free(faults->pending);
    free(faults);
}

/* ---- the rules of a process ------------------------------------------------------------------ */

/* The name of the VM that a process works for: what its monitor was started with. NULL: none. */
static const char *vm_of(struct sim_process *process) {
    struct sim_process *at = process;
    if (at->machine->guest != NULL) {
        at = kelpie__sim_guest_owner(at->machine->guest);
    }
    for (uint32_t i = 0; i < PARENTS_MAX && at != NULL; i += 1) {
        for (int j = 1; strcmp(at->role, "monitor") == 0 && j + 1 < at->argc; j += 1) {
            if (strcmp(at->argv[j], "--name") == 0) {
                return at->argv[j + 1];
            }
        }
        at = at->parent;
    }
    return NULL;
}

static bool concerns(const struct sim_fault_rule *rule, const struct sim_fault_process *process) {
    const struct kelpie_fault_rule *plan = &rule->rule;
    return plan->kind != KELPIE_FAULT_POINT_WORLD &&
           (plan->birth == 0 || plan->birth == process->birth) &&
           (plan->role[0] == '\0' || strcmp(plan->role, process->role) == 0) &&
           (plan->vm[0] == '\0' ||
            (process->vm[0] != '\0' && kelpie__fault_glob(plan->vm, process->vm)));
}

/* Whether a rule belongs to a bucket: an operation, or the named points. */
static bool is_of_bucket(const struct sim_fault_rule *rule, uint32_t bucket) {
    if (bucket == LABEL_NAMED) {
        return rule->rule.kind == KELPIE_FAULT_POINT_NAMED;
    }
    return rule->rule.kind == KELPIE_FAULT_POINT_ANY || rule->op == bucket;
}

static bool process_sort(const struct sim_faults *faults, struct sim_fault_process *out) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < out->slot_count; i += 1) {
        const struct sim_fault_rule *rule = &faults->rules[out->slots[i].rule];
        total += rule->rule.kind == KELPIE_FAULT_POINT_ANY ? SIM_OP_COUNT : 1;
    }
    uint32_t *indexes = calloc(total + 1, sizeof(*indexes));
    if (indexes == NULL) {
        return false;
    }
    uint32_t at = 0;
    for (uint32_t bucket = 0; bucket <= LABEL_NAMED; bucket += 1) {
        out->first[bucket] = at;
        for (uint32_t i = 0; i < out->slot_count; i += 1) {
            if (is_of_bucket(&faults->rules[out->slots[i].rule], bucket)) {
                indexes[at] = i;
                at += 1;
            }
        }
    }
    out->first[LABEL_NAMED + 1] = at;
    free(out->indexes);
    out->indexes = indexes;
    KELPIE_ASSERT(at == total);
    return true;
}

/* The rules from the first-th on that concern the process join those that it has. */
static bool process_extend(const struct sim_faults *faults, struct sim_fault_process *process,
                           uint32_t first) {
    uint32_t count = process->slot_count;
    for (uint32_t i = first; i < faults->rule_count; i += 1) {
        count += concerns(&faults->rules[i], process) ? 1 : 0;
    }
    struct sim_fault_slot *slots = realloc(process->slots, (count + 1) * sizeof(*slots));
    if (slots == NULL) {
        return false;
    }
    process->slots = slots;
    for (uint32_t i = first; i < faults->rule_count; i += 1) {
        if (concerns(&faults->rules[i], process)) {
            slots[process->slot_count] =
                (struct sim_fault_slot){.rule = i,
                                        .base = hash_base(faults->seed, faults->rules[i].key,
                                                          process->role, process->birth)};
            process->slot_count += 1;
        }
    }
    KELPIE_ASSERT(process->slot_count == count);
    return process_sort(faults, process);
}

static struct sim_fault_process *process_create(const struct sim_faults *faults,
                                                struct sim_process *process) {
    const char *vm = vm_of(process);
    struct sim_fault_process *made = calloc(1, sizeof(*made));
    if (made == NULL) {
        return NULL;
    }
    made->birth = process->birth;
    snprintf(made->role, sizeof(made->role), "%s", process->role);
    snprintf(made->vm, sizeof(made->vm), "%s", vm == NULL ? "" : vm);
    if (!process_extend(faults, made, 0)) {
        process_destroy(made);
        return NULL;
    }
    return made;
}

/* Of a process that is met for the first time, or again. NULL: no memory; the run fails. */
static struct sim_fault_process *process_of(struct sim_faults *faults,
                                            struct sim_process *process) {
    uint64_t birth = process->birth;
    if (birth >= faults->process_capacity) {
        uint64_t capacity = birth < 64 ? 128 : birth * 2;
        struct sim_fault_process **grown =
            realloc(faults->processes, (size_t)capacity * sizeof(struct sim_fault_process *));
        if (grown == NULL) {
            kelpie__sim_world_fail(faults->world, "no memory for the faults of a process");
            return NULL;
        }
        for (uint64_t i = faults->process_capacity; i < capacity; i += 1) {
            grown[i] = NULL;
        }
        faults->processes = grown;
        faults->process_capacity = capacity;
    }
    if (faults->processes[birth] == NULL) {
        faults->processes[birth] = process_create(faults, process);
        if (faults->processes[birth] == NULL) {
            kelpie__sim_world_fail(faults->world, "no memory for the faults of a process");
        }
    }
    return faults->processes[birth];
}

int kelpie__sim_faults_add(struct sim_faults *faults, const char *plan, char out_problem[256]) {
    uint32_t first = faults->rule_count;
    char problem[256] = "";
    if (!read_rules(faults, plan, problem)) {
        faults->rule_count = first;
        snprintf(out_problem, 256, "%s", problem);
        return -EINVAL;
    }
    for (uint32_t i = first; i < faults->rule_count; i += 1) {
        faults->rules[i].is_added = true;
    }
    for (uint64_t i = 0; i < faults->process_capacity; i += 1) {
        if (faults->processes[i] != NULL && !process_extend(faults, faults->processes[i], first)) {
            kelpie__sim_world_fail(faults->world, "no memory for the faults of a process");
            break;
        }
    }
    kelpie__sim_fault_arm(faults, first);
    return 0;
}

void kelpie__sim_faults_reseed(struct sim_faults *faults, uint64_t seed) {
    faults->seed = seed;
    for (uint64_t i = 0; i < faults->process_capacity; i += 1) {
        struct sim_fault_process *process = faults->processes[i];
        for (uint32_t j = 0; process != NULL && j < process->slot_count; j += 1) {
            struct sim_fault_slot *slot = &process->slots[j];
            slot->base =
                hash_base(seed, faults->rules[slot->rule].key, process->role, process->birth);
        }
    }
}

/* ---- does a rule fire? ----------------------------------------------------------------------- */

static bool trigger_fires(const struct sim_fault_rule *rule, const struct sim_fault_slot *slot) {
    bool has_mark = rule->rule.mark[0] != '\0';
    uint64_t n = has_mark ? slot->calls_mark : slot->calls;
    switch (rule->rule.trigger) {
    case KELPIE_FAULT_ALWAYS:
        return !has_mark || rule->armed > 0;
    case KELPIE_FAULT_PROBABILITY:
        return hash_nth(slot->base, slot->calls) % KELPIE_FAULT_PER_ONE < rule->rule.value;
    case KELPIE_FAULT_NTH:
        return n == rule->rule.value;
    case KELPIE_FAULT_EVERY:
        return n % rule->rule.value == 0;
    }
    return false;
}

/* Counts the call for this rule; whether it is to fire. */
static bool slot_fires(struct sim_faults *faults, struct sim_fault_slot *slot) {
    const struct sim_fault_rule *rule = &faults->rules[slot->rule];
    bool has_mark = rule->rule.mark[0] != '\0';
    slot->calls += 1;
    if (has_mark && rule->marks == 0) {
        return false;
    }
    slot->calls_mark += 1;
    if (!trigger_fires(rule, slot) || (rule->rule.max != 0 && rule->rule.fired >= rule->rule.max)) {
        return false;
    }
    if (rule->rule.has_window) {
        uint64_t now_ns = (uint64_t)kelpie__sim_now(faults->world);
        if (now_ns < rule->rule.window_begin_ns || now_ns >= rule->rule.window_end_ns) {
            return false;
        }
    }
    return !rule->rule.needs_pending ||
           kelpie__sim_disk_pending(kelpie__sim_world_disk(faults->world)) > 0;
}

static bool is_of_child(const struct kelpie_fault_rule *rule) {
    return rule->action == KELPIE_FAULT_KILL_CHILD || rule->action == KELPIE_FAULT_STOP_CHILD;
}

static bool matches(const struct sim_fault_rule *rule, const struct sim_call *call) {
    const struct kelpie_fault_rule *plan = &rule->rule;
    if (rule->label[0] != '\0' && (call->label == NULL || strcmp(call->label, rule->label) != 0)) {
        return false;
    }
    return plan->path[0] == '\0' || is_of_child(plan) ||
           (call->path != NULL && kelpie__fault_glob(plan->path, call->path));
}

/* ---- what a fired rule does ------------------------------------------------------------------ */

void kelpie__sim_fault_record(struct sim_faults *faults, const struct sim_fault_rule *rule,
                              struct sim_process *process, uint64_t nth, enum sim_fault_class class,
                              const char *where) {
    char line[KELPIE_FAULT_LINE_MAX + WHERE_BYTES_MAX];
    struct kelpie_fault_rule concrete = rule->rule;
    bool is_of_world = process == NULL;
    KELPIE_ASSERT(is_of_world == (rule->rule.kind == KELPIE_FAULT_POINT_WORLD));
    concrete.max = 0;
    concrete.needs_pending = false;
    concrete.vm[0] = '\0';
    bool is_of_time = is_of_world && rule->rule.mark[0] == '\0';
    concrete.trigger = is_of_time ? KELPIE_FAULT_ALWAYS : KELPIE_FAULT_NTH;
    concrete.value = nth;
    bool is_of_call = !is_of_world && rule->rule.kind != KELPIE_FAULT_POINT_NAMED;
    if (is_of_call && rule->is_added) { /* `nth` counts all calls since its birth */
        snprintf(concrete.point, sizeof(concrete.point), "*");
        concrete.path[0] = is_of_child(&rule->rule) ? concrete.path[0] : '\0';
    }
    if (!is_of_world) {
        snprintf(concrete.role, sizeof(concrete.role), "%s", process->role);
        concrete.birth = process->birth;
        concrete.mark[0] = '\0';
    }
    concrete.has_window = is_of_time;
    if (is_of_time) {
        concrete.window_begin_ns = (uint64_t)kelpie__sim_now(faults->world);
        concrete.window_end_ns = concrete.window_begin_ns + 1;
    }
    size_t length = kelpie__fault_rule_format(&concrete, line);
    uint64_t now_ms = (uint64_t)kelpie__sim_now(faults->world) / NS_PER_MS;
    kelpie__sim_world_mix(faults->world, line, length);
    const char *vm = process == NULL ? "" : faults->processes[process->birth]->vm;
    int added = snprintf(line + length, WHERE_BYTES_MAX, " # %llu.%03llu s %.110s%s%s",
                         (unsigned long long)(now_ms / 1000), (unsigned long long)(now_ms % 1000),
                         where, vm[0] == '\0' ? "" : " for ", vm);
    for (char *at = line + length; *at != '\0'; at += 1) {
        *at = (uint8_t)*at < 0x20 ? '?' : *at; /* a path with a line's end in it ends no line */
    }
    length += (size_t)(added < WHERE_BYTES_MAX ? added : WHERE_BYTES_MAX - 1);
    struct sim_event event = {.type = SIM_EVENT_FAULT, .process = process, .detail = line};
    faults->fired += 1;
    faults->class_fired[class] += 1;
    kelpie__sim_world_emit(faults->world, &event);
    if (faults->log_length + length + 2 > faults->log_capacity) {
        size_t capacity = faults->log_capacity == 0 ? 4096 : faults->log_capacity * 2;
        char *log = capacity > SIM_FAULT_LOG_BYTES_MAX ? NULL : realloc(faults->log, capacity);
        if (log == NULL) {
            return; /* counted; the concrete plan says that it is cut */
        }
        faults->log = log;
        faults->log_capacity = capacity;
    }
    memcpy(faults->log + faults->log_length, line, length);
    faults->log[faults->log_length + length] = '\n';
    faults->log_length += length + 1;
}

static void act_on_process(struct sim_faults *faults, struct sim_process *process,
                           const struct kelpie_fault_rule *rule) {
    if (rule->action == KELPIE_FAULT_KILL) {
        kelpie__sim_process_signal(process, SIGKILL);
    } else if (rule->action == KELPIE_FAULT_STOP) {
        kelpie__ignore(kelpie__sim_fault_stop(faults, process, (int64_t)rule->argument));
    } else if (rule->action == KELPIE_FAULT_KILL_CHILD) {
        kelpie__sim_fault_signal_children(faults, process, rule, SIGKILL);
    } else if (rule->action == KELPIE_FAULT_STOP_CHILD) {
        kelpie__sim_fault_signal_children(faults, process, rule, SIGSTOP);
    } else if (rule->action == KELPIE_FAULT_POWER_LOSS) {
        kelpie__sim_world_power_loss(faults->world);
    } else if (rule->action == KELPIE_FAULT_JUMP) {
        kelpie__sim_jump_wall(faults->world, (int64_t)rule->argument);
    } else if (rule->action == KELPIE_FAULT_DELAY) {
        kelpie__sim_process_sleep(process, (int64_t)rule->argument * NS_PER_MS);
    }
}

static void act_on_call(struct sim_call *call, const struct kelpie_fault_rule *rule,
                        uint64_t hash) {
    if (rule->action == KELPIE_FAULT_ERRNO) {
        call->fault_errno = (int)rule->argument;
        call->fault_lie = rule->is_lie;
    } else if (rule->action == KELPIE_FAULT_SHORT) {
        call->fault_short = kelpie__max_u64(rule->argument, 1);
    } else if (rule->action == KELPIE_FAULT_MUTATE) {
        call->fault_mutate = hash | 1;
    } else if (rule->action == KELPIE_FAULT_DROP) {
        call->fault_drop = true;
    } else if (rule->action == KELPIE_FAULT_LIE) {
        call->fault_lie = true;
    }
}

/* Not a part of its caller, which passes it by at nearly every call. */
__attribute__((noinline)) static void call_meets_rules(struct sim_faults *faults,
                                                       struct sim_call *call) {
    KELPIE_ASSERT((uint32_t)call->op < SIM_OP_COUNT);
    if (faults->pending_count > 0 && kelpie__sim_fault_run_pending(faults)) {
        return; /* the process that called is gone */
    }
    struct sim_fault_process *process = process_of(faults, call->process);
    struct sim_fault_slot *found = NULL;
    uint32_t end = process == NULL ? 0 : process->first[call->op + 1];
    for (uint32_t i = process == NULL ? 0 : process->first[call->op]; i < end; i += 1) {
        struct sim_fault_slot *slot = &process->slots[process->indexes[i]];
        const struct sim_fault_rule *rule = &faults->rules[slot->rule];
        if (matches(rule, call) && slot_fires(faults, slot) && found == NULL &&
            kelpie__sim_fault_suits(&rule->rule, call)) {
            found = slot;
        }
    }
    if (found == NULL) {
        return;
    }
    struct sim_fault_rule *rule = &faults->rules[found->rule];
    uint64_t hash = hash_nth(found->base, found->calls);
    rule->rule.fired += 1;
    rule->armed -= rule->armed > 0 ? 1 : 0;
    char where[WHERE_BYTES_MAX];
    snprintf(where, sizeof(where), "in %s(%s%s%s)", kelpie__sim_op_name(call->op),
             call->label == NULL ? "" : call->label,
             call->label == NULL || call->path == NULL ? "" : ", ",
             call->path == NULL ? "" : call->path);
    kelpie__sim_fault_record(faults, rule, call->process, rule->is_added ? call->nth : found->calls,
                             kelpie__sim_fault_class_of_call(&rule->rule, call->op), where);
    act_on_call(call, &rule->rule, hash);
    act_on_process(faults, call->process, &rule->rule);
}

void kelpie__sim_faults_call(struct sim_faults *faults, struct sim_call *call) {
    if (!faults->is_off && faults->rule_count > 0) {
        call_meets_rules(faults, call);
    }
}

const char *kelpie__sim_faults_point(struct sim_faults *faults, struct sim_process *process,
                                     const char *point, uint64_t *out_argument) {
    if (faults->is_off || faults->rule_count == 0) {
        return NULL;
    }
    struct sim_fault_process *own = process_of(faults, process);
    struct sim_fault_slot *found = NULL;
    uint32_t end = own == NULL ? 0 : own->first[LABEL_NAMED + 1];
    for (uint32_t i = own == NULL ? 0 : own->first[LABEL_NAMED]; i < end; i += 1) {
        struct sim_fault_slot *slot = &own->slots[own->indexes[i]];
        if (strcmp(faults->rules[slot->rule].rule.point, point) == 0 && slot_fires(faults, slot) &&
            found == NULL) {
            found = slot;
        }
    }
    if (found == NULL) {
        return NULL;
    }
    KELPIE_ASSERT(kelpie__fault_point_kind(point) == KELPIE_FAULT_POINT_NAMED);
    struct sim_fault_rule *rule = &faults->rules[found->rule];
    char where[KELPIE_FAULT_TEXT_MAX + 4];
    snprintf(where, sizeof(where), "at %.63s", point);
    bool is_signal = rule->rule.action == KELPIE_FAULT_KILL ||
                     rule->rule.action == KELPIE_FAULT_STOP ||
                     rule->rule.action == KELPIE_FAULT_POWER_LOSS;
    rule->rule.fired += 1;
    rule->armed -= rule->armed > 0 ? 1 : 0;
    kelpie__sim_fault_record(faults, rule, process, found->calls,
                             kelpie__sim_fault_class_of_point(&rule->rule), where);
    if (is_signal) {
        act_on_process(faults, process, &rule->rule);
        return NULL;
    }
    if (out_argument != NULL) {
        bool is_time =
            kelpie__fault_word(rule->rule.action_index)->takes == KELPIE_FAULT_ARGUMENT_TIME;
        *out_argument = is_time ? rule->rule.argument / NS_PER_US : rule->rule.argument;
    }
    return kelpie__fault_action_name(&rule->rule);
}

/* ---- the end of all faults --------------------------------------------------------------------
 */

void kelpie__sim_faults_off(struct sim_faults *faults) {
    faults->is_off = true;
    faults->pending_count = 0;
    kelpie__sim_fault_release(faults);
}
