/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * KVM or TCG. A /dev/kvm that answers its API may still never get an ordinary Linux through boot,
 * so `auto` believes KVM only after it booted our guest on this host, once per host kernel, CPU and
 * VMM: a build of QEMU, or of libkrun, which has no TCG to go to. The verdict is remembered.
 */
#ifndef KELPIE_VMM_ACCEL_H
#define KELPIE_VMM_ACCEL_H

#include "core/error.h"
#include "os/os.h"
#include "vmm/vmm.h"

#define KELPIE_ACCEL_KEY_BYTES 33u
#define KELPIE_ACCEL_REASON_BYTES_MAX 256u

struct kelpie_accel {
    enum kelpie_vmm_accelerator accelerator; /* KVM or TCG */
    int64_t trial_ns;                        /* not 0: KVM on trial, for so long */
    bool is_unproved;                        /* a guest that boots is news worth remembering */
    char key[KELPIE_ACCEL_KEY_BYTES];        /* this host kernel, CPU and VMM */
    char reason[KELPIE_ACCEL_REASON_BYTES_MAX];
};

/* Decides. KELPIE_E_UNAVAILABLE when KVM is asked for and cannot be opened; the error says why. */
KELPIE_MUST_CHECK int kelpie__accel_choose(struct kelpie_os *os, const char *cache_directory,
                                           const char *vmm_path, enum kelpie_vmm_accelerator wanted,
                                           struct kelpie_accel *out, struct kelpie_error *error);

/* For a VMM that has KVM alone, by the path of its program or library: KVM, and whether a guest
 * booted so before. No device is opened. */
void kelpie__accel_recall(struct kelpie_os *os, const char *cache_directory, const char *vmm_path,
                          struct kelpie_accel *out);

/* The processor that guests see: "max", or "host-" and a digest of what /proc/cpuinfo says of it.
 * Gives 0, or -errno when that cannot be read (and counts as empty). */
int kelpie__accel_cpu(struct kelpie_os *os, enum kelpie_vmm_accelerator accelerator, char *out,
                      size_t capacity);

/* Whether this end of a guest on trial, before its hello, speaks against KVM. A host without
 * memory, a kill from outside and a QEMU that any accelerator would have seen end are no proof: the
 * next start tries again. */
bool kelpie__accel_is_blamed(const struct kelpie_vmm_end *end);

/* Remembers the verdict of a trial; when that fails the next start tries again. */
void kelpie__accel_remember(struct kelpie_os *os, const char *cache_directory,
                            const struct kelpie_accel *accel, bool is_usable, const char *reason);

#endif
