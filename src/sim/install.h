/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What an installed Kelpie finds on the simulated host: its programs, QEMU, a kernel with modules,
 * busybox, /proc, /dev. Also kelpie-pack, which is outside the seam in the real system and a small
 * inhabitant here.
 */
#ifndef KELPIE_SIM_INSTALL_H
#define KELPIE_SIM_INSTALL_H

#include "sim/world.h"

#define SIM_LIBEXEC_DIRECTORY "/usr/libexec/kelpie"
#define SIM_STATE_DIRECTORY "/var/lib/kelpie"
#define SIM_RUNTIME_DIRECTORY "/run/kelpie"
#define SIM_CACHE_DIRECTORY "/var/cache/kelpie"

/* Registers the programs and lays out the files. 0 or -errno. */
int kelpie__sim_install(struct sim_world *world);
/* qemu.c, krun.c, pack.c: programs of the host. */
int kelpie__sim_qemu_main(struct kelpie_os *os, int argc, char **argv);
int kelpie__sim_krun_main(struct kelpie_os *os, int argc, char **argv);
int kelpie__sim_pack_main(struct kelpie_os *os, int argc, char **argv);
/* guest.c's part: the agent, as the guest's /init. */
int kelpie__sim_install_guest_programs(struct sim_world *world);

#endif
