/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The list of processes in /proc: how a command's processes are found where the kernel has no
 * cgroups.
 */
#ifndef KELPIE_AGENT_PROCESS_LIST_H
#define KELPIE_AGENT_PROCESS_LIST_H

#include "core/base.h"
#include "os/os.h"

/* The number of processes, zombies included, or a negative errno value. */
KELPIE_MUST_CHECK int kelpie__agent_process_count(struct kelpie_os *os);

/* Sends `signal` (0: none) to each living process that belongs to the command `leader`: its
 * session, what descends from it, and, when it is the only one in `leaders`, every orphan that this
 * process inherited. Other commands' processes are left alone. How many there were; 0 when the list
 * cannot be read. */
uint32_t kelpie__agent_process_list_signal(struct kelpie_os *os, int32_t leader,
                                           const int32_t *leaders, uint32_t leader_count,
                                           int signal);

#endif
