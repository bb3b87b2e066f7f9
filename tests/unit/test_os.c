/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The seam's contract on the real system: time, streams, files, locks. Goal: what a simulated
 * system has to answer as well. Method: each fact by itself, through the wrappers; a descriptor
 * that leaks fails its test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os_call.h"

struct world {
    struct kelpie_os *os;
    char path[64];
    int directory;
    unsigned handles;
};

static unsigned count_handles(void) {
    unsigned count = 0;
    DIR *stream = opendir("/proc/self/fd");
    assert_non_null(stream);
    while (readdir(stream) != NULL) {
        count += 1;
    }
    closedir(stream);
    return count;
}

static int world_make(void **state) {
    struct world *world = calloc(1, sizeof(*world));
    assert_non_null(world);
    world->os = kelpie__os_linux_create();
    snprintf(world->path, sizeof(world->path), "/tmp/kelpie-os-XXXXXX");
    assert_non_null(mkdtemp(world->path));
    world->directory = kelpie__os_open(world->os, KELPIE_OS_CWD, world->path,
                                       KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    assert_true(world->directory >= 0);
    world->handles = count_handles();
    *state = world;
    return 0;
}

static int world_end(void **state) {
    struct world *world = *state;
    char command[128];
    assert_int_equal(count_handles(), world->handles);
    kelpie__os_close(world->os, world->directory);
    kelpie__os_linux_destroy(world->os);
    snprintf(command, sizeof(command), "rm -rf %s", world->path);
    assert_int_equal(system(command), 0);
    free(world);
    return 0;
}

static void test_time_goes_on_and_deadlines_end_waits(void **state) {
    struct world *world = *state;
    struct kelpie_os_event event;
    int64_t start_ns = kelpie__os_now(world->os, KELPIE_OS_CLOCK_MONOTONIC);
    assert_int_equal(kelpie__os_wait(world->os, &event, 1, start_ns + 20000000), 0);
    int64_t end_ns = kelpie__os_now(world->os, KELPIE_OS_CLOCK_MONOTONIC);
    assert_true(end_ns - start_ns >= 20000000);
    assert_true(end_ns - start_ns < 2000000000);
    assert_int_equal(kelpie__os_wait(world->os, &event, 1, 0), 0); /* long past: no wait */
    assert_true(kelpie__os_now(world->os, KELPIE_OS_CLOCK_WALL) > INT64_C(1600000000000000000));
}

static void test_memory_is_zeroed_and_resized(void **state) {
    struct world *world = *state;
    uint8_t *bytes = kelpie__alloc(world->os, 1000);
    assert_non_null(bytes);
    for (unsigned i = 0; i < 1000; i += 1) {
        assert_int_equal(bytes[i], 0);
    }
    memset(bytes, 7, 1000);
    bytes = kelpie__resize(world->os, bytes, 1000, 100000);
    assert_non_null(bytes);
    assert_int_equal(bytes[999], 7);
    kelpie__free(world->os, bytes, 100000);
}

static void test_stream_full_is_eagain_and_readable_is_told(void **state) {
    struct world *world = *state;
    struct kelpie_os_event event = {0};
    char bytes[4096] = "x";
    int pair[2];
    assert_int_equal(kelpie__os_pair(world->os, pair), 0);
    assert_int_equal(kelpie__os_read(world->os, pair[1], bytes, sizeof(bytes)), -EAGAIN);
    assert_int_equal(kelpie__os_watch(world->os, pair[1], KELPIE_OS_READABLE, 77), 0);
    int64_t total = 0;
    int64_t count = 1;
    while (count > 0) {
        count = kelpie__os_write(world->os, pair[0], bytes, sizeof(bytes));
        total += count > 0 ? count : 0;
    }
    assert_int_equal(count, -EAGAIN);
    assert_true(total > 10000);
    assert_int_equal(kelpie__os_wait(world->os, &event, 1, -1), 1);
    assert_int_equal(event.cookie, 77);
    assert_true((event.bits & KELPIE_OS_READABLE) != 0);
    assert_int_equal(kelpie__os_watch(world->os, pair[1], 0, 0), 0);
    kelpie__os_close(world->os, pair[0]);
    kelpie__os_close(world->os, pair[1]);
}

static void test_closed_peer_is_end_epipe_or_reset(void **state) {
    struct world *world = *state;
    char bytes[8] = "unread";
    int pair[2];
    assert_int_equal(kelpie__os_pair(world->os, pair), 0);
    kelpie__os_close(world->os, pair[1]);
    assert_int_equal(kelpie__os_read(world->os, pair[0], bytes, sizeof(bytes)), 0);
    assert_int_equal(kelpie__os_write(world->os, pair[0], bytes, 1), -EPIPE); /* and no SIGPIPE */
    kelpie__os_close(world->os, pair[0]);
    assert_int_equal(kelpie__os_pair(world->os, pair), 0);
    assert_int_equal(kelpie__os_write(world->os, pair[0], bytes, 6), 6);
    kelpie__os_close(world->os, pair[1]); /* with bytes unread */
    assert_int_equal(kelpie__os_read(world->os, pair[0], bytes, sizeof(bytes)), -ECONNRESET);
    kelpie__os_close(world->os, pair[0]);
}

static void test_socket_in_a_long_path(void **state) {
    struct world *world = *state;
    struct kelpie_os_peer peer;
    char name[121];
    memset(name, 'd', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(kelpie__os_mkdir(world->os, world->directory, name, 0700), 0);
    int deep = kelpie__os_open(world->os, world->directory, name,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    assert_true(deep >= 0);
    assert_int_equal(kelpie__os_connect(world->os, deep, "s"), -ENOENT);
    int listener = kelpie__os_listen(world->os, deep, "s", 1);
    assert_true(listener >= 0);
    assert_int_equal(kelpie__os_accept(world->os, listener), -EAGAIN);
    int client = kelpie__os_connect(world->os, deep, "s");
    assert_true(client >= 0);
    int server = kelpie__os_accept(world->os, listener);
    assert_true(server >= 0);
    assert_int_equal(kelpie__os_peer(world->os, server, &peer), 0);
    assert_int_equal(peer.pid, getpid());
    assert_int_equal(peer.uid, getuid());
    kelpie__os_close(world->os, server);
    kelpie__os_close(world->os, client);
    kelpie__os_close(world->os, listener);
    assert_int_equal(kelpie__os_connect(world->os, deep, "s"), -ECONNREFUSED);
    kelpie__os_close(world->os, deep);
}

static void test_full_backlog_is_eagain(void **state) {
    struct world *world = *state;
    int clients[8];
    unsigned count = 0;
    int listener = kelpie__os_listen(world->os, world->directory, "s", 1);
    assert_true(listener >= 0);
    int client = 0;
    while (client >= 0 && count < 8) {
        client = kelpie__os_connect(world->os, world->directory, "s");
        if (client >= 0) {
            clients[count] = client;
            count += 1;
        }
    }
    assert_int_equal(client, -EAGAIN);
    while (count > 0) {
        count -= 1;
        kelpie__os_close(world->os, clients[count]);
    }
    kelpie__os_close(world->os, listener);
}

static void test_handles_are_passed(void **state) {
    struct world *world = *state;
    int pair[2];
    int pipe[2];
    int got[2] = {-1, -1};
    uint32_t count = 2;
    char byte = 'x';
    assert_int_equal(kelpie__os_pair(world->os, pair), 0);
    assert_int_equal(kelpie__os_pipe(world->os, pipe), 0);
    assert_int_equal(kelpie__os_send(world->os, pair[0], &byte, 1, &pipe[1], 1), 1);
    assert_int_equal(kelpie__os_receive(world->os, pair[1], &byte, 1, got, &count), 1);
    assert_int_equal(count, 1);
    assert_int_equal(kelpie__os_write(world->os, got[0], "y", 1), 1);
    assert_int_equal(kelpie__os_read(world->os, pipe[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    /* Those without room are closed, not lost. */
    assert_int_equal(kelpie__os_send(world->os, pair[0], &byte, 1, &pipe[1], 1), 1);
    count = 0;
    assert_int_equal(kelpie__os_receive(world->os, pair[1], &byte, 1, NULL, &count), 1);
    kelpie__os_close(world->os, got[0]);
    kelpie__os_close(world->os, pipe[0]);
    kelpie__os_close(world->os, pipe[1]);
    kelpie__os_close(world->os, pair[0]);
    kelpie__os_close(world->os, pair[1]);
}

static int make_file(struct world *world, const char *name, const char *text) {
    int file = kelpie__os_open(world->os, world->directory, name,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_EXCLUSIVE,
                               0600);
    assert_true(file >= 0);
    if (text[0] != '\0') {
        assert_int_equal(kelpie__os_pwrite(world->os, file, text, strlen(text), 0), strlen(text));
    }
    return file;
}

static void test_files(void **state) {
    struct world *world = *state;
    struct kelpie_os_stat status;
    struct kelpie_os_space space;
    char bytes[16] = "";
    int file = make_file(world, "a", "hello");
    assert_int_equal(kelpie__os_sync(world->os, file), 0);
    assert_int_equal(kelpie__os_pread(world->os, file, bytes, sizeof(bytes), 1), 4);
    assert_memory_equal(bytes, "ello", 4);
    assert_int_equal(kelpie__os_truncate(world->os, file, 2), 0);
    assert_int_equal(kelpie__os_stat(world->os, file, "", false, &status), 0);
    assert_int_equal(status.size_bytes, 2);
    assert_int_equal(status.kind, KELPIE_OS_KIND_FILE);
    assert_int_equal(status.mode, 0600);
    const struct timespec late[2] = {{.tv_sec = 15000000000}, {.tv_sec = 15000000000}};
    struct stat kept; /* some file systems have no such year */
    assert_int_equal(futimens(file, late), 0);
    assert_int_equal(fstat(file, &kept), 0);
    assert_int_equal(kelpie__os_stat(world->os, file, "", false, &status), 0);
    assert_true(status.modified_ns == INT64_MAX || kept.st_mtim.tv_sec < late[1].tv_sec);
    assert_int_equal(kelpie__os_space(world->os, file, &space), 0);
    assert_true(space.available_bytes > 0 && !space.is_read_only);
    int copy = make_file(world, "b", "");
    assert_int_equal(kelpie__os_clone_range(world->os, file, 0, copy, 0, 2), 0);
    assert_int_equal(kelpie__os_pread(world->os, copy, bytes, sizeof(bytes), 0), 2);
    kelpie__os_close(world->os, copy);
    kelpie__os_close(world->os, file);
    int dir = world->directory;
    assert_int_equal(kelpie__os_rename(world->os, dir, "a", dir, "b", false), -EEXIST);
    assert_int_equal(kelpie__os_rename(world->os, dir, "a", dir, "b", true), 0);
    assert_int_equal(kelpie__os_unlink(world->os, dir, "a", false), -ENOENT);
    assert_int_equal(kelpie__os_unlink(world->os, dir, "b", false), 0);
    assert_int_equal(kelpie__os_sync(world->os, dir), 0);
}

static void test_links_are_not_followed(void **state) {
    struct world *world = *state;
    char path[128];
    snprintf(path, sizeof(path), "%s/link", world->path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(kelpie__os_open(world->os, world->directory, "link", KELPIE_OS_OPEN_READ, 0),
                     -ELOOP);
    int file = kelpie__os_open(world->os, world->directory, "link",
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    assert_true(file >= 0);
    kelpie__os_close(world->os, file);
}

static void test_list_names_every_entry_once(void **state) {
    struct world *world = *state;
    bool seen[50] = {false};
    char name[64];
    for (unsigned i = 0; i < 50; i += 1) {
        snprintf(name, sizeof(name), "entry%u", i);
        kelpie__os_close(world->os, make_file(world, name, ""));
    }
    uint64_t cursor = 0;
    unsigned count = 0;
    while (kelpie__os_list(world->os, world->directory, &cursor, name, sizeof(name)) == 1) {
        unsigned index = (unsigned)strtoul(name + 5, NULL, 10);
        assert_false(seen[index]);
        seen[index] = true;
        count += 1;
    }
    assert_int_equal(count, 50);
}

static void test_lock_is_dropped_at_death(void **state) {
    struct world *world = *state;
    int file = make_file(world, "lock", "");
    int again = kelpie__os_open(world->os, world->directory, "lock",
                                KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        int own = kelpie__os_open(world->os, world->directory, "lock",
                                  KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
        byte = kelpie__os_lock(world->os, own) == 0 ? 'y' : 'n';
        _exit(write(ready[1], &byte, 1) == 1 ? pause() : 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(kelpie__os_lock(world->os, file), -EAGAIN);
    kill(child, 9);
    waitpid(child, NULL, 0);
    assert_int_equal(kelpie__os_lock(world->os, file), 0);
    assert_int_equal(kelpie__os_lock(world->os, again), -EAGAIN); /* per open, not per process */
    kelpie__os_close(world->os, file);
    assert_int_equal(kelpie__os_lock(world->os, again), 0);
    kelpie__os_close(world->os, again);
    close(ready[0]);
    close(ready[1]);
}

static void test_link_names_an_open_file(void **state) {
    struct world *world = *state;
    struct kelpie_os_stat first;
    struct kelpie_os_stat second;
    int file = make_file(world, "a", "text");
    int dir = world->directory;
    assert_int_equal(kelpie__os_mkdir(world->os, dir, "sub", 0700), 0);
    int sub =
        kelpie__os_open(world->os, dir, "sub", KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    assert_true(sub >= 0);
    assert_int_equal(kelpie__os_link(world->os, file, sub, "b"), 0);
    assert_int_equal(kelpie__os_link(world->os, file, sub, "b"), -EEXIST);
    assert_int_equal(kelpie__os_stat(world->os, dir, "a", false, &first), 0);
    assert_int_equal(kelpie__os_stat(world->os, sub, "b", false, &second), 0);
    assert_int_equal(first.inode, second.inode);
    assert_int_equal(kelpie__os_unlink(world->os, dir, "a", false), 0);
    assert_int_equal(kelpie__os_link(world->os, file, dir, "c"), 0); /* "b" is left */
    assert_int_equal(kelpie__os_unlink(world->os, sub, "b", false), 0);
    assert_int_equal(kelpie__os_unlink(world->os, dir, "c", false), 0);
    assert_int_equal(kelpie__os_link(world->os, file, dir, "d"), -ENOENT);
    kelpie__os_close(world->os, sub);
    kelpie__os_close(world->os, file);
}

static void test_shared_locks_exclude_the_exclusive_one(void **state) {
    struct world *world = *state;
    int files[3];
    files[0] = make_file(world, "lock", "");
    for (unsigned i = 1; i < 3; i += 1) {
        files[i] = kelpie__os_open(world->os, world->directory, "lock", KELPIE_OS_OPEN_READ, 0);
        assert_true(files[i] >= 0);
    }
    assert_int_equal(kelpie__os_lock_shared(world->os, files[0]), 0);
    assert_int_equal(kelpie__os_lock_shared(world->os, files[1]), 0);
    assert_int_equal(kelpie__os_lock(world->os, files[2]), -EAGAIN);
    kelpie__os_close(world->os, files[0]);
    assert_int_equal(kelpie__os_lock(world->os, files[1]), 0); /* the last one may change it */
    assert_int_equal(kelpie__os_lock_shared(world->os, files[2]), -EAGAIN);
    assert_int_equal(kelpie__os_lock_shared(world->os, files[1]), 0);
    assert_int_equal(kelpie__os_lock_shared(world->os, files[2]), 0);
    kelpie__os_close(world->os, files[1]);
    kelpie__os_close(world->os, files[2]);
}

/* A file system without holes passes, too: it has one range. */
static void test_data_is_found_between_holes(void **state) {
    struct world *world = *state;
    uint64_t start = 0;
    uint64_t end = 0;
    int file = make_file(world, "sparse", "");
    assert_int_equal(kelpie__os_next_data(world->os, file, 0, &start, &end), 0);
    assert_int_equal(kelpie__os_truncate(world->os, file, 8u << 20), 0);
    assert_int_equal(kelpie__os_pwrite(world->os, file, "x", 1, 5u << 20), 1);
    assert_int_equal(kelpie__os_next_data(world->os, file, 0, &start, &end), 1);
    assert_true(start <= 5u << 20 && end > 5u << 20 && end <= 8u << 20);
    assert_int_equal(kelpie__os_next_data(world->os, file, (5u << 20) + 1, &start, &end), 1);
    assert_true(start == (5u << 20) + 1);
    assert_int_equal(kelpie__os_next_data(world->os, file, 8u << 20, &start, &end), 0);
    kelpie__os_close(world->os, file);
}

static void test_own_memory_and_page_map(void **state) {
    struct world *world = *state;
    char *pages = aligned_alloc(4096, 4 * 4096);
    uint8_t map = 0;
    char copy[5] = "";
    assert_non_null(pages);
    memset(pages, 1, 4 * 4096);
    memcpy(pages, "read", 5);
    assert_int_equal(kelpie__os_page_map(world->os, getpid(), (uint64_t)(uintptr_t)pages, &map, 4),
                     0);
    assert_int_equal(map, 0x0f); /* present or swapped, all four; nothing is said of others */
    assert_int_equal(
        kelpie__os_read_memory(world->os, getpid(), (uint64_t)(uintptr_t)pages, copy, 5), 5);
    assert_string_equal(copy, "read");
    assert_int_equal(
        kelpie__os_write_memory(world->os, getpid(), (uint64_t)(uintptr_t)pages, "writ", 5), 5);
    assert_string_equal(pages, "writ");
    assert_int_equal(kelpie__os_write_memory(world->os, getpid(), 4096, "x", 1), -EFAULT);
    assert_int_equal(kelpie__os_read_memory(world->os, getpid(), 4096, copy, 1), -EFAULT);
    free(pages);
}

#define WORLD_TEST(test) cmocka_unit_test_setup_teardown(test, world_make, world_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD_TEST(test_time_goes_on_and_deadlines_end_waits),
        WORLD_TEST(test_memory_is_zeroed_and_resized),
        WORLD_TEST(test_stream_full_is_eagain_and_readable_is_told),
        WORLD_TEST(test_closed_peer_is_end_epipe_or_reset),
        WORLD_TEST(test_socket_in_a_long_path),
        WORLD_TEST(test_full_backlog_is_eagain),
        WORLD_TEST(test_handles_are_passed),
        WORLD_TEST(test_files),
        WORLD_TEST(test_links_are_not_followed),
        WORLD_TEST(test_list_names_every_entry_once),
        WORLD_TEST(test_lock_is_dropped_at_death),
        WORLD_TEST(test_link_names_an_open_file),
        WORLD_TEST(test_shared_locks_exclude_the_exclusive_one),
        WORLD_TEST(test_data_is_found_between_holes),
        WORLD_TEST(test_own_memory_and_page_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
