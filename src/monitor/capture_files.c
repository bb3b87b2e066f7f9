/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a capture writes while the guest runs or stands still: see capture.h. All of it is small, or
 * the driver's to fill; nothing here is synced.
 */
#include <errno.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "monitor/capture.h"
#include "monitor/inspect.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "monitor/source.h"
#include "os/os_call.h"
#include "store/qcow2.h"

#define CAPTURE_ID_BYTES 16u
#define CAPTURE_LAYER_MODE 0600u
#define CAPTURE_RESERVE_BYTES (UINT64_C(16) << 20) /* device state, lists, checksums */
/* config.json, device, memory, map, base, root */
#define CAPTURE_OTHER_FILE_COUNT 6u

static_assert(KELPIE_DISK_LAYER_COUNT_MAX + CAPTURE_OTHER_FILE_COUNT <=
                  KELPIE_MANIFEST_FILE_COUNT_MAX,
              "every layer has a place in the manifest");
static_assert(KELPIE_RECORD_LAYER_BYTES_MAX <= KELPIE_MANIFEST_NAME_BYTES_MAX,
              "a layer has one name in both");
static_assert(KELPIE_VMM_DISK_COUNT_MAX <= KELPIE_MANIFEST_DISK_COUNT_MAX,
              "every disk has a place in the manifest");
static_assert(2 * CAPTURE_ID_BYTES + 1 == sizeof(((struct kelpie_manifest *)0)->id),
              "an id is copied whole");

static const struct kelpie_vmm_spec *capture_spec(const struct kelpie_capture *capture) {
    const struct kelpie_vmm_spec *spec = &capture->monitor->lifecycle.spec;
    KELPIE_ASSERT(spec->disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    return spec;
}

/* The index of the disk that the guest writes to; disk_count: there is none. */
static uint32_t capture_writable_disk(const struct kelpie_vmm_spec *spec) {
    uint32_t index = 0;
    while (index < spec->disk_count && spec->disks[index].is_read_only) { /* bound: the disks */
        index += 1;
    }
    return index;
}

const struct kelpie_vmm_disk *kelpie__capture_root(const struct kelpie_capture *capture) {
    const struct kelpie_vmm_spec *spec = capture_spec(capture);
    return spec->disk_count > 0 && spec->disks[0].is_read_only ? &spec->disks[0] : NULL;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* ---- space ----------------------------------------------------------------------------------- */

/* A file that cannot be linked into the store is copied. */
static uint64_t capture_copied_bytes(const struct kelpie_capture *capture, int directory,
                                     const char *path) {
    struct kelpie_os *os = capture->monitor->os;
    struct kelpie_os_stat store;
    struct kelpie_os_stat file;
    KELPIE_ASSERT(capture->store.directory >= 0);
    KELPIE_ASSERT(path[0] != '\0');
    bool is_known = kelpie__os_stat(os, capture->store.directory, "", false, &store) == 0 &&
                    kelpie__os_stat(os, directory, path, false, &file) == 0;
    return is_known && store.device != file.device ? file.allocated_bytes : 0;
}

/* How many layers the snapshot's disk would have: all but the running VM's own, new one. */
static uint32_t capture_layer_count(const struct kelpie_capture *capture) {
    const struct kelpie_vm_record *record = &capture->monitor->lifecycle.record;
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    bool has_own = capture->is_disk_clean && record->layer_count > 0;
    return record->layer_count - (has_own ? 1 : 0);
}

static bool capture_merges(const struct kelpie_capture *capture) {
    uint32_t count = capture->is_transient ? KELPIE_DISK_MERGE_LAYER_COUNT_TRANSIENT
                                           : KELPIE_DISK_MERGE_LAYER_COUNT;
    static_assert(KELPIE_DISK_MERGE_LAYER_COUNT < KELPIE_DISK_MERGE_LAYER_COUNT_TRANSIENT &&
                      KELPIE_DISK_MERGE_LAYER_COUNT_TRANSIENT + 2 < KELPIE_DISK_LAYER_COUNT_MAX,
                  "it may fail some times");
    return capture_layer_count(capture) >= count;
}

/* What an image of all its layers takes, at most. */
static uint64_t capture_merged_bytes(const struct kelpie_capture *capture) {
    const struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    struct kelpie_os_stat file;
    uint64_t sum = 0;
    KELPIE_ASSERT(record->layer_count > 1);
    for (uint32_t i = 0; i < record->layer_count; i += 1) {
        bool is_known = kelpie__os_stat(monitor->os, monitor->directory.vm, record->layers[i],
                                        false, &file) == 0;
        sum += is_known ? file.allocated_bytes : 0;
    }
    return sum;
}

/* At most: every page of the VMM, and what cannot be linked. */
static uint64_t capture_needed_bytes(const struct kelpie_capture *capture) {
    const struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    const struct kelpie_vmm_disk *root = kelpie__capture_root(capture);
    KELPIE_ASSERT(monitor->lifecycle.vmm != NULL);
    KELPIE_ASSERT(monitor->config.memory_mib <= KELPIE_MEMORY_MIB_MAX);
    uint64_t memory_bytes = monitor->config.memory_mib << 20;
    uint64_t resident_bytes =
        kelpie__inspect_memory_kib(monitor->os, monitor->lifecycle.vmm->pid) * 1024;
    uint64_t sum = CAPTURE_RESERVE_BYTES + kelpie__min_u64(memory_bytes, resident_bytes);
    if (root != NULL) {
        sum += capture_copied_bytes(capture, KELPIE_OS_CWD, root->path);
    }
    for (uint32_t i = 0; i < record->layer_count; i += 1) {
        sum += capture_copied_bytes(capture, monitor->directory.vm, record->layers[i]);
    }
    sum += capture_merges(capture) ? capture_merged_bytes(capture) : 0;
    struct kelpie_os_stat base;
    if (capture->base >= 0 && kelpie__os_stat(monitor->os, capture->base, "", false, &base) == 0) {
        sum += base.allocated_bytes; /* a large delta is laid over a copy of it */
    }
    return sum;
}

/* ---- the layer ------------------------------------------------------------------------------- */

static int layer_write(struct kelpie_capture *capture, const char *under, bool is_raw,
                       const char *over, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = capture->monitor;
    struct kelpie_os *os = monitor->os;
    int directory = monitor->directory.vm;
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    KELPIE_ASSERT(!kelpie__text_equal(under, over));
    int backing = kelpie__os_open(os, directory, under, KELPIE_OS_OPEN_READ, 0);
    if (backing < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -backing, "open \"%s\" of the VM's disk", under);
    }
    int file = kelpie__os_open(os, directory, over,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_EXCLUSIVE,
                               CAPTURE_LAYER_MODE);
    int status = file < 0 ? kelpie__fail(error, KELPIE_E_IO, -file,
                                         "make a layer of the VM's disk, \"%s\"", over)
                          : 0;
    if (status == 0) {
        const struct kelpie_vmm_overlay overlay = {
            .file = file,
            .backing = backing,
            .backing_format = is_raw ? KELPIE_VMM_DISK_RAW : KELPIE_VMM_DISK_QCOW2,
            .backing_name = under,
        };
        status = kelpie__vmm_make_overlay(monitor->lifecycle.vmm->operations, os, &overlay, error);
        if (status == 0 && capture->merged[0] != '\0') {
            /* The VMM does not look: to it the layer lies over what it has. A start before the
             * image is there puts it right (prepare.c). */
            status = kelpie__qcow2_rebase(os, file, over, capture->merged, "raw", error);
        }
        kelpie__ignore(kelpie__os_close(os, file));
        if (status < 0) {
            kelpie__ignore(kelpie__os_unlink(os, directory, over, false));
        }
    }
    kelpie__ignore(kelpie__os_close(os, backing));
    return status;
}

void kelpie__capture_take_back(struct kelpie_capture *capture) {
    struct kelpie_monitor *monitor = capture->monitor;
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    char name[KELPIE_RECORD_LAYER_BYTES_MAX];
    if (!capture->has_layer) {
        return;
    }
    KELPIE_ASSERT(record->layer_count > 1);
    capture->has_layer = false;
    record->layer_count -= 1;
    memcpy(name, record->layers[record->layer_count], sizeof(name));
    /* What goes is what this capture made, and nothing that the VM has written to. */
    KELPIE_ASSERT(strstr(name, capture->snapshot.manifest.id) != NULL);
    /* A record that still names it needs it: an empty layer over what the VM writes to. */
    if (kelpie__lifecycle_save_layers(&monitor->lifecycle, record->layer_count, NULL) == 0) {
        kelpie__ignore(kelpie__os_unlink(monitor->os, monitor->directory.vm, name, false));
    }
}

/* The new layer is in the record before it is in use: empty as it is, it changes nothing, and there
 * is no moment at which a start would take an old one. */
static int capture_make_layer(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_lifecycle *lifecycle = &capture->monitor->lifecycle;
    struct kelpie_vm_record *record = &lifecycle->record;
    const struct kelpie_vmm_spec *spec = capture_spec(capture);
    char name[KELPIE_RECORD_LAYER_BYTES_MAX];
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    KELPIE_ASSERT(!capture->has_layer);
    KELPIE_ASSERT(capture->merged[0] == '\0');
    capture->disk_index = capture_writable_disk(spec);
    if (capture->disk_index == spec->disk_count) {
        return 0;
    }
    if (capture_merges(capture)) {
        kelpie__ignore(kelpie__text_format(capture->merged, sizeof(capture->merged), "disk-%s.raw",
                                           capture->snapshot.manifest.id));
    }
    if (capture->is_disk_clean) {
        return 0;
    }
    if (record->layer_count == 0) {
        kelpie__ignore(kelpie__text_copy(record->layers[0], sizeof(record->layers[0]),
                                         base_name(spec->disks[capture->disk_index].path)));
        record->layer_count = 1;
    }
    if (record->layer_count == KELPIE_DISK_LAYER_COUNT_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "the VM's disk has %u layers and can have no more: the last snapshots "
                            "did not come to merge them; the event log says why",
                            record->layer_count);
    }
    bool fits =
        kelpie__text_format(name, sizeof(name), "disk-%s.qcow2", capture->snapshot.manifest.id);
    KELPIE_ASSERT(fits);
    int status = layer_write(capture, record->layers[record->layer_count - 1],
                             record->layer_count == 1, name, error);
    if (status < 0) {
        return status;
    }
    memcpy(record->layers[record->layer_count], name, sizeof(name));
    record->layer_count += 1;
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    capture->has_layer = true;
    return kelpie__lifecycle_save_layers(lifecycle, record->layer_count - 1, error);
}

/* The VM's own layer was made for this over the image, which is in its directory by now. Anything
 * else stays as it is, and the next snapshot merges again. */
static bool capture_has_merged(const struct kelpie_capture *capture) {
    const struct kelpie_monitor *monitor = capture->monitor;
    const struct kelpie_vm_record *record = &monitor->lifecycle.record;
    const struct kelpie_vmm *vmm = monitor->lifecycle.vmm;
    struct kelpie_os_stat stat;
    char own[KELPIE_RECORD_LAYER_BYTES_MAX];
    bool is_alive = vmm != NULL && vmm->pid == capture->vmm_pid && capture->merged[0] != '\0' &&
                    record->layer_count > 1;
    KELPIE_ASSERT(!capture->is_template);
    if (!is_alive) {
        return false;
    }
    kelpie__ignore(
        kelpie__text_format(own, sizeof(own), "disk-%s.qcow2", capture->snapshot.manifest.id));
    return strcmp(record->layers[record->layer_count - 1], own) == 0 &&
           kelpie__os_stat(monitor->os, monitor->directory.vm, capture->merged, false, &stat) == 0;
}

void kelpie__capture_take_merged(struct kelpie_capture *capture) {
    struct kelpie_lifecycle *lifecycle = &capture->monitor->lifecycle;
    struct kelpie_vm_record *record = &lifecycle->record;
    struct kelpie_error error = {0};
    if (!capture_has_merged(capture)) {
        return;
    }
    struct kelpie_vm_record before = *record;
    KELPIE_ASSERT(!capture->has_layer);
    KELPIE_ASSERT(strlen(capture->merged) < sizeof(record->layers[0]));
    memcpy(record->layers[0], capture->merged, sizeof(record->layers[0]));
    memcpy(record->layers[1], before.layers[before.layer_count - 1], sizeof(record->layers[1]));
    record->layer_count = 2;
    if (kelpie__lifecycle_save_layers(lifecycle, record->layer_count, &error) < 0) {
        *record = before;
        kelpie__ignore(kelpie__lifecycle_save_layers(lifecycle, record->layer_count, NULL));
        kelpie__event_log_write(capture->monitor, "notice", "%s", error.message);
        return;
    }
    kelpie__source_sweep(capture->monitor, record); /* the VMM has those open that it reads */
}

/* ---- the directory --------------------------------------------------------------------------- */

static void close_file(struct kelpie_capture *capture, int *file) {
    if (*file >= 0) { /* a write that fails has failed already: nothing is held back */
        kelpie__ignore(kelpie__os_close(capture->monitor->os, *file));
        *file = KELPIE_OS_NO_HANDLE;
    }
}

void kelpie__capture_close_files(struct kelpie_capture *capture) {
    close_file(capture, &capture->files.device);
    close_file(capture, &capture->device_check);
    close_file(capture, &capture->files.memory);
    close_file(capture, &capture->files.map);
    KELPIE_ASSERT(capture->files.device == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(capture->files.memory == KELPIE_OS_NO_HANDLE);
    capture->files.is_ahead = false;
}

static int capture_make_files(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_os *os = capture->monitor->os;
    struct kelpie_snapshot *snapshot = &capture->snapshot;
    int device = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(capture->files.device == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(capture->files.memory == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(!capture->files.is_ahead);
    int status = kelpie__snapshot_add_file(snapshot, KELPIE_SNAPSHOT_DEVICE_FILE, &device, error);
    if (status < 0) {
        return status;
    }
    kelpie__ignore(kelpie__os_close(os, device));
    /* The VMM takes one that can only be written to. */
    device = kelpie__os_open(os, snapshot->directory, KELPIE_SNAPSHOT_DEVICE_FILE,
                             KELPIE_OS_OPEN_WRITE, 0);
    if (device < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -device, "open the file for the device state");
    }
    capture->files.device = device;
    status = kelpie__snapshot_add_file(snapshot, KELPIE_SNAPSHOT_MEMORY_FILE,
                                       &capture->files.memory, error);
    if (status == 0 && capture->monitor->lifecycle.vmm->is_restored) {
        status = kelpie__snapshot_add_file(snapshot, KELPIE_SNAPSHOT_MAP_FILE, &capture->files.map,
                                           error);
    }
    return status;
}

/* Of a template: only what makes a VM of this kind, for nothing of the one that it was made of is
 * anybody else's concern. */
static int capture_write_config(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_os *os = capture->monitor->os;
    const struct kelpie_config_values *config = &capture->monitor->config;
    struct kelpie_config_values *neutral = kelpie__alloc(os, sizeof(*neutral));
    char *text = kelpie__alloc(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    int file = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(capture->is_template);
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    int status = neutral == NULL || text == NULL
                     ? kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration")
                     : kelpie__snapshot_add_file(&capture->snapshot, KELPIE_SNAPSHOT_CONFIG_FILE,
                                                 &file, error);
    if (status == 0) {
        kelpie__ignore(kelpie__os_close(os, file)); /* it is replaced at once */
        kelpie__config_defaults(neutral);
        kelpie__ignore(
            kelpie__text_copy(neutral->id, sizeof(neutral->id), capture->snapshot.manifest.id));
        kelpie__ignore(
            kelpie__text_copy(neutral->name, sizeof(neutral->name), KELPIE_GUEST_NEUTRAL_NAME));
        neutral->cpus = config->cpus;
        neutral->memory_mib = config->memory_mib;
        neutral->is_read_only = config->is_read_only;
        memcpy(neutral->root, config->root, sizeof(neutral->root));
        int64_t length = kelpie__config_write(neutral, text, KELPIE_CONFIG_JSON_BYTES_MAX);
        KELPIE_ASSERT(length > 0);
        status =
            kelpie__small_file_replace(os, capture->snapshot.directory, KELPIE_SNAPSHOT_CONFIG_FILE,
                                       text, (size_t)length, error);
    }
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    kelpie__free(os, neutral, sizeof(*neutral));
    return status;
}

static int capture_begin_directory(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = capture->monitor;
    uint8_t bytes[CAPTURE_ID_BYTES];
    char id[2 * CAPTURE_ID_BYTES + 1];
    KELPIE_ASSERT(capture->store.os == NULL);
    KELPIE_ASSERT(capture->snapshot.store == NULL);
    int status = kelpie__os_random(monitor->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw an id");
    }
    kelpie__text_hex(id, sizeof(id), bytes, sizeof(bytes));
    const char *store =
        capture->is_template ? KELPIE_TEMPLATES_DIRECTORY : KELPIE_SNAPSHOTS_DIRECTORY;
    status = kelpie__snapshot_store_open(&capture->store, monitor->os,
                                         monitor->options.state_directory, store, error);
    if (status < 0) {
        return status;
    }
    return kelpie__snapshot_begin(&capture->snapshot, &capture->store, id,
                                  capture_needed_bytes(capture), error);
}

/* A name that nobody gave: of the VM, and the beginning of the id. */
static void capture_set_name(struct kelpie_capture *capture, const char *name) {
    struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    int cut = (int)(KELPIE_NAME_BYTES_MAX - 9);
    static_assert(KELPIE_NAME_BYTES_MAX > 9, "a VM's name, a dash and eight digits");
    KELPIE_ASSERT(manifest->id[0] != '\0');
    if (name[0] == '\0') {
        kelpie__ignore(kelpie__text_format(manifest->name, sizeof(manifest->name), "%.*s-%.8s", cut,
                                           capture->monitor->config.name, manifest->id));
    } else {
        kelpie__ignore(kelpie__text_copy(manifest->name, sizeof(manifest->name), name));
    }
}

int kelpie__capture_make(struct kelpie_capture *capture, const char *name, const char *label,
                         struct kelpie_error *error) {
    struct kelpie_os_stat stat;
    struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_IDLE);
    KELPIE_ASSERT(!capture->is_holding);
    KELPIE_ASSERT(!capture->has_layer);
    capture->snapshot = (struct kelpie_snapshot){0};
    int status = capture_begin_directory(capture, error);
    if (status < 0) {
        capture->snapshot = (struct kelpie_snapshot){0};
        return status;
    }
    capture_set_name(capture, name);
    kelpie__ignore(kelpie__text_copy(manifest->label, sizeof(manifest->label), label));
    /* Known before the guest is stopped, though it is the publication that decides. */
    if (kelpie__os_stat(capture->monitor->os, capture->store.directory, manifest->name, false,
                        &stat) == 0) {
        return kelpie__fail_field(
            error, KELPIE_E_EXISTS, "name",
            "snapshot \"%s\" exists already; remove it or choose another name", manifest->name);
    }
    status = capture_make_files(capture, error);
    if (status == 0 && capture->is_template) {
        status = capture_write_config(capture, error);
    }
    return status < 0 ? status : capture_make_layer(capture, error);
}

/* ---- the manifest ---------------------------------------------------------------------------- */

static int draft_add_file(struct kelpie_manifest *manifest, const char *name) {
    KELPIE_ASSERT(manifest->file_count < KELPIE_MANIFEST_FILE_COUNT_MAX);
    struct kelpie_manifest_file *file = &manifest->files[manifest->file_count];
    bool fits = kelpie__text_copy(file->name, sizeof(file->name), name);
    if (!fits || !kelpie__manifest_is_file_name(name)) {
        return -ENAMETOOLONG;
    }
    manifest->file_count += 1;
    return 0;
}

static void draft_set_disk(struct kelpie_manifest *manifest, const struct kelpie_vmm_disk *disk,
                           const char *format, const char *file) {
    KELPIE_ASSERT(manifest->disk_count < KELPIE_MANIFEST_DISK_COUNT_MAX);
    struct kelpie_manifest_disk *out = &manifest->disks[manifest->disk_count];
    bool fits = kelpie__text_copy(out->serial, sizeof(out->serial), disk->serial) &&
                kelpie__text_copy(out->file, sizeof(out->file), file);
    KELPIE_ASSERT(fits);
    kelpie__ignore(kelpie__text_copy(out->format, sizeof(out->format), format));
    out->is_read_only = disk->is_read_only;
    manifest->disk_count += 1;
}

/* The name of the root image in a snapshot's directory, where others may lie: an image of the cache
 * or of another snapshot has a name of its own, a user's file gets one. */
static void draft_root_name(const struct kelpie_capture *capture,
                            const struct kelpie_vmm_disk *root, char *out, size_t capacity) {
    const struct kelpie_monitor *monitor = capture->monitor;
    KELPIE_ASSERT(root->is_read_only);
    KELPIE_ASSERT(capacity == KELPIE_MANIFEST_NAME_BYTES_MAX);
    bool is_own = kelpie__text_has_prefix(root->path, monitor->options.cache_directory) ||
                  kelpie__text_has_prefix(root->path, monitor->options.state_directory) ||
                  kelpie__text_has_prefix(root->path, monitor->options.vm_directory);
    if (is_own && kelpie__manifest_is_file_name(base_name(root->path))) {
        kelpie__ignore(kelpie__text_copy(out, capacity, base_name(root->path)));
    } else {
        kelpie__ignore(kelpie__text_format(out, capacity, "root-%s", monitor->config.id));
    }
}

/* The disks in the order of the machine, each with its files. */
static int draft_disks(const struct kelpie_capture *capture, struct kelpie_manifest *manifest) {
    const struct kelpie_vmm_spec *spec = capture_spec(capture);
    const struct kelpie_vm_record *record = &capture->monitor->lifecycle.record;
    char name[KELPIE_MANIFEST_NAME_BYTES_MAX];
    int status = 0;
    KELPIE_ASSERT(manifest->disk_count == 0);
    for (uint32_t i = 0; i < spec->disk_count && status == 0; i += 1) {
        const struct kelpie_vmm_disk *disk = &spec->disks[i];
        if (disk->is_read_only) {
            draft_root_name(capture, disk, name, sizeof(name));
            draft_set_disk(manifest, disk, disk->format == KELPIE_VMM_DISK_QCOW2 ? "qcow2" : "raw",
                           name);
            status = draft_add_file(manifest, name);
            continue;
        }
        KELPIE_ASSERT(record->layer_count > 1); /* the uppermost is the running VM's */
        uint32_t count = record->layer_count - 1;
        draft_set_disk(manifest, disk, count == 1 ? "raw" : "qcow2", record->layers[count - 1]);
        for (uint32_t j = 0; j < count && status == 0; j += 1) {
            status = draft_add_file(manifest, record->layers[j]);
        }
    }
    KELPIE_ASSERT(status < 0 || manifest->disk_count == spec->disk_count);
    return status;
}

#define DRAFT_COPY(field, text)                                                                    \
    kelpie__ignore(kelpie__text_copy(manifest->field, sizeof(manifest->field), text))

static int draft_machine(const struct kelpie_capture *capture, struct kelpie_manifest *manifest,
                         struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = capture->monitor;
    struct kelpie_vmm_description description = {0};
    KELPIE_ASSERT(monitor->config.cpus <= KELPIE_CPUS_MAX);
    KELPIE_ASSERT(monitor->config.memory_mib <= KELPIE_MEMORY_MIB_MAX);
    int status = kelpie__vmm_describe(monitor->lifecycle.vmm, &description, error);
    DRAFT_COPY(architecture, "x86_64");
    DRAFT_COPY(backend, description.vmm);
    DRAFT_COPY(vmm_version, description.version);
    DRAFT_COPY(machine, description.machine);
    DRAFT_COPY(cpu, description.cpu);
    DRAFT_COPY(accelerator, kelpie__vmm_accelerator_name(description.accelerator));
    manifest->tsc_khz = description.tsc_khz;
    manifest->cpu_count = (uint32_t)monitor->config.cpus;
    manifest->memory_mib = (uint32_t)monitor->config.memory_mib;
    return status;
}

int kelpie__capture_check_devices(struct kelpie_capture *capture, struct kelpie_error *error) {
    struct kelpie_os *os = capture->monitor->os;
    KELPIE_ASSERT(capture->snapshot.is_temporary);
    KELPIE_ASSERT(capture->files.device >= 0);
    KELPIE_ASSERT(capture->device_check == KELPIE_OS_NO_HANDLE);
    int file = kelpie__os_open(os, capture->snapshot.directory, KELPIE_SNAPSHOT_DEVICE_FILE,
                               KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open the state of the devices");
    }
    capture->device_check = file;
    return kelpie__vmm_check_devices(kelpie__vmm_driver(0), os, file, error);
}

int kelpie__capture_write_draft(struct kelpie_capture *capture, struct kelpie_error *error) {
    const struct kelpie_monitor *monitor = capture->monitor;
    struct kelpie_manifest *manifest = &capture->snapshot.manifest;
    KELPIE_ASSERT(capture->phase == KELPIE_CAPTURE_SEALING);
    KELPIE_ASSERT(monitor->lifecycle.vmm->pid == capture->vmm_pid);
    KELPIE_ASSERT(manifest->mark[0] != '\0');
    KELPIE_ASSERT(!capture->is_template || monitor->lifecycle.record.parent[0] == '\0');
    int status = draft_machine(capture, manifest, error);
    if (status < 0) { /* a processor that nobody has would be in it, and no host would restore it */
        return status;
    }
    DRAFT_COPY(vm_id, capture->is_template ? manifest->id : monitor->config.id);
    DRAFT_COPY(vm_name, capture->is_template ? KELPIE_GUEST_NEUTRAL_NAME : monitor->config.name);
    DRAFT_COPY(parent, monitor->lifecycle.record.parent);
    DRAFT_COPY(kind, "full");
    DRAFT_COPY(kernel_digest, capture->kernel_digest);
    manifest->created_ms = kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    manifest->is_paused = !capture->was_running;
    manifest->has_base = monitor->lifecycle.vmm->is_restored;
    manifest->page_count = capture->saved.page_count;
    manifest->stored_bytes = capture->saved.stored_bytes + capture->saved.device_bytes;
    status = draft_disks(capture, manifest);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_INTERNAL, -status, "name the files of the VM's disks");
    }
    return kelpie__manifest_write(monitor->os, capture->snapshot.directory, manifest, false, error);
}
