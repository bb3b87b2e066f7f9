/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A command's process in advance: born before a guest is saved, it has its pipes and its cgroup and
 * waits for a program. The first command of each guest that is restored from there becomes it, and
 * need not wait for a birth, which a processor that is emulated does for the first time then.
 *
 * It is nobody's command: not listed, not counted, not told apart from strays by its session, for
 * it is in the agent's. Whoever kills it harms nobody: the next command is born as all others.
 */
#ifndef KELPIE_AGENT_READY_H
#define KELPIE_AGENT_READY_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/group.h"

struct kelpie_agent;

struct kelpie_agent_ready {
    int32_t pid; /* 0: there is none */
    int ours[3]; /* owned: the agent's ends of its input, output, error output */
    struct kelpie_agent_group group;
};

/* Makes one, unless there is one; without it all goes on as well. */
void kelpie__agent_ready_make(struct kelpie_agent *agent);

/* Gives it away, pipes and group: false when there is none. */
bool kelpie__agent_ready_take(struct kelpie_agent *agent, struct kelpie_agent_ready *out);

/* A process of this number was collected: true when it was this one, which is forgotten. */
bool kelpie__agent_ready_reaped(struct kelpie_agent *agent, int32_t pid);

#endif
