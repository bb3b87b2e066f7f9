/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Who waits for an answer: a request of a client that may be gone by the time it is known. Also the
 * client side of what other modules of the monitor send. Clients are named by serial numbers, which
 * are never used again.
 */
#ifndef KELPIE_MONITOR_REPLY_H
#define KELPIE_MONITOR_REPLY_H

#include "core/error.h"

struct kelpie_monitor;
struct kelpie_wire;

struct kelpie_reply {
    uint64_t client; /* serial number; 0: nobody waits */
    uint64_t request;
};

/* Each answers once and forgets who waited; a client that is gone gets nothing. */
void kelpie__reply_result(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                          const char *result);
void kelpie__reply_refuse(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                          const struct kelpie_error *why);
KELPIE_PRINTF(4, 5)
void kelpie__reply_refuse_text(struct kelpie_monitor *monitor, struct kelpie_reply *reply, int code,
                               const char *format, ...);

/* The open connection of a client, or NULL. */
struct kelpie_wire *kelpie__client_wire(struct kelpie_monitor *monitor, uint64_t client);

#endif
