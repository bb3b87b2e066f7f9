/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Figures about the guest as a whole, read from /proc when somebody asks.
 */
#ifndef KELPIE_AGENT_STATS_H
#define KELPIE_AGENT_STATS_H

#include "core/base.h"
#include "os/os.h"

struct kelpie_agent_stats {
    uint64_t uptime_ms;
    uint64_t load1_milli;
    uint64_t memory_total_kib;
    uint64_t memory_available_kib;
    uint64_t process_count;
    uint64_t disk_total_kib; /* of the root file system; 0 when it does not say */
    uint64_t disk_used_kib;
    uint64_t cpu_ms; /* all processors together, without idle time */
};

/* What cannot be read is 0. */
void kelpie__agent_stats_read(struct kelpie_os *os, struct kelpie_agent_stats *out);

#endif
