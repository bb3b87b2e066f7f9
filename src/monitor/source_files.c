/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A snapshot's files under a VM: see source.h. Layers of disks have names that are unique in the
 * world, and name each other relative to their directory: each directory that uses one has all
 * below it, by links where that is possible.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "monitor/monitor.h"
#include "monitor/source.h"
#include "os/os_call.h"
#include "store/copy.h"
#include "store/lasting.h"
#include "store/remove.h"
#include "store/seal.h"

#define SOURCE_LAYER_PREFIX "disk-"
#define SOURCE_LAYER_MODE 0600u
#define SOURCE_COPY_SUFFIX ".part"
#define SOURCE_ID_BYTES 16u
#define SOURCE_DIRECTORY_MODE 0700u
/* in the VM's directory: what a snapshot of it needs besides its own */
#define SOURCE_KEPT_DIRECTORY "kept"

static_assert(KELPIE_MANIFEST_DISK_COUNT_MAX <= KELPIE_VMM_DISK_COUNT_MAX,
              "every disk of a snapshot has a place in the VM");

/* ---- layers ---------------------------------------------------------------------------------- */

static_assert(sizeof(SOURCE_LAYER_PREFIX) - 1 + 2 * SOURCE_ID_BYTES + sizeof(".qcow2") <=
                  KELPIE_RECORD_LAYER_BYTES_MAX,
              "the name of a layer fits");

/* A file of the snapshot that belongs to its writable disk. */
static bool layer_is_one(const struct kelpie_manifest *manifest, const char *name) {
    KELPIE_ASSERT(manifest->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    if (!kelpie__text_has_prefix(name, SOURCE_LAYER_PREFIX)) {
        return false;
    }
    for (uint32_t i = 0; i < manifest->disk_count; i += 1) {
        if (manifest->disks[i].is_read_only && strcmp(manifest->disks[i].file, name) == 0) {
            return false;
        }
    }
    return true;
}

static bool layer_is_there(struct kelpie_os *os, int directory, const char *name) {
    struct kelpie_os_stat stat;
    return kelpie__os_stat(os, directory, name, false, &stat) == 0;
}

/* A copy takes its name when it is whole. */
static int layer_copy(struct kelpie_os *os, int file, int directory, const char *name) {
    char part[KELPIE_MANIFEST_NAME_BYTES_MAX + sizeof(SOURCE_COPY_SUFFIX)];
    bool fits = kelpie__text_format(part, sizeof(part), "%s" SOURCE_COPY_SUFFIX, name);
    KELPIE_ASSERT(fits);
    KELPIE_ASSERT(file >= 0);
    int copy = kelpie__os_open(os, directory, part,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_TRUNCATE,
                               SOURCE_LAYER_MODE);
    if (copy < 0) {
        return copy;
    }
    int status = kelpie__copy_file(os, file, copy);
    kelpie__ignore(kelpie__os_close(os, copy)); /* what could fail has failed */
    if (status == 0) {
        status = kelpie__os_rename(os, directory, part, directory, name, true);
    }
    if (status < 0) {
        kelpie__ignore(kelpie__os_unlink(os, directory, part, false));
    }
    return status;
}

/* 0, or a negative errno value: -EXDEV when only a copy would do and none is wanted. */
static int layer_lay(struct kelpie_os *os, const struct kelpie_snapshot *snapshot, const char *name,
                     int directory, bool may_copy) {
    KELPIE_ASSERT(snapshot->directory >= 0);
    KELPIE_ASSERT(kelpie__manifest_is_file_name(name));
    if (layer_is_there(os, directory, name)) {
        return 0; /* the VM's own, or one that it had before: a name has one content */
    }
    int file = kelpie__os_open(os, snapshot->directory, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return file;
    }
    int status = kelpie__os_link(os, file, directory, name);
    bool is_copy = status == -EXDEV || status == -EPERM || status == -EMLINK;
    if (is_copy && may_copy) {
        status = layer_copy(os, file, directory, name);
    }
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    return status;
}

void kelpie__source_lay(const struct kelpie_snapshot *snapshot, const char *name,
                        int vm_directory) {
    struct kelpie_os *os = snapshot->store->os;
    KELPIE_ASSERT(kelpie__text_has_prefix(name, SOURCE_LAYER_PREFIX));
    if (layer_lay(os, snapshot, name, vm_directory, true) < 0) {
        return;
    }
    int file = kelpie__os_open(os, vm_directory, name, KELPIE_OS_OPEN_READ, 0);
    bool is_synced = file >= 0 && kelpie__os_sync(os, file) == 0;
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(os, file));
    }
    if (!is_synced) { /* whoever finds it takes it for one that lasts */
        kelpie__ignore(kelpie__os_unlink(os, vm_directory, name, false));
    }
}

static int layers_lay(struct kelpie_os *os, const struct kelpie_snapshot *snapshot, int directory,
                      bool may_copy, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &snapshot->manifest;
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    KELPIE_ASSERT(directory >= 0);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        const char *name = manifest->files[i].name;
        int status =
            layer_is_one(manifest, name) ? layer_lay(os, snapshot, name, directory, may_copy) : 0;
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_IO, -status,
                                "take the disk layer \"%s\" from the snapshot", name);
        }
    }
    return 0;
}

bool kelpie__source_is_ready(struct kelpie_source *source) {
    struct kelpie_monitor *monitor = source->monitor;
    kelpie__source_check(source);
    return kelpie__seal_is_known(monitor->os, source->snapshot.directory,
                                 &source->snapshot.manifest) &&
           layers_lay(monitor->os, &source->snapshot, monitor->directory.vm, false, NULL) == 0;
}

int kelpie__source_work(struct kelpie_snapshot *snapshot, int vm_directory,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(vm_directory >= 0);
    int status = kelpie__snapshot_verify(snapshot, false, error);
    return status < 0 ? status
                      : layers_lay(snapshot->store->os, snapshot, vm_directory, true, error);
}

/* ---- the layer of its own -------------------------------------------------------------------- */

static int source_list_layers(struct kelpie_source *source, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &source->snapshot.manifest;
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    source->layer_count = 0;
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        const char *name = manifest->files[i].name;
        if (!layer_is_one(manifest, name)) {
            continue;
        }
        if (source->layer_count + 1 >= KELPIE_DISK_LAYER_COUNT_MAX) {
            return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                                "the snapshot's disk has %u layers, and its VM could have no more",
                                KELPIE_DISK_LAYER_COUNT_MAX);
        }
        if (!kelpie__text_copy(source->layers[source->layer_count], KELPIE_RECORD_LAYER_BYTES_MAX,
                               name)) {
            return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                                "\"%s\" is no name of a disk layer", name);
        }
        source->layer_count += 1;
    }
    /* one place is left for the VM's own */
    KELPIE_ASSERT(source->layer_count < KELPIE_DISK_LAYER_COUNT_MAX);
    return 0;
}

static int source_name_layer(struct kelpie_source *source, struct kelpie_error *error) {
    KELPIE_ASSERT(source->layer_count < KELPIE_DISK_LAYER_COUNT_MAX);
    uint8_t bytes[SOURCE_ID_BYTES];
    char id[2 * SOURCE_ID_BYTES + 1];
    char *name = source->layers[source->layer_count];
    int status = kelpie__os_random(source->monitor->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw the name of a disk layer");
    }
    kelpie__text_hex(id, sizeof(id), bytes, sizeof(bytes));
    bool fits = kelpie__text_format(name, KELPIE_RECORD_LAYER_BYTES_MAX,
                                    SOURCE_LAYER_PREFIX "%s.qcow2", id);
    KELPIE_ASSERT(fits);
    source->layer_count += 1;
    return 0;
}

static int source_make_layer(struct kelpie_source *source, const struct kelpie_manifest_disk *disk,
                             struct kelpie_error *error) {
    struct kelpie_os *os = source->monitor->os;
    int directory = source->monitor->directory.vm;
    KELPIE_ASSERT(!disk->is_read_only);
    int status = source_list_layers(source, error);
    if (status == 0) {
        status = source_name_layer(source, error);
    }
    if (status < 0) {
        return status;
    }
    const char *name = source->layers[source->layer_count - 1];
    KELPIE_ASSERT(!kelpie__text_equal(name, disk->file));
    int backing = kelpie__os_open(os, directory, disk->file, KELPIE_OS_OPEN_READ, 0);
    if (backing < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -backing, "open the disk layer \"%s\"", disk->file);
    }
    int file = kelpie__os_open(os, directory, name,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_EXCLUSIVE,
                               SOURCE_LAYER_MODE);
    if (file < 0) {
        status = kelpie__fail(error, KELPIE_E_IO, -file, "make the disk layer \"%s\"", name);
    } else {
        const struct kelpie_vmm_overlay overlay = {
            .file = file,
            .backing = backing,
            .backing_format = kelpie__text_equal(disk->format, "raw") ? KELPIE_VMM_DISK_RAW
                                                                      : KELPIE_VMM_DISK_QCOW2,
            .backing_name = disk->file};
        status = kelpie__vmm_make_overlay(kelpie__vmm_driver(KELPIE_VMM_BACKEND_QEMU), os, &overlay,
                                          error);
        kelpie__ignore(kelpie__os_close(os, file)); /* what could fail has failed */
    }
    kelpie__ignore(kelpie__os_close(os, backing)); /* it was only read */
    return status;
}

/* A read-only disk is used where it lies: the snapshot is there while the VM lives. */
static int source_add_disk(struct kelpie_source *source, uint32_t index,
                           struct kelpie_error *error) {
    KELPIE_ASSERT(index < source->snapshot.manifest.disk_count);
    KELPIE_ASSERT(source->disks[index].path == NULL);
    const struct kelpie_manifest_disk *disk = &source->snapshot.manifest.disks[index];
    char *path = source->paths[index];
    bool fits = false;
    if (!disk->is_read_only) {
        int status = source_make_layer(source, disk, error);
        if (status < 0) {
            return status;
        }
        fits = kelpie__text_join(path, KELPIE_PATH_BYTES_MAX, source->monitor->options.vm_directory,
                                 source->layers[source->layer_count - 1]);
    } else {
        char directory[KELPIE_PATH_BYTES_MAX];
        fits = kelpie__text_join(directory, sizeof(directory), source->store.path,
                                 source->snapshot.entry) &&
               kelpie__text_join(path, KELPIE_PATH_BYTES_MAX, directory, disk->file);
    }
    if (!fits) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of the VM's disk is too long");
    }
    bool is_qcow2 = !disk->is_read_only || kelpie__text_equal(disk->format, "qcow2");
    source->disks[index] =
        (struct kelpie_vmm_disk){.path = path,
                                 .serial = disk->serial,
                                 .format = is_qcow2 ? KELPIE_VMM_DISK_QCOW2 : KELPIE_VMM_DISK_RAW,
                                 .is_read_only = disk->is_read_only};
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int source_open_file(struct kelpie_source *source, const char *name, uint32_t flags,
                            int *out, struct kelpie_error *error) {
    KELPIE_ASSERT(*out == KELPIE_OS_NO_HANDLE);
    int file = kelpie__os_open(source->monitor->os, source->snapshot.directory, name, flags, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, -file,
                            "open \"%s\" of the snapshot", name);
    }
    *out = file;
    return 0;
}

static int source_open_memory(struct kelpie_source *source, struct kelpie_error *error) {
    bool has_base = source->snapshot.manifest.has_base;
    const uint32_t flags = KELPIE_OS_OPEN_READ;
    KELPIE_ASSERT(source->snapshot.directory >= 0);
    int status =
        source_open_file(source, KELPIE_SNAPSHOT_DEVICE_FILE, flags, &source->device, error);
    if (status == 0) {
        status = source_open_file(
            source, has_base ? KELPIE_SNAPSHOT_BASE_FILE : KELPIE_SNAPSHOT_MEMORY_FILE, flags,
            &source->base, error);
    }
    if (status == 0 && has_base) {
        status =
            source_open_file(source, KELPIE_SNAPSHOT_MEMORY_FILE, flags, &source->memory, error);
    }
    if (status == 0 && has_base) {
        status = source_open_file(source, KELPIE_SNAPSHOT_MAP_FILE, flags, &source->map, error);
    }
    /* a map stands beside the memory that it is of, and over a base */
    KELPIE_ASSERT(status < 0 || (source->memory >= 0) == has_base);
    KELPIE_ASSERT(status < 0 || (source->map >= 0) == has_base);
    return status;
}

int kelpie__source_prepare(struct kelpie_source *source, struct kelpie_vmm_spec *spec,
                           struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = source->monitor;
    const struct kelpie_manifest *manifest = &source->snapshot.manifest;
    kelpie__source_check(source);
    int status = source_open_memory(source, error);
    for (uint32_t i = 0; i < manifest->disk_count && status == 0; i += 1) {
        status = source_add_disk(source, i, error);
    }
    if (status < 0) {
        return status;
    }
    source->restore = (struct kelpie_vmm_restore){.device = source->device,
                                                  .base = source->base,
                                                  .memory = source->memory,
                                                  .map = source->map,
                                                  .description = &source->description};
    *spec = (struct kelpie_vmm_spec){.vm_directory = monitor->options.vm_directory,
                                     .cache_directory = monitor->options.cache_directory,
                                     .disks = source->disks,
                                     .disk_count = manifest->disk_count,
                                     .cpu_count = manifest->cpu_count,
                                     .memory_mib = manifest->memory_mib,
                                     .restore = &source->restore};
    KELPIE_ASSERT(source->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    return 0;
}

/* ---- once it lives --------------------------------------------------------------------------- */

static int settle_open(struct kelpie_source *source) {
    struct kelpie_os *os = source->monitor->os;
    int parent = source->monitor->directory.vm;
    KELPIE_ASSERT(source->base >= 0);
    /* What an earlier one left is of no use any more. */
    kelpie__ignore(kelpie__remove_directory(os, parent, SOURCE_KEPT_DIRECTORY));
    int status = kelpie__os_mkdir(os, parent, SOURCE_KEPT_DIRECTORY, SOURCE_DIRECTORY_MODE);
    return status < 0 ? status
                      : kelpie__os_open(os, parent, SOURCE_KEPT_DIRECTORY,
                                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

/* A read-only disk keeps its name: snapshots of the VM have it under that. */
static bool settle_disk(struct kelpie_source *source, uint32_t index, int kept) {
    struct kelpie_monitor *monitor = source->monitor;
    const struct kelpie_manifest_disk *disk = &source->snapshot.manifest.disks[index];
    char directory[KELPIE_PATH_BYTES_MAX];
    char path[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(disk->is_read_only);
    KELPIE_ASSERT(kept >= 0);
    bool is_good = kelpie__text_join(directory, sizeof(directory), monitor->options.vm_directory,
                                     SOURCE_KEPT_DIRECTORY) &&
                   kelpie__text_join(path, sizeof(path), directory, disk->file);
    int file = kelpie__os_open(monitor->os, source->snapshot.directory, disk->file,
                               KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return false;
    }
    is_good = is_good && kelpie__os_link(monitor->os, file, kept, disk->file) == 0;
    if (is_good) {
        memcpy(source->paths[index], path, sizeof(path));
    }
    kelpie__ignore(kelpie__os_close(monitor->os, file)); /* it was only read */
    return is_good;
}

bool kelpie__source_is_transient(const struct kelpie_source *source) {
    const struct kelpie_config_values *config = &source->monitor->config;
    return !source->is_template && config->is_snapshot_transient &&
           strcmp(config->snapshot, source->snapshot.manifest.name) == 0;
}

void kelpie__source_settle(struct kelpie_source *source) {
    const struct kelpie_monitor *monitor = source->monitor;
    const struct kelpie_manifest *manifest = &source->snapshot.manifest;
    bool is_transient = kelpie__source_is_transient(source);
    kelpie__source_check(source);
    KELPIE_ASSERT(!source->is_template);
    int kept = settle_open(source);
    bool is_settled = kept >= 0 && kelpie__os_link(monitor->os, source->base, kept,
                                                   KELPIE_SNAPSHOT_BASE_FILE) == 0;
    for (uint32_t i = 0; i < manifest->disk_count && is_settled; i += 1) {
        is_settled = !manifest->disks[i].is_read_only || settle_disk(source, i, kept);
    }
    if (kept >= 0) {
        kelpie__ignore(kelpie__os_close(monitor->os, kept)); /* links need no sync of ours */
    }
    if (is_settled && is_transient) { /* else it is there while the VM lives */
        kelpie__source_let_go(source);
    }
}

/* ---- what is left over ----------------------------------------------------------------------- */

static bool record_names(const struct kelpie_monitor *monitor,
                         const struct kelpie_vm_record *record, const char *name) {
    char first[KELPIE_RECORD_LAYER_BYTES_MAX];
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    for (uint32_t i = 0; i < record->layer_count; i += 1) {
        if (strcmp(record->layers[i], name) == 0) {
            return true;
        }
    }
    if (record->layer_count > 0) {
        return false;
    }
    /* The one of a VM that has no list yet. */
    return kelpie__text_format(first, sizeof(first), SOURCE_LAYER_PREFIX "%s.raw",
                               monitor->config.id) &&
           strcmp(first, name) == 0;
}

/* What the list on the disk names is kept, too: it may be another one than the record's, after a
 * write of it that failed half-way. */
static bool sweep_read_written(const struct kelpie_monitor *monitor,
                               struct kelpie_vm_record *written) {
    return written != NULL &&
           (monitor->config.is_ephemeral ||
            kelpie__lasting_read(monitor->os, monitor->directory.vm, written, NULL) == 0);
}

void kelpie__source_sweep(struct kelpie_monitor *monitor, const struct kelpie_vm_record *record) {
    char name[256];
    uint64_t cursor = 0;
    int directory = monitor->directory.vm;
    if (monitor->lifecycle.vmm == NULL) {
        kelpie__ignore(kelpie__remove_directory(monitor->os, directory, SOURCE_KEPT_DIRECTORY));
    }
    if (monitor->config.root[0] == '\0') {
        return; /* nor has any snapshot that it may be made from (source_check_config) a disk */
    }
    struct kelpie_vm_record *written = kelpie__alloc(monitor->os, sizeof(*written));
    bool is_known = sweep_read_written(monitor, written);
    /* bound: the directory */
    while (is_known && kelpie__os_list(monitor->os, directory, &cursor, name, sizeof(name)) == 1) {
        bool is_layer = kelpie__text_has_prefix(name, SOURCE_LAYER_PREFIX);
        if (is_layer && !record_names(monitor, record, name) &&
            (written->layer_count == 0 || !record_names(monitor, written, name))) {
            kelpie__ignore(kelpie__os_unlink(monitor->os, directory, name, false));
        }
    }
    kelpie__free(monitor->os, written, sizeof(*written));
}

void kelpie__source_take_back(struct kelpie_source *source) {
    if (source->monitor != NULL) {
        kelpie__source_sweep(source->monitor, &source->monitor->lifecycle.record);
    }
}
