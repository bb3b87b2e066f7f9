/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What world.c, schedule.c, process.c, object.c and os_sim.c share and nobody else needs.
 */
#ifndef KELPIE_SIM_CORE_H
#define KELPIE_SIM_CORE_H

#include "sim/machine.h"
#include "sim/marks.h"

#define SIM_GUESTS_MAX 128u
#define SIM_OBSERVERS_MAX 16u
#define SIM_PCT_CHANGES 3u
#define SIM_PCT_STEPS 20000u        /* within which the changes of priority fall */
#define SIM_SPIN_CALLS_MAX 1000000u /* without SIM_SPIN_PROGRESS_NS of waiting */
#define SIM_SPIN_PROGRESS_NS 1000000
#define SIM_COST_NS_MAX 5000u /* of one call, at factor 1 */
#define SIM_FAILURE_BYTES 512u

struct sim_event_at {
    int64_t time_ns;
    uint64_t order; /* of arming: equal times fire in it */
    sim_timer_callback callback;
    void *context;
    uint64_t argument;
};

struct sim_program {
    bool is_guest;
    uint32_t stack_bytes;
    sim_main main;
    char role[SIM_NAME_BYTES_MAX];
    char path[256];
    struct sim_program *next; /* of the same bucket */
};

#define SIM_PROGRAM_BUCKETS 256u

struct sim_guest_entry {
    struct sim_guest *guest;
    bool is_ready;
    int64_t deadline_ns; /* in the world's time; -1: none */
};

/* Stacks of one size. */
struct sim_stack_pool {
    void *free; /* each holds the next at its highest word */
    size_t stack_bytes;
    uint32_t taken_count;
    uint32_t taken_most;           /* of this world, at the same time */
    struct sim_stack_chunk *chunk; /* has some that were never used */
};

struct sim_stack_chunk {
    struct sim_stack_chunk *next;
    struct sim_stack_pool *pool;
    void *base;
    size_t bytes;
    uint32_t opened_count;
};

struct sim_world {
    struct sim_options options;
    int64_t now_ns;
    uint64_t hash;
    uint64_t calls;
    uint64_t births;
    uint64_t streams[SIM_STREAM_COUNT][4];
    uint64_t cost_span; /* cost_factor * (SIM_COST_NS_MAX + 1) */

    struct sim_fiber scheduler;
    struct sim_process *current;
    struct sim_process *embedder;
    bool is_running; /* inside kelpie__sim_world_run */
    bool is_power_lost;
    uint32_t host_boots;
    bool turn_of_guests;
    bool has_failed;
    bool is_spinning;
    uint32_t guest_turn;
    uint64_t steps;
    uint64_t pct_changes[SIM_PCT_CHANGES];
    struct sim_process *pct_last;
    int64_t pct_since_ns;
    uint32_t pct_repeats;
    int64_t idle_ns; /* since the last progress: time that passed while nobody could run */
    uint64_t spin_calls;

    struct sim_event_at *events; /* a heap */
    uint32_t event_count;
    uint32_t event_capacity;
    uint64_t event_order;

    struct sim_nursery *nursery;
    struct sim_machine *host;
    struct sim_faults *faults;
    struct sim_guest_entry guests[SIM_GUESTS_MAX];
    uint32_t guest_count;
    uint32_t guest_ready_count;
    int64_t guest_deadline_ns; /* of all; -1: none */
    void *guest_slots;
    void *context;

    struct sim_program *programs[SIM_PROGRAM_BUCKETS];
    struct kelpie_os table_host;
    struct kelpie_os table_guest;

    struct {
        sim_observer callback;
        void *context;
    } observers[SIM_OBSERVERS_MAX];
    uint32_t observer_count;
    void (*crash)(void *context, struct sim_disk *disk); /* NULL: drawn */
    void *crash_context;
    struct sim_marks marks; /* those that were reached */
    char failure[SIM_FAILURE_BYTES];
};

/* ---- random.c -------------------------------------------------------------------------------- */

void kelpie__sim_random_seed(uint64_t state[4], uint64_t seed, uint64_t salt);

static inline uint64_t kelpie__sim_random_next(uint64_t state[4]) { /* xoshiro256** */
    uint64_t result = state[1] * 5;
    uint64_t shifted = state[1] << 17;
    result = ((result << 7) | (result >> 57)) * 9;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = (state[3] << 45) | (state[3] >> 19);
    return result;
}

/* ---- schedule.c ------------------------------------------------------------------------------ */

void kelpie__sim_ready_push(struct sim_process *process);
void kelpie__sim_ready_remove(struct sim_process *process);
/* With process->deadline_ns set. False: no memory. */
bool kelpie__sim_timer_add(struct sim_process *process);
void kelpie__sim_timer_remove(struct sim_process *process);
/* From the running process: lets the scheduler go on, in the state that was set. */
void kelpie__sim_process_leave(struct sim_process *process);
/* The running process is ready, and lets others go first. */
void kelpie__sim_process_yield(struct sim_process *process);
/* Whether anybody else could go on now. */
bool kelpie__sim_world_is_busy(const struct sim_world *world);
/* The embedder lets the world go on until it is ready itself. False: that will never be. */
bool kelpie__sim_embedder_wait(struct sim_process *process);
/* The embedder asks without waiting: whoever is ready has one turn, or else time moves to the next
 * timer. */
void kelpie__sim_embedder_step(struct sim_process *process);
/* Lets one process run until it leaves. */
void kelpie__sim_world_step(struct sim_world *world);

/* ---- object.c -------------------------------------------------------------------------------- */

/* Adds, changes (or with bits 0 forgets) the watch of a handle: 0 or -errno. */
int kelpie__sim_watch_put(struct sim_process *process, struct sim_watch_set *set, int handle,
                          uint32_t bits, uint64_t cookie);
/* Whether it is watched, by whatever event loop. */
bool kelpie__sim_watch_is_known(struct sim_process *process, int handle);
/* What watches have to report: at most `max`. */
uint32_t kelpie__sim_watch_collect(struct sim_watch_set *set, struct kelpie_os_event *out,
                                   uint32_t max);
/* All of a set. */
void kelpie__sim_watches_drop(struct sim_process *process, const struct sim_watch_set *set);
/* All handles, in order. */
/* How many it has beyond those that it was started with. */
uint32_t kelpie__sim_handles_own(const struct sim_process *process);
void kelpie__sim_handles_close(struct sim_process *process);
/* Room for `count` handles. False: no memory. */
bool kelpie__sim_handles_grow(struct sim_process *process, uint32_t count);

/* ---- process.c, death.c, spawn.c
 * ---------------------------------------------------------------------- */

/* A process that is not ready yet and has no handle; NULL: the machine is full. */
struct sim_process *kelpie__sim_process_new(struct sim_machine *machine, struct sim_process *parent,
                                            const char *path, const char *role);
/* Copies, in the place of those that it has; false: no memory. */
bool kelpie__sim_process_arguments(struct sim_process *process, const char *const *argv,
                                   const char *const *environment);
/* Other arguments (a script's); false: no memory. */
bool kelpie__sim_process_replace_argv(struct sim_process *process, const char *const *argv);
/* Gives it a stack; it is ready. False: no memory. */
bool kelpie__sim_process_begin(struct sim_process *process, sim_main main, uint32_t stack_bytes);
/* It never lived: everything of it is given back. */
void kelpie__sim_process_drop(struct sim_process *process);
/* It is over: an exit code or a signal. Its end is seen by nobody else before this returns, unless
 * it is the running one, which ends when it leaves. */
void kelpie__sim_process_end(struct sim_process *process, bool is_signalled, int value);
/* Takes away those of the machine that are dying, and whoever dies with them. */
void kelpie__sim_machine_bury(struct sim_machine *machine);
void *kelpie__sim_process_memory(struct sim_process *process, void *old, size_t old_bytes,
                                 size_t new_bytes);
/* A guest's process 1 while it lives, or NULL. */
struct sim_process *kelpie__sim_machine_init(struct sim_machine *machine);
void kelpie__sim_process_unlist(struct sim_process *process);
void kelpie__sim_child_add(struct sim_process *parent, struct sim_process *child); /* takes NULL */
void kelpie__sim_child_remove(struct sim_process *child);
/* All that it has, but its handles and its entry in the process table. */
void kelpie__sim_process_release(struct sim_process *process);
void kelpie__sim_process_free(struct sim_process *process);
void kelpie__sim_process_emit(struct sim_process *process, enum sim_event_type type,
                              const char *detail);
/* It has no parent any more (or process 1 of a guest). */
void kelpie__sim_process_orphan(struct sim_process *process);
/* Of a process handle's object; NULL: it is none. */
struct sim_process *kelpie__sim_process_subject(struct sim_object *object);
/* Who holds a handle of it sees that it has ended. */
void kelpie__sim_process_tell(struct sim_process *process);
/* A new handle of `subject` for `process`. */
int kelpie__sim_process_handle(struct sim_process *process, struct sim_process *subject);
int kelpie__sim_os_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                         int *out_process, int32_t *out_pid, const char **out_step);
/* A guest's alone. */
int kelpie__sim_os_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                              int32_t *out_pid);
int kelpie__sim_os_run_ready(struct kelpie_os *os, int32_t pid, const struct kelpie_os_spawn *spawn,
                             const char **out_step);
int kelpie__sim_os_open_process(struct kelpie_os *os, int32_t pid);
int kelpie__sim_os_signal(struct kelpie_os *os, int handle, int signal);
int kelpie__sim_os_reap(struct kelpie_os *os, int handle, struct kelpie_os_exit *out);

/* terminal.c, for spawn.c */
int kelpie__sim_terminal_control(struct sim_object *object, struct sim_process *leader);

/* ---- os_sim.c -------------------------------------------------------------------------------- */

/* Those that kelpie__sim_table_create made. */
void kelpie__sim_tables_drop(struct sim_process *process);

/* ---- nursery.c ------------------------------------------------------------------------------- */

/* Its heap, empty, for the world that takes the nursery; and back again. */
struct sim_heap *kelpie__sim_nursery_heap(struct sim_nursery *nursery);
void kelpie__sim_nursery_give(struct sim_nursery *nursery);
/* A stack of at least so many bytes; NULL: no memory. */
void *kelpie__sim_stack_take(struct sim_nursery *nursery, size_t bytes, size_t *out_bytes);
void kelpie__sim_stack_give(struct sim_nursery *nursery, void *stack, size_t bytes);

/* ---- world.c --------------------------------------------------------------------------------- */

/* Fires what is due. */
void kelpie__sim_world_fire(struct sim_world *world);
/* Asks every guest again whether it is ready: its owner was stopped, or goes on. */
void kelpie__sim_world_guests_refresh(struct sim_world *world);
/* When the first is due; -1: none. */
int64_t kelpie__sim_world_next(const struct sim_world *world);

#endif
