/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See lasting.h.
 */
#include "store/lasting.h"

#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/small_file.h"
#include "os/os_call.h"

#define LASTING_FORMAT 1u
#define LASTING_JSON_BYTES_MAX 8192u

static_assert(KELPIE_DISK_LAYER_COUNT_MAX * (KELPIE_RECORD_LAYER_BYTES_MAX + 4) + 256 <
                  LASTING_JSON_BYTES_MAX,
              "names of layers have no byte that is escaped");

bool kelpie__lasting_differs(const struct kelpie_vm_record *a, const struct kelpie_vm_record *b) {
    KELPIE_ASSERT(a->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    bool differs = a->layer_count != b->layer_count || a->is_snapshot_used != b->is_snapshot_used;
    for (uint32_t i = 0; i < a->layer_count && !differs; i += 1) {
        differs = strcmp(a->layers[i], b->layers[i]) != 0;
    }
    return differs;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int64_t lasting_format(const struct kelpie_vm_record *record, char *out, size_t capacity) {
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", LASTING_FORMAT);
    kelpie__json_write_bool(&writer, "is_snapshot_used", record->is_snapshot_used);
    kelpie__json_array_begin(&writer, "layers");
    for (uint32_t i = 0; i < record->layer_count; i += 1) {
        kelpie__json_write_string(&writer, NULL, record->layers[i]);
    }
    kelpie__json_array_end(&writer);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

/* Whoever made it did not: only what is to last needs that. */
static int sync_layer(struct kelpie_os *os, int directory, const char *name,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(name[0] != '\0');
    int file = kelpie__os_open(os, directory, name, KELPIE_OS_OPEN_READ, 0);
    int status = file < 0 ? file : kelpie__os_sync(os, file);
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(os, file)); /* nothing was written through it */
    }
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status,
                                     "sync the layer \"%s\" of the VM's disk", name)
                      : 0;
}

int kelpie__lasting_write(struct kelpie_os *os, int directory,
                          const struct kelpie_vm_record *record, uint32_t known_count,
                          struct kelpie_error *error) {
    char text[LASTING_JSON_BYTES_MAX];
    int status = 0;
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    KELPIE_ASSERT(known_count <= record->layer_count);
    KELPIE_ASSERT(directory >= 0);
    for (uint32_t i = known_count; i < record->layer_count && status == 0; i += 1) {
        status = sync_layer(os, directory, record->layers[i], error);
    }
    if (status == 0 && known_count < record->layer_count) { /* before any list names them */
        status = kelpie__os_sync(os, directory);
        status =
            status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "sync the VM's directory") : 0;
    }
    if (status < 0) {
        return status;
    }
    int64_t length = lasting_format(record, text, sizeof(text));
    KELPIE_ASSERT(length > 0); /* see above */
    return kelpie__small_file_replace_lasting(os, directory, KELPIE_LASTING_FILE, text,
                                              (size_t)length, error);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* False: it is damaged. */
static bool lasting_parse(const char *text, int64_t length, uint64_t *out_format,
                          struct kelpie_vm_record *out) {
    KELPIE_ASSERT(length >= 0);
    struct kelpie_json_member members[] = {
        {.key = "format"}, {.key = "is_snapshot_used"}, {.key = "layers"}};
    if (kelpie__json_members(text, (size_t)length, members, KELPIE_ARRAY_COUNT(members)) < 0 ||
        kelpie__json_u64(&members[0].value, out_format) < 0) {
        return false;
    }
    return *out_format != LASTING_FORMAT ||
           (members[2].is_there &&
            kelpie__json_bool(&members[1].value, &out->is_snapshot_used) == 0 &&
            kelpie__record_read_layers(&members[2], out));
}

/* Where the power cut a rename short there may be the new name only, whole (see
 * kelpie__small_file_replace_lasting); one that is not whole never had the other name. */
static int64_t lasting_load(struct kelpie_os *os, int directory, char *out, size_t capacity) {
    struct kelpie_vm_record record = {0};
    uint64_t format = 0;
    int64_t length = kelpie__small_file_read_at(os, directory, KELPIE_LASTING_FILE, out, capacity);
    if (length != -ENOENT) {
        return length;
    }
    length = kelpie__small_file_read_at(os, directory, KELPIE_LASTING_FILE ".new", out, capacity);
    return length >= 0 && !lasting_parse(out, length, &format, &record) ? -ENOENT : length;
}

int kelpie__lasting_read(struct kelpie_os *os, int directory, struct kelpie_vm_record *inout,
                         struct kelpie_error *error) {
    char text[LASTING_JSON_BYTES_MAX];
    uint64_t format = 0;
    int64_t length = lasting_load(os, directory, text, sizeof(text));
    if (length == -ENOENT) {
        return 0;
    }
    if (length < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-length, "read " KELPIE_LASTING_FILE);
    }
    struct kelpie_vm_record read = *inout;
    if (!lasting_parse(text, length, &format, &read)) {
        return kelpie__fail(error, KELPIE_E_IO, 0,
                            KELPIE_LASTING_FILE " is damaged; delete the VM");
    }
    if (format != LASTING_FORMAT) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            KELPIE_LASTING_FILE " has format %llu, this version knows %u; use a "
                                                "newer Kelpie",
                            (unsigned long long)format, LASTING_FORMAT);
    }
    KELPIE_ASSERT(read.layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    KELPIE_ASSERT(read.state == inout->state);
    *inout = read;
    return 0;
}
