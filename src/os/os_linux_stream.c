/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: unix streams, pipes, and bytes. A path of any length works: sockets are bound
 * and connected through /proc/self/fd/N/name (unix(7) has room for 107 bytes only).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/os_linux.h"

#if !defined(__GLIBC__) /* musl's macros mix signs and sizes */
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif

#define STREAM_HANDLES_MAX 16u /* passed with one message */

static_assert(STREAM_HANDLES_MAX >= KELPIE_OS_SPAWN_HANDLES_MAX,
              "what a child gets can be passed, too");

static int stream_address(int directory, const char *name, struct sockaddr_un *out) {
    char path[512];
    KELPIE_ASSERT(directory >= 0 || directory == KELPIE_OS_CWD);
    KELPIE_ASSERT(name[0] != '\0');
    int length = directory == KELPIE_OS_CWD
                     ? snprintf(path, sizeof(path), "%s", name)
                     : snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof(out->sun_path)) {
        return -ENAMETOOLONG;
    }
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out->sun_path, path, (size_t)length + 1);
    return 0;
}

static int stream_socket(void) {
    return kelpie__os_linux_result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

static int linux_listen(struct kelpie_os *os, int directory, const char *name, int backlog) {
    struct sockaddr_un address;
    KELPIE_ASSERT(backlog > 0);
    kelpie__ignore(os != NULL);
    int status = stream_address(directory, name, &address);
    int stream = status < 0 ? status : stream_socket();
    if (stream < 0) {
        return stream;
    }
    if (bind(stream, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(stream, backlog) < 0) {
        status = -errno;
        close(stream);
        return status;
    }
    return stream;
}

static int linux_accept(struct kelpie_os *os, int listener) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

static int linux_connect(struct kelpie_os *os, int directory, const char *name) {
    struct sockaddr_un address;
    KELPIE_ASSERT(directory >= 0 || directory == KELPIE_OS_CWD);
    kelpie__ignore(os != NULL);
    int status = stream_address(directory, name, &address);
    int stream = status < 0 ? status : stream_socket();
    if (stream < 0) {
        return stream;
    }
    if (connect(stream, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        status = -errno; /* EAGAIN: the listener's queue is full, unix(7) */
        close(stream);
        return status;
    }
    return stream;
}

static int linux_pair(struct kelpie_os *os, int out[2]) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, out));
}

static int linux_pipe(struct kelpie_os *os, int out[2]) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(pipe2(out, O_CLOEXEC | O_NONBLOCK));
}

static int linux_peer(struct kelpie_os *os, int stream, struct kelpie_os_peer *out) {
    struct ucred peer;
    socklen_t length = sizeof(peer);
    kelpie__ignore(os != NULL);
    if (getsockopt(stream, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        return -errno;
    }
    *out = (struct kelpie_os_peer){peer.pid, peer.uid, peer.gid};
    return 0;
}

/* Why a stream is not connected: a vsock(7), unlike others, keeps the error of its connect for
 * those who ask for it. */
static int64_t unconnected_reason(int stream) {
    int reason = 0;
    socklen_t size = sizeof(reason);
    KELPIE_ASSERT(stream >= 0);
    int status = getsockopt(stream, SOL_SOCKET, SO_ERROR, &reason, &size);
    KELPIE_ASSERT(reason >= 0);
    return status == 0 && reason != 0 ? -(int64_t)reason : -ENOTCONN;
}

static int64_t linux_read(struct kelpie_os *os, int handle, void *out, size_t count) {
    kelpie__ignore(os != NULL);
    ssize_t got = read(handle, out, count);
    if (got < 0 && errno == ENOTCONN) {
        return unconnected_reason(handle);
    }
    if (got < 0) {
        return errno == EINTR ? -EAGAIN : -errno;
    }
    return got;
}

/* Whether `handle` was seen not to be a socket. */
static uint64_t *no_socket_word(struct kelpie_os *os, int handle, uint64_t *out_bit) {
    unsigned index = (unsigned)handle;
    KELPIE_ASSERT(handle >= 0);
    *out_bit = UINT64_C(1) << (index % 64);
    return index < KELPIE_OS_LINUX_HANDLE_MAX ? &kelpie__os_linux_of(os)->is_no_socket[index / 64]
                                              : NULL;
}

/* Sockets are written with MSG_NOSIGNAL: the library runs in somebody else's process, where SIGPIPE
 * may kill. Our own programs ignore SIGPIPE, and only they write to pipes and files. MSG_DONTWAIT
 * is for a standard stream of the command: only `wait` sleeps. */
static int64_t linux_write(struct kelpie_os *os, int handle, const void *bytes, size_t count) {
    uint64_t bit = 0;
    uint64_t *word = no_socket_word(os, handle, &bit);
    bool may_be_socket = word == NULL || (*word & bit) == 0;
    ssize_t written = may_be_socket ? send(handle, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT) : -1;
    if (!may_be_socket || (written < 0 && errno == ENOTSOCK)) {
        if (word != NULL) {
            *word |= bit;
        }
        written = write(handle, bytes, count);
    }
    if (written < 0) {
        return errno == EINTR ? -EAGAIN : -errno;
    }
    return written;
}

static int64_t linux_send(struct kelpie_os *os, int stream, const void *bytes, size_t count,
                          const int *handles, uint32_t handle_count) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * STREAM_HANDLES_MAX)];
    } control = {0};
    struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    kelpie__ignore(os != NULL);
    KELPIE_ASSERT(handle_count <= STREAM_HANDLES_MAX);
    KELPIE_ASSERT(handle_count == 0 || handles != NULL);
    if (handle_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * handle_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * handle_count);
        memcpy(CMSG_DATA(header), handles, sizeof(int) * handle_count);
    }
    ssize_t sent = sendmsg(stream, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

/* Handles for which the caller has no room are closed, never lost. */
static void receive_handles(struct cmsghdr *header, int *handles, uint32_t room,
                            uint32_t *inout_count) {
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    KELPIE_ASSERT(*inout_count <= room);
    KELPIE_ASSERT(count <= STREAM_HANDLES_MAX);
    for (size_t i = 0; i < count; i += 1) {
        int handle = -1;
        memcpy(&handle, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
        if (*inout_count < room) {
            handles[*inout_count] = handle;
            *inout_count += 1;
        } else {
            close(handle);
        }
    }
    KELPIE_ASSERT(*inout_count <= room);
}

static int64_t linux_receive(struct kelpie_os *os, int stream, void *out, size_t count,
                             int *handles, uint32_t *inout_handle_count) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * STREAM_HANDLES_MAX)];
    } control;
    struct iovec piece = {.iov_base = out, .iov_len = count};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    uint32_t room = *inout_handle_count;
    kelpie__ignore(os != NULL);
    *inout_handle_count = 0;
    ssize_t got = recvmsg(stream, &message, MSG_CMSG_CLOEXEC);
    if (got < 0) {
        return -errno;
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    for (unsigned budget = STREAM_HANDLES_MAX; header != NULL && budget > 0; budget -= 1) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            receive_handles(header, handles, room, inout_handle_count);
        }
        header = CMSG_NXTHDR(&message, header);
    }
    KELPIE_ASSERT(*inout_handle_count <= room);
    return got;
}

static int linux_shut_write(struct kelpie_os *os, int stream) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(shutdown(stream, SHUT_WR));
}

static int linux_close(struct kelpie_os *os, int handle) {
    uint64_t bit = 0;
    uint64_t *word = no_socket_word(os, handle, &bit);
    if (word != NULL) {
        *word &= ~bit;
    }
    return kelpie__os_linux_result(close(handle));
}

static void linux_label(struct kelpie_os *os, int handle, const char *label) {
    /* for fault plans and traces only */
    kelpie__ignore(os != NULL && handle >= 0 && label != NULL);
}

void kelpie__os_linux_fill_stream(struct kelpie_os *os) {
    os->listen = linux_listen;
    os->accept = linux_accept;
    os->connect = linux_connect;
    os->pair = linux_pair;
    os->pipe = linux_pipe;
    os->peer = linux_peer;
    os->read = linux_read;
    os->write = linux_write;
    os->send = linux_send;
    os->receive = linux_receive;
    os->shut_write = linux_shut_write;
    os->close = linux_close;
    os->label = linux_label;
}
