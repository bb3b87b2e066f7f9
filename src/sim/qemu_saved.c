/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See qemu_saved.h.
 */
#include "sim/qemu_saved.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "sim/disk.h"
#include "sim/qemu.h"
#include "store/snapshot.h"

struct saved {
    struct sim_disk *disk;
    const char *directory;
    uint8_t image[SIM_GUEST_IMAGE_BYTES];
    uint8_t wanted[SIM_QEMU_STATE_BYTES_MAX];
    uint8_t found[SIM_QEMU_STATE_BYTES_MAX + 1];
};

static int64_t saved_peek(const struct saved *saved, const char *name, uint64_t offset, void *out,
                          size_t count) {
    char path[SIM_PATH_BYTES_MAX];
    bool fits = kelpie__text_join(path, sizeof(path), saved->directory, name);
    KELPIE_ASSERT(fits);
    return kelpie__sim_disk_peek_at(saved->disk, path, offset, out, count);
}

/* Over a base, the map says which pages are the snapshot's own. What a file has not is zeros. */
static void saved_page(struct saved *saved, uint32_t part) {
    uint8_t byte = 0;
    uint64_t lineage = part == 0 ? 0 : kelpie__sim_guest_image_lineage(saved->image);
    uint32_t page = kelpie__sim_qemu_memory_page(lineage, part);
    uint8_t *out = saved->image + (size_t)part * SIM_QEMU_PAGE_BYTES;
    int64_t got = saved_peek(saved, KELPIE_SNAPSHOT_MAP_FILE, page / 8, &byte, 1);
    bool is_own = got < 0 || (byte >> page % 8 & 1) != 0;
    int64_t there =
        saved_peek(saved, is_own ? KELPIE_SNAPSHOT_MEMORY_FILE : KELPIE_SNAPSHOT_BASE_FILE,
                   (uint64_t)page * SIM_QEMU_PAGE_BYTES, out, SIM_QEMU_PAGE_BYTES);
    size_t count = there > 0 ? (size_t)there : 0;
    memset(out + count, 0, SIM_QEMU_PAGE_BYTES - count);
}

static uint64_t saved_memory_mib(const struct saved *saved) {
    char path[SIM_PATH_BYTES_MAX];
    bool fits =
        kelpie__text_join(path, sizeof(path), saved->directory, KELPIE_SNAPSHOT_MEMORY_FILE);
    KELPIE_ASSERT(fits);
    int64_t size = kelpie__sim_disk_peek(saved->disk, false, path, NULL, 0);
    return size > 0 ? (uint64_t)size >> 20 : 0;
}

/* It has as many bytes as some machine's has, and they are the ones that fit this memory. */
static bool saved_has_state(struct saved *saved) {
    int64_t got =
        saved_peek(saved, KELPIE_SNAPSHOT_DEVICE_FILE, 0, saved->found, sizeof(saved->found));
    size_t size = got > 0 ? (size_t)got : 0;
    uint32_t disk_count =
        size < SIM_QEMU_STATE_BYTES
            ? 0
            : (uint32_t)((size - SIM_QEMU_STATE_BYTES) / SIM_QEMU_STATE_DISK_BYTES);
    if (disk_count > SIM_QEMU_DISKS_MAX ||
        size != SIM_QEMU_STATE_BYTES + (size_t)disk_count * SIM_QEMU_STATE_DISK_BYTES) {
        return false;
    }
    kelpie__sim_qemu_state_make(saved_memory_mib(saved), disk_count, saved->image, saved->wanted);
    return memcmp(saved->found, saved->wanted, size) == 0;
}

bool kelpie__sim_qemu_saved(struct sim_disk *disk, const char *directory,
                            struct sim_guest_truth *out) {
    struct saved *saved = malloc(sizeof(*saved)); /* the stack may be a small one */
    KELPIE_ASSERT(directory[0] == '/');
    if (saved == NULL) {
        return false;
    }
    saved->disk = disk;
    saved->directory = directory;
    for (uint32_t i = 0; i < SIM_QEMU_IMAGE_PAGES; i += 1) {
        saved_page(saved, i);
    }
    bool is_whole = kelpie__sim_guest_image_truth(saved->image, sizeof(saved->image), out) &&
                    saved_has_state(saved);
    free(saved);
    return is_whole;
}
