/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One libkrun VM: what the files of the driver share. krun.c owns the process and its end, place.c
 * the directory, status.c what kelpie-krun tells, freeze.c pause and resume.
 */
#ifndef KELPIE_VMM_KRUN_INSTANCE_H
#define KELPIE_VMM_KRUN_INSTANCE_H

#include "core/limits.h"
#include "vmm/accel.h"
#include "vmm/krun/krun.h"
#include "vmm/krun/launch.h"
#include "vmm/process.h"

#define KELPIE_KRUN_PLACE_NAME "krun" /* in the VM's directory */
#define KELPIE_KRUN_CGROUP_BYTES_MAX 1024u

struct kelpie_krun_status {
    int pipe; /* owned: read end; KELPIE_OS_NO_HANDLE after its end */
    uint32_t watch;
    bool is_watched;
    bool is_started;   /* the launcher gave itself to libkrun */
    bool is_missing;   /* of `error`: it is the host that lacks something */
    bool has_returned; /* and libkrun gave it back, with: */
    int32_t returned;
    uint32_t call_count;
    char last_call[64];
    char error[KELPIE_VMM_TEXT_BYTES_MAX]; /* "": none */
    uint32_t length;
    char line[KELPIE_KRUN_LINE_BYTES_MAX];
};

struct kelpie_krun_freeze {
    bool has_cgroup;                           /* the host lets us make some */
    bool is_wanted;                            /* of a change that is under way: frozen */
    char own[KELPIE_KRUN_CGROUP_BYTES_MAX];    /* the monitor's cgroup, as a directory */
    char frozen[KELPIE_KRUN_CGROUP_BYTES_MAX]; /* "": it is in none of ours */
    int64_t deadline_ns;
    struct kelpie_timer timer;
};

struct kelpie_krun {
    struct kelpie_vmm vmm; /* first: see vmm.h */
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    struct kelpie_vmm_process process;
    struct kelpie_krun_status status;
    struct kelpie_krun_freeze freeze;
    int vm_directory; /* owned: has the place */
    int place;        /* owned: has the socket and the staged root */
    int listener;     /* owned; KELPIE_OS_NO_HANDLE once the agent has dialled */
    uint32_t listener_watch;
    bool is_listener_watched;
    bool is_kill_requested;
    struct kelpie_accel accel; /* what was booted here before; no key: not known where it lies */
    char cache_directory[KELPIE_PATH_BYTES_MAX];
    char program[KELPIE_PATH_BYTES_MAX];
    char agent[KELPIE_PATH_BYTES_MAX];
    char staging[KELPIE_PATH_BYTES_MAX];
    char cause[KELPIE_VMM_TEXT_BYTES_MAX]; /* what the driver itself saw go wrong, or "" */
};

struct kelpie_krun *kelpie__krun_of(struct kelpie_vmm *vmm);

/* krun.c: notes why, and ends it. */
void kelpie__krun_give_up(struct kelpie_krun *krun, const struct kelpie_error *error);

/* ---- place.c ---- */

/* Makes the directory anew, with the agent and the places it mounts on in it, and the socket. */
KELPIE_MUST_CHECK int kelpie__krun_place_make(struct kelpie_krun *krun,
                                              const struct kelpie_vmm_spec *spec,
                                              struct kelpie_error *error);
/* Removes it; without effect when there is none. */
void kelpie__krun_place_remove(struct kelpie_krun *krun);

/* ---- status.c ---- */

/* Takes the read end on success. */
KELPIE_MUST_CHECK int kelpie__krun_status_watch(struct kelpie_krun *krun, int pipe,
                                                struct kelpie_error *error);
/* Reads what is left. */
void kelpie__krun_status_drain(struct kelpie_krun *krun);
void kelpie__krun_status_close(struct kelpie_krun *krun);

/* ---- freeze.c ---- */

/* Finds out what this host lets us do: the kind of pause, a static string. */
const char *kelpie__krun_freeze_probe(struct kelpie_krun *krun);
KELPIE_MUST_CHECK int kelpie__krun_pause(struct kelpie_vmm *vmm, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__krun_resume(struct kelpie_vmm *vmm, struct kelpie_error *error);
/* The process is gone: the cgroup goes, too. Says nothing. */
void kelpie__krun_freeze_end(struct kelpie_krun *krun);

#endif
