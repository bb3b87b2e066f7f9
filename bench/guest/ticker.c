/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A tick counter in the guest, to be looked at from outside: writes the time-stamp counter, which
 * stands still with the guest, into a page that the host finds by its first words, as fast as it
 * can. `ticker MIB` uses so much memory besides, none of it zeros.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "ticker.h"

#define TICKER_PAGE_BYTES 4096u

int main(int argc, char **argv) {
    size_t bytes = (size_t)(argc > 1 ? strtoul(argv[1], NULL, 10) : 0) << 20;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *memory = bytes > 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) : NULL;
    struct bench_ticker *ticker =
        mmap(NULL, TICKER_PAGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED || ticker == MAP_FAILED) {
        return 1;
    }
    for (size_t i = 0; i < bytes; i += 64) {
        memory[i] = (uint8_t)(i >> 6 | 1);
    }
    /* Not a constant of this program: its file in the guest's memory would be found, too. */
    for (uint32_t i = 0; i < BENCH_TICKER_MARKS; i += 1) {
        ticker->marks[i] = kelpie__bench_ticker_mark(i);
    }
    while (ticker->marks[0] != 0) { /* bound: the VM's life */
        __atomic_store_n(&ticker->tsc, __rdtsc(), __ATOMIC_RELAXED);
    }
    return 0;
}
