/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what the store calls durable is whole after a power loss at any moment. Method: the store's
 * own code over the simulated disk, stopped at each of its calls that change something; of the
 * states in which a crash may then leave the disk, all are looked at (of very many, every n-th).
 */
#include "disk_fixture.h"

#include "core/small_file.h"
#include "core/text.h"
#include "store/lasting.h"
#include "store/places.h"
#include "store/vm_directory.h"

#define STATES_MAX 400u /* of one moment; of more, so many of them */
#define CALLS_MAX 200u
#define ID "0123456789abcdef0123456789abcdef"

/* ---- stopping -------------------------------------------------------------------------------- */

/* The real operations, and how many more may happen. One world at a time. */
static struct kelpie_os real;
static unsigned calls_left;
static bool is_stopped;

static bool may_go_on(void) {
    is_stopped = is_stopped || calls_left == 0;
    calls_left -= is_stopped ? 0 : 1;
    return !is_stopped;
}

static int stop_open(struct kelpie_os *os, int directory, const char *path, uint32_t flags,
                     uint32_t mode) {
    bool is_change = (flags & CREATE) != 0;
    return is_change && !may_go_on() ? -EIO : real.open(os, directory, path, flags, mode);
}

static int64_t stop_pwrite(struct kelpie_os *os, int file, const void *bytes, size_t count,
                           uint64_t offset) {
    return may_go_on() ? real.pwrite(os, file, bytes, count, offset) : -EIO;
}

static int stop_sync(struct kelpie_os *os, int handle) {
    return may_go_on() ? real.sync(os, handle) : -EIO;
}

static int stop_rename(struct kelpie_os *os, int from_directory, const char *from, int to_directory,
                       const char *to, bool may_replace) {
    return may_go_on() ? real.rename(os, from_directory, from, to_directory, to, may_replace)
                       : -EIO;
}

static int stop_unlink(struct kelpie_os *os, int directory, const char *name, bool is_directory) {
    return may_go_on() ? real.unlink(os, directory, name, is_directory) : -EIO;
}

static int stop_mkdir(struct kelpie_os *os, int directory, const char *name, uint32_t mode) {
    return may_go_on() ? real.mkdir(os, directory, name, mode) : -EIO;
}

static void stop_after(struct kelpie_os *os, unsigned calls) {
    real = *os;
    calls_left = calls;
    is_stopped = false;
    os->open = stop_open;
    os->pwrite = stop_pwrite;
    os->sync = stop_sync;
    os->rename = stop_rename;
    os->unlink = stop_unlink;
    os->mkdir = stop_mkdir;
}

static void go_on(struct kelpie_os *os) {
    *os = real;
}

/* ---- every crash ----------------------------------------------------------------------------- */

enum outcome { OLD = 1, NEW = 2, ABSENT = 4, BROKEN = 8 };

struct subject {
    void (*prepare)(struct fixture *f);
    void (*work)(struct fixture *f);
    enum outcome (*look)(struct fixture *f);
};

/* The outcomes of crashes in the middle, and of those after the end. */
static void crash_everywhere(const struct subject *subject, enum sim_disk_profile profile,
                             unsigned *out_seen, unsigned *out_last) {
    bool is_through = false;
    *out_seen = 0;
    for (unsigned calls = 0; calls < CALLS_MAX && !is_through; calls += 1) {
        uint64_t count = 1;
        uint64_t step = 1;
        *out_last = 0;
        for (uint64_t index = 0; index < count; index += step) {
            struct fixture f;
            begin(&f, 1, profile, NULL);
            subject->prepare(&f);
            stop_after(f.os, calls);
            subject->work(&f);
            is_through = !is_stopped;
            go_on(f.os);
            count = index == 0 ? kelpie__sim_disk_crash_count(f.disk, LIMIT) : count;
            step = count / STATES_MAX + 1;
            kelpie__sim_disk_crash_to(f.disk, index, LIMIT);
            *out_last |= subject->look(&f);
            end(&f);
        }
        *out_seen |= *out_last;
    }
    assert_true(is_through);
}

static int open_directory(struct fixture *f, const char *path) {
    return kelpie__os_open(f->os, CWD, path, READ | DIRECTORY, 0);
}

/* ---- state.json ------------------------------------------------------------------------------ */

static void write_state(struct fixture *f, enum kelpie_vm_state state) {
    const struct kelpie_vm_record record = {.state = state, .backend = "qemu"};
    kelpie__ignore(kelpie__record_write(f->os, f->work, &record, true, NULL));
}

static void state_prepare(struct fixture *f) {
    write_state(f, KELPIE_VM_RUNNING);
}

static void state_work(struct fixture *f) {
    write_state(f, KELPIE_VM_STOPPED);
}

static enum outcome state_look(struct fixture *f) {
    struct kelpie_vm_record record;
    struct kelpie_os_stat status;
    int directory = open_directory(f, "/work");
    if (kelpie__os_stat(f->os, directory, KELPIE_RECORD_FILE, false, &status) == -ENOENT) {
        return ABSENT;
    }
    if (kelpie__record_read(f->os, directory, &record, NULL) < 0) {
        return BROKEN;
    }
    return record.state == KELPIE_VM_STOPPED ? NEW : OLD;
}

static void test_synced_state_is_old_or_new(void **state) {
    static const struct subject subject = {state_prepare, state_work, state_look};
    unsigned seen = 0;
    unsigned last = 0;
    kelpie__ignore(state != NULL);
    crash_everywhere(&subject, SIM_DISK_EXT4, &seen, &last);
    assert_int_equal(seen, OLD | NEW);
    assert_int_equal(last, NEW);
    /* POSIX's rename is atomic for processes only: in the middle of it there may be no name. */
    crash_everywhere(&subject, SIM_DISK_POSIX, &seen, &last);
    assert_int_equal(seen, OLD | NEW | ABSENT);
    assert_int_equal(last, NEW);
}

/* ---- what lasts ------------------------------------------------------------------------------ */

#define LAYER_OLD "disk-1.raw"
#define LAYER_NEW "disk-2.qcow2"

static struct kelpie_vm_record layers_of(uint32_t count) {
    struct kelpie_vm_record record = {.layer_count = count, .is_snapshot_used = count > 1};
    static const char *const names[] = {LAYER_OLD, LAYER_NEW};
    for (uint32_t i = 0; i < count; i += 1) {
        kelpie__ignore(kelpie__text_copy(record.layers[i], sizeof(record.layers[i]), names[i]));
    }
    return record;
}

static void make_layer(struct fixture *f, const char *name) {
    int file = kelpie__os_open(f->os, f->work, name, WRITE | CREATE, 0600);
    if (file >= 0) {
        kelpie__ignore(kelpie__os_pwrite(f->os, file, name, strlen(name), 0));
        kelpie__ignore(kelpie__os_close(f->os, file));
    }
}

static void lasting_first(struct fixture *f) {
    make_layer(f, LAYER_OLD);
    struct kelpie_vm_record record = layers_of(1);
    kelpie__ignore(kelpie__lasting_write(f->os, f->work, &record, 0, NULL));
}

static void lasting_next(struct fixture *f) {
    make_layer(f, LAYER_NEW);
    struct kelpie_vm_record record = layers_of(2);
    kelpie__ignore(kelpie__lasting_write(f->os, f->work, &record, 1, NULL));
}

static bool is_layer_whole(struct fixture *f, int directory, const char *name) {
    char text[32] = "";
    return kelpie__small_file_read_at(f->os, directory, name, text, sizeof(text)) > 0 &&
           strcmp(text, name) == 0;
}

/* The list is one of those that were written, and what it names is there. */
static enum outcome lasting_look(struct fixture *f) {
    struct kelpie_vm_record record = {0};
    int directory = open_directory(f, "/work");
    bool is_whole = kelpie__lasting_read(f->os, directory, &record, NULL) == 0 &&
                    record.is_snapshot_used == (record.layer_count > 1);
    for (uint32_t i = 0; i < record.layer_count && is_whole; i += 1) {
        is_whole = is_layer_whole(f, directory, record.layers[i]);
    }
    return !is_whole                 ? BROKEN
           : record.layer_count == 0 ? ABSENT
           : record.layer_count == 1 ? OLD
                                     : NEW;
}

static void nothing(struct fixture *f) {
    kelpie__ignore(f != NULL);
}

static void test_what_lasts_is_old_or_new_with_its_files(void **state) {
    static const struct subject first = {nothing, lasting_first, lasting_look};
    static const struct subject next = {lasting_first, lasting_next, lasting_look};
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(profiles); i += 1) {
        unsigned seen = 0;
        unsigned last = 0;
        crash_everywhere(&first, profiles[i], &seen, &last);
        assert_int_equal(seen, ABSENT | OLD);
        assert_int_equal(last, OLD);
        crash_everywhere(&next, profiles[i], &seen, &last);
        assert_int_equal(seen, OLD | NEW);
        assert_int_equal(last, NEW);
    }
}

/* ---- a VM that is made ----------------------------------------------------------------------- */

static void vm_prepare(struct fixture *f) {
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work/vms", 0700), 0);
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work/run", 0700), 0);
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work/run/vms", 0700), 0);
}

static struct kelpie_places places_of(struct fixture *f) {
    struct kelpie_places places = {.os = f->os,
                                   .state_path = "/work",
                                   .runtime_path = "/work/run",
                                   .state_vms = open_directory(f, "/work/vms"),
                                   .runtime_vms = open_directory(f, "/work/run/vms")};
    assert_true(places.state_vms >= 0 && places.runtime_vms >= 0);
    return places;
}

static void vm_work(struct fixture *f) {
    struct kelpie_places places = places_of(f);
    struct kelpie_vm_directory directory;
    struct kelpie_config_values *values = calloc(1, sizeof(*values));
    assert_non_null(values);
    kelpie__config_defaults(values);
    kelpie__ignore(kelpie__text_copy(values->name, sizeof(values->name), "made"));
    kelpie__ignore(kelpie__text_copy(values->id, sizeof(values->id), ID));
    int status = kelpie__vm_directory_create(&directory, &places, values, NULL);
    if (status == 0) {
        kelpie__vm_directory_close(&directory);
    }
    assert_true(status == 0 || is_stopped);
    free(values);
}

static enum outcome vm_look(struct fixture *f) {
    struct kelpie_places places = places_of(f);
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    struct kelpie_config_values *values = calloc(1, sizeof(*values));
    assert_non_null(values);
    enum outcome found = BROKEN;
    kelpie__vm_directory_prune(&places, NULL);
    int status = kelpie__vm_directory_open(&directory, &places, "made", NULL);
    if (status == KELPIE_E_NOT_FOUND) {
        found = ABSENT;
    } else if (status == 0) {
        bool is_whole = kelpie__vm_directory_config(&directory, values, NULL) == 0 &&
                        strcmp(values->id, ID) == 0 &&
                        kelpie__record_read(f->os, directory.vm, &record, NULL) == 0 &&
                        record.state == KELPIE_VM_CREATED;
        found = is_whole ? NEW : BROKEN;
        kelpie__vm_directory_close(&directory);
    }
    free(values);
    return found;
}

static void test_made_vm_is_whole_or_absent(void **state) {
    static const struct subject subject = {vm_prepare, vm_work, vm_look};
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(profiles); i += 1) {
        unsigned seen = 0;
        unsigned last = 0;
        crash_everywhere(&subject, profiles[i], &seen, &last);
        assert_int_equal(seen, NEW | ABSENT);
        assert_int_equal(last, NEW);
    }
}

/* ---- the state directory --------------------------------------------------------------------- */

static int open_places(struct fixture *f, struct kelpie_places *places) {
    const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                .state_directory = "/work/a/b",
                                                .libexec_directory = "/work"};
    return kelpie__places_open(places, f->os, &options, NULL);
}

/* Whoever comes second has what it needs durable, wherever the first one died. */
static void test_places_are_durable_after_one_who_died(void **state) {
    bool is_through = false;
    kelpie__ignore(state != NULL);
    for (unsigned calls = 0; calls < CALLS_MAX && !is_through; calls += 1) {
        struct fixture f;
        struct kelpie_places first;
        struct kelpie_places second;
        struct kelpie_os_stat stat;
        begin(&f, 1, SIM_DISK_POSIX, NULL);
        stop_after(f.os, calls);
        bool has_first = open_places(&f, &first) == 0;
        is_through = !is_stopped;
        go_on(f.os);
        assert_int_equal(open_places(&f, &second), 0);
        kelpie__places_close(&second);
        if (has_first) {
            kelpie__places_close(&first);
        }
        kelpie__sim_disk_crash_to(f.disk, 0, LIMIT); /* nothing that is pending survives */
        assert_int_equal(kelpie__os_stat(f.os, CWD, "/work/a/b/vms", false, &stat), 0);
        end(&f);
    }
    assert_true(is_through);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synced_state_is_old_or_new),
        cmocka_unit_test(test_what_lasts_is_old_or_new_with_its_files),
        cmocka_unit_test(test_made_vm_is_whole_or_absent),
        cmocka_unit_test(test_places_are_durable_after_one_who_died),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
