/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Disks of a guest: an image is a list of files (guest.h, "Images of root file systems"), which
 * become files of the guest when it is mounted. A writable layer's file on the host gets the
 * guest's files when the guest says sync, at the beginning of the disk: a raw one there, a qcow2
 * one in clusters of its own; one that never got any shows those of the layer below.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "sim/guest_state.h"

#define DISK_MAGIC "KELPIE-SIM-ROOT\n"
#define DISK_LINE_BYTES 512u
#define DISK_FILES_MAX 4096u
#define DISK_UPPER "upper"
#define DISK_QCOW2_MAGIC "QFI\xfb"
#define DISK_QCOW2_OFFSET (UINT64_C(1) << 20) /* of the clusters, far behind what was there */
#define DISK_QCOW2_IS_OWN (UINT64_C(1) << 63) /* of this layer alone: written in place */
#define DISK_QCOW2_HEAD_BYTES 48u
#define DISK_CLUSTERS_MAX 2048u
#define DISK_LAYERS_MAX 64u
#define DISK_BLOCK 4096u
#define DISK_LAYER_BYTES (UINT64_C(1) << 20) /* what a layer, or an image, holds at most */

/* ---- reading --------------------------------------------------------------------------------- */

static bool disk_is_qcow2(struct sim_disk *host, const char *path) {
    char magic[4] = "";
    return kelpie__sim_disk_peek(host, false, path, magic, sizeof(magic)) >= 4 &&
           memcmp(magic, DISK_QCOW2_MAGIC, sizeof(magic)) == 0;
}

static uint64_t disk_number(const uint8_t *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; i += 1) {
        value = value << 8 | bytes[i];
    }
    return value;
}

/* `inout` becomes the path of the layer below, which is named beside it. */
static bool disk_below(struct sim_disk *host, char inout[SIM_PATH_BYTES_MAX]) {
    uint8_t head[20];
    char name[256] = "";
    char *slash = strrchr(inout, '/');
    if (slash == NULL ||
        kelpie__sim_disk_peek(host, false, inout, head, sizeof(head)) < (int64_t)sizeof(head)) {
        return false;
    }
    uint64_t offset = disk_number(&head[8], 8);
    uint64_t length = disk_number(&head[16], 4);
    if (offset == 0 || length == 0 || length >= sizeof(name) ||
        kelpie__sim_disk_peek_at(host, inout, offset, name, (size_t)length) != (int64_t)length) {
        return false;
    }
    size_t room = SIM_PATH_BYTES_MAX - (size_t)(slash + 1 - inout);
    return kelpie__text_copy(name[0] == '/' ? inout : slash + 1,
                             name[0] == '/' ? SIM_PATH_BYTES_MAX : room, name);
}

static uint64_t disk_cluster_bytes(struct sim_disk *host, const char *path) {
    uint8_t head[DISK_QCOW2_HEAD_BYTES] = {0};
    kelpie__ignore(kelpie__sim_disk_peek(host, false, path, head, sizeof(head)));
    uint64_t bits = disk_number(&head[20], 4);
    return UINT64_C(1) << (bits >= 9 && bits <= 21 ? bits : 16);
}

/* The uppermost layer that has files; without one, the lowest. Gives where its files begin: behind
 * the table of its clusters. */
static uint64_t disk_layer(struct sim_disk *host, char inout[SIM_PATH_BYTES_MAX]) {
    for (uint32_t i = 0; i < DISK_LAYERS_MAX && disk_is_qcow2(host, inout); i += 1) {
        if (kelpie__sim_disk_peek(host, false, inout, NULL, 0) > (int64_t)DISK_QCOW2_OFFSET) {
            return DISK_QCOW2_OFFSET + disk_cluster_bytes(host, inout);
        }
        if (!disk_below(host, inout)) {
            break;
        }
    }
    return 0;
}

/* The files of a disk; NULL: there is none, or no memory. */
static char *disk_load(struct sim_guest *guest, const char *path, size_t *out_count) {
    struct sim_disk *host = kelpie__sim_world_disk(guest->world);
    char layer[SIM_PATH_BYTES_MAX];
    char head[sizeof(DISK_MAGIC)] = "";
    if (!kelpie__text_copy(layer, sizeof(layer), path)) {
        return NULL;
    }
    uint64_t offset = disk_layer(host, layer);
    int64_t size = kelpie__sim_disk_peek(host, false, layer, NULL, 0);
    if (size < 0) {
        return NULL;
    }
    int64_t got = kelpie__sim_disk_peek_at(host, layer, offset, head, sizeof(DISK_MAGIC) - 1);
    if (got < (int64_t)sizeof(DISK_MAGIC) - 1 || strcmp(head, DISK_MAGIC) != 0) {
        size = (int64_t)offset; /* a layer as mke2fs leaves it: large, holes but for some blocks */
    }
    size_t count = (size_t)kelpie__min_u64((uint64_t)size - offset, DISK_LAYER_BYTES);
    char *bytes = malloc(count + 1);
    if (bytes != NULL) {
        kelpie__ignore(kelpie__sim_disk_peek_at(host, layer, offset, bytes, count));
        bytes[count] = '\0';
        *out_count = count;
    }
    return bytes;
}

struct disk_entry {
    char kind; /* d, f, l */
    uint32_t mode;
    size_t count;
    char path[256];
    const char *bytes;
};

static uint32_t disk_octal(const char *text) {
    uint32_t value = 0;
    for (const char *at = text; *at >= '0' && *at <= '7' && value < 010000; at += 1) {
        value = value * 8 + (uint32_t)(*at - '0');
    }
    return value;
}

/* "KIND MODE SIZE PATH\n" and the bytes; moves *inout behind them. False at the end. */
static bool disk_next(const char **inout, const char *end, struct disk_entry *out) {
    char line[DISK_LINE_BYTES];
    char *words[3];
    const char *newline = memchr(*inout, '\n', (size_t)(end - *inout));
    uint64_t count = 0;
    if (newline == NULL || (size_t)(newline - *inout) >= sizeof(line)) {
        return false;
    }
    size_t length = (size_t)(newline - *inout);
    memcpy(line, *inout, length);
    line[length] = '\0';
    char *at = line;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(words); i += 1) {
        words[i] = at;
        at = strchr(at, ' ');
        if (at == NULL) {
            return false;
        }
        *at = '\0';
        at += 1;
    }
    if (at[0] != '/' || !kelpie__text_copy(out->path, sizeof(out->path), at) ||
        !kelpie__text_u64(words[2], &count) || count > (uint64_t)(end - newline - 1)) {
        return false;
    }
    out->kind = words[0][0];
    out->mode = disk_octal(words[1]);
    out->count = (size_t)count;
    out->bytes = newline + 1;
    *inout = newline + 1 + count;
    return true;
}

static int disk_put(struct sim_disk *disk, const struct disk_entry *entry) {
    char target[256];
    switch (entry->kind) {
    case 'd':
        return kelpie__sim_disk_put_directory(disk, entry->path, entry->mode);
    case 'l':
        if (entry->count >= sizeof(target)) {
            return -ENAMETOOLONG;
        }
        memcpy(target, entry->bytes, entry->count);
        target[entry->count] = '\0';
        return kelpie__sim_disk_put_link(disk, entry->path, target);
    default:
        return kelpie__sim_disk_put(disk, entry->path, entry->mode, entry->bytes, entry->count);
    }
}

int kelpie__sim_guest_disk_mount(struct sim_guest *guest, uint32_t index) {
    struct sim_kernel_disk *disk = &guest->kernel->disks[index];
    size_t count = 0;
    KELPIE_ASSERT(index < guest->kernel->disk_count);
    char *bytes = disk_load(guest, disk->path, &count);
    if (bytes == NULL) {
        return -EIO;
    }
    bool is_layer = strcmp(disk->serial, DISK_UPPER) == 0;
    bool is_image =
        count >= strlen(DISK_MAGIC) && memcmp(bytes, DISK_MAGIC, strlen(DISK_MAGIC)) == 0;
    int status = is_image || is_layer ? 0 : -EINVAL; /* a new layer has no file yet */
    const char *at = bytes + (is_image ? strlen(DISK_MAGIC) : count);
    struct disk_entry entry;
    while (status == 0 && disk_next(&at, bytes + count, &entry)) {
        status = disk_put(guest->machine->disk, &entry);
        status = status == -EEXIST ? 0 : status; /* builtin programs stay */
    }
    free(bytes);
    disk->is_mounted = status == 0 && !disk->is_read_only;
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

struct disk_writer {
    char *bytes;
    size_t count;
    size_t capacity;
    bool has_failed;
};

static void writer_add(struct disk_writer *writer, const void *bytes, size_t count) {
    if (count > writer->capacity - writer->count && !writer->has_failed) {
        size_t capacity = (writer->count + count) * 2 + 4096;
        char *bigger = realloc(writer->bytes, capacity);
        writer->has_failed = bigger == NULL;
        writer->bytes = bigger == NULL ? writer->bytes : bigger;
        writer->capacity = bigger == NULL ? writer->capacity : capacity;
    }
    if (!writer->has_failed && count > 0) {
        memcpy(writer->bytes + writer->count, bytes, count);
        writer->count += count;
    }
}

static bool disk_is_kept(const char *path) {
    static const char *const others[] = {"/bin",  "/dev", "/proc", "/sys",     "/run",
                                         "/sbin", "/usr", "/init", "/.kelpie", "/tmp"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(others); i += 1) {
        size_t length = strlen(others[i]);
        bool is_below =
            strncmp(path, others[i], length) == 0 && (path[length] == '\0' || path[length] == '/');
        if (is_below) {
            return false;
        }
    }
    return true;
}

static void disk_write_file(struct disk_writer *writer, struct sim_disk *disk, const char *path,
                            int64_t size) {
    char line[DISK_LINE_BYTES];
    int length = snprintf(line, sizeof(line), "f 644 %lld %s\n", (long long)size, path);
    char *bytes = malloc((size_t)size + 1);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(line));
    if (bytes == NULL) {
        writer->has_failed = true;
        return;
    }
    int64_t count = kelpie__sim_disk_peek(disk, false, path, bytes, (size_t)size);
    KELPIE_ASSERT(count == size);
    writer_add(writer, line, (size_t)length);
    writer_add(writer, bytes, (size_t)count);
    free(bytes);
}

/* Every file of the guest that is its own, directory by directory: those found wait in a list. */
static void disk_write_all(struct disk_writer *writer, struct sim_disk *disk, char (*paths)[256]) {
    uint32_t count = 1;
    paths[0][0] = '\0';
    for (uint32_t i = 0; i < count; i += 1) {
        char name[256];
        uint64_t cursor = 0;
        while (kelpie__sim_disk_walk(disk, paths[i][0] == '\0' ? "/" : paths[i], &cursor, name)) {
            char path[256];
            if (!kelpie__text_format(path, sizeof(path), "%s/%s", paths[i], name) ||
                !disk_is_kept(path)) {
                continue;
            }
            int64_t size = kelpie__sim_disk_peek(disk, false, path, NULL, 0);
            if (size >= 0) {
                disk_write_file(writer, disk, path, size);
            } else if (count < DISK_FILES_MAX) {
                memcpy(paths[count], path, sizeof(path));
                count += 1;
            }
        }
    }
}

static void disk_store(uint8_t out[8], uint64_t value) {
    for (uint32_t i = 0; i < 8; i += 1) {
        out[i] = (uint8_t)(value >> (56 - 8 * i));
    }
}

/* Both tables of a qcow2 layer, so that what reads it as an image finds the bytes, too. */
static int disk_flush_tables(struct sim_disk *host, const char *path, size_t count) {
    uint8_t head[DISK_QCOW2_HEAD_BYTES] = {0};
    uint8_t first[8];
    uint8_t second[DISK_CLUSTERS_MAX * sizeof(first)];
    uint64_t cluster = disk_cluster_bytes(host, path);
    size_t clusters = (count + cluster - 1) / cluster;
    KELPIE_ASSERT(clusters > 0 && clusters <= DISK_CLUSTERS_MAX);
    kelpie__ignore(kelpie__sim_disk_peek(host, false, path, head, sizeof(head)));
    disk_store(first, DISK_QCOW2_OFFSET | DISK_QCOW2_IS_OWN);
    for (size_t i = 0; i < clusters; i += 1) {
        disk_store(&second[i * sizeof(first)],
                   (DISK_QCOW2_OFFSET + (i + 1) * cluster) | DISK_QCOW2_IS_OWN);
    }
    int status =
        kelpie__sim_disk_flush(host, path, disk_number(&head[40], 8), first, sizeof(first));
    return status < 0 ? status
                      : kelpie__sim_disk_flush(host, path, DISK_QCOW2_OFFSET, second,
                                               clusters * sizeof(first));
}

/* At the beginning of the disk that this layer is the uppermost of. */
static int disk_flush(struct sim_disk *host, const char *path, const char *bytes, size_t count) {
    bool is_qcow2 = disk_is_qcow2(host, path);
    uint64_t offset = is_qcow2 ? DISK_QCOW2_OFFSET + disk_cluster_bytes(host, path) : 0;
    if (count > DISK_LAYER_BYTES) {
        return -ENOSPC;
    }
    int status = is_qcow2 ? disk_flush_tables(host, path, count) : 0;
    return status < 0 ? status : kelpie__sim_disk_flush(host, path, offset, bytes, count);
}

int kelpie__sim_guest_disk_sync(struct sim_guest *guest) {
    const struct sim_kernel *kernel = guest->kernel;
    const struct sim_kernel_disk *layer = NULL;
    for (uint32_t i = 0; i < kernel->disk_count; i += 1) {
        bool is_layer = strcmp(kernel->disks[i].serial, DISK_UPPER) == 0;
        layer = is_layer ? &kernel->disks[i] : layer;
    }
    if (layer == NULL || !layer->is_mounted) {
        return 0;
    }
    static const char blanks[DISK_BLOCK] = "";
    struct sim_disk *host = kelpie__sim_world_disk(guest->world);
    struct disk_writer writer = {0};
    char(*paths)[256] = malloc((size_t)DISK_FILES_MAX * sizeof(*paths));
    writer.has_failed = paths == NULL;
    writer_add(&writer, DISK_MAGIC, strlen(DISK_MAGIC));
    if (!writer.has_failed) {
        disk_write_all(&writer, guest->machine->disk, paths);
        writer_add(&writer, blanks, DISK_BLOCK - writer.count % DISK_BLOCK);
    }
    int status =
        writer.has_failed ? -EIO : disk_flush(host, layer->path, writer.bytes, writer.count);
    free(paths);
    free(writer.bytes);
    return status;
}

void kelpie__sim_guest_move_disk(struct sim_guest *guest, const char *serial, const char *path) {
    struct sim_kernel *kernel = guest->kernel;
    kelpie__sim_guest_slot_enter(guest); /* another one may lie there */
    KELPIE_ASSERT(kernel->disk_count <= SIM_KERNEL_DISK_MAX);
    for (uint32_t i = 0; i < kernel->disk_count; i += 1) {
        struct sim_kernel_disk *disk = &kernel->disks[i];
        if (strcmp(disk->serial, serial) == 0) {
            bool fits = kelpie__text_copy(disk->path, sizeof(disk->path), path);
            KELPIE_ASSERT(fits);
        }
    }
}
