/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A start from a template instead of a boot, and the making of one: docs/templates.md. A template
 * is a snapshot of a guest that was set up and never used. It is made of the first VM of its kind,
 * between its set-up and the answer to its start; what takes long of that is done by a child while
 * the VM is used. Whatever fails, the VM is booted, or goes on as if nothing had been.
 */
#ifndef KELPIE_MONITOR_TEMPLATE_H
#define KELPIE_MONITOR_TEMPLATE_H

#include "monitor/capture.h"
#include "store/template.h"

enum kelpie_template_phase {
    KELPIE_TEMPLATE_IDLE,
    KELPIE_TEMPLATE_SAVING,      /* the guest, which is nobody's yet, is being saved */
    KELPIE_TEMPLATE_IDENTIFYING, /* it was told who it is */
};

struct kelpie_template {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    enum kelpie_template_phase phase;
    struct kelpie_template_key key; /* of the boot that is under way; "": it has none */
    bool is_wanted;                 /* the guest that is being booted is to leave one */
    bool is_forsaken;               /* this start failed with one: it boots, and leaves none */
    struct kelpie_capture capture;  /* of the template alone; its child outlives the start */
    struct kelpie_timer wait_timer; /* armed: a delete waits for the child */
    bool has_waited;                /* and it did */
    struct kelpie_reply delete_reply;
};

void kelpie__template_init(struct kelpie_template *template, struct kelpie_monitor *monitor);
void kelpie__template_deinit(struct kelpie_template *template);

/* ---- a start --------------------------------------------------------------------------------- */

/* A start begins. */
void kelpie__template_reset(struct kelpie_template *template);
/* What the VM needs is there: true when its start from a template is under way. Else it is to be
 * booted. */
KELPIE_MUST_CHECK bool kelpie__template_start(struct kelpie_template *template);
/* That start has failed: the template goes, and the VM is booted. */
void kelpie__template_failed(struct kelpie_template *template, const struct kelpie_error *why);

/* ---- a boot that leaves one ------------------------------------------------------------------ */

/* The VM is about to be booted like this: decides whether it leaves a template. */
void kelpie__template_plan(struct kelpie_template *template, const struct kelpie_vmm_spec *spec);
/* Its guest is set up. With `is_wanted`; ends in kelpie__lifecycle_guest_live. */
void kelpie__template_make(struct kelpie_template *template);
/* The VMM has ended, and it was being saved: true when it is to be booted once more for that. */
KELPIE_MUST_CHECK bool kelpie__template_takes_blame(struct kelpie_template *template);

/* ---- what the capture reports ---------------------------------------------------------------- */

/* The guest runs again, or its VMM is ending. */
void kelpie__template_saved(struct kelpie_template *template);
/* Nothing is under way any more: NULL, or why there is none. */
void kelpie__template_sealed(struct kelpie_template *template, const struct kelpie_error *why);

/* ---- a delete -------------------------------------------------------------------------------- */

bool kelpie__template_is_sealing(const struct kelpie_template *template);
/* A delete waits for a child that is making the template whole, but not for long: true when
 * kelpie__monitor_delete will be called again with this reply. */
KELPIE_MUST_CHECK bool kelpie__template_holds_delete(struct kelpie_template *template,
                                                     struct kelpie_reply *reply);
/* Nobody is there to wait any more. */
void kelpie__template_hurry(struct kelpie_template *template);

#endif
