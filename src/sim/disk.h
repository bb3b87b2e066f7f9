/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A simulated file system: what processes see (the cache) and what a machine crash would leave (the
 * durable state and the operations pending on top of it). Host machines have one on a disk; a
 * guest's is memory, with no durable side. Semantics are Linux's, down to the errno.
 *
 * A mount table of path prefixes says which part is a disk, which tmpfs (lost with the power: /run,
 * /tmp, /dev/shm) and which synthetic (files whose content is made when they are opened: /proc,
 * /sys).
 */
#ifndef KELPIE_SIM_DISK_H
#define KELPIE_SIM_DISK_H

#include "sim/machine.h"

struct sim_inode;

/* In the machine's heap. capacity_bytes: of the disk. */
struct sim_disk *kelpie__sim_disk_create(struct sim_machine *machine, enum sim_disk_profile profile,
                                         uint64_t capacity_bytes);

/* Around many of the following ones, and nothing else: quicker than each by itself. */
void kelpie__sim_disk_layout_begin(struct sim_disk *disk);
void kelpie__sim_disk_layout_end(struct sim_disk *disk);

/* Everything that is there was made at this time of the wall clock: that of an image. */
void kelpie__sim_disk_layout_date(struct sim_disk *disk, int64_t wall_ns);

/* For whoever lays out a machine, bypassing every call's entry: durable at once, and what is
 * pending then becomes durable with it. Parents are made. Nodes that are no files, and their
 * parents, survive a power loss wherever they are. 0 or -errno. */
int kelpie__sim_disk_put(struct sim_disk *disk, const char *path, uint32_t mode, const void *bytes,
                         size_t count);
int kelpie__sim_disk_put_directory(struct sim_disk *disk, const char *path, uint32_t mode);
int kelpie__sim_disk_put_link(struct sim_disk *disk, const char *path, const char *target);
/* What is below `path` is tmpfs: never durable. */
int kelpie__sim_disk_put_tmpfs(struct sim_disk *disk, const char *path);
/* A file whose content is made at each open, and again at each read at offset 0: gives its length,
 * or -errno (an open fails with it). */
typedef int64_t (*sim_synthetic)(struct sim_machine *machine, struct sim_process *reader,
                                 const char *path, char *out, size_t capacity);
/* `pattern`: an absolute path in which one component may be "*" (a pid, a group). Directories that
 * hold nothing else can be removed. */
int kelpie__sim_disk_put_synthetic(struct sim_disk *disk, const char *pattern,
                                   sim_synthetic content);
/* A write to such a file, if it takes any: gives -errno or `count`. */
typedef int64_t (*sim_synthetic_write)(struct sim_machine *machine, struct sim_process *writer,
                                       const char *path, const char *bytes, size_t count);
int kelpie__sim_disk_put_synthetic_write(struct sim_disk *disk, const char *pattern,
                                         sim_synthetic content, sim_synthetic_write write);
/* An open of `path` gives what `open` gives: an object with one reference, or -errno. Devices:
 * /dev/null, a guest's port, a terminal. */
typedef int (*sim_device_open)(struct sim_machine *machine, struct sim_process *opener,
                               const char *path, struct sim_object **out);
int kelpie__sim_disk_put_device(struct sim_disk *disk, const char *path, sim_device_open open);
/* Called when a directory is made or removed below `path` (cgroups): may refuse with -errno; NULL:
 * none. */
typedef int (*sim_directory_hook)(struct sim_machine *machine, const char *path, bool is_made);
int kelpie__sim_disk_put_hook(struct sim_disk *disk, const char *path, sim_directory_hook hook);

/* ---- for the other parts of the simulated kernel --------------------------------------------- */

/* Memory of the machine's heap that nobody reads between two calls; NULL: none. */
const void *kelpie__sim_disk_scratch(const struct sim_disk *disk, size_t *out_bytes);

/* Names of sockets. A node carries a number and points nowhere: it outlives its listener, and a
 * machine. As bind(2): makes the node; -EADDRINUSE when the name exists, and what a path may
 * answer. */
int kelpie__sim_disk_bind(struct sim_process *process, int directory, const char *name,
                          uint64_t socket);
/* As connect(2) looks it up, links followed: -ECONNREFUSED when it is no socket, -EACCES when the
 * caller may not write to it. */
int kelpie__sim_disk_socket(struct sim_process *process, int directory, const char *name,
                            uint64_t *out_socket);
/* For spawn: what execve and chdir would say of an absolute path; with its links resolved. */
int kelpie__sim_disk_executable(struct sim_process *process, const char *path,
                                char out_real[SIM_PATH_BYTES_MAX]);
int kelpie__sim_disk_directory(struct sim_process *process, const char *path);
/* For a guest's table: as symlink(2). */
int kelpie__sim_disk_make_link(struct sim_process *process, const char *target, const char *path);

/* ---- the truth ------------------------------------------------------------------------------- */

/* Looking at the truth, as processes see it (is_durable false) or as a crash with nothing pending
 * kept would leave it. Gives the size, copies at most `capacity`; -ENOENT; -EISDIR. */
int64_t kelpie__sim_disk_peek(struct sim_disk *disk, bool is_durable, const char *path, void *out,
                              size_t capacity);
/* A part of what processes see. Gives how many bytes, or -errno. */
int64_t kelpie__sim_disk_peek_at(struct sim_disk *disk, const char *path, uint64_t offset,
                                 void *out, size_t count);
/* A hash of the file's bytes, the size included, holes as zeros: of what processes see, or of what
 * a crash with nothing pending kept would leave. 0: there is no such file. */
uint64_t kelpie__sim_disk_hash(struct sim_disk *disk, bool is_durable, const char *path);
/* Names in a directory, one after the other; false after the last. *inout_cursor begins at 0. */
bool kelpie__sim_disk_walk(struct sim_disk *disk, const char *path, uint64_t *inout_cursor,
                           char out_name[256]);
int kelpie__sim_disk_chmod(struct sim_disk *disk, const char *path, uint32_t mode);
/* The absolute path of an open file or directory. -EBADF, -ENOENT (it has no name left). */
int kelpie__sim_disk_path_of(struct sim_process *process, int handle, char *out, size_t capacity);
uint64_t kelpie__sim_disk_used_bytes(const struct sim_disk *disk);
/* Less space from now on (or more): bytes that count as used by others. */
void kelpie__sim_disk_set_quota(struct sim_disk *disk, uint64_t capacity_bytes);
void kelpie__sim_disk_set_read_only(struct sim_disk *disk, bool is_read_only);
/* As a process that writes into a file and syncs that: its bytes are durable, and what fsync brings
 * along. 0 or -errno. */
int kelpie__sim_disk_flush(struct sim_disk *disk, const char *path, uint64_t offset,
                           const void *bytes, size_t count);
/* Bit rot at rest: one bit of the file changes, cached and durable. -ENOENT. */
int kelpie__sim_disk_rot(struct sim_disk *disk, const char *path, uint64_t hash);

/* ---- crash states ---------------------------------------------------------------------------- */

/* Pending operations now: writes split at 4 KiB, sizes, names. */
uint32_t kelpie__sim_disk_pending(const struct sim_disk *disk);
/* The power is gone: a legal (dependency-closed) subset of what is pending, drawn from
 * SIM_STREAM_DISK, becomes the durable and only truth; tmpfs is empty; every open file is void. */
void kelpie__sim_disk_crash(struct sim_disk *disk);
/* For complete searches: the number of different legal subsets (at most `limit`), and the crash
 * that leaves the index-th of them. Index 0: nothing pending survives; the last: everything does.
 */
uint64_t kelpie__sim_disk_crash_count(const struct sim_disk *disk, uint64_t limit);
void kelpie__sim_disk_crash_to(struct sim_disk *disk, uint64_t index, uint64_t limit);

/* Locks held now, by whom (pid); for invariants. False: nobody. */
bool kelpie__sim_disk_lock_holder(struct sim_disk *disk, const char *path, int32_t *out_pid);
/* Every invariant of its own structures. */
void kelpie__sim_disk_check(const struct sim_disk *disk);

#endif
