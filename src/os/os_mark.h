/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Points in the product that the simulator's own build looks at (meson -Dsimulation=true); in every
 * other build they are nothing. A mark says that something worth reaching was reached: over CI's
 * seeds each one has to be. What is told is what no call shows, and what the simulator knows better
 * (sim/told.h). A canary is a planted bug, one of which a run may switch on: the general swarm has
 * to find it (docs/simulation.md).
 */
#ifndef KELPIE_OS_OS_MARK_H
#define KELPIE_OS_OS_MARK_H

#include "core/base.h"
#include "os/os.h"

#ifdef KELPIE_SIMULATION

struct kelpie_mark {
    const char *name;
    const struct kelpie_told *told; /* NULL: it is a mark of the catalogue */
};

struct kelpie_told {
    int handle;
    uint64_t number;
};

/* The linker collects all of them between __start_kelpie_marks and __stop_kelpie_marks. */
#define KELPIE_REACHED(os, text)                                                                   \
    do {                                                                                           \
        static const struct kelpie_mark kelpie_mark_here                                           \
            __attribute__((section("kelpie_marks"), used)) = {text, NULL};                         \
        if ((os)->mark != NULL) {                                                                  \
            (os)->mark((os), &kelpie_mark_here);                                                   \
        }                                                                                          \
    } while (0)
#define KELPIE_SOMETIMES(os, text, condition)                                                      \
    do {                                                                                           \
        if (condition) {                                                                           \
            KELPIE_REACHED(os, text);                                                              \
        }                                                                                          \
    } while (0)
#define KELPIE_TELL(os, what, handle, number)                                                      \
    do {                                                                                           \
        const struct kelpie_told kelpie_told_here = {handle, number};                              \
        const struct kelpie_mark kelpie_mark_here = {what, &kelpie_told_here};                     \
        if ((os)->mark != NULL) {                                                                  \
            (os)->mark((os), &kelpie_mark_here);                                                   \
        }                                                                                          \
    } while (0)
#define KELPIE_CANARY(os, number) ((os)->canary == (number))

#else

#define KELPIE_REACHED(os, text)                                                                   \
    do {                                                                                           \
    } while (0)
#define KELPIE_SOMETIMES(os, text, condition)                                                      \
    do {                                                                                           \
    } while (0)
#define KELPIE_TELL(os, what, handle, number)                                                      \
    do {                                                                                           \
    } while (0)
#define KELPIE_CANARY(os, number) (false)

#endif

#endif
