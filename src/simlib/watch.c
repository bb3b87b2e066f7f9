/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A watch over the embedder's callbacks, which run on the simulator's own thread. One that neither
 * returns nor calls Kelpie would hang all: a timer of the real system looks several times within
 * the limit whether anything has happened. One that aborts, faults, calls exit() or leaves by
 * longjmp ends or breaks the whole test. What such a callback holds nobody knows, so that nothing
 * can go on after it: its name, the seed and the line that replays it are told, and the process
 * ends.
 */
#include "simlib/watch.h"

#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/limits.h"
#include "sim/machine.h"

#define WATCH_TICKS 4u /* within the limit, all without progress */
#define WATCH_SIGNAL (SIGRTMAX - 1)
#define WATCH_NUMBER_BYTES_MAX 24u

/* What a callback that went wrong ends with. A handler that somebody has already stays theirs. */
static const struct {
    int number;
    const char *words;
} watch_crashes[SIMLIB_CRASH_SIGNALS] = {{SIGABRT, "has aborted (SIGABRT, a failed assertion?)"},
                                         {SIGSEGV, "has crashed (SIGSEGV; an overflown stack?)"},
                                         {SIGBUS, "has crashed (SIGBUS)"},
                                         {SIGFPE, "has crashed (SIGFPE)"},
                                         {SIGILL, "has crashed (SIGILL)"}};

/* The watch that is on in this thread: a handler of signals, and exit(), have nothing else to find
 * it by. */
static _Thread_local struct simlib_watch *watch_current;

/* ---- whose turn it is ------------------------------------------------------------------------ */

struct simlib_caller kelpie__simlib_caller(const struct kelpie_sim *sim) {
    const struct sim_process *process = kelpie__sim_world_current(sim->world);
    kelpie__simlib_check(sim);
    if (sim->check_name != NULL) {
        return (struct simlib_caller){"check", sim->check_name};
    }
    if (sim->is_setting_up) {
        return (struct simlib_caller){"the scenario", "set-up"};
    }
    if (process == NULL) {
        return (struct simlib_caller){"the simulator", "between its processes"};
    }
    const char *slash = strrchr(process->path, '/');
    return (struct simlib_caller){process->machine->guest != NULL ? "guest program" : "program",
                                  slash == NULL ? process->path : slash + 1};
}

/* ---- last words: nothing but what a handler of signals may call ------------------------------ */

static void say(const char *text) {
    size_t length = strlen(text);
    ssize_t written = write(STDERR_FILENO, text, length);
    kelpie__ignore(written); /* there is nobody else to tell */
}

static void say_number(uint64_t value) {
    char text[WATCH_NUMBER_BYTES_MAX];
    size_t at = sizeof(text) - 1;
    text[at] = '\0';
    do { /* bound: the digits of a 64-bit number */
        at -= 1;
        text[at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    say(text + at);
}

/* `limit_ms`: 0: there is nothing to say of it. */
static _Noreturn void end_process(const struct kelpie_sim *sim, const char *words,
                                  uint64_t limit_ms) {
    struct simlib_caller caller = kelpie__simlib_caller(sim);
    KELPIE_ASSERT(words[0] != '\0');
    kelpie__simlib_check(sim);
    say("libkelpie-sim: ");
    say(caller.kind);
    say(" \"");
    say(caller.name);
    say("\" ");
    say(words);
    if (limit_ms > 0) {
        say(" for ");
        say_number(limit_ms);
        say(" ms of real time");
    }
    say(" (seed ");
    say_number(sim->seed);
    say(", virtual time ");
    say_number((uint64_t)(kelpie__sim_now(sim->world) / KELPIE_NS_PER_MS));
    say(" ms, verdict 15)\n");
    if (sim->replay != NULL) {
        say("replay: ");
        say(sim->replay);
        say("\n");
    }
    _exit(KELPIE_SIM_CRASHED);
}

/* ---- what the watch sees --------------------------------------------------------------------- */

static void on_tick(int number, siginfo_t *info, void *context) {
    struct simlib_watch *watch = info->si_value.sival_ptr;
    if (number != WATCH_SIGNAL || info->si_code != SI_TIMER || context == NULL) {
        return; /* somebody else's signal */
    }
    uint64_t progress = kelpie__sim_world_calls(watch->sim->world) + watch->sim->callback_count +
                        (uint64_t)kelpie__sim_now(watch->sim->world);
    watch->quiet_ticks = progress == watch->progress ? watch->quiet_ticks + 1 : 0;
    watch->progress = progress;
    if (watch->quiet_ticks > WATCH_TICKS) {
        end_process(watch->sim, "has neither returned nor called Kelpie",
                    watch->sim->callback_limit_ms);
    }
}

/* Whoever is not in the watched process, as a child that a program forked, dies as ever: the action
 * is the default one again. */
static void on_crash(int number) {
    const struct simlib_watch *watch = watch_current;
    for (size_t i = 0; i < SIMLIB_CRASH_SIGNALS; i += 1) {
        if (watch != NULL && watch->process == getpid() && watch_crashes[i].number == number) {
            end_process(watch->sim, watch_crashes[i].words, 0);
        }
    }
}

static bool is_on_its_stack(const struct sim_process *process) {
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t stack = (uintptr_t)process->fiber.stack;
    return here >= stack && here < stack + process->fiber.stack_bytes;
}

/* Whether a program's turn goes on on a stack that is not its own. */
static bool has_left(const struct kelpie_sim *sim) {
    const struct sim_process *process = kelpie__sim_world_current(sim->world);
    return sim->watch.depth > 0 && sim->check_name == NULL && process != NULL &&
           !process->is_embedder && !is_on_its_stack(process);
}

void kelpie__simlib_watch_call(const struct kelpie_sim *sim) {
    if (has_left(sim)) {
        end_process(sim, "has left by longjmp, or another thread uses its world", 0);
    }
}

/* exit(3), and the end of main(), come by here. A test that a program ends so would pass. */
__attribute__((destructor)) static void on_exit_of_process(void) {
    const struct simlib_watch *watch = watch_current;
    if (watch != NULL && watch->process == getpid()) {
        kelpie__ignore(fflush(NULL)); /* what was printed belongs before this */
        const char *words = has_left(watch->sim) ? "has left by longjmp, and the process ends"
                            : watch->sim->check_name != NULL
                                ? "has called exit(), or has left by longjmp"
                                : "has called exit(); a program ends when it returns";
        end_process(watch->sim, words, 0);
    }
}

/* ---- begin and end --------------------------------------------------------------------------- */

static void crashes_begin(struct simlib_watch *watch, uint8_t *stack, size_t stack_bytes) {
    struct sigaction action = {.sa_handler = on_crash,
                               .sa_flags = (int)(SA_ONSTACK | SA_RESETHAND)};
    const stack_t own = {.ss_sp = stack, .ss_size = stack_bytes};
    KELPIE_ASSERT(watch->depth > 0);
    KELPIE_ASSERT(stack != NULL && stack_bytes >= SIMLIB_SIGNAL_STACK_BYTES);
    kelpie__ignore(sigemptyset(&action.sa_mask));
    /* A stack that has overflown is none to tell it on. */
    kelpie__ignore(sigaltstack(NULL, &watch->stack_before));
    if ((watch->stack_before.ss_flags & SS_DISABLE) != 0) {
        kelpie__ignore(sigaltstack(&own, NULL));
    }
    for (size_t i = 0; i < SIMLIB_CRASH_SIGNALS; i += 1) {
        struct sigaction *before = &watch->crashes_before[i];
        bool is_known = sigaction(watch_crashes[i].number, NULL, before) == 0;
        watch->is_ours[i] = is_known && (before->sa_flags & SA_SIGINFO) == 0 &&
                            before->sa_handler == SIG_DFL &&
                            sigaction(watch_crashes[i].number, &action, NULL) == 0;
    }
}

static void crashes_end(struct simlib_watch *watch) {
    for (size_t i = 0; i < SIMLIB_CRASH_SIGNALS; i += 1) {
        if (watch->is_ours[i]) {
            kelpie__ignore(sigaction(watch_crashes[i].number, &watch->crashes_before[i], NULL));
        }
    }
    if ((watch->stack_before.ss_flags & SS_DISABLE) != 0) {
        kelpie__ignore(sigaltstack(&watch->stack_before, NULL));
    }
}

static void timer_begin(struct simlib_watch *watch, uint32_t limit_ms) {
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WATCH_SIGNAL};
    int64_t tick_ns = (int64_t)limit_ms * KELPIE_NS_PER_MS / WATCH_TICKS;
    const struct timespec tick = {.tv_sec = (time_t)(tick_ns / KELPIE_NS_PER_S),
                                  .tv_nsec = (long)(tick_ns % KELPIE_NS_PER_S)};
    const struct itimerspec times = {.it_interval = tick, .it_value = tick};
    KELPIE_ASSERT(limit_ms > 0 && !watch->has_timer);
    sigset_t own;
    event.sigev_value.sival_ptr = watch;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    kelpie__ignore(sigemptyset(&action.sa_mask));
    kelpie__ignore(sigemptyset(&own));
    kelpie__ignore(sigaddset(&own, WATCH_SIGNAL));
    KELPIE_ASSERT(tick_ns > 0);
    if (timer_create(CLOCK_MONOTONIC, &event, &watch->timer) < 0) {
        return; /* without a timer the run is the same */
    }
    kelpie__ignore(sigaction(WATCH_SIGNAL, &action, &watch->action_before));
    kelpie__ignore(pthread_sigmask(SIG_UNBLOCK, &own, &watch->mask_before));
    watch->has_timer = true;
    kelpie__ignore(timer_settime(watch->timer, 0, &times, NULL));
}

void kelpie__simlib_watch_begin(struct kelpie_sim *sim) {
    struct simlib_watch *watch = &sim->watch;
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(sim->callback_limit_ms > 0);
    watch->depth += 1;
    if (watch->depth > 1) {
        return; /* a run within a scenario's set-up */
    }
    *watch =
        (struct simlib_watch){.sim = sim, .depth = 1, .process = getpid(), .outer = watch_current};
    watch_current = watch;
    if (sim->callback_limit_ms < UINT32_MAX) { /* else somebody debugs it, and gets the signals */
        crashes_begin(watch, sim->signal_stack, sizeof(sim->signal_stack));
        timer_begin(watch, sim->callback_limit_ms);
    }
}

void kelpie__simlib_watch_end(struct kelpie_sim *sim) {
    struct simlib_watch *watch = &sim->watch;
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(watch->depth > 0);
    watch->depth -= 1;
    if (watch->depth > 0) {
        return;
    }
    if (watch->has_timer) {
        kelpie__ignore(timer_delete(watch->timer));
        kelpie__ignore(pthread_sigmask(SIG_SETMASK, &watch->mask_before, NULL));
        kelpie__ignore(sigaction(WATCH_SIGNAL, &watch->action_before, NULL));
    }
    if (sim->callback_limit_ms < UINT32_MAX) {
        crashes_end(watch);
    }
    watch_current = watch->outer;
}
