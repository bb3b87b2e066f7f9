/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Kelpie's side, through the library, and the sections. Each section tells values of series
 * "SECTION/WHAT-SIDE"; report.py knows which are compared, and what was aimed at.
 */
#ifndef KELPIE_BENCH_SIDE_H
#define KELPIE_BENCH_SIDE_H

#include "host.h"
#include "raw.h"

/* What a VM is made of; NULL and false: booted, with the run's memory. */
struct bench_side_order {
    const char *snapshot;  /* made from it */
    bool is_from_template; /* as Kelpie does by default */
};

/* Makes one and starts it. */
struct kelpie_vm *kelpie__bench_side_start(const struct bench_host *host,
                                           const struct bench_side_order *order);
void kelpie__bench_side_end(struct kelpie_vm *vm); /* kills, deletes, closes; takes NULL */
pid_t kelpie__bench_side_vmm(struct kelpie_vm *vm);
double kelpie__bench_side_cpu_ms(struct kelpie_vm *vm); /* of its VMM and its monitor */

/* `/bin/echo hello` to its end: what a first result is. */
void kelpie__bench_side_hello(struct kelpie_vm *vm);
void kelpie__bench_raw_hello(struct bench_raw *raw);

/* Starts the tick counter with so many MiB in use; it runs as long as the VM. */
void kelpie__bench_side_ticker(const struct bench_host *host, struct kelpie_vm *vm, uint32_t mib);
void kelpie__bench_raw_ticker(struct bench_raw *raw, uint32_t mib);

/* Takes one under this name, unsynced as a fork's is when `is_quick`; gives its bytes on disk. */
uint64_t kelpie__bench_side_snapshot(struct kelpie_vm *vm, const char *name);
void kelpie__bench_side_forget(const struct bench_host *host, const char *snapshot);

/* The files of the raw side's state number `index`. */
void kelpie__bench_raw_state(const struct bench_host *host, uint32_t index,
                             struct bench_raw_state *out);

/* Runs both sides of a round, this one first in even rounds and last in odd ones. */
typedef void (*bench_side)(void *context);
void kelpie__bench_both(uint32_t round, bench_side mine, bench_side raw, void *context);

void kelpie__bench_boot(const struct bench_host *host);
void kelpie__bench_exec(const struct bench_host *host);
void kelpie__bench_stream(const struct bench_host *host);
void kelpie__bench_snapshot(const struct bench_host *host);
void kelpie__bench_restore(const struct bench_host *host);
void kelpie__bench_fork(const struct bench_host *host);
void kelpie__bench_pool(const struct bench_host *host);
void kelpie__bench_density(const struct bench_host *host);
void kelpie__bench_tail(const struct bench_host *host);
void kelpie__bench_parallel(const struct bench_host *host);
void kelpie__bench_queue(const struct bench_host *host);
void kelpie__bench_idle(const struct bench_host *host);
void kelpie__bench_peer(const struct bench_host *host);

#endif
