/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * QEMU's argument vector as a pure function of what shall be started. Why each argument is there
 * stands in arguments.c; what was tried is in the findings.
 */
#ifndef KELPIE_VMM_QEMU_ARGUMENTS_H
#define KELPIE_VMM_QEMU_ARGUMENTS_H

#include "vmm/vmm.h"

#define KELPIE_QEMU_ARGUMENT_COUNT_MAX 72u
#define KELPIE_QEMU_ARGUMENT_BYTES_MAX (48u * 1024u)

struct kelpie_qemu_arguments_input {
    const struct kelpie_vmm_spec *spec;
    const char *program;
    enum kelpie_vmm_accelerator accelerator; /* KVM or TCG */
    enum kelpie_vmm_kernel kernel_kind;
    int base; /* the child's descriptor of a restore's memory base; KELPIE_OS_NO_HANDLE: a boot */
    uint64_t tsc_khz;    /* of the host; 0: not known. TCG only */
    uint32_t guest_cid;  /* of the agent's vsock; 0: its channel is a port */
    uint32_t agent_port; /* which the agent dials */
    int qmp;             /* the child's descriptors */
    int agent;           /* the port's stream, or the vsock's device */
    int console;
};

/* Large: from the heap, and only until the spawn. */
struct kelpie_qemu_arguments {
    const char *values[KELPIE_QEMU_ARGUMENT_COUNT_MAX + 1]; /* NULL-terminated */
    uint32_t count;
    size_t used_bytes;
    bool is_full;
    char text[KELPIE_QEMU_ARGUMENT_BYTES_MAX];
};

/* "microvm,acpi=on,rtc=on": what of the machine a saved state depends on. */
const char *kelpie__qemu_machine_name(enum kelpie_vmm_kernel kernel_kind);

/* KELPIE_E_LIMIT when paths are so long that the vector does not fit. */
KELPIE_MUST_CHECK int kelpie__qemu_arguments_build(struct kelpie_qemu_arguments *arguments,
                                                   const struct kelpie_qemu_arguments_input *input,
                                                   struct kelpie_error *error);

#endif
