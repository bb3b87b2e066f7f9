/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: drawn calls, many times over with other seeds. Amounts stay below what any kernel holds
 * in a stream; no stream travels through a stream (a circle of them is collected when the kernel
 * feels like it).
 */
#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define POOL_MAX 10u
#define RANDOM_CALLS 120u
#define STREAM_WRITES_MAX 12u
#define STREAM_PIECE_MAX 900u

enum pool_kind {
    POOL_NONE,
    POOL_FILE,
    POOL_STREAM,
    POOL_PIPE_READ,
    POOL_PIPE_WRITE,
    POOL_LISTENER,
};

struct pool {
    struct conform *conform;
    uint64_t state;
    int handles[POOL_MAX];
    enum pool_kind kinds[POOL_MAX];
    uint32_t writes[POOL_MAX]; /* since it was made: bounded */
    bool is_watched[POOL_MAX];
    uint32_t watch_count;
};

static const char *const names[] = {"a",     "b", "d",   "e", "d/a",  "d/b",    "d/e", "e/a",
                                    "d/e/a", "l", "l/a", ".", "d/..", "none/a", "a/",  "d/"};

static uint32_t below(struct pool *pool, uint32_t bound) {
    pool->state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t value = pool->state;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((value ^ (value >> 31)) % bound);
}

static struct pool pool_make(struct conform *conform) {
    struct pool pool = {.conform = conform, .state = conform->seed * 1000003};
    for (uint32_t i = 0; i < POOL_MAX; i += 1) {
        pool.handles[i] = CONFORM_NONE;
    }
    return pool;
}

static const char *drawn_name(struct pool *pool) {
    return names[below(pool, KELPIE_ARRAY_COUNT(names))];
}

static bool drawn_bool(struct pool *pool) {
    return below(pool, 2) == 1;
}

/* A place that is free, or POOL_MAX. */
static uint32_t pool_free(const struct pool *pool) {
    uint32_t place = 0;
    while (place < POOL_MAX && pool->handles[place] != CONFORM_NONE) {
        place += 1;
    }
    return place;
}

static void pool_put(struct pool *pool, int handle, enum pool_kind kind) {
    uint32_t place = pool_free(pool);
    if (handle < 0) {
        return;
    }
    KELPIE_ASSERT(place < POOL_MAX);
    pool->handles[place] = handle;
    pool->kinds[place] = kind;
    pool->writes[place] = 0;
    pool->is_watched[place] = false;
}

static void pool_close(struct pool *pool, uint32_t place) {
    if (pool->handles[place] == CONFORM_NONE) {
        return;
    }
    if (pool->is_watched[place]) {
        said(pool->conform, kelpie__os_watch(pool->conform->os, pool->handles[place], 0, 0),
             "forget");
        pool->watch_count -= 1;
    }
    say(pool->conform, "close %u", place);
    say_close(pool->conform, pool->handles[place]);
    pool->handles[place] = CONFORM_NONE;
    pool->kinds[place] = POOL_NONE;
}

static void pool_end(struct pool *pool) {
    for (uint32_t i = 0; i < POOL_MAX; i += 1) {
        pool_close(pool, i);
    }
}

/* The place of a drawn handle; POOL_MAX when there is none of this kind (POOL_NONE: any). */
static uint32_t pool_draw(struct pool *pool, enum pool_kind kind) {
    uint32_t first = below(pool, POOL_MAX);
    for (uint32_t i = 0; i < POOL_MAX; i += 1) {
        uint32_t place = (first + i) % POOL_MAX;
        if (pool->handles[place] != CONFORM_NONE &&
            (kind == POOL_NONE || pool->kinds[place] == kind)) {
            return place;
        }
    }
    return POOL_MAX;
}

/* ---- names ----------------------------------------------------------------------------------- */

static void random_open(struct pool *pool) {
    const char *name = drawn_name(pool);
    uint32_t flags = 1 + below(pool, 3);
    flags |= drawn_bool(pool) ? KELPIE_OS_OPEN_CREATE : 0;
    if ((flags & KELPIE_OS_OPEN_CREATE) != 0 && below(pool, 3) == 0) {
        flags |= KELPIE_OS_OPEN_EXCLUSIVE;
    }
    flags |= below(pool, 4) == 0 ? KELPIE_OS_OPEN_TRUNCATE : 0;
    flags |= below(pool, 6) == 0 ? KELPIE_OS_OPEN_APPEND : 0;
    flags |= below(pool, 5) == 0 ? KELPIE_OS_OPEN_FOLLOW : 0;
    if (below(pool, 6) == 0) {
        flags = KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY;
    }
    /* Linux of today and of yesterday disagree about these two together with CREATE. */
    if ((flags & KELPIE_OS_OPEN_WRITE) == 0) {
        flags &= ~(uint32_t)KELPIE_OS_OPEN_TRUNCATE;
    }
    if (pool_free(pool) < POOL_MAX) {
        pool_put(pool, say_open(pool->conform, name, flags), POOL_FILE);
    } else {
        pool_close(pool, below(pool, POOL_MAX));
    }
}

static void random_change_name(struct pool *pool) {
    struct conform *conform = pool->conform;
    struct kelpie_os *os = conform->os;
    const char *name = drawn_name(pool);
    const char *other = drawn_name(pool);
    bool flag = drawn_bool(pool);
    int status = 0;
    int directory = conform->directory;
    switch (below(pool, 6)) {
    case 0:
        status = kelpie__os_mkdir(os, directory, name, 0700);
        say(conform, "mkdir %s", name);
        break;
    case 1:
        status = kelpie__os_unlink(os, directory, name, flag);
        say(conform, "unlink %s %d", name, flag);
        break;
    case 2:
    case 3:
        status = kelpie__os_rename(os, directory, name, directory, other, flag);
        say(conform, "rename %s %s %d", name, other, flag);
        break;
    case 4:
        /* The script's links are made beside the seam: only where nothing is. */
        say(conform, "link l to %s", other);
        status = kelpie__os_unlink(os, directory, "l", false);
        if (status == 0 || status == -ENOENT) {
            status = conform->make_link(conform, other, "l");
        }
        break;
    default: {
        uint32_t place = pool_draw(pool, POOL_FILE);
        say(conform, "link %u %s", place, name);
        status = place == POOL_MAX ? 0 : kelpie__os_link(os, pool->handles[place], directory, name);
    } break;
    }
    said(conform, status, "status");
}

static void random_look(struct pool *pool) {
    char name[64];
    uint64_t cursor = 0;
    if (below(pool, 3) > 0) {
        say_stat(pool->conform, pool->conform->directory, drawn_name(pool), drawn_bool(pool));
        return;
    }
    int directory = kelpie__os_open(pool->conform->os, pool->conform->directory,
                                    drawn_bool(pool) ? "." : "d", KELPIE_OS_OPEN_READ, 0);
    unsigned count = 0;
    unsigned sum = 0; /* of the names, whatever their order */
    int status = directory < 0 ? directory : 1;
    while (status == 1 && count < 100) {
        status = kelpie__os_list(pool->conform->os, directory, &cursor, name, sizeof(name));
        if (status == 1) {
            count += 1;
            sum += (unsigned)name[0] * 7 + (unsigned)strlen(name);
        }
    }
    said(pool->conform, status, "list");
    say(pool->conform, "%u names, %u", count, sum);
    say_close(pool->conform, directory);
}

static void random_use_file(struct pool *pool) {
    struct conform *conform = pool->conform;
    struct kelpie_os *os = conform->os;
    uint32_t place = pool_draw(pool, POOL_FILE);
    uint32_t number = below(pool, 20);
    char text[24];
    if (place == POOL_MAX) {
        return;
    }
    int file = pool->handles[place];
    snprintf(text, sizeof(text), "<%u>", below(pool, 100000));
    say(conform, "%u:", place);
    switch (below(pool, 10)) {
    case 0:
        said(conform, kelpie__os_pwrite(os, file, text, strlen(text), number), "pwrite");
        break;
    case 1:
        say_write(conform, file, text);
        break;
    case 2:
        say_read(conform, file, 1 + number);
        break;
    case 3:
        say_pread(conform, file, 60, number);
        break;
    case 4:
        said(conform, kelpie__os_truncate(os, file, number), "truncate");
        break;
    case 5:
        said(conform, kelpie__os_lock(os, file), "lock");
        break;
    case 6:
        said(conform, kelpie__os_lock_shared(os, file), "lock_shared");
        break;
    case 7:
        say_stat(conform, file, "", true);
        break;
    case 8:
        said(conform, kelpie__os_sync(os, file), "sync");
        break;
    default:
        pool_close(pool, place);
        break;
    }
}

static void random_names(struct conform *conform) {
    struct pool pool = pool_make(conform);
    for (unsigned i = 0; i < RANDOM_CALLS; i += 1) {
        switch (below(&pool, 4)) {
        case 0:
            random_open(&pool);
            break;
        case 1:
            random_change_name(&pool);
            break;
        case 2:
            random_look(&pool);
            break;
        default:
            random_use_file(&pool);
            break;
        }
    }
    pool_end(&pool);
}

/* ---- streams --------------------------------------------------------------------------------- */

static void random_make_stream(struct pool *pool) {
    int ends[2] = {CONFORM_NONE, CONFORM_NONE};
    bool is_pipe = drawn_bool(pool);
    uint32_t room = 0;
    for (uint32_t i = 0; i < POOL_MAX; i += 1) {
        room += pool->handles[i] == CONFORM_NONE ? 1 : 0;
    }
    if (room < 3) { /* one is kept for a handle that comes */
        pool_close(pool, below(pool, POOL_MAX));
        return;
    }
    if (is_pipe) {
        say_pipe(pool->conform, ends);
    } else {
        say_pair(pool->conform, ends);
    }
    pool_put(pool, ends[0], is_pipe ? POOL_PIPE_READ : POOL_STREAM);
    pool_put(pool, ends[1], is_pipe ? POOL_PIPE_WRITE : POOL_STREAM);
}

static void random_write(struct pool *pool, uint32_t place) {
    static const char bytes[STREAM_PIECE_MAX] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct conform *conform = pool->conform;
    uint32_t first = below(pool, 30);
    uint32_t count = drawn_bool(pool) ? 1 + below(pool, 6) : 1 + below(pool, STREAM_PIECE_MAX - 30);
    if (pool->writes[place] >= STREAM_WRITES_MAX) {
        return;
    }
    pool->writes[place] += 1;
    uint32_t cargo = below(pool, 3) == 0 ? pool_draw(pool, POOL_PIPE_WRITE) : POOL_MAX;
    if (pool->kinds[place] == POOL_STREAM && cargo != POOL_MAX) {
        say(conform, "send %u by %u", cargo, place);
        said(conform,
             kelpie__os_send(conform->os, pool->handles[place], bytes + first, count,
                             &pool->handles[cargo], 1),
             "send");
        return;
    }
    say(conform, "%u:", place);
    said(conform, kelpie__os_write(conform->os, pool->handles[place], bytes + first, count),
         "write");
}

static void random_read(struct pool *pool, uint32_t place) {
    struct conform *conform = pool->conform;
    char bytes[1024];
    int handle = CONFORM_NONE;
    uint32_t room = pool_free(pool) < POOL_MAX && drawn_bool(pool) ? 1 : 0;
    uint32_t count = drawn_bool(pool) ? 1 + below(pool, 10) : 1024;
    say(conform, "%u:", place);
    if (pool->kinds[place] == POOL_STREAM && drawn_bool(pool)) {
        int64_t got = kelpie__os_receive(conform->os, pool->handles[place], bytes, count,
                                         room > 0 ? &handle : NULL, &room);
        said(conform, got, "receive");
        say(conform, "%u handles, %.*s", room, got > 0 ? (int)(got < 20 ? got : 20) : 0, bytes);
        if (room > 0) {
            pool_put(pool, handle, POOL_PIPE_WRITE);
        }
        return;
    }
    say_read(conform, pool->handles[place], count);
}

static void random_use_stream(struct pool *pool) {
    struct conform *conform = pool->conform;
    uint32_t place = pool_draw(pool, POOL_NONE);
    if (place == POOL_MAX) {
        return;
    }
    switch (below(pool, 8)) {
    case 0:
    case 1:
        random_write(pool, place);
        break;
    case 2:
    case 3:
    case 4:
        random_read(pool, place);
        break;
    case 5:
        say(conform, "%u:", place);
        if (pool->watch_count == 0) {
            say_ready(conform, pool->handles[place], "now");
        }
        break;
    case 6:
        say(conform, "%u:", place);
        said(conform,
             below(pool, 3) > 0 ? 0 : kelpie__os_shut_write(conform->os, pool->handles[place]),
             "shut_write");
        break;
    default:
        if (below(pool, 3) == 0) {
            pool_close(pool, place);
        }
        break;
    }
}

static void random_streams(struct conform *conform) {
    struct pool pool = pool_make(conform);
    for (unsigned i = 0; i < RANDOM_CALLS * 2; i += 1) {
        if (below(&pool, 8) == 0) {
            random_make_stream(&pool);
        } else {
            random_use_stream(&pool);
        }
    }
    pool_end(&pool);
}

/* The same with watches, and a wait now and then. In the order of the pool: Linux keeps a place in
 * its queue for whatever was woken in vain, too (wait_order has what can be relied on). */
static void random_wait(struct pool *pool) {
    struct kelpie_os_event events[POOL_MAX];
    uint32_t bits[POOL_MAX] = {0};
    uint32_t place = pool_draw(pool, POOL_NONE);
    if (place != POOL_MAX && drawn_bool(pool)) {
        uint32_t wanted = 1 + below(pool, 3);
        say(pool->conform, "%u:", place);
        said(pool->conform,
             kelpie__os_watch(pool->conform->os, pool->handles[place], wanted, place), "watch");
        pool->watch_count += pool->is_watched[place] ? 0 : 1;
        pool->is_watched[place] = true;
        return;
    }
    int count = kelpie__os_wait(pool->conform->os, events, POOL_MAX, 0);
    said(pool->conform, count, "wait");
    for (int i = 0; i < count; i += 1) {
        bits[events[i].cookie] = events[i].bits;
    }
    for (uint32_t i = 0; i < POOL_MAX; i += 1) {
        if (bits[i] != 0) {
            say(pool->conform, "  %u: %x", i, bits[i]);
        }
    }
}

static void random_waits(struct conform *conform) {
    struct pool pool = pool_make(conform);
    for (unsigned i = 0; i < RANDOM_CALLS * 2; i += 1) {
        uint32_t what = below(&pool, 8);
        if (what == 0) {
            random_make_stream(&pool);
        } else if (what < 4) {
            random_wait(&pool);
        } else {
            random_use_stream(&pool);
        }
    }
    pool_end(&pool);
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void random_socket_name(struct pool *pool) {
    static const char *const sockets[] = {"s", "t", "d/s"};
    struct conform *conform = pool->conform;
    const char *name = sockets[below(pool, 3)];
    const char *other = sockets[below(pool, 3)];
    int directory = conform->directory;
    switch (below(pool, 8)) {
    case 0:
        say(conform, "unlink %s", name);
        said(conform, kelpie__os_unlink(conform->os, directory, name, false), "unlink");
        break;
    case 1:
        say(conform, "rename %s %s", name, other);
        said(conform, kelpie__os_rename(conform->os, directory, name, directory, other, true),
             "rename");
        break;
    case 2:
        said(conform, kelpie__os_mkdir(conform->os, directory, "d", 0700), "mkdir");
        break;
    case 3:
    case 4:
        say(conform, "listen %s", name);
        if (pool_free(pool) < POOL_MAX) {
            int backlog = 1 + (int)below(pool, 3);
            pool_put(pool,
                     said_handle(conform, kelpie__os_listen(conform->os, directory, name, backlog),
                                 "listen"),
                     POOL_LISTENER);
        }
        break;
    default:
        say(conform, "connect %s", name);
        if (pool_free(pool) < POOL_MAX) {
            pool_put(
                pool,
                said_handle(conform, kelpie__os_connect(conform->os, directory, name), "connect"),
                POOL_STREAM);
        }
        break;
    }
}

static void random_sockets(struct conform *conform) {
    struct pool pool = pool_make(conform);
    for (unsigned i = 0; i < RANDOM_CALLS * 2; i += 1) {
        uint32_t what = below(&pool, 4);
        uint32_t listener = pool_draw(&pool, POOL_LISTENER);
        if (what == 0) {
            random_socket_name(&pool);
        } else if (what == 1 && listener != POOL_MAX && pool_free(&pool) < POOL_MAX) {
            say(conform, "%u:", listener);
            pool_put(&pool,
                     said_handle(conform, kelpie__os_accept(conform->os, pool.handles[listener]),
                                 "accept"),
                     POOL_STREAM);
        } else {
            random_use_stream(&pool);
        }
        if (pool_free(&pool) == POOL_MAX) {
            pool_close(&pool, below(&pool, POOL_MAX));
        }
    }
    pool_end(&pool);
}

const struct conform_script conform_scripts_random[] = {
    {"random_names", random_names, CONFORM_RANDOM},
    {"random_streams", random_streams, CONFORM_RANDOM},
    {"random_waits", random_waits, CONFORM_RANDOM},
    {"random_sockets", random_sockets, CONFORM_RANDOM},
    {NULL, NULL, 0},
};
