/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The operating-system seam: everything nondeterministic that Kelpie needs passes through one
 * `struct kelpie_os`. os_linux*.c is the real system, os_fault.c wraps any table and applies a
 * fault plan, the simulator is a third one. Callers use the kelpie__os_* wrappers of os.c, which
 * assert; nobody else touches the table or the system.
 *
 * Conventions. A result is >= 0, or a negative errno value (-EAGAIN). A handle is a small
 * non-negative int, close-on-exec, non-blocking where that has a meaning; on Linux it is a
 * descriptor. Only `wait` may sleep. Semantics are Linux's.
 */
#ifndef KELPIE_OS_OS_H
#define KELPIE_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KELPIE_OS_NO_HANDLE (-1)
#define KELPIE_OS_SPAWN_HANDLES_MAX 16u /* passed to one child */
/* as a directory handle: paths are relative to the working directory (AT_FDCWD) */
#define KELPIE_OS_CWD (-100)

enum kelpie_os_clock {
    KELPIE_OS_CLOCK_MONOTONIC, /* deadlines */
    KELPIE_OS_CLOCK_WALL,      /* CLOCK_REALTIME, Unix ns: for people and file names only */
    KELPIE_OS_CLOCK_RAW,       /* CLOCK_MONOTONIC_RAW: measures the TSC */
};

enum kelpie_os_event_bits {
    KELPIE_OS_READABLE = 1,
    KELPIE_OS_WRITABLE = 2,
    KELPIE_OS_HANGUP = 4, /* EPOLLHUP or EPOLLERR; always reported */
};

struct kelpie_os_event {
    uint64_t cookie;
    uint32_t bits;
};

struct kelpie_os_identity {
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
};

struct kelpie_os_exit {
    bool is_signalled;
    int32_t value; /* exit code, or signal number */
    uint64_t cpu_user_us;
    uint64_t cpu_system_us;
    uint64_t peak_memory_kib;
};

struct kelpie_os_limit {
    int32_t resource; /* RLIMIT_* */
    uint64_t soft;
    uint64_t hard;
};

enum kelpie_os_spawn_flags {
    /* PR_SET_PDEATHSIG(SIGKILL), the race with an early death closed */
    KELPIE_OS_SPAWN_DIE_WITH_PARENT = 1,
    KELPIE_OS_SPAWN_NEW_SESSION = 2,
    KELPIE_OS_SPAWN_NO_NEW_PRIVILEGES = 4,
    /* the child is never seen by any wait() of this process; no handle is given */
    KELPIE_OS_SPAWN_ORPHAN = 8,
    KELPIE_OS_SPAWN_CONTROLLING_TERMINAL = 16, /* handles[0] becomes it; needs NEW_SESSION */
    KELPIE_OS_SPAWN_CREDENTIALS = 32,          /* apply uid, gid, groups */
    KELPIE_OS_SPAWN_SEARCH_PATH = 64, /* path without a slash is looked up in the child's PATH */
};

struct kelpie_os_spawn {
    const char *path;
    const char *const *argv;        /* NULL-terminated */
    const char *const *environment; /* NULL-terminated; NULL: this process's */
    const char *directory;          /* NULL: unchanged */
    /* child's descriptor i is handles[i]; KELPIE_OS_NO_HANDLE: /dev/null. All others closed; 0 to 2
     * blocking */
    const int *handles;
    uint32_t handle_count;
    uint32_t flags;
    uint32_t uid;
    uint32_t gid;
    const uint32_t *groups;
    uint32_t group_count;
    const struct kelpie_os_limit *limits;
    uint32_t limit_count;
    int cgroup; /* directory handle of a cgroup v2 to be born in, or KELPIE_OS_NO_HANDLE */
};

enum kelpie_os_open_flags {
    KELPIE_OS_OPEN_READ = 1,
    KELPIE_OS_OPEN_WRITE = 2,
    KELPIE_OS_OPEN_CREATE = 4,
    KELPIE_OS_OPEN_EXCLUSIVE = 8,
    KELPIE_OS_OPEN_TRUNCATE = 16,
    KELPIE_OS_OPEN_APPEND = 32,
    KELPIE_OS_OPEN_DIRECTORY = 64,
    /* without it a symbolic link as last component is refused (O_NOFOLLOW) */
    KELPIE_OS_OPEN_FOLLOW = 128,
    KELPIE_OS_OPEN_NO_TTY = 256,
};

enum kelpie_os_kind {
    KELPIE_OS_KIND_FILE,
    KELPIE_OS_KIND_DIRECTORY,
    KELPIE_OS_KIND_LINK,
    KELPIE_OS_KIND_SOCKET,
    KELPIE_OS_KIND_OTHER,
};

struct kelpie_os_stat {
    enum kelpie_os_kind kind;
    uint32_t mode; /* permission bits */
    uint32_t uid;
    uint32_t gid;
    uint64_t device;
    uint64_t inode;
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    int64_t modified_ns;
    int64_t changed_ns;
};

struct kelpie_os_space {
    uint64_t available_bytes;
    uint64_t total_bytes;
    bool is_read_only;
};

struct kelpie_os_peer {
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
};

struct kelpie_mark;

/* What only a guest's PID 1 does. NULL in a table that serves a host. */
struct kelpie_os;
struct kelpie_os_guest {
    int (*mount)(struct kelpie_os *, const char *source, const char *target, const char *type,
                 uint64_t flags, const char *data); /* flags: MS_* */
    /* moves the mount at `path` over / and chroots into it */
    int (*enter_root)(struct kelpie_os *, const char *path);
    int (*load_module)(struct kelpie_os *, int file, const char *parameters);
    int (*open_terminal)(struct kelpie_os *, int *out_master, int *out_slave, uint16_t rows,
                         uint16_t columns);
    int (*set_wall_clock)(struct kelpie_os *, int64_t unix_ns);
    /* credited and reseeded */
    int (*add_entropy)(struct kelpie_os *, const void *bytes, size_t count);
    int (*set_hostname)(struct kelpie_os *, const char *name);
    int (*make_node)(struct kelpie_os *, const char *path, uint32_t mode, uint32_t major,
                     uint32_t minor);
    int (*make_link)(struct kelpie_os *, const char *target, const char *path);
    /* -EAGAIN, -ECHILD */
    int (*reap_any)(struct kelpie_os *, int32_t *out_pid, struct kelpie_os_exit *out_exit);
    /* negative pid: group; -1: all but us */
    int (*kill_pid)(struct kelpie_os *, int32_t pid, int signal);
    /* A child that has its handles and its cgroup, and waits to be given a program: nothing else of
     * `spawn` is looked at. Nothing is there when it fails; -ENOSYS: spawn must do. One at a time.
     */
    int (*make_ready)(struct kelpie_os *, const struct kelpie_os_spawn *, int32_t *out_pid);
    /* As spawn, by that child, which has its handles already: handles[0] of KELPIE_OS_NO_HANDLE
     * puts /dev/null in the place of its standard input. Without a session's terminal, and without
     * a handle of the process. Whatever comes of it, it waits no more. -ESRCH: it had ended, or did
     * not hear; nothing has happened. */
    int (*run_ready)(struct kelpie_os *, int32_t pid, const struct kelpie_os_spawn *,
                     const char **out_step);
    int (*sync_all)(struct kelpie_os *);
    /* false: reboot; does not return when it works */
    int (*halt)(struct kelpie_os *, bool is_power_off);
    int (*link_up)(struct kelpie_os *, const char *interface);
    /* a stream to the host over vsock: writable when connected; else hung up, and a read says why
     */
    int (*dial_host)(struct kelpie_os *, uint32_t port);
};

/* What only the devices of a real host do. NULL in a simulated one, whose devices all answer. */
struct kelpie_os_host {
    /* A vhost-vsock device, for a VMM, that holds this CID until it is closed: -EADDRINUSE when
     * another guest has it. */
    int (*claim_guest)(struct kelpie_os *, uint32_t cid);
    /* listens on a vsock port of the system's choice */
    int (*listen_guests)(struct kelpie_os *, uint32_t *out_port);
    /* the CID that a stream which was accepted there comes from */
    int (*guest_of)(struct kelpie_os *, int stream, uint32_t *out_cid);
    /* waits until an open of it was answered, whatever the answer: 0, or -ETIMEDOUT */
    int (*device_answers)(struct kelpie_os *, const char *path, uint32_t timeout_ms);
};

struct kelpie_os {
    void *context;
    const struct kelpie_os_guest *guest;
    const struct kelpie_os_host *host;

    int64_t (*now)(struct kelpie_os *, enum kelpie_os_clock); /* ns */
    uint64_t (*cycles)(struct kelpie_os *);                   /* the TSC; 0 where there is none */
    int (*random)(struct kelpie_os *, void *out, size_t count);
    /* as realloc: what is new in a block is anything; new 0 frees; old_bytes must be true */
    void *(*memory)(struct kelpie_os *, void *old, size_t old_bytes, size_t new_bytes);
    int (*identity)(struct kelpie_os *, struct kelpie_os_identity *out);
    /* borrowed until the process ends; or NULL */
    const char *(*environment)(struct kelpie_os *, const char *name);
    /* absolute, links resolved */
    int (*real_path)(struct kelpie_os *, const char *path, char *out, size_t capacity);

    /* bits 0: forget it */
    int (*watch)(struct kelpie_os *, int handle, uint32_t bits, uint64_t cookie);
    /* <0: for ever */
    int (*wait)(struct kelpie_os *, struct kelpie_os_event *out, uint32_t max, int64_t deadline_ns);
    int (*wait_handle)(struct kelpie_os *); /* readable when `wait` has something; borrowed */

    /* out_step: what failed ("exec", "chdir", ...), a static string */
    int (*spawn)(struct kelpie_os *, const struct kelpie_os_spawn *, int *out_process,
                 int32_t *out_pid, const char **out_step);
    /* a handle that is readable when it ends */
    int (*open_process)(struct kelpie_os *, int32_t pid);
    int (*signal)(struct kelpie_os *, int process, int signal);
    /* -EAGAIN while it lives */
    int (*reap)(struct kelpie_os *, int process, struct kelpie_os_exit *out);
    /* of each page a bit, from the lowest of the first byte on: whether it is the process's own and
     * not a file's */
    int (*page_map)(struct kelpie_os *, int32_t pid, uint64_t address, uint8_t *out_bits,
                    size_t page_count);
    /* of a process that we may trace; a part when the rest is not mapped, -EFAULT when nothing is
     */
    int64_t (*read_memory)(struct kelpie_os *, int32_t pid, uint64_t address, void *out,
                           size_t count);
    int64_t (*write_memory)(struct kelpie_os *, int32_t pid, uint64_t address, const void *bytes,
                            size_t count);

    int (*listen)(struct kelpie_os *, int directory, const char *name, int backlog);
    int (*accept)(struct kelpie_os *, int listener);
    int (*connect)(struct kelpie_os *, int directory, const char *name);
    int (*pair)(struct kelpie_os *, int out[2]); /* unix stream */
    int (*pipe)(struct kelpie_os *, int out[2]); /* [0] read end, [1] write end */
    int (*peer)(struct kelpie_os *, int stream, struct kelpie_os_peer *out);
    int64_t (*read)(struct kelpie_os *, int handle, void *out, size_t count); /* 0: end of stream */
    int64_t (*write)(struct kelpie_os *, int handle, const void *bytes, size_t count);
    int64_t (*send)(struct kelpie_os *, int stream, const void *bytes, size_t count,
                    const int *handles, uint32_t n);
    int64_t (*receive)(struct kelpie_os *, int stream, void *out, size_t count, int *handles,
                       uint32_t *inout_n);
    int (*shut_write)(struct kelpie_os *, int stream);
    int (*close)(struct kelpie_os *, int handle);
    /* "qmp", "agent": a static string by which a fault plan or a trace names the handle */
    void (*label)(struct kelpie_os *, int handle, const char *label);

    int (*open)(struct kelpie_os *, int directory, const char *path, uint32_t flags, uint32_t mode);
    int64_t (*pread)(struct kelpie_os *, int file, void *out, size_t count, uint64_t offset);
    int64_t (*pwrite)(struct kelpie_os *, int file, const void *bytes, size_t count,
                      uint64_t offset);
    int (*truncate)(struct kelpie_os *, int file, uint64_t size_bytes);
    int (*sync)(struct kelpie_os *, int file_or_directory);
    int (*rename)(struct kelpie_os *, int from_dir, const char *from, int to_dir, const char *to,
                  bool may_replace);
    int (*unlink)(struct kelpie_os *, int directory, const char *name, bool is_directory);
    /* Another name for an open file that still has one: -EEXIST, -EXDEV (another file system: copy
     * it), -ENOENT (it has no name left), -EMLINK. */
    int (*link)(struct kelpie_os *, int file, int directory, const char *name);
    int (*mkdir)(struct kelpie_os *, int directory, const char *name, uint32_t mode);
    /* 1, 0 end */
    int (*list)(struct kelpie_os *, int directory, uint64_t *inout_cursor, char *out_name,
                size_t capacity);
    int (*stat)(struct kelpie_os *, int directory, const char *path, bool follow,
                struct kelpie_os_stat *out);
    int (*space)(struct kelpie_os *, int handle, struct kelpie_os_space *out);
    int (*lock)(struct kelpie_os *, int file); /* exclusive, -EAGAIN when taken, until close */
    /* with others that share it; on a handle that holds the other kind: changes to this one, and is
     * not atomic (-EAGAIN: none is held) */
    int (*lock_shared)(struct kelpie_os *, int file);
    int (*clone_range)(struct kelpie_os *, int from, uint64_t from_offset, int to,
                       uint64_t to_offset, uint64_t count);
    /* 1: the first range at or after `offset` that may hold anything but zeros. 0: there is none. A
     * system without holes names all that is left. */
    int (*next_data)(struct kelpie_os *, int file, uint64_t offset, uint64_t *out_start,
                     uint64_t *out_end);
    int (*memory_file)(struct kelpie_os *, const char *name, uint64_t size_bytes);

    /* blocks them, but for those that are ignored; read by take_signal */
    int (*open_signals)(struct kelpie_os *, const int *signals, uint32_t count);
    int (*take_signal)(struct kelpie_os *, int handle); /* the number, or -EAGAIN */
    int (*is_terminal)(struct kelpie_os *, int handle); /* 1 or 0 */
    int (*terminal_size)(struct kelpie_os *, int handle, uint16_t *out_rows, uint16_t *out_columns);
    int (*set_terminal_size)(struct kelpie_os *, int handle, uint16_t rows, uint16_t columns);
    /* false: back to what it was */
    int (*set_terminal_raw)(struct kelpie_os *, int handle, bool is_raw);
#ifdef KELPIE_SIMULATION
    uint32_t canary; /* os_mark.h; 0: none */
    void (*mark)(struct kelpie_os *, const struct kelpie_mark *);
#endif
};

/* The real system. One table per loop: it owns an epoll instance. NULL only when descriptors or
 * memory run out. */
struct kelpie_os *kelpie__os_linux_create(void);
struct kelpie_os *kelpie__os_linux_create_guest(void);
void kelpie__os_linux_destroy(struct kelpie_os *os);

/* The first act of each program's own main (monitor, command, agent), never of the library: a write
 * to a pipe without a reader answers EPIPE instead of killing the process (a child gets the default
 * disposition back at spawn), and a standard stream that is closed answers EBADF instead of being
 * whatever is opened next. */
void kelpie__os_linux_prepare_process(void);

/* Applies a fault plan (docs/testing.md) to every call of `inner`, which must outlive the result.
 * NULL for a bad plan (the reason, with its line, goes to stderr) or without memory. Test builds
 * only. Unwrap leaves `inner` alone. */
struct kelpie_os *kelpie__os_fault_wrap(struct kelpie_os *inner, const char *role,
                                        const char *plan);
void kelpie__os_fault_unwrap(struct kelpie_os *os);

/* The plan in KELPIE_FAULT_PLAN (its text, or @FILE) with the seed in KELPIE_FAULT_SEED; `inner`
 * itself when unset. A bad plan ends the process. Programs call it under #ifdef KELPIE_TEST_BUILD.
 */
struct kelpie_os *kelpie__os_fault_from_environment(struct kelpie_os *inner, const char *role);

#endif
