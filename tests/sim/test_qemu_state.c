/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a guest that is saved through QEMU's commands and page map, and restored, is the same
 * guest; one whose files were damaged is not, and QEMU says of it what the real one says. Method:
 * the real driver (src/vmm) on the test's own stack in a simulated world; what comes of it is
 * looked at in the world, where no agent can lie about it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/limits.h"
#include "core/loop.h"
#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "vmm/vmm.h"

#define MEMORY_MIB 256u
#define DIRECTORY "/var/lib/kelpie/snapshots"
#define STEPS_MAX 1000000
#define STATE_BYTES 3061u /* of a machine without disks */

struct vm {
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    struct kelpie_vmm *vmm; /* NULL: it has ended */
    struct kelpie_vmm_spec spec;
    struct kelpie_vmm_restore restore;
    int agent;
    int console;
    int files[4];
    bool is_started;
    bool is_ended;
    bool is_done;
    int status;
    char end_text[KELPIE_VMM_TEXT_BYTES_MAX];
    struct kelpie_error error;
};

struct state {
    char name[32];
    bool has_map;
    struct kelpie_vmm_description description;
    struct kelpie_vmm_saved saved;
    struct sim_guest_truth truth;
};

static struct sim_world *world_new(const char *plan) {
    static const char header[] = "070701000000010000816D00000000000000000000000100000000"
                                 "0000000000000000000000000000000000000000000000050000000000";
    uint8_t program[8192];
    char initramfs[512] = "";
    char problem[256] = "";
    const struct sim_options options = {.seed = 5, .cost_factor = 1, .plan = plan};
    struct sim_world *world = kelpie__sim_world_create(&options, problem);
    assert_string_equal(problem, "");
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    int64_t count = kelpie__sim_disk_peek(disk, false, SIM_LIBEXEC_DIRECTORY "/kelpie-agent",
                                          program, sizeof(program));
    assert_true(count > 0);
    assert_int_equal(kelpie__sim_disk_put(disk, "/kernel", 0644, program, (size_t)count), 0);
    memcpy(initramfs, header, 110);
    memcpy(initramfs + 110, "init", 5);
    memcpy(initramfs + sizeof(initramfs) - 11, "TRAILER!!!", 11);
    assert_int_equal(kelpie__sim_disk_put(disk, "/initramfs", 0644, initramfs, sizeof(initramfs)),
                     0);
    assert_int_equal(kelpie__sim_disk_put_directory(disk, DIRECTORY, 0700), 0);
    assert_int_equal(kelpie__sim_disk_put_directory(disk, SIM_CACHE_DIRECTORY, 0700), 0);
    kelpie__ignore(kelpie__sim_process_adopt(world, "monitor") != NULL);
    return world;
}

/* ---- a VM ------------------------------------------------------------------------------------ */

static void on_event(void *context, const struct kelpie_vmm_event *event) {
    struct vm *vm = context;
    if (event->type == KELPIE_VMM_EVENT_STARTED) {
        vm->is_started = true;
    } else if (event->type == KELPIE_VMM_EVENT_ENDED) {
        vm->is_ended = true;
        snprintf(vm->end_text, sizeof(vm->end_text), "%s", event->end->text);
        kelpie__vmm_destroy(vm->vmm);
        vm->vmm = NULL;
    }
}

static void on_done(void *context, int status, const struct kelpie_error *error) {
    struct vm *vm = context;
    vm->is_done = true;
    vm->status = status;
    vm->error = error != NULL ? *error : (struct kelpie_error){0};
}

static void turn(struct vm *vm, int64_t duration_ns) {
    int64_t deadline_ns = kelpie__os_now(vm->os, KELPIE_OS_CLOCK_MONOTONIC) + duration_ns;
    assert_int_equal(kelpie__loop_step(vm->loop, deadline_ns, NULL), 0);
}

static void wait_for(struct vm *vm, const bool *flag) {
    for (int i = 0; i < STEPS_MAX && !*flag && !vm->is_ended; i += 1) {
        turn(vm, KELPIE_NS_PER_S);
    }
    if (!*flag) {
        print_message("it ended: %s\n", vm->end_text);
    }
    assert_true(*flag);
}

static struct vm *vm_new(struct sim_process *process) {
    struct vm *vm = test_calloc(1, sizeof(*vm));
    vm->os = &process->os;
    vm->agent = KELPIE_OS_NO_HANDLE;
    vm->console = KELPIE_OS_NO_HANDLE;
    for (int i = 0; i < 4; i += 1) {
        vm->files[i] = KELPIE_OS_NO_HANDLE;
    }
    assert_int_equal(kelpie__loop_create(vm->os, 16, &vm->loop, NULL), 0);
    const struct kelpie_vmm_create create = {
        .os = vm->os, .loop = vm->loop, .callback = on_event, .context = vm};
    assert_int_equal(
        kelpie__vmm_create(kelpie__vmm_driver(KELPIE_VMM_BACKEND_QEMU), &create, &vm->vmm, NULL),
        0);
    vm->spec = (struct kelpie_vmm_spec){.vm_directory = "/var/lib/kelpie/vms/a",
                                        .cache_directory = SIM_CACHE_DIRECTORY,
                                        .kernel = "/kernel",
                                        .initramfs = "/initramfs",
                                        .cpu_count = 1,
                                        .memory_mib = MEMORY_MIB,
                                        .accelerator = KELPIE_VMM_ACCELERATOR_TCG};
    return vm;
}

static void vm_start(struct vm *vm) {
    struct kelpie_vmm_started started;
    struct kelpie_error error = {0};
    int status = kelpie__vmm_start(vm->vmm, &vm->spec, &started, &error);
    if (status < 0) {
        print_message("%s\n", error.message);
    }
    assert_int_equal(status, 0);
    vm->agent = started.agent;
    vm->console = started.console;
}

static void vm_free(struct vm *vm) {
    kelpie__vmm_destroy(vm->vmm);
    kelpie__loop_destroy(vm->loop);
    for (int i = 0; i < 4; i += 1) {
        if (vm->files[i] >= 0) {
            kelpie__ignore(kelpie__os_close(vm->os, vm->files[i]));
        }
    }
    if (vm->agent >= 0) {
        kelpie__ignore(kelpie__os_close(vm->os, vm->agent));
        kelpie__ignore(kelpie__os_close(vm->os, vm->console));
    }
    test_free(vm);
}

/* Until its agent has said that it is ready. */
static struct vm *boot(struct sim_world *world) {
    char bytes[4096];
    struct vm *vm = vm_new(kelpie__sim_world_host(world)->processes);
    vm_start(vm);
    wait_for(vm, &vm->is_started);
    int64_t count = -EAGAIN;
    for (int i = 0; i < 100 && count == -EAGAIN; i += 1) {
        turn(vm, 100 * KELPIE_NS_PER_MS);
        count = kelpie__os_read(vm->os, vm->agent, bytes, sizeof(bytes));
    }
    assert_true(count > 0);
    return vm;
}

static void pause_vm(struct vm *vm) {
    vm->is_done = false;
    assert_int_equal(kelpie__vmm_pause(vm->vmm, on_done, vm, NULL), 0);
    wait_for(vm, &vm->is_done);
    assert_int_equal(vm->status, 0);
}

static void resume_vm(struct vm *vm) {
    vm->is_done = false;
    assert_int_equal(kelpie__vmm_resume(vm->vmm, on_done, vm, NULL), 0);
    wait_for(vm, &vm->is_done);
    assert_int_equal(vm->status, 0);
}

/* The last guest of the world, which lives. */
static struct sim_guest *guest_last(struct sim_world *world) {
    struct sim_guest *found = NULL;
    struct sim_guest *guest = kelpie__sim_world_guest(world, 0);
    for (uint32_t i = 0; guest != NULL && i < 16; i += 1) {
        found = guest;
        guest = kelpie__sim_world_guest(world, i + 1);
    }
    assert_non_null(found);
    return found;
}

/* ---- states ---------------------------------------------------------------------------------- */

static int open_state(struct vm *vm, const struct state *state, const char *what, uint32_t flags) {
    char path[128];
    snprintf(path, sizeof(path), DIRECTORY "/%s.%s", state->name, what);
    int file = kelpie__os_open(vm->os, KELPIE_OS_CWD, path, flags, 0600);
    assert_true(file >= 0);
    return file;
}

static int save(struct sim_world *world, struct vm *vm, const char *name, struct state *out) {
    *out = (struct state){.has_map = vm->spec.restore != NULL};
    snprintf(out->name, sizeof(out->name), "%s", name);
    const uint32_t flags = KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_EXCLUSIVE;
    assert_int_equal(kelpie__vmm_describe(vm->vmm, &out->description, NULL), 0);
    const struct kelpie_vmm_save order = {
        .device = open_state(vm, out, "device", flags),
        .memory = open_state(vm, out, "memory", flags | KELPIE_OS_OPEN_READ),
        .map = out->has_map ? open_state(vm, out, "map", flags | KELPIE_OS_OPEN_READ)
                            : KELPIE_OS_NO_HANDLE};
    vm->is_done = false;
    assert_int_equal(kelpie__vmm_save(vm->vmm, &order, &out->saved, on_done, vm, NULL), 0);
    wait_for(vm, &vm->is_done);
    kelpie__sim_guest_truth(guest_last(world), &out->truth);
    kelpie__ignore(kelpie__os_close(vm->os, order.device));
    kelpie__ignore(kelpie__os_close(vm->os, order.memory));
    if (order.map >= 0) {
        kelpie__ignore(kelpie__os_close(vm->os, order.map));
    }
    return vm->status;
}

/* To Paused, or to its end. */
static struct vm *restore(struct sim_world *world, const struct state *state,
                          const struct state *base) {
    struct vm *vm = vm_new(kelpie__sim_world_host(world)->processes);
    vm->files[0] = open_state(vm, state, "device", KELPIE_OS_OPEN_READ);
    vm->files[1] = open_state(vm, state->has_map ? base : state, "memory", KELPIE_OS_OPEN_READ);
    if (state->has_map) {
        vm->files[2] = open_state(vm, state, "memory", KELPIE_OS_OPEN_READ);
        vm->files[3] = open_state(vm, state, "map", KELPIE_OS_OPEN_READ);
    }
    vm->restore = (struct kelpie_vmm_restore){.device = vm->files[0],
                                              .base = vm->files[1],
                                              .memory = vm->files[2],
                                              .map = vm->files[3],
                                              .description = &state->description};
    vm->spec.restore = &vm->restore;
    vm_start(vm);
    for (int i = 0; i < STEPS_MAX && !vm->is_started && !vm->is_ended; i += 1) {
        turn(vm, KELPIE_NS_PER_S);
    }
    return vm;
}

static void flip(struct sim_world *world, const struct state *state, const char *what,
                 uint64_t offset) {
    struct vm *vm = vm_new(kelpie__sim_world_host(world)->processes);
    uint8_t byte = 0;
    int file = open_state(vm, state, what, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE);
    assert_int_equal(kelpie__os_pread(vm->os, file, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(kelpie__os_pwrite(vm->os, file, &byte, 1, offset), 1);
    kelpie__ignore(kelpie__os_close(vm->os, file));
    vm_free(vm);
}

static void cut(struct sim_world *world, const struct state *state, uint64_t size) {
    struct vm *vm = vm_new(kelpie__sim_world_host(world)->processes);
    int file = open_state(vm, state, "device", KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE);
    assert_int_equal(kelpie__os_truncate(vm->os, file, size), 0);
    kelpie__ignore(kelpie__os_close(vm->os, file));
    vm_free(vm);
}

/* The guest that was saved, going on. */
static void assert_same(struct sim_world *world, struct vm *vm, const struct state *state) {
    struct sim_guest_truth truth;
    assert_true(vm->is_started && !vm->is_ended);
    resume_vm(vm);
    turn(vm, 50 * KELPIE_NS_PER_MS);
    kelpie__sim_guest_truth(guest_last(world), &truth);
    assert_false(truth.is_damaged);
    assert_int_equal(truth.lineage, state->truth.lineage);
    assert_memory_equal(truth.nonce, state->truth.nonce, sizeof(truth.nonce));
    assert_true(truth.ticks >= state->truth.ticks);
    assert_true(truth.has_agent);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_saved_and_restored_it_is_the_same(void **state) {
    struct sim_world *world = world_new(NULL);
    struct state first;
    struct state again;
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "first", &first), 0);
    assert_int_equal(first.saved.device_bytes, STATE_BYTES);
    assert_true(first.saved.page_count > first.saved.stored_bytes / 4096); /* some are zeros */
    assert_int_equal(save(world, vm, "again", &again), 0);                 /* while it is paused */
    assert_int_equal(first.truth.ticks, again.truth.ticks);
    resume_vm(vm);
    turn(vm, KELPIE_NS_PER_S);
    struct sim_guest_truth truth;
    kelpie__sim_guest_truth(guest_last(world), &truth);
    assert_true(truth.ticks > first.truth.ticks); /* the source goes on */
    vm_free(vm);
    vm = restore(world, &first, NULL);
    assert_same(world, vm, &first);
    vm_free(vm);
    vm = restore(world, &again, NULL);
    assert_same(world, vm, &first);
    vm_free(vm);
    kelpie__sim_world_destroy(world);
}

static void test_generations_lie_over_one_base(void **state) {
    struct sim_world *world = world_new(NULL);
    struct state base;
    struct state generations[4];
    char name[16];
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "base", &base), 0);
    vm_free(vm);
    const struct state *last = &base;
    for (int i = 0; i < 4; i += 1) {
        vm = restore(world, last, &base);
        assert_same(world, vm, last);
        turn(vm, KELPIE_NS_PER_S);
        pause_vm(vm);
        snprintf(name, sizeof(name), "g%d", i);
        assert_int_equal(save(world, vm, name, &generations[i]), 0);
        assert_true(generations[i].has_map);
        assert_true(generations[i].saved.page_count < base.saved.page_count);
        assert_true(generations[i].truth.ticks > last->truth.ticks);
        vm_free(vm);
        last = &generations[i];
    }
    kelpie__sim_world_destroy(world);
}

/* What QEMU does not notice makes a guest that is not right in the head. */
static void test_damage_is_taken_and_told_by_nobody(void **state) {
    static const struct {
        const char *what;
        uint64_t offset;
    } damages[] = {
        {"device", 1600}, {"device", 3056}, {"memory", 300}, {"memory", 4096 * 4096 + 7}};
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(damages); i += 1) {
        struct sim_world *world = world_new(NULL);
        struct state first;
        struct sim_guest_truth truth;
        struct vm *vm = boot(world);
        pause_vm(vm);
        assert_int_equal(save(world, vm, "first", &first), 0);
        vm_free(vm);
        flip(world, &first, damages[i].what, damages[i].offset);
        vm = restore(world, &first, NULL);
        assert_true(vm->is_started);
        kelpie__sim_guest_truth(guest_last(world), &truth);
        assert_true(truth.is_damaged);
        vm_free(vm);
        kelpie__sim_world_destroy(world);
    }
}

static void test_a_state_that_is_cut_off(void **state) {
    struct sim_world *world = world_new(NULL);
    struct state first;
    struct sim_guest_truth truth;
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "first", &first), 0);
    vm_free(vm);
    cut(world, &first, STATE_BYTES * 2 / 3); /* goes unnoticed */
    vm = restore(world, &first, NULL);
    assert_true(vm->is_started);
    kelpie__sim_guest_truth(guest_last(world), &truth);
    assert_true(truth.is_damaged);
    vm_free(vm);
    cut(world, &first, STATE_BYTES / 2);
    vm = restore(world, &first, NULL);
    assert_true(vm->is_ended && !vm->is_started);
    assert_non_null(strstr(vm->end_text, "load of migration failed: Input/output error"));
    vm_free(vm);
    kelpie__sim_world_destroy(world);
}

/* The memory holds no guest at all: the processor finds nonsense and resets. */
static void test_a_memory_without_a_guest(void **state) {
    struct sim_world *world = world_new(NULL);
    struct state first;
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "first", &first), 0);
    vm_free(vm);
    flip(world, &first, "memory", 3);
    vm = restore(world, &first, NULL);
    assert_true(vm->is_started);
    vm->is_done = false;
    assert_int_equal(kelpie__vmm_resume(vm->vmm, on_done, vm, NULL), 0);
    wait_for(vm, &vm->is_ended);
    vm_free(vm);
    kelpie__sim_world_destroy(world);
}

static void test_faults_of_saving_and_loading(void **state) {
    struct sim_world *world = world_new("qmp.xen-save-devices-state nth=1 => fail\n"
                                        "qmp.xen-save-devices-state nth=2 => huge\n"
                                        "qmp.migrate-incoming nth=1 max=1 => corrupt\n");
    struct state lost;
    struct state first;
    struct sim_guest_truth truth;
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "lost", &lost), KELPIE_E_INTERNAL);
    assert_int_equal(save(world, vm, "huge", &lost), KELPIE_E_SNAPSHOT_TOO_LARGE);
    assert_int_equal(save(world, vm, "first", &first), 0);
    resume_vm(vm);
    vm_free(vm);
    vm = restore(world, &first, NULL);
    kelpie__sim_guest_truth(guest_last(world), &truth);
    assert_true(truth.is_damaged);
    vm_free(vm);
    vm = restore(world, &first, NULL);
    assert_same(world, vm, &first);
    vm_free(vm);
    kelpie__sim_world_destroy(world);
}

static void test_a_guest_that_panics_when_it_is_loaded(void **state) {
    struct sim_world *world = world_new("guest.load nth=1 max=1 => panic");
    struct state first;
    kelpie__ignore(state != NULL);
    struct vm *vm = boot(world);
    pause_vm(vm);
    assert_int_equal(save(world, vm, "first", &first), 0);
    vm_free(vm);
    vm = restore(world, &first, NULL);
    assert_true(vm->is_started);
    vm->is_done = false;
    assert_int_equal(kelpie__vmm_resume(vm->vmm, on_done, vm, NULL), 0);
    wait_for(vm, &vm->is_ended);
    vm_free(vm);
    vm = restore(world, &first, NULL);
    assert_same(world, vm, &first);
    vm_free(vm);
    kelpie__sim_world_destroy(world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_and_restored_it_is_the_same),
        cmocka_unit_test(test_generations_lie_over_one_base),
        cmocka_unit_test(test_damage_is_taken_and_told_by_nobody),
        cmocka_unit_test(test_a_state_that_is_cut_off),
        cmocka_unit_test(test_a_memory_without_a_guest),
        cmocka_unit_test(test_faults_of_saving_and_loading),
        cmocka_unit_test(test_a_guest_that_panics_when_it_is_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
