/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * restore: from a saved state to the output of a first command. As a new VM, and in the place of
 * one that runs. fork: from a VM that runs to the output of a first command in its child.
 */
#include <stdio.h>
#include <string.h>

#include "side.h"
#include "ticks.h"

#define RESTORE_NAME "bench-restore"
#define RESTORE_RAW_BASE 0u
#define RESTORE_RAW_ROUND 1u
#define FORK_MANY 4u

struct restore {
    const struct bench_host *host;
    struct bench_raw_state base;
    struct bench_raw_state round; /* of the raw side's fork */
    struct kelpie_vm *vm;         /* fork: the source; restore: one that is restored in place */
    struct bench_ticks ticks;
    struct bench_raw raw;
};

/* A saved idle guest on either side. */
static void restore_begin(struct restore *restore, const struct bench_host *host) {
    struct bench_raw raw;
    *restore = (struct restore){.host = host};
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_side_snapshot(vm, RESTORE_NAME);
    kelpie__bench_side_end(vm);
    kelpie__bench_raw_state(host, RESTORE_RAW_BASE, &restore->base);
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &raw);
    kelpie__bench_raw_hello(&raw);
    kelpie__bench_raw_save(&raw, &restore->base);
    kelpie__bench_raw_kill(&raw);
    restore->vm =
        kelpie__bench_side_start(host, &(struct bench_side_order){.snapshot = RESTORE_NAME});
    kelpie__bench_side_hello(restore->vm);
}

static void restore_end(struct restore *restore) {
    kelpie__bench_side_end(restore->vm);
    kelpie__bench_raw_kill(&restore->raw);
    kelpie__bench_side_forget(restore->host, RESTORE_NAME);
}

static void restore_mine(void *context) {
    const struct restore *restore = context;
    double begun_ms = kelpie__bench_now_ms();
    struct kelpie_vm *vm = kelpie__bench_side_start(
        restore->host, &(struct bench_side_order){.snapshot = RESTORE_NAME});
    double started_ms = kelpie__bench_now_ms();
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("restore/kelpie", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_tell("restore/start", "ms", started_ms - begun_ms);
    kelpie__bench_tell("restore/kelpie-cpu", "ms", kelpie__bench_side_cpu_ms(vm));
    kelpie__bench_side_end(vm);
}

static void restore_raw(void *context) {
    const struct restore *restore = context;
    struct bench_raw raw;
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_start(restore->host, &(struct bench_raw_order){.state = &restore->base},
                            &raw);
    double started_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_hello(&raw);
    kelpie__bench_tell("restore/raw", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_tell("restore/raw-start", "ms", started_ms - begun_ms);
    kelpie__bench_tell("restore/raw-cpu", "ms", kelpie__bench_cpu_ms(raw.pid));
    kelpie__bench_raw_kill(&raw);
}

static void restore_in_place(const struct restore *restore) {
    struct kelpie_error error = {0};
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_must(kelpie_vm_restore(restore->vm, RESTORE_NAME, 0, &error), &error, "restore");
    kelpie__bench_side_hello(restore->vm);
    kelpie__bench_tell("restore/in-place", "ms", kelpie__bench_now_ms() - begun_ms);
}

void kelpie__bench_restore(const struct bench_host *host) {
    struct restore restore;
    restore_begin(&restore, host);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, restore_mine, restore_raw, &restore);
        restore_in_place(&restore);
    }
    restore_end(&restore);
}

/* ---- fork ------------------------------------------------------------------------------------ */

/* All children's first results, by the children that there are. */
static void fork_some(const struct restore *restore, uint32_t count, const char *series) {
    struct kelpie_vm *children[FORK_MANY] = {NULL};
    struct kelpie_error error = {0};
    double begun_ms = kelpie__bench_now_ms();
    int status = kelpie_vm_fork(restore->vm, NULL, NULL, count, children, &error);
    kelpie__bench_must(status, &error, "fork");
    for (uint32_t i = 0; i < count; i += 1) {
        kelpie__bench_side_hello(children[i]);
    }
    kelpie__bench_tell(series, "ms", (kelpie__bench_now_ms() - begun_ms) / count);
    for (uint32_t i = 0; i < count; i += 1) {
        kelpie__bench_side_end(children[i]);
    }
}

static void fork_mine(void *context) {
    fork_some(context, 1, "fork/kelpie");
}

/* The same by hand: a state over the source's base, and a QEMU made of both. */
static void fork_raw(void *context) {
    struct restore *restore = context;
    struct bench_raw child;
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_save(&restore->raw, &restore->round);
    kelpie__bench_raw_start(restore->host, &(struct bench_raw_order){.state = &restore->round},
                            &child);
    kelpie__bench_raw_hello(&child);
    kelpie__bench_tell("fork/raw", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_raw_kill(&child);
}

/* With a QEMU that was started in advance on either side: what is left is the snapshot, the load
 * and the guest. */
static void fork_waiting_mine(void *context) {
    const struct restore *restore = context;
    struct kelpie_error error = {0};
    int status = kelpie_vm_prepare_forks(restore->vm, 1, &error);
    kelpie__bench_must(status, &error, "prepare a fork");
    fork_some(restore, 1, "fork/waiting");
}

static void fork_waiting_raw(void *context) {
    struct restore *restore = context;
    struct bench_raw child;
    kelpie__bench_raw_start(restore->host,
                            &(struct bench_raw_order){.state = &restore->round, .is_waiting = true},
                            &child);
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_save(&restore->raw, &restore->round);
    kelpie__bench_raw_load(&child, &restore->round);
    kelpie__bench_raw_hello(&child);
    kelpie__bench_tell("fork/waiting-raw", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_raw_kill(&child);
}

static void fork_pause(const struct restore *restore) {
    struct kelpie_vm *child = NULL;
    struct kelpie_error error = {0};
    double before_ms = kelpie__bench_ticks_behind(&restore->ticks);
    int status = kelpie_vm_fork(restore->vm, NULL, NULL, 1, &child, &error);
    kelpie__bench_must(status, &error, "fork");
    kelpie__bench_tell("fork/pause", "ms", kelpie__bench_ticks_behind(&restore->ticks) - before_ms);
    kelpie__bench_side_end(child);
}

void kelpie__bench_fork(const struct bench_host *host) {
    struct restore restore;
    restore_begin(&restore, host);
    kelpie__bench_raw_start(host, &(struct bench_raw_order){.state = &restore.base}, &restore.raw);
    kelpie__bench_raw_hello(&restore.raw);
    kelpie__bench_raw_state(host, RESTORE_RAW_ROUND, &restore.round);
    restore.round.base = restore.base.memory;
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, fork_mine, fork_raw, &restore);
        kelpie__bench_both(i, fork_waiting_mine, fork_waiting_raw, &restore);
        fork_some(&restore, FORK_MANY, "fork/kelpie-4");
    }
    /* At the end: the tick counter would run in every child. */
    kelpie__bench_side_ticker(host, restore.vm, 0);
    kelpie__bench_ticks_find(&restore.ticks, kelpie__bench_side_vmm(restore.vm),
                             (uint64_t)host->memory_mib << 20);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        fork_pause(&restore);
    }
    restore_end(&restore);
}
