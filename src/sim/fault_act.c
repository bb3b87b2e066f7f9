/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Faults of the whole world, which belong to no call: by a window of time or after a mark. And what
 * outlasts the call that brought it: stopped processes, a full disk. A mark is seen in the middle
 * of somebody's call, where nothing may change; what it asks for waits for the next call's entry or
 * the scheduler, whichever comes first.
 */
#include "sim/fault_internal.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "sim/disk.h"

#define DISK_BYTES_DEFAULT (UINT64_C(64) << 30)
#define SWIZZLE_STEP_NS INT64_C(7000000)
#define WALK_MAX 256u

/* ---- stopping -------------------------------------------------------------------------------- */

static struct sim_process *host_process(struct sim_faults *faults, int32_t pid, uint64_t birth) {
    struct sim_process *process =
        kelpie__sim_process_find(kelpie__sim_world_host(faults->world), pid);
    return process != NULL && process->birth == birth ? process : NULL;
}

static void go_on(struct sim_faults *faults, struct sim_fault_stopped *entry) {
    struct sim_process *process = host_process(faults, entry->pid, entry->birth);
    KELPIE_ASSERT(entry->birth != 0);
    entry->birth = 0;
    if (process != NULL) {
        kelpie__sim_process_signal(process, SIGCONT);
    }
}

static void stop_is_over(struct sim_world *world, void *context, uint64_t argument) {
    struct sim_faults *faults = context;
    KELPIE_ASSERT(faults->world == world);
    for (uint32_t i = 0; i < SIM_FAULT_STOPPED_MAX; i += 1) {
        if (faults->stopped[i].birth == argument) {
            go_on(faults, &faults->stopped[i]);
            return;
        }
    }
}

bool kelpie__sim_fault_stop(struct sim_faults *faults, struct sim_process *process,
                            int64_t duration_ns) {
    struct sim_fault_stopped *entry = NULL;
    KELPIE_ASSERT(duration_ns >= 0);
    if (process->is_embedder || process->machine->guest != NULL || process->birth == 0) {
        return false;
    }
    for (uint32_t i = 0; i < SIM_FAULT_STOPPED_MAX; i += 1) {
        if (faults->stopped[i].birth == process->birth) {
            return true; /* for as long as was said first */
        }
        if (entry == NULL && faults->stopped[i].birth == 0) {
            entry = &faults->stopped[i];
        }
    }
    if (entry == NULL) {
        return false;
    }
    *entry = (struct sim_fault_stopped){.birth = process->birth, .pid = process->pid};
    kelpie__sim_process_signal(process, SIGSTOP);
    if (duration_ns > 0) {
        kelpie__sim_at(faults->world, kelpie__sim_now(faults->world) + duration_ns, stop_is_over,
                       faults, process->birth);
    }
    return true;
}

void kelpie__sim_fault_signal_children(struct sim_faults *faults, struct sim_process *process,
                                       const struct kelpie_fault_rule *rule, int signal) {
    struct sim_process *next = NULL;
    for (struct sim_process *at = process->machine->processes; at != NULL; at = next) {
        next = at->next;
        bool is_living = at->state != SIM_PROCESS_ZOMBIE && at->state != SIM_PROCESS_GONE;
        if (at->parent != process || !is_living ||
            (rule->path[0] != '\0' && !kelpie__fault_glob(rule->path, at->path))) {
            continue;
        }
        if (signal == SIGSTOP) {
            kelpie__ignore(kelpie__sim_fault_stop(faults, at, 0));
        } else {
            kelpie__sim_process_signal(at, signal);
        }
    }
}

void kelpie__sim_fault_release(struct sim_faults *faults) {
    uint64_t bytes = kelpie__sim_world_options(faults->world)->disk_bytes;
    struct sim_disk *disk = kelpie__sim_world_disk(faults->world);
    for (uint32_t i = 0; i < SIM_FAULT_STOPPED_MAX; i += 1) {
        if (faults->stopped[i].birth != 0) {
            go_on(faults, &faults->stopped[i]);
        }
    }
    if (disk != NULL) {
        kelpie__sim_disk_set_quota(disk, bytes == 0 ? DISK_BYTES_DEFAULT : bytes);
        kelpie__sim_disk_set_read_only(disk, false);
    }
}

/* ---- what the world suffers ------------------------------------------------------------------ */

/* Some of the host's processes stop one after the other, and go on in another order. */
static void swizzle(struct sim_faults *faults, const struct sim_fault_rule *rule, uint64_t nth) {
    struct sim_machine *host = kelpie__sim_world_host(faults->world);
    for (struct sim_process *at = host->processes; at != NULL; at = at->next) {
        uint64_t hash = kelpie__sim_fault_hash(faults->seed, "swizzle", at->role, at->birth, nth);
        bool is_living = at->state != SIM_PROCESS_ZOMBIE && at->state != SIM_PROCESS_GONE;
        if (is_living && (hash & 1) != 0) {
            int64_t longer_ns = (int64_t)(hash >> 1 & 31) * SWIZZLE_STEP_NS;
            kelpie__ignore(
                kelpie__sim_fault_stop(faults, at, (int64_t)rule->rule.argument + longer_ns));
        }
    }
}

static bool rot_file(struct sim_faults *faults, const char *path, uint64_t hash) {
    char text[SIM_FAULT_PATH_MAX + 300];
    if (kelpie__sim_disk_rot(kelpie__sim_world_disk(faults->world), path, hash) != 0) {
        return false; /* it may be gone by now */
    }
    snprintf(text, sizeof(text), SIM_FAULT_ROTTED "%s", path);
    kelpie__sim_world_emit(faults->world,
                           &(struct sim_event){.type = SIM_EVENT_NOTE, .detail = text});
    return true;
}

/* One bit of the file, or of a file in the directory, of that name. */
static void rot(struct sim_faults *faults, const char *path, uint64_t hash) {
    struct sim_disk *disk = kelpie__sim_world_disk(faults->world);
    char name[256];
    uint64_t cursor = 0;
    uint32_t count = 0;
    while (count < WALK_MAX && kelpie__sim_disk_walk(disk, path, &cursor, name)) {
        count += 1;
    }
    if (count == 0) {
        kelpie__ignore(rot_file(faults, path, hash));
        return;
    }
    uint32_t first = (uint32_t)(hash >> 40) % count;
    for (uint32_t i = 0; i < count; i += 1) { /* the first, from there on, that has a byte */
        char file[SIM_FAULT_PATH_MAX + 256];
        uint32_t chosen = (first + i) % count;
        cursor = 0;
        for (uint32_t j = 0; j <= chosen; j += 1) {
            kelpie__ignore(kelpie__sim_disk_walk(disk, path, &cursor, name));
        }
        snprintf(file, sizeof(file), "%s/%s", path, name);
        if (kelpie__sim_disk_peek(disk, false, file, NULL, 0) > 0 && rot_file(faults, file, hash)) {
            return;
        }
    }
}

static void disk_recovers(struct sim_world *world, void *context, uint64_t argument) {
    struct sim_faults *faults = context;
    uint64_t bytes = kelpie__sim_world_options(world)->disk_bytes;
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    KELPIE_ASSERT(faults->world == world);
    if (argument == KELPIE_FAULT_FULL) {
        kelpie__sim_disk_set_quota(disk, bytes == 0 ? DISK_BYTES_DEFAULT : bytes);
    } else {
        kelpie__sim_disk_set_read_only(disk, false);
    }
}

static void suffer(struct sim_faults *faults, const struct sim_fault_rule *rule, uint64_t nth,
                   const char *path) {
    struct sim_disk *disk = kelpie__sim_world_disk(faults->world);
    int64_t argument = (int64_t)rule->rule.argument;
    bool is_of_disk =
        rule->rule.action == KELPIE_FAULT_FULL || rule->rule.action == KELPIE_FAULT_READ_ONLY;
    if (rule->rule.action == KELPIE_FAULT_POWER_LOSS) {
        kelpie__sim_world_power_loss(faults->world);
    } else if (rule->rule.action == KELPIE_FAULT_JUMP) {
        kelpie__sim_jump_wall(faults->world, argument);
    } else if (rule->rule.action == KELPIE_FAULT_FULL) {
        kelpie__sim_disk_set_quota(disk, kelpie__sim_disk_used_bytes(disk));
    } else if (rule->rule.action == KELPIE_FAULT_READ_ONLY) {
        kelpie__sim_disk_set_read_only(disk, true);
    } else if (rule->rule.action == KELPIE_FAULT_SWIZZLE) {
        swizzle(faults, rule, nth);
    } else if (rule->rule.action == KELPIE_FAULT_ROT) {
        uint64_t n = rule->rule.has_window ? 1 : nth; /* whatever else there was before */
        rot(faults, path, kelpie__sim_fault_hash(faults->seed, rule->key, "rot", 0, n));
    }
    if (is_of_disk && argument > 0) {
        kelpie__sim_at(faults->world, kelpie__sim_now(faults->world) + argument, disk_recovers,
                       faults, (uint64_t)rule->rule.action);
    }
}

static enum sim_fault_class class_of(const struct kelpie_fault_rule *rule) {
    return rule->action == KELPIE_FAULT_POWER_LOSS ? SIM_FAULT_POWER
           : rule->action == KELPIE_FAULT_JUMP     ? SIM_FAULT_CLOCK
           : rule->action == KELPIE_FAULT_SWIZZLE  ? SIM_FAULT_STOP
                                                   : SIM_FAULT_DISK;
}

/* ---- when ------------------------------------------------------------------------------------ */

static bool world_rule_fires(const struct sim_faults *faults, const struct sim_fault_rule *rule,
                             uint64_t n) {
    if (rule->rule.max != 0 && rule->rule.fired >= rule->rule.max) {
        return false;
    }
    switch (rule->rule.trigger) {
    case KELPIE_FAULT_ALWAYS:
        return true;
    case KELPIE_FAULT_PROBABILITY:
        return kelpie__sim_fault_hash(faults->seed, rule->key, "", 0, n) % KELPIE_FAULT_PER_ONE <
               rule->rule.value;
    case KELPIE_FAULT_NTH:
        return n == rule->rule.value;
    case KELPIE_FAULT_EVERY:
        return n % rule->rule.value == 0;
    }
    return false;
}

static void window_begins(struct sim_world *world, void *context, uint64_t argument) {
    struct sim_faults *faults = context;
    struct sim_fault_rule *rule = &faults->rules[argument];
    KELPIE_ASSERT(faults->world == world && argument < faults->rule_count);
    if (!faults->is_off && world_rule_fires(faults, rule, 1)) {
        rule->rule.fired += 1;
        kelpie__sim_fault_record(faults, rule, NULL, 1, class_of(&rule->rule), "in its window");
        suffer(faults, rule, 1, "");
    }
}

void kelpie__sim_fault_arm(struct sim_faults *faults, uint32_t first) {
    bool has_marks = false;
    for (uint32_t i = first; i < faults->rule_count; i += 1) {
        const struct sim_fault_rule *rule = &faults->rules[i];
        has_marks = has_marks || rule->rule.mark[0] != '\0';
        if (rule->rule.kind == KELPIE_FAULT_POINT_WORLD && rule->rule.mark[0] == '\0') {
            KELPIE_ASSERT(rule->rule.has_window);
            uint64_t span = rule->rule.window_end_ns - rule->rule.window_begin_ns;
            uint64_t at = kelpie__sim_fault_hash(faults->seed, rule->key, "window", 0,
                                                 rule->rule.window_begin_ns) %
                          span;
            kelpie__sim_at(faults->world, (int64_t)(rule->rule.window_begin_ns + at), window_begins,
                           faults, i);
        }
    }
    if (has_marks && !faults->is_observer) {
        faults->is_observer = true;
        kelpie__sim_world_observe(faults->world, kelpie__sim_fault_observe, faults);
    }
}

bool kelpie__sim_fault_run_pending(struct sim_faults *faults) {
    bool is_power_lost = false;
    for (uint32_t i = 0; i < SIM_FAULT_PENDING_MAX && faults->pending_count > 0; i += 1) {
        struct sim_fault_pending pending = faults->pending[0];
        struct sim_fault_rule *rule = &faults->rules[pending.rule];
        faults->pending_count -= 1; /* what is done now may bring new ones */
        memmove(&faults->pending[0], &faults->pending[1],
                faults->pending_count * sizeof(faults->pending[0]));
        KELPIE_ASSERT(!faults->is_off && pending.rule < faults->rule_count);
        rule->rule.fired += 1;
        char where[128];
        snprintf(where, sizeof(where), "after %.120s", pending.path);
        kelpie__sim_fault_record(faults, rule, NULL, pending.nth, class_of(&rule->rule), where);
        suffer(faults, rule, pending.nth, pending.path);
        is_power_lost = is_power_lost || rule->rule.action == KELPIE_FAULT_POWER_LOSS;
    }
    return is_power_lost;
}

static void pending_is_due(struct sim_world *world, void *context, uint64_t argument) {
    struct sim_faults *faults = context;
    KELPIE_ASSERT(faults->world == world && argument == 0);
    kelpie__ignore(kelpie__sim_fault_run_pending(faults));
}

static bool is_mark_of(const struct sim_fault_rule *rule, const struct sim_event *event) {
    if (rule->rule.mark[0] == '\0') {
        return false;
    }
    if (kelpie__fault_glob(rule->rule.mark, event->detail)) {
        return true;
    }
    const char *slash = strrchr(event->detail, '/');
    return event->type == SIM_EVENT_RENAME && slash != NULL &&
           kelpie__fault_glob(rule->rule.mark, slash + 1);
}

static bool is_in_window(const struct sim_world *world, const struct kelpie_fault_rule *rule) {
    uint64_t now_ns = (uint64_t)kelpie__sim_now(world);
    return !rule->has_window || (now_ns >= rule->window_begin_ns && now_ns < rule->window_end_ns);
}

void kelpie__sim_fault_observe(void *context, struct sim_world *world,
                               const struct sim_event *event) {
    struct sim_faults *faults = context;
    KELPIE_ASSERT(faults->world == world);
    if (faults->is_off || (event->type != SIM_EVENT_MARK && event->type != SIM_EVENT_RENAME)) {
        return;
    }
    for (uint32_t i = 0; i < faults->rule_count; i += 1) {
        struct sim_fault_rule *rule = &faults->rules[i];
        if (!is_mark_of(rule, event)) {
            continue;
        }
        rule->marks += 1;
        bool is_of_world = rule->rule.kind == KELPIE_FAULT_POINT_WORLD;
        rule->armed += is_of_world ? 0 : 1;
        if (is_of_world && is_in_window(world, &rule->rule) &&
            faults->pending_count < SIM_FAULT_PENDING_MAX &&
            world_rule_fires(faults, rule, rule->marks)) {
            struct sim_fault_pending *pending = &faults->pending[faults->pending_count];
            pending->rule = i;
            pending->nth = rule->marks;
            snprintf(pending->path, sizeof(pending->path), "%s", event->detail);
            faults->pending_count += 1;
            kelpie__sim_at(world, kelpie__sim_now(world), pending_is_due, faults, 0);
        }
    }
}
