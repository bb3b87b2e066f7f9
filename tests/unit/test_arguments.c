/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * QEMU's argument vector. Goal: what a VM is made of and what confines it is there, in the right
 * form, whatever the paths hold. Method: build vectors and look for arguments and pairs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/qemu/arguments.h"

static struct kelpie_vmm_spec spec_plain(void) {
    return (struct kelpie_vmm_spec){
        .vm_directory = "/run/kelpie/vms/a",
        .cache_directory = "/var/cache/kelpie",
        .kernel = "/k/vmlinux",
        .initramfs = "/k/initramfs.cpio",
        .cpu_count = 2,
        .memory_mib = 512,
    };
}

static struct kelpie_qemu_arguments_input input_plain(const struct kelpie_vmm_spec *spec) {
    return (struct kelpie_qemu_arguments_input){
        .spec = spec,
        .program = "/usr/bin/qemu-system-x86_64",
        .accelerator = KELPIE_VMM_ACCELERATOR_TCG,
        .base = KELPIE_OS_NO_HANDLE,
        .tsc_khz = 2596140,
        .qmp = 3,
        .agent = 4,
        .console = 5,
    };
}

static struct kelpie_qemu_arguments *build(const struct kelpie_qemu_arguments_input *input) {
    struct kelpie_qemu_arguments *arguments = calloc(1, sizeof(*arguments));
    assert_non_null(arguments);
    assert_int_equal(kelpie__qemu_arguments_build(arguments, input, NULL), 0);
    assert_null(arguments->values[arguments->count]);
    return arguments;
}

/* The value after `name`, the index-th time it occurs; NULL: not there. */
static const char *value_of(const struct kelpie_qemu_arguments *arguments, const char *name,
                            uint32_t index) {
    for (uint32_t i = 0; i + 1 < arguments->count; i += 1) {
        if (strcmp(arguments->values[i], name) == 0) {
            if (index == 0) {
                return arguments->values[i + 1];
            }
            index -= 1;
        }
    }
    return NULL;
}

static void test_plain_vm_is_confined_and_has_no_defaults(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    struct kelpie_qemu_arguments *arguments = build(&input);
    assert_string_equal(arguments->values[0], "/usr/bin/qemu-system-x86_64");
    assert_string_equal(arguments->values[1], "-nodefaults");
    assert_string_equal(arguments->values[2], "-no-user-config");
    assert_string_equal(value_of(arguments, "-sandbox", 0),
                        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    assert_string_equal(value_of(arguments, "-global", 0), "virtio-mmio.force-legacy=false");
    assert_string_equal(value_of(arguments, "-M", 0),
                        "microvm,acpi=on,rtc=on,memory-backend=memory");
    assert_string_equal(value_of(arguments, "-object", 0),
                        "memory-backend-ram,id=memory,size=512M");
    assert_string_equal(value_of(arguments, "-smp", 0), "2");
    assert_string_equal(value_of(arguments, "-name", 0), "guest=/run/kelpie/vms/a");
    assert_string_equal(value_of(arguments, "-chardev", 0), "socket,id=qmp,fd=3");
    assert_null(value_of(arguments, "-blockdev", 0));
    free(arguments);
}

static void test_tcg_is_told_the_frequency_and_kvm_is_not(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    struct kelpie_qemu_arguments *arguments = build(&input);
    const char *line = value_of(arguments, "-append", 0);
    assert_non_null(strstr(line, " tsc_early_khz=2596140 lpj=10384560"));
    assert_non_null(strstr(line, "mitigations=off"));
    free(arguments);
    input.accelerator = KELPIE_VMM_ACCELERATOR_KVM;
    arguments = build(&input);
    line = value_of(arguments, "-append", 0);
    assert_null(strstr(line, "tsc_early_khz"));
    assert_null(strstr(line, "mitigations"));
    assert_string_equal(value_of(arguments, "-accel", 0), "kvm");
    assert_string_equal(value_of(arguments, "-cpu", 0), "host");
    free(arguments);
}

/* The guest has the one or the other, and the agent is told which port to dial. */
static void test_vsock_takes_the_place_of_the_serial_port(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    struct kelpie_qemu_arguments *arguments = build(&input);
    assert_string_equal(value_of(arguments, "-device", 0), "virtio-serial-device,max_ports=2");
    assert_string_equal(value_of(arguments, "-device", 1),
                        "virtserialport,chardev=agent,name=org.kelpie.agent");
    assert_null(strstr(value_of(arguments, "-append", 0), "KELPIE_PORT"));
    free(arguments);
    input.accelerator = KELPIE_VMM_ACCELERATOR_KVM;
    input.guest_cid = 4000000000u;
    input.agent_port = 1265352638u;
    arguments = build(&input);
    assert_string_equal(value_of(arguments, "-device", 0),
                        "vhost-vsock-device,guest-cid=4000000000,vhostfd=4");
    assert_null(value_of(arguments, "-device", 1));
    assert_null(value_of(arguments, "-chardev", 2)); /* QMP and console */
    assert_non_null(strstr(value_of(arguments, "-append", 0), " KELPIE_PORT=1265352638"));
    free(arguments);
}

static void test_own_kernel_has_no_acpi(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    input.kernel_kind = KELPIE_VMM_KERNEL_OWN;
    struct kelpie_qemu_arguments *arguments = build(&input);
    assert_non_null(strstr(value_of(arguments, "-M", 0), "acpi=off"));
    assert_non_null(strstr(value_of(arguments, "-append", 0), " lapic_timer_hz=1000000000"));
    free(arguments);
    input.kernel_kind = KELPIE_VMM_KERNEL_GENERIC;
    arguments = build(&input);
    assert_null(strstr(value_of(arguments, "-append", 0), "lapic_timer_hz"));
    free(arguments);
}

static void test_commas_in_paths_are_doubled(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    const struct kelpie_vmm_disk disks[] = {
        {.path = "/a,b/readonly=off,c", .serial = "base", .is_read_only = true},
        {.path = "/upper.raw", .serial = "upper"},
    };
    spec.vm_directory = "/run/x,y";
    spec.disks = disks;
    spec.disk_count = 2;
    struct kelpie_qemu_arguments *arguments = build(&input);
    assert_string_equal(value_of(arguments, "-name", 0), "guest=/run/x,,y");
    assert_string_equal(value_of(arguments, "-blockdev", 0),
                        "driver=file,node-name=file0,read-only=on,filename=/a,,b/readonly=off,,c");
    assert_string_equal(value_of(arguments, "-blockdev", 1),
                        "driver=raw,node-name=disk0,read-only=on,file=file0");
    assert_non_null(strstr(value_of(arguments, "-blockdev", 2), "discard=unmap"));
    assert_non_null(strstr(value_of(arguments, "-blockdev", 3), "discard=unmap"));
    assert_non_null(strstr(value_of(arguments, "-device", 2), "serial=base"));
    assert_non_null(strstr(value_of(arguments, "-device", 3), "serial=upper"));
    free(arguments);
}

static void test_qcow2_is_opened_as_what_it_is(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    const struct kelpie_vmm_disk disk = {
        .path = "/i", .serial = "base", .format = KELPIE_VMM_DISK_QCOW2, .is_read_only = true};
    spec.disks = &disk;
    spec.disk_count = 1;
    struct kelpie_qemu_arguments *arguments = build(&input);
    assert_non_null(strstr(value_of(arguments, "-blockdev", 1), "driver=qcow2"));
    free(arguments);
}

static void test_paths_beyond_all_measure_are_refused(void **state) {
    (void)state;
    struct kelpie_vmm_spec spec = spec_plain();
    struct kelpie_qemu_arguments_input input = input_plain(&spec);
    struct kelpie_error error = {0};
    size_t length = KELPIE_QEMU_ARGUMENT_BYTES_MAX;
    char *path = calloc(1, length + 1);
    struct kelpie_qemu_arguments *arguments = calloc(1, sizeof(*arguments));
    memset(path, ',', length);
    path[0] = '/';
    spec.vm_directory = path;
    assert_int_equal(kelpie__qemu_arguments_build(arguments, &input, &error), KELPIE_E_LIMIT);
    assert_int_equal(error.code, KELPIE_E_LIMIT);
    free(arguments);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_vm_is_confined_and_has_no_defaults),
        cmocka_unit_test(test_tcg_is_told_the_frequency_and_kvm_is_not),
        cmocka_unit_test(test_vsock_takes_the_place_of_the_serial_port),
        cmocka_unit_test(test_own_kernel_has_no_acpi),
        cmocka_unit_test(test_commas_in_paths_are_doubled),
        cmocka_unit_test(test_qcow2_is_opened_as_what_it_is),
        cmocka_unit_test(test_paths_beyond_all_measure_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
