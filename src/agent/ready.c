/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ready.h. In the agent's own root, which is entered once and before: a process that was there
 * earlier would have another.
 */
#include "agent/ready.h"

#include <errno.h>

#include "agent/agent.h"
#include "os/os_call.h"
#include "os/os_mark.h"

static void ready_close(struct kelpie_os *os, int handles[3]) {
    for (int i = 0; i < 3; i += 1) {
        if (handles[i] >= 0) {
            kelpie__ignore(kelpie__os_close(os, handles[i]));
        }
        handles[i] = KELPIE_OS_NO_HANDLE;
    }
}

static int ready_open_pipes(struct kelpie_os *os, int ours[3], int theirs[3]) {
    KELPIE_ASSERT(ours[0] < 0 && theirs[0] < 0);
    for (int i = 0; i < 3; i += 1) {
        int ends[2];
        int status = kelpie__os_pipe(os, ends);
        if (status < 0) {
            return status;
        }
        ours[i] = ends[i == 0 ? 1 : 0];
        theirs[i] = ends[i == 0 ? 0 : 1];
    }
    return 0;
}

void kelpie__agent_ready_make(struct kelpie_agent *agent) {
    struct kelpie_agent_ready ready = {.ours = {-1, -1, -1}};
    int theirs[3] = {-1, -1, -1};
    if (agent->ready.pid != 0 || !agent->is_guest || !agent->is_set_up) {
        return;
    }
    kelpie__agent_group_acquire(&agent->groups, &ready.group);
    int status =
        ready.group.directory < 0 ? -ENOENT : 0; /* no cgroups: it would look like a stray */
    if (status == 0) {
        status = ready_open_pipes(agent->os, ready.ours, theirs);
    }
    if (status == 0) {
        const struct kelpie_os_spawn spawn = {
            .handles = theirs, .handle_count = 3, .cgroup = ready.group.directory};
        status = kelpie__os_make_ready(agent->os, &spawn, &ready.pid);
    }
    ready_close(agent->os, theirs);
    if (status < 0) {
        KELPIE_REACHED(agent->os, "no process could be made ready");
        ready_close(agent->os, ready.ours);
        kelpie__agent_group_release(&agent->groups, &ready.group, 0);
        return;
    }
    KELPIE_ASSERT(ready.pid > 1);
    agent->ready = ready;
}

bool kelpie__agent_ready_take(struct kelpie_agent *agent, struct kelpie_agent_ready *out) {
    if (agent->ready.pid == 0) {
        return false;
    }
    KELPIE_ASSERT(agent->ready.group.directory >= 0);
    KELPIE_ASSERT(agent->ready.ours[1] >= 0);
    *out = agent->ready;
    agent->ready = (struct kelpie_agent_ready){0};
    return true;
}

bool kelpie__agent_ready_reaped(struct kelpie_agent *agent, int32_t pid) {
    struct kelpie_agent_ready ready;
    KELPIE_ASSERT(pid > 1);
    if (agent->ready.pid != pid || !kelpie__agent_ready_take(agent, &ready)) {
        return false;
    }
    KELPIE_REACHED(agent->os, "the ready process was gone");
    ready_close(agent->os, ready.ours);
    kelpie__agent_group_release(&agent->groups, &ready.group, 0);
    return true;
}
