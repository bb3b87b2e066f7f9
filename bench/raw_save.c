/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See raw.h: saving, as findings say it works, without slices, checks or checksums.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "raw.h"

#define SAVE_PAGE_BYTES 4096u
#define SAVE_RUN_PAGES 64u
#define SAVE_MAP_ENTRIES 4096u

static uint64_t raw_address(struct bench_raw *raw) {
    char answer[512];
    kelpie__bench_raw_qmp(raw,
                          "{\"execute\":\"human-monitor-command\",\"arguments\":{"
                          "\"command-line\":\"gpa2hva 0\"}}",
                          -1, answer, sizeof(answer));
    const char *place = strstr(answer, " is 0x");
    if (place == NULL) {
        kelpie__bench_die("gpa2hva: %s", answer);
    }
    return strtoull(place + strlen(" is "), NULL, 16);
}

/* Writes those of a run that are not all zeros; the others are holes, as in Kelpie's files. */
static uint64_t write_pages(int file, const uint8_t *bytes, uint64_t count, off_t offset) {
    uint64_t written = 0;
    uint64_t first = 0;
    for (uint64_t i = 0; i <= count; i += 1) {
        const uint8_t *page = bytes + i * SAVE_PAGE_BYTES;
        if (i < count && (page[0] != 0 || memcmp(page, page + 1, SAVE_PAGE_BYTES - 1) != 0)) {
            continue;
        }
        size_t length = (i - first) * SAVE_PAGE_BYTES;
        off_t place = offset + (off_t)(first * SAVE_PAGE_BYTES);
        if (length > 0 &&
            pwrite(file, bytes + first * SAVE_PAGE_BYTES, length, place) != (ssize_t)length) {
            kelpie__bench_die("write the raw guest's memory: %s", strerror(errno));
        }
        written += length;
        first = i + 1;
    }
    return written;
}

/* A run of pages from the guest into the file, or from the file into the guest. */
static uint64_t copy_run(const struct bench_raw *raw, int file, uint64_t page, uint64_t count,
                         bool is_load) {
    uint8_t bytes[SAVE_RUN_PAGES * SAVE_PAGE_BYTES];
    struct iovec here = {.iov_base = bytes, .iov_len = count * SAVE_PAGE_BYTES};
    ssize_t wanted = (ssize_t)here.iov_len;
    off_t offset = (off_t)(page * SAVE_PAGE_BYTES);
    union { /* an address of the other process */
        uint64_t number;
        void *pointer;
    } place = {.number = raw->address + (uint64_t)offset};
    struct iovec there = {.iov_base = place.pointer, .iov_len = here.iov_len};
    bool is_done = is_load ? pread(file, bytes, here.iov_len, offset) == wanted &&
                                 process_vm_writev(raw->pid, &here, 1, &there, 1, 0) == wanted
                           : process_vm_readv(raw->pid, &here, 1, &there, 1, 0) == wanted;
    if (!is_done) {
        kelpie__bench_die("copy the raw guest's memory: %s", strerror(errno));
    }
    return is_load ? here.iov_len : write_pages(file, bytes, count, offset);
}

/* All pages of the map, in runs; gives their bytes. */
static uint64_t copy_pages(const struct bench_raw *raw, int file, const uint8_t *map,
                           bool is_load) {
    uint64_t page_count = raw->memory_bytes / SAVE_PAGE_BYTES;
    uint64_t copied = 0;
    uint64_t run = 0;
    for (uint64_t i = 0; i <= page_count; i += 1) {
        bool is_set = i < page_count && (map[i / 8] >> (i % 8) & 1) != 0;
        if (run > 0 && (!is_set || run == SAVE_RUN_PAGES)) {
            copied += copy_run(raw, file, i - run, run, is_load);
            run = 0;
        }
        run += is_set ? 1 : 0;
    }
    return copied;
}

/* Present or swapped, and no page of a file. */
static bool save_is_private(uint64_t entry) {
    return (entry >> 62) != 0 && (entry >> 61 & 1) == 0;
}

/* Which pages are there: from QEMU's page map. */
static void save_look(const struct bench_raw *raw, uint8_t *map) {
    uint64_t entries[SAVE_MAP_ENTRIES];
    char name[64];
    uint64_t page_count = raw->memory_bytes / SAVE_PAGE_BYTES;
    snprintf(name, sizeof(name), "/proc/%d/pagemap", raw->pid);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || page_count > (uint64_t)BENCH_RAW_MAP_BYTES * 8) {
        kelpie__bench_die("open \"%s\": %s", name, strerror(errno));
    }
    memset(map, 0, BENCH_RAW_MAP_BYTES);
    for (uint64_t first = 0; first < page_count; first += SAVE_MAP_ENTRIES) {
        off_t place = (off_t)((raw->address / SAVE_PAGE_BYTES + first) * sizeof(entries[0]));
        if (pread(file, entries, sizeof(entries), place) != (ssize_t)sizeof(entries)) {
            kelpie__bench_die("read \"%s\": %s", name, strerror(errno));
        }
        for (uint64_t i = 0; i < SAVE_MAP_ENTRIES; i += 1) {
            uint64_t page = first + i;
            unsigned bit = save_is_private(entries[i]) ? 1u << page % 8 : 0;
            map[page / 8] = (uint8_t)(map[page / 8] | bit);
        }
    }
    close(file);
}

void kelpie__bench_raw_save(struct bench_raw *raw, struct bench_raw_state *out) {
    char command[BENCH_TEXT_BYTES_MAX];
    if (raw->address == 0) {
        raw->address = raw_address(raw);
    }
    int file = open(out->memory, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, (off_t)raw->memory_bytes) < 0) {
        kelpie__bench_die("open \"%s\": %s", out->memory, strerror(errno));
    }
    snprintf(command, sizeof(command),
             "{\"execute\":\"xen-save-devices-state\",\"arguments\":{\"filename\":\"%s\","
             "\"live\":false}}",
             out->device);
    unlink(out->device);
    kelpie__bench_raw_qmp(raw, "{\"execute\":\"stop\"}", -1, NULL, 0);
    kelpie__bench_raw_qmp(raw, command, -1, NULL, 0);
    save_look(raw, out->map);
    out->copied_bytes = copy_pages(raw, file, out->map, false);
    kelpie__bench_raw_qmp(raw, "{\"execute\":\"cont\"}", -1, NULL, 0);
    close(file);
}

void kelpie__bench_raw_lay(struct bench_raw *raw, const struct bench_raw_state *state) {
    int file = open(state->memory, O_RDONLY | O_CLOEXEC);
    raw->address = raw_address(raw);
    copy_pages(raw, file, state->map, true);
    close(file);
}
