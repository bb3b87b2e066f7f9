/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * boot: from nothing to the output of a first command.
 */
#include <stdio.h>
#include <unistd.h>

#include "side.h"

#define BOOT_LOOK_US 50000u /* for the template */
#define BOOT_LOOKS 1200u

struct boot {
    const struct bench_host *host;
};

static void boot_mine(void *context) {
    const struct boot *boot = context;
    double begun_ms = kelpie__bench_now_ms();
    struct kelpie_vm *vm = kelpie__bench_side_start(boot->host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("boot/kelpie", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_tell("boot/kelpie-cpu", "ms", kelpie__bench_side_cpu_ms(vm));
    kelpie__bench_side_end(vm);
}

static void boot_raw(void *context) {
    const struct boot *boot = context;
    struct bench_raw raw;
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_start(boot->host, &(struct bench_raw_order){0}, &raw);
    kelpie__bench_raw_hello(&raw);
    kelpie__bench_tell("boot/raw", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_tell("boot/raw-cpu", "ms", kelpie__bench_cpu_ms(raw.pid));
    kelpie__bench_raw_kill(&raw);
}

/* The command as a user types it, to its end. */
static void boot_command(const struct bench_host *host, const char *series, const char *option) {
    char program[BENCH_PATH_BYTES_MAX];
    char memory[32];
    snprintf(memory, sizeof(memory), "--memory=%u", host->memory_mib);
    kelpie__bench_path(program, host->programs, "../src/kelpie");
    /* As it is typed; on KVM alone that is said, for there a trial of it may take too long. */
    const char *accel =
        host->accelerator == KELPIE_ACCELERATOR_KVM ? "--accel=kvm" : "--accel=auto";
    const char *const argv[] = {program, "--state-dir", host->directory, "run",       "--cpus=1",
                                memory,  accel,         option,          "/bin/true", NULL};
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_spawn(argv);
    kelpie__bench_tell(series, "ms", kelpie__bench_now_ms() - begun_ms);
}

static void boot_template(const struct bench_host *host) {
    const struct bench_side_order order = {.is_from_template = true};
    double begun_ms = kelpie__bench_now_ms();
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &order);
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("boot/template", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_side_end(vm);
}

/* The first start makes the template that later ones use, and the VM stays until that is whole: a
 * deletion waits for it, too, but not as long as a KVM that is emulated needs. */
static void boot_first(const struct bench_host *host) {
    const struct kelpie_prune_options options = {
        .struct_size = sizeof(options), .is_all = true, .is_trial = true};
    struct kelpie_prune_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    struct kelpie_vm *vm =
        kelpie__bench_side_start(host, &(struct bench_side_order){.is_from_template = true});
    for (uint32_t i = 0; i < BOOT_LOOKS && result.template_count == 0; i += 1) {
        kelpie__bench_must(kelpie_prune(host->kelpie, &options, &result, &error), &error,
                           "look for the template");
        usleep(BOOT_LOOK_US);
    }
    if (result.template_count == 0) {
        kelpie__bench_die("the first start left no template");
    }
    kelpie__bench_side_end(vm);
}

void kelpie__bench_boot(const struct bench_host *host) {
    struct boot boot = {.host = host};
    boot_first(host);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, boot_mine, boot_raw, &boot);
        boot_command(host, "boot/run", "--no-template");
        boot_command(host, "boot/run-template", "--");
        boot_template(host);
    }
}
