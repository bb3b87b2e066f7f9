/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/: places, VM directories, their lock, recovery and deletion, over real files in a temporary
 * directory. A second table of the real system stands for another process: locks tell them apart.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "store/lasting.h"
#include "store/vm_directory.h"

static char base[] = "/tmp/kelpie-test-store-XXXXXX";
static struct kelpie_os *os;
static struct kelpie_places places;
static struct kelpie_config_values config;

static const char *path_of(const char *name) {
    static char paths[4][256];
    static unsigned turn;
    turn = (turn + 1) % 4;
    snprintf(paths[turn], sizeof(paths[turn]), "%s/%s", base, name);
    return paths[turn];
}

static bool exists(const char *name) {
    struct stat status;
    return lstat(path_of(name), &status) == 0;
}

static int run(const char *command) {
    char text[512];
    snprintf(text, sizeof(text), "cd %s && %s", base, command);
    return system(text);
}

static int open_places(struct kelpie_places *out, struct kelpie_error *error) {
    const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                .state_directory = path_of("state"),
                                                .libexec_directory = base};
    return kelpie__places_open(out, os, &options, error);
}

static int set_up(void **state) {
    assert_non_null(state);
    snprintf(base, sizeof(base), "/tmp/kelpie-test-store-XXXXXX");
    assert_non_null(mkdtemp(base));
    os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_int_equal(open_places(&places, NULL), 0);
    kelpie__config_defaults(&config);
    memset(config.id, 'a', sizeof(config.id) - 1);
    snprintf(config.name, sizeof(config.name), "box");
    return 0;
}

static int tear_down(void **state) {
    assert_non_null(state);
    kelpie__places_close(&places);
    kelpie__os_linux_destroy(os);
    return run("rm -rf \"$PWD\"");
}

static void create(struct kelpie_vm_directory *out) {
    struct kelpie_error error = {0};
    if (kelpie__vm_directory_create(out, &places, &config, &error) < 0) {
    }
}

static uint32_t count_listed(void) {
    struct kelpie_vm_directory_cursor cursor = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1];
    uint32_t count = 0;
    while (kelpie__vm_directory_list(&places, &cursor, name, NULL) == 1) {
        count += 1;
    }
    return count;
}

static void write_state(const struct kelpie_vm_directory *directory, enum kelpie_vm_state now,
                        enum kelpie_vm_state previous) {
    const struct kelpie_vm_record record = {.state = now, .previous = previous, .vmm_pid = 42};
    assert_int_equal(kelpie__record_write(os, directory->vm, &record, false, NULL), 0);
}

/* ---- places ---------------------------------------------------------------------------------- */

static void test_places_are_private_and_absolute(void **state) {
    struct stat status;
    assert_non_null(state);
    assert_int_equal(stat(path_of("state"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_true(exists("state/vms") && exists("state/run/vms") && exists("state/cache"));
    struct kelpie_places relative;
    const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                .state_directory = "relative"};
    char before[256];
    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(base), 0);
    assert_int_equal(kelpie__places_open(&relative, os, &options, NULL), 0);
    assert_int_equal(chdir(before), 0);
    assert_string_equal(relative.state_path, path_of("relative"));
    assert_string_equal(relative.cache_path, path_of("relative/cache"));
    kelpie__places_close(&relative);
}

static const char *environment_of_empty_words(struct kelpie_os *some_os, const char *name) {
    assert_non_null(some_os);
    return strcmp(name, "HOME") == 0 ? path_of("home") : "";
}

static int identity_of_a_user(struct kelpie_os *some_os, struct kelpie_os_identity *out) {
    assert_non_null(some_os);
    *out = (struct kelpie_os_identity){.uid = 4242, .gid = 4242, .pid = getpid()};
    return 0;
}

/* As a shell's `KELPIE_STATE_DIR= program` has it; it was an assertion's failure. */
static void test_an_empty_word_is_no_place(void **state) {
    struct kelpie_places other;
    struct kelpie_error error = {0};
    struct kelpie_os users = *os;
    const struct kelpie_open_options empty = {.struct_size = sizeof(empty),
                                              .state_directory = "",
                                              .runtime_directory = "",
                                              .cache_directory = "",
                                              .libexec_directory = ""};
    assert_non_null(state);
    users.environment = environment_of_empty_words;
    users.identity = identity_of_a_user;
    assert_int_equal(kelpie__places_open(&other, &users, &empty, &error), KELPIE_E_CONFIG);
    /* it was made here, by another user */
    assert_non_null(strstr(error.message, path_of("home/.local/state/kelpie")));
}

static void assert_places_refused(int code, const char *says) {
    struct kelpie_places other;
    struct kelpie_error error = {0};
    assert_int_equal(open_places(&other, &error), code);
    if (strstr(error.message, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    }
}

static void test_places_of_others_and_newer_formats_are_refused(void **state) {
    assert_non_null(state);
    assert_int_equal(run("chmod 0722 state"), 0);
    assert_places_refused(KELPIE_E_CONFIG, "can be written by other users (mode 0722)");
    assert_int_equal(run("chmod 0700 state && echo 2 > state/format"), 0);
    assert_places_refused(KELPIE_E_UNSUPPORTED, "has format 2, this version knows 1");
    assert_int_equal(run("echo x > state/format"), 0);
    assert_places_refused(KELPIE_E_IO, "damaged");
    assert_int_equal(run("echo 1 > state/format && mv state real && ln -s real state"), 0);
    assert_places_refused(KELPIE_E_IO, "it is a symbolic link: give the directory it leads to");
    assert_int_equal(run("rm state && touch state"), 0);
    assert_places_refused(KELPIE_E_IO, "not a directory");
    assert_int_equal(run("rm state && mv real state"), 0);
    if (geteuid() == 0) {
        assert_int_equal(run("chown 12345 state"), 0);
        assert_places_refused(KELPIE_E_CONFIG, "belongs to user 12345");
    }
}

/* ---- directories ----------------------------------------------------------------------------- */

static void test_created_is_whole_locked_and_taken(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_directory second;
    struct kelpie_error error = {0};
    static struct kelpie_config_values back;
    assert_non_null(state);
    create(&directory);
    assert_true(exists("state/vms/box/config.json") && exists("state/vms/box/state.json"));
    assert_true(exists("state/run/vms/box/lock"));
    assert_int_equal(count_listed(), 1);
    assert_int_equal(kelpie__vm_directory_create(&second, &places, &config, &error),
                     KELPIE_E_EXISTS);
    assert_string_equal(error.field, "name");
    assert_int_equal(kelpie__vm_directory_open(&second, &places, "box", NULL), 0);
    assert_int_equal(kelpie__vm_directory_lock(&second, &error), KELPIE_E_BUSY);
    assert_int_equal(kelpie__vm_directory_config(&second, &back, NULL), 0);
    assert_string_equal(back.id, config.id);
    kelpie__vm_directory_unlock(&directory);
    assert_int_equal(kelpie__vm_directory_lock(&second, NULL), 0);
    kelpie__vm_directory_close(&second);
    kelpie__vm_directory_close(&directory);
    assert_int_equal(kelpie__vm_directory_open(&second, &places, "none", &error),
                     KELPIE_E_NOT_FOUND);
}

static void test_deleted_is_gone_for_who_waits_for_its_lock(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_directory other;
    assert_non_null(state);
    create(&directory);
    assert_int_equal(kelpie__vm_directory_open(&other, &places, "box", NULL), 0);
    assert_int_equal(kelpie__vm_directory_delete(&directory, NULL), 0);
    assert_int_equal(count_listed(), 0);
    kelpie__vm_directory_close(&directory);
    assert_int_equal(run("test -z \"$(ls -A state/vms)\""), 0);
    create(&directory); /* the name is free again */
    kelpie__vm_directory_close(&directory);
    kelpie__vm_directory_close(&other);
}

static void assert_recovered(enum kelpie_vm_state from, enum kelpie_vm_state previous,
                             enum kelpie_vm_state to) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    assert_int_equal(kelpie__vm_directory_open(&directory, &places, "box", NULL), 0);
    write_state(&directory, from, previous);
    assert_int_equal(run("touch state/run/vms/box/monitor.sock"), 0);
    kelpie__vm_directory_close(&directory);
    kelpie__vm_directory_recover_all(&places, NULL);
    assert_int_equal(kelpie__vm_directory_open(&directory, &places, "box", NULL), 0);
    assert_int_equal(kelpie__record_read(os, directory.vm, &record, NULL), 0);
    assert_int_equal(record.state, to);
    if (from != to) {
        assert_non_null(strstr(record.reason, "monitor died"));
        assert_int_equal(record.vmm_pid, 0);
        assert_false(exists("state/run/vms/box/monitor.sock"));
    }
    kelpie__vm_directory_close(&directory);
}

static void test_recovery_makes_states_true(void **state) {
    struct kelpie_vm_directory directory;
    assert_non_null(state);
    create(&directory);
    kelpie__vm_directory_close(&directory);
    assert_recovered(KELPIE_VM_RUNNING, KELPIE_VM_CREATED, KELPIE_VM_CRASHED);
    assert_recovered(KELPIE_VM_PAUSED, KELPIE_VM_CREATED, KELPIE_VM_CRASHED);
    assert_recovered(KELPIE_VM_STARTING, KELPIE_VM_STOPPED, KELPIE_VM_STOPPED);
    assert_recovered(KELPIE_VM_STARTING, KELPIE_VM_CREATED, KELPIE_VM_CREATED);
    assert_recovered(KELPIE_VM_STOPPED, KELPIE_VM_CREATED, KELPIE_VM_STOPPED);
}

static void test_recovery_leaves_living_ones_alone(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    assert_non_null(state);
    create(&directory); /* its lock is held as a monitor holds it */
    write_state(&directory, KELPIE_VM_RUNNING, KELPIE_VM_CREATED);
    kelpie__vm_directory_recover_all(&places, NULL);
    assert_int_equal(kelpie__record_read(os, directory.vm, &record, NULL), 0);
    assert_int_equal(record.state, KELPIE_VM_RUNNING);
    kelpie__vm_directory_close(&directory);
}

static void test_ephemeral_ones_go_with_their_monitor(void **state) {
    struct kelpie_vm_directory directory;
    assert_non_null(state);
    config.is_ephemeral = true;
    create(&directory);
    assert_true(exists("state/run/vms/box/config.json") && !exists("state/vms/box"));
    kelpie__vm_directory_recover_all(&places, NULL);
    assert_int_equal(count_listed(), 1);
    kelpie__vm_directory_close(&directory);
    kelpie__vm_directory_recover_all(&places, NULL);
    assert_int_equal(count_listed(), 0);
    assert_int_equal(run("test -z \"$(ls -A state/run/vms)\""), 0);
}

static void test_prune_finishes_what_the_dead_began(void **state) {
    struct kelpie_vm_directory directory;
    assert_non_null(state);
    create(&directory);
    kelpie__vm_directory_close(&directory);
    assert_int_equal(run("mkdir -p state/vms/.new-1 state/vms/.deleted-1/sub state/run/vms/gone && "
                         "touch state/vms/.deleted-1/a state/vms/.deleted-1/sub/b "
                         "state/run/vms/gone/lock && mkdir state/run/vms/.deleted-2"),
                     0);
    kelpie__vm_directory_prune(&places, NULL);
    assert_int_equal(run("test \"$(ls -A state/vms)\" = box"), 0);
    assert_int_equal(run("test \"$(ls -A state/run/vms)\" = box"), 0);
}

/* What only the machine's death leaves: it went down, and what it was doing is not known. */
static void test_lost_record_is_a_crash(void **state) {
    static const char *const losses[] = {
        "rm state/vms/box/state.json",
        ": > state/vms/box/state.json",
        "head -c 40 state/vms/box/state.json > torn && mv torn state/vms/box/state.json",
        "head -c 300 /dev/zero > state/vms/box/state.json",
        /* no failed start goes back to a state that a start leads to */
        "sed -Ei 's/\"(state|previous)\":\"\\w*\"/\"\\1\":\"starting\"/g' state/vms/box/state.json",
    };
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    struct kelpie_error error = {0};
    assert_non_null(state);
    create(&directory);
    assert_int_equal(run(": > state/vms/box/events.log"), 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(losses); i += 1) {
        assert_int_equal(run(losses[i]), 0);
        assert_int_equal(kelpie__record_read(os, directory.vm, &record, &error), KELPIE_E_IO);
        assert_int_equal(kelpie__vm_directory_recover(&directory, &record, &error), 0);
        assert_int_equal(record.state, KELPIE_VM_CRASHED);
        assert_non_null(strstr(record.reason, "the host went down"));
        assert_int_equal(kelpie__record_read(os, directory.vm, &record, &error), 0);
        assert_int_equal(record.state, KELPIE_VM_CRASHED);
    }
    assert_int_equal(run("test $(grep -c '\"state\":\"crashed\".*host went down' "
                         "state/vms/box/events.log) = 5"),
                     0);
    assert_int_equal(kelpie__vm_directory_delete(&directory, NULL), 0);
    kelpie__vm_directory_close(&directory);
}

/* One that was written under another boot of the host is of a VM that went down with that. */
static void test_record_of_another_boot_says_so(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record = {.state = KELPIE_VM_RUNNING};
    assert_non_null(state);
    create(&directory);
    kelpie__record_read_boot_id(os, record.boot_id);
    assert_int_equal(strlen(record.boot_id), 36);
    assert_int_equal(kelpie__record_write(os, directory.vm, &record, false, NULL), 0);
    assert_int_equal(kelpie__vm_directory_recover(&directory, &record, NULL), 0);
    assert_non_null(strstr(record.reason, "its monitor died"));
    record.state = KELPIE_VM_PAUSED;
    record.boot_id[0] = record.boot_id[0] == '0' ? '1' : '0';
    assert_int_equal(kelpie__record_write(os, directory.vm, &record, false, NULL), 0);
    assert_int_equal(kelpie__vm_directory_recover(&directory, &record, NULL), 0);
    assert_int_equal(record.state, KELPIE_VM_CRASHED);
    assert_non_null(strstr(record.reason, "the host went down"));
    assert_int_equal(kelpie__vm_directory_delete(&directory, NULL), 0);
    kelpie__vm_directory_close(&directory);
}

/* The layers of a disk outlive a state file, and count more than what it says of them. */
static void test_what_lasts_is_read_without_state(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record = {
        .is_snapshot_used = true, .layer_count = 2, .layers = {"disk-1.raw", "disk-2.qcow2"}};
    struct kelpie_vm_record read = {.layer_count = 1, .layers = {"disk-3.raw"}};
    struct kelpie_error error = {0};
    assert_non_null(state);
    create(&directory);
    assert_int_equal(kelpie__lasting_read(os, directory.vm, &read, &error), 0);
    assert_int_equal(read.layer_count, 1); /* there is none */
    assert_int_equal(kelpie__lasting_write(os, directory.vm, &record, 0, &error), KELPIE_E_IO);
    assert_non_null(strstr(error.message, "disk-1.raw"));
    assert_int_equal(run("touch state/vms/box/disk-1.raw state/vms/box/disk-2.qcow2"), 0);
    assert_int_equal(kelpie__lasting_write(os, directory.vm, &record, 0, &error), 0);
    assert_int_equal(kelpie__lasting_read(os, directory.vm, &read, &error), 0);
    assert_false(kelpie__lasting_differs(&record, &read));
    assert_int_equal(run("mv state/vms/box/lasting.json state/vms/box/lasting.json.new"), 0);
    read = (struct kelpie_vm_record){0};
    assert_true(kelpie__lasting_differs(&record, &read));
    assert_int_equal(kelpie__lasting_read(os, directory.vm, &read, &error), 0);
    assert_false(kelpie__lasting_differs(&record, &read));
    assert_int_equal(
        run("echo '{\"format\":1,\"layers\":[\"../x\"]}' > state/vms/box/lasting.json"), 0);
    assert_int_equal(kelpie__lasting_read(os, directory.vm, &read, &error), KELPIE_E_IO);
    assert_int_equal(run("echo '{\"format\":9}' > state/vms/box/lasting.json"), 0);
    assert_int_equal(kelpie__lasting_read(os, directory.vm, &read, &error), KELPIE_E_UNSUPPORTED);
    assert_int_equal(kelpie__vm_directory_delete(&directory, NULL), 0);
    kelpie__vm_directory_close(&directory);
}

static void test_record_of_a_newer_version_is_an_error(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_vm_record record;
    struct kelpie_error error = {0};
    assert_non_null(state);
    create(&directory);
    assert_int_equal(run("echo '{\"format\":7,\"state\":\"created\"}' > state/vms/box/state.json"),
                     0);
    assert_int_equal(kelpie__vm_directory_recover(&directory, &record, &error),
                     KELPIE_E_UNSUPPORTED);
    assert_int_equal(kelpie__vm_directory_delete(&directory, NULL), 0);
    kelpie__vm_directory_close(&directory);
    assert_int_equal(count_listed(), 0);
}

/* A disk that cannot be read says nothing about what is on it. */
static int (*real_stat)(struct kelpie_os *, int, const char *, bool, struct kelpie_os_stat *);

static int failing_stat(struct kelpie_os *table, int directory, const char *path, bool follows,
                        struct kelpie_os_stat *out) {
    return strstr(path, "config.json") != NULL ? -EIO
                                               : real_stat(table, directory, path, follows, out);
}

static void test_what_cannot_be_looked_at_is_there(void **state) {
    struct kelpie_vm_directory directory;
    struct kelpie_error error = {0};
    assert_non_null(state);
    create(&directory);
    kelpie__vm_directory_close(&directory);
    real_stat = os->stat;
    os->stat = failing_stat;
    assert_int_equal(kelpie__vm_directory_open(&directory, &places, "box", &error), KELPIE_E_IO);
    assert_non_null(strstr(error.message, path_of("state/vms/box/config.json")));
    assert_int_equal(kelpie__vm_directory_create(&directory, &places, &config, &error),
                     KELPIE_E_IO);
    assert_int_equal(count_listed(), 1);
    kelpie__vm_directory_prune(&places, NULL);
    os->stat = real_stat;
    assert_true(exists("state/run/vms/box/lock"));
    assert_int_equal(kelpie__vm_directory_open(&directory, &places, "box", &error), 0);
    kelpie__vm_directory_close(&directory);
}

/* Every allocation in turn fails: nothing is left, and the next try works. */
static void *(*real_memory)(struct kelpie_os *, void *, size_t, size_t);
static unsigned failing_allocation;

static void *failing_memory(struct kelpie_os *table, void *old, size_t old_bytes, size_t bytes) {
    if (bytes > old_bytes && failing_allocation > 0) {
        failing_allocation -= 1;
        if (failing_allocation == 0) {
            return NULL;
        }
    }
    return real_memory(table, old, old_bytes, bytes);
}

static void test_without_memory_nothing_is_left(void **state) {
    struct kelpie_vm_directory directory;
    assert_non_null(state);
    real_memory = os->memory;
    os->memory = failing_memory;
    int status = KELPIE_E_MEMORY;
    unsigned nth = 0;
    while (status == KELPIE_E_MEMORY && nth < 100) {
        nth += 1;
        failing_allocation = nth;
        status = kelpie__vm_directory_create(&directory, &places, &config, NULL);
        if (status < 0) {
            assert_int_equal(run("test -z \"$(ls -A state/vms state/run/vms | grep -v :)\""), 0);
        }
    }
    assert_int_equal(status, 0);
    assert_true(nth > 1);
    os->memory = real_memory;
    kelpie__vm_directory_close(&directory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_places_are_private_and_absolute),
        TEST(test_an_empty_word_is_no_place),
        TEST(test_places_of_others_and_newer_formats_are_refused),
        TEST(test_created_is_whole_locked_and_taken),
        TEST(test_deleted_is_gone_for_who_waits_for_its_lock),
        TEST(test_recovery_makes_states_true),
        TEST(test_recovery_leaves_living_ones_alone),
        TEST(test_ephemeral_ones_go_with_their_monitor),
        TEST(test_prune_finishes_what_the_dead_began),
        TEST(test_lost_record_is_a_crash),
        TEST(test_record_of_another_boot_says_so),
        TEST(test_what_lasts_is_read_without_state),
        TEST(test_record_of_a_newer_version_is_an_error),
        TEST(test_what_cannot_be_looked_at_is_there),
        TEST(test_without_memory_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
