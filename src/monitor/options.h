/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How a monitor is started. Its argv names the VM's directories, so that people and tests find it:
 *     kelpie-monitor --run-dir D --vm-dir D --state-dir D --cache-dir D --libexec-dir D --name N
 * and its descriptors are: 2 its log, 3 the VM's lock, 4 the listener, 5 the first connection, 6
 * the owner (if owned).
 */
#ifndef KELPIE_MONITOR_OPTIONS_H
#define KELPIE_MONITOR_OPTIONS_H

#include "core/error.h"

enum kelpie_monitor_handle {
    KELPIE_MONITOR_HANDLE_LOCK = 3,
    KELPIE_MONITOR_HANDLE_LISTENER = 4,
    KELPIE_MONITOR_HANDLE_CONNECTION = 5,
    KELPIE_MONITOR_HANDLE_OWNER = 6,
};

/* Borrowed from argv. */
struct kelpie_monitor_options {
    const char *run_directory;
    const char *vm_directory;
    const char *state_directory; /* where snapshots go */
    const char *cache_directory;
    const char *libexec_directory;
    const char *name;
};

KELPIE_MUST_CHECK int kelpie__monitor_options_read(struct kelpie_monitor_options *options, int argc,
                                                   char **argv, struct kelpie_error *error);

#endif
