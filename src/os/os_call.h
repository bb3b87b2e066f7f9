/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How everybody calls the operating-system seam: one function per operation of `struct kelpie_os`.
 * Each asserts what a caller must give and what a table must answer, then calls the table;
 * semantics stand in os.h. Results are >= 0 or a negative errno value; after a failure every out_
 * is untouched.
 */
#ifndef KELPIE_OS_OS_CALL_H
#define KELPIE_OS_OS_CALL_H

#include "core/base.h"
#include "os/os.h"

/* Time, memory, identity. */
int64_t kelpie__os_now(struct kelpie_os *os, enum kelpie_os_clock clock);
uint64_t kelpie__os_cycles(struct kelpie_os *os);
KELPIE_MUST_CHECK int kelpie__os_random(struct kelpie_os *os, void *out, size_t count);
KELPIE_MUST_CHECK int kelpie__os_identity(struct kelpie_os *os, struct kelpie_os_identity *out);
const char *kelpie__os_environment(struct kelpie_os *os, const char *name);
KELPIE_MUST_CHECK int kelpie__os_real_path(struct kelpie_os *os, const char *path, char *out,
                                           size_t capacity);

/* Zeroed memory, or NULL when there is none; zero bytes are never asked for. Free takes NULL, and
 * the size given to alloc. Resize keeps the smaller part, leaves a grown part undefined, and leaves
 * `pointer` valid when it gives NULL. */
KELPIE_MUST_CHECK void *kelpie__alloc(struct kelpie_os *os, size_t bytes);
/* The same, with whatever the bytes were: for large buffers that are written before they are read,
 * of which most uses touch one page. */
KELPIE_MUST_CHECK void *kelpie__alloc_raw(struct kelpie_os *os, size_t bytes);
KELPIE_MUST_CHECK void *kelpie__resize(struct kelpie_os *os, void *pointer, size_t old_bytes,
                                       size_t new_bytes);
void kelpie__free(struct kelpie_os *os, void *pointer, size_t bytes);

/* Waiting. A watch is level-triggered; a handle is forgotten (bits 0) before it is closed. */
KELPIE_MUST_CHECK int kelpie__os_watch(struct kelpie_os *os, int handle, uint32_t bits,
                                       uint64_t cookie);
KELPIE_MUST_CHECK int kelpie__os_wait(struct kelpie_os *os, struct kelpie_os_event *out,
                                      uint32_t max, int64_t deadline_ns);
int kelpie__os_wait_handle(struct kelpie_os *os);

/* Processes. out_process (not for ORPHAN), out_pid and out_step may be NULL. */
KELPIE_MUST_CHECK int kelpie__os_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                                       int *out_process, int32_t *out_pid, const char **out_step);
KELPIE_MUST_CHECK int kelpie__os_open_process(struct kelpie_os *os, int32_t pid);
KELPIE_MUST_CHECK int kelpie__os_signal(struct kelpie_os *os, int process, int signal);
KELPIE_MUST_CHECK int kelpie__os_reap(struct kelpie_os *os, int process,
                                      struct kelpie_os_exit *out);
KELPIE_MUST_CHECK int kelpie__os_page_map(struct kelpie_os *os, int32_t pid, uint64_t address,
                                          uint8_t *out_bits, size_t page_count);
KELPIE_MUST_CHECK int64_t kelpie__os_read_memory(struct kelpie_os *os, int32_t pid,
                                                 uint64_t address, void *out, size_t count);

KELPIE_MUST_CHECK int64_t kelpie__os_write_memory(struct kelpie_os *os, int32_t pid,
                                                  uint64_t address, const void *bytes,
                                                  size_t count);

/* Streams. */
KELPIE_MUST_CHECK int kelpie__os_listen(struct kelpie_os *os, int directory, const char *name,
                                        int backlog);
KELPIE_MUST_CHECK int kelpie__os_accept(struct kelpie_os *os, int listener);
KELPIE_MUST_CHECK int kelpie__os_connect(struct kelpie_os *os, int directory, const char *name);
KELPIE_MUST_CHECK int kelpie__os_pair(struct kelpie_os *os, int out[2]);
KELPIE_MUST_CHECK int kelpie__os_pipe(struct kelpie_os *os, int out[2]);
KELPIE_MUST_CHECK int kelpie__os_peer(struct kelpie_os *os, int stream, struct kelpie_os_peer *out);
KELPIE_MUST_CHECK int64_t kelpie__os_read(struct kelpie_os *os, int handle, void *out,
                                          size_t count);
KELPIE_MUST_CHECK int64_t kelpie__os_write(struct kelpie_os *os, int handle, const void *bytes,
                                           size_t count);
KELPIE_MUST_CHECK int64_t kelpie__os_send(struct kelpie_os *os, int stream, const void *bytes,
                                          size_t count, const int *handles, uint32_t handle_count);
KELPIE_MUST_CHECK int64_t kelpie__os_receive(struct kelpie_os *os, int stream, void *out,
                                             size_t count, int *handles,
                                             uint32_t *inout_handle_count);
KELPIE_MUST_CHECK int kelpie__os_shut_write(struct kelpie_os *os, int stream);
/* the handle is gone whatever is answered */
int kelpie__os_close(struct kelpie_os *os, int handle);
void kelpie__os_label(struct kelpie_os *os, int handle, const char *label);

/* Files. */
KELPIE_MUST_CHECK int kelpie__os_open(struct kelpie_os *os, int directory, const char *path,
                                      uint32_t flags, uint32_t mode);
KELPIE_MUST_CHECK int64_t kelpie__os_pread(struct kelpie_os *os, int file, void *out, size_t count,
                                           uint64_t offset);
KELPIE_MUST_CHECK int64_t kelpie__os_pwrite(struct kelpie_os *os, int file, const void *bytes,
                                            size_t count, uint64_t offset);
KELPIE_MUST_CHECK int kelpie__os_truncate(struct kelpie_os *os, int file, uint64_t size_bytes);
KELPIE_MUST_CHECK int kelpie__os_sync(struct kelpie_os *os, int file_or_directory);
KELPIE_MUST_CHECK int kelpie__os_rename(struct kelpie_os *os, int from_directory, const char *from,
                                        int to_directory, const char *to, bool may_replace);
KELPIE_MUST_CHECK int kelpie__os_unlink(struct kelpie_os *os, int directory, const char *name,
                                        bool is_directory);
KELPIE_MUST_CHECK int kelpie__os_link(struct kelpie_os *os, int file, int directory,
                                      const char *name);
KELPIE_MUST_CHECK int kelpie__os_mkdir(struct kelpie_os *os, int directory, const char *name,
                                       uint32_t mode);
KELPIE_MUST_CHECK int kelpie__os_list(struct kelpie_os *os, int directory, uint64_t *inout_cursor,
                                      char *out_name, size_t capacity);
KELPIE_MUST_CHECK int kelpie__os_stat(struct kelpie_os *os, int directory, const char *path,
                                      bool follow, struct kelpie_os_stat *out);
KELPIE_MUST_CHECK int kelpie__os_space(struct kelpie_os *os, int handle,
                                       struct kelpie_os_space *out);
KELPIE_MUST_CHECK int kelpie__os_lock(struct kelpie_os *os, int file);
KELPIE_MUST_CHECK int kelpie__os_lock_shared(struct kelpie_os *os, int file);
KELPIE_MUST_CHECK int kelpie__os_clone_range(struct kelpie_os *os, int from, uint64_t from_offset,
                                             int to, uint64_t to_offset, uint64_t count);
KELPIE_MUST_CHECK int kelpie__os_next_data(struct kelpie_os *os, int file, uint64_t offset,
                                           uint64_t *out_start, uint64_t *out_end);
KELPIE_MUST_CHECK int kelpie__os_memory_file(struct kelpie_os *os, const char *name,
                                             uint64_t size_bytes);

/* Signals and terminals. */
KELPIE_MUST_CHECK int kelpie__os_open_signals(struct kelpie_os *os, const int *signals,
                                              uint32_t count);
KELPIE_MUST_CHECK int kelpie__os_take_signal(struct kelpie_os *os, int handle);
bool kelpie__os_is_terminal(struct kelpie_os *os, int handle);
KELPIE_MUST_CHECK int kelpie__os_terminal_size(struct kelpie_os *os, int handle, uint16_t *out_rows,
                                               uint16_t *out_columns);
KELPIE_MUST_CHECK int kelpie__os_set_terminal_size(struct kelpie_os *os, int handle, uint16_t rows,
                                                   uint16_t columns);
KELPIE_MUST_CHECK int kelpie__os_set_terminal_raw(struct kelpie_os *os, int handle, bool is_raw);

/* What only a guest's PID 1 does; the table must have them (os->guest). */
KELPIE_MUST_CHECK int kelpie__os_mount(struct kelpie_os *os, const char *source, const char *target,
                                       const char *type, uint64_t flags, const char *data);
KELPIE_MUST_CHECK int kelpie__os_enter_root(struct kelpie_os *os, const char *path);
KELPIE_MUST_CHECK int kelpie__os_load_module(struct kelpie_os *os, int file,
                                             const char *parameters);
KELPIE_MUST_CHECK int kelpie__os_open_terminal(struct kelpie_os *os, int *out_master,
                                               int *out_slave, uint16_t rows, uint16_t columns);
KELPIE_MUST_CHECK int kelpie__os_set_wall_clock(struct kelpie_os *os, int64_t unix_ns);
KELPIE_MUST_CHECK int kelpie__os_add_entropy(struct kelpie_os *os, const void *bytes, size_t count);
KELPIE_MUST_CHECK int kelpie__os_set_hostname(struct kelpie_os *os, const char *name);
KELPIE_MUST_CHECK int kelpie__os_make_node(struct kelpie_os *os, const char *path, uint32_t mode,
                                           uint32_t major, uint32_t minor);
KELPIE_MUST_CHECK int kelpie__os_make_link(struct kelpie_os *os, const char *target,
                                           const char *path);
KELPIE_MUST_CHECK int kelpie__os_make_ready(struct kelpie_os *os,
                                            const struct kelpie_os_spawn *spawn, int32_t *out_pid);
KELPIE_MUST_CHECK int kelpie__os_run_ready(struct kelpie_os *os, int32_t pid,
                                           const struct kelpie_os_spawn *spawn,
                                           const char **out_step);
KELPIE_MUST_CHECK int kelpie__os_reap_any(struct kelpie_os *os, int32_t *out_pid,
                                          struct kelpie_os_exit *out_exit);
KELPIE_MUST_CHECK int kelpie__os_kill_pid(struct kelpie_os *os, int32_t pid, int signal);
KELPIE_MUST_CHECK int kelpie__os_sync_all(struct kelpie_os *os);
KELPIE_MUST_CHECK int kelpie__os_halt(struct kelpie_os *os, bool is_power_off);
KELPIE_MUST_CHECK int kelpie__os_link_up(struct kelpie_os *os, const char *interface);
KELPIE_MUST_CHECK int kelpie__os_dial_host(struct kelpie_os *os, uint32_t port);

/* What only a real host's devices do. Where there are none (os->host): -ENODEV; and every device
 * answers. */
KELPIE_MUST_CHECK int kelpie__os_claim_guest(struct kelpie_os *os, uint32_t cid);
KELPIE_MUST_CHECK int kelpie__os_listen_guests(struct kelpie_os *os, uint32_t *out_port);
KELPIE_MUST_CHECK int kelpie__os_guest_of(struct kelpie_os *os, int stream, uint32_t *out_cid);
KELPIE_MUST_CHECK int kelpie__os_device_answers(struct kelpie_os *os, const char *path,
                                                uint32_t timeout_ms);

#endif
