/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * When a start reached its stages. Nothing is measured for it: the loop's time of the step in which
 * each was seen, and what the guest says of its clock anyway.
 */
#ifndef KELPIE_MONITOR_STAGES_H
#define KELPIE_MONITOR_STAGES_H

#include "monitor/reply.h"
#include "vmm/vmm.h"

enum kelpie_stage {
    KELPIE_STAGE_VMM,     /* its process is being started */
    KELPIE_STAGE_MACHINE, /* it says that its guest runs */
    /* The next three are a boot's alone. */
    KELPIE_STAGE_KERNEL, /* the guest's kernel keeps time */
    KELPIE_STAGE_AGENT,  /* its first process runs */
    KELPIE_STAGE_READY,  /* .. and has opened its port */
    KELPIE_STAGE_HELLO,  /* it has answered */
    KELPIE_STAGE_RUNNING,
    KELPIE_STAGE_EXEC, /* a first command was asked for */
    KELPIE_STAGE_EXEC_STARTED,
    KELPIE_STAGE_EXEC_ENDED,
    KELPIE_STAGE_COUNT,
};

struct kelpie_stage_times {
    int64_t begun_ns;
    int64_t at_ns[KELPIE_STAGE_COUNT]; /* 0: not reached */
};

/* The VM is started. */
void kelpie__stages_begin(struct kelpie_monitor *monitor);

/* A stage before Running forgets what came after it, since a start may begin anew with another
 * accelerator; once the VM has been Running, each counts once. */
void kelpie__stages_reach(struct kelpie_monitor *monitor, enum kelpie_stage stage);

/* A booted guest's agent is ready, and this is its clock when it began and now. */
void kelpie__stages_ready(struct kelpie_monitor *monitor,
                          const struct kelpie_vmm_guest_clock *clock);

/* Answers vm.stages: in us since the start, those that were reached. */
void kelpie__stages_tell(struct kelpie_monitor *monitor, struct kelpie_reply reply);

#endif
