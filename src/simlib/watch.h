/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The watch over callbacks that never return (watch.c), and whose turn it is in a world.
 */
#ifndef KELPIE_SIMLIB_WATCH_H
#define KELPIE_SIMLIB_WATCH_H

#include <signal.h>
#include <time.h>

#include "simlib/internal.h"

struct simlib_watch {
    const struct kelpie_sim *sim; /* borrowed: until the end */
    uint32_t limit_ms;
    bool is_on;
    uint64_t progress; /* calls, callbacks and virtual time, when the timer last looked */
    uint32_t quiet_ticks;
    timer_t timer;
    struct sigaction action_before;
    sigset_t mask_before;
};

/* Around whatever calls the embedder's callbacks, on one thread. It stays where it is meanwhile. */
void kelpie__simlib_watch_begin(struct simlib_watch *watch, const struct kelpie_sim *sim);
void kelpie__simlib_watch_end(struct simlib_watch *watch);

/* "check" and its name, "program" and its name, ...; borrowed. */
struct simlib_caller {
    const char *kind;
    const char *name;
};
struct simlib_caller kelpie__simlib_caller(const struct kelpie_sim *sim);

#endif
