/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A simulated guest: a machine of its own (machine.h) that runs the real kelpie_agent_main over a
 * simulated kernel, with a port to the host, a console, a clock that stands while it is halted, and
 * memory that can be saved and brought back. QEMU (qemu.c) owns it: the guest runs while its owner
 * process lives, is not stopped, and has let it run.
 *
 * Memory. A guest's heap, stacks included, lies in a slot: a fixed range of addresses. A guest that
 * boots takes a free slot; a restored one takes that of the guest it comes from, and guests that
 * share a slot are swapped by copying. Nothing in a heap points outside, but the few places that
 * load sets anew.
 */
#ifndef KELPIE_SIM_GUEST_H
#define KELPIE_SIM_GUEST_H

#include "sim/machine.h"

#define SIM_GUEST_SLOT_BYTES (64u * 1024u * 1024u) /* of addresses */
#define SIM_GUEST_NONCE_BYTES 16u
#define SIM_GUEST_IMAGE_BYTES 16384u

struct sim_guest;
struct sim_guest_truth;

struct sim_guest_disk {
    const char *serial;
    const char *path; /* of the host's file */
    bool is_read_only;
};

struct sim_guest_config {
    uint32_t memory_mib;
    uint32_t cpu_count;
    const char *kernel;                 /* path as in QEMU's argv; borrowed during create */
    const char *command_line;           /* the kernel's; borrowed during create */
    const char *port_name;              /* of the agent's port */
    const struct sim_guest_disk *disks; /* borrowed during create */
    uint32_t disk_count;
    uint64_t tsc_khz;
    bool has_init;  /* false: the initramfs holds no agent; the kernel panics */
    bool has_vsock; /* which the agent dials, in the place of a port that it opens */
};

enum sim_guest_end {
    SIM_GUEST_LIVES,
    SIM_GUEST_POWER_OFF,
    SIM_GUEST_RESET, /* reboot, or a panic with panic=-1 */
};

/* A guest that stands at its first instruction. NULL: no slot, no memory. */
struct sim_guest *kelpie__sim_guest_create(struct sim_process *owner,
                                           const struct sim_guest_config *config);
void kelpie__sim_guest_destroy(struct sim_guest *guest); /* takes NULL */
/* Its disk of this serial lies in another file of the host from now on: a new layer, or where a
 * saved guest is brought back. */
void kelpie__sim_guest_move_disk(struct sim_guest *guest, const char *serial, const char *path);

/* The processor runs, or stands still: no tick, no guest code. */
void kelpie__sim_guest_run(struct sim_guest *guest);
void kelpie__sim_guest_halt(struct sim_guest *guest);
bool kelpie__sim_guest_is_running(const struct sim_guest *guest);
enum sim_guest_end kelpie__sim_guest_end(const struct sim_guest *guest);
/* An object for its owner to wait for: readable while there is output of the port or the console,
 * or it has ended; writable while the port has room. */
struct sim_object *kelpie__sim_guest_events(struct sim_guest *guest);

/* The virtio-serial port and the console, from the host's side: bytes moved, 0 when there is no
 * room or nothing. */
size_t kelpie__sim_guest_port_put(struct sim_guest *guest, const void *bytes, size_t count);
size_t kelpie__sim_guest_port_take(struct sim_guest *guest, void *out, size_t capacity);
size_t kelpie__sim_guest_console_take(struct sim_guest *guest, void *out, size_t capacity);
/* The same bytes go through a vsock, once the guest has dialled and its owner has answered. */
bool kelpie__sim_guest_vsock_is_dialling(struct sim_guest *guest);
/* False: nobody waits for it any more. */
bool kelpie__sim_guest_vsock_answer(struct sim_guest *guest, bool is_connected);
/* Bytes go to a guest that does not listen yet, and come out when it does (virtio-serial's queue):
 * so do those that were in the queues when it was saved. */

/* Device state and memory as an image. True memory holds addresses, which must not reach a file or
 * a hash; so the image is a ticket of fixed size, the same bytes in every run, for a copy that the
 * world keeps. Every byte of it counts, as memory's would. */
size_t kelpie__sim_guest_save(struct sim_guest *guest, uint8_t out[SIM_GUEST_IMAGE_BYTES]);
/* A new guest of the same lineage, halted. NULL: no image (its first 128 bytes say what it is), no
 * memory. Cut off or damaged elsewhere: a guest that goes wrong as soon as it runs. */
struct sim_guest *kelpie__sim_guest_load(struct sim_process *owner, const void *image,
                                         size_t count);
/* Which lineage an image says it is of, if it is one: from its first 128 bytes. */
uint64_t kelpie__sim_guest_image_lineage(const uint8_t *image);
/* What an image says of the guest that was saved. False: it is none, or has a wrong byte. */
bool kelpie__sim_guest_image_truth(const void *image, size_t count, struct sim_guest_truth *out);

/* Faults: the kernel panics; every process of it stops for good (a hang); the agent's process dies;
 * the port turns deaf (bytes vanish, both ways). */
void kelpie__sim_guest_panic(struct sim_guest *guest, const char *why);
void kelpie__sim_guest_hang(struct sim_guest *guest);
void kelpie__sim_guest_deafen(struct sim_guest *guest);
/* The answer to hello was spoilt on its way: it counts as not given. */
void kelpie__sim_guest_ungreet(struct sim_guest *guest);
/* Bytes that its agent writes to the port are changed, by this chance for each write: the hostile
 * guest. */
void kelpie__sim_guest_lie(struct sim_guest *guest, uint32_t billionth);

/* ---- the truth, for invariants: outside the agent's reach -------------------------------------
 */

struct sim_guest_truth {
    uint64_t id;                          /* of the world: the n-th guest */
    uint64_t lineage;                     /* the id of the guest that booted */
    uint8_t nonce[SIM_GUEST_NONCE_BYTES]; /* in its memory, drawn at boot */
    uint64_t ticks;                       /* while it runs: 1 each virtual ms */
    uint64_t command_starts;              /* spawned by the agent */
    uint64_t entropy;                     /* a hash of all that was ever added to its pool */
    int64_t wall_ns;                      /* its time of day */
    bool has_agent;                       /* process 1 lives */
    /* the agent has answered a hello on the port since boot or load, and it went out as it was */
    bool is_greeted;
    bool is_damaged;        /* it comes from an image that was not whole */
    bool was_asked_to_end;  /* its agent has read the request to go, since boot or load */
    bool went_by_itself;    /* it has reset or switched off its machine, and not by a panic */
    uint32_t process_count; /* but for the one that its agent has ready */
    char boot_id[40];
    char hostname[65];
};
void kelpie__sim_guest_truth(struct sim_guest *guest, struct sim_guest_truth *out);
uint64_t kelpie__sim_guest_lineage(const struct sim_guest *guest);
struct sim_process *kelpie__sim_guest_owner(const struct sim_guest *guest);
struct sim_machine *kelpie__sim_guest_machine(
    struct sim_guest *guest); /* resident after this call */

/* ---- programs in guests ---------------------------------------------------------------------- */

/* The builtin `script`: argv[1] is "print 1M; fork 3; ignore TERM; setsid; sleep 2s; write f;
 * exit 7". */
int kelpie__sim_script_main(struct kelpie_os *os, int argc, char **argv);
/* Whether every command of a script is one, with arguments that fit; else what was expected. */
#define KELPIE_SIM_SCRIPT_PROBLEM_BYTES 192u
KELPIE_MUST_CHECK bool kelpie__sim_script_is_good(
    const char *script, char out_problem[KELPIE_SIM_SCRIPT_PROBLEM_BYTES]);
/* programs.c registers the builtin ones (echo, cat, true, false, sleep, touch, ls, rm, env, pwd,
 * kill, sh -c of these, source, sink, script) at /bin and /usr/bin of every guest. A user's: */
void kelpie__sim_guest_program(struct sim_world *world, const char *name, sim_main main);

/* ---- for process.c, in machines that have a guest -------------------------------------------- */

/* The child is complete and not yet ready: it joins its cgroup, takes its limits and is counted.
 * Negative: it is not born. */
int kelpie__sim_guest_spawned(struct sim_process *parent, struct sim_process *child,
                              const struct kelpie_os_spawn *spawn, const char **out_step);
/* Likewise, in advance: it joins its cgroup. And when it is told its program: it takes its limits
 * and is counted; negative: it has to go. */
int kelpie__sim_guest_made_ready(struct sim_process *parent, struct sim_process *child,
                                 const struct kelpie_os_spawn *spawn);
int kelpie__sim_guest_ordered(struct sim_process *parent, struct sim_process *child,
                              const struct kelpie_os_spawn *spawn, const char **out_step);
/* Between the two somebody in the guest may have killed or stopped it. */
void kelpie__sim_guest_ready_fault(struct sim_process *parent, struct sim_process *child);
/* It has just become a zombie, its `exit` is filled in: leaves its cgroup, accounts for CPU time
 * and memory. The end of process 1 is the kernel's panic. */
void kelpie__sim_guest_ended(struct sim_process *process);
/* For world.c, when all guests are gone. */
void kelpie__sim_guest_slots_destroy(struct sim_world *world);

/* The byte at this offset of what `source`, `script print` and the like write. */
static inline uint8_t kelpie__sim_pattern(uint64_t offset) {
    return (uint8_t)(offset * 131 + (offset >> 8) * 17);
}
void kelpie__sim_pattern_fill(void *out, size_t count, uint64_t offset);
/* How many of these bytes, which begin at that offset, are right up to the first that is not. */
size_t kelpie__sim_pattern_length(const void *bytes, size_t count, uint64_t offset);

/* For programs: calls that wait, on a table whose calls do not. */
int64_t kelpie__sim_read_wait(struct kelpie_os *os, int handle, void *out, size_t count);
int64_t kelpie__sim_write_wait(struct kelpie_os *os, int handle, const void *bytes, size_t count);
void kelpie__sim_sleep(struct kelpie_os *os, int64_t duration_ns);

/* For the scheduler (world.c): the next guest that has a ready process, in a fair turn; when one
 * wants to wake next (world time, -1: none); lets it run one process until that leaves. */
bool kelpie__sim_guest_is_ready(const struct sim_guest *guest);
int64_t kelpie__sim_guest_deadline(const struct sim_guest *guest);
/* Brings the guest's memory to its slot. */
struct sim_machine *kelpie__sim_guest_enter(struct sim_guest *guest);
/* After anything ran or changed in the machine: refreshes what is kept outside (readiness,
 * deadline). */
void kelpie__sim_guest_update(struct sim_guest *guest);

#endif
