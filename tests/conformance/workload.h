/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A drawn life of VMs, by the public API alone: operations, none of them disturbed, and deaths of
 * the VMM and of the guest. What the calls gave is written down. Times, ids and pids never stand in
 * it, so that it is the same for real VMs and for simulated ones.
 */
#ifndef KELPIE_TESTS_CONFORMANCE_WORKLOAD_H
#define KELPIE_TESTS_CONFORMANCE_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kelpie.h"

#define WORKLOAD_VM_MAX 2u
#define WORKLOAD_TEXT_BYTES 16384u

struct workload {
    struct kelpie *kelpie; /* borrowed */
    uint64_t seed;
    void (*sleep_ms)(struct workload *workload, uint32_t duration_ms);
    void (*kill_process)(struct workload *workload, int32_t pid); /* SIGKILL */
    void *context;                                                /* of these two */
    struct kelpie_vm *vms[WORKLOAD_VM_MAX];                       /* NULL: there is none */
    bool is_over;                                                 /* for whoever runs it */
    size_t length;
    char text[WORKLOAD_TEXT_BYTES];
};

/* `library`: is opened and closed by the caller; the text is filled in. */
void workload_run(struct workload *workload, struct kelpie *library);

#endif
