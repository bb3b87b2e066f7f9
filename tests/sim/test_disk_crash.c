/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: after a crash the simulated disk holds what Linux promises, and everything that Linux does
 * not promise can be seen. Method: what a program does is repeated in a fresh world for each legal
 * state that a crash may leave, all of them, and sorted by what is found; a random walk of 100,000
 * operations runs beside a model.
 */
#include <errno.h>
#include <setjmp.h>
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
#define TRUNCATE KELPIE_OS_OPEN_TRUNCATE
#define DIRECTORY KELPIE_OS_OPEN_DIRECTORY
#define CWD KELPIE_OS_CWD
#define LIMIT 100000u
#define NEW_BYTES 10000u /* three pages */

struct fixture {
    struct sim_world *world;
    struct kelpie_os *os;
    struct sim_disk *disk;
    int work; /* /work */
};

static void begin(struct fixture *f, uint64_t seed, enum sim_disk_profile profile,
                  const char *plan) {
    const struct sim_options options = {.seed = seed, .disk_profile = profile, .plan = plan};
    char problem[256] = "";
    f->world = kelpie__sim_world_create(&options, problem);
    assert_string_equal(problem, "");
    f->os = &kelpie__sim_process_adopt(f->world, "test")->os;
    f->disk = kelpie__sim_world_disk(f->world);
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work", 0755), 0);
    f->work = kelpie__os_open(f->os, CWD, "/work", READ | DIRECTORY, 0);
    assert_true(f->work >= 0);
}

static void end(struct fixture *f) {
    kelpie__sim_disk_check(f->disk);
    kelpie__sim_world_destroy(f->world);
}

static void write_file(struct fixture *f, int directory, const char *name, const char *bytes,
                       size_t count, bool is_synced) {
    int file = kelpie__os_open(f->os, directory, name, WRITE | CREATE | TRUNCATE, 0600);
    assert_true(file >= 0);
    assert_int_equal(kelpie__os_pwrite(f->os, file, bytes, count, 0), count);
    if (is_synced) {
        assert_int_equal(kelpie__os_sync(f->os, file), 0);
    }
    assert_int_equal(kelpie__os_close(f->os, file), 0);
}

/* ---- what is found afterwards ---------------------------------------------------------------- */

enum outcome { OLD = 1, NEW = 2, TORN = 4, MISSING = 8 };

static void new_content(char out[NEW_BYTES]) {
    for (unsigned i = 0; i < NEW_BYTES; i += 1) {
        out[i] = (char)('a' + i % 26);
    }
}

static enum outcome look(struct fixture *f, const char *path) {
    char expected[NEW_BYTES];
    char found[NEW_BYTES + 1];
    new_content(expected);
    int64_t size = kelpie__sim_disk_peek(f->disk, false, path, found, sizeof(found));
    if (size < 0) {
        return MISSING;
    }
    if (size == 3 && memcmp(found, "old", 3) == 0) {
        return OLD;
    }
    return size == NEW_BYTES && memcmp(found, expected, NEW_BYTES) == 0 ? NEW : TORN;
}

/* A program that does something, up to a step; is told whether it is through. */
typedef bool (*program)(struct fixture *f, unsigned steps);

/* Every crash at every step; the outcomes that were seen. `before`: those before the last step. */
static unsigned crash_everywhere(program run, enum sim_disk_profile profile, const char *path,
                                 unsigned *out_last, uint64_t *out_states) {
    unsigned seen = 0;
    bool is_through = false;
    *out_states = 0;
    for (unsigned steps = 0; !is_through; steps += 1) {
        uint64_t count = 1;
        unsigned last = 0;
        for (uint64_t index = 0; index < count; index += 1) {
            struct fixture f;
            begin(&f, 1, profile, NULL);
            is_through = run(&f, steps);
            if (index == 0) {
                count = kelpie__sim_disk_crash_count(f.disk, LIMIT);
                assert_true(count < LIMIT);
            }
            kelpie__sim_disk_crash_to(f.disk, index, LIMIT);
            last |= look(&f, path);
            assert_int_equal(kelpie__sim_disk_pending(f.disk), 0);
            end(&f);
        }
        *out_states += count;
        *out_last = last;
        seen |= last;
    }
    return seen;
}

/* ---- the store's pattern --------------------------------------------------------------------- */

/* Write a temporary file, sync it, rename it, sync the directory; some of that left out. */
static bool replace(struct fixture *f, unsigned steps, bool has_old, bool syncs_file,
                    bool syncs_directory) {
    char bytes[NEW_BYTES];
    new_content(bytes);
    if (has_old) {
        assert_int_equal(kelpie__sim_disk_put(f->disk, "/work/state", 0600, "old", 3), 0);
    }
    int file = -1;
    for (unsigned step = 0; step < steps; step += 1) {
        switch (step) {
        case 0:
            file = kelpie__os_open(f->os, f->work, "state.new", WRITE | CREATE | TRUNCATE, 0600);
            break;
        case 1: /* in two pieces, as small_file.c may have to */
            assert_int_equal(kelpie__os_pwrite(f->os, file, bytes, 5000, 0), 5000);
            break;
        case 2:
            assert_int_equal(kelpie__os_pwrite(f->os, file, bytes + 5000, 5000, 5000), 5000);
            break;
        case 3:
            assert_int_equal(syncs_file ? kelpie__os_sync(f->os, file) : 0, 0);
            assert_int_equal(kelpie__os_close(f->os, file), 0);
            break;
        case 4:
            assert_int_equal(kelpie__os_rename(f->os, f->work, "state.new", f->work, "state", true),
                             0);
            break;
        default:
            assert_int_equal(syncs_directory ? kelpie__os_sync(f->os, f->work) : 0, 0);
            break;
        }
    }
    return steps == 6;
}

static bool replace_well(struct fixture *f, unsigned steps) {
    return replace(f, steps, true, true, true);
}

static bool replace_without_directory(struct fixture *f, unsigned steps) {
    return replace(f, steps, true, true, false);
}

static bool replace_without_file(struct fixture *f, unsigned steps) {
    return replace(f, steps, true, false, true);
}

static bool create_well(struct fixture *f, unsigned steps) {
    return replace(f, steps, false, true, true);
}

static bool create_without_file(struct fixture *f, unsigned steps) {
    return replace(f, steps, false, false, true);
}

static void test_replaced_file_is_old_or_new_never_torn(void **state) {
    unsigned last = 0;
    uint64_t states = 0;
    kelpie__ignore(state != NULL);
    unsigned seen = crash_everywhere(replace_well, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(seen, OLD | NEW);
    assert_int_equal(last, NEW); /* once the directory is synced */
    assert_true(states > 30);
    /* POSIX's rename is atomic for processes only: a crash may find neither name's old content. */
    seen = crash_everywhere(replace_well, SIM_DISK_POSIX, "/work/state", &last, &states);
    assert_int_equal(seen, OLD | NEW | MISSING);
    assert_int_equal(last, NEW);
    seen = crash_everywhere(create_well, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(seen, NEW | MISSING);
    assert_int_equal(last, NEW);
}

static void test_rename_without_directory_sync_may_be_undone(void **state) {
    unsigned last = 0;
    uint64_t states = 0;
    kelpie__ignore(state != NULL);
    crash_everywhere(replace_without_directory, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(last, OLD | NEW);
    crash_everywhere(replace_without_directory, SIM_DISK_POSIX, "/work/state", &last, &states);
    assert_int_equal(last, OLD | NEW | MISSING);
}

static void test_rename_without_file_sync_may_be_torn(void **state) {
    unsigned last = 0;
    uint64_t states = 0;
    kelpie__ignore(state != NULL);
    /* ext4 documents that a replacing rename forces the data out (auto_da_alloc) ... */
    crash_everywhere(replace_without_file, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(last, NEW);
    /* ... and that a new name does not. */
    crash_everywhere(create_without_file, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(last, NEW | TORN);
    crash_everywhere(replace_without_file, SIM_DISK_POSIX, "/work/state", &last, &states);
    assert_int_equal(last, NEW | TORN);
}

/* ---- directories and logs -------------------------------------------------------------------- */

/* A directory is filled under a temporary name and renamed, its parent synced; the file is not. */
static bool publish(struct fixture *f, unsigned steps) {
    char bytes[NEW_BYTES];
    new_content(bytes);
    int made = -1;
    for (unsigned step = 0; step < steps; step += 1) {
        switch (step) {
        case 0:
            assert_int_equal(kelpie__os_mkdir(f->os, f->work, ".new", 0700), 0);
            made = kelpie__os_open(f->os, f->work, ".new", READ | DIRECTORY, 0);
            break;
        case 1:
            write_file(f, made, "config", bytes, NEW_BYTES, false);
            break;
        case 2:
            assert_int_equal(kelpie__os_rename(f->os, f->work, ".new", f->work, "vm", false), 0);
            break;
        default:
            assert_int_equal(kelpie__os_sync(f->os, f->work), 0);
            break;
        }
    }
    return steps == 4;
}

static void test_published_directory_is_whole_or_absent(void **state) {
    unsigned last = 0;
    uint64_t states = 0;
    kelpie__ignore(state != NULL);
    unsigned seen = crash_everywhere(publish, SIM_DISK_EXT4, "/work/vm", &last, &states);
    assert_int_equal(seen, TORN | MISSING); /* a directory is no file of ours */
    assert_int_equal(last, TORN);
    /* The names in it have come with it; the content, never synced, may not have. */
    crash_everywhere(publish, SIM_DISK_EXT4, "/work/vm/config", &last, &states);
    assert_int_equal(last, NEW | TORN);
    /* POSIX: the new directory was not synced itself. */
    crash_everywhere(publish, SIM_DISK_POSIX, "/work/vm/config", &last, &states);
    assert_int_equal(last, NEW | TORN | MISSING);
}

static bool append_log(struct fixture *f, unsigned steps) {
    kelpie__ignore(steps);
    assert_int_equal(kelpie__sim_disk_put(f->disk, "/work/log", 0600, "one\n", 4), 0);
    int file = kelpie__os_open(f->os, f->work, "log", WRITE, 0);
    assert_int_equal(kelpie__os_pwrite(f->os, file, "two\n", 4, 4), 4);
    assert_int_equal(kelpie__os_pwrite(f->os, file, "three\n", 6, 8), 6);
    assert_int_equal(kelpie__os_close(f->os, file), 0);
    return true;
}

static void test_appends_leave_prefixes_zeros_or_garbage(void **state) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        unsigned shorter = 0;
        unsigned zeros = 0;
        unsigned garbage = 0;
        for (uint64_t index = 0; index < 9; index += 1) {
            struct fixture f;
            char text[15] = "";
            begin(&f, 1, profiles[i], NULL);
            append_log(&f, 0);
            /* two versions of the page, two sizes: prefixes of both */
            assert_int_equal(kelpie__sim_disk_crash_count(f.disk, LIMIT), 9);
            kelpie__sim_disk_crash_to(f.disk, index, LIMIT);
            int64_t size = kelpie__sim_disk_peek(f.disk, false, "/work/log", text, 14);
            assert_true(size == 4 || size == 8 || size == 14);
            assert_memory_equal(text, "one\n", 4); /* what was there stays */
            bool is_prefix = memcmp(text, "one\ntwo\nthree\n", (size_t)size) == 0;
            bool is_zero = !is_prefix && text[size - 1] == '\0';
            shorter += is_prefix && size < 14;
            zeros += is_zero;
            garbage += !is_prefix && !is_zero;
            assert_true(index != 0 || size == 4);
            assert_true(index != 8 || (size == 14 && is_prefix));
            end(&f);
        }
        assert_true(shorter > 0);
        assert_true(zeros > 0);
        assert_true((garbage > 0) == (profiles[i] == SIM_DISK_POSIX));
    }
}

/* Cut to nothing and written again: the old content is gone before the new one is there. */
static bool overwrite(struct fixture *f, unsigned steps) {
    char bytes[NEW_BYTES];
    new_content(bytes);
    kelpie__ignore(steps);
    assert_int_equal(kelpie__sim_disk_put(f->disk, "/work/state", 0600, "old", 3), 0);
    write_file(f, f->work, "state", bytes, NEW_BYTES, false);
    return true;
}

static void test_overwriting_in_place_loses_both(void **state) {
    unsigned last = 0;
    uint64_t states = 0;
    kelpie__ignore(state != NULL);
    unsigned seen = crash_everywhere(overwrite, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(seen, OLD | NEW | TORN);
}

/* ---- time, tmpfs, lies ----------------------------------------------------------------------- */

static void test_old_writes_are_written_back(void **state) {
    struct fixture f;
    struct kelpie_os_event event;
    char bytes[NEW_BYTES];
    kelpie__ignore(state != NULL);
    new_content(bytes);
    begin(&f, 1, SIM_DISK_EXT4, NULL);
    write_file(&f, f.work, "early", bytes, NEW_BYTES, false);
    assert_int_equal(kelpie__sim_disk_peek(f.disk, true, "/work/early", NULL, 0), -ENOENT);
    int64_t now_ns = kelpie__os_now(f.os, KELPIE_OS_CLOCK_MONOTONIC);
    assert_int_equal(kelpie__os_wait(f.os, &event, 1, now_ns + INT64_C(31000000000)), 0);
    write_file(&f, f.work, "late", bytes, NEW_BYTES, false);
    assert_int_equal(kelpie__sim_disk_peek(f.disk, true, "/work/early", NULL, 0), NEW_BYTES);
    kelpie__sim_disk_crash_to(f.disk, 0, LIMIT);
    assert_int_equal(look(&f, "/work/early"), NEW);
    assert_int_equal(look(&f, "/work/late"), MISSING);
    end(&f);
}

static void test_crash_empties_tmpfs_and_keeps_nodes(void **state) {
    struct fixture f;
    struct kelpie_os_stat stat;
    char byte;
    kelpie__ignore(state != NULL);
    begin(&f, 1, SIM_DISK_EXT4, NULL);
    write_file(&f, CWD, "/tmp/gone", "x", 1, true);
    write_file(&f, CWD, "/run/gone", "x", 1, true);
    int file = kelpie__os_open(f.os, CWD, "/tmp/gone", READ, 0);
    assert_int_equal(kelpie__os_lock(f.os, file), 0);
    kelpie__sim_disk_crash(f.disk);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/tmp", false, &stat), 0);
    assert_int_equal(stat.mode, 01777);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/tmp/gone", false, &stat), -ENOENT);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/run/gone", false, &stat), -ENOENT);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/dev/null", false, &stat), 0);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/proc/self/stat", false, &stat), 0);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/usr/libexec/kelpie", false, &stat), 0);
    /* what was open is void */
    assert_int_equal(kelpie__os_pread(f.os, file, &byte, 1, 0), -EIO);
    assert_int_equal(kelpie__os_stat(f.os, f.work, ".", false, &stat), -EIO);
    assert_int_equal(kelpie__os_close(f.os, file), 0);
    assert_int_equal(kelpie__os_close(f.os, f.work), 0);
    end(&f);
}

/* A disk that is tmpfs: nothing of what processes did is left, all that was installed is. */
static void test_profile_tmpfs_loses_all(void **state) {
    struct fixture f;
    struct kelpie_os_stat stat;
    kelpie__ignore(state != NULL);
    begin(&f, 1, SIM_DISK_TMPFS, NULL);
    write_file(&f, f.work, "state", "x", 1, true);
    assert_int_equal(kelpie__os_sync(f.os, f.work), 0);
    assert_int_equal(kelpie__sim_disk_pending(f.disk), 0);
    kelpie__sim_disk_crash(f.disk);
    assert_int_equal(look(&f, "/work/state"), MISSING);
    assert_int_equal(kelpie__os_stat(f.os, CWD, "/usr/libexec/kelpie", false, &stat), 0);
    end(&f);
}

static void test_failed_sync_leaves_pages_clean_and_lost(void **state) {
    static const char *const plans[] = {"sync role=test nth=1 => EIO:lie",
                                        "sync role=test nth=1 => lie"};
    static const int answers[] = {-EIO, 0};
    char bytes[NEW_BYTES];
    kelpie__ignore(state != NULL);
    new_content(bytes);
    for (unsigned i = 0; i < 2; i += 1) {
        struct fixture f;
        begin(&f, 1, SIM_DISK_EXT4, plans[i]);
        assert_int_equal(kelpie__sim_disk_put(f.disk, "/work/state", 0600, "old", 3), 0);
        int file = kelpie__os_open(f.os, f.work, "state", READ | WRITE, 0);
        assert_int_equal(kelpie__os_pwrite(f.os, file, bytes, NEW_BYTES, 0), NEW_BYTES);
        assert_int_equal(kelpie__os_sync(f.os, file), answers[i]);
        assert_int_equal(look(&f, "/work/state"), NEW);   /* in the cache it is */
        assert_int_equal(kelpie__os_sync(f.os, file), 0); /* Linux has reported it once */
        kelpie__sim_disk_crash(f.disk);
        assert_int_equal(look(&f, "/work/state"), OLD);
        end(&f);
    }
}

static void test_short_calls_and_changed_bits(void **state) {
    struct fixture f;
    char bytes[8] = "";
    kelpie__ignore(state != NULL);
    begin(&f, 1, SIM_DISK_EXT4,
          "pwrite role=test nth=1 => short:3\npread role=test nth=1 => mutate\n");
    int file = kelpie__os_open(f.os, f.work, "file", READ | WRITE | CREATE, 0600);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "12345678", 8, 0), 3);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "45678", 5, 3), 5);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, 0), 8);
    assert_memory_not_equal(bytes, "12345678", 8);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, 0), 8);
    assert_memory_equal(bytes, "12345678", 8);
    assert_int_equal(kelpie__os_sync(f.os, file), 0);
    assert_int_equal(kelpie__sim_disk_rot(f.disk, "/work/file", 12345), 0);
    assert_int_equal(kelpie__os_pread(f.os, file, bytes, 8, 0), 8);
    assert_memory_not_equal(bytes, "12345678", 8);
    kelpie__sim_disk_crash(f.disk);
    assert_int_equal(kelpie__sim_disk_peek(f.disk, false, "/work/file", bytes, 8), 8);
    assert_memory_not_equal(bytes, "12345678", 8);
    assert_int_equal(kelpie__sim_disk_rot(f.disk, "/work/none", 1), -ENOENT);
    end(&f);
}

/* ---- chance ---------------------------------------------------------------------------------- */

static void test_random_crashes_see_every_outcome(void **state) {
    unsigned counts[16] = {0};
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 200; seed += 1) {
        struct fixture f;
        begin(&f, seed, SIM_DISK_POSIX, NULL);
        replace(&f, 6, true, false, false);
        kelpie__sim_disk_crash(f.disk);
        counts[look(&f, "/work/state")] += 1;
        end(&f);
    }
    assert_true(counts[OLD] > 5 && counts[NEW] > 5 && counts[TORN] > 5 && counts[MISSING] > 2);
}

/* ---- beside a model -------------------------------------------------------------------------- */

#define MODEL_NAMES 24u
#define MODEL_BYTES 20000u
#define MODEL_OPERATIONS 100000u
#define MODEL_CRASH_EVERY 2500u

struct model_file {
    unsigned names;
    bool is_synced;
    uint32_t size;
    char bytes[MODEL_BYTES];
};

struct model {
    struct fixture f;
    uint64_t random;
    struct model_file files[MODEL_NAMES]; /* names 0: free */
    int of_name[MODEL_NAMES];             /* -1: none */
    bool is_name_synced[MODEL_NAMES];
    bool has_links;
    int directories[2];
};

static uint64_t draw(struct model *m, uint64_t bound) {
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (m->random >> 33) % bound;
}

/* Even names are in the one directory, odd ones in the other. */
static const char *name_of(unsigned index, char out[16]) {
    snprintf(out, 16, "name%u", index);
    return out;
}

static void model_open_directories(struct model *m) {
    m->directories[0] = kelpie__os_open(m->f.os, CWD, "/work/a", READ | DIRECTORY, 0);
    m->directories[1] = kelpie__os_open(m->f.os, CWD, "/work/b", READ | DIRECTORY, 0);
    assert_true(m->directories[0] >= 0 && m->directories[1] >= 0);
}

static int model_open(struct model *m, unsigned index, uint32_t flags) {
    char name[16];
    return kelpie__os_open(m->f.os, m->directories[index % 2], name_of(index, name), flags, 0600);
}

static void model_drop(struct model *m, unsigned index) {
    m->is_name_synced[index] = false;
    if (m->of_name[index] >= 0) {
        m->files[m->of_name[index]].names -= 1;
        m->of_name[index] = -1;
    }
}

static void model_verify(struct model *m, unsigned index) {
    static char bytes[MODEL_BYTES + 1];
    int file = model_open(m, index, READ);
    if (m->of_name[index] < 0) {
        assert_int_equal(file, -ENOENT);
        return;
    }
    const struct model_file *expected = &m->files[m->of_name[index]];
    assert_true(file >= 0);
    int64_t got = kelpie__os_pread(m->f.os, file, bytes, sizeof(bytes), 0);
    assert_int_equal(got, expected->size);
    assert_memory_equal(bytes, expected->bytes, expected->size);
    kelpie__os_close(m->f.os, file);
}

static void model_write(struct model *m, unsigned index) {
    static char bytes[8192];
    int file = model_open(m, index, READ | WRITE | CREATE);
    assert_true(file >= 0);
    if (m->of_name[index] < 0) {
        unsigned slot = 0;
        while (m->files[slot].names > 0) {
            slot += 1;
        }
        m->files[slot].names = 1;
        m->is_name_synced[index] = false;
        m->files[slot].size = 0;
        memset(m->files[slot].bytes, 0, MODEL_BYTES);
        m->of_name[index] = (int)slot;
    }
    struct model_file *model = &m->files[m->of_name[index]];
    uint64_t kind = draw(m, 4);
    model->is_synced = false;
    if (kind == 0) {
        uint32_t size = (uint32_t)draw(m, MODEL_BYTES);
        assert_int_equal(kelpie__os_truncate(m->f.os, file, size), 0);
        if (size < model->size) {
            memset(model->bytes + size, 0, model->size - size);
        }
        model->size = size;
    } else {
        size_t count = 1 + (size_t)draw(m, draw(m, 3) == 0 ? sizeof(bytes) : 100);
        uint64_t offset = kind == 1 ? model->size : draw(m, MODEL_BYTES);
        if (offset + count <= MODEL_BYTES) {
            memset(bytes, (int)draw(m, 256), count);
            assert_int_equal(kelpie__os_pwrite(m->f.os, file, bytes, count, offset), count);
            memcpy(model->bytes + offset, bytes, count);
            model->size = offset + count > model->size ? (uint32_t)(offset + count) : model->size;
        }
    }
    if (draw(m, 4) == 0) {
        assert_int_equal(kelpie__os_sync(m->f.os, file), 0);
        model->is_synced = true;
    }
    kelpie__os_close(m->f.os, file);
}

static void model_rename(struct model *m, unsigned index, unsigned to) {
    char from_name[16];
    char to_name[16];
    bool may_replace = draw(m, 3) > 0;
    int status = kelpie__os_rename(m->f.os, m->directories[index % 2], name_of(index, from_name),
                                   m->directories[to % 2], name_of(to, to_name), may_replace);
    if (m->of_name[index] < 0) {
        assert_int_equal(status, -ENOENT);
    } else if (m->of_name[to] >= 0 && !may_replace) {
        assert_int_equal(status, -EEXIST);
    } else {
        assert_int_equal(status, 0);
        if (m->of_name[index] != m->of_name[to]) { /* else: two names of one file */
            model_drop(m, to);
            m->of_name[to] = m->of_name[index];
            m->of_name[index] = -1;
            m->is_name_synced[index] = false;
        }
    }
}

static void model_link(struct model *m, unsigned index, unsigned to) {
    char name[16];
    int file = model_open(m, index, READ);
    if (file < 0) {
        assert_true(m->of_name[index] < 0);
        return;
    }
    int status = kelpie__os_link(m->f.os, file, m->directories[to % 2], name_of(to, name));
    assert_int_equal(status, m->of_name[to] >= 0 ? -EEXIST : 0);
    if (status == 0) {
        m->of_name[to] = m->of_name[index];
        m->files[m->of_name[to]].names += 1;
    }
    kelpie__os_close(m->f.os, file);
}

static void model_step(struct model *m) {
    unsigned index = (unsigned)draw(m, MODEL_NAMES);
    unsigned to = (unsigned)draw(m, MODEL_NAMES);
    char name[16];
    switch (draw(m, 8)) {
    case 0:
    case 1:
    case 2:
        model_write(m, index);
        break;
    case 3:
        model_rename(m, index, to);
        break;
    case 4: {
        int status =
            kelpie__os_unlink(m->f.os, m->directories[index % 2], name_of(index, name), false);
        assert_int_equal(status, m->of_name[index] < 0 ? -ENOENT : 0);
        model_drop(m, index);
        break;
    }
    case 5:
        if (m->has_links) {
            model_link(m, index, to);
        }
        break;
    case 6:
        assert_int_equal(kelpie__os_sync(m->f.os, m->directories[index % 2]), 0);
        for (unsigned i = index % 2; i < MODEL_NAMES; i += 2) {
            m->is_name_synced[i] = true;
        }
        break;
    default:
        model_verify(m, index);
        break;
    }
}

/* All is kept, by syncing everything or by the kindest of crashes. */
static void model_crash(struct model *m) {
    kelpie__sim_disk_check(m->f.disk);
    if (draw(m, 2) == 0) {
        kelpie__sim_pending_sync_all(m->f.disk);
        kelpie__sim_disk_collect(m->f.disk);
        kelpie__sim_disk_crash_to(m->f.disk, 0, 2);
    } else {
        kelpie__sim_disk_crash_to(m->f.disk, kelpie__sim_disk_crash_count(m->f.disk, 10) - 1, 10);
    }
    kelpie__os_close(m->f.os, m->directories[0]);
    kelpie__os_close(m->f.os, m->directories[1]);
    model_open_directories(m);
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        model_verify(m, i);
    }
}

static void test_hundred_thousand_operations_beside_a_model(void **state) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        struct model *m = calloc(1, sizeof(*m));
        assert_non_null(m);
        begin(&m->f, 1, profiles[i], NULL);
        m->random = 42 + i;
        m->has_links = true;
        memset(m->of_name, -1, sizeof(m->of_name));
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "a", 0700), 0);
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "b", 0700), 0);
        model_open_directories(m);
        uint64_t used = kelpie__sim_disk_used_bytes(m->f.disk);
        for (unsigned n = 0; n < MODEL_OPERATIONS / 2; n += 1) {
            model_step(m);
            if (n % MODEL_CRASH_EVERY == MODEL_CRASH_EVERY - 1) {
                model_crash(m);
            }
        }
        /* Nothing is left behind. */
        for (unsigned n = 0; n < MODEL_NAMES; n += 1) {
            char name[16];
            int status = kelpie__os_unlink(m->f.os, m->directories[n % 2], name_of(n, name), false);
            assert_int_equal(status, m->of_name[n] < 0 ? -ENOENT : 0);
            model_drop(m, n);
        }
        model_crash(m);
        assert_int_equal(kelpie__sim_disk_used_bytes(m->f.disk), used);
        end(&m->f);
        free(m);
    }
}

/* What is there becomes the model. Each name has a file of its own, for there are no links. */
static void model_reload(struct model *m) {
    memset(m->files, 0, sizeof(m->files));
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        int file = model_open(m, i, READ);
        m->of_name[i] = -1;
        m->is_name_synced[i] = true;
        if (file >= 0) {
            int64_t size = kelpie__os_pread(m->f.os, file, m->files[i].bytes, MODEL_BYTES, 0);
            assert_true(size >= 0);
            m->files[i].size = (uint32_t)size;
            m->files[i].names = 1;
            m->files[i].is_synced = true;
            m->of_name[i] = (int)i;
            kelpie__os_close(m->f.os, file);
        }
    }
}

/* A file that two names led to before the crash (a rename half done) gets a single one. */
static void model_separate(struct model *m) {
    struct kelpie_os_stat stats[MODEL_NAMES] = {0};
    char name[16];
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        kelpie__ignore(
            kelpie__os_stat(m->f.os, m->directories[i % 2], name_of(i, name), false, &stats[i]));
        for (unsigned j = 0; j < i && stats[i].inode != 0; j += 1) {
            if (stats[j].inode == stats[i].inode) {
                assert_int_equal(kelpie__os_unlink(m->f.os, m->directories[i % 2], name, false), 0);
                stats[i].inode = 0;
            }
        }
    }
    for (unsigned i = 0; i < 2; i += 1) {
        assert_int_equal(kelpie__os_sync(m->f.os, m->directories[i]), 0);
    }
}

static void test_what_was_synced_survives_any_crash(void **state) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        struct model *m = calloc(1, sizeof(*m));
        unsigned checked = 0;
        assert_non_null(m);
        begin(&m->f, 1, profiles[i], NULL);
        m->random = 4711 + i;
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "a", 0700), 0);
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "b", 0700), 0);
        assert_int_equal(kelpie__os_sync(m->f.os, m->f.work), 0);
        model_open_directories(m);
        model_reload(m);
        for (unsigned crash = 0; crash < 1000; crash += 1) {
            for (uint64_t n = draw(m, 60); n > 0; n -= 1) {
                model_step(m);
            }
            kelpie__sim_disk_crash(m->f.disk);
            kelpie__os_close(m->f.os, m->directories[0]);
            kelpie__os_close(m->f.os, m->directories[1]);
            model_open_directories(m);
            for (unsigned n = 0; n < MODEL_NAMES; n += 1) {
                if (m->is_name_synced[n] &&
                    (m->of_name[n] < 0 || m->files[m->of_name[n]].is_synced)) {
                    model_verify(m, n);
                    checked += m->of_name[n] >= 0;
                }
            }
            model_separate(m);
            model_reload(m);
        }
        assert_true(checked > 2000);
        end(&m->f);
        free(m);
    }
}

#define TEST(test) cmocka_unit_test(test)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_replaced_file_is_old_or_new_never_torn),
        TEST(test_rename_without_directory_sync_may_be_undone),
        TEST(test_rename_without_file_sync_may_be_torn),
        TEST(test_published_directory_is_whole_or_absent),
        TEST(test_appends_leave_prefixes_zeros_or_garbage),
        TEST(test_overwriting_in_place_loses_both),
        TEST(test_old_writes_are_written_back),
        TEST(test_crash_empties_tmpfs_and_keeps_nodes),
        TEST(test_profile_tmpfs_loses_all),
        TEST(test_failed_sync_leaves_pages_clean_and_lost),
        TEST(test_short_calls_and_changed_bits),
        TEST(test_random_crashes_see_every_outcome),
        TEST(test_what_was_synced_survives_any_crash),
        TEST(test_hundred_thousand_operations_beside_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
