/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See side.h.
 */
#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIDE_LABEL "bench"
#define SIDE_BOOT_TIMEOUT_MS 120000u /* KVM that is emulated takes 10 s, and more when busy */

struct kelpie_vm *kelpie__bench_side_start(const struct bench_host *host,
                                           const struct bench_side_order *order) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_config_create(host->kelpie, &config, &error), &error, "configure");
    if (order->snapshot != NULL) {
        kelpie_config_set_snapshot(config, order->snapshot);
    } else {
        kelpie_config_set_cpus(config, 1);
        kelpie_config_set_memory_mib(config, host->memory_mib);
        kelpie_config_set_template(config, order->is_from_template);
        kelpie_config_set_accelerator(config, host->accelerator);
        kelpie_config_set_boot_timeout_ms(config, SIDE_BOOT_TIMEOUT_MS);
    }
    int status = kelpie_vm_create(host->kelpie, NULL, config, &vm, &error);
    kelpie__bench_must(status, &error, "create a VM");
    kelpie__bench_must(kelpie_vm_start(vm, 0, &error), &error, "start a VM");
    kelpie_config_destroy(config);
    return vm;
}

void kelpie__bench_side_end(struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    if (vm != NULL) {
        kelpie__bench_must(kelpie_vm_delete(vm, true, &error), &error, "delete a VM");
        kelpie_vm_close(vm);
    }
}

pid_t kelpie__bench_side_vmm(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_inspect(vm, &info, &error), &error, "inspect a VM");
    return info.vmm_pid;
}

double kelpie__bench_side_cpu_ms(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_inspect(vm, &info, &error), &error, "inspect a VM");
    return kelpie__bench_cpu_ms(info.vmm_pid) + kelpie__bench_cpu_ms(info.monitor_pid);
}

static void side_run(struct kelpie_vm *vm, const struct kelpie_exec_options *options) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_exec(vm, options, &result, &error), &error, options->argv[0]);
    if (result.status.exit_code != 0) {
        kelpie__bench_die("%s: %s", options->argv[0], result.stderr_bytes);
    }
    kelpie_exec_result_release(&result);
}

void kelpie__bench_side_hello(struct kelpie_vm *vm) {
    const char *const argv[] = {"/bin/echo", "hello", NULL};
    side_run(vm, &(struct kelpie_exec_options){.struct_size = sizeof(struct kelpie_exec_options),
                                               .argv = argv});
}

void kelpie__bench_raw_hello(struct bench_raw *raw) {
    const char *const argv[] = {"/bin/echo", "hello", NULL};
    kelpie__bench_raw_exec(raw, &(struct bench_raw_command){.argv = argv});
}

/* Detached: it goes on whoever waits for it. */
void kelpie__bench_side_ticker(const struct bench_host *host, struct kelpie_vm *vm, uint32_t mib) {
    char path[BENCH_PATH_BYTES_MAX];
    char command[64];
    size_t count = 0;
    struct kelpie_exec *exec = NULL;
    struct kelpie_error error = {0};
    kelpie__bench_path(path, host->programs, "bench-ticker");
    char *bytes = kelpie__bench_read(path, &count);
    const char *const put[] = {"/bin/sh", "-c", "cat >/run/ticker && chmod +x /run/ticker", NULL};
    side_run(vm, &(struct kelpie_exec_options){.struct_size = sizeof(struct kelpie_exec_options),
                                               .argv = put,
                                               .stdin_bytes = bytes,
                                               .stdin_count = count});
    free(bytes);
    snprintf(command, sizeof(command), "%u", mib);
    const char *const run[] = {"/run/ticker", command, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = run,
                                                .timeout_ms = KELPIE_TIMEOUT_NONE,
                                                .keep_on_disconnect = true};
    kelpie__bench_must(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &error), &error,
                       "start the tick counter");
    kelpie__bench_must(kelpie_exec_detach(exec, &error), &error, "detach the tick counter");
}

void kelpie__bench_raw_ticker(struct bench_raw *raw, uint32_t mib) {
    char text[16];
    snprintf(text, sizeof(text), "%u", mib);
    const char *const argv[] = {"/bench-ticker", text, NULL};
    kelpie__bench_raw_exec(raw, &(struct bench_raw_command){.argv = argv, .is_left_alone = true});
}

uint64_t kelpie__bench_side_snapshot(struct kelpie_vm *vm, const char *name) {
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options), .name = name, .label = SIDE_LABEL};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_snapshot(vm, &options, &result, &error), &error, "snapshot");
    return result.stored_bytes;
}

void kelpie__bench_side_forget(const struct bench_host *host, const char *snapshot) {
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_snapshot_remove(host->kelpie, snapshot, &error), &error,
                       "remove a snapshot");
}

void kelpie__bench_raw_state(const struct bench_host *host, uint32_t index,
                             struct bench_raw_state *out) {
    char name[32];
    *out = (struct bench_raw_state){.copied_bytes = 0};
    snprintf(name, sizeof(name), "raw-%u.device", index);
    kelpie__bench_path(out->device, host->directory, name);
    snprintf(name, sizeof(name), "raw-%u.memory", index);
    kelpie__bench_path(out->memory, host->directory, name);
}

void kelpie__bench_both(uint32_t round, bench_side mine, bench_side raw, void *context) {
    if (round % 2 == 0) {
        mine(context);
        raw(context);
    } else {
        raw(context);
        mine(context);
    }
}
