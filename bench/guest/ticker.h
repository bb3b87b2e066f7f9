/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The page that ticker.c writes and ticks.c finds.
 */
#ifndef KELPIE_BENCH_TICKER_H
#define KELPIE_BENCH_TICKER_H

#include <stdint.h>

#define BENCH_TICKER_MARKS 8u

struct bench_ticker {
    uint64_t marks[BENCH_TICKER_MARKS];
    uint64_t tsc;
};

static inline uint64_t kelpie__bench_ticker_mark(uint32_t index) {
    return (index + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ UINT64_C(0x6b656c7069652121);
}

#endif
