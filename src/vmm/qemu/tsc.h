/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The frequency of the host's time-stamp counter, which under TCG is the guest's. A guest that is
 * not told it calibrates against an emulated timer and hangs for ever on a loaded host; a guest
 * that is told a wrong one has a wrong clock for good. So it is measured against
 * CLOCK_MONOTONIC_RAW, twice, remembered until the host's next boot, and compared with the guest's
 * own clocks once it runs.
 */
#ifndef KELPIE_VMM_QEMU_TSC_H
#define KELPIE_VMM_QEMU_TSC_H

#include "core/error.h"
#include "core/loop.h"
#include "os/os.h"
#include "vmm/vmm.h"

/* `khz` is 0 when the host has no usable counter: the guest must calibrate. Errors: KELPIE_E_BOOT.
 */
typedef void (*kelpie_tsc_callback)(void *context, int status, uint64_t khz,
                                    const struct kelpie_error *error);

struct kelpie_tsc_reading {
    uint64_t cycles;
    int64_t raw_ns;
};

struct kelpie_tsc {
    struct kelpie_os *os;        /* borrowed: until the callback or cancel */
    struct kelpie_loop *loop;    /* same */
    const char *cache_directory; /* same */
    struct kelpie_timer timer;
    struct kelpie_tsc_reading readings[3];
    uint32_t reading_count;
    uint32_t round_count;
    kelpie_tsc_callback callback;
    void *context;
};

/* True, and the frequency, when it was measured since the host's boot. */
bool kelpie__tsc_recall(struct kelpie_os *os, const char *cache_directory, uint64_t *out_khz);

/* Measures over 40 ms without blocking and remembers. The callback comes once, from the loop. */
void kelpie__tsc_measure(struct kelpie_tsc *tsc, struct kelpie_os *os, struct kelpie_loop *loop,
                         const char *cache_directory, kelpie_tsc_callback callback, void *context);

void kelpie__tsc_cancel(struct kelpie_tsc *tsc); /* no callback comes any more */

/* KELPIE_E_BOOT, naming both frequencies, when the guest's clock is off by more than 1,000 ppm. */
KELPIE_MUST_CHECK int kelpie__tsc_compare(uint64_t host_khz,
                                          const struct kelpie_vmm_guest_clock *clock,
                                          struct kelpie_error *error);

#endif
