/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The pipes of a command's streams, in the order of their numbers: input, output, error output.
 */
#ifndef KELPIE_AGENT_PIPES_H
#define KELPIE_AGENT_PIPES_H

#include "core/base.h"
#include "os/os.h"

#define KELPIE_AGENT_PIPE_COUNT 3u

/* Both sides' ends; without input the first of each stays as it is. 0, or -errno, and none is open.
 */
KELPIE_MUST_CHECK int kelpie__agent_pipes_open(struct kelpie_os *os, bool has_input, int *ours,
                                               int *theirs);

/* The first `count` of one side; those that are KELPIE_OS_NO_HANDLE are passed over. */
void kelpie__agent_pipes_close(struct kelpie_os *os, int *handles, size_t count);

#endif
