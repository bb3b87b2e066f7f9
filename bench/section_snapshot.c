/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * snapshot: how long the guest stands still, and how long the whole takes. Of a booted guest with
 * much in use, against the raw sequence and QEMU's savevm; and of one that was made from a snapshot
 * and has changed little.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "side.h"
#include "ticks.h"

#define SNAPSHOT_SMALL_MIB 2u
#define SNAPSHOT_LATE_MS 10
#define SNAPSHOT_BASE "bench-base"
#define SNAPSHOT_NAME "bench-round"
#define SNAPSHOT_RAW_BASE 0u
#define SNAPSHOT_RAW_ROUND 1u

struct snapshot {
    const struct bench_host *host;
    const char *what; /* booted, small */
    struct kelpie_vm *vm;
    struct bench_ticks ticks;
    struct bench_raw raw;
    struct bench_ticks raw_ticks;
    struct bench_raw disk; /* with a qcow2 disk, for savevm; not always there */
    struct bench_ticks disk_ticks;
};

static void tell(const struct snapshot *snapshot, const char *side, const char *unit,
                 double value) {
    char series[64];
    snprintf(series, sizeof(series), "snapshot/%s-%s", snapshot->what, side);
    kelpie__bench_tell(series, unit, value);
}

static void snapshot_mine(void *context) {
    const struct snapshot *snapshot = context;
    double before_ms = kelpie__bench_ticks_behind(&snapshot->ticks);
    double begun_ms = kelpie__bench_now_ms();
    uint64_t bytes = kelpie__bench_side_snapshot(snapshot->vm, SNAPSHOT_NAME);
    double whole_ms = kelpie__bench_now_ms() - begun_ms;
    double after_ms = kelpie__bench_ticks_behind(&snapshot->ticks);
    tell(snapshot, "kelpie", "ms", after_ms - before_ms);
    tell(snapshot, "whole", "ms", whole_ms);
    tell(snapshot, "stored", "MiB", (double)bytes / (1 << 20));
    kelpie__bench_side_forget(snapshot->host, SNAPSHOT_NAME);
}

static void snapshot_raw(void *context) {
    struct snapshot *snapshot = context;
    struct bench_raw_state state;
    kelpie__bench_raw_state(snapshot->host, SNAPSHOT_RAW_ROUND, &state);
    double before_ms = kelpie__bench_ticks_behind(&snapshot->raw_ticks);
    kelpie__bench_raw_save(&snapshot->raw, &state);
    double after_ms = kelpie__bench_ticks_behind(&snapshot->raw_ticks);
    tell(snapshot, "raw", "ms", after_ms - before_ms);
    tell(snapshot, "copied", "MiB", (double)state.copied_bytes / (1 << 20));
    unlink(state.memory);
    unlink(state.device);
}

static void snapshot_savevm(struct snapshot *snapshot) {
    double before_ms = kelpie__bench_ticks_behind(&snapshot->disk_ticks);
    kelpie__bench_raw_qmp(&snapshot->disk,
                          "{\"execute\":\"human-monitor-command\",\"arguments\":{"
                          "\"command-line\":\"savevm bench\"}}",
                          -1, NULL, 0);
    double after_ms = kelpie__bench_ticks_behind(&snapshot->disk_ticks);
    tell(snapshot, "savevm", "ms", after_ms - before_ms);
}

static void others_note(void *context, const struct kelpie_error *error) {
    *(bool *)context = true;
    kelpie__bench_must(error == NULL ? 0 : error->code, error, "snapshot");
}

/* What a second client waits for an answer that the monitor gives by itself, asked again and again
 * during a snapshot: the slowest, and how many of them came later than they should. */
static void snapshot_others(const struct snapshot *snapshot, struct kelpie *other,
                            struct kelpie_vm *same) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                    .name = SNAPSHOT_NAME};
    struct kelpie_error error = {0};
    bool is_done = false;
    double worst_ms = 0;
    double asked = 0;
    double late = 0;
    kelpie__bench_must(
        kelpie_vm_snapshot_async(snapshot->vm, &options, NULL, others_note, &is_done, NULL, &error),
        &error, "snapshot");
    while (!is_done) {
        struct kelpie_exec_info *list = NULL;
        size_t count = 0;
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_must(kelpie_vm_exec_list(same, &list, &count, &error), &error, "ask");
        double took_ms = kelpie__bench_now_ms() - begun_ms;
        kelpie_exec_list_free(other, list, count);
        worst_ms = took_ms > worst_ms ? took_ms : worst_ms;
        late += took_ms > SNAPSHOT_LATE_MS ? 1 : 0;
        asked += 1;
        kelpie__bench_must(kelpie_wait(snapshot->host->kelpie, 1, &error), &error, "wait");
    }
    tell(snapshot, "answer", "ms", worst_ms);
    tell(snapshot, "late", "%", 100 * late / asked);
    kelpie__bench_side_forget(snapshot->host, SNAPSHOT_NAME);
}

static void snapshot_others_rounds(const struct snapshot *snapshot) {
    struct kelpie *other = kelpie__bench_open(snapshot->host);
    struct kelpie_vm *same = NULL;
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_open(other, kelpie_vm_name(snapshot->vm), &same, &error), &error,
                       "open the VM once more");
    for (uint32_t i = 0; kelpie__bench_goes_on(snapshot->host, i); i += 1) {
        snapshot_others(snapshot, other, same);
    }
    kelpie_vm_close(same);
    kelpie_close(other);
}

static void snapshot_begin(struct snapshot *snapshot, uint32_t mib) {
    uint64_t memory_bytes = (uint64_t)snapshot->host->memory_mib << 20;
    kelpie__bench_side_ticker(snapshot->host, snapshot->vm, mib);
    kelpie__bench_raw_ticker(&snapshot->raw, mib);
    kelpie__bench_ticks_find(&snapshot->ticks, kelpie__bench_side_vmm(snapshot->vm), memory_bytes);
    kelpie__bench_ticks_find(&snapshot->raw_ticks, snapshot->raw.pid, memory_bytes);
}

static void snapshot_end(struct snapshot *snapshot) {
    kelpie__bench_side_end(snapshot->vm);
    kelpie__bench_raw_kill(&snapshot->raw);
    kelpie__bench_raw_kill(&snapshot->disk);
}

/* A guest on a machine of its own, for savevm wants a disk that can hold it. */
static void snapshot_add_disk(struct snapshot *snapshot, uint32_t mib) {
    char path[BENCH_PATH_BYTES_MAX];
    const struct bench_host *host = snapshot->host;
    kelpie__bench_path(path, host->directory, "savevm.qcow2");
    const char *const make[] = {
        "/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", path, "1G", NULL};
    kelpie__bench_spawn(make);
    kelpie__bench_raw_start(host, &(struct bench_raw_order){.disk = path}, &snapshot->disk);
    kelpie__bench_raw_ticker(&snapshot->disk, mib);
    kelpie__bench_ticks_find(&snapshot->disk_ticks, snapshot->disk.pid,
                             (uint64_t)host->memory_mib << 20);
}

static void snapshot_booted(const struct bench_host *host) {
    struct snapshot snapshot = {.host = host, .what = "booted"};
    snapshot.vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &snapshot.raw);
    snapshot_begin(&snapshot, host->fill_mib);
    snapshot_add_disk(&snapshot, host->fill_mib);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, snapshot_mine, snapshot_raw, &snapshot);
        snapshot_savevm(&snapshot);
    }
    kelpie__bench_raw_kill(&snapshot.raw); /* their guests count, too */
    kelpie__bench_raw_kill(&snapshot.disk);
    snapshot_others_rounds(&snapshot);
    snapshot_end(&snapshot);
}

/* Both are restored from a state of a booted guest first. */
static void snapshot_small(const struct bench_host *host) {
    struct snapshot snapshot = {.host = host, .what = "small"};
    struct bench_raw_state base;
    struct bench_raw raw;
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("snapshot/idle-stored", "MiB",
                       (double)kelpie__bench_side_snapshot(vm, SNAPSHOT_BASE) / (1 << 20));
    kelpie__bench_side_end(vm);
    kelpie__bench_raw_state(host, SNAPSHOT_RAW_BASE, &base);
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &raw);
    kelpie__bench_raw_hello(&raw);
    kelpie__bench_raw_save(&raw, &base);
    kelpie__bench_raw_kill(&raw);
    snapshot.vm =
        kelpie__bench_side_start(host, &(struct bench_side_order){.snapshot = SNAPSHOT_BASE});
    kelpie__bench_raw_start(host, &(struct bench_raw_order){.state = &base}, &snapshot.raw);
    snapshot_begin(&snapshot, SNAPSHOT_SMALL_MIB);
    snapshot_add_disk(&snapshot, SNAPSHOT_SMALL_MIB); /* savevm writes all that is in use anyway */
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, snapshot_mine, snapshot_raw, &snapshot);
        snapshot_savevm(&snapshot);
    }
    snapshot_end(&snapshot);
    kelpie__bench_side_forget(host, SNAPSHOT_BASE);
}

void kelpie__bench_snapshot(const struct bench_host *host) {
    snapshot_booted(host);
    snapshot_small(host);
}
