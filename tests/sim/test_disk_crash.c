/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: after a crash the simulated disk holds what Linux promises, and everything that Linux does
 * not promise can be seen. Method: what a program does is repeated in a fresh world for each legal
 * state that a crash may leave, all of them, and sorted by what is found.
 */
#include "disk_fixture.h"

#define NEW_BYTES 10000u /* three pages */

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
        return size == -EISDIR ? TORN : MISSING;
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
    unsigned seen =
        crash_everywhere(replace_without_file, SIM_DISK_EXT4, "/work/state", &last, &states);
    assert_int_equal(seen, OLD | NEW);
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

static void test_what_was_cut_never_mixes_with_what_came_after(void **state) {
    uint64_t count = 1;
    kelpie__ignore(state != NULL);
    for (uint64_t index = 0; index < count; index += 1) {
        struct fixture f;
        char found[NEW_BYTES];
        begin(&f, 1, SIM_DISK_POSIX, NULL);
        overwrite(&f, 0);
        count = kelpie__sim_disk_crash_count(f.disk, LIMIT);
        kelpie__sim_disk_crash_to(f.disk, index, LIMIT);
        int64_t size = kelpie__sim_disk_peek(f.disk, false, "/work/state", found, sizeof(found));
        assert_true(size == 3 || size == 0 || size == NEW_BYTES);
        assert_true(size != 3 || memcmp(found, "old", 3) == 0);
        end(&f);
    }
    assert_true(count > 8 && count < LIMIT);
}

/* Even in three steps a rename never loses the file: the new name comes before the old one goes. */
static void test_renamed_file_has_a_name(void **state) {
    uint64_t count = 1;
    unsigned both = 0;
    kelpie__ignore(state != NULL);
    for (uint64_t index = 0; index < count; index += 1) {
        struct fixture f;
        begin(&f, 1, SIM_DISK_POSIX, NULL);
        assert_int_equal(kelpie__sim_disk_put(f.disk, "/work/from", 0600, "old", 3), 0);
        assert_int_equal(kelpie__os_mkdir(f.os, f.work, "sub", 0700), 0);
        assert_int_equal(kelpie__os_sync(f.os, f.work), 0);
        assert_int_equal(kelpie__os_rename(f.os, f.work, "from", f.work, "sub/to", true), 0);
        count = kelpie__sim_disk_crash_count(f.disk, LIMIT);
        kelpie__sim_disk_crash_to(f.disk, index, LIMIT);
        enum outcome from = look(&f, "/work/from");
        enum outcome to = look(&f, "/work/sub/to");
        assert_true(from == OLD || to == OLD);
        both += from == OLD && to == OLD;
        end(&f);
    }
    assert_int_equal(count, 3);
    assert_int_equal(both, 1);
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

/* A page that was lost is whole again as soon as anything in it is written. */
static void test_lost_page_comes_back_with_the_next_write(void **state) {
    struct fixture f;
    char text[8] = "";
    kelpie__ignore(state != NULL);
    begin(&f, 1, SIM_DISK_EXT4, "sync role=test nth=1 => EIO:lie");
    assert_int_equal(kelpie__sim_disk_put(f.disk, "/work/state", 0600, "old!", 4), 0);
    int file = kelpie__os_open(f.os, f.work, "state", READ | WRITE, 0);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "AAAA", 4, 0), 4);
    assert_int_equal(kelpie__os_sync(f.os, file), -EIO);
    assert_int_equal(kelpie__os_pwrite(f.os, file, "B", 1, 4), 1);
    kelpie__sim_disk_crash_to(f.disk, kelpie__sim_disk_crash_count(f.disk, LIMIT) - 1, LIMIT);
    assert_int_equal(kelpie__sim_disk_peek(f.disk, false, "/work/state", text, 8), 5);
    assert_string_equal(text, "AAAAB");
    end(&f);
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

#define TEST(test) cmocka_unit_test(test)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_replaced_file_is_old_or_new_never_torn),
        TEST(test_rename_without_directory_sync_may_be_undone),
        TEST(test_rename_without_file_sync_may_be_torn),
        TEST(test_published_directory_is_whole_or_absent),
        TEST(test_appends_leave_prefixes_zeros_or_garbage),
        TEST(test_overwriting_in_place_loses_both),
        TEST(test_what_was_cut_never_mixes_with_what_came_after),
        TEST(test_renamed_file_has_a_name),
        TEST(test_lost_page_comes_back_with_the_next_write),
        TEST(test_old_writes_are_written_back),
        TEST(test_crash_empties_tmpfs_and_keeps_nodes),
        TEST(test_profile_tmpfs_loses_all),
        TEST(test_failed_sync_leaves_pages_clean_and_lost),
        TEST(test_short_calls_and_changed_bits),
        TEST(test_random_crashes_see_every_outcome),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
