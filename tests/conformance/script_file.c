/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: files by their handles.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

#define R KELPIE_OS_OPEN_READ
#define W KELPIE_OS_OPEN_WRITE
#define C KELPIE_OS_OPEN_CREATE
#define X KELPIE_OS_OPEN_EXCLUSIVE
#define T KELPIE_OS_OPEN_TRUNCATE
#define A KELPIE_OS_OPEN_APPEND
#define D KELPIE_OS_OPEN_DIRECTORY
#define F KELPIE_OS_OPEN_FOLLOW

static int64_t say_pwrite(struct conform *conform, int file, const char *text, uint64_t offset) {
    char what[64];
    snprintf(what, sizeof(what), "pwrite \"%.30s\" at %llu", text, (unsigned long long)offset);
    return said(conform, kelpie__os_pwrite(conform->os, file, text, strlen(text), offset), what);
}

static void file_open_flags(struct conform *conform) {
    say_open(conform, "none", R);
    say_open(conform, "none", W);
    say_close(conform, say_open(conform, "a", R | W | C | X));
    say_open(conform, "a", R | W | C | X);
    say_close(conform, say_open(conform, "a", W | C));
    say_open(conform, "a", R | D);
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, "d", 0700), "mkdir");
    say_open(conform, "d", W);
    say_open(conform, "d", R | W);
    say_open(conform, "d", R | C);
    say_close(conform, say_open(conform, "d", R));
    say_close(conform, say_open(conform, "d", R | D));
    say_open(conform, "d", R | W | C | X);
    say_open(conform, "none/a", R | C);
    say_open(conform, "a/b", R | C);
    said(conform, conform->make_link(conform, "a", "link"), "link");
    said(conform, conform->make_link(conform, "none", "dangling"), "link");
    said(conform, conform->make_link(conform, "d", "dirlink"), "link");
    say_open(conform, "link", R);
    say_close(conform, say_open(conform, "link", R | F));
    say_open(conform, "dangling", R | F);
    say_open(conform, "dangling", R | W | C | X);
    say_open(conform, "dangling", R | W | C);
    say_open(conform, "dirlink", R | D);
    say_close(conform, say_open(conform, "dirlink", R | D | F));
    say_close(conform, say_open(conform, "dangling", R | W | C | F));
    say_stat(conform, conform->directory, "none", false);
    say_stat(conform, conform->directory, "a", false);
}

static void file_read_write(struct conform *conform) {
    int file = say_make(conform, "a", "hello world");
    say_pread(conform, file, 5, 0);
    say_pread(conform, file, 100, 6);
    say_pread(conform, file, 100, 11);
    say_pread(conform, file, 100, 5000);
    say_pwrite(conform, file, "WORLD", 6);
    say_pwrite(conform, file, "!", 20);
    say_pread(conform, file, 100, 0);
    say_stat(conform, file, "", false);
    say_close(conform, file);
    int reader = say_open(conform, "a", R);
    int writer = say_open(conform, "a", W);
    say_pwrite(conform, reader, "x", 0);
    say_pread(conform, writer, 1, 0);
    say_write(conform, reader, "x");
    say_read(conform, writer, 1);
    said(conform, kelpie__os_truncate(conform->os, reader, 1), "truncate a reader");
    say_pwrite(conform, writer, "J", 0);
    say_pread(conform, reader, 5, 0);
    say_close(conform, reader);
    say_close(conform, writer);
}

/* read and write have a position, which belongs to the open file; pread and pwrite do not move it.
 */
static void file_position(struct conform *conform) {
    int file = say_make(conform, "a", "abcdef");
    say_read(conform, file, 2);
    say_pread(conform, file, 1, 5);
    say_read(conform, file, 2);
    say_write(conform, file, "XY");
    say_read(conform, file, 10);
    say_pread(conform, file, 10, 0);
    int other = say_open(conform, "a", R);
    say_read(conform, other, 1);
    struct conform_child child = child_start(conform, 0, &other, 1);
    child_ask(conform, &child, "read");
    say_read(conform, other, 10);
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, other);
    say_close(conform, file);
}

static void file_append(struct conform *conform) {
    say_close(conform, say_make(conform, "a", "start"));
    int first = say_open(conform, "a", R | W | A);
    int second = say_open(conform, "a", W | A);
    say_write(conform, first, "+1");
    say_write(conform, second, "+2");
    say_write(conform, first, "+3");
    say_pwrite(conform, first, "+4", 0);
    say_pread(conform, first, 100, 0);
    said(conform, kelpie__os_truncate(conform->os, first, 2), "truncate");
    say_write(conform, second, "+5");
    say_pread(conform, first, 100, 0);
    say_close(conform, first);
    say_close(conform, second);
}

static void file_truncate(struct conform *conform) {
    int file = say_make(conform, "a", "0123456789");
    said(conform, kelpie__os_truncate(conform->os, file, 4), "truncate to 4");
    say_pread(conform, file, 100, 0);
    said(conform, kelpie__os_truncate(conform->os, file, 8), "truncate to 8");
    say_pread(conform, file, 100, 0);
    said(conform, kelpie__os_truncate(conform->os, file, 0), "truncate to 0");
    say_pread(conform, file, 100, 0);
    say_pwrite(conform, file, "again", 0);
    say_close(conform, say_open(conform, "a", W | T));
    say_stat(conform, file, "", false);
    int directory = say_open(conform, ".", R | D);
    said(conform, kelpie__os_truncate(conform->os, directory, 0), "truncate a directory");
    say_pread(conform, directory, 1, 0);
    say_read(conform, directory, 1);
    say_pwrite(conform, directory, "x", 0);
    say_write(conform, directory, "x");
    say_close(conform, directory);
    say_close(conform, file);
}

static void file_sparse(struct conform *conform) {
    uint64_t start = 0;
    uint64_t end = 0;
    struct kelpie_os_stat stat = {0};
    int file = say_make(conform, "a", "");
    said(conform, kelpie__os_next_data(conform->os, file, 0, &start, &end), "data of nothing");
    said(conform, kelpie__os_truncate(conform->os, file, 8u << 20), "truncate to 8 MiB");
    say_pwrite(conform, file, "island", 4u << 20);
    int status = kelpie__os_next_data(conform->os, file, 0, &start, &end);
    said(conform, status, "next data");
    say(conform, "covers the island: %d", start <= 4u << 20 && end > (4u << 20) + 5);
    said(conform, kelpie__os_next_data(conform->os, file, 8u << 20, &start, &end), "at the end");
    said(conform, kelpie__os_stat(conform->os, file, "", false, &stat), "stat");
    say(conform, "allocated less than its size: %d", stat.allocated_bytes < stat.size_bytes);
    say_pread(conform, file, 10, (4u << 20) - 4);
    say_pread(conform, file, 10, 100);
    say_close(conform, file);
}

static void file_clone_range(struct conform *conform) {
    int from = say_make(conform, "from", "0123456789");
    int to = say_make(conform, "to", "abcdefghijklmnop");
    said(conform, kelpie__os_clone_range(conform->os, from, 0, to, 0, 10), "clone all");
    say_pread(conform, to, 100, 0);
    said(conform, kelpie__os_clone_range(conform->os, from, 2, to, 14, 4), "clone past its end");
    say_pread(conform, to, 100, 0);
    say_pwrite(conform, from, "X", 0);
    say_pread(conform, to, 3, 0);
    int reader = say_open(conform, "to", R);
    said(conform, kelpie__os_clone_range(conform->os, from, 0, reader, 0, 4), "clone to a reader");
    int writer = say_open(conform, "from", W);
    said(conform, kelpie__os_clone_range(conform->os, writer, 0, to, 0, 4), "clone from a writer");
    say_close(conform, writer);
    say_close(conform, reader);
    say_close(conform, from);
    say_close(conform, to);
}

static void file_memory(struct conform *conform) {
    int file =
        said_handle(conform, kelpie__os_memory_file(conform->os, "memory", 8192), "memory_file");
    say_stat(conform, file, "", false);
    say_pread(conform, file, 8, 8188);
    say_pwrite(conform, file, "in memory", 100);
    struct conform_child child = child_start(conform, 0, &file, 1);
    child_ask(conform, &child, "read");
    child_ask(conform, &child, "write from the child");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_pread(conform, file, 30, 60);
    said(conform, kelpie__os_truncate(conform->os, file, 104), "truncate");
    say_pread(conform, file, 100, 100);
    said(conform, kelpie__os_sync(conform->os, file), "sync");
    said(conform, kelpie__os_link(conform->os, file, conform->directory, "name"), "link");
    say_close(conform, file);
}

static void file_sync(struct conform *conform) {
    int pair[2];
    int file = say_make(conform, "a", "x");
    say_pair(conform, pair);
    said(conform, kelpie__os_sync(conform->os, file), "sync a file");
    said(conform, kelpie__os_sync(conform->os, conform->directory), "sync a directory");
    said(conform, kelpie__os_sync(conform->os, pair[0]), "sync a stream");
    int reader = say_open(conform, "a", R);
    said(conform, kelpie__os_sync(conform->os, reader), "sync a reader");
    say_close(conform, reader);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
    say_close(conform, file);
}

static void file_space(struct conform *conform) {
    struct kelpie_os_space space = {0};
    int file = say_make(conform, "a", "x");
    said(conform, kelpie__os_space(conform->os, conform->directory, &space), "space");
    say(conform, "some: %d, read-only: %d", space.available_bytes > 0, space.is_read_only);
    uint64_t total = space.total_bytes;
    said(conform, kelpie__os_space(conform->os, file, &space), "space of a file");
    say(conform, "the same: %d", space.total_bytes == total);
    said(conform, kelpie__os_space(conform->os, 900, &space), "space of nothing");
    say_close(conform, file);
}

/* A file without a name lives as long as its handle. */
static void file_without_name(struct conform *conform) {
    int file = say_make(conform, "a", "content");
    said(conform, kelpie__os_unlink(conform->os, conform->directory, "a", false), "unlink");
    say_stat(conform, conform->directory, "a", false);
    say_stat(conform, file, "", false);
    say_pwrite(conform, file, "more", 7);
    say_pread(conform, file, 100, 0);
    say_close(conform, say_make(conform, "a", "another"));
    say_pread(conform, file, 100, 0);
    said(conform, kelpie__os_sync(conform->os, file), "sync");
    said(conform, kelpie__os_link(conform->os, file, conform->directory, "b"), "link");
    say_close(conform, file);
}

static void file_link(struct conform *conform) {
    struct kelpie_os_stat first = {0};
    struct kelpie_os_stat second = {0};
    int file = say_make(conform, "a", "content");
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, "d", 0700), "mkdir");
    said(conform, kelpie__os_link(conform->os, file, conform->directory, "d/b"), "link");
    said(conform, kelpie__os_link(conform->os, file, conform->directory, "d/b"), "link again");
    said(conform, kelpie__os_link(conform->os, file, conform->directory, "none/b"), "link nowhere");
    said(conform, kelpie__os_stat(conform->os, conform->directory, "a", false, &first), "stat");
    said(conform, kelpie__os_stat(conform->os, conform->directory, "d/b", false, &second), "stat");
    say(conform, "one file: %d", first.inode == second.inode && first.device == second.device);
    int other = say_open(conform, "d/b", R | W);
    say_pwrite(conform, other, "C", 0);
    say_pread(conform, file, 100, 0);
    said(conform,
         kelpie__os_rename(conform->os, conform->directory, "a", conform->directory, "d/b", true),
         "rename to itself");
    say_stat(conform, conform->directory, "a", false);
    int directory = say_open(conform, "d", R | D);
    said(conform, kelpie__os_link(conform->os, directory, conform->directory, "e"),
         "link a directory");
    say_close(conform, directory);
    say_close(conform, other);
    say_close(conform, file);
}

/* Another user's open. Needs root on both sides. */
static void file_of_another_user(struct conform *conform) {
    struct kelpie_os_identity self = {0};
    const char *const argv[] = {"conformance-child", conform->child, NULL};
    int pair[2];
    int process = CONFORM_NONE;
    kelpie__ignore(kelpie__os_identity(conform->os, &self));
    if (self.uid != 0) {
        say(conform, "not root");
        return;
    }
    say_close(conform,
              kelpie__os_open(conform->os, conform->directory, "private", R | W | C, 0600));
    say_close(conform, kelpie__os_open(conform->os, conform->directory, "public", R | W | C, 0644));
    say_close(conform,
              kelpie__os_open(conform->os, conform->directory, "writable", R | W | C, 0604));
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, "closed", 0700), "mkdir");
    say_close(conform, say_make(conform, "closed/file", "x"));
    int listener = kelpie__os_listen(conform->os, conform->directory, "s", 1);
    say_pair(conform, pair);
    const int handles[] = {CONFORM_NONE, CONFORM_NONE, CONFORM_NONE, pair[1], conform->directory};
    const struct kelpie_os_spawn spawn = {.path = conform->child,
                                          .argv = argv,
                                          .handles = handles,
                                          .handle_count = 5,
                                          .flags = KELPIE_OS_SPAWN_CREDENTIALS,
                                          .uid = 1234,
                                          .gid = 1234,
                                          .cgroup = CONFORM_NONE};
    const char *step = "";
    said(conform, kelpie__os_spawn(conform->os, &spawn, &process, NULL, &step), "spawn");
    say_close(conform, pair[1]);
    struct conform_child child = {process, pair[0], 0};
    child_ask(conform, &child, "id");
    child_ask(conform, &child, "open private");
    child_ask(conform, &child, "open public");
    child_ask(conform, &child, "lock public");
    child_ask(conform, &child, "open closed/file");
    child_ask(conform, &child, "open none");
    child_ask(conform, &child, "connect s");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_close(conform, listener);
}

const struct conform_script conform_scripts_file[] = {
    {"file_open_flags", file_open_flags, 0},
    {"file_read_write", file_read_write, 0},
    {"file_position", file_position, 0},
    {"file_append", file_append, 0},
    {"file_truncate", file_truncate, 0},
    {"file_sparse", file_sparse, 0},
    {"file_clone_range", file_clone_range, 0},
    {"file_memory", file_memory, 0},
    {"file_sync", file_sync, 0},
    {"file_space", file_space, 0},
    {"file_without_name", file_without_name, 0},
    {"file_link", file_link, 0},
    {"file_of_another_user", file_of_another_user, 0},
    {NULL, NULL, 0},
};
