/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated world: virtual time, named streams of random numbers, the rolling hash of
 * everything that happens, and the scheduler over one host and its guests. One world is one run;
 * two worlds know nothing of each other. Everything in it is a function of its options:
 * docs/simulation.md, "Determinism".
 *
 * Who may call what. Product code runs in simulated processes and reaches the world through its
 * `struct kelpie_os` only. The inhabitants (QEMU, guest programs, kelpie-pack) are simulated
 * processes too and may also use the headers of this folder. Observers (invariants, trace) read,
 * and change nothing.
 */
#ifndef KELPIE_SIM_WORLD_H
#define KELPIE_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base.h"

struct kelpie_os;
struct sim_call;
struct sim_disk;
struct sim_faults;
struct sim_guest;
struct sim_heap;
struct sim_machine;
struct sim_marks;
struct sim_nursery;
struct sim_process;
struct sim_trace;
struct sim_world;

/* Streams of random numbers, by what they decide. New ones are appended, never inserted: a seed
 * keeps its meaning. A process that asks its system for randomness draws from a stream of its own
 * (its birth). */
enum sim_stream {
    SIM_STREAM_WORKLOAD,
    SIM_STREAM_SCHEDULER,
    SIM_STREAM_CHANNEL, /* partial reads and writes, latency of streams */
    SIM_STREAM_DISK,
    SIM_STREAM_QEMU,
    SIM_STREAM_GUEST,
    SIM_STREAM_SWARM,
    SIM_STREAM_USER,
    SIM_STREAM_COST, /* the time that calls take */
    SIM_STREAM_COUNT,
};

enum sim_schedule {
    SIM_SCHEDULE_FIFO,
    SIM_SCHEDULE_UNIFORM, /* any of the ready ones */
    SIM_SCHEDULE_PCT,     /* priorities with 3 change points (Burckhardt et al., ASPLOS 2010) */
};

enum sim_disk_profile {
    SIM_DISK_EXT4,  /* rename is atomic, metadata is ordered */
    SIM_DISK_POSIX, /* only what POSIX promises */
    SIM_DISK_TMPFS, /* power loss takes all */
};

struct sim_options {
    uint64_t seed;
    enum sim_schedule schedule;
    enum sim_disk_profile disk_profile;
    uint32_t
        cost_factor; /* of the time that each call takes: 1 quiet, 1000 a loaded host; 0: none */
    uint32_t preempt_billionth;  /* chance that a call lets others run first */
    uint32_t partial_billionth;  /* chance that a read or write of a stream is cut */
    uint64_t disk_bytes;         /* 0: 64 GiB */
    const char *plan;            /* fault plan as text (fault.h), or NULL; borrowed during create */
    struct sim_trace *trace;     /* borrowed for the world's life; NULL: none */
    struct sim_nursery *nursery; /* borrowed for the world's life; NULL: memory of its own */
    bool has_kvm;
    bool is_krun;    /* libkrun is installed, and KVM works; QEMU is not there */
    uint32_t canary; /* os_mark.h; 0: none. Of no effect but in a build with -Dsimulation=true */
};

/* What happened, for observers: invariants, the trace, the story. */
enum sim_event_type {
    SIM_EVENT_PROCESS_STARTED,
    SIM_EVENT_PROCESS_ENDED, /* detail: how */
    SIM_EVENT_PROCESS_STOPPED,
    SIM_EVENT_PROCESS_CONTINUED,
    SIM_EVENT_FAULT, /* a fault fired; detail: its concrete rule */
    SIM_EVENT_GUEST, /* a guest booted, halted, ran on, ended, was saved or loaded; detail: which */
    SIM_EVENT_RENAME, /* a name in the file system changed: a commit; detail: the new path */
    SIM_EVENT_MARK,   /* KELPIE_REACHED, KELPIE_SOMETIMES; detail: the mark's name */
    SIM_EVENT_POWER_LOSS,
    SIM_EVENT_NOTE, /* of a workload or user */
};

struct sim_event {
    enum sim_event_type type;
    struct sim_process *process; /* or NULL */
    struct sim_guest *guest;     /* or NULL */
    const char *detail;          /* borrowed during the call; never NULL */
};

/* Called after the fact, on the scheduler's or the process's stack; must not change the world. */
typedef void (*sim_observer)(void *context, struct sim_world *world, const struct sim_event *event);

/* Called at a virtual time, on the scheduler's stack. */
typedef void (*sim_timer_callback)(struct sim_world *world, void *context, uint64_t argument);

/* Why a run of the scheduler returned. */
enum sim_run_end {
    SIM_RUN_DONE,     /* what was waited for has come */
    SIM_RUN_IDLE,     /* nobody can ever run again: no ready process, no timer */
    SIM_RUN_DEADLINE, /* the virtual time is up */
    SIM_RUN_SPIN,     /* 1,000,000 calls without a millisecond of progress */
    SIM_RUN_FAILED,   /* kelpie__sim_world_fail was called */
};

/* A process of a given program is a function of its system: kelpie_monitor_main and so on. */
typedef int (*sim_main)(struct kelpie_os *os, int argc, char **argv);

/* ---- life ------------------------------------------------------------------------------------ */

/* Memory for worlds that follow each other: most of what a small world costs are the page faults of
 * new memory. One world at a time lives in it. */
struct sim_nursery *kelpie__sim_nursery_create(void);
void kelpie__sim_nursery_destroy(struct sim_nursery *nursery); /* takes NULL */

/* NULL without memory, or for a bad plan (`out_problem`: what and where; may be NULL). The host has
 * its file system with what an installed Kelpie needs (install.h), and no process yet. */
struct sim_world *kelpie__sim_world_create(const struct sim_options *options,
                                           char out_problem[256]);
void kelpie__sim_world_destroy(struct sim_world *world); /* takes NULL */

/* ---- time and chance ------------------------------------------------------------------------- */

int64_t kelpie__sim_now(
    const struct sim_world *world); /* virtual ns; begins at 1 s, so that 0 is never a time */
uint64_t kelpie__sim_draw(struct sim_world *world, enum sim_stream stream);
/* 0 .. bound - 1; bound > 0 */
uint64_t kelpie__sim_below(struct sim_world *world, enum sim_stream stream, uint64_t bound);
bool kelpie__sim_chance(struct sim_world *world, enum sim_stream stream, uint32_t billionth);
/* Log-normal around `median`, within [median / 4, median * 8]; integers only, so that every
 * compiler agrees. */
int64_t kelpie__sim_about(struct sim_world *world, enum sim_stream stream, int64_t median);
/* A hash of the seed and these words: the same decision whatever else is drawn. */
uint64_t kelpie__sim_decide(const struct sim_world *world, const char *point, const char *role,
                            uint64_t birth, uint64_t nth);

/* Calls back at that time (or at once when it is past). Never cancelled: the callback looks whether
 * it still matters. */
void kelpie__sim_at(struct sim_world *world, int64_t time_ns, sim_timer_callback callback,
                    void *context, uint64_t argument);
/* From now on everything is drawn from another seed. */
void kelpie__sim_world_reseed(struct sim_world *world, uint64_t seed);
/* Moves the wall clock, not the monotonic one. */
void kelpie__sim_jump_wall(struct sim_world *world, int64_t delta_ns);

/* ---- running --------------------------------------------------------------------------------- */

/* Runs until is_done(context) holds (NULL: never), nobody can run, or the time is reached (-1:
 * none). Only from outside every fiber. */
enum sim_run_end kelpie__sim_world_run(struct sim_world *world, bool (*is_done)(void *context),
                                       void *context, int64_t deadline_ns);
/* The run ends as soon as the scheduler is reached; the first text is kept. */
KELPIE_PRINTF(2, 3)
void kelpie__sim_world_fail(struct sim_world *world, const char *format, ...);
const char *kelpie__sim_world_failure(const struct sim_world *world); /* NULL: none */

/* The machine loses its power: every process is gone, the disk keeps what a legal subset of its
 * pending writes says (disk.h), and what lives in tmpfs is gone. The world goes on with an empty
 * host; programs and files that were installed are there. */
void kelpie__sim_world_power_loss(struct sim_world *world);
/* For complete searches: makes the disk's crash (disk.h) at each power loss from now on, instead of
 * a drawn one. */
void kelpie__sim_world_set_crash(struct sim_world *world,
                                 void (*crash)(void *context, struct sim_disk *disk),
                                 void *context);

/* ---- looking --------------------------------------------------------------------------------- */

uint64_t kelpie__sim_world_hash(const struct sim_world *world); /* of all that happened so far */
uint64_t kelpie__sim_world_calls(const struct sim_world *world);
struct sim_machine *kelpie__sim_world_host(struct sim_world *world);
struct sim_disk *kelpie__sim_world_disk(struct sim_world *world);
struct sim_faults *kelpie__sim_world_faults(struct sim_world *world);
struct sim_trace *kelpie__sim_world_trace(struct sim_world *world);
const struct sim_marks *kelpie__sim_world_marks(const struct sim_world *world); /* reached */
const struct sim_options *kelpie__sim_world_options(const struct sim_world *world);
struct sim_process *kelpie__sim_world_current(struct sim_world *world); /* NULL: the scheduler */
/* Guests in the order of their birth; NULL after the last. */
struct sim_guest *kelpie__sim_world_guest(struct sim_world *world, uint32_t index);
/* For guest.c: the list above, and what it keeps of the world (its slots; *NULL at first). */
void kelpie__sim_world_add_guest(struct sim_world *world, struct sim_guest *guest);
void kelpie__sim_world_remove_guest(struct sim_world *world, struct sim_guest *guest);
void **kelpie__sim_world_guest_slots(struct sim_world *world);
#define SIM_RANGE_KEPT_BYTES (1u << 20) /* of each range at most, from one world to the next */
/* The index-th range of addresses for guests' heaps, fresh or of an earlier world's guests; stays
 * the nursery's. The first that was not asked for yet is new. NULL: no memory. */
void *kelpie__sim_world_range(struct sim_world *world, uint32_t index, size_t bytes);
/* The guest's readiness or deadline is another now (kelpie__sim_guest_update calls it). */
void kelpie__sim_world_guest_changed(struct sim_world *world, struct sim_guest *guest);
/* What a workload hangs on the world; NULL at first. */
void kelpie__sim_world_set_context(struct sim_world *world, void *context);
void *kelpie__sim_world_context(const struct sim_world *world);
void kelpie__sim_world_observe(struct sim_world *world, sim_observer observer, void *context);
void kelpie__sim_world_emit(struct sim_world *world, const struct sim_event *event);
/* Adds to the rolling hash what no call has shown (a fault's decision, a guest's end). */
void kelpie__sim_world_mix(struct sim_world *world, const void *bytes, size_t count);

#endif
