/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The host's KVM, as far as a device file tells. That a guest boots on it is another matter.
 */
#ifndef KELPIE_VMM_KVM_H
#define KELPIE_VMM_KVM_H

#include "core/base.h"
#include "os/os.h"

/* Opens it and closes it again: 0, or a negative errno value; -ETIMEDOUT when the open was not
 * answered within KELPIE_KVM_OPEN_MS. */
KELPIE_MUST_CHECK int kelpie__vmm_kvm_probe(struct kelpie_os *os);

#endif
