/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What kinds of faults there are: their classes, which calls an action can be done to, and what is
 * to be told of those that have fired.
 */
#include "sim/fault_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- classes --------------------------------------------------------------------------------- */

static const char *const class_names[SIM_FAULT_CLASS_COUNT] = {
    [SIM_FAULT_KILL] = "kill",     [SIM_FAULT_STOP] = "stop",       [SIM_FAULT_DELAY] = "delay",
    [SIM_FAULT_POWER] = "power",   [SIM_FAULT_MEMORY] = "memory",   [SIM_FAULT_DISK] = "disk",
    [SIM_FAULT_STREAM] = "stream", [SIM_FAULT_PROCESS] = "process", [SIM_FAULT_QEMU] = "qemu",
    [SIM_FAULT_QMP] = "qmp",       [SIM_FAULT_GUEST] = "guest",     [SIM_FAULT_AGENT] = "agent",
    [SIM_FAULT_PACK] = "pack",     [SIM_FAULT_CLOCK] = "clock",
};

uint32_t kelpie__sim_faults_class_count(void) {
    return SIM_FAULT_CLASS_COUNT;
}

const char *kelpie__sim_faults_class_name(uint32_t index) {
    KELPIE_ASSERT(index < SIM_FAULT_CLASS_COUNT);
    return class_names[index];
}

uint32_t kelpie__sim_faults_class_fired(const struct sim_faults *faults, uint32_t index) {
    KELPIE_ASSERT(index < SIM_FAULT_CLASS_COUNT);
    return faults->class_fired[index];
}

bool kelpie__sim_faults_has_class_fired(const struct sim_faults *faults, const char *name) {
    uint32_t index = 0;
    while (index < SIM_FAULT_CLASS_COUNT && strcmp(class_names[index], name) != 0) {
        index += 1;
    }
    KELPIE_ASSERT(index < SIM_FAULT_CLASS_COUNT);
    return faults->class_fired[index] > 0;
}

static bool is_one_of(const char *name, const char *const *names) {
    for (; *names != NULL; names += 1) {
        if (strcmp(name, *names) == 0) {
            return true;
        }
    }
    return false;
}

static const char *const disk_operations[] = {
    "open",        "pread",       "pwrite",    "truncate",  "sync",      "rename",
    "unlink",      "link",        "mkdir",     "list",      "stat",      "space",
    "lock",        "lock_shared", "mount",     "sync_all",  "make_node", "make_link",
    "clone_range", "memory_file", "next_data", "real_path", NULL};
static const char *const stream_operations[] = {"listen", "accept",  "connect",    "pair",
                                                "pipe",   "peer",    "read",       "write",
                                                "send",   "receive", "shut_write", NULL};
/* What cannot fail, or whose callers have no way to be told. */
static const char *const sure_operations[] = {
    "now",    "cycles", "identity",    "environment", "close",       "label",
    "exit",   "halt",   "is_terminal", "take_signal", "wait_handle", "terminal_size",
    "signal", "reap",   "reap_any",    "kill_pid",    NULL};
/* What moves bytes: can be cut, changed, lost. */
static const char *const moving_operations[] = {"read",  "write",  "send", "receive",
                                                "pread", "pwrite", NULL};
static const char *const durable_operations[] = {"sync", "sync_all", "pwrite", NULL};

enum sim_fault_class kelpie__sim_fault_class_of_call(const struct kelpie_fault_rule *rule,
                                                     enum sim_op op) {
    const char *name = kelpie__sim_op_name(op);
    switch (rule->action) {
    case KELPIE_FAULT_KILL:
    case KELPIE_FAULT_KILL_CHILD:
        return SIM_FAULT_KILL;
    case KELPIE_FAULT_STOP:
    case KELPIE_FAULT_STOP_CHILD:
    case KELPIE_FAULT_SWIZZLE:
        return SIM_FAULT_STOP;
    case KELPIE_FAULT_DELAY:
        return SIM_FAULT_DELAY;
    case KELPIE_FAULT_POWER_LOSS:
        return SIM_FAULT_POWER;
    case KELPIE_FAULT_JUMP:
        return SIM_FAULT_CLOCK;
    case KELPIE_FAULT_ERRNO:
    case KELPIE_FAULT_SHORT:
    case KELPIE_FAULT_MUTATE:
    case KELPIE_FAULT_DROP:
    case KELPIE_FAULT_LIE:
    case KELPIE_FAULT_FULL:
    case KELPIE_FAULT_READ_ONLY:
    case KELPIE_FAULT_ROT:
    case KELPIE_FAULT_NAMED:
        break;
    }
    if (op == SIM_OP_memory) {
        return SIM_FAULT_MEMORY;
    }
    return is_one_of(name, disk_operations)     ? SIM_FAULT_DISK
           : is_one_of(name, stream_operations) ? SIM_FAULT_STREAM
                                                : SIM_FAULT_PROCESS;
}

enum sim_fault_class kelpie__sim_fault_class_of_point(const struct kelpie_fault_rule *rule) {
    static const struct {
        const char *prefix;
        enum sim_fault_class class;
    } prefixes[] = {{"qemu.", SIM_FAULT_QEMU},   {"qmp.", SIM_FAULT_QMP},
                    {"guest.", SIM_FAULT_GUEST}, {"agent.", SIM_FAULT_AGENT},
                    {"pack.", SIM_FAULT_PACK},   {"krun.", SIM_FAULT_QEMU}};
    if (rule->action != KELPIE_FAULT_NAMED && rule->action != KELPIE_FAULT_SHORT &&
        rule->action != KELPIE_FAULT_MUTATE && rule->action != KELPIE_FAULT_DROP) {
        return kelpie__sim_fault_class_of_call(rule, SIM_OP_sync);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(prefixes); i += 1) {
        if (strncmp(rule->point, prefixes[i].prefix, strlen(prefixes[i].prefix)) == 0) {
            return prefixes[i].class;
        }
    }
    return SIM_FAULT_PROCESS;
}

bool kelpie__sim_fault_suits(const struct kelpie_fault_rule *rule, const struct sim_call *call) {
    const char *name = kelpie__sim_op_name(call->op);
    switch (rule->action) {
    case KELPIE_FAULT_ERRNO:
        return !is_one_of(name, sure_operations);
    case KELPIE_FAULT_SHORT:
    case KELPIE_FAULT_MUTATE:
    case KELPIE_FAULT_DROP:
        return is_one_of(name, moving_operations);
    case KELPIE_FAULT_LIE:
        return is_one_of(name, durable_operations);
    case KELPIE_FAULT_KILL:
    case KELPIE_FAULT_DELAY:
        return !call->process->is_embedder;
    case KELPIE_FAULT_STOP:
        return !call->process->is_embedder && call->process->machine->guest == NULL;
    case KELPIE_FAULT_KILL_CHILD:
    case KELPIE_FAULT_STOP_CHILD:
    case KELPIE_FAULT_POWER_LOSS:
    case KELPIE_FAULT_JUMP:
    case KELPIE_FAULT_FULL:
    case KELPIE_FAULT_READ_ONLY:
    case KELPIE_FAULT_ROT:
    case KELPIE_FAULT_SWIZZLE:
    case KELPIE_FAULT_NAMED:
        return true;
    }
    return true;
}

/* ---- looking --------------------------------------------------------------------------------- */

bool kelpie__sim_faults_are_off(const struct sim_faults *faults) {
    return faults->is_off;
}

uint32_t kelpie__sim_faults_fired(const struct sim_faults *faults) {
    return faults->fired;
}

uint32_t kelpie__sim_faults_rule_count(const struct sim_faults *faults) {
    KELPIE_ASSERT(faults->rule_count <= SIM_FAULT_RULE_MAX);
    return faults->rule_count;
}

const struct kelpie_fault_rule *kelpie__sim_faults_rule(const struct sim_faults *faults,
                                                        uint32_t index) {
    KELPIE_ASSERT(index < faults->rule_count);
    return &faults->rules[index].rule;
}

size_t kelpie__sim_faults_concrete(const struct sim_faults *faults, char *out, size_t capacity) {
    char header[128];
    bool is_cut = false;
    uint32_t lines = 0;
    for (size_t i = 0; i < faults->log_length; i += 1) {
        lines += faults->log[i] == '\n' ? 1 : 0;
    }
    is_cut = lines < faults->fired;
    int header_length = snprintf(header, sizeof(header), "kelpie-plan %u seed=%llu\n%s",
                                 KELPIE_FAULT_PLAN_VERSION, (unsigned long long)faults->seed,
                                 is_cut ? "# more faults fired than are kept\n" : "");
    KELPIE_ASSERT(header_length > 0 && (size_t)header_length < sizeof(header));
    size_t total = (size_t)header_length + faults->log_length;
    size_t room = capacity == 0 ? 0 : capacity - 1;
    size_t first = kelpie__min_u64((uint64_t)header_length, room);
    size_t second = kelpie__min_u64(faults->log_length, room - first);
    if (capacity > 0) {
        memcpy(out, header, first);
        memcpy(out + first, faults->log == NULL ? "" : faults->log, second);
        out[first + second] = '\0';
    }
    return total;
}

bool kelpie__sim_faults_rule_fired(const struct sim_faults *faults, uint32_t index, char out[512],
                                   uint64_t *out_fired) {
    static_assert(KELPIE_FAULT_LINE_MAX == 512, "the header promises it");
    if (index >= faults->rule_count) {
        return false;
    }
    kelpie__ignore((int64_t)kelpie__fault_rule_format(&faults->rules[index].rule, out));
    *out_fired = faults->rules[index].rule.fired;
    return true;
}

bool kelpie__sim_faults_alias(const char *name, char *out, size_t capacity) {
    for (uint32_t i = 0; kelpie__fault_alias(i) != NULL; i += 1) {
        const struct kelpie_fault_alias *alias = kelpie__fault_alias(i);
        if (strcmp(alias->name, name) == 0) {
            snprintf(out, capacity, "%s%s%s => %s", alias->point,
                     alias->mark[0] != '\0' ? " after=mark:" : "", alias->mark, alias->action);
            return true;
        }
    }
    return false;
}
