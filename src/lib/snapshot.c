/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Snapshots: taking one is asked of the VM's monitor; what is in the store is looked at, checked
 * and removed without any.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "store/snapshot.h"

/* name and label, every byte escaped to six */
#define SNAPSHOT_PARAMS_BYTES                                                                      \
    (6u * (KELPIE_NAME_BYTES_MAX + KELPIE_SNAPSHOT_LABEL_BYTES_MAX) + 128u)
/* The monitor has a deadline of its own for the work, and shorter ones for the guest and the VMM.
 */
#define SNAPSHOT_CALL_TIMEOUT_MS (KELPIE_SNAPSHOT_TIMEOUT_MS + 60000u)

/* ---- taking one ------------------------------------------------------------------------------ */

struct snapshot_call {
    struct kelpie_request request;
    bool is_transient; /* VMs are made of it at once, and then it goes */
    char params[SNAPSHOT_PARAMS_BYTES];
};

static_assert(offsetof(struct kelpie_snapshot_info, struct_size) == 0, "the size comes first");
static_assert(offsetof(struct kelpie_snapshot_result, struct_size) == 0, "the size comes first");
static_assert(SNAPSHOT_PARAMS_BYTES >=
                  6u * KELPIE_SNAPSHOT_LABEL_BYTES_MAX + KELPIE_NAME_BYTES_MAX + 128u,
              "a label may be escaped, a name needs no escapes");

static void take_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    KELPIE_ASSERT(operation->read == take_read);
    KELPIE_ASSERT(operation->result != NULL);
    kelpie__ignore(kelpie__json_find_string(answer, length, "id", result.id, sizeof(result.id)));
    kelpie__ignore(
        kelpie__json_find_string(answer, length, "name", result.name, sizeof(result.name)));
    kelpie__ignore(kelpie__json_find_u64(answer, length, "bytes", &result.stored_bytes));
    kelpie__ignore(kelpie__json_find_u64(answer, length, "pause_us", &result.pause_us));
    kelpie__struct_give(operation->result, operation->result_bytes, &result, sizeof(result));
}

static int take_options(const struct kelpie_snapshot_options *given,
                        struct kelpie_snapshot_options *out, struct kelpie_error *error) {
    *out = (struct kelpie_snapshot_options){0};
    if (given == NULL) {
        return 0;
    }
    if (!kelpie__struct_is_sized(given)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_snapshot: struct_size is %zu; set it to sizeof the options",
                            given->struct_size);
    }
    memcpy(out, given, (size_t)kelpie__min_u64(given->struct_size, sizeof(*out)));
    if (out->name != NULL && kelpie__config_check_name(out->name, error) < 0) {
        return KELPIE_E_CONFIG;
    }
    size_t length = out->label == NULL ? 0 : strlen(out->label);
    if (length > KELPIE_SNAPSHOT_LABEL_BYTES_MAX) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "label", "label: %zu bytes, at most %u",
                                  length, KELPIE_SNAPSHOT_LABEL_BYTES_MAX);
    }
    return 0;
}

static void take_params(struct snapshot_call *call, const struct kelpie_snapshot_options *options) {
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(options->name == NULL || options->name[0] != '\0');
    kelpie__json_begin(&writer, call->params, sizeof(call->params));
    kelpie__json_object_begin(&writer, NULL);
    if (options->name != NULL) {
        kelpie__json_write_string(&writer, "name", options->name);
    }
    if (options->label != NULL) {
        kelpie__json_write_string(&writer, "label", options->label);
    }
    if (options->is_synced || options->is_unsynced) {
        kelpie__json_write_bool(&writer, "synced", options->is_synced);
    }
    if (call->is_transient) {
        kelpie__json_write_bool(&writer, "transient", true);
    }
    kelpie__json_write_bool(&writer, "stop", options->stops_vm);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT((size_t)length < sizeof(call->params));
    KELPIE_ASSERT(length > 0);
}

static int take(struct kelpie_vm *vm, const struct kelpie_snapshot_options *given,
                bool is_transient, struct kelpie_snapshot_result *out,
                const struct kelpie_call_form *form, struct kelpie_error *error) {
    struct snapshot_call call = {.is_transient = is_transient};
    struct kelpie_snapshot_options options;
    int status = kelpie__call_check(vm, form, error);
    if (status == 0 && out != NULL && !kelpie__struct_is_sized(out)) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: struct_size of the result is not set",
                              form->function);
    }
    if (status == 0) {
        status = take_options(given, &options, error);
    }
    if (status < 0) {
        return status;
    }
    take_params(&call, &options);
    call.request = (struct kelpie_request){
        .method = "vm.snapshot",
        .params = call.params,
        .timeout_ms = SNAPSHOT_CALL_TIMEOUT_MS,
        .read = out == NULL ? NULL : take_read,
        .result = out,
        .result_bytes = out == NULL ? 0 : out->struct_size,
    };
    KELPIE_ASSERT(call.params[0] == '{');
    status = kelpie__call_connect_live(vm, form, KELPIE_VERB_SNAPSHOT, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &call.request, error);
}

int kelpie_vm_snapshot(struct kelpie_vm *vm, const struct kelpie_snapshot_options *options,
                       struct kelpie_snapshot_result *out, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_snapshot");
    return take(vm, options, false, out, &form, error);
}

int kelpie__vm_snapshot_transient(struct kelpie_vm *vm,
                                  const struct kelpie_snapshot_options *options,
                                  struct kelpie_snapshot_result *out, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_snapshot");
    return take(vm, options, true, out, &form, error);
}

int kelpie_vm_snapshot_async(struct kelpie_vm *vm, const struct kelpie_snapshot_options *options,
                             struct kelpie_snapshot_result *out_result,
                             kelpie_done_callback callback, void *context,
                             struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_snapshot_async", callback, context, out);
    return take(vm, options, false, out_result, &form, error);
}

/* ---- the store ------------------------------------------------------------------------------- */

static int store_open(struct kelpie *kelpie, struct kelpie_snapshot_store *store,
                      struct kelpie_error *error) {
    return kelpie__snapshot_store_open(store, kelpie->os, kelpie->places.state_path,
                                       KELPIE_SNAPSHOTS_DIRECTORY, error);
}

static int store_open_for(struct kelpie *kelpie, const char *name, const char *what,
                          struct kelpie_snapshot_store *store, struct kelpie_error *error) {
    if (kelpie == NULL || name == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", what);
    }
    kelpie__handle_check(kelpie);
    return store_open(kelpie, store, error);
}

#define INFO_COPY(field)                                                                           \
    kelpie__ignore(kelpie__text_copy(out->field, sizeof(out->field), manifest->field))

void kelpie__snapshot_describe(const struct kelpie_manifest *manifest,
                               struct kelpie_snapshot_info *out) {
    KELPIE_ASSERT(manifest->file_count <= KELPIE_ARRAY_COUNT(manifest->files));
    *out = (struct kelpie_snapshot_info){.struct_size = sizeof(*out)};
    INFO_COPY(id);
    INFO_COPY(name);
    INFO_COPY(label);
    INFO_COPY(vm_id);
    INFO_COPY(vm_name);
    INFO_COPY(parent);
    INFO_COPY(kind);
    INFO_COPY(architecture);
    INFO_COPY(backend);
    INFO_COPY(vmm_version);
    INFO_COPY(machine);
    INFO_COPY(cpu);
    INFO_COPY(accelerator);
    INFO_COPY(kernel_digest);
    INFO_COPY(checksum);
    out->format = manifest->format;
    out->created_ms = manifest->created_ms;
    out->cpus = manifest->cpu_count;
    out->memory_mib = manifest->memory_mib;
    out->disk_count = manifest->disk_count;
    out->file_count = manifest->file_count;
    out->tsc_khz = manifest->tsc_khz;
    out->page_count = manifest->page_count;
    out->stored_bytes = manifest->stored_bytes;
    out->is_paused = manifest->is_paused;
    out->has_base = manifest->has_base;
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        out->size_bytes += manifest->files[i].size_bytes;
    }
}

/* One that is damaged is described by its name, and by what is wrong with it. */
static int describe_by_name(const struct kelpie_snapshot_store *store, const char *name,
                            struct kelpie_snapshot_info *out) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    int status = kelpie__snapshot_open(&snapshot, store, name, &error);
    if (status == KELPIE_E_NOT_FOUND || status == KELPIE_E_BUSY) {
        return 1; /* removed meanwhile */
    }
    if (status < 0) {
        KELPIE_ASSERT(error.code == status);
        *out = (struct kelpie_snapshot_info){.struct_size = sizeof(*out), .is_damaged = true};
        kelpie__ignore(kelpie__text_copy(out->name, sizeof(out->name), name));
        kelpie__ignore(kelpie__text_copy(out->problem, sizeof(out->problem), error.message));
        return 0;
    }
    kelpie__snapshot_describe(&snapshot.manifest, out);
    kelpie__ignore(kelpie__text_copy(out->name, sizeof(out->name), name)); /* the one that counts */
    kelpie__snapshot_close(&snapshot);
    return 0;
}

int kelpie_snapshot_inspect(struct kelpie *kelpie, const char *name,
                            struct kelpie_snapshot_info *out, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    struct kelpie_snapshot_info info;
    if (!kelpie__struct_is_sized(out)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_snapshot_inspect: out is NULL, or struct_size is not set");
    }
    int status = store_open_for(kelpie, name, "kelpie_snapshot_inspect", &store, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&snapshot, &store, name, error);
    if (status == 0) {
        kelpie__snapshot_describe(&snapshot.manifest, &info);
        kelpie__struct_give(out, out->struct_size, &info, sizeof(info));
        kelpie__snapshot_close(&snapshot);
    }
    kelpie__snapshot_store_close(&store);
    return status;
}

int kelpie_snapshot_verify(struct kelpie *kelpie, const char *name, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    int status = store_open_for(kelpie, name, "kelpie_snapshot_verify", &store, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&snapshot, &store, name, error);
    if (status == 0) {
        status = kelpie__snapshot_verify(&snapshot, true, error);
        kelpie__snapshot_close(&snapshot);
    }
    kelpie__snapshot_store_close(&store);
    return status;
}

int kelpie_snapshot_remove(struct kelpie *kelpie, const char *name, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    int status = store_open_for(kelpie, name, "kelpie_snapshot_remove", &store, error);
    if (status == 0) {
        status = kelpie__snapshot_remove(&store, name, error);
        kelpie__snapshot_store_close(&store);
    }
    return status;
}

/* ---- the list -------------------------------------------------------------------------------- */

static bool comes_before(const struct kelpie_snapshot_info *a,
                         const struct kelpie_snapshot_info *b) {
    return a->created_ms != b->created_ms ? a->created_ms < b->created_ms
                                          : strcmp(a->name, b->name) < 0;
}

static int list_add(struct kelpie *kelpie, const struct kelpie_snapshot_info *info,
                    struct kelpie_snapshot_info **list, size_t *count, struct kelpie_error *error) {
    size_t bytes = *count * sizeof(*info);
    KELPIE_ASSERT((*list == NULL) == (*count == 0));
    struct kelpie_snapshot_info *grown =
        kelpie__resize(kelpie->os, *list, bytes, bytes + sizeof(*info));
    if (grown == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a list of snapshots");
    }
    size_t place = *count;
    while (place > 0 && comes_before(info, &grown[place - 1])) { /* bound: the list */
        grown[place] = grown[place - 1];
        place -= 1;
    }
    grown[place] = *info;
    *list = grown;
    *count += 1;
    return 0;
}

int kelpie_snapshot_list(struct kelpie *kelpie, struct kelpie_snapshot_info **out,
                         size_t *out_count, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot_info *list = NULL;
    struct kelpie_snapshot_info info;
    uint64_t cursor = 0;
    char name[KELPIE_NAME_BYTES_MAX + 1];
    size_t count = 0;
    if (kelpie == NULL || out == NULL || out_count == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_snapshot_list: an argument is NULL");
    }
    int status = store_open(kelpie, &store, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_list(&store, &cursor, name, error);
    while (status == 1) { /* bound: the directory */
        status = describe_by_name(&store, name, &info) == 0
                     ? list_add(kelpie, &info, &list, &count, error)
                     : 0;
        if (status == 0) {
            status = kelpie__snapshot_list(&store, &cursor, name, error);
        }
    }
    kelpie__snapshot_store_close(&store);
    if (status < 0) {
        kelpie_snapshot_list_free(kelpie, list, count);
        return status;
    }
    KELPIE_ASSERT((list == NULL) == (count == 0));
    *out = list;
    *out_count = count;
    return 0;
}

void kelpie_snapshot_list_free(struct kelpie *kelpie, struct kelpie_snapshot_info *list,
                               size_t count) {
    if (count > 0) { /* another count than the list's is the embedder's mistake */
        kelpie__free(kelpie->os, list, count * sizeof(*list));
    }
}

void kelpie__snapshots_prune(struct kelpie *kelpie) {
    struct kelpie_snapshot_store store;
    struct kelpie_error ignored = {0};
    if (store_open(kelpie, &store, &ignored) == 0) { /* whoever uses them is told the reason */
        kelpie__snapshot_prune(&store, &kelpie->leftovers);
        kelpie__snapshot_store_close(&store);
    }
}
