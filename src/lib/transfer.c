/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Snapshots out of this state directory and into it, over a descriptor of the caller's, which may
 * be of any kind: one that is not ready is waited for in the loop.
 */
#include "store/transfer.h"

#include <errno.h>
#include <string.h>

#include "lib/internal.h"
#include "os/os_call.h"

struct transfer {
    struct kelpie *kelpie; /* borrowed: during the call */
    int handle;            /* borrowed: during the call */
    bool is_ready;
};

static void transfer_ready(void *context, uint32_t bits) {
    struct transfer *transfer = context;
    KELPIE_ASSERT(bits != 0);
    transfer->is_ready = true;
}

/* Until something can be read, or written. 0, or a negative errno value. */
static int transfer_wait(struct transfer *transfer, uint32_t bits) {
    struct kelpie_loop *loop = transfer->kelpie->loop;
    struct kelpie_error error = {0};
    uint32_t slot = 0;
    KELPIE_ASSERT(bits == KELPIE_OS_READABLE || bits == KELPIE_OS_WRITABLE);
    KELPIE_ASSERT(!loop->is_dispatching);
    transfer->is_ready = false;
    int status = kelpie__loop_watch(loop, transfer->handle, bits, transfer_ready, transfer, &slot);
    if (status < 0) {
        return -EAGAIN; /* what it answered: it cannot be waited for */
    }
    while (status == 0 && !transfer->is_ready) { /* bound: the peer's, as with any pipe */
        status = kelpie__turn(transfer->kelpie, -1, &error);
    }
    kelpie__loop_unwatch(loop, slot);
    return status < 0 ? -EIO : 0;
}

static int64_t transfer_read(void *context, void *out, size_t count) {
    struct transfer *transfer = context;
    KELPIE_ASSERT(transfer->handle >= 0);
    int64_t got = kelpie__os_read(transfer->kelpie->os, transfer->handle, out, count);
    if (got == -EAGAIN) {
        int status = transfer_wait(transfer, KELPIE_OS_READABLE);
        got = status < 0 ? status : -EINTR; /* tried again */
    }
    return got;
}

static int64_t transfer_write(void *context, const void *bytes, size_t count) {
    struct transfer *transfer = context;
    KELPIE_ASSERT(transfer->handle >= 0);
    int64_t put = kelpie__os_write(transfer->kelpie->os, transfer->handle, bytes, count);
    if (put == -EAGAIN) {
        int status = transfer_wait(transfer, KELPIE_OS_WRITABLE);
        put = status < 0 ? status : -EINTR;
    }
    return put;
}

static int transfer_begin(struct kelpie *kelpie, int fd, const char *what,
                          struct kelpie_snapshot_store *store, struct kelpie_error *error) {
    if (kelpie == NULL || fd < 0) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL, or no descriptor",
                            what);
    }
    if (kelpie->is_simulated) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "%s: a simulated world has no descriptors of this program's", what);
    }
    kelpie__handle_check(kelpie);
    int status = kelpie__check_may_block(kelpie, what, error);
    return status < 0 ? status
                      : kelpie__snapshot_store_open(store, kelpie->os, kelpie->places.state_path,
                                                    KELPIE_SNAPSHOTS_DIRECTORY, error);
}

int kelpie_snapshot_export(struct kelpie *kelpie, const char *name, int fd,
                           struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    struct kelpie_origin origin;
    struct transfer transfer = {.kelpie = kelpie, .handle = fd};
    const struct kelpie_parcel_output output = {.write = transfer_write, .context = &transfer};
    if (name == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_snapshot_export: name is NULL");
    }
    int status = transfer_begin(kelpie, fd, "kelpie_snapshot_export", &store, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&snapshot, &store, name, error);
    if (status == 0) {
        status = kelpie__origin_read(&origin, kelpie->os, kelpie->places.state_path, error);
        if (status == 0) {
            status = kelpie__snapshot_export(&snapshot, &origin, &output, error);
        }
        kelpie__snapshot_close(&snapshot);
    }
    kelpie__snapshot_store_close(&store);
    return status;
}

static int import_options(const struct kelpie_snapshot_import_options *given,
                          struct kelpie_snapshot_import *out, struct kelpie_error *error) {
    struct kelpie_snapshot_import_options options = {0};
    if (given != NULL && !kelpie__struct_is_sized(given)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_snapshot_import: struct_size is %zu; set it to sizeof the "
                            "options",
                            given->struct_size);
    }
    if (given != NULL) {
        memcpy(&options, given, (size_t)kelpie__min_u64(given->struct_size, sizeof(options)));
    }
    *out = (struct kelpie_snapshot_import){
        .name = options.name, .is_trusted = options.is_trusted, .is_synced = !options.is_unsynced};
    return 0;
}

int kelpie_snapshot_import(struct kelpie *kelpie, int fd,
                           const struct kelpie_snapshot_import_options *options,
                           struct kelpie_snapshot_info *out, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot_import order;
    struct kelpie_snapshot snapshot;
    struct kelpie_snapshot_info info;
    struct kelpie_origin origin;
    struct transfer transfer = {.kelpie = kelpie, .handle = fd};
    const struct kelpie_parcel_input input = {.read = transfer_read, .context = &transfer};
    int status = import_options(options, &order, error);
    if (status == 0 && out != NULL && !kelpie__struct_is_sized(out)) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0,
                              "kelpie_snapshot_import: struct_size of the result is not set");
    }
    if (status == 0) {
        status = transfer_begin(kelpie, fd, "kelpie_snapshot_import", &store, error);
    }
    if (status < 0) {
        return status;
    }
    status = kelpie__origin_read(&origin, kelpie->os, kelpie->places.state_path, error);
    if (status == 0) {
        status = kelpie__snapshot_import(&snapshot, &store, &origin, &input, &order, error);
    }
    if (status == 0) {
        kelpie__snapshot_describe(&snapshot.manifest, &info);
        kelpie__snapshot_close(&snapshot);
        if (out != NULL) {
            kelpie__struct_give(out, out->struct_size, &info, sizeof(info));
        }
    }
    kelpie__snapshot_store_close(&store);
    return status;
}
