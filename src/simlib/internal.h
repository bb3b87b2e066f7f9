/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of kelpie_sim.h's implementation share: a world with the embedder's programs and
 * checks in it, and where its run stands.
 */
#ifndef KELPIE_SIMLIB_INTERNAL_H
#define KELPIE_SIMLIB_INTERNAL_H

#include <signal.h>
#include <sys/types.h>
#include <time.h>

#include "core/error.h"
#include "kelpie_sim.h"
#include "sim/world.h"

#define SIMLIB_PROGRAM_MAX 64u
#define SIMLIB_CHECK_MAX 32u
#define SIMLIB_SPAWN_MAX 256u
#define SIMLIB_NAME_BYTES_MAX 32u
#define SIMLIB_SCRIPT_BYTES_MAX 1024u
#define SIMLIB_PLAN_BYTES_MAX 32768u
#define SIMLIB_TIME_LIMIT_MS 3600000u
#define SIMLIB_TIME_LIMIT_MS_MAX                                                                   \
    (100ull * 365u * 86400u * 1000u) /* a clock of ns has 292 years                                \
                                      */
#define SIMLIB_CALLBACK_LIMIT_MS 10000u
#define SIMLIB_CRASH_SIGNALS 5u
#define SIMLIB_PATH_BYTES_MAX 1024u
#define SIMLIB_SIGNAL_STACK_BYTES 32768u
#define SIMLIB_STILL_RUNS (-1)

struct simlib_program {
    char name[SIMLIB_NAME_BYTES_MAX];
    bool is_guest;
    kelpie_sim_program_callback callback;
    kelpie_sim_guest_callback guest_callback;
    void *context; /* borrowed: until the world's end */
    char script[SIMLIB_SCRIPT_BYTES_MAX];
};

struct simlib_check {
    char name[SIMLIB_NAME_BYTES_MAX];
    kelpie_sim_check_callback callback;
    void *context; /* borrowed: until the world's end */
};

/* See watch.c. It lies in its world: whoever leaves a run by longjmp leaves it on. */
struct simlib_watch {
    const struct kelpie_sim *sim; /* borrowed: it is a part of it */
    struct simlib_watch *outer;   /* borrowed: of a world on the same stack; or NULL */
    uint32_t depth;               /* 0: it is off */
    pid_t process;
    uint64_t progress; /* calls, callbacks and virtual time, when the timer last looked */
    uint32_t quiet_ticks;
    bool has_timer;
    timer_t timer;
    struct sigaction action_before;
    sigset_t mask_before;
    bool is_ours[SIMLIB_CRASH_SIGNALS];
    struct sigaction crashes_before[SIMLIB_CRASH_SIGNALS];
    stack_t stack_before;
};

struct kelpie_sim {
    struct sim_world *world; /* owned */
    struct sim_trace *trace; /* owned; NULL: none */
    uint64_t seed;
    uint64_t time_limit_ms;
    uint32_t callback_limit_ms; /* of real time; UINT32_MAX: none */
    uint32_t program_count;
    uint32_t check_count;
    uint32_t spawn_count;
    bool is_running;    /* a run is on the stack */
    bool is_replay;     /* its plan is all; what the scenario adds is not */
    bool is_setting_up; /* its scenario is on the stack */
    bool is_observed;   /* check_all is registered */
    struct simlib_program programs[SIMLIB_PROGRAM_MAX];
    struct simlib_check checks[SIMLIB_CHECK_MAX];
    int32_t spawned[SIMLIB_SPAWN_MAX];    /* pids */
    int32_t exit_codes[SIMLIB_SPAWN_MAX]; /* SIMLIB_STILL_RUNS: also of one that was killed */
    struct simlib_watch watch;
    const char *check_name;  /* of the check on the stack: it calls nothing; or NULL */
    uint64_t callback_count; /* checks that were called: the watch sees that they end */
    const char *replay;      /* borrowed: the command that runs this again; or NULL */
    int event_handle;        /* owned; of an embedder's world; else -1 */
    char trace_path[SIMLIB_PATH_BYTES_MAX]; /* of an embedder's world: written at its end; or "" */
    char svg_path[SIMLIB_PATH_BYTES_MAX];
    enum kelpie_sim_verdict verdict;
    char reason[512];
    char faults[SIMLIB_PLAN_BYTES_MAX]; /* the plan it was made with */
    uint8_t signal_stack[SIMLIB_SIGNAL_STACK_BYTES];
};

/* What is true of a world from its creation on. */
static inline void kelpie__simlib_check(const struct kelpie_sim *sim) {
    KELPIE_ASSERT(sim->world != NULL);
    KELPIE_ASSERT(sim->program_count <= SIMLIB_PROGRAM_MAX);
    KELPIE_ASSERT(sim->check_count <= SIMLIB_CHECK_MAX);
    KELPIE_ASSERT(sim->spawn_count <= SIMLIB_SPAWN_MAX);
    KELPIE_ASSERT(sim->callback_limit_ms > 0 && sim->time_limit_ms > 0);
}

/* The world in one of whose programs the caller runs now; NULL: none. */
struct kelpie_sim *kelpie__simlib_inside(void);
/* Whether `function` is called where it must not be: in a check, or, when it runs worlds, in a run.
 * Then the run ends, and the caller is named. */
KELPIE_MUST_CHECK bool kelpie__simlib_is_misplaced(struct kelpie_sim *sim, const char *function,
                                                   bool runs_worlds);
/* As kelpie_sim_run, until is_done holds. */
enum kelpie_sim_verdict kelpie__simlib_run(struct kelpie_sim *sim, bool (*is_done)(void *context),
                                           void *context, int64_t deadline_ns);
#endif
