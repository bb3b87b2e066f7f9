/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See kvm.h.
 */
#include "vmm/kvm.h"

#include <errno.h>

#include "core/limits.h"
#include "os/os_call.h"

#define KVM_DEVICE "/dev/kvm"

int kelpie__vmm_kvm_probe(struct kelpie_os *os) {
    /* What is wrong with asking is told by the open itself. */
    if (kelpie__os_device_answers(os, KVM_DEVICE, KELPIE_KVM_OPEN_MS) == -ETIMEDOUT) {
        return -ETIMEDOUT;
    }
    int device = kelpie__os_open(os, KELPIE_OS_CWD, KVM_DEVICE,
                                 KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    KELPIE_ASSERT(device != KELPIE_OS_NO_HANDLE || device < 0);
    if (device < 0) {
        return device;
    }
    kelpie__ignore(kelpie__os_close(os, device)); /* nothing was done with it */
    return 0;
}
