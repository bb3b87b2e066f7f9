/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ticks.h.
 */
#include "ticks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <x86intrin.h>

#include "guest/ticker.h"
#include "host.h"

#define TICKS_PAGE_BYTES 4096u
#define TICKS_MAP_ENTRIES 4096u
#define TICKS_MAPPINGS_MAX 4096u
#define TICKS_TRIES 300u /* 100 ms apart */
#define TICKS_LOOKS 200u /* 50 us apart */
#define TICKS_CALIBRATION_MS 50.0

static bool ticks_look(pid_t vmm, uint64_t address, struct bench_ticker *out) {
    struct iovec here = {.iov_base = out, .iov_len = sizeof(*out)};
    union { /* an address of the other process */
        uint64_t number;
        void *pointer;
    } there = {.number = address};
    struct iovec from = {.iov_base = there.pointer, .iov_len = sizeof(*out)};
    return process_vm_readv(vmm, &here, 1, &from, 1, 0) == (ssize_t)sizeof(*out);
}

static bool ticks_is_page(pid_t vmm, uint64_t address) {
    struct bench_ticker page;
    bool is_it = ticks_look(vmm, address, &page) && page.tsc != 0;
    for (uint32_t i = 0; i < BENCH_TICKER_MARKS && is_it; i += 1) {
        is_it = page.marks[i] == kelpie__bench_ticker_mark(i);
    }
    return is_it;
}

/* Only pages that are there: looking at another would make it so, and it would be saved. */
static uint64_t ticks_search(pid_t vmm, int map, uint64_t begin, uint64_t bytes) {
    uint64_t entries[TICKS_MAP_ENTRIES];
    for (uint64_t at = begin; at < begin + bytes; at += sizeof(entries) / 8 * TICKS_PAGE_BYTES) {
        off_t place = (off_t)(at / TICKS_PAGE_BYTES * sizeof(entries[0]));
        ssize_t got = pread(map, entries, sizeof(entries), place);
        for (uint32_t i = 0; got > 0 && i < (size_t)got / sizeof(entries[0]); i += 1) {
            uint64_t address = at + (uint64_t)i * TICKS_PAGE_BYTES;
            bool is_private = (entries[i] >> 62) != 0 && (entries[i] >> 61 & 1) == 0;
            if (is_private && address < begin + bytes && ticks_is_page(vmm, address)) {
                return address;
            }
        }
    }
    return 0;
}

/* The guest's memory is one mapping of exactly its size. */
static uint64_t ticks_find_once(pid_t vmm, uint64_t memory_bytes) {
    char name[64];
    char line[512];
    uint64_t found = 0;
    snprintf(name, sizeof(name), "/proc/%d/maps", vmm);
    FILE *maps = fopen(name, "re");
    snprintf(name, sizeof(name), "/proc/%d/pagemap", vmm);
    int map = open(name, O_RDONLY | O_CLOEXEC);
    if (maps == NULL || map < 0) {
        kelpie__bench_die("open \"%s\": %s", name, strerror(errno));
    }
    for (uint32_t i = 0; i < TICKS_MAPPINGS_MAX && found == 0; i += 1) {
        char *rest = NULL;
        if (fgets(line, sizeof(line), maps) == NULL) {
            break;
        }
        uint64_t begin = strtoull(line, &rest, 16);
        uint64_t end = *rest == '-' ? strtoull(rest + 1, NULL, 16) : begin;
        if (end - begin == memory_bytes) {
            found = ticks_search(vmm, map, begin, memory_bytes);
        }
    }
    fclose(maps);
    close(map);
    return found;
}

void kelpie__bench_ticks_find(struct bench_ticks *ticks, pid_t vmm, uint64_t memory_bytes) {
    *ticks = (struct bench_ticks){.vmm = vmm};
    for (uint32_t i = 0; i < TICKS_TRIES && ticks->address == 0; i += 1) {
        usleep(100000); /* it fills its memory before */
        ticks->address = ticks_find_once(vmm, memory_bytes);
    }
    if (ticks->address == 0) {
        kelpie__bench_die("the guest's tick counter is not found in its memory");
    }
    double begun_ms = kelpie__bench_now_ms();
    uint64_t begun = __rdtsc();
    usleep((useconds_t)(TICKS_CALIBRATION_MS * 1e3));
    ticks->tsc_khz = (double)(__rdtsc() - begun) / (kelpie__bench_now_ms() - begun_ms);
}

/* The best of many looks: the one at which the ticker had just written. */
double kelpie__bench_ticks_behind(const struct bench_ticks *ticks) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < TICKS_LOOKS; i += 1) {
        struct bench_ticker page;
        if (!ticks_look(ticks->vmm, ticks->address, &page)) {
            kelpie__bench_die("the guest with the tick counter is gone");
        }
        uint64_t behind = __rdtsc() - page.tsc;
        least = behind < least ? behind : least;
        usleep(50);
    }
    return (double)least / ticks->tsc_khz;
}
