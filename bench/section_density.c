/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * density: many clones of one snapshot alive at once, each answering a command; what each has of
 * memory for itself alone, VMM and monitor, and what the first ten cost in time against the last.
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

void kelpie__bench_density(const struct bench_host *host) {
    static struct kelpie_vm *clones[DENSITY_CLONES];
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("density/booted", "MiB", private_mib(kelpie__bench_side_vmm(vm)));
    kelpie__bench_side_snapshot(vm, DENSITY_NAME);
    kelpie__bench_side_end(vm);
    density_raw(host);
    for (uint32_t i = 0; i < DENSITY_CLONES; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        clones[i] =
            kelpie__bench_side_start(host, &(struct bench_side_order){.snapshot = DENSITY_NAME});
        kelpie__bench_side_hello(clones[i]);
        const char *series = i < DENSITY_FEW ? "density/first-ten" : "density/last-ten";
        if (i < DENSITY_FEW || i >= DENSITY_CLONES - DENSITY_FEW) {
            kelpie__bench_tell(series, "ms", kelpie__bench_now_ms() - begun_ms);
        }
    }
    for (uint32_t i = 0; i < DENSITY_CLONES; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_side_hello(clones[i]);
        kelpie__bench_tell("density/exec", "ms", kelpie__bench_now_ms() - begun_ms);
    }
    for (uint32_t i = 0; i < DENSITY_CLONES; i += 1) {
        density_measure(clones[i]);
    }
    for (uint32_t i = 0; i < DENSITY_CLONES; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_side_end(clones[i]);
        kelpie__bench_tell("density/end", "ms", kelpie__bench_now_ms() - begun_ms);
    }
    kelpie__bench_side_forget(host, DENSITY_NAME);
}
