/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * density: fleets of clones of one snapshot, all alive at once: 10, then 100, then 10 again. Each
 * is started, answers a command when all are there, and is stopped; what that takes for each of 100
 * against each of 10, and what each has of memory for itself alone, VMM and monitor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

#define DENSITY_NAME "bench-density"
#define DENSITY_CLONES 100u
#define DENSITY_FEW 10u

/* Memory of a process that no other has, in MiB. */
static double private_mib(pid_t pid) {
    char path[64];
    size_t count = 0;
    double kib = 0;
    char *rest = NULL;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    char *text = kelpie__bench_read(path, &count);
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "Private_", 8) == 0) {
            kib += strtod(line + strcspn(line, " "), NULL);
        }
    }
    free(text);
    return kib / 1024;
}

static void density_measure(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_inspect(vm, &info, &error), &error, "inspect a clone");
    kelpie__bench_tell("density/clone", "MiB", private_mib(info.vmm_pid));
    kelpie__bench_tell("density/monitor", "MiB", private_mib(info.monitor_pid));
}

static void density_raw(const struct bench_host *host) {
    struct bench_raw_state base;
    struct bench_raw raw[DENSITY_FEW];
    kelpie__bench_raw_state(host, 0, &base);
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &raw[0]);
    kelpie__bench_raw_hello(&raw[0]);
    kelpie__bench_tell("density/booted-raw", "MiB", private_mib(raw[0].pid));
    kelpie__bench_raw_save(&raw[0], &base);
    kelpie__bench_raw_kill(&raw[0]);
    for (uint32_t i = 0; i < DENSITY_FEW; i += 1) {
        kelpie__bench_raw_start(host, &(struct bench_raw_order){.state = &base}, &raw[i]);
        kelpie__bench_raw_hello(&raw[i]);
    }
    for (uint32_t i = 0; i < DENSITY_FEW; i += 1) {
        kelpie__bench_tell("density/raw", "MiB", private_mib(raw[i].pid));
        kelpie__bench_raw_kill(&raw[i]);
    }
}

struct fleet {
    uint32_t count;
    struct kelpie_vm *vms[DENSITY_CLONES];
    double took_ms[DENSITY_CLONES]; /* each of them, in all steps */
};

static void fleet_tell(struct fleet *fleet, uint32_t index, const char *step, double begun_ms) {
    char series[48];
    double took_ms = kelpie__bench_now_ms() - begun_ms;
    snprintf(series, sizeof(series), "density/%s-of-%u", step, fleet->count);
    kelpie__bench_tell(series, "ms", took_ms);
    fleet->took_ms[index] += took_ms;
}

static void fleet_start(const struct bench_host *host, struct fleet *fleet) {
    for (uint32_t i = 0; i < fleet->count; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        fleet->vms[i] =
            kelpie__bench_side_start(host, &(struct bench_side_order){.snapshot = DENSITY_NAME});
        kelpie__bench_side_hello(fleet->vms[i]);
        fleet_tell(fleet, i, "start", begun_ms);
    }
}

/* Each is asked to go, and goes by itself. */
static void fleet_stop(struct fleet *fleet) {
    struct kelpie_error error = {0};
    char series[48];
    for (uint32_t i = 0; i < fleet->count; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_must(kelpie_vm_stop(fleet->vms[i], 0, NULL, &error), &error, "stop a clone");
        kelpie_vm_close(fleet->vms[i]); /* its VM belongs to it, and is deleted */
        fleet_tell(fleet, i, "stop", begun_ms);
    }
    snprintf(series, sizeof(series), "density/each-of-%u", fleet->count);
    for (uint32_t i = 0; i < fleet->count; i += 1) {
        kelpie__bench_tell(series, "ms", fleet->took_ms[i]);
    }
}

static void fleet_run(const struct bench_host *host, uint32_t count) {
    struct fleet fleet = {.count = count};
    fleet_start(host, &fleet);
    for (uint32_t i = 0; i < count; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_side_hello(fleet.vms[i]);
        fleet_tell(&fleet, i, "exec", begun_ms);
    }
    for (uint32_t i = 0; i < count && count == DENSITY_CLONES; i += 1) {
        density_measure(fleet.vms[i]);
    }
    fleet_stop(&fleet);
}

void kelpie__bench_density(const struct bench_host *host) {
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("density/booted", "MiB", private_mib(kelpie__bench_side_vmm(vm)));
    kelpie__bench_side_snapshot(vm, DENSITY_NAME);
    kelpie__bench_side_end(vm);
    density_raw(host);
    fleet_run(host, DENSITY_FEW);
    fleet_run(host, DENSITY_CLONES);
    fleet_run(host, DENSITY_FEW);
    kelpie__bench_side_forget(host, DENSITY_NAME);
}
