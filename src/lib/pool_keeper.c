/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A pool's keeper, seen from outside: found, started, told to look, waited for. Whoever starts one
 * holds the pool's lock and gives it away with the process: there is no instant at which a second
 * one could start.
 */
#include <errno.h>

#include "lib/pool.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define KEEPER_BACKLOG 64
#define KEEPER_LOG_MODE 0600u
/* a connection that is refused at once is not asked for again at once */
#define KEEPER_RETRY_NS (10 * KELPIE_NS_PER_MS)

int kelpie__pool_poke(const struct kelpie_pool_directory *directory) {
    kelpie__pool_directory_check(directory);
    return kelpie__os_connect(directory->store->os, directory->directory, KELPIE_POOL_SOCKET_FILE);
}

static int keeper_spawn(struct kelpie_pool *pool, int listener, struct kelpie_error *error) {
    const struct kelpie_places *places = &pool->kelpie->places;
    struct kelpie_os *os = pool->kelpie->os;
    char program[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(listener >= 0);
    KELPIE_ASSERT(pool->directory.lock >= 0);
    int status = kelpie__places_program(places, "kelpie-keeper", program, sizeof(program), error);
    if (status < 0) {
        return status;
    }
    int log = kelpie__os_open(
        os, pool->directory.directory, KELPIE_POOL_LOG_FILE,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE, KEEPER_LOG_MODE);
    if (log < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -log, "open the log of pool \"%s\"",
                            pool->directory.entry);
    }
    const char *const argv[] = {"kelpie-keeper",    "--state-dir",         places->state_path,
                                "--runtime-dir",    places->runtime_path,  "--cache-dir",
                                places->cache_path, "--libexec-dir",       places->libexec_path,
                                "--name",           pool->directory.entry, NULL};
    const int handles[] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, log, pool->directory.lock,
                           listener};
    status = kelpie__program_start(os, program, argv, handles, KELPIE_ARRAY_COUNT(handles), error);
    kelpie__ignore(kelpie__os_close(os, log));
    return status;
}

int kelpie__pool_start_keeper(struct kelpie_pool *pool, struct kelpie_error *error) {
    struct kelpie_os *os = pool->kelpie->os;
    int directory = pool->directory.directory;
    kelpie__pool_handle_check(pool);
    KELPIE_ASSERT(pool->directory.lock >= 0);
    kelpie__ignore(kelpie__os_unlink(os, directory, KELPIE_POOL_SOCKET_FILE, false));
    int listener = kelpie__os_listen(os, directory, KELPIE_POOL_SOCKET_FILE, KEEPER_BACKLOG);
    if (listener < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -listener, "make the socket of pool \"%s\"",
                            pool->directory.entry);
    }
    int status = keeper_spawn(pool, listener, error);
    kelpie__ignore(kelpie__os_close(os, listener));
    KELPIE_SOMETIMES(os, "a keeper could not be started", status < 0);
    return status;
}

int kelpie__pool_ensure_keeper(struct kelpie_pool *pool, struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    kelpie__pool_handle_check(pool);
    int status = kelpie__pool_directory_lock(&pool->directory, &kept);
    if (status == KELPIE_E_BUSY) {
        return 0;
    }
    if (status == 0) {
        KELPIE_REACHED(pool->kelpie->os, "a pool had lost its keeper");
        status = kelpie__pool_start_keeper(pool, &kept);
        kelpie__pool_directory_unlock(&pool->directory); /* the keeper holds its own copy */
        KELPIE_ASSERT(pool->directory.lock == KELPIE_OS_NO_HANDLE);
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

static void wait_ended(void *context, uint32_t bits) {
    bool *has_ended = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(!*has_ended);
    *has_ended = true;
}

int kelpie__pool_wait(struct kelpie *kelpie, int connection, int64_t deadline_ns,
                      struct kelpie_error *error) {
    struct kelpie_loop *loop = kelpie->loop;
    bool has_ended = false;
    uint32_t slot = 0;
    KELPIE_ASSERT(kelpie->callback_depth == 0);
    if (connection < 0) { /* its keeper has no time, or has just died */
        int64_t soon_ns = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC) + KEEPER_RETRY_NS;
        return kelpie__turn(kelpie, soon_ns, error);
    }
    int status =
        kelpie__loop_watch(loop, connection, KELPIE_OS_READABLE, wait_ended, &has_ended, &slot);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(kelpie->os, connection)); /* nothing came over it */
        return kelpie__fail(error, status, 0, "wait for the keeper of a pool");
    }
    while (status == 0 && !has_ended && (deadline_ns < 0 || loop->now_ns < deadline_ns)) {
        status = kelpie__turn(kelpie, deadline_ns, error); /* bound: the caller's deadline */
        if (has_ended) {
            break;
        }
    }
    kelpie__loop_unwatch(loop, slot);
    kelpie__ignore(kelpie__os_close(kelpie->os, connection));
    return status;
}
