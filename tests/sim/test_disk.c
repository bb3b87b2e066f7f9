/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulated file system answers as Linux does, and keeps through a crash what Linux
 * promises and no more. Method: an embedder's process works on the disk of a world through its os
 * table; crashes are counted through completely; 100,000 operations run beside a model.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/disk_internal.h"
#include "sim/machine.h"

#define READ KELPIE_OS_OPEN_READ
#define WRITE KELPIE_OS_OPEN_WRITE
#define CREATE KELPIE_OS_OPEN_CREATE
#define EXCLUSIVE KELPIE_OS_OPEN_EXCLUSIVE
#define TRUNCATE KELPIE_OS_OPEN_TRUNCATE
#define APPEND KELPIE_OS_OPEN_APPEND
#define DIRECTORY KELPIE_OS_OPEN_DIRECTORY
#define FOLLOW KELPIE_OS_OPEN_FOLLOW
#define CWD KELPIE_OS_CWD
#define LIMIT 100000u

struct fixture {
    struct sim_world *world;
    struct sim_process *process;
    struct kelpie_os *os;
    struct sim_disk *disk;
    int work; /* /work */
};

static void begin(struct fixture *f, enum sim_disk_profile profile) {
    const struct sim_options options = {.seed = 7, .disk_profile = profile};
    f->world = kelpie__sim_world_create(&options, NULL);
    assert_non_null(f->world);
    f->process = kelpie__sim_process_adopt(f->world, "test");
    assert_non_null(f->process);
    f->os = &f->process->os;
    f->disk = kelpie__sim_world_disk(f->world);
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work", 0755), 0);
    f->work = kelpie__os_open(f->os, CWD, "/work", READ | DIRECTORY, 0);
    assert_true(f->work >= 0);
}

static void end(struct fixture *f) {
    kelpie__sim_disk_check(f->disk);
    kelpie__sim_world_destroy(f->world);
}

static int open_at(struct fixture *f, const char *name, uint32_t flags) {
    return kelpie__os_open(f->os, f->work, name, flags, 0640);
}

static void shut(struct fixture *f, int handle) {
    assert_true(handle >= 0);
    assert_int_equal(kelpie__os_close(f->os, handle), 0);
}

static void make(struct fixture *f, const char *name, const char *text) {
    int file = open_at(f, name, WRITE | CREATE | TRUNCATE);
    assert_true(file >= 0);
    if (text[0] != '\0') {
        assert_int_equal(kelpie__os_pwrite(f->os, file, text, strlen(text), 0), strlen(text));
    }
    shut(f, file);
}

/* Opens, tells the answer, closes. */
static int try_open(struct fixture *f, const char *name, uint32_t flags) {
    int handle = open_at(f, name, flags);
    if (handle >= 0) {
        shut(f, handle);
        return 0;
    }
    return handle;
}

static int64_t size_of(struct fixture *f, const char *name) {
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(f->os, f->work, name, false, &stat);
    return status < 0 ? status : (int64_t)stat.size_bytes;
}

/* ---- names ----------------------------------------------------------------------------------- */

static void make_tree(struct fixture *f) {
    make(f, "file", "text");
    assert_int_equal(kelpie__os_mkdir(f->os, f->work, "dir", 0777), 0);
    assert_int_equal(kelpie__os_mkdir(f->os, f->work, "dir/sub", 0700), 0);
    make(f, "dir/inner", "inner");
    assert_int_equal(kelpie__sim_disk_make_link(f->process, "file", "/work/link"), 0);
    assert_int_equal(kelpie__sim_disk_make_link(f->process, "dir", "/work/link-dir"), 0);
    assert_int_equal(kelpie__sim_disk_make_link(f->process, "nowhere", "/work/dangling"), 0);
    assert_int_equal(kelpie__sim_disk_make_link(f->process, "loop", "/work/loop"), 0);
    assert_int_equal(kelpie__sim_disk_bind(f->process, f->work, "socket", 5), 0);
}

static void test_open_answers_as_linux(void **state) {
    static const struct {
        const char *name;
        uint32_t flags;
        int expected;
    } rows[] = {
        {"file", READ, 0},
        {"none", READ, -ENOENT},
        {"none/below", READ, -ENOENT},
        {"file/below", READ, -ENOTDIR},
        {"file/", READ, -ENOTDIR},
        {"file", READ | DIRECTORY, -ENOTDIR},
        {"file", WRITE | CREATE | EXCLUSIVE, -EEXIST},
        {"dir", READ, 0},
        {"dir", READ | DIRECTORY, 0},
        {"dir/", READ, 0},
        {"dir/.", READ, 0},
        {"dir/..", READ, 0},
        {".", READ, 0},
        {"..", READ, 0},
        {"dir", WRITE, -EISDIR},
        {"dir", READ | CREATE, -EISDIR},
        {"dir", READ | CREATE | EXCLUSIVE, -EEXIST},
        {"new/", WRITE | CREATE, -EISDIR},
        {"link", READ, -ELOOP},
        {"link", READ | FOLLOW, 0},
        {"link", READ | DIRECTORY, -ENOTDIR},
        {"link", WRITE | CREATE, -ELOOP},
        {"link", WRITE | CREATE | EXCLUSIVE, -EEXIST},
        {"link", WRITE | CREATE | EXCLUSIVE | FOLLOW, -EEXIST},
        {"link-dir/inner", READ, 0},
        {"link-dir", READ | DIRECTORY, -ENOTDIR},
        {"link-dir", READ | DIRECTORY | FOLLOW, 0},
        {"dangling", READ | FOLLOW, -ENOENT},
        {"dangling", READ, -ELOOP},
        {"loop", READ | FOLLOW, -ELOOP},
        {"loop/x", READ, -ELOOP},
        {"socket", READ, -ENXIO},
        {"", READ, -ENOENT},
        {"/work/dir/../file", READ, 0},
        {"/../work//dir/./inner", READ, 0},
        {"dangling", WRITE | CREATE | FOLLOW, 0}, /* makes "nowhere" */
        {"nowhere", READ, 0},
    };
    struct fixture f;
    char name[300];
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make_tree(&f);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rows); i += 1) {
        int answer = rows[i].name[0] == '\0' ? f.os->open(f.os, f.work, "", rows[i].flags, 0)
                                             : try_open(&f, rows[i].name, rows[i].flags);
        if (answer != rows[i].expected) {
            fail_msg("open \"%s\" %x: %d, not %d", rows[i].name, rows[i].flags, answer,
                     rows[i].expected);
        }
    }
    memset(name, 'n', sizeof(name));
    name[256] = '\0';
    assert_int_equal(try_open(&f, name, READ), -ENAMETOOLONG);
    name[255] = '\0';
    assert_int_equal(try_open(&f, name, READ), -ENOENT);
    assert_int_equal(kelpie__os_open(f.os, 999, "file", READ, 0), -EBADF);
    int file = open_at(&f, "file", READ);
    assert_int_equal(kelpie__os_open(f.os, file, "file", READ, 0), -ENOTDIR);
    shut(&f, file);
    end(&f);
}

static void test_directories_are_made_and_removed_as_linux_does(void **state) {
    struct fixture f;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make_tree(&f);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dir", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "file", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dangling", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "none/x", 0700), -ENOENT);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "file/x", 0700), -ENOTDIR);
    assert_int_equal(kelpie__os_mkdir(f.os, CWD, "/", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, ".", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "slashed/", 0700), 0);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "dir", false), -EISDIR);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "dir", true), -ENOTEMPTY);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "file", true), -ENOTDIR);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "none", true), -ENOENT);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, ".", true), -EINVAL);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "dir/..", true), -ENOTEMPTY);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, ".", false), -EISDIR);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "link", false), 0);
    assert_int_equal(size_of(&f, "file"), 4);
    /* A directory that is removed while it is open is empty for ever. */
    int sub = open_at(&f, "dir/sub", READ | DIRECTORY);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "dir/sub", true), 0);
    uint64_t cursor = 0;
    char name[256];
    assert_int_equal(kelpie__os_list(f.os, sub, &cursor, name, sizeof(name)), -ENOENT);
    assert_int_equal(kelpie__os_mkdir(f.os, sub, "x", 0700), -ENOENT);
    assert_int_equal(kelpie__os_open(f.os, sub, "x", WRITE | CREATE, 0600), -ENOENT);
    shut(&f, sub);
    /* A file that is removed while it is open goes on. */
    int file = open_at(&f, "file", READ | WRITE);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "file", false), 0);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "more", 4, 4), 4);
    assert_int_equal(kelpie__os_pread(f.os, file, name, 8, 0), 8);
    assert_memory_equal(name, "textmore", 8);
    assert_int_equal(kelpie__os_link(f.os, file, f.work, "again"), -ENOENT);
    shut(&f, file);
    end(&f);
}

static int move(struct fixture *f, const char *from, const char *to, bool may_replace) {
    return kelpie__os_rename(f->os, f->work, from, f->work, to, may_replace);
}

static void test_rename_answers_as_linux(void **state) {
    struct fixture f;
    char path[64];
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make_tree(&f);
    make(&f, "other", "other");
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "empty", 0700), 0);
    assert_int_equal(move(&f, "none", "x", true), -ENOENT);
    assert_int_equal(move(&f, "file", "other", false), -EEXIST);
    assert_int_equal(move(&f, "file", "dir", true), -EISDIR);
    assert_int_equal(move(&f, "dir", "file", true), -ENOTDIR);
    assert_int_equal(move(&f, "empty", "dir", true), -ENOTEMPTY);
    assert_int_equal(move(&f, "dir", "dir/sub/x", true), -EINVAL);
    assert_int_equal(move(&f, "dir/sub", "dir", true), -ENOTEMPTY);
    assert_int_equal(move(&f, ".", "x", true), -EBUSY);
    assert_int_equal(move(&f, "file", "x/", true), -ENOTDIR);
    assert_int_equal(move(&f, "file", "none/x", true), -ENOENT);
    assert_int_equal(kelpie__os_rename(f.os, f.work, "file", CWD, "/tmp/x", true), -EXDEV);
    assert_int_equal(kelpie__os_rename(f.os, CWD, "/tmp", f.work, "x", true), -EBUSY);
    assert_int_equal(move(&f, "file", "file", true), 0);
    assert_int_equal(move(&f, "file", "other", true), 0);
    assert_int_equal(size_of(&f, "other"), 4);
    assert_int_equal(size_of(&f, "file"), -ENOENT);
    int dir = open_at(&f, "dir", READ | DIRECTORY);
    assert_int_equal(move(&f, "dir", "empty", true), 0);
    assert_int_equal(size_of(&f, "empty/inner"), 5);
    assert_int_equal(kelpie__sim_disk_path_of(f.process, dir, path, sizeof(path)), 0);
    assert_string_equal(path, "/work/empty");
    assert_int_equal(move(&f, "empty/inner", "out", false), 0);
    assert_int_equal(size_of(&f, "out"), 5);
    shut(&f, dir);
    /* Two names of one file: a rename of the one over the other does nothing. */
    int file = open_at(&f, "out", READ);
    assert_int_equal(kelpie__os_link(f.os, file, f.work, "twin"), 0);
    assert_int_equal(kelpie__os_link(f.os, file, f.work, "twin"), -EEXIST);
    assert_int_equal(kelpie__os_link(f.os, file, CWD, "/tmp/twin"), -EXDEV);
    assert_int_equal(move(&f, "out", "twin", true), 0);
    assert_int_equal(size_of(&f, "out"), 5);
    shut(&f, file);
    end(&f);
}

static void test_rights_follow_uid_and_mode(void **state) {
    struct fixture f;
    struct kelpie_os_stat stat;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make(&f, "private", "x"); /* 0640 of root */
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "closed", 0700), 0);
    make(&f, "closed/file", "x");
    make(&f, "public", "x");
    assert_int_equal(kelpie__sim_disk_chmod(f.disk, "/work/public", 0644), 0);
    make(&f, "/tmp/roots", "x");
    f.process->uid = 1000;
    f.process->gid = 1000;
    assert_int_equal(try_open(&f, "private", READ), -EACCES);
    assert_int_equal(try_open(&f, "public", READ), 0);
    assert_int_equal(try_open(&f, "public", WRITE), -EACCES);
    assert_int_equal(try_open(&f, "closed/file", READ), -EACCES);
    assert_int_equal(try_open(&f, "new", WRITE | CREATE), -EACCES);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "new", 0700), -EACCES);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "public", false), -EACCES);
    assert_int_equal(move(&f, "public", "x", true), -EACCES);
    assert_int_equal(try_open(&f, "/tmp/mine", WRITE | CREATE), 0);
    assert_int_equal(kelpie__os_unlink(f.os, CWD, "/tmp/roots", false), -EPERM); /* sticky */
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/tmp/mine", false, &stat), 0);
    assert_int_equal(stat.uid, 1000);
    assert_int_equal(kelpie__os_unlink(f.os, CWD, "/tmp/mine", false), 0);
    f.process->uid = 0;
    f.process->gid = 0;
    assert_int_equal(try_open(&f, "new", WRITE | CREATE), 0);
    assert_int_equal(kelpie__os_stat(f.os, f.work, "new", false, &stat), 0);
    assert_int_equal(stat.mode, 0640);
    end(&f);
}

static void test_list_names_every_entry_once(void **state) {
    struct fixture f;
    char name[64];
    bool seen[100] = {false};
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "list", 0700), 0);
    for (unsigned i = 0; i < 100; i += 1) {
        snprintf(name, sizeof(name), "list/entry%u", i);
        make(&f, name, "");
    }
    int list = open_at(&f, "list", READ | DIRECTORY);
    uint64_t cursor = 0;
    unsigned count = 0;
    while (kelpie__os_list(f.os, list, &cursor, name, sizeof(name)) == 1) {
        unsigned index = (unsigned)strtoul(name + 5, NULL, 10);
        assert_false(seen[index]);
        seen[index] = true;
        count += 1;
        /* What goes and comes meanwhile disturbs nobody. */
        assert_int_equal(kelpie__os_unlink(f.os, list, name, false), 0);
    }
    assert_int_equal(count, 100);
    cursor = 0;
    assert_int_equal(kelpie__os_list(f.os, list, &cursor, name, sizeof(name)), 0);
    shut(&f, list);
    end(&f);
}

/* ---- content --------------------------------------------------------------------------------- */

static void test_content_is_sparse_and_cheap(void **state) {
    struct fixture f;
    struct kelpie_os_stat stat;
    char bytes[16];
    uint64_t start = 0;
    uint64_t stop = 0;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    struct sim_heap *heap = kelpie__sim_world_host(f.world)->heap;
    size_t before = kelpie__sim_heap_live_bytes(heap);
    int file = open_at(&f, "sparse", READ | WRITE | CREATE);
    assert_int_equal(kelpie__os_next_data(f.os, file, 0, &start, &stop), 0);
    assert_int_equal(kelpie__os_truncate(f.os, file, 256u << 20), 0);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "middle", 6, (100u << 20) + 4094), 6);
    assert_true(kelpie__sim_heap_live_bytes(heap) - before < 32768);
    assert_int_equal(kelpie__os_stat(f.os, file, "", false, &stat), 0);
    assert_int_equal(stat.size_bytes, 256u << 20);
    assert_int_equal(stat.allocated_bytes, 8192);
    assert_int_equal(kelpie__os_next_data(f.os, file, 5, &start, &stop), 1);
    assert_int_equal(start, 100u << 20);
    assert_int_equal(stop, (100u << 20) + 8192);
    assert_int_equal(kelpie__os_next_data(f.os, file, stop, &start, &stop), 0);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, (100u << 20) + 4093), 8);
    assert_memory_equal(bytes, "\0middle\0", 8);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, (256u << 20) - 3), 3);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, 256u << 20), 0);
    /* What was cut off is zero when it comes back. */
    assert_int_equal(kelpie__os_truncate(f.os, file, (100u << 20) + 4096), 0);
    assert_int_equal(kelpie__os_truncate(f.os, file, 256u << 20), 0);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, (100u << 20) + 4093), 8);
    assert_memory_equal(bytes, "\0mi\0\0\0\0\0", 8);
    assert_int_equal(kelpie__os_truncate(f.os, file, 0), 0);
    assert_int_equal(kelpie__os_stat(f.os, file, "", false, &stat), 0);
    assert_int_equal(stat.allocated_bytes, 0);
    shut(&f, file);
    end(&f);
}

static void test_handles_have_their_rights_and_positions(void **state) {
    struct fixture f;
    char bytes[16];
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make(&f, "file", "0123456789");
    int reader = open_at(&f, "file", READ);
    int writer = open_at(&f, "file", WRITE);
    int appender = open_at(&f, "file", WRITE | APPEND);
    assert_int_equal(kelpie__os_pwrite(f.os, reader, "x", 1, 0), -EBADF);
    assert_int_equal(kelpie__os_pread(f.os, writer, bytes, 1, 0), -EBADF);
    assert_int_equal(kelpie__os_truncate(f.os, reader, 0), -EINVAL);
    assert_int_equal(kelpie__os_pread(f.os, f.work, bytes, 1, 0), -EISDIR);
    assert_int_equal(kelpie__os_pwrite(f.os, f.work, bytes, 1, 0), -EBADF);
    assert_int_equal(kelpie__os_pwrite(f.os, writer, "x", 1, UINT64_C(1) << 63), -EINVAL);
    assert_int_equal(kelpie__os_pwrite(f.os, writer, "x", 1, UINT64_C(1) << 50), -EFBIG);
    assert_int_equal(kelpie__os_pread(f.os, 999, bytes, 1, 0), -EBADF);
    assert_int_equal(kelpie__os_pwrite(f.os, appender, "ab", 2, 0), 2); /* at the end */
    assert_int_equal(kelpie__os_read(f.os, reader, bytes, 4), 4);
    assert_memory_equal(bytes, "0123", 4);
    assert_int_equal(kelpie__os_write(f.os, writer, "WXYZ", 4), 4);
    assert_int_equal(kelpie__os_write(f.os, appender, "c", 1), 1);
    assert_int_equal(kelpie__os_read(f.os, reader, bytes, 16), 9);
    assert_memory_equal(bytes, "456789abc", 9);
    assert_int_equal(kelpie__os_read(f.os, reader, bytes, 16), 0);
    shut(&f, reader);
    shut(&f, writer);
    shut(&f, appender);
    end(&f);
}

static void test_ranges_are_cloned(void **state) {
    struct fixture f;
    char *bytes = malloc(40000);
    char *copy = malloc(40000);
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    for (unsigned i = 0; i < 40000; i += 1) {
        bytes[i] = (char)(i * 7 + i / 4096);
    }
    int from = open_at(&f, "from", READ | WRITE | CREATE);
    int to = open_at(&f, "to", READ | WRITE | CREATE);
    assert_int_equal(kelpie__os_pwrite(f.os, from, bytes, 40000, 0), 40000);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 0, to, 0, 40000), 0);
    assert_int_equal(kelpie__os_pwrite(f.os, to, "changed", 7, 5000), 7);
    assert_int_equal(kelpie__os_pread(f.os, from, copy, 40000, 0), 40000);
    assert_memory_equal(copy, bytes, 40000); /* the source is not touched */
    assert_int_equal(kelpie__os_clone_range(f.os, from, 100, to, 33, 10000), 0);
    assert_int_equal(kelpie__os_pread(f.os, to, copy, 10000, 33), 10000);
    assert_memory_equal(copy, bytes + 100, 10000);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 39000, to, 0, 2000), -EIO);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 0, from, 100, 2000), -EINVAL);
    assert_int_equal(kelpie__os_clone_range(f.os, f.work, 0, to, 0, 1), -EISDIR);
    int reader = open_at(&f, "to", READ);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 0, reader, 0, 1), -EBADF);
    int memory = kelpie__os_memory_file(f.os, "memory", 8192);
    assert_true(memory >= 0);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 0, memory, 0, 4096), -EXDEV);
    /* A hole over what was there. */
    assert_int_equal(kelpie__os_truncate(f.os, from, 0), 0);
    assert_int_equal(kelpie__os_truncate(f.os, from, 40960), 0);
    assert_int_equal(kelpie__os_clone_range(f.os, from, 0, to, 0, 40960), 0);
    memset(bytes, 0, 40000);
    assert_int_equal(kelpie__os_pread(f.os, to, copy, 40000, 0), 40000);
    assert_memory_equal(copy, bytes, 40000);
    shut(&f, reader);
    shut(&f, from);
    shut(&f, to);
    shut(&f, memory);
    free(bytes);
    free(copy);
    end(&f);
}

static void test_full_disk_takes_a_part_and_then_nothing(void **state) {
    struct fixture f;
    struct kelpie_os_space space;
    char bytes[16384] = {1};
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    int file = open_at(&f, "big", READ | WRITE | CREATE);
    kelpie__sim_disk_set_quota(f.disk, kelpie__sim_disk_used_bytes(f.disk) + 10000);
    assert_int_equal(kelpie__os_pwrite(f.os, file, bytes, sizeof(bytes), 0), 8192);
    assert_int_equal(kelpie__os_pwrite(f.os, file, bytes, sizeof(bytes), 8192), -ENOSPC);
    assert_int_equal(kelpie__os_pwrite(f.os, file, bytes, 100, 0),
                     100); /* what is there is there */
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dir", 0700), -ENOSPC);
    assert_int_equal(kelpie__os_space(f.os, file, &space), 0);
    assert_true(space.available_bytes < 4096);
    int memory = kelpie__os_memory_file(f.os, "m", 0);
    assert_int_equal(kelpie__os_pwrite(f.os, memory, bytes, sizeof(bytes), 0), sizeof(bytes));
    shut(&f, memory);
    shut(&f, file);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "big", false), 0);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dir", 0700), 0);
    kelpie__sim_disk_set_read_only(f.disk, true);
    assert_int_equal(try_open(&f, "new", WRITE | CREATE), -EROFS);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dir", 0700), -EEXIST);
    assert_int_equal(kelpie__os_mkdir(f.os, f.work, "dir2", 0700), -EROFS);
    assert_int_equal(kelpie__os_unlink(f.os, f.work, "dir", true), -EROFS);
    assert_int_equal(move(&f, "dir", "x", true), -EROFS);
    assert_int_equal(try_open(&f, "/tmp/new", WRITE | CREATE), 0);
    kelpie__sim_disk_set_read_only(f.disk, false);
    assert_int_equal(try_open(&f, "new", WRITE | CREATE), 0);
    end(&f);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static int locker_main(struct kelpie_os *os, int argc, char **argv) {
    kelpie__ignore(argc > 0 && argv != NULL);
    int file = kelpie__os_open(os, CWD, "/work/lock", READ | WRITE | CREATE, 0600);
    struct kelpie_os_event event;
    assert_int_equal(kelpie__os_lock(os, file), 0);
    return kelpie__os_wait(os, &event, 1, -1);
}

static void test_lock_is_of_the_open_file_and_dropped_at_death(void **state) {
    struct fixture f;
    int32_t pid = 0;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    const struct sim_start start = {.path = "/locker", .role = "locker", .main = locker_main};
    struct sim_process *locker = kelpie__sim_process_start(kelpie__sim_world_host(f.world), &start);
    assert_non_null(locker);
    struct kelpie_os_event event;
    assert_int_equal(
        kelpie__os_wait(f.os, &event, 1, kelpie__os_now(f.os, KELPIE_OS_CLOCK_MONOTONIC) + 1000000),
        0);
    int first = open_at(&f, "lock", READ);
    int second = open_at(&f, "lock", READ);
    assert_true(kelpie__sim_disk_lock_holder(f.disk, "/work/lock", &pid));
    assert_int_equal(pid, locker->pid);
    assert_int_equal(kelpie__os_lock(f.os, first), -EAGAIN);
    assert_int_equal(kelpie__os_lock_shared(f.os, first), -EAGAIN);
    kelpie__sim_process_signal(locker, SIGKILL);
    assert_int_equal(
        kelpie__os_wait(f.os, &event, 1, kelpie__os_now(f.os, KELPIE_OS_CLOCK_MONOTONIC) + 1000000),
        0);
    assert_int_equal(kelpie__os_lock(f.os, first), 0);
    assert_int_equal(kelpie__os_lock(f.os, first), 0);
    assert_int_equal(kelpie__os_lock(f.os, second), -EAGAIN); /* per open, not per process */
    assert_int_equal(kelpie__os_lock_shared(f.os, first), 0);
    assert_int_equal(kelpie__os_lock_shared(f.os, second), 0);
    assert_int_equal(kelpie__os_lock(f.os, second), -EAGAIN); /* and the shared one is gone */
    assert_int_equal(kelpie__os_lock(f.os, first), 0);
    shut(&f, first);
    assert_false(kelpie__sim_disk_lock_holder(f.disk, "/work/lock", &pid));
    assert_int_equal(kelpie__os_lock(f.os, second), 0);
    shut(&f, second);
    end(&f);
}

/* ---- what is no file ------------------------------------------------------------------------- */

static int64_t counter_content(struct sim_machine *machine, struct sim_process *reader,
                               const char *path, char *out, size_t capacity) {
    kelpie__ignore(reader != NULL);
    uint64_t *count = kelpie__sim_world_context(machine->world);
    *count += 1;
    return snprintf(out, capacity, "%s %d", path, (int)*count);
}

static int64_t counter_write(struct sim_machine *machine, struct sim_process *writer,
                             const char *path, const char *bytes, size_t count) {
    kelpie__ignore(writer != NULL && path != NULL);
    uint64_t *value = kelpie__sim_world_context(machine->world);
    if (bytes[0] < '0' || bytes[0] > '9') {
        return -EINVAL;
    }
    *value = (uint64_t)(bytes[0] - '0');
    return (int64_t)count;
}

static int refuse_hook(struct sim_machine *machine, const char *path, bool is_made) {
    kelpie__ignore(machine != NULL);
    return strstr(path, "busy") != NULL && !is_made ? -EBUSY
           : strstr(path, "never") != NULL          ? -ENOSPC
                                                    : 0;
}

static void test_synthetic_files_and_hooks(void **state) {
    struct fixture f;
    char text[64] = "";
    uint64_t count = 0;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    kelpie__sim_world_set_context(f.world, &count);
    struct sim_disk *disk = f.disk;
    assert_int_equal(kelpie__sim_disk_put_synthetic_write(disk, "/sys/g/*/value", counter_content,
                                                          counter_write),
                     0);
    assert_int_equal(kelpie__sim_disk_put_hook(disk, "/sys/g", refuse_hook), 0);
    assert_int_equal(kelpie__os_mkdir(f.os, CWD, "/sys/other", 0755), -EPERM);
    assert_int_equal(try_open(&f, "/sys/g/x", WRITE | CREATE), -EACCES);
    assert_int_equal(kelpie__os_mkdir(f.os, CWD, "/sys/g/never", 0755), -ENOSPC);
    assert_int_equal(try_open(&f, "/sys/g/never", READ), -ENOENT);
    assert_int_equal(kelpie__os_mkdir(f.os, CWD, "/sys/g/one", 0755), 0);
    int one = kelpie__os_open(f.os, CWD, "/sys/g/one", READ | DIRECTORY, 0);
    int value = kelpie__os_open(f.os, one, "value", READ | WRITE, 0);
    assert_true(value >= 0);
    int64_t length = kelpie__os_pread(f.os, value, text, sizeof(text), 0);
    assert_int_equal(length, 19 - 1);
    assert_memory_equal(text, "/sys/g/one/value 2", 18); /* made at the open, and again now */
    assert_int_equal(kelpie__os_pread(f.os, value, text, sizeof(text), 18), 0);
    assert_int_equal(kelpie__os_write(f.os, value, "5", 1), 1);
    assert_int_equal(kelpie__os_write(f.os, value, "x", 1), -EINVAL);
    assert_int_equal(kelpie__os_pread(f.os, value, text, sizeof(text), 0), 18);
    assert_memory_equal(text, "/sys/g/one/value 6", 18);
    shut(&f, value);
    uint64_t cursor = 0;
    assert_int_equal(kelpie__os_list(f.os, one, &cursor, text, sizeof(text)), 1);
    assert_string_equal(text, "value");
    assert_int_equal(kelpie__os_list(f.os, one, &cursor, text, sizeof(text)), 0);
    shut(&f, one);
    assert_int_equal(kelpie__os_unlink(f.os, CWD, "/sys/g/one/value", false), -EPERM);
    assert_int_equal(kelpie__os_mkdir(f.os, CWD, "/sys/g/busy", 0755), 0);
    assert_int_equal(kelpie__os_unlink(f.os, CWD, "/sys/g/busy", true), -EBUSY);
    assert_int_equal(kelpie__os_unlink(f.os, CWD, "/sys/g/one", true), 0);
    assert_int_equal(try_open(&f, "/sys/g/one/value", READ), -ENOENT);
    end(&f);
}

static void test_proc_has_processes(void **state) {
    struct fixture f;
    char text[256];
    char own[32];
    bool is_listed = false;
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    snprintf(own, sizeof(own), "%d", (int)f.process->pid);
    assert_int_equal(try_open(&f, "/proc/self/stat", READ), 0);
    assert_int_equal(try_open(&f, "/proc/4711/stat", READ), -ENOENT);
    int stat = kelpie__os_open(f.os, CWD, "/proc/self/stat", READ, 0);
    int64_t length = kelpie__os_pread(f.os, stat, text, sizeof(text) - 1, 0);
    assert_true(length > 0);
    assert_memory_equal(text, own, strlen(own));
    shut(&f, stat);
    int proc = kelpie__os_open(f.os, CWD, "/proc", READ | DIRECTORY, 0);
    uint64_t cursor = 0;
    while (kelpie__os_list(f.os, proc, &cursor, text, sizeof(text)) == 1) {
        is_listed = is_listed || strcmp(text, own) == 0;
    }
    assert_true(is_listed);
    snprintf(text, sizeof(text), "%s/stat", own);
    stat = kelpie__os_open(f.os, proc, text, READ, 0);
    shut(&f, stat);
    shut(&f, proc);
    assert_int_equal(try_open(&f, "/dev/null", READ | WRITE), 0);
    assert_int_equal(kelpie__os_real_path(f.os, "/work/../proc/self", text, sizeof(text)), 0);
    end(&f);
}

static void test_real_path_and_executables(void **state) {
    struct fixture f;
    char path[SIM_PATH_BYTES_MAX];
    kelpie__ignore(state != NULL);
    begin(&f, SIM_DISK_EXT4);
    make_tree(&f);
    assert_int_equal(kelpie__os_real_path(f.os, "/work/link-dir/./sub/../inner", path, 64), 0);
    assert_string_equal(path, "/work/dir/inner");
    assert_int_equal(kelpie__os_real_path(f.os, "/", path, 64), 0);
    assert_string_equal(path, "/");
    assert_int_equal(kelpie__os_real_path(f.os, "/work/link", path, 64), 0);
    assert_string_equal(path, "/work/file");
    assert_int_equal(kelpie__os_real_path(f.os, "/work/none", path, 64), -ENOENT);
    assert_int_equal(kelpie__os_real_path(f.os, "/work/dir", path, 9), -ENAMETOOLONG);
    snprintf(f.process->directory, sizeof(f.process->directory), "/work/dir");
    assert_int_equal(kelpie__os_real_path(f.os, ".", path, 64), 0);
    assert_string_equal(path, "/work/dir");
    assert_int_equal(kelpie__os_real_path(f.os, "../link", path, 64), 0);
    assert_string_equal(path, "/work/file");
    snprintf(f.process->path, sizeof(f.process->path), "/usr/bin/program");
    assert_int_equal(kelpie__sim_disk_put(f.disk, "/usr/bin/program", 0755, "x", 1), 0);
    assert_int_equal(kelpie__os_real_path(f.os, "/proc/self/exe", path, 64), 0);
    assert_string_equal(path, "/usr/bin/program");
    assert_int_equal(kelpie__sim_disk_executable(f.process, "/usr/bin/program", path), 0);
    assert_int_equal(kelpie__sim_disk_executable(f.process, "/work/file", path), -EACCES);
    assert_int_equal(kelpie__sim_disk_executable(f.process, "/work/dir", path), -EACCES);
    assert_int_equal(kelpie__sim_disk_executable(f.process, "/work/none", path), -ENOENT);
    assert_int_equal(kelpie__sim_disk_directory(f.process, "/work/dir"), 0);
    assert_int_equal(kelpie__sim_disk_directory(f.process, "/work/file"), -ENOTDIR);
    uint64_t socket = 0;
    assert_int_equal(kelpie__sim_disk_socket(f.process, f.work, "socket", &socket), 0);
    assert_int_equal(socket, 5);
    assert_int_equal(kelpie__sim_disk_socket(f.process, f.work, "file", &socket), -ECONNREFUSED);
    assert_int_equal(kelpie__sim_disk_bind(f.process, f.work, "socket", 6), -EADDRINUSE);
    end(&f);
}

#define TEST(test) cmocka_unit_test(test)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_open_answers_as_linux),
        TEST(test_directories_are_made_and_removed_as_linux_does),
        TEST(test_rename_answers_as_linux),
        TEST(test_rights_follow_uid_and_mode),
        TEST(test_list_names_every_entry_once),
        TEST(test_content_is_sparse_and_cheap),
        TEST(test_handles_have_their_rights_and_positions),
        TEST(test_ranges_are_cloned),
        TEST(test_full_disk_takes_a_part_and_then_nothing),
        TEST(test_lock_is_of_the_open_file_and_dropped_at_death),
        TEST(test_synthetic_files_and_hooks),
        TEST(test_proc_has_processes),
        TEST(test_real_path_and_executables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
