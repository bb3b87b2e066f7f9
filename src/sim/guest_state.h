/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of the simulated guest share. `struct sim_guest` is the world's record of a guest
 * and does not move with its memory; `struct sim_kernel` lies in the guest's heap and is saved and
 * brought back with it.
 */
#ifndef KELPIE_SIM_GUEST_STATE_H
#define KELPIE_SIM_GUEST_STATE_H

#include "core/base.h"
#include "core/limits.h"
#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/heap.h"

#define SIM_KERNEL_QUEUE_BYTES 65536u
#define SIM_KERNEL_CONSOLE_BYTES 65536u
#define SIM_KERNEL_DISK_MAX 8u
#define SIM_GUEST_AGENT_STACK_BYTES (256u * 1024u) /* request_hello alone has 32 KiB */
#define SIM_KERNEL_PORTS "/sys/class/virtio-ports"
#define SIM_KERNEL_CGROUPS "/sys/fs/cgroup"

/* A ring of bytes. */
struct sim_queue {
    uint8_t *bytes;
    uint32_t capacity; /* a power of two */
    uint64_t written;
    uint64_t taken;
};

struct sim_cgroup {
    struct sim_cgroup *next;
    bool was_killed; /* as in Linux 6.12.16 and later: who is cloned into it is killed */
    char path[128];  /* absolute */
    uint32_t process_count;
    uint64_t cpu_us; /* of members that have ended */
    uint64_t peak_kib;
    bool is_removed; /* its directory; the record goes with its last member */
};

/* Where frames stand in what goes through the port: who answered a hello, who was told to go. */
struct sim_frame_scan {
    uint8_t header[KELPIE_FRAME_HEADER_BYTES];
    uint32_t header_count;
    uint32_t payload_left;
    uint32_t matched;
    bool is_message;
};

struct sim_kernel_disk {
    char serial[32];
    char path[256];
    bool is_read_only;
    bool is_mounted;
};

enum sim_vsock {
    SIM_VSOCK_NONE, /* there is none */
    SIM_VSOCK_IDLE,
    SIM_VSOCK_DIALLING,
    SIM_VSOCK_CONNECTED,
    SIM_VSOCK_REFUSED,
};

struct sim_kernel {
    struct sim_queue to_guest;
    struct sim_queue to_host;
    struct sim_queue console;
    struct sim_object *port;           /* borrowed: while a process of the guest has it open */
    struct sim_object *console_object; /* borrowed: likewise */
    struct sim_cgroup *cgroups;
    struct sim_frame_scan scan;    /* of what the agent writes */
    struct sim_frame_scan scan_in; /* of what it reads */
    uint8_t nonce[SIM_GUEST_NONCE_BYTES];
    uint64_t command_starts;
    uint64_t cpu_us; /* of all that has ended */
    uint64_t fork_count;
    uint64_t entropy; /* a hash of all that was added to its pool */
    uint64_t lineage;
    int64_t boot_ns;       /* monotonic: when process 1 starts */
    int64_t port_named_ns; /* monotonic: from then on the port's name is known */
    uint64_t write_count;  /* of the port */
    uint64_t damage;       /* of the image that it was loaded from: a hash; 0: none */
    uint32_t memory_mib;
    uint32_t cpu_count;
    uint32_t disk_count;
    struct sim_kernel_disk disks[SIM_KERNEL_DISK_MAX];
    char port_name[64];
    char command_line[1024];
    enum sim_vsock vsock;
    bool has_init;
    bool is_booted; /* process 1 was started */
    bool is_hung;
    bool is_deaf;
    bool reboots_on_panic;
    bool is_root_read_only; /* as it was mounted last */
    uint32_t mounts;        /* of the kernel's own file systems: bits */
};

/* Of a guest's memory, without the pages that are zeros, and without what a model has as well: a
 * whole copy that stays until the world ends. */
struct sim_guest_copy {
    struct sim_heap *heap;
    struct sim_guest_page *pages; /* owned: of `heap`, with the lines behind them; NULL: none */
    uint32_t page_count;
    uint32_t line_count; /* that lie behind the pages */
    size_t extent;
};

#define SIM_GUEST_COPY_PAGES 16384u /* what a slot can hold */

struct sim_guest_page {
    uint64_t same; /* bits: lines that are read from `model` */
    uint64_t number;
    const struct sim_guest_page *model; /* the model's page of this number; NULL: none */
    const uint8_t *kept;                /* the first of its lines that lie behind the pages */
    bool is_dead;                       /* it has no line */
};

/* What is needed while a copy is made. */
struct sim_guest_copy_scratch {
    uint64_t dead[SIM_GUEST_COPY_PAGES / 64 + 1]; /* bits */
    struct sim_guest_page pages[SIM_GUEST_COPY_PAGES];
};

/* The files that a guest of a slot begins with: all who boot there have the same, at the same
 * addresses. */
struct sim_guest_layout {
    struct sim_heap *heap; /* whose memory it has */
    void *piece;           /* owned; NULL: nobody has booted there */
    size_t piece_bytes;
    size_t from; /* the extent of the slot's heap before it */
    struct sim_disk *disk;
    uint64_t capacity_bytes;
    uint32_t disk_count; /* of the guest it was made for, */
    uint32_t programs;   /* and how many programs its users have */
};

struct sim_guest_slot {
    void *base;
    struct sim_guest_layout layout;
    uint32_t guest_count;        /* that lie here, one of them resident */
    struct sim_guest *resident;  /* NULL: none */
    struct sim_guest_copy model; /* borrowed until the world ends: a whole copy that an image has */
};

/* What the truth of a guest has from its memory. */
struct sim_guest_inside {
    uint8_t nonce[SIM_GUEST_NONCE_BYTES];
    uint64_t command_starts;
    uint64_t entropy;
    int64_t wall_offset_ns;
    bool has_init;
    uint32_t process_count;
    char boot_id[40];
    char hostname[65];
};

struct sim_guest {
    struct sim_world *world;
    struct sim_process *owner;
    struct sim_object *events; /* borrowed: lives as long as the owner's handles */
    int events_handle;         /* the first of them */
    struct sim_guest_slot *slot;
    struct sim_guest_copy swapped; /* while another guest lies in the slot, */
    struct sim_guest_inside away;  /* and what can be asked without bringing it back */
    struct sim_machine *machine;   /* in the slot, as is `kernel` */
    struct sim_kernel *kernel;
    uint64_t id;
    uint64_t lineage;
    bool is_running;
    bool is_greeted;
    bool is_damaged;
    bool was_asked_to_end;
    bool has_panicked;
    enum sim_guest_end end;
    int64_t frozen_ns; /* its monotonic time while it does not run, */
    int64_t offset_ns; /* and, while it does, how far that is ahead of the world's */
    bool has_ready;    /* what update found */
    int64_t deadline_ns;
    bool has_output; /* of port or console */
    bool has_room;   /* of the port */
    uint32_t lie_billionth;
};

/* ---- guest_copy.c ---------------------------------------------------------------------------- */

/* An empty one of all that the machine's heap holds, with memory of `heap`. False: there is none.
 * `model`: what it is a difference from, and has to outlive it; one without a page: from nothing.
 */
KELPIE_MUST_CHECK bool kelpie__sim_guest_copy_fill(struct sim_guest_copy *copy,
                                                   struct sim_heap *heap,
                                                   struct sim_guest_copy_scratch *scratch,
                                                   const struct sim_guest_copy *model,
                                                   const struct sim_machine *machine);
/* `before`: a copy of what is in the range now; NULL: nobody knows what that is. */
void kelpie__sim_guest_copy_restore(const struct sim_guest_copy *copy, void *base,
                                    const struct sim_guest_copy *before);
void kelpie__sim_guest_copy_drop(struct sim_guest_copy *copy);

/* ---- guest_slot.c ---------------------------------------------------------------------------- */

/* Finds room for a new guest; false: the system gives no address space. */
KELPIE_MUST_CHECK bool kelpie__sim_guest_slot_take(struct sim_guest *guest);
uint32_t kelpie__sim_guest_slot_index(const struct sim_guest *guest);
void kelpie__sim_guest_slot_leave(struct sim_guest *guest);
/* Brings its memory to the slot. */
void kelpie__sim_guest_slot_enter(struct sim_guest *guest);
/* Copies of guests' memory, by number from 1; kept until the world ends. 0: no memory. */
uint64_t kelpie__sim_guest_copy_keep(struct sim_guest *guest);
/* Puts that copy into its slot, as the memory of this new guest. False: there is none of this
 * number. */
KELPIE_MUST_CHECK bool kelpie__sim_guest_copy_use(struct sim_guest *guest, uint64_t number);
/* The next guest's number, from 1; 0: no memory. */
uint64_t kelpie__sim_guest_number(struct sim_world *world);

/* Users' programs. False: too many, or a name that is too long. */
bool kelpie__sim_guest_add_user_program(struct sim_world *world, const char *name, sim_main main);
uint32_t kelpie__sim_guest_user_programs(struct sim_world *world);
/* NULL after the last. */
const char *kelpie__sim_guest_user_program(struct sim_world *world, uint32_t index,
                                           sim_main *out_main);

/* ---- guest_port.c ---------------------------------------------------------------------------- */

bool kelpie__sim_queue_init(struct sim_queue *queue, struct sim_heap *heap, uint32_t capacity);
size_t kelpie__sim_queue_count(const struct sim_queue *queue);
size_t kelpie__sim_queue_room(const struct sim_queue *queue);
size_t kelpie__sim_queue_put(struct sim_queue *queue, const void *bytes, size_t count);
size_t kelpie__sim_queue_take(struct sim_queue *queue, void *out, size_t capacity);
/* The device files of port and console. */
int kelpie__sim_port_open(struct sim_machine *machine, struct sim_process *opener, const char *path,
                          struct sim_object **out);
/* 0 or -errno: a handle's object that is writable when the owner has answered. */
int kelpie__sim_vsock_dial(struct sim_machine *machine, struct sim_object **out);
int kelpie__sim_console_open(struct sim_machine *machine, struct sim_process *opener,
                             const char *path, struct sim_object **out);
/* What the kernel prints; lost when nobody drains the console. */
KELPIE_PRINTF(2, 3)
void kelpie__sim_kernel_print(struct sim_guest *guest, const char *format, ...);
/* Notes what the owner's object is ready for. */
void kelpie__sim_guest_look(struct sim_guest *guest);
/* And tells the owner. */
void kelpie__sim_guest_tell(struct sim_guest *guest);

/* ---- guest_layout.c, guest_proc.c, guest_group.c --------------------------------------------- */

/* The file system of a guest that has just been made. 0 or -errno. */
KELPIE_MUST_CHECK int kelpie__sim_guest_lay_out(struct sim_guest *guest, uint64_t capacity_bytes);
void kelpie__sim_guest_layout_drop(struct sim_guest_layout *layout);
KELPIE_MUST_CHECK int kelpie__sim_guest_lay_out_proc(struct sim_disk *disk);
KELPIE_MUST_CHECK int kelpie__sim_guest_lay_out_sys(struct sim_guest *guest);
KELPIE_MUST_CHECK int kelpie__sim_guest_lay_out_groups(struct sim_disk *disk);
/* Opens what stands for /dev/null, zero, full, random. */
int kelpie__sim_device_open(struct sim_machine *machine, struct sim_process *opener,
                            const char *path, struct sim_object **out);

/* ---- guest_disk.c ---------------------------------------------------------------------------- */

/* The files of the image become files of the guest: 0 or -errno. */
KELPIE_MUST_CHECK int kelpie__sim_guest_disk_mount(struct sim_guest *guest, uint32_t index);
/* What was changed goes to the writable layer's file on the host, if there is one. */
KELPIE_MUST_CHECK int kelpie__sim_guest_disk_sync(struct sim_guest *guest);

/* NULL: none of this path. */
struct sim_cgroup *kelpie__sim_cgroup_find(struct sim_kernel *kernel, const char *path);
void kelpie__sim_cgroup_leave(struct sim_machine *machine, struct sim_cgroup *cgroup);

/* ---- guest_process.c ------------------------------------------------------------------------- */

/* sim_process.extra of a guest's processes. */
struct sim_guest_process {
    struct sim_cgroup *cgroup; /* NULL: the root */
    uint64_t children_cpu_us;  /* of those that were collected */
    uint64_t peak_kib;
    struct kelpie_os_limit limits[KELPIE_EXEC_LIMIT_COUNT_MAX + 1];
    uint32_t limit_count;
};

struct sim_guest_process *kelpie__sim_guest_process(struct sim_process *process);
/* CPU time of a process that lives: its own, and of the children it collected. */
uint64_t kelpie__sim_guest_cpu_us(const struct sim_process *process);

/* Standard streams, and what a process of a guest has besides. 0 or -errno. */
KELPIE_MUST_CHECK int kelpie__sim_guest_adopt_init(struct sim_process *process);

/* ---- guest_os.c ------------------------------------------------------------------------------ */

void kelpie__sim_kernel_random(struct sim_machine *machine, uint8_t *out, size_t count);

/* ---- guest_image.c --------------------------------------------------------------------------- */

/* Of a guest that is in its slot. */
void kelpie__sim_guest_look_inside(struct sim_guest *guest, struct sim_guest_inside *out);
/* Makes the new guest what the image says; false: it is none. */
KELPIE_MUST_CHECK bool kelpie__sim_guest_image_apply(struct sim_guest *guest, const void *image,
                                                     size_t count);

/* ---- guest.c --------------------------------------------------------------------------------- */

/* The guest's virtual processor is done; the owner is told. */
void kelpie__sim_guest_finish(struct sim_guest *guest, enum sim_guest_end end);
int64_t kelpie__sim_guest_now(const struct sim_guest *guest);
/* Its memory is away, it has nothing for its owner, and nothing in it is due: to bring it back only
 * to find that out would cost two copies of guests. */
bool kelpie__sim_guest_is_silent(const struct sim_guest *guest);

#endif
