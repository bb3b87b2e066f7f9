/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Questions about the VM that change nothing: its state, its figures, its health.
 */
#ifndef KELPIE_MONITOR_INSPECT_H
#define KELPIE_MONITOR_INSPECT_H

#include <stdint.h>

#include "monitor/reply.h"
#include "os/os.h"

void kelpie__inspect_state(struct kelpie_monitor *monitor, struct kelpie_reply reply);
void kelpie__inspect_stats(struct kelpie_monitor *monitor, struct kelpie_reply reply);
void kelpie__inspect_health(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                            uint64_t timeout_ms);

/* Resident in memory, of the VMM; 0: not known. */
uint64_t kelpie__inspect_memory_kib(struct kelpie_os *os, int32_t pid);

#endif
