/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The libkrun driver's entry in the table of drivers. libkrun itself is known to kelpie-krun alone.
 */
#ifndef KELPIE_VMM_KRUN_KRUN_H
#define KELPIE_VMM_KRUN_KRUN_H

#include "vmm/vmm.h"

extern const struct kelpie_vmm_operations kelpie__krun_operations;

#endif
