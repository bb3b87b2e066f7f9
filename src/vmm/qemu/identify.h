/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a boot would start, as a part of a key: see `identify` in vmm.h.
 */
#ifndef KELPIE_VMM_QEMU_IDENTIFY_H
#define KELPIE_VMM_QEMU_IDENTIFY_H

#include "vmm/vmm.h"

int kelpie__qemu_identify(struct kelpie_os *os, const struct kelpie_vmm_spec *spec,
                          struct kelpie_hash *hash, struct kelpie_error *error);

#endif
