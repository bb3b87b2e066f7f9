/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated kelpie-krun, with the libkrun that it becomes, inside: shared by krun*.c only. It
 * is told what the real one is told, and tells what that tells (vmm/krun/launch.h); how libkrun
 * behaves was measured (docs/simulation.md): what it says of itself is an exit code at most, the
 * guest dials, and all of it stands still when nobody reads what the guest sends.
 */
#ifndef KELPIE_SIM_KRUN_H
#define KELPIE_SIM_KRUN_H

#include "core/loop.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "vmm/krun/launch.h"

#define SIM_KRUN_PIECE_BYTES 4096u

/* Texts are the arguments themselves. */
struct sim_krun_options {
    uint32_t cpu_count;
    uint32_t memory_mib;
    const char *library; /* NULL: by its name */
    const char *staging;
    const char *agent;
    struct sim_guest_disk disks[KELPIE_KRUN_DISK_COUNT_MAX];
    char serials[KELPIE_KRUN_DISK_COUNT_MAX][16];
    uint32_t disk_count;
    const char *shares[KELPIE_KRUN_SHARE_COUNT_MAX]; /* TAG:ro|rw:PATH */
    uint32_t share_count;
};

/* Bytes that have left their source, and are not with their reader yet. */
struct sim_krun_piece {
    size_t start;
    size_t count;
    char bytes[SIM_KRUN_PIECE_BYTES];
};

struct sim_krun {
    struct kelpie_os *os; /* borrowed */
    int argc;
    char **argv; /* borrowed */
    struct kelpie_loop *loop;
    struct sim_process *process;
    struct sim_guest *guest;
    struct kelpie_timer timer; /* of the start, then of what a fault brings, then of the end */
    struct kelpie_timer pump_timer;
    const char *fault;
    int guest_handle;
    uint32_t guest_watch;
    bool is_guest_watched;
    int stream; /* to who listens for the agent; KELPIE_OS_NO_HANDLE: none, or it has gone */
    uint32_t stream_watch;
    bool has_dialled;
    bool has_context; /* libkrun's, which is not started */
    bool is_hung;
    bool is_ended;
    int exit_code;
    struct sim_krun_piece console;
    struct sim_krun_piece out; /* from the guest's vsock */
    struct sim_krun_piece in;  /* for it */
    struct sim_krun_options options;
};

/* krun.c */
void kelpie__sim_krun_exit(struct sim_krun *krun, int code); /* at once, after this step */
int64_t kelpie__sim_krun_about(struct sim_krun *krun, int64_t median_ns);

/* krun_launch.c: the calls of the sequence, told one by one. False: it has ended, or hangs. */
KELPIE_MUST_CHECK bool kelpie__sim_krun_launch(struct sim_krun *krun);
KELPIE_PRINTF(2, 3) void kelpie__sim_krun_tell(struct sim_krun *krun, const char *format, ...);
/* The fault plan's word for a point, or NULL. */
const char *kelpie__sim_krun_fault(struct sim_krun *krun, const char *point,
                                   uint64_t *out_argument);

/* krun_guest.c */
bool kelpie__sim_krun_guest_start(struct sim_krun *krun); /* false: no memory for one */
void kelpie__sim_krun_guest_stop(struct sim_krun *krun);  /* at the process's end */
void kelpie__sim_krun_pump(struct sim_krun *krun);

#endif
