/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See manifest.h.
 */
#include "store/manifest.h"

#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/config.h"
#include "core/json.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"

/* The text begins with its own checksum, of all that follows it: a manifest with a flipped bit is
 * no manifest. */
#define MANIFEST_SELF "{\"self\":\""
#define MANIFEST_SELF_BYTES (sizeof(MANIFEST_SELF) - 1)
#define MANIFEST_SUM_DIGITS (KELPIE_CHECKSUM_TEXT_BYTES - 1)
#define MANIFEST_NO_SUM "00000000000000000000000000000000"

/* The texts, by name: one list for writing and reading. */

static_assert(sizeof(MANIFEST_NO_SUM) - 1 == MANIFEST_SUM_DIGITS, "the place of the sum");
static_assert(sizeof(((struct kelpie_manifest *)0)->checksum) == KELPIE_CHECKSUM_TEXT_BYTES,
              "a checksum is copied whole");
#define MANIFEST_TEXTS(X)                                                                          \
    X(id)                                                                                          \
    X(name)                                                                                        \
    X(label)                                                                                       \
    X(vm_id)                                                                                       \
    X(vm_name)                                                                                     \
    X(parent)                                                                                      \
    X(kind)                                                                                        \
    X(architecture)                                                                                \
    X(backend)                                                                                     \
    X(vmm_version)                                                                                 \
    X(machine)                                                                                     \
    X(cpu)                                                                                         \
    X(accelerator)                                                                                 \
    X(kernel_digest)                                                                               \
    X(mark)                                                                                        \
    X(token)                                                                                       \
    X(checksum)

bool kelpie__manifest_is_file_name(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length >= KELPIE_MANIFEST_NAME_BYTES_MAX || name[0] == '.') {
        return false;
    }
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
           length;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void write_disks(struct kelpie_json_writer *writer, const struct kelpie_manifest *manifest) {
    KELPIE_ASSERT(manifest->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    kelpie__json_array_begin(writer, "disks");
    for (uint32_t i = 0; i < manifest->disk_count; i += 1) {
        const struct kelpie_manifest_disk *disk = &manifest->disks[i];
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_string(writer, "serial", disk->serial);
        kelpie__json_write_string(writer, "format", disk->format);
        kelpie__json_write_string(writer, "file", disk->file);
        kelpie__json_write_bool(writer, "is_read_only", disk->is_read_only);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

static void write_files(struct kelpie_json_writer *writer, const struct kelpie_manifest *manifest) {
    kelpie__json_array_begin(writer, "files");
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        KELPIE_ASSERT(kelpie__manifest_is_file_name(manifest->files[i].name));
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_string(writer, "name", manifest->files[i].name);
        kelpie__json_write_u64(writer, "size_bytes", manifest->files[i].size_bytes);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

static int64_t manifest_format(const struct kelpie_manifest *manifest, char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "self", MANIFEST_NO_SUM);
    kelpie__json_write_u64(&writer, "format",
                           manifest->format == 0 ? KELPIE_MANIFEST_FORMAT : manifest->format);
#define WRITE_TEXT(field) kelpie__json_write_string(&writer, #field, manifest->field);
    MANIFEST_TEXTS(WRITE_TEXT)
#undef WRITE_TEXT
    kelpie__json_write_i64(&writer, "created_ms", manifest->created_ms);
    kelpie__json_write_u64(&writer, "tsc_khz", manifest->tsc_khz);
    kelpie__json_write_u64(&writer, "cpu_count", manifest->cpu_count);
    kelpie__json_write_u64(&writer, "memory_mib", manifest->memory_mib);
    kelpie__json_write_bool(&writer, "is_paused", manifest->is_paused);
    kelpie__json_write_bool(&writer, "has_base", manifest->has_base);
    kelpie__json_write_u64(&writer, "page_count", manifest->page_count);
    kelpie__json_write_u64(&writer, "stored_bytes", manifest->stored_bytes);
    write_disks(&writer, manifest);
    write_files(&writer, manifest);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    if (length > 0) {
        char sum[KELPIE_CHECKSUM_TEXT_BYTES];
        size_t begin = MANIFEST_SELF_BYTES + MANIFEST_SUM_DIGITS;
        KELPIE_ASSERT(strncmp(out, MANIFEST_SELF MANIFEST_NO_SUM, begin) == 0);
        kelpie__checksum_text(out + begin, (size_t)length - begin, sum);
        memcpy(out + MANIFEST_SELF_BYTES, sum, MANIFEST_SUM_DIGITS);
    }
    KELPIE_ASSERT(length < (int64_t)capacity);
    return length;
}

int kelpie__manifest_write(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest, bool is_synced,
                           struct kelpie_error *error) {
    char text[KELPIE_MANIFEST_BYTES_MAX];
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    KELPIE_ASSERT(manifest->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    int64_t length = manifest_format(manifest, text, sizeof(text));
    KELPIE_ASSERT(length > 0); /* every field is bounded far below the buffer */
    return is_synced ? kelpie__small_file_replace_synced(os, directory, KELPIE_MANIFEST_FILE, text,
                                                         (size_t)length, error)
                     : kelpie__small_file_replace(os, directory, KELPIE_MANIFEST_FILE, text,
                                                  (size_t)length, error);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_disk(const struct kelpie_json_value *value, struct kelpie_manifest_disk *out) {
    struct kelpie_json_member members[] = {
        {.key = "serial"}, {.key = "format"}, {.key = "file"}, {.key = "is_read_only"}};
    return kelpie__json_members(value->text, value->length, members, KELPIE_ARRAY_COUNT(members)) ==
               0 &&
           kelpie__json_member_string(&members[0], out->serial, sizeof(out->serial)) &&
           kelpie__json_member_string(&members[1], out->format, sizeof(out->format)) &&
           kelpie__json_member_string(&members[2], out->file, sizeof(out->file)) &&
           kelpie__json_bool(&members[3].value, &out->is_read_only) == 0 &&
           kelpie__manifest_is_file_name(out->file);
}

static bool read_file(const struct kelpie_json_value *value, struct kelpie_manifest_file *out) {
    struct kelpie_json_member members[] = {{.key = "name"}, {.key = "size_bytes"}};
    return kelpie__json_members(value->text, value->length, members, KELPIE_ARRAY_COUNT(members)) ==
               0 &&
           kelpie__json_member_string(&members[0], out->name, sizeof(out->name)) &&
           kelpie__json_u64(&members[1].value, &out->size_bytes) == 0 &&
           kelpie__manifest_is_file_name(out->name);
}

static bool read_lists(const struct kelpie_json_value *disks, const struct kelpie_json_value *files,
                       struct kelpie_manifest *out) {
    KELPIE_ASSERT(out->disk_count == 0);
    KELPIE_ASSERT(out->file_count == 0);
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    if (kelpie__json_iterate(disks, &iterator) < 0 || iterator.is_object) {
        return false;
    }
    int found = kelpie__json_next(&iterator, NULL, &item);
    while (found == 1 && out->disk_count < KELPIE_MANIFEST_DISK_COUNT_MAX) {
        if (!read_disk(&item, &out->disks[out->disk_count])) {
            return false;
        }
        out->disk_count += 1;
        found = kelpie__json_next(&iterator, NULL, &item);
    }
    if (found != 0 || kelpie__json_iterate(files, &iterator) < 0 || iterator.is_object) {
        return false;
    }
    found = kelpie__json_next(&iterator, NULL, &item);
    while (found == 1 && out->file_count < KELPIE_MANIFEST_FILE_COUNT_MAX) {
        if (!read_file(&item, &out->files[out->file_count])) {
            return false;
        }
        out->file_count += 1;
        found = kelpie__json_next(&iterator, NULL, &item);
    }
    KELPIE_ASSERT(out->disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    KELPIE_ASSERT(out->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    return found == 0;
}

static bool read_u32(const struct kelpie_json_value *number, uint32_t *out) {
    uint64_t value = 0;
    if (kelpie__json_u64(number, &value) < 0 || value > UINT32_MAX) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static bool manifest_is_whole(const char *text, size_t length) {
    char sum[KELPIE_CHECKSUM_TEXT_BYTES];
    size_t begin = MANIFEST_SELF_BYTES + MANIFEST_SUM_DIGITS;
    if (length <= begin || strncmp(text, MANIFEST_SELF, MANIFEST_SELF_BYTES) != 0) {
        return false;
    }
    kelpie__checksum_text(text + begin, length - begin, sum);
    return memcmp(text + MANIFEST_SELF_BYTES, sum, MANIFEST_SUM_DIGITS) == 0;
}

/* What is no text, in the order in which it is written. */
enum manifest_member {
    MEMBER_CREATED_MS,
    MEMBER_TSC_KHZ,
    MEMBER_CPU_COUNT,
    MEMBER_MEMORY_MIB,
    MEMBER_IS_PAUSED,
    MEMBER_HAS_BASE,
    MEMBER_PAGE_COUNT,
    MEMBER_STORED_BYTES,
    MEMBER_DISKS,
    MEMBER_FILES,
};

/* In one pass: there are many members, and a manifest is read often. */
static bool manifest_read(const char *text, size_t length, struct kelpie_manifest *out) {
#define MEMBER_TEXT(field) {.key = #field},
    struct kelpie_json_member members[] = {
        MANIFEST_TEXTS(MEMBER_TEXT){.key = "created_ms"},
        {.key = "tsc_khz"},
        {.key = "cpu_count"},
        {.key = "memory_mib"},
        {.key = "is_paused"},
        {.key = "has_base"},
        {.key = "page_count"},
        {.key = "stored_bytes"},
        {.key = "disks"},
        {.key = "files"},
    };
#undef MEMBER_TEXT
    const struct kelpie_json_member *member = members;
    bool is_good = manifest_is_whole(text, length) &&
                   kelpie__json_members(text, length, members, KELPIE_ARRAY_COUNT(members)) == 0;
    *out = (struct kelpie_manifest){0};
#define READ_TEXT(field)                                                                           \
    is_good = is_good && kelpie__json_member_string(member, out->field, sizeof(out->field));       \
    member += 1;
    MANIFEST_TEXTS(READ_TEXT)
#undef READ_TEXT
    KELPIE_ASSERT(member + MEMBER_FILES + 1 == members + KELPIE_ARRAY_COUNT(members));
    return is_good && kelpie__json_member_i64(&member[MEMBER_CREATED_MS], &out->created_ms) &&
           kelpie__json_u64(&member[MEMBER_TSC_KHZ].value, &out->tsc_khz) == 0 &&
           read_u32(&member[MEMBER_CPU_COUNT].value, &out->cpu_count) &&
           read_u32(&member[MEMBER_MEMORY_MIB].value, &out->memory_mib) &&
           kelpie__json_bool(&member[MEMBER_IS_PAUSED].value, &out->is_paused) == 0 &&
           kelpie__json_bool(&member[MEMBER_HAS_BASE].value, &out->has_base) == 0 &&
           kelpie__json_u64(&member[MEMBER_PAGE_COUNT].value, &out->page_count) == 0 &&
           kelpie__json_u64(&member[MEMBER_STORED_BYTES].value, &out->stored_bytes) == 0 &&
           read_lists(&member[MEMBER_DISKS].value, &member[MEMBER_FILES].value, out) &&
           kelpie__config_check_name(out->name, NULL) == 0;
}

int kelpie__manifest_parse(const char *text, size_t length, struct kelpie_manifest *out,
                           struct kelpie_error *error) {
    uint64_t format = 0;
    struct kelpie_manifest manifest;
    KELPIE_ASSERT(length < KELPIE_MANIFEST_BYTES_MAX);
    if (kelpie__json_find_u64(text, length, "format", &format) == 0 &&
        format > KELPIE_MANIFEST_FORMAT) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                            "the snapshot has format %llu, this version knows %u; use a newer "
                            "Kelpie",
                            (unsigned long long)format, KELPIE_MANIFEST_FORMAT);
    }
    if (length == 0 || format == 0 || !manifest_read(text, length, &manifest)) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            KELPIE_MANIFEST_FILE " is damaged; the snapshot can only be removed");
    }
    manifest.format = (uint32_t)format;
    *out = manifest;
    return 0;
}

int kelpie__manifest_read(struct kelpie_os *os, int directory, struct kelpie_manifest *out,
                          struct kelpie_error *error) {
    char text[KELPIE_MANIFEST_BYTES_MAX];
    int64_t length =
        kelpie__small_file_read_at(os, directory, KELPIE_MANIFEST_FILE, text, sizeof(text));
    KELPIE_ASSERT(length < (int64_t)sizeof(text));
    if (length == -ENOENT) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "there is no " KELPIE_MANIFEST_FILE "; it can only be removed");
    }
    if (length < 0 && length != -EFBIG) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-length, "read " KELPIE_MANIFEST_FILE);
    }
    return kelpie__manifest_parse(text, length < 0 ? 0 : (size_t)length, out, error);
}
