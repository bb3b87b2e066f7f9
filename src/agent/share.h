/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Directories of the host, which libkrun shows a guest by virtio-fs.
 */
#ifndef KELPIE_AGENT_SHARE_H
#define KELPIE_AGENT_SHARE_H

#include "agent/agent.h"
#include "agent/params.h"

/* The request guest.mount: the directory of a tag at a path, which is made. Codes: SHARE,
 * PROTOCOL. */
void kelpie__agent_share_request(struct kelpie_agent *agent, uint64_t id,
                                 const struct kelpie_agent_params *params);

#endif
