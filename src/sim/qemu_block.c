/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * New layers for disks in the simulated QEMU: see qemu.h. The files are opened and looked at; which
 * node is on top of which is kept, as the real one does, and the guest is told which file its disk
 * lies in now (guest_disk.c writes it).
 */
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

/* The node's texts, kept as those of argv are. NULL: no room. */
static const char *block_keep(struct sim_qemu *qemu, const char *text) {
    struct sim_qemu_options *options = &qemu->options;
    size_t count = strlen(text) + 1;
    if (count > sizeof(options->text) - options->text_bytes) {
        return NULL;
    }
    char *place = options->text + options->text_bytes;
    memcpy(place, text, count);
    options->text_bytes += count;
    KELPIE_ASSERT(options->text_bytes <= sizeof(options->text));
    return place;
}

static struct sim_qemu_block *block_find(struct sim_qemu *qemu, const char *node) {
    for (uint32_t i = 0; i < qemu->options.block_count; i += 1) {
        if (strcmp(qemu->options.blocks[i].node, node) == 0) {
            return &qemu->options.blocks[i];
        }
    }
    return NULL;
}

static void block_refuse_unknown(struct sim_qemu *qemu, const char *node) {
    kelpie__sim_qemu_refuse(qemu, "GenericError", "Cannot find device='%s' nor node-name='%s'",
                            node, node);
}

/* False: it is refused. */
static bool block_check_image(struct sim_qemu *qemu, const char *path, bool is_qcow2) {
    static const char magic[4] = {'Q', 'F', 'I', '\xfb'};
    char head[sizeof(magic)] = "";
    int file =
        kelpie__os_open(qemu->os, KELPIE_OS_CWD, path,
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                "Could not open '%s': No such file or directory", path);
        return false;
    }
    int64_t count = kelpie__os_pread(qemu->os, file, head, sizeof(head), 0);
    kelpie__ignore(kelpie__os_close(qemu->os, file));
    bool is_good =
        !is_qcow2 || (count == (int64_t)sizeof(head) && memcmp(head, magic, sizeof(magic)) == 0);
    if (!is_good) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Image is not in qcow2 format");
    }
    return is_good;
}

void kelpie__sim_qemu_blockdev_add(struct sim_qemu *qemu) {
    char driver[32];
    char node[64];
    char path[SIM_QEMU_COMMAND_BYTES];
    struct kelpie_json_value file;
    const char *text = qemu->qmp.arguments;
    if (!kelpie__sim_qemu_argument(qemu, "driver", driver, sizeof(driver)) ||
        !kelpie__sim_qemu_argument(qemu, "node-name", node, sizeof(node))) {
        return;
    }
    if (kelpie__json_find(text, strlen(text), "file", &file) < 0 ||
        kelpie__json_find_string(file.text, file.length, "filename", path, sizeof(path)) < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter 'file' is missing");
        return;
    }
    if (block_find(qemu, node) != NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Duplicate nodes with node-name='%s'", node);
        return;
    }
    if (!block_check_image(qemu, path, strcmp(driver, "qcow2") == 0)) {
        return;
    }
    const char *kept = block_keep(qemu, node);
    const char *kept_path = kept == NULL ? NULL : block_keep(qemu, path);
    if (kept_path == NULL || qemu->options.block_count == SIM_QEMU_BLOCKS_MAX) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "too many block devices");
        return;
    }
    qemu->options.blocks[qemu->options.block_count] =
        (struct sim_qemu_block){.argument = "", .driver = "qcow2", .node = kept, .path = kept_path};
    qemu->options.block_count += 1;
    kelpie__sim_qemu_return(qemu, "{}");
}

void kelpie__sim_qemu_blockdev_del(struct sim_qemu *qemu) {
    char node[64];
    if (!kelpie__sim_qemu_argument(qemu, "node-name", node, sizeof(node))) {
        return;
    }
    struct sim_qemu_block *block = block_find(qemu, node);
    if (block == NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Failed to find node with node-name='%s'",
                                node);
        return;
    }
    qemu->options.block_count -= 1;
    *block = qemu->options.blocks[qemu->options.block_count];
    kelpie__sim_qemu_return(qemu, "{}");
}

/* This node is the one of that name, or lies over it. */
static bool block_is_over(struct sim_qemu *qemu, const char *name, const char *node) {
    for (uint32_t i = 0; i < SIM_QEMU_BLOCKS_MAX && node != NULL; i += 1) {
        const struct sim_qemu_block *block = block_find(qemu, node);
        if (strcmp(node, name) == 0) {
            return true;
        }
        node = block == NULL ? NULL : block->file;
    }
    return false;
}

void kelpie__sim_qemu_blockdev_snapshot(struct sim_qemu *qemu) {
    char under[64];
    char over[64];
    if (!kelpie__sim_qemu_argument(qemu, "node", under, sizeof(under)) ||
        !kelpie__sim_qemu_argument(qemu, "overlay", over, sizeof(over))) {
        return;
    }
    struct sim_qemu_block *overlay = block_find(qemu, over);
    if (block_find(qemu, under) == NULL || overlay == NULL) {
        block_refuse_unknown(qemu, overlay == NULL ? over : under);
        return;
    }
    if (overlay->file != NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "The overlay already has a backing image");
        return;
    }
    overlay->file = block_find(qemu, under)->node;
    KELPIE_ASSERT(overlay->file != NULL);
    for (uint32_t i = 0; i < qemu->options.disk_count && qemu->guest != NULL; i += 1) {
        struct sim_qemu_disk *disk = &qemu->options.disks[i];
        if (block_is_over(qemu, disk->drive, under)) {
            kelpie__sim_guest_move_disk(qemu->guest, disk->serial, overlay->path);
        }
    }
    kelpie__sim_qemu_return(qemu, "{}");
}
