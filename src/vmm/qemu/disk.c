/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A new layer for a disk of a paused QEMU: the layer becomes a node without a backing file, then it
 * is put on top of what the device has now, which QEMU flushes and only reads from then on. The
 * device keeps its name in the guest; the guest notices nothing.
 */
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/limits.h"
#include "os/os_call.h"
#include "vmm/qemu/instance.h"

#define DISK_NODE_BYTES_MAX 32u

static void disk_node(char out[DISK_NODE_BYTES_MAX], uint32_t index, uint32_t generation) {
    int length = generation == 0
                     ? snprintf(out, DISK_NODE_BYTES_MAX, "disk%u", index)
                     : snprintf(out, DISK_NODE_BYTES_MAX, "disk%u-%u", index, generation);
    KELPIE_ASSERT(length > 0 && length < (int)DISK_NODE_BYTES_MAX);
}

static void disk_ignore(void *context, int status, const struct kelpie_json_value *result,
                        const struct kelpie_error *error) {
    kelpie__ignore(context != NULL && status == 0 && result != NULL && error == NULL);
}

static void disk_switched(void *context, int status, const struct kelpie_json_value *result,
                          const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    struct kelpie_qemu_disks *disks = &qemu->disks;
    char node[DISK_NODE_BYTES_MAX];
    char arguments[64];
    KELPIE_ASSERT(status < 0 || result != NULL);
    KELPIE_ASSERT(qemu->vmm.is_changing);
    if (status == KELPIE_E_INTERNAL) { /* refused: the layer is closed again */
        disk_node(node, disks->index, disks->generation[disks->index]);
        int length = snprintf(arguments, sizeof(arguments), "{\"node-name\":\"%s\"}", node);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(arguments));
        kelpie__ignore(kelpie__qemu_execute(qemu, "blockdev-del", arguments, disk_ignore, NULL));
    }
    if (status == 0) {
        disks->top[disks->index] = disks->generation[disks->index];
    }
    kelpie__vmm_emit_done(&qemu->vmm, status, error);
}

static void disk_added(void *context, int status, const struct kelpie_json_value *result,
                       const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    struct kelpie_qemu_disks *disks = &qemu->disks;
    struct kelpie_error own = {0};
    char under[DISK_NODE_BYTES_MAX];
    char over[DISK_NODE_BYTES_MAX];
    char arguments[128];
    KELPIE_ASSERT(status < 0 || result != NULL);
    KELPIE_ASSERT(disks->index < disks->count);
    if (status == 0) {
        /* Named anew whatever comes of it: a name is used once. */
        uint32_t generation = disks->generation[disks->index];
        disks->generation[disks->index] = generation + 1;
        disk_node(under, disks->index, disks->top[disks->index]);
        disk_node(over, disks->index, generation + 1);
        int length = snprintf(arguments, sizeof(arguments), "{\"node\":\"%s\",\"overlay\":\"%s\"}",
                              under, over);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(arguments));
        error = &own;
        status = kelpie__qemu_execute(qemu, "blockdev-snapshot", arguments, disk_switched, &own);
    }
    if (status < 0) {
        kelpie__vmm_emit_done(&qemu->vmm, status, error);
    }
}

/* The same options as the disk had at the start (arguments.c). */
static int disk_write_arguments(char *out, size_t capacity, const char *node, const char *path,
                                struct kelpie_error *error) {
    struct kelpie_json_writer writer;
    char check[KELPIE_PATH_BYTES_MAX];
    struct kelpie_json_value file;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "driver", "qcow2");
    kelpie__json_write_string(&writer, "node-name", node);
    kelpie__json_write_string(&writer, "discard", "unmap");
    kelpie__json_write_bool(&writer, "read-only", false);
    kelpie__json_write_bool(&writer, "auto-read-only", false);
    kelpie__json_write_raw(&writer, "backing", "null", strlen("null"));
    kelpie__json_object_begin(&writer, "file");
    kelpie__json_write_string(&writer, "driver", "file");
    kelpie__json_write_string(&writer, "discard", "unmap");
    kelpie__json_write_bool(&writer, "auto-read-only", false);
    kelpie__json_write_string(&writer, "filename", path);
    kelpie__json_object_end(&writer);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    bool is_same =
        length > 0 && kelpie__json_find(out, (size_t)length, "file", &file) == 0 &&
        kelpie__json_find_string(file.text, file.length, "filename", check, sizeof(check)) == 0 &&
        strcmp(check, path) == 0;
    return is_same ? 0
                   : kelpie__fail(error, KELPIE_E_LIMIT, 0,
                                  "the path of the disk's new layer is too long, or no UTF-8: "
                                  "\"%.200s\"",
                                  path);
}

int kelpie__qemu_switch_disk(struct kelpie_vmm *vmm, uint32_t index, const char *path,
                             struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    char arguments[KELPIE_QMP_ARGUMENT_BYTES_MAX];
    char node[DISK_NODE_BYTES_MAX];
    KELPIE_ASSERT(index < qemu->disks.count);
    KELPIE_ASSERT(!qemu->disks.is_read_only[index]);
    disk_node(node, index, qemu->disks.generation[index] + 1);
    int status = disk_write_arguments(arguments, sizeof(arguments), node, path, error);
    if (status < 0) {
        return status;
    }
    qemu->disks.index = index;
    return kelpie__qemu_execute(qemu, "blockdev-add", arguments, disk_added, error);
}
