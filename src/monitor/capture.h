/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Snapshots of the VM: vm.snapshot. The guest is made quiet, stands still while its devices and its
 * own pages are written and its disk gets a new layer, and goes on; what takes its time is done by
 * a child afterwards (worker.h). Whatever fails, the guest is as it was and nothing is left. One at
 * a time. capture.c has the sequence, capture_request.c its beginning, capture_end.c what follows
 * when the guest goes on, capture_files.c what is written, capture_worker.c the child.
 */
#ifndef KELPIE_MONITOR_CAPTURE_H
#define KELPIE_MONITOR_CAPTURE_H

#include "core/error.h"
#include "core/loop.h"
#include "monitor/child.h"
#include "monitor/reply.h"
#include "store/record.h"
#include "store/snapshot.h"
#include "vmm/vmm.h"

enum kelpie_capture_phase {
    KELPIE_CAPTURE_IDLE,
    KELPIE_CAPTURE_SYNCING,   /* the guest was asked to write to its disk what it has for it */
    KELPIE_CAPTURE_AHEAD,     /* its memory is written while it runs, as it is now */
    KELPIE_CAPTURE_QUIETING,  /* the guest was asked to be quiet */
    KELPIE_CAPTURE_PAUSING,   /* the VMM was asked to stop it */
    KELPIE_CAPTURE_SAVING,    /* devices and memory are being written */
    KELPIE_CAPTURE_SWITCHING, /* its disk gets a new layer */
    KELPIE_CAPTURE_RESUMING,  /* the VMM was asked to let it run */
    KELPIE_CAPTURE_ENDING,    /* the VMM is about to end */
    KELPIE_CAPTURE_SEALING,   /* the child makes a snapshot of it */
    KELPIE_CAPTURE_REMOVING,  /* the child removes what was made */
    KELPIE_CAPTURE_STOPPING,  /* it is there, and the VM was to end */
};

struct kelpie_capture {
    struct kelpie_monitor *monitor; /* borrowed: for ever */
    bool is_template;               /* for ever: what it makes is one (template.h) */
    enum kelpie_capture_phase phase;
    struct kelpie_reply reply;

    /* What a VM that was made from a snapshot keeps of it while it lives. */
    int base;               /* borrowed of it: under its memory; KELPIE_OS_NO_HANDLE: booted */
    char kernel_digest[33]; /* of that snapshot; "": booted */

    /* From the request to the answer: */
    bool was_running;     /* and is to run again */
    bool is_last;         /* the VM is to end with it */
    bool is_synced;       /* it survives the machine's death */
    int32_t vmm_pid;      /* of the VMM that was saved */
    bool is_transient;    /* VMs are made of it at once, and then it goes */
    bool is_holding;      /* pause and resume are ours (kelpie__pause_take) */
    bool is_cancelled;    /* nobody wants it any more */
    bool is_removed;      /* nothing is left of it */
    bool is_vmm_doubtful; /* it did not stop or let the guest go on when it was told to */
    bool has_layer;       /* a new layer was made for its disk, and may be taken back: */
    bool is_disk_clean;   /* the guest has not run since its last one (not of this capture alone) */
    /* Of the image that all layers of the disk are merged into; "": they are not. */
    char merged[KELPIE_RECORD_LAYER_BYTES_MAX];
    uint32_t disk_index;
    uint32_t disk_count;
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot; /* temporary, with its lock */
    struct kelpie_vmm_save files;    /* owned, until the child has ended */
    int device_check;                /* files.device once more, for reading */
    struct kelpie_vmm_saved saved;
    int64_t stopped_ns;
    uint64_t pause_us;
    struct kelpie_error failure; /* code 0: none */

    /* The child. */
    struct kelpie_child child;
    struct kelpie_timer worker_timer; /* it could not even be started */
};

void kelpie__capture_init(struct kelpie_capture *capture, struct kelpie_monitor *monitor);
/* The monitor ends: nothing is left of an unfinished one. */
void kelpie__capture_deinit(struct kelpie_capture *capture);

/* vm.snapshot. */
void kelpie__capture_request(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                             const char *params, size_t length);
/* A template of the guest that is being started, which is set up and runs. Told of what comes of it
 * are kelpie__template_saved and kelpie__template_sealed. */
void kelpie__capture_template(struct kelpie_capture *capture, const char *key);
/* The client no longer wants its snapshot. */
void kelpie__capture_cancel(struct kelpie_monitor *monitor, uint64_t client, uint64_t request);

/* The guest runs: its disk is being written to. */
void kelpie__capture_ran(struct kelpie_capture *capture);
/* The VMM has ended, or never started. What was saved before goes on to be a snapshot. */
void kelpie__capture_vmm_gone(struct kelpie_capture *capture, const struct kelpie_error *why);
/* The VM's files are going: what is under way is refused, and nothing is left of it, unless it was
 * a snapshot already. */
void kelpie__capture_abort(struct kelpie_capture *capture, const struct kelpie_error *why);

/* ---- for the files of the capture ------------------------------------------------------------ */

void kelpie__capture_check(const struct kelpie_capture *capture);
/* capture.c: changes the phase by its table. */
void kelpie__capture_enter(struct kelpie_capture *capture, enum kelpie_capture_phase next);

/* capture.c: with all that kelpie__capture_make makes: the guest's part. */
void kelpie__capture_begin(struct kelpie_capture *capture);
/* Refuses one that has not begun, and leaves nothing. */
void kelpie__capture_reject(struct kelpie_capture *capture, const struct kelpie_error *why);
/* Gives the guest back, whatever came of the save. */
void kelpie__capture_release(struct kelpie_capture *capture);
/* The VM's life, with a VMM while a step needs one. */
struct kelpie_lifecycle *kelpie__capture_lifecycle(const struct kelpie_capture *capture);

/* capture_end.c: the first cause counts. */
void kelpie__capture_keep_failure(struct kelpie_capture *capture, const struct kelpie_error *why);
/* Whoever waits is told, and nothing is under way any more. */
void kelpie__capture_succeed(struct kelpie_capture *capture);
void kelpie__capture_refuse(struct kelpie_capture *capture);
/* Here and now: for a directory of which nothing is written yet, and for a monitor that ends. */
void kelpie__capture_remove_now(struct kelpie_capture *capture);
/* By a child; then it is refused. */
void kelpie__capture_remove(struct kelpie_capture *capture);
/* A child makes a snapshot of what was saved. */
void kelpie__capture_seal(struct kelpie_capture *capture);
/* The guest was given back: the one or the other. */
void kelpie__capture_go_on(struct kelpie_capture *capture);
/* The child is ended. */
void kelpie__capture_end_work(struct kelpie_capture *capture, const struct kelpie_error *why);

/* capture_files.c: makes the directory and the files that are written while the guest stands still,
 * and a new layer for its disk. What a failure leaves is kelpie__capture_take_back's. */
KELPIE_MUST_CHECK int kelpie__capture_make(struct kelpie_capture *capture, const char *name,
                                           const char *label, struct kelpie_error *error);
void kelpie__capture_close_files(struct kelpie_capture *capture);
/* The new layer is not used: the VM's disk is what it was. */
void kelpie__capture_take_back(struct kelpie_capture *capture);
/* Whether the VMM wrote all that it said. The handle is kept as long as the others: who lets go of
 * a file first that was cut off and written anew may wait for the disk (ext4, XFS write it out
 * there and then), and that is to be the child. */
KELPIE_MUST_CHECK int kelpie__capture_check_devices(struct kelpie_capture *capture,
                                                    struct kelpie_error *error);
/* The manifest as far as it is known, for the child. */
KELPIE_MUST_CHECK int kelpie__capture_write_draft(struct kelpie_capture *capture,
                                                  struct kelpie_error *error);
/* The root image; NULL: the built-in one. */
const struct kelpie_vmm_disk *kelpie__capture_root(const struct kelpie_capture *capture);

/* What was merged is under the VM's disk from now on, and in its record, if that was made for it.
 */
void kelpie__capture_take_merged(struct kelpie_capture *capture);

/* capture_worker.c: a child for what is in the temporary directory; at its end
 * kelpie__capture_worked is called from the loop, with what it takes on the disk. */
KELPIE_MUST_CHECK int kelpie__capture_work(struct kelpie_capture *capture, const char *job,
                                           struct kelpie_error *error);
void kelpie__capture_work_cancel(struct kelpie_capture *capture);
void kelpie__capture_worked(struct kelpie_capture *capture, const struct kelpie_error *error,
                            uint64_t stored_bytes);

#endif
