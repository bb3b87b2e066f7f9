/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The watch over callbacks that never return, crash, or end the process (watch.c), and whose turn
 * it is in a world.
 */
#ifndef KELPIE_SIMLIB_WATCH_H
#define KELPIE_SIMLIB_WATCH_H

#include "simlib/internal.h"

/* Around whatever calls the embedder's callbacks, on one thread; within itself it is one. */
void kelpie__simlib_watch_begin(struct kelpie_sim *sim);
void kelpie__simlib_watch_end(struct kelpie_sim *sim);
/* At a call of kelpie_sim.h: when it does not come from the program whose turn it is, that one has
 * left by longjmp. Then it does not return. */
void kelpie__simlib_watch_call(const struct kelpie_sim *sim);

/* "check" and its name, "program" and its name, ...; borrowed. */
struct simlib_caller {
    const char *kind;
    const char *name;
};
struct simlib_caller kelpie__simlib_caller(const struct kelpie_sim *sim);

#endif
