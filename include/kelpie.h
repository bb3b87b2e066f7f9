/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * libkelpie: microVMs for programs. Start one, run commands in it, throw it away.
 *
 * A first program is examples/first.c.
 *
 * Words. `borrows`: used during the call only. `keeps`: used until the named event. `takes`: the
 * library's when the call succeeds, else still the caller's. `gives`: the caller releases it with
 * the named function.
 *
 * Results. Every function that can fail returns 0 or a negative KELPIE_E_* and takes, as its last
 * argument, a `struct kelpie_error *` of the caller's that may be NULL. On failure every out_
 * argument is untouched and nothing needs releasing; on success the error is untouched. Branch on
 * codes; the message is for people.
 *
 * Threads. A `struct kelpie` and all that came from it belong to one thread at a time. Two threads
 * open two, and both may attach to the same VM. The library makes no threads, installs no signal
 * handlers, lets no SIGCHLD of its own be seen, never prints or exits. A child of fork(2) opens
 * anew: there, calls with what its parent opened are MISUSE, and closing it does nothing.
 *
 * Blocking and asynchronous. A blocking call drives the event loop until its operation has ended;
 * inside a callback it is refused with KELPIE_E_MISUSE. Its twin ends in _async: a start that fails
 * never calls back, one that succeeds calls back exactly once and never before it has returned.
 * Between, call kelpie_dispatch whenever kelpie_fd is readable or kelpie_timeout_ms has passed.
 *
 * Options structures begin with `struct_size`: set it to sizeof. Zero elsewhere means the default.
 */
#ifndef KELPIE_H
#define KELPIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KELPIE_MUST_CHECK __attribute__((warn_unused_result))
#pragma GCC visibility push(default)
#else
#define KELPIE_MUST_CHECK
#endif

/* ---- errors ---------------------------------------------------------------------------------- */

enum kelpie_code {
    KELPIE_OK = 0,
    KELPIE_E_CONFIG = -1,         /* a configuration value is not valid: `field` names it */
    KELPIE_E_ROOT_NOT_FOUND = -2, /* the root file system does not exist */
    KELPIE_E_ROOT_ACCESS = -3, /* it exists but cannot be used: rights, kind, unknown file system */
    KELPIE_E_CREATE = -4,      /* the VM could not be made */
    KELPIE_E_BOOT = -5, /* the VM could not be started; the message holds the console's tail */
    KELPIE_E_BOOT_TIMEOUT = -6,    /* the guest did not say hello in time */
    KELPIE_E_STATE = -7,           /* not allowed in the VM's state; the message names both */
    KELPIE_E_ALREADY_RUNNING = -8, /* start of a VM that runs */
    KELPIE_E_CRASHED = -9,         /* the VM died; the message says of what */
    KELPIE_E_EXEC = -10,           /* the command could not be run; see also the next two */
    KELPIE_E_EXEC_TIMEOUT = -11,   /* it was killed at its timeout, which the message names */
    KELPIE_E_PAUSE = -12,
    KELPIE_E_RESUME = -13,
    KELPIE_E_SNAPSHOT = -14,
    KELPIE_E_SNAPSHOT_TOO_LARGE = -15,
    KELPIE_E_RESTORE = -16,
    KELPIE_E_SNAPSHOT_CORRUPTED = -17,
    KELPIE_E_SNAPSHOT_INCOMPATIBLE = -18, /* memory, CPUs, format ..: which, and both values */
    KELPIE_E_SHARE = -19,           /* a shared directory cannot be used; the message names it */
    KELPIE_E_TOO_MANY_SHARES = -20, /* for Kelpie, or for this backend: both numbers */
    KELPIE_E_UNAVAILABLE = -21,     /* backend or helper is missing: says what, how to get it */
    KELPIE_E_UNSUPPORTED = -22,     /* this backend cannot do it */
    KELPIE_E_CANCELLED = -23,
    KELPIE_E_NOT_FOUND = -24, /* no such VM or exec */
    KELPIE_E_EXISTS = -25,    /* the name is taken */
    KELPIE_E_LIMIT = -26,     /* a limit would be exceeded: value and limit are in the message */
    KELPIE_E_INTERNAL = -27,  /* a fault of Kelpie's own; please report it */
    KELPIE_E_IO = -28,        /* the system refused: `os_error` holds its errno value */
    KELPIE_E_PROTOCOL = -29,  /* a peer broke a rule of docs/protocol.md, which the message names */
    KELPIE_E_MISUSE = -30,  /* a call that cannot be right: NULL, wrong order, inside a callback */
    KELPIE_E_MEMORY = -31,  /* no memory */
    KELPIE_E_BUSY = -32,    /* the VM is being changed, or is about to crash; try again */
    KELPIE_E_TIMEOUT = -33, /* a deadline other than boot's and exec's passed */
    KELPIE_E_EXEC_NOT_FOUND = -34, /* there is no such command (a shell's 127) */
    KELPIE_E_EXEC_DENIED = -35,    /* it, or its interpreter, cannot be run (a shell's 126) */
    KELPIE_E_UNTRUSTED = -36, /* a snapshot that others made, and nobody said is to be trusted */
};

#define KELPIE_CODE_LAST KELPIE_E_UNTRUSTED

struct kelpie_error {
    int code;       /* enum kelpie_code */
    int os_error;   /* errno value, or 0 */
    char field[64]; /* configuration field at fault, or "" */
    /* one or more lines without a newline at the end; UTF-8; always terminated */
    char message[1976];
};

/* "KELPIE_E_CONFIG" for its value; "KELPIE_E_UNKNOWN" for a value that is none. A static string. */
const char *kelpie_code_name(int code);

/* The same call may succeed when it is made again: boot timeout, exec timeout, crashed, busy. */
bool kelpie_code_is_retriable(int code);
bool kelpie_code_requires_restart(int code);  /* kelpie_vm_start makes the VM usable: crashed */
bool kelpie_code_requires_recreate(int code); /* create it anew: snapshot corrupted, internal */

const char *kelpie_version(void); /* "0.1.0" */

/* ---- the library's handle -------------------------------------------------------------------- */

struct kelpie;
struct kelpie_config;
struct kelpie_vm;
struct kelpie_exec;
struct kelpie_operation;

enum kelpie_log_level { KELPIE_LOG_DEBUG, KELPIE_LOG_INFO, KELPIE_LOG_WARNING };

typedef void (*kelpie_log_callback)(void *context, enum kelpie_log_level level,
                                    const char *message);

struct kelpie_open_options {
    size_t struct_size;
    /* Borrows; where durable VMs live. NULL: $KELPIE_STATE_DIR, else /var/lib/kelpie (root) or
     * $XDG_STATE_HOME/kelpie, ~/.local/state/kelpie (others). "sim:seed=42": a simulated world, for
     * tests. When it is given, and the next two are not, these are its "run" and "cache". */
    const char *state_directory;
    /* borrows; NULL: /run/kelpie (root), $XDG_RUNTIME_DIR/kelpie, else state/run */
    const char *runtime_directory;
    const char *cache_directory;      /* borrows; NULL: /var/cache/kelpie, $XDG_CACHE_HOME/kelpie */
    const char *libexec_directory;    /* borrows; NULL: $KELPIE_LIBEXEC, beside the program, .. */
    kelpie_log_callback log_callback; /* keeps until kelpie_close; NULL: no log */
    void *log_context;
};

/* Opens the library: makes the directories that are missing (mode 0700), refuses those that other
 * users own or may write, and recovers VMs whose monitor died. `options` borrows, may be NULL.
 * Gives *out (kelpie_close). Errors: MISUSE, MEMORY, IO, UNSUPPORTED (a newer directory). */
KELPIE_MUST_CHECK int kelpie_open(const struct kelpie_open_options *options, struct kelpie **out,
                                  struct kelpie_error *error);

/* Closes everything that came from it: VMs are left as kelpie_vm_close says, operations end without
 * a callback, configurations are destroyed. Lists and results of commands are released before. NULL
 * is allowed. Inside a callback it does nothing. */
void kelpie_close(struct kelpie *kelpie);

/* For an event loop of the caller's: the descriptor is readable when there is something to do
 * (level-triggered, owned by the library); the timeout is -1 for none, else milliseconds until
 * kelpie_dispatch is due. Dispatch does what is due without waiting, and calls back. */
int kelpie_fd(const struct kelpie *kelpie);
int kelpie_timeout_ms(const struct kelpie *kelpie);
KELPIE_MUST_CHECK int kelpie_dispatch(struct kelpie *kelpie, struct kelpie_error *error);

/* Waits up to timeout_ms (KELPIE_TIMEOUT_NONE: without limit) for something to do, then dispatches
 * it. For programs without a loop of their own. */
KELPIE_MUST_CHECK int kelpie_wait(struct kelpie *kelpie, uint64_t timeout_ms,
                                  struct kelpie_error *error);

/* For every timeout: 0 is the default of the call, this is no timeout at all. */
#define KELPIE_TIMEOUT_NONE UINT64_MAX

/* The end of an asynchronous operation: error is NULL for success, else borrowed for the call. */
typedef void (*kelpie_done_callback)(void *context, const struct kelpie_error *error);

/* Asks an asynchronous operation to end early; its callback still comes, with CANCELLED if it was
 * in time. The handle of an operation is valid until its callback has returned. */
void kelpie_operation_cancel(struct kelpie_operation *operation);

/* ---- configuration --------------------------------------------------------------------------- */

enum kelpie_accelerator {
    KELPIE_ACCELERATOR_AUTO, /* KVM where it was seen to boot a guest on this host, else TCG */
    KELPIE_ACCELERATOR_KVM,
    KELPIE_ACCELERATOR_TCG,
};

enum kelpie_backend {
    KELPIE_BACKEND_AUTO, /* QEMU where it is installed, else libkrun; inspect says why */
    KELPIE_BACKEND_QEMU, /* everything this header has */
    KELPIE_BACKEND_KRUN, /* libkrun 1.17.0 or newer, on KVM; no snapshots (docs/backends.md) */
};

/* QEMU's, to the agent. VSOCK: the kernel's, with KVM and /dev/vhost-vsock; cannot be saved. */
enum kelpie_channel { KELPIE_CHANNEL_SERIAL, KELPIE_CHANNEL_VSOCK };

enum kelpie_lifetime {
    KELPIE_LIFETIME_OWNED,    /* ends with the connection or process that created it, in any case */
    KELPIE_LIFETIME_DETACHED, /* lives until it is stopped */
};

/* Gives *out (kelpie_config_destroy) as by default: 2 vCPUs, 512 MiB, the built-in root, owned. */
KELPIE_MUST_CHECK int kelpie_config_create(struct kelpie *kelpie, struct kelpie_config **out,
                                           struct kelpie_error *error);
void kelpie_config_destroy(struct kelpie_config *config); /* takes NULL */

/* Setters never fail: kelpie_config_check and kelpie_vm_create report all that is wrong. Texts are
 * copied. */
void kelpie_config_set_cpus(struct kelpie_config *config, uint64_t cpus);      /* 1 to 32 */
void kelpie_config_set_memory_mib(struct kelpie_config *config, uint64_t mib); /* 128 to 16,384 */
/* Root file system: NULL, the built-in busybox base; a directory, packed once and never written to;
 * or a disk image (raw or qcow2 without a backing file, holding ext4 or EROFS). */
void kelpie_config_set_root(struct kelpie_config *config, const char *path);
void kelpie_config_set_read_only(struct kelpie_config *config, bool is_read_only);
/* Size of the VM's own writable layer on disk; 0: it is in the guest's memory. */
void kelpie_config_set_disk_size_mib(struct kelpie_config *config, uint64_t disk_size_mib);
/* "NAME=value", for every command of this VM; a command's own environment wins. */
void kelpie_config_add_environment(struct kelpie_config *config, const char *assignment);
/* The guest sees the directory `host_path` at `guest_path`, which is made there; up to 16 of them.
 * `guest_path`: absolute, at most 1,024 bytes, without . and .., not in /proc, /sys or /dev, nor in
 * another one's. `tag`: its name in virtio-fs, 1 to 36 of A-Z a-z 0-9 _ . - and of one share only;
 * NULL: one is made. With `is_read_only` the guest cannot write to it. With libkrun alone, which
 * takes 4 or 5 (docs/backends.md); such a VM has no snapshots, forks and templates. Checks and
 * starts fail with CONFIG, TOO_MANY_SHARES, SHARE (it is not there, no directory, not readable, or
 * the guest could not mount it), UNSUPPORTED (QEMU), UNAVAILABLE (read-only before 1.18). */
void kelpie_config_add_share(struct kelpie_config *config, const char *host_path,
                             const char *guest_path, const char *tag, bool is_read_only);
void kelpie_config_set_working_directory(struct kelpie_config *config, const char *path);
void kelpie_config_set_kernel(struct kelpie_config *config, const char *path); /* bzImage or ELF */
void kelpie_config_set_accelerator(struct kelpie_config *config,
                                   enum kelpie_accelerator accelerator);
void kelpie_config_set_backend(struct kelpie_config *config, enum kelpie_backend backend);
void kelpie_config_set_channel(struct kelpie_config *config, enum kelpie_channel channel);
void kelpie_config_set_boot_timeout_ms(struct kelpie_config *config, uint64_t ms); /* 30,000 */
void kelpie_config_set_lifetime(struct kelpie_config *config, enum kelpie_lifetime lifetime);
/* Deleted when it ends or when its creator goes; nothing of it is synced to disk. */
void kelpie_config_set_ephemeral(struct kelpie_config *config, bool is_ephemeral);
/* Start even when the guest's memory is larger than what the host has available. */
void kelpie_config_set_overcommit(struct kelpie_config *config, bool allows_overcommit);
/* A boot that would be the same as one before starts from the template that this left: the guest
 * right after its set-up, with an identity of its own. Default: true; false: boots, leaves none. */
void kelpie_config_set_template(struct kelpie_config *config, bool uses_template);

/* The VM is made from this snapshot: its first start brings back the guest that was saved, with its
 * commands, and an identity of its own (id, host name, machine id, randomness, time of day). Later
 * starts boot it afresh, over the disk that it has by then. CPUs, memory, root, kernel, disk and
 * read-only are the snapshot's: a setter that was called and says otherwise makes kelpie_vm_create
 * fail with SNAPSHOT_INCOMPATIBLE. Its environment stands before the one given here. NULL: none. */
void kelpie_config_set_snapshot(struct kelpie_config *config, const char *name);

/* Checks every value. KELPIE_E_CONFIG when any is wrong (or the code of the only problem): the
 * error is the first problem, all of them are then read by index. */
KELPIE_MUST_CHECK int kelpie_config_check(struct kelpie_config *config, struct kelpie_error *error);
size_t kelpie_config_problem_count(const struct kelpie_config *config);
/* Borrowed until the configuration changes; NULL beyond the count. */
const struct kelpie_error *kelpie_config_problem(const struct kelpie_config *config, size_t index);

/* ---- VMs ------------------------------------------------------------------------------------- */

enum kelpie_vm_state {
    KELPIE_VM_CREATED,
    KELPIE_VM_STARTING,
    KELPIE_VM_RUNNING,
    KELPIE_VM_PAUSED,
    KELPIE_VM_STOPPED,
    KELPIE_VM_CRASHED,
};

const char *kelpie_vm_state_name(enum kelpie_vm_state state); /* "running" */

struct kelpie_vm_info {
    size_t struct_size; /* set by the caller */
    char id[33];        /* 32 hexadecimal digits */
    char name[65];
    enum kelpie_vm_state state;
    char reason[512]; /* of the state: why it ended, failed to start, or was paused; or "" */
    char backend[16]; /* "qemu", "krun", or "" before the first start */
    /* How it pauses: "vmm", no processor of the guest runs; "freezer" (cgroups(7)) and "stop"
     * (SIGSTOP), nothing of the VMM does, and the guest's clocks go on; or "" */
    char pause[8];
    char accelerator[8]; /* "kvm", "tcg", or "" before the first start */
    char accelerator_reason[256];
    char origin[16]; /* of this run: "boot", "template", "snapshot" or "pool" */
    char root[4097];
    char kernel[4097];
    uint32_t cpus;
    uint32_t memory_mib;
    uint64_t disk_size_mib;
    bool is_read_only;
    bool is_ephemeral;
    enum kelpie_lifetime lifetime;
    int64_t created_ms;  /* Unix time */
    int64_t changed_ms;  /* of the state */
    uint64_t boot_us;    /* start to the agent's answer, of the last start; 0 before */
    int32_t monitor_pid; /* 0: none */
    int32_t vmm_pid;     /* 0: none */
    /* Id of the snapshot that was taken of it last in this run, or that it was made from; or "" */
    char parent[33];
    char backend_reason[128]; /* why this backend, or "" before the first start */
    char pool[65];            /* that it waits in, or was claimed from; or "" */
    int64_t lease_end_ms;     /* Unix time; 0: it has no lease */
};

/* Makes a VM in Created. `name`: 1 to 64 of a-z 0-9 _ . - beginning with a letter or digit,
 * borrows; NULL: one is drawn, and an owned VM is ephemeral then. `config` borrows; NULL: the
 * defaults. Gives *out (kelpie_vm_close). Errors: every problem of the configuration; EXISTS, IO,
 * MEMORY, LIMIT, UNAVAILABLE, BUSY (others make and delete that name all the time); from a snapshot
 * NOT_FOUND, BUSY (it is being removed), SNAPSHOT_INCOMPATIBLE (which, and both values),
 * SNAPSHOT_CORRUPTED. Nothing is left on failure. */
KELPIE_MUST_CHECK int kelpie_vm_create(struct kelpie *kelpie, const char *name,
                                       struct kelpie_config *config, struct kelpie_vm **out,
                                       struct kelpie_error *error);

/* Attaches to a VM by name. The handle is of that VM: once it is deleted, its calls answer
 * NOT_FOUND, also when there is a new one by that name. One whose files are damaged is opened, too,
 * but nothing other than kelpie_vm_delete works. Errors: NOT_FOUND, CONFIG (no name), UNSUPPORTED
 * (a newer format), IO, MEMORY. Gives *out (kelpie_vm_close). */
KELPIE_MUST_CHECK int kelpie_vm_open(struct kelpie *kelpie, const char *name,
                                     struct kelpie_vm **out, struct kelpie_error *error);

/* Ends this attachment and its operations, which do not call back. An owned VM that this process
 * created is killed, and deleted if it is ephemeral. NULL is allowed. Its execs end as
 * kelpie_exec_close says. */
void kelpie_vm_close(struct kelpie_vm *vm);

const char *kelpie_vm_name(const struct kelpie_vm *vm); /* borrowed until kelpie_vm_close */
const char *kelpie_vm_id(const struct kelpie_vm *vm);

/* Created, Stopped, Crashed -> Running. timeout_ms 0: the configuration's; at most 3,600,000. The
 * packing of a root directory, once, is not part of it. On failure the state is the one before.
 * The first start of one made from a snapshot ends in Paused when that was taken of a paused VM.
 * Errors: BOOT, BOOT_TIMEOUT, ALREADY_RUNNING, STATE, UNAVAILABLE, ROOT_*, SHARE, LIMIT (memory),
 * CANCELLED; from a snapshot NOT_FOUND, BUSY, SNAPSHOT_CORRUPTED or _INCOMPATIBLE, RESTORE. */
KELPIE_MUST_CHECK int kelpie_vm_start(struct kelpie_vm *vm, uint64_t timeout_ms,
                                      struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_start_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                                            kelpie_done_callback callback, void *context,
                                            struct kelpie_operation **out,
                                            struct kelpie_error *error);

struct kelpie_stop_result {
    bool was_graceful; /* the guest was told and went by itself */
};

/* Running, Paused -> Stopped. The guest is asked; after timeout_ms (0: 10,000; at most 3,600,000)
 * it is killed. A paused one is resumed for that, within the same time. `out` may be NULL; the
 * asynchronous form keeps it until the callback. Errors: STATE. */
KELPIE_MUST_CHECK int kelpie_vm_stop(struct kelpie_vm *vm, uint64_t timeout_ms,
                                     struct kelpie_stop_result *out, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_stop_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                                           struct kelpie_stop_result *out_result,
                                           kelpie_done_callback callback, void *context,
                                           struct kelpie_operation **out,
                                           struct kelpie_error *error);

/* Ends it now. In any state; without effect where nothing runs. */
KELPIE_MUST_CHECK int kelpie_vm_kill(struct kelpie_vm *vm, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_kill_async(struct kelpie_vm *vm, kelpie_done_callback callback,
                                           void *context, struct kelpie_operation **out,
                                           struct kelpie_error *error);

/* Running -> Paused: no processor of the guest runs, its memory stays. Commands in it stand still,
 * and their timeouts do not count meanwhile; deadlines of this program do (kelpie_exec_wait's and
 * the like). On failure it is Running. Errors: PAUSE, STATE, BUSY (it is being paused or resumed,
 * or about to crash), UNSUPPORTED (by the backend), CRASHED. */
KELPIE_MUST_CHECK int kelpie_vm_pause(struct kelpie_vm *vm, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_pause_async(struct kelpie_vm *vm, kelpie_done_callback callback,
                                            void *context, struct kelpie_operation **out,
                                            struct kelpie_error *error);

/* Paused -> Running: the guest goes on where it was, has proved that its agent answers, and has the
 * right time of day. On failure it is Paused (a guest that did not answer within 5,000 ms is paused
 * again), and a later resume can succeed. Errors: RESUME, STATE, BUSY, CRASHED. */
KELPIE_MUST_CHECK int kelpie_vm_resume(struct kelpie_vm *vm, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_resume_async(struct kelpie_vm *vm, kelpie_done_callback callback,
                                             void *context, struct kelpie_operation **out,
                                             struct kelpie_error *error);

/* Deletes a VM that does not run; `is_forced`: kills it first. The handle stays, and is good for
 * kelpie_vm_close only. Errors: STATE, BUSY, IO. */
KELPIE_MUST_CHECK int kelpie_vm_delete(struct kelpie_vm *vm, bool is_forced,
                                       struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_delete_async(struct kelpie_vm *vm, bool is_forced,
                                             kelpie_done_callback callback, void *context,
                                             struct kelpie_operation **out,
                                             struct kelpie_error *error);

/* What is known of it; does not block. While the monitor of one that lives cannot write its state
 * (a full disk), the last one written is not told: IO. */
KELPIE_MUST_CHECK int kelpie_vm_inspect(struct kelpie_vm *vm, struct kelpie_vm_info *out,
                                        struct kelpie_error *error);

struct kelpie_share {
    size_t struct_size;    /* set by the caller */
    const char *host_path; /* this and the next two: borrowed until kelpie_vm_close */
    const char *guest_path;
    const char *tag;
    bool is_read_only;
};
/* A VM's shared directories, by index. False: there are not so many. Does not block. */
bool kelpie_vm_share(const struct kelpie_vm *vm, size_t index, struct kelpie_share *out);

/* All VMs, by name. Gives *out, an array of *out_count (kelpie_list_free); NULL when there are
 * none. Its elements keep their size for ever: a larger structure comes with a new version of this
 * symbol. A VM whose state cannot be told (files that are damaged, or old) is listed as Crashed,
 * with the reason. Does not block. */
KELPIE_MUST_CHECK int kelpie_list(struct kelpie *kelpie, struct kelpie_vm_info **out,
                                  size_t *out_count, struct kelpie_error *error);
void kelpie_list_free(struct kelpie *kelpie, struct kelpie_vm_info *list, size_t count);

/* When the last start of a VM reached its stages, in us after it was asked for; 0: not reached. A
 * restore has no kernel, agent and ready. Nothing was measured for it: its monitor was awake at
 * these moments anyway. Errors: STATE (it does not live), UNSUPPORTED (an old monitor), TIMEOUT. */
struct kelpie_stages {
    size_t struct_size;
    uint64_t vmm_us, machine_us;  /* the VMM's process is started; it says that its guest runs */
    uint64_t kernel_us, agent_us; /* the kernel keeps time; its first process runs .. */
    uint64_t ready_us, hello_us;  /* .. and has opened its port; it has answered */
    uint64_t running_us;
    uint64_t exec_us, exec_started_us, exec_ended_us; /* of a first command */
};
KELPIE_MUST_CHECK int kelpie_vm_stages(struct kelpie_vm *vm, struct kelpie_stages *out,
                                       struct kelpie_error *error);

struct kelpie_stats {
    size_t struct_size;
    bool has_guest; /* the next nine come from the guest, which must run; 0: it does not know */
    uint64_t guest_uptime_ms;
    uint64_t guest_cpu_ms;
    uint64_t guest_load1_milli;
    uint64_t guest_memory_total_kib;
    uint64_t guest_memory_available_kib;
    uint64_t guest_process_count;
    uint64_t guest_disk_total_kib; /* of its root */
    uint64_t guest_disk_used_kib;
    uint64_t exec_count; /* living */
    uint64_t host_cpu_ms;
    uint64_t host_memory_kib; /* resident, of the VMM */
    uint64_t host_disk_kib;   /* of the VM's directory */
};

/* In any state; host figures are 0 where no VMM runs. */
KELPIE_MUST_CHECK int kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *out,
                                      struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_stats_async(struct kelpie_vm *vm, struct kelpie_stats *out_stats,
                                            kelpie_done_callback callback, void *context,
                                            struct kelpie_operation **out,
                                            struct kelpie_error *error);

struct kelpie_health {
    size_t struct_size;
    bool is_healthy; /* Running and the agent answered */
    enum kelpie_vm_state state;
    uint64_t answer_us; /* the agent's; 0 when not asked */
    char detail[256];
};

/* In any state, without blocking longer than 5,000 ms (timeout_ms 0). */
KELPIE_MUST_CHECK int kelpie_vm_health(struct kelpie_vm *vm, uint64_t timeout_ms,
                                       struct kelpie_health *out, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_health_async(struct kelpie_vm *vm, uint64_t timeout_ms,
                                             struct kelpie_health *out_health,
                                             kelpie_done_callback callback, void *context,
                                             struct kelpie_operation **out,
                                             struct kelpie_error *error);

struct kelpie_event {
    int64_t time_ms;  /* Unix time */
    const char *type; /* "state", "exec_started", "exec_exited", "snapshot", "notice"; or new */
    enum kelpie_vm_state state;
    const char *detail;
};

typedef void (*kelpie_event_callback)(void *context, const struct kelpie_event *event);

/* Calls back for every event from now on, until kelpie_vm_close, across stops and starts. One
 * subscription a handle; NULL ends it. Does not block, and is allowed in callbacks. Errors: LIMIT,
 * IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie_vm_subscribe(struct kelpie_vm *vm, kelpie_event_callback callback,
                                          void *context, struct kelpie_error *error);

enum kelpie_log_kind { KELPIE_LOG_CONSOLE, KELPIE_LOG_EVENTS };
typedef void (*kelpie_bytes_callback)(void *context, const void *bytes, size_t count);

/* Hands over what is kept of a log (at most 4 MiB), oldest first. It must not close `vm`. */
KELPIE_MUST_CHECK int kelpie_vm_read_log(struct kelpie_vm *vm, enum kelpie_log_kind kind,
                                         kelpie_bytes_callback callback, void *context,
                                         struct kelpie_error *error);

/* ---- commands in a VM ------------------------------------------------------------------------ */

struct kelpie_limit {
    int32_t resource; /* RLIMIT_*, getrlimit(2) */
    uint64_t soft;
    uint64_t hard;
};

struct kelpie_exec_options {
    size_t struct_size;
    /* borrows; NULL-terminated, at least one; with the environment up to 2 MiB */
    const char *const *argv;
    /* borrows; "NAME=value", over the VM's and the guest's defaults; NULL: none */
    const char *const *environment;
    const char *working_directory; /* borrows; NULL: the VM's, else the user's home or / */
    const char *user;    /* borrows; "name" or "uid", with ":group" or ":gid"; NULL: root */
    bool has_terminal;   /* a pseudo-terminal: stderr then comes with stdout */
    uint16_t rows;       /* of the terminal; 0: 24 */
    uint16_t columns;    /* 0: 80 */
    uint64_t timeout_ms; /* 0: 60,000; while the guest runs; then it and all it started is killed */
    const struct kelpie_limit *limits; /* borrows */
    size_t limit_count;
    bool has_stdin; /* streamed only: stdin is written with kelpie_exec_write; else it is empty */
    bool keep_on_disconnect; /* goes on when this program goes; else it is killed */
    /* collected only: keeps until the call or callback; what the command reads */
    const void *stdin_bytes;
    size_t stdin_count;
    size_t output_bytes_max; /* collected only, each stream; 0: 16 MiB; then `is_truncated` */
};

enum kelpie_exec_reason {
    KELPIE_EXEC_EXITED,    /* exit_code holds its own */
    KELPIE_EXEC_SIGNALLED, /* signal ended it */
    KELPIE_EXEC_TIMED_OUT, /* it and all it started were killed at its timeout */
    KELPIE_EXEC_CANCELLED, /* killed by kelpie_exec_kill, by a cancel, or with its client */
};

struct kelpie_exec_status {
    enum kelpie_exec_reason reason;
    int exit_code; /* 0 to 255 */
    int signal;    /* 0: none */
    uint64_t wall_us;
    uint64_t cpu_us; /* with all it started */
    uint64_t peak_memory_kib;
};

struct kelpie_exec_result {
    size_t struct_size; /* set by the caller */
    struct kelpie_exec_status status;
    char *stdout_bytes; /* terminated by a zero beyond stdout_count, so that text can be printed */
    size_t stdout_count;
    char *stderr_bytes;
    size_t stderr_count;
    bool is_stdout_truncated;
    bool is_stderr_truncated;
};

/* Runs a command and collects its output. A command that ran is a success whatever its exit code;
 * at its timeout the error is EXEC_TIMEOUT. Gives what *out holds (kelpie_exec_result_release).
 * Errors: EXEC_NOT_FOUND, EXEC_DENIED, EXEC, EXEC_TIMEOUT, STATE, CRASHED, LIMIT, CANCELLED, BUSY,
 * MISUSE. The asynchronous form keeps out_result until the callback; *out (may be NULL) is borrowed
 * until then, for kelpie_exec_kill and kelpie_exec_signal. */
KELPIE_MUST_CHECK int kelpie_vm_exec(struct kelpie_vm *vm,
                                     const struct kelpie_exec_options *options,
                                     struct kelpie_exec_result *out, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_exec_async(struct kelpie_vm *vm,
                                           const struct kelpie_exec_options *options,
                                           struct kelpie_exec_result *out_result,
                                           kelpie_done_callback callback, void *context,
                                           struct kelpie_exec **out, struct kelpie_error *error);
/* Frees the bytes and zeroes them, before kelpie_close; the structure is the caller's. */
void kelpie_exec_result_release(struct kelpie_exec_result *result);

enum kelpie_stream { KELPIE_STDOUT = 1, KELPIE_STDERR = 2 };
/* All optional. None is called before kelpie_vm_exec_start has returned. */
struct kelpie_exec_callbacks {
    size_t struct_size;
    /* Output, in order within a stream. count 0: the end of that stream. */
    void (*output)(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                   const void *bytes, size_t count);
    /* kelpie_exec_write takes more, after it had taken less than it was given. */
    void (*writable)(void *context, struct kelpie_exec *exec);
    /* The end, once, after the end of both streams. error NULL: status is the command's; else
     * status is NULL and the error says why it is not known (CRASHED, PROTOCOL, IO). */
    void (*ended)(void *context, struct kelpie_exec *exec, const struct kelpie_exec_status *status,
                  const struct kelpie_error *error);
};

/* Starts a command and returns when it runs. Gives *out (kelpie_exec_close). `callbacks` borrows,
 * may be NULL. Errors: as kelpie_vm_exec. */
KELPIE_MUST_CHECK int kelpie_vm_exec_start(struct kelpie_vm *vm,
                                           const struct kelpie_exec_options *options,
                                           const struct kelpie_exec_callbacks *callbacks,
                                           void *context, struct kelpie_exec **out,
                                           struct kelpie_error *error);
/* *out is given at once and may be written to; the callback says whether it runs. */
KELPIE_MUST_CHECK int kelpie_vm_exec_start_async(struct kelpie_vm *vm,
                                                 const struct kelpie_exec_options *options,
                                                 const struct kelpie_exec_callbacks *callbacks,
                                                 void *context, kelpie_done_callback done,
                                                 struct kelpie_exec **out,
                                                 struct kelpie_error *error);

/* Attaches to a command by its id: output goes on from these absolute offsets of its streams, or
 * from the oldest byte that is kept when it is newer; stdin is accepted. Errors: NOT_FOUND, BUSY
 * (attached elsewhere), STATE, MISUSE (it has not written so much: a restore takes it back). */
KELPIE_MUST_CHECK int kelpie_vm_exec_attach(struct kelpie_vm *vm, const char *exec_id,
                                            uint64_t stdout_offset, uint64_t stderr_offset,
                                            const struct kelpie_exec_callbacks *callbacks,
                                            void *context, struct kelpie_exec **out,
                                            struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_exec_attach_async(struct kelpie_vm *vm, const char *exec_id,
                                                  uint64_t stdout_offset, uint64_t stderr_offset,
                                                  const struct kelpie_exec_callbacks *callbacks,
                                                  void *context, kelpie_done_callback done,
                                                  struct kelpie_exec **out,
                                                  struct kelpie_error *error);

struct kelpie_exec_info {
    char id[33];
    bool is_running;
    bool is_attached;
    char command[128]; /* the beginning of argv[0] */
    int64_t started_ms;
};

/* Gives *out, an array of *out_count (kelpie_exec_list_free). Ended commands are kept until their
 * end was seen by a client, at most 64 of them. */
KELPIE_MUST_CHECK int kelpie_vm_exec_list(struct kelpie_vm *vm, struct kelpie_exec_info **out,
                                          size_t *out_count, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_exec_list_async(struct kelpie_vm *vm,
                                                struct kelpie_exec_info **out_list,
                                                size_t *out_count, kelpie_done_callback callback,
                                                void *context, struct kelpie_operation **out,
                                                struct kelpie_error *error);
void kelpie_exec_list_free(struct kelpie *kelpie, struct kelpie_exec_info *list, size_t count);
/* 32 digits; "" until it runs; until kelpie_exec_close */
const char *kelpie_exec_id(const struct kelpie_exec *exec);

/* Takes what there is room for, *out_written; 0: wait for `writable`. Errors: EXEC (stdin is closed
 * or the command has ended), MISUSE. */
KELPIE_MUST_CHECK int kelpie_exec_write(struct kelpie_exec *exec, const void *bytes, size_t count,
                                        size_t *out_written, struct kelpie_error *error);
/* End of file, after what was written; with a terminal, its end-of-file character. */
KELPIE_MUST_CHECK int kelpie_exec_close_stdin(struct kelpie_exec *exec, struct kelpie_error *error);
/* To its process group. Success says that it was sent; a command that has ended is no error. */
KELPIE_MUST_CHECK int kelpie_exec_signal(struct kelpie_exec *exec, int signal,
                                         struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_exec_resize(struct kelpie_exec *exec, uint16_t rows, uint16_t columns,
                                         struct kelpie_error *error);
/* Kills it and everything it started. */
KELPIE_MUST_CHECK int kelpie_exec_kill(struct kelpie_exec *exec, struct kelpie_error *error);

/* Output callbacks stop, soon also the command's writes; resume goes on without a gap. */
void kelpie_exec_pause_output(struct kelpie_exec *exec);
void kelpie_exec_resume_output(struct kelpie_exec *exec);

/* Waits for the end. timeout_ms 0 or KELPIE_TIMEOUT_NONE: as long as the command has. Errors:
 * TIMEOUT (it runs on), CRASHED, MISUSE. */
KELPIE_MUST_CHECK int kelpie_exec_wait(struct kelpie_exec *exec, uint64_t timeout_ms,
                                       struct kelpie_exec_status *out, struct kelpie_error *error);

/* Lets go of it: it runs on whatever it was started with, and can be attached to. Frees `exec`. */
KELPIE_MUST_CHECK int kelpie_exec_detach(struct kelpie_exec *exec, struct kelpie_error *error);
/* Frees the handle; a command that still runs is killed unless keep_on_disconnect was set. NULL is
 * allowed. Allowed inside its own callbacks. */
void kelpie_exec_close(struct kelpie_exec *exec);

/* ---- snapshots ------------------------------------------------------------------------------- */

struct kelpie_snapshot_options {
    size_t struct_size;
    const char *name;  /* borrows; rules as for VMs; NULL: one is made of the VM's */
    const char *label; /* borrows; for people, at most 255 bytes; NULL: none */
    bool stops_vm;     /* the VM ends in Stopped, without being shut down */
    /* Survives the host's crash although its VM is ephemeral; a durable VM's always does, */
    bool is_synced;
    bool is_unsynced; /* but for this: quick, and gone or damaged after such a crash */
};

struct kelpie_snapshot_result {
    size_t struct_size; /* set by the caller */
    char id[33];
    char name[65];
    uint64_t stored_bytes; /* on the disk, of its own */
    uint64_t pause_us;     /* that the guest stood still; 0: it was paused, or was to end */
};

/* Saves a Running or Paused VM: memory, devices and disk at one moment, with the commands that run
 * in it. The VM goes on as it was, after a pause of milliseconds; all else takes its time while it
 * runs. The snapshot is the VM's no more: it stays when that is deleted. On failure nothing of it
 * is left, and the VM is as it was. A program that goes meanwhile does not end it. `options`
 * borrows, may be NULL; `out` may be NULL, the asynchronous form keeps it until the callback.
 * Errors: STATE, BUSY (one at a time; being paused or resumed), EXISTS, LIMIT (space, layers of the
 * disk), SNAPSHOT, SNAPSHOT_TOO_LARGE, RESUME (the VM could not go on and is Paused), UNSUPPORTED,
 * IO, CRASHED, TIMEOUT, CANCELLED. */
KELPIE_MUST_CHECK int kelpie_vm_snapshot(struct kelpie_vm *vm,
                                         const struct kelpie_snapshot_options *options,
                                         struct kelpie_snapshot_result *out,
                                         struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_snapshot_async(struct kelpie_vm *vm,
                                               const struct kelpie_snapshot_options *options,
                                               struct kelpie_snapshot_result *out_result,
                                               kelpie_done_callback callback, void *context,
                                               struct kelpie_operation **out,
                                               struct kelpie_error *error);

/* Makes the VM what it was when the snapshot was taken, of it or of another like it: memory,
 * devices, disk, commands. In every state but Starting; -> Running, or Paused when it was taken of
 * a paused one. The identity stays this VM's. All is verified, and the restored guest has proved
 * that it is the one that was saved, before what runs now ends; on failure that goes on as if
 * nothing had been, after standing still for a moment. On success its commands end with CANCELLED,
 * and those of the snapshot can be attached to. `timeout_ms` 0: the boot timeout, counted from the
 * end of the verification. Errors: STATE, BUSY, NOT_FOUND, SNAPSHOT_CORRUPTED,
 * SNAPSHOT_INCOMPATIBLE, RESTORE, RESUME (it failed, and what ran could not go on: it is Paused),
 * CRASHED (what runs now died meanwhile), LIMIT, UNSUPPORTED, UNAVAILABLE, CANCELLED. */
KELPIE_MUST_CHECK int kelpie_vm_restore(struct kelpie_vm *vm, const char *snapshot,
                                        uint64_t timeout_ms, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_restore_async(struct kelpie_vm *vm, const char *snapshot,
                                              uint64_t timeout_ms, kelpie_done_callback callback,
                                              void *context, struct kelpie_operation **out,
                                              struct kelpie_error *error);

/* Makes `count` VMs (1 to 64) from a snapshot, or from a VM as it is now, and starts all of them at
 * once; returns when all have arrived. `names` borrows, as in kelpie_vm_create; NULL: drawn.
 * `config` borrows: what kelpie_config_set_snapshot leaves to the caller (lifetime, ephemeral,
 * environment, ..); NULL: the defaults, owned VMs. Gives `count` handles in `out`
 * (kelpie_vm_close). A VM that is forked goes on after a pause of milliseconds; a Paused one stays
 * so, and its forks are Paused. The snapshot between is removed when they no longer need it. On
 * failure no VM is left (one whose monitor stands still: when that goes on). Errors: those of
 * kelpie_vm_snapshot, kelpie_vm_create and kelpie_vm_start; LIMIT. */
KELPIE_MUST_CHECK int kelpie_vm_fork(struct kelpie_vm *vm, const struct kelpie_config *config,
                                     const char *const *names, size_t count, struct kelpie_vm **out,
                                     struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_snapshot_fork(struct kelpie *kelpie, const char *snapshot,
                                           const struct kelpie_config *config,
                                           const char *const *names, size_t count,
                                           struct kelpie_vm **out, struct kelpie_error *error);

/* The same, going on in the loop: `out_vms` keeps `count` handles until the callback, and is filled
 * before that says that all have arrived. On failure, of whatever step, the callback comes when no
 * VM is left. kelpie_operation_cancel gives it up. When `vm` is closed before, it ends without a
 * callback: owned VMs go, detached ones stay. */
KELPIE_MUST_CHECK int kelpie_vm_fork_async(struct kelpie_vm *vm, const struct kelpie_config *config,
                                           const char *const *names, size_t count,
                                           struct kelpie_vm **out_vms,
                                           kelpie_done_callback callback, void *context,
                                           struct kelpie_operation **out,
                                           struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_snapshot_fork_async(struct kelpie *kelpie, const char *snapshot,
                                                 const struct kelpie_config *config,
                                                 const char *const *names, size_t count,
                                                 struct kelpie_vm **out_vms,
                                                 kelpie_done_callback callback, void *context,
                                                 struct kelpie_operation **out,
                                                 struct kelpie_error *error);

/* Starts the VMMs of `count` more forks of this VM in advance (64 at most wait); they wait over
 * what its memory lies over. Forks that kelpie_vm_fork makes with this handle, without a
 * configuration and without a name, take them, which saves them the VMM's start, a third of their
 * time; what is made beyond that, and where one has died or does not fit any more (the VM has
 * changed a quarter of its memory), is made as ever. Each is an owned VM in the state Created,
 * takes some 20 MiB, and ends with the handle, with this process, and with the run of the VM.
 * Returns when all wait. Errors: STATE (it does not run), UNSUPPORTED (it was booted, or has disks:
 * only what came from a template or a snapshot lies over anything, and layers of disks are known
 * with the fork only), LIMIT, RESTORE, those of kelpie_vm_create. On failure none waits. */
KELPIE_MUST_CHECK int kelpie_vm_prepare_forks(struct kelpie_vm *vm, size_t count,
                                              struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_prepare_forks_async(struct kelpie_vm *vm, size_t count,
                                                    kelpie_done_callback callback, void *context,
                                                    struct kelpie_operation **out,
                                                    struct kelpie_error *error);

struct kelpie_snapshot_info {
    size_t struct_size; /* set by the caller */
    char id[33];
    char name[65];
    char label[256];
    char vm_id[33]; /* of the VM that was saved */
    char vm_name[65];
    /* Id of the snapshot before it: the last one of its VM since that was started, else the one
     * that its VM was made from; "": its VM was booted. */
    char parent[33];
    int64_t created_ms; /* Unix time */
    char kind[16];      /* "full" */
    char architecture[16];
    char backend[16];
    char vmm_version[32];
    char machine[64];
    char cpu[64];
    char accelerator[8];
    char kernel_digest[33];
    char checksum[33]; /* of the checksums of all its files */
    uint32_t format;
    uint32_t cpus;
    uint32_t memory_mib;
    uint32_t disk_count;
    uint32_t file_count;
    uint64_t tsc_khz;      /* of the guest, under TCG */
    uint64_t page_count;   /* of memory, in it */
    uint64_t size_bytes;   /* of all its files, with their holes */
    uint64_t stored_bytes; /* on the disk, without what it shares with others */
    bool is_paused;        /* its VM was */
    bool has_base;         /* its memory lies over another's, which it shares */
    bool is_damaged;       /* nothing else is known but the name; `problem` says why */
    char problem[512];
};

/* All snapshots, the oldest first; as kelpie_list (kelpie_snapshot_list_free). */
KELPIE_MUST_CHECK int kelpie_snapshot_list(struct kelpie *kelpie, struct kelpie_snapshot_info **out,
                                           size_t *out_count, struct kelpie_error *error);
void kelpie_snapshot_list_free(struct kelpie *kelpie, struct kelpie_snapshot_info *list,
                               size_t count);
/* Errors: NOT_FOUND, SNAPSHOT_CORRUPTED, SNAPSHOT_INCOMPATIBLE (a newer format), IO. */
KELPIE_MUST_CHECK int kelpie_snapshot_inspect(struct kelpie *kelpie, const char *name,
                                              struct kelpie_snapshot_info *out,
                                              struct kelpie_error *error);
/* Compares every byte of it with its checksums, which takes its time. Errors: SNAPSHOT_CORRUPTED
 * (the message names file and place), NOT_FOUND, SNAPSHOT_INCOMPATIBLE, IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie_snapshot_verify(struct kelpie *kelpie, const char *name,
                                             struct kelpie_error *error);
/* Others that share files with it keep theirs. A damaged one can be removed. Errors: NOT_FOUND,
 * BUSY (a VM that was made from it lives), IO. */
KELPIE_MUST_CHECK int kelpie_snapshot_remove(struct kelpie *kelpie, const char *name,
                                             struct kelpie_error *error);

/* Writes a snapshot as one stream to `fd` (borrows; a file, pipe or socket, blocking or not), for
 * kelpie_snapshot_import on this machine or another. Holes are not sent. It is compared with its
 * checksums first. Drives this handle's loop while `fd` is not ready, and returns at the end of the
 * stream. A reader that goes away raises SIGPIPE in this process, unless that is ignored. What was
 * written before a failure is refused by every import. Errors: NOT_FOUND, BUSY, SNAPSHOT_CORRUPTED,
 * SNAPSHOT_INCOMPATIBLE, IO, MEMORY, UNSUPPORTED (in a simulated world). */
KELPIE_MUST_CHECK int kelpie_snapshot_export(struct kelpie *kelpie, const char *name, int fd,
                                             struct kelpie_error *error);

struct kelpie_snapshot_import_options {
    size_t struct_size;
    const char *name; /* borrows; NULL: the one that it had */
    /* One that this state directory did not export is taken, too. It is a machine that goes on
     * running what its maker left in it, and devices' state that the VMM parses: the checks find
     * damage and what could not have been written by Kelpie, not intentions. */
    bool is_trusted;
    bool is_unsynced; /* quick, and gone or damaged after the host's crash */
};

/* Reads such a stream from `fd` (borrows; as above), not a byte beyond its end, and makes a
 * snapshot of it: all of it is looked at, and it is whole and listed or nothing of it is left.
 * `options` borrows, may be NULL; `out` may be NULL. Errors: UNTRUSTED, SNAPSHOT_CORRUPTED (no such
 * stream; damaged, cut, or of a snapshot that could not be), SNAPSHOT_INCOMPATIBLE (a newer
 * format), EXISTS, CONFIG (the name), LIMIT (space), IO, MEMORY, UNSUPPORTED. */
KELPIE_MUST_CHECK int kelpie_snapshot_import(struct kelpie *kelpie, int fd,
                                             const struct kelpie_snapshot_import_options *options,
                                             struct kelpie_snapshot_info *out,
                                             struct kelpie_error *error);

/* ---- pools ----------------------------------------------------------------------------------- */

/* A pool holds VMs that have been started, have run a first command, and stand still until somebody
 * claims one, which takes milliseconds. A process of its own keeps it full: who claims never does
 * that work. A member is claimed once and never goes back. */
struct kelpie_pool;

struct kelpie_pool_options {
    size_t struct_size;
    uint32_t size; /* members that wait: 1 to 256 */
    /* Members that are made at once, 1 to 16; 0: 1. They stand back behind all other work where the
     * kernel has autogroups. */
    uint32_t concurrency;
    /* OWNED: the pool is removed when it is closed or its creator's process ends, for whatever
     * reason. DETACHED: it stays, also over the host's next boot. */
    enum kelpie_lifetime lifetime;
    uint64_t timeout_ms; /* of the first member; 0: the configuration's boot timeout */
};

/* Makes a pool of VMs of this configuration (its lifetime and ephemeral do not count) and returns
 * when the first member waits, so that whatever is wrong with the configuration is told here. The
 * others follow. `name` borrows, rules as for VMs; NULL: one is drawn. `config` borrows, may be
 * NULL. Gives *out (kelpie_pool_close). Errors: every problem of the configuration; EXISTS; LIMIT
 * (size, concurrency, or all members together need more memory than the host has: both values, and
 * the way out); those of kelpie_vm_create and kelpie_vm_start for the first member; TIMEOUT;
 * NOT_FOUND (it was removed before that waited). Nothing is left on failure. */
KELPIE_MUST_CHECK int kelpie_pool_create(struct kelpie *kelpie, const char *name,
                                         struct kelpie_config *config,
                                         const struct kelpie_pool_options *options,
                                         struct kelpie_pool **out, struct kelpie_error *error);
/* Gives *out (kelpie_pool_close), of which nobody is the owner. When the keeper has died, it is
 * started again here, and by every call below. Errors: NOT_FOUND, UNSUPPORTED (a newer format), IO,
 * MEMORY. */
KELPIE_MUST_CHECK int kelpie_pool_open(struct kelpie *kelpie, const char *name,
                                       struct kelpie_pool **out, struct kelpie_error *error);
/* Removes an owned pool that was created with this handle. NULL is allowed. */
void kelpie_pool_close(struct kelpie_pool *pool);
const char *kelpie_pool_name(const struct kelpie_pool *pool); /* borrowed until kelpie_pool_close */

struct kelpie_claim_options {
    size_t struct_size;
    enum kelpie_lifetime lifetime; /* of the VM, from now on */
    /* The VM is killed and deleted so long from now, unless kelpie_vm_set_lease says otherwise
     * before; 0: none. 100 ms to a year. */
    uint64_t lease_ms;
    /* While no member waits: 0: a VM is made here and now, as kelpie_vm_create and kelpie_vm_start
     * do; else one is waited for so long, or without limit (KELPIE_TIMEOUT_NONE). */
    uint64_t wait_ms;
};

/* Takes a member, which is this caller's alone: of two that claim one at once, in whatever
 * processes, one gets another. It runs, has an id, a name, a host name and a machine id that nobody
 * has seen, fresh randomness and the right time of day; it is ephemeral. A member that turns out to
 * be dead costs a moment, not the claim. `options` borrows; NULL: owned, no lease, no wait. Gives
 * *out (kelpie_vm_close). Errors: NOT_FOUND (the pool was removed), TIMEOUT (none came within
 * wait_ms; the message says why none could be made), LIMIT (lease); those of kelpie_vm_create and
 * kelpie_vm_start when one was made. */
KELPIE_MUST_CHECK int kelpie_pool_claim(struct kelpie_pool *pool,
                                        const struct kelpie_claim_options *options,
                                        struct kelpie_vm **out, struct kelpie_error *error);

/* The same, going on in the loop. `out_vm` keeps until the callback, and is filled before that says
 * success. kelpie_operation_cancel gives it up: CANCELLED, unless a VM was about to be given. When
 * the pool's handle is closed before, it ends without a callback. */
KELPIE_MUST_CHECK int kelpie_pool_claim_async(struct kelpie_pool *pool,
                                              const struct kelpie_claim_options *options,
                                              struct kelpie_vm **out_vm,
                                              kelpie_done_callback callback, void *context,
                                              struct kelpie_operation **out,
                                              struct kelpie_error *error);

struct kelpie_pool_info {
    size_t struct_size; /* set by the caller */
    char id[33];
    char name[65];
    enum kelpie_lifetime lifetime;
    uint32_t size;
    uint32_t concurrency;
    uint32_t ready_count;  /* members that wait */
    uint32_t making_count; /* members that are being made */
    uint32_t cpus;
    uint32_t memory_mib;
    char root[4097];
    char snapshot[65];      /* that members are made from; or "" */
    int64_t created_ms;     /* Unix time */
    int32_t keeper_pid;     /* 0: none is known */
    uint64_t made_count;    /* members, by this keeper */
    uint64_t failure_count; /* members that could not be made, by this keeper */
    char problem[512];      /* why the last one could not be made, when none was since; or "" */
};

KELPIE_MUST_CHECK int kelpie_pool_inspect(struct kelpie_pool *pool, struct kelpie_pool_info *out,
                                          struct kelpie_error *error);
/* Ends the keeper and all members that wait, and removes the pool. VMs that were claimed live on.
 * The handle stays, and is good for kelpie_pool_close only. Errors: NOT_FOUND (somebody was
 * quicker), IO, BUSY (its keeper does not end; whoever opens the library next goes on). */
KELPIE_MUST_CHECK int kelpie_pool_remove(struct kelpie_pool *pool, struct kelpie_error *error);
/* All pools, by name; as kelpie_list (kelpie_pool_list_free). A damaged one has a problem. */
KELPIE_MUST_CHECK int kelpie_pool_list(struct kelpie *kelpie, struct kelpie_pool_info **out,
                                       size_t *out_count, struct kelpie_error *error);
void kelpie_pool_list_free(struct kelpie *kelpie, struct kelpie_pool_info *list, size_t count);

/* Any VM that runs or is paused is killed, and deleted if it is ephemeral, lease_ms from now,
 * unless this is called again before. 0: it has no lease from here on. 100 ms to a year. Errors:
 * LIMIT, STATE, NOT_FOUND, CRASHED. */
KELPIE_MUST_CHECK int kelpie_vm_set_lease(struct kelpie_vm *vm, uint64_t lease_ms,
                                          struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie_vm_set_lease_async(struct kelpie_vm *vm, uint64_t lease_ms,
                                                kelpie_done_callback callback, void *context,
                                                struct kelpie_operation **out,
                                                struct kelpie_error *error);

/* ---- tidying up ------------------------------------------------------------------------------ */

struct kelpie_prune_options {
    size_t struct_size;
    /* Templates that were not used for so long; 0: for 30 days, and more of them than Kelpie keeps
     * by itself (docs/templates.md). */
    uint64_t template_age_ms;
    bool is_all;   /* every template that no VM uses */
    bool is_trial; /* no template is removed: what would be is counted */
};

struct kelpie_prune_result {
    size_t struct_size; /* set by the caller */
    uint32_t template_count;
    uint64_t template_bytes; /* on the disk; so below */
    /* What dead processes left: unfinished snapshots and templates, those of forks, VMs without a
     * monitor to keep them. Most was removed by kelpie_open, and is counted here for once. */
    uint32_t leftover_count;
    uint64_t leftover_bytes;
};

/* Removes what is of no use any more. `options` NULL: the defaults; `out` may be NULL. A template
 * that a VM uses stays. Errors: MISUSE, IO. */
KELPIE_MUST_CHECK int kelpie_prune(struct kelpie *kelpie,
                                   const struct kelpie_prune_options *options,
                                   struct kelpie_prune_result *out, struct kelpie_error *error);

/* ---- the host -------------------------------------------------------------------------------- */

enum kelpie_check_status { KELPIE_CHECK_OK, KELPIE_CHECK_WARNING, KELPIE_CHECK_FAILED };

struct kelpie_check {
    /* "qemu", "kernel", "kvm", "vsock", "libkrun", "directories", "space", "helpers", "forks" */
    const char *name;
    enum kelpie_check_status status;
    const char *detail; /* what was found */
    const char *remedy; /* the command that mends it, or "" */
};

typedef void (*kelpie_check_callback)(void *context, const struct kelpie_check *check);

/* Calls back for each need of this host; `tries_kvm`: boots guests, false: tells what is known. */
KELPIE_MUST_CHECK int kelpie_doctor(struct kelpie *kelpie, bool tries_kvm,
                                    kelpie_check_callback callback, void *context,
                                    struct kelpie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
