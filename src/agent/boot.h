/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What process 1 does before anybody speaks to it: file systems of the kernel, modules, the port.
 */
#ifndef KELPIE_AGENT_BOOT_H
#define KELPIE_AGENT_BOOT_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

/* Mounts what the search for the port needs (dev, proc, sys) and occupies the descriptors 0 to 2.
 */
KELPIE_MUST_CHECK int kelpie__agent_boot_early(struct kelpie_os *os, struct kelpie_error *error);

/* Mounts and sets up what commands need from the kernel, but `hello` does not. What fails is
 * written to the console: a userland without /dev/shm is still worth having. */
void kelpie__agent_boot_late(struct kelpie_os *os);

/* Loads the modules of one group ("early", "disk", "overlay", a file system's name) in the order of
 * /.kelpie/modules.list. A missing list, or group, is a kernel that has them built in: no error. */
KELPIE_MUST_CHECK int kelpie__agent_load_modules(struct kelpie_os *os, const char *group,
                                                 struct kelpie_error *error);

/* Opens the virtio port that has this name. A handle, -ENOENT while there is none, or another
 * -errno. */
KELPIE_MUST_CHECK int kelpie__agent_open_port(struct kelpie_os *os, const char *name);

/* One line on the console, for people who look for the reason of a boot that failed. */
KELPIE_PRINTF(2, 3)
void kelpie__agent_log(struct kelpie_os *os, const char *format, ...);

#endif
