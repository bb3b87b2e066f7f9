/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See pipes.h.
 */
#include "agent/pipes.h"

#include "os/os_call.h"

void kelpie__agent_pipes_close(struct kelpie_os *os, int *handles, size_t count) {
    KELPIE_ASSERT(count <= KELPIE_AGENT_PIPE_COUNT);
    for (size_t i = 0; i < count; i += 1) {
        if (handles[i] >= 0) {
            kelpie__ignore(kelpie__os_close(os, handles[i]));
        }
        handles[i] = KELPIE_OS_NO_HANDLE;
    }
}

int kelpie__agent_pipes_open(struct kelpie_os *os, bool has_input, int *ours, int *theirs) {
    KELPIE_ASSERT(ours[1] < 0 && theirs[1] < 0);
    for (size_t i = has_input ? 0 : 1; i < KELPIE_AGENT_PIPE_COUNT; i += 1) {
        int ends[2];
        int status = kelpie__os_pipe(os, ends);
        if (status < 0) {
            kelpie__agent_pipes_close(os, ours, KELPIE_AGENT_PIPE_COUNT);
            kelpie__agent_pipes_close(os, theirs, KELPIE_AGENT_PIPE_COUNT);
            return status;
        }
        ours[i] = ends[i == 0 ? 1 : 0];
        theirs[i] = ends[i == 0 ? 0 : 1];
    }
    return 0;
}
