/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: the table's life, time, memory, identity, and waiting by epoll. See os.h for the
 * contract.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "os/os_linux.h"

#define NS_PER_S 1000000000
#define NS_PER_MS 1000000
#define WAIT_EVENTS_MAX 64u

static_assert(offsetof(struct kelpie_os_linux, os) == 0, "the table is the first of its context");

int kelpie__os_linux_result(long result) {
    KELPIE_ASSERT(result >= -1 && result <= INT_MAX);
    return result < 0 ? -errno : (int)result;
}

static int64_t linux_now(struct kelpie_os *os, enum kelpie_os_clock clock) {
    static const clockid_t ids[] = {
        [KELPIE_OS_CLOCK_MONOTONIC] = CLOCK_MONOTONIC,
        [KELPIE_OS_CLOCK_WALL] = CLOCK_REALTIME,
        [KELPIE_OS_CLOCK_RAW] = CLOCK_MONOTONIC_RAW,
    };
    struct timespec now = {0};
    kelpie__ignore(os != NULL);
    KELPIE_ASSERT((size_t)clock < KELPIE_ARRAY_COUNT(ids));
    int status = clock_gettime(ids[clock], &now);
    KELPIE_ASSERT(status == 0); /* these clocks always exist */
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static uint64_t linux_cycles(struct kelpie_os *os) {
    kelpie__ignore(os != NULL);
#if defined(__x86_64__)
    return __rdtsc();
#else
    return 0;
#endif
}

static int linux_random(struct kelpie_os *os, void *out, size_t count) {
    size_t done = 0;
    kelpie__ignore(os != NULL);
    /* getrandom(2): signals may cut it short */
    for (unsigned budget = 1000; done < count; budget -= 1) {
        ssize_t got = getrandom((char *)out + done, count - done, 0);
        if (got < 0 && (errno != EINTR || budget == 0)) {
            return -errno;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static void *linux_memory(struct kelpie_os *os, void *old, size_t old_bytes, size_t new_bytes) {
    KELPIE_ASSERT(old != NULL || old_bytes == 0);
    kelpie__ignore(os != NULL && old_bytes == 0);
    if (new_bytes == 0) {
        free(old);
        return NULL;
    }
    return realloc(old, new_bytes);
}

static int linux_identity(struct kelpie_os *os, struct kelpie_os_identity *out) {
    kelpie__ignore(os != NULL);
    *out = (struct kelpie_os_identity){getpid(), geteuid(), getegid()};
    return 0;
}

static const char *linux_environment(struct kelpie_os *os, const char *name) {
    kelpie__ignore(os != NULL);
    return getenv(name);
}

static int linux_real_path(struct kelpie_os *os, const char *path, char *out, size_t capacity) {
    char resolved[PATH_MAX];
    KELPIE_ASSERT(capacity > 1);
    kelpie__ignore(os != NULL);
    if (realpath(path, resolved) == NULL) {
        return -errno;
    }
    size_t length = strlen(resolved);
    if (length >= capacity) {
        return -ENAMETOOLONG;
    }
    memcpy(out, resolved, length + 1);
    return 0;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static int linux_watch(struct kelpie_os *os, int handle, uint32_t bits, uint64_t cookie) {
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(
        (bits & ~(uint32_t)(KELPIE_OS_READABLE | KELPIE_OS_WRITABLE | KELPIE_OS_HANGUP)) == 0);
    int epoll = kelpie__os_linux_of(os)->epoll;
    struct epoll_event event = {.data.u64 = cookie};
    KELPIE_ASSERT(epoll >= 0);
    if (bits == 0) {
        return kelpie__os_linux_result(epoll_ctl(epoll, EPOLL_CTL_DEL, handle, &event));
    }
    event.events = ((bits & KELPIE_OS_READABLE) != 0 ? (uint32_t)EPOLLIN : 0) |
                   ((bits & KELPIE_OS_WRITABLE) != 0 ? (uint32_t)EPOLLOUT : 0);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, handle, &event) == 0) {
        return 0;
    }
    return errno != EEXIST
               ? -errno
               : kelpie__os_linux_result(epoll_ctl(epoll, EPOLL_CTL_MOD, handle, &event));
}

/* epoll_pwait2 (Linux 5.11) counts in nanoseconds; before it, milliseconds are rounded up, never
 * down into a spin. */
static int wait_events(int epoll, struct epoll_event *events, int max, int64_t left_ns) {
    KELPIE_ASSERT(epoll >= 0);
    KELPIE_ASSERT(max > 0);
#if defined(SYS_epoll_pwait2)
    struct timespec timeout = {.tv_sec = (time_t)(left_ns / NS_PER_S),
                               .tv_nsec = (long)(left_ns % NS_PER_S)};
    long count = syscall(SYS_epoll_pwait2, epoll, events, max, left_ns < 0 ? NULL : &timeout, NULL,
                         (size_t)_NSIG / 8);
    if (count >= 0 || errno != ENOSYS) {
        return (int)count;
    }
#endif
    int64_t left_ms = left_ns < 0 ? -1 : left_ns / NS_PER_MS + (left_ns % NS_PER_MS > 0 ? 1 : 0);
    return epoll_wait(epoll, events, max, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
}

static int linux_wait(struct kelpie_os *os, struct kelpie_os_event *out, uint32_t max,
                      int64_t deadline_ns) {
    struct epoll_event events[WAIT_EVENTS_MAX];
    int64_t left_ns = -1;
    KELPIE_ASSERT(max > 0);
    if (deadline_ns >= 0) {
        left_ns = deadline_ns - linux_now(os, KELPIE_OS_CLOCK_MONOTONIC);
        left_ns = left_ns < 0 ? 0 : left_ns;
    }
    int room = (int)(max < WAIT_EVENTS_MAX ? max : WAIT_EVENTS_MAX);
    int count = wait_events(kelpie__os_linux_of(os)->epoll, events, room, left_ns);
    if (count < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    KELPIE_ASSERT(count <= room);
    for (int i = 0; i < count; i += 1) {
        uint32_t bits = events[i].events;
        out[i].cookie = events[i].data.u64;
        out[i].bits = ((bits & EPOLLIN) != 0 ? (uint32_t)KELPIE_OS_READABLE : 0) |
                      ((bits & EPOLLOUT) != 0 ? (uint32_t)KELPIE_OS_WRITABLE : 0) |
                      ((bits & (EPOLLHUP | EPOLLERR)) != 0 ? (uint32_t)KELPIE_OS_HANGUP : 0);
    }
    return count;
}

static int linux_wait_handle(struct kelpie_os *os) {
    return kelpie__os_linux_of(os)->epoll;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct kelpie_os *kelpie__os_linux_create(void) {
    struct kelpie_os_linux *linux_os = calloc(1, sizeof(*linux_os));
    if (linux_os == NULL) {
        return NULL;
    }
    linux_os->entropy = -1;
    linux_os->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (linux_os->epoll < 0) {
        free(linux_os);
        return NULL;
    }
    struct kelpie_os *os = &linux_os->os;
    os->context = linux_os;
    os->now = linux_now;
    os->cycles = linux_cycles;
    os->random = linux_random;
    os->memory = linux_memory;
    os->identity = linux_identity;
    os->environment = linux_environment;
    os->real_path = linux_real_path;
    os->watch = linux_watch;
    os->wait = linux_wait;
    os->wait_handle = linux_wait_handle;
    kelpie__os_linux_fill_process(os);
    kelpie__os_linux_fill_stream(os);
    kelpie__os_linux_fill_file(os);
    kelpie__os_linux_fill_terminal(os);
    kelpie__os_linux_fill_host(os);
    KELPIE_ASSERT(kelpie__os_linux_of(os) == linux_os);
    return os;
}

void kelpie__os_linux_destroy(struct kelpie_os *os) {
    if (os == NULL) {
        return;
    }
    struct kelpie_os_linux *linux_os = kelpie__os_linux_of(os);
    KELPIE_ASSERT(linux_os->epoll >= 0);
    close(linux_os->epoll);
    if (linux_os->entropy >= 0) {
        close(linux_os->entropy);
    }
    free(linux_os);
}

/* Opened in the direction in which it is never used, so that using it fails as before. Process 1 of
 * a guest has no /dev yet, but its streams are open. */
static void occupy_stream(int stream) {
    if (fcntl(stream, F_GETFD) < 0) {
        int place = open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        KELPIE_ASSERT(place == stream || place < 0); /* the lowest free one */
    }
}

void kelpie__os_linux_prepare_process(void) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    int status = sigaction(SIGPIPE, &ignore, NULL);
    KELPIE_ASSERT(status == 0);
    status = sigaction(SIGXFSZ, &ignore, NULL); /* a limit of file size is EFBIG, which is told */
    KELPIE_ASSERT(status == 0);
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream += 1) {
        occupy_stream(stream);
    }
}
