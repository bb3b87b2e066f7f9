/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Which VMM a VM runs on: what was asked for, or, with auto, what this host has and the start
 * needs. Chosen anew at each start, and told with its reason.
 */
#ifndef KELPIE_MONITOR_BACKEND_H
#define KELPIE_MONITOR_BACKEND_H

#include "vmm/vmm.h"

struct kelpie_monitor;

/* Sets the monitor's backend, and the reason in its record. UNSUPPORTED when the one that was asked
 * for cannot do what the start needs. */
KELPIE_MUST_CHECK int kelpie__backend_choose(struct kelpie_monitor *monitor, bool needs_snapshot,
                                             struct kelpie_error *error);

/* Whether the backend of the VM that runs, or of its next start, can restore it; else
 * UNSUPPORTED. */
KELPIE_MUST_CHECK int kelpie__backend_can_restore(struct kelpie_monitor *monitor,
                                                  struct kelpie_error *error);

/* UNSUPPORTED when this VM has what cannot be saved: the agent's channel over vsock, a shared
 * directory. */
KELPIE_MUST_CHECK int kelpie__backend_can_save(const struct kelpie_monitor *monitor,
                                               const char *operation, struct kelpie_error *error);

#endif
