/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Reading files, compressed or not. libarchive knows every compression that kernels and their
 * modules come in, among them the old LZ4 format of kernel images, which no lz4 library reads.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pack/pack.h"

#define INPUT_EXPANSION_MAX                                                                        \
    (256u * 1024u * 1024u) /* a kernel has 60 MB, a module less than one                           \
                            */

/* Where decompressed bytes go: into a file, or into memory. */
struct input_sink {
    int file; /* -1: memory */
    struct kelpie_pack_bytes *memory;
    uint64_t count;
    uint64_t count_max;
};

static_assert(INPUT_EXPANSION_MAX >= KELPIE_PACK_PROGRAM_BYTES_MAX, "a program may be packed");

static void input_sink_check(const struct input_sink *sink) {
    KELPIE_ASSERT(sink->count <= sink->count_max);
    KELPIE_ASSERT((sink->file < 0) == (sink->memory != NULL)); /* one or the other */
    if (sink->memory != NULL) {
        KELPIE_ASSERT(sink->memory->count == sink->count);
    }
}

static int input_read_plain(const char *path, size_t bytes_max, struct kelpie_pack_bytes *out) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    KELPIE_ASSERT(bytes_max > 0 && bytes_max < SIZE_MAX);
    if (file < 0 || fstat(file, &stat) < 0) {
        int error_number = errno;
        if (file >= 0) {
            close(file);
        }
        return kelpie__pack_fail(error_number, "open \"%s\"", path);
    }
    if (!S_ISREG(stat.st_mode) || stat.st_size < 0 || (uint64_t)stat.st_size > bytes_max) {
        close(file);
        return kelpie__pack_fail(0, "\"%s\" is no file, or larger than %zu bytes", path, bytes_max);
    }
    size_t size = (size_t)stat.st_size;
    uint8_t *bytes = malloc(size + 1); /* never of zero bytes */
    size_t count = 0;
    ssize_t result = bytes == NULL ? -1 : 1;
    while (result > 0 && count < size) {
        result = read(file, bytes + count, size - count);
        count += result > 0 ? (size_t)result : 0;
    }
    int error_number = errno;
    close(file);
    if (result < 0) {
        free(bytes);
        return kelpie__pack_fail(error_number, "read \"%s\"", path);
    }
    out->bytes = bytes;
    out->count = count;
    KELPIE_ASSERT(count <= bytes_max);
    return KELPIE_PACK_OK;
}

static bool input_sink_take(struct input_sink *sink, const void *bytes, size_t count) {
    input_sink_check(sink);
    if (count > sink->count_max - sink->count) {
        count = (size_t)(sink->count_max - sink->count);
    }
    if (sink->file >= 0) {
        if (count > 0 && !kelpie__pack_write(sink->file, bytes, count)) {
            return false;
        }
    } else {
        uint8_t *grown = realloc(sink->memory->bytes, sink->memory->count + count + 1);
        if (grown == NULL) {
            return false;
        }
        memcpy(grown + sink->memory->count, bytes, count);
        sink->memory->bytes = grown;
        sink->memory->count += count;
    }
    sink->count += count;
    input_sink_check(sink);
    return true;
}

/* Moves everything over, or as much as the sink takes. */
static int input_pump(struct archive *archive, struct input_sink *sink, const char *what) {
    struct archive_entry *entry = NULL;
    int status = archive_read_next_header(archive, &entry);
    bool is_more = status == ARCHIVE_OK;
    while (is_more && sink->count < sink->count_max) {
        const void *bytes = NULL;
        size_t count = 0;
        int64_t offset = 0;
        status = archive_read_data_block(archive, &bytes, &count, &offset);
        is_more = status == ARCHIVE_OK;
        if (is_more && !input_sink_take(sink, bytes, count)) {
            return kelpie__pack_fail(errno, "write what \"%s\" holds", what);
        }
    }
    if (status != ARCHIVE_OK && status != ARCHIVE_EOF) {
        return kelpie__pack_fail(0, "decompress \"%s\": %s", what, archive_error_string(archive));
    }
    return KELPIE_PACK_OK;
}

static int input_decompress(const uint8_t *bytes, size_t count, struct input_sink *sink,
                            const char *what) {
    input_sink_check(sink);
    KELPIE_ASSERT(bytes != NULL);
    KELPIE_ASSERT(count > 0);
    struct archive *archive = archive_read_new();
    if (archive == NULL) {
        return kelpie__pack_fail(ENOMEM, "decompress \"%s\"", what);
    }
    int status = KELPIE_PACK_OK;
    if (archive_read_support_filter_all(archive) < ARCHIVE_WARN ||
        archive_read_support_format_raw(archive) != ARCHIVE_OK ||
        archive_read_open_memory(archive, bytes, count) != ARCHIVE_OK) {
        status = kelpie__pack_fail(0, "decompress \"%s\": %s", what, archive_error_string(archive));
    } else {
        status = input_pump(archive, sink, what);
    }
    archive_read_free(archive);
    return status;
}

int kelpie__pack_decompress(const uint8_t *bytes, size_t count, uint64_t bytes_expected, int to,
                            const char *what) {
    KELPIE_ASSERT(to >= 0);
    KELPIE_ASSERT(bytes_expected > 0);
    if (bytes_expected > INPUT_EXPANSION_MAX) {
        return kelpie__pack_fail(0, "\"%s\" would have %llu bytes, the limit is %u", what,
                                 (unsigned long long)bytes_expected, INPUT_EXPANSION_MAX);
    }
    struct input_sink sink = {.file = to, .count_max = bytes_expected};
    int status = input_decompress(bytes, count, &sink, what);
    KELPIE_ASSERT(sink.count <= bytes_expected);
    if (status == KELPIE_PACK_OK && sink.count != bytes_expected) {
        return kelpie__pack_fail(0, "\"%s\" holds %llu bytes and not %llu: it is damaged", what,
                                 (unsigned long long)sink.count,
                                 (unsigned long long)bytes_expected);
    }
    return status;
}

static bool input_is_compressed(const struct kelpie_pack_bytes *bytes) {
    KELPIE_ASSERT(bytes->bytes != NULL);
    static const struct {
        const char *magic;
        size_t length;
    } formats[] = {{"\x1f\x8b", 2}, {"\xfd\x37zXZ", 5}, {"\x28\xb5\x2f\xfd", 4}};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(formats); i += 1) {
        if (bytes->count >= formats[i].length &&
            memcmp(bytes->bytes, formats[i].magic, formats[i].length) == 0) {
            return true;
        }
    }
    return false;
}

int kelpie__pack_read(const char *path, size_t bytes_max, struct kelpie_pack_bytes *out) {
    struct kelpie_pack_bytes plain = {0};
    int status = input_read_plain(path, bytes_max, &plain);
    KELPIE_ASSERT((status == KELPIE_PACK_OK) == (plain.bytes != NULL));
    if (status != KELPIE_PACK_OK || !input_is_compressed(&plain)) {
        *out = plain;
        return status;
    }
    struct kelpie_pack_bytes expanded = {0};
    struct input_sink sink = {.file = -1, .memory = &expanded, .count_max = bytes_max};
    status = input_decompress(plain.bytes, plain.count, &sink, path);
    if (status == KELPIE_PACK_OK && !input_sink_take(&sink, "", 0)) { /* there may have been none */
        status = kelpie__pack_fail(errno, "read \"%s\"", path);
    }
    free(plain.bytes);
    if (status != KELPIE_PACK_OK) {
        free(expanded.bytes);
        return status;
    }
    KELPIE_ASSERT(expanded.bytes != NULL);
    KELPIE_ASSERT(expanded.count <= bytes_max);
    *out = expanded;
    return KELPIE_PACK_OK;
}
