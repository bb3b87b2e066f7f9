/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A snapshot of no machine at all, a few kilobytes with all kinds of files: memory and map over a
 * base, a read-only root, a disk of two layers. It is the same each time, so that a stream of it
 * can be kept in the tree (tests/fixtures).
 */
#ifndef KELPIE_TESTS_TINY_SNAPSHOT_H
#define KELPIE_TESTS_TINY_SNAPSHOT_H

#include <stdio.h>
#include <string.h>

#include "core/config.h"
#include "os/os_call.h"
#include "store/seal.h"
#include "store/snapshot.h"
#include "vmm/qemu/qemu.h"
#include "vmm/vmm.h"

#define TINY_ID "00112233445566778899aabbccddeeff"
#define TINY_VM_ID "0123456789abcdef0123456789abcdef"
#define TINY_LAYER_0 "disk-" TINY_VM_ID ".raw"
#define TINY_LAYER_1 "disk-" TINY_ID ".qcow2"
#define TINY_ROOT "root-" TINY_VM_ID
#define TINY_MEMORY_MIB 128u
#define TINY_MEMORY_BYTES ((uint64_t)TINY_MEMORY_MIB << 20)
#define TINY_MAP_BYTES (TINY_MEMORY_BYTES / 4096 / 8)

/* A file with some texts in it, each at its place. */
struct tiny_file {
    const char *name;
    uint64_t size_bytes;
    const char *text;
    uint64_t offset;
    const char *last; /* at the file's end */
};

static inline void tiny_write(struct kelpie_os *os, int file, const char *text, uint64_t offset) {
    int64_t put = kelpie__os_pwrite(os, file, text, strlen(text), offset);
    KELPIE_ASSERT(put == (int64_t)strlen(text));
}

static inline void tiny_add(struct kelpie_snapshot *snapshot, const struct tiny_file *order) {
    struct kelpie_os *os = snapshot->store->os;
    int file = -1;
    int status = kelpie__snapshot_add_file(snapshot, order->name, &file, NULL);
    KELPIE_ASSERT(status == 0);
    status = kelpie__os_truncate(os, file, order->size_bytes);
    KELPIE_ASSERT(status == 0);
    tiny_write(os, file, order->text, order->offset);
    tiny_write(os, file, order->last, order->size_bytes - strlen(order->last));
    kelpie__ignore(kelpie__os_close(os, file));
}

static inline void tiny_add_config(struct kelpie_snapshot *snapshot) {
    static struct kelpie_config_values values;
    static char text[KELPIE_CONFIG_JSON_BYTES_MAX];
    kelpie__config_defaults(&values);
    snprintf(values.id, sizeof(values.id), "%s", TINY_VM_ID);
    snprintf(values.name, sizeof(values.name), "tiny-vm");
    values.cpus = 1;
    values.memory_mib = TINY_MEMORY_MIB;
    values.disk_size_mib = 16;
    int64_t length = kelpie__config_write(&values, text, sizeof(text));
    KELPIE_ASSERT(length > 1);
    const struct tiny_file file = {KELPIE_SNAPSHOT_CONFIG_FILE, (uint64_t)length, text, 0, "}"};
    tiny_add(snapshot, &file);
}

static inline void tiny_add_layer(struct kelpie_snapshot *snapshot) {
    struct kelpie_os *os = snapshot->store->os;
    int file = -1;
    int backing = kelpie__os_open(os, snapshot->directory, TINY_LAYER_0, KELPIE_OS_OPEN_READ, 0);
    KELPIE_ASSERT(backing >= 0);
    int status = kelpie__snapshot_add_file(snapshot, TINY_LAYER_1, &file, NULL);
    const struct kelpie_vmm_overlay overlay = {.file = file,
                                               .backing = backing,
                                               .backing_format = KELPIE_VMM_DISK_RAW,
                                               .backing_name = TINY_LAYER_0};
    KELPIE_ASSERT(status == 0);
    status = kelpie__vmm_make_overlay(kelpie__vmm_driver(0), os, &overlay, NULL);
    KELPIE_ASSERT(status == 0);
    kelpie__ignore(kelpie__os_close(os, file));
    kelpie__ignore(kelpie__os_close(os, backing));
}

static inline void tiny_add_disk(struct kelpie_manifest *manifest, const char *serial,
                                 const char *format, const char *file, bool is_read_only) {
    struct kelpie_manifest_disk *disk = &manifest->disks[manifest->disk_count];
    snprintf(disk->serial, sizeof(disk->serial), "%s", serial);
    snprintf(disk->format, sizeof(disk->format), "%s", format);
    snprintf(disk->file, sizeof(disk->file), "%s", file);
    disk->is_read_only = is_read_only;
    manifest->disk_count += 1;
}

static inline void tiny_describe(struct kelpie_manifest *manifest, const char *name) {
#define TINY_TEXT(field, text) snprintf(manifest->field, sizeof(manifest->field), "%s", text)
    TINY_TEXT(id, TINY_ID);
    TINY_TEXT(name, name);
    TINY_TEXT(label, "kept in the tree");
    TINY_TEXT(vm_id, TINY_VM_ID);
    TINY_TEXT(vm_name, "tiny-vm");
    TINY_TEXT(kind, "full");
    TINY_TEXT(architecture, "x86_64");
    TINY_TEXT(backend, "qemu");
    TINY_TEXT(vmm_version, "7.2.22");
    TINY_TEXT(machine, "microvm,acpi=on,rtc=on");
    TINY_TEXT(cpu, "max");
    TINY_TEXT(accelerator, "tcg");
    TINY_TEXT(kernel_digest, TINY_ID);
    TINY_TEXT(mark, TINY_ID);
    TINY_TEXT(token, TINY_ID TINY_VM_ID);
#undef TINY_TEXT
    manifest->created_ms = 1234567890123;
    manifest->tsc_khz = 1000000;
    manifest->cpu_count = 1;
    manifest->memory_mib = TINY_MEMORY_MIB;
    manifest->has_base = true;
    manifest->page_count = 2;
    manifest->stored_bytes = 8192;
    tiny_add_disk(manifest, "root", "raw", TINY_ROOT, true);
    tiny_add_disk(manifest, "upper", "qcow2", TINY_LAYER_1, false);
}

/* Whole, listed, and closed again; `hurt` (may be NULL) makes it one that could not be. */
static inline void tiny_make(const struct kelpie_snapshot_store *store, const char *name,
                             void (*hurt)(struct kelpie_snapshot *snapshot)) {
    static const struct tiny_file files[] = {
        {"device", 64, "no state of any device", 0, "end"},
        {"memory", TINY_MEMORY_BYTES, "a page", 8192, "the last page"},
        {"map", TINY_MAP_BYTES, "\x04", 0, "\x80"},
        {"base", TINY_MEMORY_BYTES, "a page under it", 1u << 20, "below"},
        {TINY_ROOT, 65536, "no file system", 1024, "end"},
        {TINY_LAYER_0, 16u << 20, "blocks", 4096, "end"},
    };
    struct kelpie_snapshot made;
    int status = kelpie__snapshot_begin(&made, store, TINY_ID, 0, NULL);
    KELPIE_ASSERT(status == 0);
    tiny_add_config(&made);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(files); i += 1) {
        tiny_add(&made, &files[i]);
    }
    tiny_add_layer(&made);
    tiny_describe(&made.manifest, name);
    if (hurt != NULL) {
        hurt(&made);
    }
    status = kelpie__seal(store->os, made.directory, &made.manifest,
                          &(struct kelpie_seal_options){0}, NULL);
    KELPIE_ASSERT(status == 0);
    status = kelpie__manifest_write(store->os, made.directory, &made.manifest, false, NULL);
    KELPIE_ASSERT(status == 0);
    status = kelpie__snapshot_publish(&made, false, NULL);
    KELPIE_ASSERT(status == 0);
    kelpie__snapshot_close(&made);
}

#endif
