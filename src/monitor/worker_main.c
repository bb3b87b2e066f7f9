/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See worker.h: the program. One job, then its answer, and the end.
 */
#include <string.h>

#include "core/json.h"
#include "core/options.h"
#include "core/text.h"
#include "monitor/source.h"
#include "monitor/worker.h"
#include "os/os_call.h"
#include "store/template.h"

#define WORKER_TEXT_BYTES_MAX 16384u
#define WORKER_WRITES_MAX 64u

static int worker_options_read(struct kelpie_worker_options *options, int argc, char **argv,
                               struct kelpie_error *error) {
    const char *synced = "no";
    const char *transient = "no";
    *options = (struct kelpie_worker_options){.merged = ""};
    const struct kelpie_option known[] = {
        {KELPIE_WORKER_OPTION, &options->job, KELPIE_OPTION_NAME},
        {"--store", &options->store, KELPIE_OPTION_PATH},
        {"--entry", &options->entry, KELPIE_OPTION_NAME},
        {"--vm", &options->vm, KELPIE_OPTION_PATH},
        {"--root", &options->root, KELPIE_OPTION_TEXT},
        {"--kernel", &options->kernel, KELPIE_OPTION_TEXT},
        {"--merged", &options->merged, KELPIE_OPTION_TEXT},
        {"--synced", &synced, KELPIE_OPTION_NAME},
        {"--transient", &transient, KELPIE_OPTION_NAME},
    };
    int status =
        kelpie__options_read(known, KELPIE_ARRAY_COUNT(known), argc, argv, "kelpie-monitor", error);
    options->is_synced = kelpie__text_equal(synced, "yes");
    options->is_transient = kelpie__text_equal(transient, "yes");
    if (status == 0 && options->merged[0] != '\0' &&
        !kelpie__manifest_is_file_name(options->merged)) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0,
                              "--merged is \"%s\", which is no name of a file", options->merged);
    }
    return status;
}

static int worker_verify(struct kelpie_snapshot_store *store,
                         const struct kelpie_worker_options *options, struct kelpie_error *error) {
    struct kelpie_snapshot snapshot;
    int status = kelpie__snapshot_open(&snapshot, store, options->entry, error);
    if (status < 0) {
        return status;
    }
    int vm = kelpie__os_open(store->os, KELPIE_OS_CWD, options->vm,
                             KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    status = vm < 0 ? kelpie__fail(error, KELPIE_E_IO, -vm, "open \"%s\"", options->vm)
                    : kelpie__source_work(&snapshot, vm, error);
    if (vm >= 0) {
        kelpie__ignore(kelpie__os_close(store->os, vm));
    }
    kelpie__snapshot_close(&snapshot);
    return status;
}

/* Gives the bytes on the disk. Whatever fails, nothing of the snapshot is left. */
static int worker_run(struct kelpie_snapshot_store *store,
                      const struct kelpie_worker_options *options, uint64_t *out_bytes,
                      bool *out_is_removed, struct kelpie_error *error) {
    struct kelpie_snapshot snapshot = {0};
    bool is_template = kelpie__text_equal(options->job, KELPIE_WORKER_TEMPLATE);
    bool is_seal = is_template || kelpie__text_equal(options->job, KELPIE_WORKER_SEAL);
    KELPIE_ASSERT(store->directory >= 0);
    KELPIE_ASSERT(!*out_is_removed);
    if (kelpie__text_equal(options->job, KELPIE_WORKER_VERIFY)) {
        return worker_verify(store, options, error);
    }
    if (!is_seal && !kelpie__text_equal(options->job, KELPIE_WORKER_REMOVE)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "there is no job \"%s\"", options->job);
    }
    int status = kelpie__snapshot_adopt(&snapshot, store, options->entry,
                                        KELPIE_WORKER_HANDLE_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    if (is_seal) {
        struct kelpie_os_stat stat;
        bool has_base =
            kelpie__os_stat(store->os, KELPIE_WORKER_HANDLE_BASE, "", false, &stat) == 0 &&
            stat.kind == KELPIE_OS_KIND_FILE; /* else it is /dev/null */
        status = kelpie__worker_seal(
            &snapshot, options, has_base ? KELPIE_WORKER_HANDLE_BASE : KELPIE_OS_NO_HANDLE, error);
        *out_bytes = snapshot.manifest.stored_bytes;
    }
    if (!is_seal || status < 0) {
        kelpie__snapshot_abandon(&snapshot);
        *out_is_removed = true;
    } else if (is_template) {
        struct kelpie_template_bounds bounds = kelpie__template_bounds_default();
        struct kelpie_leftovers pruned;
        kelpie__snapshot_prune(store, NULL); /* what makers left that died */
        kelpie__template_prune(store, &bounds, snapshot.manifest.name, false, &pruned);
    }
    return status;
}

static void worker_answer(struct kelpie_os *os, int status, uint64_t bytes, bool is_removed,
                          const struct kelpie_error *error) {
    struct kelpie_json_writer writer;
    char text[WORKER_TEXT_BYTES_MAX];
    static_assert(sizeof(text) > 6 * sizeof(error->message), "every byte may be escaped");
    KELPIE_ASSERT(status <= 0);
    KELPIE_ASSERT(status == 0 || error->code == status);
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    if (status == 0) {
        kelpie__json_write_u64(&writer, "bytes", bytes);
    } else {
        kelpie__json_write_i64(&writer, "code", error->code);
        kelpie__json_write_i64(&writer, "os_error", error->os_error);
        kelpie__json_write_string(&writer, "field", error->field);
        kelpie__json_write_string(&writer, "message", error->message);
        kelpie__json_write_bool(&writer, "is_removed", is_removed);
    }
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* six times the message, and little else */
    int64_t done = 0;
    for (uint32_t i = 0; i < WORKER_WRITES_MAX && done < length; i += 1) {
        int64_t put =
            kelpie__os_write(os, KELPIE_WORKER_HANDLE_OUTPUT, text + done, (size_t)(length - done));
        done += put > 0 ? put : 0;
    }
}

bool kelpie__worker_read_error(const char *text, size_t length, struct kelpie_error *out) {
    int64_t code = 0;
    int64_t os_error = 0;
    struct kelpie_error error = {0};
    if (kelpie__json_find_i64(text, length, "code", &code) < 0 || code >= 0 ||
        code < KELPIE_CODE_LAST ||
        kelpie__json_find_string(text, length, "message", error.message, sizeof(error.message)) <
            0) {
        return false;
    }
    kelpie__ignore(kelpie__json_find_i64(text, length, "os_error", &os_error));
    kelpie__ignore(
        kelpie__json_find_string(text, length, "field", error.field, sizeof(error.field)));
    error.code = (int)code;
    error.os_error = os_error > 0 && os_error < INT32_MAX ? (int)os_error : 0;
    *out = error;
    return true;
}

int kelpie__worker_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_worker_options options;
    struct kelpie_snapshot_store store = {0};
    struct kelpie_error error = {0};
    uint64_t bytes = 0;
    bool is_removed = false;
    int status = worker_options_read(&options, argc, argv, &error);
    if (status == 0) {
        status = kelpie__snapshot_store_open(&store, os, options.store, "", &error);
    }
    if (status == 0) {
        status = worker_run(&store, &options, &bytes, &is_removed, &error);
        kelpie__snapshot_store_close(&store);
    }
    worker_answer(os, status, bytes, is_removed, &error);
    return status < 0 ? 1 : 0;
}
