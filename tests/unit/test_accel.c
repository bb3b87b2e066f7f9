/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The choice of the accelerator and the frequency of the time-stamp counter. Goal: KVM is believed
 * only after it proved itself, on this kernel, CPU and QEMU; a frequency is used only when two
 * measurements agree, and remembered until the next boot. Method: the real table with some
 * operations replaced: files of /proc and /dev by files of the test, the counter and its clock by
 * arithmetic.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/limits.h"
#include "core/loop.h"
#include "os/os_call.h"
#include "vmm/accel.h"
#include "vmm/qemu/tsc.h"

struct world {
    struct kelpie_os *real;
    struct kelpie_os os; /* the real one with replacements */
    struct kelpie_loop *loop;
    char directory[64];
    char qemu[96];
    int kvm_error; /* what opening /dev/kvm answers; 0: it opens */
    const char *release_file;
    uint64_t khz;

    uint64_t reading_count;
    uint32_t answer_count;
    int status;
    uint64_t found_khz;
};

static struct world *the_world; /* the replaced operations know only their table */

static int world_open(struct kelpie_os *os, int directory, const char *path, uint32_t flags,
                      uint32_t mode) {
    (void)os;
    struct world *world = the_world;
    if (strcmp(path, "/dev/kvm") == 0) {
        return world->kvm_error != 0
                   ? -world->kvm_error
                   : world->real->open(world->real, directory, "/dev/null", flags, mode);
    }
    if (strcmp(path, "/proc/sys/kernel/osrelease") == 0) {
        path = world->release_file;
    }
    return world->real->open(world->real, directory, path, flags, mode);
}

static uint64_t world_cycles(struct kelpie_os *os) {
    struct world *world = the_world;
    int64_t raw_ns = os->now(os, KELPIE_OS_CLOCK_RAW);
    return (uint64_t)raw_ns * world->khz / 1000000u;
}

/* A counter that is slower from its second reading on, faster from its third, and so on. */
static uint64_t world_cycles_unsteady(struct kelpie_os *os) {
    struct world *world = the_world;
    uint64_t cycles = world_cycles(os);
    world->reading_count += 1;
    uint64_t group = world->reading_count / 8;
    return group % 2 == 0 ? cycles : cycles + UINT64_C(20000) * world->khz / 1000u;
}

static uint64_t world_no_cycles(struct kelpie_os *os) {
    (void)os;
    return 0;
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int set_up(void **state) {
    struct world *world = calloc(1, sizeof(*world));
    world->real = kelpie__os_linux_create();
    assert_non_null(world->real);
    world->os = *world->real;
    world->os.open = world_open;
    world->os.cycles = world_cycles;
    world->khz = 2500000;
    world->release_file = "/proc/sys/kernel/osrelease";
    the_world = world;
    assert_int_equal(kelpie__loop_create(&world->os, 4, &world->loop, NULL), 0);
    snprintf(world->directory, sizeof(world->directory), "/tmp/kelpie-accel-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    snprintf(world->qemu, sizeof(world->qemu), "%s/qemu", world->directory);
    write_file(world->qemu, "not really");
    *state = world;
    return 0;
}

static int tear_down(void **state) {
    struct world *world = *state;
    static const char *const names[] = {"qemu", "library", "accel.json", "tsc.json", "release"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i += 1) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", world->directory, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(world->directory), 0);
    kelpie__loop_destroy(world->loop);
    kelpie__os_linux_destroy(world->real);
    free(world);
    return 0;
}

static struct kelpie_accel choose(struct world *world) {
    struct kelpie_accel accel;
    assert_int_equal(kelpie__accel_choose(&world->os, world->directory, world->qemu,
                                          KELPIE_VMM_ACCELERATOR_AUTO, &accel, NULL),
                     0);
    assert_true(accel.reason[0] != '\0');
    return accel;
}

static void test_auto_without_kvm_is_tcg_at_once(void **state) {
    struct world *world = *state;
    world->kvm_error = ENOENT;
    struct kelpie_accel accel = choose(world);
    assert_int_equal(accel.accelerator, KELPIE_VMM_ACCELERATOR_TCG);
    assert_int_equal(accel.trial_ns, 0);
    assert_non_null(strstr(accel.reason, "/dev/kvm"));
}

static int world_device_answers(struct kelpie_os *os, const char *path, uint32_t timeout_ms) {
    (void)os;
    assert_string_equal(path, "/dev/kvm");
    assert_int_equal(timeout_ms, KELPIE_KVM_OPEN_MS);
    the_world->answer_count += 1;
    return -ETIMEDOUT;
}

/* Nobody of ours opens it then. What an earlier start found out is believed without asking. */
static void test_auto_with_a_kvm_that_hangs_is_tcg(void **state) {
    struct world *world = *state;
    struct kelpie_os_host host = *world->real->host;
    struct kelpie_accel accel = choose(world);
    host.device_answers = world_device_answers;
    world->os.host = &host;
    world->kvm_error = EDOM; /* which nobody is to see */
    struct kelpie_accel hanging = choose(world);
    assert_int_equal(hanging.accelerator, KELPIE_VMM_ACCELERATOR_TCG);
    assert_int_equal(hanging.trial_ns, 0);
    assert_non_null(strstr(hanging.reason, "/dev/kvm hangs"));
    assert_int_equal(world->answer_count, 1);
    kelpie__accel_remember(&world->os, world->directory, &accel, false, "no hello");
    assert_non_null(strstr(choose(world).reason, "no hello"));
    assert_int_equal(world->answer_count, 1);
}

static void test_auto_tries_kvm_once_and_remembers_success(void **state) {
    struct world *world = *state;
    struct kelpie_accel accel = choose(world);
    assert_int_equal(accel.accelerator, KELPIE_VMM_ACCELERATOR_KVM);
    assert_int_equal(accel.trial_ns, (int64_t)KELPIE_KVM_TRIAL_MS * KELPIE_NS_PER_MS);
    kelpie__accel_remember(&world->os, world->directory, &accel, true, "it booted");
    accel = choose(world);
    assert_int_equal(accel.accelerator, KELPIE_VMM_ACCELERATOR_KVM);
    assert_int_equal(accel.trial_ns, 0);
}

static void test_auto_remembers_failure_with_its_reason(void **state) {
    struct world *world = *state;
    struct kelpie_accel accel = choose(world);
    kelpie__accel_remember(&world->os, world->directory, &accel, false, "died of \"MSR\" 0x10a");
    accel = choose(world);
    assert_int_equal(accel.accelerator, KELPIE_VMM_ACCELERATOR_TCG);
    assert_non_null(strstr(accel.reason, "died of \"MSR\" 0x10a"));
}

static void test_verdict_is_void_for_another_kernel_or_qemu(void **state) {
    struct world *world = *state;
    char release[96];
    struct kelpie_accel accel = choose(world);
    kelpie__accel_remember(&world->os, world->directory, &accel, false, "no");
    assert_int_equal(choose(world).trial_ns, 0);
    snprintf(release, sizeof(release), "%s/release", world->directory);
    write_file(release, "99.0-other\n");
    world->release_file = release;
    assert_true(choose(world).trial_ns > 0);
    world->release_file = "/proc/sys/kernel/osrelease";
    assert_int_equal(choose(world).trial_ns, 0);
    write_file(world->qemu, "another build");
    assert_true(choose(world).trial_ns > 0);
}

/* Eight are kept: what was found for one kernel or QEMU is known when others were tried meanwhile;
 * what was found long ago is tried again. */
static void test_eight_verdicts_are_kept(void **state) {
    struct world *world = *state;
    char release[96];
    char text[16];
    snprintf(release, sizeof(release), "%s/release", world->directory);
    world->release_file = release;
    for (uint32_t i = 0; i < 9; i += 1) {
        snprintf(text, sizeof(text), "99.%u", i);
        write_file(release, text);
        struct kelpie_accel accel = choose(world);
        assert_true(accel.trial_ns > 0);
        kelpie__accel_remember(&world->os, world->directory, &accel, false, "too early");
        kelpie__accel_remember(&world->os, world->directory, &accel, false, text);
    }
    for (uint32_t i = 0; i < 9; i += 1) {
        snprintf(text, sizeof(text), "99.%u", i);
        write_file(release, text);
        struct kelpie_accel accel = choose(world);
        assert_int_equal(accel.trial_ns > 0, i == 0);
        assert_int_equal(strstr(accel.reason, text) != NULL, i > 0);
    }
    world->release_file = NULL; /* nothing is chosen any more */
}

static void test_damaged_memory_of_the_verdict_means_a_new_trial(void **state) {
    struct world *world = *state;
    char path[128];
    snprintf(path, sizeof(path), "%s/accel.json", world->directory);
    write_file(path, "{\"key\":");
    assert_true(choose(world).trial_ns > 0);
}

/* How a guest on trial ended before its hello, and whether that is KVM's fault. */
static void test_only_what_says_so_speaks_against_kvm(void **state) {
    static const struct {
        struct kelpie_vmm_end end;
        bool is_blamed;
    } rows[] = {
        {{.kind = KELPIE_VMM_END_KILLED, .text = "no hello in time"}, true},
        {{.kind = KELPIE_VMM_END_RESET, .has_exit = true, .text = "QEMU exited with code 0"}, true},
        {{.kind = KELPIE_VMM_END_FAILED, .text = "QEMU never ran"}, false},
        {{.kind = KELPIE_VMM_END_FAILED,
          .code = KELPIE_E_TIMEOUT,
          .has_exit = true,
          .exit = {.is_signalled = true, .value = SIGKILL},
          .text = "QEMU did not answer"},
         true},
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.is_signalled = true, .value = SIGABRT},
          .text = "QEMU was killed by signal 6: Assertion `ret == cpu->kvm_msr_buf->nmsrs'"},
         true},
        {{.kind = KELPIE_VMM_END_FAILED,
          .code = KELPIE_E_CRASHED,
          .has_exit = true,
          .exit = {.is_signalled = true, .value = SIGKILL},
          .text = "QEMU closed QMP; QEMU was killed by signal 9"},
         false}, /* the kernel's, for lack of memory */
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.is_signalled = true, .value = SIGTRAP},
          .text = "QEMU was killed by signal 5: GLib-ERROR: failed to allocate 4096 bytes"},
         false},
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.value = 1},
          .text = "QEMU exited with code 1: ioctl(KVM_CREATE_VM) failed: Device busy"},
         true},
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.value = 1},
          .text =
              "QEMU exited with code 1: ioctl(KVM_CREATE_VM) failed: 12 Cannot allocate memory"},
         false},
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.value = 1},
          .text = "QEMU exited with code 1: cannot set up guest memory 'ram': Cannot allocate "
                  "memory"},
         false},
        {{.kind = KELPIE_VMM_END_FAILED,
          .has_exit = true,
          .exit = {.value = 1},
          .text = "QEMU exited with code 1: Failed to get \"write\" lock"},
         false},
    };
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rows); i += 1) {
        if (kelpie__accel_is_blamed(&rows[i].end) != rows[i].is_blamed) {
            fail_msg("row %zu: %s", i, rows[i].end.text);
        }
    }
}

static void test_kvm_that_is_asked_for_and_boots_is_proved(void **state) {
    struct world *world = *state;
    struct kelpie_accel accel = choose(world);
    kelpie__accel_remember(&world->os, world->directory, &accel, false, "the host was busy");
    assert_int_equal(kelpie__accel_choose(&world->os, world->directory, world->qemu,
                                          KELPIE_VMM_ACCELERATOR_KVM, &accel, NULL),
                     0);
    assert_true(accel.is_unproved);
    assert_int_equal(accel.trial_ns, 0); /* nothing takes its place */
    kelpie__accel_remember(&world->os, world->directory, &accel, true, "it booted");
    assert_int_equal(choose(world).accelerator, KELPIE_VMM_ACCELERATOR_KVM);
    assert_int_equal(kelpie__accel_choose(&world->os, world->directory, world->qemu,
                                          KELPIE_VMM_ACCELERATOR_KVM, &accel, NULL),
                     0);
    assert_false(accel.is_unproved);
}

/* libkrun: no device is opened, and what QEMU found is another's. */
static void test_a_vmm_without_tcg_is_proved_by_a_guest(void **state) {
    struct world *world = *state;
    char library[96];
    struct kelpie_accel accel = choose(world);
    kelpie__accel_remember(&world->os, world->directory, &accel, true, "it booted");
    snprintf(library, sizeof(library), "%s/library", world->directory);
    write_file(library, "not really");
    world->kvm_error = EDOM; /* which nobody is to see */
    kelpie__accel_recall(&world->os, world->directory, library, &accel);
    assert_int_equal(accel.accelerator, KELPIE_VMM_ACCELERATOR_KVM);
    assert_int_equal(accel.trial_ns, 0);
    assert_true(accel.is_unproved);
    kelpie__accel_remember(&world->os, world->directory, &accel, true, "it booted");
    kelpie__accel_recall(&world->os, world->directory, library, &accel);
    assert_false(accel.is_unproved);
    write_file(library, "another build");
    kelpie__accel_recall(&world->os, world->directory, library, &accel);
    assert_true(accel.is_unproved);
}

static void test_kvm_that_is_asked_for_and_missing_says_why(void **state) {
    struct world *world = *state;
    struct kelpie_accel accel;
    struct kelpie_error error = {0};
    world->kvm_error = EACCES;
    assert_int_equal(kelpie__accel_choose(&world->os, world->directory, world->qemu,
                                          KELPIE_VMM_ACCELERATOR_KVM, &accel, &error),
                     KELPIE_E_UNAVAILABLE);
    assert_int_equal(error.os_error, EACCES);
    assert_non_null(strstr(error.message, "group kvm"));
}

static void on_measured(void *context, int status, uint64_t khz, const struct kelpie_error *error) {
    struct world *world = context;
    world->answer_count += 1;
    world->status = status;
    world->found_khz = khz;
    assert_true((status == 0) == (error == NULL));
}

static void measure(struct world *world) {
    struct kelpie_tsc tsc = {0};
    kelpie__tsc_measure(&tsc, &world->os, world->loop, world->directory, on_measured, world);
    assert_int_equal(world->answer_count, 0); /* never before it returned */
    for (uint32_t i = 0; i < 100 && world->answer_count == 0; i += 1) {
        assert_int_equal(kelpie__loop_step(world->loop, -1, NULL), 0);
    }
    assert_int_equal(world->answer_count, 1);
}

static void test_tsc_is_measured_and_recalled(void **state) {
    struct world *world = *state;
    uint64_t khz = 0;
    assert_false(kelpie__tsc_recall(&world->os, world->directory, &khz));
    measure(world);
    assert_int_equal(world->status, 0);
    /* Between the counter's reading and the clocks around it lies some of the host's time. */
    assert_in_range(world->found_khz, world->khz - 2500, world->khz + 2500);
    assert_true(kelpie__tsc_recall(&world->os, world->directory, &khz));
    assert_int_equal(khz, world->found_khz);
}

static void test_tsc_that_is_unsteady_is_refused(void **state) {
    struct world *world = *state;
    world->os.cycles = world_cycles_unsteady;
    measure(world);
    assert_int_equal(world->status, KELPIE_E_BOOT);
    uint64_t khz = 0;
    assert_false(kelpie__tsc_recall(&world->os, world->directory, &khz));
}

static void test_tsc_that_is_missing_is_not_known(void **state) {
    struct world *world = *state;
    world->os.cycles = world_no_cycles;
    measure(world);
    assert_int_equal(world->status, 0);
    assert_int_equal(world->found_khz, 0);
}

static void test_tsc_of_another_boot_is_forgotten(void **state) {
    struct world *world = *state;
    char path[128];
    uint64_t khz = 0;
    snprintf(path, sizeof(path), "%s/tsc.json", world->directory);
    write_file(path, "{\"format\":1,\"boot_id\":\"another\",\"khz\":2500000}");
    assert_false(kelpie__tsc_recall(&world->os, world->directory, &khz));
}

static void test_guest_clock_within_1000_ppm_is_good(void **state) {
    (void)state;
    struct kelpie_error error = {0};
    struct kelpie_vmm_guest_clock clock = {1000, 1000, 1000 + 250000000u, 1000 + 100000000u};
    assert_int_equal(kelpie__tsc_compare(2500000, &clock, NULL), 0);
    assert_int_equal(kelpie__tsc_compare(2502000, &clock, NULL), 0);
    assert_int_equal(kelpie__tsc_compare(2503000, &clock, &error), KELPIE_E_BOOT);
    assert_non_null(strstr(error.message, "2500000 kHz"));
    assert_non_null(strstr(error.message, "2503000 kHz"));
    clock.second_tsc = clock.first_tsc; /* a lie */
    assert_int_equal(kelpie__tsc_compare(2500000, &clock, NULL), KELPIE_E_BOOT);
    clock.second_tsc = UINT64_MAX;
    assert_int_equal(kelpie__tsc_compare(2500000, &clock, NULL), KELPIE_E_BOOT);
}

#define ROW(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROW(test_auto_without_kvm_is_tcg_at_once),
        ROW(test_auto_with_a_kvm_that_hangs_is_tcg),
        ROW(test_auto_tries_kvm_once_and_remembers_success),
        ROW(test_auto_remembers_failure_with_its_reason),
        ROW(test_verdict_is_void_for_another_kernel_or_qemu),
        ROW(test_eight_verdicts_are_kept),
        ROW(test_damaged_memory_of_the_verdict_means_a_new_trial),
        ROW(test_only_what_says_so_speaks_against_kvm),
        ROW(test_kvm_that_is_asked_for_and_boots_is_proved),
        ROW(test_a_vmm_without_tcg_is_proved_by_a_guest),
        ROW(test_kvm_that_is_asked_for_and_missing_says_why),
        ROW(test_tsc_is_measured_and_recalled),
        ROW(test_tsc_that_is_unsteady_is_refused),
        ROW(test_tsc_that_is_missing_is_not_known),
        ROW(test_tsc_of_another_boot_is_forgotten),
        ROW(test_guest_clock_within_1000_ppm_is_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
