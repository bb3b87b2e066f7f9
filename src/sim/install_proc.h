/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * /proc of the simulated host: what the product reads there, made at each open.
 */
#ifndef KELPIE_SIM_INSTALL_PROC_H
#define KELPIE_SIM_INSTALL_PROC_H

#include "sim/world.h"

#define SIM_KERNEL_RELEASE "6.1.0-56-cloud-amd64"

/* 0 or -errno. has_threads: what /proc tells of each process's, too. */
int kelpie__sim_install_proc(struct sim_disk *disk, bool has_threads);

#endif
