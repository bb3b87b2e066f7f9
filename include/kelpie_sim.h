/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * libkelpie-sim: Kelpie in a deterministic simulator, for the tests of programs that embed it.
 *
 * Everything of Kelpie runs unchanged (library, monitors, guest agents) over a simulated operating
 * system with simulated VMMs and guests: time is virtual, every failure can be asked for, and all
 * that happens is a function of a seed. docs/simulation.md says what it can see and what it cannot.
 *
 * Two ways to use it. One word: kelpie_open() with state_directory "sim:seed=42,faults=swarm" gives
 * any program, in any language, a simulated Kelpie of its own; virtual time moves inside its
 * blocking calls and dispatches. One header: this one, for a test whose programs run inside the
 * simulated world, many at once, with faults, checks, replay and shrinking; examples/sim_grader.c
 * is a whole one.
 *
 * The rules of kelpie.h hold: results, errors, ownership words, threads. A struct kelpie_sim is one
 * world and belongs to one thread. Programs and guest programs are functions that run on stacks of
 * their own and are switched inside Kelpie's calls only; when the simulated process is killed, its
 * function is never resumed and nothing of it is cleaned up, as in life: what it allocated with
 * malloc is lost. A program has a stack of 1 MiB, a guest program one of 64 KiB. One that aborts,
 * crashes, calls exit(), leaves by longjmp or never returns ends the test with KELPIE_SIM_CRASHED:
 * its name, the seed and the line that replays it are on stderr. A handler of SIGABRT, SIGSEGV and
 * the like that the embedder has stays.
 */
#ifndef KELPIE_SIM_H
#define KELPIE_SIM_H

#include "kelpie.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

struct kelpie_sim;
struct kelpie_sim_guest;

/* ---- the world ------------------------------------------------------------------------------- */

struct kelpie_sim_options {
    size_t struct_size;
    uint64_t seed;
    /* borrows; NULL or "none"; "calm": other schedules and timings, no failures; "swarm": drawn
     * from the seed; else the text of a plan (docs/simulation.md) */
    const char *faults;
    /* What is kept for kelpie_sim_write_trace: 0 nothing, 1 events, 2 every call. */
    uint32_t trace_detail;
    /* Real time after which a program, a guest program or a check that neither returns nor calls
     * Kelpie ends the process, with KELPIE_SIM_CRASHED and its name on stderr: it may hold
     * anything, so that nothing can go on. 0: 10 s; UINT32_MAX: it is waited for (a debugger needs
     * that). While a world runs, its thread's signal SIGRTMAX-1 is the library's. */
    uint32_t callback_limit_ms;
    /* Virtual time after which kelpie_sim_run gives up; 0: one hour; at most 100 years. */
    uint64_t time_limit_ms;
};

/* How a run ended; also the exit code of a test program. */
enum kelpie_sim_verdict {
    KELPIE_SIM_PASS = 0,
    KELPIE_SIM_BROKEN = 10,       /* a check of yours, or Kelpie's bounds of memory and credit */
    KELPIE_SIM_WRONG_MODEL = 11,  /* an answer that the contract does not allow */
    KELPIE_SIM_NO_LIVENESS = 12,  /* something never ended */
    KELPIE_SIM_NOT_THE_SAME = 13, /* the same seed did something else */
    KELPIE_SIM_VACUOUS = 14,      /* nothing was checked */
    KELPIE_SIM_CRASHED = 15, /* a callback aborted, crashed, did not return, or not by returning */
    KELPIE_SIM_USAGE = 125,
};

/* Makes a world. Errors: CONFIG (a plan that is not understood: line, column, what was expected),
 * MEMORY, MISUSE. Gives *out: kelpie_sim_destroy. */
KELPIE_MUST_CHECK int kelpie_sim_create(const struct kelpie_sim_options *options,
                                        struct kelpie_sim **out, struct kelpie_error *error);
/* Takes NULL. Every process in it is gone. Not from inside a run. */
void kelpie_sim_destroy(struct kelpie_sim *sim);

/* ---- what runs in it ------------------------------------------------------------------------- */

/* A program of the host; gives its exit code (kelpie_sim_exit_code): what another one means is for
 * a check. Inside, kelpie_open() with state_directory "sim:" opens the Kelpie of the world that it
 * runs in; only that one. */
typedef int (*kelpie_sim_program_callback)(void *context, int argc, char **argv);
/* `name`: 1 to 31 of A-Z a-z 0-9 . _ + -, borrowed; context is kept until the world's end. Errors:
 * EXISTS, LIMIT (64 programs of both kinds), MISUSE. */
KELPIE_MUST_CHECK int kelpie_sim_program(struct kelpie_sim *sim, const char *name,
                                         kelpie_sim_program_callback callback, void *context,
                                         struct kelpie_error *error);

/* A command in guests, found by its name as if it lay in /usr/bin. It reads, writes and sleeps by
 * the calls below only. */
typedef int (*kelpie_sim_guest_callback)(struct kelpie_sim_guest *guest, void *context, int argc,
                                         char **argv);
KELPIE_MUST_CHECK int kelpie_sim_guest_program(struct kelpie_sim *sim, const char *name,
                                               kelpie_sim_guest_callback callback, void *context,
                                               struct kelpie_error *error);
/* The same as a script: "print 1M; sleep 2s; exit 7" (docs/simulation.md). Errors also: CONFIG (a
 * command that is not known, or an argument that does not fit it). */
KELPIE_MUST_CHECK int kelpie_sim_guest_script(struct kelpie_sim *sim, const char *name,
                                              const char *script, struct kelpie_error *error);

/* Starts a program, with argv[0] its name; arguments: NULL-terminated, borrowed, may be NULL.
 * Before a run, or from a program. Errors: NOT_FOUND, LIMIT (64 arguments; 256 spawns of a world),
 * MISUSE. */
KELPIE_MUST_CHECK int kelpie_sim_spawn(struct kelpie_sim *sim, const char *name,
                                       const char *const *arguments, struct kelpie_error *error);

/* Adds rules of a plan, "qemu.start p=0.3 => fail", or an alias: "boot fails p=0.3". Errors:
 * CONFIG. */
KELPIE_MUST_CHECK int kelpie_sim_fault(struct kelpie_sim *sim, const char *rules,
                                       struct kelpie_error *error);

/* Called after each event of the world; false breaks the run with this check's name. It looks at
 * your program's own data, and calls nothing of Kelpie's (but kelpie_sim_now_ns, _fail and _mark):
 * one that does ends the run as KELPIE_SIM_BROKEN and is named. `name` is borrowed. Errors: LIMIT
 * (32 checks). */
typedef bool (*kelpie_sim_check_callback)(void *context);
KELPIE_MUST_CHECK int kelpie_sim_check(struct kelpie_sim *sim, const char *name,
                                       kelpie_sim_check_callback callback, void *context,
                                       struct kelpie_error *error);

/* From a program or a check: the run ends as KELPIE_SIM_BROKEN with this text. */
void kelpie_sim_fail(struct kelpie_sim *sim, const char *message);
/* Something worth reaching was reached: kept in the trace, usable in plans as after=mark:NAME. */
void kelpie_sim_mark(struct kelpie_sim *sim, const char *name);

/* ---- inside a program ------------------------------------------------------------------------ */

int64_t kelpie_sim_now_ns(struct kelpie_sim *sim);  /* virtual, monotonic */
uint64_t kelpie_sim_random(struct kelpie_sim *sim); /* of the seed */
/* Outside a program of this world it moves the world instead. */
void kelpie_sim_sleep_ms(struct kelpie_sim *sim, uint64_t duration_ms);
/* A simulated process of a program dies at this instant, as by SIGKILL; index: of the spawns, from
 * 0. Of itself it does not return. */
void kelpie_sim_kill(struct kelpie_sim *sim, uint32_t index);
/* What a spawn's program returned, modulo 256; -1: it runs, was killed, or there is none. */
int kelpie_sim_exit_code(const struct kelpie_sim *sim, uint32_t index);

/* Inside a guest program. Reads give 0 at the end of input and a negative errno value on failure;
 * both wait. */
int64_t kelpie_sim_guest_read(struct kelpie_sim_guest *guest, void *out, size_t count);
int64_t kelpie_sim_guest_write(struct kelpie_sim_guest *guest, int descriptor, const void *bytes,
                               size_t count);
/* A whole file of the guest, whose memory a snapshot carries. Give the bytes read (what fits) or
 * written, or a negative errno value. */
int64_t kelpie_sim_guest_read_file(struct kelpie_sim_guest *guest, const char *path, void *out,
                                   size_t capacity);
int64_t kelpie_sim_guest_write_file(struct kelpie_sim_guest *guest, const char *path,
                                    const void *bytes, size_t count);
/* Of the command; NULL: it has none of that name; borrowed until it ends. */
const char *kelpie_sim_guest_environment(struct kelpie_sim_guest *guest, const char *name);
void kelpie_sim_guest_sleep_ms(struct kelpie_sim_guest *guest, uint64_t duration_ms);
uint64_t kelpie_sim_guest_random(struct kelpie_sim_guest *guest);

/* ---- running --------------------------------------------------------------------------------- */

/* Not from inside a run: a callback that runs or destroys a world ends its own run as
 * KELPIE_SIM_BROKEN and is named; the call gives KELPIE_SIM_USAGE. */

/* Runs until every spawned program has ended, a check fails, nothing can ever happen again, or the
 * time limit. KELPIE_SIM_VACUOUS: nothing was ever spawned. */
enum kelpie_sim_verdict kelpie_sim_run(struct kelpie_sim *sim);
/* Faults off, stopped processes go on: then everything has to come to rest within 120 virtual
 * seconds, and a fresh VM has to start, run a command and go. */
enum kelpie_sim_verdict kelpie_sim_liveness(struct kelpie_sim *sim);
/* Why the last run did not pass; borrowed until the next run; "" if it did. */
const char *kelpie_sim_reason(const struct kelpie_sim *sim);
/* Of all that happened: equal for equal seeds, on every machine and compiler. */
uint64_t kelpie_sim_hash(const struct kelpie_sim *sim);
/* The faults that fired, as a plan that replays them. Gives its length; out is cut to capacity and
 * terminated. */
size_t kelpie_sim_plan(const struct kelpie_sim *sim, char *out, size_t capacity);

enum kelpie_sim_trace_format {
    KELPIE_SIM_TRACE_JSON,
    KELPIE_SIM_TRACE_SVG,
    KELPIE_SIM_TRACE_STORY
};
/* Into a real file. Errors: IO, MISUSE (nothing was traced, an unknown format). */
KELPIE_MUST_CHECK int kelpie_sim_write_trace(const struct kelpie_sim *sim, const char *path,
                                             enum kelpie_sim_trace_format format,
                                             struct kelpie_error *error);

/* ---- a whole test program -------------------------------------------------------------------- */

/* Adds programs, faults and checks to a fresh world and spawns what it needs; not 0: a failed
 * set-up. */
typedef int (*kelpie_sim_scenario_callback)(struct kelpie_sim *sim, void *context);
/* main() of a test: --seed N, --seeds A..B, --faults WHAT, --check (each seed twice), --trace FILE,
 * --svg FILE, --plan FILE, --no-shrink; default: DST_SEED, else 100 seeds. A seed that fails is
 * shrunk to few faults, told as a story, and ends with the line that replays it. Gives the exit
 * code. */
int kelpie_sim_main(int argc, char **argv, kelpie_sim_scenario_callback scenario, void *context);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
