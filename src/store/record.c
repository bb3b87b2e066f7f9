/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See record.h.
 */
#include "store/record.h"

#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/small_file.h"
#include "core/state.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/manifest.h"

static int64_t record_format(const struct kelpie_vm_record *record, char *out, size_t capacity) {
    /* Texts that come from outside may be escaped to six bytes each. */
    static_assert(6 * (sizeof(((struct kelpie_vm_record *)0)->kernel) +
                       sizeof(((struct kelpie_vm_record *)0)->reason) +
                       sizeof(((struct kelpie_vm_record *)0)->accelerator_reason) +
                       sizeof(((struct kelpie_vm_record *)0)->backend_reason)) +
                          KELPIE_DISK_LAYER_COUNT_MAX * (KELPIE_RECORD_LAYER_BYTES_MAX + 4u) +
                          1024u <=
                      KELPIE_RECORD_JSON_BYTES_MAX,
                  "every record can be written");
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", KELPIE_RECORD_FORMAT);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(record->state));
    kelpie__json_write_string(&writer, "previous", kelpie_vm_state_name(record->previous));
    kelpie__json_write_i64(&writer, "changed_ms", record->changed_ms);
    kelpie__json_write_string(&writer, "reason", record->reason);
    kelpie__json_write_string(&writer, "backend", record->backend);
    kelpie__json_write_string(&writer, "backend_reason", record->backend_reason);
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
    kelpie__json_write_string(&writer, "pool", record->pool);
    kelpie__json_write_string(&writer, "lifetime", record->lifetime);
    kelpie__json_write_i64(&writer, "lease_end_ms", record->lease_end_ms);
    kelpie__json_write_bool(&writer, "is_snapshot_used", record->is_snapshot_used);
    kelpie__json_write_u64(&writer, "boot_us", record->boot_us);
    kelpie__json_write_i64(&writer, "monitor_pid", record->monitor_pid);
    kelpie__json_write_i64(&writer, "vmm_pid", record->vmm_pid);
    kelpie__json_write_string(&writer, "boot_id", record->boot_id);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

int kelpie__record_write(struct kelpie_os *os, int directory, const struct kelpie_vm_record *record,
                         bool is_synced, struct kelpie_error *error) {
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(record->monitor_pid >= 0);
    KELPIE_ASSERT(record->vmm_pid >= 0);
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

#define RECORD_MEMBERS(M)                                                                          \
    M(format)                                                                                      \
    M(state)                                                                                       \
    M(previous)                                                                                    \
    M(changed_ms)                                                                                  \
    M(reason)                                                                                      \
    M(backend)                                                                                     \
    M(backend_reason)                                                                              \
    M(pause)                                                                                       \
    M(accelerator)                                                                                 \
    M(accelerator_reason)                                                                          \
    M(origin)                                                                                      \
    M(kernel)                                                                                      \
    M(parent)                                                                                      \
    M(layers)                                                                                      \
    M(pool)                                                                                        \
    M(lifetime)                                                                                    \
    M(lease_end_ms)                                                                                \
    M(is_snapshot_used)                                                                            \
    M(boot_us)                                                                                     \
    M(monitor_pid)                                                                                 \
    M(vmm_pid)                                                                                     \
    M(boot_id)

/* As record_format writes them. */
enum record_member {
#define MEMBER_INDEX(name) RECORD_##name,
    RECORD_MEMBERS(MEMBER_INDEX)
#undef MEMBER_INDEX
        RECORD_MEMBER_COUNT,
};

static bool read_state(const struct kelpie_json_member *member, enum kelpie_vm_state *out) {
    char name[16];
    return kelpie__json_string(&member->value, name, sizeof(name), NULL) == 0 &&
           kelpie__state_parse(name, out);
}

static void read_pid(const struct kelpie_json_member *member, int32_t *out) {
    int64_t value = 0;
    if (kelpie__json_i64(&member->value, &value) == 0 && value > 0 && value <= INT32_MAX) {
        *out = (int32_t)value;
    }
}

/* One that is damaged would lose what the disk holds. */
bool kelpie__record_read_layers(const struct kelpie_json_member *member,
                                struct kelpie_vm_record *out) {
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    out->layer_count = 0;
    if (!member->is_there) {
        return true;
    }
    if (kelpie__json_iterate(&member->value, &iterator) < 0 || iterator.is_object) {
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
    KELPIE_ASSERT(out->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    return found == 0;
}

/* The state is needed; what else is missing stays empty, so that older files are read. */
static bool record_parse(const struct kelpie_json_member *members, struct kelpie_vm_record *out) {
    *out = (struct kelpie_vm_record){0};
    if (!read_state(&members[RECORD_state], &out->state) ||
        !kelpie__record_read_layers(&members[RECORD_layers], out)) {
        return false;
    }
    out->previous = KELPIE_VM_CREATED;
    kelpie__ignore(read_state(&members[RECORD_previous], &out->previous));
    if (kelpie__state_is_live(out->previous)) { /* no start goes back to that: not of our making */
        return false;
    }
#define READ_TEXT(field)                                                                           \
    kelpie__ignore(                                                                                \
        kelpie__json_string(&members[RECORD_##field].value, out->field, sizeof(out->field), NULL))
    READ_TEXT(reason);
    READ_TEXT(backend);
    READ_TEXT(backend_reason);
    READ_TEXT(pause);
    READ_TEXT(accelerator);
    READ_TEXT(accelerator_reason);
    READ_TEXT(origin);
    READ_TEXT(kernel);
    READ_TEXT(parent);
    READ_TEXT(pool);
    READ_TEXT(lifetime);
    READ_TEXT(boot_id);
#undef READ_TEXT
    kelpie__ignore(kelpie__json_i64(&members[RECORD_changed_ms].value, &out->changed_ms));
    kelpie__ignore(kelpie__json_i64(&members[RECORD_lease_end_ms].value, &out->lease_end_ms));
    kelpie__ignore(
        kelpie__json_bool(&members[RECORD_is_snapshot_used].value, &out->is_snapshot_used));
    kelpie__ignore(kelpie__json_u64(&members[RECORD_boot_us].value, &out->boot_us));
    read_pid(&members[RECORD_monitor_pid], &out->monitor_pid);
    read_pid(&members[RECORD_vmm_pid], &out->vmm_pid);
    KELPIE_ASSERT(!kelpie__state_is_live(out->previous));
    KELPIE_ASSERT(out->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    return true;
}

enum record_outcome { RECORD_WHOLE, RECORD_TORN, RECORD_ABSENT, RECORD_UNREADABLE };

static enum record_outcome record_load(struct kelpie_os *os, int directory,
                                       struct kelpie_vm_record *out, struct kelpie_error *error) {
    KELPIE_ASSERT(directory >= 0);
    char text[KELPIE_RECORD_JSON_BYTES_MAX];
    uint64_t format = 0;
    int64_t length =
        kelpie__small_file_read_at(os, directory, KELPIE_RECORD_FILE, text, sizeof(text));
    if (length < 0) {
        kelpie__ignore(kelpie__fail(error, KELPIE_E_IO, (int)-length, "read " KELPIE_RECORD_FILE));
        return length == -ENOENT ? RECORD_ABSENT : RECORD_UNREADABLE;
    }
    struct kelpie_json_member members[] = {
#define MEMBER_KEY(name) {.key = #name},
        RECORD_MEMBERS(MEMBER_KEY)
#undef MEMBER_KEY
    };
    bool is_whole = kelpie__json_members(text, (size_t)length, members, RECORD_MEMBER_COUNT) == 0;
    if (is_whole && kelpie__json_u64(&members[RECORD_format].value, &format) == 0 &&
        format != KELPIE_RECORD_FORMAT) {
        kelpie__ignore(kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                                    KELPIE_RECORD_FILE
                                    " has format %llu, this version knows %u; use a newer "
                                    "Kelpie",
                                    (unsigned long long)format, KELPIE_RECORD_FORMAT));
        return RECORD_UNREADABLE;
    }
    if (!is_whole || !record_parse(members, out)) {
        kelpie__ignore(
            kelpie__fail(error, KELPIE_E_IO, 0, KELPIE_RECORD_FILE " is damaged; delete the VM"));
        return RECORD_TORN;
    }
    return RECORD_WHOLE;
}

int kelpie__record_read(struct kelpie_os *os, int directory, struct kelpie_vm_record *out,
                        struct kelpie_error *error) {
    struct kelpie_error why = {0};
    if (record_load(os, directory, out, &why) == RECORD_WHOLE) {
        return 0;
    }
    KELPIE_ASSERT(why.code < 0);
    if (error != NULL) {
        *error = why;
    }
    return why.code;
}

int kelpie__record_read_remains(struct kelpie_os *os, int directory, struct kelpie_vm_record *out,
                                struct kelpie_error *error) {
    struct kelpie_error why = {0};
    enum record_outcome outcome = record_load(os, directory, out, &why);
    KELPIE_ASSERT(outcome == RECORD_WHOLE || why.code < 0);
    if (outcome == RECORD_UNREADABLE) {
        if (error != NULL) {
            *error = why;
        }
        return why.code;
    }
    if (outcome != RECORD_WHOLE) {
        KELPIE_REACHED(os, "a state file was lost with the power");
        *out = (struct kelpie_vm_record){
            .state = KELPIE_VM_RUNNING, .previous = KELPIE_VM_CREATED, .is_lost = true};
    }
    KELPIE_ASSERT(!out->is_lost || kelpie__state_is_live(out->state));
    return 0;
}

void kelpie__record_read_boot_id(struct kelpie_os *os, char out[KELPIE_BOOT_ID_BYTES]) {
    int64_t length =
        kelpie__small_file_read(os, "/proc/sys/kernel/random/boot_id", out, KELPIE_BOOT_ID_BYTES);
    out[length <= 0 ? 0 : strcspn(out, "\n")] = '\0';
}
