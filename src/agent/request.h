/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a peer may ask of the agent.
 */
#ifndef KELPIE_AGENT_REQUEST_H
#define KELPIE_AGENT_REQUEST_H

#include "core/base.h"

struct kelpie_agent;

/* A request of the peer: it is answered now, or, by exec.start, when its arguments are complete. */
void kelpie__agent_request(struct kelpie_agent *agent, uint64_t id, const char *method,
                           const char *params, size_t length);

#endif
