/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A watch over the embedder's callbacks: one that neither returns nor calls Kelpie would hang the
 * whole simulator, which runs on its stack. While a world runs, a timer of the real system looks
 * several times within the limit whether anything has happened. What such a callback holds nobody
 * knows, so that nothing can go on after it: its name is told, and the process ends.
 */
#include "simlib/watch.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/limits.h"
#include "sim/machine.h"

#define WATCH_TICKS 4u /* within the limit, all without progress */
#define WATCH_SIGNAL (SIGRTMAX - 1)
#define WATCH_NUMBER_BYTES_MAX 24u

/* ---- whose turn it is ------------------------------------------------------------------------ */

struct simlib_caller kelpie__simlib_caller(const struct kelpie_sim *sim) {
    const struct sim_process *process = kelpie__sim_world_current(sim->world);
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

/* ---- the signal's handler: nothing but what may be called in one ------------------------------
 */

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

static void give_up(const struct simlib_watch *watch) {
    struct simlib_caller caller = kelpie__simlib_caller(watch->sim);
    KELPIE_ASSERT(watch->is_on);
    say("libkelpie-sim: ");
    say(caller.kind);
    say(" \"");
    say(caller.name);
    say("\" has neither returned nor called Kelpie for ");
    say_number(watch->limit_ms);
    say(" ms of real time (seed ");
    say_number(watch->sim->seed);
    say(", virtual time ");
    say_number((uint64_t)(kelpie__sim_now(watch->sim->world) / KELPIE_NS_PER_MS));
    say(" ms, verdict 15)\n");
    if (watch->sim->replay != NULL) {
        say("replay: ");
        say(watch->sim->replay);
        say("\n");
    }
    _exit(KELPIE_SIM_CRASHED);
}

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
        give_up(watch);
    }
}

/* ---- begin and end --------------------------------------------------------------------------- */

void kelpie__simlib_watch_begin(struct simlib_watch *watch, const struct kelpie_sim *sim) {
    *watch = (struct simlib_watch){.sim = sim, .limit_ms = sim->callback_limit_ms};
    KELPIE_ASSERT(sim->callback_limit_ms > 0);
    if (sim->callback_limit_ms == UINT32_MAX) {
        return;
    }
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WATCH_SIGNAL};
    int64_t tick_ns = (int64_t)sim->callback_limit_ms * KELPIE_NS_PER_MS / WATCH_TICKS;
    const struct timespec tick = {.tv_sec = (time_t)(tick_ns / KELPIE_NS_PER_S),
                                  .tv_nsec = (long)(tick_ns % KELPIE_NS_PER_S)};
    const struct itimerspec times = {.it_interval = tick, .it_value = tick};
    sigset_t own;
    event.sigev_value.sival_ptr = watch;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    kelpie__ignore(sigemptyset(&action.sa_mask));
    kelpie__ignore(sigemptyset(&own));
    kelpie__ignore(sigaddset(&own, WATCH_SIGNAL));
    KELPIE_ASSERT(tick_ns > 0);
    if (timer_create(CLOCK_MONOTONIC, &event, &watch->timer) < 0) {
        return; /* without a watch the run is the same */
    }
    kelpie__ignore(sigaction(WATCH_SIGNAL, &action, &watch->action_before));
    kelpie__ignore(pthread_sigmask(SIG_UNBLOCK, &own, &watch->mask_before));
    watch->is_on = true;
    kelpie__ignore(timer_settime(watch->timer, 0, &times, NULL));
}

void kelpie__simlib_watch_end(struct simlib_watch *watch) {
    if (watch->is_on) {
        kelpie__ignore(timer_delete(watch->timer));
        kelpie__ignore(pthread_sigmask(SIG_SETMASK, &watch->mask_before, NULL));
        kelpie__ignore(sigaction(WATCH_SIGNAL, &watch->action_before, NULL));
        watch->is_on = false;
    }
}
