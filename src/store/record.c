/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See record.h.
 */
#include "store/record.h"

#include "core/json.h"
#include "core/small_file.h"
#include "core/state.h"
#include "core/text.h"
#include "os/os_call.h"
#include "store/manifest.h"

static int64_t record_format(const struct kelpie_vm_record *record, char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", KELPIE_RECORD_FORMAT);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(record->state));
    kelpie__json_write_string(&writer, "previous", kelpie_vm_state_name(record->previous));
    kelpie__json_write_i64(&writer, "changed_ms", record->changed_ms);
    kelpie__json_write_string(&writer, "reason", record->reason);
    kelpie__json_write_string(&writer, "backend", record->backend);
    kelpie__json_write_string(&writer, "pause", record->pause);
    kelpie__json_write_string(&writer, "accelerator", record->accelerator);
    kelpie__json_write_string(&writer, "accelerator_reason", record->accelerator_reason);
    kelpie__json_write_string(&writer, "origin", record->origin);
    kelpie__json_write_string(&writer, "kernel", record->kernel);
    kelpie__json_write_string(&writer, "parent", record->parent);
    KELPIE_ASSERT(record->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    kelpie__json_array_begin(&writer, "layers");
    for (uint32_t i = 0; i < record->layer_count; i += 1) {
        kelpie__json_write_string(&writer, NULL, record->layers[i]);
    }
    kelpie__json_array_end(&writer);
    kelpie__json_write_bool(&writer, "is_snapshot_used", record->is_snapshot_used);
    kelpie__json_write_u64(&writer, "boot_us", record->boot_us);
    kelpie__json_write_i64(&writer, "monitor_pid", record->monitor_pid);
    kelpie__json_write_i64(&writer, "vmm_pid", record->vmm_pid);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

int kelpie__record_write(struct kelpie_os *os, int directory, const struct kelpie_vm_record *record,
                         bool is_synced, struct kelpie_error *error) {
    char text[KELPIE_RECORD_JSON_BYTES_MAX];
    int64_t length = record_format(record, text, sizeof(text));
    KELPIE_ASSERT(length > 0); /* every field is bounded far below the buffer */
    int status = is_synced ? kelpie__small_file_replace_synced(os, directory, KELPIE_RECORD_FILE,
                                                               text, (size_t)length, error)
                           : kelpie__small_file_replace(os, directory, KELPIE_RECORD_FILE, text,
                                                        (size_t)length, error);
    if (status < 0 || !is_synced) {
        return status;
    }
    status = kelpie__os_sync(os, directory);
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "sync the VM's directory") : 0;
}

static bool read_state(const char *text, size_t length, const char *key,
                       enum kelpie_vm_state *out) {
    char name[16];
    return kelpie__json_find_string(text, length, key, name, sizeof(name)) == 0 &&
           kelpie__state_parse(name, out);
}

static void read_pid(const char *text, size_t length, const char *key, int32_t *out) {
    int64_t value = 0;
    if (kelpie__json_find_i64(text, length, key, &value) == 0 && value > 0 && value <= INT32_MAX) {
        *out = (int32_t)value;
    }
}

/* Without a list there are none; one that is damaged would lose what the disk holds. */
static bool read_layers(const char *text, size_t length, struct kelpie_vm_record *out) {
    struct kelpie_json_value list;
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    if (kelpie__json_find(text, length, "layers", &list) < 0) {
        return true;
    }
    if (kelpie__json_iterate(&list, &iterator) < 0 || iterator.is_object) {
        return false;
    }
    int found = kelpie__json_next(&iterator, NULL, &item);
    while (found == 1 && out->layer_count < KELPIE_DISK_LAYER_COUNT_MAX) {
        char *layer = out->layers[out->layer_count];
        if (kelpie__json_string(&item, layer, KELPIE_RECORD_LAYER_BYTES_MAX, NULL) < 0 ||
            !kelpie__manifest_is_file_name(layer)) {
            return false;
        }
        out->layer_count += 1;
        found = kelpie__json_next(&iterator, NULL, &item);
    }
    return found == 0;
}

/* The state is needed; what else is missing stays empty, so that older files are read. */
static bool record_parse(const char *text, size_t length, struct kelpie_vm_record *out) {
    *out = (struct kelpie_vm_record){0};
    if (!read_state(text, length, "state", &out->state) || !read_layers(text, length, out)) {
        return false;
    }
    out->previous = KELPIE_VM_CREATED;
    kelpie__ignore(read_state(text, length, "previous", &out->previous));
#define READ_TEXT(field)                                                                           \
    kelpie__ignore(kelpie__json_find_string(text, length, #field, out->field, sizeof(out->field)))
    READ_TEXT(reason);
    READ_TEXT(backend);
    READ_TEXT(pause);
    READ_TEXT(accelerator);
    READ_TEXT(accelerator_reason);
    READ_TEXT(origin);
    READ_TEXT(kernel);
    READ_TEXT(parent);
#undef READ_TEXT
    kelpie__ignore(kelpie__json_find_i64(text, length, "changed_ms", &out->changed_ms));
    kelpie__ignore(
        kelpie__json_find_bool(text, length, "is_snapshot_used", &out->is_snapshot_used));
    kelpie__ignore(kelpie__json_find_u64(text, length, "boot_us", &out->boot_us));
    read_pid(text, length, "monitor_pid", &out->monitor_pid);
    read_pid(text, length, "vmm_pid", &out->vmm_pid);
    return true;
}

int kelpie__record_read(struct kelpie_os *os, int directory, struct kelpie_vm_record *out,
                        struct kelpie_error *error) {
    char text[KELPIE_RECORD_JSON_BYTES_MAX];
    uint64_t format = 0;
    int64_t length =
        kelpie__small_file_read_at(os, directory, KELPIE_RECORD_FILE, text, sizeof(text));
    if (length < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-length, "read " KELPIE_RECORD_FILE);
    }
    if (kelpie__json_find_u64(text, (size_t)length, "format", &format) == 0 &&
        format != KELPIE_RECORD_FORMAT) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            KELPIE_RECORD_FILE
                            " has format %llu, this version knows %u; use a newer "
                            "Kelpie",
                            (unsigned long long)format, KELPIE_RECORD_FORMAT);
    }
    if (!record_parse(text, (size_t)length, out)) {
        return kelpie__fail(error, KELPIE_E_IO, 0, KELPIE_RECORD_FILE " is damaged; delete the VM");
    }
    return 0;
}
