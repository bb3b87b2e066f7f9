/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The virtual machine monitors (VMMs) behind one table of operations: qemu/ and krun/. The monitor
 * owns the VM, its state and every deadline; a driver owns one VMM process and knows nothing of
 * guests but their devices. vmm.c is the only caller of the table: it asserts what each operation
 * asks for.
 *
 * An instance lives through New -> Starting -> Running <-> Paused -> Ended, never backwards: a
 * second boot is a second instance. A restore is a start that arrives in Paused. Nothing here
 * waits: work on memory goes on in slices of at most 4 ms for each turn of the loop. Every event
 * comes from the loop, never from inside a call, and ENDED is the last one.
 *
 * A guest's memory is private to its VMM and lies over a base, a file that never changes again, or
 * over nothing when it was booted. `save` gives every private page, so what it gives of a VM over a
 * base is relative to that base, however often it was saved and restored: there is no chain.
 */
#ifndef KELPIE_VMM_VMM_H
#define KELPIE_VMM_VMM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "os/os.h"

struct kelpie_hash;
struct kelpie_loop;
struct kelpie_vmm;

#define KELPIE_VMM_DISK_COUNT_MAX 4u
#define KELPIE_VMM_SHARE_COUNT_MAX 16u
#define KELPIE_VMM_TEXT_BYTES_MAX 512u

enum kelpie_vmm_capability {
    KELPIE_VMM_CAN_PAUSE = 1,    /* pause and resume are there */
    KELPIE_VMM_CAN_SNAPSHOT = 2, /* save_ahead, save, restore, describe, check_devices,
                                  * make_overlay, switch_disk, identify are there */
    KELPIE_VMM_CAN_SHARE = 4,    /* directories of the host */
};

enum kelpie_vmm_accelerator {
    KELPIE_VMM_ACCELERATOR_AUTO,
    KELPIE_VMM_ACCELERATOR_KVM,
    KELPIE_VMM_ACCELERATOR_TCG,
};

enum kelpie_vmm_channel { /* of the agent, on a VMM that has both */
                          KELPIE_VMM_CHANNEL_SERIAL,
                          KELPIE_VMM_CHANNEL_VSOCK, /* of the host's kernel; cannot be saved */
};

enum kelpie_vmm_disk_format {
    KELPIE_VMM_DISK_RAW,
    KELPIE_VMM_DISK_QCOW2,
};

enum kelpie_vmm_kernel {
    KELPIE_VMM_KERNEL_GENERIC, /* a distribution's: finds its devices through ACPI */
    KELPIE_VMM_KERNEL_OWN,     /* Kelpie's: no ACPI, no PCI, devices from the command line */
};

struct kelpie_vmm_disk {
    const char *path;   /* absolute */
    const char *serial; /* by which the guest finds it */
    enum kelpie_vmm_disk_format format;
    bool is_read_only;
};

/* A directory of the host, which the guest mounts by its tag. */
struct kelpie_vmm_share {
    const char *path; /* absolute */
    const char *tag;
    bool is_read_only;
};

/* What a saved state depends on, besides the configuration of the VM (memory, processors, disks in
 * their order): it goes into the manifest, and comes back with a restore, which is refused where it
 * does not fit. Texts have no control characters. */
struct kelpie_vmm_description {
    char vmm[16];     /* "qemu" */
    char version[32]; /* "7.2.22": a restore wants the same but for the last number */
    char machine[64]; /* "microvm,acpi=on,rtc=on" */
    char cpu[64];     /* "max", or "host-" and a digest of the host's processor */
    enum kelpie_vmm_accelerator accelerator;
    uint64_t tsc_khz; /* the rate of the guest's time-stamp counter; 0: KVM, or none is known */
};

/* A saved state. The handles are files opened for reading, and borrowed until STARTED or ENDED. */
struct kelpie_vmm_restore {
    /* Read by the VMM from its position: opened for this restore alone, nothing read yet.
     * KELPIE_OS_NO_HANDLE, and no memory and map: it is started in advance over the base, says
     * WAITING, and gets the rest with kelpie__vmm_load. */
    int device;
    /* As large as the guest's memory, never written: `memory` of a save without `map`. Its mode
     * must allow writing all the same, for QEMU opens it so. */
    int base;
    /* `memory` and `map` of a save over that base, or both KELPIE_OS_NO_HANDLE. */
    int memory;
    int map;
    const struct kelpie_vmm_description *description;
};

/* What to start. All of it is borrowed until STARTED or ENDED. */
struct kelpie_vmm_spec {
    /* stands in the VMM's argv, so that people and tests find the process */
    const char *vm_directory;
    const char *cache_directory;   /* where what was measured on this host is remembered */
    const char *libexec_directory; /* where Kelpie's own programs are */
    const char *kernel;            /* an ELF vmlinux or a bzImage */
    const char *initramfs;
    enum kelpie_vmm_kernel kernel_kind;
    const struct kelpie_vmm_disk *disks;
    uint32_t disk_count;
    const struct kelpie_vmm_share *shares; /* needs CAN_SHARE */
    uint32_t share_count;
    uint32_t cpu_count;
    uint32_t memory_mib;
    enum kelpie_vmm_accelerator accelerator;
    enum kelpie_vmm_channel channel;
    /* NULL: boot. Else kernel, initramfs, kernel_kind and accelerator are not used: the first two
     * are in the guest's memory, the others in the description. */
    const struct kelpie_vmm_restore *restore;
};

/* Where a save goes: files of the caller, borrowed until it is done. */
struct kelpie_vmm_save {
    int device; /* empty, opened for writing only */
    /* Empty; gets the size of the guest's memory. Pages stand at their offsets, those of zeros are
     * holes. */
    int memory;
    /* Empty; gets one bit for each page (page 0: bit 0 of byte 0), set when `memory` has it instead
     * of the base, zeros included. KELPIE_OS_NO_HANDLE exactly when the instance was booted: then
     * `memory` alone is the whole memory, fit as a base. */
    int map;
    bool is_ahead; /* save_ahead filled these files: `memory` and `map` are not empty */
};

struct kelpie_vmm_saved {
    uint64_t page_count;   /* private to the VM, zeros included */
    uint64_t stored_bytes; /* written to `memory` */
    uint64_t device_bytes;
};

/* A new writable layer over a disk image. */
struct kelpie_vmm_overlay {
    int file;    /* empty, for reading and writing */
    int backing; /* the image under it, for reading: gives the size of the disk */
    enum kelpie_vmm_disk_format backing_format;
    const char *backing_name; /* as the new layer will say it: relative to its own directory */
};

/* What a started instance gives to its owner. */
struct kelpie_vmm_started {
    /* Stream to the agent's port; taken by the caller. KELPIE_OS_NO_HANDLE: the guest dials, and
     * KELPIE_VMM_EVENT_AGENT brings it. */
    int agent;
    int console; /* stream of the console; taken by the caller, who must drain it */
    enum kelpie_vmm_accelerator accelerator; /* KVM or TCG */
    /* Why this accelerator, for people; borrowed while the instance lives. */
    const char *accelerator_reason;
    /* What a pause is, a static string: "vmm" (no processor of the guest runs), "freezer" or "stop"
     * (nor does anything of the VMM, by its cgroup or by SIGSTOP); "": it cannot pause. */
    const char *pause_kind;
    /* Not 0: the accelerator has never been seen to boot a guest here. The owner gives it this long
     * from now to say hello, then calls `settle` with the verdict either way. */
    int64_t trial_ns;
};

enum kelpie_vmm_event_type {
    /* the VMM answers its control channel; guest code runs, or stands still after a restore */
    KELPIE_VMM_EVENT_STARTED,
    KELPIE_VMM_EVENT_WAITING, /* before STARTED: it answers, and has nothing to load yet */
    KELPIE_VMM_EVENT_AGENT,   /* after STARTED, once: the guest dialled */
    KELPIE_VMM_EVENT_PAUSED,  /* no guest code runs, whoever asked for it */
    KELPIE_VMM_EVENT_RESUMED,
    KELPIE_VMM_EVENT_ENDED, /* no process is left; `end` says why */
};

enum kelpie_vmm_end_kind {
    KELPIE_VMM_END_POWER_OFF, /* the guest switched itself off */
    KELPIE_VMM_END_RESET,     /* the guest reset itself: an orderly reboot, or the end of a panic */
    KELPIE_VMM_END_KILLED,    /* `kill` was called */
    KELPIE_VMM_END_FAILED, /* anything else: the VMM died, never started, or broke its contract */
};

struct kelpie_vmm_end {
    enum kelpie_vmm_end_kind kind;
    int code; /* of the cause that the driver saw (KELPIE_E_*), or 0 */
    bool has_exit;
    struct kelpie_os_exit exit;
    char text[KELPIE_VMM_TEXT_BYTES_MAX]; /* cause, exit code or signal, last lines of stderr */
};

struct kelpie_vmm_event {
    enum kelpie_vmm_event_type type;
    const struct kelpie_vmm_end *end; /* ENDED only; borrowed during the call */
    int agent;                        /* AGENT only: stream to the agent; taken by the callee */
};

/* Called from the loop. The instance may be destroyed inside the call for ENDED, and only there. */
typedef void (*kelpie_vmm_event_callback)(void *context, const struct kelpie_vmm_event *event);

/* Called exactly once, from the loop, for a pause, resume, save_ahead, save or switch_disk that was
 * accepted; `error` is borrowed during the call. */
typedef void (*kelpie_vmm_done_callback)(void *context, int status,
                                         const struct kelpie_error *error);

/* Two readings of the guest's clocks, taken by the agent some time apart. */
struct kelpie_vmm_guest_clock {
    uint64_t first_tsc;
    uint64_t first_monotonic_ns;
    uint64_t second_tsc;
    uint64_t second_monotonic_ns;
};

struct kelpie_vmm_create {
    struct kelpie_os *os;     /* borrowed: until destroy */
    struct kelpie_loop *loop; /* borrowed: until destroy */
    kelpie_vmm_event_callback callback;
    void *context;
};

/* A driver. All of an instance's memory begins with struct kelpie_vmm. */
struct kelpie_vmm_operations {
    const char *name;
    uint32_t capabilities;

    /* Without an instance: whether this host has what it needs, as far as that is known without
     * starting it, and whether it was proved to run a guest here. UNAVAILABLE says what is missing.
     */
    int (*find)(struct kelpie_os *os, const char *cache_directory, bool *out_is_proved,
                struct kelpie_error *error);

    /* Makes an instance in New: memory only. */
    int (*create)(const struct kelpie_vmm_create *create, struct kelpie_vmm **out,
                  struct kelpie_error *error);

    /* New: begins the start. On failure nothing runs and the instance can only be destroyed. On
     * success the caller owns both streams, and STARTED or ENDED follows. Starting lasts until
     * STARTED. */
    int (*start)(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                 struct kelpie_vmm_started *out, struct kelpie_error *error);

    /* Starting, without a device state so far: what it loads, as `start` would have had it, over
     * the same base with the same disks. STARTED or ENDED follows. On failure nothing has changed.
     * Needs CAN_SNAPSHOT. */
    int (*load)(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                struct kelpie_error *error);

    /* Starting to Ended: tells the driver that its guest said hello (`end` is NULL), or how one
     * that ran on trial ended without. It remembers what that proves of the accelerator. True: it
     * speaks against it, and later starts go by it. */
    bool (*settle)(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end, const char *reason);

    /* Starting, Running: KELPIE_E_BOOT when the guest's clock does not run as the host's does. */
    int (*check_clock)(struct kelpie_vmm *vmm, const struct kelpie_vmm_guest_clock *clock,
                       struct kelpie_error *error);

    /* Running: the guest stands still when kelpie__vmm_emit_done says so, and the instance is then
     * Paused. On failure it is Running: what was not confirmed in time is undone. Needs
     * CAN_PAUSE. */
    int (*pause)(struct kelpie_vmm *vmm, struct kelpie_error *error);

    /* Paused: the guest runs again when kelpie__vmm_emit_done says so. On failure it is Paused.
     * Needs CAN_PAUSE. */
    int (*resume)(struct kelpie_vmm *vmm, struct kelpie_error *error);

    /* Running, Paused: what a restore will need. Needs CAN_SNAPSHOT, as all below. */
    int (*describe)(struct kelpie_vmm *vmm, struct kelpie_vmm_description *out,
                    struct kelpie_error *error);

    /* Running: writes what the memory is now, so that the `save` into the same files, which comes
     * next or never, has to write only what is another by then. Errors: as of `save`. */
    int (*save_ahead)(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                      struct kelpie_error *error);

    /* Paused: writes device state and memory, and leaves the instance as it is; may be repeated.
     * `out` is filled when kelpie__vmm_emit_done says 0. What is written to the instance's
     * streams meanwhile is no part of it: it stays in the stream until the guest runs again. */
    int (*save)(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                struct kelpie_vmm_saved *out, struct kelpie_error *error);

    /* Paused: what the guest writes to the disk `index` of its spec goes to the file at `path` from
     * now on, which make_overlay made over what the disk was; that one is not written any more. */
    int (*switch_disk)(struct kelpie_vmm *vmm, uint32_t index, const char *path,
                       struct kelpie_error *error);

    /* Without an instance: whether the state of the devices that `save` wrote is whole, as far as
     * its own bytes tell; `file` can be read. Errors: SNAPSHOT. */
    int (*check_devices)(struct kelpie_os *os, int file, struct kelpie_error *error);

    /* Without an instance: fills in a new layer, in the one format that this driver layers. */
    int (*make_overlay)(struct kelpie_os *os, const struct kelpie_vmm_overlay *overlay,
                        struct kelpie_error *error);

    /* Without an instance: adds to the hash everything that a boot of `spec` would start, but for
     * where the VM's own files are and what is measured on the host (which a restore compares): the
     * program, the machine, the accelerator that would be chosen, every option. */
    int (*identify)(struct kelpie_os *os, const struct kelpie_vmm_spec *spec,
                    struct kelpie_hash *hash, struct kelpie_error *error);

    /* Starting, Running, Paused: ends it now; ENDED follows. May be repeated. */
    void (*kill)(struct kelpie_vmm *vmm);

    /* Any state: kills what lives, without an event, and frees the instance. */
    void (*destroy)(struct kelpie_vmm *vmm);
};

enum kelpie_vmm_state {
    KELPIE_VMM_NEW,
    KELPIE_VMM_STARTING,
    KELPIE_VMM_RUNNING,
    KELPIE_VMM_PAUSED,
    KELPIE_VMM_ENDED,
};

/* The common head of every instance; kept by vmm.c, read by drivers. */
struct kelpie_vmm {
    const struct kelpie_vmm_operations *operations;
    enum kelpie_vmm_state state;
    int32_t pid;            /* of the VMM's process; 0 before it is spawned */
    const char *pause_kind; /* see struct kelpie_vmm_started */
    bool is_restored;       /* its start is, or was, a restore */
    bool is_waiting;        /* and nothing was given to load yet */
    bool is_changing;       /* a pause, resume, save or switch_disk is under way */
    bool has_agent;         /* its stream was given */
    kelpie_vmm_event_callback callback;
    void *context;
    kelpie_vmm_done_callback done_callback;
    void *done_context;
};

/* The drivers of this build. */
enum kelpie_vmm_backend {
    KELPIE_VMM_BACKEND_QEMU,
    KELPIE_VMM_BACKEND_KRUN,
};
const struct kelpie_vmm_operations *kelpie__vmm_driver(enum kelpie_vmm_backend backend);

KELPIE_MUST_CHECK int kelpie__vmm_find(const struct kelpie_vmm_operations *operations,
                                       struct kelpie_os *os, const char *cache_directory,
                                       bool *out_is_proved, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_create(const struct kelpie_vmm_operations *operations,
                                         const struct kelpie_vmm_create *create,
                                         struct kelpie_vmm **out, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_start(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                                        struct kelpie_vmm_started *out, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_load(struct kelpie_vmm *vmm, const struct kelpie_vmm_spec *spec,
                                       struct kelpie_error *error);
bool kelpie__vmm_settle(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end,
                        const char *reason);
KELPIE_MUST_CHECK int kelpie__vmm_check_clock(struct kelpie_vmm *vmm,
                                              const struct kelpie_vmm_guest_clock *clock,
                                              struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_pause(struct kelpie_vmm *vmm, kelpie_vmm_done_callback callback,
                                        void *context, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_resume(struct kelpie_vmm *vmm, kelpie_vmm_done_callback callback,
                                         void *context, struct kelpie_error *error);
/* IO: the host's processor could not be looked at. */
KELPIE_MUST_CHECK int kelpie__vmm_describe(struct kelpie_vmm *vmm,
                                           struct kelpie_vmm_description *out,
                                           struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_save_ahead(struct kelpie_vmm *vmm,
                                             const struct kelpie_vmm_save *save,
                                             kelpie_vmm_done_callback callback, void *context,
                                             struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_save(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *save,
                                       struct kelpie_vmm_saved *out,
                                       kelpie_vmm_done_callback callback, void *context,
                                       struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_switch_disk(struct kelpie_vmm *vmm, uint32_t index,
                                              const char *path, kelpie_vmm_done_callback callback,
                                              void *context, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_check_devices(const struct kelpie_vmm_operations *operations,
                                                struct kelpie_os *os, int file,
                                                struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_make_overlay(const struct kelpie_vmm_operations *operations,
                                               struct kelpie_os *os,
                                               const struct kelpie_vmm_overlay *overlay,
                                               struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__vmm_identify(const struct kelpie_vmm_operations *operations,
                                           struct kelpie_os *os, const struct kelpie_vmm_spec *spec,
                                           struct kelpie_hash *hash, struct kelpie_error *error);
/* Its events go to somebody else from now on. */
void kelpie__vmm_hand_over(struct kelpie_vmm *vmm, kelpie_vmm_event_callback callback,
                           void *context);
void kelpie__vmm_kill(struct kelpie_vmm *vmm);
void kelpie__vmm_destroy(struct kelpie_vmm *vmm); /* takes NULL */

/* For drivers: every event and every completion passes through here, which checks the order and
 * keeps the state. */
void kelpie__vmm_emit(struct kelpie_vmm *vmm, const struct kelpie_vmm_event *event);
void kelpie__vmm_emit_done(struct kelpie_vmm *vmm, int status, const struct kelpie_error *error);

const char *kelpie__vmm_accelerator_name(enum kelpie_vmm_accelerator accelerator);

#endif
