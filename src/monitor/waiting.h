/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A VMM that is started in advance, for a fork that may come (docs/snapshots.md, "Forks that
 * wait"). It lies over what the memory of the VM to be forked lies over, and lacks the device state
 * and the pages that were changed: a restore of this VM from a snapshot over the same base takes it
 * instead of a new one. It is an advantage and nothing else: whatever is wrong with it, the restore
 * starts a VMM of its own. It ends with the VMM of the VM that it waits for, and with its own VM.
 */
#ifndef KELPIE_MONITOR_WAITING_H
#define KELPIE_MONITOR_WAITING_H

#include "monitor/reply.h"
#include "vmm/vmm.h"

struct kelpie_candidate;
struct kelpie_monitor;

enum kelpie_waiting_phase {
    KELPIE_WAITING_NONE,
    KELPIE_WAITING_STARTING,
    KELPIE_WAITING_READY,
    KELPIE_WAITING_ENDING, /* it was given up, and is reaped */
};

struct kelpie_waiting {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_waiting_phase phase;
    struct kelpie_reply reply; /* of vm.wait */
    struct kelpie_vmm *vmm;    /* owned */
    struct kelpie_vmm_spec spec;
    struct kelpie_vmm_restore restore;
    struct kelpie_vmm_description description;
    struct kelpie_vmm_started started; /* its streams are owned */
    int base;                          /* owned */
    int process;                       /* owned: the VMM of the VM that is waited for */
    uint32_t process_watch;
};

void kelpie__waiting_init(struct kelpie_waiting *waiting, struct kelpie_monitor *monitor);
void kelpie__waiting_deinit(struct kelpie_waiting *waiting);

/* vm.base: over what this VM's memory lies, in the words that vm.wait takes. */
void kelpie__waiting_tell_base(struct kelpie_monitor *monitor, struct kelpie_reply reply);
/* vm.wait, of a VM that was created and is its owner's: answered when the VMM is there. */
void kelpie__waiting_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length);
/* Gives the VMM that waits to a restore, with all that it lacks, if it fits; else it goes. Its
 * events are the caller's from then on. */
KELPIE_MUST_CHECK bool kelpie__waiting_take(struct kelpie_waiting *waiting,
                                            struct kelpie_candidate *candidate,
                                            kelpie_vmm_event_callback callback, void *context,
                                            struct kelpie_vmm_started *out);
/* It is not wanted: the VM is about to be something else. */
void kelpie__waiting_drop(struct kelpie_waiting *waiting);

#endif
