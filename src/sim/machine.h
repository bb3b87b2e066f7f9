/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A simulated kernel: processes, their handles, and what handles stand for. The host is one
 * machine; every guest is another, with the same code. All of a machine's memory, the stacks of its
 * processes included, comes from its heap (heap.h): a guest's is saved and brought back as bytes.
 * So nothing in a machine's heap may point into another machine's heap or into the world, but for
 * `machine->world` (and what guest.h sets anew).
 *
 * Every operation of a process's `struct kelpie_os` goes through kelpie__sim_enter and
 * kelpie__sim_leave (os_sim.c): there it is counted, hashed, traced, delayed, failed or killed.
 */
#ifndef KELPIE_SIM_MACHINE_H
#define KELPIE_SIM_MACHINE_H

#include "os/os.h"
#include "sim/fiber.h"
#include "sim/world.h"

#define SIM_HANDLE_MAX 1024u /* of a process */
#define SIM_PROCESS_MAX 512u /* alive in one machine */
#define SIM_PATH_BYTES_MAX 4096u
#define SIM_NAME_BYTES_MAX 32u
#define SIM_STACK_BYTES (64u * 1024u)
#define SIM_STACK_BYTES_USER (1024u * 1024u)

struct sim_listener;
struct sim_object;
struct sim_process_object;
struct sim_table;
struct sim_watch;
struct sim_watch_set;

/* ---- objects: what a handle stands for ------------------------------------------------------- */

/* NULL: the operation gives -EBADF or what the comment says. Each returns as its namesake of os.h
 * does; none of them waits. */
struct sim_object_operations {
    const char
        *kind; /* "stream", "listener", "pipe", "file", "directory", "process", "signals", ... */
    uint32_t (*ready)(struct sim_object *object); /* KELPIE_OS_* bits that hold now; NULL: cannot be
                                                     watched, as files */
    int64_t (*read)(struct sim_process *process, struct sim_object *object, void *out,
                    size_t count);
    int64_t (*write)(struct sim_process *process, struct sim_object *object, const void *bytes,
                     size_t count);
    int64_t (*send)(struct sim_process *process, struct sim_object *object, const void *bytes,
                    size_t count, const int *handles, uint32_t n);
    int64_t (*receive)(struct sim_process *process, struct sim_object *object, void *out,
                       size_t count, int *handles, uint32_t *inout_n);
    int64_t (*pread)(struct sim_process *process, struct sim_object *object, void *out,
                     size_t count, uint64_t offset);
    int64_t (*pwrite)(struct sim_process *process, struct sim_object *object, const void *bytes,
                      size_t count, uint64_t offset);
    void (*close)(struct sim_object *object); /* the last reference is gone: frees it */
};

/* The head of every object; allocated in its machine's heap by whoever makes it. */
struct sim_object {
    const struct sim_object_operations *operations;
    struct sim_machine *machine;
    uint32_t references; /* handles, and handles that are under way in a stream */
    struct sim_watch *watches;
    const char *label; /* static; "qmp", "agent"; NULL: none */
};

struct sim_watch {
    struct sim_process *process;
    struct sim_watch_set *set;
    struct sim_object *object;
    struct sim_watch *object_next; /* of the same object */
    struct sim_watch *object_previous;
    struct sim_watch *ready_next; /* of the same set */
    struct sim_watch *ready_previous;
    bool is_listed; /* as ready */
    int handle;
    uint32_t bits;
    uint64_t cookie;
};

void kelpie__sim_object_init(struct sim_object *object, struct sim_machine *machine,
                             const struct sim_object_operations *operations);
void kelpie__sim_object_ref(struct sim_object *object);
void kelpie__sim_object_unref(struct sim_object *object);
/* It may be ready now: processes that wait for it look again. To be called after whatever can make
 * an object ready, for readiness is not polled. Takes NULL. */
void kelpie__sim_object_changed(struct sim_object *object);
/* /dev/null: the machine's only one, with a reference for the caller. NULL: no memory. */
struct sim_object *kelpie__sim_object_null(struct sim_machine *machine);

/* ---- processes ------------------------------------------------------------------------------- */

enum sim_process_state {
    SIM_PROCESS_READY,
    SIM_PROCESS_RUNNING,
    SIM_PROCESS_WAITING, /* in `wait` */
    SIM_PROCESS_ZOMBIE,
    SIM_PROCESS_GONE, /* reaped; lives on for process handles that name it */
};

/* What one `wait` looks at. */
struct sim_watch_set {
    struct sim_watch *ready_first; /* those that may have something to report */
    struct sim_watch *ready_last;
    int wait_handle; /* what `wait_handle` gave, + 1; 0: none yet */
};

struct sim_handle {
    struct sim_object *object; /* NULL: free */
    struct sim_watch *watch;   /* of this handle, or NULL */
};

/* What page_map (into zeros), read_memory and write_memory find in a process: as in os.h. */
struct sim_memory_operations {
    int (*page_map)(struct sim_process *owner, uint64_t address, uint8_t *inout_bits,
                    size_t page_count);
    int64_t (*read)(struct sim_process *owner, uint64_t address, void *out, size_t count);
    int64_t (*write)(struct sim_process *owner, uint64_t address, const void *bytes, size_t count);
};

struct sim_process {
    struct kelpie_os os; /* first: what the program is given; os.context is this process */
    struct sim_machine *machine;
    struct sim_process *next; /* of the machine, in the order of pids */
    struct sim_process *previous;
    struct sim_process *parent; /* NULL: the machine's first, or an orphan's (process 1) */
    struct sim_process *children;
    struct sim_process *sibling_next;
    struct sim_process *sibling_previous;
    struct sim_process *ready_next; /* of the machine's ready list, or of those that are dying */
    struct sim_process *ready_previous;
    int32_t pid;
    int32_t group;
    int32_t session;
    uint32_t uid;
    uint32_t gid;
    uint64_t
        birth; /* of the world: the n-th process ever; names its random stream and its faults */
    char role[SIM_NAME_BYTES_MAX]; /* "monitor", "cli", "agent", "qemu", "pack", "user", ... */
    char path[256];                /* of the program */
    enum sim_process_state state;
    bool is_stopped;  /* SIGSTOP */
    bool is_embedder; /* the caller's own stack: no fiber, cannot be killed */
    bool is_queued;   /* in the ready list */
    bool is_asleep;   /* waits for time only (kelpie__sim_process_sleep) */
    bool is_ending;   /* killed or exited: the scheduler is about to take it away */
    bool dies_with_parent;
    bool is_orphan;
    bool awaits_program; /* made in advance, by a guest's process 1: it has no stack yet */
    int argc;
    char **argv;        /* in the heap */
    char **environment; /* in the heap, NULL-terminated */
    char directory[256];
    struct sim_fiber fiber;
    sim_main main;
    struct sim_handle *handles; /* in the heap */
    uint32_t handle_capacity;
    uint32_t handle_count; /* all that are open are below */
    uint32_t handle_free;  /* none below is free */
    struct sim_watch_set watches;
    struct sim_watch_set *waits_for; /* while it is in `wait` */
    struct sim_table *tables;        /* further ones, with watches of their own; list */
    struct sim_object *signals;      /* what open_signals gave; borrowed */
    uint64_t signals_blocked;
    uint64_t signals_pending;
    uint64_t
        signals_ignored;   /* SIG_IGN; children inherit it. Bit n - 1 is signal n, in all three */
    uint64_t cpu_ns;       /* what its calls have cost so far */
    uint64_t memory_bytes; /* held through the seam's `memory` */
    uint64_t memory_bytes_peak;
    uint64_t memory_bytes_left;               /* when it ended */
    uint32_t handles_inherited;               /* what its parent gave it, at its start */
    uint32_t handles_left;                    /* of its own, when it ended */
    struct sim_memory_block *memory_blocks;   /* all of them, to drop at its death */
    struct sim_process_object *exit_watchers; /* process handles' objects that name it */
    struct kelpie_os_exit exit;
    int64_t deadline_ns;     /* while it waits: in the machine's monotonic time; -1: none */
    uint64_t deadline_order; /* among equal ones */
    uint32_t timer_index;    /* in the machine's timers; UINT32_MAX: none */
    uint64_t priority;       /* SIM_SCHEDULE_PCT: the highest goes first */
    size_t argument_bytes;   /* of the block at argv */
    size_t environment_bytes;
    const struct sim_memory_operations *memory_operations; /* NULL: nobody can read its memory */
    uint64_t random_state[4];
    uint64_t call_count;
    void *extra; /* a guest's: cgroup, limits (guest.c) */
};

struct sim_machine {
    struct sim_world *world; /* the only pointer out of the heap; set anew when a guest is loaded */
    struct sim_heap *heap;
    struct sim_guest *guest; /* NULL: the host; set anew like `world` */
    struct sim_disk *disk;
    struct sim_listener *listeners; /* list; listener.c's, as the next one */
    uint64_t socket_next;
    struct sim_process *processes; /* list */
    struct sim_process *processes_last;
    struct sim_process *ready_first;
    struct sim_process *ready_last;
    struct sim_process *dying; /* list: to be taken away */
    bool is_burying;
    uint32_t ready_count;
    struct sim_process **timers; /* processes with a deadline: a heap, the first ends first */
    uint32_t timer_count;
    uint32_t timer_capacity;
    uint64_t timer_order;
    struct sim_object *null; /* borrowed: it clears this when it goes */
    int32_t pid_next;
    uint32_t process_count;      /* zombies too */
    int64_t wall_offset_ns;      /* wall = monotonic + this */
    int64_t monotonic_offset_ns; /* monotonic = world's now + this; a guest's stands while it is
                                    halted */
    uint64_t tsc_khz;
    uint64_t random_state[4]; /* a guest's: what all its processes draw from */
    char hostname[65];
    char boot_id[40];
};

/* The host's machine, or a guest's. `heap` is an empty heap. */
struct sim_machine *kelpie__sim_machine_create(struct sim_world *world, struct sim_heap *heap);
/* Every process ends without a word to anybody, and gives up its handles: a power loss. */
void kelpie__sim_machine_clear(struct sim_machine *machine);
/* Some process could run; when one wants to wake next, in the machine's time (-1: never). */
bool kelpie__sim_machine_is_ready(const struct sim_machine *machine);
int64_t kelpie__sim_machine_deadline(const struct sim_machine *machine);

int64_t kelpie__sim_machine_now(const struct sim_machine *machine); /* its monotonic time */

/* What `spawn` of this absolute path runs, on this machine's kind (host or guest). The path must
 * also exist as an executable file in the machine's file system. Kept by the world for all machines
 * of the kind. */
void kelpie__sim_program_add(struct sim_world *world, bool is_guest, const char *path,
                             const char *role, sim_main main, uint32_t stack_bytes);
/* NULL: not registered. */
struct sim_program;
const struct sim_program *kelpie__sim_program_find(const struct sim_world *world, bool is_guest,
                                                   const char *path);

struct sim_start {
    const char *path;
    const char *role;
    sim_main main;
    uint32_t stack_bytes;
    const char *const *argv;
    const char *const *environment;
    uint32_t uid;
    uint32_t gid;
};

/* A process without a parent: a workload's client, a guest's process 1. Handles 0, 1, 2 are
 * /dev/null-like. NULL when the machine is full. */
struct sim_process *kelpie__sim_process_start(struct sim_machine *machine,
                                              const struct sim_start *start);
/* The caller's own stack becomes a process of the host: its `wait` drives the world. At most one in
 * a world. */
struct sim_process *kelpie__sim_process_adopt(struct sim_world *world, const char *role);

static inline struct sim_process *kelpie__sim_process_of(struct kelpie_os *os) {
    struct sim_process *process = (struct sim_process *)os->context;
    KELPIE_ASSERT(process != NULL && process->os.context == process);
    return process;
}
/* A further table of the same process, whose `watch` and `wait` know nothing of the others': for a
 * program with more than one event loop. Goes with the process, or before. NULL: no memory. */
struct kelpie_os *kelpie__sim_table_create(struct sim_process *process);
void kelpie__sim_table_destroy(struct kelpie_os *os); /* takes NULL */
struct sim_process *kelpie__sim_process_find(struct sim_machine *machine,
                                             int32_t pid); /* living or zombie; NULL */
/* As kill(2), from the kernel: SIGKILL ends it here and now, SIGSTOP, SIGCONT, others by
 * disposition. When it is the running one, this returns and it ends at its next call's entry, or
 * call kelpie__sim_process_die. */
void kelpie__sim_process_signal(struct sim_process *process, int signal);
/* The running process stands still, in the middle of a call: nothing but time wakes it. */
void kelpie__sim_process_sleep(struct sim_process *process, int64_t duration_ns);
/* A process that is in `wait` becomes ready and looks again. */
void kelpie__sim_process_wake(struct sim_process *process);
/* Collects a zombie, as wait(2) does. */
void kelpie__sim_process_collect(struct sim_process *zombie);
/* Whoever waits with a deadline that is over becomes ready. */
void kelpie__sim_machine_expire(struct sim_machine *machine);
/* The running process ends now; does not return. */
_Noreturn void kelpie__sim_process_exit(struct sim_process *process, int code);

/* Puts an object (taking a reference) at the lowest free handle; -EMFILE. */
int kelpie__sim_handle_install(struct sim_process *process, struct sim_object *object);
/* Forgets its watch and gives up its object. -EBADF. */
int kelpie__sim_handle_close(struct sim_process *process, int handle);
/* The object behind a handle, or NULL. */
static inline struct sim_object *kelpie__sim_handle_object(const struct sim_process *process,
                                                           int handle) {
    bool is_known = handle >= 0 && (uint32_t)handle < process->handle_count;
    return is_known ? process->handles[handle].object : NULL;
}

/* ---- every call ------------------------------------------------------------------------------ */

/* One per operation of os.h, in its order; kelpie__sim_op_name spells them as os_fault does. */
/* clang-format off */
#define SIM_OPS(X) \
    X(now) X(cycles) X(random) X(memory) X(identity) X(environment) X(real_path) X(watch) \
    X(wait) X(wait_handle) X(spawn) X(open_process) X(signal) X(reap) X(page_map) X(read_memory) \
    X(listen) X(accept) X(connect) X(pair) X(pipe) X(peer) X(read) X(write) X(send) \
    X(receive) X(shut_write) X(close) X(label) X(open) X(pread) X(pwrite) X(truncate) \
    X(sync) X(rename) X(unlink) X(mkdir) X(list) X(stat) X(space) X(lock) X(clone_range) \
    X(memory_file) X(open_signals) X(take_signal) X(is_terminal) X(terminal_size) \
    X(set_terminal_size) X(set_terminal_raw) X(exit) X(mount) X(enter_root) \
    X(load_module) X(open_terminal) X(set_wall_clock) X(add_entropy) X(set_hostname) \
    X(make_node) X(make_link) X(reap_any) X(kill_pid) X(sync_all) X(halt) X(link_up) \
    X(link) X(lock_shared) X(next_data) X(write_memory) X(dial_host) \
    X(make_ready) X(run_ready)
/* clang-format on */

enum sim_op {
#define SIM_OP_ENUM(name) SIM_OP_##name,
    SIM_OPS(SIM_OP_ENUM)
#undef SIM_OP_ENUM
        SIM_OP_COUNT,
};

const char *kelpie__sim_op_name(enum sim_op op);

/* One call of the seam, from its entry to its end. */
struct sim_call {
    struct sim_process *process;
    enum sim_op op;
    int handle;        /* or KELPIE_OS_NO_HANDLE */
    const char *label; /* of the handle, or NULL */
    const char *path;  /* of the call, or NULL; borrowed */
    uint64_t number;   /* the world's n-th call */
    uint64_t nth;      /* the process's n-th */
    int64_t time_ns;
    uint64_t argument; /* whatever else belongs into the hash: an offset, flags; 0 at first */
    /* What a fault asks of this call (fault.h); 0 everywhere: nothing. */
    int fault_errno;       /* > 0: fail with it, do nothing */
    uint64_t fault_short;  /* > 0: move at most so many bytes */
    uint64_t fault_mutate; /* > 0: flip a bit of what was read, by this hash */
    bool fault_drop;
    bool fault_lie; /* the operation reports success, and its effect may be lost (sync) */
};

/* The entry: counts, lets others run, asks the fault plan; may never return. False: the call is to
 * end with -call->fault_errno. */
bool kelpie__sim_enter(struct sim_call *call, struct kelpie_os *os, enum sim_op op, int handle,
                       const char *path);
/* The end: hashes (time, process, op, arguments, result, data), traces. Gives the result back. */
int64_t kelpie__sim_leave(struct sim_call *call, int64_t result, const void *data, size_t count);

/* ---- the parts of a table, by file ------------------------------------------------------------
 */

/* Each fills its operations of a fresh table. os_sim.c calls all of them for each process. */
void kelpie__sim_os_fill(struct kelpie_os *os); /* os_sim.c: time, memory, wait, processes */
void kelpie__sim_os_fill_streams(
    struct kelpie_os *os); /* stream.c: streams, pipes, signals, terminals */
void kelpie__sim_os_fill_files(struct kelpie_os *os); /* disk_os.c: files */
void kelpie__sim_os_fill_guest(struct kelpie_os *os); /* guest_os.c: guests' processes only */

#endif
