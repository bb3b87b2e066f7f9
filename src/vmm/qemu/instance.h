/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One QEMU: what the files of the driver share. qemu.c owns the process and its end; pause.c,
 * save.c, restore.c and disk.c each own one piece of its life.
 */
#ifndef KELPIE_VMM_QEMU_INSTANCE_H
#define KELPIE_VMM_QEMU_INSTANCE_H

#include "core/loop.h"
#include "vmm/accel.h"
#include "vmm/process.h"
#include "vmm/qemu/memory.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"
#include "vmm/qemu/tsc.h"

#define KELPIE_QEMU_TIMEOUT_MS 5000u /* of a QMP command */

/* The child's descriptors: stdin, stdout and stderr come first, and are the process's. */
enum kelpie_qemu_descriptor {
    KELPIE_QEMU_QMP = 3,
    KELPIE_QEMU_AGENT,
    KELPIE_QEMU_CONSOLE,
    KELPIE_QEMU_BASE, /* of a restore only */
    KELPIE_QEMU_DESCRIPTOR_COUNT,
};

enum kelpie_qemu_save_step {
    KELPIE_QEMU_SAVE_NONE,
    KELPIE_QEMU_SAVE_LOCATE,
    KELPIE_QEMU_SAVE_AHEAD, /* memory of a guest that runs */
    KELPIE_QEMU_SAVE_DEVICES,
    KELPIE_QEMU_SAVE_MEMORY,
};

struct kelpie_qemu_save {
    enum kelpie_qemu_save_step step;
    bool has_run; /* the guest did, meanwhile */
    struct kelpie_vmm_save order;
    struct kelpie_vmm_saved *out;   /* borrowed: until it is done; NULL: of one in advance */
    struct kelpie_qemu_ahead ahead; /* its arrays are owned */
    struct kelpie_vmm_saved saved;
    uint32_t handle_set; /* number of the last one: each is used once */
};

enum kelpie_qemu_restore_step {
    KELPIE_QEMU_RESTORE_NONE,
    KELPIE_QEMU_RESTORE_LOCATE,
    KELPIE_QEMU_RESTORE_WAIT, /* there is nothing to load yet */
    KELPIE_QEMU_RESTORE_LAY,
    KELPIE_QEMU_RESTORE_HANDLE,
    KELPIE_QEMU_RESTORE_LOAD,
};

struct kelpie_qemu_restore {
    enum kelpie_qemu_restore_step step;
    bool is_accepted; /* QEMU answered migrate-incoming */
    bool is_loaded;
    struct kelpie_timer timer;
};

struct kelpie_qemu_disks {
    uint32_t count;
    bool is_read_only[KELPIE_VMM_DISK_COUNT_MAX];
    uint32_t generation[KELPIE_VMM_DISK_COUNT_MAX]; /* the last layer's number; 0: as it started */
    uint32_t top[KELPIE_VMM_DISK_COUNT_MAX];        /* the layer in use */
    uint32_t index;                                 /* of the disk that is being switched */
};

/* The agent's vsock; `cid` 0: its channel is a port of QEMU's. */
struct kelpie_qemu_channel {
    int listener; /* owned; KELPIE_OS_NO_HANDLE once the agent has dialled */
    uint32_t watch;
    bool is_watched;
    uint32_t cid;  /* of the guest */
    uint32_t port; /* of ours, which the guest dials */
};

struct kelpie_qemu {
    struct kelpie_vmm vmm; /* first: see vmm.h */
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    const struct kelpie_vmm_spec *spec; /* borrowed: until STARTED or ENDED */
    uint64_t memory_bytes;
    enum kelpie_vmm_kernel kernel_kind;
    struct kelpie_accel accel;
    struct kelpie_tsc tsc;
    uint64_t tsc_khz;       /* the host's; 0: not known, or KVM */
    uint64_t guest_tsc_khz; /* what the guest was told, when it booted */
    struct kelpie_qemu_channel channel;
    struct kelpie_qmp *qmp;
    struct kelpie_vmm_process process;
    struct kelpie_timer end_timer;             /* of one that was never spawned */
    int pending[KELPIE_QEMU_DESCRIPTOR_COUNT]; /* owned: the child's ends, until the spawn */
    bool is_kill_requested;
    bool is_pausing;   /* of vmm.is_changing: which way */
    bool is_unsettled; /* a pause or resume was given up, and its undoing is not answered yet */
    struct kelpie_timer change_timer; /* of an undoing */
    bool has_shutdown;
    char shutdown_reason[KELPIE_QMP_REASON_BYTES_MAX];
    char program[4096];
    char cache_directory[4096];
    struct kelpie_error change_error;      /* why what is being undone failed */
    int cause_code;                        /* KELPIE_E_*, or 0 */
    char cause[KELPIE_VMM_TEXT_BYTES_MAX]; /* what the driver itself saw go wrong, or "" */
    struct kelpie_qemu_locate locate;
    struct kelpie_qemu_copy copy;
    struct kelpie_qemu_save save;
    struct kelpie_qemu_restore restore;
    struct kelpie_qemu_disks disks;
};

struct kelpie_qemu *kelpie__qemu_of(struct kelpie_vmm *vmm);

/* qemu.c: notes why, and ends it. A QEMU that is ending by itself gets `grace_ns` to say its own
 * words. */
void kelpie__qemu_give_up(struct kelpie_qemu *qemu, const struct kelpie_error *error,
                          int64_t grace_ns);

/* A command without a handle; `arguments` may be NULL. */
KELPIE_MUST_CHECK int kelpie__qemu_execute(struct kelpie_qemu *qemu, const char *name,
                                           const char *arguments,
                                           kelpie_qmp_answer_callback callback,
                                           struct kelpie_error *error);

/* channel.c: before QEMU is started (errors: UNAVAILABLE; what was made is closed by destroy), and
 * once the guest may dial. */
KELPIE_MUST_CHECK int kelpie__qemu_channel_make(struct kelpie_qemu *qemu,
                                                struct kelpie_error *error);
void kelpie__qemu_channel_open(struct kelpie_qemu *qemu);
void kelpie__qemu_channel_close(struct kelpie_qemu *qemu);
bool kelpie__qemu_channel_is_vsock(const struct kelpie_qemu *qemu);

/* pause.c; BUSY: what was asked before is not answered yet */
KELPIE_MUST_CHECK int kelpie__qemu_check_settled(const struct kelpie_qemu *qemu,
                                                 struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__qemu_pause(struct kelpie_vmm *vmm, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__qemu_resume(struct kelpie_vmm *vmm, struct kelpie_error *error);

/* save.c */
KELPIE_MUST_CHECK int kelpie__qemu_save_ahead(struct kelpie_vmm *vmm,
                                              const struct kelpie_vmm_save *save,
                                              struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__qemu_save(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                                        struct kelpie_vmm_saved *out, struct kelpie_error *error);
void kelpie__qemu_save_cancel(struct kelpie_qemu *qemu); /* says nothing */
void kelpie__qemu_save_forget(struct kelpie_qemu *qemu); /* what was written in advance */

/* restore.c: what waits in QEMU gets something to load */
KELPIE_MUST_CHECK int kelpie__qemu_load(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                                        struct kelpie_error *error);
/* restore.c: before QEMU is started (errors: KELPIE_E_SNAPSHOT_INCOMPATIBLE,
 * KELPIE_E_SNAPSHOT_CORRUPTED), once it speaks, and what it says then. */
KELPIE_MUST_CHECK int kelpie__qemu_restore_check(struct kelpie_qemu *qemu,
                                                 const struct kelpie_vmm_spec *spec,
                                                 struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__qemu_restore_check_clock(const struct kelpie_qemu *qemu,
                                                       struct kelpie_error *error);
void kelpie__qemu_restore_begin(struct kelpie_qemu *qemu);
void kelpie__qemu_restore_event(struct kelpie_qemu *qemu, const char *status);
void kelpie__qemu_restore_cancel(struct kelpie_qemu *qemu);

/* disk.c */
KELPIE_MUST_CHECK int kelpie__qemu_switch_disk(struct kelpie_vmm *vmm, uint32_t index,
                                               const char *path, struct kelpie_error *error);

/* overlay.c */
KELPIE_MUST_CHECK int kelpie__qemu_check_devices(struct kelpie_os *os, int file,
                                                 struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__qemu_make_overlay(struct kelpie_os *os,
                                                const struct kelpie_vmm_overlay *overlay,
                                                struct kelpie_error *error);

#endif
