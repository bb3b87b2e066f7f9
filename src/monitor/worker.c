/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See worker.h: the job that makes a snapshot whole. worker_main.c has the program and its other
 * jobs. Nothing is undone here but what the job itself made.
 */
#include "monitor/worker.h"

#include <string.h>

#include "core/checksum.h"
#include "core/text.h"
#include "monitor/source.h"
#include "os/os_call.h"
#include "store/copy.h"
#include "store/merge.h"
#include "store/seal.h"
#include "store/sums.h"
#include "store/vm_directory.h"

#define WORKER_FLAT_FILE "flat"
#define WORKER_FILE_MODE 0600u
/* A delta of more than this part of the memory is laid over its base. */
#define WORKER_DELTA_PART 4u
#define WORKER_PAGE_BYTES 4096u
#define WORKER_KERNEL_BYTES_MAX (UINT64_C(256) << 20)

struct worker {
    struct kelpie_os *os;
    struct kelpie_snapshot *snapshot;
    const struct kelpie_worker_options *options;
    int base;
    int vm;                       /* owned: the VM's directory */
    struct kelpie_manifest draft; /* with the names of files that are still to come */
    uint64_t own_bytes;           /* on the disk, of what is not shared */
};

/* ---- files ----------------------------------------------------------------------------------- */

static int worker_open(struct kelpie_os *os, int directory, const char *name,
                       struct kelpie_error *error) {
    int file = kelpie__os_open(os, directory, name, KELPIE_OS_OPEN_READ, 0);
    return file < 0 ? kelpie__fail(error, KELPIE_E_IO, -file, "open \"%s\"", name) : file;
}

/* Counts a file of the snapshot, unless it is another name of `source`. */
static void worker_count(struct worker *worker, const char *name, int source) {
    struct kelpie_os_stat mine;
    struct kelpie_os_stat theirs;
    KELPIE_ASSERT(worker->snapshot->directory >= 0);
    if (kelpie__os_stat(worker->os, worker->snapshot->directory, name, false, &mine) < 0) {
        return;
    }
    bool is_shared = source >= 0 && kelpie__os_stat(worker->os, source, "", false, &theirs) == 0 &&
                     mine.inode == theirs.inode && mine.device == theirs.device;
    worker->own_bytes += is_shared ? 0 : mine.allocated_bytes;
}

static int worker_link(struct worker *worker, int directory, const char *path, const char *name,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(kelpie__manifest_is_file_name(name));
    int file = worker_open(worker->os, directory, path, error);
    if (file < 0) {
        return file;
    }
    int status = kelpie__snapshot_add_link(worker->snapshot, name, file, true, error);
    if (status == 0) {
        worker_count(worker, name, file);
    }
    kelpie__ignore(kelpie__os_close(worker->os, file));
    return status;
}

/* By the monitor, into the directory itself. */
static bool worker_is_written(const char *name) {
    static const char *const names[] = {KELPIE_SNAPSHOT_DEVICE_FILE, KELPIE_SNAPSHOT_MEMORY_FILE,
                                        KELPIE_SNAPSHOT_MAP_FILE, KELPIE_SNAPSHOT_CONFIG_FILE};
    bool is_found = false;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
        is_found = is_found || strcmp(name, names[i]) == 0;
    }
    return is_found;
}

static int worker_copy_config(struct worker *worker, struct kelpie_error *error) {
    int copy = KELPIE_OS_NO_HANDLE;
    KELPIE_ASSERT(worker->vm >= 0);
    KELPIE_ASSERT(worker->snapshot->is_temporary);
    int file = worker_open(worker->os, worker->vm, KELPIE_VM_CONFIG_FILE, error);
    if (file < 0) {
        return file;
    }
    int status =
        kelpie__snapshot_add_file(worker->snapshot, KELPIE_SNAPSHOT_CONFIG_FILE, &copy, error);
    if (status == 0) {
        int result = kelpie__copy_file(worker->os, file, copy);
        int closed = kelpie__os_close(worker->os, copy);
        result = result < 0 ? result : closed;
        status = result < 0
                     ? kelpie__fail(error, KELPIE_E_IO, -result, "copy the VM's configuration")
                     : 0;
    }
    kelpie__ignore(kelpie__os_close(worker->os, file));
    return status;
}

static const struct kelpie_manifest_disk *worker_disk_of(const struct worker *worker,
                                                         const char *name) {
    KELPIE_ASSERT(worker->draft.disk_count <= KELPIE_MANIFEST_DISK_COUNT_MAX);
    for (uint32_t i = 0; i < worker->draft.disk_count; i += 1) {
        if (strcmp(worker->draft.disks[i].file, name) == 0) {
            return &worker->draft.disks[i];
        }
    }
    return NULL;
}

static bool worker_merges(const struct worker *worker) {
    return worker->options->merged != NULL && worker->options->merged[0] != '\0';
}

/* One layer of the VM's disk, into the image that has those below it. */
static int worker_merge_layer(struct worker *worker, const char *name, int image, bool is_lowest,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(worker_merges(worker));
    KELPIE_ASSERT(image >= 0);
    int layer = worker_open(worker->os, worker->vm, name, error);
    if (layer < 0) {
        return layer;
    }
    int status = 0;
    if (is_lowest) {
        int copied = kelpie__copy_file(worker->os, layer, image);
        status = copied < 0 ? kelpie__fail(error, KELPIE_E_IO, -copied, "copy \"%s\"", name) : 0;
    } else {
        status = kelpie__merge_layer(worker->os, layer, name, image, error);
    }
    kelpie__ignore(kelpie__os_close(worker->os, layer)); /* it was only read */
    return status;
}

/* All layers as one image, in the place of the uppermost, so that a disk has no more of them
 * however often it is saved. None of them is written any more, nor are they touched here. */
static int worker_merge(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_manifest *manifest = &worker->snapshot->manifest;
    const char *name = worker->options->merged;
    int image = KELPIE_OS_NO_HANDLE;
    bool is_lowest = true;
    KELPIE_ASSERT(worker_merges(worker));
    int status = kelpie__snapshot_add_file(worker->snapshot, name, &image, error);
    if (status < 0) {
        return status;
    }
    for (uint32_t i = 0; i < worker->draft.file_count && status == 0; i += 1) {
        const char *layer = worker->draft.files[i].name;
        const struct kelpie_manifest_disk *disk = worker_disk_of(worker, layer);
        if (!worker_is_written(layer) && (disk == NULL || !disk->is_read_only)) {
            status = worker_merge_layer(worker, layer, image, is_lowest, error);
            is_lowest = false;
        }
    }
    kelpie__ignore(kelpie__os_close(worker->os, image)); /* the seal syncs it */
    for (uint32_t i = 0; i < manifest->disk_count; i += 1) {
        struct kelpie_manifest_disk *disk = &manifest->disks[i];
        if (!disk->is_read_only) {
            kelpie__ignore(kelpie__text_copy(disk->file, sizeof(disk->file), name));
            kelpie__ignore(kelpie__text_copy(disk->format, sizeof(disk->format), "raw"));
        }
    }
    worker_count(worker, name, KELPIE_OS_NO_HANDLE);
    return status;
}

/* Takes over what the monitor wrote, and links the layers of the disks: the lowest first. */
static int worker_take_files(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_manifest *manifest = &worker->snapshot->manifest;
    int status = 0;
    KELPIE_ASSERT(worker->snapshot->is_temporary);
    KELPIE_ASSERT(worker->draft.file_count == 0);
    status = kelpie__manifest_read(worker->os, worker->snapshot->directory, &worker->draft, error);
    if (status < 0) {
        return status;
    }
    *manifest = worker->draft;
    manifest->file_count = 0;
    for (uint32_t i = 0; i < worker->draft.file_count && status == 0; i += 1) {
        const char *name = worker->draft.files[i].name;
        const struct kelpie_manifest_disk *disk = worker_disk_of(worker, name);
        if (worker_is_written(name)) {
            manifest->files[manifest->file_count] = worker->draft.files[i];
            manifest->file_count += 1;
        } else if (disk != NULL && disk->is_read_only) {
            status = worker_link(worker, KELPIE_OS_CWD, worker->options->root, name, error);
        } else if (!worker_merges(worker)) {
            status = worker_link(worker, worker->vm, name, name, error);
        }
    }
    return status == 0 && worker_merges(worker) ? worker_merge(worker, error) : status;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void worker_forget_file(struct kelpie_manifest *manifest, const char *name) {
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        if (strcmp(manifest->files[i].name, name) == 0) {
            memmove(&manifest->files[i], &manifest->files[i + 1],
                    (manifest->file_count - i - 1) * sizeof(manifest->files[0]));
            manifest->file_count -= 1;
            return;
        }
    }
}

static int flatten_files(struct worker *worker, int memory, int map, int flat,
                         struct kelpie_error *error) {
    struct kelpie_os *os = worker->os;
    int directory = worker->snapshot->directory;
    KELPIE_ASSERT(worker->base >= 0);
    int status = kelpie__worker_flatten(os, worker->base, memory, map, flat, error);
    if (status < 0) {
        return status;
    }
    int result = kelpie__os_rename(os, directory, WORKER_FLAT_FILE, directory,
                                   KELPIE_SNAPSHOT_MEMORY_FILE, true);
    if (result == 0) {
        result = kelpie__os_unlink(os, directory, KELPIE_SNAPSHOT_MAP_FILE, false);
    }
    return result < 0 ? kelpie__fail(error, KELPIE_E_IO, -result, "replace the snapshot's memory")
                      : 0;
}

static int worker_make_flat(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_os *os = worker->os;
    struct kelpie_manifest *manifest = &worker->snapshot->manifest;
    int directory = worker->snapshot->directory;
    KELPIE_ASSERT(manifest->has_base);
    KELPIE_ASSERT(worker->base >= 0);
    int memory = worker_open(os, directory, KELPIE_SNAPSHOT_MEMORY_FILE, error);
    int map = memory < 0 ? memory : worker_open(os, directory, KELPIE_SNAPSHOT_MAP_FILE, error);
    int flat = map;
    int status = map < 0 ? map : 0;
    if (status == 0) {
        flat = kelpie__os_open(os, directory, WORKER_FLAT_FILE,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_EXCLUSIVE,
                               WORKER_FILE_MODE);
        status = flat < 0 ? kelpie__fail(error, KELPIE_E_IO, -flat, "make a flat memory") : 0;
    }
    if (status == 0) {
        status = flatten_files(worker, memory, map, flat, error);
        kelpie__ignore(kelpie__os_close(os, flat));
    }
    if (status == 0) {
        worker_forget_file(manifest, KELPIE_SNAPSHOT_MAP_FILE);
        manifest->has_base = false;
    }
    if (map >= 0) {
        kelpie__ignore(kelpie__os_close(os, map));
    }
    if (memory >= 0) {
        kelpie__ignore(kelpie__os_close(os, memory));
    }
    return status;
}

/* A small delta lies over its base; a large one would cost every VM that is made from it, and is
 * laid into a memory of its own. Either way nothing of it lies over a third file. */
static int worker_memory(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_manifest *manifest = &worker->snapshot->manifest;
    uint64_t memory_bytes = (uint64_t)manifest->memory_mib << 20;
    if (!manifest->has_base) {
        return 0;
    }
    if (worker->base < 0) {
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0, "the memory's base was not handed over");
    }
    if (manifest->page_count * WORKER_PAGE_BYTES > memory_bytes / WORKER_DELTA_PART) {
        return worker_make_flat(worker, error);
    }
    int status = kelpie__snapshot_add_link(worker->snapshot, KELPIE_SNAPSHOT_BASE_FILE,
                                           worker->base, true, error);
    if (status == 0) {
        worker_count(worker, KELPIE_SNAPSHOT_BASE_FILE, worker->base);
    }
    return status;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Of a file that may have been replaced since: it tells kernels apart, and nothing is made of it.
 */
static void worker_kernel(struct worker *worker) {
    struct kelpie_manifest *manifest = &worker->snapshot->manifest;
    struct kelpie_os *os = worker->os;
    struct kelpie_os_stat stat = {0};
    static_assert(sizeof(manifest->kernel_digest) == KELPIE_CHECKSUM_TEXT_BYTES, "written whole");
    int file = manifest->kernel_digest[0] == '\0'
                   ? worker_open(os, KELPIE_OS_CWD, worker->options->kernel, NULL)
                   : KELPIE_OS_NO_HANDLE;
    if (file < 0) {
        return;
    }
    if (kelpie__os_stat(os, file, "", false, &stat) == 0 && stat.size_bytes > 0 &&
        stat.size_bytes <= WORKER_KERNEL_BYTES_MAX) {
        size_t count = (size_t)stat.size_bytes;
        uint8_t *bytes = kelpie__alloc(os, count);
        size_t done = 0;
        int64_t got = 1;
        while (bytes != NULL && done < count && got > 0) { /* bound: every turn reads a byte */
            got = kelpie__os_pread(os, file, bytes + done, count - done, done);
            done += got > 0 ? (size_t)got : 0;
            KELPIE_ASSERT(done <= count);
        }
        if (done == count) {
            kelpie__checksum_text(bytes, count, manifest->kernel_digest);
        }
        kelpie__free(os, bytes, count);
    }
    kelpie__ignore(kelpie__os_close(os, file));
}

/* ---- jobs ------------------------------------------------------------------------------------ */

/* The new layer over the VM's disk is as durable as what it lies over. */
static int worker_sync_vm(struct worker *worker, struct kelpie_error *error) {
    char name[256];
    uint64_t cursor = 0;
    int status = 0;
    KELPIE_ASSERT(worker->options->is_synced);
    /* bound: the directory */
    while (status == 0 &&
           kelpie__os_list(worker->os, worker->vm, &cursor, name, sizeof(name)) == 1) {
        if (!kelpie__text_has_prefix(name, "disk-")) {
            continue;
        }
        int file = worker_open(worker->os, worker->vm, name, error);
        if (file < 0) {
            return file;
        }
        status = kelpie__os_sync(worker->os, file);
        kelpie__ignore(kelpie__os_close(worker->os, file));
    }
    status = status < 0 ? status : kelpie__os_sync(worker->os, worker->vm);
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "sync the VM's directory") : 0;
}

/* What was under the VM's memory and disk at an earlier snapshot, or when it was restored, is not
 * read again. */
static int worker_sum(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_snapshot *snapshot = worker->snapshot;
    struct kelpie_sums known;
    kelpie__snapshot_check(snapshot);
    kelpie__sums_load(&known, worker->os, worker->vm);
    const struct kelpie_seal_options options = {.is_synced = worker->options->is_synced,
                                                .known = &known};
    int status =
        kelpie__seal(worker->os, snapshot->directory, &snapshot->manifest, &options, error);
    kelpie__sums_unload(&known);
    return status;
}

/* What is known from now on: for the VM's next snapshot, and of this one when VMs are to be made of
 * it at once. */
static void worker_remember(const struct worker *worker) {
    const struct kelpie_snapshot *snapshot = worker->snapshot;
    KELPIE_ASSERT(snapshot->manifest.checksum[0] != '\0');
    kelpie__sums_keep(worker->os, worker->vm, snapshot->directory, &snapshot->manifest);
    if (worker->options->is_transient) {
        kelpie__seal_remember(worker->os, snapshot->directory, &snapshot->manifest, true);
    }
}

static int worker_finish(struct worker *worker, struct kelpie_error *error) {
    struct kelpie_snapshot *snapshot = worker->snapshot;
    bool is_synced = worker->options->is_synced;
    KELPIE_ASSERT(snapshot->is_temporary);
    int status = worker_sum(worker, error);
    for (uint32_t i = 0; i < snapshot->manifest.file_count; i += 1) {
        const char *name = snapshot->manifest.files[i].name;
        if (worker_is_written(name)) {
            worker_count(worker, name, KELPIE_OS_NO_HANDLE);
        }
    }
    worker_count(worker, KELPIE_SEAL_FILE, KELPIE_OS_NO_HANDLE);
    snapshot->manifest.stored_bytes = worker->own_bytes;
    if (status == 0) {
        status = kelpie__manifest_write(worker->os, snapshot->directory, &snapshot->manifest,
                                        is_synced, error);
    }
    if (status == 0 && worker_merges(worker)) { /* without it the VM goes on over what it has */
        kelpie__source_lay(snapshot, worker->options->merged, worker->vm);
    }
    if (status == 0 && is_synced && worker->draft.disk_count > 0) {
        status = worker_sync_vm(worker, error);
    }
    if (status == 0) {
        worker_remember(worker);
        status = kelpie__snapshot_publish(snapshot, is_synced, error);
    }
    KELPIE_ASSERT(status < 0 || !snapshot->is_temporary);
    return status;
}

int kelpie__worker_seal(struct kelpie_snapshot *snapshot,
                        const struct kelpie_worker_options *options, int base,
                        struct kelpie_error *error) {
    struct worker worker = {
        .os = snapshot->store->os, .snapshot = snapshot, .options = options, .base = base};
    kelpie__snapshot_check(snapshot);
    KELPIE_ASSERT(snapshot->is_temporary);
    worker.vm = kelpie__os_open(worker.os, KELPIE_OS_CWD, options->vm,
                                KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (worker.vm < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -worker.vm, "open \"%s\"", options->vm);
    }
    int status = worker_take_files(&worker, error);
    if (status == 0) {
        status = worker_memory(&worker, error);
    }
    if (status == 0 && !kelpie__text_equal(options->job, KELPIE_WORKER_TEMPLATE)) {
        status = worker_copy_config(&worker, error); /* a template's was written for it */
    }
    if (status == 0) {
        worker_kernel(&worker);
        status = worker_finish(&worker, error);
    }
    kelpie__ignore(kelpie__os_close(worker.os, worker.vm));
    return status;
}
