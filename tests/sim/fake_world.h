/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A world that only remembers what it is asked for: for tests of parts that need none, fault.c and
 * trace.c. One program defines it once, by including this.
 */
#ifndef KELPIE_TESTS_SIM_FAKE_WORLD_H
#define KELPIE_TESTS_SIM_FAKE_WORLD_H

#include <stdio.h>
#include <string.h>

#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/machine.h"
#include "sim/world.h"

#define FAKE_TIMERS_MAX 64u
#define FAKE_LOG_BYTES 65536u

struct fake_timer {
    int64_t time_ns;
    sim_timer_callback callback;
    void *context;
    uint64_t argument;
};

struct sim_world {
    struct sim_options options;
    int64_t now_ns;
    struct sim_machine host;
    sim_observer observer;
    void *observer_context;
    struct fake_timer timers[FAKE_TIMERS_MAX];
    uint32_t timer_count;
    uint32_t pending; /* writes of the disk */
    char log[FAKE_LOG_BYTES];
    size_t log_length;
};

static void fake_log(struct sim_world *world, const char *what, const char *detail, int64_t n) {
    int length = snprintf(world->log + world->log_length, FAKE_LOG_BYTES - world->log_length,
                          "%s %s %lld\n", what, detail, (long long)n);
    world->log_length += (size_t)length;
}

/* Time passes; timers that are due are called, in order. */
static inline void fake_pass(struct sim_world *world, int64_t until_ns) {
    for (uint32_t budget = 0; budget < 1000; budget += 1) {
        struct fake_timer *first = NULL;
        for (uint32_t i = 0; i < world->timer_count; i += 1) {
            struct fake_timer *timer = &world->timers[i];
            if (timer->callback != NULL && timer->time_ns <= until_ns &&
                (first == NULL || timer->time_ns < first->time_ns)) {
                first = timer;
            }
        }
        if (first == NULL) {
            break;
        }
        struct fake_timer due = *first;
        first->callback = NULL;
        world->now_ns = due.time_ns > world->now_ns ? due.time_ns : world->now_ns;
        due.callback(world, due.context, due.argument);
    }
    world->now_ns = until_ns;
}

const struct sim_options *kelpie__sim_world_options(const struct sim_world *world) {
    return &world->options;
}

int64_t kelpie__sim_now(const struct sim_world *world) {
    return world->now_ns;
}

struct sim_machine *kelpie__sim_world_host(struct sim_world *world) {
    return &world->host;
}

struct sim_disk *kelpie__sim_world_disk(struct sim_world *world) {
    return (struct sim_disk *)(void *)world;
}

void kelpie__sim_world_observe(struct sim_world *world, sim_observer observer, void *context) {
    world->observer = observer;
    world->observer_context = context;
}

void kelpie__sim_world_emit(struct sim_world *world, const struct sim_event *event) {
    if (event->type == SIM_EVENT_FAULT) {
        char rule[512]; /* without its comment */
        snprintf(rule, sizeof(rule), "%.*s", (int)(strstr(event->detail, " # ") - event->detail),
                 event->detail);
        fake_log(world, "fault", rule, 0);
    }
    if (world->observer != NULL) {
        world->observer(world->observer_context, world, event);
    }
}

void kelpie__sim_world_mix(struct sim_world *world, const void *bytes, size_t count) {
    (void)world;
    (void)bytes;
    (void)count;
}

void kelpie__sim_world_fail(struct sim_world *world, const char *format, ...) {
    fake_log(world, "fail", format, 0);
}

void kelpie__sim_world_power_loss(struct sim_world *world) {
    fake_log(world, "power", "loss", 0);
}

void kelpie__sim_jump_wall(struct sim_world *world, int64_t delta_ns) {
    fake_log(world, "jump", "wall", delta_ns);
}

void kelpie__sim_at(struct sim_world *world, int64_t time_ns, sim_timer_callback callback,
                    void *context, uint64_t argument) {
    if (world->timer_count < FAKE_TIMERS_MAX) {
        world->timers[world->timer_count] =
            (struct fake_timer){time_ns, callback, context, argument};
        world->timer_count += 1;
    }
}

const char *kelpie__sim_op_name(enum sim_op op) {
    static const char *const names[] = {
#define FAKE_NAME(name) #name,
        SIM_OPS(FAKE_NAME)
#undef FAKE_NAME
    };
    return names[op];
}

void kelpie__sim_process_signal(struct sim_process *process, int signal) {
    fake_log(process->machine->world, "signal", process->role, signal);
}

void kelpie__sim_process_sleep(struct sim_process *process, int64_t duration_ns) {
    fake_log(process->machine->world, "sleep", process->role, duration_ns);
}

struct sim_process *kelpie__sim_process_find(struct sim_machine *machine, int32_t pid) {
    struct sim_process *at = machine->processes;
    while (at != NULL && at->pid != pid) {
        at = at->next;
    }
    return at;
}

struct sim_process *kelpie__sim_guest_owner(const struct sim_guest *guest) {
    return (struct sim_process *)(uintptr_t)(const void *)guest;
}

uint32_t kelpie__sim_disk_pending(const struct sim_disk *disk) {
    return ((const struct sim_world *)(const void *)disk)->pending;
}

uint64_t kelpie__sim_disk_used_bytes(const struct sim_disk *disk) {
    (void)disk;
    return 77;
}

void kelpie__sim_disk_set_quota(struct sim_disk *disk, uint64_t capacity_bytes) {
    fake_log((struct sim_world *)(void *)disk, "quota", "bytes", (int64_t)capacity_bytes);
}

void kelpie__sim_disk_set_read_only(struct sim_disk *disk, bool is_read_only) {
    fake_log((struct sim_world *)(void *)disk, "read-only", "disk", is_read_only ? 1 : 0);
}

int64_t kelpie__sim_disk_peek(struct sim_disk *disk, bool is_durable, const char *path, void *out,
                              size_t capacity) {
    (void)disk;
    (void)is_durable;
    (void)out;
    (void)capacity;
    return strstr(path, "empty") != NULL ? 0 : 100;
}

bool kelpie__sim_disk_walk(struct sim_disk *disk, const char *path, uint64_t *inout_cursor,
                           char out_name[256]) {
    static const char *const names[] = {"empty", "manifest.json", "memory"};
    (void)disk;
    if (strstr(path, "directory") == NULL || *inout_cursor >= 3) {
        return false;
    }
    snprintf(out_name, 256, "%s", names[*inout_cursor]);
    *inout_cursor += 1;
    return true;
}

int kelpie__sim_disk_rot(struct sim_disk *disk, const char *path, uint64_t hash) {
    (void)hash;
    fake_log((struct sim_world *)(void *)disk, "rot", path, 0);
    return 0;
}

#endif
