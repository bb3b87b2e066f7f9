/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See os_call.h: the only callers of the table. Preconditions are our own bugs; what a table may
 * answer is asserted as well, for it is ours too.
 */
#include "os/os_call.h"

#include <errno.h>
#include <string.h>

#define OS_ERRNO_MAX 4095

/* Every answer of a table: success, or a negative errno value. */
static int answer(int status) {
    KELPIE_ASSERT(status >= -OS_ERRNO_MAX);
    return status;
}

static int answer_handle(int handle) {
    KELPIE_ASSERT(handle >= 0 || handle >= -OS_ERRNO_MAX);
    return handle;
}

static int64_t answer_count(int64_t status, size_t asked) {
    KELPIE_ASSERT(status >= -OS_ERRNO_MAX);
    KELPIE_ASSERT(status <= (int64_t)asked);
    return status;
}

static const struct kelpie_os_guest *guest(const struct kelpie_os *os) {
    KELPIE_ASSERT(os->guest != NULL);
    return os->guest;
}

/* ---- time, memory, identity ------------------------------------------------------------------ */

int64_t kelpie__os_now(struct kelpie_os *os, enum kelpie_os_clock clock) {
    int64_t now_ns = os->now(os, clock);
    KELPIE_ASSERT(now_ns >= 0);
    return now_ns;
}

uint64_t kelpie__os_cycles(struct kelpie_os *os) {
    return os->cycles(os);
}

int kelpie__os_random(struct kelpie_os *os, void *out, size_t count) {
    KELPIE_ASSERT(out != NULL);
    KELPIE_ASSERT(count > 0);
    return answer(os->random(os, out, count));
}

int kelpie__os_identity(struct kelpie_os *os, struct kelpie_os_identity *out) {
    int status = answer(os->identity(os, out));
    KELPIE_ASSERT(status < 0 || out->pid > 0);
    return status;
}

const char *kelpie__os_environment(struct kelpie_os *os, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(strchr(name, '=') == NULL);
    return os->environment(os, name);
}

int kelpie__os_real_path(struct kelpie_os *os, const char *path, char *out, size_t capacity) {
    KELPIE_ASSERT(capacity > 1);
    int status = answer(os->real_path(os, path, out, capacity));
    KELPIE_ASSERT(status < 0 || out[0] == '/');
    return status;
}

void *kelpie__alloc_raw(struct kelpie_os *os, size_t bytes) {
    KELPIE_ASSERT(bytes > 0);
    return os->memory(os, NULL, 0, bytes);
}

void *kelpie__alloc(struct kelpie_os *os, size_t bytes) {
    void *block = kelpie__alloc_raw(os, bytes);
    if (block != NULL) {
        memset(block, 0, bytes);
    }
    return block;
}

void *kelpie__resize(struct kelpie_os *os, void *pointer, size_t old_bytes, size_t new_bytes) {
    KELPIE_ASSERT(new_bytes > 0);
    KELPIE_ASSERT((pointer == NULL) == (old_bytes == 0));
    return os->memory(os, pointer, old_bytes, new_bytes);
}

void kelpie__free(struct kelpie_os *os, void *pointer, size_t bytes) {
    if (pointer != NULL) {
        KELPIE_ASSERT(bytes > 0);
        kelpie__ignore(os->memory(os, pointer, bytes, 0) == NULL);
    }
}

/* ---- waiting --------------------------------------------------------------------------------- */

int kelpie__os_watch(struct kelpie_os *os, int handle, uint32_t bits, uint64_t cookie) {
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT((bits & ~(uint32_t)(KELPIE_OS_READABLE | KELPIE_OS_WRITABLE)) == 0);
    return answer(os->watch(os, handle, bits, cookie));
}

int kelpie__os_wait(struct kelpie_os *os, struct kelpie_os_event *out, uint32_t max,
                    int64_t deadline_ns) {
    KELPIE_ASSERT(max > 0);
    int count = answer(os->wait(os, out, max, deadline_ns));
    KELPIE_ASSERT(count <= (int)max);
    return count;
}

int kelpie__os_wait_handle(struct kelpie_os *os) {
    int handle = os->wait_handle(os);
    KELPIE_ASSERT(handle >= 0);
    return handle;
}

/* ---- processes ------------------------------------------------------------------------------- */

int kelpie__os_spawn(struct kelpie_os *os, const struct kelpie_os_spawn *spawn, int *out_process,
                     int32_t *out_pid, const char **out_step) {
    bool is_orphan = (spawn->flags & KELPIE_OS_SPAWN_ORPHAN) != 0;
    bool has_terminal = (spawn->flags & KELPIE_OS_SPAWN_CONTROLLING_TERMINAL) != 0;
    int process = KELPIE_OS_NO_HANDLE;
    int32_t pid = 0;
    const char *step = "";
    KELPIE_ASSERT(spawn->path != NULL && spawn->argv != NULL && spawn->argv[0] != NULL);
    KELPIE_ASSERT(is_orphan == (out_process == NULL));
    KELPIE_ASSERT(!has_terminal || (spawn->flags & KELPIE_OS_SPAWN_NEW_SESSION) != 0);
    int status = answer(os->spawn(os, spawn, is_orphan ? NULL : &process, &pid, &step));
    if (status < 0) {
        if (out_step != NULL) {
            *out_step = step;
        }
        return status;
    }
    KELPIE_ASSERT(pid > 0);
    KELPIE_ASSERT(is_orphan || process >= 0);
    if (out_process != NULL) {
        *out_process = process;
    }
    if (out_pid != NULL) {
        *out_pid = pid;
    }
    return status;
}

int kelpie__os_open_process(struct kelpie_os *os, int32_t pid) {
    KELPIE_ASSERT(pid > 0);
    return answer_handle(os->open_process(os, pid));
}

int kelpie__os_signal(struct kelpie_os *os, int process, int signal) {
    KELPIE_ASSERT(process >= 0);
    KELPIE_ASSERT(signal > 0);
    return answer(os->signal(os, process, signal));
}

int kelpie__os_reap(struct kelpie_os *os, int process, struct kelpie_os_exit *out) {
    KELPIE_ASSERT(process >= 0);
    return answer(os->reap(os, process, out));
}

int kelpie__os_page_map(struct kelpie_os *os, int32_t pid, uint64_t address, uint8_t *out_bits,
                        size_t page_count) {
    KELPIE_ASSERT(pid > 0);
    KELPIE_ASSERT(page_count > 0);
    return answer(os->page_map(os, pid, address, out_bits, page_count));
}

int64_t kelpie__os_read_memory(struct kelpie_os *os, int32_t pid, uint64_t address, void *out,
                               size_t count) {
    KELPIE_ASSERT(pid > 0);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->read_memory(os, pid, address, out, count), count);
}

int64_t kelpie__os_write_memory(struct kelpie_os *os, int32_t pid, uint64_t address,
                                const void *bytes, size_t count) {
    KELPIE_ASSERT(pid > 0);
    KELPIE_ASSERT(bytes != NULL);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->write_memory(os, pid, address, bytes, count), count);
}

/* ---- streams --------------------------------------------------------------------------------- */

int kelpie__os_listen(struct kelpie_os *os, int directory, const char *name, int backlog) {
    KELPIE_ASSERT(directory >= 0 || directory == KELPIE_OS_CWD);
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(backlog > 0);
    return answer_handle(os->listen(os, directory, name, backlog));
}

int kelpie__os_accept(struct kelpie_os *os, int listener) {
    KELPIE_ASSERT(listener >= 0);
    return answer_handle(os->accept(os, listener));
}

int kelpie__os_connect(struct kelpie_os *os, int directory, const char *name) {
    KELPIE_ASSERT(directory >= 0 || directory == KELPIE_OS_CWD);
    KELPIE_ASSERT(name[0] != '\0');
    return answer_handle(os->connect(os, directory, name));
}

int kelpie__os_pair(struct kelpie_os *os, int out[2]) {
    int status = answer(os->pair(os, out));
    KELPIE_ASSERT(status < 0 || out[0] != out[1]);
    return status;
}

int kelpie__os_pipe(struct kelpie_os *os, int out[2]) {
    int status = answer(os->pipe(os, out));
    KELPIE_ASSERT(status < 0 || out[0] != out[1]);
    return status;
}

int kelpie__os_peer(struct kelpie_os *os, int stream, struct kelpie_os_peer *out) {
    KELPIE_ASSERT(stream >= 0);
    return answer(os->peer(os, stream, out));
}

int64_t kelpie__os_read(struct kelpie_os *os, int handle, void *out, size_t count) {
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->read(os, handle, out, count), count);
}

int64_t kelpie__os_write(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->write(os, handle, bytes, count), count);
}

int64_t kelpie__os_send(struct kelpie_os *os, int stream, const void *bytes, size_t count,
                        const int *handles, uint32_t handle_count) {
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(handle_count == 0 || handles != NULL);
    return answer_count(os->send(os, stream, bytes, count, handles, handle_count), count);
}

int64_t kelpie__os_receive(struct kelpie_os *os, int stream, void *out, size_t count, int *handles,
                           uint32_t *inout_handle_count) {
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(count > 0);
    uint32_t room = *inout_handle_count;
    int64_t status = os->receive(os, stream, out, count, handles, inout_handle_count);
    KELPIE_ASSERT(*inout_handle_count <= room);
    return answer_count(status, count);
}

int kelpie__os_shut_write(struct kelpie_os *os, int stream) {
    KELPIE_ASSERT(stream >= 0);
    return answer(os->shut_write(os, stream));
}

int kelpie__os_close(struct kelpie_os *os, int handle) {
    KELPIE_ASSERT(handle >= 0);
    return answer(os->close(os, handle));
}

void kelpie__os_label(struct kelpie_os *os, int handle, const char *label) {
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(label[0] != '\0');
    os->label(os, handle, label);
}

/* ---- files ----------------------------------------------------------------------------------- */

int kelpie__os_open(struct kelpie_os *os, int directory, const char *path, uint32_t flags,
                    uint32_t mode) {
    const uint32_t access = KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE;
    const uint32_t exclusive = KELPIE_OS_OPEN_EXCLUSIVE | KELPIE_OS_OPEN_CREATE;
    KELPIE_ASSERT((flags & access) != 0);
    KELPIE_ASSERT((flags & exclusive) != KELPIE_OS_OPEN_EXCLUSIVE);
    return answer_handle(os->open(os, directory, path, flags, mode));
}

int64_t kelpie__os_pread(struct kelpie_os *os, int file, void *out, size_t count, uint64_t offset) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->pread(os, file, out, count, offset), count);
}

int64_t kelpie__os_pwrite(struct kelpie_os *os, int file, const void *bytes, size_t count,
                          uint64_t offset) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    return answer_count(os->pwrite(os, file, bytes, count, offset), count);
}

int kelpie__os_truncate(struct kelpie_os *os, int file, uint64_t size_bytes) {
    KELPIE_ASSERT(file >= 0);
    return answer(os->truncate(os, file, size_bytes));
}

int kelpie__os_sync(struct kelpie_os *os, int file_or_directory) {
    KELPIE_ASSERT(file_or_directory >= 0);
    return answer(os->sync(os, file_or_directory));
}

int kelpie__os_rename(struct kelpie_os *os, int from_directory, const char *from, int to_directory,
                      const char *to, bool may_replace) {
    KELPIE_ASSERT(from[0] != '\0');
    KELPIE_ASSERT(to[0] != '\0');
    return answer(os->rename(os, from_directory, from, to_directory, to, may_replace));
}

int kelpie__os_unlink(struct kelpie_os *os, int directory, const char *name, bool is_directory) {
    KELPIE_ASSERT(name[0] != '\0');
    return answer(os->unlink(os, directory, name, is_directory));
}

int kelpie__os_link(struct kelpie_os *os, int file, int directory, const char *name) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(name[0] != '\0');
    return answer(os->link(os, file, directory, name));
}

int kelpie__os_mkdir(struct kelpie_os *os, int directory, const char *name, uint32_t mode) {
    KELPIE_ASSERT(name[0] != '\0');
    return answer(os->mkdir(os, directory, name, mode));
}

int kelpie__os_list(struct kelpie_os *os, int directory, uint64_t *inout_cursor, char *out_name,
                    size_t capacity) {
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(capacity > 1);
    int status = answer(os->list(os, directory, inout_cursor, out_name, capacity));
    KELPIE_ASSERT(status <= 1);
    return status;
}

int kelpie__os_stat(struct kelpie_os *os, int directory, const char *path, bool follow,
                    struct kelpie_os_stat *out) {
    KELPIE_ASSERT(path != NULL);
    return answer(os->stat(os, directory, path, follow, out));
}

int kelpie__os_space(struct kelpie_os *os, int handle, struct kelpie_os_space *out) {
    KELPIE_ASSERT(handle >= 0);
    int status = answer(os->space(os, handle, out));
    KELPIE_ASSERT(status < 0 || out->available_bytes <= out->total_bytes);
    return status;
}

int kelpie__os_lock(struct kelpie_os *os, int file) {
    KELPIE_ASSERT(file >= 0);
    return answer(os->lock(os, file));
}

int kelpie__os_lock_shared(struct kelpie_os *os, int file) {
    KELPIE_ASSERT(file >= 0);
    return answer(os->lock_shared(os, file));
}

int kelpie__os_clone_range(struct kelpie_os *os, int from, uint64_t from_offset, int to,
                           uint64_t to_offset, uint64_t count) {
    KELPIE_ASSERT(from >= 0);
    KELPIE_ASSERT(to >= 0);
    KELPIE_ASSERT(count > 0);
    return answer(os->clone_range(os, from, from_offset, to, to_offset, count));
}

int kelpie__os_next_data(struct kelpie_os *os, int file, uint64_t offset, uint64_t *out_start,
                         uint64_t *out_end) {
    uint64_t start = 0;
    uint64_t end = 0;
    KELPIE_ASSERT(file >= 0);
    int status = answer(os->next_data(os, file, offset, &start, &end));
    KELPIE_ASSERT(status <= 1);
    if (status == 1) {
        KELPIE_ASSERT(start >= offset);
        KELPIE_ASSERT(end > start);
        *out_start = start;
        *out_end = end;
    }
    return status;
}

int kelpie__os_memory_file(struct kelpie_os *os, const char *name, uint64_t size_bytes) {
    KELPIE_ASSERT(name[0] != '\0');
    return answer_handle(os->memory_file(os, name, size_bytes));
}

/* ---- signals and terminals ------------------------------------------------------------------- */

int kelpie__os_open_signals(struct kelpie_os *os, const int *signals, uint32_t count) {
    KELPIE_ASSERT(count > 0);
    return answer_handle(os->open_signals(os, signals, count));
}

int kelpie__os_take_signal(struct kelpie_os *os, int handle) {
    KELPIE_ASSERT(handle >= 0);
    int signal = answer(os->take_signal(os, handle));
    KELPIE_ASSERT(signal != 0);
    return signal;
}

bool kelpie__os_is_terminal(struct kelpie_os *os, int handle) {
    KELPIE_ASSERT(handle >= 0);
    return os->is_terminal(os, handle) == 1;
}

int kelpie__os_terminal_size(struct kelpie_os *os, int handle, uint16_t *out_rows,
                             uint16_t *out_columns) {
    KELPIE_ASSERT(handle >= 0);
    return answer(os->terminal_size(os, handle, out_rows, out_columns));
}

int kelpie__os_set_terminal_size(struct kelpie_os *os, int handle, uint16_t rows,
                                 uint16_t columns) {
    KELPIE_ASSERT(handle >= 0);
    return answer(os->set_terminal_size(os, handle, rows, columns));
}

int kelpie__os_set_terminal_raw(struct kelpie_os *os, int handle, bool is_raw) {
    KELPIE_ASSERT(handle >= 0);
    return answer(os->set_terminal_raw(os, handle, is_raw));
}

/* ---- a guest's PID 1 ------------------------------------------------------------------------- */

int kelpie__os_mount(struct kelpie_os *os, const char *source, const char *target, const char *type,
                     uint64_t flags, const char *data) {
    KELPIE_ASSERT(target[0] == '/');
    return answer(guest(os)->mount(os, source, target, type, flags, data));
}

int kelpie__os_enter_root(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] == '/');
    return answer(guest(os)->enter_root(os, path));
}

int kelpie__os_load_module(struct kelpie_os *os, int file, const char *parameters) {
    KELPIE_ASSERT(file >= 0);
    return answer(guest(os)->load_module(os, file, parameters));
}

int kelpie__os_open_terminal(struct kelpie_os *os, int *out_master, int *out_slave, uint16_t rows,
                             uint16_t columns) {
    KELPIE_ASSERT(rows > 0);
    KELPIE_ASSERT(columns > 0);
    return answer(guest(os)->open_terminal(os, out_master, out_slave, rows, columns));
}

int kelpie__os_set_wall_clock(struct kelpie_os *os, int64_t unix_ns) {
    KELPIE_ASSERT(unix_ns >= 0);
    return answer(guest(os)->set_wall_clock(os, unix_ns));
}

int kelpie__os_add_entropy(struct kelpie_os *os, const void *bytes, size_t count) {
    KELPIE_ASSERT(bytes != NULL);
    KELPIE_ASSERT(count > 0);
    return answer(guest(os)->add_entropy(os, bytes, count));
}

int kelpie__os_set_hostname(struct kelpie_os *os, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    return answer(guest(os)->set_hostname(os, name));
}

int kelpie__os_make_node(struct kelpie_os *os, const char *path, uint32_t mode, uint32_t major,
                         uint32_t minor) {
    KELPIE_ASSERT(path[0] == '/');
    return answer(guest(os)->make_node(os, path, mode, major, minor));
}

int kelpie__os_make_link(struct kelpie_os *os, const char *target, const char *path) {
    KELPIE_ASSERT(target[0] != '\0');
    KELPIE_ASSERT(path[0] != '\0');
    return answer(guest(os)->make_link(os, target, path));
}

int kelpie__os_reap_any(struct kelpie_os *os, int32_t *out_pid, struct kelpie_os_exit *out_exit) {
    int status = answer(guest(os)->reap_any(os, out_pid, out_exit));
    KELPIE_ASSERT(status < 0 || *out_pid > 0);
    return status;
}

int kelpie__os_kill_pid(struct kelpie_os *os, int32_t pid, int signal) {
    KELPIE_ASSERT(pid != 0);
    KELPIE_ASSERT(signal > 0);
    return answer(guest(os)->kill_pid(os, pid, signal));
}

int kelpie__os_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                          int32_t *out_pid) {
    KELPIE_ASSERT(spawn->handle_count <= KELPIE_OS_SPAWN_HANDLES_MAX);
    int32_t pid = 0;
    int status = answer(guest(os)->make_ready(os, spawn, &pid));
    KELPIE_ASSERT(status < 0 || pid > 1);
    if (status == 0) {
        *out_pid = pid;
    }
    return status;
}

int kelpie__os_run_ready(struct kelpie_os *os, int32_t pid, const struct kelpie_os_spawn *spawn,
                         const char **out_step) {
    KELPIE_ASSERT(pid > 1);
    KELPIE_ASSERT(spawn->path != NULL && spawn->argv != NULL && spawn->argv[0] != NULL);
    KELPIE_ASSERT((spawn->flags & KELPIE_OS_SPAWN_CONTROLLING_TERMINAL) == 0);
    return answer(guest(os)->run_ready(os, pid, spawn, out_step));
}

int kelpie__os_sync_all(struct kelpie_os *os) {
    return answer(guest(os)->sync_all(os));
}

int kelpie__os_halt(struct kelpie_os *os, bool is_power_off) {
    return answer(guest(os)->halt(os, is_power_off));
}

int kelpie__os_link_up(struct kelpie_os *os, const char *interface) {
    KELPIE_ASSERT(interface[0] != '\0');
    return answer(guest(os)->link_up(os, interface));
}

int kelpie__os_dial_host(struct kelpie_os *os, uint32_t port) {
    KELPIE_ASSERT(port > 0);
    return answer(guest(os)->dial_host(os, port));
}

/* ---- a real host's devices ------------------------------------------------------------------- */

int kelpie__os_claim_guest(struct kelpie_os *os, uint32_t cid) {
    KELPIE_ASSERT(cid > 2); /* vsock(7): the host's own are below */
    return os->host == NULL ? -ENODEV : answer(os->host->claim_guest(os, cid));
}

int kelpie__os_listen_guests(struct kelpie_os *os, uint32_t *out_port) {
    int listener = os->host == NULL ? -ENODEV : answer(os->host->listen_guests(os, out_port));
    KELPIE_ASSERT(listener < 0 || *out_port > 0);
    return listener;
}

int kelpie__os_guest_of(struct kelpie_os *os, int stream, uint32_t *out_cid) {
    KELPIE_ASSERT(stream >= 0);
    return os->host == NULL ? -ENODEV : answer(os->host->guest_of(os, stream, out_cid));
}

int kelpie__os_device_answers(struct kelpie_os *os, const char *path, uint32_t timeout_ms) {
    KELPIE_ASSERT(path[0] == '/');
    KELPIE_ASSERT(timeout_ms > 0);
    return os->host == NULL ? 0 : answer(os->host->device_answers(os, path, timeout_ms));
}
