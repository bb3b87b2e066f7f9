/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A system of memory alone, for tests of what is above the seam: virtual time that moves only when
 * somebody waits, connected pairs of bounded byte queues, allocations that are counted and can be
 * made to fail. In "rough" mode reads and writes are cut short and readiness comes in another
 * order, all from one seed.
 */
#ifndef KELPIE_TESTS_FAKE_OS_H
#define KELPIE_TESTS_FAKE_OS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base.h"
#include "os/os.h"

#define FAKE_HANDLE_MAX 16
#define FAKE_QUEUE_BYTES_MAX 65536u

struct fake_handle {
    bool is_open;
    int peer; /* KELPIE_OS_NO_HANDLE: it was closed */
    uint32_t watched;
    uint64_t cookie;
    size_t count; /* bytes to be read from this end */
    size_t capacity;
    uint8_t queue[FAKE_QUEUE_BYTES_MAX];
};

struct fake_os {
    struct kelpie_os os; /* first: the table's argument is the whole */
    int64_t now_ns;
    uint64_t state; /* of the generator; 0: smooth mode */
    uint64_t allocated_bytes;
    uint64_t allocation_count;
    uint64_t failing_allocation; /* counted from 1; 0: none */
    uint64_t read_count;
    uint64_t write_count;
    uint64_t wait_count;
    size_t write_bytes_max; /* of one call, as seen */
    int read_error;         /* of the next read; then it is 0 again */
    int write_error;
    struct fake_handle handles[FAKE_HANDLE_MAX];
};

/* splitmix64: a test's only source of chance. */
static inline uint64_t fake_random(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t value = *state;
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static inline size_t fake_cut(struct fake_os *fake, size_t count) {
    if (fake->state == 0 || count == 0) {
        return count;
    }
    uint64_t draw = fake_random(&fake->state);
    return draw % 4 == 0 ? 1 : draw % 4 == 1 ? count : 1 + (size_t)(draw >> 8) % count;
}

static inline struct fake_os *fake_of(struct kelpie_os *os) {
    return (struct fake_os *)(void *)os;
}

static inline struct fake_handle *fake_handle(struct fake_os *fake, int handle) {
    KELPIE_ASSERT(handle >= 0 && handle < FAKE_HANDLE_MAX);
    KELPIE_ASSERT(fake->handles[handle].is_open);
    return &fake->handles[handle];
}

static inline int64_t fake_now(struct kelpie_os *os, enum kelpie_os_clock clock) {
    (void)clock;
    return fake_of(os)->now_ns;
}

static inline void *fake_memory(struct kelpie_os *os, void *old, size_t old_bytes,
                                size_t new_bytes) {
    struct fake_os *fake = fake_of(os);
    if (new_bytes == 0) {
        free(old);
        fake->allocated_bytes -= old_bytes;
        return NULL;
    }
    fake->allocation_count += 1;
    if (fake->allocation_count == fake->failing_allocation) {
        return NULL;
    }
    void *memory = old == NULL ? calloc(1, new_bytes) : realloc(old, new_bytes);
    KELPIE_ASSERT(memory != NULL);
    fake->allocated_bytes += new_bytes - old_bytes;
    return memory;
}

static inline int fake_random_bytes(struct kelpie_os *os, void *out, size_t count) {
    uint64_t state = (uint64_t)fake_of(os)->now_ns;
    for (size_t i = 0; i < count; i += 1) {
        ((uint8_t *)out)[i] = (uint8_t)fake_random(&state);
    }
    return 0;
}

static inline int fake_watch(struct kelpie_os *os, int handle, uint32_t bits, uint64_t cookie) {
    struct fake_handle *entry = fake_handle(fake_of(os), handle);
    entry->watched = bits;
    entry->cookie = cookie;
    return 0;
}

static inline uint32_t fake_ready(struct fake_os *fake, const struct fake_handle *entry) {
    bool has_peer = entry->peer != KELPIE_OS_NO_HANDLE;
    const struct fake_handle *peer = has_peer ? &fake->handles[entry->peer] : NULL;
    uint32_t bits = has_peer ? 0 : KELPIE_OS_HANGUP;
    bits |= entry->count > 0 || !has_peer ? KELPIE_OS_READABLE : 0;
    bits |= !has_peer || peer->count < peer->capacity ? KELPIE_OS_WRITABLE : 0;
    return bits & (entry->watched | KELPIE_OS_HANGUP);
}

/* Time moves to the deadline only when nothing is ready. With neither the test would hang: EDEADLK.
 */
static inline int fake_wait(struct kelpie_os *os, struct kelpie_os_event *out, uint32_t max,
                            int64_t deadline_ns) {
    struct fake_os *fake = fake_of(os);
    uint32_t count = 0;
    uint64_t first = fake->state == 0 ? 0 : fake_random(&fake->state);
    fake->wait_count += 1;
    for (uint32_t i = 0; i < FAKE_HANDLE_MAX && count < max; i += 1) {
        const struct fake_handle *entry = &fake->handles[(first + i) % FAKE_HANDLE_MAX];
        uint32_t bits = entry->is_open && entry->watched != 0 ? fake_ready(fake, entry) : 0;
        if (bits != 0) {
            out[count] = (struct kelpie_os_event){.cookie = entry->cookie, .bits = bits};
            count += 1;
        }
    }
    if (count == 0 && deadline_ns < 0) {
        return -EDEADLK;
    }
    if (count == 0 && deadline_ns > fake->now_ns) {
        fake->now_ns = deadline_ns;
    }
    return (int)count;
}

static inline int fake_pair(struct kelpie_os *os, int out[2]) {
    struct fake_os *fake = fake_of(os);
    int found = 0;
    for (int i = 0; i < FAKE_HANDLE_MAX && found < 2; i += 1) {
        if (!fake->handles[i].is_open) {
            out[found] = i;
            found += 1;
        }
    }
    KELPIE_ASSERT(found == 2);
    for (int i = 0; i < 2; i += 1) {
        struct fake_handle *entry = &fake->handles[out[i]];
        entry->is_open = true;
        entry->peer = out[1 - i];
        entry->watched = 0;
        entry->count = 0;
        entry->capacity = FAKE_QUEUE_BYTES_MAX;
    }
    return 0;
}

static inline int64_t fake_read(struct kelpie_os *os, int handle, void *out, size_t count) {
    struct fake_os *fake = fake_of(os);
    struct fake_handle *entry = fake_handle(fake, handle);
    fake->read_count += 1;
    if (fake->read_error != 0) {
        int status = fake->read_error;
        fake->read_error = 0;
        return status;
    }
    if (entry->count == 0) {
        return entry->peer == KELPIE_OS_NO_HANDLE ? 0 : -EAGAIN;
    }
    size_t taken = fake_cut(fake, entry->count < count ? entry->count : count);
    memcpy(out, entry->queue, taken);
    memmove(entry->queue, entry->queue + taken, entry->count - taken);
    entry->count -= taken;
    return (int64_t)taken;
}

static inline int64_t fake_write(struct kelpie_os *os, int handle, const void *bytes,
                                 size_t count) {
    struct fake_os *fake = fake_of(os);
    const struct fake_handle *entry = fake_handle(fake, handle);
    fake->write_count += 1;
    fake->write_bytes_max = count > fake->write_bytes_max ? count : fake->write_bytes_max;
    if (fake->write_error != 0) {
        int status = fake->write_error;
        fake->write_error = 0;
        return status;
    }
    if (entry->peer == KELPIE_OS_NO_HANDLE) {
        return -EPIPE;
    }
    struct fake_handle *peer = &fake->handles[entry->peer];
    size_t room = peer->capacity - peer->count;
    if (room == 0) {
        return -EAGAIN;
    }
    size_t taken = fake_cut(fake, room < count ? room : count);
    memcpy(peer->queue + peer->count, bytes, taken);
    peer->count += taken;
    return (int64_t)taken;
}

static inline int fake_close(struct kelpie_os *os, int handle) {
    struct fake_os *fake = fake_of(os);
    struct fake_handle *entry = fake_handle(fake, handle);
    KELPIE_ASSERT(entry->watched == 0);
    if (entry->peer != KELPIE_OS_NO_HANDLE) {
        fake->handles[entry->peer].peer = KELPIE_OS_NO_HANDLE;
    }
    entry->is_open = false;
    return 0;
}

/* `seed` 0: smooth. Gives a system to fake_destroy. */
static inline struct fake_os *fake_create(uint64_t seed) {
    struct fake_os *fake = calloc(1, sizeof(*fake));
    KELPIE_ASSERT(fake != NULL);
    fake->now_ns = 1000;
    fake->state = seed;
    fake->os.now = fake_now;
    fake->os.memory = fake_memory;
    fake->os.random = fake_random_bytes;
    fake->os.watch = fake_watch;
    fake->os.wait = fake_wait;
    fake->os.pair = fake_pair;
    fake->os.read = fake_read;
    fake->os.write = fake_write;
    fake->os.close = fake_close;
    return fake;
}

/* Nothing may be left: no memory, no handle. */
static inline void fake_destroy(struct fake_os *fake) {
    KELPIE_ASSERT(fake->allocated_bytes == 0);
    for (int i = 0; i < FAKE_HANDLE_MAX; i += 1) {
        KELPIE_ASSERT(!fake->handles[i].is_open);
    }
    free(fake);
}

#endif
