/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest's memory in the simulated QEMU, as another process sees it through its page map: see
 * qemu.h. The functions of the table run on the stack of the process that asks. While the guest
 * runs, its pages can be read, and hold something else each millisecond: whoever keeps what he read
 * then has saved a damaged guest.
 */
#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

#define MEMORY_ADDRESS UINT64_C(0x7f24efe00000)
#define MEMORY_LOW_BYTES (UINT64_C(3) << 30) /* the rest is seen by the guest from 4 GiB on */
#define MEMORY_HIGH_ADDRESS (UINT64_C(4) << 30)
#define MEMORY_PATTERN_FIRST 206u /* pages that hold a pattern, */
#define MEMORY_PATTERN_BOOTED 3u  /* in two bytes of the page map */
#define MEMORY_PATTERN_RESTORED 1u
#define MEMORY_ZERO_FIRST 300u /* and that were touched and hold nothing */
#define MEMORY_ZERO_COUNT 2u
#define MEMORY_LAYOUTS 3u
#define MEMORY_IMAGE_END (UINT64_C(8193) * SIM_QEMU_PAGE_BYTES) /* of all layouts */

/* On both sides of the borders at which the driver cuts memory. Not in every guest on all of them:
 * whatever is a page more is read, copied and hashed many times in each life. */
static const uint32_t memory_layouts[MEMORY_LAYOUTS][SIM_QEMU_IMAGE_PAGES] = {
    {0, 1, 8191, 8192}, {0, 7, 64, 4096}, {0, 63, 100, 8192}};

uint32_t kelpie__sim_qemu_memory_page(uint64_t lineage, uint32_t part) {
    KELPIE_ASSERT(part < SIM_QEMU_IMAGE_PAGES);
    KELPIE_ASSERT(memory_layouts[lineage % MEMORY_LAYOUTS][0] == 0); /* it names the lineage */
    return memory_layouts[lineage % MEMORY_LAYOUTS][part];
}

/* The part of the image that lies in a page; -1: none. */
static int memory_image_part(const struct sim_qemu_memory *memory, uint64_t page) {
    for (uint32_t i = 0; i < SIM_QEMU_IMAGE_PAGES; i += 1) {
        if (kelpie__sim_qemu_memory_page(memory->lineage, i) == page) {
            return (int)i;
        }
    }
    return -1;
}

static const uint8_t *memory_find_written(const struct sim_qemu_memory *memory, uint64_t page) {
    for (uint32_t i = 0; i < memory->written_count; i += 1) {
        if (memory->written->pages[i] == page) {
            return memory->written->bytes[i];
        }
    }
    return NULL;
}

static uint32_t memory_pattern_count(const struct sim_qemu_memory *memory) {
    return memory->is_restored ? MEMORY_PATTERN_RESTORED : MEMORY_PATTERN_BOOTED;
}

static bool memory_has_pattern(const struct sim_qemu_memory *memory, uint64_t page) {
    return page >= MEMORY_PATTERN_FIRST &&
           page < MEMORY_PATTERN_FIRST + memory_pattern_count(memory);
}

static void memory_fill(uint8_t out[SIM_QEMU_PAGE_BYTES], uint64_t seed, uint64_t page) {
    const uint64_t word = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + page;
    for (uint32_t i = 0; i < SIM_QEMU_PAGE_BYTES; i += sizeof(word)) {
        memcpy(out + i, &word, sizeof(word));
    }
}

/* `moment`: of a guest that runs. */
static void memory_read_page(const struct sim_qemu_memory *memory, uint64_t page, uint64_t moment,
                             uint8_t out[SIM_QEMU_PAGE_BYTES]) {
    int part = memory_image_part(memory, page);
    const uint8_t *written = memory_find_written(memory, page);
    KELPIE_ASSERT(page < memory->bytes / SIM_QEMU_PAGE_BYTES);
    if (memory->has_image && part >= 0) {
        memcpy(out, memory->image + (size_t)part * SIM_QEMU_PAGE_BYTES, SIM_QEMU_PAGE_BYTES);
    } else if (memory->is_running && part >= 0) {
        memory_fill(out, moment, page);
    } else if (written != NULL) {
        memcpy(out, written, SIM_QEMU_PAGE_BYTES);
    } else if (memory_has_pattern(memory, page)) {
        memory_fill(out, memory->lineage, page);
    } else {
        memset(out, 0, SIM_QEMU_PAGE_BYTES);
    }
}

/* ---- as others see it ------------------------------------------------------------------------ */

static struct sim_qemu_memory *memory_of(struct sim_process *owner) {
    struct sim_qemu *qemu = owner->extra;
    KELPIE_ASSERT(qemu != NULL && qemu->process == owner);
    qemu->memory.is_running = qemu->state == SIM_QEMU_RUNNING;
    KELPIE_ASSERT(!qemu->memory.is_running || !qemu->memory.has_image);
    return &qemu->memory;
}

static uint64_t memory_moment(const struct sim_process *owner) {
    return (uint64_t)(kelpie__sim_now(owner->machine->world) / KELPIE_NS_PER_MS);
}

/* How much of a range is memory of the guest; 0: nothing. */
static uint64_t memory_within(const struct sim_qemu_memory *memory, uint64_t address,
                              uint64_t count) {
    if (address < MEMORY_ADDRESS || address - MEMORY_ADDRESS >= memory->bytes) {
        return 0;
    }
    uint64_t room = memory->bytes - (address - MEMORY_ADDRESS);
    return count < room ? count : room;
}

struct page_map {
    uint64_t address;
    uint8_t *bits;
    size_t count;
};

static void map_mark(const struct page_map *map, const struct sim_qemu_memory *memory,
                     uint64_t page) {
    uint64_t at = MEMORY_ADDRESS + page * SIM_QEMU_PAGE_BYTES;
    bool is_there = page < memory->bytes / SIM_QEMU_PAGE_BYTES;
    uint64_t index = (at - map->address) / SIM_QEMU_PAGE_BYTES;
    if (is_there && at >= map->address && index < map->count) {
        map->bits[index / 8] = (uint8_t)(map->bits[index / 8] | 1u << index % 8);
    }
}

/* Few of the many pages are there: each is marked, instead of every page being asked for. */
static int memory_page_map(struct sim_process *owner, uint64_t address, uint8_t *inout_bits,
                           size_t page_count) {
    const struct sim_qemu_memory *memory = memory_of(owner);
    const struct page_map map = {address, inout_bits, page_count};
    KELPIE_ASSERT(address % SIM_QEMU_PAGE_BYTES == 0);
    bool has_guest = memory->has_image || memory->is_running;
    for (uint32_t i = 0; has_guest && i < SIM_QEMU_IMAGE_PAGES; i += 1) {
        map_mark(&map, memory, kelpie__sim_qemu_memory_page(memory->lineage, i));
    }
    for (uint32_t i = 0; i < memory_pattern_count(memory); i += 1) {
        map_mark(&map, memory, MEMORY_PATTERN_FIRST + i);
    }
    for (uint32_t i = 0; !memory->is_restored && i < MEMORY_ZERO_COUNT; i += 1) {
        map_mark(&map, memory, MEMORY_ZERO_FIRST + i);
    }
    for (uint32_t i = 0; i < memory->written_count; i += 1) {
        map_mark(&map, memory, memory->written->pages[i]);
    }
    return 0;
}

static int64_t memory_read(struct sim_process *owner, uint64_t address, void *out, size_t count) {
    const struct sim_qemu_memory *memory = memory_of(owner);
    uint8_t page[SIM_QEMU_PAGE_BYTES];
    uint8_t *place = out;
    uint64_t left = memory_within(memory, address, count);
    uint64_t at = address - MEMORY_ADDRESS;
    if (left == 0) {
        return -EFAULT;
    }
    int64_t total = (int64_t)left;
    while (left > 0) { /* bound: the count */
        uint64_t skipped = at % SIM_QEMU_PAGE_BYTES;
        uint64_t piece = SIM_QEMU_PAGE_BYTES - skipped;
        piece = left < piece ? left : piece;
        memory_read_page(memory, at / SIM_QEMU_PAGE_BYTES, memory_moment(owner), page);
        memcpy(place, page + skipped, (size_t)piece);
        place += piece;
        at += piece;
        left -= piece;
    }
    return total;
}

/* A page that is written for the first time becomes private: a copy of what was there. */
static uint8_t *memory_write_page(struct sim_qemu_memory *memory, uint64_t page, uint64_t moment) {
    for (uint32_t i = 0; i < memory->written_count; i += 1) {
        if (memory->written->pages[i] == page) {
            return memory->written->bytes[i];
        }
    }
    if (memory->written == NULL || memory->written_count == SIM_QEMU_WRITTEN_MAX) {
        return NULL;
    }
    uint32_t index = memory->written_count;
    memory_read_page(memory, page, moment, memory->written->bytes[index]);
    memory->written->pages[index] = kelpie__to_u32(page);
    memory->written_count += 1;
    return memory->written->bytes[index];
}

static int64_t memory_write(struct sim_process *owner, uint64_t address, const void *bytes,
                            size_t count) {
    struct sim_qemu_memory *memory = memory_of(owner);
    const uint8_t *place = bytes;
    uint64_t left = memory_within(memory, address, count);
    uint64_t at = address - MEMORY_ADDRESS;
    int64_t total = 0;
    while (left > 0) { /* bound: the count */
        uint64_t skipped = at % SIM_QEMU_PAGE_BYTES;
        uint64_t piece = SIM_QEMU_PAGE_BYTES - skipped;
        piece = left < piece ? left : piece;
        uint8_t *page = memory_write_page(memory, at / SIM_QEMU_PAGE_BYTES, memory_moment(owner));
        if (page == NULL) {
            return total > 0 ? total : -ENOMEM;
        }
        memcpy(page + skipped, place, (size_t)piece);
        place += piece;
        at += piece;
        left -= piece;
        total += (int64_t)piece;
    }
    return total > 0 ? total : -EFAULT;
}

/* ---- as QEMU sees it ------------------------------------------------------------------------- */

bool kelpie__sim_qemu_memory_open(struct sim_qemu *qemu) {
    static const struct sim_memory_operations operations = {
        .page_map = memory_page_map, .read = memory_read, .write = memory_write};
    struct sim_qemu_memory *memory = &qemu->memory;
    KELPIE_ASSERT(memory->written == NULL);
    memory->bytes = qemu->options.memory_mib << 20;
    memory->is_restored = qemu->options.is_incoming;
    if (qemu->options.is_incoming) {
        memory->written = kelpie__alloc_raw(qemu->os, sizeof(*memory->written));
        if (memory->written == NULL) {
            return false;
        }
    }
    qemu->process->extra = qemu;
    qemu->process->memory_operations = &operations;
    return memory->bytes >= MEMORY_IMAGE_END;
}

bool kelpie__sim_qemu_memory_freeze(struct sim_qemu *qemu) {
    struct sim_qemu_memory *memory = &qemu->memory;
    KELPIE_ASSERT(qemu->state != SIM_QEMU_RUNNING);
    if (memory->has_image) {
        return true;
    }
    if (qemu->guest == NULL ||
        kelpie__sim_guest_save(qemu->guest, memory->image) != SIM_GUEST_IMAGE_BYTES) {
        return false;
    }
    memory->has_image = true;
    return true;
}

void kelpie__sim_qemu_memory_thaw(struct sim_qemu *qemu) {
    KELPIE_ASSERT(qemu->state != SIM_QEMU_RUNNING);
    qemu->memory.has_image = false;
}

bool kelpie__sim_qemu_memory_image(struct sim_qemu *qemu, uint8_t out[SIM_GUEST_IMAGE_BYTES]) {
    struct sim_qemu_memory *memory = &qemu->memory;
    KELPIE_ASSERT(!memory->has_image);
    for (uint32_t i = 0; i < SIM_QEMU_IMAGE_PAGES; i += 1) {
        uint64_t lineage = i == 0 ? 0 : kelpie__sim_guest_image_lineage(out);
        uint32_t page = kelpie__sim_qemu_memory_page(lineage, i);
        uint8_t *place = out + (size_t)i * SIM_QEMU_PAGE_BYTES;
        const uint8_t *written = memory_find_written(memory, page);
        memset(place, 0, SIM_QEMU_PAGE_BYTES);
        if (written != NULL) {
            memcpy(place, written, SIM_QEMU_PAGE_BYTES);
        } else if (memory->base != KELPIE_OS_NO_HANDLE) {
            int64_t count = kelpie__os_pread(qemu->os, memory->base, place, SIM_QEMU_PAGE_BYTES,
                                             (uint64_t)page * SIM_QEMU_PAGE_BYTES);
            if (count < 0) {
                return false; /* a file that is too short has nothing there: SIGBUS in the guest */
            }
        }
    }
    return true;
}

/* "gpa2hva 0x1000" */
void kelpie__sim_qemu_memory_locate(struct sim_qemu *qemu) {
    static const char hexadecimal[] = "0123456789abcdef";
    char line[128] = "";
    char text[192];
    uint64_t address = 0;
    bool is_good = kelpie__json_find_string(qemu->qmp.arguments, strlen(qemu->qmp.arguments),
                                            "command-line", line, sizeof(line)) == 0;
    const char *digits = line + strlen("gpa2hva ");
    digits += kelpie__text_has_prefix(digits, "0x") ? 2 : 0;
    for (; is_good && *digits != '\0'; digits += 1) {
        const char *found = strchr(hexadecimal, *digits);
        is_good = found != NULL && address < UINT64_C(1) << 56;
        address = is_good ? address << 4 | (uint64_t)(found - hexadecimal) : address;
    }
    uint64_t offset = address < MEMORY_LOW_BYTES ? address
                      : address >= MEMORY_HIGH_ADDRESS
                          ? address - MEMORY_HIGH_ADDRESS + MEMORY_LOW_BYTES
                          : UINT64_MAX;
    const char *name = qemu->options.memory_id == NULL ? "microvm.ram" : qemu->options.memory_id;
    bool is_mapped = is_good && offset < qemu->memory.bytes;
    bool is_whole =
        is_mapped ? kelpie__text_format(text, sizeof(text),
                                        "\"Host virtual address for 0x%llx (%s) is 0x%llx\\r\\n\"",
                                        (unsigned long long)address, name,
                                        (unsigned long long)(MEMORY_ADDRESS + offset))
                  : kelpie__text_format(text, sizeof(text),
                                        "\"No memory is mapped at address 0x%llx\\r\\n\"",
                                        (unsigned long long)address);
    KELPIE_ASSERT(is_whole);
    kelpie__sim_qemu_return(qemu, text);
}
