/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * guest.sync: what the guest has written goes to its disks, for a snapshot whose disk may be all
 * that is used of it. Nothing is frozen and nobody waits but the peer: a child of the agent does
 * it, one at a time.
 */
#ifndef KELPIE_AGENT_SYNC_H
#define KELPIE_AGENT_SYNC_H

#include "agent/params.h"
#include "core/base.h"
#include "os/os.h"

#define KELPIE_AGENT_SYNC_OPTION "--sync"

struct kelpie_agent;

struct kelpie_agent_sync {
    int32_t pid;         /* of the child; 0: none */
    uint64_t request_id; /* 0: nobody waits for it any more */
};

void kelpie__agent_sync_request(struct kelpie_agent *agent, uint64_t id,
                                const struct kelpie_agent_params *params);
/* A child was collected. False: it is none of this. */
bool kelpie__agent_sync_reaped(struct kelpie_agent *agent, int32_t pid,
                               const struct kelpie_os_exit *exit);
/* From now on nothing may be said: whoever waits is told that it was not done in time. */
void kelpie__agent_sync_give_up(struct kelpie_agent *agent);
/* Another peer: nobody waits. */
void kelpie__agent_sync_forget(struct kelpie_agent *agent);

/* The child's life; gives its exit code. */
int kelpie__agent_sync_main(struct kelpie_os *os);

#endif
