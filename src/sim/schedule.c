/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Who runs next, and when time moves: only when nobody can run does it jump to the next timer. The
 * scheduler stands on the stack of whoever drives the world; it resumes one process at a time, of
 * the host or of a guest in turn, until that waits, yields or ends.
 */
#include <errno.h>

#include "core/limits.h"
#include "sim/core.h"
#include "sim/guest.h"
#include "sim/heap.h"

#define TIMERS_FIRST 16u
#define TIMER_NONE UINT32_MAX
#define PCT_REPEATS_MAX 1000u                 /* turns of one process while others could go */
#define PCT_ALONE_NS (500 * KELPIE_NS_PER_MS) /* and so long: no kernel starves anybody longer */

/* ---- ready lists ----------------------------------------------------------------------------- */

void kelpie__sim_ready_push(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(process->state == SIM_PROCESS_READY);
    if (process->is_queued || process->is_stopped || process->is_ending) {
        return;
    }
    process->is_queued = true;
    process->ready_next = NULL;
    process->ready_previous = machine->ready_last;
    if (machine->ready_last != NULL) {
        machine->ready_last->ready_next = process;
    } else {
        machine->ready_first = process;
    }
    machine->ready_last = process;
    machine->ready_count += 1;
}

void kelpie__sim_ready_remove(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    if (!process->is_queued) {
        return;
    }
    KELPIE_ASSERT(machine->ready_count > 0);
    if (process->ready_previous != NULL) {
        process->ready_previous->ready_next = process->ready_next;
    } else {
        machine->ready_first = process->ready_next;
    }
    if (process->ready_next != NULL) {
        process->ready_next->ready_previous = process->ready_previous;
    } else {
        machine->ready_last = process->ready_previous;
    }
    process->is_queued = false;
    process->ready_next = NULL;
    process->ready_previous = NULL;
    machine->ready_count -= 1;
}

bool kelpie__sim_machine_is_ready(const struct sim_machine *machine) {
    return machine->ready_first != NULL;
}

/* ---- a machine's timers: a binary heap --------------------------------------------------------
 */

static bool timer_precedes(const struct sim_process *a, const struct sim_process *b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns
                                            : a->deadline_order < b->deadline_order;
}

static void timer_place(struct sim_machine *machine, uint32_t index, struct sim_process *process) {
    machine->timers[index] = process;
    process->timer_index = index;
}

static void timer_sift_up(struct sim_machine *machine, uint32_t index,
                          struct sim_process *process) {
    while (index > 0 && timer_precedes(process, machine->timers[(index - 1) / 2])) {
        timer_place(machine, index, machine->timers[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    timer_place(machine, index, process);
}

static void timer_sift_down(struct sim_machine *machine, uint32_t index,
                            struct sim_process *process) {
    uint32_t count = machine->timer_count;
    uint32_t child = 2 * index + 1;
    while (child < count) { /* bound: the heap's depth */
        if (child + 1 < count &&
            timer_precedes(machine->timers[child + 1], machine->timers[child])) {
            child += 1;
        }
        if (!timer_precedes(machine->timers[child], process)) {
            break;
        }
        timer_place(machine, index, machine->timers[child]);
        index = child;
        child = 2 * index + 1;
    }
    timer_place(machine, index, process);
}

static bool timers_grow(struct sim_machine *machine) {
    uint32_t capacity = machine->timer_capacity == 0 ? TIMERS_FIRST : 2 * machine->timer_capacity;
    size_t bytes = capacity * sizeof(struct sim_process *);
    struct sim_process **timers = kelpie__sim_heap_alloc(machine->heap, bytes);
    if (timers == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < machine->timer_count; i += 1) {
        timers[i] = machine->timers[i];
    }
    kelpie__sim_heap_free(machine->heap, machine->timers,
                          machine->timer_capacity * sizeof(struct sim_process *));
    machine->timers = timers;
    machine->timer_capacity = capacity;
    return true;
}

bool kelpie__sim_timer_add(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(process->deadline_ns >= 0);
    KELPIE_ASSERT(process->timer_index == TIMER_NONE);
    if (machine->timer_count == machine->timer_capacity && !timers_grow(machine)) {
        return false;
    }
    machine->timer_order += 1;
    process->deadline_order = machine->timer_order;
    machine->timer_count += 1;
    timer_sift_up(machine, machine->timer_count - 1, process);
    return true;
}

void kelpie__sim_timer_remove(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    uint32_t index = process->timer_index;
    if (index == TIMER_NONE) {
        return;
    }
    KELPIE_ASSERT(machine->timers[index] == process);
    machine->timer_count -= 1;
    process->timer_index = TIMER_NONE;
    struct sim_process *moved = machine->timers[machine->timer_count];
    if (moved == process) {
        return;
    }
    if (index > 0 && timer_precedes(moved, machine->timers[(index - 1) / 2])) {
        timer_sift_up(machine, index, moved);
    } else {
        timer_sift_down(machine, index, moved);
    }
}

int64_t kelpie__sim_machine_deadline(const struct sim_machine *machine) {
    return machine->timer_count == 0 ? -1 : machine->timers[0]->deadline_ns;
}

void kelpie__sim_machine_expire(struct sim_machine *machine) {
    int64_t now_ns = kelpie__sim_machine_now(machine);
    for (uint32_t budget = machine->timer_count; budget > 0; budget -= 1) {
        struct sim_process *process = machine->timers[0];
        if (process->deadline_ns > now_ns) {
            break;
        }
        kelpie__sim_timer_remove(process);
        process->is_asleep = false;
        kelpie__sim_process_wake(process);
    }
}

/* ---- from a process's side ------------------------------------------------------------------- */

void kelpie__sim_process_wake(struct sim_process *process) {
    if (process->state != SIM_PROCESS_WAITING || process->is_asleep || process->is_ending) {
        return;
    }
    kelpie__sim_timer_remove(process);
    process->state = SIM_PROCESS_READY;
    kelpie__sim_ready_push(process);
}

void kelpie__sim_process_leave(struct sim_process *process) {
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(world->current == process && !process->is_embedder);
    KELPIE_ASSERT(process->state != SIM_PROCESS_RUNNING || process->is_ending);
    kelpie__sim_fiber_leave(&world->scheduler, &process->fiber, process->is_ending);
    KELPIE_ASSERT(!process->is_ending && process->state == SIM_PROCESS_RUNNING);
}

void kelpie__sim_process_yield(struct sim_process *process) {
    process->state = SIM_PROCESS_READY;
    kelpie__sim_ready_push(process);
    if (process->is_embedder) {
        kelpie__ignore(kelpie__sim_embedder_wait(process)); /* it is ready: its turn comes */
    } else {
        kelpie__sim_process_leave(process);
    }
}

void kelpie__sim_process_sleep(struct sim_process *process, int64_t duration_ns) {
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(world->current == process);
    KELPIE_ASSERT(duration_ns >= 0);
    process->deadline_ns = kelpie__sim_machine_now(process->machine) + duration_ns;
    process->is_asleep = true;
    process->state = SIM_PROCESS_WAITING;
    if (!kelpie__sim_timer_add(process)) { /* no memory: no sleep */
        process->is_asleep = false;
        process->state = SIM_PROCESS_RUNNING;
        return;
    }
    if (process->is_embedder) {
        kelpie__ignore(kelpie__sim_embedder_wait(process)); /* its timer comes */
    } else {
        kelpie__sim_process_leave(process);
    }
    process->deadline_ns = -1;
}

/* ---- one step -------------------------------------------------------------------------------- */

bool kelpie__sim_world_is_busy(const struct sim_world *world) {
    int64_t next_ns = kelpie__sim_world_next(world);
    return world->host->ready_first != NULL || world->guest_ready_count > 0 ||
           (next_ns >= 0 && next_ns <= world->now_ns);
}

static struct sim_process *pick_priority(struct sim_world *world,
                                         const struct sim_machine *machine) {
    struct sim_process *best = machine->ready_first;
    for (struct sim_process *each = best; each != NULL; each = each->ready_next) {
        best = each->priority > best->priority ? each : best;
    }
    if (best == world->pct_last) {
        world->pct_repeats += 1;
    } else {
        world->pct_repeats = 0;
        world->pct_since_ns = world->now_ns;
    }
    world->pct_last = best;
    for (uint32_t i = 0; i < SIM_PCT_CHANGES; i += 1) {
        if (world->steps == world->pct_changes[i]) {
            best->priority = i + 1; /* below every priority of birth */
        }
    }
    bool is_alone = world->now_ns - world->pct_since_ns > PCT_ALONE_NS && world->pct_repeats > 0;
    if (world->pct_repeats > PCT_REPEATS_MAX || is_alone) { /* it may wait for one of the others */
        best->priority = 0;
        world->pct_repeats = 0;
    }
    return best;
}

static struct sim_process *machine_pick(struct sim_world *world,
                                        const struct sim_machine *machine) {
    struct sim_process *process = machine->ready_first;
    if (machine->ready_count < 2) {
        return process;
    }
    switch (world->options.schedule) {
    case SIM_SCHEDULE_FIFO:
        break;
    case SIM_SCHEDULE_UNIFORM:
        for (uint64_t skip = kelpie__sim_below(world, SIM_STREAM_SCHEDULER, machine->ready_count);
             skip > 0; skip -= 1) {
            process = process->ready_next;
        }
        break;
    case SIM_SCHEDULE_PCT:
        process = pick_priority(world, machine);
        break;
    }
    KELPIE_ASSERT(process != NULL);
    return process;
}

static void run_process(struct sim_world *world, struct sim_process *process) {
    KELPIE_ASSERT(world->current == NULL);
    KELPIE_ASSERT(process->state == SIM_PROCESS_READY && !process->is_stopped);
    kelpie__sim_ready_remove(process);
    process->state = SIM_PROCESS_RUNNING;
    if (process->is_embedder) {
        return; /* its own stack goes on when the scheduler returns */
    }
    world->current = process;
    kelpie__sim_fiber_resume(&world->scheduler, &process->fiber);
    world->current = NULL;
    if (process->is_ending && !world->is_power_lost) {
        process->ready_next = process->machine->dying;
        process->machine->dying = process;
    }
    kelpie__sim_machine_bury(process->machine);
}

/* Guests take turns: the next one after the last that ran. */
static void run_guest(struct sim_world *world) {
    for (uint32_t i = 1; i <= world->guest_count; i += 1) {
        uint32_t index = (world->guest_turn + i) % world->guest_count;
        if (!world->guests[index].is_ready) {
            continue;
        }
        struct sim_guest *guest = world->guests[index].guest;
        world->guest_turn = index;
        struct sim_machine *machine = kelpie__sim_guest_enter(guest);
        kelpie__sim_machine_expire(machine);
        if (machine->ready_first != NULL) {
            run_process(world, machine_pick(world, machine));
        }
        if (!world->is_power_lost) {
            kelpie__sim_guest_update(guest);
        }
        kelpie__sim_machine_bury(world->host); /* whom the guest's process has killed */
        return;
    }
}

void kelpie__sim_world_step(struct sim_world *world) {
    uint32_t host_count = world->host->ready_count;
    uint32_t guest_count = world->guest_ready_count;
    KELPIE_ASSERT(host_count + guest_count > 0);
    world->steps += 1;
    bool is_guest = host_count == 0;
    if (host_count > 0 && guest_count > 0) {
        world->turn_of_guests = !world->turn_of_guests;
        is_guest = world->options.schedule == SIM_SCHEDULE_FIFO
                       ? world->turn_of_guests
                       : kelpie__sim_below(world, SIM_STREAM_SCHEDULER, host_count + guest_count) >=
                             host_count;
    }
    if (is_guest) {
        run_guest(world);
    } else {
        run_process(world, machine_pick(world, world->host));
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void world_advance(struct sim_world *world, int64_t time_ns) {
    KELPIE_ASSERT(time_ns >= world->now_ns);
    world->idle_ns += time_ns - world->now_ns;
    world->now_ns = time_ns;
    if (world->idle_ns >= SIM_SPIN_PROGRESS_NS) {
        world->idle_ns = 0;
        world->spin_calls = world->calls;
    }
}

static bool world_has_ready(const struct sim_world *world) {
    return world->host->ready_first != NULL || world->guest_ready_count > 0;
}

/* `embedder`: the run is done when it runs. NULL: none waits. */
static enum sim_run_end world_loop(struct sim_world *world, bool (*is_done)(void *context),
                                   void *context, int64_t deadline_ns,
                                   const struct sim_process *embedder) {
    bool goes_on = true;
    while (goes_on) { /* bound: the world's end, spinning, or the deadline */
        if (world->is_power_lost) {
            kelpie__sim_world_power_loss(world);
        }
        if (world->has_failed) {
            return SIM_RUN_FAILED;
        }
        if (world->is_spinning) {
            world->is_spinning = false;
            world->spin_calls = world->calls;
            return SIM_RUN_SPIN;
        }
        kelpie__sim_world_fire(world);
        if (is_done != NULL && is_done(context)) {
            return SIM_RUN_DONE;
        }
        if (deadline_ns >= 0 && world->now_ns >= deadline_ns) {
            return SIM_RUN_DEADLINE;
        }
        if (world_has_ready(world)) {
            kelpie__sim_world_step(world);
            goes_on = embedder == NULL || embedder->state != SIM_PROCESS_RUNNING;
            continue;
        }
        int64_t next_ns = kelpie__sim_world_next(world);
        if (next_ns < 0) {
            return SIM_RUN_IDLE;
        }
        bool is_late = deadline_ns >= 0 && next_ns > deadline_ns;
        world_advance(world, is_late ? deadline_ns : next_ns);
    }
    return SIM_RUN_DONE;
}

enum sim_run_end kelpie__sim_world_run(struct sim_world *world, bool (*is_done)(void *context),
                                       void *context, int64_t deadline_ns) {
    struct sim_process *current = world->current;
    KELPIE_ASSERT(!world->is_running);
    KELPIE_ASSERT(current == NULL || current->is_embedder);
    world->current = NULL;
    world->is_running = true;
    enum sim_run_end end = world_loop(world, is_done, context, deadline_ns, NULL);
    world->is_running = false;
    world->current = current;
    return end;
}

bool kelpie__sim_embedder_wait(struct sim_process *process) {
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(process->is_embedder && world->current == process);
    KELPIE_ASSERT(process->state != SIM_PROCESS_RUNNING && !world->is_running);
    world->current = NULL;
    world->is_running = true;
    enum sim_run_end end = world_loop(world, NULL, NULL, -1, process);
    world->is_running = false;
    world->current = process;
    if (end != SIM_RUN_DONE) { /* nobody will ever wake it */
        kelpie__sim_timer_remove(process);
        kelpie__sim_ready_remove(process);
        process->is_asleep = false;
        process->state = SIM_PROCESS_RUNNING;
    }
    return end == SIM_RUN_DONE;
}

void kelpie__sim_embedder_step(struct sim_process *process) {
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(process->is_embedder && world->current == process);
    world->current = NULL;
    world->is_running = true;
    kelpie__sim_world_fire(world);
    uint32_t budget = world->host->ready_count + world->guest_ready_count;
    if (budget == 0 && kelpie__sim_world_next(world) >= 0) {
        world_advance(world, kelpie__sim_world_next(world));
        kelpie__sim_world_fire(world);
        budget = world->host->ready_count + world->guest_ready_count;
    }
    while (budget > 0 && world_has_ready(world) && !world->has_failed && !world->is_power_lost) {
        kelpie__sim_world_step(world);
        budget -= 1;
    }
    world->is_running = false;
    world->current = process;
    if (world->is_power_lost) {
        kelpie__sim_world_power_loss(world);
    }
}
