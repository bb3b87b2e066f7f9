/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: Kelpie's own kernel (docs/kernel.md) is what guests get where KELPIE_KERNEL names it, and
 * has what they may count on. Method: its configuration and what it says of itself, within a guest.
 * The contract's rows run on it beside.
 */
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

static void kernel_has(struct kelpie_vm *vm, const char *file, const char *words) {
    char script[1024];
    snprintf(script, sizeof(script), "for w in %s; do grep -qw \"$w\" %s || echo $w; done", words,
             file);
    contract_sh_says(vm, script, "");
}

static void test_own_kernel(const struct harness *harness) {
    HARNESS_CHECK(getenv("KELPIE_KERNEL") != NULL, "KELPIE_KERNEL is not set");
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    contract_sh_says(vm, "grep -c '(kelpie@kelpie)' /proc/version", "1\n");
    contract_sh_says(vm, "ls -d /proc/modules /sys/bus/pci /sys/firmware/acpi 2>/dev/null | wc -l",
                     "0\n");
    kernel_has(vm, "/proc/filesystems",
               "ext4 erofs overlay fuse virtiofs tmpfs devtmpfs proc sysfs cgroup2 bpf mqueue");
    contract_sh_says(vm, "zcat /proc/config.gz | sed -n 's/^CONFIG_//p' >/tmp/config", "");
    contract_sh_says(vm, "grep '=m$' /tmp/config; true", "");
    kernel_has(vm, "/tmp/config",
               "VIRTIO_MMIO_CMDLINE_DEVICES=y VIRTIO_CONSOLE=y VIRTIO_BLK=y VIRTIO_NET=y "
               "VIRTIO_VSOCKETS=y HW_RANDOM_VIRTIO=y VIRTIO_BALLOON=y IO_URING=y SECCOMP_FILTER=y "
               "USER_NS=y PID_NS=y NET_NS=y INET=y IPV6=y");
    kernel_has(vm, "/sys/fs/cgroup/cgroup.controllers", "cpu memory io pids cpuset");
    /* The timer's frequency was told, not measured (kernel/lapic-timer-hz.patch): a second is one.
     */
    contract_sh_says(vm, "grep -c lapic_timer_hz=1000000000 /proc/cmdline", "1\n");
    uint64_t begun_ms = harness_now_ms();
    contract_sh_says(vm, "sleep 1", "");
    uint64_t took_ms = harness_now_ms() - begun_ms;
    HARNESS_CHECK(took_ms >= 995 && took_ms < 5000, "sleep 1 took %llu ms",
                  (unsigned long long)took_ms);
    contract_end(vm);
    contract_close(&contract);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {{"own_kernel", test_own_kernel, 120}};
    const struct harness_suite suite = {
        .name = "kernel", .tests = tests, .test_count = sizeof(tests) / sizeof(tests[0])};
    return harness_main(argc, argv, &suite);
}
