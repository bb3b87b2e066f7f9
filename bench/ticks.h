/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How long a guest stood still, as the guest itself shows it: guest/ticker.c writes the guest's
 * time-stamp counter into a page of its memory. Under TCG that counts as the host's does, but for
 * the time in which the guest is stopped: the difference between the two grows by exactly that. A
 * host that gives the guest no processor for a while does not disturb it, since the counter goes on
 * then; and nobody looks while it is measured.
 */
#ifndef KELPIE_BENCH_TICKS_H
#define KELPIE_BENCH_TICKS_H

#include <stdint.h>
#include <sys/types.h>

struct bench_ticks {
    pid_t vmm;
    uint64_t address; /* of the page in the VMM's memory */
    double tsc_khz;
};

/* Waits for the ticker's page in a guest of `memory_bytes`. */
void kelpie__bench_ticks_find(struct bench_ticks *ticks, pid_t vmm, uint64_t memory_bytes);
/* How far the guest's counter lies behind the host's, in ms: the difference of two such is the time
 * that the guest stood still between. */
double kelpie__bench_ticks_behind(const struct bench_ticks *ticks);

#endif
