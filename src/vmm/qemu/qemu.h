/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The QEMU driver's entry in the table of drivers. Everything else about QEMU stays in this folder.
 */
#ifndef KELPIE_VMM_QEMU_QEMU_H
#define KELPIE_VMM_QEMU_QEMU_H

#include "vmm/vmm.h"

extern const struct kelpie_vmm_operations kelpie__qemu_operations;

#endif
