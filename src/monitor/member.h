/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A VM of a pool (docs/pools.md). While it is made it is its maker's own, and goes with it. Offered
 * it waits, paused, for whoever claims it first, and nobody's end is its own. Claimed it is the
 * claimer's, with an identity that nobody has seen and a clock that is right, and never waits
 * again. Who gets it is decided here alone. And leases: the end of a VM's time, claimed or not.
 */
#ifndef KELPIE_MONITOR_MEMBER_H
#define KELPIE_MONITOR_MEMBER_H

#include "core/error.h"
#include "core/loop.h"
#include "monitor/reply.h"

enum kelpie_member_phase {
    KELPIE_MEMBER_NONE,     /* a VM like any other, or one that is being made */
    KELPIE_MEMBER_OFFERED,  /* it waits */
    KELPIE_MEMBER_CLAIMING, /* it was asked to run, and its guest is told what time it is */
    KELPIE_MEMBER_CLAIMED,
};

struct kelpie_member {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_member_phase phase;
    struct kelpie_reply reply; /* of the claim */
    uint64_t call;             /* to the guest; 0: none */
    bool is_awake;             /* the claim's two halves */
    bool is_refreshed;
    uint64_t lease_ms; /* of the claim; 0: none */
    struct kelpie_timer lease_timer;
    int ready;          /* owned: the directory that has its note; KELPIE_OS_NO_HANDLE: none */
    bool is_background; /* others come first while it is made */
    int32_t eased_pid;  /* the VMM whose session stands back; 0: none */
};

void kelpie__member_init(struct kelpie_member *member, struct kelpie_monitor *monitor);
void kelpie__member_deinit(struct kelpie_member *member);

/* A new VMM: it stands back behind everybody else when the VM is made in the background, until it
 * is offered. */
void kelpie__member_ease(struct kelpie_member *member, int32_t vmm_pid);

/* vm.offer, vm.claim and vm.lease. */
void kelpie__member_offer(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length);
void kelpie__member_claim(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length);
void kelpie__member_lease(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length);
/* One that waits is looked at, claimed or ended, and nothing else: anything else would make it
 * used. True: the request was refused. */
bool kelpie__member_refuses(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                            const char *method);

/* The VM's VMM has ended. */
void kelpie__member_vmm_gone(struct kelpie_member *member, const struct kelpie_error *why);

#endif
