/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The table's operations on streams, signals and terminals, and those that every kind of handle
 * has (read, write, close). What a fault asks of a call is done here.
 */
#include <errno.h>
#include <stdio.h>

#include "sim/disk.h"
#include "sim/stream.h"

#define STREAM_ADDRESS_BYTES_MAX 108u /* sockaddr_un.sun_path */
#define STREAM_PIPE_ATOMIC 4096u      /* PIPE_BUF */

/* ---- what the world and its faults do to bytes ----------------------------------------------- */

static bool is_byte_stream(const struct sim_object *object) {
    return object->operations->pread == NULL && object->operations->pwrite == NULL &&
           object->operations->ready != NULL;
}

/* How many bytes this call may move at most. `whole`: so many are never cut. */
static size_t moved_at_most(const struct sim_call *call, const struct sim_object *object,
                            size_t count, size_t whole) {
    struct sim_world *world = object->machine->world;
    uint32_t chance = kelpie__sim_world_options(world)->partial_billionth;
    KELPIE_ASSERT(count > 0);
    if (call->fault_short > 0) {
        return call->fault_short < count ? (size_t)call->fault_short : count;
    }
    if (chance == 0 || count <= whole || !is_byte_stream(object) ||
        !kelpie__sim_chance(world, SIM_STREAM_CHANNEL, chance)) {
        return count;
    }
    return 1 + (size_t)kelpie__sim_below(world, SIM_STREAM_CHANNEL, count);
}

/* What a fault does to what was read. */
static int64_t damaged(const struct sim_call *call, void *out, int64_t got) {
    if (got > 0 && call->fault_mutate > 0) {
        uint64_t hash = call->fault_mutate;
        ((uint8_t *)out)[hash % (uint64_t)got] ^= (uint8_t)(1u << (hash >> 32) % 8);
    }
    return got > 0 && call->fault_drop ? -EAGAIN : got;
}

static int64_t read_bytes(const struct sim_call *call, void *out, size_t count) {
    struct sim_object *object = kelpie__sim_handle_object(call->process, call->handle);
    if (object == NULL || object->operations->read == NULL) {
        return -EBADF;
    }
    count = moved_at_most(call, object, count, 1);
    return damaged(call, out, object->operations->read(call->process, object, out, count));
}

static int64_t write_bytes(const struct sim_call *call, const void *bytes, size_t count) {
    struct sim_object *object = kelpie__sim_handle_object(call->process, call->handle);
    if (object == NULL || object->operations->write == NULL) {
        return -EBADF;
    }
    if (call->fault_drop) {
        return (int64_t)count;
    }
    bool is_pipe = object->operations->send == NULL;
    count = moved_at_most(call, object, count, is_pipe ? STREAM_PIPE_ATOMIC : 1);
    return object->operations->write(call->process, object, bytes, count);
}

static int64_t send_bytes(const struct sim_call *call, const void *bytes, size_t count,
                          const int *handles, uint32_t n) {
    struct sim_object *object = kelpie__sim_handle_object(call->process, call->handle);
    if (object == NULL) {
        return -EBADF;
    }
    if (object->operations->send == NULL) {
        return -ENOTSOCK;
    }
    if (call->fault_drop) {
        return (int64_t)count;
    }
    count = moved_at_most(call, object, count, 1);
    return object->operations->send(call->process, object, bytes, count, handles, n);
}

static int64_t receive_bytes(const struct sim_call *call, void *out, size_t count, int *handles,
                             uint32_t *inout_n) {
    struct sim_object *object = kelpie__sim_handle_object(call->process, call->handle);
    if (object == NULL || object->operations->receive == NULL) {
        *inout_n = 0;
        return object == NULL ? -EBADF : -ENOTSOCK;
    }
    count = moved_at_most(call, object, count, 1);
    int64_t got = object->operations->receive(call->process, object, out, count, handles, inout_n);
    int64_t status = damaged(call, out, got);
    while (status < 0 && *inout_n > 0) { /* dropped with their bytes; bound: their number */
        *inout_n -= 1;
        kelpie__ignore(kelpie__sim_handle_close(call->process, handles[*inout_n]));
    }
    return status;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static int64_t sim_read(struct kelpie_os *os, int handle, void *out, size_t count) {
    struct sim_call call;
    int64_t got = kelpie__sim_enter(&call, os, SIM_OP_read, handle, NULL)
                      ? read_bytes(&call, out, count)
                      : -call.fault_errno;
    return kelpie__sim_leave(&call, got, out, got > 0 ? (size_t)got : 0);
}

static int64_t sim_write(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    struct sim_call call;
    int64_t done = kelpie__sim_enter(&call, os, SIM_OP_write, handle, NULL)
                       ? write_bytes(&call, bytes, count)
                       : -call.fault_errno;
    return kelpie__sim_leave(&call, done, bytes, done > 0 ? (size_t)done : 0);
}

static int64_t sim_send(struct kelpie_os *os, int stream, const void *bytes, size_t count,
                        const int *handles, uint32_t n) {
    struct sim_call call;
    int64_t done = kelpie__sim_enter(&call, os, SIM_OP_send, stream, NULL)
                       ? send_bytes(&call, bytes, count, handles, n)
                       : -call.fault_errno;
    return kelpie__sim_leave(&call, done, bytes, done > 0 ? (size_t)done : 0);
}

static int64_t sim_receive(struct kelpie_os *os, int stream, void *out, size_t count, int *handles,
                           uint32_t *inout_n) {
    struct sim_call call;
    int64_t got = 0;
    if (kelpie__sim_enter(&call, os, SIM_OP_receive, stream, NULL)) {
        got = receive_bytes(&call, out, count, handles, inout_n);
    } else {
        got = -call.fault_errno;
        *inout_n = 0;
    }
    return kelpie__sim_leave(&call, got, out, got > 0 ? (size_t)got : 0);
}

static int sim_close(struct kelpie_os *os, int handle) {
    struct sim_call call;
    bool goes_on = kelpie__sim_enter(&call, os, SIM_OP_close, handle, NULL);
    int status = kelpie__sim_handle_close(call.process, handle); /* it is gone in any case */
    return (int)kelpie__sim_leave(&call, goes_on ? status : -call.fault_errno, NULL, 0);
}

static void sim_label(struct kelpie_os *os, int handle, const char *label) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_object *object = kelpie__sim_handle_object(process, handle);
    KELPIE_ASSERT(label[0] != '\0');
    if (object != NULL) {
        object->label = label;
    }
}

/* ---- making streams -------------------------------------------------------------------------- */

/* Installs the objects and gives up the caller's references; on failure nothing is left. */
static int install(struct sim_process *process, struct sim_object *const *objects, int *out,
                   unsigned count) {
    int status = 0;
    unsigned done = 0;
    KELPIE_ASSERT(count > 0);
    while (done < count && status >= 0) {
        status = kelpie__sim_handle_install(process, objects[done]);
        out[done] = status;
        done += status >= 0 ? 1 : 0;
    }
    for (unsigned i = count; i > 0; i -= 1) {
        kelpie__sim_object_unref(objects[i - 1]);
    }
    while (status < 0 && done > 0) { /* bound: those that were installed */
        done -= 1;
        kelpie__ignore(kelpie__sim_handle_close(process, out[done]));
    }
    return status < 0 ? status : 0;
}

static int install_one(struct sim_process *process, struct sim_object *object) {
    int handle = KELPIE_OS_NO_HANDLE;
    int status = install(process, &object, &handle, 1);
    return status < 0 ? status : handle;
}

/* On Linux a name relative to a directory is reached through /proc/self/fd (os_linux_stream.c): a
 * handle that is not open is a missing name there. */
static bool is_directory_missing(struct sim_process *process, int directory) {
    return directory != KELPIE_OS_CWD && kelpie__sim_handle_object(process, directory) == NULL;
}

static bool is_address_too_long(int directory, const char *name) {
    char prefix[32];
    int length = directory == KELPIE_OS_CWD
                     ? 0
                     : snprintf(prefix, sizeof(prefix), "/proc/self/fd/%d/", directory);
    size_t room = STREAM_ADDRESS_BYTES_MAX - (size_t)length;
    KELPIE_ASSERT(length >= 0 && (size_t)length < sizeof(prefix));
    for (size_t i = 0; i < room; i += 1) {
        if (name[i] == '\0') {
            return false;
        }
    }
    return true;
}

static int make_listener(struct sim_process *process, int directory, const char *name,
                         int backlog) {
    struct sim_object *object = NULL;
    if (is_address_too_long(directory, name) || is_directory_missing(process, directory)) {
        return is_address_too_long(directory, name) ? -ENAMETOOLONG : -ENOENT;
    }
    int status = kelpie__sim_listener_create(process, (uint32_t)backlog, &object);
    int handle = status < 0 ? status : install_one(process, object);
    if (handle < 0) {
        return handle;
    }
    status = kelpie__sim_disk_bind(process, directory, name,
                                   kelpie__sim_listener_socket(kelpie__sim_listener_of(object)));
    if (status < 0) {
        kelpie__ignore(kelpie__sim_handle_close(process, handle));
        return status;
    }
    return handle;
}

static int sim_listen(struct kelpie_os *os, int directory, const char *name, int backlog) {
    struct sim_call call;
    int handle = kelpie__sim_enter(&call, os, SIM_OP_listen, directory, name)
                     ? make_listener(call.process, directory, name, backlog)
                     : -call.fault_errno;
    return (int)kelpie__sim_leave(&call, handle, NULL, 0);
}

static int take_connection(struct sim_process *process, int handle) {
    struct sim_object *object = kelpie__sim_handle_object(process, handle);
    struct sim_object *connection = NULL;
    if (object == NULL) {
        return -EBADF;
    }
    struct sim_listener *listener = kelpie__sim_listener_of(object);
    if (listener == NULL) {
        return kelpie__sim_stream_of(object) == NULL ? -ENOTSOCK : -EINVAL;
    }
    int status = kelpie__sim_listener_first(listener, &connection);
    if (status < 0) {
        return status;
    }
    int accepted = kelpie__sim_handle_install(process, connection);
    if (accepted >= 0) { /* else it waits on */
        kelpie__sim_listener_drop_first(listener);
    }
    return accepted;
}

static int sim_accept(struct kelpie_os *os, int listener) {
    struct sim_call call;
    int handle = kelpie__sim_enter(&call, os, SIM_OP_accept, listener, NULL)
                     ? take_connection(call.process, listener)
                     : -call.fault_errno;
    return (int)kelpie__sim_leave(&call, handle, NULL, 0);
}

static int make_connection(struct sim_process *process, int directory, const char *name) {
    struct sim_object *object = NULL;
    uint64_t socket = 0;
    if (is_address_too_long(directory, name) || is_directory_missing(process, directory)) {
        return is_address_too_long(directory, name) ? -ENAMETOOLONG : -ENOENT;
    }
    int status = kelpie__sim_stream_create(process->machine, &object);
    int handle = status < 0 ? status : install_one(process, object);
    if (handle < 0) {
        return handle;
    }
    status = kelpie__sim_disk_socket(process, directory, name, &socket);
    if (status == 0) {
        status = kelpie__sim_listener_connect(process, socket, kelpie__sim_stream_of(object));
    }
    if (status < 0) {
        kelpie__ignore(kelpie__sim_handle_close(process, handle));
        return status;
    }
    return handle;
}

static int sim_connect(struct kelpie_os *os, int directory, const char *name) {
    struct sim_call call;
    int handle = kelpie__sim_enter(&call, os, SIM_OP_connect, directory, name)
                     ? make_connection(call.process, directory, name)
                     : -call.fault_errno;
    return (int)kelpie__sim_leave(&call, handle, NULL, 0);
}

static int sim_pair(struct kelpie_os *os, int out[2]) {
    struct sim_call call;
    struct sim_object *ends[2];
    int handles[2] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_pair, KELPIE_OS_NO_HANDLE, NULL)) {
        status = kelpie__sim_stream_pair(call.process, ends);
        status = status < 0 ? status : install(call.process, ends, handles, 2);
    } else {
        status = -call.fault_errno;
    }
    if (status == 0) {
        out[0] = handles[0];
        out[1] = handles[1];
    }
    return (int)kelpie__sim_leave(&call, status, handles, sizeof(handles));
}

static int sim_pipe(struct kelpie_os *os, int out[2]) {
    struct sim_call call;
    struct sim_object *ends[2];
    int handles[2] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_pipe, KELPIE_OS_NO_HANDLE, NULL)) {
        status = kelpie__sim_pipe_create(call.process->machine, ends);
        status = status < 0 ? status : install(call.process, ends, handles, 2);
    } else {
        status = -call.fault_errno;
    }
    if (status == 0) {
        out[0] = handles[0];
        out[1] = handles[1];
    }
    return (int)kelpie__sim_leave(&call, status, handles, sizeof(handles));
}

/* ---- streams and terminals by handle --------------------------------------------------------- */

static int sim_peer(struct kelpie_os *os, int stream, struct kelpie_os_peer *out) {
    struct sim_call call;
    struct kelpie_os_peer peer = {0};
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_peer, stream, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, stream);
        status = object == NULL ? -EBADF : kelpie__sim_stream_peer(object, &peer);
    } else {
        status = -call.fault_errno;
    }
    if (status == 0) {
        *out = peer;
    }
    return (int)kelpie__sim_leave(&call, status, &peer, sizeof(peer));
}

static int sim_shut_write(struct kelpie_os *os, int stream) {
    struct sim_call call;
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_shut_write, stream, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, stream);
        status = object == NULL ? -EBADF : kelpie__sim_stream_shut_write(object);
    } else {
        status = -call.fault_errno;
    }
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}

static int open_signals(struct sim_process *process, const int *signals, uint32_t count) {
    struct sim_object *object = NULL;
    uint64_t set = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(signals[i] > 0 && signals[i] <= 64);
        set |= UINT64_C(1) << (signals[i] - 1);
    }
    int status = kelpie__sim_signals_create(process, set, &object);
    return status < 0 ? status : install_one(process, object);
}

static int sim_open_signals(struct kelpie_os *os, const int *signals, uint32_t count) {
    struct sim_call call;
    int handle = kelpie__sim_enter(&call, os, SIM_OP_open_signals, KELPIE_OS_NO_HANDLE, NULL)
                     ? open_signals(call.process, signals, count)
                     : -call.fault_errno;
    return (int)kelpie__sim_leave(&call, handle, signals, count * sizeof(*signals));
}

static int sim_take_signal(struct kelpie_os *os, int handle) {
    struct sim_call call;
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_take_signal, handle, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, handle);
        status = object == NULL ? -EBADF : kelpie__sim_signals_take(object);
    } else {
        status = -call.fault_errno;
    }
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}

static int sim_is_terminal(struct kelpie_os *os, int handle) {
    struct sim_call call;
    int status = 0;
    if (kelpie__sim_enter(&call, os, SIM_OP_is_terminal, handle, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, handle);
        status = object != NULL && kelpie__sim_terminal_is(object) ? 1 : 0;
    }
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}

static int sim_terminal_size(struct kelpie_os *os, int handle, uint16_t *out_rows,
                             uint16_t *out_columns) {
    struct sim_call call;
    uint16_t size[2] = {0, 0};
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_terminal_size, handle, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, handle);
        status = object == NULL ? -EBADF : kelpie__sim_terminal_size(object, &size[0], &size[1]);
    } else {
        status = -call.fault_errno;
    }
    if (status == 0) {
        *out_rows = size[0];
        *out_columns = size[1];
    }
    return (int)kelpie__sim_leave(&call, status, size, sizeof(size));
}

static int sim_set_terminal_size(struct kelpie_os *os, int handle, uint16_t rows,
                                 uint16_t columns) {
    struct sim_call call;
    const uint16_t size[2] = {rows, columns};
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_set_terminal_size, handle, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, handle);
        status = object == NULL ? -EBADF : kelpie__sim_terminal_resize(object, rows, columns);
    } else {
        status = -call.fault_errno;
    }
    return (int)kelpie__sim_leave(&call, status, size, sizeof(size));
}

static int sim_set_terminal_raw(struct kelpie_os *os, int handle, bool is_raw) {
    struct sim_call call;
    int status = -1;
    if (kelpie__sim_enter(&call, os, SIM_OP_set_terminal_raw, handle, NULL)) {
        struct sim_object *object = kelpie__sim_handle_object(call.process, handle);
        status = object == NULL ? -EBADF : kelpie__sim_terminal_set_raw(object, is_raw);
    } else {
        status = -call.fault_errno;
    }
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}

void kelpie__sim_os_fill_streams(struct kelpie_os *os) {
    KELPIE_ASSERT(os != NULL && os->read == NULL);
    os->listen = sim_listen;
    os->accept = sim_accept;
    os->connect = sim_connect;
    os->pair = sim_pair;
    os->pipe = sim_pipe;
    os->peer = sim_peer;
    os->read = sim_read;
    os->write = sim_write;
    os->send = sim_send;
    os->receive = sim_receive;
    os->shut_write = sim_shut_write;
    os->close = sim_close;
    os->label = sim_label;
    os->open_signals = sim_open_signals;
    os->take_signal = sim_take_signal;
    os->is_terminal = sim_is_terminal;
    os->terminal_size = sim_terminal_size;
    os->set_terminal_size = sim_set_terminal_size;
    os->set_terminal_raw = sim_set_terminal_raw;
}
