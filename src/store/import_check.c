/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is asked of a snapshot that comes from outside: see transfer.h.
 */
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "store/qcow2.h"
#include "store/record.h"
#include "store/seal.h"
#include "store/transfer.h"

#define CHECK_LAYER_PREFIX "disk-"
#define CHECK_PAGES_PER_MIB 256u
#define CHECK_ID_DIGITS 32u

static int fail_manifest(struct kelpie_error *error, const char *what, const char *name) {
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                        "the snapshot's manifest %s \"%.100s\"", what, name);
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* They are shown on terminals. */
static bool is_printable(const char *text) {
    bool is_good = true;
    for (size_t i = 0; text[i] != '\0' && is_good; i += 1) { /* bound: a field of the manifest */
        is_good = (unsigned char)text[i] >= ' ' && text[i] != 0x7f;
    }
    return is_good;
}

static bool is_digits(const char *text, size_t count) {
    return strlen(text) == count && strspn(text, "0123456789abcdef") == count;
}

static int check_texts(const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    KELPIE_ASSERT(manifest->name[0] != '\0');
    const char *const texts[] = {
        manifest->label,       manifest->vm_name,     manifest->kind, manifest->architecture,
        manifest->backend,     manifest->machine,     manifest->cpu,  manifest->kernel_digest,
        manifest->vmm_version, manifest->accelerator,
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(texts); i += 1) {
        if (!is_printable(texts[i])) {
            return fail_manifest(error, "has control characters in a text of", manifest->name);
        }
    }
    bool has_parent = manifest->parent[0] != '\0';
    bool is_good = is_digits(manifest->id, CHECK_ID_DIGITS) &&
                   is_digits(manifest->vm_id, CHECK_ID_DIGITS) &&
                   is_digits(manifest->checksum, CHECK_ID_DIGITS) &&
                   is_digits(manifest->mark, 2 * KELPIE_MARK_BYTES) &&
                   is_digits(manifest->token, 2 * KELPIE_TOKEN_BYTES) &&
                   (!has_parent || is_digits(manifest->parent, CHECK_ID_DIGITS)) &&
                   kelpie__config_check_name(manifest->vm_name, NULL) == 0;
    return is_good ? 0 : fail_manifest(error, "has an id that is none, of", manifest->name);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Its place in the list; file_count: it is not there. */
static uint32_t find_file(const struct kelpie_manifest *manifest, const char *name) {
    uint32_t i = 0;
    while (i < manifest->file_count && strcmp(manifest->files[i].name, name) != 0) {
        i += 1; /* bound: the files */
    }
    return i;
}

static bool is_read_only_disk(const struct kelpie_manifest *manifest, const char *name) {
    KELPIE_ASSERT(manifest->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    bool is_one = false;
    for (uint32_t i = 0; i < manifest->disk_count; i += 1) {
        const struct kelpie_manifest_disk *disk = &manifest->disks[i];
        is_one = is_one || (disk->is_read_only && strcmp(disk->file, name) == 0);
    }
    return is_one;
}

static bool is_layer(const struct kelpie_manifest *manifest, const char *name) {
    return kelpie__text_has_prefix(name, CHECK_LAYER_PREFIX) && !is_read_only_disk(manifest, name);
}

/* A file of the memory has a size that follows from the guest's. */
static int check_size(const struct kelpie_manifest *manifest, const char *name, uint64_t size_bytes,
                      bool is_needed, struct kelpie_error *error) {
    uint32_t place = find_file(manifest, name);
    bool is_there = place < manifest->file_count;
    KELPIE_ASSERT(place <= manifest->file_count);
    if (is_there != is_needed || (is_there && manifest->files[place].size_bytes != size_bytes)) {
        return fail_manifest(error, "lacks, has too much, or has at a wrong size the file", name);
    }
    return 0;
}

static int check_fixed_files(const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    static const char *const fixed[] = {KELPIE_SNAPSHOT_CONFIG_FILE, KELPIE_SNAPSHOT_DEVICE_FILE};
    static const uint64_t bytes_max[] = {KELPIE_CONFIG_JSON_BYTES_MAX - 1,
                                         KELPIE_DEVICE_STATE_BYTES_MAX};
    uint64_t memory_bytes = (uint64_t)manifest->memory_mib << 20;
    KELPIE_ASSERT(memory_bytes > 0); /* its bounds were looked at */
    static_assert(KELPIE_ARRAY_COUNT(fixed) == KELPIE_ARRAY_COUNT(bytes_max), "one for each");
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fixed); i += 1) {
        uint32_t place = find_file(manifest, fixed[i]);
        if (place == manifest->file_count || manifest->files[place].size_bytes == 0 ||
            manifest->files[place].size_bytes > bytes_max[i]) {
            return fail_manifest(error, "lacks, or has at a wrong size, the file", fixed[i]);
        }
    }
    int status = check_size(manifest, KELPIE_SNAPSHOT_MEMORY_FILE, memory_bytes, true, error);
    if (status == 0) {
        status = check_size(manifest, KELPIE_SNAPSHOT_BASE_FILE, memory_bytes, manifest->has_base,
                            error);
    }
    if (status == 0) {
        status = check_size(manifest, KELPIE_SNAPSHOT_MAP_FILE,
                            (uint64_t)manifest->memory_mib * (CHECK_PAGES_PER_MIB / 8),
                            manifest->has_base, error);
    }
    return status;
}

static bool is_known_file(const struct kelpie_manifest *manifest, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    static const char *const fixed[] = {KELPIE_SNAPSHOT_CONFIG_FILE, KELPIE_SNAPSHOT_DEVICE_FILE,
                                        KELPIE_SNAPSHOT_MEMORY_FILE, KELPIE_SNAPSHOT_BASE_FILE,
                                        KELPIE_SNAPSHOT_MAP_FILE};
    bool is_known = is_layer(manifest, name) || is_read_only_disk(manifest, name);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fixed); i += 1) {
        is_known = is_known || strcmp(fixed[i], name) == 0;
    }
    return is_known;
}

/* Each once, each with a use, all together not too large. */
static int check_list(const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    uint64_t extents = 0;
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        const struct kelpie_manifest_file *file = &manifest->files[i];
        KELPIE_ASSERT(kelpie__manifest_is_file_name(file->name));
        if (find_file(manifest, file->name) != i || !is_known_file(manifest, file->name)) {
            return fail_manifest(error, "has twice, or has no use for, the file", file->name);
        }
        extents += file->size_bytes / KELPIE_SEAL_EXTENT_BYTES + 1;
        if (extents > KELPIE_SEAL_EXTENT_COUNT_MAX) {
            return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                                "the files of the snapshot have more than %u MiB",
                                KELPIE_SEAL_EXTENT_COUNT_MAX);
        }
    }
    return 0;
}

/* ---- disks ----------------------------------------------------------------------------------- */

/* The list of layers, from the lowest: a raw image, then qcow2 ones, the last of which is the
 * disk's. */
static int check_layers(const struct kelpie_manifest *manifest,
                        const struct kelpie_manifest_disk *disk, struct kelpie_error *error) {
    uint32_t count = 0;
    const char *last = "";
    KELPIE_ASSERT(disk == NULL || !disk->is_read_only);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        const char *name = manifest->files[i].name;
        size_t length = strlen(name);
        if (!is_layer(manifest, name)) {
            continue;
        }
        const char *ending = count == 0 ? ".raw" : ".qcow2";
        if (length >= KELPIE_RECORD_LAYER_BYTES_MAX || length < strlen(ending) ||
            strcmp(name + length - strlen(ending), ending) != 0) {
            return fail_manifest(error, "has a disk layer in the wrong place,", name);
        }
        last = name;
        count += 1;
    }
    const char *format = count > 1 ? "qcow2" : "raw";
    if (disk == NULL ? count > 0
                     : strcmp(last, disk->file) != 0 || strcmp(disk->format, format) != 0 ||
                           count >= KELPIE_DISK_LAYER_COUNT_MAX) {
        return fail_manifest(error, "has layers that are not those of the disk",
                             disk == NULL ? "" : disk->file);
    }
    return 0;
}

static int check_disks(const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    const struct kelpie_manifest_disk *writable = NULL;
    KELPIE_ASSERT(manifest->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    for (uint32_t i = 0; i < manifest->disk_count; i += 1) {
        const struct kelpie_manifest_disk *disk = &manifest->disks[i];
        bool is_good = kelpie__manifest_is_file_name(disk->serial) &&
                       (strcmp(disk->format, "raw") == 0 || strcmp(disk->format, "qcow2") == 0) &&
                       find_file(manifest, disk->file) < manifest->file_count &&
                       (disk->is_read_only || writable == NULL);
        if (!is_good) {
            return fail_manifest(error, "has a disk that cannot be, over", disk->file);
        }
        writable = disk->is_read_only ? writable : disk;
    }
    return check_layers(manifest, writable, error);
}

int kelpie__import_check_manifest(const struct kelpie_manifest *manifest,
                                  struct kelpie_error *error) {
    KELPIE_ASSERT(kelpie__config_check_name(manifest->name, NULL) == 0);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    if (manifest->memory_mib < KELPIE_MEMORY_MIB_MIN ||
        manifest->memory_mib > KELPIE_MEMORY_MIB_MAX || manifest->cpu_count < KELPIE_CPUS_MIN ||
        manifest->cpu_count > KELPIE_CPUS_MAX) {
        return fail_manifest(error, "has a machine that cannot be, of", manifest->name);
    }
    int status = check_texts(manifest, error);
    if (status == 0) {
        status = check_list(manifest, error);
    }
    if (status == 0) {
        status = check_fixed_files(manifest, error);
    }
    return status == 0 ? check_disks(manifest, error) : status;
}

/* ---- what is in the files -------------------------------------------------------------------- */

static int check_image(const struct kelpie_snapshot *snapshot, const char *name, const char *below,
                       struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    size_t length = strlen(below);
    KELPIE_ASSERT(kelpie__manifest_is_file_name(name));
    bool is_raw_below = length >= 4 && strcmp(below + length - 4, ".raw") == 0;
    int file = kelpie__os_open(os, snapshot->directory, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -file, "open \"%s\" of the snapshot", name);
    }
    const char *format = length == 0 ? "" : is_raw_below ? "raw" : "qcow2";
    int status = kelpie__qcow2_check(os, file, name, below, format, error);
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    return status;
}

static int check_images(const struct kelpie_snapshot *snapshot, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &snapshot->manifest;
    const char *below = "";
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    kelpie__snapshot_check(snapshot);
    int status = 0;
    for (uint32_t i = 0; i < manifest->file_count && status == 0; i += 1) {
        const char *name = manifest->files[i].name;
        if (!is_layer(manifest, name)) {
            continue;
        }
        if (below[0] != '\0') { /* the lowest is raw: bytes without a meaning */
            status = check_image(snapshot, name, below, error);
        }
        below = name;
    }
    for (uint32_t i = 0; i < manifest->disk_count && status == 0; i += 1) {
        const struct kelpie_manifest_disk *disk = &manifest->disks[i];
        if (disk->is_read_only && strcmp(disk->format, "qcow2") == 0) {
            status = check_image(snapshot, disk->file, "", error);
        }
    }
    return status;
}

int kelpie__import_check_files(const struct kelpie_snapshot *snapshot, struct kelpie_error *error) {
    struct kelpie_os *os = snapshot->store->os;
    const struct kelpie_manifest *manifest = &snapshot->manifest;
    KELPIE_ASSERT(snapshot->is_temporary);
    kelpie__snapshot_check(snapshot);
    struct kelpie_config_values *values = kelpie__alloc(os, sizeof(*values));
    if (values == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int status = kelpie__snapshot_config(snapshot, values, NULL);
    if (status < 0) {
        status = fail_manifest(error, "came with a damaged configuration, of", manifest->name);
    } else if ((values->cpus != manifest->cpu_count ||
                values->memory_mib != manifest->memory_mib)) {
        status = fail_manifest(error, "does not fit the configuration of", manifest->name);
    }
    kelpie__free(os, values, sizeof(*values));
    return status == 0 ? check_images(snapshot, error) : status;
}
