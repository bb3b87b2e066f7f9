/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ready.h. In the agent's own root, which is entered once and before: a process that was there
 * earlier would have another.
 */
#include "agent/ready.h"

#include <errno.h>

#include "agent/agent.h"
#include "agent/pipes.h"
#include "os/os_call.h"
#include "os/os_mark.h"

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
        status = kelpie__agent_pipes_open(agent->os, true, ready.ours, theirs);
    }
    if (status == 0) {
        const struct kelpie_os_spawn spawn = {
            .handles = theirs, .handle_count = 3, .cgroup = ready.group.directory};
        status = kelpie__os_make_ready(agent->os, &spawn, &ready.pid);
    }
    kelpie__agent_pipes_close(agent->os, theirs, 3);
    if (status < 0) {
        KELPIE_REACHED(agent->os, "no process could be made ready");
        kelpie__agent_pipes_close(agent->os, ready.ours, 3);
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
    kelpie__agent_pipes_close(agent->os, ready.ours, 3);
    kelpie__agent_group_release(&agent->groups, &ready.group, 0);
    return true;
}
