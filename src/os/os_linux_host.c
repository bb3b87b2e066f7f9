/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: what a host's devices do for virtual machines. vsock(7) from the host's side,
 * and whether a device answers at all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_linux.h"

#if !defined(__GLIBC__) /* musl's macros mix signs and sizes */
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif

#define HOST_VSOCK_DEVICE "/dev/vhost-vsock"
#define HOST_LISTEN_BACKLOG 4
#define HOST_COLLECT_MS 100 /* of a child that was killed; one that the device holds stays */

static int host_claim_guest(struct kelpie_os *os, uint32_t cid) {
    const uint64_t guest_cid = cid;
    kelpie__ignore(os != NULL);
    int device = open(HOST_VSOCK_DEVICE, O_RDWR | O_CLOEXEC);
    if (device < 0) {
        return -errno;
    }
    if (ioctl(device, VHOST_VSOCK_SET_GUEST_CID, &guest_cid) < 0) {
        int status = -errno;
        close(device);
        return status;
    }
    return device;
}

static int host_listen_guests(struct kelpie_os *os, uint32_t *out_port) {
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VMADDR_PORT_ANY};
    socklen_t size = sizeof(address);
    kelpie__ignore(os != NULL);
    int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        return -errno;
    }
    if (bind(listener, (const struct sockaddr *)&address, size) < 0 ||
        listen(listener, HOST_LISTEN_BACKLOG) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0) {
        int status = -errno;
        close(listener);
        return status;
    }
    *out_port = address.svm_port;
    return listener;
}

static int host_guest_of(struct kelpie_os *os, int stream, uint32_t *out_cid) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK};
    KELPIE_ASSERT(stream >= 0);
    socklen_t size = sizeof(address);
    kelpie__ignore(os != NULL);
    if (getpeername(stream, (struct sockaddr *)&address, &size) < 0) {
        return -errno;
    }
    if (address.svm_family != AF_VSOCK) {
        return -EPROTOTYPE;
    }
    *out_cid = address.svm_cid;
    return 0;
}

/* Ends the child, which may be past being ended: what a driver never answers holds it. */
static void host_collect(int child, bool has_ended) {
    KELPIE_ASSERT(child >= 0);
    siginfo_t info = {0};
    if (!has_ended) {
        struct pollfd wait = {.fd = child, .events = POLLIN};
        kelpie__ignore(syscall(SYS_pidfd_send_signal, child, SIGKILL, NULL, 0));
        kelpie__ignore(poll(&wait, 1, HOST_COLLECT_MS));
    }
    kelpie__ignore(waitid(P_PIDFD, (id_t)child, &info, WEXITED | WNOHANG | __WALL));
    close(child);
}

/* A process of its own, as no time limit ends an open(2). Without SIGCHLD, so that no wait() of an
 * embedder's sees it. */
static int host_device_answers(struct kelpie_os *os, const char *path, uint32_t timeout_ms) {
    int child = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(path[0] == '/');
    KELPIE_ASSERT(timeout_ms > 0);
    kelpie__ignore(os != NULL);
    long pid = syscall(SYS_clone, (unsigned long)CLONE_PIDFD, NULL, &child, NULL, 0UL);
    if (pid < 0) {
        return -errno;
    }
    if (pid == 0) {
        kelpie__ignore(open(path, O_RDWR | O_CLOEXEC | O_NOCTTY)); /* whatever the answer */
        _exit(0);
    }
    struct pollfd wait = {.fd = child, .events = POLLIN};
    int count = poll(&wait, 1, (int)timeout_ms);
    host_collect(child, count > 0);
    return count > 0 ? 0 : -ETIMEDOUT;
}

static const struct kelpie_os_host linux_host = {
    .claim_guest = host_claim_guest,
    .listen_guests = host_listen_guests,
    .guest_of = host_guest_of,
    .device_answers = host_device_answers,
};

void kelpie__os_linux_fill_host(struct kelpie_os *os) {
    KELPIE_ASSERT(os->host == NULL);
    os->host = &linux_host;
}
