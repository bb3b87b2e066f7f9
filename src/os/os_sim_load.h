/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated system as a library that is loaded when it is asked for (state_directory
 * "sim:..."), so that nothing of the simulator is in libkelpie. The other side is
 * src/simlib/open.c.
 */
#ifndef KELPIE_OS_OS_SIM_LOAD_H
#define KELPIE_OS_OS_SIM_LOAD_H

#include "core/base.h"
#include "os/os.h"

#define KELPIE_OS_SIM_PREFIX "sim:"
#define KELPIE_OS_SIM_PROBLEM_BYTES 256u

/* What the library exports; found by name. Both sides must be of one build: `version` is
 * KELPIE_VERSION and `table_bytes` is sizeof(struct kelpie_os). -EINVAL: `out_problem` says why. */
#define KELPIE_OS_SIM_OPEN "kelpie_sim_os_open"
#define KELPIE_OS_SIM_CLOSE "kelpie_sim_os_close"
typedef int (*kelpie_os_sim_open)(const char *options, const char *version, size_t table_bytes,
                                  struct kelpie_os **out,
                                  char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]);
typedef void (*kelpie_os_sim_close)(struct kelpie_os *os);
/* Whether the caller is a program of a world that runs (kelpie_sim.h). */
#define KELPIE_OS_SIM_IS_INSIDE "kelpie_sim_os_is_inside"
typedef bool (*kelpie_os_sim_is_inside)(void);

/* `options`: what follows "sim:". -ENOENT: the library is not there; -EINVAL: it refuses the
 * options. Each time with the reason and the way out. */
KELPIE_MUST_CHECK int kelpie__os_sim_open(const char *options, struct kelpie_os **out,
                                          char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]);
void kelpie__os_sim_close(struct kelpie_os *os);
/* False when the library was never loaded. */
bool kelpie__os_sim_is_inside(void);

#endif
