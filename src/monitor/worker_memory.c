/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A delta laid over its base, into a file of its own: see worker.h.
 */
#include <errno.h>
#include <string.h>

#include "monitor/worker.h"
#include "os/os_call.h"
#include "store/copy.h"

#define FLATTEN_PAGE_BYTES 4096u
#define FLATTEN_MAP_BYTES 4096u /* of the map at once: 128 MiB of memory */
#define FLATTEN_RUN_PAGES 64u
#define FLATTEN_TRIES 64u

struct flatten {
    struct kelpie_os *os;
    int memory;
    int flat;
    uint8_t *buffer; /* owned: a run of pages */
};

static int flatten_read(struct kelpie_os *os, int file, uint8_t *out, size_t count,
                        uint64_t offset) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    size_t done = 0;
    for (uint32_t i = 0; i < FLATTEN_TRIES && done < count; i += 1) {
        int64_t got = kelpie__os_pread(os, file, out + done, count - done, offset + done);
        if (got == 0 || (got < 0 && got != -EINTR)) {
            return got == 0 ? -EIO : (int)got;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return done == count ? 0 : -EIO;
}

static int flatten_write(const struct flatten *flatten, size_t count, uint64_t offset) {
    size_t done = 0;
    KELPIE_ASSERT(count <= (size_t)FLATTEN_RUN_PAGES * FLATTEN_PAGE_BYTES);
    KELPIE_ASSERT(offset % FLATTEN_PAGE_BYTES == 0);
    for (uint32_t i = 0; i < FLATTEN_TRIES && done < count; i += 1) {
        int64_t put = kelpie__os_pwrite(flatten->os, flatten->flat, flatten->buffer + done,
                                        count - done, offset + done);
        if (put < 0 && put != -EINTR) {
            return (int)put;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return done == count ? 0 : -EIO;
}

/* Zeros too: the base may have something else in their place. */
static int flatten_run(const struct flatten *flatten, uint64_t page, uint32_t count) {
    size_t bytes = (size_t)count * FLATTEN_PAGE_BYTES;
    KELPIE_ASSERT(count > 0 && count <= FLATTEN_RUN_PAGES);
    int status = flatten_read(flatten->os, flatten->memory, flatten->buffer, bytes,
                              page * FLATTEN_PAGE_BYTES);
    return status < 0 ? status : flatten_write(flatten, bytes, page * FLATTEN_PAGE_BYTES);
}

/* `page_first`: of the first bit of this part of the map. */
static int flatten_part(const struct flatten *flatten, const uint8_t *map, size_t map_bytes,
                        uint64_t page_first) {
    uint32_t run = 0;
    int status = 0;
    uint64_t bits = (uint64_t)map_bytes * 8;
    KELPIE_ASSERT(map_bytes <= FLATTEN_MAP_BYTES);
    KELPIE_ASSERT(page_first % 8 == 0);
    for (uint64_t i = 0; i <= bits && status == 0; i += 1) {
        bool is_set = i < bits && (map[i / 8] >> (i % 8) & 1) != 0;
        if (run > 0 && (!is_set || run == FLATTEN_RUN_PAGES)) {
            status = flatten_run(flatten, page_first + i - run, run);
            run = 0;
        }
        run += is_set ? 1 : 0;
        KELPIE_ASSERT(run <= FLATTEN_RUN_PAGES);
    }
    KELPIE_ASSERT(status < 0 || run == 0);
    return status;
}

static int flatten_all(const struct flatten *flatten, int map, uint64_t map_bytes) {
    uint8_t part[FLATTEN_MAP_BYTES];
    int status = 0;
    KELPIE_ASSERT(flatten->buffer != NULL);
    for (uint64_t at = 0; at < map_bytes && status == 0; at += sizeof(part)) {
        size_t count = (size_t)kelpie__min_u64(map_bytes - at, sizeof(part));
        KELPIE_ASSERT(count > 0);
        status = flatten_read(flatten->os, map, part, count, at);
        if (status == 0) {
            status = flatten_part(flatten, part, count, at * 8);
        }
    }
    return status;
}

int kelpie__worker_flatten(struct kelpie_os *os, int base, int memory, int map, int flat,
                           struct kelpie_error *error) {
    struct flatten flatten = {.os = os, .memory = memory, .flat = flat};
    struct kelpie_os_stat sizes[3];
    KELPIE_ASSERT(flat != base);
    KELPIE_ASSERT(flat != memory);
    int status = kelpie__os_stat(os, base, "", false, &sizes[0]);
    if (status == 0) {
        status = kelpie__os_stat(os, memory, "", false, &sizes[1]);
    }
    if (status == 0) {
        status = kelpie__os_stat(os, map, "", false, &sizes[2]);
    }
    if (status == 0 && (sizes[0].size_bytes != sizes[1].size_bytes ||
                        sizes[2].size_bytes * 8 * FLATTEN_PAGE_BYTES != sizes[1].size_bytes)) {
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0,
                            "a base of %llu bytes, a memory of %llu and a map of %llu do not fit",
                            (unsigned long long)sizes[0].size_bytes,
                            (unsigned long long)sizes[1].size_bytes,
                            (unsigned long long)sizes[2].size_bytes);
    }
    if (status == 0) {
        status = kelpie__copy_file(os, base, flat);
    }
    if (status == 0) {
        flatten.buffer = kelpie__alloc(os, (size_t)FLATTEN_RUN_PAGES * FLATTEN_PAGE_BYTES);
        status = flatten.buffer == NULL ? -ENOMEM : flatten_all(&flatten, map, sizes[2].size_bytes);
        kelpie__free(os, flatten.buffer, (size_t)FLATTEN_RUN_PAGES * FLATTEN_PAGE_BYTES);
    }
    return status < 0
               ? kelpie__fail(error, KELPIE_E_IO, -status, "lay the VM's memory over its base")
               : 0;
}
