/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How much memory this host could give to VMs.
 */
#ifndef KELPIE_CORE_MEMORY_INFO_H
#define KELPIE_CORE_MEMORY_INFO_H

#include "core/base.h"
#include "os/os.h"

/* UINT64_MAX where the host does not say. */
uint64_t kelpie__memory_available_mib(struct kelpie_os *os);

#endif
